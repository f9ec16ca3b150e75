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

use super::{MemberView, Monitor, Rule, Scene, Verdict, broken};
use crate::disk::PAGE_SECTORS;
use crate::stamp::SECTOR;

static ZERO: [u8; SECTOR] = [0; SECTOR];

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

    /// Whether anything is being written to a relative sector of any leg.
    fn is_moving(&self, scene: Scene<'_>, relative: u64) -> bool {
        self.active(scene.status).any(|(_, _, view)| {
            let at = view.data_offset + relative;
            let mut flying = scene.disks[view.disk].writes_in_flight();
            flying.any(|write| write.offset_sectors <= at && at < write.end_sectors())
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
        if self.geometry.level != 1 || !self.is_in_sync(scene, io.member) {
            return Ok(());
        }
        for at in range.clone() {
            let relative = at - view.data_offset;
            if self.excused.contains(&(relative / PAGE_SECTORS)) {
                continue;
            }
            let own = seen(scene, view, relative);
            let differs = self
                .in_sync(scene.status)
                .any(|(_, _, other)| seen(scene, other, relative) != own);
            if !differs {
                self.legs.remove(&relative);
                continue;
            }
            if self.is_moving(scene, relative) {
                continue;
            }
            let before = *self.legs.entry(relative).or_insert(io.member);
            // What cannot be read is looked for in parts of eight sectors, not in smaller ones.
            let part = match range.end - range.start {
                0..=8 => range.start - view.data_offset..range.end - view.data_offset,
                _ => relative..relative + 1,
            };
            let readable = |id: MemberId| {
                let view = &self.members[&id];
                let damaged = scene.disks[view.disk].damaged();
                let mut lost = damaged.range(view.data_offset + part.start..);
                lost.next()
                    .is_none_or(|at| *at >= view.data_offset + part.end)
            };
            if before != io.member && self.is_in_sync(scene, before) && readable(before) {
                let text = format!(
                    "{what} reads sector {relative}, where legs differ and hosts have read \
                     {before:?}"
                );
                return broken(Rule::Source, text);
            }
        }
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
            let was_read = self.legs.get(&relative) == Some(&io.member)
                && !self.excused.contains(&(relative / PAGE_SECTORS));
            if was_read && seen(scene, view, relative) != new && !self.is_moving(scene, relative) {
                let text = format!("{what} changes sector {relative}, which hosts have read");
                return broken(Rule::Source, text);
            }
        }
        Ok(())
    }
}
