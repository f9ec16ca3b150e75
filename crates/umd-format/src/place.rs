//! Where superblocks lie on a device, and which of several found ones is meant.
//!
//! ```text
//!   sector 0        8                                    n&~127-128     (n-16)&~7      n
//!   | 1.1           | 1.2 |  bitmap, bad blocks | data ... | 0.90 ...      | 1.0         |
//! ```
//!
//! Facts: superblocks.md section 1.

use std::fmt;

/// Smallest device that can hold a v1.x superblock, in sectors.
pub const DEVICE_SECTORS_MIN: u64 = 24;

/// Sectors to read at a superblock's place: 4 KiB holds the largest one.
pub const SUPERBLOCK_READ_SECTORS: u64 = 8;

/// The minor version of a v1 superblock. It is not stored: the place tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Minor {
    /// 1.0, near the end of the device.
    V1_0,
    /// 1.1, at the start.
    V1_1,
    /// 1.2, 4 KiB from the start; what mdadm makes unless told otherwise.
    V1_2,
}

impl Minor {
    /// All minors, in the order in which they are looked for.
    pub const ALL: [Minor; 3] = [Minor::V1_2, Minor::V1_1, Minor::V1_0];

    /// The number after "1.".
    pub fn number(self) -> u32 {
        match self {
            Minor::V1_0 => 0,
            Minor::V1_1 => 1,
            Minor::V1_2 => 2,
        }
    }

    /// The sector where this superblock lies on a device of `device_sectors`; `None` when the
    /// device is too small to have one.
    pub fn superblock_sector(self, device_sectors: u64) -> Option<u64> {
        if device_sectors < DEVICE_SECTORS_MIN {
            return None;
        }
        Some(match self {
            Minor::V1_0 => (device_sectors - 16) & !7,
            Minor::V1_1 => 0,
            Minor::V1_2 => 8,
        })
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.number())
    }
}

/// How a member's metadata is stored: the family and its place.
///
/// | | 1.x | 0.90 | none |
/// | --- | --- | --- | --- |
/// | device numbers | for life | the slot, others behind the last slot | for this run |
/// | a rebuild goes on after a restart | yes | no, the member is a spare until it is whole | no |
/// | identity of a member | a UUID of its own | derived, see `v090` | for this run |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Version 1.x.
    V1(Minor),
    /// Version 0.90 (and 0.91, the same while a reshape runs).
    V090,
    /// No superblock: the array is described anew each time it is started (mdadm `--build`).
    Bare,
}

impl Format {
    /// Version 1.0.
    pub const V1_0: Format = Format::V1(Minor::V1_0);
    /// Version 1.1.
    pub const V1_1: Format = Format::V1(Minor::V1_1);
    /// Version 1.2.
    pub const V1_2: Format = Format::V1(Minor::V1_2);
    /// Every version that is stored, in the order in which they are looked for.
    pub const ALL: [Format; 4] = [Format::V1_2, Format::V1_1, Format::V1_0, Format::V090];

    /// The sector where such a superblock lies, `None` when there is no place for one.
    pub fn superblock_sector(self, device_sectors: u64) -> Option<u64> {
        match self {
            Format::V1(minor) => minor.superblock_sector(device_sectors),
            Format::V090 => (device_sectors & !127).checked_sub(128),
            Format::Bare => None,
        }
    }

    /// Whether superblocks are read and written at all.
    pub fn is_stored(self) -> bool {
        self != Format::Bare
    }

    /// Whether a member keeps its device number for life, and how far its rebuild got is stored.
    /// Without that, a member that is being rebuilt counts as a spare for whoever reads.
    pub fn keeps_members_apart(self) -> bool {
        !matches!(self, Format::V090)
    }

    /// Whether data begins at the start of the device, with metadata behind it.
    pub fn is_at_end(self) -> bool {
        !matches!(self, Format::V1_1 | Format::V1_2)
    }

    /// The version as mdadm's `--metadata` takes it.
    pub fn parse(word: &str) -> Option<Format> {
        Some(match word {
            "1" | "1.2" | "default" => Format::V1_2,
            "1.1" => Format::V1_1,
            "1.0" => Format::V1_0,
            "0" | "0.90" => Format::V090,
            "none" => Format::Bare,
            _ => return None,
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::V1(minor) => minor.fmt(f),
            Format::V090 => f.write_str("0.90"),
            Format::Bare => f.write_str("none"),
        }
    }
}

/// The places to look at, in order: format and sector. Look at all of them: when several
/// superblocks load, the one with the newest creation time is meant (`newest`).
pub fn probe_order(device_sectors: u64) -> Vec<(Format, u64)> {
    Format::ALL
        .into_iter()
        .filter_map(|format| Some((format, format.superblock_sector(device_sectors)?)))
        .collect()
}

/// Of several superblocks that load from one device, the index of the one that is meant: the
/// newest creation time, the earliest in probe order when two are equal.
///
/// An old superblock of another format can survive at its own place; mdadm decides the same way.
pub fn newest(creation_seconds: &[u64]) -> Option<usize> {
    let latest = creation_seconds.iter().max()?;
    creation_seconds
        .iter()
        .position(|seconds| seconds == latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_the_table() {
        assert_eq!(Minor::V1_0.superblock_sector(204_800), Some(204_784));
        assert_eq!(Minor::V1_0.superblock_sector(204_807), Some(204_784));
        assert_eq!(Minor::V1_1.superblock_sector(204_800), Some(0));
        assert_eq!(Minor::V1_2.superblock_sector(204_800), Some(8));
        assert_eq!(Format::V090.superblock_sector(204_801), Some(204_672));
    }

    #[test]
    fn small_devices_have_no_place() {
        assert_eq!(Minor::V1_2.superblock_sector(23), None);
        assert_eq!(Minor::V1_0.superblock_sector(24), Some(8));
        assert_eq!(Format::V090.superblock_sector(127), None);
        assert_eq!(Format::V090.superblock_sector(128), Some(0));
        assert!(probe_order(0).is_empty());
        assert_eq!(probe_order(204_800).len(), 4);
    }

    #[test]
    fn newest_prefers_probe_order_on_a_tie() {
        assert_eq!(newest(&[]), None);
        assert_eq!(newest(&[5, 7, 7]), Some(1));
    }
}
