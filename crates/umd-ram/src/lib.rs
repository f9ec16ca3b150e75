//! The engine over members in memory: what it costs by itself, and what it would cost at least.
//!
//! [`Plane`] drives the shipped engine, [`cases`] are the loads whose instructions are counted.
//! No file, no socket, no clock: `cargo xtask counts` and `cargo xtask bench` bring those.
#![forbid(unsafe_code)]

pub mod cases;
mod plane;

pub use plane::{Load, Plane, Shape};
