//! A lock service as it is promised (`cluster/service.rs`), small enough to be explored.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::*;
use crate::value::Instant;

/// A slot that somebody has to take.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dead {
    pub peer: Peer,
    pub fenced: Option<FenceProof>,
    taker: Option<usize>,
    waiting: VecDeque<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct RightOf {
    holder: Option<(usize, Fencing)>,
    queue: VecDeque<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Broadcast {
    from: usize,
    /// To whom, and whether the sender was told that it is late.
    pending: BTreeMap<DeliveryId, (usize, bool)>,
}

/// The service. Nodes are known by the number of their host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Engine {
    incarnations: u64,
    epoch: u64,
    fencing: u64,
    deliveries: u64,
    pub members: BTreeMap<usize, Peer>,
    values: BTreeMap<NodeSlot, SlotValue>,
    token: RightOf,
    resync: RightOf,
    broadcasts: Vec<Broadcast>,
    pub dead: BTreeMap<NodeSlot, Dead>,
    /// Lives whose recovery has begun.
    pub begun: BTreeSet<Incarnation>,
}

pub type Told = Vec<(usize, ServiceEvent)>;

impl Engine {
    fn right(&mut self, right: Right) -> &mut RightOf {
        match right {
            Right::Token => &mut self.token,
            Right::Resync => &mut self.resync,
        }
    }

    /// Whether this host was given a right.
    pub fn holds(&self, host: usize, right: Right) -> bool {
        let of = match right {
            Right::Token => &self.token,
            Right::Resync => &self.resync,
        };
        of.holder.is_some_and(|(holder, _)| holder == host)
    }

    /// Whether this host may take the slot of somebody who died.
    pub fn takes(&self, host: usize, slot: NodeSlot) -> bool {
        let dead = self.dead.get(&slot);
        dead.is_some_and(|dead| dead.taker == Some(host))
    }

    fn all(&self, but: usize, event: &ServiceEvent, told: &mut Told) {
        let others = self.members.keys().filter(|host| **host != but);
        told.extend(others.map(|host| (*host, event.clone())));
    }

    fn done(&mut self, told: &mut Told) {
        self.epoch += 1;
        for host in self.members.keys() {
            let others = self.members.iter().filter(|(other, _)| *other != host);
            let others = others.map(|(_, peer)| *peer).collect();
            let done = ServiceEvent::Done(MembershipEpoch(self.epoch), others);
            told.push((*host, done));
        }
    }

    fn grant(&mut self, right: Right, told: &mut Told) {
        self.fencing += 1;
        let fencing = Fencing(self.fencing);
        let of = self.right(right);
        if of.holder.is_none()
            && let Some(host) = of.queue.pop_front()
        {
            of.holder = Some((host, fencing));
            told.push((host, ServiceEvent::Granted(right, fencing)));
        } else {
            self.fencing -= 1;
        }
    }

    fn grant_recovery(&mut self, slot: NodeSlot, told: &mut Told) {
        let Some(dead) = self.dead.get_mut(&slot) else {
            return;
        };
        if dead.taker.is_none()
            && let Some(host) = dead.waiting.pop_front()
        {
            dead.taker = Some(host);
            self.begun.insert(dead.peer.incarnation);
            told.push((host, ServiceEvent::RecoveryGranted(dead.peer)));
        }
    }

    /// Lets go of all that a node had.
    fn remove(&mut self, host: usize, told: &mut Told) -> Peer {
        let peer = self.members.remove(&host).expect("a member");
        self.values.remove(&peer.slot);
        self.broadcasts.retain(|one| one.from != host);
        for one in &mut self.broadcasts {
            one.pending.retain(|_, (to, _)| *to != host);
        }
        for right in [Right::Token, Right::Resync] {
            let of = self.right(right);
            of.queue.retain(|other| *other != host);
            if of.holder.is_some_and(|(holder, _)| holder == host) {
                of.holder = None;
            }
        }
        for dead in self.dead.values_mut() {
            dead.waiting.retain(|other| *other != host);
            if dead.taker == Some(host) {
                dead.taker = None;
            }
        }
        let _ = told;
        peer
    }

    /// What waited for who has gone goes on, after everybody was told.
    fn regrant(&mut self, told: &mut Told) {
        self.grant(Right::Token, told);
        self.grant(Right::Resync, told);
        let slots: Vec<NodeSlot> = self.dead.keys().copied().collect();
        for slot in slots {
            self.grant_recovery(slot, told);
        }
    }

    /// A member is one no more, and nobody knows what it does.
    pub fn expel(&mut self, host: usize, told: &mut Told) {
        let peer = self.remove(host, told);
        told.push((host, ServiceEvent::Lost));
        self.dead.insert(
            peer.slot,
            Dead {
                peer,
                fenced: None,
                taker: None,
                waiting: VecDeque::new(),
            },
        );
        self.all(host, &ServiceEvent::Prep, told);
        self.all(host, &ServiceEvent::Down(peer), told);
        self.done(told);
        self.regrant(told);
    }

    /// Who has not acknowledged what of whom.
    pub fn unanswered(&self) -> Vec<(usize, usize)> {
        let all = self.broadcasts.iter();
        let late = all.flat_map(|one| {
            let pending = one.pending.values().filter(|(_, told)| !told);
            pending.map(|(to, _)| (one.from, *to))
        });
        late.collect()
    }

    /// The deadline of a broadcast has passed for one of its addressees.
    pub fn time_out(&mut self, from: usize, to: usize, told: &mut Told) {
        let slot = self.members[&to].slot;
        for one in self.broadcasts.iter_mut().filter(|one| one.from == from) {
            let late = one.pending.values_mut().filter(|(other, _)| *other == to);
            late.for_each(|(_, told)| *told = true);
        }
        told.push((from, ServiceEvent::Answered(slot, Answered::TimedOut)));
    }

    fn join(&mut self, host: usize, capacity: u16, told: &mut Told) {
        let used = |slot: &u16| {
            let slot = NodeSlot(*slot);
            let member = self.members.values().any(|peer| peer.slot == slot);
            member || self.dead.contains_key(&slot)
        };
        let Some(slot) = (0..capacity).find(|slot| !used(slot)) else {
            let full = JoinRefusal::Full { capacity };
            return told.push((host, ServiceEvent::JoinRefused(full)));
        };
        self.incarnations += 1;
        let me = Peer {
            slot: NodeSlot(slot),
            incarnation: Incarnation(self.incarnations),
        };
        let session = Session {
            me,
            epoch: MembershipEpoch(self.epoch + 1),
            version: VERSION,
            valid_until: Instant(u64::MAX),
            peers: self.members.values().copied().collect(),
            values: self.values.clone(),
            unrecovered: self
                .dead
                .values()
                .map(|dead| Unrecovered {
                    peer: dead.peer,
                    fenced: dead.fenced,
                })
                .collect(),
        };
        self.members.insert(host, me);
        told.push((host, ServiceEvent::Joined(session)));
        self.done(told);
    }

    fn leave(&mut self, host: usize, how: Leave, told: &mut Told) {
        // Who waits for its answer hears that it has gone.
        let peer = self.remove(host, told);
        if how == Leave::Dirty {
            let kind = ProofKind::LeftByItself;
            self.dead.insert(
                peer.slot,
                Dead {
                    peer,
                    fenced: Some(FenceProof { peer, kind }),
                    taker: None,
                    waiting: VecDeque::new(),
                },
            );
        }
        self.all(host, &ServiceEvent::Gone(peer, how), told);
        told.push((host, ServiceEvent::Left));
        self.done(told);
        self.regrant(told);
    }

    fn ack(&mut self, host: usize, id: DeliveryId, status: AckStatus, told: &mut Told) {
        let slot = self.members[&host].slot;
        for one in &mut self.broadcasts {
            if one.pending.remove(&id).is_some() {
                let answered = Answered::Acked(status);
                told.push((one.from, ServiceEvent::Answered(slot, answered)));
            }
        }
        self.broadcasts.retain(|one| !one.pending.is_empty());
    }

    fn broadcast(&mut self, host: usize, grant: Fencing, message: Message, told: &mut Told) {
        if self.token.holder != Some((host, grant)) {
            return;
        }
        let from = self.members[&host];
        let to = self.members.iter().filter(|(other, _)| **other != host);
        let to: Vec<(usize, Peer)> = to.map(|(host, peer)| (*host, *peer)).collect();
        let ordered = to.iter().map(|(_, peer)| *peer).collect();
        told.push((host, ServiceEvent::Ordered(ordered)));
        let mut pending = BTreeMap::new();
        for (other, _) in to {
            self.deliveries += 1;
            let id = DeliveryId(self.deliveries);
            pending.insert(id, (other, false));
            told.push((other, ServiceEvent::Deliver(id, from, message)));
        }
        if !pending.is_empty() {
            self.broadcasts.push(Broadcast {
                from: host,
                pending,
            });
        }
    }

    /// A node says something.
    pub fn command(&mut self, host: usize, command: ServiceCommand, told: &mut Told) {
        if let ServiceCommand::Join { capacity, .. } = command {
            return self.join(host, capacity, told);
        }
        let Some(&me) = self.members.get(&host) else {
            return; // It will hear that it is none.
        };
        match command {
            ServiceCommand::Join { .. } => {}
            ServiceCommand::Acquire(right) => {
                self.right(right).queue.push_back(host);
                self.grant(right, told);
            }
            ServiceCommand::Cancel(right) => {
                let of = self.right(right);
                let before = of.queue.len();
                of.queue.retain(|other| *other != host);
                if of.queue.len() < before {
                    told.push((host, ServiceEvent::Cancelled(right)));
                }
            }
            ServiceCommand::Release(right, grant) => {
                let of = self.right(right);
                assert_eq!(of.holder, Some((host, grant)), "released what it has not");
                of.holder = None;
                self.grant(right, told);
            }
            ServiceCommand::Broadcast { grant, message, .. } => {
                self.broadcast(host, grant, message, told);
            }
            ServiceCommand::Ack(id, status) => self.ack(host, id, status, told),
            ServiceCommand::SetValue(value) => {
                self.values.insert(me.slot, value);
            }
            ServiceCommand::Expel(peer) => {
                let found = self.members.iter().find(|(_, other)| **other == peer);
                if let Some((&other, _)) = found {
                    self.expel(other, told);
                }
            }
            ServiceCommand::RecordFence(proof) => {
                if let Some(dead) = self.dead.get_mut(&proof.peer.slot)
                    && dead.peer == proof.peer
                    && dead.fenced.is_none()
                {
                    dead.fenced = Some(proof);
                    self.all(usize::MAX, &ServiceEvent::Fenced(proof), told);
                }
            }
            ServiceCommand::BeginRecovery(peer) => {
                if let Some(dead) = self.dead.get_mut(&peer.slot)
                    && dead.peer == peer
                {
                    dead.waiting.push_back(host);
                    self.grant_recovery(peer.slot, told);
                }
            }
            ServiceCommand::EndRecovery { peer, done, bits } => {
                self.end_recovery(host, peer, (done, bits), told);
            }
            ServiceCommand::Leave(how) => self.leave(host, how, told),
        }
    }

    fn end_recovery(
        &mut self,
        host: usize,
        peer: Peer,
        (done, bits): (bool, bool),
        told: &mut Told,
    ) {
        let by = self.members[&host].slot;
        let dead = self.dead.get_mut(&peer.slot).expect("it was granted");
        assert_eq!(dead.taker, Some(host), "ended what it has not");
        dead.taker = None;
        if done {
            self.dead.remove(&peer.slot);
            let ended = ServiceEvent::RecoveryEnded { peer, by, bits };
            self.all(usize::MAX, &ended, told);
        } else {
            self.grant_recovery(peer.slot, told);
        }
    }
}
