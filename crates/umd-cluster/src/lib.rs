//! Lock services for clustered arrays, and fencing.
//!
//! ```text
//!   umd_core::cluster::Node                                              Effect::Fence
//!     ServiceCommand |  ^ ServiceEvent                                        |
//!                    v  |                                                     v
//!                   Engine                                                  Fencer
//!                    |                           command, watchdog, reservation, confirm
//!                 LogEngine: session, book                                    |
//!                    |  appends entries, follows them                     FenceProof
//!                  Ledger: one ordered log, marks that expire
//!                 /      \
//!           memory        etcd (feature `etcd`)
//! ```
//!
//! What a lock service promises is written in umd-core (`cluster/service.rs`), as eight promises.
//! They are kept by one thing here: every command of every node is an entry of one ordered log,
//! and every node works out what each entry means from the same [`book`]. What differs between
//! engines is only who keeps the log, and who notices that a node no longer gives signs of life
//! ([`Ledger`]).
//!
//! An engine never fences. A [`fence::Fencer`] does, and gives a proof or says why there is none.
//!
//! # A third engine
//!
//! corosync's closed process groups (CPG) order messages faster than etcd, and would fit behind
//! [`Engine`], but not behind [`Ledger`] as they are. They would have to be given: memory (CPG
//! keeps nothing, so slots, unrecovered deaths and grants would be lost when all nodes stop, and
//! would have to be kept on the members or counted as not recovered); a transfer of the book to
//! who joins; signs of life of our own (corosync notices that its own process stopped, not that
//! ours did); and a way to notice that a stopped node was let in again as if nothing had happened.
#![deny(unsafe_code)]

pub mod book;
mod clock;
mod engine;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod fence;
mod ledger;
pub mod memory;
mod session;
mod sync;
pub mod wire;

pub use clock::Clock;
pub use engine::{About, Engine, Past, Setup, Validity, Waker};

pub use ledger::{Appended, Entry, Follow, Ledger, Mark, Opened, Renewal, Snapshot, Trouble};
pub use session::LogEngine;
