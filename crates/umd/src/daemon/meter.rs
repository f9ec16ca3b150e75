//! How long things take, counted by the thread of an array: requests of hosts from the door to
//! the answer, and member I/O by purpose. How long writes stood on each rung of the ladder is
//! counted by the engine, which alone knows what they wait for.
//!
//! ```text
//!   request:    door --begin--> engine ... rungs ... --Complete--> end
//!   member I/O: from the command to its completion, each to one member
//! ```

use std::collections::HashMap;
use std::time::Duration;

use umd_core::array::{IoOp, MemberIo, Purpose, RequestOp};
use umd_core::value::{Histogram, IoId, RequestId, Rungs, SECTOR_BYTES, Span};

/// What a host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A read.
    Read,
    /// A write, of zeroes too.
    Write,
    /// A trim.
    Trim,
    /// A flush.
    Flush,
    /// A question about allocation.
    Query,
}

/// All kinds with their words, in their order.
pub const KINDS: [(Kind, &str); 5] = [
    (Kind::Read, "read"),
    (Kind::Write, "write"),
    (Kind::Trim, "trim"),
    (Kind::Flush, "flush"),
    (Kind::Query, "query"),
];

/// All purposes with their words, in their order.
pub const PURPOSES: [(Purpose, &str); 12] = [
    (Purpose::Data, "data"),
    (Purpose::Parity, "parity"),
    (Purpose::Preread, "preread"),
    (Purpose::Rewrite, "rewrite"),
    (Purpose::Bitmap, "bitmap"),
    (Purpose::Super, "super"),
    (Purpose::BadBlocks, "badblocks"),
    (Purpose::Resync, "resync"),
    (Purpose::Scrub, "scrub"),
    (Purpose::Reshape, "reshape"),
    (Purpose::Flush, "flush"),
    (Purpose::Query, "query"),
];

/// What has been counted since the array was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests, in the order of [`KINDS`].
    pub requests: [Histogram; KINDS.len()],
    /// Bytes that they were about, in the same order.
    pub bytes: [u64; KINDS.len()],
    /// Requests that were answered with an error.
    pub failed: u64,
    /// Member I/O, in the order of [`PURPOSES`].
    pub member_io: [Histogram; PURPOSES.len()],
    /// Bytes of it, in the same order.
    pub member_bytes: [u64; PURPOSES.len()],
    /// Member I/O under way.
    pub member_io_in_flight: u64,
    /// Writes on the rungs of the ladder.
    pub rungs: Rungs,
}

/// A request or member I/O under way.
#[derive(Debug, Clone, Copy)]
struct Begun {
    at: Duration,
    index: usize,
}

/// Counts. Times are since any fixed moment, the same for all calls.
#[derive(Debug, Default)]
pub struct Meter {
    counted: Counted,
    requests: HashMap<RequestId, Begun>,
    member_io: HashMap<IoId, Begun>,
}

impl Meter {
    /// A request goes to the engine.
    pub fn begin(&mut self, now: Duration, id: RequestId, op: &RequestOp) {
        let (kind, bytes) = what(op);
        let index = KINDS.iter().position(|(one, _)| *one == kind);
        let index = index.expect("every kind is listed");
        self.counted.bytes[index] += bytes;
        self.requests.insert(id, Begun { at: now, index });
    }

    /// A request is answered.
    pub fn end(&mut self, now: Duration, id: RequestId, well: bool) {
        let Some(begun) = self.requests.remove(&id) else {
            return;
        };
        self.counted.failed += u64::from(!well);
        self.counted.requests[begun.index].add(span(begun.at, now));
    }

    /// The engine broke: those it works on, which will not be answered by it any more.
    pub fn take_outstanding(&mut self) -> Vec<RequestId> {
        let mut ids: Vec<RequestId> = self.requests.drain().map(|(id, _)| id).collect();
        self.counted.failed += ids.len() as u64;
        ids.sort_unstable();
        ids
    }

    /// Whether the engine works on no request.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Another engine goes on: what the last one still had under way is nobody's any more.
    pub fn turn(&mut self) {
        self.member_io.clear();
    }

    /// A member I/O goes to its member.
    pub fn begin_io(&mut self, now: Duration, io: &MemberIo) {
        let index = PURPOSES.iter().position(|(one, _)| *one == io.purpose);
        let index = index.expect("every purpose is listed");
        self.counted.member_bytes[index] += io_bytes(&io.op);
        self.member_io.insert(io.io, Begun { at: now, index });
    }

    /// A member I/O has ended.
    pub fn end_io(&mut self, now: Duration, id: IoId) {
        if let Some(begun) = self.member_io.remove(&id) {
            self.counted.member_io[begun.index].add(span(begun.at, now));
        }
    }

    /// What has been counted, by the engine as well.
    pub fn counted(&self, rungs: Rungs) -> Counted {
        Counted {
            rungs,
            member_io_in_flight: self.member_io.len() as u64,
            ..self.counted.clone()
        }
    }
}

fn span(from: Duration, to: Duration) -> Span {
    let nanos = to.saturating_sub(from).as_nanos();
    Span(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn what(op: &RequestOp) -> (Kind, u64) {
    match op {
        RequestOp::Read { len_sectors, .. } => (Kind::Read, u64::from(*len_sectors) * SECTOR_BYTES),
        RequestOp::Write { data, .. } => (Kind::Write, data.len() as u64),
        RequestOp::WriteZeroes { len_sectors, .. } => (Kind::Write, len_sectors * SECTOR_BYTES),
        RequestOp::Trim { len_sectors, .. } => (Kind::Trim, len_sectors * SECTOR_BYTES),
        RequestOp::Flush => (Kind::Flush, 0),
        _ => (Kind::Query, 0),
    }
}

fn io_bytes(op: &IoOp) -> u64 {
    match op {
        IoOp::Read { buf, .. } => buf.len() as u64,
        IoOp::Write { data, .. } => data.iter().map(|piece| piece.len() as u64).sum(),
        IoOp::WriteZeroes { len_sectors, .. } => len_sectors * SECTOR_BYTES,
        IoOp::Flush | IoOp::Allocation { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_core::value::MemberId;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn requests_and_member_io_are_counted_by_what_they_are() {
        let mut meter = Meter::default();
        let read = RequestOp::Read {
            offset_sectors: 8,
            len_sectors: 8,
        };
        let (one, two) = (RequestId::default(), IoId::default());
        meter.begin(micros(10), one, &read);
        let io = MemberIo {
            io: two,
            member: MemberId(0),
            purpose: Purpose::Bitmap,
            op: IoOp::Flush,
        };
        meter.begin_io(micros(11), &io);
        assert_eq!(meter.counted(Rungs::default()).member_io_in_flight, 1);
        meter.end_io(micros(13), two);
        meter.end(micros(15), one, false);
        let counted = meter.counted(Rungs::default());
        assert_eq!(counted.requests[0].sum, Span(5_000));
        assert_eq!((counted.bytes[0], counted.failed), (4096, 1));
        assert_eq!(counted.member_io[4].sum, Span(2_000));
        assert_eq!(counted.member_io_in_flight, 0);
        // A late completion, after the engine broke, changes nothing.
        meter.end(micros(99), one, true);
        assert_eq!(meter.counted(Rungs::default()), counted);
    }
}
