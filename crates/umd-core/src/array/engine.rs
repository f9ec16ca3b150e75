//! One owner, one event at a time, then tidy up. Ends of member I/O that came together are one
//! event.
//!
//! ```text
//!   handle(event) --> the machine it belongs to
//!        |
//!        v
//!   until nothing moves:  completions -> owners        (lane, sync, bitmap, metadata)
//!                         effects     -> faults        (a member failed, was corrected)
//!                         maintain    -> parked jobs, bitmap, superblocks, answers,
//!                                        sync, spares, control, stop, timers
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;
use umd_format::{FaultyLayout, Format, Level, SuperblockV1};

use super::clustered::Shared;
use super::control::Waiting;
use super::flags::Switching;
use super::rebit::Rebit;
use super::regrade::Regrade;
use super::reshape::Reshape;
use super::setup::Options;
use super::stop::Stopping;
use super::suspend::Suspension;
use crate::bitmap::{Bitmap, Leave};
use crate::geometry::Geometry;
use crate::lane::{Lane, Rig};
use crate::member::{Cover, Effect, Epoch, Io, Members, Owner, State, Weight};
use crate::metadata::{Facts, Metadata};
use crate::sync::{Sync, SyncRig};
use crate::value::{
    Command, Commands, Completion, Event, Exhibit, Instant, IoDone, IoError, MemberId, Notice, Now,
    Request, RequestError, RequestOp, Span, Timer, UnitId,
};

/// What does not change while an array runs.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub uuid: [u8; 16],
    pub name: String,
    pub format: Format,
    pub preferred_minor: u32,
    pub level: Level,
    pub layout: u32,
    pub chunk_sectors: u32,
    pub raid_disks: u16,
    pub array_sectors: u64,
    pub dev_sectors: u64,
    pub ctime_seconds: u64,
    pub logical_block_bytes: u32,
}

/// The parts of a starting array.
pub(super) struct Parts {
    pub info: Info,
    pub geometry: Arc<Geometry>,
    pub members: Members,
    pub epoch: Arc<Epoch>,
    pub metadata: Metadata,
    pub bitmap: Bitmap,
    pub cover: Cover,
    pub sync: Sync,
    pub io: Io,
    pub options: Options,
    pub reshape: Option<Reshape>,
}

/// A running array.
pub struct Array {
    pub(super) info: Info,
    pub(super) options: Options,
    pub(super) geometry: Arc<Geometry>,
    pub(super) io: Io,
    pub(super) members: Members,
    pub(super) epoch: Arc<Epoch>,
    pub(super) bitmap: Bitmap,
    /// Why the bitmap's file is not written any more.
    pub(super) bitmap_fault: Option<String>,
    pub(super) metadata: Metadata,
    pub(super) cover: Cover,
    pub(super) lane: Lane,
    pub(super) sync: Sync,
    pub(super) broken: Option<String>,
    pub(super) read_only: bool,
    /// It is read-only until the first write.
    pub(super) read_auto: bool,
    /// It was started read-only until the first write, and that has not come: whoever ran it before
    /// may have left in caches what was answered.
    pub(super) inherits: bool,
    pub(super) stopping: Option<Stopping>,
    pub(super) stopped: bool,
    pub(super) waiting: Vec<Waiting>,
    /// Flags that are on their way to the superblocks.
    pub(super) switching: Vec<Switching>,
    /// A change of the bitmap, and the requests that wait until it is over.
    pub(super) rebit: Option<Rebit>,
    /// A change of level or layout, before or after what has to be moved for it.
    pub(super) regrade: Option<Regrade>,
    /// What is being moved.
    pub(super) reshape: Option<Reshape>,
    pub(super) parked: Vec<(Instant, Request)>,
    /// Where hosts do not write for a while.
    pub(super) suspension: Suspension,
    /// Who left an array without superblocks, by name, and how: nothing on them tells.
    pub(super) left: BTreeMap<String, SuperblockV1>,
    /// In a cluster: what other nodes have to do with it.
    pub(super) shared: Option<Box<Shared>>,
    safe_mode_armed: bool,
    timeout_armed: bool,
    /// Members that were late when hung I/O was last looked for.
    late: Vec<MemberId>,
}

/// How often hung I/O is looked for.
const TIMEOUT_LOOK_EVERY: Span = Span::secs(5);

impl Array {
    pub(super) fn assemble_parts(parts: Parts) -> Array {
        let mut lane = Lane::new(parts.geometry.clone());
        if parts.info.level == Level::Faulty {
            let layout = FaultyLayout::parse(parts.info.layout);
            lane.pretend(layout.expect("assembly has understood it"));
        }
        let mut array = Array {
            info: parts.info,
            read_only: parts.options.read_only || parts.options.read_auto,
            read_auto: parts.options.read_auto && !parts.options.read_only,
            inherits: parts.options.read_auto,
            options: parts.options,
            geometry: parts.geometry,
            io: parts.io,
            members: parts.members,
            epoch: parts.epoch,
            bitmap: parts.bitmap,
            bitmap_fault: None,
            metadata: parts.metadata,
            cover: parts.cover,
            lane,
            sync: parts.sync,
            broken: None,
            stopping: None,
            stopped: false,
            waiting: Vec::new(),
            switching: Vec::new(),
            rebit: None,
            regrade: None,
            reshape: parts.reshape,
            parked: Vec::new(),
            suspension: Suspension::default(),
            left: BTreeMap::new(),
            shared: None,
            safe_mode_armed: false,
            timeout_armed: false,
            late: Vec::new(),
        };
        array.pair_up();
        array.show_shift();
        array
    }

    /// Begins what the array owes (resync, recovery). Called once, before the first event.
    pub fn begin(&mut self, now: Now, out: &mut Commands) {
        self.io.begin(now, std::mem::take(out));
        self.settle();
        *out = self.io.end();
    }

    /// The one way in and out: takes an event, appends what has to be done to `out`.
    ///
    /// # Panics
    /// When an invariant of the engine does not hold. The array must not be used any more then;
    /// its members are left as they are.
    pub fn handle(&mut self, now: Now, event: Event, out: &mut Commands) {
        // U47: what was still on its way to an array that had stopped was carried out.
        if self.stopped && !self.io.museum.on(Exhibit::U47) {
            return;
        }
        self.io.begin(now, std::mem::take(out));
        match event {
            Event::Request(request) => self.request(request),
            Event::Requests(requests) => {
                requests
                    .into_iter()
                    .for_each(|request| self.request(request));
            }
            Event::Done(done) => self.io.complete(done),
            Event::Ended(all) => self.ended(all),
            Event::Timer(timer) => self.timer(timer),
            Event::Control(id, control) => self.control(id, control),
        }
        self.settle();
        assert!(
            self.stopped || self.io.is_settled(),
            "an end nobody heard of"
        );
        *out = self.io.end();
    }

    /// Several ends of member I/O: owners hear of each, and what all of them come to is looked at
    /// afterwards, once. First comes what failed, and is acted on; then what was recorded: nobody
    /// goes on before that who would not have, had it been alone.
    fn ended(&mut self, mut all: Vec<Completion>) {
        let plain = |io: &Io, done: &Completion| io.weight(done) == Weight::Plain;
        if !all.iter().all(|done| plain(&self.io, done)) {
            all.sort_by_key(|done| self.io.weight(done));
        }
        let mut before = None;
        for done in all {
            let weight = self.io.weight(&done);
            let weighty = before.is_some_and(|before| before != weight);
            if weighty || !self.io.effects.is_empty() && weight != Weight::Failed {
                self.settle();
            }
            if self.stopped {
                return;
            }
            before = Some(weight);
            self.io.complete(done);
            self.dispatch_ready();
        }
    }

    fn dispatch_ready(&mut self) {
        while let Some((owner, member, result)) = self.io.next_ready() {
            self.dispatch(owner, member, result);
        }
    }

    pub(super) fn settle(&mut self) {
        loop {
            self.dispatch_ready();
            let mut moved = self.apply_effects();
            // It looks at everything, behind what was dispatched: only what it moves itself may
            // concern what it had looked at before.
            moved |= self.maintain();
            if !moved && self.io.is_settled() || self.stopped {
                break;
            }
        }
    }

    pub(super) fn request(&mut self, request: Request) {
        self.request_again(self.io.now().mono, request);
    }

    /// A request that came then, and may have waited.
    pub(super) fn request_again(&mut self, came: Instant, request: Request) {
        if self.rebit.is_some() || self.regrade.is_some() {
            return self.parked.push((came, request));
        }
        let Some(request) = self.suspend(came, request) else {
            return;
        };
        if self.read_auto && self.would_write(&request.op) {
            self.read_write();
        }
        let leaving = self.shared.as_ref().is_some_and(|one| one.is_leaving());
        let refusal = match &self.stopping {
            _ if leaving || self.io.is_cut_off() => Some(RequestError::Stopping),
            Some(stopping) if stopping.is_stop() => Some(RequestError::Stopping),
            _ => self.refusal(&request.op),
        };
        match refusal {
            Some(error) => {
                self.io.out.push(Command::Complete {
                    id: request.id,
                    result: Err(error),
                });
            }
            None => self.with_lane(|lane, rig| lane.admit(rig, came, request)),
        }
    }

    /// Whether nothing but read-auto keeps this from being a write.
    pub(super) fn would_write(&self, op: &RequestOp) -> bool {
        let end = op.extent().and_then(|(at, len)| at.checked_add(len));
        let inside = end.is_some_and(|end| end <= self.info.array_sectors);
        op.is_write() && inside && self.broken.is_none() && self.stopping.is_none()
    }

    /// Writes are taken from here on, whatever has kept them out.
    pub(super) fn read_write(&mut self) {
        if self.read_auto {
            self.notify(Notice::Changed);
        }
        self.read_only = false;
        self.read_auto = false;
        self.inherits = false;
    }

    fn refusal(&self, op: &RequestOp) -> Option<RequestError> {
        let Some((offset, len)) = op.extent() else {
            return self.broken.clone().map(RequestError::Io);
        };
        let end = offset.checked_add(len);
        if len == 0 || end.is_none_or(|end| end > self.info.array_sectors) {
            return Some(RequestError::OutOfRange);
        }
        if op.is_write() && (self.read_only || self.stopping.is_some()) {
            return Some(RequestError::ReadOnly);
        }
        match &self.broken {
            Some(why) if op.is_write() => Some(RequestError::Io(why.clone())),
            _ => None,
        }
    }

    fn dispatch(&mut self, owner: Owner, member: MemberId, result: Result<IoDone, IoError>) {
        match owner {
            Owner::Job { job, tag } => {
                self.with_lane(|lane, rig| lane.done(rig, job, tag, member, result));
            }
            Owner::Sync {
                unit: UnitId::Reshape,
                tag,
            } => self.reshape_done(tag, member, result),
            Owner::Sync { unit, tag } => {
                self.with_sync(|sync, rig| sync.done(rig, unit, tag, member, result));
            }
            Owner::Bitmap => self.bitmap.done(&mut self.io, member, result),
            Owner::Metadata => self.metadata.done(&mut self.io, member, result),
            Owner::Cluster { tag } => self.cluster_done(tag, member, result),
        }
    }

    /// See [`Rig::mends`].
    fn mends(&self) -> bool {
        let draining = self.stopping.as_ref().is_none_or(Stopping::is_draining);
        // U64: who had suspended an array was told so while what a read had found was written.
        draining || self.io.museum.on(Exhibit::U64)
    }

    pub(super) fn with_lane<R>(&mut self, f: impl FnOnce(&mut Lane, &mut Rig<'_>) -> R) -> R {
        let mends = self.mends();
        let mut rig = Rig {
            mends,
            io: &mut self.io,
            members: &self.members,
            epoch: &self.epoch,
            bitmap: &mut self.bitmap,
            metadata: &mut self.metadata,
            cover: &self.cover,
            broken: self.broken.is_some(),
            writable: !self.read_only,
        };
        f(&mut self.lane, &mut rig)
    }

    pub(super) fn with_sync<R>(&mut self, f: impl FnOnce(&mut Sync, &mut SyncRig<'_>) -> R) -> R {
        let mut rig = SyncRig {
            io: &mut self.io,
            members: &mut self.members,
            epoch: &self.epoch,
            bitmap: &mut self.bitmap,
            metadata: &mut self.metadata,
            cover: &mut self.cover,
            lane: &mut self.lane,
        };
        f(&mut self.sync, &mut rig)
    }

    fn apply_effects(&mut self) -> bool {
        let mut effects = std::mem::take(&mut self.io.effects);
        let moved = !effects.is_empty();
        if self.io.is_cut_off() {
            // What this node is kept from is not its members' fault.
            effects.clear();
        }
        for effect in effects {
            match effect {
                Effect::Fail(member, why) => self.fail_member(member, &why),
                Effect::Missed(member, why) => {
                    self.fail_member(member, &why);
                    self.distrust(member, &why);
                }
                Effect::FlushFailed(member, why) => {
                    self.fail_member(member, &why);
                    // U04: a member that the array could not lose was read on, although it had
                    // forgotten what was answered.
                    if !self.io.museum.on(Exhibit::U04) {
                        self.distrust(member, &why);
                    }
                }
                Effect::Corrected(member) if self.io.bad.take_forgiven(member) => {}
                Effect::Corrected(member) => self.read_error(member),
                Effect::Refused(member, sectors) => self.write_error(member, sectors),
            }
        }
        moved
    }

    /// Superblocks and bitmap may be written.
    pub(super) fn may_write(&self) -> bool {
        // U45: read-auto kept out hosts only, and the array began by itself what it owed.
        let kept_out = self.read_only && !(self.read_auto && self.io.museum.on(Exhibit::U45));
        !kept_out && self.broken.is_none()
    }

    /// Whether members may be made to agree for reads: not once nothing is to change any more.
    fn may_commit(&self) -> bool {
        let drains = self.stopping.as_ref().is_none_or(Stopping::is_draining);
        self.may_write() && drains
    }

    fn leave(&self) -> Leave {
        let museum = self.io.museum;
        // M36 (e5c86471f933): a member that was still being filled counted as whole.
        let degraded = match museum.on(Exhibit::M36) {
            true => self.epoch.columns.iter().any(Option::is_none),
            false => self.epoch.degraded() > 0,
        };
        // M09 (2417b9869b81): a request that had missed a member ended like any other, so nothing
        // kept its bits.
        let whole = (!degraded || museum.on(Exhibit::M09)) && self.metadata.is_quiet();
        let drained = self.shared.as_ref().is_some_and(|one| one.is_drained());
        Leave {
            may_write: self.may_write(),
            may_clear: self.may_write() && whole && !drained,
            degraded,
            events: self.metadata.events(),
        }
    }

    /// M42 (5e2cf333b7bd): who had to write the superblocks waited for requests that waited for the
    /// superblocks.
    fn waits_for_itself(&self) -> bool {
        let waits = self.lane.requests_in_flight() > 0 && self.metadata.fault_pending();
        waits && self.io.museum.on(Exhibit::M42)
    }

    /// The fixed list of what follows every event.
    fn maintain(&mut self) -> bool {
        // Before writes that waited go on: they belong to the order that is recorded first.
        let mut moved = self.finish_replacements();
        let units = self.with_lane(|lane, rig| lane.resume(rig, &mut moved));
        for unit in units {
            match unit {
                UnitId::Reshape => self.reshape_locked(),
                _ => self.with_sync(|sync, rig| sync.locked(rig, unit)),
            }
        }
        let may_commit = self.may_commit();
        moved |= self.with_sync(|sync, rig| sync.commit(rig, may_commit));
        let leave = self.leave();
        moved |= self.bitmap.advance(&mut self.io, &self.members, leave);
        if self.may_write() && self.io.bad.take_news() {
            // What is bad no more has to be durable before a log says so.
            self.metadata.note_change(true);
        }
        let facts = Facts {
            resync_offset_sectors: self.sync.checkpoint_sectors(),
            may_write: self.may_write() && !self.waits_for_itself(),
        };
        moved |= self
            .metadata
            .advance(&mut self.io, &mut self.members, &mut self.bitmap, facts);
        moved |= self.maintain_flags();
        moved |= self.maintain_rebit();
        moved |= self.maintain_regrade();
        // Before answers are given: what is answered counts by the new order, or by the old one.
        moved |= self.finish_replacements();
        moved |= self.with_lane(|lane, rig| lane.settle(rig));
        moved |= self.with_lane(|lane, rig| lane.release_held(rig));
        moved |= self.maintain_reshape();
        moved |= self.maintain_sync();
        moved |= self.maintain_cluster();
        moved |= self.answer_waiting();
        moved |= self.maintain_suspension();
        moved |= self.maintain_stop();
        if !self.stopped {
            self.arm_timers();
        }
        moved
    }

    fn arm_timers(&mut self) {
        let now = self.io.now().mono;
        let wanted =
            self.options.safe_mode_delay != Span(0) && self.may_write() && self.stopping.is_none();
        let idle = self
            .metadata
            .idle_since()
            .filter(|_| wanted && !self.safe_mode_armed);
        if let Some(since) = idle {
            self.safe_mode_armed = true;
            let at = (since + self.options.safe_mode_delay).max(now);
            self.io.out.push(Command::Arm(Timer::SafeMode, at));
        }
        if !self.timeout_armed && self.io.in_flight() > 0 {
            self.timeout_armed = true;
            self.io
                .out
                .push(Command::Arm(Timer::IoTimeout, now + TIMEOUT_LOOK_EVERY));
        }
    }

    fn timer(&mut self, timer: Timer) {
        match timer {
            Timer::SafeMode => {
                self.safe_mode_armed = false;
                let due = |since: Instant| since + self.options.safe_mode_delay;
                // A stop marks the array clean by itself, after its bits: an update now would
                // make it give up clearing them.
                if self.stopping.is_some() || self.options.safe_mode_delay == Span(0) {
                    return;
                }
                if self
                    .metadata
                    .idle_since()
                    .is_some_and(|s| due(s) <= self.io.now().mono)
                {
                    self.metadata.want_clean();
                }
            }
            Timer::BitmapDaemon => {
                let leave = self.leave();
                self.bitmap.daemon(leave);
                if self.bitmap.owes_resync() {
                    self.sync.owe_regions();
                }
            }
            // What it is for is looked at after every event.
            Timer::Sync => self.sync.timer(),
            Timer::IoTimeout => {
                self.timeout_armed = false;
                // Late at two looks in a row: a pause of this process is not the members' fault.
                let late = self.late_members();
                let again: Vec<MemberId> = late
                    .iter()
                    .copied()
                    .filter(|m| self.late.contains(m))
                    .collect();
                again
                    .into_iter()
                    .for_each(|member| self.give_up_late(member));
                self.late = late;
            }
        }
    }

    pub(super) fn notify(&mut self, notice: Notice) {
        self.io.out.push(Command::Notify(notice));
    }

    /// What must hold between any two events.
    ///
    /// # Panics
    /// When it does not.
    pub fn check_invariants(&self) {
        self.bitmap.check();
        self.check_rest();
    }

    /// The same after an event, when it was called after every event before: of the bitmap it looks
    /// at the regions about which anything has changed.
    ///
    /// # Panics
    /// When they do not hold.
    pub fn check_event(&mut self) {
        self.bitmap.check_changed();
        self.check_rest();
    }

    fn check_rest(&self) {
        self.members.check();
        self.metadata.check();
        self.lane.check();
        self.sync.check();
        self.check_suspension();
        let mut seen: SmallVec<[MemberId; 16]> = SmallVec::new();
        for id in self.io.members_in_flight() {
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            let member = self.members.get(id);
            let works = member.is_some_and(|m| m.state != State::Faulty);
            let also = self.bitmap.file() == Some(id) || self.is_newcomer(id);
            assert!(works || also, "something waits for a member that failed");
        }
        assert!(
            self.epoch.columns.len() == usize::from(self.info.raid_disks),
            "one column a slot"
        );
        for (slot, column) in self.epoch.columns.iter().enumerate() {
            let slot = crate::value::Slot(slot as u16);
            let member = self.members.in_slot(slot).map(|m| m.id);
            assert_eq!(
                column.map(|c| c.member),
                member,
                "the epoch shows the members"
            );
        }
        self.check_reshape();
        let moves = self.reshape.as_ref().is_some_and(Reshape::is_moving);
        if self.lane.is_idle() && self.sync.is_idle() && !moves {
            assert_eq!(self.lane.locks.held(), 0, "nobody is there to hold a lock");
        }
    }
}
