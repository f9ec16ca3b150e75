//! Writes that need nothing from other columns: mirrors, stripes without parity, and zeroing.
//!
//! ```text
//!   start --(redundant: lock)--> gate --> write to every column --> over
//!                                                      |             ^
//!                       ^    write-behind: ordinary legs are done    | write-mostly legs are
//!                       |                              `--> answered-+
//!                       `-- again in parts: a member refused some of it (narrow.rs)
//! ```

use smallvec::SmallVec;

use super::boxes::Boxed;
use super::ladder::{self, Proofs, Target};
use super::locks::{LockId, NOWHERE};
use super::narrow::{AGAIN, Content, Narrow, Outcome, Part};
use super::request::Gate;
use super::split::Piece;
use super::zero::Run;
use super::{Job, Lane, Rig, Step, bytes, eio};
use crate::geometry::Geometry;
use crate::member::{Access, Column, Effect};
use crate::value::{Exhibit, Instant, IoDone, IoError, MemberId, Purpose, Rung, Slice};

/// The chunk of a RAID10.
fn askew_chunk(lane: &Lane) -> u64 {
    match &*lane.geometry {
        Geometry::Copied(map) => map.chunk_sectors(),
        _ => 1,
    }
}

/// What is written.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// Host data.
    Data(Slice),
    /// Zeros made by the member.
    Zeros { may_unmap: bool },
}

impl Default for Payload {
    fn default() -> Payload {
        Payload::Zeros { may_unmap: false }
    }
}

/// A write of the same thing to every column of its piece.
#[derive(Default)]
pub(super) struct Direct {
    request: u32,
    piece: Piece,
    payload: Payload,
    /// Where it is written, if its copies do not lie side by side.
    spread: Vec<Run>,
    lock: Option<LockId>,
    /// Writes under way that the host waits for.
    left: usize,
    /// It was counted as one that may lag.
    behind: bool,
    /// Writes under way to legs that may lag.
    lagging: usize,
    /// The host need not wait any more.
    answered: bool,
    /// Slots of members in sync that hold it.
    held: SmallVec<[u16; 4]>,
    /// Members that took it while they were being rebuilt.
    rebuilt: SmallVec<[(u16, MemberId); 1]>,
    error: Option<String>,
    /// What members refused, and who that was.
    narrow: Narrow,
    retried: SmallVec<[(u16, MemberId); 1]>,
    /// Since when it waits for its lock, or is written.
    since: Instant,
}

/// In the tag of a write, from below: the member is in sync; its leg may lag; its slot; which of
/// the runs it is, or `RUNS_MAX` where there are too many to tell.
const IN_SYNC: u32 = 1;
const LAGGING: u32 = 2;
const SLOT_BITS: u32 = 16;
const RUN_SHIFT: u32 = 2 + SLOT_BITS;
const RUNS_MAX: u32 = (AGAIN >> RUN_SHIFT) - 1;

/// The tag of a write.
fn tag_of((run, slot): (usize, u16), in_sync: bool, lags: bool) -> u32 {
    let flags = if in_sync { IN_SYNC } else { 0 } | if lags { LAGGING } else { 0 };
    let run = u32::try_from(run).map_or(RUNS_MAX, |run| run.min(RUNS_MAX));
    run << RUN_SHIFT | u32::from(slot) << 2 | flags
}

/// The slot that a write went to.
fn slot_of(tag: u32) -> u16 {
    (tag >> 2) as u16
}

/// A column to be written, where, and which of all runs that is.
type Place = (Column, Run, usize);

impl Boxed for Direct {
    fn vacate(&mut self) {
        let Direct {
            request,
            piece,
            payload,
            spread,
            lock,
            left,
            behind,
            lagging,
            answered,
            held,
            rebuilt,
            error,
            narrow,
            retried,
            since,
        } = self;
        (*request, *piece, *since) = Default::default();
        *payload = Payload::default();
        (*lock, *error) = (None, None);
        (*left, *lagging) = (0, 0);
        (*behind, *answered) = (false, false);
        spread.clear();
        held.clear();
        rebuilt.clear();
        retried.clear();
        narrow.clear();
    }
}

impl Direct {
    pub fn new(request: u32, piece: Piece, payload: Payload) -> Direct {
        let mut direct = Direct::default();
        direct.begin(request, piece, payload);
        direct
    }

    /// Makes an empty one a write.
    pub fn begin(&mut self, request: u32, piece: Piece, payload: Payload) {
        if let Payload::Data(data) = &payload {
            assert_eq!(data.len(), bytes(piece.len_sectors), "all of the piece");
        }
        assert!(self.lock.is_none(), "a place that is empty");
        (self.request, self.piece, self.payload) = (request, piece, payload);
    }

    /// Zeros for copies that lie in these runs.
    pub fn spread(request: u32, piece: Piece, payload: Payload, runs: Vec<Run>) -> Direct {
        assert!(!runs.is_empty(), "each sector lies somewhere");
        let mut direct = Direct::new(request, piece, payload);
        direct.spread = runs;
        direct
    }

    pub fn start(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        if !lane.geometry.is_redundant() {
            return self.gate(lane, rig, index);
        }
        let mut start = self.piece.member_sectors;
        if self.discards(lane) && rig.io.museum.on(Exhibit::M34) {
            // M34 (f8dfcffd0472): a resync looked at stripes that were being discarded. This lock
            // lies where nobody else looks.
            start += NOWHERE;
        }
        let (lock, held) = lane.lock(index, (start, start + self.piece.len_sectors));
        self.lock = Some(lock);
        self.since = rig.io.now().mono;
        if held {
            self.locked(lane, rig, index)
        } else {
            Step::Stay(Job::Direct(self))
        }
    }

    pub fn locked(self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        lane.rungs.left(Rung::Lock, self.since, rig.io.now().mono);
        self.gate(lane, rig, index)
    }

    pub fn gate(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        if !self.narrow.is_idle() {
            return self.narrow(lane, rig, index);
        }
        let recorded = match lane.gate(rig, self.request) {
            Gate::Open(recorded) => recorded,
            Gate::Wait => return Step::Gate(Job::Direct(self)),
            Gate::Refuse(error) => return self.over(lane, rig, Err(error)),
        };
        let places = self.written_places(lane, rig);
        self.behind = self.may_lag(lane, rig, &places);
        if self.is_counted(rig) {
            lane.behind.begin(self.len_bytes());
        }
        let request = lane
            .requests
            .get(self.request)
            .expect("a job has its request");
        let (active, intent) = request.tokens();
        let proofs = Proofs {
            active,
            intent,
            recorded: &recorded,
        };
        assert_eq!(self.left, 0, "a piece is written once");
        assert!(
            !lane.geometry.is_redundant() || self.lock.is_some(),
            "copies are written under a lock"
        );
        for place in &places {
            self.write(rig, &proofs, place, request.fua, index);
            if self.is_counted(rig) && place.0.write_mostly {
                lane.behind.sent(place.1.slot);
            }
        }
        self.since = rig.io.now().mono;
        match self.left {
            0 => self.over(lane, rig, Err(eio("no member is left to hold this data"))),
            _ => Step::Stay(Job::Direct(self)),
        }
    }

    /// What a member of this slot was given.
    fn part(&self, lane: &Lane, rig: &Rig<'_>, (tag, member): (u32, MemberId)) -> Option<Part> {
        let slot = slot_of(tag);
        let column = rig.epoch.column(slot).filter(|c| c.member == member)?;
        let number = tag >> RUN_SHIFT;
        let run = self.places(lane).get(number as usize).copied();
        let run = run.filter(|run| number < RUNS_MAX && run.slot == slot)?;
        Some(Part {
            slot,
            column: *column,
            member_sectors: run.member_sectors,
            len_sectors: run.len_sectors,
            content: match &self.payload {
                Payload::Data(data) => Content::Bytes(data.clone(), Purpose::Data),
                Payload::Zeros { may_unmap } => Content::Zeros {
                    may_unmap: *may_unmap,
                },
            },
        })
    }

    /// Where it is written: wherever something is that takes it.
    fn written_places(&self, lane: &Lane, rig: &Rig<'_>) -> SmallVec<[Place; 4]> {
        let mut written = SmallVec::new();
        for (number, run) in self.places(lane).into_iter().enumerate() {
            let column = rig.epoch.column(run.slot);
            let end = run.member_sectors + run.len_sectors;
            if rig.cover.locked_access(column, run.member_sectors, end) == Access::Lost {
                continue;
            }
            let run = match self.trims_askew(lane, rig, run) {
                true => Run {
                    member_sectors: run.member_sectors - run.member_sectors % askew_chunk(lane),
                    ..run
                },
                false => run,
            };
            written.push((*column.expect("not lost"), run, number));
        }
        written
    }

    /// Whether the host may be answered before write-mostly legs hold it: data of a RAID1 that
    /// need not be durable yet, for which an ordinary leg in sync answers.
    fn may_lag(&self, lane: &Lane, rig: &Rig<'_>, places: &[Place]) -> bool {
        let data = matches!(self.payload, Payload::Data(_));
        let mirrored = matches!(*lane.geometry, Geometry::Mirrored { .. });
        let request = lane.requests.get(self.request);
        let durable = request.expect("a job has its request").fua;
        let lags = places.iter().any(|(column, ..)| column.write_mostly);
        let vouches = |(column, ..): &Place| column.in_sync && !column.write_mostly;
        let limit = rig.bitmap.write_behind();
        // M07 (20cecae877a6): writes lagged in an array without a bitmap, where nobody counts them
        // and nobody waits for them.
        let room = lane.behind.has_room(limit, self.len_bytes())
            || rig.bitmap.regions().is_none() && rig.io.museum.on(Exhibit::M07);
        data && mirrored && !durable && lags && places.iter().any(vouches) && room
    }

    /// Whether it stands among those that lag. All but those of M07 do.
    fn is_counted(&self, rig: &Rig<'_>) -> bool {
        let uncounted = rig.bitmap.regions().is_none() && rig.io.museum.on(Exhibit::M07);
        self.behind && !uncounted
    }

    fn len_bytes(&self) -> u64 {
        self.piece.len_sectors * 512
    }

    /// Whether members are being written for it between these array sectors.
    pub fn is_writing_within(&self, start: u64, end: u64) -> bool {
        let (from, len) = (self.piece.array_sectors, self.piece.len_sectors);
        let writing = self.left + self.lagging > 0 || !self.narrow.is_idle();
        writing && from < end && start < from + len
    }

    /// The host has its answer, or gets it without this job.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// M26 (d30588b2731f): a discard that began within a chunk began at its start on every copy but
    /// the first.
    fn trims_askew(&self, lane: &Lane, rig: &Rig<'_>, run: Run) -> bool {
        let zeros = matches!(self.payload, Payload::Zeros { .. });
        let copied = matches!(*lane.geometry, Geometry::Copied(_));
        let mistaken = zeros && copied && rig.io.museum.on(Exhibit::M26);
        mistaken && {
            let first = lane.geometry.copies(self.piece.array_sectors)[0];
            (first.slot, first.member_sectors) != (run.slot, run.member_sectors)
        }
    }

    fn discards(&self, lane: &Lane) -> bool {
        let zeros = matches!(self.payload, Payload::Zeros { .. });
        zeros && matches!(*lane.geometry, Geometry::Parity(_))
    }

    /// Everywhere it has to be written.
    fn places(&self, lane: &Lane) -> SmallVec<[Run; 4]> {
        if !self.spread.is_empty() {
            return SmallVec::from_slice(&self.spread);
        }
        let at = |slot, member_sectors| Run {
            slot,
            member_sectors,
            len_sectors: self.piece.len_sectors,
        };
        let here = self.piece.member_sectors;
        match &*lane.geometry {
            geometry if geometry.is_mirror() => {
                let copies = geometry.copies(self.piece.array_sectors).into_iter();
                copies
                    .map(|copy| at(copy.slot, copy.member_sectors))
                    .collect()
            }
            Geometry::Parity(map) => (0..map.raid_disks()).map(|slot| at(slot, here)).collect(),
            _ => SmallVec::from_iter([at(self.piece.slot, here)]),
        }
    }

    /// Whether every sector is held by a member in sync.
    fn is_held(&self, lane: &Lane) -> bool {
        if self.spread.is_empty() {
            return !self.held.is_empty();
        }
        let written = |slot: u16| self.spread.iter().any(|run| run.slot == slot);
        let held = |slot: u16| self.held.contains(&slot) || !written(slot);
        lane.geometry.survives(held)
    }

    fn write(
        &mut self,
        rig: &mut Rig<'_>,
        proofs: &Proofs<'_>,
        (column, run, number): &Place,
        fua: bool,
        index: u32,
    ) {
        let lags = self.behind && column.write_mostly;
        let owner = Lane::owner(index, tag_of((*number, run.slot), column.in_sync, lags));
        let member_sectors = run.member_sectors;
        let target = Target {
            column,
            member_sectors,
            intent_sectors: (self.piece.member_sectors, self.piece.len_sectors),
            fua,
            owner,
        };
        match &self.payload {
            // M18 (93dec51e716d): the copy of a request that was made for a write-mostly member
            // lost what it was, and became a read.
            Payload::Data(data) if column.write_mostly && rig.io.museum.on(Exhibit::M18) => {
                let at = column.data_offset_sectors + member_sectors;
                let len = (data.len() / 512) as u64;
                rig.io.read(column.member, at, len, Purpose::Data, owner);
            }
            Payload::Data(data) => {
                ladder::write(rig.io, proofs, &target, data.clone(), Purpose::Data);
            }
            Payload::Zeros { may_unmap } => {
                ladder::write_zeroes(rig.io, proofs, &target, run.len_sectors, *may_unmap);
            }
        }
        match lags {
            true => self.lagging += 1,
            false => self.left += 1,
        }
    }

    /// What members refused: written again in parts, until all of it is written, recorded, or its
    /// member is about to fail.
    fn narrow(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let recorded = match lane.gate(rig, self.request) {
            Gate::Open(recorded) => recorded,
            Gate::Wait => return Step::Gate(Job::Direct(self)),
            Gate::Refuse(error) => {
                self.narrow.give_up(rig, "write failed: media error");
                return self.over(lane, rig, Err(error));
            }
        };
        let request = lane.requests.get(self.request);
        let request = request.expect("a job has its request");
        let (active, intent) = request.tokens();
        let proofs = Proofs {
            active,
            intent,
            recorded: &recorded,
        };
        let within = (self.piece.member_sectors, self.piece.len_sectors);
        let how = (within, request.fua, index);
        match self.narrow.go_on(lane, rig, &proofs, how) {
            Outcome::Writing => Step::Stay(Job::Direct(self)),
            Outcome::Over => self.written(lane, rig),
        }
    }

    pub fn done(
        mut self: Box<Self>,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        (index, tag): (u32, u32),
        (member, result): (MemberId, Result<IoDone, IoError>),
    ) -> Step {
        if tag & AGAIN != 0 {
            return match self.narrow.done(lane, rig, tag, result) {
                true => self.narrow(lane, rig, index),
                false => Step::Stay(Job::Direct(self)),
            };
        }
        let count = match tag & LAGGING {
            0 => &mut self.left,
            _ => &mut self.lagging,
        };
        assert!(*count > 0, "a write ended that never began");
        *count -= 1;
        let slot = slot_of(tag);
        if tag & LAGGING != 0 && self.is_counted(rig) {
            lane.behind.landed(slot);
        }
        match result {
            // M13 (3056e3aec8d8): a write that only a member being rebuilt had taken was a success.
            Ok(_) => match tag & IN_SYNC != 0 || rig.io.museum.on(Exhibit::M13) {
                true => self.held.push(slot),
                false => self.rebuilt.push((slot, member)),
            },
            Err(error) => self.failed(lane, rig, (tag, member), &error),
        }
        self.count_rebuilt(rig);
        // An ordinary leg vouches for it, or, where all of them failed, one that did not lag.
        let vouched = self.is_held(lane) && self.narrow.is_idle();
        if self.left == 0 && self.lagging > 0 && vouched && !self.answered {
            self.answered = true;
            lane.rungs.left(Rung::Write, self.since, rig.io.now().mono);
            lane.part_lags(self.request);
            // M06 (3e148a320979): of two overlapping writes that lagged the first could land last.
            if rig.io.museum.on(Exhibit::M06)
                && let Some(lock) = self.lock.take()
            {
                lane.unlock(lock);
            }
        }
        if self.left + self.lagging > 0 {
            return Step::Stay(Job::Direct(self));
        }
        if self.answered {
            return self.over(lane, rig, Ok(()));
        }
        match self.narrow.is_idle() {
            true => self.written(lane, rig),
            false => self.narrow(lane, rig, index),
        }
    }

    /// No member is written any more.
    fn written(mut self: Box<Self>, lane: &mut Lane, rig: &mut Rig<'_>) -> Step {
        lane.rungs.left(Rung::Write, self.since, rig.io.now().mono);
        // Who refused some of it holds the rest, or is about to fail. Whether others hold the
        // rest of it is asked for each sector before the host is answered.
        for (slot, member) in std::mem::take(&mut self.retried) {
            if rig
                .epoch
                .column(slot)
                .is_some_and(|c| c.in_sync && c.member == member)
            {
                self.held.push(slot);
            }
        }
        self.count_rebuilt(rig);
        let result = match (self.is_held(lane), self.error.take()) {
            (true, _) => Ok(()),
            (false, why) => Err(eio(
                why.unwrap_or_else(|| "no in-sync member holds it".into())
            )),
        };
        self.over(lane, rig, result)
    }

    /// Whose rebuild has ended since then holds it as any member in sync does.
    fn count_rebuilt(&mut self, rig: &Rig<'_>) {
        // U24: only who was in sync when the write began counted.
        if rig.io.museum.on(Exhibit::U24) {
            return;
        }
        let held = &mut self.held;
        self.rebuilt.retain(|(slot, member)| {
            let column = rig.epoch.column(*slot);
            let whole = column.is_some_and(|c| c.in_sync && c.member == *member);
            if whole {
                held.push(*slot);
            }
            !whole
        });
    }

    /// A member did not take it. What was answered already is nowhere but on the others: if the
    /// array cannot do without this member, it must not be read any more.
    fn failed(
        &mut self,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        (tag, member): (u32, MemberId),
        error: &IoError,
    ) {
        let request = lane.requests.get_mut(self.request);
        request.expect("a job has its request").met_fault = true;
        let why = format!("write failed: {error}");
        // What lags was answered, or is about to be: nothing can be recorded first any more.
        let part = self
            .part(lane, rig, (tag, member))
            .filter(|_| tag & LAGGING == 0);
        if part.is_some_and(|part| self.narrow.takes(lane, rig, part, error)) {
            self.retried.push((slot_of(tag), member));
        } else if self.answered {
            rig.io.effects.push(Effect::Missed(member, why));
        } else if lane.geometry.is_redundant() || *error == IoError::Gone {
            rig.io.effects.push(Effect::Fail(member, why));
        }
        let name = super::read::name(rig, member);
        self.error = Some(format!("member {name} cannot be written: {error}"));
    }

    fn over(
        self: Box<Self>,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        result: Result<(), crate::value::RequestError>,
    ) -> Step {
        let under_way = self.left + self.lagging;
        assert_eq!(under_way, 0, "a lock goes back after the last I/O");
        if let Some(lock) = self.lock {
            lane.unlock(lock);
        }
        if self.is_counted(rig) {
            lane.behind.end(self.len_bytes());
        }
        match self.answered {
            true => lane.landed(rig, self.request),
            false => lane.part_over(self.request, result),
        }
        lane.directs.give_back(self);
        Step::Over
    }
}
