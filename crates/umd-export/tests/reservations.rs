//! Clients with keys at a door whose export is reserved: what a preempted one still had under way
//! has ended before anybody is told that it writes no more.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{Running, export};
use umd_export::nbd::client::{Asking, Client, NotMet, Operation};
use umd_export::nbd::{Address, Demand, Refused};

const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(30);

fn server() -> Running {
    Running::unix(vec![export("r5", 1 << 20)])
}

fn client(server: &Running, name: &str) -> Client {
    Client::connect(&server.address, name).unwrap()
}

#[test]
fn only_who_is_registered_writes_and_everybody_reads() {
    let server = server();
    let [mut a, mut b, mut nobody] =
        ["r5@key=a", "r5@key=B", "r5"].map(|name| client(&server, name));
    nobody.pwrite(0, &[1; 512]).unwrap();
    for key in [0xa, 0xb] {
        server.reservations.register(key).unwrap();
    }
    server.reservations.reserve(0xa, SOON).unwrap();
    a.pwrite(0, &[2; 512]).unwrap();
    b.pwrite(512, &[3; 512]).unwrap();
    let refused = nobody.pwrite(0, &[4; 1024]).unwrap_err().to_string();
    assert!(refused.contains("reserved"), "{refused}");
    assert!(nobody.trim(0, 4096).is_err(), "a trim writes");
    assert!(nobody.write_zeroes(0, 4096, false).is_err(), "so do zeroes");
    nobody.flush().unwrap();
    server.reservations.preempt_abort(0xa, 0xb, SOON).unwrap();
    assert!(b.pwrite(512, &[5; 512]).is_err());
    // Neither does it help to come again.
    assert!(client(&server, "r5@key=b").pwrite(512, &[6; 512]).is_err());
    for mut reader in [a, b, nobody] {
        let bytes = reader.pread(0, 1024).unwrap();
        assert!(bytes[..512] == [2; 512] && bytes[512..] == [3; 512]);
    }
}

#[test]
fn a_proof_waits_for_what_is_under_way_even_when_its_client_is_gone() {
    let server = server();
    for key in [1, 2] {
        server.reservations.register(key).unwrap();
    }
    server.reservations.reserve(1, SOON).unwrap();
    let mut paused = client(&server, "r5@key=2");
    server.knobs.hold.store(true, Ordering::SeqCst);
    let (offset, data, fua) = (0, &[7; 4096], false);
    let write = Operation::Write { offset, data, fua };
    paused.start(write).unwrap();
    paused.submit().unwrap();
    let under_way = |server: &Running| server.knobs.held_most.load(Ordering::SeqCst) == 1;
    server.until("a write under way", under_way);
    drop(paused);
    let gone = |server: &Running| server.knobs.connections.load(Ordering::SeqCst) == 0;
    server.until("a client that is gone", gone);
    let refused = server.reservations.preempt_abort(1, 2, SOON);
    assert_eq!(refused, Err(Refused::Writing(1)));
    let fence = {
        let reservations = server.reservations.clone();
        std::thread::spawn(move || reservations.preempt_abort(1, 2, LATE))
    };
    std::thread::sleep(Duration::from_millis(200));
    assert!(!fence.is_finished(), "its write has not landed");
    server.knobs.hold.store(false, Ordering::SeqCst);
    assert_eq!(fence.join().unwrap(), Ok(()));
    // What landed, landed before the proof.
    let bytes = client(&server, "r5").pread(0, 4096).unwrap();
    assert_eq!(bytes, [7; 4096]);
}

/// Asks the table over the wire, for so long.
fn ask(server: &Running, export: &str, demand: Demand, patience: Duration) -> Result<(), NotMet> {
    let asking = Asking {
        address: &server.address,
        export,
        tls: None,
        patience,
    };
    asking.demand(demand)
}

#[test]
fn a_host_registers_reserves_and_preempts_over_the_wire() {
    let server = server();
    let ask = |demand| ask(&server, "r5", demand, LATE);
    let (key, victim) = (0xa, 0xb);
    let early = ask(Demand::Reserve(key)).unwrap_err();
    assert!(matches!(early, NotMet::Refused(_)), "{early}");
    for demand in [
        Demand::Register(key),
        Demand::Register(victim),
        Demand::Reserve(key),
    ] {
        ask(demand).unwrap();
    }
    let [mut own, mut dead] = ["r5@key=a", "r5@key=b"].map(|name| client(&server, name));
    dead.pwrite(0, &[1; 512]).unwrap();
    let stranger = ask(Demand::PreemptAbort { key: 9, victim }).unwrap_err();
    assert!(
        stranger.to_string().contains("key 0x9 is not registered"),
        "{stranger}"
    );
    dead.pwrite(0, &[2; 512]).unwrap();
    ask(Demand::PreemptAbort { key, victim }).unwrap();
    assert!(dead.pwrite(0, &[3; 512]).is_err());
    own.pwrite(0, &[4; 512]).unwrap();
    let back = ask(Demand::Register(victim)).unwrap_err();
    assert!(matches!(back, NotMet::Refused(_)), "{back}");
    let asking = Asking {
        address: &server.address,
        export: "r5",
        tls: None,
        patience: LATE,
    };
    let state = asking.reservations().unwrap();
    assert!(state.reserved && state.registered == [key].into());
    let itself = ask(Demand::PreemptAbort { key, victim: key }).unwrap_err();
    assert!(
        itself.to_string().contains("does not preempt itself"),
        "{itself}"
    );
    ask(Demand::Unregister(key)).unwrap();
    assert!(!server.reservations.state().reserved);
}

#[test]
fn an_unknown_export_and_a_server_without_a_table_are_told_apart() {
    let server = server();
    let unknown = ask(&server, "r6", Demand::Register(1), LATE).unwrap_err();
    assert!(
        unknown.to_string().contains("no export has this name"),
        "{unknown}"
    );
    // What a client says of keys that are none: no table is asked.
    for query in ["register=0", "register=x", "preempt-abort=1", "steal=1"] {
        let refused = raw(&server, query);
        assert_eq!(refused, Some(0x8000_0003), "{query}");
    }
    assert_eq!(raw(&server, "register=5"), None);
    assert_eq!(server.reservations.state().registered, [5].into());
}

/// What the server answers to a query in these words: an error, or none.
fn raw(server: &Running, words: &str) -> Option<u32> {
    use std::io::{Read, Write};
    let Address::Unix(path) = &server.address else {
        panic!("it is on a Unix socket");
    };
    let option = |number: u32, data: &[u8]| {
        let length = (data.len() as u32).to_be_bytes();
        [b"IHAVEOPT", &number.to_be_bytes()[..], &length, data].concat()
    };
    let query = format!("x-umd-reservation:{words}");
    let data = [
        &2u32.to_be_bytes()[..],
        b"r5",
        &1u32.to_be_bytes(),
        &(query.len() as u32).to_be_bytes(),
        query.as_bytes(),
    ];
    let mut greeting = [0; 18];
    let mut socket = std::os::unix::net::UnixStream::connect(path).unwrap();
    socket.read_exact(&mut greeting).unwrap();
    socket.write_all(&3u32.to_be_bytes()).unwrap();
    let mut reply = |bytes: &[u8]| {
        socket.write_all(bytes).unwrap();
        let mut header = [0; 20];
        socket.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut rest = vec![0; word(16) as usize];
        socket.read_exact(&mut rest).unwrap();
        word(12)
    };
    assert_eq!(reply(&option(8, &[])), 1, "structured replies");
    let kind = reply(&option(10, &data.concat()));
    (kind & 1 << 31 != 0).then_some(kind)
}

#[test]
fn a_proof_over_the_wire_waits_for_what_is_under_way() {
    let server = server();
    for demand in [Demand::Register(1), Demand::Register(2), Demand::Reserve(1)] {
        ask(&server, "r5", demand, LATE).unwrap();
    }
    let mut paused = client(&server, "r5@key=2");
    server.knobs.hold.store(true, Ordering::SeqCst);
    let (offset, data, fua) = (0, &[7; 4096], false);
    paused
        .start(Operation::Write { offset, data, fua })
        .unwrap();
    paused.submit().unwrap();
    let under_way = |server: &Running| server.knobs.held_most.load(Ordering::SeqCst) == 1;
    server.until("a write under way", under_way);
    let fence = Demand::PreemptAbort { key: 1, victim: 2 };
    let early = ask(&server, "r5", fence, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(early, NotMet::Client(_)), "{early}");
    server.knobs.hold.store(false, Ordering::SeqCst);
    ask(&server, "r5", fence, LATE).unwrap();
    assert_eq!(client(&server, "r5").pread(0, 4096).unwrap(), [7; 4096]);
}
