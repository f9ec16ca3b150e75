//! How a command ends: exit codes and messages in mdadm's manner.
//!
//! | code | meaning                                         |
//! | ---- | ----------------------------------------------- |
//! | 0    | done                                            |
//! | 1    | it failed                                       |
//! | 2    | it was asked for in a way that makes no sense   |
//! | 4    | `detail --test` could not read the array        |

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a generic failure.
pub const FAILED: u8 = 1;
/// Exit code of a request that makes no sense.
pub const USAGE: u8 = 2;

/// Why a command did not do what was asked, for stderr.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// One clear sentence; empty when everything has been said already.
    pub text: String,
}

impl Failure {
    /// The request makes no sense (exit code 2).
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure {
            code: USAGE,
            text: text.into(),
        }
    }

    /// It could not be done (exit code 1).
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure {
            code: FAILED,
            text: text.into(),
        }
    }

    /// A given exit code without a message.
    pub fn silent(code: u8) -> Failure {
        Failure {
            code,
            text: String::new(),
        }
    }

    /// The same failure with another exit code.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }
}

/// What a command returns: its exit code.
pub type Outcome = Result<u8, Failure>;

static WITH_TIME: AtomicBool = AtomicBool::new(false);

/// From here on messages carry the time: stderr is a log.
pub fn say_with_time() {
    WITH_TIME.store(true, Ordering::Relaxed);
}

/// A message on stderr, with mdadm's kind of prefix on every line. A closed stderr is no reason
/// to stop working.
pub fn say(text: &str) {
    if cfg!(feature = "shuttle") {
        return; // Thousands of schedules say the same.
    }
    let mut out = String::new();
    let time = match WITH_TIME.load(Ordering::Relaxed) {
        true => format!("{:.0} ", jiff::Timestamp::now()),
        false => String::new(),
    };
    for line in text.lines() {
        out.push_str(&time);
        out.push_str("umd: ");
        out.push_str(line);
        out.push('\n');
    }
    let _ = std::io::stderr().write_all(out.as_bytes());
}

/// Data on stdout.
///
/// # Errors
/// When stdout cannot take it; a reader that went away (`| head`) is none.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// A document on stdout, indented, one per call.
///
/// # Errors
/// As [`print()`].
pub fn print_json<T: serde::Serialize>(document: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(document)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    text.push('\n');
    print(&text)
}
