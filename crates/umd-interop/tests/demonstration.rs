//! The main job: a RAID6 with ext4, made by the kernel, loses two members, is served by umd,
//! written through the filesystem, rebuilt on two fresh members, and goes back to the kernel.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use umd_interop::fuse;
use umd_interop::mount::Mount;
use umd_interop::oracle::{Oracle, notice};
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, copy_in, copy_out};
use umd_interop::uml::Kernel;

const MEMBER: u64 = 32 << 20;
const CREATE: &str = "mdadm --create --run --quiet /dev/md0 -l6 -n5 -e1.2 -c64 --name=box \
    --bitmap=internal $D0 $D1 $D2 $D3 $D4";

/// Makes files of odd sizes in a folder on the host; returns the folder.
fn some_files(scratch: &Scratch, name: &str, seed: u64) -> PathBuf {
    let folder = scratch.path(name);
    fs::create_dir(&folder).unwrap();
    for number in 0..24_u64 {
        let len = (number * number * 7919) % 1_500_000 / 8 * 8 + 8;
        let path = folder.join(format!("{name}{number}"));
        pattern::write_file(&path, seed + number, len).unwrap();
    }
    folder
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn paths(members: &[PathBuf]) -> Vec<String> {
    members
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

/// Boot 1: the kernel's array with ext4 and the first files.
fn kernel_makes(oracle: &Oracle, members: &[PathBuf], files: &Path) {
    Kernel::new(oracle)
        .members(members)
        .script(CREATE)
        .script("mke2fs -q -t ext4 /dev/md0; mkdir -p /tmp/m; mount -t ext4 /dev/md0 /tmp/m")
        .script(&format!("cp -r $H{} /tmp/m/kernel", files.display()))
        .script("umount /tmp/m; wait_idle md0; mdadm --stop /dev/md0")
        .run_ok()
        .unwrap();
}

/// Boot 2: the kernel takes the array back; every file must be there.
fn kernel_takes_back(oracle: &Oracle, members: &[PathBuf], sets: [(&str, &Path); 2]) {
    let mut kernel = Kernel::new(oracle)
        .members(members)
        .timeout(Duration::from_secs(180))
        .script(
            "mdadm --assemble --quiet /dev/md0 $D0 $D1 $D2 $D3 $D4
        grep -q 'UUUUU' /proc/mdstat || fail not all members are in sync
        echo mismatches=$(check md0)
        e2fsck -fn /dev/md0
        mkdir -p /tmp/m; mount -t ext4 -o ro /dev/md0 /tmp/m",
        );
    for (name, folder) in sets {
        kernel = kernel.script(&format!(
            "[ $(ls /tmp/m/{name} | wc -l) = 24 ] || fail files are missing in {name}
            for f in /tmp/m/{name}/*; do cmp $f $H{}/$(basename $f); done",
            folder.display()
        ));
    }
    let run = kernel
        .script("umount /tmp/m; mdadm --stop /dev/md0")
        .run_ok()
        .unwrap();
    assert_eq!(run.value("mismatches").unwrap(), "0");
}

/// Writes the second files through the filesystem on the served array.
fn write_files(oracle: &Oracle, uri: &str, scratch: &Scratch, files: &Path, first: &Path) {
    match fuse::possible() {
        Ok(()) => {
            let mount = Mount::new(oracle, uri, &scratch.path("")).unwrap();
            copy_files(files, &mount.files().join("umd"));
            for entry in fs::read_dir(first).unwrap() {
                let path = entry.unwrap().path();
                let other = mount.files().join("kernel").join(path.file_name().unwrap());
                assert_eq!(
                    fs::read(&path).unwrap(),
                    fs::read(&other).unwrap(),
                    "{path:?}"
                );
            }
            mount.unmount().unwrap();
        }
        Err(why) => {
            // The way around goes through the filesystem and the export as well.
            notice(&format!(
                "the demonstration uses debugfs instead of a mount: {why:#}"
            ));
            let image = scratch.path("image");
            copy_out(oracle, uri, &image).unwrap();
            let mut commands = String::from("mkdir umd\n");
            for entry in fs::read_dir(files).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                commands.push_str(&format!("write {} umd/{name}\n", path.display()));
            }
            let script = scratch.path("commands");
            fs::write(&script, commands).unwrap();
            let (script, name) = (script.display().to_string(), image.display().to_string());
            oracle
                .text("debugfs", &["-w", "-f", &script, &name])
                .unwrap();
            copy_in(oracle, &image, uri).unwrap();
        }
    }
}

/// GRUB reads md and ext4 with code of its own: it must find the files in the degraded array.
fn grub_reads(oracle: &Oracle, members: &[PathBuf], folder: &Path) {
    let count = members.len().to_string();
    let members = paths(members);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (inside, outside) = (format!("/kernel/{name}"), path.display().to_string());
        let mut args = vec!["-c", &count, "-r", "md/box"];
        args.extend(members.iter().map(String::as_str));
        args.extend(["cmp", &inside, &outside]);
        oracle.text("grub-fstest", &args).unwrap();
    }
}

#[test]
fn a_raid6_loses_two_members_is_written_rebuilt_and_goes_back_to_the_kernel() {
    let Some(oracle) = Oracle::or_skip("the first demonstration") else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let members = scratch.images("m", 5, MEMBER).unwrap();
    let kernel_files = some_files(&scratch, "kernel", 100);
    let umd_files = some_files(&scratch, "umd", 200);
    kernel_makes(&oracle, &members, &kernel_files);
    grub_reads(&oracle, &members, &kernel_files);
    let Some(umd) = Umd::or_skip("the first demonstration") else {
        return;
    };

    fs::remove_file(&members[1]).unwrap();
    fs::remove_file(&members[3]).unwrap();
    let left: Vec<PathBuf> = [0, 2, 4].map(|slot: usize| members[slot].clone()).into();
    let mut args = vec!["assemble".to_string(), "box".into(), "--run".into()];
    args.extend(paths(&left));
    umd.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
        .unwrap();
    write_files(
        &oracle,
        &umd.daemon_uri("box"),
        &scratch,
        &umd_files,
        &kernel_files,
    );

    let fresh = paths(&scratch.images("fresh", 2, MEMBER).unwrap());
    umd.ok(&["manage", "box", "--add", &fresh[0], &fresh[1]])
        .unwrap();
    umd.ok(&["wait", "box"]).unwrap();
    let mdstat = umd.ok(&["mdstat"]).unwrap();
    assert!(mdstat.contains("[5/5] [UUUUU]"), "{mdstat}");
    umd.ok(&["stop", "box"]).unwrap();

    let mut all = left;
    all.extend(fresh.iter().map(PathBuf::from));
    grub_reads(&oracle, &all, &kernel_files);
    kernel_takes_back(
        &oracle,
        &all,
        [("kernel", &kernel_files), ("umd", &umd_files)],
    );
}
