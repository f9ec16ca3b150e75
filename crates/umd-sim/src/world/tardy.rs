//! A stop that comes while superblocks are being written for something else.
//!
//! ```text
//!   last answer | a flag of a member is switched: a superblock takes long ------------| recorded
//!               |------ safe mode: the array may be called clean ---|
//!                                                                     | stop: bits go, and the
//!                                                                     | superblocks say clean
//! ```
//!
//! An administrator switches something as hosts end and the machine goes down: everything that the
//! array still has to write meets its stop. It is as clean afterwards as after any other.

use umd_core::array::ArrayState;
use umd_core::value::Span;

use super::{Ev, World};
use crate::disk::Power;
use crate::monitor::Verdict;
use crate::options::Marks;
use crate::rng::{Rng, Stream};

const MILLISECOND: u64 = 1_000_000;

impl World<'_> {
    /// Hosts are done. Whether what comes now is a flag, and a stop in the middle of it.
    pub(super) fn is_tardy(&mut self) -> bool {
        let drawn = self.options.rare.tardy && self.program.is_none() && !self.is_last_boot();
        drawn && self.live().status.state == ArrayState::Active && self.is_sound(0)
    }

    /// Nothing is owed, nothing went wrong, and no more than `asked` is to be done for an
    /// administrator: a stop leaves all clean.
    fn is_sound(&mut self, asked: usize) -> bool {
        let holes = self.has_holes();
        let live = self.live();
        let more = live.read_only || live.frozen || live.admin.len() > asked;
        let well = |disk: &usize| {
            let disk = &self.disks[*disk];
            disk.power() == Power::On && disk.damaged().is_empty() && disk.worn().is_empty()
        };
        let disks = live.members.values().chain(&self.file).all(well);
        let bits = live
            .status
            .bitmap
            .as_ref()
            .is_some_and(|b| b.fault.is_none());
        let plain = bits && self.options.marks == Marks::Bits && !holes;
        let calm = live.whole && !more && !self.is_syncing() && !self.atlas.exceeded();
        plain && calm && disks
    }

    /// The flag, and the disk that takes long to record it.
    pub(super) fn begin_tardily(&mut self) -> Verdict {
        let mut rng = Rng::new(self.options.seed, Stream::Tardy(self.boot));
        let disks: Vec<usize> = self.in_sync().into_iter().map(|(_, disk)| disk).collect();
        let disk = rng.pick(&disks);
        let mut members = self.live().members.iter();
        let found = members.find(|(_, there)| **there == disk);
        let member = *found.expect("a member lies there").0;
        let request = self.switch_fast(member);
        self.record_action(request);
        self.ask(request)?;
        if !self.disks[disk].is_armed() {
            self.hang_next(disk, Span(rng.range(300, 2000) * MILLISECOND));
        }
        self.after(rng.range(205, 299) * MILLISECOND, Ev::Halt);
        Ok(())
    }

    /// The array is stopped, if nothing has come between.
    pub(super) fn halt(&mut self) -> Verdict {
        if !self.live().phase.is_work() {
            return Ok(());
        }
        match self.is_sound(1) {
            true => self.stop(true),
            false => self.end_work(),
        }
    }
}
