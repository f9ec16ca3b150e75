//! Crash images find what they are for, and leave the main line alone.

use crate::monitor::Rule;
use crate::options::{Ending, Forks, Options, Trigger};
use crate::run::{Outcome, Show, run_options};
use crate::sabotage::{Harm, Sabotage};

/// A seed of one boot that ends well: no power cut but those of the forks.
fn options(seed: u64, points: u64) -> Options {
    let mut options = Options::draw(seed);
    options.boots = vec![(Ending::Stop, Trigger::Answers(u64::MAX))];
    options.forks = Forks {
        points,
        images: 4,
        splits: 0,
    };
    // Nothing but an image has a resync to do.
    (options.old_disks, options.assume_clean, options.missing) = (false, true, 0);
    options.faults.clear();
    options.actions.clear();
    options
}

fn run(seed: u64, points: u64, harm: Harm) -> Outcome {
    run_options(options(seed, points), &Sabotage(harm), Show::Tail)
}

#[test]
fn the_main_line_goes_on_as_if_nothing_had_happened() {
    let mut images = 0;
    for seed in 0..20 {
        let (plain, forked) = (run(seed, 0, Harm::None), run(seed, 3, Harm::None));
        assert_eq!(forked.violation, None, "seed {seed}: {:#?}", forked.tail);
        images += forked.counts.images;
        let mut counts = forked.counts;
        (counts.forks, counts.images) = (0, 0);
        assert_eq!(plain.counts, counts, "seed {seed}");
    }
    assert!(images > 150, "{images}");
}

#[test]
fn images_of_one_seed_are_always_the_same() {
    let mut differ = 0;
    for seed in 0..5 {
        let (a, b) = (run(seed, 3, Harm::None), run(seed, 3, Harm::None));
        assert_eq!(a.hash, b.hash);
        differ += u32::from(a.hash != run(seed, 0, Harm::None).hash);
    }
    assert!(differ >= 4, "{differ}");
}

#[test]
fn what_only_a_power_cut_shows_is_found_by_an_image() {
    let mut found = 0;
    for seed in 0..60 {
        let outcome = run(seed, 4, Harm::ResyncDropped);
        if let Some(violation) = outcome.violation
            && violation.text.starts_with("image")
        {
            let rules = [
                Rule::Parity,
                Rule::Clear,
                Rule::Checkpoint,
                Rule::Content,
                Rule::Events,
                Rule::Error,
            ];
            assert!(rules.contains(&violation.rule), "{violation}");
            found += 1;
        }
    }
    assert!(found >= 5, "{found} of 60");
}
