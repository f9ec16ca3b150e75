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
use crate::value::{Exhibit, MemberId, Museum};

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
    /// Ranges above, with their ends, that were made to agree before a read of them was answered.
    committed: BTreeMap<u64, u64>,
    museum: Museum,
}

/// So many ranges are remembered; what is forgotten is looked at again by the next read.
const COMMITTED_MAX: usize = 4096;

impl Cover {
    /// Members agree below `synced_below_sectors` (`MAX_SECTOR`: everywhere).
    pub fn new(synced_below_sectors: u64) -> Cover {
        Cover {
            rebuilt: BTreeMap::new(),
            open: BTreeMap::new(),
            synced_below_sectors,
            committed: BTreeMap::new(),
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

    /// A member is known to be valid below `done`; what takes writes of it already goes on to.
    pub fn raise_rebuilt(&mut self, member: MemberId, done_sectors: u64) {
        let before = self.rebuilt.get(&member);
        let (done, issued) = before.map_or((0, 0), |r| (r.done_sectors, r.issued_sectors));
        let done = done.max(done_sectors);
        self.set_rebuilt(member, done, issued.max(done));
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
        while self
            .committed
            .first_key_value()
            .is_some_and(|(_, end)| *end <= sectors)
        {
            self.committed.pop_first();
        }
    }

    /// The holder of the lock on `start..end` made members agree there.
    pub fn note_committed(&mut self, start: u64, end: u64) {
        assert!(start < end, "a range that agrees");
        let below = self.committed.range(..=start).next_back();
        let from = match below {
            Some((from, to)) if *to >= start => *from,
            _ => start,
        };
        let touching = self.committed.range(from..=end);
        let touching: Vec<u64> = touching.map(|(from, _)| *from).collect();
        let removed = touching
            .iter()
            .filter_map(|from| self.committed.remove(from));
        let end = removed.fold(end, u64::max);
        self.committed.insert(from, end);
        if self.committed.len() > COMMITTED_MAX {
            self.committed.pop_first();
        }
    }

    /// Members have changed where nothing was written: what they agreed about does not count.
    pub fn forget_committed(&mut self) {
        self.committed.clear();
    }

    /// The end of the committed range that holds this sector.
    fn committed_end(&self, at: u64) -> Option<u64> {
        let (_, end) = self.committed.range(..=at).next_back()?;
        (*end > at).then_some(*end)
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
    /// lock. Where regions tell all nothing else is asked: one may need a resync again after
    /// the resync has passed it.
    pub fn agrees(&self, regions: Option<&Regions>, start: u64, end: u64) -> bool {
        assert!(start < end, "a range that is asked about");
        let states = regions.is_some_and(Regions::tell_all);
        let below = if states { 0 } else { self.synced_below_sectors };
        if end <= below {
            return true;
        }
        let mut at = start.max(below);
        while at < end {
            let next = match (self.committed_end(at), regions) {
                (Some(committed), _) => committed,
                (None, Some(regions)) if !regions.in_doubt(at) => regions.region_end_sectors(at),
                (None, _) => return false,
            };
            assert!(next > at, "each stretch ends behind its sectors");
            at = next;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::MAX_SECTOR;

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

    /// Against a set of sectors.
    #[test]
    fn what_was_committed_agrees_and_nothing_else() {
        let mut cover = Cover::new(0);
        let mut sectors = std::collections::BTreeSet::new();
        let mut draw = 12345_u64;
        for _ in 0..2000 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (start, len) = (draw >> 33 & 255, (draw >> 50 & 7) + 1);
            if draw >> 60 == 0 {
                cover.set_synced_below(0);
                cover = Cover::new(0);
                sectors.clear();
            }
            cover.note_committed(start, start + len);
            sectors.extend(start..start + len);
            let at = draw >> 20 & 255;
            let wanted = (at..at + len).all(|sector| sectors.contains(&sector));
            assert_eq!(cover.agrees(None, at, at + len), wanted, "{at}+{len}");
            let ends = cover.committed.values().zip(cover.committed.keys().skip(1));
            assert!(
                ends.into_iter().all(|(end, next)| end < next),
                "ranges lie apart"
            );
        }
        cover.set_synced_below(100);
        assert!(cover.committed.values().all(|end| *end > 100));
    }

    #[test]
    fn no_more_ranges_are_kept_than_fit() {
        let mut cover = Cover::new(0);
        for at in 0..2 * COMMITTED_MAX as u64 {
            cover.note_committed(2 * at, 2 * at + 1);
        }
        assert_eq!(cover.committed.len(), COMMITTED_MAX);
    }
}
