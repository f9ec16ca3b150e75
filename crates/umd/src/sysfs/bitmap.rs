//! The attributes in `md/bitmap/`. As in kernel 6.1 the directory is there without a bitmap too.

use super::{Entries, named, writable};
use crate::doc::ArrayDoc;

/// The directory.
pub fn of(array: &ArrayDoc) -> Entries {
    let bitmap = array.bitmap.as_ref();
    let number = |value: Option<u64>| writable(value.unwrap_or(0));
    // Bits may not be cleared while a member that lacks the writes can come back.
    let can_clear = match bitmap {
        None => "",
        Some(_) if array.degraded > 0 => "false",
        Some(_) => "true",
    };
    named([
        ("location", writable(location(array))),
        ("space", number(None)),
        (
            "time_base",
            number(bitmap.map(|b| b.daemon_sleep_seconds.into())),
        ),
        ("backlog", number(bitmap.map(|b| b.write_behind.into()))),
        ("chunksize", number(bitmap.map(|b| b.chunk_bytes))),
        ("metadata", writable("internal")),
        ("can_clear", writable(can_clear)),
    ])
}

/// Where the bitmap is.
pub fn location(array: &ArrayDoc) -> String {
    match &array.bitmap {
        None => "none".to_owned(),
        Some(bitmap) if bitmap.kind == "file" => "file".to_owned(),
        Some(bitmap) => format!("{:+}", bitmap.offset_sectors),
    }
}
