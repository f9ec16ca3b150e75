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
use std::time::Duration;

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

/// Two hosts, as far as the disks can tell: each has its own way in.
const HOSTS: &str = r#"
ip link set lo up
chroot $H $ETCD --data-dir /run/etcd --log-level error \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 >/tmp/etcd.log 2>&1 &
host() {
    runtime=/run/$1
    shift
    mkdir -p $H$runtime
    chroot $H /usr/bin/env -i PATH=/usr/bin:/bin XDG_RUNTIME_DIR=$runtime XDG_STATE_HOME=$runtime \
        XDG_CONFIG_HOME=$runtime $UMD "$@"
}
enter() {
    name=$1
    shift
    host $name assemble c --cluster-engine=etcd --cluster-server=http://127.0.0.1:2379 \
        --home-cluster=hall --cluster-node=$name --cluster-reservations "$@"
}
# until_so SECONDS COMMAND...
until_so() {
    left=$1
    shift
    until "$@"; do
        left=$((left - 1))
        if [ $left -le 0 ]; then
            host beta detail c || true
            fail "not in time: $*"
        fi
        sleep 1
    done
}
shows() {
    host $1 detail c | grep -q "$2"
}
joined() {
    enter alpha /dev/sda /dev/sdb >/tmp/joined 2>&1 || grep -q "feature 'etcd'" /tmp/joined
}
until_so 30 joined
if ! grep -q "has been started" /tmp/joined; then
    echo ETCD=none
    exit 0
fi
enter beta /dev/sdc /dev/sdd
"#;

#[test]
fn a_dead_hosts_key_is_taken_away_and_a_disk_that_hangs_keeps_nobody() {
    let name = "a_dead_hosts_key_is_taken_away_and_a_disk_that_hangs_keeps_nobody";
    let Some(kernel) = kernel(name) else {
        return;
    };
    let Some(etcd) = Oracle::open().unwrap().find("etcd") else {
        skipped(name, "there is no etcd (cargo xtask oracle)");
        return;
    };
    let run = kernel
        .memory_mib(1024)
        .timeout(Duration::from_secs(240))
        .script(&format!("ETCD={}\n{HOSTS}", etcd.display()))
        .script(
            r#"
by_other sda || fail "alpha cannot write"
by_other sdc || fail "beta cannot write"
host beta wait c || true
for process in /proc/[0-9]*; do
    case $(readlink $process/exe) in
        *${UMD##*/}) grep -q /run/alpha $process/environ && kill -9 ${process#/proc/} || true ;;
    esac
done
key_of_alpha() {
    grep -q "Key: 0x0001" $T/core/rd_mcp_0/d0/pr/res_pr_registered_i_pts
}
key_of_alpha || fail "its key goes before somebody has taken it away"
# This target takes the key away, and does not come back from the abort: another way has to do.
until_so 60 shows beta "has not answered for 20 s"
key_of_alpha && fail "its key is there still"
host beta cluster confirm-dead c 0
until_so 40 shows beta "0 *free"
shows beta "Cluster Frozen" && fail "beta is frozen"
echo ETCD=done
"#,
        );
    let run = run.run_ok().unwrap();
    match run.value("ETCD").unwrap() {
        "none" => skipped(name, "this umd was built without the feature etcd"),
        done => assert_eq!(done, "done", "{}", run.stdout),
    }
}
