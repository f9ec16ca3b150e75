//! The engine behind a wall: when an invariant of it breaks, the array freezes and nothing else.
//!
//! ```text
//!   Running(engine) --panic inside handle--> Frozen(reason, last status)
//! ```
//!
//! A frozen array fails every request with its reason, writes nothing to its members any more, and
//! can only be stopped. It never continues.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use umd_core::array::{ArrayState, Commands, Control, Event, Map, Status};
use umd_core::value::{ControlId, Instant, NewMember, Now, Rungs};
use umd_format::SuperblockV1;

use super::open::Opened;
use crate::doc::ClusterDoc;

/// What the loop drives.
pub trait Engine: Send {
    /// Begins what the array owes (resync, recovery). Called once, before the first event.
    fn begin(&mut self, now: Now, out: &mut Commands);
    /// The one way in; what it wants done is appended to `out`.
    fn handle(&mut self, now: Now, event: Event, out: &mut Commands);
    /// What can be seen of it.
    fn status(&self) -> Status;
    /// Where dirty regions, in so many parts, and bad blocks lie.
    fn map(&self, cells: u16) -> Map;
    /// How long writes stood on the rungs of the ladder.
    fn rungs(&self) -> Rungs;
    /// The time now, where something else than the loop decides on it: all it is told and all it
    /// asks for is on that clock.
    fn clock(&self) -> Option<Instant> {
        None
    }
    /// When to come back with `tend` at the latest.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    /// Takes in what came by other ways than events.
    fn tend(&mut self, _now: Now, _out: &mut Commands) {}
    /// A disk that another node adds, and that was looked for here.
    fn newcomer(&mut self) -> Option<Newcomer> {
        None
    }
    /// Who that is now, if it is to be had. What is not used is released.
    fn meet(&mut self, _uuid: [u8; 16], _new: Option<NewMember>, _now: Now, _out: &mut Commands) {}
    /// A member of this name is none any more, or does not become one.
    fn let_go(&mut self, _name: &str) {}
    /// What can be seen of its cluster, if it is a node of one.
    fn cluster(&self) -> Option<ClusterDoc> {
        None
    }
    /// An administrator is certain that this node of its cluster is dead.
    ///
    /// # Errors
    /// Why that is of no use.
    fn confirm_dead(&mut self, _node: u16, _now: Now, _out: &mut Commands) -> Result<(), String> {
        Err("it is not run by a cluster".into())
    }
    /// To come to rest, so that members can be rewritten and another engine goes on with them.
    /// Answered like a control request when it is refused, and then nothing has changed.
    fn rest(&mut self, id: ControlId, now: Now, out: &mut Commands) {
        self.handle(now, Event::Control(id, Control::Stop), out);
    }
    /// It has come to rest, and waits for [`turned`](Engine::turned): nobody else has the members.
    /// One that does not wait has stopped then.
    fn rests(&self) -> bool {
        false
    }
    /// Says, at any time while it rests, whether members may still be written.
    fn permit(&self) -> Permit {
        Box::new(|| true)
    }
    /// Members were rewritten, or were not: it stops now.
    fn turned(&mut self, _rewritten: bool, _now: Now, _out: &mut Commands) {}
    /// How it has ended, now that it has stopped without having waited for `turned`.
    fn ending(&self) -> Ending {
        Ending::Complete
    }
}

/// How an engine has ended that was to come to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All that it had to write is on the members, and nobody else has them.
    Complete,
    /// In order, but others may have the members: why.
    Left(String),
    /// It was cut off from them.
    Lost,
}

/// Says whether members may still be written.
pub type Permit = Box<dyn Fn() -> bool>;

/// A disk that another node adds.
pub struct Newcomer {
    /// Its own uuid.
    pub uuid: [u8; 16],
    /// It is there.
    pub opened: Option<Opened>,
    /// The superblock that is on it, if there is one.
    pub superblock: Option<Box<SuperblockV1>>,
}

/// An engine, or what is left of it.
pub enum Contained<E: ?Sized> {
    /// It works.
    Running(Box<E>),
    /// An invariant broke.
    Frozen {
        /// Which.
        reason: String,
        /// The last status that could be taken.
        status: Box<Status>,
        /// What was counted until then.
        rungs: Box<Rungs>,
    },
}

impl<E: Engine + ?Sized> Contained<E> {
    /// A working engine.
    pub fn new(engine: Box<E>) -> Contained<E> {
        Contained::Running(engine)
    }

    /// Why it is frozen, if it is.
    pub fn frozen(&self) -> Option<&str> {
        match self {
            Contained::Running(_) => None,
            Contained::Frozen { reason, .. } => Some(reason),
        }
    }

    /// Hands an event over. Returns `false` when the engine broke over it, just now: its commands
    /// are taken back, and it is frozen from here on.
    ///
    /// Panics when it was frozen before.
    #[must_use]
    pub fn handle(&mut self, now: Now, event: Event, out: &mut Commands) -> bool {
        self.guard(out, |engine, out| engine.handle(now, event, out))
    }

    /// Lets the engine begin. Otherwise as `handle`.
    #[must_use]
    pub fn begin(&mut self, now: Now, out: &mut Commands) -> bool {
        self.guard(out, |engine, out| engine.begin(now, out))
    }

    /// Lets the engine take in what came by other ways. Otherwise as `handle`, but a frozen one has
    /// nothing to take in.
    #[must_use]
    pub fn tend(&mut self, now: Now, out: &mut Commands) -> bool {
        match self {
            Contained::Running(_) => self.guard(out, |engine, out| engine.tend(now, out)),
            Contained::Frozen { .. } => true,
        }
    }

    /// A disk that another node adds, and that was looked for here.
    pub fn newcomer(&mut self) -> Option<Newcomer> {
        match self {
            Contained::Running(engine) => engine.newcomer(),
            Contained::Frozen { .. } => None,
        }
    }

    /// Says who that is now. Otherwise as `handle`.
    #[must_use]
    pub fn meet(
        &mut self,
        now: Now,
        (uuid, new): ([u8; 16], Option<NewMember>),
        out: &mut Commands,
    ) -> bool {
        self.guard(out, |engine, out| engine.meet(uuid, new, now, out))
    }

    /// Passes on that a node is dead, and what comes of it; `None` when the engine broke over it.
    /// A frozen array takes no part in a cluster.
    pub fn confirm_dead(
        &mut self,
        (node, now): (u16, Now),
        out: &mut Commands,
    ) -> Option<Result<(), String>> {
        if self.frozen().is_some() {
            return Some(Err("it is frozen, and no node any more".into()));
        }
        let mut answer = Ok(());
        let works = self.guard(out, |engine, out| {
            answer = engine.confirm_dead(node, now, out);
        });
        works.then_some(answer)
    }

    /// Has it come to rest. Otherwise as `handle`.
    #[must_use]
    pub fn rest(&mut self, now: Now, id: ControlId, out: &mut Commands) -> bool {
        self.guard(out, |engine, out| engine.rest(id, now, out))
    }

    /// Whether it rests. A frozen one never does.
    pub fn rests(&self) -> bool {
        self.running().is_some_and(E::rests)
    }

    /// Says whether members may still be written.
    pub fn permit(&self) -> Permit {
        self.running()
            .map_or_else(|| Box::new(|| false) as Permit, E::permit)
    }

    /// Passes on that members were rewritten, or were not. Otherwise as `handle`.
    #[must_use]
    pub fn turned(&mut self, now: Now, rewritten: bool, out: &mut Commands) -> bool {
        self.guard(out, |engine, out| engine.turned(rewritten, now, out))
    }

    /// How it has ended.
    pub fn ending(&self) -> Ending {
        self.running().map_or(Ending::Lost, E::ending)
    }

    /// Passes on that a member is none any more.
    pub fn let_go(&mut self, name: &str) {
        if let Contained::Running(engine) = self {
            engine.let_go(name);
        }
    }

    /// The engine's own time, if it has one.
    pub fn clock(&self) -> Option<Instant> {
        self.running().and_then(E::clock)
    }

    /// When to tend to it at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.running().and_then(E::next_deadline)
    }

    /// What can be seen of its cluster.
    pub fn cluster(&self) -> Option<ClusterDoc> {
        self.running().and_then(E::cluster)
    }

    fn running(&self) -> Option<&E> {
        match self {
            Contained::Running(engine) => Some(engine),
            Contained::Frozen { .. } => None,
        }
    }

    fn guard(&mut self, out: &mut Commands, step: impl FnOnce(&mut E, &mut Commands)) -> bool {
        let Contained::Running(engine) = self else {
            panic!("a frozen array gets no events");
        };
        let before = out.len();
        // What the engine left half done is never looked at again, except for its status.
        let outcome = catch_unwind(AssertUnwindSafe(|| step(engine, out)));
        let Err(payload) = outcome else {
            return true;
        };
        out.truncate(before);
        let reason = panic_text(payload.as_ref());
        let status = catch_unwind(AssertUnwindSafe(|| engine.status()));
        let mut status = status.unwrap_or_else(|_| empty_status());
        status.state = ArrayState::Frozen;
        status.sync = None;
        let rungs = catch_unwind(AssertUnwindSafe(|| engine.rungs()));
        *self = Contained::Frozen {
            reason,
            rungs: Box::new(rungs.unwrap_or_default()),
            status: Box::new(status),
        };
        false
    }

    /// What can be seen of it.
    pub fn status(&self) -> Status {
        match self {
            Contained::Running(engine) => engine.status(),
            Contained::Frozen { status, .. } => (**status).clone(),
        }
    }

    /// How long writes stood on the rungs of the ladder; once frozen none does.
    pub fn rungs(&self) -> Rungs {
        match self {
            Contained::Running(engine) => engine.rungs(),
            Contained::Frozen { rungs, .. } => **rungs,
        }
    }

    /// Where dirty regions and bad blocks lie; of a frozen array nobody can tell.
    pub fn map(&self, cells: u16) -> Map {
        match self {
            Contained::Running(engine) => engine.map(cells),
            Contained::Frozen { .. } => Map::default(),
        }
    }
}

/// What a panic said.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "an invariant of the engine did not hold".to_owned())
}

/// Of an array of which nothing is known.
pub(super) fn empty_status() -> Status {
    Status {
        state: ArrayState::Frozen,
        uuid: [0; 16],
        set_name: String::new(),
        format: umd_format::Format::V1_2,
        preferred_minor: 0,
        level: 0,
        layout: -1,
        chunk_sectors: 0,
        raid_disks: 0,
        array_sectors: 0,
        dev_sectors: 0,
        ctime_seconds: 0,
        utime_seconds: 0,
        events: Default::default(),
        degraded: 0,
        members: Vec::new(),
        sync: None,
        reshape: None,
        sync_pending: false,
        resync_from_sectors: None,
        sync_requested: None,
        sync_frozen: false,
        sync_limits: umd_core::array::LimitsStatus::default(),
        last_sync: None,
        mismatch_sectors: 0,
        mismatches: std::sync::Arc::default(),
        bitmap: None,
        faulty: None,
        logical_block_bytes: 512,
        requests_in_flight: 0,
        safe_mode_delay_ms: 0,
        max_read_errors: 0,
        fail_last_dev: false,
        suspended_sectors: (0, 0),
        suspended_writes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_core::array::{Command, Timer};
    use umd_core::value::{Instant, MemberId, Rung};

    /// Releases a member on every event, and breaks on the bitmap's timer.
    struct Fragile;

    impl Engine for Fragile {
        fn begin(&mut self, _: Now, _: &mut Commands) {}

        fn handle(&mut self, _: Now, event: Event, out: &mut Commands) {
            out.push(Command::Release(MemberId(1)));
            assert!(
                !matches!(event, Event::Timer(Timer::BitmapDaemon)),
                "a counter went below zero"
            );
        }

        fn status(&self) -> Status {
            crate::doc::tests::raid5()
        }

        fn map(&self, _: u16) -> Map {
            Map::default()
        }

        fn rungs(&self) -> Rungs {
            let mut rungs = Rungs::default();
            rungs.left(Rung::Write, Instant(1), Instant(5));
            rungs
        }
    }

    #[test]
    fn a_broken_invariant_freezes_and_takes_its_commands_back() {
        let mut engine = Contained::new(Box::new(Fragile));
        let mut out = Commands::new();
        assert!(engine.handle(Now::default(), Event::Timer(Timer::SafeMode), &mut out));
        assert_eq!(out.len(), 1);
        assert!(!engine.handle(Now::default(), Event::Timer(Timer::BitmapDaemon), &mut out));
        assert_eq!(out.len(), 1, "the command of the broken event is gone");
        assert_eq!(engine.frozen(), Some("a counter went below zero"));
        assert_eq!(engine.status().state, ArrayState::Frozen);
        assert_eq!(engine.status().raid_disks, 3);
        assert_eq!(
            engine.rungs().of(Rung::Write).sum.0,
            4,
            "counters only rise"
        );
    }

    #[test]
    #[should_panic(expected = "gets no events")]
    fn a_frozen_engine_gets_no_events() {
        let mut engine = Contained::new(Box::new(Fragile));
        let mut out = Commands::new();
        let _ = engine.handle(Now::default(), Event::Timer(Timer::BitmapDaemon), &mut out);
        let _ = engine.handle(Now::default(), Event::Timer(Timer::SafeMode), &mut out);
    }
}
