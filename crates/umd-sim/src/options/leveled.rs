//! Arrays that become others.

use super::{Action, Ending, Fault, LIES, Options, Trigger};
use crate::rng::{Rng, Stream, mix};

impl Options {
    /// All disks.
    pub fn disks(&self) -> usize {
        self.disk_sectors.len()
    }

    /// Whether the array of this seed can become another one, or is asked to: with metadata 0.90 it
    /// keeps its level and layout.
    pub fn has_levels(&self) -> bool {
        matches!(self.level, 0 | 4..=6) && !self.rare.alone
    }

    /// Level and layout change while hosts are at work, members fail and the power goes. Arrays
    /// that cannot become others stay as they are.
    pub fn change_levels(&mut self) {
        if !self.has_levels() {
            return;
        }
        let rng = &mut Rng::new(mix(self.seed), Stream::Levels);
        self.rare.levels = true;
        self.actions.insert(Action::Level);
        self.actions_per_boot += rng.range(3, 8);
        if rng.permille(700) {
            // A resync comes first else, and most boots are short.
            (self.assume_clean, self.old_disks) = (self.missing == 0, false);
        }
        self.give_room(rng);
        self.be_mild();
        if rng.permille(500) {
            self.drawer += 1;
            let (sectors, latency) = (self.disk_sectors[0], self.latency[0]);
            self.disk_sectors.push(sectors);
            self.latency.push(latency);
            self.actions.insert(Action::Add);
        }
        if self.level == 0 && rng.coin() {
            // Nothing fails in a raid0; in what it becomes something may.
            self.faults
                .insert(rng.pick(&[Fault::Gone, Fault::WriteError]));
        }
        if rng.permille(600) {
            self.cut_amid(rng);
        }
        if self.level > 0 && rng.permille(200) {
            self.faults.insert(rng.pick(&LIES));
        }
        if rng.permille(300) {
            self.forks.images = self.forks.images.max(2);
            self.forks.splits = rng.range(1, 3);
        }
    }

    /// Members have room to move their data, of one chunk or some, and use equally much.
    fn give_room(&mut self, rng: &mut Rng) {
        if !self.chunk_sectors.is_power_of_two() {
            self.chunk_sectors = 8;
        }
        let chunk = u64::from(self.chunk_sectors);
        let even = self.level == 0 || rng.permille(700);
        let most = self.disk_sectors.iter().copied().max().unwrap_or(0);
        let rows = chunk * rng.pick(&[1, 1, 2, 3, 8]);
        for sectors in &mut self.disk_sectors {
            if even {
                *sectors = most;
            }
            *sectors += rows;
        }
        if self.minor == 0 && rng.permille(800) {
            (self.minor, self.data_offset_sectors) = (2, Some(64));
        }
        if let Some(offset) = &mut self.data_offset_sectors {
            *offset += rows;
        }
    }

    /// What would make more than redundancy covers of a reshape, or hide what it does.
    fn be_mild(&mut self) {
        for lie in LIES.into_iter().chain([Fault::Worn]) {
            self.faults.remove(&lie);
        }
        // Members with bad blocks keep an array from being reshaped.
        self.logged = self.logged.map(|_| 0);
    }

    /// Boots that end amid it: after so many answers, or so many superblocks.
    fn cut_amid(&mut self, rng: &mut Rng) {
        let last = self.boots.pop().expect("there is a last boot");
        let count = rng.range(2, 4);
        self.boots = (0..count)
            .map(|_| {
                let window_ns = rng.pick(&[0, 0, 1_000_000]);
                let ending = match rng.weighted(&[5, 2]) {
                    0 => Ending::PowerCut { window_ns },
                    _ => Ending::Kill,
                };
                let supers = rng.range(1, 30 * u64::from(self.slots));
                let answers = rng.range(1, 200);
                let trigger = match rng.weighted(&[2, 2, 3, 1]) {
                    0 => Trigger::Supers(supers),
                    1 => Trigger::Answers(answers),
                    2 => Trigger::SplitShape(rng.pick(&[1, 1, 2, 3, 5, 8])),
                    _ => Trigger::SplitMove(rng.range(1, 40)),
                };
                (ending, trigger)
            })
            .collect();
        self.boots.push(last);
    }
}
