//! Disks that lie: silent corruption, clones, disks that shrink.
//!
//! ```text
//!   rot            content changes by itself            at:     once more in the atlas, until
//!   lost write     reported done, never landed                  redundancy agrees again: a page
//!   misdirected    landed somewhere else, here or there           whose parity is in doubt
//! ```
//!
//! md does not see any of it when it reads. So the sectors that lie may hold anything until they
//! are written again, and *no other sector may*: as long as the row disagrees, no member is lost
//! that would have to be computed from it. Once the members agree about a page again and nothing
//! is on its way to it, it is judged like all others.

use std::collections::BTreeSet;
use std::ops::Range;

use umd_core::array::{MemberRole, Purpose};
use umd_core::value::MemberId;

use super::World;
use crate::disk::{PAGE_SECTORS, SimDisk};
use crate::layout::Place;
use crate::metaview::{OLD, SuperView, super_sector};
use crate::monitor::{Rule, Verdict, Violation};
use crate::program::Broken;
use crate::rng::{Rng, Stream};
use crate::script::{IoKind, IoView};
use crate::stamp::SECTOR;

/// The copy, when it is tried.
const COPY: MemberId = MemberId(u32::MAX);

/// An older copy of a disk that lies beside it.
#[derive(Debug)]
pub(super) struct Clone {
    of: usize,
    disk: SimDisk,
}

impl World<'_> {
    /// Whether a disk may lie now: everything else is in order.
    pub(super) fn may_corrupt(&mut self) -> bool {
        let whole = self.in_sync().len() == usize::from(self.geometry.slots);
        let sound = self.sound() == usize::from(self.geometry.slots);
        self.geometry.level > 0
            && whole
            && sound
            && self.atlas.doomed.is_empty()
            && !self.any_damage()
            && !self.has_holes()
    }

    /// Where the data of the member on a disk lies.
    fn data_on(&self, disk: usize) -> Option<(u16, Range<u64>)> {
        let (slot, _) = self.in_sync().into_iter().find(|(_, d)| *d == disk)?;
        let mut members = self.live().status.members.iter();
        let member = members.find(|m| m.slot.is_some_and(|s| s.0 == slot))?;
        let start = member.data_offset_sectors;
        let used = self.geometry.member_sectors[usize::from(slot)];
        Some((slot, start..start + used))
    }

    /// Device sectors of a member that could rot.
    pub(super) fn choose_rot(&mut self, disk: usize) -> Option<Broken> {
        let (_, data) = self.data_on(disk)?;
        let relative = self.fault_rng.below(data.end - data.start);
        let at = self.geometry.on_device(data.start, relative);
        let len = self.fault_rng.pick(&[1, 1, 4]);
        let len = len.min(data.end - data.start - relative);
        self.is_at_rest(disk, at..at + len)
            .then_some(Broken::Rotten { disk, at, len })
    }

    /// Whether nothing is on its way to these sectors.
    fn is_at_rest(&self, disk: usize, range: Range<u64>) -> bool {
        let disk = &self.disks[disk];
        let cached = disk.cache().range(range.start, range.end).next().is_some();
        let mut flying = disk.writes_in_flight();
        !cached && !flying.any(|w| w.offset_sectors < range.end && range.start < w.end_sectors())
    }

    /// Content changes by itself.
    pub(super) fn rot(&mut self, disk: usize, at: u64, len: u64) {
        if self.is_at_rest(disk, at..at + len) {
            self.disks[disk].rot(at..at + len);
            self.spoil(disk, at..at + len);
        }
    }

    /// These device sectors hold what nobody wrote there.
    fn spoil(&mut self, disk: usize, range: Range<u64>) {
        let Some((slot, data)) = self.data_on(disk) else {
            return;
        };
        self.note(format_args!("disk {disk} lies about {range:?}"));
        for at in range {
            let relative = self.geometry.relative_of(data.start, at);
            let inside = relative.filter(|at| *at < data.end - data.start);
            // Beside the data, or where rows lay before they were moved.
            let Some(relative_sector) = inside else {
                continue;
            };
            let place = Place {
                slot,
                relative_sector,
            };
            let Some(walk) = self.geometry.walk_at(place) else {
                continue;
            };
            let page = walk / PAGE_SECTORS;
            self.atlas.spoiled.insert(page);
            if self.geometry.has_parity() {
                self.atlas.holes.insert(page);
            }
            if let Some(sector) = self.sector_of(place) {
                self.oracle.spoiled(sector);
            }
        }
        let spoiled = self.atlas.spoiled.clone();
        self.live_mut().monitor.excuse(spoiled);
    }

    /// The array sector that lies at a place, if one does.
    fn sector_of(&self, place: Place) -> Option<u64> {
        let inside = place.relative_sector < self.geometry.used_sectors();
        inside.then(|| self.geometry.sector_at(place)).flatten()
    }

    /// Forgets pages about which disks lied, and about which all members agree again.
    pub(super) fn prune_spoiled(&mut self, in_sync: &[(u16, usize)]) {
        // Who was a member and may come back holds what it held then.
        let elsewhere = |disk: usize| self.carries[disk] && in_sync.iter().all(|(_, d)| *d != disk);
        if self.atlas.spoiled.is_empty() || (0..self.disks.len()).any(elsewhere) {
            return;
        }
        let at_risk = self.pages_at_risk(true);
        let mut spoiled = std::mem::take(&mut self.atlas.spoiled);
        spoiled.retain(|page| {
            at_risk.contains(page)
                || self.is_volatile(*page, in_sync)
                || self.is_flying(*page, in_sync)
                || !self.members_agree(*page, in_sync)
        });
        self.atlas.spoiled = spoiled.clone();
        self.live_mut().monitor.excuse(spoiled);
    }

    /// Nothing is in flight: what was lied about may have been put right.
    pub(super) fn look_again_at_lies(&mut self) {
        let idle = self.live.as_ref().is_some_and(|live| live.ios.is_empty());
        if idle && !self.atlas.spoiled.is_empty() {
            self.prune_holes();
        }
    }

    /// Whether anything is being written to this page of any member.
    fn is_flying(&self, page: u64, in_sync: &[(u16, usize)]) -> bool {
        self.page_on(page, in_sync)
            .into_iter()
            .any(|(disk, first)| {
                let mut writes = self.disks[disk].writes_in_flight();
                writes.any(|w| w.offset_sectors < first + PAGE_SECTORS && first < w.end_sectors())
            })
    }

    fn members_agree(&self, page: u64, in_sync: &[(u16, usize)]) -> bool {
        if self.geometry.has_parity() {
            return self.page_agrees(page, in_sync);
        }
        let first = page * PAGE_SECTORS;
        let end = (first + PAGE_SECTORS).min(self.geometry.walk_sectors());
        let seen = |place: &Place| {
            let (slot, disk) = in_sync.iter().find(|(slot, _)| *slot == place.slot)?;
            let content =
                self.disks[*disk].visible(self.data_offset(*slot) + place.relative_sector);
            Some(content.map_or([0; SECTOR].to_vec(), <[u8]>::to_vec))
        };
        (first..end).all(|walk| {
            let places = self.geometry.walk_places(walk);
            let mut contents = places.iter().filter_map(seen);
            let one = contents.next();
            contents.all(|other| Some(other) == one)
        })
    }

    /// A write that would be lost or go astray is about to be submitted: it does so only while
    /// everything else is in order.
    pub(super) fn before_lie(&mut self, io: &IoView) {
        let data = matches!(io.purpose, Purpose::Data | Purpose::Parity);
        if io.kind != IoKind::Write || !data || !self.disks[io.disk].will_lie() {
            return;
        }
        let shift = self.disks[io.disk].shift_of_lie();
        let Some((_, room)) = self.data_on(io.disk) else {
            return self.disks[io.disk].disarm();
        };
        let (start, end) = (io.range.start + shift, io.range.end + shift);
        let room_there = match self.disks[io.disk].target_of_lie() {
            Some(other) => self.data_on(other).map(|(_, room)| room),
            None => Some(room),
        };
        let fits = room_there.is_some_and(|room| start >= room.start && end <= room.end);
        // What is moved lies elsewhere when the write lands.
        let moves = self.geometry.moving.is_some() || !self.live().admin.is_empty();
        let moves = moves && self.options.rare.levels;
        if !fits || moves || !self.may_corrupt() {
            self.disks[io.disk].disarm();
        } else {
            self.atlas.lies += 1;
        }
    }

    /// An operation of a disk has ended: was it a lie?
    pub(super) fn after_lie(&mut self, disk: usize) {
        for range in self.disks[disk].take_lies() {
            self.spoil(disk, range);
        }
        for (other, write) in self.disks[disk].take_strays() {
            let range = write.offset_sectors..write.end_sectors();
            self.disks[other].catch(&write);
            self.spoil(other, range);
        }
        if !self.disks[disk].is_lying() && self.disks.iter().all(|disk| !disk.is_lying()) {
            self.atlas.lies = 0;
        }
    }

    /// Which disk loses a sector under a torn write when the power goes, if one may.
    pub(super) fn choose_shorn(&mut self) -> Option<usize> {
        let whole = self.options.shorn && self.live.is_some() && self.geometry.moving.is_none();
        // What a rebuild has just made whole, and nobody has recorded, is not whole after a crash.
        if !whole || !self.may_corrupt_in_crash() || !self.is_recorded() {
            return None;
        }
        let mut rng = Rng::new(self.options.seed, Stream::Shorn(self.boot));
        let members = self.in_sync();
        Some(rng.pick(&members).1)
    }

    /// Which disk tears its metadata in the middle of sectors when the power goes, if one may: that
    /// member may be lost by it.
    pub(super) fn choose_shredded(&self) -> Option<usize> {
        let may = self.options.shreds && self.live.is_some() && self.may_corrupt_in_crash();
        let lied = self.atlas.lies > 0 || !self.atlas.spoiled.is_empty();
        if !may || lied || !self.is_recorded() {
            return None;
        }
        let mut rng = Rng::new(self.options.seed, Stream::Shred(self.boot));
        let members = self.in_sync();
        Some(rng.pick(&members).1)
    }

    /// What a power cut tore is no superblock: nobody takes its disk for a member.
    pub(super) fn try_torn(&self, ids: &[(MemberId, usize)]) -> Verdict {
        for disk in (0..self.disks.len()).filter(|&disk| self.carries[disk]) {
            let at = super_sector(self.options.minor, self.disks[disk].sectors());
            let page = self.disks[disk].visible_page(at);
            if self.absent[disk] || SuperView::new(&page).is_none_or(|sb| sb.is_whole()) {
                continue;
            }
            let more = Some((COPY, &self.disks[disk]));
            let with = self.try_start_with(ids, more, false);
            if with.is_ok_and(|started| started.members.contains(&COPY)) {
                let text = format!("disk {disk} is a member by a superblock that is torn");
                return Err(Violation::new(Rule::Source, text));
            }
        }
        Ok(())
    }

    fn may_corrupt_in_crash(&self) -> bool {
        let whole = self.in_sync().len() == usize::from(self.geometry.slots);
        self.geometry.level > 0
            && whole
            && self.sound_or_silent() == usize::from(self.geometry.slots)
            && self.atlas.doomed.is_empty()
            && !self.any_damage()
    }

    fn sound_or_silent(&self) -> usize {
        let gone =
            |(_, disk): &&(u16, usize)| self.disks[*disk].power() != crate::disk::Power::Gone;
        self.in_sync().iter().filter(gone).count()
    }

    /// Where parity is in doubt too, sectors that were shorn may come back as anything. Elsewhere
    /// redundancy has them. What cannot be read is looked for in parts of eight sectors, so that
    /// neighbours in rows that are in doubt go the same way.
    pub(super) fn note_shorn(&mut self, place: Option<(u16, Range<u64>)>, sectors: &[u64]) {
        let (Some((slot, data)), true) = (place, self.geometry.has_parity()) else {
            return;
        };
        let block = self.options.workload.block_sectors;
        let whole_block = |at: &u64| at - at % block..at - at % block + block;
        let lost: BTreeSet<u64> = sectors.iter().flat_map(whole_block).collect();
        for at in lost.into_iter().filter(|at| data.contains(at)) {
            let relative_sector = at - data.start;
            let place = Place {
                slot,
                relative_sector,
            };
            let page = relative_sector / PAGE_SECTORS;
            let doubtful = self.atlas.holes.contains(&page);
            if let (Some(sector), true) = (self.sector_of(place), doubtful) {
                self.oracle.lost(sector);
            }
        }
    }

    /// Where the data of the member on a disk lies, for [`World::note_shorn`].
    pub(super) fn place_of(&self, disk: usize) -> Option<(u16, Range<u64>)> {
        self.data_on(disk)
    }

    /// Takes a copy of a disk as it is now.
    pub(crate) fn clone_disk(&mut self, disk: usize) {
        let rng = Rng::new(self.options.seed, Stream::Disk(1000 + disk as u16));
        let mut copy = self.disks[disk].twin(rng);
        copy.cut_where(|_, _| true);
        self.clones.push(Clone {
            of: disk,
            disk: copy,
        });
    }

    /// A copy that is older than the disk it is of must not be used as if it were fresh: neither
    /// beside the disk nor in its place. The right one of the two is chosen, or none.
    pub(super) fn try_clones(&self, ids: &[(MemberId, usize)]) -> Verdict {
        for copy in &self.clones {
            let original = ids.iter().find(|(_, disk)| *disk == copy.of);
            let Some(&(original, _)) = original else {
                continue;
            };
            let (old, new) = (
                self.events_on(&copy.disk),
                self.events_on(&self.disks[copy.of]),
            );
            if old < new {
                self.try_beside(ids, copy)?;
                self.try_in_place(ids, copy, original)?;
            }
        }
        Ok(())
    }

    /// The newest generation on disks that claim a slot, and are not known to have lost it: what
    /// spares and failed members know does not decide.
    fn newest_in_slots(&self, disks: &[&SimDisk]) -> Option<u64> {
        let at = |disk: &SimDisk| super_sector(self.options.minor, disk.sectors());
        let pages = disks.iter().map(|disk| disk.visible_page(at(disk)));
        let pages: Vec<_> = pages.collect();
        let views = pages.iter().filter_map(|page| SuperView::new(page));
        let views: Vec<SuperView<'_>> = views.filter(|sb| sb.is_whole()).collect();
        let counts = |sb: &&SuperView<'_>| {
            let fresher = |other: &SuperView<'_>| other.events() > sb.events();
            let disowns =
                |other: &&SuperView<'_>| fresher(other) && other.role(sb.number()).is_none();
            sb.role(sb.number()).is_some() && !views.iter().any(|other| disowns(&other))
        };
        views.iter().filter(counts).map(|sb| sb.events()).max()
    }

    fn events_on(&self, disk: &SimDisk) -> Option<u64> {
        self.with_super(disk, |sb| sb.events())
    }

    fn try_beside(&self, ids: &[(MemberId, usize)], copy: &Clone) -> Verdict {
        let broken = |text: String| Err(Violation::new(Rule::Source, text));
        let more = Some((COPY, &copy.disk));
        let Ok(with) = self.try_start_with(ids, more, false) else {
            return Ok(());
        };
        let status = with.engine.status();
        let copy_of = status.members.iter().find(|m| m.id == COPY);
        if self.options.minor == OLD && copy_of.is_some_and(|m| m.role == MemberRole::Spare) {
            // It was a spare when it was copied, under a number that its disk has no more, and
            // version 0.90 knows members by nothing else. As a spare it harms nobody.
            return Ok(());
        }
        if with.members.contains(&COPY) {
            return broken(format!("an old copy of disk {} is used beside it", copy.of));
        }
        let without = self.try_start(ids, false).map(|started| started.members);
        match without {
            Ok(members) if members == with.members => Ok(()),
            _ => broken(format!(
                "an old copy of disk {} changes who is a member",
                copy.of
            )),
        }
    }

    fn try_in_place(&self, ids: &[(MemberId, usize)], copy: &Clone, original: MemberId) -> Verdict {
        let others: Vec<(MemberId, usize)> = ids
            .iter()
            .filter(|(id, _)| *id != original)
            .copied()
            .collect();
        let disks: Vec<&SimDisk> = others.iter().map(|(_, disk)| &self.disks[*disk]).collect();
        let newest = self.newest_in_slots(&disks);
        // Members that are one behind were in the midst of an update.
        let stale = self.events_on(&copy.disk).map(|events| events + 1) < newest;
        let more = Some((COPY, &copy.disk));
        let Ok(started) = self.try_start_with(&others, more, false) else {
            return Ok(());
        };
        let status = started.engine.status();
        let mut members = status.members.iter();
        if stale && members.any(|m| m.id == COPY && m.role == MemberRole::InSync) {
            let events = self.events_on(&copy.disk);
            let text = format!(
                "an old copy of disk {} (events {events:?}) is taken for it, although others \
                 know {newest:?}",
                copy.of
            );
            return Err(Violation::new(Rule::Source, text));
        }
        Ok(())
    }

    /// A disk that carries the array becomes one sector shorter. Between boots.
    pub(crate) fn shrink_disk(&mut self, disk: usize) {
        assert!(self.live.is_none(), "a disk in use does not shrink");
        self.disks[disk].shorten();
    }

    /// What the seed does to disks between boots.
    pub(super) fn between_boots(&mut self) {
        if self.options.clones && !self.manual.on && self.clones.len() < 3 {
            let disk = usize::from(self.boot) % self.disks.len();
            if self.carries[disk] {
                self.clone_disk(disk);
            }
        }
    }

    /// Content rots by the hand of a script. Counted from the start of the member's data.
    pub(crate) fn rot_by_hand(&mut self, disk: usize, range: Range<u64>) {
        let (_, data) = self.data_on(disk).expect("a disk of a member in sync");
        let len = range.end - range.start;
        assert!(
            self.is_at_rest(disk, data.start + range.start..data.start + range.end),
            "only what is on the medium rots"
        );
        self.rot(disk, data.start + range.start, len);
    }

    /// A disk will shear its writes, by the hand of a script.
    pub(crate) fn shear_by_hand(&mut self, disk: usize) {
        self.disks[disk].shear_next_cut();
    }

    /// Content rots behind the back of the oracle.
    #[cfg(test)]
    pub(crate) fn rot_untold(&mut self, disk: usize, range: Range<u64>) {
        let (_, data) = self.data_on(disk).expect("a disk of a member in sync");
        self.disks[disk].rot(data.start + range.start..data.start + range.end);
    }
}

#[cfg(test)]
#[path = "silent_tests.rs"]
mod tests;
