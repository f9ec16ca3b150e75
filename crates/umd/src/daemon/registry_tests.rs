//! The registry with its handles, and with threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use umd_export::nbd::Opened;

use super::super::admission::Admission;
use super::*;

fn info(name: &str) -> ExportInfo {
    ExportInfo {
        name: name.into(),
        description: String::new(),
        size_sectors: 8,
        logical_block_bytes: 512,
        preferred_bytes: 4096,
        read_only: false,
    }
}

fn handle(name: &str) -> Handle {
    let (events, _) = tokio::sync::broadcast::channel(4);
    Handle::new(info(name), events, Default::default())
        .expect("a descriptor")
        .0
}

fn run(registry: &Registry, name: &str, uuid: u8) -> ObjectId {
    let reservation = registry.reserve(name).expect("free");
    let filled = reservation.fill(Uuid([uuid; 16]), handle(name));
    filled.expect("fills")
}

fn opened(opening: Opening) -> Option<Opened> {
    match opening {
        Opening::Open(opened) => Some(*opened),
        Opening::Waits(_) => panic!("it waits"),
        Opening::Refused => None,
    }
}

#[test]
fn a_name_is_held_while_an_array_starts() {
    let registry = Registry::default();
    let first = registry.reserve("r5").expect("free");
    assert_eq!(registry.reserve("r5").err(), Some(Taken::Name("r5".into())));
    assert!(registry.get("r5").is_none() && !registry.is_empty());
    drop(first);
    assert!(registry.is_empty());
    let id = run(&registry, "r5", 1);
    assert!(registry.get("r5").is_some());
    assert_eq!(
        registry.find("r5").map(|info| info.name).as_deref(),
        Some("r5")
    );
    registry.ended(id);
    assert!(registry.is_empty());
}

#[test]
fn a_closed_registry_takes_nothing_more() {
    let registry = Registry::default();
    let starting = registry.reserve("a").expect("free");
    assert!(!registry.close_if_empty(), "one is being started");
    drop(starting);
    assert!(registry.close_if_empty());
    assert_eq!(registry.reserve("b").err(), Some(Taken::Leaving));
}

#[test]
fn one_array_does_not_run_twice() {
    let registry = Registry::default();
    run(&registry, "a", 1);
    let second = registry.reserve("b").expect("free");
    assert!(second.fill(Uuid([1; 16]), handle("b")).is_err());
    assert_eq!(registry.all().len(), 1);
    assert!(registry.reserve("b").is_ok());
}

#[test]
fn whoever_has_it_open_keeps_it_from_being_stopped() {
    let registry = Registry::default();
    let id = run(&registry, "r5", 1);
    let who = Peer::Process { pid: 7, uid: 1000 };
    let visit = opened(registry.open("r5", &who)).expect("it runs");
    let refused = registry.stop("r5", false).err().expect("it is open");
    assert_eq!(refused.why, Refusal::Open);
    assert_eq!(refused.openers.len(), 1);
    assert_eq!(
        (refused.openers[0].pid, refused.openers[0].uid),
        (Some(7), Some(1000))
    );
    assert_eq!(registry.openers("r5"), refused.openers);
    drop(visit);
    assert!(matches!(registry.stop("r5", false), Ok(ToStop::Array(of, _)) if of == id));
    registry.stop_refused(id);
    let visit = opened(registry.open("r5", &who)).expect("it goes on");
    assert!(matches!(registry.stop("r5", true), Ok(ToStop::Array(..))));
    drop(visit);
    registry.ended(id);
    assert!(registry.is_empty());
    assert!(opened(registry.open("r5", &who)).is_none());
}

/// What a client asks for while the old one goes is the new one, and it is woken for it.
#[test]
fn an_open_waits_for_the_next_array() {
    let registry = Registry::default();
    let old = run(&registry, "r5", 1);
    assert!(registry.stop("r5", false).is_ok());
    let Opening::Waits(mut visit) = registry.open("r5", &Peer::Unknown) else {
        panic!("it is being stopped");
    };
    assert!(visit.look().is_none());
    let ticket = registry.event(|names, out| names.start("r5", Onto::Nothing, out));
    assert!(registry.lock().answers.is_empty(), "it waits as well");
    let door = {
        use rustix::event::{EventfdFlags, eventfd};
        Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("a descriptor"))
    };
    registry.wake(door.clone());
    registry.ended(old);
    let answer = registry.lock().answers.remove(&ticket);
    let new = answer.expect("an answer").expect("the name is free");
    assert_ne!(old, new);
    assert!(visit.look().is_none(), "it is being started");
    let reservation = Reservation {
        registry: registry.clone(),
        name: "r5".into(),
        id: new,
        ticket: Some(ticket),
    };
    reservation
        .fill(Uuid([2; 16]), handle("r5"))
        .expect("fills");
    let mut count = [0; 8];
    rustix::io::read(&*door, &mut count).expect("it was woken");
    let opened = visit.look().expect("an answer").expect("it is there");
    let pass = opened.pass.expect("counted");
    assert!(pass.is::<Admission>());
    assert_eq!(registry.openers("r5").len(), 1);
    drop(pass);
    assert_eq!(registry.openers("r5").len(), 0);
}

#[test]
fn an_empty_array_is_made_by_opening_it_and_goes_when_it_was_asked_something() {
    let events = broadcast::channel(64).0;
    let mut heard = events.subscribe();
    let registry = Registry::new(events, Arc::new(Notify::new()), true);
    for _ in 0..3 {
        let visit = opened(registry.open("r9", &Peer::Unknown)).expect("made");
        assert_eq!(visit.info.size_sectors, 0);
    }
    assert_eq!(registry.phase("r9"), Some(Phase::Empty));
    assert!(opened(registry.open("no/name", &Peer::Unknown)).is_none());
    registry.ask("r9").expect("it is there").was_invalid();
    assert_eq!(registry.phase("r9"), Some(Phase::Empty));
    drop(registry.ask("r9"));
    assert!(registry.is_empty());
    let mut words = Vec::new();
    while let Ok(event) = heard.try_recv() {
        words.push(event.event);
    }
    assert_eq!(words, ["ADD", "REMOVE"]);
}

/// Threads that open, close, start and stop one name as fast as they can. Nobody gets what has
/// ended, and nothing is left.
#[test]
fn many_threads_over_one_name() {
    const ROUNDS: usize = 300;
    let registry = Registry::new(broadcast::channel(4).0, Arc::new(Notify::new()), true);
    let alive = Arc::new(AtomicUsize::new(0));
    let opens = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    for number in 0..3u8 {
        let (registry, alive) = (registry.clone(), alive.clone());
        threads.push(std::thread::spawn(move || {
            for round in 0..ROUNDS {
                let Ok(reservation) = registry.reserve("r5") else {
                    std::thread::yield_now();
                    continue;
                };
                assert_eq!(alive.fetch_add(1, Ordering::SeqCst), 0, "two are alive");
                let id = reservation
                    .fill(Uuid([number; 16]), handle("r5"))
                    .expect("one at a time");
                std::thread::yield_now();
                let force = round % 3 == 0;
                while registry.stop("r5", force).is_err() {
                    std::thread::yield_now();
                }
                assert_eq!(alive.fetch_sub(1, Ordering::SeqCst), 1);
                registry.ended(id);
            }
        }));
    }
    for _ in 0..3 {
        let (registry, opens) = (registry.clone(), opens.clone());
        threads.push(std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                let visit = match registry.open("r5", &Peer::Unknown) {
                    Opening::Open(opened) => Some(*opened),
                    Opening::Refused => None,
                    Opening::Waits(mut visit) => loop {
                        if let Some(answer) = visit.look() {
                            break answer;
                        }
                        std::thread::yield_now();
                    },
                };
                opens.fetch_add(usize::from(visit.is_some()), Ordering::SeqCst);
                drop(visit);
            }
        }));
    }
    for thread in threads {
        thread.join().expect("no rule was broken");
    }
    assert!(opens.load(Ordering::SeqCst) > 0);
    drop(registry.ask("r5"));
    assert!(registry.is_empty(), "nothing is left");
    let inner = registry.lock();
    assert!(inner.answers.is_empty() && inner.openers.is_empty() && inner.bodies.is_empty());
}
