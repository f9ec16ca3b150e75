//! What was found out, line by line, so that a run that was ended can go on.
//!
//! ```text
//!   code 0123.. tests 4567..             other code: all is forgotten
//!   core <tab> a change <tab> a test     other tests: what was not caught is forgotten
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::judge::Verdict;
use super::list::Mutant;
use crate::workspace;

const CODE: [&str; 3] = ["umd-core/src", "umd-format/src", "umd-parity/src"];
const TESTS: [&str; 3] = ["umd-core", "umd-sim", "../xtask/src/mutants"];

/// The verdicts, here and in their file.
#[derive(Debug)]
pub struct Results {
    found: Mutex<(BTreeMap<String, Verdict>, File)>,
}

impl Results {
    /// Reads what is still true.
    pub fn load(path: &Path) -> Result<Results> {
        let (code, state) = (format!("code {:016x}", code()?), state()?);
        let text = fs::read_to_string(path).unwrap_or_default();
        let (last, lines) = text.split_once('\n').unwrap_or_default();
        let mut known = BTreeMap::new();
        let mut kept = format!("{state}\n");
        for line in lines.lines().filter(|_| last.starts_with(&code)) {
            let mut words = line.split('\t');
            let (word, name) = (words.next(), words.next());
            let verdict = word.and_then(Verdict::parse).context("a verdict")?;
            if last == state || verdict.is_caught() {
                known.insert(name.context("a name")?.to_owned(), verdict);
                kept.extend([line, "\n"]);
            }
        }
        fs::write(path, kept)?;
        let file = OpenOptions::new().append(true).open(path)?;
        let found = Mutex::new((known, file));
        Ok(Results { found })
    }

    /// What the quick checks, or the slow ones, have not judged yet.
    pub fn open(&self, all: &[&Mutant], quick: bool) -> Vec<u32> {
        let found = &self.found.lock().expect("nobody panicked").0;
        let open = all.iter().filter(|mutant| match found.get(&mutant.name) {
            None => quick,
            Some(Verdict::Doubt) => !quick,
            Some(_) => false,
        });
        open.map(|mutant| mutant.number).collect()
    }

    /// Keeps a verdict, and the check it is owed to.
    pub fn keep(&self, name: &str, verdict: Verdict, by: &str) -> Result<()> {
        let mut found = self.found.lock().expect("nobody panicked");
        let line = format!("{}\t{name}\t{by}\n", verdict.word());
        found.1.write_all(line.as_bytes())?;
        found.0.insert(name.to_owned(), verdict);
        Ok(())
    }

    /// All that is known.
    pub fn into_all(self) -> BTreeMap<String, Verdict> {
        self.found.into_inner().expect("nobody panicked").0
    }
}

/// What verdicts depend on: code and tests.
pub fn state() -> Result<String> {
    Ok(format!("code {:016x} tests {:016x}", code()?, tests()?))
}

/// A number that is another one when the code is another one, tests left out.
pub fn code() -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in files(&CODE)? {
        let name = path.file_name().unwrap_or_default();
        let of_tests = path.components().any(|part| part.as_os_str() == "tests");
        if of_tests || name == "tests.rs" || name == "exhaustive.rs" {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let code = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        (name.to_owned(), code).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// The same of all that can notice something.
fn tests() -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in files(&TESTS)? {
        fs::read(&path)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn files(folders: &[&str]) -> Result<Vec<PathBuf>> {
    let crates = workspace::root().join("crates");
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| crates.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    Ok(files)
}
