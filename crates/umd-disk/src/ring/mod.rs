//! The io_uring engine.
//!
//! ```text
//!   submit --> backlog (per member) --> slot --> SQE --kick--> kernel --> CQE
//!                        ^               |  ^                              |
//!                        |               |  +--- more to do: next part ----+   reap
//!                        +-- slot free --+<----------------------- done ---+--> Finished
//! ```
//!
//! An I/O sits in a slot from its first to its last part; the slot owns its buffers and the piece
//! list the kernel reads. Slots are per member, so a member that hangs keeps only its own busy.
//! Slots never move while in use, and when the ring is dropped with I/O in flight their memory is
//! left alone for good: the kernel may still write to it.
#![allow(unsafe_code)]

mod job;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, squeue};
use umd_core::array::{IoDone, IoError, MemberIo};
use umd_core::value::{IoId, MemberId};

use crate::finish::Finished;
use crate::raw::RawFile;

use job::{Job, Next};

/// Submissions per kick; more are handed over in between.
const SQ_ENTRIES: u32 = 256;
/// Room for the completions of 64 members at full depth; past that the kernel keeps a list.
const CQ_ENTRIES: u32 = 8192;
/// I/O in the kernel per member.
const DEPTH: usize = 128;
/// Members in the ring's own file table; further ones are used by descriptor.
const FILES: u32 = 256;
/// Kernel threads for what cannot be started without waiting (fsync, allocation of blocks), so
/// that a few members that hang do not starve the others.
const KERNEL_WORKERS: u32 = 64;

/// Whether a ring can be set up here and knows the operations used.
pub(crate) fn probe() -> std::io::Result<()> {
    let ring = new_ring(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
    ];
    let params = ring.params();
    let complete = needed.iter().all(|&code| probe.is_supported(code));
    match complete && params.is_feature_nodrop() && params.is_feature_submit_stable() {
        true => Ok(()),
        false => Err(std::io::Error::new(
            ErrorKind::Unsupported,
            "this kernel's io_uring is too old",
        )),
    }
}

/// The best set-up this kernel knows: completions are processed when we ask (6.1), or at least
/// without interrupting us (5.19), or whenever it likes.
fn new_ring(entries: u32) -> std::io::Result<IoUring> {
    let base = || {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(CQ_ENTRIES);
        builder
    };
    let mut deferred = base();
    deferred
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    let mut cooperative = base();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    for builder in [deferred, cooperative] {
        match builder.build(entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result,
        }
    }
    base().build(entries)
}

/// Where a member's I/O goes: an index into the ring's file table, or a descriptor.
#[derive(Clone, Copy)]
enum Target {
    Fixed(u32),
    Fd(u32),
}

struct Slot {
    io: IoId,
    job: Option<Job>,
}

struct Seat {
    member: MemberId,
    raw: Arc<RawFile>,
    target: Target,
    slots: Box<[Slot]>,
    free: Vec<u16>,
    backlog: VecDeque<MemberIo>,
}

/// One array's ring.
pub(crate) struct Ring {
    ring: IoUring,
    seats: Vec<Option<Seat>>,
    /// Completions taken from the kernel, not yet looked at.
    cqes: VecDeque<(u64, i32)>,
    /// Ended without the kernel.
    refused: Vec<Finished>,
    has_file_table: bool,
}

impl Ring {
    /// A ring that signals `wake`. Belongs to the calling thread from here on.
    pub(crate) fn new(wake: BorrowedFd<'_>) -> std::io::Result<Ring> {
        let ring = new_ring(SQ_ENTRIES)?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        // Both are improvements only: old kernels do without.
        let has_file_table = ring.submitter().register_files_sparse(FILES).is_ok();
        let mut workers = [KERNEL_WORKERS, 0];
        let _ = ring.submitter().register_iowq_max_workers(&mut workers);
        Ok(Ring {
            ring,
            seats: Vec::new(),
            cqes: VecDeque::with_capacity(SQ_ENTRIES as usize),
            refused: Vec::new(),
            has_file_table,
        })
    }

    /// Takes a member in; returns its seat.
    pub(crate) fn attach(&mut self, member: MemberId, raw: Arc<RawFile>) -> usize {
        let seat = match self.seats.iter().position(Option::is_none) {
            Some(seat) => seat,
            None => {
                self.seats.push(None);
                self.seats.len() - 1
            }
        };
        let fd = raw.fd().as_raw_fd();
        let index = seat as u32;
        let in_table = self.has_file_table
            && index < FILES
            && self
                .ring
                .submitter()
                .register_files_update(index, &[fd])
                .is_ok();
        let target = match in_table {
            true => Target::Fixed(index),
            false => Target::Fd(fd as u32),
        };
        let slot = |_| Slot {
            io: IoId::default(),
            job: None,
        };
        self.seats[seat] = Some(Seat {
            member,
            raw,
            target,
            slots: (0..DEPTH).map(slot).collect(),
            free: (0..DEPTH as u16).rev().collect(),
            backlog: VecDeque::new(),
        });
        seat
    }

    /// Lets a member go. Panics when it has I/O in flight.
    pub(crate) fn detach(&mut self, seat: usize) {
        let gone = self.seats[seat].take().expect("the seat is taken");
        assert!(gone.is_idle(), "a member is detached once its I/O drained");
        if let Target::Fixed(index) = gone.target {
            // Otherwise the entry is replaced by the seat's next user; the lock is given up apart
            // from this.
            let _ = self.ring.submitter().register_files_update(index, &[-1]);
        }
    }

    /// Takes an I/O that is aligned as the member asks, and is not an allocation query.
    pub(crate) fn submit(&mut self, seat: usize, io: MemberIo) {
        let entry = self.seats[seat].as_mut().expect("the seat is taken");
        match entry.free.pop() {
            Some(slot) => self.start(seat, slot, io),
            None => entry.backlog.push_back(io),
        }
    }

    /// Hands submissions to the kernel; returns whether `reap` would find something.
    pub(crate) fn kick(&mut self) -> bool {
        if !self.ring.submission().is_empty() {
            self.enter();
        }
        !self.cqes.is_empty() || !self.refused.is_empty() || !self.ring.completion().is_empty()
    }

    /// Appends what has completed.
    pub(crate) fn reap(&mut self, out: &mut Vec<Finished>) {
        let queue = self.ring.submission();
        let ask = queue.taskrun() || queue.cq_overflow() || !queue.is_empty();
        drop(queue);
        if ask {
            self.enter();
        }
        self.collect();
        while let Some((token, result)) = self.cqes.pop_front() {
            self.advance(token, result, out);
        }
        out.append(&mut self.refused);
        if !self.ring.submission().is_empty() {
            self.enter();
        }
    }

    fn start(&mut self, seat: usize, slot: u16, io: MemberIo) {
        let entry = self.seats[seat].as_mut().expect("the seat is taken");
        let member = io.member;
        match Job::new(io.op, &entry.raw) {
            Ok(job) => {
                entry.slots[usize::from(slot)] = Slot {
                    io: io.io,
                    job: Some(job),
                };
                self.issue(seat, slot);
            }
            Err(error) => {
                self.refused.push(Finished {
                    member,
                    io: io.io,
                    result: Err(error),
                });
                entry.free.push(slot);
            }
        }
    }

    /// Queues the next part of the I/O in this slot.
    fn issue(&mut self, seat: usize, slot: u16) {
        let entry = self.seats[seat].as_mut().expect("the seat is taken");
        let job = entry.slots[usize::from(slot)].job.as_mut();
        let job = job.expect("the slot holds an I/O");
        let sqe = match entry.target {
            Target::Fixed(index) => job.prepare(index, entry.raw.align),
            // The flag that is cleared is the one that makes it an index.
            Target::Fd(fd) => job.prepare(fd, entry.raw.align).clear_flags(),
        };
        let token = (seat as u64) << 32 | u64::from(slot);
        self.push(&sqe.user_data(token));
    }

    fn push(&mut self, sqe: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to - data, buffer and piece list - is owned by the job
            // in its slot. A slot's job is replaced only after its completion was taken from the
            // queue, `detach` refuses while one is in flight, and `Drop` leaves the memory of jobs
            // in flight alone, so it stays valid for as long as the kernel uses it. Nobody else
            // touches a read buffer meanwhile, as the job owns it.
            if unsafe { self.ring.submission().push(sqe) }.is_ok() {
                return;
            }
            self.enter();
        }
    }

    /// The one system call: submits, and has the kernel post completions it was keeping.
    ///
    /// Panics on errors that only a wrong use of the ring can cause.
    fn enter(&mut self) {
        loop {
            let Err(error) = self.ring.submit() else {
                return;
            };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Out of memory or of room for completions: make room, try again.
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {
                    self.collect();
                    std::thread::yield_now();
                }
                _ => panic!("io_uring_enter: {error}"),
            }
        }
    }

    fn collect(&mut self) {
        let taken = self.ring.completion();
        self.cqes
            .extend(taken.map(|cqe| (cqe.user_data(), cqe.result())));
    }

    /// A part has ended.
    fn advance(&mut self, token: u64, result: i32, out: &mut Vec<Finished>) {
        let (seat, slot) = ((token >> 32) as usize, (token & 0xffff) as u16);
        let entry = self.seats[seat]
            .as_mut()
            .expect("a seat stays while in use");
        let place = &mut entry.slots[usize::from(slot)];
        let job = place.job.as_mut().expect("a completion belongs to an I/O");
        let result: Result<IoDone, IoError> = match job.done(result, &entry.raw) {
            Next::Issue => return self.issue(seat, slot),
            Next::Fail(error) => Err(error),
            Next::Finish => {
                let job = place.job.take().expect("looked at above");
                Ok(job.into_done())
            }
        };
        place.job = None;
        out.push(Finished {
            member: entry.member,
            io: place.io,
            result,
        });
        entry.free.push(slot);
        if let Some(next) = entry.backlog.pop_front() {
            let slot = entry.free.pop().expect("freed above");
            self.start(seat, slot, next);
        }
    }
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len() && self.backlog.is_empty()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for seat in self.seats.iter_mut().flatten() {
            if seat.free.len() < seat.slots.len() {
                // The kernel may use this memory until the I/O ends, which nobody waits for now.
                std::mem::forget(std::mem::take(&mut seat.slots));
            }
        }
    }
}
