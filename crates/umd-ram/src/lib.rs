//! The engine over members in memory: what it costs by itself, and what it would cost at least.
//!
//! [`Plane`] drives the shipped engine, [`cases`] are the loads whose instructions are counted,
//! [`ceiling`] does what cannot be left out of a load, and nothing else. No file, no socket; the
//! one clock is that of the program `umd-ram-bench`.
#![forbid(unsafe_code)]

pub mod cases;
pub mod ceiling;
mod plane;

pub use plane::{Load, Plane, Shape};
