//! Speed of every kernel this CPU has, in GB/s (10^9) of data read or rewritten, parity not
//! counted; best of several short runs, single thread, everything hot in cache.
//!
//! `cargo bench -p umd-parity`; names of kernels as arguments choose them (`-- gfni512 avx2`).

use std::hint::black_box;
use std::time::{Duration, Instant};

use umd_parity::{Kernel, Lost, force, mul_xor, pq, pq_delta, q_only, recover, xor_many};

const SIZES: [(&str, usize); 3] = [("4K", 4 << 10), ("64K", 64 << 10), ("256K", 256 << 10)];
const RUNS: usize = 9;
const RUN: Duration = Duration::from_millis(12);

/// Buffers of one size, each aligned to a cache line and none at the same offset in a page.
struct Buffers {
    memory: Vec<u8>,
    size: usize,
    stride: usize,
    start: usize,
}

impl Buffers {
    fn new(count: usize, size: usize) -> Self {
        let stride = size + 9 * 64;
        let mut memory = vec![0u8; count * stride + 64];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in &mut memory {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        let start = memory.as_ptr().align_offset(64);
        Self {
            memory,
            size,
            stride,
            start,
        }
    }

    fn split(&mut self) -> Vec<&mut [u8]> {
        let size = self.size;
        self.memory[self.start..]
            .chunks_exact_mut(self.stride)
            .map(|b| &mut b[..size])
            .collect()
    }
}

/// GB/s of the fastest run of `work`, which handles `bytes` a call.
fn measure(bytes: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let begin = Instant::now();
        let mut calls = 0u32;
        while begin.elapsed() < RUN {
            for _ in 0..8 {
                work();
            }
            calls += 8;
        }
        best = best.min(begin.elapsed().as_secs_f64() / f64::from(calls));
    }
    bytes as f64 / best / 1e9
}

/// All operations on k data columns of `size` bytes: name and GB/s.
fn operations(k: usize, size: usize) -> Vec<(&'static str, f64)> {
    let mut buffers = Buffers::new(k + 4, size);
    let mut slices = buffers.split();
    let (outs, data) = slices.split_at_mut(4);
    let [p, q, dx, dy] = outs else {
        unreachable!("split at four")
    };
    let sources: Vec<&[u8]> = data.iter().map(|d| &**d).collect();
    let full: Vec<Option<&[u8]>> = sources.iter().map(|d| Some(*d)).collect();
    let mut holes = full.clone();
    holes[0] = None;
    holes[k - 1] = None;
    let all = k * size;
    vec![
        (
            "xor_many",
            measure(all, || xor_many(black_box(p), black_box(&sources))),
        ),
        (
            "q_only",
            measure(all, || q_only(black_box(q), black_box(&full))),
        ),
        (
            "pq",
            measure(all, || pq(black_box(p), black_box(q), black_box(&full))),
        ),
        (
            "two data",
            measure(all, || {
                recover(
                    black_box(&holes),
                    Some(p),
                    Some(q),
                    &mut [(Lost::Data(0), Some(dx)), (Lost::Data(k - 1), Some(dy))],
                );
            }),
        ),
        (
            "data+P",
            measure(all, || {
                recover(
                    black_box(&holes[1..]),
                    None,
                    Some(q),
                    &mut [(Lost::Data(k - 2), Some(dx)), (Lost::P, Some(dy))],
                );
            }),
        ),
        (
            "pq_delta",
            measure(size, || {
                pq_delta(
                    Some(black_box(p)),
                    Some(q),
                    1,
                    black_box(sources[0]),
                    sources[1],
                );
            }),
        ),
        (
            "mul_xor",
            measure(size, || mul_xor(black_box(p), black_box(sources[0]), 0x8e)),
        ),
    ]
}

fn main() {
    // Cargo passes --bench when benchmarking; `cargo test --benches` does not, and
    // has nothing to measure with an unoptimised build.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("throughput: use cargo bench");
        return;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    for kernel in Kernel::ALL {
        let chosen = wanted.is_empty() || wanted.iter().any(|name| *name == kernel.name());
        if !chosen || force(kernel).is_err() {
            continue;
        }
        for k in [4, 8] {
            let columns: Vec<_> = SIZES.iter().map(|(_, size)| operations(k, *size)).collect();
            print!("\n{:8} {k}+2   ", kernel.name());
            SIZES.iter().for_each(|(name, _)| print!("{name:>9}"));
            println!();
            for (i, (operation, _)) in columns[0].iter().enumerate() {
                print!("  {operation:14}");
                columns
                    .iter()
                    .for_each(|column| print!("{:9.1}", column[i].1));
                println!();
            }
        }
    }
}
