//! Exclusive locks on ranges of member data sectors.
//!
//! ```text
//!   held:     [====A====)      [==B==)
//!   waiting:       [==C==)  [=======D=======)     C waits for A; D for B, and behind nobody else
//! ```
//!
//! Whoever changes redundant data, or computes one column from others, holds the range it looks at.
//! Waiters are served in order where they overlap, so nobody starves; nobody waits while holding.
//!
//! Nearly all ranges are short, and every write has one: they lie in buckets by where they begin,
//! of as many sectors as a short one has at most, so that one reaches into the next bucket at most.

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use crate::value::UnitId;

/// Who wants a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A job of the lane.
    Job(u32),
    /// A unit of the sync machine.
    Unit(UnitId),
}

/// A range that was asked for: where it begins, and which it is of those that begin there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockId {
    start: u64,
    number: u64,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: LockId,
    start: u64,
    end: u64,
    holder: Holder,
}

impl Wanted {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }
}

/// For exhibits that forget to lock: they lock what lies this far behind.
pub const NOWHERE: u64 = 1 << 50;

/// Ranges up to this length lie in buckets.
const SHORT_SECTORS: u64 = 2048;
const BUCKETS: u64 = 64;

/// Short ranges: which, and where they end.
#[derive(Debug)]
struct Short {
    buckets: Vec<SmallVec<[(LockId, u64); 2]>>,
    count: usize,
}

impl Default for Short {
    fn default() -> Short {
        let buckets = (0..BUCKETS).map(|_| SmallVec::new()).collect();
        Short { buckets, count: 0 }
    }
}

impl Short {
    fn bucket(start: u64) -> usize {
        (start / SHORT_SECTORS % BUCKETS) as usize
    }

    fn insert(&mut self, id: LockId, end: u64) {
        assert!(end - id.start <= SHORT_SECTORS, "others would not find it");
        self.buckets[Short::bucket(id.start)].push((id, end));
        self.count += 1;
    }

    fn remove(&mut self, id: LockId) -> bool {
        let bucket = &mut self.buckets[Short::bucket(id.start)];
        let found = bucket.iter().position(|(one, _)| *one == id);
        if let Some(index) = found {
            bucket.swap_remove(index);
            self.count -= 1;
        }
        found.is_some()
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        let first = start.saturating_sub(SHORT_SECTORS) / SHORT_SECTORS;
        let numbers = first..=(end - 1) / SHORT_SECTORS;
        let hit = |(id, until): &(LockId, u64)| id.start < end && start < *until;
        match numbers.end() - first < BUCKETS {
            true => numbers
                .map(|number| &self.buckets[(number % BUCKETS) as usize])
                .any(|bucket| bucket.iter().any(hit)),
            false => self.iter().any(hit),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &(LockId, u64)> {
        self.buckets.iter().flatten()
    }
}

/// The locks of one lane.
#[derive(Debug, Default)]
pub struct RangeLocks {
    sequence: u64,
    held: Short,
    /// Where each of them ends.
    held_long: BTreeMap<LockId, u64>,
    waiting: VecDeque<Wanted>,
}

impl RangeLocks {
    /// Asks for `start..end`. `true`: it is held now; otherwise a later `release` grants it.
    pub fn acquire(&mut self, holder: Holder, start: u64, end: u64) -> (LockId, bool) {
        assert!(start < end, "an empty range needs no lock");
        self.sequence += 1;
        let wanted = Wanted {
            id: LockId {
                start,
                number: self.sequence,
            },
            start,
            end,
            holder,
        };
        let behind = self.waiting.iter().any(|w| w.overlaps(start, end));
        if behind || self.is_held(start, end) {
            self.waiting.push_back(wanted);
            return (wanted.id, false);
        }
        self.hold(&wanted);
        (wanted.id, true)
    }

    /// Gives a held range back, or withdraws a waiting one. Returns who holds theirs now.
    pub fn release(&mut self, id: LockId) -> Vec<Holder> {
        let short = self.held.remove(id);
        let long = !self.held_long.is_empty() && self.held_long.remove(&id).is_some();
        assert!(!(short && long), "a held range stands in one table");
        if !short && !long {
            let before = self.waiting.len();
            self.waiting.retain(|w| w.id != id);
            assert!(self.waiting.len() < before, "a lock is released once");
        }
        if self.waiting.is_empty() {
            Vec::new()
        } else {
            self.grant()
        }
    }

    fn grant(&mut self) -> Vec<Holder> {
        let mut granted = Vec::new();
        let mut still: VecDeque<Wanted> = VecDeque::with_capacity(self.waiting.len());
        for wanted in std::mem::take(&mut self.waiting) {
            let behind = still.iter().any(|w| w.overlaps(wanted.start, wanted.end));
            if behind || self.is_held(wanted.start, wanted.end) {
                still.push_back(wanted);
            } else {
                self.hold(&wanted);
                granted.push(wanted.holder);
            }
        }
        self.waiting = still;
        granted
    }

    fn hold(&mut self, wanted: &Wanted) {
        if wanted.end - wanted.start <= SHORT_SECTORS {
            return self.held.insert(wanted.id, wanted.end);
        }
        let before = self.held_long.insert(wanted.id, wanted.end);
        assert!(before.is_none(), "a range is granted once");
    }

    /// Whether somebody holds a part of a range.
    pub fn is_held(&self, start: u64, end: u64) -> bool {
        let mut long = self.held_long.iter();
        self.held.overlaps(start, end)
            || long.any(|(id, held_end)| id.start < end && start < *held_end)
    }

    /// Ranges held.
    pub fn held(&self) -> usize {
        self.held.count + self.held_long.len()
    }

    /// Ranges waited for.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether these ranges, by their starts, share nothing.
    fn are_apart(mut ranges: impl Iterator<Item = (u64, u64)>) -> bool {
        let mut free_from = 0;
        ranges.all(|(start, end)| start >= std::mem::replace(&mut free_from, end))
    }

    /// What must hold at any moment: nobody shares a sector, and whoever waits has somebody to
    /// wait for.
    pub fn check(&self) {
        let range = |(id, end): (&LockId, u64)| {
            assert!(id.start < end, "a lock has its range");
            (id.start, end)
        };
        let short = self.held.iter().map(|(id, end)| range((id, *end)));
        let long = self.held_long.iter().map(|(id, end)| range((id, *end)));
        let mut held: Vec<(u64, u64)> = short.chain(long).collect();
        assert_eq!(held.len(), self.held(), "each is counted");
        held.sort_unstable();
        let apart = RangeLocks::are_apart(held.into_iter());
        assert!(apart, "two hold the same sector");
        for (index, wanted) in self.waiting.iter().enumerate() {
            let mut before = self.waiting.iter().take(index);
            let behind = before.any(|w| w.overlaps(wanted.start, wanted.end));
            let blocked = behind || self.is_held(wanted.start, wanted.end);
            assert!(blocked, "{:?} waits for nobody", wanted.holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_waits_in_order() {
        let mut locks = RangeLocks::default();
        let (a, held) = locks.acquire(Holder::Job(1), 0, 8);
        assert!(held);
        let (b, held) = locks.acquire(Holder::Job(2), 4, 12);
        assert!(!held);
        assert!(
            !locks.acquire(Holder::Job(3), 10, 16).1,
            "behind 2, though nobody holds it"
        );
        assert!(locks.acquire(Holder::Unit(UnitId::Run(4)), 16, 20).1);
        assert_eq!(locks.release(a), [Holder::Job(2)]);
        assert_eq!(locks.release(b), [Holder::Job(3)]);
    }

    #[test]
    fn long_ranges_exclude_short_ones_within() {
        let mut locks = RangeLocks::default();
        let (long, held) = locks.acquire(Holder::Job(1), 0, 1 << 30);
        assert!(held);
        assert!(!locks.acquire(Holder::Job(2), 1 << 20, (1 << 20) + 8).1);
        assert_eq!(locks.release(long), [Holder::Job(2)]);
        assert!(!locks.acquire(Holder::Job(3), 0, 1 << 30).1);
    }

    #[test]
    fn a_short_range_is_found_from_the_bucket_behind_it_and_from_far_away() {
        let mut locks = RangeLocks::default();
        let sectors = SHORT_SECTORS;
        let end = |start: u64| (start, start + sectors);
        let (start, until) = end(sectors - 1);
        assert!(locks.acquire(Holder::Job(1), start, until).1);
        assert!(locks.is_held(until - 1, until));
        assert!(locks.is_held(0, start + 1) && !locks.is_held(0, start));
        assert!(
            locks.is_held(0, sectors * BUCKETS * 3),
            "all buckets, and more"
        );
        // In the same bucket, and somewhere else.
        let far = start + sectors * BUCKETS;
        assert!(!locks.is_held(far, far + 8));
        assert!(locks.acquire(Holder::Job(2), far, far + 8).1);
        assert!(!locks.acquire(Holder::Job(3), until - 1, until + 1).1);
        assert!(locks.acquire(Holder::Job(4), until + 1, until + 2).1);
        locks.check();
    }

    /// Against a plain list: the same ranges are granted at the same time.
    #[test]
    fn buckets_say_what_a_list_would() {
        let mut seed = 1_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut short, mut list) = (Short::default(), Vec::<(LockId, u64)>::new());
        for number in 0..20_000 {
            let start = draw(400_000);
            let end = start + 1 + draw(SHORT_SECTORS);
            let wide = start + 1 + draw(300_000);
            for until in [end, wide] {
                let hit = |(id, held): &(LockId, u64)| id.start < until && start < *held;
                assert_eq!(short.overlaps(start, until), list.iter().any(hit));
            }
            if !short.overlaps(start, end) {
                let id = LockId { start, number };
                short.insert(id, end);
                list.push((id, end));
            }
            if list.len() > 40 {
                let (id, _) = list.swap_remove(draw(40) as usize);
                assert!(short.remove(id) && !short.remove(id));
            }
            assert_eq!(short.count, list.len());
        }
    }

    #[test]
    fn a_waiter_can_withdraw() {
        let mut locks = RangeLocks::default();
        let (a, _) = locks.acquire(Holder::Job(1), 0, 8);
        let (b, _) = locks.acquire(Holder::Job(2), 0, 8);
        locks.acquire(Holder::Job(3), 0, 8);
        assert_eq!(locks.release(b), []);
        assert_eq!(locks.release(a), [Holder::Job(3)]);
        assert_eq!((locks.held(), locks.waiting()), (1, 0));
    }

    #[test]
    fn ranges_are_apart_that_share_no_sector() {
        let apart = |ranges: &[(u64, u64)]| RangeLocks::are_apart(ranges.iter().copied());
        assert!(apart(&[]) && apart(&[(5, 9)]) && apart(&[(0, 5), (5, 9), (20, 30)]));
        assert!(!apart(&[(0, 6), (5, 9)]) && !apart(&[(0, 1), (3, 5), (4, 5)]));
    }

    #[test]
    fn a_long_range_and_one_beside_it_do_not_wait_for_each_other() {
        let mut locks = RangeLocks::default();
        let (start, end) = (1 << 20, 1 << 30);
        assert!(locks.acquire(Holder::Job(1), start, end).1);
        assert!(locks.acquire(Holder::Job(2), start - 8, start).1);
        assert!(locks.acquire(Holder::Job(3), end, end + 8).1);
        assert!(locks.acquire(Holder::Job(4), end + 8, 1 << 40).1);
        assert!(!locks.acquire(Holder::Job(5), end - 1, end).1);
        assert!(!locks.acquire(Holder::Job(6), start - 1, start + 1).1);
        locks.check();
    }
}
