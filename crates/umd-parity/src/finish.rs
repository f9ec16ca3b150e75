//! What each operation does with the sums p and q of its columns (see `walk`).
//!
//! | finish      | writes                                      | operation                |
//! |-------------|---------------------------------------------|--------------------------|
//! | `PutP`      | P = p                                       | `xor_many`, `p_only`     |
//! | `PutQ`      | Q = q                                       | `q_only`                 |
//! | `PutBoth`   | P = p, Q = q                                | `pq`                     |
//! | `AddP`      | P += p                                      | `xor_into`, `pq_delta`   |
//! | `AddTimes`  | Q += c p                                    | `mul_xor`, `pq_delta`    |
//! | `AddBoth`   | P += p, Q += c p                            | `pq_delta`               |
//! | `Scale`     | d = c d                                     | `mul`                    |
//! | `DataFromP` | Dx = P + p; Q = q + 2^x Dx                  | `recover`: data (and Q)  |
//! | `DataFromQ` | Dx = 2^-x (Q + q); P = p + Dx               | `recover`: data (and P)  |
//! | `TwoData`   | Dx = A (P + p) + B (Q + q); Dy = P + p + Dx | `recover`: two data      |

use crate::vector::Vector;
use crate::walk::{Finish, add, load, store, times};

/// Panics unless `slice` is `len` bytes long.
fn check(name: &str, slice: &[u8], len: usize) {
    assert!(
        slice.len() == len,
        "parity: {name} is {} bytes long, the rest {len}",
        slice.len()
    );
}

/// Panics unless the output, if wanted, is `len` bytes long.
fn check_wanted(name: &str, out: &Option<&mut [u8]>, len: usize) {
    if let Some(out) = out {
        check(name, out, len);
    }
}

/// Stores into an output if it is wanted.
///
/// # Safety
/// The output, if wanted, has at least `at + U * V::BYTES` bytes.
#[inline(always)]
unsafe fn put<V: Vector, const U: usize>(out: &mut Option<&mut [u8]>, at: usize, from: [V; U]) {
    if let Some(out) = out {
        // SAFETY: passed on to the caller.
        unsafe { store(out, at, from) }
    }
}

pub(crate) struct PutP<'a> {
    pub p: &'a mut [u8],
}

impl Finish for PutP<'_> {
    const P: bool = true;
    const Q: bool = false;

    fn check(&self, len: usize) {
        check("P", self.p, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], _: [V; U]) {
        // SAFETY: the caller vouches for the length.
        unsafe { store(self.p, at, p) }
    }
}

pub(crate) struct PutQ<'a> {
    pub q: &'a mut [u8],
}

impl Finish for PutQ<'_> {
    const P: bool = false;
    const Q: bool = true;

    fn check(&self, len: usize) {
        check("Q", self.q, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, _: [V; U], q: [V; U]) {
        // SAFETY: the caller vouches for the length.
        unsafe { store(self.q, at, q) }
    }
}

pub(crate) struct PutBoth<'a> {
    pub p: &'a mut [u8],
    pub q: &'a mut [u8],
}

impl Finish for PutBoth<'_> {
    const P: bool = true;
    const Q: bool = true;

    fn check(&self, len: usize) {
        check("P", self.p, len);
        check("Q", self.q, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], q: [V; U]) {
        // SAFETY: the caller vouches for the lengths.
        unsafe {
            store(self.p, at, p);
            store(self.q, at, q);
        }
    }
}

pub(crate) struct AddP<'a> {
    pub p: &'a mut [u8],
}

impl Finish for AddP<'_> {
    const P: bool = true;
    const Q: bool = false;

    fn check(&self, len: usize) {
        check("P or the destination", self.p, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], _: [V; U]) {
        // SAFETY: the caller vouches for the length and the instructions.
        unsafe { store(self.p, at, add(load(self.p, at), p)) }
    }
}

pub(crate) struct AddTimes<'a> {
    pub q: &'a mut [u8],
    pub factor: u8,
}

impl Finish for AddTimes<'_> {
    const P: bool = true;
    const Q: bool = false;

    fn check(&self, len: usize) {
        check("Q or the destination", self.q, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], _: [V; U]) {
        // SAFETY: the caller vouches for the length and the instructions.
        unsafe { store(self.q, at, add(load(self.q, at), times(p, self.factor))) }
    }
}

pub(crate) struct AddBoth<'a> {
    pub p: &'a mut [u8],
    pub q: &'a mut [u8],
    pub factor: u8,
}

impl Finish for AddBoth<'_> {
    const P: bool = true;
    const Q: bool = false;

    fn check(&self, len: usize) {
        check("P", self.p, len);
        check("Q", self.q, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], _: [V; U]) {
        // SAFETY: the caller vouches for the lengths and the instructions.
        unsafe {
            store(self.p, at, add(load(self.p, at), p));
            store(self.q, at, add(load(self.q, at), times(p, self.factor)));
        }
    }
}

pub(crate) struct Scale<'a> {
    pub data: &'a mut [u8],
    pub factor: u8,
}

impl Finish for Scale<'_> {
    const P: bool = false;
    const Q: bool = false;

    fn check(&self, len: usize) {
        check("the destination", self.data, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, _: [V; U], _: [V; U]) {
        // SAFETY: the caller vouches for the length and the instructions.
        unsafe {
            store(
                self.data,
                at,
                times(load::<V, U>(self.data, at), self.factor),
            )
        }
    }
}

/// `Q`: whether Q is lost too; its columns are then weighted in the same pass.
pub(crate) struct DataFromP<'a, const Q: bool> {
    pub p: &'a [u8],
    pub data_out: Option<&'a mut [u8]>,
    pub q_out: Option<&'a mut [u8]>,
    /// 2^x, x the position of the lost data.
    pub weight: u8,
}

impl<const Q: bool> Finish for DataFromP<'_, Q> {
    const P: bool = true;
    const Q: bool = Q;

    fn check(&self, len: usize) {
        check("P", self.p, len);
        check_wanted("the buffer for lost data", &self.data_out, len);
        check_wanted("the buffer for lost Q", &self.q_out, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], q: [V; U]) {
        // SAFETY: the caller vouches for the lengths and the instructions.
        unsafe {
            let data = add(load(self.p, at), p);
            put(&mut self.data_out, at, data);
            if Q {
                put(&mut self.q_out, at, add(q, times(data, self.weight)));
            }
        }
    }
}

/// `P`: whether P is lost too and wanted; its columns are then summed in the same pass.
pub(crate) struct DataFromQ<'a, const P: bool> {
    pub q: &'a [u8],
    pub data_out: Option<&'a mut [u8]>,
    pub p_out: Option<&'a mut [u8]>,
    /// 2^-x, x the position of the lost data.
    pub inverse_weight: u8,
}

impl<const P: bool> Finish for DataFromQ<'_, P> {
    const P: bool = P;
    const Q: bool = true;

    fn check(&self, len: usize) {
        check("Q", self.q, len);
        check_wanted("the buffer for lost data", &self.data_out, len);
        check_wanted("the buffer for lost P", &self.p_out, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], q: [V; U]) {
        // SAFETY: the caller vouches for the lengths and the instructions.
        unsafe {
            let data = times(add(load(self.q, at), q), self.inverse_weight);
            put(&mut self.data_out, at, data);
            if P {
                put(&mut self.p_out, at, add(p, data));
            }
        }
    }
}

pub(crate) struct TwoData<'a> {
    pub p: &'a [u8],
    pub q: &'a [u8],
    pub x_out: Option<&'a mut [u8]>,
    pub y_out: Option<&'a mut [u8]>,
    /// A = 2^(y-x) / (2^(y-x) + 1).
    pub p_factor: u8,
    /// B = 2^-x / (2^(y-x) + 1).
    pub q_factor: u8,
}

impl Finish for TwoData<'_> {
    const P: bool = true;
    const Q: bool = true;

    fn check(&self, len: usize) {
        check("P", self.p, len);
        check("Q", self.q, len);
        check_wanted("the buffer for lost data", &self.x_out, len);
        check_wanted("the buffer for lost data", &self.y_out, len);
    }

    #[inline(always)]
    unsafe fn finish<V: Vector, const U: usize>(&mut self, at: usize, p: [V; U], q: [V; U]) {
        // SAFETY: the caller vouches for the lengths and the instructions.
        unsafe {
            let p = add(load(self.p, at), p);
            let q = add(load(self.q, at), q);
            let x = add(times(p, self.p_factor), times(q, self.q_factor));
            put(&mut self.x_out, at, x);
            put(&mut self.y_out, at, add(p, x));
        }
    }
}
