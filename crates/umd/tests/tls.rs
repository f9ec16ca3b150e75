//! Doors that other machines can reach: what they take to be opened, and who comes in.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use common::{Home, PATIENCE, eventually};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Somebody who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        Authority { issuer, pem }
    }

    /// Certificate and key, good until a year.
    fn sign(&self, until: i32) -> (String, String) {
        self.sign_from(1975, until)
    }

    fn sign_from(&self, from: i32, until: i32) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("parameters");
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        (signed.pem(), key.serialize_pem())
    }

    /// What `--tls` wants.
    fn furnish(&self, dir: &Path, until: i32) {
        fs::create_dir_all(dir).expect("directory");
        let (certificate, key) = self.sign(until);
        fs::write(dir.join("ca-cert.pem"), &self.pem).expect("writes");
        fs::write(dir.join("server-cert.pem"), certificate).expect("writes");
        fs::write(dir.join("server-key.pem"), key).expect("writes");
    }
}

fn token_file(home: &Home) {
    let path = home.path("token");
    fs::write(&path, format!("{TOKEN}\n")).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
}

#[test]
fn keys_that_are_of_no_use_are_named_before_anything_listens() {
    let home = Home::new();
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = home.path("tls");
    authority.furnish(&dir, 4000);
    let good = |name: &str| fs::read(dir.join(name)).expect("reads");
    let (certificate, key) = (good("server-cert.pem"), good("server-key.pem"));
    let with = |name: &str, bytes: Option<&[u8]>| {
        let path = dir.join(name);
        let before = fs::read(&path).expect("reads");
        match bytes {
            Some(bytes) => fs::write(&path, bytes).expect("writes"),
            None => fs::remove_file(&path).expect("removes"),
        }
        let said = home.umd("daemon --nbd tcp:127.0.0.1:0 --tls tls").fails(1);
        fs::write(&path, before).expect("writes");
        assert!(said.contains(name), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(!home.runtime().join("umd/control.sock").exists());
        said
    };
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        assert!(
            with(name, None).contains("cannot be read: No such file"),
            "{name}"
        );
        assert!(with(name, Some(b"garbage")).contains("(PEM)"), "{name}");
        assert!(with(name, Some(b"")).contains("(PEM)"), "{name}");
    }
    assert!(with("server-cert.pem", Some(&key)).contains("holds no certificate"));
    assert!(with("server-key.pem", Some(&certificate)).contains("holds no private key"));
    let foreign = with("server-key.pem", Some(other.sign(4000).1.as_bytes()));
    assert!(foreign.contains("is not the key of"), "{foreign}");
    authority.furnish(&dir, 2001);
    let expired = home.umd("daemon --nbd tcp:127.0.0.1:0 --tls tls").fails(1);
    assert!(expired.contains("server-cert.pem has expired"), "{expired}");
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    let expired = home
        .umd("serve r1 a b --nbd tcp:127.0.0.1:0 --tls tls")
        .fails(1);
    assert!(expired.contains("server-cert.pem has expired"), "{expired}");
}

/// Files that are there and of no use: nothing is waited for, nothing is read without end, and
/// neither the keys nor the array are touched.
#[test]
fn what_is_no_file_with_a_key_is_refused_at_once() {
    let home = Home::new();
    let control = home.runtime().join("umd/control.sock");
    let authority = Authority::new();
    authority.furnish(&home.path("tls"), 4000);
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    eventually("the daemon has gone", || !control.exists());
    let before = home.hashes();
    let refused = |dir: &str, name: &str, why: &str| {
        for line in ["daemon --nbd", "daemon --listen", "serve r1 a b --nbd"] {
            let line = format!("{line} 127.0.0.1:0 --tls {dir}");
            let line = line.replace("--nbd 127", "--nbd tcp:127");
            let said = home.umd(&line).fails(1);
            assert!(said.contains(name) && said.contains(why), "{line}: {said}");
            assert_eq!(said.lines().count(), 1, "{line}: {said}");
        }
        assert!(!control.exists());
        assert!(home.hashes() == before, "{name} {why}");
    };
    refused("nowhere", "nowhere/", "cannot be read: No such file");
    refused("a", "a/", "cannot be read: Not a directory");
    for name in ["server-cert.pem", "server-key.pem"] {
        let path = home.path("tls").join(name);
        let good = fs::read(&path).expect("reads");
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("a directory");
        refused("tls", name, "cannot be read: Is a directory");
        fs::remove_dir(&path).expect("removes");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo runs").success());
        refused("tls", name, "it is no regular file");
        fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
        refused("tls", name, "it is no regular file");
        fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink("gone", &path).expect("a link");
        refused("tls", name, "cannot be read: No such file");
        fs::remove_file(&path).expect("removes");
        let huge = fs::File::create(&path).expect("made");
        huge.set_len(1 << 40).expect("sized");
        refused("tls", name, "it is larger than 1 MiB");
        fs::write(&path, &good[..good.len() / 2]).expect("writes");
        refused("tls", name, "(PEM)");
        fs::write(&path, good).expect("writes");
    }
    let (certificate, key) = authority.sign_from(3000, 4000);
    fs::write(home.path("tls/server-cert.pem"), certificate).expect("writes");
    fs::write(home.path("tls/server-key.pem"), key).expect("writes");
    refused(
        "tls",
        "server-cert.pem",
        "is not valid yet: is the clock right?",
    );
    authority.furnish(&home.path("tls"), 4000);
    fs::write(home.path("tls/control-ca-cert.pem"), "x").expect("writes");
    let said = home.umd("daemon --listen 127.0.0.1:0 --tls tls").fails(1);
    assert!(
        said.contains("control-ca-cert.pem holds no certificate"),
        "{said}"
    );
}

/// The keys expired while the daemon ran, which was killed: the next one goes on with the arrays,
/// without that door, and says why. With new keys it is there again.
#[test]
fn a_door_whose_keys_have_expired_does_not_take_the_arrays_along() {
    let home = Home::new();
    let authority = Authority::new();
    authority.furnish(&home.path("tls"), 4000);
    fs::create_dir_all(home.runtime()).expect("runtime directory");
    let mut daemon = home.spawn("daemon --nbd tcp:127.0.0.1:0 --tls tls");
    eventually("the daemon answers", || home.daemon_pid().is_some());
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    let doors = home.detail("r1")["nbd"].clone();
    assert_eq!(doors.as_array().map(Vec::len), Some(2), "{doors}");
    daemon.kill().expect("kills");
    let _ = daemon.wait();
    authority.furnish(&home.path("tls"), 2001);
    // The next command starts the next daemon, which tells whoever it works for.
    let said = home.umd("detail r1").ok().err;
    let why = "server-cert.pem has expired: make a new one";
    assert!(said.contains(why), "{said}");
    assert!(said.contains("do not find this one"), "{said}");
    let left = home.detail("r1")["nbd"].clone();
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    home.nbd("r1").pwrite(0, &[7; 4096]).expect("writes");
}

/// Nothing can be written where the daemon keeps its notes: its doors open all the same, and what
/// cannot be done is refused. (A limit on the size of files stands for a disk without room.)
#[test]
fn on_a_full_disk_tls_doors_open_and_nothing_is_lost() {
    let home = Home::new();
    let control = home.runtime().join("umd/control.sock");
    let authority = Authority::new();
    authority.furnish(&home.path("tls"), 4000);
    token_file(&home);
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    home.nbd("r1").pwrite(0, &[7; 4096]).expect("writes");
    home.umd("stop r1").ok();
    eventually("the daemon has gone", || !control.exists());
    let keys = |name: &str| fs::read(home.path("tls").join(name)).expect("reads");
    let before = ["server-cert.pem", "server-key.pem", "ca-cert.pem"].map(keys);
    let umd = home.command("daemon --listen 127.0.0.1:0 --token-file token --tls tls");
    let mut daemon = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(umd.get_program())
        .args(umd.get_args())
        .current_dir(home.path(""))
        .env("XDG_RUNTIME_DIR", home.runtime())
        .env("XDG_STATE_HOME", home.path("state"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let at = address(&mut daemon);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&at, &authority, None, &token), 200);
    let refused = home.umd("create r2 -l1 -n2 --size 4M c d").fails(1);
    assert!(
        refused.contains("File too large") || refused.contains("c:"),
        "{refused}"
    );
    assert_eq!(ask(&at, &authority, None, &token), 200, "it is alive");
    assert!(["server-cert.pem", "server-key.pem", "ca-cert.pem"].map(keys) == before);
    daemon.kill().expect("kills");
    let _ = daemon.wait();
    home.umd("assemble r1 a b").ok();
    assert_eq!(home.nbd("r1").pread(0, 4096).expect("reads"), [7; 4096]);
}

#[test]
fn doors_that_anybody_could_enter_are_not_opened() {
    let home = Home::new();
    let dir = home.path("tls");
    Authority::new().furnish(&dir, 4000);
    token_file(&home);
    for (line, code, why) in [
        (
            "daemon --nbd tcp:0.0.0.0:0",
            1,
            "nothing sent there would be encrypted: give --tls DIR",
        ),
        (
            "daemon --nbd tcp:[::]:0",
            1,
            "nothing sent there would be encrypted",
        ),
        ("daemon --listen 127.0.0.1:0", 2, "give --token-file FILE"),
        (
            "daemon --listen 0.0.0.0:0 --token-file token",
            2,
            "nothing would be encrypted",
        ),
        (
            "daemon --listen 127.0.0.1:0 --tls tls",
            2,
            "nobody could control this daemon",
        ),
        (
            "daemon --listen here --token-file token",
            2,
            "write HOST:PORT",
        ),
        (
            "daemon --listen 127.0.0.1:0 --token-file none",
            1,
            "No such file",
        ),
        ("daemon --tls-any-client", 2, "--tls <DIR>"),
        ("daemon --token-file token", 2, "--listen <ADDRESS>"),
    ] {
        let said = home.umd(line).fails(code);
        assert!(said.contains(why), "{line}: {said}");
        assert!(!home.runtime().join("umd/control.sock").exists(), "{line}");
    }
}

/// What a daemon says until it has named its address.
fn address(daemon: &mut Child) -> String {
    let mut said = BufReader::new(daemon.stderr.take().expect("a pipe")).lines();
    let found = said.find_map(|line| {
        let line = line.expect("reads");
        let (_, address) = line.split_once("the control API is at ")?;
        Some(address.split_once("://")?.1.to_owned())
    });
    std::thread::spawn(move || said.for_each(drop));
    found.expect("an address")
}

/// One request; the status, or 0 when nobody answers.
fn ask(address: &str, trusts: &Authority, shows: Option<&Authority>, headers: &str) -> u16 {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(trusts.pem.as_bytes()).expect("a certificate");
    roots.add(root).expect("good");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match shows {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let (certificate, key) = authority.sign(4000);
            let chain = CertificateDer::from_pem_slice(certificate.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
            config
                .with_client_auth_cert(vec![chain.expect("good")], key.expect("good"))
                .expect("they fit")
        }
    };
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a session");
    let tcp = TcpStream::connect(address).expect("connects");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut stream = StreamOwned::new(tls, tcp);
    let request =
        format!("GET /v1/arrays HTTP/1.1\r\nHost: nas:1\r\n{headers}Connection: close\r\n\r\n");
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    status.unwrap_or(0)
}

#[test]
fn a_certificate_or_the_token_opens_the_control_api() {
    let home = Home::new();
    let (clients, masters, other) = (Authority::new(), Authority::new(), Authority::new());
    let dir = home.path("tls");
    clients.furnish(&dir, 4000);
    fs::write(dir.join("control-ca-cert.pem"), &masters.pem).expect("writes");
    token_file(&home);
    fs::create_dir_all(home.runtime()).expect("runtime directory");
    let line = "daemon --listen 127.0.0.1:0 --tls tls --token-file token";
    let mut daemon = home.spawn(line);
    let at = address(&mut daemon);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let everybody = |at: &str| {
        assert_eq!(ask(at, &clients, None, ""), 401);
        assert_eq!(ask(at, &clients, None, &token), 200);
        assert_eq!(ask(at, &clients, None, &token.replace("ef\r", "ee\r")), 401);
        assert_eq!(ask(at, &clients, Some(&masters), ""), 200);
        assert_eq!(
            ask(at, &clients, Some(&clients), ""),
            0,
            "an NBD client's is not enough"
        );
        assert_eq!(
            ask(at, &clients, Some(&other), &token),
            0,
            "not even with the token"
        );
        // A browser shows its certificate whoever asks.
        let page = "Origin: https://evil.example\r\n";
        assert_eq!(ask(at, &clients, Some(&masters), page), 403);
        assert_eq!(
            ask(at, &clients, Some(&masters), "Origin: https://nas:1\r\n"),
            200
        );
    };
    everybody(&at);
    // Garbage, silence and plain HTTP keep nobody else out.
    let silent = TcpStream::connect(&at).expect("connects");
    let mut garbage = TcpStream::connect(&at).expect("connects");
    garbage.write_all(&[0x55; 10_000]).expect("sends");
    let mut plain = TcpStream::connect(&at).expect("connects");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sends");
    everybody(&at);
    let mut rest = Vec::new();
    silent
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a limit");
    (&silent)
        .read_to_end(&mut rest)
        .expect("it is closed in time");
    assert!(rest.is_empty());
    // After a kill it is where it was, with the keys and the token it had.
    home.umd("create r1 -l1 -n2 --size 4M --assume-clean a b")
        .ok();
    daemon.kill().expect("kills");
    let _ = daemon.wait();
    home.umd("mdstat").ok();
    everybody(&at);
}

#[test]
fn without_tls_this_machine_needs_the_token() {
    let home = Home::new();
    token_file(&home);
    fs::create_dir_all(home.runtime()).expect("runtime directory");
    let mut daemon = home.spawn("daemon --listen 127.0.0.1:0 --token-file token");
    let at = address(&mut daemon);
    let ask = |headers: &str| {
        let mut stream = TcpStream::connect(&at).expect("connects");
        let head = format!("GET /v1/version HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
        write!(stream, "{head}{headers}\r\n").expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        answer.split(' ').nth(1).map(str::to_owned)
    };
    assert_eq!(ask("").as_deref(), Some("401"));
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&token).as_deref(), Some("200"));
    eventually("it answers at its socket, too", || {
        home.daemon_pid() == Some(daemon.id())
    });
    daemon.kill().expect("kills");
    let _ = daemon.wait();
}
