//! `umd examine --bitmap`.

use std::path::Path;

use serde::Serialize;
use umd_core::value::SECTOR_BYTES;
use umd_disk::{Engine, MemberFile, Mode};
use umd_format::Uuid;
use umd_format::bitmap::{self, Fields, NodeBitmap, Slots};

use super::outcome::{Failure, Outcome, print, print_json, say};
use crate::daemon::open::{self, Superblock};
use crate::doc::SCHEMA;
use crate::member;
use crate::text::bitmap::{
    Bits, count, count_states, examine, examine_slots, is_lockless, is_plain,
};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeDoc>,
}

/// The bitmap of one node of a cluster.
#[derive(Debug, Serialize)]
struct NodeDoc {
    node: usize,
    events: Option<u64>,
    events_cleared: Option<u64>,
    dirty_bits: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A bitmap that was found.
enum Found {
    /// Of one host; without bits where these are not known.
    One(Fields, Option<Bits>),
    /// Of the nodes of a cluster.
    Slots(Slots, Vec<NodeBitmap>),
}

/// Shows the bitmap of each member.
///
/// # Errors
/// When the output cannot be written. Devices without a bitmap are said, and make the exit code 1.
pub fn run(devices: &[String], json: bool) -> Outcome {
    let mut code = 0;
    let mut bitmaps = Vec::new();
    for name in devices {
        let (text, document) = match look(name) {
            Ok(Found::One(fields, bits)) => {
                if bits.is_none() {
                    say(&format!(
                        "{name}: the bits of a bitmap of version {} are not known here",
                        fields.version
                    ));
                    code = 1;
                }
                (
                    examine(name, bitmap::MAGIC, &fields, bits),
                    document(name, &fields, bits),
                )
            }
            Ok(Found::Slots(slots, nodes)) => {
                for (number, node) in nodes.iter().enumerate() {
                    if let Err(why) = &node.fields {
                        say(&format!("{name}: node {number}: {why}"));
                        code = 1;
                    }
                }
                (
                    examine_slots(name, bitmap::MAGIC, &slots, &nodes),
                    clustered(name, &slots, &nodes),
                )
            }
            Err(failure) => {
                say(&failure.text);
                code = failure.code;
                continue;
            }
        };
        if !json {
            print(&text)?;
        }
        bitmaps.push(document);
    }
    if json {
        print_json(&BitmapsDoc {
            schema: SCHEMA,
            bitmaps,
        })?;
    }
    Ok(code)
}

/// A device, and where its bitmap lies.
struct Place {
    file: MemberFile,
    name: String,
    at_bytes: u64,
    room_bytes: u64,
    array: Option<Uuid>,
}

impl Place {
    fn find(name: &str) -> Result<Place, Failure> {
        let file = member::open(Path::new(name), Mode::Examine, Engine::Sync)
            .map_err(|error| Failure::failed(open::open_text(error)))?;
        let found = open::superblock(&file, None)
            .map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?;
        let (at, array) = match found {
            Some(Superblock::V1(superblock)) => {
                let fields = superblock.fields();
                (fields.bitmap_sector(), Some(fields.set_uuid))
            }
            Some(Superblock::V090(_)) => (None, None),
            // A file that holds nothing but a bitmap.
            None => (Some(0), None),
        };
        let none = || Failure::failed(format!("{name} has no bitmap"));
        let at = at.and_then(|sector| sector.checked_mul(SECTOR_BYTES));
        let at_bytes = at.ok_or_else(none)?;
        let room_bytes = file.size_sectors().saturating_mul(SECTOR_BYTES);
        if at_bytes.saturating_add(bitmap::SUPERBLOCK_BYTES as u64) > room_bytes {
            return Err(none());
        }
        Ok(Place {
            file,
            name: name.to_owned(),
            at_bytes,
            room_bytes,
            array,
        })
    }

    /// Bytes from the start of the bitmap on.
    fn read(&self, from: u64, len: u64) -> Result<Vec<u8>, Failure> {
        let name = &self.name;
        let start = self.at_bytes.saturating_add(from);
        let fits = start
            .checked_add(len)
            .is_some_and(|end| end <= self.room_bytes);
        let len = usize::try_from(len).ok().filter(|_| fits);
        let len = len.ok_or_else(|| {
            Failure::failed(format!(
                "{name}: a bitmap this large does not fit the device"
            ))
        })?;
        let unreadable = |error| Failure::failed(format!("cannot read {name}: {error}"));
        self.file.read_at(start, len).map_err(unreadable)
    }
}

fn look(name: &str) -> Result<Found, Failure> {
    let place = Place::find(name)?;
    let head = place.read(0, bitmap::SUPERBLOCK_BYTES as u64)?;
    let unusable = |error| Failure::failed(format!("{name}: {error}"));
    let found = bitmap::Unverified::parse(&head).map_err(unusable)?;
    let fields = found.fields().clone();
    if fields.version == bitmap::VERSION_CLUSTERED {
        let array = place.array.unwrap_or(fields.uuid);
        let slots = Slots::of(&head, array).map_err(unusable)?;
        let area = place.read(0, slots.all_sectors().saturating_mul(SECTOR_BYTES))?;
        let nodes = slots.read(&area, array);
        return Ok(Found::Slots(slots, nodes));
    }
    let lockless = is_lockless(&fields);
    if !is_plain(&fields) && !lockless {
        return Ok(Found::One(fields, None));
    }
    let region = fields.region_bytes() / SECTOR_BYTES;
    let bits = match region {
        0 => 0,
        region => fields.sync_size_sectors.div_ceil(region),
    };
    let bits = match lockless {
        true => count_states(&place.read(bitmap::STATES_OFFSET as u64, bits)?),
        false => {
            let bytes = place.read(bitmap::SUPERBLOCK_BYTES as u64, bits.div_ceil(8))?;
            count(&bytes, bits)
        }
    };
    Ok(Found::One(fields, Some(bits)))
}

/// The bitmaps of all nodes; above them what the first says, and the dirty regions of all.
fn clustered(name: &str, slots: &Slots, nodes: &[NodeBitmap]) -> BitmapDoc {
    let mut dirty: Vec<u64> = nodes.iter().flat_map(|node| node.dirty.clone()).collect();
    dirty.sort_unstable();
    dirty.dedup();
    let bits = Bits {
        count: slots.regions(),
        dirty: dirty.len() as u64,
        states: None,
    };
    let node = |(number, node): (usize, &NodeBitmap)| {
        let fields = node.fields.as_ref();
        NodeDoc {
            node: number,
            events: fields.ok().map(|fields| fields.events),
            events_cleared: fields.ok().map(|fields| fields.events_cleared),
            dirty_bits: fields.ok().map(|_| node.dirty.len() as u64),
            error: fields.err().map(ToString::to_string),
        }
    };
    BitmapDoc {
        cluster: Some(slots.cluster()),
        nodes: nodes.iter().enumerate().map(node).collect(),
        ..document(name, &slots.first, Some(bits))
    }
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
        cluster: None,
        nodes: Vec::new(),
    }
}
