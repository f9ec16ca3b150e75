//! Whom a spare replaces, and when the slot changes hands.

use umd_core::array::{
    Control, ControlError, MemberRole, MemberStatus, Purpose, SyncLimits, SyncRequest,
};
use umd_core::value::{MAX_SECTOR, MemberId, Slot};
use umd_format::{Format, Level};

use crate::world::{DISK_BYTES, Disk, Shape, World};

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

/// A disk has to hold all that is used of the other one, and may have more.
#[test]
fn a_replacement_has_room_for_all() {
    let mut world = with_spares(&[]);
    let used = world.array().status().dev_sectors;
    for (id, more, fits) in [(7, -8, false), (8, 0, true), (9, 1024, true)] {
        let bytes = DISK_BYTES as i64 + more * 512;
        let disk = Disk {
            bytes: vec![0x5a; bytes as usize],
            ..Disk::default()
        };
        world.disks.insert(MemberId(id), disk);
        let mut new = world.new_member(id, None);
        new.size_sectors = bytes as u64 / 512;
        let taken = world.control(Control::Add(new));
        assert_eq!(taken.is_ok(), fits, "{id}: {taken:?}");
        if fits {
            assert!(member(&mut world, id).data_size_sectors >= used);
            replace(&mut world, SECOND, Some(id)).expect("it is large enough");
        }
    }
    sync(&mut world, SyncRequest::Idle);
    world.pass(5);
    assert_eq!(member(&mut world, 9).slot, Some(Slot(1)));
}

/// When one of two members dies that are to be replaced, the spare for the other one stays that.
#[test]
fn a_spare_that_was_named_for_another_stays_named() {
    let mut world = World::running(&Shape::mirror(3));
    sync(&mut world, SyncRequest::Frozen);
    for id in [7, 8] {
        world.add(id).expect("added");
    }
    replace(&mut world, FIRST, Some(8)).expect("named");
    replace(&mut world, SECOND, Some(7)).expect("named");
    world.control(Control::Fail(SECOND)).expect("failed");
    let no = replace(&mut world, MemberId(2), Some(8)).expect_err("it is for the first");
    assert!(no.to_string().contains("another member already"), "{no}");
    replace(&mut world, MemberId(2), Some(7)).expect("its member is gone");
    sync(&mut world, SyncRequest::Idle);
    world.pass(5);
    assert_eq!(member(&mut world, 8).slot, Some(Slot(0)));
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
