//! What a unit does with what it read: fills, compares, and decides what to write.
//!
//! ```text
//!   mirrors:  leg 0 |aaaa|aaaa|     block by block: the content of the leg that hosts read first,
//!             leg 1 |aaaa|bbbb|     or in a check or repair of three and more that of most
//!             leg 2 |aaaa|aaaa|
//!
//!   a row:    data, P, Q: columns that are missing are computed, then P and Q are compared with
//!             what the data says; on RAID6 their sums tell which column is wrong
//! ```

use smallvec::SmallVec;

use super::unit::{Mend, Unit};
use super::verdict::{Wrong, joined, judge_row, majority};
use super::{RepairWay, SyncRig};
use crate::geometry::{Geometry, Raid456, Row};
use crate::personality::parity::{parity_of, rebuild};
use crate::value::{Buf, Exhibit, Mismatch, Pool, Slice, Slot, SyncAction};

/// Bytes that are compared, and counted, as one: md counts RAID1 differences by 64 KiB.
const MIRROR_BLOCK_BYTES: usize = 64 * 1024;
/// And parity by 4 KiB rows.
const PARITY_BLOCK_BYTES: usize = 4096;

/// A part of a row that is looked at.
struct Part<'a> {
    row: &'a Row,
    number: u64,
    from: u64,
    to: u64,
}

impl Unit {
    pub(super) fn may_write(&self) -> bool {
        self.action != SyncAction::Check
    }

    /// Whether who is wrong is asked at all. Where a resync is owed nobody is: a crash came between
    /// writes of one row, or of one block to its legs, and hosts may have read what is new.
    fn judges(&self, rig: &SyncRig<'_>) -> bool {
        let asked = match self.action {
            SyncAction::Check => true,
            SyncAction::Repair => self.way == RepairWay::Judged,
            SyncAction::Resync | SyncAction::Recover | SyncAction::Reshape => false,
        };
        asked && rig.cover.agrees(rig.bitmap.regions(), self.start, self.end)
    }

    /// Slots to be filled wholly: those being rebuilt, and those that could not be read.
    fn wholly(&self, rig: &SyncRig<'_>) -> SmallVec<[u16; 4]> {
        let slots = self.places().into_iter().map(|place| place.slot);
        let mut all: SmallVec<[u16; 4]> = slots.filter(|s| self.is_target(rig, *s)).collect();
        // Where a replacement is filled nobody else is: who is to go is not written for its sake.
        let replaced = self.replaced(rig);
        if !replaced.is_empty() {
            return replaced;
        }
        let unreadable = self.columns.unreadable().iter().copied();
        all.extend(unreadable.filter(|s| rig.epoch.column(*s).is_some_and(|c| c.in_sync)));
        all
    }

    /// Every leg as hosts read them, or as most of them are.
    pub(super) fn mirror_mends(&mut self, rig: &SyncRig<'_>) -> Vec<Mend> {
        let mut read = self.columns.take();
        // In the order in which hosts choose among them.
        let places = self.places().into_iter();
        let legs: Vec<(u16, Slice)> = places
            .filter_map(|place| {
                let buf = read[usize::from(place.slot)].take()?;
                Some((place.slot, buf.freeze()))
            })
            .collect();
        let first = (0..legs.len()).min_by_key(|leg| rig.epoch.rank(legs[*leg].0));
        let source = match rig.io.museum.on(Exhibit::U18) {
            true => legs.len() - 1,
            false => first.unwrap_or(0),
        };
        let wholly = self.wholly(rig);
        let renew = |slot| Mend {
            slot,
            sector: self.start,
            bytes: legs[source].1.clone(),
            renews: true,
        };
        let mut mends: Vec<Mend> = self.renewed(rig).into_iter().map(renew).collect();
        let len = legs[source].1.len();
        let whole = legs[source].1.as_slice();
        if legs.iter().all(|(_, leg)| leg.as_slice() == whole) {
            let fill = |slot: &u16| Mend {
                slot: *slot,
                sector: self.start,
                bytes: legs[source].1.clone(),
                renews: false,
            };
            mends.extend(wholly.iter().map(fill));
            return mends;
        }
        let mut at = 0;
        while at < len {
            let to = (at + MIRROR_BLOCK_BYTES).min(len);
            self.block_mends(rig, &legs, source, (at, to), &wholly, &mut mends);
            at = to;
        }
        mends
    }

    /// One block of all legs.
    fn block_mends(
        &mut self,
        rig: &SyncRig<'_>,
        legs: &[(u16, Slice)],
        source: usize,
        (from, to): (usize, usize),
        wholly: &[u16],
        mends: &mut Vec<Mend>,
    ) {
        let block = |leg: usize| &legs[leg].1.as_slice()[from..to];
        let same = (0..legs.len()).all(|leg| block(leg) == block(source));
        let contents: SmallVec<[&[u8]; 4]> = (0..legs.len()).map(block).collect();
        let most = majority(&contents).filter(|_| !same && self.judges(rig));
        let good = most.unwrap_or(source);
        let bytes = legs[good].1.sub(from..to);
        let sector = self.start + from as u64 / 512;
        let wrong: SmallVec<[u16; 4]> = (0..legs.len())
            .filter(|leg| block(*leg) != block(good))
            .map(|leg| legs[leg].0)
            .collect();
        if !wrong.is_empty() {
            self.mismatch_sectors += (to - from) as u64 / 512;
            let known = if most.is_some() {
                wrong.as_slice()
            } else {
                &[]
            };
            self.note_mirror(sector, (to - from) as u64 / 512, known);
        }
        // M28r (6d7689317156): a RAID10 that found copies to differ wrote nothing to the others.
        let copied = matches!(*self.geometry, Geometry::Copied(_));
        let empty = copied && rig.io.museum.on(Exhibit::M28r);
        let written = wrong.into_iter().filter(|_| self.may_write() && !empty);
        let all = written.chain(wholly.iter().copied());
        mends.extend(all.map(|slot| Mend {
            slot,
            sector,
            bytes: bytes.clone(),
            renews: false,
        }));
    }

    fn note_mirror(&mut self, sector: u64, len_sectors: u64, wrong: &[u16]) {
        let places = self.places().into_iter();
        let members = places.map(|place| {
            let at = place.member_sectors + (sector - self.start);
            (Slot(place.slot), at)
        });
        self.found.push(Mismatch {
            members: members.collect(),
            len_sectors,
            array_sectors: vec![sector],
            wrong: wrong.iter().map(|slot| Slot(*slot)).collect(),
            repaired: self.may_write(),
        });
    }

    /// Rows, one after the other.
    pub(super) fn parity_mends(&mut self, rig: &SyncRig<'_>, map: &Raid456) -> Vec<Mend> {
        let mut mends = Vec::new();
        let wholly = self.wholly(rig);
        let mut at = self.start;
        while at < self.end {
            let number = at / map.chunk_sectors();
            let to = ((number + 1) * map.chunk_sectors()).min(self.end);
            let part = Part {
                row: &map.row(number),
                number,
                from: at,
                to,
            };
            self.row_mends(rig, map, &part, &wholly, &mut mends);
            at = to;
        }
        mends
    }

    /// One row: fills columns that are missing, then compares P and Q with the data.
    fn row_mends(
        &mut self,
        rig: &SyncRig<'_>,
        map: &Raid456,
        part: &Part<'_>,
        wholly: &[u16],
        mends: &mut Vec<Mend>,
    ) {
        let row = part.row;
        let lo = (part.from - self.start) as usize * 512;
        let hi = (part.to - self.start) as usize * 512;
        let mut column: Vec<Option<&[u8]>> = self
            .columns
            .columns()
            .iter()
            .map(|b| b.as_ref().map(|b| &b.as_slice()[lo..hi]))
            .collect();
        let lost: SmallVec<[u16; 2]> = (0..column.len() as u16)
            .filter(|slot| column[usize::from(*slot)].is_none())
            .collect();
        let filled = fill(rig, row, &column, hi - lo);
        for (slot, bytes) in &filled {
            column[usize::from(*slot)] = Some(bytes.as_slice());
            if wholly.contains(slot) {
                mends.push(Mend {
                    slot: *slot,
                    sector: part.from,
                    bytes: bytes.clone(),
                    renews: false,
                });
            }
        }
        if self.action == SyncAction::Recover || lost.len() >= parities(row) {
            return;
        }
        let fresh = fresh_parity(rig, row, &column, hi - lo);
        let judged = self.judges(rig) && row.q.is_some() && lost.is_empty();
        let blocks = wrong_blocks(&column, &fresh, hi - lo).into_iter();
        let verdict = |from: usize, to: usize| match judged {
            true => judge_block(row, &column, &fresh, (from, to)),
            false => Wrong::Unknown,
        };
        let wrong = joined(blocks.map(|(from, to)| (from, to, verdict(from, to))));
        let mut found = Vec::new();
        for (from, to, wrong) in &wrong {
            self.mismatch_sectors += (to - from) as u64 / 512;
            found.push(place_of(map, part, (*from, *to), *wrong, self.may_write()));
            if self.may_write() {
                let range = (*from, *to);
                let right = right_content(&rig.io.pool, row, &column, &fresh, range, *wrong);
                let right = right.into_iter().filter(|(slot, _)| !lost.contains(slot));
                mends.extend(right.map(|(slot, bytes)| Mend {
                    slot,
                    sector: part.from + *from as u64 / 512,
                    bytes,
                    renews: false,
                }));
            }
        }
        self.found.extend(found);
    }
}

/// Computes the columns that were not read, if there are any.
fn fill(
    rig: &SyncRig<'_>,
    row: &Row,
    column: &[Option<&[u8]>],
    len: usize,
) -> SmallVec<[(u16, Slice); 2]> {
    let lost = (0..column.len() as u16).filter(|slot| column[usize::from(*slot)].is_none());
    let mut filled: SmallVec<[(u16, Buf); 2]> =
        lost.map(|slot| (slot, rig.io.pool.take(len))).collect();
    // M31 (4f4fd7c5798b): with one member of a RAID6 lost, its buffer was written before
    // anything had been computed into it.
    let unfilled = row.q.is_some() && filled.len() == 1 && rig.io.museum.on(Exhibit::M31);
    if !filled.is_empty() && !unfilled {
        let mut wanted: SmallVec<[(u16, &mut [u8]); 2]> = filled
            .iter_mut()
            .map(|(slot, buf)| (*slot, buf.as_mut_slice()))
            .collect();
        rebuild(row, column, &mut wanted);
    }
    let frozen = filled.into_iter().map(|(slot, buf)| (slot, buf.freeze()));
    frozen.collect()
}

/// Where a difference lies.
fn place_of(
    map: &Raid456,
    part: &Part<'_>,
    (from, to): (usize, usize),
    wrong: Wrong,
    repaired: bool,
) -> Mismatch {
    let sector = part.from + from as u64 / 512;
    let (len_sectors, within) = ((to - from) as u64 / 512, sector % map.chunk_sectors());
    let first = part.number * u64::from(map.data_disks());
    let array = |index: usize| (first + index as u64) * map.chunk_sectors() + within;
    let array_sectors = match wrong {
        Wrong::Unknown => (0..part.row.data.len()).map(array).collect(),
        Wrong::Parity(_) => Vec::new(),
        Wrong::Data(slot) => part.row.index_of(slot).map(array).into_iter().collect(),
    };
    Mismatch {
        members: (0..map.raid_disks()).map(|s| (Slot(s), sector)).collect(),
        len_sectors,
        array_sectors,
        wrong: match wrong {
            Wrong::Unknown => Vec::new(),
            Wrong::Parity(slot) | Wrong::Data(slot) => vec![Slot(slot)],
        },
        repaired,
    }
}

fn parities(row: &Row) -> usize {
    1 + usize::from(row.q.is_some())
}

/// P and Q as they should be.
fn fresh_parity(
    rig: &SyncRig<'_>,
    row: &Row,
    column: &[Option<&[u8]>],
    len: usize,
) -> SmallVec<[(u16, Slice); 2]> {
    let mut p = rig.io.pool.take(len);
    let mut q = row.q.map(|_| rig.io.pool.take(len));
    let data = |slot: u16| column[usize::from(slot)].expect("all columns are there");
    parity_of(
        row,
        data,
        Some(p.as_mut_slice()),
        q.as_mut().map(Buf::as_mut_slice),
    );
    let q = row.q.zip(q.map(Buf::freeze));
    [(row.p, p.freeze())].into_iter().chain(q).collect()
}

/// The blocks in which a parity differs from what it should be, as byte ranges.
fn wrong_blocks(
    column: &[Option<&[u8]>],
    fresh: &[(u16, Slice)],
    len: usize,
) -> SmallVec<[(usize, usize); 4]> {
    let differs = |a: usize, b: usize| {
        fresh.iter().any(|(slot, should)| {
            let is = column[usize::from(*slot)].expect("all columns are there");
            is[a..b] != should.as_slice()[a..b]
        })
    };
    let blocks = (0..len).step_by(PARITY_BLOCK_BYTES);
    let blocks = blocks.map(|at| (at, (at + PARITY_BLOCK_BYTES).min(len)));
    blocks.filter(|(a, b)| differs(*a, *b)).collect()
}

/// The sum of what a parity column holds and what it should.
fn sum(
    column: &[Option<&[u8]>],
    (slot, should): &(u16, Slice),
    (from, to): (usize, usize),
) -> Vec<u8> {
    let mut sum = should.as_slice()[from..to].to_vec();
    let is = column[usize::from(*slot)].expect("all columns are there");
    umd_parity::xor_into(&mut sum, &is[from..to]);
    sum
}

fn judge_block(
    row: &Row,
    column: &[Option<&[u8]>],
    fresh: &[(u16, Slice)],
    range: (usize, usize),
) -> Wrong {
    let (p, q) = (sum(column, &fresh[0], range), sum(column, &fresh[1], range));
    judge_row(row, &p, &q)
}

/// What makes a block agree: the column that is wrong as the others say, else all of parity.
fn right_content(
    pool: &Pool,
    row: &Row,
    column: &[Option<&[u8]>],
    fresh: &[(u16, Slice)],
    (from, to): (usize, usize),
    wrong: Wrong,
) -> SmallVec<[(u16, Slice); 2]> {
    let parity = fresh
        .iter()
        .map(|(slot, bytes)| (*slot, bytes.sub(from..to)));
    match wrong {
        Wrong::Unknown => parity.collect(),
        Wrong::Parity(wrong) => parity.filter(|(slot, _)| *slot == wrong).collect(),
        Wrong::Data(slot) => {
            assert_eq!(fresh[0].0, row.p, "P comes first");
            let held = column[usize::from(slot)].expect("all columns are there");
            let mut right = pool.take(to - from);
            right.as_mut_slice().copy_from_slice(&held[from..to]);
            let difference = sum(column, &fresh[0], (from, to));
            umd_parity::xor_into(right.as_mut_slice(), &difference);
            SmallVec::from_iter([(slot, right.freeze())])
        }
    }
}
