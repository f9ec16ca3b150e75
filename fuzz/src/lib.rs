//! The fuzz targets, and what several of them need: a reader for the fuzzer's bytes, and members
//! made of them.
//!
//! ```text
//!   seeds --> libFuzzer (fuzz_targets/, nightly) ---+--> targets::*::run(bytes)
//!         `-> mutate    (this crate's program) -----+         |
//!                                                             v
//!   bytes --Input--> numbers and slices            every target
//!   bytes --images::Members--> sparse devices --> facts --> plan --> a running array    assembly
//! ```
#![forbid(unsafe_code)]

pub mod images;
pub mod mutate;
pub mod seeds;
pub mod targets;

use umd_format::v1::{HEADER_BYTES, ROLES_MAX, checksum};

/// The fuzzer's bytes, taken from the front; what is missing is zero.
#[derive(Debug, Clone)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next eight bytes as a number.
    pub fn number(&mut self) -> u64 {
        let taken = self.bytes(8);
        taken
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Up to `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (front, back) = self.0.split_at(count.min(self.0.len()));
        self.0 = back;
        front
    }
}

/// Makes the checksum of a v1 superblock right, so that the fuzzer gets past it.
pub fn fix_checksum(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let roles = u32::from_le_bytes(bytes[220..224].try_into().expect("four bytes")) as usize;
    let end = HEADER_BYTES + 2 * roles.min(ROLES_MAX);
    if bytes.len() >= end {
        let sum = checksum(&bytes[..end]);
        bytes[216..220].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The same for a superblock of version 0.90, little-endian.
pub fn fix_v090_checksum(bytes: &mut [u8]) {
    if let Ok(found) = umd_format::v090::SuperblockV090::parse(bytes) {
        bytes[152..156].copy_from_slice(&found.computed_checksum.to_le_bytes());
    }
}
