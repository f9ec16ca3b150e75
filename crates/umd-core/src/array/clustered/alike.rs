//! Whether the bitmaps of all nodes are alike: one member after the other is looked at.
//!
//! ```text
//!   served for a while, or others have changed them --> all of each member --> not alike: wished
//! ```

use super::shared::ALIKE;
use crate::array::Array;
use crate::member::{Io, State};
use crate::value::{Instant, IoDone, IoError, MemberId, Span};

/// When all bitmaps are looked at, after it has begun to matter.
const LOOK_AFTER: Span = Span::secs(10);

/// Whether all bitmaps are alike.
#[derive(Debug, Default)]
pub(super) enum Look {
    #[default]
    Never,
    Due(Instant),
    /// One member after the other; what was the longest.
    At {
        members: Vec<MemberId>,
        under_way: bool,
        uneven: Option<u32>,
    },
}

impl Array {
    /// Looks at all bitmaps when this has passed.
    pub(super) fn look_later(&mut self) {
        let at = self.io.now().mono + LOOK_AFTER;
        self.chunks_mut().look = Look::Due(at);
    }

    pub(super) fn maintain_look(&mut self) -> bool {
        let now = self.io.now().mono;
        let works = self.may_write() && !self.io.is_cut_off();
        let shared = self.shared_mut();
        let may = works && shared.ready && !shared.is_leaving() && !shared.frozen;
        let free = !shared.chunks.is_wanted() && !shared.sizes.is_wanted();
        let free = free && !shared.moves.holds();
        match &shared.chunks.look {
            Look::Never => false,
            Look::Due(at) if now < *at => false,
            Look::Due(_) if !works || shared.is_leaving() => {
                shared.chunks.look = Look::Never;
                true
            }
            Look::Due(_) if !may || !free || shared.chunks.told.is_some() => {
                self.look_later();
                true
            }
            Look::Due(_) => {
                self.begin_look();
                true
            }
            Look::At {
                under_way: true, ..
            } => false,
            Look::At { .. } => {
                self.look_on();
                true
            }
        }
    }

    /// At the next member; or all were seen.
    fn look_on(&mut self) {
        let Look::At {
            mut members,
            uneven,
            ..
        } = std::mem::take(&mut self.chunks_mut().look)
        else {
            unreachable!("looked at just before");
        };
        let Some(next) = members.pop() else {
            return self.looked(uneven);
        };
        let there = self
            .members
            .get(next)
            .is_some_and(|m| m.state == State::InSync);
        let under_way = there && !self.io.is_cut_off();
        if under_way {
            self.read_all(next, ALIKE);
        }
        self.chunks_mut().look = Look::At {
            members,
            under_way,
            uneven,
        };
    }

    pub(super) fn begin_look(&mut self) {
        let in_sync = self.members.iter().filter(|m| m.state == State::InSync);
        let members = in_sync.map(|m| m.id).collect();
        self.chunks_mut().look = Look::At {
            members,
            under_way: false,
            uneven: None,
        };
    }

    pub(super) fn look_done(&mut self, result: Result<IoDone, IoError>) {
        let read = Io::read_result(result).ok().map(|buf| buf.freeze());
        let place = self.shared_mut().place;
        let own = self.region_bytes();
        let area = read.as_ref().map(|buf| buf.as_slice());
        let parts = area.into_iter().flat_map(|area| {
            (0..place.nodes).filter_map(|slot| self.length_in(&self.part_of(area, slot)))
        });
        let other = parts.filter(|bytes| *bytes != own).max();
        // Somebody has moved them, or was about to, and a member does not know that it is over.
        let moving = area
            .is_some_and(|area| self.says_moving(area))
            .then_some(own);
        let other = other.max(moving);
        if let Look::At {
            under_way, uneven, ..
        } = &mut self.chunks_mut().look
        {
            *under_way = false;
            *uneven = (*uneven).max(other);
        }
    }
    /// What the bits of a slot stand for, if they can stand for that where it lies.
    fn length_in(&self, part: &[u8]) -> Option<u32> {
        let bytes = self.found_in(part)?.fields.region_raw;
        self.can_stand_here_for(bytes, 0).ok().map(|()| bytes)
    }
}
