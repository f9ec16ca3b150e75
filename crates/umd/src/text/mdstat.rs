//! `/proc/mdstat`, as the kernel prints it and as monitoring tools parse it.
//!
//! ```text
//! NAME : active [(read-only)] LEVEL dev[number](flags)...     members: the newest first
//!       KIB blocks super V [level L, Ck chunk, algorithm A] [n/m] [UU_]
//!       [==>..................]  WORD = 12.6% (D/M) finish=N.Nmin speed=NK/sec
//!       bitmap: A/T pages [KKB], CKB chunk
//! ```

use std::fmt::Write;

use umd_format::Raid10Layout;

use crate::doc::{ArrayDoc, BitmapDoc, FaultyDoc, FaultyModeDoc, MemberDoc, SyncDoc};

/// Bitmap counters on one page of the kernel's in-memory bitmap.
const COUNTERS_PER_PAGE: u64 = 2048;

/// The whole text for a household; `arrays` oldest first, as they were started.
pub fn mdstat(arrays: &[ArrayDoc]) -> String {
    let mut out = String::from(
        "Personalities : [linear] [raid0] [raid1] [raid6] [raid5] [raid4] [raid10] [faulty] \n",
    );
    for array in arrays.iter().rev() {
        array_lines(&mut out, array);
    }
    out.push_str("unused devices: <none>\n");
    out
}

/// An array that waits for members: who is here, and how much room they have.
fn inactive_lines(out: &mut String, array: &ArrayDoc) {
    let _ = write!(out, "{} : inactive", array.name);
    for member in array.members.iter().rev() {
        let _ = write!(out, " {}[{}](S)", device_word(&member.path), member.number);
    }
    let blocks = array.array_bytes / 1024;
    let _ = write!(out, "\n      {blocks} blocks{}\n       \n", version(array));
}

fn array_lines(out: &mut String, array: &ArrayDoc) {
    if array.array_state == "inactive" {
        inactive_lines(out, array);
        return;
    }
    let state = match array.array_state.as_str() {
        "broken" | "frozen" => "broken",
        _ => "active",
    };
    let mode = match array.array_state.as_str() {
        "readonly" => " (read-only)",
        "read-auto" => " (auto-read-only)",
        _ => "",
    };
    let _ = write!(out, "{} : {state}{mode} {}", array.name, array.level);
    for member in array.members.iter().rev() {
        let name = device_word(&member.path);
        let _ = write!(out, " {name}[{}]{}", member.number, flags(member));
    }
    let _ = write!(
        out,
        "\n      {} blocks{}{}\n      ",
        array.array_bytes / 1024,
        version(array),
        status(array)
    );
    if let Some(sync) = &array.sync {
        let _ = write!(out, "{}\n      ", progress(sync));
    } else if array.sync_pending {
        out.push_str("\tresync=PENDING\n      ");
    }
    if let Some(bitmap) = &array.bitmap {
        let _ = writeln!(out, "{}", bitmap_line(bitmap));
    }
    out.push('\n');
}

/// The metadata version; nothing for 0.90, which is older than this part of the grammar.
fn version(array: &ArrayDoc) -> String {
    match array.metadata.as_str() {
        "0.90" => String::new(),
        "none" => " super non-persistent".to_owned(),
        version => format!(" super {version}"),
    }
}

/// A member's path as one word of the grammar: its short name, without blanks and brackets.
pub fn device_word(path: &str) -> String {
    let base = crate::member::last_part(path);
    let odd = |c: char| c.is_whitespace() || c.is_control() || "[]()".contains(c);
    base.chars().map(|c| if odd(c) { '_' } else { c }).collect()
}

fn flags(member: &MemberDoc) -> String {
    let mut text = String::new();
    if member.write_mostly {
        text.push_str("(W)");
    }
    match member.state.as_str() {
        "faulty" => text.push_str("(F)"),
        "spare" => text.push_str("(S)"),
        _ if member.replacement => text.push_str("(R)"),
        _ => {}
    }
    text
}

/// The level's own part of the second line.
fn status(array: &ArrayDoc) -> String {
    let chunk_kib = array.chunk_bytes / 1024;
    let slots = format!(
        " [{}/{}] [{}]",
        array.raid_disks,
        array.active_devices(),
        slot_letters(array)
    );
    match array.level_number {
        0 => format!(" {chunk_kib}k chunks"),
        1 => slots,
        -1 => format!(" {chunk_kib}k rounding"),
        10 => format!(" {chunk_kib}K chunks{}{slots}", copies(array)),
        -5 => array.faulty.as_ref().map_or(String::new(), pretended),
        level => {
            let layout = array.layout_number;
            format!(" level {level}, {chunk_kib}k chunk, algorithm {layout}{slots}")
        }
    }
}

/// The modes of level faulty that are on: when the next request fails, and the period.
fn pretended(faulty: &FaultyDoc) -> String {
    let mut text = String::new();
    for FaultyModeDoc { mode, left, period } in &faulty.modes {
        let word: String = mode.split('-').map(capitalized).collect();
        let _ = write!(text, " {word}={left}({period})");
    }
    if faulty.write_all {
        text.push_str(" WriteAll");
    }
    let _ = write!(text, " nfaults={}", faulty.places);
    text
}

fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    first.to_uppercase() + rest
}

/// How many copies a RAID10 has where.
fn copies(array: &ArrayDoc) -> String {
    let layout = u32::try_from(array.layout_number).unwrap_or(0);
    let Some(layout) = Raid10Layout::parse(layout, array.raid_disks) else {
        return String::new();
    };
    let mut text = String::new();
    if layout.near > 1 {
        let _ = write!(text, " {} near-copies", layout.near);
    }
    if layout.far > 1 {
        let kind = if layout.offset { "offset" } else { "far" };
        let _ = write!(text, " {} {kind}-copies", layout.far);
    }
    if layout.set_slots != array.raid_disks {
        let _ = write!(text, " {} devices per set", layout.set_slots);
    }
    text
}

fn slot_letters(array: &ArrayDoc) -> String {
    let held = |slot: u16| {
        let mut holders = array.members.iter().filter(|m| m.slot == Some(slot));
        holders.any(|member| member.state == "in_sync")
    };
    (0..array.raid_disks)
        .map(|slot| if held(slot) { 'U' } else { '_' })
        .collect()
}

/// The kernel's progress line for a sync action: a bar of 20 cells, percent, KiB done and to do,
/// the estimated rest and the speed. Parsers want both, also before anything was measured: both
/// are 0 then. (The kernel prints a guess of half an hour or more.)
pub fn progress(sync: &SyncDoc) -> String {
    let rest = sync.finish_seconds.unwrap_or(0);
    format!(
        "{} finish={}.{}min speed={}K/sec",
        how_far(sync),
        rest / 60,
        rest % 60 / 6,
        sync.speed_kib_s
    )
}

/// The progress line as far as it tells what has been done.
pub fn how_far(sync: &SyncDoc) -> String {
    let (done, total) = (
        sync.done_sectors.min(sync.total_sectors),
        sync.total_sectors,
    );
    let per_milli = (done >> 10) * 1000 / ((total >> 10) + 1);
    let cells = usize::try_from(per_milli / 50).unwrap_or(20).min(20);
    let word = match sync.action.as_str() {
        "check" => "check",
        "recover" => "recovery",
        "reshape" => "reshape",
        _ => "resync",
    };
    format!(
        "[{}>{}]  {word} ={:3}.{}% ({}/{})",
        "=".repeat(cells),
        ".".repeat(20 - cells),
        per_milli / 10,
        per_milli % 10,
        done / 2,
        total / 2
    )
}

fn bitmap_line(bitmap: &BitmapDoc) -> String {
    let pages = bitmap.bits.div_ceil(COUNTERS_PER_PAGE).max(1);
    // The kernel shows the counter pages it has allocated; dirty bits need at most one each.
    let used = bitmap.dirty_bits.min(pages);
    let chunk = if bitmap.chunk_bytes < 1024 {
        format!("{}B", bitmap.chunk_bytes)
    } else {
        format!("{}KB", bitmap.chunk_bytes / 1024)
    };
    let file = bitmap.path.as_ref();
    let file = file.map_or(String::new(), |path| format!(", file: {path}"));
    format!(
        "bitmap: {used}/{pages} pages [{}KB], {chunk} chunk{file}",
        used * 4
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::tests::{doc, member, raid5};
    use umd_core::array::{ArrayState, BitmapStatus, MemberRole, SyncStatus};
    use umd_core::value::SyncAction;

    #[test]
    fn a_clean_raid5_and_a_raid0() {
        let mut raid0 = raid5();
        raid0.level = 0;
        raid0.layout = -1;
        raid0.chunk_sectors = 128;
        raid0.array_sectors = 520_192;
        raid0.members.truncate(2);
        let mut second = doc(&raid0);
        second.name = "fast".into();
        let expected = "\
Personalities : [linear] [raid0] [raid1] [raid6] [raid5] [raid4] [raid10] [faulty] \n\
fast : active raid0 b.img[1] a.img[0]
      260096 blocks super 1.2 64k chunks
      \n\
r5 : active raid5 c.img[2] b.img[1] a.img[0]
      129024 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/3] [UUU]
      \n\
unused devices: <none>\n";
        assert_eq!(mdstat(&[doc(&raid5()), second]), expected);
    }

    /// As the kernel prints `md1 : active raid5 ubdg[3](R) ubdf[2] ubde[1] ubdd[0]`.
    #[test]
    fn a_member_that_is_being_replaced_counts() {
        let mut status = raid5();
        let recovering = MemberRole::Recovering {
            recovered_sectors: 4096,
        };
        status.members.push(member(3, Some(1), recovering));
        (
            status.members[3].replacement,
            status.members[1].want_replacement,
        ) = (true, true);
        let text = mdstat(&[doc(&status)]);
        let line = "r5 : active raid5 d.img[3](R) c.img[2] b.img[1] a.img[0]\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("[3/3] [UUU]"), "{text}");
    }

    /// The figures of the kernel's own line `md3 : active raid6 ubdg[4] ...`.
    #[test]
    fn recovery_with_bitmap_and_a_faulty_member() {
        let mut status = raid5();
        status.level = 6;
        status.chunk_sectors = 128;
        status.raid_disks = 4;
        status.array_sectors = 520_192;
        status.degraded = 1;
        let recovering = MemberRole::Recovering {
            recovered_sectors: 24_696,
        };
        status.members = vec![
            member(0, Some(0), MemberRole::InSync),
            member(1, None, MemberRole::Faulty),
            member(2, Some(2), MemberRole::InSync),
            member(3, Some(3), MemberRole::InSync),
            member(4, Some(1), recovering),
        ];
        status.sync = Some(SyncStatus {
            action: SyncAction::Recover,
            done_sectors: 24_696,
            total_sectors: 260_096,
            speed_kib_s: 12_348,
            finish_seconds: Some(9),
            held: false,
        });
        status.bitmap = Some(BitmapStatus {
            file: None,
            fault: None,
            offset_sectors: 8,
            chunk_bytes: 64 << 20,
            bits: 2,
            dirty_bits: 2,
            daemon_sleep_seconds: 5,
            write_behind: 0,
            behind_writes: 0,
        });
        let expected = "\
Personalities : [linear] [raid0] [raid1] [raid6] [raid5] [raid4] [raid10] [faulty] \n\
r5 : active raid6 e.img[4] d.img[3] c.img[2] b.img[1](F) a.img[0]
      260096 blocks super 1.2 level 6, 64k chunk, algorithm 2 [4/3] [U_UU]
      [=>...................]  recovery =  9.4% (12348/130048) finish=0.1min speed=12348K/sec
      bitmap: 1/1 pages [4KB], 65536KB chunk

unused devices: <none>\n";
        assert_eq!(mdstat(&[doc(&status)]), expected);
    }

    #[test]
    fn read_only_arrays_say_so_and_what_they_wait_for() {
        let mut status = raid5();
        status.state = ArrayState::ReadAuto;
        status.sync_pending = true;
        status.level = 1;
        status.members[2] = member(2, None, MemberRole::Spare);
        status.members[1].write_mostly = true;
        status.raid_disks = 2;
        status.array_sectors = 129_024;
        let text = mdstat(&[doc(&status)]);
        let expected = "\
r5 : active (auto-read-only) raid1 c.img[2](S) b.img[1](W) a.img[0]
      64512 blocks super 1.2 [2/2] [UU]
      \tresync=PENDING
      \n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn broken_arrays_are_not_called_active() {
        let mut status = raid5();
        status.state = ArrayState::Frozen;
        assert!(mdstat(&[doc(&status)]).contains("r5 : broken raid5 "));
    }

    #[test]
    fn progress_follows_the_kernels_arithmetic() {
        let sync = |done, total, finish| SyncDoc {
            action: "check".into(),
            done_sectors: done,
            total_sectors: total,
            percent: 0.0,
            speed_kib_s: 5888,
            finish_seconds: finish,
            held: false,
        };
        assert_eq!(
            progress(&sync(11_776, 120_832, Some(9))),
            "[=>...................]  check =  9.2% (5888/60416) finish=0.1min speed=5888K/sec"
        );
        // The end of the range: never more than 20 cells.
        let end = progress(&sync(2 << 40, 2 << 40, Some(0)));
        assert!(
            end.starts_with("[===================>.]  check = 99.9%"),
            "{end}"
        );
        let mut unmeasured = sync(0, 64_000, None);
        unmeasured.speed_kib_s = 0;
        assert_eq!(
            progress(&unmeasured),
            "[>....................]  check =  0.0% (0/32000) finish=0.0min speed=0K/sec"
        );
    }

    #[test]
    fn paths_become_one_word() {
        assert_eq!(device_word("/tmp/my disk (1).img"), "my_disk__1_.img");
        assert_eq!(device_word("plain"), "plain");
        assert_eq!(device_word("nbd+unix:///d0?socket=/run/nbd.sock"), "d0");
    }
}
