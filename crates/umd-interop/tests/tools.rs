//! Programs made for md, pointed at what `umd mount` shows.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use umd_interop::fuse;
use umd_interop::oracle::{Oracle, notice, skipped};
use umd_interop::ports::free_address;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that is ended when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

struct Shown {
    // In this order: the mount goes before the daemon.
    _mount: Ended,
    umd: Umd,
    oracle: Oracle,
    scratch: Scratch,
    dir: PathBuf,
}

/// A degraded RAID6 with a faulty member and a RAID1, mounted; or a loud skip.
fn set_up(test: &str) -> Option<Shown> {
    let oracle = Oracle::or_skip(test)?;
    let umd = Umd::or_skip(test)?;
    if let Err(error) = fuse::possible() {
        skipped(test, &format!("{error:#}"));
        return None;
    }
    let scratch = Scratch::new().unwrap();
    let create = |name: &str, level: &str, count: usize| {
        let members = scratch.images(name, count, 32 * MIB).unwrap();
        let count = count.to_string();
        let mut args = vec!["create", name, "-l", level, "-n", &count, "--assume-clean"];
        args.extend(members.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        members
    };
    let six = create("six", "6", 4);
    create("one", "1", 2);
    umd.ok(&["manage", "six", "--fail", text(&six[1])]).unwrap();
    let dir = scratch.path("shown");
    fs::create_dir(&dir).unwrap();
    let mut command = umd.command(&["mount", text(&dir)]);
    let mount = Ended(command.stderr(Stdio::null()).spawn().unwrap());
    until("the mount", || {
        dir.join("proc/mdstat").exists().then_some(())
    });
    Some(Shown {
        _mount: mount,
        umd,
        oracle,
        scratch,
        dir,
    })
}

fn get(mut stream: impl Read + Write) -> std::io::Result<String> {
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The values of md's metrics, by name and labels; those in both kinds of text alike.
fn node_md(answer: &str) -> BTreeMap<String, f64> {
    let lines = answer.lines().filter(|line| line.starts_with("node_md_"));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn node_exporter_reads_the_mount_as_our_own_metrics_say() {
    let Some(shown) = set_up("node_exporter") else {
        return;
    };
    let address = free_address();
    let mut command = shown.oracle.command("prometheus-node-exporter").unwrap();
    command
        .arg("--path.procfs")
        .arg(shown.dir.join("proc"))
        .arg("--path.sysfs")
        .arg(shown.dir.join("sys"))
        .args(["--collector.disable-defaults", "--collector.mdadm"])
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null());
    let exporter = Ended(command.spawn().unwrap());
    let theirs = until("an answer of node_exporter", || {
        get(TcpStream::connect(address).ok()?).ok()
    });
    drop(exporter);
    let control = shown.umd.runtime_dir().join("control.sock");
    let ours = node_md(&get(UnixStream::connect(control).unwrap()).unwrap());
    let theirs = node_md(&theirs);
    // 1.5.0 has 11 values of each array; what is newer only we have.
    assert_eq!(theirs.len(), 22, "{theirs:?}");
    for (name, value) in &theirs {
        assert_eq!(ours.get(name), Some(value), "{name}");
    }
    assert_eq!(
        theirs["node_md_disks{device=\"six\",state=\"failed\"}"],
        1.0
    );
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A loop device, taken down when it is dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["-d", &self.0]);
    }
}

fn mke2fs(shown: &Shown, device: &Path) {
    let output = shown
        .oracle
        .output("mke2fs", &["-q", "-F", "-t", "ext4", text(device)]);
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn ext4_lives_on_the_file_and_on_a_loop_device() {
    let Some(shown) = set_up("ext4 on the file") else {
        return;
    };
    let device = shown.dir.join("dev/six");
    mke2fs(&shown, &device);
    let precious = shown.scratch.path("precious");
    fs::write(&precious, "precious ".repeat(10_000)).unwrap();
    let write = format!("write {} precious", precious.display());
    let wrote = shown
        .oracle
        .output("debugfs", &["-w", "-R", &write, text(&device)]);
    assert!(wrote.unwrap().status.success());
    shown
        .oracle
        .text("e2fsck", &["-fn", text(&device)])
        .unwrap();
    let (files, looped) = (shown.scratch.path("files"), "ext4 on a loop device");
    fs::create_dir(&files).unwrap();
    match run("losetup", &["-f", "--show", text(&device)]) {
        Err(why) => notice(&format!("SKIPPED {looped}: no loop device here: {why}")),
        Ok(name) => {
            let one = Loop(name);
            if let Err(why) = run("mount", &["-t", "ext4", &one.0, text(&files)]) {
                notice(&format!("SKIPPED {looped}: it cannot be mounted: {why}"));
                return;
            }
            let read = fs::read(files.join("precious"));
            let written = fs::write(files.join("more"), vec![7; 3 << 20]);
            run("umount", &[text(&files)]).unwrap();
            assert!(read.unwrap() == fs::read(&precious).unwrap());
            written.unwrap();
        }
    }
    shown
        .oracle
        .text("e2fsck", &["-fn", text(&device)])
        .unwrap();
}
