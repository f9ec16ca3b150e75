//! A member that was opened and locked, not yet (or never) part of a running array.

use std::fmt;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use umd_core::array::IoError;
use umd_core::value::SECTOR_BYTES;

use crate::error::OpenError;
use crate::medium::Medium;
use crate::memory::Memory;
use crate::overlay::Overlay;
use crate::raw::RawFile;

/// How I/O to members is done (`--io-engine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The best one for each member: io_uring where the file's I/O can be asynchronous, plain
    /// calls by the loop itself where they cannot block (tmpfs), worker threads otherwise.
    #[default]
    Auto,
    /// io_uring.
    Uring,
    /// Plain calls by the loop itself, even where they block.
    Sync,
    /// Plain calls by worker threads.
    Threads,
    /// A copy in memory: the file is read and locked, but never written. What was written is gone
    /// when the member is closed. For benchmarks.
    Memory,
}

impl Engine {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Auto => "auto",
            Engine::Uring => "io_uring",
            Engine::Sync => "sync",
            Engine::Threads => "threads",
            Engine::Memory => "memory",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(s: &str) -> Result<Engine, String> {
        match s {
            "auto" => Ok(Engine::Auto),
            "io_uring" | "uring" => Ok(Engine::Uring),
            "sync" => Ok(Engine::Sync),
            "threads" => Ok(Engine::Threads),
            "memory" => Ok(Engine::Memory),
            _ => Err(format!(
                "unknown I/O engine '{s}': choose auto, io_uring, sync, threads or memory"
            )),
        }
    }
}

/// What a member is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Reading and writing; nobody else may have it open.
    #[default]
    ReadWrite,
    /// Reading and writing, as may whoever else opens it so: nodes of a cluster. A device is still
    /// not shared with another process of this machine.
    Shared,
    /// Reading; others may read too, nobody may write.
    ReadOnly,
    /// A look at a member that may be in use: no lock is taken, and nothing is promised.
    Examine,
}

impl Mode {
    pub(crate) fn writes(self) -> bool {
        matches!(self, Mode::ReadWrite | Mode::Shared)
    }
}

/// What a sparse file may still ask of its filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Which filesystem (`st_dev`).
    pub filesystem: u64,
    /// Bytes of the file that have no room on it yet.
    pub wanted_bytes: u64,
    /// Bytes it has left for us.
    pub free_bytes: u64,
}

/// What is to be known of a member that is no file here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    /// What it is called among engines: "nbd".
    pub engine_name: &'static str,
    /// Its size, in whole sectors.
    pub size_sectors: u64,
    /// The smallest I/O it does without reading around it.
    pub logical_block_bytes: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Zeroing with `may_unmap` gives space back.
    pub can_unmap: bool,
}

/// Where an attached member's I/O goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Ring,
    Inline,
    Workers,
}

/// An open, locked member.
///
/// Dropping it (or closing it in the backend it was attached to) releases the lock.
pub struct MemberFile {
    pub(crate) path: PathBuf,
    pub(crate) medium: Arc<dyn Medium>,
    /// The bare file, for the ring and its facts. `None`: no file behind it.
    pub(crate) raw: Option<Arc<RawFile>>,
    pub(crate) route: Route,
    pub(crate) engine_name: &'static str,
    pub(crate) size_sectors: u64,
    pub(crate) logical_block_bytes: u32,
    pub(crate) read_only: bool,
    pub(crate) can_unmap: bool,
}

impl fmt::Debug for MemberFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberFile")
            .field("path", &self.path)
            .field("engine", &self.engine_name)
            .field("size_sectors", &self.size_sectors)
            .finish_non_exhaustive()
    }
}

impl MemberFile {
    /// Opens and locks a regular file or a block device.
    ///
    /// A lock that somebody holds is an error at once ([`OpenError::InUse`]); only for block
    /// devices a second is allowed, as udev locks them for a moment whenever they change, and the
    /// kernel may take a moment to let go of one.
    pub fn open(path: &Path, mode: Mode, engine: Engine) -> Result<MemberFile, OpenError> {
        crate::open::open(path, mode, engine, Duration::ZERO)
    }

    /// As [`open`](MemberFile::open), but waits up to `lock_wait` for another holder to let go:
    /// after an unclean stop the dead process's last writes may still be on their way, and hold
    /// the lock until they have landed.
    pub fn open_waiting(
        path: &Path,
        mode: Mode,
        engine: Engine,
        lock_wait: Duration,
    ) -> Result<MemberFile, OpenError> {
        crate::open::open(path, mode, engine, lock_wait)
    }

    /// A member of zeros in memory, with no file behind it. For tests and benchmarks.
    ///
    /// Panics unless `logical_block_bytes` is 512 or 4096.
    pub fn in_memory(size_sectors: u64, logical_block_bytes: u32) -> MemberFile {
        assert!(
            matches!(logical_block_bytes, 512 | 4096),
            "a block size md knows"
        );
        MemberFile {
            path: PathBuf::from("memory"),
            medium: Arc::new(Memory::new(size_sectors * SECTOR_BYTES, None)),
            raw: None,
            route: Route::Inline,
            engine_name: Engine::Memory.name(),
            size_sectors,
            logical_block_bytes,
            read_only: false,
            can_unmap: true,
        }
    }

    /// A member that is no file here. Its I/O is done by worker threads; `name` is what it is
    /// called instead of a path. The caller has locked it, and unlocks it when the medium is told
    /// to.
    ///
    /// Panics unless `logical_block_bytes` is 512 or 4096.
    pub fn elsewhere(name: &str, medium: Arc<dyn Medium>, facts: Elsewhere) -> MemberFile {
        assert!(
            matches!(facts.logical_block_bytes, 512 | 4096),
            "a block size md knows"
        );
        MemberFile {
            path: PathBuf::from(name),
            medium,
            raw: None,
            route: Route::Workers,
            engine_name: facts.engine_name,
            size_sectors: facts.size_sectors,
            logical_block_bytes: facts.logical_block_bytes,
            read_only: facts.read_only,
            can_unmap: facts.can_unmap,
        }
    }

    /// Puts a copy-on-write file in `dir` in front of the member: from here on every write goes
    /// there, and the member is only read. What an earlier run wrote to the same overlay is
    /// found again. The member should have been opened [`Mode::ReadOnly`].
    pub fn with_overlay(self, dir: &Path) -> Result<MemberFile, OpenError> {
        let size_bytes = self.size_sectors * SECTOR_BYTES;
        let overlay = Overlay::open(dir, &self.path, size_bytes, self.medium.clone())?;
        Ok(MemberFile {
            medium: Arc::new(overlay),
            route: Route::Workers,
            engine_name: "overlay",
            read_only: false,
            can_unmap: true,
            raw: None,
            ..self
        })
    }

    /// Makes the member fail as `spec` says.
    #[cfg(feature = "fault")]
    pub fn with_fault(self, spec: &crate::fault::FaultSpec) -> MemberFile {
        let block_bytes = u64::from(self.logical_block_bytes);
        let fault = crate::fault::FaultMedium::new(self.medium.clone(), spec, block_bytes);
        MemberFile {
            medium: Arc::new(fault),
            route: Route::Workers,
            engine_name: "fault",
            raw: None,
            ..self
        }
    }

    /// Its absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size, rounded down to whole sectors. Never changes while it is open.
    pub fn size_sectors(&self) -> u64 {
        self.size_sectors
    }

    /// The smallest I/O it does without reading around it: a device's logical block size, for
    /// files what their file system asks of direct I/O.
    pub fn logical_block_bytes(&self) -> u32 {
        self.logical_block_bytes
    }

    /// Whether it is a block device.
    pub fn is_block(&self) -> bool {
        self.raw.as_ref().is_some_and(|raw| raw.is_block)
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether zeroing with `may_unmap` gives space back.
    pub fn can_unmap(&self) -> bool {
        self.can_unmap
    }

    /// The room that writes may still need. `None` for what takes no room, or where it cannot be
    /// known.
    pub fn room(&self) -> Option<Room> {
        let raw = self.raw.as_ref().filter(|raw| !raw.is_block)?;
        let stat = rustix::fs::fstat(&raw.file).ok()?;
        let free = rustix::fs::fstatvfs(&raw.file).ok()?;
        let taken_bytes = u64::try_from(stat.st_blocks).ok()?.saturating_mul(512);
        Some(Room {
            filesystem: stat.st_dev,
            wanted_bytes: raw.size_bytes.saturating_sub(taken_bytes),
            free_bytes: free.f_bavail.saturating_mul(free.f_frsize),
        })
    }

    /// Which engine it runs on, for messages: "io_uring", "sync", "threads", "memory",
    /// "overlay", "fault", or what a member elsewhere is called.
    pub fn engine_name(&self) -> &'static str {
        self.engine_name
    }

    /// Whether it is still what was opened; see [`Backend::check_member`](crate::Backend).
    pub fn check(&self) -> Result<(), IoError> {
        self.medium.check()
    }

    /// Reads `len` bytes from `offset_bytes` on, waiting for them; any alignment. For the time
    /// before an array runs. Past the end: an error.
    pub fn read_at(&self, offset_bytes: u64, len: usize) -> Result<Vec<u8>, IoError> {
        let end = self.end_of(offset_bytes, len)?;
        let down = offset_bytes - offset_bytes % SECTOR_BYTES;
        let mut bytes = vec![0; (end.next_multiple_of(SECTOR_BYTES) - down) as usize];
        self.medium.read(down, &mut bytes)?;
        bytes.drain(..(offset_bytes - down) as usize);
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Writes whole sectors at `offset_bytes`, waiting for it; durable only after
    /// [`sync`](MemberFile::sync). For the time before an array runs. Past the end: an error.
    ///
    /// Panics when offset or length are not whole sectors.
    pub fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), IoError> {
        assert!(
            offset_bytes.is_multiple_of(SECTOR_BYTES)
                && (bytes.len() as u64).is_multiple_of(SECTOR_BYTES),
            "whole sectors"
        );
        self.end_of(offset_bytes, bytes.len())?;
        if self.read_only {
            return Err(read_only_error());
        }
        self.medium
            .write(offset_bytes, &[IoSlice::new(bytes)], false)
    }

    /// Makes all writes durable.
    pub fn sync(&self) -> Result<(), IoError> {
        self.medium.flush()
    }

    fn end_of(&self, offset_bytes: u64, len: usize) -> Result<u64, IoError> {
        offset_bytes
            .checked_add(len as u64)
            .filter(|&end| end <= self.size_sectors * SECTOR_BYTES)
            .ok_or_else(past_end_error)
    }
}

pub(crate) fn past_end_error() -> IoError {
    IoError::Other("the range lies past the end of the member".into())
}

pub(crate) fn read_only_error() -> IoError {
    IoError::Other("the member was opened read-only".into())
}
