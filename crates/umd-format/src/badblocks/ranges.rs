//! A set of sectors, kept as ranges that do not touch.
//!
//! ```text
//!   ranges   |####|      |########|    |##|
//!   insert        |######|                      joins what it touches
//!   remove      |##|                            may leave two where one was
//! ```

use super::BadRange;

/// The sectors that cannot be read, in absolute device sectors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadRanges {
    /// Starts and ends, in order. A log has room for a few hundred: they are copied and compared
    /// far more often than one is put in between.
    ranges: Vec<(u64, u64)>,
}

impl BadRanges {
    /// Whether nothing is bad.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = BadRange> + '_ {
        self.ranges.iter().map(|(start, end)| BadRange {
            start_sectors: *start,
            length_sectors: end - start,
        })
    }

    /// Sectors in all ranges.
    pub fn sectors(&self) -> u64 {
        self.iter().map(|range| range.length_sectors).sum()
    }

    /// Adds the sectors `start..end`.
    ///
    /// # Panics
    /// For an empty range.
    pub fn insert(&mut self, start: u64, end: u64) {
        assert!(start < end, "a bad range has at least one sector");
        let first = self.ranges.partition_point(|(_, until)| *until < start);
        let touched = self.ranges[first..].partition_point(|(at, _)| *at <= end);
        let joined = &self.ranges[first..first + touched];
        let from = joined.first().map_or(start, |(at, _)| start.min(*at));
        let to = joined.last().map_or(end, |(_, until)| end.max(*until));
        self.ranges.splice(first..first + touched, [(from, to)]);
    }

    /// Adds all of `other`.
    pub fn insert_all(&mut self, other: &BadRanges) {
        if self.is_empty() {
            self.ranges.clone_from(&other.ranges);
            return;
        }
        for (start, end) in &other.ranges {
            if !self.covers(*start, *end) {
                self.insert(*start, *end);
            }
        }
    }

    /// Takes the sectors `start..end` out.
    ///
    /// # Panics
    /// For an empty range.
    pub fn remove(&mut self, start: u64, end: u64) {
        assert!(start < end, "something is cleared");
        let (first, count) = self.overlapped(start, end);
        let hit = &self.ranges[first..first + count];
        let before = hit.first().filter(|(at, _)| *at < start);
        let behind = hit.last().filter(|(_, until)| end < *until);
        let before = before.map(|(at, _)| (*at, start));
        let behind = behind.map(|(_, until)| (end, *until));
        let left = before.into_iter().chain(behind);
        self.ranges.splice(first..first + count, left);
    }

    /// Which ranges have a sector of `start..end`: the first of them, and how many.
    fn overlapped(&self, start: u64, end: u64) -> (usize, usize) {
        let first = self.ranges.partition_point(|(_, until)| *until <= start);
        let count = self.ranges[first..].partition_point(|(at, _)| *at < end);
        (first, count)
    }

    /// Whether a sector of `start..end` is bad.
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        start < end && self.overlapped(start, end).1 > 0
    }

    /// Whether all of `start..end` is bad.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let behind = self.ranges.partition_point(|(at, _)| *at <= start);
        let before = behind.checked_sub(1).map(|index| self.ranges[index]);
        before.is_some_and(|(_, until)| until >= end)
    }

    /// Whether all of these sectors are in `other`, too.
    pub fn is_within(&self, other: &BadRanges) -> bool {
        self.ranges
            .iter()
            .all(|(start, end)| other.covers(*start, *end))
    }

    /// What of `start..end` is bad.
    pub fn within(&self, start: u64, end: u64) -> Vec<BadRange> {
        let (first, count) = self.overlapped(start, end);
        let cut = |(at, until): &(u64, u64)| BadRange {
            start_sectors: (*at).max(start),
            length_sectors: (*until).min(end) - (*at).max(start),
        };
        self.ranges[first..first + count].iter().map(cut).collect()
    }
}

impl FromIterator<BadRange> for BadRanges {
    fn from_iter<I: IntoIterator<Item = BadRange>>(ranges: I) -> BadRanges {
        let mut all = BadRanges::default();
        for range in ranges {
            all.insert(
                range.start_sectors,
                range.start_sectors + range.length_sectors,
            );
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Against a set of sectors.
    #[test]
    fn ranges_hold_what_a_set_of_sectors_holds() {
        let (mut ranges, mut model) = (BadRanges::default(), BTreeSet::new());
        let mut draw = 99_u64;
        for _ in 0..20_000 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (start, len) = (draw >> 33 & 127, (draw >> 50 & 15) + 1);
            let end = start + len;
            if draw >> 62 == 0 {
                ranges.remove(start, end);
                (start..end).for_each(|sector| _ = model.remove(&sector));
            } else if draw >> 60 == 15 {
                ranges.insert(start, end);
                model.extend(start..end);
            }
            let at = draw >> 20 & 127;
            let (from, to) = (at, at + (draw >> 12 & 15));
            let bad = (from..to).filter(|sector| model.contains(sector)).count() as u64;
            assert_eq!(ranges.overlaps(from, to), bad > 0, "{from}..{to}");
            if from < to {
                assert_eq!(ranges.covers(from, to), bad == to - from, "{from}..{to}");
            }
            let within: u64 = ranges
                .within(from, to)
                .iter()
                .map(|r| r.length_sectors)
                .sum();
            assert_eq!(within, bad);
            assert_eq!(ranges.sectors(), model.len() as u64);
            let apart = ranges.ranges.windows(2).all(|two| two[0].1 < two[1].0);
            assert!(apart, "ranges lie apart");
        }
    }

    #[test]
    fn a_set_is_within_another_that_has_all_of_it() {
        let set = |all: &[(u64, u64)]| {
            let mut ranges = BadRanges::default();
            all.iter()
                .for_each(|(start, end)| ranges.insert(*start, *end));
            ranges
        };
        assert!(set(&[(3, 5), (9, 10)]).is_within(&set(&[(0, 5), (9, 12)])));
        assert!(!set(&[(3, 6)]).is_within(&set(&[(0, 5), (6, 12)])));
        assert!(set(&[]).is_within(&set(&[])));
        let mut all = set(&[(1, 2)]);
        all.insert_all(&set(&[(2, 3), (8, 9)]));
        assert_eq!(all, set(&[(1, 3), (8, 9)]));
        assert_eq!(all.len(), 2);
    }
}
