//! `umd examine --bitmap`.

use std::path::Path;

use serde::Serialize;
use umd_core::value::SECTOR_BYTES;
use umd_disk::{Engine, MemberFile, Mode};
use umd_format::bitmap::{self, Fields};

use super::outcome::{Failure, Outcome, print, print_json, say};
use crate::daemon::open::{self, Superblock};
use crate::doc::SCHEMA;
use crate::text::bitmap::{Bits, count, count_states, examine, is_lockless, is_plain};

#[derive(Debug, Serialize)]
struct BitmapsDoc {
    schema: u32,
    bitmaps: Vec<BitmapDoc>,
}

/// A bitmap as it lies on a member.
#[derive(Debug, Serialize)]
struct BitmapDoc {
    device: String,
    version: u32,
    uuid: String,
    events: u64,
    events_cleared: u64,
    state: u32,
    chunk_bytes: u64,
    daemon_sleep_seconds: u32,
    write_behind: u32,
    sync_size_bytes: u64,
    bits: Option<u64>,
    dirty_bits: Option<u64>,
}

/// Shows the bitmap of each member.
///
/// # Errors
/// When the output cannot be written. Devices without a bitmap are said, and make the exit code 1.
pub fn run(devices: &[String], json: bool) -> Outcome {
    let mut code = 0;
    let mut bitmaps = Vec::new();
    for name in devices {
        match look(name) {
            Ok((fields, bits)) => {
                if !json {
                    print(&examine(name, bitmap::MAGIC, &fields, bits))?;
                }
                if bits.is_none() {
                    say(&format!(
                        "{name}: the bits of a bitmap of version {} are not known here",
                        fields.version
                    ));
                    code = 1;
                }
                bitmaps.push(document(name, &fields, bits));
            }
            Err(failure) => {
                say(&failure.text);
                code = failure.code;
            }
        }
    }
    if json {
        print_json(&BitmapsDoc {
            schema: SCHEMA,
            bitmaps,
        })?;
    }
    Ok(code)
}

fn look(name: &str) -> Result<(Fields, Option<Bits>), Failure> {
    let file = MemberFile::open(Path::new(name), Mode::Examine, Engine::Sync)
        .map_err(|error| Failure::failed(open::open_text(error)))?;
    let unreadable = |error| Failure::failed(format!("cannot read {name}: {error}"));
    let at = match open::superblock(&file, None).map_err(unreadable)? {
        Some(Superblock::V1(superblock)) => superblock.fields().bitmap_sector(),
        Some(Superblock::V090(_)) => None,
        // A file that holds nothing but a bitmap.
        None => Some(0),
    };
    let none = || Failure::failed(format!("{name} has no bitmap"));
    let at = at.and_then(|sector| sector.checked_mul(SECTOR_BYTES));
    let at = at.ok_or_else(none)?;
    let room = file.size_sectors().saturating_mul(SECTOR_BYTES);
    if at.saturating_add(bitmap::SUPERBLOCK_BYTES as u64) > room {
        return Err(none());
    }
    let head = file
        .read_at(at, bitmap::SUPERBLOCK_BYTES)
        .map_err(unreadable)?;
    let found = bitmap::Unverified::parse(&head)
        .map_err(|error| Failure::failed(format!("{name}: {error}")))?;
    let fields = found.fields().clone();
    let lockless = is_lockless(&fields);
    if !is_plain(&fields) && !lockless {
        return Ok((fields, None));
    }
    let region = fields.region_bytes() / SECTOR_BYTES;
    let bits = match region {
        0 => 0,
        region => fields.sync_size_sectors.div_ceil(region),
    };
    let (behind, len) = match lockless {
        true => (bitmap::STATES_OFFSET, bits),
        false => (bitmap::SUPERBLOCK_BYTES, bits.div_ceil(8)),
    };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let from = at + behind as u64;
    let bytes = match from.checked_add(len as u64) {
        Some(end) if end <= room => file.read_at(from, len).map_err(unreadable)?,
        _ => {
            return Err(Failure::failed(format!(
                "{name}: a bitmap of {bits} bits does not fit the device"
            )));
        }
    };
    let bits = match lockless {
        true => count_states(&bytes),
        false => count(&bytes, bits),
    };
    Ok((fields, Some(bits)))
}

fn document(name: &str, fields: &Fields, bits: Option<Bits>) -> BitmapDoc {
    BitmapDoc {
        device: name.to_owned(),
        version: fields.version,
        uuid: fields.uuid.to_string(),
        events: fields.events,
        events_cleared: fields.events_cleared,
        state: fields.state.0,
        chunk_bytes: fields.region_bytes(),
        daemon_sleep_seconds: fields.daemon_sleep_s,
        write_behind: fields.write_behind,
        sync_size_bytes: fields.sync_size_sectors.saturating_mul(SECTOR_BYTES),
        bits: bits.map(|bits| bits.count),
        dirty_bits: bits.map(|bits| bits.dirty),
    }
}
