//! A bitmap in a file of its own: made, checked, locked. Blocking; never on an array's thread.
//!
//! ```text
//!   create: sizes, UUID --make--> file: superblock 256 B, all bits set
//!   grow:   size --lay_out--> file of zeros, locked; the engine writes what is in it
//!   start:  path --take--> locked, read, compared with the plan --> plan.bitmap, whole pages
//! ```
//!
//! The same bytes as on members, from the beginning of the file (facts: bitmap.md section 3). The
//! file has 256 bytes and its bits; it is made as long as whole pages before it is written.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use umd_core::assembly::{BitmapPlan, MemberFacts, Plan};
use umd_core::value::{MemberId, SECTOR_BYTES};
use umd_format::bitmap::{self, BitmapSuperblock, PAGE_BYTES};
use umd_format::v1::Features;
use umd_format::{SuperblockV1, Uuid};

use super::household::Answer;
use super::open::{self, How, Opened};
use crate::api::ErrorDoc;

/// A file that was made for an array which may still be refused.
pub struct Made {
    path: PathBuf,
    kept: bool,
}

impl Made {
    /// The array runs: the file stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path); // Nothing more can be done about it.
        }
    }
}

/// Writes a bitmap in which everything is dirty. A file that is there already is in the way,
/// unless it may be written `over`; one that is in use always is.
///
/// # Errors
/// When it is in the way, or cannot be made.
pub fn make(path: &str, superblock: &BitmapSuperblock, over: bool) -> Answer<Made> {
    let regions = superblock.regions(superblock.fields.sync_size_sectors);
    let bytes = usize::try_from(bitmap::on_disk_bytes(regions)).expect("bitmaps fit memory");
    write_new(path, &bitmap::initial_image(superblock)[..bytes], over)
}

/// A file of so many zeros, open and locked, for a running array: it is no bitmap until the
/// engine has made it one. What is in the way is as for [`make`].
///
/// # Errors
/// When it is in the way, or cannot be made.
pub fn lay_out(path: &str, bytes: u64, over: bool, how: &How) -> Answer<(Made, Opened)> {
    let bytes = usize::try_from(bytes).expect("bitmaps fit memory");
    // Written, not only made so long: a full filesystem says so now.
    let made = write_new(path, &vec![0; bytes], over)?;
    let opened = open::open(path, how).map_err(ErrorDoc::new)?;
    regular(&opened)?;
    Ok((made, opened))
}

/// Whether a file is there that may be written over.
fn is_there(path: &str, over: bool) -> Answer<bool> {
    let Ok(kind) = fs::symlink_metadata(path) else {
        return Ok(false);
    };
    if kind.is_dir() {
        return Err(ErrorDoc::new(format!(
            "{path} is a directory: a bitmap needs a file, as {}/bitmap",
            path.trim_end_matches('/')
        )));
    }
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(ErrorDoc::new(format!(
            "{path} is not a regular file: a bitmap needs one"
        )));
    }
    if !over {
        return Err(ErrorDoc::new(format!(
            "bitmap file {path} exists already{}: name another one, or use --force to write over \
             it",
            content(path)
        )));
    }
    // Whoever uses it has locked it, as an array's bitmap or as a member.
    let taken = open::open(path, &How::default()).map_err(ErrorDoc::new)?;
    regular(&taken)?;
    Ok(true)
}

/// What a file holds, where that is a bitmap.
fn content(path: &str) -> String {
    let mut head = [0; bitmap::SUPERBLOCK_BYTES];
    let regular = fs::metadata(path).is_ok_and(|found| found.is_file());
    let mut read = || fs::File::open(path)?.read_exact(&mut head);
    if !regular || read().is_err() {
        return String::new();
    }
    match bitmap::Unverified::parse(&head) {
        Ok(found) => format!(", with the bitmap of array {}", found.fields().uuid),
        Err(_) => String::new(),
    }
}

fn write_new(path: &str, bytes: &[u8], over: bool) -> Answer<Made> {
    let there = is_there(path, over)?;
    // Only what was made here is taken away again.
    let mut made = None;
    let mut write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).mode(0o600);
        match there {
            true => options.truncate(true),
            false => options.create_new(true),
        };
        let mut file = options.open(path)?;
        made = Some(Made {
            path: path.into(),
            kept: there,
        });
        file.write_all(bytes)?;
        file.sync_all()
    };
    match write() {
        Ok(()) => Ok(made.expect("it was opened")),
        Err(error) => Err(ErrorDoc::new(format!(
            "cannot make the bitmap file {path}: {}",
            open::os_text(&error)
        ))),
    }
}

/// A bitmap file in the hands of an array that is about to start.
pub struct Taken {
    /// The file, locked.
    pub opened: Opened,
    /// Superblock and bits, whole pages.
    pub area: Vec<u8>,
}

/// Takes the file for the array of this plan, under the identity `id`, and puts it into the plan.
///
/// # Errors
/// When it is in use, is no regular file, or holds no bitmap of this array. Nothing was changed.
pub fn take(
    path: &str,
    id: MemberId,
    plan: &mut Plan,
    facts: &[MemberFacts],
    how: &How,
) -> Answer<Taken> {
    let refused = |text: String| Err(ErrorDoc::new(text));
    let reference = facts.iter().find(|fact| fact.id == plan.reference);
    let reference = reference.and_then(|fact| fact.superblock.as_ref().ok());
    let reference = reference.expect("the planner's reference has a superblock");
    if reference.fields.features.contains(Features::BITMAP_OFFSET) {
        return refused(format!(
            "the array has a bitmap on its members: start it without --bitmap={path}"
        ));
    }
    if !plan.geometry.is_redundant() {
        return refused(format!("bitmaps are not meaningful with {}", plan.level));
    }
    if how.overlay.is_some() {
        return refused(format!(
            "--overlay leaves members alone, and would not leave {path} alone: start without \
             --bitmap"
        ));
    }
    let opened = open::open(path, how).map_err(ErrorDoc::new)?;
    regular(&opened)?;
    let bytes = read(path)?;
    let superblock = verified(path, &bytes, reference)?;
    let regions = superblock.regions(plan.sync_sectors());
    let needed = bitmap::on_disk_bytes(regions);
    if (bytes.len() as u64) < needed {
        return refused(format!(
            "bitmap file {path} is too short: {} bytes, and {needed} are needed",
            bytes.len()
        ));
    }
    let pages = bitmap::on_disk_sectors(regions) * SECTOR_BYTES;
    let mut area = bytes;
    area.resize(usize::try_from(pages).expect("bitmaps fit memory"), 0xff);
    // An array without superblocks cannot tell how old its bitmap is; as with md it is believed.
    let stored = reference.format().is_stored();
    let stale = match stored {
        true => superblock.is_stale(plan.events.0) || !plan.forced.is_empty(),
        false => superblock.is_stale(0),
    };
    let source = id;
    plan.bitmap = match stale {
        false => BitmapPlan::Usable { source, superblock },
        true => BitmapPlan::Stale { source, superblock },
    };
    let opened = match how.readonly {
        true => opened,
        false => whole_pages(path, opened, pages, how)?,
    };
    Ok(Taken { opened, area })
}

fn regular(opened: &Opened) -> Answer<()> {
    if opened.file.is_block() {
        return Err(ErrorDoc::new(format!(
            "{} is not a regular file: a bitmap needs one",
            opened.name
        )));
    }
    Ok(())
}

/// The file as it is; no bitmap is longer than what a gigabyte of memory holds.
fn read(path: &str) -> Answer<Vec<u8>> {
    let unreadable = |error: io::Error| {
        let text = open::os_text(&error);
        ErrorDoc::new(format!("cannot read bitmap file {path}: {text}"))
    };
    let length = fs::metadata(Path::new(path)).map_err(unreadable)?.len();
    if length > bitmap::FILE_BYTES_MAX {
        return Err(ErrorDoc::new(format!(
            "{path} has {length} bytes: that is no bitmap file"
        )));
    }
    fs::read(path).map_err(unreadable)
}

fn verified(path: &str, bytes: &[u8], reference: &SuperblockV1) -> Answer<BitmapSuperblock> {
    let unusable = |why: bitmap::BitmapError| {
        ErrorDoc::new(format!("bitmap file {path} cannot be used: {why}"))
    };
    let found = bitmap::Unverified::parse(bytes).map_err(unusable)?;
    // Without superblocks an array has another UUID each time.
    let uuid: Uuid = match reference.format().is_stored() {
        true => reference.bitmap_uuid(),
        false => found.fields().uuid,
    };
    let found = found.verify(uuid).map_err(unusable)?;
    if found.is_lockless() {
        return Err(ErrorDoc::new(format!(
            "bitmap file {path} cannot be used: bitmaps in files are never lockless (version 6)"
        )));
    }
    Ok(found)
}

/// The file with room for whole pages: that is how it is written.
fn whole_pages(path: &str, opened: Opened, pages: u64, how: &How) -> Answer<Opened> {
    let least = pages.next_multiple_of(PAGE_BYTES as u64);
    if opened.file.size_sectors() * SECTOR_BYTES >= least {
        return Ok(opened);
    }
    let grown = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| {
            file.set_len(least)?;
            file.sync_all()
        });
    grown.map_err(|error| {
        ErrorDoc::new(format!(
            "cannot make bitmap file {path} {least} bytes long: {}",
            open::os_text(&error)
        ))
    })?;
    // Its size is known from when it was opened; nobody else may have taken it in between.
    drop(opened);
    open::open(path, how).map_err(ErrorDoc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_written_over_only_when_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("bits");
        let name = path.to_str().expect("a name");
        let superblock = BitmapSuperblock::new(Uuid([7; 16]), 63 * 128, 65_536);
        drop(make(name, &superblock, false).expect("made"));
        assert!(!path.exists(), "the array was refused");
        make(name, &superblock, false).expect("made").keep();
        let bytes = fs::read(&path).expect("reads");
        assert_eq!(bytes.len(), 264, "what mdadm makes for 63 bits");
        assert_eq!(bytes[256..], [0xff; 8]);
        fs::write(&path, b"precious").expect("writes");
        assert!(make(name, &superblock, false).is_err());
        assert_eq!(fs::read(&path).expect("reads"), b"precious");
        drop(make(name, &superblock, true).expect("told to"));
        assert_eq!(fs::read(&path).expect("it stays").len(), 264);
    }
}
