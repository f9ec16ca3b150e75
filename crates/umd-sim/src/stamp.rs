//! What simulated hosts write: every sector says where it belongs and which write made it.
//!
//! ```text
//!   word 0       array sector ^ key     all words depend on (sector, version), and not linearly:
//!   word 1       version ^ key          the xor of valid sectors is not valid, so a wrong
//!   word 2..63   multiply-mix of both   reconstruction never passes for content
//! ```

use crate::rng::mix;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
const KEY: u64 = 0x756d_645f_7369_6d21;

/// What a sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Zero,
    /// A whole stamp.
    Stamp {
        /// The array sector it was written to.
        sector: u64,
        /// The write that made it.
        version: u64,
    },
    /// Anything else, by its hash.
    Other(u64),
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let at = index * 8;
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Word `index` of a stamp; words do not wait for each other.
fn filling(base: u64, index: u64) -> u64 {
    (base ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_mul(0xd6e8_feb8_6659_fd93)
        .rotate_left(29)
}

fn base(sector: u64, version: u64) -> u64 {
    mix(sector ^ mix(version))
}

/// Fills one sector.
pub fn stamp(out: &mut [u8], sector: u64, version: u64) {
    assert_eq!(out.len(), SECTOR, "a stamp fills one sector");
    out[0..8].copy_from_slice(&(sector ^ KEY).to_le_bytes());
    out[8..16].copy_from_slice(&(version ^ KEY).to_le_bytes());
    let base = base(sector, version);
    for (index, piece) in out.chunks_exact_mut(8).enumerate().skip(2) {
        piece.copy_from_slice(&filling(base, index as u64).to_le_bytes());
    }
}

/// Fills consecutive sectors from `sector` on.
pub fn stamp_all(out: &mut [u8], sector: u64, version: u64) {
    for (index, piece) in out.chunks_exact_mut(SECTOR).enumerate() {
        stamp(piece, sector + index as u64, version);
    }
}

/// Recognises a sector.
pub fn recognise(bytes: &[u8]) -> Content {
    assert_eq!(bytes.len(), SECTOR, "sectors are recognised one by one");
    let (sector, version) = (word(bytes, 0) ^ KEY, word(bytes, 1) ^ KEY);
    let base = base(sector, version);
    if filling(base, 2) == word(bytes, 2) {
        let wrong = (2..64).fold(0, |wrong, index| {
            wrong | (filling(base, index as u64) ^ word(bytes, index))
        });
        if wrong == 0 {
            return Content::Stamp { sector, version };
        }
    }
    if (0..64).fold(0, |all, index| all | word(bytes, index)) == 0 {
        return Content::Zero;
    }
    Content::Other((0..64).fold(0, |hash, index| mix(hash ^ word(bytes, index))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(sector: u64, version: u64) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        stamp(&mut bytes, sector, version);
        bytes
    }

    #[test]
    fn a_stamp_is_recognised_and_every_changed_byte_is_noticed() {
        let good = stamped(77, 5);
        let (sector, version) = (77, 5);
        assert_eq!(recognise(&good), Content::Stamp { sector, version });
        for at in 0..SECTOR {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(matches!(recognise(&bad), Content::Other(_)), "byte {at}");
        }
        assert_eq!(recognise(&[0; SECTOR]), Content::Zero);
    }

    #[test]
    fn sums_and_mixtures_of_stamps_are_not_stamps() {
        let (a, b, c) = (stamped(1, 1), stamped(2, 2), stamped(3, 3));
        let mut sum = a;
        for at in 0..SECTOR {
            sum[at] ^= b[at] ^ c[at];
        }
        assert!(matches!(recognise(&sum), Content::Other(_)));
        let mut half = a;
        half[256..].copy_from_slice(&stamped(1, 2)[256..]);
        assert!(matches!(recognise(&half), Content::Other(_)));
    }
}
