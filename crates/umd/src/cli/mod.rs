//! The command line.

pub mod args;
pub mod argv;
pub mod later;
pub mod outcome;
pub mod values;
