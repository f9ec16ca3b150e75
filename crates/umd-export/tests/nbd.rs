//! The door as clients meet it: a server on memory, one loop, real sockets, our own client.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use support::{Running, export};
use umd_export::nbd::client::{Answer, Client, ClientError, Completion, Operation, Options, list};
use umd_export::nbd::{Address, REQUEST_BYTES_MAX, REQUESTS_MAX};

const MIB: u64 = 1 << 20;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const HOLE_AND_ZERO: u32 = 3;

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

fn errno(result: Result<impl std::fmt::Debug, ClientError>) -> u32 {
    let error = result.expect_err("the request was to fail");
    error.errno().unwrap_or_else(|| panic!("{error}"))
}

fn every_way_in() -> Vec<Options> {
    let mut all = Vec::new();
    for structured in [false, true] {
        for export_name in [false, true] {
            for no_zeroes in [false, true] {
                let allocation = structured;
                all.push(Options {
                    structured,
                    allocation,
                    export_name,
                    no_zeroes,
                });
            }
        }
    }
    all
}

#[test]
fn what_is_written_is_read() {
    for server in [
        Running::unix(vec![export("r5", 64 * MIB)]),
        Running::tcp(vec![export("r5", 64 * MIB)]),
    ] {
        for (turn, options) in every_way_in().into_iter().enumerate() {
            let mut client = Client::connect_with(&server.address, "r5", options).unwrap();
            assert_eq!(client.size_bytes(), 64 * MIB);
            let large = if turn % 4 == 0 {
                REQUEST_BYTES_MAX as usize
            } else {
                1 << 20
            };
            let places = [
                (0, 512),
                (512, 4096),
                (MIB + 512, 33 << 10),
                (3 * MIB, large),
            ];
            for (offset, len) in places {
                let data = pattern(turn as u64, len);
                client.pwrite(offset, &data).unwrap();
                assert!(
                    client.pread(offset, len as u32).unwrap() == data,
                    "{offset} {len}"
                );
            }
            let end = 64 * MIB - 512;
            client.pwrite_fua(end, &[turn as u8; 512]).unwrap();
            assert_eq!(client.pread(end, 512).unwrap(), [turn as u8; 512]);
            client.flush().unwrap();
            client.disconnect().unwrap();
        }
        assert_eq!(
            server.memory.lock().unwrap().durable,
            16,
            "a FUA and a flush each time"
        );
        server.until("all have left", |s| {
            s.knobs.connections.load(Ordering::Relaxed) == 0
        });
    }
}

#[test]
fn exports_are_described() {
    let mut second = export("r6", 8 * MIB);
    second.read_only = true;
    second.logical_block_bytes = 4096;
    second.preferred_bytes = 3 << 16;
    let server = Running::unix(vec![export("r5", 64 * MIB), second]);
    let exports = list(&server.address).unwrap();
    let expected = [
        ("r5", "67108864 bytes of memory"),
        ("r6", "8388608 bytes of memory"),
    ];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(exports, expected);

    let client = Client::connect(&server.address, "r5").unwrap();
    assert_eq!(client.flags(), 0b1_1110_1101);
    assert_eq!(client.block_sizes(), Some([512, 65536, REQUEST_BYTES_MAX]));
    assert_eq!(
        client.names(),
        (Some("r5"), Some("67108864 bytes of memory"))
    );
    let client = Client::connect(&server.address, "r6").unwrap();
    assert_eq!(client.flags(), 0b1_1000_1111);
    assert_eq!(
        client.block_sizes(),
        Some([4096, 131072, REQUEST_BYTES_MAX])
    );

    let missing = Client::connect(&server.address, "r7").unwrap_err();
    assert!(
        matches!(
            missing,
            ClientError::Option {
                error: 0x8000_0006,
                ..
            }
        ),
        "{missing}"
    );
    let old = Options {
        structured: false,
        allocation: false,
        export_name: true,
        no_zeroes: true,
    };
    let missing = Client::connect_with(&server.address, "r7", old).unwrap_err();
    assert!(matches!(missing, ClientError::Io(_)), "{missing}");
}

#[test]
fn zeroes_holes_and_their_status() {
    let server = Running::unix(vec![export("r5", 16 * MIB)]);
    let mut client = Client::connect(&server.address, "r5").unwrap();
    assert_eq!(
        client.block_status(0, 1 << 20).unwrap(),
        [(1 << 20, HOLE_AND_ZERO)]
    );
    client.pwrite(0, &pattern(1, 64 << 10)).unwrap();
    client.write_zeroes(8192, 8192, false).unwrap();
    client.write_zeroes(32768, 8192, true).unwrap();
    client.trim(49152, 4096).unwrap();
    let expected = [
        (8192, 0),
        (8192, HOLE_AND_ZERO),
        (32768, 0),
        (4096, HOLE_AND_ZERO),
        (12288, 0),
        ((1 << 20) - (64 << 10), HOLE_AND_ZERO),
    ];
    assert_eq!(client.block_status(0, 1 << 20).unwrap(), expected);
    let one = client.run(Operation::BlockStatus {
        offset: 4096,
        len: 1 << 20,
        one: true,
    });
    assert_eq!(one.unwrap(), Answer::Extents(vec![(4096, 0)]));
    let mut kept = pattern(1, 64 << 10);
    kept[8192..16384].fill(0);
    kept[32768..40960].fill(0);
    kept[49152..53248].fill(0);
    assert!(client.pread(0, 64 << 10).unwrap() == kept);
    assert_eq!(server.memory.lock().unwrap().provisioned, 1);
    // Longer than the largest payload: there is none.
    let big = Running::unix(vec![export("r5", 64 * MIB)]);
    let mut client = Client::connect(&big.address, "r5").unwrap();
    client.write_zeroes(0, 64 << 20, false).unwrap();
    client.trim(0, 64 << 20).unwrap();
    assert_eq!(
        client.block_status(0, 64 << 20).unwrap(),
        [(64 << 20, HOLE_AND_ZERO)]
    );
}

#[test]
fn refused_requests_leave_the_connection_alive() {
    let size = 64 * MIB;
    let server = Running::unix(vec![export("r5", size)]);
    for options in every_way_in() {
        let mut client = Client::connect_with(&server.address, "r5", options).unwrap();
        let block = vec![1; 1024];
        assert_eq!(errno(client.pwrite(size, &block)), ENOSPC);
        assert_eq!(errno(client.pwrite(size - 512, &block)), ENOSPC);
        assert_eq!(errno(client.pwrite(u64::MAX - 511, &block)), ENOSPC);
        assert_eq!(errno(client.write_zeroes(size, 512, false)), ENOSPC);
        assert_eq!(errno(client.pread(size - 512, 1024)), EINVAL);
        assert_eq!(errno(client.trim(size, 512)), EINVAL);
        assert_eq!(errno(client.pwrite(1, &block)), EINVAL);
        assert_eq!(errno(client.pwrite(0, &block[..100])), EINVAL);
        assert_eq!(errno(client.pread(256, 512)), EINVAL);
        assert_eq!(errno(client.block_status(0, 100)), EINVAL);
        let over = REQUEST_BYTES_MAX + 512;
        assert_eq!(errno(client.pwrite(0, &vec![1; over as usize])), EINVAL);
        let raw = |flags, command, len| Operation::Raw {
            flags,
            command,
            offset: 0,
            len,
            data: &[],
        };
        assert_eq!(errno(client.run(raw(0, 0, over))), EINVAL);
        assert_eq!(
            errno(client.run(raw(1 << 4, 6, 512))),
            EINVAL,
            "FAST_ZERO is not offered"
        );
        assert_eq!(errno(client.run(raw(0, 5, 512))), EINVAL, "nor is CACHE");
        assert_eq!(
            errno(client.run(raw(0, 3, 512))),
            EINVAL,
            "a flush of a range"
        );
        client.run(raw(1, 3, 0)).expect("FUA is allowed everywhere");
        client.pwrite(0, &[]).expect("nothing is written at once");
        assert_eq!(client.pread(0, 0).unwrap(), []);
        client.pwrite(0, &block).unwrap();
        assert_eq!(client.pread(0, 1024).unwrap(), block);
    }
}

#[test]
fn errors_of_the_array_reach_the_client() {
    let mut second = export("ro", 8 * MIB);
    second.read_only = true;
    let server = Running::unix(vec![export("r5", 8 * MIB), second]);
    server.memory.lock().unwrap().bad = Some(5000);
    let mut client = Client::connect(&server.address, "r5").unwrap();
    let error = client.pread(4096, 4096).unwrap_err();
    assert_eq!(error.to_string(), "error 5: I/O error: a bad spot");
    assert_eq!(errno(client.pwrite(0, &[1; 8192])), EIO);
    client.pread(0, 4096).unwrap();
    let mut client = Client::connect(&server.address, "ro").unwrap();
    assert_eq!(errno(client.pwrite(0, &vec![1; 1 << 20])), EPERM);
    assert_eq!(errno(client.trim(0, 4096)), EPERM);
    assert_eq!(errno(client.write_zeroes(0, 4096, false)), EPERM);
    client.pread(0, 4096).unwrap();
    client.flush().unwrap();
}

/// Many requests of all sizes at once, each to a place of its own, then all read back at once.
fn many_in_flight(client: &mut Client, df: bool, lens: &[usize]) {
    let mut completions = Vec::new();
    let mut offset = 0;
    for (number, &len) in lens.iter().enumerate() {
        let data = pattern(number as u64, len);
        client
            .start(Operation::Write {
                offset,
                data: &data,
                fua: false,
            })
            .unwrap();
        offset += len as u64;
    }
    client.submit().unwrap();
    while completions.len() < lens.len() {
        client.reap(&mut completions).unwrap();
    }
    assert!(
        completions
            .drain(..)
            .all(|completion| completion.result.is_ok())
    );
    let mut tags = std::collections::BTreeMap::new();
    offset = 0;
    for (number, &len) in lens.iter().enumerate() {
        let read = Operation::Read {
            offset,
            len: len as u32,
            df: df && number % 2 == 0,
        };
        tags.insert(client.start(read).unwrap(), number);
        offset += len as u64;
    }
    client.submit().unwrap();
    while completions.len() < lens.len() {
        client.reap(&mut completions).unwrap();
    }
    for Completion { tag, result } in completions {
        let number = tags.remove(&tag).expect("one answer each");
        let expected = pattern(number as u64, lens[number]);
        assert!(
            result.unwrap() == Answer::Data(expected),
            "request {number}"
        );
    }
}

#[test]
fn a_thousand_requests_at_once() {
    let server = Running::unix(vec![export("r5", 64 * MIB)]);
    for structured in [false, true] {
        let options = Options {
            structured,
            allocation: structured,
            ..Options::default()
        };
        let mut client = Client::connect_with(&server.address, "r5", options).unwrap();
        many_in_flight(&mut client, structured, &[4096; 1000]);
        let mixed: Vec<_> = (0..300)
            .map(|n| 512 * [1, 8, 2, 40, 64, 129, 513][n % 7])
            .collect();
        many_in_flight(&mut client, structured, &mixed);
        many_in_flight(&mut client, structured, &[8 << 20; 8]);
    }
}

#[test]
fn a_client_may_ask_for_more_than_anybody_holds() {
    let server = Running::unix(vec![export("r5", 8 * MIB)]);
    for (count, len) in [(300, 1 << 20), (20, 8 << 20), (50_000, 512)] {
        let mut client = Client::connect(&server.address, "r5").unwrap();
        for _ in 0..count {
            client
                .start(Operation::Read {
                    offset: 0,
                    len,
                    df: false,
                })
                .unwrap();
        }
        client.submit().unwrap();
        // Time for the server to come to its limits.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let mut completions = Vec::new();
        let mut answered = 0;
        while answered < count {
            client.reap(&mut completions).unwrap();
            for Completion { result, .. } in completions.drain(..) {
                client.recycle(result.unwrap());
                answered += 1;
            }
        }
    }
}

#[test]
fn the_array_is_not_flooded_and_answers_in_any_order() {
    let server = Running::unix(vec![export("r5", 64 * MIB)]);
    let mut client = Client::connect(&server.address, "r5").unwrap();
    client.pwrite(0, &pattern(7, 1 << 20)).unwrap();
    server.knobs.hold.store(true, Ordering::Relaxed);
    let mut tags = std::collections::BTreeMap::new();
    for number in 0..500u64 {
        let read = Operation::Read {
            offset: number * 512,
            len: 512,
            df: false,
        };
        tags.insert(client.start(read).unwrap(), number);
    }
    client.submit().unwrap();
    let most = REQUESTS_MAX as u64;
    server.until("the limit is reached", |s| {
        s.knobs.held_most.load(Ordering::Relaxed) == most
    });
    server.knobs.hold.store(false, Ordering::Relaxed);
    let mut completions = Vec::new();
    while completions.len() < 500 {
        client.reap(&mut completions).unwrap();
    }
    assert_eq!(
        tags[&completions[0].tag],
        most - 1,
        "the latest held is answered first"
    );
    let whole = pattern(7, 1 << 20);
    for Completion { tag, result } in completions {
        let at = tags[&tag] as usize * 512;
        assert!(result.unwrap() == Answer::Data(whole[at..at + 512].to_vec()));
    }
    assert_eq!(server.knobs.held_most.load(Ordering::Relaxed), most);
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let server = Running::unix(vec![export("r5", 64 * MIB)]);
    let mut other = Client::connect(&server.address, "r5").unwrap();
    server.knobs.hold.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        let mut client = Client::connect(&server.address, "r5").unwrap();
        for number in 0..50 {
            let read = Operation::Read {
                offset: number * MIB,
                len: 1 << 20,
                df: false,
            };
            client.start(read).unwrap();
        }
        // And half a write.
        let half = Operation::Raw {
            flags: 0,
            command: 1,
            offset: 0,
            len: 1 << 20,
            data: &[1; 1000],
        };
        client.start(half).unwrap();
        client.submit().unwrap();
    }
    server.until("only one is left", |s| {
        s.knobs.connections.load(Ordering::Relaxed) == 1
    });
    server.knobs.hold.store(false, Ordering::Relaxed);
    other.pwrite(0, &[3; 4096]).unwrap();
    assert_eq!(other.pread(0, 4096).unwrap(), [3; 4096]);
    assert_eq!(
        other.pread(4096, 4096).unwrap(),
        [0; 4096],
        "half a write is none"
    );
}

#[test]
fn connections_see_each_other() {
    let server = Running::unix(vec![export("r5", 8 * MIB)]);
    let mut clients: Vec<_> = (0..5)
        .map(|_| Client::connect(&server.address, "r5").unwrap())
        .collect();
    for turn in 0..5u8 {
        clients[usize::from(turn)].pwrite(0, &[turn; 4096]).unwrap();
        for client in &mut clients {
            assert_eq!(client.pread(0, 4096).unwrap(), [turn; 4096]);
        }
    }
}

fn raw(server: &Running) -> UnixStream {
    let Address::Unix(path) = &server.address else {
        panic!("a Unix server");
    };
    let mut stream = UnixStream::connect(path).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    stream
}

#[test]
fn silent_and_senseless_clients_keep_nobody_out() {
    let server = Running::unix(vec![export("r5", 8 * MIB)]);
    let silent: Vec<_> = (0..200).map(|_| raw(&server)).collect();
    let mut senseless = raw(&server);
    senseless.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(
        senseless.read(&mut [0; 1]).unwrap(),
        0,
        "it is shown the door"
    );
    let mut client = Client::connect(&server.address, "r5").unwrap();
    client.pwrite(0, &[1; 512]).unwrap();
    drop(silent);
    client.pread(0, 512).unwrap();
}

#[test]
fn a_whole_session_may_come_in_one_piece() {
    let server = Running::unix(vec![export("r5", 8 * MIB)]);
    let mut stream = raw(&server);
    let mut bytes = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x02r5".to_vec();
    bytes.extend(b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\x02\0");
    bytes.extend([0x77; 512]);
    bytes.extend(b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\x02\0");
    bytes.extend(b"\x25\x60\x95\x13\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    stream.write_all(&bytes).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 10 + 16 + 16 + 512);
    assert_eq!(all[10..26], *b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x09");
    assert_eq!(all[26..42], *b"\x67\x44\x66\x98\0\0\0\0\0\0\0\0\0\0\0\x0a");
    assert_eq!(all[42..], [0x77; 512]);
}
