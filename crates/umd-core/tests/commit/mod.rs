//! What a host has read once stays, whoever dies: reads where members do not agree yet.

use crate::world::{Lcg, Logged, Shape, World, redundancy, shapes};
use umd_core::array::{ArrayState, Control, Options, SyncRequest};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::{Format, Level};

/// An array of members full of different rubbish, of which no resync makes sense.
fn in_doubt(shape: &Shape) -> World {
    let mut world = World::create(shape);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    // Before the first unit has read anything.
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    world.drain();
    world
}

fn mirror(disks: u16) -> Shape {
    Shape {
        assume_clean: false,
        ..Shape::mirror(disks)
    }
}

#[test]
fn what_was_read_stays_when_as_many_members_die_as_may() {
    let mut kept = 0;
    for (n, shape) in shapes().iter().enumerate() {
        if redundancy(shape) == 0 {
            continue;
        }
        let mut world = in_doubt(shape);
        let sectors = world.array().status().array_sectors;
        let mut rng = Lcg(n as u64);
        let mut seen = Vec::new();
        for _ in 0..20 {
            let len = 1 + rng.below(40.min(sectors));
            let at = rng.below(sectors - len + 1);
            let read = world.read(at, len as u32).expect("read");
            seen.push((at, read));
        }
        let first = rng.below(u64::from(shape.disks)) as u32;
        for k in 0..u32::from(redundancy(shape)) {
            let member = MemberId((first + k) % u32::from(shape.disks));
            world.control(Control::Fail(member)).expect("failed");
        }
        for (at, before) in seen {
            let len = (before.len() / 512) as u32;
            let again = world.read(at, len).expect("read");
            assert!(
                again == before,
                "{:?} {:#x}: {at}+{len}",
                shape.level,
                shape.layout
            );
            kept += 1;
        }
    }
    assert!(kept > 500, "most arrays were looked at");
}

#[test]
fn each_block_is_made_to_agree_once() {
    let mut world = in_doubt(&mirror(3));
    world.read(100, 8).expect("read");
    let writes = |world: &World| world.disks.values().map(|disk| disk.writes).sum::<u64>();
    let reads = |world: &World| world.disks.values().map(|disk| disk.reads).sum::<u64>();
    let (written, read) = (writes(&world), reads(&world));
    world.read(102, 4).expect("read");
    assert_eq!(writes(&world), written, "nothing is left to be written");
    assert_eq!(reads(&world), read + 1, "one leg is enough");
    world.read(107, 2).expect("read");
    assert_eq!(writes(&world), written + 2, "a sector more: two other legs");
}

/// A leg that could not be made to agree may be the first that is asked after a crash.
#[test]
fn who_could_not_be_made_to_agree_is_recorded_before_the_answer() {
    let mut world = in_doubt(&mirror(2));
    let other = MemberId(1);
    world.disks.get_mut(&other).expect("a disk").stuck = true;
    world.log.clear();
    world.read(0, 8).expect("the other leg reads on");
    let at = |what: &dyn Fn(&Logged) -> bool| world.log.iter().position(what);
    let recorded = at(&|l| *l == Logged::Super(MemberId(0))).expect("recorded");
    let answered = at(&|l| matches!(l, Logged::Answer(_))).expect("answered");
    assert!(recorded < answered, "{:?}", world.log);
}

#[test]
fn a_read_only_array_reads_one_member_and_writes_none() {
    let mut world = World::create(&mirror(2));
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    world.start(&Wish::default(), options).expect("started");
    let before: Vec<Vec<u8>> = world
        .disks
        .values()
        .map(|disk| disk.bytes.clone())
        .collect();
    let first = world.read(50, 8).expect("read");
    for _ in 0..5 {
        assert_eq!(world.read(50, 8).expect("read"), first);
    }
    let after: Vec<Vec<u8>> = world
        .disks
        .values()
        .map(|disk| disk.bytes.clone())
        .collect();
    assert!(before == after, "not a byte changed");
}

#[test]
fn a_sector_that_one_member_cannot_read_is_made_to_agree_too() {
    let mut world = in_doubt(&mirror(2));
    let first = world.disks.get_mut(&MemberId(0)).expect("a disk");
    first.bad.extend(130..600);
    let read = world.read(0, 64).expect("read");
    let bad = &world.disks[&MemberId(0)].bad;
    assert!(bad.range(..192).next().is_none(), "what was read is mended");
    assert!(bad.range(192..).next().is_some(), "and nothing else");
    world.control(Control::Fail(MemberId(0))).expect("failed");
    assert_eq!(world.read(0, 64).expect("read"), read);
}

/// The last write reached some members and not others, and nobody makes them agree any more.
#[test]
fn a_broken_array_gives_the_same_twice() {
    // Of the chunks in a row one has its copies on members 0 and 1, one on 2 and 0.
    let shape = Shape {
        level: Level::Raid10,
        layout: 0x102,
        disks: 3,
        chunk_sectors: 16,
        assume_clean: true,
        // Without a log that could name what a member refuses.
        format: Format::V1_0,
        ..mirror(3)
    };
    let mut world = World::create(&shape);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    world.write(0, &[1; 16 * 512]).expect("written");
    world.control(Control::Fail(MemberId(2))).expect("failed");
    world.disks.get_mut(&MemberId(0)).expect("a disk").stuck = true;
    world.write(0, &[2; 16 * 512]).expect_err("broken");
    assert_eq!(world.array().status().state, ArrayState::Broken);
    let first = world.read(0, 16).expect("one leg has it");
    for at in [0, 8, 0, 0] {
        let again = world.read(at, 8).expect("it still has it");
        assert!(again == first[..8 * 512], "sector {at}");
    }
}
