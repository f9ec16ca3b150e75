//! Drives the real `umd` binary as a user would, and NBD clients against what it serves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::oracle::{Oracle, skipped};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const UNTIL_LIMIT: Duration = Duration::from_secs(60);

/// A path as an argument.
///
/// # Panics
/// When it is not UTF-8; those of tests are.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// The binary, with a runtime directory of its own. Dropped, it stops its arrays.
#[derive(Debug)]
pub struct Umd {
    bin: PathBuf,
    runtime: TempDir,
    /// A command that runs it somewhere else.
    within: Vec<String>,
}

impl Umd {
    /// Uses `UMD_BIN`, or says loudly that `test` is skipped.
    ///
    /// # Panics
    /// When the binary is missing and the environment has `CI=true`.
    pub fn or_skip(test: &str) -> Option<Umd> {
        let bin = std::env::var_os("UMD_BIN")
            .map(PathBuf::from)
            .filter(|bin| bin.is_file());
        let Some(bin) = bin else {
            skipped(
                test,
                "UMD_BIN names no umd binary; `cargo xtask interop` builds one",
            );
            return None;
        };
        let bin = std::path::absolute(bin).expect("it is a file, so its path is not empty");
        let runtime = tempfile::Builder::new().prefix("umd-run").tempdir();
        Some(Umd {
            bin,
            runtime: runtime.expect("the temporary folder can be written"),
            within: Vec::new(),
        })
    }

    /// The same, but each command of it, and the daemon that it starts, is run by this one, which
    /// gets the program and its arguments.
    pub fn within(mut self, command: Vec<String>) -> Umd {
        self.within = command;
        self
    }

    /// The directory of the daemon's sockets.
    pub fn runtime_dir(&self) -> &Path {
        self.runtime.path()
    }

    /// A command of the binary, with no standard input. Messages are asked for in plain form.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.within.split_first() {
            None => Command::new(&self.bin),
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(&self.bin);
                command
            }
        };
        command
            .args(args)
            .arg("--runtime-dir")
            .arg(self.runtime.path());
        // What umd remembers of arrays is no business of the machine.
        command.env("XDG_STATE_HOME", self.runtime.path());
        command.env("XDG_CONFIG_HOME", self.runtime.path());
        command.stdin(Stdio::null()).env("LC_ALL", "C");
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn output(&self, args: &[&str]) -> Result<Output> {
        // Through files: a daemon started by the command may keep its descriptors.
        let (stdout, stderr) = (
            tempfile::NamedTempFile::new()?,
            tempfile::NamedTempFile::new()?,
        );
        let mut command = self.command(args);
        command.stdout(stdout.reopen()?).stderr(stderr.reopen()?);
        let status = command.status().context("cannot start umd")?;
        Ok(Output {
            status,
            stdout: fs::read(stdout.path())?,
            stderr: fs::read(stderr.path())?,
        })
    }

    /// Runs a command that must succeed; returns its standard output.
    ///
    /// # Errors
    /// When it fails; the message carries what it said.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args)?;
        ensure!(
            output.status.success(),
            "umd {} ended with {}: {}{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `umd serve NAME members... --nbd unix:...`: returns when clients can connect.
    ///
    /// # Errors
    /// When it ends before that, or is not ready in time.
    pub fn serve<P: AsRef<Path>>(
        &self,
        name: &str,
        members: &[P],
        options: &[&str],
    ) -> Result<Served> {
        let dir = tempfile::Builder::new().prefix("umd-nbd").tempdir()?;
        let socket = dir.path().join("s");
        let log = dir.path().join("log");
        let mut command = self.command(&["serve", name]);
        command
            .args(members.iter().map(AsRef::as_ref))
            .args(options);
        command
            .arg("--nbd")
            .arg(format!("unix:{}", socket.display()));
        let file = fs::File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("cannot start umd")?;
        let mut served = Served {
            child,
            socket,
            log,
            name: name.into(),
            _dir: dir,
        };
        served.wait_ready()?;
        Ok(served)
    }

    /// What `umd detail --json` says of an array.
    ///
    /// # Errors
    /// When there is no such array.
    pub fn detail(&self, name: &str) -> Result<Value> {
        let document: Value = serde_json::from_str(&self.ok(&["detail", "--json", name])?)?;
        Ok(document["arrays"][0].clone())
    }

    /// What `umd examine --json` says of a member's superblock.
    ///
    /// # Errors
    /// When it has none.
    pub fn superblock(&self, member: &Path) -> Result<Value> {
        let document = self.ok(&["examine", "--json", text(member)])?;
        let document: Value = serde_json::from_str(&document)?;
        Ok(document["devices"][0]["superblock"].clone())
    }

    /// Waits until `detail` says what is wanted of an array.
    ///
    /// # Errors
    /// When it does not for a minute; the message carries what it said last.
    pub fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let begin = Instant::now();
        loop {
            let array = self.detail(name)?;
            if wanted(&array) {
                return Ok(array);
            }
            ensure!(
                begin.elapsed() < UNTIL_LIMIT,
                "{name} stayed as it is: {array}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the daemon that runs an array as a crash of it would: SIGKILL. The next command starts
    /// another one with the same arrays.
    ///
    /// # Errors
    /// When there is none, or it does not go.
    pub fn crash_daemon(&self, name: &str) -> Result<()> {
        let pid = self.detail(name)?["pid"].as_i64();
        let pid = pid.and_then(|pid| Pid::from_raw(pid as i32));
        let pid = pid.context("no daemon runs the array")?;
        kill_process(pid, Signal::KILL)?;
        let begin = Instant::now();
        while test_kill_process(pid).is_ok() {
            ensure!(begin.elapsed() < STOP_LIMIT, "process {pid:?} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends the daemon that runs an array as a crash of the machine would: no later command goes on
    /// with its arrays.
    ///
    /// # Errors
    /// When there is none, or it does not go.
    pub fn kill_daemon(&self, name: &str) -> Result<()> {
        self.crash_daemon(name)?;
        match std::fs::remove_file(self.runtime.path().join("arrays.json")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The address of an array of the daemon, for NBD clients.
    pub fn daemon_uri(&self, name: &str) -> String {
        format!(
            "nbd+unix:///{name}?socket={}",
            self.runtime.path().join("nbd.sock").display()
        )
    }
}

impl Drop for Umd {
    fn drop(&mut self) {
        // Nothing to stop is no failure, and a test that failed has said why.
        let _ = self.output(&["stop", "--scan"]);
    }
}

/// A `umd serve` that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Served {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    name: String,
    _dir: TempDir,
}

impl Served {
    fn wait_ready(&mut self) -> Result<()> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "umd serve {} ended with {status}: {}",
                    self.name,
                    self.messages()
                );
            }
            if std::os::unix::net::UnixStream::connect(&self.socket).is_ok() {
                return Ok(());
            }
            ensure!(
                Instant::now() < limit,
                "umd serve is not ready: {}",
                self.messages()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The address for NBD clients.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.name, self.socket.display())
    }

    /// The path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The name of the array, which is the name of the export.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it printed so far.
    pub fn messages(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end (SIGTERM) and checks that it ends cleanly.
    ///
    /// # Errors
    /// When it ends with an error or not in time.
    pub fn stop(mut self) -> Result<()> {
        let status = self.end(Signal::TERM, STOP_LIMIT)?;
        ensure!(
            status.success(),
            "umd serve ended with {status}: {}",
            self.messages()
        );
        Ok(())
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.end(Signal::KILL, STOP_LIMIT).map(drop)
    }

    fn end(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a child has a process id")?, signal)?;
        let limit = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < limit,
                "umd serve does not end: {}",
                self.messages()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Size in bytes of an export, as nbdinfo sees it.
///
/// # Errors
/// When nbdinfo fails.
pub fn export_bytes(oracle: &Oracle, uri: &str) -> Result<u64> {
    let text = oracle.text("nbdinfo", &["--size", uri])?;
    text.trim()
        .parse()
        .with_context(|| format!("nbdinfo printed {text:?}"))
}

/// Copies an export into a file with nbdcopy.
///
/// # Errors
/// When nbdcopy fails.
pub fn copy_out(oracle: &Oracle, uri: &str, file: &Path) -> Result<()> {
    oracle
        .text("nbdcopy", &[uri, &file.to_string_lossy()])
        .map(drop)
}

/// Copies a file over an export with nbdcopy, and flushes.
///
/// # Errors
/// When nbdcopy fails.
pub fn copy_in(oracle: &Oracle, file: &Path, uri: &str) -> Result<()> {
    oracle
        .text("nbdcopy", &["--flush", &file.to_string_lossy(), uri])
        .map(drop)
}

/// Runs qemu-io commands on an export.
///
/// # Errors
/// When qemu-io fails; it also fails when one of the commands did.
pub fn qemu_io(oracle: &Oracle, uri: &str, commands: &[String]) -> Result<String> {
    let mut args = vec!["-f", "raw"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(uri);
    let text = oracle.text("qemu-io", &args)?;
    ensure!(!text.contains("failed"), "qemu-io said: {text}");
    Ok(text)
}
