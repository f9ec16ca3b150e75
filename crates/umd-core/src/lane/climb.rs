//! How long one write stands at the gate, and for what.
//!
//! ```text
//!   first job at the gate --- active? -----> counted once
//!                         --- bitmap? -----> counted once
//!                         --- faults? -----> counted once, and again for each failure met later
//! ```

use crate::value::{Instant, Rung, Rungs};

/// What a request remembers of its climb.
#[derive(Debug, Default)]
pub(super) struct Climb {
    /// Since when it stands at the gate, for each of [`WAITS`] that is not there yet.
    at_gate: Option<[Option<Instant>; WAITS.len()]>,
    /// Since when all of its parts are over.
    ended: Option<Instant>,
}

/// What the gate asks for.
const WAITS: [Rung; 3] = [Rung::Active, Rung::Bitmap, Rung::Faults];

impl Climb {
    /// The gate was asked: which of the three are there.
    pub fn at_gate(&mut self, now: Instant, there: [bool; WAITS.len()], rungs: &mut Rungs) {
        let at_gate = self.at_gate.get_or_insert([Some(now); WAITS.len()]);
        for ((rung, since), there) in WAITS.into_iter().zip(at_gate).zip(there) {
            match since.filter(|_| there) {
                Some(since_when) => {
                    rungs.left(rung, since_when, now);
                    *since = None;
                }
                // It was there, and is not any more.
                None if !there => *since = since.or(Some(now)),
                None => {}
            }
        }
    }

    /// All of its parts are over, and now it is looked at whether it may be answered.
    pub fn ended(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    /// It is answered.
    pub fn answered(&self, now: Instant, rungs: &mut Rungs) {
        rungs.left(Rung::Settle, self.ended.unwrap_or(now), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Span;

    #[test]
    fn the_gate_counts_what_a_write_waited_for() {
        let (mut rungs, mut climb) = (Rungs::default(), Climb::default());
        let seen = |rungs: &Rungs| WAITS.map(|rung| (rungs.of(rung).count(), rungs.of(rung).sum));
        climb.at_gate(Instant(100), [true, false, false], &mut rungs);
        climb.at_gate(Instant(130), [true, true, false], &mut rungs);
        climb.at_gate(Instant(150), [true, true, true], &mut rungs);
        let once = [(1, Span(0)), (1, Span(30)), (1, Span(50))];
        assert_eq!(seen(&rungs), once);
        // Another part of it, and then one that met a failure.
        climb.at_gate(Instant(160), [true, true, true], &mut rungs);
        assert_eq!(seen(&rungs), once);
        climb.at_gate(Instant(200), [true, true, false], &mut rungs);
        climb.at_gate(Instant(203), [true, true, true], &mut rungs);
        assert_eq!(seen(&rungs)[2], (2, Span(53)));
    }
}
