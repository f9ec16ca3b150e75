//! XOR, P+Q and GF(2^8) recovery, for every level of md that has parity.
//!
//! A row of raid6 holds data columns d0, d1, .. and two sums over them, byte by byte in the field
//! GF(2^8) with polynomial 0x11d (see [`gf`]):
//!
//! ```text
//!   P = d0 +   d1 +   d2 + ..            addition is xor: raid4 and raid5 have this one
//!   Q = d0 + 2 d1 + 4 d2 + .. + 2^i di   the position i in `data` is the weight
//! ```
//!
//! Columns are passed in the order that gives Q its weights: for md's own layouts the data disks
//! following Q, wrapping around; for the DDF layouts the disk numbers, with `None` at P and Q.
//!
//! Lengths are in bytes, any number; no alignment is needed (64 bytes is fastest). Slices of
//! different lengths panic. All kernels give the same bytes on every machine: [`kernel`] says
//! which one runs, [`force`] chooses another.
//!
//! For speed, buffers of one row should not all start at the same offset within a page: the L1
//! cache has few places for each.

mod dispatch;
mod finish;
pub mod gf;
mod past;
mod recover;
mod vector;
mod walk;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use dispatch::{Kernel, KernelError, force, kernel};
pub use past::copy_past_cache;
pub use recover::{Loss, Lost, recover};

use dispatch::run;
use finish::{AddBoth, AddP, AddTimes, PutBoth, PutP, PutQ, Scale};

/// Panics if there are more data columns than Q has distinct weights for.
fn assert_columns(columns: usize) {
    assert!(
        columns <= gf::COLUMNS_MAX,
        "parity: {columns} data columns, Q can tell {} apart",
        gf::COLUMNS_MAX
    );
}

/// dst += src.
///
/// # Panics
/// If the lengths differ.
pub fn xor_into(dst: &mut [u8], src: &[u8]) {
    run(dst.len(), [src], AddP { p: dst });
}

/// dst = the sum of all of `srcs`; zero if there are none. What `dst` held does not matter.
///
/// # Panics
/// If the lengths differ.
pub fn xor_many(dst: &mut [u8], srcs: &[&[u8]]) {
    run(dst.len(), srcs, PutP { p: dst });
}

/// Computes P of a row. `None` is a column of zeroes.
///
/// # Panics
/// If the lengths differ.
pub fn p_only(p: &mut [u8], data: &[Option<&[u8]>]) {
    run(p.len(), data, PutP { p });
}

/// Computes Q of a row. `None` is a column of zeroes; it keeps its position.
///
/// # Panics
/// If the lengths differ, or there are more than [`gf::COLUMNS_MAX`] columns.
pub fn q_only(q: &mut [u8], data: &[Option<&[u8]>]) {
    assert_columns(data.len());
    run(q.len(), data, PutQ { q });
}

/// Computes P and Q of a row. `None` is a column of zeroes; it keeps its position.
///
/// # Panics
/// If the lengths differ, or there are more than [`gf::COLUMNS_MAX`] columns.
pub fn pq(p: &mut [u8], q: &mut [u8], data: &[Option<&[u8]>]) {
    assert_columns(data.len());
    run(p.len(), data, PutBoth { p, q });
}

/// Brings P and Q up to date with the data at position `idx` changing from `old` to `new`:
/// P += old + new, Q += 2^idx (old + new). `None` where one is lost or the level has none.
///
/// # Panics
/// If the lengths differ, or `idx` is 255, which no column can have.
pub fn pq_delta(p: Option<&mut [u8]>, q: Option<&mut [u8]>, idx: u8, old: &[u8], new: &[u8]) {
    assert!(
        usize::from(idx) < gf::COLUMNS_MAX,
        "parity: no data column has position {idx}"
    );
    let factor = gf::pow(i32::from(idx));
    match (p, q) {
        (Some(p), Some(q)) => run(old.len(), [old, new], AddBoth { p, q, factor }),
        (Some(p), None) => run(old.len(), [old, new], AddP { p }),
        (None, Some(q)) => run(old.len(), [old, new], AddTimes { q, factor }),
        (None, None) => assert!(
            old.len() == new.len(),
            "parity: old and new differ in length"
        ),
    }
}

/// dst += coeff * src.
///
/// # Panics
/// If the lengths differ.
pub fn mul_xor(dst: &mut [u8], src: &[u8], coeff: u8) {
    run(
        dst.len(),
        [src],
        AddTimes {
            q: dst,
            factor: coeff,
        },
    );
}

/// dst = coeff * dst.
pub fn mul(dst: &mut [u8], coeff: u8) {
    run(
        dst.len(),
        [],
        Scale {
            data: dst,
            factor: coeff,
        },
    );
}
