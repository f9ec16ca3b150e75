//! Doors: a protocol comes in, [`RequestOp`](umd_core::array::RequestOp)s go out to the engine.
//! No word of RAID is known here; a door sees an export with a size and a block size.
#![forbid(unsafe_code)]

pub mod nbd;
