//! md's rarer words for how an array is to behave: `suspend_lo` and `suspend_hi`, `fail_last_dev`,
//! `start_dirty_degraded`.

use super::world::{Shape, World, shapes};
use umd_core::array::{
    ArrayState, Control, ControlError, ControlReply, MemberRole, Notice, Options, Purpose,
    RequestError, RequestOp, Settings,
};
use umd_core::assembly::Wish;
use umd_core::value::{MAX_SECTOR, MemberId};
use umd_format::{Format, Level};

fn between(lo: u64, hi: u64) -> Control {
    Control::Settings(Settings {
        suspend_lo_sectors: Some(lo),
        suspend_hi_sectors: Some(hi),
        ..Settings::default()
    })
}

fn fail_last(on: bool) -> Control {
    Control::Settings(Settings {
        fail_last_dev: Some(on),
        ..Settings::default()
    })
}

fn write(world: &mut World, offset_sectors: u64, byte: u8) -> u64 {
    let data = world.pool.copy_of(&[byte; 4096]);
    world.submit(RequestOp::Write {
        offset_sectors,
        data,
        fua: false,
    })
}

fn bytes(world: &World) -> Vec<Vec<u8>> {
    world.disks.values().map(|d| d.bytes.clone()).collect()
}

#[test]
fn writes_into_the_range_wait_until_it_is_lifted() {
    for shape in shapes() {
        let mut world = World::running(&shape);
        world.write(64, &[1; 4096]).expect("writes");
        world.pass(60);
        world.control(between(64, 128)).expect("set");
        assert_eq!(world.array().status().suspended_sectors, (64, 128));
        let before = bytes(&world);
        // Its first and its last sector count, those beside it do not.
        let inside = [write(&mut world, 60, 2), write(&mut world, 127, 3)];
        let zeroes = world.submit(RequestOp::WriteZeroes {
            offset_sectors: 0,
            len_sectors: 4096 / 512 * 20,
            fua: false,
            may_unmap: false,
        });
        let trim = world.submit(RequestOp::Trim {
            offset_sectors: 100,
            len_sectors: 1,
            fua: false,
        });
        world.pass(60);
        for one in inside.iter().chain([&zeroes, &trim]) {
            assert!(!world.is_answered(*one));
        }
        assert_eq!(bytes(&world), before, "and nothing was written for them");
        let status = world.array().status();
        assert_eq!((status.suspended_writes, status.requests_in_flight), (4, 4));
        // Reads, flushes and other writes go on.
        assert_eq!(world.read(64, 8).expect("reads"), [1; 4096]);
        let flush = world.submit(RequestOp::Flush);
        assert!(world.is_answered(flush));
        world.write(128, &[4; 512]).expect("behind it");
        world.write(56, &[5; 4096]).expect("before it");
        // A write that would be refused is refused at once.
        let end = world.array().status().array_sectors;
        let beyond = world.submit(RequestOp::Trim {
            offset_sectors: 100,
            len_sectors: end,
            fua: false,
        });
        assert!(world.is_answered(beyond));
        // Moved on, it lets go what it does not hold any more.
        let lo = Settings {
            suspend_lo_sectors: Some(110),
            ..Settings::default()
        };
        world.control(Control::Settings(lo)).expect("moved");
        assert_eq!(world.array().status().suspended_sectors, (110, 128));
        assert!(world.is_answered(inside[0]) && world.is_answered(trim));
        assert!(!world.is_answered(inside[1]) && !world.is_answered(zeroes));
        world.control(between(0, 0)).expect("lifted");
        assert!(world.is_answered(inside[1]) && world.is_answered(zeroes));
        assert_eq!(world.array().status().suspended_writes, 0);
        world.write(64, &[6; 4096]).expect("as ever");
        world.stop();
    }
}

#[test]
fn who_sets_it_is_answered_when_the_range_is_at_rest() {
    for shape in shapes() {
        let mut world = World::running(&shape);
        world.write(0, &[1; 4096]).expect("writes");
        world.holds = Some(Purpose::Data);
        let len = 512;
        let under_way: Vec<u64> = (0..len / 8)
            .map(|at| write(&mut world, at * 8, 2))
            .collect();
        world.drain();
        let elsewhere = world.ask(between(len, len + 8));
        assert_eq!(world.asked(elsewhere), Some(Ok(ControlReply::Done)));
        let set = world.ask(between(0, len));
        let late = write(&mut world, 0, 3);
        assert_eq!(
            world.asked(set),
            None,
            "{:?} {} {}",
            shape.level,
            shape.layout,
            shape.disks
        );
        world.release_back();
        assert_eq!(world.asked(set), Some(Ok(ControlReply::Done)));
        assert!(under_way.iter().all(|one| world.is_answered(*one)));
        assert!(!world.is_answered(late));
        assert_eq!(world.read(0, 8).expect("reads"), [2; 4096]);
        let lifted = world.ask(between(0, 0));
        assert_eq!(world.asked(lifted), Some(Ok(ControlReply::Done)));
        assert_eq!(world.read(0, 8).expect("reads"), [3; 4096]);
    }
}

/// What waits when the array is stopped was asked for before that: it is written.
#[test]
fn a_stop_lifts_it_and_a_start_knows_nothing_of_it() {
    for shape in shapes() {
        let mut world = World::running(&shape);
        world.control(between(0, MAX_SECTOR)).expect("set");
        let waits = write(&mut world, 8, 7);
        assert!(!world.is_answered(waits));
        world.control(Control::Stop).expect("stops");
        assert_eq!(world.reply(waits).map(|_| ()), Ok(()));
        assert!(world.array().is_stopped());
        let options = Options::default();
        world.start(&Wish::default(), options).expect("starts");
        assert_eq!(world.read(8, 8).expect("reads"), [7; 4096]);
        assert_eq!(world.array().status().suspended_sectors, (0, 0));
        world.write(8, &[8; 4096]).expect("writes");
        world.stop();
    }
}

#[test]
fn nobody_waits_in_an_array_that_cannot_be_written_any_more() {
    let mut world = World::running(&Shape::parity(Level::Raid5, 3));
    world.control(between(0, 64)).expect("set");
    let waits = write(&mut world, 8, 7);
    world.control(Control::Fail(MemberId(0))).expect("fails");
    assert!(!world.is_answered(waits), "one may be missing");
    let lost = |id| Control::Lost(MemberId(id), "it is gone".into());
    world.control(lost(1)).expect("is heard");
    assert!(matches!(world.reply(waits), Err(RequestError::Io(_))));

    // It does not switch a read-auto array, and a read-only one refuses.
    let mut world = World::create(&Shape::mirror(2));
    let options = Options {
        read_auto: true,
        ..Options::default()
    };
    world.start(&Wish::default(), options).expect("starts");
    world.control(between(0, 64)).expect("set");
    let waits = write(&mut world, 8, 7);
    world.pass(60);
    assert_eq!(world.array().status().state, ArrayState::ReadAuto);
    world
        .control(Control::ReadOnly(true))
        .expect("it is, nearly");
    let refused = write(&mut world, 8, 8);
    let read_only = Err(RequestError::ReadOnly);
    assert_eq!(world.reply(refused).map(|_| ()), read_only);
    world.control(between(0, 0)).expect("lifted");
    assert_eq!(world.reply(waits).map(|_| ()), read_only);
}

#[test]
fn the_last_leg_is_read_on_unless_it_is_to_fail_too() {
    for shape in [Shape::mirror(2), Shape::parity(Level::Raid5, 3)] {
        let mut world = World::running(&shape);
        world.write(0, &[1; 4096]).expect("writes");
        let (first, last) = (MemberId(0), MemberId(1));
        world.control(Control::Fail(first)).expect("fails");
        let refused = world.control(Control::Fail(last));
        assert!(matches!(refused, Err(ControlError::Busy(_))), "{refused:?}");
        world.control(fail_last(true)).expect("set");
        assert!(world.array().status().fail_last_dev);
        if shape.level != Level::Raid1 {
            let refused = world.control(Control::Fail(last));
            assert!(matches!(refused, Err(ControlError::Busy(_))), "{refused:?}");
            continue;
        }
        world.control(fail_last(false)).expect("set");
        assert!(world.control(Control::Fail(last)).is_err());
        world.write(0, &[2; 4096]).expect("it writes still");
        world.control(fail_last(true)).expect("set");
        let stored = bytes(&world);
        world.control(Control::Fail(last)).expect("fails");
        let status = world.array().status();
        assert_eq!((status.state, status.degraded), (ArrayState::Broken, 2));
        assert!(status.members.iter().all(|m| m.role == MemberRole::Faulty));
        assert!(matches!(world.read(0, 8), Err(RequestError::Io(_))));
        assert!(matches!(
            world.write(0, &[3; 4096]),
            Err(RequestError::Io(_))
        ));
        let broken = |n: &Notice| matches!(n, Notice::Broken(text) if text.contains("d1"));
        assert!(world.notices.iter().any(broken));
        assert_eq!(bytes(&world), stored, "nothing of it is recorded");
        world.control(Control::Stop).expect("stops");
        let options = Options::default();
        world
            .start(&Wish::default(), options)
            .expect("it can be had back");
        assert_eq!(world.read(0, 8).expect("reads"), [2; 4096]);
    }
}

/// Trouble on the last leg: it is read on, or out as any leg would be.
#[test]
fn a_write_that_fails_on_the_last_leg_fails_it_only_if_told() {
    for told in [false, true] {
        let mut world = World::running(&Shape::mirror(2));
        world.write(0, &[1; 4096]).expect("writes");
        world.control(Control::Fail(MemberId(0))).expect("fails");
        world.control(fail_last(told)).expect("set");
        world.disks.get_mut(&MemberId(1)).expect("there").stuck = true;
        let no_log = world.write(8, &[2; 4096]);
        assert!(no_log.is_err());
        let read = world.read(0, 8);
        assert_eq!(read.is_ok(), !told, "{read:?}");
    }
}

/// What `--force` does about a write hole, without what else it does.
#[test]
fn an_unclean_degraded_array_starts_if_it_may() {
    let may = Wish {
        start_dirty_degraded: true,
        ..Wish::default()
    };
    for level in [Level::Raid4, Level::Raid5, Level::Raid6] {
        let shape = Shape {
            bitmap: false,
            layout: if level == Level::Raid4 { 0 } else { 2 },
            ..Shape::parity(level, 4)
        };
        let lost = if level == Level::Raid6 { 2 } else { 1 };
        let mut world = World::running(&shape);
        world.write(0, &[1; 4096]).expect("writes");
        for id in 0..lost {
            world.control(Control::Fail(MemberId(id))).expect("fails");
        }
        world.holds = Some(Purpose::Super);
        world.write(0, &[2; 4096]).expect("it is active already");
        world.kill();
        (world.holds, world.kept_back) = (None, Vec::new());
        let why = world.start(&Wish::default(), Options::default());
        assert!(why.expect_err("refused").contains("not clean"));
        world.start(&may, Options::default()).expect("starts");
        assert_eq!(world.read(0, 8).expect("reads"), [2; 4096]);
        world.pass(60);
        assert_eq!(world.array().status().resync_from_sectors, None);
        world.stop();

        // It raises no stale member: that is force's alone.
        for id in 0..lost + 1 {
            world.disks.remove(&MemberId(id));
        }
        assert!(world.start(&may, Options::default()).is_err());
    }
}

/// A write that ended half-way leaves a row whose parity is of neither the old data nor the new:
/// what is computed from it may be anything. A mirror or a stripe is only as bad as itself.
#[test]
fn nothing_is_computed_with_the_member_that_an_array_broke_over() {
    let format = Format::V1_0;
    for (shape, reads_on) in [
        (
            Shape {
                format,
                ..Shape::parity(Level::Raid5, 3)
            },
            false,
        ),
        (
            Shape {
                format,
                ..Shape::mirror(2)
            },
            true,
        ),
        (
            Shape {
                level: Level::Raid10,
                layout: 0x102,
                chunk_sectors: 16,
                ..Shape::mirror(2)
            },
            true,
        ),
    ] {
        let mut world = World::running(&shape);
        world.write(0, &[1; 4096]).expect("written");
        world.control(Control::Fail(MemberId(0))).expect("fails");
        let size = world.array().array_sectors() as u32;
        world.read(0, size).expect("one may be missing");
        world.disks.get_mut(&MemberId(1)).expect("there").stuck = true;
        for at in [0, 16, 32] {
            drop(world.write(at, &[2; 4096]));
        }
        let status = world.array().status();
        assert_eq!(status.state, ArrayState::Broken, "{}", shape.level);
        let role = if reads_on {
            MemberRole::InSync
        } else {
            MemberRole::Faulty
        };
        assert_eq!(status.members[1].role, role, "{}", shape.level);
        assert_eq!(world.read(0, size).is_ok(), reads_on, "{}", shape.level);
    }
}
