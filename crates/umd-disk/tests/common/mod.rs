//! A member on some engine, and a loop to drive it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use umd_core::array::{Completion, IoDone, IoError, IoOp, MemberIo, Purpose};
use umd_core::value::{IoId, MemberId, Pool, Slice};
use umd_disk::{Backend, Engine, MemberFile, Mode, Mux};

/// Size of the members under test: large enough for the largest request, and sparse.
pub const SIZE_BYTES: u64 = 48 << 20;
pub const SIZE_SECTORS: u64 = SIZE_BYTES / 512;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the suite runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// io_uring and O_DIRECT, on the disk this is built on.
    Ring,
    /// io_uring through the page cache, on tmpfs.
    RingTmpfs,
    /// What `Auto` takes on the disk.
    AutoDisk,
    /// What `Auto` takes on tmpfs: calls by the loop.
    AutoTmpfs,
    /// Calls by the loop, with O_DIRECT.
    SyncDisk,
    /// Worker threads.
    Threads,
    /// Memory alone.
    Memory,
    /// Memory in front of a file.
    MemoryOfFile,
    /// Copy-on-write.
    Overlay,
    /// A cache that loses what is not flushed when killed; here nobody is.
    FaultCache,
}

impl Kind {
    /// The file itself takes the writes, so what happens to it is noticed.
    pub fn is_file(self) -> bool {
        use Kind::*;
        matches!(
            self,
            Ring | RingTmpfs | AutoDisk | AutoTmpfs | SyncDisk | Threads
        )
    }

    fn on_tmpfs(self) -> bool {
        matches!(self, Kind::RingTmpfs | Kind::AutoTmpfs)
    }
}

/// A place on a real disk, and one in memory.
pub fn disk_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory")
}

pub fn tmpfs_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("directory")
}

pub fn make_file(path: &Path, len: u64) {
    File::create(path)
        .and_then(|file| file.set_len(len))
        .expect("file");
}

pub struct Rig {
    pub mux: Mux,
    pub pool: Pool,
    pub path: PathBuf,
    pub kind: Kind,
    pub engine_name: &'static str,
    done: BTreeMap<IoId, Result<IoDone, IoError>>,
    next: u64,
    dir: tempfile::TempDir,
}

pub const MEMBER: MemberId = MemberId(3);

impl Rig {
    /// `None` when this machine lacks what the kind needs (io_uring may be forbidden).
    pub fn new(kind: Kind) -> Option<Rig> {
        let dir = match kind.on_tmpfs() {
            true => tmpfs_dir(),
            false => disk_dir(),
        };
        let path = dir.path().join("member.img");
        make_file(&path, SIZE_BYTES);
        let file = open(kind, &path, dir.path())?;
        assert_eq!(file.size_sectors(), SIZE_SECTORS);
        let mut mux = Mux::new().expect("backend");
        let engine_name = file.engine_name();
        mux.attach(MEMBER, file);
        Some(Rig {
            mux,
            pool: Pool::new(),
            path,
            kind,
            engine_name,
            done: BTreeMap::new(),
            next: 1,
            dir,
        })
    }

    /// Opens the member once more, for a second run.
    pub fn reopen(&mut self) {
        let file = open(self.kind, &self.path, self.dir.path()).expect("opened before");
        self.mux.attach(MEMBER, file);
    }

    pub fn submit_to(&mut self, member: MemberId, op: IoOp) -> IoId {
        let io = IoId(self.next);
        self.next += 1;
        let purpose = Purpose::Data;
        self.mux.submit(MemberIo {
            io,
            member,
            purpose,
            op,
        });
        io
    }

    pub fn submit(&mut self, op: IoOp) -> IoId {
        self.submit_to(MEMBER, op)
    }

    /// Kicks, and sleeps on the descriptor, until this many have completed.
    pub fn settle(&mut self, ios: &[IoId]) {
        let deadline = Instant::now() + PATIENCE;
        let mut out: Vec<Completion> = Vec::new();
        loop {
            let ready = self.mux.kick();
            if !ready && !ios.iter().all(|io| self.done.contains_key(io)) {
                assert!(Instant::now() < deadline, "I/O did not complete");
                let mut fds = [PollFd::from_borrowed_fd(self.mux.event_fd(), PollFlags::IN)];
                let wait = Timespec {
                    tv_sec: 20,
                    tv_nsec: 0,
                };
                let woken = poll(&mut fds, Some(&wait)).expect("poll");
                assert_eq!(woken, 1, "completions wake the loop");
            }
            self.mux.reap(&mut out);
            for Completion { io, result } in out.drain(..) {
                let twice = self.done.insert(io, result);
                assert!(twice.is_none(), "{io:?} completed twice");
            }
            if ios.iter().all(|io| self.done.contains_key(io)) {
                return;
            }
        }
    }

    pub fn result(&mut self, io: IoId) -> Result<IoDone, IoError> {
        self.done
            .remove(&io)
            .expect("completed, and looked at once")
    }

    pub fn run(&mut self, op: IoOp) -> Result<IoDone, IoError> {
        let io = self.submit(op);
        self.settle(&[io]);
        self.result(io)
    }

    pub fn leftovers(&self) -> usize {
        self.done.len()
    }

    pub fn write(&mut self, sector: u64, bytes: &[u8]) {
        let piece = self.pool.copy_of(bytes);
        self.write_pieces(sector, vec![piece], false);
    }

    pub fn write_pieces(&mut self, sector: u64, pieces: Vec<Slice>, fua: bool) {
        let op = write_op(sector, pieces, fua);
        let result = self.run(op);
        assert!(matches!(result, Ok(IoDone::Done)), "{result:?}");
    }

    pub fn read_op(&self, sector: u64, len_sectors: u64) -> IoOp {
        let mut buf = self.pool.take((len_sectors * 512) as usize);
        buf.as_mut_slice().fill(0xee);
        IoOp::Read {
            offset_sectors: sector,
            buf,
        }
    }

    pub fn read(&mut self, sector: u64, len_sectors: u64) -> Vec<u8> {
        let op = self.read_op(sector, len_sectors);
        match self.run(op) {
            Ok(IoDone::Read(buf)) => buf.as_slice().to_vec(),
            other => panic!("read at {sector}: {other:?}"),
        }
    }

    pub fn flush(&mut self) {
        let result = self.run(IoOp::Flush);
        assert!(matches!(result, Ok(IoDone::Done)), "{result:?}");
    }

    /// What the file holds, past all engines.
    pub fn file_bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let file = File::open(&self.path).expect("file");
        file.read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }
}

pub fn write_op(sector: u64, pieces: Vec<Slice>, fua: bool) -> IoOp {
    IoOp::Write {
        offset_sectors: sector,
        data: pieces.into(),
        fua,
    }
}

fn open(kind: Kind, path: &Path, dir: &Path) -> Option<MemberFile> {
    let engine = match kind {
        Kind::Ring | Kind::RingTmpfs => Engine::Uring,
        Kind::AutoDisk | Kind::AutoTmpfs | Kind::Overlay | Kind::FaultCache => Engine::Auto,
        Kind::SyncDisk => Engine::Sync,
        Kind::Threads => Engine::Threads,
        Kind::MemoryOfFile => Engine::Memory,
        Kind::Memory => return Some(MemberFile::in_memory(SIZE_SECTORS, 512)),
    };
    let mode = match kind {
        Kind::Overlay => Mode::ReadOnly,
        _ => Mode::ReadWrite,
    };
    let file = match MemberFile::open(path, mode, engine) {
        Err(umd_disk::OpenError::Engine { why, .. }) => {
            eprintln!("skipped: no io_uring here ({why})");
            return None;
        }
        result => result.expect("open"),
    };
    Some(match kind {
        Kind::Overlay => file.with_overlay(&dir.join("cow")).expect("overlay"),
        Kind::FaultCache => file.with_fault(&"cache,seed=5".parse().expect("spec")),
        _ => file,
    })
}

/// Bytes that tell where they belong.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Numbers for random choices.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
