//! `umd-sim --cluster`.

use std::time::{Duration, Instant};

use super::{Counts, Make, Outcome, Plan, run, run_twice, shrink};
use crate::run::Show;

/// How it is called.
pub const USAGE: &str = "\
usage: umd-sim --cluster --seeds N [--start S] [--show F]   run N seeds of clusters
       umd-sim --cluster --minutes M [--start S]            run seeds for M minutes
       umd-sim --cluster --seed N [--trace] [--keep I,I,..] run one, or these items of it alone
       umd-sim --cluster --seed N --shrink [--runs R]       which items a failing seed needs";

/// One seed in this many is run twice, to see that it is determined.
const TWICE_EVERY: u64 = 50;
/// Runs a seed is shrunk in.
const SHRINK_RUNS: usize = 600;

#[derive(Debug, Default)]
struct Args {
    seeds: Option<u64>,
    start: u64,
    seed: Option<u64>,
    minutes: Option<u64>,
    show: Option<u64>,
    trace: bool,
    shrink: bool,
    runs: Option<usize>,
    keep: Option<Vec<usize>>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args::default();
    while let Some(word) = words.next() {
        let mut text = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let mut number = || {
            let value = text()?;
            let number = value.parse::<u64>();
            number.map_err(|_| format!("{value} is no number"))
        };
        match word.as_str() {
            "--cluster" => {}
            "--seeds" => args.seeds = Some(number()?),
            "--start" => args.start = number()?,
            "--seed" => args.seed = Some(number()?),
            "--minutes" => args.minutes = Some(number()?),
            "--show" => args.show = Some(number()?),
            "--runs" => args.runs = Some(number()? as usize),
            "--trace" => args.trace = true,
            "--shrink" => args.shrink = true,
            "--keep" => {
                let items = text()?;
                let items: Result<Vec<usize>, _> = items.split(',').map(str::parse).collect();
                args.keep = Some(items.map_err(|_| "--keep takes numbers, with commas")?);
            }
            other => return Err(format!("unknown option {other} of --cluster")),
        }
    }
    match args.seed.is_some() || args.seeds.is_some() || args.minutes.is_some() {
        true => Ok(args),
        false => Err("say what to run".into()),
    }
}

/// Runs the command; `false`: something was broken.
///
/// # Errors
/// A sentence for the user.
pub fn command(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let args = parse(words).map_err(|error| format!("{error}\n{USAGE}"))?;
    Ok(match args.seed {
        Some(seed) if args.shrink => shrink_one(seed, &args),
        Some(seed) => run_one(seed, &args),
        None => run_many(&args),
    })
}

fn report(seed: u64, outcome: &Outcome, most: usize) {
    let Some(violation) = &outcome.violation else {
        return;
    };
    println!("seed {seed} FAILED");
    println!("  {violation}");
    let skip = outcome.tail.len().saturating_sub(most);
    for line in outcome.tail.iter().skip(skip) {
        println!("  | {line}");
    }
    println!("  repeat with: cargo xtask sim --cluster --seed {seed} --trace");
    println!("  shrink with: cargo xtask sim --cluster --seed {seed} --shrink");
}

fn run_one(seed: u64, args: &Args) -> bool {
    let mut plan = Plan::draw(seed);
    if let Some(kept) = &args.keep {
        plan = plan.only(kept);
    }
    let show = if args.trace { Show::Print } else { Show::Tail };
    let outcome = run(plan, Make::default(), show);
    report(seed, &outcome, 40);
    let (counts, hash) = (outcome.counts, outcome.hash);
    println!("seed {seed}: {counts:?}, trace {hash:032x}");
    outcome.violation.is_none()
}

fn shrink_one(seed: u64, args: &Args) -> bool {
    let plan = Plan::draw(seed);
    let most = args.runs.unwrap_or(SHRINK_RUNS);
    let Some(shrunk) = shrink(&plan, Make::default(), most) else {
        println!("seed {seed} does not fail");
        return true;
    };
    for item in &shrunk.plan.items {
        println!("{item}");
    }
    let (left, all) = (shrunk.kept.len(), plan.items.len());
    println!("{}", shrunk.violation);
    println!(
        "seed {seed}: {left} of {all} items left, after {} runs",
        shrunk.runs
    );
    let kept: Vec<String> = shrunk.kept.iter().map(ToString::to_string).collect();
    println!(
        "repeat with: cargo xtask sim --cluster --seed {seed} --keep {} --trace",
        kept.join(",")
    );
    false
}

fn add(sum: &mut Counts, counts: Counts) {
    sum.answers += counts.answers;
    sum.deaths += counts.deaths;
    sum.fences += counts.fences;
    sum.takeovers += counts.takeovers;
    sum.late += counts.late;
    sum.changes += counts.changes;
    sum.syncs += counts.syncs;
    sum.refusals += counts.refusals;
}

fn run_many(args: &Args) -> bool {
    let began = Instant::now();
    let limit = args
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let show = args.show.unwrap_or(3);
    let (mut ran, mut failed, mut sum) = (0u64, 0, Counts::default());
    for seed in args.start..args.start.saturating_add(args.seeds.unwrap_or(u64::MAX)) {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let plan = Plan::draw(seed);
        let outcome = match seed % TWICE_EVERY == 0 {
            true => run_twice(&plan, Make::default()),
            false => run(plan, Make::default(), Show::Hash),
        };
        ran += 1;
        add(&mut sum, outcome.counts);
        if let Some(violation) = &outcome.violation {
            failed += 1;
            if failed <= show {
                report(
                    seed,
                    &run(Plan::draw(seed), Make::default(), Show::Tail),
                    40,
                );
            } else if failed <= 200 {
                let text: String = violation.to_string().chars().take(200).collect();
                println!("seed {seed} FAILED: {text}");
            }
        }
    }
    let rate = ran as f64 / began.elapsed().as_secs_f64().max(0.001);
    println!("{ran} seeds of clusters, {failed} failed, {rate:.1} seeds/s");
    println!(
        "{} answers, {} deaths, {} fenced, {} slots taken over, {} late writes, {} changes, {} \
         syncs, {} ends without a free slot",
        sum.answers,
        sum.deaths,
        sum.fences,
        sum.takeovers,
        sum.late,
        sum.changes,
        sum.syncs,
        sum.refusals
    );
    failed == 0
}
