//! What `--update=` changes, and what it leaves alone.

#![allow(clippy::unwrap_used, reason = "tests")]

use umd_format::bitmap::{BitmapSuperblock, State};
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::update::{Change, Update, apply};
use umd_format::v1::{DeviceFlags, Features, Raid0Layout};
use umd_format::{Format, Level, SECTOR_MAX, SuperblockV1, Uuid};

const DEVICE: u64 = 204_800;

fn made(format: Format, level: Level) -> (SuperblockV1, Option<BitmapSuperblock>) {
    let member = |index: u8| NewMember {
        device_sectors: DEVICE,
        device_uuid: Uuid([index; 16]),
        flags: DeviceFlags::default(),
    };
    let made = new_array(&NewArray {
        format,
        set_uuid: Uuid(*b"abcdefghijklmnop"),
        name: "vm:r".into(),
        preferred_minor: 3,
        ctime_seconds: 1_700_000_000,
        level,
        layout: 0,
        chunk_sectors: if level.is_striped() { 128 } else { 0 },
        size_sectors: None,
        data_offset_sectors: None,
        bitmap: level.is_redundant().then_some(RegionWish::Default),
        bad_block_log: true,
        assume_clean: true,
        slots: vec![Some(member(1)), Some(member(2))],
        spares: Vec::new(),
    })
    .unwrap();
    (made.slots[0].clone().unwrap(), made.bitmap)
}

fn change(update: &Update, format: Format, level: Level) -> Result<Change, String> {
    let (superblock, bitmap) = made(format, level);
    let device = (DEVICE, 512);
    apply(update, &superblock, bitmap.as_ref(), device).map_err(|error| error.to_string())
}

/// The bytes that differ between the superblock of before and that written.
fn changed_bytes(update: &Update, format: Format, level: Level) -> Vec<usize> {
    let before = made(format, level).0.encode(512);
    let change = change(update, format, level).unwrap();
    let place = change.superblock.fields.super_offset_sectors;
    let (_, after) = change.writes.iter().find(|write| write.0 == place).unwrap();
    let places = (0..before.len()).filter(|at| before[*at] != after[*at]);
    places.collect()
}

#[test]
fn only_the_bytes_of_a_field_and_the_checksum_change() {
    let checksum = 216..220;
    for (update, level, range) in [
        (Update::Name("vm:other".into()), Level::Raid1, 32..64),
        (Update::Homehost("nas".into()), Level::Raid1, 32..64),
        (Update::Uuid(Uuid([7; 16])), Level::Raid1, 16..32),
        (Update::Resync, Level::Raid1, 208..216),
        (Update::NoBbl, Level::Raid1, 184..192),
        (Update::LogicalBlock(4096), Level::Raid1, 224..228),
        (
            Update::Layout(Some(Raid0Layout::Alternate)),
            Level::Raid0,
            8..80,
        ),
    ] {
        for format in [Format::V1_0, Format::V1_1, Format::V1_2] {
            let places = changed_bytes(&update, format, level);
            let inside = |at: &usize| range.contains(at) || checksum.contains(at);
            assert!(places.iter().any(|at| range.contains(at)), "{update:?}");
            assert!(places.iter().all(inside), "{update:?}: {places:?}");
        }
    }
}

#[test]
fn what_is_so_already_is_not_written() {
    for update in [
        Update::Name("vm:r".into()),
        Update::Homehost("vm".into()),
        Update::Summaries,
        Update::Bbl,
        Update::DeviceSize,
        Update::LogicalBlock(0),
    ] {
        let change = change(&update, Format::V1_2, Level::Raid1).unwrap();
        assert_eq!(change.writes, [], "{update:?}");
    }
}

#[test]
fn the_bitmap_goes_with_the_uuid_and_is_stale_for_a_resync() {
    for format in Format::ALL {
        let uuid = Update::Uuid(Uuid([9; 16]));
        let after = change(&uuid, format, Level::Raid1).unwrap();
        let bitmap = after.bitmap.unwrap();
        assert_eq!(bitmap.fields.uuid, after.superblock.bitmap_uuid());
        let places: Vec<u64> = after.writes.iter().map(|write| write.0).collect();
        let fields = &after.superblock.fields;
        assert_eq!(
            places,
            [fields.bitmap_sector().unwrap(), fields.super_offset_sectors]
        );
        let after = change(&Update::Resync, format, Level::Raid1).unwrap();
        assert_eq!(after.superblock.fields.resync_offset_sectors, 0);
        assert!(after.bitmap.unwrap().fields.state.contains(State::STALE));
        let after = change(&Update::NoBitmap, format, Level::Raid1).unwrap();
        assert_eq!((after.bitmap, after.writes.len()), (None, 1));
        assert!(
            !after
                .superblock
                .fields
                .features
                .contains(Features::BITMAP_OFFSET)
        );
    }
}

#[test]
fn a_log_is_put_where_nothing_is() {
    for format in [Format::V1_0, Format::V1_1, Format::V1_2] {
        let (superblock, bitmap) = made(format, Level::Raid1);
        let device = (DEVICE, 512);
        let without = apply(&Update::NoBbl, &superblock, bitmap.as_ref(), device).unwrap();
        assert_eq!(without.superblock.fields.bblog_sector(), None);
        let with = apply(&Update::Bbl, &without.superblock, bitmap.as_ref(), device).unwrap();
        let (sector, log) = &with.writes[0];
        assert_eq!(with.superblock.fields.bblog_sector(), Some(*sector));
        assert!(log.len() == 4096 && log.iter().all(|byte| *byte == 0xff));
        let fields = &with.superblock.fields;
        let data =
            fields.data_offset_sectors..fields.data_offset_sectors + fields.data_size_sectors;
        assert!(!data.contains(sector) && !data.contains(&(sector + 7)));
        let bits = fields.bitmap_sector().unwrap();
        assert!(sector + 8 <= bits || *sector >= bits + 8, "{format}");
        assert_eq!(with.writes[1].0, fields.super_offset_sectors);
    }
}

#[test]
fn old_metadata_becomes_1_0_where_it_lies() {
    let update = Update::Metadata {
        ctime_seconds: 1_800_000_000,
        name: "vm:3".into(),
    };
    let (old, bitmap) = made(Format::V090, Level::Raid1);
    let device = (DEVICE, 512);
    let refusal = apply(&update, &old, bitmap.as_ref(), device).unwrap_err();
    assert!(
        refusal.to_string().starts_with("it has a bitmap"),
        "{refusal}"
    );
    let old = apply(&Update::NoBitmap, &old, bitmap.as_ref(), device)
        .unwrap()
        .superblock;
    let unclean = apply(&Update::Resync, &old, None, device)
        .unwrap()
        .superblock;
    let refusal = apply(&update, &unclean, None, device).unwrap_err();
    assert!(
        refusal.to_string().starts_with("it is not clean"),
        "{refusal}"
    );
    // mdadm believes the one of the two that was created later; this machine's clock may be slow.
    let slow = Update::Metadata {
        ctime_seconds: 5,
        name: "vm:3".into(),
    };
    let late = apply(&slow, &old, None, device).unwrap().superblock;
    assert_eq!(late.fields.ctime.seconds(), old.fields.ctime.seconds() + 1);
    let new = apply(&update, &old, None, device).unwrap();
    assert_eq!(new.writes.len(), 1);
    assert_eq!(new.writes[0].0, 204_784);
    let (new, old) = (&new.superblock.fields, &old.fields);
    assert_eq!(
        (new.set_uuid, new.size_sectors, new.data_size_sectors),
        (old.set_uuid, old.size_sectors, old.data_size_sectors)
    );
    assert_eq!(
        (new.data_offset_sectors, new.own_role()),
        (0, old.own_role())
    );
    assert_eq!(
        (new.events, new.resync_offset_sectors),
        (old.events, SECTOR_MAX)
    );
    assert!(new.ctime.seconds() > old.ctime.seconds());
    let again = change(&update, Format::V1_2, Level::Raid1).unwrap_err();
    assert!(again.contains("makes 1.0 of 0.90"), "{again}");
}

#[test]
fn the_host_of_old_metadata_is_in_its_uuid() {
    let host = Update::Homehost("(none)".into());
    let after = change(&host, Format::V090, Level::Raid1).unwrap();
    // What mdadm 4.2 wrote on a machine of that name.
    let uuid = after.superblock.fields.set_uuid.to_string();
    assert_eq!(uuid, "61626364:65666768:3d186b3c:53958f34");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let long = "x".repeat(32);
    for (update, format, level, text) in [
        (
            Update::Name(long),
            Format::V1_2,
            Level::Raid1,
            "longer than 31 bytes",
        ),
        (
            Update::Name("n".into()),
            Format::V090,
            Level::Raid1,
            "not understood for 0.90",
        ),
        (
            Update::SuperMinor(1),
            Format::V1_2,
            Level::Raid1,
            "not understood for 1.x",
        ),
        (
            Update::Byteorder,
            Format::V1_0,
            Level::Raid1,
            "not understood for 1.x",
        ),
        (
            Update::Resync,
            Format::V1_2,
            Level::Raid0,
            "no redundancy to resync",
        ),
        (
            Update::DeviceSize,
            Format::V1_0,
            Level::Raid1,
            "for metadata 1.1 and 1.2",
        ),
        (
            Update::LogicalBlock(777),
            Format::V1_2,
            Level::Raid1,
            "logical blocks of 777",
        ),
        (
            Update::Layout(None),
            Format::V1_2,
            Level::Raid1,
            "no choice of raid0 layouts",
        ),
    ] {
        let refusal = change(&update, format, level).unwrap_err();
        assert!(refusal.contains(text), "{update:?}: {refusal}");
    }
}
