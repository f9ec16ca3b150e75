//! Write-behind: what may be answered early, who waits for it, and what it may never lose.

use super::world::{DISK_BYTES, Shape, World};
use umd_core::array::{ArrayState, Control, Event, Options, Reply, RequestOp};
use umd_core::assembly::Wish;
use umd_core::value::{ControlId, MemberId};
use umd_format::Role;

const ORDINARY: MemberId = MemberId(0);
const SLOW: MemberId = MemberId(1);

/// A mirror of an ordinary and a write-mostly member that up to `behind` writes may lag on. What is
/// written to the latter is held back.
fn mirror(behind: u32) -> World {
    let shape = Shape::mirror(2);
    let mut world = World::create_with(&shape, DISK_BYTES, 2, behind);
    let started = world.start(&Wish::default(), Options::default());
    started.expect("started");
    world.held = Some(SLOW);
    world
}

fn write(world: &mut World, offset_sectors: u64, byte: u8, fua: bool) -> u64 {
    let data = world.pool.copy_of(&[byte; 4096]);
    world.submit(RequestOp::Write {
        offset_sectors,
        data,
        fua,
    })
}

fn read(world: &mut World, offset_sectors: u64) -> u64 {
    world.submit(RequestOp::Read {
        offset_sectors,
        len_sectors: 8,
    })
}

/// Whether the answer to a read is eight sectors of this byte.
fn is_all(world: &mut World, id: u64, byte: u8) -> bool {
    match world.reply(id).expect("read") {
        Reply::Data(pieces) => pieces
            .iter()
            .all(|p| p.as_slice().iter().all(|b| *b == byte)),
        other => panic!("not a read: {other:?}"),
    }
}

fn behind_writes(world: &mut World) -> u32 {
    world
        .array()
        .status()
        .bitmap
        .expect("a bitmap")
        .behind_writes
}

#[test]
fn a_write_is_answered_when_ordinary_members_hold_it() {
    let mut world = mirror(8);
    let id = write(&mut world, 0, 7, false);
    assert!(world.is_answered(id));
    assert_eq!((world.kept.len(), behind_writes(&mut world)), (1, 1));
    assert_eq!(world.array().status().requests_in_flight, 0);
    // Until it has landed its bit stays, and nothing calls the array clean.
    world.pass(20);
    let status = world.array().status();
    assert_eq!(status.state, ArrayState::Active);
    assert_eq!(status.bitmap.expect("a bitmap").dirty_bits, 1);
    world.release(false);
    assert_eq!(behind_writes(&mut world), 0);
    world.pass(30);
    let status = world.array().status();
    assert_eq!(status.state, ArrayState::Clean);
    assert_eq!(status.bitmap.expect("a bitmap").dirty_bits, 0);
}

#[test]
fn beyond_the_limit_writes_are_ordinary_ones() {
    let mut world = mirror(2);
    let ids = [0, 8, 16].map(|at| write(&mut world, at, 1, false));
    assert_eq!(ids.map(|id| world.is_answered(id)), [true, true, false]);
    assert_eq!(world.kept.len(), 3, "it was handed over all the same");
    world.release(false);
    assert!(world.is_answered(ids[2]));
    let mut off = mirror(0);
    let id = write(&mut off, 0, 1, false);
    assert!(!off.is_answered(id), "not without write-behind");
}

#[test]
fn what_has_to_be_durable_and_zeros_do_not_lag() {
    let mut world = mirror(8);
    let fua = write(&mut world, 0, 1, true);
    let zeroes = world.submit(RequestOp::WriteZeroes {
        offset_sectors: 8,
        len_sectors: 8,
        fua: false,
        may_unmap: false,
    });
    assert!(!world.is_answered(fua) && !world.is_answered(zeroes));
    world.release(false);
    assert!(world.is_answered(fua) && world.is_answered(zeroes));
}

#[test]
fn overlapping_writes_land_in_order() {
    let mut world = mirror(8);
    let first = write(&mut world, 0, 1, false);
    let second = write(&mut world, 4, 2, false);
    assert!(world.is_answered(first) && !world.is_answered(second));
    assert_eq!(world.kept.len(), 1, "the second one is not on its way yet");
    world.release(false);
    assert!(world.is_answered(second));
    world.control(Control::Fail(ORDINARY)).expect("failed");
    let id = read(&mut world, 4);
    assert!(is_all(&mut world, id, 2), "the second one landed last");
}

#[test]
fn a_flush_waits_for_what_lags() {
    let mut world = mirror(8);
    let lags = write(&mut world, 0, 1, false);
    assert!(world.is_answered(lags));
    let flush = world.submit(RequestOp::Flush);
    assert!(!world.is_answered(flush));
    // While it waits, no write begins to lag.
    let later = write(&mut world, 8, 2, false);
    assert!(!world.is_answered(later));
    world.release(false);
    assert!(world.is_answered(flush) && world.is_answered(later));
}

#[test]
fn a_read_that_only_a_lagging_member_can_serve_waits() {
    let mut world = mirror(8);
    let lags = write(&mut world, 0, 9, false);
    assert!(world.is_answered(lags));
    let quick = read(&mut world, 0);
    assert!(
        is_all(&mut world, quick, 9),
        "ordinary members are read at once"
    );
    world
        .disks
        .get_mut(&ORDINARY)
        .expect("a disk")
        .bad
        .extend(128..1000);
    let waits = read(&mut world, 0);
    assert!(!world.is_answered(waits));
    let later = write(&mut world, 64, 2, false);
    assert!(
        !world.is_answered(later),
        "no write lags while a reader waits"
    );
    world.release(false);
    assert!(is_all(&mut world, waits, 9));
    assert!(world.is_answered(later));
    let again = write(&mut world, 128, 2, false);
    assert!(world.is_answered(again));
}

#[test]
fn without_an_ordinary_member_nothing_lags() {
    let mut world = mirror(8);
    world.control(Control::Fail(ORDINARY)).expect("failed");
    let id = write(&mut world, 0, 1, false);
    assert!(!world.is_answered(id));
    world.release(false);
    assert!(world.is_answered(id));
}

/// A member keeps its flag when it comes back, and may lag again.
#[test]
fn a_member_that_comes_back_is_still_write_mostly() {
    let mut world = mirror(8);
    world.control(Control::Fail(SLOW)).expect("failed");
    world.control(Control::Remove(SLOW)).expect("removed");
    let superblock = world.superblock(1);
    let disk = world.disks.remove(&SLOW).expect("a disk");
    world.disks.insert(MemberId(9), disk);
    let new = world.new_member(9, Some(superblock));
    world.control(Control::ReAdd(new)).expect("put back");
    world.pass(5);
    let status = world.array().status();
    let back = status.members.iter().find(|m| m.id == MemberId(9));
    assert!(back.expect("a member").write_mostly && status.degraded == 0);
    world.held = Some(MemberId(9));
    let id = write(&mut world, 0, 1, false);
    assert!(world.is_answered(id));
    world.release(false);
}

#[test]
fn a_stop_waits_for_what_lags() {
    let mut world = mirror(8);
    let id = write(&mut world, 0, 1, false);
    assert!(world.is_answered(id));
    world.event(Event::Control(ControlId(1 << 40), Control::Stop));
    world.drain();
    assert!(!world.array().is_stopped());
    world.release(false);
    assert!(world.array().is_stopped());
    assert_eq!(world.disks[&SLOW].bytes[128 * 512], 1);
}

#[test]
fn what_a_lagging_member_missed_is_never_read_from_it() {
    let mut world = mirror(8);
    let id = write(&mut world, 0, 1, false);
    assert!(world.is_answered(id));
    world.control(Control::Fail(ORDINARY)).expect("failed");
    let waits = read(&mut world, 0);
    assert!(!world.is_answered(waits));
    // Now nobody has it: an error is right, and what was there before is wrong.
    world.release(true);
    assert!(world.reply(waits).is_err());
    assert_eq!(world.array().status().state, ArrayState::Broken);
    let other = read(&mut world, 0);
    assert!(world.reply(other).is_err());
}

#[test]
fn a_lagging_member_that_fails_is_recorded_like_any_other() {
    let mut world = mirror(8);
    // A new bitmap is all ones.
    world.pass(60);
    let id = write(&mut world, 0, 1, false);
    assert!(world.is_answered(id));
    world.release(true);
    let status = world.array().status();
    assert_eq!((status.degraded, status.state), (1, ArrayState::Active));
    assert_eq!(world.superblock(0).fields.role_of(1), Role::Faulty);
    let id = read(&mut world, 0);
    assert!(is_all(&mut world, id, 1));
    world.pass(60);
    let bits = world.array().status().bitmap.expect("a bitmap").dirty_bits;
    assert_eq!(bits, 1, "its bit tells what it missed");
}
