//! How long writes stand on which rung of the ladder: a wait is told where it was.

use umd_core::array::{Control, Options, Purpose, RequestOp, Settings};
use umd_core::assembly::Wish;
use umd_core::value::{MemberId, RUNGS, Rung, Span};
use umd_format::Level;

use crate::world::{Shape, World};

/// A RAID5 whose superblocks say active.
fn active() -> World {
    let mut world = World::create_sized(&Shape::parity(Level::Raid5, 4), 4 << 20);
    let (wish, options) = (Wish::default(), Options::default());
    world.start(&wish, options).expect("started");
    world.write(0, &[1; 4096]).expect("written");
    world
}

/// The same, and its bits are clear; it is never marked clean.
fn unmarked() -> World {
    let mut world = active();
    let never = Control::Settings(Settings {
        safe_mode_delay: Some(Span(0)),
        ..Settings::default()
    });
    world.control(never).expect("set");
    world.pass(60);
    world
}

fn ask(world: &mut World, offset_sectors: u64) -> u64 {
    let data = world.pool.copy_of(&[7; 4096]);
    world.submit(RequestOp::Write {
        offset_sectors,
        data,
        fua: false,
    })
}

fn between(lo: u64, hi: u64) -> Control {
    Control::Settings(Settings {
        suspend_lo_sectors: Some(lo),
        suspend_hi_sectors: Some(hi),
        ..Settings::default()
    })
}

/// What came to which rung: how many writes, and the milliseconds of them all.
fn came(world: &mut World, did: impl FnOnce(&mut World)) -> Vec<(&'static str, u64, u64)> {
    let before = *world.array().rungs();
    did(world);
    let after = *world.array().rungs();
    let each = RUNGS.iter().map(|(rung, word)| {
        let count = after.of(*rung).count() - before.of(*rung).count();
        let nanos = after.of(*rung).sum.0 - before.of(*rung).sum.0;
        (*word, count, nanos / 1_000_000)
    });
    each.collect()
}

/// Times, where there were any.
fn waits(came: &[(&'static str, u64, u64)]) -> Vec<(&'static str, u64)> {
    let some = came.iter().filter(|(_, _, millis)| *millis > 0);
    some.map(|(word, _, millis)| (*word, *millis)).collect()
}

fn held_for(world: &mut World, what: Purpose, at: u64) {
    world.holds = Some(what);
    let id = ask(world, at);
    world.pass_millis(40);
    assert!(!world.is_answered(id), "it waits for {what:?}");
    world.release_back();
    world.reply(id).expect("written");
}

#[test]
fn a_write_stands_on_each_rung_once() {
    let mut world = active();
    let all = came(&mut world, |world| {
        let id = ask(world, 4096);
        world.reply(id).expect("written");
    });
    let once: Vec<_> = RUNGS.iter().map(|(_, word)| (*word, 1, 0)).collect();
    assert_eq!(all, once);
    // Neither a read nor a flush climbs.
    let none = came(&mut world, |world| {
        world.read(0, 8).expect("read");
        let flush = world.submit(RequestOp::Flush);
        world.reply(flush).expect("flushed");
    });
    assert!(none.iter().all(|(_, count, _)| *count == 0), "{none:?}");
}

#[test]
fn what_members_are_asked_for_is_waited_for_on_its_own_rung() {
    for (what, rung) in [
        (Purpose::Preread, "read"),
        (Purpose::Bitmap, "bitmap"),
        (Purpose::Data, "write"),
    ] {
        let mut world = unmarked();
        let all = came(&mut world, |world| held_for(world, what, 4096));
        assert_eq!(waits(&all), [(rung, 40)], "{what:?}");
    }
    let mut world = active();
    world.pass(60);
    let all = came(&mut world, |world| held_for(world, Purpose::Super, 0));
    assert_eq!(waits(&all).first(), Some(&("active", 40)), "{all:?}");
}

#[test]
fn who_overlaps_waits_for_the_lock_and_who_is_suspended_before_that() {
    let mut world = active();
    let all = came(&mut world, |world| {
        world.holds = Some(Purpose::Data);
        let ids = [ask(world, 4096), ask(world, 4096)];
        world.pass_millis(30);
        world.release_back();
        for id in ids {
            world.reply(id).expect("written");
        }
    });
    assert_eq!(waits(&all), [("lock", 30), ("write", 30)]);
    world.control(between(4096, 4200)).expect("suspended");
    let all = came(&mut world, |world| {
        let id = ask(world, 4096);
        world.pass_millis(50);
        world.control(between(0, 0)).expect("resumed");
        world.reply(id).expect("written");
    });
    assert_eq!(waits(&all), [("admit", 50)]);
}

#[test]
fn a_failure_that_is_not_recorded_holds_at_the_gate_and_before_the_answer() {
    let mut world = active();
    let all = came(&mut world, |world| {
        world.held = Some(MemberId(0));
        let begun: Vec<u64> = (0..3).map(|n| ask(world, 4096 + 16 * n)).collect();
        world.drain();
        assert!(!world.kept.is_empty(), "one of them is being written");
        world.holds = Some(Purpose::Super);
        let failed = world.ask(Control::Fail(MemberId(2)));
        world.release(false);
        let later = ask(world, 8192);
        world.pass_millis(25);
        assert!(!world.is_answered(later));
        assert!(begun.iter().any(|id| !world.is_answered(*id)));
        world.release_back();
        world.asked(failed).expect("answered").expect("failed");
        for id in begun.into_iter().chain([later]) {
            world.reply(id).expect("written");
        }
    });
    let rungs: Vec<_> = waits(&all).iter().map(|(word, _)| *word).collect();
    assert_eq!(rungs, ["faults", "settle"], "{all:?}");
    let [faults, settle] = [Rung::Faults, Rung::Settle].map(|rung| all[rung as usize].2);
    assert!(faults >= 25 && settle >= 25, "{all:?}");
}

#[test]
fn copies_are_told_as_parity_is_and_what_lags_is_not_waited_for() {
    let mut world = World::create(&Shape::mirror(2));
    world
        .start(&Wish::default(), Options::default())
        .expect("started");
    world.write(0, &[1; 512]).expect("written");
    let all = came(&mut world, |world| held_for(world, Purpose::Data, 0));
    assert_eq!(waits(&all), [("write", 40)]);
    let counts: Vec<u64> = all.iter().map(|(_, count, _)| *count).collect();
    assert_eq!(counts, [1, 1, 0, 1, 1, 1, 1, 1], "a copy needs no old data");
}
