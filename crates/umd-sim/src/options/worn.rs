//! Disks that wear out.
//!
//! ```text
//!   disk   |......xx........x......|   x keeps what it has, and takes no data any more
//!   log    |      xx               |   as soon as a write of it was refused
//! ```

use super::{Fault, MANY_RANGES, OLD, Options};
use crate::rng::Rng;

impl Options {
    /// One array of five has members that take no data somewhere, and logs to say so.
    pub(super) fn draw_worn(&mut self, rng: &mut Rng) {
        let room = ![0, OLD].contains(&self.minor) && self.missing == 0 && self.level > 0;
        if room && self.logged < Some(MANY_RANGES) && rng.permille(200) {
            self.logged = self.logged.or(Some(0));
            self.faults.insert(Fault::Worn);
            self.faults_per_boot += 2;
        }
    }
}
