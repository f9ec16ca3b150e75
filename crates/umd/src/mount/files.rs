//! The FUSE side: numbers, open files, reads and writes.
//!
//! ```text
//!   lookup, getattr, readdir      a path of the tree, made of fresh documents
//!   open -> Text                  a read at 0 computes the value anew, as in sysfs; a write is one
//!                                 value, whatever its offset
//!        -> Bytes                 an NBD connection
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyPoll, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::OFlags;

use super::device::Device;
use super::inodes::{Inodes, join, number};
use super::pollers::Pollers;
use super::source::Source;
use crate::sysfs::{
    Change, Errno, Names, Node, PARAMETERS, change, change_parameters, mark, parameters, tree,
};

/// Nothing that the kernel is told holds for any time.
const TTL: Duration = Duration::ZERO;
/// `fallocate`: the size stays.
const KEEP_SIZE: i32 = 1;
/// `fallocate`: a hole, which reads as zeros.
const PUNCH_HOLE: i32 = 2;
/// `fallocate`: zeros that keep their room.
const ZERO_RANGE: i32 = 16;

/// An open file.
enum Open {
    Text(Mutex<Shown>),
    Bytes {
        array: String,
        device: Mutex<Device>,
    },
    List(Vec<(u64, FileType, String)>),
}

/// What was read of a value.
#[derive(Default)]
struct Shown {
    text: String,
    /// Its mark, if it was read; see `sysfs::mark`.
    mark: Option<String>,
}

/// The filesystem.
pub struct Files {
    source: Arc<Source>,
    pollers: Arc<Pollers>,
    md_names: bool,
    names: Mutex<Names>,
    inodes: Mutex<Inodes>,
    open: Mutex<BTreeMap<u64, Arc<Open>>>,
    next: AtomicU64,
    since: SystemTime,
}

/// What is behind these locks is right between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refusal(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

/// The array, and the path below its `md/`.
fn attribute_of(path: &str) -> Option<(&str, Vec<&str>)> {
    let mut parts = path.strip_prefix("sys/block/")?.split('/');
    let array = parts.next()?;
    (parts.next() == Some("md")).then(|| (array, parts.collect()))
}

impl Files {
    /// Shows what a source has.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn new(source: Source, md_names: bool) -> io::Result<Files> {
        let source = Arc::new(source);
        Ok(Files {
            pollers: Pollers::watching(source.clone())?,
            source,
            md_names,
            names: Mutex::default(),
            inodes: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(1),
            since: SystemTime::now(),
        })
    }

    fn tree(&self) -> Result<Node, Errno> {
        let arrays = self.source.arrays()?;
        let mut names = lock(&self.names);
        names.update(&arrays);
        Ok(tree(&arrays, &names, self.md_names))
    }

    /// The part of the tree that no array has to do with.
    fn modules(&self) -> Result<Node, Errno> {
        let shown = self.source.parameters()?.ok_or(Errno::NOENT)?;
        let path = PARAMETERS.rsplit('/');
        let below = |node, name: &str| Node::Directory(vec![(name.to_owned(), node)]);
        Ok(path.fold(parameters(&shown), below))
    }

    /// What is at a path now.
    fn node(&self, path: &str) -> Result<Node, Errno> {
        let tree = match path.starts_with("sys/module") {
            true => self.modules()?,
            false => self.tree()?,
        };
        let parts = path.split('/').filter(|part| !part.is_empty());
        tree.find(parts).cloned().ok_or(Errno::NOENT)
    }

    fn path(&self, inode: INodeNo) -> Result<String, Errno> {
        let inodes = lock(&self.inodes);
        inodes.path(inode.0).map(str::to_owned).ok_or(Errno::NOENT)
    }

    fn opened(&self, handle: FileHandle) -> Result<Arc<Open>, Errno> {
        lock(&self.open).get(&handle.0).cloned().ok_or(Errno::BADF)
    }

    fn keep(&self, open: Open) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(handle, Arc::new(open));
        FileHandle(handle)
    }

    fn attributes(&self, inode: u64, node: &Node) -> FileAttr {
        let size = match node {
            Node::Directory(_) => 0,
            Node::Link(target) => target.len() as u64,
            Node::Text { size, .. } => *size,
            Node::Device { bytes, .. } => *bytes,
        };
        FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind: kind(node),
            perm: node.mode(),
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let name = name.to_str().ok_or(Errno::NOENT)?;
        let path = join(&self.path(parent)?, name);
        let node = self.node(&path)?;
        let inode = lock(&self.inodes)
            .remember(&path, kind(&node))
            .ok_or(Errno::IO)?;
        Ok(self.attributes(inode, &node))
    }

    fn start(&self, inode: INodeNo, flags: OpenFlags) -> Result<FileHandle, Errno> {
        let path = self.path(inode)?;
        let (reads, writes) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        match self.node(&path)? {
            // As in sysfs this holds for root too, whom permissions do not stop.
            Node::Text { text, writable, .. } => {
                if reads && text.is_none() || writes && !writable {
                    return Err(Errno::ACCESS);
                }
                Ok(self.keep(Open::Text(Mutex::default())))
            }
            Node::Device { array, .. } => {
                let device = Device::open(&self.source.array(&array)?, writes)?;
                let device = Mutex::new(device);
                Ok(self.keep(Open::Bytes { array, device }))
            }
            Node::Directory(_) | Node::Link(_) => Err(Errno::ISDIR),
        }
    }

    fn load(&self, inode: INodeNo, handle: FileHandle, at: u64, len: u32) -> Answer<Vec<u8>> {
        match &*self.opened(handle)? {
            Open::Text(shown) => {
                let mut shown = lock(shown);
                if at == 0 {
                    let path = self.path(inode)?;
                    shown.text = self.text(&path)?;
                    shown.mark = Some(mark(&path, &shown.text));
                }
                let rest = usize::try_from(at)
                    .ok()
                    .and_then(|at| shown.text.as_bytes().get(at..));
                let rest = rest.unwrap_or_default();
                Ok(rest[..rest.len().min(len as usize)].to_vec())
            }
            Open::Bytes { array, device } => {
                let read = lock(device).read(at, len);
                read.map_err(|errno| self.why(array, errno))
            }
            Open::List(_) => Err(Errno::ISDIR),
        }
    }

    /// An attribute of something that is gone is one of a device that is not there.
    fn text(&self, path: &str) -> Answer<String> {
        match self.node(path) {
            Ok(Node::Text { text, .. }) => text.ok_or(Errno::ACCESS),
            Ok(_) | Err(Errno::NOENT) => Err(Errno::NODEV),
            Err(errno) => Err(errno),
        }
    }

    /// A device fails because its array has stopped, or for a reason of its own.
    fn why(&self, array: &str, errno: Errno) -> Errno {
        match self.source.array(array) {
            Err(Errno::NODEV) => Errno::NODEV,
            _ => errno,
        }
    }

    fn store(
        &self,
        inode: INodeNo,
        handle: FileHandle,
        at: u64,
        data: &[u8],
        flags: OpenFlags,
    ) -> Answer<u32> {
        match &*self.opened(handle)? {
            Open::Text(_) => {
                let path = self.path(inode)?;
                if let Some(name) = path.strip_prefix(PARAMETERS) {
                    let text = std::str::from_utf8(data).map_err(|_| Errno::INVAL)?;
                    let wanted = change_parameters(name.trim_start_matches('/'), text)?;
                    self.source.set_parameters(&wanted)?;
                    return Ok(data.len() as u32);
                }
                let (name, below) = attribute_of(&path).ok_or(Errno::ACCESS)?;
                let text = std::str::from_utf8(data).map_err(|_| Errno::INVAL)?;
                let array = self.source.array(name)?;
                let wanted = change(&array, &below, text)?;
                if wanted == Change::Stop && self.holds(name) {
                    return Err(Errno::BUSY);
                }
                self.source.apply(name, &wanted)?;
                Ok(data.len() as u32)
            }
            Open::Bytes { array, device } => {
                let sync = OFlags::SYNC | OFlags::DSYNC;
                let durable = OFlags::from_bits_retain(flags.0 as u32).intersects(sync);
                let written = lock(device).write(at, data, durable);
                written.map_err(|errno| self.why(array, errno))
            }
            Open::List(_) => Err(Errno::ISDIR),
        }
    }

    /// Whether somebody has the bytes of an array open here.
    fn holds(&self, name: &str) -> bool {
        let open = lock(&self.open);
        let mut open = open.values();
        open.any(|one| matches!(&**one, Open::Bytes { array, .. } if array == name))
    }

    fn list(&self, inode: INodeNo) -> Answer<FileHandle> {
        let path = self.path(inode)?;
        let Node::Directory(entries) = self.node(&path)? else {
            return Err(Errno::NOTDIR);
        };
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let dots = [(path.as_str(), "."), (parent, "..")];
        let dots = dots.map(|(path, name)| (number(path), FileType::Directory, name.to_owned()));
        let below = entries.into_iter().map(|(name, node)| {
            let inode = number(&join(&path, &name));
            (inode, kind(&node), name)
        });
        Ok(self.keep(Open::List(dots.into_iter().chain(below).collect())))
    }

    /// What poll(2) says of an open file. As in sysfs and /proc, a value can always be read, and
    /// one that is not as it was read here is something exceptional.
    fn readiness(&self, inode: INodeNo, handle: FileHandle) -> Answer<PollEvents> {
        let ready = PollEvents::POLLIN | PollEvents::POLLRDNORM;
        let writable = PollEvents::POLLOUT | PollEvents::POLLWRNORM;
        let Open::Text(shown) = &*self.opened(handle)? else {
            return Ok(ready | writable);
        };
        let path = self.path(inode)?;
        let seen = lock(shown).mark.clone();
        let now = self.text(&path).ok().map(|text| mark(&path, &text));
        let ready = match path.starts_with("proc/") {
            true => ready,
            false => ready | writable,
        };
        Ok(match seen.is_some() && seen == now {
            true => ready,
            false => ready | PollEvents::POLLERR | PollEvents::POLLPRI,
        })
    }

    /// Truncation means nothing to an attribute, and a device has its size.
    fn resize(&self, inode: INodeNo, size: Option<u64>, other: bool) -> Answer<FileAttr> {
        let path = self.path(inode)?;
        let node = match self.node(&path) {
            // What is gone can still be open, and fstat(2) on it succeeds.
            Err(Errno::NOENT) if size.is_none() && !other => self.remains(inode)?,
            node => node?,
        };
        match (&node, size) {
            _ if other => Err(Errno::PERM),
            (Node::Device { bytes, .. }, Some(size)) if size != *bytes => Err(Errno::INVAL),
            _ => Ok(self.attributes(inode.0, &node)),
        }
    }

    /// What is left of something that is gone.
    fn remains(&self, inode: INodeNo) -> Answer<Node> {
        let kind = lock(&self.inodes).kind(inode.0);
        Ok(match kind.ok_or(Errno::NOENT)? {
            FileType::Directory => Node::Directory(Vec::new()),
            FileType::Symlink => Node::Link(String::new()),
            _ => Node::Text {
                text: None,
                writable: false,
                size: 0,
            },
        })
    }

    fn sync(&self, handle: FileHandle) -> Answer<()> {
        match &*self.opened(handle)? {
            Open::Bytes { array, device } => {
                let flushed = lock(device).flush();
                flushed.map_err(|errno| self.why(array, errno))
            }
            Open::Text(_) | Open::List(_) => Ok(()),
        }
    }

    fn zero(&self, handle: FileHandle, offset: u64, len: u64, mode: i32) -> Answer<()> {
        let keep = match mode & !KEEP_SIZE {
            PUNCH_HOLE => false,
            ZERO_RANGE => true,
            _ => return Err(Errno::OPNOTSUPP),
        };
        match &*self.opened(handle)? {
            Open::Bytes { array, device } => {
                let zeroed = lock(device).zero(offset, len, keep);
                zeroed.map_err(|errno| self.why(array, errno))
            }
            Open::Text(_) | Open::List(_) => Err(Errno::OPNOTSUPP),
        }
    }
}

type Answer<T> = Result<T, Errno>;

fn kind(node: &Node) -> FileType {
    match node {
        Node::Directory(_) => FileType::Directory,
        Node::Link(_) => FileType::Symlink,
        Node::Text { .. } | Node::Device { .. } => FileType::RegularFile,
    }
}

impl Filesystem for Files {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // `> file` is then one request, and told apart from truncation. Every kernel has it.
        let _ = config.add_capabilities(InitFlags::FUSE_ATOMIC_O_TRUNC);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn forget(&self, _: &Request, inode: INodeNo, times: u64) {
        lock(&self.inodes).forget(inode.0, times);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.resize(inode, None, false) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let other = mode.is_some() || uid.is_some() || gid.is_some();
        match self.resize(inode, size, other) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.path(inode).and_then(|path| self.node(&path)) {
            Ok(Node::Link(target)) => reply.data(target.as_bytes()),
            Ok(_) => reply.error(fuser::Errno::EINVAL),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.start(inode, flags) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.load(inode, handle, offset, size) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.store(inode, handle, offset, data, flags) {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.sync(handle) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn poll(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        notifier: PollNotifier,
        _: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // Before the look: what changes after it is told.
        if flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY) {
            self.pollers.add(handle.0, notifier);
        }
        match self.readiness(inode, handle) {
            Ok(ready) => reply.poll(ready),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match self.zero(handle, offset, length, mode) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.pollers.remove(handle.0);
        let open = lock(&self.open).remove(&handle.0);
        if let Some(Open::Bytes { device, .. }) = open.as_deref() {
            lock(device).close();
        }
        reply.ok();
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.list(inode) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let open = match self.opened(handle) {
            Ok(open) => open,
            Err(errno) => return reply.error(refusal(errno)),
        };
        let Open::List(entries) = &*open else {
            return reply.error(fuser::Errno::ENOTDIR);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (inode, kind, name)) in entries.iter().enumerate().skip(from) {
            if reply.add(INodeNo(*inode), index as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        lock(&self.open).remove(&handle.0);
        reply.ok();
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(fuser::Errno::EACCES); // As in sysfs: what is not there cannot be made.
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }
}
