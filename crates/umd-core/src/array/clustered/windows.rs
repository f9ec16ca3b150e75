//! The one resync of the cluster, when it is run here.
//!
//! ```text
//!   Idle -- a run is due --> Wanted -- May --> Held -- it is over --> Recording --> Ending
//!    ^                                                                               |
//!    '------------------------------------ Ended ------------------------------------'
//!
//!   0 ...... frontier === cursor ......... open ........... asked
//!            |<---------- others do not write here -------->|
//!                                 ^ the run begins nothing behind
//! ```
//!
//! A window begins at the frontier, and is asked for when half of the last one is left, so that a
//! run need not wait for its neighbours. One that had to wait gets a longer window the next time.

use super::missed::Missed;
use crate::array::Array;
use crate::cluster::{Event, ResyncCall, ResyncWord, Window};
use crate::geometry::Geometry;
use crate::value::{Instant, Span, SyncAction};

/// Sectors of the walk that a window covers at first (md: 32 MiB).
pub(super) const WINDOW_SECTORS: u64 = 65_536;
/// How many times longer windows become.
const LONGER_MAX: u64 = 32;
/// A window that was refused is asked for again after that time.
const AGAIN_AFTER: Span = Span::secs(10);

/// Whose turn it is to resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Idle,
    Wanted,
    Held {
        /// Runs begin nothing behind this sector of their walk.
        open: u64,
        /// The same of the window that was asked for.
        asked: Option<u64>,
        /// How long the next one is.
        len: u64,
        /// The last one was refused.
        again: Option<Instant>,
    },
    /// The run is over, and what it came to is not known to all: it stays ours that long. Who joins
    /// while a member is called filled in memory only, and has its turn then, would fill it again
    /// from the start, and what that node writes meanwhile would miss it ahead of its own run.
    Recording,
    Ending,
}

impl Turn {
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Turn::Held { again, .. } => again,
            _ => None,
        }
    }
}

impl Array {
    /// Whether a run may begin here; if not, it is asked for.
    pub(in crate::array) fn may_begin_run(&mut self, action: SyncAction) -> bool {
        let Some(shared) = &mut self.shared else {
            return true;
        };
        let waits = shared.spares_wait && action == SyncAction::Recover;
        let waits = waits || shared.sizes.is_changing() || shared.chunks.is_changing();
        match shared.turn {
            Turn::Held { .. } => !waits,
            Turn::Idle if shared.ready && !waits && !shared.is_leaving() && !shared.frozen => {
                shared.turn = Turn::Wanted;
                shared.say(Event::Resync(ResyncCall::Want));
                false
            }
            Turn::Idle | Turn::Wanted | Turn::Recording | Turn::Ending => false,
        }
    }

    /// A run has begun: it may go nowhere yet, and knows itself how far who it fills is.
    pub(in crate::array) fn run_begun(&mut self, action: SyncAction) {
        if self.shared.is_none() {
            return;
        }
        self.shared_mut().missed = Missed::Unknown;
        self.confine_sync();
        if action == SyncAction::Recover {
            self.cover.close_all();
            for id in self
                .sync
                .running()
                .map(|run| run.targets().to_vec())
                .unwrap_or_default()
            {
                let done = self.cover.done_sectors(id);
                self.cover.set_rebuilt(id, done, done);
            }
        }
    }

    /// A run is over: others may write everywhere, and resync.
    pub(in crate::array) fn run_over(&mut self) {
        if self.shared.is_none() {
            return;
        }
        self.cover_recovering();
        if self.bitmap.owes_resync() {
            self.sync.owe_regions();
        }
        let shared = self.shared_mut();
        if matches!(shared.turn, Turn::Held { .. }) {
            shared.turn = Turn::Recording;
        }
        self.confine_sync();
        self.record_turn();
    }

    /// Gives the turn back when all that its run came to is known. Returns whether it did.
    fn record_turn(&mut self) -> bool {
        let shared = self.shared_mut();
        let recording = shared.turn == Turn::Recording;
        let over = shared.is_leaving() || shared.frozen;
        let ends = recording && (over || !self.may_write() || !self.metadata.owes());
        if ends {
            self.end_turn();
        }
        ends
    }

    fn end_turn(&mut self) {
        let finished = !self.bitmap.owes_resync();
        let shared = self.shared_mut();
        if !matches!(shared.turn, Turn::Idle | Turn::Ending) {
            shared.turn = Turn::Ending;
            shared.say(Event::Resync(ResyncCall::Over { finished }));
        }
        self.confine_sync();
    }

    pub(super) fn resync_word(&mut self, word: ResyncWord) {
        let again = self.io.now().mono + AGAIN_AFTER;
        let knows = self.knows_missed();
        let shared = self.shared_mut();
        if let (ResyncWord::Open(_), Turn::Held { .. }, false) = (&word, shared.turn, knows) {
            shared.missed = shared.missed.window_open(shared.departures);
        }
        let (first, turn) = (shared.window_sectors, &mut shared.turn);
        match (word, *turn) {
            (ResyncWord::May, Turn::Wanted) => {
                *turn = Turn::Held {
                    open: 0,
                    asked: None,
                    len: first,
                    again: None,
                };
            }
            (ResyncWord::Open(_), Turn::Held { asked, len, .. }) => {
                *turn = Turn::Held {
                    open: asked.expect("a window that was asked for"),
                    asked: None,
                    len,
                    again: None,
                };
            }
            (ResyncWord::Refused(_), Turn::Held { open, len, .. }) => {
                let (asked, again) = (None, Some(again));
                *turn = Turn::Held {
                    open,
                    asked,
                    len,
                    again,
                };
            }
            // A node on its way out takes no turn that comes now.
            (ResyncWord::Ended, Turn::Ending | Turn::Wanted) => *turn = Turn::Idle,
            // What was said before the end was heard there.
            (
                ResyncWord::May | ResyncWord::Open(_) | ResyncWord::Refused(_),
                Turn::Recording | Turn::Ending,
            ) => {}
            (ResyncWord::Ended, Turn::Recording) => *turn = Turn::Idle,
            (word, turn) => panic!("{word:?} at {turn:?}"),
        }
        self.confine_sync();
    }

    /// Keeps runs in the window that others know of; nothing goes on while nothing is certain.
    pub(super) fn confine_sync(&mut self) {
        let Some(shared) = &self.shared else { return };
        let within = match shared.turn {
            Turn::Held { open, .. } if !shared.frozen && self.knows_missed() => open,
            _ => 0,
        };
        let unknown = !self.knows_missed();
        self.sync.confine(within, unknown);
    }

    /// Asks for the next window in time. Returns whether it did.
    pub(in crate::array) fn ask_window(&mut self) -> bool {
        let now = self.io.now().mono;
        let Some(run) = self.sync.running() else {
            return false;
        };
        let (frontier, cursor, end) = (run.frontier(), run.cursor(), run.end());
        let action = run.action();
        let Some(shared) = &self.shared else {
            return false;
        };
        let tells_again = match shared.missed {
            _ if self.knows_missed() => false,
            Missed::Read(_) => true,
            Missed::Told | Missed::Reading(_) => return false,
            Missed::Unknown | Missed::Known => false,
        };
        let Turn::Held {
            open,
            asked: None,
            len,
            again,
        } = shared.turn
        else {
            return false;
        };
        let rested = again.is_none_or(|again| now >= again);
        let late = cursor >= open && open > 0;
        let most = shared.window_sectors.saturating_mul(LONGER_MAX);
        let len = if late { (2 * len).min(most) } else { len };
        let near = tells_again || open < end && cursor.saturating_add(len / 2) >= open;
        let over = cursor >= end || shared.frozen || shared.is_leaving();
        if !near || over || !rested {
            return false;
        }
        let to = match tells_again {
            true => open,
            false => cursor.saturating_add(len).min(end),
        };
        let window = self.window_of(action, frontier, to);
        let shared = self.shared_mut();
        shared.turn = Turn::Held {
            open,
            asked: Some(to),
            len,
            again: None,
        };
        shared.say(Event::Resync(ResyncCall::Window(window)));
        true
    }

    /// The array sectors that a part of a walk may write.
    fn window_of(&self, action: SyncAction, from: u64, to: u64) -> Window {
        let size = self.info.array_sectors;
        assert!(from < to, "a part of the walk");
        let (start, end) = match (&*self.geometry, action) {
            // A rebuild walks members: their rows hold the same data, copy beside copy.
            (Geometry::Copied(map), SyncAction::Recover) => {
                let chunk = map.chunk_sectors();
                let wide = u64::from(map.raid_disks());
                let near = u64::from(map.copies_of_each());
                let first = from / chunk * wide / near;
                let last = (to.div_ceil(chunk) * wide).div_ceil(near);
                (first * chunk, last * chunk)
            }
            _ => (from, to),
        };
        let start = start.min(size - 1);
        Window::new(start, end.min(size)).expect("it begins inside the array")
    }

    /// Gives the turn back when nothing is to be done with it any more.
    pub(super) fn maintain_turn(&mut self) -> bool {
        let now = self.io.now().mono;
        if let Turn::Held { again, .. } = &mut self.shared_mut().turn {
            *again = again.filter(|at| now < *at);
        }
        if self.record_turn() {
            return true;
        }
        let due = self.due_action().filter(|_| self.may_write());
        let shared = self.shared_mut();
        let held = matches!(shared.turn, Turn::Held { .. } | Turn::Wanted);
        // As `may_begin_run` has it: else the turn is asked for and given back for ever.
        let waits = |action| shared.spares_wait && action == SyncAction::Recover;
        let wants = due.is_some_and(|action| !waits(action));
        if !held || wants || self.sync.running().is_some() {
            return false;
        }
        self.end_turn();
        true
    }
}
