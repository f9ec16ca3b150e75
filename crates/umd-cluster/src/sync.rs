//! Locks, waits and threads: the system's, or those of a scheduler that chooses who runs next.
//!
//! ```text
//!   feature shuttle off    std
//!   feature shuttle on     shuttle; a wait ends when it is told to, or when a scene has let so
//!                          much time pass
//! ```
//!
//! What uses these is what `cargo test -p umd-cluster --lib --features shuttle shuttle_` sees in
//! every order.

#[cfg(not(feature = "shuttle"))]
pub use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

#[cfg(feature = "shuttle")]
pub use shuttle::{
    sync::{Mutex, MutexGuard},
    thread,
};

#[cfg(feature = "shuttle")]
pub use virtually::{Condvar, Time};

#[cfg(feature = "shuttle")]
mod virtually {
    use std::cell::{Cell, RefCell};
    use std::sync::{Arc, LockResult, PoisonError};
    use std::time::Duration;

    use shuttle::sync::{self, MutexGuard};

    thread_local! {
        /// All threads of a schedule are one thread of the system's.
        static NANOS: Cell<u64> = const { Cell::new(0) };
        /// Who may wait for time to pass.
        static WAITS: RefCell<Vec<Arc<sync::Condvar>>> = const { RefCell::new(Vec::new()) };
    }

    /// The time of a scene. It stands still unless it is told to go on.
    pub struct Time;

    impl Time {
        /// It begins.
        #[cfg(test)]
        pub fn begin() {
            NANOS.set(1);
            WAITS.take();
        }

        /// Nanoseconds.
        pub fn now() -> u64 {
            NANOS.get()
        }

        /// It goes on by so much.
        #[cfg(test)]
        pub fn pass(time: Duration) {
            let nanos = u64::try_from(time.as_nanos()).expect("no ages");
            NANOS.set(NANOS.get() + nanos);
            let waits = WAITS.with_borrow(Clone::clone);
            waits.iter().for_each(|wait| wait.notify_all());
        }
    }

    /// A condition that is waited for with an end: shuttle's own waits have none.
    #[derive(Debug)]
    pub struct Condvar(Arc<sync::Condvar>);

    impl Default for Condvar {
        fn default() -> Condvar {
            Condvar::new()
        }
    }

    type Waited<'a, T> = LockResult<(MutexGuard<'a, T>, ())>;

    impl Condvar {
        /// Nobody waits.
        pub fn new() -> Condvar {
            let inner = Arc::new(sync::Condvar::new());
            WAITS.with_borrow_mut(|waits| waits.push(Arc::clone(&inner)));
            Condvar(inner)
        }

        /// All who wait look again.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }

        /// As std has it.
        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            time: Duration,
        ) -> Waited<'a, T> {
            let mut told = false;
            self.wait_timeout_while(guard, time, |_| !std::mem::replace(&mut told, true))
        }

        /// As std has it.
        pub fn wait_timeout_while<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            time: Duration,
            mut waits: impl FnMut(&mut T) -> bool,
        ) -> Waited<'a, T> {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let until = Time::now().saturating_add(nanos);
            while waits(&mut guard) {
                if Time::now() >= until {
                    return Ok((guard, ()));
                }
                let waited = self.0.wait(guard);
                guard = waited.map_err(|error| PoisonError::new((error.into_inner(), ())))?;
            }
            Ok((guard, ()))
        }

        /// As std has it.
        pub fn wait_while<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            waits: impl FnMut(&mut T) -> bool,
        ) -> LockResult<MutexGuard<'a, T>> {
            self.0.wait_while(guard, waits)
        }
    }
}
