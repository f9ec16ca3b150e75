//! Who is wrong where members differ.
//!
//! ```text
//!   RAID6, one block of a row:    P' = P read + P computed      Q' = Q read + Q computed
//!
//!     P'   Q'
//!     x    0     P is wrong
//!     0    x     Q is wrong
//!     x    y     data column z is, if Q' = 2^z P' in every byte;  its right content is D + P'
//!     else       several are, or it cannot be told
//!
//!   three mirrors or more: whoever is not of one content with more than half of them
//! ```

use smallvec::SmallVec;
use umd_parity::gf;

use crate::geometry::Row;

/// What is found about a block of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It cannot be told, or more than one column.
    Unknown,
    /// The column of this slot: P or Q.
    Parity(u16),
    /// The column of this slot: data.
    Data(u16),
}

/// Judges a block of a RAID6 row. `p` and `q` are the sums of what was read and what it should be.
///
/// # Panics
/// When the lengths differ, or both sums are zero: then nothing is wrong.
pub fn judge_row(row: &Row, p: &[u8], q: &[u8]) -> Wrong {
    assert_eq!(p.len(), q.len(), "columns of a block are of one length");
    let zero = |sum: &[u8]| sum.iter().all(|byte| *byte == 0);
    let q_slot = row.q.expect("RAID6 has Q");
    match (zero(p), zero(q)) {
        (true, true) => unreachable!("a block that agrees is not judged"),
        (false, true) => Wrong::Parity(row.p),
        (true, false) => Wrong::Parity(q_slot),
        (false, false) => wrong_data(row, p, q).map_or(Wrong::Unknown, Wrong::Data),
    }
}

fn wrong_data(row: &Row, p: &[u8], q: &[u8]) -> Option<u16> {
    let first = p.iter().position(|byte| *byte != 0)?;
    let powers = row.order.iter().enumerate();
    let mut fitting = powers.filter_map(|(power, slot)| {
        let weight = gf::pow(power as i32);
        let fits = |at: usize| q[at] == gf::mul(weight, p[at]);
        (fits(first) && (0..p.len()).all(fits)).then_some(*slot)?
    });
    fitting.next()
}

/// The first leg of those that more than half of all agree with, when there are three or more.
pub fn majority(legs: &[&[u8]]) -> Option<usize> {
    let votes = |leg: &&[u8]| legs.iter().filter(|other| *other == leg).count();
    let enough = legs.len() >= 3;
    legs.iter()
        .position(|leg| enough && votes(leg) * 2 > legs.len())
}

/// Blocks side by side with the same verdict are one: `(from, to, verdict)`, in bytes.
pub fn joined(
    blocks: impl Iterator<Item = (usize, usize, Wrong)>,
) -> SmallVec<[(usize, usize, Wrong); 4]> {
    let mut all: SmallVec<[(usize, usize, Wrong); 4]> = SmallVec::new();
    for (from, to, wrong) in blocks {
        match all.last_mut() {
            Some(last) if last.1 == from && last.2 == wrong => last.1 = to,
            _ => all.push((from, to, wrong)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use umd_format::Level;

    use super::*;
    use crate::geometry::Raid456;
    use crate::personality::parity::parity_of;

    const LEN: usize = 64;

    /// Columns of a row by slot, all right.
    fn columns(row: &Row, slots: u16) -> Vec<Vec<u8>> {
        let byte = |slot: u16, at: usize| (usize::from(slot) * 89 + at * 31 + 7) as u8;
        let column = |slot: u16| (0..LEN).map(|at| byte(slot, at)).collect();
        let mut all: Vec<Vec<u8>> = (0..slots).map(column).collect();
        let (mut p, mut q) = (vec![0; LEN], vec![0; LEN]);
        let data = |slot: u16| all[usize::from(slot)].as_slice();
        parity_of(row, data, Some(&mut p), Some(&mut q));
        all[usize::from(row.p)] = p;
        all[usize::from(row.q.expect("Q"))] = q;
        all
    }

    fn sums(row: &Row, all: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
        let (mut p, mut q) = (vec![0; LEN], vec![0; LEN]);
        let data = |slot: u16| all[usize::from(slot)].as_slice();
        parity_of(row, data, Some(&mut p), Some(&mut q));
        umd_parity::xor_into(&mut p, &all[usize::from(row.p)]);
        umd_parity::xor_into(&mut q, &all[usize::from(row.q.expect("Q"))]);
        (p, q)
    }

    #[test]
    fn every_column_that_is_wrong_is_found_in_every_layout() {
        for layout in [0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20] {
            let map = Raid456::new(Level::Raid6, layout, 6, 8, 800).expect("map");
            for number in 0..6 {
                let row = map.row(number);
                for slot in 0..6u16 {
                    let mut all = columns(&row, 6);
                    all[usize::from(slot)][3] ^= 0x40;
                    all[usize::from(slot)][60] ^= 0x11;
                    let (p, q) = sums(&row, &all);
                    let expected = match row.power_of(slot) {
                        Some(_) => Wrong::Data(slot),
                        None => Wrong::Parity(slot),
                    };
                    assert_eq!(
                        judge_row(&row, &p, &q),
                        expected,
                        "{layout} {number} {slot}"
                    );
                }
            }
        }
    }

    #[test]
    fn two_wrong_columns_are_not_called_one() {
        let map = Raid456::new(Level::Raid6, 2, 6, 8, 800).expect("map");
        let row = map.row(1);
        for first in 0..6usize {
            for second in first + 1..6 {
                let mut all = columns(&row, 6);
                all[first][3] ^= 0x40;
                all[second][9] ^= 0x07;
                let (p, q) = sums(&row, &all);
                assert_eq!(judge_row(&row, &p, &q), Wrong::Unknown, "{first} {second}");
            }
        }
    }

    #[test]
    fn two_of_three_are_right_and_one_of_two_is_not() {
        assert_eq!(majority(&[b"a", b"b", b"b"]), Some(1));
        assert_eq!(majority(&[b"a", b"b", b"a"]), Some(0));
        assert_eq!(majority(&[b"a", b"b", b"c"]), None);
        assert_eq!(majority(&[b"a", b"b"]), None);
        assert_eq!(majority(&[b"a", b"b", b"a", b"b"]), None);
        assert_eq!(majority(&[b"a", b"b", b"b", b"a", b"b"]), Some(1));
        assert_eq!(majority(&[b"a", b"b", b"c", b"a", b"d"]), None);
    }

    #[test]
    fn neighbours_of_one_verdict_are_joined() {
        let blocks = [
            (0, 8, Wrong::Data(1)),
            (8, 16, Wrong::Data(1)),
            (16, 24, Wrong::Data(2)),
            (32, 40, Wrong::Data(2)),
        ];
        let all = joined(blocks.into_iter());
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], (0, 16, Wrong::Data(1)));
    }

    #[test]
    fn a_column_that_is_wrong_everywhere_is_found() {
        let map = Raid456::new(Level::Raid6, 2, 6, 8, 800).expect("map");
        let row = map.row(1);
        for slot in 0..6u16 {
            let mut all = columns(&row, 6);
            all[usize::from(slot)]
                .iter_mut()
                .for_each(|byte| *byte ^= 0x5a);
            let (p, q) = sums(&row, &all);
            let expected = match row.power_of(slot) {
                Some(_) => Wrong::Data(slot),
                None => Wrong::Parity(slot),
            };
            assert_eq!(judge_row(&row, &p, &q), expected, "{slot}");
        }
    }
}
