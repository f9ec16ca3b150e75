//! What `--update=` changes in a member's superblock before an array is assembled. Pure.
//!
//! ```text
//!   SuperblockV1, bitmap superblock --apply--> Change { new superblock, writes in order }
//! ```
//!
//! Events and the time of the last update stay as they are: all members are changed alike. The
//! words and their meaning are mdadm's (mdadm(8)), with one thing added: where the array has a
//! bitmap, `resync` marks that as out of date, because a bitmap without bits would otherwise let
//! the resync pass over everything.

pub mod cluster;
pub mod join;

use crate::bitmap::{self, BitmapSuperblock};
use crate::place::{DEVICE_SECTORS_MIN, Format};
use crate::sha1::sha1;
use crate::space::BBLOG_SECTORS;
use crate::v1::{Features, Fields, Raid0Layout, Role, UnixTime};
use crate::v090;
use crate::{Level, SECTOR_BYTES, SuperblockV1, Uuid};

/// One kind of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The stored name, "host:name".
    Name(String),
    /// The array's identity, of the bitmap too.
    Uuid(Uuid),
    /// The host: in front of the name, or in the identity of version 0.90.
    Homehost(String),
    /// Redundancy may be wrong: resync.
    Resync,
    /// The counts of devices that version 0.90 keeps.
    Summaries,
    /// Version 0.90 of a machine with the other byte order; see [`crate::v090::swapped`].
    Byteorder,
    /// The number of the md device that version 0.90 keeps.
    SuperMinor(u32),
    /// The device has grown or shrunk.
    DeviceSize,
    /// The bitmap is given up.
    NoBitmap,
    /// A clustered array becomes a plain one; the name of its cluster, if it was said. See
    /// [`cluster::leave`].
    NoCluster(Option<String>),
    /// Room for a bad-block log.
    Bbl,
    /// None.
    NoBbl,
    /// Which of the two raid0 layouts is used; `None` leaves it unsaid.
    Layout(Option<Raid0Layout>),
    /// Version 1.0 instead of 0.90.
    Metadata {
        /// The time now: the newer one of two superblocks is meant.
        ctime_seconds: u64,
        /// The name to store.
        name: String,
    },
    /// The logical block size that kernels from 6.19 store; 0 takes it out.
    LogicalBlock(u32),
}

impl Update {
    /// The word on the command line.
    pub fn word(&self) -> &'static str {
        match self {
            Update::Name(_) => "name",
            Update::Uuid(_) => "uuid",
            Update::Homehost(_) => "homehost",
            Update::Resync => "resync",
            Update::Summaries => "summaries",
            Update::Byteorder => "byteorder",
            Update::SuperMinor(_) => "super-minor",
            Update::DeviceSize => "devicesize",
            Update::NoBitmap => "no-bitmap",
            Update::NoCluster(_) => "no-cluster",
            Update::Bbl => "bbl",
            Update::NoBbl => "no-bbl",
            Update::Layout(Some(Raid0Layout::Original)) => "layout-original",
            Update::Layout(Some(Raid0Layout::Alternate)) => "layout-alternate",
            Update::Layout(None) => "layout-unspecified",
            Update::Metadata { .. } => "metadata",
            Update::LogicalBlock(_) => "lbs",
        }
    }
}

/// Why a member cannot be changed so; a sentence without the member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UpdateError(String);

fn no<T>(text: impl Into<String>) -> Result<T, UpdateError> {
    Err(UpdateError(text.into()))
}

/// What one member needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it says afterwards.
    pub superblock: SuperblockV1,
    /// Its bitmap superblock afterwards.
    pub bitmap: Option<BitmapSuperblock>,
    /// Sector and bytes, in the order in which they are made durable; empty when it is so already.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// Computes the change for the member with this superblock, and the bitmap superblock found where
/// it says, on a device of `device_sectors` with logical blocks of `block_bytes`.
///
/// # Errors
/// When the change makes no sense for this member.
///
/// # Panics
/// On an array without superblocks, and for `NoCluster`.
pub fn apply(
    update: &Update,
    found: &SuperblockV1,
    bitmap: Option<&BitmapSuperblock>,
    (device_sectors, block_bytes): (u64, usize),
) -> Result<Change, UpdateError> {
    assert!(found.format().is_stored(), "there is something to update");
    let unfit = |error: crate::ParseError| UpdateError(error.to_string());
    let mut writes = Vec::new();
    let mut superblock = match update {
        Update::Metadata { .. } => found.clone(),
        _ => {
            let mut changed = found.clone();
            edit((update, bitmap), &mut changed, device_sectors, &mut writes)?;
            changed
        }
    };
    if let Update::Metadata {
        ctime_seconds,
        name,
    } = update
    {
        let fields = converted(found, *ctime_seconds, name, device_sectors)?;
        superblock = SuperblockV1::build(Format::V1_0, fields, device_sectors).map_err(unfit)?;
    }
    let bytes = superblock.encode(block_bytes);
    let verified = SuperblockV1::load(&bytes, superblock.format(), device_sectors);
    let superblock = verified.map_err(unfit)?;
    let bitmap = changed_bitmap(update, &superblock, bitmap);
    if let Some((new, true)) = &bitmap
        && let Some(sector) = superblock.fields.bitmap_sector()
    {
        writes.push((sector, new.encode().to_vec()));
    }
    let same = superblock.format() == found.format() && bytes == found.encode(block_bytes);
    if !same {
        writes.push((superblock.fields.super_offset_sectors, bytes));
    }
    Ok(Change {
        superblock,
        bitmap: bitmap.map(|(new, _)| new),
        writes,
    })
}

/// The bitmap superblock afterwards, and whether it has to be written.
fn changed_bitmap(
    update: &Update,
    superblock: &SuperblockV1,
    found: Option<&BitmapSuperblock>,
) -> Option<(BitmapSuperblock, bool)> {
    superblock.fields.bitmap_sector()?;
    let found = found?;
    let mut new = found.clone();
    new.fields.uuid = superblock.bitmap_uuid();
    if *update == Update::Resync {
        new.fields.state = new.fields.state.with(bitmap::State::STALE);
    }
    let changed = new.fields != found.fields;
    Some((new, changed))
}

fn edit(
    (update, bitmap): (&Update, Option<&BitmapSuperblock>),
    superblock: &mut SuperblockV1,
    device_sectors: u64,
    writes: &mut Vec<(u64, Vec<u8>)>,
) -> Result<(), UpdateError> {
    let format = superblock.format();
    let (old, word) = (format == Format::V090, update.word());
    let fields = &mut superblock.fields;
    match update {
        Update::Name(_) | Update::Bbl | Update::NoBbl | Update::LogicalBlock(_) if old => {
            return no(format!("--update={word} not understood for 0.90 metadata"));
        }
        Update::Byteorder | Update::SuperMinor(_) if !old => {
            return no(format!("--update={word} not understood for 1.x metadata"));
        }
        Update::Name(name) => fields.set_name = stored(name)?,
        Update::Homehost(host) if old => {
            fields.set_uuid = v090::with_host(fields.set_uuid, host);
        }
        Update::Homehost(host) => {
            let name = fields.name();
            let short = name.split_once(':').map_or(&*name, |(_, short)| short);
            fields.set_name = stored(&format!("{host}:{short}"))?;
        }
        Update::Uuid(uuid) => fields.set_uuid = *uuid,
        Update::Resync if !fields.level.is_redundant() => {
            return no(format!("{} has no redundancy to resync", fields.level));
        }
        Update::Resync => fields.resync_offset_sectors = 0,
        // Counts are made anew with each superblock that is written; 1.x has none. What had the
        // other byte order was turned before it came here.
        Update::Summaries | Update::Byteorder => {}
        Update::SuperMinor(minor) => fields.preferred_minor = *minor,
        Update::DeviceSize => device_size(fields, format, device_sectors)?,
        Update::NoBitmap => {
            fields.features = fields.features.without(Features::BITMAP_OFFSET);
            fields.bitmap_offset_raw = 0;
        }
        Update::Bbl => add_log(fields, (format, bitmap), writes)?,
        Update::NoBbl if fields.features.contains(Features::BAD_BLOCKS) => {
            return no("its bad-block log is not empty, so it cannot be removed");
        }
        Update::NoBbl => {
            fields.bblog_offset_sectors = 0;
            fields.bblog_size_sectors = 0;
        }
        Update::Layout(layout) => raid0_layout(fields, *layout)?,
        Update::LogicalBlock(bytes) => logical_block(fields, *bytes)?,
        Update::Metadata { .. } => unreachable!("a superblock of another version is made anew"),
        Update::NoCluster(_) => unreachable!("it needs the bitmaps of all nodes"),
    }
    Ok(())
}

fn stored(name: &str) -> Result<[u8; 32], UpdateError> {
    if name.len() > crate::create::NAME_BYTES_MAX || name.contains('\0') {
        return no(format!("the name {name:?} is longer than 31 bytes"));
    }
    let mut field = [0; 32];
    field[..name.len()].copy_from_slice(name.as_bytes());
    Ok(field)
}

fn device_size(
    fields: &mut Fields,
    format: Format,
    device_sectors: u64,
) -> Result<(), UpdateError> {
    if format.is_at_end() {
        return no(format!(
            "--update=devicesize is for metadata 1.1 and 1.2, where data ends with the device, \
             not for {format}"
        ));
    }
    fields.data_size_sectors = device_sectors.saturating_sub(fields.data_offset_sectors);
    Ok(())
}

/// Room for the log where `create` puts it, as far as nothing else is there.
fn add_log(
    fields: &mut Fields,
    (format, bitmap): (Format, Option<&BitmapSuperblock>),
    writes: &mut Vec<(u64, Vec<u8>)>,
) -> Result<(), UpdateError> {
    if fields.bblog_offset_sectors != 0 {
        return Ok(());
    }
    let length = u64::from(BBLOG_SECTORS);
    let start = match format.is_at_end() {
        true => fields.super_offset_sectors.checked_sub(length),
        false => fields.data_offset_sectors.checked_sub(length),
    };
    let Some(start) = start else {
        return no("there is no room for a bad-block log");
    };
    let data_end = fields.data_offset_sectors + fields.data_size_sectors;
    let super_start = fields.super_offset_sectors;
    let end = start + length;
    let bits = match (fields.bitmap_sector(), bitmap) {
        (None, _) => (end, end),
        (Some(_), None) => return no("its bitmap cannot be read"),
        (Some(sector), Some(found)) => {
            let regions = found.regions(found.fields.sync_size_sectors);
            let reserved = u64::from(found.fields.sectors_reserved);
            (sector, sector + found.area_sectors(regions).max(reserved))
        }
    };
    let taken = [
        (fields.data_offset_sectors, data_end),
        (super_start, super_start + 8),
        bits,
    ];
    let overlaps = taken.iter().any(|(from, to)| start < *to && *from < end);
    if overlaps {
        return no("there is no room for a bad-block log");
    }
    fields.bblog_offset_sectors = (start as i64 - super_start as i64) as i32;
    fields.bblog_size_sectors = BBLOG_SECTORS;
    fields.bblog_shift = 0;
    writes.push((start, vec![0xff; BBLOG_SECTORS as usize * SECTOR_BYTES]));
    Ok(())
}

fn raid0_layout(fields: &mut Fields, layout: Option<Raid0Layout>) -> Result<(), UpdateError> {
    if fields.level != Level::Raid0 {
        return no(format!("{} has no choice of raid0 layouts", fields.level));
    }
    let has = Features::RAID0_LAYOUT;
    (fields.features, fields.layout) = match layout {
        None => (fields.features.without(has), 0),
        Some(Raid0Layout::Original) => (fields.features.with(has), 1),
        Some(Raid0Layout::Alternate) => (fields.features.with(has), 2),
    };
    Ok(())
}

fn logical_block(fields: &mut Fields, bytes: u32) -> Result<(), UpdateError> {
    let possible = bytes.is_power_of_two() && (512..=4096).contains(&bytes);
    if bytes != 0 && !possible {
        return no(format!(
            "logical blocks of {bytes} bytes: 0, 512, 1024, 2048 and 4096 are possible"
        ));
    }
    fields.logical_block_bytes = bytes;
    Ok(())
}

/// What version 1.0 says of a member of version 0.90: data stays where it is.
fn converted(
    found: &SuperblockV1,
    ctime_seconds: u64,
    name: &str,
    device_sectors: u64,
) -> Result<Fields, UpdateError> {
    if found.format() != Format::V090 {
        return no(format!(
            "--update=metadata makes 1.0 of 0.90, and this is {}",
            found.format()
        ));
    }
    let fields = &found.fields;
    if fields.features.contains(Features::BITMAP_OFFSET) {
        return no("it has a bitmap: remove that first with --update=no-bitmap");
    }
    if !fields.is_clean() {
        return no("it is not clean: assemble it without --update and let the resync end first");
    }
    if device_sectors < DEVICE_SECTORS_MIN {
        return no("the device is too small for metadata 1.0");
    }
    let place = Format::V1_0.superblock_sector(device_sectors);
    let raid0 = fields.features;
    // The old superblock stays where it is, and mdadm believes the one that was created later:
    // whatever the clocks of the two machines say.
    let ctime_seconds = ctime_seconds.max(fields.ctime.seconds() + 1);
    Ok(Fields {
        features: raid0,
        set_name: stored(name)?,
        ctime: UnixTime::from_seconds(ctime_seconds),
        super_offset_sectors: place.expect("large enough for a superblock"),
        device_uuid: member_identity(fields),
        roles: roles_of_128(&fields.roles),
        listed: Vec::new(),
        ..fields.clone()
    })
}

/// A UUID for each member that two runs of a conversion cut short agree on.
fn member_identity(fields: &Fields) -> Uuid {
    let mut bytes = fields.set_uuid.0.to_vec();
    bytes.extend(fields.device_uuid.0);
    let digest = sha1(&bytes);
    Uuid(crate::bytes::array_at(&digest, 0))
}

/// As many entries as mdadm makes room for.
fn roles_of_128(roles: &[Role]) -> Vec<Role> {
    let mut all = roles.to_vec();
    all.resize(128, Role::Spare);
    all
}
