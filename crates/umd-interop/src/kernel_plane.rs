//! Kernel md over disks in its memory, under User Mode Linux on one processor: what the engine's
//! own figures are beside.
//!
//! ```text
//!   fio, in the kernel --+--> /dev/ram6                          raw
//!                        '--> /dev/md0 --> /dev/ram0 ... ram5    kernel md
//! ```
//!
//! fio is told to take the same load to both in turns. It needs about four microseconds for each
//! request by itself, which is in both figures and flatters the ratio of small requests; what md
//! adds to each does not have it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::oracle::Oracle;
use crate::uml::Kernel;

/// Bytes of each disk.
pub const MEMBER_MIB: u32 = 128;
/// Memory of the kernel: seven disks, and room to run.
const MEMORY_MIB: u32 = 7 * MEMBER_MIB + 640;

/// An array of kernel md.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its name in the table.
    pub name: &'static str,
    /// What mdadm is told.
    pub options: &'static str,
    /// Disks of it.
    pub disks: usize,
    /// So many of its first disks are missing.
    pub missing: usize,
}

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Its name in the table.
    pub name: &'static str,
    /// What fio is told.
    pub options: &'static str,
    /// Whether it writes.
    pub write: bool,
}

/// Requests a second of both, a round each.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Of one disk.
    pub raw: Vec<f64>,
    /// Of the array.
    pub md: Vec<f64>,
}

/// How fast a sync went, MB/s of each member, a round each.
#[derive(Debug, Clone, Default)]
pub struct Syncs {
    /// As it comes.
    pub plain: Vec<f64>,
    /// With a stripe cache of 8192, where there is one.
    pub tuned: Vec<f64>,
    /// A member is filled, as it comes.
    pub recovery: Vec<f64>,
}

/// Disks, fio, and what the script says.
const SCENE: &str = r#"
insmod $H$ORACLE/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/brd.ko \
    rd_nr=7 rd_size=$((MEMBER_MIB * 1024))
echo Y >/sys/module/printk/parameters/time
mount -t devtmpfs none $H/dev
mount -t proc none $H/proc
# Every page of a disk is there before anything is measured.
for disk in 0 1 2 3 4 5 6; do
    dd if=/dev/zero of=/dev/ram$disk bs=1M count=$MEMBER_MIB 2>/dev/null
done
fio() {
    chroot $H /usr/bin/env -i PATH=/usr/bin:/bin LD_LIBRARY_PATH=$LIBRARIES $FIO "$@"
}
# load NAME DEVICE OPTIONS...: one run, its figures behind a line that says of what.
load() {
    name=$1 device=$2
    shift 2
    echo "@@ $name $device"
    fio --name=b --output-format=json --time_based --runtime=${TIME_MS}ms --ioengine=libaio \
        --direct=1 --thread --size=$((MEMBER_MIB * 9 / 10))m --filename=/dev/$device "$@"
    echo "@@ end"
}
# array OPTIONS...: /dev/md0 of disks that are named, clean.
array() {
    mdadm --create /dev/md0 --run --assume-clean --bitmap=none --metadata=1.2 "$@" >/dev/null 2>&1
    wait_idle md0
}
gone() {
    mdadm --stop /dev/md0 >/dev/null 2>&1
}
# How long these take is in the kernel's log.
checked() {
    wait_idle md0
    echo check >/sys/block/md0/md/sync_action
    wait_idle md0
}
filled() {
    mdadm /dev/md0 --add /dev/ram5 >/dev/null 2>&1
    sleep 0.5
    wait_idle md0
}
"#;

/// One boot for one array: its loads in turns with raw, so often, each for so many milliseconds;
/// and how fast it syncs.
///
/// # Errors
/// When the kernel or fio fail, or say what is not understood.
pub fn measure(
    oracle: &Oracle,
    shape: &Shape,
    loads: &[Load],
    (rounds, time_ms): (usize, u32),
) -> Result<(Vec<Rates>, Syncs)> {
    let mut script = head(oracle, time_ms)?;
    script.push_str(&format!("array {}\n", members(shape)));
    for _ in 0..rounds {
        for load in loads {
            for device in ["ram6", "md0"] {
                let (name, options) = (load.name.replace(' ', "_"), load.options);
                script.push_str(&format!("load {name} {device} {options}\n"));
            }
        }
    }
    if shape.missing == 0 && !shape.options.contains("-l0") {
        script.push_str(&syncs(shape, rounds));
    }
    let kernel = Kernel::new(oracle).memory_mib(MEMORY_MIB).pinned();
    let kernel = kernel.timeout(Duration::from_secs(1200)).script(&script);
    let run = kernel.run_ok()?;
    let rates = loads.iter().map(|load| rates(&run.stdout, load));
    let rates = rates.collect::<Result<Vec<Rates>>>()?;
    ensure!(
        rates.iter().all(|one| one.md.len() == rounds),
        "a load was not run: {}",
        run.stdout
    );
    Ok((rates, read_syncs(&run.log, rounds)?))
}

fn head(oracle: &Oracle, time_ms: u32) -> Result<String> {
    let (folder, fio) = oracle.find_with_folder("fio").context("there is no fio")?;
    let libraries = folder.libraries(&fio)?;
    let dirs = libraries.iter().filter_map(|path| path.parent()?.to_str());
    let mut dirs: Vec<&str> = dirs.collect();
    dirs.sort_unstable();
    dirs.dedup();
    Ok(format!(
        "ORACLE={}\nFIO={}\nLIBRARIES={}\nMEMBER_MIB={MEMBER_MIB}\nTIME_MS={time_ms}\n{SCENE}",
        folder.root().display(),
        fio.display(),
        dirs.join(":")
    ))
}

fn members(shape: &Shape) -> String {
    let disk = |at: usize| match at < shape.missing {
        true => "missing".to_owned(),
        false => format!("/dev/ram{at}"),
    };
    let disks: Vec<String> = (0..shape.disks).map(disk).collect();
    format!("{} -n{} {}", shape.options, shape.disks, disks.join(" "))
}

/// Checks as they come and with more stripes; then without a member, which is filled.
fn syncs(shape: &Shape, rounds: usize) -> String {
    let mut script = String::new();
    for _ in 0..rounds {
        script.push_str("checked\n");
    }
    if shape.options.contains("-l5") || shape.options.contains("-l6") {
        script.push_str("echo 8192 >/sys/block/md0/md/stripe_cache_size\n");
        for _ in 0..rounds {
            script.push_str("checked\n");
        }
    }
    let others: Vec<String> = (1..shape.disks)
        .map(|at| format!("/dev/ram{}", at - 1))
        .collect();
    for _ in 0..rounds {
        script.push_str(&format!(
            "gone\narray {} -n{} missing {}\n\
            mdadm --zero-superblock /dev/ram5 2>/dev/null || true\n\
            filled\n",
            shape.options,
            shape.disks,
            others.join(" ")
        ));
    }
    script
}

/// What fio said of a load.
fn rates(stdout: &str, load: &Load) -> Result<Rates> {
    let mut rates = Rates::default();
    for (device, list) in [("ram6", &mut rates.raw), ("md0", &mut rates.md)] {
        let mark = format!("@@ {} {device}\n", load.name.replace(' ', "_"));
        for part in stdout.split(&mark).skip(1) {
            let (text, _) = part.split_once("@@ end").context("fio did not come back")?;
            let begin = text
                .find('{')
                .with_context(|| format!("fio said: {text}"))?;
            let end = text
                .rfind('}')
                .with_context(|| format!("fio said: {text}"))?;
            let document: Value = serde_json::from_str(&text[begin..=end])?;
            let side = if load.write { "write" } else { "read" };
            let rate = document["jobs"][0][side]["iops"].as_f64();
            let rate = rate.filter(|rate| *rate > 0.0);
            list.push(rate.with_context(|| format!("fio measured nothing: {text}"))?);
        }
    }
    Ok(rates)
}

/// MB/s of each member, of what the kernel's log says has begun and was done.
fn read_syncs(log: &str, rounds: usize) -> Result<Syncs> {
    let runs = |what: &str| -> Result<Vec<f64>> {
        let begun = format!("md: {what} of RAID array md0");
        let done = format!("md: md0: {what} done");
        let at = |text: &str| {
            log.lines()
                .filter(|line| line.ends_with(text))
                .map(seconds)
                .collect()
        };
        let (begun, done): (Result<Vec<f64>>, Result<Vec<f64>>) =
            (at(&begun), at(&format!("{done}.")));
        let pairs = begun?.into_iter().zip(done?);
        let bytes = f64::from(MEMBER_MIB) * 1.048_576;
        Ok(pairs
            .map(|(begin, end)| bytes / (end - begin).max(1e-6))
            .collect())
    };
    let mut plain = runs("data-check")?;
    let tuned = plain.split_off(rounds.min(plain.len()));
    Ok(Syncs {
        plain,
        tuned,
        recovery: runs("recovery")?,
    })
}

/// When a line of the log was written, in seconds.
fn seconds(line: &str) -> Result<f64> {
    let time = line.trim_start_matches('[').split(']').next();
    let time = time.and_then(|text| text.trim().parse().ok());
    time.with_context(|| format!("a line of the log without its time: {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_read_from_the_log() {
        let log = "\
[    1.000000] md: data-check of RAID array md0
[    1.500000] md: md0: data-check done.
[    2.000000] md: data-check of RAID array md0
[    2.250000] md: md0: data-check done.
[    9.000000] md: recovery of RAID array md0
[   10.000000] md: md0: recovery done.
";
        let syncs = read_syncs(log, 1).unwrap();
        let close = |rates: &[f64], bytes: f64| (rates[0] - bytes * 1.048_576).abs() < 0.01;
        assert!(close(&syncs.plain, 256.0) && syncs.plain.len() == 1);
        assert!(close(&syncs.tuned, 512.0) && syncs.tuned.len() == 1);
        assert!(close(&syncs.recovery, 128.0));
        assert!(read_syncs("md: recovery of RAID array md0", 1).is_err());
    }

    #[test]
    fn what_fio_says_is_read() {
        let load = Load {
            name: "write 1M",
            options: "",
            write: true,
        };
        let said = |device: &str, iops: u32| {
            format!(
                "@@ write_1M {device}\nnote\n\
                {{\"jobs\":[{{\"write\":{{\"iops\":{iops}}}}}]}}\n@@ end\n"
            )
        };
        let text = format!("{}{}{}", said("ram6", 7), said("md0", 3), said("ram6", 9));
        let rates = rates(&text, &load).unwrap();
        assert_eq!((rates.raw, rates.md), (vec![7.0, 9.0], vec![3.0]));
        assert!(super::rates(&said("md0", 0), &load).is_err());
    }
}
