//! `cargo xtask counts`: how many instructions the engine needs for a request, compared with what
//! was recorded.
//!
//! ```text
//!   umd-counts base CASE --callgrind--> n         the array starts, and warms up
//!   umd-counts full CASE --callgrind--> m         the same, and R requests more
//!
//!   (m - n) / R  >  1.05 * recorded  -->  failed
//! ```
//!
//! Time depends on the machine and on what else it does; instructions depend on the compiler, and
//! a little on libc, which copies in other ways on other processors. So the file says with which
//! they were counted, and with others nothing is compared.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::oracle;
use crate::workspace;

/// What was recorded, in the workspace.
const FILE: &str = "crates/umd-ram/counts.txt";
/// More than this percentage above what was recorded fails.
const MORE_PERCENT: u64 = 5;
/// Where the tools of valgrind are in its package, by release.
const TOOLS: [&str; 2] = ["usr/libexec/valgrind", "usr/lib/x86_64-linux-gnu/valgrind"];

/// Instructions for each request, by case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts {
    /// Compiler, libc and processor.
    made_with: String,
    cases: Vec<(String, u64)>,
}

/// Runs the task. `program` is `umd-counts` of the release build.
///
/// # Errors
/// When a case needs more than it may, or when it cannot be counted although CI wants it.
pub fn run(program: &Path, record: bool) -> Result<()> {
    let Some(valgrind) = Valgrind::find()? else {
        let why = "valgrind is not among the oracles (`cargo xtask oracle`)";
        ensure!(!wanted(), "{why}, and CI=true allows no skipping");
        return skip(why);
    };
    if !has_avx2() {
        return skip("they are counted with AVX2, which this processor lacks");
    }
    let path = workspace::root().join(FILE);
    let made_with = made_with()?;
    if record {
        let counts = Counts {
            made_with,
            cases: valgrind.count_all(program)?,
        };
        print!("{}", counts.text());
        return std::fs::write(&path, counts.text()).context("cannot write what was counted");
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
    let recorded = Counts::parse(&text)?;
    if recorded.made_with != made_with {
        let recorded = &recorded.made_with;
        return skip(&format!(
            "recorded with {recorded}, and this is {made_with}; `cargo xtask counts --record`"
        ));
    }
    let (table, wrong) = recorded.compare(&valgrind.count_all(program)?);
    print!("{table}");
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn wanted() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

fn skip(why: &str) -> Result<()> {
    println!("\n*** SKIPPED counts: {why}\n");
    Ok(())
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// What the figures depend on.
fn made_with() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = oracle::text(Command::new(rustc).arg("--version"))?;
    let libc = oracle::text(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let info = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = |line: &str| {
        Some(
            line.strip_prefix("model name")?
                .split_once(": ")?
                .1
                .to_string(),
        )
    };
    let model = info.lines().find_map(model);
    let model = model.unwrap_or_else(|| "an unnamed processor".into());
    Ok(format!("{}, {}, {model}", rustc.trim(), libc.trim()))
}

/// The fetched valgrind.
struct Valgrind {
    program: PathBuf,
    tools: PathBuf,
}

impl Valgrind {
    fn find() -> Result<Option<Valgrind>> {
        let root = workspace::oracle().join("root");
        // Where `valgrind` is a script, this is what it runs.
        let program = match oracle::find(&root, "valgrind.bin")? {
            Some(program) => Some(program),
            None => oracle::find(&root, "valgrind")?,
        };
        let mut tools = TOOLS.iter().map(|dir| root.join(dir));
        let tools = tools.find(|dir| dir.is_dir());
        let pair = program.zip(tools);
        Ok(pair.map(|(program, tools)| Valgrind { program, tools }))
    }

    /// All instructions of one run.
    fn count(&self, program: &Path, how: &str, case: &str) -> Result<u64> {
        let mut command = Command::new(&self.program);
        command.env("VALGRIND_LIB", &self.tools).env("LC_ALL", "C");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        let output = command.arg(program).args([how, case]).output();
        let output = output.context("cannot run valgrind")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{case}, {how}: {text}");
        let collected = text.lines().find_map(|line| line.split_once("Collected :"));
        let (_, count) = collected.with_context(|| format!("no count in {text}"))?;
        Ok(count.trim().parse()?)
    }

    /// Instructions for each request of each case.
    fn count_all(&self, program: &Path) -> Result<Vec<(String, u64)>> {
        let list = oracle::text(&mut Command::new(program))?;
        let mut counts = Vec::new();
        for line in list.lines() {
            let (requests, case) = line.split_once('\t').context("a list of cases")?;
            let requests: u64 = requests.parse()?;
            let (base, full) = thread::scope(|scope| {
                let base = scope.spawn(|| self.count(program, "base", case));
                let full = self.count(program, "full", case);
                (base.join().expect("it does not panic"), full)
            });
            let more = full?.checked_sub(base?);
            let more = more.with_context(|| format!("{case}: fewer instructions for more"))?;
            counts.push((case.to_string(), more / requests));
        }
        ensure!(!counts.is_empty(), "nothing was counted");
        Ok(counts)
    }
}

impl Counts {
    fn text(&self) -> String {
        let mut text = format!(
            "# Instructions for each request: cargo xtask counts --record\n{}\n",
            self.made_with
        );
        for (case, count) in &self.cases {
            text.push_str(&format!("{count:>8} {case}\n"));
        }
        text
    }

    fn parse(text: &str) -> Result<Counts> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let made_with = lines.next().context("it does not say what made it")?.into();
        let case = |line: &str| {
            let (count, case) = line.trim().split_once(' ').context("a count and a case")?;
            Ok((case.to_string(), count.parse()?))
        };
        let cases = lines.map(case).collect::<Result<_>>();
        let cases = cases.with_context(|| format!("{FILE} is damaged"))?;
        Ok(Counts { made_with, cases })
    }

    /// A table, and what is wrong.
    fn compare(&self, now: &[(String, u64)]) -> (String, Vec<String>) {
        let (mut table, mut wrong) = (String::new(), Vec::new());
        let again = "`cargo xtask counts --record`";
        for (case, count) in now {
            let Some((_, before)) = self.cases.iter().find(|(name, _)| name == case) else {
                wrong.push(format!("{case} was never recorded: {again}"));
                continue;
            };
            let percent = *count as f64 * 100.0 / *before as f64 - 100.0;
            table.push_str(&format!("{count:>8} {percent:>+6.1} % {case}\n"));
            if count * 100 > before * (100 + MORE_PERCENT) {
                let most = MORE_PERCENT;
                wrong.push(format!(
                    "{case}: {count} instructions, {before} were recorded, {most} % more may be"
                ));
            } else if count * 100 < before * (100 - MORE_PERCENT) {
                table.push_str(&format!("         fewer than recorded: {again}\n"));
            }
        }
        for (case, _) in &self.cases {
            if !now.iter().any(|(name, _)| name == case) {
                wrong.push(format!("{case} is not counted any more: {again}"));
            }
        }
        (table, wrong)
    }
}

/// What follows `counts` on the command line.
pub fn wish(args: &[&str]) -> Result<bool> {
    match args {
        [] => Ok(false),
        ["--record"] => Ok(true),
        _ => bail!("usage: cargo xtask counts [--record]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(cases: &[(&str, u64)]) -> Counts {
        let cases = cases.iter().map(|(name, count)| (name.to_string(), *count));
        Counts {
            made_with: "rustc 1.95.0 (598 2026-04-14), glibc 2.36".into(),
            cases: cases.collect(),
        }
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let some = counts(&[("raid0x3 4K write", 8034), ("raid1x2 1M write", 49498)]);
        assert_eq!(Counts::parse(&some.text()).unwrap(), some);
        assert!(Counts::parse("").is_err());
        assert!(Counts::parse("rustc\nmany raid0x3\n").is_err());
    }

    #[test]
    fn more_than_a_little_fails() {
        let some = counts(&[("write", 10_000), ("read", 100)]);
        let verdict = |write, read| {
            let now = [("write".to_string(), write), ("read".to_string(), read)];
            some.compare(&now).1
        };
        assert!(verdict(10_000, 100).is_empty());
        assert!(verdict(10_500, 105).is_empty());
        assert!(verdict(1, 1).is_empty(), "less is no failure");
        let wrong = verdict(10_501, 100);
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].starts_with("write: 10501"), "{wrong:?}");
        assert_eq!(verdict(20_000, 200).len(), 2);
    }

    #[test]
    fn a_case_without_a_record_fails_and_so_does_the_other_way_round() {
        let (_, wrong) = counts(&[("old", 1)]).compare(&[("new".to_string(), 1)]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }
}
