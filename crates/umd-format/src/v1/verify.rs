//! What must hold in a superblock before any of it is used: the kernel's own load checks
//! (superblocks.md section 2), and those that keep our arithmetic safe.

use crate::place::Format;
use crate::{Level, SECTOR_BYTES};

use super::{DATA_SECTORS_MIN, Features, Fields, ParseError, ROLES_MAX, Role, sectors};

/// No array lives to see this many updates; below it there is always a next one.
const EVENTS_END: u64 = 1 << 63;

/// The largest page of any machine, and so the largest block of any device.
const BLOCK_BYTES_MAX: u32 = 64 << 10;

/// Checks `fields` against each other and against the device they are on.
pub(super) fn check(
    fields: &Fields,
    format: Format,
    device_sectors: u64,
) -> Result<(), ParseError> {
    features(fields)?;
    place(fields, format, device_sectors)?;
    shape(fields)?;
    logical_block(fields)?;
    data_area(fields, format, device_sectors)?;
    side_areas(fields, format, device_sectors)
}

fn impossible(text: String) -> Result<(), ParseError> {
    Err(ParseError::Impossible(text))
}

fn features(fields: &Fields) -> Result<(), ParseError> {
    let map = fields.features;
    if map.unknown() != 0 {
        return Err(ParseError::UnknownFeatures(map.unknown()));
    }
    let ppl = Features::PPL.with(Features::MULTIPLE_PPLS);
    let other_logs = Features::BITMAP_OFFSET.with(Features::JOURNAL);
    if map.contains(ppl) || (map.intersects(ppl) && map.intersects(other_logs)) {
        return impossible(format!("features {:#x} exclude each other", map.0));
    }
    if map.contains(Features::RAID0_LAYOUT) && fields.level != Level::Raid0 {
        return impossible(format!("it is {} but has a raid0 layout", fields.level));
    }
    Ok(())
}

fn place(fields: &Fields, format: Format, device_sectors: u64) -> Result<(), ParseError> {
    if format == Format::Bare {
        return Ok(());
    }
    let Some(found) = format.superblock_sector(device_sectors) else {
        return impossible(format!(
            "a device of {device_sectors} sectors cannot hold it"
        ));
    };
    let stored = fields.super_offset_sectors;
    if stored != found {
        return Err(ParseError::WrongPlace { stored, found });
    }
    Ok(())
}

/// Level, number of members, chunk and size.
fn shape(fields: &Fields) -> Result<(), ParseError> {
    let level = fields.level;
    if fields.events >= EVENTS_END {
        return impossible(format!("its events are {:#x}", fields.events));
    }
    if fields.dev_number as usize >= ROLES_MAX {
        return impossible(format!("its device number is {}", fields.dev_number));
    }
    let disks = fields.raid_disks;
    if disks < level.min_disks() || disks as usize > ROLES_MAX {
        return impossible(format!("{level} with {disks} devices"));
    }
    let chunk = fields.chunk_sectors;
    if level == Level::Raid0 && chunk == 0 {
        return impossible("raid0 without a chunk size".to_owned());
    }
    let rotating = level.is_parity() || level == Level::Raid10;
    if rotating && (!chunk.is_power_of_two() || chunk < 8) {
        let text = format!("{level} with a chunk of {chunk} sectors (a power of two from 8)");
        return impossible(text);
    }
    // A journal holds no array data, so the array's size says nothing about it.
    if level.is_redundant() && fields.own_role() != Role::Journal {
        let (size, room) = (fields.size_sectors, fields.data_size_sectors);
        if size > room {
            return impossible(format!("{size} sectors are used of {room}"));
        }
        if size == 0 {
            return impossible(format!("a {level} of no sectors"));
        }
    }
    if level.is_parity() && fields.size_sectors < u64::from(chunk) {
        return impossible(format!(
            "its size of {} is below one chunk",
            fields.size_sectors
        ));
    }
    if (level.is_parity() || level == Level::Raid1) && fields.array_sectors().is_none_or(too_many) {
        return impossible(format!("{disks} times {} sectors", fields.size_sectors));
    }
    Ok(())
}

/// The block size that kernels from 6.19 store: none, or one that a device can have.
fn logical_block(fields: &Fields) -> Result<(), ParseError> {
    let bytes = fields.logical_block_bytes;
    let possible =
        bytes.is_power_of_two() && (SECTOR_BYTES as u32..=BLOCK_BYTES_MAX).contains(&bytes);
    if bytes != 0 && !possible {
        return impossible(format!("logical blocks of {bytes} bytes"));
    }
    Ok(())
}

/// Byte offsets are 64 bits wide, so sectors are at most 55.
fn too_many(sectors: u64) -> bool {
    sectors > u64::MAX / SECTOR_BYTES as u64
}

fn data_area(fields: &Fields, format: Format, device_sectors: u64) -> Result<(), ParseError> {
    let (start, length) = (fields.data_offset_sectors, fields.data_size_sectors);
    if length < DATA_SECTORS_MIN {
        return impossible(format!("only {length} sectors of data"));
    }
    let data_end_sectors = start.saturating_add(length);
    if data_end_sectors > device_sectors {
        return Err(ParseError::DeviceTooSmall {
            data_end_sectors,
            device_sectors,
        });
    }
    if too_many(device_sectors) {
        return impossible(format!("a device of {device_sectors} sectors"));
    }
    let super_start = fields.super_offset_sectors;
    let super_end = super_start + sectors(fields, format);
    let apart = match format {
        Format::Bare => true,
        Format::V090 | Format::V1_0 => data_end_sectors <= super_start,
        Format::V1(_) => start >= super_end,
    };
    if !apart {
        return impossible(format!(
            "data at sectors {start} to {data_end_sectors} overlaps the superblock at {super_start}"
        ));
    }
    Ok(())
}

/// The bitmap's and the bad-block log's beginnings: on the device, not on superblock or data.
fn side_areas(fields: &Fields, format: Format, device_sectors: u64) -> Result<(), ParseError> {
    if fields.features.contains(Features::BITMAP_OFFSET) {
        let start = fields.bitmap_sector();
        side_area((fields, format), "bitmap", start, 1, device_sectors)?;
    }
    match fields.features.contains(Features::BAD_BLOCKS) {
        true => bad_block_log(fields, format, device_sectors),
        false => Ok(()),
    }
}

/// That a bad-block log, which may be written, lies on nothing else.
pub(super) fn bad_block_log(
    fields: &Fields,
    format: Format,
    device_sectors: u64,
) -> Result<(), ParseError> {
    let length = u64::from(fields.bblog_size_sectors);
    let start = fields.bblog_sector();
    side_area(
        (fields, format),
        "bad-block log",
        start,
        length,
        device_sectors,
    )?;
    if length > 8 || fields.bblog_shift > 54 {
        return impossible(format!("a bad-block log of {length} sectors"));
    }
    Ok(())
}

fn side_area(
    (fields, format): (&Fields, Format),
    what: &str,
    start: Option<u64>,
    length: u64,
    device_sectors: u64,
) -> Result<(), ParseError> {
    let Some(start) = start else {
        return impossible(format!("its {what} lies before the start of the device"));
    };
    let end = start.saturating_add(length);
    if end > device_sectors {
        return impossible(format!("its {what} lies behind the end of the device"));
    }
    let data_end = fields.data_offset_sectors + fields.data_size_sectors;
    let super_start = fields.super_offset_sectors;
    let super_end = super_start + sectors(fields, format);
    if start < super_end && super_start < end {
        return impossible(format!("its {what} overlaps the superblock"));
    }
    if start < data_end && fields.data_offset_sectors < end {
        return impossible(format!("its {what} overlaps the data"));
    }
    Ok(())
}
