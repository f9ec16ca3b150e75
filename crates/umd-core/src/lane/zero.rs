//! Zeroes and trims. Members do them without data, so they can be as long as the array: they are
//! begun a few pieces at a time, and each piece is one I/O for each run of a member.
//!
//! ```text
//!   RAID10 of three, near 2        slot 0   slot 1   slot 2
//!   a trim of chunks 1 to 4          0        0      [ 1         one I/O per slot, over places
//!                                  [ 1      [ 2        2         of these chunks only
//!                                    3        3 ]      4 ]
//!                                    4 ]      5        5
//! ```
//!
//! Where only a part of a row or chunk lies in the range, only that part is zeroed. On parity
//! arrays parts of rows are written as zeros, or left alone if it was only advice.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::direct::{Direct, Payload};
use super::split::{Piece, bands, pieces_from};
use super::{Job, Lane, Rig};
use crate::geometry::{Geometry, Raid456};
use crate::value::Exhibit;

/// The most that a member zeroes in one I/O: without help from the device zeros are written.
const ZERO_SECTORS_MAX: u64 = 131_072;
/// Jobs of one request at the same time.
const JOBS: usize = 8;
/// Chunks that are looked at for one job.
const CHUNKS_MAX: usize = 65_536;

/// How zeros are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct ZeroWish {
    /// Every sector has to read as zero afterwards; otherwise it is advice.
    pub exact: bool,
    /// Members may give the space back.
    pub may_unmap: bool,
}

/// What of a request was not begun yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Zeroes {
    at: u64,
    end: u64,
    wish: ZeroWish,
}

/// A run of data sectors on one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub slot: u16,
    pub member_sectors: u64,
    pub len_sectors: u64,
}

/// Runs that grow as long as what is added lies beside them.
#[derive(Debug, Default)]
struct Runs {
    /// By slot and start: the end.
    runs: BTreeMap<(u16, u64), u64>,
}

impl Runs {
    /// Adds sectors that are not in any run yet. Returns the length of the run they are in now.
    fn add(&mut self, slot: u16, start: u64, len: u64) -> u64 {
        let (mut start, mut end) = (start, start + len);
        let before = self.runs.range(..(slot, start)).next_back();
        if let Some((&(at, from), &to)) = before
            && at == slot
        {
            assert!(to <= start, "a sector is zeroed once");
            start = if to == start { from } else { start };
        }
        if let Some(to) = self.runs.remove(&(slot, end)) {
            end = to;
        }
        self.runs.insert((slot, start), end);
        end - start
    }

    fn list(self) -> Vec<Run> {
        let run = |((slot, start), end): ((u16, u64), u64)| Run {
            slot,
            member_sectors: start,
            len_sectors: end - start,
        };
        self.runs.into_iter().map(run).collect()
    }
}

/// The runs of a range that begins at `start`, and where it ends: at `end`, or as soon as one of
/// them has the length of an I/O.
fn runs(geometry: &Geometry, start: u64, end: u64) -> (Vec<Run>, u64) {
    let mut runs = Runs::default();
    let mut at = start;
    for piece in pieces_from(geometry, start, end, ZERO_SECTORS_MAX).take(CHUNKS_MAX) {
        assert_eq!(piece.array_sectors, at, "pieces come in order");
        let longest = match geometry {
            Geometry::Copied(map) => map
                .copies(at)
                .iter()
                .map(|copy| runs.add(copy.slot, copy.member_sectors, piece.len_sectors))
                .max()
                .expect("a chunk has copies"),
            _ => runs.add(piece.slot, piece.member_sectors, piece.len_sectors),
        };
        at += piece.len_sectors;
        let even = match geometry {
            // Copies lie in the next row, and on other slots: cut between rows, runs stay whole.
            Geometry::Copied(map) => {
                at.is_multiple_of(map.chunk_sectors() * u64::from(map.raid_disks()))
            }
            _ => true,
        };
        if longest >= ZERO_SECTORS_MAX && even {
            break;
        }
    }
    (runs.list(), at)
}

impl Zeroes {
    pub fn new((start, len): (u64, u64), wish: ZeroWish) -> Zeroes {
        assert!(len > 0, "something is zeroed");
        Zeroes {
            at: start,
            end: start + len,
            wish,
        }
    }

    /// Whether anything is left.
    pub fn is_over(&self) -> bool {
        self.at == self.end
    }

    /// The next jobs of request `index`. None, when there is nothing left to do.
    pub fn next(&mut self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Vec<Job> {
        let geometry = match rig.io.museum.on(Exhibit::M02) {
            // M02 (e836007089ba): discards were mapped by the other of RAID0's two layouts.
            true => Arc::new(lane.geometry.other_layout()),
            false => lane.geometry.clone(),
        };
        let mut jobs = Vec::new();
        while jobs.len() < JOBS && self.at < self.end {
            let before = self.at;
            match &*geometry {
                Geometry::Parity(map) => self.next_rows(lane, rig, map, index, &mut jobs),
                geometry => self.next_runs(geometry, index, &mut jobs),
            }
            assert!(before < self.at && self.at <= self.end, "zeroing goes on");
        }
        jobs
    }

    fn payload(&self) -> Payload {
        Payload::Zeros {
            may_unmap: self.wish.may_unmap,
        }
    }

    /// Where there is no parity. Copies lie under one lock; stripes are jobs of their own.
    fn next_runs(&mut self, geometry: &Geometry, index: u32, jobs: &mut Vec<Job>) {
        let start = self.at;
        let piece = |end: u64| Piece {
            array_sectors: start,
            slot: 0,
            member_sectors: start,
            len_sectors: end - start,
        };
        if let Geometry::Mirrored { .. } = geometry {
            self.at = self.end.min(start + ZERO_SECTORS_MAX);
            let job = Direct::new(index, piece(self.at), self.payload());
            return jobs.push(Job::Direct(Box::new(job)));
        }
        let (runs, end) = runs(geometry, start, self.end);
        self.at = end;
        if let Geometry::Copied(_) = geometry {
            let job = Direct::spread(index, piece(end), self.payload(), runs);
            return jobs.push(Job::Direct(Box::new(job)));
        }
        for run in runs {
            let piece = Piece {
                array_sectors: start,
                slot: run.slot,
                member_sectors: run.member_sectors,
                len_sectors: run.len_sectors,
            };
            jobs.push(Job::Direct(Box::new(Direct::new(
                index,
                piece,
                self.payload(),
            ))));
        }
    }

    /// Whole rows by the members; parts of rows with their parity, or not at all for advice.
    fn next_rows(
        &mut self,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        map: &Raid456,
        index: u32,
        jobs: &mut Vec<Job>,
    ) {
        let row_sectors = map.chunk_sectors() * u64::from(map.data_disks());
        let (start, row) = (self.at, self.at / row_sectors);
        let whole = (self.end - start) / row_sectors;
        // While the array is reshaped rows lie on two sides, and each is asked for by its own job.
        let plain = lane.shift().is_none();
        if start == row * row_sectors && whole > 0 && plain {
            let rows = whole.min((ZERO_SECTORS_MAX / map.chunk_sectors()).max(1));
            self.at = start + rows * row_sectors;
            let piece = Piece {
                array_sectors: start,
                slot: 0,
                member_sectors: row * map.chunk_sectors(),
                len_sectors: rows * map.chunk_sectors(),
            };
            return jobs.push(Job::Direct(Box::new(Direct::new(
                index,
                piece,
                self.payload(),
            ))));
        }
        self.at = self.end.min((row + 1) * row_sectors);
        if !self.wish.exact {
            return;
        }
        for range in bands(map, start, self.at - start) {
            let zeros = lane.zeros(rig.io, super::bytes(range.len_sectors));
            let new = range.touched.iter().map(|(i, _)| (*i, zeros.clone()));
            let now = rig.io.now().mono;
            let mut band = lane.bands.empty();
            band.begin(now, index, (map, &range), new);
            jobs.push(Job::Band(band));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::geometry::{Linear, Raid0, Raid10};

    fn geometries() -> Vec<Geometry> {
        let copied = |layout, disks| Raid10::new(layout, disks, 8, 8 * 60).expect("map");
        let mut all: Vec<Geometry> = [
            (0x102, 4),
            (0x102, 3),
            (0x103, 4),
            (0x201, 3),
            (0x10201, 4),
            (0x202, 4),
            (0x40201, 5),
        ]
        .map(|(layout, disks)| Geometry::Copied(copied(layout, disks)))
        .into();
        let sizes = [8 * 20, 8 * 40, 8 * 40];
        all.push(Geometry::Linear(Linear::new(&sizes, 0).expect("map")));
        let striped =
            Raid0::new(&sizes, 8, Some(umd_format::v1::Raid0Layout::Alternate)).expect("map");
        all.push(Geometry::Striped(striped));
        all
    }

    /// Every place of a sector of the range is in one run, and no other place is.
    #[test]
    fn runs_are_the_places_of_the_range_and_no_others() {
        for geometry in geometries() {
            let size = match &geometry {
                Geometry::Copied(map) => map.array_sectors(),
                _ => 8 * 100,
            };
            for start in [0, 1, 5, 8, 20, 77] {
                for end in [start + 1, start + 7, start + 8, start + 100, size - 3, size] {
                    let (runs, to) = runs(&geometry, start, end);
                    assert_eq!(to, end, "short enough for one job");
                    let mut zeroed = BTreeSet::new();
                    for run in &runs {
                        for sector in run.member_sectors..run.member_sectors + run.len_sectors {
                            assert!(zeroed.insert((run.slot, sector)), "twice");
                        }
                    }
                    let places = |sector| match &geometry {
                        Geometry::Copied(map) => {
                            let copies = map.copies(sector).into_iter();
                            copies.map(|c| (c.slot, c.member_sectors)).collect()
                        }
                        Geometry::Linear(map) => vec![map.locate(sector)]
                            .into_iter()
                            .map(|(slot, at, _)| (slot, at))
                            .collect::<Vec<_>>(),
                        Geometry::Striped(map) => vec![map.locate(sector)]
                            .into_iter()
                            .map(|(slot, at, _)| (slot, at))
                            .collect(),
                        _ => unreachable!("not tried"),
                    };
                    let wanted: BTreeSet<(u16, u64)> = (start..end).flat_map(places).collect();
                    assert_eq!(zeroed, wanted, "{geometry:?} {start}..{end}");
                    // Runs are as long as they can be.
                    for run in &runs {
                        let behind = (run.slot, run.member_sectors + run.len_sectors);
                        assert!(!zeroed.contains(&behind), "two runs side by side");
                    }
                }
            }
        }
    }

    /// Many small chunks: few I/Os, each of them long, and no piece without an end.
    #[test]
    fn a_long_trim_is_few_runs_of_bounded_length() {
        let map = Raid10::new(0x102, 4, 8, 1 << 23).expect("map");
        let size = map.array_sectors();
        let geometry = Geometry::Copied(map);
        let (mut at, mut jobs) = (0, 0);
        while at < size {
            let (runs, end) = runs(&geometry, at, size);
            assert!(runs.len() <= 4 && at < end);
            let most = runs.iter().map(|run| run.len_sectors).max();
            assert!(most <= Some(ZERO_SECTORS_MAX + 16));
            (at, jobs) = (end, jobs + 1);
        }
        assert_eq!(jobs, (size / 2).div_ceil(ZERO_SECTORS_MAX));
    }
}
