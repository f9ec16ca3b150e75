//! What fences a cluster, at a real kernel: persistent reservations of SCSI disks that two hosts
//! see, and a watchdog.
//!
//! ```text
//!   umd --- sda, sdb (one way in) ---+
//!                                    +--- two disks of the kernel's SCSI target
//!   dd  --- sdc, sdd (another) ------+
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::path::Path;

use umd_interop::oracle::{KERNEL, Oracle, skipped};
use umd_interop::umd::Umd;
use umd_interop::uml::Kernel;

/// The disks, twice; the whole host as a place for our program; the kernel's software watchdog.
const SCENE: &str = r#"
mkdir -p /lib/modules
ln -s $H$ORACLE/usr/lib/uml/modules/$(uname -r) /lib/modules/$(uname -r)
for module in tcm_loop sd_mod softdog; do
    case $module in
        softdog) modprobe softdog soft_noboot=1 nowayout=0 ;;
        *) modprobe $module ;;
    esac
done
[ -d /sys/kernel/config/target ] || mount -t configfs none /sys/kernel/config
T=/sys/kernel/config/target
# Where the target keeps registrations, by the serial number of the disk.
mkdir -p /var/target/pr
for disk in 0 1; do
    mkdir -p $T/core/rd_mcp_0/d$disk
    echo rd_pages=16384 >$T/core/rd_mcp_0/d$disk/control
    echo 1 >$T/core/rd_mcp_0/d$disk/enable
    echo serial$disk >$T/core/rd_mcp_0/d$disk/wwn/vpd_unit_serial
done
for path in 1 2; do
    G=$T/loopback/naa.600140500000000$path/tpgt_1
    mkdir -p $G
    echo naa.600140510000000$path >$G/nexus
    for disk in 0 1; do
        mkdir -p $G/lun/lun_$disk
        ln -s $T/core/rd_mcp_0/d$disk $G/lun/lun_$disk/link
    done
done
for name in a b c d; do
    tries=0
    until [ -b /dev/sd$name ]; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "no sd$name"
        sleep 0.1
    done
done
mount -t tmpfs none $H/run
mount -t devtmpfs none $H/dev
mount -t proc none $H/proc
mount -t sysfs none $H/sys
mkdir $H/run/x
umd() {
    chroot $H /usr/bin/env -i PATH=/usr/bin:/bin XDG_RUNTIME_DIR=/run/x XDG_STATE_HOME=/run/x \
        XDG_CONFIG_HOME=/run/x $UMD "$@"
}
join() {
    umd assemble c --cluster-engine=memory --home-cluster=hall --cluster-node=alpha "$@" \
        /dev/sda /dev/sdb
}
# Through the other way in; far behind all that umd writes.
by_other() {
    dd if=/dev/zero of=/dev/$1 bs=4096 seek=15000 count=1 conv=fsync 2>/dev/null
}
bitten() {
    dmesg | grep -c "Reboot ignored" || true
}
umd create c -l1 -n2 --bitmap=clustered --nodes=2 --home-cluster=hall -z 32M /dev/sda /dev/sdb
"#;

/// The kernel and our program; `None`, loudly, where one of them is missing.
fn kernel(test: &str) -> Option<Kernel> {
    let (oracle, umd) = (Oracle::or_skip(test)?, Umd::or_skip(test)?);
    let (folder, _) = oracle.find_with_folder(KERNEL).unwrap();
    if folder.is_built_here() {
        skipped(test, "this kernel was built without a SCSI target");
        return None;
    }
    let program = umd.command(&[]).get_program().to_owned();
    let (root, program) = (folder.root().display(), Path::new(&program).display());
    let head = format!("ORACLE={root}\nUMD={program}\n{SCENE}");
    Some(Kernel::new(&oracle).script(&head))
}

#[test]
fn reservations_keep_out_who_has_no_key_until_the_array_is_stopped() {
    let name = "reservations_keep_out_who_has_no_key_until_the_array_is_stopped";
    let Some(kernel) = kernel(name) else {
        return;
    };
    let run = kernel.script(
        r#"
by_other sdc || fail "a disk takes no writes before anybody has reserved it"
join --cluster-reservations
umd detail c
umd wait c || true
by_other sdc && fail "sdc takes writes from whoever has no key"
by_other sdd && fail "sdd takes writes from whoever has no key"
dd if=/dev/sdc of=/dev/null bs=4096 count=1 2>/dev/null || fail "reads are everybody's"
echo STATE=$(umd mdstat | grep -o '\[UU\]')
umd stop c
by_other sdc || fail "the key of who has left is there still"
by_other sdd || fail "the key of who has left is there still"
"#,
    );
    let run = run.run_ok().unwrap();
    assert_eq!(run.value("STATE").unwrap(), "[UU]", "{}", run.stdout);
    let shown = "Fenced By : reservations, confirmation";
    assert!(run.stdout.contains(shown), "{}", run.stdout);
}

#[test]
fn a_watchdog_is_disarmed_by_a_stop_and_bites_after_a_kill() {
    let name = "a_watchdog_is_disarmed_by_a_stop_and_bites_after_a_kill";
    let Some(kernel) = kernel(name) else {
        return;
    };
    let run = kernel.script(
        r#"
join --cluster-watchdog=/dev/watchdog1
sleep 13
echo FED=$(bitten)
umd stop c
sleep 12
echo STOPPED=$(bitten)
join --cluster-watchdog=/dev/watchdog1
for process in /proc/[0-9]*; do
    case $(readlink $process/exe) in
        *${UMD##*/}) kill -9 ${process#/proc/} ;;
    esac
done
sleep 13
echo KILLED=$(bitten)
"#,
    );
    let run = run.run_ok().unwrap();
    for (name, times) in [("FED", "0"), ("STOPPED", "0"), ("KILLED", "1")] {
        assert_eq!(run.value(name).unwrap(), times, "{name}: {}", run.stdout);
    }
}
