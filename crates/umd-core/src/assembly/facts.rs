//! What was read from the members, and what the user wants.

use umd_format::badblocks::{BadBlocksError, BadLog};
use umd_format::bitmap::{BitmapError, BitmapSuperblock};
use umd_format::{ParseError, SuperblockV1, Uuid};

use crate::value::{MemberId, Museum};

/// What was read from one device that may be a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberFacts {
    /// The driver's identity for it; no two are equal.
    pub id: MemberId,
    /// Its name for messages (a path).
    pub name: String,
    /// Its size.
    pub size_sectors: u64,
    /// Its logical block size.
    pub logical_block_bytes: u32,
    /// The superblock, when there is one that can be trusted.
    pub superblock: Result<SuperblockV1, NoSuperblock>,
    /// What lies at the superblock's `bitmap_sector`, when it names one and it could be read.
    pub bitmap: Option<Result<BitmapSuperblock, BitmapError>>,
    /// Its bad-block log, when the superblock says that there is something in it.
    pub bad_blocks: Option<Result<BadLog, BadBlocksError>>,
}

/// Why a device has no superblock that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSuperblock {
    /// It is missing, damaged, or does not fit the device.
    #[error(transparent)]
    Invalid(#[from] ParseError),
    /// Reading failed; the operating system's word for it.
    #[error("superblock cannot be read: {0}")]
    Unreadable(String),
}

/// What the user asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Start even if stale members must be trusted, or parity that may be wrong.
    pub force: bool,
    /// Start an array with parity although it is unclean and lacks a member (md's
    /// `start_dirty_degraded`): what `force` does about that, and nothing else of it.
    pub start_dirty_degraded: bool,
    /// Start although `no_degraded` would forbid it.
    pub run: bool,
    /// Start only if every member is there that was there when the array last ran.
    pub no_degraded: bool,
    /// Nothing will be written.
    pub readonly: bool,
    /// It is run as a node of its cluster, and bitmaps are those of that node's slot: an array
    /// that is none of a cluster is refused.
    pub clustered: bool,
    /// Only members of this array; others are passed over instead of refused.
    pub uuid: Option<Uuid>,
    /// Only members of an array of this name, with or without "host:"; likewise.
    pub name: Option<String>,
    /// A mistake to be made; none outside the simulator.
    pub museum: Museum,
}

impl Wish {
    /// True when the user named the array, so that devices of others may be passed over.
    pub(super) fn filters(&self) -> bool {
        self.uuid.is_some() || self.name.is_some()
    }
}
