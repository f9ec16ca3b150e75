//! umd killed at random moments under a verifying load: nothing acknowledged with FUA or a flush
//! is lost.
//!
//! The page cache would hide a missing flush, so the members sit behind a write cache inside the
//! process (`--fault MEMBER:cache`): what no flush covered dies with it, except for a few blocks
//! that reach the file early, as on a real disk. With `ignore-flush` the cache takes flushes
//! without obeying, which is what a umd without flushes would be; that run must fail.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use umd_interop::ledger::{BLOCK, Ledger};
use umd_interop::nbd::Client;
use umd_interop::oracle::Oracle;
use umd_interop::pattern::Dice;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Served, Umd};
use umd_interop::uml::Kernel;

const MEMBER: u64 = 6 << 20;
const CONNECTIONS: usize = 4;
/// Blocks each connection writes, in its own range.
const BLOCKS: usize = 256;
/// (level, members, options); with write-behind the last member is write-mostly.
const ARRAYS: [(&str, usize, &str); 10] = [
    ("0", 3, ""),
    ("1", 2, "--bitmap=internal"),
    ("1", 3, "--write-behind=8"),
    ("4", 3, "--bitmap=none"),
    ("5", 3, "--bitmap=internal"),
    ("5", 4, "--bitmap=none"),
    ("6", 5, "--bitmap=internal"),
    ("10", 3, "--bitmap=internal"),
    ("1", 2, "--bitmap=internal -e0.90"),
    ("5", 3, "--bitmap=none -e0.90"),
];

fn kills() -> u64 {
    if std::env::var_os("UMD_FULL").is_some() {
        200
    } else {
        20
    }
}

fn members(scratch: &Scratch, count: usize) -> Vec<PathBuf> {
    scratch.images("m", count, MEMBER).unwrap()
}

fn create(umd: &Umd, level: &str, options: &str, members: &[PathBuf]) {
    let (level, count) = (format!("-l{level}"), format!("-n{}", members.len()));
    let mut args = vec!["create", "killed", &level, &count, "-c16"];
    args.extend(options.split_whitespace());
    let behind = options.contains("--write-behind");
    args.extend(Some("--bitmap=internal").filter(|_| behind));
    if level != "-l0" {
        args.push("--assume-clean");
    }
    if level == "-l1" {
        args.retain(|arg| *arg != "-c16");
    }
    let paths: Vec<String> = members
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    args.extend(paths.iter().map(String::as_str));
    if behind {
        args.insert(args.len() - 1, "--write-mostly");
    }
    umd.ok(&args).unwrap();
    umd.ok(&["stop", "killed"]).unwrap();
}

/// Serves with every member behind a write cache.
fn serve(umd: &Umd, members: &[PathBuf], seed: u64, more: &str) -> Result<Served> {
    let mut options = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let seed = seed * 100 + number as u64;
        options.push("--fault".to_string());
        options.push(format!("{}:cache,seed={seed}{more}", member.display()));
    }
    umd.serve(
        "killed",
        members,
        &options.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

/// Writes through one connection until it breaks.
fn load(socket: &Path, name: &str, ledger: &mut Ledger, dice: &mut Dice, stop: &AtomicBool) {
    let Ok(mut client) = Client::connect(socket, name) else {
        return;
    };
    while !stop.load(Ordering::Relaxed) {
        let count = 1 + usize::try_from(dice.below(8)).unwrap();
        let index = usize::try_from(dice.below((ledger.len() - count) as u64 + 1)).unwrap();
        let fua = dice.below(4) == 0;
        let bytes = ledger.send(index, count);
        if client.write(ledger.offset(index), &bytes, fua).is_err() {
            return;
        }
        ledger.acknowledge(index, count, fua);
        if dice.below(6) == 0 {
            if client.flush().is_err() {
                return;
            }
            ledger.flushed();
        }
    }
}

/// Reads everything and compares it with the books.
fn verify(served: &Served, ledgers: &[Ledger]) -> Result<()> {
    let mut client = Client::connect(served.socket(), served.name())?;
    for ledger in ledgers {
        for index in 0..ledger.len() {
            let mut bytes = vec![0; BLOCK];
            client.read(ledger.offset(index), &mut bytes)?;
            ledger.check(index, &bytes)?;
        }
    }
    client.disconnect()
}

/// Kills umd again and again; the array must be good after each.
fn kill_repeatedly(umd: &Umd, members: &[PathBuf], count: u64, more: &str) -> Result<Vec<Ledger>> {
    let mut ledgers: Vec<Ledger> = (0..CONNECTIONS)
        .map(|number| Ledger::new((number * BLOCKS) as u64, BLOCKS))
        .collect();
    for round in 0..count {
        let served = serve(umd, members, round, more)?;
        verify(&served, &ledgers).with_context(|| format!("after kill {round}"))?;
        let mut dice = Dice {
            seed: round,
            place: 0,
        };
        let time = Duration::from_millis(20 + dice.below(150));
        let stop = AtomicBool::new(false);
        let socket = served.socket().to_path_buf();
        std::thread::scope(|scope| {
            for (number, ledger) in ledgers.iter_mut().enumerate() {
                let mut dice = Dice {
                    seed: round * 10 + number as u64 + 1000,
                    place: 0,
                };
                let (socket, stop) = (&socket, &stop);
                scope.spawn(move || load(socket, "killed", ledger, &mut dice, stop));
            }
            std::thread::sleep(time);
            let killed = served.kill();
            stop.store(true, Ordering::Relaxed);
            killed
        })?;
        ledgers.iter_mut().for_each(Ledger::killed);
    }
    Ok(ledgers)
}

#[test]
fn nothing_acknowledged_as_durable_is_lost() {
    let Some(oracle) = Oracle::or_skip("kills under load") else {
        return;
    };
    let Some(umd) = Umd::or_skip("kills under load") else {
        return;
    };
    let mut kernel = Kernel::new(&oracle);
    let mut device = 0;
    let mut scratches = Vec::new();
    for (number, (level, count, bitmap)) in ARRAYS.into_iter().enumerate() {
        let scratch = Scratch::new().unwrap();
        let members = members(&scratch, count);
        create(&umd, level, bitmap, &members);
        let ledgers = kill_repeatedly(&umd, &members, kills(), "")
            .with_context(|| format!("raid{level} of {count} {bitmap}"))
            .unwrap();
        // The last turn ends in order; by then resync has made the array whole again.
        let served = umd.serve("killed", &members, &[]).unwrap();
        verify(&served, &ledgers).unwrap();
        served.stop().unwrap();
        let devices: String = (device..device + count)
            .map(|n| format!("$D{n} "))
            .collect();
        device += count;
        kernel = kernel.members(&members).script(&format!(
            "mdadm --assemble --quiet /dev/md{number} {devices}; wait_idle md{number}"
        ));
        if level != "0" {
            kernel = kernel.script(&format!(
                "n=$(check md{number}); [ $n = 0 ] || fail raid{level}: mismatch_cnt $n"
            ));
        }
        scratches.push(scratch);
    }
    kernel.run_ok().unwrap();
}

#[test]
fn without_flushes_the_loss_is_seen() {
    let Some(umd) = Umd::or_skip("kills without flushes") else {
        return;
    };
    for (level, count) in [("1", 2), ("5", 3)] {
        let scratch = Scratch::new().unwrap();
        let members = members(&scratch, count);
        create(&umd, level, "--bitmap=internal", &members);
        let result = kill_repeatedly(&umd, &members, kills(), ",ignore-flush");
        let seen = result
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default();
        ensure_loss(level, &seen).unwrap();
    }
}

/// The failure must be the loss of data, not something by the way.
fn ensure_loss(level: &str, seen: &str) -> Result<()> {
    ensure!(
        seen.contains("was acknowledged as durable") || seen.contains("never sent there"),
        "raid{level}: a umd whose flushes do nothing passed the test, or failed otherwise: {seen}"
    );
    Ok(())
}
