//! md's rarer words for how an array is to behave, as a user meets them: `suspend_lo` and
//! `suspend_hi`, `fail_last_dev`, `start_dirty_degraded`.

mod common;

use common::{Home, eventually, pattern};

/// Kills the daemon, as the power or the OOM killer would.
fn kill(home: &Home) {
    let pid = home.daemon_pid().expect("a daemon");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    eventually("the end of the daemon", || home.daemon_pid().is_none());
}

#[test]
fn writes_into_a_suspended_range_wait_and_are_shown() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 -z 4M -c 64K --assume-clean a b c")
        .ok();
    home.umd("array-state r5 --suspend-lo 128 --suspend-hi 256")
        .ok();
    let suspended = "Suspended : writes from sector 128 to 256 wait";
    let text = home.umd("detail r5").ok().out;
    assert!(text.contains(&format!("{suspended}\n")), "{text}");
    let (inside, beside) = (pattern(1, 8192), pattern(2, 8192));
    home.nbd("r5").pwrite(256 * 512, &beside).expect("writes");
    let write = |home: &Home| {
        let (mut client, data) = (home.nbd("r5"), inside.clone());
        std::thread::spawn(move || client.pwrite(255 * 512, &data))
    };
    let waits = write(&home);
    eventually("the write", || home.detail("r5")["suspended_writes"] == 1);
    let text = home.umd("detail r5").ok().out;
    assert!(
        text.contains(&format!("{suspended} (1 does now)")),
        "{text}"
    );
    // It is not there, and what is beside it can be read.
    let read = home.nbd("r5").pread(255 * 512, 1024).expect("reads");
    assert!(read == [&[0; 512], &beside[..512]].concat());
    assert!(!waits.is_finished());
    home.umd("array-state r5 --suspend-lo 0 --suspend-hi 0")
        .ok();
    waits.join().expect("no panic").expect("written");
    assert!(home.nbd("r5").pread(255 * 512, 8192).expect("reads") == inside);
    let text = home.umd("detail r5").ok().out;
    assert!(!text.contains("Suspended"), "{text}");

    // A stop lifts it: whoever waits is answered, and keeps the array no longer than that.
    home.umd("array-state r5 --suspend-hi 99999").ok();
    let waits = write(&home);
    eventually("the write", || home.detail("r5")["suspended_writes"] == 1);
    home.umd("stop --force r5").ok();
    let _ = waits.join().expect("no panic"); // The door may have closed before its answer.
    home.umd("assemble r5 a b c").ok();
    assert_eq!(home.detail("r5")["suspend_hi_sectors"], 0);
    assert!(home.nbd("r5").pread(255 * 512, 8192).expect("reads") == inside);
    // Nor does it outlive a daemon that is killed.
    home.umd("array-state r5 --suspend-hi 99999").ok();
    kill(&home);
    home.umd("assemble r5 a b c");
    home.nbd("r5").pwrite(0, &beside).expect("writes");
}

#[test]
fn the_last_member_of_a_mirror_is_failed_if_that_is_allowed() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 -z 2M --assume-clean a b").ok();
    let data = pattern(3, 65_536);
    home.nbd("r1").pwrite_fua(0, &data).expect("writes");
    home.umd("manage r1 --fail a").ok();
    let text = home.umd("manage r1 --fail b").fails(1);
    assert!(text.contains("too few members"), "{text}");
    let text = home.umd("array-state r1 --fail-last-dev maybe").fails(2);
    assert!(text.contains("1 or 0"), "{text}");
    home.umd("array-state r1 --fail-last-dev 1").ok();
    assert_eq!(home.detail("r1")["fail_last_dev"], true);
    home.umd("manage r1 --fail b").ok();
    assert_eq!(home.umd("array-state r1").ok().out, "broken\n");
    assert!(home.nbd("r1").pread(0, 4096).is_err(), "nobody has it");
    assert!(home.nbd("r1").pwrite(0, &data).is_err());
    // Nothing of that is on the members: the one that failed last has everything.
    home.umd("stop r1").ok();
    home.umd("assemble r1 a b").ok();
    assert!(home.nbd("r1").pread(0, 65_536).expect("reads") == data);
    let states = home.detail("r1")["members"].clone();
    assert_eq!(states.as_array().expect("members").len(), 1, "{states}");
}

#[test]
fn an_unclean_degraded_array_starts_where_it_may() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 -z 4M -c 64K --assume-clean a b c")
        .ok();
    home.umd("array-state r5 --safe-mode-delay 0").ok();
    home.umd("manage r5 --fail c --remove c").ok();
    let data = pattern(5, 1 << 20);
    home.nbd("r5").pwrite_fua(0, &data).expect("writes");
    kill(&home);
    // The next daemon finds it so, and leaves it alone.
    let text = home.umd("assemble r5 a b").fails(1);
    assert!(text.contains("not clean"), "{text}");
    let dry = home
        .umd("assemble --start-dirty-degraded --dry-run r5 a b")
        .ok();
    assert!(
        dry.out.contains("Marking array r5 as 'clean'"),
        "{}",
        dry.out
    );
    let ran = home.umd("assemble --start-dirty-degraded r5 a b").ok();
    assert!(ran.err.contains("may read back wrong"), "{}", ran.err);
    assert!(home.nbd("r5").pread(0, 1 << 20).expect("reads") == data);
    // What force trusts besides is not trusted.
    home.umd("stop r5").ok();
    let text = home.umd("assemble --start-dirty-degraded r5 a c").fails(1);
    assert!(text.contains("not enough to start the array"), "{text}");

    home.umd("assemble r5 a b").ok();
    home.umd("array-state r5 --safe-mode-delay 0").ok();
    home.nbd("r5").pwrite_fua(4096, &data).expect("writes");
    kill(&home);
    let mut daemon = home.spawn("daemon --start-dirty-degraded");
    eventually("the array", || home.umd("array-state r5").code == 0);
    assert!(home.nbd("r5").pread(4096, 1 << 20).expect("reads") == data);
    home.umd("stop r5").ok();
    let _ = daemon.kill();
    let _ = daemon.wait();
}
