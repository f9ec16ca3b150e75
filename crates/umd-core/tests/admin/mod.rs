//! What administrators ask for, what they are told, and what is left behind by what was refused.

use umd_core::array::{
    BitmapWish, Control, ControlError, ControlReply, MemberRole, MemberStatus, NewBitmap,
};
use umd_core::value::MemberId;
use umd_format::v1::Features;
use umd_format::{Format, Role, SuperblockV1};

use crate::world::{DISK_BYTES, Disk, Shape, World};

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);
const NEW: MemberId = MemberId(7);

fn member(world: &mut World, id: MemberId) -> Option<MemberStatus> {
    let status = world.array().status();
    status.members.into_iter().find(|member| member.id == id)
}

fn why(answer: Result<ControlReply, ControlError>) -> String {
    answer.expect_err("refused").to_string()
}

fn blank() -> Disk {
    Disk {
        bytes: vec![0x5a; DISK_BYTES],
        ..Disk::default()
    }
}

/// The member left, and is offered again under another identity, with this superblock.
fn leave(world: &mut World, id: MemberId) -> SuperblockV1 {
    world.control(Control::Fail(id)).expect("failed");
    world.control(Control::Remove(id)).expect("removed");
    let superblock = world.superblock(id.0);
    let disk = world.disks.remove(&id).expect("a disk");
    world.disks.insert(NEW, disk);
    superblock
}

fn come_back(world: &mut World, superblock: SuperblockV1) -> Result<ControlReply, ControlError> {
    let new = world.new_member(NEW.0, Some(superblock));
    world.control(Control::ReAdd(new))
}

/// An administrator who is told "added" would count on a spare that is dead already.
#[test]
fn a_disk_that_dies_as_it_is_added_is_given_back() {
    let mut world = World::running(&Shape::mirror(2));
    let disk = Disk {
        gone: true,
        ..blank()
    };
    world.disks.insert(NEW, disk);
    let new = world.new_member(NEW.0, None);
    let text = why(world.control(Control::Add(new)));
    assert!(text.contains("could not be written"), "{text}");
    assert_eq!(world.released, [NEW]);
    assert_eq!(member(&mut world, NEW), None);
    assert_eq!(world.array().status().degraded, 0);
}

/// Hosts were told that they may write 512 bytes; such a disk cannot.
#[test]
fn a_disk_with_larger_blocks_than_hosts_know_is_refused() {
    let mut world = World::running(&Shape::mirror(2));
    world.disks.insert(NEW, blank());
    let mut new = world.new_member(NEW.0, None);
    new.logical_block_bytes = 4096;
    let text = why(world.control(Control::Add(new)));
    assert!(text.contains("logical blocks of 4096 bytes"), "{text}");
    assert_eq!(world.released, [NEW]);
    assert!(world.disks[&NEW].bytes.iter().all(|byte| *byte == 0x5a));
}

/// In version 0.90 numbers behind the slots are given without gaps: kernels show them so.
#[test]
fn spares_of_version_090_are_numbered_behind_the_slots() {
    let mut world = World::running(&Shape {
        format: Format::V090,
        ..Shape::mirror(2)
    });
    for number in 2..5 {
        let reply = world.add(number + 5);
        assert_eq!(reply, Ok(ControlReply::Added { number }));
        let status = member(&mut world, MemberId(number + 5)).expect("added");
        assert_eq!((status.number, status.role), (number, MemberRole::Spare));
    }
}

/// It has seen an update that this array never made: it ran elsewhere, and nobody knows what it
/// wrote there.
#[test]
fn who_has_seen_more_than_the_array_is_not_taken_back() {
    let mut world = World::running(&Shape::mirror(2));
    let superblock = leave(&mut world, SECOND);
    let mut ahead = superblock.clone();
    ahead.fields.events = world.array().status().events.0 + 10;
    let text = why(come_back(&mut world, ahead));
    assert!(text.contains("ran without members"), "{text}");
    assert_eq!(world.released, [SECOND, NEW]);
    let mut even = superblock;
    even.fields.events = world.array().status().events.0;
    come_back(&mut world, even).expect("it has seen what the array has");
}

fn mark(superblock: &mut SuperblockV1, bit: Features) {
    superblock.fields.features = superblock.fields.features.with(bit);
}

/// Taken back as one who lacks only what the bitmap marks, each of these would give old data or
/// rubbish for the rest.
#[test]
fn who_may_lack_more_than_the_bitmap_knows_is_not_taken_back() {
    let mut world = World::running(&Shape::mirror(3));
    // What is marked is cleared, so that the bitmap knows from when on it can tell.
    world.write(0, &[1; 512]).expect("written");
    world.pass(60);
    let left = leave(&mut world, SECOND);
    world.add(10).expect("added");
    world.pass(1);
    let spare = member(&mut world, MemberId(10)).expect("it is there");
    assert_eq!(spare.role, MemberRole::InSync, "it took the slot");
    world.control(Control::Fail(MemberId(10))).expect("failed");
    let before = world.array().status();
    let bytes = |world: &World| {
        world
            .disks
            .values()
            .map(|d| d.bytes.clone())
            .collect::<Vec<_>>()
    };
    let stored = bytes(&world);
    type Change = fn(&mut SuperblockV1);
    let changes: [(&str, Change); 9] = [
        ("another array", |one| one.fields.set_uuid.0[0] ^= 1),
        ("had no slot", |one| one.fields.set_role(1, Role::Spare)),
        ("slot is taken", |one| {
            one.fields.set_role(1, Role::Active(2))
        }),
        ("slot is taken", |one| {
            one.fields.set_role(1, Role::Active(3))
        }),
        ("has bad blocks", |one| mark(one, Features::BAD_BLOCKS)),
        ("was not in sync", |one| {
            mark(one, Features::RECOVERY_OFFSET)
        }),
        ("ran without members", |one| {
            one.fields.set_role(2, Role::Faulty)
        }),
        ("no longer knows", |one| one.fields.events = 0),
        ("number is taken", |one| {
            one.fields.set_role(3, Role::Active(1));
            one.fields.dev_number = 3;
        }),
    ];
    for (reason, change) in changes {
        let mut superblock = left.clone();
        change(&mut superblock);
        world.released.clear();
        let text = why(come_back(&mut world, superblock));
        assert!(text.contains(reason), "{reason}: {text}");
        assert_eq!(world.released, [NEW], "{reason}");
        assert_eq!(world.array().status(), before, "{reason}");
    }
    let text = why(world.control(Control::ReAdd(world.new_member(NEW.0, None))));
    assert!(text.contains("has no superblock"), "{text}");
    assert!(bytes(&world) == stored, "nothing was written");
    come_back(&mut world, left).expect("as it was when it left");
}

/// Without a bitmap nobody knows what it missed.
#[test]
fn nobody_is_taken_back_without_a_bitmap() {
    let mut world = World::running(&Shape {
        bitmap: false,
        ..Shape::mirror(2)
    });
    let left = leave(&mut world, SECOND);
    let text = why(come_back(&mut world, left));
    assert!(text.contains("no bitmap"), "{text}");
}

/// Where the array ends it would have to write behind the member's data.
#[test]
fn who_has_less_room_than_the_array_uses_is_not_taken_back() {
    let mut world = World::running(&Shape::mirror(2));
    let superblock = leave(&mut world, SECOND);
    let mut small = superblock.clone();
    small.fields.data_size_sectors = world.array().status().dev_sectors - 8;
    let text = why(come_back(&mut world, small));
    assert!(text.contains("too small"), "{text}");
    let used = world.array().status().dev_sectors;
    let mut exact = superblock;
    exact.fields.data_size_sectors = used;
    come_back(&mut world, exact).expect("just enough");
}

/// Nothing on the members tells such an array what one of them missed: it remembers by itself.
#[test]
fn an_array_without_superblocks_remembers_who_left() {
    let mut world = World::create(&Shape {
        format: Format::Bare,
        bitmap: false,
        ..Shape::mirror(2)
    });
    world.begin();
    let file = world.new_file(90, 4096);
    let wish = BitmapWish::File(
        file,
        NewBitmap {
            region_bytes: Some(65536),
            write_behind: 0,
            offset_sectors: None,
        },
    );
    world.control(Control::Bitmap(wish)).expect("a bitmap");
    world.pass(60);
    world.write(0, &[1; 512]).expect("written");
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    world.write(300, &[2; 512]).expect("written");
    let disk = world.disks.get_mut(&FIRST).expect("a disk");
    disk.read_sectors = 0;
    let back = world.new_member(SECOND.0, None);
    world.control(Control::ReAdd(back)).expect("taken back");
    world.pass(2);
    let status = member(&mut world, SECOND).expect("it is back");
    assert_eq!(status.role, MemberRole::InSync);
    let copied = world.disks[&FIRST].read_sectors;
    assert!(copied <= 2 * 128, "only what is marked: {copied}");
    world.control(Control::Fail(FIRST)).expect("failed");
    assert_eq!(world.read(0, 1).expect("read"), [1; 512]);
    assert_eq!(world.read(300, 1).expect("read"), [2; 512]);
    // Who was a spare when it was taken out holds nothing.
    world.control(Control::Remove(FIRST)).expect("removed");
    let stranger = world.new_member(40, None);
    let text = why(world.control(Control::ReAdd(stranger)));
    assert!(text.contains("has not left this array"), "{text}");
}

/// A spare never held data. Taken back as one who did, it would give rubbish for what no bit marks.
#[test]
fn a_spare_that_left_an_array_without_superblocks_is_a_stranger() {
    let mut world = World::create(&Shape {
        format: Format::Bare,
        bitmap: false,
        ..Shape::mirror(2)
    });
    world.begin();
    world.add(NEW.0).expect("added");
    world.control(Control::Remove(NEW)).expect("removed");
    let back = world.new_member(NEW.0, None);
    let text = why(world.control(Control::ReAdd(back)));
    assert!(text.contains("has not left this array"), "{text}");
}

/// Version 0.90 has room for 27 devices: slots, and who is not in one.
#[test]
fn a_wide_array_of_version_090_takes_a_spare() {
    let mut world = World::running(&Shape {
        format: Format::V090,
        ..Shape::mirror(20)
    });
    let reply = world.add(30);
    assert_eq!(reply, Ok(ControlReply::Added { number: 20 }));
}
