//! Members that are being replaced on one side are replaced, from where that was, on the other.
//!
//! ```text
//!   slot 1:  the old one serves | the new one is filled up to sync_max, that is recorded; death
//!            a block of the new one below it is overwritten behind both their backs: the scar
//!   the other side finishes: the old one is faulty, and a check finds the scar and nothing else
//! ```
//!
//! Had the other side begun again at 0, the scar would be gone.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::path::{Path, PathBuf};

use umd_interop::halfway::{self, HALF, chunk, is_half_done, scar, waits};
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
/// Level, members, and the sectors that a check counts for one wrong block.
const ARRAYS: [(&str, usize, u64); 4] = [("1", 2, 128), ("5", 3, 8), ("6", 4, 8), ("10", 4, 32)];

fn state_of(array: &serde_json::Value, member: &Path) -> String {
    let members = array["members"].as_array().unwrap();
    let found = members.iter().find(|m| m["path"] == text(member));
    found
        .map_or("none", |m| m["state"].as_str().unwrap())
        .to_owned()
}

#[test]
fn the_kernel_finishes_a_replacement_of_umd() {
    let what = "replacements of umd in the kernel";
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
        let (old, new) = (text(&set[1]), text(&set[count]));
        let added = ["manage", &name, "--add", new];
        umd.ok(&added).unwrap();
        umd.ok(&["manage", &name, "--replace", old, "--with", new])
            .unwrap();
        umd.until(&name, waits).unwrap();
        assert_eq!(umd.detail(&name).unwrap()["degraded"], 0);
        umd.kill_daemon(&name).unwrap();
        let fields = umd.superblock(&set[count]).unwrap();
        assert_eq!(fields["recovery_offset_bytes"], HALF * 512, "{fields}");
        scar(&umd, &set[count]).unwrap();
        let devices: String = (first..=first + count).map(|n| format!("$D{n} ")).collect();
        let (old, new) = (first + 1, first + count);
        first += count + 1;
        kernel = kernel.members(&set).script(&format!(
            "mdadm --assemble --run --quiet /dev/md{number} {devices}
            wait_idle md{number}
            md=/sys/block/md{number}/md
            [ $(cat $md/degraded) = 0 ] || fail raid{level}: degraded
            old=$(cat $md/dev-${{D{old}#/dev/}}/state)
            new=$(cat $md/dev-${{D{new}#/dev/}}/state)
            [ $old = faulty ] || fail raid{level}: the old one is $old
            [ $new = in_sync ] || fail raid{level}: the new one is $new
            n=$(check md{number}); [ $n = {unit} ] || fail raid{level}: mismatch_cnt $n
            mdadm --stop /dev/md{number}"
        ));
    }
    kernel.run_ok().unwrap();
}

#[test]
fn umd_finishes_a_replacement_of_the_kernel() {
    let what = "replacements of the kernel in umd";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let mut kernel = Kernel::new(&oracle).script(
        "echo 2000 >/proc/sys/dev/raid/speed_limit_min
        echo 2000 >/proc/sys/dev/raid/speed_limit_max",
    );
    let mut sets: Vec<Vec<PathBuf>> = Vec::new();
    let mut first = 0;
    for (number, (level, count, _)) in ARRAYS.into_iter().enumerate() {
        let set = scratch
            .images(&format!("{number}-"), count + 1, 40 * MIB)
            .unwrap();
        for (n, member) in set.iter().enumerate() {
            // Mirrors are clean, but for the new member; parity is made by a repair.
            let new = n == count;
            let seed = if level != "1" && level != "10" || new {
                n as u64
            } else {
                7
            };
            pattern::write_file(member, seed, 40 * MIB).unwrap();
        }
        let devices: String = (first..first + count).map(|n| format!("$D{n} ")).collect();
        let (old, new) = (first + 1, first + count);
        kernel = kernel.members(&set).script(&format!(
            "md=/sys/block/md{number}/md
            echo 1000000 >/proc/sys/dev/raid/speed_limit_min
            echo 2000000 >/proc/sys/dev/raid/speed_limit_max
            mdadm --create --run --quiet --assume-clean /dev/md{number} -l{level} -n{count} \
                {} --bitmap=none {devices}
            repair md{number}
            echo frozen >$md/sync_action
            mdadm /dev/md{number} --add $D{new}
            mdadm /dev/md{number} --replace $D{old} --with $D{new}
            echo {HALF} >$md/sync_max
            echo idle >$md/sync_action
            until grep -q '^{HALF} ' $md/sync_completed; do sleep 0.1; done
            until grep -q clean $md/array_state; do sleep 0.1; done
            grep -q '^md{number} :.*(R)' /proc/mdstat || fail raid{level}: no replacement
            sleep 1",
            chunk(level),
        ));
        first += count + 1;
        sets.push(set);
    }
    kernel.script("sync; crash").run_crash().unwrap();

    for (number, (_, count, unit)) in ARRAYS.into_iter().enumerate() {
        let set = &sets[number];
        is_half_done(&umd, &set[count], "recovery_offset_bytes").unwrap();
        scar(&umd, &set[count]).unwrap();
        let name = format!("k{number}");
        let mut args = vec!["assemble", "--run", &name];
        args.extend(set.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        umd.output(&["wait", &name]).unwrap();
        let array = umd.detail(&name).unwrap();
        assert_eq!(array["degraded"], 0, "{array}");
        assert_eq!(state_of(&array, &set[1]), "faulty", "{array}");
        assert_eq!(state_of(&array, &set[count]), "in_sync", "{array}");
        umd.ok(&["action", &name, "check", "--wait"]).unwrap();
        assert_eq!(umd.detail(&name).unwrap()["mismatch_cnt"], unit, "{name}");
        umd.ok(&["stop", &name]).unwrap();
    }
}
