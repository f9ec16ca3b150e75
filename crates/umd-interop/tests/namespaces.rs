//! Three hosts in network namespaces of their own, three members of an etcd, one array whose
//! members another umd serves over NBD, and which fences by that: the whole chain without hardware.
//!
//! ```text
//!   host 0 -- load      host 1 -- load      host 2 -- load         a namespace each
//!     |  |                |  |                |  |
//!     |  '--- lan0        |  '--- lan1        |  '--- lan2 --- bridge lan --- etcd 0 1 2
//!     '------ san0        '------ san1        '------ san2 --- bridge san --- storage: umd, TLS
//! ```
//!
//! Nobody kills a host that is to be fenced: it is only its key that is taken away. A host is
//! killed, stopped for a while, cut off from etcd, from its members, or from both (its links go
//! down), or leaves; members of etcd die, and members of the array are replaced. What has to hold
//! after each round is said in `rounds.rs`.
//!
//! All of it is inside a user namespace, where the system allows that: nobody has to be root, no
//! address is seen from outside, and nothing of it is left when the test has ended.
//!
//! `UMD_ROUNDS=100` runs so many rounds; `UMD_ROUNDS_SEED=N` draws others.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/rounds.rs"]
mod rounds;
#[path = "../../umd-cluster/tests/engines/server/mod.rs"]
#[allow(
    dead_code,
    reason = "the tests of the lock services use what this does not"
)]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use umd_interop::oracle::{Oracle, notice};
use umd_interop::pattern::Dice;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};

use authority::Authority;
use rounds::{Disk, Event, From, HOSTS, MIB, Place};
use server::{Gate, Servers, or_skip};

const WHAT: &str = "hosts in network namespaces";
/// Set where the test runs inside its namespaces.
const INSIDE: &str = "UMD_INSIDE_NAMESPACES";
const ETCD: [u8; 4] = [10, 77, 0, 1];
const STORAGE: &str = "10.78.0.2";
const PORT: u16 = 10809;
const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace, which lives as long as this.
struct Space(Child);

impl Space {
    fn new() -> Space {
        // It ends with its standard input, so with us.
        let mut command = Command::new("unshare");
        command.args(["-n", "--", "cat"]).stdin(Stdio::piped());
        let space = Space(command.stdout(Stdio::null()).spawn().unwrap());
        let (own, begin) = (fs::read_link("/proc/self/ns/net").unwrap(), Instant::now());
        let theirs = format!("/proc/{}/ns/net", space.0.id());
        while fs::read_link(&theirs).is_ok_and(|link| link == own) {
            assert!(begin.elapsed() < PATIENCE, "there is no new namespace");
            thread::sleep(Duration::from_millis(5));
        }
        space
    }

    /// What runs a command in it.
    fn prefix(&self) -> Vec<String> {
        let pid = self.0.id().to_string();
        let words = ["nsenter", "-t", &pid, "-n", "--"];
        words.map(str::to_owned).to_vec()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The hosts, what is between them, and who serves the members.
struct Hall {
    ip: PathBuf,
    hosts: Vec<Space>,
    storage: Space,
    server: Umd,
    daemon: Child,
    keys: Scratch,
}

/// The program that makes networks: one that was fetched, or this machine's.
fn ip(oracle: &Oracle) -> Option<PathBuf> {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
    let own = places.iter().map(PathBuf::from).find(|path| path.is_file());
    let starts = |path: &PathBuf| {
        let output = Command::new(path).arg("-V").output();
        output.is_ok_and(|output| output.status.success())
    };
    own.or_else(|| oracle.find("ip").filter(starts))
}

/// Runs words of which the first is a program.
fn run(words: &[String]) -> Result<()> {
    let output = Command::new(&words[0]).args(&words[1..]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", words.join(" "));
    Ok(())
}

impl Hall {
    fn new(ip: PathBuf) -> Hall {
        let hosts = (0..HOSTS).map(|_| Space::new()).collect();
        let (storage, keys) = (Space::new(), Scratch::new().unwrap());
        let server = Umd::or_skip(WHAT).unwrap().within(storage.prefix());
        let mut authority = Authority::new();
        authority.addresses.push(STORAGE.into());
        authority.furnish(&keys.path("server"), "server");
        authority.furnish(&keys.path("client"), "client");
        let daemon = Command::new("true").spawn().unwrap();
        let mut hall = Hall {
            ip,
            hosts,
            storage,
            server,
            daemon,
            keys,
        };
        hall.wire();
        hall.serve();
        hall
    }

    fn ip(&self, within: Option<&Space>, args: &str) -> Result<()> {
        let mut words = within.map_or_else(Vec::new, Space::prefix);
        words.push(text(&self.ip).to_owned());
        words.extend(args.split(' ').map(str::to_owned));
        run(&words)
    }

    /// Links and addresses.
    fn wire(&self) {
        let here = |args: &str| self.ip(None, args).unwrap();
        here("link set lo up");
        for bridge in ["lan", "san"] {
            here(&format!("link add {bridge} type bridge"));
            here(&format!("link set {bridge} up"));
        }
        let [a, b, c, d] = ETCD;
        here(&format!("addr add {a}.{b}.{c}.{d}/24 dev lan"));
        for (at, host) in self.hosts.iter().enumerate() {
            for (bridge, net) in [("lan", 77), ("san", 78)] {
                let address = format!("10.{net}.0.{}", 10 + at);
                self.link(host, bridge, &format!("{bridge}{at}"), &address);
            }
        }
        self.link(&self.storage, "san", "sans", STORAGE);
    }

    fn link(&self, space: &Space, bridge: &str, name: &str, address: &str) {
        let pid = space.0.id();
        let here = |args: &str| self.ip(None, args).unwrap();
        let there = |args: &str| self.ip(Some(space), args).unwrap();
        here(&format!(
            "link add {name} type veth peer name {bridge} netns {pid}"
        ));
        here(&format!("link set {name} master {bridge}"));
        here(&format!("link set {name} up"));
        there("link set lo up");
        there(&format!("addr add {address}/24 dev {bridge}"));
        there(&format!("link set {bridge} up"));
    }

    /// The daemon that serves the members.
    fn serve(&mut self) {
        let door = format!("tcp:{STORAGE}:{PORT}");
        let keys = self.keys.path("server");
        let args = ["daemon", "--nbd", &door, "--tls", text(&keys)];
        let log = fs::File::create(self.keys.path("log")).unwrap();
        let mut command = self.server.command(&args);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let before = std::mem::replace(&mut self.daemon, command.spawn().unwrap());
        drop(before.wait_with_output());
        let (begin, control) = (
            Instant::now(),
            self.server.runtime_dir().join("control.sock"),
        );
        while std::os::unix::net::UnixStream::connect(&control).is_err() {
            let said = fs::read_to_string(self.keys.path("log")).unwrap();
            assert!(begin.elapsed() < PATIENCE, "storage does not serve: {said}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.keys.path("log")).unwrap_or_default();
            eprintln!("what storage said:\n{log}");
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Place for Hall {
    fn hosts(&self) -> Vec<Umd> {
        let hosts = self.hosts.iter();
        hosts
            .map(|space| Umd::or_skip(WHAT).unwrap().within(space.prefix()))
            .collect()
    }

    /// Over the bridge; nothing else is cut there.
    fn gates(&self, servers: &Servers) -> Vec<Gate> {
        let servers = servers.addresses().into_iter();
        servers
            .map(|server| Gate::open_on(ETCD.into(), server))
            .collect()
    }

    fn disks(&self, scratch: &Scratch, prefix: &str, count: usize) -> Result<Vec<Disk>> {
        let files = scratch.images(prefix, count, 24 * MIB)?.into_iter();
        let client = self.keys.path("client");
        files
            .enumerate()
            .map(|(at, file)| {
                let export = format!("{prefix}{at}");
                let path = text(&file);
                let build = ["build", &export, "-l", "linear", "-n1", "--force", path];
                self.server.ok(&build)?;
                let keys = text(&client);
                let name = format!("nbds://{STORAGE}:{PORT}/{export}?tls-certificates={keys}");
                Ok(Disk { name, file })
            })
            .collect()
    }

    fn fencing(&self, _: &Scratch) -> String {
        "--cluster-reservations".into()
    }

    fn draw(&self, round: u64, dice: &mut Dice) -> Event {
        // Below a session, about one, and beyond it.
        let time = [1500, 4000, 7300, 9500, 13000][dice.below(5) as usize];
        let server = dice.below(6) as usize;
        match round % 8 {
            0 => Event::Kill,
            1 => Event::CutOff(From::All, time.max(9500)),
            2 => Event::Pause(time.max(9500)),
            // A member that does not answer for 30 seconds has failed, for all.
            3 => Event::CutOff(From::Members, time.min(7300)),
            4 => Event::Replace(server),
            5 => Event::CutOff(From::Etcd, time),
            6 => Event::Leave,
            _ if server < 3 => Event::Server(server),
            _ => Event::Pause(time),
        }
    }

    /// The keys of those that serve are registered, and of no life that has ended: a late write of
    /// it could lie in a block that nobody looks at.
    fn fenced(&self, set: &[Disk]) -> Result<()> {
        for disk in set {
            let export = disk.file.file_stem().and_then(|stem| stem.to_str());
            let export = export.context("images have names")?;
            let table = self
                .server
                .ok(&["cluster", "reservations", "--json", export])?;
            let table: serde_json::Value = serde_json::from_str(&table)?;
            let keys = table["registered"].as_array().map_or(0, Vec::len);
            ensure!(
                keys == HOSTS && table["reserved"] == true,
                "{export}: {table}"
            );
        }
        Ok(())
    }

    fn cut(&self, host: usize, from: From, _: &[Gate], cut: bool) -> Result<()> {
        let state = if cut { "down" } else { "up" };
        let links: &[&str] = match from {
            From::Etcd => &["lan"],
            From::Members => &["san"],
            From::All => &["lan", "san"],
        };
        links
            .iter()
            .try_for_each(|link| self.ip(None, &format!("link set {link}{host} {state}")))
            .context("a link of a host")
    }
}

/// What makes namespaces here; nothing where the system does not allow that.
fn unshare() -> Option<Vec<&'static str>> {
    // As nobody in particular, or else as root.
    let ways = [vec!["-U", "-r", "-n"], vec!["-n"]];
    ways.into_iter().find(|way| {
        let mut command = Command::new("unshare");
        let quiet = command.args(way).arg("true").stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    })
}

/// Runs a test of this program once more, inside namespaces.
fn inside(test: &str) {
    let Some(way) = unshare() else {
        return notice(&format!("SKIPPED {WHAT}: the system allows no namespaces"));
    };
    let own: &Path = &std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(way).arg(own).args(["--exact", test]);
    let status = command
        .arg("--nocapture")
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "inside namespaces: {status}");
}

#[test]
fn hosts_whose_members_are_served_come_and_go_and_a_mirror_loses_nothing() {
    if Umd::or_skip(WHAT).is_none() {
        return;
    }
    let Some(ip) = Oracle::or_skip(WHAT).map(|oracle| ip(&oracle)) else {
        return;
    };
    let Some(ip) = ip else {
        return notice(&format!(
            "SKIPPED {WHAT}: there is no program 'ip' (iproute2)"
        ));
    };
    if std::env::var_os(INSIDE).is_none() {
        return inside("hosts_whose_members_are_served_come_and_go_and_a_mirror_loses_nothing");
    }
    let hall = Hall::new(ip);
    if let Some(servers) = or_skip(WHAT, 3) {
        rounds::rounds(&hall, ("pair", "-l1 -n2", 2), servers, (5, 3));
    }
}
