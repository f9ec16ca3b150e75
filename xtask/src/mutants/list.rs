//! The changes, as cargo-mutants lists them, and their numbers.
//!
//! ```text
//!   cargo mutants --list --json -> Mutant 1, 2, 3 ... -> numbers that the program is told
//! ```

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cargo_mutants;

/// What kind of change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Genre {
    /// A function returns at once.
    FnValue,
    /// Another operator between two operands.
    Binary,
    /// No operator before one.
    Unary,
    /// An arm of a match is not there.
    Arm,
    /// An arm is always taken, or never.
    Guard,
    /// A field is that of the base.
    Field,
}

/// Line and column, both from 1.
pub type Place = (usize, usize);

/// One change.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// What the program is told, from 1.
    pub number: u32,
    /// `file:line:column: what`.
    pub name: String,
    /// `file: what`, and which of them from the top: it stays when lines above it come or go.
    pub key: String,
    pub file: String,
    pub genre: Genre,
    pub from: Place,
    pub replacement: String,
}

impl Mutant {
    /// The room of umd-core that it is in.
    pub fn room(&self) -> &str {
        let below = self.file.split_once("/src/").map_or("", |(_, path)| path);
        below.split_once('/').map_or(below, |(room, _)| room)
    }
}

/// All changes, or those in some files.
pub fn list(args: &[&str]) -> Result<Vec<Mutant>> {
    let output = cargo_mutants(&["--list", "--json"])
        .args(args)
        .output()
        .context("cannot list the mutants")?;
    ensure!(
        output.status.success(),
        "cargo mutants: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    parse(&serde_json::from_slice(&output.stdout)?)
}

fn parse(all: &Value) -> Result<Vec<Mutant>> {
    let all = all.as_array().context("a list of mutants")?;
    let mut names = HashSet::new();
    let mut alike: HashMap<String, u32> = HashMap::new();
    let mut mutants = Vec::new();
    for one in all {
        let text = |key: &str| one[key].as_str().with_context(|| format!("no {key}"));
        let start = &one["span"]["start"];
        let number = |key: &str| start[key].as_u64().context("no place");
        let genre = match text("genre")? {
            "FnValue" => Genre::FnValue,
            "BinaryOperator" => Genre::Binary,
            "UnaryOperator" => Genre::Unary,
            "MatchArm" => Genre::Arm,
            "MatchArmGuard" => Genre::Guard,
            "StructField" => Genre::Field,
            other => anyhow::bail!("an unknown kind of change: {other}"),
        };
        let name = text("name")?.to_owned();
        ensure!(names.insert(name.clone()), "{name} is there twice");
        let what = name.splitn(4, ':').nth(3).context("a place in a name")?;
        let key = format!("{}:{what}", text("file")?);
        let nth = alike.entry(key.clone()).or_default();
        *nth += 1;
        let key = format!("{key} {nth}");
        mutants.push(Mutant {
            number: u32::try_from(mutants.len() + 1)?,
            name,
            key,
            file: text("file")?.to_owned(),
            genre,
            from: (number("line")? as usize, number("column")? as usize),
            replacement: text("replacement")?.to_owned(),
        });
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cargo-mutants says of a change of `f` at the start of a line.
    fn change(line: u32, what: &str) -> Value {
        let name = format!("src/a.rs:{line}:1: {what}");
        serde_json::json!({
            "file": "src/a.rs", "genre": "BinaryOperator", "name": name, "replacement": "-",
            "span": { "start": { "line": line, "column": 1 } },
        })
    }

    fn keys(all: &[Value]) -> Vec<String> {
        let all = parse(&Value::Array(all.to_vec())).unwrap();
        all.into_iter().map(|mutant| mutant.key).collect()
    }

    #[test]
    fn a_key_stays_when_lines_move_and_is_there_once() {
        let what = [
            "replace + with - in f",
            "replace + with - in f",
            "replace f -> u8 with 0",
        ];
        let here: Vec<Value> = (1..)
            .zip(what)
            .map(|(line, what)| change(line, what))
            .collect();
        let lower: Vec<Value> = (7..)
            .zip(what)
            .map(|(line, what)| change(line, what))
            .collect();
        assert_eq!(keys(&here), keys(&lower));
        assert_eq!(keys(&here).iter().collect::<HashSet<_>>().len(), 3);
    }
}
