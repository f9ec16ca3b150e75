//! The bitmap comes to be for another size of the array.
//!
//! ```text
//!   before   | x . . x . |           a mark for each region, the last one may be cut short
//!   longer   | x . . x . . . . |     what is added is clean until somebody marks it
//!   shorter  | x . . |               what lay behind is forgotten, marks and all
//! ```
//!
//! Regions keep their size and their places, so what is under way in those that stay goes on.

use umd_format::bitmap::{BitmapSuperblock, RegionState};

use super::{NEEDED, PAGE_BYTES, Regions, Watch};

impl Regions {
    /// From here on they are for so many sectors, as this superblock says how long that makes the
    /// area. Nothing of it is written yet.
    ///
    /// # Panics
    /// When somebody writes in a region that goes, or a bitmap of nothing is left.
    pub(in crate::bitmap) fn reach(&mut self, superblock: &BitmapSuperblock, sectors: u64) {
        let count = sectors.div_ceil(self.region_sectors);
        assert!(count > 0, "a bitmap covers something");
        for region in count..self.count {
            self.forget(region);
        }
        let slots = usize::try_from(count).expect("bitmaps fit memory");
        self.writers.resize(slots, 0);
        self.flags.resize(slots, 0);
        self.marks.reach(superblock, count);
        let first = self.count.min(count);
        self.count = count;
        for region in first..count {
            self.marks.put(region, RegionState::Clean);
        }
        self.swept = self.swept.min(count);
        let pages = self.area_bytes().div_ceil(PAGE_BYTES);
        self.open_pages.retain(|page| *page < pages);
        self.watch = Watch::new(slots);
    }

    /// A region goes.
    fn forget(&mut self, region: u64) {
        let at = region as usize;
        let writers = std::mem::take(&mut self.writers[at]);
        let uncounted = writers == u32::MAX;
        assert!(writers == 0 || uncounted, "somebody writes in what goes");
        self.needed -= u64::from(self.flags[at] & NEEDED != 0);
        self.flags[at] = 0;
        self.dirty -= u64::from(self.bit(region));
        self.marks.put(region, RegionState::Clean);
        self.pending.remove(&region);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_format::Uuid;

    fn made(count: u64, set: &[u64]) -> (BitmapSuperblock, Regions) {
        let superblock = BitmapSuperblock::new(Uuid([7; 16]), count * 8, 4096);
        let mut image = vec![0; superblock.area_bytes(count) as usize];
        for region in set {
            let (byte, mask) = umd_format::bitmap::bit_position(*region);
            image[byte as usize] |= mask;
        }
        let regions = Regions::load(&superblock, &image, count * 8, 0, false);
        (superblock, regions)
    }

    #[test]
    fn what_is_added_is_clean_whatever_lay_behind() {
        // Two bits behind the last region, as a size that was given up may leave them.
        let (superblock, mut regions) = made(20, &[3, 12, 19]);
        regions.reach(&superblock, 12 * 8);
        assert_eq!((regions.count(), regions.dirty()), (12, 1));
        regions.check();
        regions.reach(&superblock, 300 * 8 - 4);
        assert_eq!((regions.count(), regions.dirty()), (300, 1));
        assert_eq!(regions.dirty_between(0, 300), 1);
        regions.check_changed();
        regions.check();
        assert!(regions.needs_resync(3 * 8) && !regions.needs_resync(12 * 8));
    }

    #[test]
    fn a_write_goes_on_in_what_stays() {
        let (superblock, mut regions) = made(16, &[]);
        let ticket = regions.join(8, 8);
        regions.demand();
        regions.reach(&superblock, 40 * 8);
        let (batch, pages) = regions.close_batch().expect("it is waited for");
        assert_eq!(pages, [0]);
        regions.batch_written(batch);
        let intent = regions.redeem(ticket).expect("it is marked");
        regions.reach(&superblock, 16 * 8);
        regions.retire(intent);
        assert_eq!(regions.dirty(), 1);
        regions.check();
    }

    #[test]
    #[should_panic(expected = "somebody writes in what goes")]
    fn nothing_goes_in_which_somebody_writes() {
        let (superblock, mut regions) = made(16, &[]);
        let _ticket = regions.join(15 * 8, 8);
        regions.reach(&superblock, 15 * 8);
    }
}
