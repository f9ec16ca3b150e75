//! Small writes that follow each other become whole rows before anything is read for them.
//!
//! ```text
//!   chunk:     | 0   | 1   | 2   | P   |     a stream of writes comes by, chunk after chunk:
//!   row 7      |#####|:::::|.....|     |     # is here and held, : joins it, . is awaited
//!                    all data columns there --> one band, no old data read
//! ```
//!
//! A band is held back only where a stream has begun to fill its row, and only while other I/O is
//! under way whose end will bring this lane to life again: a host with one write at a time never
//! waits for itself, and random writes are never held. Nothing here can deadlock: a lane that has
//! nothing else to do lets go of everything.

use smallvec::SmallVec;

use super::band::Band;
use super::split::BandRanges;
use super::{Job, Lane, Rig};
use crate::geometry::Raid456;
use crate::value::Slice;

/// Streams of writes that are told apart.
const STREAMS: usize = 8;
/// Bands that are held at a time.
const HELD_MAX: usize = 64;
/// Jobs that may end elsewhere before a held band goes as it is.
const PATIENCE_JOBS: u64 = 64;

/// A band that waits for the rest of its row.
#[derive(Debug)]
struct Held {
    job: u32,
    /// First member data sector, and length.
    range: (u64, u64),
    /// Jobs that had ended when it came.
    since: u64,
}

/// What is being gathered.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Where the next write of each stream begins, the latest first.
    streams: Vec<u64>,
    held: Vec<Held>,
    jobs_ended: u64,
}

impl Gathering {
    /// A write came. Whether it goes on where an earlier one ended.
    fn follows(&mut self, offset: u64, len: u64) -> bool {
        let known = self.streams.iter().position(|next| *next == offset);
        if let Some(at) = known {
            self.streams.remove(at);
        }
        self.streams.insert(0, offset + len);
        self.streams.truncate(STREAMS);
        known.is_some()
    }

    /// A job ended.
    pub fn job_ended(&mut self) {
        self.jobs_ended += 1;
    }
}

impl Lane {
    /// The bands of a write. Some begin at once, some join what is held, some are held.
    pub(super) fn admit_bands(
        &mut self,
        rig: &mut Rig<'_>,
        map: &Raid456,
        request: u32,
        (offset, data): (u64, &Slice),
        ranges: BandRanges,
    ) {
        let len = (data.len() / 512) as u64;
        let follows = self.gathering.follows(offset, len);
        let now = rig.io.now().mono;
        let mut jobs: SmallVec<[Job; 1]> = SmallVec::new();
        let (mut parts, mut whole) = (0, Vec::new());
        for range in &ranges {
            let part = |at: u64| {
                let from = super::bytes(at - offset);
                data.sub(from..from + super::bytes(range.len_sectors))
            };
            let new = range.touched.iter().map(|(i, at)| (*i, part(*at)));
            let mut band = self.bands.empty();
            band.begin(now, request, (map, range), new);
            parts += 1;
            jobs.extend(self.join(band, follows, &mut whole).map(Job::Band));
        }
        self.begin_parts(request, parts);
        for job in jobs {
            self.add_job(rig, job);
        }
        for job in whole {
            self.let_go(rig, job);
        }
    }

    /// Joins a band to one that is held (`whole` gets its job if it is whole now), or holds it.
    /// Otherwise it is given back, to begin at once.
    fn join(
        &mut self,
        mut band: Box<Band>,
        follows: bool,
        whole: &mut Vec<u32>,
    ) -> Option<Box<Band>> {
        let range = band.range();
        let place = self.gathering.held.iter().position(|h| h.range == range);
        if let Some(at) = place {
            let index = self.gathering.held[at].job;
            let Some(Some(Job::Band(held))) = self.jobs.get_mut(index) else {
                unreachable!("what is held is a band")
            };
            if !held.can_join(&band) {
                return Some(band);
            }
            held.join(&mut band);
            if held.is_whole() {
                self.gathering.held.remove(at);
                whole.push(index);
            }
            self.bands.give_back(band);
            return None;
        }
        let room = self.gathering.held.len() < HELD_MAX;
        if !(follows && room && band.begins_row()) {
            return Some(band);
        }
        let job = self.jobs.insert(Some(Job::Band(band)));
        let since = self.gathering.jobs_ended;
        self.gathering.held.push(Held { job, range, since });
        None
    }

    fn let_go(&mut self, rig: &mut Rig<'_>, index: u32) {
        let job = self.take(index);
        let step = self.start(rig, index, job);
        self.put_back(index, step);
    }

    /// What must hold between two events: what is held has not begun, and something else will end.
    pub(super) fn check_held(&self) {
        for held in &self.gathering.held {
            let job = self.jobs.get(held.job);
            let waits = match job {
                Some(Some(Job::Band(band))) => !band.has_begun() && !band.is_whole(),
                _ => false,
            };
            assert!(waits, "what is held is a band that waits for its row");
        }
        let held = self.gathering.held.len();
        assert!(held <= HELD_MAX, "more is held than may be");
        let woken = held == 0 || self.jobs.len() > held;
        assert!(woken, "nothing will wake what is held");
    }

    /// Begins what was held for long enough: everything, when nothing else is under way.
    pub fn release_held(&mut self, rig: &mut Rig<'_>) -> bool {
        if self.gathering.held.is_empty() {
            return false;
        }
        let idle = self.jobs.len() == self.gathering.held.len();
        let ended = self.gathering.jobs_ended;
        let due = |held: &Held| idle || ended - held.since >= PATIENCE_JOBS;
        let (due, kept) = std::mem::take(&mut self.gathering.held)
            .into_iter()
            .partition(due);
        self.gathering.held = kept;
        let due: Vec<Held> = due;
        for held in &due {
            self.let_go(rig, held.job);
        }
        !due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_what_goes_on_where_something_ended() {
        let mut gathering = Gathering::default();
        assert!(!gathering.follows(0, 8));
        assert!(gathering.follows(8, 8));
        assert!(!gathering.follows(100, 4), "another stream");
        assert!(gathering.follows(16, 8), "the first goes on");
        assert!(gathering.follows(104, 4));
        assert!(!gathering.follows(16, 8), "that was written");
        for n in 0..STREAMS as u64 {
            assert!(!gathering.follows(1000 * n + 500, 1));
        }
        assert!(!gathering.follows(108, 4), "too many streams since");
    }
}
