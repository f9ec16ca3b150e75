//! Level faulty, between kernel md and umd, both ways.
//!
//! ```text
//!   kernel   makes and fills arrays that are to fail           mdadm: what it says of them
//!   umd      reads them, with the faults they ask for, and writes; makes arrays of its own
//!   kernel   fails as those ask, and reads what umd wrote
//!   both     are asked for other modes while they run
//! ```
//!
//! Kernels up to 6.7 have the level. mdadm 4.2 makes such arrays, but starts them only with
//! `--run` (`assembled from 1 drive - not enough to start the array`). Kernels ignore the data
//! offset at this level and write over their superblocks with metadata 1.1 and 1.2; umd does not.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only #[test] functions"
)]

use std::path::Path;

use umd_interop::nbd::Client;
use umd_interop::oracle::Oracle;
use umd_interop::pattern;
use umd_interop::scratch::Scratch;
use umd_interop::umd::{Umd, text};
use umd_interop::uml::{Kernel, KernelRun};

const MIB: u64 = 1 << 20;
/// Metadata and layout of the kernel's arrays.
const ARRAYS: [(&str, &str); 4] = [
    ("1.2", "rt4"),
    ("1.0", "wp2"),
    ("1.1", "read-fixable5"),
    ("0.90", "wa"),
];

/// What a script printed between two marks.
fn printed<'a>(run: &'a KernelRun, mark: &str) -> &'a str {
    let from = run.stdout.split_once(&format!("<{mark}>\n")).unwrap().1;
    from.split_once(&format!("</{mark}>")).unwrap().0
}

/// The line of mdstat below an array's own, without how many requests are left until one fails:
/// whoever opens an array of the kernel reads it.
fn second_line(mdstat: &str, name: &str) -> String {
    let mut lines = mdstat.lines();
    let own = format!("{name} : ");
    lines.find(|line| line.starts_with(&own)).unwrap();
    let line = lines.next().unwrap().trim();
    let words = line.split(' ').map(|word| match word.split_once('(') {
        Some((mode, period)) => mode.trim_end_matches(char::is_numeric).to_owned() + period,
        None => word.to_owned(),
    });
    words.collect::<Vec<String>>().join(" ")
}

/// Without what differs from one look, or one name, to the next.
fn lasting(examined: &str) -> Vec<&str> {
    let passing = |line: &&str| {
        let line = line.trim_start();
        let words = [
            "/",
            "this ",
            "Name :",
            "UUID :",
            "Creation Time",
            "Update Time",
        ];
        !words.iter().any(|word| line.starts_with(word)) && !line.contains("active sync")
    };
    examined
        .lines()
        .filter(passing)
        .map(str::trim_end)
        .collect()
}

/// What two arrays of one shape have in common.
fn shape(examined: &str) -> Vec<&str> {
    let own = |line: &&str| line.contains("UUID") || line.contains("Checksum");
    let lines = lasting(examined).into_iter();
    lines.filter(|line| !own(line)).collect()
}

fn made_by_the_kernel(oracle: &Oracle, members: &[std::path::PathBuf], truth: &Path) -> KernelRun {
    let mut kernel = Kernel::new(oracle).members(members);
    for (n, (metadata, layout)) in ARRAYS.into_iter().enumerate() {
        kernel = kernel.script(&format!(
            "dd if=$H{truth} of=$D{n} bs=1M count=8 seek=4 2>/dev/null
            mdadm --create --run --quiet --metadata={metadata} /dev/md{n} -l faulty -n1 \
                -p {layout} $D{n}
            echo '<mdstat{n}>'; cat /proc/mdstat; echo '</mdstat{n}>'
            mdadm --stop --quiet /dev/md{n}
            echo '<examine{n}>'; mdadm --examine $D{n}; echo '</examine{n}>'",
            truth = truth.display(),
        ));
    }
    kernel.run_ok().unwrap()
}

/// Whether every n-th of some requests fails.
fn fails_every(n: usize, mut request: impl FnMut() -> bool) {
    for round in 1..=2 * n {
        assert_eq!(request(), !round.is_multiple_of(n), "request {round}");
    }
}

#[test]
fn arrays_that_are_to_fail_go_both_ways() {
    let (Some(oracle), Some(umd)) = (Oracle::or_skip("faulty"), Umd::or_skip("faulty")) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let images = scratch.images("k", ARRAYS.len(), 16 * MIB).unwrap();
    let truth = scratch.path("truth");
    pattern::write_file(&truth, 5, 8 * MIB).unwrap();
    let run = made_by_the_kernel(&oracle, &images, &truth);
    for (n, image) in images.iter().enumerate() {
        let examined = umd.ok(&["examine", text(image)]).unwrap();
        let wanted = printed(&run, &format!("examine{n}"));
        assert_eq!(lasting(&examined), lasting(wanted), "{n}");
        let name = format!("md{n}");
        let served = umd.serve(&name, &images[n..=n], &[]).unwrap();
        let shown = umd.ok(&["mdstat"]).unwrap();
        let wanted = second_line(printed(&run, &format!("mdstat{n}")), &name);
        assert_eq!(second_line(&shown, &name), wanted);
        let start = umd.superblock(image).unwrap()["data_offset_bytes"].as_u64();
        let at = 4 * MIB - start.unwrap_or(0);
        let mut client = Client::connect(served.socket(), &name).unwrap();
        let mut back = vec![0; 4096];
        let mut held = vec![0; 4096];
        pattern::fill(5, 0, &mut held);
        match n {
            0 => fails_every(4, || client.read(at, &mut back).is_ok()),
            1 => assert!(
                client.write(0, &held, false).is_ok() && client.write(4096, &held, false).is_err()
            ),
            2 => {
                for _ in 0..4 {
                    client.read(at + 4096, &mut back).unwrap();
                }
                assert!(client.read(at + 4096, &mut back).is_err());
                assert!(client.read(at + 4096, &mut back).is_err());
                client.write(at + 4096, &held, false).unwrap();
                client.read(at + 4096, &mut back).unwrap();
            }
            _ => assert!(client.write(0, &held, false).is_err()),
        }
        client.read(at, &mut back).unwrap();
        assert!(back == held, "{n}: what the kernel left");
        client.disconnect().unwrap();
        served.stop().unwrap();
    }
    umd_to_the_kernel(&oracle, &umd, &scratch, &run);
}

/// What umd made, as mdadm shows it, and what it wrote.
fn umd_to_the_kernel(oracle: &Oracle, umd: &Umd, scratch: &Scratch, made: &KernelRun) {
    let images = scratch.images("u", ARRAYS.len(), 16 * MIB).unwrap();
    let mut kernel = Kernel::new(oracle).members(&images);
    let mut shown = Vec::new();
    let held = scratch.path("held");
    pattern::write_file(&held, 8, 4096).unwrap();
    let bytes = std::fs::read(&held).unwrap();
    for (n, (metadata, layout)) in ARRAYS.into_iter().enumerate() {
        let image = text(&images[n]);
        let name = format!("md{n}");
        let e = format!("--metadata={metadata}");
        umd.ok(&[
            "create", &name, "-l", "faulty", "-n1", "-p", layout, &e, image,
        ])
        .unwrap();
        let mdstat = umd.ok(&["mdstat"]).unwrap();
        umd.ok(&["stop", &name]).unwrap();
        let served = umd.serve(&name, &images[n..=n], &[]).unwrap();
        let mut client = Client::connect(served.socket(), &name).unwrap();
        let written = client.write(0, &bytes, false).is_ok();
        assert_eq!(written, layout != "wa");
        client.disconnect().unwrap();
        served.stop().unwrap();
        shown.push((umd.ok(&["examine", image]).unwrap(), mdstat));
        kernel = kernel.script(&format!(
            "echo '<examine{n}>'; mdadm --examine $D{n}; echo '</examine{n}>'
            mdadm --assemble --run --quiet /dev/md{n} $D{n}
            echo '<mdstat{n}>'; cat /proc/mdstat; echo '</mdstat{n}>'
            if [ {layout} = wa ]; then
                dd if=$H{held} of=/dev/md{n} bs=4k conv=fsync 2>/dev/null && fail {n}: written
            else
                mdadm --grow --quiet /dev/md{n} -l faulty -p clear || true
                at=$(cat /sys/block/md{n}/md/rd0/offset)
                dd if=/dev/md{n} of=/tmp/back bs=4k count=1 2>/dev/null
                dd if=$D{n} bs=512 skip=$at count=8 2>/dev/null | cmp - $H{held} || fail {n}: lost
                dd if=$D{n} bs=4k count=1 2>/dev/null | cmp - /tmp/back || fail {n}: differs
            fi
            mdadm --stop --quiet /dev/md{n}",
            held = held.display(),
        ));
    }
    let run = kernel.run_ok().unwrap();
    for (n, (shown, mdstat)) in shown.iter().enumerate() {
        let name = format!("md{n}");
        let theirs = second_line(printed(&run, &format!("mdstat{n}")), &name);
        assert_eq!(second_line(mdstat, &name), theirs);
        let wanted = printed(&run, &format!("examine{n}"));
        assert_eq!(lasting(shown), lasting(wanted), "{n}");
        let theirs = shape(printed(made, &format!("examine{n}")));
        assert_eq!(shape(shown), theirs, "{n}: as mdadm makes them");
    }
}

/// One after the other, of an array made with `rt4`.
const WISHES: [&str; 12] = [
    "wt3",
    "rp2",
    "rf5",
    "wa",
    "flush",
    "clear",
    "rp1",
    "none",
    "flush",
    "write-persistent",
    "rt2",
    "rt7",
];
/// Requests are read here once `rp1` is on: beyond all superblocks.
const BAD_BYTES: u64 = 6 * MIB;

#[test]
fn modes_are_changed_and_not_recorded_as_the_kernel_does() {
    let (Some(oracle), Some(umd)) = (Oracle::or_skip("faulty"), Umd::or_skip("faulty")) else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let images = scratch.images("g", 3, 16 * MIB).unwrap();
    let own = scratch.images("h", 3, 16 * MIB).unwrap();
    let formats = ["1.2", "1.0", "0.90"];
    let mut kernel = Kernel::new(&oracle).members(&images);
    for (n, metadata) in formats.into_iter().enumerate() {
        kernel = kernel.script(&format!(
            "mdadm --create --run --quiet --metadata={metadata} /dev/md{n} -l faulty -n1 \
                -p rt4 $D{n}
            mdadm --examine $D{n} > /tmp/before{n}"
        ));
        for (step, word) in WISHES.into_iter().enumerate() {
            kernel = kernel.script(&format!(
                "mdadm --grow --quiet /dev/md{n} -l faulty -p {word} || fail {n}: {word}
                [ {word} = rp1 ] && dd if=/dev/md{n} of=/dev/null bs=4k count=1 iflag=direct \
                    skip={} 2>/dev/null && fail {n}: read
                echo '<mdstat{n}.{step}>'; cat /proc/mdstat; echo '</mdstat{n}.{step}>'",
                BAD_BYTES / 4096
            ));
        }
        kernel = kernel.script(&format!(
            "mdadm --stop --quiet /dev/md{n}
            mdadm --examine $D{n} | cmp - /tmp/before{n} || fail {n}: recorded
            mdadm --assemble --run --quiet /dev/md{n} $D{n}
            echo '<again{n}>'; cat /proc/mdstat; echo '</again{n}>'
            mdadm --stop --quiet /dev/md{n}"
        ));
    }
    let run = kernel.run_ok().unwrap();
    for (n, metadata) in formats.into_iter().enumerate() {
        let (name, image) = (format!("md{n}"), text(&own[n]));
        let e = format!("--metadata={metadata}");
        umd.ok(&[
            "create", &name, "-l", "faulty", "-n1", "-p", "rt4", &e, image,
        ])
        .unwrap();
        umd.ok(&["stop", &name]).unwrap();
        let served = umd.serve(&name, &own[n..=n], &[]).unwrap();
        let before = std::fs::read(&own[n]).unwrap();
        let mut client = Client::connect(served.socket(), &name).unwrap();
        for (step, word) in WISHES.into_iter().enumerate() {
            umd.ok(&["grow", &name, "-l", "faulty", "-p", word])
                .unwrap();
            if word == "rp1" {
                let bad = client.read(BAD_BYTES, &mut [0; 4096]);
                assert!(bad.is_err(), "{metadata}");
            }
            let wanted = second_line(printed(&run, &format!("mdstat{n}.{step}")), &name);
            let shown = umd.ok(&["mdstat"]).unwrap();
            assert_eq!(second_line(&shown, &name), wanted, "{metadata}: {word}");
        }
        client.disconnect().unwrap();
        served.stop().unwrap();
        assert!(
            std::fs::read(&own[n]).unwrap() == before,
            "{metadata}: recorded"
        );
        let served = umd.serve(&name, &own[n..=n], &[]).unwrap();
        let again = second_line(printed(&run, &format!("again{n}")), &name);
        assert_eq!(second_line(&umd.ok(&["mdstat"]).unwrap(), &name), again);
        served.stop().unwrap();
    }
}
