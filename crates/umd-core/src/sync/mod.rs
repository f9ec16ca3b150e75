//! Sync actions: resync, recovery, check, repair. One at a time, walking the members upwards.
//!
//! ```text
//!   0 ........ frontier ======== cursor .......... end
//!              all done |  units |  not begun
//!                       | in flight (each holds the lock of its range)
//! ```
//!
//! What was passed counts only up to the frontier; a checkpoint is written only after the members
//! were flushed. Facts: seeds-glossary.md section 4.

mod commit;
mod compare;
mod pace;
mod reach;
mod run;
mod speed;
mod unit;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use pace::Pace;
pub use reach::Reach;
pub use run::{Ended, Outcome};
pub use speed::Speed;
pub use unit::SyncWindow;

use commit::Commits;
use run::{Limits, Run};

use crate::bitmap::{Bitmap, Regions};
use crate::geometry::Geometry;
use crate::lane::Lane;
use crate::member::{Cover, Epoch, Io, Members, State};
use crate::metadata::Metadata;
use crate::value::{
    Command, Exhibit, Instant, IoDone, IoError, MAX_SECTOR, MemberId, Mismatch, Museum, RepairWay,
    SyncLimits, Timer, UnitId,
};

pub use crate::value::SyncAction;

/// What the sync machine may look at and use.
pub struct SyncRig<'a> {
    /// Member I/O.
    pub io: &'a mut Io,
    /// The members; checkpoints are noted in their state.
    pub members: &'a mut Members,
    /// The current snapshot.
    pub epoch: &'a Epoch,
    /// Which regions need what.
    pub bitmap: &'a mut Bitmap,
    /// Checkpoints are recorded here.
    pub metadata: &'a mut Metadata,
    /// Reach of rebuilds and resync.
    pub cover: &'a mut Cover,
    /// Locks.
    pub lane: &'a mut Lane,
}

/// Places that differ are kept, up to this number; all of them are counted.
const FOUND_MAX: usize = 256;

/// Where there are no chunks, `sync_min` and `sync_max` are multiples of 4 KiB.
const GRAIN_SECTORS: u64 = 8;

/// The sync machine of an array.
#[derive(Debug)]
pub struct Sync {
    geometry: Arc<Geometry>,
    array_sectors: u64,
    /// Redundancy agrees below this; `MAX_SECTOR` when no resync is owed.
    agreed_sectors: u64,
    /// What superblocks may say of it.
    checkpoint_sectors: u64,
    run: Option<Run>,
    frozen: bool,
    requested: Option<SyncAction>,
    /// How the next repair, or the one that runs, mends.
    way: RepairWay,
    reach: Reach,
    pace: Pace,
    /// Nothing of a run is begun behind this: in a cluster the end of its window.
    within: u64,
    /// What lies behind that is not even known.
    unknown: bool,
    /// What `sync_min` and `sync_max` are multiples of.
    grain_sectors: u64,
    /// Somebody was told that the run waits at `sync_max`.
    hold_told: bool,
    /// When the timer is due.
    armed: Option<Instant>,
    /// A run met sectors that nobody can read: it waits for an administrator.
    blocked: bool,
    /// Regions need a resync that superblocks know nothing of.
    regions_owed: bool,
    /// So did one that was to fill replacements: they wait, redundancy does not.
    replacing_blocked: bool,
    /// Other nodes write as well.
    shared: bool,
    /// Members that miss only what the bitmap marks.
    guided: BTreeSet<MemberId>,
    last: Option<SyncAction>,
    mismatch_sectors: u64,
    found: Arc<Vec<Arc<Mismatch>>>,
    commits: Commits,
    museum: Museum,
}

impl Sync {
    /// The machine of an array that is known to agree below `agreed_sectors`.
    pub fn new(geometry: Arc<Geometry>, array_sectors: u64, agreed_sectors: u64) -> Sync {
        let grain_sectors = match &*geometry {
            Geometry::Copied(map) => map.chunk_sectors(),
            Geometry::Parity(map) => map.chunk_sectors(),
            _ => GRAIN_SECTORS,
        };
        Sync {
            reach: Reach::ALL,
            within: MAX_SECTOR,
            unknown: false,
            pace: Pace::default(),
            grain_sectors,
            hold_told: false,
            armed: None,
            geometry,
            array_sectors,
            agreed_sectors,
            checkpoint_sectors: agreed_sectors,
            run: None,
            frozen: false,
            requested: None,
            way: RepairWay::Judged,
            blocked: false,
            regions_owed: false,
            replacing_blocked: false,
            shared: false,
            guided: BTreeSet::new(),
            last: None,
            mismatch_sectors: 0,
            found: Arc::default(),
            commits: Commits::default(),
            museum: Museum::NONE,
        }
    }

    /// See [`Museum`].
    pub fn exhibit(&mut self, museum: Museum) {
        self.museum = museum;
    }

    /// The array is another one from here on, of the same bytes.
    ///
    /// # Panics
    /// While anything runs.
    pub fn regrade(&mut self, geometry: Arc<Geometry>, array_sectors: u64) {
        assert!(self.is_idle(), "nobody knows the old geometry");
        if let Geometry::Parity(map) = &*geometry {
            self.grain_sectors = map.chunk_sectors();
        }
        (self.geometry, self.array_sectors) = (geometry, array_sectors);
        self.reach = Reach::ALL;
        self.guided.clear();
    }

    /// The array is longer from here on. A run that is under way ends where it was going to.
    pub fn extend(&mut self, geometry: Arc<Geometry>, array_sectors: u64) {
        assert!(array_sectors >= self.array_sectors, "no shorter");
        (self.geometry, self.array_sectors) = (geometry, array_sectors);
    }

    /// Nothing runs, and nobody waits for members to agree.
    pub fn is_idle(&self) -> bool {
        self.run.is_none() && self.commits.is_idle()
    }

    /// What superblocks of a clean array say about resync.
    pub fn checkpoint_sectors(&self) -> u64 {
        self.checkpoint_sectors
    }

    /// Whether a resync is owed.
    pub fn owes_resync(&self) -> bool {
        self.agreed_sectors != MAX_SECTOR
    }

    /// Whether regions that a dead node left, or that hosts wrote in vain, are to be resynced.
    pub fn owes_regions(&self) -> bool {
        self.regions_owed
    }

    /// From here on other nodes write to the members, and may die while they do.
    pub fn share(&mut self) {
        self.shared = true;
    }

    /// From here on runs begin nothing behind this sector of their walk.
    pub fn confine(&mut self, within: u64, unknown: bool) {
        (self.within, self.unknown) = (within, unknown);
    }

    /// The bitmap has regions that need a resync although superblocks say that all agree.
    pub fn owe_regions(&mut self) {
        self.regions_owed = true;
    }

    /// Whether a resync is about to begin; what only regions owe waits while somebody is missing.
    pub fn awaits_resync(&self, degraded: bool) -> bool {
        let regions = self.regions_owed && !self.blocked && !degraded;
        (self.owes_resync() || regions) && self.run.is_none()
    }

    /// The check or repair that was asked for and has not begun.
    pub fn requested(&self) -> Option<SyncAction> {
        self.requested
    }

    /// What runs.
    pub fn running(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Whether nothing may start.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// A reshape ended, which is nobody's run.
    pub fn reshaped(&mut self) {
        self.last = Some(SyncAction::Reshape);
    }

    /// The last action that ended.
    pub fn last(&self) -> Option<SyncAction> {
        self.last
    }

    /// Sectors found to differ by the current or last check or repair.
    pub fn mismatch_sectors(&self) -> u64 {
        self.mismatch_sectors
    }

    /// Where, up to a limit.
    pub fn found(&self) -> &Arc<Vec<Arc<Mismatch>>> {
        &self.found
    }

    /// Whether resync or recovery waits for an administrator.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// An administrator did something: what was given up may be tried again.
    pub fn unblock(&mut self) {
        (self.blocked, self.replacing_blocked) = (false, false);
    }

    /// From where to where actions go.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// How fast they may go.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// What runs has come to `sync_max`, and waits there.
    pub fn is_held(&self) -> bool {
        let run = self.run.as_ref();
        run.is_some_and(|run| run.is_held(self.reach.to))
    }

    /// Where it waits, when nobody was told yet.
    pub fn newly_held(&mut self) -> Option<(SyncAction, u64)> {
        let held = self.is_held();
        let told = std::mem::replace(&mut self.hold_told, held);
        let run = self.run.as_ref().filter(|_| held && !told)?;
        Some((run.action(), run.cursor()))
    }

    /// What the limits would be.
    ///
    /// # Errors
    /// One sentence, when they make no sense.
    pub fn limited(&self, wish: &SyncLimits) -> Result<Reach, String> {
        let (walk, rebuild) = (
            self.geometry.sync_sectors(self.array_sectors),
            self.geometry.rebuild_sectors(self.array_sectors),
        );
        let speeds = [wish.speed_min_kib_s, wish.speed_max_kib_s];
        if speeds.contains(&Some(Some(0))) {
            return Err("a speed limit of nothing would never let a sync end".into());
        }
        let pace = self.limited_pace(wish);
        if let (Some(min), Some(max)) = (pace.min_kib_s, pace.max_kib_s)
            && min > max
        {
            return Err(format!(
                "sync_speed_min {min} is more than sync_speed_max {max}"
            ));
        }
        self.reach.with(wish, self.grain_sectors, walk.max(rebuild))
    }

    fn limited_pace(&self, wish: &SyncLimits) -> Pace {
        let mut pace = self.pace.clone();
        pace.min_kib_s = wish.speed_min_kib_s.unwrap_or(pace.min_kib_s);
        pace.max_kib_s = wish.speed_max_kib_s.unwrap_or(pace.max_kib_s);
        pace
    }

    /// Sets limits that `limited` found sensible.
    pub fn limit(&mut self, wish: &SyncLimits, reach: Reach) {
        let below = self.run.as_ref().is_some_and(|run| reach.to < run.cursor());
        assert!(!below, "what was done stays done");
        self.reach = reach;
        self.pace = self.limited_pace(wish);
    }

    /// The timer is due.
    pub fn timer(&mut self) {
        self.armed = None;
    }

    /// Ends what runs, and starts nothing until thawed.
    pub fn freeze(&mut self) {
        self.frozen = true;
        self.requested = None;
        self.interrupt();
    }

    /// Ends what runs; what is owed may start again.
    pub fn idle(&mut self) {
        self.frozen = false;
        self.requested = None;
        self.interrupt();
    }

    /// Asks for an action that nothing owes (check, repair).
    pub fn request(&mut self, action: SyncAction, way: RepairWay) {
        self.frozen = false;
        self.way = way;
        self.requested = Some(action);
    }

    /// What runs ends at the next unit boundary.
    pub fn interrupt(&mut self) {
        if let Some(run) = &mut self.run {
            run.interrupt();
        }
    }

    /// The member misses only what the bitmap marks.
    pub fn guide(&mut self, member: MemberId) {
        self.guided.insert(member);
    }

    /// What the member misses is not known.
    pub fn unguide(&mut self, member: MemberId) {
        self.guided.remove(&member);
    }

    /// What should run now, in the order that loses least: redundancy first agrees, then grows.
    ///
    /// What only regions owe waits until nobody is missing: it can wait, for what hosts wrote
    /// there agrees, and a lost member comes first.
    pub fn choose(&self, members: &Members, degraded: bool) -> Option<SyncAction> {
        if self.frozen || self.run.is_some() {
            return None;
        }
        // What a dead node has left is in who replaces another as well, once it was resynced.
        let later = self.shared && self.regions_owed;
        let rebuilding = members.any_filled(!self.replacing_blocked && !later);
        // M60: see faults.rs.
        let first = !(rebuilding && self.museum.on(Exhibit::M60));
        if self.owes_resync() && !self.blocked && first {
            Some(SyncAction::Resync)
        } else if rebuilding && !self.blocked {
            Some(SyncAction::Recover)
        } else if self.regions_owed && !self.blocked && !degraded {
            Some(SyncAction::Resync)
        } else {
            self.requested
        }
    }

    /// Starts an action that `choose` named.
    pub fn begin(&mut self, rig: &mut SyncRig<'_>, action: SyncAction) {
        assert!(self.run.is_none(), "one sync action at a time");
        assert!(!self.frozen, "nothing begins while frozen");
        let run = Run::new(self, rig, action);
        if matches!(action, SyncAction::Check | SyncAction::Repair) {
            self.requested = None;
        }
        if action != SyncAction::Recover {
            self.mismatch_sectors = 0;
            self.found = Arc::default();
        }
        self.run = Some(run);
    }

    fn note_found(&mut self, more: Vec<Mismatch>) {
        let room = FOUND_MAX.saturating_sub(self.found.len());
        // A list that a picture shows is copied when there is more: of what it lists nothing is.
        if !more.is_empty() && room > 0 {
            let more = more.into_iter().take(room).map(Arc::new);
            Arc::make_mut(&mut self.found).extend(more);
        }
    }

    /// Goes on: begins units, and ends the run when it is through. Returns whether anything moved.
    pub fn advance(&mut self, rig: &mut SyncRig<'_>) -> (bool, Option<Ended>) {
        let Some(mut run) = self.run.take() else {
            return (false, None);
        };
        let mut limits = Limits {
            to: self.reach.to,
            within: self.within,
            unknown: self.unknown,
            pace: &mut self.pace,
            again: None,
        };
        let moved = run.advance(rig, &mut limits);
        let again = limits.again;
        self.look_again(rig, again);
        self.mismatch_sectors += run.take_mismatch();
        self.note_found(run.take_found());
        self.keep(&run, rig);
        let Some(ended) = run.ended(&self.geometry) else {
            self.run = Some(run);
            return (moved, None);
        };
        self.last = Some(ended.action);
        self.reach.after(&ended, self.grain_sectors);
        self.conclude(&ended, rig);
        (true, Some(ended))
    }

    /// Has the timer set for when a run that went too fast may go on.
    fn look_again(&mut self, rig: &mut SyncRig<'_>, again: Option<Instant>) {
        let Some(at) = again else { return };
        assert!(at > rig.io.now().mono, "what is due now is done now");
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            rig.io.out.push(Command::Arm(Timer::Sync, at));
        }
    }

    /// Notes progress where others look for it, and asks for a checkpoint now and then.
    fn keep(&mut self, run: &Run, rig: &mut SyncRig<'_>) {
        match run.action() {
            SyncAction::Resync => {
                self.agreed_sectors = self.agreed_sectors.max(run.frontier());
                rig.cover.set_synced_below(run.frontier());
                if let Some(regions) = rig.bitmap.regions_mut() {
                    regions.resynced_below(run.frontier());
                }
            }
            SyncAction::Recover => {
                for member in run.targets() {
                    let done = rig.cover.done_sectors(*member).max(run.frontier());
                    rig.cover.set_rebuilt(*member, done, done.max(run.cursor()));
                }
            }
            SyncAction::Check | SyncAction::Repair | SyncAction::Reshape => {}
        }
    }

    /// Asks for the progress to be recorded.
    pub fn checkpoint(&mut self, rig: &mut SyncRig<'_>) {
        if self.owes_resync() {
            self.checkpoint_sectors = self.agreed_sectors;
        }
        let end = self.geometry.rebuild_sectors(self.array_sectors);
        for member in rig.members.iter_mut() {
            let done = rig.cover.done_sectors(member.id);
            // Who has all that is there has all of its size: of other programs, too.
            let size = member.superblock.fields.size_sectors;
            let whole = member.replacement && done >= end;
            if let State::Recovering { checkpoint_sectors } = &mut member.state {
                *checkpoint_sectors = if whole { done.max(size) } else { done };
            }
        }
        // U13: a checkpoint counted what members still held in their caches.
        rig.metadata.note_change(!rig.io.museum.on(Exhibit::U13));
    }

    /// Whether enough was done since the last checkpoint for another one.
    pub fn checkpoint_due(&mut self, now: Instant) -> bool {
        let to = self.reach.to;
        let owed = self.owes_resync();
        let run = self.run.as_mut();
        let run = run.filter(|run| owed || run.action() != SyncAction::Resync);
        run.is_some_and(|run| run.checkpoint_due(now, to))
    }

    fn conclude(&mut self, ended: &Ended, rig: &mut SyncRig<'_>) {
        match (ended.action, &ended.outcome) {
            (SyncAction::Resync, Outcome::Complete) => {
                self.regions_owed = false;
                if self.owes_resync() {
                    rig.metadata.note_change(true);
                }
                self.agreed_sectors = MAX_SECTOR;
                self.checkpoint_sectors = MAX_SECTOR;
                rig.cover.set_synced_below(MAX_SECTOR);
                if let Some(regions) = rig.bitmap.regions_mut() {
                    regions.resynced();
                }
            }
            (SyncAction::Recover, Outcome::Complete) => {
                for member in &ended.targets {
                    self.guided.remove(member);
                    // Who replaces another goes on as it is until superblocks say it is whole.
                    if !rig.members.get(*member).is_some_and(|m| m.replacement) {
                        rig.cover.forget(*member);
                    }
                }
                rig.cover.close_all();
                if rig.bitmap.regions().is_some_and(Regions::has_states) {
                    rig.cover.forget_committed();
                }
                if ended.replaces {
                    self.checkpoint(rig);
                }
                if self.museum.on(Exhibit::M60) {
                    self.agreed_sectors = MAX_SECTOR;
                    self.checkpoint_sectors = MAX_SECTOR;
                    rig.cover.set_synced_below(MAX_SECTOR);
                    if let Some(regions) = rig.bitmap.regions_mut() {
                        regions.resynced();
                    }
                }
            }
            (SyncAction::Recover, outcome) => {
                let failed = matches!(outcome, Outcome::Failed(_));
                self.blocked |= failed && !ended.replaces;
                self.replacing_blocked |= failed && ended.replaces;
                for member in &ended.targets {
                    let done = rig.cover.done_sectors(*member);
                    rig.cover.set_rebuilt(*member, done, done);
                }
                rig.cover.close_all();
                self.checkpoint(rig);
            }
            (SyncAction::Resync, outcome) => {
                self.blocked |= matches!(outcome, Outcome::Failed(_));
                if self.owes_resync() {
                    self.checkpoint(rig);
                }
            }
            _ => {}
        }
    }

    /// What must hold between two events.
    pub fn check(&self) {
        let agreed = self.agreed_sectors;
        assert!(
            self.checkpoint_sectors <= agreed,
            "recorded before it agrees"
        );
        if let Some(run) = &self.run {
            run.check();
        }
        self.commits.check();
    }

    /// A member I/O of a unit ended.
    pub fn done(
        &mut self,
        rig: &mut SyncRig<'_>,
        unit: UnitId,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        match unit {
            UnitId::Run(unit) => {
                let run = self.run.as_mut().expect("a unit belongs to a run");
                run.done(rig, unit, tag, member, result);
            }
            UnitId::Commit(unit) => self.commits.done(rig, unit, tag, (member, result)),
            UnitId::Reshape => unreachable!("the window of a reshape is none of ours"),
        }
    }

    /// A unit holds its lock now.
    pub fn locked(&mut self, rig: &mut SyncRig<'_>, unit: UnitId) {
        match unit {
            UnitId::Run(unit) => {
                let run = self.run.as_mut().expect("a unit belongs to a run");
                run.locked(rig, unit);
            }
            UnitId::Commit(unit) => self.commits.locked(rig, unit),
            UnitId::Reshape => unreachable!("the window of a reshape is none of ours"),
        }
    }

    /// Makes members agree where reads wait for that; with `leave` only. Returns whether anything
    /// moved.
    pub fn commit(&mut self, rig: &mut SyncRig<'_>, leave: bool) -> bool {
        self.commits.advance(rig, &self.geometry, leave)
    }
}
