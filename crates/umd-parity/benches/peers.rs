//! The kernel in use beside ISA-L, on the same columns, in turns: GB/s (10^9) of data, medians.
//!
//! ```text
//!   hot       the same columns again and again, in cache
//!   memory    the columns of the next row, of far more than caches hold
//! ```
//!
//! `cargo bench -p umd-parity --bench peers`. ISA-L is the package libisal2, which `cargo xtask
//! oracle` fetches; nothing of umd links to it. Before anything is measured both compute the same.
#![allow(unsafe_code, reason = "another library's functions are called")]

use std::ffi::{c_int, c_uchar, c_void};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use libloading::Library;
use umd_parity::{Lost, pq, recover, xor_many};

/// Rounds of each way, in turns.
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(25);
/// Far more than any cache.
const MEMORY_BYTES: usize = 384 << 20;

type Many = unsafe extern "C" fn(c_int, c_int, *mut *mut c_void) -> c_int;
type Tables = unsafe extern "C" fn(c_int, c_int, *mut c_uchar, *mut c_uchar);
type Encode =
    unsafe extern "C" fn(c_int, c_int, c_int, *mut c_uchar, *mut *mut c_uchar, *mut *mut c_uchar);
type Multiply = unsafe extern "C" fn(c_uchar, c_uchar) -> c_uchar;
type Invert = unsafe extern "C" fn(c_uchar) -> c_uchar;

/// What is used of ISA-L.
struct Isal {
    pq: Many,
    xor: Many,
    tables: Tables,
    encode: Encode,
    multiply: Multiply,
    invert: Invert,
    /// The functions are in here.
    _library: Library,
}

impl Isal {
    fn open() -> Result<Isal, libloading::Error> {
        // SAFETY: the library runs nothing of its own when it is loaded, and the types are those
        // of its header files raid.h and erasure_code.h.
        unsafe {
            let library = Library::new(fetched()).or_else(|_| Library::new("libisal.so.2"))?;
            Ok(Isal {
                pq: *library.get(b"pq_gen\0")?,
                xor: *library.get(b"xor_gen\0")?,
                tables: *library.get(b"ec_init_tables\0")?,
                encode: *library.get(b"ec_encode_data\0")?,
                multiply: *library.get(b"gf_mul\0")?,
                invert: *library.get(b"gf_inv\0")?,
                _library: library,
            })
        }
    }

    fn times(&self, a: u8, b: u8) -> u8 {
        // SAFETY: it takes and gives numbers.
        unsafe { (self.multiply)(a, b) }
    }

    fn power(&self, exponent: usize) -> u8 {
        (0..exponent).fold(1, |product, _| self.times(product, 2))
    }

    /// What the first and the last of k data columns are made of: of each column between them, of
    /// P and of Q so many times.
    fn lost_two(&self, k: usize) -> Vec<u8> {
        let across = self.power(k - 1);
        // SAFETY: as above.
        let least = unsafe { (self.invert)(across ^ 1) };
        let (of_p, of_q) = (self.times(across, least), least);
        let first = (1..k - 1).map(|i| of_p ^ self.times(of_q, self.power(i)));
        let first: Vec<u8> = first.chain([of_p, of_q]).collect();
        let mut last: Vec<u8> = first.iter().map(|times| times ^ 1).collect();
        last[k - 1] = of_q;
        let both = first.into_iter().chain(last).collect::<Vec<u8>>();
        let mut tables = vec![0; 32 * k * 2];
        let mut both = both;
        // SAFETY: k times two numbers, and 32 bytes for each.
        unsafe { (self.tables)(count(k), 2, both.as_mut_ptr(), tables.as_mut_ptr()) };
        tables
    }
}

/// Where `cargo xtask oracle` puts it.
fn fetched() -> PathBuf {
    let oracle = std::env::var_os("UMD_ORACLE_DIR").map(PathBuf::from);
    let own = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/oracle"));
    let folder = format!("root/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    oracle.unwrap_or_else(own).join(folder).join("libisal.so.2")
}

fn count(number: usize) -> c_int {
    c_int::try_from(number).expect("few, and short")
}

/// Rows of columns in one piece of memory: k of data, P, Q and two to compare with.
struct Rows {
    memory: Vec<u8>,
    start: usize,
    size: usize,
    columns: usize,
    rows: usize,
    next: usize,
}

impl Rows {
    fn new(k: usize, size: usize, bytes: usize) -> Rows {
        let columns = k + 4;
        let stride = size + 9 * 64;
        let rows = (bytes / (columns * stride)).max(1);
        let mut memory = vec![0_u8; rows * columns * stride + 64];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let start = memory.as_ptr().align_offset(64);
        for word in memory[start..].chunks_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        Rows {
            memory,
            start,
            size,
            columns,
            rows,
            next: 0,
        }
    }

    /// The columns of the next row.
    fn row(&mut self) -> Vec<&mut [u8]> {
        let (size, stride) = (self.size, self.size + 9 * 64);
        let from = self.start + self.next * self.columns * stride;
        self.next = (self.next + 1) % self.rows;
        let row = &mut self.memory[from..from + self.columns * stride];
        row.chunks_exact_mut(stride)
            .map(|c| &mut c[..size])
            .collect()
    }
}

/// What is computed.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Pq,
    P,
    Two,
}

fn ours(work: Work, row: &mut [&mut [u8]]) {
    let (data, outs) = row.split_at_mut(row.len() - 4);
    let [p, q, dx, dy] = outs else {
        unreachable!("four columns are no data")
    };
    let k = data.len();
    let data: Vec<Option<&[u8]>> = data.iter().map(|column| Some(&**column)).collect();
    match work {
        Work::Pq => pq(p, q, &data),
        Work::P => xor_many(p, &data.iter().flatten().copied().collect::<Vec<_>>()),
        Work::Two => {
            let mut holes = data;
            (holes[0], holes[k - 1]) = (None, None);
            let lost = &mut [
                (Lost::Data(0), Some(&mut **dx)),
                (Lost::Data(k - 1), Some(&mut **dy)),
            ];
            recover(&holes, Some(p), Some(q), lost);
        }
    }
}

fn theirs(isal: &Isal, work: Work, tables: &[u8], row: &mut [&mut [u8]]) {
    let size = count(row[0].len());
    let mut all: Vec<*mut c_uchar> = row.iter_mut().map(|column| column.as_mut_ptr()).collect();
    let k = all.len() - 4;
    // SAFETY: all columns are of that size and aligned to 64 bytes; sizes are multiples of 64. P
    // and Q come behind data, as it wants them. Tables are those of k sources and two outputs.
    unsafe {
        match work {
            Work::Pq => (isal.pq)(count(k + 2), size, all.as_mut_ptr().cast()),
            Work::P => (isal.xor)(count(k + 1), size, all.as_mut_ptr().cast()),
            Work::Two => {
                let mut outs = [all[k + 2], all[k + 3]];
                let mut sources: Vec<_> = all[1..k - 1]
                    .iter()
                    .chain(&all[k..k + 2])
                    .copied()
                    .collect();
                let tables = tables.as_ptr().cast_mut();
                (isal.encode)(
                    size,
                    count(k),
                    2,
                    tables,
                    sources.as_mut_ptr(),
                    outs.as_mut_ptr(),
                );
                0
            }
        };
    }
}

/// Both compute the same of one row.
fn agree(isal: &Isal, work: Work, tables: &[u8], k: usize) {
    let copy =
        |rows: &mut Rows| -> Vec<Vec<u8>> { rows.row().iter().map(|c| c.to_vec()).collect() };
    let (mut a, mut b) = (Rows::new(k, 4096, 0), Rows::new(k, 4096, 0));
    for rows in [&mut a, &mut b] {
        ours(Work::Pq, &mut rows.row());
    }
    ours(work, &mut a.row());
    theirs(isal, work, tables, &mut b.row());
    let (a, b) = (copy(&mut a), copy(&mut b));
    assert!(a == b, "two libraries, and one field");
    assert!(work != Work::Two || a[k + 2] == a[0] && a[k + 3] == a[k - 1]);
}

/// GB/s of data of one round.
fn round(rows: &mut Rows, mut work: impl FnMut(&mut [&mut [u8]])) -> f64 {
    let bytes = rows.size * (rows.columns - 4);
    let (begin, mut calls) = (Instant::now(), 0);
    while begin.elapsed() < ROUND {
        for _ in 0..8 {
            work(black_box(&mut rows.row()));
        }
        calls += 8;
    }
    (calls * bytes) as f64 / begin.elapsed().as_secs_f64() / 1e9
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("peers: use cargo bench");
        return;
    }
    let isal = match Isal::open() {
        Ok(isal) => isal,
        Err(error) => {
            eprintln!("peers: there is no ISA-L here (cargo xtask oracle): {error}");
            std::process::exit(1);
        }
    };
    println!(
        "GB/s of data with {}, ISA-L, and the ratio\n",
        umd_parity::kernel()
    );
    println!("| | 4K hot | 64K hot | 256K hot | 64K from memory |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let mut ratios = Vec::new();
    for (name, work) in [("P+Q", Work::Pq), ("P", Work::P), ("two lost", Work::Two)] {
        for k in [4, 8] {
            let tables = isal.lost_two(k);
            agree(&isal, work, &tables, k);
            print!("| {name} {k}+2 |");
            for (size, bytes) in [(4, 0), (64, 0), (256, 0), (64, MEMORY_BYTES)] {
                let mut rows = Rows::new(k, size << 10, bytes);
                let mut samples = [Vec::new(), Vec::new()];
                for _ in 0..ROUNDS {
                    samples[0].push(round(&mut rows, |row| ours(work, row)));
                    samples[1].push(round(&mut rows, |row| theirs(&isal, work, &tables, row)));
                }
                let [us, them] = samples.map(median);
                ratios.push(us / them);
                print!(" {us:.1} / {them:.1} = {:.2} |", us / them);
            }
            println!();
        }
    }
    let worst = ratios.iter().copied().fold(f64::MAX, f64::min);
    println!("\nworst {worst:.2}, median {:.2}", median(ratios));
}
