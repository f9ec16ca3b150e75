//! Members are replaced while they serve.
//!
//! ```text
//!   --replace A        a spare B             filled, flushed,        one update:
//!   A is wanted out -> gets A's slot, too -> and that is recorded -> A is faulty, B is in sync
//!                      every write to A
//!                      goes to B as well     A fails meanwhile: B is rebuilt as any other member
//!                                            B fails meanwhile: A goes on
//! ```
//!
//! B holds what A does below its reach, and nobody reads it. That it is whole is on the disks
//! before any superblock calls A faulty: whichever update is cut short, one of them has the slot
//! with all of its data.

use std::collections::BTreeMap;

use super::engine::Array;
use crate::member::{Member, State, Twin};
use crate::value::{ControlError, Exhibit, MemberId, Notice, Slot};

impl Array {
    /// Tells those who write members who is to get the same.
    pub(super) fn pair_up(&mut self) {
        let twin = |(old, new): (&Member, &Member)| {
            let twin = Twin {
                member: new.id,
                data_offset_sectors: new.data_offset_sectors(),
                from_sectors: old.data_offset_sectors(),
            };
            (old.id, twin)
        };
        let twins: BTreeMap<MemberId, Twin> = self.members.pairs().map(twin).collect();
        self.io.set_twins(twins);
    }

    /// The member in this slot failed: who was to replace it has the slot now, as far as it is
    /// filled, and spares that were named for it are any other's again.
    pub(super) fn inherit(&mut self, slot: Slot) {
        let end = self.geometry.rebuild_sectors(self.info.array_sectors);
        for member in self.members.iter_mut() {
            if member.slot == Some(slot) {
                // M35 (d63e2fc804c4): the original vanished, and reads trusted what of its
                // replacement had not been filled yet.
                if member.replacement && self.io.museum.on(Exhibit::M35) {
                    self.cover.set_rebuilt(member.id, end, end);
                }
                member.replacement = false;
            }
            if member.meant_for == Some(slot) {
                member.meant_for = None;
            }
        }
    }

    /// An administrator wants a member replaced, by the spare that is named, or any.
    pub(super) fn control_replace(
        &mut self,
        old: MemberId,
        with: Option<MemberId>,
    ) -> Result<(), ControlError> {
        self.redundant()?;
        self.writable()?;
        // M44 (0aecb06e2249): a member was replaced while everything was being moved, and the array
        // never assembled again.
        if !self.io.museum.on(Exhibit::M44) {
            self.not_reshaping("no member is replaced")?;
        }
        let format = self.info.format;
        if !format.is_stored() || !format.keeps_members_apart() {
            return Err(ControlError::Invalid(format!(
                "metadata {format} cannot record a replacement: fail the member, or change the \
                 metadata"
            )));
        }
        let member = self.named(old)?;
        let name = member.name.clone();
        let Some(slot) = member.slot.filter(|_| member.state == State::InSync) else {
            return Err(ControlError::Busy(format!(
                "{name} is not in sync: only a member that serves can be replaced"
            )));
        };
        if let Some(new) = self.members.replacement_in(slot) {
            let new = &new.name;
            return Err(ControlError::Busy(format!(
                "{name} is being replaced by {new} already"
            )));
        }
        if let Some(with) = with {
            self.may_replace(with, slot)?;
        }
        for member in self.members.iter_mut() {
            if member.meant_for == Some(slot) && with.is_some() {
                member.meant_for = None;
            }
            if Some(member.id) == with {
                member.meant_for = Some(slot);
            }
            member.want_replacement |= member.id == old;
        }
        self.sync.unblock();
        self.notify(Notice::Changed);
        Ok(())
    }

    fn may_replace(&self, with: MemberId, slot: Slot) -> Result<(), ControlError> {
        let spare = self.named(with)?;
        let name = &spare.name;
        if spare.state != State::Spare {
            return Err(ControlError::Busy(format!(
                "{name} is not a spare: add one to replace a member with"
            )));
        }
        if spare.meant_for.is_some_and(|other| other != slot) {
            return Err(ControlError::Busy(format!(
                "{name} is to replace another member already"
            )));
        }
        let (need, have) = (
            self.info.dev_sectors,
            spare.superblock.fields.data_size_sectors,
        );
        if have < need {
            return Err(ControlError::TooSmall(format!(
                "{name} is too small by {} sectors to replace a member",
                need - have
            )));
        }
        Ok(())
    }

    /// Gives spares to members that are to be replaced.
    pub(super) fn begin_replacements(&mut self) -> bool {
        if !self.members.any_wanted() {
            return false;
        }
        let wanted = self.members.iter().filter(|m| m.want_replacement);
        let slots: Vec<Slot> = wanted.filter_map(|m| m.slot).collect();
        let mut moved = false;
        for slot in slots {
            if self.members.replacement_in(slot).is_some() {
                continue;
            }
            let Some(id) = self.spare_for(slot, |_| true) else {
                continue;
            };
            self.give_slot(id, slot);
            let member = self.members.get_mut(id).expect("it has a slot");
            member.replacement = true;
            moved = true;
        }
        moved
    }

    /// Members whose replacement is filled, and that.
    fn whole_pairs(&self) -> impl Iterator<Item = (&Member, &Member)> {
        let end = self.geometry.rebuild_sectors(self.info.array_sectors);
        let whole = move |m: &Member| match m.state {
            State::Recovering { checkpoint_sectors } => checkpoint_sectors >= end,
            _ => false,
        };
        self.members.pairs().filter(move |(_, new)| whole(new))
    }

    /// Whether nobody is being filled but those that have all of what they replace.
    pub(super) fn all_are_full(&self) -> bool {
        let partly = |m: &&Member| matches!(m.state, State::Recovering { .. });
        self.whole_pairs().count() == self.members.iter().filter(partly).count()
    }

    /// Whether a replacement has to wait for what lags: it would be missing where nobody expects
    /// that, as the new one is an ordinary leg.
    pub(super) fn waits_for_landing(&self) -> bool {
        self.lane.behind_writes() > 0 && self.replaces_write_mostly()
    }

    /// Whether a leg that writes may lag on is about to be replaced.
    pub(super) fn replaces_write_mostly(&self) -> bool {
        self.members.any_replacement() && self.whole_pairs().any(|(old, _)| old.write_mostly)
    }

    /// Who replaces another holds everything, and superblocks say so: the slot is handed over.
    /// Nothing is written by the new order before it is recorded: the old one is a known fault.
    pub(super) fn finish_replacements(&mut self) -> bool {
        let museum = self.io.museum;
        let late = museum.on(Exhibit::M20) || museum.on(Exhibit::M21);
        if !self.members.any_replacement() && !late {
            return false;
        }
        let at_work = self.may_write() && self.stopping.is_none() && !self.sync.is_frozen();
        let busy = self.sync.running().is_some() || self.sync.owes_resync();
        if !at_work || busy || !self.metadata.is_quiet() || self.cluster_is_unsure() {
            return false;
        }
        if self.moves_late() {
            return true;
        }
        if self.waits_for_landing() {
            return false;
        }
        let whole = self.whole();
        assert!(self.metadata.is_quiet(), "recorded before it is relied on");
        match self.shared.is_some() {
            true => self.wish_to_hand_over(whole),
            false => self.hand_over_all(&whole),
        }
    }

    /// Who is replaced, and by whom, where that is only to be recorded.
    pub(super) fn whole(&self) -> Vec<(MemberId, MemberId)> {
        let pairs = self.whole_pairs();
        pairs.map(|(old, new)| (old.id, new.id)).collect()
    }

    /// Returns whether there was anybody.
    pub(super) fn hand_over_all(&mut self, whole: &[(MemberId, MemberId)]) -> bool {
        for (old, new) in whole {
            self.hand_over(*old, *new);
        }
        if whole.is_empty() {
            return false;
        }
        self.publish();
        if !self.io.museum.on(Exhibit::M20) {
            self.metadata.note_fault();
        }
        self.metadata.note_change(true);
        true
    }

    /// M20 (e7c0c3fa2928), M21 (2ae6aaf76912): the old member was out, the new one was not in its
    /// place yet, and writes went nowhere, or reads found nobody. It is put there when all else is
    /// done.
    fn moves_late(&mut self) -> bool {
        let museum = self.io.museum;
        if !museum.on(Exhibit::M20) && !museum.on(Exhibit::M21) {
            return false;
        }
        let end = self.geometry.rebuild_sectors(self.info.array_sectors);
        let between = self.members.iter_mut().find(|m| match m.state {
            State::Recovering { checkpoint_sectors } => !m.replacement && checkpoint_sectors >= end,
            _ => false,
        });
        let Some(member) = between else {
            return false;
        };
        member.state = State::InSync;
        self.publish();
        self.metadata.note_change(true);
        true
    }

    fn hand_over(&mut self, old: MemberId, new: MemberId) {
        let member = self.members.get_mut(new).expect("one of a pair");
        member.replacement = false;
        // M20, M21: see `moves_late`.
        if !self.io.museum.on(Exhibit::M20) && !self.io.museum.on(Exhibit::M21) {
            member.state = State::InSync;
        }
        let new_name = member.name.clone();
        self.cover.forget(new);
        let member = self.members.get_mut(old).expect("one of a pair");
        assert_eq!(member.state, State::InSync, "who is replaced serves");
        member.state = State::Faulty;
        member.want_replacement = false;
        member.fault = Some(format!("replaced by {new_name}"));
        let text = format!("{new_name} has replaced {}", member.name);
        self.io.hand_over(old);
        self.notify(Notice::Activated(new));
        self.notify(Notice::Message(text));
    }
}
