//! What a kernel is made of: a vector of bytes with xor, doubling and multiplication in GF(2^8).
//!
//! | vector    | bytes | doubling                    | multiplication by a constant   |
//! |-----------|-------|-----------------------------|--------------------------------|
//! | `Byte`    | 1     | shift, reduce               | table of logarithms            |
//! | `Swar`    | 16    | shift, mask, reduce on u64s | a product per bit of the data    |
//! | `Ssse3`   | 16    | compare, add, reduce        | two 16-entry nibble shuffles   |
//! | `Avx2`    | 32    | compare, add, reduce        | two 16-entry nibble shuffles   |
//! | `Gfni256` | 32    | one affine transformation   | one affine transformation      |
//! | `Gfni512` | 64    | one affine transformation   | one affine transformation      |
//!
//! A value of a vector type can only be made by `zero` and `load`, both unsafe because they want
//! the instructions to exist; so holding a value proves that they do, and the arithmetic is safe.

use crate::gf;

/// A fixed number of bytes, each an element of GF(2^8).
///
/// Every method is `inline(always)`: it becomes part of a function compiled for the instructions
/// it uses (see `dispatch`).
pub(crate) trait Vector: Copy {
    /// Bytes in one vector.
    const BYTES: usize;

    /// All bytes zero.
    ///
    /// # Safety
    /// The CPU has the vector's instructions.
    unsafe fn zero() -> Self;

    /// Reads `BYTES` bytes; any alignment.
    ///
    /// # Safety
    /// `from` is valid for reading `BYTES` bytes, and the CPU has the vector's instructions.
    unsafe fn load(from: *const u8) -> Self;

    /// Writes `BYTES` bytes; any alignment.
    ///
    /// # Safety
    /// `to` is valid for writing `BYTES` bytes.
    unsafe fn store(self, to: *mut u8);

    /// Sum, which is also the difference.
    fn xor(self, other: Self) -> Self;

    /// Each byte times 2.
    fn double(self) -> Self;

    /// Each byte times `factor`.
    fn mul(self, factor: u8) -> Self;
}

/// One byte: the tails that fill no vector.
#[derive(Clone, Copy)]
pub(crate) struct Byte(u8);

impl Vector for Byte {
    const BYTES: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(0)
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for one readable byte.
        Self(unsafe { *from })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for one writable byte.
        unsafe { *to = self.0 }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    #[inline(always)]
    fn double(self) -> Self {
        Self(gf::double(self.0))
    }

    #[inline(always)]
    fn mul(self, factor: u8) -> Self {
        Self(gf::mul(self.0, factor))
    }
}

/// Sixteen bytes in two ordinary registers: needs no instruction in particular, and compilers
/// turn it into whatever 128-bit vectors the target always has.
#[derive(Clone, Copy)]
pub(crate) struct Swar([u64; 2]);

impl Swar {
    /// The same byte in every lane of a word.
    #[inline(always)]
    const fn splat(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }

    /// `byte` in the lanes where `bits` is 1, 0 where it is 0: an ordinary product, since no lane
    /// carries into the next.
    #[inline(always)]
    fn times_bits(bits: u64, byte: u8) -> u64 {
        bits.wrapping_mul(u64::from(byte))
    }

    #[inline(always)]
    fn double_word(word: u64) -> u64 {
        let carry = (word >> 7) & Self::splat(1);
        let shifted = (word << 1) & Self::splat(0xfe);
        shifted ^ Self::times_bits(carry, gf::REDUCE)
    }
}

impl Vector for Swar {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 2])
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 readable bytes; the read asks for no alignment.
        Self(unsafe { from.cast::<[u64; 2]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for 16 writable bytes; the write asks for no alignment.
        unsafe { to.cast::<[u64; 2]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        Self([self.0[0] ^ other.0[0], self.0[1] ^ other.0[1]])
    }

    #[inline(always)]
    fn double(self) -> Self {
        Self([Self::double_word(self.0[0]), Self::double_word(self.0[1])])
    }

    #[inline(always)]
    fn mul(self, factor: u8) -> Self {
        let mut sum = [0u64; 2];
        let mut power = factor;
        for bit in 0..8 {
            for (sum, word) in sum.iter_mut().zip(self.0) {
                *sum ^= Self::times_bits((word >> bit) & Self::splat(1), power);
            }
            power = gf::double(power);
        }
        Self(sum)
    }
}
