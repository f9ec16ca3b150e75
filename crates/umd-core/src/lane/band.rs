//! A write to one band of a parity row.
//!
//! ```text
//!   Lock -> Plan -> Read -> Gate -> Write -> over
//!            ^       |       |
//!            +-------+-------+   a read failed, or members changed since the plan
//!            |
//!            `-> two halves      parity may be wrong, or too much cannot be read
//!                        ^           |
//!                        +-----------+   a member refused some of it (narrow.rs)
//! ```
//!
//! The lock is held from the plan to the last write: parity is computed from columns that nobody
//! else changes meanwhile.

use smallvec::SmallVec;

use super::boxes::Boxed;
use super::ladder::{self, Proofs, Target};
use super::locks::LockId;
use super::narrow::{AGAIN, Content, Narrow, Outcome, Part};
use super::request::Gate;
use super::split::{BandRange, fine_middle};
use super::{Job, Lane, Rig, Step, bytes, eio};
use crate::geometry::{Raid456, Row};
use crate::member::{Access, Effect, Gather, Round, blank};
use crate::metadata::FaultRecorded;
use crate::personality::parity::{self, WriteKind, plan_write};
use crate::value::{Exhibit, Instant, IoDone, IoError, MemberId, Purpose};
use crate::value::{RequestError, Rung, Slice};

/// The machine.
#[derive(Default)]
pub(super) struct Band {
    /// The requests it is a part of.
    requests: SmallVec<[u32; 4]>,
    row: Row,
    /// First member data sector.
    start: u64,
    len: u64,
    /// By data index.
    new: SmallVec<[Option<Slice>; 4]>,
    lock: Option<LockId>,
    epoch: u64,
    access: SmallVec<[Access; 16]>,
    kind: WriteKind,
    /// Old data and parity.
    old: Gather,
    /// Writes under way.
    left: usize,
    /// What was sent, by slot, until it is over.
    sent: SmallVec<[(u16, Slice, Purpose); 3]>,
    /// What members refused.
    narrow: Narrow,
    stage: Stage,
    /// Since when it is on the rung it is on.
    since: Instant,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Locking,
    Reading,
    Writing,
}

impl Boxed for Band {
    fn vacate(&mut self) {
        let Band {
            requests,
            row: _, // Each sets its own.
            start,
            len,
            new,
            lock,
            epoch,
            access,
            kind,
            old,
            left,
            sent,
            narrow,
            stage,
            since,
        } = self;
        (*start, *len, *epoch, *left) = (0, 0, 0, 0);
        (*lock, *since) = (None, Instant::default());
        (*kind, *stage) = (WriteKind::default(), Stage::default());
        requests.clear();
        let columns = new.len();
        blank(new, columns);
        access.clear();
        sent.clear();
        old.clear();
        narrow.clear();
    }
}

impl Band {
    /// Makes an empty one a band of a request that is admitted now.
    pub fn begin(
        &mut self,
        now: Instant,
        request: u32,
        (map, range): (&Raid456, &BandRange),
        parts: impl Iterator<Item = (u16, Slice)>,
    ) {
        assert!(
            self.lock.is_none() && self.requests.is_empty(),
            "a place that is empty"
        );
        blank(&mut self.new, usize::from(map.data_disks()));
        for (index, part) in parts {
            assert_eq!(part.len(), bytes(range.len_sectors), "all of the band");
            let before = self.new[usize::from(index)].replace(part);
            assert!(before.is_none(), "a column is written once");
        }
        assert!(
            self.new.iter().any(Option::is_some),
            "a band that writes something"
        );
        self.requests.push(request);
        self.row.set(&map.row(range.row));
        self.start = range.row * map.chunk_sectors() + range.from_sectors;
        self.len = range.len_sectors;
        self.since = now;
    }

    /// First member data sector, and length.
    pub fn range(&self) -> (u64, u64) {
        (self.start, self.len)
    }

    /// Requests that wait for it.
    pub fn parts(&self) -> usize {
        self.requests.len()
    }

    /// Whether every data column is written.
    pub fn is_whole(&self) -> bool {
        self.new.iter().all(Option::is_some)
    }

    /// Whether it writes the first data columns of its row, and not all.
    pub fn begins_row(&self) -> bool {
        let written = self.new.iter().take_while(|new| new.is_some()).count();
        let all = self.new.iter().flatten().count();
        written == all && all < self.new.len()
    }

    /// Whether two bands of one range write different columns, for different requests.
    pub fn can_join(&self, other: &Band) -> bool {
        let mut pairs = self.new.iter().zip(&other.new);
        let apart = pairs.all(|(a, b)| a.is_none() || b.is_none());
        apart && !self.requests.iter().any(|r| other.requests.contains(r))
    }

    /// Whether it has asked for its lock.
    pub fn has_begun(&self) -> bool {
        self.lock.is_some()
    }

    /// Makes one band of two, neither of which has begun.
    pub fn join(&mut self, other: &mut Band) {
        assert_eq!(self.range(), other.range(), "bands of one range");
        assert!(self.can_join(other), "a column is written once");
        let begun = self.has_begun() || other.has_begun();
        assert!(!begun, "joined before they begin");
        for (mine, new) in self.new.iter_mut().zip(&mut other.new) {
            *mine = mine.take().or(new.take());
        }
        self.requests.append(&mut other.requests);
    }

    pub fn start(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let (lock, held) = lane.lock(index, (self.start, self.start + self.len));
        self.lock = Some(lock);
        if lane.shift().is_some() && rig.io.museum.on(Exhibit::M47) {
            // M47 (25b3a8237a03): how far the reshape was had been asked for before the lock,
            // too, and rows were taken for what they were then.
            self.row.set(&lane.row_at(self.start));
        }
        if held {
            self.locked(lane, rig, index)
        } else {
            Step::Stay(Job::Band(self))
        }
    }

    /// Plans by the members as they are now, and starts the reads that the plan needs.
    pub fn locked(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        assert_eq!(self.left, 0, "planned before it is written");
        assert!(rig.epoch.number >= self.epoch, "epochs only rise");
        let now = rig.io.now().mono;
        if self.stage == Stage::Locking {
            lane.rungs.left(Rung::Lock, self.since, now);
        }
        self.since = now;
        self.epoch = rig.epoch.number;
        if lane.shift().is_some() && !rig.io.museum.on(Exhibit::M47) {
            self.row.set(&lane.row_at(self.start));
        }
        // M30 (9c4bdf697c39): with two members missing, one of them being rebuilt, what it held was
        // used before it was right.
        let unfilled = rig.io.museum.on(Exhibit::M30) && rig.epoch.degraded() == 2;
        self.look_at_columns(lane, rig, unfilled);
        let trusted = rig
            .cover
            .agrees(rig.bitmap.regions(), self.start, self.start + self.len);
        let touched = |index: usize| self.new[index].is_some();
        let Some(plan) = plan_write(&self.row, &self.access, touched, trusted) else {
            return self.without_plan(lane, rig);
        };
        // U29: parity that was wrong said what the whole piece of a member held of which a sector
        // could not be read.
        let careful = !trusted && !rig.io.museum.on(Exhibit::U29);
        if careful && plan.kind == WriteKind::Recover && self.fails_to_read(rig) {
            let block = rig.members.block_sectors();
            if let Some(at) = fine_middle(self.len, block) {
                return self.in_two(lane, rig, at);
            }
        }
        self.kind = plan.kind;
        self.stage = Stage::Reading;
        let round = Round {
            epoch: rig.epoch.side(lane.has_moved(self.start)),
            start_sectors: self.start,
            len_sectors: self.len,
            purpose: Purpose::Preread,
        };
        let owner = |tag| Lane::owner(index, tag);
        self.old.begin(rig.io, &round, plan.reads, owner);
        if self.old.is_idle() {
            self.gate(lane, rig, index)
        } else {
            Step::Stay(Job::Band(self))
        }
    }

    /// What each slot is good for.
    fn look_at_columns(&mut self, lane: &Lane, rig: &Rig<'_>, unfilled: bool) {
        let (start, end) = (self.start, self.start + self.len);
        let slots = lane.geometry.raid_disks();
        let unreadable = self.old.unreadable();
        self.access.clear();
        if rig.epoch.whole && rig.epoch.columns.len() == usize::from(slots) {
            self.access.resize(usize::from(slots), Access::Usable);
            for slot in unreadable {
                self.access[usize::from(*slot)] = Access::WriteOnly;
            }
            return;
        }
        self.access.extend((0..slots).map(|slot| {
            let column = rig.epoch.column(slot);
            match rig.cover.locked_access(column, start, end) {
                Access::Usable if unreadable.contains(&slot) => Access::WriteOnly,
                _ if unfilled && column.is_some() => Access::Usable,
                access => access,
            }
        }));
    }

    /// Old data is in. Goes on to the writes when nothing stands against it.
    pub fn gate(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let recorded = match self.all_gates(lane, rig) {
            Gate::Open(recorded) => recorded,
            Gate::Wait => return Step::Gate(Job::Band(self)),
            Gate::Refuse(error) => {
                self.narrow.give_up(rig, "write failed: media error");
                return self.over(lane, rig, Err(error));
            }
        };
        if self.stage == Stage::Writing {
            return self.narrow(lane, rig, index, &recorded);
        }
        if self.epoch != rig.epoch.number {
            return self.locked(lane, rig, index);
        }
        let requests = || {
            let all = self.requests.iter().map(|index| lane.requests.get(*index));
            all.map(|request| request.expect("a job has its request"))
        };
        let fua = requests().any(|request| request.fua);
        // All of them touch the same member sectors, so each has the proofs for the whole band.
        let first = requests().next().expect("a band of somebody");
        let (active, intent) = first.tokens();
        let proofs = Proofs {
            active,
            intent,
            recorded: &recorded,
        };
        let band = parity::Band {
            row: &self.row,
            access: &self.access,
            new: &self.new,
            old: self.old.columns_mut(),
            len_bytes: bytes(self.len),
            pool: &rig.io.pool,
        };
        assert_eq!(self.left, 0, "a band is written once");
        let writes = parity::compute_write(self.kind, band);
        self.old.drop_columns();
        let epoch = rig.epoch.side(lane.has_moved(self.start));
        for write in writes {
            let column = epoch
                .column(write.slot)
                .expect("a slot to write has a member");
            let owner = Lane::owner(index, u32::from(write.slot));
            let target = Target {
                column,
                member_sectors: self.start,
                intent_sectors: (self.start, self.len),
                fua,
                owner,
            };
            let bytes = write.bytes;
            self.sent.push((write.slot, bytes.clone(), write.purpose));
            ladder::write(rig.io, &proofs, &target, bytes, write.purpose);
            self.left += 1;
        }
        (self.stage, self.since) = (Stage::Writing, rig.io.now().mono);
        match self.left {
            0 => self.over(lane, rig, Err(eio("no member is left to hold this data"))),
            _ => Step::Stay(Job::Band(self)),
        }
    }

    /// Open when it is for every request; each is asked, so that all of them get on.
    fn all_gates(&self, lane: &mut Lane, rig: &mut Rig<'_>) -> Gate {
        let mut all = None;
        for request in &self.requests {
            let gate = lane.gate(rig, *request);
            all = match (all, gate) {
                (_, Gate::Refuse(error)) => return Gate::Refuse(error),
                (None, gate) => Some(gate),
                (Some(Gate::Open(_)), gate) => Some(gate),
                (Some(waiting), _) => Some(waiting),
            };
        }
        all.expect("a band of somebody")
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
        if self.stage == Stage::Reading {
            return match self.old.done(rig.io, tag, member, result) {
                false => Step::Stay(Job::Band(self)),
                true => self.read(lane, rig, index),
            };
        }
        assert_eq!(self.stage, Stage::Writing, "no I/O before the lock");
        if tag & AGAIN != 0 {
            return match self.narrow.done(lane, rig, tag, result) {
                true => self.gate(lane, rig, index),
                false => Step::Stay(Job::Band(self)),
            };
        }
        assert!(self.left > 0, "a write ended that never began");
        self.left -= 1;
        if let Err(error) = result {
            let part = self.refused(rig, tag, member);
            if !part.is_some_and(|part| self.narrow.takes(lane, rig, part, &error)) {
                let why = format!("write failed: {error}");
                rig.io.effects.push(Effect::Fail(member, why));
            }
            for index in &self.requests {
                let request = lane.requests.get_mut(*index);
                request.expect("a job has its request").met_fault = true;
            }
        }
        match self.left {
            0 if self.narrow.is_idle() => self.over(lane, rig, Ok(())),
            0 => self.gate(lane, rig, index),
            _ => Step::Stay(Job::Band(self)),
        }
    }

    /// What a member refused of this band.
    fn refused(&self, rig: &Rig<'_>, tag: u32, member: MemberId) -> Option<Part> {
        let mut sent = self.sent.iter();
        let (slot, bytes, what) = sent.find(|(slot, ..)| u32::from(*slot) == tag)?;
        let column = rig.epoch.column(*slot).filter(|c| c.member == member)?;
        Some(Part {
            slot: *slot,
            column: *column,
            member_sectors: self.start,
            len_sectors: self.len,
            content: Content::Bytes(bytes.clone(), *what),
        })
    }

    /// Writes again in parts what members refused, or decides about it.
    fn narrow(
        mut self: Box<Self>,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        index: u32,
        recorded: &FaultRecorded,
    ) -> Step {
        let requests = || {
            let all = self.requests.iter().map(|index| lane.requests.get(*index));
            all.map(|request| request.expect("a job has its request"))
        };
        let fua = requests().any(|request| request.fua);
        let (active, intent) = requests().next().expect("a band of somebody").tokens();
        let proofs = Proofs {
            active,
            intent,
            recorded,
        };
        let how = ((self.start, self.len), fua, index);
        match self.narrow.go_on(lane, rig, &proofs, how) {
            Outcome::Writing => Step::Stay(Job::Band(self)),
            Outcome::Over => self.over(lane, rig, Ok(())),
        }
    }

    /// All reads of the plan ended.
    fn read(self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        lane.rungs.left(Rung::Read, self.since, rig.io.now().mono);
        // M41 (a40687ff73a5): for writes that are not aligned, who chose what to read and who said
        // what was lacking did not agree, and never came to an end.
        let again = !self.len.is_multiple_of(8) && rig.io.museum.on(Exhibit::M41);
        match self.unread() || again {
            true => self.locked(lane, rig, index),
            false => self.gate(lane, rig, index),
        }
    }

    /// Whether a read of this plan failed: then it is planned again without that column.
    fn unread(&self) -> bool {
        self.old
            .unreadable()
            .iter()
            .any(|s| self.access[usize::from(*s)] == Access::Usable)
    }

    /// Whether a member that is here to stay could not be read: perhaps in a part of the band only.
    /// Parity that may be wrong must not say what the rest of it holds.
    fn fails_to_read(&self, rig: &Rig<'_>) -> bool {
        let gone = |effect: &Effect| matches!(effect, Effect::Fail(..));
        if rig.io.effects.iter().any(gone) {
            // Planned again without it, before anything is written.
            return false;
        }
        let end = self.start + self.len;
        let holds = |slot: &u16| {
            let column = rig.epoch.column(*slot);
            rig.cover.locked_access(column, self.start, end) == Access::Usable
        };
        self.old.unreadable().iter().any(holds)
    }

    /// Too many columns cannot be read somewhere in the band: perhaps each somewhere else.
    fn without_plan(self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>) -> Step {
        let at = fine_middle(self.len, rig.members.block_sectors());
        match at.filter(|_| !self.old.unreadable().is_empty()) {
            Some(at) => self.in_two(lane, rig, at),
            None => self.over(
                lane,
                rig,
                Err(eio("too many members are lost to keep parity")),
            ),
        }
    }

    /// Ends, and begins again as two bands.
    fn in_two(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, at: u64) -> Step {
        assert!(self.old.is_idle(), "a lock goes back after the last I/O");
        lane.unlock(self.lock.take().expect("locked at the start"));
        let first = self.part(0, at);
        let second = self.part(at, self.len);
        let halves = [first, second].map(|half| Job::Band(lane.bands.take(half)));
        lane.parts_split(rig, &self.requests, halves);
        lane.bands.give_back(self);
        Step::Over
    }

    /// The sectors `from..to` of the band as a band of their own.
    fn part(&self, from: u64, to: u64) -> Band {
        let cut = |new: &Option<Slice>| new.as_ref().map(|new| new.sub(bytes(from)..bytes(to)));
        Band {
            requests: self.requests.clone(),
            row: self.row.clone(),
            start: self.start + from,
            len: to - from,
            new: self.new.iter().map(cut).collect(),
            lock: None,
            epoch: 0,
            access: SmallVec::new(),
            kind: WriteKind::Full,
            old: Gather::default(),
            left: 0,
            sent: SmallVec::new(),
            narrow: Narrow::default(),
            stage: Stage::Locking,
            since: self.since,
        }
    }

    fn over(
        self: Box<Self>,
        lane: &mut Lane,
        rig: &Rig<'_>,
        result: Result<(), RequestError>,
    ) -> Step {
        let idle = self.left == 0 && self.old.is_idle();
        assert!(idle, "a lock goes back after the last I/O");
        if self.stage == Stage::Writing {
            lane.rungs.left(Rung::Write, self.since, rig.io.now().mono);
        }
        lane.unlock(self.lock.expect("locked at the start"));
        for request in &self.requests {
            lane.part_over(*request, result.clone());
        }
        lane.bands.give_back(self);
        Step::Over
    }
}
