//! The md engine: sans-IO, deterministic.
#![forbid(unsafe_code)]
