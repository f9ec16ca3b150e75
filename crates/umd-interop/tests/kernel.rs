//! The kernel oracle itself: it creates arrays of every level on our files, and the files hold what
//! the facts say.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 << 10;
const MEMBER: u64 = 12 * MIB;
const CONTENT: u64 = 4 * MIB;

fn images(dir: &Path, prefix: &str, count: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|number| {
            let path = dir.join(format!("{prefix}{number}.img"));
            File::create(&path).unwrap().set_len(MEMBER).unwrap();
            path
        })
        .collect()
}

fn examine(oracle: &Oracle, member: &Path) -> String {
    oracle
        .text("mdadm", &["--examine", member.to_str().unwrap()])
        .unwrap()
}

/// The value of a line `  LABEL : value` of `mdadm --examine`.
fn field<'a>(text: &'a str, label: &str) -> &'a str {
    text.lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix(label)?
                .trim_start()
                .strip_prefix(": ")
        })
        .unwrap_or_else(|| panic!("no {label} in\n{text}"))
}

fn data_offset(oracle: &Oracle, member: &Path) -> u64 {
    let text = examine(oracle, member);
    let sectors = field(&text, "Data Offset").split(' ').next().unwrap();
    sectors.parse::<u64>().unwrap() * 512
}

fn read_at(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut buf, offset)
        .unwrap();
    buf
}

#[test]
fn kernel_makes_and_fills_an_array_of_every_level() {
    let Some(oracle) = Oracle::or_skip("kernel_makes_and_fills_an_array_of_every_level") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let content = dir.path().join("content");
    pattern::write_file(&content, 1, CONTENT).unwrap();
    let levels: [(&str, usize); 5] = [("0", 3), ("1", 2), ("4", 4), ("5", 3), ("6", 5)];
    let mut kernel = Kernel::new(&oracle);
    let mut sets = Vec::new();
    let mut first = 0;
    for (index, (level, count)) in levels.into_iter().enumerate() {
        let files = images(dir.path(), &format!("l{level}-"), count);
        let devices: Vec<String> = (first..first + count).map(|n| format!("$D{n}")).collect();
        let chunk = if level == "1" { "" } else { "-c64" };
        kernel = kernel.members(&files).script(&format!(
            "mdadm --create --run /dev/md{index} -l{level} -n{count} -e1.2 {chunk} {}
            dd if=$H{} of=/dev/md{index} bs=1M conv=fsync
            wait_idle md{index}",
            devices.join(" "),
            content.display()
        ));
        if level != "0" {
            kernel = kernel.script(&format!("echo mismatch{level}=$(check md{index})"));
        }
        kernel = kernel.script(&format!("mdadm --stop /dev/md{index}"));
        first += count;
        sets.push((level, files));
    }
    assert!(first > 16, "some members must go through loop devices");
    let run = kernel.run_ok().unwrap();
    for (level, files) in &sets {
        let offset = data_offset(&oracle, &files[0]);
        for file in files {
            let text = examine(&oracle, file);
            assert!(field(&text, "Checksum").ends_with("- correct"), "{text}");
            assert_eq!(field(&text, "Raid Level"), format!("raid{level}"));
            if *level != "0" {
                assert_eq!(field(&text, "State"), "clean");
                assert_eq!(run.value(&format!("mismatch{level}")).unwrap(), "0");
            }
        }
        check_data(level, files, offset, &content);
    }
}

/// Compares members with the content by rules simple enough to be seen right: copies, stripes, and
/// the xor of a row.
fn check_data(level: &str, files: &[PathBuf], offset: u64, content: &Path) {
    match level {
        "0" => {
            for chunk in 0..CONTENT / CHUNK {
                let disks = files.len() as u64;
                let member = &files[usize::try_from(chunk % disks).unwrap()];
                let place = offset + chunk / disks * CHUNK;
                pattern::compare((member, place), (content, chunk * CHUNK), CHUNK).unwrap();
            }
        }
        "1" => {
            for file in files {
                pattern::compare((file, offset), (content, 0), CONTENT).unwrap();
            }
        }
        // Left-symmetric on 5 disks begins with the row `Q 0 1 2 P`.
        "6" => {
            for data in 0..3 {
                let member = (files[1 + data as usize].as_path(), offset);
                pattern::compare(member, (content, data * CHUNK), CHUNK).unwrap();
            }
        }
        _ => {
            let rows = CONTENT / CHUNK / files.len() as u64;
            let len = usize::try_from(rows * CHUNK).unwrap();
            let mut sum = vec![0; len];
            for file in files {
                let bytes = read_at(file, offset, len);
                sum.iter_mut()
                    .zip(bytes)
                    .for_each(|(sum, byte)| *sum ^= byte);
            }
            assert!(
                sum.iter().all(|byte| *byte == 0),
                "raid{level}: a row's xor is not zero"
            );
            assert!(
                read_at(&files[0], offset, len)
                    .iter()
                    .any(|byte| *byte != 0)
            );
        }
    }
}

#[test]
fn a_crashed_kernel_leaves_an_unclean_array() {
    let Some(oracle) = Oracle::or_skip("a_crashed_kernel_leaves_an_unclean_array") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let files = images(dir.path(), "m", 3);
    let kernel = Kernel::new(&oracle).members(&files);
    let run = kernel
        .clone()
        .script(
            "mdadm --create --run /dev/md0 -l5 -n3 -e1.2 -c64 --bitmap=internal $D0 $D1 $D2
            wait_idle md0
            echo 30 >/sys/block/md0/md/safe_mode_delay
            dd if=/dev/urandom of=/dev/md0 bs=64k count=1 conv=fsync
            crash",
        )
        .run_crash()
        .unwrap();
    assert_eq!(run.status, None);
    assert_eq!(field(&examine(&oracle, &files[0]), "State"), "active");
    let run = kernel
        .script(
            "mdadm --assemble --run /dev/md0 $D0 $D1 $D2
            echo mismatches=$(check md0)
            mdadm --stop /dev/md0",
        )
        .run_ok()
        .unwrap();
    assert_eq!(run.value("mismatches").unwrap(), "0");
    assert_eq!(field(&examine(&oracle, &files[0]), "State"), "clean");
}

#[test]
fn a_failing_script_and_a_hanging_one_are_told_apart() {
    let Some(oracle) = Oracle::or_skip("a_failing_script_and_a_hanging_one_are_told_apart") else {
        return;
    };
    let run = Kernel::new(&oracle)
        .script("echo before; false; echo after")
        .run()
        .unwrap();
    assert_eq!(run.status, Some(1));
    assert_eq!(run.stdout, "before\n");
    let hang = Kernel::new(&oracle).script("sleep 1000");
    let error = hang
        .timeout(std::time::Duration::from_secs(8))
        .run()
        .unwrap_err();
    assert!(error.to_string().contains("not done after"), "{error}");
}

#[test]
fn mdadm_reads_plain_files_on_the_host() {
    let Some(oracle) = Oracle::or_skip("mdadm_reads_plain_files_on_the_host") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no.img");
    fs::write(&file, vec![0; 1 << 20]).unwrap();
    let output = oracle
        .output("mdadm", &["--examine", file.to_str().unwrap()])
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("No md superblock detected"), "{message}");
}
