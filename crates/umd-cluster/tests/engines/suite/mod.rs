//! What every engine has to pass: the promises at the top of umd-core's `cluster/service.rs`.
//!
//! ```text
//!   Harness --> nodes of an array, with links that can be cut
//!   CASES: (promise, name, fn(&Harness))      several at once, each with an array of its own
//!   sabotage.rs: an engine that breaks one promise, and the case that notices
//! ```

pub mod cases;
pub mod node;
pub mod sabotage;
pub mod trouble;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant as Moment};

use umd_cluster::{Engine, Ledger, LogEngine, Past, Setup};
use umd_core::value::Instant;

pub use node::{Node, Subject};

/// Engines of one kind.
pub trait Harness: Sync {
    /// How long sessions are to hold.
    fn session(&self) -> Duration;
    /// A node of an array that has not joined, with a link of its own.
    fn engine(&self, setup: Setup) -> Box<dyn Subject>;
}

/// An array of a test: its nodes share a log, and nobody else does.
pub struct Bench<'h> {
    pub harness: &'h dyn Harness,
    pub array: [u8; 16],
    /// What is told of its past.
    pub past: Past,
}

static ARRAYS: AtomicU64 = AtomicU64::new(1);

impl<'h> Bench<'h> {
    pub fn new(harness: &'h dyn Harness) -> Bench<'h> {
        let mut array = [0; 16];
        array[..4].copy_from_slice(&std::process::id().to_le_bytes());
        array[8..].copy_from_slice(&ARRAYS.fetch_add(1, Ordering::SeqCst).to_le_bytes());
        let past = Past::New;
        Bench {
            harness,
            array,
            past,
        }
    }

    pub fn setup(&self, host: &str) -> Setup {
        let mut setup = Setup::new(self.array, "blue", host);
        setup.session = self.harness.session();
        setup.past = self.past;
        setup
    }

    pub fn node(&self, host: &str) -> Node {
        self.node_as(self.setup(host))
    }

    pub fn node_as(&self, setup: Setup) -> Node {
        Node::new(self.harness.engine(setup))
    }

    /// Members, in slots 0, 1, ...
    pub fn members<const N: usize>(&self, capacity: u16) -> [Node; N] {
        let mut nodes: [Node; N] = std::array::from_fn(|at| self.node(&format!("host{at}")));
        for (at, node) in nodes.iter_mut().enumerate() {
            let session = node.join(capacity);
            assert_eq!(usize::from(session.me.slot.0), at);
        }
        nodes
    }

    pub fn session(&self) -> Duration {
        self.harness.session()
    }
}

/// A log engine with a link that can be cut.
pub struct Held<L: Ledger> {
    pub engine: LogEngine<L>,
    pub cut: Box<dyn Fn(bool) + Send>,
}

impl<L: Ledger> Engine for Held<L> {
    fn submit(&mut self, command: umd_core::cluster::ServiceCommand) {
        self.engine.submit(command);
    }
    fn try_event(&mut self) -> Option<umd_core::cluster::ServiceEvent> {
        self.engine.try_event()
    }
    fn wait_event(&mut self, timeout: Duration) -> Option<umd_core::cluster::ServiceEvent> {
        self.engine.wait_event(timeout)
    }
    fn now(&self) -> Instant {
        self.engine.now()
    }
    fn about(&self, peer: umd_core::cluster::Peer) -> Option<umd_cluster::About> {
        self.engine.about(peer)
    }
    fn trouble(&self) -> Option<String> {
        self.engine.trouble()
    }
    fn validity(&self) -> umd_cluster::Validity {
        self.engine.validity()
    }
}

impl<L: Ledger> Subject for Held<L> {
    fn pause(&self, paused: bool) {
        self.engine.pause(paused);
    }
    fn broadcast_bytes(&mut self, grant: u64, bytes: &[u8], deadline: Instant) {
        self.engine.broadcast_bytes(grant, bytes, deadline);
    }
    fn cut(&self, cut: bool) {
        (self.cut)(cut);
    }
}

/// A case: what it is about, and how to see it.
pub type Case = (&'static str, fn(&Bench));

/// Runs a case; why it failed.
pub fn attempt(case: &Case, bench: &Bench) -> Result<(), String> {
    let result = catch_unwind(AssertUnwindSafe(|| case.1(bench)));
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
        text.unwrap_or_else(|| "it panicked".into())
    })
}

/// How many cases run at once: most of their time is waiting.
const AT_ONCE: usize = 10;

/// Runs all cases.
pub fn run(harness: &dyn Harness) {
    let all: Vec<&Case> = cases::CASES.iter().chain(&trouble::CASES).collect();
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let take = || usize::try_from(next.fetch_add(1, Ordering::SeqCst)).ok();
                while let Some(case) = take().and_then(|at| all.get(at)) {
                    let begin = Moment::now();
                    let result = attempt(case, &Bench::new(harness));
                    println!("{:6.2} s  {}", begin.elapsed().as_secs_f64(), case.0);
                    let failure = result.err().map(|why| format!("{}: {why}", case.0));
                    failed.lock().unwrap().extend(failure);
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
