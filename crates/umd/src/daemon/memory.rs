//! What runs, written down for the next daemon: after SIGKILL it goes on with the same arrays, and
//! with `--keep` it does so after every end.
//!
//! ```text
//!   operation done, event --remember--> DIR/arrays.json (whole or not at all: rename)
//!                                            |
//!      killed; or told to go, with --keep    |   stopped by a person, or told to go: taken out
//!                                            v
//!   next daemon, before it opens any door: assembles each again, as anybody would; three failures
//!   in a row, and the array is left to a person. Another boot of the machine: all forgotten.
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use umd_core::array::{ArrayState, MemberRole};
use umd_disk::Engine;

use super::array::{Handle, Snapshot};
use super::household::{Answer, Household};
use super::opening::DoorOptions;
use crate::api::{AssembleRequest, ErrorDoc, SCHEMA, StartedDoc};
use crate::cli::outcome::say;

/// How often an array is tried again before it is left to a person.
const TRIES_MAX: u32 = 3;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The whole file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    schema: u32,
    /// The boot of the machine that this is about.
    boot: String,
    arrays: Vec<KeptArray>,
    /// Further doors that a daemon had open when it was killed: clients look for it there.
    #[serde(default)]
    doors: DoorOptions,
}

/// An array that ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KeptArray {
    /// How to start it again.
    request: AssembleRequest,
    /// How often that has failed.
    tries: u32,
    /// It was stopped with a daemon that keeps: only another one that does starts it again.
    rests: bool,
    /// It was becoming one of a cluster, or a plain one again: how it is started if it is that by
    /// now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cut_short: Option<AssembleRequest>,
}

impl KeptArray {
    /// How to start it, and how to start it otherwise. As it ran first: what it was to become it
    /// is only if its members say so, and then they refuse to be what they were.
    fn ways(&self) -> Vec<AssembleRequest> {
        let mut first = self.request.clone();
        // Between two engines nothing was known of its members.
        if let Some(other) = self.cut_short.as_ref().filter(|_| first.devices.is_empty()) {
            first.devices.clone_from(&other.devices);
        }
        let other = self.cut_short.clone();
        std::iter::once(first).chain(other).collect()
    }
}

/// Where it is written, and what was written last.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    written: String,
    /// Arrays that could not be started again or rest, and may be the next time.
    failed: Vec<KeptArray>,
    doors: DoorOptions,
    /// Nothing is written any more.
    sealed: bool,
}

impl Memory {
    /// A memory in this file, which may be there already.
    pub fn at(path: &Path) -> Memory {
        Memory {
            path: path.to_owned(),
            state: Mutex::new(State::default()),
        }
    }

    /// What stands there now is what the next daemon starts with that keeps, too.
    pub fn seal(&self) {
        let mut kept = self.read();
        kept.arrays.iter_mut().for_each(|one| one.rests = true);
        let mut state = self.lock();
        state.sealed = true;
        state.doors = DoorOptions::default(); // Who starts it again says where it is to serve.
        self.put(&mut state, kept.arrays);
    }

    /// Whether a daemon was killed and has left arrays here that wait for the next one.
    pub fn orphans(&self) -> bool {
        self.read().arrays.iter().any(|one| !one.rests)
    }

    /// Where a daemon that was killed served, besides its own socket.
    pub fn doors(&self) -> DoorOptions {
        self.read().doors
    }

    /// What is written down of that from now on.
    pub fn keep_doors(&self, doors: DoorOptions) {
        self.lock().doors = doors;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    /// What the last daemon left; nothing if that was before the machine was started.
    fn read(&self) -> Kept {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    say(&format!("cannot read {}: {error}", self.path.display()));
                }
                return Kept::default();
            }
        };
        match serde_json::from_str::<Kept>(&text) {
            Ok(kept) if kept.schema == SCHEMA && kept.boot == boot() => kept,
            Ok(_) => Kept::default(),
            Err(error) => {
                let path = self.path.display();
                say(&format!(
                    "{path} is not understood ({error}): no array is started from it"
                ));
                Kept::default()
            }
        }
    }

    fn write(&self, running: Vec<(AssembleRequest, Option<AssembleRequest>)>) {
        let mut state = self.lock();
        if state.sealed {
            return;
        }
        let again = |one: &KeptArray| !running.iter().any(|(run, _)| run.uuid == one.request.uuid);
        state.failed.retain(again);
        let running = running.into_iter();
        let mut arrays: Vec<KeptArray> = running
            .map(|(request, cut_short)| KeptArray {
                request,
                tries: 0,
                rests: false,
                cut_short,
            })
            .collect();
        arrays.extend(state.failed.iter().cloned());
        self.put(&mut state, arrays);
    }

    fn put(&self, state: &mut State, arrays: Vec<KeptArray>) {
        let text = match arrays.is_empty() {
            true => String::new(),
            false => serde_json::to_string_pretty(&Kept {
                schema: SCHEMA,
                boot: boot(),
                arrays,
                doors: state.doors.clone(),
            })
            .expect("it is made of strings and numbers"),
        };
        if text == state.written {
            return;
        }
        match replace(&self.path, &text) {
            Ok(()) => state.written = text,
            Err(error) => say(&format!(
                "cannot write {}: {error}; should this daemon be killed, the next one starts \
                 other arrays than those that run now",
                self.path.display()
            )),
        }
    }
}

/// Puts `text` in place of the file's, whole; nothing means no file.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if text.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let new = path.with_extension("new");
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    fs::rename(&new, path)
}

fn boot() -> String {
    let text = fs::read_to_string(BOOT_ID).unwrap_or_default();
    text.trim().to_owned()
}

/// How to start a running array again; nothing for one that cannot be.
pub fn request(name: &str, handle: &Handle, snapshot: &Snapshot) -> Option<AssembleRequest> {
    let (status, how) = (&snapshot.status, handle.how());
    // Without superblocks nothing says in which order; in memory nothing is left.
    if !status.format.is_stored() || how.engine == Engine::Memory {
        return None;
    }
    let members = status.members.iter();
    let members = members.filter(|member| member.role != MemberRole::Faulty);
    Some(AssembleRequest {
        name: Some(name.to_owned()),
        uuid: Some(umd_format::Uuid(status.uuid).to_string()),
        devices: members.map(|member| member.name.clone()).collect(),
        readonly: status.state == ArrayState::ReadOnly,
        bitmap_file: status.bitmap.as_ref().and_then(|one| one.file.clone()),
        overlay: how.overlay.as_ref().map(|dir| dir.display().to_string()),
        io_engine: Some(how.engine.to_string()),
        faults: how.faults.clone(),
        cluster: how.cluster.clone(),
        ..AssembleRequest::default()
    })
}

impl Household {
    /// Writes down what runs, if this household has a memory.
    pub async fn remember(&self) {
        let Some(memory) = self.memory.get() else {
            return;
        };
        let mut running = Vec::new();
        for (name, handle) in self.registry.all() {
            if let Ok(snapshot) = handle.look().await {
                let request = request(&name, &handle, &snapshot);
                running.extend(request.map(|request| (request, handle.cut_short())));
            }
        }
        memory.write(running);
    }

    /// Writes down what runs whenever something has happened to an array, for ever.
    pub async fn keep_remembering(&self) {
        use tokio::sync::broadcast::error::RecvError;
        let mut events = self.events.subscribe();
        loop {
            match events.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => self.remember().await,
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Starts an array in the first of these ways that can be; otherwise says why not in the last.
    async fn assemble_either(
        self: &std::sync::Arc<Self>,
        ways: Vec<AssembleRequest>,
    ) -> Answer<StartedDoc> {
        let mut outcome = Err(ErrorDoc::new("nobody knows how"));
        for way in ways {
            outcome = self.assemble(way).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Starts again what ran when the last daemon was killed; with `keep`, also what rests since
    /// one was told to go. Arrays with a device of `leave` somebody is about to start otherwise.
    ///
    /// Returns what there is to say about it.
    pub async fn restore(
        self: &std::sync::Arc<Self>,
        memory: Memory,
        keep: bool,
        leave: &[String],
    ) -> Vec<String> {
        let mut said = Vec::new();
        let other = |one: &KeptArray| !one.request.devices.iter().any(|d| leave.contains(d));
        let kept = memory.read().arrays.into_iter().filter(other);
        let (resting, kept): (Vec<KeptArray>, Vec<KeptArray>) =
            kept.partition(|one| one.rests && !keep);
        let memory = self.memory.get_or_init(|| memory);
        // Counted before it is tried: an array that takes the process along is tried three times.
        let tried = |one: &KeptArray| KeptArray {
            tries: one.tries + 1,
            rests: false,
            ..one.clone()
        };
        memory.lock().failed = resting.into_iter().chain(kept.iter().map(tried)).collect();
        memory.write(Vec::new());
        for one in kept {
            let name = one.request.name.clone().unwrap_or_default();
            match self.assemble_either(one.ways()).await {
                Ok(done) => said.extend(done.messages),
                Err(error) => {
                    said.extend(error.messages);
                    let left = one.tries + 1 >= TRIES_MAX;
                    if left {
                        let mut state = memory.lock();
                        state
                            .failed
                            .retain(|old| old.request.uuid != one.request.uuid);
                    }
                    said.push(format!(
                        "{name} ran until the last daemon was killed, and cannot be started \
                         again: {}{}",
                        error.error,
                        if left { "; it is left to you" } else { "" }
                    ));
                }
            }
        }
        self.remember().await;
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str) -> AssembleRequest {
        AssembleRequest {
            name: Some(name.to_owned()),
            uuid: Some(name.to_owned()),
            ..AssembleRequest::default()
        }
    }

    #[test]
    fn what_runs_is_read_again_and_nothing_leaves_no_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("arrays.json");
        let memory = Memory::at(&path);
        memory.write(vec![(request("a"), None), (request("b"), None)]);
        let kept = Memory::at(&path).read().arrays;
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[1].request, request("b"));
        memory.write(Vec::new());
        assert!(!path.exists());
    }

    #[test]
    fn doors_are_kept_for_the_one_after_a_kill_only() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("arrays.json");
        let memory = Memory::at(&path);
        let doors = DoorOptions {
            nbd: vec!["tcp:127.0.0.1:10809".into()],
            token_file: Some("/etc/umd/token".into()),
            ..DoorOptions::default()
        };
        memory.keep_doors(doors.clone());
        memory.write(vec![(request("a"), None)]);
        assert_eq!(Memory::at(&path).doors(), doors);
        memory.seal();
        assert_eq!(Memory::at(&path).doors(), DoorOptions::default());
    }

    #[test]
    fn a_sealed_memory_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("arrays.json");
        let memory = Memory::at(&path);
        memory.write(vec![(request("a"), None)]);
        assert!(memory.orphans());
        memory.seal();
        memory.write(Vec::new());
        let again = Memory::at(&path);
        assert_eq!(again.read().arrays.len(), 1);
        assert!(!again.orphans(), "they wait for a daemon that keeps");
    }

    #[test]
    fn another_boot_and_nonsense_are_not_started_from() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("arrays.json");
        let memory = Memory::at(&path);
        memory.write(vec![(request("a"), None)]);
        let text = fs::read_to_string(&path).expect("reads");
        fs::write(&path, text.replace(&boot(), "another")).expect("writes");
        assert_eq!(memory.read(), Kept::default());
        fs::write(&path, &text[..text.len() / 2]).expect("writes");
        assert_eq!(memory.read(), Kept::default());
    }

    #[test]
    fn what_was_cut_short_is_started_as_it_ran_or_as_it_was_to_become() {
        let other = AssembleRequest {
            update: Some("cluster=hall".into()),
            ..request("a")
        };
        let mut kept = KeptArray {
            request: request("a"),
            tries: 0,
            rests: false,
            cut_short: Some(other.clone()),
        };
        assert_eq!(kept.ways(), [request("a"), other.clone()]);
        kept.request.devices.clear();
        assert_eq!(kept.ways(), [request("a"), other]);
        kept.cut_short = None;
        assert!(kept.ways()[0].devices.is_empty() && kept.ways().len() == 1);
    }

    #[test]
    fn what_failed_is_kept_until_it_runs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("arrays.json");
        let memory = Memory::at(&path);
        memory.lock().failed = vec![KeptArray {
            request: request("a"),
            tries: 1,
            rests: false,
            cut_short: None,
        }];
        memory.write(vec![(request("b"), None)]);
        let tries: Vec<u32> = memory.read().arrays.iter().map(|one| one.tries).collect();
        assert_eq!(tries, [0, 1]);
        memory.write(vec![(request("a"), None), (request("b"), None)]);
        assert!(memory.read().arrays.iter().all(|one| one.tries == 0));
    }
}
