//! `umd mount`: a real mount, where this machine lets us.

mod common;

use common::{Home, eventually, pattern};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

const MIB: usize = 1 << 20;

/// A household with a RAID5 that is shown in `mnt`.
struct Mounted {
    home: Home,
    child: Child,
}

impl Mounted {
    fn new(test: &str) -> Option<Mounted> {
        let fuse = File::options().read(true).write(true).open("/dev/fuse");
        if let Err(error) = fuse {
            let _ = writeln!(
                std::io::stderr(),
                "\n*** SKIPPED {test}: /dev/fuse cannot be opened: {error}\n"
            );
            return None;
        }
        let home = Home::new();
        home.umd("create r5 -l5 -n3 -z 8M -c 64K --assume-clean a.img b.img c.img")
            .ok();
        fs::create_dir(home.path("mnt")).expect("made");
        let child = home.spawn("mount mnt");
        let mounted = Mounted { home, child };
        eventually("the mount", || mounted.at("proc/mdstat").exists());
        Some(mounted)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.home.path("mnt").join(path)
    }

    fn md(&self, attribute: &str) -> PathBuf {
        self.at("sys/block/r5/md").join(attribute)
    }

    fn read(&self, attribute: &str) -> String {
        fs::read_to_string(self.md(attribute)).expect("reads")
    }

    /// Writes as a shell does: `echo TEXT > FILE`.
    fn write(&self, attribute: &str, text: &str) -> Result<(), Errno> {
        let errno = |error: std::io::Error| Errno::from_io_error(&error).expect("an errno");
        let path = self.md(attribute);
        let open = File::options().write(true).truncate(true).open(path);
        let mut file = open.map_err(errno)?;
        file.write_all(format!("{text}\n").as_bytes())
            .map_err(errno)
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("lists").flatten() {
        match entry.file_type().expect("a kind") {
            kind if kind.is_dir() => files(&entry.path(), found),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

#[test]
fn everything_can_be_read_and_mdstat_is_ours() {
    let Some(mounted) = Mounted::new("everything_can_be_read") else {
        return;
    };
    let mdstat = fs::read_to_string(mounted.at("proc/mdstat")).expect("reads");
    assert_eq!(mdstat, mounted.home.umd("mdstat").ok().out);
    let mut found = Vec::new();
    files(&mounted.at("sys"), &mut found);
    assert!(found.len() > 60, "{found:?}");
    for path in found {
        let write_only = path.ends_with("bitmap_set_bits") || path.ends_with("new_dev");
        // Root opens what permissions forbid; such a file has nothing to read all the same.
        assert_eq!(fs::read(&path).is_err(), write_only, "{}", path.display());
    }
    assert_eq!(mounted.read("level"), "raid5\n");
    let alias = fs::read_to_string(mounted.at("sys/block/md127/md/level"));
    assert_eq!(alias.expect("reads"), "raid5\n");
    let uuid = mounted.home.detail("r5")["uuid_canonical"].clone();
    assert_eq!(
        mounted.read("uuid").trim_end(),
        uuid.as_str().expect("text")
    );
    let block = fs::read_link(mounted.md("rd0/block")).expect("a link");
    assert_eq!(
        block,
        mounted.home.path("a.img").canonicalize().expect("there")
    );
}

#[test]
fn writes_do_what_they_do_in_sysfs() {
    let Some(mounted) = Mounted::new("writes_do_what_they_do") else {
        return;
    };
    assert_eq!(mounted.write("sync_speed_max", "64"), Ok(()));
    assert_eq!(mounted.read("sync_speed_max"), "64 (local)\n");
    assert_eq!(mounted.write("sync_action", "check"), Ok(()));
    eventually("the check", || mounted.read("sync_action") == "check\n");
    assert_eq!(mounted.write("sync_action", "repair"), Err(Errno::BUSY));
    let shell = format!("echo idle > {}", mounted.md("sync_action").display());
    let status = Command::new("sh").args(["-c", &shell]).status();
    assert!(status.expect("a shell").success());
    eventually("idle", || mounted.read("sync_action") == "idle\n");
    assert_eq!(mounted.write("sync_speed_max", "system"), Ok(()));
    assert_eq!(mounted.write("bitmap/location", "+8"), Ok(()));
    assert_eq!(mounted.home.detail("r5")["bitmap"]["kind"], "internal");
    assert_eq!(mounted.read("consistency_policy"), "bitmap\n");
    assert_eq!(mounted.write("dev-b.img/state", "remove"), Err(Errno::BUSY));
    assert_eq!(mounted.write("dev-b.img/state", "faulty"), Ok(()));
    assert_eq!(mounted.read("dev-b.img/state"), "faulty\n");
    assert_eq!(mounted.read("degraded"), "1\n");
    assert_eq!(mounted.write("dev-c.img/state", "faulty"), Err(Errno::BUSY));
    assert_eq!(mounted.write("dev-b.img/state", "re-add"), Ok(()));
    mounted.home.settle("r5");
    eventually("the rebuild", || mounted.read("degraded") == "0\n");
    assert_eq!(mounted.write("array_state", "readonly"), Ok(()));
    assert_eq!(mounted.read("array_state"), "readonly\n");
    let device = File::options().write(true).open(mounted.at("dev/r5"));
    let refused = device.expect_err("it is read-only");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::ACCESS));
    assert_eq!(mounted.write("array_state", "clean"), Ok(()));
    assert_eq!(mounted.write("safe_mode_delay", "0.5"), Ok(()));
    assert_eq!(mounted.read("safe_mode_delay"), "0.500\n");
    assert_eq!(mounted.write("max_read_errors", "7"), Ok(()));
    assert_eq!(mounted.home.detail("r5")["max_read_errors"], 7);
    assert_eq!(mounted.write("array_state", "read-auto"), Ok(()));
    assert_eq!(mounted.read("array_state"), "read-auto\n");
    assert_eq!(mounted.write("degraded", "0"), Err(Errno::ACCESS));
    assert_eq!(mounted.write("array_state", "inactive"), Ok(()));
    assert_eq!(mounted.read("array_state"), "inactive\n");
    assert!(!mounted.at("dev/r5").exists());
    assert_eq!(mounted.write("array_state", "clean"), Err(Errno::INVAL));
    assert_eq!(mounted.write("array_state", "active"), Ok(()));
    assert!(mounted.at("dev/r5").exists());
    assert_eq!(mounted.write("no_such_thing", "0"), Err(Errno::NOENT));
}

/// What poll(2) says within so many seconds of something exceptional.
fn exceptional(file: &File, seconds: i64) -> PollFlags {
    let mut watched = [PollFd::new(file, PollFlags::PRI)];
    let timeout = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    poll(&mut watched, Some(&timeout)).expect("polls");
    watched[0].revents()
}

/// As programs do that wait for a value: read, wait, read again.
fn reread(file: &mut File) -> String {
    use std::io::Seek;
    let mut text = String::new();
    file.rewind().expect("seeks");
    file.read_to_string(&mut text).expect("reads");
    text
}

#[test]
fn whoever_polls_a_value_sleeps_until_it_changes() {
    let Some(mounted) = Mounted::new("whoever_polls") else {
        return;
    };
    let told = PollFlags::PRI | PollFlags::ERR;
    let open = |path: PathBuf| File::open(path).expect("opens");
    let mut degraded = open(mounted.md("degraded"));
    let mut mdstat = open(mounted.at("proc/mdstat"));
    let mut state = open(mounted.md("dev-c.img/state"));
    let mut layout = open(mounted.md("layout"));
    assert_eq!(exceptional(&degraded, 60), told, "it was not read yet");
    assert_eq!(exceptional(&mdstat, 60), told);
    assert_eq!(reread(&mut degraded), "0\n");
    assert_eq!(reread(&mut state), "in_sync\n");
    let (mut before, _) = (reread(&mut mdstat), reread(&mut layout));
    for file in [&degraded, &mdstat, &state, &layout] {
        assert_eq!(exceptional(file, 0), PollFlags::empty(), "as it was read");
    }
    for round in 0..3 {
        let line = match round % 2 {
            0 => "manage r5 --fail c.img",
            _ => "manage r5 --remove c.img --add c.img",
        };
        let mut child = mounted.home.spawn(line);
        // It is under way while we sleep.
        assert_eq!(exceptional(&mdstat, 60), told);
        assert_eq!(exceptional(&degraded, 60), told);
        assert!(child.wait().expect("ends").success());
        mounted.home.settle("r5");
        let after = reread(&mut mdstat);
        assert_ne!(after, before);
        before = after;
        assert_eq!(reread(&mut degraded), ["1\n", "0\n"][round % 2]);
    }
    assert_eq!(exceptional(&state, 60), told);
    assert_eq!(exceptional(&layout, 0), PollFlags::empty());
    // What is gone has changed, too.
    let mut action = open(mounted.md("sync_action"));
    assert_eq!(reread(&mut action), "idle\n");
    let mut child = mounted.home.spawn("stop r5");
    assert_eq!(exceptional(&action, 60), told);
    assert!(child.wait().expect("ends").success());
    // Everything else is ready at once, as ever.
    let mut watched = [PollFd::new(&mdstat, PollFlags::IN)];
    assert_eq!(poll(&mut watched, None).expect("polls"), 1);
}

#[test]
fn ranges_are_suspended_and_parameters_set_through_files() {
    let Some(mounted) = Mounted::new("ranges_are_suspended") else {
        return;
    };
    assert_eq!(mounted.read("suspend_hi"), "0\n");
    assert_eq!(mounted.write("suspend_lo", "64"), Ok(()));
    assert_eq!(mounted.write("suspend_hi", "128"), Ok(()));
    assert_eq!(mounted.write("suspend_hi", "x"), Err(Errno::INVAL));
    assert_eq!(mounted.read("suspend_lo"), "64\n");
    assert_eq!(mounted.read("suspend_hi"), "128\n");
    let device = File::options().write(true).open(mounted.at("dev/r5"));
    let device = device.expect("opens");
    let piece = pattern(1, 4096);
    let data = piece.clone();
    let waits = std::thread::spawn(move || device.write_all_at(&data, 64 * 512));
    eventually("the write", || {
        mounted.home.detail("r5")["suspended_writes"] == 1
    });
    assert!(!waits.is_finished());
    assert_eq!(mounted.write("suspend_hi", "0"), Ok(()));
    waits.join().expect("no panic").expect("written");
    assert!(mounted.home.nbd("r5").pread(64 * 512, 4096).expect("reads") == piece);

    for (text, shown) in [("1", "1\n"), ("N", "0\n"), ("on", "1\n")] {
        assert_eq!(mounted.write("fail_last_dev", text), Ok(()));
        assert_eq!(mounted.read("fail_last_dev"), shown);
    }
    assert_eq!(mounted.write("fail_last_dev", "2"), Err(Errno::INVAL));
    let path = mounted.at("sys/module/md_mod/parameters/start_dirty_degraded");
    assert_eq!(fs::read_to_string(&path).expect("reads"), "0\n");
    fs::write(&path, "1\n").expect("writes");
    assert_eq!(fs::read_to_string(&path).expect("reads"), "1\n");
    let refused = fs::write(&path, "x\n").expect_err("no number");
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::INVAL));
}

#[test]
fn devices_and_bitmap_files_are_named_by_their_paths() {
    let Some(mounted) = Mounted::new("devices_are_named") else {
        return;
    };
    let home = &mounted.home;
    let text = |path: PathBuf| path.to_str().expect("text").to_owned();
    fs::File::create(home.path("d.img"))
        .and_then(|file| file.set_len(16 << 20))
        .expect("made");
    assert_eq!(mounted.write("new_dev", "d.img"), Err(Errno::INVAL));
    assert_eq!(mounted.write("new_dev", "/no/such"), Err(Errno::NXIO));
    assert_eq!(mounted.write("new_dev", "4095:1"), Err(Errno::NXIO));
    let own = text(home.path("a.img").canonicalize().expect("there"));
    assert_eq!(mounted.write("new_dev", &own), Err(Errno::EXIST));
    assert_eq!(mounted.write("new_dev", &text(home.path("d.img"))), Ok(()));
    assert_eq!(mounted.read("dev-d.img/state"), "spare\n");
    assert_eq!(mounted.write("dev-d.img/state", "remove"), Ok(()));

    assert_eq!(mounted.write("bitmap/location", "file"), Err(Errno::INVAL));
    let map = text(home.path("map"));
    assert_eq!(mounted.write("bitmap/location", &map), Ok(()));
    assert_eq!(mounted.read("bitmap/location"), "file\n");
    assert_eq!(mounted.write("bitmap/location", "+8"), Err(Errno::BUSY));
    assert_eq!(mounted.write("bitmap/location", "none"), Ok(()));
    // One that waits for members gets them one by one, and runs with the last.
    home.umd("stop r5").ok();
    home.umd("incremental -c none a.img").ok();
    assert_eq!(mounted.read("array_state"), "inactive\n");
    for name in ["b.img", "c.img"] {
        assert_eq!(mounted.write("new_dev", &text(home.path(name))), Ok(()));
    }
    assert_eq!(mounted.read("degraded"), "0\n");
}

#[test]
fn nonsense_changes_nothing() {
    let Some(mounted) = Mounted::new("nonsense_changes_nothing") else {
        return;
    };
    let data = pattern(7, 2 * MIB);
    mounted.home.nbd("r5").pwrite_fua(0, &data).expect("writes");
    let before = mounted.home.detail("r5")["members"].clone();
    let mut found = Vec::new();
    files(&mounted.md(""), &mut found);
    let long = "9".repeat(5000);
    let words = [
        "",
        " ",
        "-",
        "nonsense",
        "99999999999999999999999",
        "raid5 ",
        "\0",
        "1 2 3",
        &long,
    ];
    for path in &found {
        for word in words {
            let open = File::options().write(true).truncate(true).open(path);
            let written = open.and_then(|mut file| file.write_all(format!("{word}\n").as_bytes()));
            // As in md, a list of bits is never refused for what is not understood.
            let junk = path.ends_with("bitmap_set_bits");
            assert!(written.is_err() || junk, "{} <- {word:?}", path.display());
        }
    }
    assert_eq!(mounted.home.detail("r5")["members"], before);
    let mut read = vec![0; data.len()];
    let device = File::open(mounted.at("dev/r5")).expect("opens");
    device.read_exact_at(&mut read, 0).expect("reads");
    assert!(read == data, "the array's bytes have changed");
}

#[test]
fn the_device_has_the_arrays_bytes() {
    let Some(mounted) = Mounted::new("the_device_has_the_bytes") else {
        return;
    };
    let mut nbd = mounted.home.nbd("r5");
    let size = nbd.size_bytes();
    let path = mounted.at("dev/r5");
    assert_eq!(fs::metadata(&path).expect("there").len(), size);
    let device = File::options().read(true).write(true).open(&path);
    let device = device.expect("opens");
    let mut expected = pattern(3, 4 * MIB);
    nbd.pwrite(0, &expected).expect("writes");
    for (at, len) in [
        (0, 512),
        (1, 1),
        (511, 2),
        (700, 5),
        (4096, 65_536),
        (65_000, 200_001),
    ] {
        let piece = pattern(at as u64 + 9, len);
        device.write_all_at(&piece, at as u64).expect("writes");
        expected[at..at + len].copy_from_slice(&piece);
    }
    device.sync_all().expect("flushes");
    assert!(nbd.pread(0, expected.len() as u32).expect("reads") == expected);
    let mut read = vec![0; 300_000];
    device.read_exact_at(&mut read, 12_345).expect("reads");
    assert!(read == expected[12_345..][..read.len()]);
    assert_eq!(device.read_at(&mut read, size).expect("reads"), 0);
    let beyond = device.write_at(b"x", size).expect_err("it is full");
    assert_eq!(Errno::from_io_error(&beyond), Some(Errno::NOSPC));
    let cut = device.set_len(5).expect_err("it has its size");
    assert_eq!(Errno::from_io_error(&cut), Some(Errno::INVAL));
    drop(
        File::options()
            .write(true)
            .truncate(true)
            .open(&path)
            .expect("opens"),
    );
    assert_eq!(fs::metadata(&path).expect("there").len(), size);
}

#[test]
fn an_array_stopped_through_its_own_attribute_is_gone() {
    let Some(mounted) = Mounted::new("stopped_through_its_attribute") else {
        return;
    };
    let mut level = File::open(mounted.md("level")).expect("opens");
    let device = File::open(mounted.at("dev/r5")).expect("opens");
    assert_eq!(mounted.write("array_state", "clear"), Err(Errno::BUSY));
    drop(device);
    // Closing is told to us a moment after close(2) has returned.
    eventually("the stop", || {
        mounted.write("array_state", "clear") == Ok(())
    });
    assert!(!mounted.at("sys/block/r5").exists());
    assert!(!mounted.at("sys/block/md127/md").exists());
    assert!(!mounted.at("dev/r5").exists());
    let gone = level.read(&mut [0; 16]).expect_err("it is gone");
    assert_eq!(Errno::from_io_error(&gone), Some(Errno::NODEV));
    mounted.home.umd("assemble r5 a.img b.img c.img").ok();
    assert_eq!(mounted.read("level"), "raid5\n");
    let device = File::open(mounted.at("dev/r5")).expect("opens");
    mounted.home.umd("stop --force r5").ok();
    let gone = device.read_at(&mut [0; 512], 0).expect_err("it is gone");
    assert_eq!(Errno::from_io_error(&gone), Some(Errno::NODEV));
}

#[test]
fn it_ends_when_told_busy_or_not_and_arrays_run_on() {
    let Some(mut mounted) = Mounted::new("it_ends_when_told") else {
        return;
    };
    let device = File::open(mounted.at("dev/r5")).expect("opens");
    let busy = Command::new("umount").arg(mounted.at("")).output();
    assert!(!busy.expect("umount runs").status.success(), "it is in use");
    mounted.signal(Signal::TERM);
    let status = mounted.child.wait().expect("ends");
    assert!(status.success(), "{status}");
    assert!(device.read_at(&mut [0; 512], 0).is_err());
    assert!(
        fs::read_dir(mounted.at(""))
            .expect("lists")
            .next()
            .is_none()
    );
    assert_eq!(mounted.home.detail("r5")["array_state"], "clean");
    for end in ["umount", "signal"] {
        mounted.child = mounted.home.spawn("mount mnt");
        eventually("the mount", || mounted.at("proc/mdstat").exists());
        match end {
            "signal" => mounted.signal(Signal::INT),
            _ => {
                let ended = Command::new("umount").arg(mounted.at("")).status();
                assert!(ended.expect("umount runs").success());
            }
        }
        let status = mounted.child.wait().expect("ends");
        assert!(status.success(), "{end}: {status}");
    }
    mounted.home.umd("mount nowhere").fails(1);
}
