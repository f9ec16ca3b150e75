//! Options that say which flags the devices behind them are to have, as mdadm reads them.
//!
//! ```text
//!   a  --write-mostly  b  --failfast  c  --readwrite  d
//!                      W              W F             F
//! ```

use clap::ArgMatches;

/// What the options before a device ask for; `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--write-mostly` or `--readwrite`.
    pub write_mostly: Option<bool>,
    /// `--failfast` or `--nofailfast`.
    pub failfast: Option<bool>,
}

/// The options, and where they stand on the command line.
pub struct Marks(Vec<(usize, &'static str)>);

/// The options there are.
const OPTIONS: [&str; 4] = ["write_mostly", "readwrite", "failfast", "nofailfast"];

impl Marks {
    /// Those of a command that has some of these options.
    pub fn of(matches: &ArgMatches) -> Marks {
        let mut marks = Vec::new();
        for option in OPTIONS {
            // A command need not have all of them.
            let given = matches.try_get_many::<String>(option).ok().flatten();
            let indices = given.and_then(|_| matches.indices_of(option));
            marks.extend(indices.into_iter().flatten().map(|at| (at, option)));
        }
        marks.sort_unstable();
        Marks(marks)
    }

    /// What holds for a device at this place.
    pub fn at(&self, index: usize) -> Flags {
        let mut flags = Flags::default();
        for (_, option) in self.0.iter().filter(|(at, _)| *at < index) {
            match *option {
                "write_mostly" => flags.write_mostly = Some(true),
                "readwrite" => flags.write_mostly = Some(false),
                "failfast" => flags.failfast = Some(true),
                _ => flags.failfast = Some(false),
            }
        }
        flags
    }

    /// Where an option stands last.
    pub fn last(&self, option: &str) -> Option<usize> {
        let mut marks = self.0.iter().rev();
        marks.find(|(_, one)| *one == option).map(|(at, _)| *at)
    }

    /// For each target of `create` and `build`, the name of the array among them.
    pub fn of_targets(matches: &ArgMatches) -> Vec<Flags> {
        let marks = Marks::of(matches);
        let targets = matches.indices_of("targets").into_iter().flatten();
        targets.map(|index| marks.at(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::CommandFactory;

    /// For each target `W` and `F`.
    fn targets(line: &str) -> Vec<String> {
        let matches = Cli::command()
            .try_get_matches_from(line.split_whitespace())
            .expect("parses");
        let (_, own) = matches.subcommand().expect("a command");
        let word = |flags: Flags| {
            let mostly = ["", "W"][usize::from(flags.write_mostly == Some(true))];
            let fast = ["", "F"][usize::from(flags.failfast == Some(true))];
            format!("{mostly}{fast}")
        };
        Marks::of_targets(own).into_iter().map(word).collect()
    }

    #[test]
    fn an_option_is_for_the_devices_behind_it() {
        assert_eq!(
            targets("umd create r1 -l1 -n3 a --write-mostly b c"),
            ["", "", "W", "W"]
        );
        assert_eq!(targets("umd create r1 -l1 -n3 a b c"), [""; 4]);
        assert_eq!(
            targets("umd create r1 -l1 -n3 a --failfast b -W c --nofailfast d --failfast e"),
            ["", "", "F", "WF", "W", "WF"]
        );
        assert_eq!(
            targets("umd build r1 -l1 -n2 -W a --failfast b"),
            ["", "W", "WF"]
        );
    }
}
