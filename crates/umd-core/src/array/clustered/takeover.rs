//! The bitmap of a node that died: its bits become this node's, then it is cleared.
//!
//! ```text
//!   CopyBits   read its slot (a member in sync, else the next) -> mark here -> on all members
//!   ClearBits  read its slot                                   -> bits 0, superblock kept, to all
//! ```
//!
//! Its superblock is kept, but for the size and the chunk that all have by now, so that whoever
//! gets the slot next finds what belongs there.

use smallvec::SmallVec;
use umd_format::bitmap::{SUPERBLOCK_BYTES, State as BitmapState, bit_position, carried_over};

use super::shared::tag_of;
use crate::array::Array;
use crate::cluster::{Answer, Cannot, Desk, NodeSlot};
use crate::member::{Effect, Io, Owner, State};
use crate::value::{IoDone, IoError, MemberId, Purpose};

/// A slot that is being taken.
#[derive(Debug)]
pub(super) struct Takeover {
    /// It is to be cleared, after it was copied.
    clears: bool,
    /// Members that did not give it.
    tried: SmallVec<[MemberId; 4]>,
    at: At,
}

#[derive(Debug)]
enum At {
    Read,
    Reading,
    Marking { batch: u64, any: bool },
    Clearing { left: usize },
    Over(Answer),
}

impl Takeover {
    /// Whether nothing of it is under way.
    pub(super) fn waits(&self) -> bool {
        matches!(self.at, At::Read | At::Over(_))
    }
}

impl Array {
    pub(super) fn begin_takeover(&mut self, slot: NodeSlot, clears: bool) {
        let shared = self.shared_mut();
        assert!(slot != shared.place.slot, "the own slot is not taken over");
        let before = shared.takeovers.insert(
            slot,
            Takeover {
                clears,
                tried: SmallVec::new(),
                at: At::Read,
            },
        );
        assert!(before.is_none(), "a desk has one task");
    }

    /// Where the bitmap of a node lies on a member, and how long it is.
    pub(super) fn slot_sectors(&self, member: MemberId, slot: NodeSlot) -> (u64, u64) {
        let place = self.shared.as_ref().expect("in a cluster").place;
        assert!(slot.0 < place.nodes, "a slot of this cluster");
        let member = self.members.get(member).expect("it is there");
        let start = member.superblock.fields.bitmap_sector();
        let start = start.expect("a clustered array has bitmaps");
        (
            start + u64::from(slot.0) * place.each_sectors,
            place.each_sectors,
        )
    }

    pub(super) fn maintain_takeovers(&mut self) -> bool {
        let slots: Vec<NodeSlot> = self.shared_mut().takeovers.keys().copied().collect();
        let mut moved = false;
        for slot in slots {
            moved |= self.go_on_with_slot(slot);
        }
        moved
    }

    fn go_on_with_slot(&mut self, slot: NodeSlot) -> bool {
        let may_write = self.may_write();
        let (holds, leaving) = (self.bitmaps_hold(), self.shared_mut().is_leaving());
        let mut takeover = self.shared_mut().takeovers.remove(&slot);
        let one = takeover.as_mut().expect("just listed");
        let (answer, moved) = match &one.at {
            At::Over(answer) => (Some(answer.clone()), true),
            At::Reading | At::Clearing { .. } if self.io.is_cut_off() => {
                (Some(Answer::Cannot(Cannot::Work)), true)
            }
            At::Reading => (None, false),
            At::Clearing { left } if *left > 0 => (None, false),
            _ if !may_write => (Some(Answer::Cannot(Cannot::Work)), true),
            At::Clearing { .. } => (Some(Answer::Done), true),
            // It is known where it lies when others have moved it.
            At::Read if holds && leaving => (Some(Answer::Cannot(Cannot::Work)), true),
            At::Read if holds => (None, false),
            At::Read => {
                one.at = match self.slot_source(&one.tried) {
                    Some(member) => {
                        one.tried.push(member);
                        let (start, len) = self.slot_sectors(member, slot);
                        let owner = Owner::Cluster { tag: tag_of(slot) };
                        self.io.read(member, start, len, Purpose::Bitmap, owner);
                        At::Reading
                    }
                    None => At::Over(Answer::Cannot(Cannot::Work)),
                };
                (None, true)
            }
            At::Marking { batch, any } => {
                let regions = self.bitmap.regions().expect("a cluster has bitmaps");
                let written = regions.is_written(*batch);
                (written.then_some(Answer::Copied { any: *any }), written)
            }
        };
        let shared = self.shared_mut();
        match answer {
            Some(answer) => shared.answer(Desk::Recovery(slot), answer),
            None => {
                shared.takeovers.extend(takeover.map(|one| (slot, one)));
            }
        }
        moved
    }

    /// The next member in sync that was not asked.
    pub(super) fn slot_source(&self, tried: &[MemberId]) -> Option<MemberId> {
        let mut in_sync = self.members.iter().filter(|m| m.state == State::InSync);
        in_sync.find(|m| !tried.contains(&m.id)).map(|m| m.id)
    }

    pub(super) fn takeover_done(
        &mut self,
        slot: NodeSlot,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        let Some(mut takeover) = self.shared_mut().takeovers.remove(&slot) else {
            return; // It was answered when the cluster was lost.
        };
        takeover.at = match takeover.at {
            At::Clearing { left } => {
                if let Err(error) = result {
                    let why = format!("bitmap write failed: {error}");
                    self.io.effects.push(Effect::Fail(member, why));
                }
                At::Clearing { left: left - 1 }
            }
            At::Reading => match Io::read_result(result) {
                Ok(buf) => self.slot_read(slot, takeover.clears, buf.freeze().as_slice()),
                Err(_) => At::Read,
            },
            at => unreachable!("no I/O is under way at {at:?}"),
        };
        self.shared_mut().takeovers.insert(slot, takeover);
    }

    fn slot_read(&mut self, slot: NodeSlot, clears: bool, area: &[u8]) -> At {
        let Some(set) = self.bits_of(area) else {
            return At::Read;
        };
        if clears {
            return self.clear_slot(slot, area);
        }
        let regions = self.bitmap.regions_mut().expect("a cluster has bitmaps");
        let batch = regions.take_over(&set);
        At::Marking {
            batch,
            any: !set.is_empty(),
        }
    }

    /// The own regions in which a slot calls anything dirty, whatever its bits stand for; `None` if
    /// it is not the bitmap that it should be.
    pub(super) fn bits_of(&self, area: &[u8]) -> Option<Vec<u64>> {
        let found = self.found_in(area)?;
        let own = self.bitmap.writer()?.superblock_fields();
        let regions = self.bitmap.regions()?;
        let fields = &found.fields;
        // The size may be another one where it was just changed, or not yet: never one that takes
        // more or less room.
        let each = found.area_sectors(found.regions(fields.sync_size_sectors));
        let same = each == self.shared.as_ref()?.place.each_sectors && fields.nodes == own.nodes;
        if !same {
            return None;
        }
        let (from, to) = (fields.region_bytes() / 512, regions.region_sectors());
        let room = (area.len() - SUPERBLOCK_BYTES) as u64 * 8;
        let all = fields.state.contains(BitmapState::STALE);
        let set = |region: &u64| {
            let (byte, mask) = bit_position(*region);
            all || area[byte as usize] & mask != 0
        };
        let theirs = (regions.count() * to).div_ceil(from).min(room);
        let set: Vec<u64> = (0..theirs).filter(set).collect();
        Some(carried_over(&set, from, to, regions.count()))
    }

    fn clear_slot(&mut self, slot: NodeSlot, area: &[u8]) -> At {
        let mut bytes = self.slot_image(area).expect("just looked at");
        bytes[SUPERBLOCK_BYTES..].fill(0);
        let bytes = self.io.pool.copy_of(&bytes);
        let active = self.members.iter().filter(|m| m.is_active());
        let ids: SmallVec<[MemberId; 8]> = active.map(|m| m.id).collect();
        for id in &ids {
            let (start, _) = self.slot_sectors(*id, slot);
            let owner = Owner::Cluster { tag: tag_of(slot) };
            self.io
                .write_durable(*id, start, bytes.clone(), Purpose::Bitmap, owner);
        }
        At::Clearing { left: ids.len() }
    }
}
