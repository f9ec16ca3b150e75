//! RAID1 that gets more devices or fewer, both ways with the kernel: what one side has made of it
//! the other reads, checks, and goes on with.
//!
//! ```text
//!   umd: 2 -> 3 -> 4 -> 3 -> 2     the kernel reads, checks, after each; mdadm says who is where
//!   the kernel: 2 -> 3 -> 2 -> 4   umd reads what it left, and changes it again
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

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
/// Of that the content of the array.
const LEN: u64 = 16 * MIB;

fn has(slots: u64, degraded: u64) -> impl Fn(&Value) -> bool {
    move |array| {
        array["raid_disks"] == slots
            && array["degraded"] == degraded
            && array["sync"].is_null()
            && array["sync_pending"] == false
    }
}

fn assemble(umd: &Umd, name: &str, set: &[PathBuf]) {
    let mut args = vec!["assemble", name];
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
}

fn holds(both: (&Oracle, &Umd), name: &str, content: &Path, scratch: &Scratch) {
    let (oracle, umd) = both;
    let read = scratch.path("read");
    copy_out(oracle, &umd.daemon_uri(name), &read).unwrap();
    pattern::compare((&read, 0), (content, 0), LEN).unwrap();
}

/// What it said, and that it went wrong.
fn refused(umd: &Umd, args: &[&str]) -> String {
    let output = umd.output(args).unwrap();
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// All that it said, where it went well.
fn said(umd: &Umd, args: &[&str]) -> String {
    let output = umd.output(args).unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{args:?}: {text}");
    text
}

/// The kernel takes these for an array of so many slots without gaps, and finds nothing wrong.
fn seen_by_the_kernel(oracle: &Oracle, set: &[PathBuf], (slots, content): (usize, &Path)) {
    let devices: String = (0..set.len()).map(|n| format!("$D{n} ")).collect();
    let run = Kernel::new(oracle).members(set).script(&format!(
        "mdadm --assemble --quiet /dev/md0 {devices}
        [ $(cat /sys/block/md0/md/raid_disks) = {slots} ] || fail $(cat /proc/mdstat)
        [ $(cat /sys/block/md0/md/degraded) = 0 ] || fail degraded
        head -c {LEN} /dev/md0 | cmp - $H{} || fail other bytes
        wait_idle md0; n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n
        mdadm --stop /dev/md0",
        text(content)
    ));
    run.run_ok().unwrap();
}

#[test]
fn the_kernel_reads_what_a_mirror_has_become() {
    let what = "RAID1 with other numbers of devices in the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let content = scratch.path("content");
    pattern::write_file(&content, 1, LEN).unwrap();
    let set = scratch.images("a-", 5, MEMBER).unwrap();
    let path = |n: usize| text(&set[n]);
    umd.ok(&["create", "a", "-l1", "-n2", path(0), path(1)])
        .unwrap();
    umd.output(&["wait", "a"]).unwrap();
    copy_in(&oracle, &content, &umd.daemon_uri("a")).unwrap();
    let events = |umd: &Umd| umd.detail("a").unwrap()["events"].clone();
    // What was written before is marked clean after a while.
    umd.until("a", |array| array["array_state"] == "clean")
        .unwrap();
    let before = events(&umd);
    for (args, why) in [
        (&["-n0"][..], "invalid number of raid devices"),
        (&["-n1"], "'1' is an unusual number"),
        (&["-n3"], "1 device more would be needed"),
        (&["-n1920", "--force"], "at most 1919"),
        (&["-n1", "--force"], "2 members work"),
        (&["-n4", "--add", path(2)], "2 devices more would be needed"),
        (&["-n3", "--add", path(1)], "is in use"),
        (&["-n3", "--bitmap=none"], "one after the other"),
    ] {
        let said = refused(&umd, &[&["grow", "a"], args].concat());
        assert!(said.contains(why), "{args:?}: {said}");
    }
    assert_eq!(events(&umd), before, "nothing was written");
    let same = said(&umd, &["grow", "a", "-n2"]);
    assert!(same.contains("no change requested"), "{same}");
    let dry = ["grow", "a", "-n3", "--dry-run", "--add", path(2)];
    let dry = said(&umd, &dry);
    assert!(dry.contains("would set raid_disks for a to 3"), "{dry}");
    assert_eq!(events(&umd), before, "nor for these");
    let grown = said(&umd, &["grow", "a", "-n3", "--add", path(2)]);
    assert!(grown.contains("raid_disks for a set to 3"), "{grown}");
    umd.until("a", has(3, 0)).unwrap();
    let kernel = |members: &[usize]| {
        let members: Vec<PathBuf> = members.iter().map(|n| set[*n].clone()).collect();
        umd.ok(&["stop", "a"]).unwrap();
        seen_by_the_kernel(&oracle, &members, (members.len(), &content));
        assemble(&umd, "a", &members);
        holds((&oracle, &umd), "a", &content, &scratch);
    };
    kernel(&[0, 1, 2]);
    // Degraded: the slots come first, then who fills them.
    umd.ok(&["manage", "a", "--fail", path(1)]).unwrap();
    umd.ok(&["manage", "a", "--remove", path(1)]).unwrap();
    let words = ["grow", "a", "--raid-devices=4", "--json", "--add"];
    let json = umd.ok(&[&words[..], &[path(3), path(4)]].concat()).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["raid_disks"], 4, "{json}");
    umd.until("a", has(4, 0)).unwrap();
    kernel(&[0, 2, 3, 4]);
    // Who has the slot that goes gets one that is empty.
    umd.ok(&["manage", "a", "--fail", path(0)]).unwrap();
    umd.ok(&["manage", "a", "--remove", path(0)]).unwrap();
    umd.ok(&["grow", "a", "-n3"]).unwrap();
    umd.until("a", has(3, 0)).unwrap();
    kernel(&[2, 3, 4]);
    umd.ok(&["stop", "a"]).unwrap();
}

#[test]
fn what_the_kernel_made_of_a_mirror_is_read_and_changed_again() {
    let what = "RAID1 with other numbers of devices from the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let content = scratch.path("content");
    pattern::write_file(&content, 1, LEN).unwrap();
    let set = scratch.images("b-", 4, MEMBER).unwrap();
    let run = Kernel::new(&oracle).members(&set).script(&format!(
        "mdadm -CR /dev/md0 --metadata=1.2 -l1 -n2 -b internal $D0 $D1
        dd if=$H{} of=/dev/md0 bs=1M conv=fsync
        wait_idle md0
        mdadm --grow /dev/md0 -n3 --add $D2
        wait_idle md0
        mdadm /dev/md0 --fail $D0; mdadm /dev/md0 --remove $D0
        mdadm --grow /dev/md0 -n2
        mdadm --grow /dev/md0 -n4 --force
        mdadm /dev/md0 --add $D3
        wait_idle md0
        mdadm --stop /dev/md0",
        text(&content)
    ));
    run.run_ok().unwrap();
    assemble(&umd, "b", &set[1..]);
    umd.until("b", has(4, 1)).unwrap();
    holds((&oracle, &umd), "b", &content, &scratch);
    umd.ok(&["grow", "b", "-n3"]).unwrap();
    umd.until("b", has(3, 0)).unwrap();
    umd.ok(&["stop", "b"]).unwrap();
    seen_by_the_kernel(&oracle, &set[1..], (3, &content));
}
