//! The scenes of mistakes about rest: read-auto, suspending, stopping.
//!
//! ```text
//!   works --- told to rest --- what was begun ends | not a byte is written --- goes on, or is gone
//! ```

use umd_core::array::Purpose;
use umd_core::value::Exhibit;

use super::scenes::{Scene, mirror, new, unsynced};
use crate::options::Options;
use crate::script::{
    Admin, admin, boot_all, flush, hold, io, kill, plain, quiet, read, release, repair, rot,
    settle, sleep_ms, start, stop, write,
};

/// Nothing is written before the first write, whenever it is started.
fn dormant(mut options: Options) -> Options {
    options.rare.dormant = true;
    options
}

pub(super) fn scene(exhibit: Exhibit) -> Scene {
    match exhibit {
        Exhibit::U45 => new(
            dormant(unsynced(plain(1, 2))),
            "a mirror that has to be resynced is started read-auto and read; then it is written",
            [sleep_ms(1000), read(0..8), write(0..8), settle()],
        ),
        Exhibit::U46 => new(
            plain(1, 2),
            "a mirror is suspended while a repair writes blocks that differ",
            [
                write(0..8),
                quiet(),
                rot(1, 64..72),
                hold(io().writes().purpose(Purpose::Scrub)),
                repair(),
                sleep_ms(10),
                start(admin(Admin::ReadOnly)),
                sleep_ms(1000),
                release(),
                sleep_ms(1000),
            ],
        ),
        Exhibit::U47 => new(
            mirror(),
            "an array is stopped, and one more request comes",
            [write(0..8), stop()],
        ),
        _ => new(
            dormant(plain(1, 2)),
            "a mirror is killed with writes in the caches of its members, started read-auto, and \
             flushed",
            [write(0..8), kill(true), boot_all(), flush(), write(8..16)],
        ),
    }
}
