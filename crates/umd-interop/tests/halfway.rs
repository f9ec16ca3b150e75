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

use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, copy_in};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
/// Where the first side waits: sectors of each member.
const HALF: u64 = 36_864;
/// Where the scar is: sectors of a member's data.
const SCAR: u64 = 4096;
/// Level, members, and the sectors that a check counts for one wrong block: 64 KiB of a mirror, a
/// chunk of a RAID10, 4 KiB of a row.
const ARRAYS: [(&str, usize, u64); 3] = [("1", 2, 128), ("5", 3, 8), ("10", 4, 32)];

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// A number of a member's superblock, as umd reads it.
fn field(umd: &Umd, member: &std::path::Path, name: &str) -> Option<u64> {
    let document = umd.ok(&["examine", "--json", text(member)]).unwrap();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    document["devices"][0]["superblock"][name].as_u64()
}

fn scar(umd: &Umd, member: &std::path::Path) {
    let start = field(umd, member, "data_offset_bytes").unwrap();
    pattern::write_at(member, 99, start + SCAR * 512, 4096).unwrap();
}

fn detail(umd: &Umd, name: &str) -> serde_json::Value {
    let document = umd.ok(&["detail", "--json", name]).unwrap();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    document["arrays"][0].clone()
}

fn kill_daemon(umd: &Umd, name: &str) {
    let pid = detail(umd, name)["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while rustix::process::test_kill_process(pid).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn chunk(level: &str) -> &'static str {
    if level == "1" { "" } else { "-c16" }
}

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
        let (level_word, count_word) = (format!("-l{level}"), format!("-n{count}"));
        let mut args = vec!["create", &name, &level_word, &count_word, "--bitmap=none"];
        args.extend(
            ["--assume-clean", chunk(level)]
                .iter()
                .filter(|word| !word.is_empty()),
        );
        args.extend(set[..count].iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        copy_in(&oracle, &content, &umd.daemon_uri(&name)).unwrap();
        umd.ok(&["action", &name, &format!("--to={HALF}s")])
            .unwrap();
        let (lost, new) = (text(&set[1]), text(&set[count]));
        umd.ok(&[
            "manage", &name, "--fail", lost, "--remove", lost, "--add", new,
        ])
        .unwrap();
        while detail(&umd, &name)["sync"]["held"] != true {}
        while detail(&umd, &name)["array_state"] != "clean" {}
        kill_daemon(&umd, &name);
        assert_eq!(
            field(&umd, &set[count], "recovery_offset_bytes"),
            Some(HALF * 512)
        );
        scar(&umd, &set[count]);
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

    for (number, (level, count, unit)) in ARRAYS.into_iter().enumerate() {
        let set = &sets[number];
        let done = field(&umd, &set[count], "recovery_offset_bytes").unwrap();
        assert!(
            (SCAR + 8) * 512 < done && done <= HALF * 512,
            "raid{level}: {done}"
        );
        scar(&umd, &set[count]);
        let name = format!("k{number}");
        let mut args = vec!["assemble", "--run", &name];
        let kept = set[..1].iter().chain(&set[2..]);
        args.extend(kept.map(|path| text(path)));
        finished(&umd, &args, &name, unit);
    }
    let done = field(&umd, &set[0], "resync_offset_bytes").unwrap();
    assert!(
        (SCAR + 8) * 512 < done && done <= HALF * 512,
        "resync: {done}"
    );
    scar(&umd, &set[1]);
    let mut args = vec!["assemble", "k9"];
    args.extend(set.iter().map(|path| text(path)));
    finished(&umd, &args, "k9", 8);
}

/// umd goes on to the end, and finds the scar then and nothing else.
fn finished(umd: &Umd, args: &[&str], name: &str, unit: u64) {
    umd.ok(args).unwrap();
    umd.output(&["wait", name]).unwrap();
    let array = detail(umd, name);
    assert_eq!(array["degraded"], 0, "{array}");
    assert_eq!(array["sync_pending"], false, "{array}");
    umd.ok(&["action", name, "check", "--wait"]).unwrap();
    assert_eq!(detail(umd, name)["mismatch_cnt"], unit, "{name}");
    umd.ok(&["stop", name]).unwrap();
}
