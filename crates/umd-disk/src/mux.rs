//! One array's members, each on the engine that suits it, behind one door.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use umd_core::array::{Completion, IoError, IoOp, MemberIo};
use umd_core::value::{MemberId, SECTOR_BYTES, slices_len};

use crate::backend::Backend;
use crate::finish::{DoneList, Finished, Wake};
use crate::medium::execute;
use crate::member::{MemberFile, Route, past_end_error, read_only_error};
use crate::ring::Ring;
use crate::threads::Workers;

/// Zeroing more than this may take long even in memory.
const INLINE_ZERO_SECTORS_MAX: u64 = (8 << 20) / SECTOR_BYTES;
/// Identities are small numbers, counted up by the driver.
const MEMBER_ID_MAX: u32 = 1 << 20;

/// The [`Backend`] of a running array. See the crate's drawing.
///
/// It stays on the thread that made it, as the kernel binds a ring to one thread. Dropping it
/// does not wait: I/O in flight goes on, its memory is kept from others, and the members stay
/// locked until it has ended. An orderly stop closes the members and reaps until all are closed.
pub struct Mux {
    wake: Arc<Wake>,
    done: Arc<DoneList>,
    ring: Option<Ring>,
    members: Vec<Option<Entry>>,
    /// Ended already: inline, or refused.
    ready: Vec<Finished>,
    /// Members whose workers have something staged.
    staged: VecDeque<MemberId>,
    scratch: Vec<Finished>,
    /// Whether anybody may signal `wake`.
    has_others: bool,
    not_send: PhantomData<*mut ()>,
}

struct Entry {
    file: MemberFile,
    seat: Option<usize>,
    workers: Option<Workers>,
    in_flight: usize,
    closing: bool,
}

impl Mux {
    /// No members yet. Fails when the process has no descriptor left.
    pub fn new() -> std::io::Result<Mux> {
        let wake = Arc::new(Wake::new()?);
        Ok(Mux {
            done: Arc::new(DoneList::new(wake.clone())),
            wake,
            ring: None,
            members: Vec::new(),
            ready: Vec::new(),
            staged: VecDeque::new(),
            scratch: Vec::new(),
            has_others: false,
            not_send: PhantomData,
        })
    }

    fn entry(&self, member: MemberId) -> Option<&Entry> {
        self.members.get(member.0 as usize)?.as_ref()
    }

    /// A seat on the ring. `None` when there is no ring to be had after all (descriptors or locked
    /// memory ran out): the member goes to the workers then.
    fn seat(&mut self, member: MemberId, file: &MemberFile) -> Option<usize> {
        let raw = file.raw.clone().filter(|_| file.route == Route::Ring)?;
        if self.ring.is_none() {
            self.ring = Ring::new(self.wake.as_fd()).ok();
            self.has_others = true;
        }
        Some(self.ring.as_mut()?.attach(member, raw))
    }

    fn detach(&mut self, member: MemberId) -> MemberFile {
        let place = &mut self.members[member.0 as usize];
        let entry = place.take().expect("only an open member is closed");
        assert_eq!(entry.in_flight, 0, "a member is closed once its I/O ended");
        if let (Some(seat), Some(ring)) = (entry.seat, &mut self.ring) {
            ring.detach(seat);
        }
        entry.file
    }

    fn finish_close(&mut self, member: MemberId) {
        // Explicitly: the ring's file table may hold the file a little longer.
        self.detach(member).medium.unlock();
    }
}

/// Panics when the I/O breaks the rules of `IoOp`; tells what a sane one may still be refused for.
fn refusal(entry: Option<&Entry>, op: &IoOp) -> Option<IoError> {
    let whole = |len: usize| (len as u64).is_multiple_of(SECTOR_BYTES);
    let (offset_sectors, len_sectors, writes) = match op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => {
            assert!(
                whole(buf.len()) && !buf.is_empty(),
                "a read of whole sectors"
            );
            (*offset_sectors, buf.len() as u64 / SECTOR_BYTES, false)
        }
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => {
            let sane = data.iter().all(|piece| whole(piece.len()));
            let len = slices_len(data);
            assert!(sane && len > 0, "a write of whole sectors");
            (*offset_sectors, len as u64 / SECTOR_BYTES, true)
        }
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            ..
        } => {
            assert!(*len_sectors > 0, "zeroing of something");
            (*offset_sectors, *len_sectors, true)
        }
        IoOp::Allocation {
            offset_sectors,
            len_sectors,
        } => {
            assert!(*len_sectors > 0, "a query about something");
            (*offset_sectors, *len_sectors, false)
        }
        IoOp::Flush => (0, 0, false),
    };
    let Some(entry) = entry.filter(|entry| !entry.closing) else {
        return Some(IoError::Gone);
    };
    let end = offset_sectors.checked_add(len_sectors);
    if end.is_none_or(|end| end > entry.file.size_sectors) {
        return Some(past_end_error());
    }
    (writes && entry.file.read_only).then(read_only_error)
}

impl Entry {
    /// Where this I/O goes: the member's engine, or its workers for what that engine cannot do.
    fn route(&self, op: &IoOp) -> Route {
        let align = || {
            let raw = self.file.raw.as_ref();
            raw.expect("the ring works on files").align
        };
        let fits =
            |offset_sectors: u64, len: u64| align().fits_range(offset_sectors * SECTOR_BYTES, len);
        match (self.file.route, op) {
            (Route::Ring, _) if self.seat.is_none() => Route::Workers,
            (Route::Ring, IoOp::Allocation { .. }) => Route::Workers,
            (
                Route::Ring,
                IoOp::Read {
                    offset_sectors,
                    buf,
                },
            ) if !fits(*offset_sectors, buf.len() as u64) => Route::Workers,
            (
                Route::Ring,
                IoOp::Write {
                    offset_sectors,
                    data,
                    ..
                },
            ) if !fits(*offset_sectors, slices_len(data) as u64) => Route::Workers,
            (
                Route::Ring,
                IoOp::WriteZeroes {
                    offset_sectors,
                    len_sectors,
                    ..
                },
            ) if !fits(*offset_sectors, *len_sectors * SECTOR_BYTES) => Route::Workers,
            (Route::Inline, IoOp::WriteZeroes { len_sectors, .. })
                if *len_sectors > INLINE_ZERO_SECTORS_MAX =>
            {
                Route::Workers
            }
            (route, _) => route,
        }
    }
}

impl Backend for Mux {
    fn attach(&mut self, member: MemberId, file: MemberFile) {
        assert!(
            member.0 < MEMBER_ID_MAX,
            "member identities are counted from 0"
        );
        let index = member.0 as usize;
        if self.members.len() <= index {
            self.members.resize_with(index + 1, || None);
        }
        assert!(self.members[index].is_none(), "{member:?} is attached");
        let seat = self.seat(member, &file);
        self.members[index] = Some(Entry {
            file,
            seat,
            workers: None,
            in_flight: 0,
            closing: false,
        });
    }

    fn submit(&mut self, io: MemberIo) {
        let member = io.member;
        let place = self.members.get_mut(member.0 as usize);
        let entry = place.and_then(Option::as_mut);
        if let Some(error) = refusal(entry.as_deref(), &io.op) {
            if let Some(entry) = entry {
                entry.in_flight += 1;
            }
            return self.ready.push(Finished {
                member,
                io: io.io,
                result: Err(error),
            });
        }
        let entry = entry.expect("otherwise refused");
        entry.in_flight += 1;
        match entry.route(&io.op) {
            Route::Ring => {
                let ring = self.ring.as_mut().expect("a seat is on a ring");
                ring.submit(entry.seat.expect("looked at by route"), io);
            }
            Route::Inline => self.ready.push(Finished {
                member,
                io: io.io,
                result: execute(entry.file.medium.as_ref(), io.op),
            }),
            Route::Workers => {
                let (medium, done) = (&entry.file.medium, &self.done);
                let workers = entry
                    .workers
                    .get_or_insert_with(|| Workers::new(medium.clone(), done.clone()));
                self.has_others = true;
                if workers.stage(io) {
                    self.staged.push_back(member);
                }
            }
        }
    }

    fn kick(&mut self) -> bool {
        while let Some(member) = self.staged.pop_front() {
            let entry = self.members[member.0 as usize].as_mut();
            let workers = entry.and_then(|entry| entry.workers.as_mut());
            workers.expect("a member with staged I/O is open").kick();
        }
        let on_ring = self.ring.as_mut().is_some_and(Ring::kick);
        on_ring || !self.ready.is_empty()
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        if self.has_others {
            // Before looking, so that what comes later signals again.
            self.wake.clear();
        }
        let mut ended = std::mem::take(&mut self.scratch);
        ended.append(&mut self.ready);
        self.done.take(&mut ended);
        if let Some(ring) = &mut self.ring {
            ring.reap(&mut ended);
        }
        for Finished { member, io, result } in ended.drain(..) {
            out.push(Completion { io, result });
            let place = self.members.get_mut(member.0 as usize);
            let Some(entry) = place.and_then(Option::as_mut) else {
                continue;
            };
            entry.in_flight -= 1;
            if entry.closing && entry.in_flight == 0 {
                self.finish_close(member);
            }
        }
        self.scratch = ended;
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn close(&mut self, member: MemberId) {
        let place = self.members.get_mut(member.0 as usize);
        let Some(entry) = place.and_then(Option::as_mut) else {
            return;
        };
        entry.closing = true;
        if entry.in_flight == 0 {
            self.finish_close(member);
        }
    }

    fn give_back(&mut self, member: MemberId) -> Option<MemberFile> {
        let entry = self.entry(member)?;
        let rests = entry.in_flight == 0 && !entry.closing;
        rests.then(|| self.detach(member))
    }

    fn is_closed(&self, member: MemberId) -> bool {
        self.entry(member).is_none()
    }

    fn in_flight(&self, member: MemberId) -> usize {
        self.entry(member).map_or(0, |entry| entry.in_flight)
    }

    fn check_member(&self, member: MemberId) -> Result<(), IoError> {
        match self.entry(member) {
            Some(entry) => entry.file.medium.check(),
            None => Err(IoError::Gone),
        }
    }
}
