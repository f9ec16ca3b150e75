//! Every engine against one suite (`suite/mod.rs`), the suite against engines that break a promise
//! (`memory.rs`), and the core's nodes on an engine (`nodes.rs`).

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod etcd;
mod memory;
mod nodes;
mod server;
mod suite;
