//! `umd examine`: mdadm's `--examine`, byte for byte as mdadm 4.2 prints it.
//!
//! Labels end at column 15 and ` : ` separates. A superblock that is damaged or unknown is shown
//! all the same: this is the command people use to find out what is wrong.

use std::fmt::Write;

use umd_format::Format;
use umd_format::v1::{DeviceFlags, Features, Fields, PplPlace, Role, Unverified};
use umd_format::v090::{Descriptor, SuperblockV090};
use umd_format::{Level, SECTOR_MAX};

use crate::units::{human_brief_decimal, human_tail};
use crate::words;

use super::{Context, short_name};

/// What mdadm reserves behind a superblock before it counts space as unused.
const RESERVED_SECTORS: i128 = 72;

/// A v1 superblock and what was learnt about its device.
#[derive(Debug, Clone)]
pub struct Examined {
    /// The device as the user named it.
    pub name: String,
    /// Its size.
    pub device_sectors: u64,
    /// The superblock, as found.
    pub superblock: Unverified,
    /// Size of the bitmap in sectors, if one was found where the superblock says.
    pub bitmap_sectors: Option<u64>,
    /// Its version.
    pub bitmap_version: Option<u32>,
    /// The cluster that its bitmap belongs to.
    pub cluster: Option<String>,
}

impl Examined {
    fn fields(&self) -> &Fields {
        self.superblock.fields()
    }

    /// The set name without padding.
    pub fn set_name(&self) -> String {
        let name = &self.fields().set_name;
        let end = name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    }

    /// This device's role in the array.
    pub fn role(&self) -> Role {
        let fields = self.fields();
        let number = fields.dev_number as usize;
        fields.roles.get(number).copied().unwrap_or(Role::Spare)
    }

    /// Whether it holds a place among the active ones (a replacement does not).
    pub fn is_active(&self) -> bool {
        matches!(self.role(), Role::Active(_))
            && !self.fields().features.contains(Features::REPLACEMENT)
    }

    /// Size of the array, where the superblock alone tells it.
    pub fn array_bytes(&self) -> Option<u64> {
        array_bytes(self.fields())
    }
}

/// The level's name, or mdadm's words for none.
fn level_word(level: Level) -> &'static str {
    words::level_name(level.to_raw()).unwrap_or("-unknown-")
}

struct Lines(String);

impl Lines {
    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{label:>15} : {value}");
    }

    fn blank(&mut self) {
        self.0.push('\n');
    }
}

/// Bytes of the array, for the levels where one superblock tells.
pub fn array_bytes(fields: &Fields) -> Option<u64> {
    let disks = u64::from(fields.raid_disks);
    let members = match fields.level {
        Level::Raid1 => 1,
        Level::Raid4 | Level::Raid5 => disks.checked_sub(1)?,
        Level::Raid6 => disks.checked_sub(2)?,
        Level::Raid10 => {
            let copies = u64::from((fields.layout & 0xff) * (fields.layout >> 8 & 0xff));
            return (fields.size_sectors.checked_mul(disks)?.checked_mul(512)?).checked_div(copies);
        }
        _ => return None,
    };
    fields.size_sectors.checked_mul(members)?.checked_mul(512)
}

/// The full form for a v1 superblock.
pub fn examine(found: &Examined, context: &Context) -> String {
    let fields = found.fields();
    let mut out = Lines(format!("{}:\n", found.name));
    let name = found.set_name();
    out.line("Magic", "a92b4efc");
    out.line("Version", found.superblock.format());
    out.line("Feature Map", format_args!("{:#x}", fields.features.0));
    out.line("Array UUID", fields.set_uuid);
    out.line("Name", format_args!("{name}{}", context.local_tail(&name)));
    if let Some(cluster) = &found.cluster {
        out.line("Cluster Name", format_args!("{cluster:<64}"));
    }
    out.line("Creation Time", context.time(fields.ctime.seconds()));
    out.line("Raid Level", level_word(fields.level));
    out.line("Raid Devices", fields.raid_disks);
    out.blank();
    sizes(&mut out, found);
    out.line(
        "State",
        if fields.resync_offset_sectors == SECTOR_MAX {
            "clean"
        } else {
            "active"
        },
    );
    out.line("Device UUID", fields.device_uuid);
    out.blank();
    areas(&mut out, fields, context);
    let (stored, computed) = (
        found.superblock.stored_checksum(),
        found.superblock.computed_checksum(),
    );
    if stored == computed {
        out.line("Checksum", format_args!("{stored:x} - correct"));
    } else {
        out.line(
            "Checksum",
            format_args!("{stored:x} - expected {computed:x}"),
        );
    }
    out.line("Events", fields.events);
    out.blank();
    geometry(&mut out, fields);
    out.blank();
    // These two labels end one column earlier than all others.
    let _ = writeln!(out.0, "   Device Role : {}", role_words(found));
    let letters = "('A' == active, '.' == missing, 'R' == replacing)";
    let _ = writeln!(out.0, "   Array State : {} {letters}", slot_letters(fields));
    out.0
}

fn sectors_with_tail(sectors: u64) -> String {
    format!(
        "{sectors} sectors{}",
        human_tail(sectors.saturating_mul(512))
    )
}

fn sizes(out: &mut Lines, found: &Examined) {
    let fields = found.fields();
    out.line(
        "Avail Dev Size",
        sectors_with_tail(fields.data_size_sectors),
    );
    if let Some(bytes) = found.array_bytes() {
        out.line(
            "Array Size",
            format_args!("{} KiB{}", bytes / 1024, human_tail(bytes)),
        );
    }
    if fields.level != Level::Raid0 && fields.size_sectors != fields.data_size_sectors {
        out.line("Used Dev Size", sectors_with_tail(fields.size_sectors));
    }
    if fields.data_offset_sectors != 0 {
        out.line(
            "Data Offset",
            format_args!("{} sectors", fields.data_offset_sectors),
        );
    }
    if fields.features.contains(Features::NEW_OFFSET) {
        let new = i128::from(fields.data_offset_sectors) + i128::from(fields.new_offset_sectors);
        out.line("New Offset", format_args!("{new} sectors"));
    }
    out.line(
        "Super Offset",
        format_args!("{} sectors", fields.super_offset_sectors),
    );
    if fields.features.contains(Features::RECOVERY_OFFSET) {
        out.line(
            "Recovery Offset",
            format_args!("{} sectors", fields.recovery_offset_raw),
        );
    }
    if let Some((before, after)) = unused(found) {
        let text = format_args!("before={before} sectors, after={after} sectors");
        out.line("Unused Space", text);
    }
}

/// Sectors nobody uses before and behind the data; `None` where mdadm does not say.
fn unused(found: &Examined) -> Option<(i128, i128)> {
    let fields = found.fields();
    if fields.features.contains(Features::NEW_OFFSET) {
        return None;
    }
    let used = match (fields.level, fields.size_sectors) {
        (Level::Faulty, _) | (_, 0) => i128::from(fields.data_size_sectors),
        (_, size) => i128::from(size),
    };
    let super_offset = i128::from(fields.super_offset_sectors);
    let data_offset = i128::from(fields.data_offset_sectors);
    let bitmap = bitmap_offset(fields);
    let bblog = i128::from(fields.bblog_offset_sectors);
    if found.superblock.format() == Format::V1_0 {
        let kept = bitmap.map_or(0, |offset| -offset).max(-bblog).max(0);
        return Some((data_offset, super_offset - data_offset - used - kept));
    }
    let mut first_free = super_offset + RESERVED_SECTORS;
    if bblog > 0 {
        first_free = first_free.max(super_offset + bblog + i128::from(fields.bblog_size_sectors));
    }
    if let (Some(offset), Some(sectors)) = (bitmap, found.bitmap_sectors) {
        first_free = first_free.max(super_offset + offset + i128::from(sectors));
    }
    if let Some(PplPlace {
        offset_sectors,
        size_sectors,
    }) = fields.ppl()
    {
        let end = i128::from(offset_sectors) + i128::from(size_sectors);
        first_free = first_free.max(super_offset + end);
    }
    let before = data_offset - first_free;
    let after = i128::from(found.device_sectors) - data_offset - used;
    (before >= 0).then_some((before, after))
}

fn bitmap_offset(fields: &Fields) -> Option<i128> {
    let has = fields.features.contains(Features::BITMAP_OFFSET);
    has.then_some(i128::from(fields.bitmap_offset_raw as i32))
}

/// Bitmap or PPL, reshape, flags, update time and bad-block log, in mdadm's order.
fn areas(out: &mut Lines, fields: &Fields, context: &Context) {
    if let Some(offset) = bitmap_offset(fields) {
        out.line(
            "Internal Bitmap",
            format_args!("{offset} sectors from superblock"),
        );
    }
    if let Some(ppl) = fields.ppl() {
        let (size, offset) = (ppl.size_sectors, ppl.offset_sectors);
        let text = format_args!("{size} sectors at offset {offset} sectors from superblock");
        out.line("PPL", text);
    }
    if fields.features.contains(Features::RESHAPE_ACTIVE) {
        reshape(out, fields);
    }
    let flags = [
        (DeviceFlags::WRITE_MOSTLY, "write-mostly"),
        (DeviceFlags::FAILFAST, "failfast"),
    ];
    let set: Vec<&str> = flags
        .iter()
        .filter(|(flag, _)| fields.flags.contains(*flag))
        .map(|(_, word)| *word)
        .collect();
    if !set.is_empty() {
        out.line("Flags", set.join(" "));
    }
    out.line("Update Time", context.time(fields.utime.seconds()));
    if fields.bblog_size_sectors != 0 && fields.bblog_offset_sectors != 0 {
        let present = if fields.features.contains(Features::BAD_BLOCKS) {
            " - bad blocks present."
        } else {
            ""
        };
        let entries = u32::from(fields.bblog_size_sectors) * 512 / 8;
        let offset = fields.bblog_offset_sectors;
        let text = format_args!("{entries} entries available at offset {offset} sectors{present}");
        out.line("Bad Block Log", text);
    }
}

fn reshape(out: &mut Lines, fields: &Fields) {
    let kib = fields.reshape_position_sectors / 2;
    let tail = human_tail(fields.reshape_position_sectors.saturating_mul(512));
    out.line("Reshape pos'n", format_args!("{kib}{tail}"));
    if fields.delta_disks != 0 {
        let new = i64::from(fields.raid_disks);
        let old = new - i64::from(fields.delta_disks);
        out.line(
            "Delta Devices",
            format_args!("{} ({old}->{new})", fields.delta_disks),
        );
    }
    if fields.new_level != fields.level {
        out.line("New Level", level_word(fields.new_level));
    }
    if fields.new_layout != fields.layout {
        let name = words::layout_name(fields.level.to_raw(), fields.new_layout as i32);
        out.line("New Layout", name.as_deref().unwrap_or("-unknown-"));
    }
    if fields.new_chunk_sectors != fields.chunk_sectors {
        out.line(
            "New Chunksize",
            format_args!("{}K", fields.new_chunk_sectors / 2),
        );
    }
    out.blank();
}

fn geometry(out: &mut Lines, fields: &Fields) {
    let layout = words::layout_name(fields.level.to_raw(), fields.layout as i32);
    let said = match fields.level {
        Level::Raid0 => fields.features.contains(Features::RAID0_LAYOUT),
        Level::Raid5 | Level::Raid6 | Level::Raid10 => true,
        _ => false,
    };
    if said {
        out.line("Layout", layout.as_deref().unwrap_or("-unknown-"));
    }
    if fields.level.is_striped() {
        out.line("Chunk Size", format_args!("{}K", fields.chunk_sectors / 2));
    } else if fields.level == Level::Linear {
        out.line("Rounding", format_args!("{}K", fields.chunk_sectors / 2));
    }
}

fn role_words(found: &Examined) -> String {
    let replacement = found.fields().features.contains(Features::REPLACEMENT);
    match found.role() {
        Role::Active(slot) if replacement => format!("Replacement device {slot}"),
        Role::Active(slot) => format!("Active device {slot}"),
        Role::Journal => "Journal".to_owned(),
        Role::Spare | Role::Faulty => "spare".to_owned(),
    }
}

/// One letter per slot; a shrinking array still has its old ones.
pub fn slot_letters(fields: &Fields) -> String {
    let mut slots = i64::from(fields.raid_disks);
    if fields.features.contains(Features::RESHAPE_ACTIVE) {
        slots -= i64::from(fields.delta_disks.min(0));
    }
    let holders = |slot: i64| {
        let held = |role: &&Role| matches!(role, Role::Active(s) if i64::from(*s) == slot);
        fields.roles.iter().filter(held).count()
    };
    (0..slots.clamp(0, i64::from(u16::MAX)))
        .map(|slot| match holders(slot) {
            0 => '.',
            1 => 'A',
            _ => 'R',
        })
        .collect()
}

/// `--export`: lines for a shell.
pub fn export(found: &Examined) -> String {
    let fields = found.fields();
    let name = found.set_name();
    let mut out = format!(
        "MD_LEVEL={}\nMD_DEVICES={}\n",
        words::level_name(fields.level.to_raw()).unwrap_or("unknown"),
        fields.raid_disks
    );
    if !name.is_empty() {
        let _ = writeln!(out, "MD_NAME={name}");
    }
    if let Some(bytes) = found.array_bytes() {
        let _ = writeln!(out, "MD_ARRAY_SIZE={}", human_brief_decimal(bytes));
    }
    let _ = write!(
        out,
        "MD_UUID={}\nMD_UPDATE_TIME={}\nMD_DEV_UUID={}\nMD_EVENTS={}\n",
        fields.set_uuid,
        fields.utime.seconds(),
        fields.device_uuid,
        fields.events
    );
    out
}

/// `--brief` and `--scan`: one entry per array, for a configuration file. `verbose` adds level,
/// number of devices and the devices seen.
pub fn brief(found: &[Examined], verbose: bool) -> String {
    let mut groups: Vec<Vec<&Examined>> = Vec::new();
    for one in found {
        let key = |e: &Examined| {
            let f = e.fields();
            (
                f.set_uuid,
                f.level,
                f.raid_disks,
                f.ctime,
                e.superblock.format(),
            )
        };
        match groups.iter_mut().find(|group| key(group[0]) == key(one)) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    // mdadm lists the array found last first.
    groups
        .iter()
        .rev()
        .map(|group| brief_entry(group, verbose))
        .collect()
}

fn brief_entry(group: &[&Examined], verbose: bool) -> String {
    let first = group[0];
    let fields = first.fields();
    let name = first.set_name();
    let mut out = String::from("ARRAY ");
    if !name.is_empty() {
        let _ = write!(out, "/dev/md/{} ", short_name(&name));
    }
    if verbose {
        let _ = write!(out, " level={}", level_word(fields.level));
    }
    let _ = write!(out, " metadata={}", first.superblock.format());
    if verbose {
        let _ = write!(out, " num-devices={}", fields.raid_disks);
    }
    let _ = write!(out, " UUID={}", fields.set_uuid);
    if !name.is_empty() {
        let _ = write!(out, " name={name}");
    }
    out.push('\n');
    let spares = group.iter().filter(|one| !one.is_active()).count();
    if spares > 0 {
        let _ = write!(out, "   spares={spares}");
    }
    if verbose {
        let names: Vec<&str> = group.iter().map(|one| one.name.as_str()).collect();
        let _ = write!(out, "   devices={}", names.join(","));
    }
    if spares > 0 || verbose {
        out.push('\n');
    }
    out
}

/// The full form for a v0.90 superblock.
pub fn examine_v090(name: &str, found: &SuperblockV090, context: &Context) -> String {
    let fields = found.shown(0);
    let mut out = Lines(format!("{name}:\n"));
    let bytes = u64::from(found.size_kib) * 1024;
    let size = |bytes: u64| format!("{}{}", bytes / 1024, human_tail(bytes));
    out.line("Magic", "a92b4efc");
    out.line("Version", format_args!("0.{}.00", found.minor));
    let host = context.local_uuid_tail(found.uuid);
    out.line("UUID", format_args!("{}{host}", found.uuid));
    out.line("Creation Time", context.time(found.ctime_seconds.into()));
    out.line("Raid Level", level_word(found.level));
    if found.level.is_redundant() {
        out.line("Used Dev Size", size(bytes));
        out.line("Array Size", size(array_bytes(&fields).unwrap_or(0)));
    }
    out.line("Raid Devices", found.raid_disks);
    out.line("Total Devices", found.nr_disks);
    out.line("Preferred Minor", found.md_minor);
    out.blank();
    out.line("Update Time", context.time(found.utime_seconds.into()));
    out.line(
        "State",
        if found.state & 1 != 0 {
            "clean"
        } else {
            "active"
        },
    );
    if found.state & 1 << 8 != 0 {
        out.line("Internal Bitmap", "present");
    }
    let labels = [
        "Active Devices",
        "Working Devices",
        "Failed Devices",
        "Spare Devices",
    ];
    for (label, count) in labels.into_iter().zip(found.device_counts) {
        out.line(label, count);
    }
    let (stored, computed) = (found.stored_checksum, found.computed_checksum);
    let verdict = match found.checksum_matches() {
        true => "correct".to_owned(),
        false => format!("expected {computed:x}"),
    };
    out.line("Checksum", format_args!("{stored:x} - {verdict}"));
    out.line("Events", found.events);
    out.blank();
    if let Some(layout) = words::layout_name(found.level.to_raw(), found.layout as i32) {
        out.line("Layout", layout);
    }
    match found.level {
        Level::Linear => out.line("Rounding", format_args!("{}K", found.chunk_bytes / 1024)),
        level if level.is_striped() => {
            out.line("Chunk Size", format_args!("{}K", found.chunk_bytes / 1024));
        }
        _ => {}
    }
    out.0
        .push_str("\n      Number   Major   Minor   RaidDevice State\n");
    out.0.push_str(&descriptor_row("this", &found.this_disk));
    out.blank();
    let rows = found.raid_disks.saturating_add(found.device_counts[3]);
    for (index, disk) in found.disks.iter().enumerate().take(rows as usize) {
        out.0.push_str(&descriptor_row(&index.to_string(), disk));
    }
    out.0
}

/// `--export` of a v0.90 superblock.
pub fn export_v090(found: &SuperblockV090) -> String {
    format!(
        "MD_LEVEL={}\nMD_DEVICES={}\nMD_UUID={}\nMD_UPDATE_TIME={}\nMD_EVENTS={}\n",
        words::level_name(found.level.to_raw()).unwrap_or("unknown"),
        found.raid_disks,
        found.uuid,
        found.utime_seconds,
        found.events
    )
}

fn descriptor_row(label: &str, disk: &Descriptor) -> String {
    let bits = [
        (0, "faulty"),
        (1, "active"),
        (2, "sync"),
        (3, "removed"),
        (9, "write-mostly"),
    ];
    let mut words: Vec<&str> = bits
        .iter()
        .filter(|(bit, _)| disk.state & (1 << bit) != 0)
        .map(|(_, word)| *word)
        .collect();
    if disk.state & 0xf == 0 {
        words.push("spare");
    }
    format!(
        "{label:>4}  {:>4}   {:>5}    {:>5}    {:>5}      {}\n",
        disk.number,
        disk.major,
        disk.minor,
        disk.raid_disk,
        words.join(" ")
    )
}

/// What mdadm says of a device that only has a partition table.
pub fn examine_mbr(name: &str, boot: &[u8]) -> Option<String> {
    if boot.len() < 512 || boot[510..512] != [0x55, 0xaa] {
        return None;
    }
    let mut out = format!("{name}:\n   MBR Magic : aa55\n");
    for (index, entry) in boot[446..510].chunks_exact(16).enumerate() {
        let word = |at: usize| {
            let bytes: [u8; 4] = entry[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        let (start, sectors) = (word(8), word(12));
        if sectors != 0 {
            let kind = entry[4];
            let _ = writeln!(
                out,
                "Partition[{index}] : {sectors:>12} sectors at {start:>12} (type {kind:02x})"
            );
        }
    }
    Some(out)
}

#[cfg(test)]
#[path = "examine_tests.rs"]
mod tests;
