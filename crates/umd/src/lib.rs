//! The umd binary as a library, so that tests can call its rooms.
//!
//! ```text
//!   argv --> cli (one item per option) --+--> text / doc         (pure renderers)
//!                                        +--> client --socket--> daemon (control API)
//!                                                                  |
//!                                      one thread per array <------+------> NBD listener
//! ```
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod client;
pub mod conf;
pub mod daemon;
pub mod demo;
pub mod doc;
pub mod member;
pub mod monitor;
pub mod mount;
pub mod runtime;
pub mod sysfs;
pub mod text;
pub mod units;
pub mod words;
