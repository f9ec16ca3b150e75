//! What tests of work cut short half-way share: where it waits, and how the other side is seen to
//! go on from there instead of at 0.
//!
//! ```text
//!   0 ....... SCAR ............ HALF ............. end
//!             overwritten       sync_max: the first side stops here, records it, and dies
//! ```
//!
//! Who begins again at 0 mends the scar; who goes on leaves it, and a check finds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::oracle::Oracle;
use crate::pattern;
use crate::umd::{Umd, copy_in, text};

/// Where the first side waits: sectors of each member.
pub const HALF: u64 = 36_864;
/// Where the scar is: sectors of a member's data.
pub const SCAR: u64 = 4096;

/// Overwrites a block of a member behind everybody's back.
///
/// # Errors
/// When it has no superblock or cannot be written.
pub fn scar(umd: &Umd, member: &Path) -> Result<()> {
    let start = umd.superblock(member)?["data_offset_bytes"].as_u64();
    let start = start.context("it has no data")?;
    pattern::write_at(member, 99, start + SCAR * 512, 4096)
}

/// Whether what is recorded as done (`name` of the superblock) lies past the scar and not past
/// `HALF`.
///
/// # Errors
/// When it does not.
pub fn is_half_done(umd: &Umd, member: &Path, name: &str) -> Result<()> {
    let done = umd.superblock(member)?[name].as_u64();
    let past = (SCAR + 8) * 512..=HALF * 512;
    ensure!(
        done.is_some_and(|done| past.contains(&done)),
        "{}: {name} is {done:?}",
        member.display()
    );
    Ok(())
}

/// Whether the array waits at `sync_max`, and has recorded it.
pub fn waits(array: &Value) -> bool {
    array["sync"]["held"] == true && array["array_state"] == "clean"
}

/// The option for chunks of 16 KiB, where a level has chunks.
pub fn chunk(level: &str) -> &'static str {
    if level == "1" { "" } else { "-c16" }
}

/// An array of umd that holds `content`, has no bitmap, and will sync up to `HALF` only.
///
/// # Errors
/// When a command fails.
pub fn made(
    (oracle, umd): (&Oracle, &Umd),
    name: &str,
    level: &str,
    members: &[PathBuf],
    content: &Path,
) -> Result<()> {
    let (level_word, count_word) = (format!("-l{level}"), format!("-n{}", members.len()));
    let mut args = vec!["create", name, &level_word, &count_word, "--bitmap=none"];
    let more = ["--assume-clean", chunk(level)];
    args.extend(more.iter().filter(|word| !word.is_empty()));
    args.extend(members.iter().map(|path| text(path)));
    umd.ok(&args)?;
    copy_in(oracle, content, &umd.daemon_uri(name))?;
    // RAID6 was assumed clean, and is not where nothing was written.
    umd.ok(&["action", name, "repair", "--wait"])?;
    umd.ok(&["action", name, &format!("--to={HALF}s")])?;
    Ok(())
}
