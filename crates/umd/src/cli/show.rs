//! The commands that only show: `detail`, `examine`, `mdstat`, `query`, `version`.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use umd_core::value::SECTOR_BYTES;
use umd_disk::{Engine, MemberFile, Mode, OpenError};
use umd_format::Format;
use umd_format::bitmap;
use umd_format::kernels;
use umd_format::v1::{Fields, Role, Unverified};
use umd_format::v090::SuperblockV090;

use super::args::{DetailArgs, ExamineArgs, MdstatArgs, QueryArgs, VersionArgs, WebArgs};
use super::outcome::{FAILED, Failure, Outcome, print, print_json, say};
use super::reach::Reach;
use super::values;
use crate::api::{API, ArraysDoc, SCHEMA, WebDoc, WebRequest};
use crate::conf::probe;
use crate::daemon::household::find_in;
use crate::daemon::open::{self, Superblock};
use crate::doc::{ArrayDoc, Stamp};
use crate::member;
use crate::text::examine::{self, Examined};
use crate::text::{Context, detail, mdstat, query};
use crate::words;

/// Exit code of `detail --test` for an array that cannot be read.
const TEST_UNREADABLE: u8 = 4;

/// Runs `umd detail`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn detail(args: &DetailArgs, reach: &Reach, verbose: bool) -> Outcome {
    if args.arrays.is_empty() && !args.scan {
        return Err(Failure::usage("No devices given."));
    }
    let mut arrays = Vec::new();
    let mut code = 0;
    if args.config.is_some() {
        super::scan::config(args.config.as_deref())?; // For what it has to say.
    }
    if args.arrays.is_empty() {
        arrays = reach
            .all()?
            .into_iter()
            .map(|array| (array.name.clone(), array))
            .collect();
    }
    for title in &args.arrays {
        match values::array_name(title).and_then(|name| reach.detail(&name)) {
            Ok(array) => arrays.push((title.clone(), array)),
            Err(failure) => {
                say(&not_an_array(title, &failure));
                code = if args.test { TEST_UNREADABLE } else { FAILED };
            }
        }
    }
    if args.json {
        let arrays: Vec<ArrayDoc> = arrays.iter().map(|(_, array)| array.clone()).collect();
        print_json(&ArraysDoc {
            schema: SCHEMA,
            arrays,
        })?;
    }
    let context = Context::system();
    for (title, array) in &arrays {
        if !args.json {
            print(&if args.export {
                detail::export(array)
            } else if args.brief || args.scan {
                detail::brief(array, verbose)
            } else {
                detail::detail(title, array, &context)
            })?;
        }
        if args.test {
            code = code.max(detail::test_code(array));
        }
    }
    Ok(code)
}

/// What mdadm says of something that is no array.
fn not_an_array(title: &str, failure: &Failure) -> String {
    if !failure
        .text
        .ends_with("does not appear to be an active array")
    {
        return failure.text.clone();
    }
    match std::fs::metadata(title) {
        Ok(_) => format!("{title} does not appear to be an md device"),
        Err(_) => failure.text.clone(),
    }
}

/// What `examine --json` prints.
#[derive(Debug, Serialize)]
struct ExaminedDoc {
    schema: u32,
    devices: Vec<DeviceDoc>,
}

/// What was found on a device.
#[derive(Debug, Serialize)]
struct DeviceDoc {
    device: String,
    device_bytes: u64,
    /// `md1`, `md0.90`, `mbr` or `none`.
    found: &'static str,
    superblock: Option<SuperblockDoc>,
}

/// A v1 superblock as a document: what it says, whether or not it holds.
#[derive(Debug, Serialize)]
struct SuperblockDoc {
    metadata: String,
    feature_map: u32,
    uuid: String,
    uuid_canonical: String,
    set_name: String,
    creation_time: Stamp,
    level: Option<String>,
    level_number: i32,
    layout: Option<String>,
    layout_number: u32,
    chunk_bytes: u64,
    raid_disks: u32,
    array_bytes: Option<u64>,
    dev_size_bytes: u64,
    data_offset_bytes: u64,
    data_size_bytes: u64,
    super_offset_bytes: u64,
    recovery_offset_bytes: Option<u64>,
    state: &'static str,
    resync_offset_bytes: Option<u64>,
    device_uuid: String,
    device_number: u32,
    /// `active`, `spare`, `faulty` or `journal`.
    role: &'static str,
    slot: Option<u16>,
    array_state: String,
    bitmap_offset_sectors: Option<i32>,
    bad_block_log_offset_sectors: Option<i32>,
    update_time: Stamp,
    events: u64,
    checksum: String,
    checksum_ok: bool,
    /// Why this version would not use it; `null` when it would.
    unusable: Option<String>,
    /// Kernels that refuse it, with the reason.
    kernels_refusing: Vec<String>,
}

fn superblock_doc(found: &Examined) -> SuperblockDoc {
    let superblock = &found.superblock;
    let verified = superblock.clone().verify(found.device_sectors);
    let sums = (superblock.stored_checksum(), superblock.computed_checksum());
    let mut doc = fields_doc(superblock.fields(), superblock.format(), sums);
    doc.unusable = verified.err().map(|error| error.to_string());
    doc.kernels_refusing = kernels_refusing(superblock.fields(), Some(superblock.raw()));
    doc
}

fn v090_doc(found: &SuperblockV090, device_sectors: u64) -> SuperblockDoc {
    let fields = found.shown(device_sectors);
    let sums = (found.stored_checksum, found.computed_checksum);
    let mut doc = fields_doc(&fields, Format::V090, sums);
    let verified = found.clone().verify(device_sectors);
    doc.unusable = verified.err().map(|error| error.to_string());
    doc.kernels_refusing = kernels_refusing(&fields, None);
    doc
}

/// The part of the document that the fields tell.
fn fields_doc(fields: &Fields, format: Format, (stored, computed): (u32, u32)) -> SuperblockDoc {
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES);
    let (role, slot) = match fields.own_role() {
        Role::Active(slot) => ("active", Some(slot)),
        Role::Spare => ("spare", None),
        Role::Faulty => ("faulty", None),
        Role::Journal => ("journal", None),
    };
    let unclean = fields.resync_offset_sectors != umd_format::SECTOR_MAX;
    SuperblockDoc {
        metadata: format.to_string(),
        feature_map: fields.features.0,
        uuid: fields.set_uuid.to_string(),
        uuid_canonical: fields.set_uuid.canonical(),
        set_name: fields.name(),
        creation_time: Stamp::new(fields.ctime.seconds()),
        level: words::level_name(fields.level.to_raw()).map(str::to_owned),
        level_number: fields.level.to_raw(),
        layout: words::layout_name(fields.level.to_raw(), fields.layout as i32),
        layout_number: fields.layout,
        chunk_bytes: bytes(fields.chunk_sectors.into()),
        raid_disks: fields.raid_disks,
        array_bytes: examine::array_bytes(fields),
        dev_size_bytes: bytes(fields.size_sectors),
        data_offset_bytes: bytes(fields.data_offset_sectors),
        data_size_bytes: bytes(fields.data_size_sectors),
        super_offset_bytes: bytes(fields.super_offset_sectors),
        recovery_offset_bytes: fields.recovery_offset_sectors().map(bytes),
        state: if unclean { "active" } else { "clean" },
        resync_offset_bytes: unclean.then(|| bytes(fields.resync_offset_sectors)),
        device_uuid: fields.device_uuid.to_string(),
        device_number: fields.dev_number,
        role,
        slot,
        array_state: examine::slot_letters(fields),
        bitmap_offset_sectors: fields.bitmap_offset_sectors(),
        bad_block_log_offset_sectors: (fields.bblog_offset_sectors != 0)
            .then_some(fields.bblog_offset_sectors),
        update_time: Stamp::new(fields.utime.seconds()),
        events: fields.events,
        checksum: format!("{stored:08x}"),
        checksum_ok: stored == computed,
        unusable: None,
        kernels_refusing: Vec::new(),
    }
}

fn kernels_refusing(fields: &Fields, raw: Option<&[u8]>) -> Vec<String> {
    let refusals = kernels::refusals(fields, raw, None);
    refusals
        .into_iter()
        .chain(kernels::raid0_refusal(fields))
        .map(|one| format!("{}: {}", one.kernels, one.why))
        .collect()
}

/// What is on one device.
enum Found {
    V1(Box<Examined>),
    V090(Box<SuperblockV090>),
    Mbr(String),
    Nothing,
}

fn look(name: &str, only: Option<Format>) -> Result<(u64, Found), Failure> {
    let file =
        member::open(Path::new(name), Mode::Examine, Engine::Sync).map_err(
            |error| match error {
                OpenError::Io { source, .. } => {
                    Failure::failed(format!("cannot open {name}: {}", open::os_text(&source)))
                }
                other => Failure::failed(other.to_string()),
            },
        )?;
    let unreadable = |error| Failure::failed(format!("cannot read {name}: {error}"));
    let device_sectors = file.size_sectors();
    let found = match open::superblock(&file, only).map_err(unreadable)? {
        Some(Superblock::V1(superblock)) => {
            let bitmap = bitmap_fields(&file, &superblock);
            Found::V1(Box::new(Examined {
                name: name.to_owned(),
                device_sectors,
                bitmap_sectors: bitmap.as_ref().map(bitmap_sectors),
                cluster: bitmap.as_ref().and_then(bitmap::Fields::cluster),
                bitmap_version: bitmap.map(|fields| fields.version),
                superblock: *superblock,
            }))
        }
        Some(Superblock::V090(superblock)) => Found::V090(superblock),
        None => {
            let boot = file.read_at(0, 512.min(device_sectors * SECTOR_BYTES) as usize);
            let mbr = boot.ok().and_then(|boot| examine::examine_mbr(name, &boot));
            mbr.map_or(Found::Nothing, Found::Mbr)
        }
    };
    Ok((device_sectors, found))
}

fn bitmap_fields(file: &MemberFile, superblock: &Unverified) -> Option<bitmap::Fields> {
    let sector = superblock.fields().bitmap_sector()?;
    let bytes = file
        .read_at(sector.checked_mul(SECTOR_BYTES)?, bitmap::SUPERBLOCK_BYTES)
        .ok()?;
    let found = bitmap::Unverified::parse(&bytes).ok()?;
    let fields = found.fields();
    (fields.region_bytes() >= SECTOR_BYTES).then(|| fields.clone())
}

fn bitmap_sectors(fields: &bitmap::Fields) -> u64 {
    let region_sectors = fields.region_bytes() / SECTOR_BYTES;
    match fields.version {
        bitmap::VERSION_LOCKLESS => u64::from(fields.sectors_reserved),
        _ => bitmap::on_disk_sectors(fields.sync_size_sectors.div_ceil(region_sectors)),
    }
}

/// Runs `umd examine`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run_examine(args: &ExamineArgs, verbose: bool) -> Outcome {
    if args.devices.is_empty() && args.scan && !args.bitmap {
        let devices = super::scan::config(args.config.as_deref())?.candidates();
        let carries = |path: &String| probe::probe(path).is_ok_and(|found| found.is_some());
        let args = ExamineArgs {
            devices: devices.into_iter().filter(carries).collect(),
            ..args.clone()
        };
        return examine_all(&args, verbose);
    }
    if args.devices.is_empty() {
        return Err(Failure::usage("No devices to examine"));
    }
    match args.bitmap {
        true => bitmaps(args),
        false => examine_all(args, verbose),
    }
}

fn examine_all(args: &ExamineArgs, verbose: bool) -> Outcome {
    let only = args.metadata.as_deref().map(values::metadata).transpose()?;
    let context = Context::system();
    let mut code = 0;
    let mut members = Vec::new();
    let mut old_arrays = BTreeSet::new();
    let mut documents = Vec::new();
    for name in &args.devices {
        let (sectors, found) = match look(name, only) {
            Ok(found) => found,
            Err(failure) => {
                say(&failure.text);
                code = failure.code;
                continue;
            }
        };
        if args.json {
            documents.push(document(name, sectors, &found));
        }
        match found {
            Found::V1(found) => {
                if !(args.brief || args.scan) {
                    if !args.json {
                        print(&if args.export {
                            examine::export(&found)
                        } else {
                            examine::examine(&found, &context)
                        })?;
                    }
                    remarks(&found);
                }
                members.push(*found);
            }
            Found::V090(found) if args.brief || args.scan => {
                if old_arrays.insert(found.uuid) {
                    let (minor, uuid) = (found.md_minor, found.uuid);
                    print(&format!("ARRAY /dev/md{minor} UUID={uuid}\n"))?;
                }
            }
            Found::V090(found) => show_v090(name, &found, (args, &context, sectors))?,
            Found::Mbr(text) if !(args.brief || args.scan || args.export || args.json) => {
                print(&text)?;
            }
            Found::Nothing if !args.scan => {
                say(&format!("No md superblock detected on {name}."));
                code = FAILED;
            }
            Found::Mbr(_) | Found::Nothing => {}
        }
    }
    if args.json {
        print_json(&ExaminedDoc {
            schema: SCHEMA,
            devices: documents,
        })?;
    } else if args.brief || args.scan {
        print(&examine::brief(&members, verbose))?;
    }
    Ok(code)
}

fn bitmaps(args: &ExamineArgs) -> Outcome {
    if args.brief || args.scan || args.export || args.metadata.is_some() {
        return Err(Failure::usage(
            "--bitmap shows bitmaps, and goes with --json only",
        ));
    }
    super::bitmap::run(&args.devices, args.json)
}

fn document(name: &str, sectors: u64, found: &Found) -> DeviceDoc {
    let (kind, superblock) = match found {
        Found::V1(found) => ("md1", Some(superblock_doc(found))),
        Found::V090(found) => ("md0.90", Some(v090_doc(found, sectors))),
        Found::Mbr(_) => ("mbr", None),
        Found::Nothing => ("none", None),
    };
    DeviceDoc {
        device: name.to_owned(),
        device_bytes: sectors * SECTOR_BYTES,
        found: kind,
        superblock,
    }
}

/// What a user should know beyond what mdadm prints.
fn remarks(found: &Examined) {
    if let Err(error) = found.superblock.clone().verify(found.device_sectors) {
        say(&format!("{}: {error}", found.name));
    }
    let superblock = &found.superblock;
    let fields = superblock.fields();
    let refusals = kernels::refusals(fields, Some(superblock.raw()), found.bitmap_version);
    for one in refusals.into_iter().chain(kernels::raid0_refusal(fields)) {
        say(&format!("{}: {one}", found.name));
    }
}

/// The same for version 0.90, behind what mdadm prints.
fn show_v090(
    name: &str,
    found: &SuperblockV090,
    (args, context, sectors): (&ExamineArgs, &Context, u64),
) -> Result<(), Failure> {
    if !args.json {
        print(&match args.export {
            true => examine::export_v090(found),
            false => examine::examine_v090(name, found, context),
        })?;
    }
    let fields = found.shown(sectors);
    if let Err(error) = found.clone().verify(sectors) {
        say(&format!("{name}: {error}"));
    }
    let refusals = kernels::refusals(&fields, None, None);
    for one in refusals.into_iter().chain(kernels::raid0_refusal(&fields)) {
        say(&format!("{name}: {one}"));
    }
    Ok(())
}

/// Runs `umd mdstat`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run_mdstat(args: &MdstatArgs, reach: &Reach) -> Outcome {
    let arrays = reach.all()?;
    if args.json {
        print_json(&ArraysDoc {
            schema: SCHEMA,
            arrays,
        })?;
    } else {
        print(&mdstat::mdstat(&arrays))?;
    }
    Ok(0)
}

/// What `query --json` prints.
#[derive(Debug, Serialize)]
struct QueriedDoc {
    schema: u32,
    targets: Vec<QueryDoc>,
}

/// What it says of one target.
#[derive(Debug, Serialize)]
struct QueryDoc {
    target: String,
    /// The array, when it is a running one.
    array: Option<ArrayDoc>,
    /// The superblock on it, when it is a device that has one.
    superblock: Option<SuperblockDoc>,
    /// The name of the running array it is a member of.
    running_as: Option<String>,
}

/// Runs `umd query`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run_query(args: &QueryArgs, reach: &Reach) -> Outcome {
    if args.targets.is_empty() {
        return Err(Failure::usage("No devices given."));
    }
    let running = reach.all()?;
    let mut code = 0;
    let mut documents = Vec::new();
    for target in &args.targets {
        let named = values::array_name(target).ok();
        let array = running
            .iter()
            .find(|array| Some(&array.name) == named.as_ref());
        let mut document = QueryDoc {
            target: target.clone(),
            array: array.cloned(),
            superblock: None,
            running_as: None,
        };
        if let Some(array) = array {
            if !args.json {
                print(&query::array(target, array))?;
            }
            documents.push(document);
            continue;
        }
        match look(target, None) {
            Ok((sectors, found)) => {
                let holder = running
                    .iter()
                    .find(|array| find_in(array, target).is_some());
                document.running_as = holder.map(|array| array.name.clone());
                document.superblock = match &found {
                    Found::V1(found) => Some(superblock_doc(found)),
                    Found::V090(found) => Some(v090_doc(found, sectors)),
                    Found::Mbr(_) | Found::Nothing => None,
                };
                if !args.json {
                    print(&query_text(target, &found, document.running_as.as_deref()))?;
                }
                documents.push(document);
            }
            Err(failure) => {
                say(&failure.text);
                code = failure.code;
            }
        }
    }
    if args.json {
        print_json(&QueriedDoc {
            schema: SCHEMA,
            targets: documents,
        })?;
    }
    Ok(code)
}

fn query_text(target: &str, found: &Found, running_as: Option<&str>) -> String {
    let unknown = "unknown-level";
    let member = match found {
        Found::V1(found) => {
            let fields = found.superblock.fields();
            Some(query::MemberFound {
                number: fields.dev_number,
                raid_disks: fields.raid_disks,
                level: words::level_name(fields.level.to_raw()).unwrap_or(unknown),
                running_as,
            })
        }
        Found::V090(found) => Some(query::MemberFound {
            number: found.this_disk.number,
            raid_disks: found.raid_disks,
            level: words::level_name(found.level.to_raw()).unwrap_or(unknown),
            running_as,
        }),
        Found::Mbr(_) | Found::Nothing => None,
    };
    query::device(target, member)
}

/// Opens the page for browsers and prints where it is.
///
/// # Errors
/// When no array runs, or the address cannot be had.
pub fn run_web(args: &WebArgs, reach: &Reach) -> Outcome {
    let request = WebRequest {
        address: args.address.clone(),
    };
    let door: WebDoc = reach.post_to_daemon("/v1/web", &request)?;
    print(&format!("{}\n", door.url))?;
    Ok(0)
}

/// Runs `umd version`.
///
/// # Errors
/// When stdout cannot be written.
pub fn run_version(args: &VersionArgs) -> Outcome {
    #[derive(Serialize)]
    struct Doc {
        schema: u32,
        version: &'static str,
        api: u32,
    }
    let version = env!("CARGO_PKG_VERSION");
    if args.json {
        print_json(&Doc {
            schema: SCHEMA,
            version,
            api: API,
        })?;
    } else {
        print(&format!("umd {version}\n"))?;
    }
    Ok(0)
}
