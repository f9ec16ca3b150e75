//! The interop matrix, both directions, on real arrays.
//!
//! ```text
//!  boot 1   kernel creates and fills every array of the batch
//!  host     (a) umd reads it, with all members and after every tolerable loss
//!           (b) umd writes it, whole and after one loss      (c) umd creates and fills one
//!  boot 2   kernel assembles all three: bytes equal, mismatch_cnt 0, nothing stale trusted
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use umd_interop::matrix::{Case, chosen};
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::umd::{Umd, copy_in, copy_out, export_bytes, qemu_io};
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
        Ok(copies)
    }

    /// The loss under which umd writes this case's `l` set.
    fn written_loss(&self) -> Option<Vec<usize>> {
        let losses = self.case.kind.losses();
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

const STEPS: [(&str, Step); 4] = [
    ("umd reads", umd_reads),
    ("umd writes", umd_writes),
    ("umd writes degraded", umd_writes_degraded),
    ("umd creates", umd_creates),
];

/// Boot 1: creates and fills the `k` sets.
fn kernel_makes(oracle: &Oracle, contents: &Contents, jobs: &[Job]) -> Result<Vec<String>> {
    let mut boot = Script::new(oracle);
    for job in jobs {
        let devices = boot.members(&job.make_empty("k")?);
        let script = format!(
            "mdadm --create --run --quiet /dev/md0 {} {devices}
            size=$(blockdev --getsize64 /dev/md0)
            head -c $size $H{} | dd of=/dev/md0 bs=1M conv=fsync 2>/dev/null
            wait_idle md0
            mdadm --stop /dev/md0",
            job.case.create_options().join(" "),
            contents.kernel().display()
        );
        boot.case(&format!("{} kernel creates", job.case), &script);
    }
    boot.run()
}

/// (a) With all members, and after every loss, umd serves what the kernel wrote.
fn umd_reads(oracle: &Oracle, umd: &Umd, contents: &Contents, job: &Job) -> Result<()> {
    let out = job.dir.join("out");
    for loss in job.case.kind.losses() {
        let members = without(&job.copy("r")?, &loss);
        let served = umd.serve(&format!("r{}", job.id), &members, run_if(&loss))?;
        copy_out(oracle, &served.uri(), &out)?;
        served.stop()?;
        let len = fs::metadata(&out)?.len();
        ensure!(len > 1 << 20, "served only {len} bytes");
        pattern::compare((&out, 0), (&contents.kernel(), 0), len)
            .with_context(|| format!("without {loss:?}"))?;
    }
    Ok(())
}

/// A degraded array is started only when asked to.
fn run_if(loss: &[usize]) -> &'static [&'static str] {
    if loss.is_empty() { &[] } else { &["--run"] }
}

/// (b) umd overwrites everything, then small pieces.
fn umd_writes(oracle: &Oracle, umd: &Umd, contents: &Contents, job: &Job) -> Result<()> {
    let members = job.copy("w")?;
    write_through(oracle, umd, contents, job, &members, &[])?;
    examine(oracle, &members)
}

/// (b) The same after a loss; the lost members stay behind with the old bytes.
fn umd_writes_degraded(oracle: &Oracle, umd: &Umd, contents: &Contents, job: &Job) -> Result<()> {
    let Some(loss) = job.written_loss() else {
        return Ok(());
    };
    let members = without(&job.copy("l")?, &loss);
    write_through(oracle, umd, contents, job, &members, &loss)?;
    examine(oracle, &members)
}

fn write_through(
    oracle: &Oracle,
    umd: &Umd,
    contents: &Contents,
    job: &Job,
    members: &[PathBuf],
    loss: &[usize],
) -> Result<()> {
    let served = umd.serve(&format!("w{}", job.id), members, run_if(loss))?;
    fill(oracle, &served.uri(), contents, &job.dir)?;
    served.stop()
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
    args.extend(job.case.create_options());
    if job.id.is_multiple_of(2) && job.case.kind.level != 0 {
        args.push("--assume-clean".into());
    }
    args.extend(
        members
            .iter()
            .map(|path| path.to_string_lossy().into_owned()),
    );
    umd.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
    fill(oracle, &umd.daemon_uri(&name), contents, &job.dir)?;
    let waited = umd.output(&["wait", &name])?.status.code();
    ensure!(
        matches!(waited, Some(0 | 1)),
        "umd wait ended with {waited:?}"
    );
    umd.ok(&["stop", &name])?;
    examine(oracle, &members)
}

/// mdadm must find every superblock good.
fn examine(oracle: &Oracle, members: &[PathBuf]) -> Result<()> {
    for member in members {
        let text = oracle.text("mdadm", &["--examine", &member.to_string_lossy()])?;
        let good = text.lines().any(|line| {
            line.trim().starts_with("Checksum : ") && line.trim().ends_with(" - correct")
        });
        ensure!(good, "mdadm --examine finds no correct checksum:\n{text}");
    }
    Ok(())
}

/// Boot 2: the kernel assembles what umd wrote and made. It is given the lost members too: it must
/// see that they are stale.
fn kernel_reads(oracle: &Oracle, contents: &Contents, jobs: &[Job]) -> Result<Vec<String>> {
    let mut boot = Script::new(oracle);
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
            let check = match (job.case.kind.level, set) {
                (0, _) | (_, "l") => "",
                _ => "n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n",
            };
            let script = format!(
                "mdadm --assemble --run --quiet /dev/md0 {devices}
                same md0 $H{}
                {check}
                mdadm --stop /dev/md0",
                contents.patched().display()
            );
            boot.case(&format!("{} {what}, kernel reads", job.case), &script);
        }
    }
    boot.run()
}

/// A boot with cases that pass and fail each by itself.
struct Script {
    kernel: Kernel,
    devices: usize,
    cases: Vec<String>,
}

impl Script {
    fn new(oracle: &Oracle) -> Script {
        let kernel = Kernel::new(oracle).timeout(Duration::from_secs(300));
        Script {
            kernel,
            devices: 0,
            cases: Vec::new(),
        }
    }

    /// Adds members; returns their names in the script.
    fn members(&mut self, members: &[PathBuf]) -> String {
        self.kernel = self.kernel.clone().members(members);
        let first = self.devices;
        self.devices += members.len();
        (first..self.devices)
            .map(|number| format!("$D{number} "))
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
