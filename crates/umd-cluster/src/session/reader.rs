//! What the log says, in its order.

use umd_core::cluster::{AckStatus, Cannot, Message, ServiceEvent};

use super::writer::interval;
use super::{Late, Phase, REST, Shared, State};
use crate::book::Told;
use crate::ledger::{self, Follow, Ledger};
use crate::wire::{Entry, Word};

const NAME: &str = "reader";

impl<L: Ledger> Shared<L> {
    pub(super) fn read(&self) {
        loop {
            let state = self.enter();
            if state.is_over() {
                return;
            }
            let place = state.place;
            drop(state);
            let followed = self.ledger.follow(place, interval(&self.setup));
            match followed {
                Ok(Follow::Entries { entries, stirred }) => {
                    self.trouble(NAME, None);
                    self.with(self.enter(), |state| {
                        state.stirred |= stirred;
                        state.take(&entries);
                    });
                }
                Ok(Follow::Missed) => {
                    let why = "the lock service went on without this node, or lost what it knew";
                    self.trouble(NAME, Some(why.into()));
                    return self.with(self.enter(), State::lose);
                }
                Err(trouble) => {
                    self.trouble(NAME, Some(trouble.0));
                    if !self.rest(REST) {
                        return;
                    }
                }
            }
        }
    }
}

impl State {
    fn take(&mut self, entries: &[ledger::Entry]) {
        for entry in entries {
            // Nothing is told behind the end of the session.
            if !self.is_valid() {
                return;
            }
            let Ok(words) = serde_json::from_str::<Entry>(&entry.text) else {
                // Others may know what it means: this node's book is not theirs any more.
                let why = "the lock service has records of another umd";
                self.trouble.insert(NAME, why.into());
                return self.lose();
            };
            let mut told = Vec::new();
            self.book.apply(entry.place, &words, &mut told);
            self.place = entry.place;
            self.fresh += 1;
            let mine = self.mark.expect("a reader has a mark").0;
            for (_, told) in told.into_iter().filter(|(mark, _)| *mark == mine) {
                self.hear(told);
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Event(ServiceEvent::Joined(mut session)) => {
                session.valid_until = self.valid_until;
                self.phase = Phase::Member;
                self.tell(ServiceEvent::Joined(session));
            }
            Told::Event(event @ ServiceEvent::JoinRefused(_)) => self.over(event, true),
            Told::Event(event @ ServiceEvent::Left) => self.over(event, true),
            Told::Event(ServiceEvent::Lost) => self.lose(),
            Told::Event(event) => self.tell(event),
            Told::Ordered { nth, to } => {
                let deadline = self.deadlines.remove(&nth);
                self.deadlines.retain(|other, _| *other > nth);
                self.late = deadline.map(|deadline| Late {
                    deadline,
                    to: to.iter().map(|peer| peer.slot).collect(),
                });
                self.tell(ServiceEvent::Ordered(to));
            }
            Told::Deliver { id, from, message } => match Message::decode(&message) {
                Ok(message) => self.tell(ServiceEvent::Deliver(id, from, message)),
                Err(_) => {
                    let cannot = AckStatus::Cannot(Cannot::Understand);
                    self.queue.push_back(Word::Ack(id.0, cannot.into()));
                }
            },
        }
    }
}
