//! The wind tunnel: the shipped core under deterministic simulation.
#![forbid(unsafe_code)]
