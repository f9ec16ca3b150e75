//! How many read errors a member may have before it is given up.
//!
//! ```text
//!   hour:     0        1        2          an error that was mended counts one, each hour halves
//!   count:    |||||||  |||      ||||||||   a few bad sectors in years cost nothing, and a disk
//!                                          that dies is told from them
//! ```
//!
//! Facts: seeds-glossary.md section 5, interfaces.md (`max_read_errors`). The kernel counts failed
//! requests; here one bad spot is read in many small parts, so what fails within one second counts
//! once.

use crate::value::{Instant, Span};

const HALVED_EVERY: Span = Span::secs(3600);
const ONE_SPOT: Span = Span::secs(1);

/// The recent read errors of one member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadErrors {
    count: u32,
    /// Since when nothing was halved.
    since: Instant,
    /// The last one that counted.
    last: Option<Instant>,
}

impl ReadErrors {
    /// One more that was mended. Whether they are more than `most` now.
    pub fn note(&mut self, now: Instant, most: u32) -> bool {
        if self.last.is_some_and(|last| now - last < ONE_SPOT) {
            return false;
        }
        while self.count > 0 && now - self.since >= HALVED_EVERY {
            self.count /= 2;
            self.since = self.since + HALVED_EVERY;
        }
        if self.count == 0 {
            self.since = now;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
        self.count > most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(5_000_000_000);

    /// How many errors, this far apart, are one too many; `None` if that many never are.
    fn enough(apart: Span, most: u32) -> Option<u32> {
        let mut errors = ReadErrors::default();
        let mut now = START;
        for n in 1..=10_000 {
            if errors.note(now, most) {
                return Some(n);
            }
            now = now + apart;
        }
        None
    }

    #[test]
    fn a_burst_is_one_too_many_and_a_trickle_is_not() {
        assert_eq!(enough(Span::secs(1), 20), Some(21));
        assert_eq!(enough(Span::secs(60), 20), Some(21));
        // Half an hour apart there are never more than four.
        assert_eq!(enough(Span::secs(1800), 4), None);
        assert_eq!(enough(Span::secs(1800), 1), Some(2));
        assert_eq!(enough(Span::secs(1), 0), Some(1));
    }

    #[test]
    fn one_bad_spot_counts_once() {
        assert_eq!(enough(Span::millis(1), 10_000), None);
        let mut errors = ReadErrors::default();
        for ms in 0..999 {
            assert!(!errors.note(START + Span::millis(ms), 1));
        }
        assert!(errors.note(START + Span::millis(1000), 1));
    }

    #[test]
    fn a_night_forgets() {
        let mut errors = ReadErrors::default();
        for second in 0..20 {
            assert!(!errors.note(START + Span::secs(second), 20));
        }
        let morning = START + Span::secs(8 * 3600);
        for second in 0..20 {
            assert!(!errors.note(morning + Span::secs(second), 20));
        }
        assert!(errors.note(morning + Span::secs(30), 20));
    }

    /// Each hour forgets a half of what there was, however odd that is.
    #[test]
    fn an_hour_forgets_a_half() {
        for (errors, hours, left) in [(7, 1, 3), (6, 1, 3), (7, 2, 1), (9, 3, 1), (20, 1, 10)] {
            let noted = |most: u32| {
                let mut all = ReadErrors::default();
                for second in 0..errors {
                    all.note(START + Span::secs(second), u32::MAX);
                }
                all.note(START + Span::secs(hours * 3600), most)
            };
            assert!(noted(left) && !noted(left + 1), "{errors} {hours}");
        }
    }
}
