//! Time as the members of a cluster have to read it.
//!
//! A session ends by time, whatever the machine does meanwhile. The monotonic clock of most
//! programs stands still while a machine sleeps; this one does not: who wakes up knows that its
//! session is over.

use std::time::Duration;

#[cfg(not(feature = "shuttle"))]
use rustix::time::{ClockId, clock_gettime};
use umd_core::value::{Instant, Span};

/// The clock of all instants that an engine gives or takes: nanoseconds since the machine's start,
/// sleep included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock;

impl Clock {
    /// What it shows.
    #[cfg(feature = "shuttle")]
    pub fn now(self) -> Instant {
        Instant(crate::sync::Time::now())
    }

    /// What it shows.
    #[cfg(not(feature = "shuttle"))]
    pub fn now(self) -> Instant {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).expect("the clock counts from the start");
        let nanos = u64::try_from(time.tv_nsec).expect("never negative");
        Instant(seconds * 1_000_000_000 + nanos)
    }

    /// How long it is until then; nothing once it has come.
    pub fn until(self, then: Instant) -> Duration {
        Duration::from_nanos((then - self.now()).0)
    }
}

/// A length of time as the core has it.
pub(crate) fn span(time: Duration) -> Span {
    Span(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_by_itself() {
        let before = Clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(Clock.now() >= before + Span::millis(2));
        assert_eq!(Clock.until(before), Duration::ZERO);
        let left = Clock.until(before + Span::secs(60));
        assert!(left > Duration::from_secs(50) && left < Duration::from_secs(60));
    }
}
