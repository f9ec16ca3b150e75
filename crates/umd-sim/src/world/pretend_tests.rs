//! Scripts with arrays of level faulty, and with engines that do not do as they are asked.

use super::*;
use crate::monitor::Rule;
use crate::run::{Show, run_options};
use crate::sabotage::{Harm, Sabotage};
use crate::script::*;

fn rule(options: &Options, steps: &[Step], harm: Harm) -> Option<Rule> {
    let outcome = play(options, steps, &Sabotage(harm), Show::Tail);
    outcome.violation.map(|violation| violation.rule)
}

/// What becomes of requests, as a string of `.`, `X` and `R`; `w3` writes sectors 24 to 31.
fn run(rules: &mut Rules, requests: &str) -> String {
    let one = |word: &str| {
        let at: u64 = word[1..].parse().expect("a number");
        let range = at * 8..at * 8 + 8;
        let wanted = match word.starts_with('r') {
            true => rules.read(&range),
            false => rules.write(&range),
        };
        match wanted {
            Wanted::Served => '.',
            Wanted::Fails => 'X',
            Wanted::Refused => 'R',
        }
    };
    requests.split_whitespace().map(one).collect()
}

fn rules(words: &[&str]) -> Rules {
    let mut rules = Rules::default();
    for word in words {
        rules.ask(FaultyLayout::from_word(word).expect(word).to_raw());
    }
    rules
}

#[test]
fn the_rules_are_those_of_md() {
    for (words, requests, wanted) in [
        (&["rt3"][..], "r1 r2 r3 r4 r5 r6 r3 w1", "..X..X.."),
        (&["rt"], "r1 r2 r3", "X.."),
        (&["wt2"], "w1 w2 r1 r2 w3 w4", ".X...X"),
        (&["rp2"], "r1 r2 r2 r2 w2 r2", ".XXX.X"),
        (&["wp"], "w5 w5 w6 r5 w5 w4", "XX..X."),
        (&["rf"], "r1 r1 r2 w2 r1 w1 r1", "XX..X.."),
        (&["rf", "wp"], "r1 w1 r1 w1", "XX.X"),
        (&["wa9"], "w1 r1 w2", "R.R"),
        (&["wa", "flush"], "w1", "R"),
        (&["wa", "rt", "clear"], "w1 r1", ".."),
        (&["rt2", "rp3"], "r1 r2 r3 r4 r5 r6 r3 r7", ".XXX.XXX"),
        (&["rt2", "rt3"], "r1 r2 r3", "..X"),
    ] {
        assert_eq!(run(&mut rules(words), requests), wanted, "{words:?}");
    }
    let mut many = rules(&["rp1"]);
    for at in 0..MOST as u64 + 5 {
        assert_eq!(many.read(&(at..at + 1)), Wanted::Fails);
    }
    many.ask(CLEAR as u32);
    assert_eq!(many.read(&(49..50)), Wanted::Fails);
    assert_eq!(many.read(&(50..51)), Wanted::Served);
    many.ask(FLUSH as u32);
    assert_eq!(many.read(&(49..50)), Wanted::Served);
}

/// All modes, a crash in the middle, and what was written when it failed.
fn all_modes() -> Vec<Step> {
    vec![
        write(0..16),
        write(0..8),
        read(0..16),
        mode("rp2"),
        read(32..40),
        read(32..40),
        write(32..40),
        read(33..40),
        read(30..40),
        mode("clear"),
        read(30..40),
        mode("flush"),
        read(30..40),
        mode("rf"),
        read(64..72),
        read(60..72),
        zero(64..65),
        read(60..72),
        mode("wa"),
        write(0..8),
        trim(8..16),
        flush(),
        read(0..16),
        mode("none"),
        mode("wp3"),
        start(write(96..104)),
        power_cut([Fate::Kept]),
        boot_all(),
        write(96..104),
        write(96..104),
        read(96..104),
        read_all(),
    ]
}

#[test]
fn arrays_of_level_faulty_fail_as_they_are_asked_to() {
    for word in ["wt2", "rt3", "wp", "rp5", "rf1", "wa", "clear", "flush"] {
        for options in [faulty(word), old(faulty(word))] {
            let outcome = play(&options, &all_modes(), &Sabotage(Harm::None), Show::Tail);
            assert_eq!(outcome.violation, None, "{word}: {:#?}", outcome.tail);
        }
    }
}

#[test]
fn engines_that_do_not_are_noticed() {
    let steps = all_modes();
    for harm in [
        Harm::ModesIgnored,
        Harm::PretenceSwallowed,
        Harm::PretenceInvented,
    ] {
        assert_eq!(
            rule(&faulty("wt2"), &steps, harm),
            Some(Rule::Pretence),
            "{harm:?}"
        );
    }
}

#[test]
fn seeds_of_level_faulty_have_something_to_fail() {
    let (mut reads, mut failing) = (0, 0);
    for seed in 0..40 {
        let mut options = Options::draw(seed);
        options.make_faulty();
        let outcome = run_options(options.clone(), &Sabotage(Harm::None), Show::Hash);
        assert_eq!(outcome.violation, None, "seed {seed}");
        reads += outcome.counts.reads_checked;
        let outcome = run_options(options, &Sabotage(Harm::PretenceSwallowed), Show::Hash);
        failing += u64::from(outcome.violation.is_some_and(|v| v.rule == Rule::Pretence));
    }
    assert!(reads > 1000, "{reads} sectors were read well");
    assert!(failing > 20, "{failing} seeds asked for failing writes");
}
