//! One run of a sync action.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::pace::Pace;
use super::speed::Speed;
use super::unit::{Part, Unit, UnitEnd};
use super::{RepairWay, Sync, SyncRig};
use crate::geometry::Geometry;
use crate::member::State;
use crate::value::{
    Exhibit, Instant, IoDone, IoError, MemberId, Mismatch, Slab, Span, SyncAction, UnitId,
};

/// Sectors of each member that one unit covers.
const UNIT_SECTORS: u64 = 512;
/// Units in flight when no host waits.
const WINDOW: usize = 8;
/// Units in flight beside host I/O.
const WINDOW_BUSY: usize = 1;
/// At least this often progress is recorded.
const CHECKPOINT_EVERY: Span = Span::secs(300);
/// And each time this part of the range was done.
const CHECKPOINT_PART: u64 = 16;
/// But not for less than this.
const CHECKPOINT_SECTORS: u64 = UNIT_SECTORS * 64;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It reached the end.
    Complete,
    /// It was interrupted; it can go on from its frontier.
    Interrupted,
    /// It met sectors that nobody can read.
    Failed(String),
}

/// A run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// What it was.
    pub action: SyncAction,
    /// How it ended.
    pub outcome: Outcome,
    /// The members it rebuilt.
    pub targets: Vec<MemberId>,
    /// They are to replace others.
    pub replaces: bool,
    /// Everything below is done.
    pub reached: u64,
}

/// What limits a run while it goes on.
pub(super) struct Limits<'a> {
    /// It waits here.
    pub to: u64,
    /// Nothing is begun behind this: other nodes may write there.
    pub within: u64,
    /// Nothing is passed either: what is to be done there is not known.
    pub unknown: bool,
    /// How fast it may go.
    pub pace: &'a mut Pace,
    /// When it has to be looked at again.
    pub again: Option<Instant>,
}

/// A range that was begun and is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Open {
    end: u64,
    /// Parts of it that are not done.
    parts: usize,
}

/// What is locked and written together for a sector of the walk, and for whom.
type Place = (u64, SmallVec<[MemberId; 4]>);

/// A run.
#[derive(Debug)]
pub struct Run {
    action: SyncAction,
    way: RepairWay,
    geometry: std::sync::Arc<Geometry>,
    start: u64,
    end: u64,
    cursor: u64,
    /// Ranges begun and not done, by their first sector.
    open: BTreeMap<u64, Open>,
    /// Parts of open ranges for which there is no unit yet: the next one comes last.
    parts: Vec<Part>,
    units: Slab<Option<Unit>>,
    targets: Vec<MemberId>,
    /// The targets are to replace others.
    replaces: bool,
    /// What it finds is written to those that are to replace others, too.
    renews: bool,
    /// Of a RAID10, their slots: what lies side by side on members is not the same data.
    slots: Vec<u16>,
    /// All targets miss only what the bitmap marks.
    guided: bool,
    interrupted: bool,
    failed: Option<String>,
    mismatch_sectors: u64,
    found: Vec<Mismatch>,
    speed: Speed,
    epoch: u64,
    checkpoint_at: (Instant, u64),
}

/// Whom the next recovery fills, and whether they are to replace others: redundancy comes first.
fn to_fill(rig: &SyncRig<'_>) -> (Vec<MemberId>, bool) {
    let filled = |replaces: bool| -> Vec<MemberId> {
        let partly = rig.members.iter();
        let partly = partly.filter(|m| matches!(m.state, State::Recovering { .. }));
        let wanted = partly.filter(|m| m.replacement == replaces);
        wanted.map(|m| m.id).collect()
    };
    let lost = filled(false);
    match lost.is_empty() {
        true => (filled(true), true),
        false => (lost, false),
    }
}

impl Run {
    /// A run of `action` from where it stands.
    pub(super) fn new(sync: &Sync, rig: &mut SyncRig<'_>, action: SyncAction) -> Run {
        let now = rig.io.now().mono;
        let mut targets = Vec::new();
        let mut replaces = false;
        let mut start = 0;
        match action {
            SyncAction::Recover => {
                (targets, replaces) = to_fill(rig);
                let done = targets.iter().map(|m| rig.cover.done_sectors(*m));
                start = done.min().unwrap_or(0);
            }
            SyncAction::Resync => match rig.bitmap.regions_mut() {
                Some(regions) => regions.resync_begins(),
                None => start = sync.agreed_sectors,
            },
            SyncAction::Check | SyncAction::Repair => start = sync.reach.from,
            SyncAction::Reshape => unreachable!("no run"),
        }
        let named = action != SyncAction::Recover || !targets.is_empty();
        assert!(named, "a recovery rebuilds somebody");
        let guided = !targets.is_empty() && targets.iter().all(|m| sync.guided.contains(m));
        let slot = |id: &MemberId| rig.members.get(*id)?.slot;
        let slot = |id| slot(id).expect("who is rebuilt has a slot").0;
        let slots = targets.iter().map(slot).collect();
        let end = match action {
            SyncAction::Recover => sync.geometry.rebuild_sectors(sync.array_sectors),
            _ => sync.geometry.sync_sectors(sync.array_sectors),
        };
        let start = start.min(end);
        Run {
            action,
            way: sync.way,
            geometry: sync.geometry.clone(),
            start,
            end,
            cursor: start,
            open: BTreeMap::new(),
            parts: Vec::new(),
            units: Slab::default(),
            targets,
            replaces,
            renews: sync.shared && action == SyncAction::Resync,
            slots,
            guided,
            interrupted: false,
            failed: None,
            mismatch_sectors: 0,
            found: Vec::new(),
            speed: Speed::new(now, start),
            epoch: rig.epoch.number,
            checkpoint_at: (now, start),
        }
    }

    /// Whether it fills those that miss only what the bitmap marks.
    pub fn is_guided(&self) -> bool {
        self.guided
    }

    /// What it is.
    pub fn action(&self) -> SyncAction {
        self.action
    }

    /// Members being rebuilt.
    pub fn targets(&self) -> &[MemberId] {
        &self.targets
    }

    /// Everything below is done.
    pub fn frontier(&self) -> u64 {
        self.open.keys().next().copied().unwrap_or(self.cursor)
    }

    /// Everything below is done or under way.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Where it will end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Its speed.
    pub fn speed(&self) -> &Speed {
        &self.speed
    }

    pub(super) fn interrupt(&mut self) {
        self.interrupted = true;
    }

    pub(super) fn take_found(&mut self) -> Vec<Mismatch> {
        std::mem::take(&mut self.found)
    }

    pub(super) fn take_mismatch(&mut self) -> u64 {
        std::mem::take(&mut self.mismatch_sectors)
    }

    /// Whether it waits at `to`, with all below done.
    pub(super) fn is_held(&self, to: u64) -> bool {
        let still = self.units.is_empty() && self.parts.is_empty() && !self.interrupted;
        still && self.failed.is_none() && self.cursor >= to && self.cursor < self.end
    }

    /// Whether progress should be recorded, with `to` as the next place to wait: after a part of
    /// the range, after a while, half way to where it waits, and there.
    pub(super) fn checkpoint_due(&mut self, now: Instant, to: u64) -> bool {
        let (when, from) = self.checkpoint_at;
        let moving = matches!(self.action, SyncAction::Resync | SyncAction::Recover);
        let part = (self.end - self.start) / CHECKPOINT_PART;
        let half = match to < self.end {
            true => to.saturating_sub(from) / 2,
            false => u64::MAX,
        };
        let part = part.min(half).max(CHECKPOINT_SECTORS);
        let due = self.frontier() >= from + part
            || (self.frontier() > from && (now - when >= CHECKPOINT_EVERY || self.is_held(to)));
        if moving && due {
            self.checkpoint_at = (now, self.frontier());
        }
        moving && due
    }

    fn stopping(&self, rig: &SyncRig<'_>) -> bool {
        self.interrupted || self.failed.is_some() || rig.epoch.number != self.epoch
    }

    /// Begins as many units as may fly.
    pub(super) fn advance(&mut self, rig: &mut SyncRig<'_>, limits: &mut Limits<'_>) -> bool {
        self.interrupted |= rig.epoch.number != self.epoch;
        let now = rig.io.now().mono;
        let busy = rig.lane.requests_in_flight() > 0;
        limits.pace.look(now, busy);
        // Who is promised a speed beside hosts needs all units for it.
        let window = match busy && limits.pace.min_kib_s.is_none() {
            true => WINDOW_BUSY,
            false => WINDOW,
        };
        let limit = match limits.unknown {
            true => self.end.min(limits.to).min(limits.within),
            false => self.end.min(limits.to),
        };
        let mut moved = false;
        while self.units.len() < window && !self.stopping(rig) {
            if let Some(part) = self.parts.pop() {
                self.begin_unit(rig, part);
                moved = true;
                continue;
            }
            self.skip(rig, limit);
            if self.cursor >= limit.min(limits.within) {
                break;
            }
            limits.again = limits.pace.wait(now);
            if limits.again.is_some() {
                break;
            }
            limits
                .pace
                .spend(self.begin_next(rig, limit.min(limits.within)));
            moved = true;
        }
        self.speed.mark(rig.io.now().mono, self.frontier());
        moved
    }

    /// Passes what needs nothing.
    fn skip(&mut self, rig: &SyncRig<'_>, limit: u64) {
        while self.cursor < limit {
            if self.places(rig, self.cursor).is_empty() {
                self.cursor = self.even_end(rig, self.cursor).min(limit);
            } else {
                break;
            }
        }
    }

    /// What is to be done at a sector of the walk: what is locked there (an array sector of a
    /// mirror, else a member data sector), and who is filled. Nothing where nothing is missing.
    fn places(&self, rig: &SyncRig<'_>, at: u64) -> SmallVec<[Place; 2]> {
        let regions = rig.bitmap.regions();
        let wanted = |sector: u64| match (self.action, regions) {
            // Parity that is computed there one day is computed with what is on who will be
            // replaced: who replaces it has to hold the same, whatever it is.
            (SyncAction::Recover, Some(regions))
                if self.replaces && regions.has_states() && !rig.io.museum.on(Exhibit::U22) =>
            {
                true
            }
            // Where nobody ever wrote there is nothing to rebuild, or to compare.
            (_, Some(regions)) if regions.is_unwritten(sector) => false,
            // What waits to be made to agree is no mismatch.
            (SyncAction::Check | SyncAction::Repair, Some(regions)) if regions.tell_all() => {
                !regions.needs_resync(sector)
            }
            (SyncAction::Resync, Some(regions)) => regions.needs_resync(sector),
            (SyncAction::Recover, Some(regions)) => !self.guided || regions.is_dirty(sector),
            _ => true,
        };
        let mut places: SmallVec<[Place; 2]> = SmallVec::new();
        let Some(copies) = self.copies_at(at) else {
            if wanted(at) {
                places.push((at, SmallVec::from_slice(&self.targets)));
            }
            return places;
        };
        for (member, sector) in copies {
            if rig.cover.done_sectors(member) > at || !wanted(sector) {
                continue;
            }
            match places.iter_mut().find(|(known, _)| *known == sector) {
                Some((_, members)) => members.push(member),
                None => places.push((sector, SmallVec::from_slice(&[member]))),
            }
        }
        places
    }

    /// While a RAID10 is rebuilt: what each member has at a data sector. Elsewhere what lies side
    /// by side on members belongs together.
    fn copies_at(&self, at: u64) -> Option<SmallVec<[(MemberId, u64); 4]>> {
        let (Geometry::Copied(map), SyncAction::Recover) = (&*self.geometry, self.action) else {
            return None;
        };
        let members = self.targets.iter().zip(&self.slots);
        let held = members.filter_map(|(id, slot)| Some((*id, map.array_sector(*slot, at)?)));
        Some(held.collect())
    }

    /// Up to where all is as it is at this sector of the walk.
    fn even_end(&self, rig: &SyncRig<'_>, at: u64) -> u64 {
        let mut end = match &*self.geometry {
            Geometry::Copied(map) => (at / map.chunk_sectors() + 1) * map.chunk_sectors(),
            _ => self.end,
        };
        // A reshape that waits for this: a unit lies on one side of it.
        // M48 (486f60558607): one side was asked for where rows lay on both.
        let shift = rig.lane.shift().filter(|_| !rig.io.museum.on(Exhibit::M48));
        let frontier = shift.map(|shift| shift.frontier_sectors);
        end = frontier.filter(|f| *f > at).map_or(end, |f| end.min(f));
        let copies = self.copies_at(at);
        let sectors: SmallVec<[u64; 4]> = match &copies {
            Some(copies) => copies.iter().map(|(_, sector)| *sector).collect(),
            None => SmallVec::from_slice(&[at]),
        };
        if let Some(regions) = rig.bitmap.regions() {
            let left = sectors.iter().map(|s| regions.region_end_sectors(*s) - s);
            end = left.fold(end, |end, left| end.min(at + left));
        }
        let done = copies.iter().flatten();
        let done = done.map(|(member, _)| rig.cover.done_sectors(*member));
        let end = done.filter(|done| *done > at).fold(end, u64::min);
        assert!(end > at, "the walk goes on");
        end
    }

    /// Opens the next range of the walk. Returns its length.
    fn begin_next(&mut self, rig: &mut SyncRig<'_>, limit: u64) -> u64 {
        let start = self.cursor;
        let end = (start / UNIT_SECTORS + 1) * UNIT_SECTORS;
        let end = end.min(self.even_end(rig, start)).min(limit);
        let places = self.places(rig, start);
        assert!(!places.is_empty(), "empty stretches are skipped");
        if let (SyncAction::Resync, Some(regions)) = (self.action, rig.bitmap.regions_mut()) {
            regions.resync_at(start);
        }
        self.cursor = end;
        // The reach is told before anybody else can hold the lock.
        for member in &self.targets {
            let done = rig.cover.done_sectors(*member);
            rig.cover.set_rebuilt(*member, done, done.max(self.cursor));
        }
        let parts = places.len();
        self.open.insert(start, Open { end, parts });
        if self.action == SyncAction::Recover {
            rig.cover.open(start, end);
        }
        let part = |(sector, targets)| Part {
            open: start,
            start,
            end,
            sector,
            targets,
            renews: self.renews,
        };
        self.parts.extend(places.into_iter().rev().map(part));
        end - start
    }

    /// Begins the unit of a part whose range is held open.
    fn begin_unit(&mut self, rig: &mut SyncRig<'_>, part: Part) {
        let open = self.open.get(&part.open).expect("its range is held open");
        assert!(part.open <= part.start && part.end <= open.end, "within it");
        let index = self.units.insert(None);
        let geometry = self.geometry.clone();
        let how = (self.action, self.way);
        let mut unit = Unit::new(how, geometry, part);
        let ended = unit.lock(rig, UnitId::Run(index));
        self.put_back(rig, index, unit, ended);
    }

    /// A part is done in two. If it is all that its range consists of, that becomes two as well.
    fn split(&mut self, rig: &mut SyncRig<'_>, part: Part) {
        let open = self.open.get_mut(&part.open).expect("still open");
        let alone = open.parts == 1 && (part.open, open.end) == (part.start, part.end);
        let [first, mut second] = part.halves(rig.members.block_sectors());
        if alone {
            second.open = second.start;
            open.end = first.end;
            let end = second.end;
            self.open.insert(second.open, Open { end, parts: 1 });
            if self.action == SyncAction::Recover {
                rig.cover.close(first.open);
                rig.cover.open(first.open, first.end);
                rig.cover.open(second.open, second.end);
            }
        } else {
            open.parts += 1;
        }
        self.parts.extend([second, first]);
    }

    /// A part of an open range is done.
    fn part_done(&mut self, rig: &mut SyncRig<'_>, part: &Part) {
        let open = self.open.get_mut(&part.open);
        let open = open.expect("what is done was held open");
        assert!(open.parts > 0, "a part is done once");
        open.parts -= 1;
        if open.parts == 0 {
            self.open.remove(&part.open);
            rig.cover.close(part.open);
        }
    }

    fn put_back(
        &mut self,
        rig: &mut SyncRig<'_>,
        index: u32,
        mut unit: Unit,
        ended: Option<UnitEnd>,
    ) {
        let Some(ended) = ended else {
            let place = self.units.get_mut(index).expect("a unit keeps its place");
            assert!(place.is_none(), "a place holds one unit");
            *place = Some(unit);
            return;
        };
        let part = unit.part().clone();
        if let UnitEnd::Done { .. } = ended {
            self.part_done(rig, &part);
            self.found.extend(unit.take_found());
        }
        unit.unlock(rig);
        let place = self.units.remove(index);
        assert!(matches!(place, Some(None)), "a unit ends by its own step");
        match ended {
            UnitEnd::Done { mismatch_sectors } => {
                assert!(
                    mismatch_sectors <= part.end - part.start,
                    "no more differs than there is"
                );
                self.mismatch_sectors += mismatch_sectors;
            }
            // The halves begin with the next advance: by then what went wrong is known.
            UnitEnd::Split => self.split(rig, part),
            // Its range stays open: the frontier must not pass it.
            UnitEnd::Abandoned => self.interrupted = true,
            UnitEnd::Failed(why) => {
                if rig.io.museum.on(Exhibit::M58) {
                    // M58 (7202082b7b7a): the offset went on past what could not be read.
                    self.part_done(rig, &part);
                }
                self.failed = Some(why);
            }
        }
    }

    fn take(&mut self, index: u32) -> Unit {
        let place = self.units.get_mut(index).expect("a unit keeps its place");
        place
            .take()
            .expect("a unit is stepped by one event at a time")
    }

    pub(super) fn locked(&mut self, rig: &mut SyncRig<'_>, index: u32) {
        let mut unit = self.take(index);
        let stopping = self.stopping(rig);
        let ended = if stopping {
            Some(UnitEnd::Abandoned)
        } else if rig.io.museum.on(Exhibit::M33) {
            // M33 (e0a115e5aa55): the end of a write that the stripe had waited for was taken for
            // the end of its resync.
            Some(UnitEnd::Done {
                mismatch_sectors: 0,
            })
        } else {
            unit.locked(rig, UnitId::Run(index))
        };
        self.put_back(rig, index, unit, ended);
    }

    pub(super) fn done(
        &mut self,
        rig: &mut SyncRig<'_>,
        index: u32,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        let mut unit = self.take(index);
        let stopping = self.stopping(rig);
        let ended = unit.done(rig, UnitId::Run(index), tag, (member, result), stopping);
        self.put_back(rig, index, unit, ended);
    }

    /// What must hold between two events: below the frontier nothing is under way.
    pub fn check(&self) {
        assert!(self.frontier() <= self.cursor, "done before it was begun");
        assert!(self.units.len() <= WINDOW, "more units than the window has");
        for (_, unit) in self.units.iter() {
            let unit = unit.as_ref().expect("nobody is stepped between events");
            let part = unit.part();
            let open = self.open.get(&part.open);
            let within = open.is_some_and(|open| part.end <= open.end);
            assert!(within, "its range is held open");
        }
        let ends = self.open.values().zip(self.open.keys().skip(1));
        for (open, next) in ends {
            assert!(open.end <= *next, "two ranges in one");
        }
    }

    /// The end, once nothing is in flight any more.
    pub(super) fn ended(&self, geometry: &Geometry) -> Option<Ended> {
        assert!(self.cursor <= self.end, "{geometry:?} walked past its end");
        if !self.units.is_empty() {
            return None;
        }
        let outcome = match &self.failed {
            Some(why) => Outcome::Failed(why.clone()),
            None if self.interrupted => Outcome::Interrupted,
            None if self.cursor < self.end || !self.parts.is_empty() => return None,
            None => Outcome::Complete,
        };
        let complete = outcome == Outcome::Complete;
        assert!(
            !complete || self.open.is_empty(),
            "complete, and not all done"
        );
        Some(Ended {
            action: self.action,
            outcome,
            targets: self.targets.clone(),
            replaces: self.replaces,
            reached: self.frontier(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::MAX_SECTOR;

    const START: Instant = Instant(7_000_000_000);

    /// A run that has come to `cursor`, with nothing under way.
    fn run(action: SyncAction, cursor: u64, end: u64) -> Run {
        Run {
            action,
            way: RepairWay::Judged,
            geometry: std::sync::Arc::new(Geometry::Mirrored { legs: 2 }),
            start: 0,
            end,
            cursor,
            open: BTreeMap::new(),
            parts: Vec::new(),
            units: Slab::default(),
            targets: Vec::new(),
            replaces: false,
            renews: false,
            slots: Vec::new(),
            guided: false,
            interrupted: false,
            failed: None,
            mismatch_sectors: 0,
            found: Vec::new(),
            speed: Speed::new(START, 0),
            epoch: 1,
            checkpoint_at: (START, 0),
        }
    }

    /// The first sector at which a resync of `end` sectors that is to wait at `to` is recorded.
    fn first_recorded(end: u64, to: u64) -> u64 {
        let due = |cursor: &u64| run(SyncAction::Resync, *cursor, end).checkpoint_due(START, to);
        (0..=end).step_by(512).find(due).expect("it is, some day")
    }

    /// A crash costs the time since the last record, and each record costs writes to all members.
    #[test]
    fn progress_is_recorded_after_a_sixteenth_or_half_way_to_where_it_waits() {
        let least = CHECKPOINT_SECTORS;
        assert_eq!(first_recorded(64 * least, MAX_SECTOR), 4 * least);
        assert_eq!(first_recorded(64 * least, 64 * least), 4 * least);
        assert_eq!(first_recorded(4 * least, MAX_SECTOR), least, "not for less");
        assert_eq!(first_recorded(64 * least, 20 * least), 4 * least);
        assert_eq!(first_recorded(64 * least, 6 * least), 3 * least);
        assert_eq!(first_recorded(64 * least, least + 512), least);
        assert_eq!(first_recorded(64 * least, 512), 512, "where it waits");
    }

    #[test]
    fn progress_is_recorded_every_few_minutes_if_there_is_any() {
        let end = 64 * CHECKPOINT_SECTORS;
        let later = START + CHECKPOINT_EVERY;
        for (action, cursor, now, due) in [
            (SyncAction::Resync, 512, later, true),
            (SyncAction::Recover, 512, later, true),
            (SyncAction::Resync, 0, later, false),
            (SyncAction::Resync, 512, START + Span::secs(299), false),
            (SyncAction::Check, 512, later, false),
            (SyncAction::Repair, end, later, false),
        ] {
            let mut run = run(action, cursor, end);
            assert_eq!(
                run.checkpoint_due(now, MAX_SECTOR),
                due,
                "{action:?} {cursor}"
            );
            assert!(!run.checkpoint_due(now, MAX_SECTOR), "once");
            run.cursor += 512;
            let again = now + CHECKPOINT_EVERY;
            assert_eq!(
                run.checkpoint_due(again, MAX_SECTOR),
                action == SyncAction::Resync || due
            );
        }
    }

    #[test]
    fn a_run_waits_where_it_is_to_wait_when_all_before_that_is_done() {
        let at = |cursor| run(SyncAction::Check, cursor, 4096);
        assert!(!at(512).is_held(1024) && at(1024).is_held(1024) && at(1536).is_held(1024));
        assert!(!at(4096).is_held(1024), "it is over");
        assert!(!at(4096).is_held(4096), "it is over");
        let mut other = at(1024);
        other.units.insert(None);
        assert!(!other.is_held(1024), "a unit is under way");
        let mut other = at(1024);
        other.parts.push(Part::alone(512, 1024));
        assert!(!other.is_held(1024), "a part has not begun");
        let mut other = at(1024);
        other.interrupted = true;
        assert!(!other.is_held(1024), "it is about to end");
        let mut other = at(1024);
        other.failed = Some("sectors cannot be read".into());
        assert!(!other.is_held(1024), "it is about to end");
    }
}
