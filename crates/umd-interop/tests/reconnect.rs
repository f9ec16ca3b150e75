//! A client that reconnects does not notice that the daemon was killed: its writes are repeated by
//! itself, the next daemon has the same arrays at the same doors, and every byte is right.
//!
//! ```text
//!   qemu-io --reconnect-delay--> nbd.sock, tcp:127.0.0.1:PORT --> daemon, SIGKILL, next daemon ...
//!      60 MiB, and again, so slow that every kill falls between writes
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use umd_interop::oracle::Oracle;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, copy_out, text};

const MIB: u64 = 1 << 20;
const MEMBER: u64 = 32 * MIB;
/// What one write holds, and how many are under way at once.
const WRITE: u64 = 256 << 10;
const AT_ONCE: u64 = 8;
/// How much of the array is written, and how often.
const BYTES: u64 = 60 * MIB;
const PASSES: u64 = 2;
/// How fast, so that it takes longer than all kills.
const BYTES_PER_SECOND: u64 = 12 * MIB;
const KILLS: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(1200);

/// The byte that a pass leaves in a place.
fn byte(pass: u64, place: u64) -> u8 {
    u8::try_from((place * 7 + pass * 101) % 251).unwrap() + 1
}

/// All writes, in groups that are under way together.
fn commands() -> Vec<String> {
    let mut commands = Vec::new();
    for pass in 0..PASSES {
        for place in 0..BYTES / WRITE {
            let (byte, offset) = (byte(pass, place), place * WRITE);
            commands.push(format!("aio_write -q -P {byte} {offset} {WRITE}"));
            if place % AT_ONCE == AT_ONCE - 1 {
                commands.push("aio_flush".into());
            }
        }
    }
    commands.push("aio_flush".into());
    commands.push("flush".into());
    // What it wrote it reads again, over the same connection.
    for place in 0..BYTES / WRITE {
        let (byte, offset) = (byte(PASSES - 1, place), place * WRITE);
        commands.push(format!("read -q -P {byte} {offset} {WRITE}"));
    }
    commands
}

/// Writes at a limited pace, through a client that waits for its server for a minute.
fn writer(oracle: &Oracle, server: &str, log: &Path) -> Result<Child> {
    let mut command = oracle.command("qemu-io")?;
    let group = format!("throttle-group,id=pace,x-bps-total={BYTES_PER_SECOND}");
    let image = format!(
        "driver=throttle,throttle-group=pace,file.driver=nbd,file.export=r5,\
         file.reconnect-delay=60,{server}"
    );
    command.args(["--object", &group, "--image-opts", &image]);
    for one in commands() {
        command.args(["-c", &one]);
    }
    let file = File::create(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    command.stdin(Stdio::null());
    command.spawn().context("qemu-io does not start")
}

fn kill(umd: &Umd) -> Result<()> {
    let pid = umd.detail("r5")?["pid"].as_i64();
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.context("no daemon runs the array")?;
    kill_process(pid, Signal::KILL)?;
    while test_kill_process(pid).is_ok() && !is_zombie(pid) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn is_zombie(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'))
    })
}

fn members(umd: &Umd, scratch: &Scratch) -> Vec<PathBuf> {
    let members = scratch.images("m", 3, MEMBER).unwrap();
    let mut args = vec!["create", "r5", "-l5", "-n3", "-c64", "--assume-clean"];
    args.extend(["--bitmap=internal"]);
    args.extend(members.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    members
}

/// Kills the daemon again and again below a client; the next command starts another one.
fn killed_below(oracle: &Oracle, umd: &Umd, server: &str, scratch: &Scratch) -> Result<()> {
    let log = scratch.path("log");
    let mut client = writer(oracle, server, &log)?;
    let said = || fs::read_to_string(&log).unwrap_or_default();
    for round in 0..KILLS {
        std::thread::sleep(BETWEEN);
        let ended = client.try_wait()?;
        ensure!(ended.is_none(), "it ended before kill {round}: {}", said());
        kill(umd)?;
        let text = umd.ok(&["mdstat"])?;
        ensure!(text.contains("r5 : active"), "after kill {round}: {text}");
    }
    let status = client.wait()?;
    ensure!(status.success(), "qemu-io ended with {status}: {}", said());
    let said = said();
    let wrong = ["failed", "rror", "verification"];
    ensure!(!wrong.iter().any(|word| said.contains(word)), "{said}");
    Ok(())
}

fn everything_is_right(oracle: &Oracle, umd: &Umd, scratch: &Scratch) -> Result<()> {
    let out = scratch.path("out");
    copy_out(oracle, &umd.daemon_uri("r5"), &out)?;
    let bytes = fs::read(&out)?;
    for (place, found) in bytes[..BYTES as usize].chunks(WRITE as usize).enumerate() {
        let wanted = byte(PASSES - 1, place as u64);
        let wrong = found.iter().position(|byte| *byte != wanted);
        ensure!(wrong.is_none(), "write {place}: another byte at {wrong:?}");
    }
    umd.output(&["wait", "r5"])?; // 1 when there was nothing to wait for.
    umd.ok(&["action", "r5", "check", "--wait"])?;
    let array = umd.detail("r5")?;
    ensure!(array["mismatch_cnt"] == 0, "{}", array["mismatch_cnt"]);
    ensure!(array["degraded"] == 0, "a member was lost on the way");
    Ok(())
}

#[test]
fn a_client_that_reconnects_does_not_notice_kills() {
    let test = "reconnecting over kills";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(test), Umd::or_skip(test)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let _members = members(&umd, &scratch);
    let socket = umd.runtime_dir().join("nbd.sock");
    let server = format!("file.server.type=unix,file.server.path={}", text(&socket));
    killed_below(&oracle, &umd, &server, &scratch).unwrap();
    everything_is_right(&oracle, &umd, &scratch).unwrap();
}

#[test]
fn a_port_is_where_it_was_after_kills() {
    let test = "reconnecting over kills, by TCP";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(test), Umd::or_skip(test)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    // The port is the system's choice; daemons that commands start later take the same.
    let mut daemon = umd
        .command(&["daemon", "--nbd", "tcp:127.0.0.1:0"])
        .spawn()
        .unwrap();
    while !umd.runtime_dir().join("nbd.sock").exists() {
        assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _members = members(&umd, &scratch);
    let doors = umd.detail("r5").unwrap()["nbd"].clone();
    let port = doors[1]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned();
    let reaper = std::thread::spawn(move || daemon.wait());
    let server =
        format!("file.server.type=inet,file.server.host=127.0.0.1,file.server.port={port}");
    killed_below(&oracle, &umd, &server, &scratch).unwrap();
    assert_eq!(umd.detail("r5").unwrap()["nbd"], doors);
    everything_is_right(&oracle, &umd, &scratch).unwrap();
    assert!(!reaper.join().unwrap().unwrap().success(), "it was killed");
}
