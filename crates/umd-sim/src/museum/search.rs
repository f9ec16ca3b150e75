//! Random search: how many seeds it takes until a mistake is noticed.

use umd_core::value::{Exhibit, Museum, Now, Pool};

use super::clustered;
use crate::engine::{Candidate, How, Maker, Refused, Started};
use crate::metaview::OLD;
use crate::monitor::Violation;
use crate::options::{Action, Fault, Marks, Options};
use crate::rng::{Rng, Stream};
use crate::run::{Show, run_options};
use crate::shipped::{Shipped, start_core};

/// Starts the shipped core with one mistake in it.
#[derive(Debug, Clone, Copy)]
pub struct Mistaken(pub Exhibit);

impl Maker for Mistaken {
    fn start(
        &self,
        candidates: &[Candidate<'_>],
        how: How<'_>,
        now: Now,
        pool: &Pool,
    ) -> Result<Started, Refused> {
        start_core(candidates, how, Museum::showing(self.0), now, pool)
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

/// Whether a mistake is made only while an array becomes another one, or afterwards.
fn is_of_levels(exhibit: Exhibit) -> bool {
    use Exhibit::*;
    matches!(exhibit, M43 | M44 | M47 | M48 | U60 | U61 | U62 | U63)
}

/// The words that change what a seed means, for mistakes that few seeds have room for.
pub fn forced(exhibit: Exhibit) -> Option<&'static str> {
    match exhibit {
        exhibit if clustered::make(exhibit).is_some() => Some("--cluster"),
        Exhibit::U26 => Some("--bitmap-file"),
        Exhibit::U27 => Some("--old"),
        Exhibit::U25 => Some("--replaces"),
        Exhibit::U64 | Exhibit::U65 => Some("--rests"),
        Exhibit::U49 | Exhibit::U50 | Exhibit::U51 => Some("--halves"),
        exhibit if is_of_levels(exhibit) => Some("--levels"),
        _ => None,
    }
}

/// What a seed means where a mistake is looked for.
pub fn options_for(exhibit: Exhibit, seed: u64) -> Options {
    let mut options = Options::draw(seed);
    match exhibit {
        Exhibit::U26 if options.level > 0 && !options.bitmap_file => {
            options.keep_bitmap_in_a_file(&mut Rng::new(seed, Stream::Stored));
        }
        Exhibit::U27 if options.minor != OLD => options.make_old(),
        Exhibit::U25 => options.replace_often(),
        Exhibit::U64 | Exhibit::U65 => options.rest_often(),
        Exhibit::U49 | Exhibit::U50 | Exhibit::U51 => options.halve(),
        exhibit if is_of_levels(exhibit) => options.change_levels(),
        _ => {}
    }
    options
}

/// Whether a mistake has a place in a seed at all. Where the code that makes it is not reached the
/// seed need not be run.
fn may_show(exhibit: Exhibit, options: &Options) -> bool {
    use Exhibit::*;
    match exhibit {
        M01 | M02 => options.level == 0,
        M05 | M06 => options.write_behind > 0,
        M25 | M58 | U03 | U05 | U12 | U64 | U65 => options.level > 0,
        U15 => options.rare.alone,
        M56 | U01 | U07 | U09 => options.bitmap_bytes.is_some(),
        M12 | M17 | M63 => options.logged.is_some(),
        U04 => options.faults.contains(&Fault::FlushError),
        U23 => matches!(options.level, 1 | 10) && options.beyond,
        U50 => matches!(options.level, 1 | 10) && options.actions_per_boot == 8,
        U24 => options.rare.late,
        U49 => options.rare.begun_sectors > 0,
        U25 => options.actions.contains(&Action::Replace),
        U26 => options.bitmap_file,
        U27 => options.level > 0 && options.spares + options.drawer > 0,
        U28 => options.rare.tardy,
        U20 | U21 | U22 => options.marks != Marks::Bits,
        U40 | U41 | U42 | U43 | U44 | U51 => options.faults.contains(&Fault::Worn),
        U11 | U29 | U30 => matches!(options.level, 4..=6),
        exhibit if is_of_levels(exhibit) => options.rare.levels,
        _ => true,
    }
}

/// Runs up to `most` seeds from `start` on until one notices the mistake. A seed that fails without
/// the mistake as well proves nothing and is passed over.
pub fn search(exhibit: Exhibit, start: u64, most: u64) -> Option<Found> {
    if let Some(make) = clustered::make(exhibit) {
        return clustered::search(make, start, most);
    }
    (start..start.saturating_add(most)).find_map(|seed| {
        let options = options_for(exhibit, seed);
        if !may_show(exhibit, &options) {
            return None;
        }
        let violation = run_options(options.clone(), &Mistaken(exhibit), Show::Hash).violation?;
        let innocent = run_options(options, &Shipped, Show::Hash)
            .violation
            .is_none();
        innocent.then_some(Found {
            seeds: seed - start + 1,
            seed,
            violation,
        })
    })
}
