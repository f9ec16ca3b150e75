//! The md engine: sans-IO and deterministic.
//!
//! ```text
//!             Event                                   Command
//!   host request  ----+                        +----> member I/O
//!   I/O completion ---+                        +----> completion to the host
//!   timer  -----------+--> Array::handle(now) -+----> arm a timer
//!   control request --+      one owner,        +----> answer to control
//!   member arrives ---+      closed enums      +----> notice (log, monitor)
//! ```
//!
//! The core has no clock, thread, file, socket, environment or hash-ordered collection, and no
//! `unsafe`: what it does is a function of its state, the event and the instant it is given. The
//! daemon drives it with real disks, `umd-sim` with simulated ones; both run this very code.
#![forbid(unsafe_code)]

pub mod array;
pub mod assembly;
pub mod bitmap;
pub mod cluster;
pub mod geometry;
pub mod lane;
pub mod member;
pub mod metadata;
pub mod personality;
pub mod registry;
pub mod sync;
pub mod value;
