//! The array becomes one of another level, or gets another layout.
//!
//! ```text
//!   asked --> hosts wait, what is under way lands --> step --> recorded --> next step ... answered
//!
//!   steps:  Sizes      members give raid0 no more than the array uses of them
//!           Takeover   level, slots: the same bytes in the same places
//!           Begin      superblocks say where everything is going to be; reshape.rs moves it
//!           Finish     everything has been moved: the old places are forgotten
//!           Legs       more slots of a RAID1, or fewer: see legs.rs
//! ```
//!
//! Each step is one update of the superblocks, and none begins before the one before it is on all
//! of them. So whatever superblocks a crash leaves are of one step and of the next, which describe
//! the same bytes in the same places: assembly takes the newer description for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use umd_format::v1::{Features, Raid0Layout};
use umd_format::{Format, Level, space};

use super::engine::Array;
use super::reshape::Reshape;
use crate::geometry::{Conversion, Geometry, Raid0, Raid456, Shape, convert};
use crate::member::{Member, State};
use crate::value::{
    Command, ControlError, ControlId, ControlReply, Exhibit, LayoutWish, LegsWish, LevelWish,
    MemberId, Notice, Slot, SyncAction,
};

/// The most that data is moved by: more makes fewer updates, and leaves less room for next time.
const DISTANCE_MAX_SECTORS: u64 = 16_384;

/// A change on its way.
#[derive(Debug)]
pub(super) struct Regrade {
    /// Who waits for it.
    id: Option<ControlId>,
    steps: VecDeque<Step>,
    /// The change that records the first step, once it was made.
    noted: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Sizes,
    Takeover(Shape),
    Begin { layout: u32, last: Option<Shape> },
    Finish,
    Legs(LegsWish),
}

/// The steps to another level, one after the other.
fn takeover_steps(shape: Shape) -> impl Iterator<Item = Step> {
    let sizes = (shape.level == Level::Raid0).then_some(Step::Sizes);
    sizes.into_iter().chain([Step::Takeover(shape)])
}

impl Regrade {
    fn of(id: ControlId, conversion: &Conversion) -> Regrade {
        let mut steps: VecDeque<Step> = VecDeque::new();
        steps.extend(conversion.first.into_iter().flat_map(takeover_steps));
        let last = conversion.last;
        match conversion.reshape {
            Some(layout) => steps.push_back(Step::Begin { layout, last }),
            None => steps.extend(last.into_iter().flat_map(takeover_steps)),
        }
        assert!(!steps.is_empty(), "a conversion changes something");
        Regrade {
            id: Some(id),
            steps,
            noted: None,
        }
    }

    /// A RAID1 gets another number of slots.
    pub(super) fn legs(id: ControlId, wish: LegsWish) -> Regrade {
        Regrade {
            id: Some(id),
            steps: [Step::Legs(wish)].into(),
            noted: None,
        }
    }

    /// Everything has been moved.
    pub(super) fn finish(last: Option<Shape>) -> Regrade {
        let after = last.into_iter().flat_map(takeover_steps);
        Regrade {
            id: None,
            steps: [Step::Finish].into_iter().chain(after).collect(),
            noted: None,
        }
    }
}

fn busy<T>(why: impl Into<String>) -> Result<T, ControlError> {
    Err(ControlError::Busy(why.into()))
}

fn invalid<T>(why: impl Into<String>) -> Result<T, ControlError> {
    Err(ControlError::Invalid(why.into()))
}

impl Array {
    fn shape(&self) -> Shape {
        Shape {
            level: self.info.level,
            layout: self.info.layout,
            raid_disks: self.info.raid_disks,
        }
    }

    /// An administrator wants another level or layout.
    pub(super) fn control_level(&mut self, id: ControlId, wish: LevelWish) {
        match self.may_regrade(&wish) {
            Ok(conversion) => {
                if self.metadata.is_uneven() {
                    // Two descriptions would stand on members with the same events: no step is
                    // taken before this is recorded.
                    self.metadata.note_change(true);
                }
                self.regrade = Some(Regrade::of(id, &conversion));
            }
            Err(error) => self.answer(id, Err(error)),
        }
    }

    fn may_regrade(&self, wish: &LevelWish) -> Result<Conversion, ControlError> {
        let shape = self.shape();
        let made = self.converted(shape, wish);
        let conversion = made.map_err(ControlError::Invalid)?;
        self.writable()?;
        self.may_change_level()?;
        let result = conversion.result(shape);
        let bare = [shape.level, result.level].contains(&Level::Raid0);
        if bare && self.bitmap.writer().is_some() {
            return invalid("raid0 has no bitmap: remove it first (umd grow --bitmap=none)");
        }
        let chunk = self.info.chunk_sectors;
        if !chunk.is_power_of_two() || chunk < 8 {
            return invalid(format!(
                "a chunk of {chunk} sectors is none that parity levels have: it is a power of two, \
                 and 4 KiB at least"
            ));
        }
        if result.level == Level::Raid0 && result.raid_disks < 2 {
            return invalid(
                "a raid0 of one device is none: what held its parity would pass for it, too",
            );
        }
        self.enough_devices(wish, result)?;
        if let Some(first) = conversion.first {
            self.may_take_over(first)?;
        } else if let (None, Some(last)) = (conversion.reshape, conversion.last) {
            self.may_take_over(last)?;
        }
        if conversion.reshape.is_some() {
            self.room_to_move(chunk)?;
        }
        Ok(conversion)
    }

    fn converted(&self, shape: Shape, wish: &LevelWish) -> Result<Conversion, String> {
        let made = convert(shape, wish.level, wish.layout);
        // U60: a raid4, or a raid0, was to get a layout that only a raid5 has.
        let bare = matches!(wish.level, Level::Raid0 | Level::Raid4);
        match wish.layout {
            LayoutWish::Number(layout) if bare && self.io.museum.on(Exhibit::U60) => {
                let made = convert(shape, wish.level, LayoutWish::Preserve)?;
                let reshape = made.first.map(|_| layout);
                Ok(Conversion { reshape, ..made })
            }
            _ => made,
        }
    }

    /// Whether the array is one that can change now, whatever into.
    fn may_change_level(&self) -> Result<(), ControlError> {
        if self.regrade.is_some() || self.rebit.is_some() {
            return busy("the array is being changed already");
        }
        self.not_reshaping("level and layout stay as they are")?;
        if !self.info.format.is_stored() || !self.info.format.keeps_members_apart() {
            return invalid(format!(
                "an array with metadata {} keeps its level and layout",
                self.info.format
            ));
        }
        if self.shared.is_some() {
            return invalid("an array of a cluster keeps its level and layout");
        }
        if let Some(run) = self.sync.running() {
            return busy(format!("{} is running", run.action().word()));
        }
        if self.sync.owes_resync() || self.bitmap.owes_resync() {
            return busy("a resync is owed");
        }
        if let Some(action) = self.sync.requested() {
            return busy(format!("{} is about to begin", action.word()));
        }
        self.nobody_is_rebuilt()
    }

    fn nobody_is_rebuilt(&self) -> Result<(), ControlError> {
        let partly = |m: &&Member| matches!(m.state, State::Recovering { .. });
        match self.members.iter().find(partly) {
            Some(member) => busy(format!("{} is being rebuilt", member.name)),
            None => Ok(()),
        }
    }

    /// Whether there are members for all slots that there will be.
    fn enough_devices(&self, wish: &LevelWish, result: Shape) -> Result<(), ControlError> {
        let spares = self.members.iter().filter(|m| m.state == State::Spare);
        let more = result.raid_disks.saturating_sub(self.info.raid_disks);
        let there = spares.count() + usize::from(wish.coming);
        if wish.force || there >= usize::from(more) {
            return Ok(());
        }
        let (level, disks) = (result.level, result.raid_disks);
        busy(format!(
            "{level} needs {disks} devices here: add {more} with --add, or take --force for an \
             array without redundancy to spare"
        ))
    }

    /// Whether all data is there once the array is this one.
    fn may_take_over(&self, shape: Shape) -> Result<(), ControlError> {
        let data = match shape.level {
            Level::Raid4 | Level::Raid5 if self.info.level == Level::Raid0 => self.raid0_is_even(),
            _ => Ok(()),
        };
        data.or_else(invalid)?;
        let geometry = self.geometry_of(shape);
        let in_sync = |slot: u16| {
            let column = self.epoch.columns.get(usize::from(slot)).copied().flatten();
            column.is_some_and(|column| column.in_sync)
        };
        match geometry {
            Some(geometry) if geometry.survives(in_sync) => Ok(()),
            _ => busy(format!(
                "{} cannot be had from the members that are in sync: let the array be rebuilt \
                 first",
                shape.level
            )),
        }
    }

    fn raid0_is_even(&self) -> Result<(), String> {
        let chunk = u64::from(self.info.chunk_sectors);
        let sizes = self.members.iter().map(|m| {
            let size = m.superblock.fields.data_size_sectors;
            size - size % chunk
        });
        let mut sizes: Vec<u64> = sizes.collect();
        sizes.dedup();
        match sizes.len() {
            1 => Ok(()),
            _ => {
                Err("a raid0 becomes another level only if its members give it equally much".into())
            }
        }
    }

    /// Sectors that each member gives to a level with parity.
    fn dev_sectors_of(&self, shape: Shape) -> u64 {
        if shape.level == Level::Raid0 {
            return 0;
        }
        if self.info.level != Level::Raid0 {
            return self.info.dev_sectors;
        }
        let chunk = u64::from(self.info.chunk_sectors);
        let sizes = self.members.iter();
        let sizes = sizes.map(|m| m.superblock.fields.data_size_sectors);
        sizes.min().map_or(0, |size| size - size % chunk)
    }

    fn geometry_of(&self, shape: Shape) -> Option<Geometry> {
        let chunk = u64::from(self.info.chunk_sectors);
        if shape.level == Level::Raid0 {
            // As much as the level with parity uses: see `Step::Sizes`.
            let Geometry::Parity(map) = &*self.geometry else {
                return None;
            };
            let sizes = vec![map.dev_sectors(); usize::from(shape.raid_disks)];
            let map = Raid0::new(&sizes, chunk, Some(Raid0Layout::Alternate));
            return map.ok().map(Geometry::Striped);
        }
        let dev_sectors = self.dev_sectors_of(shape);
        let Shape {
            level,
            layout,
            raid_disks,
        } = shape;
        Raid456::new(level, layout, raid_disks, chunk, dev_sectors).map(Geometry::Parity)
    }

    /// How far data can be moved on all members, whole chunks, and whether upwards; or who has too
    /// little room for it.
    fn room_to_move(&self, chunk_sectors: u32) -> Result<(u64, bool), ControlError> {
        let chunk = u64::from(chunk_sectors);
        let bitmap = self.io.bad.bitmap_sectors();
        let format = self.info.format;
        let bad =
            |m: &&Member| m.is_active() && self.io.bad.of(m.id).is_some_and(|b| !b.is_empty());
        if let Some(member) = self.members.iter().find(bad) {
            return busy(format!(
                "{} has bad blocks: write them, or replace it, before the array is reshaped",
                member.name
            ));
        }
        let active = || self.members.iter().filter(|m| m.is_active());
        let before = |m: &Member| space::free_before_data(format, &m.superblock.fields, bitmap);
        let used = self.dev_sectors_of(Shape {
            level: Level::Raid5,
            ..self.shape()
        });
        let behind = |m: &Member| m.superblock.fields.data_size_sectors.saturating_sub(used);
        let least = |room: &dyn Fn(&Member) -> u64| active().map(room).min().unwrap_or(0);
        let (down, up) = (least(&before), least(&behind));
        let whole = |room: u64| {
            let room = room.min(DISTANCE_MAX_SECTORS.max(chunk));
            room - room % chunk
        };
        match (whole(down), whole(up)) {
            (0, 0) => {
                let worst = active().min_by_key(|m| before(m).max(behind(m)));
                let worst = worst.expect("an array has members");
                Err(ControlError::TooSmall(format!(
                    "{} has no room to move its data: {} KiB are free before it and {} KiB behind, \
                     and {} KiB (a chunk) are needed on every member on the same side",
                    worst.name,
                    before(worst) / 2,
                    behind(worst) / 2,
                    chunk / 2
                )))
            }
            (0, up) => Ok((up, true)),
            (down, _) => Ok((down, false)),
        }
    }

    /// Goes on with a change of the level. Returns whether anything changed.
    pub(super) fn maintain_regrade(&mut self) -> bool {
        let Some(regrade) = &self.regrade else {
            return false;
        };
        let recorded = regrade.noted.map(|n| self.metadata.has_recorded(n));
        if recorded == Some(true) {
            self.step_recorded();
        } else if !self.may_write() {
            let why = "superblocks cannot be written";
            self.end_regrade(Err(ControlError::Io(why.into())));
        } else if !self.is_quiet() || !self.sync.is_idle() {
            return false;
        } else {
            assert_eq!(recorded, None, "who is quiet has recorded everything");
            self.take_step();
        }
        true
    }

    fn step_recorded(&mut self) {
        let regrade = self.regrade.as_mut().expect("one is on its way");
        regrade.noted = None;
        regrade.steps.pop_front();
        if regrade.steps.is_empty() {
            self.end_regrade(Ok(()));
        }
    }

    fn take_step(&mut self) {
        let regrade = self.regrade.as_ref().expect("one is on its way");
        let step = *regrade.steps.front().expect("it is not over");
        // Members may have failed since it was asked for.
        let chunk = self.info.chunk_sectors;
        let done = match step {
            Step::Sizes => self.may_shrink().map(|()| self.give_no_more()),
            Step::Takeover(shape) => {
                let may = self.may_take_over(shape);
                may.map(|()| self.take_over(shape))
            }
            Step::Begin { layout, last } => {
                let room = self.nobody_is_rebuilt();
                let room = room.and_then(|()| self.room_to_move(chunk));
                room.map(|(by, up)| self.begin_reshape(layout, last, (by, up)))
            }
            Step::Finish => {
                self.finish_reshape();
                Ok(())
            }
            Step::Legs(wish) => {
                let may = self.may_have_legs(&wish);
                may.map(|()| self.take_legs(wish.raid_disks))
            }
        };
        match done {
            Ok(()) => {
                let noted = Some(self.metadata.note_change(true));
                self.regrade.as_mut().expect("just looked at").noted = noted;
            }
            Err(error) => self.end_regrade(Err(error)),
        }
    }

    fn end_regrade(&mut self, result: Result<(), ControlError>) {
        let regrade = self.regrade.take().expect("one is on its way");
        match (regrade.id, result) {
            (Some(id), result) => self.answer(id, result.map(|()| ControlReply::Done)),
            (None, Err(error)) => self.notify(Notice::Message(format!(
                "the array keeps level {} and layout {}: {error}",
                self.info.level, self.info.layout
            ))),
            (None, Ok(())) => {}
        }
        self.notify(Notice::Changed);
        for (came, request) in std::mem::take(&mut self.parked) {
            self.request_again(came, request);
        }
    }

    fn may_shrink(&self) -> Result<(), ControlError> {
        let shapes = self.regrade.iter().flat_map(|one| &one.steps);
        let mut shapes = shapes.filter_map(|step| match step {
            Step::Takeover(shape) => Some(*shape),
            _ => None,
        });
        shapes.try_for_each(|shape| self.may_take_over(shape))
    }

    /// A raid0 takes all that its members have: they are to have what is used.
    fn give_no_more(&mut self) {
        let Geometry::Parity(map) = &*self.geometry else {
            unreachable!("a raid0 is made of a level with parity")
        };
        let used = map.dev_sectors();
        for member in self.members.iter_mut().filter(|m| m.is_active()) {
            let fields = &mut member.superblock.fields;
            assert!(
                fields.data_size_sectors >= used,
                "it has what is used of it"
            );
            fields.data_size_sectors = used;
        }
    }

    /// From here on the array is this one: all data lies where it lay.
    fn take_over(&mut self, shape: Shape) {
        let geometry = self.geometry_of(shape).expect("looked at just before");
        let geometry = Arc::new(geometry);
        let dev_sectors = self.dev_sectors_of(shape);
        let array_sectors = match &*geometry {
            Geometry::Striped(map) => map.array_sectors(),
            Geometry::Parity(map) => map.array_sectors(),
            _ => unreachable!("these become no other level"),
        };
        assert_eq!(array_sectors, self.info.array_sectors, "the same data");
        let was_raid0 = self.info.level == Level::Raid0;
        self.give_up_slots(shape);
        (self.info.level, self.info.layout) = (shape.level, shape.layout);
        self.info.raid_disks = shape.raid_disks;
        self.info.dev_sectors = dev_sectors;
        let has = Features::RAID0_LAYOUT;
        let format = self.info.format;
        for member in self.members.iter_mut() {
            let size = member.size_sectors;
            let fields = &mut member.superblock.fields;
            if was_raid0 && matches!(format, Format::V1_1 | Format::V1_2) {
                // It was told to give no more than is used; there may be more.
                let room = size - fields.data_offset_sectors;
                fields.data_size_sectors = fields.data_size_sectors.max(room);
            }
            (fields.level, fields.layout) = (shape.level, shape.layout);
            fields.raid_disks = shape.raid_disks.into();
            fields.size_sectors = dev_sectors;
            fields.features = match shape.level {
                Level::Raid0 => fields.features.with(has),
                _ => fields.features.without(has),
            };
        }
        self.metadata.track_activity(geometry.is_redundant());
        self.geometry = geometry.clone();
        self.lane.regrade(geometry.clone());
        self.sync.regrade(geometry, array_sectors);
        self.publish();
    }

    /// Who has a slot that there will not be is a spare; a raid0 has no use for those.
    fn give_up_slots(&mut self, shape: Shape) {
        let mut unused: Vec<MemberId> = Vec::new();
        for member in self.members.iter_mut() {
            let there = |slot: Slot| slot.0 < shape.raid_disks;
            if member.is_active() && member.slot.is_some_and(there) {
                continue;
            }
            unused.push(member.id);
            if member.is_active() {
                (member.state, member.slot) = (State::Spare, None);
                self.cover.forget(member.id);
            }
        }
        for id in unused.into_iter().filter(|_| shape.level == Level::Raid0) {
            self.io.orphan(id);
            self.io.bad.forget(id);
            self.cover.forget(id);
            let gone = self.members.remove(id).expect("just looked at");
            self.io.out.push(Command::Release(id));
            self.notify(Notice::Message(format!(
                "{} is no member any more: raid0 has no use for it",
                gone.name
            )));
        }
    }

    /// From here on everything is on its way to other places. Nothing has been moved yet.
    fn begin_reshape(&mut self, layout: u32, last: Option<Shape>, (by, up): (u64, bool)) {
        let shape = Shape {
            layout,
            ..self.shape()
        };
        let geometry = self.geometry_of(shape).expect("looked at just before");
        let position = match up {
            true => self.info.array_sectors,
            false => 0,
        };
        let distance = i32::try_from(by).expect("no more than a field holds");
        for member in self.members.iter_mut() {
            let moves = member.is_active();
            let fields = &mut member.superblock.fields;
            let mut features = fields.features.with(Features::RESHAPE_ACTIVE);
            if up {
                features = features.with(Features::RESHAPE_BACKWARDS);
            }
            if moves {
                features = features.with(Features::NEW_OFFSET);
            }
            fields.features = features;
            fields.new_offset_sectors = match (moves, up) {
                (false, _) => 0,
                (true, false) => -distance,
                (true, true) => distance,
            };
            fields.new_level = fields.level;
            fields.new_layout = layout;
            fields.new_chunk_sectors = fields.chunk_sectors;
            fields.delta_disks = 0;
            fields.reshape_position_sectors = position;
        }
        let frontier = if up { self.info.dev_sectors } else { 0 };
        let Geometry::Parity(map) = &geometry else {
            unreachable!("only levels with parity are reshaped")
        };
        let frontier = frontier.min(map.dev_sectors());
        let now = self.io.now().mono;
        let made = Reshape::new(now, (Arc::new(geometry), layout), (frontier, up), by);
        self.reshape = Some(made.then(last));
        self.show_shift();
        self.publish();
        self.notify(Notice::SyncStarted(SyncAction::Reshape));
    }

    /// Spares have nothing that could be moved. Those whose data would begin where that of the
    /// others began go along, so that all have room on the same side the next time.
    fn spares_that_move(&self) -> Vec<(MemberId, i64)> {
        let (format, bitmap) = (self.info.format, self.io.bad.bitmap_sectors());
        let mut active = self.members.iter().filter(|m| m.is_active());
        let first = active.next().expect("an array has members");
        let (from, by) = (first.data_offset_sectors(), first.moves_by_sectors());
        let same = |m: &Member| m.data_offset_sectors() == from && m.moves_by_sectors() == by;
        if !active.all(same) {
            return Vec::new();
        }
        let goes = |m: &&Member| {
            let fields = &m.superblock.fields;
            let behind = fields
                .data_size_sectors
                .saturating_sub(self.info.dev_sectors);
            let room = match by > 0 {
                true => behind,
                false => space::free_before_data(format, fields, bitmap),
            };
            m.state == State::Spare && m.data_offset_sectors() == from && room >= by.unsigned_abs()
        };
        let spares = self.members.iter().filter(goes);
        spares.map(|m| (m.id, by)).collect()
    }

    /// Everything has been moved, and superblocks say so.
    fn finish_reshape(&mut self) {
        let reshape = self.reshape.take().expect("one that is over");
        assert!(reshape.is_over(), "nothing is left in the old layout");
        let layout = reshape.layout();
        self.info.layout = layout;
        let others = self.spares_that_move();
        for member in self.members.iter_mut() {
            let along = others.iter().find(|(id, _)| *id == member.id);
            let by = along.map_or(member.moves_by_sectors(), |(_, by)| *by);
            member.superblock.fields.forget_reshape(by);
            member.superblock.fields.layout = layout;
        }
        let geometry = reshape.geometry().clone();
        self.geometry = geometry.clone();
        self.lane.regrade(geometry.clone());
        self.sync.regrade(geometry, self.info.array_sectors);
        self.sync.reshaped();
        self.show_shift();
        self.publish();
        self.notify(Notice::SyncEnded {
            action: SyncAction::Reshape,
            complete: true,
            mismatch_sectors: 0,
        });
    }
}
