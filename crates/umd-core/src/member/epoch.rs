//! The immutable snapshot of who holds what.
//!
//! ```text
//!   control --publish--> epoch 7   (requests plan by it, and hold it while their I/O flies)
//!                        epoch 6   (kept alive by requests planned earlier; drained when dropped)
//! ```
//!
//! A request never sees half of a change: it plans by one epoch, and what was planned by an older
//! one is planned again before anything is written.

use std::sync::Arc;

use super::table::{Members, State};
use crate::geometry::Geometry;
use crate::value::{MemberId, Slot};

/// What a slot is to the requests of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The member in the slot.
    pub member: MemberId,
    /// Where array data starts on it.
    pub data_offset_sectors: u64,
    /// Holds valid data everywhere. Otherwise it is being rebuilt: valid below the sync cursor.
    pub in_sync: bool,
    /// Host reads avoid it.
    pub write_mostly: bool,
}

/// One snapshot.
#[derive(Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Rises by one with each publication.
    pub number: u64,
    /// By slot; `None` where nothing usable is.
    pub columns: Vec<Option<Column>>,
    /// Each slot has a member in sync.
    pub whole: bool,
    /// During a reshape: the same, where data starts that has been moved.
    pub moved: Option<Box<Epoch>>,
}

pub(super) fn are_in_sync(columns: &[Option<Column>]) -> bool {
    columns
        .iter()
        .all(|column| column.is_some_and(|c| c.in_sync))
}

impl Epoch {
    /// The snapshot of these members.
    pub fn of(number: u64, members: &Members, raid_disks: u16) -> Arc<Epoch> {
        let columns: Vec<Option<Column>> = (0..raid_disks)
            .map(|slot| {
                let member = members.in_slot(Slot(slot))?;
                Some(Column {
                    member: member.id,
                    data_offset_sectors: member.data_offset_sectors(),
                    in_sync: member.state == State::InSync,
                    write_mostly: member.write_mostly,
                })
            })
            .collect();
        assert!(number > 0, "epochs are counted from 1");
        assert_eq!(columns.len(), usize::from(raid_disks), "a column a slot");
        let moved = members.iter().any(|m| m.moves_by_sectors() != 0);
        let moved = moved.then(|| {
            let columns = columns.iter().map(|column| {
                let mut column = (*column)?;
                let by = members.get(column.member)?.moves_by_sectors();
                let moved = column.data_offset_sectors.checked_add_signed(by);
                column.data_offset_sectors = moved.expect("assembly has looked at it");
                Some(column)
            });
            let columns: Vec<Option<Column>> = columns.collect();
            Box::new(Epoch {
                number,
                whole: are_in_sync(&columns),
                columns,
                moved: None,
            })
        });
        Arc::new(Epoch {
            number,
            whole: are_in_sync(&columns),
            columns,
            moved,
        })
    }

    /// The snapshot for sectors that a reshape has moved already, or has not.
    pub fn side(&self, moved: bool) -> &Epoch {
        match &self.moved {
            Some(epoch) if moved => epoch,
            _ => self,
        }
    }

    /// The column of a slot; none also where the slot is no more, or not yet.
    pub fn column(&self, slot: u16) -> Option<&Column> {
        self.columns.get(usize::from(slot))?.as_ref()
    }

    /// The order in which the legs of a mirror are asked where they may differ, the least first:
    /// those in sync, and among them ordinary ones, which hold all that was answered; of equals
    /// the first. Whoever makes legs equal takes the same one as its source.
    pub fn rank(&self, slot: u16) -> (bool, bool) {
        let column = self.column(slot);
        let in_sync = column.is_some_and(|c| c.in_sync);
        (!in_sync, column.is_some_and(|c| c.write_mostly))
    }

    /// Slots without an in-sync member.
    pub fn degraded(&self) -> u16 {
        let lost = self
            .columns
            .iter()
            .filter(|c| !c.is_some_and(|c| c.in_sync))
            .count();
        u16::try_from(lost).expect("slots fit 16 bits")
    }

    /// Whether members that differ at `start` (of a mirror an array sector) can be made to agree
    /// there: two hold it, or there is parity to spare.
    pub fn can_agree(&self, geometry: &Geometry, start: u64) -> bool {
        let in_sync = |slot: u16| self.column(slot).is_some_and(|c| c.in_sync);
        match geometry {
            Geometry::Linear(_) | Geometry::Striped(_) => false,
            geometry if geometry.is_mirror() => {
                let copies = geometry.copies(start);
                copies.iter().filter(|copy| in_sync(copy.slot)).count() > 1
            }
            geometry => self.degraded() < geometry.redundancy(),
        }
    }

    /// The in-sync columns, in slot order.
    pub fn in_sync(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().flatten().filter(|c| c.in_sync)
    }
}

#[cfg(test)]
mod tests {
    use umd_format::Level;

    use super::*;
    use crate::geometry::{Raid10, Raid456};

    fn column(in_sync: bool, write_mostly: bool) -> Option<Column> {
        Some(Column {
            member: MemberId(1),
            data_offset_sectors: 0,
            in_sync,
            write_mostly,
        })
    }

    fn epoch(columns: &[Option<Column>]) -> Epoch {
        Epoch {
            number: 1,
            whole: are_in_sync(columns),
            columns: columns.to_vec(),
            moved: None,
        }
    }

    #[test]
    fn ordinary_legs_are_asked_before_write_mostly_ones_and_those_before_what_is_rebuilt() {
        let epoch = epoch(&[
            column(false, false),
            column(true, true),
            column(true, false),
            column(true, false),
            None,
            column(false, true),
        ]);
        let mut slots: Vec<u16> = (0..6).collect();
        slots.sort_by_key(|slot| epoch.rank(*slot));
        assert_eq!(slots, [2, 3, 1, 0, 4, 5]);
        assert_eq!(epoch.degraded(), 3);
        assert_eq!(epoch.in_sync().count(), 3);
    }

    /// One copy, or the last parity, has nothing to be compared with.
    #[test]
    fn members_can_agree_where_there_is_redundancy_to_spare() {
        let (in_sync, rebuilt) = (column(true, false), column(false, false));
        let mirror = Geometry::Mirrored { legs: 3 };
        assert!(epoch(&[in_sync, in_sync, None]).can_agree(&mirror, 0));
        assert!(!epoch(&[in_sync, rebuilt, None]).can_agree(&mirror, 0));
        let rows = |level| {
            let map = Raid456::new(level, 2, 5, 8, 800).expect("a map");
            Geometry::Parity(map)
        };
        let lost = |count: usize| {
            let mut columns = [in_sync; 5];
            columns[..count].fill(rebuilt);
            epoch(&columns)
        };
        assert!(lost(0).can_agree(&rows(Level::Raid5), 0));
        assert!(!lost(1).can_agree(&rows(Level::Raid5), 0));
        assert!(lost(1).can_agree(&rows(Level::Raid6), 0));
        assert!(!lost(2).can_agree(&rows(Level::Raid6), 0));
        // Slots 0 and 1 hold the first chunk, 2 and 3 the second.
        let map = Raid10::new(0x102, 4, 8, 800).expect("a map");
        let copied = Geometry::Copied(map);
        let half = epoch(&[in_sync, in_sync, in_sync, None]);
        assert!(half.can_agree(&copied, 0) && half.can_agree(&copied, 7));
        assert!(!half.can_agree(&copied, 8) && half.can_agree(&copied, 16));
    }
}
