//! Two lives of an array's cluster under a scheduler that chooses who runs next at every lock and
//! every wait: `cargo test -p umd-cluster --lib --features shuttle shuttle_`. A schedule that
//! breaks a rule is printed, and `shuttle::replay` runs it again.
//!
//! ```text
//!   node, node --LogEngine: timer, writer, reader, keeper--> one log in memory
//!   stopper, clock, cable: threads of their own, at any moment
//! ```
//!
//! What the log comes to is the book's, which has its own tests. Here it is the threads: whether
//! each wakes up when it has to, what is told behind an end, and what is left when an engine is
//! dropped.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shuttle::{Config, Runner};
use umd_core::cluster::{AckStatus, DeviceNumber, Leave, Message, Right};
use umd_core::value::Span;

use super::*;
use crate::memory::{Link, Memory};
use crate::sync::Time;

/// Schedules of each kind, for each scene.
const SCHEDULES: usize = 1_000;
/// Changes of the order that the second kind makes in each.
const CHANGES: usize = 4;
/// Nothing takes so many steps that comes to an end.
const STEPS_MAX: usize = 200_000;
const STACK: usize = 1 << 20;

/// How a node comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It leaves, at any moment.
    Leaves,
    /// Its engine is dropped, at any moment.
    Dies,
    /// Its link to the log is cut, at any moment, and it leaves then.
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct Scene {
    ways: [Way; 2],
    /// How many may be members at a time.
    capacity: u16,
    /// Time passes.
    time: bool,
    /// Wakers are never called: a mistake that has to be noticed.
    mute: bool,
}

/// What wakes a node.
#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    news: Condvar,
    ended: AtomicBool,
    stop: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        assert!(!self.ended.load(Ordering::SeqCst), "woken behind its end");
        *self.rung.lock().expect("no panic") += 1;
        self.news.notify_all();
    }

    fn wait(&self, heard: &mut usize) {
        let rung = self.rung.lock().expect("no panic");
        let waited = self.news.wait_while(rung, |rung| *rung == *heard);
        *heard = *waited.expect("no panic");
    }
}

fn step() {
    thread::sleep(Duration::ZERO);
}

/// A node, from its start to its end: it speaks once, and answers whoever speaks.
fn live(scene: Scene, nth: usize, link: Link, bell: &Arc<Bell>) {
    let setup = Setup {
        past: Past::New,
        ..Setup::new([1; 16], "hall", ["alpha", "beta"][nth])
    };
    let rings = Arc::clone(bell);
    let waker: Waker = match scene.mute {
        true => Arc::new(|| ()),
        false => Arc::new(move || rings.ring()),
    };
    let mut engine = LogEngine::new(link, setup, waker);
    let left_over = Arc::downgrade(&engine.shared);
    let (capacity, version) = (scene.capacity, 1);
    engine.submit(ServiceCommand::Join { capacity, version });
    engine.submit(ServiceCommand::Acquire(Right::Token));
    let (mut heard, mut leaving, mut joined) = (0, false, false);
    let last = loop {
        if bell.stop.load(Ordering::SeqCst) && !std::mem::replace(&mut leaving, true) {
            match scene.ways[nth] {
                Way::Dies => break None,
                Way::Leaves | Way::Cut => {
                    engine.submit(ServiceCommand::Leave(Leave::Clean));
                }
            }
        }
        let Some(event) = engine.try_event() else {
            bell.wait(&mut heard);
            continue;
        };
        match event {
            ServiceEvent::Joined(_) => {
                assert!(!std::mem::replace(&mut joined, true), "it joins once");
            }
            ServiceEvent::Granted(Right::Token, grant) => {
                let message = Message::MetadataUpdated {
                    good: DeviceNumber(0),
                };
                let deadline = engine.now() + Span::secs(30);
                engine.submit(ServiceCommand::Broadcast {
                    grant,
                    message,
                    deadline,
                });
                engine.submit(ServiceCommand::Release(Right::Token, grant));
            }
            ServiceEvent::Deliver(id, ..) => {
                assert!(joined, "a message for who has not joined");
                engine.submit(ServiceCommand::Ack(id, AckStatus::Done));
            }
            ServiceEvent::Left | ServiceEvent::Lost | ServiceEvent::JoinRefused(_) => {
                break Some(event);
            }
            _ => {}
        }
    };
    if let Some(last) = last {
        if !scene.time && scene.capacity == 2 {
            assert_eq!(last, ServiceEvent::Left, "time stands still");
        }
        step();
        assert_eq!(engine.try_event(), None, "told behind its end");
    }
    drop(engine);
    bell.ended.store(true, Ordering::SeqCst);
    assert!(left_over.upgrade().is_none(), "a thread is left");
}

fn play(scene: Scene) {
    Time::begin();
    let memory = Memory::new();
    let ended = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    for nth in 0..2 {
        let (link, bell) = (memory.link(), Arc::new(Bell::default()));
        let (cable, rings, ended) = (link.clone(), Arc::clone(&bell), Arc::clone(&ended));
        threads.push(thread::spawn(move || {
            live(scene, nth, link, &bell);
            ended.fetch_add(1, Ordering::SeqCst);
        }));
        threads.push(thread::spawn(move || {
            cable.cut(scene.ways[nth] == Way::Cut);
            step();
            rings.stop.store(true, Ordering::SeqCst);
            if !rings.ended.load(Ordering::SeqCst) {
                rings.ring();
            }
        }));
    }
    if scene.time {
        threads.push(thread::spawn(move || {
            while ended.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
                Time::pass(Duration::from_millis(500));
            }
        }));
    }
    for thread in threads {
        thread.join().expect("no rule was broken");
    }
}

fn explore(scene: Scene) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    println!("{scene:?}"); // Shown when a schedule of it fails.
    let config = || {
        let mut config = Config::new();
        config.stack_size = STACK;
        config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
        config
    };
    let random = RandomScheduler::new(SCHEDULES);
    Runner::new(random, config()).run(move || play(scene));
    let few = PctScheduler::new(CHANGES, SCHEDULES);
    Runner::new(few, config()).run(move || play(scene));
}

const BOTH_LEAVE: Scene = Scene {
    ways: [Way::Leaves, Way::Leaves],
    capacity: 2,
    time: false,
    mute: false,
};

#[test]
fn shuttle_nodes_leave_at_any_moment_and_nothing_is_left() {
    explore(BOTH_LEAVE);
    explore(Scene {
        capacity: 1,
        ..BOTH_LEAVE
    });
}

#[test]
fn shuttle_engines_are_dropped_at_any_moment_and_nothing_is_left() {
    for ways in [[Way::Dies, Way::Leaves], [Way::Dies, Way::Dies]] {
        for time in [false, true] {
            explore(Scene {
                ways,
                time,
                ..BOTH_LEAVE
            });
        }
    }
}

#[test]
fn shuttle_links_are_cut_at_any_moment_and_nothing_is_left() {
    for ways in [[Way::Cut, Way::Leaves], [Way::Cut, Way::Cut]] {
        explore(Scene {
            ways,
            time: true,
            ..BOTH_LEAVE
        });
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn shuttle_events_that_nobody_is_woken_for_are_noticed() {
    explore(Scene {
        mute: true,
        ..BOTH_LEAVE
    });
}
