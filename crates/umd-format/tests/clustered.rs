//! New arrays of clusters: a bitmap for each node in front of the data, and what no cluster runs.

use proptest::prelude::*;
use umd_format::bitmap::{NODES_MAX, Slots, State};
use umd_format::create::*;
use umd_format::space::*;
use umd_format::v1::{DeviceFlags, Features};
use umd_format::{Format, Level, SuperblockV1, Uuid};

const MIB: u64 = 2048;
const GIB: u64 = 1024 * MIB;

fn member(device_sectors: u64, index: u8) -> NewMember {
    NewMember {
        device_sectors,
        device_uuid: Uuid([index; 16]),
        flags: DeviceFlags::default(),
    }
}

/// A RAID1 of two, or a RAID10 of four, with a spare.
fn array(level: Level, device_sectors: u64) -> NewArray {
    let (disks, chunk_sectors, layout) = match level {
        Level::Raid1 => (2, 0, 0),
        _ => (4, 128, 0x102),
    };
    let slots = (0..disks).map(|index| Some(member(device_sectors, index)));
    NewArray {
        format: Format::V1_2,
        set_uuid: Uuid([7; 16]),
        name: "hall:r".into(),
        preferred_minor: 0,
        ctime_seconds: 1_700_000_000,
        level,
        layout,
        chunk_sectors,
        size_sectors: None,
        data_offset_sectors: None,
        bitmap: Some(RegionWish::Default),
        bad_block_log: false,
        assume_clean: false,
        slots: slots.collect(),
        spares: vec![member(device_sectors, 99)],
    }
}

fn hall(nodes: u32) -> Cluster {
    let name = "hall".into();
    Cluster { nodes, name }
}

fn slots_of(made: &Created) -> (Slots, Vec<u8>) {
    let image = made.bitmap_image().expect("bitmaps");
    let slots = Slots::of(&image, Uuid([7; 16])).expect("a cluster's");
    (slots, image)
}

#[test]
fn every_node_has_a_bitmap_and_the_first_says_that_all_is_to_be_resynced() {
    let made = new_clustered(&array(Level::Raid1, GIB), &hall(4)).expect("an array");
    for found in made.slots.iter().flatten().chain(&made.spares) {
        let fields = &found.fields;
        assert!(fields.features.contains(Features::CLUSTERED));
        assert!(fields.features.contains(Features::BITMAP_OFFSET));
        assert_eq!(
            (fields.bblog_size_sectors, fields.bitmap_offset_raw),
            (0, 8)
        );
        assert_eq!(fields.resync_offset_sectors, 0);
        let stored = found.encode(512);
        let again = SuperblockV1::load(&stored, Format::V1_2, GIB).expect("valid");
        assert_eq!(again.fields, *fields);
    }
    let (slots, image) = slots_of(&made);
    assert_eq!((slots.nodes(), slots.cluster()), (4, "hall".into()));
    let nodes = slots.read(&image, Uuid([7; 16]));
    let dirty: Vec<u64> = nodes.iter().map(|node| node.dirty.len() as u64).collect();
    assert_eq!(dirty, [slots.regions(), 0, 0, 0]);
    let fields = nodes[3].fields.as_ref().expect("node 3's");
    assert_eq!(
        (fields.state, fields.region_raw),
        (State::default(), 64 << 20)
    );
}

#[test]
fn what_no_cluster_runs_is_refused() {
    let raid1 = || array(Level::Raid1, GIB);
    let with = |change: &dyn Fn(&mut NewArray)| {
        let mut array = raid1();
        change(&mut array);
        array
    };
    let raid10 = |layout| NewArray {
        layout,
        ..array(Level::Raid10, GIB)
    };
    let parity = with(&|array| {
        array.level = Level::Raid5;
        array.slots.push(Some(member(GIB, 3)));
        (array.layout, array.chunk_sectors) = (2, 128);
    });
    let mostly = with(&|array| {
        let first = array.slots[0].as_mut().expect("there");
        first.flags = DeviceFlags::WRITE_MOSTLY;
    });
    let long = Cluster {
        nodes: 4,
        name: "n".repeat(64),
    };
    let nameless = Cluster {
        nodes: 4,
        name: String::new(),
    };
    for (array, cluster, why) in [
        (parity, hall(4), "not raid5"),
        (raid10(0x201), hall(4), "near layout"),
        (raid10(0x10201), hall(4), "near layout"),
        (with(&|a| a.format = Format::V1_1), hall(4), "not 1.1"),
        (with(&|a| a.format = Format::V090), hall(4), "not 0.90"),
        (with(&|a| a.bitmap = None), hall(4), "for each node"),
        (
            with(&|a| a.bitmap = Some(RegionWish::Lockless)),
            hall(4),
            "for each node",
        ),
        (with(&|a| a.bad_block_log = true), hall(4), "bad-block log"),
        (mostly, hall(4), "write-mostly"),
        (raid1(), hall(0), "not 0"),
        (raid1(), hall(1), "not 1"),
        (raid1(), hall(65), "not 65"),
        (raid1(), long, "1 to 63 bytes"),
        (raid1(), nameless, "1 to 63 bytes"),
    ] {
        let error = new_clustered(&array, &cluster).expect_err(why).to_string();
        assert!(error.contains(why), "{error}: {why}");
    }
    let most = "n".repeat(63);
    let cluster = Cluster {
        nodes: 64,
        name: most.clone(),
    };
    let made = new_clustered(&raid10(0x102), &cluster).expect("an array");
    assert_eq!(slots_of(&made).0.cluster(), most);
}

#[test]
fn where_there_is_no_room_for_all_of_them_it_says_what_is_needed() {
    let offset = |sectors| NewArray {
        data_offset_sectors: Some(sectors),
        ..array(Level::Raid1, GIB)
    };
    // Superblock at 8, bitmaps from 16: a page for each of 64 nodes.
    assert!(new_clustered(&offset(16 + 64 * 8), &hall(64)).is_ok());
    let error = new_clustered(&offset(16 + 64 * 8 - 8), &hall(64)).expect_err("no room");
    let least = CreateError::Space(SpaceError::DataOffsetTooSmall {
        wanted_sectors: 520,
        least_sectors: 528,
    });
    assert_eq!(error, least);
    // 128 KiB for all: 32 KiB for each of four, which is 260,096 bits of a TiB.
    let fine = NewArray {
        bitmap: Some(RegionWish::Bytes(4 << 20)),
        ..array(Level::Raid1, 512 * GIB)
    };
    assert!(new_clustered(&fine, &hall(4)).is_ok());
    let finer = NewArray {
        bitmap: Some(RegionWish::Bytes(1 << 20)),
        ..fine
    };
    let error = new_clustered(&finer, &hall(4)).expect_err("no room");
    let CreateError::Space(SpaceError::RegionTooSmall { least_bytes, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(least_bytes, 4 << 20);
}

proptest! {
    #[test]
    fn all_of_them_lie_before_the_data(
        nodes in NODES_MIN..=NODES_MAX,
        device in 12_288_u64..(4096 * GIB),
        mirror in any::<bool>(),
        offset in prop_oneof![Just(None), (16_u64..8192).prop_map(|pages| Some(pages * 8))],
    ) {
        let level = if mirror { Level::Raid1 } else { Level::Raid10 };
        let wish = NewArray { data_offset_sectors: offset, ..array(level, device) };
        let Ok(made) = new_clustered(&wish, &hall(nodes)) else {
            // Only a device or an offset that is too small.
            prop_assert!(device < 64 * MIB || offset.is_some_and(|at| at < 16 + 8 * 64));
            return Ok(());
        };
        let (slots, image) = slots_of(&made);
        let found = made.slots[0].as_ref().expect("there");
        let start = found.fields.bitmap_sector().expect("bitmaps");
        prop_assert_eq!(image.len() as u64, slots.all_sectors() * 512);
        prop_assert!(start + slots.all_sectors() <= found.fields.data_offset_sectors);
        prop_assert_eq!(slots.nodes(), nodes);
    }
}
