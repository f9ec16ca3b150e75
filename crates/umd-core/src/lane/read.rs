//! Reads of one piece, and the mending of mirrors.
//!
//! ```text
//!   Read: column --ok--> piece
//!            |
//!          error --mirror--> next leg ... --none left--> EIO
//!            |                  `-ok--> piece, and Mend: lock, read a good leg, write the bad one
//!            `---parity--> Reconstruct
//! ```
//!
//! A leg that lags is read when nothing lags any more.

use smallvec::SmallVec;

use super::doubt::Doubtful;
use super::locks::LockId;
use super::narrow::{may_record, mending_refused};
use super::reconstruct::Reconstruct;
use super::split::{Piece, fine_middle};
use super::{Job, Lane, Rig, Step, eio};
use crate::geometry::{Copy, Geometry};
use crate::member::{Access, Column, Effect, Io};
use crate::value::{Buf, Exhibit, IoDone, IoError, IoOp, MemberId, Purpose};

/// Spreads reads over mirrors.
#[derive(Debug)]
pub(super) struct Balance {
    legs: Vec<Leg>,
}

#[derive(Debug, Clone, Default)]
struct Leg {
    in_flight: u32,
    last_end_sectors: u64,
}

impl Balance {
    pub fn new(legs: u16) -> Balance {
        Balance {
            legs: vec![Leg::default(); usize::from(legs)],
        }
    }

    /// There are so many legs from here on. Reads of others may still be under way.
    pub fn reach(&mut self, legs: u16) {
        let most = self.legs.len().max(usize::from(legs));
        self.legs.resize(most, Leg::default());
    }

    /// The leg that goes on where it is, else the least busy one, else the lowest.
    fn choose(&self, legs: impl Iterator<Item = Copy>) -> Option<Copy> {
        legs.min_by_key(|copy| {
            let leg = &self.legs[usize::from(copy.slot)];
            let follows = leg.last_end_sectors == copy.member_sectors && leg.in_flight < 8;
            (!follows, leg.in_flight, copy.slot)
        })
    }

    fn begun(&mut self, slot: u16, end: u64) {
        let leg = &mut self.legs[usize::from(slot)];
        leg.in_flight += 1;
        leg.last_end_sectors = end;
    }

    /// Reads under way on all legs.
    pub fn in_flight(&self) -> usize {
        self.legs.iter().map(|leg| leg.in_flight as usize).sum()
    }

    fn ended(&mut self, slot: u16) {
        let leg = &mut self.legs[usize::from(slot)];
        assert!(leg.in_flight > 0, "a read ended that never began");
        leg.in_flight -= 1;
    }
}

/// A read of one piece from one column.
pub(super) struct Read {
    request: u32,
    piece: Piece,
    slot: u16,
    /// Legs that failed.
    tried: SmallVec<[(u16, MemberId); 2]>,
}

impl Read {
    pub fn new(request: u32, piece: Piece) -> Read {
        Read {
            request,
            piece,
            slot: piece.slot,
            tried: SmallVec::new(),
        }
    }

    fn end(&self) -> u64 {
        self.piece.member_sectors + self.piece.len_sectors
    }

    /// What it locks, and asks about: array sectors of a mirror, else member data sectors.
    pub fn range(&self) -> (u64, u64) {
        (self.piece.member_sectors, self.end())
    }

    pub fn request(&self) -> u32 {
        self.request
    }

    pub fn start(self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        match lane.in_doubt(rig, self.range()) {
            true => Doubtful::park(self, lane, index),
            false => self.start_settled(lane, rig, index),
        }
    }

    /// Starts it where members agree, or nothing can be done about it.
    pub fn start_settled(mut self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        if lane.shift().is_some() {
            // Where it lies is known under its lock only.
            return self.reconstruct(lane, rig, index, false);
        }
        let mut from_sectors = self.piece.member_sectors;
        let column = match &*lane.geometry {
            geometry if geometry.is_mirror() => self.choose_leg(lane, rig).and_then(|leg| {
                (self.slot, from_sectors) = (leg.slot, leg.member_sectors);
                rig.epoch.column(leg.slot)
            }),
            Geometry::Parity(_) => {
                let column = rig.epoch.column(self.slot);
                match rig.cover.free_access(column, self.end()) {
                    Access::Usable => column,
                    _ => return self.reconstruct(lane, rig, index, false),
                }
            }
            _ => rig.epoch.column(self.slot),
        };
        let Some(column) = column else {
            if !self.tried.is_empty() && Read::again_in_parts(lane, rig, self.request, self.piece) {
                return Step::Over;
            }
            lane.part_over(self.request, Err(eio("no member holds this data")));
            return Step::Over;
        };
        let late = lane.behind.lags_on(self.slot);
        // M05 (e555190d82c0): a read of a write-mostly member overtook writes that were answered
        // and had not landed there.
        if late && lane.geometry.is_mirror() && !rig.io.museum.on(Exhibit::M05) {
            lane.behind.wait(index);
            return Step::Stay(Job::Read(self));
        }
        let failed = (self.slot, column.member);
        assert!(!self.tried.contains(&failed), "no leg is asked twice");
        let sector = column.data_offset_sectors + from_sectors;
        let owner = Lane::owner(index, 0);
        let end_sectors = from_sectors + self.piece.len_sectors;
        lane.balance.begun(self.slot, end_sectors);
        rig.io.read(
            column.member,
            sector,
            self.piece.len_sectors,
            Purpose::Data,
            owner,
        );
        Step::Stay(Job::Read(self))
    }

    /// Every member failed somewhere in the range, but perhaps each somewhere else: tries again in
    /// two halves. `false` when it cannot get smaller.
    pub fn again_in_parts(lane: &mut Lane, rig: &mut Rig<'_>, request: u32, piece: Piece) -> bool {
        Read::in_fine_parts(lane, rig, request, piece)
    }

    /// Members may differ in the range, and one of them failed somewhere: no more than what it
    /// cannot read may come from others. `false` when it is a block.
    pub fn in_fine_parts(lane: &mut Lane, rig: &mut Rig<'_>, request: u32, piece: Piece) -> bool {
        let at = fine_middle(piece.len_sectors, rig.members.block_sectors());
        Read::in_two(lane, rig, (request, piece), at)
    }

    fn in_two(
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        (request, piece): (u32, Piece),
        at: Option<u64>,
    ) -> bool {
        let Some(at) = at else {
            return false;
        };
        let halves = piece.halves(at);
        let halves = halves.map(|half| Job::Read(Read::new(request, half)));
        lane.part_split(rig, request, halves);
        true
    }

    /// A leg that holds the data. Where members may still differ after a crash, or a write that was
    /// the last, it is always the same one, so that two reads never see two versions.
    fn choose_leg(&self, lane: &Lane, rig: &Rig<'_>) -> Option<Copy> {
        let (start, end) = (self.piece.array_sectors, self.end());
        let legs = lane.geometry.copies(start);
        // M16 (c916ca353088): where the only member in sync was a write-mostly one, reads fell back
        // to any other, filled or not.
        let unfilled =
            rig.io.museum.on(Exhibit::M16) && rig.epoch.in_sync().all(|column| column.write_mostly);
        let good = legs.into_iter().filter(|leg| {
            let column = rig.epoch.column(leg.slot);
            let failed = |c: &Column| self.tried.contains(&(leg.slot, c.member));
            let end = leg.member_sectors + self.piece.len_sectors;
            column.is_some_and(|c| !failed(c))
                && (unfilled || rig.cover.free_access(column, end) == Access::Usable)
        });
        let good: SmallVec<[Copy; 8]> = good.collect();
        let column = |leg: &Copy| rig.epoch.column(leg.slot).expect("filtered above");
        // M15 (c6d119cf1b5a): reads were spread over members that a resync had not passed yet.
        // And in a broken array the last writes may have reached some legs and not others.
        // U23: reads were balanced there as elsewhere, and gave the old and the new by turns.
        let broken = rig.broken && !rig.io.museum.on(Exhibit::U23);
        let agrees = !broken && rig.cover.agrees(rig.bitmap.regions(), start, end);
        let agrees = agrees && !lane.reads_first();
        if !agrees && !rig.io.museum.on(Exhibit::M15) {
            let in_sync = good.iter().copied().filter(|leg| column(leg).in_sync);
            return in_sync.min_by_key(|leg| rig.epoch.rank(leg.slot));
        }
        let class = |sync: bool, mostly: bool| {
            let legs = good.iter().copied();
            let fits = move |c: &Column| (c.in_sync || !sync) && (!c.write_mostly || mostly);
            lane.balance.choose(legs.filter(|leg| fits(column(leg))))
        };
        class(!unfilled, false)
            .or_else(|| class(true, true))
            .or_else(|| class(false, true))
    }

    fn reconstruct(self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32, failed: bool) -> Step {
        let job = Reconstruct::new(self.request, self.piece, failed);
        let job = lane.reconstructs.take(job);
        job.start(lane, rig, index)
    }

    pub fn done(
        mut self,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        index: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) -> Step {
        lane.balance.ended(self.slot);
        let error = match Io::read_result(result) {
            Ok(buf) => {
                lane.piece_read(self.request, self.piece.array_sectors, buf.freeze());
                self.mend(lane, rig);
                return Step::Over;
            }
            Err(error) => error,
        };
        if error == IoError::Gone {
            rig.io
                .effects
                .push(Effect::Fail(member, "the device is gone".into()));
        }
        let (start, end) = (self.piece.member_sectors, self.end());
        let in_doubt = lane.reads_first() || !rig.cover.agrees(rig.bitmap.regions(), start, end);
        match &*lane.geometry {
            Geometry::Linear(_) | Geometry::Striped(_) => {
                let why = format!("member {} cannot be read: {error}", name(rig, member));
                lane.part_over(self.request, Err(eio(why)));
                Step::Over
            }
            Geometry::Mirrored { .. } | Geometry::Copied(_) => {
                // Where legs may differ no more than what cannot be read comes from another one:
                // hosts may have read the rest from this one before. One that is gone has no rest.
                let may_split = in_doubt && error != IoError::Gone;
                if may_split && Read::in_fine_parts(lane, rig, self.request, self.piece) {
                    return Step::Over;
                }
                self.tried.push((self.slot, member));
                self.start_settled(lane, rig, index)
            }
            Geometry::Parity(_) => {
                // Parity that may be wrong gives back no more than what cannot be read.
                let may_split = in_doubt && error != IoError::Gone;
                if may_split && Read::in_fine_parts(lane, rig, self.request, self.piece) {
                    return Step::Over;
                }
                self.reconstruct(lane, rig, index, true)
            }
        }
    }

    /// Rewrites the legs that could not be read.
    fn mend(&self, lane: &mut Lane, rig: &mut Rig<'_>) {
        for (slot, member) in &self.tried {
            let there = rig
                .epoch
                .column(*slot)
                .is_some_and(|c| c.member == *member && c.in_sync);
            let known = lane
                .geometry
                .copies(self.piece.array_sectors)
                .iter()
                .any(|leg| {
                    let at = (leg.member_sectors, self.piece.len_sectors);
                    leg.slot == *slot && known_bad(rig, leg.slot, at)
                });
            if there && lane.is_shared() {
                // Another node may be writing there: it is only counted.
                rig.io.effects.push(Effect::Corrected(*member));
            } else if there && !known && rig.writable && !rig.broken {
                let mend = Mend::new(*slot, *member, self.piece);
                lane.add_job(rig, Job::Mend(mend));
            }
        }
    }
}

/// The name of a member, for messages.
pub(super) fn name<'a>(rig: &'a Rig<'_>, member: MemberId) -> &'a str {
    rig.members.get(member).map_or("?", |m| &m.name)
}

/// Rewrites what one leg of a mirror could not read, from another one.
pub(super) struct Mend {
    slot: u16,
    member: MemberId,
    piece: Piece,
    lock: Option<LockId>,
    writing: bool,
}

impl Mend {
    fn new(slot: u16, member: MemberId, piece: Piece) -> Mend {
        Mend {
            slot,
            member,
            piece,
            lock: None,
            writing: false,
        }
    }

    pub fn start(mut self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let start = self.piece.member_sectors;
        let (lock, held) = lane.lock(index, (start, start + self.piece.len_sectors));
        self.lock = Some(lock);
        if held {
            self.locked(lane, rig, index)
        } else {
            Step::Stay(Job::Mend(self))
        }
    }

    /// Reads a good leg again: a write may have come in before the lock was ours.
    pub fn locked(self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        let copies = lane.geometry.copies(self.piece.array_sectors);
        let legs = copies.iter().filter(|leg| leg.slot != self.slot);
        let source = legs.min_by_key(|leg| rig.epoch.rank(leg.slot));
        let source = source.and_then(|leg| {
            let column = rig.epoch.column(leg.slot).filter(|c| c.in_sync)?;
            Some((column, leg.member_sectors))
        });
        match source {
            Some((column, start)) => {
                assert!(column.member != self.member, "mended from another leg");
                let (sector, len) = (column.data_offset_sectors + start, self.piece.len_sectors);
                let owner = Lane::owner(index, 0);
                rig.io
                    .read(column.member, sector, len, Purpose::Preread, owner);
                Step::Stay(Job::Mend(self))
            }
            None => self.over(lane),
        }
    }

    pub fn done(
        mut self,
        lane: &mut Lane,
        rig: &mut Rig<'_>,
        index: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) -> Step {
        if self.writing {
            match result {
                Ok(_) => rig.io.effects.push(Effect::Corrected(member)),
                // M11 (203d27b0226a): the result of writing a bad sector again was taken the wrong
                // way round.
                Err(_) if rig.io.museum.on(Exhibit::M11) => {
                    rig.io.effects.push(Effect::Corrected(member));
                }
                Err(error) if self.is_to_split(lane, rig, &error) => {
                    return self.in_parts(lane, rig);
                }
                Err(error) => {
                    let run = (self.bad_copy(lane), self.piece.len_sectors);
                    mending_refused(lane, rig, (self.slot, member), run, &error);
                }
            }
            return self.over(lane);
        }
        let Ok(buf) = Io::read_result(result) else {
            return self.over(lane);
        };
        if !self.write(lane, rig, index, buf) {
            return self.over(lane);
        }
        self.writing = true;
        Step::Stay(Job::Mend(self))
    }

    fn write(&self, lane: &Lane, rig: &mut Rig<'_>, index: u32, buf: Buf) -> bool {
        let bad = rig
            .epoch
            .column(self.slot)
            .filter(|c| c.member == self.member && c.in_sync);
        let Some(bad) = bad.filter(|_| rewrite_allowed(rig)) else {
            return false;
        };
        let offset_sectors = bad.data_offset_sectors + self.bad_copy(lane);
        let data = SmallVec::from_iter([buf.freeze()]);
        let op = IoOp::Write {
            offset_sectors,
            data,
            fua: false,
        };
        rig.io
            .submit(bad.member, Purpose::Rewrite, op, Lane::owner(index, 0));
        true
    }

    /// Whether what was refused is longer than a block, and may be recorded.
    fn is_to_split(&self, lane: &Lane, rig: &mut Rig<'_>, error: &IoError) -> bool {
        let long = fine_middle(self.piece.len_sectors, rig.members.block_sectors());
        let who = (self.slot, self.member);
        long.is_some() && !rig.broken && may_record(lane, rig, who, error)
    }

    /// Ends, and begins again as two: no more than what is refused is to be called bad.
    fn in_parts(self, lane: &mut Lane, rig: &mut Rig<'_>) -> Step {
        let at = fine_middle(self.piece.len_sectors, rig.members.block_sectors());
        let halves = self.piece.halves(at.expect("long enough"));
        let (slot, member) = (self.slot, self.member);
        let step = self.over(lane);
        for half in halves {
            lane.add_job(rig, Job::Mend(Mend::new(slot, member, half)));
        }
        step
    }

    /// Where on its member lies what could not be read.
    fn bad_copy(&self, lane: &Lane) -> u64 {
        let copies = lane.geometry.copies(self.piece.array_sectors);
        let bad = copies.iter().find(|leg| leg.slot == self.slot);
        bad.expect("the leg that was tried is one").member_sectors
    }

    fn over(self, lane: &mut Lane) -> Step {
        lane.unlock(self.lock.expect("locked at the start"));
        Step::Over
    }
}

/// Whether what could not be read is known to be bad. It is left to hosts and sync actions to write
/// it again: a member must not fail because somebody has read what everybody knows.
pub(super) fn known_bad(rig: &Rig<'_>, slot: u16, (start, len): (u64, u64)) -> bool {
    is_known_bad(rig, rig.epoch.column(slot), (start, len))
}

/// The same of a column as it is where the sectors are.
pub(super) fn is_known_bad(
    rig: &Rig<'_>,
    column: Option<&Column>,
    (start, len): (u64, u64),
) -> bool {
    column.is_some_and(|column| {
        let start = column.data_offset_sectors + start;
        rig.io.bad.hides(column.member, start, start + len)
    })
}

/// A block may be rewritten with what it should hold anyway. It needs no intent: each of its
/// sectors holds the right bytes before and after, or could not be read before.
pub(super) fn rewrite_allowed(rig: &Rig<'_>) -> bool {
    rig.writable && rig.mends && !rig.broken && !rig.metadata.fault_pending()
}
