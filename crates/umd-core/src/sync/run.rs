//! One run of a sync action.

use std::collections::BTreeMap;

use super::speed::Speed;
use super::unit::{Unit, UnitEnd};
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
}

/// A run.
#[derive(Debug)]
pub struct Run {
    action: SyncAction,
    way: RepairWay,
    geometry: std::sync::Arc<Geometry>,
    start: u64,
    end: u64,
    cursor: u64,
    /// Of a RAID10, the slot that is rebuilt: its copies have no common row with those of others.
    slot: u16,
    /// Ranges begun and not done: first sector and end.
    open: BTreeMap<u64, u64>,
    /// Ranges that were split and are not begun again yet; open as well.
    parts: Vec<(u64, u64)>,
    units: Slab<Option<Unit>>,
    targets: Vec<MemberId>,
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

impl Run {
    /// A run of `action` from where it stands.
    pub(super) fn new(sync: &Sync, rig: &mut SyncRig<'_>, action: SyncAction) -> Run {
        let now = rig.io.now().mono;
        let mut targets = Vec::new();
        let mut start = 0;
        match action {
            SyncAction::Recover => {
                let rebuilt = rig.members.iter();
                let rebuilt = rebuilt.filter(|m| matches!(m.state, State::Recovering { .. }));
                let most = match *sync.geometry {
                    Geometry::Copied(_) => 1,
                    _ => usize::MAX,
                };
                targets = rebuilt.map(|m| m.id).take(most).collect();
                let done = targets.iter().map(|m| rig.cover.done_sectors(*m));
                start = done.min().unwrap_or(0);
            }
            SyncAction::Resync => match rig.bitmap.regions_mut() {
                Some(regions) => regions.resync_begins(),
                None => start = sync.agreed_sectors,
            },
            SyncAction::Check | SyncAction::Repair => {}
        }
        let named = action != SyncAction::Recover || !targets.is_empty();
        assert!(named, "a recovery rebuilds somebody");
        let guided = !targets.is_empty() && targets.iter().all(|m| sync.guided.contains(m));
        let slot = targets.first().and_then(|id| rig.members.get(*id)?.slot);
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
            slot: slot.map_or(0, |slot| slot.0),
            open: BTreeMap::new(),
            parts: Vec::new(),
            units: Slab::default(),
            targets,
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

    pub(super) fn checkpoint_due(&mut self, now: Instant) -> bool {
        let (when, from) = self.checkpoint_at;
        let moving = matches!(self.action, SyncAction::Resync | SyncAction::Recover);
        let part = ((self.end - self.start) / CHECKPOINT_PART).max(UNIT_SECTORS * 64);
        let due = self.frontier() >= from + part
            || (self.frontier() > from && now - when >= CHECKPOINT_EVERY);
        if moving && due {
            self.checkpoint_at = (now, self.frontier());
        }
        moving && due
    }

    fn stopping(&self, rig: &SyncRig<'_>) -> bool {
        self.interrupted || self.failed.is_some() || rig.epoch.number != self.epoch
    }

    /// Begins as many units as may fly.
    pub(super) fn advance(&mut self, rig: &mut SyncRig<'_>) -> bool {
        self.interrupted |= rig.epoch.number != self.epoch;
        let busy = rig.lane.requests_in_flight() > 0;
        let window = if busy { WINDOW_BUSY } else { WINDOW };
        let mut moved = false;
        while self.units.len() < window && !self.stopping(rig) {
            if let Some((start, end)) = self.parts.pop() {
                self.begin_unit(rig, start, end);
                moved = true;
                continue;
            }
            self.skip(rig);
            if self.cursor >= self.end {
                break;
            }
            self.begin_next(rig);
            moved = true;
        }
        self.speed.mark(rig.io.now().mono, self.frontier());
        moved
    }

    /// Passes what needs nothing.
    fn skip(&mut self, rig: &SyncRig<'_>) {
        let regions = rig.bitmap.regions();
        let wanted = |sector: u64| match (self.action, regions) {
            (SyncAction::Resync, Some(regions)) => regions.needs_resync(sector),
            (SyncAction::Recover, Some(regions)) => !self.guided || regions.is_dirty(sector),
            _ => true,
        };
        let mut cursor = self.cursor;
        while cursor < self.end {
            let Some(sector) = self.locked_sector(cursor) else {
                cursor = self.stretch_end(cursor);
                continue;
            };
            if wanted(sector) {
                break;
            }
            let regions = regions.expect("only a bitmap says that something is not wanted");
            let left = regions.region_end_sectors(sector) - sector;
            cursor = self.stretch_end(cursor).min(cursor + left);
        }
        self.cursor = cursor.min(self.end);
    }

    /// What is locked for a sector of the walk: an array sector of a mirror, else a member data
    /// sector. `None` where a member of a RAID10 holds nothing.
    fn locked_sector(&self, at: u64) -> Option<u64> {
        match (&*self.geometry, self.action) {
            (Geometry::Copied(map), SyncAction::Recover) => map.array_sector(self.slot, at),
            _ => Some(at),
        }
    }

    /// How far the walk and what is locked for it go side by side.
    fn stretch_end(&self, at: u64) -> u64 {
        match &*self.geometry {
            Geometry::Copied(map) => (at / map.chunk_sectors() + 1) * map.chunk_sectors(),
            _ => u64::MAX,
        }
    }

    fn begin_next(&mut self, rig: &mut SyncRig<'_>) {
        let start = self.cursor;
        let mut end = (start / UNIT_SECTORS + 1) * UNIT_SECTORS;
        if let Some(regions) = rig.bitmap.regions() {
            let sector = self
                .locked_sector(start)
                .expect("empty stretches are skipped");
            end = end.min(start + (regions.region_end_sectors(sector) - sector));
        }
        let end = end.min(self.stretch_end(start)).min(self.end);
        self.cursor = end;
        // The reach is told before anybody else can hold the lock.
        for member in &self.targets {
            let done = rig.cover.done_sectors(*member);
            rig.cover.set_rebuilt(*member, done, done.max(self.cursor));
        }
        self.hold_open(rig, start, end);
        self.begin_unit(rig, start, end);
    }

    fn hold_open(&mut self, rig: &mut SyncRig<'_>, start: u64, end: u64) {
        assert!(start < end && end <= self.cursor, "a range that was begun");
        self.open.insert(start, end);
        if self.action == SyncAction::Recover {
            rig.cover.open(start, end);
        }
    }

    /// Begins a unit whose range is held open.
    fn begin_unit(&mut self, rig: &mut SyncRig<'_>, start: u64, end: u64) {
        assert_eq!(self.open.get(&start), Some(&end), "its range is held open");
        let index = self.units.insert(None);
        let targets = self.targets.clone();
        let sector = self
            .locked_sector(start)
            .expect("empty stretches are skipped");
        let geometry = self.geometry.clone();
        let how = (self.action, self.way);
        let mut unit = Unit::new(how, geometry, (start, end), sector, targets);
        let ended = unit.lock(rig, UnitId::Run(index));
        self.put_back(rig, index, unit, ended);
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
        let (start, end) = unit.part();
        if let UnitEnd::Done { .. } = ended {
            rig.cover.close(start);
            self.found.extend(unit.take_found());
        }
        unit.unlock(rig);
        let place = self.units.remove(index);
        assert!(matches!(place, Some(None)), "a unit ends by its own step");
        match ended {
            UnitEnd::Done { mismatch_sectors } => {
                let was = self.open.remove(&start);
                assert_eq!(was, Some(end), "what is done was held open");
                assert!(
                    mismatch_sectors <= end - start,
                    "no more differs than there is"
                );
                self.mismatch_sectors += mismatch_sectors;
            }
            // The parts begin with the next advance: by then what went wrong is known.
            UnitEnd::Split => {
                let middle = start + crate::lane::middle(end - start).expect("long enough");
                rig.cover.close(start);
                for (from, to) in [(middle, end), (start, middle)] {
                    self.hold_open(rig, from, to);
                    self.parts.push((from, to));
                }
            }
            // Its range stays open: the frontier must not pass it.
            UnitEnd::Abandoned => self.interrupted = true,
            UnitEnd::Failed(why) => {
                if rig.io.museum.on(Exhibit::M58) {
                    // M58 (7202082b7b7a): the offset went on past what could not be read.
                    rig.cover.close(start);
                    self.open.remove(&start);
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
            let (start, end) = unit.part();
            assert_eq!(self.open.get(&start), Some(&end), "its range is held open");
        }
        let ends = self.open.values().zip(self.open.keys().skip(1));
        for (end, next) in ends {
            assert!(end <= next, "two units in one range");
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
        })
    }
}
