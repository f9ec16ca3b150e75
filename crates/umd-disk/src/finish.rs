//! How completions from elsewhere reach the loop: a list, and a descriptor that wakes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::EventfdFlags;
use umd_core::array::{IoDone, IoError};
use umd_core::value::{IoId, MemberId};

/// The end of an I/O, before it leaves the backend.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) member: MemberId,
    pub(crate) io: IoId,
    pub(crate) result: Result<IoDone, IoError>,
}

/// An event descriptor: readable from the first `signal` until `clear`.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> std::io::Result<Wake> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Wake(rustix::event::eventfd(0, flags)?))
    }

    pub(crate) fn signal(&self) {
        // The only failure is a counter about to overflow, and then it is readable anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        // Fails when nothing was signalled.
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Completions made by other threads. The loop clears the descriptor *before* it takes the list,
/// so a push in between is either taken or signalled again.
#[derive(Debug)]
pub(crate) struct DoneList {
    list: Mutex<Vec<Finished>>,
    wake: Arc<Wake>,
}

impl DoneList {
    pub(crate) fn new(wake: Arc<Wake>) -> DoneList {
        DoneList {
            list: Mutex::new(Vec::new()),
            wake,
        }
    }

    pub(crate) fn push(&self, finished: Finished) {
        let first = {
            let mut list = self.list.lock().expect("nothing panics under this lock");
            list.push(finished);
            list.len() == 1
        };
        if first {
            self.wake.signal();
        }
    }

    /// Moves everything to the end of `out`.
    pub(crate) fn take(&self, out: &mut Vec<Finished>) {
        let mut list = self.list.lock().expect("nothing panics under this lock");
        out.append(&mut list);
    }
}
