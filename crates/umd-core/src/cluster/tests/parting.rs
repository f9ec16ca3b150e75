//! Joining, leaving and losing the cluster, from wherever a node stands: one node, event by event.

use std::collections::BTreeSet;

use super::super::*;
use super::single::{LOADED, MINE, SHOWN, active, at, feed, hear, peer, session, told, updating};

fn service(command: ServiceCommand) -> Effect {
    Effect::Service(command)
}

fn leave(how: Leave) -> Effect {
    service(ServiceCommand::Leave(how))
}

fn answer(desk: Desk, answer: Answer) -> Event {
    Event::Answer(desk, answer)
}

const CLEAN: Answer = Answer::Drained { dirty: false };
const DIRTY: Answer = Answer::Drained { dirty: true };

fn new() -> Node {
    let mut node = Node::new(Setup::new(4));
    assert_eq!(node.next_deadline(), None, "it has not begun");
    feed(&mut node, 0, Event::Start);
    node
}

/// One that loads, beside these.
fn loading(peers: &[Peer]) -> Node {
    let mut node = new();
    hear(&mut node, 0, ServiceEvent::Joined(session(peers)));
    assert_eq!(told(&node, 2), ["waiting for the array to be loaded, 2 s"]);
    node
}

/// One that has come to rest, after so many seconds.
fn drained(mut node: Node, now: u64, how: Answer) -> (Node, Vec<Effect>) {
    let out = feed(&mut node, now, Event::Stop);
    assert!(
        out.contains(&Effect::Task(Desk::Door, Task::Drain)),
        "{out:?}"
    );
    let out = feed(&mut node, now, answer(Desk::Door, how));
    (node, out)
}

#[test]
fn it_says_what_it_waits_for_on_its_way_in() {
    let mut node = new();
    assert_eq!(told(&node, 4), ["waiting to join the cluster, 4 s"]);
    assert_eq!(node.next_deadline(), None);
    hear(&mut node, 5, ServiceEvent::Joined(session(&[peer(1)])));
    assert_eq!(node.next_deadline(), Some(at(1000)));
    // It is a member, and answers when it is loaded, at once.
    let message = Message::ResyncingStart;
    let deliver = |id| ServiceEvent::Deliver(DeliveryId(id), peer(1), message);
    assert_eq!(hear(&mut node, 6, deliver(3)), []);
    let out = feed(&mut node, 7, answer(Desk::Door, LOADED));
    let ack = ServiceCommand::Ack(DeliveryId(3), AckStatus::Done);
    let set = ServiceCommand::SetValue(SHOWN);
    assert_eq!(out, [service(set), Effect::Ready, service(ack)]);
}

#[test]
fn bits_that_it_finds_in_its_slot_are_owed() {
    let mut node = loading(&[peer(1)]);
    let dirty = Answer::Loaded {
        dirty: true,
        sectors: 100,
    };
    let out = feed(&mut node, 1, answer(Desk::Door, dirty));
    let value = SlotValue {
        owes_resync: true,
        ..SHOWN
    };
    let set = service(ServiceCommand::SetValue(value));
    assert_eq!(out, [set, Effect::Ready, Effect::ReadFirst(true)]);
}

#[test]
fn who_stops_while_it_joins_hears_no_more_of_it() {
    let mut node = new();
    assert_eq!(feed(&mut node, 1, Event::Stop), [leave(Leave::Dirty)]);
    // The service had let it in before it heard that.
    let events = [
        ServiceEvent::Joined(session(&[peer(1)])),
        ServiceEvent::Prep,
        ServiceEvent::Down(peer(1)),
        ServiceEvent::Granted(Right::Token, Fencing(1)),
        ServiceEvent::Deliver(DeliveryId(1), peer(1), Message::ResyncingStart),
        ServiceEvent::RecoveryGranted(peer(1)),
    ];
    for event in events {
        assert_eq!(hear(&mut node, 2, event.clone()), [], "{event:?}");
    }
    let out = hear(&mut node, 3, ServiceEvent::Left);
    assert_eq!(out, [Effect::Over(End::NeverJoined)]);
}

#[test]
fn who_stops_while_it_is_refused_waits_for_nobody() {
    let mut node = new();
    assert_eq!(feed(&mut node, 1, Event::Stop), [leave(Leave::Dirty)]);
    // The service had refused it before it heard that, and says no more.
    let full = ServiceEvent::JoinRefused(JoinRefusal::Full { capacity: 2 });
    let out = hear(&mut node, 2, full);
    assert_eq!(out, [Effect::Over(End::NeverJoined)]);
}

#[test]
fn who_stops_while_it_loads_leaves_when_it_is_loaded() {
    for (loaded, how) in [
        (LOADED, Leave::Clean),
        (
            Answer::Loaded {
                dirty: true,
                sectors: 100,
            },
            Leave::Dirty,
        ),
        (Answer::Cannot(Cannot::Read), Leave::Dirty),
    ] {
        let mut node = loading(&[peer(1)]);
        assert_eq!(feed(&mut node, 1, Event::Stop), []);
        assert_eq!(feed(&mut node, 2, answer(Desk::Door, loaded)), [leave(how)]);
        let out = hear(&mut node, 3, ServiceEvent::Left);
        assert_eq!(out, [Effect::Over(End::Left)]);
    }
}

#[test]
fn a_cluster_that_is_lost_is_left_from_anywhere() {
    // Before it had answered at all.
    let mut node = new();
    let out = hear(&mut node, 1, ServiceEvent::Lost);
    let why = JoinRefusal::Unreachable;
    let over = Effect::Over(End::NeverJoined);
    assert_eq!(out[..2], [Effect::NotJoined(why), over]);
    // While it loads: what it reads comes to an end first.
    let mut node = loading(&[peer(1)]);
    let out = hear(&mut node, 1, ServiceEvent::Lost);
    assert_eq!(out, [Effect::Frozen(Some(Freeze::Lost))]);
    assert_eq!(node.next_deadline(), None, "its session is over");
    let out = feed(&mut node, 2, answer(Desk::Door, LOADED));
    assert_eq!(out, [Effect::Over(End::Lost)]);
    // While it comes to rest.
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Stop);
    hear(&mut node, 2, ServiceEvent::Lost);
    let out = feed(&mut node, 3, answer(Desk::Door, CLEAN));
    assert_eq!(out, [Effect::Over(End::Lost)]);
    // While it hands over.
    let (mut node, _) = drained(active(&[peer(1)]), 1, DIRTY);
    let out = hear(&mut node, 2, ServiceEvent::Lost);
    assert!(out.contains(&Effect::Over(End::Lost)), "{out:?}");
    // While it leaves.
    let (mut node, out) = drained(active(&[peer(1)]), 1, CLEAN);
    assert_eq!(out, [leave(Leave::Clean)]);
    let out = hear(&mut node, 2, ServiceEvent::Lost);
    assert!(out.contains(&Effect::Over(End::Lost)), "{out:?}");
    assert_eq!(node.end(), Some(End::Lost));
}

#[test]
fn what_was_asked_of_the_array_before_the_cluster_was_lost_comes_to_nothing() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Wish(WishId(1), Wish::Update));
    hear(
        &mut node,
        1,
        ServiceEvent::Granted(Right::Token, Fencing(5)),
    );
    let good = DeviceNumber(1);
    let message = Message::MetadataUpdated { good };
    let deliver = ServiceEvent::Deliver(DeliveryId(1), peer(1), message);
    hear(&mut node, 1, deliver.clone());
    hear(&mut node, 2, ServiceEvent::Lost);
    assert_eq!(hear(&mut node, 2, deliver), [], "it is no member");
    let holds = Answer::Holds(vec![WishId(1)]);
    assert_eq!(feed(&mut node, 3, answer(Desk::Turn, holds)), []);
    assert_eq!(feed(&mut node, 3, answer(Desk::Inbox, Answer::Done)), []);
    assert_eq!(node.frozen(), Some(&Freeze::Lost));
}

/// Who has left hears nothing, also while its array has something left to do.
#[test]
fn who_has_left_hears_nothing_more() {
    let mut node = active(&[peer(1)]);
    hear(&mut node, 1, ServiceEvent::Gone(peer(1), Leave::Clean));
    assert_eq!(told(&node, 1).len(), 1, "its window is forgotten");
    let (mut node, out) = drained(node, 2, CLEAN);
    assert_eq!(out, [], "the array is asked something");
    let out = feed(&mut node, 3, answer(Desk::Inbox, Answer::Done));
    assert_eq!(out, [leave(Leave::Clean)]);
    let message = Message::Remove(DeviceNumber(3));
    let deliver = |id| ServiceEvent::Deliver(DeliveryId(id), peer(1), message);
    // Until it has left it answers, and has the array do nothing for it: the members are no longer
    // this node's when that ends.
    let done = ServiceCommand::Ack(DeliveryId(1), AckStatus::Done);
    assert_eq!(hear(&mut node, 4, deliver(1)), [service(done)]);
    let out = hear(&mut node, 5, ServiceEvent::Left);
    assert_eq!(out, [Effect::Over(End::Left)]);
    assert_eq!(hear(&mut node, 5, deliver(2)), []);
    assert_eq!(hear(&mut node, 5, ServiceEvent::Down(peer(1))), []);
    assert_eq!(hear(&mut node, 7, deliver(3)), []);
    assert_eq!(node.waits(), []);
}

/// Who has bits left says so to who is there, once, and leaves when all have heard it.
#[test]
fn bits_that_are_left_are_handed_over() {
    let (mut node, out) = drained(active(&[peer(1)]), 10, DIRTY);
    assert_eq!(out, [service(ServiceCommand::Acquire(Right::Token))]);
    let out = hear(
        &mut node,
        11,
        ServiceEvent::Granted(Right::Token, Fencing(7)),
    );
    let broadcast = ServiceCommand::Broadcast {
        grant: Fencing(7),
        message: Message::BitmapNeedsSync,
        deadline: at(41),
    };
    assert_eq!(out, [service(broadcast)]);
    hear(&mut node, 11, ServiceEvent::Ordered([peer(1)].into()));
    assert_eq!(node.next_deadline(), Some(at(40)));
    let done = Answered::Acked(AckStatus::Done);
    let out = hear(&mut node, 12, ServiceEvent::Answered(NodeSlot(1), done));
    let release = ServiceCommand::Release(Right::Token, Fencing(7));
    assert_eq!(out, [service(release), leave(Leave::Dirty)]);
    assert_eq!(told(&node, 15), ["waiting to leave the cluster, 3 s"]);
}

#[test]
fn where_nobody_is_there_to_hear_it_nothing_is_said() {
    let (_, out) = drained(active(&[]), 10, DIRTY);
    assert_eq!(out, [leave(Leave::Dirty)]);
    // Nor where one is dead, and nobody knows what it writes: nothing is sent then.
    let mut node = active(&[peer(1), peer(2)]);
    hear(&mut node, 1, ServiceEvent::Down(peer(2)));
    let (_, out) = drained(node, 10, DIRTY);
    assert_eq!(out, [leave(Leave::Dirty)]);
    // A resync that is owed is no less than bits.
    let mut node = loading(&[peer(1)]);
    let dirty = Answer::Loaded {
        dirty: true,
        sectors: 100,
    };
    feed(&mut node, 1, answer(Desk::Door, dirty));
    let (_, out) = drained(node, 10, CLEAN);
    assert_eq!(out, [service(ServiceCommand::Acquire(Right::Token))]);
}

/// A stop ends, whatever the others do: after half a minute, not before.
#[test]
fn a_stop_waits_for_others_so_long_and_no_longer() {
    let mut node = active(&[peer(1), peer(2)]);
    updating(&mut node, &[peer(1), peer(2)]);
    let (mut node, out) = drained(node, 10, CLEAN);
    assert_eq!(out, []);
    assert_eq!(feed(&mut node, 39, Event::Tick), []);
    assert_eq!(node.next_deadline(), Some(at(40)));
    // The others may have read superblocks that are not those of all.
    let failed = Effect::Done(WishId(1), Err(Failure::Leaving));
    let out = feed(&mut node, 40, Event::Tick);
    assert_eq!(out, [failed, leave(Leave::Dirty)]);
}

/// The right to send does not come, so nothing was begun.
#[test]
fn what_had_not_begun_is_no_reason_to_leave_dirty() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Wish(WishId(1), Wish::Update));
    let out = feed(&mut node, 2, Event::Stop);
    let failed = Effect::Done(WishId(1), Err(Failure::Leaving));
    let drain = Effect::Task(Desk::Door, Task::Drain);
    let cancel = service(ServiceCommand::Cancel(Right::Token));
    assert_eq!(out, [failed, drain, cancel]);
    assert_eq!(
        told(&node, 5),
        [
            "waiting for the array to end its writes, 3 s",
            "waiting for the lock service to forget a request, 3 s"
        ]
    );
    let out = feed(&mut node, 3, Event::Wish(WishId(2), Wish::Update));
    assert_eq!(out, [Effect::Done(WishId(2), Err(Failure::Leaving))]);
    assert_eq!(feed(&mut node, 4, answer(Desk::Door, CLEAN)), []);
    // It was given before the service heard that it is not wanted.
    let mut other = node.clone();
    let out = hear(
        &mut other,
        5,
        ServiceEvent::Granted(Right::Token, Fencing(5)),
    );
    let release = service(ServiceCommand::Release(Right::Token, Fencing(5)));
    assert_eq!(out, [release, leave(Leave::Clean)]);
    let out = hear(&mut node, 5, ServiceEvent::Cancelled(Right::Token));
    assert_eq!(out, [leave(Leave::Clean)]);
}

/// What waits for the proof of a death may wait for ever: who leaves does not.
#[test]
fn a_stop_does_not_wait_for_a_proof() {
    let mut node = active(&[peer(1), peer(2)]);
    updating(&mut node, &[peer(1), peer(2)]);
    hear(&mut node, 4, ServiceEvent::Down(peer(2)));
    // Somebody else's answer is waited for.
    let (mut node, out) = drained(node, 10, CLEAN);
    assert_eq!(out, []);
    let done = Answered::Acked(AckStatus::Done);
    let out = hear(&mut node, 11, ServiceEvent::Answered(NodeSlot(1), done));
    let failed = Effect::Done(WishId(1), Err(Failure::Leaving));
    assert_eq!(out, [failed, leave(Leave::Dirty)]);
    // A turn that came, and waits for a proof before it begins.
    let mut node = active(&[peer(1), peer(2)]);
    hear(&mut node, 1, ServiceEvent::Down(peer(2)));
    feed(&mut node, 1, Event::Wish(WishId(1), Wish::Update));
    let out = hear(
        &mut node,
        2,
        ServiceEvent::Granted(Right::Token, Fencing(5)),
    );
    assert_eq!(out, []);
    let (_, out) = drained(node, 3, CLEAN);
    let failed = Effect::Done(WishId(1), Err(Failure::Leaving));
    assert_eq!(out, [failed, leave(Leave::Clean)]);
}

#[test]
fn who_leaves_expels_nobody() {
    let mut node = active(&[peer(1), peer(2)]);
    updating(&mut node, &[peer(1), peer(2)]);
    let (mut node, _) = drained(node, 10, CLEAN);
    let late = ServiceEvent::Answered(NodeSlot(2), Answered::TimedOut);
    let out = hear(&mut node, 33, late);
    let failed = Effect::Done(WishId(1), Err(Failure::Leaving));
    assert_eq!(out, [failed, leave(Leave::Dirty)]);
}

/// A window that not all have heard of: whoever has will not write there until it is lifted.
#[test]
fn who_leaves_with_a_window_that_not_all_know_leaves_dirty() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Resync(ResyncCall::Want));
    let resync = ServiceEvent::Granted(Right::Resync, Fencing(9));
    hear(&mut node, 1, resync);
    let token = ServiceEvent::Granted(Right::Token, Fencing(1));
    let out = hear(&mut node, 1, token);
    let broadcast = ServiceCommand::Broadcast {
        grant: Fencing(1),
        message: Message::ResyncingStart,
        deadline: at(31),
    };
    assert_eq!(out, [service(broadcast)]);
    let to: BTreeSet<Peer> = [peer(1)].into();
    hear(&mut node, 1, ServiceEvent::Ordered(to));
    let (mut node, out) = drained(node, 5, CLEAN);
    assert_eq!(out, []);
    let out = feed(&mut node, 35, Event::Tick);
    assert_eq!(out, [leave(Leave::Dirty)]);
}

/// A recovery that is under way ends before its node has left: nobody else takes the slot
/// meanwhile.
#[test]
fn who_takes_a_slot_leaves_when_it_has_answered() {
    let mut node = active(&[peer(1)]);
    hear(&mut node, 1, ServiceEvent::Gone(peer(2), Leave::Dirty));
    feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
    feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
    let out = hear(&mut node, 2, ServiceEvent::RecoveryGranted(peer(2)));
    let desk = Desk::Recovery(NodeSlot(2));
    assert_eq!(out, [Effect::Task(desk, Task::CopyBits(NodeSlot(2)))]);
    let (mut node, out) = drained(node, 3, CLEAN);
    assert_eq!(out, []);
    // It is over its time, and has nothing to come back for before the array has answered.
    assert_eq!(feed(&mut node, 40, Event::Tick), []);
    assert_eq!(node.next_deadline(), Some(at(1000)));
    let out = feed(&mut node, 50, answer(desk, Answer::Copied { any: false }));
    assert_eq!(out, [Effect::Task(desk, Task::ClearBits(NodeSlot(2)))]);
    let out = feed(&mut node, 51, answer(desk, Answer::Done));
    let end = ServiceCommand::EndRecovery {
        peer: peer(2),
        done: true,
        bits: false,
    };
    assert!(out.starts_with(&[service(end)]), "{out:?}");
    assert!(out.contains(&leave(Leave::Clean)), "{out:?}");
    // One that is granted while it leaves is for somebody else.
    let mut node = active(&[peer(1)]);
    hear(&mut node, 1, ServiceEvent::Gone(peer(2), Leave::Dirty));
    feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
    feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
    feed(&mut node, 2, Event::Stop);
    let out = hear(&mut node, 2, ServiceEvent::RecoveryGranted(peer(2)));
    let end = ServiceCommand::EndRecovery {
        peer: peer(2),
        done: false,
        bits: false,
    };
    assert_eq!(out, [service(end)]);
}

/// The resync was asked for, and comes when it is not wanted any more.
#[test]
fn a_resync_that_comes_to_who_leaves_is_given_back() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Resync(ResyncCall::Want));
    assert_eq!(
        told(&node, 4),
        ["waiting for another node's resync to end, 3 s"]
    );
    feed(&mut node, 2, Event::Stop);
    let out = hear(
        &mut node,
        3,
        ServiceEvent::Granted(Right::Resync, Fencing(9)),
    );
    let release = ServiceCommand::Release(Right::Resync, Fencing(9));
    assert_eq!(out, [service(release), Effect::Resync(ResyncWord::Ended)]);
    assert!(node.me() == Some(MINE) && !node.is_active());
}
