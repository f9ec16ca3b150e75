//! Getting back what one or two lost members held.
//!
//! | lost         | needs | how                                                                 |
//! |--------------|-------|---------------------------------------------------------------------|
//! | Data x       | P     | Dx = P + p                                                          |
//! | Data x       | Q     | Dx = 2^-x (Q + q)           (only where P is not given)             |
//! | P            |       | P = p                                                               |
//! | Q            |       | Q = q                                                               |
//! | P, Q         |       | both                                                                |
//! | Data x, P    | Q     | Dx = 2^-x (Q + q), P = p + Dx                                       |
//! | Data x, Q    | P     | Dx = P + p, Q = q + 2^x Dx                                          |
//! | Data x, y    | P, Q  | Dx = A (P + p) + B (Q + q), Dy = P + p + Dx                         |
//!
//! p and q are the sums over the columns that are there. A = 2^(y-x) / (2^(y-x) + 1) and
//! B = 2^-x / (2^(y-x) + 1): two equations, Dx + Dy = P + p and 2^x Dx + 2^y Dy = Q + q.

use crate::dispatch::run;
use crate::finish::{DataFromP, DataFromQ, TwoData};
use crate::{gf, p_only, pq, q_only};

/// A column of a row that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lost {
    /// The data column at this position of `data`.
    Data(usize),
    /// The xor of all data.
    P,
    /// The weighted sum of all data.
    Q,
}

/// A lost column, and where its bytes shall go if they are wanted.
pub type Loss<'a> = (Lost, Option<&'a mut [u8]>);

/// Computes what the lost columns of one row held.
///
/// `data` has a slice per data column, in the order that gives Q its weights; `None` where a
/// column is lost, and where a position holds no data at all (P's and Q's own positions in the
/// DDF layouts), which counts as zero. `p` and `q` are `None` if lost, if the level has none, or
/// if not read. `lost` names at most two columns in any order, every lost data column among them,
/// wanted or not: one not named would count as zero.
///
/// One data column is recovered from P if given, else from Q. The buffers are written throughout
/// and never read.
///
/// # Panics
/// If slices differ in length; if `lost` has more than two entries or the same one twice; if a
/// column is both lost and given, or its position is not in `data`; if what is given does not
/// suffice (see the table above); if there are more than [`gf::COLUMNS_MAX`] columns where Q is
/// involved. All but the lengths are checked even if nothing is wanted.
pub fn recover(data: &[Option<&[u8]>], p: Option<&[u8]>, q: Option<&[u8]>, lost: &mut [Loss<'_>]) {
    for (column, _) in lost.iter() {
        let given = match *column {
            Lost::Data(x) => {
                assert!(
                    x < data.len(),
                    "parity: lost data {x} of only {} columns",
                    data.len()
                );
                data[x].is_some()
            }
            Lost::P => p.is_some(),
            Lost::Q => q.is_some(),
        };
        assert!(!given, "parity: {column:?} is both lost and given");
    }
    match lost {
        [] => {}
        [(column, out)] => recover_one(data, p, q, *column, out.as_deref_mut()),
        [(a, a_out), (b, b_out)] => {
            assert!(a != b, "parity: {a:?} is lost twice");
            let (a, b) = ((*a, a_out.as_deref_mut()), (*b, b_out.as_deref_mut()));
            let (first, second) = if a.0 < b.0 { (a, b) } else { (b, a) };
            recover_two(data, p, q, first, second);
        }
        more => panic!("parity: {} columns lost, two can be recovered", more.len()),
    }
}

fn recover_one(
    data: &[Option<&[u8]>],
    p: Option<&[u8]>,
    q: Option<&[u8]>,
    column: Lost,
    out: Option<&mut [u8]>,
) {
    match (column, p, q) {
        (Lost::Data(x), Some(p), _) => data_from_p(data, p, x, out, None),
        (Lost::Data(x), None, Some(q)) => data_from_q(data, q, x, out, None),
        (Lost::Data(x), None, None) => panic!("parity: data {x} lost with neither P nor Q given"),
        (Lost::P, ..) => put_parity(data, out, None),
        (Lost::Q, ..) => put_parity(data, None, out),
    }
}

/// `first` sorts before `second`: data before P before Q.
fn recover_two(
    data: &[Option<&[u8]>],
    p: Option<&[u8]>,
    q: Option<&[u8]>,
    first: Loss<'_>,
    second: Loss<'_>,
) {
    let ((first, first_out), (second, second_out)) = (first, second);
    match (first, second, p, q) {
        (Lost::Data(x), Lost::Data(y), Some(p), Some(q)) => {
            two_data(data, p, q, (x, first_out), (y, second_out));
        }
        (Lost::Data(x), Lost::P, _, Some(q)) => data_from_q(data, q, x, first_out, second_out),
        (Lost::Data(x), Lost::Q, Some(p), _) => data_from_p(data, p, x, first_out, second_out),
        (Lost::P, Lost::Q, ..) => put_parity(data, first_out, second_out),
        _ => panic!("parity: {first:?} and {second:?} lost with too little parity given"),
    }
}

/// Data column x, and Q if wanted, from P.
fn data_from_p(
    data: &[Option<&[u8]>],
    p: &[u8],
    x: usize,
    data_out: Option<&mut [u8]>,
    q_out: Option<&mut [u8]>,
) {
    if q_out.is_some() {
        let weight = weight(data, x);
        run(
            p.len(),
            data,
            DataFromP::<true> {
                p,
                data_out,
                q_out,
                weight,
            },
        );
    } else if data_out.is_some() {
        // The weight is not used: without Q there is no limit to the columns.
        run(
            p.len(),
            data,
            DataFromP::<false> {
                p,
                data_out,
                q_out,
                weight: 0,
            },
        );
    }
}

/// Data column x, and P if wanted, from Q.
fn data_from_q(
    data: &[Option<&[u8]>],
    q: &[u8],
    x: usize,
    data_out: Option<&mut [u8]>,
    p_out: Option<&mut [u8]>,
) {
    let inverse_weight = gf::inverse(weight(data, x));
    if p_out.is_some() {
        run(
            q.len(),
            data,
            DataFromQ::<true> {
                q,
                data_out,
                p_out,
                inverse_weight,
            },
        );
    } else if data_out.is_some() {
        run(
            q.len(),
            data,
            DataFromQ::<false> {
                q,
                data_out,
                p_out,
                inverse_weight,
            },
        );
    }
}

fn two_data(
    data: &[Option<&[u8]>],
    p: &[u8],
    q: &[u8],
    (x, x_out): (usize, Option<&mut [u8]>),
    (y, y_out): (usize, Option<&mut [u8]>),
) {
    let apart = gf::mul(weight(data, y), gf::inverse(weight(data, x)));
    // 2^(y-x) is 1 only for x = y, which is refused: the sum below is not zero.
    let divisor = gf::inverse(apart ^ 1);
    let p_factor = gf::mul(apart, divisor);
    let q_factor = gf::mul(gf::inverse(weight(data, x)), divisor);
    if x_out.is_some() || y_out.is_some() {
        run(
            p.len(),
            data,
            TwoData {
                p,
                q,
                x_out,
                y_out,
                p_factor,
                q_factor,
            },
        );
    }
}

fn put_parity(data: &[Option<&[u8]>], p_out: Option<&mut [u8]>, q_out: Option<&mut [u8]>) {
    match (p_out, q_out) {
        (Some(p), Some(q)) => pq(p, q, data),
        (Some(p), None) => p_only(p, data),
        (None, Some(q)) => q_only(q, data),
        (None, None) => {}
    }
}

/// 2^x: the weight in Q of the data at position x.
fn weight(data: &[Option<&[u8]>], x: usize) -> u8 {
    crate::assert_columns(data.len());
    gf::pow(x as i32)
}
