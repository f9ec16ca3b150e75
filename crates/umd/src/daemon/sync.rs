//! Threads, locks, channels and the sleep of an array's thread: the system's, or those of a
//! scheduler that chooses who runs next.
//!
//! ```text
//!   feature shuttle off    std, epoll
//!   feature shuttle on     shuttle; who sleeps is awake when its poller says so, or the scene
//!                          lets the time pass
//! ```
//!
//! What uses these is what `cargo test -p umd --lib --features shuttle shuttle_` sees in every
//! order.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{Timespec, epoll};

#[cfg(not(feature = "shuttle"))]
pub use std::{
    sync::atomic::{AtomicBool, Ordering},
    sync::mpsc,
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

#[cfg(feature = "shuttle")]
pub use shuttle::{
    sync::atomic::{AtomicBool, Ordering},
    sync::mpsc,
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

/// Raises a counter (eventfd) that a poller sees.
pub fn ring(counter: &OwnedFd) {
    step();
    // A counter at its limit is readable anyway; nothing else can go wrong.
    let _ = rustix::io::write(counter, &1u64.to_ne_bytes());
}

/// Sleeps until there are events, or for that long; how many there are.
///
/// # Errors
/// When the poller fails. An interruption is none: it is no event.
pub fn sleep(
    poller: &OwnedFd,
    events: &mut [epoll::Event],
    timeout: Duration,
) -> std::io::Result<usize> {
    let timeout = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    #[cfg(feature = "shuttle")]
    let result = virtually::sleep(poller, events, &timeout);
    #[cfg(not(feature = "shuttle"))]
    let result = epoll::wait(poller, events, Some(&timeout));
    match result {
        Err(rustix::io::Errno::INTR) => Ok(0),
        result => Ok(result?),
    }
}

/// Here the scheduler, if there is one, may let anybody else run first: where nothing else says so.
pub fn step() {
    #[cfg(feature = "shuttle")]
    thread::sleep(std::time::Duration::ZERO);
}

#[cfg(feature = "shuttle")]
pub use virtually::Time;

#[cfg(feature = "shuttle")]
mod virtually {
    use std::cell::Cell;

    use rustix::event::{Timespec, epoll};
    use shuttle::rand::{Rng, thread_rng};

    use super::OwnedFd;

    thread_local! {
        /// All threads of a schedule are one thread of the system's.
        static NANOS: Cell<u64> = const { Cell::new(0) };
        static PASSES: Cell<bool> = const { Cell::new(false) };
    }

    /// The time of a scene.
    pub struct Time;

    impl Time {
        /// It begins. It passes only while somebody sleeps, and only if it is to.
        pub fn begin(passes: bool) {
            NANOS.set(1);
            PASSES.set(passes);
        }

        /// Nanoseconds.
        pub fn now() -> u64 {
            NANOS.get()
        }
    }

    pub fn sleep(
        poller: &OwnedFd,
        events: &mut [epoll::Event],
        timeout: &Timespec,
    ) -> rustix::io::Result<usize> {
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            super::step();
            let count = epoll::wait(poller, &mut *events, Some(&at_once))?;
            if count > 0 || *timeout == at_once {
                return Ok(count);
            }
            if PASSES.get() && thread_rng().gen_bool(0.05) {
                let seconds = u64::try_from(timeout.tv_sec).expect("no time before now");
                let nanos = u64::try_from(timeout.tv_nsec).expect("no time before now");
                NANOS.set(NANOS.get() + seconds * 1_000_000_000 + nanos);
                return Ok(0);
            }
            shuttle::thread::yield_now();
        }
    }
}
