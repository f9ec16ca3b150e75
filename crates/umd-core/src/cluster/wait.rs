//! What a node waits for, as `umd detail` and the metrics tell it.
//!
//! ```text
//!   waiting for node 3 to acknowledge METADATA_UPDATED, 12 s
//! ```

use std::fmt;

use super::message::Message;
use super::service::{NodeSlot, Right};
use crate::value::Instant;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitFor {
    /// To become a member.
    Join,
    /// A right that another node has.
    Right(Right),
    /// A right to be let go.
    Cancel(Right),
    /// A message to get its place among all others.
    Place(Message),
    /// A node to acknowledge a message.
    Ack(NodeSlot, Message),
    /// The proof that a node writes no more.
    Proof(NodeSlot),
    /// A dead node's slot to be recovered, here or elsewhere.
    Recovery(NodeSlot),
    /// The array to do something on its own members.
    Array(&'static str),
    /// To have left.
    Leave,
}

/// A wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wait {
    /// For what.
    pub what: WaitFor,
    /// Since when.
    pub since: Instant,
}

impl Wait {
    /// The sentence.
    pub fn told(&self, now: Instant) -> String {
        format!("waiting {}, {} s", self.what, (now - self.since).as_secs())
    }
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitFor::Join => f.write_str("to join the cluster"),
            WaitFor::Right(Right::Token) => f.write_str("for the right to send"),
            WaitFor::Right(Right::Resync) => f.write_str("for another node's resync to end"),
            WaitFor::Cancel(_) => f.write_str("for the lock service to forget a request"),
            WaitFor::Place(message) => write!(f, "for the lock service to take {message}"),
            WaitFor::Ack(node, message) => write!(f, "for {node} to acknowledge {message}"),
            WaitFor::Proof(node) => write!(f, "for a proof that {node} writes no more"),
            WaitFor::Recovery(node) => write!(f, "for the recovery of {node}"),
            WaitFor::Array(what) => write!(f, "for the array {what}"),
            WaitFor::Leave => f.write_str("to leave the cluster"),
        }
    }
}
