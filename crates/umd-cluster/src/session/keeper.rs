//! Signs of life: our own, and those of others.
//!
//! ```text
//!   every quarter of a session:   renew --> valid from before it was asked for
//!                                 members now, then marks: who is missing has expired
//!   a session after an expulsion: whoever was expelled cannot believe in it any more
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use umd_core::cluster::ServiceEvent;
use umd_core::value::Instant;

use super::writer::interval;
use super::{Phase, REST, Shared, State};
use crate::Clock;
use crate::clock::span;
use crate::ledger::{Ledger, Mark, Renewal, Snapshot, Trouble};
use crate::wire::Word;

const NAME: &str = "keeper";

/// What the keeper remembers between its rounds.
#[derive(Default)]
struct Memory {
    /// When it was first seen that somebody was expelled.
    expelled: BTreeMap<u64, Instant>,
    /// Whose end was said already.
    said: BTreeSet<(u64, bool)>,
    renewed: Option<Instant>,
    trimmed: Option<Instant>,
}

impl<L: Ledger> Shared<L> {
    pub(super) fn keep(&self) {
        let mut memory = Memory::default();
        loop {
            if self.enter().is_over() {
                return;
            }
            let round = self.round(&mut memory);
            let time = match &round {
                Ok(time) => *time,
                Err(_) => REST,
            };
            self.trouble(NAME, round.err().map(|trouble| trouble.0));
            let state = self.lock();
            let waits = |state: &mut State| !state.is_over() && !state.stirred;
            let waited = self.changed.wait_timeout_while(state, time, waits);
            drop(waited);
        }
    }

    /// One round; after which time the next is.
    fn round(&self, memory: &mut Memory) -> Result<Duration, Trouble> {
        let state = self.enter();
        let Some(mark) = state.mark.filter(|_| !state.is_over()) else {
            return Ok(REST);
        };
        let leaving = state.leaving;
        drop(state);
        let interval = interval(&self.setup);
        let now = Clock.now();
        if !leaving
            && memory
                .renewed
                .is_none_or(|last| now >= last + span(interval))
        {
            self.renew(mark)?;
            memory.renewed = Some(now);
        }
        self.enter().stirred = false;
        let expired = self.expired()?;
        let next = self.say(memory, expired);
        self.trim(memory)?;
        let renewal = memory.renewed.map_or(now, |last| last + span(interval));
        Ok(Clock.until(next.min(renewal)).max(Duration::from_millis(1)))
    }

    fn renew(&self, mark: Mark) -> Result<(), Trouble> {
        let valid_until = Clock.now() + span(self.setup.valid_for());
        let renewal = self.ledger.renew(mark)?;
        self.with(self.enter(), |state| {
            if !state.is_valid() {
                return; // It came too late.
            }
            match renewal {
                Renewal::Ended => state.lose(),
                Renewal::Held if state.leaving => {}
                Renewal::Held => {
                    state.valid_until = valid_until;
                    if state.phase == Phase::Member {
                        state.tell(ServiceEvent::Renewed(valid_until));
                    }
                }
            }
        });
        Ok(())
    }

    /// Members that give no sign of life. The members are looked at first: whoever is one has set
    /// its mark before.
    fn expired(&self) -> Result<Vec<u64>, Trouble> {
        let members: Vec<u64> = {
            let state = self.enter();
            let members = state.book.members().iter();
            let members = members.filter(|(_, member)| !member.expelled);
            members.map(|(mark, _)| *mark).collect()
        };
        let marks = self.ledger.marks()?;
        let gone = members
            .into_iter()
            .filter(|mark| !marks.contains(&Mark(*mark)));
        Ok(gone.collect())
    }

    /// Says who has expired and whose expulsion is over; when the next will be.
    fn say(&self, memory: &mut Memory, expired: Vec<u64>) -> Instant {
        let now = Clock.now();
        let mut next = Instant(u64::MAX);
        self.with(self.enter(), |state| {
            let mut over: Vec<(u64, bool)> = Vec::new();
            over.extend(expired.into_iter().map(|mark| (mark, false)));
            let members = state.book.members();
            memory.expelled.retain(|mark, _| members.contains_key(mark));
            for (mark, member) in members.iter().filter(|(_, member)| member.expelled) {
                let since = *memory.expelled.entry(*mark).or_insert(now);
                let until = since + span(Duration::from_millis(member.session_ms));
                match now >= until {
                    true => over.push((*mark, true)),
                    false => next = next.min(until),
                }
            }
            let mine = state.mark.map(|mark| mark.0);
            for (mark, expelled) in over {
                if Some(mark) != mine && memory.said.insert((mark, expelled)) {
                    state.queue.push_back(Word::Expired { mark, expelled });
                }
            }
        });
        next
    }

    /// Lets what a long log comes to take its place: the member in the lowest slot does it. What
    /// went into the snapshot before stays until the next, for whoever is late.
    fn trim(&self, memory: &mut Memory) -> Result<(), Trouble> {
        let now = Clock.now();
        let rest = span(self.setup.session);
        let snapshot = {
            let mut state = self.enter();
            let mine = state.mark.map(|mark| mark.0);
            let members = state.book.members().iter();
            let lowest = members.min_by_key(|(_, member)| member.life.slot);
            let first = lowest.map(|(mark, _)| *mark) == mine;
            let rested = memory.trimmed.is_none_or(|last| now >= last + rest);
            if !first || !rested || state.fresh < self.setup.keep_entries {
                return Ok(());
            }
            state.fresh = 0;
            Snapshot {
                place: state.place,
                trimmed: 0,
                text: serde_json::to_string(&state.book).expect("a book is JSON"),
            }
        };
        memory.trimmed = Some(now);
        let old = self.ledger.open()?.snapshot;
        let old = old.map(|snapshot| snapshot.place);
        if old.is_some_and(|old| old >= snapshot.place) {
            return Ok(());
        }
        let trimmed = old.unwrap_or(0);
        self.ledger.trim(
            old,
            &Snapshot {
                trimmed,
                ..snapshot
            },
        )
    }
}
