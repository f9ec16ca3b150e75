//! The museum.

mod search;

pub use search::{Found, Mistaken, search};
