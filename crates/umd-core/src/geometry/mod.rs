//! Pure maps from array sectors to members. Facts: layouts.md sections 1-4, checked there against
//! real arrays.

mod convert;
mod linear;
mod raid0;
mod raid10;
mod raid456;

pub use convert::{Conversion, Shape, convert, same_bytes, takeover};
pub use linear::Linear;
pub use raid0::{Raid0, Raid0Error};
pub use raid10::{Copy, Raid10, Raid10Error};
pub use raid456::{Place, Raid456, Row};

use smallvec::SmallVec;

/// Where the data of a running array lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Geometry {
    /// Linear.
    Linear(Linear),
    /// RAID0.
    Striped(Raid0),
    /// RAID1: device sector = array sector on every member.
    Mirrored {
        /// Slots.
        legs: u16,
    },
    /// RAID10.
    Copied(Raid10),
    /// RAID4/5/6.
    Parity(Raid456),
}

impl Geometry {
    /// Whether a level with redundancy: members can fail, be rebuilt and be compared.
    pub fn is_redundant(&self) -> bool {
        !matches!(self, Geometry::Linear(_) | Geometry::Striped(_))
    }

    /// Whether every sector lies on several members as it is.
    pub fn is_mirror(&self) -> bool {
        matches!(self, Geometry::Mirrored { .. } | Geometry::Copied(_))
    }

    /// How many slots may be without an in-sync member, whichever they are.
    pub fn redundancy(&self) -> u16 {
        match self {
            Geometry::Linear(_) | Geometry::Striped(_) => 0,
            Geometry::Mirrored { legs } => {
                assert!(*legs > 0, "a mirror has a leg");
                legs - 1
            }
            Geometry::Copied(map) => map.copies_of_each() - 1,
            Geometry::Parity(map) => map.parities(),
        }
    }

    /// Whether all data can be read from the slots for which `holds` is true.
    pub fn survives(&self, holds: impl Fn(u16) -> bool) -> bool {
        let held = (0..self.raid_disks()).filter(|slot| holds(*slot)).count();
        match self {
            Geometry::Copied(map) => {
                let mut groups = map.groups().iter();
                groups.all(|group| group.iter().any(|slot| holds(*slot)))
            }
            _ => held > 0 && held + usize::from(self.redundancy()) >= self.raid_disks().into(),
        }
    }

    /// Where the copies of a sector of a mirror lie. Those of the sectors behind it, up to the end
    /// of its chunk, lie behind them.
    ///
    /// # Panics
    /// When this is no mirror.
    pub fn copies(&self, array_sectors: u64) -> SmallVec<[Copy; 4]> {
        match self {
            Geometry::Mirrored { legs } => {
                let leg = |slot| Copy {
                    slot,
                    member_sectors: array_sectors,
                };
                (0..*legs).map(leg).collect()
            }
            Geometry::Copied(map) => map.copies(array_sectors),
            _ => unreachable!("only mirrors have copies"),
        }
    }

    /// Sectors that resync, check and repair walk, and that a bitmap covers: of each member, or
    /// of a RAID10 as a whole. 0 without redundancy. `array_sectors`: the size of a mirror.
    pub fn sync_sectors(&self, array_sectors: u64) -> u64 {
        match self {
            Geometry::Linear(_) | Geometry::Striped(_) => 0,
            Geometry::Mirrored { .. } => array_sectors,
            Geometry::Copied(map) => map.array_sectors(),
            Geometry::Parity(map) => map.dev_sectors(),
        }
    }

    /// Sectors of each member that a rebuild walks; 0 without redundancy.
    pub fn rebuild_sectors(&self, array_sectors: u64) -> u64 {
        match self {
            Geometry::Copied(map) => map.dev_sectors(),
            _ => self.sync_sectors(array_sectors),
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
            Geometry::Linear(map) => map.members(),
            Geometry::Striped(map) => map.members(),
            Geometry::Mirrored { legs } => *legs,
            Geometry::Copied(map) => map.raid_disks(),
            Geometry::Parity(map) => map.raid_disks(),
        }
    }
}
