//! Legs of mirrors that are to fail fast: given up at the first trouble, while there is another.

use umd_core::array::{MemberRole, Options, RequestOp};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::v1::DeviceFlags;
use umd_format::{Format, Level};

use crate::world::{Shape, World};

fn started(level: Level, disks: u16, flagged: &[u32]) -> World {
    let mut world = World::create(&Shape {
        level,
        layout: if level == Level::Raid1 { 0 } else { 2 },
        disks,
        chunk_sectors: if level == Level::Raid1 { 0 } else { 16 },
        bitmap: true,
        format: Format::V1_2,
        assume_clean: true,
    });
    for id in flagged {
        let mut superblock = world.superblock(*id);
        superblock.fields.flags = DeviceFlags::FAILFAST;
        let bytes = superblock.encode(512);
        let at = superblock.fields.super_offset_sectors as usize * 512;
        let disk = world.disks.get_mut(&MemberId(*id)).expect("a disk");
        disk.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    world
}

fn damage(world: &mut World, id: u32) {
    let offset = world.superblock(id).fields.data_offset_sectors;
    let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
    disk.bad.extend(offset..offset + 64);
}

fn faulty(world: &mut World) -> Vec<usize> {
    let members = world.array().status().members.clone();
    let roles = members.iter().enumerate();
    let faulty = roles.filter(|(_, m)| m.role == MemberRole::Faulty);
    faulty.map(|(n, _)| n).collect()
}

fn read_all(world: &mut World) {
    let sectors = world.array().status().array_sectors;
    for at in (0..sectors - 8).step_by(8) {
        world.read(at, 8).expect("another leg has it");
    }
}

#[test]
fn the_first_read_error_is_enough() {
    for (flagged, failed) in [(vec![0], vec![0]), (vec![], vec![]), (vec![1], vec![])] {
        let mut world = started(Level::Raid1, 2, &flagged);
        damage(&mut world, 0);
        read_all(&mut world);
        assert_eq!(faulty(&mut world), failed, "flagged: {flagged:?}");
    }
}

#[test]
fn the_last_leg_is_kept() {
    let mut world = started(Level::Raid1, 2, &[0, 1]);
    damage(&mut world, 0);
    read_all(&mut world);
    assert_eq!(faulty(&mut world), [0]);
    damage(&mut world, 1);
    let read = world.read(0, 8);
    assert!(read.is_err(), "nobody has it any more");
    assert_eq!(faulty(&mut world), [0], "the rest is still read from it");
    world.read(64, 8).expect("readable");
}

/// As in md the flag means something to mirrors only.
#[test]
fn parity_arrays_do_not_know_the_flag() {
    let mut world = started(Level::Raid5, 3, &[0, 1, 2]);
    damage(&mut world, 0);
    read_all(&mut world);
    assert_eq!(faulty(&mut world), []);
}

/// How long a write takes while the first leg does not answer.
fn seconds_until_answered(flagged: &[u32]) -> u64 {
    let mut world = started(Level::Raid1, 2, flagged);
    world.write(0, &[7; 512]).expect("written");
    let hung = world.disks.get_mut(&MemberId(0)).expect("a disk");
    hung.hung = true;
    let data = world.pool.copy_of(&[8; 512]);
    let id = world.submit(RequestOp::Write {
        offset_sectors: 0,
        data,
        fua: false,
    });
    for second in 0..120 {
        world.drain();
        if world.is_answered(id) {
            assert_eq!(faulty(&mut world), [0]);
            return second;
        }
        world.pass(1);
    }
    panic!("never answered");
}

#[test]
fn a_leg_that_hangs_is_given_up_within_seconds() {
    let (fast, slow) = (
        seconds_until_answered(&[0, 1]),
        seconds_until_answered(&[1]),
    );
    assert!((5..=16).contains(&fast), "{fast} s");
    assert!((30..=46).contains(&slow), "{slow} s");
}
