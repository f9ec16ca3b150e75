//! The seam between the world and what it tests.

use umd_core::array::{Commands, Event, Status};
use umd_core::value::{Instant, MemberId, Now, Pool};

use crate::disk::SimDisk;

/// An engine under test: the shipped core, or one with a known fault.
pub trait Engine {
    /// Handles an event.
    fn handle(&mut self, now: Now, event: Event, commands: &mut Commands);
    /// Shows its state.
    fn status(&self) -> Status;
    /// Brings a picture of an earlier state up to date.
    fn refresh(&self, status: &mut Status) {
        *status = self.status();
    }
}

/// A disk that may be a member of the array to be assembled.
pub struct Candidate<'a> {
    /// The identity it will have.
    pub id: MemberId,
    /// Its disk.
    pub disk: &'a SimDisk,
    /// Its name.
    pub name: String,
}

/// A started array.
pub struct Started {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// What it wants done first.
    pub commands: Commands,
    /// The members it took.
    pub members: Vec<MemberId>,
}

/// Why an array was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The sentence.
    pub why: String,
    /// Unclean and degraded: the user may insist.
    pub write_hole: bool,
}

/// How an array is started.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// Where superblocks are looked for.
    pub minor: u8,
    /// The user insists.
    pub force: bool,
    /// Nothing is written before the first write.
    pub read_auto: bool,
    /// The file that holds the bitmap, with the identity it will have.
    pub file: Option<(MemberId, &'a SimDisk)>,
}

/// Starts engines.
pub trait Maker {
    /// Assembles and starts an array from these disks.
    fn start(
        &self,
        candidates: &[Candidate<'_>],
        how: How<'_>,
        now: Now,
        pool: &Pool,
    ) -> Result<Started, Refused>;
}

/// Wall clock of the simulated world at an instant.
pub fn now_at(mono: Instant) -> Now {
    Now {
        mono,
        wall_seconds: 1_700_000_000 + mono.0 / 1_000_000_000,
    }
}
