//! `cargo xtask mutants`: changes of umd-core that nothing notices.
//!
//! ```text
//!   list     cargo-mutants says what could be changed
//!   copy     all of it in one build, each change behind a number      (rewrite, mutagen)
//!   judge    each number in turn: does a test of the core fail, or a seed of the simulator?
//!   report   target/mutants/{results,missed,unjudged}.txt, and the score
//! ```
//!
//! A build for each of some thousand changes would take days. Changes are judged in an order that
//! mixes all of them, so that whatever has been judged when time is over is a fair sample. A run
//! that was ended goes on where it was. What was caught stays caught when tests change; what was
//! missed is judged again.

mod copy;
mod equivalent;
mod judge;
mod list;
mod museum;
mod report;
mod results;
mod rewrite;

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail, ensure};

use crate::workspace;
use copy::{Built, Copy};
use equivalent::Equivalent;
use judge::{Checks, judge_all};
use list::{Mutant, list};
use report::Report;
use results::Results;

const USAGE: &str = "usage: cargo xtask mutants [--jobs N] [--longest SECONDS] [--sample N \
                     [--skip N]] [--file GLOB]";
/// So many checks at once, unless something else is said.
const JOBS: usize = 2;

/// A command of cargo-mutants; what is changed stands in `.cargo/mutants.toml`.
fn cargo_mutants(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(["mutants", "--package", "umd-core"])
        .args(args);
    command.current_dir(workspace::root());
    command
}

#[derive(Debug)]
struct Args {
    /// Checks at once.
    jobs: usize,
    /// Seconds of the longest check that is asked.
    longest: Option<f64>,
    /// About so many, mixed.
    sample: Option<usize>,
    /// Behind so many of them.
    skip: usize,
    /// Only files that match.
    file: Option<String>,
}

fn parse(words: &[&str]) -> Result<Args> {
    let mut args = Args {
        jobs: JOBS,
        longest: None,
        sample: None,
        skip: 0,
        file: None,
    };
    let mut rest = words;
    loop {
        rest = match *rest {
            [] => return Ok(args),
            ["--sample", n, ref rest @ ..] => {
                args.sample = Some(n.parse()?);
                rest
            }
            ["--skip", n, ref rest @ ..] => {
                args.skip = n.parse()?;
                rest
            }
            ["--jobs", n, ref rest @ ..] => {
                args.jobs = n.parse()?;
                ensure!(args.jobs > 0, "--jobs: at least one");
                rest
            }
            ["--longest", seconds, ref rest @ ..] => {
                args.longest = Some(seconds.parse()?);
                rest
            }
            ["--file", glob, ref rest @ ..] => {
                args.file = Some(glob.to_owned());
                rest
            }
            _ => bail!(USAGE),
        };
    }
}

/// Runs the task.
pub fn run(words: &[&str]) -> Result<()> {
    let args = parse(words)?;
    if !is_there() {
        println!(
            "\n*** SKIPPED mutants: cargo-mutants is not installed (cargo install cargo-mutants)\n"
        );
        return Ok(());
    }
    let folder = workspace::target().join("mutants");
    fs::create_dir_all(&folder)?;
    let mutants = list(&[])?;
    let equivalent = Equivalent::load(&mutants)?;
    let mut wanted = wanted(&args, &mutants)?;
    let copy = Copy::make(&folder, &mutants)?;
    let built = build(&copy, &mutants, &folder)?;
    let mut hasher = DefaultHasher::new();
    for mutant in mutants.iter().filter(|m| built.placed.contains(&m.number)) {
        mutant.name.hash(&mut hasher);
    }
    let state = format!("{} of {:016x}", results::state()?, hasher.finish());
    let notes = folder.join("reached");
    let mut checks = Checks::record(&built, &copy.core(), &notes, &state, args.jobs)?;
    if let Some(seconds) = args.longest {
        checks.no_longer_than(seconds);
    }
    let results = Results::load(&folder.join("results.txt"))?;
    mix(&mut wanted);
    let (mut judged, unjudged): (Vec<&Mutant>, Vec<&Mutant>) = wanted
        .iter()
        .partition(|m| built.placed.contains(&m.number));
    judged.drain(..args.skip.min(judged.len()));
    if let Some(sample) = args.sample {
        judged.truncate(sample);
    }
    let name = |number: u32| mutants[number as usize - 1].name.as_str();
    for quick in [true, false] {
        let open: Vec<u32> = results.open(&judged, quick);
        let which = if quick { "quick" } else { "slow" };
        println!(
            "{} changes to judge by the {which} checks, {} open",
            judged.len(),
            open.len()
        );
        judge_all(&checks, &open, quick, args.jobs, |number, verdict, by| {
            results.keep(name(number), verdict, by)
        })?;
    }
    let verdicts = results.into_all();
    let report = Report::new(&judged, &unjudged, &verdicts, &equivalent);
    report.write(&folder)?;
    println!("{report}");
    report.fail_if_noticed()
}

/// Builds the copy; what does not compile is kept for the next time.
fn build(copy: &Copy, mutants: &[Mutant], folder: &Path) -> Result<Built> {
    let state = format!("code {:016x}", results::code()?);
    let path = folder.join("off.txt");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let known: HashSet<&str> = match text.split_once('\n') {
        Some((last, names)) if last == state => names.lines().collect(),
        _ => HashSet::new(),
    };
    let off = mutants
        .iter()
        .filter(|mutant| known.contains(mutant.name.as_str()));
    let built = copy.build(mutants, off.map(|mutant| mutant.number).collect())?;
    let off = mutants
        .iter()
        .filter(|mutant| built.off.contains(&mutant.number));
    let names: String = off.map(|mutant| format!("{}\n", mutant.name)).collect();
    fs::write(path, format!("{state}\n{names}"))?;
    Ok(built)
}

fn is_there() -> bool {
    let mut command = Command::new("cargo");
    command.args(["mutants", "--version"]).stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// The changes that are asked for.
fn wanted(args: &Args, all: &[Mutant]) -> Result<Vec<Mutant>> {
    let names: HashSet<String> = match &args.file {
        // With the configuration `--file` would add to what is named there.
        Some(glob) => list(&["--no-config", "--file", glob])?
            .into_iter()
            .map(|m| m.name)
            .collect(),
        None => all.iter().map(|mutant| mutant.name.clone()).collect(),
    };
    ensure!(!names.is_empty(), "no such changes");
    let chosen = all.iter().filter(|mutant| names.contains(&mutant.name));
    Ok(chosen.cloned().collect())
}

/// An order in which neighbours are far apart; the same as long as a change is there, so that what
/// was behind a sample still is when its tests are written and lines have moved.
fn mix(mutants: &mut [Mutant]) {
    mutants.sort_by_cached_key(|mutant| {
        let mut hasher = DefaultHasher::new();
        mutant.key.hash(&mut hasher);
        hasher.finish()
    });
}
