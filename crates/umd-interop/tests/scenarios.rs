//! What else happens to a cluster's arrays: members are replaced, and who resyncs or fills one
//! leaves in the middle (the scenarios of mdadm's own cluster tests, written afresh).
//!
//! ```text
//!   alpha --- resync, recovery or replacement, held at the half --- leaves, or is killed
//!   beta  ---------------- writes all the time ------------------- goes on with it
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

#[path = "support/hosts.rs"]
mod hosts;

use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;
use umd_format::{Format, SuperblockV1};
use umd_interop::oracle::{Oracle, skipped};
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, qemu_io, text};

use hosts::*;

/// An oracle, two hosts, a scratch directory and an etcd, or why there are none.
fn hall(what: &str) -> Option<(Oracle, Umd, Umd, Scratch, Etcd)> {
    let oracle = Oracle::or_skip(what)?;
    let (alpha, beta) = (Umd::or_skip(what)?, Umd::or_skip(what)?);
    let scratch = Scratch::new().unwrap();
    let etcd = Etcd::start(&oracle, &scratch.path(""))?;
    Some((oracle, alpha, beta, scratch, etcd))
}

/// Both run it, if this umd can.
fn both_join(
    what: &str,
    (alpha, beta): (&Umd, &Umd),
    name: &str,
    etcd: &Etcd,
    set: &[PathBuf],
) -> bool {
    let joined = join(alpha, "alpha", name, etcd, set);
    if joined.as_ref().is_err_and(|said| said.contains("without")) {
        skipped(what, "this umd was built without the feature etcd");
        return false;
    }
    joined.unwrap();
    join(beta, "beta", name, etcd, set).unwrap();
    true
}

/// A host writes until this is over.
fn under_load<T>(
    oracle: &Oracle,
    (umd, first): (&Umd, usize),
    name: &str,
    work: impl FnOnce() -> T,
) -> T {
    use std::sync::atomic::{AtomicBool, Ordering};
    let (over, uri) = (AtomicBool::new(false), umd.daemon_uri(name));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                qemu_io(oracle, &uri, &writes(first, 0x71)).unwrap();
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|why| std::panic::resume_unwind(why))
    })
}

#[test]
fn a_member_is_replaced_while_both_write() {
    let what = "members of clustered arrays that are replaced";
    let Some((oracle, alpha, beta, scratch, etcd)) = hall(what) else {
        return;
    };
    for array in ARRAYS {
        let mut set = made(&alpha, &scratch, array);
        let name = array.0;
        if !both_join(what, (&alpha, &beta), name, &etcd, &set) {
            return;
        }
        beta.until(name, settled).unwrap();
        let fresh = scratch
            .images(&format!("new-{name}"), 1, 24 * MIB as u64)
            .unwrap();
        let (old, new) = (set[0].clone(), fresh[0].clone());
        let none = refused(&alpha, &["manage", name, "--replace", text(&new)]);
        assert!(none.contains(text(&new)), "{none}");
        under_load(&oracle, (&alpha, 0), name, || {
            under_load(&oracle, (&beta, 1), name, || {
                // Without a spare it waits; the spare comes through the other host.
                alpha
                    .ok(&["manage", name, "--replace", text(&old)])
                    .unwrap();
                beta.ok(&["manage", name, "--add", text(&new)]).unwrap();
                for umd in [&alpha, &beta] {
                    let over = |_: &Value| {
                        let state = |path| state_of(umd, name, path);
                        state(&new).as_deref() == Some("in_sync")
                            && state(&old).as_deref() == Some("faulty")
                    };
                    umd.until(name, over).unwrap();
                }
            });
        });
        beta.ok(&["manage", name, "--remove", text(&old)]).unwrap();
        assert_eq!(state_of(&alpha, name, &old), None);
        set[0] = new;
        for umd in [&alpha, &beta] {
            umd.until(name, settled).unwrap();
            umd.ok(&["stop", name]).unwrap();
        }
        assert_legs_alike(&set);
        examined(&oracle, &alpha, &set);
    }
}

/// What mdadm's 01r1_Grow_add is about: the slots come on one host, the device for
/// them with the same command, and later the slot of one that has gone goes.
#[test]
fn a_mirror_grows_by_a_device_while_both_write() {
    let what = "clustered arrays that get more devices";
    let Some((oracle, alpha, beta, scratch, etcd)) = hall(what) else {
        return;
    };
    let mut set = made(&alpha, &scratch, ARRAYS[0]);
    let name = ARRAYS[0].0;
    if !both_join(what, (&alpha, &beta), name, &etcd, &set) {
        return;
    }
    beta.until(name, settled).unwrap();
    let fresh = scratch.images("third", 2, 24 * MIB as u64).unwrap();
    let (new, spare) = (text(&fresh[0]), text(&fresh[1]));
    let few = refused(&alpha, &["grow", name, "-n3"]);
    assert!(few.contains("1 device more would be needed"), "{few}");
    let whole = |slots: u64| {
        move |array: &Value| {
            array["raid_disks"] == slots && array["degraded"] == 0 && settled(array)
        }
    };
    under_load(&oracle, (&alpha, 0), name, || {
        under_load(&oracle, (&beta, 1), name, || {
            alpha.ok(&["grow", name, "-n3", "--add", new]).unwrap();
            for umd in [&alpha, &beta] {
                umd.until(name, whole(3)).unwrap();
            }
            // A spare steps in when there is a slot for it.
            beta.ok(&["manage", name, "--add", spare]).unwrap();
            beta.ok(&["grow", name, "-n4"]).unwrap();
            for umd in [&alpha, &beta] {
                umd.until(name, whole(4)).unwrap();
            }
            let many = refused(&beta, &["grow", name, "-n3"]);
            assert!(many.contains("4 members work"), "{many}");
            alpha.ok(&["manage", name, "--fail", spare]).unwrap();
            alpha.ok(&["manage", name, "--remove", spare]).unwrap();
            beta.ok(&["grow", name, "-n3"]).unwrap();
            for umd in [&alpha, &beta] {
                umd.until(name, whole(3)).unwrap();
            }
        });
    });
    set.push(fresh[0].clone());
    for umd in [&alpha, &beta] {
        umd.ok(&["stop", name]).unwrap();
    }
    assert_legs_alike(&set[..2]);
    assert_legs_alike(&set[1..]);
    for member in &set {
        let said = alpha.superblock(member).unwrap();
        assert_eq!(said["raid_disks"], 3, "{said}");
    }
    examined(&oracle, &alpha, &set);
}

/// How the host that is at work goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Leaves,
    IsKilled,
}

/// What it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Resync,
    Recovery,
    Replacement,
}

/// Hosts of one array, on these members.
struct Hall<'a> {
    oracle: &'a Oracle,
    alpha: &'a Umd,
    beta: &'a Umd,
    etcd: &'a Etcd,
    name: &'a str,
}

impl Hall<'_> {
    /// Alpha begins, and is held in the middle.
    fn begin(&self, work: Work, set: &mut [PathBuf], fresh: &Path) {
        let Hall { alpha, name, .. } = self;
        alpha.ok(&["action", name, "--to", "8M"]).unwrap();
        let old = text(&set[0]).to_owned();
        match work {
            Work::Resync => return self.begin_resync(set),
            Work::Recovery => {
                for change in ["--fail", "--remove"] {
                    alpha.ok(&["manage", name, change, &old]).unwrap();
                }
                alpha.ok(&["manage", name, "--add", text(fresh)]).unwrap();
            }
            Work::Replacement => {
                alpha.ok(&["manage", name, "--add", text(fresh)]).unwrap();
                alpha.ok(&["manage", name, "--replace", &old]).unwrap();
            }
        }
        set[0] = fresh.to_owned();
        self.alpha.until(name, is_held("recover")).unwrap();
    }

    /// Beta dies in the middle of writes to all of the array; alpha has its bits, and has resynced
    /// some of them when beta comes back.
    fn begin_resync(&self, set: &[PathBuf]) {
        let Hall { beta, name, .. } = self;
        let uri = beta.daemon_uri(name);
        qemu_io(self.oracle, &uri, &writes(1, 0x21)).unwrap();
        beta.kill_daemon(name).unwrap();
        let dead = |array: &Value| states(array)[1] == "beta dead";
        self.alpha.until(name, dead).unwrap();
        // What it had written to one leg only.
        spoil(&set[1], set.len() / 2);
        self.alpha
            .ok(&["cluster", "confirm-dead", name, "1"])
            .unwrap();
        self.alpha.until(name, is_held("resync")).unwrap();
        join(beta, "beta", name, self.etcd, set).unwrap();
    }

    /// Alpha goes, and beta ends what it was at.
    fn switch(&self, ends: Ends) {
        let Hall {
            alpha, beta, name, ..
        } = self;
        match ends {
            Ends::Leaves => {
                alpha.ok(&["stop", name]).unwrap();
            }
            Ends::IsKilled => {
                alpha.kill_daemon(name).unwrap();
                let dead = |array: &Value| states(array)[0] == "alpha dead";
                beta.until(name, dead).unwrap();
                beta.ok(&["cluster", "confirm-dead", name, "0"]).unwrap();
            }
        }
        let whole = |array: &Value| {
            let members = array["members"].as_array().unwrap().iter();
            let in_sync = members
                .filter(|member| member["state"] == "in_sync")
                .count();
            array["degraded"] == 0 && in_sync == members_of(name) && settled(array)
        };
        beta.until(name, whole).unwrap();
    }
}

fn members_of(name: &str) -> usize {
    let (.., count) = ARRAYS.into_iter().find(|one| one.0 == name).unwrap();
    count
}

fn is_held(action: &str) -> impl Fn(&Value) -> bool {
    move |array| array["sync"]["action"] == action && array["sync"]["held"] == true
}

/// Other data in what beta has written, ten MiB of a RAID1, and of two pairs: behind where alpha is
/// held.
fn spoil(member: &Path, pairs: usize) {
    use std::os::unix::fs::FileExt;
    let bytes = std::fs::read(member).unwrap();
    let sectors = bytes.len() as u64 / 512;
    let found = SuperblockV1::load(&bytes[4096..8192], Format::V1_2, sectors).unwrap();
    let at = found.fields.data_offset_sectors * 512 + (10 * MIB / pairs) as u64;
    let file = std::fs::File::options().write(true).open(member).unwrap();
    file.write_all_at(&[0xbd; 4096], at).unwrap();
}

/// What alpha does is held in the middle, and alpha goes; beta, which writes, ends it.
fn switched(work: Work) {
    let what = format!("clustered arrays of which one host leaves a {work:?} to another");
    let Some((oracle, alpha, beta, scratch, etcd)) = hall(&what) else {
        return;
    };
    for array in ARRAYS {
        for ends in [Ends::Leaves, Ends::IsKilled] {
            let name = array.0;
            let mut set = made_in(&alpha, &scratch, &format!("{name}-{ends:?}"), array);
            if !both_join(&what, (&alpha, &beta), name, &etcd, &set) {
                return;
            }
            for umd in [&alpha, &beta] {
                umd.until(name, settled).unwrap();
            }
            let fresh = format!("new-{name}-{ends:?}");
            let fresh = scratch.images(&fresh, 1, 24 * MIB as u64).unwrap();
            let hall = Hall {
                oracle: &oracle,
                alpha: &alpha,
                beta: &beta,
                etcd: &etcd,
                name,
            };
            hall.begin(work, &mut set, &fresh[0]);
            under_load(&oracle, (&beta, 0), name, || hall.switch(ends));
            beta.until(name, settled).unwrap();
            qemu_io(&oracle, &beta.daemon_uri(name), &reads(0, 0x71)).unwrap();
            beta.ok(&["stop", name]).unwrap();
            assert_legs_alike(&set);
        }
    }
}

#[test]
fn a_resync_goes_on_elsewhere() {
    switched(Work::Resync);
}

#[test]
fn a_recovery_goes_on_elsewhere() {
    switched(Work::Recovery);
}

#[test]
fn a_replacement_goes_on_elsewhere() {
    switched(Work::Replacement);
}
