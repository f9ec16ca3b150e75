//! The bitmap superblock and the arithmetic of its bits.

use proptest::prelude::*;
use umd_format::Uuid;
use umd_format::bitmap::*;

const K72: &[u8] = include_bytes!("data/k72-raid6-lbs.bitmap.bin");
const LLB_RAID1: &[u8] = include_bytes!("data/llb-raid1-dirty.bitmap.bin");
const LLB_RAID5: &[u8] = include_bytes!("data/llb-raid5-clean.bitmap.bin");

fn uuid(text: &str) -> Uuid {
    text.parse().expect("the tests write good UUIDs")
}

#[test]
fn worked_example_encodes_to_the_bytes_seen_on_disk() {
    let array = uuid("f9e20102030405060708090a0b0c5e34");
    let mut superblock = BitmapSuperblock::new(array, 0x13800, 0x40_0000);
    superblock.fields.events = 1;
    let bytes = superblock.encode();
    assert_eq!(bytes[..8], *b"bitm\x04\0\0\0");
    assert_eq!(bytes[8..24], array.0);
    assert_eq!(
        bytes[24..40],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        bytes[40..64],
        [
            0, 0x38, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 5, 0, 0, 0, 0, 0, 0, 0
        ]
    );
    assert!(bytes[64..].iter().all(|&byte| byte == 0));
    assert_eq!(superblock.regions(0x13800), 10);
}

#[test]
fn bitmap_of_kernel_7_2_is_read_and_written_back() {
    let array = uuid("23d5df6b:1c017be0:d40e086f:9867cb64");
    let superblock = Unverified::parse(K72).unwrap().verify(array).unwrap();
    assert_eq!(superblock.encode(), K72[..256]);
    let fields = &superblock.fields;
    assert_eq!((fields.events, fields.events_cleared), (17, 17));
    assert_eq!(
        (fields.sync_size_sectors, fields.region_bytes()),
        (47_104, 64 << 20)
    );
    assert_eq!(superblock.regions(47_104), 1);
    // Stopped cleanly: the one bit is 0, and those behind the last region are still 1.
    assert_eq!((K72[256], &K72[257..260]), (0xfe, &[0xff; 3][..]));
    assert!(!superblock.is_stale(17) && superblock.is_stale(18));
}

#[test]
fn lockless_bitmaps_of_kernel_7_2_are_read_and_written_back() {
    for (bytes, array, events) in [
        (LLB_RAID1, "5c770d57:5937b030:b0320ba4:3a47d5ed", 3),
        (LLB_RAID5, "08a4d8d7:565aca98:58675ad7:e0ee7bf7", 23),
    ] {
        let found = Unverified::parse(bytes).unwrap();
        let superblock = found.verify(uuid(array)).unwrap();
        assert_eq!(superblock.encode(), bytes[..256]);
        assert!(superblock.is_lockless());
        let fields = &superblock.fields;
        assert_eq!(fields.region_bytes(), 64 << 10);
        assert_eq!(fields.sectors_reserved, SECTORS_RESERVED);
        assert_eq!(fields.daemon_sleep_s, DAEMON_SLEEP_LOCKLESS_S);
        assert_eq!((fields.events, fields.events_cleared), (events, 0));
        assert_eq!(superblock.regions(fields.sync_size_sectors), 368);
        assert_eq!(superblock.area_bytes(368), 1024 + 368);
        // What we would make for the same array differs in its events only.
        let mut made = BitmapSuperblock::new_lockless(uuid(array), 47_104).unwrap();
        made.fields.events = events;
        assert_eq!(made.encode(), bytes[..256]);
    }
}

#[test]
fn what_was_never_initialised_is_refused() {
    let array = uuid("5c770d57:5937b030:b0320ba4:3a47d5ed");
    let mut bytes = LLB_RAID1.to_vec();
    bytes[48] = 8;
    let found = Unverified::parse(&bytes).unwrap().verify(array);
    assert_eq!(found.unwrap_err(), BitmapError::FirstUse);
    bytes[48] = 0;
    bytes[52..56].copy_from_slice(&96_u32.to_le_bytes());
    let found = Unverified::parse(&bytes).unwrap().verify(array);
    assert!(matches!(found, Err(BitmapError::Impossible(_))));
}

#[test]
fn the_states_of_a_new_lockless_bitmap_fit_the_room_that_is_kept_for_them() {
    let room = u64::from(SECTORS_RESERVED) * 512 - STATES_OFFSET as u64;
    assert_eq!(lockless_region_sectors(128 * room), Some(128));
    assert_eq!(lockless_region_sectors(128 * room + 1), Some(256));
    assert_eq!(lockless_region_sectors(u64::MAX), None);
    let superblock = BitmapSuperblock::new_lockless(Uuid([3; 16]), 128 * room).unwrap();
    let image = superblock.lockless_image(RegionState::Clean);
    assert_eq!(image[..256], superblock.encode());
    assert_eq!(image.len(), 256 * 512);
    assert!(image[256..1024].iter().all(|byte| *byte == 0xff));
    assert!(image[1024..].iter().all(|byte| *byte == 1));
}

/// The columns Reload and Stale of bitmap.md section 10.
#[test]
fn states_are_loaded_as_the_table_says() {
    let reload = [0, 1, 3, 3, 3, 0, 0, 7];
    let stale = [0, 3, 3, 3, 3, 0, 0, 0];
    for byte in 0..=255_u8 {
        let state = RegionState::of(byte);
        match RegionState::ALL.get(usize::from(byte)) {
            Some(known) => assert_eq!((state, state.byte()), (*known, byte)),
            None => assert_eq!(state, RegionState::NeedSync),
        }
        let at = usize::from(state.byte());
        assert_eq!(state.loaded(false).byte(), reload[at]);
        assert_eq!(state.loaded(true).byte(), stale[at]);
        assert_eq!(state.is_marked(), (2..5).contains(&state.byte()));
    }
}

#[test]
fn each_check_has_its_own_error() {
    let array = uuid("23d5df6b:1c017be0:d40e086f:9867cb64");
    let load = |offset: usize, patch: &[u8]| {
        let mut bytes = K72.to_vec();
        bytes[offset..offset + patch.len()].copy_from_slice(patch);
        Unverified::parse(&bytes).and_then(|found| found.verify(array))
    };
    assert!(load(4, &[3]).is_ok());
    assert_eq!(load(4, &[5]), Err(BitmapError::Clustered));
    assert_eq!(load(4, &[2]), Err(BitmapError::UnknownVersion(2)));
    assert!(matches!(load(8, &[0]), Err(BitmapError::WrongArray { .. })));
    assert!(matches!(load(0, &[0]), Err(BitmapError::NoMagic { .. })));
    for (offset, patch) in [
        (52, 0u32),
        (52, 256),
        (52, 3 << 20),
        (56, 0),
        (56, 1 << 31),
        (60, 16_384),
    ] {
        let found = load(offset, &patch.to_le_bytes());
        assert!(
            matches!(found, Err(BitmapError::Impossible(_))),
            "{offset} {patch} {found:?}"
        );
    }
    let error = Unverified::parse(&K72[..255]).unwrap_err();
    assert_eq!(error, BitmapError::Truncated { have_bytes: 255 });
}

#[test]
fn the_stale_flag_counts_as_stale() {
    let mut superblock = BitmapSuperblock::new(Uuid::default(), 1024, 4096);
    assert!(!superblock.is_stale(0));
    superblock.fields.state = superblock.fields.state.with(State::STALE);
    assert!(superblock.is_stale(0));
    superblock.fields.state = superblock.fields.state.without(State::STALE);
    assert_eq!(superblock.fields.state, State::default());
}

#[test]
fn sizes_are_those_of_the_facts() {
    // 8 TiB at 64 MiB: 131072 bits, 16 KiB; 40 sectors with the superblock.
    let sectors = 8u64 << 31;
    assert_eq!(regions(sectors, REGION_BYTES_DEFAULT), 131_072);
    assert_eq!(on_disk_bytes(131_072), 256 + 16_384);
    assert_eq!(on_disk_sectors(131_072), 40);
    assert_eq!(default_region_bytes(sectors, 256), Some(64 << 20));
    assert_eq!(default_region_bytes(sectors, 8), Some(512 << 20));
    assert_eq!(least_region_bytes(0x13800, 8), Some(4096));
    assert_eq!(least_region_bytes(1, 0), None);
    assert_eq!(least_region_bytes(u64::MAX, 1), None);
    assert_eq!(on_disk_bytes(63), 264);
}

#[test]
fn regions_of_a_file_are_small_until_there_are_too_many() {
    for (sectors, region) in [
        (1 << 11, 4096),
        (8 << 21, 4096),
        ((8 << 21) + 1, 8192),
        (u64::MAX, 1 << 31),
    ] {
        assert_eq!(file_region_bytes(sectors), region, "{sectors}");
    }
}

#[test]
fn bits_of_the_first_page_end_at_30719() {
    assert_eq!(bit_position(0), (256, 1));
    assert_eq!(bit_position(30_719), (4095, 0x80));
    assert_eq!(bit_position(30_720), (4096, 1));
}

#[test]
fn a_new_bitmap_is_all_dirty_to_the_end_of_its_page() {
    let superblock = BitmapSuperblock::new(Uuid([7; 16]), 8u64 << 31, 64 << 20);
    let image = initial_image(&superblock);
    assert_eq!(image.len(), 40 * 512);
    assert_eq!(image[..256], superblock.encode());
    assert!(image[256..].iter().all(|&byte| byte == 0xff));
}

proptest! {
    #[test]
    fn all_fields_and_unknown_bytes_survive(mut bytes in prop::collection::vec(any::<u8>(), 256)) {
        bytes[..8].copy_from_slice(b"bitm\x04\0\0\0");
        let array = Uuid(bytes[8..24].try_into().unwrap());
        bytes[52..64].copy_from_slice(&[0, 16, 0, 0, 9, 0, 0, 0, 255, 63, 0, 0]);
        let superblock = Unverified::parse(&bytes).unwrap().verify(array).unwrap();
        prop_assert_eq!(&superblock.encode()[..], &bytes[..]);
    }

    #[test]
    fn all_fields_of_lockless_ones_survive(
        mut bytes in prop::collection::vec(any::<u8>(), 256), shift in 0u32..32,
    ) {
        bytes[..8].copy_from_slice(b"bitm\x06\0\0\0");
        let array = Uuid(bytes[8..24].try_into().unwrap());
        bytes[48] &= !8;
        bytes[52..56].copy_from_slice(&(1_u32 << shift).to_le_bytes());
        bytes[56..64].copy_from_slice(&[30, 0, 0, 0, 0, 0, 0, 0]);
        let superblock = Unverified::parse(&bytes).unwrap().verify(array).unwrap();
        prop_assert_eq!(&superblock.encode()[..], &bytes[..]);
        prop_assert_eq!(superblock.fields.region_bytes(), 512 << shift);
    }

    #[test]
    fn the_least_region_fits_and_half_of_it_does_not(
        sectors in 1u64..1 << 45, room_sectors in 1u64..1024,
    ) {
        let fits = |region| on_disk_bytes(regions(sectors, region)) <= room_sectors * 512;
        if let Some(region) = least_region_bytes(sectors, room_sectors) {
            prop_assert!(fits(region));
            prop_assert!(region == REGION_BYTES_MIN || !fits(region / 2));
        }
    }
}
