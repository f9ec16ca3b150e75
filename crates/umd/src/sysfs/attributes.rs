//! The attributes in `md/`. What is fixed here is what umd does, in md's words: it limits no array
//! to less than its size, and has no stripe cache.

use super::{Entries, Node, attribute, bitmap, has_parity, is_redundant, members, named};
use super::{read_only, writable};
use crate::doc::ArrayDoc;

/// `sync_speed_max` without a limit, in KiB/s: more than anything reaches.
pub const NO_LIMIT_KIB_S: u32 = i32::MAX as u32;

/// Attributes with numbers that umd has no way to change: name, value, lowest, highest.
pub const FIXED: &[(&str, u64, u64, u64)] = &[
    ("sync_force_parallel", 0, 0, 1),
    ("stripe_cache_size", 256, 17, 32_768),
    ("preread_bypass_threshold", 1, 0, 256),
    ("skip_copy", 0, 0, u64::MAX),
    ("group_thread_cnt", 0, 0, 8192),
    ("rmw_level", 1, 0, 2),
    ("ppl_write_hint", 0, 0, 5),
];

/// The directory.
pub fn of(array: &ArrayDoc) -> Entries {
    let mut entries = geometry(array);
    entries.extend(state(array));
    if is_redundant(array) {
        entries.extend(sync(array));
    }
    if has_parity(array) {
        entries.extend(parity());
    }
    entries.push(("bitmap".into(), Node::Directory(bitmap::of(array))));
    entries.extend(members::of(array));
    entries
}

fn fixed(name: &str) -> Node {
    let found = FIXED.iter().find(|(known, ..)| *known == name);
    writable(found.expect("it is in the table").1)
}

fn geometry(array: &ArrayDoc) -> Entries {
    named([
        ("level", writable(&array.level)),
        ("layout", writable(layout(array))),
        ("raid_disks", writable(array.raid_disks)),
        ("uuid", read_only(&array.uuid_canonical)),
        ("chunk_size", writable(array.chunk_bytes)),
        ("component_size", writable(component_kib(array))),
        ("metadata_version", writable(&array.metadata)),
        ("new_dev", attribute(None, true)),
        ("array_size", writable("default")),
        ("reshape_position", writable(reshape_position(array))),
        ("reshape_direction", writable(reshape_direction(array))),
    ])
}

/// The layout; while the array is reshaped the new one, and the old one behind it.
fn layout(array: &ArrayDoc) -> String {
    let old = array.layout_number;
    match &array.reshape {
        Some(reshape) => format!("{} ({old})", reshape.new_layout_number),
        None => old.to_string(),
    }
}

/// How far a reshape has come, in array sectors.
pub fn reshape_position(array: &ArrayDoc) -> String {
    let reshape = array.reshape.as_ref();
    reshape.map_or("none".to_owned(), |one| one.position_sectors.to_string())
}

/// Which way it goes.
pub fn reshape_direction(array: &ArrayDoc) -> &'static str {
    match array.reshape.as_ref().is_some_and(|one| one.backwards) {
        true => "backwards",
        false => "forwards",
    }
}

/// What each member gives, in KiB; 0 where they need not be alike.
pub fn component_kib(array: &ArrayDoc) -> u64 {
    array.dev_bytes.unwrap_or(0) / 1024
}

fn state(array: &ArrayDoc) -> Entries {
    let policy = match array.level_number {
        1 => "0",
        _ => "n/a",
    };
    named([
        ("array_state", writable(state_word(array))),
        ("resync_start", writable(resync_start(array))),
        ("safe_mode_delay", writable(safe_mode_delay(array))),
        ("max_read_errors", writable(array.max_read_errors)),
        ("consistency_policy", writable(&array.consistency_policy)),
        ("fail_last_dev", writable(u8::from(array.fail_last_dev))),
        ("serialize_policy", writable(policy)),
    ])
}

/// In seconds.
pub fn safe_mode_delay(array: &ArrayDoc) -> String {
    let ms = array.safe_mode_delay_ms;
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// md has no word for an array that umd froze; what hosts see is that of a broken one.
pub fn state_word(array: &ArrayDoc) -> &str {
    match array.array_state.as_str() {
        "frozen" => "broken",
        other => other,
    }
}

/// Superblocks say that redundancy is right below this.
pub fn resync_start(array: &ArrayDoc) -> String {
    let from = array.resync_from_sectors;
    from.map_or("none".to_owned(), |sectors| sectors.to_string())
}

fn sync(array: &ArrayDoc) -> Entries {
    let last = match array.last_sync_action.as_deref() {
        None => "none",
        Some("recover") => "recovery",
        Some(other) => other,
    };
    let speed = |limit: Option<u32>, default: u32| match limit {
        Some(kib) => format!("{kib} (local)"),
        None => format!("{default} (system)"),
    };
    let running = array.sync.as_ref();
    let completed = running.map_or("none".to_owned(), |sync| {
        format!("{} / {}", sync.done_sectors, sync.total_sectors)
    });
    let current = running.map_or("none".to_owned(), |sync| sync.speed_kib_s.to_string());
    let max = array.sync_max_sectors;
    let max = max.map_or("max".to_owned(), |sectors| sectors.to_string());
    let fastest = speed(array.sync_speed_max_kib_s, NO_LIMIT_KIB_S);
    named([
        ("sync_action", writable(&array.sync_action)),
        ("last_sync_action", read_only(last)),
        ("mismatch_cnt", read_only(array.mismatch_cnt)),
        (
            "sync_speed_min",
            writable(speed(array.sync_speed_min_kib_s, 0)),
        ),
        ("sync_speed_max", writable(fastest)),
        ("sync_speed", read_only(current)),
        ("sync_completed", read_only(completed)),
        ("sync_min", writable(array.sync_min_sectors)),
        ("sync_max", writable(max)),
        ("sync_force_parallel", fixed("sync_force_parallel")),
        ("suspend_lo", writable(array.suspend_lo_sectors)),
        ("suspend_hi", writable(array.suspend_hi_sectors)),
        ("degraded", read_only(array.degraded)),
        ("bitmap_set_bits", attribute(None, true)),
    ])
}

fn parity() -> Entries {
    named([
        ("stripe_cache_size", fixed("stripe_cache_size")),
        (
            "preread_bypass_threshold",
            fixed("preread_bypass_threshold"),
        ),
        ("stripe_cache_active", read_only(0)),
        ("skip_copy", fixed("skip_copy")),
        ("group_thread_cnt", fixed("group_thread_cnt")),
        ("rmw_level", fixed("rmw_level")),
        ("stripe_size", read_only(4096)),
        ("ppl_write_hint", fixed("ppl_write_hint")),
        ("journal_mode", writable("")),
    ])
}
