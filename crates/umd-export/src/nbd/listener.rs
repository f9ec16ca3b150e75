//! Where clients come in.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use super::address::Address;
use super::socket::Socket;

/// A path longer than this does not fit a socket address.
const PATH_BYTES_MAX: usize = 107;
/// How long another process may keep the directory locked.
const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why nothing listens. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there.
    #[error("{0} is in use by another process")]
    AddressInUse(Address),
    /// The path is taken by something else, which was left alone.
    #[error("{0} exists and is not a socket; it was left alone")]
    NotASocket(PathBuf),
    /// The system does not take so long a path.
    #[error("{} is too long for a socket path ({PATH_BYTES_MAX} bytes at most)", .0.display())]
    PathTooLong(PathBuf),
    /// Others than this machine could connect there, and nothing would be encrypted.
    #[error(
        "{0} can be reached by other machines, and nothing sent there would be encrypted: give \
         --tls DIR, or an address of this machine (tcp:127.0.0.1:PORT)"
    )]
    NotEncrypted(Address),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// Where.
        address: Address,
        /// The system's word for it.
        source: io::Error,
    },
}

#[derive(Debug)]
enum Inner {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A listening socket that does not block. A Unix socket's path is removed when it is dropped,
/// unless somebody else has put something there meanwhile.
#[derive(Debug)]
pub struct Listener {
    /// Removed before the socket is closed: nobody finds a dead socket of ours.
    path: Option<OwnedPath>,
    inner: Inner,
    address: Address,
    /// Somebody else listens there as well.
    kept: bool,
}

/// A path and the file we made there.
#[derive(Debug)]
struct OwnedPath {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Somebody else listens there, too.
    stays: bool,
}

impl OwnedPath {
    fn of(path: &Path) -> io::Result<OwnedPath> {
        let file = fs::symlink_metadata(path)?;
        Ok(OwnedPath {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
            stays: false,
        })
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        if let Ok(file) = fs::symlink_metadata(&self.path)
            && !self.stays
            && (file.dev(), file.ino()) == (self.device, self.inode)
        {
            // Nobody to tell; a leftover socket is replaced by the next listener.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens. A Unix socket left behind by a dead process is replaced; a live one, or a path that is
/// no socket, is not touched.
pub fn listen(address: &Address) -> Result<Listener, ListenError> {
    listen_at(address, true)
}

/// The same where only this machine can connect: for doors without TLS.
///
/// # Errors
/// When others could connect there; nothing has listened then.
pub fn listen_here(address: &Address) -> Result<Listener, ListenError> {
    listen_at(address, false)
}

fn listen_at(address: &Address, others: bool) -> Result<Listener, ListenError> {
    let io_error = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::AddressInUse(address.clone()),
        _ => ListenError::Io {
            address: address.clone(),
            source,
        },
    };
    match address {
        Address::Unix(path) => listen_unix(path, address, io_error),
        Address::Tcp { host, port } => {
            let targets: Vec<_> = (host.as_str(), *port)
                .to_socket_addrs()
                .map_err(io_error)?
                .collect();
            if !others && !targets.iter().all(|target| target.ip().is_loopback()) {
                return Err(ListenError::NotEncrypted(address.clone()));
            }
            let listener = TcpListener::bind(&targets[..]).map_err(io_error)?;
            listener.set_nonblocking(true).map_err(io_error)?;
            let port = listener.local_addr().map_err(io_error)?.port();
            Ok(Listener {
                path: None,
                inner: Inner::Tcp(listener),
                address: Address::Tcp {
                    host: host.clone(),
                    port,
                },
                kept: false,
            })
        }
    }
}

fn listen_unix(
    path: &Path,
    address: &Address,
    io_error: impl Fn(io::Error) -> ListenError,
) -> Result<Listener, ListenError> {
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(ListenError::PathTooLong(path.to_owned()));
    }
    // Two processes that find the same stale socket must not remove each other's new one.
    let lock = lock_directory(path).map_err(&io_error)?;
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(&io_error)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Connected, or its queue is full, or it is not ours to talk to: it lives.
            _ => return Err(ListenError::AddressInUse(address.clone())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error(error)),
    }
    let listener = UnixListener::bind(path).map_err(&io_error)?;
    let owned = OwnedPath::of(path).map_err(&io_error)?;
    drop(lock);
    listener.set_nonblocking(true).map_err(&io_error)?;
    Ok(Listener {
        path: Some(owned),
        inner: Inner::Unix(listener),
        address: address.clone(),
        kept: false,
    })
}

/// Locks the directory of `path` until the descriptor is dropped.
fn lock_directory(path: &Path) -> io::Result<impl Drop> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(parent, flags, Mode::empty())?;
    for _ in 0..LOCK_ATTEMPTS {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    let text = format!("another process keeps {} locked", parent.display());
    Err(io::Error::new(io::ErrorKind::TimedOut, text))
}

impl Listener {
    /// One that somebody else has bound and goes on listening at when we are gone: its path stays.
    ///
    /// # Errors
    /// When it has no path, or the system refuses.
    pub fn of_unix(listener: UnixListener) -> io::Result<Listener> {
        let bound = listener.local_addr()?;
        let path = bound.as_pathname();
        let no_path = || io::Error::new(io::ErrorKind::InvalidInput, "the socket has no path");
        let address = Address::Unix(path.ok_or_else(no_path)?.to_owned());
        listener.set_nonblocking(true)?;
        Ok(Listener {
            path: None,
            inner: Inner::Unix(listener),
            address,
            kept: true,
        })
    }

    /// One that somebody else has bound, as above.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn of_tcp(listener: TcpListener) -> io::Result<Listener> {
        let bound = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        Ok(Listener {
            path: None,
            inner: Inner::Tcp(listener),
            address: Address::Tcp {
                host: bound.ip().to_string(),
                port: bound.port(),
            },
            kept: true,
        })
    }

    /// Where it is bound: a name that was asked for as the number it stands for.
    pub fn bound(&self) -> Address {
        match &self.inner {
            Inner::Unix(_) => self.address.clone(),
            Inner::Tcp(listener) => match listener.local_addr() {
                Ok(bound) => Address::Tcp {
                    host: bound.ip().to_string(),
                    port: bound.port(),
                },
                Err(_) => self.address.clone(),
            },
        }
    }

    /// Whether this is what somebody means who asks for `address`: with the port 0 any port of that
    /// host is.
    pub fn answers(&self, address: &Address) -> bool {
        let (Inner::Tcp(listener), Address::Tcp { host, port }) = (&self.inner, address) else {
            return self.address == *address;
        };
        let Ok(bound) = listener.local_addr() else {
            return false;
        };
        let meant = (host.as_str(), *port).to_socket_addrs();
        let same = |one: std::net::SocketAddr| {
            one.ip() == bound.ip() && (one.port() == bound.port() || *port == 0)
        };
        meant.is_ok_and(|mut all| all.any(same))
    }

    /// It is known by the host that was asked for, and its path stays when it is dropped: somebody
    /// else goes on listening there.
    pub fn kept_as(self, asked: &Address) -> Listener {
        let address = match (self.address, asked) {
            (Address::Tcp { port, .. }, Address::Tcp { host, .. }) => Address::Tcp {
                host: host.clone(),
                port,
            },
            (address, _) => address,
        };
        let mut path = self.path;
        if let Some(path) = &mut path {
            path.stays = true;
        }
        Listener {
            path,
            inner: self.inner,
            address,
            kept: true,
        }
    }

    /// Whether somebody else listens there as well, and goes on when we are gone.
    pub fn outlives_us(&self) -> bool {
        self.kept
    }

    /// Where clients find it: what was asked for, with the port the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether only this machine can connect.
    pub fn is_of_this_machine(&self) -> bool {
        match &self.inner {
            Inner::Unix(_) => true,
            Inner::Tcp(listener) => {
                let bound = listener.local_addr();
                bound.is_ok_and(|bound| bound.ip().is_loopback())
            }
        }
    }

    /// The next client, or [`io::ErrorKind::WouldBlock`].
    pub fn accept(&self) -> io::Result<Socket> {
        loop {
            let accepted = match &self.inner {
                Inner::Unix(listener) => listener.accept().map(|(s, _)| UnixStream::into(s)),
                Inner::Tcp(listener) => listener.accept().map(|(s, _)| TcpStream::into(s)),
            };
            match accepted {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                other => return other,
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.inner {
            Inner::Unix(listener) => listener.as_fd(),
            Inner::Tcp(listener) => listener.as_fd(),
        }
    }
}
