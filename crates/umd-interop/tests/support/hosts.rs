//! An etcd, and the hosts of one array: each is a daemon of its own.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use umd_format::{Format, SuperblockV1};
use umd_interop::oracle::{Oracle, skipped};
use umd_interop::ports::free_address;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, qemu_io, text};

pub const MIB: usize = 1 << 20;
pub const BLOCK: usize = 64 << 10;

/// An etcd of one member on loopback. It ends with this.
pub struct Etcd {
    pub child: Child,
    pub url: String,
}

impl Etcd {
    pub fn start(oracle: &Oracle, dir: &Path) -> Option<Etcd> {
        Etcd::start_with(oracle, dir, None)
    }

    /// One that speaks TLS only, with what a directory has, where there is one.
    pub fn start_with(oracle: &Oracle, dir: &Path, tls: Option<&Path>) -> Option<Etcd> {
        if oracle.find("etcd").is_none() {
            skipped("clustered arrays", "there is no etcd (cargo xtask oracle)");
            return None;
        }
        let [client, peer] = [free_address(), free_address()];
        let scheme = tls.map_or("http", |_| "https");
        let (url, peer) = (format!("{scheme}://{client}"), format!("http://{peer}"));
        let log = fs::File::create(dir.join("etcd.log")).unwrap();
        let mut command = oracle.command("etcd").unwrap();
        command.args(["--name", "one", "--data-dir", text(&dir.join("etcd"))]);
        command.args(["--listen-client-urls", &url]);
        command.args(["--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        for (option, file) in [
            ("--trusted-ca-file", "ca-cert.pem"),
            ("--cert-file", "etcd-cert.pem"),
            ("--key-file", "etcd-key.pem"),
        ] {
            command.args(tls.iter().flat_map(|dir| {
                let path = dir.join(file).into_os_string();
                [option.into(), path]
            }));
        }
        command.args(tls.map(|_| "--client-cert-auth"));
        command.stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        wait_for(client);
        Some(Etcd { child, url })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn wait_for(address: SocketAddr) {
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        let late = begin.elapsed() > Duration::from_secs(60);
        assert!(!late, "etcd does not start");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Level and layout, members.
pub const ARRAYS: [(&str, &str, usize); 2] = [("pair", "-l1 -n2", 2), ("ten", "-l10 -n4 -c64", 4)];

pub fn made(umd: &Umd, scratch: &Scratch, array: (&str, &str, usize)) -> Vec<PathBuf> {
    made_in(umd, scratch, array.0, array)
}

/// The same in files of another name.
pub fn made_in(
    umd: &Umd,
    scratch: &Scratch,
    files: &str,
    (name, options, count): (&str, &str, usize),
) -> Vec<PathBuf> {
    let set = scratch.images(files, count, 24 * MIB as u64).unwrap();
    let mut args = vec!["create", name, "--bitmap=clustered", "--home-cluster=hall"];
    args.extend(["--nodes=2", "--bitmap-chunk=1M", "--config=none"]);
    args.extend(options.split(' '));
    args.extend(set.iter().map(|path| text(path)));
    umd.ok(&args).unwrap();
    set
}

/// Starts it on one host; what was said, where it is refused.
pub fn join(umd: &Umd, node: &str, name: &str, etcd: &Etcd, set: &[PathBuf]) -> Result<(), String> {
    join_with(umd, (node, name), etcd, set, &[])
}

pub fn join_with(
    umd: &Umd,
    (node, name): (&str, &str),
    etcd: &Etcd,
    set: &[PathBuf],
    more: &[&str],
) -> Result<(), String> {
    let server = format!("--cluster-server={}", etcd.url);
    let node = format!("--cluster-node={node}");
    let mut args = vec![
        "assemble",
        name,
        "--cluster-engine=etcd",
        "--home-cluster=hall",
    ];
    args.extend([server.as_str(), &node]);
    args.extend(more);
    args.extend(set.iter().map(|path| text(path)));
    let output = umd.output(&args).unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

pub fn states(array: &Value) -> Vec<String> {
    let nodes = array["cluster"]["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            format!(
                "{} {}",
                node["host"].as_str().unwrap_or("-"),
                node["state"].as_str().unwrap()
            )
        })
        .collect()
}

/// Every second block, from this one on.
pub fn writes(first: usize, pattern: u8) -> Vec<String> {
    let blocks = (first..192).step_by(2);
    blocks
        .map(|block| format!("write -P {pattern} {} {BLOCK}", block * BLOCK))
        .collect()
}

pub fn reads(first: usize, pattern: u8) -> Vec<String> {
    let commands = writes(first, pattern).into_iter();
    commands
        .map(|one| one.replacen("write", "read", 1))
        .collect()
}

pub fn settled(array: &Value) -> bool {
    let rests = array["sync"].is_null() && array["sync_pending"] == false;
    rests && array["cluster"]["waits"].as_array().unwrap().is_empty()
}

/// The data of the members that hold the same, pair by pair.
pub fn assert_legs_alike(set: &[PathBuf]) {
    let data = |member: &PathBuf| {
        let bytes = fs::read(member).unwrap();
        let sectors = bytes.len() as u64 / 512;
        let found = SuperblockV1::load(&bytes[4096..8192], Format::V1_2, sectors).unwrap();
        bytes[found.fields.data_offset_sectors as usize * 512..].to_vec()
    };
    for pair in set.chunks(2) {
        assert!(data(&pair[0]) == data(&pair[1]), "{pair:?} differ");
    }
}

/// Both at the same time; each reads what the other wrote.
pub fn both_write(oracle: &Oracle, (alpha, beta): (&Umd, &Umd), name: &str) {
    thread::scope(|scope| {
        for (umd, first, pattern) in [(alpha, 0, 0x11), (beta, 1, 0x22)] {
            let uri = umd.daemon_uri(name);
            scope.spawn(move || qemu_io(oracle, &uri, &writes(first, pattern)).unwrap());
        }
    });
    qemu_io(oracle, &alpha.daemon_uri(name), &reads(1, 0x22)).unwrap();
    qemu_io(oracle, &beta.daemon_uri(name), &reads(0, 0x11)).unwrap();
}

/// The members that a host shows: file and state.
pub fn members(umd: &Umd, name: &str) -> Vec<(String, String)> {
    let array = umd.detail(name).unwrap();
    let members = array["members"].as_array().unwrap().iter();
    members
        .map(|member| {
            let path = Path::new(member["path"].as_str().unwrap());
            let file = path.file_name().unwrap().to_str().unwrap();
            (
                file.to_owned(),
                member["state"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

pub fn state_of(umd: &Umd, name: &str, member: &Path) -> Option<String> {
    let file = member.file_name().unwrap().to_str().unwrap();
    let mut all = members(umd, name).into_iter();
    all.find(|(one, _)| one == file).map(|(_, state)| state)
}

pub fn refused(umd: &Umd, args: &[&str]) -> String {
    let output = umd.output(args).unwrap();
    assert!(!output.status.success(), "{args:?} was not refused");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn in_sync(array: &Value) -> bool {
    let members = array["members"].as_array().unwrap();
    members.iter().all(|member| member["state"] == "in_sync") && settled(array)
}

/// mdadm finds nothing wrong with any of them: every member in its slot; and all bitmaps are there.
pub fn examined(oracle: &Oracle, umd: &Umd, set: &[PathBuf]) {
    for member in set {
        let examine = oracle.text("mdadm", &["--examine", text(member)]).unwrap();
        let all = "A".repeat(set.len());
        let state = format!("Array State : {all} ");
        assert!(examine.contains(&state), "{examine}");
        assert!(examine.contains("- correct"), "{examine}");
        let bitmap = umd.ok(&["-X", text(member)]).unwrap();
        assert!(bitmap.contains("Node Slot : 1"), "{bitmap}");
        assert_eq!(bitmap.matches(" 0 dirty").count(), 2, "{bitmap}");
    }
}
