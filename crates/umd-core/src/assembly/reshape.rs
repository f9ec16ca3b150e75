//! A reshape that was under way when the array last ran.
//!
//! What can go on: another layout of the same RAID5 or RAID6, with members whose data is moved. All
//! other reshapes (more members, another chunk, a backup file) are refused.

use umd_format::v1::{Features, Fields};
use umd_format::{Level, Role, space};

use super::select::Candidate;
use crate::geometry::{Geometry, Raid456, Shape, same_bytes};
use crate::value::{Exhibit, Museum};

/// How a reshape goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReshapePlan {
    /// Where data lies that has been moved.
    pub geometry: Geometry,
    /// The layout of that.
    pub layout: u32,
    /// Where the moved rows end, or begin: member sectors.
    pub frontier_sectors: u64,
    /// From the end to the start.
    pub backwards: bool,
    /// The least that data is moved by on a member.
    pub distance_sectors: u64,
}

fn is_active(fields: &Fields) -> bool {
    fields.features.contains(Features::RESHAPE_ACTIVE)
}

fn shape(fields: &Fields) -> Option<Shape> {
    Some(Shape {
        level: fields.level,
        layout: fields.layout,
        raid_disks: u16::try_from(fields.raid_disks).ok()?,
    })
}

/// The map that the reshape leads to, if it is one that can go on.
fn new_map(fields: &Fields) -> Option<Raid456> {
    let same = fields.new_level == fields.level
        && fields.new_chunk_sectors == fields.chunk_sectors
        && fields.delta_disks == 0
        && fields.new_layout != fields.layout;
    let level = matches!(fields.level, Level::Raid5 | Level::Raid6);
    if !same || !level {
        return None;
    }
    let disks = u16::try_from(fields.raid_disks).ok()?;
    let chunk = u64::from(fields.chunk_sectors);
    let map = Raid456::new(
        fields.level,
        fields.new_layout,
        disks,
        chunk,
        fields.size_sectors,
    )?;
    let row = chunk * u64::from(map.data_disks());
    let position = fields.reshape_position_sectors;
    (position.is_multiple_of(row) && position <= map.array_sectors()).then_some(map)
}

/// Whether the reshape that this superblock tells of is one that can go on.
pub(super) fn can_go_on(fields: &Fields) -> bool {
    fields.features.contains(Features::NEW_OFFSET) && new_map(fields).is_some()
}

/// Whether two superblocks say the same of a reshape.
pub(super) fn is_same(a: &Fields, b: &Fields) -> bool {
    let said = |one: &Fields| (one.new_layout, one.reshape_position_sectors, backwards(one));
    is_active(a) == is_active(b) && (!is_active(a) || said(a) == said(b))
}

/// Whether its data has been moved to where there is room for it.
fn can_be_finished(fields: &Fields) -> bool {
    if !matches!(fields.own_role(), Role::Active(_)) {
        return true;
    }
    let by = i64::from(fields.new_offset_sectors);
    let start = fields.data_offset_sectors.checked_add_signed(by);
    let room = fields.data_size_sectors.checked_add_signed(-by);
    let fits = room.is_some_and(|room| room >= fields.size_sectors);
    fields.features.contains(Features::NEW_OFFSET) && start.is_some() && fits
}

/// Where moved rows end, or begin.
fn frontier(fields: &Fields, map: &Raid456) -> u64 {
    fields.reshape_position_sectors / u64::from(map.data_disks())
}

fn backwards(fields: &Fields) -> bool {
    fields.features.contains(Features::RESHAPE_BACKWARDS)
}

/// Whether everything has been moved.
fn is_over(fields: &Fields) -> bool {
    let Some(map) = new_map(fields) else {
        return false;
    };
    let end = if backwards(fields) {
        0
    } else {
        map.dev_sectors()
    };
    frontier(fields, &map) == end
}

/// Whether the older of two superblocks, one update apart, describes the same bytes in the same
/// places: a crash came between the two sides of a change of level or layout.
pub(super) fn is_one_step(newer: &Fields, older: &Fields) -> bool {
    if newer.chunk_sectors != older.chunk_sectors {
        return false;
    }
    let (Some(new), Some(old)) = (shape(newer), shape(older)) else {
        return false;
    };
    let sized = [new.level, old.level].contains(&Level::Raid0);
    if !sized && newer.size_sectors != older.size_sectors {
        return false;
    }
    match (is_active(newer), is_active(older)) {
        (false, false) => same_bytes(old, new),
        (false, true) => {
            let moved = Shape {
                layout: older.new_layout,
                ..old
            };
            is_over(older) && can_be_finished(older) && moved == new
        }
        // It goes on, or it has just begun.
        (true, knows) => {
            let begins = new_map(newer).is_some_and(|map| {
                let begin = if backwards(newer) {
                    map.dev_sectors()
                } else {
                    0
                };
                frontier(newer, &map) == begin
            });
            let way = |one: &Fields| (one.new_layout, backwards(one));
            old == new
                && if knows {
                    way(newer) == way(older)
                } else {
                    begins
                }
        }
    }
}

/// The plan of a reshape, or who stands against it, and why. `bitmap_sectors`: of the bitmap on
/// each member.
pub(super) fn plan<'a>(
    reference: &Candidate<'a>,
    members: &[Candidate<'a>],
    bitmap_sectors: u64,
    museum: Museum,
) -> Result<Option<ReshapePlan>, (String, Candidate<'a>)> {
    let fields = &reference.superblock.fields;
    if !is_active(fields) {
        return Ok(None);
    }
    let map = new_map(fields).expect("others were refused");
    let backwards = backwards(fields);
    let begin = if backwards { map.dev_sectors() } else { 0 };
    // M43 (873f50ece41a): a reshape that had been frozen began again at its beginning.
    let frontier_sectors = match museum.on(Exhibit::M43) {
        true => begin,
        false => frontier(fields, &map),
    };
    let mut distance_sectors = u64::MAX;
    for member in members {
        let own = &member.superblock.fields;
        if own.features.contains(Features::RECOVERY_OFFSET) {
            let what = "a reshape that is under way while a member is being rebuilt";
            return Err((what.into(), *member));
        }
        // Who has not heard of it yet has not been moved.
        let knows = own.features.contains(Features::NEW_OFFSET);
        let by = match knows {
            true => own.new_offset_sectors,
            false => fields.new_offset_sectors,
        };
        let right = (by > 0) == backwards && (knows || frontier_sectors == begin);
        let distance = u64::from(by.unsigned_abs());
        let room = match backwards {
            true => own.data_size_sectors.saturating_sub(map.dev_sectors()),
            false => space::free_before_data(member.superblock.format(), own, bitmap_sectors),
        };
        if !right || distance < map.chunk_sectors() || distance > room {
            let what = "a reshape that is under way and moves this member where it cannot";
            return Err((what.into(), *member));
        }
        distance_sectors = distance_sectors.min(distance);
    }
    Ok(Some(ReshapePlan {
        geometry: Geometry::Parity(map),
        layout: fields.new_layout,
        frontier_sectors,
        backwards,
        distance_sectors,
    }))
}

/// Makes this superblock say what that of the reference says of level, layout and reshape.
/// `active`: the member has a slot.
pub(crate) fn agree(fields: &mut Fields, reference: &Fields, active: bool) {
    if is_active(fields) && !is_active(reference) {
        let by = match fields.features.contains(Features::NEW_OFFSET) && active {
            true => i64::from(fields.new_offset_sectors),
            false => 0,
        };
        fields.forget_reshape(by);
    }
    (fields.level, fields.layout) = (reference.level, reference.layout);
    fields.raid_disks = reference.raid_disks;
    fields.size_sectors = reference.size_sectors;
    let has = Features::RAID0_LAYOUT;
    fields.features = match reference.features.contains(has) {
        true => fields.features.with(has),
        false => fields.features.without(has),
    };
    if !is_active(reference) {
        return;
    }
    let knows = fields.features.contains(Features::NEW_OFFSET);
    for bit in [Features::RESHAPE_ACTIVE, Features::RESHAPE_BACKWARDS] {
        fields.features = match reference.features.contains(bit) {
            true => fields.features.with(bit),
            false => fields.features.without(bit),
        };
    }
    match (active, knows) {
        (true, false) => {
            fields.features = fields.features.with(Features::NEW_OFFSET);
            fields.new_offset_sectors = reference.new_offset_sectors;
        }
        (true, true) => {}
        (false, _) => {
            fields.features = fields.features.without(Features::NEW_OFFSET);
            fields.new_offset_sectors = 0;
        }
    }
    fields.new_level = reference.new_level;
    fields.new_layout = reference.new_layout;
    fields.new_chunk_sectors = reference.new_chunk_sectors;
    fields.delta_disks = reference.delta_disks;
    fields.reshape_position_sectors = reference.reshape_position_sectors;
}
