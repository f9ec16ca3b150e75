//! Bitmaps that are taken away and made while the array runs.

use super::world::{DISK_BYTES, Shape, World, redundancy, shapes};
use umd_core::array::{
    BitmapWish, Control, ControlError, ControlReply, Options, RequestOp, SyncLimits,
};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::v1::Features;

const SMALL: BitmapWish = BitmapWish::Internal {
    region_bytes: Some(65536),
};

fn started(shape: &Shape) -> World {
    let mut world = World::create(shape);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    world.pass(60);
    world
}

fn has_bitmap(world: &World, id: u32) -> bool {
    let fields = world.superblock(id).fields;
    fields.features.contains(Features::BITMAP_OFFSET)
}

fn dirty(world: &mut World) -> Option<u64> {
    world
        .array()
        .status()
        .bitmap
        .map(|bitmap| bitmap.dirty_bits)
}

/// At every level and metadata version: none, then one again, and it does what bitmaps do.
#[test]
fn bitmaps_go_and_come_at_every_level() {
    for shape in shapes() {
        let what = format!("{} {:#x} {}", shape.level, shape.layout, shape.format);
        let mut world = started(&shape);
        if redundancy(&shape) == 0 {
            for wish in [SMALL, BitmapWish::None] {
                let no = world.control(Control::Bitmap(wish));
                assert!(matches!(no, Err(ControlError::Invalid(_))), "{what}");
            }
            continue;
        }
        if shape.bitmap {
            let reply = world.control(Control::Bitmap(BitmapWish::None));
            assert_eq!(reply, Ok(ControlReply::Done), "{what}");
        }
        assert!((0..u32::from(shape.disks)).all(|id| !has_bitmap(&world, id)));
        assert_eq!(dirty(&mut world), None, "{what}");
        world.write(0, &[7; 8192]).expect("written");
        world.stop();
        let wish = Wish::default();
        world.start(&wish, Options::default()).expect("started");
        let reply = world.control(Control::Bitmap(SMALL));
        assert_eq!(reply, Ok(ControlReply::Done), "{what}");
        assert!((0..u32::from(shape.disks)).all(|id| has_bitmap(&world, id)));
        // It starts with every bit, which are cleared in time.
        assert!(dirty(&mut world).expect("a bitmap") > 0, "{what}");
        world.pass(60);
        assert_eq!(dirty(&mut world), Some(0), "{what}");
        world.write(0, &[8; 512]).expect("written");
        let marked = dirty(&mut world).expect("a bitmap");
        assert!((1..=2).contains(&marked), "{what}");
        // It is what the next start goes by: only what is marked is resynced.
        world.kill();
        let wish = Wish::default();
        world.start(&wish, Options::default()).expect("started");
        world.pass(30);
        let read: u64 = world.disks.values().map(|disk| disk.read_sectors).sum();
        let all = (DISK_BYTES / 512 * world.disks.len()) as u64;
        assert!(read < all, "{what}: {read} of {all}");
        assert_eq!(world.read(0, 1).expect("read"), [8; 512], "{what}");
    }
}

/// Who left before a bitmap was made is told nothing by it; who leaves later is.
#[test]
fn a_new_bitmap_knows_nothing_of_who_left_before() {
    let shape = Shape::mirror(3);
    let mut world = started(&shape);
    let leave = |world: &mut World, id: u32| {
        world.control(Control::Fail(MemberId(id))).expect("failed");
        world
            .control(Control::Remove(MemberId(id)))
            .expect("removed");
    };
    let come = |world: &mut World, id: u32, new: u32| {
        let superblock = world.superblock(id);
        let disk = world.disks.remove(&MemberId(id)).expect("a disk");
        world.disks.insert(MemberId(new), disk);
        let new = world.new_member(new, Some(superblock));
        world.control(Control::ReAdd(new))
    };
    leave(&mut world, 2);
    world
        .control(Control::Bitmap(BitmapWish::None))
        .expect("removed");
    world.write(0, &[7; 4096]).expect("written");
    world.control(Control::Bitmap(SMALL)).expect("added");
    let no = come(&mut world, 2, 12);
    assert!(no.is_err(), "{no:?}");
    world.write(64, &[8; 4096]).expect("written");
    leave(&mut world, 1);
    world.write(128, &[9; 4096]).expect("written");
    come(&mut world, 1, 11).expect("put back");
    world.pass(30);
    world.control(Control::Fail(MemberId(0))).expect("failed");
    for (at, byte) in [(0, 7), (64, 8), (128, 9)] {
        assert_eq!(world.read(at, 8).expect("read"), [byte; 4096]);
    }
}

fn mirror(bitmap: bool, behind: u32) -> World {
    let shape = Shape {
        bitmap,
        ..Shape::mirror(2)
    };
    let mut world = World::create_with(&shape, DISK_BYTES, 2, behind);
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    world.pass(60);
    world
}

fn write(world: &mut World, offset_sectors: u64, byte: u8) -> u64 {
    let data = world.pool.copy_of(&[byte; 4096]);
    world.submit(RequestOp::Write {
        offset_sectors,
        data,
        fua: false,
    })
}

/// What lags is waited for, and hosts who come meanwhile get their answers afterwards.
#[test]
fn a_bitmap_does_not_go_while_writes_lag() {
    let mut world = mirror(true, 8);
    world.held = Some(MemberId(1));
    let lags = write(&mut world, 0, 7);
    assert!(world.is_answered(lags));
    let asked = world.ask(Control::Bitmap(BitmapWish::None));
    assert_eq!(world.asked(asked), None);
    assert!(has_bitmap(&world, 0));
    let later = write(&mut world, 64, 8);
    assert!(!world.is_answered(later));
    let busy = world.control(Control::Bitmap(BitmapWish::None));
    assert!(matches!(busy, Err(ControlError::Busy(_))), "{busy:?}");
    world.release(false);
    assert_eq!(world.asked(asked), Some(Ok(ControlReply::Done)));
    assert!(!has_bitmap(&world, 0) && !has_bitmap(&world, 1));
    assert!(world.is_answered(later));
    // Without a bitmap nothing lags.
    world.held = Some(MemberId(1));
    let last = write(&mut world, 0, 9);
    assert!(!world.is_answered(last));
    world.release(false);
    assert_eq!(world.read(64, 8).expect("read"), [8; 4096]);
}

/// A stop meanwhile wins; who waited is told.
#[test]
fn a_stop_ends_a_change_that_waits() {
    let mut world = mirror(true, 8);
    world.held = Some(MemberId(1));
    let lags = write(&mut world, 0, 7);
    assert!(world.is_answered(lags));
    let asked = world.ask(Control::Bitmap(BitmapWish::None));
    let later = write(&mut world, 64, 8);
    let stop = world.ask(Control::Stop);
    assert!(matches!(
        world.asked(asked),
        Some(Err(ControlError::Busy(_)))
    ));
    assert!(world.reply(later).is_err());
    world.release(false);
    assert_eq!(world.asked(stop), Some(Ok(ControlReply::Done)));
    assert!(has_bitmap(&world, 0));
}

/// A member that cannot take its copy fails as any other; the others have the bitmap.
#[test]
fn a_member_that_fails_while_a_bitmap_is_made_is_recorded() {
    let mut world = mirror(false, 0);
    world.disks.get_mut(&MemberId(1)).expect("a disk").gone = true;
    let reply = world.control(Control::Bitmap(SMALL));
    assert_eq!(reply, Ok(ControlReply::Done));
    assert_eq!(world.array().status().degraded, 1);
    assert!(has_bitmap(&world, 0));
    world.write(0, &[7; 512]).expect("written");
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let mut world = mirror(false, 0);
    let refused = |world: &mut World, wish, words: &str| {
        let before = world.superblock(0);
        let no = world.control(Control::Bitmap(wish));
        let text = no.expect_err("refused").to_string();
        assert!(text.contains(words), "{text}");
        assert_eq!(world.superblock(0), before, "{text}");
    };
    refused(&mut world, BitmapWish::None, "has no bitmap");
    for region_bytes in [Some(4097), Some(0), Some(2048)] {
        let wish = BitmapWish::Internal { region_bytes };
        refused(&mut world, wish, "no place for such a bitmap");
    }
    world.control(Control::Bitmap(SMALL)).expect("added");
    refused(&mut world, SMALL, "has a bitmap already");
    // While something is rebuilt or owed, as in md.
    world.control(Control::Fail(MemberId(1))).expect("failed");
    let limits = SyncLimits {
        to_sectors: Some(64),
        ..SyncLimits::default()
    };
    world
        .control(Control::Limits(limits, None))
        .expect("limited");
    world.add(9).expect("added");
    world.pass(1);
    refused(&mut world, BitmapWish::None, "recover is running");
    world.control(Control::ReadOnly(true)).expect("read-only");
    refused(&mut world, BitmapWish::None, "read-only");
}
