//! Reshapes and changes of level, both ways with the kernel: finished by one side and used by the
//! other, and cut short on one side and finished on the other.
//!
//! ```text
//!   umd: raid6 -> raid5 -> raid0 -> raid5 -> raid6    the kernel reads, checks, after each
//!   umd begins a reshape, dies --> the kernel reads both sides, finishes, checks
//!   the kernel begins one, dies --> umd reads both sides, finishes, checks
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, copy_in, copy_out, text};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
/// Size of each member.
const MEMBER: u64 = 24 * MIB;

/// An array of umd that holds `content`, in sync.
fn made(both: (&Oracle, &Umd), name: &str, words: &[&str], set: &[PathBuf], content: &Path) {
    let (oracle, umd) = both;
    let mut args = vec!["create", name, "--bitmap=none"];
    args.extend(words);
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    umd.output(&["wait", name]).unwrap();
    copy_in(oracle, content, &umd.daemon_uri(name)).unwrap();
}

fn rests(level: &str) -> impl Fn(&Value) -> bool + '_ {
    move |array| {
        array["level"] == level
            && array["degraded"] == 0
            && array["sync_action"] == "idle"
            && array["reshape"].is_null()
    }
}

fn holds(both: (&Oracle, &Umd), name: &str, content: &Path, len: u64, scratch: &Scratch) {
    let (oracle, umd) = both;
    let read = scratch.path("read");
    copy_out(oracle, &umd.daemon_uri(name), &read).unwrap();
    pattern::compare((&read, 0), (content, 0), len).unwrap();
}

/// What mdadm's 05r6tor0 is about, each stop of it seen by the kernel.
#[test]
fn the_kernel_reads_what_levels_became() {
    let what = "changes of level in the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let (content, len) = (scratch.path("content"), 40 * MIB);
    pattern::write_file(&content, 1, len).unwrap();
    let set = scratch.images("a-", 7, MEMBER).unwrap();
    made(
        (&oracle, &umd),
        "a",
        &["-l6", "-n5", "-c32"],
        &set[..5],
        &content,
    );
    let assemble = |members: &[PathBuf]| {
        let mut args = vec!["assemble", "a"];
        args.extend(members.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
    };
    let kernel = |level: &str, members: &[PathBuf], spares: usize| {
        umd.ok(&["stop", "a"]).unwrap();
        let devices: String = (0..members.len()).map(|n| format!("$D{n} ")).collect();
        let checks = if level == "raid0" {
            String::new()
        } else {
            format!(
                "wait_idle md0; n=$(check md0); [ $n = 0 ] || fail {level}: mismatch_cnt $n
                [ $(cat /sys/block/md0/md/degraded) = 0 ] || fail {level}: degraded
                n=$(mdadm --detail /dev/md0 | sed -n 's/ *Spare Devices : //p')
                [ $n = {spares} ] || fail {level}: $n spares"
            )
        };
        let run = Kernel::new(&oracle).members(members).script(&format!(
            "mdadm --assemble --quiet /dev/md0 {devices}
            [ $(cat /sys/block/md0/md/level) = {level} ] || fail $(cat /sys/block/md0/md/level)
            head -c {len} /dev/md0 | cmp - $H{} || fail {level}: other bytes
            {checks}
            mdadm --stop /dev/md0",
            text(&content)
        ));
        run.run_ok().unwrap();
        assemble(members);
        holds((&oracle, &umd), "a", &content, len, &scratch);
    };
    umd.ok(&["grow", "a", "--level=5"]).unwrap();
    umd.until("a", rests("raid5")).unwrap();
    kernel("raid5", &set[..5], 1);
    umd.ok(&["grow", "a", "--level=0"]).unwrap();
    umd.until("a", rests("raid0")).unwrap();
    kernel("raid0", &set[..3], 0);
    umd.ok(&["grow", "a", "--level=5", "--add", text(&set[5])])
        .unwrap();
    umd.until("a", rests("raid5")).unwrap();
    let five: Vec<PathBuf> = [&set[..3], &set[5..6]].concat();
    kernel("raid5", &five, 0);
    umd.ok(&["grow", "a", "--level=6", "--add", text(&set[6])])
        .unwrap();
    umd.until("a", rests("raid6")).unwrap();
    let six: Vec<PathBuf> = [&set[..3], &set[5..7]].concat();
    kernel("raid6", &six, 0);
    umd.ok(&["stop", "a"]).unwrap();
}

/// Where the kernel waits, and records where it is: member sectors. Between two such places one
/// that began a reshape while it ran does not say how far it came, whatever it has written over.
const HALF: u64 = 10_240;
/// What is cut short: level, layout before and after, devices.
const RESHAPES: [(&str, &str, &str, usize); 3] = [
    ("6", "left-symmetric", "left-symmetric-6", 5),
    ("5", "left-symmetric", "parity-last", 4),
    ("6", "left-symmetric-6", "left-symmetric", 4),
];

/// umd dies in the middle; the kernel reads both sides, goes on, and finds nothing wrong.
#[test]
fn the_kernel_finishes_a_reshape_of_umd() {
    let what = "reshapes of umd in the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let (content, len) = (scratch.path("content"), 30 * MIB);
    pattern::write_file(&content, 2, len).unwrap();
    let mut kernel = Kernel::new(&oracle);
    let mut first = 0;
    for (number, (level, from, to, count)) in RESHAPES.into_iter().enumerate() {
        let name = format!("u{number}");
        let set = scratch.images(&format!("{name}-"), count, MEMBER).unwrap();
        let words = [
            &format!("-l{level}"),
            &format!("-n{count}"),
            "-c32",
            "-p",
            from,
        ];
        made((&oracle, &umd), &name, &words, &set, &content);
        umd.ok(&["action", &name, "--to=7M"]).unwrap();
        umd.ok(&["grow", &name, &format!("--layout={to}")]).unwrap();
        umd.until(&name, |array| array["sync"]["held"] == true)
            .unwrap();
        holds((&oracle, &umd), &name, &content, len, &scratch);
        let array = umd.detail(&name).unwrap();
        let position = array["reshape"]["position_sectors"].as_u64();
        assert!(position.is_some_and(|at| at > 0), "in the middle: {array}");
        umd.kill_daemon(&name).unwrap();
        let devices: String = (first..first + count).map(|n| format!("$D{n} ")).collect();
        first += count;
        kernel = kernel.members(&set).script(&format!(
            "mdadm --assemble --run --quiet /dev/md{number} {devices}
            head -c {len} /dev/md{number} | cmp - $H{content} || fail {level}: other bytes
            wait_idle md{number}
            p=$(cat /sys/block/md{number}/md/reshape_position)
            [ $p = none ] || fail {level}: still at $p
            l=$(mdadm --detail /dev/md{number} | sed -n 's/ *Layout : //p')
            [ $l = {to} ] || fail {level}: layout $l
            n=$(check md{number}); [ $n = 0 ] || fail {level}: mismatch_cnt $n
            head -c {len} /dev/md{number} | cmp - $H{content} || fail {level}: other bytes at last
            mdadm --stop /dev/md{number}",
            content = text(&content)
        ));
    }
    kernel.run_ok().unwrap();
}

/// The kernel dies in the middle; umd reads both sides, goes on, and finds nothing wrong.
#[test]
fn umd_finishes_a_reshape_of_the_kernel() {
    let what = "reshapes of the kernel in umd";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let (content, len) = (scratch.path("content"), 30 * MIB);
    pattern::write_file(&content, 3, len).unwrap();
    let mut kernel = Kernel::new(&oracle);
    let mut sets = Vec::new();
    let mut first = 0;
    for (number, (level, from, _, count)) in RESHAPES.into_iter().enumerate() {
        let set = scratch
            .images(&format!("k{number}-"), count, MEMBER)
            .unwrap();
        let devices: String = (first..first + count).map(|n| format!("$D{n} ")).collect();
        let up = number == 1;
        let numbers: String = (first..first + count).map(|n| format!("{n} ")).collect();
        first += count;
        let (sign, way) = if up {
            ("+", "backwards")
        } else {
            ("-", "forwards")
        };
        let layout = [18, 5, 2][number];
        kernel = kernel.members(&set).script(&format!(
            "mdadm --create --run --quiet /dev/md{number} -l{level} -n{count} -c32 --layout={from} \
                --bitmap=none -z 20M {devices}
            wait_idle md{number}
            dd if=$H{content} of=/dev/md{number} bs=1M count=30 conv=fsync 2>/dev/null
            cd /sys/block/md{number}/md
            echo {way} >reshape_direction
            for n in {numbers}; do
                eval d=\\$D$n; d=dev-${{d#/dev/}}
                o=$(cat $d/offset); echo $((o {sign} 512)) >$d/new_offset || fail new_offset
            done
            echo {layout} >layout
            echo {HALF} >sync_max
            echo reshape >sync_action
            until grep -q '^{HALF} ' sync_completed; do sleep 0.1; done
            cd /
            grep -q reshape /sys/block/md{number}/md/sync_action || fail {level}: no reshape",
            content = text(&content)
        ));
        sets.push(set);
    }
    kernel
        .script("sleep 1; cat /proc/mdstat; sync; crash")
        .run_crash()
        .unwrap();
    for (number, (_, _, to, _)) in RESHAPES.into_iter().enumerate() {
        let name = format!("k{number}");
        for member in &sets[number] {
            let bytes = fs::read(member).unwrap();
            let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let events = field(4096 + 200);
            let position = field(4096 + 104);
            println!("{name}: position {position} events {events}");
            assert!(position % HALF == 0 && position > 0, "in the middle");
        }
        let mut args = vec!["assemble", "--readonly", &name];
        args.extend(sets[number].iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        holds((&oracle, &umd), &name, &content, len, &scratch);
        umd.ok(&["stop", &name]).unwrap();
        let mut args = vec!["assemble", &name];
        args.extend(sets[number].iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        holds((&oracle, &umd), &name, &content, len, &scratch);
        let array = umd.until(&name, |array| {
            array["reshape"].is_null() && array["sync_action"] == "idle"
        });
        let array = array.unwrap();
        assert_eq!(array["layout"], to, "{array}");
        holds((&oracle, &umd), &name, &content, len, &scratch);
        umd.ok(&["action", &name, "check", "--wait"]).unwrap();
        assert_eq!(umd.detail(&name).unwrap()["mismatch_cnt"], 0, "{name}");
        umd.ok(&["stop", &name]).unwrap();
    }
}
