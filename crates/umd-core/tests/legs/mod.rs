//! Who is read and written when some of the members cannot be, here and there.

use umd_core::array::{
    Completion, Control, Event, IoDone, Notice, Options, Purpose, Reply, RequestError, RequestOp,
    SyncLimits, SyncRequest,
};
use umd_core::assembly::Wish;
use umd_core::value::{Extent, MemberId};
use umd_format::v1::Features;
use umd_format::{Format, Level};

use crate::world::{DISK_BYTES, Shape, World, shapes};

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);

/// These sectors of the members' data cannot be read.
fn spoil(world: &mut World, bad: &[(u32, u64)]) {
    for (id, sector) in bad {
        let from = world.superblock(*id).fields.data_offset_sectors;
        let disk = world.disks.get_mut(&MemberId(*id)).expect("a disk");
        disk.bad.insert(from + sector);
    }
}

fn data(sectors: u64) -> Vec<u8> {
    (0..sectors * 512)
        .map(|i| (i * 31 % 241) as u8 ^ (i >> 9) as u8)
        .collect()
}

fn writes(world: &World) -> u64 {
    world.disks.values().map(|disk| disk.writes).sum()
}

/// Nothing is computed that can be read, and nobody is asked twice.
#[test]
fn each_sector_of_a_whole_array_is_read_once() {
    for shape in shapes()
        .into_iter()
        .filter(|shape| shape.format == Format::V1_1)
    {
        let mut world = World::running(&shape);
        let size = world.array().array_sectors();
        for disk in world.disks.values_mut() {
            disk.read_sectors = 0;
        }
        world.read(0, size as u32).expect("read");
        let read: u64 = world.disks.values().map(|disk| disk.read_sectors).sum();
        assert_eq!(read, size, "{} {}", shape.level, shape.layout);
    }
}

/// Whoever reads the error has to know which disk to look at.
#[test]
fn an_error_names_the_member_that_cannot_be_read() {
    for level in [Level::Linear, Level::Raid0] {
        let mut world = World::running(&Shape {
            level,
            chunk_sectors: 16,
            bitmap: false,
            ..Shape::mirror(2)
        });
        let size = world.array().array_sectors();
        let last = if level == Level::Linear { size - 1 } else { 16 };
        let from = world.superblock(1).fields.data_offset_sectors;
        let disk = world.disks.get_mut(&SECOND).expect("a disk");
        disk.bad.extend(from..from + size);
        let Err(RequestError::Io(why)) = world.read(last, 1) else {
            panic!("{level}: nobody else has it")
        };
        assert!(why.contains("member d1 cannot be read"), "{level}: {why}");
    }
}

/// Each leg has lost another sector: together they have all of it, and mend each other.
#[test]
fn two_legs_that_lost_different_sectors_are_as_good_as_one() {
    let mut world = World::running(&Shape::mirror(2));
    world.write(0, &data(64)).expect("written");
    spoil(&mut world, &[(0, 3), (1, 40), (1, 41)]);
    assert!(world.read(0, 64).expect("read") == data(64));
    let left: usize = world.disks.values().map(|disk| disk.bad.len()).sum();
    assert!(left < 3, "what could not be read is written again");
    spoil(&mut world, &[(0, 9), (1, 9)]);
    world.read(0, 64).expect_err("nobody holds that one");
    assert!(world.read(0, 9).expect("read") == data(64)[..9 * 512]);
}

/// The same of a row: two of its members have lost a sector, but not the same one.
#[test]
fn a_row_that_lost_different_sectors_is_read_in_parts() {
    let mut world = World::running(&Shape::parity(Level::Raid5, 3));
    let sectors = world.array().array_sectors();
    world.write(0, &data(sectors)).expect("written");
    spoil(&mut world, &[(0, 3), (1, 9)]);
    let read = world.read(0, 32).expect("each block has two members");
    assert!(read == data(sectors)[..32 * 512]);
    // A sector that two have lost is lost. What lies around it is not.
    spoil(&mut world, &[(0, 100), (1, 100)]);
    let lost: Vec<u64> = (192..224)
        .filter(|at| world.read(*at, 1).is_err())
        .collect();
    assert_eq!(lost, [196, 212], "the row of that sector");
    let error = world.read(192, 32).expect_err("told");
    assert!(error.to_string().contains("too many members"), "{error}");
}

/// A chunk is written. Old data there cannot be read in one block, nor the other chunk in another:
/// no way to new parity goes for all of it, but there is one for each block.
#[test]
fn a_row_that_lost_different_sectors_is_written_in_parts() {
    let mut world = World::running(&Shape::parity(Level::Raid5, 3));
    let sectors = world.array().array_sectors();
    let mut wanted = data(sectors);
    world.write(0, &wanted).expect("written");
    spoil(&mut world, &[(0, 3), (1, 9)]);
    world
        .write(0, &[9; 16 * 512])
        .expect("each block can be had");
    wanted[..16 * 512].fill(9);
    assert!(world.read(0, sectors as u32).expect("read") == wanted);
    for id in [FIRST, SECOND] {
        let mut left = World::over(world.disks.clone());
        left.begin();
        left.control(Control::Fail(id)).expect("failed");
        assert!(left.read(0, sectors as u32).expect("read") == wanted);
    }
}

/// Not a byte of a read-only array changes, also where it could be mended.
#[test]
fn what_cannot_be_read_is_not_mended_in_a_read_only_array() {
    for shape in [Shape::mirror(2), Shape::parity(Level::Raid5, 3)] {
        let mut world = World::running(&shape);
        world.write(0, &data(64)).expect("written");
        world.stop();
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        world.start(&Wish::default(), options).expect("started");
        spoil(&mut world, &[(0, 3)]);
        let before = writes(&world);
        for _ in 0..3 {
            assert!(world.read(0, 64).expect("read") == data(64));
        }
        assert_eq!(writes(&world), before, "{}", shape.level);
        assert!(!world.disks[&FIRST].bad.is_empty());
    }
}

/// One stream stays on one disk, whose head need not move.
#[test]
fn who_reads_on_is_served_by_the_same_leg() {
    let mut world = World::running(&Shape::mirror(2));
    let reads = |world: &World| [FIRST, SECOND].map(|id| world.disks[&id].reads);
    let before = reads(&world);
    for at in (64..640).step_by(64) {
        world.read(at, 64).expect("read");
    }
    let mut grown: Vec<u64> = reads(&world)
        .iter()
        .zip(before)
        .map(|(a, b)| a - b)
        .collect();
    grown.sort_unstable();
    assert_eq!(grown, [0, 9]);
}

/// Only a write-mostly leg is whole. The other one is being filled: nobody may see what it holds.
#[test]
fn a_leg_that_is_being_filled_is_not_read_for_a_slow_one() {
    let mut world = World::create_with(&Shape::mirror(2), DISK_BYTES, 2, 0);
    world.begin();
    world.write(0, &data(1152)).expect("written");
    world.control(Control::Fail(FIRST)).expect("failed");
    world.control(Control::Remove(FIRST)).expect("removed");
    let limit = SyncLimits {
        to_sectors: Some(128),
        ..SyncLimits::default()
    };
    world
        .control(Control::Limits(limit, None))
        .expect("limited");
    world.add(7).expect("added");
    world.pass(1);
    assert!(world.read(0, 1152).expect("read") == data(1152));
    assert!(world.read(1000, 8).expect("read") == data(1152)[1000 * 512..1008 * 512]);
}

/// Nobody vouches for what only a member took that is still being rebuilt: it may be thrown away.
#[test]
fn a_write_that_only_a_rebuilt_member_took_is_not_there() {
    let mut world = World::running(&Shape::mirror(2));
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    let limit = SyncLimits {
        to_sectors: Some(256),
        ..SyncLimits::default()
    };
    world
        .control(Control::Limits(limit, None))
        .expect("limited");
    world.add(7).expect("added");
    world.pass(1);
    world.disks.get_mut(&FIRST).expect("a disk").stuck = true;
    world
        .write(8, &[7; 512])
        .expect_err("nobody in sync holds it");
    let broken = |notice: &Notice| matches!(notice, Notice::Broken(_));
    assert!(world.notices.iter().any(broken));
}

/// Of two pairs one has lost a leg. In the other one members are still made to agree, so that what
/// was read stays when one of them dies.
#[test]
fn a_pair_is_made_to_agree_although_another_is_degraded() {
    let mut world = World::create(&Shape {
        level: Level::Raid10,
        layout: 0x102,
        chunk_sectors: 16,
        assume_clean: false,
        bitmap: false,
        ..Shape::mirror(4)
    });
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    world.drain();
    world.control(Control::Fail(FIRST)).expect("failed");
    // The second chunk lies on the second pair.
    let read = world.read(16, 16).expect("read");
    world.control(Control::Fail(MemberId(2))).expect("failed");
    assert!(world.read(16, 16).expect("read") == read);
}

/// Where a member cannot keep its bad-block log it is out, and its administrator reads why.
#[test]
fn a_member_that_cannot_keep_its_log_says_so() {
    let mut world = World::running(&Shape {
        bitmap: false,
        ..Shape::mirror(3)
    });
    world.write(0, &data(64)).expect("written");
    for id in [1, 2] {
        world.control(Control::Fail(MemberId(id))).expect("failed");
        world
            .control(Control::Remove(MemberId(id)))
            .expect("removed");
    }
    spoil(&mut world, &[(0, 3)]);
    world.holds = Some(Purpose::BadBlocks);
    world.add(7).expect("added");
    world.pass(1);
    assert!(
        !world.kept_back.is_empty(),
        "what cannot be copied is noted"
    );
    world.disks.get_mut(&MemberId(7)).expect("a disk").gone = true;
    world.release_back();
    let status = world.array().status();
    let new = status.members.iter().find(|m| m.id == MemberId(7));
    let fault = new.expect("it is shown").fault.clone().expect("it failed");
    assert!(fault.contains("bad-block log cannot be written"), "{fault}");
    assert!(
        !world
            .superblock(0)
            .fields
            .features
            .contains(Features::BAD_BLOCKS)
    );
}

/// The array broke while superblocks were written. A spare with more events than all members that
/// hold data would make these look stale.
#[test]
fn a_spare_does_not_outrun_members_that_hold_data() {
    let mut world = World::running(&Shape {
        bitmap: false,
        ..Shape::mirror(2)
    });
    world.add(7).expect("added");
    world.pass(10);
    let before = world.superblock(7).fields.events;
    world.holds = Some(Purpose::Super);
    let data = world.pool.copy_of(&[1; 512]);
    let write = world.submit(RequestOp::Write {
        offset_sectors: 0,
        data,
        fua: false,
    });
    assert!(!world.is_answered(write));
    for id in [FIRST, SECOND] {
        world.disks.get_mut(&id).expect("a disk").gone = true;
    }
    world.release_back();
    world.reply(write).expect_err("it broke");
    assert_eq!(world.superblock(7).fields.events, before);
}

/// One member is asked what is allocated; where it answers for a part only, so does the array.
#[test]
fn what_is_allocated_is_asked_of_one_member() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    world.holds = Some(Purpose::Query);
    let query = world.submit(RequestOp::Allocation {
        offset_sectors: 0,
        len_sectors: 512,
    });
    assert!(!world.is_answered(query));
    assert_eq!(world.kept_back.len(), 1);
    let io = world.kept_back.remove(0).io;
    let extents = [(8, true), (16, false)].map(|(len_sectors, data)| Extent { len_sectors, data });
    let result = Ok(IoDone::Extents(extents.to_vec()));
    world.event(Event::Done(Completion { io, result }));
    let reply = world.reply(query).expect("answered");
    let Reply::Extents(found) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(found, extents, "no word about the rest");
}

/// A stripe has nobody who would hold what a member forgot: a flush that failed is told.
#[test]
fn a_flush_that_failed_is_told() {
    for shape in [
        Shape {
            level: Level::Raid0,
            chunk_sectors: 16,
            bitmap: false,
            ..Shape::mirror(2)
        },
        Shape::mirror(2),
    ] {
        let mut world = World::running(&shape);
        world.write(0, &data(64)).expect("written");
        if shape.level == Level::Raid1 {
            world.control(Control::Fail(FIRST)).expect("failed");
        }
        world.disks.get_mut(&SECOND).expect("a disk").gone = true;
        let flush = world.submit(RequestOp::Flush);
        let error = world.reply(flush).expect_err("told");
        assert!(error.to_string().contains("flush"), "{error}");
    }
}

/// Zeroing many rows is a few long I/Os, not one for each row.
#[test]
fn rows_are_zeroed_together() {
    let mut world = World::running(&Shape::parity(Level::Raid5, 3));
    let sectors = world.array().array_sectors();
    world.write(0, &data(sectors)).expect("written");
    let zero = world.submit(RequestOp::WriteZeroes {
        offset_sectors: 0,
        len_sectors: sectors / 32 * 32,
        fua: false,
        may_unmap: false,
    });
    world.reply(zero).expect("zeroed");
    for (id, disk) in &world.disks {
        assert!(disk.zeroings <= 2, "{id:?}: {}", disk.zeroings);
    }
    let read = world.read(0, sectors as u32).expect("read");
    assert!(
        read[..sectors as usize / 32 * 32 * 512]
            .iter()
            .all(|byte| *byte == 0)
    );
}

/// A wide row is written with as few reads as there can be.
#[test]
fn the_cheaper_way_to_new_parity_is_taken() {
    let mut world = World::running(&Shape::parity(Level::Raid6, 11));
    let sectors = world.array().array_sectors();
    world.write(0, &data(sectors)).expect("written");
    let reads = |world: &World| -> u64 { world.disks.values().map(|disk| disk.reads).sum() };
    for (chunks, most) in [(1, 3), (2, 4), (3, 5), (4, 5), (7, 2), (9, 0)] {
        let before = reads(&world);
        world.write(0, &data(16 * chunks)).expect("written");
        let read = reads(&world) - before;
        assert!(read <= most, "{chunks} chunks: {read} reads, not {most}");
    }
}
