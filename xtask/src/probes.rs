//! Fuzzing: a tool that looks for what tests miss.
//!
//! ```text
//!   fuzz      seeds -> fuzz/corpus -> each target for N seconds -> fuzz/artifacts, if it breaks
//!             (without libFuzzer: seeds -> umd-fuzz run, which is not guided and keeps no corpus)
//! ```
//!
//! What is not installed is said loudly: it is not needed to build or test umd.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// The longest input: the largest superblock and a few sectors more.
const INPUT_BYTES_MAX: u32 = 8192;
const MEMORY_MB_MAX: u32 = 2048;
/// How long each fuzz target runs unless told otherwise.
const FUZZ_SECONDS: &str = "60";

fn is_there(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command.output();
    output.is_ok_and(|output| output.status.success())
}

fn succeed(mut command: Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

/// The program of the fuzz crate, as the tests are built: with every check, and built already.
fn plain(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--package", "umd-fuzz"]);
    command.args(["--bin", "umd-fuzz", "--"]).args(args);
    command.current_dir(folder());
    command
}

/// A command of cargo-fuzz, with a target folder of its own.
fn nightly(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly").args(args).current_dir(folder());
    command.env("CARGO_TARGET_DIR", workspace::target().join("fuzz"));
    // What links everything again for each target takes longer than it saves.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    command
}

/// Whether libFuzzer can be had; if not, what is missing.
fn libfuzzer() -> Result<(), &'static str> {
    if !is_there("cargo", &["+nightly", "--version"]) {
        return Err("there is no nightly compiler");
    }
    if !is_there("cargo", &["fuzz", "--version"]) {
        return Err("cargo-fuzz is not installed (cargo install cargo-fuzz)");
    }
    Ok(())
}

/// `cargo xtask fuzz`: each target, or one, for so many seconds; or one input again.
pub fn fuzz(args: &[&str]) -> Result<()> {
    let (seconds, only) = match *args {
        ["--replay", target, file] => {
            let file = fs::canonicalize(file).with_context(|| format!("no input {file}"))?;
            let file = file.to_str().context("a path in UTF-8")?;
            return succeed(plain(&["replay", target, file]));
        }
        [] => (FUZZ_SECONDS, None),
        ["--seconds", n] => (n, None),
        ["--seconds", n, target] => (n, Some(target)),
        [target] if !target.starts_with('-') => (FUZZ_SECONDS, Some(target)),
        _ => bail!("usage: cargo xtask fuzz [--seconds N] [TARGET] | --replay TARGET FILE"),
    };
    let all = targets()?;
    let wanted = |target: &&String| only.is_none_or(|only| only == target.as_str());
    let wanted: Vec<&String> = all.iter().filter(wanted).collect();
    ensure!(
        !wanted.is_empty(),
        "there is no such target; there are {all:?}"
    );
    if let Err(why) = libfuzzer() {
        println!("\n*** {why}: the inputs are drawn at random, and nothing guides the search\n");
        let one = only.map(|only| ["--target", only]);
        let mut words = vec!["run", "--seconds", seconds];
        words.extend(one.iter().flatten());
        return succeed(plain(&words));
    }
    succeed(plain(&["seeds", "corpus"]))?;
    let broke = |target: &&&String| guided(target, seconds).is_err();
    let broken: Vec<&&String> = wanted.iter().filter(broke).collect();
    ensure!(broken.is_empty(), "fuzz targets that broke: {broken:?}");
    Ok(())
}

/// libFuzzer on one target.
fn guided(target: &str, seconds: &str) -> Result<()> {
    println!("\n=== {target}");
    let corpus = format!("corpus/{target}");
    fs::create_dir_all(folder().join(&corpus)).with_context(|| format!("cannot make {corpus}"))?;
    // Safe code needs no sanitizer; what it would find, the compiler refuses.
    let mut command = nightly(&["fuzz", "run", "--features", "libfuzzer"]);
    command.args(["--sanitizer", "none", target, &corpus, "--"]);
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-rss_limit_mb={MEMORY_MB_MAX}"),
        "-print_final_stats=1".to_owned(),
    ]);
    succeed(command)
}

fn targets() -> Result<Vec<String>> {
    let entries = fs::read_dir(folder().join("fuzz_targets")).context("no fuzz targets")?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    let stems = paths.iter().filter_map(|path| path.file_stem());
    let mut names: Vec<String> = stems
        .map(|stem| stem.to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_the_fuzz_crate() {
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.len() >= 10, "{targets:?}");
        for target in targets {
            let path = format!("path = \"fuzz_targets/{target}.rs\"");
            assert!(
                manifest.contains(&path),
                "{target} is not in fuzz/Cargo.toml"
            );
        }
    }
}
