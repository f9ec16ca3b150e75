//! What comes out of the core.

use smallvec::SmallVec;

use super::buf::{Buf, Slice};
use super::ids::{ControlId, IoId, MemberId, RequestId};
use super::time::Instant;

use super::control::{ControlError, ControlReply};
use super::event::{Reply, RequestError, Timer};
use super::sync_action::SyncAction;

/// Something the driver has to do. Commands are carried out in order; none may be dropped, except
/// notices.
#[derive(Debug)]
pub enum Command {
    /// Start a member I/O; it ends with one [`Event::Done`](super::Event::Done).
    Io(MemberIo),
    /// Answer a host.
    Complete {
        /// Whose request.
        id: RequestId,
        /// The answer.
        result: Result<Reply, RequestError>,
    },
    /// Send [`Event::Timer`](super::Event::Timer) at or after the instant.
    Arm(Timer, Instant),
    /// Answer a control request.
    Answer {
        /// Whose request.
        id: ControlId,
        /// The answer.
        result: Result<ControlReply, ControlError>,
    },
    /// Tell whoever listens (log, monitor, event stream).
    Notify(Notice),
    /// The core has given this member up (removed or array stopped): close and unlock it once
    /// its I/O has drained. Its identity is never used again.
    Release(MemberId),
    /// The array has stopped. No command follows, and every event is ignored from here on.
    Stopped,
}

/// A list of commands in order.
pub type Commands = Vec<Command>;

/// One I/O to one member.
#[derive(Debug)]
pub struct MemberIo {
    /// The core's name for it; comes back in the completion.
    pub io: IoId,
    /// To whom.
    pub member: MemberId,
    /// What for (the simulator checks md's order rules by it; the daemon counts by it).
    pub purpose: Purpose,
    /// What to do.
    pub op: IoOp,
}

/// Member operations. Offsets are absolute device sectors. A write, zeroing or read may be larger
/// than a member engine likes: it splits it itself, and ends it once.
#[derive(Debug)]
pub enum IoOp {
    /// Fill `buf` from `offset_sectors` on; the buffer comes back in the completion.
    Read {
        /// First device sector.
        offset_sectors: u64,
        /// Whole sectors, not empty.
        buf: Buf,
    },
    /// Write the pieces, one behind the other.
    Write {
        /// First device sector.
        offset_sectors: u64,
        /// Whole sectors in total; each piece a whole number of sectors too.
        data: SmallVec<[Slice; 4]>,
        /// Durable on completion (this write; earlier ones are not implied).
        fua: bool,
    },
    /// Make the range read as zeros afterwards (always: where the device cannot, zeros are
    /// written).
    WriteZeroes {
        /// First device sector.
        offset_sectors: u64,
        /// Length, not 0.
        len_sectors: u64,
        /// The space may be given back.
        may_unmap: bool,
        /// Durable on completion.
        fua: bool,
    },
    /// Everything completed before this command was issued is durable on completion.
    Flush,
    /// Report allocation from `offset_sectors` on.
    Allocation {
        /// First device sector.
        offset_sectors: u64,
        /// Length, not 0.
        len_sectors: u64,
    },
}

/// Why a member I/O exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Host data.
    Data,
    /// P or Q.
    Parity,
    /// Old data or parity read to compute new parity, or to reconstruct.
    Preread,
    /// A block rewritten after a read error.
    Rewrite,
    /// The write-intent bitmap.
    Bitmap,
    /// A superblock.
    Super,
    /// A bad-block log.
    BadBlocks,
    /// Resync or recovery.
    Resync,
    /// Check or repair.
    Scrub,
    /// Rows read where they were, and written where a reshape moves them.
    Reshape,
    /// A cache flush.
    Flush,
    /// An allocation query.
    Query,
}

/// News for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A member was marked faulty.
    Failed {
        /// Which.
        member: MemberId,
        /// Why, for a human.
        why: String,
    },
    /// A member refused a write, which its bad-block log is about to name.
    BadBlocks {
        /// Which.
        member: MemberId,
        /// How many sectors.
        sectors: u64,
        /// For a human.
        text: String,
    },
    /// A member became an in-sync part of the array.
    Activated(MemberId),
    /// A sync action began.
    SyncStarted(SyncAction),
    /// A sync action ended.
    SyncEnded {
        /// Which.
        action: SyncAction,
        /// Whether it reached the end of the array.
        complete: bool,
        /// Sectors found to differ (check and repair).
        mismatch_sectors: u64,
    },
    /// The array lost more members than its level tolerates: writes fail from here on.
    Broken(String),
    /// An invariant of the engine did not hold: the array is frozen, its members are left alone.
    Frozen(String),
    /// Something an administrator may want to read in the log.
    Message(String),
    /// The state shown by `Array::status` changed.
    Changed,
}
