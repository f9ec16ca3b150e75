//! `cargo xtask test` and the tasks that are parts of it.
//!
//! ```text
//!   oracle  ->  build and lint  ->  unit and simulation  ->  interop  ->  kills  ->  documents
//! ```
//!
//! Every stage runs even when an earlier one failed, so that one run tells all. A stage has a
//! budget; the table at the end shows where the hour went.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{oracle, tidy, workspace};

/// Seeds the simulator runs in CI.
const SEEDS: &str = "2000";

const LINT: Stage = Stage {
    name: "build and lint",
    minutes: 20,
};
const UNIT: Stage = Stage {
    name: "unit and simulation",
    minutes: 12,
};
const INTEROP: Stage = Stage {
    name: "interop",
    minutes: 10,
};
const KILLS: Stage = Stage {
    name: "kills",
    minutes: 6,
};
const REST: Stage = Stage {
    name: "the rest",
    minutes: 10,
};

/// A part of the run with its share of the hour.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stage {
    name: &'static str,
    minutes: u64,
}

/// Counts and times of a run.
#[derive(Default)]
struct Run {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
    times: Vec<(&'static str, String, Duration)>,
}

/// `cargo xtask test`.
pub fn test() -> Result<()> {
    let mut run = Run::default();
    run.function(REST, "oracle", || oracle::ensure(false).map(drop));
    lint(&mut run)?;
    unit(&mut run)?;
    interop_tests(&mut run, false)?;
    kill_tests(&mut run, false)?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run.command(REST, "documents", doc);
    run.end(true)
}

/// `cargo xtask interop`.
pub fn interop(full: bool) -> Result<()> {
    let mut run = Run::default();
    run.function(REST, "oracle", || oracle::ensure(false).map(drop));
    run.command(LINT, "release build of umd", release_build());
    interop_tests(&mut run, full)?;
    run.end(false)
}

/// `cargo xtask kills`.
pub fn kills(full: bool) -> Result<()> {
    let mut run = Run::default();
    run.command(LINT, "release build of umd", release_build());
    kill_tests(&mut run, full)?;
    run.end(false)
}

/// `cargo xtask sim`: passes the arguments through.
pub fn sim(args: &[&str]) -> Result<()> {
    let mut all = vec!["run", "--quiet", "--release", "--package", "umd-sim", "--"];
    all.extend(args);
    succeed(cargo(&all))
}

/// `cargo xtask bench`.
pub fn bench(quick: bool) -> Result<()> {
    oracle::ensure(false)?;
    succeed(release_build())?;
    let mut args = vec![
        "run",
        "--quiet",
        "--release",
        "--package",
        "umd-interop",
        "--bin",
    ];
    args.push("umd-bench");
    if quick {
        args.extend(["--", "--quick"]);
    }
    succeed(cargo(&args))
}

fn lint(run: &mut Run) -> Result<()> {
    run.command(LINT, "format", cargo(&["fmt", "--all", "--check"]));
    run.function(LINT, "tidy", tidy::run);
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    run.command(LINT, "clippy", cargo(&clippy));
    if has_cargo_deny() {
        run.command(LINT, "licences and advisories", cargo(&["deny", "check"]));
    } else {
        println!("\n*** SKIPPED licences and advisories: cargo-deny is not installed\n");
    }
    run.command(LINT, "release build of umd", release_build());
    let tests = ["test", "--workspace", "--no-run", "--quiet"];
    run.command(LINT, "build of the tests", cargo(&tests));
    Ok(())
}

fn unit(run: &mut Run) -> Result<()> {
    let workspace = [
        "test",
        "--workspace",
        "--exclude",
        "umd-interop",
        "--no-fail-fast",
    ];
    run.tests(UNIT, "unit tests", cargo(&workspace))?;
    run.tests(
        UNIT,
        "unit tests of the harness",
        cargo(&["test", "-p", "umd-interop", "--lib"]),
    )?;
    let sim = workspace::root().join("crates/umd-sim/src");
    if sim.join("main.rs").is_file() || sim.join("bin").is_dir() {
        let args = [
            "run",
            "--quiet",
            "--release",
            "-p",
            "umd-sim",
            "--",
            "--seeds",
            SEEDS,
        ];
        run.command(UNIT, "simulation", cargo(&args));
    } else {
        println!("\n*** SKIPPED simulation: umd-sim has no program yet\n");
    }
    Ok(())
}

fn interop_tests(run: &mut Run, full: bool) -> Result<()> {
    let names = test_names("umd-interop", |name| name != "kills")?;
    targets(
        run,
        INTEROP,
        "kernel, mdadm and NBD clients",
        "umd-interop",
        &names,
        full,
    )
}

fn kill_tests(run: &mut Run, full: bool) -> Result<()> {
    let names = test_names("umd-interop", |name| name == "kills")?;
    targets(run, KILLS, "kills under load", "umd-interop", &names, full)
}

fn targets(
    run: &mut Run,
    stage: Stage,
    name: &str,
    package: &str,
    targets: &[String],
    full: bool,
) -> Result<()> {
    if targets.is_empty() {
        println!("\n*** SKIPPED {name}: there are no such tests yet\n");
        return Ok(());
    }
    let mut args = vec!["test", "--package", package, "--no-fail-fast"];
    for target in targets {
        args.extend(["--test", target]);
    }
    let mut command = cargo(&args);
    if full {
        command.env("UMD_FULL", "1");
    }
    run.tests(stage, name, command)
}

/// The integration tests of a crate.
fn test_names(package: &str, keep: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let folder = workspace::root().join("crates").join(package).join("tests");
    let mut names = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("no {}", folder.display()))?
    {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        let Some(name) = name.filter(|_| path.extension().is_some_and(|ext| ext == "rs")) else {
            continue;
        };
        if keep(name) {
            names.push(name.to_string());
        }
    }
    names.sort();
    Ok(names)
}

fn release_build() -> Command {
    cargo(&["build", "--release", "--quiet", "--package", "umd"])
}

fn has_cargo_deny() -> bool {
    let mut probe = Command::new(cargo_path());
    probe
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn cargo_path() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A cargo command in the workspace, knowing where the oracles and the release binary are.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(workspace::root()).args(args);
    command.env("UMD_ORACLE_DIR", workspace::oracle());
    command.env("UMD_BIN", binary(&workspace::target()));
    // Errors of the tests say what happened; where they were made is noise in a long log.
    command.env("RUST_LIB_BACKTRACE", "0");
    command
}

fn binary(target: &Path) -> std::path::PathBuf {
    target.join("release").join("umd")
}

fn succeed(mut command: Command) -> Result<()> {
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("ended with {status}");
    }
    Ok(())
}

impl Run {
    fn begin(name: &str) -> Instant {
        println!("\n=== {name}");
        Instant::now()
    }

    fn note(&mut self, stage: Stage, name: &str, start: Instant, result: Result<()>) {
        self.times.push((stage.name, name.into(), start.elapsed()));
        match result {
            Ok(()) => println!("--- {name}: {}", clock(start.elapsed())),
            Err(error) => {
                println!("--- {name}: FAILED, {error:#}");
                self.failures.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// A step that passes or fails as one.
    fn function(&mut self, stage: Stage, name: &str, step: impl FnOnce() -> Result<()>) {
        let start = Run::begin(name);
        let result = step();
        match result {
            Ok(()) => self.passed += 1,
            Err(_) => self.failed += 1,
        }
        self.note(stage, name, start, result);
    }

    fn command(&mut self, stage: Stage, name: &str, command: Command) {
        self.function(stage, name, || succeed(command));
    }

    /// Runs `cargo test` and adds up what its programs report.
    fn tests(&mut self, stage: Stage, name: &str, mut command: Command) -> Result<()> {
        let start = Run::begin(name);
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run cargo")?;
        let stdout = child.stdout.take().expect("piped above");
        let (mut passed, mut failed) = (0, 0);
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            if let Some((p, f)) = test_result(&line) {
                passed += p;
                failed += f;
            }
        }
        let status = child.wait()?;
        let result = match (status.success(), failed) {
            (true, 0) => Ok(()),
            (_, 0) => Err(anyhow::anyhow!("cargo test ended with {status}")),
            _ => Err(anyhow::anyhow!("{failed} tests failed")),
        };
        // A test program that did not compile or died reports no count.
        self.failed += if result.is_err() { failed.max(1) } else { 0 };
        self.passed += passed;
        self.note(stage, name, start, result);
        Ok(())
    }

    /// Prints the table and the sum; an error if anything failed.
    fn end(&self, budgets: bool) -> Result<()> {
        print!("\n{}", self.table(budgets));
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        println!("\n{} passed, {} failed", self.passed, self.failed);
        std::io::stdout().flush()?;
        if self.failed > 0 {
            std::process::exit(1);
        }
        Ok(())
    }

    fn table(&self, budgets: bool) -> String {
        let mut text = String::new();
        let mut total = Duration::ZERO;
        for stage in [LINT, UNIT, INTEROP, KILLS, REST] {
            let steps = self.times.iter().filter(|(of, ..)| *of == stage.name);
            let sum: Duration = steps.clone().map(|(.., time)| *time).sum();
            total += sum;
            if !budgets && sum.is_zero() {
                continue;
            }
            let budget = Duration::from_secs(stage.minutes * 60);
            let verdict = if sum > budget {
                "  OVER ITS BUDGET"
            } else {
                ""
            };
            text.push_str(&format!(
                "{:<34} {:>6} of {:>6}{verdict}\n",
                stage.name,
                clock(sum),
                clock(budget)
            ));
            for (_, name, time) in steps {
                text.push_str(&format!("    {name:<30} {:>6}\n", clock(*time)));
            }
        }
        text.push_str(&format!("{:<34} {:>6}\n", "total", clock(total)));
        text
    }
}

/// `3:07`.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

/// The counts in a line `test result: ok. 4 passed; 0 failed; ...`.
fn test_result(line: &str) -> Option<(u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| -> Option<u64> {
        let part = counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_test_programs() {
        let line = "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(test_result(line), Some((4, 0)));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored";
        assert_eq!(test_result(line), Some((1, 2)));
        assert_eq!(test_result("test a ... ok"), None);
    }

    #[test]
    fn a_test_program_that_dies_counts_as_a_failure() {
        let mut run = Run::default();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'test result: ok. 3 passed; 0 failed; 0 ignored'; exit 101",
        ]);
        run.tests(UNIT, "dies", command).unwrap();
        assert_eq!((run.passed, run.failed), (3, 1));
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo 'test result: FAILED. 3 passed; 2 failed; 0 ignored'; exit 101",
        ]);
        run.tests(UNIT, "fails", command).unwrap();
        assert_eq!((run.passed, run.failed), (6, 3));
    }

    #[test]
    fn the_table_shows_stages_over_their_budget() {
        let mut run = Run::default();
        run.times
            .push((KILLS.name, "kills".into(), Duration::from_secs(361)));
        let table = run.table(true);
        assert!(table.contains("6:01 of   6:00  OVER ITS BUDGET"), "{table}");
        assert_eq!(table.matches("OVER").count(), 1);
    }
}
