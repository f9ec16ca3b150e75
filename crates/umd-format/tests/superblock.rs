//! The v1 superblock: golden bytes, round trips, damage, nonsense.

use proptest::prelude::*;
use umd_format::kernels::refusals;
use umd_format::v1::{DeviceFlags, Features, Fields, Raid0Layout, UnixTime, Unverified, checksum};
use umd_format::{Format, Level, Minor, ParseError, Role, SECTOR_MAX, SuperblockV1, Uuid};

const K72: &[u8] = include_bytes!("data/k72-raid6-lbs.superblock.bin");
const LLB_RAID1: &[u8] = include_bytes!("data/llb-raid1-dirty.superblock.bin");
const LLB_RAID5: &[u8] = include_bytes!("data/llb-raid5-clean.superblock.bin");
/// 24 MiB, the size of the members above.
const DEVICE_SECTORS: u64 = 49_152;

/// The worked example of the checksum: a 1.2 raid5 member with 128 roles.
fn worked_example() -> Vec<u8> {
    let mut words = [0u32; 128];
    for (offset, value) in [
        (0, 0xa92b_4efc),
        (4, 1),
        (8, 1),
        (16, 0x6028_0087),
        (20, 0x1c1d_fa52),
        (24, 0xed0b_75c6),
        (28, 0x3432_9191),
        (32, 0x6e6f_6e28),
        (36, 0x743a_2965),
        (40, 0x6565_7268),
        (64, 0x6b00_5863),
        (72, 5),
        (76, 2),
        (80, 0x1f800),
        (88, 0x80),
        (92, 3),
        (96, 8),
        (128, 0x800),
        (136, 0x1f800),
        (144, 8),
        (168, 0x158e_3a9e),
        (172, 0xf502_35b0),
        (176, 0x3874_43ff),
        (180, 0xaa18_4567),
        (184, 0x0008_0000),
        (188, 0x10),
        (192, 0x6b00_5867),
        (200, 0x14),
        (208, u32::MAX),
        (212, u32::MAX),
        (216, 0x51e7_fee8),
        (220, 0x80),
        (256, 0x0001_0000),
        (260, u32::MAX),
        (264, 0xffff_0002),
    ] {
        words[offset / 4] = value;
    }
    words[67..].fill(u32::MAX);
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn worked_example_has_the_checksum_seen_on_disk() {
    let bytes = worked_example();
    assert_eq!(checksum(&bytes), 0x51e7_fee8);
    let superblock = SuperblockV1::load(&bytes, Format::V1_2, 131_072).unwrap();
    let fields = &superblock.fields;
    assert_eq!(fields.level, Level::Raid5);
    assert_eq!(
        fields.level.layout_name(fields.layout),
        Some("left-symmetric")
    );
    assert_eq!((fields.raid_disks, fields.chunk_sectors), (3, 128));
    assert_eq!(fields.name(), "(none):three");
    assert_eq!(fields.events, 20);
    assert!(fields.is_clean());
    assert_eq!(
        fields.roles[..5],
        [
            Role::Active(0),
            Role::Active(1),
            Role::Spare,
            Role::Spare,
            Role::Active(2)
        ]
    );
    assert!(fields.slot_is_held(2) && !fields.slot_is_held(3));
    assert_eq!(fields.array_sectors(), Some(2 * 0x1f800));
    assert_eq!(
        (fields.bitmap_sector(), fields.bblog_sector()),
        (Some(16), Some(24))
    );
}

#[test]
fn members_written_by_kernel_7_2_are_read_and_written_back() {
    for bytes in [K72, LLB_RAID1, LLB_RAID5] {
        let superblock = SuperblockV1::load(bytes, Format::V1_2, DEVICE_SECTORS).unwrap();
        assert_eq!(superblock.encode(512), bytes);
        let padded = superblock.encode(4096);
        assert_eq!((padded.len(), &padded[..512]), (4096, bytes));
        let fields = &superblock.fields;
        assert_eq!(
            (fields.data_offset_sectors, fields.data_size_sectors),
            (2048, 47_104)
        );
        assert_eq!(fields.own_role(), Role::Active(0));
        assert_eq!(fields.logical_block_bytes, 512);
    }
    let fields = SuperblockV1::load(K72, Format::V1_2, DEVICE_SECTORS)
        .unwrap()
        .fields;
    assert_eq!(
        fields.set_uuid.to_string(),
        "23d5df6b:1c017be0:d40e086f:9867cb64"
    );
    assert_eq!(
        fields.device_uuid.to_string(),
        "35b41645:fadb8a82:d9fc9932:60f46a02"
    );
    assert_eq!((fields.name().as_str(), fields.events), ("(none):0", 17));
    assert_eq!(
        (fields.array_sectors(), fields.chunk_sectors),
        (Some(94_208), 64)
    );
}

#[test]
fn byte_224_names_the_kernels_that_refuse() {
    let superblock = SuperblockV1::load(K72, Format::V1_2, DEVICE_SECTORS).unwrap();
    let found = refusals(&superblock.fields, superblock.v1_raw(), Some(4));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kernels, "up to 6.18");
    let lockless = SuperblockV1::load(LLB_RAID1, Format::V1_2, DEVICE_SECTORS).unwrap();
    let found = refusals(&lockless.fields, lockless.v1_raw(), Some(6));
    assert_eq!(
        found.iter().map(|one| one.kernels).collect::<Vec<_>>(),
        ["up to 6.18", "up to 6.17"]
    );
    let plain = worked_example();
    let plain = SuperblockV1::load(&plain, Format::V1_2, 131_072).unwrap();
    assert_eq!(refusals(&plain.fields, plain.v1_raw(), Some(4)), []);
}

#[test]
fn unknown_bytes_survive_a_rewrite() {
    let mut bytes = worked_example();
    for offset in [12, 15, 228, 255] {
        bytes[offset] = 0x5a;
    }
    bytes.extend_from_slice(&[0xa5; 512]);
    set_checksum(&mut bytes);
    let mut superblock = SuperblockV1::load(&bytes, Format::V1_2, 131_072).unwrap();
    assert_eq!(
        refusals(&superblock.fields, superblock.v1_raw(), None).len(),
        2
    );
    superblock.fields.events += 1;
    let written = superblock.encode(1024);
    let changed: Vec<usize> = (0..1024).filter(|&at| written[at] != bytes[at]).collect();
    assert!(
        changed
            .iter()
            .all(|at| (200..208).contains(at) || (216..220).contains(at))
    );
    assert!(changed.contains(&200) && changed.contains(&216));
}

#[test]
fn a_wrong_checksum_can_still_be_shown() {
    let mut bytes = worked_example();
    bytes[200] = 21;
    let found = Unverified::parse(&bytes, Minor::V1_2).unwrap();
    assert_eq!(found.fields().events, 21);
    assert_eq!(found.stored_checksum(), 0x51e7_fee8);
    assert_eq!(found.computed_checksum(), 0x51e7_fee9);
    let error = found.verify(131_072).unwrap_err();
    let expected = ParseError::BadChecksum {
        stored: 0x51e7_fee8,
        computed: 0x51e7_fee9,
    };
    assert_eq!(error, expected);
}

fn role_count(bytes: &[u8]) -> usize {
    let word = bytes[220..224].iter().rev();
    word.fold(0, |count, byte| count << 8 | usize::from(*byte))
}

fn set_checksum(bytes: &mut [u8]) {
    let roles = role_count(bytes);
    let sum = checksum(&bytes[..256 + 2 * roles]);
    bytes[216..220].copy_from_slice(&sum.to_le_bytes());
}

/// Offsets and the bytes to put there.
type Patches<'a> = &'a [(usize, &'a [u8])];

/// Patches the worked example, makes its checksum right and loads it.
fn patched(patches: Patches) -> Result<SuperblockV1, ParseError> {
    let mut bytes = worked_example();
    for (offset, patch) in patches {
        bytes[*offset..*offset + patch.len()].copy_from_slice(patch);
    }
    set_checksum(&mut bytes);
    SuperblockV1::load(&bytes, Format::V1_2, 131_072)
}

#[test]
fn each_check_has_its_own_error() {
    assert!(patched(&[]).is_ok());
    assert_eq!(
        patched(&[(9, &[0x20])]),
        Err(ParseError::UnknownFeatures(0x2000))
    );
    let elsewhere = ParseError::WrongPlace {
        stored: 16,
        found: 8,
    };
    assert_eq!(patched(&[(144, &[16])]), Err(elsewhere));
    let bytes = worked_example();
    let error = SuperblockV1::load(&bytes, Format::V1_2, 131_071).unwrap_err();
    let expected = ParseError::DeviceTooSmall {
        data_end_sectors: 131_072,
        device_sectors: 131_071,
    };
    assert_eq!(error, expected);
    assert!(error.to_string().ends_with("(1 sectors short)"), "{error}");
    let error = SuperblockV1::load(&bytes, Format::V1_1, 131_072).unwrap_err();
    assert_eq!(
        error,
        ParseError::WrongPlace {
            stored: 8,
            found: 0
        }
    );
    let error = SuperblockV1::load(&bytes[..511], Format::V1_2, 131_072).unwrap_err();
    assert_eq!(
        error,
        ParseError::Truncated {
            need_bytes: 512,
            have_bytes: 511
        }
    );
    let error = Unverified::parse(&[0; 4096], Minor::V1_2).unwrap_err();
    assert_eq!(error, ParseError::NoMagic { found: 0 });
}

#[test]
fn versions_other_than_1_are_not_read() {
    let mut bytes = worked_example();
    bytes[4] = 0;
    let error = Unverified::parse(&bytes, Minor::V1_2).unwrap_err();
    assert_eq!(error, ParseError::BadVersion { major: 0 });
}

/// Each of these is a value no writer produces, together with a word of the explanation.
#[test]
fn contradictions_are_refused() {
    let huge = u64::MAX.to_le_bytes();
    let cases: &[(Patches, &str)] = &[
        (&[(207, &[0x80])], "events"),
        (&[(88, &[0])], "chunk"),
        (&[(88, &[0x81])], "chunk"),
        (&[(88, &[4])], "chunk"),
        (&[(92, &[0])], "0 devices"),
        (&[(92, &[1])], "1 devices"),
        (&[(72, &[6])], "raid6 with 3 devices"),
        (&[(94, &[1])], "devices"),
        (&[(80, &huge)], "are used of"),
        (&[(80, &[8, 0, 0])], "below one chunk"),
        (&[(136, &[9, 0, 0])], "are used of"),
        (
            &[(72, &[1]), (80, &[1, 0, 0]), (136, &[9, 0, 0])],
            "only 9 sectors",
        ),
        (&[(128, &[8, 0])], "overlaps the superblock"),
        (&[(96, &[0])], "bitmap overlaps the superblock"),
        (&[(96, &[0, 8])], "bitmap overlaps the data"),
        (&[(96, &[0xf0, 0xff, 0xff, 0xff])], "before the start"),
        (&[(96, &[0, 0, 0, 0x7f])], "behind the end"),
        (&[(8, &[0x01, 0x04])], "exclude each other"),
        (&[(8, &[0x00, 0x0c])], "exclude each other"),
        (&[(8, &[0x00, 0x06])], "exclude each other"),
        (&[(8, &[0x01, 0x10])], "raid0 layout"),
        (&[(8, &[0x09]), (188, &[0])], "bad-block log"),
        (&[(8, &[0x09]), (186, &[9])], "a bad-block log of 9"),
        (&[(72, &[0]), (88, &[0])], "without a chunk"),
        (&[(72, &[1]), (80, &[0; 8])], "a raid1 of no sectors"),
        (&[(224, &[7])], "logical blocks of 7 bytes"),
        (&[(225, &[1])], "logical blocks of 256 bytes"),
        (&[(226, &[2])], "logical blocks of 131072 bytes"),
    ];
    for (patches, word) in cases {
        match patched(patches) {
            Err(ParseError::Impossible(text)) => assert!(text.contains(word), "{word}: {text}"),
            other => panic!("{word}: {other:?}"),
        }
    }
    let mut bytes = worked_example();
    bytes[220..224].copy_from_slice(&1921u32.to_le_bytes());
    let error = Unverified::parse(&bytes, Minor::V1_2).unwrap_err();
    assert!(error.to_string().contains("1921 roles"), "{error}");
}

#[test]
fn data_must_end_before_a_superblock_at_the_end() {
    let mut fields = patched(&[]).unwrap().fields;
    fields.super_offset_sectors = 131_056;
    fields.bitmap_offset_raw = -16i32 as u32;
    fields.data_offset_sectors = 0;
    fields.data_size_sectors = 131_040;
    assert!(SuperblockV1::build(Format::V1_0, fields.clone(), 131_072).is_ok());
    fields.data_size_sectors = 131_041;
    let error = SuperblockV1::build(Format::V1_0, fields.clone(), 131_072).unwrap_err();
    assert!(
        error.to_string().contains("bitmap overlaps the data"),
        "{error}"
    );
    fields.data_size_sectors = 131_057;
    let error = SuperblockV1::build(Format::V1_0, fields, 131_072).unwrap_err();
    assert!(
        error.to_string().contains("overlaps the superblock"),
        "{error}"
    );
}

#[test]
fn fields_with_two_meanings_follow_the_feature_map() {
    let mut fields = patched(&[]).unwrap().fields;
    assert_eq!(
        (fields.bitmap_offset_sectors(), fields.ppl()),
        (Some(8), None)
    );
    fields.features = Features::PPL;
    fields.bitmap_offset_raw = 2048 << 16 | 0xfff8;
    let ppl = fields.ppl().unwrap();
    assert_eq!((ppl.offset_sectors, ppl.size_sectors), (-8, 2048));
    assert_eq!(
        (fields.bitmap_offset_sectors(), fields.bitmap_sector()),
        (None, None)
    );
    assert_eq!(fields.recovery_offset_sectors(), None);
    fields.features = Features::RECOVERY_OFFSET;
    fields.recovery_offset_raw = 65_536;
    assert_eq!(fields.recovery_offset_sectors(), Some(65_536));
    assert_eq!(fields.raid0_layout(), None);
    fields.level = Level::Raid0;
    fields.features = Features::RAID0_LAYOUT;
    assert_eq!(fields.raid0_layout(), Some(Raid0Layout::Alternate));
    assert_eq!(fields.array_sectors(), None);
}

#[test]
fn role_table_grows_with_unused_entries() {
    let mut superblock = patched(&[]).unwrap();
    superblock.fields.set_role(130, Role::Faulty);
    assert_eq!(superblock.fields.roles.len(), 131);
    assert_eq!(superblock.fields.role_of(129), Role::Spare);
    assert_eq!(superblock.fields.role_of(5000), Role::Spare);
    let bytes = superblock.encode(512);
    assert_eq!(bytes.len(), 1024);
    let again = SuperblockV1::load(&bytes, Format::V1_2, 131_072).unwrap();
    assert_eq!(again.fields, superblock.fields);
}

#[test]
fn times_keep_their_microseconds() {
    let time = UnixTime(7 << 40 | 1_577_836_800);
    assert_eq!((time.seconds(), time.microseconds()), (1_577_836_800, 7));
    assert_eq!(UnixTime::from_seconds(1_577_836_800).0, 1_577_836_800);
}

fn arbitrary_role() -> impl Strategy<Value = Role> {
    any::<u16>().prop_map(Role::from_raw)
}

prop_compose! {
    /// Fields that are valid on a 1.2 member of 131072 sectors.
    fn arbitrary_fields()(
        feature_bits in 0u32..0x100,
        set_uuid in any::<[u8; 16]>(),
        set_name in any::<[u8; 32]>(),
        times in any::<[u64; 2]>(),
        layout in any::<u32>(),
        raid_disks in 3u32..1920,
        reshape in any::<(i32, u64, i32, u32, u32, i32)>(),
        recovery_offset_raw in any::<u64>(),
        numbers in any::<(u32, u32, u64, u64)>(),
        flags in any::<u8>(),
        logical_block_bytes in prop_oneof![Just(0), (9u32..=16).prop_map(|shift| 1 << shift)],
        roles in prop::collection::vec(arbitrary_role(), 0..400),
    ) -> Fields {
        Fields {
            features: Features(feature_bits),
            set_uuid: Uuid(set_uuid),
            set_name,
            ctime: UnixTime(times[0]),
            level: Level::Raid5,
            layout,
            size_sectors: 0x1f800,
            chunk_sectors: 128,
            raid_disks,
            bitmap_offset_raw: 8,
            new_level: Level::from_raw(reshape.0),
            reshape_position_sectors: reshape.1,
            delta_disks: reshape.2,
            new_layout: reshape.3,
            new_chunk_sectors: reshape.4,
            new_offset_sectors: reshape.5,
            data_offset_sectors: 2048,
            data_size_sectors: 0x1f800,
            super_offset_sectors: 8,
            recovery_offset_raw,
            dev_number: numbers.0 % 1920,
            corrected_reads: numbers.1,
            device_uuid: Uuid(set_uuid.map(|byte| !byte)),
            flags: DeviceFlags(flags),
            bblog_shift: 0,
            bblog_size_sectors: 8,
            bblog_offset_sectors: 16,
            utime: UnixTime(times[1]),
            events: numbers.2 >> 1,
            resync_offset_sectors: numbers.3 | SECTOR_MAX << 60,
            logical_block_bytes,
            roles,
            listed: Vec::new(),
            node: umd_format::v1::Node::default(),
            preferred_minor: 0,
        }
    }
}

proptest! {
    #[test]
    fn every_field_survives_the_round_trip(fields in arbitrary_fields()) {
        let built = SuperblockV1::build(Format::V1_2, fields.clone(), 131_072).unwrap();
        let bytes = built.encode(512);
        let again = SuperblockV1::load(&bytes, Format::V1_2, 131_072).unwrap();
        prop_assert_eq!(&again.fields, &fields);
        prop_assert_eq!(again.encode(512), bytes);
    }

    #[test]
    fn any_changed_byte_is_noticed(
        fields in arbitrary_fields(),
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let used_bytes = fields.encoded_bytes();
        let built = SuperblockV1::build(Format::V1_2, fields, 131_072).unwrap();
        let mut bytes = built.encode(512);
        bytes.resize(4096, 0);
        bytes[place.index(used_bytes)] ^= flip;
        prop_assert!(SuperblockV1::load(&bytes, Format::V1_2, 131_072).is_err());
    }

    #[test]
    fn nonsense_with_a_right_checksum_never_panics(
        patches in prop::collection::vec((8usize..300, any::<u8>()), 1..24),
        length in 0usize..1100,
        device_sectors in prop_oneof![0u64..200_000, any::<u64>()],
    ) {
        let mut bytes = worked_example();
        for (offset, value) in patches {
            bytes[offset] = value;
        }
        bytes.resize(4096, 0xff);
        if role_count(&bytes) <= 1920 {
            set_checksum(&mut bytes);
        }
        for format in Format::ALL {
            if let Ok(superblock) = SuperblockV1::load(&bytes, format, device_sectors) {
                let used = superblock.fields.encoded_bytes();
                prop_assert_eq!(&superblock.encode(512)[..used], &bytes[..used]);
                superblock.fields.array_sectors();
            }
            let _ = SuperblockV1::load(&bytes[..length.min(4096)], format, device_sectors);
        }
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..4200)) {
        let _ = Unverified::parse(&bytes, Minor::V1_0);
        let _ = umd_format::v090::SuperblockV090::parse(&bytes);
        let _ = umd_format::bitmap::Unverified::parse(&bytes);
        let _ = umd_format::badblocks::parse(&bytes, bytes.first().copied().unwrap_or(0));
        let window = umd_format::signature::Window { offset_bytes: 0, bytes: &bytes };
        umd_format::signature::scan(&[window], 1 << 20);
        if bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
            if let Ok(found) = Unverified::parse(&bytes, Minor::V1_2) {
                found.computed_checksum();
                let _ = found.verify(1 << 20);
            }
        }
    }
}
