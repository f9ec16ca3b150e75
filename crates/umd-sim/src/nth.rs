//! The n-th failure: a fixed program, again and again, and each time another member I/O goes wrong.
//!
//! ```text
//!   program:  write  write fua  flush  fail  write  remove  add  rebuild  check  stop  start
//!   member I/O:  1 2 3 4 5 ...                                                        ... 412
//!                ^ run 1: the first fails     ^ run n: the n-th fails      run 413: none is left
//! ```
//!
//! Goes wrong means: it fails, it hangs until it is given up, its disk vanishes, or the power goes
//! while it is in flight. All checkers are on; within redundancy no error may reach the host.

use crate::engine::Maker;
use crate::metaview::OLD;
use crate::monitor::Violation;
use crate::options::Options;
use crate::run::Show;
use crate::script::*;
use crate::world::{Ambush, Strike};

/// A program with a name.
#[derive(Debug, Clone)]
pub struct Drill {
    /// The name.
    pub name: String,
    /// The array.
    pub options: Options,
    /// What happens.
    pub steps: Vec<Step>,
}

/// A run that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// Which member I/O, and what happened to it.
    pub ambush: Ambush,
    /// What broke.
    pub violation: Violation,
}

/// What a drill brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drilled {
    /// Runs, the last of each kind of strike undisturbed.
    pub runs: u64,
    /// Runs that broke a rule.
    pub misses: Vec<Miss>,
}

/// All that can happen to a member I/O.
pub const STRIKES: [Strike; 4] = [Strike::Fail, Strike::Hang, Strike::Vanish, Strike::Crash];

/// 64 sectors of data on each member, a bitmap, and a blank disk.
fn small(level: i32, slots: u16) -> Options {
    let mut options = with_bitmap(with_drawer(plain(level, slots), 1));
    options.disk_sectors.fill(64 + 64);
    options
}

fn body(options: &Options, name: &str) -> Vec<Step> {
    let new = usize::from(options.slots);
    match name {
        "write" => vec![
            write(0..8),
            start(write_fua(3..5)),
            start(zero(10..20)),
            await_all(),
            flush(),
            trim(16..24),
            read(0..24),
            quiet(),
            write(5..6),
            stop(),
            boot_all(),
            write(1..3),
        ],
        "replace" => vec![
            write(0..16),
            fail(1),
            write(4..9),
            remove(1),
            add(new),
            write(20..22),
            settle(),
            flush(),
            stop(),
        ],
        "rejoin" => vec![
            write(0..16),
            quiet(),
            fail(0),
            write(4..9),
            remove(0),
            // Without a bitmap nobody knows what it has missed.
            match options.bitmap_bytes {
                Some(_) => re_add(0),
                None => add(0),
            },
            settle(),
            write(2..3),
            quiet(),
        ],
        "scrub" => vec![
            write(0..32),
            start(check()),
            write(8..12),
            settle(),
            repair(),
            settle(),
        ],
        "crash" => vec![
            write(0..16),
            flush(),
            start(write(2..11)),
            until(io().writes().purpose(data())),
            power_cut([Fate::Lost, Fate::Kept]),
            boot_all(),
            write(12..14),
            settle(),
            stop(),
        ],
        other => panic!("no drill {other}"),
    }
}

/// The drills: mirror, RAID5 and RAID6 with a bitmap, and `more` shapes.
pub fn drills(more: bool) -> Vec<Drill> {
    let lagging = |options: Options| {
        let last = usize::from(options.slots) - 1;
        let mut options = with_behind(options, 1 << last, 4);
        options.latency[last].write_ns *= 20;
        options
    };
    let names = ["write", "replace", "rejoin", "scrub", "crash"];
    let mut shapes = vec![small(1, 2), small(5, 3), small(6, 4)];
    if more {
        shapes.extend([small(1, 3), small(4, 3), small(5, 4), small(6, 5)]);
        let bare = |mut options: Options| {
            options.bitmap_bytes = None;
            options
        };
        shapes.extend([bare(small(1, 2)), bare(small(5, 3)), bare(small(6, 4))]);
        shapes.extend([lagging(small(1, 2)), lagging(small(1, 3))]);
        shapes.extend([old(small(1, 2)), old(small(5, 3))]);
        shapes.extend([with_bitmap_file(small(1, 2)), with_bitmap_file(small(5, 3))]);
    }
    let mut all = Vec::new();
    for options in shapes {
        for name in names {
            let bitmap = match options.bitmap_bytes {
                _ if options.minor == OLD => ", metadata 0.90",
                _ if options.bitmap_file => ", bitmap in a file",
                Some(_) if options.write_behind > 0 => ", write-behind",
                Some(_) => "",
                None => ", no bitmap",
            };
            all.push(Drill {
                name: format!(
                    "{name} on RAID{} of {}{bitmap}",
                    options.level, options.slots
                ),
                steps: body(&options, name),
                options: options.clone(),
            });
        }
    }
    all
}

/// Runs a drill with this strike at every member I/O.
pub fn drill(drill: &Drill, strike: Strike, maker: &dyn Maker) -> Drilled {
    let mut drilled = Drilled::default();
    for nth in 1.. {
        let ambush = Ambush { nth, strike };
        let (outcome, struck) =
            play_ambushed(&drill.options, &drill.steps, maker, ambush, Show::Hash);
        drilled.runs += 1;
        if let Some(violation) = outcome.violation {
            drilled.misses.push(Miss { ambush, violation });
        }
        if !struck {
            break;
        }
    }
    drilled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Rule;
    use crate::sabotage::{Harm, Sabotage};
    use crate::shipped::Shipped;

    #[test]
    fn whatever_goes_wrong_the_host_does_not_notice() {
        let mut runs = 0;
        for one in drills(false) {
            for strike in STRIKES {
                let drilled = drill(&one, strike, &Shipped);
                assert_eq!(drilled.misses, [], "{}", one.name);
                assert!(drilled.runs > 30, "{}: {}", one.name, drilled.runs);
                runs += drilled.runs;
            }
        }
        assert!(runs > 3000, "{runs}");
    }

    #[test]
    fn a_failure_that_is_swallowed_is_found_whichever_it_is() {
        let one = &drills(false)[5];
        let drilled = drill(one, Strike::Fail, &Sabotage(Harm::ErrorsSwallowed));
        assert!(drilled.misses.len() > 10, "{}", drilled.misses.len());
        let skipped = drill(one, Strike::Crash, &Sabotage(Harm::ResyncDropped));
        let rules = [Rule::Clear, Rule::Parity, Rule::Checkpoint];
        assert!(skipped.misses.len() > 5, "{}", skipped.misses.len());
        assert!(
            skipped
                .misses
                .iter()
                .all(|m| rules.contains(&m.violation.rule))
        );
    }
}
