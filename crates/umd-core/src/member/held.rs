//! Redundancy of a range: which members hold each sector of it.
//!
//! ```text
//!   slot 0   |##########..##########|   . its log names it: as if the member were lost there
//!   slot 1   |##################....|
//!   slot 2   |          lost        |
//!            `--- one stretch ---'      within a stretch the same members hold everything
//! ```
//!
//! Whether the array can do without a member is counted by member; what one member may lack, and
//! whether a write is held, is counted here.

use smallvec::SmallVec;
use umd_format::badblocks::BadRanges;

use super::bad_blocks::BadBlocks;
use super::epoch::{Column, Epoch};
use crate::geometry::{Copy, Geometry};
use crate::value::MemberId;

/// Where what lies on a slot from `member_sectors` on has its copies, or the rest of its row.
pub fn companions(geometry: &Geometry, slot: u16, member_sectors: u64) -> SmallVec<[Copy; 16]> {
    match geometry {
        Geometry::Mirrored { .. } => geometry.copies(member_sectors).into_iter().collect(),
        Geometry::Copied(map) => match map.array_sector(slot, member_sectors) {
            Some(at) => map.copies(at).into_iter().collect(),
            None => SmallVec::new(),
        },
        geometry => {
            let column = |slot| Copy {
                slot,
                member_sectors,
            };
            (0..geometry.raid_disks()).map(column).collect()
        }
    }
}

/// Who holds what.
pub struct Held<'a> {
    /// The members.
    pub epoch: &'a Epoch,
    /// What they cannot give.
    pub bad: &'a BadBlocks,
    /// As if this one were lost.
    pub except: Option<MemberId>,
}

impl Held<'_> {
    /// Calls `all` for each stretch of `len_sectors` behind these places with who holds it, in the
    /// order of the places, until it says no. Who is being rebuilt holds nothing.
    fn stretches(
        &self,
        places: &[Copy],
        len_sectors: u64,
        mut all: impl FnMut(&[bool]) -> bool,
    ) -> bool {
        assert!(len_sectors > 0, "a range that is asked about");
        let there = |c: &&Column| c.in_sync && self.except != Some(c.member);
        let column = |place: &Copy| self.epoch.column(place.slot).filter(there);
        let mut cuts = vec![0, len_sectors];
        for place in places {
            let Some(column) = column(place) else {
                continue;
            };
            let from = column.data_offset_sectors + place.member_sectors;
            let bad = self.bad.of(column.member);
            let bad = bad.map(|bad| bad.within(from, from + len_sectors));
            for range in bad.into_iter().flatten() {
                let start = range.start_sectors - from;
                cuts.extend([start, start + range.length_sectors]);
            }
        }
        cuts.sort_unstable();
        cuts.dedup();
        let holds = |place: &Copy, (start, end): (u64, u64)| {
            let here = |column: &Column| {
                let from = column.data_offset_sectors + place.member_sectors;
                let bad = self.bad.of(column.member);
                bad.is_none_or(|bad| !bad.overlaps(from + start, from + end))
            };
            column(place).is_some_and(here)
        };
        cuts.windows(2).all(|cut| {
            let who: SmallVec<[bool; 16]> =
                places.iter().map(|p| holds(p, (cut[0], cut[1]))).collect();
            all(&who)
        })
    }

    /// Whether others than the member in `slot` hold what it has there, each sector, and can give
    /// it back.
    pub fn without(&self, geometry: &Geometry, (slot, at): (u16, u64), len_sectors: u64) -> bool {
        let places = companions(geometry, slot, at);
        if places.is_empty() {
            return false;
        }
        let needed = match geometry.is_mirror() {
            true => 1,
            false => places.len() - usize::from(geometry.redundancy()),
        };
        self.stretches(&places, len_sectors, |who| {
            let others = places.iter().zip(who);
            others.filter(|(p, held)| **held && p.slot != slot).count() >= needed
        })
    }

    /// Whether what lies on a slot can be read: there, or from others.
    pub fn anyhow(&self, geometry: &Geometry, (slot, at): (u16, u64), len_sectors: u64) -> bool {
        let places = companions(geometry, slot, at);
        let needed = match geometry.is_mirror() {
            true => 1,
            false => places.len() - usize::from(geometry.redundancy()),
        };
        self.stretches(&places, len_sectors, |who| {
            let own = places
                .iter()
                .zip(who)
                .any(|(p, held)| *held && p.slot == slot);
            own || who.iter().filter(|held| **held).count() >= needed
        })
    }

    /// Sectors that members refused, and that nobody can give once this one is lost, too.
    pub fn sectors_lost_with(&self, geometry: &Geometry, member: MemberId) -> u64 {
        let without = Held {
            except: Some(member),
            ..*self
        };
        let mut lost = 0;
        for (slot, column) in self.epoch.columns.iter().enumerate() {
            let slot = u16::try_from(slot).expect("slots fit 16 bits");
            let Some(column) = column.filter(|c| c.in_sync && c.member != member) else {
                continue;
            };
            let bad = self.bad.of(column.member).into_iter();
            for range in bad.flat_map(BadRanges::iter) {
                let end = range.start_sectors + range.length_sectors;
                let start = range.start_sectors.max(column.data_offset_sectors);
                let at = (start..end).map(|at| (slot, at - column.data_offset_sectors));
                let had = at.filter(|at| self.anyhow(geometry, *at, 1));
                lost += had.filter(|at| !without.anyhow(geometry, *at, 1)).count() as u64;
            }
        }
        lost
    }
}
