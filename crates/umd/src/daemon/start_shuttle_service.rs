//! A lock service that does what `umd_core::cluster::service` promises, and no more, as slowly as
//! the scheduler likes. Whatever breaks a rule is noted: a panic in an array's thread is caught.
//!
//! ```text
//!   array's thread: submit --> asked --> serve --> told --> try_event
//!                                                   ^
//!                          speak, die, lose --------'   other threads, at any moment
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use umd_cluster::{About, Engine as Service, Waker};
use umd_core::cluster::{
    AckStatus, Answered, DeliveryId, DeviceNumber, Fencing, Incarnation, JoinRefusal,
    MembershipEpoch, Message, NodeSlot, Peer, Right, ServiceCommand, ServiceEvent, Session,
    Unrecovered, Window,
};
use umd_core::value::{Instant, Span};

use crate::daemon::sync::{Condvar, Mutex, MutexGuard, Time, step, thread};

/// The node that is looked at.
const ME: Peer = Peer {
    slot: NodeSlot(0),
    incarnation: Incarnation(9),
};
/// The other one.
pub const PEER: Peer = Peer {
    slot: NodeSlot(1),
    incarnation: Incarnation(7),
};
/// The name of the array's thread.
pub const THREAD: &str = "md:r1";

/// What broke a rule.
#[derive(Clone, Default)]
pub struct Faults(Arc<std::sync::Mutex<Vec<String>>>);

impl Faults {
    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("no panic").push(what.into());
    }

    pub fn check(&self) {
        let faults = self.0.lock().expect("no panic");
        assert!(faults.is_empty(), "rules were broken: {faults:?}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Outside,
    Member,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Free,
    Ours,
    Theirs,
}

struct Desk {
    life: Life,
    asked: VecDeque<ServiceCommand>,
    told: VecDeque<ServiceEvent>,
    valid_until: Instant,
    peer: bool,
    /// What the peer waits to be answered.
    owed: Option<DeliveryId>,
    token: Token,
    wants_token: bool,
    numbers: u64,
    joins: usize,
    leaves: usize,
    /// The node has fetched the last event there is.
    heard_end: bool,
    /// The node has let go of its engine.
    gone: bool,
}

impl Desk {
    fn tell(&mut self, event: ServiceEvent) {
        if self.life != Life::Over && !self.gone {
            self.told.push_back(event);
        }
    }

    fn end(&mut self, last: ServiceEvent) {
        self.tell(last);
        self.life = Life::Over;
        self.owed = None;
    }

    fn next(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn is_over(&self) -> bool {
        self.life == Life::Over || self.gone
    }

    fn grant(&mut self, right: Right) {
        let number = self.next();
        self.tell(ServiceEvent::Granted(right, Fencing(number)));
    }

    fn free_token(&mut self) {
        self.token = Token::Free;
        if std::mem::take(&mut self.wants_token) {
            self.token = Token::Ours;
            self.grant(Right::Token);
        }
    }

    fn peer_dies(&mut self) {
        if !std::mem::take(&mut self.peer) {
            return;
        }
        self.owed = None;
        self.tell(ServiceEvent::Prep);
        self.tell(ServiceEvent::Down(PEER));
        let epoch = MembershipEpoch(self.next());
        self.tell(ServiceEvent::Done(epoch, BTreeSet::new()));
        if self.token == Token::Theirs {
            self.free_token();
        }
    }

    fn join(&mut self, cast: &Cast) {
        if self.life != Life::Outside {
            return;
        }
        if cast.refuses {
            return self.end(ServiceEvent::JoinRefused(JoinRefusal::Full { capacity: 2 }));
        }
        let unrecovered = Unrecovered {
            peer: PEER,
            fenced: None,
        };
        let epoch = MembershipEpoch(self.next());
        self.valid_until = Instant(Time::now()) + Span::secs(cast.session_s);
        self.tell(ServiceEvent::Joined(Session {
            me: ME,
            epoch,
            version: 1,
            valid_until: self.valid_until,
            peers: self.peer.then_some(PEER).into_iter().collect(),
            values: BTreeMap::new(),
            unrecovered: cast.was_dead.then_some(unrecovered).into_iter().collect(),
        }));
        self.life = Life::Member;
    }

    /// Answers a command; whether the peer has to, too.
    fn answer(&mut self, command: ServiceCommand, cast: &Cast) -> bool {
        match command {
            ServiceCommand::Join { .. } => self.join(cast),
            ServiceCommand::Leave(_) => self.end(ServiceEvent::Left),
            ServiceCommand::Acquire(Right::Resync) => self.grant(Right::Resync),
            ServiceCommand::Acquire(Right::Token) => match self.token {
                Token::Theirs => self.wants_token = true,
                Token::Free | Token::Ours => {
                    self.token = Token::Ours;
                    self.grant(Right::Token);
                }
            },
            ServiceCommand::Cancel(Right::Token) if self.wants_token => {
                self.wants_token = false;
                self.tell(ServiceEvent::Cancelled(Right::Token));
            }
            ServiceCommand::Release(Right::Token, _) => self.free_token(),
            ServiceCommand::Cancel(_) | ServiceCommand::Release(..) => {}
            ServiceCommand::Broadcast { .. } => {
                let to: BTreeSet<Peer> = self.peer.then_some(PEER).into_iter().collect();
                self.tell(ServiceEvent::Ordered(to));
                return self.peer;
            }
            ServiceCommand::Ack(id, _) => drop(self.owed.take_if(|owed| *owed == id)),
            ServiceCommand::SetValue(_) => {}
            ServiceCommand::Expel(_) => self.peer_dies(),
            ServiceCommand::RecordFence(proof) => self.tell(ServiceEvent::Fenced(proof)),
            ServiceCommand::BeginRecovery(peer) => {
                self.tell(ServiceEvent::RecoveryGranted(peer));
            }
            ServiceCommand::EndRecovery { peer, done, bits } => {
                let by = ME.slot;
                if done {
                    self.tell(ServiceEvent::RecoveryEnded { peer, by, bits });
                }
            }
        }
        false
    }
}

/// What the service is like.
#[derive(Debug, Clone, Copy)]
pub struct Cast {
    /// It lets nobody in.
    pub refuses: bool,
    /// There is another member.
    pub peer: bool,
    /// There was one, which died and was not fenced.
    pub was_dead: bool,
    /// How long its sessions hold, in seconds; they are not renewed.
    pub session_s: u64,
}

/// The lock service of one array.
pub struct Hall {
    desk: Mutex<Desk>,
    news: Condvar,
    waker: Waker,
    cast: Cast,
    faults: Faults,
}

impl Hall {
    pub fn new(cast: Cast, waker: Waker, faults: Faults) -> Arc<Hall> {
        let desk = Desk {
            life: Life::Outside,
            asked: VecDeque::new(),
            told: VecDeque::new(),
            valid_until: Instant(u64::MAX),
            peer: cast.peer,
            owed: None,
            token: Token::Free,
            wants_token: false,
            numbers: 100,
            joins: 0,
            leaves: 0,
            heard_end: false,
            gone: false,
        };
        Arc::new(Hall {
            desk: Mutex::new(desk),
            news: Condvar::new(),
            waker,
            cast,
            faults,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no panic")
    }

    fn wait(&self, until: impl Fn(&Desk) -> bool) -> MutexGuard<'_, Desk> {
        let waited = self.news.wait_while(self.lock(), |desk| !until(desk));
        waited.expect("no panic")
    }

    /// Lets go of the desk, and wakes who has to look at it.
    fn leave(&self, desk: MutexGuard<'_, Desk>) {
        let told = !desk.told.is_empty() && !desk.gone;
        drop(desk);
        self.news.notify_all();
        if told {
            (self.waker)();
        }
    }

    /// Answers what is asked, until the node is gone.
    pub fn serve(&self) {
        loop {
            let mut desk = self.wait(|desk| desk.gone || !desk.asked.is_empty());
            let Some(command) = desk.asked.pop_front() else {
                return;
            };
            let owed = desk.answer(command, &self.cast);
            self.leave(desk);
            step();
            if owed {
                let mut desk = self.lock();
                if desk.peer {
                    let done = Answered::Acked(AckStatus::Done);
                    desk.tell(ServiceEvent::Answered(PEER.slot, done));
                }
                self.leave(desk);
            }
        }
    }

    /// The peer has something to say, and waits for each answer.
    pub fn speak(&self) {
        let window = Window::new(0, 1024);
        let (good, owes) = (DeviceNumber(0), false);
        let words = [
            Message::Resyncing { window, owes },
            Message::MetadataUpdated { good },
            Message::Resyncing { window: None, owes },
        ];
        for word in words {
            let free = |desk: &Desk| desk.life == Life::Member && desk.token == Token::Free;
            let mut desk = self.wait(|desk| desk.is_over() || !desk.peer || free(desk));
            if desk.is_over() || !desk.peer {
                return;
            }
            desk.token = Token::Theirs;
            let id = DeliveryId(desk.next());
            desk.owed = Some(id);
            desk.tell(ServiceEvent::Deliver(id, PEER, word));
            self.leave(desk);
            let mut desk = self.wait(|desk| desk.is_over() || desk.owed.is_none());
            if desk.token == Token::Theirs {
                desk.free_token();
            }
            self.leave(desk);
        }
    }

    /// The peer dies.
    pub fn die(&self) {
        let mut desk = self.wait(|desk| desk.is_over() || desk.life == Life::Member);
        if !desk.is_over() {
            desk.peer_dies();
        }
        self.leave(desk);
    }

    /// The session ends.
    pub fn lose(&self) {
        step();
        let mut desk = self.wait(|desk| desk.is_over() || desk.joins > 0);
        match desk.life {
            Life::Outside => desk.end(ServiceEvent::JoinRefused(JoinRefusal::Unreachable)),
            Life::Member => desk.end(ServiceEvent::Lost),
            Life::Over => {}
        }
        self.leave(desk);
    }

    /// How often the node has said that it leaves.
    pub fn leaves(&self) -> usize {
        self.lock().leaves
    }

    /// Whether nobody has this service any more.
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }
}

/// The node's end of it.
pub struct End(pub Arc<Hall>);

impl End {
    /// Everything of an array is done by its thread.
    fn check_thread(&self, what: &str) {
        let thread = thread::current();
        if thread.name() != Some(THREAD) {
            let name = thread.name().unwrap_or("a thread without a name");
            self.0.faults.note(format!("{name} {what}"));
        }
    }
}

impl Service for End {
    fn submit(&mut self, command: ServiceCommand) {
        self.check_thread("submits a command");
        let mut desk = self.0.lock();
        desk.joins += usize::from(matches!(command, ServiceCommand::Join { .. }));
        desk.leaves += usize::from(matches!(command, ServiceCommand::Leave(_)));
        if desk.joins != 1 {
            self.0.faults.note(format!("{command:?} of no member"));
        }
        if desk.leaves > 1 {
            self.0.faults.note("it leaves twice");
        }
        if desk.heard_end {
            self.0.faults.note(format!("{command:?} after its end"));
        }
        desk.asked.push_back(command);
        drop(desk);
        self.0.news.notify_all();
    }

    fn try_event(&mut self) -> Option<ServiceEvent> {
        self.check_thread("fetches an event");
        let mut desk = self.0.lock();
        let event = desk.told.pop_front()?;
        desk.heard_end |= matches!(
            event,
            ServiceEvent::Left | ServiceEvent::Lost | ServiceEvent::JoinRefused(_)
        );
        Some(event)
    }

    fn wait_event(&mut self, _: std::time::Duration) -> Option<ServiceEvent> {
        self.try_event()
    }

    fn now(&self) -> Instant {
        Instant(Time::now())
    }

    fn about(&self, _: Peer) -> Option<About> {
        Some(About {
            host: Some("beta".into()),
            session: std::time::Duration::from_secs(10),
            watchdog: None,
        })
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn validity(&self) -> umd_cluster::Validity {
        Arc::new(|| Instant(u64::MAX)) // No watchdog is fed here.
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut desk = self.0.lock();
        let ran_out = Time::now() >= desk.valid_until.0;
        if desk.joins > 0 && !desk.heard_end && !ran_out {
            self.0.faults.note("its thread ends while it is a member");
        }
        desk.gone = true;
        drop(desk);
        self.0.news.notify_all();
    }
}
