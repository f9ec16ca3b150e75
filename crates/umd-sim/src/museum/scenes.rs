//! The scripted scenes of exhibits that were made in md: the shortest way to see each mistake.
//!
//! ```text
//!   scene(exhibit) --> Options + steps --> play --> the switch on: caught   the switch off: passes
//! ```

use umd_core::array::Purpose;
use umd_core::value::Exhibit;

use super::own;
use crate::disk::Armed;
use crate::options::Options;
use crate::script::{
    Admin, Fate, Match, Step, add, admin, arm, boot_all, check, damage, data, fail, flush, hold,
    io, kill, plain, power_cut, quiet, re_add, read, read_all, release, remove, replace, settle,
    sleep_ms, start, trim, until, with_behind, with_bitmap, with_drawer, write, zero,
};

/// A scene.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The array and its disks.
    pub options: Options,
    /// What happens.
    pub steps: Vec<Step>,
    /// The same in a sentence.
    pub plot: &'static str,
}

pub(super) fn new(options: Options, plot: &'static str, steps: impl Into<Vec<Step>>) -> Scene {
    Scene {
        options,
        steps: steps.into(),
        plot,
    }
}

/// Disks full of rubbish that have to be synced first.
pub(super) fn unsynced(options: Options) -> Options {
    Options {
        assume_clean: false,
        old_disks: true,
        ..options
    }
}

/// Reads of a resync or a rebuild.
pub(super) fn sync_reads() -> Match {
    io().reads().purpose(Purpose::Resync)
}

/// Writes of a resync or a rebuild.
pub(super) fn sync_writes() -> Match {
    io().writes().purpose(Purpose::Resync)
}

pub(super) fn bitmap_writes() -> Match {
    io().writes().purpose(Purpose::Bitmap)
}

pub(super) fn super_writes() -> Match {
    io().writes().purpose(Purpose::Super)
}

pub(super) fn data_writes() -> Match {
    io().writes().purpose(data())
}

/// Steps one after the other.
pub(super) fn chain(parts: impl IntoIterator<Item = Vec<Step>>) -> Vec<Step> {
    parts.into_iter().flatten().collect()
}

/// The member on `old` is replaced by the disk `new`, whose rebuild goes no further than the first
/// 64 sectors: what comes behind is held back.
pub(super) fn half_rebuilt(old: usize, new: usize) -> Vec<Step> {
    vec![
        fail(old),
        remove(old),
        hold(sync_reads().sectors(128..320)),
        add(new),
        sleep_ms(20),
    ]
}

/// A RAID0 of members of three and seven chunks: its second zone starts where the layouts differ.
fn two_zones() -> Options {
    let mut options = plain(0, 3);
    options.layout = 1;
    options.disk_sectors = vec![88, 120, 120];
    options
}

/// A RAID0 with a chunk that is no power of two.
fn odd_chunk() -> Options {
    Options {
        chunk_sectors: 24,
        ..plain(0, 2)
    }
}

/// A mirror with a blank disk in the drawer.
pub(super) fn mirror() -> Options {
    with_drawer(plain(1, 2), 1)
}

/// Members with more regions than bits in the bitmap's first sector, which every new superblock of
/// the bitmap takes along. The regions of `late` are not in it.
pub(super) fn long(mut options: Options) -> Options {
    options.disk_sectors.fill(64 + 18_432);
    with_bitmap(options)
}

/// Sectors of the end of `long` members.
pub(super) fn late(range: std::ops::Range<u64>) -> std::ops::Range<u64> {
    17_000 + range.start..17_000 + range.end
}

/// The same, with dice that fall well for this scene.
pub(super) fn seeded(options: Options, seed: u64) -> Options {
    Options { seed, ..options }
}

/// The scene of an exhibit.
pub fn scene(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M01 | M02 | M03 | M08 | M09 | M10 | M11 | M13 => writes(exhibit),
        M05 | M06 | M07 | M18 => lagging(exhibit),
        M14 | M15 | M16 | M19 | M25 => mirrors(exhibit),
        M20 | M21 | M35 => replaced(exhibit),
        M22 | M26 | M27 | M28r => copies(exhibit),
        M28 | M29 | M36 | M59 => bitmaps(exhibit),
        M30 | M31 | M33 | M34 | M37 | M41 | M42 => parity(exhibit),
        M51 | M54 | M56 | M57 => returns(exhibit),
        M52 | M53 | M55 | M60 => rebuilds(exhibit),
        M58 | M61 | M62 => faults(exhibit),
        M12 | M17 | M63 => super::logs::scene(exhibit),
        U40 | U41 | U42 | U43 | U44 => super::logs::refused(exhibit),
        U45 | U46 | U47 | U48 | U64 | U65 => super::rest::scene(exhibit),
        U49 | U50 | U51 => super::halves::scene(exhibit),
        M43 | M44 | M47 | M48 | U60 | U61 | U62 | U63 => super::levels::scene(exhibit),
        _ => own::scene(exhibit),
    }
}

fn writes(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M01 => new(
            two_zones(),
            "RAID0 of two zones with the original layout; all of it is written",
            [write(0..136)],
        ),
        M02 => new(
            two_zones(),
            "RAID0 of two zones with the original layout; a chunk of the second zone is trimmed",
            [write(0..136), trim(72..80), read_all()],
        ),
        M03 => new(
            odd_chunk(),
            "RAID0 with chunks of 12 KiB is written",
            [write(0..96), read_all()],
        ),
        M08 => new(
            with_bitmap(plain(1, 2)),
            "a mirror with a clean bitmap is written",
            [quiet(), write(0..8)],
        ),
        M09 => new(
            with_bitmap(plain(1, 2)),
            "a member fails, a write misses it, and the bitmap's daemon comes by",
            [write(0..8), fail(1), write(0..8), sleep_ms(20_000)],
        ),
        M10 => new(
            plain(1, 2),
            "a write fails on one member",
            [write(0..8), arm(1, Armed::WriteError), write(0..8)],
        ),
        M11 => new(
            plain(1, 2),
            "a sector cannot be read, and writing it again fails",
            [
                write(0..8),
                damage(0, 0..8),
                arm(0, Armed::WriteError),
                read(0..8),
                sleep_ms(10),
                write(64..72),
            ],
        ),
        _ => new(
            seeded(with_bitmap(mirror()), 2),
            "the only member in sync fails a write that one being rebuilt has taken",
            chain([
                half_rebuilt(1, 2),
                vec![arm(0, Armed::WriteError), write(0..8)],
            ]),
        ),
    }
}

/// A mirror whose second member is write-mostly, and what is written to it there is held back.
fn lagging(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    let behind = with_behind(with_bitmap(plain(1, 2)), 2, 8);
    let held = hold(data_writes().disk(1));
    match exhibit {
        M05 => new(
            behind,
            "a write lags on a write-mostly member, the other one fails, and a host reads",
            [
                held,
                write(0..8),
                fail(0),
                start(read(0..8)),
                sleep_ms(10),
                release(),
            ],
        ),
        M06 => new(
            behind,
            "a write lags on a write-mostly member, and the same place is written again",
            [
                held,
                write(0..8),
                start(write(0..8)),
                sleep_ms(10),
                release(),
            ],
        ),
        M07 => new(
            with_behind(plain(1, 2), 2, 8),
            "a mirror without a bitmap and with a slow write-mostly member is written",
            [held, start(write(0..8)), sleep_ms(10), release()],
        ),
        _ => new(
            behind,
            "a mirror with a write-mostly member that may lag is written",
            [write(0..8)],
        ),
    }
}

fn mirrors(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M14 => new(
            unsynced(plain(1, 2)),
            "a write comes in where a resync is writing",
            [
                hold(sync_writes()),
                until(sync_writes()),
                start(write(0..8)),
                sleep_ms(10),
                release(),
            ],
        ),
        M15 => new(
            unsynced(plain(1, 2)),
            "two reads at once where members differ and the resync has not been yet",
            [hold(sync_reads()), start(read(0..8)), start(read(0..8))],
        ),
        M16 => new(
            Options {
                write_mostly: 1,
                ..mirror()
            },
            "only a write-mostly member is in sync, another one is being rebuilt, a host reads",
            [
                write(0..8),
                fail(1),
                remove(1),
                hold(sync_reads()),
                add(2),
                read(0..8),
            ],
        ),
        M19 => new(
            plain(1, 2),
            "a check comes to sectors that no member can read",
            [
                write(0..8),
                flush(),
                damage(0, 0..8),
                damage(1, 0..8),
                check(),
                settle(),
            ],
        ),
        _ => new(
            mirror(),
            "a rebuild comes to sectors that its only source cannot read",
            [
                write(0..256),
                flush(),
                fail(1),
                remove(1),
                damage(0, 0..8),
                add(2),
                settle(),
            ],
        ),
    }
}

/// A RAID10 of this layout on four members.
fn copied(layout: u32) -> Options {
    Options {
        layout,
        chunk_sectors: 16,
        ..plain(10, 4)
    }
}

/// Members that are replaced while they serve.
fn replaced(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    // Superblocks say that the new member has everything, then that it is in sync.
    let in_sync = super_writes().disk(0).nth(3);
    match exhibit {
        M20 => new(
            with_drawer(copied(0x102), 1),
            "a member of a RAID10 is replaced, a write comes when its slot is handed over, and the \
             other copy is lost",
            [
                write(0..64),
                add(4),
                replace(1),
                until(in_sync),
                write(0..8),
                settle(),
                fail(0),
                read(0..8),
            ],
        ),
        M21 => new(
            with_drawer(copied(0x102), 1),
            "a member of a RAID10 is replaced, the other copy cannot be read, and a read comes \
             when the slot is handed over",
            [
                write(0..64),
                add(4),
                damage(0, 0..8),
                replace(1),
                until(in_sync),
                // No more than a block: longer ones are tried again in parts, until it is over.
                read(0..1),
            ],
        ),
        _ => new(
            with_drawer(plain(5, 3), 1),
            "a member of a RAID5 fails while it is being replaced, and all of it is read",
            [
                write(0..128),
                add(3),
                hold(sync_reads()),
                replace(1),
                sleep_ms(20),
                fail(1),
                release(),
                read_all(),
            ],
        ),
    }
}

fn copies(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M22 => new(
            with_drawer(copied(0x102), 1),
            "a member of a RAID10 fails, and a spare is there for it",
            [
                write(0..64),
                flush(),
                fail(1),
                admin(Admin::Add(4)),
                settle(),
                read_all(),
            ],
        ),
        M26 => new(
            copied(0x102),
            "the second half of a chunk is zeroed",
            [write(0..16), zero(8..16)],
        ),
        M27 => new(
            copied(0x201),
            "an array of far copies is written, and loses a member",
            [write(0..16), flush(), fail(0), read(0..16)],
        ),
        _ => new(
            unsynced(copied(0x102)),
            "members full of rubbish are synced",
            [settle()],
        ),
    }
}

fn bitmaps(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M28 => new(
            with_bitmap(plain(1, 2)),
            "a write marks its region while the batch of another one is on its way",
            [
                quiet(),
                write(128..136),
                hold(bitmap_writes()),
                start(write(0..8)),
                until(bitmap_writes()),
                start(write(64..72)),
                release(),
            ],
        ),
        M29 => new(
            with_bitmap(plain(1, 2)),
            "a write joins a region whose bit is on its way",
            [
                quiet(),
                write(128..136),
                hold(bitmap_writes()),
                start(write(0..4)),
                until(bitmap_writes()),
                start(write(4..8)),
                release(),
            ],
        ),
        M36 => new(
            with_bitmap(mirror()),
            "the bitmap's daemon comes by while a member is being rebuilt",
            [
                fail(1),
                remove(1),
                write(0..8),
                hold(sync_reads()),
                add(2),
                sleep_ms(20_000),
            ],
        ),
        _ => new(
            with_bitmap(plain(1, 2)),
            "a mirror with a bitmap is written",
            [write(0..8)],
        ),
    }
}

fn parity(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M30 => new(
            with_drawer(with_bitmap(plain(6, 4)), 1),
            "a RAID6 lacks two members, one is being rebuilt, and rows ahead of it are written",
            chain([
                vec![write(0..512), fail(3)],
                half_rebuilt(2, 4),
                (0..4)
                    .map(|row| write(320 + row * 16..324 + row * 16))
                    .collect(),
            ]),
        ),
        M31 => new(
            with_drawer(plain(6, 4), 1),
            "a member of a RAID6 is replaced",
            [write(0..512), flush(), fail(1), remove(1), add(4), settle()],
        ),
        M33 => new(
            unsynced(Options {
                disk_sectors: vec![64 + 512 * 12; 3],
                ..plain(5, 3)
            }),
            "a resync comes to stripes in which a write is on its way",
            [
                hold(data_writes()),
                start(write(12_000..12_001)),
                until(data_writes()),
                sleep_ms(500),
                release(),
                settle(),
            ],
        ),
        M34 => new(
            unsynced(plain(5, 3)),
            "stripes are zeroed where a resync is writing",
            [
                hold(sync_writes()),
                until(sync_writes()),
                start(zero(0..64)),
                sleep_ms(10),
                release(),
            ],
        ),
        M37 => new(
            plain(5, 3),
            "a long write that is not aligned",
            [write(4..100)],
        ),
        M41 => new(
            plain(5, 3),
            "a short write that is not aligned",
            [write(0..4)],
        ),
        _ => new(
            plain(1, 2),
            "a write fails on one member",
            [write(0..8), arm(1, Armed::WriteError), write(0..8)],
        ),
    }
}

/// Members that come back.
fn returns(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M51 => new(
            with_bitmap(mirror()),
            "a member fails half rebuilt, is taken out, and put back",
            chain([
                vec![write(0..256), quiet()],
                half_rebuilt(1, 2),
                vec![fail(2), remove(2), release(), start(re_add(2)), settle()],
            ]),
        ),
        M54 => new(
            plain(1, 2),
            "a member fails, writes miss it, the power goes, and it is back, one update behind",
            [
                write(0..8),
                fail(0),
                write(0..8),
                flush(),
                power_cut([Fate::Kept]),
                boot_all(),
                read_all(),
            ],
        ),
        M56 => new(
            with_drawer(with_bitmap(plain(1, 3)), 1),
            "a member is replaced, the array is written, bits are cleared, the old member is back",
            [
                fail(2),
                remove(2),
                add(3),
                settle(),
                write(0..64),
                quiet(),
                fail(3),
                remove(3),
                start(re_add(2)),
                settle(),
            ],
        ),
        _ => new(
            long(plain(1, 2)),
            "a member is taken back by the bitmap, the process is killed before it has caught up",
            [
                quiet(),
                fail(0),
                write(late(0..64)),
                flush(),
                remove(0),
                hold(sync_reads()),
                start(re_add(0)),
                until(sync_reads()),
                kill(true),
                boot_all(),
                settle(),
            ],
        ),
    }
}

fn rebuilds(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M52 => new(
            with_bitmap(mirror()),
            "the process is killed in the middle of a rebuild, with a clean bitmap",
            chain([
                vec![write(0..256), quiet()],
                half_rebuilt(1, 2),
                vec![kill(true), boot_all(), settle()],
            ]),
        ),
        M53 => new(
            mirror(),
            "a new member is rebuilt while a write that does not know it is on its way",
            [
                fail(1),
                remove(1),
                hold(data_writes().disk(0)),
                start(write(0..8)),
                until(data_writes().disk(0)),
                add(2),
                sleep_ms(50),
                release(),
                settle(),
            ],
        ),
        M55 => new(
            mirror(),
            "the only member in sync drops out while another one is being rebuilt",
            [
                write(0..8),
                fail(1),
                remove(1),
                hold(sync_reads()),
                add(2),
                sleep_ms(1000),
                arm(0, Armed::MetadataWriteError),
                write(0..8),
            ],
        ),
        _ => new(
            with_drawer(unsynced(plain(1, 3)), 1),
            "a member fails during a resync and is replaced",
            [
                hold(sync_reads()),
                fail(2),
                remove(2),
                add(3),
                release(),
                settle(),
            ],
        ),
    }
}

fn faults(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    match exhibit {
        M58 => new(
            mirror(),
            "a rebuild comes to sectors that its only source cannot read",
            [
                write(0..256),
                flush(),
                fail(1),
                remove(1),
                damage(0, 0..8),
                add(2),
                settle(),
            ],
        ),
        M61 => new(
            plain(1, 2),
            "a flush fails on one member",
            [write(0..8), arm(1, Armed::FlushError), flush()],
        ),
        _ => new(
            mirror(),
            "a disk is added to a frozen array that lacks a member",
            [
                write(0..8),
                fail(1),
                remove(1),
                admin(Admin::Freeze),
                add(2),
                read(0..8),
                admin(Admin::Idle),
            ],
        ),
    }
}
