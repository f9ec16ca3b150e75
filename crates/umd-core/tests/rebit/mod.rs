//! Bitmaps that are taken away and made while the array runs.

use super::world::{DISK_BYTES, Shape, World, redundancy, shapes};
use umd_core::array::{
    BitmapWish, Control, ControlError, ControlReply, NewBitmap, Options, Purpose, RequestOp,
    SyncLimits,
};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::v1::Features;
use umd_format::{Format, Level};

const SMALL: BitmapWish = BitmapWish::Internal(NewBitmap {
    region_bytes: Some(65536),
    write_behind: 0,
    offset_sectors: None,
});

/// Regions so small that their bits need more than what is written with the superblock.
const FINE: NewBitmap = NewBitmap {
    region_bytes: Some(4096),
    write_behind: 0,
    offset_sectors: None,
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
            let file = world.new_file(90, 4096);
            for wish in [SMALL, BitmapWish::None, BitmapWish::File(file, FINE)] {
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
/// Whoever reads may be about to mend what it finds, and that is a write that the bitmap has to
/// know of.
#[test]
fn a_bitmap_does_not_go_while_somebody_reads() {
    let mut world = started(&Shape::mirror(2));
    world.holds = Some(Purpose::Data);
    let read = world.submit(RequestOp::Read {
        offset_sectors: 0,
        len_sectors: 8,
    });
    let asked = world.ask(Control::Bitmap(BitmapWish::None));
    assert!(!world.is_answered(read));
    assert_eq!(world.asked(asked), None);
    assert!(dirty(&mut world).is_some(), "it is there");
    world.release_back();
    assert!(world.is_answered(read));
    assert_eq!(world.asked(asked), Some(Ok(ControlReply::Done)));
    assert_eq!(dirty(&mut world), None);
}

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
        let new = NewBitmap {
            region_bytes,
            write_behind: 0,
            offset_sectors: None,
        };
        let wish = BitmapWish::Internal(new);
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

/// The bytes of all bitmaps on members, by member.
fn areas(world: &World, members: u32, bytes: usize) -> Vec<Vec<u8>> {
    let area = |id: u32| {
        let at = world.superblock(id).fields.bitmap_sector()? as usize * 512;
        Some(world.disks[&MemberId(id)].bytes[at..at + bytes].to_vec())
    };
    (0..members).filter_map(area).collect()
}

/// Whatever I/O a crash comes at: a superblock that names a bitmap names one that is whole. Where
/// it is, all was zero before: no bit set, had nobody written it.
#[test]
fn no_superblock_names_a_bitmap_before_all_of_it_is_there() {
    const DISK: usize = 12 << 20;
    let shape = Shape {
        bitmap: false,
        ..Shape::mirror(2)
    };
    let regions = {
        let mut world = World::create_sized(&shape, DISK);
        world.begin();
        let wish = BitmapWish::Internal(FINE);
        world.control(Control::Bitmap(wish)).expect("added");
        world.array().status().bitmap.expect("a bitmap").bits as usize
    };
    assert!(256 + regions / 8 > 512, "bits beyond the first sector");
    for crash_at in 0.. {
        let mut world = World::create_sized(&shape, DISK);
        for disk in world.disks.values_mut() {
            disk.bytes[4096 + 512..128 * 512].fill(0);
        }
        world.begin();
        world.write(0, &[7; 4096]).expect("written");
        world.power_for = Some(crash_at);
        world.ask(Control::Bitmap(BitmapWish::Internal(FINE)));
        for area in areas(&world, 2, 256 + regions / 8) {
            let clear = area[256..].iter().filter(|byte| **byte != 0xff).count();
            assert_eq!(clear, 0, "a crash at I/O {crash_at}");
        }
        if !world.dark {
            assert!(crash_at > 4, "copies, superblocks");
            return;
        }
    }
}

/// All shapes get a file, and go by it after a crash.
#[test]
fn files_come_and_go_at_every_level() {
    for shape in shapes().into_iter().filter(|shape| redundancy(shape) > 0) {
        let what = format!("{} {:#x} {}", shape.level, shape.layout, shape.format);
        let mut world = started(&shape);
        if shape.bitmap {
            let reply = world.control(Control::Bitmap(BitmapWish::None));
            assert_eq!(reply, Ok(ControlReply::Done), "{what}");
        }
        let new = NewBitmap {
            region_bytes: Some(65536),
            write_behind: 0,
            offset_sectors: None,
        };
        let room = world.control(Control::BitmapRoom(new));
        assert_eq!(room, Ok(ControlReply::Room { sectors: 8 }), "{what}");
        let file = world.new_file(90, 4096);
        let reply = world.control(Control::Bitmap(BitmapWish::File(file, new)));
        assert_eq!(reply, Ok(ControlReply::Done), "{what}");
        assert!((0..u32::from(shape.disks)).all(|id| !has_bitmap(&world, id)));
        assert!(dirty(&mut world).expect("a bitmap") > 0, "{what}");
        let no = world.control(Control::BitmapRoom(new));
        assert!(matches!(no, Err(ControlError::Busy(_))), "{what}");
        world.pass(60);
        assert_eq!(dirty(&mut world), Some(0), "{what}");
        world.write(0, &[8; 512]).expect("written");
        world.kill();
        assert!(world.start_with_file(), "{what}: the file counts");
        world.pass(30);
        let members = world
            .disks
            .iter()
            .filter(|(id, _)| Some(**id) != world.file);
        let read: u64 = members.map(|(_, disk)| disk.read_sectors).sum();
        let all = (DISK_BYTES / 512 * usize::from(shape.disks)) as u64;
        assert!(read < all, "{what}: {read} of {all}");
        // Once it was taken away it is never believed again.
        let reply = world.control(Control::Bitmap(BitmapWish::None));
        assert_eq!(reply, Ok(ControlReply::Done), "{what}");
        assert_eq!(world.released, [MemberId(90)], "{what}");
        world.kill();
        assert!(!world.start_with_file(), "{what}: it is out of date");
    }
}

/// Whatever I/O a crash comes at: a file that counts is whole, and before it counts nothing was
/// written that it does not know. Bits in it before that belong to nobody.
#[test]
fn a_file_that_is_not_whole_is_not_believed() {
    const DISK: usize = 12 << 20;
    let shape = Shape {
        bitmap: false,
        ..Shape::mirror(2)
    };
    let mut seen = [false; 2];
    for crash_at in 0.. {
        let mut world = World::create_sized(&shape, DISK);
        world.begin();
        world.write(0, &[7; 4096]).expect("written");
        let file = world.new_file(90, 8192);
        world.power_for = Some(crash_at);
        let asked = world.ask(Control::Bitmap(BitmapWish::File(file, FINE)));
        let answered = world.asked(asked).is_some();
        let over = !world.dark;
        world.kill();
        let believed = world.start_with_file();
        if believed {
            let file = &world.disks[&MemberId(90)].bytes;
            let bits = (DISK - 128 * 512) / 4096 / 8;
            let whole = file[256..256 + bits].iter().all(|byte| *byte == 0xff);
            assert!(whole, "a crash at I/O {crash_at}");
        }
        assert!(believed || !answered, "a crash at I/O {crash_at}");
        seen[usize::from(believed)] = true;
        world.pass(600);
        let first = world.disks[&MemberId(0)].bytes[128 * 512..].to_vec();
        assert!(
            first == world.disks[&MemberId(1)].bytes[128 * 512..],
            "{crash_at}"
        );
        if over {
            break;
        }
    }
    assert_eq!(seen, [true, true], "before and after it counts");
}

/// The file fails while it is made: the array goes on as it was, and the driver has it back.
#[test]
fn a_file_that_fails_is_not_kept() {
    for fails_at in 0..4 {
        let mut world = mirror(false, 0);
        let file = world.new_file(90, 4096);
        let id = file.id;
        world.file_for = Some(fails_at);
        let reply = world.control(Control::Bitmap(BitmapWish::File(file, FINE)));
        let text = match reply {
            Err(ControlError::Io(text)) => text,
            other => {
                assert!(fails_at > 1, "{other:?}");
                continue;
            }
        };
        assert!(text.contains("bitmap file failed"), "{text}");
        assert_eq!(world.array().status().bitmap, None);
        assert!(!world.released.contains(&id), "the answer says it");
        world.write(64, &[9; 4096]).expect("written");
        world.kill();
        assert!(!world.start_with_file(), "failed at {fails_at}");
        world.kill();
    }
}

/// A bitmap that is added may bring write-behind, with a file or without.
#[test]
fn a_new_bitmap_may_bring_write_behind() {
    for on_file in [false, true] {
        let mut world = mirror_without(2);
        let new = NewBitmap {
            region_bytes: Some(65536),
            write_behind: 8,
            offset_sectors: None,
        };
        let wish = match on_file {
            true => BitmapWish::File(world.new_file(90, 4096), new),
            false => BitmapWish::Internal(new),
        };
        world.control(Control::Bitmap(wish)).expect("added");
        world.held = Some(MemberId(1));
        let lags = write(&mut world, 0, 7);
        assert!(world.is_answered(lags), "on a file: {on_file}");
        world.release(false);
        let bitmap = world.array().status().bitmap.expect("a bitmap");
        assert_eq!(bitmap.write_behind, 8);
    }
}

fn mirror_without(mostly: u8) -> World {
    let shape = Shape {
        bitmap: false,
        ..Shape::mirror(2)
    };
    let mut world = World::create_with(&shape, DISK_BYTES, mostly, 0);
    world.begin();
    world
}

#[test]
fn files_that_make_no_sense_change_nothing() {
    let mut world = mirror(false, 0);
    let refused = |world: &mut World, new, bytes, words: &str| {
        let file = world.new_file(90, bytes);
        let before = world.superblock(0);
        let no = world.control(Control::Bitmap(BitmapWish::File(file, new)));
        let text = no.expect_err("refused").to_string();
        assert!(text.contains(words), "{text}");
        assert_eq!(world.superblock(0), before, "{text}");
        assert!(
            world.disks[&MemberId(90)]
                .bytes
                .iter()
                .all(|byte| *byte == 0)
        );
    };
    let new = |region_bytes, write_behind| NewBitmap {
        region_bytes,
        write_behind,
        offset_sectors: None,
    };
    for region in [0, 512, 4097] {
        refused(&mut world, new(Some(region), 0), 4096, "a power of two");
    }
    refused(&mut world, new(None, 16_384), 4096, "at most 16383");
    refused(
        &mut world,
        new(None, 0),
        2048,
        "4 sectors, and 8 are needed",
    );
    let mut five = started(&Shape::parity(umd_format::Level::Raid5, 3));
    five.control(Control::Bitmap(BitmapWish::None))
        .expect("gone");
    refused(&mut five, new(None, 8), 4096, "for raid1, not for raid5");
    // It vanishes before it is written: nobody waits for it.
    let mut world = mirror(true, 8);
    world
        .control(Control::Bitmap(BitmapWish::None))
        .expect("gone");
    world.held = Some(MemberId(1));
    let waits = write(&mut world, 0, 7);
    assert!(!world.is_answered(waits));
    let file = world.new_file(90, 4096);
    let asked = world.ask(Control::Bitmap(BitmapWish::File(file, FINE)));
    assert_eq!(world.asked(asked), None);
    let no = world.control(Control::BitmapRoom(FINE));
    assert!(matches!(no, Err(ControlError::Busy(_))), "{no:?}");
    let why = "its file vanished or shrank".to_owned();
    world
        .control(Control::Lost(MemberId(90), why))
        .expect("told");
    let answer = world.asked(asked);
    assert!(
        matches!(answer, Some(Err(ControlError::Io(_)))),
        "{answer:?}"
    );
    world.release(false);
    assert!(world.is_answered(waits));
}

fn at(offset_sectors: i32) -> Control {
    Control::Bitmap(BitmapWish::Internal(NewBitmap {
        region_bytes: Some(65536),
        write_behind: 0,
        offset_sectors: Some(offset_sectors),
    }))
}

/// Whether a page of a bitmap can lie so far from the superblock of a member, by what the member
/// has on it, sector by sector.
fn is_free(world: &World, id: u32, offset: i64) -> bool {
    let superblock = world.superblock(id);
    let fields = &superblock.fields;
    if superblock.format() == Format::V090 {
        return offset == 8;
    }
    let sb = fields.super_offset_sectors as i64;
    let data = fields.data_offset_sectors as i64;
    let data_end = data + fields.data_size_sectors as i64;
    let log = sb + i64::from(fields.bblog_offset_sectors);
    let log_end = log + i64::from(fields.bblog_size_sectors);
    let taken = |sector: i64| {
        let on = |from: i64, to: i64| from <= sector && sector < to;
        on(sb, sb + 8) || on(data, data_end) || on(log, log_end)
    };
    let start = sb + offset;
    // Kernels: between superblock and data, or, with the superblock at the end, behind the data.
    let gap = match superblock.format() {
        Format::V1_0 => start >= data_end && start + 8 <= sb + 16,
        _ => start >= sb && start + 8 <= data,
    };
    gap && !(start..start + 8).any(taken)
}

/// Every place that is free is taken, every other one refused without a byte being changed.
#[test]
fn a_bitmap_lies_wherever_there_is_room_for_it() {
    let mut accepted = 0;
    for format in [Format::V1_0, Format::V1_1, Format::V1_2, Format::V090] {
        let mut world = started(&Shape {
            format,
            bitmap: false,
            ..Shape::mirror(2)
        });
        let places = (-48..48)
            .chain(96..140)
            .chain([i32::MIN, -4096, 4096, i32::MAX]);
        for offset in places {
            let what = format!("{format} {offset:+}");
            let bytes = |world: &World| -> Vec<Vec<u8>> {
                world
                    .disks
                    .values()
                    .map(|disk| disk.bytes.clone())
                    .collect()
            };
            let before = bytes(&world);
            let reply = world.control(at(offset));
            if !is_free(&world, 0, offset.into()) {
                assert!(
                    matches!(reply, Err(ControlError::Invalid(_))),
                    "{what} {reply:?}"
                );
                assert!(bytes(&world) == before, "{what}");
                continue;
            }
            assert_eq!(reply, Ok(ControlReply::Done), "{what}");
            accepted += 1;
            for (id, disk) in &world.disks {
                let fields = world.superblock(id.0).fields;
                assert_eq!(fields.bitmap_offset_raw as i32, offset, "{what}");
                let place = (fields.super_offset_sectors as i64 + i64::from(offset)) as usize;
                assert_eq!(&disk.bytes[place * 512..][..4], b"bitm", "{what}");
            }
            let reply = world.control(Control::Bitmap(BitmapWish::None));
            assert_eq!(reply, Ok(ControlReply::Done), "{what}");
        }
        world.stop();
    }
    assert!(accepted > 100, "{accepted} places were free");
}

/// It is used as one where mdadm puts it, and members that join get it there.
#[test]
fn a_bitmap_at_another_place_is_what_the_next_start_goes_by() {
    let mut world = started(&Shape {
        bitmap: false,
        assume_clean: false,
        ..Shape::parity(Level::Raid5, 3)
    });
    let log = world.superblock(0).fields.bblog_offset_sectors;
    let offset = log + 8;
    assert_eq!(world.control(at(offset)), Ok(ControlReply::Done));
    world.pass(60);
    assert_eq!(dirty(&mut world), Some(0));
    world.write(0, &[9; 512]).expect("written");
    assert_eq!(dirty(&mut world), Some(1));
    world.kill();
    world
        .start(&Wish::default(), Options::default())
        .expect("started");
    assert_eq!(dirty(&mut world), Some(1));
    world.pass(60);
    assert_eq!(world.mismatch(), 0);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world.write(0, &[5; 8192]).expect("written");
    world.disks.insert(MemberId(7), Default::default());
    world.disks.get_mut(&MemberId(7)).expect("new").bytes = vec![0; DISK_BYTES];
    world.add(7).expect("added");
    world.pass(60);
    assert_eq!(world.superblock(7).fields.bitmap_offset_raw as i32, offset);
    assert_eq!(world.read(0, 16).expect("read"), [5; 8192]);
    assert_eq!(world.mismatch(), 0);
}
