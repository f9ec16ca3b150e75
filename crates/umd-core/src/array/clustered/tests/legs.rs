//! A RAID1 of a cluster gets more slots or fewer while all nodes write, and while nodes die.

use super::world::{Lcg, World};
use crate::cluster::Freeze;
use crate::value::{Control, LegsWish, MemberId};

fn legs(raid_disks: u16) -> Control {
    Control::Legs(LegsWish {
        raid_disks,
        coming: 0,
        force: true,
        only_asked: false,
    })
}

fn serving(world: &World) -> Vec<usize> {
    let hosts = 0..world.hosts.len();
    hosts.filter(|host| world.serves(*host)).collect()
}

/// All that serve, and the members in sync, say that there are so many slots, and so many of them
/// hold nothing.
fn assert_slots(world: &World, (slots, degraded): (u16, u16), what: &str) {
    for host in serving(world) {
        let status = world.array(host).status();
        let seen = (status.raid_disks, status.degraded);
        assert_eq!(seen, (slots, degraded), "host {host}: {what}");
    }
    for disk in world.in_sync() {
        let said = world.superblock(disk).fields.raid_disks;
        assert_eq!(said, u32::from(slots), "disk {disk}: {what}");
    }
}

/// All write, and in between this happens. Nothing of what they wrote may have come to nothing.
fn storm(world: &mut World, seed: u64, mut at: impl FnMut(&mut World, usize)) {
    let mut draw = Lcg(seed ^ 0x1e65);
    world.rng = Some(Lcg(seed));
    let mut ids = Vec::new();
    for round in 0..200 {
        at(world, round);
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
fn slots_come_are_filled_and_go_while_all_write() {
    for seed in 0..24 {
        let mut world = World::new(2).running(3);
        let (one, other) = (seed as usize % 3, (seed as usize + 1) % 3);
        let new = world.new_disk(0xee);
        storm(&mut world, seed, |world, round| match round {
            20 if seed % 2 == 0 => world.add(other, new),
            40 => world.control(one, legs(3)),
            60 if seed % 2 == 1 => world.add(other, new),
            _ => {}
        });
        assert_slots(&world, (3, 0), &format!("seed {seed}"));
        world.check_data(&[0, 1, 2]);
        assert_eq!(world.hosts[one].answers, ["Ok(Done)"]);
        storm(&mut world, seed ^ 0x77, |world, round| match round {
            20 => world.control(one, Control::Fail(MemberId(new))),
            90 => world.control(other, legs(2)),
            _ => {}
        });
        assert_slots(&world, (2, 0), &format!("seed {seed}"));
        world.check_data(&[0, 1]);
    }
}

/// Who asked for it dies at any moment of it: those that are left agree, and go on.
#[test]
fn who_asked_for_it_dies_at_any_moment() {
    let (mut changed, mut kept) = (0, 0);
    for seed in 0..160_u64 {
        let mut world = World::new(2).running(3);
        let dies = 20 + seed as usize % 40;
        storm(&mut world, seed, |world, round| match round {
            20 => world.control(0, legs(3)),
            _ if round == dies => {
                world.crash(0);
                world.expel(0);
            }
            _ => {}
        });
        let slots = world.array(1).status().raid_disks;
        match slots {
            3 => changed += 1,
            _ => kept += 1,
        }
        assert_slots(&world, (slots, slots - 2), &format!("seed {seed}"));
        world.check_data(&[0, 1]);
        world.control(2, legs(4));
        world.settle();
        world.pass(30);
        assert_slots(&world, (4, 2), &format!("seed {seed}"));
    }
    assert!(changed > 10 && kept > 10, "{changed} and {kept}");
}

#[test]
fn who_cannot_follow_is_named_and_follows_later() {
    let mut world = World::new(2).running(2);
    world.hosts[1].blind = [0, 1].into();
    world.control(0, legs(3));
    world.settle();
    let said = world.hosts[0].answers.concat();
    assert!(said.contains("node 1: it cannot read"), "{said}");
    assert!(matches!(world.hosts[1].frozen, Some(Freeze::Blind(_))));
    assert_eq!(world.array(1).status().raid_disks, 2);
    world.hosts[1].blind.clear();
    world.pass(15);
    assert_slots(&world, (3, 1), "once it can read");
    let id = world.write(1, 9);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
}

#[test]
fn what_cannot_be_changes_nothing() {
    let mut world = World::new(3).running(2);
    let events = world.superblock(0).fields.events;
    let only_asked = LegsWish {
        raid_disks: 5,
        coming: 2,
        force: false,
        only_asked: true,
    };
    let alone = LegsWish {
        coming: 1,
        only_asked: false,
        ..only_asked
    };
    world.control(0, legs(0));
    world.control(0, legs(2));
    world.control(0, Control::Legs(alone));
    world.control(0, legs(3));
    world.control(0, Control::Legs(only_asked));
    world.settle();
    let said = &world.hosts[0].answers;
    let told = [
        "at least 1",
        "3 members work",
        "2 devices more",
        "Ok(",
        "Ok(",
    ];
    assert_eq!(said.len(), told.len(), "{said:?}");
    assert!(
        said.iter().zip(told).all(|(one, why)| one.contains(why)),
        "{said:?}"
    );
    assert_eq!(
        world.superblock(0).fields.events,
        events,
        "nothing is written"
    );
    // Who would have to move to another slot stays where it is.
    world.control(1, Control::Fail(MemberId(0)));
    world.settle();
    world.control(0, legs(2));
    world.settle();
    let said = &world.hosts[0].answers[5];
    assert!(said.contains("d2 would have to move to slot 0"), "{said}");
    assert_slots(&world, (3, 1), "as before");
    let mut parts = World::made(umd_format::Level::Raid10, 0x102, 4, 16).running(2);
    parts.control(0, legs(5));
    parts.settle();
    let said = parts.hosts[0].answers.concat();
    assert!(said.contains("raid10 keeps its number"), "{said}");
}
