//! The registry under a scheduler that chooses who runs next at every lock and every wait:
//! `cargo test -p umd --lib --features shuttle shuttle_`. A schedule that breaks a rule is printed,
//! and `shuttle::replay` runs it again.
//!
//! ```text
//!   administrators: reserve, fill or hold, stop        clients: open, wait, close
//!                  \____________ one name _____________/
//! ```
//!
//! The decisions are the core's, which `umd_core::registry` explores event by event. Here it is the
//! wiring: who is woken, what is dropped when, and whether a handle outlives what it stands for.

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use umd_export::nbd::Opened;

use super::*;

/// Schedules of each kind, for each scene.
const SCHEDULES: usize = 10_000;
/// Changes of the order that the second kind makes in each.
const CHANGES: usize = 4;

fn explore(scene: impl Fn() + Send + Sync + Copy + 'static) {
    shuttle::check_random(scene, SCHEDULES);
    shuttle::check_pct(scene, SCHEDULES, CHANGES);
}

fn handle(number: u8) -> Handle {
    let info = ExportInfo {
        name: "r5".into(),
        description: String::new(),
        size_sectors: u64::from(number),
        logical_block_bytes: 512,
        preferred_bytes: 4096,
        read_only: false,
    };
    let (events, _) = broadcast::channel(4);
    Handle::new(info, events, Default::default())
        .expect("a descriptor")
        .0
}

fn registry(create_on_open: bool) -> Registry {
    let events = broadcast::channel(4).0;
    Registry::new(events, Arc::new(Notify::new()), create_on_open)
}

/// A client: what it has opened, once it has its answer.
fn visit(registry: &Registry) -> Option<Opened> {
    match registry.open("r5", &Peer::Unknown) {
        Opening::Open(opened) => Some(*opened),
        Opening::Refused => None,
        Opening::Waits(mut waiting) => loop {
            if let Some(answer) = waiting.look() {
                return answer;
            }
            thread::yield_now();
        },
    }
}

/// Which arrays have ended, a bit each.
type Ended = Arc<AtomicUsize>;

/// Ends an array as its thread would.
fn end(registry: &Registry, ended: &Ended, number: u8, id: ObjectId) {
    ended.fetch_or(1 << number, Ordering::SeqCst);
    registry.ended(id);
}

/// Starts an array and stops it, as long as nobody has it open.
fn administrate(registry: &Registry, ended: &Ended, number: u8) {
    let Ok(reservation) = registry.reserve("r5") else {
        return;
    };
    let filled = reservation.fill(Uuid([number; 16]), handle(number));
    let id = filled.expect("one array of this identity");
    loop {
        match registry.stop("r5", false) {
            Ok(ToStop::Array(of, _)) => {
                assert_eq!(of, id, "nobody else runs under this name");
                return end(registry, ended, number, id);
            }
            Ok(_) => panic!("an array runs under this name"),
            Err(refused) => assert_eq!(refused.why, Refusal::Open),
        }
        thread::yield_now();
    }
}

/// Nothing is left of any name.
fn is_clear(registry: &Registry) {
    let inner = registry.lock();
    assert!(inner.names.is_empty() && inner.bodies.is_empty());
    assert!(inner.answers.is_empty() && inner.openers.is_empty());
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("no rule was broken");
    }
}

/// What a client has open does not end while it has it, and names are free again in the end.
fn arrays_come_and_go() {
    let (registry, ended) = (registry(false), Ended::default());
    let mut threads = Vec::new();
    for number in 1..=2 {
        let (registry, ended) = (registry.clone(), ended.clone());
        threads.push(thread::spawn(move || {
            administrate(&registry, &ended, number);
        }));
    }
    for _ in 0..2 {
        let (registry, ended) = (registry.clone(), ended.clone());
        threads.push(thread::spawn(move || {
            let Some(opened) = visit(&registry) else {
                return;
            };
            let alive = |ended: &Ended| {
                let bit = 1 << opened.info.size_sectors;
                assert_eq!(ended.load(Ordering::SeqCst) & bit, 0, "it has ended");
            };
            alive(&ended);
            thread::yield_now();
            alive(&ended);
        }));
    }
    join(threads);
    is_clear(&registry);
}

/// Members that wait are let go by a stop, or run; whoever holds them and whoever stops them may
/// come in any order.
fn members_wait_and_run() {
    let (registry, ended) = (registry(false), Ended::default());
    let holder = {
        let (registry, ended) = (registry.clone(), ended.clone());
        thread::spawn(move || {
            let Ok(reservation) = registry.reserve("r5") else {
                return;
            };
            let held = reservation.hold(Uuid([1; 16])).expect("held");
            thread::yield_now();
            let Ok(reservation) = held.reserve() else {
                return; // It is being stopped: letting go is the answer.
            };
            let id = reservation.fill(Uuid([1; 16]), handle(1)).expect("it runs");
            while !matches!(registry.stop("r5", true), Ok(ToStop::Array(..))) {
                thread::yield_now();
            }
            end(&registry, &ended, 1, id);
        })
    };
    let stopper = {
        let registry = registry.clone();
        thread::spawn(move || match registry.stop("r5", false) {
            // The thread of the array is asked, and refuses.
            Ok(ToStop::Array(id, _)) => registry.stop_refused(id),
            // The holder lets them go when it is asked.
            Ok(ToStop::Members(_) | ToStop::Nothing(_)) | Err(_) => {}
        })
    };
    let client = {
        let registry = registry.clone();
        thread::spawn(move || drop(visit(&registry)))
    };
    join(vec![holder, stopper, client]);
    is_clear(&registry);
}

/// An empty array that opening has made is there until it is asked something; who races with its
/// disappearance gets it, or the next one.
fn empty_arrays_appear_and_vanish() {
    let registry = registry(true);
    let mut threads = Vec::new();
    for _ in 0..2 {
        let registry = registry.clone();
        threads.push(thread::spawn(move || {
            let opened = visit(&registry).expect("there is always one, or a new one");
            assert_eq!(opened.info.size_sectors, 0);
        }));
    }
    for invalid in [true, false] {
        let registry = registry.clone();
        threads.push(thread::spawn(move || {
            let Some(asked) = registry.ask("r5") else {
                return;
            };
            thread::yield_now();
            if invalid {
                asked.was_invalid();
            }
        }));
    }
    join(threads);
    drop(registry.ask("r5"));
    is_clear(&registry);
}

/// A start that fails gives its name to whoever waits for it; an array that ends by itself is not
/// handed to anybody who comes later, and to nobody as if it were running.
fn starts_fail_and_arrays_end() {
    let (registry, ended) = (registry(false), Ended::default());
    let fails = {
        let registry = registry.clone();
        thread::spawn(move || drop(registry.reserve("r5")))
    };
    let ends = {
        let (registry, ended) = (registry.clone(), ended.clone());
        thread::spawn(move || {
            let Ok(reservation) = registry.reserve("r5") else {
                return;
            };
            let filled = reservation.fill(Uuid([1; 16]), handle(1));
            let id = filled.expect("the only one");
            thread::yield_now();
            registry.ended(id);
            ended.fetch_or(1 << 1, Ordering::SeqCst);
        })
    };
    let mut threads = vec![fails, ends];
    for _ in 0..2 {
        let (registry, ended) = (registry.clone(), ended.clone());
        threads.push(thread::spawn(move || {
            let before = ended.load(Ordering::SeqCst);
            if let Some(opened) = visit(&registry) {
                assert_eq!(opened.info.size_sectors, 1, "nothing else was ever there");
                assert_eq!(before, 0, "it had ended");
            }
        }));
    }
    join(threads);
    is_clear(&registry);
}

#[test]
fn shuttle_starts_fail_and_arrays_end() {
    explore(starts_fail_and_arrays_end);
}

#[test]
fn shuttle_arrays_come_and_go() {
    explore(arrays_come_and_go);
}

#[test]
fn shuttle_members_wait_and_run() {
    explore(members_wait_and_run);
}

#[test]
fn shuttle_empty_arrays_appear_and_vanish() {
    explore(empty_arrays_appear_and_vanish);
}
