//! What is left after SIGKILL: behind a write cache, and behind an overlay.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{disk_dir, make_file, pattern};
use umd_disk::{Engine, MemberFile, Mode};

const CHILD: &str = "UMD_DISK_TEST_CHILD";
const SIZE: u64 = 8 << 20;
const WRITES: u64 = 200;

fn block(n: u64) -> Vec<u8> {
    pattern(n + 1, 4096)
}

/// Not a test of its own: writes `WRITES` blocks, flushes, writes as many again, and is killed.
#[test]
fn child_that_is_killed() {
    let Some(spec) = std::env::var_os(CHILD) else {
        return;
    };
    let spec = spec.into_string().expect("a spec");
    let (path, overlay) = spec.split_once(':').expect("PATH:OVERLAY");
    let path = Path::new(path);
    let member = match overlay {
        "" => MemberFile::open(path, Mode::ReadWrite, Engine::Auto)
            .expect("open")
            .with_fault(&"cache,seed=11".parse().expect("spec")),
        dir => MemberFile::open(path, Mode::ReadOnly, Engine::Auto)
            .expect("open")
            .with_overlay(Path::new(dir))
            .expect("overlay"),
    };
    for n in 0..WRITES {
        member.write_at(n * 4096, &block(n)).expect("write");
    }
    member.sync().expect("sync");
    for n in WRITES..2 * WRITES {
        member.write_at(n * 4096, &block(n)).expect("write");
    }
    // Over what was flushed, too.
    for n in 0..WRITES {
        member.write_at(n * 4096, &block(n + 1000)).expect("write");
    }
    println!("\nwritten");
    let myself = rustix::process::getpid();
    rustix::process::kill_process(myself, rustix::process::Signal::KILL).expect("kill");
}

fn run_child(path: &Path, overlay: &str) {
    let spec = format!("{}:{overlay}", path.display());
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "child_that_is_killed", "--nocapture"])
        .env(CHILD, spec)
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let written = lines
        .into_iter()
        .any(|line| line.is_ok_and(|l| l == "written"));
    assert!(written, "the child got to its end");
    child.wait().expect("wait");
}

/// For each block: old (zeros), first, second.
fn found(member: &MemberFile, n: u64) -> &'static str {
    let bytes = member.read_at(n * 4096, 4096).expect("read");
    match bytes {
        b if b == block(n) => "first",
        b if b == block(n + 1000) => "second",
        b if b.iter().all(|&b| b == 0) => "old",
        _ => "torn",
    }
}

fn count(member: &MemberFile, blocks: std::ops::Range<u64>, what: &str) -> usize {
    blocks.filter(|&n| found(member, n) == what).count()
}

#[test]
fn a_write_cache_loses_what_was_not_flushed() {
    let dir = disk_dir();
    let path = dir.path().join("a.img");
    make_file(&path, SIZE);
    run_child(&path, "");
    let member = MemberFile::open(&path, Mode::ReadWrite, Engine::Auto).expect("open");
    let all = WRITES as usize;
    assert_eq!(count(&member, 0..WRITES, "old"), 0, "all of it was flushed");
    let overwritten = count(&member, 0..WRITES, "second");
    let early = count(&member, WRITES..2 * WRITES, "first");
    // The unit of the cache may be a sector, so a block may be there in part.
    let lost = count(&member, WRITES..2 * WRITES, "old");
    assert!((1..all).contains(&overwritten), "{overwritten}");
    assert!(
        (1..all).contains(&early) && lost > all / 4,
        "{early} {lost}"
    );
}

#[test]
fn an_overlay_keeps_what_was_flushed_and_spares_the_member() {
    let dir = disk_dir();
    let path = dir.path().join("a.img");
    make_file(&path, SIZE);
    let overlay = dir.path().join("cow");
    run_child(&path, overlay.to_str().expect("a path"));
    assert_eq!(std::fs::read(&path).expect("read"), vec![0; SIZE as usize]);
    let member = MemberFile::open(&path, Mode::ReadOnly, Engine::Auto).expect("open");
    let member = member.with_overlay(&overlay).expect("overlay");
    for n in 0..WRITES {
        assert!(matches!(found(&member, n), "first" | "second"), "block {n}");
    }
    for n in WRITES..2 * WRITES {
        assert!(matches!(found(&member, n), "old" | "first"), "block {n}");
    }
}

#[test]
fn an_overlay_belongs_to_one_member_and_one_process() {
    let dir = disk_dir();
    let path = dir.path().join("a.img");
    make_file(&path, SIZE);
    let overlay = dir.path().join("cow");
    let open = || {
        let member = MemberFile::open(&path, Mode::ReadOnly, Engine::Auto).expect("open");
        member.with_overlay(&overlay)
    };
    let first = open().expect("overlay");
    first.write_at(512, &[5; 512]).expect("write");
    let text = open().expect_err("it is in use").to_string();
    assert!(text.contains("in use"), "{text}");
    first.sync().expect("sync");
    drop(first);
    assert_eq!(
        open().expect("again").read_at(0, 1024).map(|b| b[512]),
        Ok(5)
    );
    // Another member of that name elsewhere has another overlay.
    let other = dir.path().join("elsewhere");
    std::fs::create_dir(&other).expect("directory");
    let twin = other.join("a.img");
    make_file(&twin, SIZE);
    let member = MemberFile::open(&twin, Mode::ReadOnly, Engine::Auto).expect("open");
    let member = member.with_overlay(&overlay).expect("overlay");
    assert_eq!(member.read_at(0, 1024), Ok(vec![0; 1024]));
    // The member grew: what the overlay holds may not be what belongs there.
    make_file(&path, 2 * SIZE);
    let text = open().expect_err("another size").to_string();
    assert!(text.contains("not the overlay of this member"), "{text}");
}
