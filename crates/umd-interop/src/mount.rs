//! ext4 on an export, as the host's programs see it: nbdfuse makes the export a file, fuse2fs
//! mounts the filesystem in it. No kernel driver for NBD or ext4 is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::fuse::{FuseFile, LIMIT, unmount};
use crate::oracle::Oracle;

/// A mounted filesystem. Dropped without [`Mount::unmount`], it is unmounted as well as can be.
#[derive(Debug)]
pub struct Mount {
    // In this order: the filesystem goes before the file it is in.
    files: Files,
    file: FuseFile,
}

impl Mount {
    /// Mounts the ext4 filesystem on the export at `uri`, below `dir`.
    ///
    /// # Errors
    /// When one of the programs is missing, fails, or is not ready in time.
    pub fn new(oracle: &Oracle, uri: &str, dir: &Path) -> Result<Mount> {
        let file = FuseFile::of_export(oracle, uri, dir)?;
        let files = Files {
            dir: dir.join("files"),
            of: file.path(),
            mounted: false,
        };
        let mut mount = Mount { files, file };
        mount.mount(oracle)?;
        Ok(mount)
    }

    fn mount(&mut self, oracle: &Oracle) -> Result<()> {
        fs::create_dir(&self.files.dir)?;
        let output = oracle
            .command("fuse2fs")?
            .args([&self.files.of, &self.files.dir])
            .args(["-o", "fakeroot"])
            .output()?;
        ensure!(
            output.status.success(),
            "fuse2fs ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        self.files.mounted = true;
        let limit = Instant::now() + LIMIT;
        while !self.files.dir.join("lost+found").is_dir() {
            self.file.alive()?;
            ensure!(Instant::now() < limit, "fuse2fs is not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The root folder of the filesystem.
    pub fn files(&self) -> &Path {
        &self.files.dir
    }

    /// Unmounts both, and waits until everything has been written to the export.
    ///
    /// # Errors
    /// When unmounting fails.
    pub fn unmount(mut self) -> Result<()> {
        self.files.unmount()?;
        self.file.unmount()
    }
}

/// The filesystem's mount.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    /// The file that the filesystem is in.
    of: PathBuf,
    mounted: bool,
}

impl Files {
    fn unmount(&mut self) -> Result<()> {
        if std::mem::take(&mut self.mounted) {
            unmount(&self.dir)?;
            // fuse2fs has detached itself; it closes the file when it has written everything.
            let limit = Instant::now() + LIMIT;
            while is_open(&self.of) {
                ensure!(Instant::now() < limit, "fuse2fs does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A test that failed before has said why.
        let _ = self.unmount();
    }
}

/// Whether a process of ours that we can look into has the file open.
fn is_open(path: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            return false;
        };
        descriptors
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == path))
    })
}
