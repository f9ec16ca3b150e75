//! Tools that CI does not need and that look for what tests miss: fuzzing and mutation.
//!
//! ```text
//!   fuzz      seeds -> fuzz/corpus -> each target for N seconds -> fuzz/artifacts, if it breaks
//!   mutants   each change of umd-core -> cargo test -p umd-core -> caught, or a survivor
//! ```
//!
//! What is not installed is said loudly and skipped: neither is needed to build or test umd.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// The longest input: the largest superblock and a few sectors more.
const INPUT_BYTES_MAX: u32 = 8192;
const MEMORY_MB_MAX: u32 = 2048;

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

/// A command of the fuzz workspace, with a target folder of its own.
fn nightly(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly").args(args).current_dir(folder());
    command.env("CARGO_TARGET_DIR", workspace::target().join("fuzz"));
    command
}

/// `cargo xtask fuzz`: each target, or one, for so many seconds.
pub fn fuzz(seconds: u32, only: Option<&str>) -> Result<()> {
    if !is_there("cargo", &["fuzz", "--version"]) {
        println!("\n*** SKIPPED fuzzing: cargo-fuzz is not installed (cargo install cargo-fuzz)\n");
        return Ok(());
    }
    if !is_there("cargo", &["+nightly", "--version"]) {
        println!("\n*** SKIPPED fuzzing: there is no nightly compiler\n");
        return Ok(());
    }
    let seeds = [
        "run",
        "--quiet",
        "--release",
        "--example",
        "seeds",
        "--",
        "corpus",
    ];
    succeed(nightly(&seeds))?;
    let mut broken = Vec::new();
    let targets = targets()?;
    let wanted = |target: &&String| only.is_none_or(|only| only == target.as_str());
    let wanted: Vec<&String> = targets.iter().filter(wanted).collect();
    ensure!(
        !wanted.is_empty(),
        "there is no such target; there are {targets:?}"
    );
    for target in wanted {
        println!("\n=== {target}");
        let corpus = format!("corpus/{target}");
        fs::create_dir_all(folder().join(&corpus))
            .with_context(|| format!("cannot make {corpus}"))?;
        // Safe code needs no sanitizer; what it would find, the compiler refuses.
        let mut command = nightly(&["fuzz", "run", "--sanitizer", "none", target, &corpus, "--"]);
        command.args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-rss_limit_mb={MEMORY_MB_MAX}"),
            "-print_final_stats=1".to_owned(),
        ]);
        if succeed(command).is_err() {
            broken.push(target.clone());
        }
    }
    ensure!(
        broken.is_empty(),
        "fuzz targets that broke: {}",
        broken.join(", ")
    );
    Ok(())
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

/// `cargo xtask mutants`: the arguments go to cargo-mutants; what is mutated and how it is tested
/// stands in `.cargo/mutants.toml`.
pub fn mutants(args: &[&str]) -> Result<()> {
    if !is_there("cargo", &["mutants", "--version"]) {
        println!(
            "\n*** SKIPPED mutants: cargo-mutants is not installed (cargo install cargo-mutants)\n"
        );
        return Ok(());
    }
    let mut command = Command::new("cargo");
    command.arg("mutants").args(args);
    command
        .arg("--output")
        .arg(workspace::target().join("mutants"));
    command.current_dir(workspace::root());
    succeed(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_of_the_fuzz_workspace() {
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
