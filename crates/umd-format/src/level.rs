//! RAID levels and the names of their layouts.

use std::fmt;

use crate::v1::ROLES_MAX;

/// The level of an array. Numbers nobody knows are kept in `Other`, so nothing is lost on rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Members one after the other (-1).
    Linear,
    /// Striping without redundancy.
    Raid0,
    /// Mirrors.
    Raid1,
    /// Striping with one parity member.
    Raid4,
    /// Striping with rotating parity.
    Raid5,
    /// Striping with rotating P and Q.
    Raid6,
    /// Striped mirrors.
    Raid10,
    /// Several paths to one disk (-4), gone from newer kernels.
    Multipath,
    /// Fault injection (-5), gone from newer kernels.
    Faulty,
    /// Any other number.
    Other(i32),
}

impl Level {
    /// The level with this on-disk number.
    pub fn from_raw(raw: i32) -> Level {
        match raw {
            -1 => Level::Linear,
            0 => Level::Raid0,
            1 => Level::Raid1,
            4 => Level::Raid4,
            5 => Level::Raid5,
            6 => Level::Raid6,
            10 => Level::Raid10,
            -4 => Level::Multipath,
            -5 => Level::Faulty,
            other => Level::Other(other),
        }
    }

    /// The on-disk number.
    pub fn to_raw(self) -> i32 {
        match self {
            Level::Linear => -1,
            Level::Raid0 => 0,
            Level::Raid1 => 1,
            Level::Raid4 => 4,
            Level::Raid5 => 5,
            Level::Raid6 => 6,
            Level::Raid10 => 10,
            Level::Multipath => -4,
            Level::Faulty => -5,
            Level::Other(raw) => raw,
        }
    }

    /// True for the levels with parity: 4, 5 and 6.
    pub fn is_parity(self) -> bool {
        matches!(self, Level::Raid4 | Level::Raid5 | Level::Raid6)
    }

    /// True for the levels that cut data into chunks across members.
    pub fn is_striped(self) -> bool {
        self.is_parity() || matches!(self, Level::Raid0 | Level::Raid10)
    }

    /// True for the levels that survive the loss of a member, and so need resync and bitmap.
    pub fn is_redundant(self) -> bool {
        self.is_parity() || matches!(self, Level::Raid1 | Level::Raid10)
    }

    /// The fewest `raid_disks` the level makes sense with.
    pub fn min_disks(self) -> u32 {
        match self {
            Level::Raid4 | Level::Raid5 => 2,
            Level::Raid6 => 4,
            _ => 1,
        }
    }

    /// The most `raid_disks` there can be. Parity levels are limited by the sum in Q, which has 255
    /// weights: one per data disk, but one per disk in the DDF layouts.
    pub fn max_disks(self, layout: u32) -> u32 {
        match self {
            Level::Raid4 | Level::Raid5 => 256,
            Level::Raid6 if matches!(layout, 8..=10) => 255,
            Level::Raid6 => 257,
            Level::Faulty => 1,
            _ => ROLES_MAX as u32,
        }
    }

    /// True for the levels where every member gives the same, or where superblocks say how much
    /// of it is used.
    pub fn has_size(self) -> bool {
        self.is_redundant() || self == Level::Faulty
    }

    /// How many members may be missing while every block can still be read, for the levels where
    /// that is a matter of counting (raid10 depends on which ones are missing: `None`).
    pub fn max_missing(self, raid_disks: u32) -> Option<u32> {
        match self {
            Level::Linear | Level::Raid0 | Level::Faulty => Some(0),
            Level::Raid1 => Some(raid_disks.saturating_sub(1)),
            Level::Raid4 | Level::Raid5 => Some(1),
            Level::Raid6 => Some(2),
            _ => None,
        }
    }

    /// mdadm's name of `layout` at this level, `None` when the number means nothing there.
    pub fn layout_name(self, layout: u32) -> Option<&'static str> {
        match (self, layout) {
            (Level::Raid0, 1) => Some("original"),
            (Level::Raid0, 2) => Some("alternate"),
            (Level::Raid5 | Level::Raid6, 0..=5) => Some(ROTATIONS[layout as usize]),
            (Level::Raid6, 8) => Some("ddf-zero-restart"),
            (Level::Raid6, 9) => Some("ddf-N-restart"),
            (Level::Raid6, 10) => Some("ddf-N-continue"),
            (Level::Raid6, 16) => Some("left-asymmetric-6"),
            (Level::Raid6, 17) => Some("right-asymmetric-6"),
            (Level::Raid6, 18) => Some("left-symmetric-6"),
            (Level::Raid6, 19) => Some("right-symmetric-6"),
            (Level::Raid6, 20) => Some("parity-first-6"),
            _ => None,
        }
    }
}

/// Names of layouts 0 to 5, shared by raid5 and raid6.
const ROTATIONS: [&str; 6] = [
    "left-asymmetric",
    "right-asymmetric",
    "left-symmetric",
    "right-symmetric",
    "parity-first",
    "parity-last",
];

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Linear => f.write_str("linear"),
            Level::Multipath => f.write_str("multipath"),
            Level::Faulty => f.write_str("faulty"),
            Level::Other(raw) => write!(f, "unknown level {raw}"),
            raid => write!(f, "raid{}", raid.to_raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_the_round_trip() {
        for raw in (-10..=20).chain([i32::MIN, i32::MAX, -100, -1_000_000]) {
            assert_eq!(Level::from_raw(raw).to_raw(), raw);
        }
    }

    #[test]
    fn names_are_those_of_mdadm() {
        assert_eq!(Level::Raid6.to_string(), "raid6");
        assert_eq!(Level::Raid5.layout_name(2), Some("left-symmetric"));
        assert_eq!(Level::Raid5.layout_name(8), None);
        assert_eq!(Level::Raid6.layout_name(10), Some("ddf-N-continue"));
        assert_eq!(Level::Raid1.layout_name(0), None);
    }
}
