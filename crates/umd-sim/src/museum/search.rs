//! Random search: how many seeds it takes until a mistake is noticed.

use umd_core::value::{Exhibit, Museum, Now, Pool};

use crate::engine::{Candidate, Maker, Refused, Started};
use crate::monitor::Violation;
use crate::options::Options;
use crate::run::{Show, run_seed};
use crate::shipped::{Shipped, start_core};

/// Starts the shipped core with one mistake in it.
#[derive(Debug, Clone, Copy)]
pub struct Mistaken(pub Exhibit);

impl Maker for Mistaken {
    fn start(
        &self,
        candidates: &[Candidate<'_>],
        minor: u8,
        force: bool,
        now: Now,
        pool: &Pool,
    ) -> Result<Started, Refused> {
        let museum = Museum::showing(self.0);
        start_core(candidates, (minor, force, museum), now, pool)
    }
}

/// The first seed that notices a mistake.
#[derive(Debug, Clone)]
pub struct Found {
    /// Seeds that were run, this one included.
    pub seeds: u64,
    /// The seed.
    pub seed: u64,
    /// What was noticed.
    pub violation: Violation,
}

/// Whether a mistake has a place in a seed at all: those of write-behind have none elsewhere.
fn may_show(exhibit: Exhibit, seed: u64) -> bool {
    let lags = matches!(exhibit, Exhibit::M05 | Exhibit::M06);
    !lags || Options::draw(seed).write_behind > 0
}

/// Runs up to `most` seeds from `start` on until one notices the mistake. A seed that fails without
/// the mistake as well proves nothing and is passed over.
pub fn search(exhibit: Exhibit, start: u64, most: u64) -> Option<Found> {
    (start..start.saturating_add(most)).find_map(|seed| {
        if !may_show(exhibit, seed) {
            return None;
        }
        let violation = run_seed(seed, &Mistaken(exhibit), Show::Hash).violation?;
        let innocent = run_seed(seed, &Shipped, Show::Hash).violation.is_none();
        innocent.then_some(Found {
            seeds: seed - start + 1,
            seed,
            violation,
        })
    })
}
