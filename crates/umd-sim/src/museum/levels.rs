//! Scenes of mistakes about arrays that become others.
//!
//! ```text
//!   moved | window held back | rows that wait        what a crash, a host or a resync meets there
//! ```

use umd_core::array::Purpose;
use umd_core::value::Exhibit;

use super::scenes::{Scene, data_writes, new, super_writes};
use crate::options::Options;
use crate::script::{
    Admin, Fate, Match, Step, admin, await_all, boot_all, fail, hold, io, kill, plain, power_cut,
    quiet, re_add, read_all, release, remove, settle, sleep_ms, start, until, with_bitmap,
    with_spares, write,
};
use crate::world::level_number;

/// An array whose level and layout change.
fn changing(mut options: Options) -> Options {
    options.rare.levels = true;
    options
}

/// The layout becomes parity-last.
fn parity_last() -> Step {
    admin(Admin::Level(level_number(5, Some(5), true)))
}

/// What is moved to these sectors of a device and behind, on its way.
fn moves_behind(sector: u64) -> Match {
    io().writes()
        .purpose(Purpose::Reshape)
        .sectors(sector..u64::MAX)
}

/// All is written, and the reshape comes to the middle: what is moved behind it is held back.
fn half_moved() -> Vec<Step> {
    vec![
        write(0..256),
        write(256..512),
        hold(moves_behind(120)),
        parity_last(),
        until(moves_behind(120)),
        sleep_ms(10),
    ]
}

fn amid(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    half_moved().into_iter().chain(steps).collect()
}

pub(super) fn scene(exhibit: Exhibit) -> Scene {
    use Exhibit::*;
    let five = || changing(plain(5, 3));
    match exhibit {
        M43 => new(
            five(),
            "a RAID5 is killed while its layout is being changed, and started again",
            amid([kill(true), boot_all(), read_all(), settle(), read_all()]),
        ),
        M44 => new(
            changing(with_spares(plain(5, 3), 1)),
            "while the layout of a RAID5 is being changed a member is to be replaced, and the \
             power goes",
            amid([
                start(admin(Admin::Replace(0))),
                sleep_ms(10),
                power_cut([Fate::Lost]),
                boot_all(),
                settle(),
                read_all(),
            ]),
        ),
        M47 => new(
            five(),
            "a write waits for rows that are just being moved",
            amid([
                start(write(200..240)),
                start(write(240..300)),
                sleep_ms(1),
                release(),
                await_all(),
                settle(),
                read_all(),
            ]),
        ),
        M48 => new(
            five(),
            "the power goes while a RAID5 is written and its layout changed; it is resynced on \
             both sides of where the reshape was",
            amid([
                start(write(0..8)),
                until(data_writes()),
                power_cut([Fate::Lost]),
                boot_all(),
                settle(),
                read_all(),
            ]),
        ),
        _ => ours(exhibit),
    }
}

/// What becomes a RAID0 at once.
fn nearly_bare() -> Options {
    let mut options = changing(plain(5, 3));
    options.layout = 5;
    options
}

fn ours(exhibit: Exhibit) -> Scene {
    match exhibit {
        Exhibit::U60 => new(
            changing(plain(0, 2)),
            "a RAID0 is to become a RAID4 of a layout that only a RAID5 has",
            [
                write(0..256),
                hold(moves_behind(0)),
                start(admin(Admin::Level(level_number(4, Some(1), true)))),
                sleep_ms(5),
                kill(true),
                boot_all(),
                read_all(),
            ],
        ),
        Exhibit::U61 => new(
            nearly_bare(),
            "the power goes when one superblock of a RAID5 says that it is a RAID0; it is \
                 started, and written",
            [
                write(0..256),
                sleep_ms(1000),
                start(admin(Admin::Level(level_number(0, None, true)))),
                until(super_writes().disk(1).nth(2)),
                power_cut([Fate::Kept, Fate::Lost, Fate::Lost]),
                boot_all(),
                write(0..8),
                settle(),
                read_all(),
            ],
        ),
        Exhibit::U63 => new(
            nearly_bare(),
            "a daemon is killed while it writes that a RAID5 is a RAID0; it is started again, \
                 and written",
            [
                write(0..256),
                sleep_ms(1000),
                start(admin(Admin::Level(level_number(0, None, true)))),
                until(super_writes().disk(1).nth(2)),
                kill(true),
                boot_all(),
                write(0..8),
                settle(),
                read_all(),
            ],
        ),
        _ => new(
            changing(with_bitmap(plain(5, 3))),
            "a member leaves, the layout is changed, and it comes back",
            [
                write(0..256),
                write(256..512),
                quiet(),
                fail(1),
                remove(1),
                parity_last(),
                settle(),
                start(re_add(1)),
                await_all(),
                settle(),
                read_all(),
            ],
        ),
    }
}
