//! Persistent reservations on the members of an array.
//!
//! ```text
//!   Load --> take: key and reservation on every member, or the node does not serve
//!   a disk that is opened later --> also: a key there, or it is not taken
//!     and it may be taken       --> hold: the reservation, by who adds it
//!     and it is let go          --> let_go
//!   Fence --> the members as they are then; a proof when all refuse the dead node's key
//!   left --> release
//! ```
//!
//! A device may keep whoever asks for as long as it likes, and nothing can end that. So each is
//! asked by a thread of its own, which is waited for as long as a device may take; until it has
//! ended nobody asks again for the same node, and other ways are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use umd_cluster::fence::{
    BlockDevice, Fencer, Namespace, NotFenced, Persistent, Reservations, Target, Wanted, is_nvme,
};
use umd_core::cluster::{FenceProof, Peer};

use crate::cli::outcome::say;
use crate::daemon::open::os_text;
use crate::member::{self, Keys, Served};

/// How long members may take to refuse somebody, before other ways are tried.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether anybody waits still.
const STEP: Duration = Duration::from_millis(50);

/// Opens what keeps registrations.
pub type Opener = fn(&str) -> Result<Box<dyn Persistent>, String>;

/// The reservations of an array that is run by its cluster, once it has joined.
#[derive(Debug)]
pub struct Storage {
    opener: Opener,
    taken: Mutex<Option<Arc<Reservations>>>,
    keys: Keys,
    going: Arc<Going>,
}

/// Disks whose keys are being taken back: one that is wanted again now would lose its new one.
#[derive(Debug, Default)]
struct Going {
    names: Mutex<BTreeSet<String>>,
    fewer: Condvar,
}

impl Going {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &str) {
        self.lock().insert(name.to_owned());
    }

    fn over(&self, name: &str) {
        self.lock().remove(name);
        self.fewer.notify_all();
    }

    /// Until the key of this disk is back.
    fn wait(&self, name: &str) -> Result<(), String> {
        let goes = |names: &mut BTreeSet<String>| names.contains(name);
        let waited = self.fewer.wait_timeout_while(self.lock(), PATIENCE, goes);
        let (names, late) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(names);
        match late.timed_out() {
            true => Err(format!(
                "{name}: the key that this node had there is still being taken back; try again"
            )),
            false => Ok(()),
        }
    }
}

/// A disk of this host, or an export of another umd.
fn device(path: &str) -> Result<Box<dyn Persistent>, String> {
    if member::is_elsewhere(path) {
        return Ok(Box::new(Served::open(path)?));
    }
    let told = |error: std::io::Error| format!("{path}: {}", os_text(&error));
    let device = Path::new(path);
    Ok(match is_nvme(device) {
        true => Box::new(Namespace::open(device).map_err(told)?),
        false => Box::new(BlockDevice::open(device).map_err(told)?),
    })
}

impl Default for Storage {
    fn default() -> Storage {
        Storage::with(device)
    }
}

impl Storage {
    /// What keeps registrations is opened so.
    pub fn with(opener: Opener) -> Storage {
        Storage {
            opener,
            taken: Mutex::default(),
            keys: Keys::default(),
            going: Arc::default(),
        }
    }

    /// With which exports are written.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Reservations>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers and reserves on all members.
    ///
    /// # Errors
    /// When one of them does not take it, which is named.
    pub fn take(&self, me: Peer, members: &[String]) -> Result<(), String> {
        let devices = members.iter().map(|name| (self.opener)(name));
        let devices = devices.collect::<Result<Vec<_>, _>>()?;
        let taken = Reservations::take(devices, me).map_err(|why| why.0)?;
        let mut names = members.iter();
        let said = names.try_for_each(|name| self.keys.say(name, taken.key()));
        if said.is_err() {
            taken.release();
        }
        said?;
        *self.lock() = Some(Arc::new(taken));
        Ok(())
    }

    /// Registers on a disk that may become a member. Before this node has joined there is nothing
    /// to do.
    ///
    /// # Errors
    /// When it does not take it.
    pub fn also(&self, member: &str) -> Result<(), String> {
        let Some(taken) = self.lock().clone() else {
            return Ok(());
        };
        self.going.wait(member)?;
        taken.add((self.opener)(member)?).map_err(|why| why.0)?;
        self.keys.say(member, taken.key())
    }

    /// Registers on a disk that is about to become a member, and reserves it. If that fails, what
    /// was not there before is taken back.
    ///
    /// # Errors
    /// When it does not take it.
    pub fn take_in(&self, member: &str) -> Result<(), String> {
        let known = self.lock().as_ref().is_some_and(|taken| taken.has(member));
        let taken = self.also(member).and_then(|()| self.hold(member));
        if taken.is_err() && !known {
            self.let_go(member);
        }
        taken
    }

    /// Reserves a disk that is about to become a member: nothing of value is on it.
    ///
    /// # Errors
    /// When it does not do that.
    fn hold(&self, member: &str) -> Result<(), String> {
        match self.lock().clone() {
            Some(taken) => taken.hold(member).map_err(|why| why.0),
            None => Ok(()),
        }
    }

    /// A disk is no member, or none any more. Nobody waits for it.
    pub fn let_go(&self, member: &str) {
        let Some(taken) = self.lock().clone() else {
            return;
        };
        let (name, going) = (member.to_owned(), self.going.clone());
        going.begin(member);
        let thread = std::thread::Builder::new().name("md-let-go".into());
        let work = move || {
            if let Err(why) = taken.let_go(&name) {
                say(&format!("the key of this node stays: {why}"));
            }
            going.over(&name);
        };
        if let Err(error) = thread.spawn(work) {
            self.going.over(member);
            say(&format!("the key of this node stays on {member}: {error}"));
        }
    }

    /// The node has left, and writes no more. A device that hangs is not waited for.
    pub fn release(&self) {
        let Some(taken) = self.lock().take() else {
            return;
        };
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("md-release".into());
        let spawned = thread.spawn(move || drop(sender.send(taken.release())));
        let kept = match spawned.is_ok().then(|| receiver.recv_timeout(PATIENCE)) {
            Some(Ok(kept)) => kept,
            _ => vec!["a member does not answer".into()],
        };
        for why in kept {
            say(&format!("the key of this node stays: {why}"));
        }
    }
}

/// What comes of asking the members.
type Outcome = Result<FenceProof, NotFenced>;

/// A way to a proof that a host has.
pub struct ByStorage {
    storage: Arc<Storage>,
    /// Whom the members are asked for, and what they said.
    asked: Mutex<BTreeMap<Peer, Receiver<Outcome>>>,
    patience: Duration,
}

impl ByStorage {
    /// Shared with who takes and releases.
    pub fn new(storage: Arc<Storage>) -> ByStorage {
        ByStorage {
            storage,
            asked: Mutex::default(),
            patience: PATIENCE,
        }
    }

    fn ask(&self, target: &Target) -> Result<Receiver<Outcome>, NotFenced> {
        let taken = self.storage.lock().clone();
        let Some(taken) = taken else {
            return Err(NotFenced("no member is reserved".into()));
        };
        let (sender, receiver) = channel();
        let target = target.clone();
        let thread = std::thread::Builder::new().name("md-preempt".into());
        // Nobody may be waiting any more. Whoever breaks says nothing, which is no proof.
        let work = move || drop(sender.send(taken.fence(&target, &|| true)));
        let spawned = thread.spawn(work);
        spawned.map_err(|error| NotFenced(format!("the members cannot be asked: {error}")))?;
        Ok(receiver)
    }
}

impl Fencer for ByStorage {
    fn fence(&self, target: &Target, wanted: &Wanted<'_>) -> Outcome {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.remove(&target.peer);
        drop(asked);
        let answer = before.map_or_else(|| self.ask(target), Ok)?;
        let begin = Instant::now();
        loop {
            match answer.recv_timeout(STEP) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(NotFenced("an invariant of reservations broke".into()));
                }
                Err(RecvTimeoutError::Timeout) if wanted() && begin.elapsed() < self.patience => {}
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(target.peer, answer);
        Err(NotFenced(format!(
            "a member was asked to refuse it, and has not answered for {} s",
            self.patience.as_secs_f32()
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use umd_cluster::fence::{Conflict, key};
    use umd_core::cluster::{Incarnation, NodeSlot, ProofKind};

    use super::*;

    /// Registrations by the names of disks; names with an x are not there.
    static DISKS: Mutex<BTreeMap<String, Vec<u64>>> = Mutex::new(BTreeMap::new());

    struct Disk(String);

    impl Disk {
        fn has(&self, key: u64) -> Result<(), Conflict> {
            let disks = DISKS.lock().unwrap();
            match disks.get(&self.0).is_some_and(|keys| keys.contains(&key)) {
                true => Ok(()),
                false => Err(Conflict::Refused),
            }
        }

        fn drop(&self, key: u64) {
            let mut disks = DISKS.lock().unwrap();
            disks.get_mut(&self.0).unwrap().retain(|one| *one != key);
        }
    }

    impl Persistent for Disk {
        fn name(&self) -> String {
            self.0.clone()
        }
        fn register(&self, key: u64) -> Result<(), Conflict> {
            if self.0.contains('x') {
                return Err(Conflict::None);
            }
            let mut disks = DISKS.lock().unwrap();
            disks.entry(self.0.clone()).or_default().push(key);
            Ok(())
        }
        fn reserve(&self, key: u64) -> Result<(), Conflict> {
            self.has(key)
        }
        fn unregister(&self, key: u64) -> Result<(), Conflict> {
            self.has(key).map(|()| self.drop(key))
        }
        fn preempt_abort(&self, key: u64, victim: u64) -> Result<(), Conflict> {
            self.has(key)?;
            self.has(victim).map(|()| self.drop(victim))
        }
    }

    fn peer(slot: u16) -> Peer {
        Peer {
            slot: NodeSlot(slot),
            incarnation: Incarnation(7),
        }
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn members_come_and_go_and_only_those_that_are_there_count() {
        let open = || Storage::with(|name| Ok(Box::new(Disk(name.to_owned()))));
        let (me, dead) = (Arc::new(open()), open());
        let way = ByStorage::new(Arc::clone(&me));
        let target = Target {
            peer: peer(1),
            about: None,
            down_since: umd_core::value::Instant(0),
        };
        me.also("s").unwrap(); // It has not joined.
        let early = way.fence(&target, &|| true).unwrap_err();
        assert_eq!(early.0, "no member is reserved");
        let refused = me.take(peer(0), &names(&["s", "x"])).unwrap_err();
        assert_eq!(refused, "x has no persistent reservations");
        assert!(DISKS.lock().unwrap()["s"].is_empty(), "no key is left");
        me.take(peer(0), &names(&["s", "t"])).unwrap();
        dead.take(peer(1), &names(&["s", "t", "u"])).unwrap();
        assert_eq!(
            me.also("x").unwrap_err(),
            "x has no persistent reservations"
        );
        me.also("u").unwrap();
        me.hold("u").unwrap();
        assert!(me.hold("v").unwrap_err().contains("is not registered"));
        me.let_go("t");
        let own = || DISKS.lock().unwrap()["t"].contains(&key(peer(0)));
        // It is wanted again at once: its new key is not the one that is taken back.
        for _ in 0..50 {
            me.take_in("t").unwrap();
            assert!(own());
            me.let_go("t");
        }
        while own() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let proof = way.fence(&target, &|| true).unwrap();
        assert_eq!(proof.kind, ProofKind::Storage);
        let left = DISKS.lock().unwrap()["t"].contains(&key(peer(1)));
        assert!(left, "what is no member is nobody's business");
        assert!(!DISKS.lock().unwrap()["u"].contains(&key(peer(1))));
        me.release();
        assert!(DISKS.lock().unwrap()["u"].is_empty());
        assert!(way.fence(&target, &|| true).is_err());
    }

    #[test]
    fn what_has_no_reservations_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let storage = Storage::default();
        let why = storage
            .take(peer(0), std::slice::from_ref(&path))
            .unwrap_err();
        assert_eq!(why, format!("{path} has no persistent reservations"));
        let nobody = dir.path().join("s").display().to_string();
        let nobody = format!("nbd+unix:///d0?socket={nobody}");
        let why = storage.take(peer(0), &names(&[&nobody])).unwrap_err();
        let said = format!("{nobody} cannot be asked: ");
        assert!(why.starts_with(&said), "{why}");
        let with_key = "nbd://127.0.0.1:1/d0@key=1";
        let why = storage.take(peer(0), &names(&[with_key])).unwrap_err();
        assert!(why.contains("names a key"), "{why}");
    }

    /// A disk that does not answer before it is let go, and how often it was asked.
    struct Slow;
    static HELD: AtomicBool = AtomicBool::new(true);
    static ASKED: AtomicU32 = AtomicU32::new(0);

    impl Persistent for Slow {
        fn name(&self) -> String {
            "slow".into()
        }
        fn register(&self, _: u64) -> Result<(), Conflict> {
            Ok(())
        }
        fn reserve(&self, _: u64) -> Result<(), Conflict> {
            Ok(())
        }
        fn unregister(&self, _: u64) -> Result<(), Conflict> {
            Ok(())
        }
        fn preempt_abort(&self, _: u64, _: u64) -> Result<(), Conflict> {
            ASKED.fetch_add(1, Ordering::SeqCst);
            while HELD.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_does_not_answer_is_not_waited_for_and_not_asked_twice() {
        let storage = Arc::new(Storage::with(|_| Ok(Box::new(Slow))));
        storage.take(peer(0), &names(&["slow"])).unwrap();
        let way = ByStorage {
            patience: Duration::from_millis(200),
            ..ByStorage::new(storage)
        };
        let target = Target {
            peer: peer(1),
            about: None,
            down_since: umd_core::value::Instant(0),
        };
        for wanted in [true, false, true] {
            let why = way.fence(&target, &|| wanted).unwrap_err();
            assert!(why.0.contains("has not answered for 0.2 s"), "{why}");
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        HELD.store(false, Ordering::SeqCst);
        way.fence(&target, &|| true).unwrap();
        assert_eq!(ASKED.load(Ordering::SeqCst), 1, "the answer was kept");
    }
}
