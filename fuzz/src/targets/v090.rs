//! Superblock 0.90, either byte order: nothing panics, and what loads is the same when it has been
//! written back.

use crate::{Input, fix_v090_checksum};
use umd_format::v1::Features;
use umd_format::v090::{SUPERBLOCK_BYTES, SuperblockV090, swapped};
use umd_format::{Format, SuperblockV1};

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (choice, device_sectors) = (input.byte(), 128 + u64::from(input.byte()) * 300);
    let mut bytes = input.0.to_vec();
    if choice & 1 == 0 {
        fix_v090_checksum(&mut bytes);
    }
    if let Ok(found) = SuperblockV090::parse(&bytes) {
        let _ = (
            found.checksum_matches(),
            found.level.to_string(),
            found.uuid.to_string(),
        );
    }
    if bytes.len() >= SUPERBLOCK_BYTES {
        assert_eq!(swapped(&swapped(&bytes)), bytes[..SUPERBLOCK_BYTES]);
    }
    let Ok(superblock) = SuperblockV1::load(&bytes, Format::V090, device_sectors) else {
        return;
    };
    let fields = &superblock.fields;
    assert!(fields.data_size_sectors <= fields.super_offset_sectors);
    if fields.features.contains(Features::RESHAPE_ACTIVE) {
        return;
    }
    let again = SuperblockV1::load(&superblock.encode(512), Format::V090, device_sectors);
    assert_eq!(again.expect("what was written can be read").fields, *fields);
}
