//! Time is an argument. The core never asks for it.

use std::ops::{Add, Sub};

/// A point on the driver's monotonic clock, in nanoseconds from an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Instant(pub u64);

/// A length of time in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct Span(pub u64);

impl Span {
    /// A span of whole milliseconds.
    pub const fn millis(ms: u64) -> Span {
        Span(ms * 1_000_000)
    }

    /// A span of whole seconds.
    pub const fn secs(s: u64) -> Span {
        Span(s * 1_000_000_000)
    }

    /// The span in whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }
}

impl Add<Span> for Instant {
    type Output = Instant;
    fn add(self, rhs: Span) -> Instant {
        Instant(self.0.saturating_add(rhs.0))
    }
}

impl Sub<Instant> for Instant {
    type Output = Span;
    fn sub(self, rhs: Instant) -> Span {
        Span(self.0.saturating_sub(rhs.0))
    }
}

/// What the driver knows about time at an event: a monotonic instant for all decisions, and the
/// wall clock, which is only ever written into superblocks (it may jump; nothing is ordered by it).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Instant,
    /// Seconds since 1970, for `utime` fields.
    pub wall_seconds: u64,
}
