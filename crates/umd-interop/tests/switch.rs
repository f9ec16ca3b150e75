//! An array becomes one of a cluster and a plain one again while it is served (what mdadm's cluster
//! tests `Grow_bitmap-switch` are about, and more): its clients notice a pause.
//!
//! ```text
//!   one NBD connection, writing and verifying all the time
//!   none -> clustered -> beta joins: refused -> beta leaves -> internal -> clustered -> none
//!              |                                                  |                      |
//!              +-- mdadm -E, -X; the kernel's md-cluster          +--- mdadm, kernel ----+
//!
//!   SIGKILL to the daemon, at any moment of that: it starts again as the one or the other
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "support/hosts.rs"]
mod hosts;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use umd_format::{Format, SuperblockV1};
use umd_interop::ledger::{BLOCK as LEDGER_BLOCK, Ledger};
use umd_interop::nbd::Client;
use umd_interop::oracle::{Oracle, skipped};
use umd_interop::pattern::Dice;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};
use umd_interop::uml::Kernel;

use hosts::*;

/// Blocks that the load writes.
const BLOCKS: usize = 1024;
const MEMORY: [&str; 3] = [
    "--cluster-engine=memory",
    "--home-cluster=hall",
    "--cluster-node=alpha",
];

/// What a client writes until it is told to stop, over one connection; everything is verified.
struct Load<'a> {
    umd: &'a Umd,
    name: &'a str,
    over: &'a AtomicBool,
    rounds: std::sync::atomic::AtomicU64,
}

impl Load<'_> {
    /// Writes and reads back until it is over. No request may fail.
    fn run(&self, ledger: &mut Ledger, dice: &mut Dice) -> anyhow::Result<()> {
        let socket = self.umd.runtime_dir().join("nbd.sock");
        let mut client = Client::connect(&socket, self.name)?;
        let mut block = vec![0; LEDGER_BLOCK];
        while !self.over.load(Ordering::Relaxed) {
            let index = dice.below(ledger.len() as u64) as usize;
            let fua = dice.below(8) == 0;
            let bytes = ledger.send(index, 1);
            client.write(ledger.offset(index), &bytes, fua)?;
            ledger.acknowledge(index, 1, fua);
            let index = dice.below(ledger.len() as u64) as usize;
            client.read(ledger.offset(index), &mut block)?;
            ledger.check(index, &block)?;
            if dice.below(16) == 0 {
                client.flush()?;
                ledger.flushed();
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
        client.disconnect()
    }

    /// Waits until it has gone on.
    fn goes_on(&self) {
        let (before, begin) = (self.rounds.load(Ordering::Relaxed), Instant::now());
        while self.rounds.load(Ordering::Relaxed) < before + 20 {
            assert!(begin.elapsed() < Duration::from_secs(60), "clients wait");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn verify(umd: &Umd, name: &str, ledger: &Ledger) -> anyhow::Result<()> {
    let socket = umd.runtime_dir().join("nbd.sock");
    let mut client = Client::connect(&socket, name)?;
    for index in 0..ledger.len() {
        let mut bytes = vec![0; LEDGER_BLOCK];
        client.read(ledger.offset(index), &mut bytes)?;
        ledger.check(index, &bytes)?;
    }
    client.disconnect()
}

fn plain(
    umd: &Umd,
    scratch: &Scratch,
    (name, options, count): (&str, &str, usize),
) -> Vec<PathBuf> {
    let set = scratch.images(name, count, 24 * MIB as u64).unwrap();
    let mut args = vec!["create", name, "--bitmap=none", "--config=none", "--run"];
    args.extend(options.split(' '));
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    set
}

fn rests(array: &Value) -> bool {
    array["sync"].is_null() && array["sync_pending"] == false
}

fn grow(umd: &Umd, name: &str, bitmap: &str, more: &[&str]) {
    let mut args = vec!["grow", name, bitmap];
    args.extend(more);
    umd.ok(&args).unwrap();
}

/// mdadm and the members themselves say what kind of array it is, and find nothing wrong.
fn shown((oracle, umd): (&Oracle, &Umd), set: &[PathBuf], clustered: bool, bitmap: bool) {
    for member in set {
        let examine = oracle.text("mdadm", &["--examine", text(member)]).unwrap();
        assert!(examine.contains("- correct"), "{examine}");
        assert_eq!(examine.contains("Internal Bitmap"), bitmap, "{examine}");
        if !bitmap {
            continue;
        }
        let shown = umd.ok(&["-X", text(member)]).unwrap();
        assert_eq!(shown.contains("Cluster name : hall"), clustered, "{shown}");
        let version = format!("Version : {}", if clustered { 5 } else { 4 });
        assert!(shown.contains(&version), "{shown}");
    }
}

fn mismatches(umd: &Umd, name: &str) -> Value {
    umd.ok(&["action", name, "--to=max"]).unwrap();
    umd.until(name, rests).unwrap();
    umd.ok(&["action", name, "check", "--wait"]).unwrap();
    umd.detail(name).unwrap()["mismatch_cnt"].clone()
}

#[test]
fn an_array_switches_under_a_client_that_never_notices() {
    let what = "arrays that join a cluster and leave it while they run";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    let server = format!("--cluster-server={}", etcd.url);
    let as_node = [
        "--cluster-engine=etcd",
        &server,
        "--home-cluster=hall",
        "--cluster-node=alpha",
        "--nodes=2",
    ];
    for array in ARRAYS {
        let set = plain(&alpha, &scratch, array);
        let name = array.0;
        let mut args = vec!["grow", name, "--bitmap=clustered"];
        args.extend(as_node);
        let first = alpha.output(&args).unwrap();
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        if said.contains("without the lock service") {
            return skipped(what, "this umd was built without the feature etcd");
        }
        assert!(first.status.success(), "{said}");
        grow(&alpha, name, "--bitmap=none", &[]);
        let over = AtomicBool::new(false);
        let load = Load {
            umd: &alpha,
            name,
            over: &over,
            rounds: 0.into(),
        };
        let mut ledger = Ledger::new(0, BLOCKS);
        thread::scope(|scope| {
            let writer = scope.spawn(|| load.run(&mut ledger, &mut Dice { seed: 7, place: 0 }));
            let work = || {
                switches(
                    &oracle,
                    (&alpha, &beta),
                    name,
                    (&etcd, &as_node),
                    &set,
                    &load,
                )
            };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            over.store(true, Ordering::Relaxed);
            writer.join().unwrap().unwrap();
            done.unwrap_or_else(|why| std::panic::resume_unwind(why));
        });
        verify(&alpha, name, &ledger).unwrap();
        assert_eq!(mismatches(&alpha, name), 0);
        kernel_agrees(&oracle, &alpha, name, (&etcd, &as_node), &set);
    }
}

fn switches(
    oracle: &Oracle,
    (alpha, beta): (&Umd, &Umd),
    name: &str,
    (etcd, as_node): (&Etcd, &[&str]),
    set: &[PathBuf],
    load: &Load<'_>,
) {
    load.goes_on();
    for round in 0..2 {
        grow(alpha, name, "--bitmap=clustered", as_node);
        load.goes_on();
        shown((oracle, alpha), set, true, true);
        assert_eq!(
            states(&alpha.detail(name).unwrap()),
            ["alpha this", "- free"]
        );
        join(beta, "beta", name, etcd, set).unwrap();
        load.goes_on();
        for word in ["--bitmap=none", "--bitmap=internal"] {
            let said = refused(alpha, &["grow", name, word]);
            assert!(said.contains("node 1 (beta) runs it as well"), "{said}");
            assert_eq!(refused(alpha, &["grow", name, word, "--dry-run"]), said);
        }
        beta.ok(&["stop", name]).unwrap();
        alpha.until(name, settled).unwrap();
        let (word, bitmap) = [("internal", true), ("none", false)][round];
        grow(alpha, name, &format!("--bitmap={word}"), &[]);
        load.goes_on();
        shown((oracle, alpha), set, false, bitmap);
        let array = alpha.detail(name).unwrap();
        assert!(array["cluster"].is_null(), "{array}");
        assert_eq!(array["bitmap"].is_null(), !bitmap, "{array}");
        // Nobody joins an array that is none of a cluster any more.
        let said = join(beta, "beta", name, etcd, set).unwrap_err();
        assert!(
            said.contains("in use") || said.contains("none of a cluster"),
            "{said}"
        );
    }
}

/// As a clustered array md-cluster runs it, as a plain one md does, and both read the same.
fn kernel_agrees(
    oracle: &Oracle,
    umd: &Umd,
    name: &str,
    (etcd, as_node): (&Etcd, &[&str]),
    set: &[PathBuf],
) {
    let devices: String = (0..set.len()).map(|n| format!("$D{n} ")).collect();
    let sum = |version: u32, start: &str, stop: &str| {
        let script = format!(
            "mkdir -p /dev/md /run/mdadm
            mdadm -X $D0 | sed -n 's/ *Version : /version=/p'\n{start}
            wait_idle md0
            echo sum=$(dd if=/dev/md0 bs=64k count=64 2>/dev/null | md5sum)
            echo found=$(check md0)\n{stop}\n"
        );
        let kernel = Kernel::new(oracle).members(set).cluster();
        let run = kernel.script(&script).run_ok().unwrap();
        assert!(run.stdout.contains("found=0"), "{}", run.stdout);
        let shown = run.stdout.contains(&format!("version={version}\n"));
        assert_eq!(shown, version > 0, "{}", run.stdout);
        let line = run.stdout.lines().find(|line| line.starts_with("sum="));
        line.unwrap().to_owned()
    };
    umd.ok(&["stop", name]).unwrap();
    let plain = sum(
        0,
        &format!("mdadm -A -q /dev/md0 {devices}"),
        "mdadm -S -q /dev/md0",
    );
    let start = |umd: &Umd| {
        let mut args = vec!["assemble", name];
        args.extend(set.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
    };
    start(umd);
    grow(umd, name, "--bitmap=clustered", as_node);
    umd.ok(&["stop", name]).unwrap();
    let clustered = sum(
        5,
        &format!("cluster_up hall\ncluster_start md0 {devices}"),
        "cluster_stop md0",
    );
    assert_eq!(plain, clustered);
    join(umd, "alpha", name, etcd, set).unwrap();
    umd.until(name, settled).unwrap();
    grow(umd, name, "--bitmap=internal", &[]);
    umd.ok(&["stop", name]).unwrap();
    let script = format!("mdadm -A -q /dev/md0 {devices}");
    assert_eq!(sum(4, &script, "mdadm -S -q /dev/md0"), plain);
}

/// Somewhere behind where resyncs wait in these tests.
const SCAR: u64 = 1100 * MIB as u64;

/// What a resync has not reached is resynced by the engine that goes on, whichever it is.
#[test]
fn what_is_dirty_stays_so() {
    let what = "regions that are dirty while an array joins a cluster and leaves it";
    let Some(umd) = Umd::or_skip(what) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    for (name, bitmap) in [("none", "--bitmap=none"), ("internal", "--bitmap=internal")] {
        let set = scratch.images(name, 2, 1280 * MIB as u64).unwrap();
        let mut args = vec!["create", "--run", name, "-l1", "-n2", bitmap];
        args.extend(set.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        held(&umd, name);
        scar(&set[1]);
        let mut more = MEMORY.to_vec();
        more.push("--nodes=3");
        grow(&umd, name, "--bitmap=clustered", &more);
        assert_eq!(
            mismatches(&umd, name),
            0,
            "{bitmap}: resynced in the cluster"
        );
        // The way back: the resync that a node has begun.
        umd.ok(&["stop", name]).unwrap();
        let mut args = vec!["create", "--run", name, "-l1", "-n2", "--bitmap=clustered"];
        args.extend(["--home-cluster=hall", "--force"]);
        args.extend(set.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        let mut args = vec!["assemble", name];
        args.extend(MEMORY);
        args.extend(set.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        held(&umd, name);
        scar(&set[1]);
        let said = refused(&umd, &["grow", name, "--bitmap=none"]);
        assert!(said.contains("resync is running"), "{said}");
        grow(&umd, name, "--bitmap=internal", &[]);
        assert_eq!(
            mismatches(&umd, name),
            0,
            "{bitmap}: resynced as a plain one"
        );
        umd.ok(&["stop", name]).unwrap();
    }
}

/// Its resync waits in the middle.
fn held(umd: &Umd, name: &str) {
    umd.ok(&["action", name, "--to=1G"]).unwrap();
    umd.until(name, |array| array["sync"]["held"] == true)
        .unwrap();
}

/// One leg differs.
fn scar(member: &Path) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(member)
        .unwrap();
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 4096).unwrap();
    let sectors = file.metadata().unwrap().len() / 512;
    let found = SuperblockV1::load(&bytes, Format::V1_2, sectors).unwrap();
    let data = found.fields.data_offset_sectors * 512;
    file.write_all_at(&[0x5a; 4096], data + SCAR).unwrap();
}

/// SIGKILL at moments spread over the whole exchange: what starts then is the one or the other,
/// with all that was acknowledged, and all legs alike.
#[test]
fn a_daemon_that_is_killed_in_between_starts_again() {
    let what = "daemons that are killed while an array joins a cluster or leaves it";
    let Some(umd) = Umd::or_skip(what) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let set = scratch.images("k", 2, 24 * MIB as u64).unwrap();
    let faults: Vec<String> = set
        .iter()
        .map(|path| format!("{}:lag=25", text(path)))
        .collect();
    let name = "killed";
    let mut args = vec!["create", "--run", name, "-l1", "-n2", "--bitmap=internal"];
    args.extend(["--assume-clean", "--bitmap-chunk=64K"]);
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    umd.ok(&["stop", name]).unwrap();
    let mut args = vec!["assemble", name];
    args.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    let mut ledger = Ledger::new(0, BLOCKS);
    // Either way, from the first moment on, and on a slow machine late enough.
    let (mut seen, mut tries) = ([0_u32; 4], [0_u64; 2]);
    for moment in 0..24 {
        let was = is_clustered(&umd, name);
        let pause = Duration::from_millis(tries[usize::from(was)].pow(2) * 10);
        tries[usize::from(was)] += 1;
        let over = AtomicBool::new(false);
        let load = Load {
            umd: &umd,
            name,
            over: &over,
            rounds: 0.into(),
        };
        let mut command = match was {
            true => umd.command(&["grow", name, "--bitmap=internal"]),
            false => {
                let mut args = vec!["grow", name, "--bitmap=clustered", "--nodes=2"];
                args.extend(MEMORY);
                umd.command(&args)
            }
        };
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                load.run(
                    &mut ledger,
                    &mut Dice {
                        seed: moment,
                        place: 0,
                    },
                )
            });
            load.goes_on();
            // Not asked for at that moment: who is asked while members are rewritten answers later.
            let pid = umd.detail(name).unwrap()["pid"].as_i64();
            let pid = Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()).unwrap();
            let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
            thread::sleep(pause);
            kill_process(pid, Signal::KILL).unwrap();
            while test_kill_process(pid).is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = child.wait().unwrap();
            writer.join().unwrap().unwrap_err();
        });
        ledger.killed();
        if umd.detail(name).is_err() {
            // Some members say the one and some the other: only a person knows of other hosts.
            halfway(&umd, name, &faults, &set);
        }
        let is = is_clustered(&umd, name);
        seen[usize::from(was) * 2 + usize::from(is)] += 1;
        verify(&umd, name, &ledger).unwrap();
        assert_eq!(mismatches(&umd, name), 0, "after kill {moment}");
    }
    // Plain before and after, joined, left, a node before and after.
    assert!(seen.iter().all(|one| *one > 0), "{seen:?}");
}

/// What was cut short while it left its cluster: no plain array is started from it, and the command
/// that is named goes on.
fn halfway(umd: &Umd, name: &str, faults: &[String], set: &[PathBuf]) {
    let mut args = vec!["assemble", name];
    args.extend(set.iter().map(|path| text(path)));
    let said = refused(umd, &args);
    assert!(said.contains("--update=no-cluster=NAME"), "{said}");
    args.push("--update=no-cluster=hall");
    args.extend(faults.iter().flat_map(|fault| ["--fault", fault]));
    umd.ok(&args).unwrap();
}

fn is_clustered(umd: &Umd, name: &str) -> bool {
    !umd.until(name, rests).unwrap()["cluster"].is_null()
}

/// A host that joins at any moment of it is let in, and then the array stays one of the cluster; or
/// the array leaves, and the host is refused. Both may be refused; never is none.
#[test]
fn nobody_comes_in_while_members_are_rewritten() {
    let what = "hosts that join while an array leaves its cluster";
    let (Some(oracle), Some(alpha)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let beta = Umd::or_skip(what).unwrap();
    let scratch = Scratch::new().unwrap();
    let Some(etcd) = Etcd::start(&oracle, &scratch.path("")) else {
        return;
    };
    let (set, name) = (made(&alpha, &scratch, ARRAYS[0]), ARRAYS[0].0);
    let faults: Vec<String> = set
        .iter()
        .map(|path| format!("{}:lag=150", text(path)))
        .collect();
    let slow: Vec<&str> = faults.iter().flat_map(|fault| ["--fault", fault]).collect();
    let joined = join_with(&alpha, ("alpha", name), &etcd, &set, &slow);
    if joined.as_ref().is_err_and(|said| said.contains("without")) {
        return skipped(what, "this umd was built without the feature etcd");
    }
    joined.unwrap();
    let server = format!("--cluster-server={}", etcd.url);
    let mut back = vec!["grow", name, "--bitmap=clustered", "--cluster-engine=etcd"];
    back.extend([
        server.as_str(),
        "--home-cluster=hall",
        "--cluster-node=alpha",
    ]);
    back.push("--nodes=2");
    let mut refusals = [0, 0];
    for moment in 0..12 {
        alpha.until(name, settled).unwrap();
        let mut leaving = alpha.command(&["grow", name, "--bitmap=internal"]);
        let mut leaving = leaving.stderr(std::process::Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(moment * 60));
        let came = join(&beta, "beta", name, &etcd, &set).is_ok();
        let left = leaving.wait().unwrap().success();
        assert!(!came || !left, "moment {moment}: came in and left alone");
        refusals[usize::from(left)] += 1;
        let is = !alpha.detail(name).unwrap()["cluster"].is_null();
        assert_eq!(is, !left, "moment {moment}");
        if came {
            beta.ok(&["stop", name]).unwrap();
        }
        if left {
            alpha.ok(&back).unwrap();
        }
    }
    println!("{refusals:?} times it stayed, and left");
    assert!(refusals[1] > 0, "it never left");
}
