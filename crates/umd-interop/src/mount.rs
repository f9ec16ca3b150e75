//! ext4 on an export, as the host's programs see it: nbdfuse makes the export a file, fuse2fs
//! mounts the filesystem in it. No kernel driver for NBD or ext4 is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::oracle::Oracle;

const LIMIT: Duration = Duration::from_secs(20);

/// A mounted filesystem. Dropped without [`Mount::unmount`], it is unmounted as well as can be.
#[derive(Debug)]
pub struct Mount {
    nbdfuse: Child,
    file_dir: PathBuf,
    files: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Whether this machine lets us mount FUSE filesystems; if not, why.
    pub fn possible() -> Result<()> {
        fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .context("/dev/fuse cannot be opened")?;
        if !rustix::process::geteuid().is_root() {
            let probe = Command::new("fusermount3").arg("--version").output();
            let probe = probe.or_else(|_| Command::new("fusermount").arg("--version").output());
            probe.context("without root, mounting needs fusermount")?;
        }
        Ok(())
    }

    /// Mounts the ext4 filesystem on the export at `uri`, below `dir`.
    ///
    /// # Errors
    /// When one of the programs is missing, fails, or is not ready in time.
    pub fn new(oracle: &Oracle, uri: &str, dir: &Path) -> Result<Mount> {
        let (file_dir, files) = (dir.join("nbdfuse"), dir.join("files"));
        fs::create_dir(&file_dir)?;
        fs::create_dir(&files)?;
        let mut command = oracle.command("nbdfuse")?;
        command.arg(&file_dir).arg(uri).stdout(Stdio::null());
        let nbdfuse = command.spawn().context("cannot start nbdfuse")?;
        let mut mount = Mount {
            nbdfuse,
            file_dir,
            files,
            mounted: false,
        };
        let file = mount.file_dir.join("nbd");
        mount.wait("nbdfuse", |_| file.is_file())?;
        let output = oracle
            .command("fuse2fs")?
            .arg(&file)
            .arg(&mount.files)
            .args(["-o", "fakeroot"])
            .output()?;
        ensure!(
            output.status.success(),
            "fuse2fs ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        mount.mounted = true;
        mount.wait("fuse2fs", |mount| mount.files.join("lost+found").is_dir())?;
        Ok(mount)
    }

    /// The root folder of the filesystem.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Unmounts both, and waits until everything has been written to the export.
    ///
    /// # Errors
    /// When unmounting fails.
    pub fn unmount(mut self) -> Result<()> {
        self.take_down()
    }

    fn wait(&mut self, what: &str, mut ready: impl FnMut(&Mount) -> bool) -> Result<()> {
        let limit = Instant::now() + LIMIT;
        while !ready(self) {
            if let Some(status) = self.nbdfuse.try_wait()? {
                bail!("nbdfuse ended with {status}");
            }
            ensure!(
                Instant::now() < limit,
                "{what} is not ready after {LIMIT:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn take_down(&mut self) -> Result<()> {
        if std::mem::take(&mut self.mounted) {
            unmount(&self.files)?;
            // fuse2fs has detached itself; it closes the file when it has written everything.
            let users = |path: &Path| is_open(path);
            let limit = Instant::now() + LIMIT;
            while users(&self.file_dir.join("nbd")) {
                ensure!(Instant::now() < limit, "fuse2fs does not end");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if self.nbdfuse.try_wait()?.is_none() {
            unmount(&self.file_dir)?;
            self.nbdfuse.wait()?;
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A test that failed before has said why; leave no mount behind if it can be helped.
        if self.take_down().is_err() {
            let _ = self.nbdfuse.kill();
            let _ = self.nbdfuse.wait();
            let _ = unmount(&self.files);
            let _ = unmount(&self.file_dir);
        }
    }
}

fn unmount(path: &Path) -> Result<()> {
    let tools: [&[&str]; 3] = [&["umount"], &["fusermount3", "-u"], &["fusermount", "-u"]];
    let mut said = String::new();
    for tool in tools {
        match Command::new(tool[0]).args(&tool[1..]).arg(path).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => said.push_str(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => said.push_str(&format!("{}: {error}\n", tool[0])),
        }
    }
    bail!("cannot unmount {}: {said}", path.display())
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
