//! Arrays that are laid to rest again and again, while hosts read what cannot be read.
//!
//! ```text
//!   asked to rest ---- superblocks are written ---- answered
//!            reads:  ....x.......x....x.....|  x mends what it found, or leaves it
//! ```

use std::collections::BTreeSet;

use super::{Action, Fault, Options};

impl Options {
    /// Arrays are suspended and made read-only again and again, while hosts read more than they
    /// write and sectors become unreadable; flushes are slow, and superblocks with them. Arrays of
    /// levels that have nothing to mend from stay as they are.
    pub fn rest_often(&mut self) {
        if self.level <= 0 || self.rare.alone {
            return;
        }
        // What cannot be had at all is looked for again and again, in smaller and smaller parts.
        self.beyond = false;
        self.rare.embedded = true;
        (self.actions, self.actions_per_boot) = (BTreeSet::from([Action::ReadOnly]), 8);
        self.faults = BTreeSet::from([Fault::Latent]);
        self.faults_per_boot = 12;
        self.workload.mix[0] = 2 * self.workload.mix[1];
        (self.workload.operations, self.workload.think_ns) = (100, 0);
        for disk in &mut self.latency {
            disk.flush_ns *= 8;
        }
    }
}
