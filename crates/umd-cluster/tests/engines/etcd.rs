//! The engine for several hosts against the suite that every engine has to pass, with etcd of one
//! member and of three; and what only etcd has: servers that die and come back.
//!
//! etcd is taken from the folder of oracles (`cargo xtask oracle`) or from `PATH`. Without it these
//! tests say loudly that they are skipped, and fail where `CI` is `true`.

use std::sync::Arc;
use std::time::Duration;

use crate::server::{Gate, Servers, or_skip};
use crate::suite::node::PATIENCE;
use crate::suite::{Bench, Harness, Held, Node, Subject};
use umd_cluster::etcd::Etcd;
use umd_cluster::{LogEngine, Setup};
use umd_core::cluster::{
    AckStatus, Answered, Right, ServiceCommand as Command, ServiceEvent as Event, SlotValue,
};

/// Nodes of a cluster of etcd servers, each behind gates of its own.
struct Hosts<'s> {
    servers: &'s Servers,
    session: Duration,
}

impl Harness for Hosts<'_> {
    fn session(&self) -> Duration {
        self.session
    }

    fn engine(&self, setup: Setup) -> Box<dyn Subject> {
        let addresses = self.servers.addresses();
        let gates: Vec<Gate> = addresses.into_iter().map(Gate::open).collect();
        let gates = Arc::new(gates);
        let urls = gates.iter().map(|gate| format!("http://{}", gate.address));
        let place = umd_cluster::etcd::Servers {
            urls: urls.collect(),
            ..Default::default()
        };
        let etcd = Etcd::new(&place, setup.array, setup.session).unwrap();
        Box::new(Held {
            engine: LogEngine::new(etcd, setup, Arc::new(|| ())),
            cut: Box::new(move |cut| gates.iter().for_each(|gate| gate.cut(cut))),
        })
    }
}

const SESSION: Duration = Duration::from_secs(3);

#[test]
fn etcd_with_one_member_keeps_the_promises() {
    let Some(servers) = or_skip("etcd_with_one_member_keeps_the_promises", 1) else {
        return;
    };
    let session = SESSION;
    crate::suite::run(&Hosts {
        servers: &servers,
        session,
    });
}

#[test]
fn etcd_with_three_members_keeps_the_promises() {
    let Some(servers) = or_skip("etcd_with_three_members_keeps_the_promises", 3) else {
        return;
    };
    let session = SESSION;
    crate::suite::run(&Hosts {
        servers: &servers,
        session,
    });
}

fn value(sectors: u64) -> SlotValue {
    SlotValue {
        window: None,
        owes_resync: false,
        shown_sectors: Some(sectors),
    }
}

/// Everybody hears what the first says.
fn is_well(nodes: &mut [Node]) {
    let (first, others) = nodes.split_first_mut().unwrap();
    let grant = first.acquire(Right::Token);
    first.broadcast(grant, crate::suite::cases::NUMBERED(7), PATIENCE);
    for node in others.iter_mut() {
        node.delivered();
    }
    for node in others.iter() {
        let done = Answered::Acked(AckStatus::Done);
        assert_eq!(first.answer_of(node.me().slot), done);
    }
    first.say(Command::Release(Right::Token, grant));
    for node in nodes {
        node.drain();
        let dead = node
            .seen
            .iter()
            .any(|(_, event)| matches!(event, Event::Down(_)));
        assert!(!dead, "{:?}", node.seen);
    }
}

#[test]
fn a_server_that_comes_back_in_time_is_not_missed() {
    let Some(mut servers) = or_skip("a_server_that_comes_back_in_time_is_not_missed", 1) else {
        return;
    };
    let session = Duration::from_secs(10);
    let mut nodes: [Node; 2] = {
        let harness = Hosts {
            servers: &servers,
            session,
        };
        Bench::new(&harness).members(4)
    };
    is_well(&mut nodes);
    servers.kill(0);
    // Said while nobody listens, and said all the same.
    nodes[1].say(Command::SetValue(value(5)));
    nodes[1].say(Command::Acquire(Right::Resync));
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        nodes[1].engine.trouble().is_some(),
        "it says what is missing"
    );
    servers.start(0);
    nodes[1].granted(Right::Resync);
    is_well(&mut nodes);
}

#[test]
fn two_of_three_servers_are_enough_and_one_is_not() {
    let Some(mut servers) = or_skip("two_of_three_servers_are_enough_and_one_is_not", 3) else {
        return;
    };
    let session = Duration::from_secs(6);
    let mut nodes: [Node; 2] = {
        let harness = Hosts {
            servers: &servers,
            session,
        };
        Bench::new(&harness).members(4)
    };
    for server in 0..3 {
        servers.kill(server);
        is_well(&mut nodes);
        servers.start(server);
        servers.wait_until_well();
    }
    // Without a majority nobody is told that anybody is a member.
    servers.kill(0);
    servers.kill(1);
    for node in &mut nodes {
        node.hears(&Event::Lost);
        assert!(node.engine.now() + umd_core::value::Span::secs(1) > node.valid_until());
    }
}

#[test]
fn history_that_was_compacted_is_read_again() {
    let Some(servers) = or_skip("history_that_was_compacted_is_read_again", 1) else {
        return;
    };
    let harness = Hosts {
        servers: &servers,
        session: Duration::from_secs(10),
    };
    let bench = Bench::new(&harness);
    let mut nodes: [Node; 2] = bench.members(4);
    nodes[1].engine.cut(true);
    nodes[0].say(Command::SetValue(value(9)));
    let grant = nodes[0].acquire(Right::Resync);
    nodes[1].say(Command::Acquire(Right::Resync));
    nodes[0].say(Command::Release(Right::Resync, grant));
    let grant = nodes[0].acquire(Right::Token);
    nodes[0].say(Command::Release(Right::Token, grant));
    servers.compact();
    nodes[1].engine.cut(false);
    assert!(nodes[1].granted(Right::Resync) > grant);
    is_well(&mut nodes);
    let session = bench.node("c").join(4);
    assert_eq!(session.values[&nodes[0].me().slot], value(9));
}

#[test]
fn an_etcd_that_was_made_anew_has_no_members() {
    let Some(mut servers) = or_skip("an_etcd_that_was_made_anew_has_no_members", 1) else {
        return;
    };
    let harness_session = Duration::from_secs(10);
    let mut nodes: [Node; 2] = {
        let harness = Hosts {
            servers: &servers,
            session: harness_session,
        };
        Bench::new(&harness).members(4)
    };
    servers.kill(0);
    servers.forget(0);
    servers.start(0);
    for node in &mut nodes {
        let valid = node.valid_until();
        node.hears(&Event::Lost);
        assert!(
            node.engine.now() <= valid.max(node.valid_until()) + umd_core::value::Span::secs(1)
        );
    }
}
