//! Small values that every room of the core speaks: identities, time, buffers.
//!
//! Sectors are plain `u64` with the unit in the name (`offset_sectors`, always 512 bytes): they are
//! computed with on every line of the geometry, and the name is what a reader needs there.

mod buf;
mod ids;
mod time;

pub use buf::{Buf, Pool, Slice, slices_len};
pub use ids::{ControlId, Events, IoId, MemberId, RequestId, Slot};
pub use time::{Instant, Now, Span};

/// Bytes of one sector, the unit of every `_sectors` quantity in md.
pub const SECTOR_BYTES: u64 = 512;

/// "Not yet / never / clean": the value md stores for an offset that is past the end.
pub const MAX_SECTOR: u64 = u64::MAX;
