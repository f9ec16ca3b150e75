//! A node under test: an engine, what it has told, and what a test wants to hear.

use std::collections::BTreeSet;
use std::time::{Duration, Instant as Moment};

use umd_cluster::Engine;
use umd_core::cluster::{
    AckStatus, Answered, DeliveryId, Fencing, JoinRefusal, Leave, Message, NodeSlot, Peer, Right,
    ServiceCommand as Command, ServiceEvent as Event, Session,
};
use umd_core::value::{Instant, Span};

/// What never takes that long, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(30);

std::thread_local! {
    static HURRIES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// This thread gives up sooner: what it waits for is not expected to come.
pub fn hurry() {
    HURRIES.set(true);
}

fn patience() -> Duration {
    match HURRIES.get() {
        true => Duration::from_secs(5),
        false => PATIENCE,
    }
}

/// An engine that can be treated badly.
pub trait Subject: Engine {
    /// Stops all of it, or lets it go on.
    fn pause(&self, paused: bool);
    /// Sends bytes that may be no message.
    fn broadcast_bytes(&mut self, grant: u64, bytes: &[u8], deadline: Instant);
    /// Cuts it off from the service, or mends that.
    fn cut(&self, cut: bool);
}

pub struct Node {
    pub engine: Box<dyn Subject>,
    /// What was told, with when it was taken.
    pub seen: Vec<(Instant, Event)>,
    /// How much of it a test has asked for.
    taken: usize,
    /// Messages are answered with `Done` at once.
    pub answers: bool,
    pub session: Option<Session>,
}

impl Node {
    pub fn new(engine: Box<dyn Subject>) -> Node {
        Node {
            engine,
            seen: Vec::new(),
            taken: 0,
            answers: true,
            session: None,
        }
    }

    pub fn say(&mut self, command: Command) {
        self.engine.submit(command);
    }

    pub fn me(&self) -> Peer {
        self.session.as_ref().expect("it has joined").me
    }

    /// Takes one event, if one comes in that time.
    pub fn step(&mut self, time: Duration) -> Option<Event> {
        if self.taken == self.seen.len() {
            let event = self.engine.wait_event(time)?;
            if let Event::Deliver(id, _, _) = event
                && self.answers
            {
                self.say(Command::Ack(id, AckStatus::Done));
            }
            self.seen.push((self.engine.now(), event));
        }
        self.taken += 1;
        Some(self.seen[self.taken - 1].1.clone())
    }

    /// Goes on until something is told that is wanted.
    pub fn until<T>(&mut self, what: &str, wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let got = self.within(patience(), wanted);
        let Some(got) = got else {
            let trouble = self.engine.trouble();
            panic!(
                "{what} did not come; trouble: {trouble:?}; told: {:?}",
                self.seen
            );
        };
        got
    }

    pub fn within<T>(
        &mut self,
        time: Duration,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Option<T> {
        let begin = Moment::now();
        loop {
            let left = time.saturating_sub(begin.elapsed());
            if let Some(got) = wanted(&self.step(left)?) {
                return Some(got);
            }
        }
    }

    /// Nothing of the kind comes for a while.
    pub fn never(&mut self, what: &str, time: Duration, wanted: impl Fn(&Event) -> bool) {
        let got = self.within(time, |event| wanted(event).then(|| event.clone()));
        assert_eq!(got, None, "{what}");
    }

    pub fn join(&mut self, capacity: u16) -> Session {
        let version = umd_core::cluster::VERSION;
        self.say(Command::Join { capacity, version });
        let session = self.until("a session", |event| match event {
            Event::Joined(session) => Some(session.clone()),
            _ => None,
        });
        assert!(session.valid_until > self.engine.now(), "it begins valid");
        self.session = Some(session.clone());
        session
    }

    pub fn refused(&mut self, capacity: u16, version: u8) -> JoinRefusal {
        self.say(Command::Join { capacity, version });
        self.until("a refusal", |event| match event {
            Event::JoinRefused(why) => Some(why.clone()),
            _ => None,
        })
    }

    pub fn acquire(&mut self, right: Right) -> Fencing {
        self.say(Command::Acquire(right));
        self.granted(right)
    }

    pub fn granted(&mut self, right: Right) -> Fencing {
        self.until("a right", |event| match event {
            Event::Granted(of, fencing) if *of == right => Some(*fencing),
            _ => None,
        })
    }

    pub fn deadline(&self, time: Duration) -> Instant {
        let nanos = u64::try_from(time.as_nanos()).expect("short");
        self.engine.now() + Span(nanos)
    }

    /// Sends; who will answer.
    pub fn broadcast(
        &mut self,
        grant: Fencing,
        message: Message,
        time: Duration,
    ) -> BTreeSet<Peer> {
        let deadline = self.deadline(time);
        self.say(Command::Broadcast {
            grant,
            message,
            deadline,
        });
        self.ordered()
    }

    pub fn ordered(&mut self) -> BTreeSet<Peer> {
        self.until("the broadcast's place", |event| match event {
            Event::Ordered(to) => Some(to.clone()),
            _ => None,
        })
    }

    pub fn answer_of(&mut self, slot: NodeSlot) -> Answered {
        self.until("an answer", |event| match event {
            Event::Answered(by, how) if *by == slot => Some(*how),
            _ => None,
        })
    }

    pub fn delivered(&mut self) -> (DeliveryId, Message) {
        self.until("a message", |event| match event {
            Event::Deliver(id, _, message) => Some((*id, *message)),
            _ => None,
        })
    }

    pub fn down(&mut self, peer: Peer) -> Instant {
        self.until("the news of a death", |event| {
            (*event == Event::Down(peer)).then_some(())
        });
        self.seen[self.taken - 1].0
    }

    pub fn gone(&mut self, peer: Peer) -> Leave {
        self.until("the news of a leave", |event| match event {
            Event::Gone(who, how) if *who == peer => Some(*how),
            _ => None,
        })
    }

    pub fn hears(&mut self, wanted: &Event) {
        let what = format!("{wanted:?}");
        self.until(&what, |event| (event == wanted).then_some(()));
    }

    pub fn leave(&mut self, how: Leave) {
        self.say(Command::Leave(how));
        self.hears(&Event::Left);
    }

    /// The newest time until which it was told that it is a member.
    pub fn valid_until(&self) -> Instant {
        let told = self.seen.iter().filter_map(|(_, event)| match event {
            Event::Joined(session) => Some(session.valid_until),
            Event::Renewed(until) => Some(*until),
            _ => None,
        });
        told.max().expect("it was a member")
    }

    /// Takes what is there already.
    pub fn drain(&mut self) {
        while self.step(Duration::ZERO).is_some() {}
    }
}
