//! A spare gets a slot of the array, and the bitmaps of all nodes before superblocks say so.
//!
//! ```text
//!   (token) spare, empty slot, all see it --> slot given --> read all bitmaps of a member in sync
//!                                                    |
//!                            superblocks <-- written on who is new, but for the own one
//! ```
//!
//! The own bitmap is copied by its writer, those of the others by them when they hear of the new
//! role. What is copied here are the slots of nobody: who joins next has to find them.

use smallvec::SmallVec;

use super::changes::Change;
use super::shared::SPREAD;
use crate::array::Array;
use crate::cluster::NodeSlot;
use crate::member::{Effect, Io, Member, Owner, State};
use crate::value::{IoDone, IoError, MemberId, Purpose, Slot};

/// A spare that is to get a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    slot: Slot,
    pub(super) spare: MemberId,
    /// The member in it goes on until this one is full.
    replaces: bool,
}

/// Bitmaps on their way to members that got a slot.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Who has to get them.
    to: Vec<MemberId>,
    /// Members that did not give them.
    tried: SmallVec<[MemberId; 4]>,
    at: At,
}

#[derive(Debug, Default)]
enum At {
    #[default]
    Due,
    Reading,
    Writing {
        left: usize,
    },
}

impl Spread {
    /// To these members.
    pub(super) fn new(to: Vec<MemberId>) -> Spread {
        let at = At::Due;
        let tried = SmallVec::new();
        Spread { to, tried, at }
    }
}

impl Array {
    /// Whether a spare could get a slot now.
    pub(super) fn may_fill(&mut self) -> bool {
        // What a dead node left is in nobody's slot yet: that comes first.
        let unsure = self.lane.others_mut().read_first;
        let shared = self.shared_mut();
        // A new disk may be taken back as long as it is not known that all have it.
        if !shared.changes.values().all(Change::is_fill) {
            return false;
        }
        let rests = shared.ready && !shared.frozen && !shared.spares_wait && !shared.is_leaving();
        let syncs = self.sync.is_frozen() || self.sync.is_blocked() || self.sync.owes_resync();
        if unsure || !rests || syncs || self.sync.running().is_some() || !self.may_write() {
            return false;
        }
        // A slot is told of with events of its own.
        if self.metadata.is_uneven() {
            return false;
        }
        self.next_fill().is_some()
    }

    /// Who gets a slot: an empty one, or one whose member is to be replaced.
    pub(super) fn next_fill(&self) -> Option<Fill> {
        let again = &self.shared.as_ref().expect("in a cluster").fill_again;
        let fill = |slot: Slot, replaces: bool| {
            let spare = self.spare_for(slot, |id| !again.contains_key(&id))?;
            Some(Fill {
                slot,
                spare,
                replaces,
            })
        };
        let empty = |slot: &Slot| self.members.in_slot(*slot).is_none();
        let mut slots = (0..self.info.raid_disks).map(Slot).filter(empty);
        let first = slots.find_map(|slot| fill(slot, false));
        first.or_else(|| {
            // One that was called in sync too early is filled first.
            let serves = |m: &&Member| m.want_replacement && m.state == State::InSync;
            let wanted = self.members.iter().filter(serves);
            let mut slots = wanted.filter_map(|m| m.slot);
            let free = |slot: &Slot| self.members.replacement_in(*slot).is_none();
            let slot = slots.find(free)?;
            fill(slot, true)
        })
    }

    /// Asks the others whether they see a spare that is needed. Returns whether it did.
    pub(super) fn maintain_fill(&mut self) -> bool {
        let now = self.io.now().mono;
        let shared = self.shared_mut();
        shared.fill_again.retain(|_, again| now < *again);
        if !shared.changes.is_empty() || shared.moves.holds() {
            return false;
        }
        let serves = shared.ready && !shared.is_leaving() && self.may_write();
        let uneven = self.metadata.is_uneven() && !self.metadata.owes();
        if serves && uneven && self.next_fill().is_some() {
            self.metadata.note_change(false);
            return true;
        }
        if !self.may_fill() {
            return false;
        }
        let fill = self.next_fill().expect("it may be filled");
        self.fill_on_all(fill.spare);
        true
    }

    /// Gives this spare its slot; bitmaps go there before superblocks say so.
    pub(super) fn fill_under_token(&mut self, id: MemberId) -> bool {
        let Some(fill) = self.next_fill().filter(|fill| fill.spare == id) else {
            return false;
        };
        self.give_slot(id, fill.slot);
        let member = self.members.get_mut(id).expect("it has a slot");
        member.replacement = fill.replaces;
        self.publish();
        self.cover_recovering();
        self.metadata.note_change(false);
        self.shared_mut().spread = Some(Spread::new(vec![id]));
        true
    }

    /// Not all could follow: it is a spare again, and nobody has begun to fill it.
    pub(super) fn take_slot_back(&mut self, id: MemberId) {
        let given = |m: &&mut Member| matches!(m.state, State::Recovering { .. });
        let Some(member) = self.members.get_mut(id).filter(given) else {
            return; // It has failed meanwhile.
        };
        (member.state, member.slot) = (State::Spare, None);
        member.replacement = false;
        self.cover.forget(id);
        self.sync.unguide(id);
        self.publish();
        self.cover_recovering();
        self.metadata.note_change(false);
    }

    /// Carries on with the copies. Returns whether superblocks have to wait for them.
    pub(super) fn spreads(&mut self) -> bool {
        let Some(mut spread) = self.shared_mut().spread.take() else {
            return false;
        };
        let there = |id: &MemberId| self.members.get(*id).is_some_and(|m| m.is_active());
        spread.to.retain(there);
        let over = spread.to.is_empty() || !self.may_write();
        match spread.at {
            At::Writing { left: 0 } => return false,
            At::Due if over => return false,
            At::Due => {
                let source = self.slot_source(&spread.tried);
                let Some(source) = source else {
                    for id in &spread.to {
                        let why = "the bitmaps of the cluster could not be copied to it".to_owned();
                        self.io.effects.push(Effect::Fail(*id, why));
                    }
                    return true;
                };
                let place = self.shared_mut().place;
                let (start, each) = self.slot_sectors(source, NodeSlot(0));
                let owner = Owner::Cluster { tag: SPREAD };
                let len = each * u64::from(place.nodes);
                self.io.read(source, start, len, Purpose::Bitmap, owner);
                spread.tried.push(source);
                spread.at = At::Reading;
            }
            At::Reading | At::Writing { .. } => {}
        }
        self.shared_mut().spread = Some(spread);
        true
    }

    pub(super) fn spread_done(&mut self, member: MemberId, result: Result<IoDone, IoError>) {
        let Some(mut spread) = self.shared_mut().spread.take() else {
            return; // It was given up when the members were lost.
        };
        spread.at = match spread.at {
            At::Due => unreachable!("nothing is under way"),
            At::Writing { left } => {
                if let Err(error) = result {
                    let why = format!("bitmap write failed: {error}");
                    self.io.effects.push(Effect::Fail(member, why));
                }
                At::Writing { left: left - 1 }
            }
            At::Reading => match Io::read_result(result) {
                Ok(buf) => self.write_bitmaps(&spread.to, buf.freeze().as_slice()),
                Err(_) => At::Due,
            },
        };
        self.shared_mut().spread = Some(spread);
    }

    /// All but the own one.
    fn write_bitmaps(&mut self, to: &[MemberId], area: &[u8]) -> At {
        let place = self.shared_mut().place;
        let mut left = 0;
        for id in to {
            if self.members.get(*id).is_none_or(|m| !m.is_active()) {
                continue;
            }
            for slot in (0..place.nodes).filter(|slot| *slot != place.slot.0) {
                let (sector, each) = self.slot_sectors(*id, NodeSlot(slot));
                let bytes = (each * 512) as usize;
                let from = usize::from(slot) * bytes;
                let part = self.io.pool.copy_of(&area[from..from + bytes]);
                let owner = Owner::Cluster { tag: SPREAD };
                self.io
                    .write_durable(*id, sector, part, Purpose::Bitmap, owner);
                left += 1;
            }
        }
        At::Writing { left }
    }
}
