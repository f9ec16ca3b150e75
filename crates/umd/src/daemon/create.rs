//! Making a new array: look, refuse, plan, write. Blocking; never on an array's thread.
//!
//! ```text
//!   CreateRequest --prepare--> Prepared (devices open and locked, everything to write in memory)
//!                                 |  `--describe--> what --dry-run prints
//!                                 `--write--> bitmap, then superblock, each made durable
//! ```
//!
//! Nothing is written before everything that can be refused has been. Files that were made for the
//! array are taken away again when it is refused.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use umd_core::array::FlagWish;
use umd_core::assembly::MemberFacts;
use umd_core::geometry::{Geometry, Raid10};
use umd_core::value::{IoError, MemberId, SECTOR_BYTES};
use umd_disk::{MemberFile, Mode};
use umd_format::Format;
use umd_format::bitmap::{self, BitmapSuperblock, RegionState};
use umd_format::create::{self, Cluster, Created, NewArray, NewMember};
use umd_format::signature::Kind;
use umd_format::space::{RegionWish, SpaceError, SpaceWish, plan};
use umd_format::v1::DeviceFlags;
use umd_format::{Level, Raid10Layout, SuperblockV1, Uuid, v090};

use super::bitmap_file::{self, Made};
use super::open::{self, How, Opened, Superblock};
use crate::api::{CreateRequest, DeviceRequest, ErrorDoc};
use crate::cli::values::BITMAP_DELAY_MAX_SECONDS;
use crate::member;
use crate::text::Context;
use crate::words;

/// From this size of a member on mdadm adds a bitmap by itself: 100 GiB.
const BITMAP_FROM_SECTORS: u64 = 100 << 21;
/// The exit code of a request that makes no sense.
const USAGE: u8 = 2;
/// What a refused [`ErrorDoc`] says last when devices carry data.
pub const OCCUPIED: &str = "create aborted: name what may be written over with --destroy DEVICE, \
                            or all of it with --force";

/// A device of the new array.
#[derive(Debug)]
struct Device {
    request: DeviceRequest,
    /// `None` in a dry run of a file that would be made.
    file: Option<MemberFile>,
    sectors: u64,
    block_bytes: usize,
    made: bool,
    /// Superblocks of another place that would survive: their sectors.
    old: Vec<u64>,
}

/// Everything that will be written.
#[derive(Debug)]
pub struct Prepared {
    devices: Vec<Device>,
    created: Created,
    dry_run: bool,
    kept: bool,
}

fn refused(text: impl Into<String>) -> ErrorDoc {
    ErrorDoc::new(text)
}

fn usage(text: impl Into<String>) -> ErrorDoc {
    let mut error = ErrorDoc::new(text);
    error.exit_code = USAGE;
    error
}

/// The metadata version; what it was checked to be when devices were taken.
fn format_of(request: &CreateRequest) -> Format {
    Format::parse(&request.metadata).unwrap_or(Format::V1_2)
}

/// Checks, opens, plans. In a dry run nothing is locked and no file is made.
///
/// # Errors
/// When anything about the array or its devices is in the way; nothing has been written then.
pub fn prepare(request: &CreateRequest, dry_run: bool) -> Result<Prepared, ErrorDoc> {
    prepare_for(request, None, dry_run)
}

/// The same for an array that a cluster runs. Such an array is written by the command line and
/// started by nobody: it is not known yet which lock service keeps its hosts of one mind.
///
/// # Errors
/// As for [`prepare`].
pub fn prepare_for(
    request: &CreateRequest,
    cluster: Option<&Cluster>,
    dry_run: bool,
) -> Result<Prepared, ErrorDoc> {
    let requests: Vec<&DeviceRequest> = request
        .slots
        .iter()
        .flatten()
        .chain(&request.spares)
        .collect();
    check_names(&requests)?;
    check_write_behind(request)?;
    check_delay(request)?;
    check_lockless(request)?;
    let mut prepared = Prepared {
        devices: Vec::new(),
        created: Created {
            slots: Vec::new(),
            spares: Vec::new(),
            bitmap: None,
            cluster: None,
            regions: RegionState::Unwritten,
        },
        dry_run,
        kept: false,
    };
    let engine = open::engine(request.io_engine.as_deref()).map_err(usage)?;
    let bare = !format_of(request).is_stored();
    let how = How {
        engine,
        // An array that is not written down can be looked at without touching anything.
        readonly: bare && request.readonly,
        ..How::default()
    };
    for device in requests {
        let taken = take(device, (request, cluster), &how, dry_run)?;
        prepared.devices.push(taken);
    }
    check_contents(&mut prepared.devices, request)?;
    prepared.created = plan_array(&prepared.devices, request, cluster)?;
    Ok(prepared)
}

/// No device twice, whatever way it was named.
fn check_names(requests: &[&DeviceRequest]) -> Result<(), ErrorDoc> {
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    for request in requests {
        let path = Path::new(&request.path);
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if !seen.insert(real) {
            return Err(usage(format!("{} is listed more than once", request.path)));
        }
    }
    Ok(())
}

/// Writes may lag on a RAID1 with a bitmap only: nothing else knows what a leg lacks after a crash.
fn check_write_behind(request: &CreateRequest) -> Result<(), ErrorDoc> {
    let most = umd_format::bitmap::WRITE_BEHIND_MAX;
    match request.write_behind {
        0 => Ok(()),
        count if count > most => Err(usage(format!("write-behind is at most {most}"))),
        _ if request.level != 1 => Err(usage("write-behind is for raid1")),
        _ if !has_bitmap(request) => Err(usage("write-behind needs a bitmap")),
        _ => Ok(()),
    }
}

fn has_bitmap(request: &CreateRequest) -> bool {
    request.bitmap == Some(true) || request.bitmap_file.is_some()
}

fn check_delay(request: &CreateRequest) -> Result<(), ErrorDoc> {
    let most = BITMAP_DELAY_MAX_SECONDS;
    match request.bitmap_delay_seconds {
        None => Ok(()),
        Some(seconds) if !(1..=most).contains(&seconds) => Err(usage(format!(
            "the delay between sweeps of the bitmap is 1 to {most} seconds"
        ))),
        Some(_) if !has_bitmap(request) => Err(usage("a delay needs a bitmap")),
        Some(_) => Ok(()),
    }
}

fn take(
    device: &DeviceRequest,
    (request, cluster): (&CreateRequest, Option<&Cluster>),
    how: &How,
    dry_run: bool,
) -> Result<Device, ErrorDoc> {
    let path = Path::new(&device.path);
    let mut taken = Device {
        request: device.clone(),
        file: None,
        sectors: 0,
        block_bytes: 512,
        made: false,
        old: Vec::new(),
    };
    if let (Err(error), Some(size)) = (fs::symlink_metadata(path), request.size_sectors)
        && error.kind() == io::ErrorKind::NotFound
        && format_of(request).is_stored()
        && !member::is_elsewhere(&device.path)
    {
        taken.sectors = file_sectors(request, cluster, size)?;
        taken.made = true;
        if dry_run {
            return Ok(taken);
        }
        make_file(path, taken.sectors).map_err(|error| {
            refused(format!(
                "cannot make {}: {}",
                device.path,
                open::os_text(&error)
            ))
        })?;
    }
    let opened = match dry_run {
        true => member::open(path, Mode::Examine, how.engine).map_err(open::open_text),
        false => open::open(&device.path, how).map(|Opened { file, .. }| file),
    };
    let file = opened.map_err(|text| {
        if taken.made {
            let _ = fs::remove_file(path);
        }
        refused(text)
    })?;
    taken.sectors = file.size_sectors();
    // Superblocks are written in sectors, as the kernel does on files; 4 KiB devices need more.
    taken.block_bytes = if file.is_block() {
        file.logical_block_bytes() as usize
    } else {
        512
    };
    taken.file = Some(file);
    Ok(taken)
}

fn make_file(path: &Path, sectors: u64) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.set_len(sectors * SECTOR_BYTES)?;
    file.sync_all()
}

fn wish(
    request: &CreateRequest,
    cluster: Option<&Cluster>,
    bitmap: Option<RegionWish>,
) -> SpaceWish {
    SpaceWish {
        format: format_of(request),
        level: Level::from_raw(request.level),
        raid10: raid10(request),
        chunk_sectors: request.chunk_sectors,
        bitmap,
        bitmaps: cluster.map_or(1, |cluster| cluster.nodes.max(1)),
        bad_block_log: request.bad_block_log,
        data_offset_sectors: request.data_offset_sectors,
        size_sectors: size_wish(request),
    }
}

fn raid10(request: &CreateRequest) -> Option<Raid10Layout> {
    let layout = u32::try_from(request.layout).ok()?;
    let disks = u16::try_from(request.slots.len()).ok()?;
    Raid10Layout::parse(layout, disks).filter(|_| request.level == 10)
}

/// RAID0 and linear take all there is of every device: a size only says how long new files are.
fn size_wish(request: &CreateRequest) -> Option<u64> {
    let shared = !matches!(request.level, -1 | 0);
    request.size_sectors.filter(|_| shared)
}

/// Refuses a RAID10 that would lose data: copies in one place, or all copies of something missing.
fn check_copies(request: &CreateRequest, size_sectors: u64) -> Result<(), ErrorDoc> {
    if request.level != 10 {
        return Ok(());
    }
    let map = copied(request, size_sectors)?;
    let held = |slot: u16| request.slots[usize::from(slot)].is_some();
    match Geometry::Copied(map).survives(held) {
        true => Ok(()),
        false => Err(usage("every copy of some data would be missing")),
    }
}

/// The map of a RAID10 of members of this size.
fn copied(request: &CreateRequest, size_sectors: u64) -> Result<Raid10, ErrorDoc> {
    let disks = u16::try_from(request.slots.len()).unwrap_or(u16::MAX);
    let layout = u32::try_from(request.layout).unwrap_or(0);
    let chunk_sectors = u64::from(request.chunk_sectors);
    Raid10::new(layout, disks, chunk_sectors, size_sectors)
        .map_err(|error| usage(error.to_string()))
}

/// How long a file must be so that `size` sectors of it can be used.
fn file_sectors(
    request: &CreateRequest,
    cluster: Option<&Cluster>,
    size: u64,
) -> Result<u64, ErrorDoc> {
    // Metadata never needs more than this; a first plan on it tells what is needed.
    let roomy = size
        .checked_add(size / 256)
        .and_then(|sectors| sectors.checked_add(64 << 11))
        .filter(|sectors| *sectors < u64::MAX / SECTOR_BYTES)
        .ok_or_else(|| usage(format!("a size of {size} sectors is too large")))?;
    let region = wants_bitmap(request, size).then_some(region_wish(request));
    let space = plan(&wish(request, cluster, region), &[roomy])
        .map_err(|error| refused(error.to_string()))?;
    let member = space.members[0];
    let used = member.data_offset_sectors + size;
    Ok(match format_of(request) {
        // Data may only end where a superblock can begin.
        Format::V090 => used.next_multiple_of(128) + 128,
        // Behind the data: bitmap, log and superblock keep their distance from the end.
        Format::V1_0 => used + (roomy - member.data_offset_sectors - member.data_size_sectors),
        _ => used,
    }
    .next_multiple_of(8))
}

/// What a lockless bitmap does not go with.
fn check_lockless(request: &CreateRequest) -> Result<(), ErrorDoc> {
    if !request.bitmap_lockless {
        return Ok(());
    }
    let internal = [
        ("a chunk", request.bitmap_chunk_bytes.is_some()),
        ("a delay", request.bitmap_delay_seconds.is_some()),
        ("write-behind", request.write_behind > 0),
    ];
    match internal.iter().find(|(_, asked)| *asked) {
        _ if request.bitmap != Some(true) => Err(usage("a lockless bitmap is a bitmap")),
        Some((what, _)) => Err(usage(format!("a lockless bitmap has no choice of {what}"))),
        None => Ok(()),
    }
}

/// What a lockless bitmap says first. Kernel 7.2 that fills a member of RAID10 passes over data
/// where it meets regions that nobody wrote, and calls the member in sync (docs/on-disk.md). So an
/// array of ours has none.
fn first_state(level: Level, planned: RegionState) -> RegionState {
    match (level, planned) {
        (Level::Raid10, RegionState::Unwritten) => RegionState::NeedSync,
        _ => planned,
    }
}

fn region_wish(request: &CreateRequest) -> RegionWish {
    if request.bitmap_lockless {
        return RegionWish::Lockless;
    }
    request
        .bitmap_chunk_bytes
        .map_or(RegionWish::Default, RegionWish::Bytes)
}

/// mdadm gives large arrays with redundancy a bitmap unless told otherwise.
fn wants_bitmap(request: &CreateRequest, smallest_sectors: u64) -> bool {
    let redundant = Level::from_raw(request.level).is_redundant();
    match request.bitmap {
        Some(wanted) => wanted,
        None => redundant && smallest_sectors >= BITMAP_FROM_SECTORS,
    }
}

/// Refuses devices that carry something, unless they were named.
fn check_contents(devices: &mut [Device], request: &CreateRequest) -> Result<(), ErrorDoc> {
    if !format_of(request).is_stored() {
        return check_bare(devices, request);
    }
    let mut messages = Vec::new();
    for device in devices {
        let Some(file) = &device.file else {
            continue;
        };
        let path = device.request.path.as_str();
        let unreadable = |error: IoError| refused(format!("cannot read {path}: {error}"));
        let found = open::signatures(file).map_err(unreadable)?;
        let md = found.iter().filter(|one| one.kind == Kind::Md);
        device.old = md.map(|one| one.offset_bytes / SECTOR_BYTES).collect();
        let named = request.destroy_all || request.destroy.iter().any(|name| name == path);
        if named {
            continue;
        }
        let superblock = open::superblock(file, None).map_err(unreadable)?;
        if let Some(found) = superblock {
            messages.push(part_of_array(path, &found));
        } else if found.iter().any(|one| one.kind == Kind::Md) {
            messages.push(format!("{path} appears to contain {}", Kind::Md));
        }
        let mut kinds: Vec<Kind> = found.iter().map(|one| one.kind).collect();
        kinds.dedup();
        let others = kinds.iter().filter(|kind| **kind != Kind::Md);
        messages.extend(others.map(|kind| format!("{path} appears to contain {kind}")));
    }
    if messages.is_empty() {
        return Ok(());
    }
    let mut error = refused(OCCUPIED);
    error.messages = messages;
    Err(error)
}

/// An array without superblocks is mostly built on data that is there, so only members of another
/// array are refused: a resync would write over what that array relies on.
fn check_bare(devices: &[Device], request: &CreateRequest) -> Result<(), ErrorDoc> {
    if request.destroy_all || request.readonly {
        return Ok(());
    }
    for (device, file) in devices
        .iter()
        .filter_map(|one| Some((one, one.file.as_ref()?)))
    {
        let path = device.request.path.as_str();
        let found = open::superblock(file, None)
            .map_err(|error| refused(format!("cannot read {path}: {error}")))?;
        if found.is_some() {
            return Err(refused(format!(
                "{path} has an md superblock: assemble its array, or use --force to build over it"
            )));
        }
    }
    Ok(())
}

/// mdadm's two lines about a device that belongs to an array.
fn part_of_array(path: &str, found: &Superblock) -> String {
    let (level, disks, ctime) = match found {
        Superblock::V1(found) => {
            let fields = found.fields();
            (fields.level, fields.raid_disks, fields.ctime.seconds())
        }
        Superblock::V090(found) => (found.level, found.raid_disks, found.ctime_seconds.into()),
    };
    let level = words::level_name(level.to_raw()).unwrap_or("unknown");
    let ctime = Context::system().time(ctime);
    format!(
        "{path} appears to be part of a raid array:\n       level={level} devices={disks} \
         ctime={ctime}"
    )
}

fn flags_of(request: &DeviceRequest) -> DeviceFlags {
    let wish = FlagWish {
        write_mostly: Some(request.write_mostly),
        failfast: Some(request.failfast),
    };
    wish.of(DeviceFlags::default())
}

fn plan_array(
    devices: &[Device],
    request: &CreateRequest,
    cluster: Option<&Cluster>,
) -> Result<Created, ErrorDoc> {
    let uuid = match &request.uuid {
        Some(text) => text
            .parse::<Uuid>()
            .map_err(|error| usage(error.to_string()))?,
        None => match (format_of(request), request.set_name.split_once(':')) {
            (Format::V090, Some((host, _))) => v090::with_host(words::random_uuid(), host),
            _ => words::random_uuid(),
        },
    };
    let new = |device: &Device| NewMember {
        device_sectors: device.sectors,
        device_uuid: words::random_uuid(),
        flags: flags_of(&device.request),
    };
    let mut next = devices.iter().map(new);
    let mut take = || {
        next.next()
            .expect("one device was opened for each that was asked for")
    };
    let slots = request
        .slots
        .iter()
        .map(|slot| slot.as_ref().map(|_| take()))
        .collect();
    let spares = request.spares.iter().map(|_| take()).collect();
    let smallest = devices
        .iter()
        .map(|device| device.sectors)
        .min()
        .unwrap_or(0);
    let used = size_wish(request).unwrap_or(smallest);
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let array = NewArray {
        format: format_of(request),
        set_uuid: uuid,
        name: request.set_name.clone(),
        preferred_minor: preferred_minor(&request.name),
        ctime_seconds: wall.map_or(0, |since| since.as_secs()),
        level: Level::from_raw(request.level),
        layout: u32::try_from(request.layout).unwrap_or(0),
        chunk_sectors: request.chunk_sectors,
        size_sectors: size_wish(request),
        data_offset_sectors: request.data_offset_sectors,
        bitmap: wants_bitmap(request, used).then_some(region_wish(request)),
        bad_block_log: request.bad_block_log,
        assume_clean: request.assume_clean,
        slots,
        spares,
    };
    let mut created = created(&array, cluster).map_err(|error| create_error(&error, devices))?;
    created.regions = first_state(array.level, created.regions);
    if let Some(bitmap) = &mut created.bitmap {
        bitmap.fields.write_behind = request.write_behind;
        if let Some(seconds) = request.bitmap_delay_seconds {
            bitmap.fields.daemon_sleep_s = seconds;
        }
    }
    let first = created.slots.iter().flatten().next();
    let size_sectors = first.map_or(0, |superblock| superblock.fields.size_sectors);
    check_copies(request, size_sectors)?;
    Ok(created)
}

fn created(array: &NewArray, cluster: Option<&Cluster>) -> Result<Created, create::CreateError> {
    match cluster {
        Some(cluster) => create::new_clustered(array, cluster),
        None => create::new_array(array),
    }
}

/// The md device's number for version 0.90: that of `mdN`, else the one mdadm begins with for
/// arrays that have names.
fn preferred_minor(name: &str) -> u32 {
    let number = name
        .strip_prefix("md")
        .and_then(|number| number.parse().ok());
    number.unwrap_or(127)
}

fn create_error(error: &create::CreateError, devices: &[Device]) -> ErrorDoc {
    match error {
        create::CreateError::Space(SpaceError::DeviceTooSmall { device, .. }) => {
            let path = devices
                .get(*device)
                .map_or("", |device| device.request.path.as_str());
            refused(format!("{path}: {error}"))
        }
        create::CreateError::Shape(text) => usage(text.clone()),
        other => refused(other.to_string()),
    }
}

impl Prepared {
    fn members(&self) -> impl Iterator<Item = (&Device, &SuperblockV1, bool)> {
        let slots = self.created.slots.iter().flatten().map(|sb| (sb, true));
        let spares = self.created.spares.iter().map(|sb| (sb, false));
        let superblocks = slots.chain(spares);
        self.devices
            .iter()
            .zip(superblocks)
            .map(|(device, (sb, active))| (device, sb, active))
    }

    /// What the members of an array without superblocks would say of themselves.
    pub fn bare_facts(&self) -> Option<Vec<MemberFacts>> {
        let bare =
            |(_, superblock, _): &(&Device, &SuperblockV1, bool)| !superblock.format().is_stored();
        let facts = self.members().filter(bare).enumerate();
        let facts = facts.map(|(index, (device, superblock, _))| MemberFacts {
            id: MemberId(index as u32),
            name: device.request.path.clone(),
            size_sectors: device.sectors,
            logical_block_bytes: device
                .file
                .as_ref()
                .map_or(512, MemberFile::logical_block_bytes),
            superblock: Ok(superblock.clone()),
            bitmap: None,
            bad_blocks: None,
        });
        let facts: Vec<MemberFacts> = facts.collect();
        (!facts.is_empty()).then_some(facts)
    }

    /// The superblock of a bitmap in a file of its own.
    fn bitmap_of_file(&self, request: &CreateRequest) -> Option<BitmapSuperblock> {
        let superblock = self.created.slots.iter().flatten().next()?;
        let covered = match raid10(request) {
            Some(_) => copied(request, superblock.fields.size_sectors)
                .ok()?
                .array_sectors(),
            None => superblock.fields.size_sectors,
        };
        let region = request.bitmap_chunk_bytes;
        let region = region.unwrap_or_else(|| bitmap::file_region_bytes(covered));
        let mut bitmap = BitmapSuperblock::new(superblock.bitmap_uuid(), covered, region);
        bitmap.fields.write_behind = request.write_behind;
        if let Some(seconds) = request.bitmap_delay_seconds {
            bitmap.fields.daemon_sleep_s = seconds;
        }
        Some(bitmap)
    }

    /// Makes the bitmap's file, if there is to be one. An array without superblocks goes on with
    /// the file that is there.
    ///
    /// # Errors
    /// When something is in the way.
    pub fn make_bitmap_file(&self, request: &CreateRequest) -> Result<Option<Made>, ErrorDoc> {
        let Some(path) = &request.bitmap_file else {
            return Ok(None);
        };
        let bare = !format_of(request).is_stored();
        if bare && fs::symlink_metadata(path).is_ok() {
            return Ok(None);
        }
        let Some(superblock) = self.bitmap_of_file(request) else {
            return Err(usage("an array without devices has no bitmap"));
        };
        let over = request.destroy_all || request.destroy.iter().any(|name| name == path);
        bitmap_file::make(path, &superblock, over).map(Some)
    }

    /// Spares of a cluster have bitmaps from the start: whichever node activates one finds all.
    fn on_spares(&self) -> bool {
        self.created.cluster.is_some()
    }

    /// What would be written where, a line each.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.bare_facts().is_some() {
            let members = self.members().map(|(device, superblock, _)| {
                let fields = &superblock.fields;
                let (number, size) = (fields.dev_number, fields.data_size_sectors);
                format!("slot {number}: {}, {size} sectors", device.request.path)
            });
            lines.extend(members);
            lines.push("no superblock would be written".to_owned());
            return lines;
        }
        let bitmap = self.created.bitmap_image();
        for (device, superblock, active) in self.members() {
            let path = &device.request.path;
            let fields = &superblock.fields;
            if device.made {
                let bytes = device.sectors * SECTOR_BYTES;
                lines.push(format!("would make {path}, {bytes} bytes"));
            }
            for sector in device
                .old
                .iter()
                .filter(|at| **at != fields.super_offset_sectors)
            {
                lines.push(format!(
                    "would erase the superblock at sector {sector} of {path}"
                ));
            }
            let bitmap = bitmap.as_ref().filter(|_| active || self.on_spares());
            if let (Some(image), Some(sector)) = (bitmap, fields.bitmap_sector()) {
                let sectors = image.len() as u64 / SECTOR_BYTES;
                lines.push(format!(
                    "would write a bitmap at sector {sector} of {path} ({sectors} sectors)"
                ));
            }
            let what = if active { "device" } else { "spare" };
            lines.push(format!(
                "would write a version {} superblock at sector {} of {path} ({what} {}, data at \
                 sector {}, {} sectors)",
                superblock.format(),
                fields.super_offset_sectors,
                fields.dev_number,
                fields.data_offset_sectors,
                fields.data_size_sectors
            ));
        }
        lines
    }

    /// Writes the bitmaps and the superblocks, and hands the members over, still locked.
    ///
    /// # Errors
    /// When a device does not take it; what was written before stays.
    pub fn write(mut self) -> Result<Vec<Opened>, ErrorDoc> {
        assert!(!self.dry_run, "a dry run writes nothing");
        let bitmap = self.created.bitmap_image();
        let stored =
            |(_, superblock, _): &(&Device, &SuperblockV1, bool)| superblock.format().is_stored();
        for (device, superblock, active) in self.members().filter(stored) {
            let file = device
                .file
                .as_ref()
                .expect("every device is open outside a dry run");
            write_member(
                file,
                device,
                superblock,
                bitmap.as_deref().filter(|_| active || self.on_spares()),
            )
            .map_err(|error| {
                refused(format!("cannot write to {}: {error}", device.request.path))
            })?;
        }
        self.kept = true;
        let devices = std::mem::take(&mut self.devices);
        let opened = devices.into_iter().map(|device| Opened {
            name: device.request.path,
            file: device.file.expect("every device is open outside a dry run"),
        });
        Ok(opened.collect())
    }
}

impl Drop for Prepared {
    /// Takes away the files that were made for an array that was then refused.
    fn drop(&mut self) {
        if self.kept || self.dry_run {
            return;
        }
        for device in self.devices.iter().filter(|device| device.made) {
            let _ = fs::remove_file(&device.request.path); // Nothing more can be done about it.
        }
    }
}

fn write_member(
    file: &MemberFile,
    device: &Device,
    superblock: &SuperblockV1,
    bitmap: Option<&[u8]>,
) -> Result<(), IoError> {
    let fields = &superblock.fields;
    for sector in device
        .old
        .iter()
        .filter(|at| **at != fields.super_offset_sectors)
    {
        // The block a superblock of another place or version starts with; without its magic it is
        // none any more.
        file.write_at(sector * SECTOR_BYTES, &[0; 4096][..device.block_bytes])?;
    }
    if let (Some(image), Some(sector)) = (bitmap, fields.bitmap_sector()) {
        file.write_at(sector * SECTOR_BYTES, image)?;
    }
    file.sync()?;
    let place = fields.super_offset_sectors * SECTOR_BYTES;
    file.write_at(place, &superblock.encode(device.block_bytes))?;
    file.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(dir: &Path, level: i32, names: &[&str]) -> CreateRequest {
        let device = |name: &&str| DeviceRequest {
            path: dir.join(name).display().to_string(),
            write_mostly: false,
            failfast: false,
        };
        CreateRequest {
            name: "t".into(),
            set_name: "host:t".into(),
            uuid: None,
            metadata: "1.2".into(),
            level,
            layout: words::layout_default(level),
            chunk_sectors: if level == 1 { 0 } else { 128 },
            size_sectors: Some(16 << 11),
            data_offset_sectors: None,
            bitmap: None,
            bitmap_lockless: false,
            bitmap_file: None,
            bitmap_chunk_bytes: None,
            bitmap_delay_seconds: None,
            write_behind: 0,
            bad_block_log: true,
            assume_clean: false,
            slots: names
                .iter()
                .map(|name| (*name != "missing").then(|| device(name)))
                .collect(),
            spares: Vec::new(),
            destroy: Vec::new(),
            destroy_all: false,
            readonly: false,
            io_engine: None,
        }
    }

    #[test]
    fn a_lockless_bitmap_of_raid10_begins_with_a_resync() {
        for (level, assume_clean, state) in [
            (1, false, RegionState::Unwritten),
            (5, false, RegionState::Unwritten),
            (10, false, RegionState::NeedSync),
            (10, true, RegionState::Clean),
        ] {
            let dir = tempfile::tempdir().expect("tempdir");
            let mut request = request(dir.path(), level, &["a", "b", "c", "d"]);
            (request.bitmap, request.bitmap_lockless) = (Some(true), true);
            request.assume_clean = assume_clean;
            let prepared = prepare(&request, true).expect("prepares");
            assert_eq!(prepared.created.regions, state, "level {level}");
        }
    }

    #[test]
    fn files_are_made_as_large_as_the_size_needs() {
        for (version, level) in [
            ("1.0", 5),
            ("1.1", 5),
            ("1.2", 5),
            ("1.2", 1),
            ("1.0", 1),
            ("1.2", 0),
            ("1.2", 6),
            ("0.90", 1),
            ("0.90", 5),
        ] {
            let dir = tempfile::tempdir().expect("tempdir");
            let mut request = request(dir.path(), level, &["a", "b", "c", "d"]);
            request.metadata = version.into();
            request.bitmap = Some(level != 0);
            let opened = prepare(&request, false)
                .expect("prepares")
                .write()
                .expect("writes");
            assert_eq!(opened.len(), 4);
            let found = open::superblock(&opened[3].file, None).expect("reads");
            let sectors = opened[3].file.size_sectors();
            let found = found.expect("a superblock was written");
            let verified = found.verify(sectors).expect("a good superblock");
            if level != 0 {
                assert_eq!(
                    verified.fields.size_sectors,
                    16 << 11,
                    "{version} level {level}"
                );
            } else {
                assert_eq!(verified.fields.data_size_sectors, 16 << 11);
            }
            assert!(
                sectors < (18 << 11),
                "{version} level {level}: {sectors} sectors"
            );
        }
    }

    #[test]
    fn a_dry_run_touches_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let request = request(dir.path(), 5, &["a", "b", "missing"]);
        let lines = prepare(&request, true).expect("prepares").describe();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].starts_with("would make "), "{lines:?}");
        assert!(lines[1].contains("superblock at sector 8 of"), "{lines:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[test]
    fn occupied_devices_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut again = request(dir.path(), 5, &["a", "b", "c"]);
        drop(
            prepare(&again, false)
                .expect("prepares")
                .write()
                .expect("writes"),
        );
        let before = fs::read(dir.path().join("a")).expect("reads");
        let error = prepare(&again, false).expect_err("refused");
        assert_eq!(error.error, OCCUPIED);
        assert_eq!(error.messages.len(), 3);
        assert!(
            error.messages[0].contains(
                "appears to be part of a raid array:\n       level=raid5 devices=3 ctime="
            )
        );
        assert_eq!(fs::read(dir.path().join("a")).expect("reads"), before);
        again.destroy = again
            .slots
            .iter()
            .flatten()
            .map(|d| d.path.clone())
            .collect();
        prepare(&again, false).expect("named, so allowed");
        again.destroy.pop();
        assert_eq!(
            prepare(&again, false)
                .expect_err("one is not named")
                .messages
                .len(),
            1
        );
    }

    #[test]
    fn refused_arrays_leave_no_files_behind() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut request = request(dir.path(), 5, &["a", "b", "c"]);
        request.layout = 77;
        let error = prepare(&request, false).expect_err("refused");
        assert_eq!(error.exit_code, 2);
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0);
    }

    #[test]
    fn the_same_device_twice_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let error = prepare(&request(dir.path(), 1, &["a", "a"]), false).expect_err("refused");
        assert!(
            error.error.ends_with("a is listed more than once"),
            "{}",
            error.error
        );
    }

    #[test]
    fn an_old_superblock_elsewhere_does_not_survive() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut request = request(dir.path(), 1, &["a", "b"]);
        request.metadata = "1.0".into();
        drop(
            prepare(&request, false)
                .expect("prepares")
                .write()
                .expect("writes"),
        );
        request.metadata = "1.2".into();
        request.size_sectors = None;
        request.destroy_all = true;
        let opened = prepare(&request, false)
            .expect("prepares")
            .write()
            .expect("writes");
        let old = open::superblock(&opened[0].file, Some(Format::V1_0)).expect("reads");
        assert_eq!(old, None);
    }
}
