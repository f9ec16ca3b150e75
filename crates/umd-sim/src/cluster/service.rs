//! The lock service in virtual time: umd's own book on one log, with marks that expire.
//!
//! ```text
//!   Line (host 0) -- entry --.                        .--> told (host 0), when it reads so far
//!   Line (host 1) -- entry --+--> log, Book (shipped) +--> told (host 1)
//!                            '-- mark gone: refused
//! ```
//!
//! What entries mean is [`Book`], the very one of the shipped engines. Where those have a ledger
//! and threads this has an order of events that the seed chooses; see `line.rs` for one node's
//! end.

use std::collections::{BTreeMap, BTreeSet};

use umd_cluster::book::{Book, Tellings, Told};
use umd_cluster::wire::{Entry, Word};
use umd_core::cluster::{NodeSlot, Peer, ServiceEvent};
use umd_core::value::{Instant, Span};

/// How long a session holds without renewal.
pub const SESSION: Span = Span::secs(10);

/// The service.
#[derive(Debug, Default)]
pub struct Service {
    book: Book,
    log: Vec<Tellings>,
    marks: BTreeMap<u64, Instant>,
    begun: u64,
    takers: BTreeMap<NodeSlot, u64>,
    taken: Vec<Peer>,
    left: BTreeSet<Peer>,
    dead: BTreeMap<NodeSlot, Peer>,
}

impl Service {
    /// A new sign of life.
    pub fn begin(&mut self, now: Instant) -> u64 {
        self.begun += 1;
        self.marks.insert(self.begun, now + SESSION);
        self.begun
    }

    /// Lets a mark hold for another session; `false`: it is gone.
    pub fn renew(&mut self, mark: u64, now: Instant) -> bool {
        self.expire(now);
        let until = self.marks.get_mut(&mark);
        until.map(|until| *until = now + SESSION).is_some()
    }

    /// A node takes its mark away.
    pub fn end(&mut self, mark: u64) {
        self.marks.remove(&mark);
    }

    fn expire(&mut self, now: Instant) {
        self.marks.retain(|_, until| *until > now);
    }

    /// Members whose mark is gone, and those that were expelled, with their marks.
    pub fn silent(&mut self, now: Instant) -> (Vec<u64>, Vec<u64>) {
        self.expire(now);
        let members = self.book.members().iter();
        let (expelled, others): (Vec<_>, Vec<_>) = members.partition(|(_, one)| one.expelled);
        let gone = others.iter().map(|(mark, _)| **mark);
        let gone = gone.filter(|mark| !self.marks.contains_key(mark));
        let gone = gone.collect();
        (gone, expelled.iter().map(|(mark, _)| **mark).collect())
    }

    /// Takes an entry in; `false`: its mark is gone, and it will not be.
    pub fn append(&mut self, entry: &Entry, now: Instant) -> bool {
        self.expire(now);
        if !self.marks.contains_key(&entry.mark) {
            return false;
        }
        for word in &entry.words {
            self.look_at(entry.mark, word);
        }
        let mut told = Tellings::new();
        let place = self.log.len() as u64 + 1;
        self.book.apply(place, entry, &mut told);
        for (mark, told) in &told {
            self.note(*mark, told);
        }
        self.log.push(told);
        true
    }

    /// What a word ends, before the book has it.
    fn look_at(&mut self, mark: u64, word: &Word) {
        match word {
            Word::Expel(life) => {
                let members = self.book.members().iter();
                let found = members.filter(|(_, one)| one.life == *life);
                for mark in found.map(|(mark, _)| *mark).collect::<Vec<u64>>() {
                    self.marks.remove(&mark);
                }
            }
            Word::Expired { mark, expelled } => {
                if let Some(peer) = self.life(*mark, *expelled) {
                    self.forget(*mark);
                    self.dead.insert(peer.slot, peer);
                }
            }
            Word::Leave { dirty } => {
                if let Some(peer) = self.life(mark, false) {
                    self.forget(mark);
                    self.left.insert(peer);
                    if *dirty {
                        self.dead.insert(peer.slot, peer);
                    }
                }
            }
            Word::End { life, done, .. } => {
                let slot = NodeSlot(life.slot);
                if self.takers.get(&slot) == Some(&mark) {
                    self.takers.remove(&slot);
                    if *done {
                        self.dead.remove(&slot);
                    }
                }
            }
            _ => {}
        }
    }

    fn life(&self, mark: u64, expelled: bool) -> Option<Peer> {
        let member = self.book.members().get(&mark);
        let member = member.filter(|one| one.expelled == expelled);
        member.map(|one| one.life.into())
    }

    /// Whose slot nobody has taken yet.
    pub fn dead(&self, slot: NodeSlot) -> Option<Peer> {
        self.dead.get(&slot).copied()
    }

    fn forget(&mut self, mark: u64) {
        self.takers.retain(|_, taker| *taker != mark);
    }

    fn note(&mut self, mark: u64, told: &Told) {
        if let Told::Event(ServiceEvent::RecoveryGranted(peer)) = told {
            self.takers.insert(peer.slot, mark);
            self.taken.push(*peer);
        }
    }

    /// Whether a dead node's slot is given to a mark.
    pub fn takes(&self, mark: u64, slot: NodeSlot) -> bool {
        self.takers.get(&slot) == Some(&mark)
    }

    /// Whose slots somebody was told since that it may take.
    pub fn take_taken(&mut self) -> Vec<Peer> {
        std::mem::take(&mut self.taken)
    }

    /// Whether a life has left by itself.
    pub fn has_left(&self, peer: Peer) -> bool {
        self.left.contains(&peer)
    }

    /// Who is a member, expelled ones included.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.book.members().values().map(|one| one.life.into())
    }

    /// Entries so far.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// What a mark is told by an entry.
    pub fn told(&self, entry: usize, mark: u64) -> impl Iterator<Item = &Told> + '_ {
        let all = self.log[entry].iter();
        all.filter(move |(to, _)| *to == mark).map(|(_, told)| told)
    }
}
