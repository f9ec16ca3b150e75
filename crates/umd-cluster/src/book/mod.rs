//! The book: what the entries of a log mean.
//!
//! ```text
//!   entry --> apply(place, entry) --> (mark, Told) ...        the same for everybody who reads it
//!
//!   members   mark -> slot, incarnation, host, what it shows
//!   rights    holder, who waits                dead   slot -> who, proof, who takes it, who waits
//!   open      sender -> deliveries that nobody has answered
//! ```
//!
//! It is a function of the entries and their places, so it is one book, however many copies are
//! kept of it. It knows no time: that somebody gives no sign of life any more is an entry, too, and
//! the first one counts. What has no right to be said is dropped here, by everybody alike.

mod join;
mod recovery;
mod rights;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use umd_core::cluster::{Answered, DeliveryId, Leave, MembershipEpoch, Peer, ServiceEvent};

use crate::wire::{Entry, Life, Proof, Shown, Status, Word};
use recovery::Dead;
use rights::Rights;

/// What a member hears of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// This. A session's `valid_until` is for the engine to say.
    Event(ServiceEvent),
    /// Its broadcast has its place.
    Ordered {
        /// By the sender's own number.
        nth: u64,
        /// Who will answer.
        to: BTreeSet<Peer>,
    },
    /// A message, as bytes.
    Deliver {
        /// To be answered by this.
        id: DeliveryId,
        /// Whose.
        from: Peer,
        /// What.
        message: Vec<u8>,
    },
}

/// What is told, to whom, in order.
pub type Tellings = Vec<(u64, Told)>;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where, and in which life.
    pub life: Life,
    /// On which host.
    pub host: String,
    /// How long its session holds.
    pub session_ms: u64,
    /// The time of its watchdog.
    pub watchdog_ms: Option<u64>,
    /// It is to be none, as soon as it cannot believe any more that it is one.
    pub expelled: bool,
    value: Option<Shown>,
    /// The last entry of it.
    number: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    /// Deliveries, and to which mark.
    pending: BTreeMap<u64, u64>,
}

/// The book of an array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// The cluster's name.
    cluster: String,
    /// The version that all members speak.
    version: u8,
    epoch: u64,
    deliveries: u64,
    members: BTreeMap<u64, Member>,
    token: Rights,
    resync: Rights,
    open: BTreeMap<u64, Open>,
    dead: BTreeMap<u16, Dead>,
}

impl Book {
    /// The members, by mark.
    pub fn members(&self) -> &BTreeMap<u64, Member> {
        &self.members
    }

    /// The host, session and watchdog of a member or an unrecovered one: milliseconds, and no host
    /// where nobody remembers.
    pub fn about(&self, life: Life) -> Option<(Option<&str>, u64, Option<u64>)> {
        let members = self.members.values();
        let member = members
            .filter(|member| member.life == life)
            .map(|member| (Some(&*member.host), member.session_ms, member.watchdog_ms));
        let dead = self.dead.values().filter(|dead| dead.life == life);
        let dead = dead.map(|dead| (dead.host.as_deref(), dead.session_ms, dead.watchdog_ms));
        member.chain(dead).next()
    }

    /// Takes an entry in.
    pub fn apply(&mut self, place: u64, entry: &Entry, told: &mut Tellings) {
        let mark = entry.mark;
        if let Some(member) = self.members.get_mut(&mark) {
            if entry.number <= member.number {
                return; // It was appended twice.
            }
            member.number = entry.number;
        }
        for word in &entry.words {
            match word {
                Word::Join(join) => self.join(place, mark, entry.number, join, told),
                Word::Expired { mark, expelled } => self.expire(*mark, *expelled, place, told),
                word => {
                    let member = self.members.get(&mark);
                    if let Some(me) = member.filter(|member| !member.expelled) {
                        let me = me.life;
                        self.member_says(place, (mark, me), word, told);
                    }
                }
            }
        }
        self.check();
    }

    fn member_says(
        &mut self,
        place: u64,
        (mark, me): (u64, Life),
        word: &Word,
        told: &mut Tellings,
    ) {
        match word {
            Word::Acquire(right) => {
                self.rights(*right).ask(mark);
                self.grant(*right, place, told);
            }
            Word::Cancel(right) => self.cancel(*right, mark, told),
            Word::Release(right, fencing) => {
                if self.rights(*right).release(mark, *fencing) {
                    self.grant(*right, place, told);
                }
            }
            Word::Broadcast {
                nth,
                grant,
                message,
            } => self.broadcast((mark, me), *nth, *grant, message, told),
            Word::Ack(id, status) => self.ack((mark, me), *id, *status, told),
            Word::Value(value) => {
                let member = self.members.get_mut(&mark).expect("who speaks is one");
                member.value = Some(*value);
            }
            Word::Expel(life) => self.expel(*life, told),
            Word::Fence(life, proof) => self.record_fence(*life, *proof, told),
            Word::Begin(life) => self.begin_recovery(mark, *life, told),
            Word::End { life, done, bits } => {
                self.end_recovery((mark, me), *life, (*done, *bits), told);
            }
            Word::Leave { dirty } => self.leave((mark, me), *dirty, place, told),
            Word::Join(_) | Word::Expired { .. } => unreachable!("said by anybody"),
        }
    }

    fn all(&self, but: Option<u64>, event: &ServiceEvent, told: &mut Tellings) {
        let others = self.members.keys().filter(|mark| Some(**mark) != but);
        told.extend(others.map(|mark| (*mark, Told::Event(event.clone()))));
    }

    fn done(&mut self, told: &mut Tellings) {
        self.epoch += 1;
        for mark in self.members.keys() {
            let others = self.members.iter().filter(|(other, _)| *other != mark);
            let others = others.map(|(_, member)| member.life.into()).collect();
            let done = ServiceEvent::Done(MembershipEpoch(self.epoch), others);
            told.push((*mark, Told::Event(done)));
        }
    }

    /// Lets go of all that a member had, and tells nobody.
    fn remove(&mut self, mark: u64) -> Member {
        let member = self.members.remove(&mark).expect("a member");
        self.open.remove(&mark);
        for open in self.open.values_mut() {
            open.pending.retain(|_, to| *to != mark);
        }
        self.open.retain(|_, open| !open.pending.is_empty());
        self.token.forget(mark);
        self.resync.forget(mark);
        for dead in self.dead.values_mut() {
            dead.forget(mark);
        }
        member
    }

    fn bury(&mut self, member: Member, fenced: Option<Proof>) {
        let dead = Dead {
            life: member.life,
            host: Some(member.host),
            session_ms: member.session_ms,
            watchdog_ms: member.watchdog_ms,
            fenced,
            taker: None,
            waiting: Vec::new(),
        };
        let before = self.dead.insert(member.life.slot, dead);
        assert!(before.is_none(), "a slot had two owners");
    }

    /// What waited for who has gone goes on, after everybody was told.
    fn regrant(&mut self, place: u64, told: &mut Tellings) {
        self.grant(crate::wire::RightName::Token, place, told);
        self.grant(crate::wire::RightName::Resync, place, told);
        let slots: Vec<u16> = self.dead.keys().copied().collect();
        for slot in slots {
            self.grant_recovery(slot, told);
        }
    }

    fn leave(&mut self, (mark, me): (u64, Life), dirty: bool, place: u64, told: &mut Tellings) {
        let member = self.remove(mark);
        let how = match dirty {
            true => Leave::Dirty,
            false => Leave::Clean,
        };
        if dirty {
            self.bury(member, Some(Proof::LeftByItself));
        }
        self.all(None, &ServiceEvent::Gone(me.into(), how), told);
        told.push((mark, Told::Event(ServiceEvent::Left)));
        self.done(told);
        self.regrant(place, told);
    }

    /// A member is to be none. It hears that it is lost; the others hear that it is down when it
    /// cannot believe any more that it is not.
    fn expel(&mut self, life: Life, told: &mut Tellings) {
        let mut members = self.members.iter_mut();
        let found = members.find(|(_, member)| member.life == life && !member.expelled);
        let Some((&mark, member)) = found else {
            return;
        };
        member.expelled = true;
        told.push((mark, Told::Event(ServiceEvent::Lost)));
        self.all(Some(mark), &ServiceEvent::Prep, told);
    }

    fn expire(&mut self, mark: u64, expelled: bool, place: u64, told: &mut Tellings) {
        let member = self.members.get(&mark);
        // Who says that a mark has run out did not know that it was struck out a moment before.
        if member.is_none_or(|member| member.expelled != expelled) {
            return;
        }
        let member = self.remove(mark);
        let peer = member.life.into();
        if !expelled {
            told.push((mark, Told::Event(ServiceEvent::Lost)));
            self.all(None, &ServiceEvent::Prep, told);
        }
        self.bury(member, None);
        self.all(None, &ServiceEvent::Down(peer), told);
        self.done(told);
        self.regrant(place, told);
    }

    fn broadcast(
        &mut self,
        (mark, me): (u64, Life),
        nth: u64,
        grant: u64,
        message: &str,
        told: &mut Tellings,
    ) {
        let Some(message) = crate::engine::unhex(message) else {
            return;
        };
        if !self.token.is_held(mark, grant) {
            return;
        }
        let others = self.members.iter().filter(|(other, _)| **other != mark);
        let others: Vec<(u64, Peer)> = others.map(|(m, one)| (*m, one.life.into())).collect();
        let to = others.iter().map(|(_, peer)| *peer).collect();
        told.push((mark, Told::Ordered { nth, to }));
        // An answer to what was sent before would be taken for one to this.
        let mut open = Open::default();
        for (other, _) in others {
            self.deliveries += 1;
            open.pending.insert(self.deliveries, other);
            let deliver = Told::Deliver {
                id: DeliveryId(self.deliveries),
                from: me.into(),
                message: message.clone(),
            };
            told.push((other, deliver));
        }
        self.open.insert(mark, open);
        self.open.retain(|_, open| !open.pending.is_empty());
    }

    fn ack(&mut self, (mark, me): (u64, Life), id: u64, status: Status, told: &mut Tellings) {
        let peer = Peer::from(me);
        for (from, open) in &mut self.open {
            if open.pending.get(&id) == Some(&mark) {
                open.pending.remove(&id);
                let answered = Answered::Acked(status.into());
                let answered = ServiceEvent::Answered(peer.slot, answered);
                told.push((*from, Told::Event(answered)));
            }
        }
        self.open.retain(|_, open| !open.pending.is_empty());
    }

    /// What holds between any two entries.
    fn check(&self) {
        for (mark, member) in &self.members {
            let slot = member.life.slot;
            assert!(!self.dead.contains_key(&slot), "a slot of two owners");
            let same = self.members.iter();
            let same = same.filter(|(other, one)| *other != mark && one.life.slot == slot);
            assert_eq!(same.count(), 0, "a slot of two members");
        }
        for rights in [&self.token, &self.resync] {
            rights.check(|mark| self.members.contains_key(&mark));
        }
        for open in self.open.values() {
            let all = open.pending.values();
            assert!(all.into_iter().all(|to| self.members.contains_key(to)));
        }
    }
}

#[cfg(test)]
mod tests;
