//! Runs a shell script inside a real Linux kernel with real md: User Mode Linux, an ordinary
//! process.
//!
//! ```text
//!  host                                 kernel
//!  member file 0 ---- ubd0 -----------> $D0 = /dev/ubda
//!  member file 15 --- ubd15 ----------> $D15 = /dev/ubdp
//!  member file 16 --- hostfs + loop --> $D16 = /dev/loop0      (the ubd driver has 16 minors)
//!  the whole host --- hostfs ---------> $H/any/absolute/path
//!  stdout, status <-- hostfs ---------- the script, with stderr in its stdout
//! ```
//!
//! The initramfs holds a static busybox, mdadm, mke2fs and e2fsck with their libraries, and the md
//! modules. There is no udev inside; devtmpfs makes the nodes. Scripts see the functions of
//! `prelude.sh`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::cpio::Archive;
use crate::oracle::{KERNEL, Oracle};

/// Minors of the ubd driver.
const UBD_MAX: usize = 16;
/// Loop devices made at boot.
const LOOP_MAX: usize = 200;
/// The modules scripts may count on; what they depend on is loaded before them.
const MODULES: [&str; 6] = ["md-mod", "raid0", "raid1", "raid10", "raid456", "loop"];
/// Modules that only some kernels have.
const OPTIONAL_MODULES: [&str; 3] = ["linear", "faulty", "md-cluster"];
/// Programs for scripts, beside busybox.
const PROGRAMS: [&str; 3] = ["mdadm", "mke2fs", "e2fsck"];
const PRELUDE: &str = include_str!("prelude.sh");
/// Functions for scripts that run a cluster of one node: see [`Kernel::cluster`].
const CLUSTER: &str = include_str!("cluster.sh");

/// A boot to be: members, script, limits.
#[derive(Debug, Clone)]
pub struct Kernel {
    oracle: Oracle,
    members: Vec<PathBuf>,
    script: String,
    timeout: Duration,
    memory_mib: u32,
    pinned: bool,
}

/// What a boot left.
#[derive(Debug)]
pub struct KernelRun {
    /// Exit status of the script; `None` when the kernel was killed by the script's `crash`.
    pub status: Option<i32>,
    /// Standard output and error of the script.
    pub stdout: String,
    /// The kernel's log (whole after a normal end, else what reached the console).
    pub log: String,
    /// Wall time from start to end.
    pub elapsed: Duration,
}

impl KernelRun {
    /// The value printed by the script in a line `NAME=value`.
    ///
    /// # Errors
    /// When there is no such line.
    pub fn value(&self, name: &str) -> Result<&str> {
        self.stdout
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .with_context(|| format!("the script printed no {name}=\n{}", self.stdout))
    }
}

impl Kernel {
    /// A boot without members, with a limit of two minutes.
    pub fn new(oracle: &Oracle) -> Kernel {
        Kernel {
            oracle: oracle.clone(),
            members: Vec::new(),
            script: String::new(),
            timeout: Duration::from_secs(120),
            memory_mib: 512,
            pinned: false,
        }
    }

    /// Adds a file as the next device: the first is `$D0`, the next `$D1`.
    pub fn member(mut self, path: impl AsRef<Path>) -> Kernel {
        self.members.push(path.as_ref().to_path_buf());
        self
    }

    /// Adds files as the next devices.
    pub fn members<P: AsRef<Path>>(self, paths: impl IntoIterator<Item = P>) -> Kernel {
        paths.into_iter().fold(self, Kernel::member)
    }

    /// Appends lines to the script. It runs in busybox's shell with `set -e`.
    pub fn script(mut self, lines: &str) -> Kernel {
        self.script.push_str(lines);
        self.script.push('\n');
        self
    }

    /// The script that follows runs a cluster of one node, with the real md-cluster and its lock
    /// manager: `cluster_up NAME`, `cluster_start md0 $D0 $D1`, `cluster_stop md0`.
    pub fn cluster(self) -> Kernel {
        self.script(CLUSTER)
    }

    /// Sets the limit after which the kernel is killed and the run is an error.
    pub fn timeout(mut self, timeout: Duration) -> Kernel {
        self.timeout = timeout;
        self
    }

    /// Sets the kernel's memory; 512 MiB unless set.
    pub fn memory_mib(mut self, memory_mib: u32) -> Kernel {
        self.memory_mib = memory_mib;
        self
    }

    /// Keeps the kernel on one processor, for measuring: it has several processes, of which one
    /// runs at a time, and is three times as fast where none of them moves.
    pub fn pinned(mut self) -> Kernel {
        self.pinned = true;
        self
    }

    /// The device name of member `index` inside the kernel.
    pub fn device(index: usize) -> String {
        match index.checked_sub(UBD_MAX) {
            None => {
                let letter = b'a' + u8::try_from(index).expect("below UBD_MAX");
                format!("/dev/ubd{}", char::from(letter))
            }
            Some(number) => format!("/dev/loop{number}"),
        }
    }

    /// Boots, runs the script, waits for the end.
    ///
    /// # Errors
    /// When the kernel cannot be started, does not reach the script, panics, or is not done in
    /// time. A script that fails is no error here: see [`KernelRun::status`].
    pub fn run(&self) -> Result<KernelRun> {
        let dir = tempfile::Builder::new().prefix("umd-uml").tempdir()?;
        fs::write(dir.path().join("initrd"), self.initrd()?)?;
        fs::write(dir.path().join("script"), self.whole_script(dir.path())?)?;
        let start = Instant::now();
        let mut boot = Boot::start(self.command(dir.path())?)?;
        let ended = boot.wait(dir.path(), self.timeout)?;
        let elapsed = start.elapsed();
        let read = |name: &str| match fs::read(dir.path().join(name)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        };
        let stdout = read("stdout");
        let console = read("console");
        let log = Some(read("dmesg"))
            .filter(|text| !text.is_empty())
            .unwrap_or(console);
        let status = match ended {
            Ended::Crashed => None,
            Ended::TimedOut => {
                bail!(
                    "the kernel was not done after {:?}\n{stdout}\n{log}",
                    self.timeout
                )
            }
            Ended::Itself => {
                let text = read("status");
                let status = text.trim().parse::<i32>();
                Some(status.map_err(|_| {
                    anyhow::anyhow!("the kernel ended before the script did\n{stdout}\n{log}")
                })?)
            }
        };
        Ok(KernelRun {
            status,
            stdout,
            log,
            elapsed,
        })
    }

    /// Boots and runs a script that must end with status 0.
    ///
    /// # Errors
    /// As [`Kernel::run`], and when the script fails; the message carries its output and the
    /// kernel's log.
    pub fn run_ok(&self) -> Result<KernelRun> {
        let run = self.run()?;
        ensure!(
            run.status == Some(0),
            "the script in the kernel ended with {:?}\n{}\n--- kernel log, last lines\n{}",
            run.status,
            run.stdout,
            last_lines(&run.log, 60)
        );
        Ok(run)
    }

    /// Boots and runs a script that must end by `crash`.
    ///
    /// # Errors
    /// As [`Kernel::run`], and when the script ends by itself.
    pub fn run_crash(&self) -> Result<KernelRun> {
        let run = self.run()?;
        if let Some(status) = run.status {
            bail!(
                "the script should have crashed but ended with {status}\n{}",
                run.stdout
            );
        }
        Ok(run)
    }

    fn command(&self, dir: &Path) -> Result<Command> {
        let mut command = self.oracle.command(KERNEL)?;
        if self.pinned {
            command = on_one_processor(&command);
        }
        command.arg(format!("mem={}M", self.memory_mib));
        command.arg(format!("initrd={}", dir.join("initrd").display()));
        command
            .arg(format!("uml_dir={}/", dir.display()))
            .arg("umid=k");
        command.args(["con=null", "con0=fd:0,fd:1", "loglevel=5", "panic=-1"]);
        for (index, path) in self.members.iter().take(UBD_MAX).enumerate() {
            command.arg(format!("ubd{index}={}", plain(path)?));
        }
        command.arg(format!("umd_dir={}", plain(dir)?));
        let console = File::create(dir.join("console"))?;
        command
            .stdout(console.try_clone()?)
            .stderr(console)
            .stdin(Stdio::null());
        // Its helper processes die with it when the group is killed.
        command.process_group(0);
        Ok(command)
    }

    /// The prelude, the device variables and the script.
    fn whole_script(&self, dir: &Path) -> Result<String> {
        ensure!(
            self.members.len() <= UBD_MAX + LOOP_MAX,
            "too many members for one boot"
        );
        let mut text = format!("H=/host\nCTL=/host{}\n{PRELUDE}\n", dir.display());
        for program in PROGRAMS {
            // A function, because busybox's shell prefers its own programs to those in PATH.
            text.push_str(&format!("{program}() {{ /oracle/{program} \"$@\"; }}\n"));
        }
        for (index, path) in self.members.iter().enumerate() {
            let device = Kernel::device(index);
            if index >= UBD_MAX {
                text.push_str(&format!("losetup {device} $H{}\n", plain(path)?));
            }
            text.push_str(&format!("D{index}={device}\n"));
        }
        text.push_str(&self.script);
        Ok(text)
    }

    fn initrd(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for dir in [
            "bin",
            "dev",
            "proc",
            "sys",
            "host",
            "tmp",
            "run",
            "run/mdadm",
            "modules",
        ] {
            archive.directory(dir);
        }
        archive.character_device("dev/console", 5, 1);
        let mut init = String::from(INIT_HEAD);
        for (number, file) in self.modules()?.iter().enumerate() {
            let name = format!("modules/{number}.ko");
            let data = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            archive.file(&name, &data);
            let options = if file.ends_with("loop.ko") {
                format!("max_loop={LOOP_MAX}")
            } else {
                "".into()
            };
            init.push_str(&format!(
                "insmod /{name} {options} || echo insmod failed: {name}\n"
            ));
        }
        init.push_str(INIT_TAIL);
        archive.file("init", init.as_bytes());
        let busybox = self
            .oracle
            .find("busybox")
            .context("busybox is not among the oracles")?;
        archive.file("bin/busybox", &fs::read(busybox)?);
        self.add_programs(&mut archive)?;
        Ok(archive.finish())
    }

    /// Adds the programs, the loader and the libraries where the loader looks for them.
    fn add_programs(&self, archive: &mut Archive) -> Result<()> {
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for program in PROGRAMS {
            let found = self.oracle.find_with_folder(program);
            let (folder, path) =
                found.with_context(|| format!("{program} is not among the oracles"))?;
            for library in folder.libraries(&path)? {
                let name = library.file_name().and_then(|name| name.to_str());
                let name = name.context("a library has a strange name")?;
                let dir = if name.starts_with("ld-") {
                    "lib64"
                } else {
                    "lib"
                };
                // With two folders the first program is from the newer one, and its libc is good
                // for what was made for an older.
                files.entry(format!("{dir}/{name}")).or_insert(library);
            }
            files.insert(format!("oracle/{program}"), path);
        }
        let mut dirs: Vec<&str> = files
            .keys()
            .filter_map(|place| place.rsplit_once('/'))
            .map(|(dir, _)| dir)
            .collect();
        dirs.sort_unstable();
        dirs.dedup();
        for dir in dirs.into_iter() {
            archive.directory(dir);
        }
        for (place, path) in &files {
            let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            archive.file(place, &data);
        }
        Ok(())
    }

    /// The files of the modules in an order in which they can be loaded. A kernel that was built
    /// here has everything in it.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        let found = self.oracle.find_with_folder(KERNEL);
        let (folder, _) = found.context("there is no kernel among the oracles")?;
        if folder.is_built_here() {
            return Ok(Vec::new());
        }
        let base = folder.root().join("usr/lib/uml/modules");
        let version = fs::read_dir(&base)
            .with_context(|| format!("cannot read {}", base.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.join("modules.dep").is_file())
            .context("user-mode-linux has no modules.dep")?;
        let table = fs::read_to_string(version.join("modules.dep"))?;
        let wanted = MODULES.iter().map(|name| (*name, true));
        let wanted = wanted.chain(OPTIONAL_MODULES.iter().map(|name| (*name, false)));
        let mut order: Vec<PathBuf> = Vec::new();
        for (name, needed) in wanted {
            let Some(files) = load_order(&table, name) else {
                ensure!(!needed, "the kernel has no module {name}");
                continue;
            };
            for file in files.into_iter().map(|file| version.join(file)) {
                if !order.contains(&file) {
                    order.push(file);
                }
            }
        }
        Ok(order)
    }
}

const INIT_HEAD: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
";

const INIT_TAIL: &str = "
mount -t hostfs none /host -o /
CTL=/host$(sed 's/.*umd_dir=\\([^ ]*\\).*/\\1/' /proc/cmdline)
(sh $CTL/script >$CTL/stdout 2>&1; echo $? >$CTL/status.new)
dmesg >$CTL/dmesg
mv $CTL/status.new $CTL/status
sync
poweroff -f
";

/// Module files from the first to be loaded to the module itself; `modules.dep` lists them from the
/// last to the first.
fn load_order(modules_dep: &str, name: &str) -> Option<Vec<String>> {
    let line = modules_dep.lines().find(|line| {
        line.split(':')
            .next()
            .is_some_and(|f| f.ends_with(&format!("/{name}.ko")))
    })?;
    let (file, dependencies) = line.split_once(':')?;
    let mut files: Vec<String> = dependencies
        .split_whitespace()
        .rev()
        .map(String::from)
        .collect();
    files.push(file.to_string());
    Some(files)
}

/// A path as the kernel's command line can carry it.
fn plain(path: &Path) -> Result<String> {
    let path = std::path::absolute(path)?;
    let text = path.to_str().context("paths for the kernel must be text")?;
    ensure!(
        !text.contains(|c: char| c.is_whitespace() || ",:'\"$".contains(c)),
        "the kernel's command line cannot carry the path {text}"
    );
    Ok(text.to_string())
}

/// The same command on one processor: the last, as interrupts often come to the first.
fn on_one_processor(command: &Command) -> Command {
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let mut pinned = Command::new("taskset");
    pinned.arg("-c").arg(last.to_string());
    pinned.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            pinned.env(name, value);
        }
    }
    pinned
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

enum Ended {
    Itself,
    Crashed,
    TimedOut,
}

/// A running kernel; dropped, it and its helpers are killed.
struct Boot {
    child: Child,
}

impl Boot {
    fn start(mut command: Command) -> Result<Boot> {
        Ok(Boot {
            child: command.spawn().context("cannot start User Mode Linux")?,
        })
    }

    /// Waits for the end, for the script's `crash`, or for the limit.
    fn wait(&mut self, dir: &Path, timeout: Duration) -> Result<Ended> {
        let limit = Instant::now() + timeout;
        let crash = dir.join("crash");
        loop {
            if self.child.try_wait()?.is_some() {
                return Ok(Ended::Itself);
            }
            if crash.exists() {
                self.kill();
                return Ok(Ended::Crashed);
            }
            if Instant::now() > limit {
                self.kill();
                return Ok(Ended::TimedOut);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Already gone is as good.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_what_they_depend_on() {
        let table = "k/a/tx.ko:\nk/a/xor.ko: k/a/tx.ko\nk/md/raid456.ko: k/a/xor.ko k/a/tx.ko\n";
        assert_eq!(
            load_order(table, "raid456").unwrap(),
            ["k/a/tx.ko", "k/a/xor.ko", "k/md/raid456.ko"]
        );
        assert_eq!(load_order(table, "raid1"), None);
        assert_eq!(load_order(table, "id456"), None, "whole names only");
    }

    #[test]
    fn paths_the_command_line_would_split_are_refused() {
        assert!(plain(Path::new("/tmp/a b")).is_err());
        assert!(plain(Path::new("/tmp/a,b")).is_err());
        assert_eq!(plain(Path::new("/tmp/a.img")).unwrap(), "/tmp/a.img");
    }

    #[test]
    fn devices_past_the_ubd_driver_are_loop_devices() {
        assert_eq!(Kernel::device(0), "/dev/ubda");
        assert_eq!(Kernel::device(15), "/dev/ubdp");
        assert_eq!(Kernel::device(16), "/dev/loop0");
    }
}
