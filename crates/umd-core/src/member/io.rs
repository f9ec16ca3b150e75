//! Member I/O under way.
//!
//! ```text
//!   a machine --submit--> flight --Command::Io--> driver --Event::Done--> flight --> its owner
//!                            |
//!                  member failed: the owner hears of it at once; what arrives later is dropped
//!
//!   a member is being replaced:
//!
//!   a write or flush --submit--> flight to the member ----+--> both over: its owner hears how it
//!                       `------> flight to who replaces --+    ended on the member
//! ```
//!
//! This is the one place that knows: nothing that is written to a member can pass who replaces it.

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::bad_blocks::BadBlocks;
use crate::value::{
    Buf, Command, Commands, Completion, Exhibit, Instant, IoDone, IoError, IoId, IoOp, MemberId,
    MemberIo, Museum, Now, Pool, Purpose, Slab, Slice, Span, UnitId,
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
    /// What is done for other nodes of a cluster; the tag is that room's own.
    Cluster {
        /// What it is for.
        tag: u32,
    },
}

/// How an end of I/O stands to others that came with it: the order they are heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It failed: nobody goes on who does not know of it.
    Failed,
    /// Superblocks or bits are on a member: who is answered, and who has a slot, depends on it.
    Recorded,
    /// Anything else.
    Plain,
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
    /// A write that it had refused is on the member now, but for so many sectors, which its log
    /// is about to name.
    Refused(MemberId, u64),
}

/// Who replaces a member, and where data starts on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twin {
    /// Who gets the same writes.
    pub member: MemberId,
    /// Where data starts on it.
    pub data_offset_sectors: u64,
    /// Where data starts on the member that is replaced.
    pub from_sectors: u64,
}

/// Whom the end of a flight is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Owner(Owner),
    /// A pair, as its first (on the member itself) or its second (on who replaces it).
    Pair(u32, usize),
}

/// One write or flush that goes to a member and to who replaces it.
#[derive(Debug)]
struct Pair {
    owner: Owner,
    /// What its failure is, where that has to be known at once.
    urgent: Option<fn(MemberId, String) -> Effect>,
    members: [MemberId; 2],
    results: [Option<Result<IoDone, IoError>>; 2],
    left: u32,
    /// Whose result the owner is told: that of the first, until the second has taken its place.
    counts: usize,
}

#[derive(Debug)]
struct Flight {
    io: IoId,
    member: MemberId,
    end: End,
    submitted: Instant,
    /// Length of a read, in bytes; 0 for everything else.
    read_bytes: usize,
    /// The sectors that a write of data covers.
    writes: Option<(u64, u64)>,
    purpose: Purpose,
    /// A read of a member that was replaced since: what it read is right, and nobody has to wait.
    retired: bool,
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
    pairs: Slab<Pair>,
    /// By member: who replaces it.
    twins: BTreeMap<MemberId, Twin>,
    /// When each member last answered, by member.
    answered: SmallVec<[(MemberId, Instant); 8]>,
    ready: VecDeque<(Owner, MemberId, Result<IoDone, IoError>)>,
    /// Nothing is submitted any more: others may write the members by now, or fence this node.
    cut_off: bool,
}

/// What the failure of an I/O is that nobody may go on after: of a flush, and of what a host wrote.
fn urgency(purpose: Purpose, op: &IoOp) -> Option<fn(MemberId, String) -> Effect> {
    match (purpose, op) {
        (_, IoOp::Flush) => Some(|id, why| Effect::FlushFailed(id, format!("flush failed: {why}"))),
        (Purpose::Data | Purpose::Parity, IoOp::Write { .. } | IoOp::WriteZeroes { .. }) => {
            Some(|id, why| Effect::Fail(id, format!("write failed: {why}")))
        }
        _ => None,
    }
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
            pairs: Slab::default(),
            twins: BTreeMap::new(),
            answered: SmallVec::new(),
            ready: VecDeque::new(),
            cut_off: false,
        }
    }

    /// From here on nothing is submitted. What is under way ends as it may.
    pub fn cut_off(&mut self) {
        self.cut_off = true;
    }

    /// Whether nothing is submitted any more.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
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

    /// From here on these members are written together with who replaces them.
    pub fn set_twins(&mut self, twins: BTreeMap<MemberId, Twin>) {
        let apart = |(member, twin): (&MemberId, &Twin)| {
            twin.member != *member && !twins.contains_key(&twin.member)
        };
        assert!(twins.iter().all(apart), "nobody replaces who replaces");
        self.twins = twins;
    }

    /// Whether somebody is being filled to take the place of this member.
    pub fn is_replaced(&self, member: MemberId) -> bool {
        self.twins.contains_key(&member)
    }

    /// Starts an I/O; where the member is being replaced, also on who replaces it.
    pub fn submit(&mut self, member: MemberId, purpose: Purpose, op: IoOp, owner: Owner) {
        let also = self.twins.get(&member).copied();
        let also = also.and_then(|twin| Some((twin, twin_op(&twin, &op, owner)?)));
        let Some((twin, twin_op)) = also else {
            return self.launch(member, purpose, op, End::Owner(owner));
        };
        let pair = self.pairs.insert(Pair {
            owner,
            urgent: urgency(purpose, &op),
            members: [member, twin.member],
            results: [None, None],
            left: 2,
            counts: 0,
        });
        self.launch(member, purpose, op, End::Pair(pair, 0));
        self.launch(twin.member, purpose, twin_op, End::Pair(pair, 1));
    }

    fn launch(&mut self, member: MemberId, purpose: Purpose, op: IoOp, end: End) {
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
        if self.cut_off {
            return self.ended(end, member, Err(IoError::Gone));
        }
        if self.bad.hides_from(member, &op) {
            return self.ended(end, member, Err(IoError::Media));
        }
        let submitted = self.now.mono;
        let flight = Flight {
            io: IoId(0),
            member,
            end,
            submitted,
            read_bytes,
            writes: data_sectors(purpose, &op),
            purpose,
            retired: false,
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
        self.note_answer(flight.member);
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
        self.ended(flight.end, flight.member, result);
    }

    /// How an end of I/O stands to others that came with it.
    pub fn weight(&self, done: &Completion) -> Weight {
        if done.result.is_err() {
            return Weight::Failed;
        }
        let index = (done.io.0 & ((1 << INDEX_BITS) - 1)) as u32;
        let owner = match self.flights.get(index).map(|flight| flight.end) {
            Some(End::Owner(owner)) => Some(owner),
            Some(End::Pair(pair, _)) => self.pairs.get(pair).map(|pair| pair.owner),
            None => None,
        };
        match owner {
            Some(Owner::Metadata | Owner::Bitmap | Owner::Cluster { .. }) => Weight::Recorded,
            _ => Weight::Plain,
        }
    }

    fn note_answer(&mut self, member: MemberId) {
        let now = self.now.mono;
        match self.answered.binary_search_by_key(&member, |(id, _)| *id) {
            Ok(at) => self.answered[at].1 = now,
            Err(at) => self.answered.insert(at, (member, now)),
        }
    }

    /// When a member last answered.
    fn last_answer(&self, member: MemberId) -> Option<Instant> {
        let found = self.answered.binary_search_by_key(&member, |(id, _)| *id);
        found.ok().map(|at| self.answered[at].1)
    }

    /// A flight is over: its owner hears of it, of a pair when both are.
    fn ended(&mut self, end: End, member: MemberId, result: Result<IoDone, IoError>) {
        let (index, which) = match end {
            End::Owner(owner) => return self.ready.push_back((owner, member, result)),
            End::Pair(index, which) => (index, which),
        };
        let pair = self.pairs.get_mut(index).expect("both belong to it");
        assert_eq!(pair.members[which], member, "a pair knows its members");
        // A write that who replaces another did not take costs that one only.
        if let (1, 0, Err(error)) = (which, pair.counts, &result) {
            let why = format!("write failed: {error}");
            self.effects.push(Effect::Fail(member, why));
        }
        // The failure of a member that serves cannot wait for the other one: others are written.
        let urgent = pair.urgent.filter(|_| which == pair.counts);
        // U25: it did, and survivors were written meanwhile.
        let waits = self.museum.on(Exhibit::M61) || self.museum.on(Exhibit::U25);
        let urgent = urgent.filter(|_| !waits);
        if let (Some(effect), Err(error)) = (urgent, &result) {
            self.effects.push(effect(member, error.to_string()));
        }
        pair.results[which] = Some(result);
        self.one_less(index);
    }

    fn one_less(&mut self, index: u32) {
        let pair = self.pairs.get_mut(index).expect("still there");
        assert!(pair.left > 0, "a pair ends twice");
        pair.left -= 1;
        if pair.left == 0 {
            let mut pair = self.pairs.remove(index).expect("looked up above");
            let result = pair.results[pair.counts].take();
            let result = result.expect("whose result counts has ended");
            let member = pair.members[pair.counts];
            self.ready.push_back((pair.owner, member, result));
        }
    }

    /// Who replaced this member has its place now: what both were given counts as the new one took
    /// it, and no write waits for the old one any more. What is being read there was right when it
    /// was asked for, and still is.
    pub fn hand_over(&mut self, member: MemberId) {
        self.twins.remove(&member);
        self.bad.retire(member);
        let open: Vec<u32> = self.pairs.iter().map(|(index, _)| index).collect();
        for index in open {
            let pair = self.pairs.get_mut(index).expect("just listed");
            if pair.members[0] == member {
                pair.counts = 1;
            }
        }
        let flying = self.flights.iter().filter(|(_, f)| f.member == member);
        let flying: Vec<u32> = flying.map(|(index, _)| index).collect();
        for index in flying {
            let flight = self.flights.get_mut(index).expect("just listed");
            if flight.read_bytes > 0 {
                flight.retired = true;
                continue;
            }
            let flight = self.flights.remove(index).expect("just looked at");
            match flight.end {
                End::Pair(pair, 0) => self.one_less(pair),
                end => self.ended(end, member, Err(IoError::Gone)),
            }
        }
    }

    /// The next completion to be given to its owner.
    pub fn next_ready(&mut self) -> Option<(Owner, MemberId, Result<IoDone, IoError>)> {
        self.ready.pop_front()
    }

    /// Ends all I/O to a member with an error, now. What the driver reports later is dropped; the
    /// buffers stay with the driver until then.
    pub fn orphan(&mut self, member: MemberId) {
        let lost: Vec<u32> = self
            .flights
            .iter()
            .filter(|(_, f)| f.member == member)
            .map(|(i, _)| i)
            .collect();
        for index in lost {
            let flight = self.flights.remove(index).expect("just listed");
            self.ended(flight.end, member, Err(IoError::Gone));
        }
    }

    /// A member has failed: its I/O ends, and its log is not written any more.
    pub fn retire(&mut self, member: MemberId) {
        self.bad.retire(member);
        self.orphan(member);
    }

    /// Member I/Os under way.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether everything that ended was handed on, and everything found out was acted on.
    pub fn is_settled(&self) -> bool {
        self.ready.is_empty() && self.effects.is_empty()
    }

    /// The members that I/O is under way to, but for reads of those that were replaced since.
    pub fn members_in_flight(&self) -> impl Iterator<Item = MemberId> + '_ {
        let flights = self.flights.iter().filter(|(_, flight)| !flight.retired);
        flights.map(|(_, flight)| flight.member)
    }

    /// Members that have answered nothing for longer than `limit` while an I/O of that age waits.
    pub fn overdue(&self, limit: Span) -> Vec<MemberId> {
        let late = |since: Instant| self.now.mono - since > limit;
        let mut members: Vec<MemberId> = self
            .flights
            .iter()
            .filter(|(_, f)| late(f.submitted) && self.last_answer(f.member).is_none_or(late))
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

/// What who replaces a member gets of an I/O to it: what is written there, and flushes that vouch
/// for it. Superblocks and bitmaps are its own.
fn twin_op(twin: &Twin, op: &IoOp, owner: Owner) -> Option<IoOp> {
    if !matches!(owner, Owner::Job { .. } | Owner::Sync { .. }) {
        return None;
    }
    let there = |sectors: u64| {
        let data = sectors.checked_sub(twin.from_sectors);
        data.expect("data lies behind its start") + twin.data_offset_sectors
    };
    Some(match op {
        IoOp::Write {
            offset_sectors,
            data,
            fua,
        } => IoOp::Write {
            offset_sectors: there(*offset_sectors),
            data: data.clone(),
            fua: *fua,
        },
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            may_unmap,
            fua,
        } => IoOp::WriteZeroes {
            offset_sectors: there(*offset_sectors),
            len_sectors: *len_sectors,
            may_unmap: *may_unmap,
            fua: *fua,
        },
        IoOp::Flush => IoOp::Flush,
        IoOp::Read { .. } | IoOp::Allocation { .. } => return None,
    })
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

    fn write(io: &mut Io, member: u32) -> Vec<IoId> {
        let data = SmallVec::from_iter([io.pool.take(512).freeze()]);
        let op = IoOp::Write {
            offset_sectors: 100,
            data,
            fua: false,
        };
        let owner = Owner::Job { job: 7, tag: 0 };
        io.submit(MemberId(member), Purpose::Data, op, owner);
        let ios = io.out.drain(..).map(|command| match command {
            Command::Io(one) => one.io,
            other => panic!("no I/O: {other:?}"),
        });
        ios.collect()
    }

    /// Members 1 and 2: the second replaces the first.
    fn paired() -> Io {
        let mut io = Io::new(Pool::new());
        let twin = Twin {
            member: MemberId(2),
            data_offset_sectors: 64,
            from_sectors: 32,
        };
        io.set_twins(BTreeMap::from([(MemberId(1), twin)]));
        io
    }

    fn end(io: &mut Io, id: IoId, result: Result<IoDone, IoError>) {
        io.complete(Completion { io: id, result });
    }

    #[test]
    fn a_write_is_over_when_both_have_it() {
        let mut io = paired();
        let ids = write(&mut io, 1);
        assert_eq!(ids.len(), 2, "one for each");
        end(&mut io, ids[0], Ok(IoDone::Done));
        assert!(io.next_ready().is_none(), "the other one is on its way");
        end(&mut io, ids[1], Err(IoError::Media));
        let (_, member, result) = io.next_ready().expect("both are over");
        assert_eq!((member, result.is_ok()), (MemberId(1), true));
        let failed = |effect: &Effect| matches!(effect, Effect::Fail(MemberId(2), _));
        assert!(io.effects.iter().all(failed) && io.effects.len() == 1);
        assert!(io.pairs.is_empty());
        // Nothing of the new one's own, and nothing that is read, is done twice.
        assert_eq!(write(&mut io, 2).len(), 1);
        read(&mut io, 1);
        assert_eq!(io.out.len(), 0);
    }

    #[test]
    fn a_failure_is_known_before_the_other_one_ends() {
        let mut io = paired();
        let ids = write(&mut io, 1);
        end(&mut io, ids[0], Err(IoError::Media));
        let failed = |effect: &Effect| matches!(effect, Effect::Fail(MemberId(1), _));
        assert!(io.effects.iter().all(failed) && io.effects.len() == 1);
        let owner = Owner::Job { job: 7, tag: 0 };
        let submitted = |io: &mut Io, purpose, op| -> Vec<IoId> {
            io.submit(MemberId(1), purpose, op, owner);
            let ids = io.out.drain(..).map(|command| match command {
                Command::Io(one) => one.io,
                other => panic!("no I/O: {other:?}"),
            });
            ids.collect()
        };
        let mut io = paired();
        let zeroes = IoOp::WriteZeroes {
            offset_sectors: 64,
            len_sectors: 8,
            may_unmap: true,
            fua: false,
        };
        let ids = submitted(&mut io, Purpose::Data, zeroes);
        end(&mut io, ids[0], Err(IoError::Media));
        assert!(io.effects.iter().all(failed) && io.effects.len() == 1);
        let mut io = paired();
        let ids = submitted(&mut io, Purpose::Flush, IoOp::Flush);
        end(&mut io, ids[0], Err(IoError::Other("cache lost".into())));
        let failed = |effect: &Effect| matches!(effect, Effect::FlushFailed(MemberId(1), _));
        assert!(io.effects.iter().all(failed) && io.effects.len() == 1);
        end(&mut io, ids[1], Ok(IoDone::Done));
        let (_, member, result) = io.next_ready().expect("both are over");
        assert_eq!((member, result.is_err()), (MemberId(1), true));
    }

    #[test]
    fn after_the_handover_the_new_one_counts() {
        let mut io = paired();
        let ids = write(&mut io, 1);
        let being_read = read(&mut io, 1);
        io.hand_over(MemberId(1));
        assert!(io.next_ready().is_none(), "the new one has not answered");
        assert_eq!(io.members_in_flight().collect::<Vec<_>>(), [MemberId(2)]);
        end(&mut io, ids[1], Ok(IoDone::Done));
        let (_, member, result) = io.next_ready().expect("it is over");
        assert_eq!((member, result.is_ok()), (MemberId(2), true));
        end(&mut io, ids[0], Err(IoError::Media));
        assert!(io.next_ready().is_none() && io.effects.is_empty());
        let buf = io.pool.take(512);
        end(&mut io, being_read, Ok(IoDone::Read(buf)));
        assert!(io.next_ready().is_some_and(|ready| ready.2.is_ok()));
        assert_eq!(write(&mut io, 1).len(), 1, "nobody replaces it any more");
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
