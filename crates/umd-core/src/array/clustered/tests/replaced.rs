//! Members are replaced while all nodes write, and while nodes die.

use umd_format::{Level, Role};

use super::world::{Lcg, World};
use crate::array::clustered::Input;
use crate::member::State;
use crate::value::{Control, MemberId, Notice, Purpose};

/// Three legs and a spare, or two pairs and a spare.
const SHAPES: [(Level, u32, u16, u32); 2] =
    [(Level::Raid1, 0, 3, 0), (Level::Raid10, 0x102, 4, 16)];

fn world(shape: usize, hosts: usize) -> (World, u32) {
    let (level, layout, legs, chunk) = SHAPES[shape];
    let world = World::with_spares(level, layout, (legs, 1), chunk);
    (world.running(hosts), u32::from(legs))
}

fn replace(world: &mut World, host: usize, disk: u32) {
    let (member, with) = (MemberId(disk), None);
    world.control(host, Control::Replace { member, with });
}

fn state(world: &World, host: usize, disk: u32) -> Option<State> {
    let member = world.array(host).members.get(MemberId(disk));
    member.map(|member| member.state)
}

fn is_replacing(world: &World, host: usize, disk: u32) -> bool {
    let member = world.array(host).members.get(MemberId(disk));
    member.is_some_and(|member| member.replacement)
}

fn serving(world: &World) -> Vec<usize> {
    let hosts = 0..world.hosts.len();
    hosts.filter(|host| world.serves(*host)).collect()
}

/// All that serve take the new one for a member in sync, and the old one for one that failed.
fn assert_replaced(world: &World, old: u32, new: u32, what: &str) {
    for host in serving(world) {
        let state = |disk| state(world, host, disk);
        assert_eq!(state(new), Some(State::InSync), "host {host}: {what}");
        // Who joined later does not have it at all.
        let out = matches!(state(old), Some(State::Faulty) | None);
        assert!(out, "host {host}: {what}");
        assert_eq!(world.array(host).status().degraded, 0, "{what}");
    }
    assert_eq!(world.superblock(0).fields.role_of(old), Role::Faulty);
}

fn check(world: &World) {
    match world.superblock(0).fields.level {
        Level::Raid1 => world.check_data(&world.in_sync()),
        _ => {
            let pairs = [[0, 1], [2, 3]];
            let there = world.in_sync();
            let spare = there.iter().position(|disk| *disk == 4);
            let stands_for = |disk: usize| match (there.contains(&disk), spare) {
                (false, Some(_)) => 4,
                _ => disk,
            };
            for [a, b] in pairs {
                let data = |disk: usize| &world.disks[stands_for(disk)][128 * 512..];
                assert!(data(a) == data(b), "copies on {a} and {b} differ");
            }
        }
    }
}

/// Writes of all hosts, some of which dies in between, if that is wanted.
fn storm(world: &mut World, seed: u64, (old, by): (u32, usize), dying: Option<usize>) {
    let mut draw = Lcg(seed ^ 0x99);
    world.rng = Some(Lcg(seed));
    let dies_at = 40 + draw.below(120);
    let mut ids = Vec::new();
    for round in 0..200 {
        if round == 20 {
            replace(world, by, old);
        }
        if let Some(host) = dying.filter(|_| round == dies_at) {
            world.crash(host);
            world.expel(host);
        }
        let host = draw.below(world.hosts.len());
        let block = draw.below(world.blocks() as usize) as u64;
        if world.serves(host) && !world.is_busy(block) && draw.below(2) == 0 {
            ids.push((host, world.write(host, block)));
        }
        (0..draw.below(5)).for_each(|_| _ = world.step());
    }
    world.settle();
    world.pass(120);
    for (host, id) in ids {
        let fine = !world.serves(host) || world.replied(host, id) == Some(true);
        assert!(fine, "seed {seed}: a write of host {host} came to nothing");
    }
}

#[test]
fn a_member_is_replaced_while_all_write() {
    for seed in 0..24 {
        let (mut world, new) = world(seed as usize % 2, 3);
        storm(&mut world, seed, (1, seed as usize % 3), None);
        assert_replaced(&world, 1, new, &format!("seed {seed}"));
        check(&world);
        let said = &world.hosts[seed as usize % 3].answers;
        assert_eq!(said, &["Ok(Done)"]);
    }
}

/// What it wrote last may have reached who was replaced, and not who replaced it.
#[test]
fn a_writer_dies_while_a_member_is_replaced() {
    for seed in 0..120 {
        let (mut world, new) = world(seed as usize % 2, 3);
        storm(&mut world, seed, (1, 0), Some(1 + seed as usize / 2 % 2));
        assert_replaced(&world, 1, new, &format!("seed {seed}"));
        check(&world);
    }
}

/// The node that was asked stops or dies after each step: another one goes on with it once the
/// spare has the slot, and it can be asked for again before.
#[test]
fn who_replaces_stops_or_dies_at_any_step() {
    let (mut early, mut late) = (0, 0);
    for steps in (0..60).chain((60..600).step_by(13)) {
        for dies in [false, true] {
            let (mut world, new) = world(0, 3);
            replace(&mut world, 0, 1);
            (0..steps).for_each(|_| _ = world.step());
            match dies {
                true => {
                    world.crash(0);
                    world.expel(0);
                }
                false => world.input(0, Input::Stop),
            }
            world.settle();
            world.pass(120);
            if state(&world, 1, 1) == Some(State::InSync) {
                early += 1;
                replace(&mut world, 1, 1);
                world.settle();
                world.pass(120);
            } else {
                late += 1;
            }
            assert_replaced(&world, 1, new, &format!("after {steps} steps"));
            let id = world.write(2, 7);
            world.settle();
            assert_eq!(world.replied(2, id), Some(true), "after {steps} steps");
            check(&world);
        }
    }
    assert!(early > 10 && late > 10, "{early} before, {late} after");
}

/// Steps until somebody begins to fill the new disk.
fn until_replacing(world: &mut World, new: u32) {
    replace(world, 0, 1);
    let mut steps = 0;
    while !(0..2).all(|host| is_replacing(world, host, new)) {
        world.step();
        steps += 1;
        assert!(steps < 10_000, "nobody is replaced");
    }
    (0..40).for_each(|_| _ = world.step());
}

#[test]
fn who_is_replaced_fails_meanwhile() {
    for host in 0..2 {
        let (mut world, new) = world(0, 2);
        until_replacing(&mut world, new);
        assert!(is_replacing(&world, 1, new), "it is not over yet");
        world.control(host, Control::Fail(MemberId(1)));
        world.settle();
        world.pass(60);
        assert_replaced(&world, 1, new, "by a rebuild");
        check(&world);
    }
}

#[test]
fn who_replaces_another_fails_meanwhile() {
    for host in 0..2 {
        let (mut world, new) = world(0, 2);
        until_replacing(&mut world, new);
        world.control(host, Control::Fail(MemberId(new)));
        world.settle();
        world.pass(60);
        for host in 0..2 {
            assert_eq!(state(&world, host, 1), Some(State::InSync));
            assert_eq!(state(&world, host, new), Some(State::Faulty));
            assert!(!is_replacing(&world, host, new));
        }
        let id = world.write(1, 5);
        world.settle();
        assert_eq!(world.replied(1, id), Some(true));
        check(&world);
    }
}

/// A write of a dead node is on the old member, and not on the new one, which is full already: it
/// gets what all others have, and has its place only then.
#[test]
fn who_is_full_waits_for_what_a_dead_node_has_left() {
    for landed in [[0, 1, 2], [0, 2, 1]] {
        let (mut world, new) = world(0, 2);
        until_replacing(&mut world, new);
        world.held.insert((0, Purpose::Super));
        world.settle();
        let filled = |world: &World| world.legs(3)[new as usize] == world.legs(3)[0];
        assert!(
            filled(&world) && is_replacing(&world, 1, new),
            "full, and not recorded"
        );
        world.write(1, 3);
        world.land_all(1, Purpose::Bitmap);
        landed.into_iter().for_each(|disk| world.land_on(1, disk));
        assert!(!filled(&world), "it was to be last");
        world.crash(1);
        world.hosts[1].flights.clear();
        world.held.clear();
        world.held.insert((0, Purpose::Resync));
        world.expel(1);
        world.settle();
        world.pass(20);
        assert!(
            is_replacing(&world, 0, new),
            "it has its place before it is sure"
        );
        world.held.clear();
        world.settle();
        world.pass(60);
        assert_replaced(&world, 1, new, "once all agree");
        check(&world);
    }
}

/// A node that joins meanwhile writes to both, too.
#[test]
fn a_node_joins_while_a_member_is_replaced() {
    for steps in (0..400).step_by(9) {
        let (mut world, new) = world(0, 2);
        replace(&mut world, 0, 1);
        (0..steps).for_each(|_| _ = world.step());
        let host = world.add_host();
        world.start(host);
        for block in 0..20 {
            (0..9).for_each(|_| _ = world.step());
            if world.serves(host) && !world.is_busy(block) {
                world.write(host, block);
            }
        }
        world.settle();
        world.pass(120);
        assert!(world.serves(host), "{:?}", world.hosts[host].refusals);
        assert_replaced(&world, 1, new, &format!("after {steps} steps"));
        check(&world);
    }
}

/// All nodes end: who runs the array next begins with the new disk again.
#[test]
fn all_die_while_a_member_is_replaced() {
    for seed in 0..20 {
        let (mut world, new) = world(0, 2);
        world.rng = Some(Lcg(seed));
        until_replacing(&mut world, new);
        for block in 0..10 {
            world.write(block as usize % 2, block);
        }
        (0..seed).for_each(|_| _ = world.step());
        for host in 0..2 {
            world.crash(host);
            world.expel(host);
        }
        let host = world.add_host();
        world.start(host);
        world.settle();
        world.pass(120);
        assert!(world.serves(host), "{:?}", world.hosts[host].refusals);
        assert_replaced(&world, 1, new, &format!("seed {seed}"));
        check(&world);
    }
}

#[test]
fn a_spare_that_a_node_does_not_see_replaces_nobody() {
    let (mut world, new) = world(0, 2);
    world.hosts[1].blind.insert(new);
    world.hosts[1].unseen.insert(new);
    // It has lost the spare, which is no failure that all know.
    world.control(1, Control::Fail(MemberId(new)));
    world.settle();
    replace(&mut world, 0, 1);
    world.settle();
    world.pass(5);
    assert_eq!(state(&world, 0, 1), Some(State::InSync));
    assert!((0..2).all(|host| !is_replacing(&world, host, new)));
    let id = world.write(1, 5);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
}

#[test]
fn what_cannot_be_replaced_is_refused_and_nothing_is_told() {
    let mut world = World::new(2).running(2);
    replace(&mut world, 0, 9);
    world.settle();
    assert!(world.hosts[0].answers[0].contains("no such member"));
    let events = world.superblock(0).fields.events;
    // Without a spare it waits for one.
    replace(&mut world, 0, 1);
    world.settle();
    world.pass(10);
    assert_eq!(world.hosts[0].answers[1], "Ok(Done)");
    assert_eq!(world.superblock(0).fields.events, events);
    let disk = world.new_disk(0xee);
    world.add(1, disk);
    world.settle();
    world.pass(60);
    assert_replaced(&world, 1, disk, "once there is a spare");
    check(&world);
    let told =
        |notice: &Notice| matches!(notice, Notice::Message(text) if text.contains("replaced"));
    assert!((0..2).all(|host| world.hosts[host].notices.iter().any(told)));
}
