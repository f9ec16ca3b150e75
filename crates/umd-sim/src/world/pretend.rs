//! Level faulty: which requests have to fail, by md's rules as the simulator understands them.
//!
//! ```text
//!   layout 0x81 = mode 1, period 4    every request of its direction counts
//!   mode  0 wt  1 rt  2 wp  3 rp  4 wa  5 rf  30 flush  31 clear
//!
//!   read:  its range has a bad place for reads?  or rt, rp, rf is due?    -> done, and an error
//!   write: wa? -> not done, an error;  a bad place for writes? wp, wt due? -> done, and an error
//! ```
//!
//! Written from what kernels do (docs/on-disk.md), and not shared with the engine. What the engine
//! says about itself is compared after each answer, so that a slip is seen before it shows.

use std::collections::BTreeMap;
use std::ops::Range;

use umd_core::array::{ArrayState, Control, FaultyStatus, RequestError};
use umd_core::value::RequestId;
use umd_format::FaultyLayout;

use super::World;
use super::admin::Request;
use super::host::{Kind, Pending};
use crate::monitor::{Rule, Verdict, Violation};
use crate::options::Options;

/// What has to become of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is served as at every other level.
    #[default]
    Served,
    /// It is done, and its answer is an error.
    Fails,
    /// It is not done, and its answer is an error.
    Refused,
}

/// Places that are remembered.
const MOST: usize = 50;

const WRITES: u8 = 1;
const READS: u8 = 2;
/// Reads, until it is written.
const UNTIL_WRITTEN: u8 = 4;

const WRITE_ALL: usize = 4;
const FLUSH: usize = 30;
const CLEAR: usize = 31;

/// When a mode strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    left: u32,
    period: u32,
}

/// What was asked for, and what came of it.
#[derive(Debug, Clone, Default)]
struct Rules {
    counts: [Option<Count>; 6],
    no_writes: bool,
    bad: BTreeMap<u64, u8>,
}

/// The rules, and what they were before the last request.
#[derive(Debug, Clone)]
pub(super) struct Pretence {
    rules: Rules,
    before: Option<(RequestId, Rules)>,
}

impl Rules {
    fn ask(&mut self, layout: u32) {
        let (mode, period) = ((layout & 31) as usize, layout >> 5);
        match mode {
            WRITE_ALL => self.no_writes = true,
            FLUSH => self.bad.clear(),
            CLEAR => (self.counts, self.no_writes) = ([None; 6], false),
            _ => {
                let left = if period == 0 { 1 } else { period };
                self.counts[mode] = Some(Count { left, period });
            }
        }
    }

    /// One more request for a mode. Whether it strikes.
    fn strikes(&mut self, mode: usize) -> bool {
        let Some(Count { left, period }) = self.counts[mode] else {
            return false;
        };
        self.counts[mode] = match (left, period) {
            (1, 0) => None,
            (1, _) => Some(Count {
                left: period,
                period,
            }),
            _ => Some(Count {
                left: left - 1,
                period,
            }),
        };
        left == 1
    }

    fn spoil(&mut self, sector: u64, how: u8) {
        if self.bad.len() < MOST || self.bad.contains_key(&sector) {
            *self.bad.entry(sector).or_default() |= how;
        }
    }

    fn is_bad(&self, range: &Range<u64>, how: u8) -> bool {
        let mut places = self.bad.range(range.clone());
        places.any(|(_, place)| place & how != 0)
    }

    fn read(&mut self, range: &Range<u64>) -> Wanted {
        let mut fails = self.is_bad(range, READS | UNTIL_WRITTEN);
        for (mode, how) in [(1, 0), (3, READS), (5, UNTIL_WRITTEN)] {
            if self.strikes(mode) {
                fails = true;
                if how != 0 {
                    self.spoil(range.start, how);
                }
            }
        }
        if fails { Wanted::Fails } else { Wanted::Served }
    }

    fn write(&mut self, range: &Range<u64>) -> Wanted {
        if self.no_writes {
            return Wanted::Refused;
        }
        let mut fails = self.is_bad(range, WRITES);
        for (_, place) in self.bad.range_mut(range.clone()) {
            *place &= !UNTIL_WRITTEN;
        }
        self.bad.retain(|_, place| *place != 0);
        if self.strikes(2) {
            self.spoil(range.start, WRITES);
            fails = true;
        }
        fails |= self.strikes(0);
        if fails { Wanted::Fails } else { Wanted::Served }
    }

    /// Whether the engine says the same about itself.
    fn agree(&self, shown: &FaultyStatus) -> bool {
        let mut counts = [None; 6];
        for one in &shown.modes {
            let layout = FaultyLayout {
                mode: one.mode,
                period: 0,
            };
            let (left, period) = (one.left, one.period);
            counts[layout.to_raw() as usize] = Some(Count { left, period });
        }
        let places = shown.places == self.bad.len();
        counts == self.counts && shown.write_all == self.no_writes && places
    }
}

impl Pretence {
    /// Of an array that starts: what was asked for since it was made is forgotten. Only level
    /// faulty has one.
    pub(super) fn of(options: &Options) -> Option<Pretence> {
        if options.level != -5 {
            return None;
        }
        let mut rules = Rules::default();
        rules.ask(options.layout);
        Some(Pretence {
            rules,
            before: None,
        })
    }
}

impl World<'_> {
    /// What has to become of a request that is about to be made.
    pub(super) fn judge(&mut self, id: RequestId, kind: Kind, range: &Range<u64>) -> Wanted {
        let broken = self.live().status.state == ArrayState::Broken;
        let Some(pretence) = &mut self.pretence else {
            return Wanted::Served;
        };
        pretence.before = Some((id, pretence.rules.clone()));
        match kind {
            Kind::Read => pretence.rules.read(range),
            // A broken array says no before anybody counts.
            Kind::Write { .. } | Kind::Trim { .. } if !broken => pretence.rules.write(range),
            _ => Wanted::Served,
        }
    }

    /// An answer is that of the rules, whatever else may be wrong with it.
    pub(super) fn check_wanted(
        &mut self,
        id: RequestId,
        pending: &Pending,
        error: Option<&RequestError>,
    ) -> Verdict {
        let Some(pretence) = &mut self.pretence else {
            return Ok(());
        };
        let refused = matches!(error, Some(RequestError::ReadOnly | RequestError::Stopping));
        if refused {
            // Nobody has counted it. It was refused at once, before there was another one.
            match pretence.before.take() {
                Some((last, before)) if last == id => pretence.rules = before,
                _ => {
                    let text = format!("{id:?} was refused later than it was made");
                    return Err(Violation::new(Rule::Pretence, text));
                }
            }
        }
        let says = error.is_some_and(|error| error.to_string().contains("level faulty"));
        let wanted = pending.wanted != Wanted::Served && !refused;
        if says != wanted {
            let text = format!(
                "{id:?} {pending:?} ended with {error:?}, by {:?}",
                pretence.rules
            );
            return Err(Violation::new(Rule::Pretence, text));
        }
        let shown = &self
            .live
            .as_ref()
            .expect("an array is running")
            .status
            .faulty;
        let agree = |shown| self.pretence.as_ref().is_some_and(|p| p.rules.agree(shown));
        if shown.as_ref().is_some_and(agree) {
            return Ok(());
        }
        let text = format!("{id:?}: {shown:?} instead of {:?}", self.pretence);
        Err(Violation::new(Rule::Pretence, text))
    }

    /// The administrator wants another mode.
    pub(super) fn change_mode(&mut self, layout: u32) -> Control {
        if let Some(pretence) = &mut self.pretence {
            pretence.rules.ask(layout);
            pretence.before = None;
        }
        Control::Layout(FaultyLayout::parse(layout).expect("a layout"))
    }

    /// Before everything is read, mostly: an end of all modes, and of what they left.
    pub(super) fn relent(&mut self) -> Verdict {
        if self.pretence.is_none() || self.admin_rng.permille(250) {
            return Ok(());
        }
        self.ask(Request::Mode(CLEAR as u32))?;
        self.ask(Request::Mode(FLUSH as u32))
    }
}

#[cfg(test)]
#[path = "pretend_tests.rs"]
mod tests;
