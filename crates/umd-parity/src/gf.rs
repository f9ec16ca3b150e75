//! The field GF(2^8) of raid6: polynomial 0x11d, generator 2, addition is xor.
//!
//! ```text
//!   i        0  1  2  3  4  5  6  7  8  9 10 11 ..  254  255
//!   2^i     01 02 04 08 10 20 40 80 1d 3a 74 e8 ..   8e   01   (hex; the powers repeat after 255)
//! ```
//!
//! Single bytes only, for coefficients; the byte streams go through the kernels.

/// x^8 + x^4 + x^3 + x^2 + 1, the polynomial md reduces by.
pub const POLYNOMIAL: u16 = 0x11d;

/// The low byte of [`POLYNOMIAL`]: what is xored in when doubling shifts a bit out.
pub(crate) const REDUCE: u8 = (POLYNOMIAL & 0xff) as u8;

/// Data columns a row of raid6 can have: the powers of the generator repeat after this many.
pub const COLUMNS_MAX: usize = 255;

/// `POWERS[i]` is 2^i, for i in 0..=255.
const POWERS: [u8; 256] = powers();

/// `LOGS[POWERS[i]]` is i, for i in 0..255. `LOGS[0]` is not meaningful.
const LOGS: [u8; 256] = logs();

const fn powers() -> [u8; 256] {
    let mut table = [1u8; 256];
    let mut i = 1;
    while i < 256 {
        table[i] = double(table[i - 1]);
        i += 1;
    }
    table
}

const fn logs() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < COLUMNS_MAX {
        table[POWERS[i] as usize] = i as u8;
        i += 1;
    }
    table
}

/// 2 * a.
pub const fn double(a: u8) -> u8 {
    (a << 1) ^ if a & 0x80 != 0 { REDUCE } else { 0 }
}

/// 2^exponent; negative exponents are inverses.
pub const fn pow(exponent: i32) -> u8 {
    POWERS[exponent.rem_euclid(COLUMNS_MAX as i32) as usize]
}

/// a * b.
pub const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    pow(LOGS[a as usize] as i32 + LOGS[b as usize] as i32)
}

/// The b with a * b = 1.
///
/// # Panics
/// If `a` is 0, which has no inverse.
pub const fn inverse(a: u8) -> u8 {
    assert!(a != 0, "parity: 0 has no inverse in GF(2^8)");
    pow(-(LOGS[a as usize] as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_powers() {
        let known = [
            0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1d, 0x3a, 0x74, 0xe8, 0xcd, 0x87,
            0x13, 0x26, 0x4c,
        ];
        for (i, expected) in known.into_iter().enumerate() {
            assert_eq!(pow(i as i32), expected, "2^{i}");
        }
        assert_eq!(pow(254), 0x8e);
        assert_eq!(pow(255), 1);
        assert_eq!(pow(-1), 0x8e);
        assert_eq!(double(0x80), 0x1d);
        assert_eq!(mul(0x53, 0xca), 0x8f);
        assert_eq!(inverse(2), 0x8e);
    }

    /// Against long multiplication, which shares no table with `mul`.
    #[test]
    fn mul_is_polynomial_multiplication() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let mut wide = 0u16;
                for bit in 0..8 {
                    wide ^= if b >> bit & 1 == 1 {
                        u16::from(a) << bit
                    } else {
                        0
                    };
                }
                for bit in (8..16).rev() {
                    wide ^= if wide >> bit & 1 == 1 {
                        POLYNOMIAL << (bit - 8)
                    } else {
                        0
                    };
                }
                assert_eq!(u16::from(mul(a, b)), wide, "{a:#x} * {b:#x}");
            }
        }
    }

    #[test]
    fn every_inverse_and_every_power_is_distinct() {
        let mut seen = [false; 256];
        for a in 1..=255u8 {
            assert_eq!(mul(a, inverse(a)), 1);
            let power = pow(i32::from(a) - 1) as usize;
            assert!(!std::mem::replace(&mut seen[power], true));
        }
    }

    #[test]
    #[should_panic(expected = "0 has no inverse")]
    fn zero_has_no_inverse() {
        inverse(0);
    }
}
