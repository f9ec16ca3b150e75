//! A reshape on its way: on which side of its frontier a row lies, and where on a member.
//!
//! ```text
//!   a member, forwards        |<-- by -->|
//!     ...  rows below F, new  |          |  rows from F on, old  |
//!          offset - by + row             offset + row
//!                              nobody's: old places of what was moved, and the window
//! ```
//!
//! Backwards is its mirror image. "Relative" sectors count rows as before: what is moved keeps its
//! number.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::Geometry;

/// Rows on one side of a frontier lie elsewhere, in another layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moving {
    /// md's layout number of what has been moved.
    pub layout: i32,
    /// Relative sectors: what has been moved ends here; backwards, it begins here.
    pub frontier: u64,
    /// From the end to the start.
    pub backwards: bool,
    /// By how much data is moved on each member.
    pub by: i64,
}

impl Moving {
    /// Whether the row of a relative sector has been moved.
    pub fn has_moved(self, relative: u64) -> bool {
        (relative < self.frontier) != self.backwards
    }

    /// The device sector of a relative one.
    fn device(self, data_offset: u64, relative: u64) -> u64 {
        let by = if self.has_moved(relative) { self.by } else { 0 };
        let at = (data_offset + relative).checked_add_signed(by);
        at.expect("what was moved lies on its device")
    }
}

/// The device sector of a relative one, whether or not anything is being moved.
pub fn device_sector(moving: Option<Moving>, data_offset: u64, relative: u64) -> u64 {
    match moving {
        Some(moving) => moving.device(data_offset, relative),
        None => data_offset + relative,
    }
}

/// The device sectors of a relative range: two pieces if the frontier lies in it.
pub fn device_ranges(
    moving: Option<Moving>,
    data_offset: u64,
    range: Range<u64>,
) -> SmallVec<[Range<u64>; 2]> {
    let at = |range: Range<u64>| {
        let first = device_sector(moving, data_offset, range.start);
        first..first + (range.end - range.start)
    };
    match moving.map(|moving| moving.frontier) {
        Some(middle) if range.start < middle && middle < range.end => {
            smallvec![at(range.start..middle), at(middle..range.end)]
        }
        _ if range.start >= range.end => smallvec![],
        _ => smallvec![at(range)],
    }
}

impl Geometry {
    /// The layout of a row.
    pub(super) fn layout_of(&self, row: u64) -> i32 {
        let moved = self
            .moving
            .filter(|moving| moving.has_moved(row * self.chunk_sectors));
        moved.map_or(self.layout, |moving| moving.layout)
    }

    /// The device sector of a relative one, on a member whose data starts (or started, as long as
    /// it is being moved) at `data_offset`.
    pub fn on_device(&self, data_offset: u64, relative: u64) -> u64 {
        device_sector(self.moving, data_offset, relative)
    }

    /// The relative sector that lies at a device sector; `None`: none does, now.
    pub fn relative_of(&self, data_offset: u64, device: u64) -> Option<u64> {
        let Some(moving) = self.moving else {
            return device.checked_sub(data_offset);
        };
        let old = device.checked_sub(data_offset);
        let new = device.checked_add_signed(-moving.by);
        let new = new.and_then(|device| device.checked_sub(data_offset));
        old.filter(|at| !moving.has_moved(*at))
            .or(new.filter(|at| moving.has_moved(*at)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Known;
    use super::*;

    #[test]
    fn what_is_moved_is_found_again_and_nothing_lies_twice() {
        for (backwards, by) in [(false, -24i64), (true, 40)] {
            let moving = Moving {
                layout: 5,
                frontier: 48,
                backwards,
                by,
            };
            let geometry = Geometry {
                level: 5,
                layout: 2,
                slots: 3,
                chunk_sectors: 8,
                member_sectors: vec![160; 3],
                moving: Some(moving),
                known: Known::default(),
            };
            let mut seen = std::collections::BTreeSet::new();
            for relative in 0..160 {
                let device = geometry.on_device(100, relative);
                assert!(seen.insert(device), "two rows at {device}");
                assert_eq!(geometry.relative_of(100, device), Some(relative));
                let moved = (relative < 48) != backwards;
                let parity = geometry.row(relative / 8).p;
                assert_eq!(parity == Some(2), moved || relative / 8 % 3 == 0);
            }
            let nobodys = if backwards { 148..188 } else { 124..148 };
            for device in nobodys {
                assert_eq!(geometry.relative_of(100, device), None, "{device}");
            }
            let pieces = device_ranges(Some(moving), 100, 40..56);
            assert_eq!(pieces.len(), 2);
            for sector in 0..geometry.array_sectors() {
                let place = geometry.places(sector)[0];
                assert_eq!(geometry.sector_at(place), Some(sector));
            }
        }
    }
}
