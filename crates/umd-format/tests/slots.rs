//! Bitmaps of clusters: what all nodes left behind is kept when a plain array is made of it.

use proptest::prelude::*;
use umd_format::bitmap::*;
use umd_format::create::{NewArray, NewMember, new_array};
use umd_format::space::RegionWish;
use umd_format::update::cluster::{Nodes, leave};
use umd_format::v1::{DeviceFlags, Features};
use umd_format::{Format, Level, SuperblockV1, Uuid};

const ARRAY: Uuid = Uuid([7; 16]);
const REGION: u32 = 4096;

fn plain(regions: u64) -> BitmapSuperblock {
    BitmapSuperblock::new(ARRAY, regions * u64::from(REGION) / 512, REGION)
}

fn name() -> [u8; 64] {
    let mut name = [0; 64];
    name[..4].copy_from_slice(b"hall");
    name
}

/// New bitmaps without a dirty region.
fn clean(regions: u64, nodes: u32) -> (Slots, Vec<u8>) {
    let mut area = initial_slots(&plain(regions), nodes, name());
    let slots = Slots::of(&area, ARRAY).expect("a cluster's");
    let own = area.len() / nodes as usize;
    area[SUPERBLOCK_BYTES..own].fill(0);
    (slots, area)
}

fn set(area: &mut [u8], (nodes, node): (u32, u32), region: u64) {
    let start = area.len() / nodes as usize * node as usize;
    let (byte, mask) = bit_position(region);
    area[start + byte as usize] |= mask;
}

#[test]
fn new_ones_are_laid_out_as_the_kernel_wants_them() {
    // 40,000 bits and a superblock need 5,256 bytes: two pages for each node.
    let area = initial_slots(&plain(40_000), 3, name());
    assert_eq!(area.len(), 3 * 8192);
    let slots = Slots::of(&area, ARRAY).expect("a cluster's");
    assert_eq!((slots.nodes(), slots.regions()), (3, 40_000));
    assert_eq!((slots.each_sectors(), slots.all_sectors()), (16, 48));
    assert_eq!(slots.cluster(), "hall");
    assert_eq!(area[4], 5);
    assert_eq!((area[68], &area[72..77]), (3, &b"hall\0"[..]));
    assert!(area[256..8192].iter().all(|byte| *byte == 0xff));
    assert!(area[8192 + 256..16_384].iter().all(|byte| *byte == 0));
    let nodes = slots.read(&area, ARRAY);
    let dirty: Vec<usize> = nodes.iter().map(|node| node.dirty.len()).collect();
    assert_eq!(dirty, [40_000, 0, 0]);
    assert!(nodes.iter().all(|node| node.fields.is_ok()));
}

/// All died while the chunk was changed: each bitmap is what its superblock says.
#[test]
fn bits_of_another_length_mean_what_they_say() {
    let (slots, mut area) = clean(61, 2);
    set(&mut area, (2, 0), 20);
    let own = area.len() / 2;
    for region in [3, 15] {
        set(&mut area, (2, 1), region);
    }
    area[own + 52..own + 56].copy_from_slice(&(4 * REGION).to_le_bytes());
    let nodes = slots.read(&area, ARRAY);
    assert_eq!(
        (&nodes[0].dirty, &nodes[1].dirty),
        (&vec![20], &vec![3, 15])
    );
    assert!(nodes[1].fields.is_ok());
    let merged = slots.merge(&area, ARRAY, 1);
    // The last one reaches behind the end.
    assert_eq!(merged.dirty, 1 + 4 + 1);
    let all = slots.read(&[&merged.clustered[..], &area[own..]].concat(), ARRAY);
    assert_eq!(all[0].dirty, [12, 13, 14, 15, 20, 60]);
}

#[test]
fn what_is_carried_over_is_all_that_shares_anything() {
    assert_eq!(carried_over(&[0, 3, 4, 9], 8, 32, 3), [0, 1, 2]);
    assert_eq!(carried_over(&[1, 2], 32, 8, 11), [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(carried_over(&[5], 8, 8, 9), [5]);
    assert_eq!(carried_over(&[9], 8, 32, 2), [0; 0]);
}

#[test]
fn a_plain_bitmap_is_none_of_a_cluster() {
    let image = initial_image(&plain(10));
    assert_eq!(
        Slots::of(&image, ARRAY),
        Err(BitmapError::UnknownVersion(VERSION_NORMAL))
    );
    let (_, area) = clean(10, 2);
    let other = Uuid([8; 16]);
    let wrong = Slots::of(&area, other).expect_err("another array's");
    assert!(matches!(wrong, BitmapError::WrongArray { .. }));
    for nodes in [0_u32, 65] {
        let mut area = area.clone();
        area[68..72].copy_from_slice(&nodes.to_le_bytes());
        let error = Slots::of(&area, ARRAY).expect_err("no such cluster");
        assert!(matches!(error, BitmapError::Impossible(_)), "{error}");
    }
}

/// One that cannot be believed makes everything dirty.
#[test]
fn what_cannot_be_read_counts_as_dirty() {
    let (slots, area) = clean(100, 4);
    assert_eq!(slots.merge(&area, ARRAY, 9).dirty, 0);
    let each = area.len() / 4;
    for (at, value) in [(0, 0), (4, 4), (8, 1), (40, 1), (52, 1), (48, 2)] {
        let mut area = area.clone();
        area[2 * each + at] ^= value + u8::from(value == 0);
        let merged = slots.merge(&area, ARRAY, 9);
        assert_eq!(merged.dirty, 100, "byte {at}");
        let found = Unverified::parse(&merged.plain).and_then(|one| one.verify(ARRAY));
        let found = found.expect("a plain one");
        assert!(!found.is_stale(9), "its bits say so");
    }
}

const DEVICE: u64 = 65_536;

/// What lies in front of the data of a member, in a cluster of three whose last node has written.
fn member(dirty: Option<u64>) -> Vec<u8> {
    let member = |index: u8| NewMember {
        device_sectors: DEVICE,
        device_uuid: Uuid([index; 16]),
        flags: DeviceFlags::default(),
    };
    let made = new_array(&NewArray {
        format: Format::V1_2,
        set_uuid: ARRAY,
        name: "r".into(),
        preferred_minor: 0,
        ctime_seconds: 1_700_000_000,
        level: Level::Raid1,
        layout: 0,
        chunk_sectors: 0,
        size_sectors: None,
        data_offset_sectors: Some(1024),
        bitmap: Some(RegionWish::Bytes(65_536)),
        bad_block_log: false,
        assume_clean: true,
        slots: vec![Some(member(1)), Some(member(2))],
        spares: Vec::new(),
    });
    let made = made.expect("an array");
    let mut superblock = made.slots[0].clone().expect("a member");
    let fields = &mut superblock.fields;
    fields.features = fields.features.with(Features::CLUSTERED);
    let mut area = initial_slots(&made.bitmap.expect("a bitmap"), 3, name());
    let own = area.len() / 3;
    area[SUPERBLOCK_BYTES..own].fill(0);
    if let Some(region) = dirty {
        set(&mut area, (3, 2), region);
    }
    let mut bytes = vec![0; 1024 * 512];
    let place = |sector: u64| sector as usize * 512;
    let at = place(superblock.fields.bitmap_sector().expect("a bitmap"));
    bytes[at..at + area.len()].copy_from_slice(&area);
    let at = place(superblock.fields.super_offset_sectors);
    let image = superblock.encode(512);
    bytes[at..at + image.len()].copy_from_slice(&image);
    bytes
}

fn superblock(bytes: &[u8]) -> SuperblockV1 {
    SuperblockV1::load(&bytes[4096..8192], Format::V1_2, DEVICE).expect("a superblock")
}

fn nodes(bytes: &[u8]) -> Nodes {
    let found = superblock(bytes);
    let at = found.fields.bitmap_sector().expect("a bitmap") as usize * 512;
    Nodes::of(&found, &bytes[at..at + SUPERBLOCK_BYTES], |sectors| {
        Some(bytes[at..at + sectors as usize * 512].to_vec())
    })
}

fn write(bytes: &mut [u8], (sector, new): &(u64, Vec<u8>)) {
    let at = *sector as usize * 512;
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// The regions that a plain array finds dirty.
fn dirty(bytes: &[u8]) -> Vec<u64> {
    let found = superblock(bytes);
    assert!(!found.fields.features.contains(Features::CLUSTERED));
    let at = found.fields.bitmap_sector().expect("a bitmap") as usize * 512;
    let bitmap = Unverified::parse(&bytes[at..]).and_then(|one| one.verify(ARRAY));
    let bitmap = bitmap.expect("a plain bitmap");
    assert!(!bitmap.is_stale(found.fields.events));
    let regions = bitmap.regions(found.fields.size_sectors);
    let set = |region: &u64| {
        let (byte, mask) = bit_position(*region);
        bytes[at + byte as usize] & mask != 0
    };
    (0..regions).filter(set).collect()
}

#[test]
fn leaving_a_cluster_keeps_what_its_nodes_wrote_wherever_it_is_cut_short() {
    for cut in 0..=3 {
        let mut bytes = member(Some(300));
        let change = leave(&superblock(&bytes), &nodes(&bytes), Some("hall"), 512);
        let change = change.expect("it may leave");
        assert_eq!(change.writes.len(), 3);
        change.writes[..cut]
            .iter()
            .for_each(|new| write(&mut bytes, new));
        let again = leave(&superblock(&bytes), &nodes(&bytes), Some("hall"), 512);
        let again = again.expect("it is done again");
        again.writes.iter().for_each(|new| write(&mut bytes, new));
        assert_eq!(dirty(&bytes), [300], "after {cut} of 3");
        // It is resynced, which is what the bit is for.
        assert_eq!(superblock(&bytes).fields.resync_offset_sectors, 0);
        assert_eq!(again.writes.is_empty(), cut == 3);
    }
    let mut bytes = member(None);
    let change = leave(&superblock(&bytes), &nodes(&bytes), Some("hall"), 512);
    let change = change.expect("it may leave");
    change.writes.iter().for_each(|new| write(&mut bytes, new));
    assert!(dirty(&bytes).is_empty());
    assert!(superblock(&bytes).fields.is_clean(), "nothing to resync");
}

#[test]
fn who_leaves_a_cluster_names_it_and_knows_what_was_written() {
    let bytes = member(Some(1));
    let refused = |bytes: &[u8], name: Option<&str>| {
        let change = leave(&superblock(bytes), &nodes(bytes), name, 512);
        change.expect_err("refused").to_string()
    };
    let text = refused(&bytes, None);
    assert!(text.contains("--update=no-cluster=hall"), "{text}");
    let text = refused(&bytes, Some("hal"));
    assert_eq!(text, "it belongs to cluster 'hall', not 'hal'");
    let mut broken = bytes.clone();
    broken[8192] ^= 1;
    let text = refused(&broken, Some("hall"));
    assert!(
        text.contains("nobody knows what its nodes have written"),
        "{text}"
    );
    // More nodes than there is room for.
    let mut broken = bytes;
    broken[8192 + 52..8192 + 56].copy_from_slice(&512_u32.to_le_bytes());
    broken[8192 + 68] = 64;
    let text = refused(&broken, Some("hall"));
    assert!(
        text.contains("cannot be read in front of the data"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn every_dirty_region_of_every_node_stays(
        marks in prop::collection::vec((0_u32..4, 0_u64..300), 0..40),
        cleared in prop::collection::vec(0_u64..90, 4),
        events in 0_u64..100,
    ) {
        let (slots, mut area) = clean(300, 4);
        let each = area.len() / 4;
        for (node, cleared) in cleared.iter().enumerate() {
            area[node * each + 32..node * each + 40].copy_from_slice(&cleared.to_le_bytes());
        }
        for (node, region) in &marks {
            set(&mut area, (4, *node), *region);
        }
        let merged = slots.merge(&area, ARRAY, events);
        let mut wanted: Vec<u64> = marks.iter().map(|(_, region)| *region).collect();
        wanted.sort_unstable();
        wanted.dedup();
        prop_assert_eq!(merged.dirty, wanted.len() as u64);
        for image in [&merged.clustered, &merged.plain] {
            let is_set = |region: &u64| {
                let (byte, mask) = bit_position(*region);
                image[byte as usize] & mask != 0
            };
            let found: Vec<u64> = (0..300).filter(is_set).collect();
            prop_assert_eq!(&found, &wanted);
        }
        // The first is of the cluster still, the second says nothing of it.
        let again = Slots::of(&merged.clustered, ARRAY).expect("a cluster's");
        prop_assert_eq!((again.nodes(), again.first.version), (4, VERSION_CLUSTERED));
        let plain = Unverified::parse(&merged.plain).and_then(|one| one.verify(ARRAY));
        let plain = plain.expect("a plain one");
        prop_assert_eq!(&plain.fields, &merged.superblock.fields);
        prop_assert_eq!(plain.fields.nodes, 0);
        prop_assert_eq!(plain.fields.events_cleared, *cleared.iter().max().expect("four"));
        prop_assert!(!plain.is_stale(events));
    }
}
