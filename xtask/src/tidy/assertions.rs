//! How many invariants the core checks as it runs, release builds included.
//!
//! What counts: `assert!`, `assert_eq!`, `assert_ne!`, `unreachable!` and `.expect(`. Lines are
//! those with code on them: blank lines, comments and tests do not count.

use super::Finding;
use super::source::{Source, is_word};

/// The core has at least so many in a thousand lines.
pub const PER_THOUSAND_MIN: usize = 30;

const ROOMS: &str = "crates/umd-core/src/";
const MACROS: [&str; 4] = ["assert!", "assert_eq!", "assert_ne!", "unreachable!"];

/// Assertions and lines counted so far.
#[derive(Debug, Default, Clone, Copy)]
pub struct Density {
    assertions: usize,
    lines: usize,
}

impl Density {
    /// Counts a file, if it is of the core.
    pub fn count(&mut self, source: &Source) {
        if !source.path.starts_with(ROOMS) {
            return;
        }
        for (_, line) in source.code_lines() {
            self.lines += usize::from(!line.trim().is_empty());
            let calls = MACROS.iter().map(|name| {
                let found = line.match_indices(name);
                found
                    .filter(|(at, _)| !line[..*at].ends_with(is_word))
                    .count()
            });
            self.assertions += calls.sum::<usize>() + line.matches(".expect(").count();
        }
    }

    /// What is wrong, if there are too few.
    pub fn finding(&self) -> Option<Finding> {
        let enough = self.assertions * 1000 >= self.lines * PER_THOUSAND_MIN;
        (!enough).then(|| Finding {
            rule: "assertions",
            path: ROOMS.into(),
            line: 0,
            item: "-".into(),
            size: None,
            what: format!("{self}; at least {PER_THOUSAND_MIN} are wanted"),
        })
    }
}

impl std::fmt::Display for Density {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Density { assertions, lines } = self;
        let density = (assertions * 1000) as f64 / (*lines).max(1) as f64;
        write!(
            f,
            "umd-core: {assertions} assertions in {lines} lines, {density:.1} per 1000"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_of_the_core_are_counted_and_tests_are_not() {
        let text = "fn f() {\n    assert!(a);\n    // assert!(b)\n\n    debug_assert!(c);\n    \
                    let x = y.expect(\"z\");\n}\n#[cfg(test)]\nmod tests {\n    fn g() {\n        \
                    assert_eq!(1, 1);\n    }\n}\n";
        let mut density = Density::default();
        density.count(&Source::new("crates/umd-core/src/lane/a.rs", text));
        density.count(&Source::new("crates/umd-sim/src/a.rs", text));
        assert_eq!((density.assertions, density.lines), (2, 5));
        assert!(density.finding().is_none());
        density.lines = 1000;
        assert!(density.finding().is_some());
    }
}
