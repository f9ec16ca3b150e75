//! `cargo xtask test` and the tasks that are parts of it.
//!
//! ```text
//!   oracle -> build and lint -> unit and simulation -> museum -> interop -> kills -> documents
//! ```
//!
//! Every stage runs even when an earlier one failed, so that one run tells all. A stage has a
//! budget; the table at the end shows where the hour went.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::programs::{Program, Programs};
use crate::suites::{self, Outcome};
use crate::{counts, oracle, tidy, workspace};

const INTEROP_CRATE: &str = "umd-interop";
/// What every program with an exhibit in it carries: `umd_core::value::MARKER`.
const EXHIBIT_MARKER: &str = "umd museum: a historical mistake is switched on";
/// Seeds the simulator runs in CI.
const SEEDS: &str = "2000";
/// Seeds of clusters it runs there.
const CLUSTER_SEEDS: &str = "2000";

const LINT: Stage = Stage {
    name: "build and lint",
    minutes: 14,
};
const UNIT: Stage = Stage {
    name: "unit and simulation",
    minutes: 12,
};
const MUSEUM: Stage = Stage {
    name: "museum",
    minutes: 2,
};
const INTEROP: Stage = Stage {
    name: "interop",
    minutes: 18,
};
const KILLS: Stage = Stage {
    name: "kills",
    minutes: 4,
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
    /// Tests that failed among others and passed alone.
    unsteady: Vec<String>,
    times: Vec<(&'static str, String, Duration)>,
}

/// `cargo xtask test`.
pub fn test() -> Result<()> {
    let mut run = Run::default();
    run.function(REST, "oracle", || oracle::ensure(false).map(drop));
    lint(&mut run);
    let programs = build(&mut run);
    unit(&mut run, &programs)?;
    museum(&mut run, &programs)?;
    interop_tests(&mut run, &programs, false)?;
    kill_tests(&mut run, &programs, false)?;
    wiring(&mut run)?;
    run.function(REST, "instructions for each request", || count(false));
    let doc_tests = ["test", "--workspace", "--doc", "--no-fail-fast"];
    run.tests(REST, "examples in the documents", cargo(&doc_tests))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run.command(REST, "documents", doc);
    run.end(true)
}

/// `cargo xtask interop`.
pub fn interop(full: bool) -> Result<()> {
    let mut run = Run::default();
    run.function(REST, "oracle", || oracle::ensure(false).map(drop));
    let programs = build(&mut run);
    interop_tests(&mut run, &programs, full)?;
    run.end(false)
}

/// `cargo xtask kills`.
pub fn kills(full: bool) -> Result<()> {
    let mut run = Run::default();
    run.function(REST, "oracle", || oracle::ensure(false).map(drop));
    let programs = build(&mut run);
    kill_tests(&mut run, &programs, full)?;
    run.end(false)
}

/// `cargo xtask sim`: passes the arguments through.
pub fn sim(args: &[&str]) -> Result<()> {
    let mut all = vec!["run", "--quiet", "--release", "--package", "umd-sim"];
    if args.first() == Some(&"--museum") {
        all.extend(["--features", "museum"]);
    }
    all.push("--");
    all.extend(args);
    succeed(cargo(&all))
}

/// `cargo xtask counts`.
pub fn counts(record: bool) -> Result<()> {
    oracle::ensure(false)?;
    count(record)
}

/// Builds what ships, and counts.
fn count(record: bool) -> Result<()> {
    let args = ["build", "--release", "--quiet", "--package", "umd-ram"];
    let mut command = cargo(&args);
    command.arg("--message-format=json-render-diagnostics");
    let (programs, result) = Programs::build(command);
    result?;
    let program = programs.find("umd-counts");
    counts::run(program.context("there is no umd-counts")?, record)
}

/// `cargo xtask bench`.
pub fn bench(quick: bool) -> Result<()> {
    ram_plane(quick)?;
    parity_kernels()?;
    kernel_md(quick)?;
    succeed(cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "umd",
    ]))?;
    let package = ["--package", "umd-interop", "--bin", "umd-bench"];
    let mut args = vec!["run", "--quiet", "--release"];
    args.extend(package);
    if quick {
        args.extend(["--", "--quick"]);
    }
    let mut command = cargo(&args);
    command.env("UMD_BIN", workspace::target().join("release").join("umd"));
    succeed(command)
}

/// The engine over members in memory: its part of the page. `cargo xtask bench --ram` is this only.
pub fn ram_plane(quick: bool) -> Result<()> {
    let mut args = vec!["run", "--quiet", "--release", "--package", "umd-ram"];
    args.extend(["--bin", "umd-ram-bench"]);
    args.extend(quick.then_some(["--", "--quick"]).into_iter().flatten());
    onto_page("ram", &oracle::text(&mut cargo(&args))?)
}

/// Parity beside ISA-L: its part of the page. `cargo xtask bench --parity` is this only.
pub fn parity_kernels() -> Result<()> {
    oracle::ensure(false)?;
    let args = [
        "bench",
        "--quiet",
        "--package",
        "umd-parity",
        "--bench",
        "peers",
    ];
    let mut command = cargo(&args);
    command.env("UMD_ORACLE_DIR", workspace::oracle());
    onto_page("parity", &oracle::text(&mut command)?)
}

/// Kernel md over disks in memory: its part of the page. `cargo xtask bench --kernel` is this only.
pub fn kernel_md(quick: bool) -> Result<()> {
    oracle::ensure(false)?;
    let mut args = vec!["run", "--quiet", "--release", "--package", "umd-interop"];
    args.extend(["--bin", "umd-kernel-bench"]);
    args.extend(quick.then_some(["--", "--quick"]).into_iter().flatten());
    let mut command = cargo(&args);
    command.env("UMD_ORACLE_DIR", workspace::oracle());
    onto_page("kernel", &oracle::text(&mut command)?)
}

/// Prints a text, and puts it on the page of performance between the marks of this part.
fn onto_page(part: &str, text: &str) -> Result<()> {
    println!("{text}");
    let path = workspace::root().join("docs/performance.md");
    let page = std::fs::read_to_string(&path).context("cannot read the page")?;
    let page = between_marks(&page, part, text)?;
    std::fs::write(&path, page).context("cannot write the page")
}

/// The page with this text between the marks of a part.
fn between_marks(page: &str, part: &str, text: &str) -> Result<String> {
    let marks = ["begin", "end"].map(|side| format!("<!-- {part}: {side} -->"));
    let (before, rest) = page.split_once(&marks[0]).context("the page lost a mark")?;
    let (_, after) = rest.split_once(&marks[1]).context("the page lost a mark")?;
    Ok(format!("{before}{}\n{text}{}{after}", marks[0], marks[1]))
}

fn lint(run: &mut Run) {
    run.command(LINT, "format", cargo(&["fmt", "--all", "--check"]));
    run.function(LINT, "tidy", tidy::run);
    let mut clippy = vec!["clippy", "--workspace", "--all-targets", "--quiet"];
    clippy.extend(["--keep-going", "--", "-D", "warnings"]);
    run.command(LINT, "clippy", cargo(&clippy));
    if has_cargo_deny() {
        run.command(LINT, "licences and advisories", cargo(&["deny", "check"]));
    } else {
        println!("\n*** SKIPPED licences and advisories: cargo-deny is not installed\n");
    }
}

/// Builds everything once. The tests that need a umd say so themselves when there is none.
fn build(run: &mut Run) -> Programs {
    let mut command = cargo(&["build", "--workspace", "--all-targets", "--keep-going"]);
    // For the tests of clusters.
    command.args(["--features", "umd/etcd"]);
    command.arg("--message-format=json-render-diagnostics");
    command.arg("--quiet");
    let mut programs = Programs::default();
    run.function(LINT, "build", || {
        let (built, result) = Programs::build(command);
        programs = built;
        result
    });
    programs
}

fn unit(run: &mut Run, programs: &Programs) -> Result<()> {
    let chosen = |test: &Program| test.package != INTEROP_CRATE || !test.integration;
    targets(run, UNIT, "unit tests", programs, chosen, false)?;
    match programs.find("umd-sim") {
        Some(path) => {
            let mut command = Command::new(path);
            command.args(["--seeds", SEEDS]);
            run.command(UNIT, "simulation", command);
            let mut command = Command::new(path);
            command.args(["--cluster", "--seeds", CLUSTER_SEEDS]);
            run.command(UNIT, "simulation of clusters", command);
        }
        None => println!("\n*** SKIPPED simulation: umd-sim has no program yet\n"),
    }
    Ok(())
}

/// Threads over the registry, in orders that the test chooses. A build of its own: with these locks
/// nothing else runs.
fn wiring(run: &mut Run) -> Result<()> {
    for (package, name) in [
        ("umd-cluster", "lock services in every order"),
        ("umd", "wiring in every order"),
    ] {
        let mut args = vec!["test", "--package", package, "--lib"];
        args.extend(["--features", "shuttle", "--", "shuttle_"]);
        run.tests(REST, name, cargo(&args))?;
    }
    Ok(())
}

/// Known mistakes are noticed, and are not in a program that ships. umd is looked at as the build
/// of the workspace left it: a feature that anything in the workspace asks for is in that one.
fn museum(run: &mut Run, programs: &Programs) -> Result<()> {
    run.function(MUSEUM, "no exhibit in umd", || {
        let umd = std::fs::read(programs.find("umd").context("there is no umd")?);
        carries_no_exhibit(&umd.context("cannot read umd")?)
    });
    let mut clippy = vec!["clippy", "--quiet", "--package", "umd-sim", "--all-targets"];
    clippy.extend(["--package", "umd-core", "--features", "umd-sim/museum"]);
    clippy.extend(["--", "-D", "warnings"]);
    run.command(
        MUSEUM,
        "clippy of what is in no other build",
        cargo(&clippy),
    );
    let mut args = vec!["test", "--quiet", "--package", "umd-sim"];
    args.extend(["--features", "museum", "--lib", "--", "museum"]);
    run.tests(MUSEUM, "known mistakes", cargo(&args))
}

/// Whether a program is without the museum's marker, which is still what it is called here.
fn carries_no_exhibit(program: &[u8]) -> Result<()> {
    let holds = |bytes: &[u8]| {
        let marker = EXHIBIT_MARKER.as_bytes();
        bytes.windows(marker.len()).any(|window| window == marker)
    };
    let switches = workspace::root().join("crates/umd-core/src/value/museum.rs");
    let switches = std::fs::read(switches).context("cannot read the switches")?;
    ensure!(holds(&switches), "the switches have another marker");
    ensure!(!holds(program), "it has exhibits of the museum in it");
    Ok(())
}

fn interop_tests(run: &mut Run, programs: &Programs, full: bool) -> Result<()> {
    let chosen = |test: &Program| is_interop(test) && test.name != "kills";
    let name = "kernel, mdadm and NBD clients";
    targets(run, INTEROP, name, programs, chosen, full)
}

fn kill_tests(run: &mut Run, programs: &Programs, full: bool) -> Result<()> {
    let chosen = |test: &Program| is_interop(test) && test.name == "kills";
    targets(run, KILLS, "kills under load", programs, chosen, full)
}

fn is_interop(test: &Program) -> bool {
    test.package == INTEROP_CRATE && test.integration
}

/// Runs the chosen programs one after the other.
fn targets(
    run: &mut Run,
    stage: Stage,
    name: &str,
    programs: &Programs,
    chosen: impl Fn(&Program) -> bool,
    full: bool,
) -> Result<()> {
    let chosen: Vec<&Program> = programs.tests.iter().filter(|test| chosen(test)).collect();
    let umd = programs.find("umd");
    run.all_tests(stage, name, chosen, |test| {
        let make = || {
            let mut command = test.command();
            hand_down(&mut command);
            command.envs(umd.map(|umd| ("UMD_BIN", umd)));
            command.envs(full.then_some(("UMD_FULL", "1")));
            command
        };
        let name = format!("{}/{}", test.package, test.name);
        println!("\n{name}");
        let outcome = match suites::is_outside(&test.package) {
            true => suites::twice(make)?,
            false => suites::once(make())?,
        };
        Ok((name, outcome))
    })
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

/// A cargo command in the workspace.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(workspace::root()).args(args);
    hand_down(&mut command);
    command
}

/// Tells a command where the oracles are.
fn hand_down(command: &mut Command) {
    command.env("UMD_ORACLE_DIR", workspace::oracle());
    command.env("UMD_NEWER_ORACLE_DIR", workspace::newer_oracle());
    // Errors of the tests say what happened; where they were made is noise in a long log.
    command.env("RUST_BACKTRACE", "0");
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

    /// Runs `cargo test`, or what answers like it.
    fn tests(&mut self, stage: Stage, name: &str, command: Command) -> Result<()> {
        self.all_tests(stage, name, vec![command], |command| {
            Ok((name.to_string(), suites::once(command)?))
        })
    }

    /// Runs programs made of tests as one step, and adds up what they report. None at all is a
    /// failure: something is wrong with the build.
    fn all_tests<T>(
        &mut self,
        stage: Stage,
        name: &str,
        programs: Vec<T>,
        mut each: impl FnMut(T) -> Result<(String, Outcome)>,
    ) -> Result<()> {
        let start = Run::begin(name);
        let mut wrong = Vec::new();
        if programs.is_empty() {
            self.failed += 1;
            wrong.push("there are no such tests".to_string());
        }
        for program in programs {
            let (program, outcome) = each(program)?;
            self.passed += outcome.passed;
            let unsteady = outcome.unsteady.iter();
            self.unsteady
                .extend(unsteady.map(|test| format!("{program} {test}")));
            if let Some(error) = outcome.error {
                // A test program that did not compile or died reports no count.
                self.failed += outcome.failed.max(1);
                wrong.push(format!("{program}: {error}"));
            }
        }
        let result = match wrong.is_empty() {
            true => Ok(()),
            false => Err(anyhow::anyhow!("{}", wrong.join("; "))),
        };
        self.note(stage, name, start, result);
        Ok(())
    }

    /// Prints the table and the sum; an error if anything failed.
    fn end(&self, budgets: bool) -> Result<()> {
        print!("\n{}", self.table(budgets));
        for test in &self.unsteady {
            println!("UNSTEADY {test}: failed among others, passed alone");
        }
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
        for stage in [LINT, UNIT, MUSEUM, INTEROP, KILLS, REST] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_takes_the_place_of_what_was() {
        let page = "a\n<!-- ram: begin -->\nold\n<!-- ram: end -->\nb\n";
        let new = between_marks(page, "ram", "new\n").unwrap();
        assert_eq!(new, page.replace("old", "new"));
        assert!(between_marks("no marks", "ram", "new").is_err());
    }

    #[test]
    fn an_exhibit_in_a_program_is_seen() {
        assert!(carries_no_exhibit(b"umd").is_ok());
        let program = format!("\x7fELF {EXHIBIT_MARKER}\0");
        assert!(carries_no_exhibit(program.as_bytes()).is_err());
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
            .push((KILLS.name, "kills".into(), Duration::from_secs(241)));
        let table = run.table(true);
        assert!(table.contains("4:01 of   4:00  OVER ITS BUDGET"), "{table}");
        assert_eq!(table.matches("OVER").count(), 1);
    }
}
