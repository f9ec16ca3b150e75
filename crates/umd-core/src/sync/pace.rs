//! How fast a sync action may go, and when it makes room for hosts.
//!
//! ```text
//!   what was begun   |####|                  a debt, which time pays off at the rate in force:
//!   what is owed     |####\
//!                    |     \_____|####\      speed_max, or speed_min while hosts work
//!                    +-----------+---------> time
//!                                 the next range begins here
//! ```
//!
//! Who was slow may hardly be fast later: a debt is never less than nothing by more than a moment.
//! Without limits a sync goes as fast as the members do, one unit at a time while hosts work.

use crate::value::{Instant, Span};

/// Hosts count as working for this long after their last request has ended: most of them think
/// between two requests, and none of them wants to meet a row of units then.
const HOST_GRACE: Span = Span::millis(100);

/// What a late start may make up for, at the rate in force: timers and members are never exact.
const CREDIT: Span = Span::millis(50);

const SECOND_NS: i128 = 1_000_000_000;

/// Limits, and what was spent of them.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// md's `sync_speed_min`: hosts are not made room for below it.
    pub min_kib_s: Option<u32>,
    /// md's `sync_speed_max`.
    pub max_kib_s: Option<u32>,
    /// KiB that are not paid for yet, in billionths.
    debt: i128,
    /// Up to when was paid.
    paid: Instant,
    /// Hosts had requests in flight when they were last looked at.
    busy: bool,
    /// When they last had.
    worked: Option<Instant>,
}

impl Pace {
    /// Tells whether hosts have requests in flight.
    pub fn look(&mut self, now: Instant, busy: bool) {
        if busy || self.busy {
            self.worked = Some(now);
        }
        self.busy = busy;
    }

    /// Whether hosts work, or did a moment ago.
    pub fn hosts_work(&self, now: Instant) -> bool {
        self.busy || self.worked.is_some_and(|then| now - then < HOST_GRACE)
    }

    /// KiB per second that are allowed now; `None`: as many as the members can do.
    fn rate(&self, now: Instant) -> Option<u32> {
        match (self.min_kib_s, self.max_kib_s) {
            (Some(min), Some(max)) if self.hosts_work(now) => Some(min.min(max)),
            (Some(min), None) if self.hosts_work(now) => Some(min),
            (_, max) => max,
        }
    }

    /// When the next range may begin: `None` at once, otherwise look again then.
    pub fn wait(&mut self, now: Instant) -> Option<Instant> {
        let passed = i128::from((now - self.paid).0);
        self.paid = self.paid.max(now);
        let Some(rate) = self.rate(now) else {
            self.debt = 0;
            return None;
        };
        let rate = i128::from(rate);
        assert!(rate > 0, "a limit of nothing is refused");
        let most = -rate * i128::from(CREDIT.0);
        self.debt = (self.debt - rate * passed).max(most);
        if self.debt <= 0 {
            return None;
        }
        let left = (self.debt + rate - 1) / rate;
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        let paid = now + Span(left);
        // Once hosts rest, what is owed is paid faster.
        let rest = self.worked.filter(|_| !self.busy).map(|at| at + HOST_GRACE);
        let rest = rest.filter(|at| *at > now);
        Some(rest.map_or(paid, |rest| rest.min(paid)))
    }

    /// A range of `sectors` begins.
    pub fn spend(&mut self, sectors: u64) {
        assert!(sectors > 0, "a range holds something");
        self.debt += i128::from(sectors) * SECOND_NS / 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant(0) + Span::millis(n)
    }

    fn pace(min: Option<u32>, max: Option<u32>) -> Pace {
        Pace {
            min_kib_s: min,
            max_kib_s: max,
            ..Pace::default()
        }
    }

    /// KiB begun in `from..to`, in steps of a millisecond and pieces of 64 KiB, with a host that
    /// has a request in flight for the first `host` of every 10 ms.
    fn begun(pace: &mut Pace, from: u64, to: u64, host: u64) -> u64 {
        let mut kib = 0;
        for n in from..to {
            pace.look(ms(n), n % 10 < host);
            while kib < 1_000_000 && pace.wait(ms(n)).is_none() {
                pace.spend(128);
                kib += 64;
            }
        }
        kib
    }

    #[test]
    fn hosts_get_room_and_the_rest_goes_on_at_the_maximum() {
        let mut pace = pace(Some(1024), Some(10_240));
        let near = |got: u64, wanted: u64| got.abs_diff(wanted) <= wanted / 100 + 64;
        let free = begun(&mut pace, 0, 10_000, 0);
        assert!(near(free, 102_400), "{free}");
        let beside = begun(&mut pace, 10_000, 20_000, 5);
        assert!(near(beside, 10_240), "{beside}");
        let free = begun(&mut pace, 20_100, 30_100, 0);
        assert!(near(free, 102_400), "{free}");
    }

    #[test]
    fn without_limits_nothing_waits() {
        assert_eq!(begun(&mut pace(None, None), 0, 1, 5), 1_000_000);
        let mut only_min = pace(Some(64), None);
        assert_eq!(begun(&mut only_min, 0, 1000, 1), 64);
        only_min.look(ms(1000), false);
        assert_eq!(begun(&mut only_min, 2000, 2001, 0), 1_000_000);
    }

    #[test]
    fn a_wait_ends_when_hosts_rest_and_when_the_limit_is_raised() {
        let mut pace = pace(Some(1), None);
        pace.look(ms(0), true);
        assert_eq!(pace.wait(ms(0)), None);
        pace.spend(512);
        assert_eq!(pace.wait(ms(0)), Some(ms(256_000)));
        pace.look(ms(1000), false);
        assert_eq!(pace.wait(ms(1000)), Some(ms(1100)));
        assert_eq!(pace.wait(ms(1100)), None);
        pace.look(ms(2000), true);
        pace.spend(512);
        assert!(pace.wait(ms(2000)).is_some());
        pace.min_kib_s = Some(512);
        let soon = pace.wait(ms(2000)).expect("not at once");
        assert!(ms(2450) <= soon && soon <= ms(2500), "{soon:?}");
        assert_eq!(pace.wait(ms(2500)), None);
    }
}
