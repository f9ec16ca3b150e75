//! When members were last compared, and what was found: kept beyond the life of the daemon.
//!
//! ```text
//!   RebuildStarted(check) ... RebuildFinished(check) --> STATE/scrubs/UUID.json, newest last
//! ```
//!
//! STATE is `$XDG_STATE_HOME/umd`, else /var/lib/umd for root, else ~/.local/state/umd. Where
//! nothing can be written the history lasts as long as the process; nothing else depends on it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::broadcast::error::RecvError;

use super::household::{Household, blocking};
use crate::cli::outcome::say;
use crate::doc::{ScrubDoc, Stamp};

/// So many are kept for each array.
const KEPT_MAX: usize = 64;

/// All scrubs that are known, by the array's UUID in its canonical form.
#[derive(Debug, Default)]
pub struct Scrubs {
    dir: Option<PathBuf>,
    known: Mutex<BTreeMap<String, Vec<ScrubDoc>>>,
}

/// Where things are kept for this user.
pub(super) fn state_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let absolute = |dir: &PathBuf| dir.is_absolute();
    if let Some(dir) = set("XDG_STATE_HOME").filter(absolute) {
        return Some(dir.join("umd"));
    }
    match rustix::process::geteuid().is_root() {
        true => Some("/var/lib/umd".into()),
        false => Some(set("HOME").filter(absolute)?.join(".local/state/umd")),
    }
}

impl Scrubs {
    /// Those of this user.
    pub fn system() -> Scrubs {
        Scrubs::at(state_dir())
    }

    fn at(dir: Option<PathBuf>) -> Scrubs {
        Scrubs {
            dir: dir.map(|dir| dir.join("scrubs")),
            known: Mutex::default(),
        }
    }

    fn path(&self, uuid: &str) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(format!("{uuid}.json")))
    }

    /// The scrubs of an array, the newest last.
    pub fn of(&self, uuid: &str) -> Vec<ScrubDoc> {
        let mut known = self
            .known
            .lock()
            .expect("nobody panics while holding the list");
        if let Some(found) = known.get(uuid) {
            return found.clone();
        }
        let text = self
            .path(uuid)
            .and_then(|path| std::fs::read_to_string(path).ok());
        // A file that makes no sense is as good as none, and is written over.
        let found: Vec<ScrubDoc> = text
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        known.insert(uuid.to_owned(), found.clone());
        found
    }

    /// Remembers one more.
    ///
    /// # Errors
    /// When it cannot be written; it is remembered all the same.
    pub fn remember(&self, uuid: &str, one: ScrubDoc) -> io::Result<()> {
        let mut all = self.of(uuid);
        all.push(one);
        let first = all.len().saturating_sub(KEPT_MAX);
        all.drain(..first);
        self.known
            .lock()
            .expect("nobody panics while holding the list")
            .insert(uuid.to_owned(), all.clone());
        match self.path(uuid) {
            Some(path) => write(&path, &serde_json::to_string_pretty(&all)?),
            None => Ok(()),
        }
    }
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}

fn now() -> Stamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Stamp::new(since.map_or(0, |since| since.as_secs()))
}

/// Listens to what arrays do, and remembers their scrubs. Ends with the process.
pub async fn keep(household: Arc<Household>) {
    let mut events = household.events.subscribe();
    let mut begun: BTreeMap<String, Stamp> = BTreeMap::new();
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        let action = event.text.split(' ').next().unwrap_or_default();
        if !matches!(action, "check" | "repair") {
            continue;
        }
        match event.event.as_str() {
            "RebuildStarted" => {
                begun.insert(event.array.clone(), now());
            }
            "RebuildFinished" => {
                let ended = now();
                let started = begun.remove(&event.array).unwrap_or_else(|| ended.clone());
                let Ok(array) = household.detail(&event.array).await else {
                    continue; // It was stopped just now.
                };
                let one = ScrubDoc {
                    action: action.to_owned(),
                    started,
                    ended,
                    complete: event.text[action.len()..].starts_with(" done"),
                    mismatch_cnt: array.mismatch_cnt,
                };
                let own = household.clone();
                let work = move || {
                    if let Err(error) = own.scrubs.remember(&array.uuid_canonical, one) {
                        say(&format!("cannot keep the scrub history: {error}"));
                    }
                    Ok(())
                };
                let _ = blocking(work).await; // It cannot fail.
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_across_processes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let scrubs = Scrubs::at(Some(dir.path().join("state")));
        for number in 0..70 {
            let one = ScrubDoc {
                action: "check".into(),
                started: Stamp::new(number),
                ended: Stamp::new(number + 1),
                complete: true,
                mismatch_cnt: 0,
            };
            scrubs.remember("u", one).expect("writes");
        }
        let again = Scrubs::at(Some(dir.path().join("state")));
        let all = again.of("u");
        assert_eq!((all.len(), all[63].started.epoch), (KEPT_MAX, 69));
        assert!(again.of("other").is_empty());
        std::fs::write(dir.path().join("state/scrubs/u.json"), "{ no").expect("writes");
        let damaged = Scrubs::at(Some(dir.path().join("state")));
        assert!(damaged.of("u").is_empty());
    }
}
