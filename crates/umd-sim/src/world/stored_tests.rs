//! Scripts with arrays of metadata 0.90, and with bitmaps in a file.

use umd_core::value::Span;

use crate::disk::Armed;
use crate::monitor::Rule;
use crate::options::Options;
use crate::run::Show;
use crate::sabotage::{Harm, Sabotage};
use crate::script::*;

const SHAPES: [(i32, u16); 6] = [(0, 2), (1, 2), (1, 3), (4, 3), (5, 3), (6, 4)];

fn broken(options: &Options, steps: &[Step], harm: Harm) -> Option<Rule> {
    let outcome = play(options, steps, &Sabotage(harm), Show::Tail);
    outcome.violation.map(|violation| violation.rule)
}

#[track_caller]
fn passes(options: &Options, steps: &[Step]) {
    let outcome = play(options, steps, &Sabotage(Harm::None), Show::Tail);
    let level = options.level;
    assert_eq!(outcome.violation, None, "RAID{level}: {:#?}", outcome.tail);
}

fn supers() -> Match {
    io().purpose(umd_core::array::Purpose::Super)
}

fn bits() -> Match {
    io().purpose(umd_core::array::Purpose::Bitmap)
}

#[test]
fn arrays_with_metadata_0_90_live_through_power_cuts_and_replacements() {
    for (level, slots) in SHAPES {
        let options = old(plain(level, slots));
        let mut steps = vec![
            write(3..21),
            flush(),
            start(write(40..44)),
            power_cut([Fate::Kept, Fate::Lost]),
            boot_all(),
            settle(),
            in_sync(usize::from(slots)),
            read_all(),
        ];
        passes(&options, &steps);
        if level > 0 {
            let options = with_drawer(with_bitmap(options), 1);
            steps.extend([fail(1), write(0..8), remove(1), add(usize::from(slots))]);
            steps.extend([settle(), in_sync(usize::from(slots)), read_all(), stop()]);
            passes(&options, &steps);
        }
    }
}

#[test]
fn superblocks_of_0_90_are_judged_as_the_others_are() {
    let steps = [
        write(0..8),
        flush(),
        start(write(8..16)),
        until(supers()),
        power_cut([Fate::Lost]),
        boot_all(),
        write(0..8),
        settle(),
        stop(),
    ];
    let options = old(plain(1, 2));
    passes(&options, &steps);
    // What is clean in the cache only is not what the medium says.
    let rule = broken(&options, &steps, Harm::SuperVolatile);
    assert!(
        matches!(rule, Some(Rule::Intent | Rule::Events)),
        "{rule:?}"
    );
}

#[test]
fn a_file_that_fails_is_never_believed_again() {
    for (level, slots) in [(1, 2), (5, 3)] {
        let options = with_bitmap_file(plain(level, slots));
        let (slots, file) = (usize::from(slots), usize::from(slots));
        let steps = [
            sleep_ms(30_000),
            arm(file, Armed::MetadataWriteError),
            write(0..8),
            write(64..72),
            start(write(128..136)),
            power_cut([Fate::Kept, Fate::Lost]),
            boot_all(),
            settle(),
            in_sync(slots),
            read_all(),
            stop(),
        ];
        passes(&options, &steps);
    }
}

/// What hangs may land when it is not waited for any more: superblocks have to carry more events
/// than it, not as many.
#[test]
fn a_write_that_hangs_at_the_file_cannot_make_it_believed_later() {
    let options = with_bitmap_file(plain(1, 2));
    let steps = [
        quiet(),
        start(write(0..8)),
        until(bits()),
        arm(2, Armed::Hang(Span::secs(100))),
        sleep_ms(1),
        start(write(64..72)),
        until(io().purpose(data()).nth(4)),
        power_cut([Fate::Kept, Fate::Lost, Fate::Kept]),
        boot_all(),
        settle(),
        in_sync(2),
        read_all(),
        stop(),
    ];
    passes(&options, &steps);
}

#[test]
fn a_file_that_is_missed_hides_nothing_when_it_is_back() {
    let options = with_bitmap_file(plain(1, 2));
    let steps = [
        write(0..8),
        stop(),
        boot([0, 1]),
        start(write(64..72)),
        until(io().purpose(data())),
        power_cut([Fate::Kept, Fate::Lost]),
        boot_all(),
        settle(),
        read_all(),
        stop(),
    ];
    passes(&options, &steps);
}

#[test]
fn a_crash_between_bits_and_data_is_resynced_by_the_file() {
    for kept in [
        [Fate::Kept, Fate::Lost, Fate::Kept],
        [Fate::Lost, Fate::Kept, Fate::Lost],
    ] {
        let options = with_bitmap_file(plain(1, 2));
        let steps = [
            write(0..8),
            sleep_ms(30_000),
            start(write(64..72)),
            until(bits()),
            sleep_ms(1),
            power_cut(kept),
            boot_all(),
            settle(),
            read_all(),
            stop(),
        ];
        passes(&options, &steps);
    }
}
