//! What an administrator can ask a running array to do.

use umd_format::v1::DeviceFlags;
use umd_format::{FaultyLayout, Level};

use super::ids::MemberId;
use super::sync_action::SyncAction;
use super::time::Span;

/// A control request.
#[derive(Debug, Clone)]
pub enum Control {
    /// Mark a member faulty.
    Fail(MemberId),
    /// A member is lost whatever the array may think of it (its file vanished or shrank): it is
    /// failed, and if the array cannot do without it, writes end here (reads go on as long as it
    /// answers).
    Lost(MemberId, String),
    /// Take a faulty or spare member out; its device is released.
    Remove(MemberId),
    /// Put a new member in: a spare, which is rebuilt at once if a slot is empty. On failure the
    /// core does not keep the member.
    Add(NewMember),
    /// Put a member back that belonged to the array before (mdadm `--re-add`): accepted only if
    /// its superblock shows it held this array's data in a slot that is empty now and the bitmap
    /// tells what it missed.
    ReAdd(NewMember),
    /// Fill a spare from a member that serves, then let it take that member's slot (mdadm
    /// `--replace`). Without a spare it waits for one.
    Replace {
        /// Who is to be replaced.
        member: MemberId,
        /// The spare to do it with; `None`: any.
        with: Option<MemberId>,
    },
    /// Switch flags of a member while it serves.
    Flags(MemberId, FlagWish),
    /// Take the bitmap away, or make one.
    Bitmap(BitmapWish),
    /// Fail in one more way, or in none, at level faulty. Not recorded: superblocks keep the layout
    /// that the array was made with.
    Layout(FaultyLayout),
    /// Become an array of another level, or get another layout (mdadm `--grow --level`). Answered
    /// when that is recorded; what has to be moved is moved afterwards.
    Level(LevelWish),
    /// Have more slots, or fewer, as a RAID1 (mdadm `--grow --raid-devices`). Answered when that is
    /// recorded; spares are filled afterwards.
    Legs(LegsWish),
    /// Use more of each member (mdadm `--grow --size`). Answered when all nodes have it.
    Size(SizeWish),
    /// Let each bit of the bitmaps of a cluster's nodes stand for so many bytes. Answered when all
    /// nodes have it.
    Rechunk(u32),
    /// Could it get such a bitmap in a file now, and how long would the file be?
    BitmapRoom(NewBitmap),
    /// Start or stop a sync action.
    Sync(SyncRequest),
    /// Change what limits sync actions, then start or stop one if that is asked for as well: both
    /// or, when one of them is refused, nothing.
    Limits(SyncLimits, Option<SyncRequest>),
    /// Switch between read-only and read-write.
    ReadOnly(bool),
    /// Become read-only until a host writes, or an administrator changes something.
    ReadAuto,
    /// Mark the array clean now; refused while writes are under way.
    Clean,
    /// Change how it goes about its work.
    Settings(Settings),
    /// Stop: refuse new requests, finish those in flight, end syncing at a checkpoint, mark clean.
    Stop,
}

impl Control {
    /// Whether something is to be different on the members afterwards.
    pub fn changes(&self) -> bool {
        match self {
            Control::Fail(_)
            | Control::Remove(_)
            | Control::Add(_)
            | Control::ReAdd(_)
            | Control::Replace { .. }
            | Control::Flags(..)
            | Control::Bitmap(_)
            | Control::Level(_)
            | Control::Size(_)
            | Control::Rechunk(_)
            | Control::Sync(_) => true,
            Control::Legs(wish) => !wish.only_asked,
            Control::Limits(_, wish) => wish.is_some(),
            Control::Lost(..)
            | Control::Layout(_)
            | Control::BitmapRoom(_)
            | Control::ReadOnly(_)
            | Control::ReadAuto
            | Control::Clean
            | Control::Settings(_)
            | Control::Stop => false,
        }
    }
}

/// How much of each member an array is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeWish {
    /// As much as all of them have.
    Max,
    /// So many sectors, or what is left of that in whole chunks or blocks.
    Sectors(u64),
}

/// What layout an array of another level is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutWish {
    /// The usual one.
    Default,
    /// The one in which nothing has to be moved.
    Preserve,
    /// This one.
    Number(u32),
}

/// What an array is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelWish {
    /// The level.
    pub level: Level,
    /// Its layout.
    pub layout: LayoutWish,
    /// So many devices are about to be added.
    pub coming: u16,
    /// Also if it has fewer devices afterwards than it needs.
    pub force: bool,
}

/// How many slots a RAID1 is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegsWish {
    /// So many.
    pub raid_disks: u16,
    /// So many devices are about to be added.
    pub coming: u16,
    /// Also if some slots stay empty.
    pub force: bool,
    /// Nothing is changed: the answer says whether it would be.
    pub only_asked: bool,
}

/// How an array goes about its work; what is not said stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// An array without writes for this long is marked clean; 0: never.
    pub safe_mode_delay: Option<Span>,
    /// A member with more read errors than this in an hour is failed.
    pub max_read_errors: Option<u32>,
    /// The last leg of a mirror fails like any other; otherwise it is read on.
    pub fail_last_dev: Option<bool>,
    /// Hosts do not write from here on, in sectors of the array ...
    pub suspend_lo_sectors: Option<u64>,
    /// ... to here.
    pub suspend_hi_sectors: Option<u64>,
}

/// A device offered to a running array. Already opened and locked by the driver.
#[derive(Debug, Clone)]
pub struct NewMember {
    /// The identity the driver gave it.
    pub id: MemberId,
    /// Its name for messages (a path).
    pub name: String,
    /// Its size.
    pub size_sectors: u64,
    /// Its logical block size (512 or 4096).
    pub logical_block_bytes: u32,
    /// Random identity for its superblock.
    pub device_uuid: [u8; 16],
    /// The flags it is to have. What is not said is as its superblock says, or off.
    pub flags: FlagWish,
    /// A new superblock has the bad-block log that those of the others have.
    pub bad_block_log: bool,
    /// The superblock found on it, if one was.
    pub superblock: Option<Box<umd_format::SuperblockV1>>,
}

/// What bitmap a running array is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapWish {
    /// None.
    None,
    /// A new one on its members.
    Internal(NewBitmap),
    /// A new one in a file, which nobody else writes. On failure the core does not keep it.
    File(BitmapFile, NewBitmap),
}

/// What a new bitmap is to be like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewBitmap {
    /// What a bit covers; `None`: as for a new array.
    pub region_bytes: Option<u32>,
    /// How many writes may lag on write-mostly members.
    pub write_behind: u32,
    /// On members: where it begins, counted from their superblocks; `None`: where mdadm puts it.
    pub offset_sectors: Option<i32>,
}

/// A file that is to hold a bitmap. Already opened and locked by the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapFile {
    /// The identity the driver gave it; it is no member's.
    pub id: MemberId,
    /// Its name for messages (a path).
    pub name: String,
    /// Its size.
    pub size_sectors: u64,
}

/// What is to become of a member's flags. What is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlagWish {
    /// Host reads avoid it, and writes may lag there.
    pub write_mostly: Option<bool>,
    /// As a leg of a mirror it is given up at the first trouble, while there is another one.
    pub failfast: Option<bool>,
}

impl FlagWish {
    /// What becomes of these flags.
    #[must_use]
    pub fn of(self, flags: DeviceFlags) -> DeviceFlags {
        let switch = |flags: DeviceFlags, wish: Option<bool>, flag| match wish {
            Some(true) => flags.with(flag),
            Some(false) => flags.without(flag),
            None => flags,
        };
        let flags = switch(flags, self.write_mostly, DeviceFlags::WRITE_MOSTLY);
        switch(flags, self.failfast, DeviceFlags::FAILFAST)
    }
}

/// What `umd action` can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncRequest {
    /// Run this action now.
    Start(SyncAction),
    /// Repair in this way.
    Repair(RepairWay),
    /// End what runs; what is needed may start again.
    Idle,
    /// End what runs and start nothing until `Idle`.
    Frozen,
}

/// What limits sync actions. Members of the struct that are `None` stay as they are.
///
/// Sectors are those of the range that is walked, as in `/proc/mdstat`: of each member, or of a
/// RAID10 as a whole (but of a member while one is rebuilt).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncLimits {
    /// md's `sync_min`: check and repair begin here.
    pub from_sectors: Option<u64>,
    /// md's `sync_max`: whatever runs waits here. `MAX_SECTOR`: nowhere.
    pub to_sectors: Option<u64>,
    /// md's `sync_speed_min`, KiB/s. `Some(None)`: as the engine does by itself.
    pub speed_min_kib_s: Option<Option<u32>>,
    /// md's `sync_speed_max`, KiB/s. `Some(None)`: none.
    pub speed_max_kib_s: Option<Option<u32>>,
}

/// How a repair mends what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairWay {
    /// The member that is wrong, where it can be told: on RAID6, and on three mirrors or more.
    /// Elsewhere as `Plain`.
    Judged,
    /// As md does: data is right, parity is computed from it; the first leg is right.
    Plain,
}

/// A successful answer to a control request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlReply {
    /// Done.
    Done,
    /// The member was taken in under this device number.
    Added {
        /// md's device number.
        number: u32,
    },
    /// So many sectors, whole pages, the file of a bitmap needs.
    Room {
        /// Its size.
        sectors: u64,
    },
}

/// Why a control request was refused. Each text is one sentence for a human.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not now (EBUSY).
    #[error("{0}")]
    Busy(String),
    /// Never (EINVAL).
    #[error("{0}")]
    Invalid(String),
    /// Too small (ENOSPC).
    #[error("{0}")]
    TooSmall(String),
    /// The device failed while it was prepared (EIO).
    #[error("{0}")]
    Io(String),
    /// No such member (ENODEV).
    #[error("{0}")]
    NotFound(String),
}

impl ControlError {
    /// The same in other words.
    #[must_use]
    pub fn reword(self, words: impl FnOnce(String) -> String) -> ControlError {
        match self {
            ControlError::Busy(text) => ControlError::Busy(words(text)),
            ControlError::Invalid(text) => ControlError::Invalid(words(text)),
            ControlError::TooSmall(text) => ControlError::TooSmall(words(text)),
            ControlError::Io(text) => ControlError::Io(words(text)),
            ControlError::NotFound(text) => ControlError::NotFound(words(text)),
        }
    }
}
