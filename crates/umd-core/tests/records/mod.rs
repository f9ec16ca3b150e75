//! What superblocks and bitmaps say, and what waits until they say it.

use crate::world::{DISK_BYTES, Disk, Logged, Shape, World};
use umd_core::array::{Control, ControlError, Options, Purpose, RequestOp};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::v1::Features;

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);

fn started(shape: &Shape) -> World {
    let mut world = World::create(shape);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    world.drain();
    world
}

/// A bitmap with fewer events than the superblocks is out of date: after a crash the whole array
/// would be resynced.
#[test]
fn superblocks_wait_for_the_events_of_the_bitmap() {
    let mut world = started(&Shape::mirror(2));
    world.holds = Some(Purpose::Bitmap);
    world.log.clear();
    let data = world.pool.copy_of(&[1; 512]);
    let write = world.submit(RequestOp::Write {
        offset_sectors: 0,
        data,
        fua: false,
    });
    assert!(!world.is_answered(write));
    assert!(!world.kept_back.is_empty(), "the bitmap comes first");
    assert_eq!(world.log, [], "no superblock was written");
    world.release_back();
    assert!(world.is_answered(write));
    assert!(world.log.contains(&Logged::Super(FIRST)));
}

/// Nobody may believe that a member was added whose number stands in no superblock.
#[test]
fn a_member_that_no_superblock_tells_of_is_given_back() {
    let mut world = started(&Shape::mirror(2));
    world.holds = Some(Purpose::Super);
    let disk = Disk {
        bytes: vec![0x5a; DISK_BYTES],
        ..Disk::default()
    };
    world.disks.insert(MemberId(7), disk);
    let new = world.new_member(7, None);
    let asked = world.ask(Control::Add(new));
    for id in [FIRST, SECOND] {
        world.disks.get_mut(&id).expect("a disk").gone = true;
    }
    world.release_back();
    let answer = world.asked(asked).expect("answered");
    assert!(matches!(answer, Err(ControlError::Io(_))), "{answer:?}");
    assert!(
        world.released.contains(&MemberId(7)),
        "{:?}",
        world.released
    );
    let status = world.array().status();
    let there = status.members.iter().any(|member| member.id == MemberId(7));
    assert!(!there, "it is no member");
}

/// After a crash members may differ where a bit is set. Elsewhere one of them is enough.
#[test]
fn where_no_bit_is_set_a_crash_costs_no_read() {
    let mut world = started(&Shape::mirror(2));
    // What a new array was marked with is cleared first.
    world.pass(60);
    world.write(0, &[1; 512]).expect("written");
    world.kill();
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    let before = |world: &World| {
        let of = |count: fn(&Disk) -> u64| world.disks.values().map(count).sum();
        let counts: (u64, u64) = (of(|disk| disk.reads), of(|disk| disk.writes));
        counts
    };
    let frozen = umd_core::array::SyncRequest::Frozen;
    world.control(Control::Sync(frozen)).expect("frozen");
    world.pass_millis(100);
    let sectors = world.array().array_sectors();
    let (reads, writes) = before(&world);
    world.read(sectors - 8, 8).expect("read");
    assert_eq!(before(&world), (reads + 1, writes), "no bit is set there");
    world.read(0, 8).expect("read");
    assert!(before(&world).0 >= reads + 3, "both legs are compared");
}

/// Each side of a split array has the same events, and the bitmap of neither knows what the other
/// one wrote: taken back by it, the member would keep its own writes.
#[test]
fn who_ran_on_alone_is_not_taken_back() {
    let mut world = started(&Shape::mirror(2));
    world.write(0, &[1; 512]).expect("written");
    let before = world.disks.clone();
    let half = |world: &mut World, failed: MemberId, at: u64| {
        world.control(Control::Fail(failed)).expect("failed");
        world.write(at, &[2; 512]).expect("written");
        world.control(Control::Remove(failed)).expect("removed");
    };
    half(&mut world, FIRST, 8);
    let alone = world.disks[&SECOND].clone();
    let superblock = world.superblock(1);
    world.kill();
    let mut world = World::over(before);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    half(&mut world, SECOND, 300);
    // This side has counted further by now.
    for at in 0..4 {
        world.write(at, &[3; 512]).expect("written");
        world.pass(60);
    }
    world.disks.insert(MemberId(7), alone);
    let new = world.new_member(7, Some(superblock));
    let answer = world.control(Control::ReAdd(new));
    let Err(ControlError::Invalid(why)) = &answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains("ran without members"), "{why}");
}

/// Once bits were cleared the bitmap no longer tells what a member missed that left before: taken
/// back by it, the member would give old data for new.
#[test]
fn who_missed_more_than_the_bitmap_knows_is_not_taken_back() {
    let mut world = started(&Shape::mirror(2));
    world.pass(60);
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    let (left, superblock) = (world.disks[&SECOND].clone(), world.superblock(1));
    world.disks.remove(&SECOND);
    world.write(8, &[2; 512]).expect("written");
    world.add(7).expect("added");
    world.pass(60);
    assert_eq!(world.array().status().degraded, 0);
    world.disks.insert(MemberId(9), left);
    let refused = |world: &mut World, wanted: &str| {
        let new = world.new_member(9, Some(superblock.clone()));
        let answer = world.control(Control::ReAdd(new));
        let Err(ControlError::Invalid(why)) = &answer else {
            panic!("{answer:?}");
        };
        assert!(why.contains(wanted), "{why}");
    };
    refused(&mut world, "its slot is taken");
    world.control(Control::Fail(MemberId(7))).expect("failed");
    world
        .control(Control::Remove(MemberId(7)))
        .expect("removed");
    refused(&mut world, "no longer knows");
}

/// A member that was away when the array left its cluster is one of a plain array once it is back.
#[test]
fn who_comes_back_from_a_cluster_has_left_it() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    world.stop();
    let mut superblock = world.superblock(1);
    let fields = &mut superblock.fields;
    fields.features = fields.features.with(Features::CLUSTERED);
    let at = fields.super_offset_sectors as usize * 512;
    let bytes = superblock.encode(512);
    let disk = world.disks.get_mut(&MemberId(1)).expect("a disk");
    disk.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    world.begin();
    world.write(0, &[7; 4096]).expect("written");
    let features = world.superblock(1).fields.features;
    assert!(!features.contains(Features::CLUSTERED));
}

/// Whoever wanted a member out is told that this could not be recorded: at the next start it may be
/// a member again.
#[test]
fn what_no_superblock_tells_of_was_not_done() {
    let mut world = started(&Shape::mirror(3));
    world.control(Control::Fail(SECOND)).expect("failed");
    world.holds = Some(Purpose::Super);
    let asked = world.ask(Control::Remove(SECOND));
    assert_eq!(world.asked(asked), None, "it is being recorded");
    for id in [0, 2] {
        world.disks.get_mut(&MemberId(id)).expect("a disk").gone = true;
    }
    world.release_back();
    let answer = world.asked(asked).expect("answered");
    assert!(matches!(answer, Err(ControlError::Io(_))), "{answer:?}");
}
