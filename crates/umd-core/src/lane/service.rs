//! Flush, and allocation queries.

use super::split::{JOB_SECTORS_MAX, Piece, Pieces};
use super::{Job, Lane, Rig, Step, eio, pieces};
use crate::geometry::Geometry;
use crate::member::Effect;
use crate::value::{Exhibit, Extent, IoDone, IoError, IoOp, MemberId, Purpose};

/// A host flush: every member that holds data, once nothing lags.
pub(super) struct Flush {
    request: u32,
    left: usize,
    flushed: usize,
}

impl Flush {
    pub fn new(request: u32) -> Flush {
        Flush {
            request,
            left: 0,
            flushed: 0,
        }
    }

    pub fn start(mut self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        // What was answered and has not landed yet is flushed as well: it lands first.
        if lane.behind.outstanding() > 0 {
            lane.behind.wait(index);
            return Step::Stay(Job::Flush(self));
        }
        // U48: nothing was flushed while nothing is written. Members may still have in their caches
        // what was answered before whoever ran the array was killed.
        if rig.writable || !rig.io.museum.on(Exhibit::U48) {
            for column in rig.epoch.columns.iter().flatten() {
                rig.io.submit(
                    column.member,
                    Purpose::Flush,
                    IoOp::Flush,
                    Lane::owner(index, 0),
                );
                self.left += 1;
            }
        }
        if self.left > 0 {
            return Step::Stay(Job::Flush(self));
        }
        let result = match rig.writable || !rig.io.museum.on(Exhibit::U48) {
            true => Err(eio("no member is left")),
            false => Ok(()),
        };
        lane.part_over(self.request, result);
        Step::Over
    }

    pub fn done(
        mut self,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        index: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) -> Step {
        assert!(self.left > 0, "a flush ended that never began");
        self.left -= 1;
        match result {
            Ok(_) => self.flushed += 1,
            // M61 (b75197e86e6d): what a flush of a member ended with was not passed on.
            Err(_) if rig.io.museum.on(Exhibit::M61) => self.flushed += 1,
            Err(error) => {
                // What the member's cache held may be lost: it is failed, never trusted on.
                rig.io.effects.push(Effect::FlushFailed(
                    member,
                    format!("flush failed: {error}"),
                ));
                let request = lane
                    .requests
                    .get_mut(self.request)
                    .expect("a job has its request");
                request.met_fault = true;
            }
        }
        if self.left > 0 {
            return Step::Stay(Job::Flush(self));
        }
        let striped = !lane.geometry.is_redundant();
        if self.flushed == 0 && !rig.broken && !striped {
            // All that were asked have failed since. Others hold the data now, or nobody does.
            return self.start(lane, rig, index);
        }
        let request = lane
            .requests
            .get(self.request)
            .expect("a job has its request");
        // Who may not write cannot record who failed: after a crash that member would be believed.
        let secret = !rig.writable && (request.met_fault || rig.metadata.fault_pending());
        let failed = rig.broken || secret || (striped && request.met_fault);
        let result = match failed {
            true => Err(eio("a member could not be flushed")),
            false => Ok(()),
        };
        lane.part_over(self.request, result);
        Step::Over
    }
}

/// Pieces looked at by one query; the answer may be shorter than the question.
const QUERY_PIECES_MAX: usize = 64;

/// An allocation query: asks the members that hold the pieces. What cannot be asked counts as data.
pub(super) struct Allocation {
    request: u32,
    mirrored: bool,
    pieces: Pieces,
    found: Vec<Vec<Extent>>,
    left: usize,
}

impl Allocation {
    pub fn new(lane: &Lane, request: u32, start: u64, len: u64) -> Allocation {
        let mirrored = matches!(*lane.geometry, Geometry::Mirrored { .. });
        let pieces = if mirrored {
            let whole = Piece {
                array_sectors: start,
                slot: 0,
                member_sectors: start,
                len_sectors: len,
            };
            Pieces::from_slice(&[whole])
        } else {
            let enough = JOB_SECTORS_MAX * QUERY_PIECES_MAX as u64;
            let mut all = pieces(&lane.geometry, start, len.min(enough));
            all.truncate(QUERY_PIECES_MAX);
            all
        };
        let found = vec![Vec::new(); pieces.len()];
        Allocation {
            request,
            mirrored,
            found,
            pieces,
            left: 0,
        }
    }

    pub fn start(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        for (tag, piece) in self.pieces.iter().enumerate() {
            let moves = lane.shift().is_some();
            let in_sync = |slot: u16| rig.epoch.column(slot).filter(|c| c.in_sync && !moves);
            let found = match lane.geometry.is_mirror() {
                true => {
                    let copies = lane.geometry.copies(piece.array_sectors);
                    let leg = copies
                        .into_iter()
                        .min_by_key(|leg| rig.epoch.rank(leg.slot));
                    // One that lags may have a hole where data is on its way.
                    leg.and_then(|leg| {
                        let lags = lane.behind.lags_on(leg.slot);
                        let column = in_sync(leg.slot).filter(|_| !lags)?;
                        Some((column, leg.member_sectors))
                    })
                }
                false => in_sync(piece.slot).map(|column| (column, piece.member_sectors)),
            };
            // What is in doubt may turn out to be data by the next read of it.
            let end = piece.member_sectors + piece.len_sectors;
            let doubtful = lane.in_doubt(rig, (piece.member_sectors, end));
            let Some((column, from_sectors)) = found.filter(|_| !doubtful) else {
                continue;
            };
            let op = IoOp::Allocation {
                offset_sectors: column.data_offset_sectors + from_sectors,
                len_sectors: piece.len_sectors,
            };
            let tag = u32::try_from(tag).expect("few pieces");
            rig.io
                .submit(column.member, Purpose::Query, op, Lane::owner(index, tag));
            self.left += 1;
        }
        if self.left == 0 {
            self.over(lane)
        } else {
            Step::Stay(Job::Allocation(self))
        }
    }

    pub fn done(
        mut self: Box<Self>,
        lane: &mut Lane,
        tag: u32,
        result: Result<IoDone, IoError>,
    ) -> Step {
        assert!(self.left > 0, "a query ended that never began");
        self.left -= 1;
        if let Ok(IoDone::Extents(extents)) = result {
            self.found[tag as usize] = extents;
        }
        if self.left > 0 {
            return Step::Stay(Job::Allocation(self));
        }
        self.over(lane)
    }

    fn over(&self, lane: &mut Lane) -> Step {
        let mut all: Vec<Extent> = Vec::new();
        for (piece, found) in self.pieces.iter().zip(&self.found) {
            // A single long piece may be answered in part.
            let known: u64 = found.iter().map(|e| e.len_sectors).sum();
            let len = if self.mirrored && known > 0 {
                known
            } else {
                piece.len_sectors
            };
            append(&mut all, len.min(piece.len_sectors), found);
        }
        lane.extents_found(self.request, all);
        Step::Over
    }
}

/// Adds the extents of a piece of `len_sectors`; what they do not cover is data.
fn append(all: &mut Vec<Extent>, len_sectors: u64, found: &[Extent]) {
    let mut left = len_sectors;
    let rest = Extent {
        len_sectors: u64::MAX,
        data: true,
    };
    for extent in found.iter().chain([&rest]) {
        let len_sectors = extent.len_sectors.min(left);
        left -= len_sectors;
        match all.last_mut() {
            _ if len_sectors == 0 => {}
            Some(last) if last.data == extent.data => last.len_sectors += len_sectors,
            _ => all.push(Extent {
                len_sectors,
                data: extent.data,
            }),
        }
    }
    assert_eq!(left, 0, "every sector of the piece is told about");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_joined_and_gaps_are_data() {
        let run = |len_sectors, data| Extent { len_sectors, data };
        let mut all = Vec::new();
        append(&mut all, 8, &[run(8, false)]);
        append(&mut all, 8, &[run(4, false), run(2, true)]);
        append(&mut all, 8, &[]);
        append(&mut all, 8, &[run(100, true)]);
        assert_eq!(all, [run(12, false), run(20, true)]);
    }
}
