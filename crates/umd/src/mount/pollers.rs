//! Who waits with poll(2) for a value to change.
//!
//! ```text
//!   program  poll(POLLPRI) --> kernel --FUSE_POLL--> files: as it was read?  --> sleeps
//!                                                                                  |
//!   our thread  looks at the documents while somebody sleeps; are they other ones? |
//!               --wakes everybody--> kernel --FUSE_POLL--> files: another value? --+--> POLLPRI
//! ```
//!
//! Nobody who waits is woken in vain: the kernel asks again before it does that. While nobody
//! waits, nobody looks.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fuser::PollNotifier;

use super::source::Source;
use crate::doc::ArrayDoc;

/// How often the documents are looked at while somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Those who wait, by the number of their open file.
#[derive(Default)]
pub struct Pollers {
    waiting: Mutex<BTreeMap<u64, PollNotifier>>,
    somebody: Condvar,
}

impl Pollers {
    /// Nobody; a thread of its own watches what `source` has.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn watching(source: Arc<Source>) -> std::io::Result<Arc<Pollers>> {
        let pollers = Arc::new(Pollers::default());
        let own = pollers.clone();
        let watch = move || loop {
            own.watch(&source);
        };
        let thread = thread::Builder::new().name("poll".into()).spawn(watch);
        thread.map(|_| pollers)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, PollNotifier>> {
        // It is whole between any two statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody waits from here on.
    pub fn add(&self, handle: u64, notifier: PollNotifier) {
        self.lock().insert(handle, notifier);
        self.somebody.notify_one();
    }

    /// An open file is closed.
    pub fn remove(&self, handle: u64) {
        self.lock().remove(&handle);
    }

    /// Until nobody waits any more.
    fn watch(&self, source: &Source) {
        let mut waiting = self.lock();
        while waiting.is_empty() {
            let woken = self.somebody.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        drop(waiting);
        // What was there when the first of them looked is not known: they look once more.
        let mut last: Option<Vec<ArrayDoc>> = None;
        loop {
            let now = source.arrays().unwrap_or_default();
            if last.as_ref() != Some(&now) {
                self.wake();
                last = Some(now);
            }
            thread::sleep(LOOK_EVERY);
            if self.lock().is_empty() {
                return;
            }
        }
    }

    /// Whoever is woken and goes on waiting is in the table again.
    fn wake(&self) {
        for (_, notifier) in std::mem::take(&mut *self.lock()) {
            let _ = notifier.notify(); // A file that was closed meanwhile.
        }
    }
}
