//! Three hosts, three members of an etcd, one array: a verifying load on all hosts while one of
//! them is killed, stopped for a while, cut off from etcd, or leaves, members of etcd die, and
//! members of the array are replaced.
//!
//! ```text
//!   host 0 -- load        host 1 -- load        host 2 -- load       each writes blocks of its own
//!     | \  gates            | \  gates            | \  gates         and keeps books of them
//!     |  etcd 0 1 2         |  etcd 0 1 2         |  etcd 0 1 2
//!     '---------------------+---------------------'
//!                        members                                     reached by all, always
//! ```
//!
//! A host that is cut off, or does not run, still reaches the members: nothing but its own rules
//! and fencing keep it from writing what others have taken over. The fence agent of this test kills
//! the daemon of a host by its pid, as a power switch would.
//!
//! After each round nothing that was answered may be missing on any host, what was read once may
//! not go back, mirrors are alike, and no wait may be without an end.
//!
//! `UMD_ROUNDS=100` runs so many rounds on each array; `UMD_ROUNDS_SEED=N` draws others.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "../../umd-cluster/tests/engines/server/mod.rs"]
#[allow(
    dead_code,
    reason = "the tests of the lock services use what this does not"
)]
mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use umd_format::{Format, SuperblockV1};
use umd_interop::ledger::{BLOCK, Ledger};
use umd_interop::nbd::Client;
use umd_interop::oracle::skipped;
use umd_interop::pattern::Dice;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};

use server::{Gate, Servers, or_skip};

const MIB: u64 = 1 << 20;
const HOSTS: usize = 3;
/// Each host writes so many pieces of the array, of so many blocks, between those of the others: no
/// region of a bitmap is one host's alone.
const PIECES: usize = 64;
const BLOCKS: usize = 6;
/// Clients of a host, each with pieces of its own.
const CLIENTS: usize = 4;
/// How much longer a write to a member takes at most.
const LAG_MS: u64 = 12;
/// A session is ten seconds; a proof, a resync and a second round of both fit in well.
const PATIENCE: Duration = Duration::from_secs(90);
/// Kills the daemon of the host it is told, if it runs, and waits until it is gone.
const AGENT: &str = r#"#!/bin/sh
host=$(sed -n 's/^port=//p')
pid=$(cat "$(dirname "$0")/$host.pid") || exit 1
grep -q umd "/proc/$pid/cmdline" 2>/dev/null && kill -9 "$pid"
while [ -e "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status"; do sleep 0.05; done
"#;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

struct Host {
    name: String,
    umd: Umd,
    gates: Vec<Gate>,
    /// Of each client.
    ledgers: [Mutex<Vec<Ledger>>; CLIENTS],
    /// Writes that were answered.
    answered: AtomicU64,
}

/// What happens to a host while all of them write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Kill,
    /// It does not run for so many milliseconds.
    Pause(u64),
    /// It does not reach etcd for so many milliseconds.
    CutOff(u64),
    /// It is stopped by its administrator.
    Leave,
    /// A member of etcd dies, and comes back.
    Server(usize),
    /// A member is set faulty on one host, removed on the next, and the third adds another one.
    Replace(usize),
}

impl Event {
    /// Each kind in turn, so that a few rounds have seen them all.
    fn draw(round: u64, dice: &mut Dice) -> Event {
        // Below a session, about one, and beyond it.
        let time = [1500, 4000, 7300, 9500, 13000][dice.below(5) as usize];
        let server = dice.below(6) as usize;
        match round % 6 {
            0 => Event::Kill,
            1 => Event::CutOff(time.max(9500)),
            2 => Event::Pause(time),
            3 => Event::Leave,
            4 => Event::Replace(server),
            _ if server < 3 => Event::Server(server),
            _ => Event::CutOff(time),
        }
    }
}

struct Cluster {
    name: &'static str,
    hosts: Vec<Host>,
    /// Members by slot.
    set: Mutex<Vec<PathBuf>>,
    scratch: Scratch,
    servers: Mutex<Servers>,
}

impl Cluster {
    /// Three hosts that have joined; nothing where this cannot be run.
    fn new(name: &'static str, options: &str, members: usize) -> Option<Cluster> {
        let what = "hosts that come and go";
        let umds: Option<Vec<Umd>> = (0..HOSTS).map(|_| Umd::or_skip(what)).collect();
        let (umds, servers) = (umds?, or_skip(what, 3)?);
        let scratch = Scratch::new().unwrap();
        let set = scratch.images(name, members, 24 * MIB).unwrap();
        let mut args = vec!["create", name, "--bitmap=clustered", "--home-cluster=hall"];
        args.extend(["--nodes=4", "--bitmap-chunk=64K", "--config=none"]);
        args.extend(options.split(' '));
        args.extend(set.iter().map(|path| text(path)));
        umds[0].ok(&args).unwrap();
        let agent = scratch.path("fence");
        fs::write(&agent, AGENT).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let hosts = umds.into_iter().enumerate().map(|(at, umd)| Host {
            name: format!("host{at}"),
            umd,
            gates: servers.addresses().into_iter().map(Gate::open).collect(),
            ledgers: std::array::from_fn(|client| Mutex::new(ledgers(at, client))),
            answered: AtomicU64::new(0),
        });
        let cluster = Cluster {
            name,
            hosts: hosts.collect(),
            set: Mutex::new(set),
            scratch,
            servers: Mutex::new(servers),
        };
        for host in &cluster.hosts {
            let joined = cluster.join(host);
            let text = joined.as_ref().map_err(ToString::to_string);
            if text.is_err_and(|said| said.contains("without the lock service")) {
                skipped(what, "this umd was built without the feature etcd");
                return None;
            }
            joined.unwrap();
        }
        Some(cluster)
    }

    fn join(&self, host: &Host) -> Result<()> {
        // What a dead daemon would have gone on with, it is told here.
        let _ = fs::remove_file(host.umd.runtime_dir().join("arrays.json"));
        let agent = format!("--cluster-fence={}", text(&self.scratch.path("fence")));
        let node = format!("--cluster-node={}", host.name);
        let mut args = vec!["assemble", self.name, "--cluster-engine=etcd", &agent];
        args.extend(["--home-cluster=hall", &node]);
        let urls = host.gates.iter();
        let urls: Vec<String> = urls
            .map(|gate| format!("--cluster-server=http://{}", gate.address))
            .collect();
        args.extend(urls.iter().map(String::as_str));
        // Written at once, two mirrors would hardly ever differ when a host dies.
        let set = self.set.lock().unwrap().clone();
        let faults = set.iter().enumerate().map(|(seed, path)| {
            let path = text(path);
            format!("{path}:lag={LAG_MS},seed={seed}")
        });
        let faults: Vec<String> = faults.collect();
        args.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
        args.extend(set.iter().map(|path| text(path)));
        host.umd.ok(&args)?;
        let pid = host.umd.detail(self.name)?["pid"].to_string();
        fs::write(self.scratch.path(&format!("{}.pid", host.name)), pid)?;
        Ok(())
    }

    fn pid(&self, host: &Host) -> Option<Pid> {
        let path = self.scratch.path(&format!("{}.pid", host.name));
        Pid::from_raw(fs::read_to_string(path).ok()?.parse().ok()?)
    }

    /// Whether its daemon is there, running or stopped. A command would start another one.
    fn lives(&self, host: &Host) -> bool {
        let pid = self.pid(host).unwrap().as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_ok_and(|text| !text.contains("\nState:\tZ"))
    }

    /// Whether it runs the array: its daemon may be there without it.
    fn serves(&self, host: &Host) -> bool {
        self.lives(host) && host.umd.detail(self.name).is_ok()
    }

    /// Sees that no host waits for anything any more, and that nobody is dead and not recovered.
    fn settles(&self, but: Option<usize>) -> Result<()> {
        for (at, host) in self.hosts.iter().enumerate() {
            if Some(at) == but {
                continue;
            }
            let begin = Instant::now();
            loop {
                let array = host.umd.detail(self.name);
                let array = array.with_context(|| format!("{} does not serve", host.name))?;
                if settled(&array) {
                    break;
                }
                let (late, name) = (begin.elapsed() > PATIENCE, &host.name);
                ensure!(!late, "{name} waits without an end: {}", array["cluster"]);
                thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Every host that serves has what all of them wrote.
    fn verify(&self) -> Result<()> {
        for reader in self.hosts.iter().filter(|host| self.serves(host)) {
            let socket = reader.umd.runtime_dir().join("nbd.sock");
            let mut client = Client::connect(&socket, self.name)?;
            for writer in &self.hosts {
                for ledgers in &writer.ledgers {
                    let mut ledgers = ledgers.lock().unwrap();
                    let mut all = ledgers.iter_mut();
                    let read = all.try_for_each(|ledger| read_all(&mut client, ledger));
                    let (by, of) = (&reader.name, &writer.name);
                    read.with_context(|| format!("what {of} wrote, as {by} reads it"))?;
                }
            }
            client.disconnect()?;
        }
        Ok(())
    }

    fn cut(&self, at: usize, cut: bool) {
        self.hosts[at].gates.iter().for_each(|gate| gate.cut(cut));
    }

    /// Lets it happen. Returns who may not serve any more.
    fn happens(&self, event: Event, at: usize) -> Result<Option<usize>> {
        let signal = |signal| {
            let pid = self.pid(&self.hosts[at]).context("it runs")?;
            kill_process(pid, signal).context("its daemon is there")
        };
        match event {
            Event::Kill => signal(Signal::KILL)?,
            Event::Pause(time) => {
                signal(Signal::STOP)?;
                thread::sleep(Duration::from_millis(time));
                let _ = signal(Signal::CONT); // It may have been fenced.
            }
            Event::CutOff(time) => {
                self.cut(at, true);
                thread::sleep(Duration::from_millis(time));
                self.cut(at, false);
            }
            Event::Replace(number) => {
                self.replace(number, at)?;
                return Ok(None);
            }
            Event::Leave => {
                self.hosts[at].umd.ok(&["stop", self.name, "--force"])?;
            }
            Event::Server(server) => {
                let mut servers = self.servers.lock().unwrap();
                servers.kill(server);
                thread::sleep(Duration::from_secs(3));
                servers.start(server);
                servers.wait_until_well();
                return Ok(None);
            }
        }
        Ok(Some(at))
    }

    /// Another member in the place of one that works.
    fn replace(&self, number: usize, at: usize) -> Result<()> {
        let mut set = self.set.lock().unwrap();
        let slot = number % set.len();
        let name = format!("new-{}-", self.answered());
        let new = self.scratch.images(&name, 1, 24 * MIB)?.remove(0);
        let old = std::mem::replace(&mut set[slot], new);
        let steps = [("--fail", &old), ("--remove", &old), ("--add", &set[slot])];
        for (step, (how, path)) in steps.into_iter().enumerate() {
            let host = &self.hosts[(at + step) % HOSTS];
            host.umd.ok(&["manage", self.name, how, text(path)])?;
        }
        Ok(())
    }

    fn answered(&self) -> u64 {
        let answered = self.hosts.iter();
        answered
            .map(|host| host.answered.load(Ordering::SeqCst))
            .sum()
    }

    /// Every host but one writes on.
    fn goes_on(&self, but: Option<usize>) -> Result<()> {
        let hosts = self.hosts.iter().enumerate();
        for (_, host) in hosts.filter(|(at, _)| Some(*at) != but) {
            let (begin, before) = (Instant::now(), host.answered.load(Ordering::SeqCst));
            while host.answered.load(Ordering::SeqCst) < before + 20 {
                let late = begin.elapsed() > PATIENCE;
                ensure!(!late, "no write of {} is answered any more", host.name);
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Waits until no other host counts a host that serves no more as a member: who fences it then
    /// would end its next life.
    fn is_forgotten(&self, at: usize) -> Result<()> {
        let (begin, name) = (Instant::now(), &self.hosts[at].name);
        let other = &self.hosts[(at + 1) % HOSTS].umd;
        loop {
            let array = other.detail(self.name)?;
            let nodes = array["cluster"]["nodes"].as_array();
            if nodes.is_some_and(|all| all.iter().all(|node| node["host"] != *name.as_str())) {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "{name} is not forgotten: {array}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn round(&self, round: u64, dice: &mut Dice) -> Result<()> {
        let event = Event::draw(round, dice);
        let victim = usize::try_from(dice.below(HOSTS as u64))?;
        let told = || format!("round {round}: {event:?}, host{victim}");
        self.under_load(event, victim, dice).with_context(told)?;
        let host = &self.hosts[victim];
        if !self.serves(host) {
            self.is_forgotten(victim).with_context(told)?;
            self.join(host).with_context(told)?;
        }
        self.settles(None).with_context(told)?;
        self.verify().with_context(told)?;
        // Later writes would hide it.
        self.alike().with_context(told)?;
        println!("{}: {} writes in all", told(), self.answered());
        Ok(())
    }

    fn under_load(&self, event: Event, victim: usize, dice: &mut Dice) -> Result<()> {
        let stop = &AtomicBool::new(false);
        thread::scope(|scope| {
            let mut loads = Vec::new();
            for (at, host) in self.hosts.iter().enumerate() {
                for client in 0..CLIENTS {
                    let (seed, place) = (dice.below(u64::MAX), 0);
                    let load = move || self.load(host, client, &mut Dice { seed, place }, stop);
                    loads.push((at, scope.spawn(load)));
                }
            }
            thread::sleep(Duration::from_millis(500));
            let happened = self.happens(event, victim).and_then(|who| {
                self.settles(who)?;
                self.goes_on(who)?;
                Ok(who)
            });
            stop.store(true, Ordering::SeqCst);
            let ended = loads
                .into_iter()
                .map(|(at, load)| (at, load.join().unwrap()));
            let ended: Vec<(usize, Result<()>)> = ended.collect();
            let who = happened?;
            for (at, ended) in ended.into_iter().filter(|(at, _)| Some(*at) != who) {
                ended.with_context(|| format!("host{at} writes"))?;
            }
            Ok(())
        })
    }

    /// Writes what is this host's until it is told to stop.
    fn load(&self, host: &Host, client: usize, dice: &mut Dice, stop: &AtomicBool) -> Result<()> {
        let mut ledgers = host.ledgers[client].lock().unwrap();
        let socket = host.umd.runtime_dir().join("nbd.sock");
        let mut client = Client::connect(&socket, self.name)?;
        while !stop.load(Ordering::SeqCst) {
            let piece = usize::try_from(dice.below(ledgers.len() as u64))?;
            let ledger = &mut ledgers[piece];
            let index = usize::try_from(dice.below(BLOCKS as u64))?;
            let count = 1 + usize::try_from(dice.below((BLOCKS - index) as u64))?;
            let bytes = ledger.send(index, count);
            client.write(ledger.offset(index), &bytes, dice.below(4) == 0)?;
            // What a daemon has written outlives it: the machine goes on.
            ledger.acknowledge(index, count, true);
            host.answered.fetch_add(1, Ordering::SeqCst);
        }
        client.disconnect()
    }

    /// The mirrors are, while nobody writes.
    fn alike(&self) -> Result<()> {
        for pair in self.set.lock().unwrap().chunks(2) {
            ensure!(data(&pair[0])? == data(&pair[1])?, "{pair:?} differ");
        }
        Ok(())
    }
}

fn ledgers(host: usize, client: usize) -> Vec<Ledger> {
    let pieces = (client..PIECES).step_by(CLIENTS);
    let first = |piece: usize| ((piece * HOSTS + host) * BLOCKS) as u64;
    pieces
        .map(|piece| Ledger::new(first(piece), BLOCKS))
        .collect()
}

fn read_all(client: &mut Client, ledger: &mut Ledger) -> Result<()> {
    let mut bytes = vec![0; ledger.len() * BLOCK];
    client.read(ledger.offset(0), &mut bytes)?;
    let mut blocks = bytes.chunks_exact(BLOCK).enumerate();
    blocks.try_for_each(|(index, block)| ledger.read(index, block))
}

/// The bytes behind a member's superblock and bitmaps.
fn data(member: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(member)?;
    let found = SuperblockV1::load(&bytes[4096..8192], Format::V1_2, bytes.len() as u64 / 512)?;
    let start = usize::try_from(found.fields.data_offset_sectors)? * 512;
    Ok(bytes[start..].to_vec())
}

fn settled(array: &Value) -> bool {
    let cluster = &array["cluster"];
    let nodes = cluster["nodes"].as_array();
    let mut nodes = nodes.into_iter().flatten();
    array["sync"].is_null()
        && array["sync_pending"] == false
        && array["degraded"] == 0
        && cluster["frozen"].is_null()
        && cluster["waits"].as_array().is_some_and(Vec::is_empty)
        && nodes.all(|node| node["state"] != "dead")
}

fn rounds(name: &'static str, options: &str, members: usize, seed: u64) {
    let Some(cluster) = Cluster::new(name, options, members) else {
        return;
    };
    let seed = number("UMD_ROUNDS_SEED").unwrap_or(0) + seed;
    let mut dice = Dice { seed, place: 0 };
    cluster.settles(None).unwrap();
    for round in 0..number("UMD_ROUNDS").unwrap_or(6) {
        let outcome = cluster.round(round, &mut dice);
        outcome.with_context(|| format!("seed {seed}")).unwrap();
    }
    for host in &cluster.hosts {
        host.umd.ok(&["stop", name]).unwrap();
    }
    cluster.alike().unwrap();
}

#[test]
fn hosts_come_and_go_and_a_mirror_loses_nothing() {
    rounds("pair", "-l1 -n2", 2, 1);
}

#[test]
fn hosts_come_and_go_and_a_raid10_loses_nothing() {
    rounds("ten", "-l10 -n4 -c64", 4, 2);
}
