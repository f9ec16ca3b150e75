//! An export of another server, as members use it: what it does with a good one, and with bad ones.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use support::{Running, export};
use umd_export::nbd::{Address, Remote, Trouble};

const MIB: usize = 1 << 20;

fn server() -> Running {
    Running::unix(vec![export("disk", 8 << 20)])
}

fn remote(server: &Running) -> Remote {
    Remote::connect(&server.address, "disk", None).unwrap()
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512) as u8 ^ seed).collect()
}

#[test]
fn what_is_written_is_read_whatever_its_pieces() {
    let server = server();
    let one = remote(&server);
    assert_eq!(one.size_bytes(), 8 << 20);
    assert!(one.can_flush() && one.can_zero() && !one.is_read_only());
    let data = bytes(0x5a, 3 * MIB + 512);
    // Pieces of the caller, and those of the protocol, end at different places.
    let pieces = [&data[..512], &data[512..MIB], &data[MIB..]].map(IoSlice::new);
    one.write(1024, &pieces, true).unwrap();
    let mut back = vec![0; data.len()];
    one.read(1024, &mut back).unwrap();
    assert!(back == data);
    assert!(
        server.memory.lock().unwrap().durable >= 1,
        "FUA was asked for"
    );
    one.zero(512, 5 << 20, true, false).unwrap();
    one.read(1024, &mut back).unwrap();
    assert!(back.iter().all(|byte| *byte == 0));
    one.zero(0, 4096, false, true).unwrap();
    assert!(
        server.memory.lock().unwrap().provisioned >= 1,
        "no hole was asked for"
    );
    let before = server.memory.lock().unwrap().durable;
    one.flush().unwrap();
    assert_eq!(server.memory.lock().unwrap().durable, before + 1);
}

#[test]
fn many_ask_at_once_over_one_connection() {
    let server = server();
    let one = Arc::new(remote(&server));
    server.knobs.hold.store(true, Ordering::SeqCst);
    let threads: Vec<_> = (0..8u8)
        .map(|number| {
            let one = one.clone();
            thread::spawn(move || {
                let at = u64::from(number) << 20;
                for round in 0..20 {
                    let data = bytes(number ^ round, 64 << 10);
                    one.write(at, &[IoSlice::new(&data)], false).unwrap();
                    let mut back = vec![0; data.len()];
                    one.read(at, &mut back).unwrap();
                    assert!(back == data);
                }
            })
        })
        .collect();
    server.until("eight are under way", |server| {
        server.knobs.held_most.load(Ordering::SeqCst) == 8
    });
    assert_eq!(server.knobs.connections.load(Ordering::SeqCst), 1);
    server.knobs.hold.store(false, Ordering::SeqCst);
    threads.into_iter().for_each(|one| one.join().unwrap());
}

#[test]
fn an_error_of_the_server_is_one_of_that_request() {
    let server = server();
    let one = remote(&server);
    server.memory.lock().unwrap().bad = Some(4096);
    let error = one.read(0, &mut [0; 8192]).unwrap_err();
    assert_eq!(error, Trouble::Refused(5));
    one.read(8192, &mut [0; 8192]).unwrap();
    let absent = Remote::connect(&server.address, "none", None).unwrap_err();
    assert!(absent.to_string().contains("refused"), "{absent}");
}

#[test]
fn a_server_that_goes_is_lost_for_good() {
    let server = server();
    let one = Arc::new(remote(&server));
    one.write(0, &[IoSlice::new(&[1; 512])], false).unwrap();
    server.knobs.hold.store(true, Ordering::SeqCst);
    let waits = {
        let one = one.clone();
        thread::spawn(move || one.write(0, &[IoSlice::new(&[2; 512])], false))
    };
    server.until("a write is under way", |server| {
        server.knobs.held_most.load(Ordering::SeqCst) == 1
    });
    let address = server.address.clone();
    drop(server);
    let error = waits.join().unwrap().unwrap_err();
    assert!(matches!(&error, Trouble::Lost(_)), "{error}");
    // Even when somebody else is there now: nobody knows what that one has.
    let Address::Unix(path) = &address else {
        panic!("a Unix door");
    };
    let _ = std::fs::remove_file(path);
    assert!(matches!(one.flush().unwrap_err(), Trouble::Lost(_)));
    assert!(one.lost().is_some());
}

#[test]
fn who_closes_says_so_and_waits_for_answers() {
    let server = server();
    let one = remote(&server);
    one.write(0, &[IoSlice::new(&[3; 512])], false).unwrap();
    drop(one);
    server.until("it has left", |server| {
        server.knobs.connections.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn parts_of_large_blocks_are_changed_one_by_one() {
    let mut large = export("disk", 1 << 20);
    large.logical_block_bytes = 4096;
    let server = Running::unix(vec![large]);
    let one = Arc::new(remote(&server));
    assert_eq!(one.block_bytes(), 4096);
    let threads: Vec<_> = (0..8u8)
        .map(|sector| {
            let one = one.clone();
            thread::spawn(move || {
                for round in 0..20 {
                    let data = [sector ^ round; 512];
                    let at = 4096 + u64::from(sector) * 512;
                    one.write(at, &[IoSlice::new(&data)], false).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|one| one.join().unwrap());
    for sector in 0..8u8 {
        let mut back = [0; 512];
        one.read(4096 + u64::from(sector) * 512, &mut back).unwrap();
        assert_eq!(back, [sector ^ 19; 512]);
    }
    one.zero(4096 + 512, 6 * 512, true, false).unwrap();
    let mut back = [0; 4096];
    one.read(4096, &mut back).unwrap();
    assert!(back[..512] == [19; 512] && back[512..3584] == [0; 3072]);
    assert_eq!(back[3584], 7 ^ 19);
}

/// What a bad server does once somebody has connected.
type Deed = Box<dyn Fn(&mut UnixStream) -> std::io::Result<()> + Send>;

struct Bad {
    dir: tempfile::TempDir,
}

impl Bad {
    fn new(deed: Deed) -> Bad {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = deed(&mut stream);
                // What is left is nobody's: the connection stays until the other end goes.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        Bad { dir }
    }

    fn connect(&self) -> Result<Remote, String> {
        let address = Address::Unix(self.dir.path().join("s"));
        let short = Duration::from_millis(700);
        Remote::patient(&address, "disk", None, (short, short)).map_err(|error| error.to_string())
    }
}

fn greeting(stream: &mut UnixStream) -> std::io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    stream.read_exact(&mut [0; 4])
}

/// Reads an option; its number.
fn option(stream: &mut UnixStream) -> std::io::Result<u32> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let len = u32::from_be_bytes(head[12..].try_into().unwrap());
    stream.read_exact(&mut vec![0; len as usize])?;
    Ok(u32::from_be_bytes(head[8..12].try_into().unwrap()))
}

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x0003_e889_0455_65a9u64.to_be_bytes().to_vec();
    for word in [option, kind, data.len() as u32] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(data);
    bytes
}

/// Information about an export of this size, with these blocks.
fn agreed(size: u64, blocks: [u32; 3]) -> Vec<u8> {
    let mut export = vec![0, 0];
    export.extend(size.to_be_bytes());
    export.extend([0, 0x6d]); // All but read-only.
    let mut sizes = vec![0, 3];
    sizes.extend(blocks.iter().flat_map(|one| one.to_be_bytes()));
    [reply(7, 3, &export), reply(7, 3, &sizes), reply(7, 1, &[])].concat()
}

fn sane() -> Vec<u8> {
    agreed(1 << 20, [1, 4096, 1 << 20])
}

#[test]
fn servers_that_make_no_sense_are_not_believed() {
    let cases: Vec<(&str, Deed)> = vec![
        ("no NBD greeting", Box::new(|s| s.write_all(&[7; 64]))),
        (
            "no fixed newstyle",
            Box::new(|s| s.write_all(b"NBDMAGICIHAVEOPT\0\0")),
        ),
        ("timed out", Box::new(|_| Ok(()))),
        (
            "unexpected end of file",
            Box::new(|s| {
                s.write_all(b"NBDMAGIC")?;
                s.shutdown(std::net::Shutdown::Both)
            }),
        ),
        (
            "not a reply to this option",
            Box::new(|s| {
                greeting(s)?;
                option(s)?;
                s.write_all(&reply(6, 1, &[]))
            }),
        ),
        (
            "too long",
            Box::new(|s| {
                greeting(s)?;
                option(s)?;
                let mut huge = reply(7, 3, &[]);
                huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
                s.write_all(&huge)
            }),
        ),
        (
            "too short",
            Box::new(|s| {
                greeting(s)?;
                option(s)?;
                s.write_all(&reply(7, 3, &[0, 0, 1]))
            }),
        ),
        (
            "sizes that no export has",
            Box::new(|s| {
                greeting(s)?;
                option(s)?;
                s.write_all(&agreed(u64::MAX, [1, 4096, 1 << 20]))
            }),
        ),
        (
            "sizes that no export has",
            Box::new(|s| {
                greeting(s)?;
                option(s)?;
                s.write_all(&agreed(1 << 20, [3000, 4096, 1 << 20]))
            }),
        ),
        (
            "sizes that no export has",
            Box::new(|s| {
                greeting(s)?;
                option(s)?;
                s.write_all(&agreed(1 << 20, [4096, 4096, 512]))
            }),
        ),
        (
            "an answer before a request",
            Box::new(|s| {
                greeting(s)?;
                option(s)?;
                s.write_all(&[sane(), vec![0; 16]].concat())
            }),
        ),
    ];
    for (why, deed) in cases {
        let begin = Instant::now();
        let error = Bad::new(deed).connect().expect_err(why);
        assert!(error.contains(why), "{why}: {error}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{why}");
    }
}

#[test]
fn one_that_only_ever_begins_to_answer_is_not_waited_for() {
    // A byte now and then is no silence, and an option that is told something for ever has no end.
    let slow = Bad::new(Box::new(|s| {
        for byte in b"NBDMAGICIHAVEOPT" {
            s.write_all(&[*byte])?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }));
    let endless = Bad::new(Box::new(|s| {
        greeting(s)?;
        option(s)?;
        loop {
            s.write_all(&reply(7, 3, &[9, 9, 9]))?;
        }
    }));
    for server in [slow, endless] {
        let begin = Instant::now();
        let error = server.connect().unwrap_err();
        assert!(error.contains("timed out"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}

fn answer(cookie: &[u8], errno: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x6744_6698u32.to_be_bytes().to_vec();
    bytes.extend(errno.to_be_bytes());
    bytes.extend(cookie);
    bytes.extend(data);
    bytes
}

/// A server that is sane until somebody reads 512 bytes, and answers that so.
fn until_read(deed: fn(&[u8]) -> Vec<u8>) -> Bad {
    Bad::new(Box::new(move |s| {
        greeting(s)?;
        option(s)?;
        s.write_all(&sane())?;
        let mut head = [0; 28];
        s.read_exact(&mut head)?;
        s.write_all(&deed(&head[8..16]))
    }))
}

#[test]
fn replies_that_make_no_sense_end_the_connection_and_all_that_wait() {
    type Deed = fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, Deed); 4] = [
        ("did not answer within 0.7 s", |_| Vec::new()),
        ("no reply", |_| vec![1; 16]),
        ("nobody had asked", |_| answer(&[9; 8], 0, &[0; 512])),
        ("did not answer within 0.7 s", |cookie| {
            answer(cookie, 0, &[0; 100])
        }),
    ];
    for (why, deed) in cases {
        let server = until_read(deed);
        let one = Arc::new(server.connect().unwrap());
        let begin = Instant::now();
        let other = {
            let one = one.clone();
            thread::spawn(move || one.read(0, &mut [0; 512]).unwrap_err().to_string())
        };
        let error = one.read(0, &mut [0; 512]).unwrap_err().to_string();
        for error in [error, other.join().unwrap()] {
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{why}");
        let error = one.write(0, &[IoSlice::new(&[0; 512])], false).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    // An answer twice: the first is good.
    let twice =
        until_read(|cookie| [answer(cookie, 0, &[5; 512]), answer(cookie, 0, &[])].concat());
    let one = twice.connect().unwrap();
    let mut back = [0; 512];
    one.read(0, &mut back).unwrap();
    assert_eq!(back, [5; 512]);
    let end = Instant::now() + Duration::from_secs(20);
    while one.lost().is_none() {
        assert!(
            Instant::now() < end,
            "the second answer was taken for something"
        );
        thread::sleep(Duration::from_millis(5));
    }
}
