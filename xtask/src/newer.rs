//! `cargo xtask oracle --newer`: a newer kernel md than the distribution's, with the lockless
//! bitmap, and its mdadm. An extra for nights and for who works on what is new; CI does not ask
//! for it, and without network or tools it is SKIPPED.
//!
//! ```text
//!   packages of the newest release --> linux-source-N, mdadm, the libraries of mdadm
//!   packages of this machine --------> flex, bison, m4, where they are not installed
//!
//!   target/oracle-newer/
//!     stamp     what it was made of; written last: there means complete
//!     debs/     the packages as fetched
//!     root/     mdadm with a libc of its own, and usr/bin/linux.uml, which is built here
//!     build/    the kernel's source, gone when the kernel is built, and the tools
//!     newest/   package lists of the newest release
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::oracle::{self, Apt};
use crate::workspace;

/// Raised when what is built changes, so that an older folder is made again.
const RECIPE: u32 = 1;
/// Where the kernel and mdadm are newest.
const ORIGIN: &str = "Debian";
const RELEASE: &str = "sid";
/// The first kernels with a lockless bitmap.
const OLDEST: (u32, u32) = (6, 18);
/// mdadm with a libc of its own, and what is of one make with that.
const MDADM: [&str; 3] = ["mdadm", "libc6", "libudev1"];
/// Whose absence ends it: nobody wants a compiler to be fetched by the way.
const TOOLS: [&str; 6] = ["gcc", "make", "perl", "bc", "tar", "xz"];
/// Fetched where the machine has none, with m4's library.
const FETCHED_TOOLS: [&str; 4] = ["flex", "bison", "m4", "libsigsegv2"];
const CONFIG: &str = include_str!("../newer.config");
/// What no build for this architecture compiles, and what takes room: three quarters of it.
const NOT_UNPACKED: [&str; 8] = [
    "*/drivers/gpu/*.[ch]",
    "*/drivers/net/*/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/testing/*",
    "*.rst",
    "*.dts",
    "*.dtsi",
];
const JOBS: &str = "-j2";
/// Lines of the build's output that go into an error.
const LAST_LINES: usize = 15;

/// Runs the task. What this machine cannot do is said, and is no error.
pub fn run(fresh: bool) -> Result<()> {
    // busybox and the clients come from the oracle that every test has.
    oracle::ensure(false)?;
    match ensure(fresh) {
        Ok(dir) => println!("newer oracle: ready in {}", dir.display()),
        Err(error) => println!("\n*** SKIPPED newer oracle: {error:#}\n"),
    }
    Ok(())
}

/// Makes the folder complete and returns it. With a matching stamp there this only reads one file.
fn ensure(fresh: bool) -> Result<PathBuf> {
    let dir = workspace::newer_oracle();
    let stamp = dir.join("stamp");
    let head = format!("recipe {RECIPE}");
    if !fresh && fs::read_to_string(&stamp).is_ok_and(|text| text.lines().next() == Some(&head)) {
        return Ok(dir);
    }
    if let Some(tool) = TOOLS.into_iter().find(|tool| !is_installed(tool)) {
        bail!("this machine has no {tool}, and a kernel is built with it");
    }
    for part in ["stamp", "root", "debs", "build"] {
        let path = dir.join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if path.exists() {
            fs::remove_file(&path)?;
        }
    }
    for part in ["root", "debs", "build/tools", "build/source"] {
        fs::create_dir_all(dir.join(part))
            .with_context(|| format!("cannot make {}/{part}", dir.display()))?;
    }
    let mut newer = Newer::new(dir)?;
    newer.fetch()?;
    newer.build()?;
    let mut text = format!("{head}\n");
    for (package, version) in &newer.got {
        text.push_str(&format!("{package}={version}\n"));
    }
    fs::write(&stamp, text)?;
    Ok(newer.dir)
}

struct Newer {
    dir: PathBuf,
    /// This machine's packages, and the newest release's.
    machine: Apt,
    newest: Apt,
    source: String,
    got: BTreeMap<String, String>,
}

impl Newer {
    fn new(dir: PathBuf) -> Result<Newer> {
        let system = Apt::system();
        let machine = match system.knows(&FETCHED_TOOLS) {
            true => system,
            false => Apt::own(&dir)?,
        };
        let newest = machine.release(&dir.join("newest"), ORIGIN, RELEASE)?;
        let names = newest.names("linux-source-")?;
        let source = newest_source(&names).with_context(|| {
            let (major, minor) = OLDEST;
            format!("{ORIGIN} {RELEASE} has no source of a kernel from {major}.{minor} on")
        })?;
        Ok(Newer {
            dir,
            machine,
            newest,
            source,
            got: BTreeMap::new(),
        })
    }

    fn fetch(&mut self) -> Result<()> {
        let root = self.dir.join("root");
        for package in MDADM {
            self.unpack(package, &root)?;
        }
        self.libraries(&root)?;
        let missing = FETCHED_TOOLS[..3].iter().any(|tool| !is_installed(tool));
        for tool in FETCHED_TOOLS.into_iter().filter(|_| missing) {
            let version = self.machine.candidate(tool)?;
            let version = version.with_context(|| format!("no source has package {tool}"))?;
            let (debs, tools) = (self.dir.join("debs"), self.tools());
            self.machine.unpack(tool, &version, &debs, &tools)?;
        }
        self.unpack(&self.source.clone(), &self.dir.join("build"))
    }

    /// Fetches a package of the newest release and unpacks it.
    fn unpack(&mut self, package: &str, root: &Path) -> Result<()> {
        let version = self.newest.candidate(package)?;
        let version = version.with_context(|| format!("{ORIGIN} {RELEASE} has no {package}"))?;
        let debs = self.dir.join("debs");
        self.newest.unpack(package, &version, &debs, root)?;
        self.got.insert(package.to_string(), version);
        Ok(())
    }

    /// Fetches libraries of mdadm until its own loader finds all. It looks among those of the
    /// machine, too: what was made for an older libc runs with a newer one.
    fn libraries(&mut self, root: &Path) -> Result<()> {
        let closure = self.newest.closure(&["mdadm".into()])?;
        loop {
            let missing = missing(root)?;
            if missing.is_empty() {
                return Ok(());
            }
            let fit = |package: &&String| missing.iter().any(|lib| oracle::fits(package, lib));
            let new = |package: &&String| !self.got.contains_key(*package);
            let chosen: Vec<String> = closure.iter().filter(fit).filter(new).cloned().collect();
            ensure!(!chosen.is_empty(), "no package has {missing:?} of mdadm");
            for package in chosen {
                self.unpack(&package, root)?;
            }
        }
    }

    fn tools(&self) -> PathBuf {
        self.dir.join("build/tools")
    }

    /// Unpacks the source, configures, builds, and keeps the kernel alone.
    fn build(&self) -> Result<()> {
        let build = self.dir.join("build");
        let archive = build.join(format!("usr/src/{}.tar.xz", self.source));
        let tree = build.join("source");
        println!("newer oracle: unpacking {}", self.source);
        let mut tar = Command::new("nice");
        tar.args(["-n", "14", "tar", "--strip-components=1", "-xf"])
            .arg(&archive);
        for pattern in NOT_UNPACKED {
            tar.arg(format!("--exclude={pattern}"));
        }
        oracle::text(tar.arg("-C").arg(&tree)).context("cannot unpack the kernel's source")?;
        fs::write(build.join("config"), CONFIG)?;
        println!("newer oracle: building, which takes minutes");
        self.make(&["allnoconfig"])?;
        let config = fs::read_to_string(tree.join(".config"))?;
        let lost = lost_options(&config);
        ensure!(lost.is_empty(), "{} does not take {lost:?}", self.source);
        self.make(&[JOBS, "linux"])?;
        let bin = self.dir.join("root/usr/bin");
        fs::create_dir_all(&bin)?;
        fs::copy(tree.join("linux"), bin.join("linux.uml")).context("make left no kernel")?;
        fs::copy(tree.join(".config"), self.dir.join("config"))?;
        fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
    }

    /// One make in the kernel's source; an error carries the end of what it printed.
    fn make(&self, goals: &[&str]) -> Result<()> {
        let build = self.dir.join("build");
        let tools = self.tools();
        let log = self.dir.join("build.log");
        let output = File::create(&log)?;
        let mut make = Command::new("nice");
        make.args(["-n", "14", "make", "ARCH=um", "-C"])
            .arg(build.join("source"))
            .args(goals);
        make.env("KCONFIG_ALLCONFIG", build.join("config"));
        if tools.join("usr/bin").is_dir() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let dirs = std::env::split_paths(&path);
            let dirs = [tools.join("usr/bin")].into_iter().chain(dirs);
            make.env("PATH", std::env::join_paths(dirs)?)
                .env("BISON_PKGDATADIR", tools.join("usr/share/bison"))
                .env("M4", tools.join("usr/bin/m4"))
                .env(
                    "LD_LIBRARY_PATH",
                    std::env::join_paths(oracle::library_dirs(&tools)?)?,
                );
        }
        let status = make
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .context("cannot run make")?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        ensure!(
            status.success(),
            "make {} ended with {status}, all of it is in {}:\n{last}",
            goals.join(" "),
            log.display()
        );
        Ok(())
    }
}

/// Whether a program is in PATH.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The newest `linux-source-N.M` that knows lockless bitmaps.
fn newest_source(names: &[String]) -> Option<String> {
    let version = |name: &str| -> Option<(u32, u32)> {
        let (major, minor) = name.strip_prefix("linux-source-")?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let known = names
        .iter()
        .filter_map(|name| Some((version(name)?, name.clone())));
    let newest = known.filter(|(version, _)| *version >= OLDEST).max()?;
    Some(newest.1)
}

/// Options that were asked for and are not in the kernel's own configuration.
fn lost_options(config: &str) -> Vec<&'static str> {
    let has = |wanted: &&str| config.lines().any(|line| line == *wanted);
    CONFIG
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| !has(line))
        .collect()
}

/// The sonames that the loader under `root` does not find for mdadm there.
fn missing(root: &Path) -> Result<BTreeSet<String>> {
    let dirs = std::env::join_paths(oracle::library_dirs(root)?)?;
    let mdadm = ["usr/sbin/mdadm", "sbin/mdadm", "usr/bin/mdadm"];
    let mdadm = mdadm.into_iter().map(|place| root.join(place));
    let mdadm = mdadm.into_iter().find(|path| path.is_file());
    let mdadm = mdadm.context("package mdadm has no mdadm")?;
    let loaders = ["usr/lib64", "lib64"].map(|dir| root.join(dir).join("ld-linux-x86-64.so.2"));
    let loader = loaders.into_iter().find(|path| path.is_file());
    let loader = loader.context("package libc6 has no loader for this architecture")?;
    let mut list = Command::new(loader);
    list.arg("--inhibit-cache").arg("--library-path").arg(dirs);
    // It fails with a library missing, one at a time or all of them; only its words count.
    let output = list.arg("--list").arg(&mdadm).output();
    let output = output.context("cannot run the loader")?;
    let text = [output.stdout, output.stderr].concat();
    Ok(sonames_not_found(&String::from_utf8_lossy(&text)))
}

/// `libudev.so.1 => not found`, or `... libudev.so.1: cannot open shared object file ...`.
fn sonames_not_found(text: &str) -> BTreeSet<String> {
    let name = |line: &str| -> Option<String> {
        let line = line.trim();
        if let Some(soname) = line.strip_suffix("=> not found") {
            return Some(soname.trim().to_string());
        }
        let before = line.split(": cannot open shared object file").next()?;
        let whole = before.len() == line.len();
        before
            .rsplit(' ')
            .next()
            .filter(|_| !whole)
            .map(String::from)
    };
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_source_is_taken_by_number_not_by_letter() {
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let some = names(&["linux-source-7.2", "linux-source-7.10", "linux-source"]);
        assert_eq!(newest_source(&some).as_deref(), Some("linux-source-7.10"));
        assert_eq!(newest_source(&names(&["linux-source-6.17"])), None);
        let old = names(&["linux-source-6.18", "linux-source-6.9"]);
        assert_eq!(newest_source(&old).as_deref(), Some("linux-source-6.18"));
    }

    #[test]
    fn an_option_that_the_kernel_turned_off_is_named() {
        let all = CONFIG.to_string();
        assert_eq!(lost_options(&all), [""; 0]);
        let without = all.replace("CONFIG_MD_LLBITMAP=y", "# CONFIG_MD_LLBITMAP is not set");
        assert_eq!(lost_options(&without), ["CONFIG_MD_LLBITMAP=y"]);
    }

    #[test]
    fn missing_libraries_are_read_from_both_forms() {
        let text = "\tlibudev.so.1 => not found\n\tlibc.so.6 => /x/libc.so.6 (0x0)\n\
            mdadm: error while loading shared libraries: libcap.so.2: cannot open shared object \
            file: No such file or directory\n";
        let found: Vec<String> = sonames_not_found(text).into_iter().collect();
        assert_eq!(found, ["libcap.so.2", "libudev.so.1"]);
    }
}
