//! Development tasks: what CI runs, where the oracles come from, which lines between the rooms may be crossed.
//!
//! ```text
//! cargo xtask test              everything CI runs, with a table of times at the end
//! cargo xtask oracle [--fresh]  fetch kernel md, mdadm, GRUB and the NBD clients into target/oracle
//! cargo xtask interop [--full]  the kernel matrix: a pairwise selection, or all of it
//! cargo xtask sim ...           the simulator; arguments go through
//! cargo xtask bench [--quick]   figures for docs/performance.md
//! cargo xtask tidy              layering, banned calls, sizes
//! ```
#![forbid(unsafe_code)]

mod oracle;
mod workspace;

use anyhow::{Result, bail};

const USAGE: &str = "usage: cargo xtask oracle [--fresh]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => bail!("{USAGE}"),
    };
    match task {
        "oracle" => oracle::run(rest),
        other => bail!("there is no task '{other}'\n{USAGE}"),
    }
}
