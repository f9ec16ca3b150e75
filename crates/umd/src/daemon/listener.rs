//! The thread that greets NBD clients and hands each to its array's thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use umd_export::nbd::{Address, ListenError, Reception, listen};

use super::array::Message;
use super::registry::Registry;
use crate::cli::outcome::say;

/// Stack of the thread; it keeps its buffers on the heap.
const STACK_BYTES: usize = 256 << 10;

/// A listening address and the thread behind it. Dropping it closes the door for new clients.
pub struct Listening {
    address: Address,
    quit: Arc<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Listening {
    /// Where clients find it.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Opens a door to all arrays of `registry`.
///
/// # Errors
/// When nothing can listen there.
pub fn open_door(address: &Address, registry: Registry) -> Result<Listening, ListenError> {
    let listener = listen(address)?;
    let address = listener.address().clone();
    let error = |source: io::Error| ListenError::Io {
        address: address.clone(),
        source,
    };
    let reception = Reception::new(listener).map_err(error)?;
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let quit = Arc::new(eventfd(0, flags).map_err(|errno| error(errno.into()))?);
    let (label, signal) = (address.to_string(), quit.clone());
    let thread = std::thread::Builder::new()
        .name("nbd-door".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if let Err(error) = greet(reception, &registry, &signal) {
                say(&format!("{label}: no more clients are taken in: {error}"));
            }
        })
        .map_err(error)?;
    Ok(Listening {
        address: address.clone(),
        quit,
        thread: Some(thread),
    })
}

fn greet(mut reception: Reception, registry: &Registry, quit: &OwnedFd) -> io::Result<()> {
    loop {
        let until = reception.deadline();
        let timeout = until.map(|at| {
            let wait = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            }
        });
        let mut watched = [
            PollFd::new(&reception, PollFlags::IN),
            PollFd::new(quit, PollFlags::IN),
        ];
        match poll(&mut watched, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !watched[1].revents().is_empty() {
            return Ok(());
        }
        reception.turn(
            registry,
            Some(Duration::ZERO),
            &mut |socket, transmission| {
                // An array that stopped since the client found it: closing is the answer.
                if let Some(handle) = registry.get(&transmission.export.name) {
                    let _ = handle.send(Message::Connection(socket, Box::new(transmission)));
                }
            },
        )?;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.quit, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // It has said what was wrong.
        }
    }
}
