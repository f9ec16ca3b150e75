//! `umd detail`: mdadm's `--detail`, label for label.
//!
//! Labels end at column 18, ` : ` separates, the State line ends in a blank; scripts depend on it.

use std::fmt::Write;

use umd_format::Raid10Layout;

use crate::doc::{ArrayDoc, MemberDoc, MismatchDoc, MismatchMemberDoc, SyncDoc};
use crate::units::human_tail;

use super::Context;

/// The full form. `title` is what the user called the array.
pub fn detail(title: &str, array: &ArrayDoc, context: &Context) -> String {
    if array.array_state == "inactive" {
        return inactive(title, array, context);
    }
    let mut out = format!("{title}:\n");
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:>18} : {value}");
    };
    let stored = array.metadata != "none";
    line("Version", shown_version(array).to_owned());
    line("Creation Time", context.time(array.creation_time.epoch));
    line("Raid Level", array.level.clone());
    line("Array Size", size(array.array_bytes));
    if let Some(bytes) = used_dev_bytes(array) {
        line("Used Dev Size", size(bytes));
    }
    line("Raid Devices", array.raid_disks.to_string());
    line("Total Devices", array.members.len().to_string());
    if let Some(minor) = array.preferred_minor {
        line("Preferred Minor", minor.to_string());
    }
    if stored {
        line("Persistence", "Superblock is persistent\n".into());
    } else {
        out.push('\n');
    }
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:>18} : {value}");
    };
    if let Some(bitmap) = &array.bitmap {
        let place = bitmap.path.as_deref().unwrap_or("Internal");
        line("Intent Bitmap", format!("{place}\n"));
        if let Some(fault) = &bitmap.fault {
            line("Bitmap Failed", fault.clone());
        }
    }
    if stored {
        line("Update Time", context.time(array.update_time.epoch));
    }
    line("State", format!("{} ", state(array)));
    if let Some(reason) = &array.reason {
        line("Reason", reason.clone());
    }
    if let Some(dir) = &array.overlay {
        let what = "writes go there, the members stay as they are";
        line("Overlay", format!("{dir} ({what})"));
    }
    line("Active Devices", array.active_devices().to_string());
    line("Working Devices", array.working_devices().to_string());
    line("Failed Devices", array.failed_devices().to_string());
    line("Spare Devices", format!("{}\n", array.spare_devices()));
    if let Some(layout) = &array.layout {
        line("Layout", layout.clone());
    }
    if array.chunk_bytes > 0 {
        line("Chunk Size", format!("{}K\n", array.chunk_bytes / 1024));
    }
    line(
        "Consistency Policy",
        format!("{}\n", array.consistency_policy),
    );
    out.push_str(&syncing(array));
    if stored {
        out.push_str(&identity(array, context));
    }
    out.push_str(&(of_cluster(array) + &table(array)));
    out.push_str(&faults(array));
    out.push_str(&mismatches(array));
    out + &scrubs(array, context)
}

/// What each member gives. A RAID10 uses whole chunks in each of its far parts, and the rest is not
/// counted.
fn used_dev_bytes(array: &ArrayDoc) -> Option<u64> {
    let bytes = array.dev_bytes?;
    let layout = u32::try_from(array.layout_number).unwrap_or(0);
    let far = match array.level_number {
        10 => Raid10Layout::parse(layout, array.raid_disks)?.far,
        _ => return Some(bytes),
    };
    let unit = array.chunk_bytes.saturating_mul(far.into()).max(1);
    Some(bytes / unit * unit)
}

/// So many scrubs are shown; the JSON document has more.
const SCRUBS_MAX: usize = 3;

/// When members were last compared, the newest first. mdadm has no such lines.
fn scrubs(array: &ArrayDoc, context: &Context) -> String {
    let mut out = String::new();
    for (index, one) in array.scrubs.iter().rev().take(SCRUBS_MAX).enumerate() {
        let blank = if index == 0 { "\n" } else { "" };
        let seconds = one.ended.epoch.saturating_sub(one.started.epoch);
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        let how = if one.complete { "done" } else { "interrupted" };
        let _ = writeln!(
            out,
            "{blank}{:>18} : {} ({} {how} after {hours}:{minutes:02}:{:02}, mismatches: {})",
            "Scrub",
            context.time(one.started.epoch),
            one.action,
            seconds % 60,
            one.mismatch_cnt
        );
    }
    out
}

/// An array that waits for members. mdadm has no State column here; users took what they saw for
/// an array whose members had all become spares.
fn inactive(title: &str, array: &ArrayDoc, context: &Context) -> String {
    let mut out = format!("{title}:\n");
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:>18} : {value}");
    };
    line("Version", shown_version(array).to_owned());
    line("Raid Level", array.level.clone());
    line("Total Devices", array.members.len().to_string());
    line("Persistence", "Superblock is persistent\n".into());
    line("State", "inactive".into());
    if let Some(reason) = &array.reason {
        line("Reason", reason.clone());
    }
    line("Working Devices", format!("{}\n", array.members.len()));
    out.push_str(&identity(array, context));
    out.push_str("    Number   Major   Minor   RaidDevice State\n");
    for member in &array.members {
        let (slot, what) = match member.slot {
            Some(slot) => (format!("{slot:>5}"), format!("active device {slot}")),
            None => ("    -".to_owned(), "spare".to_owned()),
        };
        let _ = writeln!(
            out,
            "   {:>5}   {:>5}    {:>5}    {slot}      {what} (array not running)   {}",
            member.number, member.major, member.minor, member.path
        );
    }
    out
}

/// What a sync action does, and what holds it back.
fn syncing(array: &ArrayDoc) -> String {
    let mut out = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:>18} : {value}");
    };
    if let Some(sync) = &array.sync {
        let percent = format!("{}% complete\n", sync.percent as u64);
        line(sync_label(sync), percent);
    }
    if let Some(reshape) = &array.reshape {
        let number = || reshape.new_layout_number.to_string();
        let layout = reshape.new_layout.clone().unwrap_or_else(number);
        line("New Layout", format!("{layout}\n"));
        if let Some(level) = &reshape.then_level {
            line("Then Level", format!("{level}\n"));
        }
        if let Some(why) = &reshape.waits {
            line("Reshape Waits", format!("{why}\n"));
        }
    }
    if let Some(text) = sync_range(array) {
        line("Sync Range", format!("{text}\n"));
    }
    if let Some(text) = sync_speed(array) {
        line("Sync Speed", format!("{text}\n"));
    }
    if let Some(text) = suspended(array) {
        line("Suspended", format!("{text}\n"));
    }
    out
}

/// `sync_min` and `sync_max`, when they are not those of all.
fn sync_range(array: &ArrayDoc) -> Option<String> {
    let held = array.sync.as_ref().is_some_and(|sync| sync.held);
    let tail = if held { ", and waits there" } else { "" };
    match (array.sync_min_sectors, array.sync_max_sectors) {
        (0, None) => None,
        (from, None) => Some(format!("from sector {from}")),
        (from, Some(to)) => Some(format!("from sector {from} to {to}{tail}")),
    }
}

/// `suspend_lo` and `suspend_hi`, when there is something between them.
fn suspended(array: &ArrayDoc) -> Option<String> {
    let (lo, hi) = (array.suspend_lo_sectors, array.suspend_hi_sectors);
    let waiting = match array.suspended_writes {
        0 => String::new(),
        1 => " (1 does now)".to_owned(),
        some => format!(" ({some} do now)"),
    };
    (lo < hi).then(|| format!("writes from sector {lo} to {hi} wait{waiting}"))
}

/// Speed limits, when some were set.
fn sync_speed(array: &ArrayDoc) -> Option<String> {
    match (array.sync_speed_min_kib_s, array.sync_speed_max_kib_s) {
        (None, None) => None,
        (Some(min), None) => Some(format!("{min}K/sec while hosts work")),
        (None, Some(max)) => Some(format!("{max}K/sec at most")),
        (Some(min), Some(max)) => Some(format!("{max}K/sec at most, {min}K/sec while hosts work")),
    }
}

fn sync_label(sync: &SyncDoc) -> &'static str {
    match sync.action.as_str() {
        "recover" => "Rebuild Status",
        "check" => "Check Status",
        "reshape" => "Reshape Status",
        _ => "Resync Status",
    }
}

/// What superblocks say of who the array is. Version 0.90 has no name; its UUID tells the host.
fn identity(array: &ArrayDoc, context: &Context) -> String {
    let old = array.preferred_minor.is_some();
    let name = format!("{}{}", array.set_name, context.local_tail(&array.set_name));
    let tail = match array.uuid.parse() {
        Ok(uuid) if old => context.local_uuid_tail(uuid),
        _ => String::new(),
    };
    let mut out = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(out, "{label:>18} : {value}");
    };
    if !old {
        line("Name", name);
    }
    line("UUID", format!("{}{tail}", array.uuid));
    line("Events", format!("{}\n", events(array)));
    out
}

/// The version; nothing for arrays without superblocks, as mdadm has it.
fn shown_version(array: &ArrayDoc) -> &str {
    match array.metadata.as_str() {
        "none" => "",
        version => version,
    }
}

/// Version 0.90 keeps its counter in two words, and mdadm prints them so.
fn events(array: &ArrayDoc) -> String {
    match array.preferred_minor {
        Some(_) => format!("{}.{}", array.events >> 32, array.events & 0xffff_ffff),
        None => array.events.to_string(),
    }
}

/// So many places are named; the JSON document has more.
const PLACES_MAX: usize = 8;

/// Where the last check or repair found members to differ.
fn mismatches(array: &ArrayDoc) -> String {
    let mut out = String::new();
    for (index, place) in array.mismatches.iter().take(PLACES_MAX).enumerate() {
        let blank = if index == 0 { "\n" } else { "" };
        let _ = writeln!(out, "{blank}{:>18} : {}", "Mismatch", mismatch(place));
    }
    if array.mismatches.len() > PLACES_MAX {
        let text = "and more (see --json)";
        let _ = writeln!(out, "{:>18} : {text}", "Mismatch");
    }
    out
}

/// One place, in a sentence.
pub fn mismatch(place: &MismatchDoc) -> String {
    let len = place.len_sectors;
    let range = |first: u64| format!("{first}..{}", first + len);
    let joined = |words: Vec<String>| words.join(", ");
    let data = match place.array_sectors.is_empty() {
        true => "parity only".to_owned(),
        false => {
            let ranges = place.array_sectors.iter().map(|first| range(*first));
            format!("array sectors {}", joined(ranges.collect()))
        }
    };
    let part = |one: &MismatchMemberDoc| format!("{} sectors {}", one.path, range(one.sector));
    let wrong = place.members.iter().filter(|member| member.wrong);
    let wrong: Vec<String> = wrong.map(part).collect();
    let who = match (wrong.is_empty(), place.repaired) {
        (false, false) => format!("wrong: {}", joined(wrong)),
        (false, true) => format!("mended: {}", joined(wrong)),
        (true, true) => "made equal, it cannot be told which member was wrong".to_owned(),
        (true, false) => {
            let all = place.members.iter().map(part);
            format!(
                "it cannot be told which is wrong: {}",
                joined(all.collect())
            )
        }
    };
    format!("{data}; {who}")
}

/// Why members failed. mdadm has no such lines; behind the table they are in nobody's way.
fn faults(array: &ArrayDoc) -> String {
    let mut out = String::new();
    for member in &array.members {
        if let Some(fault) = &member.fault {
            let blank = if out.is_empty() { "\n" } else { "" };
            let _ = writeln!(out, "{blank}{:>18} : {}: {fault}", "Fault", member.path);
        }
    }
    out
}

fn size(bytes: u64) -> String {
    format!("{}{}", bytes / 1024, human_tail(bytes))
}

/// The State line's words, without the trailing blank.
pub fn state(array: &ArrayDoc) -> String {
    let mut words = match array.array_state.as_str() {
        "frozen" => "frozen".to_owned(),
        // Levels without redundancy have the kernel's own word there.
        word @ ("broken" | "readonly") if matches!(array.level_number, -1 | 0) => word.to_owned(),
        "active" | "active-idle" | "write-pending" => "active".to_owned(),
        "inactive" => "inactive".to_owned(),
        _ => "clean".to_owned(),
    };
    if array.failed {
        words.push_str(", FAILED");
    } else if array.degraded > 0 {
        words.push_str(", degraded");
    }
    if let Some(sync) = &array.sync {
        words.push_str(match sync.action.as_str() {
            "recover" => ", recovering",
            "check" => ", checking",
            "reshape" => ", reshaping",
            _ => ", resyncing",
        });
    } else if array.sync_pending {
        words.push_str(", resyncing (PENDING)");
    }
    words
}

/// The cluster: its name as mdadm has it, its nodes, and what is waited for.
fn of_cluster(array: &ArrayDoc) -> String {
    let mut out = String::new();
    let Some(cluster) = &array.cluster else {
        return out;
    };
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, "{label:>18} : {value}");
    };
    line("Cluster Name", &cluster.name);
    line("Lock Service", &cluster.engine);
    line("Fenced By", &cluster.fencing.join(", "));
    for (label, text) in [
        ("Cluster Frozen", &cluster.frozen),
        ("Service Trouble", &cluster.trouble),
    ] {
        if let Some(text) = text {
            line(label, text);
        }
    }
    for wait in &cluster.waits {
        line("Cluster Waits", wait);
    }
    out.push_str("\n      Node   State    Host\n");
    for node in &cluster.nodes {
        let host = node.host.as_deref().unwrap_or("-");
        let _ = writeln!(out, "{:>10}   {:<6}   {host}", node.node, node.state);
        if let Some(reason) = &node.reason {
            let _ = writeln!(out, "             {reason}");
        }
    }
    out.push('\n');
    out
}

fn table(array: &ArrayDoc) -> String {
    let mut out = String::from("    Number   Major   Minor   RaidDevice State\n");
    for slot in 0..array.raid_disks {
        let mut empty = true;
        for member in array.members.iter().filter(|m| m.slot == Some(slot)) {
            row(&mut out, member, Some(slot));
            empty = false;
        }
        if empty {
            let _ = writeln!(out, "       -       0        0    {slot:>5}      removed");
        }
    }
    let rest: Vec<&MemberDoc> = array.members.iter().filter(|m| m.slot.is_none()).collect();
    if !rest.is_empty() {
        out.push('\n');
    }
    for member in rest {
        row(&mut out, member, None);
    }
    out
}

fn row(out: &mut String, member: &MemberDoc, slot: Option<u16>) {
    let slot = slot.map_or_else(|| "    -".to_owned(), |slot| format!("{slot:>5}"));
    // As mdadm has them: what it is, its flags, and last that it is only a spare.
    let (before, behind) = match member.state.as_str() {
        "in_sync" => ("active sync", ""),
        "recovering" => ("", "spare rebuilding"),
        "faulty" => ("faulty", ""),
        _ => ("", "spare"),
    };
    let mostly = if member.write_mostly {
        "writemostly"
    } else {
        ""
    };
    let fast = if member.failfast { "failfast" } else { "" };
    let mut words = vec![before, mostly, fast, behind];
    words.retain(|word| !word.is_empty());
    let _ = writeln!(
        out,
        "   {:>5}   {:>5}    {:>5}    {slot}      {}   {}",
        member.number,
        member.major,
        member.minor,
        words.join(" "),
        member.path
    );
}

/// `--brief` and `--scan`: a line for a configuration file; `verbose` adds level and devices.
pub fn brief(array: &ArrayDoc, verbose: bool) -> String {
    let kind = match array.array_state.as_str() {
        "inactive" => "INACTIVE-ARRAY",
        _ => "ARRAY",
    };
    let mut out = format!("{kind} /dev/md/{}", array.name);
    if verbose {
        let _ = write!(
            out,
            " level={} num-devices={}",
            array.level, array.raid_disks
        );
    }
    let _ = write!(out, " metadata={}", array.metadata);
    if array.spare_devices() > 0 && array.array_state != "inactive" {
        let _ = write!(out, " spares={}", array.spare_devices());
    }
    if !array.set_name.is_empty() {
        let _ = write!(out, " name={}", array.set_name);
    }
    let _ = writeln!(out, " UUID={}", array.uuid);
    if verbose {
        let paths: Vec<&str> = array.members.iter().map(|m| m.path.as_str()).collect();
        let _ = writeln!(out, "   devices={}", paths.join(","));
    }
    out
}

/// `--export`: lines for a shell or udev.
pub fn export(array: &ArrayDoc) -> String {
    let mut out = format!(
        "MD_LEVEL={}\nMD_DEVICES={}\nMD_METADATA={}\nMD_UUID={}\nMD_DEVNAME={}\n",
        array.level, array.raid_disks, array.metadata, array.uuid, array.name
    );
    if !array.set_name.is_empty() {
        let _ = writeln!(out, "MD_NAME={}", array.set_name);
    }
    for member in &array.members {
        let key: String = member
            .path
            .trim_start_matches('/')
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let role = match (member.slot, member.state.as_str()) {
            (Some(slot), "in_sync" | "recovering" | "waiting") => slot.to_string(),
            _ => "spare".to_owned(),
        };
        let _ = writeln!(out, "MD_DEVICE_{key}_ROLE={role}");
        let _ = writeln!(out, "MD_DEVICE_{key}_DEV={}", member.path);
    }
    out
}

/// The exit code of `--test`: 0 whole, 1 degraded, 2 unusable.
pub fn test_code(array: &ArrayDoc) -> u8 {
    if array.failed || matches!(array.array_state.as_str(), "frozen" | "inactive") {
        2
    } else {
        u8::from(array.degraded > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::tests::{doc, member, raid5};
    use crate::doc::{ClusterDoc, NodeDoc};
    use crate::text::tests::context;
    use umd_core::array::{ArrayState, MemberRole, Status, SyncStatus};
    use umd_core::value::{Mismatch, Slot, SyncAction};

    /// Who is there, who is not, and what that keeps from going on.
    #[test]
    fn the_nodes_of_a_cluster_are_told_with_what_is_waited_for() {
        let node = |node, host: Option<&str>, state: &str, reason: Option<&str>| NodeDoc {
            node,
            host: host.map(Into::into),
            state: state.into(),
            reason: reason.map(Into::into),
        };
        let mut array = doc(&raid5());
        array.cluster = Some(ClusterDoc {
            name: "hall".into(),
            engine: "etcd".into(),
            node: Some(0),
            nodes: vec![
                node(0, Some("alpha"), "this", None),
                node(1, Some("beta"), "dead", Some("nobody has confirmed it")),
                node(2, None, "free", None),
            ],
            waits: vec!["waiting for node 3 to acknowledge METADATA_UPDATED, 12 s".into()],
            frozen: Some("writes wait".into()),
            trouble: None,
            fencing: vec!["reservations".into(), "confirmation".into()],
        });
        let shown = of_cluster(&array);
        let expected = "      Cluster Name : hall
      Lock Service : etcd
         Fenced By : reservations, confirmation
    Cluster Frozen : writes wait
     Cluster Waits : waiting for node 3 to acknowledge METADATA_UPDATED, 12 s

      Node   State    Host
         0   this     alpha
         1   dead     beta
             nobody has confirmed it
         2   free     -

";
        assert_eq!(shown, expected);
        array.cluster = None;
        assert_eq!(of_cluster(&array), "");
    }

    #[test]
    fn a_clean_raid5() {
        let expected = "\
r5:
           Version : 1.2
     Creation Time : Wed Jan  1 00:00:00 2020
        Raid Level : raid5
        Array Size : 129024 (126.00 MiB 132.12 MB)
     Used Dev Size : 64512 (63.00 MiB 66.06 MB)
      Raid Devices : 3
     Total Devices : 3
       Persistence : Superblock is persistent

       Update Time : Wed Jan  1 00:16:40 2020
             State : clean \n\
    \x20   Active Devices : 3
   Working Devices : 3
    Failed Devices : 0
     Spare Devices : 0

            Layout : left-symmetric
        Chunk Size : 512K

Consistency Policy : resync

              Name : host:r5
              UUID : 11112222:33334444:55556666:77778888
            Events : 18

    Number   Major   Minor   RaidDevice State
       0       0        0        0      active sync   /tmp/a.img
       1       0        0        1      active sync   /tmp/b.img
       2       0        0        2      active sync   /tmp/c.img
";
        assert_eq!(detail("r5", &doc(&raid5()), &context()), expected);
    }

    /// The sample with a rebuilding and a failed member in `user-needs` 3.4.
    fn rebuilding() -> Status {
        let mut status = raid5();
        status.level = 1;
        status.layout = 0;
        status.chunk_sectors = 0;
        status.raid_disks = 2;
        status.array_sectors = 202_752;
        status.dev_sectors = 202_752;
        status.set_name = "vm:126".into();
        status.degraded = 1;
        let recovering = MemberRole::Recovering {
            recovered_sectors: 0,
        };
        status.members = vec![
            member(0, Some(0), MemberRole::InSync),
            member(2, None, MemberRole::Faulty),
            member(3, Some(1), recovering),
        ];
        status.members[0].write_mostly = true;
        status.sync = Some(SyncStatus {
            action: SyncAction::Recover,
            done_sectors: 50_000,
            total_sectors: 202_752,
            speed_kib_s: 1,
            finish_seconds: None,
            held: false,
        });
        status
    }

    #[test]
    fn a_rebuilding_raid1() {
        let text = detail("/dev/md127", &doc(&rebuilding()), &context());
        let expected = "\
             State : clean, degraded, recovering \n    \
Active Devices : 1
   Working Devices : 2
    Failed Devices : 1
     Spare Devices : 1

Consistency Policy : resync

    Rebuild Status : 24% complete

              Name : vm:126  (local to host vm)
              UUID : 11112222:33334444:55556666:77778888
            Events : 18

    Number   Major   Minor   RaidDevice State
       0       0        0        0      active sync writemostly   /tmp/a.img
       3       0        0        1      spare rebuilding   /tmp/d.img

       2       0        0        -      faulty   /tmp/c.img
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn why_members_failed_stands_below_the_table() {
        let mut status = rebuilding();
        status.members[1].fault = Some("write failed: device gone".into());
        let text = detail("r1", &doc(&status), &context());
        let end = "       2       0        0        -      faulty   /tmp/c.img\n\n             \
                   Fault : /tmp/c.img: write failed: device gone\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn places_that_differ_stand_below_the_table() {
        let mut status = raid5();
        let place = |wrong: &[u16], repaired| Mismatch {
            members: (0..3).map(|slot| (Slot(slot), 8)).collect(),
            len_sectors: 8,
            array_sectors: vec![16, 144],
            wrong: wrong.iter().map(|slot| Slot(*slot)).collect(),
            repaired,
        };
        let mut found = vec![place(&[], false), place(&[], true), place(&[1], false)];
        found[2].array_sectors.clear();
        found.extend([(); 6].map(|()| place(&[2], true)));
        let found = found.into_iter().map(std::sync::Arc::new);
        status.mismatches = std::sync::Arc::new(found.collect());
        let text = detail("r5", &doc(&status), &context());
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("Mismatch : ")).collect();
        assert_eq!(lines.len(), 9);
        let expected = [
            "array sectors 16..24, 144..152; it cannot be told which is wrong: /tmp/a.img sectors \
             2056..2064, /tmp/b.img sectors 2056..2064, /tmp/c.img sectors 2056..2064",
            "array sectors 16..24, 144..152; made equal, it cannot be told which member was wrong",
            "parity only; wrong: /tmp/b.img sectors 2056..2064",
            "array sectors 16..24, 144..152; mended: /tmp/c.img sectors 2056..2064",
        ];
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(line.trim_start(), format!("Mismatch : {expected}"));
        }
        assert!(lines[8].ends_with("and more (see --json)"));
    }

    #[test]
    fn an_overlay_is_shown() {
        let mut array = doc(&raid5());
        array.overlay = Some("/tmp/over".into());
        let text = detail("r5", &array, &context());
        let line =
            "           Overlay : /tmp/over (writes go there, the members stay as they are)\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn empty_slots_are_listed_as_removed() {
        let mut status = raid5();
        status.members.remove(1);
        status.degraded = 1;
        let text = detail("r5", &doc(&status), &context());
        let rows = "\
       0       0        0        0      active sync   /tmp/a.img
       -       0        0        1      removed
       2       0        0        2      active sync   /tmp/c.img
";
        assert!(text.ends_with(rows), "{text}");
        assert_eq!(test_code(&doc(&status)), 1);
    }

    #[test]
    fn test_codes_follow_the_documented_table() {
        assert_eq!(test_code(&doc(&raid5())), 0);
        let mut status = raid5();
        status.degraded = 2;
        status.state = ArrayState::Broken;
        assert_eq!(test_code(&doc(&status)), 2);
        assert_eq!(state(&doc(&status)), "clean, FAILED");
    }

    #[test]
    fn brief_and_export() {
        let array = doc(&rebuilding());
        assert_eq!(
            brief(&array, false),
            "ARRAY /dev/md/r5 metadata=1.2 spares=1 name=vm:126 \
             UUID=11112222:33334444:55556666:77778888\n"
        );
        let long = brief(&array, true);
        assert!(long.starts_with("ARRAY /dev/md/r5 level=raid1 num-devices=2 metadata=1.2"));
        assert!(
            long.ends_with("\n   devices=/tmp/a.img,/tmp/c.img,/tmp/d.img\n"),
            "{long}"
        );
        let expected = "\
MD_LEVEL=raid1
MD_DEVICES=2
MD_METADATA=1.2
MD_UUID=11112222:33334444:55556666:77778888
MD_DEVNAME=r5
MD_NAME=vm:126
MD_DEVICE_tmp_a_img_ROLE=0
MD_DEVICE_tmp_a_img_DEV=/tmp/a.img
MD_DEVICE_tmp_c_img_ROLE=spare
MD_DEVICE_tmp_c_img_DEV=/tmp/c.img
MD_DEVICE_tmp_d_img_ROLE=1
MD_DEVICE_tmp_d_img_DEV=/tmp/d.img
";
        assert_eq!(export(&array), expected);
    }
}
