//! Copies whose stores go past the caches, to memory at once: for large pieces that nobody reads
//! soon. An ordinary store first reads the line that it is about to overwrite, and drives others
//! out of the cache; these do neither.
//!
//! ```text
//!   dst  ..|=====================|...      up to a line of 64 bytes, and after the last one:
//!          ^ lines, streamed               ordinary stores
//! ```

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::dispatch::{Kernel, kernel};

/// Bytes of a line: what a store past the caches fills at once.
const LINE: usize = 64;

/// Copies `src` to `dst`, past the caches where this CPU can do that. Whoever reads `dst` next, on
/// whatever CPU, sees the copy.
///
/// # Panics
/// If the lengths differ.
pub fn copy_past_cache(dst: &mut [u8], src: &[u8]) {
    assert!(
        dst.len() == src.len(),
        "parity: {} bytes to copy, room for {}",
        src.len(),
        dst.len()
    );
    let head = dst.as_ptr().align_offset(LINE).min(dst.len());
    let lines = (dst.len() - head) / LINE * LINE;
    let (to_head, rest) = dst.split_at_mut(head);
    let (to_lines, to_tail) = rest.split_at_mut(lines);
    to_head.copy_from_slice(&src[..head]);
    stream(to_lines, &src[head..head + lines]);
    to_tail.copy_from_slice(&src[head + lines..]);
}

/// Copies whole lines to where one begins.
#[cfg(target_arch = "x86_64")]
fn stream(dst: &mut [u8], src: &[u8]) {
    assert!(dst.len() == src.len() && dst.len().is_multiple_of(LINE));
    assert!(dst.is_empty() || dst.as_ptr().addr().is_multiple_of(LINE));
    // SAFETY: both are so many whole lines, `dst` begins at one (just checked), and `kernel` only
    // ever answers one whose instructions this CPU has; every x86-64 has SSE2.
    unsafe {
        match kernel() {
            Kernel::Gfni512 => stream512(dst, src),
            Kernel::Avx2 | Kernel::Gfni256 => stream256(dst, src),
            Kernel::Scalar | Kernel::Ssse3 => stream128(dst, src),
        }
        // They may become visible in any order otherwise, and after what is stored next.
        _mm_sfence();
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn stream(dst: &mut [u8], src: &[u8]) {
    dst.copy_from_slice(src);
}

/// # Safety
/// Both are as many whole lines, `dst` begins at one, and the CPU has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn stream512(dst: &mut [u8], src: &[u8]) {
    let (to, from) = (dst.as_mut_ptr(), src.as_ptr());
    for at in (0..dst.len()).step_by(LINE) {
        // SAFETY: the caller vouches for the line at `at`, and that it is aligned in `dst`.
        unsafe { _mm512_stream_si512(to.add(at).cast(), _mm512_loadu_si512(from.add(at).cast())) };
    }
}

/// # Safety
/// Both are as many whole lines, `dst` begins at one, and the CPU has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn stream256(dst: &mut [u8], src: &[u8]) {
    let (to, from) = (dst.as_mut_ptr(), src.as_ptr());
    for at in (0..dst.len()).step_by(LINE / 2) {
        // SAFETY: the caller vouches for half a line at `at`, and that it is aligned in `dst`.
        unsafe { _mm256_stream_si256(to.add(at).cast(), _mm256_loadu_si256(from.add(at).cast())) };
    }
}

/// # Safety
/// Both are as many whole lines, and `dst` begins at one.
#[cfg(target_arch = "x86_64")]
unsafe fn stream128(dst: &mut [u8], src: &[u8]) {
    let (to, from) = (dst.as_mut_ptr(), src.as_ptr());
    for at in (0..dst.len()).step_by(LINE / 4) {
        // SAFETY: the caller vouches for a quarter of a line at `at`, and that it is aligned in
        // `dst`; every x86-64 has SSE2.
        unsafe { _mm_stream_si128(to.add(at).cast(), _mm_loadu_si128(from.add(at).cast())) };
    }
}
