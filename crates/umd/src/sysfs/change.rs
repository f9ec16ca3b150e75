//! What is written to an attribute: a request for the control API, or why not.

use umd_format::FaultyLayout;

use super::attributes::{
    FIXED, component_kib, reshape_direction, reshape_position, resync_start, state_word,
};
use super::{Errno, bitmap, device_state, is_inactive, is_read_only, is_redundant, members};
use crate::api::{
    ActionRequest, BitmapRequest, LayoutRequest, Limit, ManageRequest, SettingsRequest,
};
use crate::doc::ArrayDoc;

/// What is to be asked of whoever runs the array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is so already.
    Nothing,
    /// Stop it.
    Stop,
    /// Bring it into a state: md's word.
    State(String),
    /// How it goes about its work.
    Settings(SettingsRequest),
    /// A sync action, or its limits.
    Action(ActionRequest),
    /// Hot changes, one after the other.
    Manage(Vec<ManageRequest>),
    /// Another bitmap, or none.
    Bitmap(BitmapRequest),
    /// One more device: `MAJOR:MINOR`, or an absolute path.
    NewDevice(String),
    /// How level faulty fails.
    Layout(LayoutRequest),
}

/// A change, or the error of the write.
pub type Answer = Result<Change, Errno>;

/// What a write of `text` to the attribute at `path` below `md/` asks for.
///
/// # Errors
/// What the kernel answers in the like case.
pub fn change(array: &ArrayDoc, path: &[&str], text: &str) -> Answer {
    let text = text.strip_suffix('\n').unwrap_or(text);
    match path {
        ["bitmap", name] => to_bitmap(array, name, text),
        [directory, name] => match members::find(array, directory) {
            Some(member) => device_state::attribute(array, member, name, text),
            None => Err(Errno::NODEV),
        },
        [name] => to_array(array, name, text),
        _ => Err(Errno::ACCESS),
    }
}

fn to_array(array: &ArrayDoc, name: &str, text: &str) -> Answer {
    if let Some((_, current, least, most)) = FIXED.iter().find(|(known, ..)| *known == name) {
        let range = *least..=*most;
        return settled(text, &current.to_string(), |text| {
            text.parse::<u64>()
                .is_ok_and(|number| range.contains(&number))
        });
    }
    match name {
        "level" | "layout" | "raid_disks" | "chunk_size" | "component_size" => {
            geometry(array, name, text)
        }
        "metadata_version" => metadata(text),
        "new_dev" => new_device(text),
        "array_state" => array_state(array, text),
        "resync_start" => settled(text, &resync_start(array), |text| {
            text == "none" || text.parse::<u64>().is_ok()
        }),
        "safe_mode_delay" | "max_read_errors" | "fail_last_dev" => settings(array, name, text),
        "array_size" => array_size(array, text),
        "reshape_position" => settled(text, &reshape_position(array), |text| {
            text == "none" || text.parse::<u64>().is_ok()
        }),
        "reshape_direction" => settled(text, reshape_direction(array), |text| {
            matches!(text, "forwards" | "backwards")
        }),
        "consistency_policy" => policy(array, text),
        "serialize_policy" => match array.level_number {
            1 => settled(text, "0", |text| text == "1"),
            _ => Err(Errno::INVAL),
        },
        "journal_mode" => Err(Errno::NODEV),
        _ if is_redundant(array) => sync(array, name, text),
        _ => Err(Errno::ACCESS),
    }
}

/// md takes the numbers of a block device. Members may be files here, which have none: those are
/// named by where they are.
fn new_device(text: &str) -> Answer {
    let number = |text: &str| text.parse::<u32>().is_ok();
    let numbers = text
        .split_once(':')
        .is_some_and(|(major, minor)| number(major) && number(minor));
    match numbers || text.len() > 1 && text.starts_with('/') {
        true => Ok(Change::NewDevice(text.to_owned())),
        false => Err(Errno::INVAL),
    }
}

/// An attribute that nothing can change while the array runs.
fn settled(text: &str, current: &str, makes_sense: impl Fn(&str) -> bool) -> Answer {
    match text {
        _ if text == current => Ok(Change::Nothing),
        _ if makes_sense(text) => Err(Errno::BUSY),
        _ => Err(Errno::INVAL),
    }
}

fn settings(array: &ArrayDoc, name: &str, text: &str) -> Answer {
    let mut request = SettingsRequest::default();
    match name {
        "safe_mode_delay" => request.safe_mode_delay_ms = Some(milliseconds(text)?),
        "fail_last_dev" => request.fail_last_dev = Some(switch(text)?),
        "suspend_lo" => request.suspend_lo_sectors = Some(text.parse().map_err(|_| Errno::INVAL)?),
        "suspend_hi" => request.suspend_hi_sectors = Some(text.parse().map_err(|_| Errno::INVAL)?),
        _ => request.max_read_errors = Some(text.parse().map_err(|_| Errno::INVAL)?),
    }
    match is_inactive(array) {
        true => Err(Errno::BUSY),
        false => Ok(Change::Settings(request)),
    }
}

/// What kernels take for a truth value.
fn switch(text: &str) -> Result<bool, Errno> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "y" | "on" => Ok(true),
        "0" | "n" | "off" => Ok(false),
        _ => Err(Errno::INVAL),
    }
}

/// Seconds with a fraction, of which three digits count.
fn milliseconds(text: &str) -> Result<u32, Errno> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if !is_seconds(text) {
        return Err(Errno::INVAL);
    }
    let part: String = part.chars().chain("00".chars()).take(3).collect();
    let ms = |text: &str| text.parse::<u32>().map_err(|_| Errno::INVAL);
    let whole = ms(whole)?.checked_mul(1000).ok_or(Errno::INVAL)?;
    whole.checked_add(ms(&part)?).ok_or(Errno::INVAL)
}

fn is_seconds(text: &str) -> bool {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(whole) && digits(part)
}

fn geometry(array: &ArrayDoc, name: &str, text: &str) -> Answer {
    let number = text.parse::<u64>().ok();
    let current = match name {
        "level" => array.level.clone(),
        "layout" => array.layout_number.to_string(),
        "raid_disks" => array.raid_disks.to_string(),
        "chunk_size" => array.chunk_bytes.to_string(),
        _ => component_kib(array).to_string(),
    };
    if text == current {
        return Ok(Change::Nothing);
    }
    if name == "layout" && array.level_number == -5 {
        return faulty_layout(text);
    }
    match name {
        "layout" if text.parse::<i32>().is_err() => return Err(Errno::INVAL),
        "raid_disks" if number.is_none_or(|n| n == 0) => return Err(Errno::INVAL),
        "chunk_size" if number.is_none_or(|n| !n.is_power_of_two() || n < 4096) => {
            return Err(Errno::INVAL);
        }
        "component_size" if number.is_none() => return Err(Errno::INVAL),
        _ => {}
    }
    let room = array.members.iter().map(|m| m.data_size_bytes / 1024).min();
    match name {
        _ if is_read_only(array) => Err(Errno::ROFS),
        "level" if array.is_syncing() => Err(Errno::BUSY),
        "level" | "raid_disks" => Err(Errno::INVAL),
        "component_size" if number > room => Err(Errno::NOSPC),
        _ => Err(Errno::BUSY),
    }
}

fn faulty_layout(text: &str) -> Answer {
    let raw = text.parse::<u32>().map_err(|_| Errno::INVAL)?;
    let layout = FaultyLayout::parse(raw).ok_or(Errno::INVAL)?;
    Ok(Change::Layout(LayoutRequest {
        layout: layout.to_string(),
    }))
}

/// Members are there, so none of what makes sense can be done.
fn metadata(text: &str) -> Answer {
    if text == "none" || text.starts_with("external:") {
        return Err(Errno::BUSY);
    }
    let (major, minor) = text.split_once('.').ok_or(Errno::INVAL)?;
    let (Ok(major), Ok(_)) = (major.parse::<u32>(), minor.parse::<u32>()) else {
        return Err(Errno::INVAL);
    };
    Err(if major > 1 { Errno::NOENT } else { Errno::BUSY })
}

fn array_size(array: &ArrayDoc, text: &str) -> Answer {
    match text.parse::<u64>() {
        _ if text == "default" => Ok(Change::Nothing),
        Err(_) => Err(Errno::INVAL),
        Ok(kib) if kib > array.array_bytes / 1024 => Err(Errno::TOOBIG),
        Ok(kib) if kib == array.array_bytes / 1024 => Ok(Change::Nothing),
        Ok(_) => Err(Errno::BUSY),
    }
}

fn policy(array: &ArrayDoc, text: &str) -> Answer {
    match text {
        _ if text == array.consistency_policy => Ok(Change::Nothing),
        "ppl" | "resync" if array.level_number == 5 => Err(Errno::BUSY),
        _ => Err(Errno::INVAL),
    }
}

fn array_state(array: &ArrayDoc, text: &str) -> Answer {
    let current = state_word(array);
    let state = |word: &str| Ok(Change::State(word.to_owned()));
    let waits = matches!(current, "readonly" | "read-auto" | "inactive");
    match text {
        "clear" => Ok(Change::Stop),
        "readonly" if current == text => Err(Errno::NXIO),
        "inactive" | "read-auto" | "clean" if current == text => Ok(Change::Nothing),
        // One that does not run is started as it is asked to be, by `active` alone.
        "readonly" | "read-auto" if current == "inactive" => Err(Errno::BUSY),
        "clean" if current == "inactive" => Err(Errno::INVAL),
        "active" if current == "broken" => Err(Errno::BUSY),
        "active" if !waits => Ok(Change::Nothing),
        "active" | "inactive" | "readonly" | "read-auto" | "clean" => state(text),
        _ => Err(Errno::INVAL),
    }
}

fn sync(array: &ArrayDoc, name: &str, text: &str) -> Answer {
    let limit = |request| Ok(Change::Action(request));
    let none = ActionRequest::default();
    let number = text.parse::<u64>();
    match name {
        "sync_action" => sync_action(array, text),
        "suspend_lo" | "suspend_hi" => settings(array, name, text),
        "sync_min" if array.is_syncing() => Err(Errno::BUSY),
        "sync_min" => {
            let from = number.map_err(|_| Errno::INVAL)?;
            if array.sync_max_sectors.is_some_and(|max| from > max) {
                return Err(Errno::INVAL);
            }
            limit(ActionRequest {
                sync_min: Some(from),
                ..none
            })
        }
        "sync_max" => {
            let to = match number {
                Ok(to) if to < array.sync_min_sectors => return Err(Errno::INVAL),
                Ok(to) => Limit::Number(to),
                Err(_) if text == "max" => Limit::Word(text.to_owned()),
                Err(_) => return Err(Errno::INVAL),
            };
            limit(ActionRequest {
                sync_max: Some(to),
                ..none
            })
        }
        "sync_speed_min" => limit(ActionRequest {
            sync_speed_min: Some(speed(text)?),
            ..none
        }),
        "sync_speed_max" => limit(ActionRequest {
            sync_speed_max: Some(speed(text)?),
            ..none
        }),
        // Nothing is owed for what the bitmap does not know: as in md, junk is no error either.
        "bitmap_set_bits" => set_bits(array, text),
        _ => Err(Errno::ACCESS),
    }
}

/// In md this always succeeds; bits that umd does not set must not look set.
fn set_bits(array: &ArrayDoc, text: &str) -> Answer {
    let bits = |word: &str| word.split('-').any(|bit| bit.trim().parse::<u64>().is_ok());
    match array.bitmap.is_some() && text.split([' ', ',']).any(bits) {
        true => Err(Errno::BUSY),
        false => Ok(Change::Nothing),
    }
}

fn speed(text: &str) -> Result<Limit, Errno> {
    match text.parse::<u32>() {
        Ok(1..) => Ok(Limit::Number(text.parse().map_err(|_| Errno::INVAL)?)),
        _ if text == "system" => Ok(Limit::Word(text.to_owned())),
        _ => Err(Errno::INVAL),
    }
}

fn sync_action(array: &ArrayDoc, text: &str) -> Answer {
    let stops = matches!(text, "idle" | "frozen");
    // What was asked for and has not begun counts as well.
    let runs = !matches!(&*array.sync_action, "idle" | "frozen");
    if runs && !stops {
        return Err(Errno::BUSY);
    }
    match text {
        "idle" | "frozen" => {}
        "check" | "repair" | "resync" | "recover" if is_read_only(array) => {
            return Err(Errno::ROFS);
        }
        "check" | "repair" | "resync" | "recover" => {}
        _ => return Err(Errno::INVAL),
    }
    Ok(Change::Action(ActionRequest {
        action: Some(text.to_owned()),
        ..ActionRequest::default()
    }))
}

fn to_bitmap(array: &ArrayDoc, name: &str, text: &str) -> Answer {
    let bitmap = array.bitmap.as_ref();
    let number = text.parse::<u64>().ok();
    let value = |current: u64| settled(text, &current.to_string(), |_| number.is_some());
    match name {
        "location" => location(array, text),
        "space" if number.is_some_and(|n| n > 0) => Err(Errno::BUSY),
        "space" => Err(Errno::INVAL),
        "time_base" => {
            let seconds = bitmap.map_or(0, |b| b.daemon_sleep_seconds);
            settled(text, &seconds.to_string(), is_seconds)
        }
        "backlog" if number.is_none_or(|n| n > 16_383) => Err(Errno::INVAL),
        "backlog" if number != Some(0) && !array.members.iter().any(|m| m.write_mostly) => {
            Err(Errno::INVAL)
        }
        "backlog" => value(bitmap.map_or(0, |b| b.write_behind.into())),
        "chunksize" if number.is_none_or(|n| n < 512 || !n.is_power_of_two()) => Err(Errno::INVAL),
        "chunksize" => Err(Errno::BUSY),
        "metadata" => match text {
            "internal" | "external" | "clustered" if bitmap.is_some() => Err(Errno::BUSY),
            "internal" => Ok(Change::Nothing),
            "external" | "clustered" => Err(Errno::BUSY),
            _ => Err(Errno::INVAL),
        },
        "can_clear" => match (bitmap, text) {
            (None, _) => Err(Errno::NOENT),
            (Some(_), "true") if array.degraded > 0 => Err(Errno::BUSY),
            (Some(_), "true") | (Some(_), "false") => {
                let current = if array.degraded > 0 { "false" } else { "true" };
                settled(text, current, |_| true)
            }
            _ => Err(Errno::INVAL),
        },
        _ => Err(Errno::ACCESS),
    }
}

fn location(array: &ArrayDoc, text: &str) -> Answer {
    let offset = text.parse::<i32>().ok().filter(|offset| *offset != 0);
    let known = bitmap::location(array);
    let new = match (text, offset) {
        ("none", _) => BitmapRequest::default(),
        // Kernels take no file here; members that are files make it worth having.
        (path, _) if path.len() > 1 && path.starts_with('/') => BitmapRequest {
            file: Some(path.to_owned()),
            ..BitmapRequest::default()
        },
        // Whether it fits there the engine knows, which knows the members.
        (_, Some(_)) => BitmapRequest {
            internal: true,
            offset_sectors: offset,
            ..BitmapRequest::default()
        },
        _ => return Err(Errno::INVAL),
    };
    match text {
        "none" if known == "none" => Ok(Change::Nothing),
        _ if !is_redundant(array) || array.is_syncing() => Err(Errno::BUSY),
        "none" => Ok(Change::Bitmap(new)),
        _ if known != "none" => Err(Errno::BUSY),
        _ => Ok(Change::Bitmap(new)),
    }
}
