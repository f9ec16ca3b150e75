//! Crash images that are drawn while a seed runs.

use crate::rng::Rng;

/// How many crash images are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forks {
    /// Moments.
    pub points: u64,
    /// Images of each moment; at most 63.
    pub images: u64,
    /// Moments more, at which members tell of different levels or layouts.
    pub splits: u64,
}

/// One seed in seven forks: what forks cost would else be missing at other seeds.
pub(super) fn draw_forks(rng: &mut Rng) -> Forks {
    match rng.permille(150) {
        true => Forks {
            points: rng.pick(&[1, 2, 4]),
            images: rng.pick(&[2, 4]),
            splits: 0,
        },
        false => Forks::default(),
    }
}
