//! Rules about a level or layout that changes (G9).
//!
//! ```text
//!   on a member, forwards         new places      nobody's        old places
//!                              |===============|............|==================|
//!                                              |  <-- what  |
//!                               moved rows, as    is moved    from where the least of the
//!                               hosts see them    lands here  superblocks on media stands
//! ```
//!
//! What is moved lands on nobody's sectors: a crash that leaves the oldest of all superblocks finds
//! every row. A superblock says that rows were moved when they lie in their new places durably, and
//! hosts write there when all members say so.

use std::fmt;
use std::ops::Range;

use umd_core::array::{MemberIo, MemberRole, Purpose};
use umd_core::value::MemberId;

use super::media::{Agreed, Needs};
use super::{MemberView, Monitor, Rule, Scene, Verdict, broken, slot_of};
use crate::disk::PAGE_SECTORS;
use crate::layout::{Geometry, Moving, Place};
use crate::metaview::{Shape, SuperView, Way};
use crate::stamp::recognise;

static ZERO: [u8; crate::stamp::SECTOR] = [0; crate::stamp::SECTOR];

/// What a superblock says of a reshape of this array.
fn moving(geometry: &Geometry, way: Way) -> Moving {
    Moving {
        layout: way.layout,
        frontier: way.position / geometry.data_slots(),
        backwards: way.backwards,
        by: way.by,
    }
}

/// Of two frontiers the one that less has passed.
fn least(backwards: bool, a: u64, b: u64) -> u64 {
    if backwards { a.max(b) } else { a.min(b) }
}

impl Monitor {
    /// The level, the layout, or how far a reshape has come, is another one from here on. `new`:
    /// what rows are now.
    pub fn follow(&mut self, scene: Scene<'_>, new: Geometry) -> Verdict {
        let started = self.checks == 0;
        let by = self.geometry.moving.map_or(0, |moving| moving.by);
        for m in &scene.status.members {
            let Some(view) = self.members.get_mut(&m.id) else {
                continue;
            };
            let (from, to) = (view.data_offset, m.data_offset_sectors);
            if view.number.is_none() || from == to {
                continue;
            }
            let moved = from.checked_add_signed(by) == Some(to);
            if !started && !moved && matches!(m.role, MemberRole::InSync) {
                let text = format!("data of {:?} begins at {to} now, which was {from}", m.id);
                return broken(Rule::Reshape, text);
            }
            (view.data_offset, view.data_len) = (to, (view.data_len + from).saturating_sub(to));
        }
        self.geometry = new;
        self.agreed = Agreed::default();
        Ok(())
    }

    /// The relative sectors of a range of a member; `None`: they are not where rows lie now.
    pub(super) fn relative(&self, view: &MemberView, range: &Range<u64>) -> Option<Range<u64>> {
        if self.geometry.moving.is_none() {
            return Some(range.start - view.data_offset..range.end - view.data_offset);
        }
        let first = self.geometry.relative_of(view.data_offset, range.start)?;
        let last = self.geometry.relative_of(view.data_offset, range.end - 1)?;
        let len = range.end - range.start;
        (last + 1 == first + len).then_some(first..first + len)
    }

    /// Where data may lie on a member, while it is moved, too.
    pub(super) fn data_and_room(&self, scene: Scene<'_>, view: &MemberView) -> Range<u64> {
        let data = view.data();
        let way = Monitor::durable_super(view, scene.disks).and_then(SuperView::reshape);
        let by = way.map_or(0, |way| way.by).min(0);
        data.start.saturating_add_signed(by)..data.end
    }

    /// What members in sync say on their media.
    fn said<'a>(
        &'a self,
        scene: Scene<'a>,
    ) -> impl Iterator<Item = (MemberId, &'a MemberView, SuperView<'a>)> {
        self.in_sync(scene.status).filter_map(move |(id, _, view)| {
            let sb = Monitor::durable_super(view, scene.disks)?;
            Some((id, view, sb))
        })
    }

    /// A host writes: every superblock says of these rows what the engine believes of them.
    pub(super) fn check_shape(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        if !self.follows {
            return Ok(());
        }
        let Some(relative) = self.relative(view, range) else {
            let text = format!("{what} at sectors {range:?}, where no rows are now");
            return broken(Rule::Reshape, text);
        };
        let geometry = &self.geometry;
        let shape = Shape {
            level: geometry.level,
            layout: geometry.layout,
            slots: geometry.slots,
        };
        let place = |moving: Option<Moving>| {
            let moved = moving.is_some_and(|moving| moving.has_moved(relative.start));
            moved.then(|| moving.map(|moving| moving.layout))
        };
        for (id, _, sb) in self.said(scene) {
            let says = sb.reshape().map(|way| moving(geometry, way));
            // The layout of a raid4 or of a raid0 is a matter of words.
            let same = sb.shape().is_none_or(|said| match shape.level {
                0 | 4 => (said.level, said.slots) == (shape.level, shape.slots),
                _ => said == shape,
            });
            if !same || place(says) != place(geometry.moving) {
                let text = format!(
                    "{what} at {relative:?}: {id:?} says {:?}, {says:?}, and it is {shape:?}, {:?}",
                    sb.shape(),
                    geometry.moving
                );
                return broken(Rule::Reshape, text);
            }
        }
        Ok(())
    }

    /// Something is read to be moved: from where it lies, and was not moved before.
    pub(super) fn check_moved_from(
        &self,
        view: &MemberView,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let relative = self.relative(view, range);
        let moving = self.geometry.moving;
        let moved = |at: u64| moving.is_some_and(|moving| moving.has_moved(at));
        match relative {
            Some(relative) if !moved(relative.start) && !moved(relative.end - 1) => Ok(()),
            _ => broken(Rule::Reshape, format!("{what} at {range:?}: moved before")),
        }
    }

    /// Something is written where it is going to be.
    pub(super) fn check_moved_to(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        io: &MemberIo,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let Some(now) = self.geometry.moving else {
            return broken(Rule::Reshape, format!("{what}, and nothing is moved"));
        };
        if slot_of(scene, io.member).is_none() {
            return broken(Rule::Reshape, format!("{what}, which has no slot"));
        }
        let begin = match now.backwards {
            true => self.geometry.used_sectors(),
            false => 0,
        };
        let frontier = self.said(scene).fold(now.frontier, |frontier, (_, _, sb)| {
            let says = sb.reshape().map(|way| moving(&self.geometry, way).frontier);
            least(now.backwards, frontier, says.unwrap_or(begin))
        });
        let needed = view.data_offset + frontier;
        let live = (view.data_offset + now.frontier).saturating_add_signed(now.by);
        let apart = match now.backwards {
            true => range.start >= needed && range.end <= live,
            false => range.end <= needed && range.start >= live,
        };
        if !apart {
            let text = format!(
                "{what} at sectors {range:?}: rows lie there from (to) {needed} on, by the \
                 least of all superblocks, and those that were moved to (from) {live}"
            );
            return broken(Rule::Reshape, text);
        }
        self.check_beside(scene, view, range, what)
    }

    /// Nothing is moved onto a superblock, a bitmap or a log.
    fn check_beside(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        range: &Range<u64>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let bitmap = view.bitmap_sector.and_then(|start| {
            let bits = self.bitmap(view, scene.disks)?;
            Some(start..start + bits.shape.len_sectors())
        });
        let log = Monitor::durable_super(view, scene.disks).map(SuperView::bad_block_log);
        let log = log
            .filter(|(offset, ..)| *offset != 0)
            .map(|(offset, len, _)| {
                let start = view.super_sector.saturating_add_signed(i64::from(offset));
                start..start + len
            });
        let own = view.super_sector..view.super_sector + 8;
        let mut taken = [Some(own), bitmap, log].into_iter().flatten();
        match taken.find(|other| other.start < range.end && range.start < other.end) {
            None => Ok(()),
            Some(other) => {
                let text = format!("{what} at sectors {range:?}: metadata lies at {other:?}");
                broken(Rule::Extent, text)
            }
        }
    }

    /// Whether an array sector is held by what was moved here. What a disk lied about is moved as
    /// it is, and so is what holds no data.
    fn is_what_lay_there(
        &self,
        scene: Scene<'_>,
        sector: Option<u64>,
        place: Place,
        held: &[u8],
    ) -> bool {
        let excused = self
            .excused
            .contains(&(place.relative_sector / PAGE_SECTORS));
        let right = |sector| scene.oracle.is_current(sector, recognise(held));
        excused || sector.is_none_or(right)
    }

    /// A superblock says how far a reshape has come: that far everything lies where it is to be.
    pub(super) fn check_reshape_mark(
        &self,
        scene: Scene<'_>,
        member: MemberId,
        sb: SuperView<'_>,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let (Some(now), true) = (self.geometry.moving, self.follows) else {
            return Ok(());
        };
        let Some(way) = sb.reshape().filter(|_| slot_of(scene, member).is_some()) else {
            return Ok(());
        };
        let claims = moving(&self.geometry, way);
        let rows = match now.backwards {
            true => claims.frontier..now.frontier,
            false => now.frontier..claims.frontier,
        };
        if rows.is_empty() {
            return Ok(());
        }
        let Moving { by, frontier, .. } = claims;
        let moved = Geometry {
            moving: Some(Moving {
                by,
                frontier,
                ..now
            }),
            ..self.geometry.clone()
        };
        for (_, slot, view) in self.in_sync(scene.status) {
            let disk = &scene.disks[view.disk];
            for relative_sector in rows.clone() {
                let at = moved.on_device(view.data_offset, relative_sector);
                let flies = disk
                    .writes_in_flight()
                    .any(|write| write.offset_sectors <= at && at < write.end_sectors());
                let mut cached = disk.cache().range(at, at + 1);
                let volatile = cached.any(|(_, write)| write.purpose == Purpose::Reshape);
                let place = Place {
                    slot,
                    relative_sector,
                };
                let held = disk.visible(at).unwrap_or(&ZERO);
                let right = self.is_what_lay_there(scene, moved.sector_at(place), place, held);
                if flies || volatile || !right {
                    let why = match (flies, volatile) {
                        (true, _) => "is being written",
                        (_, true) => "is not durable",
                        _ => "is not what lay there",
                    };
                    let text = format!(
                        "{what} claims that {rows:?} was moved, and {at} of slot {slot} {why}"
                    );
                    return broken(Rule::Reshape, text);
                }
            }
        }
        let agreed = Agreed::default();
        let media = self.media(scene).as_if(&moved, &agreed);
        match media.disagreement(rows.clone(), Needs::InSync) {
            None => Ok(()),
            Some(text) => broken(
                Rule::Reshape,
                format!("{what} claims that {rows:?} was moved, but {text}"),
            ),
        }
    }
}
