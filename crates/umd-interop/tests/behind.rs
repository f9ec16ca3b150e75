//! Write-behind between the kernel and umd: what one of them was told the other one keeps, and what
//! lagged has landed when the array changes hands.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::path::{Path, PathBuf};

use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, copy_in};
use umd_interop::uml::{Kernel, KernelRun};

const MIB: u64 = 1 << 20;
const MEMBER: u64 = 16 * MIB;
const CONTENT: u64 = 8 * MIB;

fn paths(members: &[PathBuf]) -> Vec<&str> {
    members.iter().map(|path| path.to_str().unwrap()).collect()
}

/// mdadm's words for the bitmap of a member, without the name it has there.
fn show_bitmap(device: &str) -> String {
    format!("mdadm --examine-bitmap {device} | grep -v Filename | sed 's/^/BM /'\n")
}

fn shown(run: &KernelRun) -> String {
    let lines = run.stdout.lines();
    let lines = lines.filter_map(|line| line.trim_end().strip_prefix("BM "));
    lines.map(|line| format!("{line}\n")).collect()
}

fn shown_by_umd(umd: &Umd, member: &Path) -> String {
    let text = umd.ok(&["--examine-bitmap", member.to_str().unwrap()]);
    let text = text.unwrap();
    let lines = text.lines().filter(|line| !line.contains("Filename"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Serves the array, writes the content through NBD, and stops.
fn fill(umd: &Umd, oracle: &Oracle, members: &[PathBuf], content: &Path) {
    let served = umd.serve("behind", members, &[]).unwrap();
    copy_in(oracle, content, &served.uri()).unwrap();
    let detail = umd.ok(&["detail", "behind"]).unwrap();
    assert!(detail.contains("active sync writemostly"), "{detail}");
    let json = umd.ok(&["detail", "--json", "behind"]).unwrap();
    assert!(json.contains("\"write_behind\": 77"), "{json}");
    let mdstat = umd.ok(&["mdstat"]).unwrap();
    assert!(mdstat.contains("](W)"), "{mdstat}");
    served.stop().unwrap();
}

/// The kernel assembles it, finds no difference, reads the content from either member, and still
/// lets 77 writes lag.
fn given_to_the_kernel(oracle: &Oracle, members: &[PathBuf], content: &Path) -> KernelRun {
    Kernel::new(oracle)
        .members(members)
        .script(&format!(
            "mdadm --assemble --quiet /dev/md0 $D0 $D1; wait_idle md0
            grep -q '(W)' /proc/mdstat || fail no write-mostly member
            [ $(cat /sys/block/md0/md/bitmap/backlog) = 77 ] || fail no backlog
            n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n
            head -c {CONTENT} /dev/md0 | cmp - $H{} || fail the ordinary member
            mdadm --quiet /dev/md0 --fail $D0
            head -c {CONTENT} /dev/md0 | cmp - $H{} || fail the write-mostly member
            mdadm --stop --quiet /dev/md0",
            content.display(),
            content.display()
        ))
        .script(&show_bitmap("$D1"))
        .run_ok()
        .unwrap()
}

#[test]
fn an_array_of_the_kernel_is_served_with_its_write_behind_and_given_back() {
    let name = "an_array_of_the_kernel_is_served_with_its_write_behind_and_given_back";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let members = scratch.images("k", 2, MEMBER).unwrap();
    let content = scratch.path("content");
    pattern::write_file(&content, 5, CONTENT).unwrap();
    let run = Kernel::new(&oracle)
        .members(&members)
        .script(
            "mdadm --create --run --quiet /dev/md0 -l1 -n2 --bitmap=internal \
                --write-behind=77 $D0 --write-mostly $D1
            wait_idle md0
            mdadm --stop --quiet /dev/md0",
        )
        .script(&show_bitmap("$D0"))
        .run_ok()
        .unwrap();
    let kernels = shown(&run);
    assert!(
        kernels.contains("Write Mode : Allow write behind, max 77"),
        "{}",
        run.stdout
    );
    assert_eq!(shown_by_umd(&umd, &members[0]), kernels);
    fill(&umd, &oracle, &members, &content);
    given_to_the_kernel(&oracle, &members, &content);
}

#[test]
fn an_array_of_umd_is_one_of_mdadm() {
    let name = "an_array_of_umd_is_one_of_mdadm";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let members = scratch.images("u", 2, MEMBER).unwrap();
    let content = scratch.path("content");
    pattern::write_file(&content, 6, CONTENT).unwrap();
    let [ordinary, mostly] = paths(&members)[..] else {
        unreachable!("two of them")
    };
    let mut args = vec!["create", "behind", "-l1", "-n2", "--bitmap=internal"];
    args.extend(["--write-behind=77", ordinary, "--write-mostly", mostly]);
    umd.ok(&args).unwrap();
    umd.ok(&["stop", "behind"]).unwrap();
    let flags = |member: &str| oracle.text("mdadm", &["--examine", member]).unwrap();
    assert!(flags(mostly).contains("Flags : write-mostly"));
    assert!(!flags(ordinary).contains("write-mostly"));
    fill(&umd, &oracle, &members, &content);
    let run = given_to_the_kernel(&oracle, &members, &content);
    let kernels = shown(&run);
    assert!(
        kernels.contains("Write Mode : Allow write behind, max 77"),
        "{}",
        run.stdout
    );
    assert_eq!(shown_by_umd(&umd, &members[1]), kernels);
}

/// Flags and bitmap are changed by umd while it serves; the kernel and mdadm see what was asked
/// for, and take the array back each time.
#[test]
fn what_was_changed_on_a_running_array_is_what_the_kernel_finds() {
    let name = "what_was_changed_on_a_running_array_is_what_the_kernel_finds";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    for metadata in ["1.2", "1.0", "0.90"] {
        let scratch = Scratch::new().unwrap();
        let members = scratch.images("c", 2, MEMBER).unwrap();
        let content = scratch.path("content");
        pattern::write_file(&content, 7, CONTENT).unwrap();
        let [first, second] = paths(&members)[..] else {
            unreachable!("two of them")
        };
        Kernel::new(&oracle)
            .members(&members)
            .script(&format!(
                "mdadm --create --run --quiet /dev/md0 -e {metadata} -l1 -n2 --bitmap=internal \
                    $D0 --write-mostly $D1
                wait_idle md0
                mdadm --stop --quiet /dev/md0"
            ))
            .run_ok()
            .unwrap();
        // Without the bitmap, and the flags the other way round.
        let served = umd.serve("changed", &members, &[]).unwrap();
        copy_in(&oracle, &content, &served.uri()).unwrap();
        let flags = ["--readwrite", second, "--write-mostly", "--failfast", first];
        let line = [&["manage", "changed"][..], &flags].concat();
        umd.ok(&line).unwrap();
        umd.ok(&["grow", "changed", "--bitmap=none"]).unwrap();
        served.stop().unwrap();
        let found = |bitmap: &str| {
            format!(
                "mdadm --assemble --quiet /dev/md0 $D0 $D1; wait_idle md0
                grep '(W)' /proc/mdstat | grep -q '\\[0\\](W)' || fail flags $(cat /proc/mdstat)
                mdadm --detail /dev/md0 | grep -q 'writemostly failfast' || fail failfast
                [ $(cat /sys/block/md0/md/bitmap/location) {bitmap} none ] || fail the bitmap
                n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n
                head -c {CONTENT} /dev/md0 | cmp - $H{} || fail the content
                mdadm --stop --quiet /dev/md0",
                content.display()
            )
        };
        let kernel = Kernel::new(&oracle).members(&members);
        kernel.script(&found("=")).run_ok().unwrap();
        // A new one: the kernel reads it, and it tells what a member missed.
        let served = umd.serve("changed", &members, &[]).unwrap();
        umd.ok(&["grow", "changed", "--bitmap=internal"]).unwrap();
        copy_in(&oracle, &content, &served.uri()).unwrap();
        served.stop().unwrap();
        let kernel = Kernel::new(&oracle).members(&members);
        let again = "mdadm --assemble --quiet /dev/md0 $D0 $D1
            mdadm --quiet /dev/md0 --fail $D1 --remove $D1
            mdadm --quiet /dev/md0 --re-add $D1 || fail no re-add
            wait_idle md0
            n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n
            mdadm --stop --quiet /dev/md0";
        let run = kernel.script(&found("!=")).script(again).run_ok();
        run.unwrap();
    }
}
