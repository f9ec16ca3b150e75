//! Shrinking: from a seed that fails to the few operations that make it fail.
//!
//! ```text
//!   seed --run--> Program (everything that happened, with its time)
//!                    |
//!                    +--> without half of its items? a quarter? ... one? without a boot?
//!                    |        kept if the same rule is broken
//!                    +--> nothing can be left out any more --> text, and a line to repeat it
//! ```
//!
//! What is left keeps its time, so that leaving one thing out does not move everything behind it.

use crate::engine::Maker;
use crate::monitor::{Rule, Violation};
use crate::options::Options;
use crate::program::{Item, Program, What};
use crate::run::{Outcome, Show, run_world};
use crate::trace::Trace;
use crate::world::World;

/// What is left of a failing seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// The program.
    pub program: Program,
    /// What it breaks.
    pub violation: Violation,
    /// Host operations before.
    pub operations_before: usize,
    /// Runs that it took.
    pub runs: usize,
    /// Whether the program fails as the seed does; if not, it could not be written down.
    pub faithful: bool,
}

/// Runs a program over the options of a seed.
pub fn run_program(options: Options, program: Program, maker: &dyn Maker, show: Show) -> Outcome {
    run_recorded(options, Some(program), maker, show).0
}

fn run_recorded(
    options: Options,
    program: Option<Program>,
    maker: &dyn Maker,
    show: Show,
) -> (Outcome, Program) {
    let trace = Trace::of(show);
    let mut world = World::new(options, maker, trace);
    if let Some(program) = program {
        world.follow(program);
    }
    let outcome = run_world(&mut world, World::run);
    let recorded = world.recorded();
    (outcome, recorded)
}

struct Search<'a> {
    options: &'a Options,
    maker: &'a dyn Maker,
    rule: Rule,
    runs: usize,
    most: usize,
    best: Program,
    violation: Violation,
}

impl Search<'_> {
    /// Runs a candidate; it is the best if it breaks the same rule.
    fn keeps(&mut self, candidate: Program) -> bool {
        if self.runs >= self.most {
            return false;
        }
        self.runs += 1;
        let outcome = run_program(
            self.options.clone(),
            candidate.clone(),
            self.maker,
            Show::Hash,
        );
        match outcome.violation {
            Some(violation) if violation.rule == self.rule => {
                self.best = candidate;
                self.violation = violation;
                true
            }
            _ => false,
        }
    }

    /// Leaves boots out.
    fn drop_boots(&mut self) -> bool {
        let mut smaller = false;
        for boot in 0..self.options.boots.len() as u16 {
            if self.best.skipped.contains(&boot) {
                continue;
            }
            let mut candidate = self.best.clone();
            candidate.items.retain(|item| item.boot != boot);
            candidate.skipped.push(boot);
            smaller |= self.keeps(candidate);
        }
        smaller
    }

    /// Leaves items out that `wanted` names, in pieces of all sizes.
    fn drop_items(&mut self, wanted: impl Fn(&Item) -> bool) -> bool {
        let mut smaller = false;
        let mut piece = self.best.items.iter().filter(|item| wanted(item)).count();
        while piece > 0 {
            let mut at = 0;
            loop {
                let named = |items: &[Item]| {
                    let numbered = items.iter().enumerate();
                    let named = numbered.filter(|(_, item)| wanted(item));
                    named.map(|(n, _)| n).collect::<Vec<usize>>()
                };
                let all = named(&self.best.items);
                if at >= all.len() {
                    break;
                }
                let out = &all[at..(at + piece).min(all.len())];
                let mut candidate = self.best.clone();
                let mut number = 0;
                candidate.items.retain(|_| {
                    number += 1;
                    !out.contains(&(number - 1))
                });
                if self.keeps(candidate) {
                    smaller = true;
                } else {
                    at += piece;
                }
            }
            piece /= 2;
        }
        smaller
    }

    /// The same with other chances of the disks, where single items resist.
    fn drop_with_luck(&mut self) -> bool {
        for index in 0..self.best.items.len() {
            for salt in 1..=6 {
                let mut candidate = self.best.clone();
                candidate.items.remove(index);
                candidate.salt = salt;
                if self.keeps(candidate) {
                    return true;
                }
            }
        }
        false
    }
}

/// Operations that a reader takes in at a glance.
const FEW: usize = 12;

/// Shrinks a run of these options, in at most `most` runs. `None`: it does not fail.
pub fn shrink(options: &Options, maker: &dyn Maker, most: usize) -> Option<Shrunk> {
    let (outcome, program) = run_recorded(options.clone(), None, maker, Show::Hash);
    let violation = outcome.violation?;
    let operations_before = program.host_operations();
    let mut search = Search {
        options,
        maker,
        rule: violation.rule,
        runs: 1,
        most,
        best: program.clone(),
        violation,
    };
    let mut whole = search.keeps(program.clone());
    for salt in 1..=20 {
        if !whole {
            let items = program.items.clone();
            whole = search.keeps(Program {
                salt,
                items,
                ..program.clone()
            });
        }
    }
    while search.runs < most && whole {
        let mut smaller = search.drop_boots();
        smaller |= search.drop_items(|_| true);
        smaller |= search.drop_items(|item| matches!(item.what, What::Host { .. }));
        if !smaller {
            let many = search.best.host_operations() > FEW;
            if !(many && search.drop_with_luck()) {
                break;
            }
        }
    }
    Some(Shrunk {
        program: search.best,
        violation: search.violation,
        operations_before,
        runs: search.runs,
        faithful: whole,
    })
}

/// What a reader wants to know of a run: hosts, faults, administrators, boots, and how it ended.
pub fn story(options: &Options, program: &Program, maker: &dyn Maker) -> Vec<String> {
    let outcome = run_program(options.clone(), program.clone(), maker, Show::All);
    let wanted = |line: &&String| {
        let text = line.split_once("ms ").map_or("", |(_, text)| text);
        let ours = text.starts_with("> r") || text.starts_with("> ctl") || text.starts_with("# ");
        ours && !text.contains("reading back")
    };
    let mut lines: Vec<String> = outcome.tail.iter().filter(wanted).cloned().collect();
    lines.extend(
        outcome
            .violation
            .map(|violation| format!("--> {violation}")),
    );
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::run_seed;
    use crate::sabotage::{Harm, Sabotage};

    #[test]
    fn what_was_written_down_happens_again() {
        let mut compared = 0;
        for seed in 0..40 {
            let options = Options::draw(seed);
            let maker = Sabotage(Harm::None);
            let (first, program) = run_recorded(options.clone(), None, &maker, Show::Hash);
            let text = program.to_string();
            let again = Program::parse(&text).expect("its own text");
            let second = run_program(options, again, &maker, Show::Hash);
            let facts = |o: &Outcome| (o.counts.answers, o.counts.faults, o.counts.crashes);
            // Events of the same instant come in another order: now and then that shows.
            compared += u32::from(facts(&first) == facts(&second));
        }
        assert!(compared >= 34, "{compared} of 40");
    }

    #[test]
    fn a_failing_seed_comes_down_to_a_few_operations() {
        let maker = Sabotage(Harm::FlushSkipped);
        let mut left = Vec::new();
        for seed in (0..60).filter(|seed| Options::draw(*seed).level > 0) {
            let rule = run_seed(seed, &maker, Show::Hash).violation.map(|v| v.rule);
            if rule != Some(Rule::Flush) || left.len() == 5 {
                continue;
            }
            let options = Options::draw(seed);
            let shrunk = shrink(&options, &maker, 300).expect("it fails");
            assert_eq!(shrunk.violation.rule, Rule::Flush);
            let again = run_program(options, shrunk.program.clone(), &maker, Show::Hash);
            assert_eq!(again.violation.map(|v| v.rule), Some(Rule::Flush));
            left.push(shrunk.program.host_operations());
        }
        left.sort_unstable();
        assert!(left.len() == 5 && left[2] <= 12, "{left:?}");
    }

    #[test]
    fn a_seed_that_passes_is_not_shrunk() {
        assert_eq!(shrink(&Options::draw(1), &Sabotage(Harm::None), 10), None);
    }
}
