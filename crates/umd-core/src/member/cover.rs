//! How far members that are not wholly valid can be used. Kept by the sync machine.
//!
//! ```text
//!   member being rebuilt   |#########|::::::|..............|
//!                          0       done   issued          end
//!
//!   # valid; anybody may read     : units were begun here; what none of them has open any more
//!   . stale: rebuilt later          is valid, what one still has open takes writes only
//! ```

use std::collections::BTreeMap;

use super::epoch::Column;
use crate::bitmap::Regions;
use crate::value::{Exhibit, MAX_SECTOR, MemberId, Museum};

/// What can be done with a slot in a range of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Holds what it should.
    Usable,
    /// Is being rebuilt here: takes writes, must not be read.
    WriteOnly,
    /// Nothing there, or not rebuilt yet.
    Lost,
}

#[derive(Debug, Clone, Copy)]
struct Reach {
    done_sectors: u64,
    issued_sectors: u64,
}

/// The reach of rebuilds and of the resync.
#[derive(Debug, Clone)]
pub struct Cover {
    rebuilt: BTreeMap<MemberId, Reach>,
    /// Ranges of units that are not done: queued, under way, or given up.
    open: BTreeMap<u64, u64>,
    /// Redundancy agrees below this, for whoever holds the lock.
    synced_below_sectors: u64,
    museum: Museum,
}

impl Cover {
    /// Members agree below `synced_below_sectors` (`MAX_SECTOR`: everywhere).
    pub fn new(synced_below_sectors: u64) -> Cover {
        Cover {
            rebuilt: BTreeMap::new(),
            open: BTreeMap::new(),
            synced_below_sectors,
            museum: Museum::NONE,
        }
    }

    /// See [`Museum`].
    pub fn exhibit(&mut self, museum: Museum) {
        self.museum = museum;
    }

    /// A member being rebuilt is valid below `done`, and below `issued` under the lock.
    pub fn set_rebuilt(&mut self, member: MemberId, done_sectors: u64, issued_sectors: u64) {
        assert!(done_sectors <= issued_sectors, "done before it was issued");
        let before = self.done_sectors(member);
        assert!(before <= done_sectors, "what was rebuilt stays rebuilt");
        self.rebuilt.insert(
            member,
            Reach {
                done_sectors,
                issued_sectors,
            },
        );
    }

    /// A unit will rebuild this range.
    pub fn open(&mut self, start: u64, end: u64) {
        assert!(start < end, "a unit covers something");
        assert!(!self.is_open(start, end), "two units in one range");
        self.open.insert(start, end);
    }

    /// The unit whose range starts here is done.
    pub fn close(&mut self, start: u64) {
        self.open.remove(&start);
    }

    /// The run is over; what it had begun was lowered to what is done.
    pub fn close_all(&mut self) {
        self.open.clear();
    }

    fn is_open(&self, start: u64, end: u64) -> bool {
        self.open
            .range(..end)
            .any(|(_, open_end)| *open_end > start)
    }

    /// The member is in sync, or gone.
    pub fn forget(&mut self, member: MemberId) {
        self.rebuilt.remove(&member);
    }

    /// Valid below this without a lock.
    pub fn done_sectors(&self, member: MemberId) -> u64 {
        self.rebuilt.get(&member).map_or(0, |r| r.done_sectors)
    }

    /// Members agree below this, for whoever holds the lock.
    pub fn set_synced_below(&mut self, sectors: u64) {
        self.synced_below_sectors = sectors;
    }

    /// What a slot is good for in `start..end`, for a holder of that range's lock.
    pub fn locked_access(&self, column: Option<&Column>, start: u64, end: u64) -> Access {
        assert!(start < end, "a range that is asked about");
        let Some(column) = column else {
            return Access::Lost;
        };
        if column.in_sync {
            return Access::Usable;
        }
        match self.rebuilt.get(&column.member) {
            Some(reach) if reach.done_sectors >= end => Access::Usable,
            // U02: whoever held the lock before the unit that was queued behind it trusted what
            // that unit had yet to rebuild.
            Some(reach)
                if reach.issued_sectors >= end
                    && (self.museum.on(Exhibit::U02) || !self.is_open(start, end)) =>
            {
                Access::Usable
            }
            Some(reach) if reach.issued_sectors > start => Access::WriteOnly,
            _ => Access::Lost,
        }
    }

    /// What a slot is good for up to `end`, without a lock.
    pub fn free_access(&self, column: Option<&Column>, end: u64) -> Access {
        let Some(column) = column else {
            return Access::Lost;
        };
        match column.in_sync || self.done_sectors(column.member) >= end {
            true => Access::Usable,
            false => Access::Lost,
        }
    }

    /// Whether redundancy is known to agree in `start..end` (no resync owed), for a holder of the
    /// lock.
    pub fn agrees(&self, regions: Option<&Regions>, start: u64, end: u64) -> bool {
        assert!(start < end, "a range that is asked about");
        if end <= self.synced_below_sectors || self.synced_below_sectors == MAX_SECTOR {
            return true;
        }
        let Some(regions) = regions else { return false };
        let mut at = start.max(self.synced_below_sectors);
        while at < end {
            if regions.needs_resync(at) {
                return false;
            }
            let next = regions.region_end_sectors(at);
            assert!(next > at, "each region ends behind its sectors");
            at = next;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rebuilt_member_is_usable_below_its_reach() {
        let mut cover = Cover::new(MAX_SECTOR);
        let column = Column {
            member: MemberId(3),
            data_offset_sectors: 0,
            in_sync: false,
            write_mostly: false,
        };
        let column = Some(&column);
        assert_eq!(cover.locked_access(column, 0, 8), Access::Lost);
        cover.set_rebuilt(MemberId(3), 64, 128);
        assert_eq!(cover.free_access(column, 64), Access::Usable);
        assert_eq!(cover.free_access(column, 72), Access::Lost);
        assert_eq!(cover.locked_access(column, 64, 72), Access::Usable);
        cover.open(72, 80);
        assert_eq!(cover.locked_access(column, 64, 72), Access::Usable);
        assert_eq!(cover.locked_access(column, 64, 73), Access::WriteOnly);
        assert_eq!(cover.locked_access(column, 79, 81), Access::WriteOnly);
        assert_eq!(cover.locked_access(column, 80, 81), Access::Usable);
        cover.close(72);
        assert_eq!(cover.locked_access(column, 120, 130), Access::WriteOnly);
        assert_eq!(cover.locked_access(column, 128, 130), Access::Lost);
        assert_eq!(cover.locked_access(None, 0, 1), Access::Lost);
    }

    #[test]
    fn agreement_follows_the_resync() {
        let mut cover = Cover::new(100);
        assert!(cover.agrees(None, 50, 100));
        assert!(!cover.agrees(None, 50, 101));
        cover.set_synced_below(MAX_SECTOR);
        assert!(cover.agrees(None, 0, 1 << 40));
    }
}
