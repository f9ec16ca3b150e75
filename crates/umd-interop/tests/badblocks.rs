//! Bad-block logs, between kernel md and umd, both ways.
//!
//! ```text
//!   kernel   records two ranges on a member, by hand          truth: what it reads before that
//!   host     puts rubbish where they are
//!   umd      lists them as mdadm does, reads the truth, writes over a part of them
//!   kernel   finds what umd has left of them
//!   umd      repairs; the log is empty
//!   kernel   finds none, and members that agree
//!
//!   umd      is refused a part of a write by a member, records it, and goes on
//!   kernel   lists what was refused as mdadm does, and reads what was written
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, copy_in, copy_out, qemu_io, text};
use umd_interop::uml::{Kernel, KernelRun};

const MIB: u64 = 1 << 20;
/// Sectors of a member's data, and their number: the second takes two entries.
const BAD: [(u64, u64); 2] = [(4096, 8), (10_000, 600)];
/// Level and members.
const ARRAYS: [(&str, usize); 2] = [("1", 2), ("5", 3)];

/// The sectors in lines of `start length`, or of `start for length sectors`.
fn sectors(lines: &str) -> BTreeSet<u64> {
    let range = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let start: u64 = words.first()?.parse().ok()?;
        let len: u64 = words.iter().skip(1).find_map(|word| word.parse().ok())?;
        Some(start..start + len)
    };
    lines.lines().filter_map(range).flatten().collect()
}

/// What a script printed between two marks.
fn printed<'a>(run: &'a KernelRun, mark: &str) -> &'a str {
    let from = run.stdout.split_once(&format!("<{mark}>")).unwrap().1;
    from.split_once(&format!("</{mark}>")).unwrap().0
}

/// Arrays with bad blocks on their first members; `truth` is what they hold.
fn recorded(oracle: &Oracle, sets: &[Vec<PathBuf>], truths: &[PathBuf]) -> KernelRun {
    let mut kernel = Kernel::new(oracle);
    let mut first = 0;
    for (number, (level, count)) in ARRAYS.into_iter().enumerate() {
        for (n, member) in sets[number].iter().enumerate() {
            // Mirrors are clean; parity is made by a repair.
            let seed = if level == "1" { 7 } else { n as u64 };
            pattern::write_file(member, seed, 16 * MIB).unwrap();
        }
        let devices: String = (first..first + count).map(|n| format!("$D{n} ")).collect();
        let [(a, b), (c, d)] = BAD;
        kernel = kernel.members(&sets[number]).script(&format!(
            "mdadm --create --run --quiet --assume-clean /dev/md{number} -l{level} -n{count} \
                --bitmap=none {devices}
            repair md{number}
            dd if=/dev/md{number} of=$H{truth} bs=1M 2>/dev/null
            dev=/sys/block/md{number}/md/dev-${{D{first}#/dev/}}
            at=$(cat $dev/offset)
            echo offset{number}=$at
            echo $((at + {a})) {b} >$dev/bad_blocks
            echo $((at + {c})) 512 >$dev/bad_blocks
            echo $((at + {c} + 512)) $(({d} - 512)) >$dev/bad_blocks
            dd if=/dev/md{number} of=/tmp/head bs=4k count=1 2>/dev/null
            dd if=/tmp/head of=/dev/md{number} bs=4k count=1 conv=fsync 2>/dev/null
            mdadm --stop /dev/md{number}
            echo \"<log{number}>\"; mdadm --examine-badblocks $D{first}; echo \"</log{number}>\"",
            truth = truths[number].display(),
        ));
        first += count;
    }
    kernel.run_ok().unwrap()
}

fn spoil(member: &Path, offset: u64) {
    for (start, len) in BAD {
        pattern::write_at(member, 99, (offset + start) * 512, len as usize * 512).unwrap();
    }
}

fn assemble(umd: &Umd, name: &str, set: &[PathBuf]) {
    let mut args = vec!["assemble", name];
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
}

fn reads(oracle: &Oracle, umd: &Umd, name: &str, truth: &Path, scratch: &Scratch) {
    let copy = scratch.path("copy");
    copy_out(oracle, &umd.daemon_uri(name), &copy).unwrap();
    let len = std::fs::metadata(truth).unwrap().len();
    pattern::compare((&copy, 0), (truth, 0), len).unwrap();
    std::fs::remove_file(copy).unwrap();
}

/// The kernel reads what umd has left of a log, and mdadm lists the same.
fn left(oracle: &Oracle, set: &[PathBuf], expected: &BTreeSet<u64>) {
    let run = Kernel::new(oracle)
        .members(set)
        .script(
            "mdadm --assemble --run --quiet /dev/md0 $D0 $D1
            echo '<sysfs>'; cat /sys/block/md0/md/dev-${D0#/dev/}/bad_blocks; echo '</sysfs>'
            [ $(cat /sys/block/md0/md/degraded) = 0 ] || fail degraded
            mdadm --stop /dev/md0
            echo '<log>'; mdadm --examine-badblocks $D0; echo '</log>'",
        )
        .run_ok()
        .unwrap();
    assert_eq!(&sectors(printed(&run, "sysfs")), expected);
    assert_eq!(&sectors(printed(&run, "log")), expected);
}

#[test]
fn bad_blocks_go_from_the_kernel_to_umd_and_back() {
    let what = "bad-block logs of the kernel and umd";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let named = ARRAYS.into_iter().enumerate();
    let sets: Vec<Vec<PathBuf>> = named
        .map(|(n, (_, count))| scratch.images(&format!("{n}-"), count, 16 * MIB).unwrap())
        .collect();
    let truths = [scratch.path("truth0"), scratch.path("truth1")];
    let run = recorded(&oracle, &sets, &truths);
    for (number, set) in sets.iter().enumerate() {
        let offset: u64 = run
            .value(&format!("offset{number}"))
            .unwrap()
            .parse()
            .unwrap();
        let all = |(start, len): (u64, u64)| offset + start..offset + start + len;
        let mut bad: BTreeSet<u64> = BAD.into_iter().flat_map(all).collect();
        let list = umd.ok(&["examine-badblocks", text(&set[0])]).unwrap();
        assert_eq!(sectors(&list), bad, "{list}");
        assert_eq!(sectors(printed(&run, &format!("log{number}"))), bad);
        spoil(&set[0], offset);
        let name = format!("k{number}");
        assemble(&umd, &name, set);
        reads(&oracle, &umd, &name, &truths[number], &scratch);
        if number == 0 {
            // A mirror: what is written lies where it lies in the array.
            let uri = umd.daemon_uri(&name);
            let part = [format!("write -P 0x55 {} {}", 10_100 * 512, 100 * 512)];
            qemu_io(&oracle, &uri, &part).unwrap();
            umd.ok(&["stop", &name]).unwrap();
            bad.retain(|at| !(offset + 10_100..offset + 10_200).contains(at));
            left(&oracle, set, &bad);
            assemble(&umd, &name, set);
        }
        umd.ok(&["action", &name, "repair", "--wait"]).unwrap();
        umd.ok(&["stop", &name]).unwrap();
        let list = umd.ok(&["examine-badblocks", text(&set[0])]).unwrap();
        assert!(list.contains("list is empty"), "{list}");
    }
    let agree = |number: usize, devices: &str, log: &str| {
        format!(
            "mdadm --assemble --run --quiet /dev/md{number} {devices}
            [ -z \"$(cat /sys/block/md{number}/md/dev-${{{log}#/dev/}}/bad_blocks)\" ] || fail bad
            n=$(check md{number}); [ $n = 0 ] || fail md{number}: mismatch_cnt $n
            mdadm --stop /dev/md{number}"
        )
    };
    Kernel::new(&oracle)
        .members(sets.iter().flatten())
        .script(&agree(0, "$D0 $D1", "D0"))
        .script(&agree(1, "$D2 $D3 $D4", "D2"))
        .run_ok()
        .unwrap();
}

/// What a member refuses to write, in sectors of its data.
const WORN: (u64, u64) = (1001, 5);

/// An array of umd's whose second member refuses a part of what is written; the content.
fn refused(oracle: &Oracle, umd: &Umd, name: &str, level: &str, set: &[PathBuf]) -> (u64, PathBuf) {
    let count = set.len().to_string();
    let mut args = vec![
        "create",
        name,
        "--level",
        level,
        "-n",
        &count,
        "--assume-clean",
    ];
    args.extend(["--bitmap", "internal"]);
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    umd.ok(&["stop", name]).unwrap();
    let superblock = umd.superblock(&set[1]).unwrap();
    let offset = superblock["data_offset_bytes"].as_u64().unwrap() / 512;
    let fault = format!("{}:worn={}+{}", set[1].display(), offset + WORN.0, WORN.1);
    let served = umd.serve(name, set, &["--fault", &fault]).unwrap();
    let truth = set[0].with_extension("truth");
    let len = umd_interop::umd::export_bytes(oracle, &served.uri()).unwrap();
    pattern::write_file(&truth, 31, len).unwrap();
    copy_in(oracle, &truth, &served.uri()).unwrap();
    let array = umd.until(name, |array| array["state"] != "broken").unwrap();
    let member = array["members"].as_array().unwrap().iter();
    let member = member.clone().find(|m| m["path"] == text(&set[1])).unwrap();
    assert_eq!(member["state"], "in_sync", "{array}");
    assert_eq!(member["bad_bytes"].as_u64(), Some(WORN.1 * 512), "{array}");
    let log = served.messages();
    served.stop().unwrap();
    assert!(log.contains("refused to write"), "{log}");
    (offset, truth)
}

/// A write that a member refuses is recorded as the kernel would: it reads the log, and never what
/// is still there.
#[test]
fn what_a_member_refused_is_known_to_the_kernel() {
    let what = "writes that a member refuses";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    for (level, count) in ARRAYS {
        let set = scratch
            .images(&format!("w{level}-"), count, 16 * MIB)
            .unwrap();
        let name = format!("w{level}");
        let (offset, truth) = refused(&oracle, &umd, &name, level, &set);
        let bad: BTreeSet<u64> = (offset + WORN.0..offset + WORN.0 + WORN.1).collect();
        let list = umd.ok(&["examine-badblocks", text(&set[1])]).unwrap();
        assert_eq!(sectors(&list), bad, "{list}");
        let copy = scratch.path(&format!("copy{level}"));
        let devices: String = (0..count).map(|n| format!("$D{n} ")).collect();
        let run = Kernel::new(&oracle)
            .members(&set)
            .script(&format!(
                "echo '<log>'; mdadm --examine-badblocks $D1; echo '</log>'
                mdadm --assemble --run --quiet /dev/md0 {devices}
                echo '<sysfs>'; cat /sys/block/md0/md/dev-${{D1#/dev/}}/bad_blocks; echo '</sysfs>'
                [ $(cat /sys/block/md0/md/degraded) = 0 ] || fail degraded
                dd if=/dev/md0 of=$H{copy} bs=1M 2>/dev/null
                n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n
                mdadm --stop /dev/md0",
                copy = copy.display(),
            ))
            .run_ok()
            .unwrap();
        assert_eq!(sectors(printed(&run, "log")), bad);
        assert_eq!(sectors(printed(&run, "sysfs")), bad);
        let len = std::fs::metadata(&truth).unwrap().len();
        pattern::compare((&copy, 0), (&truth, 0), len).unwrap();
    }
}
