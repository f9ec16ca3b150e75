//! A disk that dies slowly is told from one with a few bad sectors.

use umd_core::array::{MemberRole, Options};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::{Format, Level};

use crate::world::{Shape, World};

fn started(level: Level, disks: u16) -> World {
    let mut world = World::create(&Shape {
        level,
        layout: if level == Level::Raid1 { 0 } else { 2 },
        disks,
        chunk_sectors: if level == Level::Raid1 { 0 } else { 16 },
        bitmap: true,
        format: Format::V1_2,
        assume_clean: true,
    });
    let options = Options {
        max_read_errors: 5,
        ..Options::default()
    };
    world.start(&Wish::default(), options).expect("started");
    world
}

/// Reads everything with another bad sector on the first member, `seconds` after the last time.
fn read_with_a_bad_sector(world: &mut World, n: u64, seconds: u64) {
    world.pass(seconds);
    let offset = world.superblock(0).fields.data_offset_sectors;
    let disk = world.disks.get_mut(&MemberId(0)).expect("a disk");
    disk.bad.insert(offset + n * 8 % 128);
    let sectors = world.array().status().array_sectors;
    world.read(0, sectors as u32).expect("the others have it");
}

fn is_faulty(world: &mut World) -> bool {
    world.array().status().members[0].role == MemberRole::Faulty
}

#[test]
fn the_sixth_read_error_in_an_hour_is_one_too_many() {
    for (level, disks) in [(Level::Raid1, 2), (Level::Raid5, 3), (Level::Raid6, 4)] {
        let mut world = started(level, disks);
        let mut errors = 0;
        while !is_faulty(&mut world) {
            errors += 1;
            assert!(errors < 60, "{level:?}: never given up");
            read_with_a_bad_sector(&mut world, errors, 2);
        }
        let why = &world.array().status().members[0].fault;
        assert_eq!(why.as_deref(), Some("more than 5 read errors in an hour"));
        let counted = world.array().status().members[0].corrected_read_errors;
        assert!(counted >= 6, "{level:?}: after {counted}");
    }
}

#[test]
fn one_an_hour_is_nothing() {
    let mut world = started(Level::Raid5, 3);
    for n in 0..40 {
        read_with_a_bad_sector(&mut world, n, 3600);
    }
    assert!(!is_faulty(&mut world));
}
