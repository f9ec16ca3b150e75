//! A bitmap in a file of its own, between the kernel and umd: what one marked the other one copies
//! and clears.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::os::unix::fs::FileExt;
use std::path::Path;

use umd_interop::oracle::Oracle;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, qemu_io};
use umd_interop::uml::Kernel;

const MIB: u64 = 1 << 20;

/// Bits that are set, of 32.
fn bits(file: &Path) -> u32 {
    let bytes = std::fs::read(file).unwrap();
    u32::from_le_bytes(bytes[256..260].try_into().unwrap())
}

/// The kernel wants the file on a filesystem with blocks: the last image has one.
const FILESYSTEM: &str = "mke2fs -q $D2 && mkdir -p /mnt && mount -t ext2 $D2 /mnt \
                          || mount -t ext4 $D2 /mnt || fail no filesystem\n";

#[test]
fn a_bitmap_file_of_mdadm_is_used_and_given_back() {
    let name = "a_bitmap_file_of_mdadm_is_used_and_given_back";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let disks = scratch.images("k", 3, 17 * MIB).unwrap();
    let file = scratch.path("bits");
    let (a, b) = (disks[0].to_str().unwrap(), disks[1].to_str().unwrap());
    // Degraded, with three regions of 32 marked.
    let kernel = Kernel::new(&oracle).members(&disks);
    kernel
        .clone()
        .script(FILESYSTEM)
        .script(&format!(
            "mdadm --create --run --quiet /dev/md0 -l1 -n2 -e1.0 --size=16384 \
                --bitmap=/mnt/bits --bitmap-chunk=512 $D0 $D1
            wait_idle md0
            mdadm --stop --quiet /dev/md0
            mdadm --assemble --quiet /dev/md0 --bitmap=/mnt/bits $D0 $D1
            mdadm --quiet /dev/md0 --fail $D1
            mdadm --quiet /dev/md0 --remove $D1
            for at in 0 5 31; do
                dd if=/dev/urandom of=/dev/md0 bs=512k count=1 seek=$at conv=fsync
            done
            mdadm --stop --quiet /dev/md0
            cp /mnt/bits $H{}
            umount /mnt",
            file.display()
        ))
        .run_ok()
        .unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 256 + 4);
    assert_eq!(bits(&file), 1 << 31 | 1 << 5 | 1);
    let option = format!("--bitmap={}", file.display());
    umd.ok(&["assemble", "r", &option, a]).unwrap();
    let detail = umd.ok(&["detail", "--json", "r"]).unwrap();
    assert!(detail.contains("\"dirty_bits\": 3"), "{detail}");
    umd.ok(&["manage", "r", "--re-add", b]).unwrap();
    umd.output(&["wait", "r"]).unwrap();
    let detail = umd.ok(&["detail", "--json", "r"]).unwrap();
    assert!(detail.contains("\"degraded\": 0"), "{detail}");
    umd.ok(&["stop", "r"]).unwrap();
    assert_eq!(bits(&file), 0, "a clean stop clears every bit");
    back_to_the_kernel(&kernel, &file);
}

/// The kernel takes the file as umd left it, finds no difference, and marks in it.
fn back_to_the_kernel(kernel: &Kernel, file: &Path) {
    let path = file.display();
    kernel
        .clone()
        .script(FILESYSTEM)
        .script(&format!(
            "cp $H{path} /mnt/bits
            mdadm --assemble --quiet /dev/md0 --bitmap=/mnt/bits $D0 $D1 || fail not assembled
            wait_idle md0
            grep -q 'file: .*bits' /proc/mdstat || fail no bitmap file
            grep -q 'bitmap: 0/' /proc/mdstat || fail bits are set
            n=$(check md0); [ $n = 0 ] || fail mismatch_cnt $n
            mdadm --quiet /dev/md0 --fail $D1
            dd if=/dev/urandom of=/dev/md0 bs=512k count=1 seek=7 conv=fsync
            mdadm --stop --quiet /dev/md0
            cp /mnt/bits $H{path}
            umount /mnt"
        ))
        .run_ok()
        .unwrap();
    assert_eq!(bits(file), 1 << 7);
}

#[test]
fn a_bitmap_file_of_umd_is_one_of_mdadm() {
    let name = "a_bitmap_file_of_umd_is_one_of_mdadm";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let disks = scratch.images("u", 3, 17 * MIB).unwrap();
    let file = scratch.path("bits");
    let option = format!("--bitmap={}", file.display());
    let (a, b) = (disks[0].to_str().unwrap(), disks[1].to_str().unwrap());
    let words = [
        "create",
        "r",
        "-l1",
        "-n2",
        "-e1.0",
        "-z16M",
        "--bitmap-chunk=512K",
    ];
    let args: Vec<&str> = words.into_iter().chain([&*option, a, b]).collect();
    umd.ok(&args).unwrap();
    umd.output(&["wait", "r"]).unwrap();
    umd.ok(&["stop", "r"]).unwrap();
    assert_eq!(bits(&file), 0);
    let examined = oracle.output("mdadm", &["--examine-bitmap", file.to_str().unwrap()]);
    let examined = String::from_utf8_lossy(&examined.unwrap().stdout).into_owned();
    assert!(examined.contains("512 KB"), "{examined}");
    assert!(examined.contains("32 bits (chunks), 0 dirty"), "{examined}");
    back_to_the_kernel(&Kernel::new(&oracle).members(&disks), &file);
}

/// A file that umd has added to a running array: the kernel believes it, and copies what it marks
/// and nothing else.
#[test]
fn a_bitmap_file_added_to_a_running_array_is_believed_by_the_kernel() {
    let name = "a_bitmap_file_added_to_a_running_array_is_believed_by_the_kernel";
    let (Some(oracle), Some(umd)) = (Oracle::or_skip(name), Umd::or_skip(name)) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let disks = scratch.images("g", 3, 17 * MIB).unwrap();
    let file = scratch.path("bits");
    let option = format!("--bitmap={}", file.display());
    let (a, b) = (disks[0].to_str().unwrap(), disks[1].to_str().unwrap());
    let words = [
        "create",
        "r",
        "-l1",
        "-n2",
        "-e1.0",
        "-z16M",
        "--bitmap=none",
    ];
    let args: Vec<&str> = words.into_iter().chain([a, b]).collect();
    umd.ok(&args).unwrap();
    umd.output(&["wait", "r"]).unwrap();
    umd.ok(&["grow", "r", &option, "--bitmap-chunk=512K"])
        .unwrap();
    umd.until("r", |array| array["bitmap"]["dirty_bits"] == 0)
        .unwrap();
    umd.ok(&["manage", "r", "--fail", b]).unwrap();
    umd.ok(&["manage", "r", "--remove", b]).unwrap();
    let writes = [0, 5, 31].map(|region| format!("write -P 0x5c {}k 512k", region * 512));
    qemu_io(&oracle, &umd.daemon_uri("r"), &writes).unwrap();
    umd.ok(&["stop", "r"]).unwrap();
    assert_eq!(bits(&file), 1 << 31 | 1 << 5 | 1);
    // Wrong where nothing is marked: whoever copies all of it would mend it.
    let disk = std::fs::OpenOptions::new().write(true).open(b).unwrap();
    disk.write_all_at(&[0xee; 4096], 10 * 512 * 1024).unwrap();
    let path = file.display();
    Kernel::new(&oracle)
        .members(&disks)
        .script(FILESYSTEM)
        .script(&format!(
            "cp $H{path} /mnt/bits
            mdadm --assemble --run --quiet /dev/md0 --bitmap=/mnt/bits $D0 || fail not assembled
            grep -q 'file: .*bits' /proc/mdstat || fail no bitmap file
            mdadm --quiet /dev/md0 --re-add $D1 || fail not re-added
            wait_idle md0
            grep -q '\\[UU\\]' /proc/mdstat || fail degraded
            n=$(check md0); [ $n = 128 ] || fail mismatch_cnt $n: not only what is marked
            mdadm --stop --quiet /dev/md0
            umount /mnt"
        ))
        .run_ok()
        .unwrap();
}
