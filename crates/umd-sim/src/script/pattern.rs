//! Which member I/O a script waits for, holds back, or strikes.

use std::ops::Range;

use umd_core::array::{IoOp, MemberIo, Purpose};

use crate::stamp::SECTOR;

/// The kinds of member I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IoKind {
    /// A read.
    Read,
    /// A write, or a write of zeros.
    Write,
    /// A flush.
    Flush,
    /// An allocation query.
    Query,
}

/// What a pattern looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoView {
    /// Number of the disk.
    pub disk: usize,
    /// What the engine does it for.
    pub purpose: Purpose,
    /// Its kind.
    pub kind: IoKind,
    /// Device sectors; empty for a flush.
    pub range: Range<u64>,
}

impl IoView {
    /// The view of an I/O to `disk`.
    pub fn new(disk: usize, io: &MemberIo) -> IoView {
        let (kind, start, len) = match &io.op {
            IoOp::Read {
                offset_sectors,
                buf,
            } => (IoKind::Read, *offset_sectors, (buf.len() / SECTOR) as u64),
            IoOp::Write {
                offset_sectors,
                data,
                ..
            } => {
                let bytes: usize = data.iter().map(|piece| piece.len()).sum();
                (IoKind::Write, *offset_sectors, (bytes / SECTOR) as u64)
            }
            IoOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                ..
            } => (IoKind::Write, *offset_sectors, *len_sectors),
            IoOp::Flush => (IoKind::Flush, 0, 0),
            IoOp::Allocation {
                offset_sectors,
                len_sectors,
            } => (IoKind::Query, *offset_sectors, *len_sectors),
        };
        IoView {
            disk,
            purpose: io.purpose,
            kind,
            range: start..start + len,
        }
    }
}

/// A moment in the life of a member I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Point {
    /// It has been handed to the disk.
    #[default]
    Submitted,
    /// The engine has been told that it is over.
    Done,
}

/// A pattern: what is not said fits everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    disk: Option<usize>,
    purpose: Option<Purpose>,
    kind: Option<IoKind>,
    range: Option<Range<u64>>,
    /// The n-th that fits, from 1.
    pub nth: u64,
    /// Which moment of it.
    pub point: Point,
}

/// Any member I/O.
pub fn io() -> Match {
    Match {
        disk: None,
        purpose: None,
        kind: None,
        range: None,
        nth: 1,
        point: Point::Submitted,
    }
}

impl Match {
    /// To this disk.
    pub fn disk(self, disk: usize) -> Match {
        Match {
            disk: Some(disk),
            ..self
        }
    }

    /// For this purpose.
    pub fn purpose(self, purpose: Purpose) -> Match {
        Match {
            purpose: Some(purpose),
            ..self
        }
    }

    /// That reads.
    pub fn reads(self) -> Match {
        Match {
            kind: Some(IoKind::Read),
            ..self
        }
    }

    /// That writes.
    pub fn writes(self) -> Match {
        Match {
            kind: Some(IoKind::Write),
            ..self
        }
    }

    /// That flushes.
    pub fn flushes(self) -> Match {
        Match {
            kind: Some(IoKind::Flush),
            ..self
        }
    }

    /// That touches these device sectors.
    pub fn sectors(self, range: Range<u64>) -> Match {
        Match {
            range: Some(range),
            ..self
        }
    }

    /// The n-th that fits.
    pub fn nth(self, nth: u64) -> Match {
        assert!(nth > 0, "the first is number 1");
        Match { nth, ..self }
    }

    /// Its end, where its submission would count.
    pub fn done(self) -> Match {
        Match {
            point: Point::Done,
            ..self
        }
    }

    /// Whether an I/O fits.
    pub fn fits(&self, io: &IoView) -> bool {
        let overlaps =
            |range: &Range<u64>| range.start < io.range.end && io.range.start < range.end;
        self.disk.is_none_or(|disk| disk == io.disk)
            && self.purpose.is_none_or(|purpose| purpose == io.purpose)
            && self.kind.is_none_or(|kind| kind == io.kind)
            && self.range.as_ref().is_none_or(overlaps)
    }
}
