//! The windows of a resync: how long they are, and what becomes of one that is refused.

use umd_format::Level;

use super::world::{BLOCK, Lcg, NODES, World};
use crate::cluster::Window;
use crate::value::{Control, IoOp, MemberId, Purpose, Span, SyncAction, SyncRequest};

/// Sectors of the first window in these worlds.
const FIRST: u64 = 256;

fn check(world: &mut World, host: usize) {
    let check = SyncRequest::Start(SyncAction::Check);
    world.control(host, Control::Sync(check));
}

fn windows(world: &World, host: usize) -> Vec<(u64, u64)> {
    let all = world.hosts[host].windows.iter();
    let ends = |window: &Window| (window.start_sectors(), window.end_sectors());
    all.map(|(_, window)| ends(window)).collect()
}

#[test]
fn windows_follow_each_other_from_the_start_to_the_end() {
    let mut world = World::new(2).running(2);
    check(&mut world, 0);
    world.settle();
    world.pass(5);
    let end = world.array(0).status().array_sectors;
    let all = windows(&world, 0);
    assert_eq!(all[0], (0, FIRST));
    assert_eq!(all.last().expect("some").1, end);
    for two in all.windows(2) {
        let ((from, to), (next_from, next_to)) = (two[0], two[1]);
        assert!(from <= next_from && next_from <= to, "a gap: {all:?}");
        assert!(to < next_to, "nothing new: {all:?}");
    }
    assert_eq!(world.array(0).status().sync, None);
    // The turn was given back: the other one may have it.
    world.hosts[1].windows.clear();
    check(&mut world, 1);
    world.settle();
    world.pass(5);
    assert_eq!(windows(&world, 1).last().expect("some").1, end);
}

/// A mirror with room for windows that are longer than what a resync has under way.
fn large() -> World {
    let mut world = World::sized(Level::Raid1, 0, (2, 0), 0, 24 << 20);
    world.window = LONG;
    world.running(2)
}

/// Sectors of a window there: four times what is under way at once.
const LONG: u64 = 16_384;

/// The first sector behind all that a host has begun to compare.
fn cursor(world: &World, host: usize) -> u64 {
    let reads = world.hosts[host].flights.iter();
    let ends = reads.filter_map(|io| match &io.op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => Some(*offset_sectors + (buf.len() / 512) as u64 - 128),
        _ => None,
    });
    ends.max().unwrap_or(0)
}

/// While more than half of a window is left nobody is asked; then the next one comes in time.
#[test]
fn the_next_window_is_asked_for_when_half_of_one_is_left() {
    let mut world = large();
    check(&mut world, 0);
    let end = world.array(0).status().array_sectors;
    let (mut asked, mut due) = (0, 0);
    while world.array(0).status().sync.is_some() || asked == 0 {
        let before = cursor(&world, 0);
        assert!(world.step(), "it has not ended");
        let all = windows(&world, 0);
        if all.len() > asked {
            asked = all.len();
            let (from, to) = all[asked - 1];
            let at = cursor(&world, 0).max(before);
            assert!((due..due + 1024).contains(&at), "{at}: {all:?}");
            due = at + LONG / 2;
            assert!(from <= at, "{all:?}");
            // As long as the first one: none came late.
            assert!(
                to == end || (LONG..LONG + 1024).contains(&(to - at)),
                "{at}: {all:?}"
            );
        }
    }
    assert_eq!(asked, 5);
}

/// A window that somebody does not acknowledge is not used, and asked for again later.
#[test]
fn a_window_that_was_refused_is_asked_for_again_after_ten_seconds() {
    let mut world = World::new(2).running(2);
    world.hosts[1].refuses = true;
    check(&mut world, 0);
    world.settle();
    assert_eq!(windows(&world, 0), [(0, FIRST)]);
    assert_eq!(world.flying(0, Purpose::Scrub), 0);
    let begun = world.log.contains(&(0, Purpose::Scrub));
    assert!(!begun, "it goes nowhere");
    let array = world.hosts[0].array.as_ref().expect("it lives");
    let again = world.now.mono + Span::secs(10);
    assert_eq!(array.next_deadline(), Some(again));
    world.pass(9);
    assert_eq!(windows(&world, 0).len(), 1);
    world.pass(2);
    assert_eq!(windows(&world, 0).len(), 2);
    world.hosts[1].refuses = false;
    world.pass(15);
    assert_eq!(world.array(0).status().sync, None);
    assert!(world.log.contains(&(0, Purpose::Scrub)));
    let end = world.array(0).status().array_sectors;
    assert_eq!(windows(&world, 0).last().expect("some").1, end);
}

/// The time to ask again comes while nobody may write: it is not asked then, nor all the time.
#[test]
fn a_refused_window_is_not_asked_for_while_all_is_frozen() {
    let mut world = World::new(2).running(3);
    world.hosts[1].refuses = true;
    check(&mut world, 0);
    world.settle();
    world.fencing = false;
    world.crash(2);
    world.expel(2);
    world.settle();
    assert!(world.hosts[0].frozen.is_some());
    let asked = windows(&world, 0).len();
    world.pass(30);
    assert_eq!(windows(&world, 0).len(), asked);
    world.hosts[1].refuses = false;
    world.fencing = true;
    world.settle();
    world.pass(30);
    assert_eq!(world.array(0).status().sync, None);
    world.check_data(&[0, 1]);
}

/// Who waits at the end of its window gets a longer one, up to 32 times the first.
#[test]
fn a_resync_that_waits_for_its_window_asks_for_longer_ones() {
    let mut world = World::new(2);
    world.window = 8;
    let mut world = world.running(2);
    check(&mut world, 0);
    // Host 1 hears only when host 0 has nothing else to do.
    while world.step_of(0) || world.step_of(1) {}
    world.pass(5);
    let end = world.array(0).status().array_sectors;
    let (mut at, mut len) = (0, 8);
    for (from, to) in windows(&world, 0) {
        // It may begin where the last one is being compared still.
        assert!(from <= at);
        assert_eq!(to, (at + len).min(end));
        (at, len) = (to, (2 * len).min(256));
    }
    assert_eq!(at, end);
    assert_eq!(world.array(0).status().sync, None);
}

/// A rebuild of a RAID10 walks members, and its windows are where their rows are in the array.
#[test]
fn a_member_of_a_raid10_is_filled_while_all_write() {
    for (layout, legs) in [(0x102, 4), (0x102, 3), (0x103, 4)] {
        for seed in 0..12 {
            let mut world = World::made(Level::Raid10, layout, legs, 16).unfilled();
            world = world.running(2);
            world.rng = Some(Lcg(seed));
            let mut draw = Lcg(seed ^ 77);
            let mut ids = Vec::new();
            for _ in 0..150 {
                let block = draw.below(world.blocks() as usize) as u64;
                if !world.is_busy(block) && draw.below(3) == 0 {
                    let host = draw.below(2);
                    ids.push((host, world.write(host, block)));
                }
                for _ in 0..draw.below(6) {
                    world.step();
                }
            }
            world.settle();
            world.pass(5);
            for (host, id) in ids {
                let reply = &world.hosts[host].replies[&id];
                assert!(
                    reply.is_ok(),
                    "{reply:?}, layout {layout:x} of {legs}, seed {seed}"
                );
            }
            for host in 0..2 {
                assert_eq!(world.array(host).status().degraded, 0, "node {host}");
            }
            read_all(&mut world, layout, seed);
            world.pass(60);
            assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
        }
    }
}

/// The rows that it walks hold `legs / near` chunks of the array each.
#[test]
fn windows_of_a_rebuild_are_where_its_rows_are_in_the_array() {
    for (layout, legs, near) in [(0x102, 4, 2), (0x102, 3, 2), (0x103, 4, 3)] {
        let mut world = World::made(Level::Raid10, layout, legs, 16).unfilled();
        world.window = 64;
        for host in 0..2 {
            world.held.insert((host, Purpose::Resync));
        }
        let mut world = world.running(2);
        let runner = (0..2).find(|host| world.flying(*host, Purpose::Resync) > 0);
        let runner = runner.expect("one fills it");
        world.held.clear();
        while world.step_of(runner) || world.step_of(1 - runner) {}
        let size = world.array(0).status().array_sectors;
        let rows = |sectors: u64| sectors / 16 * u64::from(legs);
        let first = |from: u64| rows(from) / near * 16;
        let last = |to: u64| (rows(to).div_ceil(near) * 16).min(size);
        let all = windows(&world, runner);
        assert_eq!(all[..2], [(0, last(64)), (0, last(192))]);
        // Each of the others begins where the walk was at the end of one before.
        for index in 2..all.len() {
            let ends: Vec<u64> = all[..index].iter().map(|one| one.1).collect();
            let was = (0..1200).step_by(16).filter(|at| ends.contains(&last(*at)));
            let begins = was.map(first).any(|at| at == all[index].0);
            assert!(begins || all[index].0 == 0, "{legs}, {near}: {all:?}");
        }
        assert!(all.iter().any(|one| one.0 > 0), "{all:?}");
        assert_eq!(all.last().expect("some").1, size);
    }
}

/// What was filled holds what was written, also when it is all that is read.
fn read_all(world: &mut World, layout: u32, seed: u64) {
    let last = world.disks.len() as u32 - 1;
    // Its neighbours are worn, so what they share with it is read from it.
    for other in [0, last - 1] {
        world.hosts[0].worn = [other].into();
        for block in (0..world.blocks()).step_by(7) {
            let read = world.read(0, block);
            world.settle();
            assert!(
                world.may_hold(block, world.byte(0, read)),
                "layout {layout:x}, seed {seed}: block {block}"
            );
        }
    }
    world.hosts[0].worn.clear();
}

/// Nothing but what is behind its frontier is announced: hosts write freely before it.
#[test]
fn where_a_rebuild_has_been_everybody_writes() {
    let mut world = World::new(3).unfilled();
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    let mut world = world.running(2);
    let runner = (0..2).find(|host| world.flying(*host, Purpose::Resync) > 0);
    let runner = runner.expect("one fills it");
    let other = 1 - runner;
    let last = world.blocks() - 1;
    let waits = world.write(other, 1);
    let free = world.write(other, last);
    world.settle();
    assert_eq!(world.replied(other, waits), None);
    assert_eq!(world.replied(other, free), Some(true));
    assert!(FIRST / BLOCK < last);
    assert_eq!(windows(&world, runner)[0], (0, FIRST));
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(other, waits), Some(true));
    world.check_data(&[0, 1, 2]);
}

/// Frozen by an administrator, a node that had the turn gives it back.
#[test]
fn a_turn_with_which_nothing_is_to_be_done_is_given_back() {
    let mut world = World::new(2).running(2);
    world.held.insert((0, Purpose::Scrub));
    check(&mut world, 0);
    world.settle();
    world.control(0, Control::Sync(SyncRequest::Idle));
    world.held.clear();
    world.settle();
    assert_eq!(world.array(0).status().sync, None);
    check(&mut world, 1);
    world.settle();
    world.pass(5);
    assert!(world.log.contains(&(1, Purpose::Scrub)), "it never comes");
    assert_eq!(world.array(1).status().sync, None);
}

/// One node resyncs at a time; the other one comes next.
#[test]
fn two_nodes_check_one_after_the_other() {
    let mut world = World::new(2).running(2);
    for host in 0..2 {
        world.held.insert((host, Purpose::Scrub));
        check(&mut world, host);
    }
    world.settle();
    let runs: Vec<usize> = (0..2)
        .filter(|host| world.flying(*host, Purpose::Scrub) > 0)
        .collect();
    assert_eq!(runs.len(), 1, "one at a time");
    world.held.remove(&(runs[0], Purpose::Scrub));
    world.settle();
    world.pass(5);
    let other = 1 - runs[0];
    assert!(world.flying(other, Purpose::Scrub) > 0, "the next one");
    assert_eq!(world.array(runs[0]).status().sync, None);
    world.held.clear();
    world.settle();
    world.pass(5);
    assert_eq!(world.array(other).status().sync, None);
}

/// The turn is wanted, and the member it was wanted for fails before it comes.
#[test]
fn a_turn_that_is_not_wanted_any_more_is_not_taken() {
    let mut world = World::new(3).running(2);
    world.held.insert((0, Purpose::Scrub));
    check(&mut world, 0);
    world.settle();
    check(&mut world, 1);
    world.settle();
    world.control(1, Control::Sync(SyncRequest::Idle));
    world.settle();
    world.held.clear();
    world.settle();
    world.pass(5);
    assert!(!world.log.contains(&(1, Purpose::Scrub)));
    for host in 0..2 {
        let array = world.hosts[host].array.as_ref().expect("it lives");
        assert_eq!(array.node().waits(), []);
    }
    world.control(0, Control::Fail(MemberId(1)));
    world.settle();
    assert_eq!(world.in_sync(), [0, 2]);
}
