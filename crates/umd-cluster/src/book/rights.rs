//! What one member at a time may do.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use umd_core::cluster::{Fencing, ServiceEvent};

use super::{Book, Tellings, Told};
use crate::wire::RightName;

/// A right: who has it, and who waits for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rights {
    /// The number of the newest grant.
    newest: u64,
    holder: Option<u64>,
    queue: VecDeque<u64>,
}

impl Rights {
    pub(super) fn ask(&mut self, mark: u64) {
        if self.holder != Some(mark) && !self.queue.contains(&mark) {
            self.queue.push_back(mark);
        }
    }

    pub(super) fn is_held(&self, mark: u64, grant: u64) -> bool {
        self.holder == Some(mark) && self.newest == grant
    }

    pub(super) fn release(&mut self, mark: u64, grant: u64) -> bool {
        let held = self.is_held(mark, grant);
        if held {
            self.holder = None;
        }
        held
    }

    pub(super) fn forget(&mut self, mark: u64) {
        self.queue.retain(|other| *other != mark);
        if self.holder == Some(mark) {
            self.holder = None;
        }
    }

    pub(super) fn check(&self, is_member: impl Fn(u64) -> bool) {
        assert!(self.holder.iter().all(|mark| is_member(*mark)));
        assert!(self.queue.iter().all(|mark| is_member(*mark)));
    }
}

impl Book {
    pub(super) fn rights(&mut self, right: RightName) -> &mut Rights {
        match right {
            RightName::Token => &mut self.token,
            RightName::Resync => &mut self.resync,
        }
    }

    /// Grants a right to who waits, if nobody has it. Places only grow, and so do grants; of two
    /// at one place the second has the next number.
    pub(super) fn grant(&mut self, right: RightName, place: u64, told: &mut Tellings) {
        let rights = self.rights(right);
        if rights.holder.is_none()
            && let Some(mark) = rights.queue.pop_front()
        {
            rights.holder = Some(mark);
            rights.newest = place.max(rights.newest + 1);
            let granted = ServiceEvent::Granted(right.into(), Fencing(rights.newest));
            told.push((mark, Told::Event(granted)));
        }
    }

    pub(super) fn cancel(&mut self, right: RightName, mark: u64, told: &mut Tellings) {
        let queue = &mut self.rights(right).queue;
        let before = queue.len();
        queue.retain(|other| *other != mark);
        if queue.len() < before {
            let cancelled = ServiceEvent::Cancelled(right.into());
            told.push((mark, Told::Event(cancelled)));
        }
    }
}
