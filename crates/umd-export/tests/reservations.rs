//! Clients with keys at a door whose export is reserved: what a preempted one still had under way
//! has ended before anybody is told that it writes no more.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{Running, export};
use umd_export::nbd::Refused;
use umd_export::nbd::client::{Client, Operation};

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
