//! Reads of what members may not agree about: they wait until it is the same on all of them.
//!
//! ```text
//!   Read --in doubt--> Doubtful (parked) --> Doubt --> sync makes members agree
//!    ^                                                          |
//!    +------- goes on, also where they could not be made to ----+
//! ```
//!
//! Where one copy is left a read waits for who is still writing to it, which may be the resync.
//!
//! After a crash one leg may hold the old content of a block and another the new one, and parity
//! may belong to neither. Both are right, until a host has read one of them: from then on it must
//! stay, also when the member that it was read from dies.

use super::read::Read;
use super::{Job, Lane, Rig, Step};
use crate::member::Epoch;
use crate::value::{Exhibit, Museum};

/// A range that a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// The job.
    pub job: u32,
    /// First sector: of a mirror the array's, else of member data.
    pub start: u64,
    /// Its end.
    pub end: u64,
}

/// A read that waits.
pub(super) struct Doubtful {
    read: Read,
}

impl Doubtful {
    /// Parks a read.
    pub fn park(read: Read, lane: &mut Lane, index: u32) -> Step {
        let (start, end) = read.range();
        assert!(start < end, "a read of something");
        lane.doubts.push(Doubt {
            job: index,
            start,
            end,
        });
        // Whoever fails while members are made to agree must be known before the answer: after a
        // crash it would be asked again, perhaps first.
        lane.wait_for_faults(read.request());
        Step::Stay(Job::Doubtful(Doubtful { read }))
    }

    /// Nobody waits twice: what could not be made to agree is read as it is.
    pub fn go_on(self, lane: &mut Lane, rig: &mut Rig<'_>, index: u32) -> Step {
        self.read.start_settled(lane, rig, index)
    }
}

impl Lane {
    /// Whether jobs have begun to wait for something.
    pub fn has_doubts(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// Ranges that jobs have begun to wait for.
    pub fn take_doubts(&mut self) -> Vec<Doubt> {
        std::mem::take(&mut self.doubts)
    }

    /// The range of a doubt agrees, or cannot be made to: its job goes on with the next `resume`.
    pub fn doubt_over(&mut self, doubt: Doubt) {
        let job = self.jobs.get(doubt.job);
        assert!(
            matches!(job, Some(Some(Job::Doubtful(_)))),
            "a doubt ends once"
        );
        self.answered.push_back(doubt.job);
    }

    /// Whether a range is in doubt, and there is something to be done about it.
    pub(super) fn in_doubt(&self, rig: &Rig<'_>, (start, end): (u64, u64)) -> bool {
        // U19: a read was answered from one leg, and the others were left as they were.
        let careless = rig.io.museum.on(Exhibit::U19) || rig.io.museum.on(Exhibit::M15);
        // In a cluster only the one resync makes members agree: until then all nodes read the same.
        if !rig.writable || rig.broken || careless || self.is_shared() {
            return false;
        }
        if rig.cover.agrees(rig.bitmap.regions(), start, end) {
            return false;
        }
        self.is_unsettled(rig.epoch, rig.io.museum, (start, end))
    }

    /// Whether a range that is in doubt is about to change, or to be changed: there are members to
    /// make agree, or somebody is still writing to the only copy that is left.
    pub fn is_unsettled(&self, epoch: &Epoch, museum: Museum, (start, end): (u64, u64)) -> bool {
        // U50: who was read first failed while a resync wrote its content to the only other leg,
        // which was read at once: the old and then the new.
        let writing =
            self.geometry.is_mirror() && self.locks.is_held(start, end) && !museum.on(Exhibit::U50);
        writing || epoch.can_agree(&self.geometry, start)
    }
}
