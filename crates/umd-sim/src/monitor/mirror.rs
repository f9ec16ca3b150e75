//! The leg that hosts read from.
//!
//! ```text
//!   leg 0  |..A..|   a crash left two versions; either is right, but once a host has read A,
//!   leg 1  |..B..|   every read finds A for as long as leg 0 lives, and a resync keeps A
//! ```

use std::fmt;
use std::ops::Range;

use umd_core::array::{IoOp, MemberIo, MemberRole};
use umd_core::value::MemberId;

use super::{MemberView, Monitor, Rule, Scene, Verdict, broken, slot_of};
use crate::disk::{PAGE_SECTORS, Power};
use crate::layout::Place;
use crate::metaview::is_logged_bad;
use crate::stamp::SECTOR;

static ZERO: [u8; SECTOR] = [0; SECTOR];

/// A leg: a member, and where it holds the sector.
type Leg<'a> = (MemberId, &'a MemberView, u64);

/// What a read of this relative sector of a member finds.
fn seen<'a>(scene: Scene<'a>, view: &MemberView, relative: u64) -> &'a [u8] {
    let disk = &scene.disks[view.disk];
    disk.visible(view.data_offset + relative).unwrap_or(&ZERO)
}

impl Monitor {
    fn is_in_sync(&self, scene: Scene<'_>, member: MemberId) -> bool {
        let mut members = scene.status.members.iter();
        members.any(|m| m.id == member && m.role == MemberRole::InSync)
    }

    /// Those members, of the ones given, that hold a sector of the walk.
    fn legs_at<'a>(
        &self,
        walk: u64,
        members: impl Iterator<Item = (MemberId, u16, &'a MemberView)>,
    ) -> Vec<Leg<'a>> {
        let places = self.geometry.walk_places(walk);
        let leg = |(id, slot, view)| {
            let place = places.iter().find(|place| place.slot == slot)?;
            Some((id, view, place.relative_sector))
        };
        members.filter_map(leg).collect()
    }

    /// The sector of the walk that lies at a relative sector of a member.
    fn walk_of(&self, scene: Scene<'_>, member: MemberId, relative_sector: u64) -> Option<u64> {
        let slot = slot_of(scene, member)?;
        self.geometry.walk_at(Place {
            slot,
            relative_sector,
        })
    }

    /// Whether anything is being written to a sector of the walk on any leg, or about to be written
    /// again there.
    fn is_moving(&self, scene: Scene<'_>, walk: u64) -> bool {
        let legs = self.legs_at(walk, self.active(scene.status));
        legs.into_iter().any(|(id, view, relative)| {
            let at = view.data_offset + relative;
            let mut flying = scene.disks[view.disk].writes_in_flight();
            flying.any(|write| write.offset_sectors <= at && at < write.end_sectors())
                || self.refused.is_of_a_host(id, at)
        })
    }

    /// A host is given what this leg holds.
    pub(super) fn check_leg(
        &mut self,
        scene: Scene<'_>,
        view: &MemberView,
        io: &MemberIo,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        if !self.geometry.is_mirror() || !self.is_in_sync(scene, io.member) {
            return Ok(());
        }
        let mut read = std::mem::take(&mut self.legs);
        for at in range.clone() {
            let relative = at - view.data_offset;
            let Some(walk) = self.walk_of(scene, io.member, relative) else {
                continue;
            };
            if self.excused.contains(&(walk / PAGE_SECTORS)) {
                continue;
            }
            let own = seen(scene, view, relative);
            let legs = self.legs_at(walk, self.in_sync(scene.status));
            // What a log names is on nobody's mind.
            let differs = legs.iter().any(|(_, other, relative)| {
                let at = other.data_offset + relative;
                let disk = &scene.disks[other.disk];
                seen(scene, other, *relative) != own
                    && !is_logged_bad(disk, other.super_sector, at, at + 1)
            });
            if !differs {
                read.remove(&walk);
                continue;
            }
            if self.is_moving(scene, walk) {
                continue;
            }
            let before = *read.entry(walk).or_insert(io.member);
            // What cannot be read is looked for in parts of eight sectors, not in smaller ones.
            let part = match range.end - range.start {
                0..=8 => range.start - view.data_offset..range.end - view.data_offset,
                _ => relative..relative + 1,
            };
            let readable = |id: MemberId| {
                let Some((_, other, there)) = legs.iter().find(|(leg, ..)| *leg == id) else {
                    return false;
                };
                if scene.disks[other.disk].power() == Power::Gone {
                    return false;
                }
                // Where the part begins on that leg.
                let from = other.data_offset + there - (relative - part.start);
                let to = from + (part.end - part.start);
                if is_logged_bad(&scene.disks[other.disk], other.super_sector, from, to) {
                    return false;
                }
                let mut lost = scene.disks[other.disk].damaged().range(from..);
                lost.next()
                    .is_none_or(|at| *at >= from + (part.end - part.start))
            };
            if before != io.member && self.is_in_sync(scene, before) && readable(before) {
                let text = format!(
                    "{what} reads sector {relative}, where legs differ and hosts have read \
                     {before:?}"
                );
                return broken(Rule::Source, text);
            }
        }
        self.legs = read;
        Ok(())
    }

    /// A resync or a repair writes to a leg: what hosts have read stays.
    pub(super) fn check_kept(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        io: &MemberIo,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let IoOp::Write { data, .. } = &io.op else {
            return Ok(());
        };
        if self.legs.is_empty() || !self.is_in_sync(scene, io.member) {
            return Ok(());
        }
        let bytes: Vec<u8> = data
            .iter()
            .flat_map(|piece| piece.as_slice())
            .copied()
            .collect();
        for (at, new) in range.clone().zip(bytes.chunks_exact(SECTOR)) {
            let relative = at - view.data_offset;
            let Some(walk) = self.walk_of(scene, io.member, relative) else {
                continue;
            };
            let was_read = self.legs.get(&walk) == Some(&io.member)
                && !self.excused.contains(&(walk / PAGE_SECTORS));
            if was_read && seen(scene, view, relative) != new && !self.is_moving(scene, walk) {
                let text = format!("{what} changes sector {relative}, which hosts have read");
                return broken(Rule::Source, text);
            }
        }
        Ok(())
    }
}
