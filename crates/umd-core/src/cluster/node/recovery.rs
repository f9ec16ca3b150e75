//! The dead: from the news to the moment when their slot is empty.
//!
//! ```text
//!   Down --> Unfenced --- proof, recorded --> Fenced --> Asked --> Copying --> Clearing --> (gone)
//!              |  no proof: writes stay         ^          |  one node at a time
//!              |  frozen, asked again later     |          '- somebody else has: (gone)
//!   Gone(Dirty) ---- it left by itself ---------'
//! ```
//!
//! Bits of the dead are durable as ours before they are cleared as theirs: whoever dies in between,
//! they are somewhere.

use super::super::rules::Rule;
use super::super::service::{FenceProof, Leave, NodeSlot, Peer, ProofKind, ServiceCommand};
use super::super::wait::{Wait, WaitFor};
use super::super::work::{Answer, Desk, Effect, Task};
use super::door::Phase;
use super::{Node, Out};
use crate::value::Instant;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Death {
    peer: Peer,
    at: At,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    /// `asked`: a proof was asked for; else when to ask (again).
    Unfenced {
        asked: Option<Instant>,
    },
    Fenced,
    Asked,
    Copying,
    Clearing {
        any: bool,
    },
    /// It could not be taken here.
    Resting {
        until: Instant,
    },
}

impl Death {
    pub(super) fn new(peer: Peer, fenced: Option<FenceProof>, now: Instant) -> Death {
        let at = match fenced {
            Some(_) => At::Fenced,
            None => At::Unfenced { asked: None },
        };
        let since = now;
        Death { peer, at, since }
    }

    pub(super) fn is_unfenced(&self) -> bool {
        matches!(self.at, At::Unfenced { .. })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.at {
            At::Unfenced { asked } => asked.filter(|again| *again < Instant(u64::MAX)),
            At::Resting { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn wait(&self, slot: NodeSlot) -> Option<Wait> {
        let what = match self.at {
            At::Unfenced { .. } => WaitFor::Proof(slot),
            _ => WaitFor::Recovery(slot),
        };
        let since = self.since;
        Some(Wait { what, since })
    }
}

/// A proof is under way: nobody asks again before it is answered.
const NEVER: Instant = Instant(u64::MAX);

impl Node {
    pub(super) fn down(&mut self, now: Instant, peer: Peer, out: &mut Out) {
        if self.me == Some(peer) {
            return self.lose(now, out);
        }
        self.peers.remove(&peer.slot);
        self.owing.remove(&peer.slot);
        let death = Death::new(peer, None, now);
        let before = self.deaths.insert(peer.slot, death);
        assert!(before.is_none(), "a slot died twice without a recovery");
        self.sender_lost(peer.slot);
    }

    pub(super) fn gone(&mut self, now: Instant, peer: Peer, leave: Leave) {
        self.peers.remove(&peer.slot);
        self.owing.remove(&peer.slot);
        self.sender_freed(peer.slot);
        let dirty = leave == Leave::Dirty;
        self.inbox
            .lift(peer.slot, dirty && self.keep(Rule::Refresh));
        if dirty {
            let kind = ProofKind::LeftByItself;
            let death = Death::new(peer, Some(FenceProof { peer, kind }), now);
            self.deaths.insert(peer.slot, death);
        }
    }

    /// A proof was had here: everybody shall know.
    pub(super) fn proven(&mut self, proof: FenceProof, out: &mut Out) {
        let death = self.deaths.get(&proof.peer.slot);
        if death.is_some_and(|death| death.peer == proof.peer && death.is_unfenced()) {
            out.push(Effect::Service(ServiceCommand::RecordFence(proof)));
        }
    }

    pub(super) fn not_proven(&mut self, now: Instant, peer: Peer) {
        let again = now + self.setup.retry_after;
        if let Some(death) = self.deaths.get_mut(&peer.slot)
            && death.peer == peer
            && let At::Unfenced { asked } = &mut death.at
        {
            *asked = Some(again);
        }
    }

    pub(super) fn fenced(&mut self, now: Instant, proof: FenceProof) {
        let Some(death) = self.deaths.get_mut(&proof.peer.slot) else {
            return;
        };
        if death.peer != proof.peer || !death.is_unfenced() {
            return;
        }
        (death.at, death.since) = (At::Fenced, now);
        self.sender_freed(proof.peer.slot);
        let refresh = self.keep(Rule::Refresh);
        self.inbox.lift(proof.peer.slot, refresh);
    }

    pub(super) fn advance_recovery(&mut self, now: Instant, out: &mut Out) -> bool {
        let active = self.phase == Phase::Active && !self.lost;
        let proof_needed = self.keep(Rule::Proof);
        // What the dead have written is read before their bits are: those may be for more sectors.
        let active = active && (!proof_needed || !self.inbox.is_stale());
        let mut moved = false;
        for death in self.deaths.values_mut() {
            match death.at {
                At::Unfenced { asked } if asked.is_none_or(|again| now >= again) => {
                    death.at = At::Unfenced { asked: Some(NEVER) };
                    out.push(Effect::Fence(death.peer));
                    moved = true;
                }
                At::Unfenced { .. } if !proof_needed && active => {
                    death.at = At::Asked;
                    let begin = ServiceCommand::BeginRecovery(death.peer);
                    out.push(Effect::Service(begin));
                }
                At::Resting { until } if now >= until => {
                    death.at = At::Fenced;
                    moved = true;
                }
                At::Fenced if active => {
                    death.at = At::Asked;
                    let begin = ServiceCommand::BeginRecovery(death.peer);
                    out.push(Effect::Service(begin));
                    moved = true;
                }
                _ => {}
            }
        }
        moved
    }

    pub(super) fn recovery_granted(&mut self, now: Instant, peer: Peer, out: &mut Out) {
        let active = self.phase == Phase::Active;
        let slot = peer.slot;
        let death = self.deaths.get_mut(&slot);
        let Some(death) = death.filter(|death| active && death.peer == peer) else {
            return self.end_recovery(peer, (false, false), out);
        };
        assert!(death.at == At::Asked, "a recovery nobody asked for");
        death.at = At::Copying;
        let task = match self.keep(Rule::CopyFirst) {
            true => Task::CopyBits(slot),
            false => Task::ClearBits(slot),
        };
        self.task(now, Desk::Recovery(slot), task, out);
    }

    fn end_recovery(&mut self, peer: Peer, (done, bits): (bool, bool), out: &mut Out) {
        let end = ServiceCommand::EndRecovery { peer, done, bits };
        out.push(Effect::Service(end));
    }

    pub(super) fn recovery_answered(
        &mut self,
        now: Instant,
        slot: NodeSlot,
        answer: Answer,
        out: &mut Out,
    ) {
        let Some(death) = self.deaths.get_mut(&slot) else {
            return; // It left meanwhile.
        };
        let peer = death.peer;
        match (death.at, answer) {
            (At::Copying, Answer::Done) => {
                assert!(!self.keep(Rule::CopyFirst), "copied without saying what");
                self.task(now, Desk::Recovery(slot), Task::CopyBits(slot), out);
            }
            (At::Copying, Answer::Copied { any }) => {
                death.at = At::Clearing { any };
                self.owes |= any;
                if any {
                    // A resync that is just ending began before these bits came.
                    self.resync.does_not_count();
                    self.show(out);
                }
                if self.keep(Rule::CopyFirst) {
                    self.task(now, Desk::Recovery(slot), Task::ClearBits(slot), out);
                } else {
                    self.taken(peer, any, out);
                }
            }
            (At::Clearing { any }, Answer::Done) => self.taken(peer, any, out),
            (_, Answer::Cannot(_)) => {
                let until = now + self.setup.retry_after;
                death.at = At::Resting { until };
                self.end_recovery(peer, (false, false), out);
            }
            (at, answer) => panic!("{answer:?} to a recovery at {at:?}"),
        }
    }

    fn taken(&mut self, peer: Peer, any: bool, out: &mut Out) {
        self.deaths.remove(&peer.slot);
        self.end_recovery(peer, (true, any), out);
        if any {
            out.push(Effect::ResyncNeeded);
        }
    }

    pub(super) fn recovery_ended(&mut self, peer: Peer, by: NodeSlot, bits: bool) {
        let death = self.deaths.get(&peer.slot);
        if death.is_some_and(|death| death.peer == peer) {
            self.deaths.remove(&peer.slot);
        }
        if bits && self.peers.contains_key(&by) {
            self.owing.insert(by);
        }
    }
}
