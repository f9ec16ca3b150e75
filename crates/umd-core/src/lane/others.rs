//! What other nodes of a cluster keep this one from.
//!
//! ```text
//!   write --> lock --> gate --(a window of another node, a freeze)--> waits
//!                        |                                             |
//!                        '--> member writes         window moved on <--'   or, leaving: refused
//! ```
//!
//! It is looked at where member writes begin, and nowhere else: a write that waits there for its
//! superblocks has nothing under way, so that no node waits for another's turn. Reads go on.

use std::collections::BTreeMap;

use super::request::Gate;
use super::{Job, Lane, Rig};
use crate::metadata::FaultRecorded;
use crate::value::RequestError;

/// What keeps writes and reads of a node in their place.
#[derive(Debug, Default)]
pub struct Others {
    /// Array sectors in which a node resyncs, by node.
    windows: BTreeMap<u16, (u64, u64)>,
    /// No write begins anywhere.
    pub frozen: bool,
    /// Members may differ somewhere: all reads go to the first good one, as on all nodes.
    pub read_first: bool,
    /// What has to wait is refused: this node is on its way out.
    pub leaving: bool,
    /// Failures that are not recorded yet will not be: writes that wait for that get an error.
    pub unrecordable: bool,
    /// No bit reaches the members until another node says so.
    pub bits_held: bool,
}

impl Others {
    /// No write begins in there; the node's last window is forgotten.
    pub fn suspend(&mut self, node: u16, window: Option<(u64, u64)>) {
        match window {
            Some((start, end)) => {
                assert!(start < end, "a window covers something");
                self.windows.insert(node, (start, end));
            }
            None => {
                self.windows.remove(&node);
            }
        }
    }

    /// Whether some node resyncs.
    pub fn any_window(&self) -> bool {
        !self.windows.is_empty()
    }

    fn covers(&self, (start, len): (u64, u64)) -> bool {
        let mut windows = self.windows.values();
        windows.any(|(from, to)| start < *to && *from < start + len)
    }

    fn holds(&self, span: Option<(u64, u64)>) -> bool {
        self.frozen || span.is_some_and(|span| self.covers(span))
    }

    /// What the gate says to a write that could begin otherwise.
    pub(super) fn word(&self, span: Option<(u64, u64)>, recorded: FaultRecorded) -> Gate {
        match self.holds(span) {
            false => Gate::Open(recorded),
            true if self.leaving => Gate::Refuse(RequestError::Stopping),
            true => Gate::Wait,
        }
    }
}

impl Lane {
    /// The array is one of a cluster.
    pub fn share(&mut self) {
        self.others = Some(Box::default());
    }

    /// What others keep this node from.
    pub fn others_mut(&mut self) -> &mut Others {
        self.others.as_mut().expect("in a cluster")
    }

    /// Whether the array is one of a cluster. Then nothing is mended under a lock of this node
    /// alone: others may be writing there.
    pub(super) fn is_shared(&self) -> bool {
        self.others.is_some()
    }

    /// Whether a failure is known that no superblock will ever tell from here.
    pub(super) fn is_unrecordable(&self, rig: &Rig<'_>) -> bool {
        let others = self.others.as_ref();
        others.is_some_and(|one| one.unrecordable) && rig.metadata.fault_pending()
    }

    pub(super) fn reads_first(&self) -> bool {
        self.others.as_ref().is_some_and(|one| one.read_first)
    }

    /// Whether members are being written between these array sectors for a host.
    pub fn is_writing_within(&self, start: u64, end: u64) -> bool {
        self.jobs.iter().any(|(_, job)| match job {
            Some(Job::Direct(job)) => job.is_writing_within(start, end),
            _ => false,
        })
    }
}
