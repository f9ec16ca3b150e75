//! Three hosts and three members of an etcd, in network namespaces of their own, one array whose
//! members another umd serves over NBD, and which fences by that: the whole chain without hardware.
//!
//! ```text
//!   host 0, 1, 2: load           etcd 0, 1, 2           storage: umd, TLS       a namespace each
//!     |     |                      |     |                 |
//!     |     '---------- bridge lan-'     '--- bridge quo   |
//!     '---------------- bridge san ------------------------'
//! ```
//!
//! Nobody kills a host that is to be fenced: it is only its key that is taken away. A host is
//! killed, stopped for a while, cut off from etcd, from its members, or from both (its links go
//! down), or leaves; members of etcd die, or do not reach the others while hosts still reach them,
//! and members of the array are replaced. What has to hold after each round is in `rounds.rs`.
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
use std::net::{IpAddr, SocketAddr};
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
use server::{Seat, Servers, or_skip_at};

const WHAT: &str = "hosts in network namespaces";
/// Set where the test runs inside its namespaces.
const INSIDE: &str = "UMD_INSIDE_NAMESPACES";
/// Bridges, and the network of each.
const LAN: (&str, u8) = ("lan", 77);
const SAN: (&str, u8) = ("san", 78);
/// Only members of etcd are on it.
const QUO: (&str, u8) = ("quo", 79);
const ETCD: usize = 3;
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

/// What has this number in a network.
fn address((_, net): (&str, u8), number: usize) -> IpAddr {
    IpAddr::from([10, net, 0, number as u8])
}

/// The bridge's end of the link of a host.
fn host_link((bridge, _): (&str, u8), host: usize) -> String {
    format!("{bridge}{host}")
}

/// The bridge's end of the link of a member of etcd to the others.
fn peer_link(server: usize) -> String {
    format!("peer{server}")
}

/// The hosts, what is between them, and who serves the members.
struct Hall {
    ip: PathBuf,
    hosts: Vec<Space>,
    etcd: Vec<Space>,
    storage: Space,
    server: Umd,
    daemon: Child,
    keys: Scratch,
    /// What happens in the first round.
    first: u64,
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
    fn new(ip: PathBuf, first: u64) -> Hall {
        let spaces = |count: usize| (0..count).map(|_| Space::new()).collect();
        let (hosts, etcd) = (spaces(HOSTS), spaces(ETCD));
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
            etcd,
            storage,
            server,
            daemon,
            keys,
            first,
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
        for (bridge, _) in [LAN, SAN, QUO] {
            here(&format!("link add {bridge} type bridge"));
            here(&format!("link set {bridge} up"));
        }
        // From where members of etcd are asked whether they are well.
        here(&format!("addr add {}/24 dev {}", address(LAN, 1), LAN.0));
        for (at, space) in self.hosts.iter().enumerate() {
            self.link(space, LAN, &host_link(LAN, at), 10 + at);
            self.link(space, SAN, &host_link(SAN, at), 10 + at);
        }
        for (at, space) in self.etcd.iter().enumerate() {
            self.link(space, LAN, &format!("etcd{at}"), 20 + at);
            self.link(space, QUO, &peer_link(at), 20 + at);
        }
        self.link(&self.storage, SAN, "storage", 2);
    }

    fn link(&self, space: &Space, net: (&str, u8), name: &str, number: usize) {
        let (pid, (bridge, address)) = (space.0.id(), (net.0, address(net, number)));
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

    /// Sets links of the bridges up, or down.
    fn set<'a>(&self, links: impl IntoIterator<Item = &'a String>, down: bool) -> Result<()> {
        let state = if down { "down" } else { "up" };
        links
            .into_iter()
            .try_for_each(|link| self.ip(None, &format!("link set {link} {state}")))
            .context("a link")
    }

    /// Where the members of etcd are to run.
    fn seats(&self) -> Vec<Seat> {
        let at = |net, number, port| SocketAddr::new(address(net, number), port);
        let spaces = self.etcd.iter().zip(20..);
        spaces
            .map(|(space, number)| Seat {
                within: space.prefix(),
                client: at(LAN, number, 2379),
                peer: at(QUO, number, 2380),
            })
            .collect()
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

    fn ways(&self, _: usize, servers: &Servers) -> Vec<SocketAddr> {
        servers.addresses()
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
        match (self.first + round) % 9 {
            0 => Event::Kill,
            1 => Event::CutOff(From::All, time.max(9500)),
            2 => Event::Pause(time.max(9500)),
            // A member that does not answer for 30 seconds has failed, for all.
            3 => Event::CutOff(From::Members, time.min(7300)),
            4 => Event::Replace(server),
            5 => Event::CutOff(From::Etcd, time),
            6 => Event::Leave,
            7 => Event::Split(server % ETCD, time),
            _ if server < ETCD => Event::Server(server),
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

    fn cut(&self, host: usize, from: From, cut: bool) -> Result<()> {
        let nets: &[(&str, u8)] = match from {
            From::Etcd => &[LAN],
            From::Members => &[SAN],
            From::All => &[LAN, SAN],
        };
        let links: Vec<String> = nets.iter().map(|net| host_link(*net, host)).collect();
        self.set(&links, cut)
    }

    fn split(&self, server: usize, cut: bool) -> Result<()> {
        self.set([&peer_link(server)], cut)
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

/// Rounds of an array, from one kind of event on.
fn run_rounds(test: &str, array: (&'static str, &str, usize), (first, count): (u64, u64)) {
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
        return inside(test);
    }
    let hall = Hall::new(ip, first);
    if let Some(servers) = or_skip_at(WHAT, hall.seats()) {
        rounds::rounds(&hall, array, servers, (count, 3));
    }
}

#[test]
fn hosts_whose_members_are_served_come_and_go_and_a_mirror_loses_nothing() {
    let test = "hosts_whose_members_are_served_come_and_go_and_a_mirror_loses_nothing";
    run_rounds(test, ("pair", "-l1 -n2", 2), (0, 4));
}

#[test]
fn hosts_whose_members_are_served_come_and_go_and_striped_mirrors_lose_nothing() {
    let test = "hosts_whose_members_are_served_come_and_go_and_striped_mirrors_lose_nothing";
    run_rounds(test, ("ten", "-l10 -n4 -c64", 4), (4, 5));
}
