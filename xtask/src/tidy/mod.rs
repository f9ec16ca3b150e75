//! `cargo xtask tidy`: the rules of STYLE.md and the layering of ARCHITECTURE.md, checked.
//!
//! Exceptions are named in `xtask/tidy-exceptions.txt`, one a line: rule, path, item, size (for the
//! rules about sizes, else `-`), reason. An entry that no longer applies, or whose size could be
//! smaller, is itself a failure: the list only shrinks.

mod assertions;
mod layering;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::workspace;
use assertions::Density;
use source::Source;

const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";

/// A place where a rule is broken.
#[derive(Debug)]
pub struct Finding {
    rule: &'static str,
    path: String,
    line: usize,
    /// The function or word concerned, or `-`.
    item: String,
    /// For the rules about sizes, the size found.
    size: Option<usize>,
    what: String,
}

/// Runs the task.
pub fn run() -> Result<()> {
    let (problems, density) = problems(&workspace::root())?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    ensure!(problems.is_empty(), "tidy: {} problems", problems.len());
    println!("tidy: nothing to say ({density})");
    Ok(())
}

/// All that is wrong in the workspace, one message each; and how many assertions the core has.
fn problems(root: &Path) -> Result<(Vec<String>, Density)> {
    let (mut findings, mut density) = (Vec::new(), Density::default());
    for folder in ["crates", "xtask", "fuzz"] {
        visit(root, Path::new(folder), &mut findings, &mut density)?;
    }
    findings.extend(density.finding());
    let exceptions = fs::read_to_string(root.join(EXCEPTIONS))
        .with_context(|| format!("cannot read {EXCEPTIONS}"))?;
    Ok((excuse(&findings, &exceptions), density))
}

fn visit(
    root: &Path,
    folder: &Path,
    findings: &mut Vec<Finding>,
    density: &mut Density,
) -> Result<()> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else {
        return Ok(());
    };
    let mut names: Vec<_> = entries.collect::<Result<Vec<_>, _>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let path = folder.join(entry.file_name());
        let text_path = path.to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                visit(root, &path, findings, density)?;
            }
        } else if text_path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path())
                .with_context(|| format!("{text_path} is not text"))?;
            let source = Source::new(&text_path, &text);
            findings.extend(rules::all(&source));
            findings.extend(layering::rooms(&source));
            density.count(&source);
        } else if entry.file_name() == "Cargo.toml" {
            findings.extend(layering::manifest(
                &text_path,
                &fs::read_to_string(entry.path())?,
            ));
        }
    }
    Ok(())
}

/// The messages for findings that no exception covers and for exceptions that cover nothing.
fn excuse(findings: &[Finding], exceptions: &str) -> Vec<String> {
    let entries: Vec<(usize, Vec<&str>)> = exceptions
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|(index, line)| (index + 1, line.split_whitespace().collect()))
        .collect();
    let covers = |words: &[&str], finding: &Finding| {
        words[..3] == [finding.rule, &finding.path, &finding.item]
    };
    let size_of = |finding: &Finding| finding.size.map_or("-".into(), |size| size.to_string());
    let mut messages = Vec::new();
    for (line, words) in &entries {
        if words.len() < 5 {
            messages.push(format!(
                "{EXCEPTIONS}:{line}: not `rule path item size reason...`"
            ));
            continue;
        }
        match findings.iter().find(|finding| covers(words, finding)) {
            None => messages.push(format!("{EXCEPTIONS}:{line}: no longer needed, remove it")),
            Some(finding) if size_of(finding) != words[3] => messages.push(format!(
                "{EXCEPTIONS}:{line}: the size is {} now; entries may shrink, not grow",
                size_of(finding)
            )),
            Some(_) => {}
        }
    }
    let excused = |finding: &Finding| {
        entries
            .iter()
            .any(|(_, words)| words.len() >= 5 && covers(words, finding))
    };
    messages.extend(
        findings
            .iter()
            .filter(|finding| !excused(finding))
            .map(|finding| {
                format!(
                    "{}:{}: {} [{}]",
                    finding.path, finding.line, finding.what, finding.rule
                )
            }),
    );
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(size: usize) -> Finding {
        Finding {
            rule: "function-length",
            path: "crates/x/src/a.rs".into(),
            line: 3,
            item: "f".into(),
            size: Some(size),
            what: "too long".into(),
        }
    }

    #[test]
    fn exceptions_cover_exactly_and_go_stale() {
        let entry = "# comment\nfunction-length crates/x/src/a.rs f 80 a table\n";
        assert_eq!(excuse(&[finding(80)], entry), [""; 0]);
        assert_eq!(excuse(&[finding(80)], "").len(), 1);
        assert!(excuse(&[], entry)[0].contains("no longer needed"));
        assert!(excuse(&[finding(75)], entry)[0].contains("the size is 75 now"));
        assert!(
            excuse(&[finding(80)], "function-length crates/x/src/a.rs f 80")[0].contains("not")
        );
    }

    #[test]
    fn a_workspace_with_one_bad_file_of_each_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let core = dir.path().join("crates/umd-core");
        fs::create_dir_all(core.join("src/value")).unwrap();
        fs::create_dir_all(dir.path().join("xtask")).unwrap();
        fs::write(dir.path().join(EXCEPTIONS), "").unwrap();
        let manifest = "[package]\nname = \"umd-core\"\n[dependencies]\ntokio = \"1\"\n";
        fs::write(core.join("Cargo.toml"), manifest).unwrap();
        fs::write(core.join("src/value/mod.rs"), "use crate::array::Array;\n").unwrap();
        let (problems, _) = problems(dir.path()).unwrap();
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
