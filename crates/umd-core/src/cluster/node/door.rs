//! Joining, and leaving from wherever the node stands.
//!
//! ```text
//!   Stop while New       Over
//!              Joining   Leave, whatever the service says meanwhile
//!              Loading   once loaded, Leave
//!              Active    Drain -> BITMAP_NEEDS_SYNC if bits are left -> Leave -> Left -> Over
//! ```
//!
//! Over comes last: as long as somebody may still send something here, what serves it is there (in
//! md's terms: `bitmap_destroy` before the array's thread goes). Until then peers are answered. A
//! stop that has waited for others long enough leaves its slot to them.

use super::super::message::Message;
use super::super::rules::Rule;
use super::super::service::{JoinRefusal, Leave, ServiceCommand, Session};
use super::super::wait::{Wait, WaitFor};
use super::super::work::{Answer, Desk, Effect, Task};
use super::recovery::Death;
use super::{End, Node, Out};
use crate::value::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Phase {
    New,
    Joining {
        since: Instant,
    },
    Loading {
        stop: bool,
        /// It is loaded, and waits for something all the same (see [`Rule::D8`]).
        loaded: bool,
    },
    Active,
    /// Host writes and the resync are coming to an end.
    Draining,
    /// What is under way ends, and who is there is told of bits that are left.
    HandingOver {
        until: Instant,
        dirty: bool,
        told: bool,
    },
    Leaving {
        since: Instant,
        left: bool,
        was_member: bool,
    },
    Over(End),
}

impl Phase {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Phase::HandingOver { until, .. } => Some(*until),
            _ => None,
        }
    }

    pub(super) fn wait(&self) -> Option<Wait> {
        let (what, since) = match self {
            Phase::Joining { since } => (WaitFor::Join, *since),
            Phase::Leaving { since, .. } => (WaitFor::Leave, *since),
            _ => return None,
        };
        Some(Wait { what, since })
    }
}

impl Node {
    pub(super) fn start(&mut self, now: Instant, out: &mut Out) {
        assert!(self.phase == Phase::New, "a node is started once");
        self.phase = Phase::Joining { since: now };
        out.push(Effect::Service(ServiceCommand::Join {
            capacity: self.setup.capacity,
            version: self.setup.version,
        }));
    }

    pub(super) fn joined(&mut self, now: Instant, session: Session, out: &mut Out) {
        if !matches!(self.phase, Phase::Joining { .. }) {
            return; // It has said that it leaves.
        }
        assert!(
            session.me.slot.0 < self.setup.capacity,
            "a slot without bitmap"
        );
        if !(1..=self.setup.version).contains(&session.version) {
            out.push(Effect::NotJoined(JoinRefusal::Version {
                theirs: session.version,
                ours: self.setup.version,
            }));
            return self.leave(now, Leave::Dirty, out);
        }
        self.me = Some(session.me);
        self.valid_until = session.valid_until;
        for peer in session.peers {
            assert!(peer.slot != session.me.slot, "a slot has one owner");
            self.peers.insert(peer.slot, peer.incarnation);
        }
        // Who shows a larger size than another does it because all have followed by then.
        let shown = session
            .values
            .values()
            .filter_map(|value| value.shown_sectors);
        let most_sectors = shown.max().filter(|_| self.keep(Rule::ShownSize));
        let mut windows = Vec::new();
        for (slot, value) in session.values {
            if self.peers.contains_key(&slot) {
                windows.extend(value.window.map(|window| (slot, window)));
                if value.owes_resync {
                    self.owing.insert(slot);
                }
            }
        }
        for one in session.unrecovered {
            let death = Death::new(one.peer, one.fenced, now);
            self.deaths.insert(one.peer.slot, death);
        }
        self.phase = Phase::Loading {
            stop: false,
            loaded: false,
        };
        let load = Task::Load {
            windows,
            most_sectors,
        };
        self.task(now, Desk::Door, load, out);
    }

    pub(super) fn join_refused(&mut self, why: JoinRefusal, out: &mut Out) {
        match self.phase {
            Phase::Joining { .. } => {
                out.push(Effect::NotJoined(why));
                self.over(End::NeverJoined, out);
            }
            // It has said that it leaves before it heard: nobody answers that any more.
            Phase::Leaving { .. } => self.left(),
            _ => {}
        }
    }

    pub(super) fn stop(&mut self, now: Instant, out: &mut Out) {
        match self.phase {
            Phase::New => self.over(End::NeverJoined, out),
            // It may have a slot by now, whose bitmap nobody has read.
            Phase::Joining { .. } => self.leave(now, Leave::Dirty, out),
            Phase::Loading { loaded, .. } => {
                self.phase = Phase::Loading { stop: true, loaded };
            }
            Phase::Active => {
                self.fail_wishes(out);
                self.sender.forget_queue();
                self.phase = Phase::Draining;
                self.task(now, Desk::Door, Task::Drain, out);
            }
            Phase::Draining | Phase::HandingOver { .. } | Phase::Leaving { .. } => {}
            Phase::Over(_) => {}
        }
    }

    pub(super) fn door_answered(&mut self, now: Instant, answer: Answer, out: &mut Out) {
        match (self.phase, answer) {
            (Phase::Loading { .. }, _) if self.lost => self.over_when_idle(now),
            (Phase::Loading { stop: true, .. }, Answer::Loaded { dirty: false, .. }) => {
                self.leave(now, Leave::Clean, out);
            }
            (Phase::Loading { stop: true, .. }, _) => self.leave(now, Leave::Dirty, out),
            (Phase::Loading { stop, .. }, Answer::Loaded { dirty, sectors }) => {
                self.owes |= dirty;
                self.shown_sectors = Some(sectors);
                self.show(out);
                self.phase = Phase::Loading { stop, loaded: true };
            }
            (Phase::Loading { .. }, Answer::Cannot(why)) => {
                out.push(Effect::NotLoaded(why));
                // Nobody has read its bitmap: somebody has to.
                self.leave(now, Leave::Dirty, out);
            }
            (Phase::Draining, _) if self.lost => self.over_when_idle(now),
            (Phase::Draining, Answer::Drained { dirty }) => {
                self.phase = Phase::HandingOver {
                    until: now + self.setup.stop_within,
                    dirty,
                    told: false,
                };
                if !self.keep(Rule::D5) {
                    out.push(Effect::Over(End::Left));
                }
            }
            (phase, answer) => panic!("{answer:?} to the door in {phase:?}"),
        }
    }

    pub(super) fn advance_door(&mut self, now: Instant, out: &mut Out) -> bool {
        match self.phase {
            Phase::Loading { stop, loaded: true } => {
                let sent = self.keep(Rule::D8) || self.sender.is_idle();
                if sent && !stop {
                    self.phase = Phase::Active;
                    out.push(Effect::Ready);
                }
                sent && !stop
            }
            Phase::HandingOver { until, dirty, told } => {
                self.hand_over(now, (until, dirty, told), out)
            }
            Phase::Leaving {
                left: true,
                was_member,
                ..
            } if self.tasks.is_empty() => {
                let end = match was_member {
                    _ if self.lost => End::Lost,
                    true => End::Left,
                    false => End::NeverJoined,
                };
                self.over(end, out);
                true
            }
            _ => false,
        }
    }

    /// Leaves as soon as nothing of it is half done, or nobody lets it end.
    fn hand_over(
        &mut self,
        now: Instant,
        (until, dirty, told): (Instant, bool, bool),
        out: &mut Out,
    ) -> bool {
        if !self.tasks.is_empty() {
            return false; // A write of this node would land after it has gone.
        }
        let dirty_now = dirty || self.owes;
        let patient = now < until && !self.sender.is_stuck();
        if !self.sender.is_idle() && patient {
            return false;
        }
        let heard = !self.peers.is_empty() && self.unfenced().is_empty();
        if dirty_now && !told && heard && patient {
            self.phase = Phase::HandingOver {
                until,
                dirty,
                told: true,
            };
            self.sender.hand_over(now);
            return true;
        }
        let half_done = self.sender.is_half_done();
        let leave = match dirty_now || half_done {
            true => Leave::Dirty,
            false => Leave::Clean,
        };
        self.leave(now, leave, out);
        true
    }

    fn leave(&mut self, now: Instant, how: Leave, out: &mut Out) {
        self.fail_wishes(out);
        self.sender = super::Sender::default();
        self.resync = super::Resync::Idle;
        out.push(Effect::Service(ServiceCommand::Leave(how)));
        self.phase = Phase::Leaving {
            since: now,
            left: false,
            was_member: self.me.is_some(),
        };
    }

    pub(super) fn left(&mut self) {
        if let Phase::Leaving { left, .. } = &mut self.phase {
            *left = true;
            self.inbox = super::Inbox::default();
            self.deaths.clear();
            self.owing.clear();
        }
    }

    /// The session is lost: what of the door still goes on?
    pub(super) fn lose_door(&mut self, now: Instant, out: &mut Out) {
        match self.phase {
            Phase::New | Phase::Over(_) => {}
            Phase::Joining { .. } => {
                out.push(Effect::NotJoined(JoinRefusal::Unreachable));
                self.over(End::NeverJoined, out);
            }
            // The array has to come to rest first, or has to be told to.
            Phase::Loading { loaded: false, .. } | Phase::Active | Phase::Draining => {}
            Phase::Loading { .. } | Phase::HandingOver { .. } | Phase::Leaving { .. } => {
                self.over_when_idle(now);
            }
        }
    }

    fn over_when_idle(&mut self, now: Instant) {
        self.phase = Phase::Leaving {
            since: now,
            left: true,
            was_member: self.me.is_some(),
        };
    }

    fn over(&mut self, end: End, out: &mut Out) {
        self.phase = Phase::Over(end);
        if end != End::Left || self.keep(Rule::D5) {
            out.push(Effect::Over(end));
        }
    }

    /// Whether it has been told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        match self.phase {
            Phase::Loading { stop, .. } => stop,
            Phase::New | Phase::Joining { .. } | Phase::Active => false,
            _ => true,
        }
    }

    /// Whether it may send, and what.
    pub(super) fn may_send(&self, message: Option<Message>) -> bool {
        match self.phase {
            Phase::Active => true,
            Phase::HandingOver { .. } => message == Some(Message::BitmapNeedsSync),
            Phase::Loading { loaded, .. } => loaded && !self.keep(Rule::D8),
            _ => false,
        }
    }
}
