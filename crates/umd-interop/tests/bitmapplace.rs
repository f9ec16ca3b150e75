//! A bitmap that umd has put at another place than mdadm would: the kernel finds it, believes it,
//! and copies what it marks and nothing else.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use umd_interop::oracle::Oracle;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, qemu_io};
use umd_interop::uml::Kernel;

/// Asks the daemon for a bitmap at this place; gives the status and what it says.
fn put(umd: &Umd, offset_sectors: i64) -> String {
    let body =
        format!("{{\"internal\":true,\"chunk_bytes\":524288,\"offset_sectors\":{offset_sectors}}}");
    let mut stream = UnixStream::connect(umd.runtime_dir().join("control.sock")).unwrap();
    let head = "POST /v1/arrays/r/bitmap HTTP/1.0\r\nHost: x\r\nContent-Type: application/json";
    let length = body.len();
    write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Metadata version, the place, and a place that is taken by something else.
const PLACES: [(&str, i64, i64); 4] = [
    ("1.2", 1001, 1 << 20),
    ("1.1", 24, -8),
    ("1.0", -40, -64_000),
    ("1.0", 8, 12),
];

#[test]
fn the_kernel_uses_a_bitmap_wherever_umd_has_put_it() {
    let name = "the_kernel_uses_a_bitmap_wherever_umd_has_put_it";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    for (version, place, taken) in PLACES {
        let scratch = Scratch::new().unwrap();
        // Behind the data of 1.0 there is no more than what mdadm keeps for a bitmap of a large
        // device; the array uses the beginning of it.
        let disks = scratch.images("p", 2, 9 << 30).unwrap();
        let (a, b) = (disks[0].to_str().unwrap(), disks[1].to_str().unwrap());
        let version_of = format!("-e{version}");
        let words = [
            "create",
            "r",
            "-l1",
            "-n2",
            "-z16M",
            &version_of,
            "--bitmap=none",
        ];
        let args: Vec<&str> = words.into_iter().chain(["--assume-clean", a, b]).collect();
        umd.ok(&args).unwrap();
        let refused = put(&umd, taken);
        assert!(refused.contains("\"exit_code\": 2") || refused.contains("\"exit_code\":2"));
        let done = put(&umd, place);
        assert!(done.contains(" 200 "), "{version} {place:+}: {done}");
        umd.until("r", |array| array["bitmap"]["dirty_bits"] == 0)
            .unwrap();
        umd.ok(&["manage", "r", "--fail", b]).unwrap();
        umd.ok(&["manage", "r", "--remove", b]).unwrap();
        let writes = [0, 5, 31].map(|region| format!("write -P 0x5c {}k 512k", region * 512));
        qemu_io(&oracle, &umd.daemon_uri("r"), &writes).unwrap();
        umd.ok(&["stop", "r"]).unwrap();
        // Wrong where nothing is marked: whoever copies all of it would mend it.
        let disk = std::fs::OpenOptions::new().write(true).open(b).unwrap();
        let data = umd.superblock(&disks[1]).unwrap()["data_offset_bytes"].as_u64();
        let wrong = data.unwrap() + 10 * 512 * 1024;
        disk.write_all_at(&[0xee; 4096], wrong).unwrap();
        Kernel::new(&oracle)
            .members(&disks)
            .script(&format!(
                "mdadm --assemble --run --quiet /dev/md0 $D0 || fail not assembled
                at=$(cat /sys/block/md0/md/bitmap/location)
                [ $at = {place:+} ] || fail the bitmap is at $at
                mdadm -X $D0 | grep -q ', 3 dirty' || fail $(mdadm -X $D0)
                mdadm --quiet /dev/md0 --re-add $D1 || fail not re-added
                wait_idle md0
                grep -q '\\[UU\\]' /proc/mdstat || fail degraded
                n=$(check md0); [ $n = 128 ] || fail mismatch_cnt $n: not only what is marked
                dd if=/dev/urandom of=/dev/md0 bs=512k count=1 seek=7 conv=fsync
                dmesg | grep -i 'bitmap.*\\(error\\|fail\\|invalid\\)' && fail the log says so
                mdadm --stop --quiet /dev/md0"
            ))
            .run_ok()
            .unwrap_or_else(|error| panic!("{version} {place:+}: {error}"));
        // And back: with what the kernel has written there.
        umd.ok(&["assemble", "r", a, b]).unwrap();
        let detail = umd.detail("r").unwrap();
        assert_eq!(detail["bitmap"]["offset_sectors"], place, "{version}");
        assert_eq!(detail["degraded"], 0, "{version}");
        umd.ok(&["stop", "r"]).unwrap();
    }
}
