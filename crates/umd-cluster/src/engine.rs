//! What a daemon sees of a lock service, whichever it is.
//!
//! ```text
//!   the thread of an array:   submit(command) ----------------> (never blocks)
//!                             wait_event, try_event <---- channel <---- the engine's threads
//!                             its poll wakes up    <---- Waker <-----------'
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use umd_core::cluster::{Peer, ProofKind, ServiceCommand, ServiceEvent};
use umd_core::value::Instant;

/// Called after an event was put into the channel, from a thread of the engine. It must not block.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A lock service, as one life of one node of one array sees it.
///
/// An engine that is dropped without having left is a node that died: others learn of it when its
/// session has run out.
pub trait Engine: Send {
    /// Takes a command. Never blocks; commands are carried out in the order in which they came.
    fn submit(&mut self, command: ServiceCommand);

    /// The next event, if one has come.
    fn try_event(&mut self) -> Option<ServiceEvent>;

    /// The next event, unless none comes in that time.
    fn wait_event(&mut self, timeout: Duration) -> Option<ServiceEvent>;

    /// What the clock shows that `valid_until` and deadlines are on. A node that is driven by this
    /// engine is told this time, and no other.
    fn now(&self) -> Instant;

    /// What is known of a member, or of one that died and was not recovered.
    fn about(&self, peer: Peer) -> Option<About>;

    /// What keeps the engine from doing its work, in words, if something does.
    fn trouble(&self) -> Option<String>;

    /// Says until when the session is valid, to whoever asks and from any thread: the last word on
    /// it, also when it is over. Without an end before it has begun.
    fn validity(&self) -> Validity;
}

/// Until when a session is valid, on the engine's clock.
pub type Validity = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What fencing has to know of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// The host it ran on; `None` where nobody remembers.
    pub host: Option<String>,
    /// How long its session held without renewal.
    pub session: Duration,
    /// The time of the watchdog that ends its host, if it had one.
    pub watchdog: Option<Duration>,
}

/// What a service that has no record of an array counts its slots as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nobody ever ran it: it was just made.
    New,
    /// Somebody may have: all other slots have to be recovered. `fenced` says why it is certain
    /// that nobody runs it still, where that is so. Who joins first takes over a slot, too, whose
    /// last owner nobody knows: a proof or a confirmation for the others has to be meant for it as
    /// well.
    Unknown {
        /// The proof that counts for each of them.
        fenced: Option<ProofKind>,
    },
}

/// Who joins what.
#[derive(Clone, PartialEq, Eq)]
pub struct Setup {
    /// The array's uuid.
    pub array: [u8; 16],
    /// The cluster's name, as the array's bitmap has it.
    pub cluster: String,
    /// The name of this host, as fence agents know it.
    pub host: String,
    /// What the array's slots are if the service has no record of it.
    pub past: Past,
    /// How long a session holds without renewal. Three quarters of it are this node's.
    pub session: Duration,
    /// The time of the watchdog that is fed while the session holds, if there is one.
    pub watchdog: Option<Duration>,
    /// How long to try to join a service that does not answer.
    pub join_within: Duration,
    /// How many entries a log may have before what they come to takes their place.
    pub keep_entries: usize,
}

impl Setup {
    /// With a session of ten seconds and no watchdog, for an array that somebody may have run.
    pub fn new(array: [u8; 16], cluster: &str, host: &str) -> Setup {
        Setup {
            array,
            cluster: cluster.into(),
            host: host.into(),
            past: Past::Unknown { fenced: None },
            session: Duration::from_secs(10),
            watchdog: None,
            join_within: Duration::from_secs(30),
            keep_entries: 512,
        }
    }

    /// For how long a renewal is valid here, counted from before it was asked for.
    pub fn valid_for(&self) -> Duration {
        self.session / 4 * 3
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} on {}",
            hex(&self.array),
            self.cluster,
            self.host
        )
    }
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text as bytes, if it is some.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
