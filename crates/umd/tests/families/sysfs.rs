//! 06sysfs: everything that scripts do with /sys/block/mdX/md, on a real mount: levels and their
//! shapes, members that come and go, sync actions and their limits, states, and what is refused.

use super::{POISON, Rig, poke};
use crate::common::{eventually, pattern};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Child;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// A rig and its files.
struct Shown {
    mount: Child,
    rig: Rig,
}

impl Shown {
    /// Nothing where this machine has no FUSE: that is said aloud.
    fn of(rig: Rig) -> Option<Shown> {
        if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
            let _ = writeln!(
                std::io::stderr(),
                "\n*** SKIPPED m06sysfs: /dev/fuse cannot be opened: {error}\n"
            );
            return None;
        }
        fs::create_dir(rig.home.path("mnt")).expect("made");
        let mount = rig.home.spawn("mount mnt");
        let shown = Shown { mount, rig };
        eventually("the mount", || shown.at("array_state").exists());
        Some(shown)
    }

    fn at(&self, attribute: &str) -> PathBuf {
        let path = format!("mnt/sys/block/r/md/{attribute}");
        self.rig.home.path(&path)
    }

    fn read(&self, attribute: &str) -> String {
        let text = fs::read_to_string(self.at(attribute));
        text.expect("reads").trim_end().to_owned()
    }

    fn write(&self, attribute: &str, text: &str) -> Result<(), Errno> {
        let written = File::options()
            .write(true)
            .truncate(true)
            .open(self.at(attribute))
            .and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
        written.map_err(|error| Errno::from_io_error(&error).expect("an errno"))
    }

    #[track_caller]
    fn has(&self, expected: &[(&str, &str)]) {
        for (attribute, value) in expected {
            assert_eq!(self.read(attribute), *value, "{attribute}");
        }
    }

    #[track_caller]
    fn takes(&self, attribute: &str, text: &str) {
        assert_eq!(self.write(attribute, text), Ok(()), "{attribute} <- {text}");
    }

    fn idle(&self) {
        eventually("idle", || self.read("sync_action") == "idle");
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.mount.id() as i32).expect("a process");
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.mount.wait();
    }
}

/// What every level shows of its shape, and of what it can do.
#[test]
fn m06sysfs_shapes() {
    for (options, count, expected, redundant) in [
        (
            "-l0 -n3 -c 64K",
            3,
            [("level", "raid0"), ("chunk_size", "65536"), ("layout", "1")],
            false,
        ),
        (
            "-l1 -n2",
            2,
            [("level", "raid1"), ("chunk_size", "0"), ("layout", "0")],
            true,
        ),
        (
            "-l4 -n3 -c 32K",
            3,
            [("level", "raid4"), ("chunk_size", "32768"), ("layout", "0")],
            true,
        ),
        (
            "-l5 -n4 -c 64K",
            4,
            [("level", "raid5"), ("chunk_size", "65536"), ("layout", "2")],
            true,
        ),
        (
            "-l6 -n4 -c 64K",
            4,
            [("level", "raid6"), ("chunk_size", "65536"), ("layout", "2")],
            true,
        ),
        (
            "-l10 -n4 -c 64K",
            4,
            [
                ("level", "raid10"),
                ("chunk_size", "65536"),
                ("layout", "258"),
            ],
            true,
        ),
    ] {
        let rig = Rig::create(count, &format!("{options} -z 2M"));
        let Some(shown) = Shown::of(rig) else {
            return;
        };
        shown.has(&expected);
        shown.has(&[
            ("raid_disks", &count.to_string()),
            ("metadata_version", "1.2"),
            ("reshape_position", "none"),
            ("resync_start", "none"),
            ("array_size", "default"),
        ]);
        let sectors: u64 = fs::read_to_string(shown.at("../size"))
            .expect("reads")
            .trim_end()
            .parse()
            .expect("a number");
        assert_eq!(sectors * 512, shown.rig.data.len() as u64);
        for attribute in ["sync_action", "degraded", "suspend_lo", "mismatch_cnt"] {
            assert_eq!(
                shown.at(attribute).exists(),
                redundant,
                "{options} {attribute}"
            );
        }
        let slots = (0..count).map(|slot| shown.at(&format!("rd{slot}/state")));
        for state in slots {
            assert_eq!(fs::read_to_string(state).expect("reads"), "in_sync\n");
        }
        // A shape that is not there is refused, and changes nothing.
        assert_eq!(shown.write("raid_disks", "0"), Err(Errno::INVAL));
        assert_eq!(shown.write("level", "raid7"), Err(Errno::INVAL));
        assert_eq!(shown.write("metadata_version", "9.9"), Err(Errno::NOENT));
        assert_eq!(shown.write("raid_disks", &count.to_string()), Ok(()));
        shown.rig.verify("after what was refused");
    }
}

/// A script that replaces a member knows nothing but files.
#[test]
fn m06sysfs_members() {
    let rig = Rig::create(3, "-l5 -n3 -z 2M -c 64K --bitmap=internal");
    let Some(mut shown) = Shown::of(rig) else {
        return;
    };
    shown.has(&[
        ("degraded", "0"),
        ("consistency_policy", "bitmap"),
        ("bitmap/location", "+8"),
    ]);
    shown.has(&[
        ("dev-m1/slot", "1"),
        ("dev-m1/errors", "0"),
        ("dev-m1/bad_blocks", ""),
    ]);
    assert_eq!(shown.write("dev-m1/state", "remove"), Err(Errno::BUSY));
    shown.takes("dev-m1/state", "faulty");
    shown.has(&[
        ("degraded", "1"),
        ("dev-m1/state", "faulty"),
        ("rd0/state", "in_sync"),
    ]);
    assert_eq!(shown.write("dev-m2/state", "faulty"), Err(Errno::BUSY));
    assert_eq!(shown.write("bitmap/can_clear", "true"), Err(Errno::BUSY));
    assert!(!shown.at("rd1").exists());
    shown.rig.write(65_536, 7, 4096);
    shown.takes("dev-m1/state", "re-add");
    eventually("the rebuild", || shown.read("degraded") == "0");
    shown.has(&[("rd1/state", "in_sync"), ("last_sync_action", "recovery")]);
    shown.takes("dev-m1/state", "faulty");
    shown.takes("dev-m1/state", "remove");
    assert!(!shown.at("dev-m1").exists());
    let path = shown.rig.home.path("new");
    fs::File::create(&path)
        .and_then(|file| file.set_len(8 << 20))
        .expect("made");
    shown.takes("new_dev", path.to_str().expect("text"));
    eventually("the rebuild", || shown.read("degraded") == "0");
    shown.has(&[("dev-new/slot", "1"), ("dev-new/state", "in_sync")]);
    shown.rig.verify("with a new member");
    shown.idle();
    shown.takes("bitmap/location", "none");
    shown.has(&[
        ("consistency_policy", "resync"),
        ("bitmap/location", "none"),
    ]);
    // Nothing is written any more by itself.
    eventually("clean", || shown.read("array_state") == "clean");
    let images = || ["m0", "m2"].map(|name| fs::read(shown.rig.home.path(name)).expect("reads"));
    let before = images();
    // Nothing, on and before the superblock, on the bad-block log, on the data, far away.
    for place in [
        "0",
        "+1",
        "-8",
        "+20",
        "+2048",
        "-2147483648",
        "2147483647",
        "2147483648",
    ] {
        let said = shown.write("bitmap/location", place);
        assert_eq!(said, Err(Errno::INVAL), "{place}");
    }
    assert!(images() == before, "what is refused changes nothing");
    for place in ["+24", "+8"] {
        shown.takes("bitmap/location", place);
        shown.has(&[("bitmap/location", place), ("bitmap/metadata", "internal")]);
        assert_eq!(shown.write("bitmap/location", "+32"), Err(Errno::BUSY));
        if place != "+8" {
            shown.takes("bitmap/location", "none");
        }
    }
    let flags = [
        ("writemostly", "in_sync,write_mostly"),
        ("-writemostly", "in_sync"),
    ];
    for (word, state) in flags {
        shown.takes("dev-m0/state", word);
        shown.has(&[("dev-m0/state", state)]);
    }
}

/// Checks and repairs go where they are sent, no faster than they may, and tell what they found.
#[test]
fn m06sysfs_actions() {
    let rig = Rig::create(3, "-l5 -n3 -z 4M -c 64K");
    let (offset, _) = rig.room();
    rig.stop();
    poke(&rig.home, "m1", offset + (3 << 20), &POISON);
    rig.start();
    let Some(shown) = Shown::of(rig) else {
        return;
    };
    shown.has(&[
        ("sync_min", "0"),
        ("sync_max", "max"),
        ("sync_completed", "none"),
    ]);
    for (attribute, text) in [
        ("sync_min", "-1"),
        ("sync_max", "x"),
        ("sync_speed_min", "0"),
    ] {
        assert_eq!(
            shown.write(attribute, text),
            Err(Errno::INVAL),
            "{attribute}"
        );
    }
    assert_eq!(shown.write("sync_action", "mend"), Err(Errno::INVAL));
    // Up to where nothing is wrong, and it waits there.
    shown.takes("sync_max", "4096");
    shown.takes("sync_action", "check");
    eventually("the limit", || {
        shown.read("sync_completed") == "4096 / 8192"
    });
    shown.has(&[("sync_action", "check"), ("mismatch_cnt", "0")]);
    assert_eq!(shown.write("sync_action", "repair"), Err(Errno::BUSY));
    assert_eq!(shown.write("sync_min", "0"), Err(Errno::BUSY));
    shown.takes("sync_max", "max");
    shown.idle();
    shown.has(&[("mismatch_cnt", "8"), ("last_sync_action", "check")]);
    shown.takes("sync_action", "repair");
    shown.idle();
    shown.takes("sync_action", "check");
    shown.idle();
    shown.has(&[("mismatch_cnt", "0")]);
    shown.takes("sync_speed_max", "64");
    shown.has(&[("sync_speed_max", "64 (local)")]);
    // Nothing is owed: asked for, a resync has nothing to do.
    shown.takes("sync_action", "resync");
    shown.has(&[("sync_action", "idle")]);
    shown.takes("sync_action", "check");
    eventually("the check", || shown.read("sync_action") == "check");
    shown.takes("sync_action", "frozen");
    shown.has(&[("sync_action", "frozen")]);
    shown.takes("sync_speed_max", "system");
    shown.takes("sync_action", "idle");
    shown.idle();
}

/// md's words for the state of an array, and what may be written to each.
#[test]
fn m06sysfs_states() {
    let rig = Rig::create(2, "-l1 -n2 -z 2M");
    let Some(shown) = Shown::of(rig) else {
        return;
    };
    for word in [
        "suspended",
        "write-pending",
        "active-idle",
        "broken",
        "mended",
    ] {
        assert_eq!(
            shown.write("array_state", word),
            Err(Errno::INVAL),
            "{word}"
        );
    }
    shown.takes("safe_mode_delay", "0.001");
    eventually("clean", || shown.read("array_state") == "clean");
    shown.takes("safe_mode_delay", "0");
    shown
        .rig
        .home
        .nbd("r")
        .pwrite(0, &pattern(9, 4096))
        .expect("writes");
    shown.has(&[("array_state", "active")]);
    eventually("clean", || shown.write("array_state", "clean").is_ok());
    eventually("clean", || shown.read("array_state") == "clean");
    eventually("closed", || {
        shown.write("array_state", "readonly") == Ok(())
    });
    assert_eq!(shown.write("array_state", "readonly"), Err(Errno::NXIO));
    assert_eq!(shown.write("sync_action", "check"), Err(Errno::ROFS));
    assert_eq!(fs::read_to_string(shown.at("../ro")).expect("reads"), "1\n");
    shown.takes("array_state", "read-auto");
    shown
        .rig
        .home
        .nbd("r")
        .pwrite(0, &pattern(9, 4096))
        .expect("writes");
    shown.has(&[("array_state", "active")]);
    // What is suspended is not written, and can be read.
    shown.takes("suspend_hi", "8");
    let mut client = shown.rig.home.nbd("r");
    let waits = std::thread::spawn(move || client.pwrite(0, &pattern(10, 4096)));
    eventually("the write", || {
        shown.rig.home.detail("r")["suspended_writes"] == 1
    });
    let read = shown.rig.home.nbd("r").pread(0, 4096).expect("reads");
    assert!(read == pattern(9, 4096) && !waits.is_finished());
    shown.takes("suspend_hi", "0");
    waits.join().expect("no panic").expect("written");
    eventually("inactive", || {
        shown.write("array_state", "inactive") == Ok(())
    });
    shown.has(&[("array_state", "inactive"), ("dev-m0/slot", "0")]);
    assert!(!shown.at("sync_action").exists());
    shown.takes("array_state", "active");
    shown.has(&[("degraded", "0")]);
    shown.takes("fail_last_dev", "1");
    shown.takes("dev-m0/state", "faulty");
    shown.takes("dev-m1/state", "faulty");
    shown.has(&[("array_state", "broken"), ("degraded", "2")]);
    shown.takes("array_state", "clear");
    eventually("the end", || !shown.at("").exists());
}
