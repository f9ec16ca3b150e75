//! What every room of the core speaks: identities, time, buffers, and the words of the one door
//! (events in, commands out).
//!
//! Sectors are plain `u64` with the unit in the name (`offset_sectors`, always 512 bytes): they are
//! computed with on every line of the geometry, and the name is what a reader needs there.

mod buf;
mod command;
mod control;
mod event;
mod ids;
mod mismatch;
mod museum;
mod rungs;
mod slab;
mod sync_action;
mod time;

pub use buf::{Buf, Pool, Slice, Slices, slices_len};
pub use command::{Command, Commands, IoOp, MemberIo, Notice, Purpose};
pub use control::{
    BitmapFile, BitmapWish, Control, ControlError, ControlReply, FlagWish, LayoutWish, LegsWish,
    LevelWish, NewBitmap, NewMember, RepairWay, Settings, SizeWish, SyncLimits, SyncRequest,
};
pub use event::{
    Completion, Event, Extent, IoDone, IoError, Reply, Request, RequestError, RequestOp, Timer,
};
pub use ids::{ControlId, Events, IoId, MemberId, RequestId, Slot, UnitId};
pub use mismatch::Mismatch;
#[cfg(feature = "museum")]
pub use museum::MARKER;
pub use museum::{Exhibit, Museum};
pub use rungs::{BUCKETS, Histogram, RUNGS, Rung, Rungs};
pub use slab::Slab;
pub use sync_action::SyncAction;
pub use time::{Instant, Now, Span};

/// Bytes of one sector, the unit of every `_sectors` quantity in md.
pub const SECTOR_BYTES: u64 = 512;

/// "Not yet / never / clean": the value md stores for an offset that is past the end.
pub const MAX_SECTOR: u64 = u64::MAX;
