//! A filesystem that is full soon: a tmpfs of a few MiB, mounted in a mount namespace of our own.
//!
//! ```text
//!   test  --unshare-->  the same test again, which mounts, and sees a full disk
//!                       (root: a mount namespace; others: a user namespace around it)
//! ```
//!
//! Nothing stays behind: the mount is gone with the last process in the namespace.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::oracle::notice;

/// Set for the second run, to the folder to mount on.
const INSIDE: &str = "UMD_SMALL_FILESYSTEM";

/// Runs `inside` with the folder of an empty filesystem of `bytes` bytes. `test` is the test's own
/// name, by which it is run a second time.
///
/// # Panics
/// When the second run fails; what it said is printed.
pub fn with_small_filesystem(test: &str, bytes: u64, inside: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        let dir = PathBuf::from(dir);
        mount(&dir, bytes).expect("mounting was possible a moment ago");
        inside(&dir);
        return;
    }
    let dir = tempfile::tempdir().expect("the temporary folder can be written");
    let options = match namespace() {
        Ok(options) => options,
        Err(why) => {
            notice(&format!("SKIPPED {test}: {why:#}"));
            return;
        }
    };
    let program = std::env::current_exe().expect("a test has a program");
    let output = Command::new("unshare")
        .args(options)
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("unshare ran a moment ago");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{test} is no test: {said}");
}

/// The options with which `unshare` gives us a namespace where we may mount.
fn namespace() -> Result<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let mut said = String::new();
    for way in ways {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new("unshare");
        command.args(way).args(["mount", "-t", "tmpfs", "-o"]);
        command.args(["size=1m", "umd"]).arg(dir.path());
        let output = command.output().context("cannot run unshare")?;
        if output.status.success() {
            return Ok(way);
        }
        said.push_str(&String::from_utf8_lossy(&output.stderr));
    }
    anyhow::bail!("no filesystem can be mounted here: {}", said.trim())
}

fn mount(dir: &Path, bytes: u64) -> Result<()> {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "umd"])
        .arg(dir)
        .status()?;
    ensure!(status.success(), "mount ended with {status}");
    Ok(())
}
