//! Exhaustive small programs: every program of a few operations, and of each every crash image.
//!
//! ```text
//!   {aligned, unaligned, full stripe, FUA, flush, trim, fail 1, re-add 1}^k  on 2 stripes
//!        |
//!        +--> after every event: all subsets of the writes that are not durable (more than 12:
//!             256 of them) --> assembled, settled, read back, stopped, compared
//! ```
//!
//! In this bounded space nothing is left to luck: what passes holds for it. Writes survive as a
//! whole or not at all here; torn ones are what seeds are for.

use std::cell::RefCell;
use std::rc::Rc;

use crate::engine::Maker;
use crate::monitor::Violation;
use crate::options::Options;
use crate::run::Show;
use crate::script::*;
use crate::world::Looked;

/// One operation of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A page.
    Aligned,
    /// Two sectors across the middle of a page.
    Unaligned,
    /// A whole row.
    Stripe,
    /// Two sectors of the second chunk, FUA.
    Fua,
    /// A flush.
    Flush,
    /// A trim of a page.
    Trim,
    /// Member 1 is failed.
    Fail,
    /// Member 1 is taken out and put back.
    ReAdd,
}

/// All operations.
pub const OPS: [Op; 8] = [
    Op::Aligned,
    Op::Unaligned,
    Op::Stripe,
    Op::Fua,
    Op::Flush,
    Op::Trim,
    Op::Fail,
    Op::ReAdd,
];

/// How hosts go about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Each operation waits for the one before.
    OneByOne,
    /// Hosts wait for nothing. The administrator waits for his answers.
    Together,
}

/// What a search brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Searched {
    /// Programs.
    pub programs: u64,
    /// Moments at which crash images were drawn.
    pub moments: u64,
    /// Moments of which a sample was taken only.
    pub sampled: u64,
    /// Crash images, also those that were met before.
    pub images_met: u64,
    /// Crash images that were assembled and read.
    pub images_run: u64,
    /// Programs that broke a rule.
    pub failures: Vec<(Vec<Op>, Pace, Violation)>,
}

/// Two stripes, with a bitmap.
pub fn shape(level: i32, slots: u16) -> Options {
    let mut options = with_bitmap(plain(level, slots));
    options.disk_sectors.fill(64 + 16);
    options
}

/// The shapes that are searched.
pub fn shapes() -> Vec<Options> {
    vec![shape(1, 2), shape(5, 3), shape(6, 4)]
}

fn steps_of(op: Op, options: &Options) -> Vec<Step> {
    let row = match options.level {
        1 => 16,
        5 => 8 * u64::from(options.slots - 1),
        _ => 8 * u64::from(options.slots - 2),
    };
    match op {
        Op::Aligned => vec![write(0..8)],
        Op::Unaligned => vec![write(3..5)],
        Op::Stripe => vec![write(0..row)],
        Op::Fua => vec![write_fua(9..11)],
        Op::Flush => vec![flush()],
        Op::Trim => vec![trim(0..8)],
        Op::Fail => vec![fail(1)],
        Op::ReAdd => vec![remove(1), re_add(1)],
    }
}

/// The steps of a program, up to the moment when the array has nothing left to do.
fn whole(ops: &[Op], pace: Pace, options: &Options) -> Vec<Step> {
    let mut steps: Vec<Step> = ops.iter().flat_map(|op| steps_of(*op, options)).collect();
    if pace == Pace::Together {
        steps = steps
            .into_iter()
            .map(|step| match step {
                Step::Host { .. } => start(step),
                other => other,
            })
            .collect();
    }
    steps.extend([await_all(), quiet()]);
    steps
}

/// Whether the administrator's part of a program makes sense.
fn makes_sense(ops: &[Op]) -> bool {
    let mut failed = false;
    ops.iter().all(|op| match op {
        Op::Fail => !std::mem::replace(&mut failed, true),
        Op::ReAdd => std::mem::replace(&mut failed, false),
        _ => true,
    })
}

/// All programs of up to `most` operations.
pub fn programs(most: usize) -> Vec<Vec<Op>> {
    let mut all: Vec<Vec<Op>> = Vec::new();
    let mut last: Vec<Vec<Op>> = vec![Vec::new()];
    for _ in 0..most {
        let longer = |ops: &Vec<Op>| {
            let ops = ops.clone();
            OPS.map(|op| [ops.clone(), vec![op]].concat())
        };
        last = last
            .iter()
            .flat_map(longer)
            .filter(|ops| makes_sense(ops))
            .collect();
        all.extend(last.iter().cloned());
    }
    all
}

/// Runs all programs of up to `most` operations on one shape.
pub fn search(options: &Options, most: usize, maker: &dyn Maker) -> Searched {
    let looked = Rc::new(RefCell::new(Looked::default()));
    let mut searched = Searched::default();
    // Longer programs start with the shorter ones, but these come to rest earlier.
    for ops in programs(most) {
        for pace in [Pace::OneByOne, Pace::Together] {
            let steps = whole(&ops, pace, options);
            searched.programs += 1;
            let outcome = play_everywhere(options, &steps, maker, looked.clone(), Show::Hash);
            if let Some(violation) = outcome.violation {
                searched.failures.push((ops.clone(), pace, violation));
            }
        }
    }
    let looked = looked.borrow();
    searched.moments = looked.moments_met;
    searched.sampled = looked.sampled;
    searched.images_met = looked.images_met;
    searched.images_run = looked.images_run();
    searched
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Rule;
    use crate::sabotage::{Harm, Sabotage};
    use crate::shipped::Shipped;

    #[test]
    fn all_programs_of_two_operations_survive_every_power_cut() {
        for options in shapes() {
            let searched = search(&options, 2, &Shipped);
            assert_eq!(searched.failures, [], "RAID{}", options.level);
            assert!(searched.images_run > 300, "{searched:?}");
        }
    }

    /// The bitmap goes and comes, with hosts who do not wait for that: whatever the power leaves of
    /// it starts, and holds what was answered.
    #[test]
    fn bitmaps_go_and_come_whenever_the_power_goes() {
        let mut images = 0;
        for options in shapes() {
            for (first, then) in [
                (no_bitmap(), bitmap()),
                (bitmap(), no_bitmap()),
                (no_bitmap(), bitmap_file()),
            ] {
                let mut options = options.clone();
                if first == bitmap() {
                    options.bitmap_bytes = None;
                }
                if then == bitmap_file() {
                    options = with_bitmap_file(options);
                }
                let steps = [
                    write(0..8),
                    start(first.clone()),
                    start(write(3..5)),
                    await_all(),
                    start(write(9..11)),
                    start(then),
                    start(write_fua(0..3)),
                    await_all(),
                    write(4..6),
                    quiet(),
                ];
                let looked = Rc::new(RefCell::new(Looked::default()));
                let seen = looked.clone();
                let outcome = play_everywhere(&options, &steps, &Shipped, seen, Show::Hash);
                assert_eq!(outcome.violation, None, "RAID{} {first:?}", options.level);
                images += looked.borrow().images_run();
            }
        }
        assert!(images > 200, "{images} images");
    }

    #[test]
    fn programs_make_sense() {
        assert_eq!(programs(1).len(), 7);
        assert!(programs(2).contains(&vec![Op::Fail, Op::ReAdd]));
        assert!(!programs(3).contains(&vec![Op::Fail, Op::Flush, Op::Fail]));
    }

    #[test]
    fn what_only_some_subset_shows_is_found() {
        for options in shapes() {
            let searched = search(&options, 1, &Sabotage(Harm::ResyncDropped));
            let rules = [Rule::Clear, Rule::Parity, Rule::Checkpoint];
            assert!(!searched.failures.is_empty(), "RAID{}", options.level);
            assert!(
                searched
                    .failures
                    .iter()
                    .all(|(_, _, v)| rules.contains(&v.rule))
            );
        }
    }
}
