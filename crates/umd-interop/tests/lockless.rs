//! Arrays with a lockless bitmap, both ways with a kernel that has it.
//!
//! ```text
//!   kernel makes, writes --stop or crash--> umd resyncs, checks, writes --stop--> kernel checks
//!   umd makes, writes ----stop or SIGKILL, one member torn----> kernel resyncs, checks, writes
//!                                                               --stop--> umd checks
//! ```
//!
//! Where the kernel has it first members are full of noise, so that regions nobody wrote agree
//! nowhere; but not mirrors that it stops in order: of those it calls regions clean that nobody
//! ever made equal (docs/on-disk.md).
//!
//! The kernel and mdadm are those of `cargo xtask oracle --newer`, an extra: without them this is
//! SKIPPED, in CI, too.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use umd_interop::nbd::Client;
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// What a state is about, in arrays as small as these.
const REGION: u64 = 64 << 10;
/// Level, members, options, and the member that holds a copy or parity of the first chunk.
const ARRAYS: [(&str, usize, &str, usize); 4] = [
    ("1", 2, "", 1),
    ("5", 3, "-c16", 2),
    ("6", 4, "-c16", 3),
    ("10", 4, "-c16", 1),
];
/// Pages that one side writes, by number and count. The first one is the one that is torn.
const OF_THE_FIRST: [(u64, u64); 4] = [(0, 4), (300, 64), (1777, 3), (3000, 1)];
/// And then the other.
const OF_THE_OTHER: [(u64, u64); 3] = [(16, 5), (900, 40), (3001, 2)];
const BOTH: [(&[(u64, u64)], u64); 2] = [(&OF_THE_FIRST, 1), (&OF_THE_OTHER, 2)];
/// A page of every member in the first region, and not written.
const UNWRITTEN: u64 = 4;
/// A page whose region is clean when umd crashes, and what a check of RAID1 counts for it.
const SCAR: u64 = 1778;
const SCAR_COUNT: u64 = 128;
/// Where the states of a region begin, from the bitmap's superblock at sector 16.
const STATES_AT: usize = 8192 + 1024;
/// Where mdadm and umd keep the size of a logical block in the superblock.
const BLOCK_AT: usize = 4096 + 224;

/// Shell functions: `put md0 FILE page count` writes so many pages of FILE there, `is` compares,
/// `settle md0` waits until no state says that a resync is needed.
const FUNCTIONS: &str = "
put() { dd if=$2 of=/dev/$1 bs=4k skip=$3 seek=$3 count=$4 conv=fsync 2>/dev/null; }
is() {
    dd if=$2 of=/tmp/want bs=4k skip=$3 count=$4 2>/dev/null
    dd if=/dev/$1 of=/tmp/got bs=4k skip=$3 count=$4 2>/dev/null
    cmp /tmp/want /tmp/got || fail $1: page $3 of $4 is not what was written
}
settle() {
    echo 1 >/sys/block/$1/md/llbitmap/daemon_sleep
    wait_idle $1
    while grep -q '^\\(need sync\\|syncing\\) [1-9]' /sys/block/$1/md/llbitmap/bits; do
        sleep 0.1
    done
    wait_idle $1
}
";

/// An array under test: its members and what is to be read.
struct Set {
    name: String,
    level: &'static str,
    options: &'static str,
    torn: usize,
    members: Vec<PathBuf>,
    /// Whether whoever had it first went without stopping it.
    crashed: bool,
}

/// The two contents: what the first and what the other side writes.
struct Contents {
    scratch: Scratch,
    files: [PathBuf; 2],
}

impl Contents {
    fn make() -> Contents {
        let scratch = Scratch::new().unwrap();
        let files = [1, 2].map(|seed| {
            let file = scratch.path(&format!("content{seed}"));
            pattern::write_file(&file, seed, 16 * MIB).unwrap();
            file
        });
        Contents { scratch, files }
    }

    /// Every array twice: to be stopped, and to be left as it is when the power goes.
    fn sets(&self, noise: impl Fn(&Set) -> bool) -> Vec<Set> {
        let mut sets = Vec::new();
        for crashed in [false, true] {
            for (level, count, options, torn) in ARRAYS {
                let name = format!("k{}", sets.len());
                let prefix = format!("{name}-");
                let members = self.scratch.images(&prefix, count, 18 * MIB).unwrap();
                let set = Set {
                    name,
                    level,
                    options,
                    torn,
                    members,
                    crashed,
                };
                for (number, member) in set.members.iter().enumerate() {
                    if noise(&set) {
                        pattern::write_file(member, 100 + number as u64, 18 * MIB).unwrap();
                    }
                }
                sets.push(set);
            }
        }
        sets
    }

    /// Lines of the script that do something with the pages of one side.
    fn lines(&self, word: &str, md: &str, side: usize) -> String {
        let pages: &[(u64, u64)] = if side == 0 {
            &OF_THE_FIRST
        } else {
            &OF_THE_OTHER
        };
        let file = self.files[side].display();
        pages
            .iter()
            .map(|(page, count)| format!("{word} {md} $H{file} {page} {count}\n"))
            .collect()
    }
}

impl Set {
    /// The states of the regions on a member.
    fn states(&self, umd: &Umd, member: usize) -> Vec<u8> {
        let fields = umd.superblock(&self.members[member]).unwrap();
        // Those of RAID10 are of the array, not of its members.
        let is_10 = self.level == "10";
        let of = if is_10 {
            "array_bytes"
        } else {
            "data_size_bytes"
        };
        let regions = fields[of].as_u64().unwrap().div_ceil(REGION);
        let bytes = fs::read(&self.members[member]).unwrap();
        bytes[STATES_AT..][..regions as usize].to_vec()
    }

    /// How many regions are in one of these states.
    fn count(&self, umd: &Umd, states: &[u8]) -> usize {
        let all = self.states(umd, 0);
        all.iter().filter(|one| states.contains(one)).count()
    }

    fn is_mirror(&self) -> bool {
        matches!(self.level, "1" | "10")
    }

    fn block(&self, member: usize) -> u32 {
        let bytes = fs::read(&self.members[member]).unwrap();
        u32::from_le_bytes(bytes[BLOCK_AT..][..4].try_into().unwrap())
    }

    fn what(&self) -> String {
        let end = if self.crashed { "crashed" } else { "stopped" };
        format!("raid{} {end}", self.level)
    }
}

fn client(umd: &Umd, set: &Set) -> Client {
    Client::connect(&umd.runtime_dir().join("nbd.sock"), &set.name).unwrap()
}

/// Writes the pages of a side through umd, and flushes.
fn write(umd: &Umd, set: &Set, pages: &[(u64, u64)], seed: u64) {
    let mut client = client(umd, set);
    for (page, count) in pages {
        let mut bytes = vec![0; (count * PAGE) as usize];
        pattern::fill(seed, page * PAGE, &mut bytes);
        client.write(page * PAGE, &bytes, false).unwrap();
    }
    client.flush().unwrap();
}

/// Reads the pages of a side through umd.
fn verify(umd: &Umd, set: &Set, pages: &[(u64, u64)], seed: u64) {
    let mut client = client(umd, set);
    for (page, count) in pages {
        let mut wanted = vec![0; (count * PAGE) as usize];
        pattern::fill(seed, page * PAGE, &mut wanted);
        let mut got = vec![0; wanted.len()];
        client.read(page * PAGE, &mut got).unwrap();
        assert!(
            got == wanted,
            "{}: page {page} is something else",
            set.what()
        );
    }
}

/// What the first wrote is there, with every member and without each that can be lost.
fn verify_without_each(umd: &Umd, set: &Set, sides: &[(&[(u64, u64)], u64)]) {
    for missing in std::iter::once(None).chain((0..set.members.len()).map(Some)) {
        let members = set.members.iter().enumerate();
        let members = members.filter(|(number, _)| Some(*number) != missing);
        let mut args = vec!["assemble", &set.name, "--readonly", "--run"];
        args.extend(members.map(|(_, path)| text(path)));
        umd.ok(&args).unwrap();
        for (pages, seed) in sides {
            verify(umd, set, pages, *seed);
        }
        umd.ok(&["stop", &set.name]).unwrap();
    }
}

/// Starts an array in umd, lets it resync, and lets it check: no mismatch.
fn start_and_check(umd: &Umd, set: &Set) {
    let mut args = vec!["assemble", &set.name];
    args.extend(set.members.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    umd.output(&["wait", &set.name]).unwrap();
    umd.ok(&["action", &set.name, "check", "--wait"]).unwrap();
    let array = umd.detail(&set.name).unwrap();
    assert_eq!(array["mismatch_cnt"], 0, "{}", set.what());
    assert_eq!(array["degraded"], 0, "{}", set.what());
}

/// A boot with all sets as `md0`, `md1`, ...; `lines` makes the part of the script of each.
fn boot(oracle: &Oracle, sets: &[Set], lines: impl Fn(&Set, &str, &str) -> String) -> Kernel {
    let mut kernel = Kernel::new(oracle)
        .timeout(Duration::from_secs(400))
        .script(FUNCTIONS);
    let mut first = 0;
    for (number, set) in sets.iter().enumerate() {
        let end = first + set.members.len();
        let devices: String = (first..end).map(|number| format!("$D{number} ")).collect();
        first = end;
        let md = format!("md{number}");
        kernel = kernel
            .members(&set.members)
            .script(&lines(set, &md, devices.trim()));
    }
    kernel
}

/// The kernel's counts of states, printed by the script as `BITS md0 clean=3 ...`.
fn bits(stdout: &str, md: &str) -> BTreeMap<String, u64> {
    let prefix = format!("BITS {md} ");
    let line = stdout.lines().find_map(|line| line.strip_prefix(&*prefix));
    let line = line.unwrap_or_else(|| panic!("no states of {md} in\n{stdout}"));
    line.split(',')
        .filter_map(|part| part.trim().rsplit_once(' '))
        .map(|(name, count)| (name.to_string(), count.parse().unwrap()))
        .collect()
}

/// Prints the counts of states on a line.
fn print_bits(md: &str) -> String {
    format!("echo BITS {md} $(tr '\\n' ',' </sys/block/{md}/md/llbitmap/bits)\n")
}

/// The kernel takes an array back: everything is there, it checks, and it has nothing to resync.
fn kernel_takes_back(oracle: &Oracle, contents: &Contents, sets: &[Set]) {
    let run = boot(oracle, sets, |set, md, devices| {
        format!(
            "mdadm --assemble --quiet /dev/{md} {devices} || fail {what}: not started
            grep -q llbitmap /sys/block/{md}/md/bitmap_type || fail {what}: no lockless bitmap
            {print}
            wait_idle {md}
            [ $(cat /sys/block/{md}/md/degraded) = 0 ] || fail {what}: degraded
            {old}{new}
            n=$(check {md}); [ $n = 0 ] || fail {what}: mismatch_cnt $n
            mdadm --stop --quiet /dev/{md}",
            what = set.what(),
            print = print_bits(md),
            old = contents.lines("is", md, 0),
            new = contents.lines("is", md, 1),
        )
    })
    .run_ok()
    .unwrap();
    for (number, set) in sets.iter().enumerate() {
        let bits = bits(&run.stdout, &format!("md{number}"));
        assert_eq!(bits["need sync"], 0, "{}: {bits:?}", set.what());
        assert!(bits["clean"] > 0, "{}: {bits:?}", set.what());
    }
}

#[test]
fn arrays_of_the_kernel_come_and_go_back() {
    let what = "lockless bitmaps of the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::newer_or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let contents = Contents::make();
    let sets = contents.sets(|set| set.crashed || !set.is_mirror());
    let run = boot(&oracle, &sets, |set, md, devices| {
        let end = match set.crashed {
            false => format!("wait_idle {md}\nmdadm --stop --quiet /dev/{md}"),
            true => String::new(),
        };
        format!(
            "mdadm --create --run --quiet /dev/{md} -l{} -n{} {} -e1.2 --bitmap=lockless {devices}
            {}
            {}\n{end}",
            set.level,
            set.members.len(),
            set.options,
            contents.lines("put", md, 0),
            print_bits(md),
        )
    })
    .script("sync; crash")
    .run_crash()
    .unwrap();
    println!("{}", run.stdout);
    for set in &sets {
        println!("{}: states {:?}", set.what(), tally(&set.states(&umd, 0)));
        let marked = set.count(&umd, &[2, 3, 4]);
        assert!(
            !set.crashed || marked > 0,
            "{}: nothing is dirty",
            set.what()
        );
        assert_eq!(
            set.block(0),
            512,
            "{}: kernels say it from 6.19 on",
            set.what()
        );
        start_and_check(&umd, set);
        verify(&umd, set, &OF_THE_FIRST, 1);
        write(&umd, set, &OF_THE_OTHER, 2);
        umd.output(&["wait", &set.name]).unwrap();
        umd.ok(&["stop", &set.name]).unwrap();
        let states = set.states(&umd, 0);
        println!("{}: states left {:?}", set.what(), tally(&states));
        assert_eq!(states, set.states(&umd, 1), "members have the same states");
        assert_eq!(set.block(0), 512, "what stood there stays");
        verify_without_each(&umd, set, &BOTH);
    }
    kernel_takes_back(&oracle, &contents, &sets);
    for set in &sets {
        start_and_check(&umd, set);
        umd.ok(&["stop", &set.name]).unwrap();
    }
}

fn create(umd: &Umd, set: &Set) {
    let (level, count) = (set.level, set.members.len());
    let (level, count) = (format!("-l{level}"), format!("-n{count}"));
    let mut args = vec!["create", &set.name, &level, &count, "--bitmap=lockless"];
    args.extend(set.options.split_whitespace());
    args.extend(set.members.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
}

/// umd makes a set and writes to it; where it crashes, it does with dirty regions. A page of the
/// first region is spoiled, so that it agrees only after a resync.
fn umd_makes(umd: &Umd, set: &Set) {
    create(umd, set);
    write(umd, set, &OF_THE_FIRST, 1);
    umd.output(&["wait", &set.name]).unwrap();
    umd.ok(&["stop", &set.name]).unwrap();
    let written = set.count(umd, &[1, 3]);
    if set.level == "10" {
        assert_eq!(set.count(umd, &[1]), set.states(umd, 0).len(), "all of it");
    } else {
        let later = "the rest of these regions is resynced later";
        assert!(set.count(umd, &[3]) > 0, "{}: {later}", set.what());
    }
    let torn = &set.members[set.torn];
    if !set.crashed {
        // RAID10 was resynced as a whole, and owes nothing.
        if set.level != "10" {
            spoil(umd, torn, UNWRITTEN);
        }
        return;
    }
    let mut args = vec!["assemble", &set.name];
    args.extend(set.members.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    umd.output(&["wait", &set.name]).unwrap();
    umd.ok(&["stop", &set.name]).unwrap();
    assert_eq!(set.count(umd, &[1]), written, "{}", set.what());
    umd.ok(&args).unwrap();
    write(umd, set, &OF_THE_FIRST[..1], 1);
    umd.kill_daemon(&set.name).unwrap();
    assert!(set.count(umd, &[2]) > 0, "{}: nothing is dirty", set.what());
    spoil(umd, torn, 0);
    if set.level == "1" {
        spoil(umd, torn, SCAR);
    }
}

/// Overwrites a page of a member's data behind everybody's back.
fn spoil(umd: &Umd, member: &Path, page: u64) {
    let start = umd.superblock(member).unwrap()["data_offset_bytes"].as_u64();
    pattern::write_at(member, 99, start.unwrap() + page * PAGE, PAGE as usize).unwrap();
}

#[test]
fn arrays_of_umd_are_the_kernels() {
    let what = "lockless bitmaps of umd";
    let (Some(oracle), Some(umd)) = (Oracle::newer_or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let contents = Contents::make();
    let sets = contents.sets(|_| false);
    for set in &sets {
        umd_makes(&umd, set);
        for (number, member) in set.members.iter().enumerate() {
            let words = oracle.text("mdadm", &["--examine", text(member)]).unwrap();
            assert!(words.contains("Internal Bitmap : 8 sectors"), "{words}");
            assert!(words.contains("- correct"), "{words}");
            assert_eq!(set.block(number), 0, "umd does not set it");
        }
    }
    let run = boot(&oracle, &sets, |set, md, devices| {
        kernel_uses(&contents, set, md, devices)
    });
    let run = run.run_ok().unwrap();
    let versions = run.stdout.matches("Version : 6").count();
    assert_eq!(versions, sets.len(), "{}", run.stdout);
    for (number, set) in sets.iter().enumerate() {
        let bits = bits(&run.stdout, &format!("md{number}"));
        println!("{}: the kernel's states {bits:?}", set.what());
        assert_eq!(set.block(0), 0, "the kernel leaves it so, too");
        start_and_check(&umd, set);
        umd.ok(&["stop", &set.name]).unwrap();
        verify_without_each(&umd, set, &BOTH);
    }
}

/// The script for an array of umd: the kernel resyncs what it has to and nothing else, finds
/// everything, and writes.
fn kernel_uses(contents: &Contents, set: &Set, md: &str, devices: &str) -> String {
    let has_scar = set.crashed && set.level == "1";
    format!(
        "mdadm --assemble --quiet /dev/{md} {devices} || fail {what}: not started
        grep -q llbitmap /sys/block/{md}/md/bitmap_type || fail {what}: no lockless bitmap
        wait_idle {md}
        {was}
        n=$(check {md}); [ $n = {scar} ] || fail {what}: mismatch_cnt $n, not {scar}
        [ $n = 0 ] || repair {md}
        {put}
        wait_idle {md}
        {print}
        mdadm --examine-bitmap {device} 2>&1 || true
        mdadm --stop --quiet /dev/{md}",
        what = set.what(),
        was = contents.lines("is", md, 0),
        scar = if has_scar { SCAR_COUNT } else { 0 },
        put = contents.lines("put", md, 1),
        print = print_bits(md),
        device = devices.split(' ').next().unwrap(),
    )
}

/// Kernel 7.2 resyncs the neighbour of a region by halves and calls it clean (docs/on-disk.md).
/// umd counts what the kernel counts, and mends it.
#[test]
fn what_the_kernel_resynced_by_halves_is_mended() {
    let what = "regions that the kernel resynced by halves";
    let (Some(oracle), Some(umd)) = (Oracle::newer_or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let contents = Contents::make();
    let sets = contents.sets(|set| !set.is_mirror());
    let sets: Vec<Set> = sets
        .into_iter()
        .filter(|set| set.crashed && !set.is_mirror())
        .collect();
    boot(&oracle, &sets, |set, md, devices| {
        format!(
            "mdadm --create --run --quiet /dev/{md} -l{} -n{} {} -e1.2 --bitmap=lockless {devices}
            put {md} $H{} 0 1",
            set.level,
            set.members.len(),
            set.options,
            contents.files[0].display(),
        )
    })
    .script("crash")
    .run_crash()
    .unwrap();
    let run = boot(&oracle, &sets, |_, md, devices| {
        format!(
            "mdadm --assemble --quiet /dev/{md} {devices} || fail {md}: not started
            settle {md}
            echo {md}=$(check {md})
            mdadm --stop --quiet /dev/{md}"
        )
    });
    let run = run.run_ok().unwrap();
    for (number, set) in sets.iter().enumerate() {
        let counted: u64 = run.value(&format!("md{number}")).unwrap().parse().unwrap();
        println!("{}: the kernel counts {counted}", set.what());
        let mut args = vec!["assemble", &set.name];
        args.extend(set.members.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        umd.output(&["wait", &set.name]).unwrap();
        for (action, count) in [("check", counted), ("repair", counted), ("check", 0)] {
            umd.ok(&["action", &set.name, action, "--wait"]).unwrap();
            let array = umd.detail(&set.name).unwrap();
            assert_eq!(array["mismatch_cnt"], count, "{}: {action}", set.what());
        }
        verify(&umd, set, &[(0, 1)], 1);
        umd.ok(&["stop", &set.name]).unwrap();
    }
}

/// Written while the last member was away on one side, made whole by the other. On RAID10 kernel
/// 7.2 loses data at that where regions are unwritten, its own arrays' as well (docs/on-disk.md):
/// those of umd have none there.
#[test]
fn members_that_were_away_are_made_whole() {
    let what = "members that were away from a lockless bitmap";
    let (Some(oracle), Some(umd)) = (Oracle::newer_or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let contents = Contents::make();
    // "Crashed" ones here are of the kernel, the others of umd.
    let sets = contents.sets(|_| false);
    let (of_umd, of_kernel) = sets.split_at(ARRAYS.len());
    boot(&oracle, of_kernel, |set, md, devices| {
        let (_, last) = devices.rsplit_once(' ').unwrap();
        format!(
            "mdadm --create --run --quiet /dev/{md} -l{} -n{} {} -e1.2 --bitmap=lockless {devices}
            {}
            wait_idle {md}
            mdadm --quiet /dev/{md} --fail {last}
            {}
            wait_idle {md}
            mdadm --stop --quiet /dev/{md}",
            set.level,
            set.members.len(),
            set.options,
            contents.lines("put", md, 0),
            contents.lines("put", md, 1),
        )
    })
    .run_ok()
    .unwrap();
    for set in of_kernel {
        let (last, rest) = set.members.split_last().unwrap();
        let mut args = vec!["assemble", &set.name, "--run"];
        args.extend(rest.iter().map(|path| text(path)));
        umd.ok(&args).unwrap();
        umd.ok(&["manage", &set.name, "--add", text(last)]).unwrap();
        umd.output(&["wait", &set.name]).unwrap();
        umd.ok(&["stop", &set.name]).unwrap();
        start_and_check(&umd, set);
        umd.ok(&["stop", &set.name]).unwrap();
        verify_without_each(&umd, set, &BOTH);
    }
    for set in of_umd {
        umd_writes_without_the_last(&umd, set);
    }
    boot(&oracle, of_umd, |_, md, devices| {
        let (rest, last) = devices.rsplit_once(' ').unwrap();
        format!(
            "mdadm --assemble --run --quiet /dev/{md} {rest} || fail {md}: not started
            mdadm --quiet /dev/{md} --add {last}
            wait_idle {md}
            [ $(cat /sys/block/{md}/md/degraded) = 0 ] || fail {md}: degraded
            {}{}
            n=$(check {md}); [ $n = 0 ] || fail {md}: mismatch_cnt $n
            mdadm --stop --quiet /dev/{md}",
            contents.lines("is", md, 0),
            contents.lines("is", md, 1),
        )
    })
    .run_ok()
    .unwrap();
    for set in of_umd {
        start_and_check(&umd, set);
        umd.ok(&["stop", &set.name]).unwrap();
        verify_without_each(&umd, set, &BOTH);
    }
}

fn umd_writes_without_the_last(umd: &Umd, set: &Set) {
    create(umd, set);
    write(umd, set, &OF_THE_FIRST, 1);
    umd.output(&["wait", &set.name]).unwrap();
    let last = text(set.members.last().unwrap());
    umd.ok(&["manage", &set.name, "--fail", last]).unwrap();
    write(umd, set, &OF_THE_OTHER, 2);
    umd.ok(&["stop", &set.name]).unwrap();
}

/// mdadm 4.6 makes an array of logical blocks of 4096 bytes on disks of 512: that is byte 224.
#[test]
fn a_logical_block_size_of_the_kernel_stays() {
    let what = "logical block sizes of the kernel";
    let (Some(oracle), Some(umd)) = (Oracle::newer_or_skip(what), Umd::or_skip(what)) else {
        return;
    };
    let contents = Contents::make();
    let sets = &contents.sets(|_| false)[..ARRAYS.len()];
    boot(&oracle, sets, |set, md, devices| {
        format!(
            "mdadm --create --run --quiet /dev/{md} -l{} -n{} {} -e1.2 --bitmap=internal \
                --logical-block-size=4096 {devices}
            wait_idle {md}
            n=$(cat /sys/block/{md}/queue/logical_block_size)
            [ $n = 4096 ] || fail {md}: logical blocks of $n
            {}
            wait_idle {md}
            mdadm --stop --quiet /dev/{md}",
            set.level,
            set.members.len(),
            set.options,
            contents.lines("put", md, 0),
        )
    })
    .run_ok()
    .unwrap();
    for set in sets {
        assert_eq!(set.block(0), 4096, "{}", set.what());
        start_and_check(&umd, set);
        let array = umd.detail(&set.name).unwrap();
        assert_eq!(array["logical_block_bytes"], 4096, "{}", set.what());
        verify(&umd, set, &OF_THE_FIRST, 1);
        write(&umd, set, &OF_THE_OTHER, 2);
        umd.ok(&["stop", &set.name]).unwrap();
        assert_eq!(set.block(0), 4096, "{}", set.what());
    }
    boot(&oracle, sets, |_, md, devices| {
        format!(
            "mdadm --assemble --quiet /dev/{md} {devices} || fail {md}: not started
            n=$(cat /sys/block/{md}/queue/logical_block_size)
            [ $n = 4096 ] || fail {md}: logical blocks of $n
            {}{}
            n=$(check {md}); [ $n = 0 ] || fail {md}: mismatch_cnt $n
            mdadm --stop --quiet /dev/{md}",
            contents.lines("is", md, 0),
            contents.lines("is", md, 1),
        )
    })
    .run_ok()
    .unwrap();
}

fn tally(states: &[u8]) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for state in states {
        *counts.entry(*state).or_default() += 1;
    }
    counts
}
