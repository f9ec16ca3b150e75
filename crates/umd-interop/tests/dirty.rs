//! Arrays whose kernel crashed in the middle of writes: umd reads old or new, nothing else, makes
//! the members agree, and the kernel finds nothing left to do.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs;
use std::path::{Path, PathBuf};

use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::{Scratch, fingerprints};
use umd_interop::umd::{Umd, copy_out};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
const SECTOR: usize = 512;
/// (level, members, bitmap, metadata)
const ARRAYS: [(&str, usize, &str, &str); 10] = [
    ("1", 2, "none", "1.2"),
    ("1", 3, "internal", "1.2"),
    ("4", 3, "internal", "1.2"),
    ("4", 4, "none", "1.2"),
    ("5", 3, "none", "1.2"),
    ("5", 4, "internal", "1.2"),
    ("6", 4, "internal", "1.2"),
    ("6", 5, "none", "1.2"),
    ("1", 2, "internal", "0.90"),
    ("5", 3, "none", "0.90"),
];

struct Crashed {
    scratch: Scratch,
    sets: Vec<Vec<PathBuf>>,
    old: PathBuf,
    new: PathBuf,
}

fn devices(first: usize, count: usize) -> String {
    (first..first + count)
        .map(|number| format!("$D{number} "))
        .collect()
}

/// All arrays filled with one content and, when the kernel dies, half overwritten with another.
fn crash(oracle: &Oracle) -> Crashed {
    let scratch = Scratch::new().unwrap();
    let (old, new) = (scratch.path("old"), scratch.path("new"));
    pattern::write_file(&old, 1, 24 * MIB).unwrap();
    pattern::write_file(&new, 2, 24 * MIB).unwrap();
    let mut kernel = Kernel::new(oracle);
    let mut sets = Vec::new();
    let (mut first, mut writes) = (0, String::new());
    for (number, (level, count, bitmap, metadata)) in ARRAYS.into_iter().enumerate() {
        let set = scratch
            .images(&format!("{number}-"), count, 7 * MIB)
            .unwrap();
        let chunk = if level == "1" { "" } else { "-c16" };
        kernel = kernel.members(&set).script(&format!(
            "mdadm --create --run --quiet /dev/md{number} -l{level} -n{count} {chunk} \
                -e{metadata} --bitmap={bitmap} {}
            size=$(blockdev --getsize64 /dev/md{number})
            head -c $size $H{} | dd of=/dev/md{number} bs=1M conv=fsync 2>/dev/null
            wait_idle md{number}
            echo 30 >/sys/block/md{number}/md/safe_mode_delay",
            devices(first, count),
            old.display()
        ));
        writes.push_str(&format!("overwrite md{number} &\n"));
        first += count;
        sets.push(set);
    }
    // The power goes while every array is being written.
    let crash = format!(
        "overwrite() {{
            i=0
            while [ $i -lt 60 ]; do
                dd if=$H{} of=/dev/$1 bs=20k skip=$i seek=$i count=1 conv=notrunc,fsync 2>/dev/null
                i=$((i + 1))
            done
        }}
        sync
        {writes}
        for f in /sys/block/md*/md/array_state; do
            while [ $(cat $f) != active ]; do sleep 0.01; done
        done
        sleep 0.1; crash",
        new.display()
    );
    kernel.script(&crash).run_crash().unwrap();
    Crashed {
        scratch,
        sets,
        old,
        new,
    }
}

fn paths(members: &[PathBuf]) -> Vec<&str> {
    members.iter().map(|path| path.to_str().unwrap()).collect()
}

/// Every sector is from the one file or the other.
fn old_or_new(image: &Path, crashed: &Crashed) -> (usize, usize) {
    let read = |path: &Path| fs::read(path).unwrap();
    let (image, old, new) = (read(image), read(&crashed.old), read(&crashed.new));
    let (mut olds, mut news) = (0, 0);
    for (number, sector) in image.chunks_exact(SECTOR).enumerate() {
        let place = number * SECTOR..(number + 1) * SECTOR;
        match (sector == &old[place.clone()], sector == &new[place]) {
            (true, _) => olds += 1,
            (_, true) => news += 1,
            _ => panic!("sector {number} is neither old nor new"),
        }
    }
    (olds, news)
}

fn array_state_on_disk(oracle: &Oracle, member: &Path) -> String {
    let text = oracle
        .text("mdadm", &["--examine", member.to_str().unwrap()])
        .unwrap();
    let state = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("State : "));
    state
        .unwrap_or_else(|| panic!("no state in\n{text}"))
        .to_string()
}

#[test]
fn arrays_of_a_crashed_kernel_are_made_whole() {
    let Some(oracle) = Oracle::or_skip("arrays of a crashed kernel") else {
        return;
    };
    let crashed = crash(&oracle);
    for set in &crashed.sets {
        assert_eq!(array_state_on_disk(&oracle, &set[0]), "active", "{set:?}");
    }
    let Some(umd) = Umd::or_skip("arrays of a crashed kernel") else {
        return;
    };
    let out = crashed.scratch.path("out");
    let mut back = Kernel::new(&oracle);
    let mut first = 0;
    for (number, set) in crashed.sets.iter().enumerate() {
        let (level, count, bitmap, _) = ARRAYS[number];
        let what = format!("raid{level} of {count}, bitmap {bitmap}");
        let name = format!("d{number}");
        let mut args = vec!["assemble", &name];
        args.extend(paths(set));
        umd.ok(&args).unwrap();
        copy_out(&oracle, &umd.daemon_uri(&name), &out).unwrap();
        let (olds, news) = old_or_new(&out, &crashed);
        println!("{what}: {olds} sectors old, {news} new");
        umd.output(&["wait", &name]).unwrap();
        umd.ok(&["stop", &name]).unwrap();
        assert_eq!(array_state_on_disk(&oracle, &set[0]), "clean", "{what}");
        let kept = crashed.scratch.path(&format!("kept{number}"));
        fs::rename(&out, &kept).unwrap();
        back = back.members(set).script(&format!(
            "mdadm --assemble --quiet /dev/md{number} {}
            [ $(cat /sys/block/md{number}/md/resync_start) = none ] || fail {what}: not clean
            same md{number} $H{}
            n=$(check md{number}); [ $n = 0 ] || fail {what}: mismatch_cnt $n
            mdadm --stop /dev/md{number}",
            devices(first, count),
            kept.display()
        ));
        first += count;
    }
    back.run_ok().unwrap();
}

#[test]
fn unclean_and_degraded_is_started_only_by_force() {
    let Some(oracle) = Oracle::or_skip("unclean and degraded") else {
        return;
    };
    let Some(umd) = Umd::or_skip("unclean and degraded") else {
        return;
    };
    let crashed = crash(&oracle);
    let set = &crashed.sets[4];
    assert_eq!(ARRAYS[4].0, "5");
    let folder = crashed.scratch.path("");
    let before = fingerprints(&folder).unwrap();
    let mut args = vec!["assemble", "ud", "--run"];
    args.extend(paths(&set[..2]));
    let refused = umd.output(&args).unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(
        message.contains("not clean") && message.contains("--force"),
        "{message}"
    );
    assert_eq!(
        fingerprints(&folder).unwrap(),
        before,
        "a refused array was written"
    );
    args.push("--force");
    umd.ok(&args).unwrap();
    umd.ok(&["stop", "ud"]).unwrap();
}
