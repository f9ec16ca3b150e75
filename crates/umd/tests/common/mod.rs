//! A household of its own for each test: a directory for images, one for sockets.

#![allow(dead_code)] // Every test file uses its part.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use umd_export::nbd::Address;
use umd_export::nbd::client::Client;

/// Longest a test waits for something that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Home {
    dir: TempDir,
}

/// What a command did.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The command must have worked.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The command must have failed like this; its words are returned.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.out, self.err
        );
        assert!(self.err.lines().count() >= 1, "a failure says why");
        self.err
    }

    /// The command must have ended so, with nothing or something to say.
    #[track_caller]
    pub fn fails_quietly(self, code: i32) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("a JSON document")
    }
}

impl Home {
    pub fn new() -> Home {
        Home {
            dir: tempfile::tempdir().expect("tempdir"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// The command, to be run in this household, in the directory of its images.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_umd"));
        command
            .args(line.split_whitespace())
            .current_dir(self.dir.path())
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    pub fn umd(&self, line: &str) -> Ran {
        fs::create_dir_all(self.runtime()).expect("runtime directory");
        Ran::of(self.command(line).output().expect("umd runs"))
    }

    pub fn spawn(&self, line: &str) -> Child {
        fs::create_dir_all(self.runtime()).expect("runtime directory");
        self.command(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("umd runs")
    }

    pub fn detail(&self, name: &str) -> Value {
        let document = self.umd(&format!("detail --json {name}")).ok().json();
        document["arrays"][0].clone()
    }

    /// A client at the array's first address.
    pub fn nbd(&self, name: &str) -> Client {
        let address = self.detail(name)["nbd"][0]
            .as_str()
            .expect("an address")
            .to_owned();
        let address: Address = address.parse().expect("an address");
        Client::connect(&address, name).expect("connects")
    }

    /// Waits until nothing is left to be rebuilt or resynced.
    pub fn settle(&self, name: &str) {
        let code = self.umd(&format!("wait {name}")).code;
        assert!(code <= 1, "wait {name}");
    }

    /// The bytes of every file in the image directory, as a fingerprint.
    pub fn hashes(&self) -> BTreeMap<String, (u64, u64)> {
        let files = fs::read_dir(self.dir.path()).expect("lists").flatten();
        files
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .map(|entry| {
                let bytes = fs::read(entry.path()).expect("reads");
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, (bytes.len() as u64, fnv(&bytes)))
            })
            .collect()
    }

    /// The daemon's process, if one answers.
    pub fn daemon_pid(&self) -> Option<u32> {
        let client = umd::client::Client::connect(&self.runtime().join("umd/control.sock"));
        client
            .expect("understood")
            .map(|client| client.version().pid)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.command("stop --scan --force").output();
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Waits until `ready` says so.
#[track_caller]
pub fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn inode(path: &std::path::Path) -> u64 {
    fs::metadata(path).expect("there").ino()
}

/// Tells a process to go.
pub fn terminate(child: &Child) {
    let pid = i32::try_from(child.id()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals");
}
