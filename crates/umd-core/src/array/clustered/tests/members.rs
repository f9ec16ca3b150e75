//! Members that an administrator changes on one node: every other one has followed when the answer
//! comes, or the answer says which one has not.

use umd_format::{Level, Role};

use super::world::World;
use crate::cluster::Freeze;
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
    fail(&mut world, 0, 2);
    world.settle();
    for disk in [2, 3] {
        let before = world.superblock(0).fields.events;
        world.held.insert((2, Purpose::Super));
        remove(&mut world, 0, disk);
        world.settle();
        assert_eq!(answers(&world, 0).len(), disk as usize - 1);
        world.held.clear();
        world.settle();
        assert_eq!(answers(&world, 0)[disk as usize - 1], DONE);
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
