//! What a power cut or a bad sector can make of metadata: torn superblocks, cut logs. And the
//! codecs again, for every level and every place.

use proptest::prelude::*;
use umd_format::badblocks::{self, BadRange};
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::v1::{DeviceFlags, Features, UnixTime};
use umd_format::{Format, Level, Role, SECTOR_BYTES, SuperblockV1, Uuid};

/// This many cases; failures are shown, not kept in a file.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_global_rejects: u32::MAX,
        ..ProptestConfig::with_cases(cases)
    }
}

/// Longer members have no room for a bitmap: 128 KiB of it, less its superblock of 256 bytes, are
/// so many regions, and a region is at most 2 GiB.
const BITMAP_SECTORS_END: u64 = ((128 * 1024 - 256) * 8) << 22;

/// Superblocks of arrays of any level, shape and place, as `create` makes them.
#[derive(Debug, Clone)]
struct Recipe {
    format: Format,
    level: Level,
    members: usize,
    spares: usize,
    chunk_shift: u32,
    device_sectors: u64,
    bitmap: bool,
    log: bool,
}

prop_compose! {
    fn recipe()(
        minor in prop::sample::select(Format::ALL[..3].to_vec()),
        level in prop::sample::select(vec![
            Level::Raid0, Level::Raid1, Level::Raid4, Level::Raid5, Level::Raid6,
        ]),
        members in prop_oneof![4usize..8, 120usize..256],
        spares in 0usize..12,
        chunk_shift in 3u32..12,
        device_sectors in prop_oneof![
            30_000u64..400_000,
            any::<u64>().prop_map(|size| (size >> 20) + 30_000),
            // The most an array of this many members can have.
            (1u64..64).prop_map(|less| (1 << 55) / 256 - less),
        ],
        bitmap in any::<bool>(),
        log in any::<bool>(),
    ) -> Recipe {
        Recipe { format: minor, level, members, spares, chunk_shift, device_sectors, bitmap, log }
    }
}

impl Recipe {
    /// The superblocks, those of spares last.
    fn superblocks(&self) -> Vec<SuperblockV1> {
        let redundant = self.level.is_redundant();
        let spares = if redundant { self.spares } else { 0 };
        let member = |index: usize| NewMember {
            device_sectors: self.device_sectors,
            device_uuid: Uuid((index as u128 + 1).to_le_bytes()),
            flags: DeviceFlags::default(),
        };
        let array = NewArray {
            format: self.format,
            preferred_minor: 0,
            set_uuid: Uuid([7; 16]),
            name: "host:damage".to_owned(),
            ctime_seconds: 1_577_836_800,
            level: self.level,
            layout: u32::from(matches!(self.level, Level::Raid5 | Level::Raid6)) * 2,
            chunk_sectors: if self.level.is_striped() {
                1 << self.chunk_shift
            } else {
                0
            },
            size_sectors: None,
            data_offset_sectors: None,
            bitmap: (self.bitmap && redundant && self.device_sectors <= BITMAP_SECTORS_END)
                .then_some(RegionWish::Default),
            bad_block_log: self.log,
            assume_clean: true,
            slots: (0..self.members).map(|slot| Some(member(slot))).collect(),
            spares: (0..spares)
                .map(|spare| member(self.members + spare))
                .collect(),
        };
        let created = new_array(&array).expect("an array that can be made");
        created
            .slots
            .into_iter()
            .flatten()
            .chain(created.spares)
            .collect()
    }
}

/// One of the changes that a running array makes to its superblocks.
#[derive(Debug, Clone, Copy)]
enum Update {
    /// Active or clean.
    Events { resync_from: u64 },
    /// Members failed.
    Fail { first: u32, count: u32 },
    /// A spare takes a slot.
    Join { number: u32, slot: u16 },
    /// This member is in sync now.
    Promote,
    /// A new member made the table longer.
    Grow { to: u32 },
}

fn update() -> impl Strategy<Value = Update> {
    prop_oneof![
        prop_oneof![Just(u64::MAX), any::<u64>()]
            .prop_map(|resync_from| Update::Events { resync_from }),
        (0u32..256, 1u32..3).prop_map(|(first, count)| Update::Fail { first, count }),
        (0u32..400, 0u16..256).prop_map(|(number, slot)| Update::Join { number, slot }),
        Just(Update::Promote),
        (1u32..400).prop_map(|to| Update::Grow { to }),
    ]
}

fn next(superblock: &SuperblockV1, update: Update) -> SuperblockV1 {
    let mut next = superblock.clone();
    let fields = &mut next.fields;
    fields.events += 1;
    fields.utime = UnixTime(fields.utime.0 + 3);
    match update {
        Update::Events { resync_from } => fields.resync_offset_sectors = resync_from,
        Update::Fail { first, count } => {
            for number in first..first + count {
                fields.set_role(number, Role::Faulty);
            }
        }
        Update::Join { number, slot } => {
            fields.set_role(number, Role::Active(slot));
            fields.features = fields.features.with(Features::RECOVERY_OFFSET);
        }
        Update::Promote => fields.features = fields.features.without(Features::RECOVERY_OFFSET),
        Update::Grow { to } => fields.set_role(to, Role::Spare),
    }
    next
}

/// What is on the medium when only the sectors in `landed` of a write of `new` over `old` arrived.
fn torn(old: &[u8], new: &[u8], landed: u32) -> Vec<u8> {
    let mut image = old.to_vec();
    let sectors = image.chunks_mut(SECTOR_BYTES).zip(new.chunks(SECTOR_BYTES));
    for (index, (on_disk, written)) in sectors.enumerate() {
        if landed & (1 << index) != 0 {
            on_disk.copy_from_slice(written);
        }
    }
    image
}

/// A superblock in the 4 KiB that are read to find it, all else zero.
fn on_medium(superblock: &SuperblockV1) -> Vec<u8> {
    let mut image = superblock.encode(SECTOR_BYTES);
    image.resize(4096, 0);
    image
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn superblocks_of_every_shape_survive_the_round_trip(recipe in recipe()) {
        for superblock in recipe.superblocks() {
            for block_bytes in [512, 4096] {
                let bytes = superblock.encode(block_bytes);
                prop_assert_eq!(bytes.len() % block_bytes, 0);
                let again = SuperblockV1::load(&bytes, recipe.format, recipe.device_sectors)
                    .expect("what was written can be read");
                prop_assert_eq!(&again.fields, &superblock.fields);
                prop_assert_eq!(again.encode(block_bytes), bytes);
            }
        }
    }

    /// A write that was cut short is seen as such, or the superblock is one of the two.
    #[test]
    fn a_torn_superblock_is_rejected_or_one_of_the_two(
        recipe in recipe(),
        member in any::<prop::sample::Index>(),
        update in update(),
        landed in any::<u32>(),
    ) {
        let superblocks = recipe.superblocks();
        let old = member.get(&superblocks);
        let new = next(old, update);
        // A table that grows into another sector: see the limits below.
        prop_assume!(new.sectors() == old.sectors());
        let (old_bytes, new_bytes) = (on_medium(old), on_medium(&new));
        // One sector missing, one sector arrived, and any other subset.
        let single = 1 << (landed % 8);
        for landed in [landed, single, !single] {
            let image = torn(&old_bytes, &new_bytes, landed);
            let loaded = SuperblockV1::load(&image, recipe.format, recipe.device_sectors);
            if let Ok(found) = loaded {
                prop_assert!(
                    found.fields == old.fields || found.fields == new.fields,
                    "a mixture is taken for a superblock"
                );
            }
        }
    }

    /// Cut off anywhere: refused, or everything that counts was there.
    #[test]
    fn a_superblock_cut_short_is_rejected(
        recipe in recipe(),
        length in 0usize..4096,
    ) {
        let superblock = &recipe.superblocks()[0];
        let bytes = superblock.encode(SECTOR_BYTES);
        let short = &bytes[..length.min(bytes.len())];
        match SuperblockV1::load(short, recipe.format, recipe.device_sectors) {
            Ok(found) => prop_assert_eq!(&found.fields, &superblock.fields),
            Err(_) => prop_assert!(short.len() < superblock.fields.encoded_bytes()),
        }
    }

    /// The log covers the same sectors after it was written and read, however it was split.
    #[test]
    fn a_bad_block_log_keeps_its_sectors(
        shift in 0u8..=12,
        gaps in prop::collection::vec((1u64..5000, 1u64..3000), 0..40),
        base in 0u64..1 << 40,
    ) {
        let mut start = base;
        let mut ranges = Vec::new();
        for (gap, length) in gaps {
            start += gap;
            ranges.push(BadRange {
                start_sectors: start << shift,
                length_sectors: length << shift,
            });
            start += length;
        }
        let Ok(bytes) = badblocks::encode(&ranges, shift, 8) else {
            let lengths = ranges.iter().map(|range| range.length_sectors >> shift);
            let entries: u64 = lengths.map(|length| length.div_ceil(512)).sum();
            prop_assert!(entries > 512, "a log that has room is called full");
            return Ok(());
        };
        let found = badblocks::parse(&bytes, shift).expect("what was written can be read");
        let mut joined: Vec<BadRange> = Vec::new();
        for range in found {
            match joined.last_mut() {
                Some(last) if last.start_sectors + last.length_sectors == range.start_sectors => {
                    last.length_sectors += range.length_sectors;
                }
                _ => joined.push(range),
            }
        }
        prop_assert_eq!(joined, ranges);
    }

    /// What can be read can be written, and is the same again.
    #[test]
    fn any_readable_log_survives_the_round_trip(
        shift in 0u8..=54,
        entries in prop::collection::vec(any::<(u64, u16)>(), 0..64),
    ) {
        // Most are good: as long a start as the unit allows, one length in 257 out of bounds.
        let entries = entries.iter().map(|(start, length)| {
            let start = start.checked_shr(10 + u32::from(shift)).unwrap_or(0);
            start << 10 | u64::from(length % 514)
        });
        let mut bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        bytes.resize(512, 0xff);
        if let Ok(ranges) = badblocks::parse(&bytes, shift) {
            let end = bytes.chunks(8).position(|entry| entry == [0xff; 8]).unwrap_or(64);
            prop_assert_eq!(ranges.len(), end);
            let again = badblocks::encode(&ranges, shift, 1).expect("it fitted before");
            prop_assert_eq!(&again[..8 * end], &bytes[..8 * end]);
        }
    }

    #[test]
    fn random_logs_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), shift: u8) {
        let _ = badblocks::parse(&bytes, shift);
    }
}

/// A superblock of the member 0 of a raid1.
fn mirror(members: usize) -> SuperblockV1 {
    let recipe = Recipe {
        format: Format::V1_2,
        level: Level::Raid1,
        members,
        spares: 0,
        chunk_shift: 0,
        device_sectors: 40_000,
        bitmap: false,
        log: false,
    };
    recipe.superblocks().remove(0)
}

/// A limit of md's checksum, a sum of words: roles that change places behind the first sector
/// leave it as it was, so a torn write of both cannot be seen. No single change that an array
/// makes (see `Update`) does that.
#[test]
fn a_sum_cannot_tell_roles_that_change_places() {
    let old = mirror(200);
    let mut new = old.clone();
    new.fields.events += 1;
    new.fields.set_role(150, Role::Active(152));
    new.fields.set_role(152, Role::Active(150));
    let image = torn(&on_medium(&old), &on_medium(&new), 1);
    let found = SuperblockV1::load(&image, Format::V1_2, 40_000).expect("the sum is the same");
    assert!(found.fields != old.fields && found.fields != new.fields);
}

/// The other limit: carries are folded in, so a word of ones (two spares) counts as much as a word
/// of zeros. A table that grew into a sector of zeros which did not arrive gives slot 0 to device
/// numbers that nobody has: no member is lost by that, and none is taken for another.
#[test]
fn a_sum_cannot_tell_spares_from_zeros() {
    let old = mirror(4);
    let new = next(&old, Update::Grow { to: 383 });
    let image = torn(&on_medium(&old), &on_medium(&new), 1);
    let found = SuperblockV1::load(&image, Format::V1_2, 40_000).expect("the sum is the same");
    assert_eq!(found.fields.events, new.fields.events);
    assert_eq!(found.fields.roles[..128], new.fields.roles[..128]);
    assert!(
        found.fields.roles[128..]
            .iter()
            .all(|role| *role == Role::Active(0))
    );
}
