//! Superblocks of version 0.90: what is written can be read, and nothing that was torn is.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use umd_format::create::{NewArray, NewMember, new_array, spare_for};
use umd_format::space::RegionWish;
use umd_format::v1::{DeviceFlags, Features, Listed, Node};
use umd_format::v090::{DEVICES_MAX, SuperblockV090, swapped};
use umd_format::{Format, Level, ParseError, Role, SECTOR_MAX, SuperblockV1, Uuid};

const DEVICE: u64 = 40_960 + 77;

fn wish(level: Level, disks: usize) -> NewArray {
    let member = |index: usize| NewMember {
        device_sectors: DEVICE,
        device_uuid: Uuid([index as u8 + 1; 16]),
        flags: DeviceFlags::default(),
    };
    NewArray {
        format: Format::V090,
        set_uuid: Uuid(*b"\x00\x11\x22\x33abcdefghijkl"),
        name: "host:old".into(),
        preferred_minor: 3,
        ctime_seconds: 1_700_000_000,
        level,
        layout: if level == Level::Raid5 { 2 } else { 0 },
        chunk_sectors: if level.is_striped() { 128 } else { 0 },
        size_sectors: None,
        data_offset_sectors: None,
        bitmap: level.is_redundant().then_some(RegionWish::Default),
        bad_block_log: true,
        assume_clean: false,
        slots: (0..disks).map(|index| Some(member(index))).collect(),
        spares: Vec::new(),
    }
}

fn load(bytes: &[u8]) -> Result<SuperblockV1, ParseError> {
    SuperblockV1::load(bytes, Format::V090, DEVICE)
}

#[test]
fn a_new_array_is_what_mdadm_makes() {
    let made = new_array(&wish(Level::Raid5, 3)).unwrap();
    let second = made.slots[1].as_ref().unwrap();
    let bytes = second.encode(512);
    assert_eq!(bytes.len(), 4096);
    let word = |index: usize| u32::from_le_bytes(bytes[4 * index..][..4].try_into().unwrap());
    let head: Vec<u32> = [0, 1, 2, 5, 13, 6, 7, 8, 9, 10, 11].map(word).into();
    let size_kib = 20_416;
    let time = 1_700_000_000;
    let expected = [
        0xa92b_4efc,
        0,
        90,
        0x0011_2233,
        0x6162_6364,
        time,
        5,
        size_kib,
        3,
        3,
        3,
    ];
    assert_eq!(head, expected);
    // State: unclean, a bitmap. Active, working, failed, spare.
    assert_eq!([33, 34, 35, 36, 37].map(word), [0x100, 3, 3, 0, 0]);
    assert_eq!([39, 40, 43, 64, 65].map(word), [1, 0, 0, 2, 65_536]);
    for slot in 0..3 {
        let entry = 128 + 32 * slot;
        assert_eq!(
            [0, 3, 4].map(|n| word(entry + n)),
            [slot as u32, slot as u32, 6]
        );
    }
    assert_eq!([992, 995, 996].map(word), [1, 1, 6]);
    // At sector 40832, 64 KiB before the end of the last whole 64 KiB; the bitmap behind it.
    assert_eq!(second.fields.super_offset_sectors, 40_832);
    assert_eq!(second.fields.bitmap_sector(), Some(40_840));
    let uuid = made.bitmap.unwrap().fields.uuid;
    assert_eq!(uuid.0[..8], *b"\x33\x22\x11\x00dcba");
}

#[test]
fn a_member_without_redundancy_to_rebuild_is_a_spare_on_disk() {
    let mut six = wish(Level::Raid6, 4);
    six.slots[1] = None;
    six.layout = 2;
    let made = new_array(&six).unwrap();
    let last = load(&made.slots[3].as_ref().unwrap().encode(512)).unwrap();
    assert_eq!(
        (last.fields.dev_number, last.fields.own_role()),
        (4, Role::Spare)
    );
    assert_eq!(last.fields.recovery_offset_sectors(), None);
    let first = load(&made.slots[0].as_ref().unwrap().encode(512)).unwrap();
    let held: Vec<bool> = (0..4).map(|slot| first.fields.slot_is_held(slot)).collect();
    assert_eq!(held, [true, false, true, false]);
}

#[test]
fn limits_are_refused_in_a_sentence() {
    let many = new_array(&wish(Level::Raid1, 28)).unwrap_err();
    let text = "0.90 metadata supports at most 27 devices per array";
    assert_eq!(many.to_string(), text);
    let peer = new_array(&wish(Level::Raid1, 27)).unwrap();
    let new = NewMember {
        device_sectors: DEVICE,
        device_uuid: Uuid([99; 16]),
        flags: DeviceFlags::default(),
    };
    let full = spare_for(peer.slots[0].as_ref().unwrap(), 27, &new).unwrap_err();
    assert!(
        full.to_string().contains("has room for 27 devices"),
        "{full}"
    );
    let mut large = wish(Level::Raid1, 2);
    large.bitmap = None;
    for member in large.slots.iter_mut().flatten() {
        member.device_sectors = 5 << 31;
    }
    let large = new_array(&large).unwrap_err();
    assert!(
        large.to_string().contains("at most 4 TiB of a device"),
        "{large}"
    );
}

#[test]
fn the_other_byte_order_is_refused_and_can_be_turned() {
    let made = new_array(&wish(Level::Raid1, 2)).unwrap();
    let bytes = made.slots[0].as_ref().unwrap().encode(512);
    let other = swapped(&bytes);
    let refusal = load(&other).unwrap_err();
    assert_eq!(refusal, ParseError::ByteSwapped);
    assert!(refusal.to_string().contains("--update=byteorder"));
    let shown = SuperblockV090::parse(&other).unwrap();
    assert_eq!((shown.events, shown.raid_disks), (1, 2));
    assert_eq!(swapped(&other), bytes);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let made = new_array(&wish(Level::Raid5, 3)).unwrap();
    let good = made.slots[0].as_ref().unwrap().encode(512);
    for (word, value, why) in [
        (992, 27, "its device number is 27"),
        (992, 9, "its own entry, 9, is empty"),
        (10, 28, "28 devices, of 27"),
        (65, 777, "a chunk of 777 bytes"),
        (65, 0, "raid5 with a chunk of 0 sectors"),
        (8, 1 << 30, "sectors are used of"),
        (8, 0, "a raid5 of no sectors"),
    ] {
        let mut bytes = good.clone();
        bytes[4 * word..][..4].copy_from_slice(&u32::to_le_bytes(value));
        let sum = SuperblockV090::parse(&bytes).unwrap().computed_checksum;
        assert!(matches!(load(&bytes), Err(ParseError::BadChecksum { .. })));
        bytes[152..156].copy_from_slice(&sum.to_le_bytes());
        let refusal = load(&bytes).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
    assert!(SuperblockV1::load(&good, Format::V090, 127).is_err());
}

/// A state that an array of some slots can be in: who is in which slot, and who else is there.
fn state() -> impl Strategy<Value = (u32, Vec<Listed>, u64, Option<u32>)> {
    let listed = |slots: u32| {
        let held = prop::collection::vec(any::<Option<(u32, u32, bool)>>(), slots as usize);
        let others = prop::collection::vec(any::<(u32, u32, bool)>(), 0..=4);
        (held, others).prop_map(move |(held, others)| {
            let node = |major: u32, minor: u32| Node {
                major: major | 1,
                minor,
            };
            let mut listed = Vec::new();
            for (slot, one) in held.into_iter().enumerate() {
                listed.extend(one.map(|(major, minor, mostly)| Listed {
                    number: slot as u32,
                    node: node(major, minor),
                    role: Role::Active(slot as u16),
                    flags: DeviceFlags(u8::from(mostly)),
                }));
            }
            for (index, (major, minor, failed)) in others.into_iter().enumerate() {
                listed.push(Listed {
                    number: slots + index as u32,
                    node: node(major, minor),
                    role: if failed { Role::Faulty } else { Role::Spare },
                    flags: DeviceFlags::default(),
                });
            }
            (slots, listed)
        })
    };
    (1u32..=23)
        .prop_flat_map(listed)
        .prop_filter("somebody writes it", |(_, listed)| !listed.is_empty())
        .prop_flat_map(|(slots, listed)| {
            (
                Just(slots),
                Just(listed),
                0u64..1 << 60,
                any::<Option<u32>>(),
            )
        })
}

fn superblock(
    (slots, listed, events, checkpoint): (u32, Vec<Listed>, u64, Option<u32>),
) -> Vec<u8> {
    let made = new_array(&wish(Level::Raid1, 2)).unwrap();
    let mut one = made.slots[0].clone().unwrap();
    one.fields.raid_disks = slots;
    one.fields.events = events;
    one.fields.resync_offset_sectors = checkpoint.map_or(SECTOR_MAX, u64::from);
    one.fields.dev_number = listed[0].number;
    one.fields.node = listed[0].node;
    let mut roles = vec![Role::Spare; DEVICES_MAX];
    for entry in &listed {
        roles[entry.number as usize] = entry.role;
    }
    one.set_members(roles, listed.clone());
    let bytes = one.encode(512);
    let read = load(&bytes).unwrap();
    assert_eq!(read.fields.listed, listed);
    let expected = umd_format::v1::Fields {
        device_uuid: read.fields.device_uuid,
        flags: listed[0].flags,
        ..one.fields.clone()
    };
    assert_eq!(read.fields, expected);
    assert_eq!(read.encode(4096), bytes);
    assert!(read.fields.features.contains(Features::BITMAP_OFFSET));
    bytes
}

proptest! {
    /// A write that stopped in the middle leaves what was there, what was wanted, or nothing that
    /// is taken for a superblock.
    #[test]
    fn torn_writes_are_noticed(before in state(), after in state(), which in 1u8..255) {
        let (before, after) = (superblock(before), superblock(after));
        let mut torn = before.clone();
        for sector in (0..8).filter(|sector| which & (1 << sector) != 0) {
            let range = 512 * sector..512 * (sector + 1);
            torn[range.clone()].copy_from_slice(&after[range]);
        }
        if torn != before && torn != after {
            let refusal = load(&torn);
            let noticed = matches!(refusal, Err(ParseError::BadChecksum { .. }));
            prop_assert!(noticed, "{:?}", refusal);
        }
    }
}
