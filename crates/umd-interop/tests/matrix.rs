//! The interop matrix, both directions, on real arrays.
//!
//! ```text
//!  boot 1   kernel creates and fills every array of the batch, and records bad blocks in some
//!  host     (a) umd reads it, with all members and after every tolerable loss
//!           (b) umd writes it, whole and after one loss      (c) umd creates and fills one
//!  boot 2   kernel assembles all three: bytes equal, mismatch_cnt 0, nothing stale trusted;
//!           bitmap, log and flags are what was asked for
//! ```
//!
//! Where blocks are bad there is rubbish, so whoever reads them is noticed. (b) writes over them,
//! and nothing is bad any more; in (c) a member refuses some sectors, and umd records them.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umd_interop::matrix::{BACKLOG, Bitmap, Case, Legs, Log, chosen};
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::umd::{Served, Umd, copy_in, copy_out, export_bytes, qemu_io, text};
use umd_interop::uml::Kernel;

/// As long as the largest array.
const CONTENT: u64 = 32 << 20;
/// Arrays for one boot.
const BATCH: usize = 10;
/// What umd overwrites in small pieces: across sectors, pages, chunks and rows. (offset, bytes)
const PATCHES: [(u64, usize); 7] = [
    (0, 512),
    (3584, 1024),
    (61440, 8192),
    (204_800, 4096),
    (523_776, 1536),
    (1_049_088, 66_048),
    (1_572_864, 4096),
];

/// What the kernel calls bad: sectors of a member's data, and their number. The second takes two
/// entries of the log.
const BAD: [(u64, u64); 2] = [(700, 8), (1300, 600)];
/// What a member of umd's refuses to write: a part of a page.
const WORN: (u64, u64) = (1001, 5);

/// The files every batch reads: what the kernel writes, what umd writes, and the latter patched.
struct Contents {
    dir: tempfile::TempDir,
}

impl Contents {
    fn make() -> Contents {
        let contents = Contents {
            dir: tempfile::tempdir().unwrap(),
        };
        pattern::write_file(&contents.kernel(), 1, CONTENT).unwrap();
        pattern::write_file(&contents.umd(), 2, CONTENT).unwrap();
        fs::copy(contents.umd(), contents.patched()).unwrap();
        for (number, (offset, len)) in PATCHES.into_iter().enumerate() {
            pattern::write_at(&contents.patched(), 3, offset, len).unwrap();
            let mut bytes = vec![0; len];
            pattern::fill(3, offset, &mut bytes);
            fs::write(contents.patch(number), bytes).unwrap();
        }
        contents
    }

    fn kernel(&self) -> PathBuf {
        self.dir.path().join("kernel")
    }

    fn umd(&self) -> PathBuf {
        self.dir.path().join("umd")
    }

    fn patched(&self) -> PathBuf {
        self.dir.path().join("patched")
    }

    fn patch(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("patch{number}"))
    }
}

/// One case with its files: `k` made by the kernel, `w` and `l` copies that umd writes, whole and
/// after a loss, `c` made by umd.
struct Job {
    id: usize,
    case: Case,
    dir: PathBuf,
}

impl Job {
    /// The slot of the member with bad blocks.
    fn marked(&self) -> Option<usize> {
        (self.case.log == Log::Marked).then_some(self.id % self.case.kind.disks)
    }

    /// The same in the array that umd makes. A leg that is to fail fast fails instead, and so does
    /// one on which writes lag.
    fn worn(&self) -> Option<usize> {
        self.marked().filter(|_| self.case.legs == Legs::Plain)
    }

    /// The file with the bitmap of a set, if it has one.
    fn bits(&self, set: &str) -> PathBuf {
        self.dir.join(format!("{set}.bits"))
    }

    /// What an array with such a file is started with.
    fn bitmap_option(&self, set: &str) -> Option<String> {
        let with = self.case.bitmap == Bitmap::File;
        with.then(|| format!("--bitmap={}", self.bits(set).display()))
    }

    fn members(&self, set: &str) -> Vec<PathBuf> {
        (0..self.case.kind.disks)
            .map(|slot| self.dir.join(format!("{set}{slot}")))
            .collect()
    }

    fn make_empty(&self, set: &str) -> Result<Vec<PathBuf>> {
        let members = self.members(set);
        for (slot, path) in members.iter().enumerate() {
            File::create(path)?.set_len(self.case.member_bytes(slot))?;
        }
        Ok(members)
    }

    /// Copies the kernel's members, the lost ones included.
    fn copy(&self, set: &str) -> Result<Vec<PathBuf>> {
        let copies = self.members(set);
        for (from, to) in self.members("k").iter().zip(&copies) {
            fs::copy(from, to)?;
        }
        if self.case.bitmap == Bitmap::File {
            fs::copy(self.bits("k"), self.bits(set))?;
        }
        Ok(copies)
    }

    /// The loss under which umd writes this case's `l` set.
    fn written_loss(&self) -> Option<Vec<usize>> {
        let losses = self.case.losses(self.marked());
        let real = &losses[1..];
        (!real.is_empty()).then(|| real[self.id % real.len()].clone())
    }
}

fn without(members: &[PathBuf], loss: &[usize]) -> Vec<PathBuf> {
    let kept = members
        .iter()
        .enumerate()
        .filter(|(slot, _)| !loss.contains(slot));
    kept.map(|(_, path)| path.clone()).collect()
}

#[test]
fn arrays_are_exchanged_with_the_kernel() {
    let Some(oracle) = Oracle::or_skip("the interop matrix") else {
        return;
    };
    let Some(umd) = Umd::or_skip("the interop matrix") else {
        return;
    };
    let contents = Contents::make();
    let jobs: Vec<(usize, Case)> = chosen().into_iter().enumerate().collect();
    let queue = Mutex::new(jobs.chunks(BATCH).collect::<Vec<_>>().into_iter());
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 4);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(cases) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let failed = batch(&oracle, &umd, &contents, cases);
                    failures.lock().unwrap().extend(failed);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!(
        "{} arrays exchanged, {} failures",
        jobs.len(),
        failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Runs some cases through all steps; returns what went wrong.
fn batch(oracle: &Oracle, umd: &Umd, contents: &Contents, cases: &[(usize, Case)]) -> Vec<String> {
    let dir = tempfile::Builder::new()
        .prefix("umd-matrix")
        .tempdir()
        .unwrap();
    let jobs: Vec<Job> = cases
        .iter()
        .map(|&(id, case)| {
            let dir = dir.path().join(id.to_string());
            fs::create_dir(&dir).unwrap();
            Job { id, case, dir }
        })
        .collect();
    let mut failures = Vec::new();
    let mut times = Vec::new();
    let mut phase = |name: &str, run: &mut dyn FnMut() -> Result<Vec<String>>| {
        let start = Instant::now();
        let failed = run().unwrap_or_else(|error| vec![format!("{name}: {error:#}")]);
        times.push(format!("{name} {:.1} s", start.elapsed().as_secs_f64()));
        failures.extend(failed);
    };
    phase("boot 1", &mut || kernel_makes(oracle, contents, &jobs));
    for (name, step) in STEPS {
        phase(name, &mut || {
            Ok(jobs
                .iter()
                .filter_map(|job| {
                    let error = step(oracle, umd, contents, job).err()?;
                    Some(format!("{} {name}: {error:#}", job.case))
                })
                .collect())
        });
    }
    phase("boot 2", &mut || kernel_reads(oracle, contents, &jobs));
    println!("{} arrays: {}", jobs.len(), times.join(", "));
    if !failures.is_empty() && std::env::var_os("UMD_KEEP").is_some() {
        failures.push(format!("the files are in {}", dir.keep().display()));
    }
    failures
}

type Step = fn(&Oracle, &Umd, &Contents, &Job) -> Result<()>;

const STEPS: [(&str, Step); 5] = [
    ("spoil", spoil),
    ("umd reads", umd_reads),
    ("umd writes", umd_writes),
    ("umd writes degraded", umd_writes_degraded),
    ("umd creates", umd_creates),
];

/// Boot 1: creates and fills the `k` sets.
fn kernel_makes(oracle: &Oracle, contents: &Contents, jobs: &[Job]) -> Result<Vec<String>> {
    let mut boot = Script::new(oracle, jobs)?;
    for job in jobs {
        let devices = boot.members(&job.make_empty("k")?);
        let bits = format!("/mnt/k{}", job.id);
        let mut script = format!(
            "mdadm --create --run --quiet /dev/md0 {} {}
            size=$(blockdev --getsize64 /dev/md0)
            head -c $size $H{} | dd of=/dev/md0 bs=1M conv=fsync 2>/dev/null
            wait_idle md0\n",
            job.case.create_options(&bits).join(" "),
            job.case.flagged(&devices).join(" "),
            contents.kernel().display()
        );
        script += &kernel_flags(&job.case, &devices);
        script += &kernel_finds(job, "k", &devices);
        if let Some(slot) = job.marked() {
            script += &kernel_marks(&devices[slot], contents);
        }
        script += "mdadm --stop --quiet /dev/md0\n";
        if has_no_log(&job.case) {
            script += &format!(
                "mdadm --assemble --quiet --update=no-bbl {} /dev/md0 {}
                mdadm --stop --quiet /dev/md0\n",
                kernel_bitmap(job, &bits),
                devices.join(" "),
            );
        }
        if job.case.bitmap == Bitmap::File {
            script += &format!("cp {bits} $H{}\n", job.bits("k").display());
        }
        boot.case(&format!("{} kernel creates", job.case), &script);
    }
    boot.run()
}

/// The option that names the bitmap's file to mdadm, if there is one.
fn kernel_bitmap(job: &Job, bits: &str) -> String {
    match job.case.bitmap {
        Bitmap::File => format!("--bitmap={bits}"),
        _ => String::new(),
    }
}

/// Whether the log was taken away. Metadata 0.90 never has one.
fn has_no_log(case: &Case) -> bool {
    case.log == Log::None && case.metadata != "0.90"
}

/// With metadata 0.90 mdadm forgets the flags that members are created with.
fn kernel_flags(case: &Case, devices: &[String]) -> String {
    if case.metadata != "0.90" {
        return String::new();
    }
    let (word, devices) = match case.legs {
        Legs::Plain => return String::new(),
        Legs::Mostly => ("writemostly", &devices[devices.len() - 1..]),
        Legs::Failfast => ("failfast", devices),
    };
    let set = |device: &String| {
        let name = device.trim_start_matches('$');
        format!("echo {word} >/sys/block/md0/md/dev-${{{name}#/dev/}}/state\n")
    };
    devices.iter().map(set).collect()
}

/// Records bad blocks by hand; the write is for the superblock that says so.
fn kernel_marks(device: &str, contents: &Contents) -> String {
    let [(a, b), (c, d)] = BAD;
    format!(
        "dev=/sys/block/md0/md/dev-${{{}#/dev/}}
        read at <$dev/offset
        echo $((at + {a})) {b} >$dev/bad_blocks
        echo $((at + {c})) 512 >$dev/bad_blocks
        echo $((at + {c} + 512)) $(({d} - 512)) >$dev/bad_blocks
        dd if=$H{} of=/dev/md0 bs=4k count=1 conv=fsync 2>/dev/null\n",
        device.trim_start_matches('$'),
        contents.kernel().display()
    )
}

/// Sectors of a member's data as sectors of the member.
fn on_the_member(umd: &Umd, member: &Path, ranges: &[(u64, u64)]) -> Result<BTreeSet<u64>> {
    let start = umd.superblock(member)?["data_offset_bytes"].as_u64();
    let start = start.context("it has no data")? / 512;
    let sectors = ranges
        .iter()
        .flat_map(|(at, len)| start + at..start + at + len);
    Ok(sectors.collect())
}

/// The sectors in lines of `start for length sectors`.
fn listed(lines: &str) -> BTreeSet<u64> {
    let range = |line: &str| {
        let (start, rest) = line.trim().split_once(" for ")?;
        let (len, _) = rest.split_once(" sectors")?;
        let start: u64 = start.trim().parse().ok()?;
        Some(start..start + len.trim().parse::<u64>().ok()?)
    };
    lines.lines().filter_map(range).flatten().collect()
}

/// Umd lists what the kernel recorded. From here on there is rubbish: whoever reads it is seen.
fn spoil(_: &Oracle, umd: &Umd, _: &Contents, job: &Job) -> Result<()> {
    let Some(slot) = job.marked() else {
        return Ok(());
    };
    let member = &job.members("k")[slot];
    let bad = on_the_member(umd, member, &BAD)?;
    let list = umd.ok(&["examine-badblocks", text(member)])?;
    ensure!(listed(&list) == bad, "umd lists of the log:\n{list}");
    let mut file = File::options().write(true).open(member)?;
    for sector in bad {
        file.seek(SeekFrom::Start(sector * 512))?;
        file.write_all(&[0xee; 512])?;
    }
    Ok(())
}

/// (a) With all members, and after every loss, umd serves what the kernel wrote.
fn umd_reads(oracle: &Oracle, umd: &Umd, contents: &Contents, job: &Job) -> Result<()> {
    let out = job.dir.join("out");
    for loss in job.case.losses(job.marked()) {
        let members = without(&job.copy("r")?, &loss);
        let served = serve(umd, job, "r", &members, run_if(&loss))?;
        copy_out(oracle, &served.uri(), &out)?;
        served.stop()?;
        let len = fs::metadata(&out)?.len();
        ensure!(len > 1 << 20, "served only {len} bytes");
        pattern::compare((&out, 0), (&contents.kernel(), 0), len)
            .with_context(|| format!("without {loss:?}"))?;
    }
    Ok(())
}

/// Serves members of a set, with the file its bitmap is in.
fn serve(umd: &Umd, job: &Job, set: &str, members: &[PathBuf], options: &[&str]) -> Result<Served> {
    let bitmap = job.bitmap_option(set);
    let options: Vec<&str> = options.iter().copied().chain(bitmap.as_deref()).collect();
    umd.serve(&format!("{set}{}", job.id), members, &options)
}

/// A degraded array is started only when asked to.
fn run_if(loss: &[usize]) -> &'static [&'static str] {
    if loss.is_empty() { &[] } else { &["--run"] }
}

/// (b) umd overwrites everything, then small pieces.
fn umd_writes(oracle: &Oracle, umd: &Umd, contents: &Contents, job: &Job) -> Result<()> {
    let members = job.copy("w")?;
    write_through((oracle, umd), contents, job, "w", &members)?;
    examine(oracle, job, &members, &BTreeSet::new())
}

/// (b) The same after a loss; the lost members stay behind with the old bytes.
fn umd_writes_degraded(oracle: &Oracle, umd: &Umd, contents: &Contents, job: &Job) -> Result<()> {
    let Some(loss) = job.written_loss() else {
        return Ok(());
    };
    let members = without(&job.copy("l")?, &loss);
    write_through((oracle, umd), contents, job, "l", &members)?;
    examine(oracle, job, &members, &BTreeSet::new())
}

fn write_through(
    (oracle, umd): (&Oracle, &Umd),
    contents: &Contents,
    job: &Job,
    set: &str,
    members: &[PathBuf],
) -> Result<()> {
    let run: &[&str] = if set == "l" { &["--run"] } else { &[] };
    let served = serve(umd, job, set, members, run)?;
    fill(oracle, &served.uri(), contents, &job.dir)?;
    if job.case.legs != Legs::Plain && set == "w" {
        flags_are_shown(umd, &job.case, served.name())?;
    }
    served.stop()
}

/// What the kernel recorded of legs is what umd goes by.
fn flags_are_shown(umd: &Umd, case: &Case, name: &str) -> Result<()> {
    let array = umd.detail(name)?;
    for slot in 0..case.kind.disks {
        let member = array["members"].as_array().into_iter().flatten();
        let mut member = member.filter(|member| member["slot"] == slot);
        let member = member.next().context("a slot without a member")?;
        let mostly = case.legs == Legs::Mostly && slot + 1 == case.kind.disks;
        let right =
            member["write_mostly"] == mostly && member["failfast"] == (case.legs == Legs::Failfast);
        ensure!(right, "flags of slot {slot}: {array}");
    }
    let lag = array["bitmap"]["write_behind"].as_u64().unwrap_or(0);
    let wanted = if case.lags() { BACKLOG } else { 0 };
    ensure!(lag == u64::from(wanted), "{lag} writes may lag: {array}");
    Ok(())
}

/// Writes the patched content to an export: whole with nbdcopy, the pieces with qemu-io.
fn fill(oracle: &Oracle, uri: &str, contents: &Contents, dir: &Path) -> Result<()> {
    let bytes = export_bytes(oracle, uri)?;
    let exact = dir.join("exact");
    fs::copy(contents.umd(), &exact)?;
    File::options().write(true).open(&exact)?.set_len(bytes)?;
    copy_in(oracle, &exact, uri)?;
    let pieces: Vec<String> = PATCHES
        .into_iter()
        .enumerate()
        .map(|(number, (offset, len))| {
            format!(
                "write -s {} {offset} {len}",
                contents.patch(number).display()
            )
        })
        .chain(["flush".into()])
        .collect();
    qemu_io(oracle, uri, &pieces).map(drop)
}

/// (c) umd creates: every other array assumed clean, the others resynced while they are filled.
fn umd_creates(oracle: &Oracle, umd: &Umd, contents: &Contents, job: &Job) -> Result<()> {
    let members = job.make_empty("c")?;
    let name = format!("c{}", job.id);
    let mut args = vec!["create".to_string(), name.clone()];
    args.extend(job.case.create_options(text(&job.bits("c"))));
    if job.id.is_multiple_of(2) && job.case.kind.is_redundant() {
        args.push("--assume-clean".into());
    }
    let paths: Vec<String> = members.iter().map(|path| text(path).to_owned()).collect();
    args.extend(job.case.flagged(&paths));
    umd.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
    if job.worn().is_none() {
        fill(oracle, &umd.daemon_uri(&name), contents, &job.dir)?;
    }
    let waited = umd.output(&["wait", &name])?.status.code();
    ensure!(
        matches!(waited, Some(0 | 1)),
        "umd wait ended with {waited:?}"
    );
    umd.ok(&["stop", &name])?;
    let mut bad = BTreeSet::new();
    if let Some(slot) = job.worn() {
        bad = on_the_member(umd, &members[slot], &[WORN])?;
        let first = bad.first().context("something is worn")?;
        let fault = format!("{}:worn={first}+{}", paths[slot], WORN.1);
        let served = serve(umd, job, "c", &members, &["--fault", &fault])?;
        fill(oracle, &served.uri(), contents, &job.dir)?;
        served.stop()?;
    }
    if has_no_log(&job.case) {
        let mut args = vec!["assemble", &name, "--update=no-bbl"];
        let bitmap = job.bitmap_option("c");
        args.extend(bitmap.as_deref());
        args.extend(paths.iter().map(String::as_str));
        umd.ok(&args)?;
        umd.ok(&["stop", &name])?;
    }
    examine(oracle, job, &members, &bad)
}

/// mdadm must find every superblock good, and in the logs what is bad, and nothing else.
fn examine(oracle: &Oracle, job: &Job, members: &[PathBuf], bad: &BTreeSet<u64>) -> Result<()> {
    let mut found = BTreeSet::new();
    for member in members {
        let said = oracle.text("mdadm", &["--examine", text(member)])?;
        let good = said.lines().any(|line| {
            line.trim().starts_with("Checksum : ") && line.trim().ends_with(" - correct")
        });
        ensure!(good, "mdadm --examine finds no correct checksum:\n{said}");
        if job.case.kind.is_redundant() {
            let has = said.contains("Bad Block Log : ");
            ensure!(has == (job.case.log != Log::None), "the log of:\n{said}");
        }
        if job.case.log == Log::Marked {
            let list = oracle.text("mdadm", &["--examine-badblocks", text(member)])?;
            found.append(&mut listed(&list));
        }
    }
    ensure!(found == *bad, "mdadm lists as bad {found:?}, not {bad:?}");
    Ok(())
}

/// Boot 2: the kernel assembles what umd wrote and made. It is given the lost members too: it must
/// see that they are stale.
fn kernel_reads(oracle: &Oracle, contents: &Contents, jobs: &[Job]) -> Result<Vec<String>> {
    let mut boot = Script::new(oracle, jobs)?;
    for job in jobs {
        for (set, what) in [
            ("w", "umd wrote"),
            ("l", "umd wrote degraded"),
            ("c", "umd created"),
        ] {
            let members = job.members(set);
            if !members.iter().all(|path| path.is_file()) {
                continue;
            }
            let devices = boot.members(&members);
            let bits = format!("/mnt/{set}{}", job.id);
            let mut script = String::new();
            if job.case.bitmap == Bitmap::File {
                script += &format!("cp $H{} {bits}\n", job.bits(set).display());
            }
            script += &format!(
                "mdadm --assemble --run --quiet {} /dev/md0 {}\n",
                kernel_bitmap(job, &bits),
                devices.join(" "),
            );
            script += &kernel_finds(job, set, &devices);
            script += &format!("same md0 $H{}\n", contents.patched().display());
            if job.case.kind.is_redundant() && set != "l" {
                script += "n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n\n";
            }
            script += "mdadm --stop /dev/md0";
            boot.case(&format!("{} {what}, kernel reads", job.case), &script);
        }
    }
    boot.run()
}

/// What the kernel must know of an array: its bitmap, and of each member that is there the flags
/// and the bad blocks. No program is started for it.
fn kernel_finds(job: &Job, set: &str, devices: &[String]) -> String {
    let md = "/sys/block/md0/md";
    let mut script = String::new();
    if job.case.kind.is_redundant() {
        let pattern = match job.case.bitmap {
            Bitmap::None => "none",
            Bitmap::Internal => "[+-]*",
            Bitmap::File => "file",
        };
        script += &format!(
            "read at <{md}/bitmap/location
            case $at in {pattern}) ;; *) fail the bitmap is at $at ;; esac\n"
        );
    }
    if job.case.lags() {
        script += &format!("read n <{md}/bitmap/backlog; [ $n = {BACKLOG} ] || fail backlog $n\n");
    }
    let lost = if set == "l" { job.written_loss() } else { None };
    for (slot, device) in devices.iter().enumerate() {
        if lost.as_ref().is_some_and(|lost| lost.contains(&slot)) {
            continue;
        }
        let dev = format!("{md}/dev-${{{}#/dev/}}", device.trim_start_matches('$'));
        let flag = match job.case.legs {
            Legs::Plain => continue,
            Legs::Mostly if slot + 1 == devices.len() => ",write_mostly",
            Legs::Mostly => "",
            Legs::Failfast => ",failfast",
        };
        script += &format!(
            "read state <{dev}/state
            [ $state = in_sync{flag} ] || fail slot {slot} is $state\n"
        );
    }
    if let Some(slot) = job.marked().filter(|_| set != "l") {
        let device = devices[slot].trim_start_matches('$');
        let (at, len) = WORN;
        let wanted = match job.worn() {
            Some(_) if set == "c" => format!("\"$((offset + {at})) {len}\""),
            _ => "\"\"".into(),
        };
        script += &format!(
            "dev={md}/dev-${{{device}#/dev/}}
            read offset <$dev/offset
            bad=$(cat $dev/bad_blocks)
            [ \"$bad\" = {wanted} ] || fail bad blocks: $bad\n"
        );
    }
    script
}

/// A boot with cases that pass and fail each by itself.
struct Script {
    kernel: Kernel,
    devices: usize,
    cases: Vec<String>,
}

impl Script {
    /// With a filesystem on `/mnt`, if any of the arrays has a file on it: for bitmaps the kernel
    /// wants one with blocks.
    fn new(oracle: &Oracle, jobs: &[Job]) -> Result<Script> {
        let kernel = Kernel::new(oracle).timeout(Duration::from_secs(300));
        let mut script = Script {
            kernel,
            devices: 0,
            cases: Vec::new(),
        };
        let with_file = |job: &&Job| job.case.bitmap == Bitmap::File;
        if let Some(job) = jobs.iter().find(with_file) {
            let path = job.dir.join("filesystem");
            File::create(&path)?.set_len(4 << 20)?;
            let device = script.members(&[path])[0].clone();
            script.kernel = script.kernel.script(&format!(
                "mke2fs -q {device} && mkdir -p /mnt && mount -t ext2 {device} /mnt \
                    || mount -t ext4 {device} /mnt || fail no filesystem"
            ));
        }
        Ok(script)
    }

    /// Adds members; returns their names in the script.
    fn members(&mut self, members: &[PathBuf]) -> Vec<String> {
        self.kernel = self.kernel.clone().members(members);
        let first = self.devices;
        self.devices += members.len();
        (first..self.devices)
            .map(|number| format!("$D{number}"))
            .collect()
    }

    fn case(&mut self, name: &str, script: &str) {
        let id = self.cases.len();
        self.cases.push(name.to_string());
        let script = format!("set +e; (begin {id}\n{script}\n); end {id}");
        self.kernel = self.kernel.clone().script(&script);
    }

    /// Boots; returns a message for every case that did not pass.
    fn run(self) -> Result<Vec<String>> {
        let run = self.kernel.script("true").run()?;
        let mut failures = Vec::new();
        for (id, name) in self.cases.iter().enumerate() {
            let begin = format!("BEGIN {id}\n");
            let Some((_, after)) = run.stdout.split_once(&begin) else {
                bail!("{name} never began:\n{}", run.stdout)
            };
            let part = after.split("\nBEGIN ").next().unwrap_or(after);
            if !part.lines().any(|line| line == format!("PASS {id}")) {
                failures.push(format!("{name}:\n{part}"));
            }
        }
        Ok(failures)
    }
}
