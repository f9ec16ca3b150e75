//! A RAID1 of a cluster gets more slots, or fewer.
//!
//! ```text
//!   asked --> an update is owed --> (token) still so? --> slots change, superblocks --> all follow
//!     ^                                |                                                    |
//!     '---------- answered <-----------'------------------------------ answered <-----------'
//! ```
//!
//! What comes is empty on every node until a spare gets it, and what goes was empty. So nodes may
//! learn of it one after the other, with writes under way: to each of them the others look as if
//! they lacked a member.

use std::collections::BTreeMap;

use umd_format::{Level, Role, SuperblockV1};

use super::changes::{Change, not_begun};
use crate::array::Array;
use crate::array::legs::LEGS_MAX;
use crate::cluster::{Cannot, Failure};
use crate::value::{ControlError, ControlId, ControlReply, LegsWish, MemberId, Notice};

/// Another number of slots, before it is this node's turn to record it.
#[derive(Debug)]
pub(super) struct Legs {
    control: ControlId,
    wish: LegsWish,
}

/// Whether two superblocks may tell of different numbers of slots.
pub(super) fn may_differ(known: &SuperblockV1, found: &SuperblockV1) -> bool {
    let (a, b) = (&known.fields, &found.fields);
    a.raid_disks == b.raid_disks || a.level == Level::Raid1 && b.level == Level::Raid1
}

impl Array {
    /// An administrator wants another number of slots, on all nodes.
    pub(super) fn legs_on_all(&mut self, control: ControlId, wish: LegsWish) {
        let same = wish.raid_disks == self.info.raid_disks;
        match self.may_have_legs_on_all(&wish) {
            Ok(()) if same || wish.only_asked => self.answer(control, Ok(ControlReply::Done)),
            Ok(()) => {
                self.shared_mut().legs = Some(Legs { control, wish });
                self.metadata.note_change(false);
            }
            Err(error) => self.answer(control, Err(error)),
        }
    }

    fn may_have_legs_on_all(&self, wish: &LegsWish) -> Result<(), ControlError> {
        let busy = |text: &str| Err(ControlError::Busy(text.into()));
        self.may_have_legs(wish)?;
        let shared = self.shared.as_ref().expect("in a cluster");
        if !shared.ready || shared.is_leaving() {
            return busy("this node is joining or leaving its cluster; try again when it serves");
        }
        if shared.legs.is_some() || shared.sizes.is_changing() {
            return busy("the array is being changed already");
        }
        Ok(())
    }

    /// It is this node's turn to write: what others have recorded is known here.
    pub(super) fn legs_under_token(&mut self) {
        let shared = self.shared.as_ref().expect("in a cluster");
        let carried = shared.changes.values().any(Change::is_applied) || shared.sizes.is_applied();
        if carried || shared.unwritten.is_some() || self.metadata.is_uneven() {
            // This update is of something else, or makes members even: the next one says it.
            return;
        }
        let Some(Legs { control, wish }) = self.shared_mut().legs.take() else {
            return;
        };
        match self.may_have_legs_on_all(&wish) {
            Ok(()) if wish.raid_disks == self.info.raid_disks => {
                self.answer(control, Ok(ControlReply::Done));
            }
            Ok(()) => {
                self.take_legs(wish.raid_disks);
                self.cover_recovering();
                self.wait_for_change(control);
                self.notify(Notice::Changed);
            }
            Err(error) => self.answer(control, Err(error)),
        }
    }

    /// Sees to it that there is such a turn. Returns whether anything changed.
    pub(super) fn maintain_legs(&mut self) -> bool {
        let may_write = self.may_write();
        let shared = self.shared_mut();
        let Some(legs) = shared.legs.take_if(|_| !may_write) else {
            let due = shared.legs.is_some() && !self.metadata.owes();
            if due {
                self.metadata.note_change(false);
            }
            return due;
        };
        let error = ControlError::Io("superblocks cannot be written".into());
        self.answer(legs.control, Err(error));
        true
    }

    /// The cluster is left: who still waits is told.
    pub(super) fn refuse_legs(&mut self) {
        if let Some(legs) = self.shared_mut().legs.take() {
            self.answer(legs.control, Err(not_begun(&Failure::Leaving)));
        }
    }

    /// Whether the number of slots that a superblock says can be followed: all that have one by its
    /// word have one of these.
    pub(super) fn judge_legs(&self, found: &SuperblockV1) -> Result<(), Cannot> {
        let disks = found.fields.raid_disks;
        if disks == u32::from(self.info.raid_disks) {
            return Ok(());
        }
        let behind = |role: &Role| matches!(role, Role::Active(slot) if u32::from(*slot) >= disks);
        let right = (1..=u32::from(LEGS_MAX)).contains(&disks);
        match right && !found.fields.roles.iter().any(behind) {
            true => Ok(()),
            false => Err(Cannot::Follow),
        }
    }

    /// A crash has left members that say another number: all are to say the same.
    pub(super) fn even_legs(&mut self, found: &BTreeMap<MemberId, SuperblockV1>) {
        let disks = u32::from(self.info.raid_disks);
        let other = |(id, one): (&MemberId, &SuperblockV1)| {
            let member = self.members.get(*id);
            let active = member.is_some_and(|m| m.is_active());
            active && one.fields.raid_disks != disks
        };
        if found.iter().any(other) {
            self.metadata.note_change(false);
        }
    }

    /// Another node has recorded this number, and it was judged. Slots come before members get
    /// them, and go when members have left them. Returns whether requests have to see it.
    pub(super) fn adopt_legs(&mut self, found: &SuperblockV1, comes: bool) -> bool {
        let disks = u16::try_from(found.fields.raid_disks).expect("it was judged");
        let due = match comes {
            true => disks > self.info.raid_disks,
            false => disks < self.info.raid_disks,
        };
        if due {
            self.take_legs(disks);
            self.notify(Notice::Changed);
        }
        due
    }
}
