//! Members behind one small batch trait.
//!
//! ```text
//!                    one array's event loop (one thread)
//!                                  |
//!      submit, submit, kick        |        reap, event_fd
//!                                  v
//!   Backend <----------------- Mux: routes each I/O to its member's engine
//!                  +-----------------+------------------+
//!                  v                 v                  v
//!                ring             inline             workers (threads, per member)
//!          io_uring, O_DIRECT   cannot block      blocks elsewhere
//!                  |                 |                  |
//!                  |                 +--- Medium -------+     blocking calls on one member:
//!                  v                        |                 file, memory, overlay, fault
//!               the file <------------------+
//! ```
//!
//! A member is opened once, and the lock that keeps others away sits on the very descriptor that
//! does the I/O: a write that a killed process left behind still holds it, so the successor waits
//! (zombie writes). Buffers travel by value with their I/O, so a late completion never touches
//! memory that is in use again.
//!
//! This crate and `umd-parity` are the only ones with `unsafe`; here all of it is in `ring`.
#![deny(unsafe_code)]

mod backend;
mod error;
#[cfg(feature = "fault")]
pub mod fault;
mod finish;
mod lock;
mod medium;
mod member;
mod memory;
mod mux;
mod open;
mod overlay;
mod pieces;
mod raw;
mod ring;
mod threads;

pub use backend::Backend;
pub use error::{Holder, OpenError, io_error_of};
pub use medium::Medium;
pub use member::{Elsewhere, Engine, MemberFile, Mode, Room};
pub use mux::Mux;
