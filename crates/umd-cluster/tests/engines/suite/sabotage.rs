//! Engines that break one promise each, to see that a case notices.

use std::collections::VecDeque;
use std::time::Duration;

use umd_cluster::{About, Engine, Past, Setup};
use umd_core::cluster::{
    Answered, FenceProof, Fencing, Peer, ProofKind, ServiceCommand as Command,
    ServiceEvent as Event,
};
use umd_core::value::{Instant, Span};

use super::{Bench, Harness, Subject};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// 1: the second node hears of a membership behind what was sent in it.
    Order,
    /// 1: the sender is told of one addressee less.
    Addressees,
    /// 2: slots are given away again: nobody remembers who died.
    Forgetful,
    /// 2: every life has the same number.
    SameLife,
    /// 3: sessions are said to hold for longer than they do.
    TooLong,
    /// 3: who has passed its time hears what others said then.
    NeverLost,
    /// 4: all grants have one number.
    OneGrant,
    /// 4: what is sent under an old number is sent.
    OldGrants,
    /// 4: a cancel is answered, and what was asked for stays queued.
    NoCancel,
    /// 5: nobody says who is late.
    Silent,
    /// 6: values are lost.
    NoValues,
    /// 7: a recovery begins without a proof.
    NoProof,
    /// 8: nobody hears that it has left.
    NeverLeft,
    /// Answers count twice.
    TwiceAnswered,
}

/// What is broken, and the case that has to notice.
pub const ALL: [(Broken, &str); 14] = [
    (Broken::Order, "1 one order"),
    (
        Broken::Addressees,
        "1 addressees are the members at its place",
    ),
    (Broken::Forgetful, "2 deaths are remembered"),
    (Broken::SameLife, "2 slots and lives"),
    (
        Broken::TooLong,
        "3 a paused node is over before others hear of it",
    ),
    (
        Broken::NeverLost,
        "3 a node that is cut off is over before others hear of it",
    ),
    (Broken::OneGrant, "4 grants only grow"),
    (Broken::OldGrants, "4 a dead holder, and what it sends"),
    (Broken::NoCancel, "4 nothing is queued after a cancel"),
    (Broken::Silent, "5 nobody is silent"),
    (Broken::NoValues, "6 values are seen by who comes"),
    (Broken::NoProof, "7 no recovery without a proof"),
    (Broken::NeverLeft, "8 leaving is answered"),
    (
        Broken::TwiceAnswered,
        "what is said twice, late or out of turn",
    ),
];

/// A harness of broken engines.
pub struct Sabotaged<'h> {
    pub inner: &'h dyn Harness,
    pub broken: Broken,
}

impl Harness for Sabotaged<'_> {
    fn session(&self) -> Duration {
        self.inner.session()
    }

    fn engine(&self, mut setup: Setup) -> Box<dyn Subject> {
        if self.broken == Broken::Forgetful && !setup.host.starts_with("host") {
            // Who comes later knows nothing of those before.
            setup.array = Bench::new(self.inner).array;
            setup.past = Past::New;
        }
        Box::new(Bad {
            second: setup.host == "host1",
            inner: self.inner.engine(setup),
            broken: self.broken,
            held: VecDeque::new(),
            granted: None,
        })
    }
}

struct Bad {
    inner: Box<dyn Subject>,
    broken: Broken,
    second: bool,
    /// What is told next.
    held: VecDeque<Event>,
    granted: Option<Fencing>,
}

impl Bad {
    fn change(&mut self, mut event: Event) -> Option<Event> {
        match (self.broken, &mut event) {
            (Broken::Order, Event::Done(..)) if self.second => {
                let next = self.inner.wait_event(Duration::from_millis(500));
                self.held.push_back(event);
                return next;
            }
            (Broken::Addressees, Event::Ordered(to)) => drop(to.pop_last()),
            (Broken::SameLife, Event::Joined(session)) => session.me.incarnation.0 = 1,
            (Broken::TooLong, Event::Joined(session)) => {
                session.valid_until = session.valid_until + Span::secs(4);
            }
            (Broken::TooLong, Event::Renewed(until)) => *until = *until + Span::secs(4),
            (Broken::NeverLost, Event::Lost) | (Broken::NeverLeft, Event::Left) => return None,
            (Broken::OneGrant, Event::Granted(_, number)) => *number = Fencing(1),
            (_, Event::Granted(_, number)) => self.granted = Some(*number),
            (Broken::Silent, Event::Answered(_, Answered::TimedOut)) => return None,
            (Broken::TwiceAnswered, Event::Answered(..)) => self.held.push_back(event.clone()),
            _ => {}
        }
        Some(event)
    }
}

impl Engine for Bad {
    fn submit(&mut self, command: Command) {
        let command = match (self.broken, command) {
            (Broken::NoValues, Command::SetValue(_)) => return,
            (Broken::NoCancel, Command::Cancel(right)) => {
                return self.held.push_back(Event::Cancelled(right));
            }
            (
                Broken::OldGrants,
                Command::Broadcast {
                    grant,
                    message,
                    deadline,
                },
            ) => {
                let grant = self.granted.unwrap_or(grant);
                Command::Broadcast {
                    grant,
                    message,
                    deadline,
                }
            }
            (Broken::NoProof, Command::BeginRecovery(peer)) => {
                let kind = ProofKind::Confirmed;
                self.inner
                    .submit(Command::RecordFence(FenceProof { peer, kind }));
                Command::BeginRecovery(peer)
            }
            (_, command) => command,
        };
        self.inner.submit(command);
    }

    fn try_event(&mut self) -> Option<Event> {
        self.wait_event(Duration::ZERO)
    }

    fn wait_event(&mut self, timeout: Duration) -> Option<Event> {
        if let Some(event) = self.held.pop_front() {
            return Some(event);
        }
        let event = self.inner.wait_event(timeout)?;
        match self.change(event) {
            Some(event) => Some(event),
            None => self.wait_event(timeout),
        }
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn about(&self, peer: Peer) -> Option<About> {
        self.inner.about(peer)
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble()
    }
    fn validity(&self) -> umd_cluster::Validity {
        self.inner.validity()
    }
}

impl Subject for Bad {
    fn pause(&self, paused: bool) {
        self.inner.pause(paused);
    }

    fn broadcast_bytes(&mut self, grant: u64, bytes: &[u8], deadline: Instant) {
        self.inner.broadcast_bytes(grant, bytes, deadline);
    }

    fn cut(&self, cut: bool) {
        self.inner.cut(cut);
    }
}
