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

#[cfg(test)]
mod tests {
    use umd_format::create::{NewArray, NewMember, new_array};
    use umd_format::v1::DeviceFlags;
    use umd_format::{Format, Level, SuperblockV1, Uuid};

    use super::*;
    use crate::geometry::{Raid10, Raid456};
    use crate::member::epoch::are_in_sync;

    const DATA: u64 = 2048;

    /// A member with an empty log.
    fn superblock() -> SuperblockV1 {
        let member = NewMember {
            device_sectors: 8192,
            device_uuid: Uuid([1; 16]),
            flags: DeviceFlags(0),
        };
        let made = new_array(&NewArray {
            format: Format::V1_2,
            preferred_minor: 0,
            set_uuid: Uuid([7; 16]),
            name: "host:test".into(),
            ctime_seconds: 1_700_000_000,
            level: Level::Raid1,
            layout: 0,
            chunk_sectors: 0,
            size_sectors: None,
            data_offset_sectors: Some(DATA),
            bitmap: None,
            bad_block_log: true,
            assume_clean: true,
            slots: vec![Some(member)],
            spares: Vec::new(),
        });
        made.expect("made").slots[0].clone().expect("a member")
    }

    /// Slots hold member 10 and up; `lost` is empty, `rebuilt` is being filled. Data sectors of
    /// slots that logs name.
    fn array(slots: u16, lost: u16, rebuilt: u16, named: &[(u16, u64, u64)]) -> (Epoch, BadBlocks) {
        let member = |slot: u16| MemberId(10 + u32::from(slot));
        let column = |slot: u16| Column {
            member: member(slot),
            data_offset_sectors: DATA,
            in_sync: slot != rebuilt,
            write_mostly: false,
        };
        let columns = (0..slots).map(|slot| (slot != lost).then(|| column(slot)));
        let columns: Vec<Option<Column>> = columns.collect();
        let mut bad = BadBlocks::default();
        for slot in 0..slots {
            bad.take_in(member(slot), &superblock(), None, (8192, 512));
        }
        for (slot, start, end) in named {
            assert!(bad.mark(member(*slot), DATA + start, DATA + end));
        }
        let moved = None;
        (
            Epoch {
                number: 1,
                whole: are_in_sync(&columns),
                columns,
                moved,
            },
            bad,
        )
    }

    /// Sector by sector, what is found for ranges.
    #[test]
    fn ranges_are_held_as_each_of_their_sectors_is() {
        let parity = |level| Geometry::Parity(Raid456::new(level, 2, 5, 8, 64).expect("a map"));
        let copied = Geometry::Copied(Raid10::new(0x102, 5, 8, 64).expect("a map"));
        let named = [
            (0, 8, 16),
            (1, 12, 20),
            (1, 40, 44),
            (2, 14, 15),
            (3, 0, 64),
        ];
        for geometry in [
            Geometry::Mirrored { legs: 5 },
            parity(Level::Raid5),
            parity(Level::Raid6),
            copied,
        ] {
            for (lost, rebuilt) in [(9, 9), (4, 9), (9, 4), (9, 2)] {
                let (epoch, bad) = array(5, lost, rebuilt, &named);
                let named = |slot, at| named.iter().any(|n| n.0 == slot && n.1 <= at && at < n.2);
                let holds = |copy: &Copy| {
                    let there = copy.slot != lost && copy.slot != rebuilt;
                    there && !named(copy.slot, copy.member_sectors)
                };
                let enough = |slot: u16, at: u64, own: bool| {
                    let places = companions(&geometry, slot, at);
                    let needed = match geometry.is_mirror() {
                        true => 1,
                        false => 5 - usize::from(geometry.redundancy()),
                    };
                    let mine = places.iter().any(|p| p.slot == slot && holds(p));
                    let others = places.iter().filter(|p| holds(p) && p.slot != slot).count();
                    others >= needed || own && mine
                };
                let held = Held {
                    epoch: &epoch,
                    bad: &bad,
                    except: None,
                };
                for (slot, at, len) in (0..5).flat_map(|slot| {
                    let chunks = (0..64).step_by(8).map(move |at| (slot, at, 8));
                    chunks.chain((0..64).map(move |at| (slot, at, 1)))
                }) {
                    let all = |own| (at..at + len).all(|at| enough(slot, at, own));
                    let what = format!("{geometry:?} {lost} {rebuilt}: {slot} {at}+{len}");
                    assert_eq!(held.anyhow(&geometry, (slot, at), len), all(true), "{what}");
                    assert_eq!(
                        held.without(&geometry, (slot, at), len),
                        all(false),
                        "{what}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_lost_with_a_member_is_what_no_other_can_give() {
        let mirror = Geometry::Mirrored { legs: 3 };
        let named = [(0, 8, 16), (1, 12, 20), (2, 14, 15)];
        let (epoch, bad) = array(3, 9, 9, &named);
        let held = Held {
            epoch: &epoch,
            bad: &bad,
            except: None,
        };
        let lost = |slot: u32| held.sectors_lost_with(&mirror, MemberId(10 + slot));
        // 12..14 and 15..16 are on the third leg alone; 14 is nowhere, whoever is lost.
        assert_eq!((lost(0), lost(1), lost(2)), (0, 0, 6));
    }
}
