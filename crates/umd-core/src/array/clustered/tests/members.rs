//! Members that an administrator changes on one node: every other one has followed when the answer
//! comes, or the answer says which one has not.

use umd_format::{Level, Role};

use super::world::{Lcg, NODES, World};
use crate::cluster::Freeze;
use crate::member::State;
use crate::value::{Control, MemberId, Purpose};

fn fail(world: &mut World, host: usize, disk: u32) {
    world.control(host, Control::Fail(MemberId(disk)));
}

fn remove(world: &mut World, host: usize, disk: u32) {
    world.control(host, Control::Remove(MemberId(disk)));
}

fn is_there(world: &World, host: usize, disk: u32) -> bool {
    world.array(host).members.get(MemberId(disk)).is_some()
}

fn answers(world: &World, host: usize) -> Vec<&str> {
    let answers = world.hosts[host].answers.iter();
    answers.map(String::as_str).collect()
}

const DONE: &str = "Ok(Done)";

#[test]
fn a_member_set_faulty_is_faulty_everywhere_when_that_is_answered() {
    let mut world = World::new(3).running(3);
    world.held.insert((2, Purpose::Super));
    fail(&mut world, 0, 2);
    world.settle();
    assert_eq!(world.superblock(0).fields.role_of(2), Role::Faulty);
    assert!(world.is_faulty(1, 2) && !world.is_faulty(2, 2));
    assert!(answers(&world, 0).is_empty(), "one node does not know it");
    world.held.clear();
    world.settle();
    assert!(world.is_faulty(2, 2));
    assert_eq!(answers(&world, 0), [DONE]);
    let id = world.write(2, 9);
    world.settle();
    assert_eq!(world.replied(2, id), Some(true));
    world.check_data(&[0, 1]);
}

#[test]
fn who_cannot_follow_a_failure_is_named_and_follows_later() {
    let mut world = World::new(3).running(2);
    world.hosts[1].blind = [0, 1, 2].into();
    fail(&mut world, 0, 2);
    world.settle();
    let said = answers(&world, 0);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("node 1: it cannot read"), "{said:?}");
    assert!(matches!(world.hosts[1].frozen, Some(Freeze::Blind(_))));
    world.hosts[1].blind.clear();
    world.pass(15);
    assert!(world.is_faulty(1, 2));
    assert_eq!(world.hosts[1].frozen, None);
    let id = world.write(1, 9);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    world.check_data(&[0, 1]);
}

#[test]
fn a_node_that_dies_meanwhile_is_fenced_before_the_answer() {
    let mut world = World::new(3).running(2);
    world.fencing = false;
    world.held.insert((1, Purpose::Super));
    fail(&mut world, 0, 2);
    world.settle();
    world.crash(1);
    world.expel(1);
    world.settle();
    assert!(answers(&world, 0).is_empty(), "it may be writing still");
    world.fencing = true;
    world.settle();
    assert_eq!(answers(&world, 0), [DONE]);
}

#[test]
fn a_member_that_is_removed_is_let_go_by_all() {
    let mut world = World::with_spares(Level::Raid1, 0, (3, 1), 0).running(3);
    for disk in [3, 2] {
        if disk == 2 {
            fail(&mut world, 0, 2);
            world.settle();
        }
        let told = answers(&world, 0).len();
        let before = world.superblock(0).fields.events;
        world.held.insert((2, Purpose::Super));
        remove(&mut world, 0, disk);
        world.settle();
        assert_eq!(answers(&world, 0).len(), told, "not all have let it go");
        world.held.clear();
        world.settle();
        assert_eq!(answers(&world, 0)[told], DONE);
        for host in 0..3 {
            assert!(!is_there(&world, host, disk), "host {host}");
            assert!(world.hosts[host].released.contains(&disk));
        }
        assert_eq!(world.superblock(0).fields.events, before + 1);
    }
    let ids = [world.write(1, 9), world.write(2, 10)];
    world.settle();
    assert_eq!(world.replied(1, ids[0]), Some(true));
    assert_eq!(world.replied(2, ids[1]), Some(true));
    world.check_data(&[0, 1]);
}

#[test]
fn what_is_refused_here_is_told_to_nobody() {
    let mut world = World::new(3).running(2);
    let (disks, said) = (world.disks.clone(), world.log.len());
    remove(&mut world, 0, 1);
    remove(&mut world, 0, 9);
    world.settle();
    let answers = answers(&world, 0);
    assert!(answers[0].contains("set it faulty before"), "{answers:?}");
    assert!(answers[1].contains("no such member"), "{answers:?}");
    assert!(world.disks == disks && world.log.len() == said);
    assert!(world.hosts[1].acks.is_empty());
}

#[test]
fn two_nodes_remove_the_same_member() {
    let mut world = World::new(3).running(2);
    fail(&mut world, 0, 2);
    world.settle();
    remove(&mut world, 0, 2);
    remove(&mut world, 1, 2);
    world.settle();
    assert_eq!(answers(&world, 0), [DONE, DONE]);
    let late = answers(&world, 1);
    assert_eq!(late.len(), 1);
    assert!(late[0].contains("another node has changed"), "{late:?}");
    assert!((0..2).all(|host| !is_there(&world, host, 2)));
}

/// A node has lost sight of superblocks, and takes for a part of the array what is to be removed.
#[test]
fn a_member_that_another_node_needs_stays() {
    let mut world = World::new(3).running(2);
    world.hosts[1].blind = [0, 1, 2].into();
    fail(&mut world, 0, 2);
    remove(&mut world, 0, 2);
    world.settle();
    let said = answers(&world, 0);
    assert!(
        said[1].contains("node 1: the device is in no state"),
        "{said:?}"
    );
    assert!(is_there(&world, 0, 2));
    world.hosts[1].blind.clear();
    world.pass(15);
    remove(&mut world, 0, 2);
    world.settle();
    assert_eq!(answers(&world, 0)[2], DONE);
    assert!((0..2).all(|host| !is_there(&world, host, 2)));
}

#[test]
fn who_stops_or_dies_while_it_removes_leaves_the_others_going() {
    for steps in 0..60 {
        for dies in [false, true] {
            let mut world = World::new(3).running(3);
            fail(&mut world, 0, 2);
            world.settle();
            remove(&mut world, 0, 2);
            (0..steps).for_each(|_| _ = world.step());
            match dies {
                true => {
                    world.crash(0);
                    world.expel(0);
                }
                false => world.input(0, crate::array::clustered::Input::Stop),
            }
            world.settle();
            world.pass(60);
            assert!(dies || answers(&world, 0).len() == 2, "told after {steps}");
            if is_there(&world, 1, 2) {
                remove(&mut world, 1, 2);
                world.settle();
                assert_eq!(answers(&world, 1), [DONE], "after {steps} steps");
            }
            assert!(!is_there(&world, 1, 2) && !is_there(&world, 2, 2));
            let id = world.write(2, 7);
            world.settle();
            assert_eq!(world.replied(2, id), Some(true), "after {steps} steps");
            world.check_data(&[0, 1]);
        }
    }
}

fn state(world: &World, host: usize, disk: u32) -> Option<State> {
    let member = world.array(host).members.get(MemberId(disk));
    member.map(|member| member.state)
}

/// One of three legs is taken out, and another disk comes in while all write.
#[test]
fn a_new_disk_is_filled_while_all_write() {
    for seed in 0..12 {
        let mut world = World::new(3).running(3);
        fail(&mut world, 0, 2);
        world.settle();
        remove(&mut world, 0, 2);
        world.settle();
        let disk = world.new_disk(0xee);
        world.rng = Some(Lcg(seed));
        let mut draw = Lcg(seed ^ 99);
        let mut ids = Vec::new();
        for round in 0..150 {
            if round == 20 {
                world.add(seed as usize % 3, disk);
            }
            let block = draw.below(world.blocks() as usize) as u64;
            if !world.is_busy(block) && draw.below(3) == 0 {
                let host = draw.below(3);
                ids.push((host, world.write(host, block)));
            }
            for _ in 0..draw.below(6) {
                world.step();
            }
        }
        world.settle();
        world.pass(5);
        let said = answers(&world, seed as usize % 3);
        assert!(said.last().expect("one").contains("Ok(Added"), "{said:?}");
        for (host, id) in ids {
            assert_eq!(world.replied(host, id), Some(true), "seed {seed}");
        }
        for host in 0..3 {
            assert_eq!(
                state(&world, host, disk),
                Some(State::InSync),
                "seed {seed}"
            );
            assert_eq!(world.array(host).status().degraded, 0);
        }
        world.check_data(&[0, 1, disk as usize]);
        world.pass(60);
        let left = (0..NODES).any(|slot| !world.bits_on(disk as usize, slot).is_empty());
        assert!(!left, "bits are left");
    }
}

#[test]
fn a_disk_that_a_node_does_not_see_is_written_by_nobody() {
    let mut world = World::new(2).running(3);
    let disk = world.new_disk(0xee);
    world.hosts[2].unseen.insert(disk);
    let disks = world.disks.clone();
    world.add(0, disk);
    world.settle();
    let said = answers(&world, 0);
    assert_eq!(said.len(), 1);
    assert!(
        said[0].contains("node 2: it does not see the disk"),
        "{said:?}"
    );
    assert!(!said[0].contains("node 1"), "{said:?}");
    assert!(world.disks == disks, "a byte was changed");
    for host in 0..2 {
        assert!(world.hosts[host].released.contains(&disk), "host {host}");
    }
    assert!((0..3).all(|host| !is_there(&world, host, disk)));
    assert!(world.hosts.iter().all(|host| host.frozen.is_none()));
    // Then it does.
    world.hosts[2].unseen.clear();
    world.add(0, disk);
    world.settle();
    assert!(answers(&world, 0)[1].contains("Ok(Added"));
    let spare = Some(State::Spare);
    assert!((0..3).all(|host| state(&world, host, disk) == spare));
}

/// Under the same path there is another disk on one node, of the same size.
#[test]
fn a_disk_that_is_another_one_elsewhere_is_taken_out_again() {
    let mut world = World::new(3).running(2);
    fail(&mut world, 0, 2);
    world.settle();
    let disk = world.new_disk(0xee);
    let other = world.new_disk(0xdd);
    world.hosts[1].mixed_up.insert(disk, other);
    let before = world.disks[other as usize].clone();
    world.add(0, disk);
    world.settle();
    let said = answers(&world, 0);
    assert!(
        said[1].contains("node 1: it does not see the disk"),
        "{said:?}"
    );
    assert!(world.disks[other as usize] == before, "a byte was changed");
    assert!((0..2).all(|host| !is_there(&world, host, disk) && !is_there(&world, host, other)));
    assert!(world.hosts[1].released.contains(&other));
    assert!(world.hosts.iter().all(|host| host.frozen.is_none()));
    let ids = [world.write(0, 1), world.write(1, 2)];
    world.settle();
    assert_eq!(world.replied(0, ids[0]), Some(true));
    assert_eq!(world.replied(1, ids[1]), Some(true));
    world.check_data(&[0, 1]);
}

/// A node that opens the disk for ever is given up after a while; what it opens late it closes.
#[test]
fn a_node_that_is_too_slow_to_find_a_disk_does_not_see_it() {
    let mut world = World::new(2).running(2);
    let disk = world.new_disk(0xee);
    world.hosts[1].searching = true;
    world.add(0, disk);
    world.pass(4);
    assert!(answers(&world, 0).is_empty());
    world.pass(3);
    let said = answers(&world, 0);
    assert!(
        said[0].contains("node 1: it does not see the disk"),
        "{said:?}"
    );
    world.hosts[1].searching = false;
    world.settle();
    assert!(world.hosts[1].released.contains(&disk));
    assert!(!is_there(&world, 1, disk));
}

#[test]
fn what_cannot_be_a_member_is_refused_before_anybody_is_told() {
    let mut world = World::new(2).running(2);
    let small = world.new_disk(1);
    world.disks[small as usize].truncate(256 << 10);
    let fine = world.new_disk(1);
    let disks = world.disks.clone();
    world.add(0, small);
    let mut long = world.offer(0, fine);
    long.name = "d".repeat(200);
    world.control(0, Control::Add(long));
    let mut mostly = world.offer(0, fine);
    mostly.flags.write_mostly = Some(true);
    world.control(0, Control::Add(mostly));
    world.settle();
    let said = answers(&world, 0);
    let words = ["TooSmall", "128 bytes", "no such members"];
    for (said, words) in said.iter().zip(words) {
        assert!(said.contains(words), "{said:?}");
    }
    assert_eq!(said.len(), 3);
    assert!(world.disks == disks && world.hosts[1].acks.is_empty());
}

/// A spare steps in for a member that fails, on whichever node, and is filled once.
#[test]
fn a_spare_steps_in() {
    for host in 0..3 {
        let mut world = World::with_spares(Level::Raid1, 0, (2, 1), 0).running(3);
        for disk in [0, 1] {
            world.write(disk, disk as u64);
        }
        world.settle();
        fail(&mut world, host, 1);
        world.settle();
        world.pass(30);
        for host in 0..3 {
            assert_eq!(state(&world, host, 2), Some(State::InSync));
        }
        world.check_data(&[0, 2]);
    }
}

/// Both have added something, or tried to: that one waits for the other is no reason to wait.
#[test]
fn two_nodes_that_have_added_disks_do_not_wait_for_each_other() {
    for spare in [false, true] {
        let mut world = World::new(2).running(2);
        let first = world.new_disk(0xee);
        if !spare {
            world.hosts[1].unseen.insert(first);
        }
        world.add(0, first);
        world.settle();
        assert_eq!(is_there(&world, 0, first), spare);
        let second = world.new_disk(0xdd);
        world.add(1, second);
        world.settle();
        fail(&mut world, 0, 1);
        world.settle();
        world.pass(30);
        for host in 0..2 {
            assert_eq!(world.array(host).status().degraded, 0);
        }
        let disks = world.in_sync();
        assert_eq!(disks.len(), 2);
        world.check_data(&disks);
    }
}

/// Every bitmap is on who got a slot: also those of nodes that are not there.
#[test]
fn who_gets_a_slot_has_the_bitmaps_of_all_slots() {
    let mut world = World::new(2).running(2);
    let disk = world.new_disk(0xee);
    fail(&mut world, 0, 1);
    world.settle();
    world.add(1, disk);
    world.settle();
    world.pass(30);
    let disk = disk as usize;
    for slot in 0..NODES {
        assert_eq!(world.bits_on(disk, slot), world.bits_on(0, slot));
    }
    // Who joins now finds its own there.
    world.hosts[0].cut.insert(0);
    let host = world.add_host();
    world.boot(host);
    let id = world.write(host, 5);
    world.settle();
    assert_eq!(world.replied(host, id), Some(true));
}

#[test]
fn who_stops_or_dies_while_a_disk_is_added_leaves_the_others_going() {
    for (steps, who) in (0..120).step_by(3).flat_map(|n| [(n, 0), (n, 1)]) {
        for dies in [false, true] {
            let mut world = World::new(2).running(3);
            fail(&mut world, 2, 1);
            world.settle();
            let disk = world.new_disk(0xee);
            world.add(0, disk);
            (0..steps).for_each(|_| _ = world.step());
            match dies {
                true => {
                    world.crash(who);
                    world.expel(who);
                }
                false => world.input(who, crate::array::clustered::Input::Stop),
            }
            world.settle();
            world.pass(60);
            let case = format!("{steps} steps, host {who}, dies {dies}");
            let live = 1 - who;
            if !is_there(&world, live, disk) {
                world.add(live, disk);
                world.settle();
                world.pass(60);
            }
            for host in [live, 2] {
                assert_eq!(state(&world, host, disk), Some(State::InSync), "{case}");
                assert_eq!(world.hosts[host].frozen, None, "{case}");
                let array = world.hosts[host].array.as_ref().expect("it lives");
                assert_eq!(array.node().waits(), [], "{case}");
            }
            let id = world.write(2, 7);
            world.settle();
            assert_eq!(world.replied(2, id), Some(true), "{case}");
            world.check_data(&[0, disk as usize]);
        }
    }
}

/// A node reads superblocks again while a disk is being filled, and nothing about it has changed:
/// what it writes goes there all the same, also where the copy has been already.
#[test]
fn who_is_being_filled_takes_all_writes_whatever_is_told_meanwhile() {
    let mut filling = 0;
    for steps in (40..160).step_by(4) {
        let mut world = World::new(2).running(2);
        fail(&mut world, 0, 1);
        world.settle();
        let disk = world.new_disk(0xee);
        world.add(0, disk);
        (0..steps).for_each(|_| _ = world.step());
        let recovers = |state| matches!(state, Some(State::Recovering { .. }));
        filling += usize::from((0..2).all(|host| recovers(state(&world, host, disk))));
        world.announce(0, 1, 0);
        while world.step_of(1) {}
        let ids: Vec<u64> = (0..5).map(|n| world.write(1, 30 * n)).collect();
        world.settle();
        world.pass(5);
        for id in ids {
            assert_eq!(world.replied(1, id), Some(true), "after {steps} steps");
        }
        assert_eq!(world.in_sync(), [0, disk as usize]);
        world.check_data(&[0, disk as usize]);
    }
    assert!(filling > 3, "the steps lie elsewhere");
}

/// Who could not follow has something to tell as well: it lets the others tell first, or nobody
/// would ever have the token again.
#[test]
fn who_cannot_follow_does_not_keep_the_token() {
    let mut world = World::new(4).running(3);
    world.hosts[1].blind = [0, 1, 2, 3].into();
    fail(&mut world, 0, 2);
    world.settle();
    let disk = world.new_disk(0xee);
    world.add(1, disk);
    world.settle();
    fail(&mut world, 2, 3);
    // It rests: it has just told of the first one in vain.
    world.pass(15);
    assert_eq!(world.superblock(0).fields.role_of(3), Role::Faulty);
    let said = answers(&world, 2);
    assert!(said[0].contains("node 1: it cannot read"), "{said:?}");
    assert!(answers(&world, 1).is_empty());
    world.hosts[1].blind.clear();
    world.pass(40);
    assert!(world.is_faulty(1, 2) && world.is_faulty(1, 3));
    let said = answers(&world, 1);
    assert!(said[0].contains("Ok(Added"), "{said:?}");
    assert!(world.hosts.iter().all(|host| host.frozen.is_none()));
}

/// A node that comes while a spare is being given a slot, and does not see it, is waited for by
/// nobody: the slot is taken back, and another spare gets it, which all see.
#[test]
fn a_slot_that_not_all_can_follow_is_taken_back() {
    let mut joined = 0;
    for (spares, steps) in [1, 2]
        .into_iter()
        .flat_map(|n| (0..60).map(move |at| (n, at)))
    {
        let mut world = World::with_spares(Level::Raid1, 0, (2, spares), 0).running(2);
        let host = world.add_host();
        world.hosts[host].cut.insert(2);
        world.rng = Some(Lcg(steps));
        fail(&mut world, 0, 1);
        (0..steps).for_each(|_| _ = world.step());
        world.start(host);
        world.settle();
        world.pass(30);
        let served: Vec<usize> = (0..3).filter(|host| world.serves(*host)).collect();
        for host in &served {
            assert_eq!(
                world.hosts[*host].frozen, None,
                "{host} after {steps} steps"
            );
            let id = world.write(*host, 5);
            world.settle();
            assert_eq!(world.replied(*host, id), Some(true), "{host} after {steps}");
        }
        let disks = world.in_sync();
        world.check_data(&disks);
        if !served.contains(&2) {
            continue;
        }
        joined += 1;
        assert_eq!(disks.len(), usize::from(spares), "after {steps} steps");
        assert_eq!(state(&world, 0, 2), Some(State::Spare));
        let told = |host: usize| {
            world.hosts[host]
                .notices
                .iter()
                .map(|one| format!("{one:?}"))
        };
        let named = |text: String| text.contains("d2 cannot step in") && text.contains("node 2");
        assert!((0..2).flat_map(told).any(named), "after {steps} steps");
    }
    assert!(joined > 5, "{joined}: the steps lie elsewhere");
}

/// What is asked for while a node is being told of something else is on no superblock yet, and is
/// not said to be.
#[test]
fn what_comes_while_others_are_told_is_answered_for_itself() {
    for steps in 0..30 {
        let mut world = World::new(4).running(2);
        world.hosts[1].blind = [0, 1, 2, 3].into();
        fail(&mut world, 0, 2);
        (0..steps).for_each(|_| _ = world.step());
        fail(&mut world, 0, 3);
        while answers(&world, 0).len() < 2 {
            assert!(
                world.step() || world.next_timer().is_some(),
                "nobody is told"
            );
            let told = answers(&world, 0).len();
            let recorded = world.superblock(0).fields.role_of(3) == Role::Faulty;
            assert!(told < 2 || recorded, "after {steps} steps");
            if world.is_at_rest() {
                world.pass(5);
            }
        }
    }
}

/// Members carry different events since one of them failed: what a node has to tell besides gets
/// events of its own, or whoever reads after its death may take the older superblock.
#[test]
fn what_is_told_after_somebody_else_has_told_is_newer() {
    let mut world = World::new(3).running(2);
    fail(&mut world, 1, 1);
    world.hosts[0].cut.insert(2);
    let id = world.write(0, 5);
    let told = |world: &World| world.superblock(0).fields.role_of(2) == Role::Faulty;
    while !told(&world) {
        assert!(world.step());
        let (here, there) = (world.superblock(0).fields, world.superblock(2).fields);
        assert!(!told(&world) || here.events > there.events);
    }
    assert_eq!(world.superblock(0).fields.role_of(1), Role::Faulty);
    world.settle();
    assert_eq!(world.replied(0, id), Some(true));
}

/// Who died had told some members of a failure, and none of the others, which carry the same
/// events: the failure counts.
#[test]
fn a_failure_that_a_dying_node_has_told_to_one_member_counts() {
    for knows in [0, 1] {
        let mut world = World::new(3).running(2);
        world.crash(1);
        world.rewrite(knows, |fields| fields.roles[2] = Role::Faulty);
        world.expel(1);
        world.settle();
        assert!(world.is_faulty(0, 2));
        let id = world.write(0, 5);
        world.settle();
        assert_eq!(world.replied(0, id), Some(true));
        world.check_data(&[0, 1]);
    }
}

/// Members are one update apart: they are made even before a spare gets a slot.
#[test]
fn a_spare_steps_in_where_members_are_one_update_apart() {
    let mut world = World::with_spares(Level::Raid1, 0, (3, 1), 0).running(2);
    world.crash(1);
    world.rewrite(1, |fields| fields.events += 1);
    world.expel(1);
    world.settle();
    world.hosts[0].fences.clear();
    fail(&mut world, 0, 2);
    world.settle();
    world.pass(30);
    assert_eq!(world.in_sync(), [0, 1, 3]);
    world.check_data(&[0, 1, 3]);
    let events = [0, 1, 3].map(|disk| world.superblock(disk).fields.events);
    assert!(events.iter().all(|one| *one == events[0]), "{events:?}");
}

/// A node that has heard of a failure does not answer what it writes without that member, as long
/// as another one has not heard, and reads there.
#[test]
fn nothing_is_answered_without_a_member_that_another_node_still_reads() {
    let mut world = World::new(2).running(3);
    // It holds its session, and hears nothing.
    world.hosts[2].paused = true;
    fail(&mut world, 0, 1);
    world.settle();
    assert!(world.is_faulty(1, 1) && !world.is_faulty(2, 1));
    let id = world.write(1, 7);
    world.settle();
    assert_eq!(
        world.replied(1, id),
        None,
        "node 2 may read what was there before"
    );
    world.hosts[2].paused = false;
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    assert!(world.is_faulty(2, 1));
    assert_eq!(answers(&world, 0), [DONE]);
}
