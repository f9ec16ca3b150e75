//! A RAID1 gets more slots or fewer while hosts use it, and the power goes between any two member
//! I/Os of that.

mod world;

use umd_core::array::{Control, ControlError, LegsWish, MemberRole, SyncRequest};
use umd_core::sync::SyncAction;
use umd_core::value::MemberId;
use umd_format::{Format, Level, Role};
use world::{Lcg, Shape, World};

fn legs(raid_disks: u16) -> Control {
    Control::Legs(LegsWish {
        raid_disks,
        coming: 0,
        force: true,
        only_asked: false,
    })
}

fn filled(shape: &Shape) -> (World, Vec<u8>) {
    let mut world = World::running(shape);
    let sectors = world.array().array_sectors();
    let mut rng = Lcg(sectors);
    let data: Vec<u8> = (0..sectors * 512).map(|_| rng.below(256) as u8).collect();
    for at in (0..sectors).step_by(1000) {
        let end = sectors.min(at + 1000);
        let part = &data[at as usize * 512..end as usize * 512];
        world.write(at, part).expect("written");
    }
    world.pass(1);
    (world, data)
}

fn all(world: &mut World) -> Vec<u8> {
    let sectors = world.array().array_sectors();
    world.read(0, sectors as u32).expect("read")
}

/// Who is in sync, by slot.
fn who(world: &mut World) -> Vec<Option<u32>> {
    let status = world.array().status();
    let in_slot = |slot: u16| {
        let holds = |m: &&umd_core::array::MemberStatus| {
            m.slot.is_some_and(|at| at.0 == slot) && m.role == MemberRole::InSync
        };
        status.members.iter().find(holds).map(|m| m.id.0)
    };
    (0..status.raid_disks).map(in_slot).collect()
}

/// What superblocks of these members say: devices, and the slots of all of them.
fn recorded(world: &World, members: &[u32]) -> (u32, Vec<Role>) {
    let said = |id: u32| {
        let fields = world.superblock(id).fields;
        let role = |of: &u32| fields.role_of(world.superblock(*of).fields.dev_number);
        (fields.raid_disks, members.iter().map(role).collect())
    };
    let first: (u32, Vec<Role>) = said(members[0]);
    for id in members {
        assert_eq!(said(*id), first, "member {id} says the same");
    }
    first
}

fn refused(world: &mut World, control: Control) -> String {
    let events = world.array().status().events;
    let why = world.control(control).expect_err("refused").to_string();
    assert_eq!(
        world.array().status().events,
        events,
        "{why}: nothing is written"
    );
    why
}

#[test]
fn slots_come_are_filled_and_go() {
    let (mut world, data) = filled(&Shape::mirror(2));
    world.control(legs(3)).expect("three");
    assert_eq!(who(&mut world), [Some(0), Some(1), None]);
    assert_eq!(world.array().status().degraded, 1);
    assert_eq!(recorded(&world, &[0, 1]).0, 3);
    world.add(2).expect("added");
    world.pass(5);
    assert_eq!(who(&mut world), [Some(0), Some(1), Some(2)]);
    assert!(all(&mut world) == data);
    assert_eq!(world.mismatch(), 0);
    // A spare steps in as soon as there is a slot.
    world.add(3).expect("a spare");
    world.control(legs(4)).expect("four");
    world.pass(5);
    assert_eq!(who(&mut world), [Some(0), Some(1), Some(2), Some(3)]);
    // Who has a slot that goes gets one that is empty; all others keep theirs.
    for id in [0, 2] {
        world.control(Control::Fail(MemberId(id))).expect("failed");
        world
            .control(Control::Remove(MemberId(id)))
            .expect("removed");
    }
    world.control(legs(5)).expect("five");
    assert_eq!(who(&mut world), [None, Some(1), None, Some(3), None]);
    world.control(legs(2)).expect("two");
    assert_eq!(who(&mut world), [Some(3), Some(1)]);
    assert_eq!(world.array().status().degraded, 0);
    let roles = vec![Role::Active(1), Role::Active(0)];
    assert_eq!(recorded(&world, &[1, 3]), (2, roles));
    assert!(all(&mut world) == data);
    world.kill();
    for gone in [0, 2] {
        world.disks.remove(&MemberId(gone));
    }
    world.begin();
    assert_eq!(who(&mut world), [Some(3), Some(1)]);
    assert!(all(&mut world) == data);
    assert_eq!(world.mismatch(), 0);
}

/// The power goes between any two member I/Os: nobody loses a member by it, and it can be asked
/// for again.
#[test]
fn the_power_may_go_at_any_moment() {
    // Before: who was taken out. Then: how many slots, and who has them.
    type Case<'a> = (u16, &'a [u32], u16, &'a [Option<u32>]);
    let table: [Case<'_>; 5] = [
        (2, &[], 3, &[Some(0), Some(1), None]),
        (3, &[0], 2, &[Some(2), Some(1)]),
        (3, &[2], 2, &[Some(0), Some(1)]),
        (4, &[0, 1], 2, &[Some(2), Some(3)]),
        (3, &[1], 5, &[Some(0), None, Some(2), None, None]),
    ];
    for format in [Format::V1_2, Format::V1_0] {
        for (disks, gone, to, expected) in table {
            let shape = Shape {
                format,
                ..Shape::mirror(disks)
            };
            let (mut world, data) = filled(&shape);
            for id in gone {
                world.control(Control::Fail(MemberId(*id))).expect("failed");
                world
                    .control(Control::Remove(MemberId(*id)))
                    .expect("removed");
            }
            let before = who(&mut world);
            world.stop();
            let images = world.disks.clone();
            let mut cut = 0;
            loop {
                let mut world = World::over(images.clone());
                world.begin();
                world.power_for = Some(cut);
                let id = world.ask(legs(to));
                let (dark, answered) = (world.dark, world.asked(id));
                world.kill();
                let name = format!("{format} {disks} -> {to} cut at {cut}");
                world.begin();
                let now = who(&mut world);
                assert!(now == before || now == expected, "{name}: {now:?}");
                if answered.is_some_and(|one| one.is_ok()) {
                    assert_eq!(now, expected, "{name}: it was answered");
                }
                assert!(all(&mut world) == data, "{name}");
                world.write(8, &[0x77; 512]).expect("written");
                world.control(legs(to)).expect(&name);
                assert_eq!(who(&mut world), expected, "{name}: asked again");
                assert_eq!(world.mismatch(), 0, "{name}");
                let stay: Vec<u32> = expected.iter().flatten().copied().collect();
                assert_eq!(recorded(&world, &stay).0, u32::from(to), "{name}");
                if !dark {
                    break;
                }
                cut += 1;
            }
            assert!(cut > 3, "{cut} boundaries");
        }
    }
}

#[test]
fn what_cannot_be_changes_nothing() {
    let (mut world, _) = filled(&Shape::mirror(3));
    let asked = |raid_disks, coming, force| {
        Control::Legs(LegsWish {
            raid_disks,
            coming,
            force,
            only_asked: false,
        })
    };
    let table = [
        (legs(0), "at least 1 device"),
        (legs(1920), "at most 1919 devices"),
        (legs(2), "3 members work, and 2 devices would be too few"),
        (asked(5, 1, false), "2 devices more would be needed"),
        (asked(4, 0, false), "1 device more would be needed"),
    ];
    for (control, why) in table {
        let said = refused(&mut world, control);
        assert!(said.contains(why), "{said}");
    }
    let events = world.array().status().events;
    world.control(legs(3)).expect("as it is");
    let only_asked = LegsWish {
        raid_disks: 4,
        coming: 1,
        force: false,
        only_asked: true,
    };
    world
        .control(Control::Legs(only_asked))
        .expect("it could be");
    assert_eq!(world.array().status().raid_disks, 3);
    assert_eq!(world.array().status().events, events);
    // While something runs, and while somebody is being rebuilt.
    world
        .control(Control::Sync(SyncRequest::Frozen))
        .expect("frozen");
    world.control(Control::Fail(MemberId(2))).expect("failed");
    world
        .control(Control::Remove(MemberId(2)))
        .expect("removed");
    world.holds = Some(umd_core::array::Purpose::Scrub);
    world
        .control(Control::Sync(SyncRequest::Idle))
        .expect("free");
    world.ask(Control::Sync(SyncRequest::Start(SyncAction::Check)));
    let said = refused(&mut world, legs(2));
    assert!(said.contains("check is running"), "{said}");
    for level in [Level::Raid5, Level::Raid10] {
        let layout = if level == Level::Raid10 { 0x102 } else { 2 };
        let shape = Shape {
            layout,
            ..Shape::parity(level, 4)
        };
        let said = refused(&mut World::running(&shape), legs(5));
        assert!(said.contains("keeps its number of devices"), "{said}");
    }
    let old = Shape {
        format: Format::V090,
        ..Shape::mirror(2)
    };
    let said = refused(&mut World::running(&old), legs(3));
    assert!(said.contains("metadata 0.90"), "{said}");
    // As many as there can be: superblocks know one device more.
    let (mut world, _) = filled(&Shape::mirror(2));
    world.control(legs(1919)).expect("as many as kernels take");
    world.add(2).expect("the last number there is");
    world.pass(5);
    assert_eq!(world.superblock(2).fields.dev_number, 1919);
    let said = world.add(3).expect_err("no number is left").to_string();
    assert!(said.contains("no place in the superblocks"), "{said}");
    world.kill();
    world.disks.remove(&MemberId(3));
    world.begin();
    assert_eq!(who(&mut world)[..4], [Some(0), Some(1), Some(2), None]);
    world.control(Control::ReadAuto).expect("read-auto");
    world
        .control(Control::Legs(only_asked))
        .expect("fewer can be had");
    assert_eq!(world.array().status().raid_disks, 1919);
    world
        .control(legs(3))
        .expect("the first change makes it read-write");
    assert_eq!(world.array().status().degraded, 0);
    let (mut world, _) = filled(&Shape::mirror(2));
    world.control(Control::ReadOnly(true)).expect("read-only");
    assert!(matches!(
        world.control(legs(3)),
        Err(ControlError::Busy(why)) if why.contains("read-only")
    ));
}
