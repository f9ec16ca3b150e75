//! Arrays that stop, become read-only, or broke: what they still answer, and what they leave alone.

use umd_core::array::{
    ArrayState, BitmapWish, Control, ControlError, NewBitmap, Options, Purpose, RequestError,
    RequestOp, SyncRequest,
};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::Level;

use crate::world::{Shape, World};

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);

fn submit(world: &mut World, at: u64, byte: u8) -> u64 {
    let data = world.pool.copy_of(&[byte; 4096]);
    world.submit(RequestOp::Write {
        offset_sectors: at,
        data,
        fua: false,
    })
}

/// Reads, writes and flushes that all disks were asked for.
fn asked(world: &World) -> u64 {
    let of = |disk: &crate::world::Disk| disk.reads + disk.writes + disk.flushes;
    world.disks.values().map(of).sum()
}

/// What hosts were given is theirs; what they ask for once the end was announced is refused.
#[test]
fn a_stop_waits_for_what_was_begun_and_takes_nothing_more() {
    let mut world = World::running(&Shape::mirror(2));
    world.held = Some(SECOND);
    let begun = submit(&mut world, 0, 7);
    assert!(!world.is_answered(begun));
    let stop = world.ask(Control::Stop);
    assert_eq!(world.asked(stop), None, "something is under way");
    let read = world.read(0, 8);
    assert_eq!(read.expect_err("refused"), RequestError::Stopping);
    let again = world.control(Control::Stop).expect_err("refused");
    assert!(again.to_string().contains("already stopping"), "{again}");
    world.release(false);
    world.reply(begun).expect("written");
    world.asked(stop).expect("answered").expect("stopped");
}

/// Who only becomes read-only goes on reading.
#[test]
fn becoming_read_only_refuses_writes_alone() {
    let mut world = World::running(&Shape::mirror(2));
    world.held = Some(SECOND);
    let begun = submit(&mut world, 0, 7);
    let quiet = world.ask(Control::ReadOnly(true));
    assert_eq!(world.asked(quiet), None, "something is under way");
    world.read(200, 8).expect("read");
    let refused = world.write(200, &[1; 512]).expect_err("refused");
    assert_eq!(refused, RequestError::ReadOnly);
    world.release(false);
    world.reply(begun).expect("written");
    world.asked(quiet).expect("answered").expect("read-only");
    assert_eq!(world.array().status().state, ArrayState::ReadOnly);
    assert_eq!(world.read(0, 8).expect("read"), [7; 4096]);
}

/// Once superblocks begin to say that the array rests, a read mends nothing behind their back.
#[test]
fn a_read_writes_nothing_once_the_array_is_called_clean() {
    let mut world = World::create(&Shape {
        assume_clean: false,
        ..Shape::mirror(2)
    });
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    world.write(0, &[7; 512]).expect("written");
    world.holds = Some(Purpose::Super);
    let quiet = world.ask(Control::ReadOnly(true));
    assert_eq!(world.asked(quiet), None);
    assert!(!world.kept_back.is_empty(), "superblocks are on their way");
    let data = |world: &World| -> Vec<Vec<u8>> {
        let of = |disk: &crate::world::Disk| disk.bytes[128 * 512..].to_vec();
        world.disks.values().map(of).collect()
    };
    let before = data(&world);
    let first = world.read(400, 8).expect("members differ there");
    assert_eq!(world.read(400, 8).expect("read"), first);
    assert!(data(&world) == before, "nobody was made to agree");
    world.release_back();
    world.asked(quiet).expect("answered").expect("read-only");
    // While it may change things, it does.
    world.control(Control::ReadOnly(false)).expect("writable");
    assert_eq!(world.read(400, 8).expect("read"), first);
    assert!(data(&world) != before);
}

/// Read-only members may be on devices that take nothing, not even a flush.
#[test]
fn a_read_only_array_stops_without_asking_its_members() {
    let striped = Shape {
        level: Level::Raid0,
        chunk_sectors: 16,
        bitmap: false,
        ..Shape::mirror(2)
    };
    for shape in [striped, Shape::mirror(2), Shape::parity(Level::Raid5, 3)] {
        let mut world = World::create(&shape);
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        world.start(&Wish::default(), options).expect("started");
        world.pass(1);
        let before = asked(&world);
        world.stop();
        assert_eq!(asked(&world), before, "{}", shape.level);
    }
}

/// A host that may not write any more is told so before a member is touched.
#[test]
fn a_broken_array_refuses_writes_and_leaves_its_members_alone() {
    for shape in [Shape::mirror(2), Shape::parity(Level::Raid5, 3)] {
        let mut world = World::running(&shape);
        world.control(Control::Fail(FIRST)).expect("failed");
        let lost = Control::Lost(SECOND, "its file vanished".into());
        world.control(lost).expect("told");
        assert_eq!(world.array().status().state, ArrayState::Broken);
        let before = asked(&world);
        let error = world.write(0, &[1; 4096]).expect_err("refused");
        let RequestError::Io(text) = &error else {
            panic!("{error:?}");
        };
        assert!(text.contains("d1") && text.contains("vanished"), "{text}");
        assert_eq!(asked(&world), before);
    }
}

/// An administrator waits for the answer, also where nothing can be recorded any more.
#[test]
fn a_change_of_the_bitmap_in_an_array_that_breaks_is_answered() {
    for wish in [
        BitmapWish::None,
        BitmapWish::Internal(NewBitmap {
            region_bytes: Some(65536),
            write_behind: 0,
            offset_sectors: None,
        }),
    ] {
        let mut world = World::running(&Shape {
            bitmap: wish == BitmapWish::None,
            ..Shape::mirror(2)
        });
        world.holds = Some(Purpose::Super);
        let change = world.ask(Control::Bitmap(wish));
        let waits = submit(&mut world, 0, 7);
        for id in [FIRST, SECOND] {
            world.disks.get_mut(&id).expect("a disk").gone = true;
        }
        world.release_back();
        let answer = world.asked(change).expect("answered");
        let error = answer.expect_err("nothing was recorded");
        assert!(matches!(&error, ControlError::Io(_)), "{error:?}");
        assert!(error.to_string().contains("cannot be written"), "{error}");
        world.reply(waits).expect_err("it broke");
    }
}

/// mdadm shows the size of what a bit stands for.
#[test]
fn a_bit_stands_for_as_many_bytes_as_were_asked_for() {
    let mut world = World::running(&Shape::mirror(2));
    let status = world.array().status();
    let bitmap = status.bitmap.expect("a bitmap");
    assert_eq!(bitmap.chunk_bytes, 65536);
    let used = status.dev_sectors * 512;
    assert_eq!(bitmap.bits, used.div_ceil(65536));
}
