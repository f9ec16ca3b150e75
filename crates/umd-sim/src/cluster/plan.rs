//! What one run is about: the array, the hosts, and a list of what befalls them, each with its
//! time.
//!
//! ```text
//!   seed --draw--> Plan { shape, chances, items }
//!                          0.2 s  host 1 writes 8 sectors at 40      what cannot be done when its
//!                          1.7 s  host 0 is paused for 14 s          time comes is passed over, so
//!                          ...                                       any of them can be left out
//! ```
//!
//! Drawn plans come from `draw.rs`; those of scenes are written by hand.

use std::fmt;

use umd_core::value::Span;

use crate::disk::Armed;

/// What befalls somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A host that does not run joins.
    Start(usize),
    /// A host leaves.
    Stop(usize),
    /// The process of a host dies. What it sent to the disks may land later, until it is fenced.
    Crash(usize),
    /// A host does nothing for so long. What it sent to the disks may land meanwhile.
    Pause(usize, Span),
    /// A host does not reach the lock service for so long.
    Isolate(usize, Span),
    /// A host (or all of them) does not reach a disk for so long.
    Cut(Option<usize>, usize, Span),
    /// A host writes: first sector, how many, FUA.
    Write(usize, u64, u64, bool),
    /// A host writes zeros.
    Zero(usize, u64, u64),
    /// A host trims.
    Trim(usize, u64, u64),
    /// A host reads.
    Read(usize, u64, u64),
    /// A host flushes.
    Flush(usize),
    /// Something will go wrong on a disk.
    Arm(usize, Armed),
    /// Sectors of a disk cannot be read until they are written: from the start of its data.
    Damage(usize, u64, u64),
    /// An administrator fails a member on a host.
    Fail(usize, usize),
    /// An administrator removes it.
    Remove(usize, usize),
    /// An administrator adds a disk, or adds it again if it was one.
    Add(usize, usize),
    /// An administrator adds a disk that was a member, with what it holds.
    ReAdd(usize, usize),
    /// An administrator has a member replaced by any spare.
    Replace(usize, usize),
    /// An administrator lets the array use so much of each member.
    Grow(usize, u64),
    /// An administrator has bits stand for so many bytes.
    Rechunk(usize, u32),
    /// An administrator wants the array to have so many slots.
    Slots(usize, u16),
    /// An administrator has everything checked; or repaired.
    Check(usize, bool),
    /// The power of everything goes.
    PowerCut,
}

/// When what happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Since the beginning.
    pub at: Span,
    /// What.
    pub act: Act,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8} ms  {:?}", self.at.0 / 1_000_000, self.act)
    }
}

/// How it is proved that a node writes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fencing {
    /// The disks refuse it, and end what it had under way.
    Storage,
    /// Its power goes.
    Power,
    /// Either.
    Mixed,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Chances of disks, of the network and of the order of events.
    pub seed: u64,
    /// How many hosts there are.
    pub hosts: usize,
    /// How many slots for nodes the members have.
    pub capacity: u16,
    /// 1 or 10.
    pub level: i32,
    /// md's layout number (RAID10: copies).
    pub layout: u32,
    /// Members of the new array.
    pub legs: usize,
    /// Members that are spares.
    pub spares: usize,
    /// Disks that are none of it yet.
    pub drawer: usize,
    /// Sectors of each member that are used in the beginning.
    pub used_sectors: u64,
    /// And so many more that it has.
    pub room_sectors: u64,
    /// Bytes of a region of the bitmaps.
    pub region_bytes: u64,
    /// Sectors of a resync's first window.
    pub window_sectors: u64,
    /// The members are declared to be in sync.
    pub assume_clean: bool,
    /// How nodes are fenced.
    pub fencing: Fencing,
    /// So many of 1000 attempts to fence give no proof.
    pub unproved_permille: u64,
    /// What a node says or hears takes up to so long.
    pub network_ns: u64,
    /// Of 1000 messages to the service so many have their answers lost.
    pub forgotten_permille: u64,
    /// So many of 1000 writes of a host that stands still land late.
    pub late_permille: u64,
    /// Hosts write to the same sectors at the same time.
    pub contested: bool,
    /// Disks take their mean time, and nothing of a write is seen before it is over.
    pub plain: bool,
    /// What befalls them, in the order of time.
    pub items: Vec<Item>,
}

impl Plan {
    /// A mirror of two legs, with so many hosts, and nothing left to chance.
    pub fn plain(hosts: usize, items: Vec<Item>) -> Plan {
        Plan {
            seed: 1,
            hosts,
            capacity: hosts as u16 + 2,
            level: 1,
            layout: 0,
            legs: 2,
            spares: 0,
            drawer: 0,
            used_sectors: 1024,
            room_sectors: 0,
            region_bytes: 32 << 10,
            window_sectors: 128,
            assume_clean: true,
            fencing: Fencing::Power,
            unproved_permille: 0,
            network_ns: 2_000_000,
            forgotten_permille: 0,
            late_permille: 0,
            contested: false,
            plain: true,
            items,
        }
    }

    /// Disks, those in the drawer included.
    pub fn disks(&self) -> usize {
        self.legs + self.spares + self.drawer
    }

    /// Sectors of the array when so many of each member are used.
    pub fn array_sectors(&self, used: u64) -> u64 {
        match self.level {
            10 => used * self.legs as u64 / u64::from(self.layout & 0xff),
            _ => used,
        }
    }

    /// Members of which the array can do without all at once, by the number of their disks: what
    /// fails is one of these.
    pub fn victims(&self) -> std::ops::Range<usize> {
        match self.level {
            10 => self.legs - 1..self.legs,
            _ => 1..self.legs,
        }
    }
}

/// Sectors of a chunk of RAID10.
pub const CHUNK_SECTORS: u64 = 16;
