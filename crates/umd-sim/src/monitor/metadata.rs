//! Rules about metadata writes: events, checkpoints, what clean and in sync mean, clearing of bits.

use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;
use umd_core::array::{IoOp, MemberIo, MemberRole};
use umd_core::sync::SyncAction;
use umd_core::value::MemberId;

use super::media::{Excuses, Media, Needs};
use super::{Monitor, Rule, Scene, Verdict, broken};
use crate::metaview::{LogView, Mark, SuperView};
use crate::stamp::SECTOR;

/// The bytes of a write, in one piece.
pub(super) fn bytes_of(op: &IoOp) -> Option<Vec<u8>> {
    match op {
        IoOp::Write { data, .. } => {
            let mut bytes = Vec::new();
            data.iter()
                .for_each(|piece| bytes.extend_from_slice(piece.as_slice()));
            Some(bytes)
        }
        _ => None,
    }
}

impl Monitor {
    /// A superblock is about to be written.
    pub(super) fn super_written(
        &mut self,
        scene: Scene<'_>,
        io: &MemberIo,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let bytes = bytes_of(&io.op);
        let Some(sb) = bytes.as_deref().and_then(SuperView::new) else {
            return Ok(());
        };
        let view = self
            .members
            .get_mut(&io.member)
            .expect("the caller looked it up");
        let before = view.events;
        if view.number.is_some() && sb.events() < before {
            let text = format!("{what}: events {} after {before}", sb.events());
            return broken(Rule::Events, text);
        }
        view.learn(sb);
        if !self.is_redundant() {
            return Ok(());
        }
        self.check_reshape_mark(scene, io.member, sb, what)?;
        self.check_clean_mark(scene, io.member, sb, what)?;
        self.check_recovery_mark(scene, io.member, sb, what)
    }

    /// What a superblock that says "in sync below" is allowed to say.
    fn check_clean_mark(
        &self,
        scene: Scene<'_>,
        member: MemberId,
        sb: SuperView<'_>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let view = &self.members[&member];
        let old = Monitor::durable_super(view, scene.disks).map_or(0, SuperView::resync_offset);
        let claimed = sb.resync_offset().min(self.geometry.walk_sectors());
        if sb.resync_offset() <= old {
            return Ok(());
        }
        let media = self.media(scene).with_excuses(self.excuses(scene));
        if let Some(text) = media.unsettled(0..claimed) {
            let text = format!("{what} claims sync below {claimed}, but {text}");
            return broken(Rule::Clear, text);
        }
        let rule = if sb.is_clean() {
            Rule::Clear
        } else {
            Rule::Checkpoint
        };
        match media.disagreement(0..claimed, Needs::InSync) {
            None => Ok(()),
            Some(text) => broken(
                rule,
                format!("{what} claims sync below {claimed}, but {text}"),
            ),
        }
    }

    /// What a superblock that says "rebuilt below" is allowed to say.
    fn check_recovery_mark(
        &self,
        scene: Scene<'_>,
        member: MemberId,
        sb: SuperView<'_>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let view = &self.members[&member];
        let Some(old) = Monitor::durable_super(view, scene.disks) else {
            return Ok(());
        };
        let active = |sb: SuperView<'_>| sb.role(sb.number()).is_some();
        let valid_below = |sb: SuperView<'_>| match (active(sb), sb.recovery_offset()) {
            (false, _) => 0,
            (true, Some(offset)) => offset,
            (true, None) => u64::MAX,
        };
        let (before, after) = (valid_below(old), valid_below(sb));
        let end = after.min(self.geometry.used_sectors());
        let resyncing = scene.status.sync_pending
            || scene
                .status
                .sync
                .as_ref()
                .is_some_and(|sync| sync.action == SyncAction::Resync);
        if after <= before || resyncing || sb.recovery_by_bitmap() {
            return Ok(());
        }
        // A rebuild guided by the bitmap has no old offset to count from: all of it is judged.
        let from = if old.recovery_by_bitmap() { 0 } else { before };
        let media = self.media_with(scene, Some((member, sb)));
        let media = media.with_excuses(self.excuses(scene));
        match media.rebuild_disagreement(from..end, member) {
            None => Ok(()),
            Some(text) => {
                let text = format!("{what} claims to be rebuilt below {end}, but {text}");
                broken(Rule::Checkpoint, text)
            }
        }
    }

    /// A piece of a bitmap is about to be written.
    pub(super) fn check_bitmap_write(
        &self,
        scene: Scene<'_>,
        io: &MemberIo,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let view = &self.members[&io.member];
        let role = scene
            .status
            .members
            .iter()
            .find(|m| m.id == io.member)
            .map(|m| m.role);
        let Some(bitmap) = self.bitmap(view, scene.disks) else {
            return Ok(());
        };
        let bytes = bytes_of(&io.op);
        if role != Some(MemberRole::InSync) && self.file != Some(io.member) {
            return Ok(());
        }
        let (start, bitmap) = (bitmap.sector, bitmap.shape);
        for (index, sector) in range.clone().enumerate() {
            let old = scene.disks[view.disk].durable().sector(sector);
            for bit in bitmap.bits_in(sector - start) {
                let place = bitmap.place(bit);
                let at = index * SECTOR + place.byte;
                let new = place.mark(bytes.as_ref().map_or(0, |bytes| bytes[at]));
                let old = place.mark(old[place.byte]);
                if new == old || new == Mark::Set || self.half_set.contains(&bit) {
                    continue;
                }
                if old == Mark::Set && !self.is_set_everywhere(scene, bit) {
                    continue;
                }
                let what = format_args!("{what} makes region {bit} {new:?}, which was {old:?}");
                if new == Mark::Unwritten {
                    return broken(Rule::Clear, what.to_string());
                }
                let region = bit * bitmap.chunk_sectors..(bit + 1) * bitmap.chunk_sectors;
                self.check_clearing(scene, region, &what)?;
            }
        }
        Ok(())
    }

    /// Whether a bit is durable on every member in sync. One that is not has allowed no write: a
    /// crash cut its setting, or its clearing, short.
    fn is_set_everywhere(&self, scene: Scene<'_>, bit: u64) -> bool {
        self.in_sync(scene.status).all(|(_, _, view)| {
            self.bitmap(view, scene.disks)
                .is_none_or(|bitmap| bitmap.is_set(scene.disks, bit))
        })
    }

    fn check_clearing(
        &self,
        scene: Scene<'_>,
        region: Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let region = region.start..region.end.min(self.geometry.walk_sectors());
        let in_sync = self.in_sync(scene.status).count();
        if in_sync < usize::from(self.geometry.slots) {
            let text = format!("{what} although only {in_sync} members are in sync");
            return broken(Rule::Clear, text);
        }
        let media = self.media(scene);
        if let Some(text) = media.unsettled(region.clone()) {
            return broken(Rule::Clear, format!("{what}, but {text}"));
        }
        match media.disagreement(region, Needs::InSync) {
            None => Ok(()),
            Some(text) => broken(Rule::Clear, format!("{what}, but {text}")),
        }
    }

    /// No superblock write is in flight: the highest generation lies on a member in sync.
    pub fn check_events_at_rest(&self, scene: Scene<'_>) -> Verdict {
        let mut members = self.members.values();
        let busy = members.any(|view| scene.disks[view.disk].supers_in_flight() > 0);
        // Who carried the highest may have failed just now: that is about to be recorded.
        if busy || !self.is_redundant() || !self.failed.is_empty() {
            return Ok(());
        }
        let events = |view: &super::MemberView| {
            Monitor::durable_super(view, scene.disks).map_or(0, SuperView::events)
        };
        let highest = self
            .active(scene.status)
            .map(|(id, _, view)| (events(view), id))
            .max();
        let in_sync = self
            .in_sync(scene.status)
            .map(|(_, _, view)| events(view))
            .max();
        match (highest, in_sync) {
            (Some((highest, id)), Some(in_sync)) if highest > in_sync => broken(
                Rule::Events,
                format!("{id:?} carries events {highest}, members in sync {in_sync}"),
            ),
            _ => Ok(()),
        }
    }

    /// Whether every member in sync says so itself on its medium: a crash now leaves it in sync.
    pub fn is_recorded(&self, scene: Scene<'_>) -> bool {
        self.in_sync(scene.status).all(|(_, _, view)| {
            let claims = Monitor::durable_super(view, scene.disks);
            claims
                .is_some_and(|sb| sb.role(sb.number()).is_some() && sb.recovery_offset().is_none())
        })
    }

    /// Everything has settled: redundancy agrees on the media.
    pub fn check_parity_at_rest(&self, scene: Scene<'_>) -> Verdict {
        let media = self.media(scene).with_excuses(self.excuses(scene));
        match media.disagreement(0..u64::MAX, Needs::InSync) {
            None => Ok(()),
            Some(text) => broken(Rule::Parity, format!("at rest, {text}")),
        }
    }

    /// Where members may differ because a lockless bitmap says so: that of every member in sync,
    /// since any of them may be read at the next start.
    fn excuses<'a>(&self, scene: Scene<'a>) -> Option<Excuses<'a>> {
        let bitmaps: SmallVec<[_; 4]> = self
            .in_sync(scene.status)
            .filter_map(|(_, _, view)| {
                let bits = self.bitmap(view, scene.disks)?;
                let disk = &scene.disks[bits.disk];
                bits.shape.states.then_some((disk, bits.sector, bits.shape))
            })
            .collect();
        let oracle = scene.oracle;
        (!bitmaps.is_empty()).then_some(Excuses { bitmaps, oracle })
    }

    /// The media of the array as the engine sees its members.
    pub fn media<'a>(&'a self, scene: Scene<'a>) -> Media<'a> {
        self.media_with(scene, None)
    }

    /// The same, with the member that is about to get this superblock in its slot, if it is to
    /// replace who is there: nobody else who is to replace another counts.
    fn media_with<'a>(
        &'a self,
        scene: Scene<'a>,
        told: Option<(MemberId, SuperView<'_>)>,
    ) -> Media<'a> {
        let new = told.map(|(member, _)| member);
        let stands_in = scene.status.members.iter();
        let mut stands_in = stands_in.filter(|m| Some(m.id) == new && m.replacement);
        let taken = stands_in.next().and_then(|m| m.slot);
        let mut columns = vec![None; usize::from(self.geometry.slots)];
        for m in &scene.status.members {
            let (Some(slot), Some(view)) = (m.slot, self.members.get(&m.id)) else {
                continue;
            };
            let displaced = taken == Some(slot) && Some(m.id) != new;
            if displaced || m.replacement && Some(m.id) != new {
                continue;
            }
            if !matches!(m.role, MemberRole::InSync | MemberRole::Recovering { .. }) {
                continue;
            }
            // What counts is what its superblock claims: a member that has just been rebuilt
            // claims nothing until that is on its disk.
            let claims = Monitor::durable_super(view, scene.disks);
            let valid_below = match (m.role, claims.and_then(SuperView::recovery_offset)) {
                (_, Some(offset)) => offset,
                (MemberRole::InSync, None) => u64::MAX,
                (_, None) => 0,
            };
            let disk = &scene.disks[view.disk];
            // The first superblock that speaks of a log comes after it.
            let told = told.filter(|(member, _)| *member == m.id);
            let log = match told {
                Some((_, sb)) => LogView::of(sb, view.super_sector),
                None => LogView::on(disk, view.super_sector),
            };
            columns[usize::from(slot.0)] = Some(super::media::Column {
                member: m.id,
                disk,
                data_offset: view.data_offset,
                moving: self.geometry.moving,
                valid_below,
                log,
            });
        }
        Media::new(&self.geometry, columns, &self.agreed, &self.excused)
    }
}
