//! A host: one process after another that runs the shipped [`Clustered`], and what the process has
//! asked of disks, of the lock service and of time.

use std::collections::BTreeMap;

use umd_core::array::{Clustered, Completion, Status};
use umd_core::cluster::{DeliveryId, DeviceNumber, End, NewDisk, NodeSlot, Peer};
use umd_core::value::{Instant, IoId, MemberId, Timer};

use super::line::Line;

/// What a process has been asked, and by what name the oracle knows it.
#[derive(Debug, Clone)]
pub enum Asked {
    /// A write, by its number; FUA.
    Write(u64, bool),
    /// A read: its tick, and the first sector.
    Read(u64, u64),
    /// A flush, by its number.
    Flush(u64),
}

/// What is to happen to a process.
#[derive(Debug)]
pub enum At {
    /// A member I/O is over.
    Done(Completion),
    /// A timer of the array's is due, if it is still the one that was set.
    Timer(Timer, Instant),
    /// Something of the node's or the line's is due.
    Tick,
    /// It says what it has to say to the service.
    Say,
    /// It hears.
    Hear,
    /// It renews its session, and looks after others.
    Keep,
    /// It reads its members.
    Load(NodeSlot),
    /// It has tried to fence somebody.
    Fence(Peer),
    /// It has looked for a disk.
    Find(NewDisk),
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Which of its processes this is.
    pub life: u64,
    /// It runs.
    pub array: Option<Running>,
    /// It stands still until then.
    pub paused_until: Instant,
    /// It is switched off until then.
    pub off_until: Instant,
    /// It does not reach the lock service until then.
    pub isolated_until: Instant,
    /// It does not reach a disk until then.
    pub cut_until: Vec<Instant>,
    /// Devices opened so far: each has an identity of its own.
    pub opens: u32,
    /// How its last process ended.
    pub end: Option<End>,
}

/// What a process is.
pub struct Running {
    /// The shipped node with its array.
    pub clustered: Clustered,
    /// Its end of the lock service.
    pub line: Line,
    /// Its life in the cluster, once it was let in.
    pub me: Option<Peer>,
    /// It serves.
    pub ready: bool,
    /// It was told to stop.
    pub stopping: bool,
    /// It has lost its session.
    pub lost: bool,
    /// The array as it last was.
    pub status: Option<Status>,
    /// The size that it shows.
    pub shown_sectors: u64,
    /// By its own view.
    pub token: bool,
    /// The same of the right to resync.
    pub resync: bool,
    /// What it waits for.
    pub timers: BTreeMap<Timer, Instant>,
    /// When it is looked after next.
    pub tick: Option<Instant>,
    /// It will say something.
    pub says: bool,
    /// It will hear something.
    pub hears: bool,
    /// Its member I/O, by the number of the flight.
    pub ios: BTreeMap<IoId, u64>,
    /// What it was asked.
    pub requests: BTreeMap<u64, Asked>,
    /// What administrators asked.
    pub controls: BTreeMap<u64, String>,
    /// Superblocks that it was told of, each by a good device, and has not said that it has read.
    pub told: BTreeMap<DeliveryId, DeviceNumber>,
    /// Devices that it has open.
    pub opened: BTreeMap<usize, MemberId>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("me", &self.me)
            .field("ready", &self.ready)
            .field("lost", &self.lost)
            .field("waits", &self.clustered.node().waits())
            .field("frozen", &self.clustered.node().frozen())
            .field("sync", &self.status.as_ref().map(|status| &status.sync))
            .field("requests", &self.requests)
            .field("controls", &self.controls)
            .field("ios", &self.ios)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// One that does nothing.
    pub fn new(disks: usize) -> Host {
        Host {
            life: 0,
            array: None,
            paused_until: Instant(0),
            off_until: Instant(0),
            isolated_until: Instant(0),
            cut_until: vec![Instant(0); disks],
            opens: 0,
            end: None,
        }
    }

    /// A new identity for a disk.
    pub fn open(&mut self, disk: usize) -> MemberId {
        self.opens += 1;
        MemberId(self.opens * 64 + disk as u32)
    }

    /// Whether hosts may use the array here.
    pub fn serves(&self) -> bool {
        let running = self.array.as_ref();
        running.is_some_and(|one| one.ready && !one.stopping && !one.lost)
    }
}

/// The disk of a device.
pub fn disk_of(member: MemberId) -> usize {
    (member.0 % 64) as usize
}

impl Running {
    /// A process that has done nothing yet.
    pub fn new(clustered: Clustered, name: String) -> Running {
        Running {
            clustered,
            line: Line::new(name),
            me: None,
            ready: false,
            stopping: false,
            lost: false,
            status: None,
            shown_sectors: 0,
            token: false,
            resync: false,
            timers: BTreeMap::new(),
            tick: None,
            says: false,
            hears: false,
            ios: BTreeMap::new(),
            requests: BTreeMap::new(),
            controls: BTreeMap::new(),
            told: BTreeMap::new(),
            opened: BTreeMap::new(),
        }
    }

    /// The member that is this disk.
    pub fn member(&self, disk: usize) -> Option<MemberId> {
        let members = &self.status.as_ref()?.members;
        let found = members.iter().find(|member| disk_of(member.id) == disk);
        found.map(|member| member.id)
    }
}
