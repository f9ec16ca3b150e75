//! Another engine goes on with an array that is served, and its clients notice a pause.
//!
//! ```text
//!   Turn --> Draining --> Resting -------> Rewritten -----> another loop: Joining --> over
//!            doors held,  the engine       members, in      the same doors, handle,   doors open
//!            requests end comes to rest    hand and locked  meter; begun              answered
//!               | no          | no                |              | it cannot
//!               '-------------+--> as before      '--------------+--> back to what it was; if
//!                                                                     that fails too, frozen
//! ```
//!
//! What was read of clients before waits in the loop, what they send waits in their sockets.
//! Whoever asks something of the array meanwhile waits, too.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use umd_core::array::{Array, ArrayState, Control, MemberRole, Status, SyncLimits};
use umd_core::value::{ControlId, MAX_SECTOR, MemberId, Rungs, Settings, Span};
use umd_disk::{Backend, Mux};

use super::{Attached, LAST_IO_PATIENCE, Loop, MARK_MEMBERS, Message};
use crate::cli::outcome::say;
use crate::daemon::array::ControlAnswer;
use crate::daemon::engine::{Contained, Ending, Engine};
use crate::daemon::launch::{Driven, attached};
use crate::daemon::open::Opened;
use crate::daemon::start::Revived;
use crate::daemon::sync::mpsc::{Receiver, TryRecvError};
use crate::daemon::turn::{Side, Turn};

/// How long requests that are under way may take to end.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// An array between two engines: its loop, without one.
pub type Rested = Box<Loop<dyn Engine, Mux>>;

/// How far it is.
enum Stage {
    /// Requests come to their end.
    Draining(std::time::Instant),
    /// The engine comes to rest; it was asked by this.
    Resting(ControlId),
    /// Members were rewritten, or why not.
    Rewritten(Result<(), String>),
    /// The next engine has begun.
    Begun,
    /// It joins its cluster.
    Joining(Receiver<Result<(), String>>),
    /// It could not.
    NotJoined(String),
}

/// An exchange of engines.
pub struct UnderWay {
    turn: Turn,
    stage: Stage,
    /// Members that the engine has let go.
    released: BTreeMap<MemberId, Attached>,
    /// Members in hand.
    files: Option<Vec<Opened>>,
    /// Why it goes back to the engine it had.
    back: Option<String>,
    /// What no superblock says, for the next engine.
    told: [Control; 2],
}

/// What an administrator has told the engine that no superblock says. Where a cluster runs an
/// array, the second is refused as from anybody.
fn told(status: &Status) -> [Control; 2] {
    let limits = &status.sync_limits;
    let limits = SyncLimits {
        from_sectors: Some(limits.from_sectors),
        to_sectors: Some(limits.to_sectors.unwrap_or(MAX_SECTOR)),
        speed_min_kib_s: Some(limits.speed_min_kib_s),
        speed_max_kib_s: Some(limits.speed_max_kib_s),
    };
    let settings = Settings {
        safe_mode_delay: Some(Span::millis(status.safe_mode_delay_ms)),
        max_read_errors: Some(status.max_read_errors),
        fail_last_dev: Some(status.fail_last_dev),
        ..Settings::default()
    };
    [Control::Limits(limits, None), Control::Settings(settings)]
}

impl UnderWay {
    /// The engine has let a member go.
    pub fn released(&mut self, member: MemberId, gone: Attached) {
        self.released.insert(member, gone);
    }
}

/// What waits until an exchange is over.
pub fn waits(message: &Message) -> bool {
    !matches!(
        message,
        Message::Connection(..)
            | Message::Evict
            | Message::Look(_)
            | Message::Map(..)
            | Message::Turn(_)
    )
}

impl<E: Engine + ?Sized, B: Backend> Loop<E, B> {
    /// Whether requests wait.
    pub(super) fn is_held(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn begin_turn(&mut self, turn: Turn) {
        let busy = match self.engine.frozen() {
            Some(_) => Some(self.frozen_error().to_string()),
            None if self.under_way.is_some() => Some("it is being changed already".into()),
            None => None,
        };
        if let Some(why) = busy {
            return turn.refuse(why);
        }
        self.doors.hold(true);
        self.under_way = Some(UnderWay {
            turn,
            stage: Stage::Draining(std::time::Instant::now()),
            released: BTreeMap::new(),
            files: None,
            back: None,
            told: told(&self.engine.status()),
        });
    }

    /// Goes on with an exchange; whether anything moved.
    pub(super) fn turn_on(&mut self) -> bool {
        let idle = self.meter.is_idle();
        let rests = self.engine.rests() && self.members_rest();
        let Some(under_way) = &mut self.under_way else {
            return false;
        };
        match &under_way.stage {
            Stage::Draining(_) if idle => self.ask_to_rest(),
            Stage::Draining(since) if since.elapsed() > DRAIN_PATIENCE => {
                let seconds = DRAIN_PATIENCE.as_secs();
                self.turn_over(Some(format!(
                    "requests that clients have made are not over after {seconds} s"
                )));
            }
            Stage::Resting(_) if rests => self.rewrite(),
            Stage::Begun => {
                let back = under_way.back.take();
                self.turn_over(back);
            }
            Stage::Joining(joined) => match joined.try_recv() {
                Err(TryRecvError::Empty) => return false,
                Ok(Ok(())) => {
                    let back = under_way.back.take();
                    self.turn_over(back);
                }
                // It leaves, and stops: then it goes back.
                Ok(Err(why)) => under_way.stage = Stage::NotJoined(why),
                Err(TryRecvError::Disconnected) => {
                    under_way.stage = Stage::NotJoined("an invariant of it broke".into());
                }
            },
            _ => return false,
        }
        true
    }

    fn ask_to_rest(&mut self) {
        let id = self.new_control(None);
        let now = self.now();
        if let Some(under_way) = &mut self.under_way {
            under_way.stage = Stage::Resting(id);
        }
        if !self.engine.rest(now, id, &mut self.commands) {
            self.freeze();
        }
        self.carry_out();
    }

    /// Whether a control request is that by which the engine was asked to rest.
    pub(super) fn turn_answered(&mut self, id: ControlId, result: &ControlAnswer) -> bool {
        let asked = |one: &UnderWay| matches!(one.stage, Stage::Resting(of) if of == id);
        if !self.under_way.as_ref().is_some_and(asked) {
            return false;
        }
        self.controls.remove(&id);
        if let Err(error) = result {
            self.turn_over(Some(error.to_string()));
        }
        true
    }

    /// The engine broke.
    pub(super) fn turn_frozen(&mut self, reason: &str) {
        match &self.under_way {
            None => {}
            // Its members are at rest, and not its any more.
            Some(UnderWay {
                stage: Stage::Rewritten(_),
                ..
            }) => self.stopped = true,
            Some(_) => self.turn_over(Some(format!("the array is frozen: {reason}"))),
        }
    }

    /// The array serves again; with an error, nothing has changed.
    fn turn_over(&mut self, error: Option<String>) {
        let Some(under_way) = self.under_way.take() else {
            return;
        };
        for (member, attached) in under_way.released {
            // A member that failed meanwhile.
            self.members.insert(member, attached);
            self.release(member);
        }
        self.doors.hold(false);
        if matches!(under_way.stage, Stage::Begun | Stage::Joining(_)) {
            let told = under_way.told.into_iter();
            told.for_each(|control| self.control(control, None));
        }
        match error {
            None => under_way.turn.done(),
            Some(why) => under_way.turn.refuse(why),
        }
        for message in std::mem::take(&mut self.deferred) {
            self.message(message);
        }
    }

    /// Whether no member I/O is under way.
    fn members_rest(&self) -> bool {
        let under_way = self.under_way.iter();
        let released = under_way.flat_map(|one| one.released.keys());
        let mut all = self.members.keys().chain(released);
        all.all(|id| self.backend.in_flight(*id) == 0)
    }

    /// The members that another engine goes on with, in hand.
    fn take_members(&mut self) -> Vec<Opened> {
        let status = self.engine.status();
        let mut all = std::mem::take(&mut self.members);
        if let Some(under_way) = &mut self.under_way {
            all.append(&mut under_way.released);
        }
        let works = |id: MemberId| {
            let mut known = status.members.iter();
            let known = known.find(|member| member.id == id);
            status.members.is_empty()
                || known.is_some_and(|member| member.role != MemberRole::Faulty)
        };
        let mut files = Vec::new();
        for (id, Attached { name, .. }) in all {
            let file = self.backend.give_back(id);
            match file.filter(|_| works(id)) {
                Some(file) => files.push(Opened { name, file }),
                None => self.backend.close(id),
            }
        }
        files
    }

    /// Nobody writes to the members: they become what they are to be.
    fn rewrite(&mut self) {
        let files = self.take_members();
        let permit = self.engine.permit();
        let Some(under_way) = &mut self.under_way else {
            return;
        };
        let rewritten = under_way.turn.work.rewrite(&files, &*permit);
        let done = rewritten.is_ok();
        under_way.files = Some(files);
        under_way.stage = Stage::Rewritten(rewritten);
        if self.stopped {
            return;
        }
        let now = self.now();
        if !self.engine.turned(now, done, &mut self.commands) {
            self.freeze();
        }
        self.carry_out();
    }

    /// The engine has stopped. What another one goes on with, if one is to.
    pub(super) fn rested(&mut self) -> Option<UnderWay> {
        let stage = &self.under_way.as_ref()?.stage;
        let why = match stage {
            Stage::Rewritten(_) => return self.under_way.take(),
            Stage::NotJoined(why) => Some(why.clone()),
            Stage::Joining(joined) => match joined.try_recv() {
                Ok(Err(why)) => Some(why),
                _ => Some("it left its cluster again".into()),
            },
            Stage::Begun => Some("it has ended again".into()),
            Stage::Draining(_) => return self.stopped_meanwhile(),
            Stage::Resting(_) => None,
        };
        self.drain_members();
        if let Some(why) = why {
            let files = self.take_members();
            let mut under_way = self.under_way.take()?;
            under_way.stage = Stage::NotJoined(why);
            under_way.files = Some(files);
            return Some(under_way);
        }
        match self.engine.ending() {
            Ending::Complete => self.rewrite(),
            Ending::Left(why) => {
                let files = self.take_members();
                let under_way = self.under_way.as_mut()?;
                under_way.files = Some(files);
                under_way.stage = Stage::Rewritten(Err(why));
            }
            Ending::Lost => {
                let text = "the session with the lock service has ended: the array was stopped";
                let under_way = self.under_way.take()?;
                for (member, attached) in under_way.released {
                    self.members.insert(member, attached);
                }
                under_way.turn.refuse(text.into());
            }
        }
        self.under_way.take()
    }

    /// Somebody had asked it to stop before, and that is what it did.
    fn stopped_meanwhile(&mut self) -> Option<UnderWay> {
        let under_way = self.under_way.take()?;
        self.members.extend(under_way.released);
        under_way.turn.refuse("it was stopped meanwhile".into());
        None
    }

    fn drain_members(&mut self) {
        let start = std::time::Instant::now();
        while !self.members_rest() && start.elapsed() < LAST_IO_PATIENCE {
            // Nobody is there to hear of them.
            self.backend.reap(&mut Vec::new());
            if !self.backend.kick() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Members stay locked until their last I/O has ended. One that hangs is not waited for for
    /// ever: the kernel holds its lock for as long as it must.
    pub(super) fn wait_for_last_io(&mut self, members: &[MemberId]) {
        let start = std::time::Instant::now();
        while start.elapsed() < LAST_IO_PATIENCE {
            // Nobody is there to hear of them.
            self.backend.reap(&mut Vec::new());
            if members.iter().all(|id| self.backend.is_closed(*id)) {
                return;
            }
            if !self.backend.kick() {
                let mut watched = [PollFd::from_borrowed_fd(
                    self.backend.event_fd(),
                    PollFlags::IN,
                )];
                let pause = Timespec {
                    tv_sec: 0,
                    tv_nsec: 50_000_000,
                };
                let _ = poll(&mut watched, Some(&pause)); // Only shortens the pause.
            }
        }
    }

    /// What earlier engines have counted, and this one.
    pub(super) fn all_rungs(&self) -> Rungs {
        let mut rungs = self.rungs;
        rungs.take_in(&self.engine.rungs());
        rungs
    }

    /// Between two engines.
    pub(super) fn resting(self, under_way: UnderWay) -> Loop<dyn Engine, B> {
        let rungs = self.all_rungs();
        let engine = Contained::Frozen {
            reason: "it is between two engines".into(),
            status: Box::new(self.engine.status()),
            rungs: Box::default(),
        };
        Loop {
            under_way: Some(under_way),
            rungs,
            ..self.with(engine)
        }
    }

    /// The same with another engine, which has not begun.
    fn with<N: Engine + ?Sized>(mut self, engine: Contained<N>) -> Loop<N, B> {
        self.meter.turn();
        Loop {
            name: self.name,
            handle: self.handle,
            engine,
            backend: self.backend,
            inbox: self.inbox,
            epoll: self.epoll,
            polling: self.polling,
            doors: self.doors,
            pool: self.pool,
            timers: BTreeMap::new(),
            members: self.members,
            left: self.left,
            closing: self.closing,
            controls: self.controls,
            offers: BTreeMap::new(),
            meter: self.meter,
            commands: Default::default(),
            requests: self.requests,
            next_member: self.next_member,
            next_control: self.next_control,
            started: self.started,
            next_check: self.next_check,
            last_request: self.last_request,
            trimmed: self.trimmed,
            broken: None,
            stopped: false,
            under_way: self.under_way,
            deferred: self.deferred,
            rungs: self.rungs,
        }
    }
}

/// Goes on with the engine that the members are for now.
///
/// # Errors
/// When the poller fails, or the system has no descriptor, which no array survives.
pub fn go_on(mut rested: Loop<dyn Engine, Mux>) -> std::io::Result<Option<Rested>> {
    let mut under_way = rested.under_way.take().expect("why it rests");
    let mut files = under_way.files.take();
    let second = under_way.back.is_some();
    match &under_way.stage {
        Stage::NotJoined(why) => {
            under_way.back = Some(match under_way.back.take() {
                Some(back) => format!("{back}; {why}"),
                None => why.clone(),
            });
            drop(files.take());
            undo(&mut under_way, second);
        }
        Stage::Rewritten(Err(why)) => under_way.back = Some(why.clone()),
        _ => {}
    }
    let gave_up = second && matches!(under_way.stage, Stage::NotJoined(_));
    if gave_up {
        return rested.freeze_for_good(under_way);
    }
    loop {
        let side = match under_way.back {
            None => Side::New,
            Some(_) => Side::Old,
        };
        let revived = under_way.turn.work.revive(side, files.take(), &rested.pool);
        match revived {
            Ok(revived) => return rested.go_on_with(revived, under_way),
            Err(why) if side == Side::New => {
                under_way.back = Some(why);
                undo(&mut under_way, false);
            }
            Err(why) => {
                say(&format!("{}: {why}", rested.name));
                return rested.freeze_for_good(under_way);
            }
        }
    }
}

/// Members become what they were, as far as that is possible.
fn undo(under_way: &mut UnderWay, second: bool) {
    if second {
        return; // They are that already.
    }
    if let Err(why) = under_way.turn.work.undo()
        && let Some(back) = &mut under_way.back
    {
        *back = format!("{back}; {why}");
    }
}

impl Loop<dyn Engine, Mux> {
    fn go_on_with(
        mut self,
        revived: Revived,
        mut under_way: UnderWay,
    ) -> std::io::Result<Option<Rested>> {
        let Revived {
            driven,
            members,
            joined,
        } = revived;
        // The old one is dropped: what hangs in it keeps its member locked, and nobody else.
        let _ = epoll::delete(&self.epoll, self.backend.event_fd());
        let (backend, members) = attached(members)?;
        let mark = epoll::EventData::new_u64(MARK_MEMBERS);
        epoll::add(&self.epoll, backend.event_fd(), mark, epoll::EventFlags::IN)?;
        self.next_member = members.keys().map(|id| id.0 + 1).max().unwrap_or(0);
        (self.backend, self.members) = (backend, members);
        self.closing.clear();
        under_way.stage = joined.map_or(Stage::Begun, Stage::Joining);
        self.under_way = Some(under_way);
        match driven {
            Driven::Array(setup) => {
                let array = Box::new(Array::start(*setup));
                self.with(Contained::new(array)).run()
            }
            Driven::Node(node) => self.with(Contained::new(node)).run(),
        }
    }

    /// Neither engine can go on: clients are told so until somebody stops it.
    fn freeze_for_good(mut self, under_way: UnderWay) -> std::io::Result<Option<Rested>> {
        let why = under_way.back.clone().unwrap_or_default();
        let advice = under_way.turn.work.advice();
        let reason = format!("{why}; {advice}");
        if let Contained::Frozen {
            reason: told,
            status,
            ..
        } = &mut self.engine
        {
            told.clone_from(&reason);
            (status.state, status.sync) = (ArrayState::Frozen, None);
        }
        self.under_way = Some(under_way);
        self.notify(umd_core::array::Notice::Frozen(reason.clone()));
        self.turn_over(Some(reason));
        self.run()
    }
}
