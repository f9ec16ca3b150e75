//! Level faulty: hosts get errors, and neither the array nor its member takes harm.

use umd_core::array::{
    ArrayState, Control, ControlError, ControlReply, MemberRole, Options, RequestOp,
};
use umd_core::assembly::Wish;
use umd_core::value::{MemberId, RequestError};
use umd_format::{FaultyLayout, Format, Level};

use crate::world::{Shape, World};

fn created(layout: u32, disks: u16) -> World {
    World::create(&Shape {
        level: Level::Faulty,
        layout,
        disks,
        chunk_sectors: 0,
        bitmap: false,
        format: Format::V1_2,
        assume_clean: false,
    })
}

fn started(word: &str) -> World {
    let layout = FaultyLayout::from_word(word).expect("a layout");
    let mut world = created(layout.to_raw(), 1);
    world.begin();
    world
}

/// How it is to fail from now on.
fn grow(world: &mut World, word: &str) {
    let layout = FaultyLayout::from_word(word).expect("a layout");
    let reply = world.control(Control::Layout(layout));
    assert_eq!(reply, Ok(ControlReply::Done), "{word}");
}

/// The modes that are on, in short: `rt 1/4`.
fn modes(world: &mut World) -> Vec<(String, u32, u32)> {
    let faults = world.array().status().faulty.expect("its faults");
    let word = |mode| FaultyLayout { mode, period: 0 }.to_string();
    let modes = faults.modes.iter();
    modes.map(|m| (word(m.mode), m.left, m.period)).collect()
}

/// Fails as level faulty does, and says so.
fn assert_pretended<T: std::fmt::Debug>(result: Result<T, RequestError>) {
    match result {
        Err(RequestError::Io(why)) => assert!(why.contains("level faulty"), "{why}"),
        other => panic!("no fault was pretended: {other:?}"),
    }
}

fn assert_unharmed(world: &mut World) {
    let status = world.array().status();
    assert!(matches!(
        status.state,
        ArrayState::Clean | ArrayState::Active
    ));
    assert_eq!(status.members[0].role, MemberRole::InSync);
    assert_eq!(status.requests_in_flight, 0);
    world.stop();
}

#[test]
fn a_write_that_fails_reached_the_member_and_the_next_one_succeeds() {
    let mut world = started("wt2");
    world.write(8, &[1; 4096]).expect("the first one works");
    assert_pretended(world.write(8, &[2; 4096]));
    assert!(world.read(8, 8).expect("reads work") == [2; 4096]);
    world.write(8, &[3; 4096]).expect("it was transient");
    assert!(world.read(8, 8).expect("reads work") == [3; 4096]);
    assert_unharmed(&mut world);
}

#[test]
fn every_write_fails_and_leaves_what_was_there() {
    let mut world = started("wa");
    let before = world.read(0, 8).expect("reads work");
    assert_pretended(world.write(0, &[1; 512]));
    for op in [
        RequestOp::WriteZeroes {
            offset_sectors: 0,
            len_sectors: 4096 / 512,
            fua: false,
            may_unmap: true,
        },
        RequestOp::Trim {
            offset_sectors: 0,
            len_sectors: 4096 / 512,
            fua: false,
        },
    ] {
        let id = world.submit(op);
        assert_pretended(world.reply(id));
    }
    assert!(world.read(0, 8).expect("reads work") == before);
    let flush = world.submit(RequestOp::Flush);
    world.reply(flush).expect("a flush is no write");
    assert_unharmed(&mut world);
}

#[test]
fn reads_fail_by_their_period() {
    let mut world = started("rt3");
    for round in 0..3 {
        world.read(0, 8).expect("the first");
        world.read(8, 8).expect("the second");
        assert_pretended(world.read(round, 1));
    }
    assert_unharmed(&mut world);
}

/// It is reads that fail. Who asks what is allocated, or wants all of it durable, takes no read's
/// turn.
#[test]
fn questions_and_flushes_are_no_reads() {
    let mut world = started("rt3");
    let question = RequestOp::Allocation {
        offset_sectors: 0,
        len_sectors: 8,
    };
    for op in [RequestOp::Flush, question] {
        world.read(0, 8).expect("the first");
        world.read(0, 8).expect("the second");
        let id = world.submit(op);
        if let Err(RequestError::Io(why)) = world.reply(id) {
            assert!(!why.contains("level faulty"), "{why}");
        }
        assert_pretended(world.read(0, 8));
    }
    assert_unharmed(&mut world);
}

#[test]
fn a_place_stays_bad_or_is_mended_by_a_write() {
    let mut world = started("rp");
    assert_pretended(world.read(16, 8));
    world.write(16, &[5; 4096]).expect("writes work");
    assert_pretended(world.read(10, 8));
    assert!(world.read(17, 7).expect("behind it") == [5; 7 * 512]);
    assert_eq!(world.array().status().faulty.expect("its faults").places, 1);
    assert_unharmed(&mut world);

    let mut world = started("rf");
    assert_pretended(world.read(16, 8));
    assert_pretended(world.read(16, 8));
    world.write(16, &[5; 4096]).expect("writes work");
    assert!(world.read(16, 8).expect("mended") == [5; 4096]);
    assert_unharmed(&mut world);

    let mut world = started("wp");
    assert_pretended(world.write(16, &[5; 4096]));
    let id = world.submit(RequestOp::WriteZeroes {
        offset_sectors: 0,
        len_sectors: 600,
        fua: false,
        may_unmap: false,
    });
    assert_pretended(world.reply(id));
    world.write(0, &[5; 4096]).expect("before it");
    assert_unharmed(&mut world);
}

#[test]
fn the_superblock_says_how_it_fails_and_faults_are_forgotten_at_a_stop() {
    let mut world = started("wp3");
    for _ in 0..2 {
        world.write(0, &[1; 512]).expect("two work");
    }
    assert_pretended(world.write(0, &[1; 512]));
    world.stop();
    assert_eq!(world.superblock(0).fields.layout, 3 << 5 | 2);
    world.begin();
    let status = world.array().status();
    assert_eq!(status.layout, -1, "as kernels show it");
    let faults = status.faulty.expect("its faults");
    assert_eq!((faults.places, faults.modes[0].left), (0, 3));
    world.write(0, &[1; 512]).expect("one works again");
}

#[test]
fn a_layout_that_a_kernel_has_taken_over_asks_for_nothing() {
    let mut world = created(u32::MAX, 1);
    world.begin();
    for at in 0..20 {
        world.write(at, &[1; 512]).expect("works");
        world.read(at, 1).expect("works");
    }
    assert_unharmed(&mut world);
}

#[test]
fn what_means_nothing_is_not_started() {
    let mut world = created(31, 1);
    let mut superblock = world.superblock(0);
    superblock.fields.layout = 7;
    let bytes = superblock.encode(512);
    let at = superblock.fields.super_offset_sectors as usize * 512;
    let disk = world.disks.values_mut().next().expect("a disk");
    disk.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    let refused = world.start(&Wish::default(), Options::default());
    let text = refused.expect_err("no such mode");
    assert!(text.contains("level faulty with layout 0x7"), "{text}");
}

#[test]
fn modes_are_changed_while_it_runs_and_nothing_is_written_for_that() {
    let mut world = started("rt4");
    world.read(0, 8).expect("one of four");
    let before = world.disks[&MemberId(0)].bytes.clone();
    grow(&mut world, "rp3");
    let both = [
        ("read-transient".to_owned(), 3, 4),
        ("read-persistent".to_owned(), 3, 3),
    ];
    assert_eq!(
        modes(&mut world),
        both,
        "the first goes on, the other one begins"
    );
    for at in [16, 24] {
        world.read(at, 8).expect("not yet");
    }
    assert_pretended(world.read(32, 8));
    // Who is set again begins again.
    grow(&mut world, "rt1");
    assert_pretended(world.read(40, 8));
    grow(&mut world, "clear");
    assert_eq!(modes(&mut world), []);
    world.read(40, 8).expect("that was transient");
    assert_pretended(world.read(32, 8));
    grow(&mut world, "flush");
    world.read(32, 8).expect("forgotten");
    grow(&mut world, "wa");
    assert_pretended(world.write(0, &[1; 512]));
    grow(&mut world, "flush");
    assert_pretended(world.write(0, &[1; 512]));
    grow(&mut world, "none");
    assert!(world.disks[&MemberId(0)].bytes == before, "as on kernels");
    world.write(0, &[1; 512]).expect("writes work again");
    assert_unharmed(&mut world);
    assert_eq!(world.superblock(0).fields.layout, 4 << 5 | 1);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    assert_eq!(modes(&mut world), [("read-transient".to_owned(), 4, 4)]);
}

#[test]
fn who_reads_only_may_fail_in_other_ways_too() {
    let mut world = started("clear");
    world.control(Control::ReadOnly(true)).expect("read-only");
    grow(&mut world, "rp");
    assert_pretended(world.read(16, 8));
    assert_eq!(world.array().status().state, ArrayState::ReadOnly);
    world.stop();
}

#[test]
fn a_request_under_way_fails_as_it_was_to_when_it_came() {
    let mut world = started("rt");
    world.held = Some(MemberId(0));
    let first = world.submit(RequestOp::Read {
        offset_sectors: 0,
        len_sectors: 8,
    });
    grow(&mut world, "clear");
    let second = world.submit(RequestOp::Read {
        offset_sectors: 0,
        len_sectors: 8,
    });
    grow(&mut world, "rp1");
    world.release(false);
    assert_pretended(world.reply(first));
    world.reply(second).expect("nothing was to fail then");
    assert_pretended(world.read(0, 8));
    assert_unharmed(&mut world);
}

#[test]
fn other_levels_keep_their_layouts() {
    let layout = FaultyLayout::from_word("rt1").expect("a layout");
    let mut world = World::create(&Shape::mirror(2));
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    match world.control(Control::Layout(layout)) {
        Err(ControlError::Invalid(why)) => {
            assert_eq!(why, "raid1 does not fail on purpose");
        }
        other => panic!("{other:?}"),
    }
    world.read(0, 8).expect("nothing fails");
    world.stop();
}

/// Kernels serve level faulty from the start of its device: whoever takes it there has to know.
#[test]
fn data_that_kernels_would_not_find_is_warned_of() {
    for (format, warned) in [(Format::V1_0, false), (Format::V1_2, true)] {
        let world = World::create(&Shape {
            level: Level::Faulty,
            layout: 0,
            disks: 1,
            chunk_sectors: 0,
            bitmap: false,
            format,
            assume_clean: false,
        });
        let warnings = world.plan().expect("a plan").warnings;
        let told = |text: &String| text.contains("kernels ignore the data offset");
        assert_eq!(warnings.iter().any(told), warned, "{format}");
    }
}
