//! Lockless bitmaps: states of regions instead of bits, and no first resync.

mod world;

use umd_core::array::{
    ArrayState, BitmapWish, Control, ControlError, MemberRole, SyncLimits, SyncRequest,
};
use umd_core::sync::SyncAction;
use umd_core::value::{MAX_SECTOR, MemberId};
use umd_format::bitmap::{self, STATES_OFFSET, State};
use umd_format::{Format, Level, Role, SuperblockV1, Uuid};
use world::{Disk, Lcg, Shape, World, redundancy};

const REGION_SECTORS: u64 = 128;
/// Where the tests' arrays have their bitmap: superblock at 8, bitmap 8 behind.
const BITMAP_AT: usize = 16 * 512;

fn shape(level: Level, layout: u32, disks: u16, chunk_sectors: u32) -> Shape {
    Shape {
        level,
        layout,
        disks,
        chunk_sectors,
        bitmap: true,
        format: Format::V1_2,
        assume_clean: false,
    }
}

fn shapes() -> Vec<Shape> {
    vec![
        shape(Level::Raid1, 0, 2, 0),
        shape(Level::Raid1, 0, 3, 0),
        shape(Level::Raid4, 0, 3, 16),
        shape(Level::Raid5, 2, 4, 8),
        shape(Level::Raid5, 2, 2, 128),
        shape(Level::Raid6, 2, 5, 16),
        shape(Level::Raid10, 0x102, 4, 16),
        shape(Level::Raid10, 0x102, 3, 16),
        shape(Level::Raid10, 0x201, 4, 16),
    ]
}

fn start(world: &mut World) {
    world.begin();
}

fn created(shape: &Shape) -> World {
    let mut world = World::create_lockless(shape);
    start(&mut world);
    world.drain();
    world
}

/// The states on one member.
fn states(world: &World, id: u32) -> Vec<u8> {
    let disk = &world.disks[&MemberId(id)];
    let found = bitmap::Unverified::parse(&disk.bytes[BITMAP_AT..]).expect("a bitmap");
    let fields = found.fields();
    assert_eq!(fields.version, bitmap::VERSION_LOCKLESS);
    let count = fields
        .sync_size_sectors
        .div_ceil(u64::from(fields.region_raw));
    disk.bytes[BITMAP_AT + STATES_OFFSET..][..count as usize].to_vec()
}

/// What hosts wrote, by array sector.
struct Copy(Vec<Option<[u8; 512]>>);

impl Copy {
    fn of(world: &mut World) -> Copy {
        Copy(vec![None; world.array().array_sectors() as usize])
    }

    fn scribble(&mut self, world: &mut World, rng: &mut Lcg, times: u32) {
        for _ in 0..times {
            let len = 1 + rng.below(24);
            let at = rng.below(self.0.len() as u64 - len);
            let byte = rng.below(256) as u8;
            let bytes: Vec<u8> = (0..len * 512).map(|i| byte ^ (i / 512) as u8).collect();
            world.write(at, &bytes).expect("written");
            for (sector, bytes) in bytes.chunks(512).enumerate() {
                self.0[at as usize + sector] = Some(bytes.try_into().expect("a sector"));
            }
        }
    }

    fn verify(&self, world: &mut World, what: &str) {
        for (sector, wanted) in self.0.iter().enumerate() {
            let Some(wanted) = wanted else { continue };
            let got = world.read(sector as u64, 1).expect("read");
            assert!(got == wanted, "{what}: data at {sector}");
        }
    }
}

#[test]
fn a_new_array_is_not_resynced() {
    for shape in shapes() {
        let mut world = created(&shape);
        world.pass(200);
        let status = world.array().status();
        assert_eq!(status.state, ArrayState::Clean);
        assert!(status.sync.is_none() && !status.sync_pending);
        assert!(world.disks.values().all(|disk| disk.reads == 0));
        assert!(states(&world, 0).iter().all(|state| *state == 0));
        assert_eq!(world.mismatch(), 0, "nobody compares what was not written");
        assert!(world.disks.values().all(|disk| disk.reads == 0));
    }
}

#[test]
fn data_survives_every_tolerable_loss_and_rebuild() {
    for shape in shapes() {
        let name = format!("{:?} {:x} of {}", shape.level, shape.layout, shape.disks);
        let mut world = created(&shape);
        let mut copy = Copy::of(&mut world);
        let mut rng = Lcg(u64::from(shape.layout) + 5);
        copy.scribble(&mut world, &mut rng, 8);
        copy.verify(&mut world, &name);
        for lost in 0..redundancy(&shape) {
            let lost = u32::from(lost);
            world
                .control(Control::Fail(MemberId(lost)))
                .expect("failed");
            copy.verify(&mut world, &name);
            copy.scribble(&mut world, &mut rng, 8);
            copy.verify(&mut world, &name);
        }
        for lost in 0..redundancy(&shape) {
            let lost = u32::from(lost);
            world
                .control(Control::Remove(MemberId(lost)))
                .expect("removed");
            world.add(100 + lost).expect("added");
            copy.scribble(&mut world, &mut rng, 4);
        }
        world.pass(200);
        let status = world.array().status();
        assert_eq!(status.degraded, 0, "{name} {status:?}");
        copy.verify(&mut world, &name);
        // Then the other members are lost: what was rebuilt has to be right.
        for lost in redundancy(&shape)..(2 * redundancy(&shape)).min(shape.disks) {
            world
                .control(Control::Fail(MemberId(u32::from(lost))))
                .expect("failed");
        }
        copy.verify(&mut world, &name);
        world.stop();
        start(&mut world);
        copy.verify(&mut world, &name);
    }
}

/// What was written for the first time leaves parity to be built: that is owed, and done in time.
#[test]
fn states_follow_the_table() {
    for shape in shapes() {
        let name = format!("{:?} {:x} of {}", shape.level, shape.layout, shape.disks);
        let mut world = created(&shape);
        let sector = vec![7; 512];
        world.write(0, &sector).expect("written");
        for id in 0..u32::from(shape.disks) {
            assert_eq!(states(&world, id)[0], 3, "{name}: first write");
            assert!(states(&world, id)[1..].iter().all(|state| *state == 0));
        }
        // The timer finds what needs a resync, then what is idle.
        world.pass(31);
        world.pass(200);
        assert!(world.array().status().sync.is_none());
        for id in 0..u32::from(shape.disks) {
            assert_eq!(states(&world, id)[0], 1, "{name}: idle");
        }
        if shape.level.is_parity() {
            assert_eq!(world.mismatch(), 0, "{name}");
        }
        world.write(0, &sector).expect("written");
        assert_eq!(states(&world, 0)[0], 2, "{name}: not for the first time");
        world.control(Control::Fail(MemberId(0))).expect("failed");
        let far = world.array().array_sectors() - 1;
        world.write(far, &sector).expect("written");
        let last = |world: &World| states(world, 1).last().copied();
        assert_eq!(last(&world), Some(3), "{name}: degraded");
        world.pass(300);
        assert_eq!(last(&world), Some(3), "{name}: kept while degraded");
        world.stop();
        assert_eq!(last(&world), Some(3), "{name}: and by a stop");
    }
}

/// What was written while a member was missing has to be made to agree later: no pass of clearing
/// may call it clean before.
#[test]
fn what_a_missing_member_has_not_got_is_not_called_clean() {
    let mut world = created(&shape(Level::Raid1, 0, 2, 0));
    world.write(0, &[1; 512]).expect("written");
    world.pass(200);
    assert_eq!(states(&world, 0)[0], 1);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world.write(0, &[2; 512]).expect("written");
    world.pass(300);
    assert!(states(&world, 0)[0] > 1, "{}", states(&world, 0)[0]);
    world.stop();
    assert!(states(&world, 0)[0] > 1, "{}", states(&world, 0)[0]);
}

/// Where too few are left to make members agree, a read changes nothing.
#[test]
fn a_degraded_raid5_reads_what_is_in_doubt_and_writes_nothing() {
    let mut world = created(&shape(Level::Raid5, 2, 4, 8));
    world.control(Control::Fail(MemberId(0))).expect("failed");
    let writes = |world: &World| -> u64 { world.disks.values().map(|disk| disk.writes).sum() };
    let before = writes(&world);
    let first = world.read(0, 48).expect("read");
    assert_eq!(world.read(0, 48).expect("read"), first);
    assert_eq!(writes(&world), before);
}

#[test]
fn a_stop_leaves_clean_and_unwritten_regions() {
    for shape in shapes() {
        let name = format!("{:?} {:x} of {}", shape.level, shape.layout, shape.disks);
        let mut world = created(&shape);
        let mut copy = Copy::of(&mut world);
        copy.scribble(&mut world, &mut Lcg(3), 3);
        world.pass(40);
        world.stop();
        let before = states(&world, 0);
        for id in 0..u32::from(shape.disks) {
            let found = states(&world, id);
            assert_eq!(found, before, "{name}: the same on all members");
            assert!(found.iter().all(|state| *state < 2), "{name} {found:?}");
            assert!(found.contains(&1), "{name}");
            let fields = world.superblock(id).fields;
            assert_eq!(fields.resync_offset_sectors, MAX_SECTOR, "{name}");
            let disk = &world.disks[&MemberId(id)];
            let bitmap = bitmap::Unverified::parse(&disk.bytes[BITMAP_AT..]).expect("a bitmap");
            assert_eq!(bitmap.fields().events, fields.events, "{name}");
            assert_eq!(bitmap.fields().state, State::default(), "{name}");
        }
        start(&mut world);
        world.drain();
        assert!(world.array().status().sync.is_none(), "{name}");
        copy.verify(&mut world, &name);
    }
}

/// What a stop finds half done stays to be done, although superblocks say clean.
#[test]
fn what_needs_a_resync_is_remembered_by_a_clean_array() {
    let mut world = created(&shape(Level::Raid5, 2, 4, 8));
    world.write(0, &[1; 512]).expect("written");
    world.stop();
    assert_eq!(states(&world, 2)[0], 3);
    assert_eq!(world.superblock(0).fields.resync_offset_sectors, MAX_SECTOR);
    for disk in world.disks.values_mut() {
        (disk.reads, disk.read_sectors) = (0, 0);
    }
    start(&mut world);
    world.pass(1);
    for disk in world.disks.values() {
        assert_eq!(
            disk.read_sectors, REGION_SECTORS,
            "that region, and no other"
        );
    }
    assert_eq!(world.mismatch(), 0);
    world.stop();
    assert_eq!(states(&world, 2)[0], 1);
}

#[test]
fn after_a_crash_only_marked_regions_are_resynced() {
    for shape in shapes() {
        let name = format!("{:?} {:x} of {}", shape.level, shape.layout, shape.disks);
        let mut world = created(&shape);
        let mut copy = Copy::of(&mut world);
        copy.scribble(&mut world, &mut Lcg(9), 4);
        world.pass(200);
        world.write(1, &[3; 512]).expect("written");
        copy.0[1] = Some([3; 512]);
        world.kill();
        let marked = states(&world, 0);
        assert_eq!(
            marked.iter().filter(|state| **state > 1).count(),
            1,
            "{name}"
        );
        start(&mut world);
        world.pass(2);
        assert!(world.array().status().sync.is_none(), "{name}");
        let most = REGION_SECTORS;
        for disk in world.disks.values() {
            assert!(disk.read_sectors <= most, "{name}: {}", disk.read_sectors);
        }
        assert!(world.disks.values().any(|disk| disk.reads > 0), "{name}");
        copy.verify(&mut world, &name);
        if shape.level.is_parity() {
            assert_eq!(world.mismatch(), 0, "{name}");
        }
        world.stop();
        assert!(states(&world, 0).iter().all(|state| *state < 2), "{name}");
    }
}

/// A power cut in a block of states leaves anything there.
#[test]
fn a_state_that_nobody_knows_is_resynced() {
    let mut world = created(&shape(Level::Raid5, 2, 4, 8));
    let mut copy = Copy::of(&mut world);
    copy.scribble(&mut world, &mut Lcg(2), 4);
    world.pass(200);
    world.write(0, &[3; 512]).expect("written");
    world.kill();
    for disk in world.disks.values_mut() {
        let states = &mut disk.bytes[BITMAP_AT + STATES_OFFSET..][..7];
        states.copy_from_slice(&[1, 8, 0xff, 0, 6, 7, 4]);
    }
    start(&mut world);
    world.pass(2);
    // The fourth region was never written, the fifth only wanted parity, the sixth has it.
    let resynced = 3 * REGION_SECTORS;
    for disk in world.disks.values() {
        assert_eq!(disk.read_sectors, resynced);
    }
    world.stop();
    let found = states(&world, 0);
    assert_eq!(found[..7], [1, 1, 1, 0, 0, 7, 1]);
}

#[test]
fn a_bitmap_that_missed_updates_is_not_trusted() {
    let mut world = created(&shape(Level::Raid1, 0, 2, 0));
    let end = world.array().array_sectors() - 1;
    world.write(0, &[1; 512]).expect("written");
    world.write(end, &[1; 512]).expect("written");
    world.pass(200);
    world.stop();
    assert_eq!(states(&world, 0)[0], 1);
    for disk in world.disks.values_mut() {
        let events = &mut disk.bytes[BITMAP_AT + 24..][..8];
        let before = u64::from_le_bytes(events.try_into().expect("eight"));
        events.copy_from_slice(&(before - 1).to_le_bytes());
        disk.read_sectors = 0;
    }
    start(&mut world);
    world.pass(2);
    let read = world.disks[&MemberId(0)].read_sectors;
    assert!(
        read > REGION_SECTORS && read <= 2 * REGION_SECTORS,
        "{read}"
    );
    world.stop();
    let found = states(&world, 0);
    assert!(found.iter().all(|state| *state < 2), "{found:?}");
}

/// A spare gets what was written, and no more.
#[test]
fn a_spare_is_filled_where_something_was_written() {
    let mut world = created(&shape(Level::Raid1, 0, 2, 0));
    world.write(130, &[1; 512]).expect("written");
    world.control(Control::Fail(MemberId(0))).expect("failed");
    world.write(600, &[2; 512]).expect("written");
    world
        .control(Control::Remove(MemberId(0)))
        .expect("removed");
    for disk in world.disks.values_mut() {
        disk.read_sectors = 0;
    }
    world.add(100).expect("added");
    world.pass(1);
    assert_eq!(world.array().status().degraded, 0);
    let read = world.disks[&MemberId(1)].read_sectors;
    assert_eq!(read, 2 * REGION_SECTORS);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    assert_eq!(world.read(130, 1).expect("read"), [1; 512]);
    assert_eq!(world.read(600, 1).expect("read"), [2; 512]);
}

/// Parity is computed with what a member holds, also where nobody has written: who replaces it
/// holds the same there.
#[test]
fn who_replaces_a_member_gets_what_nobody_has_written_as_well() {
    for shape in shapes() {
        let name = format!("{:?} {:x}", shape.level, shape.layout);
        let mut world = created(&shape);
        world.add(100).expect("added");
        let old = MemberId(1);
        let replace = Control::Replace {
            member: old,
            with: None,
        };
        world.control(replace).expect("begun");
        world.pass(300);
        assert_eq!(world.array().status().degraded, 0, "{name}");
        let used = world.array().status().members;
        let new = used.iter().find(|m| m.id == MemberId(100));
        assert_eq!(new.map(|m| m.role), Some(MemberRole::InSync), "{name}");
        let data = |id: MemberId, at: u64| {
            let start = at as usize * 512;
            world.disks[&id].bytes[start..][..64 * 1024].to_vec()
        };
        let from = world.superblock(1).fields.data_offset_sectors;
        let to = world.superblock(100).fields.data_offset_sectors;
        for at in (0..512).step_by(128) {
            let same = data(old, from + at) == data(MemberId(100), to + at);
            assert!(same, "{name} at {at}");
        }
    }
}

/// What waits to be made to agree is made so before a check, which finds nothing then.
#[test]
fn a_check_finds_nothing_in_what_waits_for_its_resync() {
    for shape in shapes() {
        let mut world = created(&shape);
        world.write(3, &[7; 512]).expect("written");
        assert_eq!(states(&world, 0)[0], 3);
        let name = format!("{:?} {:x}", shape.level, shape.layout);
        assert_eq!(world.mismatch(), 0, "{name}");
        world.stop();
        assert_eq!(states(&world, 0)[0], 1, "{name}");
    }
}

/// The members of an array of kernel 7.2 as it left them: superblock and bitmap are its bytes, the
/// data is ours and agrees.
fn left_by_kernel(
    superblock: &[u8],
    bitmap: &[u8],
    states: &[u8],
    members: &[(u32, u16)],
) -> World {
    const DEVICE_SECTORS: u64 = 49_152;
    const DATA_AT: usize = 2048 * 512;
    let mut whole = superblock.to_vec();
    whole.resize(4096, 0);
    let found = SuperblockV1::load(&whole, Format::V1_2, DEVICE_SECTORS).expect("a superblock");
    let mut disks = std::collections::BTreeMap::new();
    for (number, slot) in members {
        let mut own = found.clone();
        if own.fields.dev_number != *number {
            own.fields.dev_number = *number;
            own.fields.device_uuid = Uuid([*number as u8 + 1; 16]);
        }
        assert_eq!(own.fields.own_role(), Role::Active(*slot));
        let mut bytes = vec![0; DEVICE_SECTORS as usize * 512];
        bytes[4096..8192].copy_from_slice(&own.encode(4096));
        bytes[BITMAP_AT..][..1024].copy_from_slice(bitmap);
        bytes[BITMAP_AT + STATES_OFFSET..][..states.len()].copy_from_slice(states);
        bytes[BITMAP_AT + 128 * 1024 - 2704..BITMAP_AT + 128 * 1024].fill(0xff);
        // Two halves of a row differ, their parity does not.
        for (at, byte) in bytes[DATA_AT..].iter_mut().enumerate() {
            *byte = if members.len() == 2 { at as u8 } else { 0 };
        }
        let disk = Disk {
            bytes,
            ..Disk::default()
        };
        disks.insert(MemberId(u32::from(*slot)), disk);
    }
    World::over(disks)
}

#[test]
fn a_mirror_that_kernel_7_2_left_in_a_power_cut_is_resynced() {
    let mut world = left_by_kernel(
        include_bytes!("../../umd-format/tests/data/llb-raid1-dirty.superblock.bin"),
        include_bytes!("../../umd-format/tests/data/llb-raid1-dirty.bitmap.bin"),
        &[2; 368],
        &[(0, 0), (1, 1)],
    );
    let disk = world.disks.get_mut(&MemberId(1)).expect("a disk");
    disk.bytes[2048 * 512 + 8_192_000] ^= 0x55;
    start(&mut world);
    assert!(world.array().status().sync.is_some());
    world.drain();
    world.pass(5);
    for disk in world.disks.values() {
        assert_eq!(disk.read_sectors, 47_104, "all of it was dirty");
    }
    world.stop();
    let data = |id: u32| &world.disks[&MemberId(id)].bytes[2048 * 512..];
    assert!(data(0) == data(1));
    left_clean(&world, 2, &[1; 368]);
}

#[test]
fn a_raid5_that_kernel_7_2_stopped_is_resynced_where_that_is_owed() {
    let mut states = [1; 368];
    states[..5].fill(3);
    let mut world = left_by_kernel(
        include_bytes!("../../umd-format/tests/data/llb-raid5-clean.superblock.bin"),
        include_bytes!("../../umd-format/tests/data/llb-raid5-clean.bitmap.bin"),
        &states,
        &[(0, 0), (1, 1), (3, 2)],
    );
    start(&mut world);
    world.drain();
    world.pass(5);
    for disk in world.disks.values() {
        assert_eq!(disk.read_sectors, 5 * REGION_SECTORS);
    }
    world.stop();
    left_clean(&world, 3, &[1; 368]);
}

/// What a kernel finds after a stop: the states, and around them what was there.
fn left_clean(world: &World, members: u32, wanted: &[u8]) {
    for id in 0..members {
        assert_eq!(states(world, id), wanted);
        let fields = world.superblock(id).fields;
        assert_eq!(fields.resync_offset_sectors, MAX_SECTOR);
        let area = &world.disks[&MemberId(id)].bytes[BITMAP_AT..][..128 * 1024];
        let bitmap = bitmap::Unverified::parse(area).expect("a bitmap");
        let bitmap = bitmap.verify(fields.set_uuid).expect("ours").fields;
        assert_eq!(
            (bitmap.events, bitmap.state),
            (fields.events, State::default())
        );
        assert_eq!((bitmap.region_raw, bitmap.sectors_reserved), (128, 256));
        assert_eq!(
            (bitmap.daemon_sleep_s, bitmap.sync_size_sectors),
            (30, 47_104)
        );
        assert!(area[256..STATES_OFFSET].iter().all(|byte| *byte == 0xff));
        let behind = &area[STATES_OFFSET + wanted.len()..];
        let (zeros, ones) = behind.split_at(behind.len() - 2704);
        assert!(zeros.iter().all(|byte| *byte == 0) && ones.iter().all(|byte| *byte == 0xff));
    }
}

/// The power goes after every number of member I/Os, in the middle of the next one: what was
/// answered is there, members agree when the resync is over, and a member can be lost then.
#[test]
fn nothing_is_lost_whenever_the_power_goes() {
    const WRITES: [(u64, usize); 4] = [(3, 5), (40, 20), (4, 2), (300, 1)];
    let mut cuts = 0;
    let some = [0, 3, 5, 7].map(|index| shapes().swap_remove(index));
    for shape in some {
        let name = format!("{:?} {:x} of {}", shape.level, shape.layout, shape.disks);
        for cut in 0.. {
            let mut world = created(&shape);
            let mut copy = Copy::of(&mut world);
            world.power_for = Some(cut);
            for (step, (at, len)) in WRITES.into_iter().enumerate() {
                if world.dark {
                    break;
                }
                let byte = step as u8 + 1;
                let answered = world.write_in_the_dark(at, &vec![byte; len * 512]);
                // What was not answered may be there or not.
                let now = answered.then_some([byte; 512]);
                copy.0[at as usize..][..len].fill(now);
                if !world.dark {
                    world.pass(45);
                }
            }
            let whole = !world.dark;
            cuts += 1;
            world.kill();
            start(&mut world);
            world.drain();
            world.pass(1);
            let what = format!("{name}, cut {cut}");
            assert!(world.array().status().sync.is_none(), "{what}");
            copy.verify(&mut world, &what);
            if shape.level.is_parity() {
                assert_eq!(world.mismatch(), 0, "{what}");
            }
            for lost in 0..redundancy(&shape) {
                let lost = MemberId(u32::from(lost));
                world.control(Control::Fail(lost)).expect("failed");
            }
            copy.verify(&mut world, &format!("{what}, degraded"));
            if whole {
                break;
            }
        }
    }
    assert!(cuts > 100, "the power goes at {cuts} moments");
}

/// Members differ where nobody wrote. What was read of that stays, also when a member is lost.
#[test]
fn what_was_read_before_it_was_written_stays() {
    for shape in shapes() {
        let mut world = created(&shape);
        let before = world.read(200, 8).expect("read");
        world.control(Control::Fail(MemberId(0))).expect("failed");
        let name = format!("{:?} {:x}", shape.level, shape.layout);
        assert_eq!(world.read(200, 8).expect("read"), before, "{name}");
    }
}

/// It alone tells what has never been written, where members may differ.
#[test]
fn a_lockless_bitmap_is_not_taken_away() {
    let mut world = created(&shape(Level::Raid5, 2, 4, 8));
    world.write(0, &[7; 512]).expect("written");
    world.pass(60);
    let before = states(&world, 0);
    let no = world.control(Control::Bitmap(BitmapWish::None));
    assert!(matches!(no, Err(ControlError::Invalid(_))), "{no:?}");
    assert_eq!(states(&world, 0), before);
}

/// Members may hold different rubbish where nobody ever wrote, and a replacement that was half
/// filled has that of another member. It begins anew, and no superblock says otherwise for a
/// moment: with an old reach a resync could end, and make it count again.
#[test]
fn a_replacement_of_a_lockless_array_begins_anew_after_a_stop() {
    let mut world = created(&shape(Level::Raid5, 2, 3, 8));
    world.add(7).expect("added");
    let limits = SyncLimits {
        to_sectors: Some(640),
        ..SyncLimits::default()
    };
    world
        .control(Control::Limits(limits, None))
        .expect("limited");
    let replace = Control::Replace {
        member: MemberId(1),
        with: None,
    };
    world.control(replace).expect("begun");
    world.pass(1);
    let reach = |world: &World| world.superblock(7).fields.recovery_offset_sectors();
    world.stop();
    assert_eq!(reach(&world), Some(640));
    start(&mut world);
    world
        .control(Control::Sync(SyncRequest::Frozen))
        .expect("frozen");
    world.drain();
    assert_eq!(reach(&world), Some(0));
}

/// Where nobody wrote members may differ, and where a resync is owed they do: neither is a fault of
/// a disk. Elsewhere a difference is one, and it is mended.
#[test]
fn a_check_looks_at_what_was_written_and_agrees() {
    let mut world = created(&shape(Level::Raid1, 0, 2, 0));
    let region = REGION_SECTORS as usize * 512;
    for at in [0, 2 * REGION_SECTORS] {
        world.write(at, &vec![1; region]).expect("written");
    }
    world.pass(200);
    let start = world.superblock(1).fields.data_offset_sectors as usize * 512;
    let disk = world.disks.get_mut(&MemberId(1)).expect("a disk");
    for at in [0, 2 * region, 3 * region] {
        disk.bytes[start + at + 700] ^= 1;
    }
    assert_eq!(world.mismatch(), 2 * REGION_SECTORS);
    let found = world.array().status().mismatches;
    let places: Vec<u64> = found.iter().map(|one| one.array_sectors[0]).collect();
    assert_eq!(places, [0, 2 * REGION_SECTORS]);
    let repair = Control::Sync(SyncRequest::Start(SyncAction::Repair));
    world.control(repair).expect("begun");
    world.pass(1);
    assert_eq!(world.mismatch(), 0);
}
