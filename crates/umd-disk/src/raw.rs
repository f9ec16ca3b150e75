//! An open file or block device.
//!
//! | the I/O                                 | how it is done                                    |
//! |-----------------------------------------|---------------------------------------------------|
//! | aligned as O_DIRECT asks                | as it is                                          |
//! | memory or pieces misaligned             | through an aligned buffer                         |
//! | offset or length below the device's     | reads: the blocks around it; writes: read,        |
//! | block (512-byte I/O, 4096-byte blocks)  | change, write, one at a time per member (`edge`)  |
//!
//! Two such writes to different sectors of one block cannot undo each other, as they take turns; a
//! write of whole blocks that runs at the same time cannot touch that block, as the core never has
//! two writes to one sector in flight.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use smallvec::SmallVec;
use umd_core::array::{Extent, IoError};
use umd_core::value::SECTOR_BYTES;

use crate::error::io_error;
use crate::medium::{EXTENTS_MAX, Medium, pieces_len, push_extent};
use crate::pieces::{Align, BOUNCE_BYTES, PIECES_MAX, bounce_pool, copy_out, zeros};

/// The ways to make a range read as zeros without writing them, best first.
#[derive(Debug, Default)]
pub(crate) struct ZeroWays {
    /// Give the space back.
    pub(crate) punch: AtomicBool,
    /// Keep the space.
    pub(crate) zero_range: AtomicBool,
}

impl ZeroWays {
    /// The way to try after `tried`, if there is one before writing zeros.
    pub(crate) fn next(
        &self,
        may_unmap: bool,
        tried: Option<FallocateFlags>,
    ) -> Option<FallocateFlags> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let range = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if tried.is_none() && may_unmap && self.punch.load(Relaxed) {
            return Some(punch);
        }
        (tried != Some(range) && self.zero_range.load(Relaxed)).then_some(range)
    }

    /// Learns from a refusal. Returns whether the next way is worth a try.
    pub(crate) fn refused(&self, way: FallocateFlags, errno: Errno) -> bool {
        match errno {
            Errno::OPNOTSUPP | Errno::NOSYS => {
                let known = if way.contains(FallocateFlags::PUNCH_HOLE) {
                    &self.punch
                } else {
                    &self.zero_range
                };
                known.store(false, Relaxed);
                true
            }
            // A block device that wants larger blocks.
            Errno::INVAL => true,
            _ => false,
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct RawFile {
    pub(crate) file: File,
    /// Absolute.
    pub(crate) path: PathBuf,
    /// `st_dev`, `st_ino` when it was opened.
    pub(crate) identity: (u64, u64),
    pub(crate) is_block: bool,
    pub(crate) writable: bool,
    /// Whole sectors; nothing is ever written at or past this.
    pub(crate) size_bytes: u64,
    pub(crate) align: Align,
    pub(crate) zero_ways: ZeroWays,
    pub(crate) edge: Mutex<()>,
}

impl RawFile {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What an error met by I/O means: the one of the operating system, unless the file is gone.
    pub(crate) fn diagnose(&self, errno: Errno) -> IoError {
        match self.vanished() {
            true => IoError::Gone,
            false => io_error(errno),
        }
    }

    /// Whether the file was deleted or is shorter than when it was opened, or the device lost its
    /// medium.
    pub(crate) fn vanished(&self) -> bool {
        if self.is_block {
            // A device that was pulled out has no size any more.
            return rustix::fs::seek(&self.file, SeekFrom::End(0))
                .is_ok_and(|size| size < self.size_bytes);
        }
        match rustix::fs::fstat(&self.file) {
            Ok(stat) => stat.st_nlink == 0 || (stat.st_size as u64) < self.size_bytes,
            Err(_) => true,
        }
    }

    fn read_plain(&self, mut offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let mut filled = 0;
        while filled < buf.len() {
            match rustix::io::pread(&self.file, &mut buf[filled..], offset) {
                Ok(moved) => match self.align.progress(moved) {
                    0 => return Err(IoError::Gone),
                    moved => {
                        filled += moved;
                        offset += moved as u64;
                    }
                },
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.diagnose(errno)),
            }
        }
        Ok(())
    }

    fn read_bounced(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let unit = self.align.offset as u64;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let down = at - at % unit;
            let end = (at + rest.len() as u64).min(down + BOUNCE_BYTES as u64);
            let mut block = bounce_pool().take((end.next_multiple_of(unit) - down) as usize);
            self.read_plain(down, block.as_mut_slice())?;
            let (part, after) = rest.split_at_mut((end - at) as usize);
            let start = (at - down) as usize;
            part.copy_from_slice(&block.as_slice()[start..start + part.len()]);
            (at, rest) = (end, after);
        }
        Ok(())
    }

    fn write_plain(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError> {
        let mut list: SmallVec<[IoSlice<'_>; 16]> = SmallVec::from_slice(pieces);
        let (mut rest, mut offset) = (list.as_mut_slice(), offset);
        let flags = match fua {
            true => ReadWriteFlags::DSYNC,
            false => ReadWriteFlags::empty(),
        };
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(PIECES_MAX)];
            match rustix::io::pwritev2(&self.file, some, offset, flags) {
                Ok(moved) => match self.align.progress(moved) {
                    0 => return Err(IoError::Other("a write made no progress".into())),
                    moved => {
                        IoSlice::advance_slices(&mut rest, moved);
                        offset += moved as u64;
                    }
                },
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) if fua => {
                    self.write_plain(offset, rest, false)?;
                    return self.sync();
                }
                Err(errno) => return Err(self.diagnose(errno)),
            }
        }
        Ok(())
    }

    fn write_bounced(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError> {
        let unit = self.align.offset as u64;
        let (mut at, end) = (offset, offset + pieces_len(pieces));
        let _edge = (!self.align.fits_range(offset, end - offset))
            .then(|| self.edge.lock().expect("nothing panics under this lock"));
        while at < end {
            let down = at - at % unit;
            let part_end = end.min(down + BOUNCE_BYTES as u64);
            let up = part_end.next_multiple_of(unit);
            assert!(
                up <= self.size_bytes,
                "a direct write never extends the file"
            );
            let mut block = bounce_pool().take((up - down) as usize);
            let bytes = block.as_mut_slice();
            let (cut_head, cut_tail) = (at > down, up > part_end);
            if cut_head {
                self.read_plain(down, &mut bytes[..unit as usize])?;
            }
            let last = bytes.len() - unit as usize;
            if cut_tail && (last > 0 || !cut_head) {
                self.read_plain(up - unit, &mut bytes[last..])?;
            }
            let range = (at - down) as usize..(part_end - down) as usize;
            copy_out(pieces, (at - offset) as usize, &mut bytes[range]);
            self.write_plain(down, &[IoSlice::new(bytes)], fua)?;
            at = part_end;
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, len: u64, fua: bool) -> Result<(), IoError> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let part = (end - at).min(BOUNCE_BYTES as u64) as usize;
            self.write(at, &[IoSlice::new(&zeros().as_slice()[..part])], fua)?;
            at += part as u64;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), IoError> {
        loop {
            match rustix::fs::fdatasync(&self.file) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.diagnose(errno)),
            }
        }
    }
}

impl Medium for RawFile {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let as_it_is =
            self.align.fits_range(offset, buf.len() as u64) && self.align.fits_piece(buf);
        match as_it_is {
            true => self.read_plain(offset, buf),
            false => self.read_bounced(offset, buf),
        }
    }

    fn write(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError> {
        let len = pieces_len(pieces);
        assert!(offset + len <= self.size_bytes, "a write leaves the member");
        let as_it_is =
            self.align.fits_range(offset, len) && pieces.iter().all(|p| self.align.fits_piece(p));
        match as_it_is {
            true => self.write_plain(offset, pieces, fua),
            false => self.write_bounced(offset, pieces, fua),
        }
    }

    fn zero(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> Result<(), IoError> {
        assert!(offset + len <= self.size_bytes, "zeroing leaves the member");
        let mut tried = None;
        while let Some(way) = self.zero_ways.next(may_unmap, tried) {
            match rustix::fs::fallocate(&self.file, way, offset, len) {
                Ok(()) if fua => return self.sync(),
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) if self.zero_ways.refused(way, errno) => tried = Some(way),
                Err(errno) => return Err(self.diagnose(errno)),
            }
        }
        self.write_zeros(offset, len, fua)
    }

    fn flush(&self) -> Result<(), IoError> {
        match self.vanished() {
            true => Err(IoError::Gone),
            false => self.sync(),
        }
    }

    fn extents(&self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), IoError> {
        if self.vanished() {
            return Err(IoError::Gone);
        }
        let (mut at, end) = (offset, offset + len);
        while at < end && out.len() < EXTENTS_MAX {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                Err(Errno::NXIO) => end,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                    push_extent(out, end - at, true);
                    return Ok(());
                }
                Err(errno) => return Err(self.diagnose(errno)),
            };
            // Only whole sectors are holes.
            let hole_end = data - data % SECTOR_BYTES;
            push_extent(out, hole_end.saturating_sub(at), false);
            at = at.max(hole_end);
            if at == end {
                break;
            }
            let hole = match rustix::fs::seek(&self.file, SeekFrom::Hole(data)) {
                Ok(hole) => hole.next_multiple_of(SECTOR_BYTES).min(end),
                Err(errno) => return Err(self.diagnose(errno)),
            };
            let data_end = hole.max(at + SECTOR_BYTES);
            push_extent(out, data_end - at, true);
            at = data_end;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), IoError> {
        if self.vanished() {
            return Err(IoError::Gone);
        }
        if self.is_block {
            // Its node may come and go with udev; the device itself is what counts.
            return Ok(());
        }
        match rustix::fs::stat(&self.path) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.identity => Ok(()),
            Ok(_) => Err(IoError::Gone),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::LOOP) => Err(IoError::Gone),
            // Out of memory, no permission any more: says nothing about the file.
            Err(_) => Ok(()),
        }
    }

    fn unlock(&self) {
        // Fails only where the lock is lost already.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::{Engine, MemberFile, Mode};

    /// A file that claims to want 4096-byte blocks.
    fn coarse(size_bytes: u64) -> (tempfile::TempDir, RawFile) {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("member.img");
        let made = File::create(&path).and_then(|file| file.set_len(size_bytes));
        made.expect("file");
        let member = MemberFile::open(&path, Mode::ReadWrite, Engine::Sync).expect("open");
        let raw = member.raw.clone().expect("a file");
        drop(member);
        let mut raw = std::sync::Arc::into_inner(raw).expect("the only one");
        raw.align = Align {
            memory: 512,
            offset: 4096,
        };
        (dir, raw)
    }

    fn fill(raw: &RawFile, offset: u64, len: usize, value: u8) {
        raw.write(offset, &[IoSlice::new(&vec![value; len])], false)
            .expect("write");
    }

    fn bytes(raw: &RawFile, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0xee; len];
        raw.read(offset, &mut buf).expect("read");
        buf
    }

    #[test]
    fn sectors_of_large_blocks_are_changed_one_by_one() {
        let (_dir, raw) = coarse(4 << 20);
        let size = 4 << 20;
        let mut model = vec![0u8; size];
        let cases = [
            (512, 512),
            (0, 512),
            (3584, 512),
            (3584, 1024),
            (8192, 4096),
            (8704, 8192),
            (16384, 4608),
            (size - 512, 512),
            (1024, BOUNCE_BYTES + 8192),
            (BOUNCE_BYTES - 512, 2 * BOUNCE_BYTES),
        ];
        for (round, (offset, len)) in cases.into_iter().enumerate() {
            let value = round as u8 + 1;
            fill(&raw, offset as u64, len, value);
            model[offset..offset + len].fill(value);
            assert!(bytes(&raw, 0, size) == model, "{offset}+{len}");
            assert_eq!(bytes(&raw, offset as u64, len), vec![value; len]);
        }
        assert_eq!(raw.file.metadata().expect("stat").len(), size as u64);
    }

    #[test]
    fn neighbours_in_one_block_do_not_undo_each_other() {
        let (_dir, raw) = coarse(1 << 20);
        std::thread::scope(|scope| {
            for sector in 0..8u64 {
                let raw = &raw;
                scope.spawn(move || {
                    for round in 0..50 {
                        fill(raw, sector * 512, 512, round);
                    }
                });
            }
        });
        assert_eq!(bytes(&raw, 0, 4096), vec![49; 4096]);
    }

    #[test]
    #[should_panic(expected = "leaves the member")]
    fn nothing_is_written_past_the_recorded_size() {
        let (_dir, raw) = coarse(8192);
        fill(&raw, 4096, 8192, 1);
    }

    #[test]
    fn a_refused_way_of_zeroing_is_not_tried_again() {
        let ways = ZeroWays {
            punch: AtomicBool::new(true),
            zero_range: AtomicBool::new(true),
        };
        let punch = ways.next(true, None).expect("a way");
        assert!(punch.contains(FallocateFlags::PUNCH_HOLE));
        let range = ways.next(false, None).expect("a way");
        assert!(range.contains(FallocateFlags::ZERO_RANGE));
        assert_eq!(ways.next(true, Some(punch)), Some(range));
        assert_eq!(ways.next(true, Some(range)), None);
        assert!(ways.refused(punch, Errno::INVAL));
        assert_eq!(ways.next(true, None), Some(punch), "this range only");
        assert!(ways.refused(punch, Errno::OPNOTSUPP));
        assert_eq!(ways.next(true, None), Some(range));
        assert!(ways.refused(range, Errno::OPNOTSUPP));
        assert_eq!(ways.next(true, None), None);
        assert!(!ways.refused(range, Errno::IO));
    }
}
