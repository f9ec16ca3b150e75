//! A file made of NBD: what a program does to the file goes through nbdkit, which can change it on
//! the way.
//!
//! ```text
//!   member file, or filesystem  ->  nbdfuse  ->  nbdkit with a filter  ->  image, or an export
//!          DIR/nbd                              error, blocksize
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::oracle::Oracle;

/// How long a program may take to be ready, and to go.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Whether this machine lets us mount FUSE filesystems; if not, why.
///
/// # Errors
/// With the reason.
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

/// The file. Dropped without [`FuseFile::unmount`], it is taken down as well as can be.
#[derive(Debug)]
pub struct FuseFile {
    nbdkit: Option<Child>,
    nbdfuse: Child,
    dir: PathBuf,
}

impl FuseFile {
    /// An export as a file, below `dir`. fuse2fs writes pieces that are no whole sectors, which
    /// an array refuses: nbdkit makes them whole, where it has the parts for that.
    ///
    /// # Errors
    /// When one of the programs is missing, fails, or is not ready in time.
    pub fn of_export(oracle: &Oracle, uri: &str, dir: &Path) -> Result<FuseFile> {
        let parts = oracle
            .nbdkit_filter("blocksize")
            .and_then(|filter| Ok((filter, oracle.nbdkit_plugin("nbd")?)));
        let Ok((filter, plugin)) = parts else {
            return FuseFile::mount(oracle, None, uri, dir, Stdio::inherit);
        };
        let args = [
            OsString::from("--filter"),
            filter.into(),
            plugin.into(),
            format!("uri={uri}").into(),
            "minblock=512".into(),
        ];
        FuseFile::through(oracle, &args, dir, Stdio::inherit)
    }

    /// An image as a file, below `dir`, whose operations named in `operations` (`pwrite`, see
    /// nbdkit-error-filter(1)) fail with EIO while the file `trigger` is there; others do not.
    ///
    /// # Errors
    /// When one of the programs is missing, fails, or is not ready in time.
    pub fn failing(
        oracle: &Oracle,
        image: &Path,
        trigger: &Path,
        operations: &[&str],
        dir: &Path,
    ) -> Result<FuseFile> {
        let mut args = vec![
            OsString::from("--filter"),
            oracle.nbdkit_filter("error")?.into(),
            oracle.nbdkit_plugin("file")?.into(),
            image.into(),
            format!("error-file={}", trigger.display()).into(),
        ];
        for operation in operations {
            args.push(format!("error-{operation}=EIO").into());
            args.push(format!("error-{operation}-rate=100%").into());
        }
        // What they would say is the errors that they were asked for.
        FuseFile::through(oracle, &args, dir, Stdio::null)
    }

    /// nbdkit with these arguments, and nbdfuse before it; `words` is where they complain.
    fn through(
        oracle: &Oracle,
        args: &[OsString],
        dir: &Path,
        words: fn() -> Stdio,
    ) -> Result<FuseFile> {
        let socket = dir.join("nbdkit.sock");
        let mut command = oracle.command("nbdkit")?;
        command.args(["--foreground", "--unix"]).arg(&socket);
        command.args(args).stderr(words());
        let mut nbdkit = command.spawn().context("cannot start nbdkit")?;
        let limit = Instant::now() + LIMIT;
        while !socket.exists() {
            if let Some(status) = nbdkit.try_wait()? {
                bail!("nbdkit ended with {status}");
            }
            ensure!(Instant::now() < limit, "nbdkit is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        FuseFile::mount(oracle, Some(nbdkit), &uri, dir, words)
    }

    fn mount(
        oracle: &Oracle,
        nbdkit: Option<Child>,
        uri: &str,
        dir: &Path,
        words: fn() -> Stdio,
    ) -> Result<FuseFile> {
        let dir = dir.join("nbdfuse");
        fs::create_dir(&dir)?;
        let mut command = oracle.command("nbdfuse")?;
        command.arg(&dir).arg(uri);
        command.stdout(Stdio::null()).stderr(words());
        let nbdfuse = command.spawn().context("cannot start nbdfuse")?;
        let mut file = FuseFile {
            nbdkit,
            nbdfuse,
            dir,
        };
        let limit = Instant::now() + LIMIT;
        while !file.path().is_file() {
            file.alive()?;
            ensure!(Instant::now() < limit, "nbdfuse is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(file)
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.join("nbd")
    }

    /// Fails when nbdfuse has ended.
    ///
    /// # Errors
    /// With how it ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.nbdfuse.try_wait()? {
            Some(status) => bail!("nbdfuse ended with {status}"),
            None => Ok(()),
        }
    }

    /// Unmounts, and waits until everything has been written.
    ///
    /// # Errors
    /// When unmounting fails.
    pub fn unmount(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        if self.nbdfuse.try_wait()?.is_none() {
            unmount(&self.dir)?;
            self.nbdfuse.wait()?;
        }
        if let Some(mut nbdkit) = self.nbdkit.take() {
            nbdkit.kill()?; // Whatever it took has reached the other side.
            nbdkit.wait()?;
        }
        Ok(())
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        // A test that failed before has said why; leave no mount behind if it can be helped.
        if self.take_down().is_err() {
            let _ = self.nbdfuse.kill();
            let _ = self.nbdfuse.wait();
            let _ = unmount(&self.dir);
        }
        if let Some(mut nbdkit) = self.nbdkit.take() {
            let _ = nbdkit.kill();
            let _ = nbdkit.wait();
        }
    }
}

/// Unmounts what is mounted at a folder.
///
/// # Errors
/// With what each of the tools said.
pub fn unmount(path: &Path) -> Result<()> {
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
