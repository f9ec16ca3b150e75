//! A member that has all of what it replaces gets its place, on all nodes.
//!
//! ```text
//!   old + new, both written by all -- new is full, and that is recorded --> wished
//!        ^                                                                    |
//!        '-- a failure of one was recorded first <-- (token) still so? --> new only, recorded
//! ```
//!
//! Under the token everything that others have recorded is known here. Before, a node that took the
//! new one for a member and the old one for a failed one could meet another that had recorded the
//! opposite, and could follow it no more.

use super::reload::Reload;
use crate::array::Array;
use crate::value::MemberId;

impl Array {
    /// Whether what a dead node was writing may be different on two members that are to change
    /// places, or this node is to change nothing any more.
    pub(in crate::array) fn cluster_is_unsure(&mut self) -> bool {
        if self.shared.is_none() {
            return false;
        }
        let unsure = self.lane.others_mut().read_first || self.sync.owes_regions();
        let shared = self.shared_mut();
        let reads = shared.reload.as_ref().is_some_and(Reload::has_begun);
        unsure || reads || !shared.ready || shared.frozen || shared.is_leaving()
    }

    /// Members carry different events: what evens them must not say anything new with the same.
    pub(super) fn waits_for_even(&mut self) -> bool {
        let uneven = self.metadata.is_uneven();
        if uneven && !self.metadata.owes() {
            self.metadata.note_change(false);
        }
        uneven
    }

    /// These are to change places when it is this node's turn. Returns whether there are any.
    pub(in crate::array) fn wish_to_hand_over(&mut self, whole: Vec<(MemberId, MemberId)>) -> bool {
        if whole.is_empty() {
            return false;
        }
        if !self.waits_for_even() {
            self.shared_mut().handing_over = whole;
            self.metadata.note_change(true);
        }
        true
    }

    /// It is this node's turn: those that are still full get their places.
    pub(super) fn hand_over_under_token(&mut self) {
        let wished = std::mem::take(&mut self.shared_mut().handing_over);
        let unsure = wished.is_empty() || self.cluster_is_unsure() || self.metadata.is_uneven();
        if unsure || self.sync.running().is_some() {
            return;
        }
        let mut whole = self.whole();
        whole.retain(|pair| wished.contains(pair));
        self.hand_over_all(&whole);
    }
}
