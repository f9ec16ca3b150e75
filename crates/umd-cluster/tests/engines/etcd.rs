//! The engine for several hosts against the suite that every engine has to pass, with etcd of one
//! member and of three; and what only etcd has: servers that die and come back.
//!
//! etcd is taken from the folder of oracles (`cargo xtask oracle`) or from `PATH`. Without it these
//! tests say loudly that they are skipped, and fail where `CI` is `true`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::server::{Gate, Servers, or_skip};
use crate::suite::node::PATIENCE;
use crate::suite::{Bench, Harness, Held, Node, Subject};
use umd_cluster::etcd::Etcd;
use umd_cluster::{Appended, Follow, Ledger, LogEngine, Renewal, Setup, Snapshot};
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

const SESSION: Duration = Duration::from_secs(4);

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
    let place = umd_cluster::etcd::Servers {
        urls: vec![format!("http://{}", servers.addresses()[0])],
        ..Default::default()
    };
    let ledger = Etcd::new(&place, [9; 16], harness_session).unwrap();
    ledger.begin(harness_session).unwrap();
    servers.kill(0);
    servers.forget(0);
    servers.start(0);
    servers.wait_until_well();
    let error = ledger.marks().unwrap_err().to_string();
    assert!(error.starts_with("etcd is not the one it was"), "{error}");
    assert_eq!(ledger.follow(1, harness_session), Ok(Follow::Missed));
    for node in &mut nodes {
        let valid = node.valid_until();
        node.hears(&Event::Lost);
        assert!(
            node.engine.now() <= valid.max(node.valid_until()) + umd_core::value::Span::secs(1)
        );
    }
}

/// A node that reaches servers as it is told to.
fn node(place: &umd_cluster::etcd::Servers, array: u8) -> Node {
    let mut setup = Setup::new([array; 16], "blue", "host");
    setup.past = umd_cluster::Past::New;
    setup.session = Duration::from_secs(5);
    setup.join_within = Duration::from_secs(2);
    let etcd = Etcd::new(place, setup.array, setup.session).unwrap();
    Node::new(Box::new(Held {
        engine: LogEngine::new(etcd, setup, Arc::new(|| ())),
        cut: Box::new(|_| panic!("nobody cuts it")),
    }))
}

#[test]
fn who_has_no_password_is_told_so() {
    let Some(servers) = or_skip("who_has_no_password_is_told_so", 1) else {
        return;
    };
    servers.with_password("sesame");
    let mut place = umd_cluster::etcd::Servers {
        urls: vec![format!("http://{}", servers.addresses()[0])],
        ..Default::default()
    };
    for (user, why) in [
        (None, "user name is empty"),
        (Some(("root", "wrong")), "does not let user root in"),
    ] {
        place.user = user.map(|(name, password)| (name.into(), password.into()));
        let mut stranger = node(&place, 1);
        stranger.refused(2, 1);
        let trouble = stranger.engine.trouble().unwrap();
        assert!(trouble.contains(why), "{trouble}");
    }
    place.user = Some(("root".into(), "sesame".into()));
    let mut nodes = [node(&place, 1), node(&place, 1)];
    for one in &mut nodes {
        one.join(2);
    }
    is_well(&mut nodes);
}

/// An authority of our own.
struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        Authority { pem, issuer }
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        (signed.pem(), key.serialize_pem())
    }
}

#[test]
fn over_tls_both_sides_show_who_they_are() {
    let Some(servers) = or_skip("over_tls_both_sides_show_who_they_are", 1) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.sign("127.0.0.1");
    let files = [
        ("ca", &authority.pem),
        ("cert", &certificate),
        ("key", &key),
    ];
    let files = files.map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let servers = servers.with_tls([&files[0], &files[1], &files[2]]);
    let bytes = |(certificate, key): (String, String)| Some((certificate.into(), key.into()));
    let good = umd_cluster::etcd::Servers {
        urls: vec![format!("https://{}", servers.addresses()[0])],
        ca_pem: authority.pem.clone().into(),
        client_pem: bytes(authority.sign("host")),
        ..Default::default()
    };
    let other = Authority::new();
    for bad in [
        umd_cluster::etcd::Servers {
            client_pem: None,
            ..good.clone()
        },
        umd_cluster::etcd::Servers {
            client_pem: bytes(other.sign("host")),
            ..good.clone()
        },
        umd_cluster::etcd::Servers {
            ca_pem: other.pem.clone().into(),
            ..good.clone()
        },
    ] {
        let mut stranger = node(&bad, 1);
        stranger.refused(2, 1);
        assert!(stranger.engine.trouble().is_some());
    }
    let mut nodes = [node(&good, 1), node(&good, 1)];
    for one in &mut nodes {
        one.join(2);
    }
    is_well(&mut nodes);
}

#[test]
fn a_log_in_etcd_is_as_one_in_memory() {
    let Some(servers) = or_skip("a_log_in_etcd_is_as_one_in_memory", 1) else {
        return;
    };
    let place = umd_cluster::etcd::Servers {
        urls: vec![format!("http://{}", servers.addresses()[0])],
        ..Default::default()
    };
    let memory = umd_cluster::memory::Memory::new();
    ledger_keeps_its_word(|| memory.link());
    let session = Duration::from_secs(10);
    ledger_keeps_its_word(|| Etcd::new(&place, [3; 16], session).unwrap());
}

fn ledger_keeps_its_word<L: Ledger>(link: impl Fn() -> L) {
    let long = Duration::from_secs(60);
    let (a, b) = (link(), link());
    let (one, two) = (a.begin(long).unwrap(), b.begin(long).unwrap());
    assert_eq!(a.marks().unwrap(), BTreeSet::from([one, two]));
    // Once, however often it is said, and only under a mark.
    for _ in 0..2 {
        assert_eq!(b.append(two, 1, "first", &[]), Ok(Appended::Done));
    }
    assert_eq!(a.append(one, 1, "strike", &[two]), Ok(Appended::Done));
    assert_eq!(b.append(two, 2, "late", &[]), Ok(Appended::Ended));
    assert_eq!(b.append(two, 1, "first", &[]), Ok(Appended::Done));
    assert_eq!(b.renew(two), Ok(Renewal::Ended));
    assert_eq!(a.renew(one), Ok(Renewal::Held));
    for number in 2..=250 {
        a.append(one, number, "more", &[]).unwrap();
    }
    let opened = a.open().unwrap();
    let places: Vec<u64> = opened.entries.iter().map(|entry| entry.place).collect();
    assert_eq!(places.len(), 251);
    assert!(places.is_sorted_by(|a, b| a < b));
    assert_eq!(
        [&opened.entries[0].text, &opened.entries[1].text],
        ["first", "strike"]
    );
    // Whoever follows from somewhere is told what lies behind.
    let wait = Duration::from_secs(5);
    let Ok(Follow::Entries { entries, .. }) = link().follow(places[248], wait) else {
        panic!("nothing came");
    };
    assert_eq!(entries, opened.entries[249..249 + entries.len()]);
    // What was trimmed is gone, and who needed it is told so.
    let snapshot = |place, trimmed| Snapshot {
        place,
        trimmed,
        text: "{}".into(),
    };
    let new = snapshot(places[240], places[230]);
    a.trim(None, &new).unwrap();
    a.trim(None, &snapshot(1, 0)).unwrap(); // Somebody else was faster.
    let opened = b.open().unwrap();
    assert_eq!(opened.snapshot, Some(new));
    assert_eq!(opened.entries.len(), 10);
    let newer = snapshot(places[245], places[240]);
    a.trim(Some(places[240]), &newer).unwrap();
    assert_eq!(b.open().unwrap().snapshot, Some(newer));
    assert_eq!(b.open().unwrap().entries.len(), 5);
}
