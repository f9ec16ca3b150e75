//! A RAID1 gets more slots, or fewer, while it runs.
//!
//! ```text
//!   slots     0 1 2          0 1 2 3 4         0 1 2          0 1
//!             A B .   to 5   A B . . .    or   . B C   to 2   C B
//! ```
//!
//! What members hold is the same whatever their slots are, so nothing is moved. A slot that comes
//! is empty, and spares are filled for it as for one that was lost. Who has a slot that goes gets
//! the lowest one that is empty. All others keep theirs, so superblocks agree about them whatever a
//! crash leaves. (Kernels move everybody down whenever the number changes.)

use std::sync::Arc;

use umd_format::Level;

use super::engine::Array;
use super::regrade::Regrade;
use crate::geometry::Geometry;
use crate::member::{Member, State};
use crate::value::{ControlError, ControlId, ControlReply, LegsWish, MemberId, Slot};

/// The most slots that kernels give an array with metadata 1.x.
pub(super) const LEGS_MAX: u16 = 1919;

fn busy<T>(why: impl Into<String>) -> Result<T, ControlError> {
    Err(ControlError::Busy(why.into()))
}

fn invalid<T>(why: impl Into<String>) -> Result<T, ControlError> {
    Err(ControlError::Invalid(why.into()))
}

fn devices(count: usize) -> String {
    match count {
        1 => "1 device".into(),
        more => format!("{more} devices"),
    }
}

impl Array {
    /// An administrator wants another number of slots.
    pub(super) fn control_legs(&mut self, id: ControlId, wish: LegsWish) {
        let same = wish.raid_disks == self.info.raid_disks;
        let may = match &self.regrade {
            Some(_) => busy("the array is being changed already"),
            None => self.may_have_legs(&wish),
        };
        match may {
            Ok(()) if same || wish.only_asked => self.answer(id, Ok(ControlReply::Done)),
            Ok(()) => {
                if self.metadata.is_uneven() {
                    // Two descriptions would stand on members with the same events.
                    self.metadata.note_change(true);
                }
                self.regrade = Some(Regrade::legs(id, wish));
            }
            Err(error) => self.answer(id, Err(error)),
        }
    }

    /// Whether the array can have so many slots now.
    pub(super) fn may_have_legs(&self, wish: &LegsWish) -> Result<(), ControlError> {
        self.can_count_legs(wish.raid_disks)?;
        // Who asks only does not make it read-write, and who wants it changed does.
        if !(wish.only_asked && self.read_auto && self.broken.is_none()) {
            self.writable()?;
        }
        if wish.raid_disks == self.info.raid_disks {
            return Ok(());
        }
        self.rests_for_legs()?;
        self.enough_slots(wish.raid_disks)?;
        self.enough_legs(wish)
    }

    /// Whether it is an array that can have so many slots at any time.
    fn can_count_legs(&self, raid_disks: u16) -> Result<(), ControlError> {
        let (level, format) = (self.info.level, self.info.format);
        if level != Level::Raid1 {
            return invalid(format!(
                "{level} keeps its number of devices in this version: a raid1 gets more or fewer"
            ));
        }
        if !format.is_stored() || !format.keeps_members_apart() {
            return invalid(format!(
                "an array with metadata {format} keeps its number of devices: with metadata 1.x it \
                 would not"
            ));
        }
        match raid_disks {
            0 => invalid("an array has at least 1 device"),
            1..=LEGS_MAX => Ok(()),
            _ => invalid(format!("a raid1 has at most {LEGS_MAX} devices")),
        }
    }

    /// Whether nothing is under way that slots are part of.
    fn rests_for_legs(&self) -> Result<(), ControlError> {
        if self.rebit.is_some() {
            return busy("the array is being changed already");
        }
        if let Some(run) = self.sync.running() {
            let word = run.action().word();
            return busy(format!("{word} is running: try again when that is over"));
        }
        if let Some(action) = self.sync.requested() {
            return busy(format!("{} is about to begin", action.word()));
        }
        let owed = self.sync.owes_resync() || self.bitmap.owes_resync();
        if owed && self.shared.is_none() {
            return busy("a resync is owed: try again when that is over");
        }
        let partly = |m: &&Member| matches!(m.state, State::Recovering { .. });
        match self.members.iter().find(partly) {
            Some(member) => busy(format!("{} is being rebuilt", member.name)),
            None => Ok(()),
        }
    }

    /// Whether all members that work have a slot then.
    fn enough_slots(&self, raid_disks: u16) -> Result<(), ControlError> {
        let active = || self.members.iter().filter(|m| m.is_active());
        let working = active().count();
        if working > usize::from(raid_disks) {
            return busy(format!(
                "{working} members work, and {} would be too few for them: set one faulty and \
                 remove it first",
                devices(raid_disks.into())
            ));
        }
        let moved = self.moved_for(raid_disks);
        match moved.first() {
            // Others have writes under way that know members by their slots.
            Some((id, slot)) if self.shared.is_some() => {
                let name = self.members.get(*id).map_or("", |m| &m.name);
                busy(format!(
                    "{name} would have to move to slot {}, and members of a cluster's array keep \
                     theirs: fill that slot first, or take {name} out and put it in again",
                    slot.0
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether there are devices for the slots that come.
    fn enough_legs(&self, wish: &LegsWish) -> Result<(), ControlError> {
        let more = wish.raid_disks.saturating_sub(self.info.raid_disks);
        let spares = self.members.iter().filter(|m| m.state == State::Spare);
        let there = spares.count() + usize::from(wish.coming);
        if wish.force || there >= usize::from(more) {
            return Ok(());
        }
        let needed = devices(usize::from(more));
        busy(format!(
            "{needed} more would be needed to avoid a degraded array, and there are {there}: put \
             them in with --add, or take --force"
        ))
    }

    /// Members whose slots go, and those that they get.
    fn moved_for(&self, raid_disks: u16) -> Vec<(MemberId, Slot)> {
        let empty = |slot: &Slot| self.members.in_slot(*slot).is_none();
        let free = (0..raid_disks).map(Slot).filter(empty);
        let gone = (raid_disks..self.info.raid_disks).map(Slot);
        let who = gone.filter_map(|slot| self.members.in_slot(slot));
        who.map(|member| member.id).zip(free).collect()
    }

    /// From here on the array has so many slots. Where members move nothing is under way.
    ///
    /// # Panics
    /// When there are more members than slots.
    pub(super) fn take_legs(&mut self, raid_disks: u16) {
        let moved = self.moved_for(raid_disks);
        let to = |slot: Slot| match self.members.in_slot(slot) {
            Some(member) => {
                let found = moved.iter().find(|(id, _)| *id == member.id);
                Some(found.map_or(slot, |(_, to)| *to))
            }
            None => Some(slot).filter(|slot| slot.0 < raid_disks),
        };
        let slots = |m: &Member| (m.id, m.slot.and_then(to), m.meant_for.and_then(to));
        let slots: Vec<_> = self.members.iter().map(slots).collect();
        for (id, slot, meant_for) in slots {
            let member = self.members.get_mut(id).expect("just looked at");
            assert!(!member.is_active() || slot.is_some(), "a slot for all");
            assert!(slot.is_none_or(|slot| slot.0 < raid_disks), "one there is");
            (member.slot, member.meant_for) = (slot, meant_for);
            member.superblock.fields.raid_disks = raid_disks.into();
        }
        self.info.raid_disks = raid_disks;
        let geometry = Arc::new(Geometry::Mirrored { legs: raid_disks });
        self.geometry = geometry.clone();
        self.lane.relegs(geometry.clone());
        self.sync.extend(geometry, self.info.array_sectors);
        self.sync.unblock();
        self.publish();
    }
}
