//! Finds the fetched programs and runs them with the libraries fetched beside them.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The folder made by `cargo xtask oracle`.
#[derive(Debug, Clone)]
pub struct Oracle {
    root: PathBuf,
    library_path: OsString,
}

impl Oracle {
    /// Opens the oracle folder: `UMD_ORACLE_DIR`, else `oracle` in cargo's target folder.
    ///
    /// # Errors
    /// When it is not there or incomplete; the message says which command makes it.
    pub fn open() -> Result<Oracle> {
        let dir = folder()?;
        ensure!(
            dir.join("stamp").is_file(),
            "the oracles are not in {}: run `cargo xtask oracle`",
            dir.display()
        );
        let root = dir.join("root");
        let library_path = std::env::join_paths(library_dirs(&root))?;
        Ok(Oracle { root, library_path })
    }

    /// Opens the oracle folder for a test, or says loudly on stderr that `test` is skipped.
    ///
    /// # Panics
    /// When the oracles are missing and the environment has `CI=true`: there a skipped test is a
    /// failed one.
    pub fn or_skip(test: &str) -> Option<Oracle> {
        match Oracle::open() {
            Ok(oracle) => Some(oracle),
            Err(error) => {
                skipped(test, &format!("{error:#}"));
                None
            }
        }
    }

    /// The folder with everything unpacked.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `LD_LIBRARY_PATH` must be for the fetched programs.
    pub fn library_path(&self) -> &OsString {
        &self.library_path
    }

    /// The path of a program, if it was fetched.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        ["usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .map(|dir| self.root.join(dir).join(program))
            .find(|path| path.is_file())
    }

    /// A command that runs a fetched program, in the C locale and with no standard input.
    ///
    /// # Errors
    /// When the program was not fetched.
    pub fn command(&self, program: &str) -> Result<Command> {
        let path = self.find(program);
        let path = path.with_context(|| format!("{program} is not among the oracles"))?;
        let mut command = Command::new(path);
        command
            .env("LD_LIBRARY_PATH", &self.library_path)
            .env("LC_ALL", "C");
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a fetched program to its end.
    ///
    /// # Errors
    /// When it is missing or cannot be started. A failing program is no error here.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.command(program)?;
        command
            .args(args)
            .output()
            .with_context(|| format!("cannot run {program}"))
    }

    /// Runs a fetched program that must succeed and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the message carries its standard error.
    pub fn text(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.output(program, args)?;
        if !output.status.success() {
            bail!(
                "{program} {} ended with {}: {}{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The file of one of nbdkit's plugins (`file`, `memory`, ...): nbdkit takes a path where its
    /// built-in folder does not apply.
    ///
    /// # Errors
    /// When the plugin was not fetched.
    pub fn nbdkit_plugin(&self, name: &str) -> Result<PathBuf> {
        self.nbdkit_part("plugins", &format!("nbdkit-{name}-plugin.so"))
    }

    /// The file of one of nbdkit's filters (`error`, `delay`, ...).
    ///
    /// # Errors
    /// When the filter was not fetched.
    pub fn nbdkit_filter(&self, name: &str) -> Result<PathBuf> {
        self.nbdkit_part("filters", &format!("nbdkit-{name}-filter.so"))
    }

    fn nbdkit_part(&self, folder: &str, file: &str) -> Result<PathBuf> {
        library_dirs(&self.root)
            .into_iter()
            .map(|dir| dir.join("nbdkit").join(folder).join(file))
            .find(|path| path.is_file())
            .with_context(|| format!("{file} is not among the oracles"))
    }
}

/// Says on stderr, past the test harness's capture, that a test is skipped and why.
///
/// # Panics
/// With `CI=true` in the environment.
pub fn skipped(test: &str, why: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|value| value != "true"),
        "{test} cannot run and CI=true allows no skipping: {why}"
    );
    notice(&format!("SKIPPED {test}: {why}"));
}

/// Says something on stderr past the test harness's capture.
pub fn notice(text: &str) {
    // Not eprintln!: libtest would swallow it for a passing test. A closed stderr is no reason to
    // fail.
    let _ = writeln!(std::io::stderr(), "\n*** {text}\n");
}

fn folder() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("UMD_ORACLE_DIR") {
        return Ok(std::path::absolute(dir)?);
    }
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(std::path::absolute(dir)?.join("oracle"));
    }
    Ok(Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/oracle")
        .canonicalize()?)
}

/// The folders with shared libraries: `lib/*-linux-gnu`, and ceph's below, which fio needs.
fn library_dirs(root: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for lib in ["usr/lib", "lib"] {
        let Ok(entries) = fs::read_dir(root.join(lib)) else {
            continue;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.to_string_lossy().ends_with("-linux-gnu") {
                dirs.push(path.join("ceph"));
                dirs.push(path);
            }
        }
    }
    dirs.retain(|dir| dir.is_dir());
    dirs.sort();
    dirs
}
