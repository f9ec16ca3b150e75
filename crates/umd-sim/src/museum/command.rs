//! `umd-sim --museum`.

use std::fs;
use std::time::Instant;

use super::rates::{self, Rate};
use super::{Entry, by_name, catalogue, document, search};
use crate::run::Show;

/// How it is called.
pub const USAGE: &str = "\
usage: umd-sim --museum [EXHIBIT...] [--seeds N] [--start S] [--record]
                                                  random search: seeds until each is noticed
       umd-sim --museum --scene [EXHIBIT...]      the scripted scenes; one alone with its trace
       umd-sim --museum --write-docs              writes docs/museum.md";

#[derive(Debug, Default)]
struct Args {
    chosen: Vec<&'static Entry>,
    seeds: u64,
    start: u64,
    record: bool,
    scene: bool,
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
        return Ok(all
            .iter()
            .fold(true, |well, entry| scene(entry, show) && well));
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

fn measure(entry: &Entry, args: &Args) -> Result<bool, String> {
    let began = Instant::now();
    let name = format!("{:?}", entry.exhibit);
    let found = search(entry.exhibit, args.start, args.seeds);
    let seconds = began.elapsed().as_secs_f64();
    let rate = match &found {
        Some(found) => {
            let rule = format!("{:?}", found.violation.rule);
            println!(
                "{name} {} seeds, {seconds:.1} s: {}",
                found.seeds, found.violation
            );
            Rate {
                seeds: found.seeds,
                rule: Some(rule),
            }
        }
        None => {
            println!("{name} not within {} seeds, {seconds:.1} s", args.seeds);
            Rate {
                seeds: args.seeds,
                rule: None,
            }
        }
    };
    if args.record {
        let text = fs::read_to_string(rates::FILE).map_err(|error| error.to_string())?;
        let mut all = rates::parse(&text);
        all.insert(name, rate);
        fs::write(rates::FILE, rates::text(&all)).map_err(|error| error.to_string())?;
    }
    Ok(found.is_some())
}
