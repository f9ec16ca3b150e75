//! Each bit comes to stand for another length, while hosts write.
//!
//! ```text
//!   before    | x . . x |           one bit for each region
//!   coarser   |  x   x  |           dirty if any of its parts is
//!   finer     |xx .. .. xx|         all its parts, if it is dirty
//! ```
//!
//! Whoever writes keeps what it has: its regions are counted in those that they have become, step
//! by step for each change since, so that what was counted is what is given back. Each change to
//! longer regions and back multiplies that. What cannot be counted any more stays so: such a region
//! stays dirty until the array is started again.

use umd_format::bitmap::{self, BitmapSuperblock, RegionState};

use super::{NEEDED, Regions, Watch};

/// Regions of one length, until they get another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Era {
    pub(super) region_sectors: u64,
    /// How many there were when it began.
    count: u64,
}

impl Era {
    pub(super) fn new(region_sectors: u64, count: u64) -> Era {
        Era {
            region_sectors,
            count,
        }
    }
}

/// What is counted in regions of `from` from `first` on, in those of `to` that they become.
fn recount(first: u64, counts: &[u32], from: u64, to: Era) -> (u64, Vec<u32>) {
    if counts.is_empty() {
        return (0, Vec::new());
    }
    let last = first + counts.len() as u64 - 1;
    let new = to.region_sectors;
    let (low, high) = (first * from / new, ((last + 1) * from - 1) / new);
    let high = high.min(to.count - 1);
    let counted = (low..=high).map(|region| {
        let (start, end) = (region * new / from, ((region + 1) * new - 1) / from);
        let parts = start.max(first)..=end.min(last);
        let counts = parts.map(|part| counts[(part - first) as usize]);
        counts.fold(0, u32::saturating_add)
    });
    (low, counted.collect())
}

impl Regions {
    /// From here on they are as long as this superblock says. Nothing of it is written yet, so no
    /// mark counts as durable. Returns the area with what is dirty by either length.
    ///
    /// # Panics
    /// When what was closed to be written was not, or regions have states.
    pub(in crate::bitmap) fn rechunk(
        &mut self,
        superblock: &BitmapSuperblock,
        sectors: u64,
    ) -> Vec<u8> {
        assert_eq!(
            self.open_batch,
            self.written_batch + 1,
            "nothing is under way"
        );
        let from = self.region_sectors;
        let to = superblock.fields.region_bytes() / 512;
        let count = sectors.div_ceil(to);
        assert!(count > 0, "a bitmap covers something");
        let era = Era::new(to, count);
        let carried = |set: &[u64]| bitmap::carried_over(set, from, to, count);
        let marked: Vec<u64> = self.marks.marked().collect();
        let needs = |region: &u64| self.flags[*region as usize] & NEEDED != 0;
        let needed: Vec<u64> = (0..self.count).filter(needs).collect();
        let (marked, needed) = (carried(&marked), carried(&needed));
        let mut either = self.marks.rechunk(superblock, count);
        self.writers = recount(0, &self.writers, from, era).1;
        self.flags = vec![0; self.writers.len()];
        (self.region_sectors, self.count) = (to, count);
        self.eras.push(era);
        self.pending.clear();
        self.open_pages.clear();
        self.watch = Watch::new(self.writers.len());
        (self.dirty, self.needed, self.swept) = (0, 0, 0);
        for region in marked {
            self.marks.put(region, RegionState::Dirty);
            self.dirty += 1;
            self.pending.insert(region, self.open_batch);
            self.open_pages.insert(self.marks.page_of(region));
        }
        for region in needed {
            self.need(region);
        }
        for (byte, new) in either.iter_mut().zip(&self.marks.image) {
            *byte |= new;
        }
        either
    }

    /// Gives back what was counted in regions of an earlier length.
    pub(super) fn uncount_of(&mut self, (first, last): (u64, u64), era: usize) {
        let mut counted = (first, vec![1; (last - first + 1) as usize]);
        for pair in self.eras[era..].windows(2) {
            counted = recount(counted.0, &counted.1, pair[0].region_sectors, pair[1]);
        }
        for (region, count) in (counted.0..).zip(counted.1) {
            self.leave_region(region, count);
            self.watch.touch(region);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_format::Uuid;

    /// Regions of 4 KiB; those named are dirty.
    fn made(count: u64, set: &[u64]) -> Regions {
        let superblock = BitmapSuperblock::new(Uuid([7; 16]), count * 8, 4096);
        let mut image = vec![0; superblock.area_bytes(count) as usize];
        for region in set {
            let (byte, mask) = bitmap::bit_position(*region);
            image[byte as usize] |= mask;
        }
        let mut regions = Regions::load(&superblock, &image, count * 8, 0, false);
        regions.tell_all = true;
        regions
    }

    fn change(regions: &mut Regions, bytes: u32, sectors: u64) -> Vec<u8> {
        let superblock = BitmapSuperblock::new(Uuid([7; 16]), sectors, bytes);
        let either = regions.rechunk(&superblock, sectors);
        regions.check();
        regions.check_changed();
        either
    }

    fn dirty(regions: &Regions) -> Vec<u64> {
        regions.marks.marked().collect()
    }

    fn set_in(area: &[u8], region: u64) -> bool {
        let (byte, mask) = bitmap::bit_position(region);
        area[byte as usize] & mask != 0
    }

    fn write(regions: &mut Regions) {
        regions.demand();
        if let Some((batch, _)) = regions.close_batch() {
            regions.batch_written(batch);
        }
    }

    #[test]
    fn what_is_dirty_stays_dirty_by_both_lengths() {
        let mut regions = made(101, &[0, 9, 33, 100]);
        let either = change(&mut regions, 16384, 808);
        assert_eq!((regions.count(), regions.region_sectors()), (26, 32));
        assert_eq!(dirty(&regions), [0, 2, 8, 25]);
        for old in [0, 9, 33, 100] {
            assert!(set_in(&either, old), "an old bit");
        }
        for new in [2, 8, 25] {
            assert!(set_in(&either, new), "a new bit");
        }
        assert!(!set_in(&either, 1));
        assert!(regions.needs_resync(9 * 8) && !regions.needs_resync(4 * 8));
        write(&mut regions);
        change(&mut regions, 4096, 808);
        assert_eq!(regions.count(), 101, "the last one is cut short");
        let parts = [0..4, 8..12, 32..36, 100..101];
        assert_eq!(
            dirty(&regions),
            parts.into_iter().flatten().collect::<Vec<u64>>()
        );
        assert_eq!(regions.needed, 13);
    }

    /// Writes of all eras are under way at the same time, and end in any order.
    #[test]
    fn who_writes_gives_back_what_was_counted() {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let mut regions = made(101, &[]);
            let mut tickets = Vec::new();
            let sizes = [16384, 4096, 8192, 8192];
            for (bytes, (at, len)) in sizes
                .into_iter()
                .zip([(3, 70), (790, 18), (0, 808), (8, 8)])
            {
                tickets.push(Some(regions.join(at, len)));
                write(&mut regions);
                change(&mut regions, bytes, 808);
            }
            for index in order {
                let ticket = tickets[index].take().expect("once");
                assert!(regions.dirty() > 0);
                let intent = regions.redeem(ticket).expect("it was written before");
                intent.assert_covers([3, 790, 0, 8][index], [70, 18, 808, 8][index]);
                regions.retire(intent);
                regions.check();
            }
            assert!(regions.writers.iter().all(|count| *count == 0), "{order:?}");
        }
    }

    #[test]
    fn who_waits_for_a_mark_waits_until_it_is_written_by_the_new_length() {
        let mut regions = made(64, &[]);
        let ticket = regions.join(40, 8);
        change(&mut regions, 16384, 512);
        let ticket = regions.redeem(ticket).expect_err("it is written nowhere");
        write(&mut regions);
        let intent = regions.redeem(ticket).expect("it is written");
        regions.retire(intent);
        assert_eq!(dirty(&regions), [1]);
    }
    /// A count that grows with each change and does not fit any more keeps its regions dirty.
    #[test]
    fn what_cannot_be_counted_stays_dirty() {
        let mut regions = made(4096, &[]);
        let ticket = regions.join(0, 4096 * 8);
        write(&mut regions);
        for _ in 0..4 {
            for bytes in [4096 << 10, 4096] {
                change(&mut regions, bytes, 4096 * 8);
                write(&mut regions);
            }
        }
        let intent = regions.redeem(ticket).expect("it was written before");
        regions.retire(intent);
        regions.check();
        assert_eq!(regions.dirty(), 4096);
        assert!(regions.writers.iter().all(|count| *count == u32::MAX));
        let ticket = regions.join(0, 8);
        let intent = regions.redeem(ticket).expect("it is marked");
        regions.retire(intent);
        regions.check();
    }
}
