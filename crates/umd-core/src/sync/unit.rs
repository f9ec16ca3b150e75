//! One unit: a range of all members, looked at and mended under its lock.
//!
//! ```text
//!   Lock -> Read -> compare / compute -> Write -> Done
//!            ^  |                  |
//!            +--+ a read failed    +-> Done (nothing to write)
//!            |  v
//!            `- Sound: parity may be wrong here, and must not say what can be read
//! ```

use std::sync::Arc;

use smallvec::SmallVec;

use super::{RepairWay, SyncRig};
use crate::geometry::{Copy, Geometry};
use crate::lane::{Holder, LockId, NOWHERE, Scribe, fine_middle};
use crate::member::{Access, Effect, Epoch, Gather, Io, Owner, Round};
use crate::value::{
    Exhibit, IoDone, IoError, IoOp, MemberId, Mismatch, Purpose, Slice, Slot, SyncAction, UnitId,
};

/// Ranges with unreadable sectors are looked at in parts of this size.
const PART_SECTORS: u64 = 8;
/// Added to the tag of what is written to a replacement: nothing is mended there.
const ONTO_NEW: u32 = 1 << 16;

/// Proof that a unit holds the lock of the range it writes. Sync writes are made of it only.
#[derive(Debug)]
pub struct SyncWindow {
    start: u64,
    end: u64,
    lock: LockId,
}

/// How a unit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnitEnd {
    Done {
        mismatch_sectors: u64,
    },
    Abandoned,
    /// A part of the range cannot be read somewhere: look at it in smaller parts.
    Split,
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Locking,
    Reading,
    Sounding,
    Writing,
}

/// A write that a unit decided on.
#[derive(Debug)]
pub(super) struct Mend {
    pub slot: u16,
    /// Within the locked range.
    pub sector: u64,
    pub bytes: Slice,
    /// It is for who is to replace the member in the slot, which needs nothing itself.
    pub renews: bool,
}

/// What a unit does of the run.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Where the range begins that is held open for it.
    pub open: u64,
    /// First sector of the run's walk.
    pub start: u64,
    /// And their end.
    pub end: u64,
    /// What is locked for it begins here: an array sector of a mirror, else a member data sector.
    pub sector: u64,
    /// Who is filled.
    pub targets: SmallVec<[MemberId; 4]>,
    /// Those that are to replace others get what their slots agree on.
    pub renews: bool,
}

impl Part {
    /// Sectors that are looked at on their own, for nobody in particular.
    pub fn alone(start: u64, end: u64) -> Part {
        Part {
            open: start,
            start,
            end,
            sector: start,
            targets: SmallVec::new(),
            renews: false,
        }
    }

    /// The part in two.
    pub fn halves(self, block_sectors: u64) -> [Part; 2] {
        let at = fine_middle(self.end - self.start, block_sectors).expect("long enough");
        let second = Part {
            start: self.start + at,
            sector: self.sector + at,
            ..self.clone()
        };
        let end = self.start + at;
        [Part { end, ..self }, second]
    }
}

/// The machine.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) action: SyncAction,
    pub(super) way: RepairWay,
    pub(super) geometry: Arc<Geometry>,
    part: Part,
    /// What it locks: array sectors of a mirror, else member data sectors.
    pub(super) start: u64,
    pub(super) end: u64,
    /// A reshape has moved its range.
    moved: bool,
    window: Option<SyncWindow>,
    lock: Option<LockId>,
    stage: Stage,
    pub(super) columns: Gather,
    /// Only who is to be replaced is read: what it holds is what its replacement gets.
    copies: bool,
    /// So many of the columns that could not be read were read block by block.
    sounded: usize,
    /// One of their blocks could be.
    partly: bool,
    /// Writes under way, or reads of blocks.
    left: usize,
    /// One of them failed.
    failed: bool,
    /// A member refused some of what was written: it is to be told what.
    refused: bool,
    /// What it refused is to be recorded.
    secret: bool,
    pub(super) mismatch_sectors: u64,
    pub(super) found: Vec<Mismatch>,
}

impl Unit {
    pub fn new(
        (action, way): (SyncAction, RepairWay),
        geometry: Arc<Geometry>,
        part: Part,
    ) -> Unit {
        assert!(part.start < part.end, "a unit covers something");
        Unit {
            action,
            way,
            geometry,
            start: part.sector,
            end: part.sector + (part.end - part.start),
            part,
            moved: false,
            window: None,
            lock: None,
            stage: Stage::Locking,
            columns: Gather::default(),
            copies: false,
            sounded: 0,
            partly: false,
            left: 0,
            failed: false,
            refused: false,
            secret: false,
            mismatch_sectors: 0,
            found: Vec::new(),
        }
    }

    /// Where it found members to differ.
    pub fn take_found(&mut self) -> Vec<Mismatch> {
        std::mem::take(&mut self.found)
    }

    /// What it does of the run.
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// Where its range lies on the members.
    pub(super) fn places(&self) -> SmallVec<[Copy; 16]> {
        match &*self.geometry {
            geometry if geometry.is_mirror() => geometry.copies(self.start).into_iter().collect(),
            geometry => {
                let column = |slot| Copy {
                    slot,
                    member_sectors: self.start,
                };
                (0..geometry.raid_disks()).map(column).collect()
            }
        }
    }

    pub fn lock(&mut self, rig: &mut SyncRig<'_>, index: UnitId) -> Option<UnitEnd> {
        let holder = Holder::Unit(index);
        let at = if self.waits(rig) { 0 } else { NOWHERE };
        let (lock, held) = rig
            .lane
            .locks
            .acquire(holder, at + self.start, at + self.end);
        self.lock = Some(lock);
        if held { self.locked(rig, index) } else { None }
    }

    /// Whether the unit waits for writes in its range: it always does.
    fn waits(&self, rig: &SyncRig<'_>) -> bool {
        // M14 (2f73d3c55d09): a resync did not wait for writes that were on their way, and put old
        // data over theirs. M53 (133d4527eab8): a rebuild began while writes that did not know the
        // new member were on their way.
        let overtakes = match self.action {
            SyncAction::Recover => Exhibit::M53,
            _ => Exhibit::M14,
        };
        !rig.io.museum.on(overtakes)
    }

    pub fn unlock(self, rig: &mut SyncRig<'_>) {
        let idle = self.left == 0 && self.columns.is_idle();
        assert!(idle, "a lock goes back after the last I/O");
        rig.lane.unlock(self.lock.expect("locked at the start"));
    }

    pub fn locked(&mut self, rig: &mut SyncRig<'_>, index: UnitId) -> Option<UnitEnd> {
        let lock = self.lock.expect("just granted");
        if rig.lane.shift().is_some() {
            self.moved = rig.lane.has_moved(self.start);
            self.geometry = rig.lane.geometry_at(self.start).clone();
        }
        assert_eq!(self.stage, Stage::Locking, "a lock is granted once");
        self.window = Some(SyncWindow {
            start: self.start,
            end: self.end,
            lock,
        });
        match self.straddles(rig) && self.can_split(rig) {
            true => Some(UnitEnd::Split),
            false => self.read(rig, index),
        }
    }

    /// Whether the range lies on both sides of the reach of a member that is rebuilt in its own
    /// slot, and not by this unit: below it is as good as any other, and has to be made to agree
    /// with them; above it holds nothing.
    fn straddles(&self, rig: &SyncRig<'_>) -> bool {
        // U49: there it counted as one that holds nothing all over the range.
        if self.action == SyncAction::Recover || rig.io.museum.on(Exhibit::U49) {
            return false;
        }
        let len = self.end - self.start;
        let mut places = self.places().into_iter();
        places.any(|place| {
            let column = rig
                .epoch
                .side(self.moved)
                .column(place.slot)
                .filter(|c| !c.in_sync);
            let reach = column.map_or(0, |c| rig.cover.done_sectors(c.member));
            place.member_sectors < reach && reach < place.member_sectors + len
        })
    }

    pub(super) fn is_target(&self, rig: &SyncRig<'_>, slot: u16) -> bool {
        rig.epoch
            .column(slot)
            .is_some_and(|c| self.part.targets.contains(&c.member))
    }

    /// Slots whose replacement is filled.
    pub(super) fn replaced(&self, rig: &SyncRig<'_>) -> SmallVec<[u16; 4]> {
        let targets = self.part.targets.iter();
        let members = targets.filter_map(|id| rig.members.get(*id));
        let replacing = members.filter(|m| m.is_active() && m.replacement);
        replacing.filter_map(|m| Some(m.slot?.0)).collect()
    }

    /// Slots whose replacement gets what a resync finds: a node that died may have written to one
    /// of the two only.
    pub(super) fn renewed(&self, rig: &SyncRig<'_>) -> SmallVec<[u16; 4]> {
        let there = |place: &Copy| rig.members.replacement_in(Slot(place.slot)).is_some();
        let places = self.places().into_iter().filter(|_| self.part.renews);
        places.filter(there).map(|place| place.slot).collect()
    }

    /// What they were read to hold, for their replacements.
    fn copy_mends(&mut self, rig: &SyncRig<'_>) -> Vec<Mend> {
        let mut read = self.columns.take();
        let replaced = self.replaced(rig).into_iter();
        let mend = |slot: u16| {
            let bytes = read[usize::from(slot)].take()?.freeze();
            let sector = self.start;
            Some(Mend {
                slot,
                sector,
                bytes,
                renews: false,
            })
        };
        replaced.filter_map(mend).collect()
    }

    /// Reads every column that holds valid data here and may be needed.
    fn read(&mut self, rig: &mut SyncRig<'_>, index: UnitId) -> Option<UnitEnd> {
        let places = self.places();
        let known_bad = |slot: u16| self.columns.unreadable().contains(&slot);
        let mut readable: SmallVec<[Copy; 16]> = places
            .iter()
            .filter(|place| !known_bad(place.slot) && !self.is_target(rig, place.slot))
            .filter(|place| {
                let column = rig.epoch.side(self.moved).column(place.slot);
                let (from, len) = (place.member_sectors, self.end - self.start);
                rig.cover.locked_access(column, from, from + len) == Access::Usable
            })
            .copied()
            .collect();
        let replaced = self.replaced(rig);
        let held = |slot: &u16| readable.iter().any(|place| place.slot == *slot);
        self.copies = !replaced.is_empty() && replaced.iter().all(held);
        if self.copies {
            readable.retain(|place| replaced.contains(&place.slot));
            return self.begin_reads(rig, index, readable);
        }
        let mirrored = self.geometry.is_mirror();
        let missing = places.len() - readable.len();
        if readable.is_empty() && rig.io.museum.on(Exhibit::M19) {
            // M19 (b7c178d9e57c): a check that could not read any member went on to compare.
            return self.write(rig, index);
        }
        if readable.is_empty() || (!mirrored && missing > usize::from(self.geometry.redundancy())) {
            return Some(self.unreadable_range(rig));
        }
        // The source is the leg that host reads see.
        readable.sort_by_key(|place| rig.epoch.rank(place.slot));
        if rig.io.museum.on(Exhibit::U18) {
            // U18: the source was another leg than the one hosts had read.
            readable.reverse();
        }
        if mirrored && self.action == SyncAction::Recover {
            readable.truncate(1);
        }
        self.begin_reads(rig, index, readable)
    }

    fn begin_reads(
        &mut self,
        rig: &mut SyncRig<'_>,
        index: UnitId,
        readable: SmallVec<[Copy; 16]>,
    ) -> Option<UnitEnd> {
        self.stage = Stage::Reading;
        let round = Round {
            epoch: rig.epoch.side(self.moved),
            start_sectors: self.start,
            len_sectors: self.end - self.start,
            purpose: self.purpose(),
        };
        let owner = |tag| Owner::Sync { unit: index, tag };
        self.columns.begin_at(rig.io, &round, readable, owner);
        None
    }

    fn purpose(&self) -> Purpose {
        match self.action {
            SyncAction::Resync | SyncAction::Recover => Purpose::Resync,
            SyncAction::Check | SyncAction::Repair => Purpose::Scrub,
            SyncAction::Reshape => unreachable!("no unit of a run"),
        }
    }

    /// Nobody can invent data, and what was not looked at is not called in sync. Check and repair
    /// have nothing to compare, and go on.
    fn unreadable_range(&self, rig: &mut SyncRig<'_>) -> UnitEnd {
        // M25 (linux-raid 2023-06-02): what could not be read was given up, and the rebuild was
        // over all the same.
        let given_up = rig.io.museum.on(Exhibit::M25);
        // Somebody is about to be failed: perhaps all of this is about that member.
        if !rig.io.effects.is_empty() {
            return UnitEnd::Abandoned;
        }
        if self.is_partly_known(rig) {
            return UnitEnd::Split;
        }
        match self.action {
            SyncAction::Recover if self.record_bad(rig) => self.over(),
            SyncAction::Resync if self.is_known_bad(rig) => self.over(),
            SyncAction::Recover if given_up => UnitEnd::Done {
                mismatch_sectors: 0,
            },
            SyncAction::Resync | SyncAction::Recover => UnitEnd::Failed(format!(
                "member sectors {}..{} cannot be read from enough members",
                self.start, self.end
            )),
            _ => UnitEnd::Done {
                mismatch_sectors: 0,
            },
        }
    }

    /// The sectors of a place on the device of this member.
    fn on_device(&self, rig: &SyncRig<'_>, slot: u16) -> Option<(MemberId, u64, u64)> {
        let column = rig.epoch.side(self.moved).column(slot)?;
        let places = self.places();
        let place = places.iter().find(|place| place.slot == slot)?;
        let start = column.data_offset_sectors + place.member_sectors;
        Some((column.member, start, start + (self.end - self.start)))
    }

    /// Whether a log names a part only of what could not be read, so that smaller parts can tell
    /// more. No part is smaller than a block of any member.
    fn is_partly_known(&self, rig: &SyncRig<'_>) -> bool {
        if !self.can_split(rig) {
            return false;
        }
        let partly = |slot: &u16| {
            let known = self.on_device(rig, *slot);
            known.is_some_and(|(member, start, end)| {
                let bad = rig.io.bad.of(member);
                bad.is_some_and(|bad| bad.overlaps(start, end) && !bad.covers(start, end))
            })
        };
        self.columns.unreadable().iter().any(partly)
    }

    /// Whether only members that are there could not be read, and each of them is known to be bad
    /// here: then there is nothing that could be made to agree.
    fn is_known_bad(&self, rig: &SyncRig<'_>) -> bool {
        let unreadable = self.columns.unreadable();
        let hidden = |slot: &u16| {
            self.on_device(rig, *slot)
                .is_some_and(|(member, start, end)| rig.io.bad.hides(member, start, end))
        };
        !unreadable.is_empty() && unreadable.iter().all(hidden)
    }

    /// What no source can give is recorded as bad on who is being filled. `false` where that
    /// cannot be: the rebuild must not go on as if it were there. Who is replaced keeps its place
    /// while it may yet be read, by whoever tries again: only what logs name is given up then.
    fn record_bad(&self, rig: &mut SyncRig<'_>) -> bool {
        let replaces = !self.replaced(rig).is_empty();
        if self.columns.unreadable().is_empty() || replaces && !self.is_known_bad(rig) {
            return false;
        }
        let places = self.places();
        let len = self.end - self.start;
        // Who replaces another is nobody's column yet.
        let filled = |id: &MemberId| {
            let member = rig.members.get(*id).filter(|m| m.is_active())?;
            let place = places
                .iter()
                .find(|place| member.slot == Some(Slot(place.slot)))?;
            Some((*id, member.data_offset_sectors() + place.member_sectors))
        };
        let filled: SmallVec<[_; 4]> = self.part.targets.iter().filter_map(filled).collect();
        let mut mark = |at: &(MemberId, u64)| rig.io.bad.mark(at.0, at.1, at.1 + len);
        !filled.is_empty() && filled.iter().all(&mut mark)
    }

    pub fn done(
        &mut self,
        rig: &mut SyncRig<'_>,
        index: UnitId,
        tag: u32,
        (member, result): (MemberId, Result<IoDone, IoError>),
        stopping: bool,
    ) -> Option<UnitEnd> {
        if self.stage == Stage::Reading {
            if !self.columns.done(rig.io, tag, member, result) {
                return None;
            }
            let long = self.end - self.start > PART_SECTORS && self.can_split(rig);
            return match self.columns.has_failed() {
                _ if stopping || is_failing(rig) => Some(UnitEnd::Abandoned),
                // What logs name is looked at alone: it may be refused again, and what lies beside
                // it is not to be refused with it.
                true if long || self.is_partly_known(rig) => Some(UnitEnd::Split),
                true => self.sound(rig, index),
                false => self.write(rig, index),
            };
        }
        if self.stage == Stage::Sounding {
            self.block_read(rig, member, result);
            return match self.left {
                0 if stopping || is_failing(rig) => Some(UnitEnd::Abandoned),
                0 if self.partly => Some(UnitEnd::Split),
                0 => self.read(rig, index),
                _ => None,
            };
        }
        assert_eq!(self.stage, Stage::Writing, "no I/O before the lock");
        assert!(self.left > 0, "a write ended that never began");
        self.left -= 1;
        self.write_done(rig, tag, member, result);
        match self.left {
            0 if self.failed => Some(UnitEnd::Abandoned),
            0 if self.refused => Some(UnitEnd::Split),
            0 if self.is_secret(rig) => Some(UnitEnd::Abandoned),
            0 => Some(self.over()),
            _ => None,
        }
    }

    /// Whether a member refused something that its log does not name yet. After a crash it would
    /// come back as what that member holds: until it is recorded nothing here agrees.
    fn is_secret(&self, rig: &SyncRig<'_>) -> bool {
        // U51: members agreed as soon as all of them had been written, or had refused. U44 was made
        // in that time.
        let careless = rig.io.museum.on(Exhibit::U51) || rig.io.museum.on(Exhibit::U44);
        self.secret && rig.metadata.fault_pending() && !careless
    }

    fn can_split(&self, rig: &SyncRig<'_>) -> bool {
        let block = rig.members.block_sectors();
        fine_middle(self.end - self.start, block).is_some()
    }

    /// No column is read in parts that are smaller still, but where parity may be wrong: there it
    /// must not be asked for what can be read. What cannot is written again as one, because disks
    /// may have larger blocks than they say.
    fn sound(&mut self, rig: &mut SyncRig<'_>, index: UnitId) -> Option<UnitEnd> {
        let parity = matches!(*self.geometry, Geometry::Parity(_));
        let agrees = || rig.cover.agrees(rig.bitmap.regions(), self.start, self.end);
        // U30: where a row was made to agree, what could be read beside a bad sector was replaced
        // by what parity said.
        let careless = rig.io.museum.on(Exhibit::U30);
        if !parity || !self.can_split(rig) || agrees() || careless {
            return self.read(rig, index);
        }
        assert_eq!(self.left, 0, "nothing else is under way");
        let block = rig.members.block_sectors();
        let failed = &self.columns.unreadable()[self.sounded..];
        for slot in failed {
            let column = rig
                .epoch
                .side(self.moved)
                .column(*slot)
                .expect("it was just read");
            for at in (self.start..self.end).step_by(block as usize) {
                let sector = column.data_offset_sectors + at;
                let tag = u32::from(*slot);
                let owner = Owner::Sync { unit: index, tag };
                rig.io
                    .read(column.member, sector, block, self.purpose(), owner);
                self.left += 1;
            }
        }
        self.sounded = self.columns.unreadable().len();
        self.stage = Stage::Sounding;
        assert!(self.left > 0, "a column has just failed");
        None
    }

    /// A block of a column that failed was read, or not.
    fn block_read(
        &mut self,
        rig: &mut SyncRig<'_>,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        assert!(self.left > 0, "a read that nobody started");
        self.left -= 1;
        match Io::read_result(result) {
            Ok(_) => self.partly = true,
            Err(IoError::Gone) => {
                let why = "the device is gone".into();
                rig.io.effects.push(Effect::Fail(member, why));
            }
            Err(_) => {}
        }
    }

    fn write_done(
        &mut self,
        rig: &mut SyncRig<'_>,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        if let Err(error) = result {
            self.failed |= !self.is_recorded(rig, tag, member, &error);
        } else if self
            .columns
            .unreadable()
            .iter()
            .any(|slot| u32::from(*slot) == tag)
        {
            rig.io.effects.push(Effect::Corrected(member));
        }
    }

    /// A member did not take what it was to be mended with. Whether that is recorded in its log;
    /// if not it is about to fail. A long part is looked at again in smaller ones first.
    fn is_recorded(
        &mut self,
        rig: &mut SyncRig<'_>,
        tag: u32,
        member: MemberId,
        error: &IoError,
    ) -> bool {
        let places = self.places();
        let long = self.can_split(rig);
        let place = places.iter().find(|place| u32::from(place.slot) == tag);
        let Some(place) = place else {
            let why = format!("write failed: {error}");
            rig.io.effects.push(Effect::Fail(member, why));
            return false;
        };
        let mut scribe = Scribe {
            geometry: &self.geometry,
            epoch: rig.epoch.side(self.moved),
            members: rig.members,
            metadata: rig.metadata,
            io: rig.io,
        };
        let run = (place.member_sectors, self.end - self.start);
        if long && scribe.may_record(place.slot, member, error) {
            self.refused = true;
            return true;
        }
        let recorded = scribe.refused((place.slot, member), run, ("write", error));
        self.secret |= recorded;
        recorded
    }

    fn over(&self) -> UnitEnd {
        UnitEnd::Done {
            mismatch_sectors: self.mismatch_sectors,
        }
    }

    /// Everything is read: compares, computes, and writes what has to be written.
    fn write(&mut self, rig: &mut SyncRig<'_>, index: UnitId) -> Option<UnitEnd> {
        let mends = match &*self.geometry.clone() {
            _ if self.copies => self.copy_mends(rig),
            geometry if geometry.is_mirror() => self.mirror_mends(rig),
            Geometry::Parity(map) => {
                let mut mends = self.parity_mends(rig, map);
                mends.extend(self.copy_mends(rig));
                mends
            }
            _ => unreachable!("nothing to sync without redundancy"),
        };
        let _ = self.columns.take();
        self.stage = Stage::Writing;
        let places = self.places();
        let replaced = self.replaced(rig);
        for mend in mends {
            let place = places.iter().find(|place| place.slot == mend.slot);
            let place = place.expect("what is mended lies there");
            let onto_new = mend.renews || replaced.contains(&mend.slot);
            let epoch = rig.epoch.side(self.moved);
            let Some((member, data_sectors)) = holder(rig, epoch, mend.slot, onto_new) else {
                continue;
            };
            let window = self.window.as_ref().expect("locked");
            let end = mend.sector + (mend.bytes.len() / 512) as u64;
            assert!(
                window.start <= mend.sector && end <= window.end,
                "a sync write outside its window ({:?})",
                window.lock
            );
            let rewrite = !onto_new && self.columns.unreadable().contains(&mend.slot);
            assert!(rewrite || self.may_write(), "a check changes nothing");
            let purpose = if rewrite {
                Purpose::Rewrite
            } else {
                self.purpose()
            };
            let member_sectors = place.member_sectors + (mend.sector - self.start);
            let offset_sectors = data_sectors + member_sectors;
            let data = SmallVec::from_iter([mend.bytes]);
            let tag = u32::from(mend.slot) + if onto_new { ONTO_NEW } else { 0 };
            let owner = Owner::Sync { unit: index, tag };
            let op = IoOp::Write {
                offset_sectors,
                data,
                fua: false,
            };
            rig.io.submit(member, purpose, op, owner);
            self.left += 1;
        }
        (self.left == 0).then(|| self.over())
    }
}

/// Whether a member is about to be failed: nothing more is asked of it.
fn is_failing(rig: &SyncRig<'_>) -> bool {
    let gone = |effect: &Effect| matches!(effect, Effect::Fail(..));
    rig.metadata.fault_pending() || rig.io.effects.iter().any(gone)
}

/// Who is written in a slot, and where its data starts: the member there, or its replacement.
fn holder(rig: &SyncRig<'_>, epoch: &Epoch, slot: u16, onto_new: bool) -> Option<(MemberId, u64)> {
    if onto_new {
        let new = rig.members.replacement_in(Slot(slot))?;
        return Some((new.id, new.data_offset_sectors()));
    }
    let column = epoch.column(slot)?;
    Some((column.member, column.data_offset_sectors))
}
