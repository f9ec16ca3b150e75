//! Write-behind: a mirror answers before its write-mostly legs hold the data.
//!
//! ```text
//!   ordinary legs    |==write==|                    read of an ordinary leg: at once
//!   write-mostly leg |==write====================|  read of this leg, host flush: wait until
//!                              ^                 ^  nothing lags, and while one of them waits
//!                         the host is          landed   no write begins to lag
//!                          answered
//! ```
//!
//! Until it has landed (or its leg has failed) a write keeps the lock of its range, the bits of its
//! regions and the superblocks active: overlapping writes and sync units come after it, and a crash
//! leaves a region that is resynced from an ordinary leg. The limit never makes anybody wait: a
//! write beyond it is an ordinary one. Facts: bitmap.md section 8, seeds-glossary.md section 7.

use std::collections::{BTreeMap, VecDeque};

/// Data that lags at the most: without memory for more, writes are ordinary ones.
const BYTES_MAX: u64 = 64 << 20;

/// The writes that lag, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Behind {
    outstanding: u32,
    bytes: u64,
    /// By slot: writes that have not landed on its leg.
    legs: BTreeMap<u16, u32>,
    /// No write begins to lag.
    held_back: bool,
    /// Jobs: reads that only a write-mostly leg can serve, and flushes.
    waiting: VecDeque<u32>,
}

impl Behind {
    /// Whether a write of this length may begin to lag, with at most `limit` of them.
    pub fn has_room(&self, limit: u32, len_bytes: u64) -> bool {
        let room = self.outstanding < limit && self.bytes + len_bytes <= BYTES_MAX;
        room && self.waiting.is_empty() && !self.held_back
    }

    /// A write is handed to its members that may be answered before all of them hold it.
    pub fn begin(&mut self, len_bytes: u64) {
        assert!(self.waiting.is_empty(), "somebody waits for those before");
        self.outstanding += 1;
        self.bytes += len_bytes;
    }

    /// It landed, or its legs failed.
    pub fn end(&mut self, len_bytes: u64) {
        assert!(self.outstanding > 0, "a write landed that never lagged");
        self.outstanding -= 1;
        self.bytes -= len_bytes;
        assert!(self.outstanding > 0 || self.bytes == 0, "bytes of nobody");
    }

    /// From here on no write begins to lag, or they may again.
    pub fn hold_back(&mut self, held_back: bool) {
        self.held_back = held_back;
    }

    /// A write that may lag is on its way to this leg.
    pub fn sent(&mut self, slot: u16) {
        assert!(self.outstanding > 0, "a write that was not counted");
        *self.legs.entry(slot).or_default() += 1;
    }

    /// It landed there, or the leg failed.
    pub fn landed(&mut self, slot: u16) {
        let left = self.legs.get_mut(&slot).expect("it was sent there");
        *left -= 1;
        if *left == 0 {
            self.legs.remove(&slot);
        }
    }

    /// Whether something may lag on this leg, whoever is the member there by now.
    pub fn lags_on(&self, slot: u16) -> bool {
        self.legs.contains_key(&slot)
    }

    /// Writes that may lag.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// The job goes on when nothing lags any more.
    pub fn wait(&mut self, job: u32) {
        assert!(self.outstanding > 0, "nothing to wait for");
        assert!(!self.waiting.contains(&job), "a job waits once");
        self.waiting.push_back(job);
    }

    /// Who waits.
    pub fn waiting(&self) -> impl Iterator<Item = u32> + '_ {
        self.waiting.iter().copied()
    }

    /// Who waited, once nothing lags.
    pub fn take_ready(&mut self) -> VecDeque<u32> {
        match self.outstanding {
            0 => std::mem::take(&mut self.waiting),
            _ => VecDeque::new(),
        }
    }

    /// What must hold between two events.
    pub fn check(&self) {
        let idle = self.outstanding == 0;
        assert!(!idle || self.waiting.is_empty(), "who can go on goes on");
        assert_eq!(idle, self.bytes == 0, "what lags has a length");
        assert!(!idle || self.legs.is_empty(), "lags without being counted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_one_of_number_and_of_bytes() {
        let mut behind = Behind::default();
        assert!(!behind.has_room(0, 512), "off");
        behind.begin(512);
        assert!(!behind.has_room(1, 512), "one of one");
        assert!(behind.has_room(2, BYTES_MAX - 512));
        assert!(!behind.has_room(2, BYTES_MAX), "no buffer to be had");
        behind.end(512);
        assert!(behind.has_room(1, BYTES_MAX));
    }

    #[test]
    fn nothing_begins_to_lag_while_somebody_waits() {
        let mut behind = Behind::default();
        behind.begin(512);
        behind.wait(7);
        assert!(!behind.has_room(9, 512));
        assert!(behind.take_ready().is_empty());
        behind.end(512);
        assert_eq!(behind.take_ready(), [7]);
        assert!(behind.has_room(9, 512));
    }

    #[test]
    #[should_panic(expected = "who can go on goes on")]
    fn whoever_waits_for_nothing_is_noticed() {
        let mut behind = Behind::default();
        behind.begin(512);
        behind.wait(7);
        behind.check();
        behind.end(512);
        behind.check();
    }
}
