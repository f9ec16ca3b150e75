//! One member as blocking calls: what workers and the inline engine run, where decorators (overlay,
//! fault) sit, and what a member is that is no file here ([`MemberFile::elsewhere`]).
//!
//! [`MemberFile::elsewhere`]: crate::MemberFile::elsewhere

use std::io::IoSlice;

use smallvec::SmallVec;
use umd_core::array::{Extent, IoDone, IoError, IoOp};
use umd_core::value::SECTOR_BYTES;

/// Runs reported by one allocation query at most.
pub(crate) const EXTENTS_MAX: usize = 1024;

/// Blocking I/O on one member. Offsets and lengths are bytes, whole sectors, inside the member
/// (the caller saw to that). Calls come from several threads at once.
///
/// What fails does so with one of [`IoError`]'s words; that of an operating system's number is
/// [`io_error_of`](crate::io_error_of).
#[allow(clippy::missing_errors_doc)] // Said above, for all of them.
pub trait Medium: Send + Sync {
    /// Fills `buf`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError>;

    /// Writes the pieces one behind the other; with `fua`, durable on return.
    fn write(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError>;

    /// Makes the range read as zeros.
    fn zero(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> Result<(), IoError>;

    /// Makes everything that returned before this call durable.
    fn flush(&self) -> Result<(), IoError>;

    /// Appends the allocation from `offset` on: at least one run, whole sectors, not past `len`.
    fn extents(&self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), IoError> {
        // All that can be said of what keeps no such account.
        let _ = offset;
        push_extent(out, len, true);
        Ok(())
    }

    /// Whether the member is still what was opened.
    fn check(&self) -> Result<(), IoError>;

    /// Gives up the locks. Called once nothing is in flight; no I/O follows.
    fn unlock(&self);
}

/// Carries out one I/O from beginning to end.
pub(crate) fn execute(medium: &dyn Medium, op: IoOp) -> Result<IoDone, IoError> {
    match op {
        IoOp::Read {
            offset_sectors,
            mut buf,
        } => {
            medium.read(offset_sectors * SECTOR_BYTES, buf.as_mut_slice())?;
            Ok(IoDone::Read(buf))
        }
        IoOp::Write {
            offset_sectors,
            data,
            fua,
        } => {
            let pieces: SmallVec<[IoSlice<'_>; 16]> =
                data.iter().map(|s| IoSlice::new(s.as_slice())).collect();
            medium.write(offset_sectors * SECTOR_BYTES, &pieces, fua)?;
            Ok(IoDone::Done)
        }
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            may_unmap,
            fua,
        } => {
            let (offset, len) = (offset_sectors * SECTOR_BYTES, len_sectors * SECTOR_BYTES);
            medium.zero(offset, len, may_unmap, fua)?;
            Ok(IoDone::Done)
        }
        IoOp::Flush => medium.flush().map(|()| IoDone::Done),
        IoOp::Allocation {
            offset_sectors,
            len_sectors,
        } => {
            let (offset, len) = (offset_sectors * SECTOR_BYTES, len_sectors * SECTOR_BYTES);
            let mut out = Vec::new();
            medium.extents(offset, len, &mut out)?;
            assert!(!out.is_empty(), "an allocation query answers something");
            Ok(IoDone::Extents(out))
        }
    }
}

/// Appends a run of `len` bytes, joined with the last one where the state is the same.
pub(crate) fn push_extent(out: &mut Vec<Extent>, len: u64, data: bool) {
    let len_sectors = len / SECTOR_BYTES;
    match out.last_mut() {
        _ if len_sectors == 0 => {}
        Some(last) if last.data == data => last.len_sectors += len_sectors,
        _ => out.push(Extent { len_sectors, data }),
    }
}

/// Total length of pieces in bytes.
pub(crate) fn pieces_len(pieces: &[IoSlice<'_>]) -> u64 {
    pieces.iter().map(|p| p.len() as u64).sum()
}
