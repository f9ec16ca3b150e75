//! Rebuilds that a crash finds half way.
//!
//! ```text
//!   in sync   |################################|
//!   rebuilt   |###########|....................|     limits keep it there, and the power goes
//!                         ^ recorded
//! ```

use super::{Ending, Marks, Options, Trigger};
use crate::rng::Rng;

impl Options {
    /// One mirror of sixteen begins with a member that is to be rebuilt, and how far that goes is
    /// changed all the time, until the power goes.
    pub(super) fn draw_halfway(&mut self, rng: &mut Rng) {
        let plain = self.marks == Marks::Bits && !self.rare.alone && self.logged.is_none();
        let more = self.spares + self.drawer;
        let mirror = matches!(self.level, 1 | 10);
        if !mirror || !plain || more == 0 || !rng.permille(120) {
            return;
        }
        (self.missing, self.spares, self.drawer) = (1, 1, more - 1);
        (self.assume_clean, self.limits) = (false, true);
        let last = self.boots.pop().expect("there is a last boot");
        let mut cut = || {
            let window_ns = rng.pick(&[0, 1_000_000]);
            let answers = rng.range(5, 60);
            (Ending::PowerCut { window_ns }, Trigger::Answers(answers))
        };
        self.boots = vec![cut(), cut()];
        self.boots.push(last);
    }
}
