//! `umd-sim`: runs seeds.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use umd_sim::options::Options;
use umd_sim::run::{Outcome, Show, capture_panics, run_seed, run_twice};
use umd_sim::shipped::Shipped;

const USAGE: &str = "\
usage: umd-sim --seeds N [--start S] [--show F]   run N seeds, from S on; show F failures (3)
       umd-sim --minutes M [--start S]            run seeds for M minutes
       umd-sim --seed N [--trace]                 run one seed, and show what happens in it
       umd-sim --museum ...                       known mistakes (with the feature museum)";

/// One seed in this many is run twice, to see that it is determined.
const TWICE_EVERY: u64 = 50;

#[derive(Debug, Default)]
struct Args {
    seeds: Option<u64>,
    start: u64,
    seed: Option<u64>,
    minutes: Option<u64>,
    show: Option<u64>,
    trace: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args::default();
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a number"))?;
            value
                .parse::<u64>()
                .map_err(|_| format!("{value} is no number"))
        };
        match word.as_str() {
            "--seeds" => args.seeds = Some(number()?),
            "--start" => args.start = number()?,
            "--seed" => args.seed = Some(number()?),
            "--minutes" => args.minutes = Some(number()?),
            "--show" => args.show = Some(number()?),
            "--trace" => args.trace = true,
            other => return Err(format!("unknown option {other}")),
        }
    }
    if args.seed.is_none() && args.seeds.is_none() && args.minutes.is_none() {
        return Err("say what to run".into());
    }
    Ok(args)
}

fn report(seed: u64, outcome: &Outcome, tail: usize) {
    let Some(violation) = &outcome.violation else {
        return;
    };
    println!("seed {seed} FAILED");
    println!("  {violation}");
    println!("  options: {:?}", Options::draw(seed));
    let skip = outcome.tail.len().saturating_sub(tail);
    for line in outcome.tail.iter().skip(skip) {
        println!("  | {line}");
    }
    println!("  repeat with: cargo xtask sim --seed {seed} --trace");
}

fn run_one(seed: u64, trace: bool) -> ExitCode {
    let show = if trace { Show::Print } else { Show::Tail };
    let outcome = run_seed(seed, &Shipped, show);
    report(seed, &outcome, 60);
    println!(
        "seed {seed}: {:?}, trace {:032x}",
        outcome.counts, outcome.hash
    );
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    }
}

fn run_many(args: &Args) -> ExitCode {
    let began = Instant::now();
    let limit = args
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let count = args.seeds.unwrap_or(u64::MAX);
    let show = args.show.unwrap_or(3);
    let (mut ran, mut failed, mut refused) = (0, 0, 0);
    for seed in args.start..args.start.saturating_add(count) {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let twice = seed % TWICE_EVERY == 0;
        let outcome = match twice {
            true => run_twice(seed, &Shipped),
            false => run_seed(seed, &Shipped, Show::Hash),
        };
        ran += 1;
        refused += outcome.counts.refusals;
        if let Some(violation) = &outcome.violation {
            failed += 1;
            if failed <= show {
                report(seed, &run_seed(seed, &Shipped, Show::Tail), 40);
            } else if failed <= 200 {
                println!("seed {seed} FAILED: {violation}");
            }
        }
        if ran % 1000 == 0 {
            let rate = ran as f64 / began.elapsed().as_secs_f64();
            println!("{ran} seeds, {failed} failed, {rate:.0} seeds/s");
        }
    }
    let rate = ran as f64 / began.elapsed().as_secs_f64().max(0.001);
    println!("{ran} seeds, {failed} failed, {refused} refusals that had to be, {rate:.1} seeds/s");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(feature = "museum")]
fn museum() -> ExitCode {
    capture_panics();
    match umd_sim::museum::command(std::env::args().skip(2)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(not(feature = "museum"))]
fn museum() -> ExitCode {
    eprintln!("this umd-sim was built without the feature museum; cargo xtask sim --museum has it");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|word| word == "--museum")
    {
        return museum();
    }
    match parse(std::env::args().skip(1)) {
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(args) => {
            capture_panics();
            match args.seed {
                Some(seed) => run_one(seed, args.trace),
                None => run_many(&args),
            }
        }
    }
}
