//! Read-commit: members are made to agree before the first read of a range in doubt is answered.
//!
//! ```text
//!   Doubt --> waiting --> part, part, ... each a unit under its lock --> over: the read goes on
//!                ^               |
//!                +---------------+ members changed, or a fault has to be recorded first
//! ```
//!
//! What was made to agree is remembered in the cover, so each block is looked at once. The marks
//! on the disks stay until the resync has passed: a crash in between finds the same doubt again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::unit::{Part, Unit, UnitEnd};
use super::{RepairWay, SyncAction, SyncRig};
use crate::geometry::Geometry;
use crate::lane::{Doubt, fine_middle};
use crate::value::{IoDone, IoError, MemberId, Slab, UnitId};

/// Doubts that are looked into at the same time.
const COMMITS_MAX: usize = 8;
/// Sectors of each member that one unit reads.
const PART_SECTORS: u64 = 128;

/// One doubt, a part at a time.
#[derive(Debug)]
struct Commit {
    doubt: Doubt,
    /// What is left to be looked at, the next part last.
    left: Vec<(u64, u64)>,
    /// The members it began with.
    epoch: u64,
    unit: Option<Unit>,
}

/// All doubts.
#[derive(Debug, Default)]
pub(super) struct Commits {
    waiting: VecDeque<Doubt>,
    running: Slab<Commit>,
}

impl Commits {
    /// Begins what may begin. Without `leave` to write doubts stay what they are.
    pub fn advance(
        &mut self,
        rig: &mut SyncRig<'_>,
        geometry: &Arc<Geometry>,
        leave: bool,
    ) -> bool {
        if rig.lane.has_doubts() {
            self.waiting.extend(rig.lane.take_doubts());
        }
        let mut moved = false;
        while self.running.len() < COMMITS_MAX && !(leave && rig.metadata.fault_pending()) {
            let Some(doubt) = self.waiting.pop_front() else {
                break;
            };
            moved = true;
            let range = (doubt.start, doubt.end);
            if leave && rig.lane.is_unsettled(rig.epoch, rig.io.museum, range) {
                self.begin(rig, geometry, doubt);
            } else {
                rig.lane.doubt_over(doubt);
            }
        }
        moved
    }

    fn begin(&mut self, rig: &mut SyncRig<'_>, geometry: &Arc<Geometry>, doubt: Doubt) {
        assert!(doubt.start < doubt.end, "a range to look at");
        let starts = (doubt.start..doubt.end).step_by(PART_SECTORS as usize);
        let part = |start| (start, doubt.end.min(start + PART_SECTORS));
        let mut left: Vec<(u64, u64)> = starts.map(part).collect();
        left.reverse();
        let commit = Commit {
            doubt,
            left,
            epoch: rig.epoch.number,
            unit: None,
        };
        let index = self.running.insert(commit);
        self.next_part(rig, geometry, index);
    }

    fn get(&mut self, index: u32) -> &mut Commit {
        let commit = self.running.get_mut(index);
        commit.expect("a unit belongs to a doubt")
    }

    /// Begins parts until one of them has to wait.
    fn next_part(&mut self, rig: &mut SyncRig<'_>, geometry: &Arc<Geometry>, index: u32) {
        loop {
            let commit = self.get(index);
            assert!(commit.unit.is_none(), "one part at a time");
            let Some((start, end)) = commit.left.pop() else {
                let doubt = commit.doubt;
                self.running.remove(index);
                return rig.lane.doubt_over(doubt);
            };
            let how = (SyncAction::Resync, RepairWay::Plain);
            let part = Part::alone(start, end);
            let mut unit = Unit::new(how, geometry.clone(), part);
            let ended = match unit.lock(rig, UnitId::Commit(index)) {
                None => {
                    self.get(index).unit = Some(unit);
                    return;
                }
                Some(ended) => ended,
            };
            if !self.part_over(rig, index, unit, ended) {
                return;
            }
        }
    }

    /// A part ended. Whether its commit goes on.
    fn part_over(&mut self, rig: &mut SyncRig<'_>, index: u32, unit: Unit, ended: UnitEnd) -> bool {
        let (start, end) = (unit.part().start, unit.part().end);
        if let UnitEnd::Done { .. } = ended {
            rig.cover.note_committed(start, end);
        }
        unit.unlock(rig);
        let commit = self.get(index);
        match ended {
            UnitEnd::Done { .. } => return true,
            UnitEnd::Split => {
                let block = rig.members.block_sectors();
                let middle = start + fine_middle(end - start, block).expect("long enough");
                commit.left.extend([(middle, end), (start, middle)]);
                return true;
            }
            UnitEnd::Abandoned => {
                let doubt = commit.doubt;
                self.waiting.push_front(doubt);
            }
            // Nobody can make agree what nobody can read.
            UnitEnd::Failed(_) => rig.lane.doubt_over(commit.doubt),
        }
        self.running.remove(index);
        false
    }

    fn step(
        &mut self,
        rig: &mut SyncRig<'_>,
        index: u32,
        step: impl FnOnce(&mut Unit, &mut SyncRig<'_>, bool) -> Option<UnitEnd>,
    ) {
        let commit = self.get(index);
        let mut unit = commit.unit.take().expect("its unit is under way");
        let stopping = commit.epoch != rig.epoch.number;
        let geometry = unit.geometry.clone();
        match step(&mut unit, rig, stopping) {
            None => self.get(index).unit = Some(unit),
            Some(ended) => {
                if self.part_over(rig, index, unit, ended) {
                    self.next_part(rig, &geometry, index);
                }
            }
        }
    }

    /// The unit of a doubt holds its lock now. Perhaps a write, or another read, was there first.
    pub fn locked(&mut self, rig: &mut SyncRig<'_>, index: u32) {
        self.step(rig, index, |unit, rig, stopping| {
            let (start, end) = (unit.part().start, unit.part().end);
            let done = UnitEnd::Done {
                mismatch_sectors: 0,
            };
            match rig.cover.agrees(rig.bitmap.regions(), start, end) {
                _ if stopping => Some(UnitEnd::Abandoned),
                true => Some(done),
                false => unit.locked(rig, UnitId::Commit(index)),
            }
        });
    }

    /// A member I/O of the unit of a doubt ended.
    pub fn done(
        &mut self,
        rig: &mut SyncRig<'_>,
        index: u32,
        tag: u32,
        end: (MemberId, Result<IoDone, IoError>),
    ) {
        self.step(rig, index, |unit, rig, stopping| {
            unit.done(rig, UnitId::Commit(index), tag, end, stopping)
        });
    }

    /// What must hold between two events.
    /// Nobody waits.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub fn check(&self) {
        assert!(self.running.len() <= COMMITS_MAX, "too many at a time");
        for (_, commit) in self.running.iter() {
            let unit = commit
                .unit
                .as_ref()
                .expect("a doubt that runs has its unit");
            let (start, end) = (unit.part().start, unit.part().end);
            let inside = commit.doubt.start <= start && end <= commit.doubt.end;
            assert!(inside, "a part of what is in doubt");
        }
    }
}
