//! The scripted scenes of mistakes that were made here.
//!
//! ```text
//!   found by the simulator or in review --> fixed --> kept as a switch --> its scene stands here
//! ```

use umd_core::value::{Exhibit, Span};

use super::scenes::{
    Scene, bitmap_writes, chain, data_writes, half_rebuilt, late, long, mirror, new, seeded,
    super_writes, sync_reads, unsynced,
};
use crate::disk::Armed;
use crate::options::Options;
use crate::script::{
    Admin, Fate, Step, add, admin, arm, await_all, boot, boot_all, damage, data, fail, fast, flush,
    hold, in_sync, io, old, plain, power_cut, quiet, re_add, read, read_all, release, remove,
    replace, settle, sleep_ms, start, stop, until, vanish, with_bitmap, with_bitmap_file,
    with_drawer, with_states, write,
};

pub(super) fn scene(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        U01 | U03 | U06 | U07 | U09 => bitmaps(exhibit),
        U20 | U21 | U22 => lockless(exhibit),
        U29 | U30 => holes(exhibit),
        U02 | U12 | U13 | U14 => rebuilds(exhibit),
        U04 | U08 | U10 | U11 | U16 => faults(exhibit),
        U23 | U24 | U25 => outlived(exhibit),
        U26 | U28 => kept_bits(exhibit),
        U27 => told_late(),
        _ => starts(exhibit),
    }
}

/// Writes that never leave the array alone for long enough to be called clean.
fn restless(count: u64, pause_ms: u64) -> impl Iterator<Item = Step> {
    (0..count).flat_map(move |_| [write(128..136), sleep_ms(pause_ms)])
}

/// A lockless bitmap over disks that hold anything.
fn lockless(exhibit: Exhibit) -> Scene {
    let options = Options {
        old_disks: true,
        ..with_states(plain(5, 5))
    };
    match exhibit {
        Exhibit::U20 => new(
            options,
            "two sectors of a region that nobody had written are written, one after the other",
            [write(0..1), sleep_ms(20_000), write(1..2), sleep_ms(20_000)],
        ),
        Exhibit::U22 => new(
            with_drawer(options, 1),
            "a region is written for the first time when a replacement is half way, and after the \
             handover the disk of that write is lost",
            [
                write(400..401),
                add(5),
                hold(sync_reads()),
                start(replace(0)),
                sleep_ms(100),
                write(8..9),
                release(),
                settle(),
                fail(1),
                read(8..9),
            ],
        ),
        _ => new(
            options,
            "while a resync is in a late region, an early one is written for the first time",
            [
                quiet(),
                start(write(400..401)),
                until(data_writes()),
                power_cut([Fate::Kept, Fate::Lost, Fate::Kept, Fate::Lost, Fate::Kept]),
                hold(sync_reads()),
                boot_all(),
                write(0..1),
                release(),
                sleep_ms(20_000),
            ],
        ),
    }
}

/// A sector that cannot be read in a row whose parity is wrong.
fn holes(exhibit: Exhibit) -> Scene {
    match exhibit {
        Exhibit::U29 => new(
            unsynced(plain(5, 3)),
            "a chunk is written beside one of which a sector cannot be read, before any resync",
            [
                hold(sync_reads()),
                start(admin(Admin::Freeze)),
                release(),
                sleep_ms(50),
                damage(1, 2..3),
                write(0..8),
                admin(Admin::Idle),
            ],
        ),
        _ => new(
            plain(5, 3),
            "a chunk is read after a power cut that came before the parity of the one beside it",
            [
                write(0..16),
                flush(),
                start(write(0..8)),
                until(data_writes()),
                power_cut([Fate::Kept, Fate::Kept, Fate::Lost]),
                hold(sync_reads()),
                boot_all(),
                start(admin(Admin::Freeze)),
                release(),
                sleep_ms(50),
                damage(1, 2..3),
                read(8..16),
                admin(Admin::Idle),
            ],
        ),
    }
}

fn bitmaps(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        U01 => new(
            with_bitmap(plain(1, 2)),
            "a region is written again while the flush that precedes its clearing is on its way",
            chain([
                vec![write(0..8)],
                restless(99, 100).collect(),
                vec![
                    hold(io().flushes()),
                    until(io().flushes()),
                    write(0..8),
                    release(),
                    sleep_ms(100),
                ],
            ]),
        ),
        U03 => new(
            with_drawer(with_bitmap(unsynced(plain(1, 2))), 1),
            "a resync ends while superblocks are being written for another reason",
            [
                hold(bitmap_writes()),
                start(add(2)),
                sleep_ms(200),
                release(),
                settle(),
                stop(),
            ],
        ),
        U06 => new(
            with_bitmap(plain(1, 2)),
            "a region is idle for long while others keep the array from being called clean",
            chain([vec![write(0..8)], restless(140, 140).collect()]),
        ),
        U07 => new(
            long(plain(1, 2)),
            "the power goes while bits are being written, with those of one member landed",
            [
                quiet(),
                write(0..8),
                start(write(late(0..8))),
                until(bitmap_writes()),
                power_cut([Fate::Kept, Fate::Lost]),
                boot_all(),
                write(late(0..8)),
            ],
        ),
        _ => new(
            long(mirror()),
            "a member is replaced, and a region is written whose bit was set before it came",
            [
                quiet(),
                fail(1),
                remove(1),
                write(late(0..8)),
                add(2),
                settle(),
                write(late(0..8)),
            ],
        ),
    }
}

fn rebuilds(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        U02 => new(
            with_drawer(with_bitmap(plain(5, 3)), 1),
            "two writes to one row are there before the rebuild comes to it; the second looks at \
             the member that is being rebuilt",
            [
                write(0..512),
                flush(),
                fail(1),
                remove(1),
                hold(data_writes().sectors(224..232)),
                start(write(328..329)),
                until(data_writes().sectors(224..232)),
                start(write(328..329)),
                add(3),
                sleep_ms(100),
                release(),
                settle(),
            ],
        ),
        U12 => new(
            with_drawer(with_bitmap(plain(5, 3)), 1),
            "the power goes in the middle of a write to a row that has been rebuilt, in an array \
             that has not; it is started by force",
            chain([
                vec![write(0..512), flush()],
                half_rebuilt(1, 3),
                vec![
                    start(admin(Admin::Freeze)),
                    release(),
                    sleep_ms(50),
                    start(write(0..8)),
                    until(data_writes()),
                    power_cut([Fate::Only(vec![data()])]),
                    boot_all(),
                    settle(),
                ],
            ]),
        ),
        U13 => new(
            with_bitmap(mirror()),
            "a rebuild is interrupted, and how far it came is recorded",
            chain([
                vec![write(0..256), flush()],
                half_rebuilt(1, 2),
                vec![
                    start(admin(Admin::Freeze)),
                    release(),
                    sleep_ms(50),
                    admin(Admin::Idle),
                ],
            ]),
        ),
        _ => new(
            mirror(),
            "a member is replaced",
            [write(0..256), flush(), fail(1), remove(1), add(2), settle()],
        ),
    }
}

fn faults(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        U04 => new(
            seeded(plain(1, 2), 3),
            "the flush of the last member fails, and hosts read on",
            [
                fail(1),
                write(0..8),
                arm(0, Armed::FlushError),
                flush(),
                read(0..8),
            ],
        ),
        U08 => new(
            plain(1, 2),
            "a write comes in while a failure is being recorded",
            [
                write(128..136),
                hold(super_writes()),
                arm(1, Armed::WriteError),
                start(write(0..8)),
                until(super_writes()),
                start(write(64..72)),
                sleep_ms(10),
                release(),
            ],
        ),
        U10 => new(
            plain(5, 3),
            "a write fails on the second member that is lost",
            [fail(1), arm(0, Armed::WriteError), write(0..8)],
        ),
        U11 => new(
            seeded(plain(5, 3), 2),
            "a write ends half-way on the second member that is lost; its neighbour is read",
            [
                write(0..16),
                flush(),
                fail(1),
                arm(0, Armed::WriteError),
                write(0..8),
                read(8..16),
            ],
        ),
        _ => new(
            plain(0, 2),
            "a RAID0 is written and stopped, and the power goes",
            [
                write(0..8),
                stop(),
                power_cut([Fate::Lost]),
                boot_all(),
                read_all(),
            ],
        ),
    }
}

fn starts(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        U05 => new(
            plain(1, 2),
            "the power goes twice while superblocks are being written, each time with one landed",
            [
                start(write(0..8)),
                until(super_writes()),
                power_cut([Fate::Kept, Fate::Lost]),
                boot_all(),
                start(write(0..8)),
                until(super_writes()),
                power_cut([Fate::Kept, Fate::Lost]),
                boot_all(),
                settle(),
                in_sync(2),
            ],
        ),
        U15 => new(
            with_bitmap(plain(1, 2)),
            "each member runs alone for a while, and the first is put back to the second",
            [
                write(0..8),
                stop(),
                boot([0]),
                start(write(64..72)),
                until(data_writes()),
                power_cut([Fate::Kept]),
                boot([1]),
                write(0..8),
                sleep_ms(1000),
                write(0..8),
                sleep_ms(1000),
                write(0..8),
                start(re_add(0)),
                settle(),
            ],
        ),
        U17 => new(
            plain(1, 2),
            "an array is left alone after a write",
            [write(0..8), sleep_ms(1000)],
        ),
        _ => doubts(exhibit),
    }
}

fn doubts(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        U18 => new(
            unsynced(plain(1, 2)),
            "a host reads a read-only array whose members differ, and later the resync comes by",
            [
                hold(sync_reads()),
                start(admin(Admin::ReadOnly)),
                release(),
                sleep_ms(100),
                read(0..8),
                admin(Admin::ReadWrite),
                settle(),
            ],
        ),
        _ => new(
            plain(1, 2),
            "after a power cut a host reads what only one member has, and that member dies",
            [
                write(0..8),
                flush(),
                write(0..8),
                power_cut([Fate::Kept, Fate::Lost]),
                boot_all(),
                hold(sync_reads()),
                start(read(0..8)),
                start(admin(Admin::Freeze)),
                release(),
                sleep_ms(50),
                fail(0),
                read(0..8),
                admin(Admin::Idle),
            ],
        ),
    }
}

/// Who of two members has what was written.
fn outlived(exhibit: Exhibit) -> Scene {
    match exhibit {
        Exhibit::U23 => new(
            Options {
                layout: 0x102,
                ..seeded(plain(10, 3), 2)
            },
            "a RAID10 breaks over a write that reached one of its legs, and two hosts read on",
            [
                write(0..8),
                fail(2),
                arm(0, Armed::WriteError),
                write(0..8),
                start(read(0..8)),
                start(read(0..8)),
                await_all(),
                read(0..8),
            ],
        ),
        Exhibit::U24 => new(
            far(),
            "a write takes longer than what is left of a rebuild, and its source vanishes then",
            [
                fail(0),
                remove(0),
                hold(sync_reads().sectors(64 + 2816..64 + 3072)),
                add(2),
                sleep_ms(100),
                write(8..16),
                arm(1, Armed::Hang(Span(5_000_000_000))),
                start(write(0..8)),
                until(data_writes().disk(1)),
                release(),
                sleep_ms(1000),
                in_sync(2),
                vanish(1),
                await_all(),
                read(0..8),
            ],
        ),
        _ => new(
            far(),
            "a member that is being replaced fails a write, which its replacement takes long for",
            [
                add(2),
                hold(sync_reads().sectors(64 + 2816..64 + 3072)),
                start(replace(0)),
                sleep_ms(100),
                write(8..16),
                hold(data_writes().disk(2)),
                arm(0, Armed::WriteError),
                start(write(0..8)),
                until(data_writes().disk(0).done()),
                start(write(16..24)),
                sleep_ms(50),
                release(),
                settle(),
            ],
        ),
    }
}

/// A mirror whose rebuilds take several steps.
fn far() -> Options {
    let mut options = mirror();
    options.disk_sectors.fill(64 + 4096);
    options
}

fn kept_bits(exhibit: Exhibit) -> Scene {
    match exhibit {
        Exhibit::U26 => new(
            with_bitmap_file(plain(1, 2)),
            "the bitmap's file hangs while it is told that the array becomes active",
            [
                quiet(),
                start(write(0..8)),
                until(bitmap_writes()),
                arm(2, Armed::Hang(Span(60_000_000_000))),
                await_all(),
                write(128..136),
                settle(),
            ],
        ),
        _ => new(
            with_bitmap(plain(1, 2)),
            "an array is stopped while a flag of a member is being recorded",
            [
                write(0..8),
                start(fast(0)),
                until(bitmap_writes()),
                arm(0, Armed::Hang(Span(2_000_000_000))),
                sleep_ms(300),
                stop(),
            ],
        ),
    }
}

fn told_late() -> Scene {
    new(
        old(mirror()),
        "the power goes when only the superblock of who was rebuilt says that it is whole",
        [
            write(0..8),
            flush(),
            fail(0),
            remove(0),
            hold(sync_reads()),
            add(2),
            sleep_ms(1000),
            release(),
            until(super_writes().disk(2)),
            power_cut([Fate::Lost, Fate::Lost, Fate::Kept]),
            boot_all(),
            in_sync(2),
        ],
    )
}
