//! The measured figures: how many seeds random search took. Kept in `rates.txt`, one exhibit a
//! line: its name, the seeds, and the rule that was broken; `-`: none of so many seeds noticed it.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What is known about an exhibit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// Seeds that were run until the mistake was noticed, or without its being noticed.
    pub seeds: u64,
    /// The rule that was broken.
    pub rule: Option<String>,
}

/// The figures, by name.
pub type Rates = BTreeMap<String, Rate>;

/// Where they are kept.
pub const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/museum/rates.txt");

/// The figures as they were when this was compiled.
pub fn kept() -> Rates {
    parse(include_str!("rates.txt"))
}

/// The figures in a text.
///
/// # Panics
/// When a line is not one.
pub fn parse(text: &str) -> Rates {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let seeds = words.next()?.parse().ok()?;
        let rule = words.next().filter(|word| *word != "-").map(str::to_owned);
        Some((name, Rate { seeds, rule }))
    };
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|text| line(text).unwrap_or_else(|| panic!("no figure: {text}")))
        .collect()
}

/// The text of these figures.
pub fn text(rates: &Rates) -> String {
    rates.iter().fold(String::new(), |mut text, (name, rate)| {
        let rule = rate.rule.as_deref().unwrap_or("-");
        writeln!(text, "{name} {} {rule}", rate.seeds).expect("strings take everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_they_were_written() {
        let figures = "M08 4 Intent\nU15 20000 -\n";
        let rates = parse(figures);
        assert_eq!(rates["U15"].rule, None);
        assert_eq!(rates["M08"].seeds, 4);
        assert_eq!(text(&rates), figures);
        assert!(std::panic::catch_unwind(|| parse("M08 many Intent")).is_err());
    }
}
