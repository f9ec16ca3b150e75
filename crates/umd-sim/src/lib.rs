//! The wind tunnel: the shipped core under deterministic simulation.
#![forbid(unsafe_code)]

pub mod disk;
pub mod layout;
pub mod metaview;
pub mod monitor;
pub mod oracle;
pub mod queue;
pub mod rng;
pub mod stamp;
pub mod trace;
