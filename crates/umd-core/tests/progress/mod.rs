//! What is shown of a sync, and what is kept of it when the process dies.

use umd_core::array::{Control, MemberRole, Notice, Options, Purpose, SyncLimits, SyncRequest};
use umd_core::assembly::Wish;
use umd_core::sync::SyncAction;
use umd_core::value::{MAX_SECTOR, MemberId};
use umd_format::{Format, Level};

use crate::world::{Shape, World};

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);

fn limits(from: Option<u64>, to: Option<u64>) -> SyncLimits {
    SyncLimits {
        from_sectors: from,
        to_sectors: to,
        ..SyncLimits::default()
    }
}

fn check(world: &mut World, to: u64) {
    let start = SyncRequest::Start(SyncAction::Check);
    let wish = Control::Limits(limits(None, Some(to)), Some(start));
    world.control(wish).expect("begun");
}

fn held(world: &mut World) -> Option<bool> {
    world.array().status().sync.map(|sync| sync.held)
}

/// mdadm shows how much there is to do, and how much of it is done.
#[test]
fn a_sync_shows_how_far_it_has_to_go() {
    let mut world = World::running(&Shape::mirror(2));
    check(&mut world, 640);
    let size = world.array().status().dev_sectors;
    let sync = world.array().status().sync.expect("runs");
    assert_eq!(sync.action, SyncAction::Check);
    assert_eq!((sync.done_sectors, sync.total_sectors), (640, size));
    assert!(sync.held);
}

/// Held means that an administrator has to raise the limit; what is still on its way is not held.
#[test]
fn who_is_on_the_way_does_not_wait() {
    let mut world = World::running(&Shape::mirror(2));
    world.holds = Some(Purpose::Scrub);
    check(&mut world, 640);
    assert!(!world.kept_back.is_empty(), "reads are on their way");
    assert_eq!(held(&mut world), Some(false));
    let waits = |notice: &&Notice| matches!(notice, Notice::Message(t) if t.contains("waits"));
    assert_eq!(world.notices.iter().filter(waits).count(), 0);
    world.release_back();
    assert_eq!(held(&mut world), Some(true));
    assert_eq!(world.notices.iter().filter(waits).count(), 1);
    world.pass(1000);
    assert_eq!(world.notices.iter().filter(waits).count(), 1, "told once");
}

/// A limit at the very end holds nothing.
#[test]
fn a_sync_with_a_limit_at_its_end_is_over_there() {
    let mut world = World::running(&Shape::mirror(2));
    let size = world.array().status().dev_sectors;
    check(&mut world, size);
    world.pass(1);
    assert_eq!(held(&mut world), None);
    let waits = |notice: &Notice| matches!(notice, Notice::Message(t) if t.contains("waits"));
    assert!(!world.notices.iter().any(waits));
}

/// What is owed and cannot begin is shown: the array is not as safe as it looks.
#[test]
fn a_resync_that_is_owed_is_shown_as_pending() {
    let mut world = World::create(&Shape {
        assume_clean: false,
        ..Shape::mirror(2)
    });
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    world.start(&Wish::default(), options).expect("started");
    world.pass(1);
    let status = world.array().status();
    assert!(status.sync_pending && status.sync.is_none());
    assert_eq!(status.resync_from_sectors, Some(0));
    let limit = Control::Limits(limits(None, Some(640)), None);
    world.control(limit).expect("limited");
    world.control(Control::ReadOnly(false)).expect("writable");
    world.pass(1);
    let status = world.array().status();
    assert!(!status.sync_pending && status.sync.is_some(), "it runs");
    assert_eq!(
        status.resync_from_sectors,
        Some(640),
        "recorded where it waits"
    );
    let limit = Control::Limits(limits(None, Some(MAX_SECTOR)), None);
    world.control(limit).expect("raised");
    world.pass(1);
    let status = world.array().status();
    assert!(!status.sync_pending && status.sync.is_none(), "it is over");
    assert_eq!(status.resync_from_sectors, None);
}

/// A rebuild that waits at a limit is recorded there: a crash does not begin it again.
#[test]
fn a_killed_rebuild_goes_on_where_it_waited() {
    let mut world = World::running(&Shape {
        bitmap: false,
        ..Shape::mirror(2)
    });
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    world.disks.remove(&SECOND);
    let limit = Control::Limits(limits(None, Some(640)), None);
    world.control(limit).expect("limited");
    world.add(7).expect("added");
    world.pass(1);
    assert_eq!(held(&mut world), Some(true));
    world.kill();
    let recorded = world.superblock(7).fields.recovery_offset_sectors();
    assert_eq!(recorded, Some(640));
    world.begin();
    world.pass(1);
    let size = world.array().status().dev_sectors;
    assert_eq!(world.disks[&FIRST].read_sectors, size - 640);
    assert_eq!(world.array().status().degraded, 0);
}

/// A slow rebuild is recorded every few minutes, however little was done.
#[test]
fn a_slow_rebuild_is_recorded_now_and_then() {
    const BYTES: usize = 2 << 20;
    let shape = Shape {
        bitmap: false,
        ..Shape::mirror(2)
    };
    let mut world = World::create_sized(&shape, BYTES);
    world.begin();
    world.control(Control::Fail(SECOND)).expect("failed");
    world.control(Control::Remove(SECOND)).expect("removed");
    let slow = SyncLimits {
        speed_max_kib_s: Some(Some(1)),
        ..SyncLimits::default()
    };
    world.control(Control::Limits(slow, None)).expect("limited");
    let disk = world.disks.remove(&SECOND).expect("a disk");
    world.disks.insert(MemberId(7), disk);
    let mut new = world.new_member(7, None);
    new.size_sectors = BYTES as u64 / 512;
    world.control(Control::Add(new)).expect("added");
    world.pass(290);
    let recorded = |world: &World| world.superblock(7).fields.recovery_offset_sectors();
    assert_eq!(recorded(&world), Some(0), "not with every step");
    world.pass(310);
    let sync = world.array().status().sync.expect("it takes half an hour");
    let kept = recorded(&world).expect("half a member");
    assert!((1..=sync.done_sectors).contains(&kept), "{kept}");
}

/// RAID10 copies for one member what its bitmap marks, and nothing else.
#[test]
fn a_raid10_member_that_comes_back_gets_what_it_missed() {
    for layout in [0x102, 0x201, 0x10201] {
        let mut world = World::running(&Shape {
            level: Level::Raid10,
            layout,
            chunk_sectors: 16,
            ..Shape::mirror(4)
        });
        world.pass(60);
        world.control(Control::Fail(SECOND)).expect("failed");
        world.control(Control::Remove(SECOND)).expect("removed");
        let size = world.array().array_sectors();
        let last = size - 64;
        for at in [0, last] {
            world.write(at, &[7; 64 * 512]).expect("written");
        }
        for disk in world.disks.values_mut() {
            disk.read_sectors = 0;
        }
        let superblock = world.superblock(1);
        let back = world.new_member(1, Some(superblock));
        world.control(Control::ReAdd(back)).expect("taken back");
        world.pass(1);
        let read: u64 = world.disks.values().map(|disk| disk.read_sectors).sum();
        // Two regions or three of the array; half of their copies are on that member at the most.
        assert!(read <= 3 * 128, "{layout:#x}: {read}");
        world.control(Control::Fail(FIRST)).expect("failed");
        for at in [0, last] {
            assert!(world.read(at, 64).expect("read") == [7; 64 * 512]);
        }
    }
}

/// What no source can give is recorded as bad where it lies on the new member, and nowhere else.
#[test]
fn a_rebuild_calls_bad_what_it_could_not_copy_and_no_more() {
    for layout in [0x102, 0x201, 0x10201] {
        let mut world = World::running(&Shape {
            level: Level::Raid10,
            layout,
            chunk_sectors: 16,
            bitmap: false,
            ..Shape::mirror(3)
        });
        let size = world.array().array_sectors();
        let wanted: Vec<u8> = (0..size * 512).map(|i| (i >> 9) as u8).collect();
        world.write(0, &wanted).expect("written");
        world.control(Control::Fail(SECOND)).expect("failed");
        world.control(Control::Remove(SECOND)).expect("removed");
        world.disks.remove(&SECOND);
        for id in [0, 2] {
            let from = world.superblock(id).fields.data_offset_sectors;
            let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
            disk.bad.extend([from + 100, from + 600]);
        }
        world.add(7).expect("added");
        world.pass(2);
        let status = world.array().status();
        assert_eq!(status.degraded, 0, "{layout:#x}");
        let new = status.members.iter().find(|m| m.id == MemberId(7));
        let new = new.expect("it is there");
        assert_eq!(new.role, MemberRole::InSync);
        assert!(new.bad_sectors > 0, "{layout:#x}: {new:?}");
        let mut lost = 0;
        for (at, wanted) in (0..size).zip(wanted.chunks(512)) {
            match world.read(at, 1) {
                Ok(read) => assert!(read == wanted, "{layout:#x}: sector {at}"),
                Err(_) => lost += 1,
            }
        }
        assert!((1..=4).contains(&lost), "{layout:#x}: {lost} sectors");
    }
}

/// What nobody can read stays so until somebody does something: a rebuild that was given up is not
/// begun anew by itself, and no further spare is spent on it.
#[test]
fn a_rebuild_that_was_given_up_waits_for_an_administrator() {
    // Where the data reaches the end there is no log of bad blocks.
    let mut world = World::running(&Shape {
        bitmap: false,
        format: Format::V1_0,
        ..Shape::mirror(3)
    });
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    world.control(Control::Fail(SECOND)).expect("failed");
    for id in [7, 8] {
        world.add(id).expect("added");
    }
    let size = world.array().status().dev_sectors;
    for id in [0, 2] {
        let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
        disk.bad.insert(size - 1);
    }
    let idle = Control::Sync(SyncRequest::Idle);
    world.control(idle).expect("goes on");
    world.pass(1);
    let ended = |notice: &&Notice| {
        matches!(
            notice,
            Notice::SyncEnded {
                complete: false,
                ..
            }
        )
    };
    assert_eq!(world.notices.iter().filter(ended).count(), 1);
    let third = MemberId(2);
    world.control(Control::Fail(third)).expect("failed");
    world.pass(1000);
    let status = world.array().status();
    assert_eq!((status.degraded, status.sync), (2, None));
    let role = |id| {
        status
            .members
            .iter()
            .find(|m| m.id == MemberId(id))
            .map(|m| m.role)
    };
    assert!(
        matches!(role(7), Some(MemberRole::Recovering { .. })),
        "its slot waits"
    );
    assert_eq!(role(8), Some(MemberRole::Spare));
    // He copies what there is from elsewhere; now it goes on.
    let disk = world.disks.get_mut(&FIRST).expect("a disk");
    disk.bad.clear();
    world.control(Control::Remove(third)).expect("removed");
    world.pass(1);
    assert_eq!(world.array().status().degraded, 0);
}
