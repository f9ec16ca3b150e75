//! Pure maps from array sectors to members. Facts: layouts.md sections 1-4, checked there against
//! real arrays.

mod raid0;
mod raid456;

pub use raid0::{Raid0, Raid0Error};
pub use raid456::{Place, Raid456, Row};

/// Where the data of a running array lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Geometry {
    /// RAID0.
    Striped(Raid0),
    /// RAID1: device sector = array sector on every member.
    Mirrored {
        /// Slots.
        legs: u16,
    },
    /// RAID4/5/6.
    Parity(Raid456),
}

impl Geometry {
    /// How many slots may be without an in-sync member.
    pub fn redundancy(&self) -> u16 {
        match self {
            Geometry::Striped(_) => 0,
            Geometry::Mirrored { legs } => {
                assert!(*legs > 0, "a mirror has a leg");
                legs - 1
            }
            Geometry::Parity(map) => map.parities(),
        }
    }

    /// For exhibit M02: as if a RAID0 had the other of its two layouts.
    pub(crate) fn other_layout(&self) -> Geometry {
        match self {
            Geometry::Striped(map) => Geometry::Striped(map.other_layout()),
            other => other.clone(),
        }
    }

    /// Slots.
    pub fn raid_disks(&self) -> u16 {
        match self {
            Geometry::Striped(map) => map.members(),
            Geometry::Mirrored { legs } => *legs,
            Geometry::Parity(map) => map.raid_disks(),
        }
    }
}
