//! Mirrors that crashes find half written and half rebuilt.
//!
//! ```text
//!   in sync   |######w#########################|   w: under way when the power went
//!   rebuilt   |######.####|....................|
//!                         ^ recorded, and kept there by limits
//! ```

use std::collections::BTreeSet;

use super::{Action, Ending, Fault, Forks, Marks, OLD, Options, Trigger};
use crate::rng::{Rng, Stream, mix};

impl Options {
    /// One mirror of sixteen begins with a member that has been rebuilt in part; how far that goes
    /// is changed all the time, until the power goes.
    pub(super) fn draw_halfway(&mut self, rng: &mut Rng) {
        if self.has_room_for_halves() && rng.permille(60) {
            self.cut_often(rng);
            self.begin_half_way(rng);
        }
    }

    fn has_room_for_halves(&self) -> bool {
        let plain = self.marks == Marks::Bits && !self.rare.alone && self.logged.is_none();
        let whole = self.missing == 0 && self.minor != OLD;
        matches!(self.level, 1 | 10) && plain && whole
    }

    fn begin_half_way(&mut self, rng: &mut Rng) {
        (self.assume_clean, self.old_disks, self.limits) = (true, false, true);
        self.rare.begun_sectors = 8 * rng.range(1, 50);
        let answers = rng.range(1, 12);
        self.boots[0].1 = Trigger::Answers(answers);
    }

    /// The power goes twice before the last boot.
    fn cut_often(&mut self, rng: &mut Rng) {
        let last = self.boots.pop().expect("there is a last boot");
        let mut cut = || {
            let window_ns = rng.pick(&[0, 1_000_000]);
            let answers = rng.range(5, 60);
            (Ending::PowerCut { window_ns }, Trigger::Answers(answers))
        };
        self.boots = vec![cut(), cut(), last];
    }

    /// A mirror whose power goes often, while it is rebuilt, or while members fail or wear out, and
    /// whose hosts are busy in few places. Other levels stay as they are.
    pub fn halve(&mut self) {
        if !matches!(self.level, 1 | 10) || self.rare.alone || self.beyond {
            return;
        }
        let rng = &mut Rng::new(mix(self.seed), Stream::Halfway);
        self.forks = Forks::default();
        self.cut_often(rng);
        (self.workload.clients, self.workload.operations) = (4, 100);
        (self.workload.hot_sectors, self.workload.disjoint) = (64, false);
        self.faults = BTreeSet::from([Fault::Hiccup]);
        if self.has_room_for_halves() && rng.permille(500) {
            return self.begin_half_way(rng);
        }
        if ![0, OLD].contains(&self.minor) && self.missing == 0 && rng.permille(500) {
            self.logged = self.logged.or(Some(0));
            self.faults = BTreeSet::from([Fault::Worn]);
            self.faults_per_boot = 6;
            return;
        }
        self.actions = BTreeSet::from([Action::Fail, Action::ReAdd]);
        self.actions_per_boot = 8;
    }
}
