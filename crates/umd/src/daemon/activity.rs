//! When the daemon was last wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// When somebody last wanted something.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last_ms: AtomicUsize,
    in_flight: AtomicUsize,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            start: Instant::now(),
            last_ms: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        }
    }
}

impl Activity {
    /// For how long nobody has wanted anything; `None` while somebody does.
    pub fn quiet_for(&self) -> Option<Duration> {
        if self.in_flight.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::SeqCst) as u64);
        Some(self.start.elapsed().saturating_sub(last))
    }

    /// Somebody wants something, until what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(self.clone())
    }

    fn touch(&self) {
        let now = usize::try_from(self.start.elapsed().as_millis()).unwrap_or(usize::MAX);
        self.last_ms.store(now, Ordering::SeqCst);
    }
}

/// Something that is being done for somebody.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activity_counts_from_the_last_request() {
        let activity = Arc::new(Activity::default());
        let one = activity.begin();
        let another = activity.begin();
        drop(one);
        assert_eq!(activity.quiet_for(), None);
        drop(another);
        std::thread::sleep(Duration::from_millis(50));
        assert!(activity.quiet_for() >= Some(Duration::from_millis(49)));
        drop(activity.begin());
        assert!(activity.quiet_for() < Some(Duration::from_millis(49)));
    }
}
