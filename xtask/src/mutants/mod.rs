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
//! mixes all of them, so that whatever has been judged when time is over is a fair sample.

mod copy;
mod judge;
mod list;
mod report;
mod rewrite;

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;
use copy::{Built, Copy};
use judge::{Checks, Verdict, judge_all};
use list::{Mutant, list};
use report::Report;

const JOBS: usize = 2;
/// What it depends on whether a change compiles.
const COMPILED: [&str; 3] = ["umd-core/src", "umd-format", "../xtask/src/mutants"];
/// What the result of a change depends on.
const SOURCES: [&str; 5] = [
    "umd-core",
    "umd-format",
    "umd-parity",
    "umd-sim",
    "../xtask/src/mutants",
];

/// A command of cargo-mutants; what is changed stands in `.cargo/mutants.toml`.
fn cargo_mutants(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(["mutants", "--package", "umd-core"])
        .args(args);
    command.current_dir(workspace::root());
    command
}

#[derive(Debug, Default)]
struct Args {
    /// About so many, mixed.
    sample: Option<usize>,
    /// Only files that match.
    file: Option<String>,
    /// Only those that the last run has missed.
    missed: bool,
}

fn parse(words: &[&str]) -> Result<Args> {
    let mut args = Args::default();
    let mut rest = words;
    loop {
        rest = match *rest {
            [] => return Ok(args),
            ["--missed", ref rest @ ..] => {
                args.missed = true;
                rest
            }
            ["--sample", n, ref rest @ ..] => {
                args.sample = Some(n.parse()?);
                rest
            }
            ["--file", glob, ref rest @ ..] => {
                args.file = Some(glob.to_owned());
                rest
            }
            _ => bail!("usage: cargo xtask mutants [--sample N] [--file GLOB] [--missed]"),
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
    let mut wanted = wanted(&args, &mutants, &folder)?;
    let copy = Copy::make(&folder, &mutants)?;
    let built = build(&copy, &mutants, &folder)?;
    let checks = Checks::record(&built, &copy.core(), &folder.join("reached"), JOBS)?;
    let results = Results::load(folder.join("results.txt"))?;
    mix(&mut wanted);
    let (mut judged, unjudged): (Vec<&Mutant>, Vec<&Mutant>) = wanted
        .iter()
        .partition(|m| built.placed.contains(&m.number));
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
        judge_all(&checks, &open, quick, JOBS, |number, verdict, by| {
            results.keep(name(number), verdict, by)
        })?;
    }
    let verdicts = results.into_all();
    let report = Report::new(&judged, &unjudged, &verdicts);
    report.write(&folder)?;
    println!("{report}");
    Ok(())
}

/// Builds the copy; what does not compile is kept for the next time.
fn build(copy: &Copy, mutants: &[Mutant], folder: &Path) -> Result<Built> {
    let state = format!("sources {:016x}", state(&COMPILED)?);
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
fn wanted(args: &Args, all: &[Mutant], folder: &Path) -> Result<Vec<Mutant>> {
    let mut names: HashSet<String> = match &args.file {
        Some(glob) => list(&["--file", glob])?
            .into_iter()
            .map(|m| m.name)
            .collect(),
        None => all.iter().map(|mutant| mutant.name.clone()).collect(),
    };
    if args.missed {
        let missed = fs::read_to_string(folder.join("missed.txt"));
        let missed = missed.context("nothing was judged yet")?;
        let missed: HashSet<&str> = missed.lines().collect();
        names.retain(|name| missed.contains(name.as_str()));
    }
    ensure!(!names.is_empty(), "no such changes");
    let chosen = all.iter().filter(|mutant| names.contains(&mutant.name));
    Ok(chosen.cloned().collect())
}

/// An order in which neighbours are far apart; always the same.
fn mix(mutants: &mut [Mutant]) {
    mutants.sort_by_cached_key(|mutant| {
        let mut hasher = DefaultHasher::new();
        mutant.name.hash(&mut hasher);
        hasher.finish()
    });
}

/// What was found out, line by line, so that a run that was ended can go on.
#[derive(Debug)]
struct Results {
    found: Mutex<(BTreeMap<String, Verdict>, fs::File)>,
}

impl Results {
    /// Results of other sources are forgotten.
    fn load(path: PathBuf) -> Result<Results> {
        let state = format!("sources {:016x}", state(&SOURCES)?);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.lines();
        if lines.next() != Some(state.as_str()) {
            fs::write(&path, format!("{state}\n"))?;
            lines = "".lines();
        }
        let mut known = BTreeMap::new();
        for line in lines {
            let mut words = line.split('\t');
            let (word, name) = (words.next(), words.next());
            let verdict = word.and_then(Verdict::parse).context("a verdict")?;
            known.insert(name.context("a name")?.to_owned(), verdict);
        }
        let file = OpenOptions::new().append(true).open(&path)?;
        let found = Mutex::new((known, file));
        Ok(Results { found })
    }

    /// What the quick checks, or the slow ones, have not judged yet.
    fn open(&self, all: &[&Mutant], quick: bool) -> Vec<u32> {
        let found = &self.found.lock().expect("nobody panicked").0;
        let verdict = |mutant: &Mutant| found.get(&mutant.name).copied();
        let open = all.iter().filter(|mutant| match verdict(mutant) {
            None => quick,
            Some(Verdict::Doubt) => !quick,
            Some(_) => false,
        });
        open.map(|mutant| mutant.number).collect()
    }

    fn keep(&self, name: &str, verdict: Verdict, by: &str) -> Result<()> {
        let mut found = self.found.lock().expect("nobody panicked");
        let line = format!("{}\t{name}\t{by}\n", verdict.word());
        found.1.write_all(line.as_bytes())?;
        found.0.insert(name.to_owned(), verdict);
        Ok(())
    }

    fn into_all(self) -> BTreeMap<String, Verdict> {
        self.found.into_inner().expect("nobody panicked").0
    }
}

/// A number that is another one when something is changed that verdicts depend on.
fn state(folders: &[&str]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for folder in folders {
        hash_folder(&workspace::root().join("crates").join(folder), &mut hasher)?;
    }
    Ok(hasher.finish())
}

fn hash_folder(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        match path.is_dir() {
            true => hash_folder(&path, hasher)?,
            false => fs::read(&path)?.hash(hasher),
        }
    }
    Ok(())
}
