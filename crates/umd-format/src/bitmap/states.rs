//! The lockless bitmap (version 6): a byte of state for each region instead of a bit.
//!
//! ```text
//!   bitmap offset
//!   | superblock 256 B | 1s ... | state 0 | state 1 | ...
//!   0                 256      1024
//!
//!   Unwritten --write--> Dirty --idle--> Clean --write--> Dirty
//!       |                  ^
//!       | parity, or       | resynced
//!       | degraded         |
//!       +-------------> NeedSync --> Syncing --> (Dirty)
//! ```
//!
//! A region that nobody has written since the array was made is Unwritten: its members may hold
//! different things, and that is all right. So a new array needs no first resync.
//! Facts: bitmap.md section 10.

use super::{
    BitmapError, BitmapSuperblock, DAEMON_SLEEP_LOCKLESS_S, Fields, SUPERBLOCK_BYTES, State,
    VERSION_LOCKLESS, check,
};
use crate::bytes::put;
use crate::{SECTOR_BYTES, Uuid};

/// The first state, counted from the superblock.
pub const STATES_OFFSET: usize = 1024;
/// What the kernel and mdadm set apart for superblock and states.
pub const SECTORS_RESERVED: u32 = 256;
/// The smallest region the kernel makes: 64 KiB.
pub const REGION_SECTORS_MIN: u32 = 128;

/// What is known of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RegionState {
    /// Never written: members may differ.
    Unwritten = 0,
    /// Members agree.
    Clean = 1,
    /// Is being written, or was not long ago.
    Dirty = 2,
    /// Has to be resynced.
    NeedSync = 3,
    /// Is being resynced.
    Syncing = 4,
    /// Never written, and parity is to be built all the same.
    NeedSyncUnwritten = 5,
    /// The same under way.
    SyncingUnwritten = 6,
    /// Never written, and members agree.
    CleanUnwritten = 7,
}

impl RegionState {
    /// All of them, by their bytes.
    pub const ALL: [RegionState; 8] = [
        RegionState::Unwritten,
        RegionState::Clean,
        RegionState::Dirty,
        RegionState::NeedSync,
        RegionState::Syncing,
        RegionState::NeedSyncUnwritten,
        RegionState::SyncingUnwritten,
        RegionState::CleanUnwritten,
    ];

    /// The state of a byte. One that nobody knows may hide a write: it needs a resync.
    pub fn of(byte: u8) -> RegionState {
        let known = RegionState::ALL.get(usize::from(byte));
        known.copied().unwrap_or(RegionState::NeedSync)
    }

    /// The byte on the disk.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// What it is when an array starts (the actions Reload and, of a bitmap that missed updates,
    /// Stale).
    #[must_use]
    pub fn loaded(self, stale: bool) -> RegionState {
        use RegionState::*;
        match self {
            Dirty | NeedSync | Syncing => NeedSync,
            Clean if stale => NeedSync,
            CleanUnwritten if stale => Unwritten,
            NeedSyncUnwritten | SyncingUnwritten => Unwritten,
            Unwritten | Clean | CleanUnwritten => self,
        }
    }

    /// Whether members may differ after a crash because of a write: what a bit says elsewhere.
    pub fn is_marked(self) -> bool {
        use RegionState::*;
        matches!(self, Dirty | NeedSync | Syncing)
    }
}

/// The smallest region with which the states for `sectors` fit into the reserved room, the 1024
/// bytes before them included.
pub fn lockless_region_sectors(sectors: u64) -> Option<u32> {
    let room = u64::from(SECTORS_RESERVED) * SECTOR_BYTES as u64 - STATES_OFFSET as u64;
    let sizes = std::iter::successors(Some(REGION_SECTORS_MIN), |size| size.checked_mul(2));
    sizes
        .into_iter()
        .find(|size| sectors.div_ceil(u64::from(*size)) <= room)
}

/// Checks what version 6 says differently.
pub(super) fn check_lockless(fields: &Fields) -> Result<(), BitmapError> {
    if fields.state.contains(State::FIRST_USE) {
        return Err(BitmapError::FirstUse);
    }
    let region = fields.region_raw;
    if !region.is_power_of_two() {
        return Err(BitmapError::Impossible(format!(
            "a region of {region} sectors"
        )));
    }
    Ok(())
}

impl BitmapSuperblock {
    /// A lockless superblock for a new array, events 0. `None` when its states would not fit into
    /// the reserved room.
    pub fn new_lockless(array: Uuid, sync_size_sectors: u64) -> Option<BitmapSuperblock> {
        let fields = Fields {
            version: VERSION_LOCKLESS,
            uuid: array,
            events: 0,
            events_cleared: 0,
            sync_size_sectors,
            state: State::default(),
            region_raw: lockless_region_sectors(sync_size_sectors)?,
            daemon_sleep_s: DAEMON_SLEEP_LOCKLESS_S,
            write_behind: 0,
            sectors_reserved: SECTORS_RESERVED,
            nodes: 0,
            cluster_name: [0; 64],
        };
        check(&fields).expect("the region is a power of two");
        Some(BitmapSuperblock {
            raw: [0; SUPERBLOCK_BYTES],
            fields,
        })
    }

    /// The reserved room of a new array: the superblock, then every region in `state`.
    ///
    /// # Panics
    /// When this is another version, or the states do not fit.
    pub fn lockless_image(&self, state: RegionState) -> Vec<u8> {
        assert!(self.is_lockless(), "states of version 6");
        let regions = self.regions(self.fields.sync_size_sectors);
        let end = usize::try_from(self.area_bytes(regions)).expect("it fits the reserved room");
        let mut image = vec![0; SECTORS_RESERVED as usize * SECTOR_BYTES];
        assert!(end <= image.len(), "it fits the reserved room");
        // As mdadm leaves it.
        image[SUPERBLOCK_BYTES..STATES_OFFSET].fill(0xff);
        image[STATES_OFFSET..end].fill(state.byte());
        put(&mut image, 0, &self.encode());
        image
    }
}
