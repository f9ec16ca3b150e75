//! What a device says of the array it belongs to, as far as an `ARRAY` line asks. Nothing is
//! locked and nothing written.

use std::path::Path;

use umd_disk::{Engine, Mode};
use umd_format::Uuid;

use super::{ArrayLine, Config, Identity, files};
use crate::daemon::open::{self, Superblock};
use crate::member;

/// A device that carries a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its absolute path.
    pub path: String,
    /// What its superblock says.
    pub identity: Identity,
}

/// What is on a device; `None` without a superblock.
///
/// # Errors
/// One sentence, when it cannot be read.
pub fn probe(path: &str) -> Result<Option<Identity>, String> {
    let file =
        member::open(Path::new(path), Mode::Examine, Engine::Sync).map_err(open::open_text)?;
    let found =
        open::superblock(&file, None).map_err(|error| format!("cannot read {path}: {error}"))?;
    let Some(found) = found else {
        return Ok(None);
    };
    let minor = match &found {
        Superblock::V1(_) => None,
        Superblock::V090(old) => Some(old.md_minor),
    };
    let (fields, format) = match &found {
        Superblock::V1(found) => (found.fields().clone(), found.format()),
        Superblock::V090(old) => (old.shown(file.size_sectors()), umd_format::Format::V090),
    };
    Ok(Some(Identity {
        uuid: found.set_uuid(),
        set_name: fields.name(),
        preferred_minor: minor,
        format,
        level: fields.level.to_raw(),
        raid_disks: fields.raid_disks,
    }))
}

/// Those of the paths that carry superblocks, in their order.
pub fn candidates(paths: impl IntoIterator<Item = String>) -> Vec<Candidate> {
    let known = |path: String| {
        let identity = probe(&path).ok()??;
        Some(Candidate { path, identity })
    };
    paths.into_iter().filter_map(known).collect()
}

/// The UUID behind the devices that fit a line, and their paths.
///
/// # Errors
/// One sentence, when the line fits more than one array.
pub fn members_of(
    line: &ArrayLine,
    known: &[Candidate],
    home: Option<&str>,
) -> Result<Option<(Uuid, Vec<String>)>, String> {
    let named: Vec<Candidate>;
    let pool = match line.devices.is_empty() {
        true => known,
        false => {
            let paths = line.devices.iter().flat_map(|one| files::expand(one));
            named = candidates(paths);
            &named
        }
    };
    let fitting: Vec<&Candidate> = pool
        .iter()
        .filter(|one| line.fits(&one.identity, home))
        .collect();
    let Some(first) = fitting.first() else {
        return Ok(None);
    };
    let uuid = first.identity.uuid;
    if let Some(other) = fitting.iter().find(|one| one.identity.uuid != uuid) {
        return Err(format!(
            "{}:{}: this ARRAY line fits the arrays {uuid} (on {}) and {} (on {}): say uuid=",
            line.place.file, line.place.line, first.path, other.identity.uuid, other.path
        ));
    }
    let paths = fitting.iter().map(|one| one.path.clone()).collect();
    Ok(Some((uuid, paths)))
}

impl Config {
    /// The line that a device fits, if any does.
    pub fn line_of(&self, found: &Candidate, host: &str) -> Option<&ArrayLine> {
        let home = self.home(host);
        let listed = |line: &ArrayLine| {
            let mut paths = line.devices.iter().flat_map(|one| files::expand(one));
            line.devices.is_empty() || paths.any(|path| path == found.path)
        };
        self.arrays
            .iter()
            .find(|line| line.fits(&found.identity, home.as_deref()) && listed(line))
    }

    /// Whether an array is of this machine: its stored host is ours (0.90: the UUID tells), or
    /// nobody asks.
    pub fn is_local(&self, found: &Identity, host: &str) -> bool {
        let Some(home) = self.home(host) else {
            return true;
        };
        match found.preferred_minor {
            Some(_) => umd_format::v090::with_host(found.uuid, &home) == found.uuid,
            None => match found.set_name.split_once(':') {
                Some((stored, _)) => stored == home,
                None => false,
            },
        }
    }
}
