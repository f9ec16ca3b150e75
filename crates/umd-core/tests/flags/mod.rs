//! Flags of members switched while they serve: what is recorded, from when on it counts, and what
//! lags meanwhile.

use super::world::{DISK_BYTES, Shape, World};
use umd_core::array::{
    Control, ControlError, ControlReply, FlagWish, MemberRole, Options, Purpose, Reply, RequestOp,
    SyncLimits, SyncRequest,
};
use umd_core::assembly::Wish;
use umd_core::value::{MAX_SECTOR, MemberId};
use umd_format::Format;
use umd_format::v1::DeviceFlags;

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);

fn shape(format: Format, disks: u16) -> Shape {
    Shape {
        format,
        ..Shape::mirror(disks)
    }
}

/// A mirror that up to eight writes may lag on, with these write-mostly members (a mask).
fn mirror(format: Format, disks: u16, mostly: u8) -> World {
    let mut world = World::create_with(&shape(format, disks), DISK_BYTES, mostly, 8);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    world.pass(60);
    world
}

fn mostly(on: bool) -> FlagWish {
    FlagWish {
        write_mostly: Some(on),
        failfast: None,
    }
}

fn fast(on: bool) -> FlagWish {
    FlagWish {
        write_mostly: None,
        failfast: Some(on),
    }
}

fn write(world: &mut World, offset_sectors: u64, byte: u8) -> u64 {
    let data = world.pool.copy_of(&[byte; 4096]);
    world.submit(RequestOp::Write {
        offset_sectors,
        data,
        fua: false,
    })
}

fn reads(world: &World, id: MemberId) -> u64 {
    world.disks[&id].reads
}

fn stored(world: &World, id: u32) -> DeviceFlags {
    world.superblock(id).fields.flags
}

/// The switch is being recorded when the array grows idle and is stopped. Superblocks that say
/// clean are on their way by the time its last bits may go, and that must not keep them.
#[test]
fn a_stop_while_superblocks_are_written_clears_every_bit() {
    let mut world = mirror(Format::V1_2, 2, 0);
    world.write(5, &[1; 4096]).expect("written");
    world.holds = Some(Purpose::Super);
    let switch = world.ask(Control::Flags(FIRST, fast(true)));
    world.pass_millis(300);
    let stop = world.ask(Control::Stop);
    assert_eq!(world.kept_back.len(), 2);
    world.release_back();
    assert_eq!(world.asked(switch), Some(Ok(ControlReply::Done)));
    assert_eq!(world.asked(stop), Some(Ok(ControlReply::Done)));
    for disk in [FIRST, SECOND] {
        let fields = world.superblock(disk.0).fields;
        assert_eq!(fields.resync_offset_sectors, MAX_SECTOR);
        let at = fields.bitmap_sector().expect("it has a bitmap");
        let bits = at as usize * 512 + 256;
        assert_eq!(world.disks[&disk].bytes[bits], 0);
    }
}

#[test]
fn what_is_switched_is_recorded_and_counts_at_once() {
    for format in [Format::V1_2, Format::V1_0, Format::V090] {
        let mut world = mirror(format, 2, 0);
        let wish = FlagWish {
            write_mostly: Some(true),
            failfast: Some(true),
        };
        let reply = world.control(Control::Flags(FIRST, wish));
        assert_eq!(reply, Ok(ControlReply::Done), "{format}");
        assert_eq!(stored(&world, 0), DeviceFlags(3), "{format}");
        assert_eq!(stored(&world, 1), DeviceFlags(0), "{format}");
        let status = world.array().status();
        assert!(status.members[0].write_mostly && status.members[0].failfast);
        let before = (reads(&world, FIRST), reads(&world, SECOND));
        for at in 0..8 {
            world.read(at * 64, 8).expect("read");
        }
        let after = (reads(&world, FIRST), reads(&world, SECOND));
        assert_eq!((after.0 - before.0, after.1 - before.1), (0, 8));
        // It stays so over a stop, and can be taken back.
        world.stop();
        world.begin();
        assert!(world.array().status().members[0].write_mostly);
        let none = FlagWish {
            write_mostly: Some(false),
            failfast: Some(false),
        };
        world.control(Control::Flags(FIRST, none)).expect("done");
        assert_eq!(stored(&world, 0), DeviceFlags(0), "{format}");
        let before = reads(&world, FIRST);
        for at in 0..8 {
            world.read(at * 64, 8).expect("read");
        }
        assert!(reads(&world, FIRST) > before);
    }
}

/// After a crash the write-mostly leg may lack what was answered, and the resync copies from the
/// other one: nobody turns that round.
#[test]
fn who_may_have_missed_writes_stays_known_until_they_are_resynced() {
    for (member, on) in [(FIRST, true), (SECOND, false)] {
        let mut world = mirror(Format::V1_2, 2, 2);
        world.held = Some(SECOND);
        let lags = write(&mut world, 0, 7);
        assert!(world.is_answered(lags));
        world.kill();
        world.held = None;
        world.kept.clear();
        world.begin();
        world
            .control(Control::Sync(SyncRequest::Frozen))
            .expect("frozen");
        let reply = world.control(Control::Flags(member, mostly(on)));
        assert!(matches!(reply, Err(ControlError::Busy(_))), "{reply:?}");
        assert_eq!(stored(&world, 1), DeviceFlags::WRITE_MOSTLY);
        // Other flags are of no importance here.
        world
            .control(Control::Flags(FIRST, fast(true)))
            .expect("recorded");
        world
            .control(Control::Sync(SyncRequest::Idle))
            .expect("goes on");
        world.pass(60);
        assert_eq!(world.read(0, 8).expect("read"), [7; 4096]);
        world
            .control(Control::Flags(member, mostly(on)))
            .expect("resynced");
        assert_eq!(world.read(0, 8).expect("read"), [7; 4096]);
    }
}

#[test]
fn nothing_is_an_ordinary_leg_before_what_lags_there_has_landed() {
    let mut world = mirror(Format::V1_2, 2, 2);
    world.held = Some(SECOND);
    let lags = write(&mut world, 0, 7);
    assert!(world.is_answered(lags));
    let asked = world.ask(Control::Flags(SECOND, mostly(false)));
    assert_eq!(world.asked(asked), None);
    assert_eq!(stored(&world, 1), DeviceFlags::WRITE_MOSTLY);
    // Hosts that go on writing do not put it off for ever.
    let later = write(&mut world, 64, 8);
    assert!(!world.is_answered(later), "no write lags meanwhile");
    let before = reads(&world, SECOND);
    for at in 0..8 {
        world.read(at * 8, 8).expect("read");
    }
    assert_eq!(reads(&world, SECOND), before);
    world.release(false);
    assert_eq!(world.asked(asked), Some(Ok(ControlReply::Done)));
    assert!(world.is_answered(later));
    assert_eq!(stored(&world, 1), DeviceFlags(0));
    for at in 0..8 {
        world.read(at * 8, 8).expect("read");
    }
    assert!(reads(&world, SECOND) > before, "an ordinary leg");
    world.held = Some(SECOND);
    let last = write(&mut world, 128, 9);
    assert!(!world.is_answered(last));
    world.release(false);
}

/// A crash would take the leg that its superblock still calls an ordinary one for whole.
#[test]
fn nothing_lags_before_superblocks_call_the_leg_write_mostly() {
    let mut world = mirror(Format::V1_2, 3, 4);
    world.write(0, &[1; 512]).expect("active");
    world.holds = Some(Purpose::Super);
    let asked = world.ask(Control::Flags(SECOND, mostly(true)));
    world.held = Some(SECOND);
    let write_now = write(&mut world, 0, 7);
    assert!(!world.is_answered(write_now));
    world.release_back();
    assert_eq!(world.asked(asked), Some(Ok(ControlReply::Done)));
    assert!(
        !world.is_answered(write_now),
        "it was sent as an ordinary one"
    );
    let next = write(&mut world, 64, 8);
    assert!(world.is_answered(next), "now they may");
    world.release(false);
    assert!(world.is_answered(write_now));
}

#[test]
fn a_member_that_is_to_fail_fast_fails_fast_from_then_on() {
    let damage = |world: &mut World| {
        let offset = world.superblock(0).fields.data_offset_sectors;
        let disk = world.disks.get_mut(&FIRST).expect("a disk");
        disk.bad.extend(offset..offset + 64);
        for at in 0..64 {
            world.read(at * 8, 8).expect("the other leg has it");
        }
        world.array().status().degraded
    };
    for (switches, lost) in [(vec![], 0), (vec![true], 1), (vec![true, false], 0)] {
        let mut world = mirror(Format::V1_2, 2, 0);
        for on in &switches {
            let done = world.control(Control::Flags(FIRST, fast(*on)));
            assert_eq!(done, Ok(ControlReply::Done));
        }
        assert_eq!(damage(&mut world), lost, "{switches:?}");
    }
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let mut world = mirror(Format::V1_2, 3, 0);
    let no = world.control(Control::Flags(MemberId(77), mostly(true)));
    assert!(matches!(no, Err(ControlError::NotFound(_))), "{no:?}");
    world.control(Control::Fail(SECOND)).expect("failed");
    let no = world.control(Control::Flags(SECOND, mostly(true)));
    assert!(matches!(&no, Err(ControlError::Busy(text)) if text.contains("faulty")));
    world.control(Control::ReadOnly(true)).expect("read-only");
    let before = world.superblock(0);
    let no = world.control(Control::Flags(FIRST, mostly(true)));
    assert!(matches!(&no, Err(ControlError::Busy(text)) if text.contains("read-only")));
    assert_eq!(world.superblock(0), before);
    assert!(!world.array().status().members[0].write_mostly);
}

/// Whoever asked is told that it could not be kept, and does not wait for ever.
#[test]
fn a_switch_that_nobody_can_record_any_more_is_refused() {
    let mut world = mirror(Format::V1_2, 2, 0);
    world.holds = Some(Purpose::Super);
    let asked = world.ask(Control::Flags(SECOND, fast(true)));
    assert_eq!(world.asked(asked), None, "it is being recorded");
    for id in [FIRST, SECOND] {
        world.disks.get_mut(&id).expect("a disk").gone = true;
    }
    world.release_back();
    let refused = world.asked(asked).expect("answered");
    assert!(matches!(refused, Err(ControlError::Io(_))), "{refused:?}");
}

/// A stop does not wait for a wish that waits for what lags, and both are answered.
#[test]
fn a_stop_takes_a_wish_that_waits_back() {
    let mut world = mirror(Format::V1_2, 2, 2);
    world.held = Some(SECOND);
    let lags = write(&mut world, 0, 7);
    assert!(world.is_answered(lags));
    let asked = world.ask(Control::Flags(SECOND, mostly(false)));
    let stop = world.ask(Control::Stop);
    let refused = world.asked(asked).expect("answered");
    assert!(matches!(refused, Err(ControlError::Busy(_))), "{refused:?}");
    world.release(false);
    assert_eq!(world.asked(stop), Some(Ok(ControlReply::Done)));
    assert_eq!(stored(&world, 1), DeviceFlags::WRITE_MOSTLY);
}

/// Who replaces a write-mostly member is an ordinary leg: nothing may lag there.
#[test]
fn a_write_mostly_member_is_not_replaced_while_writes_lag() {
    const NEW: MemberId = MemberId(9);
    let mut world = mirror(Format::V1_2, 2, 2);
    world.add(NEW.0).expect("added");
    let limit = |world: &mut World, to: u64| {
        let limits = SyncLimits {
            to_sectors: Some(to),
            ..SyncLimits::default()
        };
        world
            .control(Control::Limits(limits, None))
            .expect("limited");
    };
    limit(&mut world, 512);
    let replace = Control::Replace {
        member: SECOND,
        with: Some(NEW),
    };
    world.control(replace).expect("taken");
    world.pass(2);
    world.write(0, &[1; 4096]).expect("active");
    world.held = Some(NEW);
    let lags = write(&mut world, 0, 7);
    assert!(world.is_answered(lags) && !world.kept.is_empty());
    limit(&mut world, MAX_SECTOR);
    world.pass(5);
    let role = |world: &mut World| {
        let members = world.array().status().members;
        let new = members.iter().find(|m| m.id == NEW).expect("a member");
        (new.role, new.replacement)
    };
    assert!(role(&mut world).1, "the old one serves on");
    let next = write(&mut world, 64, 7);
    assert!(!world.is_answered(next), "nothing else begins to lag");
    world.release(false);
    world.pass(1);
    assert_eq!(role(&mut world), (MemberRole::InSync, false));
    world.control(Control::Fail(FIRST)).expect("failed");
    let id = world.submit(RequestOp::Read {
        offset_sectors: 0,
        len_sectors: 8,
    });
    match world.reply(id).expect("read") {
        Reply::Data(pieces) => {
            let all = pieces.iter().all(|p| p.as_slice().iter().all(|b| *b == 7));
            assert!(all, "what was answered is there");
        }
        other => panic!("not a read: {other:?}"),
    }
}
