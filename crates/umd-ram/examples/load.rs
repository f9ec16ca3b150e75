//! One load on an array whose members are memory, for as long as is wanted: something to look at
//! with a profiler.
//!
//! ```text
//!   cargo build --release -p umd-ram --example load
//!   perf record -e cpu-clock -g target/release/examples/load "raid1x2 4K write" 5
//! ```

use umd_ram::{Load, Plane, Shape, cases};

const MEMBER_BYTES: u64 = 128 << 20;

fn main() {
    let mut args = std::env::args().skip(1);
    let (name, seconds) = (args.next().unwrap_or_default(), args.next());
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(2_u32);
    let Some(case) = cases::all().into_iter().find(|case| case.name == name) else {
        let names = cases::all().into_iter().map(|case| case.name);
        eprintln!("one of: {}", names.collect::<Vec<_>>().join(", "));
        std::process::exit(2);
    };
    let mut plane = Plane::new(&Shape {
        member_bytes: MEMBER_BYTES,
        ..case.shape
    });
    let load = Load {
        span: u64::MAX,
        ..case.load
    };
    let (begin, mut done) = (processor_seconds(), 0);
    while processor_seconds() - begin < f64::from(seconds) {
        plane.run(&load, 4096);
        done += 4096;
    }
    let micros = (processor_seconds() - begin) * 1e6 / f64::from(done);
    println!("{name}: {micros:.2} us of processor each");
}

/// Seconds that this thread has run.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat");
    let text = text.expect("the kernel counts how long threads run");
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    let nanos: u64 = nanos.expect("nanoseconds come first");
    nanos as f64 / 1e9
}
