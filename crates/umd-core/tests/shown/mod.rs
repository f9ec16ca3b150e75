//! All of what is shown of an array, word for word: `mdadm --detail`, `/proc/mdstat` and `/sys` are
//! made of it and of nothing else.

use umd_core::array::{
    ArrayState, BitmapStatus, Control, LimitsStatus, MemberRole, MemberStatus, Notice, Purpose,
    Settings, Status, SyncLimits, SyncRequest, SyncStatus,
};
use umd_core::sync::SyncAction;
use umd_core::value::{Events, MemberId, Slot, Span};
use umd_format::badblocks::BadRange;
use umd_format::{Format, Level};

use crate::world::{DISK_BYTES, Shape, World};

/// What a member shows that serves in the slot of its number and has met no trouble.
fn serves(number: u32, data: (u64, u64)) -> MemberStatus {
    MemberStatus {
        id: MemberId(number),
        name: format!("d{number}"),
        number,
        slot: Some(Slot(number as u16)),
        role: MemberRole::InSync,
        replacement: false,
        want_replacement: false,
        write_mostly: false,
        failfast: false,
        data_offset_sectors: data.0,
        data_size_sectors: data.1,
        corrected_read_errors: 0,
        bad_ranges: 0,
        bad_sectors: 0,
        bad_blocks: Vec::new(),
        fault: None,
    }
}

/// What an array of this shape shows that was created, started, and has nothing to do. Its members
/// have room for `room` sectors from `offset` on, and give `used` of them.
fn at_rest(shape: &Shape, (offset, room, used): (u64, u64, u64), array_sectors: u64) -> Status {
    let striped = matches!(shape.level, Level::Raid0 | Level::Linear);
    Status {
        state: ArrayState::Clean,
        uuid: [7; 16],
        set_name: "host:test".into(),
        format: shape.format,
        preferred_minor: 0,
        level: shape.level.to_raw(),
        layout: if shape.level == Level::Raid0 {
            -1
        } else {
            shape.layout as i32
        },
        chunk_sectors: shape.chunk_sectors,
        raid_disks: shape.disks,
        array_sectors,
        dev_sectors: if striped { 0 } else { used },
        ctime_seconds: 1_700_000_000,
        utime_seconds: 1_700_000_000,
        events: Events(0),
        degraded: 0,
        members: (0..u32::from(shape.disks))
            .map(|n| serves(n, (offset, room)))
            .collect(),
        sync: None,
        reshape: None,
        sync_pending: false,
        resync_from_sectors: None,
        sync_requested: None,
        sync_frozen: false,
        sync_limits: LimitsStatus::default(),
        last_sync: None,
        mismatch_sectors: 0,
        mismatches: std::sync::Arc::default(),
        bitmap: None,
        faulty: None,
        logical_block_bytes: 512,
        requests_in_flight: 0,
        safe_mode_delay_ms: 210,
        max_read_errors: 20,
        fail_last_dev: false,
        suspended_sectors: (0, 0),
        suspended_writes: 0,
    }
}

fn started(shape: &Shape) -> World {
    let mut world = World::create(shape);
    world.begin();
    world.drain();
    world
}

#[test]
fn an_array_at_rest_shows_how_it_was_made() {
    let sectors = DISK_BYTES as u64 / 512;
    let room = (128, sectors - 128, sectors - 128);
    let mirror = Shape {
        bitmap: false,
        ..Shape::mirror(3)
    };
    let rows = Shape {
        bitmap: false,
        ..Shape::parity(Level::Raid6, 5)
    };
    let stripes = Shape {
        level: Level::Raid0,
        chunk_sectors: 8,
        layout: 0,
        ..Shape::mirror(2)
    };
    let stripes = Shape {
        bitmap: false,
        ..stripes
    };
    for (shape, array_sectors) in [
        (&mirror, sectors - 128),
        (&rows, 3 * (sectors - 128)),
        (&stripes, 2 * (sectors - 128)),
    ] {
        let mut world = started(shape);
        assert_eq!(world.array().status(), at_rest(shape, room, array_sectors));
    }
}

/// The bitmap of a mirror of `DISK_BYTES`: nine regions of 64 KiB.
fn bitmap(dirty_bits: u64) -> BitmapStatus {
    BitmapStatus {
        file: None,
        fault: None,
        offset_sectors: 8,
        chunk_bytes: 65_536,
        bits: 9,
        dirty_bits,
        daemon_sleep_seconds: 5,
        write_behind: 0,
        behind_writes: 0,
    }
}

#[test]
fn an_array_that_is_written_shows_it_until_it_is_idle() {
    let shape = Shape::mirror(2);
    let mut world = started(&shape);
    // A new bitmap marks everything, until nobody has written for a while.
    world.pass(60);
    let quiet = world.array().status();
    let room = quiet.members[0].data_size_sectors;
    let calm = Status {
        bitmap: Some(bitmap(0)),
        ..at_rest(&shape, (128, room, room), room)
    };
    assert_eq!(quiet, calm);
    world.holds = Some(Purpose::Super);
    world.now.wall_seconds = 1_700_000_777;
    let write = world.ask_to_write(200, &[1; 512]);
    let waits = Status {
        state: ArrayState::WritePending,
        utime_seconds: 1_700_000_777,
        events: Events(1),
        requests_in_flight: 1,
        bitmap: Some(bitmap(1)),
        ..calm.clone()
    };
    assert_eq!(world.array().status(), waits);
    world.release_back();
    assert!(world.is_answered(write));
    let active = Status {
        state: ArrayState::Active,
        requests_in_flight: 0,
        ..waits.clone()
    };
    assert_eq!(world.array().status(), active);
    // Nobody writes any more: caches are flushed, and then superblocks say clean.
    world.holds = Some(Purpose::Flush);
    world.pass(1);
    let idle = Status {
        state: ArrayState::ActiveIdle,
        ..active.clone()
    };
    let shown = world.array().status();
    let events = shown.events;
    assert_eq!(shown, Status { events, ..idle });
    world.release_back();
    world.pass(60);
    let clean = Status {
        state: ArrayState::Clean,
        events: Events(2),
        ..active
    };
    let clean = Status {
        bitmap: Some(bitmap(0)),
        ..clean
    };
    assert_eq!(world.array().status(), clean);
}

#[test]
fn an_array_in_trouble_shows_what_is_wrong_and_what_is_done_about_it() {
    let shape = Shape {
        bitmap: false,
        ..Shape::mirror(3)
    };
    let mut world = started(&shape);
    let room = world.array().status().dev_sectors;
    let limits = SyncLimits {
        from_sectors: Some(64),
        to_sectors: Some(640),
        speed_min_kib_s: Some(Some(5)),
        speed_max_kib_s: Some(Some(1 << 20)),
    };
    world
        .control(Control::Limits(limits, None))
        .expect("limited");
    let settings = Settings {
        safe_mode_delay: Some(Span::millis(5000)),
        max_read_errors: Some(7),
        suspend_lo_sectors: Some(8),
        suspend_hi_sectors: Some(16),
        ..Settings::default()
    };
    world.control(Control::Settings(settings)).expect("set");
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world.add(7).expect("added");
    world.add(8).expect("added");
    let replace = Control::Replace {
        member: MemberId(2),
        with: None,
    };
    world.control(replace).expect("wished");
    let waits = world.ask_to_write(8, &[1; 512]);
    world.pass(1);
    assert!(!world.is_answered(waits));
    // What it shows is of the last moment in which anything happened.
    world
        .control(Control::Settings(settings))
        .expect("the same");
    let status = world.array().status();
    let rebuilt = MemberRole::Recovering {
        recovered_sectors: 640,
    };
    let added = |id: u32, number: u32| MemberStatus {
        id: MemberId(id),
        name: format!("d{id}"),
        ..serves(number, (128, room))
    };
    let members = vec![
        serves(0, (128, room)),
        MemberStatus {
            slot: None,
            role: MemberRole::Faulty,
            fault: Some("set faulty on request".into()),
            ..serves(1, (128, room))
        },
        MemberStatus {
            want_replacement: true,
            ..serves(2, (128, room))
        },
        MemberStatus {
            slot: Some(Slot(1)),
            role: rebuilt,
            ..added(7, 3)
        },
        // It waits until redundancy is whole.
        MemberStatus {
            slot: None,
            role: MemberRole::Spare,
            ..added(8, 4)
        },
    ];
    let sync = SyncStatus {
        action: SyncAction::Recover,
        done_sectors: 640,
        total_sectors: room,
        speed_kib_s: 320,
        finish_seconds: Some((room - 640) / 2 / 320),
        held: true,
    };
    let shown = Status {
        utime_seconds: status.utime_seconds,
        events: status.events,
        degraded: 1,
        members,
        sync: Some(sync),
        sync_limits: LimitsStatus {
            from_sectors: 64,
            to_sectors: Some(640),
            speed_min_kib_s: Some(5),
            speed_max_kib_s: Some(1 << 20),
        },
        requests_in_flight: 1,
        safe_mode_delay_ms: 5000,
        max_read_errors: 7,
        suspended_sectors: (8, 16),
        suspended_writes: 1,
        ..at_rest(&shape, (128, room, room), room)
    };
    assert_eq!(status, shown);
    world
        .control(Control::Sync(SyncRequest::Frozen))
        .expect("frozen");
    let frozen = Status {
        sync: None,
        sync_frozen: true,
        last_sync: Some(SyncAction::Recover),
        ..shown
    };
    let status = world.array().status();
    let told = Status {
        events: status.events,
        ..frozen
    };
    assert_eq!(status, told);
}

/// A picture that is kept up to date is the one that would be taken now, whatever has changed.
#[test]
fn a_picture_brought_up_to_date_is_a_new_one() {
    let mut world = started(&Shape {
        assume_clean: false,
        ..Shape::mirror(3)
    });
    let mut kept = world.array().status();
    let steps: [fn(&mut World); 7] = [
        |world| {
            world
                .control(Control::Fail(MemberId(1)))
                .map(drop)
                .expect("failed")
        },
        |world| {
            world
                .control(Control::Remove(MemberId(1)))
                .map(drop)
                .expect("removed")
        },
        |world| world.add(7).map(drop).expect("added"),
        |world| world.pass(1),
        |world| world.disks.get_mut(&MemberId(0)).expect("a disk").bytes[90 << 10] ^= 1,
        |world| assert_eq!(world.mismatch(), 128),
        |world| assert_eq!(world.mismatch(), 128),
    ];
    for step in steps {
        step(&mut world);
        world.array().refresh(&mut kept);
        assert_eq!(kept, world.array().status());
    }
    assert_eq!(kept.mismatches.len(), 1);
}

/// Metadata 0.90 has a number of the md device, and other room; RAID0 of one size of disks has no
/// layout to show, linear has the one it was made with.
#[test]
fn what_levels_and_formats_differ_in_is_shown() {
    for (level, format, layout) in [
        (Level::Linear, Format::V1_2, 0),
        (Level::Raid0, Format::V1_2, -1),
        (Level::Raid10, Format::V1_2, 0x102),
        (Level::Raid5, Format::V090, 2),
    ] {
        let layout_made = if layout < 0 { 0 } else { layout as u32 };
        let shape = Shape {
            level,
            layout: layout_made,
            chunk_sectors: 16,
            format,
            bitmap: false,
            ..Shape::mirror(4)
        };
        let mut world = started(&shape);
        let status = world.array().status();
        assert_eq!((status.level, status.layout), (level.to_raw(), layout));
        assert_eq!((status.format, status.preferred_minor), (format, 0));
        assert_eq!((status.raid_disks, status.chunk_sectors), (4, 16));
    }
}

/// What has been told since this was asked last.
fn told(world: &mut World) -> Vec<Notice> {
    std::mem::take(&mut world.notices)
}

/// Whoever waits for news of an array hears all of it, once and in order.
#[test]
fn what_happens_to_a_member_is_told() {
    let mut world = started(&Shape {
        assume_clean: false,
        bitmap: false,
        ..Shape::mirror(3)
    });
    let action = SyncAction::Resync;
    let resync = [
        Notice::SyncStarted(action),
        Notice::SyncEnded {
            action,
            complete: true,
            mismatch_sectors: 1152,
        },
    ];
    assert_eq!(told(&mut world), resync);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    let failed = |id, why: &str| Notice::Failed {
        member: MemberId(id),
        why: why.into(),
    };
    let why = "set faulty on request";
    assert_eq!(told(&mut world), [failed(1, why), Notice::Changed]);
    world
        .control(Control::Remove(MemberId(1)))
        .expect("removed");
    assert_eq!(told(&mut world), [Notice::Changed]);
    world.add(7).expect("added");
    let action = SyncAction::Recover;
    let rebuilt = [
        // It has a slot.
        Notice::Changed,
        Notice::SyncStarted(action),
        Notice::Activated(MemberId(7)),
        Notice::Changed,
        Notice::SyncEnded {
            action,
            complete: true,
            mismatch_sectors: 1152,
        },
    ];
    assert_eq!(told(&mut world), rebuilt);
    for id in [0, 2] {
        world.disks.get_mut(&MemberId(id)).expect("a disk").gone = true;
    }
    world.write(0, &[1; 512]).expect("one is left");
    let mut news = told(&mut world);
    news.retain(|notice| *notice != Notice::Changed);
    let why = "superblock write failed: device gone";
    assert_eq!(news, [failed(0, why), failed(2, why)]);
    world.disks.get_mut(&MemberId(7)).expect("a disk").gone = true;
    assert!(world.write(0, &[1; 512]).is_err());
    let [Notice::Broken(text)] = &told(&mut world)[..] else {
        panic!("it is broken, and that is told once")
    };
    assert!(
        text.contains("member d7 failed") && text.contains("writes are refused"),
        "{text}"
    );
}

/// A check tells what it found, a setting that it was made, and a fault of a disk what it costs.
#[test]
fn what_is_asked_for_and_what_is_found_is_told() {
    let mut world = World::running(&Shape {
        assume_clean: false,
        bitmap: false,
        ..Shape::mirror(2)
    });
    told(&mut world);
    let disk = world.disks.get_mut(&MemberId(1)).expect("a disk");
    disk.bytes[(128 + 700) * 512] ^= 1;
    assert_eq!(world.mismatch(), 128);
    let action = SyncAction::Check;
    let check = [
        Notice::SyncStarted(action),
        Notice::SyncEnded {
            action,
            complete: true,
            mismatch_sectors: 128,
        },
    ];
    assert_eq!(told(&mut world), check);
    world
        .control(Control::Settings(Settings::default()))
        .expect("set");
    assert_eq!(told(&mut world), [Notice::Changed]);
    // One that reads well is told nothing of.
    world.read(0, 64).expect("read");
    assert_eq!(told(&mut world), []);
    let disk = world.disks.get_mut(&MemberId(1)).expect("a disk");
    disk.worn.extend([128 + 8, 128 + 9]);
    world.write(0, &[1; 32 * 512]).expect("written");
    let news = told(&mut world);
    let refused = |notice: &&Notice| {
        matches!(notice, Notice::BadBlocks { member: MemberId(1), sectors: 1.., text }
            if text.contains("member d1 refused to write"))
    };
    assert!(news.iter().any(|one| refused(&one)), "{news:?}");
    let counted: u64 = news
        .iter()
        .map(|notice| match notice {
            Notice::BadBlocks { sectors, .. } => *sectors,
            _ => 0,
        })
        .sum();
    assert_eq!(counted, world.array().status().members[1].bad_sectors);
}

/// A part of the picture with one dirty region in it is never shown as clean.
#[test]
fn the_map_shows_where_regions_are_dirty_and_blocks_are_bad() {
    let mut world = World::running(&Shape::mirror(2));
    world.pass(60);
    assert_eq!(world.array().map(3).dirty_percent, Some(vec![0, 0, 0]));
    for region in [0, 7, 8] {
        world.write(region * 128, &[1; 512]).expect("written");
    }
    for (cells, percent) in [
        (0, vec![34]),
        (1, vec![34]),
        (2, vec![25, 40]),
        (3, vec![34, 0, 67]),
        (9, vec![100, 0, 0, 0, 0, 0, 0, 100, 100]),
        (100, vec![100, 0, 0, 0, 0, 0, 0, 100, 100]),
    ] {
        assert_eq!(
            world.array().map(cells).dirty_percent,
            Some(percent),
            "{cells}"
        );
    }
    let places = |world: &mut World| -> Vec<(MemberId, Vec<(u64, u64)>)> {
        let all = world.array().map(1).bad.into_iter();
        let pair = |range: BadRange| (range.start_sectors, range.length_sectors);
        all.map(|(id, bad)| (id, bad.into_iter().map(pair).collect()))
            .collect()
    };
    assert_eq!(
        places(&mut world),
        [(MemberId(0), vec![]), (MemberId(1), vec![])]
    );
    world
        .disks
        .get_mut(&MemberId(1))
        .expect("a disk")
        .worn
        .insert(128 + 40);
    world
        .write(32, &[1; 16 * 512])
        .expect("the other one holds it");
    let shown = world.array().status().members[1].bad_blocks.clone();
    assert!(
        shown.iter().any(|(at, len)| (*at..at + len).contains(&168)),
        "{shown:?}"
    );
    assert_eq!(
        places(&mut world),
        [(MemberId(0), vec![]), (MemberId(1), shown)]
    );
    let mut world = World::running(&Shape {
        bitmap: false,
        ..Shape::mirror(2)
    });
    assert_eq!(world.array().map(3).dirty_percent, None);
}
