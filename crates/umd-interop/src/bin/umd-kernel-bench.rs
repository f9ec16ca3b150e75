//! The part of `cargo xtask bench` that kernel md has: see [`umd_interop::kernel_plane`]. Tables
//! are in Markdown, on standard output. `--quick` measures once, and less of it.
#![forbid(unsafe_code)]

use anyhow::Result;
use umd_interop::kernel_plane::{Load, MEMBER_MIB, Shape, Syncs, measure};
use umd_interop::oracle::Oracle;

const fn shape(name: &'static str, options: &'static str, disks: usize, missing: usize) -> Shape {
    Shape {
        name,
        options,
        disks,
        missing,
    }
}

const SHAPES: [Shape; 8] = [
    shape("raid0 x3", "-l0 -c64", 3, 0),
    shape("raid1 x2", "-l1", 2, 0),
    shape("raid10 x4", "-l10 -c64", 4, 0),
    shape("raid5 x3", "-l5 -c64", 3, 0),
    shape("raid5 x5", "-l5 -c64", 5, 0),
    shape("raid6 x6", "-l6 -c64", 6, 0),
    shape("raid5 x3, 1 missing", "-l5 -c64", 3, 1),
    shape("raid6 x6, 2 missing", "-l6 -c64", 6, 2),
];

const fn load(name: &'static str, options: &'static str, write: bool) -> Load {
    Load {
        name,
        options,
        write,
    }
}

const LOADS: [Load; 4] = [
    load(
        "random write 4K",
        "--rw=randwrite --bs=4k --iodepth=32",
        true,
    ),
    load("write 1M", "--rw=write --bs=1m --iodepth=4", true),
    load(
        "random read 4K",
        "--rw=randread --bs=4k --iodepth=32",
        false,
    ),
    load("read 1M", "--rw=read --bs=1m --iodepth=4", false),
];

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (rounds, time_ms) = if quick { (1, 300) } else { (5, 1000) };
    let shapes = match quick {
        true => &SHAPES[3..4],
        false => &SHAPES[..],
    };
    let oracle = Oracle::open()?;
    println!(
        "Kernel md under User Mode Linux, on one processor; disks of {MEMBER_MIB} MiB in its \
        memory (`brd`), no bitmap;\nfio inside (libaio, depth 32 and 4); medians of {rounds} \
        rounds of {time_ms} ms, in turns with one such disk.\n"
    );
    let head = LOADS.map(|load| load.name).join(" | ");
    println!("| fraction of one disk | {head} | added us, random write 4K |");
    println!("| --- |{}", " ---: |".repeat(LOADS.len() + 1));
    let mut syncs = Vec::new();
    for shape in shapes {
        let (rates, sync) = measure(&oracle, shape, &LOADS, (rounds, time_ms))?;
        let both = rates
            .into_iter()
            .map(|one| (median(one.raw), median(one.md)));
        let both: Vec<(f64, f64)> = both.collect();
        let cells = both.iter().map(|(raw, md)| format!("{:.2} | ", md / raw));
        let cells: String = cells.collect();
        let (raw, md) = both[0];
        println!("| {} | {cells}{:.1} |", shape.name, 1e6 / md - 1e6 / raw);
        syncs.push((shape.name, sync));
    }
    println!("\n| GB/s of each member | check | with 8192 stripes | recovery |");
    println!("| --- | ---: | ---: | ---: |");
    for (name, sync) in syncs.into_iter().filter(|(_, sync)| !sync.plain.is_empty()) {
        let Syncs {
            plain,
            tuned,
            recovery,
        } = sync;
        let cells = [plain, tuned, recovery].map(|rates| match rates.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.2}", median(rates) / 1e3),
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
