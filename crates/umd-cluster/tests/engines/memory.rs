//! The engine for one process against the suite that every engine has to pass, and the suite
//! against engines that break a promise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::suite::sabotage::{self, Sabotaged};
use crate::suite::{self, node};
use crate::suite::{Bench, Harness, Held, Node, Subject};
use umd_cluster::memory::{Link, Memory};
use umd_cluster::{LogEngine, Setup};
use umd_core::cluster::{ServiceCommand as Command, ServiceEvent as Event};

/// A log for each array.
#[derive(Default)]
struct InProcess {
    logs: Mutex<BTreeMap<[u8; 16], Arc<Memory>>>,
}

impl Harness for InProcess {
    fn session(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn engine(&self, setup: Setup) -> Box<dyn Subject> {
        let mut logs = self.logs.lock().unwrap();
        let memory = logs.entry(setup.array).or_default();
        let link = memory.link();
        let wire = link.clone();
        Box::new(Held {
            engine: LogEngine::new(link, setup, Arc::new(|| ())),
            cut: Box::new(move |cut| wire.cut(cut)),
        })
    }
}

impl InProcess {
    /// Another node of the bench's array, in its cluster, and its link to the log.
    fn beside(&self, bench: &Bench<'_>) -> (Link, Node) {
        let link = self.logs.lock().unwrap()[&bench.array].link();
        let mut node = Node::new(Box::new(Held {
            engine: LogEngine::new(link.clone(), bench.setup("b"), Arc::new(|| ())),
            cut: Box::new(|_| panic!("nobody cuts it")),
        }));
        node.join(2);
        (link, node)
    }
}

#[test]
fn the_engine_for_one_process_keeps_its_promises() {
    crate::suite::run(&InProcess::default());
}

#[test]
fn who_cannot_say_that_it_leaves_is_over_in_time_though_its_session_could_go_on() {
    let harness = InProcess::default();
    let bench = Bench::new(&harness);
    let mut a = bench.node("a");
    a.join(2);
    let (link, mut b) = harness.beside(&bench);
    link.mute(true);
    b.drain();
    let valid = b.valid_until();
    b.say(Command::Leave(umd_core::cluster::Leave::Clean));
    b.hears(&Event::Lost);
    // One renewal may have been under way.
    let late = umd_core::value::Span::secs(1);
    assert!(b.engine.now() < valid + late + late);
    a.down(b.me());
}

#[test]
fn who_hears_nothing_of_its_expulsion_is_over_all_the_same() {
    let harness = InProcess::default();
    let bench = Bench::new(&harness);
    let mut a = bench.node("a");
    a.join(2);
    let (link, mut b) = harness.beside(&bench);
    link.deafen(true);
    // It renews its session, and nobody minds.
    let valid = b.valid_until();
    while b.engine.now() <= valid {
        assert!(b.step(node::PATIENCE).is_some(), "renewed");
    }
    a.drain();
    a.say(Command::Expel(b.me()));
    b.hears(&Event::Lost);
    let over = b.engine.now();
    assert!(over < a.down(b.me()));
}

/// What is wanted in vain here is not waited for as long as elsewhere.
#[test]
fn the_suite_notices_every_promise_that_is_broken() {
    let inner = InProcess::default();
    let unnoticed: Vec<_> = std::thread::scope(|scope| {
        let threads = sabotage::ALL.map(|(broken, name)| {
            let inner = &inner;
            scope.spawn(move || {
                let harness = Sabotaged { inner, broken };
                let all = suite::cases::CASES.iter().chain(&suite::trouble::CASES);
                let case = all.into_iter().find(|case| case.0 == name).unwrap();
                node::hurry();
                let result = suite::attempt(case, &Bench::new(&harness));
                println!("{broken:?}: {}", result.clone().err().unwrap_or_default());
                result.is_ok().then_some((broken, name))
            })
        });
        threads
            .into_iter()
            .filter_map(|one| one.join().unwrap())
            .collect()
    });
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
