//! What `cargo xtask counts` runs under callgrind.
//!
//!     umd-counts                    the names of all cases, with the number of requests counted
//!     umd-counts base|full CASE     the case, without or with the requests that are counted
#![forbid(unsafe_code)]

use std::process::ExitCode;

use umd_parity::Kernel;
use umd_ram::cases;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (counted, name) = match words[..] {
        [] => {
            for case in cases::all() {
                println!("{}\t{}", case.requests, case.name);
            }
            return ExitCode::SUCCESS;
        }
        ["base", name] => (false, name),
        ["full", name] => (true, name),
        _ => {
            eprintln!("usage: umd-counts [base|full CASE]");
            return ExitCode::FAILURE;
        }
    };
    // The widest that callgrind knows and every machine of CI has.
    if let Err(error) = umd_parity::force(Kernel::Avx2) {
        eprintln!("umd-counts: {error}");
        return ExitCode::FAILURE;
    }
    let Some(case) = cases::all().into_iter().find(|case| case.name == name) else {
        eprintln!("umd-counts: there is no case {name:?}");
        return ExitCode::FAILURE;
    };
    case.run(counted);
    ExitCode::SUCCESS
}
