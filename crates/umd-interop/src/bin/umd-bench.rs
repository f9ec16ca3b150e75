//! `cargo xtask bench [--quick]`: one run, one table.
//!
//! Everything lies on memory-backed files, so what is measured is the way to them: the raw file,
//! umd's arrays over NBD, and single files behind nbdkit and qemu-nbd. Rounds are interleaved
//! (every target once, then every target again), figures are medians, and the table shows ratios as
//! well, because only those can be compared between machines. The table replaces the part between
//! the marks in docs/performance.md.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use umd_export::nbd::Address;
use umd_interop::core_plane::{CoreLoad, CorePlane};
use umd_interop::door_plane::{self, DoorLoad};
use umd_interop::oracle::Oracle;
use umd_interop::umd::{Served, Umd};

const MIB: u64 = 1 << 20;
/// Bytes of every member and of every single file.
const FILE: u64 = 128 * MIB;
const MARK_BEGIN: &str = "<!-- bench: begin -->";
const MARK_END: &str = "<!-- bench: end -->";

/// A load.
struct Load {
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: u32,
    /// Throughput in MiB/s, else operations in thousands per second.
    throughput: bool,
}

const fn load(
    name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: u32,
    throughput: bool,
) -> Load {
    Load {
        name,
        rw,
        block,
        depth,
        throughput,
    }
}

const LOADS: [Load; 7] = [
    load("read 1M", "read", "1m", 8, true),
    load("write 1M", "write", "1m", 8, true),
    load("random read 4K, depth 32", "randread", "4k", 32, false),
    load("random write 4K, depth 32", "randwrite", "4k", 32, false),
    load("random write 64K, depth 16", "randwrite", "64k", 16, true),
    load("random read 4K, depth 1", "randread", "4k", 1, false),
    load("random write 4K, depth 1", "randwrite", "4k", 1, false),
];

/// umd's arrays: names without and with a door, level, members.
const ARRAYS: [(&str, &str, &str, usize); 4] = [
    ("core raid0 x2", "nbd raid0 x2", "0", 2),
    ("core raid1 x2", "nbd raid1 x2", "1", 2),
    ("core raid5 x3", "nbd raid5 x3", "5", 3),
    ("core raid6 x4", "nbd raid6 x4", "6", 4),
];

/// Where a load goes.
enum Door {
    File(PathBuf),
    Nbd(String),
    /// No door: the engine in this process.
    Core(Box<RefCell<CorePlane>>),
}

struct Target {
    name: &'static str,
    door: Door,
    bytes: u64,
    /// Who serves it.
    server: Option<Server>,
}

/// Where a server listens, what it serves, and its process.
struct Server {
    address: Address,
    export: String,
    pid: u32,
}

/// Loads of the client that batches: name, write, bytes, depth, and whether they are told in GB/s.
const DOOR_LOADS: [(&str, bool, u32, usize, bool); 5] = [
    ("read 4K, depth 64", false, 4096, 64, false),
    ("write 4K, depth 64", true, 4096, 64, false),
    ("write 4K, depth 1", true, 4096, 1, false),
    ("read 1M, depth 4", false, 1 << 20, 4, true),
    ("write 1M, depth 4", true, 1 << 20, 4, true),
];

/// Programs that serve while the bench runs.
struct Servers {
    plain: Vec<Child>,
    _arrays: Vec<Served>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.plain {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let oracle = Oracle::open()?;
    let umd = Umd::or_skip("bench").context("the bench needs the release binary of umd")?;
    let dir = tempfile::Builder::new()
        .prefix("umd-bench")
        .tempdir_in("/dev/shm")?;
    let (targets, _servers) = set_up(&oracle, &umd, dir.path())?;
    let (rounds, seconds) = if quick { (3, 0.5) } else { (7, 2.0) };
    let mut samples = vec![vec![Vec::new(); targets.len()]; LOADS.len()];
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (row, load) in LOADS.iter().enumerate() {
            for (column, target) in targets.iter().enumerate() {
                samples[row][column].push(measure(&oracle, load, target, seconds, dir.path())?);
            }
        }
    }
    let medians: Vec<Vec<f64>> = samples
        .into_iter()
        .map(|row| row.into_iter().map(median).collect())
        .collect();
    let mut text = report(&targets, &medians, rounds, seconds);
    text.push_str(&doors(&targets, rounds, seconds)?);
    println!("{text}");
    write_page(&text)
}

/// Makes the files and arrays and starts the servers.
fn set_up(oracle: &Oracle, umd: &Umd, dir: &Path) -> Result<(Vec<Target>, Servers)> {
    let mut servers = Servers {
        plain: Vec::new(),
        _arrays: Vec::new(),
    };
    let raw = full_file(&dir.join("raw"))?;
    let mut targets = vec![Target {
        name: "raw file",
        door: Door::File(raw),
        bytes: FILE,
        server: None,
    }];
    for (core, name, level, count) in ARRAYS {
        let members = new_array(umd, dir, &format!("c{level}"), level, count)?;
        targets.push(Target {
            name: core,
            door: Door::Core(Box::new(RefCell::new(CorePlane::open(&members)?))),
            bytes: FILE - 16 * MIB,
            server: None,
        });
        let array = format!("r{level}");
        let members = new_array(umd, dir, &array, level, count)?;
        let served = umd.serve(&array, &members, &[])?;
        targets.push(Target {
            name,
            door: Door::Nbd(served.uri()),
            bytes: FILE - 16 * MIB,
            server: Some(Server {
                address: Address::Unix(served.socket().to_path_buf()),
                export: array,
                pid: served.pid(),
            }),
        });
        servers._arrays.push(served);
    }
    plain_servers(oracle, dir, &mut targets, &mut servers)?;
    Ok((targets, servers))
}

/// Makes an array on full files, and leaves it stopped.
fn new_array(
    umd: &Umd,
    dir: &Path,
    array: &str,
    level: &str,
    count: usize,
) -> Result<Vec<PathBuf>> {
    let members = (0..count)
        .map(|number| full_file(&dir.join(format!("{array}-{number}"))))
        .collect::<Result<Vec<_>>>()?;
    let (level_option, count_option) = (format!("-l{level}"), format!("-n{count}"));
    let mut args = vec![
        "create",
        array,
        &level_option,
        &count_option,
        "--force",
        "-e1.2",
    ];
    if level != "0" {
        args.extend(["--assume-clean", "--bitmap=none"]);
    }
    args.extend(members.iter().filter_map(|path| path.to_str()));
    umd.ok(&args)?;
    umd.ok(&["stop", array])?;
    Ok(members)
}

/// nbdkit and qemu-nbd with one file each.
fn plain_servers(
    oracle: &Oracle,
    dir: &Path,
    targets: &mut Vec<Target>,
    servers: &mut Servers,
) -> Result<()> {
    let file = full_file(&dir.join("nbdkit-file"))?;
    let mut nbdkit = |name, plugin: &str, argument: String| -> Result<()> {
        let socket = dir.join(format!("{plugin}.sock"));
        let mut command = oracle.command("nbdkit")?;
        command
            .args(["-f", "-U"])
            .arg(&socket)
            .arg(oracle.nbdkit_plugin(plugin)?)
            .arg(argument);
        start(command, &socket, name, targets, servers)
    };
    nbdkit("nbdkit file", "file", file.display().to_string())?;
    nbdkit("nbdkit memory", "memory", FILE.to_string())?;
    let (file, socket) = (full_file(&dir.join("qemu-file"))?, dir.join("qemu.sock"));
    let mut command = oracle.command("qemu-nbd")?;
    command
        .args(["-f", "raw", "-t", "-e", "8", "--cache=writeback", "-k"])
        .arg(&socket)
        .arg(&file);
    start(command, &socket, "qemu-nbd file", targets, servers)
}

fn start(
    mut command: Command,
    socket: &Path,
    name: &'static str,
    targets: &mut Vec<Target>,
    servers: &mut Servers,
) -> Result<()> {
    let child = command.stdout(Stdio::null()).spawn();
    let child = child.with_context(|| format!("cannot start {name}"))?;
    let pid = child.id();
    servers.plain.push(child);
    let limit = Instant::now() + Duration::from_secs(10);
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        ensure!(Instant::now() < limit, "{name} is not ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    targets.push(Target {
        name,
        door: Door::Nbd(uri),
        bytes: FILE - 16 * MIB,
        server: Some(Server {
            address: Address::Unix(socket.to_path_buf()),
            export: String::new(),
            pid,
        }),
    });
    Ok(())
}

/// A file whose every page exists, so that no load pays for the first touch.
fn full_file(path: &Path) -> Result<PathBuf> {
    fs::write(path, vec![0x5a; usize::try_from(FILE)?])
        .with_context(|| format!("no room for {}", path.display()))?;
    Ok(path.to_path_buf())
}

/// One run of fio: MiB/s or thousands of operations a second.
fn measure(oracle: &Oracle, load: &Load, target: &Target, seconds: f64, dir: &Path) -> Result<f64> {
    if let Door::Core(plane) = &target.door {
        return measure_core(&mut plane.borrow_mut(), load, target.bytes, seconds);
    }
    let mut command = oracle.command("fio")?;
    command
        .current_dir(dir)
        .args(["--name=b", "--output-format=json", "--time_based"]);
    command
        .arg(format!("--rw={}", load.rw))
        .arg(format!("--bs={}", load.block));
    command
        .arg(format!("--iodepth={}", load.depth))
        .arg(format!("--size={}", target.bytes));
    command.arg(format!("--runtime={}ms", (seconds * 1000.0).round()));
    match &target.door {
        Door::File(path) => command
            .arg("--ioengine=io_uring")
            .arg(format!("--filename={}", path.display())),
        Door::Nbd(uri) => command.arg("--ioengine=nbd").arg(format!("--uri={uri}")),
        Door::Core(_) => unreachable!("measured above"),
    };
    let output = command.output().context("cannot run fio")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let what = || format!("{} on {}", load.name, target.name);
    if !output.status.success() {
        bail!(
            "fio, {}: {text}{}",
            what(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let start = text
        .find('{')
        .with_context(|| format!("fio, {}: {text}", what()))?;
    let document: Value = serde_json::from_str(&text[start..])?;
    let side = if load.rw.ends_with("read") {
        "read"
    } else {
        "write"
    };
    let figures = &document["jobs"][0][side];
    let (key, unit) = if load.throughput {
        ("bw_bytes", MIB as f64)
    } else {
        ("iops", 1000.0)
    };
    let value = figures[key]
        .as_f64()
        .with_context(|| format!("fio printed no {key}"))?;
    ensure!(value > 0.0, "fio measured nothing: {}", what());
    Ok(value / unit)
}

/// The same load on the engine alone.
fn measure_core(plane: &mut CorePlane, load: &Load, span: u64, seconds: f64) -> Result<f64> {
    let kib: u64 = match load.block {
        "1m" => 1024,
        "64k" => 64,
        _ => 4,
    };
    let core = CoreLoad {
        write: load.rw.ends_with("write"),
        random: load.rw.starts_with("rand"),
        block: kib << 10,
        depth: load.depth,
        span,
    };
    let rate = plane.run(core, Duration::from_secs_f64(seconds))?;
    Ok(if load.throughput {
        rate * kib as f64 / 1024.0
    } else {
        rate / 1000.0
    })
}

/// All servers before the client that batches, in turns: a table of rates, with the processor that
/// the server needs for each request.
fn doors(targets: &[Target], rounds: usize, seconds: f64) -> Result<String> {
    let served = || {
        targets
            .iter()
            .filter_map(|t| t.server.as_ref().map(|s| (t, s)))
    };
    let mut samples = vec![vec![(Vec::new(), Vec::new()); served().count()]; DOOR_LOADS.len()];
    for _ in 0..rounds {
        for (row, (_, write, block, depth, _)) in samples.iter_mut().zip(DOOR_LOADS) {
            for ((target, server), cell) in served().zip(row) {
                let load = DoorLoad {
                    write,
                    block,
                    depth,
                    span: target.bytes,
                };
                let door = (&server.address, server.export.as_str());
                let one = door_plane::measure(door, server.pid, load, seconds)?;
                cell.0.push(one.rate);
                cell.1.push(one.server_us);
            }
        }
    }
    let names: Vec<&str> = served().map(|(target, _)| target.name).collect();
    let mut text = String::from(
        "\nA client that batches: thousands a second or GB/s, and microseconds of processor that \
        the server needs for each request.\n",
    );
    let _ = writeln!(text, "\n| load | {} |", names.join(" | "));
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(names.len()));
    for (row, (name, _, block, _, throughput)) in samples.into_iter().zip(DOOR_LOADS) {
        let cells = row.into_iter().map(|(rates, micros)| {
            let (rate, micros) = (median(rates), median(micros));
            match throughput {
                true => format!("{:.1}, {micros:.0} us", rate * f64::from(block) / 1e9),
                false => format!("{:.0}, {micros:.1} us", rate / 1e3),
            }
        });
        let cells: Vec<String> = cells.collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    Ok(text)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// The table in Markdown: figures, then ratios to the raw file and to nbdkit's file.
fn report(targets: &[Target], medians: &[Vec<f64>], rounds: usize, seconds: f64) -> String {
    let mut text = format!(
        "{} CPUs ({}), files on /dev/shm; medians of {rounds} interleaved rounds of {seconds} s.\n\
        Throughput in MiB/s, operations in thousands a second, client and server on one machine.\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        cpu_name(),
    );
    let column = |name: &str| targets.iter().position(|target| target.name == name);
    table(&mut text, "", targets, medians, None);
    for base in ["raw file", "nbdkit file"] {
        let title = format!("As a ratio to {base}");
        table(&mut text, &title, targets, medians, column(base));
    }
    text
}

fn table(
    text: &mut String,
    title: &str,
    targets: &[Target],
    medians: &[Vec<f64>],
    base: Option<usize>,
) {
    if !title.is_empty() {
        let _ = writeln!(text, "\n{title}:");
    }
    let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
    let _ = writeln!(text, "\n| load | {} |", names.join(" | "));
    let _ = writeln!(text, "| --- |{}", " ---: |".repeat(targets.len()));
    for (load, row) in LOADS.iter().zip(medians) {
        let cells: Vec<String> = row
            .iter()
            .map(|value| match base {
                Some(base) => format!("{:.2}", value / row[base]),
                None if *value >= 100.0 => format!("{value:.0}"),
                None => format!("{value:.1}"),
            })
            .collect();
        let _ = writeln!(text, "| {} | {} |", load.name, cells.join(" | "));
    }
}

fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("unknown", |(_, name)| name).to_string()
}

/// Puts the text between the marks of docs/performance.md; makes the page if there is none.
fn write_page(text: &str) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let path = root
        .context("this crate lies two levels down")?
        .join("docs/performance.md");
    let page = fs::read_to_string(&path).unwrap_or_else(|_| {
        format!("# Performance\n\nMeasured by `cargo xtask bench`.\n\n{MARK_BEGIN}\n{MARK_END}\n")
    });
    let (before, rest) = page
        .split_once(MARK_BEGIN)
        .context("docs/performance.md lost a mark")?;
    let (_, after) = rest
        .split_once(MARK_END)
        .context("docs/performance.md lost a mark")?;
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    fs::write(
        &path,
        format!("{before}{MARK_BEGIN}\n{text}{MARK_END}{after}"),
    )?;
    println!("written to {}", path.display());
    Ok(())
}
