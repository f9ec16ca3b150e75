//! The wind tunnel: the shipped core under deterministic simulation.
//!
//! ```text
//!   seed --> Options (what this run is about)
//!              |
//!            World: hosts, administrator, faults, power cuts --- Queue (virtual time)
//!              |                                 |
//!            Engine (the shipped core)       SimDisk (volatile cache, flush, FUA, torn writes)
//!              |                                 |
//!            Oracle (every sector a register)  Monitor (md's order rules at submission)
//! ```
//!
//! A run is a function of its seed: no clock, thread or hash order takes part.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod disk;
pub mod engine;
pub mod exhaust;
pub mod layout;
pub mod metaview;
pub mod monitor;
#[cfg(feature = "museum")]
pub mod museum;
pub mod nth;
pub mod options;
pub mod oracle;
pub mod program;
pub mod queue;
mod rare;
mod registers;
pub mod rng;
pub mod run;
#[cfg(test)]
mod sabotage;
pub mod script;
pub mod shipped;
pub mod shrink;
pub mod stamp;
pub mod trace;
pub mod world;
