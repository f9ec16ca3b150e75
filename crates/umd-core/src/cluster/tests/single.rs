//! What is told, and what is refused: one node, event by event.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::value::{Instant, Span};

pub(super) const MINE: Peer = peer(0);

pub(super) const SHOWN: SlotValue = SlotValue {
    window: None,
    owes_resync: false,
    shown_sectors: Some(100),
};

pub(super) const LOADED: Answer = Answer::Loaded {
    dirty: false,
    sectors: 100,
};

pub(super) const fn peer(slot: u16) -> Peer {
    Peer {
        slot: NodeSlot(slot),
        incarnation: Incarnation(slot as u64 + 10),
    }
}

pub(super) fn at(seconds: u64) -> Instant {
    Instant(0) + Span::secs(seconds)
}

pub(super) fn session(peers: &[Peer]) -> Session {
    Session {
        me: MINE,
        epoch: MembershipEpoch(1),
        version: VERSION,
        valid_until: at(1000),
        peers: peers.iter().copied().collect(),
        values: BTreeMap::new(),
        unrecovered: Vec::new(),
    }
}

pub(super) fn feed(node: &mut Node, now: u64, event: Event) -> Vec<Effect> {
    let mut out = Vec::new();
    node.handle(at(now), event, &mut out);
    out
}

pub(super) fn hear(node: &mut Node, now: u64, event: ServiceEvent) -> Vec<Effect> {
    feed(node, now, Event::Service(event))
}

/// One that serves, beside these.
pub(super) fn active(peers: &[Peer]) -> Node {
    let mut node = Node::new(Setup::new(4));
    feed(&mut node, 0, Event::Start);
    hear(&mut node, 0, ServiceEvent::Joined(session(peers)));
    let loaded = LOADED;
    let out = feed(&mut node, 0, Event::Answer(Desk::Door, loaded));
    let set = Effect::Service(ServiceCommand::SetValue(SHOWN));
    assert_eq!(out, [set, Effect::Ready]);
    node
}

pub(super) fn told(node: &Node, now: u64) -> Vec<String> {
    let waits = node.waits();
    waits.iter().map(|wait| wait.told(at(now))).collect()
}

/// Up to the moment when an update waits for acknowledgements.
pub(super) fn updating(node: &mut Node, to: &[Peer]) {
    feed(node, 1, Event::Wish(WishId(1), Wish::Update));
    assert_eq!(told(node, 3), ["waiting for the right to send, 2 s"]);
    hear(node, 2, ServiceEvent::Granted(Right::Token, Fencing(5)));
    let holds = Answer::Holds(vec![WishId(1)]);
    feed(node, 2, Event::Answer(Desk::Turn, holds));
    assert_eq!(
        told(node, 5),
        ["waiting for the array to write superblocks, 3 s"]
    );
    let out = feed(
        node,
        3,
        Event::Answer(Desk::Turn, Answer::Written(DeviceNumber(2))),
    );
    let good = DeviceNumber(2);
    let broadcast = ServiceCommand::Broadcast {
        grant: Fencing(5),
        message: Message::MetadataUpdated { good },
        deadline: at(33),
    };
    assert_eq!(out, [Effect::Service(broadcast)]);
    hear(node, 3, ServiceEvent::Ordered(to.iter().copied().collect()));
}

#[test]
fn a_wait_says_for_whom_and_how_long() {
    let mut node = active(&[peer(1), peer(3)]);
    updating(&mut node, &[peer(1), peer(3)]);
    let done = Answered::Acked(AckStatus::Done);
    hear(&mut node, 4, ServiceEvent::Answered(NodeSlot(1), done));
    assert_eq!(
        told(&node, 15),
        ["waiting for node 3 to acknowledge METADATA_UPDATED, 12 s"]
    );
    let late = ServiceEvent::Answered(NodeSlot(3), Answered::TimedOut);
    let out = hear(&mut node, 33, late);
    assert_eq!(out, [Effect::Service(ServiceCommand::Expel(peer(3)))]);
    let out = hear(&mut node, 34, ServiceEvent::Down(peer(3)));
    assert!(out.contains(&Effect::Fence(peer(3))), "{out:?}");
    let why = node.frozen().expect("nobody knows what node 3 writes");
    assert_eq!(
        why.to_string(),
        "writes wait: node 3 is gone and not known to have ended; fence it, or confirm that it is \
         dead"
    );
    let proof = |node| {
        told(node, 40)
            .iter()
            .any(|one| one.contains("a proof that node 3"))
    };
    assert!(proof(&node), "{:?}", told(&node, 40));
    // An administrator says so, here; the others are told.
    let kind = ProofKind::Confirmed;
    let proof = FenceProof {
        peer: peer(3),
        kind,
    };
    let out = feed(&mut node, 41, Event::Fenced(proof));
    assert_eq!(out, [Effect::Service(ServiceCommand::RecordFence(proof))]);
    let out = hear(&mut node, 41, ServiceEvent::Fenced(proof));
    assert!(out.contains(&Effect::Done(WishId(1), Ok(()))), "{out:?}");
    assert!(out.contains(&Effect::Frozen(None)), "{out:?}");
}

#[test]
fn a_proof_of_another_life_is_none() {
    let mut node = active(&[peer(1)]);
    hear(&mut node, 1, ServiceEvent::Down(peer(1)));
    let earlier = Peer {
        incarnation: Incarnation(3),
        ..peer(1)
    };
    for peer in [earlier, peer(2), MINE] {
        let kind = ProofKind::Command;
        let proof = FenceProof { peer, kind };
        assert_eq!(feed(&mut node, 2, Event::Fenced(proof)), []);
        hear(&mut node, 2, ServiceEvent::Fenced(proof));
        assert!(node.frozen().is_some(), "{peer:?}");
    }
    // One that could not be had is asked for again.
    feed(&mut node, 3, Event::NotFenced(peer(1)));
    assert_eq!(node.next_deadline(), Some(at(13)));
    assert_eq!(feed(&mut node, 12, Event::Tick), []);
    assert_eq!(feed(&mut node, 13, Event::Tick), [Effect::Fence(peer(1))]);
}

#[test]
fn who_cannot_follow_is_named() {
    let mut node = active(&[peer(1), peer(2)]);
    updating(&mut node, &[peer(1), peer(2)]);
    let cannot = Answered::Acked(AckStatus::Cannot(Cannot::Read));
    hear(&mut node, 4, ServiceEvent::Answered(NodeSlot(2), cannot));
    let done = Answered::Acked(AckStatus::Done);
    let out = hear(&mut node, 4, ServiceEvent::Answered(NodeSlot(1), done));
    let failed = out.iter().find_map(|effect| match effect {
        Effect::Done(WishId(1), Err(failure)) => Some(failure.to_string()),
        _ => None,
    });
    let text = "node 2: it cannot read the superblock";
    assert_eq!(failed.as_deref(), Some(text), "{out:?}");
}

#[test]
fn one_that_cannot_read_what_changed_writes_no_more_until_it_can() {
    let mut node = active(&[peer(1)]);
    let good = DeviceNumber(1);
    let message = Message::MetadataUpdated { good };
    let (deliver, ack) = (ServiceEvent::Deliver, ServiceCommand::Ack);
    let out = hear(&mut node, 1, deliver(DeliveryId(7), peer(1), message));
    let task = Task::Reload {
        from: Some(good),
        use_spares: true,
    };
    assert_eq!(out, [Effect::Task(Desk::Inbox, task)]);
    let cannot = Answer::Cannot(Cannot::Read);
    let out = feed(&mut node, 1, Event::Answer(Desk::Inbox, cannot));
    let answer = ack(DeliveryId(7), AckStatus::Cannot(Cannot::Read));
    assert!(out.contains(&Effect::Service(answer)), "{out:?}");
    assert_eq!(
        node.frozen().expect("it is blind").to_string(),
        "writes wait: another node changed the array, and this one cannot read the superblock"
    );
    hear(&mut node, 2, deliver(DeliveryId(8), peer(1), message));
    let out = feed(&mut node, 2, Event::Answer(Desk::Inbox, Answer::Done));
    assert!(out.contains(&Effect::Frozen(None)), "{out:?}");
}

#[test]
fn past_its_session_it_does_nothing_whatever_it_hears() {
    let mut node = active(&[peer(1)]);
    updating(&mut node, &[peer(1)]);
    assert_eq!(node.next_deadline(), Some(at(1000)));
    hear(&mut node, 5, ServiceEvent::Renewed(at(2000)));
    assert_eq!(node.next_deadline(), Some(at(2000)));
    let done = Answered::Acked(AckStatus::Done);
    let out = hear(&mut node, 2000, ServiceEvent::Answered(NodeSlot(1), done));
    let failed = Effect::Done(WishId(1), Err(Failure::Leaving));
    assert_eq!(out, [failed, Effect::Frozen(Some(Freeze::Lost))]);
    assert_eq!(feed(&mut node, 2001, Event::Stop).len(), 1);
    let drained = Answer::Drained { dirty: true };
    let out = feed(&mut node, 2002, Event::Answer(Desk::Door, drained));
    assert_eq!(out, [Effect::Over(End::Lost)]);
}

#[test]
fn a_join_that_fails_leaves_nothing_behind() {
    let refused = |why: JoinRefusal| {
        let mut node = Node::new(Setup::new(2));
        feed(&mut node, 0, Event::Start);
        let out = hear(&mut node, 1, ServiceEvent::JoinRefused(why.clone()));
        assert_eq!(
            out,
            [Effect::NotJoined(why), Effect::Over(End::NeverJoined)]
        );
    };
    refused(JoinRefusal::Full { capacity: 2 });
    refused(JoinRefusal::WrongCluster);
    // A version that this one does not speak.
    let mut node = Node::new(Setup::new(2));
    feed(&mut node, 0, Event::Start);
    let newer = Session {
        version: VERSION + 1,
        ..session(&[])
    };
    let out = hear(&mut node, 1, ServiceEvent::Joined(newer));
    let (theirs, ours) = (VERSION + 1, VERSION);
    let version = JoinRefusal::Version { theirs, ours };
    let leave = Effect::Service(ServiceCommand::Leave(Leave::Dirty));
    assert_eq!(out, [Effect::NotJoined(version), leave]);
    let out = hear(&mut node, 1, ServiceEvent::Left);
    assert_eq!(out, [Effect::Over(End::NeverJoined)]);
    // Members that cannot be read: the slot is let go, after the array was told.
    let mut node = Node::new(Setup::new(2));
    feed(&mut node, 0, Event::Start);
    hear(&mut node, 1, ServiceEvent::Joined(session(&[peer(1)])));
    let cannot = Answer::Cannot(Cannot::Read);
    let out = feed(&mut node, 1, Event::Answer(Desk::Door, cannot));
    let leave = Effect::Service(ServiceCommand::Leave(Leave::Dirty));
    assert_eq!(out, [Effect::NotLoaded(Cannot::Read), leave]);
    assert_eq!(told(&node, 4), ["waiting to leave the cluster, 3 s"]);
    assert_eq!(
        hear(&mut node, 4, ServiceEvent::Left),
        [Effect::Over(End::Left)]
    );
}

#[test]
fn a_joiner_keeps_out_of_windows_and_reads_one_mirror_while_a_resync_is_owed() {
    let mut node = Node::new(Setup::new(4));
    feed(&mut node, 0, Event::Start);
    let window = Window::new(0, 64);
    let value = SlotValue {
        window,
        owes_resync: true,
        shown_sectors: Some(90),
    };
    let session = Session {
        values: BTreeMap::from([(NodeSlot(1), value)]),
        ..session(&[peer(1)])
    };
    let out = hear(&mut node, 1, ServiceEvent::Joined(session));
    let windows = vec![(NodeSlot(1), window.expect("not empty"))];
    let task = Task::Load {
        windows,
        most_sectors: Some(90),
    };
    let load = Effect::Task(Desk::Door, task);
    assert_eq!(out, [load, Effect::ReadFirst(true)]);
    let loaded = LOADED;
    feed(&mut node, 1, Event::Answer(Desk::Door, loaded));
    // A resync that gave up leaves it so; one that finished ends it.
    for (owes, effects) in [(true, 0), (false, 1)] {
        let message = Message::Resyncing { window: None, owes };
        hear(
            &mut node,
            2,
            ServiceEvent::Deliver(DeliveryId(1), peer(1), message),
        );
        let out = feed(&mut node, 2, Event::Answer(Desk::Inbox, Answer::Done));
        let any = |effect: &&Effect| **effect == Effect::ReadFirst(false);
        assert_eq!(out.iter().filter(any).count(), effects, "{out:?}");
    }
}

#[test]
fn a_new_disk_is_not_used_before_the_resync_of_who_added_it() {
    let mut node = active(&[peer(1)]);
    let disk = NewDisk {
        uuid: [9; 16],
        device: DeviceNumber(4),
        size_sectors: 8,
        path: DiskPath::new("/new").expect("short"),
    };
    let deliver = |message| ServiceEvent::Deliver(DeliveryId(1), peer(1), message);
    let out = hear(&mut node, 10, deliver(Message::NewDisk(disk)));
    let until = at(15);
    let find = Task::FindDisk {
        disk,
        until,
        returns: false,
    };
    assert_eq!(out, [Effect::Task(Desk::Inbox, find)]);
    let cannot = Answer::Cannot(Cannot::SeeDisk);
    let out = feed(&mut node, 15, Event::Answer(Desk::Inbox, cannot));
    let status = AckStatus::Cannot(Cannot::SeeDisk);
    let ack = ServiceCommand::Ack(DeliveryId(1), status);
    assert_eq!(out, [Effect::Service(ack)]);
    for (message, expected) in [(None, false), (Some(Message::ResyncingStart), true)] {
        if let Some(message) = message {
            hear(&mut node, 16, deliver(message));
        }
        let good = DeviceNumber(1);
        let out = hear(&mut node, 16, deliver(Message::MetadataUpdated { good }));
        let reload = Task::Reload {
            from: Some(good),
            use_spares: expected,
        };
        assert_eq!(out, [Effect::Task(Desk::Inbox, reload)]);
        feed(&mut node, 16, Event::Answer(Desk::Inbox, Answer::Done));
    }
}

#[test]
fn a_message_of_itself_is_refused() {
    let mut node = active(&[peer(1)]);
    let message = Message::ChangeCapacity { sectors: 1 };
    let deliver = ServiceEvent::Deliver(DeliveryId(1), MINE, message);
    let status = AckStatus::Cannot(Cannot::Understand);
    let ack = ServiceCommand::Ack(DeliveryId(1), status);
    assert_eq!(hear(&mut node, 1, deliver), [Effect::Service(ack)]);
}

#[test]
fn a_resync_announces_ahead_and_says_when_it_is_over() {
    let mut node = active(&[peer(1)]);
    let call = |node: &mut Node, call| feed(node, 1, Event::Resync(call));
    let out = call(&mut node, ResyncCall::Want);
    let acquire = Effect::Service(ServiceCommand::Acquire(Right::Resync));
    assert_eq!(out, [acquire]);
    let mut grant = 0;
    // Gives the token, and lets everybody answer.
    let mut turn = |node: &mut Node, message: Message| -> Vec<Effect> {
        grant += 1;
        let mut all = hear(node, 2, ServiceEvent::Granted(Right::Token, Fencing(grant)));
        let sent = ServiceCommand::Broadcast {
            grant: Fencing(grant),
            message,
            deadline: at(32),
        };
        assert!(all.contains(&Effect::Service(sent)), "{all:?}");
        hear(node, 2, ServiceEvent::Ordered(BTreeSet::from([peer(1)])));
        let done = Answered::Acked(AckStatus::Done);
        all.extend(hear(node, 2, ServiceEvent::Answered(NodeSlot(1), done)));
        all
    };
    hear(
        &mut node,
        1,
        ServiceEvent::Granted(Right::Resync, Fencing(9)),
    );
    let out = turn(&mut node, Message::ResyncingStart);
    assert!(out.contains(&Effect::Resync(ResyncWord::May)), "{out:?}");
    for (start, end) in [(0, 64), (32, 128)] {
        let window = Window::new(start, end).expect("not empty");
        call(&mut node, ResyncCall::Window(window));
        let message = Message::Resyncing {
            window: Some(window),
            owes: false,
        };
        let out = turn(&mut node, message);
        let shown = SlotValue {
            window: Some(window),
            ..SHOWN
        };
        let set = Effect::Service(ServiceCommand::SetValue(shown));
        assert_eq!(out.first(), Some(&set), "shown before it is told");
        let open = Effect::Resync(ResyncWord::Open(window));
        assert!(out.contains(&open), "{out:?}");
    }
    call(&mut node, ResyncCall::Over { finished: true });
    let (window, owes) = (None, false);
    let out = turn(&mut node, Message::Resyncing { window, owes });
    let release = ServiceCommand::Release(Right::Resync, Fencing(9));
    let end = [Effect::Service(release), Effect::Resync(ResyncWord::Ended)];
    assert!(out.ends_with(&end), "{out:?}");
}

/// Rights that were being given back when it left: the answer comes before that to its leaving.
#[test]
fn what_was_cancelled_is_answered_while_it_leaves() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Resync(ResyncCall::Want));
    let over = ResyncCall::Over { finished: false };
    let out = feed(&mut node, 1, Event::Resync(over));
    let cancel = Effect::Service(ServiceCommand::Cancel(Right::Resync));
    assert_eq!(out, [cancel]);
    feed(&mut node, 2, Event::Stop);
    let drained = Answer::Drained { dirty: false };
    let out = feed(&mut node, 2, Event::Answer(Desk::Door, drained));
    let leave = Effect::Service(ServiceCommand::Leave(Leave::Clean));
    assert!(out.contains(&leave), "{out:?}");
    let cancelled = ServiceEvent::Cancelled(Right::Resync);
    assert_eq!(hear(&mut node, 3, cancelled), []);
    let out = hear(&mut node, 3, ServiceEvent::Left);
    assert!(out.contains(&Effect::Over(End::Left)), "{out:?}");
}
