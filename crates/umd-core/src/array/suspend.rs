//! A range of the array that hosts do not write for a while (md's `suspend_lo`, `suspend_hi`).
//!
//! ```text
//!   ..............[lo ~~~~~~~~~~~~~~ hi)..............     reads, flushes: pass
//!        write           write  --> waits                 writes that touch it: wait
//!        passes                                           until it is moved away, or a stop
//! ```
//!
//! Whoever sets it is answered when no write that was begun before is under way in it: from then
//! on what is there stays as it is. A write that waits has changed nothing, not even the
//! superblocks; it is looked at anew when it goes on. Nothing of this is recorded.

use super::engine::Array;
use crate::value::{ControlId, ControlReply, Instant, Request, RequestOp};

/// The range, and who waits because of it.
#[derive(Debug, Default)]
pub(super) struct Suspension {
    lo_sectors: u64,
    hi_sectors: u64,
    /// Writes, in the order they came in, with when that was.
    waiting: Vec<(Instant, Request)>,
    /// Administrators, who wait until the range is at rest.
    asked: Vec<ControlId>,
    /// The range has changed since waiting writes were looked at.
    moved: bool,
}

impl Suspension {
    /// Its bounds; where the first is not below the second, nothing is suspended.
    pub fn bounds(&self) -> (u64, u64) {
        (self.lo_sectors, self.hi_sectors)
    }

    /// Writes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn covers(&self, offset_sectors: u64, len_sectors: u64) -> bool {
        let empty = self.lo_sectors >= self.hi_sectors;
        let end = offset_sectors.saturating_add(len_sectors);
        !empty && offset_sectors < self.hi_sectors && self.lo_sectors < end
    }

    fn set(&mut self, lo_sectors: u64, hi_sectors: u64) {
        (self.lo_sectors, self.hi_sectors) = (lo_sectors, hi_sectors);
        self.moved = true;
    }
}

impl Array {
    /// Whether this is a write that would be taken, were it not for the range.
    fn is_suspended(&self, op: &RequestOp) -> bool {
        let inside = |(at, len)| self.suspension.covers(at, len);
        let kept_out = self.read_only && !self.read_auto;
        op.extent().is_some_and(inside) && self.would_write(op) && !kept_out
    }

    /// Keeps a request that has to wait; otherwise it is given back.
    pub(super) fn suspend(&mut self, came: Instant, request: Request) -> Option<Request> {
        if !self.is_suspended(&request.op) {
            return Some(request);
        }
        self.suspension.waiting.push((came, request));
        None
    }

    /// An administrator moves a bound, or both.
    pub(super) fn control_suspend(&mut self, id: ControlId, lo: Option<u64>, hi: Option<u64>) {
        let (lo_now, hi_now) = self.suspension.bounds();
        let bounds = (lo.unwrap_or(lo_now), hi.unwrap_or(hi_now));
        self.suspension.set(bounds.0, bounds.1);
        self.suspension.asked.push(id);
    }

    /// Nothing is suspended any more: the array is to stop, and what waits comes before that.
    pub(super) fn lift_suspension(&mut self) {
        self.suspension.set(0, 0);
        self.resume_suspended();
    }

    fn resume_suspended(&mut self) {
        self.suspension.moved = false;
        for (came, request) in std::mem::take(&mut self.suspension.waiting) {
            self.request_again(came, request);
        }
    }

    /// Lets writes go on, and answers who has set the range. Returns whether anything changed.
    pub(super) fn maintain_suspension(&mut self) -> bool {
        let refused = self.broken.is_some() && self.suspension.waiting() > 0;
        let resumes = self.suspension.moved || refused;
        if resumes {
            self.resume_suspended();
        }
        let (lo, hi) = self.suspension.bounds();
        if self.suspension.asked.is_empty() || self.lane.writes_within(lo, hi) {
            return resumes;
        }
        for id in std::mem::take(&mut self.suspension.asked) {
            self.answer(id, Ok(ControlReply::Done));
        }
        true
    }

    /// Who waits has a reason to.
    pub(super) fn check_suspension(&self) {
        let mut waiting = self.suspension.waiting.iter();
        let all =
            waiting.all(|(_, request)| self.is_suspended(&request.op) || self.holds_all_back());
        assert!(all, "a write waits that could go on");
        assert!(!self.suspension.moved, "a range that moved was looked at");
    }

    /// What waits is told how things are once this is over.
    fn holds_all_back(&self) -> bool {
        self.stopping.is_some() || self.read_only
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shares_a_sector_with_the_range_waits() {
        let mut range = Suspension::default();
        assert!(!range.covers(0, u64::MAX), "nothing is suspended");
        range.set(16, 24);
        for (at, len, covered) in [
            (0, 16, false),
            (0, 17, true),
            (16, 1, true),
            (23, 1, true),
            (24, 8, false),
            (8, 64, true),
            (20, u64::MAX, true),
        ] {
            assert_eq!(range.covers(at, len), covered, "{at}+{len}");
        }
        for (lo, hi) in [(24, 24), (24, 16)] {
            range.set(lo, hi);
            assert!(!range.covers(0, 64), "{lo}..{hi} is empty");
        }
    }
}
