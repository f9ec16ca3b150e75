//! Arrays that kernel 7.2 left with a lockless bitmap, whole.
//!
//! ```text
//!   ../shared/fixtures/*/*.img.zst --zstd--> members --assemble--> content, states, once more
//! ```
//!
//! The members lie beside the checkout, as large as they are; where they do not, or where nobody
//! has zstd, there is nothing to start, and umd-core's tests of their superblocks and states have
//! to do (`lockless.rs` there).

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Home;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures");
/// Where the states of a member begin.
const STATES_AT: usize = 8192 + 1024;
const REGIONS: usize = 368;

/// The members of a fixture in a household, and where it lies.
fn members(name: &str, letters: &str) -> Option<(Home, PathBuf)> {
    let from = Path::new(FIXTURES).join(name);
    if !from.is_dir() {
        println!("{} is not there: nothing to start", from.display());
        return None;
    }
    let program = Command::new("zstd").arg("--version").output();
    if program.is_err() {
        println!("zstd is not installed: nothing to start");
        return None;
    }
    let home = Home::new();
    for letter in letters.chars() {
        let image = fs::File::create(home.path(&letter.to_string())).expect("creates");
        let done = Command::new("zstd")
            .args([
                "-dcq".as_ref(),
                from.join(format!("{letter}.img.zst")).as_os_str(),
            ])
            .stdout(image)
            .status();
        assert!(done.expect("it ran a moment ago").success());
    }
    Some((home, from))
}

fn states(home: &Home, member: &str) -> Vec<u8> {
    let bytes = fs::read(home.path(member)).expect("reads");
    bytes[STATES_AT..][..REGIONS].to_vec()
}

/// The content of the array, as `sha.txt` has it.
fn sha256(content: &[u8]) -> String {
    let mut program = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum is installed");
    let mut input = program.stdin.take().expect("piped");
    input.write_all(content).expect("writes");
    drop(input);
    let out = program.wait_with_output().expect("ends").stdout;
    String::from_utf8(out).expect("text")
}

fn content(home: &Home, name: &str, from: &Path) -> Vec<u8> {
    let size = fs::read_to_string(from.join("size.txt")).expect("reads");
    let size: usize = size.trim().parse().expect("a number");
    let mut client = home.nbd(name);
    let mut all = Vec::new();
    while all.len() < size {
        let len = (size - all.len()).min(1 << 20);
        all.extend(client.pread(all.len() as u64, len as u32).expect("reads"));
    }
    all
}

fn wanted(from: &Path) -> String {
    fs::read_to_string(from.join("sha.txt")).expect("reads")
}

/// Five regions need a resync, although superblocks say clean: those get it, and nothing else.
#[test]
fn a_raid5_that_was_stopped_holds_what_was_written() {
    let Some((home, from)) = members("llb-raid5-clean", "abc") else {
        return;
    };
    assert_eq!(states(&home, "a").iter().filter(|s| **s == 3).count(), 5);
    home.umd("assemble r a b c").ok();
    home.settle("r");
    assert_eq!(sha256(&content(&home, "r", &from)), wanted(&from));
    home.umd("action r check --wait").ok();
    assert_eq!(home.detail("r")["mismatch_cnt"], 0);
    home.umd("stop r").ok();
    assert!(states(&home, "a").iter().all(|state| *state == 1));
    // What one member holds comes from the others.
    home.umd("assemble r a b c").ok();
    home.umd("manage r --fail b").ok();
    assert_eq!(sha256(&content(&home, "r", &from)), wanted(&from));
    home.umd("stop r").ok();
}

/// All of it was dirty when the power went. Where it was written then one version is right.
#[test]
fn a_mirror_whose_power_went_holds_what_was_written() {
    let Some((home, from)) = members("llb-raid1-dirty", "ab") else {
        return;
    };
    assert!(states(&home, "b").iter().all(|state| *state == 2));
    home.umd("assemble r a b").ok();
    home.settle("r");
    let first = content(&home, "r", &from);
    let mut before = first.clone();
    before[8_192_000..][..256 << 10].fill(0);
    assert_eq!(sha256(&before), wanted(&from));
    home.umd("action r check --wait").ok();
    assert_eq!(home.detail("r")["mismatch_cnt"], 0);
    home.umd("manage r --fail a").ok();
    assert!(content(&home, "r", &from) == first, "one version is kept");
    home.umd("stop r").ok();
}
