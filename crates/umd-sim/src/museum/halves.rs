//! Scenes of mistakes about what a crash left half done, and a resync had to make one again.
//!
//! ```text
//!   disk 0  |new|      disk 1  |old|      whichever is read first is right, and has to stay
//! ```

use umd_core::array::Purpose;
use umd_core::value::Exhibit;

use super::scenes::{Scene, data_writes, mirror, new, sync_reads, sync_writes};
use crate::script::{
    Admin, Fate, Step, add, admin, boot, boot_all, fail, hold, io, plain, power_cut, quiet, read,
    release, remove, settle, sleep_ms, start, stop, until, wear, with_logs, write,
};

/// The number of limits that have a sync of `mirror` wait at sector 64.
const TO_64: u32 = 26;

/// A write of one block is cut short, with these ends on the disks.
fn half_written(fates: impl Into<Vec<Fate>>) -> Vec<Step> {
    vec![
        write(0..8),
        quiet(),
        start(write(0..8)),
        until(data_writes()),
        power_cut(fates),
    ]
}

pub(super) fn scene(exhibit: Exhibit) -> Scene {
    match exhibit {
        Exhibit::U49 => new(
            mirror(),
            "a rebuild waits at sector 64, the array is stopped and started, and a write is cut \
             short by the power: only the new leg has it",
            [
                write(0..8),
                fail(1),
                remove(1),
                admin(Admin::Limit(TO_64)),
                add(2),
                sleep_ms(50),
                stop(),
                hold(sync_reads()),
                boot([0, 2]),
                start(write(0..8)),
                until(data_writes().disk(2)),
                power_cut([Fate::Lost, Fate::Lost, Fate::Kept]),
                boot([0, 2]),
                settle(),
            ],
        ),
        Exhibit::U50 => {
            let mut steps = half_written([Fate::Kept, Fate::Lost]);
            steps.extend([
                hold(sync_writes()),
                boot_all(),
                until(sync_writes()),
                fail(0),
                start(read(0..8)),
                sleep_ms(100),
                release(),
                settle(),
                read(0..8),
            ]);
            new(
                plain(1, 2),
                "a resync writes to one leg what the other one holds; that fails, and a host reads",
                steps,
            )
        }
        _ => {
            let mut steps = half_written([Fate::Kept, Fate::Lost, Fate::Kept]);
            steps.extend([
                hold(sync_reads()),
                boot_all(),
                wear(1, 0..1),
                release(),
                hold(io().writes().purpose(Purpose::BadBlocks)),
                start(read(0..1)),
                until(io().writes().purpose(Purpose::BadBlocks)),
                start(read(0..1)),
                sleep_ms(100),
                power_cut([Fate::Lost, Fate::Lost, Fate::Lost]),
                boot([1, 2]),
                read(0..1),
            ]);
            new(
                with_logs(plain(1, 3), 0),
                "after a crash a leg of a mirror refuses what makes it agree; the others are read, \
                 and the first of them is lost with the power",
                steps,
            )
        }
    }
}
