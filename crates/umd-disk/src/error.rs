//! What can go wrong, for the core ([`IoError`]) and for a human ([`OpenError`]).
//!
//! | errno                                    | [`IoError`] | what the core does about it         |
//! |------------------------------------------|-------------|-------------------------------------|
//! | EIO, ENODATA, EILSEQ, EREMOTEIO          | `Media`     | reconstructs and rewrites, or fails |
//! | ENODEV, ENXIO, ESTALE, EBADF, ESHUTDOWN  | `Gone`      | fails the member                    |
//! | anything else (ENOSPC, EDQUOT, ...)      | `Other`     | fails the member, with the text     |

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use umd_core::array::IoError;

/// The core's word for an operating system error met by member I/O. The member may turn out to be
/// gone altogether: see `RawFile::diagnose`.
pub(crate) fn io_error(errno: Errno) -> IoError {
    match errno {
        Errno::IO | Errno::NODATA | Errno::ILSEQ | Errno::REMOTEIO => IoError::Media,
        Errno::NODEV | Errno::NXIO | Errno::STALE | Errno::BADF | Errno::SHUTDOWN => IoError::Gone,
        other => IoError::Other(text(other)),
    }
}

/// The core's word for an error number of Linux, as a server of members may send it.
pub fn io_error_of(number: i32) -> IoError {
    io_error(Errno::from_raw_os_error(number))
}

/// The operating system's own words.
pub(crate) fn text(error: impl Into<std::io::Error>) -> String {
    let text = error.into().to_string();
    // The number tells nobody more than the words.
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Who keeps a member from being opened, as far as it can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process holds the lock.
    Process {
        /// Its id.
        pid: u32,
        /// Its name, if it could be read.
        comm: Option<String>,
    },
    /// Something inside the kernel: a device built on it ("md127"), or a mount.
    Kernel(String),
    /// Nobody we can see (another container, another host).
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { pid, comm } if *pid == std::process::id() => {
                let comm = comm.as_deref().unwrap_or("this process");
                write!(f, "in use by this very process ({comm}, pid {pid})")
            }
            Holder::Process { pid, comm: Some(c) } => write!(f, "in use by {c} (pid {pid})"),
            // After a kill the lock stays until the last I/O has landed.
            Holder::Process { pid, comm: None } => write!(
                f,
                "in use by process {pid} (not to be seen; if it ended just now, its last I/O is \
                 still under way: try again)"
            ),
            Holder::Kernel(what) => write!(f, "in use by {what}"),
            Holder::Unknown => f.write_str("in use by another process"),
        }
    }
}

/// Why a member could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else uses it.
    #[error("{}: {holder}", path.display())]
    InUse {
        /// The member.
        path: PathBuf,
        /// By whom.
        holder: Holder,
    },
    /// A directory, a pipe, a character device.
    #[error("{}: neither a regular file nor a block device", path.display())]
    WrongKind {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The member.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The I/O engine that was asked for does not work here.
    #[error("{}: the I/O engine '{engine}' cannot be used here: {why}", path.display())]
    Engine {
        /// The member.
        path: PathBuf,
        /// The engine's name.
        engine: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// The copy-on-write file of an overlay does not fit the member.
    #[error("{}: {why}", path.display())]
    Overlay {
        /// The overlay's file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, action: &'static str, source: impl Into<std::io::Error>) -> Self {
        OpenError::Io {
            path: path.to_owned(),
            action,
            source: source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_the_core_should_do() {
        assert_eq!(io_error(Errno::IO), IoError::Media);
        assert_eq!(io_error(Errno::NODATA), IoError::Media);
        assert_eq!(io_error(Errno::ILSEQ), IoError::Media);
        assert_eq!(io_error(Errno::REMOTEIO), IoError::Media);
        assert_eq!(io_error(Errno::NODEV), IoError::Gone);
        assert_eq!(io_error(Errno::NXIO), IoError::Gone);
        assert_eq!(io_error(Errno::STALE), IoError::Gone);
        assert_eq!(io_error(Errno::BADF), IoError::Gone);
        let IoError::Other(text) = io_error(Errno::NOSPC) else {
            panic!("ENOSPC is neither a bad sector nor a lost device");
        };
        assert_eq!(text, "No space left on device");
    }

    #[test]
    fn a_holder_reads_as_a_sentence() {
        let holder = Holder::Process {
            pid: 1,
            comm: Some("init".into()),
        };
        let error = OpenError::InUse {
            path: "/x/a.img".into(),
            holder,
        };
        assert_eq!(error.to_string(), "/x/a.img: in use by init (pid 1)");
    }
}
