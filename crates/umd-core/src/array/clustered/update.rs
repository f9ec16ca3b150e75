//! Superblocks under the token.
//!
//! ```text
//!   owes --> wished --> (token) Recheck --> Write --> written --> told to all --> Ok: recorded
//!    ^                                                              | a node could not follow
//!    '------------------------ later <------------------------------'
//! ```
//!
//! A failure holds whoever says so: that another node has recorded it does not tell that all have
//! followed, so it is recorded again.

use super::changes::{Change, not_followed};
use super::reload::Reload;
use crate::array::Array;
use crate::cluster::{Answer, Cannot, Desk, DeviceNumber, Event, Failure, Wish, WishId};
use crate::member::State;
use crate::value::{Instant, Span};

/// A node that could not follow gets another chance after that time.
const AGAIN_AFTER: Span = Span::secs(10);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    #[default]
    Idle,
    Wished(WishId),
    Resting(Instant),
    /// This node leaves: nothing is taken from it any more.
    Never,
}

/// The update that is wanted, or under way.
#[derive(Debug, Default)]
pub(super) struct Update {
    at: At,
    wishes: u64,
    /// It is this node's turn to write.
    pub(super) write_wanted: bool,
    writing: bool,
}

impl Update {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.at {
            At::Resting(until) => Some(until),
            _ => None,
        }
    }

    /// The name of another wish.
    pub(super) fn next_wish(&mut self) -> WishId {
        self.wishes += 1;
        WishId(self.wishes)
    }

    /// Whether superblocks are being written, or are about to be.
    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }
}

impl Array {
    pub(super) fn recheck(&mut self, ids: Vec<WishId>) -> Answer {
        if !self.may_write() {
            return Answer::Holds(Vec::new());
        }
        // What is written depends on bitmaps, and they wait for another node.
        let moves = |id: &WishId| self.is_move(*id);
        if self.bitmaps_hold() && !ids.iter().any(moves) {
            return Answer::Holds(Vec::new());
        }
        if let [id] = ids[..]
            && self.is_size(id)
        {
            return Answer::Holds(ids.into_iter().filter(|id| self.size_holds(*id)).collect());
        }
        if let [id] = ids[..]
            && self.is_chunk(id)
        {
            return Answer::Holds(ids.into_iter().filter(|_| self.chunk_holds()).collect());
        }
        let (owes, may_fill) = (self.metadata.owes(), self.may_fill());
        let fills = self.next_fill().filter(|_| may_fill).map(|fill| fill.spare);
        let changes = &self.shared.as_ref().expect("in a cluster").changes;
        let holds = |id: &WishId| match changes.get(id) {
            Some(change) if change.is_fill() => fills == Some(change.member()),
            Some(change) => self.still_holds(change),
            None => owes,
        };
        let ids: Vec<WishId> = ids.into_iter().filter(holds).collect();
        let adds = |id: &WishId| changes.get(id).is_some_and(Change::is_new_disk);
        if ids.iter().any(adds) {
            self.shared_mut().spares_wait = false;
        }
        Answer::Holds(ids)
    }

    pub(super) fn update_over(&mut self, id: WishId, failure: Option<&Failure>) {
        let now = self.io.now().mono;
        let update = &mut self.shared_mut().update;
        assert!(update.at == At::Wished(id), "an answer to a wish of ours");
        update.at = match failure {
            None | Some(Failure::Moot) => At::Idle,
            Some(Failure::Nodes(_)) => At::Resting(now + AGAIN_AFTER),
            Some(Failure::Leaving) => At::Never,
        };
        match failure {
            None => self.metadata.confirm(),
            Some(Failure::Leaving) => self.lane.others_mut().unrecordable = true,
            Some(Failure::Nodes(_)) => {
                let written = self.metadata.unconfirmed();
                self.tell_waiting(written, &not_followed(failure));
            }
            Some(Failure::Moot) => {}
        }
    }

    pub(super) fn maintain_update(&mut self) -> bool {
        let moved = self.maintain_writing() | self.maintain_fill();
        let now = self.io.now().mono;
        // What a change has done here is written in its own turn.
        let shared = self.shared_mut();
        let carried = shared.changes.values().any(Change::is_applied) || shared.sizes.is_applied();
        let owes = self.may_write() && self.metadata.owes() && !carried && !self.bitmaps_hold();
        let update = &mut self.shared_mut().update;
        // Also where nothing can be written any more: a deadline that has passed is none.
        if matches!(update.at, At::Resting(until) if now >= until) {
            update.at = At::Idle;
        }
        if update.at != At::Idle || !owes {
            return moved;
        }
        let id = update.next_wish();
        update.at = At::Wished(id);
        self.shared_mut().say(Event::Wish(id, Wish::Update));
        true
    }

    /// The write that it is this node's turn to make.
    fn maintain_writing(&mut self) -> bool {
        let may_write = self.may_write();
        let reload = self.shared_mut().reload.as_ref();
        let reading = reload.is_some_and(Reload::has_begun);
        let update = &mut self.shared_mut().update;
        // Nothing is read while it is written, and the other way round.
        if update.write_wanted && (!reading || !may_write) {
            if self.spreads() {
                return false;
            }
            if may_write {
                self.hand_over_under_token();
                self.legs_under_token();
            }
            let update = &mut self.shared_mut().update;
            update.write_wanted = false;
            update.writing = true;
            if may_write {
                self.metadata.permit();
            }
            return true;
        }
        if !update.writing {
            return false;
        }
        let in_sync = self.members.iter().find(|m| m.state == State::InSync);
        let good = in_sync.map(|m| DeviceNumber(m.number()));
        let answer = match (self.metadata.has_written(), good) {
            (true, Some(good)) => Answer::Written(good),
            (false, _) if may_write => return false,
            _ if !self.metadata.rests() && !self.io.is_cut_off() => return false,
            _ => {
                self.metadata.withdraw();
                Answer::Cannot(Cannot::Work)
            }
        };
        let shared = self.shared_mut();
        shared.update.writing = false;
        shared.unwritten = None;
        shared.answer(Desk::Turn, answer);
        true
    }
}
