//! What can be seen of an array: plain data, taken at any moment, rendered elsewhere.

use std::sync::Arc;

use umd_format::Format;

use crate::personality::faulty::FaultyStatus;
use crate::sync::SyncAction;
use crate::value::{Events, MemberId, Mismatch, Slot};

/// md's words for the state of an array (sysfs `array_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrayState {
    /// No writes, no resync, no superblock update.
    ReadOnly,
    /// As read-only until the first write.
    ReadAuto,
    /// Superblocks say clean.
    Clean,
    /// Superblocks say that writes may be in flight.
    Active,
    /// Superblocks say clean, and a write waits until they say active.
    WritePending,
    /// As active, without a write for so long that superblocks are about to say clean.
    ActiveIdle,
    /// Too many members are lost: writes fail.
    Broken,
    /// An invariant of the engine did not hold: reads and writes fail.
    Frozen,
    /// There are members, and they do not run. No engine is in this state.
    Inactive,
}

/// Everything `detail` and `mdstat` print about a running array.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// `array_state`.
    pub state: ArrayState,
    /// Array UUID, raw byte order.
    pub uuid: [u8; 16],
    /// `set_name`, without padding (may be "host:name").
    pub set_name: String,
    /// How members are stored.
    pub format: Format,
    /// The number of the md device, where the metadata has one.
    pub preferred_minor: u32,
    /// Level number (0, 1, 4, 5, 6).
    pub level: i32,
    /// Raw layout number (-1: none stored).
    pub layout: i32,
    /// 0 for RAID1.
    pub chunk_sectors: u32,
    /// Slots.
    pub raid_disks: u16,
    /// Size of the array.
    pub array_sectors: u64,
    /// Used size of each member (0 for RAID0).
    pub dev_sectors: u64,
    /// Creation, seconds since 1970.
    pub ctime_seconds: u64,
    /// Last superblock update, seconds since 1970.
    pub utime_seconds: u64,
    /// Metadata generation.
    pub events: Events,
    /// Slots without an in-sync member.
    pub degraded: u16,
    /// Members in the order they were added, the oldest first.
    pub members: Vec<MemberStatus>,
    /// What the sync machine does; `None` when idle.
    pub sync: Option<SyncStatus>,
    /// The array is being reshaped.
    pub reshape: Option<ReshapeStatus>,
    /// A resync is needed and not running (read-only, frozen).
    pub sync_pending: bool,
    /// Superblocks say that redundancy is right below this; `None`: everywhere.
    pub resync_from_sectors: Option<u64>,
    /// A check or repair was asked for and has not begun.
    pub sync_requested: Option<SyncAction>,
    /// `sync_action` is frozen.
    pub sync_frozen: bool,
    /// What limits sync actions.
    pub sync_limits: LimitsStatus,
    /// The last sync action that ended.
    pub last_sync: Option<SyncAction>,
    /// Sectors found to differ by the last check or repair.
    pub mismatch_sectors: u64,
    /// Where, up to a limit; shared with the array until it finds more.
    pub mismatches: Arc<Vec<Arc<Mismatch>>>,
    /// The write-intent bitmap, if there is one.
    pub bitmap: Option<BitmapStatus>,
    /// The faults that an array of level faulty pretends.
    pub faulty: Option<FaultyStatus>,
    /// Logical block size hosts have to use.
    pub logical_block_bytes: u32,
    /// Host I/O in flight.
    pub requests_in_flight: usize,
    /// An array without writes for this long is marked clean (0: never), in milliseconds.
    pub safe_mode_delay_ms: u64,
    /// More read errors than this in an hour fail a member.
    pub max_read_errors: u32,
    /// The last leg of a mirror fails like any other.
    pub fail_last_dev: bool,
    /// Hosts do not write between these (md's `suspend_lo`, `suspend_hi`), in sectors of the array;
    /// nowhere if the first is not below the second.
    pub suspended_sectors: (u64, u64),
    /// Writes that wait for that.
    pub suspended_writes: usize,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The driver's identity for it.
    pub id: MemberId,
    /// Its name (a path).
    pub name: String,
    /// md's device number (`desc_nr`), permanent.
    pub number: u32,
    /// Its slot; `None` for spares and for faulty members that lost theirs.
    pub slot: Option<Slot>,
    /// What it is.
    pub role: MemberRole,
    /// It is being filled to take its slot from the member in it, which serves meanwhile.
    pub replacement: bool,
    /// It is to be replaced.
    pub want_replacement: bool,
    /// Host reads avoid it.
    pub write_mostly: bool,
    /// As a leg of a mirror it is given up at the first trouble, while there is another one.
    pub failfast: bool,
    /// Where array data starts on it.
    pub data_offset_sectors: u64,
    /// Room for array data on it.
    pub data_size_sectors: u64,
    /// Read errors corrected by rewriting.
    pub corrected_read_errors: u32,
    /// Ranges of it that its bad-block log names.
    pub bad_ranges: usize,
    /// And the sectors in them.
    pub bad_sectors: u64,
    /// The ranges themselves: first sector of the device and length, in order.
    pub bad_blocks: Vec<(u64, u64)>,
    /// Why it is faulty, for a human.
    pub fault: Option<String>,
}

/// What a member is to the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Holds valid data.
    InSync,
    /// Has a slot and is being rebuilt (or waits for it); valid below the offset.
    Recovering {
        /// Valid below this, from the start of its data.
        recovered_sectors: u64,
    },
    /// No slot.
    Spare,
    /// Failed.
    Faulty,
}

/// A sync action under way. Units as in `/proc/mdstat`: sectors of the range being walked.
#[derive(Debug, Clone, PartialEq)]
pub struct SyncStatus {
    /// Which.
    pub action: SyncAction,
    /// Done so far.
    pub done_sectors: u64,
    /// The whole range.
    pub total_sectors: u64,
    /// Current speed, KiB/s.
    pub speed_kib_s: u64,
    /// Estimated rest, if it can be told.
    pub finish_seconds: Option<u64>,
    /// It waits at `sync_max`.
    pub held: bool,
}

/// A reshape that is under way, or waits: level and layout of the status are the old ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReshapeStatus {
    /// The layout it leads to.
    pub new_layout: u32,
    /// Array sectors below it lie in the new layout; backwards: those from it on.
    pub position_sectors: u64,
    /// From the end to the start.
    pub backwards: bool,
    /// The level the array gets when it is over, if that is another one.
    pub then_level: Option<i32>,
    /// Why it does not go on.
    pub waits: Option<String>,
}

/// What limits sync actions, as it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsStatus {
    /// md's `sync_min`, sectors of the range that is walked.
    pub from_sectors: u64,
    /// md's `sync_max`; `None`: the end.
    pub to_sectors: Option<u64>,
    /// md's `sync_speed_min`, if one was set.
    pub speed_min_kib_s: Option<u32>,
    /// md's `sync_speed_max`, if one was set.
    pub speed_max_kib_s: Option<u32>,
}

/// The write-intent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapStatus {
    /// The file that holds it, if it is not on the members.
    pub file: Option<String>,
    /// Why that file is not written any more.
    pub fault: Option<String>,
    /// Sectors from the superblock.
    pub offset_sectors: i32,
    /// Bytes per bit.
    pub chunk_bytes: u64,
    /// Bits.
    pub bits: u64,
    /// Bits that are set.
    pub dirty_bits: u64,
    /// Seconds between clearing passes.
    pub daemon_sleep_seconds: u32,
    /// How many writes may lag on write-mostly members, at the most; 0: none.
    pub write_behind: u32,
    /// How many may at this moment.
    pub behind_writes: u32,
}
