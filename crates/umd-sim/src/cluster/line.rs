//! One node's end of the lock service: what it says, and up to where it has heard.
//!
//! ```text
//!   New --> Joining -- Joined --> Member --> Over
//!              '------ refused, too late -----^
//! ```
//!
//! The session ends here after three quarters of its time, counted from before its last renewal was
//! asked for, and nothing is told behind that end. Silence of others is noticed four times a
//! session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use umd_cluster::book::Told;
use umd_cluster::wire::{Entry, Join, Word};
use umd_core::cluster::{
    AckStatus, Answered, Cannot, JoinRefusal, Message, NodeSlot, ServiceCommand, ServiceEvent,
};
use umd_core::value::{Instant, Span};

use super::service::{SESSION, Service};

/// How long a renewal is valid on the node that asked for it.
const VALID: Span = Span(SESSION.0 / 4 * 3);
/// How often it is asked for, and others are looked at.
pub const KEEP_EVERY: Span = Span(SESSION.0 / 4);
/// How long a service that does not answer is asked to let a node in.
const JOIN_WITHIN: Span = Span::secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Joining,
    Member,
    Over,
}

#[derive(Debug)]
struct Late {
    deadline: Instant,
    to: BTreeSet<NodeSlot>,
}

/// A node's line to the service.
#[derive(Debug)]
pub struct Line {
    phase: Phase,
    leaving: bool,
    /// Its sign of life, once the service was reached.
    pub mark: Option<u64>,
    /// When its session ends here.
    pub valid_until: Instant,
    join_until: Instant,
    number: u64,
    heard: usize,
    queue: VecDeque<Word>,
    /// What was appended, and whether that is known.
    unsure: Option<Entry>,
    broadcasts: u64,
    deadlines: BTreeMap<u64, Instant>,
    late: Option<Late>,
    expelled: BTreeMap<u64, Instant>,
    said: BTreeSet<(u64, bool)>,
    host: String,
}

impl Line {
    /// One of a host with this name.
    pub fn new(host: String) -> Line {
        Line {
            phase: Phase::New,
            leaving: false,
            mark: None,
            valid_until: Instant(u64::MAX),
            join_until: Instant(u64::MAX),
            number: 0,
            heard: 0,
            queue: VecDeque::new(),
            unsure: None,
            broadcasts: 0,
            deadlines: BTreeMap::new(),
            late: None,
            expelled: BTreeMap::new(),
            said: BTreeSet::new(),
            host,
        }
    }

    /// Whether nothing is told any more.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// The node says something.
    pub fn submit(&mut self, command: &ServiceCommand, now: Instant, out: &mut Vec<ServiceEvent>) {
        match command {
            ServiceCommand::Join { capacity, version } => {
                self.phase = Phase::Joining;
                self.join_until = now + JOIN_WITHIN;
                self.queue.push_back(Word::Join(Join {
                    cluster: "hall".into(),
                    host: self.host.clone(),
                    capacity: *capacity,
                    version: *version,
                    session_ms: SESSION.0 / 1_000_000,
                    watchdog_ms: None,
                    unknown_past: false,
                    past_fenced: None,
                }));
            }
            ServiceCommand::Broadcast { deadline, .. } => {
                self.broadcasts += 1;
                self.deadlines.insert(self.broadcasts, *deadline);
            }
            ServiceCommand::Leave(_) if self.mark.is_none() => {
                self.over(ServiceEvent::Left, out);
            }
            ServiceCommand::Leave(_) => self.leaving = true,
            _ => {}
        }
        self.queue.extend(Word::of(command, self.broadcasts));
    }

    fn over(&mut self, last: ServiceEvent, out: &mut Vec<ServiceEvent>) {
        if !self.is_over() {
            out.push(last);
            self.phase = Phase::Over;
        }
    }

    fn lose(&mut self, out: &mut Vec<ServiceEvent>) {
        let last = match self.phase {
            Phase::Joining if !self.leaving => ServiceEvent::JoinRefused(JoinRefusal::Unreachable),
            _ => ServiceEvent::Lost,
        };
        self.over(last, out);
    }

    /// Whether there is something to be said.
    pub fn has_words(&self) -> bool {
        !self.is_over() && (!self.queue.is_empty() || self.unsure.is_some())
    }

    /// Says what is queued. `forgets`: the answer is lost, and it will be said again.
    pub fn write(
        &mut self,
        service: &mut Service,
        now: Instant,
        forgets: bool,
        out: &mut Vec<ServiceEvent>,
    ) {
        if self.is_over() {
            return;
        }
        let mark = *self.mark.get_or_insert_with(|| {
            let mark = service.begin(now);
            self.valid_until = now + VALID;
            self.heard = service.len();
            let (gone, _) = service.silent(now);
            for mark in gone {
                let expelled = false;
                self.queue.push_front(Word::Expired { mark, expelled });
            }
            mark
        });
        let entry = self.unsure.take().unwrap_or_else(|| {
            self.number += 1;
            Entry {
                mark,
                number: self.number,
                words: self.queue.drain(..).collect(),
            }
        });
        if !service.append(&entry, now) {
            return self.lose(out);
        }
        self.unsure = forgets.then_some(entry);
    }

    /// Hears up to so many entries. Whether there are more.
    pub fn read(
        &mut self,
        service: &mut Service,
        now: Instant,
        most: usize,
        out: &mut Vec<ServiceEvent>,
    ) -> bool {
        let Some(mark) = self.mark else { return false };
        let end = service.len().min(self.heard + most);
        while self.heard < end && !self.is_over() && now < self.valid_until {
            let told: Vec<Told> = service.told(self.heard, mark).cloned().collect();
            self.heard += 1;
            for told in told {
                self.hear(told, out);
            }
        }
        if self.is_over() && !out.contains(&ServiceEvent::Lost) {
            service.end(mark);
        }
        !self.is_over() && self.heard < service.len()
    }

    fn hear(&mut self, told: Told, out: &mut Vec<ServiceEvent>) {
        if self.is_over() {
            return;
        }
        match told {
            Told::Event(ServiceEvent::Joined(mut session)) => {
                session.valid_until = self.valid_until;
                self.phase = Phase::Member;
                out.push(ServiceEvent::Joined(session));
            }
            Told::Event(event @ (ServiceEvent::JoinRefused(_) | ServiceEvent::Left)) => {
                self.over(event, out);
            }
            Told::Event(ServiceEvent::Lost) => self.lose(out),
            Told::Event(event) => {
                self.note(&event);
                out.push(event);
            }
            Told::Ordered { nth, to } => {
                let deadline = self.deadlines.remove(&nth);
                self.deadlines.retain(|other, _| *other > nth);
                self.late = deadline.map(|deadline| Late {
                    deadline,
                    to: to.iter().map(|peer| peer.slot).collect(),
                });
                out.push(ServiceEvent::Ordered(to));
            }
            Told::Deliver { id, from, message } => match Message::decode(&message) {
                Ok(message) => out.push(ServiceEvent::Deliver(id, from, message)),
                Err(_) => {
                    let cannot = AckStatus::Cannot(Cannot::Understand);
                    self.queue.push_back(Word::Ack(id.0, cannot.into()));
                }
            },
        }
    }

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

    /// Renews its own session, and says who gives no sign of life.
    pub fn keep(&mut self, service: &mut Service, now: Instant, out: &mut Vec<ServiceEvent>) {
        self.tick(now, out);
        let Some(mark) = self.mark.filter(|_| !self.is_over()) else {
            return;
        };
        if !self.leaving {
            match service.renew(mark, now) {
                false => return self.lose(out),
                true => self.valid_until = now + VALID,
            }
            if self.phase == Phase::Member {
                out.push(ServiceEvent::Renewed(self.valid_until));
            }
        }
        let (gone, expelled) = service.silent(now);
        let mut ended: Vec<(u64, bool)> = gone.into_iter().map(|mark| (mark, false)).collect();
        self.expelled.retain(|mark, _| expelled.contains(mark));
        for mark in expelled {
            let since = *self.expelled.entry(mark).or_insert(now);
            if now >= since + SESSION {
                ended.push((mark, true));
            }
        }
        for (other, expelled) in ended {
            if other != mark && self.said.insert((other, expelled)) {
                let mark = other;
                self.queue.push_back(Word::Expired { mark, expelled });
            }
        }
    }

    /// What has a time.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<ServiceEvent>) {
        let late = self.phase == Phase::Joining && now >= self.join_until;
        if self.mark.is_some() && now >= self.valid_until || late {
            self.lose(out);
        }
        if self.is_over() {
            return;
        }
        if let Some(late) = self.late.take_if(|late| now >= late.deadline) {
            for slot in late.to {
                out.push(ServiceEvent::Answered(slot, Answered::TimedOut));
            }
        }
    }

    /// When to call that.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let mut next = self.mark.map(|_| self.valid_until);
        if self.phase == Phase::Joining {
            next = Some(next.map_or(self.join_until, |at| at.min(self.join_until)));
        }
        let late = self.late.as_ref().map(|late| late.deadline);
        next.into_iter().chain(late).min()
    }
}
