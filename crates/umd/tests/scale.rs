//! What arrays cost while nobody wants anything of them, and how many and how large they can be.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::Home;

/// Arrays of one daemon.
const ARRAYS: u64 = 30;
/// Each may wake up so often, by a timer.
const TIMER: Duration = Duration::from_secs(5);
/// The daemon's own wake-ups while it is watched: a look whether it is to go, doors, and some to
/// spare for a machine that is busy.
const OF_THE_DAEMON: u64 = 20;

/// How often the threads of a process have begun to run again after they had waited.
fn wake_ups(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let statuses = tasks.filter_map(|task| status(task.ok()?));
    statuses
        .map(|status| number(&status, "voluntary_ctxt_switches:"))
        .sum()
}

/// The number that follows a word at the beginning of a line.
fn number(status: &str, word: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(word));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {word} in {status}"))
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    number(&status, "VmRSS:")
}

#[test]
fn idle_arrays_sleep_and_are_small() {
    let home = Home::new();
    let create = |n| {
        let line = format!("create r{n} -l1 -n2 --size 16M --assume-clean a{n} b{n}");
        home.umd(&line).ok();
    };
    create(0);
    let pid = home.daemon_pid().expect("a daemon");
    let alone = resident_kib(pid);
    (1..=ARRAYS).for_each(create);
    let each = resident_kib(pid).saturating_sub(alone) / ARRAYS;
    eprintln!("{alone} KiB for the first array, {each} KiB for each of {ARRAYS} more");
    assert!(each < 1024, "{each} KiB for an idle array");

    // What creating them left to do is done by then.
    std::thread::sleep(Duration::from_secs(6));
    let (start, before) = (Instant::now(), wake_ups(pid));
    std::thread::sleep(2 * TIMER + Duration::from_millis(500));
    let woken = wake_ups(pid) - before;
    let periods = start.elapsed().as_millis().div_ceil(TIMER.as_millis());
    let allowed = u64::try_from(periods).expect("a few") * (ARRAYS + 1) + OF_THE_DAEMON;
    eprintln!(
        "{woken} wake-ups in {:?}, {allowed} allowed",
        start.elapsed()
    );
    assert!(woken <= allowed, "{woken} wake-ups, {allowed} allowed");
}

/// 64 members of 8 TiB with half a million regions.
#[test]
fn a_vast_array_starts_at_once() {
    let home = Home::new();
    let names: Vec<String> = (0..64).map(|n| format!("d{n}")).collect();
    for name in &names {
        let file = fs::File::create(home.path(name)).expect("a file");
        if file.set_len(8 << 40).is_err() {
            eprintln!("SKIPPED a_vast_array_starts_at_once: no files of 8 TiB here");
            return;
        }
    }
    let names = names.join(" ");
    let how = "-l6 -n64 --bitmap=internal --bitmap-chunk=16M --assume-clean";
    home.umd(&format!("create vast {how} {names}")).ok();
    home.umd("stop vast").ok();
    let start = Instant::now();
    home.umd(&format!("assemble vast {names}")).ok();
    let took = start.elapsed();
    eprintln!("started within {took:?}");
    let detail = home.detail("vast");
    assert_eq!(
        detail["array_bytes"].as_u64().map(|bytes| bytes >> 40),
        Some(495)
    );
    let kib = resident_kib(home.daemon_pid().expect("a daemon"));
    eprintln!("{kib} KiB");
    home.umd("stop vast").ok();
    // A second is what it may take; a busy machine of two cores gets five, and a debug build.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(kib < 64 << 10, "{kib} KiB");
}
