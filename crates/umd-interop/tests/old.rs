//! Old ways to keep an array: metadata 0.90 and none at all; and superblocks that are changed
//! before an array starts. What umd leaves, the kernel takes, and the other way round.
//!
//! The matrix (matrix.rs) exchanges arrays of version 0.90 of every level; here are the changes.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs::File;
use std::path::{Path, PathBuf};

use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::umd::{Umd, copy_in, copy_out, export_bytes};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;

fn members(dir: &Path, sizes: &[u64]) -> Vec<PathBuf> {
    let paths = sizes.iter().enumerate().map(|(index, size)| {
        let path = dir.join(format!("m{index}"));
        File::create(&path).unwrap().set_len(*size).unwrap();
        path
    });
    paths.collect()
}

fn args<'a>(words: &[&'a str], members: &'a [PathBuf]) -> Vec<&'a str> {
    let paths = members.iter().map(|path| path.to_str().unwrap());
    words.iter().copied().chain(paths).collect()
}

fn content(dir: &Path, seed: u64, len: u64) -> PathBuf {
    let path = dir.join(format!("content{seed}"));
    pattern::write_file(&path, seed, len).unwrap();
    path
}

/// Waits for whatever runs; there may be nothing any more.
fn wait(umd: &Umd, name: &str) {
    umd.output(&["wait", name]).unwrap();
}

/// What the running array holds is what the file holds.
fn same(oracle: &Oracle, umd: &Umd, name: &str, dir: &Path, file: &Path) {
    let out = dir.join("out");
    copy_out(oracle, &umd.daemon_uri(name), &out).unwrap();
    let len = std::fs::metadata(file).unwrap().len();
    pattern::compare((&out, 0), (file, 0), len).unwrap();
}

#[test]
fn a_member_of_version_0_90_comes_back_and_knows_what_it_missed() {
    let name = "a_member_of_version_0_90_comes_back_and_knows_what_it_missed";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disks = members(dir.path(), &[20 * MIB; 3]);
    let first = content(dir.path(), 1, 12 * MIB);
    let second = content(dir.path(), 2, 12 * MIB);
    let kernel = Kernel::new(&oracle).members(&disks);
    kernel
        .clone()
        .script(&format!(
            "mdadm --create --run /dev/md5 -l1 -n2 -e0.90 --bitmap=internal $D0 $D1
            dd if=$H{} of=/dev/md5 bs=1M conv=fsync
            wait_idle md5
            mdadm /dev/md5 --fail $D1
            mdadm /dev/md5 --remove $D1
            dd if=$H{} of=/dev/md5 bs=1M count=3 conv=fsync
            mdadm --stop /dev/md5",
            first.display(),
            second.display()
        ))
        .run_ok()
        .unwrap();
    let both = [disks[0].clone(), disks[1].clone()];
    // The one that was removed is out of date; the array is named by its preferred minor.
    umd.ok(&args(&["assemble"], &both)).unwrap();
    let detail = umd.ok(&["detail", "md5"]).unwrap();
    assert!(detail.contains("Version : 0.90\n"), "{detail}");
    assert!(detail.contains("Preferred Minor : 5\n"), "{detail}");
    assert!(detail.contains("State : clean, degraded"), "{detail}");
    let back = disks[1].to_str().unwrap();
    umd.ok(&["manage", "md5", "--re-add", back]).unwrap();
    wait(&umd, "md5");
    // A third one as a spare, which takes over at once when the first fails.
    let third = disks[2].to_str().unwrap();
    umd.ok(&["manage", "md5", "--add", third]).unwrap();
    let gone = disks[0].to_str().unwrap();
    umd.ok(&["manage", "md5", "--fail", gone]).unwrap();
    wait(&umd, "md5");
    umd.ok(&["stop", "md5"]).unwrap();
    for disk in &disks[1..] {
        let text = disk.to_str().unwrap();
        let ours = umd.ok(&["examine", text]).unwrap();
        let theirs = oracle.output("mdadm", &["--examine", text]).unwrap();
        let theirs = String::from_utf8_lossy(&theirs.stdout).into_owned();
        let plain = |text: &str| -> Vec<String> {
            let lines = text
                .lines()
                .map(|line| line.split(" (local to").next().unwrap());
            lines.map(|line| line.trim_end().to_owned()).collect()
        };
        assert_eq!(plain(&ours), plain(&theirs));
    }
    let run = kernel.script(&format!(
        "mdadm --assemble /dev/md5 $D1 $D2
            cat /proc/mdstat
            echo mismatches=$(check md5)
            cmp -n {} $H{} /dev/md5
            dd if=/dev/md5 bs=1M skip=3 count=9 | cmp - $H{}.tail
            mdadm --stop /dev/md5",
        3 * MIB,
        second.display(),
        first.display()
    ));
    let tail = first.with_file_name("content1.tail");
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&tail, &bytes[3 << 20..]).unwrap();
    let run = run.run_ok().unwrap();
    assert_eq!(run.value("mismatches").unwrap(), "0");
    assert!(run.stdout.contains("[2/2] [UU]"), "{}", run.stdout);
}

#[test]
fn the_kernel_takes_what_an_update_leaves() {
    let name = "the_kernel_takes_what_an_update_leaves";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disks = members(dir.path(), &[20 * MIB; 3]);
    let data = content(dir.path(), 1, 24 * MIB);
    let kernel = Kernel::new(&oracle).members(&disks);
    kernel
        .clone()
        .script(&format!(
            "mdadm --create --run /dev/md0 -l5 -n3 -e0.90 -c64 $D0 $D1 $D2
            dd if=$H{} of=/dev/md0 bs=1M conv=fsync
            wait_idle md0
            mdadm --stop /dev/md0",
            data.display()
        ))
        .run_ok()
        .unwrap();
    umd.ok(&args(
        &["assemble", "--update=metadata", "--name=new"],
        &disks,
    ))
    .unwrap();
    same(&oracle, &umd, "new", dir.path(), &data);
    umd.ok(&["stop", "new"]).unwrap();
    let uuid = "00112233:44556677:8899aabb:ccddeeff";
    let option = format!("--uuid={uuid}");
    umd.ok(&args(&["assemble", "x", "--update=uuid", &option], &disks))
        .unwrap();
    umd.ok(&["stop", "x"]).unwrap();
    umd.ok(&args(&["assemble", "x", "--update=bbl"], &disks))
        .unwrap();
    umd.ok(&["stop", "x"]).unwrap();
    umd.ok(&args(
        &[
            "assemble",
            "x",
            "--update=name",
            "--name=fresh",
            "--homehost=nas",
        ],
        &disks,
    ))
    .unwrap();
    umd.ok(&["stop", "x"]).unwrap();
    let run = kernel
        .script(&format!(
            "mdadm --assemble /dev/md1 --uuid={uuid} $D0 $D1 $D2
            cat /proc/mdstat
            mdadm --detail /dev/md1
            echo mismatches=$(check md1)
            cmp -n {} $H{} /dev/md1
            mdadm --stop /dev/md1",
            24 * MIB,
            data.display()
        ))
        .run_ok()
        .unwrap();
    assert!(run.stdout.contains("super 1.0 level 5"), "{}", run.stdout);
    assert!(run.stdout.contains("Name : nas:fresh"), "{}", run.stdout);
    assert_eq!(run.value("mismatches").unwrap(), "0");
}

#[test]
fn a_raid0_without_a_layout_is_refused_until_an_update_gives_it_one() {
    let name = "a_raid0_without_a_layout_is_refused_until_an_update_gives_it_one";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disks = members(dir.path(), &[20 * MIB, 24 * MIB, 30 * MIB]);
    let data = content(dir.path(), 1, 48 * MIB);
    let kernel = Kernel::new(&oracle).members(&disks);
    kernel
        .clone()
        .script(&format!(
            "mdadm --create --run /dev/md0 -l0 -n3 -e1.2 -c64 --layout=alternate $D0 $D1 $D2
            dd if=$H{} of=/dev/md0 bs=1M conv=fsync
            mdadm --stop /dev/md0
            mdadm --assemble /dev/md0 --update=layout-unspecified $D0 $D1 $D2 || true
            mdadm --stop /dev/md0 || true",
            data.display()
        ))
        .run_ok()
        .unwrap();
    let output = umd.output(&args(&["assemble", "x"], &disks)).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = umd.output(&args(&["examine"], &disks[..1])).unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("--update=layout-alternate"), "{said}");
    umd.ok(&args(
        &["assemble", "x", "--update=layout-alternate"],
        &disks,
    ))
    .unwrap();
    same(&oracle, &umd, "x", dir.path(), &data);
    umd.ok(&["stop", "x"]).unwrap();
    kernel
        .script(&format!(
            "mdadm --assemble /dev/md0 $D0 $D1 $D2
            cmp -n {} $H{} /dev/md0
            mdadm --stop /dev/md0",
            48 * MIB,
            data.display()
        ))
        .run_ok()
        .unwrap();
}

/// mdadm 4.2 makes no RAID0 of version 0.90; kernels start one whose members are equal.
#[test]
fn the_kernel_starts_a_raid0_of_version_0_90() {
    let name = "the_kernel_starts_a_raid0_of_version_0_90";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let disks = members(dir.path(), &[20 * MIB; 3]);
    let data = content(dir.path(), 1, 48 * MIB);
    let words = [
        "create",
        "md6",
        "-l0",
        "-n3",
        "-e0.90",
        "-c64",
        "--layout=dangerous",
    ];
    umd.ok(&args(&words, &disks)).unwrap();
    copy_in(&oracle, &data, &umd.daemon_uri("md6")).unwrap();
    let bytes = export_bytes(&oracle, &umd.daemon_uri("md6")).unwrap();
    umd.ok(&["stop", "md6"]).unwrap();
    let run = Kernel::new(&oracle)
        .members(&disks)
        .script(&format!(
            "mdadm --assemble /dev/md6 $D0 $D1 $D2
            cat /proc/mdstat
            echo bytes=$(blockdev --getsize64 /dev/md6)
            cmp -n {} $H{} /dev/md6
            mdadm --stop /dev/md6",
            48 * MIB,
            data.display()
        ))
        .run_ok()
        .unwrap();
    assert_eq!(run.value("bytes").unwrap(), bytes.to_string());
    umd.ok(&args(&["assemble"], &disks)).unwrap();
    same(&oracle, &umd, "md6", dir.path(), &data);
    umd.ok(&["stop", "md6"]).unwrap();
}

#[test]
fn arrays_without_superblocks_are_the_kernels() {
    let name = "arrays_without_superblocks_are_the_kernels";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    // One level a boot: the members are the same files. 77 KiB more than a whole chunk each.
    let size = 16 * MIB + (77 << 10);
    for (level, layout, len) in [
        ("linear", "", 32 * MIB),
        ("0", "", 32 * MIB),
        ("1", "", 16 * MIB),
        ("10", "--layout=f2", 16 * MIB),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let disks = members(dir.path(), &[size; 2]);
        let (ours, theirs) = (content(dir.path(), 1, len), content(dir.path(), 2, len));
        let level = format!("-l{level}");
        let words = ["build", "b", &level, "-n2", "-c64"];
        let words: Vec<&str> = match level.as_str() {
            "-l1" => words[..4].to_vec(),
            _ if layout.is_empty() => words.to_vec(),
            _ => words.iter().copied().chain([layout]).collect(),
        };
        umd.ok(&args(&words, &disks)).unwrap();
        copy_in(&oracle, &ours, &umd.daemon_uri("b")).unwrap();
        wait(&umd, "b");
        let stat = umd.ok(&["mdstat"]).unwrap();
        assert!(stat.contains("blocks super non-persistent"), "{stat}");
        let blocks = |text: &str| -> String {
            let before = text.split(" blocks super non-persistent").next().unwrap();
            before.split_whitespace().last().unwrap().to_owned()
        };
        umd.ok(&["stop", "b"]).unwrap();
        let options = words[2..].join(" ");
        let run = Kernel::new(&oracle)
            .members(&disks)
            .script(&format!(
                "mdadm --build /dev/md0 {options} --assume-clean $D0 $D1
                cat /proc/mdstat
                cmp -n {len} $H{} /dev/md0
                [ -e /sys/block/md0/md/mismatch_cnt ] && echo mismatches=$(check md0)
                dd if=$H{} of=/dev/md0 bs=1M conv=fsync
                mdadm --stop /dev/md0",
                ours.display(),
                theirs.display()
            ))
            .run_ok()
            .unwrap();
        assert_eq!(blocks(&stat), blocks(&run.stdout), "{level}");
        if let Ok(mismatches) = run.value("mismatches") {
            assert_eq!(mismatches, "0", "{level}");
        }
        let again = words.iter().copied().chain(["--assume-clean"]);
        umd.ok(&args(&again.collect::<Vec<_>>(), &disks)).unwrap();
        same(&oracle, &umd, "b", dir.path(), &theirs);
        umd.ok(&["stop", "b"]).unwrap();
    }
}
