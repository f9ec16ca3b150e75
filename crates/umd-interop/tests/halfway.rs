//! Rebuilds and resyncs cut short on one side go on, on the other, where they were.
//!
//! ```text
//!   one side syncs up to sync_max, records that, and dies
//!   a block below it is overwritten behind both their backs: the scar
//!   the other side finishes, and a check finds the scar, and nothing else
//! ```
//!
//! Had the other side begun again at 0, the scar would be gone.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::path::PathBuf;

use umd_interop::halfway::{self, HALF, SCAR, chunk, is_half_done, scar, waits};
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
/// Level, members, and the sectors that a check counts for one wrong block: 64 KiB of a mirror, a
/// chunk of a RAID10, 4 KiB of a row.
const ARRAYS: [(&str, usize, u64); 3] = [("1", 2, 128), ("5", 3, 8), ("10", 4, 32)];

#[test]
fn the_kernel_finishes_what_umd_began_to_rebuild() {
    let what = "rebuilds of umd in the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let content = scratch.path("content");
    pattern::write_file(&content, 1, 20 * MIB).unwrap();
    let mut kernel = Kernel::new(&oracle);
    let mut first = 0;
    for (number, (level, count, unit)) in ARRAYS.into_iter().enumerate() {
        let name = format!("h{number}");
        let set = scratch
            .images(&format!("{number}-"), count + 1, 40 * MIB)
            .unwrap();
        let both = (&oracle, &umd);
        halfway::made(both, &name, level, &set[..count], &content).unwrap();
        let (lost, new) = (text(&set[1]), text(&set[count]));
        umd.ok(&[
            "manage", &name, "--fail", lost, "--remove", lost, "--add", new,
        ])
        .unwrap();
        umd.until(&name, waits).unwrap();
        umd.kill_daemon(&name).unwrap();
        let fields = umd.superblock(&set[count]).unwrap();
        assert_eq!(fields["recovery_offset_bytes"], HALF * 512, "{fields}");
        scar(&umd, &set[count]).unwrap();
        let members: Vec<PathBuf> = [&set[..1], &set[2..]].concat();
        let devices: String = (first..first + count).map(|n| format!("$D{n} ")).collect();
        first += count;
        kernel = kernel.members(&members).script(&format!(
            "mdadm --assemble --run --quiet /dev/md{number} {devices}
            wait_idle md{number}
            [ $(cat /sys/block/md{number}/md/degraded) = 0 ] || fail raid{level}: degraded
            n=$(check md{number}); [ $n = {unit} ] || fail raid{level}: mismatch_cnt $n
            mdadm --stop /dev/md{number}"
        ));
    }
    kernel.run_ok().unwrap();
}

/// Large enough that a resync is told where to wait before it is past that; nothing but holes.
const LARGE: u64 = 1280 * MIB;

/// An array of holes whose resync umd began, and waits with in the middle.
fn begun(umd: &Umd, name: &str, level: &str, set: &[PathBuf]) {
    let (level_word, count_word) = (format!("-l{level}"), format!("-n{}", set.len()));
    let mut args = vec!["create", "--run", "--bitmap=none"];
    let more = [name, &level_word, &count_word, chunk(level)];
    args.extend(more.iter().filter(|word| !word.is_empty()));
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    umd.ok(&["action", name, "--to=1G"]).unwrap();
    umd.until(name, waits).unwrap();
}

#[test]
fn the_kernel_finishes_a_resync_of_umd() {
    let what = "resyncs of umd in the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let mut kernel = Kernel::new(&oracle);
    let mut first = 0;
    for (number, &(level, count, unit)) in ARRAYS[..2].iter().enumerate() {
        let name = format!("s{number}");
        let set = scratch.images(&format!("{number}-"), count, LARGE).unwrap();
        begun(&umd, &name, level, &set);
        umd.kill_daemon(&name).unwrap();
        for member in &set {
            let fields = umd.superblock(member).unwrap();
            let done = fields["resync_offset_bytes"].as_u64();
            let past = (SCAR + 8) * 512..=1024 * MIB;
            assert!(done.is_some_and(|done| past.contains(&done)), "{fields}");
        }
        scar(&umd, &set[1]).unwrap();
        let devices: String = (first..first + count).map(|n| format!("$D{n} ")).collect();
        first += count;
        kernel = kernel.members(&set).script(&format!(
            "mdadm --assemble --run --quiet /dev/md{number} {devices}
            wait_idle md{number}
            n=$(check md{number}); [ $n = {unit} ] || fail raid{level}: mismatch_cnt $n
            mdadm --stop /dev/md{number}"
        ));
    }
    kernel.run_ok().unwrap();
}

/// The kernel syncs up to `HALF` and dies when that is recorded.
fn half_done(kernel: Kernel, number: usize, begin: &str) -> Kernel {
    kernel.script(&format!(
        "echo 2000 >/proc/sys/dev/raid/speed_limit_min
        echo 2000 >/proc/sys/dev/raid/speed_limit_max
        {begin}
        echo 1000000 >/proc/sys/dev/raid/speed_limit_min
        echo 2000000 >/proc/sys/dev/raid/speed_limit_max
        until grep -q '^{HALF} ' /sys/block/md{number}/md/sync_completed; do sleep 0.1; done
        until grep -q clean /sys/block/md{number}/md/array_state; do sleep 0.1; done
        sleep 1"
    ))
}

#[test]
fn umd_finishes_what_the_kernel_began() {
    let what = "rebuilds and resyncs of the kernel in umd";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let mut kernel = Kernel::new(&oracle);
    let mut sets = Vec::new();
    let mut first = 0;
    for (number, (level, count, _)) in ARRAYS.into_iter().enumerate() {
        let set = scratch
            .images(&format!("{number}-"), count + 1, 40 * MIB)
            .unwrap();
        for (n, member) in set.iter().enumerate() {
            // Mirrors are clean, but for the new member; of a row one is computed from the others.
            let new = n == count;
            let seed = if level == "5" || new { n as u64 } else { 7 };
            pattern::write_file(member, seed, 40 * MIB).unwrap();
        }
        let devices: String = (first..first + count).map(|n| format!("$D{n} ")).collect();
        let (lost, new) = (first + 1, first + count);
        let begin = format!(
            "mdadm --create --run --quiet --assume-clean /dev/md{number} -l{level} -n{count} \
                {} --bitmap=none {devices}
            mdadm /dev/md{number} --fail $D{lost} --remove $D{lost}
            echo frozen >/sys/block/md{number}/md/sync_action
            mdadm /dev/md{number} --add $D{new}
            echo {HALF} >/sys/block/md{number}/md/sync_max
            echo idle >/sys/block/md{number}/md/sync_action",
            chunk(level),
        );
        kernel = half_done(kernel.members(&set), number, &begin);
        first += count + 1;
        sets.push(set);
    }
    // And a resync: parity of what lies on the members.
    let set = scratch.images("r-", 3, 40 * MIB).unwrap();
    for (n, member) in set.iter().enumerate() {
        pattern::write_file(member, 50 + n as u64, 40 * MIB).unwrap();
    }
    let devices: String = (first..first + 3).map(|n| format!("$D{n} ")).collect();
    // Without --force mdadm makes it a rebuild. And md lets nobody lower sync_max while it runs.
    let begin = format!(
        "mdadm --create --run --force --quiet /dev/md9 -l5 -n3 -c16 --bitmap=none {devices}
        echo frozen >/sys/block/md9/md/sync_action
        echo {HALF} >/sys/block/md9/md/sync_max
        echo idle >/sys/block/md9/md/sync_action"
    );
    kernel = half_done(kernel.members(&set), 9, &begin);
    kernel.script("sync; crash").run_crash().unwrap();

    for (number, (_, count, unit)) in ARRAYS.into_iter().enumerate() {
        let set = &sets[number];
        is_half_done(&umd, &set[count], "recovery_offset_bytes").unwrap();
        scar(&umd, &set[count]).unwrap();
        let name = format!("k{number}");
        let mut args = vec!["assemble", "--run", &name];
        let kept = set[..1].iter().chain(&set[2..]);
        args.extend(kept.map(|path| text(path)));
        finished(&umd, &args, &name, unit);
    }
    is_half_done(&umd, &set[0], "resync_offset_bytes").unwrap();
    scar(&umd, &set[1]).unwrap();
    let mut args = vec!["assemble", "k9"];
    args.extend(set.iter().map(|path| text(path)));
    finished(&umd, &args, "k9", 8);
}

/// umd goes on to the end, and finds the scar then and nothing else.
fn finished(umd: &Umd, args: &[&str], name: &str, unit: u64) {
    umd.ok(args).unwrap();
    umd.output(&["wait", name]).unwrap();
    let array = umd.detail(name).unwrap();
    assert_eq!(array["degraded"], 0, "{array}");
    assert_eq!(array["sync_pending"], false, "{array}");
    umd.ok(&["action", name, "check", "--wait"]).unwrap();
    assert_eq!(umd.detail(name).unwrap()["mismatch_cnt"], unit, "{name}");
    umd.ok(&["stop", name]).unwrap();
}
