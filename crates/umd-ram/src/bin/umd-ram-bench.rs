//! The RAM plane and the sync plane of `cargo xtask bench`: the engine over members in memory,
//! against what cannot be left out (`umd_ram::ceiling`) and one copy of each request (raw).
//!
//! What stands in a row is measured in turns, and is the median of all rounds; the table is in
//! Markdown, on standard output. Time is what this thread had of a processor, so that others who
//! want one are not in it; what they do to memory is. `--quick` measures for a shorter time.
#![forbid(unsafe_code)]

use umd_core::sync::SyncAction;
use umd_format::Level;
use umd_ram::ceiling::Bare;
use umd_ram::{Load, Plane, Shape};

const MIB: u64 = 1 << 20;
const MEMBER_BYTES: u64 = 128 * MIB;

/// How long, and how often.
#[derive(Clone, Copy)]
struct Rounds {
    count: usize,
    seconds: f64,
}

/// A way of doing a load: does so many requests.
type Way<'a> = Box<dyn FnMut(u64) + 'a>;

fn main() {
    let rounds = match std::env::args().any(|arg| arg == "--quick") {
        true => Rounds {
            count: 3,
            seconds: 0.05,
        },
        false => Rounds {
            count: 7,
            seconds: 0.25,
        },
    };
    println!(
        "Members of {} MiB in memory, one thread, 64 KiB chunks, no bitmap, parity with {};\n\
        medians of {} interleaved rounds of {} s of processor.\n",
        MEMBER_BYTES / MIB,
        umd_parity::kernel(),
        rounds.count,
        rounds.seconds
    );
    small(rounds);
    large(rounds);
    reads(rounds);
    sync(rounds);
}

/// Seconds that this thread has run.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat");
    let text = text.expect("the kernel counts how long threads run");
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    let nanos: u64 = nanos.expect("nanoseconds come first");
    nanos as f64 / 1e9
}

/// Requests a second of each way: the median of its rounds, which are taken in turns.
fn measure(rounds: Rounds, block: u64, ways: &mut [Way<'_>]) -> Vec<f64> {
    let some = if block < MIB { 4096 } else { 32 };
    let mut samples = vec![Vec::new(); ways.len()];
    for _ in 0..rounds.count {
        for (way, samples) in ways.iter_mut().zip(&mut samples) {
            let (begin, mut done) = (processor_seconds(), 0);
            let mut seconds = 0.0;
            while seconds < rounds.seconds {
                way(some);
                done += some;
                seconds = processor_seconds() - begin;
            }
            samples.push(done as f64 / seconds);
        }
    }
    samples.into_iter().map(median).collect()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn shape(level: Level, disks: u16) -> Shape {
    Shape::new(level, disks, MEMBER_BYTES)
}

fn name(level: Level, disks: u16) -> String {
    let number = match level {
        Level::Raid0 => 0,
        Level::Raid1 => 1,
        Level::Raid10 => 10,
        Level::Raid5 => 5,
        _ => 6,
    };
    format!("raid{number} x{disks}")
}

fn bare(level: Level, disks: u16) -> Bare {
    let bytes = usize::try_from(MEMBER_BYTES).expect("it fits memory");
    Bare::new(level, disks, bytes)
}

/// A load on all of an array.
fn load(write: bool, random: bool, block: u64) -> Load {
    let depth = if block < MIB { 32 } else { 4 };
    Load {
        write,
        random,
        block,
        depth,
        span: u64::MAX,
    }
}

fn small(rounds: Rounds) {
    println!("| random write 4K, depth 32 | raw k/s | ceiling | core | core k/s | added us |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (level, disks) in [
        (Level::Raid0, 3),
        (Level::Raid1, 2),
        (Level::Raid10, 4),
        (Level::Raid5, 3),
        (Level::Raid6, 6),
    ] {
        let (mut raw, mut ideal) = (bare(Level::Raid0, 2), bare(level, disks));
        let mut plane = Plane::new(&shape(level, disks));
        let load = load(true, true, 4096);
        let rates = measure(
            rounds,
            load.block,
            &mut [
                Box::new(|n| raw.raw_writes(4096, true, n)),
                Box::new(|n| ideal.small_writes(n)),
                Box::new(|n| plane.run(&load, n)),
            ],
        );
        println!(
            "| {} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} |",
            name(level, disks),
            rates[0] / 1e3,
            rates[1] / rates[0],
            rates[2] / rates[0],
            rates[2] / 1e3,
            1e6 / rates[2] - 1e6 / rates[0],
        );
    }
}

fn large(rounds: Rounds) {
    println!(
        "\n| write 1M, past the caches | raw GB/s | raw, through them | ceiling | core | \
        core GB/s |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (level, disks) in [
        (Level::Raid1, 2),
        (Level::Raid5, 3),
        (Level::Raid5, 5),
        (Level::Raid6, 6),
    ] {
        let (mut raw, mut ideal) = (bare(Level::Raid0, 2), bare(level, disks));
        let mut through = bare(Level::Raid0, 2);
        let mut plane = Plane::new(&shape(level, disks));
        let load = load(true, false, MIB);
        let rates = measure(
            rounds,
            load.block,
            &mut [
                Box::new(|n| raw.raw_writes_past_cache(1 << 20, n)),
                Box::new(|n| through.raw_writes(1 << 20, false, n)),
                Box::new(|n| ideal.large_writes(n)),
                Box::new(|n| plane.run(&load, n)),
            ],
        );
        in_gigabytes(&name(level, disks), &rates);
    }
}

fn in_gigabytes(name: &str, rates: &[f64]) {
    let bytes = MIB as f64 / 1e9;
    let ratios = rates[1..]
        .iter()
        .map(|rate| format!("{:.2} | ", rate / rates[0]));
    let ratios: String = ratios.collect();
    let last = rates[rates.len() - 1] * bytes;
    println!("| {name} | {:.1} | {ratios}{last:.1} |", rates[0] * bytes);
}

fn reads(rounds: Rounds) {
    println!("\n| read | raw k/s or GB/s | core | core k/s or GB/s |");
    println!("| --- | ---: | ---: | ---: |");
    for (level, disks, missing, block) in [
        (Level::Raid0, 3, 0, 4096),
        (Level::Raid1, 2, 0, 4096),
        (Level::Raid5, 3, 0, 4096),
        (Level::Raid1, 2, 0, MIB),
        (Level::Raid5, 3, 0, MIB),
        (Level::Raid6, 6, 0, MIB),
        (Level::Raid5, 3, 1, MIB),
        (Level::Raid6, 6, 2, MIB),
    ] {
        let mut raw = bare(Level::Raid0, 2);
        let mut plane = Plane::without_first(&shape(level, disks), missing);
        let small = block < MIB;
        let load = load(false, small, block);
        let bytes = usize::try_from(block).expect("it fits memory");
        let rates = measure(
            rounds,
            load.block,
            &mut [
                Box::new(|n| raw.raw_reads(bytes, small, n)),
                Box::new(|n| plane.run(&load, n)),
            ],
        );
        let lost = match missing {
            0 => String::new(),
            n => format!(", {n} missing"),
        };
        let name = format!("{}{lost}", name(level, disks));
        if small {
            let (raw, core) = (rates[0] / 1e3, rates[1] / 1e3);
            println!("| {name}, 4K | {raw:.0} | {:.2} | {core:.0} |", core / raw);
        } else {
            in_gigabytes(&format!("{name}, 1M"), &rates);
        }
    }
}

/// GB/s of each member, of runs over all of it.
fn sync(rounds: Rounds) {
    println!("\n| GB/s of each member | check | recovery | regions of 64 KiB, check |");
    println!("| --- | ---: | ---: | ---: |");
    let rate = |begin: f64| MEMBER_BYTES as f64 / (processor_seconds() - begin) / 1e9;
    for (level, disks) in [(Level::Raid1, 2), (Level::Raid5, 3), (Level::Raid6, 6)] {
        let shape = shape(level, disks);
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        let mut whole = Plane::new(&shape);
        let mut marked = Plane::new(&shape.with_bitmap(64 << 10));
        for _ in 0..rounds.count {
            let begin = processor_seconds();
            whole.sync(SyncAction::Check);
            samples[0].push(rate(begin));
            let mut lacking = Plane::without_first(&shape, 1);
            lacking.bring_member();
            let begin = processor_seconds();
            lacking.recover();
            samples[1].push(rate(begin));
            let begin = processor_seconds();
            marked.sync(SyncAction::Check);
            samples[2].push(rate(begin));
        }
        let [check, recovery, regions] = samples.map(median);
        let name = name(level, disks);
        println!("| {name} | {check:.1} | {recovery:.1} | {regions:.1} |");
    }
}
