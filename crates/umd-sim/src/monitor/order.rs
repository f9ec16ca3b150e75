//! Rules about data: extent, overlap, intent, quarantine, source, answers.

use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;
use umd_core::array::{ArrayState, MemberIo, MemberRole, Purpose};
use umd_core::value::MemberId;

use super::{MemberView, Monitor, Rule, Scene, Verdict, broken};
use crate::disk::PAGE_SECTORS;
use crate::layout::Place;
use crate::metaview::{BitmapView, SuperView, is_logged_bad};
use crate::stamp::{SECTOR, recognise};

static ZERO: [u8; SECTOR] = [0; SECTOR];

/// Numbers of bits.
type Numbers = SmallVec<[u64; 8]>;

impl Monitor {
    pub(super) fn check_extent(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        io: &MemberIo,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let inside = |allowed: Range<u64>| range.start >= allowed.start && range.end <= allowed.end;
        let superblock = view.super_sector..view.super_sector + 8;
        let ok = match io.purpose {
            Purpose::Super => inside(superblock),
            Purpose::Bitmap => match view.bitmap_sector {
                // A new one is written before a superblock names it: where nothing else is.
                None => {
                    let apart =
                        |other: Range<u64>| range.end <= other.start || range.start >= other.end;
                    apart(superblock) && apart(view.data())
                }
                Some(start) => {
                    // Who is joining has no bitmap of this array yet.
                    let others = self.in_sync(scene.status).map(|(_, _, view)| view);
                    let mut known = others.filter_map(|view| self.bitmap(view, scene.disks));
                    let len = known.next().map_or(8, |bits| bits.shape.len_sectors());
                    inside(start..start + len.next_multiple_of(8))
                }
            },
            Purpose::BadBlocks => {
                let sector = scene.disks[view.disk].visible(view.super_sector);
                let log = sector
                    .and_then(SuperView::new)
                    .map(SuperView::bad_block_log);
                log.is_some_and(|(offset, len, _)| {
                    let start = view.super_sector.saturating_add_signed(i64::from(offset));
                    offset != 0 && inside(start..start + len)
                })
            }
            _ => inside(self.data_and_room(scene, view)),
        };
        if ok {
            return Ok(());
        }
        broken(Rule::Extent, format!("{what} at sectors {range:?}"))
    }

    pub(super) fn check_overlap(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        if !self.is_redundant() {
            return Ok(());
        }
        for write in scene.disks[view.disk].writes_in_flight() {
            if write.offset_sectors < range.end && range.start < write.end_sectors() {
                let text = format!(
                    "{what} at {range:?} while {:?} {}..{} is in flight",
                    write.purpose,
                    write.offset_sectors,
                    write.end_sectors()
                );
                return broken(Rule::Overlap, text);
            }
        }
        Ok(())
    }

    pub(super) fn check_intent(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        slot: u16,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        if !self.is_redundant() {
            return Ok(());
        }
        let Some(relative) = self.relative(view, range) else {
            return broken(Rule::Reshape, format!("{what} at sectors {range:?}"));
        };
        for (id, _, other) in self.in_sync(scene.status) {
            let sb = Monitor::durable_super(other, scene.disks);
            if sb.is_none_or(|sb| sb.is_clean()) {
                let text = format!("{what}: the superblock of {id:?} says clean");
                return broken(Rule::Intent, text);
            }
            let Some(bitmap) = self.bitmap(other, scene.disks) else {
                continue;
            };
            for bit in self.bits_of(slot, relative.clone(), &bitmap.shape) {
                if !bitmap.is_set(scene.disks, bit) && !self.outruns_file(scene, other) {
                    let text = format!("{what} at {relative:?}: bit {bit} is not set on {id:?}");
                    return broken(Rule::Intent, text);
                }
            }
        }
        Ok(())
    }

    /// The bits that cover relative sectors of a slot, in order.
    fn bits_of(&self, slot: u16, relative: Range<u64>, bitmap: &BitmapView) -> Numbers {
        let most = bitmap.bits.saturating_sub(1);
        let bit = |at: u64| at / bitmap.chunk_sectors;
        if self.geometry.level != 10 {
            return (bit(relative.start)..=bit(relative.end - 1).min(most)).collect();
        }
        // What lies together in a chunk lies together in the walk.
        let chunk = self.geometry.chunk_sectors;
        let mut bits = Numbers::new();
        let mut at = relative.start;
        while at < relative.end {
            let end = ((at / chunk + 1) * chunk).min(relative.end);
            let relative_sector = at;
            let place = Place {
                slot,
                relative_sector,
            };
            if let Some(walk) = self.geometry.walk_at(place) {
                bits.extend(bit(walk).min(most)..=bit(walk + end - at - 1).min(most));
            }
            at = end;
        }
        bits.sort_unstable();
        bits.dedup();
        bits
    }

    /// Nothing may go on while a failure is known that a survivor has not recorded.
    pub(super) fn check_quarantine(
        &mut self,
        scene: Scene<'_>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        match self.settle_failures(scene) {
            None => Ok(()),
            Some(text) => broken(Rule::Quarantine, format!("{what}: {text}")),
        }
    }

    /// Drops failures that every survivor has recorded; names one that is left.
    pub fn settle_failures(&mut self, scene: Scene<'_>) -> Option<String> {
        let mut recorded = Vec::new();
        let mut open = None;
        for (&id, why) in &self.failed {
            let number = self.members.get(&id).and_then(|view| view.number);
            let Some(number) = number else { continue };
            if self.is_kept(scene, id) {
                continue;
            }
            if self.has_come_back(scene, id, number) {
                recorded.push(id);
                continue;
            }
            let ignorant = self
                .active(scene.status)
                .filter(|(other, _, _)| *other != id && !self.failed.contains_key(other))
                // The failed device itself, back again: nobody asks it about itself.
                .filter(|(_, _, view)| view.number != Some(number))
                .filter(|(_, _, view)| self.has_joined(scene, view))
                .find(|(_, _, view)| {
                    Monitor::durable_super(view, scene.disks)
                        .is_none_or(|sb| sb.role(number).is_some())
                });
            match ignorant {
                None => recorded.push(id),
                Some((other, _, _)) => {
                    open = Some(format!(
                        "{id:?} failed ({why}), and {other:?} has not recorded it"
                    ));
                }
            }
        }
        recorded.iter().for_each(|id| {
            self.failed.remove(id);
            self.recorded.insert(*id);
        });
        open
    }

    /// Whether a superblock of a member in sync gives this one a slot. One that is being added
    /// again and has none yet is no survivor: what it says about others is old, and so is it.
    fn has_joined(&self, scene: Scene<'_>, view: &MemberView) -> bool {
        let Some(number) = view.number else {
            return true;
        };
        self.in_sync(scene.status).any(|(_, _, other)| {
            Monitor::durable_super(other, scene.disks).is_some_and(|sb| sb.role(number).is_some())
        })
    }

    /// Whether an array that is broken keeps this member in its slot all the same: then nothing
    /// is written that it lacks.
    fn is_kept(&self, scene: Scene<'_>, id: MemberId) -> bool {
        let in_sync = self.in_sync(scene.status).any(|(other, _, _)| other == id);
        in_sync && scene.status.state == ArrayState::Broken
    }

    /// Whether the number belongs to a member that was put back since, and that says itself, on
    /// its medium, that it is not in sync.
    fn has_come_back(&self, scene: Scene<'_>, id: MemberId, number: u32) -> bool {
        self.active(scene.status).any(|(other, _, view)| {
            let claims = Monitor::durable_super(view, scene.disks);
            let modest = claims.is_some_and(|sb| sb.recovery_offset().is_some());
            other != id && view.number == Some(number) && modest
        })
    }

    pub(super) fn check_source(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        io: &MemberIo,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let Some(relative) = self.relative(view, range) else {
            return broken(Rule::Reshape, format!("{what} at sectors {range:?}"));
        };
        let end = relative.end;
        let found = scene.status.members.iter().find(|m| m.id == io.member);
        let role = found.map(|m| m.role);
        let slot = found.and_then(|m| m.slot);
        // An array that is broken lets hosts copy out what can still be read.
        let broken_array = scene.status.state == ArrayState::Broken;
        let replaces = found.is_some_and(|m| m.replacement);
        let valid = match (role, slot) {
            // Who is to replace another is never read: who is to be replaced serves.
            _ if replaces => false,
            (Some(MemberRole::InSync), _) => true,
            (Some(MemberRole::Faulty), _) if broken_array => true,
            (Some(MemberRole::Faulty), _) if self.falling.contains(&io.member) => true,
            (Some(MemberRole::Recovering { recovered_sectors }), Some(slot)) => {
                end <= recovered_sectors || self.is_rebuilt(scene, view, slot.0, range)
            }
            _ => false,
        };
        if valid {
            return Ok(());
        }
        broken(
            Rule::Source,
            format!("{what} at {range:?}, which is {role:?}"),
        )
    }

    /// Whether a member that is being rebuilt holds the right data there, whatever its checkpoint
    /// says. Parity is not judged.
    fn is_rebuilt(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        slot: u16,
        range: &Range<u64>,
    ) -> bool {
        range.clone().all(|at| {
            let Some(relative_sector) = self.geometry.relative_of(view.data_offset, at) else {
                return false;
            };
            let place = Place {
                slot,
                relative_sector,
            };
            let held = scene.disks[view.disk].visible(at).unwrap_or(&ZERO);
            self.geometry
                .sector_at(place)
                .is_none_or(|sector| scene.oracle.is_current(sector, recognise(held)))
        })
    }

    /// A host write or flush is handed to the engine.
    pub fn note_issued(&mut self, scene_disks: &[crate::disk::SimDisk], request: u64) {
        let marks = scene_disks.iter().map(|disk| disk.completions()).collect();
        self.marks.insert(request, marks);
    }

    /// A host write or flush is answered well. The oracle has been told already. `sectors` are
    /// those whose state the answer vouches for; `durable`: durably.
    pub fn check_answer(
        &mut self,
        scene: Scene<'_>,
        request: u64,
        sectors: &[u64],
        durable: bool,
    ) -> Verdict {
        self.checks += 1;
        let marks = self.marks.remove(&request).unwrap_or_default();
        let what = format_args!("answer to r{request}");
        // Nothing changes on a read-only array: members that failed since hold what they should.
        if self.is_redundant() && scene.status.state != ArrayState::ReadOnly {
            self.check_quarantine(scene, &what)?;
        }
        let in_sync: Vec<(u16, &MemberView)> = self
            .in_sync(scene.status)
            .map(|(_, slot, view)| (slot, view))
            .collect();
        let holds = |slot: u16| in_sync.iter().any(|(held, _)| *held == slot);
        if !self.geometry.survives(holds) {
            let missing = usize::from(self.geometry.slots) - in_sync.len();
            let text = format!("{what}: {missing} members are missing");
            return broken(Rule::Ack, text);
        }
        for &sector in sectors {
            for place in self.geometry.places(sector) {
                let Some((_, view)) = in_sync.iter().find(|(slot, _)| *slot == place.slot) else {
                    continue;
                };
                self.check_held(scene, view, sector, place, durable, &what)?;
            }
            if durable && self.geometry.has_parity() {
                self.check_parity_flushed(scene, &in_sync, sector, &marks, &what)?;
            }
        }
        Ok(())
    }

    fn check_held(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        sector: u64,
        place: Place,
        durable: bool,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let disk = &scene.disks[view.disk];
        let at = self
            .geometry
            .on_device(view.data_offset, place.relative_sector);
        if is_logged_bad(disk, view.super_sector, at, at + 1) {
            return Ok(());
        }
        let seen = recognise(disk.visible(at).unwrap_or(&ZERO));
        let held = scene.oracle.is_current(sector, seen);
        if !held && !self.may_lag(scene, view, (sector, at), what)? {
            let text = format!("{what}: {place:?} (sector {sector}) holds {seen:?}");
            return broken(Rule::Ack, text);
        }
        if !durable {
            return Ok(());
        }
        // A member that has just been rebuilt is not believed before its superblock says so.
        let claims = Monitor::durable_super(view, scene.disks);
        let claimed = claims
            .and_then(|sb| sb.recovery_offset())
            .unwrap_or(u64::MAX);
        if place.relative_sector >= claimed {
            return Ok(());
        }
        let kept = match disk.cache().newest(at) {
            Some(_) => recognise(disk.durable().sector(at)),
            None => seen,
        };
        if !scene.oracle.may_survive(sector, kept) {
            let text = format!("{what}: {place:?} (sector {sector}) holds {kept:?} on its medium");
            return broken(Rule::Flush, text);
        }
        Ok(())
    }

    fn check_parity_flushed(
        &self,
        scene: Scene<'_>,
        in_sync: &[(u16, &MemberView)],
        sector: u64,
        marks: &[u64],
        what: &dyn fmt::Display,
    ) -> Verdict {
        let relative = self.geometry.places(sector)[0].relative_sector;
        if self.excused.contains(&(relative / PAGE_SECTORS)) {
            return Ok(());
        }
        let row = self.geometry.row(relative / self.geometry.chunk_sectors);
        for slot in [row.p, row.q].into_iter().flatten() {
            let Some((_, view)) = in_sync.iter().find(|(s, _)| *s == slot) else {
                continue;
            };
            let at = self.geometry.on_device(view.data_offset, relative);
            if is_logged_bad(&scene.disks[view.disk], view.super_sector, at, at + 1) {
                continue;
            }
            let mark = marks.get(view.disk).copied().unwrap_or(0);
            let volatile = scene.disks[view.disk]
                .cache()
                .range(at, at + 1)
                .find(|(_, write)| write.done.get() < mark);
            if let Some((_, write)) = volatile {
                let text = format!(
                    "{what}: parity of sector {sector} on slot {slot} is not durable ({:?})",
                    write.purpose
                );
                return broken(Rule::Flush, text);
            }
        }
        Ok(())
    }
}
