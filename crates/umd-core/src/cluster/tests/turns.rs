//! What a node sends, receives and takes over, step by step.

use std::collections::BTreeSet;

use super::super::*;
use super::single::{MINE, SHOWN, active, at, feed, hear, peer, told, updating};

fn service(command: ServiceCommand) -> Effect {
    Effect::Service(command)
}

fn answer(desk: Desk, answer: Answer) -> Event {
    Event::Answer(desk, answer)
}

fn acked(slot: u16, status: AckStatus) -> ServiceEvent {
    ServiceEvent::Answered(NodeSlot(slot), Answered::Acked(status))
}

const DONE: AckStatus = AckStatus::Done;
const NO: AckStatus = AckStatus::Cannot(Cannot::Device);
const TOKEN: ServiceEvent = ServiceEvent::Granted(Right::Token, Fencing(5));
const RELEASE: ServiceCommand = ServiceCommand::Release(Right::Token, Fencing(5));

/// A wish whose turn has come, and that still holds.
fn begun(wish: Wish) -> (Node, Vec<Effect>) {
    let mut node = active(&[peer(1), peer(2)]);
    feed(&mut node, 1, Event::Wish(WishId(1), wish));
    let out = hear(&mut node, 1, TOKEN);
    let recheck = Task::Recheck(vec![WishId(1)]);
    assert_eq!(out, [Effect::Task(Desk::Turn, recheck)]);
    let holds = Answer::Holds(vec![WishId(1)]);
    let out = feed(&mut node, 1, answer(Desk::Turn, holds));
    (node, out)
}

/// What was told has its place; these are the answers of nodes 1 and 2.
fn answers(node: &mut Node, first: AckStatus, second: AckStatus) -> Vec<Effect> {
    let to: BTreeSet<Peer> = [peer(1), peer(2)].into();
    let mut out = hear(node, 1, ServiceEvent::Ordered(to));
    out.extend(hear(node, 1, acked(1, first)));
    out.extend(hear(node, 1, acked(2, second)));
    out
}

fn tells(out: &[Effect]) -> Option<Message> {
    out.iter().find_map(|effect| match effect {
        Effect::Service(ServiceCommand::Broadcast { message, .. }) => Some(*message),
        _ => None,
    })
}

fn asks(out: &[Effect]) -> Option<Task> {
    out.iter().find_map(|effect| match effect {
        Effect::Task(Desk::Turn, task) => Some(task.clone()),
        _ => None,
    })
}

fn ends(out: &[Effect]) -> Option<Result<(), Failure>> {
    out.iter().find_map(|effect| match effect {
        Effect::Done(_, result) => Some(result.clone()),
        _ => None,
    })
}

fn refused(nodes: &[u16]) -> Option<Result<(), Failure>> {
    let blame = |node: &u16| Blame {
        node: NodeSlot(*node),
        why: Cannot::Device,
    };
    Some(Err(Failure::Nodes(nodes.iter().map(blame).collect())))
}

#[test]
fn one_write_of_superblocks_tells_all_that_is_known() {
    let mut node = active(&[peer(1)]);
    for id in 1..=3 {
        feed(&mut node, 1, Event::Wish(WishId(id), Wish::Update));
    }
    let remove = Wish::RemoveDisk(DeviceNumber(9));
    feed(&mut node, 1, Event::Wish(WishId(4), remove));
    let all: Vec<WishId> = (1..=3).map(WishId).collect();
    let out = hear(&mut node, 1, TOKEN);
    assert_eq!(asks(&out), Some(Task::Recheck(all)));
    // One of them was done by somebody else.
    let two = vec![WishId(1), WishId(3)];
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Holds(two.clone())));
    assert!(out.contains(&Effect::Done(WishId(2), Err(Failure::Moot))));
    assert_eq!(asks(&out), Some(Task::Write(two)));
    let written = Answer::Written(DeviceNumber(0));
    feed(&mut node, 1, answer(Desk::Turn, written));
    hear(&mut node, 1, ServiceEvent::Ordered([peer(1)].into()));
    let out = hear(&mut node, 2, acked(1, DONE));
    let done = |id| Effect::Done(WishId(id), Ok(()));
    let acquire = service(ServiceCommand::Acquire(Right::Token));
    assert_eq!(out, [service(RELEASE), done(1), done(3), acquire]);
}

#[test]
fn what_nobody_wants_any_more_is_not_done() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Wish(WishId(1), Wish::Update));
    hear(&mut node, 1, TOKEN);
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Holds(vec![])));
    let moot = Effect::Done(WishId(1), Err(Failure::Moot));
    assert_eq!(out, [moot, service(RELEASE)]);
}

#[test]
fn superblocks_that_cannot_be_written_are_told_of_to_nobody() {
    let (mut node, _) = begun(Wish::Update);
    let out = feed(
        &mut node,
        1,
        answer(Desk::Turn, Answer::Cannot(Cannot::Device)),
    );
    let failed = Effect::Done(WishId(1), refused(&[0]).expect("some"));
    assert_eq!(out, [service(RELEASE), failed]);
}

fn disk() -> NewDisk {
    NewDisk {
        uuid: [9; 16],
        device: DeviceNumber(4),
        size_sectors: 8,
        path: DiskPath::new("/new").expect("short"),
    }
}

fn add() -> Wish {
    Wish::AddDisk(disk())
}

#[test]
fn a_disk_that_somebody_does_not_see_is_added_nowhere() {
    let (mut node, out) = begun(add());
    assert_eq!(tells(&out), Some(Message::NewDisk(disk())));
    let out = answers(&mut node, NO, DONE);
    assert_eq!(asks(&out), Some(Task::Undo(WishId(1))));
    let written = Answer::Written(DeviceNumber(0));
    let out = feed(&mut node, 1, answer(Desk::Turn, written));
    let good = DeviceNumber(0);
    assert_eq!(tells(&out), Some(Message::MetadataUpdated { good }));
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(ends(&out), refused(&[1]));
    assert!(out.contains(&service(RELEASE)));
}

#[test]
fn what_cannot_be_undone_is_told_of_to_nobody() {
    let (mut node, _) = begun(add());
    answers(&mut node, NO, DONE);
    let out = feed(
        &mut node,
        1,
        answer(Desk::Turn, Answer::Cannot(Cannot::Device)),
    );
    assert_eq!(tells(&out), None);
    assert_eq!(ends(&out), refused(&[1, 0]));
    // Or not by all: that is said, and it is over.
    let (mut node, _) = begun(add());
    answers(&mut node, DONE, NO);
    let written = Answer::Written(DeviceNumber(0));
    feed(&mut node, 1, answer(Desk::Turn, written));
    let out = answers(&mut node, NO, NO);
    assert_eq!(ends(&out), refused(&[2, 1, 2]));
}

#[test]
fn a_disk_that_all_have_seen_is_added_whoever_cannot_follow() {
    let (mut node, _) = begun(add());
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(asks(&out), Some(Task::Apply(WishId(1))));
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Done));
    assert_eq!(asks(&out), Some(Task::Write(vec![WishId(1)])));
    let good = DeviceNumber(0);
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Written(good)));
    assert_eq!(tells(&out), Some(Message::MetadataUpdated { good }));
    // It is on the disks: there is no way back from here.
    let out = answers(&mut node, NO, DONE);
    assert_eq!(asks(&out), None);
    assert_eq!(ends(&out), refused(&[1]));
}

#[test]
fn a_device_that_somebody_needs_is_not_removed_here_either() {
    let (mut node, out) = begun(Wish::RemoveDisk(DeviceNumber(2)));
    assert_eq!(tells(&out), Some(Message::Remove(DeviceNumber(2))));
    let out = answers(&mut node, DONE, NO);
    assert_eq!(asks(&out), None, "it is not removed");
    assert_eq!(ends(&out), refused(&[2]));
    let (mut node, _) = begun(Wish::RemoveDisk(DeviceNumber(2)));
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(asks(&out), Some(Task::Apply(WishId(1))));
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Done));
    assert_eq!(asks(&out), Some(Task::Write(vec![WishId(1)])));
    let good = DeviceNumber(0);
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Written(good)));
    assert_eq!(tells(&out), Some(Message::MetadataUpdated { good }));
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(ends(&out), Some(Ok(())));
}

const RESIZE: Wish = Wish::Resize {
    sectors: 200,
    sync_sectors: 100,
};

#[test]
fn a_size_that_all_know_is_shown_to_who_joins_before_it_is_told() {
    let (mut node, out) = begun(RESIZE);
    // All are asked before anything is written.
    let ask = Message::BitmapResize { sync_sectors: 100 };
    assert_eq!(tells(&out), Some(ask));
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(asks(&out), Some(Task::Write(vec![WishId(1)])));
    let good = DeviceNumber(0);
    feed(&mut node, 1, answer(Desk::Turn, Answer::Written(good)));
    let out = answers(&mut node, DONE, DONE);
    let vacant = Task::Vacant {
        id: WishId(1),
        taken: [0, 1, 2].map(NodeSlot).into(),
    };
    assert_eq!(asks(&out), Some(vacant));
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Done));
    // What is added is owed a resync.
    let value = SlotValue {
        shown_sectors: Some(200),
        owes_resync: true,
        ..SHOWN
    };
    assert_eq!(out[0], service(ServiceCommand::SetValue(value)));
    assert_eq!(tells(&out), Some(Message::ChangeCapacity { sectors: 200 }));
    // Who does not show it is named; it is decided all the same, and not undone.
    let out = answers(&mut node, NO, DONE);
    assert_eq!(asks(&out), None);
    assert_eq!(ends(&out), refused(&[1]));
}

#[test]
fn who_cannot_have_another_size_is_named_before_anything_is_written() {
    let (mut node, _) = begun(RESIZE);
    let out = answers(&mut node, NO, DONE);
    assert_eq!(asks(&out), Some(Task::Undo(WishId(1))));
    let good = DeviceNumber(0);
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Written(good)));
    assert_eq!(tells(&out), Some(Message::MetadataUpdated { good }));
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(ends(&out), refused(&[1]));
}

const RECHUNK: Wish = Wish::Rechunk {
    region_bytes: 8192,
    old_region_bytes: 4096,
    sync_sectors: 100,
};

fn chunk(region_bytes: u32, asks: bool) -> Option<Message> {
    Some(Message::BitmapChunk {
        region_bytes,
        sync_sectors: 100,
        asks,
    })
}

#[test]
fn another_chunk_is_asked_for_then_written_here_then_told() {
    let (mut node, out) = begun(RECHUNK);
    assert_eq!(tells(&out), chunk(8192, true));
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(asks(&out), Some(Task::Apply(WishId(1))));
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Done));
    // Nobody is let in whose bitmap would be written as that of nobody.
    let closed = SlotValue {
        shown_sectors: Some(u64::MAX),
        ..SHOWN
    };
    assert_eq!(out[0], service(ServiceCommand::SetValue(closed)));
    assert_eq!(tells(&out), chunk(8192, false));
    let out = answers(&mut node, DONE, DONE);
    let vacant = Task::Vacant {
        id: WishId(1),
        taken: [0, 1, 2].map(NodeSlot).into(),
    };
    assert_eq!(asks(&out), Some(vacant));
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Done));
    assert_eq!(out[0], service(ServiceCommand::SetValue(SHOWN)));
    assert_eq!(ends(&out), Some(Ok(())));
}

#[test]
fn who_cannot_have_another_chunk_is_named_and_nobody_has_to_go_back() {
    let (mut node, _) = begun(RECHUNK);
    let out = answers(&mut node, NO, DONE);
    assert_eq!((asks(&out), tells(&out)), (None, None));
    assert_eq!(ends(&out), refused(&[1]));
}

#[test]
fn who_fails_to_write_another_chunk_is_named_and_all_go_back() {
    let (mut node, _) = begun(RECHUNK);
    answers(&mut node, DONE, DONE);
    feed(&mut node, 1, answer(Desk::Turn, Answer::Done));
    let out = answers(&mut node, DONE, NO);
    assert_eq!(asks(&out), Some(Task::Undo(WishId(1))));
    let out = feed(&mut node, 1, answer(Desk::Turn, Answer::Done));
    // Whoever has the old ones has no more room than before.
    let back = Message::BitmapChunk {
        region_bytes: 4096,
        sync_sectors: 0,
        asks: false,
    };
    assert_eq!(tells(&out), Some(back));
    let out = answers(&mut node, DONE, DONE);
    assert_eq!(out[0], service(ServiceCommand::SetValue(SHOWN)));
    assert_eq!(ends(&out), refused(&[2]));
}

#[test]
fn a_size_that_another_node_tells_is_shown_from_then_on() {
    for (status, shown) in [
        (Answer::Done, true),
        (Answer::Cannot(Cannot::Follow), false),
    ] {
        let mut node = active(&[peer(1)]);
        let message = Message::ChangeCapacity { sectors: 300 };
        let deliver = ServiceEvent::Deliver(DeliveryId(2), peer(1), message);
        let out = hear(&mut node, 1, deliver);
        let publish = Task::Publish { sectors: 300 };
        assert_eq!(out, [Effect::Task(Desk::Inbox, publish)]);
        let out = feed(&mut node, 1, answer(Desk::Inbox, status.clone()));
        let value = SlotValue {
            shown_sectors: Some(300),
            ..SHOWN
        };
        let set = service(ServiceCommand::SetValue(value));
        assert_eq!(out.contains(&set), shown, "{status:?}: {out:?}");
        let first = out.contains(&Effect::ReadFirst(true));
        assert_eq!(first, shown, "what is added differs");
        assert_eq!(out.len(), 1 + 2 * usize::from(shown), "and one answer");
    }
}

/// A message of somebody who is gone meanwhile is none of its answers.
#[test]
fn a_death_counts_as_an_answer_when_it_is_proven() {
    let mut node = active(&[peer(1), peer(2)]);
    updating(&mut node, &[peer(1), peer(2)]);
    hear(&mut node, 4, ServiceEvent::Down(peer(1)));
    let late = hear(&mut node, 4, acked(1, DONE));
    assert_eq!(late, [], "its last word does not tell that it has ended");
    let out = hear(&mut node, 5, acked(2, DONE));
    assert_eq!(ends(&out), None);
    assert!(
        told(&node, 9)
            .iter()
            .any(|one| one.contains("a proof that node 1"))
    );
    let kind = ProofKind::Storage;
    let proof = FenceProof {
        peer: peer(1),
        kind,
    };
    let out = hear(&mut node, 6, ServiceEvent::Fenced(proof));
    assert_eq!(ends(&out), Some(Ok(())));
    // Who left in order has ended by itself.
    let mut node = active(&[peer(1)]);
    updating(&mut node, &[peer(1)]);
    let out = hear(&mut node, 4, ServiceEvent::Gone(peer(1), Leave::Clean));
    assert_eq!(ends(&out), Some(Ok(())));
}

/// Nobody who is down when a message gets its place will answer it.
#[test]
fn who_is_dead_before_a_message_has_its_place_is_waited_for_too() {
    let mut node = active(&[peer(1), peer(2)]);
    updating(&mut node, &[]);
    let mut node = {
        // Once more, with a death in between.
        drop(node);
        node = active(&[peer(1), peer(2)]);
        feed(&mut node, 1, Event::Wish(WishId(1), Wish::Update));
        hear(&mut node, 1, TOKEN);
        let holds = Answer::Holds(vec![WishId(1)]);
        feed(&mut node, 1, answer(Desk::Turn, holds));
        feed(
            &mut node,
            1,
            answer(Desk::Turn, Answer::Written(DeviceNumber(0))),
        );
        node
    };
    hear(&mut node, 2, ServiceEvent::Down(peer(2)));
    hear(&mut node, 3, ServiceEvent::Ordered([peer(1)].into()));
    let out = hear(&mut node, 4, acked(1, DONE));
    assert_eq!(ends(&out), None);
    let kind = ProofKind::Storage;
    let proof = FenceProof {
        peer: peer(2),
        kind,
    };
    let out = hear(&mut node, 6, ServiceEvent::Fenced(proof));
    assert_eq!(ends(&out), Some(Ok(())));
}

/// Node 2 of two others has left with bits in its slot, and superblocks were read since.
fn left_dirty() -> Node {
    let mut node = active(&[peer(1), peer(2)]);
    let out = hear(&mut node, 1, ServiceEvent::Gone(peer(2), Leave::Dirty));
    let begin = service(ServiceCommand::BeginRecovery(peer(2)));
    assert!(out.contains(&Effect::ReadFirst(true)), "{out:?}");
    let out = feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
    assert!(!out.contains(&begin), "superblocks come first: {out:?}");
    let out = feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
    assert_eq!(out, [begin]);
    node
}

fn end(done: bool, bits: bool) -> Effect {
    let peer = peer(2);
    service(ServiceCommand::EndRecovery { peer, done, bits })
}

const TAKEN: Desk = Desk::Recovery(NodeSlot(2));

#[test]
fn a_slot_that_could_not_be_taken_is_asked_for_again_after_ten_seconds() {
    let mut node = left_dirty();
    assert_eq!(told(&node, 6), ["waiting for the recovery of node 2, 5 s"]);
    hear(&mut node, 2, ServiceEvent::RecoveryGranted(peer(2)));
    let out = feed(&mut node, 3, answer(TAKEN, Answer::Cannot(Cannot::Work)));
    assert_eq!(out, [end(false, false)]);
    assert_eq!(node.next_deadline(), Some(at(13)));
    assert_eq!(feed(&mut node, 12, Event::Tick), []);
    let begin = service(ServiceCommand::BeginRecovery(peer(2)));
    assert_eq!(feed(&mut node, 13, Event::Tick), [begin]);
    assert_eq!(node.next_deadline(), Some(at(1000)));
    // Somebody else has done it meanwhile: nothing is left to be waited for.
    let ended = ServiceEvent::RecoveryEnded {
        peer: peer(2),
        by: NodeSlot(1),
        bits: false,
    };
    assert_eq!(hear(&mut node, 14, ended), [Effect::ReadFirst(false)]);
    assert_eq!(node.waits(), []);
    let out = hear(&mut node, 15, ServiceEvent::RecoveryGranted(peer(2)));
    assert_eq!(out, [end(false, false)], "it is not to be taken twice");
}

#[test]
fn bits_that_another_node_took_are_its_to_resync() {
    let mut node = left_dirty();
    let ended = |by| ServiceEvent::RecoveryEnded {
        peer: peer(2),
        by: NodeSlot(by),
        bits: true,
    };
    // One mirror is read until it has.
    assert_eq!(hear(&mut node, 2, ended(1)), []);
    assert!(node.reads_first());
    let message = Message::Resyncing {
        window: None,
        owes: false,
    };
    let deliver = ServiceEvent::Deliver(DeliveryId(1), peer(1), message);
    hear(&mut node, 3, deliver);
    let out = feed(&mut node, 3, answer(Desk::Inbox, Answer::Done));
    assert!(out.contains(&Effect::ReadFirst(false)), "{out:?}");
    // Who is none of the cluster owes nothing: its own slot is waited for.
    let mut node = left_dirty();
    assert_eq!(hear(&mut node, 2, ended(3)), [Effect::ReadFirst(false)]);
}

/// While a proof is being looked for nobody has to come back for that.
#[test]
fn a_proof_under_way_is_not_asked_for_again() {
    let mut node = active(&[peer(1)]);
    let out = hear(&mut node, 1, ServiceEvent::Down(peer(1)));
    assert!(out.contains(&Effect::Fence(peer(1))));
    assert_eq!(node.next_deadline(), Some(at(1000)));
    assert_eq!(feed(&mut node, 500, Event::Tick), []);
    assert_eq!(
        told(&node, 9),
        ["waiting for a proof that node 1 writes no more, 8 s"]
    );
}

/// What was written by who died is read before anything is written, and again if it cannot be.
#[test]
fn superblocks_that_cannot_be_read_after_a_death_are_read_again() {
    let mut node = active(&[peer(1)]);
    hear(&mut node, 1, ServiceEvent::Gone(peer(1), Leave::Dirty));
    let out = feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
    let reload = Task::Reload {
        from: None,
        use_spares: true,
    };
    assert_eq!(out, [Effect::Task(Desk::Inbox, reload.clone())]);
    let out = feed(
        &mut node,
        2,
        answer(Desk::Inbox, Answer::Cannot(Cannot::Read)),
    );
    let blind = Freeze::Blind(Cannot::Read);
    assert_eq!(out, [Effect::Frozen(Some(blind))]);
    // What it has to tell itself waits for that.
    assert_eq!(feed(&mut node, 3, Event::Wish(WishId(1), Wish::Update)), []);
    assert_eq!(node.next_deadline(), Some(at(12)));
    assert_eq!(feed(&mut node, 11, Event::Tick), []);
    let out = feed(&mut node, 12, Event::Tick);
    assert_eq!(out, [Effect::Task(Desk::Inbox, reload)]);
    let out = feed(&mut node, 13, answer(Desk::Inbox, Answer::Done));
    let acquire = Effect::Service(ServiceCommand::Acquire(Right::Token));
    // The slot of the dead is taken when it is known what it is for.
    let begin = service(ServiceCommand::BeginRecovery(peer(1)));
    assert_eq!(out, [begin, acquire, Effect::Frozen(None)]);
    let recheck = Task::Recheck(vec![WishId(1)]);
    let out = hear(&mut node, 13, TOKEN);
    assert_eq!(out, [Effect::Task(Desk::Turn, recheck)]);
}

/// A turn that comes to who could not follow meanwhile is given back, and taken again later.
#[test]
fn who_cannot_follow_gives_its_turn_back() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Wish(WishId(1), Wish::Update));
    let good = DeviceNumber(1);
    let message = Message::MetadataUpdated { good };
    hear(
        &mut node,
        1,
        ServiceEvent::Deliver(DeliveryId(1), peer(1), message),
    );
    let cannot = answer(Desk::Inbox, Answer::Cannot(Cannot::Read));
    feed(&mut node, 2, cannot);
    let ServiceEvent::Granted(right, grant) = TOKEN else {
        unreachable!("a token");
    };
    let release = Effect::Service(ServiceCommand::Release(right, grant));
    assert_eq!(hear(&mut node, 3, TOKEN), [release]);
    // Nobody tells it again: it looks by itself.
    assert_eq!(node.next_deadline(), Some(at(12)));
    let out = feed(&mut node, 12, Event::Tick);
    let (from, use_spares) = (None, true);
    let reload = Task::Reload { from, use_spares };
    assert_eq!(out, [Effect::Task(Desk::Inbox, reload)]);
    let out = feed(&mut node, 13, answer(Desk::Inbox, Answer::Done));
    let acquire = Effect::Service(ServiceCommand::Acquire(Right::Token));
    assert_eq!(out, [acquire, Effect::Frozen(None)]);
    let out = hear(&mut node, 14, TOKEN);
    let recheck = Task::Recheck(vec![WishId(1)]);
    assert_eq!(out, [Effect::Task(Desk::Turn, recheck)]);
}

/// A disk that was being added by somebody who is gone waits for nobody's resync.
#[test]
fn a_new_disk_of_who_is_gone_waits_no_more() {
    for (gone, expected) in [(1, true), (2, false)] {
        let mut node = active(&[peer(1), peer(2)]);
        let message = Message::NewDisk(disk());
        let deliver = ServiceEvent::Deliver(DeliveryId(1), peer(1), message);
        hear(&mut node, 1, deliver);
        feed(&mut node, 1, answer(Desk::Inbox, Answer::Done));
        hear(&mut node, 2, ServiceEvent::Gone(peer(gone), Leave::Dirty));
        let out = feed(&mut node, 2, answer(Desk::Inbox, Answer::Done));
        let reload = Task::Reload {
            from: None,
            use_spares: expected,
        };
        assert_eq!(out, [Effect::Task(Desk::Inbox, reload)]);
    }
}

/// A node that resyncs: its turn has come, and it may begin.
fn resyncing() -> Node {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Resync(ResyncCall::Want));
    hear(
        &mut node,
        1,
        ServiceEvent::Granted(Right::Resync, Fencing(9)),
    );
    let out = hear(&mut node, 1, TOKEN);
    assert_eq!(tells(&out), Some(Message::ResyncingStart));
    hear(&mut node, 1, ServiceEvent::Ordered([peer(1)].into()));
    let out = hear(&mut node, 1, acked(1, DONE));
    assert!(out.contains(&Effect::Resync(ResyncWord::May)), "{out:?}");
    node
}

fn window(start: u64, end: u64) -> Window {
    Window::new(start, end).expect("not empty")
}

/// What is told is the last that was asked for: an older one would hold others up for nothing.
#[test]
fn a_window_that_waits_for_its_turn_gives_way_to_the_next() {
    let mut node = resyncing();
    for (start, end) in [(0, 64), (32, 96)] {
        let call = ResyncCall::Window(window(start, end));
        feed(&mut node, 2, Event::Resync(call));
    }
    let out = hear(&mut node, 2, TOKEN);
    let shown = Message::Resyncing {
        window: Some(window(32, 96)),
        owes: false,
    };
    assert_eq!(tells(&out), Some(shown));
    // It ends before that was heard: the end is told, and nothing else.
    let over = ResyncCall::Over { finished: true };
    feed(&mut node, 2, Event::Resync(over));
    hear(&mut node, 2, ServiceEvent::Ordered([peer(1)].into()));
    let out = hear(&mut node, 2, acked(1, DONE));
    let acquire = service(ServiceCommand::Acquire(Right::Token));
    assert_eq!(out, [service(RELEASE), acquire]);
    let out = hear(&mut node, 3, TOKEN);
    let end = Message::Resyncing {
        window: None,
        owes: false,
    };
    assert_eq!(tells(&out), Some(end));
}

#[test]
fn a_window_that_somebody_refuses_is_not_used() {
    let mut node = resyncing();
    let call = ResyncCall::Window(window(0, 64));
    feed(&mut node, 2, Event::Resync(call));
    hear(&mut node, 2, TOKEN);
    hear(&mut node, 2, ServiceEvent::Ordered([peer(1)].into()));
    let out = hear(&mut node, 2, acked(1, NO));
    let failure = refused(&[1]).expect("some").expect_err("refused");
    let word = Effect::Resync(ResyncWord::Refused(failure));
    assert!(out.contains(&word), "{out:?}");
}

#[test]
fn a_resync_that_is_not_wanted_any_more_is_asked_for_no_more() {
    let mut node = active(&[peer(1)]);
    feed(&mut node, 1, Event::Resync(ResyncCall::Want));
    let over = ResyncCall::Over { finished: true };
    let out = feed(&mut node, 2, Event::Resync(over));
    assert_eq!(out, [service(ServiceCommand::Cancel(Right::Resync))]);
    assert_eq!(
        told(&node, 5),
        ["waiting for the lock service to forget a request, 3 s"]
    );
    let mut other = node.clone();
    let ended = Effect::Resync(ResyncWord::Ended);
    let out = hear(&mut node, 3, ServiceEvent::Cancelled(Right::Resync));
    assert_eq!(out, std::slice::from_ref(&ended));
    assert_eq!(node.waits(), []);
    // Or it had come before.
    let granted = ServiceEvent::Granted(Right::Resync, Fencing(9));
    let out = hear(&mut other, 3, granted);
    let release = ServiceCommand::Release(Right::Resync, Fencing(9));
    assert_eq!(out, [service(release), ended]);
}

/// A resync that is just ending began before these bits came: it has not seen to them.
#[test]
fn bits_that_come_while_a_resync_ends_are_still_owed() {
    for (late, owes) in [(false, false), (true, true)] {
        let mut node = resyncing();
        let call = ResyncCall::Window(window(0, 64));
        feed(&mut node, 2, Event::Resync(call));
        hear(&mut node, 2, TOKEN);
        hear(&mut node, 2, ServiceEvent::Ordered([peer(1)].into()));
        hear(&mut node, 2, acked(1, DONE));
        let over = ResyncCall::Over { finished: true };
        feed(&mut node, 3, Event::Resync(over));
        if late {
            hear(&mut node, 3, ServiceEvent::Gone(peer(2), Leave::Dirty));
            feed(&mut node, 3, answer(Desk::Inbox, Answer::Done));
            feed(&mut node, 3, answer(Desk::Inbox, Answer::Done));
            hear(&mut node, 3, ServiceEvent::RecoveryGranted(peer(2)));
            let out = feed(&mut node, 3, answer(TAKEN, Answer::Copied { any: true }));
            let value = SlotValue {
                window: Some(window(0, 64)),
                owes_resync: true,
                ..SHOWN
            };
            let set = service(ServiceCommand::SetValue(value));
            assert!(out.contains(&set), "{out:?}");
            let out = feed(&mut node, 3, answer(TAKEN, Answer::Done));
            assert_eq!(out, [end(true, true), Effect::ResyncNeeded]);
        }
        let out = hear(&mut node, 4, TOKEN);
        let window = None;
        assert_eq!(tells(&out), Some(Message::Resyncing { window, owes }));
        assert_eq!(node.reads_first(), owes);
    }
}

#[test]
fn what_a_window_covers_can_be_asked() {
    let one = window(12, 40);
    assert_eq!((one.start_sectors(), one.end_sectors()), (12, 40));
    assert_eq!(Window::new(40, 40), None);
    assert_eq!(MINE.slot.to_string(), "node 0");
}
