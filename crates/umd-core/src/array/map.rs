//! Where dirty regions and bad blocks lie, for pictures.
//!
//! ```text
//!   regions   0 0 1 1 | 0 0 0 0 | 1 0 0 0        of the bitmap, in equal parts
//!   cells       50 %  |    0 %  |   25 %         a part with one dirty region is never 0
//! ```

use umd_format::badblocks::BadRange;

use super::engine::Array;
use crate::bitmap::Regions;
use crate::value::MemberId;

/// Bad ranges of a member that are told, at the most.
const RANGES_MAX: usize = 512;

/// Where things lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map {
    /// How much of each part of the bitmap is dirty, percent; `None` without a bitmap.
    pub dirty_percent: Option<Vec<u8>>,
    /// What the members' bad-block logs name (absolute device sectors), up to 512 ranges each.
    pub bad: Vec<(MemberId, Vec<BadRange>)>,
}

impl Array {
    /// Where dirty regions lie, in at most `cells` parts, and where bad blocks do.
    pub fn map(&self, cells: u16) -> Map {
        let bad = self.members.iter().filter_map(|member| {
            let ranges = self.io.bad.of(member.id)?;
            Some((member.id, ranges.iter().take(RANGES_MAX).collect()))
        });
        Map {
            dirty_percent: self.bitmap.regions().map(|regions| dirty(regions, cells)),
            bad: bad.collect(),
        }
    }
}

fn dirty(regions: &Regions, cells: u16) -> Vec<u8> {
    let cells = u64::from(cells.max(1)).min(regions.count());
    let edge = |cell: u64| {
        let at = u128::from(regions.count()) * u128::from(cell) / u128::from(cells);
        u64::try_from(at).expect("no more than there are")
    };
    let part = |cell: u64| {
        let (start, end) = (edge(cell), edge(cell + 1));
        assert!(start < end, "no more cells than regions");
        (regions.dirty_between(start, end) * 100).div_ceil(end - start)
    };
    (0..cells)
        .map(|cell| u8::try_from(part(cell)).expect("a share of 100"))
        .collect()
}
