//! What can be a member: a file, a block device, or an export of an NBD server.
//!
//! ```text
//!   /dev/sda, a.img            umd_disk
//!   nbd://nas:10809/r5         umd_export::nbd::Remote, behind umd_disk's Medium
//!     locked on this machine by a name of its network namespace (lock.rs)
//!     written with the key of a node, where a cluster reserves its members (keys.rs, served.rs)
//! ```
//!
//! An export is what its server says it is: no lock keeps other machines from it.

mod keys;
mod lock;
mod served;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::ServerName;
use umd_core::value::{IoError, SECTOR_BYTES};
use umd_disk::{Elsewhere, Engine, Medium, MemberFile, Mode, OpenError};
use umd_export::nbd::client::{ClientError, Tls};
use umd_export::nbd::{Address, Remote, Trouble, Uri};

use crate::daemon::tls::ClientFiles;
pub use keys::Keys;
use lock::Lock;
pub use served::Served;

/// What a server says to a write of who may not write (`EPERM`).
const NOT_PERMITTED: u32 = 1;
/// What it is called among engines.
const NBD: &str = "nbd";

/// Whether a member is named that is an export, and no path.
pub fn is_elsewhere(name: &str) -> bool {
    Uri::is_meant(name)
}

/// The short name of a member: the last part of its path, or of its export's name.
pub fn last_part(name: &str) -> &str {
    let path = match is_elsewhere(name) {
        true => name.split_once('?').map_or(name, |(path, _)| path),
        false => name,
    };
    path.rsplit('/').next().unwrap_or(path)
}

/// Opens and locks a member.
///
/// # Errors
/// When it is in use, of the wrong kind, or the system or its server refuses.
pub fn open(name: &Path, mode: Mode, engine: Engine) -> Result<MemberFile, OpenError> {
    open_waiting(name, mode, (engine, None), Duration::ZERO)
}

/// The same, but waits for another holder to let go. With keys, an export is written with the one
/// that they say, and not before they say one.
///
/// # Errors
/// As above.
pub fn open_waiting(
    name: &Path,
    mode: Mode,
    (engine, keys): (Engine, Option<&Keys>),
    wait: Duration,
) -> Result<MemberFile, OpenError> {
    match name.to_str().filter(|name| is_elsewhere(name)) {
        Some(uri) if engine == Engine::Memory => {
            let why = "the I/O engine memory keeps a copy of files only";
            Err(refused(uri, why))
        }
        Some(uri) => remote(uri, mode, keys, wait),
        None => MemberFile::open_waiting(name, mode, engine, wait),
    }
}

/// Why an export is not opened.
fn refused(uri: &str, why: impl fmt::Display) -> OpenError {
    OpenError::Io {
        path: PathBuf::from(uri),
        action: "open it",
        source: io::Error::other(why.to_string()),
    }
}

fn remote(
    text: &str,
    mode: Mode,
    keys: Option<&Keys>,
    wait: Duration,
) -> Result<MemberFile, OpenError> {
    let uri: Uri = text.parse().map_err(|error| refused(text, error))?;
    let name = uri.to_string();
    let lock = match mode {
        Mode::Examine => None,
        Mode::ReadWrite => Some(Lock::take(&name, true, wait)?),
        Mode::Shared | Mode::ReadOnly => Some(Lock::take(&name, false, wait)?),
    };
    let tls = tls(&uri).map_err(|why| refused(text, why))?;
    let connected = Remote::connect(&uri.address, &uri.export, tls.as_ref());
    let remote = connected.map_err(|error| refused(text, in_words(error)))?;
    let writes = matches!(mode, Mode::ReadWrite | Mode::Shared);
    let why = match remote.block_bytes() {
        _ if writes && remote.is_read_only() => Some("its server takes no writes to it"),
        _ if writes && !remote.can_flush() => {
            Some("its server cannot make writes durable (it offers no flush)")
        }
        512 | 4096 => None,
        _ => Some("its blocks are larger than 4096 bytes"),
    };
    if let Some(why) = why {
        return Err(refused(text, why));
    }
    let facts = Elsewhere {
        engine_name: NBD,
        size_sectors: remote.size_bytes() / SECTOR_BYTES,
        logical_block_bytes: remote.block_bytes(),
        read_only: !writes,
        can_unmap: remote.can_zero(),
    };
    let export = Arc::new(Export {
        remote: RwLock::new(Arc::new(remote)),
        lock: Mutex::new(lock),
        way: (uri, tls),
        without_key: AtomicBool::new(keys.is_some()),
    });
    if let Some(keys) = keys.filter(|_| writes) {
        keys.watch(text, &export);
    }
    Ok(MemberFile::elsewhere(&name, export, facts))
}

/// Keys for a server that speaks TLS.
fn tls(uri: &Uri) -> Result<Option<Tls>, String> {
    let Some(dir) = &uri.tls_dir else {
        return Ok(None);
    };
    let files = ClientFiles::read(dir).map_err(|failure| failure.text)?;
    let config = files.config().map_err(|failure| failure.text)?;
    let host = match &uri.address {
        Address::Unix(_) => "localhost",
        Address::Tcp { host, .. } => host,
    };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| format!("'{host}' cannot be the name in a certificate"))?;
    Ok(Some(Tls { config, name }))
}

/// What went wrong while connecting.
fn in_words(error: ClientError) -> String {
    match error {
        ClientError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            "its server did not answer in time".into()
        }
        ClientError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "its server closed the connection".into()
        }
        ClientError::Io(error) => crate::daemon::open::os_text(&error),
        ClientError::Option { text, error, .. } => match text.as_str() {
            "" => format!("its server refuses it (reply {error:#x})"),
            text => format!("its server refuses it: {text}"),
        },
        other => other.to_string(),
    }
}

/// An export as a medium.
struct Export {
    /// Another one takes its place when a key is known.
    remote: RwLock<Arc<Remote>>,
    lock: Mutex<Option<Lock>>,
    way: (Uri, Option<Tls>),
    /// It is to be written with a key, and none is known.
    without_key: AtomicBool,
}

impl Export {
    fn remote(&self) -> Arc<Remote> {
        let remote = self.remote.read().unwrap_or_else(PoisonError::into_inner);
        remote.clone()
    }

    /// That through which writes go.
    fn written(&self) -> Result<Arc<Remote>, IoError> {
        match self.lacks_key() {
            true => Err(IoError::Other(
                "its server does not know the key of this node yet".into(),
            )),
            false => Ok(self.remote()),
        }
    }

    fn lacks_key(&self) -> bool {
        self.without_key.load(Ordering::SeqCst)
    }

    /// Connects once more, and writes with this key from here on. Nothing was written before, so
    /// nothing is under way that the new connection could come before.
    fn with_key(&self, key: u64) -> Result<(), String> {
        let (uri, tls) = &self.way;
        let name = format!("{}@key={key:x}", uri.export);
        let remote = Remote::connect(&uri.address, &name, tls.as_ref()).map_err(in_words)?;
        let mut old = self.remote.write().unwrap_or_else(PoisonError::into_inner);
        if (old.size_bytes(), old.block_bytes()) != (remote.size_bytes(), remote.block_bytes()) {
            return Err("it has got another size".into());
        }
        let old = std::mem::replace(&mut *old, Arc::new(remote));
        old.close();
        self.without_key.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// The core's word for it. A connection that is lost does not come back by itself.
fn sorted(trouble: Trouble) -> IoError {
    match trouble {
        Trouble::Lost(_) => IoError::Gone,
        Trouble::Refused(NOT_PERMITTED) => IoError::Other(
            "its server lets only those write whose key is registered, and that of this host is \
             not, or was taken away"
                .into(),
        ),
        Trouble::Refused(errno) => match i32::try_from(errno) {
            Ok(errno @ 1..4096) => umd_disk::io_error_of(errno),
            _ => IoError::Other(trouble.to_string()),
        },
    }
}

impl Medium for Export {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.remote().read(offset, buf).map_err(sorted)
    }

    fn write(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError> {
        self.written()?.write(offset, pieces, fua).map_err(sorted)
    }

    fn zero(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> Result<(), IoError> {
        let zeroed = self.written()?.zero(offset, len, may_unmap, fua);
        zeroed.map_err(sorted)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.remote().flush().map_err(sorted)
    }

    fn check(&self) -> Result<(), IoError> {
        match self.remote().lost() {
            Some(_) => Err(IoError::Gone),
            None => Ok(()),
        }
    }

    fn unlock(&self) {
        self.remote().close();
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = None;
    }
}
