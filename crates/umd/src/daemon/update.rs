//! `assemble --update=`: superblocks are changed before the array starts. Blocking; never on an
//! array's thread.
//!
//! ```text
//!   members, word --prepare--> changes in memory --assembly plans with them--> refused, or
//!                                                                              write all, start
//! ```
//!
//! Nothing is written before everything that can be refused has been.

use std::time::SystemTime;

use umd_core::assembly::{self, MemberFacts, NoSuperblock, Wish};
use umd_core::value::{IoError, SECTOR_BYTES};
use umd_format::bitmap::{self, BitmapSuperblock};
use umd_format::update::cluster::{self, Nodes};
use umd_format::update::{Update, UpdateError, apply};
use umd_format::v1::Raid0Layout;
use umd_format::v090::{SUPERBLOCK_BYTES, SuperblockV090, swapped};
use umd_format::{Format, ParseError, SuperblockV1, Uuid};

use super::household::Answer;
use super::open::Opened;
use super::start::refusal_doc;
use crate::api::{AssembleRequest, ErrorDoc};
use crate::cli::values;
use crate::text::Context;
use crate::words;

/// The words there are, for the refusal of another one.
const WORDS: &str = "name, uuid, homehost, resync, summaries, byteorder, super-minor, devicesize, \
                     no-bitmap, bbl, no-bbl, layout-original, layout-alternate, \
                     layout-unspecified, metadata, lbs=BYTES, cluster=NAME, no-cluster=NAME";
/// Words of mdadm that are not available.
const LATER: &[&str] = &[
    "ppl",
    "no-ppl",
    "nodes",
    "home-cluster",
    "revert-reshape",
    "force-no-bbl",
    "sparc2.2",
];

/// What will be written to one member.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its place among those that were opened.
    pub device: usize,
    /// Sector and bytes, in order.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// All changes of a request, in memory.
#[derive(Debug)]
pub struct Prepared {
    word: String,
    changes: Vec<Planned>,
    facts: Vec<MemberFacts>,
}

fn usage(text: impl Into<String>) -> ErrorDoc {
    ErrorDoc {
        exit_code: 2,
        ..ErrorDoc::new(text)
    }
}

/// The update a request asks for.
///
/// # Errors
/// When there is no such update, or it lacks a value.
pub fn of_request(request: &AssembleRequest) -> Answer<Option<Update>> {
    let Some(word) = &request.update else {
        return Ok(None);
    };
    if request.readonly {
        return Err(usage(
            "--update writes superblocks, so it cannot go with --readonly",
        ));
    }
    let host = Context::system().host;
    let homehost = request.homehost.as_deref();
    let number = |name: &str| name.strip_prefix("md")?.parse::<u32>().ok();
    Ok(Some(match word.as_str() {
        "name" => {
            let name = request.set_name.as_ref().or(request.name.as_ref());
            let name =
                name.ok_or_else(|| usage("--update=name needs the new name: --name=NAME"))?;
            Update::Name(values::set_name(name, homehost, &host))
        }
        "uuid" => Update::Uuid(match &request.uuid {
            Some(text) => text
                .parse()
                .map_err(|_| usage(format!("Bad uuid: {text}")))?,
            None => words::random_uuid(),
        }),
        "homehost" => Update::Homehost(homehost.unwrap_or(&host).to_owned()),
        "resync" => Update::Resync,
        "summaries" => Update::Summaries,
        "byteorder" => Update::Byteorder,
        "super-minor" => {
            let minor = request.name.as_deref().and_then(number);
            let text = "--update=super-minor needs a name with a number, such as md3";
            Update::SuperMinor(minor.ok_or_else(|| usage(text))?)
        }
        "devicesize" => Update::DeviceSize,
        "no-bitmap" => Update::NoBitmap,
        "bbl" => Update::Bbl,
        "no-bbl" => Update::NoBbl,
        "layout-original" => Update::Layout(Some(Raid0Layout::Original)),
        "layout-alternate" => Update::Layout(Some(Raid0Layout::Alternate)),
        "layout-unspecified" => Update::Layout(None),
        "metadata" => metadata(request, &host),
        "lbs" => {
            return Err(usage(
                "--update=lbs needs a size: lbs=4096, or lbs=0 for none",
            ));
        }
        "no-cluster" => Update::NoCluster(None),
        "cluster" => return Err(usage("--update=cluster needs its name: cluster=NAME")),
        other => return with_value(other).map(Some),
    }))
}

fn metadata(request: &AssembleRequest, host: &str) -> Update {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let name = request.set_name.as_ref().or(request.name.as_ref());
    let name = name.map_or("0", String::as_str);
    Update::Metadata {
        ctime_seconds: wall.map_or(0, |since| since.as_secs()),
        name: values::set_name(name, request.homehost.as_deref(), host),
    }
}

fn with_value(word: &str) -> Answer<Update> {
    if let Some(cluster) = word.strip_prefix("no-cluster=") {
        return Ok(Update::NoCluster(Some(cluster.to_owned())));
    }
    if let Some(size) = word.strip_prefix("lbs=") {
        let bytes = size
            .parse()
            .map_err(|_| usage(format!("lbs={size} is no size in bytes")))?;
        return Ok(Update::LogicalBlock(bytes));
    }
    if LATER.contains(&word) {
        return Err(usage(format!(
            "--update={word} is not available in this version"
        )));
    }
    Err(usage(format!(
        "'--update={word}' is invalid.  Valid --update options are: {WORDS}"
    )))
}

/// What the planner is told: a name or UUID that is to be given selects nothing.
pub fn wish_without(update: &Update, wish: &Wish) -> Wish {
    let mut wish = wish.clone();
    match update {
        Update::Uuid(_) => wish.uuid = None,
        Update::Name(_) | Update::Metadata { .. } => wish.name = None,
        _ => {}
    }
    wish
}

/// Computes what `update` changes on these members, whose `facts` are in the same order, and asks
/// whether the array they make then can start.
///
/// # Errors
/// When it cannot be done on one of them, or the array would be refused.
pub fn prepare(
    update: &Update,
    opened: &[Opened],
    facts: Vec<MemberFacts>,
    wish: &Wish,
) -> Answer<Prepared> {
    let mut prepared = Prepared {
        word: update.word().to_owned(),
        changes: Vec::new(),
        facts,
    };
    let mut array: Option<(Uuid, String)> = None;
    for (device, one) in opened.iter().enumerate() {
        let fact = &mut prepared.facts[device];
        if *update == Update::Byteorder {
            turn(fact, one)?;
        }
        let Ok(found) = &fact.superblock else {
            continue;
        };
        let uuid = found.fields.set_uuid;
        if wish.uuid.is_some_and(|wanted| wanted != uuid) {
            continue;
        }
        // One that has the new UUID already was reached by an earlier try.
        let done = *update == Update::Uuid(uuid);
        if let Some((other, name)) = array.as_ref().filter(|(other, _)| *other != uuid && !done) {
            let text = format!(
                "{name} belongs to array {other} and {} to {uuid}: nothing was changed",
                one.name
            );
            return Err(ErrorDoc::new(text));
        }
        if !done {
            array = Some((uuid, one.name.clone()));
        }
        let writes = change(update, fact, one)?;
        if !writes.is_empty() {
            prepared.changes.push(Planned { device, writes });
        }
    }
    let after = wish_without(update, wish);
    assembly::assemble(&prepared.facts, &after)
        .map_err(|refusal| refusal_doc(&refusal, None))
        .map_err(|mut error| {
            error.error.push_str(" - no superblock was updated");
            error
        })?;
    Ok(prepared)
}

/// Changes what a member says, in memory; returns what to write.
fn change(update: &Update, fact: &mut MemberFacts, one: &Opened) -> Answer<Vec<(u64, Vec<u8>)>> {
    let Ok(found) = &fact.superblock else {
        return Ok(Vec::new());
    };
    let block_bytes = match one.file.is_block() {
        true => one.file.logical_block_bytes() as usize,
        false => 512,
    };
    let bitmap = match &fact.bitmap {
        Some(Ok(bitmap)) => Some(bitmap.clone()),
        // An earlier change of the UUID was cut short between the two.
        Some(Err(_)) if matches!(update, Update::Uuid(_)) => bitmap_of(one, found),
        _ => None,
    };
    let bitmap = bitmap.as_ref();
    let changed = match update {
        Update::NoCluster(name) => {
            cluster::leave(found, &nodes_of(one, found), name.as_deref(), block_bytes)
        }
        _ => apply(
            update,
            found,
            bitmap,
            (one.file.size_sectors(), block_bytes),
        ),
    };
    let mut changed = changed.map_err(|error: UpdateError| {
        usage(format!("{}: {error}; nothing was changed", one.name))
    })?;
    if *update == Update::Byteorder {
        // The superblock found is the turned one already; what is on the device is not.
        let sector = changed.superblock.fields.super_offset_sectors;
        changed.writes = vec![(sector, changed.superblock.encode(block_bytes))];
    }
    let replaced = matches!(update, Update::NoBitmap | Update::NoCluster(_));
    if replaced || fact.bitmap.as_ref().is_none_or(Result::is_ok) {
        fact.bitmap = changed.bitmap.map(Ok);
    }
    fact.superblock = Ok(changed.superblock);
    let whole = |(sector, bytes)| whole_blocks(one, sector, bytes);
    changed.writes.into_iter().map(whole).collect()
}

/// The bitmap superblock of a member, of whatever array it says it is.
fn bitmap_of(one: &Opened, found: &SuperblockV1) -> Option<BitmapSuperblock> {
    let sector = found.fields.bitmap_sector()?;
    let bytes = one
        .file
        .read_at(sector * SECTOR_BYTES, bitmap::SUPERBLOCK_BYTES);
    let parsed = bitmap::Unverified::parse(&bytes.ok()?).ok()?;
    let uuid = parsed.fields().uuid;
    parsed.verify(uuid).ok()
}

/// The bitmaps of all nodes of a cluster on a member.
fn nodes_of(one: &Opened, found: &SuperblockV1) -> Nodes {
    let start = found.fields.bitmap_sector();
    let start_bytes = start.and_then(|sector| sector.checked_mul(SECTOR_BYTES));
    let read = |len: u64| {
        let bytes = usize::try_from(len).ok()?;
        one.file.read_at(start_bytes?, bytes).ok()
    };
    let head = read(bitmap::SUPERBLOCK_BYTES as u64).unwrap_or_default();
    Nodes::of(found, &head, |sectors| read(sectors * SECTOR_BYTES))
}

/// What is written in whole blocks: behind a bitmap's superblock its bits begin.
fn whole_blocks(one: &Opened, sector: u64, bytes: Vec<u8>) -> Answer<(u64, Vec<u8>)> {
    let block = one.file.logical_block_bytes() as usize;
    let length = bytes.len().next_multiple_of(block.max(512));
    if length == bytes.len() {
        return Ok((sector, bytes));
    }
    let mut all = one
        .file
        .read_at(sector * SECTOR_BYTES, length)
        .map_err(|error| ErrorDoc::new(format!("cannot read {}: {error}", one.name)))?;
    all[..bytes.len()].copy_from_slice(&bytes);
    Ok((sector, all))
}

/// Reads a superblock of version 0.90 in the other byte order.
fn turn(fact: &mut MemberFacts, one: &Opened) -> Answer<()> {
    if !matches!(
        &fact.superblock,
        Err(NoSuperblock::Invalid(ParseError::ByteSwapped))
    ) {
        let what = match &fact.superblock {
            Ok(_) => "it has the byte order of this machine".to_owned(),
            Err(why) => why.to_string(),
        };
        return Err(usage(format!("{}: {what}; nothing was changed", one.name)));
    }
    let sectors = one.file.size_sectors();
    let place = Format::V090.superblock_sector(sectors);
    let sector = place.expect("a superblock of version 0.90 was found");
    let bytes = one
        .file
        .read_at(sector * SECTOR_BYTES, SUPERBLOCK_BYTES)
        .map_err(|error| ErrorDoc::new(format!("cannot read {}: {error}", one.name)))?;
    let right = swapped(&bytes);
    let parsed = SuperblockV090::parse(&right).map_err(ParseError::from);
    fact.superblock = parsed
        .and_then(|parsed| parsed.verify(sectors))
        .map_err(NoSuperblock::Invalid);
    Ok(())
}

impl Prepared {
    /// How many members are to be written.
    pub fn changed(&self) -> usize {
        self.changes.len()
    }

    /// Changes that were computed elsewhere, by the word for all of them.
    pub(super) fn new(word: String, changes: Vec<Planned>, facts: Vec<MemberFacts>) -> Prepared {
        Prepared {
            word,
            changes,
            facts,
        }
    }

    /// What would be written, a line each.
    pub fn describe(&self, opened: &[Opened]) -> Vec<String> {
        let mut lines = Vec::new();
        for change in &self.changes {
            for (sector, bytes) in &change.writes {
                lines.push(format!(
                    "would update {}: {} bytes at sector {sector} of {}",
                    self.word,
                    bytes.len(),
                    opened[change.device].name
                ));
            }
        }
        lines
    }

    /// What members say afterwards.
    pub fn into_facts(self) -> Vec<MemberFacts> {
        self.facts
    }

    /// Writes everything; returns a line for the user.
    ///
    /// # Errors
    /// When a member does not take it: the sentence says which were written.
    pub fn write(&self, opened: &[Opened]) -> Answer<String> {
        self.write_while(opened, &|| true)
    }

    /// The same, as long as that is allowed: asked before each write.
    ///
    /// # Errors
    /// As above, and when it is not allowed any more.
    pub fn write_while(&self, opened: &[Opened], may: &dyn Fn() -> bool) -> Answer<String> {
        let name = |change: &Planned| opened[change.device].name.as_str();
        for (done, change) in self.changes.iter().enumerate() {
            let file = &opened[change.device].file;
            let written = change.writes.iter().try_for_each(|(sector, bytes)| {
                if !may() {
                    let why = "the session with the lock service has ended";
                    return Err(IoError::Other(why.into()));
                }
                file.write_at(sector * SECTOR_BYTES, bytes)?;
                file.sync()
            });
            if let Err(error) = written {
                let before: Vec<&str> = self.changes[..done].iter().map(name).collect();
                let before = match before.is_empty() {
                    true => "no other member was updated".to_owned(),
                    false => format!("{} had been updated already", before.join(", ")),
                };
                return Err(ErrorDoc::new(format!(
                    "cannot update {} on {}: {error}; {before}",
                    self.word,
                    name(change)
                )));
            }
        }
        Ok(match self.changes.len() {
            0 => format!("{} needed no update", self.word),
            count => format!("updated {} on {count} members", self.word),
        })
    }
}
