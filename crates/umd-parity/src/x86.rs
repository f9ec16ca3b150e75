//! Vectors of x86-64: SSSE3, AVX2, AVX2 with GFNI, AVX-512 with GFNI.
//!
//! GFNI's own multiplication is fixed to the AES polynomial; its affine transformation is not:
//! multiplying by a constant is linear over the bits, so an 8x8 bit matrix does it in any field.

use std::arch::x86_64::*;

use crate::gf;
use crate::vector::Vector;

/// `MATRICES[c]`: multiplication by c as the bit matrix GF2P8AFFINEQB takes. Byte 7 - i of the
/// word is row i: which input bits add up to output bit i.
static MATRICES: [u64; 256] = matrices();

/// `NIBBLES[c]`: c times 0x00, 0x01 .. 0x0f, then c times 0x00, 0x10 .. 0xf0.
static NIBBLES: [[u8; 32]; 256] = nibbles();

const fn matrix(factor: u8) -> u64 {
    let mut word = 0u64;
    let mut input = 0;
    while input < 8 {
        let product = gf::mul(factor, 1 << input);
        let mut output = 0;
        while output < 8 {
            if product >> output & 1 == 1 {
                word |= 1 << ((7 - output) * 8 + input);
            }
            output += 1;
        }
        input += 1;
    }
    word
}

const fn matrices() -> [u64; 256] {
    let mut table = [0u64; 256];
    let mut factor = 0;
    while factor < 256 {
        table[factor] = matrix(factor as u8);
        factor += 1;
    }
    table
}

const fn nibbles() -> [[u8; 32]; 256] {
    let mut table = [[0u8; 32]; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut i = 0;
        while i < 16 {
            table[factor][i] = gf::mul(factor as u8, i as u8);
            table[factor][16 + i] = gf::mul(factor as u8, (i as u8) << 4);
            i += 1;
        }
        factor += 1;
    }
    table
}

/// Multiplication by 2 as a bit matrix.
const DOUBLE: i64 = matrix(2) as i64;

/// 16 bytes, SSSE3.
#[derive(Clone, Copy)]
pub(crate) struct Ssse3(__m128i);

impl Vector for Ssse3 {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: every x86-64 has SSE2.
        Self(unsafe { _mm_setzero_si128() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for 16 readable bytes; every x86-64 has SSE2.
        Self(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for 16 writable bytes; every x86-64 has SSE2.
        unsafe { _mm_storeu_si128(to.cast(), self.0) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: every x86-64 has SSE2.
        Self(unsafe { _mm_xor_si128(self.0, other.0) })
    }

    #[inline(always)]
    fn double(self) -> Self {
        // SAFETY: every x86-64 has SSE2.
        unsafe {
            // As for AVX2 below.
            let carry = _mm_cmpgt_epi8(_mm_setzero_si128(), self.0);
            let reduce = _mm_and_si128(carry, _mm_set1_epi8(gf::REDUCE as i8));
            Self(_mm_xor_si128(_mm_add_epi8(self.0, self.0), reduce))
        }
    }

    #[inline(always)]
    fn mul(self, factor: u8) -> Self {
        let table = NIBBLES[usize::from(factor)].as_ptr();
        // SAFETY: self proves SSSE3; the table of one factor has two halves of 16 bytes.
        unsafe {
            let low = _mm_loadu_si128(table.cast());
            let high = _mm_loadu_si128(table.add(16).cast());
            let nibble = _mm_set1_epi8(0x0f);
            let low_index = _mm_and_si128(self.0, nibble);
            let high_index = _mm_and_si128(_mm_srli_epi16::<4>(self.0), nibble);
            Self(_mm_xor_si128(
                _mm_shuffle_epi8(low, low_index),
                _mm_shuffle_epi8(high, high_index),
            ))
        }
    }
}

/// 32 bytes, AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256i);

impl Vector for Avx2 {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX2.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for AVX2 and 32 readable bytes.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for 32 writable bytes; self proves AVX2.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: self proves AVX2.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    fn double(self) -> Self {
        // SAFETY: self proves AVX2.
        unsafe {
            // A byte with its top bit set is negative: 0 > byte makes the mask of those to reduce.
            let carry = _mm256_cmpgt_epi8(_mm256_setzero_si256(), self.0);
            let reduce = _mm256_and_si256(carry, _mm256_set1_epi8(gf::REDUCE as i8));
            Self(_mm256_xor_si256(_mm256_add_epi8(self.0, self.0), reduce))
        }
    }

    #[inline(always)]
    fn mul(self, factor: u8) -> Self {
        let table = NIBBLES[usize::from(factor)].as_ptr();
        // SAFETY: self proves AVX2; the table of one factor has two halves of 16 bytes.
        unsafe {
            let low = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast()));
            let high = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(16).cast()));
            let nibble = _mm256_set1_epi8(0x0f);
            let low_index = _mm256_and_si256(self.0, nibble);
            let high_index = _mm256_and_si256(_mm256_srli_epi16::<4>(self.0), nibble);
            Self(_mm256_xor_si256(
                _mm256_shuffle_epi8(low, low_index),
                _mm256_shuffle_epi8(high, high_index),
            ))
        }
    }
}

/// 32 bytes, AVX2 and GFNI.
#[derive(Clone, Copy)]
pub(crate) struct Gfni256(__m256i);

impl Vector for Gfni256 {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX2.
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for AVX2 and 32 readable bytes.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for 32 writable bytes; self proves AVX2.
        unsafe { _mm256_storeu_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: self proves AVX2.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    fn double(self) -> Self {
        // SAFETY: self proves AVX2 and GFNI.
        Self(unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(self.0, _mm256_set1_epi64x(DOUBLE)) })
    }

    #[inline(always)]
    fn mul(self, factor: u8) -> Self {
        let matrix = MATRICES[usize::from(factor)] as i64;
        // SAFETY: self proves AVX2 and GFNI.
        Self(unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(self.0, _mm256_set1_epi64x(matrix)) })
    }
}

/// 64 bytes, AVX-512F and GFNI.
#[derive(Clone, Copy)]
pub(crate) struct Gfni512(__m512i);

impl Vector for Gfni512 {
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller vouches for AVX-512F.
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self {
        // SAFETY: the caller vouches for AVX-512F and 64 readable bytes.
        Self(unsafe { _mm512_loadu_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8) {
        // SAFETY: the caller vouches for 64 writable bytes; self proves AVX-512F.
        unsafe { _mm512_storeu_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    fn xor(self, other: Self) -> Self {
        // SAFETY: self proves AVX-512F.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    fn double(self) -> Self {
        // SAFETY: self proves AVX-512F and GFNI.
        Self(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(self.0, _mm512_set1_epi64(DOUBLE)) })
    }

    #[inline(always)]
    fn mul(self, factor: u8) -> Self {
        let matrix = MATRICES[usize::from(factor)] as i64;
        // SAFETY: self proves AVX-512F and GFNI.
        Self(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(self.0, _mm512_set1_epi64(matrix)) })
    }
}
