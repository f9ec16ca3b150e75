//! Member I/O under way.
//!
//! ```text
//!   a machine --submit--> flight --Command::Io--> driver --Event::Done--> flight --> its owner
//!                            |
//!                  member failed: the owner hears of it at once; what arrives later is dropped
//! ```

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::bad_blocks::BadBlocks;
use crate::value::{
    Buf, Command, Commands, Completion, Instant, IoDone, IoError, IoId, IoOp, MemberId, MemberIo,
    Museum, Now, Pool, Purpose, Slab, Slice, Span, UnitId,
};

/// Whom a completion belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A job of the lane; the tag is the job's own.
    Job {
        /// Index of the job.
        job: u32,
        /// What the job calls this I/O.
        tag: u32,
    },
    /// A unit of the sync machine.
    Sync {
        /// The unit.
        unit: UnitId,
        /// What the unit calls this I/O.
        tag: u32,
    },
    /// The bitmap's writer.
    Bitmap,
    /// The superblock writer.
    Metadata,
}

/// Something a lower room found out and the array has to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A member cannot be trusted any more.
    Fail(MemberId, String),
    /// A write that was answered already did not reach this member.
    Missed(MemberId, String),
    /// A flush failed: what the member's cache held may be lost, and with it what was answered.
    FlushFailed(MemberId, String),
    /// A read error was mended by rewriting.
    Corrected(MemberId),
}

#[derive(Debug)]
struct Flight {
    io: IoId,
    member: MemberId,
    owner: Owner,
    submitted: Instant,
    /// Length of a read, in bytes; 0 for everything else.
    read_bytes: usize,
    /// The sectors that a write of data covers.
    writes: Option<(u64, u64)>,
    purpose: Purpose,
}

/// Everything that flies, and the way out.
#[derive(Debug)]
pub struct Io {
    /// Where buffers come from.
    pub pool: Pool,
    /// The commands of the event being handled.
    pub out: Commands,
    /// What lower rooms found out; applied by the array.
    pub effects: Vec<Effect>,
    /// The mistake to be made, in a simulation that asks for one.
    pub museum: Museum,
    /// What members are known not to be able to give.
    pub bad: BadBlocks,
    now: Now,
    sequence: u64,
    flights: Slab<Flight>,
    /// When each member last answered.
    answered: BTreeMap<MemberId, Instant>,
    ready: VecDeque<(Owner, MemberId, Result<IoDone, IoError>)>,
}

/// Bits of an `IoId` that hold the slab index; the rest is a sequence number, so that an identity
/// is never used twice.
const INDEX_BITS: u32 = 20;

impl Io {
    /// Nothing under way.
    pub fn new(pool: Pool) -> Io {
        Io {
            pool,
            out: Vec::new(),
            effects: Vec::new(),
            museum: Museum::NONE,
            bad: BadBlocks::default(),
            now: Now::default(),
            sequence: 0,
            flights: Slab::default(),
            answered: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Time, as given with the event being handled.
    pub fn now(&self) -> Now {
        self.now
    }

    /// A new event: the commands go to `out`, the time is `now`.
    pub fn begin(&mut self, now: Now, out: Commands) {
        assert!(now.mono >= self.now.mono, "time runs backwards");
        self.now = now;
        self.out = out;
    }

    /// The commands of the event that was handled.
    pub fn end(&mut self) -> Commands {
        std::mem::take(&mut self.out)
    }

    /// Starts an I/O.
    pub fn submit(&mut self, member: MemberId, purpose: Purpose, op: IoOp, owner: Owner) {
        let read_bytes = match &op {
            IoOp::Read { buf, .. } => buf.len(),
            _ => 0,
        };
        let reads = matches!(op, IoOp::Read { .. });
        assert_eq!(reads, read_bytes > 0, "reads read something");
        assert!(read_bytes.is_multiple_of(512), "in whole sectors");
        if let IoOp::Write { data, .. } = &op {
            let whole = |part: &Slice| !part.is_empty() && part.len().is_multiple_of(512);
            assert!(data.iter().all(whole), "whole sectors are written");
        }
        let flushes = matches!(op, IoOp::Flush);
        assert_eq!(flushes, purpose == Purpose::Flush, "a flush says so");
        if self.bad.hides_from(member, &op) {
            self.ready.push_back((owner, member, Err(IoError::Media)));
            return;
        }
        let submitted = self.now.mono;
        let flight = Flight {
            io: IoId(0),
            member,
            owner,
            submitted,
            read_bytes,
            writes: data_sectors(purpose, &op),
            purpose,
        };
        let index = self.flights.insert(flight);
        assert!(index < 1 << INDEX_BITS, "too many member I/Os under way");
        self.sequence += 1;
        let io = IoId(self.sequence << INDEX_BITS | u64::from(index));
        self.flights.get_mut(index).expect("just inserted").io = io;
        self.out.push(Command::Io(MemberIo {
            io,
            member,
            purpose,
            op,
        }));
    }

    /// Starts a read of `len_sectors` into a fresh buffer.
    pub fn read(
        &mut self,
        member: MemberId,
        offset_sectors: u64,
        len_sectors: u64,
        purpose: Purpose,
        owner: Owner,
    ) {
        let bytes = usize::try_from(len_sectors * 512).expect("reads fit memory");
        let buf = self.pool.take(bytes);
        self.submit(
            member,
            purpose,
            IoOp::Read {
                offset_sectors,
                buf,
            },
            owner,
        );
    }

    /// Starts a metadata write: durable on completion.
    pub fn write_durable(
        &mut self,
        member: MemberId,
        offset_sectors: u64,
        data: Slice,
        purpose: Purpose,
        owner: Owner,
    ) {
        let data = SmallVec::from_iter([data]);
        self.submit(
            member,
            purpose,
            IoOp::Write {
                offset_sectors,
                data,
                fua: true,
            },
            owner,
        );
    }

    /// A completion from the driver. Those of I/O given up on are dropped.
    pub fn complete(&mut self, done: Completion) {
        let index = (done.io.0 & ((1 << INDEX_BITS) - 1)) as u32;
        if self.flights.get(index).is_none_or(|f| f.io != done.io) {
            return;
        }
        let flight = self.flights.remove(index).expect("looked up above");
        assert!(
            flight.submitted <= self.now.mono,
            "it ended before it began"
        );
        self.answered.insert(flight.member, self.now.mono);
        let result = match done.result {
            Ok(IoDone::Read(buf)) if buf.len() != flight.read_bytes => {
                Err(IoError::Other("short read".into()))
            }
            other => other,
        };
        let result = match flight.writes {
            Some(range) => {
                let (member, purpose) = (flight.member, flight.purpose);
                self.bad.written(member, range, purpose, result)
            }
            None => result,
        };
        self.ready.push_back((flight.owner, flight.member, result));
    }

    /// The next completion to be given to its owner.
    pub fn next_ready(&mut self) -> Option<(Owner, MemberId, Result<IoDone, IoError>)> {
        self.ready.pop_front()
    }

    /// Ends all I/O to a member with an error, now. What the driver reports later is dropped; the
    /// buffers stay with the driver until then.
    pub fn orphan(&mut self, member: MemberId) {
        self.bad.forget(member);
        let lost: Vec<u32> = self
            .flights
            .iter()
            .filter(|(_, f)| f.member == member)
            .map(|(i, _)| i)
            .collect();
        for index in lost {
            let flight = self.flights.remove(index).expect("just listed");
            self.ready
                .push_back((flight.owner, member, Err(IoError::Gone)));
        }
    }

    /// Member I/Os under way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether everything that ended was handed on, and everything found out was acted on.
    pub fn is_settled(&self) -> bool {
        self.ready.is_empty() && self.effects.is_empty()
    }

    /// The members that I/O is under way to.
    pub fn members_in_flight(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.flights.iter().map(|(_, flight)| flight.member)
    }

    /// Members that have answered nothing for longer than `limit` while an I/O of that age waits.
    pub fn overdue(&self, limit: Span) -> Vec<MemberId> {
        let late = |since: Instant| self.now.mono - since > limit;
        let mut members: Vec<MemberId> = self
            .flights
            .iter()
            .filter(|(_, f)| {
                late(f.submitted) && self.answered.get(&f.member).is_none_or(|a| late(*a))
            })
            .map(|(_, f)| f.member)
            .collect();
        members.sort_unstable();
        members.dedup();
        members
    }

    /// A read's buffer, or the error.
    pub fn read_result(result: Result<IoDone, IoError>) -> Result<Buf, IoError> {
        match result {
            Ok(IoDone::Read(buf)) => Ok(buf),
            Ok(_) => Err(IoError::Other("a read ended without its data".into())),
            Err(error) => Err(error),
        }
    }
}

/// What a write of data or parity covers.
fn data_sectors(purpose: Purpose, op: &IoOp) -> Option<(u64, u64)> {
    let (start, len) = match op {
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => {
            let bytes: usize = data.iter().map(Slice::len).sum();
            (*offset_sectors, (bytes / 512) as u64)
        }
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            ..
        } => (*offset_sectors, *len_sectors),
        _ => return None,
    };
    let inner = [Purpose::Super, Purpose::Bitmap, Purpose::BadBlocks];
    (!inner.contains(&purpose)).then_some((start, start + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(io: &mut Io, member: u32) -> IoId {
        io.read(MemberId(member), 0, 1, Purpose::Data, Owner::Bitmap);
        match io.out.pop() {
            Some(Command::Io(command)) => command.io,
            other => panic!("no I/O: {other:?}"),
        }
    }

    #[test]
    fn late_completions_are_dropped() {
        let mut io = Io::new(Pool::new());
        let first = read(&mut io, 1);
        io.orphan(MemberId(1));
        assert_eq!(io.next_ready().map(|r| r.1), Some(MemberId(1)));
        let second = read(&mut io, 2);
        assert_ne!(first, second);
        io.complete(Completion {
            io: first,
            result: Ok(IoDone::Done),
        });
        assert!(io.next_ready().is_none());
        let buf = io.pool.take(512);
        io.complete(Completion {
            io: second,
            result: Ok(IoDone::Read(buf)),
        });
        assert!(io.next_ready().is_some_and(|r| r.2.is_ok()));
        assert_eq!(io.in_flight(), 0);
    }

    #[test]
    fn a_short_read_is_an_error() {
        let mut io = Io::new(Pool::new());
        let id = read(&mut io, 1);
        let buf = io.pool.take(100);
        io.complete(Completion {
            io: id,
            result: Ok(IoDone::Read(buf)),
        });
        assert!(io.next_ready().is_some_and(|r| r.2.is_err()));
    }

    #[test]
    fn hung_members_are_found() {
        let mut io = Io::new(Pool::new());
        read(&mut io, 4);
        io.begin(
            Now {
                mono: Instant(31_000_000_000),
                wall_seconds: 0,
            },
            Vec::new(),
        );
        assert_eq!(io.overdue(Span::secs(30)), [MemberId(4)]);
        assert_eq!(io.overdue(Span::secs(32)), []);
    }
}
