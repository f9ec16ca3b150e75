//! Mistakes of clusters: how each is made, and how it is looked for.
//!
//! ```text
//!   exhibit --> Make: a rule of nodes that is off, or a switch in the array
//!           --> Plan::draw(seed), run with it and without it
//! ```

use umd_core::cluster::{Rule, Rules};
use umd_core::value::{Exhibit, Museum};

use super::search::Found;
use crate::cluster::{Make, Plan, run, shrink};
use crate::monitor::Violation;
use crate::run::Show;

/// How a cluster makes this mistake; `None`: it is none of a cluster.
pub fn make(exhibit: Exhibit) -> Option<Make> {
    use Exhibit::*;
    let rule = match exhibit {
        M65 => Rule::D1,
        M66 => Rule::D5,
        M67 => Rule::D3,
        M68 | M69 | M70 | M71 => {
            return Some(Make {
                rules: Rules::ALL,
                museum: Museum::showing(exhibit),
            });
        }
        M73 => Rule::D6,
        M74 => Rule::CopyFirst,
        U66 => Rule::Quiesce,
        U67 => Rule::ZeroIsNotNone,
        U68 => Rule::AwaitFence,
        U69 => Rule::ValueFirst,
        U70 => Rule::ShownSize,
        U71 => Rule::Refresh,
        U72 => Rule::Recheck,
        U73 => Rule::D4,
        _ => return None,
    };
    Some(Make {
        rules: Rules::without(rule),
        museum: Museum::NONE,
    })
}

/// The scene of a mistake of clusters, and what it is in a sentence: what is left of a drawn run when
/// nothing can be left out any more.
pub(super) fn scene(exhibit: Exhibit) -> Option<(Plan, &'static str)> {
    let (seed, items, plot): (u64, &[usize], &'static str) = match exhibit {
        _ => return None,
    };
    Some((Plan::draw(seed).only(items), plot))
}

/// What is left of a seed that notices a mistake.
pub(super) fn shrunk(seed: u64, make: Make, most: usize) -> String {
    let Some(shrunk) = shrink(&Plan::draw(seed), make, most) else {
        return format!("seed {seed} does not fail again");
    };
    let items: Vec<String> = shrunk.plan.items.iter().map(ToString::to_string).collect();
    let (rule, kept) = (shrunk.violation.rule, shrunk.kept);
    format!(
        "seed {seed}, {rule:?}, items {kept:?}:\n{}",
        items.join("\n")
    )
}

/// What a plan breaks without and with a mistake.
pub(super) fn both(plan: &Plan, make: Make, show: Show) -> [Option<Violation>; 2] {
    let off = run(plan.clone(), Make::default(), Show::Hash).violation;
    [off, run(plan.clone(), make, show).violation]
}

/// Runs up to `most` seeds of clusters from `start` on until one notices the mistake.
pub(super) fn search(make: Make, start: u64, most: u64) -> Option<Found> {
    (start..start.saturating_add(most)).find_map(|seed| {
        let plan = Plan::draw(seed);
        let violation = run(plan.clone(), make, Show::Hash).violation?;
        let innocent = run(plan, Make::default(), Show::Hash).violation.is_none();
        innocent.then_some(Found {
            seeds: seed - start + 1,
            seed,
            violation,
        })
    })
}
