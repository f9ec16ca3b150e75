//! md on-disk formats: bytes to types and back.
//!
//! This crate knows no device and no running array: every function is pure, from bytes (or plain
//! numbers) to a value. What comes from a disk passes three stages, and the type says which one:
//!
//! ```text
//!   &[u8] --parse--> Unverified --verify--> SuperblockV1 --encode--> Vec<u8>
//!                    (shown by examine,     (checksum, place,
//!                     trusted by nobody)     features, sizes hold)
//! ```
//!
//! Unknown bytes are kept: a superblock is written back as it was found, with only the known
//! fields patched in.
//!
//! Sectors are 512 bytes everywhere. All v1.x integers are little-endian.
#![forbid(unsafe_code)]

pub mod badblocks;
pub mod bitmap;
mod bytes;
pub mod create;
pub mod faulty;
pub mod kernels;
pub mod level;
pub mod place;
pub mod raid10;
mod sha1;
pub mod signature;
pub mod space;
pub mod update;
pub mod uuid;
pub mod v090;
pub mod v1;

pub use faulty::FaultyLayout;
pub use level::Level;
pub use place::{Format, Minor};
pub use raid10::Raid10Layout;
pub use uuid::Uuid;
pub use v1::{ParseError, Role, SuperblockV1};

/// Bytes in a sector, md's unit for every offset and size.
pub const SECTOR_BYTES: usize = 512;

/// First word of every md superblock, v0.90 and v1.x.
pub const MD_MAGIC: u32 = 0xa92b_4efc;

/// "None" or "the end" in a 64-bit sector field, for example `resync_offset` of a clean array.
pub const SECTOR_MAX: u64 = u64::MAX;
