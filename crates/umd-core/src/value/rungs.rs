//! How long writes stood on each rung of the ladder: durations counted by size, without a heap.
//!
//! ```text
//!   admit -> lock -> read -> gate: active, bitmap, faults -> write -> settle -> the answer
//!
//!   counts:  <= 4 us | <= 16 us | <= 64 us | ... four times that for each further one | more
//! ```

use super::{Instant, Span};

/// Buckets of a histogram, the last of them for everything longer.
pub const BUCKETS: usize = 13;

/// Durations, counted by size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many were in each bucket (not in all those below as well).
    pub counts: [u64; BUCKETS],
    /// All of them together.
    pub sum: Span,
}

impl Histogram {
    /// The upper bound of a bucket: 4 microseconds, and four times that for each further one.
    /// The last has none.
    pub const fn bound(bucket: usize) -> Option<Span> {
        if bucket + 1 < BUCKETS {
            Some(Span(1000 << (2 * (bucket + 1))))
        } else {
            None
        }
    }

    /// Counts one.
    pub fn add(&mut self, took: Span) {
        // The logarithm to the base of two, rounded up; two of them are one bucket.
        let micros = took.0.div_ceil(1000).max(1);
        let log = u64::BITS - (micros - 1).leading_zeros();
        let bucket = log.div_ceil(2).saturating_sub(1) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.sum = Span(self.sum.0.saturating_add(took.0));
    }

    /// Counts what another one has counted, too.
    pub fn take_in(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum = Span(self.sum.0.saturating_add(other.sum.0));
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Where a write can wait, in the order it climbs. What is asked of members between two rungs
/// is told by the driver, who carries it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Before it is looked at: its range is suspended, or the bitmap is being changed.
    Admit,
    /// Held for the rest of its row, or behind whoever overlaps. Each part of a write locks.
    Lock,
    /// Old data and parity are being read. Only parts that need some.
    Read,
    /// With all it needs, until superblocks say active.
    Active,
    /// With all it needs, until its bits are durable.
    Bitmap,
    /// With all it needs, until every known failure is recorded.
    Faults,
    /// Members are being written. Each part of a write.
    Write,
    /// All of it is over, until it may be answered.
    Settle,
}

/// All rungs with their words, in the order they are climbed.
pub const RUNGS: [(Rung, &str); 8] = [
    (Rung::Admit, "admit"),
    (Rung::Lock, "lock"),
    (Rung::Read, "read"),
    (Rung::Active, "active"),
    (Rung::Bitmap, "bitmap"),
    (Rung::Faults, "faults"),
    (Rung::Write, "write"),
    (Rung::Settle, "settle"),
];

/// Times on all rungs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rungs {
    /// In the order of [`RUNGS`].
    pub times: [Histogram; RUNGS.len()],
}

impl Rungs {
    /// A write left this rung, on which it had stood since then.
    pub fn left(&mut self, rung: Rung, since: Instant, now: Instant) {
        self.times[rung as usize].add(now - since);
    }

    /// Counts what another engine has counted, too.
    pub fn take_in(&mut self, other: &Rungs) {
        for (time, more) in self.times.iter_mut().zip(&other.times) {
            time.take_in(more);
        }
    }

    /// The times on one of them.
    pub fn of(&self, rung: Rung) -> &Histogram {
        &self.times[rung as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_once_in_the_smallest_bucket_that_holds_it() {
        let smallest = |took: Span| {
            let fits = |b: &usize| Histogram::bound(*b).is_none_or(|bound| took <= bound);
            (0..BUCKETS).find(fits).expect("the last has no bound")
        };
        let bounds = (0..BUCKETS - 1).filter_map(Histogram::bound);
        let near = bounds.flat_map(|bound| [bound.0 - 1, bound.0, bound.0 + 1]);
        for took in near.chain([0, 1, 999, 1000, 1001, u64::MAX]).map(Span) {
            let mut histogram = Histogram::default();
            histogram.add(took);
            assert_eq!(histogram.counts[smallest(took)], 1, "{took:?}");
            assert_eq!((histogram.count(), histogram.sum), (1, took));
        }
        assert_eq!(Histogram::bound(11), Some(Span(16_777_216_000)), "16.8 s");
    }

    #[test]
    fn each_rung_has_its_place() {
        for (place, (rung, _)) in RUNGS.iter().enumerate() {
            assert_eq!(*rung as usize, place);
        }
    }
}
