//! The museum: mistakes of md and our own, made again on purpose, to see that they are noticed.
//!
//! ```text
//!   catalogue: what each was        scenes: the shortest way to see it, with and without it
//!   search: how many seeds it takes   document: docs/museum.md
//! ```

mod catalogue;
mod clustered;
mod command;
mod document;
mod halves;
mod hosts;
mod levels;
mod logs;
mod ours;
mod own;
mod rates;
mod rest;
mod scenes;
mod search;

pub use catalogue::{Entry, by_name, catalogue};
pub use command::{USAGE, command};
pub use document::{document, perform};
pub use scenes::{Scene, scene};
pub use search::{Found, Mistaken, options_for, search};

#[cfg(test)]
mod tests;
