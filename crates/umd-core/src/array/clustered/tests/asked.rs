//! What other nodes ask for by message: what is done, and what is refused in which words.

use umd_format::{Level, Role};

use super::world::World;
use crate::array::clustered::Input;
use crate::cluster::{AckStatus, Cannot, DeviceNumber, DiskPath, End, Message, NewDisk};
use crate::member::State;
use crate::value::{Control, IoOp, MemberId, Purpose};

/// Host 0 asks host 1 for something. How it answers.
fn ask(world: &mut World, message: Message) -> AckStatus {
    world.hosts[1].acks.clear();
    world.deliver(0, 1, message);
    world.settle();
    assert_eq!(world.hosts[1].acks.len(), 1, "one answer");
    world.hosts[1].acks[0]
}

fn is_there(world: &World, disk: u32) -> bool {
    world.array(1).members.get(MemberId(disk)).is_some()
}

const DEVICE: AckStatus = AckStatus::Cannot(Cannot::Device);

#[test]
fn who_has_failed_can_be_removed_and_who_serves_cannot() {
    let mut world = World::with_spares(Level::Raid1, 0, (3, 1), 0).running(2);
    let remove = |disk| Message::Remove(DeviceNumber(disk));
    assert_eq!(ask(&mut world, remove(1)), DEVICE);
    assert!(is_there(&world, 1));
    // Nobody here has that number: it is gone already.
    assert_eq!(ask(&mut world, remove(7)), AckStatus::Done);
    world.hosts[1].notices.clear();
    assert_eq!(ask(&mut world, remove(3)), AckStatus::Done);
    assert!(!is_there(&world, 3), "a spare");
    assert!(!world.hosts[1].notices.is_empty(), "it is told of");
    world.control(0, Control::Remove(MemberId(3)));
    world.control(0, Control::Fail(MemberId(2)));
    world.settle();
    assert!(world.is_faulty(1, 2));
    assert_eq!(ask(&mut world, remove(2)), AckStatus::Done);
    assert!(!is_there(&world, 2));
    let id = world.write(1, 4);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    world.check_data(&[0, 1]);
}

#[test]
fn what_this_node_cannot_do_is_said_in_the_right_words() {
    let mut world = World::new(2).running(2);
    let size = world.array(1).status().array_sectors;
    let capacity = |sectors| Message::ChangeCapacity { sectors };
    assert_eq!(ask(&mut world, capacity(size)), AckStatus::Done);
    let follow = AckStatus::Cannot(Cannot::Follow);
    assert_eq!(ask(&mut world, capacity(size + 8)), follow);
    assert_eq!(ask(&mut world, capacity(size - 8)), follow);
    let resize = Message::BitmapResize { sync_sectors: 8 };
    assert_eq!(ask(&mut world, resize), follow);
    let mut new = NewDisk {
        uuid: [9; 16],
        device: DeviceNumber(2),
        size_sectors: 8,
        path: DiskPath::new("d9").expect("short"),
    };
    let unseen = AckStatus::Cannot(Cannot::SeeDisk);
    assert_eq!(ask(&mut world, Message::NewDisk(new)), unseen);
    // A disk is there, and it is another one.
    let disk = world.new_disk(0);
    new.path = DiskPath::new(&format!("d{disk}")).expect("short");
    assert_eq!(ask(&mut world, Message::NewDisk(new)), unseen);
    // Its number is that of a member that serves.
    (new.device, new.size_sectors) = (DeviceNumber(1), 1280);
    assert_eq!(ask(&mut world, Message::NewDisk(new)), DEVICE);
    assert_eq!(world.hosts[1].frozen, None);
    assert_eq!(world.array(1).status().array_sectors, size);
}

#[test]
fn an_administrator_is_told_how_to_stop_it_here() {
    let mut world = World::new(2).running(1);
    world.control(0, Control::Stop);
    world.control(0, Control::ReadOnly(true));
    let said = &world.hosts[0].answers;
    assert!(
        said[0].contains("has to leave the cluster first"),
        "{said:?}"
    );
    assert!(said[1].contains("cannot be changed yet"), "{said:?}");
}

fn reads(world: &World, host: usize) -> usize {
    let flights = world.hosts[host].flights.iter();
    let reads = flights.filter(|io| matches!(io.op, IoOp::Read { .. }));
    reads.filter(|io| io.purpose == Purpose::Super).count()
}

/// A node died while another one writes superblocks: those are read again when that is over.
#[test]
fn superblocks_are_not_read_while_they_are_written_here() {
    let mut world = World::new(3).running(3);
    world.held.insert((1, Purpose::Super));
    world.hosts[1].cut.insert(2);
    let id = world.write(1, 4);
    world.settle();
    assert!(world.flying(1, Purpose::Super) > 0, "it writes them");
    world.crash(2);
    world.expel(2);
    world.settle();
    assert_eq!(reads(&world, 1), 0);
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    assert_eq!(world.hosts[1].frozen, None);
    world.check_data(&[0, 1]);
}

/// The cluster is lost while superblocks are read: that is answered, and nothing hangs.
#[test]
fn a_node_that_loses_the_cluster_while_it_reads_can_be_stopped() {
    for landed in 0..3 {
        let mut world = World::new(3).running(2);
        world.held.insert((1, Purpose::Super));
        world.announce(0, 1, 0);
        world.settle();
        assert_eq!(reads(&world, 1), 3);
        for disk in 0..landed {
            world.land_on(1, disk);
        }
        world.expel(1);
        world.settle();
        world.input(1, Input::Stop);
        world.settle();
        world.held.clear();
        world.settle();
        assert_eq!(world.hosts[1].over, Some(End::Lost), "after {landed}");
        let id = world.write(0, 5);
        world.settle();
        assert_eq!(world.replied(0, id), Some(true));
    }
}

/// The members are gone while this node has its turn to write: it says so, and lets others have
/// theirs. What they record it cannot follow, so they wait until it has left.
#[test]
fn who_cannot_write_superblocks_lets_others_have_their_turn() {
    let mut world = World::new(3).running(2);
    world.held.insert((1, Purpose::Super));
    world.hosts[1].cut.insert(2);
    let lost = world.write(1, 4);
    world.settle();
    world.hosts[1].cut = [0, 1, 2].into();
    let also = world.write(1, 40);
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(1, lost), Some(false));
    assert_eq!(world.replied(1, also), Some(false));
    let broken = world.array(1).status().state;
    assert_eq!(broken, crate::array::ArrayState::Broken);
    // Host 0 sees a failure of its own.
    world.hosts[0].cut.insert(1);
    let id = world.write(0, 60);
    world.settle();
    world.pass(30);
    assert_eq!(world.superblock(0).fields.role_of(1), Role::Faulty);
    assert_eq!(world.replied(0, id), None);
    let named = world.hosts[0].refusals.iter();
    assert!(
        named
            .clone()
            .all(|one| one.contains("node 1: it cannot read"))
    );
    assert!(named.count() >= 2, "asked again");
    world.input(1, Input::Stop);
    world.pass(30);
    assert_eq!(world.hosts[1].over, Some(End::Left));
    assert_eq!(world.replied(0, id), Some(true));
    let node = world.hosts[0].array.as_ref().expect("it lives").node();
    assert_eq!(node.frozen(), None);
}

/// Bits that stand in the slot of who joins are its to resync.
#[test]
fn bits_found_in_the_own_slot_are_resynced() {
    let mut world = World::new(2).running(1);
    for disk in 0..2 {
        // Regions 1 and 3.
        world.scribble(disk, 1, 256, &[0b1010]);
    }
    world.disks[1][(128 + 70) * 512..(128 + 72) * 512].fill(7);
    let host = world.add_host();
    world.held.insert((host, Purpose::Resync));
    world.boot(host);
    let node = world.hosts[0].array.as_ref().expect("it lives").node();
    assert!(node.me().is_some());
    assert_eq!(world.bits(1).into_iter().collect::<Vec<_>>(), [1, 3]);
    let node = world.hosts[host].array.as_ref().expect("it lives").node();
    assert!(node.reads_first());
    assert!(world.flying(host, Purpose::Resync) > 0);
    world.held.clear();
    world.settle();
    world.check_data(&[0, 1]);
    world.pass(60);
    assert!(world.bits(1).is_empty());
    let node = world.hosts[host].array.as_ref().expect("it lives").node();
    assert!(!node.reads_first());
}

/// Who is taking a slot when it is to stop ends that first.
#[test]
fn who_takes_a_slot_when_it_stops_ends_that_first() {
    let mut world = World::new(2).running(3);
    world.held.insert((2, Purpose::Data));
    world.write(2, 1);
    world.settle();
    world.land_on(2, 0);
    world.crash(2);
    for host in 0..2 {
        world.held.insert((host, Purpose::Bitmap));
    }
    world.expel(2);
    world.settle();
    let taker = (0..2).find(|host| world.flying(*host, Purpose::Bitmap) > 0);
    let taker = taker.expect("one of them takes it");
    world.input(taker, Input::Stop);
    let refused = world.write(taker, 70);
    world.settle();
    assert_eq!(world.replied(taker, refused), Some(false), "it stops");
    assert_eq!(world.hosts[taker].over, None);
    world.held.clear();
    world.settle();
    assert_eq!(world.hosts[taker].over, Some(End::Left));
    world.pass(60);
    world.check_data(&[0, 1]);
    assert!((0..3).all(|slot| world.bits(slot).is_empty()));
    assert_eq!(
        world
            .array(1 - taker)
            .members
            .iter()
            .filter(|m| m.state == State::InSync)
            .count(),
        2
    );
}
