//! Superblocks of a cluster: one node at a time writes them, and what they say counts when all the
//! others have followed.
//!
//! ```text
//!   take_turns -- owes? --> (asks the others) --> permit --> update --> written
//!        ^                                                                | told to all
//!        '------------- confirm: faults and changes count as recorded <---'
//! ```
//!
//! Clean and active are not told here: what a node that died was writing its bitmap says.

use super::{Metadata, Stage};
use crate::value::Events;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// An update may begin.
    may: bool,
    /// One was written: the faults and changes in it.
    written: Option<(u64, u64)>,
}

impl Turns {
    pub(super) fn may_begin(&self) -> bool {
        self.may
    }

    pub(super) fn written(&mut self, recorded: (u64, u64)) {
        // What was given up when the members could not be written any more is nobody's news.
        if std::mem::take(&mut self.may) {
            self.written = Some(recorded);
        }
    }
}

impl Metadata {
    /// The array is one of a cluster.
    pub fn take_turns(&mut self) {
        assert!(self.stage == Stage::Idle, "before anything is written");
        self.tracks_activity = false;
        self.turns = Some(Turns::default());
    }

    /// It is this node's turn: one update is written, whatever is owed.
    pub fn permit(&mut self) {
        let turns = self.turns.as_mut().expect("in a cluster");
        assert!(!turns.may, "one update at a time");
        (turns.may, turns.written) = (true, None);
    }

    /// The turn is over without an update: members cannot be written.
    pub fn withdraw(&mut self) {
        self.turns.as_mut().expect("in a cluster").may = false;
    }

    /// Whether the update of this turn is on all members.
    pub fn has_written(&self) -> bool {
        let written = |turns: &Turns| turns.written.is_some();
        self.turns.as_ref().is_some_and(written)
    }

    /// The faults and changes in the last update, which not every node has read.
    pub fn unconfirmed(&self) -> (u64, u64) {
        let turns = self.turns.as_ref().expect("in a cluster");
        let known = (self.fault_recorded, self.change_recorded);
        turns.written.unwrap_or(known)
    }

    /// Whether no update is under way.
    pub fn rests(&self) -> bool {
        self.stage == Stage::Idle && self.left == 0
    }

    /// Every node that may still write has read the last update.
    pub fn confirm(&mut self) {
        let turns = self.turns.as_mut().expect("in a cluster");
        if let Some((fault, change)) = turns.written.take() {
            assert!(fault >= self.fault_recorded, "a fault is forgotten");
            assert!(change >= self.change_recorded, "a change is forgotten");
            (self.fault_recorded, self.change_recorded) = (fault, change);
        }
    }

    /// Another node has written superblocks with these events; `even`: all of them.
    pub fn adopt(&mut self, events: Events, even: bool) {
        assert!(self.rests(), "nobody else writes while this node does");
        self.events = self.events.max(events);
        self.recorded = self.recorded.max(events);
        if !even {
            self.note_uneven();
        }
    }
}
