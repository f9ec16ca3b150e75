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

/// Ways to set up a ring, best first: completions are processed when we ask (since Linux 6.1), or
/// at least without interrupting us (5.19), or whenever the kernel likes.
fn setups() -> [io_uring::Builder; 3] {
    let mut builders = [(); 3].map(|()| IoUring::builder());
    for builder in &mut builders {
        builder.setup_clamp().setup_cqsize(CQ_ENTRIES);
    }
    builders[0]
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    builders[1].setup_coop_taskrun().setup_taskrun_flag();
    builders
}

/// The best ring this kernel knows.
fn new_ring(entries: u32) -> std::io::Result<IoUring> {
    let mut result = Err(std::io::Error::from(ErrorKind::Unsupported));
    for builder in setups() {
        result = builder.build(entries);
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            _ => break,
        }
    }
    result
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
        Ring::with(new_ring(SQ_ENTRIES)?, wake)
    }

    fn with(ring: IoUring, wake: BorrowedFd<'_>) -> std::io::Result<Ring> {
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
        entry.backlog.push_back(io);
        self.pump(seat);
    }

    /// Starts what waits, as far as there are slots.
    fn pump(&mut self, seat: usize) {
        loop {
            let entry = self.seats[seat].as_mut().expect("the seat is taken");
            if entry.free.is_empty() {
                return;
            }
            let Some(io) = entry.backlog.pop_front() else {
                return;
            };
            let slot = entry.free.pop().expect("looked at above");
            self.start(seat, slot, io);
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
        self.pump(seat);
    }
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len() && self.backlog.is_empty()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for index in 0..self.seats.len() {
            match &mut self.seats[index] {
                // The kernel may use this memory until the I/O ends, which nobody waits for now.
                Some(busy) if busy.free.len() < busy.slots.len() => {
                    std::mem::forget(std::mem::take(&mut busy.slots));
                }
                // The kernel takes a ring apart at its leisure; these files are free now.
                Some(_) => self.detach(index),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::Path;

    use umd_core::array::{IoOp, Purpose};
    use umd_core::value::Pool;

    use super::*;
    use crate::finish::Wake;
    use crate::member::{Engine, MemberFile, Mode};

    const SECTORS: u64 = 4096;

    /// A member the ring can use, and its directory.
    fn member(dir: &Path) -> Arc<RawFile> {
        let path = dir.join("member.img");
        let file = std::fs::File::create(&path);
        let made = file.and_then(|file| file.set_len(SECTORS * 512));
        made.expect("file");
        let member = MemberFile::open(&path, Mode::ReadWrite, Engine::Sync).expect("open");
        member.raw.clone().expect("a file")
    }

    fn io(n: u64, op: IoOp) -> MemberIo {
        MemberIo {
            io: IoId(n),
            member: MemberId(0),
            purpose: Purpose::Data,
            op,
        }
    }

    fn settle(ring: &mut Ring, wake: &Wake, count: usize) -> Vec<Finished> {
        let mut out = Vec::new();
        while out.len() < count {
            if !ring.kick() {
                let mut fds = [rustix::event::PollFd::new(
                    wake,
                    rustix::event::PollFlags::IN,
                )];
                let wait = rustix::event::Timespec {
                    tv_sec: 20,
                    tv_nsec: 0,
                };
                match rustix::event::poll(&mut fds, Some(&wait)) {
                    Err(rustix::io::Errno::INTR) => {}
                    woken => assert_eq!(woken, Ok(1), "completions wake the loop"),
                }
            }
            wake.clear();
            ring.reap(&mut out);
        }
        out
    }

    /// Older kernels get the simpler set-ups; all must work where this is tested, too.
    #[test]
    fn every_way_to_set_up_a_ring_works() {
        if let Err(error) = probe() {
            return eprintln!("skipped: no io_uring here ({error})");
        }
        for (index, builder) in setups().into_iter().enumerate() {
            for in_table in [true, false] {
                let Ok(ring) = builder.build(8) else {
                    assert_ne!(index, 2, "the plainest always works");
                    continue;
                };
                let wake = Wake::new().expect("wake");
                let mut ring = Ring::with(ring, wake.as_fd()).expect("ring");
                ring.has_file_table &= in_table;
                let dir = tempfile::tempdir().expect("directory");
                let seat = ring.attach(MemberId(0), member(dir.path()));
                round_trip(&mut ring, &wake, seat);
                ring.detach(seat);
            }
        }
    }

    fn round_trip(ring: &mut Ring, wake: &Wake, seat: usize) {
        let pool = Pool::new();
        for n in 0..300 {
            let piece = pool.copy_of(&[n as u8; 2048]);
            let op = IoOp::Write {
                offset_sectors: n * 8,
                data: [piece.sub(0..512), piece.sub(512..2048)]
                    .into_iter()
                    .collect(),
                fua: n == 7,
            };
            ring.submit(seat, io(n, op));
        }
        ring.submit(seat, io(300, IoOp::Flush));
        let ended = settle(ring, wake, 301);
        assert!(ended.iter().all(|e| matches!(e.result, Ok(IoDone::Done))));
        for n in 0..300 {
            let op = IoOp::Read {
                offset_sectors: n * 8,
                buf: pool.take(4096),
            };
            ring.submit(seat, io(n, op));
        }
        for Finished { io, result, .. } in settle(ring, wake, 300) {
            let Ok(IoDone::Read(buf)) = result else {
                panic!("{result:?}");
            };
            assert_eq!(buf.as_slice()[..2048], [io.0 as u8; 2048]);
            assert_eq!(buf.as_slice()[2048..], [0; 2048]);
        }
    }

    #[test]
    fn refusals_do_not_hold_up_what_waits_behind_them() {
        let wake = Wake::new().expect("wake");
        let Ok(mut ring) = Ring::new(wake.as_fd()) else {
            return eprintln!("skipped: no io_uring here");
        };
        let dir = tempfile::tempdir().expect("directory");
        let raw = member(dir.path());
        let seat = ring.attach(MemberId(0), raw);
        std::fs::remove_file(dir.path().join("member.img")).expect("remove");
        let pool = Pool::new();
        for n in 0..400 {
            // All of the flushes are refused: the file is gone.
            let op = match n {
                0..DEPTH_IOS => IoOp::Read {
                    offset_sectors: 0,
                    buf: pool.take(4096),
                },
                _ => IoOp::Flush,
            };
            ring.submit(seat, io(n, op));
        }
        let ended = settle(&mut ring, &wake, 400);
        let refused = ended.iter().filter(|e| e.result.is_err()).count();
        assert_eq!(refused as u64, 400 - DEPTH_IOS);
        ring.detach(seat);
    }

    const DEPTH_IOS: u64 = DEPTH as u64;
}
