//! Members that fail as members do outside of tests: a full disk (ENOSPC from a real filesystem)
//! and bad media (EIO from a real file).
//!
//! What must hold in all of them: everything that was acknowledged can be read, the array goes on
//! with the members that are left, and its words say which member failed and why.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs;
use std::path::{Path, PathBuf};

use umd_interop::fuse::{self, FuseFile};
use umd_interop::ledger::{BLOCK, Ledger};
use umd_interop::nbd::Client;
use umd_interop::oracle::{Oracle, notice};
use umd_interop::scratch::Scratch;
use umd_interop::small::with_small_filesystem;
use umd_interop::umd::{Umd, text};

const MIB: u64 = 1 << 20;
/// What each member gives.
const SIZE: &str = "16M";
/// Blocks written: 12 MiB.
const BLOCKS: usize = 3072;
/// Blocks written at a time.
const STEP: usize = 16;

/// Makes the array; returns what was said.
fn create(umd: &Umd, level: &str, members: &[PathBuf]) -> String {
    let (level_option, count) = (format!("-l{level}"), format!("-n{}", members.len()));
    let mut args = vec!["create", "r", &level_option, &count, "--size", SIZE];
    if level != "0" {
        args.extend(["--assume-clean", "--bitmap=internal"]);
    }
    args.extend(members.iter().map(|path| path.to_str().unwrap()));
    let output = umd.output(&args).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn assemble(umd: &Umd, members: &[PathBuf]) {
    let mut args = vec!["assemble", "r"];
    args.extend(members.iter().map(|path| path.to_str().unwrap()));
    umd.ok(&args).unwrap();
}

fn client(umd: &Umd) -> Client {
    Client::connect(&umd.runtime_dir().join("nbd.sock"), "r").unwrap()
}

/// Writes the blocks in order, every eighth time with FUA; returns the first error.
fn write(
    client: &mut Client,
    ledger: &mut Ledger,
    blocks: std::ops::Range<usize>,
) -> Option<String> {
    for index in blocks.step_by(STEP) {
        let bytes = ledger.send(index, STEP);
        let fua = index % (8 * STEP) == 0;
        if let Err(error) = client.write(ledger.offset(index), &bytes, fua) {
            return Some(format!("{error:#}"));
        }
        ledger.acknowledge(index, STEP, fua);
    }
    if let Err(error) = client.flush() {
        return Some(format!("{error:#}"));
    }
    ledger.flushed();
    None
}

/// Reads everything and compares it with the books.
fn verify(client: &mut Client, ledger: &Ledger) {
    for index in 0..ledger.len() {
        let mut bytes = vec![0; BLOCK];
        client.read(ledger.offset(index), &mut bytes).unwrap();
        ledger.check(index, &bytes).unwrap();
    }
}

/// The line that says why a member failed.
fn fault_line(umd: &Umd, member: &Path) -> String {
    let detail = umd.ok(&["detail", "r"]).unwrap();
    let start = format!("Fault : {}: ", member.display());
    let line = detail
        .lines()
        .find_map(|line| line.trim().strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no word of {}: {detail}", member.display()))
        .to_owned()
}

/// Replaces the member, and looks at everything again after a new start.
fn replace_and_restart(umd: &Umd, members: &mut [PathBuf], failed: usize, ledger: &Ledger) {
    let fresh = members[0].with_file_name("fresh.img");
    fs::File::create(&fresh)
        .and_then(|file| file.set_len(24 * MIB))
        .unwrap();
    let path = fresh.to_str().unwrap();
    umd.ok(&["manage", "r", "--remove", "failed", "--add", path])
        .unwrap();
    umd.ok(&["wait", "r"]).unwrap();
    members[failed] = fresh;
    verify(&mut client(umd), ledger);
    umd.ok(&["action", "r", "check", "--wait"]).unwrap();
    let detail = umd.ok(&["detail", "r", "--json"]).unwrap();
    assert!(detail.contains("\"mismatch_cnt\": 0"), "{detail}");
    umd.ok(&["stop", "--force", "r"]).unwrap();
    assemble(umd, members);
    verify(&mut client(umd), ledger);
}

#[test]
fn a_full_disk_costs_its_member_and_no_data() {
    let name = "a_full_disk_costs_its_member_and_no_data";
    let Some(umd) = Umd::or_skip(name) else {
        return;
    };
    with_small_filesystem(name, 3 * MIB, |small| {
        for (level, count) in [("1", 2), ("5", 3)] {
            let scratch = Scratch::new().unwrap();
            let mut members: Vec<PathBuf> = (0..count)
                .map(|number| scratch.path(&format!("m{number}.img")))
                .collect();
            members[1] = small.join(format!("m{level}.img"));
            let said = create(&umd, level, &members);
            let warned = format!("the filesystem of {} has ", members[1].display());
            assert!(said.contains(&warned), "{said}");
            let mut ledger = Ledger::new(0, BLOCKS);
            let mut client = client(&umd);
            let error = write(&mut client, &mut ledger, 0..BLOCKS);
            assert_eq!(error, None, "raid{level} writes without the member");
            let fault = fault_line(&umd, &members[1]);
            assert_eq!(fault, "write failed: No space left on device");
            let log = fs::read_to_string(umd.runtime_dir().join("log")).unwrap();
            let event = format!("component device {}: {fault}", members[1].display());
            assert!(log.contains(&event), "{log}");
            verify(&mut client, &ledger);
            fs::remove_file(&members[1]).unwrap();
            replace_and_restart(&umd, &mut members, 1, &ledger);
            umd.ok(&["stop", "--force", "r"]).unwrap();
        }
    });
}

/// All members on one filesystem: one after the other fails. When one too many has, writes end, and
/// that failure is not recorded. With room again the array starts, and has all that was
/// acknowledged.
#[test]
fn one_full_disk_below_all_members_ends_writes_and_costs_no_data() {
    let name = "one_full_disk_below_all_members_ends_writes_and_costs_no_data";
    let Some(umd) = Umd::or_skip(name) else {
        return;
    };
    with_small_filesystem(name, 40 * MIB, |small| {
        for (level, count) in [("0", 2), ("1", 2), ("5", 3), ("6", 4)] {
            let members: Vec<PathBuf> = (0..count)
                .map(|number| small.join(format!("m{number}.img")))
                .collect();
            create(&umd, level, &members);
            let mut ledger = Ledger::new(0, BLOCKS);
            let mut writer = client(&umd);
            assert_eq!(write(&mut writer, &mut ledger, 0..BLOCKS / 3), None);
            let filler = small.join("filler");
            fill(&filler);
            let error = write(&mut writer, &mut ledger, BLOCKS / 3..BLOCKS);
            assert!(error.is_some(), "raid{level} has no room for this");
            if level != "0" {
                let detail = umd.ok(&["detail", "r"]).unwrap();
                let words = "(write failed: No space left on device) and the array cannot do \
                             without it: writes are refused";
                assert!(detail.contains(words), "raid{level}: {detail}");
            }
            fs::remove_file(&filler).unwrap();
            umd.ok(&["stop", "--force", "r"]).unwrap();
            start_again(&umd, level, &members);
            verify(&mut client(&umd), &ledger);
            let error = write(&mut client(&umd), &mut ledger, BLOCKS / 3..BLOCKS);
            assert_eq!(error, None, "raid{level} has room again");
            umd.ok(&["stop", "--force", "r"]).unwrap();
            for member in &members {
                fs::remove_file(member).unwrap();
            }
        }
    });
}

/// Starts an array whose members failed. Where one failure had been recorded before the next one
/// broke the array, parity may not fit the data: nothing to start with unasked.
fn start_again(umd: &Umd, level: &str, members: &[PathBuf]) {
    let mut args = vec!["assemble", "r"];
    args.extend(members.iter().map(|path| path.to_str().unwrap()));
    let output = umd.output(&args).unwrap();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(level, "5" | "6"), "raid{level}: {said}");
        assert!(said.contains("consider --force"), "raid{level}: {said}");
        args.insert(2, "--force");
        umd.ok(&args).unwrap();
    }
}

/// Writes until the filesystem is full.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

/// A RAID5 whose member 1 is a file that fails at these operations once the trigger is there.
struct Bad {
    umd: Umd,
    scratch: Scratch,
    members: Vec<PathBuf>,
    file: FuseFile,
}

impl Bad {
    fn or_skip(test: &str, operations: &[&str]) -> Option<Bad> {
        let oracle = Oracle::or_skip(test)?;
        let umd = Umd::or_skip(test)?;
        if let Err(why) = fuse::possible() {
            notice(&format!("SKIPPED {test}: {why:#}"));
            return None;
        }
        let scratch = Scratch::new().unwrap();
        let mut members = scratch.images("m", 3, 24 * MIB).unwrap();
        let (image, trigger) = (members[1].clone(), scratch.path("trigger"));
        let file =
            FuseFile::failing(&oracle, &image, &trigger, operations, &scratch.path("")).unwrap();
        members[1] = file.path();
        create(&umd, "5", &members);
        Some(Bad {
            umd,
            scratch,
            members,
            file,
        })
    }

    fn begin(&self) {
        fs::write(self.scratch.path("trigger"), "").unwrap();
    }
}

#[test]
fn a_write_error_of_the_device_costs_its_member_and_no_data() {
    let name = "a_write_error_of_the_device_costs_its_member_and_no_data";
    let Some(mut bad) = Bad::or_skip(name, &["pwrite", "zero"]) else {
        return;
    };
    let mut ledger = Ledger::new(0, BLOCKS);
    let mut client = client(&bad.umd);
    assert_eq!(write(&mut client, &mut ledger, 0..1024), None);
    bad.begin();
    assert_eq!(write(&mut client, &mut ledger, 512..BLOCKS), None);
    let fault = fault_line(&bad.umd, &bad.members[1]);
    // Blocks it refused are in its log at first; then the bitmap could not be kept there.
    assert!(fault.ends_with("write failed: media error"), "{fault}");
    verify(&mut client, &ledger);
    replace_and_restart(&bad.umd, &mut bad.members, 1, &ledger);
    bad.umd.ok(&["stop", "--force", "r"]).unwrap();
    bad.file.unmount().unwrap();
}

#[test]
fn a_read_error_of_the_device_is_answered_from_the_others() {
    let name = "a_read_error_of_the_device_is_answered_from_the_others";
    let Some(bad) = Bad::or_skip(name, &["pread"]) else {
        return;
    };
    let mut ledger = Ledger::new(0, BLOCKS);
    let mut client = client(&bad.umd);
    assert_eq!(write(&mut client, &mut ledger, 0..BLOCKS), None);
    bad.begin();
    verify(&mut client, &ledger);
    // What was computed has been written back; a burst of errors is one spot, and no reason to
    // give up the member.
    let array = bad.umd.detail("r").unwrap();
    let member = &array["members"][1];
    assert_eq!(member["state"], "in_sync", "{array}");
    let mended = member["corrected_read_errors"].as_u64();
    assert_eq!(mended, Some(BLOCKS as u64 / 3), "{array}");
    fs::remove_file(bad.scratch.path("trigger")).unwrap();
    bad.umd.ok(&["action", "r", "check", "--wait"]).unwrap();
    assert_eq!(bad.umd.detail("r").unwrap()["mismatch_cnt"], 0);
    verify(&mut client, &ledger);
    bad.umd.ok(&["stop", "--force", "r"]).unwrap();
    bad.file.unmount().unwrap();
}

#[test]
fn a_device_that_cannot_be_mended_costs_its_member_and_no_data() {
    let name = "a_device_that_cannot_be_mended_costs_its_member_and_no_data";
    let Some(mut bad) = Bad::or_skip(name, &["pread", "pwrite", "zero"]) else {
        return;
    };
    let mut ledger = Ledger::new(0, BLOCKS);
    let mut client = client(&bad.umd);
    assert_eq!(write(&mut client, &mut ledger, 0..BLOCKS), None);
    bad.begin();
    verify(&mut client, &ledger);
    let fault = fault_line(&bad.umd, &bad.members[1]);
    assert!(fault.ends_with("write failed: media error"), "{fault}");
    replace_and_restart(&bad.umd, &mut bad.members, 1, &ledger);
    bad.umd.ok(&["stop", "--force", "r"]).unwrap();
    bad.file.unmount().unwrap();
}

/// An update of the superblocks is not one write: whoever has it already is named, and the same
/// order finishes it.
#[test]
fn a_member_that_does_not_take_an_update_is_named_and_so_are_those_that_did() {
    let name = "a_member_that_does_not_take_an_update_is_named_and_so_are_those_that_did";
    let Some(bad) = Bad::or_skip(name, &["pwrite", "zero"]) else {
        return;
    };
    bad.umd.ok(&["stop", "--force", "r"]).unwrap();
    bad.begin();
    let mut args = vec!["assemble", "r", "--update=name", "--name=new"];
    args.extend(bad.members.iter().map(|path| text(path)));
    let output = bad.umd.output(&args).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let (first, second) = (bad.members[0].display(), bad.members[1].display());
    let words = format!("cannot update name on {second}: ");
    assert!(said.contains(&words), "{said}");
    let words = format!("; {first} had been updated already");
    assert!(said.contains(&words), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    let renamed = |path: &&PathBuf| {
        let superblock = bad.umd.superblock(path).unwrap();
        superblock["set_name"].to_string().contains("new")
    };
    assert_eq!(bad.members.iter().filter(renamed).count(), 1);
    fs::remove_file(bad.scratch.path("trigger")).unwrap();
    bad.umd.ok(&args).unwrap();
    assert_eq!(bad.members.iter().filter(renamed).count(), 3);
    bad.umd.ok(&["stop", "--force", "r"]).unwrap();
    bad.file.unmount().unwrap();
}
