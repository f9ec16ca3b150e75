//! Whom a spare replaces, and when the slot changes hands.

use umd_core::array::{
    Control, ControlError, MemberRole, MemberStatus, Purpose, SyncLimits, SyncRequest,
};
use umd_core::value::{MAX_SECTOR, MemberId, Slot};
use umd_format::{Format, Level};

use crate::world::{Shape, World};

const FIRST: MemberId = MemberId(0);
const SECOND: MemberId = MemberId(1);

fn member(world: &mut World, id: u32) -> MemberStatus {
    let members = world.array().status().members;
    let found = members.into_iter().find(|m| m.id == MemberId(id));
    found.expect("it is there")
}

fn sync(world: &mut World, request: SyncRequest) {
    world.control(Control::Sync(request)).expect("taken");
}

fn replace(world: &mut World, member: MemberId, with: Option<u32>) -> Result<(), ControlError> {
    let with = with.map(MemberId);
    let asked = Control::Replace { member, with };
    world.control(asked).map(|_| ())
}

fn limit(world: &mut World, to: u64) {
    let limits = SyncLimits {
        to_sectors: Some(to),
        ..SyncLimits::default()
    };
    world
        .control(Control::Limits(limits, None))
        .expect("limited");
}

/// Frozen, with spares of these numbers.
fn with_spares(spares: &[u32]) -> World {
    let mut world = World::running(&Shape::mirror(2));
    sync(&mut world, SyncRequest::Frozen);
    for id in spares {
        world.add(*id).expect("added");
    }
    world
}

/// Metadata 0.90 knows one member in a slot: after a crash either could be taken for the other.
#[test]
fn what_cannot_be_recorded_is_not_begun() {
    for format in [Format::V090, Format::Bare] {
        let mut world = World::running(&Shape {
            format,
            bitmap: false,
            ..Shape::mirror(2)
        });
        world.add(7).expect("added");
        let no = replace(&mut world, SECOND, None).expect_err("refused");
        assert!(no.to_string().contains("cannot record a replacement"));
        world.pass(2);
        assert!(!member(&mut world, 1).want_replacement);
        assert_eq!(member(&mut world, 7).role, MemberRole::Spare, "{format}");
    }
}

/// An administrator who names a disk for a slot gets that disk there.
#[test]
fn each_member_is_replaced_by_the_spare_that_was_named() {
    let mut world = with_spares(&[6, 7, 8]);
    replace(&mut world, FIRST, Some(8)).expect("taken");
    replace(&mut world, SECOND, Some(7)).expect("taken");
    let no = replace(&mut world, SECOND, Some(8)).expect_err("taken by another");
    assert!(no.to_string().contains("another member already"), "{no}");
    sync(&mut world, SyncRequest::Idle);
    world.pass(5);
    for (new, slot) in [(8, Some(Slot(0))), (7, Some(Slot(1))), (6, None)] {
        assert_eq!(member(&mut world, new).slot, slot, "{new}");
    }
}

/// Who names another spare for the same slot frees the first one.
#[test]
fn a_spare_that_is_not_meant_any_more_is_free() {
    let mut world = with_spares(&[7, 8]);
    replace(&mut world, SECOND, Some(7)).expect("taken");
    replace(&mut world, SECOND, Some(8)).expect("another one");
    replace(&mut world, FIRST, Some(7)).expect("it is free again");
    sync(&mut world, SyncRequest::Idle);
    world.pass(5);
    for (new, slot) in [(7, Slot(0)), (8, Slot(1))] {
        assert_eq!(member(&mut world, new).slot, Some(slot), "{new}");
    }
}

/// Frozen is frozen: no slot changes hands, though all is copied.
#[test]
fn a_frozen_array_hands_nothing_over() {
    let mut world = World::running(&Shape::mirror(2));
    world.add(7).expect("added");
    limit(&mut world, 640);
    replace(&mut world, SECOND, None).expect("taken");
    world.pass(1);
    // All of it is copied, and that is not recorded yet.
    world.holds = Some(Purpose::Super);
    limit(&mut world, MAX_SECTOR);
    world.pass(1);
    sync(&mut world, SyncRequest::Frozen);
    world.release_back();
    world.pass(1);
    assert_eq!(member(&mut world, 1).role, MemberRole::InSync);
    let waits = member(&mut world, 7);
    assert!(waits.replacement, "it waits: {waits:?}");
    sync(&mut world, SyncRequest::Idle);
    world.pass(1);
    assert_eq!(member(&mut world, 1).role, MemberRole::Faulty);
    assert_eq!(member(&mut world, 7).role, MemberRole::InSync);
}

/// The member dies while another is being filled for it: that one has the slot now, and is rebuilt
/// from the others as any would be.
#[test]
fn who_was_to_take_over_inherits_the_slot() {
    for shape in [Shape::mirror(3), Shape::parity(Level::Raid5, 3)] {
        let mut world = World::running(&shape);
        world.write(0, &[3; 4096]).expect("written");
        world.add(7).expect("added");
        limit(&mut world, 640);
        replace(&mut world, SECOND, None).expect("taken");
        world.pass(1);
        assert!(member(&mut world, 7).replacement);
        world.control(Control::Fail(SECOND)).expect("failed");
        assert_eq!(world.array().status().degraded, 1);
        let heir = member(&mut world, 7);
        assert_eq!((heir.replacement, heir.slot), (false, Some(Slot(1))));
        limit(&mut world, MAX_SECTOR);
        world.pass(1);
        assert_eq!(world.array().status().degraded, 0, "{}", shape.level);
        world.control(Control::Fail(FIRST)).expect("failed");
        assert_eq!(world.read(0, 8).expect("read"), [3; 4096]);
    }
}

/// Who is being filled dies: the member it was for serves on, and still waits for another.
#[test]
fn who_dies_as_a_replacement_leaves_the_slot_as_it_was() {
    let mut world = World::running(&Shape::mirror(2));
    world.add(7).expect("added");
    limit(&mut world, 640);
    replace(&mut world, SECOND, None).expect("taken");
    world.pass(1);
    world.control(Control::Fail(MemberId(7))).expect("failed");
    let old = member(&mut world, 1);
    assert_eq!(old.role, MemberRole::InSync);
    assert!(old.want_replacement);
    assert_eq!(world.array().status().degraded, 0);
    assert_eq!(member(&mut world, 7).role, MemberRole::Faulty);
    assert!(!member(&mut world, 7).replacement);
}
