//! Everything the tests need, built in one go and in one profile, so that nothing is built twice:
//! the `umd` binary and the programs made of tests.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// A program made of tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Crate.
    pub package: String,
    /// Name of the target.
    pub name: String,
    /// One of the crate's `tests/`, not the tests inside its sources.
    pub integration: bool,
    path: PathBuf,
}

impl Program {
    /// A command that runs it as `cargo test` would.
    pub fn command(&self) -> Command {
        let dir = workspace::root().join("crates").join(&self.package);
        let dir = Some(dir)
            .filter(|dir| dir.is_dir())
            .unwrap_or_else(|| workspace::root().join(&self.package));
        let mut command = Command::new(&self.path);
        command.env("CARGO_MANIFEST_DIR", &dir).current_dir(dir);
        command
    }
}

/// What a build made.
#[derive(Debug, Default)]
pub struct Programs {
    /// The programs made of tests, by crate and name.
    pub tests: Vec<Program>,
    programs: Vec<(String, PathBuf)>,
}

impl Programs {
    /// The path of an ordinary program, if it was built.
    pub fn find(&self, name: &str) -> Option<&Path> {
        let mut found = self.programs.iter().filter(|(other, _)| other == name);
        found.next().map(|(_, path)| path.as_path())
    }

    /// Runs a cargo build that was asked for JSON messages. What could be built is returned even
    /// when other things could not.
    pub fn build(mut command: Command) -> (Programs, Result<()>) {
        let mut programs = Programs::default();
        let result = programs.collect(command.stdout(Stdio::piped()));
        programs.tests.sort_by(|a, b| {
            (&a.package, a.integration, &a.name).cmp(&(&b.package, b.integration, &b.name))
        });
        (programs, result)
    }

    fn collect(&mut self, command: &mut Command) -> Result<()> {
        let mut child = command.spawn().context("cannot run cargo")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        for line in BufReader::new(stdout).lines() {
            self.message(&line?);
        }
        let status = child.wait()?;
        ensure!(status.success(), "ended with {status}");
        Ok(())
    }

    /// Takes in one of cargo's messages.
    fn message(&mut self, line: &str) {
        // Anything else on standard output is no message and none of our business.
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            return;
        };
        let (Some(path), Some(name), Some(manifest)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
            message["manifest_path"].as_str(),
        ) else {
            return;
        };
        if message["profile"]["test"] != Value::Bool(true) {
            return self.programs.push((name.into(), path.into()));
        }
        let folder = Path::new(manifest).parent().and_then(Path::file_name);
        self.tests.push(Program {
            package: folder.unwrap_or_default().to_string_lossy().into_owned(),
            name: name.into(),
            integration: message["target"]["kind"][0] == "test",
            path: path.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(manifest: &str, kind: &str, name: &str, test: bool) -> String {
        serde_json::json!({
            "reason": "compiler-artifact", "manifest_path": manifest,
            "target": {"kind": [kind], "name": name},
            "profile": {"test": test}, "executable": format!("/t/{name}-1"),
        })
        .to_string()
    }

    #[test]
    fn programs_and_tests_are_told_apart() {
        let script = [
            message("/w/crates/umd/Cargo.toml", "bin", "umd", false),
            message("/w/crates/umd/Cargo.toml", "bin", "umd", true),
            message("/w/crates/umd-disk/Cargo.toml", "test", "open", true),
            "{\"reason\":\"build-finished\"}".into(),
            "a line of a build script".into(),
        ];
        let mut command = Command::new("printf");
        command.args(["%s\\n"]).args(&script);
        let (programs, result) = Programs::build(command);
        result.unwrap();
        assert_eq!(programs.find("umd"), Some(Path::new("/t/umd-1")));
        assert_eq!(programs.find("open"), None);
        let names: Vec<_> = programs
            .tests
            .iter()
            .map(|test| (test.package.as_str(), test.name.as_str(), test.integration))
            .collect();
        assert_eq!(names, [("umd", "umd", false), ("umd-disk", "open", true)]);
    }

    #[test]
    fn a_failed_build_still_tells_what_it_made() {
        let line = message("/w/crates/umd/Cargo.toml", "bin", "umd", false);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("echo '{line}'; exit 101")]);
        let (programs, result) = Programs::build(command);
        assert!(result.is_err());
        assert!(programs.find("umd").is_some());
    }
}
