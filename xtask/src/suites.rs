//! Programs made of tests: run, counted, and where the world outside has a part in it, asked twice.
//!
//! ```text
//!   run all of a program's tests
//!     '-- some failed, and the program deals with other processes and with the clock
//!           '-- run those again, alone --> pass: unsteady, listed at the end of the run
//!                                     '--> fail: failed
//! ```
//!
//! A test that starts daemons, kernels and servers shares two cores and the ports of a machine
//! with whatever else runs there. Such a failure that does not come back is worth a look, and is no
//! reason to refuse a change. The engine, the simulator and the wiring under shuttle have neither
//! clock nor neighbours: what fails there once has failed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// The crates whose tests deal with other processes, sockets and the clock.
const OUTSIDE: [&str; 5] = [
    "umd",
    "umd-cluster",
    "umd-disk",
    "umd-export",
    "umd-interop",
];

/// What a program made of tests came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub passed: u64,
    pub failed: u64,
    /// What is wrong, if anything is.
    pub error: Option<String>,
    /// Those that failed among others, and passed alone.
    pub unsteady: Vec<String>,
    /// Those that failed, as far as the program said their names.
    names: Vec<String>,
}

/// Whether a crate's tests may be asked twice.
pub fn is_outside(package: &str) -> bool {
    OUTSIDE.contains(&package)
}

/// Runs a program of tests once.
///
/// # Errors
/// When it cannot be started or heard.
pub fn once(mut command: Command) -> Result<Outcome> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run the tests")?;
    let stdout = child.stdout.take().expect("piped above");
    let mut outcome = Outcome::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some((passed, failed)) = counts(&line) {
            outcome.passed += passed;
            outcome.failed += failed;
        }
        outcome.names.extend(failure(&line).map(String::from));
    }
    let status = child.wait()?;
    outcome.error = match (status.success(), outcome.failed) {
        (true, 0) => None,
        (_, 0) => Some(format!("ended with {status}")),
        _ => Some(format!("{} tests failed", outcome.failed)),
    };
    Ok(outcome)
}

/// Runs a program of tests, and those that failed once more. One that died without saying which
/// test that was has failed.
///
/// # Errors
/// When it cannot be started or heard.
pub fn twice(make: impl Fn() -> Command) -> Result<Outcome> {
    let mut outcome = once(make())?;
    let told = u64::try_from(outcome.names.len()).expect("fits") == outcome.failed;
    if outcome.failed == 0 || !told {
        return Ok(outcome);
    }
    println!("\nonce more, alone: {}\n", outcome.names.join(", "));
    let mut command = make();
    command.args(["--exact", "--test-threads=1"]);
    command.args(&outcome.names);
    let again = once(command)?;
    if again.error.is_none() && again.passed == outcome.failed {
        outcome.passed += outcome.failed;
        outcome.unsteady = std::mem::take(&mut outcome.names);
        (outcome.failed, outcome.error) = (0, None);
    }
    Ok(outcome)
}

/// The counts in a line `test result: ok. 4 passed; 0 failed; ...`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| -> Option<u64> {
        let part = counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

/// The name in a line `test NAME ... FAILED`.
fn failure(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    // `#[should_panic]` adds to the name.
    Some(name.split(" - ").next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]);
        command
    }

    #[test]
    fn counts_and_names_are_read_from_the_test_programs() {
        let line = "test result: ok. 4 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(counts(line), Some((4, 0)));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored";
        assert_eq!(counts(line), Some((1, 2)));
        assert_eq!(counts("test a ... ok"), None);
        assert_eq!(failure("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(failure("test a - should panic ... FAILED"), Some("a"));
        assert_eq!(failure("test a ... ok"), None);
    }

    const ONE_OF_THREE: &str = "echo 'test a::b ... FAILED';
        echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored'; exit 101";

    #[test]
    fn what_fails_once_is_asked_again_by_its_name_and_listed() {
        let script = format!(
            "if [ $# = 0 ]; then {ONE_OF_THREE}; fi
            [ \"$*\" = '--exact --test-threads=1 a::b' ] || exit 7
            echo 'test result: ok. 1 passed; 0 failed; 0 ignored'"
        );
        let outcome = twice(|| sh(&script)).unwrap();
        assert_eq!((outcome.passed, outcome.failed), (3, 0));
        assert_eq!(outcome.unsteady, ["a::b"]);
        assert_eq!(outcome.error, None);
    }

    #[test]
    fn what_fails_twice_has_failed() {
        let outcome = twice(|| sh(ONE_OF_THREE)).unwrap();
        assert_eq!((outcome.passed, outcome.failed), (2, 1));
        assert_eq!(outcome.error.as_deref(), Some("1 tests failed"));
        assert!(outcome.unsteady.is_empty());
    }

    #[test]
    fn a_second_run_that_runs_nothing_proves_nothing() {
        let nothing = "echo 'test result: ok. 0 passed; 0 failed; 0 ignored'";
        let script = format!("if [ $# = 0 ]; then {ONE_OF_THREE}; fi; {nothing}");
        assert_eq!(twice(|| sh(&script)).unwrap().failed, 1);
    }

    #[test]
    fn a_program_that_dies_is_not_asked_again() {
        let script = "if [ $# = 0 ]; then kill -9 $$; fi
            echo 'test result: ok. 1 passed; 0 failed; 0 ignored'";
        let outcome = twice(|| sh(script)).unwrap();
        assert!(outcome.error.unwrap().starts_with("ended with"));
    }
}
