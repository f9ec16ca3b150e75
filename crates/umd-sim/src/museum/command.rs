//! `umd-sim --museum`.

use std::fs;
use std::time::Instant;

use super::rates::{self, Rate};
use super::search::{Mistaken, options_for};
use super::{Entry, by_name, catalogue, clustered, document, search};
use crate::run::Show;
use crate::shrink::shrink;

/// Runs to shrink a seed in.
const SHRINK_RUNS: usize = 1000;

/// How it is called.
pub const USAGE: &str = "\
usage: umd-sim --museum [EXHIBIT...] [--seeds N] [--start S] [--record]
                                                  random search: seeds until each is noticed
       umd-sim --museum --scene [EXHIBIT...]      the scripted scenes; one alone with its trace
       umd-sim --museum --shrink [EXHIBIT...] [--seeds N]
                                                  what is left of the first seed that notices each
       umd-sim --museum --write-docs              writes docs/museum.md";

#[derive(Debug, Default)]
struct Args {
    chosen: Vec<&'static Entry>,
    seeds: u64,
    start: u64,
    record: bool,
    scene: bool,
    shrink: bool,
    docs: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args {
        seeds: 20_000,
        ..Args::default()
    };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().unwrap_or_default();
            let number = value.parse::<u64>();
            number.map_err(|_| format!("{word} needs a number, not {value:?}"))
        };
        match word.as_str() {
            "--seeds" => args.seeds = number()?,
            "--start" => args.start = number()?,
            "--record" => args.record = true,
            "--scene" => args.scene = true,
            "--shrink" => args.shrink = true,
            "--write-docs" => args.docs = true,
            name => {
                let entry = by_name(name).ok_or_else(|| format!("no exhibit {name}"))?;
                args.chosen.push(entry);
            }
        }
    }
    Ok(args)
}

/// Runs the command; `false`: something was not noticed that should have been.
///
/// # Errors
/// A sentence for the user.
pub fn command(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let args = parse(words).map_err(|error| format!("{error}\n{USAGE}"))?;
    if args.docs {
        let write = fs::write(document::FILE, document::document());
        return write.map(|()| true).map_err(|error| error.to_string());
    }
    let all: Vec<&Entry> = match args.chosen.is_empty() {
        true => catalogue().collect(),
        false => args.chosen.clone(),
    };
    if args.scene {
        let show = if all.len() == 1 {
            Show::Print
        } else {
            Show::Hash
        };
        // All of them are played, whatever the first does.
        let wrong = all.iter().filter(|entry| !scene(entry, show)).count();
        return Ok(wrong == 0);
    }
    if args.shrink {
        shrink_all(&all, &args);
        return Ok(true);
    }
    let mut found_all = true;
    for entry in all {
        found_all &= measure(entry, &args)?;
    }
    Ok(found_all)
}

fn scene(entry: &Entry, show: Show) -> bool {
    let [off, on] = document::perform(entry, show);
    let told = |found: Option<crate::monitor::Violation>| {
        found.map_or_else(|| "nothing".to_owned(), |violation| violation.to_string())
    };
    let well = off.is_none() && on.as_ref().is_some_and(|on| on.rule == entry.scripted);
    println!("{:?} off: {}; on: {}", entry.exhibit, told(off), told(on));
    well
}

/// How far the shrinker gets with seeds that fail.
fn shrink_all(entries: &[&Entry], args: &Args) {
    let mut left = Vec::new();
    for entry in entries {
        let name = format!("{:?}", entry.exhibit);
        let Some(found) = search(entry.exhibit, args.start, args.seeds) else {
            println!("{name} not within {} seeds", args.seeds);
            continue;
        };
        if let Some(make) = clustered::make(entry.exhibit) {
            println!(
                "{name} {}",
                clustered::shrunk(found.seed, make, SHRINK_RUNS)
            );
            continue;
        }
        let options = options_for(entry.exhibit, found.seed);
        let Some(shrunk) = shrink(&options, &Mistaken(entry.exhibit), SHRINK_RUNS) else {
            println!("{name} seed {} does not fail again", found.seed);
            continue;
        };
        println!(
            "{name} seed {}: {} of {} host operations, {} items, {} runs, {:?}{}",
            found.seed,
            shrunk.program.host_operations(),
            shrunk.operations_before,
            shrunk.program.items.len(),
            shrunk.runs,
            shrunk.violation.rule,
            match shrunk.faithful {
                true => "",
                false => ", not written down well",
            }
        );
        left.push(shrunk.program.host_operations());
    }
    left.sort_unstable();
    if let Some(median) = left.get(left.len() / 2) {
        println!("median of {}: {median} host operations", left.len());
    }
}

fn measure(entry: &Entry, args: &Args) -> Result<bool, String> {
    let began = Instant::now();
    let name = format!("{:?}", entry.exhibit);
    let found = search(entry.exhibit, args.start, args.seeds);
    let seconds = began.elapsed().as_secs_f64();
    match &found {
        Some(found) => {
            let (seeds, violation) = (found.seeds, &found.violation);
            println!("{name} {seeds} seeds, {seconds:.1} s: {violation}");
        }
        None => println!("{name} not within {} seeds, {seconds:.1} s", args.seeds),
    }
    let rate = Rate {
        seeds: args.start + found.as_ref().map_or(args.seeds, |found| found.seeds),
        rule: found.map(|found| format!("{:?}", found.violation.rule)),
    };
    let noticed = rate.rule.is_some();
    if args.record {
        record(name, rate, args.start)?;
        return Ok(noticed);
    }
    // What begins elsewhere cannot be compared with what was measured from seed 0 on.
    let known = rates::kept().remove(&name).filter(|_| args.start == 0);
    let alarm = known.and_then(|known| rates::alarm(&name, &known, &rate));
    if let Some(alarm) = &alarm {
        eprintln!("umd-sim: {alarm}");
    }
    Ok(noticed && alarm.is_none())
}

/// Keeps a figure. A search that did not begin at seed 0 has to go on from one that found nothing.
fn record(name: String, rate: Rate, start: u64) -> Result<(), String> {
    let text = fs::read_to_string(rates::FILE).map_err(|error| error.to_string())?;
    let mut all = rates::parse(&text);
    let known = all.get(&name);
    let goes_on = known.is_some_and(|known| known.rule.is_none() && known.seeds >= start);
    if start > 0 && !goes_on {
        return Err(format!("nobody has looked for {name} below seed {start}"));
    }
    all.insert(name, rate);
    fs::write(rates::FILE, rates::text(&all)).map_err(|error| error.to_string())
}
