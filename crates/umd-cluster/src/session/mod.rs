//! An engine that stands on a [`Ledger`]: one life of a node, from joining to its end.
//!
//! ```text
//!   submit --> queue --> writer: appends what is queued, again until it is known to be there
//!                        reader: follows the log, applies it to the book, tells what is for us
//!                        keeper: renews our mark, notices whose is gone, trims the log
//!                        timer:  never blocks: the end of the session, deadlines of broadcasts
//!                          |
//!              State, one lock, never held over a call to the ledger
//!                          |
//!   events <-- mailbox <---'
//!
//!   New --> Joining --> Member --> Over
//! ```
//!
//! The session is valid for three quarters of its time, counted from before its renewal was asked
//! for, on a clock that goes on while the machine sleeps. So it ends here before it ends anywhere
//! else, however late an answer was, and nothing is told behind that end.

mod keeper;
mod reader;
mod writer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use umd_core::cluster::{Answered, JoinRefusal, NodeSlot, Peer, ServiceCommand, ServiceEvent};
use umd_core::value::Instant;

use crate::Clock;
use crate::book::Book;
use crate::clock::span;
use crate::engine::{About, Engine, Past, Setup, Validity, Waker, hex};
use crate::ledger::{Ledger, Mark};
use crate::sync::{Condvar, Mutex, MutexGuard, thread};
use crate::wire::{Join, Word};

/// How long what failed rests before it is tried again.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Joining {
        until: Instant,
    },
    Member,
    /// `end`: its mark is of no use to anybody.
    Over {
        end: bool,
    },
}

/// A broadcast whose answers are waited for.
#[derive(Debug, Default)]
struct Late {
    deadline: Instant,
    to: BTreeSet<NodeSlot>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    paused: bool,
    leaving: bool,
    mark: Option<Mark>,
    valid_until: Instant,
    book: Book,
    /// Up to where the book goes.
    place: u64,
    /// Entries since the log was last looked at for trimming.
    fresh: usize,
    queue: VecDeque<Word>,
    broadcasts: u64,
    /// By number, of those that have no place yet.
    deadlines: BTreeMap<u64, Instant>,
    late: Option<Late>,
    stirred: bool,
    /// What keeps which thread from its work.
    trouble: BTreeMap<&'static str, String>,
    mailbox: Sender<ServiceEvent>,
    told: bool,
    /// All that were started.
    threads: Vec<thread::JoinHandle<()>>,
}

impl State {
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over { .. })
    }

    /// Tells the node, unless all is over.
    fn tell(&mut self, event: ServiceEvent) {
        if self.is_over() {
            return;
        }
        self.note(&event);
        // Who does not listen any more has no wish to hear.
        let _ = self.mailbox.send(event);
        self.told = true;
    }

    /// What of the engine's own follows from an event.
    fn note(&mut self, event: &ServiceEvent) {
        let gone = match event {
            ServiceEvent::Answered(slot, _) => *slot,
            ServiceEvent::Down(peer) | ServiceEvent::Gone(peer, _) => peer.slot,
            _ => return,
        };
        if let Some(late) = &mut self.late {
            late.to.remove(&gone);
        }
    }

    fn over(&mut self, last: ServiceEvent, end: bool) {
        self.tell(last);
        if !self.is_over() {
            self.phase = Phase::Over { end };
        }
    }

    /// The session is over, and nobody has ended it.
    fn lose(&mut self) {
        match self.phase {
            Phase::Joining { .. } if !self.leaving => {
                self.over(ServiceEvent::JoinRefused(JoinRefusal::Unreachable), true);
            }
            _ => self.over(ServiceEvent::Lost, false),
        }
    }

    /// Ends the session if its time has come; whether it goes on.
    fn is_valid(&mut self) -> bool {
        if !self.is_over() && self.mark.is_some() && Clock.now() >= self.valid_until {
            self.lose();
        }
        !self.is_over()
    }

    /// What has a time, and when the next is.
    fn tick(&mut self) -> Option<Instant> {
        if !self.is_valid() {
            return None;
        }
        let now = Clock.now();
        let mut next = Instant(u64::MAX);
        if self.mark.is_some() {
            next = self.valid_until;
        }
        if let Phase::Joining { until } = self.phase {
            if now >= until {
                let why = || "the lock service has not answered in time".into();
                self.trouble.entry("timer").or_insert_with(why);
                self.lose();
                return None;
            }
            next = next.min(until);
        }
        if let Some(late) = self.late.take_if(|late| now >= late.deadline) {
            for slot in late.to {
                self.tell(ServiceEvent::Answered(slot, Answered::TimedOut));
            }
        }
        Some(
            self.late
                .as_ref()
                .map_or(next, |late| next.min(late.deadline)),
        )
    }
}

struct Shared<L> {
    ledger: L,
    setup: Setup,
    state: Mutex<State>,
    changed: Condvar,
    waker: Waker,
}

impl<L: Ledger> Shared<L> {
    /// Runs something on the state, and wakes whoever waits for what came of it.
    fn with<T>(&self, mut state: MutexGuard<'_, State>, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut state);
        let told = std::mem::take(&mut state.told);
        drop(state);
        self.changed.notify_all();
        if told {
            (self.waker)();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed by assignments that do not fail half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, once this node is not paused.
    fn enter(&self) -> MutexGuard<'_, State> {
        let paused = |state: &mut State| state.paused && !state.is_over();
        let state = self.lock();
        let entered = self.changed.wait_while(state, paused);
        entered.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something changed or that time has passed.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Rests, unless all is over; whether it goes on.
    fn rest(&self, time: Duration) -> bool {
        let state = self.lock();
        let waits = |state: &mut State| !state.is_over();
        let waited = self.changed.wait_timeout_while(state, time, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.is_over()
    }

    /// Notes what keeps a thread from its work, or that nothing does any more.
    fn trouble(&self, thread: &'static str, what: Option<String>) {
        let mut state = self.lock();
        match what {
            Some(what) => state.trouble.insert(thread, what),
            None => state.trouble.remove(thread),
        };
    }

    /// Ends the session because of something that is this engine's own.
    fn fail(&self, thread: &'static str, why: &str) {
        self.trouble(thread, Some(why.into()));
        self.with(self.lock(), State::lose);
    }

    fn timer(&self) {
        loop {
            let next = self.with(self.enter(), State::tick);
            let Some(next) = next else { return };
            let state = self.lock();
            if state.is_over() {
                return; // Nobody says so again.
            }
            // What became due meanwhile is noticed in the next round.
            let time = Clock.until(next).min(Duration::from_secs(1));
            drop(self.wait(state, time));
        }
    }
}

/// Starts a thread of an engine. One that cannot be had, or breaks, ends the session: a node that
/// renews and hears nothing would be worse than none.
fn spawn<L: Ledger>(shared: &Arc<Shared<L>>, name: &'static str, run: fn(&Arc<Shared<L>>)) {
    let thread = thread::Builder::new().name(format!("cluster {name}"));
    let owned = Arc::clone(shared);
    let spawned = thread.spawn(move || {
        let ran = catch_unwind(AssertUnwindSafe(|| run(&owned)));
        if ran.is_err() {
            owned.fail(
                name,
                "a part of umd broke that speaks with the lock service",
            );
        }
    });
    match spawned {
        Ok(thread) => shared.lock().threads.push(thread),
        Err(_) => {
            let why = "the system gives no thread to speak with the lock service";
            shared.fail(name, why);
        }
    }
}

/// A lock service on a log. See [`Engine`]. Dropping it waits until no thread of it is left, which
/// is as long as one call to the ledger may take.
pub struct LogEngine<L: Ledger> {
    shared: Arc<Shared<L>>,
    events: Receiver<ServiceEvent>,
}

impl<L: Ledger> LogEngine<L> {
    /// One that has not joined. `waker` is called after each event.
    pub fn new(ledger: L, setup: Setup, waker: Waker) -> LogEngine<L> {
        let (mailbox, events) = channel();
        let state = State {
            phase: Phase::New,
            paused: false,
            leaving: false,
            mark: None,
            valid_until: Instant(u64::MAX),
            book: Book::default(),
            place: 0,
            fresh: 0,
            queue: VecDeque::new(),
            broadcasts: 0,
            deadlines: BTreeMap::new(),
            late: None,
            stirred: false,
            trouble: BTreeMap::new(),
            mailbox,
            told: false,
            threads: Vec::new(),
        };
        let shared = Shared {
            ledger,
            setup,
            state: Mutex::new(state),
            changed: Condvar::new(),
            waker,
        };
        LogEngine {
            shared: Arc::new(shared),
            events,
        }
    }

    /// Stops this node as a stopped process or machine is stopped, for tests: nothing is sent,
    /// nothing is told, nothing is noticed. Time goes on.
    pub fn pause(&self, paused: bool) {
        let shared = &self.shared;
        shared.with(shared.lock(), |state| state.paused = paused);
    }

    /// Sends bytes as a message, for tests: a newer version may have others than ours.
    pub fn broadcast_bytes(&mut self, grant: u64, bytes: &[u8], deadline: Instant) {
        let shared = &self.shared;
        shared.with(shared.lock(), |state| {
            let nth = next_broadcast(state, deadline);
            let message = hex(bytes);
            state.queue.push_back(Word::Broadcast {
                nth,
                grant,
                message,
            });
        });
    }

    fn join(&self, capacity: u16, version: u8) {
        let setup = &self.shared.setup;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let join = Join {
            cluster: setup.cluster.clone(),
            host: setup.host.clone(),
            capacity,
            version,
            session_ms: millis(setup.session),
            watchdog_ms: setup.watchdog.map(millis),
            unknown_past: setup.past != Past::New,
            past_fenced: match setup.past {
                Past::New => None,
                Past::Unknown { fenced } => fenced.map(Into::into),
            },
        };
        let until = Clock.now() + span(setup.join_within);
        let begun = self.shared.with(self.shared.lock(), |state| {
            let new = state.phase == Phase::New;
            if new {
                state.phase = Phase::Joining { until };
                state.queue.push_back(Word::Join(join));
            }
            new
        });
        if begun {
            spawn(&self.shared, "timer", |shared| shared.timer());
            spawn(&self.shared, "writer", writer::run);
        }
    }
}

/// The number of a broadcast that is to be answered by then.
fn next_broadcast(state: &mut State, deadline: Instant) -> u64 {
    state.broadcasts += 1;
    state.deadlines.insert(state.broadcasts, deadline);
    state.broadcasts
}

fn queue(state: &mut State, command: &ServiceCommand) {
    match command {
        ServiceCommand::Broadcast { deadline, .. } => {
            next_broadcast(state, *deadline);
        }
        ServiceCommand::Leave(_) if state.phase == Phase::New => {
            return state.over(ServiceEvent::Left, false);
        }
        // From here on the session is not renewed: it is over by its end at the latest.
        ServiceCommand::Leave(_) => state.leaving = true,
        _ => {}
    }
    state.queue.extend(Word::of(command, state.broadcasts));
}

impl<L: Ledger> Engine for LogEngine<L> {
    fn submit(&mut self, command: ServiceCommand) {
        if let ServiceCommand::Join { capacity, version } = command {
            return self.join(capacity, version);
        }
        let shared = &self.shared;
        shared.with(shared.lock(), |state| queue(state, &command));
    }

    fn try_event(&mut self) -> Option<ServiceEvent> {
        self.events.try_recv().ok()
    }

    fn wait_event(&mut self, timeout: Duration) -> Option<ServiceEvent> {
        self.events.recv_timeout(timeout).ok()
    }

    fn now(&self) -> Instant {
        Clock.now()
    }

    fn about(&self, peer: Peer) -> Option<About> {
        let state = self.shared.lock();
        let (host, session, watchdog) = state.book.about(peer.into())?;
        Some(About {
            host: host.map(Into::into),
            session: Duration::from_millis(session),
            watchdog: watchdog.map(Duration::from_millis),
        })
    }

    fn trouble(&self) -> Option<String> {
        let state = self.shared.lock();
        state.trouble.values().next_back().cloned()
    }

    fn validity(&self) -> Validity {
        let shared = Arc::clone(&self.shared);
        Arc::new(move || shared.lock().valid_until)
    }
}

impl<L: Ledger> Drop for LogEngine<L> {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.with(shared.lock(), |state| {
            if !state.is_over() {
                state.phase = Phase::Over { end: false };
            }
        });
        shared.ledger.hang_up();
        // A thread may have started another one before it ended.
        loop {
            let threads = std::mem::take(&mut shared.lock().threads);
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                let joined = thread.join();
                joined.expect("what breaks in a thread is caught there");
            }
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttled;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Appended, Follow, Opened, Renewal, Snapshot, Trouble};
    use crate::memory::{Link, Memory};

    /// A ledger with something in it that breaks.
    struct Broken(Link);

    impl Ledger for Broken {
        fn begin(&self, session: Duration) -> Result<Mark, Trouble> {
            self.0.begin(session)
        }
        fn renew(&self, mark: Mark) -> Result<Renewal, Trouble> {
            self.0.renew(mark)
        }
        fn end(&self, mark: Mark) -> Result<(), Trouble> {
            self.0.end(mark)
        }
        fn append(&self, m: Mark, n: u64, text: &str, s: &[Mark]) -> Result<Appended, Trouble> {
            self.0.append(m, n, text, s)
        }
        fn open(&self) -> Result<Opened, Trouble> {
            self.0.open()
        }
        fn follow(&self, place: u64, wait: Duration) -> Result<Follow, Trouble> {
            let followed = self.0.follow(place, wait)?;
            match &followed {
                Follow::Entries { entries, .. } if place > 1 && !entries.is_empty() => {
                    panic!("it breaks on purpose")
                }
                _ => Ok(followed),
            }
        }
        fn marks(&self) -> Result<BTreeSet<Mark>, Trouble> {
            self.0.marks()
        }
        fn trim(&self, old: Option<u64>, new: &Snapshot) -> Result<(), Trouble> {
            self.0.trim(old, new)
        }
    }

    #[test]
    fn a_thread_that_breaks_ends_the_session_and_not_only_itself() {
        let setup = Setup::new([1; 16], "blue", "host");
        let ledger = Broken(Memory::new().link());
        let mut engine = LogEngine::new(ledger, setup, Arc::new(|| ()));
        let (capacity, version) = (1, 1);
        engine.submit(ServiceCommand::Join { capacity, version });
        let mut next = || engine.wait_event(Duration::from_secs(10));
        assert!(matches!(next(), Some(ServiceEvent::Joined(_))));
        // Its session would hold for long, and be renewed.
        engine.submit(ServiceCommand::Acquire(umd_core::cluster::Right::Token));
        let mut told = Vec::new();
        while let Some(event) = engine.wait_event(Duration::from_secs(3)) {
            told.push(event);
        }
        assert_eq!(told.last(), Some(&ServiceEvent::Lost), "{told:?}");
        let trouble = engine.trouble().unwrap();
        assert!(trouble.contains("broke"), "{trouble}");
    }
}
