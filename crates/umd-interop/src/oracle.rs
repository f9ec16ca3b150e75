//! Finds the fetched programs and runs them with the libraries fetched beside them.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The kernel as a program. A newer one is built on this machine, for its libc.
pub const KERNEL: &str = "linux.uml";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// The folder made by `cargo xtask oracle`, and before it the one of `--newer` where that was asked
/// for: what is in both is the newer.
#[derive(Debug, Clone)]
pub struct Oracle {
    folders: Vec<Folder>,
}

/// Packages unpacked over each other.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
    library_path: OsString,
    /// Where libc is among the packages: the machine's loader and this libc do not go together.
    loader: Option<PathBuf>,
}

impl Folder {
    fn open(dir: &Path, made_by: &str) -> Result<Folder> {
        ensure!(
            dir.join("stamp").is_file(),
            "the oracles are not in {}: run `{made_by}`",
            dir.display()
        );
        let root = dir.join("root");
        let loaders = ["usr/lib64", "lib64"].map(|lib| root.join(lib).join(LOADER));
        Ok(Folder {
            library_path: std::env::join_paths(library_dirs(&root))?,
            loader: loaders.into_iter().find(|path| path.is_file()),
            root,
        })
    }

    /// The folder with everything unpacked.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether its kernel was built on this machine. That runs with the machine's libc.
    pub fn is_built_here(&self) -> bool {
        self.loader.is_some()
    }

    /// The shared libraries of a program here, and its loader.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let mut command = match &self.loader {
            None => Command::new("ldd"),
            Some(loader) => Command::new(loader),
        };
        match &self.loader {
            None => command.env("LD_LIBRARY_PATH", &self.library_path),
            Some(_) => command
                .arg("--library-path")
                .arg(&self.library_path)
                .arg("--list"),
        };
        let output = command.arg(program).output();
        let output = output.context("cannot run ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            !text.contains("not found"),
            "{} misses libraries:\n{text}",
            program.display()
        );
        let found = text.lines().filter_map(|line| {
            let place = line.rsplit("=> ").next()?.split_whitespace().next()?;
            place.starts_with('/').then(|| PathBuf::from(place))
        });
        Ok(found.collect())
    }

    /// The path of a program, if it was fetched.
    fn find(&self, program: &str) -> Option<PathBuf> {
        ["usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .map(|dir| self.root.join(dir).join(program))
            .find(|path| path.is_file())
    }

    fn command(&self, path: &Path) -> Command {
        match &self.loader {
            Some(loader) if !path.ends_with(KERNEL) => {
                let mut command = Command::new(loader);
                command.arg("--library-path").arg(&self.library_path);
                command.arg(path);
                command
            }
            Some(_) => Command::new(path),
            None => {
                let mut command = Command::new(path);
                command.env("LD_LIBRARY_PATH", &self.library_path);
                command
            }
        }
    }
}

impl Oracle {
    /// Opens the oracle folder: `UMD_ORACLE_DIR`, else `oracle` in cargo's target folder. With
    /// `UMD_KERNEL=newer` in the environment it is [`Oracle::newer`].
    ///
    /// # Errors
    /// When it is not there or incomplete; the message says which command makes it.
    pub fn open() -> Result<Oracle> {
        if std::env::var_os("UMD_KERNEL").is_some_and(|kernel| kernel == "newer") {
            return Oracle::newer();
        }
        let folder = Folder::open(&folder()?, "cargo xtask oracle")?;
        Ok(Oracle {
            folders: vec![folder],
        })
    }

    /// Opens the newer kernel and mdadm, with everything else as [`Oracle::open`] has it:
    /// `UMD_NEWER_ORACLE_DIR`, else the oracle folder's name with `-newer` behind it.
    ///
    /// # Errors
    /// When one of them is not there or incomplete; the message says which command makes it.
    pub fn newer() -> Result<Oracle> {
        let base = folder()?;
        let newer = match std::env::var_os("UMD_NEWER_ORACLE_DIR") {
            Some(dir) => std::path::absolute(dir)?,
            None => {
                let mut dir = base.clone().into_os_string();
                dir.push("-newer");
                dir.into()
            }
        };
        Ok(Oracle {
            folders: vec![
                Folder::open(&newer, "cargo xtask oracle --newer")?,
                Folder::open(&base, "cargo xtask oracle")?,
            ],
        })
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

    /// Opens the newer oracle for a test, or says on stderr that `test` is skipped. That is no
    /// failure anywhere: the newer kernel is an extra, and CI does without.
    pub fn newer_or_skip(test: &str) -> Option<Oracle> {
        match Oracle::newer() {
            Ok(oracle) => Some(oracle),
            Err(error) => {
                let extra = "it is an extra that CI does without";
                notice(&format!("SKIPPED {test}: {error:#}; {extra}"));
                None
            }
        }
    }

    /// The path of a program, if it was fetched.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        self.find_with_folder(program).map(|(_, path)| path)
    }

    /// The path of a program, and the folder it is in.
    pub fn find_with_folder(&self, program: &str) -> Option<(&Folder, PathBuf)> {
        self.folders
            .iter()
            .find_map(|folder| Some((folder, folder.find(program)?)))
    }

    /// A command that runs a fetched program, in the C locale and with no standard input.
    ///
    /// # Errors
    /// When the program was not fetched.
    pub fn command(&self, program: &str) -> Result<Command> {
        let found = self.find_with_folder(program);
        let (folder, path) =
            found.with_context(|| format!("{program} is not among the oracles"))?;
        let mut command = folder.command(&path);
        command.env("LC_ALL", "C").stdin(Stdio::null());
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
        let dirs = self.folders.iter().flat_map(|one| library_dirs(&one.root));
        dirs.map(|dir| dir.join("nbdkit").join(folder).join(file))
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
