//! Who may write to an array that is served, kept beyond the life of the daemon.
//!
//! ```text
//!   NBD handshake, control API --demand--> table --changed--> STATE/reservations/WHICH.json
//!                                            |                    (whole or not at all, synced)
//!                                            '-- nothing of the victim is under way --> answer
//! ```
//!
//! STATE is that of `scrubs`. WHICH is the array's UUID, or its name where no superblock has one. A
//! server that forgot who was cut off would let them write: where nothing can be kept nothing is
//! promised, and a file that makes no sense keeps its array from being started.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use umd_export::nbd::{Demand, Denied, Refused, ReservationState, Reservations, parse_key};
use umd_format::Uuid;

use super::open::How;
use super::scrubs;

/// How long writes that are under way are waited for: less than a client waits in its handshake.
const PATIENCE: Duration = Duration::from_secs(8);
/// The form of the file.
const FORM: u32 = 1;
/// So many ask over NBD at a time.
const WAITING_MAX: usize = 64;

/// The whole file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    schema: u32,
    reserved: bool,
    /// Keys are written as clients give them: numbers of JSON are not that large.
    registered: Vec<String>,
    preempted: Vec<String>,
}

/// Keys as they are written.
pub fn words(keys: &BTreeSet<u64>) -> Vec<String> {
    keys.iter().map(|key| format!("{key:x}")).collect()
}

fn keys(words: &[String]) -> Option<BTreeSet<u64>> {
    words.iter().map(|word| parse_key(word)).collect()
}

impl Kept {
    fn of(state: &ReservationState) -> Kept {
        Kept {
            schema: FORM,
            reserved: state.reserved,
            registered: words(&state.registered),
            preempted: words(&state.preempted),
        }
    }

    fn state(&self) -> Option<ReservationState> {
        (self.schema == FORM).then_some(())?;
        Some(ReservationState {
            registered: keys(&self.registered)?,
            preempted: keys(&self.preempted)?,
            reserved: self.reserved,
        })
    }
}

/// The table of an array, and where it is kept.
#[derive(Debug)]
pub struct Reserved {
    table: Reservations,
    path: PathBuf,
    /// Held while something is changed, so that changes are kept in the order in which they were
    /// made.
    saved: Mutex<Saved>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Saved {
    /// What stands in the file.
    state: ReservationState,
    /// The array has stopped: whoever starts it next reads the file, and has it alone.
    over: bool,
}

/// The table of an array that is about to be served, under its UUID or under its name. An array
/// that its cluster runs has none: each of its hosts is a way in, and would keep out its own
/// clients only. Nor is there one where no place is to keep it.
///
/// # Errors
/// When what is kept of it cannot be used.
pub fn of(name: &str, uuid: Option<Uuid>, how: &How) -> Result<Option<Arc<Reserved>>, String> {
    let Some(dir) = scrubs::state_dir().filter(|_| how.cluster.is_none()) else {
        return Ok(None);
    };
    let which = match uuid {
        Some(uuid) => uuid.canonical(),
        None => format!("name-{name}"),
    };
    Reserved::open(&dir, &which).map(|one| Some(Arc::new(one)))
}

impl Reserved {
    /// That of an array, as it was left.
    ///
    /// # Errors
    /// When it cannot be read, or makes no sense.
    pub fn open(dir: &Path, which: &str) -> Result<Reserved, String> {
        let path = dir.join("reservations").join(format!("{which}.json"));
        let shown = path.display();
        let state = match fs::read_to_string(&path) {
            Ok(text) => {
                let kept = serde_json::from_str::<Kept>(&text).ok();
                kept.and_then(|kept| kept.state()).ok_or_else(|| {
                    format!(
                        "{shown} says who may write to this array, and is not understood: see that \
                         no host of a cluster uses it, and remove that file"
                    )
                })?
            }
            Err(error) if is_nowhere(&path, &error) => ReservationState::default(),
            Err(error) => {
                return Err(format!(
                    "{shown}, which says who may write to this array, cannot be read: {error}"
                ));
            }
        };
        Ok(Reserved {
            table: Reservations::restored(state.clone()),
            path,
            saved: Mutex::new(Saved { state, over: false }),
            waiting: AtomicUsize::new(0),
        })
    }

    /// The table, for the connections of the array.
    pub fn table(&self) -> Reservations {
        self.table.clone()
    }

    /// Who may write.
    pub fn state(&self) -> ReservationState {
        self.table.state()
    }

    /// Whether it says anything.
    pub fn is_used(&self) -> bool {
        self.state() != ReservationState::default()
    }

    /// How many writes were refused since the array was started.
    pub fn refused(&self) -> u64 {
        self.table.refused()
    }

    /// Does what is asked. When it returns well that outlives this process. Waits: not for a thread
    /// that must not block.
    ///
    /// # Errors
    /// When it is refused, cannot be kept, or writes that are to end first do not: it is to be
    /// asked again then.
    pub fn meet(&self, demand: Demand) -> Result<(), Denied> {
        let first = self.change(|table| table.meet(demand, Duration::ZERO))?;
        match first {
            Err(Refused::Writing(_)) => self.wait(demand),
            other => other.map_err(Denied::from),
        }
    }

    /// A place among those who ask, until what is returned is dropped: for who comes over NBD, and
    /// may come as often as it likes.
    ///
    /// # Errors
    /// When there is none left.
    pub fn place(self: &Arc<Self>) -> Result<Place, Denied> {
        let before = self.waiting.fetch_add(1, Ordering::SeqCst);
        let place = Place(self.clone());
        match before < WAITING_MAX {
            true => Ok(place),
            false => Err(Denied::Failed(
                "too many ask at the same time; ask again".into(),
            )),
        }
    }

    /// Forgets everything, whoever may be left that wants to write.
    ///
    /// # Errors
    /// When that cannot be kept.
    pub fn clear(&self) -> Result<(), Denied> {
        self.change(Reservations::clear)
    }

    /// The array has stopped. Who asks still, or waits for what was under way, changes nothing any
    /// more: the file is that of whoever starts it next.
    pub fn close(&self) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.over = true;
    }

    /// Changes the table, and keeps what comes of it.
    fn change<T>(&self, change: impl FnOnce(&Reservations) -> T) -> Result<T, Denied> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if saved.over {
            return Err(Denied::Failed("the array has stopped".into()));
        }
        let changed = change(&self.table);
        let state = self.table.state();
        // Also what could not be kept when it was changed.
        if saved.state != state {
            write(&self.path, &Kept::of(&state)).map_err(|error| {
                let path = self.path.display();
                Denied::Failed(format!("{path} cannot be written: {error}"))
            })?;
            saved.state = state;
        }
        Ok(changed)
    }

    /// It is kept; what is under way has to end.
    fn wait(&self, demand: Demand) -> Result<(), Denied> {
        let waited = self.table.meet(demand, PATIENCE);
        // It asked for the same once more, of a table that others may have changed meanwhile.
        self.change(|_| ())?;
        waited.map_err(Denied::from)
    }
}

/// Somebody asks a table.
#[derive(Debug)]
pub struct Place(Arc<Reserved>);

impl Place {
    /// [`Reserved::meet`].
    ///
    /// # Errors
    /// As there.
    pub fn meet(&self, demand: Demand) -> Result<(), Denied> {
        self.0.meet(demand)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether there is no such file, nor can there be one: some users' home is no directory, or that
/// of somebody else.
fn is_nowhere(path: &Path, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        io::ErrorKind::PermissionDenied => {
            let dir = path.parent().expect("it is in a directory");
            let seen = fs::metadata(dir).map(drop);
            seen.is_err_and(|why| why.kind() == io::ErrorKind::PermissionDenied)
        }
        _ => false,
    }
}

/// Writes the file whole or not at all; on return it is on the disk.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let dir = path.parent().expect("it is in a directory");
    fs::create_dir_all(dir)?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    file.write_all(serde_json::to_string_pretty(kept)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()?;
    // It may have been made just now, and what it is in: a power cut must not take it away.
    for above in dir.ancestors().skip(1).take(2) {
        if let Ok(above) = File::open(above) {
            above.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FENCE: Demand = Demand::PreemptAbort { key: 1, victim: 2 };

    fn open(dir: &Path) -> Reserved {
        Reserved::open(dir, "one").unwrap()
    }

    #[test]
    fn who_was_cut_off_stays_so_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path());
        for demand in [Demand::Register(1), Demand::Register(2), Demand::Reserve(1)] {
            first.meet(demand).unwrap();
        }
        let both = open(dir.path()).state();
        assert!(both.reserved && both.registered == [1, 2].into());
        first.meet(FENCE).unwrap();
        // Nothing was said to it: it was killed.
        let next = open(dir.path());
        assert_eq!(next.state(), first.state());
        let again = next.meet(Demand::Register(2)).unwrap_err();
        assert!(matches!(again, Denied::Refused(_)), "{again:?}");
        let other = Reserved::open(dir.path(), "two").unwrap();
        assert_eq!(other.state(), ReservationState::default());
        next.clear().unwrap();
        assert_eq!(open(dir.path()).state(), ReservationState::default());
    }

    #[test]
    fn who_asks_for_an_array_that_has_stopped_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path());
        first.meet(Demand::Register(1)).unwrap();
        first.close();
        let next = open(dir.path());
        next.meet(Demand::Register(2)).unwrap();
        let late = first.meet(Demand::Register(3)).unwrap_err();
        assert!(late.text().contains("has stopped"), "{late:?}");
        assert!(first.clear().is_err());
        assert_eq!(open(dir.path()).state().registered, [1, 2].into());
    }

    #[test]
    fn so_many_ask_at_a_time_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let table = Arc::new(open(dir.path()));
        let mut places: Vec<Place> = (0..WAITING_MAX).map(|_| table.place().unwrap()).collect();
        for _ in 0..2 {
            assert!(table.place().unwrap_err().text().contains("too many"));
        }
        places.pop();
        table.place().unwrap().meet(Demand::Register(1)).unwrap();
        table.place().unwrap();
    }

    /// The home of somebody else: arrays start, and nothing is promised.
    #[test]
    fn a_place_that_cannot_be_entered_is_an_empty_table() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(home.join("reservations")).unwrap();
        let path = home.join("reservations/one.json");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(!is_nowhere(&path, &denied), "the file is somebody else's");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o000)).unwrap();
        // Root enters everywhere.
        if fs::metadata(home.join("reservations")).is_err() {
            assert!(is_nowhere(&path, &denied));
            assert_eq!(open(&home).state(), ReservationState::default());
        }
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn what_is_not_kept_is_not_done() {
        let dir = tempfile::tempdir().unwrap();
        let table = open(dir.path());
        // A file where the directory is to be.
        fs::write(dir.path().join("reservations"), "").unwrap();
        assert_eq!(open(dir.path()).state(), ReservationState::default());
        for _ in 0..2 {
            let denied = table.meet(Demand::Register(1)).unwrap_err();
            assert!(denied.text().contains("cannot be written"), "{denied:?}");
        }
        fs::remove_file(dir.path().join("reservations")).unwrap();
        // It changes nothing now, and is kept all the same.
        table.meet(Demand::Register(1)).unwrap();
        assert_eq!(open(dir.path()).state().registered, [1].into());
    }

    #[test]
    fn a_file_that_makes_no_sense_is_no_empty_table() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("reservations")).unwrap();
        let path = dir.path().join("reservations/one.json");
        let good = Kept::of(&ReservationState::default());
        let good = serde_json::to_string(&good).unwrap();
        let key = good.replace("\"registered\":[]", "\"registered\":[\"0\"]");
        let newer = good.replace("\"schema\":1", "\"schema\":9");
        assert!(key != good && newer != good);
        for bad in ["", "{}", &key, &newer] {
            fs::write(&path, bad).unwrap();
            let why = Reserved::open(dir.path(), "one").unwrap_err();
            assert!(
                why.contains("one.json") && why.contains("not understood"),
                "{why}"
            );
        }
        fs::write(&path, good).unwrap();
        open(dir.path());
    }
}
