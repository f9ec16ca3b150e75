//! A bitmap's superblock and its bits, from the bytes of a member to a running bitmap.

use crate::Input;
use umd_core::bitmap::{Bitmap, Place};
use umd_core::value::MAX_SECTOR;
use umd_format::bitmap::{Unverified, bit_position, regions};

/// More regions than this say nothing new and take their time.
const REGIONS_MAX: u64 = 1 << 14;

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (choice, sectors) = (input.byte(), input.number() >> 9);
    let Ok(found) = Unverified::parse(input.0) else {
        return;
    };
    let array = found.fields().uuid;
    let Ok(superblock) = found.verify(array) else {
        return;
    };
    assert_eq!(superblock.encode()[..], input.0[..256]);
    let region_bytes = superblock.fields.region_raw;
    let count = regions(sectors, region_bytes);
    let region_sectors = superblock.fields.region_bytes() / 512;
    assert!(count.saturating_mul(region_sectors) >= sectors);
    let sectors = sectors.min(REGIONS_MAX * region_sectors);
    if sectors == 0 {
        return;
    }
    let resync_from = if choice & 1 == 0 {
        MAX_SECTOR
    } else {
        sectors / 2
    };
    let stale = choice & 2 != 0;
    let place = Place::Members(8);
    let bitmap = Bitmap::load(superblock, place, input.0, sectors, resync_from, stale, 512);
    let loaded = bitmap.regions().expect("it was loaded");
    loaded.check();
    assert_eq!(loaded.count(), regions(sectors, region_bytes));
    let mut dirty = 0;
    for region in 0..loaded.count() {
        let (byte, mask) = bit_position(region);
        let set = input
            .0
            .get(byte as usize)
            .is_some_and(|byte| byte & mask != 0);
        let first = region * region_sectors;
        assert_eq!(loaded.is_dirty(first), set || stale);
        assert!(loaded.is_dirty(first) || !loaded.needs_resync(first));
        dirty += u64::from(set || stale);
    }
    assert_eq!(loaded.dirty(), dirty);
}
