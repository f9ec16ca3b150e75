//! An array that nobody failed in starts with all its members, whatever a power cut left of its
//! superblocks.
//!
//! ```text
//!   boot: whole all the time --> any end --> boot: whole
//!                                 |
//!                                 +-- every superblock is the old or the new one
//! ```

use umd_core::array::MemberRole;

use super::World;
use crate::disk::Power;
use crate::monitor::{Rule, Verdict, Violation};
use crate::options::Fault;

impl World<'_> {
    /// Whether everybody is in sync, has been since the start, and nothing is under way against a
    /// disk.
    pub(super) fn is_whole(&self) -> bool {
        let Some(live) = &self.live else { return false };
        let on = |disk: &usize| self.disks[*disk].power() != Power::Gone;
        live.whole && self.atlas.doomed.is_empty() && live.members.values().all(on)
    }

    /// At the start: who was in sync when nothing was wrong is in sync.
    pub(super) fn check_whole(&mut self) -> Verdict {
        let roles = self.live().status.members.iter().map(|m| m.role);
        let in_sync = roles.filter(|role| *role == MemberRole::InSync).count();
        let whole = in_sync == usize::from(self.geometry.slots);
        let before = self.was_whole && self.superblocks_hold();
        self.live_mut().whole = whole;
        if before && !whole {
            let text = "nothing failed, and a member was left out";
            return Err(Violation::new(Rule::Error, text));
        }
        Ok(())
    }

    /// Whether a superblock that was being written is the old or the new one afterwards, and one
    /// that was written lasts.
    fn superblocks_hold(&self) -> bool {
        let lies = [
            Fault::Rot,
            Fault::LostWrite,
            Fault::Misdirected,
            Fault::FlushError,
        ];
        let honest = lies.iter().all(|lie| !self.options.faults.contains(lie));
        let all_here = self.alone.is_none() && !self.manual.on && !self.atlas.exceeded();
        honest && all_here && !self.options.shreds
    }
}
