//! Other people's NBD clients against the door: libnbd's and QEMU's.
//!
//! They are taken from the folder of oracles (`cargo xtask oracle`) or from `PATH`; a test whose
//! client is in neither says so and passes, unless `UMD_ORACLE_DIR` promises that it is there.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod support;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Running, export};
use umd_export::nbd::client::Client;

const MIB: usize = 1 << 20;

fn oracle_root() -> Option<PathBuf> {
    let dir = std::env::var_os("UMD_ORACLE_DIR").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        target.unwrap_or(workspace).join("oracle")
    });
    Some(dir.join("root")).filter(|root| root.is_dir())
}

/// Every folder of shared libraries below `root`.
fn libraries(root: &Path) -> OsString {
    let mut folders = Vec::new();
    for lib in ["usr/lib", "lib"].map(|lib| root.join(lib)) {
        let entries = fs::read_dir(&lib).into_iter().flatten().flatten();
        folders.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir()),
        );
    }
    std::env::join_paths(folders).unwrap()
}

/// A client program, or `None` when this machine has none.
fn client(name: &str) -> Option<Command> {
    let root = oracle_root();
    let fetched = root.as_ref().map(|root| root.join("usr/bin").join(name));
    let mut command = match (&root, fetched.filter(|path| path.is_file())) {
        (Some(root), Some(path)) => {
            let mut command = Command::new(path);
            command.env("LD_LIBRARY_PATH", libraries(root));
            command
        }
        _ => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
            if !found {
                assert!(
                    std::env::var_os("UMD_ORACLE_DIR").is_none(),
                    "{name} is missing"
                );
                eprintln!("skipped: {name} is not on this machine (cargo xtask oracle fetches it)");
                return None;
            }
            Command::new(name)
        }
    };
    command
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null());
    Some(command)
}

/// What it prints; it has to succeed.
fn run(mut command: Command, arguments: &[&str]) -> String {
    let output = command.args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

/// An image with data in some places, and its bytes.
fn image(directory: &Path) -> (PathBuf, Vec<u8>) {
    let mut bytes = vec![0; 32 * MIB];
    for (number, place) in [0, 512, 5 * MIB, 31 * MIB].into_iter().enumerate() {
        for (at, byte) in bytes[place..][..300_000].iter_mut().enumerate() {
            *byte = (at * 7 + at / 251 + number) as u8;
        }
    }
    let path = directory.join("image");
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn server() -> Running {
    Running::unix(vec![export("r5", 32 * MIB as u64)])
}

#[test]
fn nbdinfo_sees_all_there_is() {
    let Some(command) = client("nbdinfo") else {
        return;
    };
    let server = server();
    Client::connect(&server.address, "r5")
        .unwrap()
        .pwrite(1 << 20, &[1; 4096])
        .unwrap();
    let text = run(command, &[&server.address.uri("r5")]);
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export=\"r5\":",
        "description: 33554432 bytes of memory",
        "export-size: 33554432 (32M)",
        "base:allocation",
        "is_read_only: false",
        "can_df: true",
        "can_fast_zero: false",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 512",
        "block_size_preferred: 65536",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let map = run(
        client("nbdinfo").unwrap(),
        &["--map", &server.address.uri("r5")],
    );
    let fields: Vec<Vec<_>> = map
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        fields,
        [
            ["0", "1048576", "3", "hole,zero"],
            ["1048576", "4096", "0", "data"],
            ["1052672", "32501760", "3", "hole,zero"],
        ]
    );
    let list = run(
        client("nbdinfo").unwrap(),
        &["--list", &server.address.uri("")],
    );
    assert!(list.contains("export=\"r5\":"), "{list}");
}

#[test]
fn nbdcopy_there_and_back() {
    let Some(command) = client("nbdcopy") else {
        return;
    };
    let server = server();
    let directory = tempfile::tempdir().unwrap();
    let (path, bytes) = image(directory.path());
    let uri = server.address.uri("r5");
    run(command, &["--flush", path.to_str().unwrap(), &uri]);
    let back = directory.path().join("back");
    run(client("nbdcopy").unwrap(), &[&uri, back.to_str().unwrap()]);
    assert!(fs::read(back).unwrap() == bytes);
    assert!(server.memory.lock().unwrap().durable > 0, "it flushed");
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let Some(command) = client("qemu-img") else {
        return;
    };
    let server = server();
    let directory = tempfile::tempdir().unwrap();
    let (path, bytes) = image(directory.path());
    let (path, uri) = (path.to_str().unwrap(), server.address.uri("r5"));
    run(
        command,
        &["convert", "-n", "-W", "-f", "raw", "-O", "raw", path, &uri],
    );
    let compare = ["compare", "-f", "raw", "-F", "raw", path, &uri];
    let text = run(client("qemu-img").unwrap(), &compare);
    assert!(text.contains("Images are identical"), "{text}");
    let map = run(
        client("qemu-img").unwrap(),
        &["map", "-f", "raw", "--output=json", &uri],
    );
    assert!(map.contains("\"data\": false"), "{map}");
    let mut own = Client::connect(&server.address, "r5").unwrap();
    assert!(own.pread(0, 32 << 20).unwrap() == bytes);
}

#[test]
fn qemu_io_writes_zeroes_trims_and_errs() {
    let Some(command) = client("qemu-io") else {
        return;
    };
    let server = server();
    let uri = server.address.uri("r5");
    let commands = [
        "write -P 5 1M 64k",
        "write -f -P 6 2M 4k",
        "flush",
        "write -z 1M 32k",
        "write -z -u 8M 1M",
        "discard 16M 4M",
        "read -P 0 1M 32k",
        "read -P 5 1081344 32k",
        "read -P 6 2M 4k",
        // Below the block size: the client has to know it and do more than asked.
        "write -P 9 513 100",
        "read -P 9 513 100",
        "read -P 0 0 513",
    ];
    let mut arguments = vec!["-f", "raw", uri.as_str()];
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    let text = run(command, &arguments);
    assert!(!text.contains("failed"), "{text}");
    let memory = server.memory.lock().unwrap();
    assert!(memory.durable >= 2 && memory.provisioned >= 1);
    drop(memory);

    server.memory.lock().unwrap().bad = Some(4 << 20);
    let mut bad = client("qemu-io").unwrap();
    let output = bad
        .args(["-f", "raw", &uri, "-c", "read 4M 4k"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("read failed: Input/output error"), "{text}");
}
