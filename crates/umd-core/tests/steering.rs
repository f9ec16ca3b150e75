//! Sync actions under control: where they go, how fast, and where they go on.

mod world;

use umd_core::array::{
    Control, ControlError, MemberRole, Notice, RequestOp, SyncLimits, SyncRequest,
};
use umd_core::sync::SyncAction;
use umd_core::value::{MAX_SECTOR, MemberId};
use umd_format::{Format, Level};
use world::{DISK_BYTES, Disk, Shape, World};

fn shape(level: Level, layout: u32, disks: u16, chunk_sectors: u32) -> Shape {
    Shape {
        level,
        layout,
        disks,
        chunk_sectors,
        bitmap: false,
        format: Format::V1_2,
        assume_clean: true,
    }
}

fn started(shape: &Shape, bytes: usize) -> World {
    let mut world = World::create_sized(shape, bytes);
    world.begin();
    world.drain();
    world
}

fn between(from: Option<u64>, to: Option<u64>) -> SyncLimits {
    SyncLimits {
        from_sectors: from,
        to_sectors: to,
        ..SyncLimits::default()
    }
}

fn speed(min: Option<u32>, max: Option<u32>) -> SyncLimits {
    SyncLimits {
        speed_min_kib_s: Some(min),
        speed_max_kib_s: Some(max),
        ..SyncLimits::default()
    }
}

fn check(limits: SyncLimits) -> Control {
    Control::Limits(limits, Some(SyncRequest::Start(SyncAction::Check)))
}

/// What the sync has done, if one runs.
fn done(world: &mut World) -> Option<(u64, bool)> {
    let status = world.array().status();
    status.sync.map(|sync| (sync.done_sectors, sync.held))
}

fn limits(world: &mut World) -> (u64, Option<u64>) {
    let status = world.array().status();
    (
        status.sync_limits.from_sectors,
        status.sync_limits.to_sectors,
    )
}

#[test]
fn a_check_begins_at_sync_min_and_waits_at_sync_max() {
    let mut world = started(&shape(Level::Raid5, 2, 3, 8), DISK_BYTES);
    let start = world.superblock(0).fields.data_offset_sectors;
    world
        .control(check(between(Some(96), Some(640))))
        .expect("runs");
    assert_eq!(done(&mut world), Some((640, true)));
    for id in 0..3 {
        let disk = &world.disks[&MemberId(id)];
        assert_eq!(disk.lowest_read, Some(start + 96));
        assert_eq!(disk.read_sectors, 640 - 96, "and not a sector more");
    }
    let told = |n: &Notice| matches!(n, Notice::Message(text) if text.contains("sector 640"));
    assert_eq!(world.notices.iter().filter(|n| told(n)).count(), 1);
    world.pass(60);
    assert_eq!(done(&mut world), Some((640, true)), "it waits");

    // Below where it is it cannot wait any more, and its beginning is over.
    let busy = |answer: Result<_, ControlError>| matches!(answer, Err(ControlError::Busy(_)));
    assert!(busy(
        world.control(Control::Limits(between(None, Some(632)), None))
    ));
    assert!(busy(
        world.control(Control::Limits(between(Some(0), None), None))
    ));
    assert_eq!(limits(&mut world), (96, Some(640)));
    world
        .control(Control::Limits(between(None, Some(720)), None))
        .expect("raised");
    world
        .control(Control::Limits(between(None, Some(720)), None))
        .expect("the same");
    assert_eq!(done(&mut world), Some((720, true)));
    world
        .control(Control::Limits(between(None, Some(MAX_SECTOR)), None))
        .expect("raised");
    assert_eq!(done(&mut world), None, "it went on to the end");
    assert_eq!(
        limits(&mut world),
        (0, None),
        "and needs no limits any more"
    );
    world.stop();
}

#[test]
fn an_interrupted_check_goes_on_where_it_was() {
    let mut world = started(&shape(Level::Raid1, 0, 2, 0), DISK_BYTES);
    world
        .control(check(between(None, Some(520))))
        .expect("runs");
    assert_eq!(done(&mut world), Some((520, true)));
    world
        .control(Control::Sync(SyncRequest::Idle))
        .expect("ends");
    assert_eq!(done(&mut world), None);
    assert_eq!(limits(&mut world), (520, Some(520)));
    for disk in world.disks.values_mut() {
        disk.read_sectors = 0;
    }
    let size = world.array().status().dev_sectors;
    world
        .control(check(between(None, Some(MAX_SECTOR))))
        .expect("runs");
    assert_eq!(limits(&mut world), (0, None));
    assert_eq!(world.disks[&MemberId(0)].read_sectors, size - 520);
}

#[test]
fn limits_that_make_no_sense_change_nothing() {
    let mut world = started(&shape(Level::Raid6, 2, 4, 16), DISK_BYTES);
    world
        .control(Control::Limits(between(Some(32), Some(64)), None))
        .expect("set");
    for wish in [
        between(Some(8), None),
        between(None, Some(40)),
        between(Some(80), None),
        between(None, Some(16)),
        between(Some(1 << 40), Some(MAX_SECTOR)),
        between(None, Some(1 << 40)),
        speed(Some(0), None),
        speed(None, Some(0)),
        speed(Some(500), Some(499)),
    ] {
        for then in [None, Some(SyncRequest::Start(SyncAction::Check))] {
            let answer = world.control(Control::Limits(wish, then));
            assert!(matches!(answer, Err(ControlError::Invalid(_))), "{wish:?}");
            assert_eq!(done(&mut world), None, "nothing runs");
        }
    }
    assert_eq!(limits(&mut world), (32, Some(64)));
    let one_speed = Control::Limits(speed(Some(500), Some(500)), None);
    world.control(one_speed).expect("no faster and no slower");
    let mut world = started(&shape(Level::Raid0, 2, 2, 8), DISK_BYTES);
    let answer = world.control(Control::Limits(between(None, Some(64)), None));
    assert!(
        matches!(answer, Err(ControlError::Invalid(_))),
        "no redundancy"
    );
}

/// Milliseconds that a check takes, with a host that writes every `host` milliseconds.
fn check_millis(world: &mut World, wish: SyncLimits, host: Option<u64>) -> u64 {
    let begun = world.now.mono;
    world.control(check(wish)).expect("runs");
    let mut millis = 0;
    while done(world).is_some() {
        if host.is_some_and(|pause| millis % pause == 0) {
            world.write(0, &[7; 512]).expect("written");
        }
        world.pass_millis(1);
        millis += 1;
        assert!(millis < 100_000, "a check ends");
    }
    (world.now.mono - begun).0 / 1_000_000
}

/// 8 MiB of each member at 1 MiB/s beside hosts, and 4 MiB/s without.
#[test]
fn hosts_are_made_room_for_down_to_the_minimum() {
    let mut world = started(&shape(Level::Raid1, 0, 2, 0), 8 << 20);
    let kib = world.array().status().dev_sectors / 2;
    let wish = speed(Some(1024), Some(4096));
    let near = |millis: u64, rate: u64| millis.abs_diff(kib * 1000 / rate) < 400;
    let free = check_millis(&mut world, wish, None);
    assert!(near(free, 4096), "{free}");
    let beside = check_millis(&mut world, wish, Some(50));
    assert!(near(beside, 1024), "{beside}");
    // A host that naps leaves most of the time.
    let napping = check_millis(&mut world, wish, Some(1000));
    assert!(near(napping, 3800), "{napping}");
    // And without limits time stands still in this world, hosts or not.
    let unlimited = check_millis(&mut world, speed(None, None), Some(1));
    assert!(unlimited <= 1, "{unlimited}");
}

#[test]
fn a_limit_that_is_raised_counts_at_once() {
    let mut world = started(&shape(Level::Raid1, 0, 2, 0), 8 << 20);
    world.control(check(speed(None, Some(1)))).expect("runs");
    world.pass(100);
    let (slow, _) = done(&mut world).expect("runs");
    assert!(slow <= 1024, "{slow}");
    world
        .control(Control::Limits(speed(None, None), None))
        .expect("raised");
    assert_eq!(done(&mut world), None);
}

/// A resync that waits at `sync_max` is recorded there, and goes on there after the process died.
#[test]
fn a_killed_resync_goes_on_at_its_checkpoint() {
    let mut shape = shape(Level::Raid5, 2, 3, 8);
    shape.assume_clean = false;
    let mut world = World::create_sized(&shape, 24 << 20);
    world.begin();
    // The first unit waits for the speed limit, long before all would be done.
    let both = SyncLimits {
        speed_max_kib_s: Some(Some(16 << 10)),
        ..between(None, Some(36_864))
    };
    world.control(Control::Limits(both, None)).expect("set");
    world.pass_millis(900);
    let (at, held) = done(&mut world).expect("runs");
    assert!((32_256..36_864).contains(&at) && !held, "{at}");
    world.pass(1);
    assert_eq!(done(&mut world), Some((36_864, true)));
    assert_eq!(world.superblock(0).fields.resync_offset_sectors, 36_864);
    let start = world.superblock(0).fields.data_offset_sectors;
    world.kill();
    world.begin();
    world.drain();
    assert_eq!(done(&mut world), None);
    for id in 0..3 {
        let disk = &world.disks[&MemberId(id)];
        assert_eq!(
            disk.lowest_read,
            Some(start + 36_864),
            "what was done is not read"
        );
    }
    assert_eq!(world.superblock(0).fields.resync_offset_sectors, MAX_SECTOR);
}

fn replace(world: &mut World, bytes: usize, lost: &[u32], new: &[u32]) {
    world
        .control(Control::Sync(SyncRequest::Frozen))
        .expect("frozen");
    for id in lost {
        world.control(Control::Fail(MemberId(*id))).expect("failed");
    }
    for id in new {
        let disk = Disk {
            bytes: vec![0x5a; bytes],
            ..Disk::default()
        };
        world.disks.insert(MemberId(*id), disk);
        let mut offer = world.new_member(*id, None);
        offer.size_sectors = bytes as u64 / 512;
        world.control(Control::Add(offer)).expect("added");
    }
    for disk in world.disks.values_mut() {
        (disk.read_sectors, disk.lowest_read) = (0, None);
    }
}

fn thaw(world: &mut World) {
    world
        .control(Control::Sync(SyncRequest::Idle))
        .expect("thawed");
}

#[test]
fn a_killed_recovery_goes_on_at_its_checkpoint() {
    for (level, layout, disks, chunk) in [
        (Level::Raid1, 0, 2, 0),
        (Level::Raid5, 2, 3, 8),
        (Level::Raid10, 0x102, 4, 8),
        (Level::Raid10, 0x201, 3, 8),
    ] {
        let bytes = 24 << 20;
        let mut world = started(&shape(level, layout, disks, chunk), bytes);
        let pattern: Vec<u8> = (0..1 << 20).map(|i| (i * 7 % 253) as u8).collect();
        for n in 0..8 {
            world.write(n * 2048, &pattern).expect("written");
        }
        replace(&mut world, bytes, &[0], &[9]);
        world
            .control(Control::Limits(between(None, Some(36_864)), None))
            .expect("set");
        thaw(&mut world);
        assert_eq!(done(&mut world), Some((36_864, true)), "{level:?}");
        world.pass(5);
        let superblock = world.superblock(9);
        assert_eq!(superblock.fields.recovery_offset_sectors(), Some(36_864));
        world.kill();
        world.disks.remove(&MemberId(0));
        world.begin();
        world.drain();
        let status = world.array().status();
        assert_eq!((status.degraded, status.sync), (0, None), "{level:?}");
        let read: u64 = world.disks.values().map(|disk| disk.read_sectors).sum();
        let rest = status.dev_sectors - 36_864;
        let most = rest * if level == Level::Raid5 { 2 } else { 1 } + 64;
        assert!(rest <= read && read <= most, "{level:?}: {read} of {rest}");
        for n in 0..8 {
            assert!(
                world.read(n * 2048, 2048).expect("read") == pattern,
                "{level:?}"
            );
        }
    }
}

/// Members that are lost, members in all, and how often each sector of a lost member is read.
#[test]
fn several_members_are_filled_in_one_pass_and_sources_are_read_once() {
    for (level, layout, disks, lost, reads) in [
        (Level::Raid1, 0, 4, vec![0, 2, 3], 1),
        (Level::Raid6, 2, 5, vec![1, 3], 3),
        (Level::Raid10, 0x102, 4, vec![0, 2], 2),
        (Level::Raid10, 0x102, 6, vec![1, 2, 4], 3),
        // Two copies of three in one row: read once for both.
        (Level::Raid10, 0x103, 3, vec![0, 1], 1),
        (Level::Raid10, 0x10201, 4, vec![0, 2], 2),
        (Level::Raid10, 0x201, 4, vec![1, 3], 2),
    ] {
        let chunk = if level == Level::Raid1 { 0 } else { 8 };
        let mut world = started(&shape(level, layout, disks, chunk), DISK_BYTES);
        let size = world.array().status().array_sectors;
        let data: Vec<u8> = (0..size * 512)
            .map(|i| (i * 31 % 241) as u8 ^ (i >> 9) as u8)
            .collect();
        world.write(0, &data).expect("written");
        let new: Vec<u32> = (0..lost.len() as u32).map(|n| 10 + n).collect();
        replace(&mut world, DISK_BYTES, &lost, &new);
        world.notices.clear();
        thaw(&mut world);
        let status = world.array().status();
        assert_eq!((status.degraded, &status.sync), (0, &None), "{level:?}");
        let begun = |n: &&Notice| matches!(n, Notice::SyncStarted(SyncAction::Recover));
        assert_eq!(world.notices.iter().filter(begun).count(), 1, "one pass");
        let read: u64 = world.disks.values().map(|disk| disk.read_sectors).sum();
        assert_eq!(read, reads * status.dev_sectors, "{level:?} {layout:#x}");
        let synced = status
            .members
            .iter()
            .filter(|m| m.role == MemberRole::InSync);
        assert_eq!(synced.count(), usize::from(disks));
        assert!(
            world.read(0, size as u32).expect("read") == data,
            "{level:?}"
        );
        // What the new ones hold is what is read when they are all that is left of their groups.
        world
            .control(check(SyncLimits::default()))
            .expect("checked");
        assert_eq!(
            world.array().status().mismatch_sectors,
            0,
            "{level:?} {layout:#x}"
        );
    }
}

/// Who took it while being rebuilt is whole by now, and holds it.
#[test]
fn a_write_that_outlives_a_rebuild_needs_nobody_else() {
    for (level, layout) in [(Level::Raid1, 0), (Level::Raid10, 0x102)] {
        let chunk_sectors = if level == Level::Raid1 { 0 } else { 16 };
        let mut world = started(&shape(level, layout, 2, chunk_sectors), DISK_BYTES);
        let (lost, kept) = (MemberId(0), MemberId(1));
        world.control(Control::Fail(lost)).expect("failed");
        world.control(Control::Remove(lost)).expect("removed");
        let limits = between(None, Some(256));
        world.control(Control::Limits(limits, None)).expect("set");
        world.add(10).expect("added");
        world.pass(2);
        assert_eq!(done(&mut world), Some((256, true)));
        world.held = Some(kept);
        let data = world.pool.copy_of(&[7; 512]);
        let write = world.submit(RequestOp::Write {
            offset_sectors: 8,
            data,
            fua: false,
        });
        let all = between(None, Some(MAX_SECTOR));
        world.control(Control::Limits(all, None)).expect("set");
        world.pass(2);
        assert_eq!(world.array().status().members[1].role, MemberRole::InSync);
        world.release(true);
        world.reply(write).expect("the new member holds it");
        assert!(world.read(8, 1).expect("read") == [7; 512]);
    }
}
