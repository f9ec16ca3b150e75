//! A copy of the workspace whose umd-core has all changes in it, built once.
//!
//! ```text
//!   workspace -> copy -> put in the changes -> cargo check -> errors: which changes? off with them
//!                              ^                                       |
//!                              +---------------------------------------+
//!                                          no errors -> cargo test --no-run, cargo build umd-sim
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::list::Mutant;
use super::rewrite::{Piece, rewrite};
use crate::workspace;

const MUTAGEN: &str = include_str!("mutagen.rs");
const CORE: &str = "crates/umd-core/src/lib.rs";
/// So often changes that do not compile are taken out.
const ROUNDS_MAX: u32 = 30;
/// Fast to run rather than fast to build; every check stays on.
const PROFILES: &str = "
[profile.dev]
debug = false
opt-level = 2
incremental = false

[profile.dev.package.umd-parity]
opt-level = 3

[profile.release]
debug = false
debug-assertions = true
overflow-checks = true
opt-level = 2
";

/// Where the changes lie, by file.
type Pieces<'a> = HashMap<&'a str, Vec<Piece>>;

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The programs with tests in them.
    pub tests: Vec<PathBuf>,
    pub sim: PathBuf,
    /// Changes that are in it.
    pub placed: HashSet<u32>,
    /// Changes that do not compile.
    pub off: HashSet<u32>,
}

/// A folder with the copy.
#[derive(Debug)]
pub struct Copy {
    root: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// Copies the workspace to `folder`, but for the files with changes: those are written when
    /// it is built. What is there already is not touched, so that it need not be built again.
    pub fn make(folder: &Path, mutants: &[Mutant]) -> Result<Copy> {
        let (from, root) = (workspace::root(), folder.join("copy"));
        let mut own: HashSet<PathBuf> = mutants.iter().map(|m| from.join(&m.file)).collect();
        own.extend(["Cargo.toml", CORE].map(|path| from.join(path)));
        copy_folder(&from, &root, &own)?;
        let text = fs::read_to_string(from.join("Cargo.toml")).context("no Cargo.toml")?;
        let at = text.find("[profile.").unwrap_or(text.len());
        write(
            &root.join("Cargo.toml"),
            format!("{}{PROFILES}", &text[..at]),
        )?;
        let text = fs::read_to_string(from.join(CORE))?;
        let text = format!("{text}\n#[doc(hidden)]\npub mod mutagen;\n");
        write(&root.join(CORE), &text)?;
        write(&root.join("crates/umd-core/src/mutagen.rs"), MUTAGEN)?;
        Ok(Copy {
            root,
            target: folder.join("build"),
        })
    }

    /// Where the tests of umd-core are run.
    pub fn core(&self) -> PathBuf {
        self.root.join("crates/umd-core")
    }

    fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(args).current_dir(&self.root);
        command.args(["--message-format", "json", "--quiet"]);
        command.env("CARGO_TARGET_DIR", &self.target);
        command.env("RUSTFLAGS", "--cap-lints allow");
        command.stderr(Stdio::null());
        command
    }

    /// Puts in all changes that compile, and builds.
    /// `off`: what is known not to.
    pub fn build(&self, mutants: &[Mutant], off: HashSet<u32>) -> Result<Built> {
        let mut files: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
        for mutant in mutants {
            files.entry(&mutant.file).or_default().push(mutant);
        }
        let mut off = off;
        for round in 1..=ROUNDS_MAX {
            let (placed, pieces) = self.put_in(&files, &off)?;
            let errors = self.errors()?;
            if errors.is_empty() {
                println!(
                    "{} changes are in the build, after {round} rounds",
                    placed.len()
                );
                return self.link(placed, off);
            }
            let before = off.len();
            for error in &errors {
                off.extend(guilty(error, &pieces));
            }
            println!(
                "round {round}: {} errors, {} changes off",
                errors.len(),
                off.len()
            );
            let (error, at) = (&errors[0].text, &errors[0].places);
            ensure!(off.len() > before, "an error that stays: {error}, {at:?}");
        }
        bail!("after {ROUNDS_MAX} rounds there still are changes that do not compile")
    }

    /// Writes the sources anew.
    fn put_in<'a>(
        &self,
        files: &BTreeMap<&'a str, Vec<&Mutant>>,
        off: &HashSet<u32>,
    ) -> Result<(HashSet<u32>, Pieces<'a>)> {
        let (mut placed, mut pieces) = (HashSet::new(), HashMap::new());
        for (file, mutants) in files {
            let source = fs::read_to_string(workspace::root().join(file))
                .with_context(|| format!("cannot read {file}"))?;
            let done = rewrite(&source, mutants, off).with_context(|| file.to_string())?;
            write(&self.root.join(file), &done.text)?;
            placed.extend(done.placed);
            pieces.insert(*file, done.pieces);
        }
        Ok((placed, pieces))
    }

    /// What the compiler does not like.
    fn errors(&self) -> Result<Vec<Error>> {
        let mut command = self.cargo(&["check", "--package", "umd-core", "--lib"]);
        let output = command.output().context("cannot run cargo")?;
        let errors: Vec<Error> = messages(&output.stdout)
            .filter_map(|m| Error::of(&m))
            .collect();
        ensure!(
            output.status.success() || !errors.is_empty(),
            "cargo check fails"
        );
        Ok(errors)
    }

    fn link(&self, placed: HashSet<u32>, off: HashSet<u32>) -> Result<Built> {
        let programs = |args: &[&str]| -> Result<Vec<PathBuf>> {
            let output = self.cargo(args).output().context("cannot run cargo")?;
            ensure!(output.status.success(), "cargo {} fails", args.join(" "));
            let paths = messages(&output.stdout).filter_map(|message| {
                let program = message["executable"].as_str();
                program.map(PathBuf::from)
            });
            Ok(paths.collect())
        };
        let tests = programs(&["test", "--no-run", "--package", "umd-core"])?;
        let sim = programs(&["build", "--release", "--package", "umd-sim"])?;
        let sim = sim.into_iter().next().context("no umd-sim")?;
        Ok(Built {
            tests,
            sim,
            placed,
            off,
        })
    }
}

fn messages(lines: &[u8]) -> impl Iterator<Item = Value> {
    let text = String::from_utf8_lossy(lines).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let parsed = lines.into_iter().map(|line| serde_json::from_str(&line));
    parsed.filter_map(Result::ok)
}

/// Writes a file, unless it is like that.
fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_ref()) {
        return Ok(());
    }
    let folder = path.parent().expect("a file lies in a folder");
    fs::create_dir_all(folder)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a folder equal to another one, but for the files `own` of that.
fn copy_folder(from: &Path, to: &Path, own: &HashSet<PathBuf>) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let names = |folder: &Path| -> Result<Vec<OsString>> {
        let entries = fs::read_dir(folder)?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    };
    for name in names(from)? {
        let (path, other) = (from.join(&name), to.join(&name));
        if name == "target" || name == ".git" || name == "corpus" || own.contains(&path) {
            continue;
        }
        match path.is_dir() {
            true => copy_folder(&path, &other, own)?,
            false => write(&other, fs::read(&path)?)?,
        }
    }
    for name in names(to)? {
        let path = to.join(&name);
        if name != "mutagen.rs"
            && !from.join(&name).exists()
            && path.extension().is_some_and(|kind| kind == "rs")
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// An error of the compiler: what it says, and the places it is about.
#[derive(Debug)]
struct Error {
    text: String,
    /// File, first and last byte; what it is about first.
    places: Vec<(String, usize, usize)>,
}

impl Error {
    fn of(message: &Value) -> Option<Error> {
        let message = &message["message"];
        let spans = message["spans"].as_array()?;
        if message["level"] != "error" || spans.is_empty() {
            return None;
        }
        let (first, rest): (Vec<_>, Vec<_>) = spans.iter().partition(|s| s["is_primary"] == true);
        let mut places = Vec::new();
        for span in first.into_iter().chain(rest) {
            let mut at = span;
            // A place in a macro is the place where that is used.
            loop {
                let number = |key: &str| at[key].as_u64().map(|n| n as usize);
                let file = at["file_name"].as_str()?.to_owned();
                places.push((file, number("byte_start")?, number("byte_end")?));
                match at["expansion"].get("span") {
                    Some(outer) => at = outer,
                    None => break,
                }
            }
        }
        let text = message["message"].as_str().unwrap_or_default().to_owned();
        Some(Error { text, places })
    }
}

/// The changes that an error is due to: those of the smallest piece around it.
fn guilty(error: &Error, pieces: &Pieces<'_>) -> Vec<u32> {
    let in_file = |file: &str| pieces.get(file).map_or(&[][..], Vec::as_slice);
    for (file, start, end) in &error.places {
        let around = in_file(file)
            .iter()
            .filter(|piece| piece.at.start <= *start && *end <= piece.at.end);
        if let Some(piece) = around.min_by_key(|piece| piece.at.len()) {
            return piece.mutants.clone();
        }
    }
    for (file, start, end) in &error.places {
        let inside = in_file(file)
            .iter()
            .filter(|piece| *start <= piece.at.start && piece.at.end <= *end);
        let all: Vec<u32> = inside.flat_map(|piece| piece.mutants.clone()).collect();
        if !all.is_empty() {
            return all;
        }
    }
    Vec::new()
}
