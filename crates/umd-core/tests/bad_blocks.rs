//! Bad-block logs: what they name never reaches a host, and what is written is good again.

mod world;

use umd_core::array::{Control, MemberRole, Options, RequestOp, SyncRequest};
use umd_core::assembly::Wish;
use umd_core::sync::SyncAction;
use umd_core::value::MemberId;
use umd_format::Format;
use umd_format::badblocks::{BadLog, BadRange, BadRanges};
use umd_format::v1::Features;
use world::{DISK_BYTES, Lcg, Shape, World, redundancy, shapes};

fn raid1(disks: u16) -> Shape {
    Shape::mirror(disks)
}

fn started(world: &mut World) {
    world.begin();
    world.pass(2);
}

/// Puts ranges of member data into the log of a disk, and rubbish where they are.
fn spoil(world: &mut World, disk: u32, ranges: &[(u64, u64)]) {
    let mut superblock = world.superblock(disk);
    let fields = &mut superblock.fields;
    let offset = fields.data_offset_sectors;
    let log = BadLog::empty(fields).expect("a log");
    let bad: BadRanges = ranges
        .iter()
        .map(|(start, len)| BadRange {
            start_sectors: offset + start,
            length_sectors: *len,
        })
        .collect();
    let new = log.rewritten(&bad).expect("fits");
    fields.features = fields.features.with(Features::BAD_BLOCKS);
    let at = fields.super_offset_sectors as usize * 512;
    let encoded = superblock.encode(512);
    let bytes = &mut world.disks.get_mut(&MemberId(disk)).expect("a disk").bytes;
    bytes[at..at + encoded.len()].copy_from_slice(&encoded);
    let at = log.sector as usize * 512;
    bytes[at..at + new.bytes.len()].copy_from_slice(&new.bytes);
    for range in bad.iter() {
        let from = range.start_sectors as usize * 512;
        bytes[from..from + range.length_sectors as usize * 512].fill(0xbd);
    }
}

/// What a disk says is bad, as the next start would see it.
fn logged(world: &World, disk: u32) -> BadRanges {
    let superblock = world.superblock(disk);
    let Some((at, len)) = BadLog::place(&superblock.fields) else {
        return BadRanges::default();
    };
    let bytes = &world.disks[&MemberId(disk)].bytes[at as usize * 512..(at + len) as usize * 512];
    BadLog::read(&superblock.fields, bytes)
        .expect("a log")
        .ranges()
}

fn content(seed: u64, sectors: u64) -> Vec<u8> {
    let mut lcg = Lcg(seed);
    (0..sectors * 512).map(|_| lcg.below(256) as u8).collect()
}

/// Whatever hosts do, what a log names is never read; what was written over is read again; and
/// kills in between change nothing about it.
#[test]
fn recorded_ranges_never_reach_a_host() {
    for (n, shape) in shapes().iter().enumerate() {
        if !matches!(shape.format, Format::V1_1 | Format::V1_2) || !shape.level.is_redundant() {
            continue;
        }
        let mut lcg = Lcg(n as u64);
        let mut world = World::create(shape);
        started(&mut world);
        world.pass(60);
        let sectors = world.array().array_sectors();
        let mut model = content(n as u64, sectors);
        world.write(0, &model).expect("written");
        world.stop();
        let victim = lcg.below(u64::from(shape.disks)) as u32;
        let ranges: Vec<_> = (0..6)
            .map(|_| {
                (
                    lcg.below(sectors / u64::from(shape.disks)),
                    1 + lcg.below(20),
                )
            })
            .collect();
        spoil(&mut world, victim, &ranges);
        for round in 0..3 {
            started(&mut world);
            for _ in 0..30 {
                let at = lcg.below(sectors - 32);
                let len = 1 + lcg.below(32);
                let bytes = at as usize * 512..(at + len) as usize * 512;
                if lcg.below(3) == 0 {
                    let new = content(lcg.below(1 << 30), len);
                    world.write(at, &new).expect("written");
                    model[bytes].copy_from_slice(&new);
                } else {
                    let read = world.read(at, len as u32).expect("others have it");
                    assert!(read == model[bytes], "{:?} at {at}", shape.level);
                }
            }
            assert!(world.read(0, sectors as u32).expect("read") == model);
            match round {
                0 => world.kill(),
                1 => world.stop(),
                _ => {}
            }
        }
        // A repair writes it all again: the other members can be lost now.
        let repair = SyncRequest::Start(SyncAction::Repair);
        world.control(Control::Sync(repair)).expect("repairs");
        world.pass(60);
        assert!(logged(&world, victim).is_empty(), "{:?}", shape.level);
        let status = world.array().status();
        assert!(status.members.iter().all(|m| m.role == MemberRole::InSync));
        let losses = redundancy(shape).min(u16::try_from(status.members.len()).expect("few") - 1);
        for other in (0..u32::from(shape.disks))
            .filter(|id| *id != victim)
            .take(losses.into())
        {
            world
                .control(Control::Fail(MemberId(other)))
                .expect("failed");
        }
        assert!(
            world.read(0, sectors as u32).expect("read") == model,
            "{:?}",
            shape.level
        );
    }
}

/// A log that is not touched is not written, and neither is anything else.
#[test]
fn reading_around_a_range_writes_nothing() {
    let mut world = World::create(&raid1(2));
    started(&mut world);
    let model = content(1, 256);
    world.write(0, &model).expect("written");
    world.stop();
    spoil(&mut world, 0, &[(8, 8), (100, 30)]);
    let before = world.disks[&MemberId(0)].bytes.clone();
    started(&mut world);
    assert!(world.read(0, 256).expect("read") == model);
    assert_eq!(world.array().status().members[0].bad_sectors, 38);
    world.stop();
    assert!(world.disks[&MemberId(0)].bytes == before);
}

#[test]
fn a_write_clears_what_it_covers_and_no_more() {
    let mut world = World::create(&raid1(2));
    started(&mut world);
    let model = content(1, 256);
    world.write(0, &model).expect("written");
    world.stop();
    spoil(&mut world, 0, &[(8, 8), (100, 30)]);
    started(&mut world);
    let offset = world.superblock(0).fields.data_offset_sectors;
    world.write(0, &model[..110 * 512]).expect("written");
    // Answered, so it is recorded: a crash takes nothing back.
    let left = logged(&world, 0);
    assert_eq!(left.sectors(), 20);
    assert!(left.covers(offset + 110, offset + 130));
    world.write(110, &model[110 * 512..]).expect("written");
    assert!(logged(&world, 0).is_empty());
    world.control(Control::Fail(MemberId(1))).expect("failed");
    assert!(world.read(0, 256).expect("read") == model);
}

/// With one copy left, what it cannot give is an error, and becomes data again when it is written.
#[test]
fn a_last_copy_with_a_bad_range_is_an_error_there() {
    let mut world = World::create(&raid1(2));
    started(&mut world);
    let model = content(1, 256);
    world.write(0, &model).expect("written");
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world.stop();
    world.disks.remove(&MemberId(1));
    spoil(&mut world, 0, &[(8, 8)]);
    started(&mut world);
    assert!(world.read(0, 16).is_err());
    assert!(world.read(0, 8).expect("good") == model[..4096]);
    world.write(8, &model[4096..8192]).expect("written");
    world.kill();
    started(&mut world);
    assert!(world.read(0, 256).expect("read") == model);
}

/// A broken array answers what it can, and still not what a log names.
#[test]
fn a_broken_array_gives_no_rubbish() {
    let mut world = World::create(&raid1(2));
    started(&mut world);
    let model = content(1, 256);
    world.write(0, &model).expect("written");
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world.stop();
    world.disks.remove(&MemberId(1));
    spoil(&mut world, 0, &[(8, 8)]);
    started(&mut world);
    world.held = Some(MemberId(0));
    let late = world.submit(RequestOp::Write {
        offset_sectors: 100,
        data: world.pool.copy_of(&model[..512]),
        fua: false,
    });
    world.pass(60);
    assert!(world.reply(late).is_err());
    assert!(world.read(0, 8).expect("good") == model[..4096]);
    assert!(world.read(8, 8).is_err());
}

/// What neither a member nor the others can give is recorded on who replaces it.
#[test]
fn a_replacement_records_what_nobody_can_give() {
    let mut world = World::create(&raid1(2));
    started(&mut world);
    let sectors = world.array().array_sectors();
    let model = content(1, sectors);
    world.write(0, &model).expect("written");
    world.stop();
    spoil(&mut world, 0, &[(8, 8), (203, 5)]);
    spoil(&mut world, 1, &[(205, 8)]);
    started(&mut world);
    world.add(2).expect("added");
    let replace = Control::Replace {
        member: MemberId(0),
        with: Some(MemberId(2)),
    };
    world.control(replace).expect("begun");
    world.pass(60);
    let status = world.array().status();
    let role = |id| {
        status
            .members
            .iter()
            .find(|m| m.id == MemberId(id))
            .map(|m| m.role)
    };
    assert_eq!(role(2), Some(MemberRole::InSync), "{status:?}");
    let offset = world.superblock(2).fields.data_offset_sectors;
    let bad = logged(&world, 2);
    assert!(bad.covers(offset + 205, offset + 208), "{bad:?}");
    assert_eq!(bad.sectors(), 3);
    world.kill();
    world.disks.remove(&MemberId(0));
    world.disks.remove(&MemberId(1));
    let wish = Wish {
        run: true,
        ..Wish::default()
    };
    world.start(&wish, Options::default()).expect("starts");
    assert!(world.read(205, 1).is_err());
    assert!(world.read(0, 205).expect("good") == model[..205 * 512]);
}

/// A rebuild goes on past what nobody can give, and the new member says so, also after a crash.
#[test]
fn a_rebuild_records_what_no_source_can_give() {
    let mut world = World::create(&raid1(2));
    started(&mut world);
    let sectors = world.array().array_sectors();
    let model = content(1, sectors);
    world.write(0, &model).expect("written");
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world
        .control(Control::Remove(MemberId(1)))
        .expect("removed");
    world.disks.remove(&MemberId(1));
    let offset = world.superblock(0).fields.data_offset_sectors;
    world
        .disks
        .get_mut(&MemberId(0))
        .expect("a disk")
        .bad
        .insert(offset + 203);
    world.add(2).expect("added");
    world.pass(60);
    let status = world.array().status();
    assert!(
        status.members.iter().all(|m| m.role == MemberRole::InSync),
        "{status:?}"
    );
    let bad = logged(&world, 2);
    assert!(bad.covers(offset + 203, offset + 204) && bad.sectors() <= 8);
    world.kill();
    for only in [0, 2] {
        let other = world.disks.remove(&MemberId(2 - only)).expect("a disk");
        started(&mut world);
        assert!(world.read(203, 1).is_err(), "rubbish read from {only}");
        assert!(world.read(0, 200).expect("good") == model[..200 * 512]);
        world.kill();
        world.disks.insert(MemberId(2 - only), other);
    }
}

/// Without room to record it, a rebuild stops as it always did.
#[test]
fn a_rebuild_without_a_log_stops() {
    let mut world = World::create(&Shape {
        format: Format::V1_0,
        ..raid1(2)
    });
    started(&mut world);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    let offset = world.superblock(0).fields.data_offset_sectors;
    world
        .disks
        .get_mut(&MemberId(0))
        .expect("a disk")
        .bad
        .insert(offset + 203);
    world.add(2).expect("added");
    world.pass(60);
    let status = world.array().status();
    let new = status
        .members
        .iter()
        .find(|m| m.id == MemberId(2))
        .expect("added");
    assert!(matches!(new.role, MemberRole::Recovering { .. }), "{new:?}");
}

/// A range that is bad on every member has nothing to agree about: a resync passes it.
#[test]
fn a_resync_passes_what_is_known_to_be_bad_everywhere() {
    let mut world = World::create(&Shape {
        assume_clean: false,
        ..raid1(2)
    });
    spoil(&mut world, 0, &[(64, 8)]);
    spoil(&mut world, 1, &[(60, 8)]);
    started(&mut world);
    world.pass(60);
    let status = world.array().status();
    assert!(status.sync.is_none() && !status.sync_pending, "{status:?}");
    assert!(world.read(66, 1).is_err());
    world.stop();
    let (first, second) = (logged(&world, 0), logged(&world, 1));
    // What one of them had was written to the other.
    assert_eq!((first.sectors(), second.sectors()), (4, 4));
}

/// A log that cannot be read leaves nothing to trust the member with.
#[test]
fn a_damaged_log_refuses_its_member() {
    let mut world = World::create(&raid1(2));
    spoil(&mut world, 1, &[(64, 8)]);
    let at = BadLog::place(&world.superblock(1).fields).expect("a log").0 as usize * 512;
    let bytes = &mut world.disks.get_mut(&MemberId(1)).expect("a disk").bytes;
    bytes[at..at + 8].copy_from_slice(&(4096_u64 << 10).to_le_bytes());
    let why = world
        .start(&Wish::default(), Options::default())
        .expect_err("refused");
    assert!(
        why.contains("d1") && why.contains("bad-block log is damaged"),
        "{why}"
    );
    let forced = Wish {
        force: true,
        ..Wish::default()
    };
    world
        .start(&forced, Options::default())
        .expect("starts without it");
    let status = world.array().status();
    assert!(status.members.iter().all(|m| m.id != MemberId(1)));
    assert_eq!(world.disks[&MemberId(0)].bytes.len(), DISK_BYTES);
}

/// Many known ranges that are written again are no read errors of a dying disk.
#[test]
fn known_bad_ranges_do_not_wear_a_member_out() {
    let mut world = World::create(&raid1(2));
    started(&mut world);
    let sectors = world.array().array_sectors();
    let model = content(1, sectors);
    world.write(0, &model).expect("written");
    world.stop();
    let ranges: Vec<_> = (0..60).map(|n| (n * 16, 8)).collect();
    spoil(&mut world, 0, &ranges);
    let options = Options {
        max_read_errors: 0,
        ..Options::default()
    };
    world.start(&Wish::default(), options).expect("starts");
    let check = SyncRequest::Start(SyncAction::Check);
    world.control(Control::Sync(check)).expect("checks");
    world.pass(60);
    let status = world.array().status();
    assert_eq!(status.members[0].role, MemberRole::InSync);
    assert_eq!(
        (
            status.members[0].corrected_read_errors,
            status.members[0].bad_ranges
        ),
        (0, 0)
    );
    world.control(Control::Fail(MemberId(1))).expect("failed");
    assert!(world.read(0, sectors as u32).expect("read") == model);
}
