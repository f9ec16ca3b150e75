//! Members of clustered arrays: shown as mdadm shows them, run by the kernel's md-cluster, and
//! taken out of their cluster.
//!
//! ```text
//!   kernel: create --bitmap=internal, data, stop      made clustered as mdadm lays it out, with
//!                     |                               what a dead node had under way
//!          +----------+-----------+
//!          |                      v
//!          |    kernel, as node 0 of the cluster: writes, and a power cut
//!          v                      v
//!   mdadm -E, -X  =  umd -E, -X
//!   umd assemble                                      refused, not a byte changed
//!   umd assemble --update=no-cluster=NAME             what was under way is resynced
//!                     |
//!                     v
//!   kernel: assemble, check: no mismatches
//!
//!   umd create --bitmap=clustered     mdadm -E, -X = umd -E, -X
//!          |
//!          v
//!   kernel, as node 0 of the cluster: resyncs, writes, leaves
//!          |
//!          v
//!   umd: no bit of any node is set, and what the kernel wrote is there
//!
//!   kernel: create --bitmap=internal, writes, and a power cut
//!          |
//!          v
//!   umd assemble --update=cluster=NAME                mdadm -E, -X = umd -E, -X
//!          |
//!          v
//!   kernel, as node 0 of the cluster: resyncs what was under way; check: no mismatches
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use umd_format::bitmap::{self, Slots, initial_slots};
use umd_format::v1::Features;
use umd_format::{Format, SuperblockV1};
use umd_interop::oracle::Oracle;
use umd_interop::scratch::{Scratch, edit_superblock};
use umd_interop::umd::{Umd, copy_out, text};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
const NODES: u32 = 3;
const CLUSTER: &str = "hall";
/// Regions that the last node had under way.
const DIRTY: [u64; 2] = [3, 9];

fn superblock(member: &Path) -> SuperblockV1 {
    let file = OpenOptions::new().read(true).open(member).unwrap();
    let mut bytes = vec![0; 4096];
    file.read_exact_at(&mut bytes, 4096).unwrap();
    let sectors = file.metadata().unwrap().len() / 512;
    SuperblockV1::load(&bytes, Format::V1_2, sectors).unwrap()
}

/// What `mdadm --create --bitmap=clustered --nodes=3` leaves, once all nodes have run it and one
/// of them died in the middle of writes.
fn make_clustered(member: &Path) {
    let found = superblock(member);
    let at = found.fields.bitmap_sector().unwrap() * 512;
    let file = OpenOptions::new().read(true).write(true).open(member);
    let file = file.unwrap();
    let mut head = vec![0; bitmap::SUPERBLOCK_BYTES];
    file.read_exact_at(&mut head, at).unwrap();
    let plain = bitmap::Unverified::parse(&head).and_then(|one| one.verify(found.bitmap_uuid()));
    let mut name = [0; 64];
    name[..CLUSTER.len()].copy_from_slice(CLUSTER.as_bytes());
    let mut area = initial_slots(&plain.unwrap(), NODES, name);
    let each = area.len() / NODES as usize;
    area[bitmap::SUPERBLOCK_BYTES..each].fill(0);
    for region in DIRTY {
        let (byte, mask) = bitmap::bit_position(region);
        area[(NODES as usize - 1) * each + byte as usize] |= mask;
    }
    file.write_all_at(&area, at).unwrap();
    let features = found.fields.features.with(Features::CLUSTERED).0;
    edit_superblock(member, 4096, |bytes| {
        bytes[8..12].copy_from_slice(&features.to_le_bytes());
        // It never becomes clean while a cluster runs it.
        bytes[208..216].fill(0);
    })
    .unwrap();
}

/// Name, options, members.
const ARRAYS: [(&str, &str, usize); 2] = [("pair", "-l1 -n2", 2), ("ten", "-l10 -n4 -c64", 4)];

fn members_of(index: usize) -> std::ops::Range<usize> {
    let first: usize = ARRAYS[..index].iter().map(|(.., count)| count).sum();
    first..first + ARRAYS[index].2
}

/// Arrays that kernel 6.1 made and umd-format has put into a cluster.
fn clustered(oracle: &Oracle, scratch: &Scratch) -> Vec<PathBuf> {
    let total = ARRAYS.iter().map(|(.., count)| count).sum();
    let set = scratch.images("m", total, 24 * MIB).unwrap();
    let mut script = String::from("mkdir -p /dev/md /run/mdadm\n");
    for (index, (name, options, _)) in ARRAYS.iter().enumerate() {
        let devices: String = members_of(index).map(|n| format!("$D{n} ")).collect();
        script.push_str(&format!(
            "mdadm -CR -q --assume-clean --bitmap=internal --bitmap-chunk=1M \
             /dev/md/{name} {options} {devices}
            dd if=/dev/urandom of=/dev/md/{name} bs=1M count=20 2>/dev/null
            mdadm -S -q /dev/md/{name}\n"
        ));
    }
    let kernel = Kernel::new(oracle).members(&set);
    kernel.script(&script).run_ok().unwrap();
    set.iter().for_each(|member| make_clustered(member));
    set
}

#[test]
fn clustered_members_are_shown_and_leave_their_cluster() {
    let what = "members of clustered arrays";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let set = clustered(&oracle, &scratch);
    let kernel = Kernel::new(&oracle).members(&set);
    diverge(&set);
    shown_alike(&oracle, &umd, &kernel, &set);
    for (index, (name, ..)) in ARRAYS.iter().enumerate() {
        leaves(&umd, name, &set[members_of(index)]);
    }
    let mut script = String::from("mkdir -p /dev/md /run/mdadm\n");
    for (index, (name, ..)) in ARRAYS.iter().enumerate() {
        let devices: String = members_of(index).map(|n| format!("$D{n} ")).collect();
        script.push_str(&format!(
            "mdadm -A -q /dev/md/{name} {devices}
            md=$(basename $(readlink -f /dev/md/{name}))
            echo check > /sys/block/$md/md/sync_action; mdadm -W /dev/$md || true
            echo {name}=$(cat /sys/block/$md/md/mismatch_cnt)
            mdadm -S -q /dev/md/{name}\n"
        ));
    }
    let run = kernel.clone().script(&script).run_ok().unwrap();
    for (name, ..) in ARRAYS {
        let line = format!("{name}=0\n");
        assert!(run.stdout.contains(&line), "{}", run.stdout);
    }
}

/// What the dead node had under way reached some members only.
fn diverge(set: &[PathBuf]) {
    for (index, _) in ARRAYS.iter().enumerate() {
        let member = &set[members_of(index).start];
        let data = superblock(member).fields.data_offset_sectors * 512;
        let file = OpenOptions::new().write(true).open(member).unwrap();
        for region in DIRTY {
            // Bits of a RAID10 count sectors of the array: two members hold a sector of four.
            let at = if index == 0 {
                region * MIB
            } else {
                region * MIB / 2
            };
            file.write_all_at(&[0xa5; 4096], data + at).unwrap();
        }
    }
}

/// `--examine` and `--examine-bitmap`, byte for byte.
fn shown_alike(oracle: &Oracle, umd: &Umd, kernel: &Kernel, set: &[PathBuf]) {
    let utf8 = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let run = kernel
        .clone()
        .script("mdadm -X $D0\necho ===\nmdadm -X $D3\n");
    let run = run.run_ok().unwrap();
    let (first, second) = run.stdout.split_once("===\n").unwrap();
    for (theirs, number) in [(first, 0), (second, 3)] {
        let name = text(&set[number]);
        let ours = umd.command(&["-X", name]).output().unwrap();
        let theirs = theirs.replace(&Kernel::device(number), name);
        assert_eq!(utf8(&ours.stdout).trim_end(), theirs.trim_end());
    }
    for member in set {
        for form in [&["-E"][..], &["-E", "--export"], &["-E", "--brief"]] {
            let mut args = form.to_vec();
            args.push(text(member));
            let mut mdadm = oracle.command("mdadm").unwrap();
            let theirs = mdadm.args(&args).env("TZ", "UTC").output().unwrap();
            let ours = umd.command(&args).env("TZ", "UTC").output().unwrap();
            assert_eq!(utf8(&ours.stdout), utf8(&theirs.stdout), "{args:?}");
        }
    }
}

/// Whether a sync action has ended, and nothing is to be done any more.
fn over(action: &'static str) -> impl Fn(&Value) -> bool {
    move |detail| {
        let rests = detail["sync"].is_null() && detail["array_state"] == "clean";
        detail["last_sync_action"] == action && rests
    }
}

/// Refused until the cluster is named; then what was under way is resynced, and nothing else.
fn leaves(umd: &Umd, name: &str, members: &[PathBuf]) {
    let members: Vec<&str> = members.iter().map(|path| text(path)).collect();
    let before: Vec<Vec<u8>> = members.iter().map(|m| fs::read(m).unwrap()).collect();
    for (update, code, sentence) in [
        (None, 1, "--update=no-cluster=NAME"),
        (Some("--update=no-cluster"), 2, "cluster 'hall'"),
        (Some("--update=no-cluster=barn"), 2, "not 'barn'"),
    ] {
        let mut args = vec!["assemble", name];
        args.extend(update);
        args.extend(&members);
        let output = umd.output(&args).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
    for (member, before) in members.iter().zip(before) {
        assert!(fs::read(member).unwrap() == before, "{member} was changed");
    }
    let mut args = vec!["assemble", name, "--update=no-cluster=hall"];
    args.extend(&members);
    umd.ok(&args).unwrap();
    let resynced = umd.until(name, over("resync")).unwrap();
    let places = resynced["mismatches"].as_array().unwrap().len();
    assert_eq!(places, DIRTY.len(), "{resynced}");
    umd.ok(&["action", name, "check"]).unwrap();
    let checked = umd.until(name, over("check")).unwrap();
    assert_eq!(checked["mismatch_cnt"], 0, "{checked}");
    umd.ok(&["stop", name]).unwrap();
    for member in &members {
        let features = superblock(Path::new(member)).fields.features;
        assert!(!features.contains(Features::CLUSTERED), "{member}");
    }
}

/// Dirty regions of each node.
fn dirty(member: &Path) -> Vec<Vec<u64>> {
    let found = superblock(member);
    let at = found.fields.bitmap_sector().unwrap() * 512;
    let file = OpenOptions::new().read(true).open(member).unwrap();
    let mut head = vec![0; bitmap::SUPERBLOCK_BYTES];
    file.read_exact_at(&mut head, at).unwrap();
    let slots = Slots::of(&head, found.bitmap_uuid()).unwrap();
    let mut area = vec![0; slots.all_sectors() as usize * 512];
    file.read_exact_at(&mut area, at).unwrap();
    let nodes = slots.read(&area, found.bitmap_uuid());
    nodes.into_iter().map(|node| node.dirty).collect()
}

/// The kernel's md-cluster takes these arrays as they are; after a power cut umd goes on with what
/// it had acknowledged.
#[test]
fn a_node_of_the_kernel_dies_and_umd_goes_on() {
    let what = "arrays that the kernel's md-cluster ran";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let set = clustered(&oracle, &scratch);
    let golden = scratch.path("golden");
    let bytes: Vec<u8> = (0..4 * MIB).map(|at| ((at * at) >> 7) as u8).collect();
    fs::write(&golden, &bytes).unwrap();
    let mut script = String::from("cluster_up hall\n");
    for index in 0..ARRAYS.len() {
        let devices: String = members_of(index).map(|n| format!("$D{n} ")).collect();
        script.push_str(&format!(
            "cluster_start md{index} {devices}
            wait_idle md{index}
            dd if=$H{} of=/dev/md{index} bs=1M conv=fsync 2>/dev/null
            dd if=/dev/urandom of=/dev/md{index} bs=64k seek=160 oflag=direct 2>/dev/null &\n",
            text(&golden)
        ));
    }
    script.push_str("dmesg | grep 'Joined cluster'\nsleep 0.5\ncrash\n");
    let kernel = Kernel::new(&oracle).members(&set).cluster();
    let run = kernel.script(&script).run_crash().unwrap();
    let joined = run.stdout.matches("Joined cluster").count();
    assert_eq!(joined, ARRAYS.len(), "{}", run.stdout);
    for (index, (name, ..)) in ARRAYS.iter().enumerate() {
        let members = &set[members_of(index)];
        let nodes = dirty(&members[0]);
        assert!(
            !nodes[0].is_empty(),
            "{name}: node 0 was in the middle of writes"
        );
        assert_eq!(nodes[2], DIRTY, "{name}: the kernel leaves those of others");
        let mut args = vec!["assemble", name, "--update=no-cluster=hall"];
        args.extend(members.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        let copy = scratch.path("copy");
        copy_out(&oracle, &umd.daemon_uri(name), &copy).unwrap();
        let copy = fs::read(&copy).unwrap();
        assert!(
            copy[..bytes.len()] == bytes,
            "{name}: acknowledged and lost"
        );
        umd.until(name, over("resync")).unwrap();
        umd.ok(&["action", name, "check"]).unwrap();
        let checked = umd.until(name, over("check")).unwrap();
        assert_eq!(checked["mismatch_cnt"], 0, "{checked}");
        umd.ok(&["stop", name]).unwrap();
    }
}

/// Arrays that umd makes for a cluster are those of mdadm: shown alike, run by md-cluster, which
/// resyncs what slot 0 says and leaves nothing behind, and read back.
#[test]
fn the_kernel_runs_what_umd_creates_for_a_cluster() {
    let what = "clustered arrays that umd makes";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let total = ARRAYS.iter().map(|(.., count)| count).sum();
    let set = scratch.images("m", total, 24 * MIB).unwrap();
    refused_without_a_trace(&umd, &set);
    let mut script = String::from("cluster_up hall\n");
    let golden = scratch.path("golden");
    let bytes: Vec<u8> = (0..4 * MIB).map(|at| ((at * at) >> 7) as u8).collect();
    fs::write(&golden, &bytes).unwrap();
    for (index, (name, options, _)) in ARRAYS.iter().enumerate() {
        let mut args = vec!["create", name, "--bitmap=clustered", "--home-cluster=hall"];
        args.extend(["--nodes=3", "--bitmap-chunk=1M", "--config=none"]);
        args.extend(options.split(' '));
        args.extend(set[members_of(index)].iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        let devices: String = members_of(index).map(|n| format!("$D{n} ")).collect();
        script.push_str(&format!(
            "cluster_start md{index} {devices}
            wait_idle md{index}
            dd if=$H{} of=/dev/md{index} bs=1M conv=fsync 2>/dev/null
            mdadm -D /dev/md{index} | grep -E 'Cluster Name|Consistency'
            sleep 12\ncluster_stop md{index}\n",
            text(&golden)
        ));
    }
    script.push_str("dmesg | grep 'Joined cluster'\n");
    for member in &set {
        let nodes = dirty(member);
        assert!(!nodes[0].is_empty() && nodes[1].is_empty() && nodes[2].is_empty());
    }
    let kernel = Kernel::new(&oracle).members(&set);
    shown_alike(&oracle, &umd, &kernel, &set);
    let run = kernel.cluster().script(&script).run_ok().unwrap();
    let joined = run.stdout.matches("Joined cluster").count();
    assert_eq!(joined, ARRAYS.len(), "{}", run.stdout);
    for (index, (name, ..)) in ARRAYS.iter().enumerate() {
        let members = &set[members_of(index)];
        for member in members {
            let nodes = dirty(member);
            assert!(nodes.iter().all(Vec::is_empty), "{name}: {nodes:?}");
        }
        let mut args = vec!["assemble", name, "--update=no-cluster=hall"];
        args.extend(members.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        let copy = scratch.path("copy");
        copy_out(&oracle, &umd.daemon_uri(name), &copy).unwrap();
        assert!(fs::read(&copy).unwrap()[..bytes.len()] == bytes, "{name}");
        umd.ok(&["stop", name]).unwrap();
    }
}

/// What a plain array left behind when the power was cut becomes what node 0 left: shown as mdadm
/// shows it, resynced by md-cluster, and by umd once it is plain again.
#[test]
fn the_kernel_runs_what_umd_puts_into_a_cluster() {
    let what = "plain arrays that join a cluster";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let total = ARRAYS.iter().map(|(.., count)| count).sum();
    let set = scratch.images("m", total, 24 * MIB).unwrap();
    cut_short(&oracle, &set);
    let mut script = String::from("cluster_up hall\n");
    let golden = scratch.path("golden");
    let bytes: Vec<u8> = (0..4 * MIB).map(|at| ((at * at) >> 7) as u8).collect();
    fs::write(&golden, &bytes).unwrap();
    for (index, (name, ..)) in ARRAYS.iter().enumerate() {
        let members = &set[members_of(index)];
        let plain = plain_dirty(&members[0]);
        assert!(!plain.is_empty(), "{name}: it was in the middle of writes");
        let mut args = vec!["assemble", name, "--update=cluster=hall", "--nodes=3"];
        args.extend(members.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        for member in members {
            let nodes = dirty(member);
            assert!(plain.iter().all(|one| nodes[0].contains(one)), "{name}");
            assert!(nodes[1].is_empty() && nodes[2].is_empty(), "{name}");
            let fields = superblock(member).fields;
            assert_eq!(
                (fields.resync_offset_sectors, fields.bblog_size_sectors),
                (0, 0)
            );
        }
        let devices: String = members_of(index).map(|n| format!("$D{n} ")).collect();
        script.push_str(&format!(
            "cluster_start md{index} {devices}
            wait_idle md{index}
            echo check > /sys/block/md{index}/md/sync_action; wait_idle md{index}
            echo {name}=$(cat /sys/block/md{index}/md/mismatch_cnt)
            dd if=$H{} of=/dev/md{index} bs=1M conv=fsync 2>/dev/null
            mdadm -D /dev/md{index} | grep -E 'Cluster Name|Consistency'
            sleep 12\ncluster_stop md{index}\n",
            text(&golden)
        ));
    }
    script.push_str("dmesg | grep 'Joined cluster'\n");
    let kernel = Kernel::new(&oracle).members(&set);
    shown_alike(&oracle, &umd, &kernel, &set);
    let run = kernel.cluster().script(&script).run_ok().unwrap();
    let joined = run.stdout.matches("Joined cluster").count();
    assert_eq!(joined, ARRAYS.len(), "{}", run.stdout);
    for (index, (name, ..)) in ARRAYS.iter().enumerate() {
        let same = format!("{name}=0\n");
        assert!(run.stdout.contains(&same), "{}", run.stdout);
        let members = &set[members_of(index)];
        let mut args = vec!["assemble", name, "--update=no-cluster=hall"];
        args.extend(members.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        let copy = scratch.path("copy");
        copy_out(&oracle, &umd.daemon_uri(name), &copy).unwrap();
        assert!(fs::read(&copy).unwrap()[..bytes.len()] == bytes, "{name}");
        umd.ok(&["stop", name]).unwrap();
    }
}

/// Arrays of the kernel, as mdadm makes them, without power in the middle of writes. The last
/// member of each lacks some of what was under way.
fn cut_short(oracle: &Oracle, set: &[PathBuf]) {
    let mut script = String::from("mkdir -p /dev/md /run/mdadm\n");
    for (index, (name, options, _)) in ARRAYS.iter().enumerate() {
        let devices: String = members_of(index).map(|n| format!("$D{n} ")).collect();
        script.push_str(&format!(
            "mdadm -CR -q --assume-clean --bitmap=internal --bitmap-chunk=1M \
             /dev/md/{name} {options} {devices}
            dd if=/dev/urandom of=/dev/md/{name} bs=1M count=20 conv=fsync 2>/dev/null\n"
        ));
    }
    script.push_str("sleep 17\n");
    for (name, ..) in ARRAYS {
        script.push_str(&format!(
            "dd if=/dev/urandom of=/dev/md/{name} bs=64k seek=160 oflag=direct 2>/dev/null &\n"
        ));
    }
    script.push_str("sleep 0.5\ncrash\n");
    Kernel::new(oracle)
        .members(set)
        .script(&script)
        .run_crash()
        .unwrap();
    for (index, _) in ARRAYS.iter().enumerate() {
        let members = &set[members_of(index)];
        let last = members.last().unwrap();
        let data = superblock(last).fields.data_offset_sectors * 512;
        let region = plain_dirty(last)[0];
        let at = if index == 0 {
            region * MIB
        } else {
            region * MIB / 2
        };
        let file = OpenOptions::new().write(true).open(last).unwrap();
        file.write_all_at(&[0xa5; 4096], data + at).unwrap();
    }
}

/// Dirty regions of a plain array.
fn plain_dirty(member: &Path) -> Vec<u64> {
    let found = superblock(member);
    let at = found.fields.bitmap_sector().unwrap() * 512;
    let file = OpenOptions::new().read(true).open(member).unwrap();
    let mut area = vec![0; 4096];
    file.read_exact_at(&mut area, at).unwrap();
    let plain = bitmap::Unverified::parse(&area).and_then(|one| one.verify(found.bitmap_uuid()));
    let plain = plain.unwrap();
    let set = |region: &u64| {
        let (byte, mask) = bitmap::bit_position(*region);
        area[byte as usize] & mask != 0
    };
    let regions = plain.regions(plain.fields.sync_size_sectors);
    (0..regions).filter(set).collect()
}

/// Every request that makes no clustered array: its exit code, what it says, and not a byte.
fn refused_without_a_trace(umd: &Umd, set: &[PathBuf]) {
    let before: Vec<Vec<u8>> = set.iter().map(|one| fs::read(one).unwrap()).collect();
    let long = format!("--home-cluster={}", "n".repeat(64));
    let hall = "--home-cluster=hall";
    let bad: [(&str, usize, &[&str], u8, &str); 10] = [
        ("-l1", 2, &[], 2, "the name of the cluster"),
        ("-l1", 2, &[&long], 2, "1 to 63 bytes"),
        ("-l1", 2, &[hall, "--nodes=0"], 2, "has 2 to 64"),
        ("-l1", 2, &[hall, "--nodes=1"], 2, "has 2 to 64"),
        ("-l1", 2, &[hall, "--nodes=65"], 2, "has 2 to 64"),
        ("-l1", 2, &[hall, "-e1.0"], 2, "metadata version 1.2"),
        ("-l1", 2, &[hall, "--bbl=yes"], 2, "no bad-block log"),
        ("-l5", 3, &[hall], 2, "not raid5"),
        ("-l10", 4, &[hall, "-pf2"], 2, "near layout"),
        ("-l1", 2, &[hall, "--data-offset=20K"], 1, "too small"),
    ];
    for (level, count, options, code, sentence) in bad {
        let devices = count.to_string();
        let mut args = vec!["create", "bad", level, "-n", &devices, "--config=none"];
        args.push("--bitmap=clustered");
        args.extend(options);
        args.extend(set[..count].iter().map(|path| text(path)));
        for dry in [true, false] {
            args.extend(dry.then_some("--dry-run"));
            let output = umd.output(&args).unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code.into()), "{said}");
            assert!(said.contains(sentence), "{said}");
            args.retain(|word| *word != "--dry-run");
        }
    }
    for (one, before) in set.iter().zip(before) {
        assert!(fs::read(one).unwrap() == before, "{}", one.display());
    }
}
