//! Opening a member: kind, lock, size, O_DIRECT, and the engine that suits it.
//!
//! | engine `Auto` takes | when                                                              |
//! |---------------------|-------------------------------------------------------------------|
//! | inline              | the file lives in memory (tmpfs, ramfs): calls do not block       |
//! | ring                | O_DIRECT works, `RWF_NOWAIT` is accepted, io_uring can be set up  |
//! | worker threads      | otherwise                                                         |
//!
//! Without NOWAIT io_uring hands every call to a kernel thread, which costs more than our own. The
//! write side is not probed: a probe would have to write, and the kernel keeps one flag for both.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FallocateFlags, FileType, OFlags, SeekFrom, Stat, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};
use umd_core::value::SECTOR_BYTES;

use crate::error::{Holder, OpenError};
use crate::lock::{RETRY, kernel_holder, lock};
use crate::medium::Medium;
use crate::member::{Engine, MemberFile, Mode, Route};
use crate::memory::Memory;
use crate::pieces::{Align, bounce_pool};
use crate::raw::{RawFile, ZeroWays};
use crate::ring;

/// How long udev may hold a block device's lock while it looks at it, or the kernel may take to
/// let go of a device whose ring was closed.
const DEVICE_WAIT: Duration = Duration::from_secs(1);
/// Larger units of direct I/O (ZFS records, for example) are not worth it.
const DIRECT_BYTES_MAX: u32 = 4096;
/// File systems that are memory (statfs(2)).
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

pub(crate) fn open(
    path: &Path,
    mode: Mode,
    engine: Engine,
    lock_wait: Duration,
) -> Result<MemberFile, OpenError> {
    let path = std::path::absolute(path).map_err(|e| OpenError::io(path, "find it", e))?;
    let writable = mode.writes() && engine != Engine::Memory;
    let (file, stat, is_block) = open_file(&path, mode, writable, lock_wait)?;
    if mode != Mode::Examine {
        let wait = wait_for(is_block, lock_wait);
        lock(&file, &path, mode == Mode::ReadWrite, wait)?;
    }
    let size = rustix::fs::seek(&file, SeekFrom::End(0))
        .map_err(|e| OpenError::io(&path, "find its size", e))?;
    let in_memory = !is_block && lives_in_memory(&file);
    let align = match in_memory || size % SECTOR_BYTES != 0 {
        true => Align::NONE,
        false => go_direct(&file, is_block, size),
    };
    let raw = Arc::new(RawFile {
        path: path.clone(),
        identity: (stat.st_dev, stat.st_ino),
        is_block,
        writable,
        size_bytes: size - size % SECTOR_BYTES,
        align,
        zero_ways: ZeroWays {
            punch: AtomicBool::new(true),
            zero_range: AtomicBool::new(true),
        },
        edge: Mutex::new(()),
        file,
    });
    if raw.check().is_err() {
        let changed = std::io::Error::other("it was replaced while it was being opened");
        return Err(OpenError::io(&path, "open it", changed));
    }
    choose(path, raw, mode, engine, in_memory)
}

fn wait_for(is_block: bool, lock_wait: Duration) -> Duration {
    match is_block {
        true => lock_wait.max(DEVICE_WAIT),
        false => lock_wait,
    }
}

/// Opens without side effects on anything but files and block devices.
fn open_file(
    path: &Path,
    mode: Mode,
    writable: bool,
    lock_wait: Duration,
) -> Result<(File, Stat, bool), OpenError> {
    let kind = |stat: &Stat| match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(false),
        FileType::BlockDevice => Ok(true),
        _ => Err(OpenError::WrongKind {
            path: path.to_owned(),
        }),
    };
    let stat = rustix::fs::stat(path).map_err(|e| OpenError::io(path, "open it", e))?;
    let is_block = kind(&stat)?;
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
    flags |= match writable {
        true => OFlags::RDWR,
        false => OFlags::RDONLY,
    };
    if is_block && mode != Mode::Examine {
        flags |= OFlags::EXCL;
    }
    let in_use = || OpenError::InUse {
        path: path.to_owned(),
        holder: match is_block {
            true => kernel_holder(stat.st_rdev),
            false => Holder::Unknown,
        },
    };
    let deadline = Instant::now() + wait_for(is_block, lock_wait);
    let file = loop {
        match rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
            Ok(fd) => break File::from(fd),
            Err(Errno::INTR) => {}
            Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(RETRY),
            Err(Errno::BUSY | Errno::TXTBSY) => return Err(in_use()),
            Err(errno) => return Err(OpenError::io(path, "open it", errno)),
        }
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| OpenError::io(path, "open it", e))?;
    let still = kind(&stat)? == is_block;
    match still {
        true => Ok((file, stat, is_block)),
        false => Err(OpenError::WrongKind {
            path: path.to_owned(),
        }),
    }
}

fn lives_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|fs| matches!(fs.f_type as u32, TMPFS_MAGIC | RAMFS_MAGIC))
}

/// Switches the descriptor to direct I/O if that can work, and tells what it asks for.
fn go_direct(file: &File, is_block: bool, size: u64) -> Align {
    let Some(align) = direct_align(file, is_block) else {
        return Align::NONE;
    };
    // A file that ends inside a block could not be written to its end without growing.
    let whole = size.is_multiple_of(align.offset as u64);
    let flags = rustix::fs::fcntl_getfl(file);
    let direct = |flags| rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT);
    if !whole || size == 0 || flags.and_then(direct).is_err() {
        return Align::NONE;
    }
    for offset in [align.offset, DIRECT_BYTES_MAX as usize] {
        let align = Align { offset, ..align };
        let len = align.offset.max(align.memory);
        let mut buf = bounce_pool().take(len);
        let read = rustix::io::pread(file, &mut buf.as_mut_slice()[..offset], 0u64);
        match read {
            // Tells nothing about alignment: such errors are for whoever reads in earnest.
            Ok(_) => return align,
            Err(errno) if errno != Errno::INVAL => return align,
            Err(_) if !size.is_multiple_of(u64::from(DIRECT_BYTES_MAX)) => break,
            Err(_) => {}
        }
    }
    if let Ok(flags) = rustix::fs::fcntl_getfl(file) {
        // Was set above, so it can be taken back.
        let _ = rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT);
    }
    Align::NONE
}

/// What direct I/O on this file asks for, as told by the kernel (statx(2), since Linux 6.1) or
/// guessed and then tried. `None`: not possible or not worth it.
fn direct_align(file: &File, is_block: bool) -> Option<Align> {
    let at = AtFlags::EMPTY_PATH;
    let told = rustix::fs::statx(file.as_fd(), "", at, StatxFlags::DIOALIGN)
        .ok()
        .filter(|statx| statx.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    let (memory, offset) = match told {
        Some(statx) => (statx.stx_dio_mem_align, statx.stx_dio_offset_align),
        None if is_block => {
            let block = rustix::fs::ioctl_blksszget(file).unwrap_or(DIRECT_BYTES_MAX);
            (block, block)
        }
        None => (SECTOR_BYTES as u32, SECTOR_BYTES as u32),
    };
    let usable = |n: u32| n.is_power_of_two() && n <= DIRECT_BYTES_MAX;
    (usable(memory) && usable(offset)).then_some(Align {
        memory: memory as usize,
        offset: offset.max(SECTOR_BYTES as u32) as usize,
    })
}

fn choose(
    path: PathBuf,
    raw: Arc<RawFile>,
    mode: Mode,
    engine: Engine,
    in_memory: bool,
) -> Result<MemberFile, OpenError> {
    let route = match engine {
        Engine::Auto if in_memory => Route::Inline,
        Engine::Auto if suits_ring(&raw) => Route::Ring,
        Engine::Auto | Engine::Threads => Route::Workers,
        Engine::Sync | Engine::Memory => Route::Inline,
        Engine::Uring => match ring_works() {
            Ok(()) => Route::Ring,
            Err(why) => {
                let why = format!("{why}; leave the choice to 'auto' or use 'threads'");
                let engine = Engine::Uring.name();
                return Err(OpenError::Engine { path, engine, why });
            }
        },
    };
    let name = match (engine, route) {
        (Engine::Memory, _) => Engine::Memory,
        (_, Route::Ring) => Engine::Uring,
        (_, Route::Inline) => Engine::Sync,
        (_, Route::Workers) => Engine::Threads,
    };
    let logical_block_bytes = match raw.is_block {
        true => rustix::fs::ioctl_blksszget(&raw.file)
            .map_err(|e| OpenError::io(&path, "find its block size", e))?,
        false => raw.align.offset.max(SECTOR_BYTES as usize) as u32,
    };
    let medium: Arc<dyn Medium> = match engine {
        Engine::Memory => Arc::new(Memory::new(raw.size_bytes, Some(raw.clone()))),
        _ => raw.clone(),
    };
    Ok(MemberFile {
        medium,
        route,
        engine_name: name.name(),
        size_sectors: raw.size_bytes / SECTOR_BYTES,
        logical_block_bytes,
        read_only: !mode.writes(),
        can_unmap: engine == Engine::Memory || can_unmap(&raw),
        raw: Some(raw),
        path,
    })
}

/// Whether zeroing can give space back: for devices what the kernel says; a file is asked to
/// punch a hole where there is nothing, past its end.
fn can_unmap(raw: &RawFile) -> bool {
    if !raw.writable {
        return false;
    }
    if !raw.is_block {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let past_end = raw.size_bytes.next_multiple_of(1 << 20) + (1 << 20);
        return rustix::fs::fallocate(&raw.file, punch, past_end, 4096).is_ok();
    }
    let Ok(stat) = rustix::fs::fstat(&raw.file) else {
        return false;
    };
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    // A partition has no queue of its own: its disk's is one level up.
    ["queue", "../queue"].iter().any(|queue| {
        let file = format!("/sys/dev/block/{major}:{minor}/{queue}/discard_max_bytes");
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() != "0")
    })
}

fn suits_ring(raw: &RawFile) -> bool {
    raw.align != Align::NONE && accepts_nowait(raw) && ring_works().is_ok()
}

/// Whether the file's I/O can be started without waiting for it. EAGAIN (it would have to wait)
/// is a yes; an error from the disk is not about this.
fn accepts_nowait(raw: &RawFile) -> bool {
    let mut buf = bounce_pool().take(DIRECT_BYTES_MAX as usize);
    let len = raw.align.offset;
    let mut pieces = [IoSliceMut::new(&mut buf.as_mut_slice()[..len])];
    let result = rustix::io::preadv2(&raw.file, &mut pieces, 0, ReadWriteFlags::NOWAIT);
    !matches!(
        result,
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM)
    )
}

/// Whether this process may set up a ring: often forbidden in containers (EPERM) or switched off
/// (ENOSYS). Tried once.
fn ring_works() -> Result<(), String> {
    static WORKS: OnceLock<Result<(), String>> = OnceLock::new();
    WORKS
        .get_or_init(|| ring::probe().map_err(|error| error.to_string()))
        .clone()
}
