//! `umd mount DIR`: the arrays as files, for programs that know md by /proc and /sys only.
//!
//! ```text
//!   program --read, write--> kernel --FUSE--> files --+-- `sysfs` (pure): tree, change
//!                                                     +-- source --control sockets--> daemon
//!                                                     +-- device --NBD--> daemon
//! ```
//!
//! A process of its own, in the foreground. The daemon knows nothing of FUSE: whatever happens to
//! the mount, arrays run on. Nothing is cached by the kernel (no entry, no attribute, no page), so
//! nothing is ever invalidated: an array that is stopped by a write to one of its own files is gone
//! at the next look.

mod device;
mod files;
mod inodes;
mod pollers;
mod source;

use std::path::Path;
use std::thread;

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::outcome::{Failure, Outcome, say};
use crate::runtime::Runtime;
use files::Files;
use source::Source;

/// How many requests are worked on at the same time: a slow one does not hold up the others, nor do
/// some writes that wait for a suspended range.
const THREADS: usize = 16;

/// What the user wants.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// mdstat calls arrays `md127` and so on.
    pub md_names: bool,
    /// Other users may look, as far as permissions let them.
    pub allow_other: bool,
    /// Say nothing but errors.
    pub quiet: bool,
}

/// Shows the arrays of a runtime directory in `dir`, until it is unmounted or we are told to go.
///
/// # Errors
/// When it cannot be mounted.
pub fn mount(runtime: Runtime, dir: &Path, wishes: &Wishes) -> Outcome {
    let failed = |error: std::io::Error| {
        let text = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "it, /dev/fuse or fusermount3 (which mounts for ordinary users) is not there".into()
            }
            _ => error.to_string(),
        };
        Failure::failed(format!("cannot mount at {}: {text}", dir.display()))
    };
    if !dir.is_dir() {
        let text = format!("cannot mount at {}: it is no directory", dir.display());
        return Err(Failure::failed(text));
    }
    let dir = dir.canonicalize().map_err(failed)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("umd".into()),
        MountOption::Subtype("umd".into()),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.n_threads = Some(THREADS);
    if wishes.allow_other {
        config.acl = SessionACL::All;
    }
    let files = Files::new(Source::new(runtime), wishes.md_names).map_err(failed)?;
    let mut session = Session::new(files, &dir, &config).map_err(failed)?;
    leave_when_told(session.unmount_callable(), dir.clone())?;
    if !wishes.quiet {
        say(&format!("arrays are shown in {}", dir.display()));
    }
    session.run().map_err(failed)?;
    Ok(0)
}

/// Unmounts at SIGTERM or SIGINT. Who still has a file of ours open does not keep us: the mount is
/// taken out of the tree of files, and that file fails from then on.
fn leave_when_told(
    mut unmounter: SessionUnmounter,
    dir: std::path::PathBuf,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("cannot await signals: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate()).map_err(failed)?,
            signal(SignalKind::interrupt()).map_err(failed)?,
        )
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        });
        if unmounter.unmount().is_ok() {
            return; // The session ends, and with it the program.
        }
        let flags = rustix::mount::UnmountFlags::DETACH;
        match rustix::mount::unmount(&dir, flags) {
            Ok(()) => {
                let dir = dir.display();
                say(&format!(
                    "{dir} was in use; files that are open there fail from now on"
                ));
                std::process::exit(0);
            }
            Err(error) => {
                say(&format!("cannot unmount {}: {error}", dir.display()));
                std::process::exit(1);
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map(drop).map_err(failed)
}
