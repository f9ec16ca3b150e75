//! Clusters: two to five hosts, each the shipped `Clustered`, on simulated disks that they share.
//!
//! ```text
//!   seed --draw--> Plan --run--> World: hosts, disks, lock service, time --> Outcome
//!                   |                     judge: at each I/O       ends: when all is well again
//!                   '-- shrink: which items does the failure need
//! ```
//!
//! The disks are those of every other run (volatile caches, torn and lost writes, errors), what
//! hosts write are stamps, and one register oracle hears of all of them. The lock service is umd's
//! own book (`umd_cluster::book`) in virtual time. A host may stand still for longer than its
//! session: what it had sent to the disks lands later, unless it was fenced by then.

mod acts;
mod command;
mod draw;
mod ends;
mod host;
mod judge;
mod line;
mod load;
mod media;
mod plan;
mod service;
mod shrink;
mod tales;
mod world;

pub use command::{USAGE, command};
pub use draw::item;
pub use plan::{Act, Fencing, Item, Plan};
pub use shrink::{Shrunk, shrink};
pub use world::{Counts, Make, World};

use crate::monitor::{Rule, Violation};
use crate::run::{Show, caught};
use crate::trace::Trace;

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What was broken, if anything was.
    pub violation: Option<Violation>,
    /// Hash of everything that happened.
    pub hash: u128,
    /// What happened, in numbers.
    pub counts: Counts,
    /// The last lines of the trace, if they were kept.
    pub tail: Vec<String>,
}

/// Runs a plan.
pub fn run(plan: Plan, make: Make, show: Show) -> Outcome {
    let mut world = World::new(plan, make, Trace::of(show));
    let violation = caught(|| world.run()).err();
    Outcome {
        violation,
        hash: world.trace().hash(),
        counts: world.counts(),
        tail: world.trace().tail().map(str::to_owned).collect(),
    }
}

/// Runs a plan twice; the runs must not differ.
pub fn run_twice(plan: &Plan, make: Make) -> Outcome {
    let mut first = run(plan.clone(), make, Show::Hash);
    let second = run(plan.clone(), make, Show::Hash);
    if first.violation.is_none() && first.hash != second.hash {
        let text = format!("two runs of seed {} differ", plan.seed);
        first.violation = Some(Violation::new(Rule::Determinism, text));
    }
    first
}

#[cfg(test)]
mod tests;
