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

/// How many times as many seeds are an alarm.
const WORSE_TIMES: u64 = 5;
/// Figures below this are luck, one way or the other.
const LUCK_SEEDS: u64 = 20;

/// Says so when a mistake took much longer to be noticed than it did when it was measured: then the
/// simulator has lost some of its sight, or the engine does less of what shows the mistake.
pub fn alarm(name: &str, known: &Rate, now: &Rate) -> Option<String> {
    let usual = known.seeds.max(LUCK_SEEDS);
    let much = usual.saturating_mul(WORSE_TIMES);
    if known.rule.is_none() || now.seeds < much {
        return None;
    }
    let seen = match now.rule {
        Some(_) => format!("was noticed after {} seeds", now.seeds),
        None => format!("was not noticed in {} seeds", now.seeds),
    };
    Some(format!(
        "{name} {seen}, when it was measured after {}: find out what hides it, or measure it anew \
         with --record",
        known.seeds
    ))
}

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

    fn rate(seeds: u64, noticed: bool) -> Rate {
        Rate {
            seeds,
            rule: noticed.then(|| "Ack".to_owned()),
        }
    }

    #[test]
    fn five_times_as_many_seeds_are_an_alarm() {
        let alarmed = |known, now| alarm("M14", &known, &now).is_some();
        assert!(!alarmed(rate(100, true), rate(499, true)));
        assert!(alarmed(rate(100, true), rate(500, true)));
        assert!(
            alarmed(rate(100, true), rate(500, false)),
            "not noticed at all"
        );
        assert!(
            !alarmed(rate(100, true), rate(300, false)),
            "not looked for long enough"
        );
        assert!(!alarmed(rate(2, true), rate(99, true)), "luck");
        assert!(alarmed(rate(2, true), rate(100, true)));
        assert!(
            !alarmed(rate(100, false), rate(9000, true)),
            "better than before"
        );
    }

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
