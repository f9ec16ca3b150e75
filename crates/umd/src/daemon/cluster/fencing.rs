//! Attempts to be certain that a dead node writes no more. Each is a thread: a fence agent may take
//! long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use umd_cluster::fence::{Command, Confirmation, Fencer, Fencers, NotFenced, Target};
use umd_cluster::{About, Waker};
use umd_core::cluster::{FenceProof, NodeSlot, Peer};
use umd_core::value::Instant;

use crate::api::ClusterRequest;

/// How long a fence agent may take.
const AGENT_PATIENCE: Duration = Duration::from_secs(60);

type Outcome = Result<FenceProof, NotFenced>;

/// Who is down, as far as this node was asked to see to it.
struct Down {
    since: Instant,
    /// Why there was no proof the last time.
    why: Option<String>,
}

/// The ways, and who is under way.
pub struct Fencing {
    ways: Arc<Fencers>,
    confirmation: Arc<Confirmation>,
    down: BTreeMap<Peer, Down>,
    running: BTreeSet<Peer>,
    sender: Sender<(Peer, Outcome)>,
    receiver: Receiver<(Peer, Outcome)>,
    waker: Waker,
}

impl Fencing {
    /// The fence agent of a request, if it names one, then an administrator.
    pub fn new(request: &ClusterRequest, waker: Waker) -> Fencing {
        let confirmation = Arc::new(Confirmation::default());
        let mut ways: Vec<Box<dyn Fencer>> = Vec::new();
        if let Some(program) = &request.fence_agent {
            ways.push(Box::new(Command {
                program: program.into(),
                options: Vec::new(),
                plugs: BTreeMap::new(),
                own_host: request.node.clone(),
                timeout: AGENT_PATIENCE,
            }));
        }
        ways.push(Box::new(Arc::clone(&confirmation)));
        let (sender, receiver) = channel();
        Fencing {
            ways: Arc::new(Fencers::new(ways)),
            confirmation,
            down: BTreeMap::new(),
            running: BTreeSet::new(),
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
        if !self.running.insert(peer) {
            return;
        }
        let target = Target {
            peer,
            about,
            down_since: down.since,
        };
        let (ways, sender, waker) = (
            Arc::clone(&self.ways),
            self.sender.clone(),
            self.waker.clone(),
        );
        let work = move || {
            let outcome = ways.fence(&target);
            let _ = sender.send((peer, outcome)); // The array may have ended meanwhile.
            waker();
        };
        let spawned = thread::Builder::new().name("md-fence".into()).spawn(work);
        if let Err(error) = spawned {
            let why = NotFenced(format!("{} is not fenced: {error}", peer.slot));
            let _ = self.sender.send((peer, Err(why)));
            (self.waker)();
        }
    }

    /// What has come of attempts. What is told again is told once only, as `why` shows.
    pub fn answers(&mut self) -> Vec<(Peer, Outcome)> {
        let answers: Vec<(Peer, Outcome)> = self.receiver.try_iter().collect();
        for (peer, outcome) in &answers {
            self.running.remove(peer);
            if let (Some(down), Err(why)) = (self.down.get_mut(peer), outcome) {
                down.why = Some(why.to_string());
            }
        }
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
        let waiting = self.confirmation.waiting();
        match waiting.into_iter().rfind(|peer| peer.slot == slot) {
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
    }
}
