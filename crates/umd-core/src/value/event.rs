//! What goes into the core.

use super::buf::{Buf, Slice, Slices};
use super::ids::{ControlId, IoId, RequestId};

use super::control::Control;

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A door wants something.
    Request(Request),
    /// Doors want several things, which came together: small writes that make up a row of a
    /// parity array become one.
    Requests(Vec<Request>),
    /// A member I/O ended (or, for an I/O the core gave up on, ends at last: then it is ignored).
    Done(Completion),
    /// Several of them ended. They count as if they had come one by one, those that failed first,
    /// but what follows an event follows once for all of them.
    Ended(Vec<Completion>),
    /// A timer armed by [`Command::Arm`](super::Command::Arm) is due. A spurious one does no harm.
    Timer(Timer),
    /// An administrator or a program wants something.
    Control(ControlId, Control),
}

/// One host request. Offsets are array sectors.
#[derive(Debug)]
pub struct Request {
    /// The door's name for it; comes back in [`Command::Complete`](super::Command::Complete).
    pub id: RequestId,
    /// What is wanted.
    pub op: RequestOp,
}

/// What a host can ask for. Ranges that leave the array are answered with
/// [`RequestError::OutOfRange`].
#[derive(Debug)]
pub enum RequestOp {
    /// Read; answered with [`Reply::Data`].
    Read {
        /// First array sector.
        offset_sectors: u64,
        /// Length, not 0.
        len_sectors: u32,
    },
    /// Write. The bytes are stable: the door copied them once, nobody changes them any more.
    Write {
        /// First array sector.
        offset_sectors: u64,
        /// Whole sectors, not empty.
        data: Slice,
        /// Durable before the answer.
        fua: bool,
    },
    /// Make the range read as zeros.
    WriteZeroes {
        /// First array sector.
        offset_sectors: u64,
        /// Length, not 0.
        len_sectors: u64,
        /// Durable before the answer.
        fua: bool,
        /// Members may give the space back to their file system.
        may_unmap: bool,
    },
    /// The host no longer needs the range (advice; parts of it may be kept).
    Trim {
        /// First array sector.
        offset_sectors: u64,
        /// Length, not 0.
        len_sectors: u64,
        /// Durable before the answer.
        fua: bool,
    },
    /// Everything answered before this request was made is durable on every member that holds it.
    Flush,
    /// Which parts are allocated; answered with [`Reply::Extents`], which may cover less than
    /// was asked for, but never nothing.
    Allocation {
        /// First array sector.
        offset_sectors: u64,
        /// Length, not 0.
        len_sectors: u64,
    },
}

impl RequestOp {
    /// What it is about: the first sector and how many; none for a flush. Data that is not a
    /// multiple of 512 bytes is about no sector at all.
    pub fn extent(&self) -> Option<(u64, u64)> {
        match *self {
            RequestOp::Flush => None,
            RequestOp::Read {
                offset_sectors,
                len_sectors,
            } => Some((offset_sectors, len_sectors.into())),
            RequestOp::Write {
                offset_sectors,
                ref data,
                ..
            } => {
                let whole = data.len().is_multiple_of(512);
                let len = if whole { data.len() / 512 } else { 0 };
                Some((offset_sectors, len as u64))
            }
            RequestOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                ..
            }
            | RequestOp::Trim {
                offset_sectors,
                len_sectors,
                ..
            }
            | RequestOp::Allocation {
                offset_sectors,
                len_sectors,
            } => Some((offset_sectors, len_sectors)),
        }
    }

    /// Whether it changes what is stored.
    pub fn is_write(&self) -> bool {
        match self {
            RequestOp::Write { .. } | RequestOp::WriteZeroes { .. } | RequestOp::Trim { .. } => {
                true
            }
            RequestOp::Read { .. } | RequestOp::Allocation { .. } | RequestOp::Flush => false,
        }
    }
}

/// A successful answer to a host.
#[derive(Debug)]
pub enum Reply {
    /// The bytes read, in order, in one or more pieces.
    Data(Slices),
    /// Done.
    Done,
    /// Allocation, from the start of the range asked for.
    Extents(Vec<Extent>),
}

/// A run of sectors with one allocation state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length of the run, not 0.
    pub len_sectors: u64,
    /// `false`: a hole that reads as zeros.
    pub data: bool,
}

/// Why a host request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not enough members hold the data (EIO).
    #[error("I/O error: {0}")]
    Io(String),
    /// The array is read-only (EPERM).
    #[error("the array is read-only")]
    ReadOnly,
    /// The range leaves the array (EINVAL; a write past the end: ENOSPC).
    #[error("the range lies outside the array")]
    OutOfRange,
    /// The array is being stopped (ESHUTDOWN).
    #[error("the array is stopping")]
    Stopping,
}

/// The end of one member I/O.
#[derive(Debug)]
pub struct Completion {
    /// Which one.
    pub io: IoId,
    /// How it ended. A read gives its buffer back, filled, or not at all.
    pub result: Result<IoDone, IoError>,
}

/// What a member I/O brings.
#[derive(Debug)]
pub enum IoDone {
    /// A read: the buffer that came with the command, all of it filled.
    Read(Buf),
    /// A write, flush or zeroing.
    Done,
    /// An allocation query: runs from the start of the range asked for; may be shorter.
    Extents(Vec<Extent>),
}

/// How a member I/O can fail. Short transfers are failures too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The medium could not give or take these sectors; the rest of the member may be fine.
    #[error("media error")]
    Media,
    /// The member is gone: vanished file, shrunk file, closed connection, dead device.
    #[error("device gone")]
    Gone,
    /// Anything else, with the operating system's word for it.
    #[error("{0}")]
    Other(String),
}

/// The core's timers. One of each at most is armed; arming again moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// No write for a while: the array may be marked clean.
    SafeMode,
    /// The bitmap's lazy clearing.
    BitmapDaemon,
    /// Looks for member I/O that never ended.
    IoTimeout,
    /// A sync action that went too fast may go on.
    Sync,
}
