//! Scripts: a fixed program against the world, where a seed would draw one.
//!
//! ```text
//!   Options + steps --> play --> World: create, start --> step, step, ... --> epilogue --> Outcome
//!                                  |                                            |
//!                        all checkers of a seeded run            settle, read everything, stop,
//!                                                                compare the media
//! ```
//!
//! ```
//! use umd_sim::disk::Cut;
//! use umd_sim::run::Show;
//! use umd_sim::script::{Fate, data, fail, io, plain, play, power_cut, read_all, settle, start};
//! use umd_sim::script::{boot_all, until, write};
//! use umd_sim::shipped::Shipped;
//!
//! // The power goes while parity has landed and data has not.
//! let steps = [
//!     write(0..8),
//!     start(write(0..8)),
//!     until(io().writes().purpose(data()).done()),
//!     power_cut([Fate::Lost, Fate::Kept, Fate::Kept]),
//!     boot_all(),
//!     settle(),
//!     read_all(),
//! ];
//! let outcome = play(&plain(5, 3), &steps, &Shipped, Show::Tail);
//! assert_eq!(outcome.violation, None);
//! ```
//!
//! Disks of a script are plain: every operation takes its mean time, nothing is torn, nothing shows
//! before it is over, and a power cut leaves exactly what the step says. Disks are named by number:
//! the slots in order, then spares, then the drawer. Whatever a step breaks is entered in the fault
//! atlas: within redundancy every error is a violation, beyond it only wrong data is.

mod pattern;
mod play;

use std::ops::Range;

use umd_core::array::Purpose;
use umd_format::FaultyLayout;

pub use pattern::{IoKind, IoView, Match, Point, io};
pub(crate) use play::play_everywhere;
pub use play::{Script, play, play_ambushed, script};

use crate::disk::{Armed, Latency};
use crate::options::{Ending, Marks, Options, Trigger, Workload};
use crate::rare::Rare;

/// What a host asks for. Ranges are array sectors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A read.
    Read(Range<u64>),
    /// A write of fresh stamps.
    Write {
        /// Where.
        range: Range<u64>,
        /// Durable on completion.
        fua: bool,
    },
    /// Zeros.
    Zero(Range<u64>),
    /// A trim.
    Trim(Range<u64>),
    /// A flush.
    Flush,
    /// An allocation query.
    Allocation(Range<u64>),
}

/// What an administrator asks for; members by the number of their disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admin {
    /// Marks a member faulty.
    Fail(usize),
    /// Takes a member out.
    Remove(usize),
    /// Puts a disk in as a new member. One that had vanished is plugged in again first.
    Add(usize),
    /// Puts a former member back. One that had vanished is plugged in again first.
    ReAdd(usize),
    /// Has a member replaced by any spare, while it serves.
    Replace(usize),
    /// Switches whether a member is write-mostly.
    Mostly(usize),
    /// Switches whether a member is to fail fast.
    Fast(usize),
    /// Takes the bitmap away.
    NoBitmap,
    /// Makes an internal bitmap.
    Bitmap,
    /// Makes a bitmap in the array's file.
    BitmapFile,
    /// Starts a check.
    Check,
    /// Starts a repair.
    Repair,
    /// Ends what runs, or thaws.
    Idle,
    /// Freezes.
    Freeze,
    /// No writes any more.
    ReadOnly,
    /// No writes until a host asks for one, or an administrator changes something.
    ReadAuto,
    /// The array is stopped, whatever is under way.
    Stop,
    /// Writes again.
    ReadWrite,
    /// Changes what limits sync actions, as the number says.
    Limit(u32),
    /// Has level faulty fail in one more way: a layout.
    Mode(u32),
    /// Makes the array one of another level or layout, as the number says.
    Level(u32),
}

/// What a power cut leaves of the writes that are not durable on one disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fate {
    /// Nothing.
    #[default]
    Lost,
    /// Everything, also what was in flight.
    Kept,
    /// What was reported done; nothing that was in flight.
    Cached,
    /// Writes for one of these purposes.
    Only(Vec<Purpose>),
    /// All but writes for one of these purposes.
    Without(Vec<Purpose>),
}

/// One step of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A host request; with `wait` the script goes on when it has been answered.
    Host {
        /// What.
        host: Host,
        /// Whether the answer is waited for.
        wait: bool,
    },
    /// All host and control requests have been answered.
    Await,
    /// The administrator asks, and gets what he asked for; `refused`: is refused it. `wait`: the
    /// answer is waited for.
    Admin {
        /// What.
        admin: Admin,
        /// He must be refused.
        refused: bool,
        /// Whether the answer is waited for.
        wait: bool,
    },
    /// Something is armed on a disk and strikes the next operation it fits.
    Arm(usize, Armed),
    /// Sectors of a member become unreadable. Counted from the start of its data.
    Damage(usize, Range<u64>),
    /// Sectors of a member take no data any more. Counted from the start of its data.
    Wear(usize, Range<u64>),
    /// The disk vanishes.
    Vanish(usize),
    /// Everything that was asked for is answered, and no sync is owed.
    Settle,
    /// Settled, superblocks clean, bits cleared: no timer of the array is left.
    Quiet,
    /// Time passes.
    Sleep(u64),
    /// The first (or n-th) member I/O that fits has been submitted, or has been reported to the
    /// engine as done.
    Until(Match),
    /// Ends of member I/O that fits are held back from now on.
    Hold(Match),
    /// What was held back ends now, and nothing is held any more.
    Release,
    /// The power goes; fates by disk, the last one counts for the rest. Allowed after a stop too.
    PowerCut(Vec<Fate>),
    /// The process is killed: writes in flight land if `landing` says so; caches live on.
    Kill {
        /// Whether writes in flight land, by disk; the last counts for the rest.
        landing: Vec<bool>,
    },
    /// The array is stopped in good order.
    Stop,
    /// The array is assembled from these disks and started; `None`: from all that carry it. An
    /// array that is unclean and degraded is started by force.
    Boot(Option<Vec<usize>>),
    /// Assembly of these disks is refused.
    Refused(Vec<usize>),
    /// Everything is read.
    ReadAll,
    /// This many members are in sync.
    InSync(usize),
    /// The content of sectors of a member changes by itself. Counted from the start of its data.
    Rot(usize, Range<u64>),
    /// When the power goes, each write in flight to this disk that does not land leaves one of its
    /// sectors unreadable.
    Shear(usize),
    /// A copy of the disk is made. At every start from now on it lies beside the disk.
    Clone(usize),
    /// The disk becomes one sector shorter. Not while an array is running.
    Shorten(usize),
    /// So many sectors were found to disagree by the last check or repair.
    Mismatch(u64),
}

fn wait(host: Host) -> Step {
    Step::Host { host, wait: true }
}

/// A host writes and waits.
pub fn write(range: Range<u64>) -> Step {
    wait(Host::Write { range, fua: false })
}

/// A host writes with FUA and waits.
pub fn write_fua(range: Range<u64>) -> Step {
    wait(Host::Write { range, fua: true })
}

/// A host writes zeros and waits.
pub fn zero(range: Range<u64>) -> Step {
    wait(Host::Zero(range))
}

/// A host trims and waits.
pub fn trim(range: Range<u64>) -> Step {
    wait(Host::Trim(range))
}

/// A host reads and waits.
pub fn read(range: Range<u64>) -> Step {
    wait(Host::Read(range))
}

/// A host flushes and waits.
pub fn flush() -> Step {
    wait(Host::Flush)
}

/// The same request, but its answer is not waited for.
pub fn start(step: Step) -> Step {
    match step {
        Step::Host { host, .. } => Step::Host { host, wait: false },
        Step::Admin { admin, refused, .. } => Step::Admin {
            admin,
            refused,
            wait: false,
        },
        other => panic!("{other:?} cannot be left running"),
    }
}

/// The same request of the administrator, which has to be refused.
pub fn refused(step: Step) -> Step {
    match step {
        Step::Admin { admin, wait, .. } => Step::Admin {
            admin,
            refused: true,
            wait,
        },
        other => panic!("{other:?} cannot be refused"),
    }
}

/// All that was asked for has been answered.
pub fn await_all() -> Step {
    Step::Await
}

/// The administrator asks.
pub fn admin(admin: Admin) -> Step {
    Step::Admin {
        admin,
        refused: false,
        wait: true,
    }
}

/// A member is marked faulty.
pub fn fail(disk: usize) -> Step {
    admin(Admin::Fail(disk))
}

/// A member is taken out.
pub fn remove(disk: usize) -> Step {
    admin(Admin::Remove(disk))
}

/// A disk becomes a new member.
pub fn add(disk: usize) -> Step {
    admin(Admin::Add(disk))
}

/// A member is to be replaced while it serves.
pub fn replace(disk: usize) -> Step {
    admin(Admin::Replace(disk))
}

/// A member becomes write-mostly, or an ordinary one again.
pub fn mostly(disk: usize) -> Step {
    admin(Admin::Mostly(disk))
}

/// A member is to fail fast, or no longer.
pub fn fast(disk: usize) -> Step {
    admin(Admin::Fast(disk))
}

/// The bitmap is taken away while the array runs.
pub fn no_bitmap() -> Step {
    admin(Admin::NoBitmap)
}

/// The array gets a bitmap while it runs.
pub fn bitmap() -> Step {
    admin(Admin::Bitmap)
}

/// Level faulty fails in one more way, or in none: mdadm's word for it.
pub fn mode(word: &str) -> Step {
    let layout = FaultyLayout::from_word(word).expect("a word of mdadm's");
    admin(Admin::Mode(layout.to_raw()))
}

/// The array gets a bitmap in its file while it runs.
pub fn bitmap_file() -> Step {
    admin(Admin::BitmapFile)
}

/// A former member comes back.
pub fn re_add(disk: usize) -> Step {
    admin(Admin::ReAdd(disk))
}

/// A check is started.
pub fn check() -> Step {
    admin(Admin::Check)
}

/// A repair is started.
pub fn repair() -> Step {
    admin(Admin::Repair)
}

/// A fault is armed.
pub fn arm(disk: usize, armed: Armed) -> Step {
    Step::Arm(disk, armed)
}

/// Sectors of a member's data become unreadable.
pub fn damage(disk: usize, range: Range<u64>) -> Step {
    Step::Damage(disk, range)
}

/// [`Step::Wear`].
pub fn wear(disk: usize, range: Range<u64>) -> Step {
    Step::Wear(disk, range)
}

/// A disk vanishes.
pub fn vanish(disk: usize) -> Step {
    Step::Vanish(disk)
}

/// See [`Step::Settle`].
pub fn settle() -> Step {
    Step::Settle
}

/// See [`Step::Quiet`].
pub fn quiet() -> Step {
    Step::Quiet
}

/// Milliseconds pass.
pub fn sleep_ms(ms: u64) -> Step {
    Step::Sleep(ms * 1_000_000)
}

/// See [`Step::Until`].
pub fn until(pattern: Match) -> Step {
    Step::Until(pattern)
}

/// See [`Step::Hold`].
pub fn hold(pattern: Match) -> Step {
    Step::Hold(pattern)
}

/// See [`Step::Release`].
pub fn release() -> Step {
    Step::Release
}

/// See [`Step::PowerCut`].
pub fn power_cut(fates: impl Into<Vec<Fate>>) -> Step {
    Step::PowerCut(fates.into())
}

/// The process is killed; everything in flight lands, or nothing.
pub fn kill(lands: bool) -> Step {
    Step::Kill {
        landing: vec![lands],
    }
}

/// The array is stopped.
pub fn stop() -> Step {
    Step::Stop
}

/// The array is started from all disks that carry it.
pub fn boot_all() -> Step {
    Step::Boot(None)
}

/// The array is started from these disks.
pub fn boot(disks: impl Into<Vec<usize>>) -> Step {
    Step::Boot(Some(disks.into()))
}

/// These disks are refused.
pub fn boot_refused(disks: impl Into<Vec<usize>>) -> Step {
    Step::Refused(disks.into())
}

/// Everything is read.
pub fn read_all() -> Step {
    Step::ReadAll
}

/// This many members are in sync.
pub fn in_sync(members: usize) -> Step {
    Step::InSync(members)
}

/// Content of a member's data changes by itself.
pub fn rot(disk: usize, range: Range<u64>) -> Step {
    Step::Rot(disk, range)
}

/// See [`Step::Shear`].
pub fn shear(disk: usize) -> Step {
    Step::Shear(disk)
}

/// See [`Step::Clone`].
pub fn clone(disk: usize) -> Step {
    Step::Clone(disk)
}

/// See [`Step::Shorten`].
pub fn shorten(disk: usize) -> Step {
    Step::Shorten(disk)
}

/// See [`Step::Mismatch`].
pub fn mismatch(sectors: u64) -> Step {
    Step::Mismatch(sectors)
}

/// [`Purpose::Data`], for patterns.
pub fn data() -> Purpose {
    Purpose::Data
}

/// [`Purpose::Parity`], for patterns.
pub fn parity() -> Purpose {
    Purpose::Parity
}

/// A small array on plain disks: 256 sectors of data on each member, chunks of 4 KiB, metadata 1.2,
/// no bitmap, known to be in sync. To be changed where the script wants something else.
pub fn plain(level: i32, slots: u16) -> Options {
    let latency = Latency {
        read_ns: 100_000,
        write_ns: 100_000,
        flush_ns: 200_000,
        spike_permille: 0,
        spike_factor: 1,
    };
    Options {
        seed: 1,
        level,
        layout: match level {
            5 | 6 => 2,
            0 => 2,
            _ => 0,
        },
        slots,
        missing: 0,
        spares: 0,
        drawer: 0,
        minor: 2,
        chunk_sectors: if level == 1 { 0 } else { 8 },
        disk_sectors: vec![64 + 256; usize::from(slots)],
        data_offset_sectors: Some(64),
        bitmap_bytes: None,
        marks: Default::default(),
        bitmap_file: false,
        old_disks: false,
        assume_clean: true,
        write_mostly: 0,
        write_behind: 0,
        workload: Workload {
            clients: 0,
            operations: 0,
            disjoint: false,
            hot_sectors: 0,
            most_sectors: 1,
            mix: [0; 6],
            align_sectors: 1,
            fua_permille: 0,
            think_ns: 0,
            nap_permille: 0,
            stream_sectors: 0,
            block_sectors: 1,
        },
        latency: vec![latency; usize::from(slots)],
        rare: Rare::default(),
        boots: vec![(Ending::Stop, Trigger::Answers(u64::MAX))],
        faults: Default::default(),
        faults_per_boot: 0,
        actions: Default::default(),
        actions_per_boot: 0,
        beyond: false,
        forks: Default::default(),
        emulated_fua: 0,
        shorn: false,
        shreds: false,
        clones: false,
        logged: None,
        limits: false,
    }
}

/// An array of level faulty that is made to fail so: mdadm's word for it.
pub fn faulty(word: &str) -> Options {
    let layout = FaultyLayout::from_word(word).expect("a word of mdadm's");
    Options {
        layout: layout.to_raw(),
        chunk_sectors: 0,
        ..plain(-5, 1)
    }
}

/// The same with a write-intent bitmap of 4 KiB regions.
pub fn with_bitmap(options: Options) -> Options {
    Options {
        bitmap_bytes: Some(4096),
        ..options
    }
}

/// The same with its bitmap in a file; there, it lies on the disk behind all others.
pub fn with_bitmap_file(options: Options) -> Options {
    Options {
        bitmap_file: true,
        ..with_bitmap(options)
    }
}

/// The same with metadata 0.90.
pub fn old(mut options: Options) -> Options {
    options.make_old();
    options
}

/// The same with bad-block logs; that of one member names so many ranges, and there is rubbish.
pub fn with_logs(options: Options, ranges: u64) -> Options {
    Options {
        logged: Some(ranges),
        ..options
    }
}

/// The same with a lockless bitmap of 4 KiB regions that nobody has written.
pub fn with_states(options: Options) -> Options {
    let room = 256;
    Options {
        marks: Marks::States,
        data_offset_sectors: Some(64 + room),
        disk_sectors: options.disk_sectors.iter().map(|s| s + room).collect(),
        assume_clean: false,
        ..with_bitmap(options)
    }
}

/// The same with writes that may lag on write-mostly members: a mask of slots.
pub fn with_behind(options: Options, write_mostly: u64, write_behind: u32) -> Options {
    Options {
        write_mostly,
        write_behind,
        ..options
    }
}

/// The same with blank disks in the drawer.
pub fn with_drawer(mut options: Options, disks: u16) -> Options {
    for _ in 0..disks {
        options.disk_sectors.push(options.disk_sectors[0]);
        options.latency.push(options.latency[0]);
    }
    options.drawer += disks;
    options
}

/// The same with spares.
pub fn with_spares(mut options: Options, disks: u16) -> Options {
    assert_eq!(options.drawer, 0, "spares come before the drawer");
    for _ in 0..disks {
        options.disk_sectors.push(options.disk_sectors[0]);
        options.latency.push(options.latency[0]);
    }
    options.spares += disks;
    options
}

#[cfg(test)]
mod tests;
