//! A source that a rebuild does without, just in time.
//!
//! ```text
//!   rebuild  ======================|  recorded
//!   write         |----------- the source takes long over it ------x  the source vanishes
//!                                                                  who was rebuilt holds it
//! ```
//!
//! Members that a rebuild copies from are the array's last while it runs, so nothing else that
//! stays within redundancy strikes them with a write under way that began before its end.

use umd_core::array::{IoOp, MemberIo, Purpose};
use umd_core::sync::SyncAction;
use umd_core::value::{IoId, Span};

use super::{Ev, World};
use crate::monitor::Verdict;
use crate::options::Fault;
use crate::rng::{Rng, Stream};

const MILLISECOND: u64 = 1_000_000;

/// The write that takes long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lingering {
    disk: usize,
    io: IoId,
}

impl World<'_> {
    /// A member I/O is about to be submitted to a disk: it may be the one that takes long.
    pub(super) fn linger(&mut self, io: &MemberIo, disk: usize) {
        let drawn = self.options.rare.late && self.program.is_none();
        let IoOp::Write { offset_sectors, .. } = &io.op else {
            return;
        };
        if !drawn
            || self.live().lingering.is_some()
            || io.purpose != Purpose::Data
            || !self.live().phase.is_work()
        {
            return;
        }
        let sync = self.live().status.sync.as_ref();
        let Some(sync) = sync.filter(|sync| sync.action == SyncAction::Recover) else {
            return;
        };
        // What is still to be copied there would wait for the write.
        let (done, half) = (sync.done_sectors, sync.total_sectors / 2);
        let source = self.in_sync().into_iter().find(|(_, held)| *held == disk);
        let Some((slot, _)) = source.filter(|_| done >= half) else {
            return;
        };
        let copied = *offset_sectors < self.data_offset(slot) + done;
        if !copied || !self.may_break(Fault::Hiccup, disk) {
            return;
        }
        let mut rng = Rng::new(self.options.seed, Stream::Late(self.boot));
        let span = Span(rng.range(200, 3000) * MILLISECOND);
        self.hang_next(disk, span);
        self.live_mut().lingering = Some(Lingering { disk, io: io.io });
    }

    /// A member is whole. If a write takes long, its disk vanishes once that is recorded.
    pub(super) fn was_activated(&mut self) {
        if self.live().lingering.is_some() {
            self.after(MILLISECOND, Ev::Late);
        }
    }

    pub(super) fn comes_late(&mut self) -> Verdict {
        let Some(Lingering { disk, io }) = self.live().lingering else {
            return Ok(());
        };
        let live = self.live();
        if !live.ios.contains_key(&io) || !live.phase.is_work() {
            self.live_mut().lingering = None;
        } else if self.is_recorded() {
            self.live_mut().lingering = None;
            self.strike_disk(Fault::Gone, disk);
        } else {
            self.after(MILLISECOND, Ev::Late);
        }
        Ok(())
    }
}
