//! The bitmap of a node that died, when not all goes well while it is taken.

use super::world::{NODES, World};
use crate::cluster::{End, WaitFor};
use crate::value::{Purpose, Span};

/// Node 2 of three died while it wrote these blocks: they are on the first of three legs only.
fn died_writing(blocks: &[u64]) -> World {
    let mut world = World::new(3).running(3);
    world.held.insert((2, Purpose::Data));
    for block in blocks {
        world.write(2, *block);
    }
    world.settle();
    world.land_on(2, 0);
    world.crash(2);
    world
}

fn is_taken(world: &World) -> bool {
    world.bits(2).is_empty()
}

/// What the superblock of a bitmap holds, by where that is.
const UUID: usize = 8;
const SYNC_SIZE: usize = 40;
const STATE: usize = 48;
const REGION: usize = 52;
const NODE_COUNT: usize = 68;

#[test]
fn a_slot_that_a_member_does_not_give_is_read_from_another() {
    let mut world = died_writing(&[1, 100]);
    for host in 0..2 {
        world.hosts[host].mute = [0, 1].into();
    }
    world.expel(2);
    world.settle();
    assert!(is_taken(&world));
    world.check_data(&[0, 1, 2]);
    assert_eq!(world.in_sync(), [0, 1, 2], "nobody has failed for that");
    let regions: Vec<u64> = world.resynced.iter().map(|one| one.1 - 128).collect();
    assert!(
        regions
            .iter()
            .all(|at| [0, 96 * 8].contains(&(at / 64 * 64)))
    );
}

/// A member may hold rubbish where the slot should be, or what was left of another array.
#[test]
fn a_slot_that_is_none_is_read_from_another_member() {
    let changes: [(usize, &[u8]); 6] = [
        (0, b"rubbish!"),
        (UUID, &[3; 16]),
        (SYNC_SIZE, &[0, 0, 0, 1]),
        (REGION, &[0, 0, 3, 0]),
        (NODE_COUNT, &[NODES as u8 - 1]),
        (NODE_COUNT, &[0]),
    ];
    for (from, bytes) in changes {
        let mut world = died_writing(&[1, 100]);
        let whole = world.bits_on(2, 2);
        assert_eq!(whole.len(), 2);
        for disk in 0..2 {
            world.scribble(disk, 2, from, bytes);
            // No bit is set there: who believes it, resyncs nothing.
            world.scribble(disk, 2, 256, &[0; 256]);
        }
        for host in 0..2 {
            world.held.insert((host, Purpose::Resync));
        }
        world.expel(2);
        world.settle();
        assert!(is_there(&world, &whole), "{from}: {bytes:?}");
        world.held.clear();
        world.settle();
        world.check_data(&[0, 1, 2]);
    }
}

/// Whether one of the two who live has these bits.
fn is_there(world: &World, bits: &[u64]) -> bool {
    (0..2).any(|slot| {
        let own = world.bits(slot);
        bits.iter().all(|bit| own.contains(bit))
    })
}

/// A slot that says of itself that it is old: nothing is known of what its node wrote.
#[test]
fn a_slot_that_is_stale_is_all_dirty() {
    let mut world = died_writing(&[1]);
    for disk in 0..3 {
        world.scribble(disk, 2, STATE, &[2]);
    }
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    world.expel(2);
    world.settle();
    let most = (0..2).map(|slot| world.bits(slot).len()).max();
    assert_eq!(most, Some((world.blocks() as usize).div_ceil(8)));
    world.held.clear();
    world.settle();
    world.check_data(&[0, 1, 2]);
}

#[test]
fn a_slot_that_nobody_gives_is_asked_for_again() {
    let mut world = died_writing(&[1]);
    for host in 0..2 {
        world.hosts[host].mute = [0, 1, 2].into();
    }
    world.expel(2);
    world.settle();
    assert!(!is_taken(&world));
    for host in 0..2 {
        let node = world.hosts[host].array.as_ref().expect("it lives").node();
        assert!(node.reads_first(), "mirrors may differ");
        let slot = crate::cluster::NodeSlot(2);
        let waits = node.waits();
        assert!(
            waits
                .iter()
                .any(|wait| wait.what == WaitFor::Recovery(slot)),
            "{waits:?}"
        );
    }
    // Each member was asked once by each.
    let asked = world
        .log
        .iter()
        .filter(|(_, what)| *what == Purpose::Bitmap);
    let asked = asked.count();
    world.pass(5);
    let later = world
        .log
        .iter()
        .filter(|(_, what)| *what == Purpose::Bitmap);
    assert_eq!(later.count(), asked, "not all the time");
    // Writes go on meanwhile.
    let id = world.write(0, 60);
    world.settle();
    assert_eq!(world.replied(0, id), Some(true));
    for host in 0..2 {
        world.hosts[host].mute.clear();
    }
    world.pass(6);
    assert!(is_taken(&world));
    world.check_data(&[0, 1, 2]);
}

#[test]
fn a_member_on_which_a_slot_cannot_be_cleared_fails() {
    let mut world = died_writing(&[1]);
    for host in 0..2 {
        world.hosts[host].stiff.insert(2);
    }
    world.expel(2);
    world.settle();
    assert_eq!(world.in_sync(), [0, 1]);
    assert!(is_taken(&world));
    world.check_data(&[0, 1]);
    for host in 0..2 {
        let array = world.hosts[host].array.as_ref().expect("it lives");
        let waits = array.node().waits();
        assert!(waits.is_empty(), "{waits:?}");
    }
}

/// Bits that a dead node had stand in its slot as long as they are in nobody else's.
#[test]
fn a_slot_is_cleared_on_all_members_and_keeps_its_superblock() {
    let mut world = died_writing(&[1, 100]);
    world.expel(2);
    world.settle();
    for disk in 0..3 {
        assert!(world.bits_on(disk, 2).is_empty());
    }
    // Who gets the slot next starts from that.
    world.held.clear();
    world.boot(2);
    assert_eq!(world.hosts[2].me.expect("a member").slot.0, 2);
    let id = world.write(2, 9);
    world.settle();
    assert_eq!(world.replied(2, id), Some(true));
    assert!(!world.bits(2).is_empty());
}

#[test]
fn several_nodes_die_at_once() {
    for first in 0..2 {
        let mut world = World::new(2).running(4);
        for host in [1, 3] {
            world.held.insert((host, Purpose::Data));
        }
        world.write(1, 1);
        world.write(3, 100);
        world.settle();
        world.land_on(1, 0);
        world.land_on(3, 1);
        let of = [(1, world.bits(1)), (3, world.bits(3))];
        for host in [1, 3] {
            world.crash(host);
        }
        world.held.clear();
        for host in [0, 2] {
            world.held.insert((host, Purpose::Bitmap));
            world.held.insert((host, Purpose::Resync));
        }
        let order = if first == 0 { [1, 3] } else { [3, 1] };
        for host in order {
            world.expel(host);
        }
        world.settle();
        for host in [0, 2] {
            world.held.remove(&(host, Purpose::Bitmap));
        }
        world.settle();
        for (slot, bits) in of {
            assert!(world.bits(slot).is_empty(), "slot {slot}");
            let have: Vec<u64> = [0, 2].into_iter().flat_map(|s| world.bits(s)).collect();
            assert!(bits.iter().all(|bit| have.contains(bit)), "slot {slot}");
        }
        world.held.clear();
        world.settle();
        world.check_data(&[0, 1]);
        world.pass(60);
        assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
    }
}

/// A node that is taking a slot loses the cluster: another one takes it, and what comes back late
/// is nobody's.
#[test]
fn who_loses_the_cluster_while_it_takes_a_slot_leaves_it_to_others() {
    // It reads, it marks, it clears.
    for steps in [0, 1, 2, 4, 6] {
        let mut world = died_writing(&[1]);
        for host in 0..2 {
            world.held.insert((host, Purpose::Bitmap));
        }
        world.expel(2);
        world.settle();
        let taker = (0..2).find(|host| world.flying(*host, Purpose::Bitmap) > 0);
        let taker = taker.expect("one of them takes it");
        for _ in 0..steps {
            let flights = &world.hosts[taker].flights;
            if let Some(io) = flights.first() {
                let disk = io.member.0;
                world.land_on(taker, disk);
                world.settle();
            }
        }
        world.expel(taker);
        world.settle();
        world.input(taker, crate::array::clustered::Input::Stop);
        world.held.clear();
        world.settle();
        world.pass(20);
        assert_eq!(world.hosts[taker].over, Some(End::Lost), "after {steps}");
        assert!(is_taken(&world), "after {steps}");
        world.check_data(&[0, 1, 2]);
    }
}

/// All members are lost while a slot is taken: the node says so, and does not hang.
#[test]
fn who_loses_its_members_while_it_takes_a_slot_says_so() {
    for steps in 0..6 {
        let mut world = died_writing(&[1]);
        for host in 0..2 {
            world.held.insert((host, Purpose::Bitmap));
        }
        world.expel(2);
        world.settle();
        let taker = (0..2).find(|host| world.flying(*host, Purpose::Bitmap) > 0);
        let taker = taker.expect("one of them takes it");
        for _ in 0..steps {
            if let Some(io) = world.hosts[taker].flights.first() {
                let disk = io.member.0;
                world.land_on(taker, disk);
                world.settle();
            }
        }
        world.hosts[taker].cut = [0, 1, 2].into();
        let id = world.write(taker, 70);
        world.held.clear();
        world.settle();
        assert_eq!(world.replied(taker, id), Some(false));
        world.now.mono = world.now.mono + Span::secs(1);
        world.input(taker, crate::array::clustered::Input::Stop);
        world.settle();
        world.pass(60);
        assert_eq!(world.hosts[taker].over, Some(End::Left), "after {steps}");
        let left = world.hosts[1 - taker].array.as_ref().expect("it lives");
        assert_eq!(left.node().waits(), [], "after {steps}");
        assert!(!left.node().reads_first(), "after {steps}");
        world.check_data(&[0, 1, 2]);
    }
}
