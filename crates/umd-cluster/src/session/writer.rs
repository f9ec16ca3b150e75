//! What this node says, in the order in which it says it.
//!
//! ```text
//!   begin, open, look whose mark is gone --> [Expired .., Join ..]   --> reader, keeper begin
//!   queue --> entry number n --> append, again and again until: Done, Ended, or all is over
//! ```
//!
//! An append whose answer was lost is made again under the same number, and counts once.

use std::sync::Arc;
use std::time::Duration;

use umd_core::cluster::ServiceEvent;

use super::{REST, Shared, State, spawn};
use crate::Clock;
use crate::book::Book;
use crate::clock::span;
use crate::engine::Setup;
use crate::ledger::{Appended, Ledger, Mark, Opened, Trouble};
use crate::wire::{Entry, Word};

const NAME: &str = "writer";

pub(super) fn run<L: Ledger>(shared: &Arc<Shared<L>>) {
    if let Some(mark) = begin(shared) {
        spawn(shared, "reader", |shared| shared.read());
        spawn(shared, "keeper", |shared| shared.keep());
        write(shared, mark);
    }
}

/// Reaches the service; no mark when all is over before.
fn begin<L: Ledger>(shared: &Shared<L>) -> Option<Mark> {
    loop {
        let over = shared.with(shared.enter(), |state| {
            if state.leaving {
                // It has not asked anybody to be a member yet.
                state.over(ServiceEvent::Left, false);
            }
            state.is_over()
        });
        if over {
            return None;
        }
        match try_begin(shared) {
            Ok(mark) => {
                shared.trouble(NAME, None);
                return Some(mark);
            }
            Err(trouble) => shared.trouble(NAME, Some(trouble.0)),
        }
        if !shared.rest(REST) {
            return None;
        }
    }
}

fn try_begin<L: Ledger>(shared: &Shared<L>) -> Result<Mark, Trouble> {
    let (ledger, setup) = (&shared.ledger, &shared.setup);
    let valid_until = Clock.now() + span(setup.valid_for());
    let mark = ledger.begin(setup.session)?;
    let read = || -> Result<_, Trouble> {
        let (book, place) = load(&ledger.open()?)?;
        Ok((book, place, ledger.marks()?))
    };
    let (book, place, marks) = read().inspect_err(|_| {
        let _ = ledger.end(mark); // It goes by itself.
    })?;
    shared.with(shared.enter(), |state| {
        let members = book.members().iter();
        let gone = members.filter(|(mark, one)| !one.expelled && !marks.contains(&Mark(**mark)));
        for (&mark, _) in gone {
            let expelled = false;
            state.queue.push_front(Word::Expired { mark, expelled });
        }
        (state.book, state.place) = (book, place);
        (state.mark, state.valid_until) = (Some(mark), valid_until);
    });
    Ok(mark)
}

/// The book of a log.
fn load(opened: &Opened) -> Result<(Book, u64), Trouble> {
    let unknown = |error| {
        Trouble(format!(
            "the lock service has records of another umd: {error}"
        ))
    };
    let (mut book, mut place) = (Book::default(), 0);
    if let Some(snapshot) = &opened.snapshot {
        book = serde_json::from_str(&snapshot.text).map_err(unknown)?;
        place = snapshot.place;
    }
    for entry in &opened.entries {
        let words: Entry = serde_json::from_str(&entry.text).map_err(unknown)?;
        book.apply(entry.place, &words, &mut Vec::new());
        place = entry.place;
    }
    Ok((book, place))
}

fn write<L: Ledger>(shared: &Shared<L>, mark: Mark) {
    let mut number = 0;
    loop {
        let mut state = shared.enter();
        while state.queue.is_empty() && !state.is_over() {
            state = shared.wait(state, Duration::from_secs(1));
        }
        if state.is_over() || state.paused {
            let (over, end) = (state.is_over(), wants_end(&state));
            drop(state);
            match over {
                true if end => return drop(shared.ledger.end(mark)),
                true => return,
                false => continue,
            }
        }
        let words: Vec<Word> = state.queue.drain(..).collect();
        let strike = struck(&state.book, &words);
        drop(state);
        number += 1;
        let entry = Entry {
            mark: mark.0,
            number,
            words,
        };
        let text = serde_json::to_string(&entry).expect("words are JSON");
        append(shared, mark, number, &text, &strike);
    }
}

fn wants_end(state: &State) -> bool {
    state.phase == super::Phase::Over { end: true }
}

/// The marks of whom these words expel.
fn struck(book: &Book, words: &[Word]) -> Vec<Mark> {
    let expelled = words.iter().filter_map(|word| match word {
        Word::Expel(life) => Some(*life),
        _ => None,
    });
    let marks = expelled.filter_map(|life| {
        let mut members = book.members().iter();
        let found = members.find(|(_, member)| member.life == life);
        found.map(|(mark, _)| Mark(*mark))
    });
    marks.collect()
}

fn append<L: Ledger>(shared: &Shared<L>, mark: Mark, number: u64, text: &str, strike: &[Mark]) {
    loop {
        match shared.ledger.append(mark, number, text, strike) {
            Ok(Appended::Done) => return shared.trouble(NAME, None),
            Ok(Appended::Ended) => {
                return shared.with(shared.enter(), |state| {
                    // Its place in the log says more, if that is how it was expelled.
                    if !state.is_over() {
                        state.lose();
                    }
                });
            }
            Err(trouble) => shared.trouble(NAME, Some(trouble.0)),
        }
        if !shared.rest(REST) || shared.enter().is_over() {
            return;
        }
    }
}

/// How often a mark is renewed.
pub(super) fn interval(setup: &Setup) -> Duration {
    setup.session / 4
}
