//! Fencing by a watchdog: a host that is no member any more ends itself.
//!
//! ```text
//!   host that died                        host that goes on
//!   feeds while its session is valid
//!   valid_until: starves                  Down is told, not before valid_until
//!   + watchdog: the host is reset         + session + watchdog + margin: that is a proof
//! ```
//!
//! Only a host that said when it joined that it has a watchdog is believed to have one. The
//! hardware's is best; the kernel's software watchdog (module softdog) is the same device, and
//! helps against everything but a kernel that hangs with its interrupts off.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use umd_core::cluster::{FenceProof, ProofKind};
use umd_core::value::Instant;

use super::ioctl;
use super::{Fencer, NotFenced, Target, Wanted};
use crate::Clock;
use crate::clock::span;

/// For clocks that run at different speeds, and hosts that take their time to go.
const MARGIN: Duration = Duration::from_secs(5);

/// The proof that is time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watchdog;

impl Watchdog {
    fn fence_at(target: &Target, now: Instant) -> Result<FenceProof, NotFenced> {
        let about = target.about.as_ref();
        let Some((about, watchdog)) = about.and_then(|about| Some((about, about.watchdog?))) else {
            let why = "its host has no watchdog that would have ended it";
            return Err(NotFenced(why.into()));
        };
        let ended = target.down_since + span(about.session + watchdog + MARGIN);
        if now < ended {
            let left = (ended - now).as_secs() + 1;
            let why = format!("its watchdog ends its host within {left} s");
            return Err(NotFenced(why));
        }
        Ok(FenceProof {
            peer: target.peer,
            kind: ProofKind::Watchdog,
        })
    }
}

impl Fencer for Watchdog {
    fn concerns(&self, target: &Target) -> bool {
        let about = target.about.as_ref();
        about.is_some_and(|about| about.watchdog.is_some())
    }

    fn fence(&self, target: &Target, _: &Wanted<'_>) -> Result<FenceProof, NotFenced> {
        Watchdog::fence_at(target, Clock.now())
    }
}

/// A watchdog of this host.
pub trait Device: Send {
    /// Sets the time after which it resets the host, as near as it can; what it is then.
    ///
    /// # Errors
    /// When it cannot.
    fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration>;

    /// The time begins again.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn feed(&mut self) -> io::Result<()>;

    /// It is not to reset the host any more.
    ///
    /// # Errors
    /// When it cannot be reached.
    fn disarm(&mut self) -> io::Result<()>;
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
        D::set_timeout(self, timeout)
    }

    fn feed(&mut self) -> io::Result<()> {
        D::feed(self)
    }

    fn disarm(&mut self) -> io::Result<()> {
        D::disarm(self)
    }
}

/// `/dev/watchdog` or another of its kind. Once it is open the host is reset unless it is fed.
#[derive(Debug)]
pub struct HardwareWatchdog {
    file: File,
}

impl HardwareWatchdog {
    /// Opens it, which arms it.
    ///
    /// # Errors
    /// When it cannot be opened: it is not there, or somebody else has it.
    pub fn open(path: &Path) -> io::Result<HardwareWatchdog> {
        let file = File::options().write(true).open(path)?;
        Ok(HardwareWatchdog { file })
    }
}

impl Device for HardwareWatchdog {
    fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
        let seconds = i32::try_from(timeout.as_secs()).map_err(io::Error::other)?;
        let seconds = ioctl::watchdog_set_timeout(&self.file, seconds)?;
        let seconds = u64::try_from(seconds).map_err(io::Error::other)?;
        Ok(Duration::from_secs(seconds))
    }

    fn feed(&mut self) -> io::Result<()> {
        self.file.write_all(b"\0")
    }

    fn disarm(&mut self) -> io::Result<()> {
        // Without this letter closing it is taken for a death.
        self.file.write_all(b"V")
    }
}

/// How feeding went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// The host goes on.
    Yes,
    /// The session is over: the host is about to be reset, and nothing here stops that.
    Starved,
}

/// Feeds a watchdog for as long as a session is valid, and never again after.
pub struct Feeder<D: Device> {
    device: D,
    timeout: Duration,
    starved: bool,
}

impl<D: Device> Feeder<D> {
    /// Sets a watchdog's time, which others were told or will be.
    ///
    /// # Errors
    /// When it cannot be set, or takes a longer time than that.
    pub fn new(mut device: D, timeout: Duration) -> io::Result<Feeder<D>> {
        let set = device.set_timeout(timeout).inspect_err(|_| {
            // It was armed by being opened, and nobody is going to feed it.
            if let Err(error) = device.disarm() {
                eprintln!("umd: the watchdog cannot be disarmed: {error}");
            }
        })?;
        if set > timeout {
            device.disarm()?;
            let (set, timeout) = (set.as_secs(), timeout.as_secs());
            let why = format!("the watchdog takes {set} s where at most {timeout} s are wanted");
            return Err(io::Error::other(why));
        }
        Ok(Feeder {
            device,
            timeout: set,
            starved: false,
        })
    }

    /// The time that was set: perhaps less than was asked for.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// To be called several times in a watchdog's time.
    ///
    /// # Errors
    /// When the watchdog cannot be reached.
    pub fn feed(&mut self, now: Instant, valid_until: Instant) -> io::Result<Fed> {
        self.starved |= now >= valid_until;
        if self.starved {
            return Ok(Fed::Starved);
        }
        self.device.feed()?;
        Ok(Fed::Yes)
    }

    /// The node has left in order.
    ///
    /// # Errors
    /// When the watchdog cannot be reached, or is starved already: what it is to end may be there.
    pub fn disarm(mut self) -> io::Result<()> {
        if self.starved {
            return Err(io::Error::other("the session was lost: the host is to end"));
        }
        self.device.disarm()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use umd_core::value::Span;

    use super::super::tests::target;
    use super::*;

    #[test]
    fn time_is_a_proof_only_where_there_is_a_watchdog_and_only_once_it_has_passed() {
        let mut target = target(Some("beta"));
        target.down_since = Instant(0) + Span::secs(100);
        let late = Instant(0) + Span::secs(100_000);
        let why = Watchdog::fence_at(&target, late).unwrap_err().0;
        assert!(why.contains("no watchdog"), "{why}");
        target.about.as_mut().unwrap().watchdog = Some(Duration::from_secs(60));
        let at = |seconds| Watchdog::fence_at(&target, Instant(0) + Span::secs(seconds));
        let why = at(100).unwrap_err().0;
        assert_eq!(why, "its watchdog ends its host within 76 s");
        assert!(at(174).is_err());
        assert_eq!(at(175).unwrap().kind, ProofKind::Watchdog);
        target.about = None;
        assert!(Watchdog::fence_at(&target, late).is_err());
    }

    #[derive(Clone)]
    struct Fake {
        said: Arc<Mutex<String>>,
        longest: u64,
    }

    impl Device for Fake {
        fn set_timeout(&mut self, timeout: Duration) -> io::Result<Duration> {
            Ok(timeout.max(Duration::from_secs(self.longest)))
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

    fn fake(longest: u64) -> Fake {
        let said = Arc::default();
        Fake { said, longest }
    }

    #[test]
    fn a_watchdog_is_fed_while_the_session_is_valid_and_never_again() {
        let device = fake(0);
        let mut feeder = Feeder::new(device.clone(), Duration::from_secs(10)).unwrap();
        let valid = Instant(1000);
        assert_eq!(feeder.feed(Instant(1), valid).unwrap(), Fed::Yes);
        assert_eq!(feeder.feed(Instant(999), valid).unwrap(), Fed::Yes);
        assert_eq!(feeder.feed(valid, valid).unwrap(), Fed::Starved);
        // A session that is lost does not come back.
        let later = Instant(5000);
        assert_eq!(feeder.feed(Instant(1), later).unwrap(), Fed::Starved);
        assert!(feeder.disarm().is_err());
        assert_eq!(*device.said.lock().unwrap(), "..");
        let device = fake(0);
        let feeder = Feeder::new(device.clone(), Duration::from_secs(10)).unwrap();
        feeder.disarm().unwrap();
        assert_eq!(*device.said.lock().unwrap(), "V");
    }

    #[test]
    fn a_watchdog_that_is_too_slow_is_not_used_and_does_not_bite() {
        let device = fake(60);
        let error = Feeder::new(device.clone(), Duration::from_secs(10))
            .err()
            .unwrap();
        assert!(error.to_string().contains("takes 60 s"), "{error}");
        assert_eq!(*device.said.lock().unwrap(), "V");
    }

    #[test]
    fn a_file_is_no_watchdog() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = HardwareWatchdog::open(file.path()).unwrap();
        let error = Feeder::new(device, Duration::from_secs(10)).err().unwrap();
        assert_eq!(error.raw_os_error(), Some(25), "{error}"); // ENOTTY
        assert_eq!(std::fs::read(file.path()).unwrap(), b"V");
    }
}
