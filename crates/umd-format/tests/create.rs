//! New arrays: mdadm's space, and superblocks that hold together.

use proptest::prelude::*;
use umd_format::create::*;
use umd_format::space::*;
use umd_format::v1::{DeviceFlags, Features};
use umd_format::{Format, Level, Role, SECTOR_MAX, SuperblockV1, Uuid};

const MIB: u64 = 2048;
const GIB: u64 = 1024 * MIB;

fn wish(minor: Format, level: Level, chunk_sectors: u32, bitmap: bool) -> SpaceWish {
    SpaceWish {
        format: minor,
        level,
        raid10: None,
        chunk_sectors,
        bitmap: bitmap.then_some(RegionWish::Default),
        bitmaps: 1,
        bad_block_log: true,
        data_offset_sectors: None,
        size_sectors: None,
    }
}

#[test]
fn data_offsets_are_those_of_mdadm() {
    for (device_sectors, data_offset_sectors) in [
        (100 * MIB, 2048),
        (GIB, 4096),
        (5 * GIB, 10_240),
        (9 * GIB, 18_432),
        (50 * GIB, 67_584),
        (210 * GIB, 264_192),
        (8192 * GIB, 264_192),
    ] {
        let wish = wish(Format::V1_2, Level::Raid1, 0, false);
        let space = plan(&wish, &[device_sectors]).unwrap();
        let member = space.members[0];
        assert_eq!(
            member.data_offset_sectors, data_offset_sectors,
            "{device_sectors}"
        );
        assert_eq!(
            member.data_size_sectors,
            device_sectors - data_offset_sectors
        );
    }
    for device_sectors in [40 * MIB, 100 * MIB] {
        let wish = wish(Format::V1_2, Level::Raid5, 1024, false);
        let space = plan(&wish, &[device_sectors; 3]).unwrap();
        assert_eq!(space.members[0].data_offset_sectors, 4096);
    }
}

#[test]
fn bitmap_and_bad_block_log_lie_where_mdadm_puts_them() {
    for (sectors, bitmap, minor, expected) in [
        (100 * MIB, true, Format::V1_2, (Some(8), 16)),
        (100 * MIB, false, Format::V1_2, (None, 16)),
        (9 * GIB, false, Format::V1_2, (None, 136)),
        (210 * GIB, false, Format::V1_1, (None, 264)),
        (8193 * GIB, true, Format::V1_2, (Some(8), 48)),
        (100 * MIB, true, Format::V1_0, (Some(-16), -8)),
        (8192 * GIB, true, Format::V1_0, (Some(-48), -8)),
    ] {
        let space = plan(&wish(minor, Level::Raid1, 0, bitmap), &[sectors, sectors]).unwrap();
        let offset_sectors = space.bitmap.map(|place| place.offset_sectors);
        assert_eq!(
            (offset_sectors, space.bblog_offset_sectors),
            expected,
            "{sectors} {minor}"
        );
    }
}

#[test]
fn metadata_at_the_end_takes_its_room_from_the_end() {
    let space = plan(&wish(Format::V1_0, Level::Raid1, 0, true), &[204_803]).unwrap();
    let member = space.members[0];
    assert_eq!(
        (member.super_offset_sectors, member.data_offset_sectors),
        (204_784, 0)
    );
    assert_eq!(member.data_size_sectors, 204_800 - 16 - 8 - 8);
    assert_eq!(space.size_sectors, (204_800 - 32) / 128 * 128);
    let wish = SpaceWish {
        data_offset_sectors: Some(2048),
        ..wish(Format::V1_0, Level::Raid1, 0, true)
    };
    assert_eq!(
        plan(&wish, &[204_800]),
        Err(SpaceError::DataOffsetNotUsed(Format::V1_0))
    );
}

#[test]
fn errors_say_by_how_much() {
    let wish = wish(Format::V1_2, Level::Raid5, 128, true);
    let error = plan(&wish, &[100 * MIB, 2100, 100 * MIB]).unwrap_err();
    let expected = SpaceError::DeviceTooSmall {
        device: 1,
        need_sectors: 2176,
        have_sectors: 2100,
    };
    assert_eq!(error, expected);
    assert!(error.to_string().ends_with("(76 sectors short)"), "{error}");
    let sized = SpaceWish {
        size_sectors: Some(100 * MIB),
        ..wish.clone()
    };
    let error = plan(&sized, &[100 * MIB; 3]).unwrap_err();
    assert!(
        error.to_string().ends_with("(2048 sectors short)"),
        "{error}"
    );
    let offset = SpaceWish {
        data_offset_sectors: Some(31),
        ..wish.clone()
    };
    let expected = SpaceError::DataOffsetTooSmall {
        wanted_sectors: 31,
        least_sectors: 32,
    };
    assert_eq!(plan(&offset, &[100 * MIB]), Err(expected));
    let small = SpaceWish {
        size_sectors: Some(100),
        ..wish.clone()
    };
    let expected = SpaceError::SizeBelowChunk {
        size_sectors: 100,
        chunk_sectors: 128,
    };
    assert_eq!(plan(&small, &[100 * MIB]), Err(expected));
    let fine = SpaceWish {
        bitmap: Some(RegionWish::Bytes(4096)),
        ..wish.clone()
    };
    let expected = SpaceError::RegionTooSmall {
        wanted_bytes: 4096,
        least_bytes: 8192,
    };
    assert_eq!(plan(&fine, &[200 * MIB]), Err(expected));
    assert_eq!(plan(&wish, &[]), Err(SpaceError::NoDevices));
    assert!(matches!(
        plan(&wish, &[23]),
        Err(SpaceError::DeviceTooSmall { .. })
    ));
    let raid0 = SpaceWish {
        level: Level::Raid0,
        ..wish
    };
    assert_eq!(
        plan(&raid0, &[100 * MIB]),
        Err(SpaceError::BitmapNotUsed(Level::Raid0))
    );
}

#[test]
fn a_tight_data_offset_moves_or_drops_the_log() {
    let mut wish = wish(Format::V1_2, Level::Raid1, 0, false);
    wish.data_offset_sectors = Some(24);
    let space = plan(&wish, &[100 * MIB]).unwrap();
    assert_eq!(
        (
            space.bblog_offset_sectors,
            space.members[0].data_offset_sectors
        ),
        (8, 24)
    );
    wish.bitmap = Some(RegionWish::Default);
    wish.data_offset_sectors = Some(32);
    let space = plan(&wish, &[100 * MIB]).unwrap();
    assert_eq!(
        (
            space.bitmap.unwrap().offset_sectors,
            space.bblog_offset_sectors
        ),
        (8, 16)
    );
}

fn member(seed: u8, device_sectors: u64) -> NewMember {
    NewMember {
        device_sectors,
        device_uuid: Uuid([seed; 16]),
        flags: DeviceFlags::default(),
    }
}

fn array(level: Level, slots: &[bool]) -> NewArray {
    let new = |(slot, present): (usize, &bool)| present.then(|| member(slot as u8, 100 * MIB));
    NewArray {
        preferred_minor: 0,
        format: Format::V1_2,
        set_uuid: Uuid([0xaa; 16]),
        name: "host:r".to_owned(),
        ctime_seconds: 1_577_836_800,
        level,
        layout: if matches!(level, Level::Raid5 | Level::Raid6) {
            2
        } else {
            0
        },
        chunk_sectors: if level.is_striped() { 128 } else { 0 },
        size_sectors: None,
        data_offset_sectors: None,
        bitmap: level.is_redundant().then_some(RegionWish::Default),
        bad_block_log: true,
        assume_clean: false,
        slots: slots.iter().enumerate().map(new).collect(),
        spares: vec![],
    }
}

fn load(superblock: &SuperblockV1, device_sectors: u64) -> SuperblockV1 {
    SuperblockV1::load(&superblock.encode(512), superblock.format(), device_sectors)
        .expect("what was created can be loaded")
}

#[test]
fn a_new_raid5_is_resynced_from_the_start() {
    let mut new = array(Level::Raid5, &[true; 3]);
    new.spares.push(member(9, 200 * MIB));
    let created = new_array(&new).unwrap();
    let fields = load(created.slots[1].as_ref().unwrap(), 100 * MIB).fields;
    assert_eq!((fields.events, fields.resync_offset_sectors), (0, 0));
    assert_eq!(fields.features, Features::BITMAP_OFFSET);
    assert_eq!(fields.own_role(), Role::Active(1));
    assert_eq!(fields.roles.len(), 128);
    let expected = [
        Role::Active(0),
        Role::Active(1),
        Role::Active(2),
        Role::Spare,
    ];
    assert_eq!(fields.roles[..4], expected);
    assert_eq!((fields.name().as_str(), fields.raid_disks), ("host:r", 3));
    assert_eq!(fields.size_sectors, (100 * MIB - 2048) / 128 * 128);
    let spare = load(&created.spares[0], 200 * MIB).fields;
    assert_eq!((spare.dev_number, spare.own_role()), (3, Role::Spare));
    assert_eq!(spare.data_size_sectors, 200 * MIB - 2048);
    let bitmap = created.bitmap.as_ref().unwrap();
    assert_eq!(bitmap.fields.sync_size_sectors, fields.size_sectors);
    assert_eq!(bitmap.fields.region_bytes(), 64 << 20);
    assert_eq!(created.bitmap_image().unwrap().len(), 4096);
}

/// The table at the top of the module.
#[test]
fn missing_members_leave_a_consistent_array() {
    use Level::{Raid1, Raid4, Raid5, Raid6};
    let cases: &[(Level, &[bool], bool, Option<usize>)] = &[
        (Raid1, &[true, true], false, None),
        (Raid1, &[true, false], true, None),
        (Raid1, &[true, false, true], false, None),
        (Raid4, &[true, true, false], true, None),
        (Raid5, &[false, true, true], true, None),
        (Raid6, &[true, true, false, true], true, Some(3)),
        (Raid6, &[true, true, true, false], true, Some(2)),
        (Raid6, &[true, false, true, false], true, None),
        (Raid6, &[true; 4], false, None),
    ];
    for (level, slots, clean, rebuilt) in cases {
        let created = new_array(&array(*level, slots)).unwrap();
        for (slot, superblock) in created.slots.iter().enumerate() {
            assert_eq!(superblock.is_some(), slots[slot]);
            let Some(superblock) = superblock else {
                continue;
            };
            let fields = load(superblock, 100 * MIB).fields;
            assert_eq!(fields.is_clean(), *clean, "{level} {slots:?}");
            let offset = (*rebuilt == Some(slot)).then_some(0);
            assert_eq!(
                fields.recovery_offset_sectors(),
                offset,
                "{level} {slots:?}"
            );
            for (other, present) in slots.iter().enumerate() {
                assert_eq!(fields.slot_is_held(other as u16), *present);
            }
        }
    }
    let mut assumed = array(Raid6, &[true, true, true, false]);
    assumed.assume_clean = true;
    let created = new_array(&assumed).unwrap();
    let fields = &created.slots[2].as_ref().unwrap().fields;
    assert_eq!(
        (
            fields.resync_offset_sectors,
            fields.recovery_offset_sectors()
        ),
        (SECTOR_MAX, None)
    );
}

#[test]
fn raid0_uses_what_each_member_has() {
    let mut new = array(Level::Raid0, &[true, true]);
    new.layout = 1;
    new.slots[1] = Some(member(1, 300 * MIB));
    let created = new_array(&new).unwrap();
    let fields = load(created.slots[1].as_ref().unwrap(), 300 * MIB).fields;
    assert_eq!(fields.features, Features::RAID0_LAYOUT);
    assert_eq!(
        (fields.size_sectors, fields.data_size_sectors),
        (0, 300 * MIB - 2048)
    );
    assert!(fields.is_clean() && created.bitmap.is_none());
    new.size_sectors = Some(10 * MIB);
    let created = new_array(&new).unwrap();
    let sizes: Vec<u64> = created
        .slots
        .iter()
        .flatten()
        .map(|one| one.fields.data_size_sectors)
        .collect();
    assert_eq!(sizes, [10 * MIB, 10 * MIB]);
}

#[test]
fn level_faulty_says_what_is_used_and_how_it_fails() {
    for format in [Format::V1_0, Format::V1_1, Format::V1_2, Format::V090] {
        let mut new = array(Level::Faulty, &[true]);
        (new.format, new.layout, new.chunk_sectors, new.bitmap) = (format, 0x81, 0, None);
        new.size_sectors = Some(8 * MIB);
        let created = new_array(&new).unwrap();
        assert!(created.bitmap.is_none());
        let fields = load(created.slots[0].as_ref().unwrap(), 100 * MIB).fields;
        assert_eq!((fields.level, fields.layout), (Level::Faulty, 0x81));
        assert_eq!((fields.size_sectors, fields.chunk_sectors), (8 * MIB, 0));
        assert!(fields.is_clean() && fields.data_size_sectors > 8 * MIB);
        for (layout, word) in [(6, "no layout 6"), (0x8000_0001, "no layout")] {
            let broken = NewArray {
                layout,
                ..new.clone()
            };
            let error = new_array(&broken).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        new.chunk_sectors = 128;
        let error = new_array(&new).unwrap_err().to_string();
        assert!(error.contains("faulty has no chunk"), "{error}");
    }
}

#[test]
fn descriptions_of_no_array_are_refused() {
    type Change = fn(&mut NewArray);
    let broken: &[(Change, &str)] = &[
        (
            |a| a.level = Level::Multipath,
            "multipath cannot be created yet",
        ),
        (
            |a| a.level = Level::Raid10,
            "raid10 has no layout 0x2 for 3 devices",
        ),
        (|a| a.level = Level::Raid6, "needs 4 to 257 devices, not 3"),
        (
            |a| a.slots = vec![None, None, Some(member(0, 100 * MIB))],
            "can lack 1, not 2",
        ),
        (|a| a.chunk_sectors = 96, "chunk of 96 sectors"),
        (|a| a.layout = 6, "no layout 6"),
        (|a| a.name = "x".repeat(32), "longer than 31 bytes"),
        (|a| a.level = Level::Raid1, "raid1 has no chunk"),
        (|a| a.slots[0] = Some(member(0, 100)), "sectors short"),
    ];
    for (change, word) in broken {
        let mut new = array(Level::Raid5, &[true; 3]);
        change(&mut new);
        let error = new_array(&new).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    let mut spare = array(Level::Raid0, &[true; 2]);
    spare.spares.push(member(7, 100 * MIB));
    assert!(
        new_array(&spare)
            .unwrap_err()
            .to_string()
            .contains("no use for spares")
    );
}

#[test]
fn a_joining_device_becomes_a_spare() {
    for minor in Format::ALL[..3].iter().copied() {
        let mut new = array(Level::Raid1, &[true, true]);
        new.format = minor;
        let mut peer = new_array(&new).unwrap().slots[0].clone().unwrap();
        peer.fields.events = 41;
        let spare = spare_for(&peer, 2, &member(5, 150 * MIB + 3)).unwrap();
        let fields = load(&spare, 150 * MIB + 3).fields;
        assert_eq!((fields.dev_number, fields.own_role()), (2, Role::Spare));
        assert_eq!((fields.device_uuid, fields.events), (Uuid([5; 16]), 41));
        assert_eq!(fields.bitmap_offset_raw, peer.fields.bitmap_offset_raw);
        assert!(fields.data_size_sectors >= 50 * MIB + peer.fields.data_size_sectors);
        let error = spare_for(&peer, 2, &member(5, 99 * MIB))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sectors short"), "{error}");
        assert!(spare_for(&peer, 2, &member(5, 20)).is_err());
    }
}

fn any_level() -> impl Strategy<Value = Level> {
    prop::sample::select(vec![
        Level::Raid0,
        Level::Raid1,
        Level::Raid4,
        Level::Raid5,
        Level::Raid6,
    ])
}

proptest! {
    /// Whatever can be created passes the checks of loading, and nothing lies over anything else.
    #[test]
    fn what_is_created_can_be_loaded(
        level in any_level(),
        minor in prop::sample::select(Format::ALL[..3].to_vec()),
        sizes in prop::collection::vec(24u64..1 << 40, 2..8),
        chunk_power in 3u32..12,
        bitmap in any::<bool>(),
        bad_block_log in any::<bool>(),
        data_offset_sectors in prop::option::of(0u64..400_000),
    ) {
        let mut new = array(level, &[]);
        new.format = minor;
        new.chunk_sectors = if level.is_striped() { 1 << chunk_power } else { 0 };
        new.bitmap = (bitmap && level.is_redundant()).then_some(RegionWish::Default);
        new.bad_block_log = bad_block_log;
        new.data_offset_sectors = data_offset_sectors;
        new.slots = sizes.iter().map(|&sectors| Some(member(1, sectors))).collect();
        let Ok(created) = new_array(&new) else { return Ok(()) };
        for (superblock, &device_sectors) in created.slots.iter().flatten().zip(&sizes) {
            let loaded = load(superblock, device_sectors);
            prop_assert_eq!(&loaded.fields, &superblock.fields);
            let fields = &loaded.fields;
            let mut areas = vec![
                (fields.super_offset_sectors, superblock.sectors()),
                (fields.data_offset_sectors, fields.data_size_sectors),
            ];
            areas.extend(fields.bblog_sector().map(|start| (start, 8)));
            if let Some(image) = created.bitmap_image() {
                areas.push((fields.bitmap_sector().unwrap(), image.len() as u64 / 512));
            }
            areas.sort_unstable();
            for pair in areas.windows(2) {
                prop_assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{:?}", areas);
            }
            let (start, length) = areas[areas.len() - 1];
            prop_assert!(start + length <= device_sectors);
        }
    }
}
