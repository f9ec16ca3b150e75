//! The score, and who survived.
//!
//! ```text
//!   score = caught / judged; what could not be judged is said, and counts nowhere
//!   and once more without those of the judged that change nothing
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::equivalent::Equivalent;
use super::judge::Verdict;
use super::list::Mutant;

/// What was found out about some changes.
#[derive(Debug)]
pub struct Report<'a> {
    judged: Vec<(&'a Mutant, Verdict)>,
    unjudged: Vec<&'a Mutant>,
    equivalent: &'a Equivalent,
}

/// How many were caught, of how many.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    caught: usize,
    of: usize,
}

impl Score {
    fn add(&mut self, verdict: Verdict) {
        self.of += 1;
        self.caught += usize::from(verdict.is_caught());
    }

    /// Where the score of all lies if these were drawn from many (Wilson, 95 %).
    fn interval(self) -> (f64, f64) {
        let (n, z) = (self.of as f64, 1.96_f64);
        let p = self.caught as f64 / n;
        let middle = p + z * z / (2.0 * n);
        let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z * z / n;
        (
            100.0 * (middle - half) / scale,
            100.0 * (middle + half) / scale,
        )
    }
}

impl Display for Score {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.caught as f64 / self.of.max(1) as f64;
        write!(f, "{percent:5.1} % ({} of {})", self.caught, self.of)
    }
}

impl<'a> Report<'a> {
    pub fn new(
        judged: &[&'a Mutant],
        unjudged: &[&'a Mutant],
        verdicts: &BTreeMap<String, Verdict>,
        equivalent: &'a Equivalent,
    ) -> Report<'a> {
        let known = judged.iter().filter_map(|&mutant| {
            let verdict = verdicts.get(&mutant.name)?;
            Some((mutant, *verdict))
        });
        let mut judged: Vec<_> = known.collect();
        judged.sort_by_key(|(mutant, _)| mutant.number);
        let mut unjudged = unjudged.to_vec();
        unjudged.sort_by_key(|mutant| mutant.number);
        Report {
            judged,
            unjudged,
            equivalent,
        }
    }

    /// Writes the names of survivors and of what was not judged.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let lines = |names: &mut dyn Iterator<Item = &str>| -> String {
            names.map(|name| format!("{name}\n")).collect()
        };
        let missed = |(m, v): &&(&Mutant, Verdict)| !v.is_caught() && !self.equivalent.has(m);
        let survivors = self.judged.iter().filter(missed);
        let mut survivors = survivors.map(|(mutant, _)| mutant.name.as_str());
        fs::write(folder.join("missed.txt"), lines(&mut survivors))?;
        let mut unjudged = self.unjudged.iter().map(|mutant| mutant.name.as_str());
        fs::write(folder.join("unjudged.txt"), lines(&mut unjudged))?;
        Ok(())
    }

    /// What is listed as changing nothing, and was noticed.
    pub fn fail_if_noticed(&self) -> Result<()> {
        let listed = self.judged.iter().filter(|(m, _)| self.equivalent.has(m));
        let noticed: Vec<&str> = listed
            .filter(|(_, verdict)| verdict.is_caught())
            .map(|(mutant, _)| mutant.key.as_str())
            .collect();
        if noticed.is_empty() {
            return Ok(());
        }
        bail!(
            "listed as changing nothing, and noticed:\n{}",
            noticed.join("\n")
        )
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut rooms: BTreeMap<&str, Score> = BTreeMap::new();
        let (mut all, mut telling) = (Score::default(), Score::default());
        for (mutant, verdict) in &self.judged {
            rooms.entry(mutant.room()).or_default().add(*verdict);
            all.add(*verdict);
            if !self.equivalent.has(mutant) {
                telling.add(*verdict);
            }
        }
        for (room, score) in rooms {
            writeln!(f, "  {room:14}{score}")?;
        }
        for kind in Verdict::ALL {
            let count = self.judged.iter().filter(|(_, v)| *v == kind).count();
            writeln!(f, "  {:14}{count:6}", kind.word())?;
        }
        writeln!(f, "  {:14}{:6}", "not judged", self.unjudged.len())?;
        let (low, high) = all.interval();
        writeln!(f, "score {all}; as a sample: {low:.1} to {high:.1} %")?;
        write!(f, "without what is listed as changing nothing: {telling}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_that_of_wilson() {
        let (low, high) = Score { caught: 23, of: 27 }.interval();
        assert!(
            (low - 67.5).abs() < 0.1 && (high - 94.1).abs() < 0.1,
            "{low} {high}"
        );
    }
}
