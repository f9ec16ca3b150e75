//! Superblock 1.x at its three places: nothing panics, and what loads is written back as it was.

use crate::{Input, fix_checksum};
use umd_format::kernels::refusals;
use umd_format::v1::Unverified;
use umd_format::{Format, Minor, SuperblockV1};

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.byte();
    let device_sectors = match choice & 4 {
        0 => u64::from(input.byte()) << 10,
        _ => input.number(),
    };
    let minor = Minor::ALL[usize::from(choice & 3) % 3];
    let mut bytes = input.0.to_vec();
    if choice & 8 == 0 {
        fix_checksum(&mut bytes);
    }
    if let Ok(found) = Unverified::parse(&bytes, minor) {
        let _ = (found.fields().name(), found.computed_checksum());
        let _ = refusals(found.fields(), Some(found.raw()), Some(4));
    }
    let Ok(superblock) = SuperblockV1::load(&bytes, Format::V1(minor), device_sectors) else {
        return;
    };
    let fields = &superblock.fields;
    let used = fields.encoded_bytes();
    assert_eq!(superblock.encode(512)[..used], bytes[..used]);
    let written = superblock.encode(4096);
    let again = SuperblockV1::load(&written, Format::V1(minor), device_sectors);
    assert_eq!(again.expect("what was written can be read").fields, *fields);
    assert!(
        fields
            .array_sectors()
            .is_none_or(|sectors| sectors < 1 << 55)
    );
    assert!(fields.data_offset_sectors + fields.data_size_sectors <= device_sectors);
    if let Some(sector) = fields.bitmap_sector() {
        assert!(sector < device_sectors);
    }
    let _ = (
        fields.ppl(),
        fields.bblog_sector(),
        fields.raid0_layout(),
        fields.own_role(),
    );
    let _ = (fields.level.to_string(), fields.set_uuid.to_string());
}
