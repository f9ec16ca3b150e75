//! `cargo xtask oracle`: the independent implementations the tests compare with, as unpacked Debian
//! packages.
//!
//! Nothing is installed and root is not needed: packages are fetched with `apt-get download` and
//! unpacked with `dpkg -x`. Shared libraries the machine already has are taken from the machine;
//! missing ones are fetched too.
//!
//! ```text
//! target/oracle/
//!   stamp       what was fetched, one package=version a line; written last: there means complete
//!   debs/       the packages as fetched
//!   root/       all of them unpacked over each other
//!   apt/        package lists of our own, only when the machine's lists know no candidate
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// Raised when the list below changes, so that an older folder is fetched again.
const RECIPE: u32 = 6;

/// Packages without which the tests cannot run.
const NEEDED: [&str; 18] = [
    "user-mode-linux",
    "mdadm",
    "busybox-static",
    "grub-common",
    "fio",
    "libnbd-bin",
    "qemu-utils",
    "nbdkit",
    "e2fsprogs",
    "fuse2fs",
    "prometheus-node-exporter",
    "etcd-server",
    // Links between network namespaces.
    "iproute2",
    // For `cargo xtask counts`. It needs no library but libc.
    "valgrind",
    // For this machine's python3, if it has one.
    "jc",
    "python3-pygments",
    "python3-ruamel.yaml",
    "python3-xmltodict",
];

/// Packages that only some releases have: nbdfuse was part of libnbd-bin, nbdkit's basic plugins of
/// nbdkit. ISA-L, which `cargo xtask bench` compares with, is not there for every processor.
const WHERE_THEY_EXIST: [&str; 4] = [
    "nbdfuse",
    "nbdkit-plugin-basic",
    "nbdkit-basic-plugins",
    "libisal2",
];

/// The programs that must find all their libraries, searched in the folders of [`PROGRAM_DIRS`].
const PROGRAMS: [&str; 20] = [
    "mdadm",
    "grub-fstest",
    "fio",
    "nbdinfo",
    "nbdcopy",
    "nbdfuse",
    "qemu-img",
    "qemu-io",
    "qemu-nbd",
    "nbdkit",
    "mke2fs",
    "e2fsck",
    "debugfs",
    "dumpe2fs",
    "fuse2fs",
    "ip",
    "prometheus-node-exporter",
    "nbdkit-file-plugin.so",
    "nbdkit-memory-plugin.so",
    "nbdkit-nbd-plugin.so",
];

/// The keys of the distribution whose packages these are; without the file apt has them itself.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const PROGRAM_DIRS: [&str; 4] = ["usr/bin", "usr/sbin", "bin", "sbin"];

/// Runs the task. `fresh` fetches again what is there.
pub fn run(fresh: bool) -> Result<()> {
    ensure(fresh).map(|dir| println!("oracle: ready in {}", dir.display()))
}

/// Makes the oracle folder complete and returns it. With a matching stamp there this only reads one
/// file.
pub fn ensure(fresh: bool) -> Result<PathBuf> {
    let dir = workspace::oracle();
    let stamp = dir.join("stamp");
    let head = format!("recipe {RECIPE}");
    if !fresh && fs::read_to_string(&stamp).is_ok_and(|text| text.lines().next() == Some(&head)) {
        return Ok(dir);
    }
    let system = Apt::system();
    let got = if system.knows(&NEEDED) {
        fetch_all(&dir, system).or_else(|error| {
            // Lists that are older than what the mirrors keep name versions that are gone.
            println!("oracle: {error:#}");
            println!("oracle: this machine's package lists may be out of date, fetching our own");
            fetch_all(&dir, Apt::own(&dir)?)
        })?
    } else {
        println!("oracle: this machine's package lists are incomplete, fetching our own");
        fetch_all(&dir, Apt::own(&dir)?)?
    };
    let mut text = format!("{head}\n");
    for (package, version) in &got {
        text.push_str(&format!("{package}={version}\n"));
    }
    fs::write(&stamp, text)?;
    Ok(dir)
}

/// Fetches and unpacks everything into an empty folder; returns the versions by package.
fn fetch_all(dir: &Path, apt: Apt) -> Result<BTreeMap<String, String>> {
    for part in ["stamp", "root", "debs"] {
        let path = dir.join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if path.exists() {
            fs::remove_file(&path)?;
        }
    }
    for part in ["root", "debs"] {
        fs::create_dir_all(dir.join(part))
            .with_context(|| format!("cannot make {}/{part}", dir.display()))?;
    }
    let mut fetch = Fetch {
        apt,
        dir: dir.to_path_buf(),
        got: BTreeMap::new(),
    };
    fetch.programs()?;
    fetch.libraries()?;
    Ok(fetch.got)
}

/// apt with the machine's package lists, or with lists of our own.
pub struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// The machine's lists.
    pub fn system() -> Apt {
        Apt {
            options: Vec::new(),
        }
    }

    /// Whether the lists name a candidate for every one of these packages.
    pub fn knows(&self, packages: &[&str]) -> bool {
        let known = |package: &&str| matches!(self.candidate(package), Ok(Some(_)));
        packages.iter().all(known)
    }

    /// Lists of our own, fetched into `dir/apt`.
    pub fn own(dir: &Path) -> Result<Apt> {
        Apt::update(dir, Vec::new())
    }

    /// Lists of our own for another release of the distribution this machine has, named as apt's
    /// sources do (`sid`), from where the machine fetches its own; in `dir/apt`.
    pub fn release(&self, dir: &Path, origin: &str, release: &str) -> Result<Apt> {
        let (origin_is, label_is) = (format!("Origin: {origin}"), format!("Label: {origin}"));
        let format = "$(REPO_URI)";
        let targets = ["indextargets", "--format", format, "Created-By: Packages"];
        let mut args = targets.to_vec();
        args.extend([&*origin_is, &*label_is, "Component: main"]);
        let found = self.text("apt-get", &args)?;
        let uri = found.lines().next().map(str::trim).unwrap_or_default();
        ensure!(
            !uri.is_empty(),
            "no package source of this machine is {origin}'s own"
        );
        let keys = Path::new(KEYRING).is_file();
        let keys = if keys {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        fs::create_dir_all(dir.join("apt"))?;
        let list = dir.join("apt/sources.list");
        fs::write(&list, format!("deb {keys}{uri} {release} main\n"))?;
        let only = [
            format!("-oDir::Etc::SourceList={}", list.display()),
            "-oDir::Etc::SourceParts=-".into(),
            "-oAcquire::Languages=none".into(),
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
        ];
        Apt::update(dir, only.into())
    }

    fn update(dir: &Path, mut options: Vec<String>) -> Result<Apt> {
        let apt = dir.join("apt");
        fs::create_dir_all(apt.join("lists/partial"))?;
        fs::create_dir_all(apt.join("cache/archives/partial"))?;
        options.extend([
            format!("-oDir::State::Lists={}", apt.join("lists").display()),
            format!("-oDir::Cache={}", apt.join("cache").display()),
            "-oDebug::NoLocking=1".into(),
            "-oAPT::Sandbox::User=".into(),
        ]);
        let own = Apt { options };
        own.text("apt-get", &["update", "-qq"])
            .context("apt-get update failed")?;
        Ok(own)
    }

    /// The names of all packages that begin so.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.text("apt-cache", &["pkgnames", prefix])?;
        Ok(text.lines().map(String::from).collect())
    }

    /// Downloads one package at exactly this version into `debs` and unpacks it over `root`.
    pub fn unpack(&self, package: &str, version: &str, debs: &Path, root: &Path) -> Result<()> {
        println!("oracle: {package} {version}");
        let spec = format!("{package}={version}");
        let mut fetch = Command::new("apt-get");
        fetch
            .args(&self.options)
            .args(["download", "-qq", &spec])
            .current_dir(debs);
        text(&mut fetch).with_context(|| format!("cannot fetch {package}"))?;
        let deb = fs::read_dir(debs)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                let name = path
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or("");
                name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
            })
            .with_context(|| format!("apt-get download left no file for {package}"))?;
        text(Command::new("dpkg").arg("-x").arg(&deb).arg(root)).map(drop)
    }

    fn text(&self, program: &str, args: &[&str]) -> Result<String> {
        text(
            Command::new(program)
                .args(&self.options)
                .args(args)
                .env("LC_ALL", "C"),
        )
    }

    /// The newest version of a package that can be fetched, if there is one. What is installed does
    /// not count: it may have come from somewhere that is no source any more.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let table = self.text("apt-cache", &["madison", package])?;
        Ok(table.lines().find_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            let (name, version, source) = (columns.next()?, columns.next()?, columns.next()?);
            (name == package && !source.ends_with("Sources")).then(|| version.to_string())
        }))
    }

    /// What would have to be installed for `packages`, and in which version.
    pub fn not_installed(&self, packages: &[&str]) -> Result<Vec<(String, String)>> {
        let mut args = vec!["install", "--simulate", "--no-install-recommends", "-qq"];
        args.extend(packages);
        let text = self.text("apt-get", &args)?;
        // Inst chromium (148.0 Debian-Security:12/oldstable-security [amd64])
        let named = text.lines().filter_map(|line| {
            let mut words = line.strip_prefix("Inst ")?.split(' ');
            let package = words.next()?;
            let version = words.find_map(|word| word.strip_prefix('('))?;
            Some((package.to_owned(), version.to_owned()))
        });
        Ok(named.collect())
    }

    /// All packages that `packages` need, directly or not.
    pub fn closure(&self, packages: &[String]) -> Result<BTreeSet<String>> {
        let mut args = vec![
            "depends",
            "--recurse",
            "--no-recommends",
            "--no-suggests",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
        ];
        args.extend(packages.iter().map(String::as_str));
        let text = self.text("apt-cache", &args)?;
        Ok(text
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()))
            .map(|line| line.trim().to_string())
            .collect())
    }
}

struct Fetch {
    apt: Apt,
    dir: PathBuf,
    got: BTreeMap<String, String>,
}

impl Fetch {
    fn programs(&mut self) -> Result<()> {
        let mut wanted = Vec::new();
        for package in NEEDED {
            let version = self.apt.candidate(package)?;
            let version = version.with_context(|| format!("no source has package {package}"))?;
            wanted.push((package.to_string(), version));
        }
        for package in WHERE_THEY_EXIST {
            if let Some(version) = self.apt.candidate(package)? {
                wanted.push((package.to_string(), version));
            }
        }
        self.unpack(wanted)
    }

    /// Downloads and unpacks packages at exactly these versions.
    fn unpack(&mut self, wanted: Vec<(String, String)>) -> Result<()> {
        let debs = self.dir.join("debs");
        for (package, version) in wanted {
            self.apt
                .unpack(&package, &version, &debs, &self.dir.join("root"))?;
            self.got.insert(package, version);
        }
        Ok(())
    }

    /// Fetches the libraries the programs miss, until none is missing. First the package whose name
    /// fits the library; if none fits, every library package among the dependencies.
    fn libraries(&mut self) -> Result<()> {
        let packages: Vec<String> = self.got.keys().cloned().collect();
        let closure = self.apt.closure(&packages)?;
        let mut guess = true;
        loop {
            let missing = self.missing()?;
            if missing.is_empty() {
                return Ok(());
            }
            let mut chosen = BTreeSet::new();
            for package in &closure {
                let fits = missing.iter().any(|soname| self::fits(package, soname));
                let library = package.starts_with("lib") || package.starts_with("zlib");
                if !self.got.contains_key(package) && (fits || !guess && library) {
                    chosen.insert(package.clone());
                }
            }
            if chosen.is_empty() && !guess {
                bail!("no package among the dependencies has {missing:?}");
            }
            guess = !chosen.is_empty();
            let mut wanted = Vec::new();
            for package in chosen {
                if let Some(version) = self.apt.candidate(&package)? {
                    wanted.push((package, version));
                }
            }
            self.unpack(wanted)?;
        }
    }

    /// The sonames that the loader does not find, on the machine or under `root`.
    fn missing(&self) -> Result<BTreeSet<String>> {
        let root = self.dir.join("root");
        let path = std::env::join_paths(library_dirs(&root)?)?;
        let mut missing = BTreeSet::new();
        for program in PROGRAMS {
            let Some(file) = find(&root, program)? else {
                continue;
            };
            let listing = text(Command::new("ldd").arg(&file).env("LD_LIBRARY_PATH", &path))?;
            missing.extend(
                listing
                    .lines()
                    .filter_map(|line| line.trim().strip_suffix("=> not found"))
                    .map(|soname| soname.trim().to_string()),
            );
        }
        Ok(missing)
    }
}

/// Every folder under `root` with shared libraries that are not plugins.
pub fn library_dirs(root: &Path) -> Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for lib in ["usr/lib", "lib"] {
        let Ok(entries) = fs::read_dir(root.join(lib)) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            if path.to_string_lossy().ends_with("-linux-gnu") {
                dirs.push(path.join("ceph"));
                dirs.push(path);
            }
        }
    }
    dirs.retain(|dir| dir.is_dir());
    dirs.sort();
    Ok(dirs)
}

/// The path of a program or of one of nbdkit's plugins under `root`.
pub fn find(root: &Path, name: &str) -> Result<Option<PathBuf>> {
    let mut places: Vec<PathBuf> = PROGRAM_DIRS.iter().map(|dir| root.join(dir)).collect();
    places.extend(
        library_dirs(root)?
            .into_iter()
            .map(|dir| dir.join("nbdkit/plugins")),
    );
    Ok(places
        .into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file()))
}

/// Whether a package may have a library, by their names.
pub fn fits(package: &str, soname: &str) -> bool {
    squeeze_library(soname) == squeeze(package)
}

/// `libglib-2.0.so.0` -> `libglib200`, to compare with [`squeeze`]d package names.
fn squeeze_library(soname: &str) -> String {
    squeeze(&soname.replace(".so", ""))
}

/// `libglib2.0-0t64` -> `libglib200`.
fn squeeze(package: &str) -> String {
    let package = package.strip_suffix("t64").unwrap_or(package);
    package
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '+')
        .collect()
}

/// Standard output of a command that must succeed.
pub fn text(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?} ended with {}: {}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_names_fit_package_names() {
        for (soname, package) in [
            ("libglib-2.0.so.0", "libglib2.0-0"),
            ("libglib-2.0.so.0", "libglib2.0-0t64"),
            ("libnl-route-3.so.200", "libnl-route-3-200"),
            ("libboost_thread.so.1.74.0", "libboost-thread1.74.0"),
            ("libgcc_s.so.1", "libgcc-s1"),
            ("libstdc++.so.6", "libstdc++6"),
        ] {
            assert_eq!(
                squeeze_library(soname),
                squeeze(package),
                "{soname} {package}"
            );
        }
        assert_ne!(
            squeeze_library("libnl-3.so.200"),
            squeeze("libnl-route-3-200")
        );
    }

    #[test]
    fn programs_are_found_under_any_of_the_program_folders() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sbin")).unwrap();
        fs::create_dir_all(dir.path().join("usr/lib/x86_64-linux-gnu/nbdkit/plugins")).unwrap();
        fs::write(dir.path().join("sbin/mdadm"), "").unwrap();
        let plugin = dir
            .path()
            .join("usr/lib/x86_64-linux-gnu/nbdkit/plugins/p.so");
        fs::write(&plugin, "").unwrap();
        assert_eq!(
            find(dir.path(), "mdadm").unwrap(),
            Some(dir.path().join("sbin/mdadm"))
        );
        assert_eq!(find(dir.path(), "p.so").unwrap(), Some(plugin));
        assert_eq!(find(dir.path(), "absent").unwrap(), None);
    }
}
