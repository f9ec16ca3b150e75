//! The weighbridge: kernel md under User Mode Linux, mdadm, GRUB and NBD clients as oracles.
//!
//! Nothing here is part of umd; it is the other side of every comparison. `cargo xtask oracle`
//! fetches the programs, [`oracle`] finds them, [`uml`] runs scripts inside a kernel with real md,
//! [`pattern`] makes contents in which every place is recognisable.
#![forbid(unsafe_code)]

pub mod core_plane;
pub mod cpio;
pub mod door_plane;
pub mod fuse;
pub mod halfway;
pub mod kernel_plane;
pub mod ledger;
pub mod matrix;
pub mod mount;
pub mod nbd;
pub mod oracle;
pub mod pattern;
#[path = "../../umd-cluster/tests/engines/server/ports.rs"]
pub mod ports;
pub mod scratch;
pub mod small;
pub mod umd;
pub mod uml;
