//! Attempts to be certain that a dead node writes no more. Each is a thread: a fence agent may take
//! long.
//!
//! ```text
//!   begin --> thread: the ways, one after the other --> answer, then the waker
//!   recovered meanwhile, or all is over --> nobody wants it: its agent is killed, its answer lost
//!   dropped --> no thread is left
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use umd_cluster::fence::{Command, Confirmation, Fencer, Fencers, NotFenced, Target, Watchdog};
use umd_cluster::{About, Waker};
use umd_core::cluster::{FenceProof, NodeSlot, Peer};
use umd_core::value::Instant;

use super::storage::{ByStorage, Storage};
use crate::api::ClusterRequest;
use crate::daemon::sync::{AtomicBool, Ordering, step, thread};
use std::sync::mpsc::{Receiver, Sender, channel};

/// How long a fence agent may take.
const AGENT_PATIENCE: Duration = Duration::from_secs(60);

type Outcome = Result<FenceProof, NotFenced>;

/// Who is down, as far as this node was asked to see to it.
struct Down {
    since: Instant,
    /// Why there was no proof the last time.
    why: Option<String>,
}

/// A thread that tries.
struct Attempt {
    wanted: Arc<AtomicBool>,
    /// `None`: the system has no thread.
    thread: Option<thread::JoinHandle<()>>,
}

impl Attempt {
    fn give_up(&self) {
        self.wanted.store(false, Ordering::SeqCst);
    }

    /// Waits until the thread is gone.
    fn join(self) {
        if let Some(thread) = self.thread {
            let joined = thread.join();
            joined.expect("what breaks in an attempt is caught there");
        }
    }
}

/// How this node is certain of others, and they of it, in the order in which it is tried.
pub fn ways(request: &ClusterRequest) -> Vec<String> {
    let mut ways = Vec::new();
    if request.reservations {
        ways.push("reservations".to_owned());
    }
    if let Some(agent) = &request.fence_agent {
        ways.push(format!("command {agent}"));
    }
    if let Some(device) = &request.watchdog {
        let seconds = super::kennel::TIMEOUT.as_secs();
        ways.push(format!("watchdog {device} ({seconds} s)"));
    }
    ways.push("confirmation".to_owned());
    ways
}

/// The ways, and who is under way.
pub struct Fencing {
    ways: Arc<Fencers>,
    confirmation: Arc<Confirmation>,
    down: BTreeMap<Peer, Down>,
    running: BTreeMap<Peer, Attempt>,
    sender: Sender<(Peer, Outcome)>,
    receiver: Receiver<(Peer, Outcome)>,
    waker: Waker,
}

impl Fencing {
    /// Reservations if there are any, the fence agent of a request if it names one, the watchdog
    /// of who had one, then an administrator.
    pub fn new(request: &ClusterRequest, storage: Option<&Arc<Storage>>, waker: Waker) -> Fencing {
        let mut ways: Vec<Box<dyn Fencer>> = Vec::new();
        if let Some(storage) = storage {
            ways.push(Box::new(ByStorage::new(Arc::clone(storage))));
        }
        if let Some(program) = &request.fence_agent {
            ways.push(Box::new(Command {
                program: program.into(),
                options: Vec::new(),
                plugs: BTreeMap::new(),
                own_host: request.node.clone(),
                timeout: AGENT_PATIENCE,
            }));
        }
        ways.push(Box::new(Watchdog));
        Fencing::with(ways, waker)
    }

    /// These ways, then an administrator.
    pub fn with(mut ways: Vec<Box<dyn Fencer>>, waker: Waker) -> Fencing {
        let confirmation = Arc::new(Confirmation::default());
        ways.push(Box::new(Arc::clone(&confirmation)));
        let (sender, receiver) = channel();
        Fencing {
            ways: Arc::new(Fencers::new(ways)),
            confirmation,
            down: BTreeMap::new(),
            running: BTreeMap::new(),
            sender,
            receiver,
            waker,
        }
    }

    /// Begins an attempt, unless one is under way.
    pub fn begin(&mut self, peer: Peer, about: Option<About>, now: Instant) {
        let down = self.down.entry(peer).or_insert(Down {
            since: now,
            why: None,
        });
        if self.running.contains_key(&peer) {
            return;
        }
        let target = Target {
            peer,
            about,
            down_since: down.since,
        };
        let wanted = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&wanted);
        let (ways, sender, waker) = (
            Arc::clone(&self.ways),
            self.sender.clone(),
            self.waker.clone(),
        );
        let work = move || {
            let outcome = attempt(&ways, &target, &asked);
            step();
            let _ = sender.send((peer, outcome));
            waker();
        };
        let spawned = thread::Builder::new().name("md-fence".into()).spawn(work);
        let thread = spawned.map_err(|error| {
            let why = NotFenced(format!("{} is not fenced: {error}", peer.slot));
            let _ = self.sender.send((peer, Err(why)));
            (self.waker)();
        });
        let thread = thread.ok();
        self.running.insert(peer, Attempt { wanted, thread });
    }

    /// What has come of attempts. What is told again is told once only, as `why` shows.
    pub fn answers(&mut self) -> Vec<(Peer, Outcome)> {
        let mut answers: Vec<(Peer, Outcome)> = self.receiver.try_iter().collect();
        for (peer, outcome) in &answers {
            let attempt = self.running.remove(peer);
            attempt.expect("who answers was under way").join();
            if let (Some(down), Err(why)) = (self.down.get_mut(peer), outcome) {
                down.why = Some(why.to_string());
            }
        }
        answers.retain(|(peer, _)| {
            let wanted = self.down.contains_key(peer);
            if !wanted {
                // It may have begun to wait for a confirmation after it was forgotten.
                self.confirmation.forget(*peer);
            }
            wanted
        });
        answers
    }

    /// The life that is down in a slot, and why there is no proof of it yet.
    pub fn of(&self, slot: NodeSlot) -> Option<(Peer, Option<String>)> {
        let mut down = self.down.iter().filter(|(peer, _)| peer.slot == slot);
        let (peer, down) = down.next_back()?;
        Some((*peer, down.why.clone()))
    }

    /// An administrator is certain of a slot.
    ///
    /// # Errors
    /// When nobody waits for that.
    pub fn confirm(&mut self, slot: NodeSlot) -> Result<FenceProof, String> {
        let waiting = self.confirmation.waiting().into_iter();
        let mut waiting = waiting.filter(|peer| self.down.contains_key(peer));
        match waiting.rfind(|peer| peer.slot == slot) {
            Some(peer) => {
                let proof = self.confirmation.confirm(peer);
                proof.map_err(|error| error.to_string())
            }
            None => Err(format!("{slot} waits for no confirmation")),
        }
    }

    /// Its slot was recovered.
    pub fn forget(&mut self, peer: Peer) {
        self.down.remove(&peer);
        self.confirmation.forget(peer);
        if let Some(attempt) = self.running.get(&peer) {
            attempt.give_up();
        }
    }
}

impl Drop for Fencing {
    fn drop(&mut self) {
        self.running.values().for_each(Attempt::give_up);
        let running = std::mem::take(&mut self.running);
        running.into_values().for_each(Attempt::join);
    }
}

fn attempt(ways: &Fencers, target: &Target, wanted: &AtomicBool) -> Outcome {
    let wanted = || wanted.load(Ordering::SeqCst);
    // Without an answer it would never be tried again.
    let tried = catch_unwind(AssertUnwindSafe(|| ways.fence(target, &wanted)));
    tried.unwrap_or_else(|_| {
        let slot = target.peer.slot;
        Err(NotFenced(format!(
            "{slot} is not fenced: an invariant of fencing broke; confirm by hand that it is dead"
        )))
    })
}
