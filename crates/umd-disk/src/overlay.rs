//! Copy-on-write in front of a member (`--overlay DIR`): the member is only read.
//!
//! Two files per member in the directory, named after it and a hash of its path:
//!
//! ```text
//!   NAME-HASH.cow   sparse, as long as the member; block N at N * 4096
//!   NAME-HASH.map   0:    magic "umd overlay map1"            (16 bytes)
//!                   16:   size of the member in bytes         (u64, little-endian)
//!                   24:   length of the path, then the path
//!                   4096: one bit per block, least significant first: 1 = read it from .cow
//! ```
//!
//! The map's bits become durable after the blocks they stand for: a flush syncs the blocks, then
//! writes and syncs the map. What was not flushed may be lost in a crash, as on any disk.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use umd_core::array::{Extent, IoError};

use crate::error::{OpenError, io_error, text};
use crate::lock::lock;
use crate::medium::{EXTENTS_MAX, Medium, push_extent};
use crate::pieces::copy_out;

const BLOCK_BYTES: u64 = 4096;
const MAGIC: &[u8; 16] = b"umd overlay map1";
const HEADER_BYTES: usize = 4096;
/// The map is written in pages of this size.
const PAGE_BYTES: usize = 4096;
/// Bytes copied or zeroed at a time.
const PART_BYTES: u64 = 1 << 20;

/// See the [module](self).
pub(crate) struct Overlay {
    base: Arc<dyn Medium>,
    size_bytes: u64,
    cow: File,
    map_file: File,
    map: RwLock<Map>,
    /// One writer at a time: filling up a block and writing to it is one step.
    writer: Mutex<()>,
    /// One flush at a time: an older map must not overwrite a newer one.
    flusher: Mutex<()>,
}

/// Which blocks are in the overlay, and which pages of the map are not on disk yet.
struct Map {
    bits: Vec<u8>,
    dirty_pages: Vec<bool>,
}

impl Map {
    fn has(&self, block: u64) -> bool {
        self.bits[(block / 8) as usize] & 1 << (block % 8) != 0
    }

    fn set(&mut self, blocks: Range<u64>) {
        for block in blocks {
            let byte = (block / 8) as usize;
            if !self.has(block) {
                self.bits[byte] |= 1 << (block % 8);
                self.dirty_pages[byte / PAGE_BYTES] = true;
            }
        }
    }

    /// The end of the run of equal blocks that begins at `offset`, in bytes, at most `end`.
    fn run_end(&self, offset: u64, end: u64) -> (u64, bool) {
        let mut block = offset / BLOCK_BYTES;
        let mine = self.has(block);
        let full = if mine { 0xff } else { 0 };
        while block * BLOCK_BYTES < end && self.has(block) == mine {
            let eight = block.is_multiple_of(8) && self.bits[(block / 8) as usize] == full;
            block += if eight { 8 } else { 1 };
        }
        (end.min(block * BLOCK_BYTES), mine)
    }
}

/// FNV-1a, to tell members of one name apart.
fn path_hash(path: &Path) -> u64 {
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn header(path: &Path, size_bytes: u64) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&size_bytes.to_le_bytes());
    bytes.extend_from_slice(&(path.len() as u64).to_le_bytes());
    // Longer paths than a page holds (PATH_MAX is a page) are told apart by their hash alone.
    bytes.extend_from_slice(&path[..path.len().min(HEADER_BYTES - bytes.len())]);
    bytes.resize(HEADER_BYTES, 0);
    bytes
}

fn open_locked(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options
        .open(path)
        .map_err(|e| OpenError::io(path, "open the overlay", e))?;
    lock(&file, path, true, Duration::ZERO)?;
    Ok(file)
}

impl Overlay {
    /// Opens the overlay of the member at `path` in `dir`, making it where there is none.
    pub(crate) fn open(
        dir: &Path,
        path: &Path,
        size_bytes: u64,
        base: Arc<dyn Medium>,
    ) -> Result<Overlay, OpenError> {
        std::fs::create_dir_all(dir)
            .map_err(|e| OpenError::io(dir, "make the overlay directory", e))?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy();
        let hash = path_hash(path);
        let file_of =
            |suffix: &str| -> PathBuf { dir.join(format!("{name}-{hash:016x}.{suffix}")) };
        let (cow_path, map_path) = (file_of("cow"), file_of("map"));
        let cow = open_locked(&cow_path)?;
        let map_file = open_locked(&map_path)?;
        cow.set_len(size_bytes)
            .map_err(|e| OpenError::io(&cow_path, "set the overlay's size", e))?;
        let bits = read_map(&map_file, &map_path, &header(path, size_bytes), size_bytes).map_err(
            |why| OpenError::Overlay {
                path: map_path.clone(),
                why,
            },
        )?;
        let pages = bits.len().div_ceil(PAGE_BYTES);
        Ok(Overlay {
            base,
            size_bytes,
            cow,
            map_file,
            map: RwLock::new(Map {
                bits,
                dirty_pages: vec![false; pages],
            }),
            writer: Mutex::new(()),
            flusher: Mutex::new(()),
        })
    }

    fn one_writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().expect("nothing panics under this lock")
    }

    fn run(&self, offset: u64, end: u64) -> (u64, bool) {
        let map = self.map.read().expect("nothing panics under this lock");
        map.run_end(offset, end)
    }

    fn set(&self, blocks: Range<u64>) {
        let mut map = self.map.write().expect("nothing panics under this lock");
        map.set(blocks);
    }

    /// Copies the block that holds `offset` from the member, unless it is here already.
    fn fill_block(&self, offset: u64) -> Result<(), IoError> {
        let start = offset - offset % BLOCK_BYTES;
        let end = (start + BLOCK_BYTES).min(self.size_bytes);
        if self.run(start, end).1 {
            return Ok(());
        }
        let mut block = [0; BLOCK_BYTES as usize];
        let block = &mut block[..(end - start) as usize];
        self.base.read(start, block)?;
        self.cow.write_all_at(block, start).map_err(cow_error)?;
        self.set(start / BLOCK_BYTES..start / BLOCK_BYTES + 1);
        Ok(())
    }

    /// Fills the blocks that the range covers in part; returns the blocks it touches.
    fn fill_edges(&self, offset: u64, end: u64) -> Result<Range<u64>, IoError> {
        if !offset.is_multiple_of(BLOCK_BYTES) {
            self.fill_block(offset)?;
        }
        if !end.is_multiple_of(BLOCK_BYTES) && end != self.size_bytes {
            self.fill_block(end)?;
        }
        Ok(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES))
    }

    /// Writes the map's dirty pages after the blocks they stand for are durable.
    fn persist(&self) -> Result<(), IoError> {
        let _one = self.flusher.lock().expect("nothing panics under this lock");
        let pages: Vec<(usize, Vec<u8>)> = {
            let mut map = self.map.write().expect("nothing panics under this lock");
            let Map { bits, dirty_pages } = &mut *map;
            let dirty = dirty_pages.iter_mut().enumerate().filter(|(_, d)| **d);
            dirty
                .map(|(page, dirty)| {
                    *dirty = false;
                    let start = page * PAGE_BYTES;
                    let end = bits.len().min(start + PAGE_BYTES);
                    (page, bits[start..end].to_vec())
                })
                .collect()
        };
        let result = self.write_map(&pages);
        if result.is_err() {
            let mut map = self.map.write().expect("nothing panics under this lock");
            for (page, _) in pages {
                map.dirty_pages[page] = true;
            }
        }
        result.map_err(cow_error)
    }

    fn write_map(&self, pages: &[(usize, Vec<u8>)]) -> std::io::Result<()> {
        self.cow.sync_data()?;
        for (page, bytes) in pages {
            let at = (HEADER_BYTES + page * PAGE_BYTES) as u64;
            self.map_file.write_all_at(bytes, at)?;
        }
        match pages.is_empty() {
            true => Ok(()),
            false => self.map_file.sync_data(),
        }
    }
}

/// The bits, after making sure that the map belongs to this member; a new file becomes a map.
fn read_map(file: &File, path: &Path, header: &[u8], size_bytes: u64) -> Result<Vec<u8>, String> {
    let blocks = size_bytes.div_ceil(BLOCK_BYTES);
    let mut bits = vec![0; blocks.div_ceil(8) as usize];
    let whole = (HEADER_BYTES + bits.len()) as u64;
    let failed = |error: std::io::Error| format!("cannot use the overlay's map: {}", text(error));
    let len = file.metadata().map_err(failed)?.len();
    if len == 0 {
        file.set_len(whole).map_err(failed)?;
        file.write_all_at(header, 0).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        return Ok(bits);
    }
    let mut found = vec![0; HEADER_BYTES];
    let same = len == whole && file.read_exact_at(&mut found, 0).is_ok() && found == header;
    if !same {
        let path = path.display();
        return Err(format!(
            "not the overlay of this member at its present size; remove {path} and its .cow file \
             to begin anew"
        ));
    }
    file.read_exact_at(&mut bits, HEADER_BYTES as u64)
        .map_err(failed)?;
    Ok(bits)
}

/// Trouble with the overlay's own files is not a bad sector of the member.
fn cow_error(error: std::io::Error) -> IoError {
    IoError::Other(format!("overlay: {}", text(error)))
}

impl Medium for Overlay {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let end = offset + buf.len() as u64;
        let (mut at, mut rest) = (offset, buf);
        while at < end {
            let (run_end, mine) = self.run(at, end);
            let (part, after) = rest.split_at_mut((run_end - at) as usize);
            match mine {
                true => self.cow.read_exact_at(part, at).map_err(cow_error)?,
                false => self.base.read(at, part)?,
            }
            (at, rest) = (run_end, after);
        }
        Ok(())
    }

    fn write(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError> {
        let writer = self.one_writer();
        let end = offset + crate::medium::pieces_len(pieces);
        let blocks = self.fill_edges(offset, end)?;
        let mut part = vec![0; (end - offset).min(PART_BYTES) as usize];
        let mut at = offset;
        while at < end {
            let len = (end - at).min(PART_BYTES) as usize;
            copy_out(pieces, (at - offset) as usize, &mut part[..len]);
            self.cow.write_all_at(&part[..len], at).map_err(cow_error)?;
            at += len as u64;
        }
        self.set(blocks);
        drop(writer);
        if fua { self.persist() } else { Ok(()) }
    }

    fn zero(&self, offset: u64, len: u64, _may_unmap: bool, fua: bool) -> Result<(), IoError> {
        let writer = self.one_writer();
        let end = offset + len;
        let blocks = self.fill_edges(offset, end)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.cow, punch, offset, len) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = vec![0; len.min(PART_BYTES) as usize];
                let mut at = offset;
                while at < end {
                    let part = &zeros[..(end - at).min(PART_BYTES) as usize];
                    self.cow.write_all_at(part, at).map_err(cow_error)?;
                    at += part.len() as u64;
                }
            }
            Err(errno) => return Err(cow_error(errno.into())),
        }
        self.set(blocks);
        drop(writer);
        if fua { self.persist() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), IoError> {
        self.persist()
    }

    fn extents(&self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), IoError> {
        let (mut at, end) = (offset, offset + len);
        while at < end && out.len() < EXTENTS_MAX {
            let (run_end, mine) = self.run(at, end);
            if mine {
                push_extent(out, run_end - at, true);
                at = run_end;
                continue;
            }
            // The member may tell about less than it was asked for.
            let mut below = Vec::new();
            self.base.extents(at, run_end - at, &mut below)?;
            for extent in below {
                let bytes = extent.len_sectors * umd_core::value::SECTOR_BYTES;
                push_extent(out, bytes, extent.data);
                at += bytes;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), IoError> {
        self.base.check()?;
        let stat = rustix::fs::fstat(&self.cow).map_err(io_error)?;
        match stat.st_nlink == 0 || (stat.st_size as u64) < self.size_bytes {
            true => Err(IoError::Gone),
            false => Ok(()),
        }
    }

    fn unlock(&self) {
        self.base.unlock();
        for file in [&self.cow, &self.map_file] {
            // Fails only where the lock is lost already.
            let _ = rustix::fs::flock(file, rustix::fs::FlockOperation::Unlock);
        }
    }
}
