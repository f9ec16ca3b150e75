//! Coming in, and going: what is said to whom while there is no array, or no cluster.

use umd_format::bitmap::Fields;

use super::world::{NODES, World};
use crate::array::Setup;
use crate::array::clustered::Input;
use crate::assembly::BitmapPlan;
use crate::cluster::{
    AckStatus, DeviceNumber, End, Leave, Message, ServiceCommand, SlotValue, Window,
};
use crate::geometry::{Geometry, Linear};
use crate::value::{Purpose, RequestError, Span};

/// A second host that asks to be let in, and hears `Left` only when a test says so.
fn refused(world: &mut World, host: usize) -> Vec<String> {
    world.start(host);
    world.settle();
    assert!(!world.hosts[host].ready);
    assert!(world.hosts[host].over.is_some(), "it has gone");
    std::mem::take(&mut world.hosts[host].refusals)
}

#[test]
fn an_array_that_cannot_be_run_here_is_not_begun() {
    let follow = "it cannot follow the change";
    let mut world = World::new(2).running(1);
    let before = world.disks.clone();
    let host = world.add_host();
    // A cluster of another size.
    for capacity in [5, 7] {
        world.hosts[host].capacity = Some(capacity);
        assert_eq!(refused(&mut world, host), [follow]);
    }
    world.hosts[host].capacity = None;
    world.hosts[host].options.read_only = true;
    assert_eq!(refused(&mut world, host), [follow]);
    world.hosts[host].options.read_only = false;
    // The others show it with another size, which is being agreed on.
    let value = SlotValue {
        shown_sectors: Some(world.array(0).status().array_sectors - 8),
        ..SlotValue::default()
    };
    let mut told = Vec::new();
    world
        .engine
        .command(0, ServiceCommand::SetValue(value), &mut told);
    assert_eq!(refused(&mut world, host), [follow]);
    assert_eq!(world.disks, before, "nothing was written");
}

/// A driver that reads another array than the others run.
#[test]
fn an_array_of_another_kind_is_not_begun() {
    let tamper: [fn(&mut Setup); 4] = [
        |setup| setup.plan.bitmap = BitmapPlan::None,
        |setup| of_bitmap(setup).version = 4,
        |setup| of_bitmap(setup).nodes = 1 << 16 | u32::from(NODES),
        |setup| {
            let linear = Linear::new(&[1000, 1000], 1).expect("two members");
            setup.plan.geometry = Geometry::Linear(linear);
        },
    ];
    for tamper in tamper {
        let mut world = World::new(2).running(1);
        let host = world.add_host();
        world.hosts[host].tamper = Some(tamper);
        assert_eq!(refused(&mut world, host), ["it cannot follow the change"]);
    }
}

fn of_bitmap(setup: &mut Setup) -> &mut Fields {
    match &mut setup.plan.bitmap {
        BitmapPlan::Usable { superblock, .. } => &mut superblock.fields,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_comes_before_there_is_an_array_is_answered() {
    let mut world = World::new(2).running(1);
    let host = world.add_host();
    world.start(host);
    let (write, read) = (world.write(host, 3), world.read(host, 3));
    for id in [write, read] {
        let reply = world.hosts[host].replies.get(&id);
        let why = RequestError::Io("the array is being started".into());
        assert_eq!(reply.and_then(|one| one.as_ref().err()), Some(&why));
    }
    world.settle();
    assert!(world.hosts[host].ready);
    let again = world.write(host, 4);
    world.settle();
    assert_eq!(world.replied(host, again), Some(true));
}

/// A node whose array could not be loaded is a member until it has left, and answers as one.
#[test]
fn who_could_not_load_answers_until_it_has_left() {
    let messages = [
        Message::Resyncing {
            window: Window::new(0, 64),
            owes: false,
        },
        Message::MetadataUpdated {
            good: DeviceNumber(0),
        },
        Message::Remove(DeviceNumber(1)),
    ];
    // It reads and writes nothing any more, so there is nothing that it does not follow.
    let expected = [AckStatus::Done; 3];
    let mut world = World::new(3).running(1);
    let host = world.add_host();
    world.hosts[host].cut.insert(2);
    world.start(host);
    // Those are delivered while it loads, so it hears them before it has left.
    while world.hosts[host].load.is_none() {
        assert!(world.step());
    }
    for message in messages {
        world.deliver(0, host, message);
    }
    world.settle();
    assert_eq!(world.hosts[host].acks, expected);
    assert_eq!(world.hosts[host].over, Some(End::Left));
}

#[test]
fn a_node_that_is_over_wants_nothing() {
    let mut world = World::new(2).running(1);
    let host = world.add_host();
    world.hosts[host].lease = Some(world.now.mono + Span::secs(20));
    world.boot(host);
    let deadline = |world: &World| {
        let array = world.hosts[host].array.as_ref().expect("it lives");
        array.next_deadline()
    };
    // By then it has looked whether all bitmaps are alike.
    world.pass(12);
    assert_eq!(deadline(&world), world.hosts[host].lease);
    world.input(host, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[host].over, Some(End::Left));
    assert_eq!(deadline(&world), None);
    let replies = world.hosts[host].replies.len();
    world.read(host, 5);
    assert_eq!(world.hosts[host].replies.len(), replies, "nobody is there");
}

/// A write that is under way when a node stops ends before the node has left, and its bit goes.
#[test]
fn who_leaves_waits_for_what_is_under_way_and_clears_its_bits() {
    let mut world = World::new(2).running(2);
    world.held.insert((1, Purpose::Data));
    let id = world.write(1, 7);
    world.settle();
    world.input(1, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[1].over, None);
    assert_eq!(world.replied(1, id), None);
    assert!(!world.bits(1).is_empty());
    let late = world.write(1, 60);
    assert_eq!(world.replied(1, late), Some(false), "it is leaving");
    let flushes = |world: &World| {
        let all = world.log.iter();
        all.filter(|one| **one == (1, Purpose::Flush)).count()
    };
    assert_eq!(flushes(&world), 0);
    world.held.clear();
    world.held.insert((1, Purpose::Bitmap));
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    assert_eq!(world.hosts[1].over, None, "its bits are not cleared yet");
    world.held.clear();
    world.settle();
    assert_eq!(world.hosts[1].over, Some(End::Left));
    assert!((0..2).all(|disk| world.bits_on(disk, 1).is_empty()));
    assert_eq!(
        world.hosts[0]
            .array
            .as_ref()
            .expect("it lives")
            .node()
            .waits(),
        []
    );
    let resynced = world.log.iter().any(|(_, what)| *what == Purpose::Resync);
    assert!(!resynced, "nothing is left to do for others");
    assert_eq!(world.hosts[1].left, Some(Leave::Clean));
}

/// Its caches are written out before it has left: nobody else's flush reaches them.
#[test]
fn who_leaves_has_flushed_its_members() {
    let mut world = World::new(2).running(2);
    let id = world.write(1, 7);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    world.log.clear();
    world.held.insert((1, Purpose::Flush));
    world.held.insert((1, Purpose::Super));
    world.input(1, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[1].over, None, "{:?}", world.log);
    world.held.clear();
    world.settle();
    assert_eq!(world.hosts[1].over, Some(End::Left));
}

#[test]
fn who_leaves_without_all_members_leaves_its_slot_to_others() {
    let mut world = World::new(3).running(2);
    world.held.insert((1, Purpose::Data));
    let id = world.write(1, 7);
    world.settle();
    // Its members all go.
    world.hosts[1].cut = [0, 1, 2].into();
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(1, id), Some(false));
    let bits = world.bits(1);
    assert!(!bits.is_empty());
    world.input(1, Input::Stop);
    world.settle();
    world.pass(60);
    assert_eq!(world.hosts[1].over, Some(End::Left));
    assert!(world.bits(1).is_empty(), "node 0 has taken them");
    assert_eq!(world.hosts[1].left, Some(Leave::Dirty));
    assert!(world.log.contains(&(0, Purpose::Resync)));
    world.check_data(&[0, 1, 2]);
}

/// A failure that could not be told any more is no reason to leave it untold.
#[test]
fn who_leaves_with_a_failure_that_nobody_knows_leaves_dirty() {
    let mut world = World::new(3).running(2);
    world.held.insert((0, Purpose::Super));
    world.hosts[1].cut.insert(2);
    let id = world.write(1, 7);
    world.settle();
    assert_eq!(world.replied(1, id), None, "node 0 does not know yet");
    world.input(1, Input::Stop);
    world.settle();
    world.held.clear();
    world.settle();
    world.pass(60);
    assert_eq!(world.hosts[1].over, Some(End::Left));
    assert!(world.replied(1, id).is_some(), "it is answered");
    world.check_data(&world.in_sync());
}
