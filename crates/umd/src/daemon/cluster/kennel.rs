//! The watchdog of this host, and the arrays that it is fed for.
//!
//! ```text
//!   assemble --> lease: opened with the first one, before anybody joins
//!   joins    --> watch: fed while the session is valid, a few times in its time
//!   left     --> with the last one it is disarmed and closed
//!   lost, or dropped without having left --> never fed again: the host is reset
//! ```
//!
//! It is one for all: a host that has lost one session is to end, whatever else it does well.
//! Whether a session is valid is asked of the lock service itself, not of the array's loop: a loop
//! that waits for a disk resets nobody.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use umd_cluster::fence::{Device, Fed, Feeder, HardwareWatchdog};
use umd_cluster::{Clock, Validity};
use umd_core::value::Instant;

use crate::cli::outcome::say;
use crate::daemon::open::os_text;

/// The time after which a watchdog resets its host, which others are told.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The device when none is named.
pub const DEVICE: &str = "/dev/watchdog";

/// For whom it is fed.
enum For {
    /// An array that has not begun to join.
    Nobody,
    /// A session.
    Session(Validity),
    /// One that ended without having left.
    Lost,
}

impl For {
    fn valid_until(&self) -> Instant {
        match self {
            For::Nobody => Instant(u64::MAX),
            For::Session(validity) => validity(),
            For::Lost => Instant(0),
        }
    }
}

/// A watchdog that is open.
struct Open {
    path: String,
    feeder: Feeder<Box<dyn Device>>,
    leases: BTreeMap<u64, For>,
    /// It is not fed any more.
    starved: bool,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    last: u64,
}

/// The watchdog of a host.
#[derive(Default)]
pub struct Kennel {
    state: Mutex<State>,
    changed: Condvar,
}

/// One array's part in it. Dropping it before [`Lease::watch`] gives it back; after that only
/// [`Lease::left`] does.
pub struct Lease {
    kennel: Arc<Kennel>,
    number: u64,
    watched: bool,
}

/// That of this host.
pub fn lease(path: &str) -> Result<Lease, String> {
    static KENNEL: Mutex<Option<Arc<Kennel>>> = Mutex::new(None);
    let mut kennel = KENNEL.lock().unwrap_or_else(PoisonError::into_inner);
    let kennel = kennel.get_or_insert_default();
    kennel.lease(path, &|path| {
        // To open it arms it.
        if has_no_way_out(Path::new("/sys/class/watchdog"), path) {
            return Err(io::Error::other(
                "it cannot be disarmed again, so to stop the array would reset this host; load \
                 its driver with nowayout=0",
            ));
        }
        let device = HardwareWatchdog::open(Path::new(path))?;
        Ok(Box::new(device))
    })
}

/// Whether closing it in order resets the host as well, as far as the kernel says.
fn has_no_way_out(sys: &Path, device: &str) -> bool {
    let real = std::fs::canonicalize(device).unwrap_or_else(|_| device.into());
    let name = real
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = match name.as_deref() {
        Some("watchdog") => "watchdog0",
        Some(name) => name,
        None => return false,
    };
    let said = std::fs::read_to_string(sys.join(name).join("nowayout"));
    said.is_ok_and(|said| said.trim() == "1")
}

impl Kennel {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A watchdog that nobody feeds does what it is for.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the watchdog, unless another array has.
    ///
    /// # Errors
    /// When it cannot be opened or set, is another one than that which is open, or is about to
    /// reset the host.
    pub fn lease(
        self: &Arc<Kennel>,
        path: &str,
        open: &dyn Fn(&str) -> io::Result<Box<dyn Device>>,
    ) -> Result<Lease, String> {
        let mut state = self.lock();
        let number = state.last + 1;
        match &mut state.open {
            Some(one) if one.starved => {
                return Err(format!(
                    "{} is about to reset this host: a session was lost",
                    one.path
                ));
            }
            Some(one) if one.path != path => {
                return Err(format!(
                    "a host has one watchdog for all its arrays, and that is {}",
                    one.path
                ));
            }
            Some(one) => {
                one.leases.insert(number, For::Nobody);
            }
            place => {
                let feeder = open(path).and_then(|device| Feeder::new(device, TIMEOUT));
                let feeder = feeder.map_err(|error| {
                    format!("{path} is no watchdog to be used: {}", os_text(&error))
                })?;
                let interval = feeder.timeout() / 5;
                *place = Some(Open {
                    path: path.into(),
                    feeder,
                    leases: BTreeMap::from([(number, For::Nobody)]),
                    starved: false,
                });
                let kennel = Arc::clone(self);
                let thread = std::thread::Builder::new().name("md-watchdog".into());
                if let Err(error) = thread.spawn(move || kennel.feed(interval)) {
                    let opened = state.open.take().expect("it was put there");
                    disarm(opened);
                    return Err(format!("{path} has nobody to feed it: {error}"));
                }
            }
        }
        state.last = number;
        Ok(Lease {
            kennel: Arc::clone(self),
            number,
            watched: false,
        })
    }

    /// Feeds it until it is closed, or never again.
    fn feed(&self, interval: Duration) {
        let mut state = self.lock();
        while let Some(open) = &mut state.open {
            let ends = open.leases.values().map(For::valid_until);
            let valid_until = ends.min().unwrap_or(Instant(u64::MAX));
            match open.feeder.feed(Clock.now(), valid_until) {
                Ok(Fed::Yes) => {}
                Ok(Fed::Starved) => {
                    open.starved = true;
                    say(&format!(
                        "{} is not fed any more: a session with the lock service was lost, so it \
                         resets this host",
                        open.path
                    ));
                    return;
                }
                Err(error) => say(&format!("{}: cannot be fed: {error}", open.path)),
            }
            let waited = self.changed.wait_timeout(state, interval);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn give_back(&self, number: u64) {
        let mut state = self.lock();
        let open = state.open.as_mut().expect("who has a lease keeps it open");
        open.leases.remove(&number);
        if open.leases.is_empty() && !open.starved {
            disarm(state.open.take().expect("it is open"));
            self.changed.notify_all();
        }
    }
}

fn disarm(open: Open) {
    let path = open.path;
    if let Err(error) = open.feeder.disarm() {
        say(&format!("{path} cannot be disarmed: {error}"));
    }
}

impl Lease {
    /// From here on it is fed while the session is valid.
    pub fn watch(&mut self, session: Validity) {
        self.watched = true;
        self.put(For::Session(session));
    }

    /// The array has left its cluster, or was never in it.
    pub fn left(mut self) {
        self.watched = false; // Dropped.
    }

    fn put(&self, what: For) {
        let mut state = self.kennel.lock();
        let open = state.open.as_mut().expect("who has a lease keeps it open");
        open.leases.insert(self.number, what);
        self.kennel.changed.notify_all();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.watched {
            true => self.put(For::Lost),
            false => self.kennel.give_back(self.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use umd_core::value::Span;

    use super::*;

    /// A watchdog that counts, and says what it was told.
    #[derive(Clone, Default)]
    struct Fake {
        said: Arc<Mutex<String>>,
        longest: u64,
    }

    impl Device for Fake {
        fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
            assert_eq!(timeout, TIMEOUT);
            Ok(timeout
                .max(Duration::from_secs(self.longest))
                .min(match self.longest {
                    0 => Duration::from_millis(50),
                    _ => Duration::MAX,
                }))
        }
        fn feed(&mut self) -> io::Result<()> {
            self.said.lock().unwrap().push('.');
            Ok(())
        }
        fn disarm(&mut self) -> io::Result<()> {
            self.said.lock().unwrap().push('V');
            Ok(())
        }
    }

    struct Bench {
        kennel: Arc<Kennel>,
        fake: Fake,
    }

    impl Bench {
        fn new() -> Bench {
            let (kennel, fake) = (Arc::default(), Fake::default());
            Bench { kennel, fake }
        }

        fn lease(&self, path: &str) -> Result<Lease, String> {
            self.kennel
                .lease(path, &|_| Ok(Box::new(self.fake.clone())))
        }

        fn said(&self) -> String {
            self.fake.said.lock().unwrap().clone()
        }

        /// Waits until it has been fed some more.
        fn is_fed(&self) {
            let before = self.said().len();
            let begin = std::time::Instant::now();
            while self.said().len() < before + 3 {
                assert!(begin.elapsed() < Duration::from_secs(20), "it starves");
                std::thread::sleep(Duration::from_millis(2));
            }
        }

        /// Waits until it is not fed any more.
        fn starves(&self) {
            let begin = std::time::Instant::now();
            let open = || {
                self.kennel
                    .lock()
                    .open
                    .as_ref()
                    .is_some_and(|one| one.starved)
            };
            while !open() {
                assert!(begin.elapsed() < Duration::from_secs(20), "it is fed");
                std::thread::sleep(Duration::from_millis(2));
            }
            let said = self.said();
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(self.said(), said, "it is fed again");
            assert!(!said.contains('V'), "it was disarmed");
        }
    }

    fn always() -> Validity {
        Arc::new(|| Instant(u64::MAX))
    }

    #[test]
    fn it_is_fed_for_all_and_disarmed_when_the_last_has_left() {
        let bench = Bench::new();
        let mut one = bench.lease("/w").unwrap();
        bench.is_fed(); // While it joins.
        one.watch(always());
        let mut two = bench.lease("/w").unwrap();
        two.watch(always());
        let other = bench.lease("/other").err().unwrap();
        assert!(other.contains("that is /w"), "{other}");
        one.left();
        bench.is_fed();
        assert!(!bench.said().contains('V'));
        two.left();
        assert!(bench.said().ends_with('V'));
        let said = bench.said();
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(bench.said(), said, "fed after it was closed");
        // One that never joined gives it back, too; and it can be another one then.
        drop(bench.lease("/other").unwrap());
        assert!(bench.said().ends_with('V'));
    }

    #[test]
    fn one_session_that_is_lost_is_enough_and_nothing_helps_any_more() {
        let bench = Bench::new();
        let valid = Arc::new(AtomicBool::new(true));
        let (mut one, mut two) = (bench.lease("/w").unwrap(), bench.lease("/w").unwrap());
        let asked = valid.clone();
        one.watch(Arc::new(move || match asked.load(Ordering::SeqCst) {
            true => Clock.now() + Span::secs(60),
            false => Clock.now(),
        }));
        two.watch(always());
        bench.is_fed();
        valid.store(false, Ordering::SeqCst);
        bench.starves();
        valid.store(true, Ordering::SeqCst);
        bench.starves();
        one.left();
        two.left();
        bench.starves();
        let late = bench.lease("/w").err().unwrap();
        assert!(late.contains("about to reset this host"), "{late}");
    }

    #[test]
    fn an_array_that_ends_without_having_left_takes_the_host_along() {
        let bench = Bench::new();
        let mut one = bench.lease("/w").unwrap();
        one.watch(always());
        bench.is_fed();
        drop(one);
        bench.starves();
    }

    #[test]
    fn one_that_cannot_be_disarmed_is_known_before_it_is_opened() {
        let sys = tempfile::tempdir().unwrap();
        for (name, said) in [("watchdog0", "1\n"), ("watchdog1", "0\n")] {
            std::fs::create_dir(sys.path().join(name)).unwrap();
            std::fs::write(sys.path().join(name).join("nowayout"), said).unwrap();
        }
        let never = |device| has_no_way_out(sys.path(), device);
        assert!(never("/dev/watchdog") && never("/dev/watchdog0"));
        assert!(!never("/dev/watchdog1") && !never("/dev/watchdog2"));
    }

    #[test]
    fn what_cannot_be_a_watchdog_is_named() {
        let mut bench = Bench::new();
        bench.fake.longest = 60;
        let slow = bench.lease("/w").err().unwrap();
        assert!(slow.contains("/w is no watchdog to be used"), "{slow}");
        assert!(slow.contains("takes 60 s where at most 10 s"), "{slow}");
        assert_eq!(bench.said(), "V");
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let none = lease(path).err().unwrap();
        assert!(none.contains("Inappropriate ioctl"), "{none}");
        let absent = lease("/nowhere/watchdog").err().unwrap();
        assert!(absent.contains("No such file"), "{absent}");
    }
}
