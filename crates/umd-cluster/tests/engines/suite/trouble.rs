//! What is not as it should be: bad input, long logs, a past that nobody knows.

use std::time::Duration;

use umd_cluster::Past;
use umd_core::cluster::{
    AckStatus, Answered, JoinRefusal, Leave, ProofKind, Right, ServiceCommand as Command,
    ServiceEvent as Event, SlotValue,
};

use super::cases::NUMBERED;
use super::node::PATIENCE;
use super::{Bench, Case, Node};

pub const CASES: [Case; 6] = [
    ("a full table, another cluster, an older node", refusals),
    ("a service that cannot be reached", unreachable),
    ("what is said twice, late or out of turn", twice_and_late),
    ("a past that nobody remembers", unknown_past),
    ("a log that is trimmed", trimmed),
    ("a short cut is no death", short_cut),
];

fn refusals(bench: &Bench) {
    let mut a = bench.node("a");
    a.say(Command::Join {
        capacity: 1,
        version: 2,
    });
    let session = a.until("a session", |event| match event {
        Event::Joined(session) => Some(session.clone()),
        _ => None,
    });
    assert_eq!(session.version, 2);
    let full = JoinRefusal::Full { capacity: 1 };
    assert_eq!(bench.node("b").refused(1, 2), full);
    let older = JoinRefusal::Version { theirs: 2, ours: 1 };
    assert_eq!(bench.node("b").refused(2, 1), older);
    let mut setup = bench.setup("b");
    setup.cluster = "green".into();
    assert_eq!(
        bench.node_as(setup).refused(2, 2),
        JoinRefusal::WrongCluster
    );
    // Another array knows nothing of all that.
    let session = Bench::new(bench.harness).node("b").join(1);
    assert!(session.peers.is_empty());
    // Refusals leave nothing behind, and a newer node speaks as the others do.
    let mut b = bench.node("b");
    b.say(Command::Join {
        capacity: 2,
        version: 3,
    });
    let session = b.until("a session", |event| match event {
        Event::Joined(session) => Some(session.clone()),
        _ => None,
    });
    assert_eq!((session.version, session.me.slot.0), (2, 1));
    assert_eq!(session.unrecovered, []);
}

fn unreachable(bench: &Bench) {
    let mut setup = bench.setup("a");
    setup.join_within = Duration::from_millis(300);
    let mut a = bench.node_as(setup.clone());
    a.engine.cut(true);
    assert_eq!(a.refused(2, 1), JoinRefusal::Unreachable);
    assert!(a.engine.trouble().is_some(), "it says why");
    // Who did not get through may leave, and who tries for longer may get through.
    let mut b = bench.node_as(setup);
    b.engine.cut(true);
    b.say(Command::Join {
        capacity: 2,
        version: 1,
    });
    b.say(Command::Leave(Leave::Clean));
    b.until("its end", |event| {
        matches!(event, Event::Left | Event::Lost).then_some(())
    });
    let mut c = bench.node("c");
    c.engine.cut(true);
    c.say(Command::Join {
        capacity: 2,
        version: 1,
    });
    std::thread::sleep(Duration::from_millis(300));
    c.engine.cut(false);
    c.until("a session", |event| {
        matches!(event, Event::Joined(_)).then_some(())
    });
}

fn twice_and_late(bench: &Bench) {
    let [mut a, mut b]: [Node; 2] = bench.members(4);
    b.answers = false;
    let grant = a.acquire(Right::Token);
    a.broadcast(grant, NUMBERED(1), bench.session() / 4);
    let (first, _) = b.delivered();
    assert_eq!(a.answer_of(b.me().slot), Answered::TimedOut);
    a.broadcast(grant, NUMBERED(2), PATIENCE);
    let (second, _) = b.delivered();
    let cannot = AckStatus::Cannot(umd_core::cluster::Cannot::Work);
    for (id, status) in [
        (first, cannot), // Late: an answer to what was given up.
        (second, AckStatus::Done),
        (second, cannot),
        (umd_core::cluster::DeliveryId(u64::MAX), cannot),
    ] {
        b.say(Command::Ack(id, status));
    }
    assert_eq!(a.answer_of(b.me().slot), Answered::Acked(AckStatus::Done));
    a.never("answered twice", Duration::from_millis(300), |event| {
        matches!(event, Event::Answered(..))
    });
    // Out of turn, all of it: nothing comes of it.
    let (peer, done, bits) = (b.me(), true, true);
    b.say(Command::EndRecovery { peer, done, bits });
    b.say(Command::BeginRecovery(peer));
    b.say(Command::Release(Right::Token, grant));
    b.say(Command::Cancel(Right::Resync));
    b.say(Command::Join {
        capacity: 9,
        version: 9,
    });
    let kind = ProofKind::Confirmed;
    b.say(Command::RecordFence(umd_core::cluster::FenceProof {
        peer,
        kind,
    }));
    b.never(
        "something came of it",
        Duration::from_millis(300),
        |event| !matches!(event, Event::Renewed(_) | Event::Done(..)),
    );
    // Once it is over nothing is said any more.
    b.leave(Leave::Clean);
    b.say(Command::Acquire(Right::Token));
    b.say(Command::Leave(Leave::Clean));
    b.never("told behind its end", Duration::from_millis(200), |_| true);
}

fn unknown_past(bench: &Bench) {
    let mut nobody = Bench::new(bench.harness);
    nobody.past = Past::Unknown { fenced: None };
    let mut a = nobody.node("a");
    let session = a.join(3);
    let found: Vec<_> = session
        .unrecovered
        .iter()
        .map(|one| one.peer.slot.0)
        .collect();
    assert_eq!(found, [1, 2]);
    assert!(session.unrecovered.iter().all(|one| one.fenced.is_none()));
    let about = a.engine.about(session.unrecovered[0].peer).expect("known");
    assert_eq!(about.host, None);
    // Who comes next finds the same, and no second past.
    let again = nobody.node("b").refused(3, 1);
    assert_eq!(again, JoinRefusal::Full { capacity: 3 });
    let mut certain = Bench::new(bench.harness);
    let kind = ProofKind::Confirmed;
    certain.past = Past::Unknown { fenced: Some(kind) };
    let session = certain.node("a").join(2);
    let proof = session.unrecovered[0].fenced.expect("it was said");
    assert_eq!(proof.kind, kind);
}

fn trimmed(bench: &Bench) {
    let node = |host: &str| {
        let mut setup = bench.setup(host);
        setup.keep_entries = 20;
        bench.node_as(setup)
    };
    let (mut a, mut b) = (node("a"), node("b"));
    a.join(4);
    b.join(4);
    let value = |sectors| SlotValue {
        window: None,
        owes_resync: false,
        shown_sectors: Some(sectors),
    };
    // Longer than two sessions, so that two snapshots are made and the first entries are gone.
    let begin = std::time::Instant::now();
    let mut number = 0;
    let mut last = None;
    while begin.elapsed() < bench.session() * 5 / 2 {
        let grant = a.acquire(Right::Token);
        assert!(Some(grant) > last, "{grant:?} after {last:?}");
        last = Some(grant);
        number += 1;
        a.say(Command::SetValue(value(number)));
        a.broadcast(grant, NUMBERED(1), PATIENCE);
        b.delivered();
        a.answer_of(b.me().slot);
        a.say(Command::Release(Right::Token, grant));
        b.drain();
    }
    let mut c = node("c");
    let session = c.join(4);
    assert_eq!(session.values[&a.me().slot], value(number));
    assert_eq!(session.peers.len(), 2);
    assert!(Some(c.acquire(Right::Token)) > last);
}

fn short_cut(bench: &Bench) {
    let [mut a, mut b]: [Node; 2] = bench.members(4);
    for _ in 0..3 {
        b.engine.cut(true);
        let grant = a.acquire(Right::Token);
        a.broadcast(grant, NUMBERED(1), PATIENCE);
        std::thread::sleep(bench.session() / 4);
        b.engine.cut(false);
        b.delivered();
        let answer = a.answer_of(b.me().slot);
        assert_eq!(answer, Answered::Acked(AckStatus::Done));
        a.say(Command::Release(Right::Token, grant));
        let renewed = b.valid_until();
        while b.valid_until() == renewed {
            assert!(b.step(PATIENCE).is_some());
        }
    }
    a.drain();
    let dead = a
        .seen
        .iter()
        .any(|(_, event)| matches!(event, Event::Down(_)));
    assert!(!dead, "{:?}", a.seen);
}
