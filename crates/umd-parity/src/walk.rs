//! The one loop all of the arithmetic is made of.
//!
//! ```text
//!               at   at + block
//!   column 0  ---|XXXX|---------     for each block of bytes, from the last column to the first:
//!   column 1  ---|XXXX|---------       p = p + d         (xor)
//!   column 2   (None: zero)            q = 2 * q + d     (Horner: after column 0, q = sum 2^i d_i)
//!   column 3  ---|XXXX|---------     then Finish gets p and q in registers and writes its result
//! ```
//!
//! A block is four vectors, so that four independent chains of doublings are under way; the rest
//! is done a vector, at the very end a byte, at a time. Every operation of this crate is a choice
//! of columns and a [`Finish`].

use crate::vector::{Byte, Vector};

/// Vectors per block.
const UNROLL: usize = 4;

/// Slices of equal length to be summed, column i having weight 2^i in q.
pub(crate) trait Columns: Copy {
    /// The columns in order; `None` is all zero but counts as a position.
    fn columns(&self) -> impl DoubleEndedIterator<Item = Option<&[u8]>>;

    /// Panics unless every column is `len` bytes long.
    fn check(&self, len: usize) {
        for (i, column) in self.columns().enumerate() {
            if let Some(column) = column {
                assert!(
                    column.len() == len,
                    "parity: data column {i} is {} bytes long, the rest {len}",
                    column.len()
                );
            }
        }
    }
}

impl Columns for &[Option<&[u8]>] {
    #[inline(always)]
    fn columns(&self) -> impl DoubleEndedIterator<Item = Option<&[u8]>> {
        self.iter().copied()
    }
}

impl Columns for &[&[u8]] {
    #[inline(always)]
    fn columns(&self) -> impl DoubleEndedIterator<Item = Option<&[u8]>> {
        self.iter().map(|column| Some(*column))
    }
}

impl<const N: usize> Columns for [&[u8]; N] {
    #[inline(always)]
    fn columns(&self) -> impl DoubleEndedIterator<Item = Option<&[u8]>> {
        self.iter().map(|column| Some(*column))
    }
}

/// What becomes of the sums.
pub(crate) trait Finish {
    /// Whether `finish` wants p; else it gets zeroes.
    const P: bool;
    /// Whether `finish` wants q; else it gets zeroes.
    const Q: bool;

    /// Panics unless every slice read or written is `len` bytes long.
    fn check(&self, len: usize);

    /// Uses the sums of the bytes from `at` on.
    ///
    /// # Safety
    /// `check(len)` passed for some `len` of at least `at + U * V::BYTES`.
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], q: [V; U]);
}

/// Sums all columns over all bytes.
///
/// # Safety
/// `columns.check(len)` and `finish.check(len)` passed, and the CPU has V's instructions.
#[inline(always)]
pub(crate) unsafe fn walk<V: Vector, C: Columns, F: Finish>(len: usize, columns: C, mut finish: F) {
    let mut at = 0;
    // SAFETY: each step's bytes end at or before `len`, the length of every slice (the caller
    // vouches); a Byte needs no instructions.
    unsafe {
        while len - at >= UNROLL * V::BYTES {
            block::<V, C, F, UNROLL>(at, &columns, &mut finish);
            at += UNROLL * V::BYTES;
        }
        while len - at >= V::BYTES {
            block::<V, C, F, 1>(at, &columns, &mut finish);
            at += V::BYTES;
        }
        while len > at {
            block::<Byte, C, F, 1>(at, &columns, &mut finish);
            at += 1;
        }
    }
}

/// # Safety
/// As [`walk`], for some `len` of at least `at + U * V::BYTES`.
#[inline(always)]
unsafe fn block<V: Vector, C: Columns, F: Finish, const U: usize>(
    at: usize,
    columns: &C,
    finish: &mut F,
) {
    // SAFETY: the caller vouches for V's instructions, and that every column has the bytes.
    unsafe {
        let mut p = [V::zero(); U];
        let mut q = [V::zero(); U];
        for column in columns.columns().rev() {
            if F::Q {
                q = double(q);
            }
            let Some(column) = column else { continue };
            let data = load::<V, U>(column, at);
            if F::P {
                p = add(p, data);
            }
            if F::Q {
                q = add(q, data);
            }
        }
        finish.finish(at, p, q);
    }
}

/// # Safety
/// `from` has at least `at + U * V::BYTES` bytes, and the CPU has V's instructions.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector, const U: usize>(from: &[u8], at: usize) -> [V; U] {
    debug_assert!(at + U * V::BYTES <= from.len());
    // SAFETY: the caller vouches for the bytes and the instructions.
    unsafe {
        let mut vectors = [V::zero(); U];
        let mut u = 0;
        while u < U {
            vectors[u] = V::load(from.as_ptr().add(at + u * V::BYTES));
            u += 1;
        }
        vectors
    }
}

/// # Safety
/// `to` has at least `at + U * V::BYTES` bytes.
#[inline(always)]
pub(crate) unsafe fn store<V: Vector, const U: usize>(to: &mut [u8], at: usize, from: [V; U]) {
    debug_assert!(at + U * V::BYTES <= to.len());
    let mut u = 0;
    while u < U {
        // SAFETY: the caller vouches for the bytes.
        unsafe { from[u].store(to.as_mut_ptr().add(at + u * V::BYTES)) };
        u += 1;
    }
}

/// a + b, vector by vector.
#[inline(always)]
pub(crate) fn add<V: Vector, const U: usize>(mut a: [V; U], b: [V; U]) -> [V; U] {
    let mut u = 0;
    while u < U {
        a[u] = a[u].xor(b[u]);
        u += 1;
    }
    a
}

/// 2 * a, vector by vector.
#[inline(always)]
fn double<V: Vector, const U: usize>(mut a: [V; U]) -> [V; U] {
    let mut u = 0;
    while u < U {
        a[u] = a[u].double();
        u += 1;
    }
    a
}

/// factor * a, vector by vector.
#[inline(always)]
pub(crate) fn times<V: Vector, const U: usize>(mut a: [V; U], factor: u8) -> [V; U] {
    let mut u = 0;
    while u < U {
        a[u] = a[u].mul(factor);
        u += 1;
    }
    a
}
