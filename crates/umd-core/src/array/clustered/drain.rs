//! Coming to rest before the cluster is left.
//!
//! ```text
//!   Writes -> Bits -> Flush -> Over
//!   what waits for others is refused, what is under way ends; idle bits are cleared; caches
//! ```
//!
//! Nothing here waits for another node: what is not recorded by now is answered with an error, and
//! bits that cannot be cleared are left to who takes the slot.

use crate::array::Array;
use crate::cluster::{Answer, Desk};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    Writes,
    Bits,
    Flush,
    Over,
}

impl Array {
    pub(super) fn begin_drain(&mut self) {
        assert!(self.shared_mut().drain.is_none(), "it leaves once");
        self.shared_mut().drain = Some(Drain::Writes);
        let others = self.lane.others_mut();
        (others.leaving, others.unrecordable) = (true, true);
        self.sync.interrupt();
        self.lift_suspension();
    }

    pub(super) fn maintain_drain(&mut self) -> bool {
        let Some(drain) = self.shared_mut().drain else {
            return false;
        };
        let cut_off = self.io.is_cut_off();
        let quiet = self.metadata.is_quiet();
        let next = match drain {
            Drain::Over => return false,
            Drain::Writes => {
                let idle = self.lane.is_idle() && self.sync.running().is_none();
                if !idle || !self.shared_mut().takeovers.is_empty() {
                    return false;
                }
                if quiet && self.may_write() {
                    self.bitmap.want_final_clear();
                }
                Drain::Bits
            }
            Drain::Bits => {
                // Whoever moves the bitmaps may be dead: nobody waits for that.
                let holds = self.bitmaps_hold();
                let waits = match self.may_write() {
                    true if holds => !self.bitmap.rests(),
                    true if quiet => !self.bitmap.is_quiet(),
                    true => !self.bitmap.is_settled(),
                    false => !self.bitmap.rests(),
                };
                if !cut_off && (waits || !self.metadata.may_flush()) {
                    return false;
                }
                if !cut_off {
                    self.metadata.flush_at_rest(&mut self.io, &self.members);
                }
                Drain::Flush
            }
            Drain::Flush => {
                let rests = self.metadata.may_flush() && self.bitmap.rests();
                if !cut_off && !rests {
                    return false;
                }
                let dirty = self.bitmap.regions().is_some_and(|one| one.dirty() > 0);
                let holds = self.bitmaps_hold();
                let dirty = dirty || !quiet || !self.may_write() || holds;
                let answer = Answer::Drained { dirty };
                self.shared_mut().answer(Desk::Door, answer);
                Drain::Over
            }
        };
        self.shared_mut().drain = Some(next);
        true
    }
}
