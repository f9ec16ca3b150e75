//! Does anything notice a change?
//!
//! ```text
//!   no change is on  -> each test alone: its time, and the changes that it reaches
//!   one change is on -> the tests that reach it, the quickest first, until one fails: caught
//!                       none fails -> seeds of the simulator until one fails:        caught
//!                                     none fails:                                    missed
//! ```
//!
//! A test that takes far more processor time or memory than it should has failed too.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::copy::Built;

/// Mutants can allocate without end.
const MEMORY_KIB_MAX: u64 = 4 << 20;
/// Seconds of processor that a test may take at least, and how many times its own.
const SECONDS_MIN: u64 = 5;
const SLOWER_MAX: f64 = 5.0;
/// Nothing waits for a clock in these tests, so who takes this long is stuck.
const STUCK: Duration = Duration::from_mins(10);
const POLL: Duration = Duration::from_millis(1);
/// Sets of arguments of the simulator, the quickest first.
const CAMPAIGNS: [&[&str]; 4] = [
    &["--seeds", "15", "--start", "7000000", "--show", "0"],
    &["--seeds", "85", "--start", "7000015", "--show", "0"],
    &["--exhaustive", "--ops", "2"],
    &["--seeds", "200", "--start", "7000100", "--show", "0"],
];

/// What was found out about a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// A test of umd-core failed.
    Core,
    /// A test of umd-core did not end in time.
    CoreTime,
    /// The simulator failed.
    Sim,
    /// The simulator did not end in time.
    SimTime,
    /// Nothing failed.
    Missed,
    /// Nothing so much as reached it.
    Unreached,
}

impl Verdict {
    pub const ALL: [Verdict; 6] = [
        Verdict::Core,
        Verdict::CoreTime,
        Verdict::Sim,
        Verdict::SimTime,
        Verdict::Missed,
        Verdict::Unreached,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Verdict::Core => "core",
            Verdict::CoreTime => "core-time",
            Verdict::Sim => "sim",
            Verdict::SimTime => "sim-time",
            Verdict::Missed => "missed",
            Verdict::Unreached => "unreached",
        }
    }

    pub fn parse(word: &str) -> Option<Verdict> {
        Verdict::ALL
            .into_iter()
            .find(|verdict| verdict.word() == word)
    }

    pub fn is_caught(self) -> bool {
        !matches!(self, Verdict::Missed | Verdict::Unreached)
    }
}

/// Something that can fail.
#[derive(Debug)]
struct Check {
    program: PathBuf,
    args: Vec<String>,
    /// Of the simulator.
    is_sim: bool,
    seconds: f64,
    reaches: HashSet<u32>,
}

/// All checks, the quickest first; those of the simulator behind the core's.
#[derive(Debug)]
pub struct Checks {
    checks: Vec<Check>,
    folder: PathBuf,
}

/// How a run of a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    Badly,
    TooLong,
}

impl Checks {
    /// Finds all checks and runs each of them without a change. `folder`: where tests are run.
    pub fn record(built: &Built, folder: &Path, notes: &Path, jobs: usize) -> Result<Checks> {
        let mut checks = Vec::new();
        for program in &built.tests {
            for name in tests(program, folder)? {
                let args = vec!["--exact".to_owned(), name, "--test-threads=1".to_owned()];
                checks.push(Check::new(program, args, false));
            }
        }
        let count = checks.len();
        for args in CAMPAIGNS {
            let args = args.iter().map(|&word| word.to_owned()).collect();
            checks.push(Check::new(&built.sim, args, true));
        }
        fs::create_dir_all(notes)?;
        let recorded = Mutex::new(Vec::new());
        let broken = Mutex::new(Vec::new());
        let shared = Mutex::new(checks.into_iter().enumerate());
        parallel(jobs, || {
            let next = || shared.lock().expect("nobody panicked").next();
            while let Some((index, mut check)) = next() {
                let note = notes.join(format!("reached-{index}"));
                match check.record(folder, &note) {
                    Ok(()) => recorded.lock().expect("nobody panicked").push(check),
                    Err(error) => broken.lock().expect("nobody panicked").push(error),
                }
            }
        });
        let broken = broken.into_inner().expect("nobody panicked");
        ensure!(broken.is_empty(), "without any change: {broken:?}");
        let mut checks = recorded.into_inner().expect("nobody panicked");
        checks.sort_by(|a, b| {
            let order = a.is_sim.cmp(&b.is_sim);
            order.then(a.seconds.total_cmp(&b.seconds))
        });
        let seconds: f64 = checks.iter().map(|check| check.seconds).sum();
        println!(
            "{count} tests and {} campaigns, {seconds:.0} s",
            CAMPAIGNS.len()
        );
        let folder = folder.to_owned();
        Ok(Checks { checks, folder })
    }

    /// Runs what reaches a change until something fails. Also says what that was.
    pub fn judge(&self, mutant: u32) -> Result<(Verdict, String)> {
        let mut verdict = Verdict::Unreached;
        for check in &self.checks {
            if !check.reaches.contains(&mutant) {
                continue;
            }
            verdict = Verdict::Missed;
            let found = match (check.run(&self.folder, mutant)?, check.is_sim) {
                (Ended::Well, _) => continue,
                (Ended::Badly, false) => Verdict::Core,
                (Ended::TooLong, false) => Verdict::CoreTime,
                (Ended::Badly, true) => Verdict::Sim,
                (Ended::TooLong, true) => Verdict::SimTime,
            };
            return Ok((found, check.args.join(" ")));
        }
        Ok((verdict, "-".to_owned()))
    }
}

impl Check {
    fn new(program: &Path, args: Vec<String>, is_sim: bool) -> Check {
        Check {
            program: program.to_owned(),
            args,
            is_sim,
            seconds: 0.0,
            reaches: HashSet::new(),
        }
    }

    /// The program, with an end to its memory and time.
    fn command(&self, folder: &Path, seconds: u64) -> Command {
        let mut command = Command::new("sh");
        let limits = format!("ulimit -v {MEMORY_KIB_MAX}; ulimit -c 0; ulimit -t {seconds}");
        command
            .arg("-c")
            .arg(format!("{limits}; exec \"$0\" \"$@\""));
        command.arg(&self.program).args(&self.args);
        command.current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        // A failing case need not be made small, nor kept.
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0");
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
        command.env("RUST_BACKTRACE", "0");
        command
    }

    fn record(&mut self, folder: &Path, note: &Path) -> Result<()> {
        drop(fs::remove_file(note));
        let mut command = self.command(folder, STUCK.as_secs());
        command.env("UMD_MUTANT", "record");
        command.env("UMD_MUTANT_REACHED", note);
        let began = Instant::now();
        let ended = wait(command)?;
        self.seconds = began.elapsed().as_secs_f64();
        ensure!(ended == Ended::Well, "{:?} fails", self.args);
        let reached = fs::read_to_string(note).unwrap_or_default();
        let numbers = reached.lines().map(str::parse);
        self.reaches = numbers.collect::<Result<_, _>>().context("a number")?;
        Ok(())
    }

    fn run(&self, folder: &Path, mutant: u32) -> Result<Ended> {
        let seconds = (self.seconds * SLOWER_MAX).ceil() as u64;
        let mut command = self.command(folder, seconds.max(SECONDS_MIN));
        command.env("UMD_MUTANT", mutant.to_string());
        wait(command)
    }
}

/// The tests in a program, without those that are only run when asked for.
fn tests(program: &Path, folder: &Path) -> Result<Vec<String>> {
    let list = |more: &[&str]| -> Result<Vec<String>> {
        let mut command = Command::new(program);
        command.args(["--list", "--format", "terse"]).args(more);
        let output = command.current_dir(folder).output().context("no tests")?;
        let text = String::from_utf8(output.stdout)?;
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.map(str::to_owned).collect())
    };
    let ignored: HashSet<String> = list(&["--ignored"])?.into_iter().collect();
    let mut all = list(&[])?;
    all.retain(|name| !ignored.contains(name));
    Ok(all)
}

/// What a process killed for its time ends with.
fn out_of_time(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    // SIGXCPU and SIGKILL: the soft limit and the hard one.
    matches!(status.signal(), Some(24 | 9))
}

fn wait(mut command: Command) -> Result<Ended> {
    let mut child = command.spawn().context("cannot run a check")?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(match status.success() {
                true => Ended::Well,
                false if out_of_time(status) => Ended::TooLong,
                false => Ended::Badly,
            });
        }
        if began.elapsed() > STUCK {
            child.kill()?;
            child.wait()?;
            return Ok(Ended::TooLong);
        }
        thread::sleep(POLL);
    }
}

fn parallel(jobs: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(&work);
        }
    });
}

/// Judges all, several at a time; `keep` is told each verdict as it is found.
pub fn judge_all(
    checks: &Checks,
    numbers: &[u32],
    jobs: usize,
    keep: impl Fn(u32, Verdict, &str) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(BTreeMap::new());
    parallel(jobs, || {
        while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let judged = checks.judge(number);
            let kept = judged.and_then(|(verdict, by)| keep(number, verdict, &by));
            if let Err(error) = kept {
                errors
                    .lock()
                    .expect("nobody panicked")
                    .insert(number, error);
                break;
            }
        }
    });
    let errors = errors.into_inner().expect("nobody panicked");
    match errors.into_values().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
