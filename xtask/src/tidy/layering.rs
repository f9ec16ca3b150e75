//! Who may call whom, among crates and among the rooms of umd-core.
//!
//! ```text
//!   umd ----> umd-disk, umd-export, umd-cluster ----> umd-core ----> umd-format, umd-parity
//!
//!   array sync cluster -> lane -> personality bitmap metadata -> member -> geometry assembly value
//! ```
//!
//! `metadata` lies below `lane` because it mints the proofs without which a lane cannot write.

use super::Finding;
use super::source::{Source, is_word, matching_brace};

const RULE: &str = "layering";

/// A crate that is tied: which of ours it may use, and which of others' (`None`: any).
struct Tie {
    name: &'static str,
    ours: &'static [&'static str],
    others: Option<&'static [&'static str]>,
}

const TIES: [Tie; 7] = [
    Tie {
        name: "umd-parity",
        ours: &[],
        others: Some(&[]),
    },
    Tie {
        name: "umd-format",
        ours: &[],
        others: None,
    },
    Tie {
        name: "umd-core",
        ours: &["umd-format", "umd-parity"],
        others: Some(&["smallvec", "thiserror", "zerocopy"]),
    },
    Tie {
        name: "umd-ram",
        ours: &["umd-core", "umd-format", "umd-parity"],
        others: Some(&[]),
    },
    Tie {
        name: "umd-disk",
        ours: &["umd-core"],
        others: None,
    },
    Tie {
        name: "umd-export",
        ours: &["umd-core"],
        others: None,
    },
    Tie {
        name: "umd-cluster",
        ours: &["umd-core"],
        others: None,
    },
];

/// The crates at the top: not even tests of others depend on them.
const TOPS: [&str; 3] = ["umd", "umd-sim", "umd-interop"];

/// The rooms of umd-core from the top floor to the ground.
const FLOORS: [&[&str]; 5] = [
    &["array", "sync", "cluster"],
    &["lane"],
    &["personality", "bitmap", "metadata"],
    &["member"],
    &["geometry", "assembly", "value", "registry"],
];

/// Checks the dependencies in one Cargo.toml.
pub fn manifest(path: &str, text: &str) -> Vec<Finding> {
    let name = text
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("name")?
                .trim_start()
                .strip_prefix('=')
        })
        .map(|value| value.trim().trim_matches('"').to_string())
        .unwrap_or_default();
    let mut findings = Vec::new();
    let mut finding = |line: usize, what: String| {
        findings.push(Finding {
            rule: RULE,
            path: path.into(),
            line,
            item: "-".into(),
            size: None,
            what,
        });
    };
    for (line, dependency, for_tests) in dependencies(text) {
        if TOPS.contains(&dependency.as_str()) {
            finding(line, format!("{name} depends on {dependency}; nobody may"));
        }
        let Some(tie) = TIES
            .iter()
            .find(|tie| tie.name == name)
            .filter(|_| !for_tests)
        else {
            continue;
        };
        let ours = dependency == "umd" || dependency.starts_with("umd-");
        let allowed = match ours {
            true => tie.ours.contains(&dependency.as_str()),
            false => tie
                .others
                .is_none_or(|others| others.contains(&dependency.as_str())),
        };
        if !allowed {
            finding(line, format!("{name} may not depend on {dependency}"));
        }
    }
    findings
}

/// Line, name and "only for tests" of every dependency.
fn dependencies(text: &str) -> Vec<(usize, String, bool)> {
    let mut found = Vec::new();
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_string();
            if let Some((table, name)) = section.rsplit_once("dependencies.") {
                let for_tests = table.ends_with("dev-");
                found.push((index + 1, name.trim_matches('"').to_string(), for_tests));
            }
            continue;
        }
        let for_tests = section.ends_with("dev-dependencies");
        if section.ends_with("dependencies") && line.contains('=') {
            let name: String = line
                .chars()
                .take_while(|c| is_word(*c) || *c == '-')
                .collect();
            found.push((index + 1, name, for_tests));
        }
    }
    found
}

/// Checks that a file of umd-core names only rooms on its own floor or below.
pub fn rooms(source: &Source) -> Vec<Finding> {
    let Some(inside) = source.path.strip_prefix("crates/umd-core/src/") else {
        return Vec::new();
    };
    let room = inside.split(['/', '.']).next().unwrap_or("");
    let Some(floor) = floor_of(room) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (at, _) in source.code.match_indices("crate::") {
        let line = source.line_of(at);
        if source.is_test(line) || source.code[..at].ends_with(is_word) {
            continue;
        }
        for target in heads(&source.code, at + "crate::".len()) {
            if floor_of(&target).is_some_and(|target_floor| target_floor < floor) {
                findings.push(Finding {
                    rule: RULE,
                    path: source.path.clone(),
                    line,
                    item: target.clone(),
                    size: None,
                    what: format!("{room} may not call up to {target}"),
                });
            }
        }
    }
    findings
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The first words of a path at `at`, or of each path in the braces there.
pub fn heads(code: &str, at: usize) -> Vec<String> {
    let rest = &code[at..];
    if !rest.starts_with('{') {
        return vec![rest.chars().take_while(|c| is_word(*c)).collect()];
    }
    let end = matching_brace(code, at).unwrap_or(code.len());
    let mut depth = 0;
    let mut heads = vec![String::new()];
    let mut in_head = true;
    for c in code[at + 1..end].chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(String::new());
                in_head = true;
                continue;
            }
            _ => {}
        }
        let head = heads.last_mut().expect("begun with one");
        if in_head && is_word(c) {
            head.push(c);
        } else if !c.is_whitespace() {
            in_head = false;
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_tied_crate_may_use_only_what_its_tie_names() {
        let text = "[package]\nname = \"umd-core\"\n[dependencies]\nthiserror.workspace = true\n\
            umd-format.workspace = true\nserde = \"1\"\numd-disk.workspace = true\n\
            [dev-dependencies]\nproptest.workspace = true\n";
        assert_eq!(
            whats(manifest("crates/umd-core/Cargo.toml", text)),
            [
                "umd-core may not depend on serde",
                "umd-core may not depend on umd-disk"
            ]
        );
    }

    #[test]
    fn nobody_depends_on_the_tops_not_even_for_tests() {
        let text = "[package]\nname = \"umd-disk\"\n[dev-dependencies.umd-interop]\npath = \"x\"\n";
        assert_eq!(
            whats(manifest("crates/umd-disk/Cargo.toml", text)),
            ["umd-disk depends on umd-interop; nobody may"]
        );
        let text = "[package]\nname = \"xtask\"\n[target.'cfg(unix)'.dependencies]\numd = \"1\"\n";
        assert_eq!(whats(manifest("xtask/Cargo.toml", text)).len(), 1);
    }

    #[test]
    fn rooms_may_not_call_up() {
        let text = "use crate::{value::Slot, array::{self, Event}};\nuse crate::lane::Lane;\n\
            use crate::bitmap;\n";
        let source = Source::new("crates/umd-core/src/bitmap/mod.rs", text);
        assert_eq!(
            whats(rooms(&source)),
            [
                "bitmap may not call up to array",
                "bitmap may not call up to lane"
            ]
        );
        let source = Source::new(
            "crates/umd-core/src/lane/mod.rs",
            "use crate::metadata::Active;",
        );
        assert_eq!(whats(rooms(&source)), [""; 0]);
        let source = Source::new("crates/umd-core/src/geometry/raid0.rs", text);
        assert_eq!(
            whats(rooms(&source)),
            [
                "geometry may not call up to array",
                "geometry may not call up to lane",
                "geometry may not call up to bitmap"
            ]
        );
        let source = Source::new("crates/umd-core/src/array/mod.rs", text);
        assert_eq!(whats(rooms(&source)), [""; 0]);
        let source = Source::new("crates/umd-disk/src/value/mod.rs", text);
        assert_eq!(whats(rooms(&source)), [""; 0]);
    }

    #[test]
    fn tests_in_a_room_may_use_any_room() {
        let text = "#[cfg(test)]\nmod tests {\n    use crate::array::Event;\n}\n";
        let source = Source::new("crates/umd-core/src/value.rs", text);
        assert_eq!(whats(rooms(&source)), [""; 0]);
    }
}
