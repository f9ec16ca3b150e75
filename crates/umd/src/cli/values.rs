//! Option values: from mdadm's words to numbers, and mdadm's sentences when they make no sense.

use std::path::{Path, PathBuf};

use umd_format::Format;
use umd_format::bitmap::NODES_MAX;
use umd_format::create::NODES_MIN;

use crate::api::Limit;
use crate::units;
use crate::words;

use super::outcome::Failure;

/// `1` or `0`, or a word for it.
///
/// # Errors
/// When it is neither.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "yes" | "on" => Ok(true),
        "0" | "no" | "off" => Ok(false),
        _ => Err("it is 1 or 0".to_owned()),
    }
}

/// Chunk of the levels that have one, when none is given: 512 KiB.
pub const CHUNK_SECTORS_DEFAULT: u32 = 1024;

/// The longest array name.
const NAME_BYTES_MAX: usize = 32;

/// A level this version runs.
///
/// # Errors
/// When it is no level, or one of a later round.
pub fn level(word: &str) -> Result<i32, Failure> {
    let level = words::level_number(word)
        .ok_or_else(|| Failure::usage(format!("invalid raid level: {word}")))?;
    if !words::level_runs(level) {
        let name = words::level_name(level).unwrap_or(word);
        return Err(Failure::usage(format!(
            "{name} is not available in this version; linear, raid0, raid1, raid4, raid5, raid6, \
             raid10 and faulty are"
        )));
    }
    Ok(level)
}

/// A number of devices.
///
/// # Errors
/// When it is no number, or zero.
pub fn raid_devices(text: &str) -> Result<u16, Failure> {
    match text.parse::<u16>() {
        Ok(count) if (1..=1920).contains(&count) => Ok(count),
        _ => Err(Failure::usage(format!(
            "invalid number of raid devices: {text}"
        ))),
    }
}

/// A number of spares.
///
/// # Errors
/// When it is no number.
pub fn spare_devices(text: &str) -> Result<u16, Failure> {
    match text.parse::<u16>() {
        Ok(count) if count <= 1920 => Ok(count),
        _ => Err(Failure::usage(format!(
            "invalid number of spare-devices: {text}"
        ))),
    }
}

/// A chunk size in sectors.
///
/// # Errors
/// When it is none: not a size, zero, or too large.
pub fn chunk_sectors(text: &str) -> Result<u32, Failure> {
    let sectors = units::parse_sectors(text).and_then(|sectors| u32::try_from(sectors).ok());
    match sectors {
        Some(sectors) if sectors >= 2 => Ok(sectors),
        _ => Err(Failure::usage(format!(
            "invalid chunk/rounding value: {text}"
        ))),
    }
}

/// The size to use of each device; `None` for `max`.
///
/// # Errors
/// When it is no size, or zero.
pub fn size_sectors(text: &str) -> Result<Option<u64>, Failure> {
    if text == "max" {
        return Ok(None);
    }
    match units::parse_sectors(text) {
        Some(sectors) if sectors > 0 => Ok(Some(sectors)),
        _ => Err(Failure::usage(format!("invalid size: {text}"))),
    }
}

/// Where a check begins, in sectors.
///
/// # Errors
/// When it is no size.
pub fn sync_min(text: &str) -> Result<u64, Failure> {
    units::parse_sectors(text)
        .ok_or_else(|| Failure::usage(format!("--from is a size such as 64M or 131072s: {text}")))
}

/// Where a sync action waits, in sectors, or `max`.
///
/// # Errors
/// When it is neither.
pub fn sync_max(text: &str) -> Result<Limit, Failure> {
    if text == "max" {
        return Ok(Limit::Word(text.to_owned()));
    }
    let sectors = units::parse_sectors(text).map(Limit::Number);
    sectors.ok_or_else(|| {
        Failure::usage(format!(
            "--to is a size such as 64M or 131072s, or max: {text}"
        ))
    })
}

/// A speed limit in KiB per second, or `system`.
///
/// # Errors
/// When it is neither, or nothing, or more than 32 bits hold.
pub fn speed_limit(name: &str, text: &str) -> Result<Limit, Failure> {
    if text == "system" {
        return Ok(Limit::Word(text.to_owned()));
    }
    let kib = units::parse_sectors(text).filter(|sectors| sectors.is_multiple_of(2));
    let kib = kib.map(|sectors| sectors / 2);
    let kib = kib.filter(|kib| *kib > 0 && u32::try_from(*kib).is_ok());
    kib.map(Limit::Number).ok_or_else(|| {
        Failure::usage(format!(
            "{name} is a speed in KiB per second such as 20000 or 20M, or system: {text}"
        ))
    })
}

/// A data offset in sectors.
///
/// # Errors
/// When it is no size, or the per-device form that belongs to a later round.
pub fn data_offset_sectors(text: &str) -> Result<u64, Failure> {
    if text == "variable" {
        return Err(Failure::usage(
            "--data-offset=variable is not available in this version; give one offset for all",
        ));
    }
    units::parse_sectors(text)
        .ok_or_else(|| Failure::usage(format!("invalid value for data-offset: {text}")))
}

/// A layout number for a level; the level's default when none is given.
///
/// # Errors
/// When the level has no such layout.
pub fn layout(level: i32, word: Option<&str>) -> Result<i32, Failure> {
    let Some(word) = word else {
        return Ok(words::layout_default(level));
    };
    let name = words::level_name(level).unwrap_or("this level");
    words::layout_number(level, word)
        .ok_or_else(|| Failure::usage(format!("layout {word} not understood for {name}.")))
}

/// A metadata version.
///
/// # Errors
/// When it is no metadata version, or one of a later round.
pub fn metadata(word: &str) -> Result<Format, Failure> {
    if let Some(format) = Format::parse(word).filter(|format| format.is_stored()) {
        return Ok(format);
    }
    if matches!(word, "ddf" | "imsm") {
        return Err(Failure::usage(format!(
            "metadata {word} is not available in this version; 0.90, 1.0, 1.1 and 1.2 are"
        )));
    }
    Err(Failure::usage(format!(
        "unrecognised metadata identifier: {word}"
    )))
}

/// A UUID.
///
/// # Errors
/// When it is none.
pub fn uuid(text: &str) -> Result<umd_format::Uuid, Failure> {
    let compact: String = text.chars().filter(|c| !matches!(c, '.' | ' ')).collect();
    compact
        .parse()
        .map_err(|_| Failure::usage(format!("Bad uuid: {text}")))
}

/// What a bitmap is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BitmapWord {
    /// None.
    None,
    /// Bits on the members, version 4.
    Internal,
    /// States on the members, version 6.
    Lockless,
    /// Bits for each host of a cluster, version 5.
    Clustered,
    /// Bits in this file: an absolute path.
    File(String),
}

/// The file of a bitmap; as with mdadm, its path has a slash.
///
/// # Errors
/// When it has none.
pub fn bitmap_file(word: &str) -> Result<String, Failure> {
    if !word.contains('/') {
        return Err(Failure::usage(format!(
            "'{word}' is no bitmap file: its path must have a '/' in it, as ./{word}"
        )));
    }
    let path = absolute(word)?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(format!("{} is not a UTF-8 path", path.display())))
}

/// What a bitmap option asks for.
///
/// # Errors
/// When it is none.
pub fn bitmap(word: &str) -> Result<BitmapWord, Failure> {
    match word {
        "internal" => Ok(BitmapWord::Internal),
        "lockless" => Ok(BitmapWord::Lockless),
        "none" => Ok(BitmapWord::None),
        "clustered" => Ok(BitmapWord::Clustered),
        _ if word.contains('/') => bitmap_file(word).map(BitmapWord::File),
        _ => Err(Failure::usage(format!(
            "'{word}' is not a bitmap this version knows; internal, lockless, clustered, none and \
             ./FILE are"
        ))),
    }
}

/// Bytes one bit of the bitmap covers.
///
/// # Errors
/// When it is no power of two from 4 KiB to 2 GiB.
pub fn bitmap_chunk_bytes(text: &str) -> Result<u32, Failure> {
    let bytes = units::parse_sectors(text).and_then(|sectors| sectors.checked_mul(512));
    match bytes.and_then(|bytes| u32::try_from(bytes).ok()) {
        Some(bytes) if bytes.is_power_of_two() && bytes >= 4096 => Ok(bytes),
        _ => Err(Failure::usage(format!(
            "invalid bitmap chunksize: {text}; it is a power of two from 4K to 2G"
        ))),
    }
}

/// How many hosts can run a clustered array at the same time.
///
/// # Errors
/// When it is no number from 2 to 64.
pub fn nodes(text: &str) -> Result<u32, Failure> {
    let (least, most) = (NODES_MIN, NODES_MAX);
    match text.parse() {
        Ok(count) if (least..=most).contains(&count) => Ok(count),
        _ => Err(Failure::usage(format!(
            "invalid number of nodes: {text}; a clustered array has {least} to {most}"
        ))),
    }
}

/// Seconds between two sweeps that clear bits.
///
/// # Errors
/// When it is no whole number of seconds from 1 to a day: kernels refuse a bitmap without any.
pub fn bitmap_delay_seconds(text: &str) -> Result<u32, Failure> {
    match text.parse() {
        Ok(seconds) if (1..=BITMAP_DELAY_MAX_SECONDS).contains(&seconds) => Ok(seconds),
        _ => Err(Failure::usage(format!(
            "invalid delay: {text}; it is a whole number of seconds from 1 to \
             {BITMAP_DELAY_MAX_SECONDS}"
        ))),
    }
}

/// The longest delay between sweeps of the bitmap: a day.
pub const BITMAP_DELAY_MAX_SECONDS: u32 = 86_400;

/// How many writes may lag on write-mostly devices.
///
/// # Errors
/// In mdadm's words, when it is no number from 0 to 16383.
pub fn write_behind(text: &str) -> Result<u32, Failure> {
    match text.parse() {
        Ok(count) if count <= umd_format::bitmap::WRITE_BEHIND_MAX => Ok(count),
        _ => Err(Failure::usage(format!(
            "Invalid value for maximum outstanding write-behind writes: {text}. Must be between 0 \
             and 16383."
        ))),
    }
}

/// Whether a consistency policy asks for a bitmap.
///
/// # Errors
/// When it belongs to a later round, or is none.
pub fn consistency_policy(word: &str) -> Result<bool, Failure> {
    match word {
        "resync" => Ok(false),
        "bitmap" => Ok(true),
        "ppl" | "journal" => Err(Failure::usage(format!(
            "consistency policy {word} is not available in this version; resync and bitmap are"
        ))),
        _ => Err(Failure::usage(format!(
            "Invalid consistency policy: {word}"
        ))),
    }
}

/// The name an array runs under, from what the user typed: `/dev/md/foo` and `/dev/md0` are
/// accepted for `foo` and `md0`.
///
/// # Errors
/// When it cannot be a name.
pub fn array_name(text: &str) -> Result<String, Failure> {
    let name = text
        .strip_prefix("/dev/md/")
        .or_else(|| text.strip_prefix("/dev/"))
        .unwrap_or(text);
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '[' | ']' | ':');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with('.') {
        return Err(Failure::usage(format!(
            "'{text}' cannot be the name of an array: 1 to {NAME_BYTES_MAX} bytes are needed, \
             and no leading dot"
        )));
    }
    if name.contains(odd) {
        return Err(Failure::usage(format!(
            "'{text}' cannot be the name of an array: blanks, '/', ':', '[' and ']' are not allowed"
        )));
    }
    Ok(name.to_owned())
}

/// Whether the first word behind `assemble` or `serve` is a name and not a device: a `/dev/md`
/// path, or a word without a slash that names no file here.
pub fn is_array_name(text: &str) -> bool {
    if text.starts_with("/dev/md") {
        return true;
    }
    !text.contains('/') && !Path::new(text).is_file()
}

/// A path made absolute against the current directory, `.` and doubled slashes taken out. Symbolic
/// links are left as they are, and so is the URI of an export.
///
/// # Errors
/// When there is no current directory.
pub fn absolute(text: &str) -> Result<PathBuf, Failure> {
    if crate::member::is_elsewhere(text) {
        return Ok(text.into());
    }
    std::path::absolute(text)
        .map_err(|error| Failure::failed(format!("cannot make {text} an absolute path: {error}")))
}

/// The name to store in the superblock: `HOST:NAME` if that fits in 31 bytes, as mdadm does.
pub fn set_name(name: &str, homehost: Option<&str>, host: &str) -> String {
    if name.contains(':') {
        return name.to_owned();
    }
    let host = match homehost {
        None | Some("<system>") => host,
        Some("any" | "none" | "<none>" | "<ignore>" | "") => "",
        Some(given) => given,
    };
    let full = format!("{host}:{name}");
    if host.is_empty() || full.len() > 31 {
        name.to_owned()
    } else {
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        let failure = result.expect_err("refused");
        format!("{}: {}", failure.code, failure.text)
    }

    #[test]
    fn wrong_values_get_mdadms_sentences() {
        assert_eq!(text(level("17")), "2: invalid raid level: 17");
        assert_eq!(
            text(raid_devices("x")),
            "2: invalid number of raid devices: x"
        );
        assert_eq!(
            text(raid_devices("0")),
            "2: invalid number of raid devices: 0"
        );
        assert_eq!(
            text(chunk_sectors("x")),
            "2: invalid chunk/rounding value: x"
        );
        assert_eq!(text(size_sectors("x")), "2: invalid size: x");
        assert_eq!(
            text(layout(5, Some("foo"))),
            "2: layout foo not understood for raid5."
        );
        assert_eq!(
            text(metadata("7")),
            "2: unrecognised metadata identifier: 7"
        );
        assert_eq!(text(uuid("12")), "2: Bad uuid: 12");
    }

    #[test]
    fn later_rounds_are_refused_in_one_sentence() {
        for refused in [
            text(level("multipath")),
            text(metadata("ddf")),
            text(consistency_policy("ppl")),
            text(data_offset_sectors("variable")),
        ] {
            assert!(refused.starts_with("2: "), "{refused}");
            assert!(
                refused.contains("not available in this version"),
                "{refused}"
            );
        }
    }

    #[test]
    fn right_values_are_read() {
        assert_eq!(level("mirror"), Ok(1));
        assert_eq!(chunk_sectors("64"), Ok(128));
        assert_eq!(size_sectors("max"), Ok(None));
        assert_eq!(size_sectors("1G"), Ok(Some(2 << 20)));
        assert_eq!(layout(5, None), Ok(2));
        assert_eq!(layout(6, Some("ddf-N-continue")), Ok(10));
        assert_eq!(metadata("default"), Ok(Format::V1_2));
        assert_eq!(metadata("0.90"), Ok(Format::V090));
        assert_eq!(bitmap_chunk_bytes("64M"), Ok(64 << 20));
        assert_eq!(consistency_policy("bitmap"), Ok(true));
        assert_eq!(write_behind("16383"), Ok(16_383));
    }

    #[test]
    fn names_come_from_words_and_device_paths() {
        assert_eq!(array_name("r5").as_deref(), Ok("r5"));
        assert_eq!(array_name("/dev/md/home").as_deref(), Ok("home"));
        assert_eq!(array_name("/dev/md0").as_deref(), Ok("md0"));
        for bad in ["", "a b", "a/b", "..", ".x", "a[0]", "a:b", &"x".repeat(33)] {
            assert!(array_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stored_names_carry_the_host_when_it_fits() {
        assert_eq!(set_name("r5", None, "vm"), "vm:r5");
        assert_eq!(set_name("r5", Some("none"), "vm"), "r5");
        assert_eq!(set_name("r5", Some("nas"), "vm"), "nas:r5");
        assert_eq!(set_name("a:b", None, "vm"), "a:b");
        let long = "x".repeat(28);
        assert_eq!(set_name(&long, None, "vm"), format!("vm:{long}"));
        assert_eq!(
            set_name(&format!("{long}y"), None, "vm"),
            format!("{long}y")
        );
    }
}
