//! Hosts of one array that come and go while all of them write, in rounds: what the tests of them
//! on one machine, and in network namespaces, have in common.
//!
//! ```text
//!   round:  all hosts write --- something happens to one --- the others go on --- all settle
//!           who was taken out joins again --- nothing that was answered is missing --- legs alike
//! ```
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use umd_format::{Format, SuperblockV1};
use umd_interop::ledger::{BLOCK, Ledger};
use umd_interop::nbd::Client;
use umd_interop::oracle::skipped;
use umd_interop::pattern::Dice;
use umd_interop::scratch::Scratch;
use umd_interop::umd::Umd;

use super::server::Servers;

pub const MIB: u64 = 1 << 20;
pub const HOSTS: usize = 3;
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
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A member: what the hosts call it, and the file behind it.
#[derive(Debug, Clone)]
pub struct Disk {
    pub name: String,
    pub file: PathBuf,
}

/// Where the hosts live, and what is between them and the rest.
pub trait Place: Sync {
    /// Hosts that run nothing yet.
    fn hosts(&self) -> Vec<Umd>;
    /// Where a host finds the members of etcd.
    fn ways(&self, host: usize, servers: &Servers) -> Vec<SocketAddr>;
    /// New disks, empty.
    fn disks(&self, scratch: &Scratch, prefix: &str, count: usize) -> Result<Vec<Disk>>;
    /// How a host is fenced, as it is told when it joins.
    fn fencing(&self, scratch: &Scratch) -> String;
    /// What happens in a round.
    fn draw(&self, round: u64, dice: &mut Dice) -> Event;
    /// Cuts a host off from something, or ends that.
    fn cut(&self, host: usize, from: From, cut: bool) -> Result<()>;
    /// Cuts a member of etcd off from the other ones, or ends that. Hosts still reach it.
    fn split(&self, server: usize, cut: bool) -> Result<()> {
        bail!("nothing is between the members of etcd here: {server}, {cut}")
    }
    /// Looks at what fences, when all hosts serve again.
    fn fenced(&self, set: &[Disk]) -> Result<()> {
        let _ = set;
        Ok(())
    }
}

/// From what a host can be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Etcd,
    Members,
    All,
}

struct Host {
    name: String,
    umd: Umd,
    /// Where it finds the members of etcd.
    ways: Vec<SocketAddr>,
    /// Of each client.
    ledgers: [Mutex<Vec<Ledger>>; CLIENTS],
    /// Writes that were answered.
    answered: AtomicU64,
}

/// What happens to a host while all of them write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Kill,
    /// It does not run for so many milliseconds.
    Pause(u64),
    /// It does not reach something for so many milliseconds.
    CutOff(From, u64),
    /// It is stopped by its administrator.
    Leave,
    /// A member of etcd dies, and comes back.
    Server(usize),
    /// It does not reach the others for so many milliseconds, while hosts still reach it.
    Split(usize, u64),
    /// A member is set faulty on one host, removed on the next, and the third adds another one.
    Replace(usize),
}

struct Cluster<'a> {
    name: &'static str,
    place: &'a dyn Place,
    hosts: Vec<Host>,
    /// Members by slot.
    set: Mutex<Vec<Disk>>,
    scratch: Scratch,
    servers: Mutex<Servers>,
}

impl Cluster<'_> {
    /// Three hosts that have joined; nothing where this cannot be run.
    fn new<'a>(
        place: &'a dyn Place,
        (name, options, members): (&'static str, &str, usize),
        servers: Servers,
    ) -> Option<Cluster<'a>> {
        let umds = place.hosts();
        let scratch = Scratch::new().unwrap();
        let set = place.disks(&scratch, name, members).unwrap();
        let mut args = vec!["create", name, "--bitmap=clustered", "--home-cluster=hall"];
        args.extend(["--nodes=4", "--bitmap-chunk=64K", "--config=none"]);
        args.extend(options.split(' '));
        args.extend(set.iter().map(|disk| disk.name.as_str()));
        umds[0].ok(&args).unwrap();
        let hosts = umds.into_iter().enumerate().map(|(at, umd)| Host {
            name: format!("host{at}"),
            umd,
            ways: place.ways(at, &servers),
            ledgers: std::array::from_fn(|client| Mutex::new(ledgers(at, client))),
            answered: AtomicU64::new(0),
        });
        let cluster = Cluster {
            name,
            place,
            hosts: hosts.collect(),
            set: Mutex::new(set),
            scratch,
            servers: Mutex::new(servers),
        };
        for host in &cluster.hosts {
            let joined = cluster.join(host);
            let text = joined.as_ref().map_err(ToString::to_string);
            if text.is_err_and(|said| said.contains("without the lock service")) {
                skipped(
                    "hosts that come and go",
                    "this umd was built without the feature etcd",
                );
                return None;
            }
            joined.unwrap();
        }
        Some(cluster)
    }

    fn join(&self, host: &Host) -> Result<()> {
        // What a dead daemon would have gone on with, it is told here.
        let _ = fs::remove_file(host.umd.runtime_dir().join("arrays.json"));
        let fencing = self.place.fencing(&self.scratch);
        let node = format!("--cluster-node={}", host.name);
        let mut args = vec!["assemble", self.name, "--cluster-engine=etcd", &fencing];
        args.extend(["--home-cluster=hall", &node]);
        let urls = host.ways.iter();
        let urls: Vec<String> = urls
            .map(|address| format!("--cluster-server=http://{address}"))
            .collect();
        args.extend(urls.iter().map(String::as_str));
        // Written at once, two mirrors would hardly ever differ when a host dies.
        let set = self.set.lock().unwrap().clone();
        let faults = set.iter().enumerate().map(|(seed, disk)| {
            // The last part of a path, or of the name of an export.
            let path = disk
                .name
                .split_once('?')
                .map_or(&*disk.name, |(path, _)| path);
            let (_, last) = path.rsplit_once('/').expect("names are whole");
            format!("{last}:lag={LAG_MS},seed={seed}")
        });
        let faults: Vec<String> = faults.collect();
        args.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
        args.extend(set.iter().map(|disk| disk.name.as_str()));
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
            Event::CutOff(from, time) => {
                self.place.cut(at, from, true)?;
                thread::sleep(Duration::from_millis(time));
                self.place.cut(at, from, false)?;
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
            Event::Split(server, time) => {
                self.place.split(server, true)?;
                thread::sleep(Duration::from_millis(time));
                self.place.split(server, false)?;
                self.servers.lock().unwrap().wait_until_well();
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
        let new = self.place.disks(&self.scratch, &name, 1)?.remove(0);
        let old = std::mem::replace(&mut set[slot], new);
        let steps = [("--fail", &old), ("--remove", &old), ("--add", &set[slot])];
        for (step, (how, disk)) in steps.into_iter().enumerate() {
            let host = &self.hosts[(at + step) % HOSTS];
            host.umd.ok(&["manage", self.name, how, &disk.name])?;
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
        let event = self.place.draw(round, dice);
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
        let set = self.set.lock().unwrap().clone();
        self.place.fenced(&set).with_context(told)?;
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
            ensure!(
                data(&pair[0].file)? == data(&pair[1].file)?,
                "{pair:?} differ"
            );
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

/// So many rounds as the environment asks for, or else as many.
pub fn rounds(
    place: &dyn Place,
    array: (&'static str, &str, usize),
    servers: Servers,
    (count, seed): (u64, u64),
) {
    let Some(cluster) = Cluster::new(place, array, servers) else {
        return;
    };
    let seed = number("UMD_ROUNDS_SEED").unwrap_or(0) + seed;
    let mut dice = Dice { seed, place: 0 };
    cluster.settles(None).unwrap();
    for round in 0..number("UMD_ROUNDS").unwrap_or(count) {
        let outcome = cluster.round(round, &mut dice);
        outcome.with_context(|| format!("seed {seed}")).unwrap();
    }
    for host in &cluster.hosts {
        host.umd.ok(&["stop", array.0]).unwrap();
    }
    cluster.alike().unwrap();
}
