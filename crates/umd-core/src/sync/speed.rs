//! How fast a sync action goes.

use std::collections::VecDeque;

use crate::value::{Instant, Span};

const MARKS: usize = 10;
const MARK_EVERY: Span = Span::secs(3);

/// Progress marks over the last half minute.
#[derive(Debug, Clone)]
pub struct Speed {
    marks: VecDeque<(Instant, u64)>,
}

impl Speed {
    /// Starts at `done_sectors`.
    pub fn new(now: Instant, done_sectors: u64) -> Speed {
        Speed {
            marks: VecDeque::from([(now, done_sectors)]),
        }
    }

    /// Notes progress.
    pub fn mark(&mut self, now: Instant, done_sectors: u64) {
        let (last, before) = *self.marks.back().expect("never empty");
        assert!(before <= done_sectors, "what is done stays done");
        if now - last >= MARK_EVERY {
            self.marks.push_back((now, done_sectors));
            if self.marks.len() > MARKS {
                self.marks.pop_front();
            }
        }
    }

    /// KiB per second since the oldest mark.
    pub fn kib_per_second(&self, now: Instant, done_sectors: u64) -> u64 {
        let (since, from) = *self.marks.front().expect("never empty");
        let millis = ((now - since).0 / 1_000_000).max(1);
        done_sectors.saturating_sub(from) / 2 * 1000 / millis
    }

    /// Seconds until `total_sectors` at this speed.
    pub fn finish_seconds(&self, now: Instant, done: u64, total: u64) -> Option<u64> {
        let speed = self.kib_per_second(now, done);
        (speed > 0).then(|| total.saturating_sub(done) / 2 / speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(0) + Span::secs(seconds)
    }

    #[test]
    fn speed_is_that_of_the_last_half_minute() {
        let mut speed = Speed::new(at(0), 0);
        for s in 1..=60 {
            speed.mark(at(s), s * 2048);
        }
        assert_eq!(speed.kib_per_second(at(60), 60 * 2048), 1024);
        assert_eq!(speed.finish_seconds(at(60), 60 * 2048, 70 * 2048), Some(10));
        assert_eq!(Speed::new(at(0), 5).finish_seconds(at(9), 5, 10), None);
    }

    /// Who was fast an hour ago and is slow now is shown as slow, at once and not for ever.
    #[test]
    fn what_was_before_the_last_half_minute_is_forgotten() {
        let mut speed = Speed::new(at(0), 0);
        let mut done = 0;
        for s in 1..=600 {
            done += 20_480;
            speed.mark(at(s), done);
        }
        for s in 601..=700 {
            done += 2048;
            speed.mark(at(s), done);
        }
        assert_eq!(speed.kib_per_second(at(700), done), 1024);
        assert!(speed.marks.len() <= MARKS);
        let (since, _) = *speed.marks.front().expect("never empty");
        assert!((at(670)..=at(673)).contains(&since), "{since:?}");
    }
}
