//! Members that are replaced while they serve.

use std::collections::BTreeSet;

use super::{Action, Fault, Options};

impl Options {
    /// Members are replaced again and again, while writes and flushes fail. Arrays of levels that
    /// have nothing to replace a member from stay as they are.
    pub fn replace_often(&mut self) {
        if self.level <= 0 || self.rare.alone {
            return;
        }
        if self.spares + self.drawer == 0 {
            self.drawer = 1;
            let (sectors, latency) = (self.disk_sectors[0], self.latency[0]);
            self.disk_sectors.push(sectors);
            self.latency.push(latency);
        }
        (self.actions, self.actions_per_boot) = (BTreeSet::from([Action::Replace]), 8);
        self.faults = BTreeSet::from([Fault::FlushError, Fault::WriteError]);
        self.faults_per_boot = 6;
    }
}
