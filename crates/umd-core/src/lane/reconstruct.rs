//! A read of a column that cannot give it: computed from the others.
//!
//! ```text
//!   Lock -> Plan -> Read -> rebuild -> piece --(it could not be read)--> rewrite -> over
//!            ^       |
//!            +-------+ another read failed; where parity may be wrong: two halves
//! ```

use smallvec::SmallVec;

use super::boxes::Boxed;
use super::locks::LockId;
use super::narrow::mending_refused;
use super::read::{Read, is_known_bad, rewrite_allowed};
use super::split::{Piece, fine_middle};
use super::{Job, Lane, Rig, Step, bytes, eio};
use crate::geometry::Row;
use crate::member::{Access, Effect, Gather, Round};
use crate::personality::parity::{plan_reconstruct, rebuild};
use crate::value::{Buf, IoDone, IoError, IoOp, MemberId, Purpose, Slice};

/// The machine.
#[derive(Default)]
pub(super) struct Reconstruct {
    request: u32,
    piece: Piece,
    lock: Option<LockId>,
    row: Option<Row>,
    others: Gather,
    rewriting: bool,
}

impl Boxed for Reconstruct {
    fn vacate(&mut self) {
        *self = Reconstruct::default();
    }
}

impl Reconstruct {
    /// `failed`: the column is there, but could not be read.
    pub fn new(request: u32, piece: Piece, failed: bool) -> Reconstruct {
        Reconstruct {
            request,
            piece,
            lock: None,
            row: None,
            others: Gather::without(failed.then_some(piece.slot)),
            rewriting: false,
        }
    }

    /// Whether the host has its answer, and only the rewrite is under way.
    pub fn is_rewriting(&self) -> bool {
        self.rewriting
    }

    fn range(&self) -> (u64, u64) {
        (
            self.piece.member_sectors,
            self.piece.member_sectors + self.piece.len_sectors,
        )
    }

    pub fn start(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let (lock, held) = lane.lock(index, self.range());
        self.lock = Some(lock);
        if held {
            self.locked(lane, rig, index)
        } else {
            Step::Stay(Job::Reconstruct(self))
        }
    }

    pub fn locked(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let (start, end) = self.range();
        let map = lane.map_at(start);
        let row = map.row(start / map.chunk_sectors());
        let last = (end - 1) / map.chunk_sectors();
        assert_eq!(start / map.chunk_sectors(), last, "a piece lies in a row");
        if lane.shift().is_some() {
            let index = map.locate(self.piece.array_sectors).index;
            self.piece.slot = row.data[usize::from(index)];
        }
        let epoch = rig.epoch.side(lane.has_moved(start));
        assert!(!self.rewriting, "read before it is rewritten");
        let access: SmallVec<[Access; 16]> = (0..map.raid_disks())
            .map(
                |slot| match rig.cover.locked_access(epoch.column(slot), start, end) {
                    Access::Usable if self.others.unreadable().contains(&slot) => Access::Lost,
                    access => access,
                },
            )
            .collect();
        let reads = match access[usize::from(self.piece.slot)] {
            // It was rebuilt while this waited for the lock.
            Access::Usable => Some(SmallVec::from_elem(self.piece.slot, 1)),
            _ => plan_reconstruct(&row, &access, self.piece.slot),
        };
        let Some(reads) = reads else {
            let (request, piece) = (self.request, self.piece);
            let parts = !self.others.unreadable().is_empty();
            let step = self.over(lane);
            if !parts || !Read::again_in_parts(lane, rig, request, piece) {
                let error = eio("too many members are lost to read this");
                lane.part_over(request, Err(error));
            }
            return step;
        };
        self.row = Some(row.into_owned());
        let round = Round {
            epoch,
            start_sectors: start,
            len_sectors: end - start,
            purpose: Purpose::Preread,
        };
        let owner = |tag| Lane::owner(index, tag);
        self.others.begin(rig.io, &round, reads, owner);
        Step::Stay(Job::Reconstruct(self))
    }

    pub fn done(
        mut self: Box<Self>,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        index: u32,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) -> Step {
        if self.rewriting {
            match result {
                Ok(_) => rig.io.effects.push(Effect::Corrected(member)),
                Err(error) => {
                    let run = (self.piece.member_sectors, self.piece.len_sectors);
                    mending_refused(lane, rig, (self.piece.slot, member), run, &error);
                }
            }
            return self.over(lane);
        }
        if !self.others.done(rig.io, tag, member, result) {
            return Step::Stay(Job::Reconstruct(self));
        }
        if self.others.has_failed() {
            return match self.in_doubt(rig) {
                true => self.in_parts(lane, rig, index),
                false => self.locked(lane, rig, index),
            };
        }
        let data = self.rebuilt(rig);
        lane.piece_read(self.request, self.piece.array_sectors, data.clone());
        if !self.rewrite(lane, rig, index, data) {
            return self.over(lane);
        }
        self.rewriting = true;
        Step::Stay(Job::Reconstruct(self))
    }

    fn in_doubt(&self, rig: &Rig<'_>) -> bool {
        let (start, end) = self.range();
        let gone = |effect: &Effect| matches!(effect, Effect::Fail(..));
        let failing = rig.io.effects.iter().any(gone);
        !failing && !rig.cover.agrees(rig.bitmap.regions(), start, end)
    }

    /// Another column failed somewhere, and the parities may not agree with each other: another
    /// one than before may give no more than what cannot be had otherwise.
    fn in_parts(self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let (request, piece) = (self.request, self.piece);
        if fine_middle(piece.len_sectors, rig.members.block_sectors()).is_none() {
            return self.locked(lane, rig, index);
        }
        let step = self.over(lane);
        let split = Read::in_fine_parts(lane, rig, request, piece);
        assert!(split, "long enough");
        step
    }

    fn rebuilt(&mut self, rig: &mut Rig<'_>) -> Slice {
        let mut old = self.others.take();
        if let Some(buf) = old[usize::from(self.piece.slot)].take() {
            return buf.freeze();
        }
        let row = self.row.as_ref().expect("planned");
        let mut out = rig.io.pool.take(bytes(self.piece.len_sectors));
        let column: SmallVec<[Option<&[u8]>; 16]> =
            old.iter().map(|b| b.as_ref().map(Buf::as_slice)).collect();
        rebuild(row, &column, &mut [(self.piece.slot, out.as_mut_slice())]);
        out.freeze()
    }

    /// Writes back what the member could not read.
    fn rewrite(&self, lane: &Lane, rig: &mut Rig<'_>, index: u32, data: Slice) -> bool {
        let slot = self.piece.slot;
        let epoch = rig.epoch.side(lane.has_moved(self.piece.member_sectors));
        let column = epoch.column(slot).filter(|c| c.in_sync);
        let Some(column) = column.filter(|_| self.others.unreadable().contains(&slot)) else {
            return false;
        };
        let at = (self.piece.member_sectors, self.piece.len_sectors);
        if !rewrite_allowed(rig) || is_known_bad(rig, Some(column), at) {
            return false;
        }
        let offset_sectors = column.data_offset_sectors + self.piece.member_sectors;
        let data = SmallVec::from_iter([data]);
        let op = IoOp::Write {
            offset_sectors,
            data,
            fua: false,
        };
        rig.io
            .submit(column.member, Purpose::Rewrite, op, Lane::owner(index, 0));
        true
    }

    fn over(self: Box<Self>, lane: &mut Lane) -> Step {
        assert!(self.others.is_idle(), "a lock goes back after the last I/O");
        lane.unlock(self.lock.expect("locked at the start"));
        lane.reconstructs.give_back(self);
        Step::Over
    }
}
