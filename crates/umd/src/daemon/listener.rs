//! The thread that greets NBD clients and hands each to its array's thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustls::ServerConfig;
use umd_export::nbd::{Address, ListenError, Listener, Reception};

use super::admission::hand_on;
use super::registry::Registry;
use crate::cli::outcome::say;

/// Stack of the thread; it keeps its buffers on the heap.
const STACK_BYTES: usize = 256 << 10;

/// A listening address and the thread behind it. Dropping it closes the door for new clients.
pub struct Listening {
    address: Address,
    encrypted: bool,
    outlives_us: bool,
    quit: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
    registry: Registry,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Listening {
    /// Where clients find it.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether who comes when it is closed waits for whoever opens it next.
    pub fn outlives_us(&self) -> bool {
        self.outlives_us
    }

    /// The NBD URI of an export there.
    pub fn uri(&self, export: &str) -> String {
        match self.encrypted {
            true => self.address.uri_over_tls(export),
            false => self.address.uri(export),
        }
    }
}

/// Opens a door to all arrays of `registry`.
///
/// # Errors
/// When the system refuses.
pub fn open_door(
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    registry: Registry,
) -> Result<Listening, ListenError> {
    let address = listener.address().clone();
    let error = |source: io::Error| ListenError::Io {
        address: address.clone(),
        source,
    };
    let (encrypted, outlives_us) = (tls.is_some(), listener.outlives_us());
    let mut reception = Reception::new(listener).map_err(error)?;
    if let Some(config) = tls {
        reception = reception.over_tls(config);
    }
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let quit = Arc::new(eventfd(0, flags).map_err(|errno| error(errno.into()))?);
    let wake = Arc::new(eventfd(0, flags).map_err(|errno| error(errno.into()))?);
    registry.wake(wake.clone());
    let (label, signals) = (address.to_string(), (quit.clone(), wake.clone()));
    let exports = registry.clone();
    let thread = std::thread::Builder::new()
        .name("nbd-door".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if let Err(error) = greet(reception, &exports, &signals.0, &signals.1) {
                say(&format!("{label}: no more clients are taken in: {error}"));
            }
        })
        .map_err(error)?;
    Ok(Listening {
        address: address.clone(),
        encrypted,
        outlives_us,
        quit,
        wake,
        registry,
        thread: Some(thread),
    })
}

fn greet(
    mut reception: Reception,
    registry: &Registry,
    quit: &OwnedFd,
    wake: &OwnedFd,
) -> io::Result<()> {
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
            PollFd::new(wake, PollFlags::IN),
        ];
        match poll(&mut watched, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if !watched[1].revents().is_empty() {
            return Ok(());
        }
        if !watched[2].revents().is_empty() {
            let mut count = [0; 8];
            let _ = rustix::io::read(wake, &mut count); // Nothing else reads it.
        }
        reception.turn(
            registry,
            Some(Duration::ZERO),
            &mut |socket, transmission| {
                hand_on(socket, transmission);
            },
        )?;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.registry.forget(&self.wake);
        let _ = rustix::io::write(&*self.quit, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // It has said what was wrong.
        }
    }
}
