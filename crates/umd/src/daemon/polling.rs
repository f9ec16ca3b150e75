//! How long an array that has nothing to do looks for something before it sleeps.
//!
//! ```text
//!   answers sent --> looks, for as long as its window --nothing--> sleeps
//!        ^                |                                          |
//!        |             somebody                     woken soon: a longer window the next time
//!        '----------------+                         later, or by a timer: none
//! ```
//!
//! To be woken takes a thread between five microseconds and, in a virtual machine, more than
//! twenty. Who asks, waits for the answer and asks again pays that for each request. So a thread
//! that is woken soon after it fell asleep does not fall asleep at once the next time. An array of
//! which nobody wants anything, or only now and then, never looks twice.

use std::time::{Duration, Instant};

/// The longest that it looks, and the longest sleep that was not worth it.
const LONGEST: Duration = Duration::from_micros(50);
/// The first window.
const SHORTEST: Duration = Duration::from_micros(8);

/// One for each thread that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polling {
    longest: Duration,
    window: Duration,
}

impl Polling {
    /// For this machine: with one processor, who looks keeps away whom it waits for. Where a
    /// scheduler of tests decides who runs there is nothing to gain either.
    pub fn here() -> Polling {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        match processors > 1 && !cfg!(feature = "shuttle") {
            true => Polling::up_to(LONGEST),
            false => Polling::up_to(Duration::ZERO),
        }
    }

    fn up_to(longest: Duration) -> Polling {
        Polling {
            longest,
            window: Duration::ZERO,
        }
    }

    /// Waits up to `most` for something to do. `look` waits for that long by itself, and says how
    /// much there is.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn wait(
        &mut self,
        most: Duration,
        mut look: impl FnMut(Duration) -> std::io::Result<usize>,
    ) -> std::io::Result<usize> {
        if most.is_zero() {
            return look(most);
        }
        let start = Instant::now();
        let window = self.window.min(most);
        while start.elapsed() < window {
            let there = look(Duration::ZERO)?;
            if there > 0 {
                return Ok(there);
            }
            std::hint::spin_loop();
        }
        let there = look(most)?;
        self.slept(start.elapsed(), there > 0);
        Ok(there)
    }

    /// It has waited for so long, and slept at the end of that.
    fn slept(&mut self, waited: Duration, woken: bool) {
        self.window = match woken && waited <= self.longest {
            true => (self.window * 2).max(SHORTEST).min(self.longest),
            false => Duration::ZERO,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(20);
    const LATE: Duration = Duration::from_micros(60);

    #[test]
    fn who_is_woken_soon_looks_longer_and_who_is_not_sleeps() {
        let mut polling = Polling::up_to(LONGEST);
        let mut windows = Vec::new();
        for (waited, woken) in [
            (LATE, true),
            (SOON, true),
            (SOON, true),
            (SOON, true),
            (SOON, true),
            (SOON, true),
            (SOON, false),
            (SOON, true),
            (LATE, true),
        ] {
            polling.slept(waited, woken);
            windows.push(polling.window.as_micros());
        }
        assert_eq!(windows, [0, 8, 16, 32, 50, 50, 0, 8, 0]);
    }

    /// Idle arrays look once each time they are woken, and where nobody may look nobody does.
    #[test]
    fn nobody_looks_without_a_window() {
        for (mut polling, woken) in [
            (Polling::up_to(LONGEST), 0),
            (Polling::up_to(Duration::ZERO), 1),
        ] {
            for _ in 0..5 {
                let mut asked = Vec::new();
                let there = polling.wait(Duration::from_secs(5), |most| {
                    asked.push(most);
                    Ok(woken)
                });
                assert_eq!(there.expect("no error"), woken);
                assert_eq!(asked, [Duration::from_secs(5)]);
            }
        }
    }

    /// Whoever comes while it looks is found without a sleep, and a look without a wait is one.
    #[test]
    fn who_comes_in_the_window_is_found() {
        let mut polling = Polling {
            longest: Duration::from_secs(60),
            window: Duration::from_secs(60),
        };
        let mut looks = 0;
        let there = polling.wait(Duration::from_secs(100), |most| {
            assert_eq!(most, Duration::ZERO);
            looks += 1;
            Ok(usize::from(looks == 3))
        });
        assert_eq!((there.expect("no error"), looks), (1, 3));
        let there = polling.wait(Duration::ZERO, |most| {
            looks += 1;
            Ok(usize::from(most.is_zero()))
        });
        assert_eq!((there.expect("no error"), looks), (1, 4));
        let failed = polling.wait(LATE, |_| Err(std::io::ErrorKind::Other.into()));
        assert!(failed.is_err());
    }
}
