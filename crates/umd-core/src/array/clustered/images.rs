//! The bitmap of another slot, as it was read, made to say what all say by now.
//!
//! ```text
//!   read   | superblock: size, chunk | bits |
//!   made   | of the own bitmap       | bits, and those that say the same by the own chunk |
//! ```

use std::collections::{BTreeSet, VecDeque};

use umd_format::bitmap::{BitmapSuperblock, SUPERBLOCK_BYTES, State, Unverified, bit_position};

use super::rechunk::Write;
use crate::array::Array;
use crate::cluster::NodeSlot;

impl Array {
    /// The bitmap of a slot as one for the size that is recorded: nothing is dirty in what was
    /// added. Nothing where its bits stand for something else than the own ones.
    pub(super) fn image_of_size(&self, area: &[u8]) -> Option<Vec<u8>> {
        let regions = self.bitmap.regions()?;
        let own = self.bitmap.writer()?.superblock_fields();
        let found = self.found_in(area)?;
        if found.fields.region_raw != own.region_raw || found.fields.state.contains(State::STALE) {
            return None;
        }
        let before = self.geometry.sync_sectors(self.info.array_sectors);
        let mut image = self.slot_image(area)?;
        for region in before.div_ceil(regions.region_sectors())..regions.count() {
            let (byte, mask) = bit_position(region);
            image[byte as usize] &= !mask;
        }
        Some(image)
    }

    /// Bitmaps of another chunk than that of all are written as where it changes: what is dirty by
    /// either, then their superblocks, then what is dirty by the new one.
    pub(super) fn vacant_steps(
        &self,
        taken: &BTreeSet<NodeSlot>,
        area: &[u8],
    ) -> VecDeque<Vec<Write>> {
        let mut steps = [Vec::new(), Vec::new(), Vec::new()];
        let place = self.shared.as_ref().expect("in a cluster").place;
        let slots = (0..place.nodes).map(NodeSlot);
        for slot in slots.filter(|slot| !taken.contains(slot)) {
            let part = self.part_of(area, slot.0);
            if let Some(image) = self.image_of_size(&part) {
                steps[0].push((slot, image));
            } else if let Some(images) = self.images_of_chunk(&part) {
                for (step, image) in steps.iter_mut().zip(images) {
                    step.push((slot, image));
                }
            } // Else whoever gets this slot is told that there is no bitmap.
        }
        steps.into_iter().filter(|step| !step.is_empty()).collect()
    }

    /// What is written one after the other so that the bits of a slot stand for what the own ones
    /// do: what is dirty by either length, with its superblock as it is; then the new one; then
    /// what is dirty by that.
    pub(super) fn images_of_chunk(&self, area: &[u8]) -> Option<[Vec<u8>; 3]> {
        let block_bytes = self.info.logical_block_bytes.max(512) as usize;
        let (either, new) = self.either(area).zip(self.carried(area))?;
        let mut head = either[..block_bytes].to_vec();
        head[..SUPERBLOCK_BYTES].copy_from_slice(&new[..SUPERBLOCK_BYTES]);
        Some([either, head, new])
    }

    /// The bitmap of a slot, whose superblock says what the own one does of its size and its bits.
    pub(super) fn slot_image(&self, area: &[u8]) -> Option<Vec<u8>> {
        self.found_in(area)?;
        let mut image = area.to_vec();
        image[..SUPERBLOCK_BYTES].copy_from_slice(&self.like_own(area).encode());
        Some(image)
    }

    /// The bitmap of a slot, as it was read, with all that is dirty in it by the own length, too.
    /// What stands behind the last of its bits is none.
    pub(super) fn either(&self, area: &[u8]) -> Option<Vec<u8>> {
        let found = self.found_in(area)?;
        let regions = self.bitmap.regions()?;
        let covered = regions.count() * regions.region_sectors();
        let mut image = self.carried(area)?;
        let room = (area.len() - SUPERBLOCK_BYTES) as u64 * 8;
        for region in 0..found.regions(covered).min(room) {
            let (byte, mask) = bit_position(region);
            image[byte as usize] |= area[byte as usize] & mask;
        }
        image[..SUPERBLOCK_BYTES].copy_from_slice(&area[..SUPERBLOCK_BYTES]);
        Some(image)
    }

    /// The bitmap of a slot with what is dirty in it by the own length, and nothing else.
    pub(super) fn carried(&self, area: &[u8]) -> Option<Vec<u8>> {
        let set = self.bits_of(area)?;
        let mut image = vec![0; area.len()];
        image[..SUPERBLOCK_BYTES].copy_from_slice(&self.like_own(area).encode());
        for region in set {
            let (byte, mask) = bit_position(region);
            image[byte as usize] |= mask;
        }
        Some(image)
    }

    /// The superblock of a bitmap that was looked at, for bits like the own ones.
    pub(super) fn like_own(&self, area: &[u8]) -> BitmapSuperblock {
        let own = self.bitmap.writer().expect("a cluster has bitmaps");
        let own = own.superblock_fields();
        let mut found = self.found_in(area).expect("it was looked at");
        found.fields.region_raw = own.region_raw;
        found.fields.sync_size_sectors = own.sync_size_sectors;
        // All bits of one that is not to be believed are set, or were copied.
        found.set_moving(false);
        found
    }

    /// The superblock of a bitmap, if it can be used.
    pub(super) fn found_in(&self, area: &[u8]) -> Option<BitmapSuperblock> {
        let uuid = self.members.iter().next()?.superblock.bitmap_uuid();
        let found = Unverified::parse(area).ok()?.verify_node(uuid).ok()?;
        (!found.is_moving()).then_some(found)
    }
}
