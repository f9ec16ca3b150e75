//! Real NBD clients against umd's door: nbdinfo, nbdcopy, qemu-img, qemu-io, fio.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use umd_interop::nbd::Client;
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::ports::free_address;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Served, Umd, copy_in, copy_out, export_bytes, qemu_io};

const MIB: u64 = 1 << 20;

/// A RAID5 of three members made by umd, 62 MiB or so.
fn raid5(umd: &Umd, scratch: &Scratch) -> Vec<PathBuf> {
    let members = scratch.images("m", 3, 32 * MIB).unwrap();
    let paths: Vec<String> = members
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut args = vec!["create", "r5", "-l5", "-n3", "-c64", "--assume-clean"];
    args.extend(paths.iter().map(String::as_str));
    umd.ok(&args).unwrap();
    umd.ok(&["stop", "r5"]).unwrap();
    members
}

/// Everything a client test needs, or a loud skip.
fn set_up(test: &str) -> Option<(Oracle, Umd, Scratch, Served)> {
    let oracle = Oracle::or_skip(test)?;
    let umd = Umd::or_skip(test)?;
    let scratch = Scratch::new().unwrap();
    let members = raid5(&umd, &scratch);
    let served = umd.serve("r5", &members, &[]).unwrap();
    Some((oracle, umd, scratch, served))
}

#[test]
fn nbdinfo_finds_what_is_promised() {
    let Some((oracle, _umd, _scratch, served)) = set_up("nbdinfo") else {
        return;
    };
    let uri = served.uri();
    for can in [
        "--can=flush",
        "--can=fua",
        "--can=trim",
        "--can=zero",
        "--can=multi-conn",
        "--can=structured-reply",
    ] {
        let output = oracle.output("nbdinfo", &[can, &uri]).unwrap();
        assert_eq!(output.status.code(), Some(0), "nbdinfo {can}");
    }
    let read_only = oracle.output("nbdinfo", &["--is=read-only", &uri]).unwrap();
    assert_eq!(read_only.status.code(), Some(2), "the export is writable");
    let json = oracle.text("nbdinfo", &["--json", &uri]).unwrap();
    for part in [
        "\"export-name\": \"r5\"",
        "base:allocation",
        "\"block_size_minimum\":",
    ] {
        assert!(json.contains(part), "no {part} in\n{json}");
    }
    let maximum = json
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"block_size_maximum\": "))
        .and_then(|value| value.trim_end_matches(',').parse::<u64>().ok());
    assert_eq!(maximum, Some(32 * MIB), "{json}");
    let map = oracle.text("nbdinfo", &["--map", &uri]).unwrap();
    assert!(map.lines().count() >= 1, "block status answered nothing");
    let list = oracle.text("nbdinfo", &["--list", &uri]).unwrap();
    assert!(list.contains("r5"), "{list}");
    let unknown = uri.replace("/r5?", "/nobody?");
    assert!(
        !oracle
            .output("nbdinfo", &["--size", &unknown])
            .unwrap()
            .status
            .success()
    );
    served.stop().unwrap();
}

#[test]
fn nbdcopy_and_qemu_img_move_whole_images() {
    let Some((oracle, _umd, scratch, served)) = set_up("nbdcopy and qemu-img") else {
        return;
    };
    let uri = served.uri();
    let bytes = export_bytes(&oracle, &uri).unwrap();
    let (content, out) = (scratch.path("content"), scratch.path("out"));
    pattern::write_file(&content, 1, bytes).unwrap();
    copy_in(&oracle, &content, &uri).unwrap();
    copy_out(&oracle, &uri, &out).unwrap();
    pattern::compare((&content, 0), (&out, 0), bytes).unwrap();

    pattern::write_file(&content, 2, bytes).unwrap();
    let content_name = content.display().to_string();
    let arguments = ["convert", "-n", "-f", "raw", "-O", "raw", "-m", "8", "-W"];
    let mut args = arguments.to_vec();
    args.extend([content_name.as_str(), &uri]);
    oracle.text("qemu-img", &args).unwrap();
    let compare = ["compare", "-f", "raw", "-F", "raw", &content_name, &uri];
    oracle.text("qemu-img", &compare).unwrap();
    served.stop().unwrap();
}

#[test]
fn qemu_io_writes_zeroes_discards_and_reads_across_every_border() {
    let Some((oracle, _umd, _scratch, served)) = set_up("qemu-io") else {
        return;
    };
    let commands = [
        "write -P 0x11 0 8M",
        "write -P 0x22 65024 1024",
        "write -P 0x33 -f 131000k 4k",
        "read -P 0x11 0 65024",
        "read -P 0x22 65024 1024",
        "read -P 0x11 66048 4M",
        "write -z 1M 1M",
        "read -P 0 1M 1M",
        "read -P 0x11 2M 1M",
        "write -z -u 2M 100k",
        "read -P 0 2M 100k",
        "read -P 0x11 2148k 4k",
        "discard 4M 2M",
        "read 4M 2M",
        "aio_write -P 0x44 8M 4M",
        "aio_write -P 0x55 12M 4M",
        "aio_flush",
        "read -P 0x44 8M 4M",
        "read -P 0x55 12M 4M",
        "write -P 0x66 16M 32M",
        "read -P 0x66 16M 32M",
        "flush",
    ];
    let commands: Vec<String> = commands
        .iter()
        .map(|text| text.replace("131000k", "50000k"))
        .collect();
    qemu_io(&oracle, &served.uri(), &commands).unwrap();
    served.stop().unwrap();
}

#[test]
fn fio_verifies_a_random_load() {
    let Some((oracle, _umd, scratch, served)) = set_up("fio") else {
        return;
    };
    let output = oracle
        .command("fio")
        .unwrap()
        .current_dir(scratch.path(""))
        .args([
            "--name=v",
            "--ioengine=nbd",
            "--rw=randrw",
            "--bsrange=512-128k",
        ])
        .args([
            "--blockalign=512",
            "--size=48M",
            "--io_size=64M",
            "--iodepth=16",
        ])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--fsync=32",
        ])
        .arg(format!("--uri={}", served.uri()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    served.stop().unwrap();
}

#[test]
fn a_tcp_door_serves_the_same_array() {
    let Some(oracle) = Oracle::or_skip("the TCP door") else {
        return;
    };
    let Some(umd) = Umd::or_skip("the TCP door") else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let members = raid5(&umd, &scratch);
    let port = free_address().port();
    let address = format!("tcp:127.0.0.1:{port}");
    let served = umd.serve("r5", &members, &["--nbd", &address]).unwrap();
    qemu_io(&oracle, &served.uri(), &["write -P 0x77 1M 1M".into()]).unwrap();
    let tcp = format!("nbd://127.0.0.1:{port}/r5");
    qemu_io(&oracle, &tcp, &["read -P 0x77 1M 1M".into()]).unwrap();
    served.stop().unwrap();
}

#[test]
fn an_idle_array_stays_small() {
    let Some((_oracle, _umd, _scratch, served)) = set_up("memory of an idle array") else {
        return;
    };
    std::thread::sleep(Duration::from_millis(500));
    let status = fs::read_to_string(format!("/proc/{}/status", served.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 20 << 10, "{kib} KiB resident");
    served.stop().unwrap();
}

/// The client of the kill test, against a server that is not ours.
#[test]
fn our_own_client_speaks_with_nbdkit() {
    let Some(oracle) = Oracle::or_skip("our own NBD client") else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let socket = scratch.path("s");
    let plugin = oracle.nbdkit_plugin("memory").unwrap();
    let mut command = oracle.command("nbdkit").unwrap();
    command
        .args(["-f", "-U"])
        .arg(&socket)
        .arg(plugin)
        .arg("1M")
        .stdout(Stdio::null());
    let mut server = Server(command.spawn().unwrap());
    let limit = Instant::now() + Duration::from_secs(10);
    while !socket.exists() && Instant::now() < limit {
        assert!(server.0.try_wait().unwrap().is_none(), "nbdkit ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut client = Client::connect(&socket, "").unwrap();
    assert_eq!(client.bytes, MIB);
    let mut data = vec![0; 65536];
    pattern::fill(1, 4096, &mut data);
    client.write(4096, &data, true).unwrap();
    client.flush().unwrap();
    let mut back = vec![0; 65536];
    client.read(4096, &mut back).unwrap();
    assert!(data == back);
    assert!(client.read(MIB, &mut back).is_err(), "past the end");
    fs::remove_file(&socket).unwrap();
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
