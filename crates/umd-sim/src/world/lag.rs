//! What write-behind may lose, and nothing else: a write that was answered, that no flush covered,
//! and that had not landed on the write-mostly members when the process or the machine died; and
//! that only if afterwards no other member can give it, because it is lost or cannot be read there.
//!
//! ```text
//!   running  --crash--> lagged --all members hold it--> forgotten
//!                          `--ordinary members are lost--> the old version may come back
//! ```

use std::collections::BTreeSet;

use umd_core::array::Purpose;

use super::World;
use crate::disk::{Power, Write};
use crate::stamp::{SECTOR, recognise};

static ZERO: [u8; SECTOR] = [0; SECTOR];

impl World<'_> {
    /// The process dies: what lags may never land.
    pub(super) fn note_lagging(&mut self) {
        if self.options.write_behind == 0 {
            return;
        }
        let mut lagged = BTreeSet::new();
        for (slot, disk) in self.in_sync() {
            let offset = self.data_offset(slot);
            let of_the_host = |purpose| purpose == Purpose::Data;
            for write in self.disks[disk].writes_in_flight() {
                let range = write.offset_sectors..write.end_sectors();
                let answered = range.filter(|at| {
                    let content = recognise(write.content(*at).unwrap_or(&ZERO));
                    of_the_host(write.purpose) && self.oracle.is_answered(at - offset, content)
                });
                lagged.extend(answered.map(|at| at - offset));
            }
        }
        self.oracle.lags(lagged);
        self.let_go(true);
    }

    /// Something breaks: what lagged when a process died may be lost where no member that is left
    /// surely holds it.
    pub(super) fn let_go_of_unlanded(&mut self) {
        self.let_go(false);
    }

    /// `dying`: what is on its way now may not land.
    fn let_go(&mut self, dying: bool) {
        let lagged = self.oracle.take_lagged();
        if lagged.is_empty() {
            return;
        }
        let places: Vec<(u64, usize)> = self
            .in_sync()
            .iter()
            .map(|(slot, disk)| (self.data_offset(*slot), *disk))
            .collect();
        let holds = |sector: u64, (offset, disk): &(u64, usize)| {
            let at = offset + sector;
            let disk = &self.disks[*disk];
            let current = |bytes: Option<&[u8]>| {
                let content = recognise(bytes.unwrap_or(&ZERO));
                self.oracle.is_current(sector, content)
            };
            let coming = |write: &Write| {
                let covers = write.offset_sectors <= at && at < write.end_sectors();
                covers && current(write.content(at))
            };
            // What cannot be read takes the block around it along.
            let block = (at - offset).saturating_sub(7) + offset..at + 8;
            let readable = disk.damaged().range(block).next().is_none();
            let there = readable && current(disk.visible(at));
            there || !dying && disk.writes_in_flight().any(|write| coming(write))
        };
        // A flush makes durable what a member holds, not what a resync has yet to bring it.
        let durable = |sector: u64, (offset, disk): &(u64, usize)| {
            let kept = self.disks[*disk].durable().sector(offset + sector);
            self.oracle.is_current(sector, recognise(kept))
        };
        let sound = |(_, disk): &&(u64, usize)| {
            !self.atlas.doomed.contains(disk) && self.disks[*disk].power() == Power::On
        };
        let (mut kept, mut lost) = (BTreeSet::new(), Vec::new());
        for sector in lagged {
            let here = |place: &(u64, usize)| holds(sector, place);
            if !places.iter().filter(sound).any(here) {
                lost.push(sector);
            } else if !places.iter().all(|place| durable(sector, place)) {
                kept.insert(sector);
            }
        }
        self.oracle.lags(kept);
        lost.into_iter()
            .for_each(|sector| self.oracle.unlanded(sector));
    }
}
