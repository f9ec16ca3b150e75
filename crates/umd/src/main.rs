//! The umd binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(umd::cli::run(std::env::args_os().skip(1).collect()))
}
