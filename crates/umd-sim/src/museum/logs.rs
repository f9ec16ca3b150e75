//! The scenes of mistakes about bad-block logs.
//!
//! ```text
//!   the source of a rebuild    |....x..........x....|   what it cannot give
//!   who is being rebuilt       |....x..........?....|   is recorded there, or was to be
//! ```

use umd_core::array::Purpose;
use umd_core::value::Exhibit;

use super::scenes::{Scene, data_writes, mirror, new, sync_reads};
use crate::disk::Armed;
use crate::options::Options;
use crate::script::{
    Fate, Step, add, arm, await_all, boot, boot_all, damage, fail, hold, io, plain, power_cut,
    quiet, read, read_all, release, remove, settle, sleep_ms, start, stop, until, vanish, wear,
    with_logs, write,
};

/// More than a log has room for.
const SPOTS: u64 = 520;
/// From one to the next.
const APART: u64 = 16;

pub(super) fn scene(exhibit: Exhibit) -> Scene {
    match exhibit {
        Exhibit::M12 => new(
            long(4096),
            "a rebuild meets two places that its source cannot read; the log of the new member \
             takes the first, and not the second",
            [
                write(2944..3072),
                fail(1),
                remove(1),
                damage(0, 8..16),
                damage(0, 3000..3008),
                hold(sync_reads().sectors(64 + 2816..64 + 3072)),
                add(2),
                until(io().writes().purpose(Purpose::BadBlocks).done()),
                sleep_ms(50),
                arm(2, Armed::MetadataWriteError),
                release(),
                settle(),
                stop(),
                boot([0, 2]),
                read(3000..3008),
            ],
        ),
        Exhibit::M17 => new(
            with_logs(plain(5, 3), 4),
            "a member of a RAID5 has bad blocks, and all of the array is read",
            [read_all()],
        ),
        _ => new(
            long(SPOTS * APART),
            "a rebuild meets more places that its source cannot read than a log has room for",
            overflow(),
        ),
    }
}

/// Writes that a member refuses.
pub(super) fn refused(exhibit: Exhibit) -> Scene {
    let mirrors = with_logs(mirror(), 0);
    match exhibit {
        Exhibit::U40 => new(
            mirrors,
            "a leg of a mirror refuses a part of a write, and another write comes",
            [wear(1, 8..16), write(0..32), write(64..96)],
        ),
        Exhibit::U41 => new(
            mirrors,
            "both legs of a mirror refuse the same sector, one after the other",
            [
                wear(0, 8..9),
                write(0..16),
                wear(1, 8..9),
                write(0..16),
                read_all(),
            ],
        ),
        Exhibit::U42 => new(
            with_logs(plain(5, 3), 0),
            "a member of a RAID5 refuses two sectors of a write",
            [wear(1, 9..11), write(0..512), read_all()],
        ),
        Exhibit::U43 => new(
            mirrors,
            "a leg of a mirror refuses a part of a write; while its log is written the other leg \
             is lost",
            [
                wear(1, 8..12),
                hold(io().writes().purpose(Purpose::BadBlocks)),
                start(write(0..32)),
                until(io().writes().purpose(Purpose::BadBlocks)),
                vanish(0),
                release(),
                await_all(),
                read_all(),
            ],
        ),
        _ => new(
            mirrors,
            "after a crash a leg of a mirror refuses what a resync writes, at the end of it",
            [
                quiet(),
                start(write(0..8)),
                until(data_writes()),
                power_cut([Fate::Kept, Fate::Lost]),
                hold(sync_reads()),
                boot_all(),
                wear(1, 0..8),
                release(),
                settle(),
                quiet(),
            ],
        ),
    }
}

/// Mirrors with so many sectors of data, and empty logs.
fn long(sectors: u64) -> Options {
    let mut options = with_logs(mirror(), 0);
    options.disk_sectors.fill(64 + sectors);
    options
}

fn overflow() -> Vec<Step> {
    let end = SPOTS * APART;
    let mut steps = vec![write(0..end), fail(1), remove(1)];
    steps.extend((0..SPOTS).map(|n| damage(0, n * APART..n * APART + 8)));
    steps.extend([add(2), settle()]);
    steps.extend((0..SPOTS).map(|n| read(n * APART..n * APART + 8)));
    steps
}
