//! What superblocks say of the shape of an array, and of a reshape on its way.

use super::{SuperView, u32_at, u64_at};

const FEATURE_RESHAPE: u32 = 4;
const FEATURE_BACKWARDS: u32 = 0x20;
const FEATURE_NEW_OFFSET: u32 = 0x40;

/// What an array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Level.
    pub level: i32,
    /// md's layout number.
    pub layout: i32,
    /// Slots.
    pub slots: u16,
}

/// Where a reshape goes, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The layout it leads to.
    pub layout: i32,
    /// Array sectors.
    pub position: u64,
    /// From the end to the start.
    pub backwards: bool,
    /// By how much the data of this member is moved; 0: it has not been told.
    pub by: i64,
}

impl SuperView<'_> {
    /// Level, layout and slots; of version 1 only.
    pub fn shape(self) -> Option<Shape> {
        let slots = u16::try_from(u32_at(self.bytes, 92)).ok()?;
        (!self.old).then(|| Shape {
            level: u32_at(self.bytes, 72).cast_signed(),
            layout: u32_at(self.bytes, 76).cast_signed(),
            slots,
        })
    }

    /// The reshape that is on its way.
    pub fn reshape(self) -> Option<Way> {
        let features = u32_at(self.bytes, 8);
        let active = !self.old && features & FEATURE_RESHAPE != 0;
        let by = match features & FEATURE_NEW_OFFSET {
            0 => 0,
            _ => i64::from(u32_at(self.bytes, 124).cast_signed()),
        };
        active.then(|| Way {
            layout: u32_at(self.bytes, 116).cast_signed(),
            position: u64_at(self.bytes, 104),
            backwards: features & FEATURE_BACKWARDS != 0,
            by,
        })
    }
}
