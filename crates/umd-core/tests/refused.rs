//! Writes that a member refuses: recorded in its log before they are answered, where the other
//! members hold them; else the member fails, as it would without a log.

mod world;

use umd_core::array::{
    ArrayState, Control, FlagWish, MemberRole, Notice, Options, Purpose, RequestOp, SyncRequest,
};
use umd_core::assembly::Wish;
use umd_core::sync::SyncAction;
use umd_core::value::MemberId;
use umd_format::badblocks::{BadLog, BadRanges};
use umd_format::{Format, Level};
use world::{Lcg, Shape, World};

/// Those with room for a log, and redundancy.
fn shapes() -> Vec<Shape> {
    let all = world::shapes().into_iter();
    let logged = |s: &Shape| matches!(s.format, Format::V1_1 | Format::V1_2);
    let mut all: Vec<Shape> = all
        .filter(|s| logged(s) && s.level.is_redundant())
        .collect();
    all.iter_mut().for_each(|shape| shape.assume_clean = true);
    all
}

/// One of each kind, and no large ones.
fn few() -> [Shape; 5] {
    let copied = Shape {
        level: Level::Raid10,
        layout: 0x102,
        ..Shape::parity(Level::Raid5, 3)
    };
    [
        Shape::mirror(2),
        Shape::mirror(3),
        Shape::parity(Level::Raid5, 3),
        Shape::parity(Level::Raid6, 4),
        copied,
    ]
}

/// What a disk says is bad, as the next start would see it.
fn logged(world: &World, disk: u32) -> BadRanges {
    let superblock = world.superblock(disk);
    let Some((at, len)) = BadLog::place(&superblock.fields) else {
        return BadRanges::default();
    };
    let bytes = &world.disks[&MemberId(disk)].bytes[at as usize * 512..(at + len) as usize * 512];
    let log = BadLog::read(&superblock.fields, bytes);
    log.expect("a log").ranges()
}

fn content(seed: u64, sectors: u64) -> Vec<u8> {
    let mut lcg = Lcg(seed);
    (0..sectors * 512).map(|_| lcg.below(256) as u8).collect()
}

fn role(world: &mut World, id: u32) -> MemberRole {
    let status = world.array().status();
    let mut members = status.members.iter();
    members
        .find(|m| m.id == MemberId(id))
        .expect("a member")
        .role
}

/// Member sectors of a disk take no data any more.
fn wear(world: &mut World, disk: u32, sectors: std::ops::Range<u64>) {
    let offset = world.superblock(disk).fields.data_offset_sectors;
    let there = world.disks.get_mut(&MemberId(disk)).expect("a disk");
    there
        .worn
        .extend(offset + sectors.start..offset + sectors.end);
}

/// A running array, all of it written, and what it holds.
fn filled(shape: &Shape) -> (World, Vec<u8>) {
    let mut world = World::running(shape);
    world.pass(60);
    let sectors = world.array().array_sectors();
    let model = content(7, sectors);
    world.write(0, &model).expect("written");
    (world, model)
}

/// Nobody fails, nothing is degraded, and what was written is read, also when another is lost
/// that lay elsewhere: exactly the blocks that were refused are in the log when the host hears.
#[test]
fn what_is_refused_is_recorded_before_the_answer() {
    for shape in shapes() {
        let (mut world, _) = filled(&shape);
        wear(&mut world, 1, 21..24);
        let sectors = world.array().array_sectors();
        let model = content(8, sectors);
        world.write(0, &model).expect("the others hold it");
        let offset = world.superblock(1).fields.data_offset_sectors;
        let bad = logged(&world, 1);
        assert!(
            bad.covers(offset + 21, offset + 24),
            "{:?} {bad:?}",
            shape.level
        );
        assert_eq!(bad.sectors(), 3, "{:?}", shape.level);
        let status = world.array().status();
        assert!(status.members.iter().all(|m| m.role == MemberRole::InSync));
        assert_ne!(status.state, ArrayState::Broken);
        let told = |n: &Notice| {
            matches!(
                n,
                Notice::BadBlocks {
                    member: MemberId(1),
                    ..
                }
            )
        };
        assert!(world.notices.iter().any(told));
        assert!(world.read(0, sectors as u32).expect("read") == model);
        // A kill changes nothing about it: the log is on the disk.
        world.kill();
        world.begin();
        world.pass(60);
        assert!(world.read(0, sectors as u32).expect("read") == model);
        // The bits do not stay for it.
        world.pass(60);
        assert_eq!(
            world.array().status().state,
            ArrayState::Clean,
            "{:?}",
            shape.level
        );
        // Once the sectors take data again, a write takes them out.
        world
            .disks
            .get_mut(&MemberId(1))
            .expect("a disk")
            .worn
            .clear();
        world.write(0, &model).expect("written");
        assert!(logged(&world, 1).is_empty(), "{:?}", shape.level);
    }
}

/// The power goes at every I/O of it. Written and answered, it is read; and the member that
/// refused it gives nothing old on its own.
#[test]
fn a_crash_at_any_moment_keeps_what_was_answered() {
    for shape in few() {
        let mut answered = 0;
        for crash in 0..400 {
            let (mut world, old) = filled(&shape);
            wear(&mut world, 0, 8..12);
            let new = content(9, 64);
            world.power_for = Some(crash);
            let well = world.write_in_the_dark(0, &new);
            let dark = world.dark;
            answered += u32::from(well);
            world.kill();
            world.begin();
            world.pass(60);
            let len = old.len() as u32 / 512;
            let mut read = world.read(0, len).expect("nobody is lost");
            if well {
                assert!(read[..new.len()] == new, "{:?} {crash}", shape.level);
            } else {
                // Each sector is the old one, or the new one.
                for at in (0..new.len()).step_by(512) {
                    let sector = at..at + 512;
                    let fits = read[sector.clone()] == new[sector.clone()]
                        || read[sector.clone()] == old[sector.clone()];
                    assert!(fits, "{:?} {crash}", shape.level);
                }
            }
            assert!(read[new.len()..] == old[new.len()..]);
            if shape.level == Level::Raid1 {
                // Alone it says so, or gives what was read a moment ago.
                world.kill();
                world.disks.retain(|id, _| *id == MemberId(0));
                let wish = Wish {
                    run: true,
                    ..Wish::default()
                };
                world.start(&wish, Options::default()).expect("starts");
                for at in 0..64 {
                    if let Ok(found) = world.read(at, 1) {
                        let there = at as usize * 512;
                        read.rotate_left(there);
                        assert!(found == read[..512], "{crash}: sector {at}");
                        read.rotate_right(there);
                    }
                }
            }
            if !dark {
                break;
            }
        }
        assert!(answered > 0, "{:?}", shape.level);
    }
}

/// Two members of a mirror refuse the same sectors: the first is recorded, the second cannot be.
#[test]
fn the_last_one_that_holds_a_sector_is_not_recorded() {
    let (mut world, model) = filled(&Shape::mirror(2));
    wear(&mut world, 0, 8..9);
    world.write(0, &model[..32 * 512]).expect("written");
    assert_eq!(logged(&world, 0).sectors(), 1);
    // Other sectors of the other one may be.
    wear(&mut world, 1, 10..11);
    world.write(0, &model[..32 * 512]).expect("written");
    assert_eq!(logged(&world, 1).sectors(), 1);
    assert!(world.read(0, 64).expect("read") == model[..64 * 512]);
    // Not these.
    wear(&mut world, 1, 8..9);
    assert!(world.write(8, &model[..512]).is_err(), "nobody holds it");
    assert_eq!(role(&mut world, 1), MemberRole::Faulty);
    assert!(world.read(8, 1).is_err(), "never what was there before");
    let lost =
        |n: &Notice| matches!(n, Notice::Message(text) if text.contains("on this one alone"));
    assert!(world.notices.iter().any(lost));
    assert!(world.read(9, 55).expect("read") == model[9 * 512..64 * 512]);
}

/// What a second failure takes along is an error, exactly there, until it is written.
#[test]
fn a_second_failure_makes_unreadable_what_only_it_held() {
    let (mut world, model) = filled(&Shape::mirror(2));
    wear(&mut world, 1, 8..12);
    world.write(0, &model[..32 * 512]).expect("written");
    world.control(Control::Fail(MemberId(0))).expect("failed");
    for at in 0..64 {
        assert_eq!(world.read(at, 1).is_err(), (8..12).contains(&at), "{at}");
    }
    assert!(world.read(12, 52).expect("read") == model[12 * 512..64 * 512]);
    // With parity the whole row is short of one.
    let (mut world, model) = filled(&Shape::parity(Level::Raid6, 4));
    wear(&mut world, 1, 3..4);
    world.write(0, &model).expect("written");
    let len = model.len() as u32 / 512;
    world.control(Control::Fail(MemberId(0))).expect("failed");
    assert!(world.read(0, len).expect("one more") == model);
    world.control(Control::Fail(MemberId(2))).expect("failed");
    let lost: Vec<u32> = (0..len)
        .filter(|at| world.read(u64::from(*at), 1).is_err())
        .collect();
    assert!(!lost.is_empty() && lost.len() <= 3, "{lost:?}");
}

/// While an answer waits for the log, the only member that held the data goes: then nobody has it.
#[test]
fn an_answer_is_refused_when_who_held_it_fails_meanwhile() {
    let (mut world, model) = filled(&Shape::mirror(2));
    wear(&mut world, 1, 8..12);
    world.holds = Some(Purpose::BadBlocks);
    let late = world.submit(RequestOp::Write {
        offset_sectors: 0,
        data: world.pool.copy_of(&content(3, 32)),
        fua: false,
    });
    assert!(!world.is_answered(late), "the log is on its way");
    world.ask(Control::Fail(MemberId(0)));
    world.release_back();
    assert!(world.reply(late).is_err(), "some of it is nowhere");
    assert!(world.read(8, 4).is_err());
    assert!(world.read(32, 32).expect("read") == model[32 * 512..64 * 512]);
}

/// One leg refuses a sector, and another one vanishes with the same write: nobody is written again
/// before superblocks know who is gone.
#[test]
fn a_refused_write_goes_on_once_who_failed_beside_it_is_recorded() {
    let (mut world, _) = filled(&Shape::mirror(3));
    wear(&mut world, 1, 8..9);
    world.disks.get_mut(&MemberId(2)).expect("a disk").gone = true;
    world.holds = Some(Purpose::Super);
    let written = world.disks[&MemberId(1)].writes;
    let late = world.submit(RequestOp::Write {
        offset_sectors: 0,
        data: world.pool.copy_of(&content(3, 32)),
        fua: false,
    });
    assert!(!world.is_answered(late), "superblocks are on their way");
    assert_eq!(role(&mut world, 2), MemberRole::Faulty);
    assert_eq!(world.disks[&MemberId(1)].writes, written + 1);
    world.release_back();
    assert!(world.reply(late).is_ok(), "two legs hold the rest");
    assert!(world.disks[&MemberId(1)].writes > written + 2);
    assert_eq!(logged(&world, 1).sectors(), 1);
}

/// A leg that is to fail fast stays where it alone holds something.
#[test]
fn failing_fast_takes_nothing_along() {
    let fast = |world: &mut World| {
        let wish = FlagWish {
            write_mostly: None,
            failfast: Some(true),
        };
        world
            .control(Control::Flags(MemberId(0), wish))
            .expect("set");
    };
    let (mut world, model) = filled(&Shape::mirror(2));
    fast(&mut world);
    wear(&mut world, 1, 20..21);
    wear(&mut world, 0, 8..9);
    world.write(20, &model[..512]).expect("recorded");
    world.write(8, &model[..512]).expect("recorded, too");
    assert_eq!(role(&mut world, 0), MemberRole::InSync);
    assert!(world.read(20, 1).is_ok());
    // Without that it goes at the first trouble.
    let (mut world, model) = filled(&Shape::mirror(2));
    fast(&mut world);
    wear(&mut world, 0, 8..9);
    world
        .write(8, &model[..512])
        .expect("the other one holds it");
    assert_eq!(role(&mut world, 0), MemberRole::Faulty);
}

/// No log, no room in it, no sector error, no redundancy to spare: the member fails as ever.
#[test]
fn otherwise_the_member_fails() {
    let fails = |world: &mut World, model: &[u8]| {
        world
            .write(0, &model[..32 * 512])
            .expect("the other one holds it");
        assert_eq!(role(world, 1), MemberRole::Faulty);
    };
    let (mut world, model) = filled(&Shape {
        format: Format::V1_0,
        ..Shape::mirror(2)
    });
    wear(&mut world, 1, 8..9);
    fails(&mut world, &model);
    let (mut world, model) = filled(&Shape::mirror(2));
    world.disks.get_mut(&MemberId(1)).expect("a disk").gone = true;
    fails(&mut world, &model);
    // Every second sector: more than a log names, and more than a bad spot is.
    let (mut world, model) = filled(&Shape::mirror(2));
    let sectors = world.array().array_sectors();
    for at in (0..sectors).step_by(2) {
        wear(&mut world, 1, at..at + 1);
    }
    world.write(0, &model).expect("the other one holds it");
    assert_eq!(role(&mut world, 1), MemberRole::Faulty);
    // The last one: the array is broken, not recorded as bad.
    let (mut world, model) = filled(&Shape::mirror(2));
    world.control(Control::Fail(MemberId(0))).expect("failed");
    wear(&mut world, 1, 8..9);
    assert!(world.write(0, &model[..32 * 512]).is_err());
    assert_eq!(world.array().status().state, ArrayState::Broken);
    assert!(logged(&world, 1).is_empty());
}

/// A log takes 512 ranges, or what is left of it.
#[test]
fn a_full_log_costs_the_member() {
    let (mut world, model) = filled(&Shape::mirror(2));
    let sectors = world.array().array_sectors();
    let options = Options {
        max_read_errors: 100_000,
        ..Options::default()
    };
    world.stop();
    world.start(&Wish::default(), options).expect("starts");
    let mut recorded = 0;
    for at in (0..sectors.min(1100)).step_by(2) {
        wear(&mut world, 1, at..at + 1);
        world
            .write(at, &model[..1024])
            .expect("the other one holds it");
        if role(&mut world, 1) == MemberRole::Faulty {
            break;
        }
        recorded += 1;
    }
    assert_eq!(recorded, 512);
}

/// A disk that goes on refusing is dying, and is failed while the others hold everything.
#[test]
fn a_disk_that_goes_on_refusing_is_failed() {
    let (mut world, model) = filled(&Shape::mirror(2));
    wear(&mut world, 0, 500..501);
    world.write(500, &model[..512]).expect("written");
    let mut writes = 0;
    for at in (0..400).step_by(4) {
        wear(&mut world, 1, at..at + 1);
        world
            .write(at, &model[..512])
            .expect("the other one holds it");
        world.pass(2);
        writes += 1;
        assert!(writes < 80, "it is kept for what it alone has: {writes}");
        if writes > 30 {
            break;
        }
    }
    // It alone has sector 500.
    assert_eq!(role(&mut world, 1), MemberRole::InSync);
    world
        .disks
        .get_mut(&MemberId(0))
        .expect("a disk")
        .worn
        .clear();
    world.write(500, &model[..512]).expect("written");
    wear(&mut world, 1, 402..403);
    world
        .write(402, &model[..512])
        .expect("the other one holds it");
    assert_eq!(role(&mut world, 1), MemberRole::Faulty);
    assert!(world.read(0, 4).is_ok());
}

/// What cannot be read and not be written again is recorded, too; a repair takes out what it can.
#[test]
fn a_rewrite_that_is_refused_is_recorded() {
    for shape in [Shape::mirror(2), Shape::parity(Level::Raid5, 3)] {
        let (mut world, model) = filled(&shape);
        let len = model.len() as u32 / 512;
        let offset = world.superblock(0).fields.data_offset_sectors;
        let there = world.disks.get_mut(&MemberId(0)).expect("a disk");
        there.bad.insert(offset + 9);
        there.worn.insert(offset + 9);
        assert!(world.read(0, len).expect("read") == model);
        let repair = |world: &mut World| {
            let repair = SyncRequest::Start(SyncAction::Repair);
            world.control(Control::Sync(repair)).expect("repairs");
            world.pass(60);
        };
        repair(&mut world);
        assert_eq!(role(&mut world, 0), MemberRole::InSync, "{:?}", shape.level);
        assert!(logged(&world, 0).covers(offset + 9, offset + 10));
        assert!(logged(&world, 0).sectors() <= 8, "{:?}", shape.level);
        assert!(world.read(0, len).expect("read") == model);
        world
            .disks
            .get_mut(&MemberId(0))
            .expect("a disk")
            .worn
            .clear();
        repair(&mut world);
        assert!(logged(&world, 0).is_empty());
    }
}
