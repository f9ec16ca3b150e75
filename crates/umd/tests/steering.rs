//! Sync actions under control, on real files: where they go, how fast, and where they go on after
//! the process was killed.

mod common;

use common::{Home, eventually, pattern};
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Kills the daemon, as the power or the OOM killer would.
fn kill(home: &Home) {
    let pid = home.daemon_pid().expect("a daemon");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    eventually("the end of the daemon", || home.daemon_pid().is_none());
}

fn recovery_offset(home: &Home, file: &str) -> Option<u64> {
    let document = home.umd(&format!("examine --json {file}")).ok().json();
    document["devices"][0]["superblock"]["recovery_offset_bytes"]
        .as_u64()
        .map(|bytes| bytes / 512)
}

fn done(home: &Home, name: &str) -> u64 {
    let array = home.detail(name);
    array["sync"]["done_sectors"].as_u64().unwrap_or(u64::MAX)
}

#[test]
fn a_check_goes_from_here_to_there() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 16M -c 64K --assume-clean a b c")
        .ok();
    for (line, what) in [
        ("--to 100s", "sync_max 100 is no multiple of 128 sectors"),
        ("--to 17M", "sync_max 34816 lies behind the end"),
        (
            "check --from 8M --to 4M",
            "sync_min 16384 lies behind sync_max 8192",
        ),
        (
            "--speed-min 9M --speed-max 8M",
            "sync_speed_min 9216 is more than sync_speed_max 8192",
        ),
    ] {
        let text = home.umd(&format!("action r5 {line}")).fails(2);
        assert!(text.contains(what), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let array = home.detail("r5");
    assert_eq!(array["sync_action"], "idle", "nothing was begun");
    assert_eq!(array["sync_min_sectors"], 0);
    assert!(array["sync_max_sectors"].is_null());
    assert!(!home.umd("detail r5").ok().out.contains("Sync Range"));

    let ran = home.umd("action r5 check --from 4M --to 8M --wait").ok();
    let waits = "umd: r5: check waits at sector 16384 (sync_max) until umd action r5 --to=max";
    assert!(ran.err.contains(waits), "{}", ran.err);
    let array = home.detail("r5");
    assert_eq!(array["sync"]["held"], true);
    assert_eq!(array["sync"]["done_sectors"], 16384);
    let text = home.umd("detail r5").ok().out;
    let line = "Sync Range : from sector 8192 to 16384, and waits there";
    assert!(text.contains(line), "{text}");
    let text = home.umd("action r5 --to 4M").fails(1);
    assert!(text.contains("has come to sector 16384 already"), "{text}");
    let text = home.umd("action r5 --from 0").fails(1);
    assert!(text.contains("check is running"), "{text}");
    home.umd("action r5 idle").ok();
    assert_eq!(
        home.detail("r5")["sync_min_sectors"],
        16384,
        "it goes on here"
    );
    home.umd("action r5 check --to max --wait").ok();
    let array = home.detail("r5");
    assert_eq!(array["sync_min_sectors"], 0);
    assert_eq!(array["last_sync_action"], "check");
}

/// A block of the new member below the checkpoint is overwritten behind umd's back while it is
/// dead: had the recovery begun again at 0, it would be right in the end.
#[test]
fn a_killed_recovery_goes_on_where_it_was() {
    for (level, count) in [("1", 2), ("5", 3), ("10", 4)] {
        let home = Home::new();
        let files: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
        let files = files.join(" ");
        let chunk = if level == "1" { "" } else { "-c 64K" };
        home.umd(&format!(
            "create r -l{level} -n{count} --size 96M --assume-clean -b none {chunk} {files}"
        ))
        .ok();
        let mut client = home.nbd("r");
        let data = pattern(3, 8 << 20);
        for n in 0..10 {
            client.pwrite(n * 8 * MIB, &data).expect("writes");
        }
        client.disconnect().expect("leaves");
        let length = fs::metadata(home.path("m0")).expect("there").len();
        fs::File::create(home.path("new"))
            .expect("made")
            .set_len(length)
            .expect("sized");
        home.umd("action r --speed-max 24M").ok();
        home.umd("manage r --fail m1 --remove m1 --add new").ok();
        eventually("a checkpoint", || recovery_offset(&home, "new") > Some(0));
        kill(&home);
        let checkpoint = recovery_offset(&home, "new").expect("half rebuilt");
        let document = home.umd("examine --json new").ok().json();
        let start = document["devices"][0]["superblock"]["data_offset_bytes"]
            .as_u64()
            .expect("a number");
        assert!(checkpoint >= 32_768, "{checkpoint}");
        let file = fs::OpenOptions::new()
            .write(true)
            .open(home.path("new"))
            .expect("opens");
        let scar = pattern(9, 4096);
        file.write_all_at(&scar, start + 4096 * 512)
            .expect("scarred");
        let kept = files.replace("m1", "new");
        home.umd(&format!("assemble r {kept}")).ok();
        assert!(done(&home, "r") >= checkpoint, "level {level}");
        home.settle("r");
        assert_eq!(home.detail("r")["degraded"], 0);
        let ran = home.umd("action r check --wait").ok();
        let unit = if level == "5" { 8 } else { 128 };
        let found = format!("mismatch_cnt {unit}\n");
        assert!(ran.err.contains(&found), "level {level}: {}", ran.err);
        // Everything but the scar is there.
        home.umd("manage r --fail m0").ok();
        let read = home.nbd("r").pread(40 * MIB, 8 << 20).expect("reads");
        assert!(read == data, "level {level}");
    }
}

#[test]
fn a_killed_resync_goes_on_where_it_was() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 4G -c 64K --bitmap none a b c")
        .ok();
    home.umd("action r5 --speed-max 24M").ok();
    let to = (done(&home, "r5") / 128 + 256) * 128;
    home.umd(&format!("action r5 --to {to}s --speed-max system"))
        .ok();
    home.settle("r5");
    let array = home.detail("r5");
    assert_eq!(array["sync"]["held"], true, "{array}");
    kill(&home);
    home.umd("assemble r5 a b c").ok();
    assert!(done(&home, "r5") >= to, "it goes on where it waited");
    home.settle("r5");
    assert_eq!(home.detail("r5")["sync_pending"], false);
}

/// Sectors per second that a check does in `seconds`, with a host that writes all the time or not.
fn rate(home: &Home, seconds: u64, host: bool) -> u64 {
    let mut client = home.nbd("r1");
    let begun = Instant::now();
    let before = done(home, "r1");
    let block = pattern(1, 65536);
    while begun.elapsed() < Duration::from_secs(seconds) {
        if host {
            client.pwrite(MIB, &block).expect("writes");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let passed = begun.elapsed().as_millis() as u64;
    let after = done(home, "r1");
    client.disconnect().expect("leaves");
    (after - before) / 2 * 1000 / passed
}

#[test]
fn a_check_makes_room_for_hosts() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 512M --assume-clean --bitmap none a b")
        .ok();
    home.umd("action r1 check --speed-min 2M --speed-max 32M")
        .ok();
    let free = rate(&home, 3, false);
    let beside = rate(&home, 3, true);
    assert!((16_000..36_000).contains(&free), "{free} K/sec");
    assert!((1_000..4_000).contains(&beside), "{beside} K/sec");
    let array = home.detail("r1");
    assert_eq!(array["sync_speed_min_kib_s"], 2048);
    assert_eq!(array["sync_speed_max_kib_s"], 32_768);
    let text = home.umd("detail r1").ok().out;
    let line = "Sync Speed : 32768K/sec at most, 2048K/sec while hosts work";
    assert!(text.contains(line), "{text}");
    home.umd("action r1 --speed-min system --speed-max system")
        .ok();
    home.settle("r1");
    assert!(home.detail("r1")["sync_speed_max_kib_s"].is_null());
}
