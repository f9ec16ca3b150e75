//! Development tasks: what CI runs, where the oracles come from, which lines between the rooms
//! may be crossed.
//!
//! ```text
//! cargo xtask test              everything CI runs, with a table of times at the end
//! cargo xtask oracle [--fresh]  fetch kernel md, mdadm, GRUB and NBD clients to target/oracle
//! cargo xtask oracle --browser  fetch a Chromium into target/oracle-browser, for the page's test
//! cargo xtask oracle --newer    build a kernel md with the lockless bitmap in target/oracle-newer
//! cargo xtask interop [--full]  the kernel matrix: a pairwise selection, or all of it
//! cargo xtask kills [--full]    umd killed at random moments under a verifying load
//! cargo xtask sim ...           the simulator; arguments go through
//! cargo xtask sim --museum ...  known mistakes: scenes, random search, docs/museum.md
//! cargo xtask bench [--quick]   figures for docs/performance.md; --ram: of the engine alone;
//!                               --parity: of the parity kernels, beside ISA-L;
//!                               --kernel: of kernel md over disks in memory
//! cargo xtask counts [--record] instructions for each request, against those recorded
//! cargo xtask fuzz [...]        the fuzz targets, 60 seconds each: --seconds N, TARGET, --replay
//! cargo xtask mutants ...       changes of umd-core that nothing notices: --sample N, --file GLOB
//! cargo xtask tidy              layering, banned calls, sizes
//! ```
#![forbid(unsafe_code)]

mod browser;
mod counts;
mod mutants;
mod newer;
mod oracle;
mod probes;
mod programs;
mod stages;
mod suites;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask test | oracle [--newer | --browser] [--fresh] | \
    interop [--full] | kills [--full] | sim [ARGS...] | \
    bench [--ram|--parity|--kernel] [--quick] | counts [--record] | \
    fuzz [--seconds N] [TARGET] | fuzz --replay TARGET FILE | \
    mutants [--sample N] [--file GLOB] | tidy";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["test"] => stages::test(),
        ["oracle"] => oracle::run(false),
        ["oracle", "--fresh"] => oracle::run(true),
        ["oracle", "--browser"] => browser::run(false),
        ["oracle", "--browser", "--fresh"] => browser::run(true),
        ["oracle", "--newer"] => newer::run(false),
        ["oracle", "--newer", "--fresh"] => newer::run(true),
        ["interop"] => stages::interop(false),
        ["interop", "--full"] => stages::interop(true),
        ["kills"] => stages::kills(false),
        ["kills", "--full"] => stages::kills(true),
        ["sim", ref rest @ ..] => stages::sim(rest),
        ["bench"] => stages::bench(false),
        ["bench", "--quick"] => stages::bench(true),
        ["bench", "--ram"] => stages::ram_plane(false),
        ["bench", "--ram", "--quick"] => stages::ram_plane(true),
        ["bench", "--parity"] => stages::parity_kernels(),
        ["bench", "--kernel"] => stages::kernel_md(false),
        ["bench", "--kernel", "--quick"] => stages::kernel_md(true),
        ["counts", ref rest @ ..] => stages::counts(counts::wish(rest)?),
        ["fuzz", ref rest @ ..] => probes::fuzz(rest),
        ["mutants", ref rest @ ..] => mutants::run(rest),
        ["tidy"] => tidy::run(),
        _ => bail!("{USAGE}"),
    }
}
