//! A bitmap's superblock and its bits, from the bytes of a member to a running bitmap.

use crate::Input;
use umd_core::bitmap::{Bitmap, Place};
use umd_core::value::MAX_SECTOR;
use umd_format::Uuid;
use umd_format::bitmap::{RegionState, STATES_OFFSET, Slots, Unverified, bit_position};

/// More regions than this say nothing new and take their time.
const REGIONS_MAX: u64 = 1 << 14;
/// The same of bytes for the nodes of a cluster.
const AREA_MAX: u64 = 1 << 20;

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (choice, sectors) = (input.byte(), input.number() >> 9);
    let Ok(found) = Unverified::parse(input.0) else {
        return;
    };
    let array = found.fields().uuid;
    slots(input.0, array);
    let Ok(superblock) = found.verify(array) else {
        return;
    };
    assert_eq!(superblock.encode()[..], input.0[..256]);
    let count = superblock.regions(sectors);
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
    let expected = superblock.regions(sectors);
    let lockless = superblock.is_lockless();
    let place = Place::Members(8);
    let bitmap = Bitmap::load(superblock, place, input.0, sectors, resync_from, stale, 512);
    let loaded = bitmap.regions().expect("it was loaded");
    loaded.check();
    assert_eq!(loaded.count(), expected);
    let mut dirty = 0;
    for region in 0..loaded.count() {
        let first = region * region_sectors;
        let set = match lockless {
            true => {
                let byte = input.0.get(STATES_OFFSET + region as usize);
                let state = byte.map_or(RegionState::NeedSync, |byte| RegionState::of(*byte));
                let state = state.loaded(stale);
                assert_eq!(loaded.is_unwritten(first), state == RegionState::Unwritten);
                assert_eq!(loaded.needs_resync(first), state == RegionState::NeedSync);
                state.is_marked()
            }
            false => {
                let (byte, mask) = bit_position(region);
                let byte = input.0.get(byte as usize);
                stale || byte.is_some_and(|byte| byte & mask != 0)
            }
        };
        assert_eq!(loaded.is_dirty(first), set);
        assert!(loaded.is_dirty(first) || !loaded.needs_resync(first));
        dirty += u64::from(set);
    }
    assert_eq!(loaded.dirty(), dirty);
}

/// The same bytes as the bitmaps of a cluster: nothing that a node calls dirty is lost.
fn slots(bytes: &[u8], array: Uuid) {
    let Ok(slots) = Slots::of(bytes, array) else {
        return;
    };
    let len = slots.all_sectors().saturating_mul(512);
    if len > AREA_MAX {
        return;
    }
    let mut area = bytes.to_vec();
    area.resize(len as usize, 0);
    let merged = slots.merge(&area, array, 1);
    let plain = Unverified::parse(&merged.plain).and_then(|plain| plain.verify(array));
    let plain = plain.expect("what was merged can be used");
    assert!(!plain.is_stale(1));
    let all = slots.regions();
    for node in slots.read(&area, array) {
        assert!(node.fields.is_ok() || merged.dirty == all);
        for region in node.dirty {
            let (byte, mask) = bit_position(region);
            assert!(merged.plain[byte as usize] & mask != 0);
        }
    }
}
