//! TLS at the door: the same sessions through it, and who does not come through.
//!
//! ```text
//!   our NBD client --Unix pair--> bridge: STARTTLS, then rustls as a client --TCP--> the door
//! ```

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use support::{Running, export};
use umd_export::nbd::client::{Answer, Client, Completion, Operation, Options};
use umd_export::nbd::{Address, Socket};

const MIB: u64 = 1 << 20;
const OPTION_MAGIC: &[u8] = b"IHAVEOPT";
const STARTTLS: u32 = 5;
const LIST: u32 = 3;
const ABORT: u32 = 2;
const ACK: u32 = 1;
const ERR_UNSUP: u32 = 1 << 31 | 1;
const ERR_INVALID: u32 = 1 << 31 | 3;
const ERR_TLS_REQD: u32 = 1 << 31 | 5;

/// Somebody who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Authority {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        Arc::new(roots)
    }

    fn sign(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![signed.der().clone()], key)
    }
}

fn server_config(authority: &Authority) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(authority.roots(), provider.clone()).build();
    let (chain, key) = authority.sign("localhost");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(chain, key);
    Arc::new(config.unwrap())
}

/// A client that trusts one, and shows what another has signed; or nothing.
fn client_config(trusts: &Authority, shows: Option<&Authority>) -> Arc<ClientConfig> {
    let versions = rustls::DEFAULT_VERSIONS;
    client_config_of(trusts, shows, versions)
}

fn client_config_of(
    trusts: &Authority,
    shows: Option<&Authority>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(trusts.roots());
    Arc::new(match shows {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let (chain, key) = authority.sign("client");
            config.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

fn connect(server: &Running) -> TcpStream {
    let Address::Tcp { host, port } = &server.address else {
        panic!("a TCP door expected");
    };
    let stream = TcpStream::connect((host.as_str(), *port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn reply(stream: &mut impl Read) -> io::Result<(u32, Vec<u8>)> {
    let mut head = [0; 20];
    stream.read_exact(&mut head)?;
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    let mut text = vec![0; word(16) as usize];
    stream.read_exact(&mut text)?;
    Ok((word(12), text))
}

/// A connection whose greeting is over.
fn greeted(server: &Running) -> TcpStream {
    let mut stream = connect(server);
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream
}

/// One that has asked for TLS and may begin.
fn asked(server: &Running) -> TcpStream {
    let mut stream = greeted(server);
    stream.write_all(&option(STARTTLS, &[])).unwrap();
    assert_eq!(reply(&mut stream).unwrap().0, ACK);
    stream
}

fn tls(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(config.clone(), name).unwrap()
}

/// Plaintext in, plaintext out, TLS between: until one side has gone.
fn pump(mut inner: UnixStream, mut tcp: TcpStream, mut tls: ClientConnection) -> io::Result<()> {
    inner.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let mut waiting = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (mut of_inner, mut of_tcp) = (PollFlags::empty(), PollFlags::empty());
        of_inner.set(PollFlags::IN, !tls.wants_write() && !tls.is_handshaking());
        of_inner.set(PollFlags::OUT, !waiting.is_empty());
        of_tcp.set(PollFlags::IN, waiting.is_empty());
        of_tcp.set(PollFlags::OUT, tls.wants_write());
        let mut fds = [PollFd::new(&inner, of_inner), PollFd::new(&tcp, of_tcp)];
        poll(&mut fds, None)?;
        let (of_inner, of_tcp) = (fds[0].revents(), fds[1].revents());
        if of_tcp.contains(PollFlags::OUT) {
            let _ = tls.write_tls(&mut tcp);
        }
        if of_inner.contains(PollFlags::OUT) {
            let count = inner.write(&waiting)?;
            waiting.drain(..count);
        }
        if of_inner.contains(PollFlags::IN) {
            match inner.read(&mut buffer)? {
                0 => return Ok(()),
                count => tls.writer().write_all(&buffer[..count])?,
            }
        }
        if of_tcp.intersects(PollFlags::IN | PollFlags::HUP) && waiting.is_empty() {
            if tls.read_tls(&mut tcp)? == 0 {
                return Ok(());
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            match tls.reader().read_to_end(&mut waiting) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}

/// Our own client, through the door.
fn client(server: &Running, config: &Arc<ClientConfig>, options: Options) -> Client {
    let (ours, mut inner) = UnixStream::pair().unwrap();
    let tcp = asked(server);
    let tls = tls(config);
    std::thread::spawn(move || {
        // The greeting was had without TLS: the client is given it once more.
        inner.write_all(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
        inner.read_exact(&mut [0; 4]).unwrap();
        let _ = pump(inner, tcp, tls); // What becomes of it the client notices.
    });
    Client::over(Socket::from(ours), "disk", options).unwrap()
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).map(|n| (n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// Large and small, many at once, so that records are cut everywhere and limits are met.
#[test]
fn what_is_written_through_tls_is_read() {
    let authority = Authority::new();
    let server = Running::tls(vec![export("disk", 160 * MIB)], server_config(&authority));
    for versions in [[&rustls::version::TLS13], [&rustls::version::TLS12]] {
        let config = client_config_of(&authority, Some(&authority), &versions);
        for structured in [false, true] {
            let options = Options {
                structured,
                allocation: structured,
                ..Options::default()
            };
            let mut client = client(&server, &config, options);
            for (seed, offset, len) in [(1, 0, 512), (2, 65536, 5 << 20), (3, 512, 3584)] {
                let data = pattern(seed, len);
                client.pwrite(offset, &data).unwrap();
                assert!(client.pread(offset, len as u32).unwrap() == data, "{len}");
            }
            // 128 MiB under way at once, twice the payload that a connection may have in flight.
            let data = pattern(4, 2 << 20);
            for round in 0..64u64 {
                let offset = (16 + 2 * round) * MIB;
                let write = Operation::Write {
                    offset,
                    data: &data,
                    fua: false,
                };
                client.start(write).unwrap();
            }
            client.submit().unwrap();
            let mut done: Vec<Completion> = Vec::new();
            while done.len() < 64 {
                client.reap(&mut done).unwrap();
            }
            for round in 0..64u64 {
                let (offset, len) = ((16 + 2 * round) * MIB, 2 << 20);
                client
                    .start(Operation::Read {
                        offset,
                        len,
                        df: false,
                    })
                    .unwrap();
            }
            client.submit().unwrap();
            let mut read = Vec::new();
            while read.len() < 64 {
                client.reap(&mut read).unwrap();
            }
            for completion in read {
                match completion.result.unwrap() {
                    Answer::Data(bytes) => assert!(bytes == data),
                    other => panic!("{other:?}"),
                }
            }
            client.disconnect().unwrap();
        }
    }
    server.until("everybody has left", |server| {
        server
            .knobs
            .connections
            .load(std::sync::atomic::Ordering::Relaxed)
            == 0
    });
}

#[test]
fn without_tls_nothing_is_told() {
    let authority = Authority::new();
    let server = Running::tls(vec![export("disk", MIB)], server_config(&authority));
    let mut stream = greeted(&server);
    for code in [LIST, 6, 7, 8, 9, 10, 77] {
        stream.write_all(&option(code, &[])).unwrap();
        let (kind, text) = reply(&mut stream).unwrap();
        assert_eq!(kind, ERR_TLS_REQD, "option {code}");
        assert!(!String::from_utf8(text).unwrap().contains("disk"));
    }
    stream.write_all(&option(STARTTLS, b"x")).unwrap();
    assert_eq!(reply(&mut stream).unwrap().0, ERR_INVALID);
    stream.write_all(&option(ABORT, &[])).unwrap();
    assert_eq!(reply(&mut stream).unwrap().0, ACK);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    // The option of old, to which nothing can be answered.
    let mut stream = greeted(&server);
    stream.write_all(&option(1, b"disk")).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    // And where there is no TLS it cannot be had.
    let plain = Running::tcp(vec![export("disk", MIB)]);
    let mut stream = greeted(&plain);
    stream.write_all(&option(STARTTLS, &[])).unwrap();
    assert_eq!(reply(&mut stream).unwrap().0, ERR_UNSUP);
}

/// Whoever sits between could send these: they must not count as the client's.
#[test]
fn what_comes_in_the_clear_after_starttls_closes() {
    let authority = Authority::new();
    let server = Running::tls(vec![export("disk", MIB)], server_config(&authority));
    let mut stream = greeted(&server);
    let both = [option(STARTTLS, &[]), option(LIST, &[])].concat();
    stream.write_all(&both).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest); // A reset is as good.
    assert!(
        rest.len() <= 20,
        "no answer but the one to STARTTLS: {rest:?}"
    );
}

#[test]
fn strangers_do_not_come_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Running::tls(vec![export("disk", MIB)], server_config(&authority));
    for shows in [None, Some(&other)] {
        let tcp = asked(&server);
        let tls = tls(&client_config(&authority, shows));
        let mut stream = rustls::StreamOwned::new(tls, tcp);
        let _ = stream.write_all(&option(LIST, &[]));
        let answer = reply(&mut stream);
        assert!(answer.is_err(), "{answer:?}");
    }
    // With the right one: TLS is on, once.
    let tcp = asked(&server);
    let config = client_config(&authority, Some(&authority));
    let mut stream = rustls::StreamOwned::new(tls(&config), tcp);
    stream.write_all(&option(STARTTLS, &[])).unwrap();
    assert_eq!(reply(&mut stream).unwrap().0, ERR_INVALID);
    // Many options in one record: no descriptor tells of those that were decrypted already.
    stream.write_all(&option(77, &[9; 40]).repeat(200)).unwrap();
    for _ in 0..200 {
        assert_eq!(reply(&mut stream).unwrap().0, ERR_UNSUP);
    }
}

/// Garbage and silence cost their own connection; others are served meanwhile.
#[test]
fn garbage_and_silence_are_shown_the_door() {
    let authority = Authority::new();
    let server = Running::tls(vec![export("disk", MIB)], server_config(&authority));
    let mut silent = asked(&server);
    let since = Instant::now();
    let mut garbage = asked(&server);
    garbage.write_all(&[0x55; 4096]).unwrap();
    let _ = garbage.read_to_end(&mut Vec::new()); // An alert at the most, then the end.
    let mut half = asked(&server);
    half.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
    let config = client_config(&authority, Some(&authority));
    let mut client = client(&server, &config, Options::default());
    client.pwrite(0, &pattern(1, 4096)).unwrap();
    for stalled in [&mut silent, &mut half] {
        let said = stalled.read_to_end(&mut Vec::new()).unwrap_or(0);
        assert!(said <= 7, "an alert at the most: {said} bytes");
    }
    let waited = since.elapsed();
    assert!(waited > Duration::from_secs(5), "they had their time");
    assert!(waited < Duration::from_secs(25), "and no more: {waited:?}");
    assert!(client.pread(0, 4096).unwrap() == pattern(1, 4096));
}
