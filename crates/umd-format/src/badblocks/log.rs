//! A log as it stands on a member, and how it is written anew.
//!
//! ```text
//!   sector 0   | a | b | c | d | ... 64 entries |       a write may be cut short between sectors:
//!   sector 1   | e | f | end .................. |       what stays bad stays in its sector
//! ```
//!
//! A power cut may leave some sectors of a log as they were and others as they were to become.
//! An entry that moved from one to another would then be in neither, and what it covers would be
//! read as data. So what is left of an entry stays in the sector where it was; a gap that
//! this leaves before the last entry is filled with an entry that is there already.

use super::{BadBlocksError, BadRange, BadRanges, END, ENTRY_BYTES, UNITS_PER_ENTRY_MAX, parse};
use crate::SECTOR_BYTES;
use crate::bytes::put;
use crate::v1::{Features, Fields};

/// Entries of one sector.
const IN_SECTOR: usize = SECTOR_BYTES / ENTRY_BYTES;

/// An entry, in units: first and end.
type Units = (u64, u64);

/// What stands in the bad-block log of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLog {
    /// Where it lies, in device sectors.
    pub sector: u64,
    shift: u8,
    /// By sector of the log.
    entries: Vec<Vec<Units>>,
}

/// A log to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The log then.
    pub log: BadLog,
    /// Its bytes, all of them.
    pub bytes: Vec<u8>,
}

impl BadLog {
    /// The log that a superblock names, taken as empty; `None` if it names none.
    pub fn empty(fields: &Fields) -> Option<BadLog> {
        let sector = fields.bblog_sector().filter(|_| fields.bblog_shift <= 54)?;
        Some(BadLog::at(
            sector,
            fields.bblog_shift,
            fields.bblog_size_sectors,
        ))
    }

    fn at(sector: u64, shift: u8, sectors: u16) -> BadLog {
        BadLog {
            sector,
            shift,
            entries: vec![Vec::new(); usize::from(sectors)],
        }
    }

    /// Where a log lies that has to be read, and its length in sectors: `None` where the
    /// superblock says that it is empty, or that there is none.
    pub fn place(fields: &Fields) -> Option<(u64, u64)> {
        let used = fields.features.contains(Features::BAD_BLOCKS);
        let sector = fields.bblog_sector().filter(|_| used)?;
        Some((sector, u64::from(fields.bblog_size_sectors)))
    }

    /// The log with these bytes.
    ///
    /// # Errors
    /// When it is damaged, or there is none.
    pub fn read(fields: &Fields, bytes: &[u8]) -> Result<BadLog, BadBlocksError> {
        let log = BadLog::empty(fields).ok_or(BadBlocksError::Missing)?;
        if bytes.len() != log.entries.len() * SECTOR_BYTES {
            return Err(BadBlocksError::Missing);
        }
        BadLog::parse(log.sector, log.shift, bytes)
    }

    /// The log at this sector, with units of `512 << shift` bytes, that consists of these bytes.
    ///
    /// # Errors
    /// When it is damaged, or these are no whole sectors.
    pub fn parse(sector: u64, shift: u8, bytes: &[u8]) -> Result<BadLog, BadBlocksError> {
        let sectors = u16::try_from(bytes.len() / SECTOR_BYTES);
        let whole = bytes.len().is_multiple_of(SECTOR_BYTES) && shift <= 54;
        let Some(sectors) = sectors.ok().filter(|_| whole) else {
            return Err(BadBlocksError::Missing);
        };
        let mut log = BadLog::at(sector, shift, sectors);
        for (index, range) in parse(bytes, shift)?.iter().enumerate() {
            let start = range.start_sectors >> shift;
            let end = start + (range.length_sectors >> shift);
            log.entries[index / IN_SECTOR].push((start, end));
        }
        Ok(log)
    }

    /// Its length in sectors.
    pub fn sectors(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Entries that fit.
    pub fn room(&self) -> usize {
        self.entries.len() * IN_SECTOR
    }

    /// Its entries, in their order.
    pub fn listed(&self) -> Vec<BadRange> {
        let all = self.entries.iter().flatten();
        all.map(|units| self.scaled(units)).collect()
    }

    fn scaled(&self, (start, end): &Units) -> BadRange {
        BadRange {
            start_sectors: start << self.shift,
            length_sectors: (end - start) << self.shift,
        }
    }

    /// What it says is bad.
    pub fn ranges(&self) -> BadRanges {
        self.listed().into_iter().collect()
    }

    /// `bad` in whole units of this log: a unit with one bad sector is bad.
    fn in_units(&self, bad: &BadRanges) -> BadRanges {
        let mut units = BadRanges::default();
        for range in bad.iter() {
            let last = range.start_sectors + range.length_sectors - 1;
            units.insert(range.start_sectors >> self.shift, (last >> self.shift) + 1);
        }
        units
    }

    /// The log that says that `bad` cannot be read, made from this one. It may say so of more:
    /// of whole units, and of what has no room apart from what was cleared.
    ///
    /// # Errors
    /// `Full`.
    pub fn rewritten(&self, bad: &BadRanges) -> Result<Rewritten, BadBlocksError> {
        let wanted = self.in_units(bad);
        let mut left = wanted.clone();
        let mut entries: Vec<Vec<Units>> = Vec::with_capacity(self.entries.len());
        for old in &self.entries {
            let kept = kept(old, &wanted);
            kept.iter()
                .for_each(|(start, end)| left.remove(*start, *end));
            entries.push(kept);
        }
        let mut new = split(&left).into_iter();
        for sector in &mut entries {
            sector.extend(new.by_ref().take(IN_SECTOR - sector.len()));
        }
        let over = new.count();
        if over > 0 {
            let room = self.room();
            return Err(BadBlocksError::Full {
                needed: room + over,
                room,
            });
        }
        let last = entries.iter().rposition(|sector| !sector.is_empty());
        for at in 0..last.unwrap_or(0) {
            let there = entries[at].first().or(entries[last.unwrap_or(0)].first());
            let filler = *there.expect("the last sector in use has an entry");
            entries[at].resize(IN_SECTOR, filler);
        }
        let log = BadLog {
            entries,
            ..self.clone()
        };
        let bytes = log.encode();
        Ok(Rewritten { log, bytes })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0xff; self.entries.len() * SECTOR_BYTES];
        for (sector, entries) in self.entries.iter().enumerate() {
            for (index, (start, end)) in entries.iter().enumerate() {
                assert!(
                    end - start <= UNITS_PER_ENTRY_MAX,
                    "an entry has 9 bits of length"
                );
                let entry = start << 10 | (end - start);
                assert!(entry != END, "an entry that does not end the log");
                put(
                    &mut bytes,
                    sector * SECTOR_BYTES + index * ENTRY_BYTES,
                    &entry.to_le_bytes(),
                );
            }
        }
        bytes
    }
}

/// What is left of the entries of one sector. Where it would need more room than there is, they
/// stay as they are: what was cleared counts as bad then, which loses nothing.
fn kept(old: &[Units], wanted: &BadRanges) -> Vec<Units> {
    let mut left = BadRanges::default();
    for (start, end) in old {
        for range in wanted.within(*start, *end) {
            left.insert(
                range.start_sectors,
                range.start_sectors + range.length_sectors,
            );
        }
    }
    // As it was written, if nothing is left out: a log is not rewritten for its order.
    let all = old.iter().all(|(start, end)| wanted.covers(*start, *end));
    let new = split(&left);
    match all || new.len() > IN_SECTOR {
        true => old.to_vec(),
        false => new,
    }
}

/// As entries, each no longer than one can be.
fn split(ranges: &BadRanges) -> Vec<Units> {
    let mut entries = Vec::new();
    for range in ranges.iter() {
        let (mut at, end) = (
            range.start_sectors,
            range.start_sectors + range.length_sectors,
        );
        while at < end {
            let to = end.min(at + UNITS_PER_ENTRY_MAX);
            entries.push((at, to));
            at = to;
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(shift: u8) -> BadLog {
        BadLog::at(24, shift, 4)
    }

    struct Draw(u64);

    impl Draw {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (self.0 >> 33) % n
        }
    }

    /// Ranges come and go. Whatever subset of the sectors of each write reaches the disk, the log
    /// can be read and says of everything that was bad before and still is that it is bad.
    #[test]
    fn no_torn_write_makes_bad_sectors_readable() {
        for shift in [0, 3] {
            let mut draw = Draw(7 + u64::from(shift));
            let mut log = empty(shift);
            let mut bytes = vec![0xff; 2048];
            let (mut bad, mut full) = (BadRanges::default(), 0);
            for _ in 0..3000 {
                let mut next = bad.clone();
                for _ in 0..=draw.below(6) {
                    let at = draw.below(1 << 15);
                    match draw.below(5) {
                        0..=2 => next.insert(at, at + 1 + draw.below(9)),
                        3 => next.remove(at, at + 1 + draw.below(2000)),
                        _ => next.insert(at, at + 1 + draw.below(1500)),
                    }
                }
                let Ok(new) = log.rewritten(&next) else {
                    full += 1;
                    bad.remove(0, 1 << 14);
                    continue;
                };
                assert!(next.is_within(&new.log.ranges()), "all of it is said");
                assert_eq!(BadLog::parse(24, shift, &new.bytes), Ok(new.log.clone()));
                let mut still = BadRanges::default();
                for range in bad.iter() {
                    let end = range.start_sectors + range.length_sectors;
                    for both in next.within(range.start_sectors, end) {
                        still.insert(both.start_sectors, both.start_sectors + both.length_sectors);
                    }
                }
                for torn in 0..16_u8 {
                    let mut mixed = bytes.clone();
                    for sector in (0..4).filter(|sector| torn >> sector & 1 == 1) {
                        let at = sector * 512..sector * 512 + 512;
                        mixed[at.clone()].copy_from_slice(&new.bytes[at]);
                    }
                    let read = BadLog::parse(24, shift, &mixed).expect("torn, and still a log");
                    assert!(still.is_within(&read.ranges()), "torn at {torn:04b}");
                }
                (log, bytes, bad) = (new.log, new.bytes, next);
            }
            assert!(full > 3, "it was full at times");
        }
    }

    #[test]
    fn a_log_says_no_more_than_it_has_to() {
        let log = empty(0);
        let mut bad = BadRanges::default();
        bad.insert(4096, 4104);
        bad.insert(10_000, 10_600);
        let new = log.rewritten(&bad).expect("fits");
        assert_eq!(new.log.ranges(), bad);
        bad.remove(10_100, 10_101);
        let next = new.log.rewritten(&bad).expect("fits");
        assert_eq!(next.log.ranges(), bad);
        let none = next.log.rewritten(&BadRanges::default()).expect("fits");
        assert!(none.bytes.iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn an_unchanged_log_is_the_same_bytes() {
        let mut bytes = vec![0xff; 2048];
        for (index, entry) in [10_512_u64 << 10 | 8, 10_000 << 10 | 512]
            .iter()
            .enumerate()
        {
            bytes[index * 8..index * 8 + 8].copy_from_slice(&entry.to_le_bytes());
        }
        let log = BadLog::parse(24, 0, &bytes).expect("a log");
        assert_eq!(log.rewritten(&log.ranges()).expect("fits").bytes, bytes);
    }

    #[test]
    fn a_log_that_is_full_says_so() {
        let log = empty(0);
        let bad: BadRanges = (0..257)
            .map(|n| BadRange {
                start_sectors: 4 * n,
                length_sectors: 1,
            })
            .collect();
        let error = log.rewritten(&bad).expect_err("too many");
        assert_eq!(
            error,
            BadBlocksError::Full {
                needed: 257,
                room: 256
            }
        );
    }

    #[test]
    fn half_a_sector_is_no_log() {
        let half = BadLog::parse(4096, 0, &[0xff; 768]);
        assert_eq!(half, Err(BadBlocksError::Missing));
    }
}
