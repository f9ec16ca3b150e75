//! The promises, one after the other.

use std::collections::BTreeSet;
use std::time::Duration;

use umd_core::cluster::{
    AckStatus, Answered, Cannot, DeviceNumber, FenceProof, Leave, Message, NodeSlot, Peer,
    ProofKind, Right, ServiceCommand as Command, ServiceEvent as Event, SlotValue, Window,
};

use super::node::PATIENCE;
use super::{Bench, Case, Node};

pub const CASES: [Case; 14] = [
    ("1 one order", one_order),
    ("1 addressees are the members at its place", addressees),
    ("2 slots and lives", slots_and_lives),
    ("2 deaths are remembered", deaths_are_remembered),
    ("3 a paused node is over before others hear of it", paused),
    (
        "3 a node that is cut off is over before others hear of it",
        cut_off,
    ),
    (
        "3 an expelled node is over before others hear of it",
        expelled,
    ),
    ("4 grants only grow", grants_grow),
    ("4 a dead holder, and what it sends", dead_holder),
    ("4 nothing is queued after a cancel", cancel),
    ("5 nobody is silent", no_silence),
    ("6 values are seen by who comes", values),
    ("7 no recovery without a proof", proof),
    ("8 leaving is answered", leaving),
];

pub const NUMBERED: fn(u32) -> Message = |number| Message::Remove(DeviceNumber(number));

/// What comes in the same order to all, as text; a message at its sender is its place.
fn common(node: &Node, sent: &[Message]) -> Vec<String> {
    let mut sent = sent.iter();
    let common = node.seen.iter().filter_map(|(_, event)| match event {
        Event::Down(_) | Event::Gone(..) | Event::Fenced(_) | Event::RecoveryEnded { .. } => {
            Some(format!("{event:?}"))
        }
        Event::Done(epoch, _) => Some(format!("{epoch:?}")),
        Event::Deliver(_, _, message) => Some(format!("{message:?}")),
        Event::Ordered(_) => Some(format!("{:?}", sent.next().expect("it was sent"))),
        _ => None,
    });
    common.collect()
}

/// Sends messages, each under a grant of its own, while others do the same.
fn send_many(node: &mut Node, numbers: std::ops::Range<u32>) -> Vec<Message> {
    let messages: Vec<Message> = numbers.map(NUMBERED).collect();
    for message in &messages {
        let grant = node.acquire(Right::Token);
        let to = node.broadcast(grant, *message, PATIENCE);
        let mut missing: BTreeSet<NodeSlot> = to.iter().map(|peer| peer.slot).collect();
        while !missing.is_empty() {
            let heard = node.until("all answers", |event| match event {
                Event::Answered(slot, Answered::Acked(AckStatus::Done)) => Some(*slot),
                Event::Down(peer) | Event::Gone(peer, _) => Some(peer.slot),
                _ => None,
            });
            missing.remove(&heard);
        }
        node.say(Command::Release(Right::Token, grant));
    }
    messages
}

fn one_order(bench: &Bench) {
    let mut nodes: [Node; 3] = bench.members(8);
    let [a, b, c] = &mut nodes;
    let last = NUMBERED(999);
    let ends = |node: &mut Node| {
        let over = |event: &Event| matches!(event, Event::Deliver(_, _, m) if *m == last);
        node.until("the last message", |event| over(event).then_some(()));
    };
    let sent_by_a = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            send_many(b, 100..110);
            ends(b);
        });
        let comers = scope.spawn(|| {
            let dies = bench.members_more(4);
            drop(dies);
            let mut leaves = bench.node("leaves");
            leaves.join(8);
            leaves.leave(Leave::Dirty);
        });
        let listener = scope.spawn(|| ends(c));
        let mut sent = send_many(a, 0..10);
        comers.join().expect("they come and go");
        let death = |event: &Event| match event {
            Event::Down(peer) => Some(*peer),
            _ => None,
        };
        let dead = a.seen.iter().find_map(|(_, event)| death(event));
        let dead = dead.unwrap_or_else(|| a.until("a death", death));
        a.say(Command::RecordFence(FenceProof {
            peer: dead,
            kind: ProofKind::Confirmed,
        }));
        a.say(Command::BeginRecovery(dead));
        a.hears(&Event::RecoveryGranted(dead));
        let (peer, done, bits) = (dead, true, true);
        a.say(Command::EndRecovery { peer, done, bits });
        // Behind all that the others send.
        while !sender.is_finished() && a.seen.iter().filter(|(_, e)| is_of(e, 100)).count() < 10 {
            let _ = a.step(Duration::from_millis(20));
        }
        let grant = a.acquire(Right::Token);
        a.broadcast(grant, last, PATIENCE);
        sent.push(last);
        sender.join().expect("it sends");
        listener.join().expect("it listens");
        sent
    });
    let sent_by_b: Vec<Message> = (100..110).map(NUMBERED).collect();
    let seen = [common(a, &sent_by_a), common(b, &sent_by_b), common(c, &[])];
    // Each begins with its own joining, and all end with the last message.
    let tail = seen.iter().map(Vec::len).min().expect("three") - 3;
    assert!(tail > 20, "{seen:#?}");
    let upto = |list: &Vec<String>| {
        let end = list.iter().position(|one| *one == format!("{last:?}"));
        let end = end.expect("it was told the last") + 1;
        list[end - tail..end].to_vec()
    };
    assert_eq!(upto(&seen[0]), upto(&seen[1]));
    assert_eq!(upto(&seen[0]), upto(&seen[2]));
}

fn is_of(event: &Event, from: u32) -> bool {
    let numbers = from..from + 10;
    let mut all = numbers.map(NUMBERED);
    matches!(event, Event::Deliver(_, _, message) if all.any(|one| one == *message))
}

impl Bench<'_> {
    /// One more member than so many.
    fn members_more(&self, many: usize) -> Node {
        let mut node = self.node(&format!("host{many}"));
        node.join(8);
        node
    }
}

fn addressees(bench: &Bench) {
    let [mut a, mut b, mut c]: [Node; 3] = bench.members(4);
    let grant = a.acquire(Right::Token);
    let to = a.broadcast(grant, NUMBERED(1), PATIENCE);
    assert_eq!(to, BTreeSet::from([b.me(), c.me()]), "all but the sender");
    for node in [&mut b, &mut c] {
        let (_, from, message) = node.until("it", |event| match event {
            Event::Deliver(id, from, message) => Some((*id, *from, *message)),
            _ => None,
        });
        assert_eq!((from, message), (a.me(), NUMBERED(1)));
    }
    let mut missing = BTreeSet::from([b.me().slot, c.me().slot]);
    while !missing.is_empty() {
        let (slot, how) = a.until("an answer", |event| match event {
            Event::Answered(slot, how) => Some((*slot, *how)),
            _ => None,
        });
        assert!(missing.remove(&slot), "{slot} answers twice");
        assert_eq!(how, Answered::Acked(AckStatus::Done));
    }
    b.leave(Leave::Clean);
    a.gone(b.me());
    let to = a.broadcast(grant, NUMBERED(2), PATIENCE);
    assert_eq!(to, BTreeSet::from([c.me()]));
    let mut d = bench.node("host3");
    d.join(4);
    let to = a.broadcast(grant, NUMBERED(3), PATIENCE);
    assert_eq!(to, BTreeSet::from([c.me(), d.me()]));
    let members = a.seen.iter().filter_map(|(_, event)| match event {
        Event::Done(epoch, others) => Some((*epoch, others.clone())),
        _ => None,
    });
    let members: Vec<_> = members.collect();
    assert!(
        members.windows(2).all(|two| two[0].0 < two[1].0),
        "{members:?}"
    );
    assert_eq!(members.last().expect("some").1, to);
}

fn slots_and_lives(bench: &Bench) {
    let [mut a, mut b, c]: [Node; 3] = bench.members(3);
    let mut lives: Vec<Peer> = [&a, &b, &c].map(|node| node.me()).to_vec();
    let dead = c.me();
    drop(c);
    a.down(dead);
    // Its slot is nobody's until it was recovered.
    let full = umd_core::cluster::JoinRefusal::Full { capacity: 3 };
    assert_eq!(bench.node("d").refused(3, 1), full);
    recover(&mut a, dead, false);
    b.until("the recovery's end", |event| {
        matches!(event, Event::RecoveryEnded { .. }).then_some(())
    });
    let mut d = bench.node("d");
    let session = d.join(3);
    assert_eq!(session.me.slot, dead.slot);
    assert_eq!(session.unrecovered, []);
    lives.push(d.me());
    d.leave(Leave::Clean);
    let mut e = bench.node("e");
    assert_eq!(
        e.join(3).me.slot,
        dead.slot,
        "who leaves clean leaves it free"
    );
    lives.push(e.me());
    let different: BTreeSet<_> = lives.iter().map(|peer| peer.incarnation).collect();
    assert_eq!(different.len(), lives.len(), "{lives:?}");
}

fn recover(node: &mut Node, dead: Peer, bits: bool) {
    let kind = ProofKind::Confirmed;
    node.say(Command::RecordFence(FenceProof { peer: dead, kind }));
    node.hears(&Event::Fenced(FenceProof { peer: dead, kind }));
    node.say(Command::BeginRecovery(dead));
    node.hears(&Event::RecoveryGranted(dead));
    let (peer, done) = (dead, true);
    node.say(Command::EndRecovery { peer, done, bits });
    let by = node.me().slot;
    node.hears(&Event::RecoveryEnded { peer, by, bits });
}

fn deaths_are_remembered(bench: &Bench) {
    let [mut a, b]: [Node; 2] = bench.members(4);
    let proven = b.me();
    drop(b);
    a.down(proven);
    let kind = ProofKind::Storage;
    let proof = FenceProof { peer: proven, kind };
    a.say(Command::RecordFence(proof));
    a.hears(&Event::Fenced(proof));
    let unproven = a.me();
    drop(a); // Nobody is left who could notice.
    std::thread::sleep(bench.session() * 2);
    let mut c = bench.node("c");
    let session = c.join(4);
    let found = session.unrecovered.iter().map(|one| (one.peer, one.fenced));
    let found: BTreeSet<_> = found.collect();
    assert_eq!(
        found,
        BTreeSet::from([(unproven, None), (proven, Some(proof))])
    );
    assert_eq!(session.me.slot, NodeSlot(2));
    assert_eq!(
        c.engine.about(unproven).expect("known").host.as_deref(),
        Some("host0")
    );
}

/// Whoever lives, and what was the end of another: on the same clock.
fn ended_before(ended: &mut Node, others: &mut Node) {
    let peer = ended.me();
    let heard = others.down(peer);
    ended.drain();
    let valid = ended.valid_until();
    assert!(
        valid < heard,
        "it believed until {valid:?}, others heard at {heard:?}"
    );
    ended.engine.pause(false);
    let first = ended.step(PATIENCE);
    assert_eq!(first, Some(Event::Lost), "nothing else is told first");
    ended.never("told behind its end", bench_rest(), |_| true);
    let lost = ended.seen.last().expect("it was told").1.clone();
    assert_eq!(lost, Event::Lost);
}

fn bench_rest() -> Duration {
    Duration::from_millis(200)
}

fn paused(bench: &Bench) {
    let [mut a, mut b]: [Node; 2] = bench.members(4);
    // It is renewed for as long as it lives.
    let first = b.valid_until();
    while b.engine.now() <= first {
        assert!(b.step(PATIENCE).is_some(), "renewed");
    }
    assert!(b.valid_until() > first);
    b.engine.pause(true);
    b.drain();
    let grant = a.acquire(Right::Token);
    a.broadcast(grant, NUMBERED(1), PATIENCE); // It must not hear of it any more.
    ended_before(&mut b, &mut a);
}

fn cut_off(bench: &Bench) {
    let [mut a, mut b]: [Node; 2] = bench.members(4);
    b.engine.cut(true);
    b.hears(&Event::Lost);
    let over = b.engine.now();
    assert!(b.engine.trouble().is_some(), "it says why");
    let heard = a.down(b.me());
    assert!(
        over < heard,
        "it was over at {over:?}, others heard at {heard:?}"
    );
}

fn expelled(bench: &Bench) {
    let [mut a, mut b, mut c]: [Node; 3] = bench.members(4);
    b.engine.pause(true);
    b.drain();
    a.say(Command::Expel(b.me()));
    a.hears(&Event::Prep);
    ended_before(&mut b, &mut a);
    // One that hears of it is over at once.
    a.say(Command::Expel(c.me()));
    c.hears(&Event::Lost);
    let over = c.engine.now();
    assert!(over < a.down(c.me()));
    assert_eq!(
        a.seen
            .iter()
            .filter(|(_, e)| matches!(e, Event::Down(_)))
            .count(),
        2
    );
}

fn grants_grow(bench: &Bench) {
    let mut nodes: [Node; 3] = bench.members(4);
    for right in [Right::Token, Right::Resync] {
        let first = nodes[0].acquire(right);
        nodes[1].say(Command::Acquire(right));
        nodes[1].never("granted twice", bench_rest(), |event| {
            matches!(event, Event::Granted(..))
        });
        nodes[2].say(Command::Acquire(right));
        let mut numbers = vec![first];
        for at in 0..2 {
            let grant = *numbers.last().expect("some");
            nodes[at].say(Command::Release(right, grant));
            numbers.push(nodes[at + 1].granted(right));
        }
        assert!(numbers.windows(2).all(|two| two[0] < two[1]), "{numbers:?}");
        // Released by who has it not any more: nothing happens.
        nodes[0].say(Command::Release(right, numbers[0]));
        nodes[1].say(Command::Acquire(right));
        nodes[1].never("granted twice", bench_rest(), |event| {
            matches!(event, Event::Granted(..))
        });
        nodes[2].say(Command::Release(right, numbers[2]));
        let last = nodes[1].granted(right);
        assert!(last > numbers[2]);
        nodes[1].say(Command::Release(right, last));
    }
}

fn dead_holder(bench: &Bench) {
    let [mut a, mut b, mut c]: [Node; 3] = bench.members(4);
    let held = c.acquire(Right::Token);
    a.say(Command::Acquire(Right::Token));
    let dead = c.me();
    c.engine.pause(true);
    a.down(dead);
    let grant = a.granted(Right::Token);
    assert!(grant > held);
    // What it still sends is not sent.
    c.say(Command::Broadcast {
        grant: held,
        message: NUMBERED(1),
        deadline: c.deadline(PATIENCE),
    });
    c.engine.pause(false);
    c.hears(&Event::Lost);
    // Neither is what is sent under an old number, by who has a newer one or none.
    for (node, number) in [(&mut a, held), (&mut b, grant)] {
        node.say(Command::Broadcast {
            grant: number,
            message: NUMBERED(2),
            deadline: node.deadline(PATIENCE),
        });
    }
    let to = a.broadcast(grant, NUMBERED(3), PATIENCE);
    assert_eq!(to, BTreeSet::from([b.me()]));
    let (_, first) = b.delivered();
    assert_eq!(first, NUMBERED(3), "what was sent under an old number");
    let places = a
        .seen
        .iter()
        .chain(&b.seen)
        .filter(|(_, event)| matches!(event, Event::Ordered(_)));
    assert_eq!(places.count(), 1);
}

fn cancel(bench: &Bench) {
    let [mut a, mut b]: [Node; 2] = bench.members(4);
    let grant = a.acquire(Right::Resync);
    b.say(Command::Acquire(Right::Resync));
    b.say(Command::Cancel(Right::Resync));
    b.hears(&Event::Cancelled(Right::Resync));
    a.say(Command::Release(Right::Resync, grant));
    let again = a.acquire(Right::Resync);
    assert!(again > grant);
    b.never("granted after a cancel", bench_rest(), |event| {
        matches!(event, Event::Granted(..))
    });
    // Granted came first: there is nothing to cancel.
    a.say(Command::Cancel(Right::Resync));
    a.never("cancelled what it has", bench_rest(), |event| {
        matches!(event, Event::Cancelled(_))
    });
}

fn no_silence(bench: &Bench) {
    let [mut a, mut b, c]: [Node; 3] = bench.members(4);
    let grant = a.acquire(Right::Token);
    let cannot = AckStatus::Cannot(Cannot::SeeDisk);
    b.answers = false;
    a.broadcast(grant, NUMBERED(1), PATIENCE);
    let (id, _) = b.delivered();
    b.say(Command::Ack(id, cannot));
    assert_eq!(a.answer_of(b.me().slot), Answered::Acked(cannot));
    // What nobody knows is answered by the engine.
    let deadline = a.deadline(PATIENCE);
    a.engine.broadcast_bytes(grant.0, &[99, 99], deadline);
    a.ordered();
    let unknown = Answered::Acked(AckStatus::Cannot(Cannot::Understand));
    assert_eq!(a.answer_of(b.me().slot), unknown);
    // One says nothing, one dies, and one leaves.
    let mut d = bench.node("d");
    d.join(4);
    d.answers = false;
    c.engine.pause(true);
    let to = a.broadcast(grant, NUMBERED(2), bench.session() / 2);
    assert_eq!(to.len(), 3);
    d.delivered();
    d.leave(Leave::Dirty);
    assert_eq!(a.gone(d.me()), Leave::Dirty);
    assert_eq!(a.answer_of(b.me().slot), Answered::TimedOut);
    a.say(Command::Expel(b.me()));
    a.down(b.me());
    a.drain();
    let down = a
        .seen
        .iter()
        .any(|(_, event)| *event == Event::Down(c.me()));
    if !down {
        a.down(c.me());
    }
    let late = a.seen.iter().filter(|(_, event)| {
        matches!(event, Event::Answered(slot, Answered::TimedOut) if *slot == d.me().slot)
    });
    assert_eq!(late.count(), 0, "who has gone is not late");
}

fn values(bench: &Bench) {
    let [mut a, mut b]: [Node; 2] = bench.members(4);
    let value = |from| SlotValue {
        window: Window::new(from, from + 8),
        owes_resync: true,
        shown_sectors: Some(77),
    };
    a.say(Command::SetValue(value(0)));
    a.say(Command::SetValue(value(8)));
    b.say(Command::SetValue(SlotValue::default()));
    // A right that was granted behind it says that it is there.
    for node in [&mut a, &mut b] {
        let grant = node.acquire(Right::Token);
        node.say(Command::Release(Right::Token, grant));
    }
    let session = bench.node("c").join(4);
    assert_eq!(session.peers, BTreeSet::from([a.me(), b.me()]));
    assert_eq!(session.values.get(&a.me().slot), Some(&value(8)));
    assert_eq!(
        session.values.get(&b.me().slot),
        Some(&SlotValue::default())
    );
}

fn proof(bench: &Bench) {
    let [mut a, mut b, mut c, d]: [Node; 4] = bench.members(4);
    let dead = d.me();
    let granted = |event: &Event| matches!(event, Event::RecoveryGranted(_));
    a.say(Command::BeginRecovery(dead));
    a.never("who lives is not recovered", bench_rest(), granted);
    drop(d);
    for node in [&mut a, &mut b, &mut c] {
        node.down(dead);
        node.say(Command::BeginRecovery(dead));
        node.never("a recovery without proof", bench_rest(), granted);
    }
    let kind = ProofKind::Command;
    let proof = FenceProof { peer: dead, kind };
    for node in [&mut b, &mut a] {
        node.say(Command::RecordFence(proof));
    }
    for node in [&mut a, &mut b, &mut c] {
        node.hears(&Event::Fenced(proof));
    }
    b.say(Command::BeginRecovery(dead));
    b.hears(&Event::RecoveryGranted(dead));
    a.say(Command::BeginRecovery(dead));
    a.never("two who recover", bench_rest(), granted);
    c.say(Command::BeginRecovery(dead));
    c.never("two who recover", bench_rest(), granted);
    // Who could not do it makes room for the next, and so does who dies.
    let end = |done| Command::EndRecovery {
        peer: dead,
        done,
        bits: true,
    };
    b.say(end(false));
    a.hears(&Event::RecoveryGranted(dead));
    let taker = a.me();
    drop(a);
    c.down(taker);
    c.hears(&Event::RecoveryGranted(dead));
    b.say(end(true)); // It has it not any more.
    b.never("ended by who has it not", bench_rest(), |event| {
        matches!(event, Event::RecoveryEnded { .. })
    });
    c.say(end(true));
    let (peer, by, bits) = (dead, c.me().slot, true);
    for node in [&mut b, &mut c] {
        node.hears(&Event::RecoveryEnded { peer, by, bits });
    }
    let fenced = b
        .seen
        .iter()
        .filter(|(_, e)| *e == Event::Fenced(proof))
        .count();
    assert_eq!(fenced, 1, "a proof is recorded once");
}

fn leaving(bench: &Bench) {
    // Before anything was answered.
    let mut hasty = bench.node("hasty");
    hasty.say(Command::Join {
        capacity: 4,
        version: 1,
    });
    hasty.say(Command::Leave(Leave::Clean));
    hasty.until("its end", |event| {
        matches!(event, Event::Left | Event::Lost).then_some(())
    });
    let [mut a, mut b, mut c]: [Node; 3] = bench.members(3);
    // What others wait for of it is not waited for any more.
    b.answers = false;
    let grant = a.acquire(Right::Token);
    a.broadcast(grant, NUMBERED(1), PATIENCE);
    let held = b.acquire(Right::Resync);
    c.say(Command::Acquire(Right::Resync));
    b.leave(Leave::Clean);
    assert_eq!(a.gone(b.me()), Leave::Clean);
    assert!(c.granted(Right::Resync) > held);
    // With bits left, its slot waits for somebody; there is no doubt that it writes no more.
    let left = c.me();
    c.leave(Leave::Dirty);
    assert_eq!(a.gone(left), Leave::Dirty);
    let mut d = bench.node("d");
    let session = d.join(3);
    assert_eq!(session.me.slot, b.me().slot);
    let kind = ProofKind::LeftByItself;
    let proof = FenceProof { peer: left, kind };
    assert_eq!(session.unrecovered.len(), 1);
    assert_eq!(session.unrecovered[0].fenced, Some(proof));
    a.say(Command::BeginRecovery(left));
    a.hears(&Event::RecoveryGranted(left));
    // Nobody listens: it is over in time all the same.
    d.engine.cut(true);
    d.drain();
    d.say(Command::Leave(Leave::Clean));
    d.hears(&Event::Lost);
    let late = d.engine.now() - d.valid_until();
    assert!(
        late.0 < 2_000_000_000,
        "{late:?} behind the end of its session"
    );
}
