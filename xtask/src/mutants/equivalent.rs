//! Changes that change nothing: `xtask/equivalent-mutants.txt`, each with its reason.
//!
//! ```text
//!   # Why the changes below, up to the next reason, cannot be noticed.
//!   crates/umd-core/src/array/engine.rs: replace && with || in Array::waits_for_itself 1
//! ```
//!
//! They are judged like all others. Who is there and is caught, or is no change any more, is told:
//! the list is true, or the run fails.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};

use super::list::Mutant;
use crate::workspace;

const LIST: &str = "xtask/equivalent-mutants.txt";

/// The keys of such changes.
#[derive(Debug, Default)]
pub struct Equivalent {
    keys: BTreeSet<String>,
}

impl Equivalent {
    /// Reads the list.
    pub fn load(mutants: &[Mutant]) -> Result<Equivalent> {
        let text = fs::read_to_string(workspace::root().join(LIST)).context(LIST)?;
        let listed = Equivalent::parse(&text)?;
        let there: BTreeSet<&str> = mutants.iter().map(|m| m.key.as_str()).collect();
        for key in &listed.keys {
            ensure!(
                there.contains(key.as_str()),
                "{LIST}: no such change: {key}"
            );
        }
        Ok(listed)
    }

    fn parse(text: &str) -> Result<Equivalent> {
        let mut listed = Equivalent::default();
        let mut reason = false;
        for line in text.lines().filter(|line| !line.is_empty()) {
            if line.starts_with('#') {
                reason = true;
                continue;
            }
            ensure!(reason, "{LIST}: a change without a reason: {line}");
            ensure!(listed.keys.insert(line.to_owned()), "{LIST}: twice: {line}");
        }
        Ok(listed)
    }

    /// Whether nothing can notice this change.
    pub fn has(&self, mutant: &Mutant) -> bool {
        self.keys.contains(&mutant.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_a_reason_and_is_there_once() {
        let listed = Equivalent::parse("# Why.\na 1\nb 2\n\n# Why not.\nc 1\n").unwrap();
        assert_eq!(listed.keys.len(), 3);
        assert!(Equivalent::parse("a 1\n").is_err());
        assert!(Equivalent::parse("# Why.\na 1\na 1\n").is_err());
    }
}
