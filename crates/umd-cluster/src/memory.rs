//! The engine for one process: a log in memory.
//!
//! ```text
//!   node --> Link --\
//!   node --> Link ----> Arc<Memory>: the log, the snapshot, marks with the time when they go
//!   node --> Link --/
//! ```
//!
//! For tests, and for several nodes of one array in one process. What it keeps it keeps for as long
//! as the process lives: a new one remembers nothing, and [`crate::Past`] says what that means.
//! A link can be cut, as a network can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use umd_core::value::{Instant, Span};

use crate::Clock;
use crate::clock::span;
use crate::ledger::{Appended, Entry, Follow, Ledger, Mark, Opened, Renewal, Snapshot, Trouble};
use crate::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
struct Log {
    place: u64,
    entries: Vec<Entry>,
    snapshot: Option<Snapshot>,
    /// What was appended under which number.
    numbers: BTreeSet<(Mark, u64)>,
    marks: BTreeMap<Mark, (Instant, Span)>,
    /// How often a mark has gone.
    gone: u64,
}

impl Log {
    /// Lets go of the marks whose time has come.
    fn expire(&mut self) {
        let now = Clock.now();
        let before = self.marks.len();
        self.marks.retain(|_, (until, _)| now < *until);
        if self.marks.len() < before {
            self.gone += 1;
        }
    }
}

/// The log of one array, for all its nodes in this process.
#[derive(Debug, Default)]
pub struct Memory {
    log: Mutex<Log>,
    news: Condvar,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Arc<Memory> {
        Arc::default()
    }

    /// A way to it.
    pub fn link(self: &Arc<Memory>) -> Link {
        Link {
            memory: Arc::clone(self),
            cut: Arc::default(),
            deaf: Arc::default(),
            mute: Arc::default(),
            hung_up: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // Whoever panicked did it before it changed anything.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.expire();
        log
    }
}

/// How a node reaches a [`Memory`].
#[derive(Debug, Clone)]
pub struct Link {
    memory: Arc<Memory>,
    cut: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
    mute: Arc<AtomicBool>,
    hung_up: Arc<AtomicBool>,
}

impl Link {
    /// Lets it hear nothing of the log, or again: for tests. All else goes on.
    pub fn deafen(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Lets nothing it says reach the log, or again: for tests. All else goes on.
    pub fn mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::SeqCst);
    }

    /// Cuts it, or mends it: for tests.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    fn reach(&self) -> Result<MutexGuard<'_, Log>, Trouble> {
        match self.cut.load(Ordering::SeqCst) {
            true => Err(Trouble("the lock service is cut off".into())),
            false => Ok(self.memory.lock()),
        }
    }
}

impl Ledger for Link {
    fn begin(&self, session: Duration) -> Result<Mark, Trouble> {
        let mut log = self.reach()?;
        log.place += 1;
        let mark = Mark(log.place);
        let session = span(session);
        log.marks.insert(mark, (Clock.now() + session, session));
        Ok(mark)
    }

    fn renew(&self, mark: Mark) -> Result<Renewal, Trouble> {
        let mut log = self.reach()?;
        Ok(match log.marks.get_mut(&mark) {
            Some((until, session)) => {
                *until = Clock.now() + *session;
                Renewal::Held
            }
            None => Renewal::Ended,
        })
    }

    fn end(&self, mark: Mark) -> Result<(), Trouble> {
        let mut log = self.reach()?;
        log.marks.remove(&mark);
        log.gone += 1;
        self.memory.news.notify_all();
        Ok(())
    }

    fn append(
        &self,
        mark: Mark,
        number: u64,
        text: &str,
        strike: &[Mark],
    ) -> Result<Appended, Trouble> {
        let mut log = self.reach()?;
        if self.mute.load(Ordering::SeqCst) {
            return Err(Trouble("the lock service takes nothing".into()));
        }
        if log.numbers.contains(&(mark, number)) {
            return Ok(Appended::Done);
        }
        if !log.marks.contains_key(&mark) {
            return Ok(Appended::Ended);
        }
        log.place += 1;
        let (place, text) = (log.place, text.into());
        log.entries.push(Entry { place, text });
        log.numbers.insert((mark, number));
        log.marks.retain(|mark, _| !strike.contains(mark));
        self.memory.news.notify_all();
        Ok(Appended::Done)
    }

    fn open(&self) -> Result<Opened, Trouble> {
        let log = self.reach()?;
        let from = log.snapshot.as_ref().map_or(0, |snapshot| snapshot.place);
        let entries = log.entries.iter().filter(|entry| entry.place > from);
        Ok(Opened {
            snapshot: log.snapshot.clone(),
            entries: entries.cloned().collect(),
        })
    }

    fn follow(&self, place: u64, wait: Duration) -> Result<Follow, Trouble> {
        let log = self.reach()?;
        let gone = log.gone;
        let waits = |log: &mut Log| {
            let newest = log.entries.last().map_or(0, |entry| entry.place);
            let listens = !self.hung_up.load(Ordering::SeqCst);
            newest <= place && log.gone == gone && listens
        };
        let waited = self.memory.news.wait_timeout_while(log, wait, waits);
        let (mut log, _) = waited.unwrap_or_else(PoisonError::into_inner);
        log.expire();
        if self.cut.load(Ordering::SeqCst) {
            return Err(Trouble("the lock service is cut off".into()));
        }
        if self.deaf.load(Ordering::SeqCst) {
            return Err(Trouble("the lock service tells nothing".into()));
        }
        let snapshot = log.snapshot.as_ref();
        if snapshot.is_some_and(|snapshot| place < snapshot.trimmed) {
            return Ok(Follow::Missed);
        }
        let entries = log.entries.iter().filter(|entry| entry.place > place);
        Ok(Follow::Entries {
            entries: entries.cloned().collect(),
            stirred: log.gone != gone,
        })
    }

    fn hang_up(&self) {
        let log = self.memory.lock(); // Who is about to wait, waits by now.
        self.hung_up.store(true, Ordering::SeqCst);
        drop(log);
        self.memory.news.notify_all();
    }

    fn marks(&self) -> Result<BTreeSet<Mark>, Trouble> {
        Ok(self.reach()?.marks.keys().copied().collect())
    }

    fn trim(&self, old: Option<u64>, new: &Snapshot) -> Result<(), Trouble> {
        let mut log = self.reach()?;
        let current = log.snapshot.as_ref().map(|snapshot| snapshot.place);
        if current == old {
            log.snapshot = Some(new.clone());
            log.entries.retain(|entry| entry.place > new.trimmed);
            let marks: BTreeSet<Mark> = log.marks.keys().copied().collect();
            log.numbers.retain(|(mark, _)| marks.contains(mark));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_number_is_appended_once_and_only_under_a_mark() {
        let link = Memory::new().link();
        let mark = link.begin(LONG).unwrap();
        for _ in 0..2 {
            assert_eq!(link.append(mark, 1, "a", &[]), Ok(Appended::Done));
        }
        assert_eq!(link.open().unwrap().entries.len(), 1);
        link.end(mark).unwrap();
        assert_eq!(link.append(mark, 2, "b", &[]), Ok(Appended::Ended));
        assert_eq!(link.append(mark, 1, "a", &[]), Ok(Appended::Done));
        assert_eq!(link.renew(mark), Ok(Renewal::Ended));
    }

    #[test]
    fn who_is_struck_out_is_gone_with_the_entry() {
        let memory = Memory::new();
        let (a, b) = (memory.link(), memory.link());
        let (one, two) = (a.begin(LONG).unwrap(), b.begin(LONG).unwrap());
        assert_ne!(one, two);
        a.append(one, 1, "strike", &[two]).unwrap();
        assert_eq!(b.append(two, 1, "late", &[]), Ok(Appended::Ended));
        assert_eq!(a.marks().unwrap(), BTreeSet::from([one]));
    }

    #[test]
    fn what_was_trimmed_is_missed_by_who_is_late() {
        let link = Memory::new().link();
        let mark = link.begin(LONG).unwrap();
        for number in 1..=4 {
            link.append(mark, number, "x", &[]).unwrap();
        }
        let places: Vec<u64> = link
            .open()
            .unwrap()
            .entries
            .iter()
            .map(|e| e.place)
            .collect();
        let snapshot = Snapshot {
            place: places[2],
            trimmed: places[1],
            text: "book".into(),
        };
        link.trim(None, &snapshot).unwrap();
        assert_eq!(link.open().unwrap().entries.len(), 1);
        assert_eq!(link.follow(places[0], LONG), Ok(Follow::Missed));
        let followed = link.follow(places[1], LONG).unwrap();
        assert!(matches!(followed, Follow::Entries { entries, .. } if entries.len() == 2));
        // Who wanted to replace another snapshot than the one that is there does not.
        link.trim(None, &Snapshot::default()).unwrap();
        assert_eq!(link.open().unwrap().snapshot, Some(snapshot));
    }

    #[test]
    fn a_mark_that_is_not_renewed_goes() {
        let link = Memory::new().link();
        let mark = link.begin(Duration::from_millis(20)).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(link.renew(mark), Ok(Renewal::Ended));
        assert!(link.marks().unwrap().is_empty());
    }
}
