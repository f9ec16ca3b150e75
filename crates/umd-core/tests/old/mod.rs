//! What version 0.90 cannot say: who is being rebuilt, and how far.

use umd_core::array::{Control, MemberRole, Options};
use umd_core::assembly::{MemberFacts, SlotPlan, Wish, assemble};
use umd_core::value::{MemberId, SyncRequest};
use umd_format::{Format, Role, SuperblockV1};

use crate::world::{Shape, World};

fn started(format: Format, disks: u16) -> World {
    let mut world = World::create(&Shape {
        format,
        ..Shape::mirror(disks)
    });
    let options = Options::default();
    world.start(&Wish::default(), options).expect("started");
    world
}

/// What the members' superblocks say of their owners: number and role.
fn roles(world: &World, ids: &[u32]) -> Vec<(u32, Role)> {
    let own = |id: &u32| {
        let fields = world.superblock(*id).fields;
        (fields.dev_number, fields.own_role())
    };
    ids.iter().map(own).collect()
}

/// Read back as one that holds everything, it would give zeros for data.
#[test]
fn a_member_that_is_being_rebuilt_is_a_spare_on_disk() {
    let mut world = started(Format::V090, 3);
    world.control(Control::Fail(MemberId(1))).expect("failed");
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    world.add(7).expect("added");
    let slots = |slot| Role::Active(slot);
    let held = [(0, slots(0)), (2, slots(2)), (3, Role::Spare)];
    assert_eq!(roles(&world, &[0, 2, 7]), held);
    let idle = Control::Sync(SyncRequest::Idle);
    world.control(idle).expect("goes on");
    world.pass(2);
    // Whole now: it has the number of its slot, and the others know.
    let held = [(0, slots(0)), (2, slots(2)), (1, slots(1))];
    assert_eq!(roles(&world, &[0, 2, 7]), held);
    let fields = world.superblock(0).fields;
    let listed: Vec<(u32, Role)> = fields.listed.iter().map(|l| (l.number, l.role)).collect();
    let all = [
        (0, slots(0)),
        (1, slots(1)),
        (2, slots(2)),
        (3, Role::Faulty),
    ];
    assert_eq!(listed, all);
}

/// A rebuild that came half the way, because its only source cannot be read on.
#[test]
fn half_a_member_is_a_spare_on_disk() {
    for (format, half) in [
        (Format::V090, (2, Role::Spare)),
        (Format::V1_0, (2, Role::Active(1))),
    ] {
        let mut world = started(format, 2);
        world.control(Control::Fail(MemberId(1))).expect("failed");
        let bad = MemberId(0);
        world.disks.get_mut(&bad).expect("a disk").bad.insert(600);
        world.add(7).expect("added");
        world.pass(2);
        let status = world.array().status();
        let new = status.members.iter().find(|m| m.id == MemberId(7));
        let role = new.expect("it is there").role;
        assert!(matches!(role, MemberRole::Recovering { .. }), "{role:?}");
        assert_eq!(roles(&world, &[7]), [half], "{format}");
        let offset = world.superblock(7).fields.recovery_offset_sectors();
        assert_eq!(offset.is_some(), format == Format::V1_0);
        world.disks.get_mut(&bad).expect("a disk").bad.clear();
        world
            .control(Control::Sync(SyncRequest::Idle))
            .expect("goes on");
        world.pass(2);
        assert_eq!(roles(&world, &[7])[0].1, Role::Active(1));
    }
}

/// The table is full: what is not in sync has its place behind the slots.
#[test]
fn an_array_without_room_for_another_device_says_so() {
    let mut world = started(Format::V090, 27);
    world.control(Control::Fail(MemberId(26))).expect("failed");
    let refusal = world.add(30).expect_err("there is no room");
    let text = refusal.to_string();
    assert!(text.contains("has room for 27 devices"), "{text}");
    world.disks.remove(&MemberId(30));
    let old = world.superblock(26);
    world.control(Control::Remove(MemberId(26))).expect("gone");
    let back = Control::ReAdd(world.new_member(26, Some(old)));
    let text = world.control(back).expect_err("no room").to_string();
    assert!(text.contains("no room for another device"), "{text}");
}

fn facts(id: u32, superblock: SuperblockV1) -> MemberFacts {
    MemberFacts {
        id: MemberId(id),
        name: format!("disk{id}"),
        // What lies behind its superblock belongs to it.
        size_sectors: superblock.fields.super_offset_sectors + 128,
        logical_block_bytes: 512,
        superblock: Ok(superblock),
        bitmap: None,
        bad_blocks: None,
    }
}

/// The power goes while superblocks say for the first time that a member has been rebuilt, and only
/// its own is written. The others know it as a spare, by another number: that is no failure.
#[test]
fn members_that_know_a_rebuilt_one_as_a_spare_do_not_call_it_failed() {
    let mut world = World::create(&Shape {
        bitmap: false,
        format: Format::V090,
        ..Shape::mirror(2)
    });
    world.begin();
    world.control(Control::Fail(MemberId(1))).expect("failed");
    let frozen = Control::Sync(SyncRequest::Frozen);
    world.control(frozen).expect("frozen");
    world.add(7).expect("added");
    let mut before = world.superblock(0);
    world
        .control(Control::Sync(SyncRequest::Idle))
        .expect("goes on");
    world.pass(2);
    let after = world.superblock(7);
    assert_eq!(after.fields.own_role(), Role::Active(1));
    before.fields.events = after.fields.events - 1;
    let plan = |before: &SuperblockV1| {
        let both = [facts(0, before.clone()), facts(7, after.clone())];
        assemble(&both, &Wish::default()).map(|plan| plan.slots)
    };
    let both = [MemberId(0), MemberId(7)].map(SlotPlan::InSync);
    assert_eq!(plan(&before).expect("assembled"), both);
    // Who calls it faulty went on without it.
    let node = after.fields.node;
    let listed = before.fields.listed.iter_mut();
    listed
        .filter(|one| one.node == node)
        .for_each(|one| one.role = Role::Faulty);
    assert_ne!(plan(&before).expect("assembled without it"), both);
}
