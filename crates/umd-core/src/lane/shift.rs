//! While an array is reshaped: on which side of the frontier a row lies.
//!
//! ```text
//!   forwards    0 ---- new geometry ---- | ======== window ======== | ---- old geometry ---- end
//!                                     frontier   locked as a whole
//!   backwards   0 ---- old geometry ---- | ======== window ======== | ---- new geometry ---- end
//!                                                                frontier
//! ```
//!
//! A row holds the same data on both sides, on other slots and elsewhere on the members. What locks
//! cover are rows, so who holds a lock keeps the frontier from passing it: the side is asked for
//! with the lock in hand, and stays what it is as long as that is held. Nobody does I/O without.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Lane, read};
use crate::geometry::{Geometry, Raid456, Row};

/// Two geometries, and where the one ends.
#[derive(Debug, Clone)]
pub struct Shift {
    /// Of rows that have been moved.
    pub geometry: Arc<Geometry>,
    /// Up to here (or from here on) rows have been moved, and superblocks say so: member sectors.
    pub frontier_sectors: u64,
    /// From the end to the start.
    pub backwards: bool,
}

impl Shift {
    /// Whether the row of this member sector has been moved.
    pub fn has_moved(&self, sector: u64) -> bool {
        (sector < self.frontier_sectors) != self.backwards
    }
}

impl Lane {
    /// From here on rows lie where this says; `None`: all in one way.
    pub fn set_shift(&mut self, shift: Option<Shift>) {
        self.shift = shift;
    }

    /// What lies where while the array is reshaped.
    pub fn shift(&self) -> Option<&Shift> {
        self.shift.as_ref()
    }

    /// Whether a reshape has moved the row of this member sector. For holders of its lock.
    pub fn has_moved(&self, sector: u64) -> bool {
        self.shift.as_ref().is_some_and(|one| one.has_moved(sector))
    }

    /// The geometry of the row of this member sector. For holders of its lock.
    pub fn geometry_at(&self, sector: u64) -> &Arc<Geometry> {
        let shift = self.shift.as_ref().filter(|one| one.has_moved(sector));
        shift.map_or(&self.geometry, |shift| &shift.geometry)
    }

    /// The same of an array with parity.
    pub(super) fn map_at(&self, sector: u64) -> &Raid456 {
        match &**self.geometry_at(sector) {
            Geometry::Parity(map) => map,
            _ => unreachable!("a parity array"),
        }
    }

    /// The row of this member sector. For holders of its lock.
    pub(super) fn row_at(&self, sector: u64) -> Cow<'_, Row> {
        let map = self.map_at(sector);
        map.row(sector / map.chunk_sectors())
    }

    /// The array is another one from here on, of the same bytes.
    ///
    /// # Panics
    /// While anything is under way.
    pub fn regrade(&mut self, geometry: Arc<Geometry>) {
        assert!(self.is_idle(), "nobody knows the old geometry");
        assert_eq!(self.locks.held(), 0, "nor holds a lock of it");
        self.balance = read::Balance::new(geometry.raid_disks());
        self.geometry = geometry;
    }

    /// A RAID1 has another number of slots from here on, also for what is under way: those that
    /// come or go have no member.
    pub fn relegs(&mut self, geometry: Arc<Geometry>) {
        let mirrored = |one: &Geometry| matches!(one, Geometry::Mirrored { .. });
        assert!(
            mirrored(&geometry) && mirrored(&self.geometry),
            "of a RAID1"
        );
        self.balance.reach(geometry.raid_disks());
        self.geometry = geometry;
    }

    /// The array is longer from here on; what there was lies where it lay.
    pub fn extend(&mut self, geometry: Arc<Geometry>) {
        assert!(geometry.is_mirror(), "copies stay where they are");
        self.geometry = geometry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_on_one_side_of_the_frontier() {
        let mut shift = Shift {
            geometry: Arc::new(Geometry::Mirrored { legs: 2 }),
            frontier_sectors: 64,
            backwards: false,
        };
        assert!(shift.has_moved(0) && shift.has_moved(63) && !shift.has_moved(64));
        shift.backwards = true;
        assert!(!shift.has_moved(0) && !shift.has_moved(63) && shift.has_moved(64));
    }
}
