use umd_core::cluster::{Fencing, JoinRefusal, ServiceEvent};

use super::*;
use crate::wire::{Join, RightName};

/// A book, with places and numbers given by itself.
#[derive(Default)]
struct Desk {
    book: Book,
    place: u64,
    numbers: BTreeMap<u64, u64>,
}

fn who(cluster: &str, version: u8) -> Word {
    Word::Join(Join {
        cluster: cluster.into(),
        host: "host".into(),
        capacity: 3,
        version,
        session_ms: 1000,
        watchdog_ms: None,
        unknown_past: false,
        past_fenced: None,
    })
}

impl Desk {
    fn say(&mut self, mark: u64, words: Vec<Word>) -> Tellings {
        let number = self.numbers.entry(mark).or_default();
        *number += 1;
        let number = *number;
        self.entry(&Entry {
            mark,
            number,
            words,
        })
    }

    fn entry(&mut self, entry: &Entry) -> Tellings {
        self.place += 10;
        let mut told = Vec::new();
        self.book.apply(self.place, entry, &mut told);
        // What is kept of it is all of it.
        let text = serde_json::to_string(&self.book).unwrap();
        assert_eq!(serde_json::from_str::<Book>(&text).unwrap(), self.book);
        told
    }

    fn join(&mut self, mark: u64) -> Life {
        let told = self.say(mark, vec![who("c", 1)]);
        let joined = told.into_iter().find_map(|(to, told)| match told {
            Told::Event(ServiceEvent::Joined(session)) if to == mark => Some(session.me),
            _ => None,
        });
        joined.expect("there is room").into()
    }

    fn token(&mut self, mark: u64) -> u64 {
        let told = self.say(mark, vec![Word::Acquire(RightName::Token)]);
        match told.as_slice() {
            [(_, Told::Event(ServiceEvent::Granted(_, Fencing(number))))] => *number,
            other => panic!("{other:?}"),
        }
    }

    fn broadcast(&mut self, mark: u64, grant: u64) -> Vec<u64> {
        let message = "0105".into();
        let nth = 1;
        let told = self.say(
            mark,
            vec![Word::Broadcast {
                nth,
                grant,
                message,
            }],
        );
        let delivered = told.into_iter().filter_map(|(_, told)| match told {
            Told::Deliver { id, .. } => Some(id.0),
            _ => None,
        });
        delivered.collect()
    }
}

fn answers(told: &Tellings) -> usize {
    let answers = told
        .iter()
        .filter(|(_, told)| matches!(told, Told::Event(ServiceEvent::Answered(..))));
    answers.count()
}

#[test]
fn an_entry_that_comes_twice_counts_once() {
    let mut desk = Desk::default();
    desk.join(1);
    let again = Entry {
        mark: 1,
        number: 2,
        words: vec![Word::Acquire(RightName::Token)],
    };
    assert_eq!(desk.entry(&again).len(), 1);
    let before = desk.book.clone();
    assert_eq!(desk.entry(&again), []);
    assert_eq!(desk.book, before);
}

#[test]
fn an_answer_that_comes_twice_late_or_from_somebody_else_is_none() {
    let mut desk = Desk::default();
    for mark in 1..=3 {
        desk.join(mark);
    }
    let grant = desk.token(1);
    let first = desk.broadcast(1, grant);
    assert_eq!(first.len(), 2);
    let ack = |id| vec![Word::Ack(id, Status::Done)];
    assert_eq!(answers(&desk.say(3, ack(first[0]))), 0, "not its own");
    assert_eq!(answers(&desk.say(2, ack(first[0]))), 1);
    assert_eq!(answers(&desk.say(2, ack(first[0]))), 0, "twice");
    let second = desk.broadcast(1, grant);
    assert_eq!(
        answers(&desk.say(3, ack(first[1]))),
        0,
        "of the last message"
    );
    assert_eq!(answers(&desk.say(3, ack(second[1]))), 1);
    assert_eq!(answers(&desk.say(2, ack(77))), 0, "of none");
}

#[test]
fn grants_grow_even_when_places_do_not_help() {
    let mut desk = Desk::default();
    desk.join(1);
    let one = desk.token(1);
    let words = vec![
        Word::Release(RightName::Token, one),
        Word::Acquire(RightName::Token),
    ];
    desk.say(1, words);
    assert!(desk.book.token.is_held(1, one + 10));
    // A log that begins again at a lower place (it must not) would still give larger numbers.
    desk.place = 0;
    desk.say(1, vec![Word::Release(RightName::Token, one + 10)]);
    assert!(desk.token(1) > one + 10);
}

#[test]
fn what_nobody_may_say_changes_nothing() {
    let mut desk = Desk::default();
    let (one, two) = (desk.join(1), desk.join(2));
    let grant = desk.token(1);
    let nth = 1;
    let junk = |message: &str| Word::Broadcast {
        nth,
        grant,
        message: message.into(),
    };
    let before = desk.book.clone();
    let end = |life| Word::End {
        life,
        done: true,
        bits: true,
    };
    for words in [
        vec![Word::Release(RightName::Token, grant)],
        vec![Word::Release(RightName::Resync, grant)],
        vec![
            Word::Fence(one, Proof::Confirmed),
            Word::Begin(one),
            end(one),
        ],
        vec![junk("0105"), junk("no bytes")],
        vec![who("other", 9)],
        vec![Word::Expired {
            mark: 1,
            expelled: true,
        }],
    ] {
        assert_eq!(desk.say(2, words), []);
    }
    assert_eq!(desk.say(9, vec![Word::Expel(two)]), [], "no member");
    let mut after = desk.book.clone();
    after.members = before.members.clone();
    assert_eq!(after, before);
}

#[test]
fn who_is_let_in_is_of_the_same_cluster_and_version() {
    let refusal = |told: Tellings| match told.as_slice() {
        [(_, Told::Event(ServiceEvent::JoinRefused(why)))] => why.clone(),
        other => panic!("{other:?}"),
    };
    let mut desk = Desk::default();
    let older = JoinRefusal::Version { theirs: 2, ours: 1 };
    desk.say(1, vec![who("c", 2)]);
    assert_eq!(
        refusal(desk.say(2, vec![who("d", 2)])),
        JoinRefusal::WrongCluster
    );
    assert_eq!(refusal(desk.say(2, vec![who("c", 1)])), older);
    assert!(
        desk.say(2, vec![who("c", 3)]).len() > 1,
        "it speaks version 2"
    );
    assert_eq!(desk.book.version, 2);
    desk.say(3, vec![who("c", 2)]);
    let full = JoinRefusal::Full { capacity: 3 };
    assert_eq!(refusal(desk.say(4, vec![who("c", 2)])), full);
    // Without a member the name and the version are those of who comes first.
    for mark in 1..=3 {
        desk.say(mark, vec![Word::Leave { dirty: false }]);
    }
    assert!(desk.say(5, vec![who("d", 1)]).len() > 1);
    // The dead keep the name: their bits are of that cluster's array.
    let expired = Word::Expired {
        mark: 5,
        expelled: false,
    };
    desk.say(6, vec![expired]);
    assert_eq!(
        refusal(desk.say(6, vec![who("c", 1)])),
        JoinRefusal::WrongCluster
    );
}

#[test]
fn the_expelled_are_down_when_their_time_is_over_and_not_before() {
    let mut desk = Desk::default();
    desk.join(1);
    let two = desk.join(2);
    let told = desk.say(1, vec![Word::Expel(two)]);
    let events: Vec<_> = told.iter().map(|(to, told)| (*to, told)).collect();
    assert_eq!(events[0], (2, &Told::Event(ServiceEvent::Lost)));
    assert_eq!(events[1], (1, &Told::Event(ServiceEvent::Prep)));
    let expired = |expelled| vec![Word::Expired { mark: 2, expelled }];
    assert_eq!(
        desk.say(1, expired(false)),
        [],
        "it did not know of the expulsion"
    );
    assert_eq!(desk.say(2, vec![Word::Acquire(RightName::Token)]), []);
    let told = desk.say(1, expired(true));
    assert!(told.contains(&(1, Told::Event(ServiceEvent::Down(two.into())))));
    assert_eq!(desk.book.about(two), Some((Some("host"), 1000, None)));
}
