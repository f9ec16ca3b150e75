//! Ends of member I/O that the engine hears of together, as it does where its loop has been busy.
//!
//! ```text
//!   disks     x   x  xx            x     x timer x
//!   engine    |----------> [4]     |->[2]         |->[1]
//!             `- so long, and so many at most: drawn when the first of them ends
//! ```
//!
//! What else happens meanwhile is told in its turn: the engine hears of all that ended before it.

use umd_core::array::{Completion, Event};
use umd_core::value::{Instant, Span};

use super::{Ev, World};
use crate::monitor::Verdict;
use crate::rng::{Rng, Stream};

/// What has ended and is not told.
pub(super) struct Ends {
    rng: Rng,
    /// How they come.
    manner: Manner,
    all: Vec<Completion>,
    most: usize,
    until: Instant,
}

/// How ends come in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    OneByOne,
    /// A few at a time, such as end close together.
    Few,
    /// As many as there are, for a while.
    Many,
}

impl Ends {
    /// Those of one boot.
    pub(super) fn new(seed: u64, boot: u16) -> Ends {
        let mut rng = Rng::new(seed, Stream::Ends(boot));
        Ends {
            manner: rng.pick(&[Manner::OneByOne, Manner::Few, Manner::Many]),
            rng,
            all: Vec::new(),
            most: 1,
            until: Instant(0),
        }
    }

    /// One more, of a disk that takes so long over a read.
    pub(super) fn add(&mut self, now: Instant, read_ns: u64, done: Completion) {
        if self.all.is_empty() {
            (self.most, self.until) = match self.manner {
                Manner::OneByOne => (1, now),
                Manner::Few => (
                    self.rng.index(4) + 1,
                    now + Span(self.rng.below(read_ns / 4)),
                ),
                Manner::Many => (
                    self.rng.index(64) + 1,
                    now + Span(self.rng.below(read_ns * 2)),
                ),
            };
        }
        self.all.push(done);
    }

    /// Whether the next one, which is due then, is still to be among them.
    fn takes(&self, due: Instant) -> bool {
        !self.all.is_empty() && self.all.len() < self.most && due <= self.until
    }
}

impl World<'_> {
    /// Tells what has ended, if no more is to come with it.
    pub(super) fn tell_ends(&mut self) -> Verdict {
        let next = match self.queue.peek() {
            Some((due, Ev::Io { .. })) => Some(due),
            _ => None,
        };
        let ends = &self.live().ends;
        match next.is_some_and(|due| ends.takes(due)) {
            true => Ok(()),
            false => self.tell_all_ends(),
        }
    }

    /// Tells what has ended.
    pub(super) fn tell_all_ends(&mut self) -> Verdict {
        let mut all = std::mem::take(&mut self.live_mut().ends.all);
        let event = match all.len() {
            0 => return Ok(()),
            1 => Event::Done(all.remove(0)),
            _ => Event::Ended(all),
        };
        self.deliver(event)?;
        self.look_again_at_lies();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_core::value::{IoDone, IoId};

    fn done(io: u64) -> Completion {
        let result = Ok(IoDone::Done);
        Completion {
            io: IoId(io),
            result,
        }
    }

    /// All three ways are drawn, and those that let several come together do.
    #[test]
    fn ends_come_together_in_some_boots_and_alone_in_others() {
        let (mut alone, mut together) = (0, 0);
        for seed in 0..60 {
            let mut ends = Ends::new(seed, 0);
            let mut longest = 0;
            for io in 0..100 {
                ends.add(Instant(5), 1000, done(io));
                longest = longest.max(ends.all.len());
                if !ends.takes(Instant(5)) {
                    ends.all.clear();
                }
            }
            assert_eq!(longest == 1, ends.manner == Manner::OneByOne);
            alone += u32::from(longest == 1);
            together += u32::from(longest > 4);
        }
        assert!(alone > 5 && together > 5, "{alone} {together}");
    }

    #[test]
    fn nothing_is_kept_longer_than_was_drawn() {
        for seed in 0..60 {
            let mut ends = Ends::new(seed, 0);
            ends.add(Instant(100), 1000, done(1));
            assert!(!ends.takes(Instant(100 + 2000)));
        }
    }
}
