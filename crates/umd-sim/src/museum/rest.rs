//! The scenes of mistakes about rest: read-auto, suspending, stopping.
//!
//! ```text
//!   works --- told to rest --- what was begun ends | not a byte is written --- goes on, or is gone
//! ```

use umd_core::array::Purpose;
use umd_core::value::{Exhibit, Span};

use super::scenes::{Scene, mirror, new, super_writes, unsynced};
use crate::disk::Armed;
use crate::options::Options;
use crate::script::{
    Admin, Fate, admin, arm, boot_all, damage, flush, hold, io, kill, plain, power_cut, quiet,
    read, release, repair, rot, settle, sleep_ms, start, stop, until, write,
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
        Exhibit::U64 => new(
            plain(5, 3),
            "while an array that becomes read-only writes superblocks a host reads what cannot be \
             read",
            [
                write(0..64),
                damage(0, 0..1),
                hold(super_writes()),
                start(admin(Admin::ReadOnly)),
                sleep_ms(10),
                start(read(0..1)),
                until(io().disk(0).reads()),
                arm(0, Armed::Hang(Span::secs(1))),
                sleep_ms(100),
                release(),
                sleep_ms(2000),
            ],
        ),
        Exhibit::U47 => new(
            mirror(),
            "an array is stopped, and one more request comes",
            [write(0..8), stop()],
        ),
        Exhibit::U65 => new(
            dormant(plain(5, 3)),
            "an array is killed with writes in the caches of its members, started read-auto and \
             stopped, and the power goes",
            [
                write(0..64),
                kill(true),
                boot_all(),
                stop(),
                power_cut([Fate::Lost, Fate::Lost, Fate::Lost]),
                boot_all(),
                read(0..64),
                write(64..72),
            ],
        ),
        _ => new(
            dormant(plain(1, 2)),
            "a mirror is killed with writes in the caches of its members, started read-auto, and \
             flushed",
            [write(0..8), kill(true), boot_all(), flush(), write(8..16)],
        ),
    }
}
