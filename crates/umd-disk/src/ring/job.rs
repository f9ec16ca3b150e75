//! One I/O on its way through the ring, part by part.
//!
//! ```text
//!   read, write:  part, part, ... of PART_BYTES; after a short transfer the rest
//!   zero:         punch -> (refused) zero range -> (refused) write zeros
//!                   +-----------+-----(fua)-----> sync
//!   flush:        sync
//! ```

use std::io::IoSlice;

use io_uring::{opcode, squeue, types};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use smallvec::SmallVec;
use umd_core::array::{IoDone, IoError, IoOp};
use umd_core::value::{Buf, SECTOR_BYTES, Slice, slices_len};

use crate::pieces::{Align, BOUNCE_BYTES, PIECES_MAX, bounce_pool, copy_out, zeros};
use crate::raw::RawFile;

/// Bytes moved by one submission: the kernel pins and maps them while the loop waits.
const PART_BYTES: u64 = 4 << 20;

/// What to do after a part has ended.
pub(super) enum Next {
    Issue,
    Finish,
    Fail(IoError),
}

#[allow(
    clippy::large_enum_variant,
    reason = "jobs lie in a slab; a box would be an allocation for each write"
)]
pub(super) enum Job {
    Read {
        offset: u64,
        buf: Buf,
        done: usize,
    },
    Write(Write),
    Zero {
        offset: u64,
        len: u64,
        may_unmap: bool,
        fua: bool,
        way: FallocateFlags,
    },
    Sync,
}

pub(super) struct Write {
    offset: u64,
    source: Source,
    len: u64,
    done: u64,
    fua: bool,
    /// What the kernel reads of the current part. Not touched until it has ended.
    list: SmallVec<[libc::iovec; 4]>,
    /// The current part, copied to where O_DIRECT can take it.
    bounce: Option<Buf>,
}

enum Source {
    Pieces(SmallVec<[Slice; 4]>),
    Zeros,
}

impl Job {
    pub(super) fn new(op: IoOp, raw: &RawFile) -> Result<Job, IoError> {
        Ok(match op {
            IoOp::Read {
                offset_sectors,
                buf,
            } => Job::Read {
                offset: offset_sectors * SECTOR_BYTES,
                buf,
                done: 0,
            },
            IoOp::Write {
                offset_sectors,
                data,
                fua,
            } => {
                let len = slices_len(&data) as u64;
                let offset = offset_sectors * SECTOR_BYTES;
                Job::Write(Write::new(offset, Source::Pieces(data), len, fua))
            }
            IoOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                may_unmap,
                fua,
            } => {
                let (offset, len) = (offset_sectors * SECTOR_BYTES, len_sectors * SECTOR_BYTES);
                match raw.zero_ways.next(may_unmap, None) {
                    Some(way) => Job::Zero {
                        offset,
                        len,
                        may_unmap,
                        fua,
                        way,
                    },
                    None => Job::Write(Write::new(offset, Source::Zeros, len, fua)),
                }
            }
            IoOp::Flush if raw.vanished() => return Err(IoError::Gone),
            IoOp::Flush => Job::Sync,
            IoOp::Allocation { .. } => unreachable!("allocation queries go to the workers"),
        })
    }

    /// The submission for the next part, to an index of the ring's file table. It points into
    /// this job.
    pub(super) fn prepare(&mut self, target: u32, align: Align) -> squeue::Entry {
        let target = types::Fixed(target);
        match self {
            Job::Read { offset, buf, done } => {
                let rest = &mut buf.as_mut_slice()[*done..];
                let len = (rest.len() as u64).min(PART_BYTES) as u32;
                opcode::Read::new(target, rest.as_mut_ptr(), len)
                    .offset(*offset + *done as u64)
                    .build()
            }
            Job::Write(write) => {
                write.fill_list(align);
                let flags = if write.fua { libc::RWF_DSYNC } else { 0 };
                let offset = write.offset + write.done;
                match write.list.as_slice() {
                    [one] => opcode::Write::new(target, one.iov_base.cast(), one.iov_len as u32)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                    list => opcode::Writev::new(target, list.as_ptr(), list.len() as u32)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                }
            }
            Job::Zero {
                offset, len, way, ..
            } => opcode::Fallocate::new(target, *len)
                .offset(*offset)
                .mode(way.bits() as i32)
                .build(),
            Job::Sync => opcode::Fsync::new(target)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        }
    }

    /// What the kernel's answer to the last part means.
    pub(super) fn done(&mut self, result: i32, raw: &RawFile) -> Next {
        let moved = match result {
            0.. => result as usize,
            _ => match Errno::from_raw_os_error(-result) {
                Errno::INTR | Errno::AGAIN => return Next::Issue,
                errno => return self.refused(errno, raw),
            },
        };
        match self {
            Job::Read { buf, done, .. } => match raw.align.progress(moved) {
                0 => Next::Fail(IoError::Gone),
                moved => {
                    *done += moved;
                    more(*done < buf.len())
                }
            },
            Job::Write(write) => match raw.align.progress(moved) {
                0 => Next::Fail(IoError::Other("a write made no progress".into())),
                moved => {
                    write.done += moved as u64;
                    more(write.done < write.len)
                }
            },
            Job::Zero { fua: true, .. } => {
                *self = Job::Sync;
                Next::Issue
            }
            Job::Zero { .. } | Job::Sync => Next::Finish,
        }
    }

    fn refused(&mut self, errno: Errno, raw: &RawFile) -> Next {
        let &mut Job::Zero {
            offset,
            len,
            may_unmap,
            fua,
            way,
        } = self
        else {
            return Next::Fail(raw.diagnose(errno));
        };
        if !raw.zero_ways.refused(way, errno) {
            return Next::Fail(raw.diagnose(errno));
        }
        *self = match raw.zero_ways.next(may_unmap, Some(way)) {
            Some(way) => Job::Zero {
                offset,
                len,
                may_unmap,
                fua,
                way,
            },
            None => Job::Write(Write::new(offset, Source::Zeros, len, fua)),
        };
        Next::Issue
    }

    pub(super) fn into_done(self) -> IoDone {
        match self {
            Job::Read { buf, .. } => IoDone::Read(buf),
            _ => IoDone::Done,
        }
    }
}

fn more(rest: bool) -> Next {
    match rest {
        true => Next::Issue,
        false => Next::Finish,
    }
}

impl Write {
    fn new(offset: u64, source: Source, len: u64, fua: bool) -> Write {
        Write {
            offset,
            source,
            len,
            done: 0,
            fua,
            list: SmallVec::new(),
            bounce: None,
        }
    }

    /// Lists the next part for the kernel; copies it first where O_DIRECT could not take it.
    fn fill_list(&mut self, align: Align) {
        self.list.clear();
        self.bounce = None;
        let part = (self.len - self.done).min(PART_BYTES);
        let pieces = match &self.source {
            Source::Pieces(pieces) => pieces,
            Source::Zeros => {
                let len = (part as usize).min(BOUNCE_BYTES);
                self.list.push(iovec(&zeros().as_slice()[..len]));
                return;
            }
        };
        let (mut skip, mut rest) = (self.done, part);
        for piece in pieces {
            let len = piece.len() as u64;
            if skip >= len {
                skip -= len;
                continue;
            }
            let end = len.min(skip + rest);
            let bytes = &piece.as_slice()[skip as usize..end as usize];
            if !align.fits_piece(bytes) {
                return self.fill_bounce();
            }
            self.list.push(iovec(bytes));
            rest -= bytes.len() as u64;
            skip = 0;
            if rest == 0 || self.list.len() == PIECES_MAX {
                return;
            }
        }
        assert_eq!(rest, 0, "pieces end too early");
    }

    fn fill_bounce(&mut self) {
        let Source::Pieces(pieces) = &self.source else {
            unreachable!("zeros are aligned");
        };
        let part = (self.len - self.done).min(BOUNCE_BYTES as u64) as usize;
        let pieces: SmallVec<[IoSlice<'_>; 16]> =
            pieces.iter().map(|p| IoSlice::new(p.as_slice())).collect();
        let mut bounce = bounce_pool().take(part);
        copy_out(&pieces, self.done as usize, bounce.as_mut_slice());
        self.list.clear();
        self.list.push(iovec(bounce.as_slice()));
        self.bounce = Some(bounce);
    }
}

fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}
