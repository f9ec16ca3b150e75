//! Opening members and reading what is on them. Blocking; never on an array's thread.
//!
//! ```text
//!   path --open, lock--> Opened --superblocks at their places--> Found --> facts for assembly
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use umd_core::assembly::{MemberFacts, NoSuperblock};
use umd_core::value::{IoError, MemberId, SECTOR_BYTES};
use umd_disk::{Engine, MemberFile, Mode, OpenError};
use umd_format::badblocks::{BadBlocksError, BadLog};
use umd_format::bitmap;
use umd_format::place::{self, Format, SUPERBLOCK_READ_SECTORS};
use umd_format::signature::{self, HEAD_BYTES, Signature, TAIL_BYTES, Window};
use umd_format::v1::{Fields, Unverified};
use umd_format::v090::SuperblockV090;
use umd_format::{ParseError, SuperblockV1, Uuid};

use super::cluster::Storage;
use crate::api::ClusterRequest;
use crate::member;

/// How long a lock that a dying process still holds is waited for: its last writes may be on
/// their way.
const LOCK_WAIT: Duration = Duration::from_millis(1500);

/// How members are to be opened.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// Nothing will be written.
    pub readonly: bool,
    /// Writes go to copy-on-write files in this directory.
    pub overlay: Option<std::path::PathBuf>,
    /// How I/O is done.
    pub engine: Engine,
    /// Faults to inject, `MEMBER:RULE`, for tests.
    pub faults: Vec<String>,
    /// As a node of a cluster: who else is one may have them open, too.
    pub cluster: Option<ClusterRequest>,
    /// Members of a cluster are reserved.
    pub storage: Option<Arc<Storage>>,
}

impl How {
    /// Whether other nodes may have the members open.
    pub fn is_shared(&self) -> bool {
        let several = |one: &ClusterRequest| one.engine != super::cluster::MEMORY;
        self.cluster.as_ref().is_some_and(several)
    }
}

/// A member, open and locked.
#[derive(Debug)]
pub struct Opened {
    /// Its path as it was given (absolute).
    pub name: String,
    /// The member.
    pub file: MemberFile,
}

/// An I/O engine by its word.
///
/// # Errors
/// When there is none of that name.
pub fn engine(word: Option<&str>) -> Result<Engine, String> {
    word.map_or(Ok(Engine::Auto), str::parse)
}

/// Opens and locks a member.
///
/// # Errors
/// When it is in use, of the wrong kind, or the system refuses.
pub fn open(name: &str, how: &How) -> Result<Opened, String> {
    let untouched = how.readonly || how.overlay.is_some();
    let mode = match untouched {
        true => Mode::ReadOnly,
        false if how.is_shared() => Mode::Shared,
        false => Mode::ReadWrite,
    };
    let path = Path::new(name);
    let keys = how.storage.as_ref().map(|storage| storage.keys());
    let file = member::open_waiting(path, mode, (how.engine, keys), LOCK_WAIT);
    let file = file.map_err(open_text)?;
    let file = match &how.overlay {
        Some(dir) => file.with_overlay(dir).map_err(open_text)?,
        None => file,
    };
    let file = inject(file, name, &how.faults)?;
    Ok(Opened {
        name: name.to_owned(),
        file,
    })
}

/// Puts the faults for this member in front of it: each is `PATH-END:RULE[,RULE...]`, or begins
/// with the last part of an export's name.
fn inject(file: MemberFile, name: &str, faults: &[String]) -> Result<MemberFile, String> {
    let mut file = file;
    for fault in faults {
        let (which, rules) = fault
            .split_once(':')
            .ok_or_else(|| format!("the fault '{fault}' is not MEMBER:RULE"))?;
        let export = member::is_elsewhere(name) && member::last_part(name) == which;
        if which == "*" || export || Path::new(name).ends_with(which) {
            let spec = rules
                .parse::<umd_disk::fault::FaultSpec>()
                .map_err(|error| format!("the fault '{fault}' makes no sense: {error}"))?;
            file = file.with_fault(&spec);
        }
    }
    Ok(file)
}

/// The first device that has been named before, by this path or another one.
pub fn named_twice(devices: &[String]) -> Option<&str> {
    let real = |device: &String| std::fs::canonicalize(device).unwrap_or_else(|_| device.into());
    let paths: Vec<_> = devices.iter().map(real).collect();
    let again = (0..paths.len()).find(|&index| paths[..index].contains(&paths[index]));
    again.map(|index| devices[index].as_str())
}

/// An open error in mdadm's words where it has them.
pub fn open_text(error: OpenError) -> String {
    match error {
        OpenError::Io {
            path,
            action: "open it",
            source,
        } => {
            format!("cannot open {}: {}", path.display(), os_text(&source))
        }
        other => other.to_string(),
    }
}

/// The system's words without the number.
pub fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A superblock found on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Superblock {
    /// Version 1.x, not verified yet.
    V1(Box<Unverified>),
    /// Version 0.90.
    V090(Box<SuperblockV090>),
}

impl Superblock {
    fn ctime_seconds(&self) -> u64 {
        match self {
            Superblock::V1(found) => found.fields().ctime.seconds(),
            Superblock::V090(found) => found.ctime_seconds.into(),
        }
    }
}

impl Superblock {
    /// The array it names.
    pub fn set_uuid(&self) -> Uuid {
        match self {
            Superblock::V1(found) => found.fields().set_uuid,
            Superblock::V090(found) => found.uuid,
        }
    }

    /// What it says, if that can be trusted on a device of `device_sectors`.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn verify(self, device_sectors: u64) -> Result<SuperblockV1, ParseError> {
        match self {
            Superblock::V1(found) => found.verify(device_sectors),
            Superblock::V090(found) => found.verify(device_sectors),
        }
    }
}

/// The superblock of a device: of those at all the places, the one that is meant (or the one of
/// `only`).
///
/// # Errors
/// When the places cannot be read.
pub fn superblock(file: &MemberFile, only: Option<Format>) -> Result<Option<Superblock>, IoError> {
    let mut found = Vec::new();
    for (format, sector) in place::probe_order(file.size_sectors()) {
        if only.is_some_and(|only| format != only) {
            continue;
        }
        let sectors = SUPERBLOCK_READ_SECTORS.min(file.size_sectors() - sector);
        let bytes = file.read_at(sector * SECTOR_BYTES, (sectors * SECTOR_BYTES) as usize)?;
        match format {
            Format::V1(minor) => {
                // One whose own place is elsewhere is a copy, or seen through another device.
                let parsed = Unverified::parse(&bytes, minor).ok();
                found.extend(parsed.map(|one| Superblock::V1(Box::new(one))));
            }
            Format::Bare => {}
            Format::V090 => {
                let parsed = SuperblockV090::parse(&bytes).ok();
                found.extend(parsed.map(|one| Superblock::V090(Box::new(one))));
            }
        }
    }
    let ages: Vec<u64> = found.iter().map(Superblock::ctime_seconds).collect();
    Ok(place::newest(&ages).map(|index| found.swap_remove(index)))
}

/// What a member says about itself, for assembly.
pub fn facts(id: MemberId, opened: &Opened, only: Option<Format>) -> MemberFacts {
    let file = &opened.file;
    let unreadable = |error: IoError| NoSuperblock::Unreadable(error.to_string());
    let superblock = match superblock(file, only).map_err(unreadable) {
        Err(error) => Err(error),
        Ok(None) => Err(NoSuperblock::Invalid(ParseError::NoMagic {
            found: first_word(file),
        })),
        Ok(Some(found)) => found
            .verify(file.size_sectors())
            .map_err(NoSuperblock::Invalid),
    };
    let bitmap = superblock
        .as_ref()
        .ok()
        .and_then(|found| read_bitmap(file, found));
    let bad_blocks = superblock
        .as_ref()
        .ok()
        .and_then(|found| bad_blocks(file, &found.fields));
    MemberFacts {
        id,
        name: opened.name.clone(),
        size_sectors: file.size_sectors(),
        logical_block_bytes: file.logical_block_bytes(),
        superblock,
        bitmap,
        bad_blocks,
    }
}

/// The word at the place where mdadm's default superblock would be, for its message.
fn first_word(file: &MemberFile) -> u32 {
    let place = Format::V1_2.superblock_sector(file.size_sectors());
    let bytes = place.and_then(|sector| file.read_at(sector * SECTOR_BYTES, 4).ok());
    bytes.map_or(0, |bytes| {
        u32::from_le_bytes(bytes.try_into().expect("four bytes were read"))
    })
}

fn read_bitmap(
    file: &MemberFile,
    found: &SuperblockV1,
) -> Option<Result<bitmap::BitmapSuperblock, bitmap::BitmapError>> {
    let sector = found.fields.bitmap_sector()?;
    let offset_bytes = sector.checked_mul(SECTOR_BYTES)?;
    let bytes = file.read_at(offset_bytes, bitmap::SUPERBLOCK_BYTES).ok()?;
    let parsed = bitmap::Unverified::parse(&bytes);
    Some(parsed.and_then(|one| one.verify(found.bitmap_uuid())))
}

/// The bad-block log of a member, if its superblock says that there is something in it.
pub fn bad_blocks(file: &MemberFile, fields: &Fields) -> Option<Result<BadLog, BadBlocksError>> {
    let (sector, len) = BadLog::place(fields)?;
    let bytes = file.read_at(sector * SECTOR_BYTES, (len * SECTOR_BYTES) as usize);
    let unreadable = |error: IoError| BadBlocksError::Unreadable(error.to_string());
    Some(
        bytes
            .map_err(unreadable)
            .and_then(|bytes| BadLog::read(fields, &bytes)),
    )
}

/// What a device carries already.
///
/// # Errors
/// When it cannot be read.
pub fn signatures(file: &MemberFile) -> Result<Vec<Signature>, IoError> {
    let size_bytes = file.size_sectors() * SECTOR_BYTES;
    let head_len = (HEAD_BYTES as u64).min(size_bytes);
    let tail_len = (TAIL_BYTES as u64).min(size_bytes);
    let head = file.read_at(0, head_len as usize)?;
    let tail_start = size_bytes - tail_len;
    let tail = file.read_at(tail_start, tail_len as usize)?;
    // The end of a small device is in both windows, and so would a version 0.90 superblock be.
    let old_place = Format::V090.superblock_sector(file.size_sectors());
    let old_start = old_place.map_or(0, |sector| sector * SECTOR_BYTES);
    let old_len = 4096.min(size_bytes - old_start);
    let old = file.read_at(old_start, old_len as usize)?;
    let windows = [
        Window {
            offset_bytes: 0,
            bytes: &head,
        },
        Window {
            offset_bytes: old_start,
            bytes: &old,
        },
        Window {
            offset_bytes: tail_start,
            bytes: &tail,
        },
    ];
    Ok(signature::scan(&windows, size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_format::signature::Kind;

    #[test]
    fn the_newest_superblock_is_meant() {
        let file = MemberFile::in_memory(204_800, 512);
        assert_eq!(superblock(&file, None).expect("reads"), None);
        assert!(signatures(&file).expect("reads").is_empty());
        let mut bytes = [0u8; 512];
        bytes[..4].copy_from_slice(&umd_format::MD_MAGIC.to_le_bytes());
        bytes[4] = 1;
        for (minor, ctime) in [(Format::V1_2, 5u8), (Format::V1_0, 9)] {
            bytes[64] = ctime;
            let sector = minor.superblock_sector(204_800).expect("large enough");
            file.write_at(sector * SECTOR_BYTES, &bytes)
                .expect("writes");
        }
        let Some(Superblock::V1(found)) = superblock(&file, None).expect("reads") else {
            panic!("a superblock is there");
        };
        assert_eq!(found.format(), Format::V1_0);
        let only = superblock(&file, Some(Format::V1_2)).expect("reads");
        assert!(matches!(only, Some(Superblock::V1(found)) if found.format() == Format::V1_2));
        let kinds: Vec<Kind> = signatures(&file)
            .expect("reads")
            .iter()
            .map(|s| s.kind)
            .collect();
        assert_eq!(kinds, [Kind::Md, Kind::Md]);
    }

    #[test]
    fn a_missing_file_gets_mdadms_sentence() {
        let error = open("/nonexistent/a.img", &How::default()).expect_err("not there");
        assert_eq!(
            error,
            "cannot open /nonexistent/a.img: No such file or directory"
        );
    }

    #[test]
    fn unknown_engines_are_refused() {
        assert!(engine(Some("magic")).is_err());
        assert_eq!(engine(None), Ok(Engine::Auto));
    }
}
