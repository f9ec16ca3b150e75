//! etcd for tests: one member or three, on loopback or wherever they are put, as whoever runs the
//! test.
//!
//! ```text
//!   node --> Gate (a relay that can be cut) --> etcd
//! ```

mod ports;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use ports::free_address;

/// The members of an etcd. They end with this.
pub struct Servers {
    program: PathBuf,
    dir: TempDir,
    members: Vec<Member>,
    /// What a member is told besides.
    extra: Vec<String>,
    scheme: &'static str,
}

struct Member {
    seat: Seat,
    child: Option<Child>,
}

/// Where a member runs.
pub struct Seat {
    /// What runs a program there; nothing: here.
    pub within: Vec<String>,
    /// Where clients find it.
    pub client: SocketAddr,
    /// Where the other members find it.
    pub peer: SocketAddr,
}

impl Seat {
    fn here() -> Seat {
        Seat {
            within: Vec::new(),
            client: free_address(),
            peer: free_address(),
        }
    }
}

/// Where etcd is, if it is anywhere.
fn program() -> Option<PathBuf> {
    let dir = std::env::var_os("UMD_ORACLE_DIR").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        target.unwrap_or(workspace).join("oracle")
    });
    let fetched = dir.join("root/usr/bin/etcd");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    let mut places = std::iter::once(fetched).chain(installed);
    places.find(|path| path.is_file())
}

/// Starts an etcd of so many members, or says that `test` is skipped.
pub fn or_skip(test: &str, members: usize) -> Option<Servers> {
    or_skip_at(test, (0..members).map(|_| Seat::here()).collect())
}

/// The same, with its members in these places.
pub fn or_skip_at(test: &str, seats: Vec<Seat>) -> Option<Servers> {
    let Some(program) = program() else {
        let why = "there is no etcd (cargo xtask oracle fetches it)";
        assert!(
            std::env::var_os("CI").is_none_or(|value| value != "true"),
            "{test} cannot run and CI=true allows no skipping: {why}"
        );
        // Not eprintln!: libtest would swallow it for a passing test.
        let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {why}\n");
        return None;
    };
    Some(Servers::new(program, seats))
}

impl Servers {
    /// One that speaks TLS only, with these files: authority, certificate, key.
    pub fn with_tls(mut self, files: [&Path; 3]) -> Servers {
        self.kill(0);
        let options = ["--trusted-ca-file", "--cert-file", "--key-file"];
        for (option, file) in options.into_iter().zip(files) {
            self.extra.push(option.into());
            self.extra.push(file.to_str().unwrap().into());
        }
        self.extra.push("--client-cert-auth".into());
        self.scheme = "https";
        self.start(0);
        let begin = Instant::now();
        while TcpStream::connect(self.members[0].seat.client).is_err() {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "it does not start"
            );
            thread::sleep(Duration::from_millis(50));
        }
        self
    }

    /// Lets nobody in but users, of whom there is one: root.
    pub fn with_password(&self, password: &str) {
        let at = self.members[0].seat.client;
        let steps = [
            ("auth/role/add", json!({"name": "root"})),
            (
                "auth/user/add",
                json!({"name": "root", "password": password}),
            ),
            ("auth/user/grant", json!({"user": "root", "role": "root"})),
            ("auth/enable", json!({})),
        ];
        for (path, body) in steps {
            let answer = post(at, path, &body).unwrap();
            assert!(answer.get("error").is_none(), "{path}: {answer}");
        }
    }

    fn new(program: PathBuf, seats: Vec<Seat>) -> Servers {
        let members = seats.into_iter().map(|seat| Member { seat, child: None });
        let mut servers = Servers {
            program,
            dir: tempfile::tempdir().unwrap(),
            members: members.collect(),
            extra: Vec::new(),
            scheme: "http",
        };
        for member in 0..servers.members.len() {
            servers.start(member);
        }
        servers.wait_until_well();
        servers
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members
            .iter()
            .map(|member| member.seat.client)
            .collect()
    }

    /// Starts a member that does not run.
    pub fn start(&mut self, member: usize) {
        let cluster = self.members.iter().enumerate();
        let cluster: Vec<String> = cluster
            .map(|(at, member)| format!("m{at}=http://{}", member.seat.peer))
            .collect();
        let path = self.dir.path().join(format!("log{member}"));
        let log = File::options().create(true).append(true).open(path);
        let log = log.unwrap();
        let at = &mut self.members[member];
        assert!(at.child.is_none(), "it runs");
        let client = format!("{}://{}", self.scheme, at.seat.client);
        let peer = format!("http://{}", at.seat.peer);
        let mut words = at
            .seat
            .within
            .iter()
            .map(OsString::from)
            .collect::<Vec<_>>();
        words.push(self.program.clone().into());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(["--name", &format!("m{member}")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("data{member}")))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.join(",")])
            // Members are killed here, and machines are not.
            .arg("--unsafe-no-fsync")
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        at.child = Some(child);
    }

    /// Kills a member.
    pub fn kill(&mut self, member: usize) {
        let mut child = self.members[member].child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Makes a member that does not run forget all it knew.
    pub fn forget(&self, member: usize) {
        fs::remove_dir_all(self.dir.path().join(format!("data{member}"))).unwrap();
    }

    /// Until every member that runs has a majority.
    pub fn wait_until_well(&self) {
        let begin = Instant::now();
        for member in self.members.iter().filter(|member| member.child.is_some()) {
            while !is_well(member.seat.client) {
                let log = fs::read_to_string(self.dir.path().join("log0")).unwrap_or_default();
                let late = begin.elapsed() > Duration::from_secs(60);
                assert!(!late, "etcd does not get well: {log}");
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Lets go of all history.
    pub fn compact(&self) {
        let at = self.members[0].seat.client;
        let now = post(at, "kv/range", &json!({"key": "AA=="})).unwrap();
        let revision = &now["header"]["revision"];
        assert!(revision.is_string(), "{now}");
        let done = post(
            at,
            "kv/compaction",
            &json!({"revision": revision, "physical": true}),
        );
        let done = done.unwrap();
        assert!(done.get("error").is_none(), "{done}");
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn is_well(server: SocketAddr) -> bool {
    let answer = post(server, "kv/range", &json!({"key": "AA=="}));
    answer.is_some_and(|answer| answer.get("header").is_some())
}

/// One request of etcd's API, written by hand: it must not depend on what is tested.
fn post(server: SocketAddr, path: &str, body: &Value) -> Option<Value> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&server, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    let body = body.to_string();
    let length = body.len();
    let head = format!("POST /v3/{path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

/// A relay to a server. Cut, it passes nothing on and lets nobody in, as a network that drops all:
/// connections are there, and silent.
pub struct Gate {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
}

impl Gate {
    pub fn open(server: SocketAddr) -> Gate {
        Gate::open_on([127, 0, 0, 1].into(), server)
    }

    /// The same on another address: of a network that nobody else is on.
    pub fn open_on(address: IpAddr, server: SocketAddr) -> Gate {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, closed) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let gate = Gate {
            address,
            cut: Arc::clone(&cut),
            closed: Arc::clone(&closed),
        };
        thread::spawn(move || {
            let streams = Arc::new(Mutex::new(Vec::<TcpStream>::new()));
            for client in listener.incoming() {
                if closed.load(Ordering::SeqCst) {
                    let streams = streams.lock().unwrap();
                    streams
                        .iter()
                        .for_each(|one| drop(one.shutdown(Shutdown::Both)));
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else {
                    continue;
                };
                let both = [client.try_clone(), server.try_clone()];
                streams.lock().unwrap().extend(both.into_iter().flatten());
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = Arc::clone(&cut);
                    thread::spawn(move || relay(from, to, &cut));
                }
            }
        });
        gate
    }

    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
    }
}

fn relay(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 4096];
    loop {
        let read = from.read(&mut bytes).unwrap_or(0);
        // What was under way when it was cut is lost with its connection: the rest of it would
        // make no sense.
        if read == 0 || cut.load(Ordering::SeqCst) {
            while cut.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
        if to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}
