//! What an array's event loop sees of its members.
//!
//! ```text
//!   loop {
//!       for command in commands { if let Command::Io(io) = command { backend.submit(io) } }
//!       if backend.kick() { backend.reap(&mut done); handle them; continue; }
//!       wait for event_fd (and the other descriptors of the loop);
//!       backend.reap(&mut done); handle them;
//!   }
//! ```

use std::os::fd::BorrowedFd;

use umd_core::array::{Completion, IoError, MemberIo};
use umd_core::value::MemberId;

use crate::member::MemberFile;

/// The members of one array, used by one thread.
///
/// Every submitted I/O ends with exactly one [`Completion`], in no particular order. No call
/// blocks on a disk, except that I/O to a member on the inline engine is done by `submit` itself,
/// which is chosen where that is a memory copy.
pub trait Backend {
    /// Takes a member in under an identity that was never used before here.
    ///
    /// Panics when the identity is in use.
    fn attach(&mut self, member: MemberId, file: MemberFile);

    /// Takes an I/O. It may stay in a queue until [`kick`](Backend::kick).
    ///
    /// An I/O that leaves the member, writes to one opened read-only, or names one that is not
    /// attached or is being closed completes with an error. Panics when the I/O breaks its own
    /// rules (an empty range, a piece that is not whole sectors).
    fn submit(&mut self, io: MemberIo);

    /// Hands everything submitted to the kernel or the workers. Returns whether completions are
    /// ready already: these are *not* signalled on `event_fd`, so the caller reaps before it
    /// sleeps.
    #[must_use = "when true, completions are ready and event_fd does not tell: reap, then sleep"]
    fn kick(&mut self) -> bool;

    /// Appends what has completed to `out`, without waiting, and finishes closing members whose
    /// last I/O this was. Also clears `event_fd`.
    fn reap(&mut self, out: &mut Vec<Completion>);

    /// Becomes readable when completions may be waiting. Only for polling; the same for the whole
    /// life of the backend. On older kernels completions may also interrupt the poll (EINTR): poll
    /// again, or reap.
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Closes and unlocks the member: now, or in the [`reap`](Backend::reap) that returns its last
    /// completion. I/O in flight is not cancelled; its completions are delivered.
    fn close(&mut self, member: MemberId);

    /// Gives the member back, open and locked as it is. `None` while I/O to it is in flight, and
    /// when it is not held open.
    fn give_back(&mut self, member: MemberId) -> Option<MemberFile>;

    /// Whether the member is not (or no longer) held open.
    fn is_closed(&self, member: MemberId) -> bool;

    /// I/O submitted to the member and not yet reaped.
    fn in_flight(&self, member: MemberId) -> usize;

    /// Whether the member is still what was opened: its path names the same file, at least as
    /// long as then. To be called every few seconds; costs two `stat` calls.
    ///
    /// `Err(IoError::Gone)` when it vanished, was replaced or shrank (also when `member` is not
    /// attached). Between two checks, writes to a file that was truncated make it grow again, but
    /// never past the size recorded when it was opened; flushes and failed I/O look at the size as
    /// well. Looking at it before each write would cost more than it saves.
    fn check_member(&self, member: MemberId) -> Result<(), IoError>;
}
