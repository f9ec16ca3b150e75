//! What was begun goes on after a stop, or a crash, where it was.

use umd_core::array::{Control, MemberRole, MemberStatus, Options, SyncLimits, SyncRequest};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::{Format, Level};

use crate::world::{Shape, World};

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);
const NEW: MemberId = MemberId(7);

fn limit(world: &mut World, to: u64) {
    let limits = SyncLimits {
        to_sectors: Some(to),
        ..SyncLimits::default()
    };
    world
        .control(Control::Limits(limits, None))
        .expect("limited");
}

fn member(world: &mut World, id: MemberId) -> MemberStatus {
    let members = world.array().status().members.into_iter();
    members
        .into_iter()
        .find(|m| m.id == id)
        .expect("it is there")
}

fn begin_frozen(world: &mut World) {
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    world.drain();
}

fn read_sectors(world: &mut World) -> u64 {
    let read = world.disks.values().map(|disk| disk.read_sectors).sum();
    for disk in world.disks.values_mut() {
        disk.read_sectors = 0;
    }
    read
}

/// A mirror of one member that another one is being copied to, up to `to`.
fn half_rebuilt(to: u64) -> World {
    let mut world = World::running(&Shape {
        bitmap: false,
        ..Shape::mirror(2)
    });
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    world.disks.remove(&SECOND);
    limit(&mut world, to);
    world.add(NEW.0).expect("added");
    world.pass(1);
    world
}

/// A rebuild of a large disk takes a day: a stop costs none of it.
#[test]
fn a_rebuild_goes_on_after_a_stop() {
    let mut world = half_rebuilt(640);
    world.stop();
    read_sectors(&mut world);
    world.begin();
    world.pass(1);
    let all = world.array().status().dev_sectors;
    assert_eq!(read_sectors(&mut world), all - 640, "the rest of it");
    assert_eq!(member(&mut world, NEW).role, MemberRole::InSync);
    world.control(Control::Fail(FIRST)).expect("failed");
    world.read(0, all as u32).expect("all of it is there");
}

/// The half that was copied is there, but nobody may read the other one before it is.
#[test]
fn what_a_stop_leaves_half_done_is_shown_so() {
    let mut world = half_rebuilt(640);
    world.stop();
    begin_frozen(&mut world);
    let role = MemberRole::Recovering {
        recovered_sectors: 640,
    };
    assert_eq!(member(&mut world, NEW).role, role);
    assert_eq!(world.array().status().degraded, 1);
}

/// A member that only missed what the bitmap tells is not copied anew because of a crash.
#[test]
fn a_member_that_was_taken_back_is_still_guided_after_a_crash() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    for at in [0, 600] {
        world.write(at, &[2; 512]).expect("written");
    }
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    let superblock = world.superblock(1);
    let back = world.new_member(1, Some(superblock));
    world.control(Control::ReAdd(back)).expect("taken back");
    world.kill();
    world.begin();
    world.pass(2);
    assert_eq!(member(&mut world, SECOND).role, MemberRole::InSync);
    let read = read_sectors(&mut world);
    assert!(read <= 4 * 128, "two regions, and no more: {read}");
    world.control(Control::Fail(FIRST)).expect("failed");
    assert_eq!(world.read(600, 1).expect("read"), [2; 512]);
}

/// Who serves and who is to take over are told apart by their superblocks.
#[test]
fn a_replacement_goes_on_after_a_stop() {
    for shape in [Shape::mirror(2), Shape::parity(Level::Raid5, 3)] {
        let mut world = World::running(&shape);
        world.write(0, &[3; 4096]).expect("written");
        world.add(NEW.0).expect("added");
        limit(&mut world, 640);
        let replace = Control::Replace {
            member: SECOND,
            with: None,
        };
        world.control(replace).expect("begun");
        world.pass(1);
        world.stop();
        begin_frozen(&mut world);
        // What was on its way when it was frozen.
        read_sectors(&mut world);
        let (old, new) = (member(&mut world, SECOND), member(&mut world, NEW));
        assert_eq!((old.want_replacement, old.replacement), (true, false));
        assert_eq!((new.want_replacement, new.replacement), (false, true));
        assert_eq!(old.role, MemberRole::InSync);
        let role = MemberRole::Recovering {
            recovered_sectors: 640,
        };
        assert_eq!(new.role, role, "{}", shape.level);
        let idle = Control::Sync(SyncRequest::Idle);
        world.control(idle).expect("goes on");
        world.pass(1);
        assert_eq!(member(&mut world, SECOND).role, MemberRole::Faulty);
        assert_eq!(member(&mut world, NEW).role, MemberRole::InSync);
        let all = world.array().status().dev_sectors;
        assert_eq!(read_sectors(&mut world), all - 640, "of the old one alone");
        world.control(Control::Fail(FIRST)).expect("failed");
        assert_eq!(world.read(0, 8).expect("read"), [3; 4096]);
    }
}

/// The last update of an earlier run reached one member only. Were the next one cut short as well,
/// the other would be two behind, and would look as if it had missed writes.
#[test]
fn members_are_even_before_anything_new_is_recorded() {
    let shape = Shape {
        bitmap: false,
        ..Shape::mirror(2)
    };
    for cut in 1..12 {
        let mut world = World::running(&shape);
        world.write(0, &[1; 512]).expect("written");
        // The clean superblock reaches the first member, not the second.
        let before = world.disks[&SECOND].clone();
        world.pass(10);
        world.kill();
        let newest = world.superblock(0).fields.events;
        world.disks.insert(SECOND, before);
        assert_eq!(world.superblock(1).fields.events + 1, newest);
        world.begin();
        world.power_for = Some(cut);
        world.write_in_the_dark(8, &[2; 512]);
        let events = [0, 1].map(|id| world.superblock(id).fields.events);
        assert!(events[0].abs_diff(events[1]) <= 1, "{cut}: {events:?}");
        world.kill();
        world.begin();
        world.pass(10);
        assert_eq!(world.array().status().degraded, 0, "{cut}");
    }
}

/// A resync that was cut short by a stop goes on; one without a bitmap knows how far it came.
#[test]
fn a_resync_goes_on_after_a_stop() {
    for format in [Format::V1_2, Format::V090] {
        let mut world = World::create(&Shape {
            assume_clean: false,
            bitmap: false,
            format,
            ..Shape::mirror(2)
        });
        begin_frozen(&mut world);
        limit(&mut world, 640);
        let idle = Control::Sync(SyncRequest::Idle);
        world.control(idle).expect("goes on");
        world.pass(1);
        world.stop();
        read_sectors(&mut world);
        world.begin();
        world.pass(1);
        let all = world.array().status().dev_sectors;
        assert_eq!(read_sectors(&mut world), 2 * (all - 640), "{format}");
    }
}

/// Once it was taken back, and only what it missed was copied. Added anew it has nothing of what it
/// is to hold, although it is the same disk.
#[test]
fn who_was_taken_back_once_is_copied_whole_when_it_is_new() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    world.write(0, &[2; 512]).expect("written");
    let superblock = world.superblock(1);
    let back = world.new_member(1, Some(superblock));
    world.control(Control::ReAdd(back)).expect("taken back");
    world.pass(60);
    assert_eq!(member(&mut world, SECOND).role, MemberRole::InSync);
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    let size = world.array().array_sectors() as u32;
    let content = world.read(0, size).expect("read");
    read_sectors(&mut world);
    world.add(SECOND.0).expect("added");
    world.pass(1);
    assert_eq!(read_sectors(&mut world), u64::from(size), "all of it");
    world.control(Control::Fail(FIRST)).expect("failed");
    assert!(world.read(0, size).expect("read") == content);
}
