//! The bad-block log: ranges of a member that could not be written or recovered.
//!
//! Entries of 8 bytes, `start << 10 | length` in units of `sector << bblog_shift`, ended by an
//! entry of all ones. Starts are absolute device sectors. Facts: superblocks.md section 10.

mod log;
mod ranges;

pub use log::{BadLog, Rewritten};
pub use ranges::BadRanges;

use crate::SECTOR_BYTES;
use crate::bytes::{put, u64_at};

/// The most units one entry covers.
pub const UNITS_PER_ENTRY_MAX: u64 = 512;

const ENTRY_BYTES: usize = 8;
const END: u64 = u64::MAX;

/// A range that holds no data, in absolute device sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BadRange {
    /// First sector.
    pub start_sectors: u64,
    /// Length.
    pub length_sectors: u64,
}

/// Why a bad-block log cannot be used or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBlocksError {
    /// An entry no writer of logs produces.
    #[error("bad-block log is damaged: entry {index} is {entry:#x}")]
    BadEntry {
        /// Its place.
        index: usize,
        /// Its value.
        entry: u64,
    },
    /// There are more ranges than the log has room for.
    #[error("bad-block log is full: {needed} entries needed, {room} fit")]
    Full {
        /// Entries needed.
        needed: usize,
        /// Entries that fit.
        room: usize,
    },
    /// The superblock says that there are bad blocks, and names no log that could be read.
    #[error("superblock says that there are bad blocks, but names no bad-block log")]
    Missing,
    /// Reading failed; the operating system's word for it.
    #[error("bad-block log cannot be read: {0}")]
    Unreadable(String),
    /// A range that does not lie on the log's unit.
    #[error("bad range at sector {start_sectors} is no multiple of the log's unit")]
    Unaligned {
        /// First sector of the range.
        start_sectors: u64,
    },
}

/// Reads a log. `bytes` is the whole log, `shift` the superblock's `bblog_shift`. Entries come in
/// the order on disk, which need not be sorted.
///
/// # Errors
/// For an entry without length, with too much of it, or that ends beyond 64 bits.
pub fn parse(bytes: &[u8], shift: u8) -> Result<Vec<BadRange>, BadBlocksError> {
    let mut ranges = Vec::new();
    for (index, chunk) in bytes.chunks_exact(ENTRY_BYTES).enumerate() {
        let entry = u64_at(chunk, 0);
        if entry == END {
            break;
        }
        let damaged = BadBlocksError::BadEntry { index, entry };
        let (start, length) = (entry >> 10, entry & 0x3ff);
        if length == 0 || length > UNITS_PER_ENTRY_MAX || shift > 54 {
            return Err(damaged);
        }
        let scaled = |units: u64| units.checked_mul(1 << shift);
        let whole = scaled(start).zip(scaled(length));
        let (start_sectors, length_sectors) = whole
            .filter(|(a, b)| a.checked_add(*b).is_some())
            .ok_or(damaged)?;
        ranges.push(BadRange {
            start_sectors,
            length_sectors,
        });
    }
    Ok(ranges)
}

/// The bytes of a log of `log_sectors` holding `ranges`; long ones are split.
///
/// # Errors
/// `Full` and `Unaligned`.
///
/// # Panics
/// For an empty range or a shift above 54.
pub fn encode(ranges: &[BadRange], shift: u8, log_sectors: u16) -> Result<Vec<u8>, BadBlocksError> {
    assert!(shift <= 54, "no unit is that large");
    let unit = 1u64 << shift;
    let mut entries = Vec::new();
    for range in ranges {
        assert!(
            range.length_sectors > 0,
            "a bad range has at least one sector"
        );
        if !(range.start_sectors | range.length_sectors).is_multiple_of(unit) {
            return Err(BadBlocksError::Unaligned {
                start_sectors: range.start_sectors,
            });
        }
        let (mut start, mut left) = (range.start_sectors >> shift, range.length_sectors >> shift);
        assert!(start < 1 << 54, "an entry has 54 bits for the start");
        while left > 0 {
            let length = left.min(UNITS_PER_ENTRY_MAX);
            entries.push(start << 10 | length);
            start += length;
            left -= length;
        }
    }
    let bytes = usize::from(log_sectors) * SECTOR_BYTES;
    let (needed, room) = (entries.len(), bytes / ENTRY_BYTES);
    if needed > room {
        return Err(BadBlocksError::Full { needed, room });
    }
    let mut log = vec![0xff; bytes];
    for (index, entry) in entries.iter().enumerate() {
        put(&mut log, index * ENTRY_BYTES, &entry.to_le_bytes());
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(start_sectors: u64, length_sectors: u64) -> BadRange {
        BadRange {
            start_sectors,
            length_sectors,
        }
    }

    #[test]
    fn entries_are_those_the_kernel_writes() {
        let log = encode(&[range(4096, 8), range(10_000, 512)], 0, 8).unwrap();
        assert_eq!(log.len(), 4096);
        assert_eq!(u64_at(&log, 0), 0x40_0008);
        assert_eq!(u64_at(&log, 8), 0x9c_4200);
        assert!(log[16..].iter().all(|&byte| byte == 0xff));
    }

    #[test]
    fn unsorted_logs_are_read_and_long_ranges_split() {
        let log = encode(&[range(10_512, 8), range(10_000, 600)], 0, 8).unwrap();
        let ranges = parse(&log, 0).unwrap();
        assert_eq!(
            ranges,
            [range(10_512, 8), range(10_000, 512), range(10_512, 88)]
        );
    }

    #[test]
    fn the_unit_scales_both_numbers() {
        let log = encode(&[range(80, 16)], 3, 1).unwrap();
        assert_eq!(u64_at(&log, 0), 10 << 10 | 2);
        assert_eq!(parse(&log, 3).unwrap(), [range(80, 16)]);
        let error = encode(&[range(81, 8)], 3, 1).unwrap_err();
        assert_eq!(error, BadBlocksError::Unaligned { start_sectors: 81 });
    }

    #[test]
    fn damaged_and_full_logs_are_refused() {
        let empty = (4096u64 << 10).to_le_bytes();
        assert!(matches!(
            parse(&empty, 0),
            Err(BadBlocksError::BadEntry { index: 0, .. })
        ));
        let long = (4096u64 << 10 | 513).to_le_bytes();
        assert!(parse(&long, 0).is_err());
        assert!(parse(&(u64::MAX - 1023 + 8).to_le_bytes(), 20).is_err());
        let many: Vec<BadRange> = (0..65).map(|index| range(16 * index, 8)).collect();
        let error = encode(&many, 0, 1).unwrap_err();
        assert_eq!(
            error,
            BadBlocksError::Full {
                needed: 65,
                room: 64
            }
        );
    }
}
