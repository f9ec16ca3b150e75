//! How marks lie on the disks: a bit for each region, or a byte of state (version 6).
//!
//! ```text
//!   Bits     | superblock 256 B | 8 regions a byte ...      marked: 1
//!   States   | superblock 256 B | 0 | 1 region a byte ...   marked: Dirty, NeedSync, Syncing
//!                                 1024
//! ```
//!
//! Only who keeps states knows of a region that was never written, and of one that needs a resync
//! although superblocks say clean. Facts: bitmap.md sections 4 and 10.

use umd_format::bitmap::{
    BitmapSuperblock, RegionState, STATES_OFFSET, SUPERBLOCK_BYTES, bit_position,
};

use super::regions::PAGE_BYTES;

/// The area in memory.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) image: Vec<u8>,
    area_bytes: usize,
    count: u64,
    lockless: bool,
}

impl Marks {
    /// The marks of `count` regions from the area as read. States become what they are when an
    /// array starts; `stale` ones missed updates.
    pub fn load(superblock: &BitmapSuperblock, image: &[u8], count: u64, stale: bool) -> Marks {
        let area_bytes = usize::try_from(superblock.area_bytes(count)).expect("it fits memory");
        let mut kept = image.to_vec();
        kept.resize(area_bytes.next_multiple_of(PAGE_BYTES), 0);
        assert!(kept.len() >= area_bytes, "every region has its mark");
        let lockless = superblock.is_lockless();
        if lockless {
            // A state that was not read is one that nobody knows.
            let read = image.len().clamp(STATES_OFFSET, area_bytes);
            kept[read..area_bytes].fill(RegionState::NeedSync.byte());
            for byte in &mut kept[STATES_OFFSET..area_bytes] {
                *byte = RegionState::of(*byte).loaded(stale).byte();
            }
        }
        Marks {
            image: kept,
            area_bytes,
            count,
            lockless,
        }
    }

    /// From here on they are for so many regions. What is added is as it lies in the image.
    pub fn reach(&mut self, superblock: &BitmapSuperblock, count: u64) {
        assert!(!self.lockless, "bits of a cluster");
        self.area_bytes = usize::try_from(superblock.area_bytes(count)).expect("it fits memory");
        let len = self.area_bytes.next_multiple_of(PAGE_BYTES);
        self.image.resize(len, 0);
        self.count = count;
    }

    /// From here on they are for regions of another length, so many, and none is marked. Returns
    /// the area as it was, in whole pages, as long as the longer of the two.
    pub fn rechunk(&mut self, superblock: &BitmapSuperblock, count: u64) -> Vec<u8> {
        assert!(!self.lockless, "bits of a cluster");
        let area_bytes = usize::try_from(superblock.area_bytes(count)).expect("it fits memory");
        let len = area_bytes.next_multiple_of(PAGE_BYTES);
        let mut before = std::mem::replace(&mut self.image, vec![0; len]);
        before[self.area_bytes..].fill(0);
        let head = &before[..SUPERBLOCK_BYTES];
        self.image[..SUPERBLOCK_BYTES].copy_from_slice(head);
        before.resize(before.len().max(len), 0);
        (self.area_bytes, self.count) = (area_bytes, count);
        before
    }

    /// Whether regions have states.
    pub fn has_states(&self) -> bool {
        self.lockless
    }

    /// Length of the area on disk, whole sectors.
    pub fn area_bytes(&self) -> usize {
        self.area_bytes.next_multiple_of(512)
    }

    /// One page of the area.
    pub fn page(&self, page: usize) -> &[u8] {
        let start = page * PAGE_BYTES;
        assert!(start < self.image.len(), "a page of the area");
        &self.image[start..(start + PAGE_BYTES).min(self.image.len())]
    }

    /// The page that holds the mark of a region.
    pub fn page_of(&self, region: u64) -> usize {
        let byte = match self.lockless {
            true => Self::state_at(region),
            false => bit_position(region).0 as usize,
        };
        byte / PAGE_BYTES
    }

    fn state_at(region: u64) -> usize {
        STATES_OFFSET + region as usize
    }

    /// The state of a region; without states nothing is unwritten, and a set bit is Dirty.
    pub fn state(&self, region: u64) -> RegionState {
        assert!(region < self.count, "a region of the bitmap");
        if self.lockless {
            return RegionState::of(self.image[Self::state_at(region)]);
        }
        let (byte, mask) = bit_position(region);
        match self.image[byte as usize] & mask != 0 {
            true => RegionState::Dirty,
            false => RegionState::Clean,
        }
    }

    /// Stores what is known of a region now.
    pub fn put(&mut self, region: u64, state: RegionState) {
        assert!(region < self.count, "a region of the bitmap");
        if self.lockless {
            self.image[Self::state_at(region)] = state.byte();
            return;
        }
        let (byte, mask) = bit_position(region);
        match state.is_marked() {
            true => self.image[byte as usize] |= mask,
            false => self.image[byte as usize] &= !mask,
        }
    }

    /// Whether a region is marked.
    pub fn is_marked(&self, region: u64) -> bool {
        self.state(region).is_marked()
    }

    /// The regions that are marked, in order.
    pub fn marked(&self) -> impl Iterator<Item = u64> {
        // Of bits, eight at a time are looked at: nearly all of them are 0.
        let step = if self.lockless { 1 } else { 8 };
        let first = if self.lockless {
            STATES_OFFSET
        } else {
            SUPERBLOCK_BYTES
        };
        let bytes = self.image[first..self.area_bytes].iter().enumerate();
        let some = bytes.filter(|(_, byte)| **byte != 0);
        let near = some.flat_map(move |(index, _)| {
            let base = index as u64 * step;
            base..base + step
        });
        near.take_while(|region| *region < self.count)
            .filter(|region| self.is_marked(*region))
    }

    /// How many of these are marked.
    pub fn count_marked(&self, regions: std::ops::Range<usize>) -> u64 {
        let bytes = regions.start / 8..regions.end / 8;
        let whole = regions.start.is_multiple_of(8) && regions.end.is_multiple_of(8);
        if whole && !self.lockless {
            let bits = &self.image[SUPERBLOCK_BYTES..][bytes];
            return bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
        }
        let marked = regions.filter(|region| self.is_marked(*region as u64));
        marked.count() as u64
    }
}
