//! The runtime directory: where the sockets of a household are, and who may be there.
//!
//! ```text
//!   DIR/            0700, ours
//!     lock          flock held by the daemon from before it binds until after it has unlinked
//!     control.sock  0600, the control API
//!     nbd.sock      all arrays, by name
//!     arrays.json   what runs, for the next daemon should this one be killed
//!     log           what the daemon had to say since it started
//!     serve/        one pair per `umd serve`: NAME.sock (control API), NAME.nbd
//! ```

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The longest path a Unix socket can have, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A runtime directory, made and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    dir: PathBuf,
}

/// Why there is no runtime directory to use. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It cannot be made or looked at.
    #[error("cannot use the runtime directory {}: {source}", dir.display())]
    Io {
        /// Which.
        dir: PathBuf,
        /// The system's word for it.
        source: std::io::Error,
    },
    /// Somebody else could put sockets there.
    #[error("the runtime directory {} {why}; choose another with --runtime-dir", dir.display())]
    NotOurs {
        /// Which.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Sockets in it would have too long a path.
    #[error(
        "the runtime directory {} is too long for a socket path; choose another with --runtime-dir",
        .0.display()
    )]
    TooLong(PathBuf),
}

/// Where the directory is when nobody says: `$XDG_RUNTIME_DIR/umd`, `/run/umd` for root,
/// otherwise `/tmp/umd-UID`.
pub fn default_dir(xdg: Option<&Path>, uid: u32) -> PathBuf {
    match xdg {
        Some(xdg) if xdg.is_absolute() => xdg.join("umd"),
        _ if uid == 0 => PathBuf::from("/run/umd"),
        _ => PathBuf::from(format!("/tmp/umd-{uid}")),
    }
}

impl Runtime {
    /// The directory, whether or not it exists.
    ///
    /// # Errors
    /// When a socket in it would have too long a path.
    pub fn at(given: Option<&Path>) -> Result<Runtime, RuntimeError> {
        let dir = match given {
            Some(dir) => dir.to_owned(),
            None => {
                let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
                default_dir(xdg.as_deref(), rustix::process::geteuid().as_raw())
            }
        };
        let dir = std::path::absolute(&dir).map_err(|source| RuntimeError::Io { dir, source })?;
        if dir.join("control.sock").as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(RuntimeError::TooLong(dir));
        }
        Ok(Runtime { dir })
    }

    /// Makes the directory if need be, and makes sure that it is ours alone.
    ///
    /// # Errors
    /// When it cannot be made, is not a directory, belongs to somebody else, or others can write.
    pub fn make(&self) -> Result<(), RuntimeError> {
        let io = |source| RuntimeError::Io {
            dir: self.dir.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io)?;
        // symlink_metadata: a link somebody planted in /tmp is not followed.
        let found = fs::symlink_metadata(&self.dir).map_err(io)?;
        let not_ours = |why: String| {
            Err(RuntimeError::NotOurs {
                dir: self.dir.clone(),
                why,
            })
        };
        if !found.is_dir() {
            return not_ours("is not a directory".into());
        }
        let uid = rustix::process::geteuid().as_raw();
        if found.uid() != uid {
            return not_ours(format!("belongs to user {}, not to {uid}", found.uid()));
        }
        if found.mode() & 0o077 != 0 {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&self.dir, private).map_err(io)?;
        }
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon's control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// The daemon's NBD socket.
    pub fn nbd(&self) -> PathBuf {
        self.dir.join("nbd.sock")
    }

    /// The daemon's lock file.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// What runs, for the next daemon.
    pub fn arrays(&self) -> PathBuf {
        self.dir.join("arrays.json")
    }

    /// What the daemon says goes there.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Where `umd serve` processes register.
    pub fn serve_dir(&self) -> PathBuf {
        self.dir.join("serve")
    }

    /// The control socket of `umd serve NAME`.
    pub fn serve_control(&self, name: &str) -> PathBuf {
        self.serve_dir().join(format!("{name}.sock"))
    }

    /// The NBD socket of `umd serve NAME`.
    pub fn serve_nbd(&self, name: &str) -> PathBuf {
        self.serve_dir().join(format!("{name}.nbd"))
    }

    /// Control sockets of all `umd serve` processes that registered, dead ones included, by name.
    pub fn served(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.serve_dir()) else {
            return Vec::new();
        };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "sock"))
            .collect();
        found.sort();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_follows_the_user() {
        let xdg = Path::new("/run/user/1000");
        assert_eq!(
            default_dir(Some(xdg), 1000),
            Path::new("/run/user/1000/umd")
        );
        assert_eq!(default_dir(None, 0), Path::new("/run/umd"));
        assert_eq!(default_dir(None, 1000), Path::new("/tmp/umd-1000"));
        assert_eq!(
            default_dir(Some(Path::new("x")), 7),
            Path::new("/tmp/umd-7")
        );
    }

    #[test]
    fn a_directory_is_made_private() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let dir = tmp.path().join("deep/umd");
        let runtime = Runtime::at(Some(&dir)).expect("runtime");
        runtime.make().expect("made");
        runtime.make().expect("made again");
        assert_eq!(fs::metadata(&dir).expect("there").mode() & 0o777, 0o700);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        runtime.make().expect("made private again");
        assert_eq!(fs::metadata(&dir).expect("there").mode() & 0o777, 0o700);
    }

    #[test]
    fn a_planted_link_is_refused() {
        let tmp = tempfile::tempdir().expect("tempdir");
        let dir = tmp.path().join("umd");
        std::os::unix::fs::symlink(tmp.path(), &dir).expect("link");
        let error = Runtime::at(Some(&dir)).expect("runtime").make();
        let text = error.expect_err("refused").to_string();
        assert!(text.contains("is not a directory"), "{text}");
    }

    #[test]
    fn too_long_a_path_is_refused() {
        let dir = format!("/tmp/{}", "x".repeat(100));
        let error = Runtime::at(Some(Path::new(&dir))).expect_err("refused");
        assert!(matches!(error, RuntimeError::TooLong(_)));
    }
}
