//! Where a check says that members differ: an administrator looks there, and so may a program.

use umd_core::array::{Control, SyncRequest};
use umd_core::sync::SyncAction;
use umd_core::value::{MemberId, Mismatch, Slot};
use umd_format::Level;

use crate::world::{Shape, World};

fn filled(shape: &Shape) -> World {
    let mut world = World::running(shape);
    let sectors = world.array().array_sectors();
    let bytes: Vec<u8> = (0..sectors * 512)
        .map(|i| (i * 31 % 241) as u8 ^ (i >> 9) as u8)
        .collect();
    world.write(0, &bytes).expect("written");
    world
}

/// A byte of this sector of a member's data becomes another one.
fn spoil(world: &mut World, id: u32, sector: u64) {
    let at = world.superblock(id).fields.data_offset_sectors + sector;
    let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
    disk.bytes[at as usize * 512 + 7] ^= 0x55;
}

fn run(world: &mut World, action: SyncAction) -> Vec<Mismatch> {
    let start = Control::Sync(SyncRequest::Start(action));
    world.control(start).expect("begun");
    world.pass(1);
    let status = world.array().status();
    assert!(status.sync.is_none(), "it is over");
    let sectors: u64 = status.mismatches.iter().map(|one| one.len_sectors).sum();
    assert_eq!(sectors, status.mismatch_sectors, "places tell all of it");
    let found = status.mismatches.iter();
    found.map(|one| Mismatch::clone(one)).collect()
}

/// Legs are compared in blocks of 64 KiB. In a mirror of two nobody is to blame.
#[test]
fn a_mirror_tells_which_sectors_differ() {
    let mut world = filled(&Shape::mirror(2));
    spoil(&mut world, 1, 43);
    spoil(&mut world, 0, 700);
    let found = run(&mut world, SyncAction::Check);
    let place = |at: u64| Mismatch {
        members: vec![(Slot(0), at), (Slot(1), at)],
        len_sectors: 128,
        array_sectors: vec![at],
        wrong: Vec::new(),
        repaired: false,
    };
    assert_eq!(found, [place(0), place(640)]);
}

/// Which sectors of the array a host has to look at is known by reading them.
#[test]
fn a_row_tells_where_hosts_find_what_is_wrong() {
    for (level, disks) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        for (victim, sector) in [(0, 3), (2, 41), (3, 170)] {
            let mut world = filled(&Shape::parity(level, disks));
            let sectors = world.array().array_sectors() as u32;
            let before = world.read(0, sectors).expect("read");
            spoil(&mut world, victim, sector);
            let after = world.read(0, sectors).expect("read");
            let differ = (0..u64::from(sectors)).find(|at| {
                let bytes = *at as usize * 512..(*at as usize + 1) * 512;
                before[bytes.clone()] != after[bytes]
            });
            let found = run(&mut world, SyncAction::Check);
            assert_eq!(found.len(), 1, "{level} {victim} {sector}");
            let found = &found[0];
            let page = sector / 8 * 8;
            let members: Vec<(Slot, u64)> = (0..disks).map(|s| (Slot(s), page)).collect();
            assert_eq!((&found.members, found.len_sectors), (&members, 8));
            let suspects = &found.array_sectors;
            match (level, differ) {
                // One of its data blocks, or parity: nobody can tell.
                (Level::Raid5, differ) => {
                    assert_eq!(suspects.len(), 3);
                    let known = |at: u64| suspects.contains(&(at / 8 * 8));
                    assert!(differ.is_none_or(known), "{suspects:?}, not {differ:?}");
                    assert_eq!(found.wrong, []);
                }
                (_, Some(at)) => {
                    assert_eq!(suspects, &[at / 8 * 8]);
                    assert_eq!(found.wrong, [Slot(victim as u16)]);
                }
                (_, None) => {
                    assert_eq!(suspects, &[], "parity alone");
                    assert_eq!(found.wrong, [Slot(victim as u16)]);
                }
            }
            assert!(!found.repaired);
        }
    }
}

/// With one member lost RAID6 still has something to compare with.
#[test]
fn a_raid6_without_a_member_is_still_checked() {
    let mut world = filled(&Shape::parity(Level::Raid6, 5));
    world.control(Control::Fail(MemberId(4))).expect("failed");
    assert_eq!(run(&mut world, SyncAction::Check), []);
    spoil(&mut world, 1, 100);
    let found = run(&mut world, SyncAction::Check);
    assert_eq!(found.len(), 1, "one of two parities does not agree");
    assert_eq!(found[0].members[1], (Slot(1), 96));
    // With two lost nothing is left to compare.
    world.control(Control::Fail(MemberId(3))).expect("failed");
    assert_eq!(run(&mut world, SyncAction::Check), []);
}

/// A rebuild fills the new member. What the others hold is not its business: parity that it finds
/// wrong may be the only trace of what is wrong elsewhere.
#[test]
fn a_rebuild_changes_nobody_else() {
    for (level, disks) in [(Level::Raid5, 4), (Level::Raid6, 5)] {
        let mut world = filled(&Shape {
            bitmap: false,
            ..Shape::parity(level, disks)
        });
        world.control(Control::Fail(MemberId(0))).expect("failed");
        world.control(Control::Remove(MemberId(0))).expect("gone");
        world.disks.remove(&MemberId(0));
        for sector in [3, 20, 41, 170, 1000] {
            spoil(&mut world, 2, sector);
        }
        let data = |world: &World| -> Vec<Vec<u8>> {
            let of = |id: u16| {
                let at = world.superblock(id.into()).fields.data_offset_sectors;
                let bytes = &world.disks[&MemberId(id.into())].bytes;
                bytes[at as usize * 512..].to_vec()
            };
            (1..disks).map(of).collect()
        };
        let before = data(&world);
        world.add(9).expect("added");
        world.pass(2);
        assert_eq!(world.array().status().degraded, 0);
        assert!(data(&world) == before, "{level}");
    }
}

/// A repair says that it mended, and has: a check finds nothing any more.
#[test]
fn what_was_repaired_is_told_so() {
    for shape in [
        Shape::mirror(2),
        Shape::mirror(3),
        Shape::parity(Level::Raid6, 5),
    ] {
        let mut world = filled(&shape);
        let sectors = world.array().array_sectors() as u32;
        let before = world.read(0, sectors).expect("read");
        spoil(&mut world, 1, 100);
        let found = run(&mut world, SyncAction::Repair);
        assert!(found.iter().all(|one| one.repaired) && found.len() == 1);
        assert_eq!(run(&mut world, SyncAction::Check), []);
        if shape.disks > 2 {
            assert!(world.read(0, sectors).expect("read") == before);
        }
    }
}
