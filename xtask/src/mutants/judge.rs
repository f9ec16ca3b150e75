//! Does anything notice a change?
//!
//! ```text
//!   no change is on  -> each check alone: its time, and the changes that it reaches
//!   one change is on -> the quick checks that reach it, until one fails: caught
//!                       none fails: in doubt -> the slow ones, until one fails: caught
//!                                               none fails: missed
//! ```
//!
//! A check is a test of umd-core, or some seeds of the simulator. One that takes far more
//! processor time or memory than it should has failed too.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
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
/// Tests that take more seconds of processor are left for what other checks have not noticed.
const QUICK_SECONDS: f64 = 0.15;
/// Seconds of processor that a test may take at least, and how many times its own.
const SECONDS_MIN: u64 = 5;
const SLOWER_MAX: f64 = 5.0;
/// Nothing waits for a clock in these tests, so who takes this long is stuck.
const STUCK: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(1);
/// Sets of arguments of the simulator, and which of them are quick for what they find.
const CAMPAIGNS: [(&[&str], bool); 6] = [
    (
        &["--seeds", "15", "--start", "7000000", "--show", "0"],
        true,
    ),
    (
        &["--seeds", "85", "--start", "7000015", "--show", "0"],
        true,
    ),
    (
        &[
            "--levels", "--seeds", "50", "--start", "7000000", "--show", "0",
        ],
        true,
    ),
    (&["--exhaustive", "--ops", "2"], false),
    (
        &[
            "--levels", "--seeds", "250", "--start", "7000050", "--show", "0",
        ],
        false,
    ),
    (
        &["--seeds", "200", "--start", "7000100", "--show", "0"],
        false,
    ),
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
    /// No quick check failed; the others have not been asked.
    Doubt,
    /// Nothing failed.
    Missed,
    /// Nothing so much as reached it.
    Unreached,
}

impl Verdict {
    pub const ALL: [Verdict; 7] = [
        Verdict::Core,
        Verdict::CoreTime,
        Verdict::Sim,
        Verdict::SimTime,
        Verdict::Doubt,
        Verdict::Missed,
        Verdict::Unreached,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Verdict::Core => "core",
            Verdict::CoreTime => "core-time",
            Verdict::Sim => "sim",
            Verdict::SimTime => "sim-time",
            Verdict::Doubt => "doubt",
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
        !matches!(self, Verdict::Doubt | Verdict::Missed | Verdict::Unreached)
    }
}

/// Something that can fail.
#[derive(Debug)]
struct Check {
    program: PathBuf,
    args: Vec<String>,
    /// Of the simulator.
    is_sim: bool,
    quick: bool,
    seconds: f64,
    reaches: HashSet<u32>,
}

/// All checks, the quickest first.
#[derive(Debug)]
pub struct Checks {
    checks: Vec<Check>,
    folder: PathBuf,
    /// A slow one that takes more seconds is not asked.
    longest: f64,
}

/// How a run of a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    Badly,
    TooLong,
}

impl Checks {
    /// Finds all checks and runs each of them without a change, unless that was done in this
    /// `state` before. `folder`: where tests are run.
    pub fn record(
        built: &Built,
        folder: &Path,
        notes: &Path,
        state: &str,
        jobs: usize,
    ) -> Result<Checks> {
        let mut checks = Vec::new();
        for program in &built.tests {
            for name in tests(program, folder)? {
                let args = vec!["--exact".to_owned(), name, "--test-threads=1".to_owned()];
                checks.push(Check::new(program, args, false, false));
            }
        }
        let count = checks.len();
        for (args, quick) in CAMPAIGNS {
            let args = args.iter().map(|&word| word.to_owned()).collect();
            checks.push(Check::new(&built.sim, args, true, quick));
        }
        fs::create_dir_all(notes)?;
        let recorded = Mutex::new(Vec::new());
        let broken = Mutex::new(Vec::new());
        let shared = Mutex::new(checks.into_iter());
        parallel(jobs, || {
            let next = || shared.lock().expect("nobody panicked").next();
            while let Some(mut check) = next() {
                let mut hasher = DefaultHasher::new();
                (state, &check.program, &check.args).hash(&mut hasher);
                let note = notes.join(format!("{:016x}", hasher.finish()));
                match check.record(folder, &note) {
                    Ok(()) => recorded.lock().expect("nobody panicked").push(check),
                    Err(error) => broken.lock().expect("nobody panicked").push(error),
                }
            }
        });
        let broken = broken.into_inner().expect("nobody panicked");
        ensure!(broken.is_empty(), "without any change: {broken:?}");
        let mut checks = recorded.into_inner().expect("nobody panicked");
        checks.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let seconds: f64 = checks.iter().map(|check| check.seconds).sum();
        println!(
            "{count} tests and {} campaigns, {seconds:.0} s",
            CAMPAIGNS.len()
        );
        let folder = folder.to_owned();
        Ok(Checks {
            checks,
            folder,
            longest: f64::INFINITY,
        })
    }

    /// Without slow checks that take more seconds than this: what the others do not notice stays in
    /// doubt.
    pub fn no_longer_than(&mut self, seconds: f64) {
        self.longest = seconds;
    }

    /// Runs the quick or the slow checks that reach a change, until one fails. Also says which.
    pub fn judge(&self, mutant: u32, quick: bool) -> Result<(Verdict, String)> {
        let reach = |check: &&Check| check.reaches.contains(&mutant);
        let mut all_asked = true;
        for check in self.checks.iter().filter(reach) {
            if check.quick != quick {
                continue;
            }
            if !quick && check.seconds > self.longest {
                all_asked = false;
                continue;
            }
            let found = match (check.run(&self.folder, mutant)?, check.is_sim) {
                (Ended::Well, _) => continue,
                (Ended::Badly, false) => Verdict::Core,
                (Ended::TooLong, false) => Verdict::CoreTime,
                (Ended::Badly, true) => Verdict::Sim,
                (Ended::TooLong, true) => Verdict::SimTime,
            };
            return Ok((found, check.args.join(" ")));
        }
        let verdict = match self.checks.iter().find(reach) {
            None => Verdict::Unreached,
            Some(_) if quick || !all_asked => Verdict::Doubt,
            Some(_) => Verdict::Missed,
        };
        Ok((verdict, "-".to_owned()))
    }
}

impl Check {
    fn new(program: &Path, args: Vec<String>, is_sim: bool, quick: bool) -> Check {
        Check {
            program: program.to_owned(),
            args,
            is_sim,
            quick,
            seconds: 0.0,
            reaches: HashSet::new(),
        }
    }

    /// The program, with an end to its memory and time; `then` is what the shell does behind it.
    fn command(&self, folder: &Path, seconds: u64, then: &str) -> Command {
        let mut command = Command::new("sh");
        let limits = format!("ulimit -v {MEMORY_KIB_MAX}; ulimit -c 0; ulimit -t {seconds}");
        let run = match then {
            "" => "exec \"$0\" \"$@\"",
            _ => "\"$0\" \"$@\" > /dev/null || exit 1;",
        };
        command.arg("-c").arg(format!("{limits}; {run} {then}"));
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
        if self.recall(note)? {
            return Ok(());
        }
        let (reached, times) = (note.with_extension("reached"), note.with_extension("new"));
        drop(fs::remove_file(&reached));
        let mut command = self.command(folder, STUCK.as_secs(), "times");
        command.env("UMD_MUTANT", "record");
        command.env("UMD_MUTANT_REACHED", &reached);
        let output = command.stdout(Stdio::piped()).output()?;
        ensure!(output.status.success(), "{:?} fails", self.args);
        let seconds = processor_seconds(&String::from_utf8(output.stdout)?)?;
        let numbers = fs::read_to_string(&reached).unwrap_or_default();
        fs::write(&times, format!("{seconds}\n{numbers}"))?;
        fs::rename(&times, note)?;
        drop(fs::remove_file(&reached));
        ensure!(self.recall(note)?, "it was recorded");
        Ok(())
    }

    /// Reads what was recorded: seconds, and the numbers of changes.
    fn recall(&mut self, note: &Path) -> Result<bool> {
        let Ok(text) = fs::read_to_string(note) else {
            return Ok(false);
        };
        let (seconds, numbers) = text.split_once('\n').context("seconds")?;
        self.seconds = seconds.parse()?;
        self.quick |= !self.is_sim && self.seconds <= QUICK_SECONDS;
        let numbers = numbers.lines().map(str::parse);
        self.reaches = numbers.collect::<Result<_, _>>().context("a number")?;
        Ok(true)
    }

    fn run(&self, folder: &Path, mutant: u32) -> Result<Ended> {
        let seconds = (self.seconds * SLOWER_MAX).ceil() as u64;
        let mut command = self.command(folder, seconds.max(SECONDS_MIN), "");
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

/// User and system time of what a shell has run, from what its `times` says: `0m1.20s 0m0.04s`.
fn processor_seconds(times: &str) -> Result<f64> {
    let children = times.lines().nth(1).context("times of children")?;
    let mut seconds = 0.0;
    for time in children.split_whitespace() {
        let parts = time.strip_suffix('s').and_then(|time| time.split_once('m'));
        let (minutes, rest) = parts.context("minutes and seconds")?;
        seconds += minutes.parse::<f64>()? * 60.0 + rest.parse::<f64>()?;
    }
    Ok(seconds)
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

/// Judges all by the quick or the slow checks, several at a time; `keep` is told each verdict as
/// it is found.
pub fn judge_all(
    checks: &Checks,
    numbers: &[u32],
    quick: bool,
    jobs: usize,
    keep: impl Fn(u32, Verdict, &str) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(BTreeMap::new());
    parallel(jobs, || {
        while let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let judged = checks.judge(number, quick);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_children() {
        let times = "0m9.00s 0m9.00s\n1m2.500s 0m0.250s\n";
        assert!((processor_seconds(times).unwrap() - 62.75).abs() < 1e-9);
        assert!(processor_seconds("").is_err());
    }
}
