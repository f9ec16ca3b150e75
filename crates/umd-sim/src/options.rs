//! What one seed is about: a random subset of features and faults, then their rates.
//!
//! A run that exercises everything at once exercises little: each seed first leaves most things
//! out (swarm testing), so that what is left happens often and in many orders.

mod forked;
mod halfway;
mod leveled;
mod long;
mod replaced;
mod rested;
mod worn;

use std::collections::BTreeSet;

use crate::disk::Latency;
use crate::metaview::OLD;
use crate::rare::Rare;
use crate::rng::{Rng, Stream, mix};
pub use forked::Forks;
use forked::draw_forks;
use long::LONG_SECTORS;

/// How a boot ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The array is stopped in good order.
    Stop,
    /// The power goes: every disk and the host at their own instant within the window.
    PowerCut {
        /// The window.
        window_ns: u64,
    },
    /// The process is killed; disks and caches live on.
    Kill,
}

/// When a boot that does not end well ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// After so many answers to hosts.
    Answers(u64),
    /// So long after a fault has struck, or after the last answer.
    Fault(u64),
    /// So long after the array was asked to stop.
    Stop(u64),
    /// So long after the last answer (resync, safe mode, bitmap clearing).
    Idle(u64),
    /// As soon as so many superblocks have been sent to members.
    Supers(u64),
    /// As soon as members have been seen so often to tell of different levels or layouts.
    SplitShape(u64),
    /// The same, of how far a reshape has come, too.
    SplitMove(u64),
}

/// What can go wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A write fails.
    WriteError,
    /// A superblock or bitmap write fails.
    MetadataError,
    /// A flush fails and loses what it should have kept.
    FlushError,
    /// Sectors become unreadable.
    Latent,
    /// Sectors take no data any more.
    Worn,
    /// The disk vanishes.
    Gone,
    /// An operation takes a second or so.
    Hiccup,
    /// An operation takes minutes.
    Hang,
    /// Content changes by itself.
    Rot,
    /// A write is reported done and never lands.
    LostWrite,
    /// A write lands elsewhere.
    Misdirected,
}

const FAULTS: [Fault; 7] = [
    Fault::WriteError,
    Fault::MetadataError,
    Fault::FlushError,
    Fault::Latent,
    Fault::Gone,
    Fault::Hiccup,
    Fault::Hang,
];

/// Rare: they forbid much else while they last.
const LIES: [Fault; 3] = [Fault::Rot, Fault::LostWrite, Fault::Misdirected];

/// What an administrator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Marks a member faulty.
    Fail,
    /// Takes a faulty member or a spare out.
    Remove,
    /// Puts a blank disk in.
    Add,
    /// Puts a disk back that was a member before.
    ReAdd,
    /// Has a member replaced while it serves.
    Replace,
    /// Makes a member write-mostly, or an ordinary one again.
    Mostly,
    /// Takes the bitmap away, or makes one.
    Bitmap,
    /// Starts a check.
    Check,
    /// Starts a repair.
    Repair,
    /// Ends what runs.
    Idle,
    /// Freezes, and thaws later.
    Freeze,
    /// Makes the array read-only, and writable later.
    ReadOnly,
    /// Has level faulty fail in one more way, or in none.
    Mode,
    /// Makes it one of another level or layout.
    Level,
}

const ACTIONS: [Action; 9] = [
    Action::Fail,
    Action::Remove,
    Action::Add,
    Action::ReAdd,
    Action::Check,
    Action::Repair,
    Action::Idle,
    Action::Freeze,
    Action::ReadOnly,
];

/// What hosts do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Hosts, each with one operation at a time.
    pub clients: u16,
    /// Operations of each in one boot.
    pub operations: u64,
    /// Each host keeps to its own part of the array.
    pub disjoint: bool,
    /// Only this many sectors of the array (of each host's part) are used; 0: all.
    pub hot_sectors: u64,
    /// Largest operation.
    pub most_sectors: u64,
    /// Weights: read, write, write zeroes, trim, flush, allocation.
    pub mix: [u32; 6],
    /// Offsets and lengths are multiples of this.
    pub align_sectors: u64,
    /// Writes that are FUA, of 1000.
    pub fua_permille: u64,
    /// Mean pause between operations.
    pub think_ns: u64,
    /// Pauses of several seconds, of 1000.
    pub nap_permille: u64,
    /// Hosts go through the array together, each taking the next piece of this length; 0: not.
    pub stream_sectors: u64,
    /// Sectors of a logical block, of the disks and so of the array: 1, or 8 (4Kn).
    pub block_sectors: u64,
}

/// What the write-intent bitmap keeps of each region, where there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Marks {
    /// A bit.
    #[default]
    Bits,
    /// A state (version 6), as a new array has them.
    States,
    /// A state: the array comes from elsewhere, and has any of those that are true of it.
    Mixed,
}

/// The options of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// -5 (faulty), -1 (linear), 0, 1, 4, 5, 6 or 10.
    pub level: i32,
    /// md's layout number.
    pub layout: u32,
    /// Slots.
    pub slots: u16,
    /// Slots that are missing at creation.
    pub missing: u16,
    /// Spares at creation.
    pub spares: u16,
    /// Blank disks in the drawer.
    pub drawer: u16,
    /// Metadata minor; [`OLD`] for version 0.90.
    pub minor: u8,
    /// 0 for RAID1.
    pub chunk_sectors: u32,
    /// Size of each disk: slots, spares, drawer.
    pub disk_sectors: Vec<u64>,
    /// Data offset, for 1.1 and 1.2.
    pub data_offset_sectors: Option<u64>,
    /// Bytes per bit; `None`: no bitmap.
    pub bitmap_bytes: Option<u32>,
    /// What the bitmap keeps.
    pub marks: Marks,
    /// The bitmap lies in a file of its own.
    pub bitmap_file: bool,
    /// Disks are full of old rubbish at creation.
    pub old_disks: bool,
    /// Created with --assume-clean (blank disks only).
    pub assume_clean: bool,
    /// Slots whose member is write-mostly, as a mask.
    pub write_mostly: u64,
    /// How many writes may lag on them; counts where there is a bitmap.
    pub write_behind: u32,
    /// Hosts.
    pub workload: Workload,
    /// One per disk.
    pub latency: Vec<Latency>,
    /// Boots: how each ends. The last one is always stopped well.
    pub boots: Vec<(Ending, Trigger)>,
    /// Faults that occur.
    pub faults: BTreeSet<Fault>,
    /// How many in one boot.
    pub faults_per_boot: u64,
    /// Actions that occur.
    pub actions: BTreeSet<Action>,
    /// How many in one boot.
    pub actions_per_boot: u64,
    /// Faults may exceed the redundancy: then errors are legal, wrong data is not.
    pub beyond: bool,
    /// Crash images that are drawn while it runs.
    pub forks: Forks,
    /// Disks that do a FUA write as a write and a flush of everything, as a mask.
    pub emulated_fua: u64,
    /// A power cut makes a sector of torn writes unreadable, on one disk.
    pub shorn: bool,
    /// A power cut tears metadata in the middle of sectors, on one disk.
    pub shreds: bool,
    /// Old copies of members lie beside them when the array is assembled.
    pub clones: bool,
    /// An administrator changes the limits of sync actions all the time.
    pub limits: bool,
    /// Members have bad-block logs. That of one starts with so many ranges, and there is rubbish
    /// where they are.
    pub logged: Option<u64>,
    /// What would come together too seldom by chance.
    pub rare: Rare,
}

/// Of 1000 arrays without redundancy so many are of level faulty.
const FAULTY_PERMILLE: u64 = 250;

/// Of 1000 arrays with redundancy so many have a lockless bitmap.
const LOCKLESS_PERMILLE: u64 = 120;

/// What the states of a lockless bitmap take from each disk, and a little more.
const STATES_ROOM_SECTORS: u64 = 320;

/// As slow as write-mostly members are made.
const SLOW_WRITE_NS: u64 = 100_000_000;

/// So many ranges have room in a log of a page.
pub const LOG_RANGES: u64 = 512;
/// That many and more are not strewn at random: they would merge.
pub const MANY_RANGES: u64 = 100;

fn subset<T: Copy + Ord>(rng: &mut Rng, all: &[T], most: u64) -> BTreeSet<T> {
    let count = rng.range(0, most);
    (0..count).map(|_| rng.pick(all)).collect()
}

impl Options {
    /// The options of a seed.
    pub fn draw(seed: u64) -> Options {
        let rng = &mut Rng::new(seed, Stream::Options);
        let (level, slots, layout) = match seed % 10 {
            // The meaning of other seeds is that of before these levels were there.
            9 => draw_copied(rng),
            _ => draw_shape(rng),
        };
        let redundant = level > 0;
        let spares = if redundant && rng.permille(250) { 1 } else { 0 };
        let drawer = match redundant {
            true => rng.pick(&[0, 0, 1, 2]),
            false => 0,
        };
        let missing = u16::from(redundant && rng.permille(80));
        let minor = rng.pick(&[0, 1, 2, 2]);
        let chunk_sectors = draw_chunk(rng, level);
        let data_offset_sectors = (minor != 0).then(|| rng.pick(&[64, 72, 128, 256]));
        let disks = usize::from(slots + spares + drawer);
        // Bits of small bitmaps lie in the sector of their superblock, and travel with it.
        let long_bitmap = redundant && rng.permille(40);
        let disk_sectors = match long_bitmap {
            true => vec![LONG_SECTORS; disks],
            false => draw_sizes(rng, disks, minor, u64::from(chunk_sectors)),
        };
        let old_disks = rng.permille(300);
        let bitmap = redundant && rng.permille(650);
        let bitmap_bytes = bitmap.then(|| 4096 << rng.below(6));
        let workload = draw_workload(rng);
        let mut options = Options {
            seed,
            level,
            layout,
            slots,
            missing,
            spares,
            drawer,
            minor,
            chunk_sectors,
            disk_sectors,
            data_offset_sectors,
            bitmap_bytes: long_bitmap.then_some(4096).or(bitmap_bytes),
            marks: Marks::Bits,
            bitmap_file: false,
            old_disks,
            assume_clean: !old_disks && missing == 0 && rng.permille(300),
            write_mostly: draw_mostly(rng, level, slots),
            write_behind: 0,
            workload,
            latency: draw_latency(rng, disks),
            boots: draw_boots(rng),
            faults: subset(rng, &FAULTS, 3),
            faults_per_boot: rng.range(1, 4),
            actions: subset(rng, &ACTIONS, 4),
            actions_per_boot: rng.range(1, 6),
            beyond: rng.permille(100),
            forks: draw_forks(rng),
            emulated_fua: if rng.permille(150) { rng.next_u64() } else { 0 },
            shorn: rng.permille(100),
            shreds: false,
            clones: rng.permille(100),
            limits: false,
            logged: None,
            rare: Rare::default(),
        };
        options.draw_more(rng);
        if long_bitmap {
            options.begin_in_sync();
        }
        options
    }

    /// What was thought of later: drawn last, so that the rest of a seed stays what it was.
    fn draw_more(&mut self, rng: &mut Rng) {
        if self.level > 0 && rng.permille(60) {
            self.faults.insert(rng.pick(&LIES));
        }
        if (4..=6).contains(&self.level) && rng.permille(250) {
            let chunk = u64::from(self.chunk_sectors);
            self.workload.stream_sectors = rng.pick(&[chunk, chunk, chunk.div_ceil(2), 8, 5]);
        }
        if self.chunk_sectors.is_multiple_of(8) && rng.permille(80) {
            self.use_large_blocks();
        }
        self.limits = self.level > 0 && rng.permille(150);
        if self.level > 0 && self.spares + self.drawer > 0 && rng.permille(300) {
            self.actions.insert(Action::Replace);
            self.actions_per_boot += 2;
        }
        if self.level > 0 && rng.permille(120) {
            self.actions.insert(Action::Bitmap);
            self.actions_per_boot += 2;
        }
        self.draw_apart(self.seed);
    }

    /// What is drawn from streams of its own: other seeds mean what they meant.
    fn draw_apart(&mut self, seed: u64) {
        let rare = Rng::new(seed, Stream::Faulty).permille(FAULTY_PERMILLE);
        if self.level <= 0 && rare {
            self.make_faulty();
        }
        self.draw_behind(&mut Rng::new(seed, Stream::Behind));
        self.draw_logged(&mut Rng::new(seed, Stream::Logged));
        if Rng::new(seed, Stream::Lockless).permille(LOCKLESS_PERMILLE) {
            self.use_states();
        }
        self.draw_stored(&mut Rng::new(seed, Stream::Stored));
        self.draw_supers(&mut Rng::new(seed, Stream::Supers));
        self.draw_alone(&mut Rng::new(seed, Stream::Alone(0)));
        self.draw_full(&mut Rng::new(seed, Stream::Full));
        self.draw_halfway(&mut Rng::new(seed, Stream::Halfway));
        self.draw_worn(&mut Rng::new(seed, Stream::Worn));
        self.draw_rare(seed);
    }

    /// One mirror in thirty has one member with a log that is full, which cannot read one sector
    /// more, and a spare that is to be rebuilt from it.
    fn draw_full(&mut self, rng: &mut Rng) {
        let room = self.minor != 0 && self.minor != OLD;
        let plain = self.marks == Marks::Bits && !self.bitmap_file && !self.rare.alone;
        let more = self.spares + self.drawer;
        let fits = self.level == 1 && self.slots == 2 && room && plain && more > 0;
        if !fits || !rng.permille(100) {
            return;
        }
        self.logged = Some(LOG_RANGES - rng.below(2));
        (self.missing, self.spares, self.drawer) = (1, 1, more - 1);
        for sectors in &mut self.disk_sectors {
            *sectors = (*sectors).max(LONG_SECTORS);
        }
        if self.workload.hot_sectors == 0 {
            self.workload.hot_sectors = 64;
        }
        self.beyond = true;
    }

    /// The power goes in the middle of superblocks, boot after boot.
    fn draw_supers(&mut self, rng: &mut Rng) {
        if self.level <= 0 || !rng.permille(30) {
            return;
        }
        let boots = self.boots.len().max(3);
        let mut cut = || {
            let window_ns = rng.pick(&[0, 0, 1_000_000]);
            let supers = rng.range(1, 3 * u64::from(self.slots));
            (Ending::PowerCut { window_ns }, Trigger::Supers(supers))
        };
        let last = self.boots.pop().expect("there is a last boot");
        self.boots = (1..boots).map(|_| cut()).collect();
        self.boots.push(last);
    }

    /// One mirror with a bitmap of ten is torn apart; that is enough to happen to disks.
    fn draw_alone(&mut self, rng: &mut Rng) {
        let plain = self.marks == Marks::Bits && !self.bitmap_file && self.logged.is_none();
        let fits = self.level == 1 && plain && self.bitmap_bytes.is_some() && self.missing == 0;
        if !fits || !rng.permille(100) {
            return;
        }
        self.rare.alone = true;
        self.beyond = false;
        self.clones = false;
        self.forks = Forks::default();
        for lie in LIES {
            self.faults.remove(&lie);
        }
        let last = self.boots.pop().expect("there is a last boot");
        self.boots.truncate(3);
        self.boots.resize(3, last);
        self.boots[0] = last;
        let answers = Trigger::Answers(rng.range(1, 20));
        self.boots[1] = (Ending::PowerCut { window_ns: 0 }, answers);
        self.boots.push(last);
        self.actions.insert(Action::ReAdd);
        self.actions_per_boot += 3;
    }

    /// Disks of 4Kn: nothing smaller than eight sectors is read or written, nor asked for.
    fn use_large_blocks(&mut self) {
        for sectors in &mut self.disk_sectors {
            *sectors -= *sectors % 8;
        }
        let workload = &mut self.workload;
        workload.block_sectors = 8;
        workload.align_sectors = workload.align_sectors.next_multiple_of(8);
        workload.most_sectors = workload.most_sectors.max(8);
        workload.stream_sectors -= workload.stream_sectors % 8;
    }

    /// One array of seven has a member with bad blocks.
    fn draw_logged(&mut self, rng: &mut Rng) {
        // Where superblocks lie behind the data a log would leave no room for it.
        let room = self.minor != 0 && self.missing == 0;
        let logged = self.level > 0 && room && rng.permille(150);
        self.logged = logged.then(|| rng.range(0, 8));
    }

    /// Three RAID1s of ten have write-mostly members, slow ones, that writes may lag on.
    fn draw_behind(&mut self, rng: &mut Rng) {
        if self.level != 1 || !rng.permille(300) {
            return;
        }
        self.write_behind = rng.pick(&[1, 2, 8, 256]);
        let all = (1 << self.slots) - 1;
        self.write_mostly = match rng.permille(50) {
            true => all,
            false => rng.range(1, all - 1),
        };
        self.rare.begun_sectors = 0;
        self.bitmap_bytes.get_or_insert(4096 << rng.below(6));
        let slower = rng.pick(&[1, 10, 100]);
        for disk in 0..usize::from(self.slots) {
            if self.write_mostly >> disk & 1 == 1 {
                let write_ns = &mut self.latency[disk].write_ns;
                *write_ns = (*write_ns * slower).min(SLOW_WRITE_NS).max(*write_ns);
            }
        }
        // What lags matters to those who look at it, and where others are lost meanwhile.
        let hot_sectors = &mut self.workload.hot_sectors;
        *hot_sectors = rng.pick(&[*hot_sectors, 16, 64]);
        if rng.coin() {
            let fault = rng.pick(&[Fault::Gone, Fault::WriteError, Fault::Latent]);
            self.faults.insert(fault);
        }
        if rng.coin() {
            self.actions.insert(Action::Fail);
        }
        if rng.coin() {
            self.actions.insert(Action::Mostly);
            self.actions_per_boot += 3;
        }
    }

    /// The bitmap is lockless. Kernels have that on metadata 1.2 only, without write-behind. Where
    /// writes lag bits stay.
    pub fn use_states(&mut self) {
        if self.level <= 0 || self.write_behind > 0 || self.marks != Marks::Bits {
            return;
        }
        let rng = &mut Rng::new(mix(self.seed), Stream::Lockless);
        self.marks = match rng.permille(300) {
            true => Marks::Mixed,
            false => Marks::States,
        };
        self.bitmap_bytes.get_or_insert(4096 << rng.below(6));
        self.minor = 2;
        self.data_offset_sectors = Some(rng.pick(&[288, 296, 320]));
        for sectors in &mut self.disk_sectors {
            *sectors += STATES_ROOM_SECTORS;
        }
    }

    /// How the array is stored. From a stream of its own, too.
    fn draw_stored(&mut self, rng: &mut Rng) {
        let lockless = self.marks != Marks::Bits;
        if rng.permille(100) && !lockless {
            self.make_old();
        }
        let permille = if self.minor == OLD { 400 } else { 60 };
        self.shreds = rng.permille(permille);
        if self.level > 0 && rng.permille(100) && !lockless {
            self.keep_bitmap_in_a_file(rng);
        }
    }

    /// The bitmap lies in a file.
    pub fn keep_bitmap_in_a_file(&mut self, rng: &mut Rng) {
        self.bitmap_file = true;
        self.bitmap_bytes.get_or_insert(4096 << rng.below(6));
        // It is there at every start, or missed; while the array runs it is taken away and made
        // anew. An internal one would be in its way at the next start.
        self.actions.remove(&Action::Bitmap);
        if rng.permille(400) {
            self.actions.insert(Action::Bitmap);
            self.actions_per_boot += 3;
        }
    }

    /// How long the operations of a disk take; the file of a bitmap lies on one like the first.
    pub fn latency_of(&self, disk: usize) -> Latency {
        *self.latency.get(disk).unwrap_or(&self.latency[0])
    }

    /// The array has metadata 0.90.
    pub fn make_old(&mut self) {
        // It knows no lockless bitmap.
        if self.marks != Marks::Bits {
            return;
        }
        (self.minor, self.rare.begun_sectors) = (OLD, 0);
        self.data_offset_sectors = None;
        // It has no bad-block log.
        self.logged = None;
        self.faults.remove(&Fault::Worn);
        // Up to 128 KiB are lost at the end; what is used stays about as long.
        for sectors in &mut self.disk_sectors {
            *sectors = *sectors - *sectors % 8 + 192;
        }
    }

    /// The array is one of level faulty: a disk, and requests that fail as they are asked to.
    pub fn make_faulty(&mut self) {
        let rng = &mut Rng::new(mix(self.seed), Stream::Faulty);
        (self.level, self.layout) = (-5, draw_mode(rng));
        (self.slots, self.missing, self.spares, self.drawer) = (1, 0, 0, 0);
        self.chunk_sectors = 0;
        self.disk_sectors.truncate(1);
        self.latency.truncate(1);
        self.bitmap_bytes = None;
        (self.marks, self.bitmap_file, self.rare.begun_sectors) = (Marks::Bits, false, 0);
        (self.write_mostly, self.write_behind) = (0, 0);
        (self.logged, self.limits, self.rare.alone) = (None, false, false);
        self.workload.stream_sectors = 0;
        // One disk, and no log: where it refuses a write nobody else has the data.
        self.faults
            .retain(|fault| !LIES.contains(fault) && *fault != Fault::Worn);
        self.actions = BTreeSet::from([Action::Mode]);
        if rng.permille(300) {
            self.actions.insert(Action::ReadOnly);
        }
        self.actions_per_boot = rng.range(0, 12);
    }

    /// Disks lie in every way they can.
    pub fn lie(&mut self) {
        if self.level > 0 {
            self.faults.extend(LIES);
            self.faults_per_boot += 2;
        }
        (self.shorn, self.shreds, self.clones) = (true, true, true);
        self.emulated_fua = mix(self.seed);
    }
}

/// A layout of level faulty: one of its modes, or an end of them, and a period.
pub fn draw_mode(rng: &mut Rng) -> u32 {
    const MODES: [u32; 12] = [0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 30, 31];
    let mode = rng.pick(&MODES);
    mode | rng.pick(&[0, 0, 1, 2, 3, 5, 17]) << 5
}

/// Level, slots and layout.
fn draw_shape(rng: &mut Rng) -> (i32, u16, u32) {
    let level = rng.pick(&[0, 1, 1, 1, 4, 5, 5, 5, 6, 6]);
    let slots = match level {
        0 => rng.range(2, 4),
        1 => rng.pick(&[2, 2, 2, 3, 3, 4]),
        6 => rng.range(4, 6),
        _ => rng.range(3, 5),
    };
    let layout = match level {
        0 => rng.pick(&[1, 2]),
        5 => rng.pick(&[0, 1, 2, 2, 3, 4, 5]),
        6 => rng.pick(&[0, 1, 2, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20]),
        _ => 0,
    };
    (level, slots as u16, layout)
}

/// A member of a mirror, as a mask.
fn draw_mostly(rng: &mut Rng, level: i32, slots: u16) -> u64 {
    match level == 1 && rng.permille(300) {
        true => 1 << rng.below(u64::from(slots)),
        false => 0,
    }
}

fn draw_chunk(rng: &mut Rng, level: i32) -> u32 {
    match level {
        1 => 0,
        -1 => rng.pick(&[0, 0, 8, 64]),
        0 => rng.pick(&[8, 16, 24, 32, 64, 128]),
        _ => rng.pick(&[8, 8, 16, 32, 64, 128]),
    }
}

/// RAID10, and linear.
fn draw_copied(rng: &mut Rng) -> (i32, u16, u32) {
    if rng.permille(150) {
        return (-1, rng.range(2, 4) as u16, 0);
    }
    let (slots, layout) = rng.pick(&[
        (4, 0x102),
        (4, 0x102),
        (3, 0x102),
        (5, 0x102),
        (4, 0x103),
        (2, 0x201),
        (4, 0x201),
        (3, 0x201),
        (4, 0x301),
        (4, 0x10201),
        (3, 0x10201),
        (5, 0x10301),
        (4, 0x202),
        (4, 0x10202),
        (5, 0x40201),
        (5, 0x50201),
    ]);
    (10, slots, layout)
}

fn draw_sizes(rng: &mut Rng, disks: usize, minor: u8, chunk_sectors: u64) -> Vec<u64> {
    let base = 512 * rng.pick(&[1, 1, 1, 2, 2, 4, 8]);
    let room = if minor == 0 { 96 } else { 320 };
    let least = base.max(chunk_sectors * 3) + room;
    let uneven = rng.permille(300);
    (0..disks)
        .map(|_| {
            if uneven {
                least + rng.below(base)
            } else {
                least
            }
        })
        .collect()
}

fn draw_workload(rng: &mut Rng) -> Workload {
    let clients = rng.pick(&[1, 2, 2, 4, 4, 8]);
    let mut mix = [30, 40, 0, 0, 8, 0];
    if rng.permille(300) {
        mix[2] = 6;
    }
    if rng.permille(200) {
        mix[3] = 6;
    }
    if rng.permille(150) {
        mix[5] = 4;
    }
    if rng.permille(200) {
        mix[4] = 0;
    }
    if rng.permille(200) {
        mix[0] = 5;
    }
    Workload {
        clients,
        operations: rng
            .pick(&[5, 20, 20, 50, 100])
            .min(400 / u64::from(clients)),
        disjoint: rng.permille(300),
        hot_sectors: rng.pick(&[0, 0, 16, 64, 256]),
        most_sectors: rng.pick(&[1, 8, 16, 64, 256]),
        mix,
        align_sectors: rng.pick(&[1, 1, 8, 8, 3]),
        fua_permille: rng.pick(&[0, 0, 100, 500]),
        think_ns: rng.pick(&[0, 100_000, 1_000_000, 20_000_000]),
        nap_permille: rng.pick(&[0, 0, 20, 100]),
        stream_sectors: 0,
        block_sectors: 1,
    }
}

fn draw_latency(rng: &mut Rng, disks: usize) -> Vec<Latency> {
    let base = rng.pick(&[20_000, 100_000, 1_000_000, 5_000_000]);
    let slow = rng.permille(300).then(|| rng.index(disks));
    let spike_permille = rng.pick(&[0, 0, 10, 50]);
    let spike_factor = rng.pick(&[5, 20, 100]);
    (0..disks)
        .map(|disk| {
            let own = if slow == Some(disk) { base * 20 } else { base };
            Latency {
                read_ns: own,
                write_ns: rng.pick(&[own / 4, own, own * 2]),
                flush_ns: rng.pick(&[own / 2, own * 2, own * 8]),
                spike_permille,
                spike_factor,
            }
        })
        .collect()
}

fn draw_boots(rng: &mut Rng) -> Vec<(Ending, Trigger)> {
    let count = rng.range(2, 4);
    let style = rng.weighted(&[5, 2, 1, 2]);
    let mut boots: Vec<(Ending, Trigger)> = (1..count)
        .map(|_| {
            let power = Ending::PowerCut {
                window_ns: rng.pick(&[0, 1_000_000, 50_000_000]),
            };
            let ending = match style {
                0 => power,
                1 => Ending::Kill,
                2 => Ending::Stop,
                _ => rng.pick(&[power, Ending::Kill, Ending::Stop]),
            };
            let short = rng.pick(&[100_000, 2_000_000, 4_000_000, 40_000_000]);
            let trigger = match rng.weighted(&[5, 4, 1, 2]) {
                0 => Trigger::Answers(rng.range(1, 200)),
                1 => Trigger::Fault(rng.spread(short)),
                2 => Trigger::Stop(rng.spread(short)),
                _ => {
                    let idle = rng.pick(&[short, 300_000_000, 6_000_000_000, 20_000_000_000]);
                    Trigger::Idle(rng.spread(idle))
                }
            };
            (ending, trigger)
        })
        .collect();
    boots.push((Ending::Stop, Trigger::Answers(u64::MAX)));
    boots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_it_all() {
        assert_eq!(Options::draw(5), Options::draw(5));
        assert_ne!(Options::draw(5), Options::draw(6));
    }

    #[test]
    fn everything_occurs() {
        let all: Vec<Options> = (0..2000).map(Options::draw).collect();
        let some = |what: &dyn Fn(&Options) -> bool| all.iter().filter(|o| what(o)).count();
        for level in [0, 1, 4, 5, 6, 10] {
            assert!(some(&|o| o.level == level) > 50);
        }
        assert!(some(&|o| o.level == -1) > 10);
        assert!((25..100).contains(&some(&|o| o.level == -5)));
        assert!((130..270).contains(&some(&|o| o.minor == OLD)));
        assert!((120..280).contains(&some(&|o| o.shreds)));
        assert!((100..250).contains(&some(&|o| o.bitmap_file)));
        for fault in FAULTS {
            assert!(some(&|o| o.faults.contains(&fault)) > 50);
        }
        for lie in LIES {
            assert!(some(&|o| o.faults.contains(&lie)) > 15);
        }
        for action in ACTIONS {
            assert!(some(&|o| o.actions.contains(&action)) > 50);
        }
        assert!((120..280).contains(&some(&|o| o.beyond)));
        assert!((240..360).contains(&some(&|o| o.forks.points > 0)));
        assert!(some(&|o| o.faults.is_empty()) > 100);
        assert!((150..350).contains(&some(&|o| o.limits)));
        assert!(some(&|o| o.actions.contains(&Action::Replace)) > 200);
        assert!(some(&|o| o.actions.contains(&Action::Mostly)) > 20);
        assert!(some(&|o| o.actions.contains(&Action::Bitmap)) > 60);
        let kill = |o: &Options| o.boots.iter().any(|(ending, _)| *ending == Ending::Kill);
        assert!(some(&kill) > 50);
        assert_eq!(some(&|o| o.boots.last().expect("one").0 != Ending::Stop), 0);
        assert!((120..280).contains(&some(&|o| o.marks != Marks::Bits)));
        assert!(some(&|o| o.marks == Marks::Mixed) > 20);
        let six = |o: &Options| o.level == 6 && o.layout == 10 && o.bitmap_bytes.is_some();
        assert!(some(&six) > 0);
    }
}
