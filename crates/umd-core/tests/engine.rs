//! The engine from end to end, on perfect disks.

mod admin;
mod behind;
mod commit;
mod failfast;
mod faulty;
mod flags;
mod gather;
mod legs;
mod marks;
mod old;
mod places;
mod progress;
mod read_errors;
mod rebit;
mod records;
mod rest;
mod resume;
mod rungs;
mod shown;
mod states;
mod swap;
mod together;
mod untrusted;
mod world;

use umd_core::array::{
    ArrayState, Command, Completion, Control, Event, IoDone, IoError, IoOp, MemberRole, Notice,
    Options, Reply, Request, RequestError, RequestOp, SyncRequest,
};
use umd_core::assembly::Wish;
use umd_core::sync::SyncAction;
use umd_core::value::{ControlId, IoId, MAX_SECTOR, MemberId, RepairWay, RequestId, Slot};
use umd_format::{Format, Level};
use world::{Lcg, Shape, World, redundancy, shapes};

/// Writes at random places, keeping a copy to compare with.
fn scribble(world: &mut World, copy: &mut [u8], rng: &mut Lcg, times: u32) {
    let sectors = copy.len() as u64 / 512;
    for _ in 0..times {
        let len = 1 + rng.below(64);
        let at = rng.below(sectors - len);
        let byte = rng.below(256) as u8;
        let bytes: Vec<u8> = (0..len * 512).map(|i| byte ^ (i / 512) as u8).collect();
        world.write(at, &bytes).expect("written");
        copy[at as usize * 512..][..bytes.len()].copy_from_slice(&bytes);
    }
}

fn verify(world: &mut World, copy: &[u8]) {
    let sectors = copy.len() as u64 / 512;
    let mut at = 0;
    while at < sectors {
        let len = (sectors - at).min(777);
        let got = world.read(at, len as u32).expect("read");
        assert!(
            got == copy[at as usize * 512..(at + len) as usize * 512],
            "data at {at}"
        );
        at += len;
    }
}

fn whole(world: &mut World) -> Vec<u8> {
    let sectors = world.array().array_sectors();
    world.read(0, sectors as u32).expect("read all")
}

#[test]
fn data_survives_every_tolerable_loss_and_rebuild() {
    for shape in shapes() {
        let name = format!(
            "{:?} layout {} bitmap {}",
            shape.level, shape.layout, shape.bitmap
        );
        let mut world = World::running(&shape);
        let mut copy = whole(&mut world);
        let mut rng = Lcg(u64::from(shape.layout) + 5);
        scribble(&mut world, &mut copy, &mut rng, 60);
        verify(&mut world, &copy);
        if !shape.level.is_redundant() {
            world.stop();
            continue;
        }
        assert_eq!(world.mismatch(), 0, "{name}");
        for lost in 0..redundancy(&shape) {
            world
                .control(Control::Fail(MemberId(u32::from(lost))))
                .expect("failed");
            verify(&mut world, &copy);
            scribble(&mut world, &mut copy, &mut rng, 40);
            verify(&mut world, &copy);
        }
        assert_eq!(
            world.array().status().degraded,
            redundancy(&shape),
            "{name}"
        );
        for lost in 0..redundancy(&shape) {
            world
                .control(Control::Remove(MemberId(u32::from(lost))))
                .expect("removed");
            world.add(100 + u32::from(lost)).expect("added");
            scribble(&mut world, &mut copy, &mut rng, 10);
        }
        world.pass(20);
        let status = world.array().status();
        assert_eq!(status.degraded, 0, "{name} {status:?}");
        verify(&mut world, &copy);
        assert_eq!(world.mismatch(), 0, "{name}");
        world.stop();
        world.begin();
        assert_eq!(world.array().status().state, ArrayState::Clean);
        verify(&mut world, &copy);
        world.stop();
    }
}

#[test]
fn a_stopped_array_is_clean_and_its_bitmap_empty() {
    for shape in shapes().into_iter().filter(|s| s.level.is_redundant()) {
        let mut world = World::running(&shape);
        world.write(5, &[1; 4096]).expect("written");
        assert_eq!(world.array().status().state, ArrayState::Active);
        assert_eq!(
            world.superblock(0).fields.resync_offset_sectors,
            0,
            "active is recorded"
        );
        world.stop();
        for disk in 0..u32::from(shape.disks) {
            let fields = world.superblock(disk).fields;
            assert_eq!(fields.resync_offset_sectors, MAX_SECTOR);
            if let Some(at) = fields.bitmap_sector() {
                // Ten regions of 64 KiB at the most: bits behind the last one stay set for ever.
                let bits = at as usize * 512 + 256;
                assert_eq!(world.disks[&MemberId(disk)].bytes[bits], 0);
            }
        }
        assert_eq!(world.released.len(), usize::from(shape.disks));
    }
}

#[test]
fn read_errors_are_reconstructed_and_rewritten() {
    for shape in shapes().into_iter().filter(|s| s.level.is_redundant()) {
        let mut world = World::running(&shape);
        let copy = whole(&mut world);
        let offset = world.superblock(1).fields.data_offset_sectors;
        let bad = &mut world.disks.get_mut(&MemberId(1)).expect("disk").bad;
        bad.extend(offset..offset + 40);
        verify(&mut world, &copy);
        // What host reads did not come across (parity, other legs) a check does.
        assert_eq!(world.mismatch(), 0);
        assert!(
            world.disks[&MemberId(1)].bad.is_empty(),
            "everything unreadable was rewritten"
        );
        let status = world.array().status();
        assert!(status.members[1].corrected_read_errors > 0);
        assert_eq!(status.degraded, 0);
        verify(&mut world, &copy);
    }
}

#[test]
fn a_member_that_vanishes_is_failed_and_service_goes_on() {
    for shape in shapes().into_iter().filter(|s| s.level.is_redundant()) {
        let mut world = World::running(&shape);
        let mut copy = whole(&mut world);
        world.disks.get_mut(&MemberId(0)).expect("disk").gone = true;
        let mut rng = Lcg(9);
        scribble(&mut world, &mut copy, &mut rng, 30);
        verify(&mut world, &copy);
        let status = world.array().status();
        assert_eq!(status.members[0].role, MemberRole::Faulty);
        assert!(
            world
                .notices
                .iter()
                .any(|n| matches!(n, Notice::Failed { .. }))
        );
        world.stop();
        // It comes back with old data: never trusted, however close its events are.
        world.disks.get_mut(&MemberId(0)).expect("disk").gone = false;
        world.begin();
        assert_eq!(world.array().status().degraded, 1);
        verify(&mut world, &copy);
        world.stop();
    }
}

#[test]
fn losing_too_many_refuses_writes_and_loses_nothing() {
    for shape in shapes() {
        let mut world = World::running(&shape);
        for disk in 0..=u32::from(redundancy(&shape)) {
            world.disks.get_mut(&MemberId(disk)).expect("disk").gone = true;
        }
        let all = vec![3; world.array().array_sectors() as usize * 512];
        assert!(matches!(world.write(0, &all), Err(RequestError::Io(_))));
        assert!(matches!(
            world.write(0, &[1; 512]),
            Err(RequestError::Io(_))
        ));
        assert_eq!(world.array().status().state, ArrayState::Broken);
        world.stop();
    }
}

#[test]
fn an_unclean_array_is_resynced() {
    for shape in shapes().into_iter().filter(|s| s.level.is_redundant()) {
        let mut world = World::create(&shape);
        world.begin();
        world.pass(30);
        world.write(5, &[1; 4096]).expect("written");
        // The process dies; one member had written something else.
        world.array = None;
        world.timers.clear();
        let offset = world.superblock(1).fields.data_offset_sectors as usize * 512;
        world.disks.get_mut(&MemberId(1)).expect("disk").bytes[offset + 3000] ^= 1;
        world.begin();
        assert!(world.array().status().sync.is_some(), "a resync runs");
        let before = whole(&mut world);
        world.pass(1);
        assert!(world.array().status().sync.is_none());
        assert_eq!(world.mismatch(), 0);
        verify(&mut world, &before);
        world.stop();
    }
}

#[test]
fn repair_mends_what_check_counts() {
    for shape in shapes().into_iter().filter(|s| s.level.is_redundant()) {
        let mut world = World::running(&shape);
        let offset = world.superblock(1).fields.data_offset_sectors as usize * 512;
        world.disks.get_mut(&MemberId(1)).expect("disk").bytes[offset + 8192] ^= 0xff;
        let unit = match shape.level {
            Level::Raid1 => 128,
            Level::Raid10 => 16,
            _ => 8,
        };
        assert_eq!(world.mismatch(), unit, "{:?} {}", shape.level, shape.layout);
        world
            .control(Control::Sync(SyncRequest::Start(SyncAction::Repair)))
            .expect("repair");
        world.pass(1);
        assert_eq!(world.mismatch(), 0);
    }
}

/// Changes a byte of a member's data.
fn rot(world: &mut World, member: u32, at: usize) {
    let fields = &world.superblock(member).fields;
    let offset = fields.data_offset_sectors as usize * 512;
    let disk = world.disks.get_mut(&MemberId(member)).expect("disk");
    disk.bytes[offset + at] ^= 0x5a;
}

fn repair(world: &mut World, way: RepairWay) {
    world
        .control(Control::Sync(SyncRequest::Repair(way)))
        .expect("repair");
    world.pass(1);
}

fn six(layout: u32) -> Shape {
    Shape {
        level: Level::Raid6,
        layout,
        disks: 5,
        chunk_sectors: 16,
        bitmap: true,
        format: Format::V1_2,
        assume_clean: false,
    }
}

#[test]
fn a_check_of_raid6_names_the_member_that_is_wrong_and_repair_mends_it() {
    for layout in [2, 0, 9, 16] {
        for member in 0..5 {
            let mut world = World::running(&six(layout));
            let mut copy = whole(&mut world);
            scribble(&mut world, &mut copy, &mut Lcg(9), 30);
            rot(&mut world, member, 3 * 8192 + 4096 + 100);
            assert_eq!(world.mismatch(), 8);
            let [found] = &world.array().status().mismatches[..] else {
                panic!("one place differs");
            };
            assert_eq!(found.wrong, [Slot(member as u16)], "{layout}");
            assert_eq!((found.len_sectors, found.repaired), (8, false));
            assert!(found.members.contains(&(Slot(member as u16), 56)));
            for sector in &found.array_sectors {
                let at = *sector as usize * 512;
                let read = world.read(*sector, 8).expect("read");
                assert_ne!(read, copy[at..at + 4096]);
            }
            repair(&mut world, RepairWay::Judged);
            assert!(world.array().status().mismatches[0].repaired);
            assert_eq!(world.mismatch(), 0);
            verify(&mut world, &copy);
        }
    }
}

/// A resync that met sectors nobody can read waits for an administrator. Until it has passed,
/// members that differ are what a crash left, and nobody is called wrong.
#[test]
fn nobody_is_wrong_where_a_resync_is_owed() {
    let shape = Shape {
        bitmap: false,
        ..six(2)
    };
    // Longer than what a resync has under way when it meets the first row.
    let mut world = World::create_sized(&shape, 64 << 20);
    world.begin();
    world.pass(1);
    // A crash while it was active.
    world.write(0, &[7; 512]).expect("written");
    world.array = None;
    world.timers.clear();
    for disk in 0..3u32 {
        let offset = world.superblock(disk).fields.data_offset_sectors;
        let bad = &mut world.disks.get_mut(&MemberId(disk)).expect("disk").bad;
        bad.insert(offset + 3);
    }
    world.begin();
    world.pass(1);
    assert!(world.array().status().sync_pending, "the resync gave up");
    rot(&mut world, 1, 60 << 20);
    assert_ne!(world.mismatch(), 0);
    let found = world.array().status().mismatches;
    assert!(
        found.iter().all(|place| place.wrong.is_empty()),
        "{found:?}"
    );
}

#[test]
fn a_plain_repair_believes_the_data() {
    let mut world = World::running(&six(2));
    let copy = whole(&mut world);
    // Slot 1 holds data in the first row.
    rot(&mut world, 1, 10);
    repair(&mut world, RepairWay::Plain);
    assert_eq!(world.mismatch(), 0);
    assert_ne!(whole(&mut world), copy);
}

#[test]
fn the_majority_of_three_mirrors_is_right() {
    for member in 0..3 {
        let mut world = World::running(&Shape {
            bitmap: false,
            assume_clean: false,
            ..Shape::mirror(3)
        });
        let mut copy = whole(&mut world);
        scribble(&mut world, &mut copy, &mut Lcg(4), 10);
        rot(&mut world, member, 70_000);
        assert_eq!(world.mismatch(), 128);
        let found = world.array().status().mismatches;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].wrong, [Slot(member as u16)]);
        assert_eq!(found[0].array_sectors, [128]);
        repair(&mut world, RepairWay::Judged);
        assert_eq!(world.mismatch(), 0);
        verify(&mut world, &copy);
    }
}

#[test]
fn two_mirrors_and_raid5_say_where_and_not_who() {
    for (level, disks, chunk_sectors) in [(Level::Raid1, 2, 0), (Level::Raid5, 3, 16)] {
        let mut world = World::running(&Shape {
            level,
            layout: if level == Level::Raid5 { 2 } else { 0 },
            disks,
            chunk_sectors,
            bitmap: false,
            format: Format::V1_2,
            assume_clean: false,
        });
        rot(&mut world, 1, 20_000);
        assert_ne!(world.mismatch(), 0);
        let found = world.array().status().mismatches;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].wrong, []);
        let near = |at: &u64| *at <= 2 * 39 && 39 < at + 128;
        assert!(found[0].array_sectors.iter().any(near), "{found:?}");
    }
}

#[test]
fn zeroes_and_trims_read_as_zeros() {
    for shape in shapes() {
        let mut world = World::running(&shape);
        let mut copy = whole(&mut world);
        let sectors = copy.len() as u64 / 512;
        for (offset_sectors, len_sectors) in [(3, 5), (7, 300), (0, sectors)] {
            let op = RequestOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                fua: true,
                may_unmap: true,
            };
            let id = world.submit(op);
            world.reply(id).expect("zeroed");
            copy[offset_sectors as usize * 512..][..len_sectors as usize * 512].fill(0);
            verify(&mut world, &copy);
        }
        let mut rng = Lcg(3);
        scribble(&mut world, &mut copy, &mut rng, 20);
        let op = RequestOp::Trim {
            offset_sectors: 1,
            len_sectors: sectors - 2,
            fua: false,
        };
        let id = world.submit(op);
        world.reply(id).expect("trimmed");
        if shape.level.is_redundant() {
            assert_eq!(world.mismatch(), 0);
        }
        world.stop();
    }
}

#[test]
fn a_degraded_array_stopped_in_the_middle_of_a_rebuild_goes_on() {
    let shape = Shape {
        level: Level::Raid5,
        layout: 2,
        disks: 3,
        chunk_sectors: 8,
        bitmap: true,
        format: Format::V1_2,
        assume_clean: true,
    };
    let mut world = World::create(&shape);
    world.begin();
    world
        .control(Control::Sync(SyncRequest::Start(SyncAction::Repair)))
        .expect("repair");
    world.pass(1);
    let copy = whole(&mut world);
    world.control(Control::Fail(MemberId(2))).expect("failed");
    world
        .control(Control::Remove(MemberId(2)))
        .expect("removed");
    world
        .control(Control::Sync(SyncRequest::Frozen))
        .expect("frozen");
    world.add(9).expect("added");
    assert_eq!(
        world.array().status().degraded,
        1,
        "frozen: nothing is rebuilt"
    );
    world.stop();
    world.disks.remove(&MemberId(2));
    world.begin();
    world.pass(1);
    assert_eq!(world.array().status().degraded, 0);
    verify(&mut world, &copy);
    assert_eq!(world.mismatch(), 0);
}

#[test]
fn a_returning_member_gets_only_what_it_missed() {
    let shape = Shape {
        assume_clean: false,
        ..Shape::mirror(2)
    };
    let mut world = World::create(&shape);
    world.begin();
    world.pass(30);
    let mut copy = whole(&mut world);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world
        .control(Control::Remove(MemberId(1)))
        .expect("removed");
    world.write(300, &[8; 4096]).expect("written");
    copy[300 * 512..300 * 512 + 4096].fill(8);
    let superblock = world.superblock(1);
    let disk = world.disks[&MemberId(1)].clone();
    world
        .disks
        .insert(MemberId(7), world::Disk { writes: 0, ..disk });
    world.disks.remove(&MemberId(1));
    let new = world.new_member(7, Some(superblock));
    world.control(Control::ReAdd(new)).expect("taken back");
    world.pass(1);
    assert_eq!(world.array().status().degraded, 0);
    assert_eq!(world.mismatch(), 0);
    verify(&mut world, &copy);
    assert!(
        world.disks[&MemberId(7)].writes < 12,
        "only the dirty region was copied"
    );
}

#[test]
fn read_only_arrays_are_never_written() {
    for shape in shapes() {
        let mut world = World::create(&shape);
        let before: Vec<Vec<u8>> = world.disks.values().map(|d| d.bytes.clone()).collect();
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        world
            .start(
                &Wish {
                    readonly: true,
                    ..Wish::default()
                },
                options,
            )
            .expect("started");
        let _ = whole(&mut world);
        assert_eq!(world.write(0, &[1; 512]), Err(RequestError::ReadOnly));
        let id = world.submit(RequestOp::Flush);
        assert!(matches!(world.reply(id), Ok(Reply::Done)));
        world.pass(60);
        world.stop();
        let after: Vec<Vec<u8>> = world.disks.values().map(|d| d.bytes.clone()).collect();
        assert!(before == after, "not a byte changed");
    }
}

#[test]
fn ranges_outside_the_array_are_refused() {
    let shape = &shapes()[1];
    let mut world = World::create(shape);
    world.begin();
    let end = world.array().array_sectors();
    assert_eq!(world.read(end, 1), Err(RequestError::OutOfRange));
    assert_eq!(world.read(end - 1, 2), Err(RequestError::OutOfRange));
    assert_eq!(world.read(u64::MAX, 2), Err(RequestError::OutOfRange));
    assert_eq!(world.write(end, &[0; 512]), Err(RequestError::OutOfRange));
}

#[test]
fn the_end_of_a_resync_is_recorded_also_right_after_a_checkpoint() {
    let shape = &shapes()[4];
    let mut world = World::create_sized(shape, 64 << 20);
    world.begin();
    world.pass(1);
    assert!(
        world.array().status().events.0 > 2,
        "there were checkpoints"
    );
    assert_eq!(world.superblock(0).fields.resync_offset_sectors, MAX_SECTOR);
    world.stop();
}

/// Each member has a bad sector, no two in the same place: everything is still there.
#[test]
fn scattered_bad_sectors_cost_nothing() {
    for shape in shapes().into_iter().filter(|s| s.level.is_redundant()) {
        let mut world = World::running(&shape);
        let mut copy = whole(&mut world);
        let break_some = |world: &mut World| {
            for disk in 0..u32::from(shape.disks) {
                let offset = world.superblock(disk).fields.data_offset_sectors;
                let bad = &mut world.disks.get_mut(&MemberId(disk)).expect("disk").bad;
                bad.insert(offset + 100 + u64::from(disk) * 24);
            }
        };
        break_some(&mut world);
        verify(&mut world, &copy);
        break_some(&mut world);
        scribble(&mut world, &mut copy, &mut Lcg(4), 60);
        verify(&mut world, &copy);
        break_some(&mut world);
        assert_eq!(world.mismatch(), 0, "{:?} {}", shape.level, shape.layout);
        assert!(
            world.disks.values().all(|d| d.bad.is_empty()),
            "a check mends them"
        );
        assert_eq!(world.array().status().degraded, 0);
        // The same in the middle of a resync, and of a rebuild.
        break_some(&mut world);
        world.array = None;
        world.timers.clear();
        world.begin();
        world.pass(1);
        verify(&mut world, &copy);
        world.stop();
    }
}

#[test]
fn a_member_whose_file_vanished_is_lost_at_once_and_read_while_it_lasts() {
    for shape in shapes() {
        let mut world = World::running(&shape);
        let copy = whole(&mut world);
        let lost = |id| Control::Lost(MemberId(id), "its file vanished".into());
        for disk in 0..=u32::from(redundancy(&shape)) {
            assert_ne!(world.array().status().state, ArrayState::Broken);
            world.control(lost(disk)).expect("noted");
        }
        assert_eq!(world.array().status().state, ArrayState::Broken);
        assert!(matches!(
            world.write(0, &[1; 512]),
            Err(RequestError::Io(_))
        ));
        verify(&mut world, &copy);
        world.stop();
    }
}

/// The members that `out` has flushes for, with the identity of each.
fn flushes(out: &[Command]) -> Vec<(MemberId, IoId)> {
    let flush = |command: &Command| match command {
        Command::Io(io) if matches!(io.op, IoOp::Flush) => Some((io.member, io.io)),
        _ => None,
    };
    out.iter().filter_map(flush).collect()
}

fn mirror() -> Shape {
    Shape {
        bitmap: false,
        ..Shape::mirror(2)
    }
}

#[test]
fn a_flush_is_answered_when_the_last_member_has_flushed() {
    let mut world = World::create(&mirror());
    world.begin();
    let now = world.now;
    let array = world.array();
    let mut step = |event: Event| {
        let mut out = Vec::new();
        array.handle(now, event, &mut out);
        out
    };
    let id = RequestId(1);
    let op = RequestOp::Flush;
    let out = step(Event::Request(Request { id, op }));
    let [(MemberId(0), first), (MemberId(1), second)] = flushes(&out)[..] else {
        panic!("{out:?}")
    };
    let flushed = |io: IoId| {
        let result = Ok(IoDone::Done);
        Event::Done(Completion { io, result })
    };
    let answered = |command: &Command| matches!(command, Command::Complete { result: Ok(_), .. });
    assert!(!step(flushed(second)).iter().any(answered));
    assert!(step(flushed(first)).iter().any(answered));
}

#[test]
fn many_readers_of_one_bad_sector_are_served_and_it_is_mended() {
    let mut world = World::running(&Shape {
        assume_clean: false,
        ..mirror()
    });
    let copy = whole(&mut world);
    for disk in 0..2u32 {
        let offset = world.superblock(disk).fields.data_offset_sectors;
        let bad = &mut world.disks.get_mut(&MemberId(disk)).expect("disk").bad;
        bad.insert(offset + 100 + 24 * u64::from(disk));
    }
    // All at once: the legs take turns, and whoever mends waits for who mends before.
    let read = |offset_sectors| RequestOp::Read {
        offset_sectors,
        len_sectors: 8,
    };
    let places = [96, 120].repeat(4);
    let ids: Vec<u64> = places.iter().map(|at| world.submit(read(*at))).collect();
    for id in ids {
        world.reply(id).expect("read");
    }
    assert!(world.disks.values().all(|disk| disk.bad.is_empty()));
    verify(&mut world, &copy);
}

/// An update is given up when the array breaks. The flush of a stop that follows at once must not
/// be taken for a part of it: what the member forgot would be read on.
#[test]
fn a_flush_that_fails_after_an_update_was_given_up_is_seen() {
    let mut world = World::create(&Shape {
        bitmap: false,
        ..Shape::mirror(2)
    });
    world.start(&Wish::default(), Options::default()).unwrap();
    let now = world.now;
    let array = world.array();
    let mut step = |event: Event| {
        let mut out = Vec::new();
        array.handle(now, event, &mut out);
        array.check_invariants();
        out
    };
    let ended = |io: IoId, result: Result<IoDone, IoError>| Event::Done(Completion { io, result });
    // The update that records a fault begins with a flush of the member that is left.
    let out = step(Event::Control(ControlId(1), Control::Fail(MemberId(1))));
    let [(MemberId(0), update)] = flushes(&out)[..] else {
        panic!("{out:?}")
    };
    step(Event::Control(
        ControlId(2),
        Control::Lost(MemberId(0), "deleted".into()),
    ));
    let out = step(Event::Control(ControlId(3), Control::ReadOnly(true)));
    assert!(flushes(&out).is_empty(), "{out:?}");
    let out = step(ended(update, Ok(IoDone::Done)));
    let [(MemberId(0), rest)] = flushes(&out)[..] else {
        panic!("{out:?}")
    };
    step(ended(rest, Err(IoError::Other("the cache is lost".into()))));
    let read = Request {
        id: RequestId(1),
        op: RequestOp::Read {
            offset_sectors: 0,
            len_sectors: 8,
        },
    };
    let out = step(Event::Request(read));
    let refused = |command: &Command| matches!(command, Command::Complete { result: Err(_), .. });
    assert!(out.iter().any(refused), "{out:?}");
}

#[test]
fn an_array_that_nobody_writes_to_is_called_clean_after_a_while() {
    let mut world = World::create(&Shape {
        bitmap: false,
        ..Shape::parity(Level::Raid5, 3)
    });
    world.start(&Wish::default(), Options::default()).unwrap();
    let mut copy = whole(&mut world);
    scribble(&mut world, &mut copy, &mut Lcg(1), 1);
    assert_eq!(world.array().status().state, ArrayState::Active);
    world.pass(1);
    assert_eq!(world.array().status().state, ArrayState::Clean);
    assert_eq!(world.superblock(0).fields.resync_offset_sectors, MAX_SECTOR);
}

#[test]
fn a_raid0_whose_layout_does_not_matter_shows_none() {
    let mut world = World::create(&Shape {
        level: Level::Raid0,
        layout: 0,
        disks: 2,
        chunk_sectors: 16,
        bitmap: false,
        format: Format::V1_2,
        assume_clean: true,
    });
    world.start(&Wish::default(), Options::default()).unwrap();
    assert_eq!(world.array().status().layout, -1);
}

/// Both writes are under way together; the second waits for the stripe of the first.
#[test]
fn writes_to_one_stripe_wait_for_each_other_and_both_end() {
    for level in [Level::Raid1, Level::Raid5] {
        let mut world = World::create(&Shape {
            level,
            layout: if level == Level::Raid5 { 2 } else { 0 },
            disks: 3,
            chunk_sectors: if level == Level::Raid5 { 16 } else { 0 },
            bitmap: false,
            format: Format::V1_2,
            assume_clean: true,
        });
        world.start(&Wish::default(), Options::default()).unwrap();
        let mut write = |offset_sectors, byte| {
            let data = world.pool.copy_of(&[byte; 4096]);
            world.submit(RequestOp::Write {
                offset_sectors,
                data,
                fua: false,
            })
        };
        let (first, second) = (write(0, 1), write(4, 2));
        world.reply(first).unwrap();
        world.reply(second).unwrap();
        let read = world.read(0, 12).unwrap();
        assert!(read[..2048].iter().all(|byte| *byte == 1));
        assert!(read[2048..].iter().all(|byte| *byte == 2));
    }
}
