//! Level faulty: hosts get errors, and neither the array nor its member takes harm.

use umd_core::array::{ArrayState, MemberRole, Options, RequestOp};
use umd_core::assembly::Wish;
use umd_core::value::RequestError;
use umd_format::{FaultyLayout, Format, Level};

use crate::world::{Shape, World};

fn created(layout: u32, disks: u16) -> World {
    World::create(&Shape {
        level: Level::Faulty,
        layout,
        disks,
        chunk_sectors: 0,
        bitmap: false,
        format: Format::V1_2,
        assume_clean: false,
    })
}

fn started(word: &str) -> World {
    let layout = FaultyLayout::from_word(word).expect("a layout");
    let mut world = created(layout.to_raw(), 1);
    world.begin();
    world
}

/// Fails as level faulty does, and says so.
fn assert_pretended<T: std::fmt::Debug>(result: Result<T, RequestError>) {
    match result {
        Err(RequestError::Io(why)) => assert!(why.contains("level faulty"), "{why}"),
        other => panic!("no fault was pretended: {other:?}"),
    }
}

fn assert_unharmed(world: &mut World) {
    let status = world.array().status();
    assert!(matches!(
        status.state,
        ArrayState::Clean | ArrayState::Active
    ));
    assert_eq!(status.members[0].role, MemberRole::InSync);
    assert_eq!(status.requests_in_flight, 0);
    world.stop();
}

#[test]
fn a_write_that_fails_reached_the_member_and_the_next_one_succeeds() {
    let mut world = started("wt2");
    world.write(8, &[1; 4096]).expect("the first one works");
    assert_pretended(world.write(8, &[2; 4096]));
    assert!(world.read(8, 8).expect("reads work") == [2; 4096]);
    world.write(8, &[3; 4096]).expect("it was transient");
    assert!(world.read(8, 8).expect("reads work") == [3; 4096]);
    assert_unharmed(&mut world);
}

#[test]
fn every_write_fails_and_leaves_what_was_there() {
    let mut world = started("wa");
    let before = world.read(0, 8).expect("reads work");
    assert_pretended(world.write(0, &[1; 512]));
    for op in [
        RequestOp::WriteZeroes {
            offset_sectors: 0,
            len_sectors: 4096 / 512,
            fua: false,
            may_unmap: true,
        },
        RequestOp::Trim {
            offset_sectors: 0,
            len_sectors: 4096 / 512,
            fua: false,
        },
    ] {
        let id = world.submit(op);
        assert_pretended(world.reply(id));
    }
    assert!(world.read(0, 8).expect("reads work") == before);
    let flush = world.submit(RequestOp::Flush);
    world.reply(flush).expect("a flush is no write");
    assert_unharmed(&mut world);
}

#[test]
fn reads_fail_by_their_period() {
    let mut world = started("rt3");
    for round in 0..3 {
        world.read(0, 8).expect("the first");
        world.read(8, 8).expect("the second");
        assert_pretended(world.read(round, 1));
    }
    assert_unharmed(&mut world);
}

#[test]
fn a_place_stays_bad_or_is_mended_by_a_write() {
    let mut world = started("rp");
    assert_pretended(world.read(16, 8));
    world.write(16, &[5; 4096]).expect("writes work");
    assert_pretended(world.read(10, 8));
    assert!(world.read(17, 7).expect("behind it") == [5; 7 * 512]);
    assert_eq!(world.array().status().faulty.expect("its faults").places, 1);
    assert_unharmed(&mut world);

    let mut world = started("rf");
    assert_pretended(world.read(16, 8));
    assert_pretended(world.read(16, 8));
    world.write(16, &[5; 4096]).expect("writes work");
    assert!(world.read(16, 8).expect("mended") == [5; 4096]);
    assert_unharmed(&mut world);

    let mut world = started("wp");
    assert_pretended(world.write(16, &[5; 4096]));
    let id = world.submit(RequestOp::WriteZeroes {
        offset_sectors: 0,
        len_sectors: 600,
        fua: false,
        may_unmap: false,
    });
    assert_pretended(world.reply(id));
    world.write(0, &[5; 4096]).expect("before it");
    assert_unharmed(&mut world);
}

#[test]
fn the_superblock_says_how_it_fails_and_faults_are_forgotten_at_a_stop() {
    let mut world = started("wp3");
    for _ in 0..2 {
        world.write(0, &[1; 512]).expect("two work");
    }
    assert_pretended(world.write(0, &[1; 512]));
    world.stop();
    assert_eq!(world.superblock(0).fields.layout, 3 << 5 | 2);
    world.begin();
    let status = world.array().status();
    assert_eq!(status.layout, -1, "as kernels show it");
    let faults = status.faulty.expect("its faults");
    assert_eq!((faults.places, faults.modes[0].left), (0, 3));
    world.write(0, &[1; 512]).expect("one works again");
}

#[test]
fn a_layout_that_a_kernel_has_taken_over_asks_for_nothing() {
    let mut world = created(u32::MAX, 1);
    world.begin();
    for at in 0..20 {
        world.write(at, &[1; 512]).expect("works");
        world.read(at, 1).expect("works");
    }
    assert_unharmed(&mut world);
}

#[test]
fn what_means_nothing_is_not_started() {
    let mut world = created(31, 1);
    let mut superblock = world.superblock(0);
    superblock.fields.layout = 7;
    let bytes = superblock.encode(512);
    let at = superblock.fields.super_offset_sectors as usize * 512;
    let disk = world.disks.values_mut().next().expect("a disk");
    disk.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    let refused = world.start(&Wish::default(), Options::default());
    let text = refused.expect_err("no such mode");
    assert!(text.contains("level faulty with layout 0x7"), "{text}");
}
