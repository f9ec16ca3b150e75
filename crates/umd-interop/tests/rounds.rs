//! Three hosts, three members of an etcd, one array: a verifying load on all hosts while one of
//! them is killed, stopped for a while, cut off from etcd, or leaves, members of etcd die, and
//! members of the array are replaced.
//!
//! ```text
//!   host 0 -- load        host 1 -- load        host 2 -- load       each writes blocks of its own
//!     | \  gates            | \  gates            | \  gates         and keeps books of them
//!     |  etcd 0 1 2         |  etcd 0 1 2         |  etcd 0 1 2
//!     '---------------------+---------------------'
//!                        members                                     reached by all, always
//! ```
//!
//! A host that is cut off, or does not run, still reaches the members: nothing but its own rules
//! and fencing keep it from writing what others have taken over. The fence agent of this test kills
//! the daemon of a host by its pid, as a power switch would.
//!
//! After each round nothing that was answered may be missing on any host, what was read once may
//! not go back, mirrors are alike, and no wait may be without an end.
//!
//! `UMD_ROUNDS=100` runs so many rounds on each array; `UMD_ROUNDS_SEED=N` draws others.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "support/rounds.rs"]
mod rounds;
#[path = "../../umd-cluster/tests/engines/server/mod.rs"]
#[allow(
    dead_code,
    reason = "the tests of the lock services use what this does not"
)]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::{Result, bail};
use umd_interop::pattern::Dice;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};

use rounds::{Disk, Event, From, HOSTS, MIB, Place};
use server::{Gate, Servers, or_skip};

/// Kills the daemon of the host it is told, if it runs, and waits until it is gone.
const AGENT: &str = r#"#!/bin/sh
host=$(sed -n 's/^port=//p')
pid=$(cat "$(dirname "$0")/$host.pid") || exit 1
grep -q umd "/proc/$pid/cmdline" 2>/dev/null && kill -9 "$pid"
while [ -e "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status"; do sleep 0.05; done
"#;

/// All of it on this machine, with members that everybody reaches.
#[derive(Default)]
struct Here {
    /// Between each host and the members of etcd.
    gates: Mutex<BTreeMap<usize, Vec<Gate>>>,
}

const WHAT: &str = "hosts that come and go";

impl Place for Here {
    fn hosts(&self) -> Vec<Umd> {
        let hosts = (0..HOSTS).map(|_| Umd::or_skip(WHAT).unwrap());
        hosts.collect()
    }

    fn ways(&self, host: usize, servers: &Servers) -> Vec<SocketAddr> {
        let gates: Vec<Gate> = servers.addresses().into_iter().map(Gate::open).collect();
        let ways = gates.iter().map(|gate| gate.address).collect();
        self.gates.lock().unwrap().insert(host, gates);
        ways
    }

    fn disks(&self, scratch: &Scratch, prefix: &str, count: usize) -> Result<Vec<Disk>> {
        let images = scratch.images(prefix, count, 24 * MIB)?.into_iter();
        let disk = |file: PathBuf| {
            let name = text(&file).to_owned();
            Disk { name, file }
        };
        Ok(images.map(disk).collect())
    }

    fn fencing(&self, scratch: &Scratch) -> String {
        let agent = scratch.path("fence");
        // One that is being run cannot be written.
        if !agent.exists() {
            fs::write(&agent, AGENT).unwrap();
            fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        }
        format!("--cluster-fence={}", text(&agent))
    }

    /// Each kind in turn, so that a few rounds have seen them all.
    fn draw(&self, round: u64, dice: &mut Dice) -> Event {
        // Below a session, about one, and beyond it.
        let time = [1500, 4000, 7300, 9500, 13000][dice.below(5) as usize];
        let server = dice.below(6) as usize;
        match round % 6 {
            0 => Event::Kill,
            1 => Event::CutOff(From::Etcd, time.max(9500)),
            2 => Event::Pause(time),
            3 => Event::Leave,
            4 => Event::Replace(server),
            _ if server < 3 => Event::Server(server),
            _ => Event::CutOff(From::Etcd, time),
        }
    }

    fn cut(&self, host: usize, from: From, cut: bool) -> Result<()> {
        if from != From::Etcd {
            bail!("nothing is between a host and its members here");
        }
        let gates = self.gates.lock().unwrap();
        gates[&host].iter().for_each(|gate| gate.cut(cut));
        Ok(())
    }
}

fn run(array: (&'static str, &str, usize), seed: u64) {
    if Umd::or_skip(WHAT).is_some()
        && let Some(servers) = or_skip(WHAT, 3)
    {
        rounds::rounds(&Here::default(), array, servers, (6, seed));
    }
}

#[test]
fn hosts_come_and_go_and_a_mirror_loses_nothing() {
    run(("pair", "-l1 -n2", 2), 1);
}

#[test]
fn hosts_come_and_go_and_a_raid10_loses_nothing() {
    run(("ten", "-l10 -n4 -c64", 4), 2);
}
