//! What can be a member: a file, a block device, or an export of an NBD server.
//!
//! ```text
//!   /dev/sda, a.img            umd_disk
//!   nbd://nas:10809/r5         umd_export::nbd::Remote, behind umd_disk's Medium
//!     locked on this machine by a name of its network namespace (lock.rs)
//! ```
//!
//! An export is what its server says it is: no lock keeps other machines from it.

mod lock;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use umd_core::value::{IoError, SECTOR_BYTES};
use umd_disk::{Elsewhere, Engine, Medium, MemberFile, Mode, OpenError};
use umd_export::nbd::client::{ClientError, Tls};
use umd_export::nbd::{Address, Remote, Trouble, Uri};

use crate::daemon::tls::ClientFiles;
use lock::Lock;

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
    open_waiting(name, mode, engine, Duration::ZERO)
}

/// The same, but waits for another holder to let go.
///
/// # Errors
/// As above.
pub fn open_waiting(
    name: &Path,
    mode: Mode,
    engine: Engine,
    wait: Duration,
) -> Result<MemberFile, OpenError> {
    match name.to_str().filter(|name| is_elsewhere(name)) {
        Some(uri) if engine == Engine::Memory => {
            let why = "the I/O engine memory keeps a copy of files only";
            Err(refused(uri, why))
        }
        Some(uri) => remote(uri, mode, wait),
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

fn remote(text: &str, mode: Mode, wait: Duration) -> Result<MemberFile, OpenError> {
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
    let lock = Mutex::new(lock);
    Ok(MemberFile::elsewhere(
        &name,
        Arc::new(Export { remote, lock }),
        facts,
    ))
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
    remote: Remote,
    lock: Mutex<Option<Lock>>,
}

/// The core's word for it. A connection that is lost does not come back by itself.
fn sorted(trouble: Trouble) -> IoError {
    match trouble {
        Trouble::Lost(_) => IoError::Gone,
        Trouble::Refused(errno) => match i32::try_from(errno) {
            Ok(errno @ 1..4096) => umd_disk::io_error_of(errno),
            _ => IoError::Other(trouble.to_string()),
        },
    }
}

impl Medium for Export {
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), IoError> {
        self.remote.read(offset, buf).map_err(sorted)
    }

    fn write(&self, offset: u64, pieces: &[IoSlice<'_>], fua: bool) -> Result<(), IoError> {
        self.remote.write(offset, pieces, fua).map_err(sorted)
    }

    fn zero(&self, offset: u64, len: u64, may_unmap: bool, fua: bool) -> Result<(), IoError> {
        let zeroed = self.remote.zero(offset, len, may_unmap, fua);
        zeroed.map_err(sorted)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.remote.flush().map_err(sorted)
    }

    fn check(&self) -> Result<(), IoError> {
        match self.remote.lost() {
            Some(_) => Err(IoError::Gone),
            None => Ok(()),
        }
    }

    fn unlock(&self) {
        self.remote.close();
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = None;
    }
}
