//! Level faulty: which requests of hosts fail although their member works.
//!
//! ```text
//!   request --> write-all? ------------------------------------------> refused, never sent
//!      |        a remembered place in its range? --.
//!      |        a mode whose turn it is?  ---------+--> sent, and answered with an error
//!      |             `-- persistent, fixable: its first sector is remembered
//!      `------------------------------------------> sent, and answered as the member does
//! ```
//!
//! Of a mode with period n every n-th request fails, of one without the next, once. As on kernel
//! 6.1: every request counts for each mode of its direction, also one that fails anyway; what fails
//! has reached the member all the same, but with write-all; 50 places are remembered, and
//! what fails when there is no room for more is transient. Nothing of this is stored.

use umd_format::faulty::{FaultyLayout, FaultyMode};

/// Places that are remembered.
const PLACES_MAX: usize = 50;

/// What a host is told.
const WHY: &str = "the array pretends a fault here, as its layout asks for (level faulty)";

/// What can be seen of the faults that an array pretends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultyStatus {
    /// Modes that are on, in md's order.
    pub modes: Vec<PretendedMode>,
    /// Every write fails.
    pub write_all: bool,
    /// Places that are remembered.
    pub places: usize,
}

/// A mode that is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PretendedMode {
    /// How requests fail.
    pub mode: FaultyMode,
    /// The next to fail, counted from now: 1 is the next request.
    pub left: u32,
    /// Every how many; 0: only that one.
    pub period: u32,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is served.
    Served,
    /// It is served, and its answer is an error.
    Fails(&'static str),
    /// It is answered with an error at once.
    Refused(&'static str),
}

/// A sector at which requests fail.
#[derive(Debug, Clone, Copy)]
struct Place {
    sector: u64,
    writes: bool,
    reads: bool,
    /// Reads, until it is written.
    fixable: bool,
}

/// The faults of an array.
#[derive(Debug)]
pub struct Faults {
    pending: Vec<PretendedMode>,
    write_all: bool,
    places: Vec<Place>,
}

impl Faults {
    /// Those of an array with this layout.
    pub fn new(layout: FaultyLayout) -> Faults {
        let mut faults = Faults {
            pending: Vec::new(),
            write_all: false,
            places: Vec::new(),
        };
        faults.set(layout);
        faults
    }

    /// One more mode, or an end of them. Modes that are on stay on; one that is set again counts
    /// from its beginning.
    pub fn set(&mut self, layout: FaultyLayout) {
        let FaultyLayout { mode, period } = layout;
        match mode {
            FaultyMode::Flush => self.places.clear(),
            FaultyMode::Clear => {
                self.pending.clear();
                self.write_all = false;
            }
            FaultyMode::WriteAll => self.write_all = true,
            _ => {
                self.pending.retain(|one| one.mode != mode);
                let left = period.max(1);
                self.pending.push(PretendedMode { mode, left, period });
                self.pending.sort_by_key(|one| one.mode);
            }
        }
    }

    /// A host reads these sectors.
    pub fn read(&mut self, start: u64, len: u64) -> Verdict {
        assert!(len > 0, "a request has sectors");
        let inside = |place: &Place| place.sector >= start && place.sector - start < len;
        let bad = |place: &Place| inside(place) && (place.reads || place.fixable);
        let mut fails = self.places.iter().any(bad);
        fails |= self.is_due(FaultyMode::ReadTransient);
        if self.is_due(FaultyMode::ReadPersistent) {
            self.remember(start, |place| place.reads = true);
            fails = true;
        }
        if self.is_due(FaultyMode::ReadFixable) {
            self.remember(start, |place| place.fixable = true);
            fails = true;
        }
        verdict(fails)
    }

    /// A host writes, zeroes or trims these sectors.
    pub fn write(&mut self, start: u64, len: u64) -> Verdict {
        assert!(len > 0, "a request has sectors");
        if self.write_all {
            return Verdict::Refused(WHY);
        }
        let inside = |place: &Place| place.sector >= start && place.sector - start < len;
        let mut fails = self
            .places
            .iter()
            .any(|place| inside(place) && place.writes);
        for place in self.places.iter_mut().filter(|place| inside(place)) {
            place.fixable = false;
        }
        self.places
            .retain(|place| place.writes || place.reads || place.fixable);
        if self.is_due(FaultyMode::WritePersistent) {
            self.remember(start, |place| place.writes = true);
            fails = true;
        }
        fails |= self.is_due(FaultyMode::WriteTransient);
        verdict(fails)
    }

    /// Counts a request for a mode; whether it is the one that fails.
    fn is_due(&mut self, mode: FaultyMode) -> bool {
        let Some(at) = self.pending.iter().position(|one| one.mode == mode) else {
            return false;
        };
        let one = &mut self.pending[at];
        assert!(one.left > 0, "a mode that is over is gone");
        one.left -= 1;
        if one.left > 0 {
            return false;
        }
        one.left = one.period;
        if one.period == 0 {
            self.pending.remove(at);
        }
        true
    }

    fn remember(&mut self, sector: u64, how: impl FnOnce(&mut Place)) {
        let known = self.places.iter().position(|place| place.sector == sector);
        let at = match known {
            Some(at) => at,
            None if self.places.len() == PLACES_MAX => return,
            None => {
                self.places.push(Place {
                    sector,
                    writes: false,
                    reads: false,
                    fixable: false,
                });
                self.places.len() - 1
            }
        };
        how(&mut self.places[at]);
        assert!(self.places.len() <= PLACES_MAX, "no more are remembered");
    }

    /// What can be seen of them.
    pub fn status(&self) -> FaultyStatus {
        FaultyStatus {
            modes: self.pending.clone(),
            write_all: self.write_all,
            places: self.places.len(),
        }
    }
}

fn verdict(fails: bool) -> Verdict {
    match fails {
        true => Verdict::Fails(WHY),
        false => Verdict::Served,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(words: &[&str]) -> Faults {
        let mut faults = Faults::new(FaultyLayout::NONE);
        for word in words {
            faults.set(FaultyLayout::from_word(word).expect(word));
        }
        faults
    }

    /// Which of the requests fail, as a string of `.` and `X`; `w3` writes sectors 24 to 31.
    fn run(faults: &mut Faults, requests: &str) -> String {
        let one = |word: &str| {
            let at: u64 = word[1..].parse().expect("a number");
            let verdict = match word.starts_with('r') {
                true => faults.read(at * 8, 8),
                false => faults.write(at * 8, 8),
            };
            match verdict {
                Verdict::Served => '.',
                Verdict::Fails(_) => 'X',
                Verdict::Refused(_) => 'R',
            }
        };
        requests.split_whitespace().map(one).collect()
    }

    #[test]
    fn transient_faults_come_by_their_period_and_go() {
        let reads = "r1 r2 r3 r4 r5 r6 r3 w1";
        assert_eq!(run(&mut faults(&["rt3"]), reads), "..X..X..");
        assert_eq!(run(&mut faults(&["rt"]), reads), "X.......");
        assert_eq!(run(&mut faults(&["rt1"]), reads), "XXXXXXX.");
        let writes = "w1 w2 r1 r2 w3 w4 w3 r3";
        assert_eq!(run(&mut faults(&["wt2"]), writes), ".X...X..");
        assert_eq!(run(&mut faults(&["wt"]), writes), "X.......");
    }

    #[test]
    fn persistent_faults_stay_for_their_direction() {
        let mut reads = faults(&["rp2"]);
        assert_eq!(run(&mut reads, "r1 r2 r2 r2 w2"), ".XXX.");
        // The last one was due at 2, and is the same place.
        assert_eq!(reads.status().places, 1);
        let mut writes = faults(&["wp"]);
        assert_eq!(run(&mut writes, "w5 w5 w6 r5 w5 w4"), "XX..X.");
    }

    #[test]
    fn only_the_first_sector_of_a_request_is_remembered() {
        let mut one = faults(&["rp"]);
        assert_eq!(one.read(8, 8), Verdict::Fails(WHY));
        assert_eq!(one.read(9, 100), Verdict::Served);
        assert_eq!(one.read(0, 8), Verdict::Served);
        assert_eq!(one.read(0, 9), Verdict::Fails(WHY));
        assert_eq!(one.read(u64::MAX - 1, 1), Verdict::Served);
    }

    #[test]
    fn what_is_fixable_fails_until_it_is_written() {
        let mut one = faults(&["rf"]);
        assert_eq!(run(&mut one, "r1 r1 r2 w2 r1 w1 r1"), "XX..X..");
        assert_eq!(one.status().places, 0);
        let mut both = faults(&["rf", "wp"]);
        assert_eq!(run(&mut both, "r1 w1 r1 w1"), "XX.X");
        assert_eq!(both.status().places, 1);
    }

    #[test]
    fn write_all_refuses_writes_only_until_it_is_cleared() {
        let mut one = faults(&["wa9"]);
        assert_eq!(run(&mut one, "w1 r1 w2"), "R.R");
        one.set(FaultyLayout::from_word("flush").expect("a word"));
        assert_eq!(run(&mut one, "w1"), "R");
        one.set(FaultyLayout::NONE);
        assert_eq!(run(&mut one, "w1"), ".");
    }

    #[test]
    fn clear_ends_modes_and_flush_forgets_places() {
        let mut one = faults(&["rp2", "wt1"]);
        assert_eq!(run(&mut one, "r1 r2 w1"), ".XX");
        one.set(FaultyLayout::NONE);
        assert_eq!(run(&mut one, "r3 r4 w1 r2"), "...X");
        one.set(FaultyLayout::from_word("flush").expect("a word"));
        assert_eq!(run(&mut one, "r2"), ".");
    }

    #[test]
    fn modes_count_beside_each_other() {
        let mut one = faults(&["rt2", "rp3"]);
        assert_eq!(run(&mut one, "r1 r2 r3 r4 r5 r6 r3 r7"), ".XXX.XXX");
        let seen = one.status();
        let left: Vec<(u32, u32)> = seen.modes.iter().map(|m| (m.left, m.period)).collect();
        assert_eq!(left, [(2, 2), (1, 3)]);
    }

    #[test]
    fn fifty_places_are_remembered_and_no_more() {
        let mut one = faults(&["rp1"]);
        for at in 0..PLACES_MAX as u64 + 5 {
            assert_eq!(one.read(at, 1), Verdict::Fails(WHY));
        }
        one.set(FaultyLayout::NONE);
        assert_eq!(one.status().places, 50);
        assert_eq!(one.read(49, 1), Verdict::Fails(WHY));
        assert_eq!(one.read(50, 1), Verdict::Served);
    }
}
