//! `umd-sim`: runs seeds.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use umd_sim::exhaust::{search, shapes};
use umd_sim::metaview::OLD;
use umd_sim::nth::{Miss, STRIKES, drill, drills};
use umd_sim::options::{Marks, Options};
use umd_sim::program::Program;
use umd_sim::rng::{Rng, Stream};
use umd_sim::run::{Outcome, Show, capture_panics, run_options, run_options_twice};
use umd_sim::shipped::Shipped;
use umd_sim::shrink::{run_program, shrink, story};

const USAGE: &str = "\
usage: umd-sim --seeds N [--start S] [--show F]   run N seeds, from S on; show F failures (3)
       umd-sim --minutes M [--start S]            run seeds for M minutes
       umd-sim --seed N [--trace]                 run one seed, and show what happens in it
       umd-sim --seed N --shrink [--runs R]       leave out what a failing seed does not need
       umd-sim --seed N --program TEXT [--trace]  run what --shrink has left

       umd-sim --nth                              let every member I/O of fixed programs go wrong

       umd-sim --exhaustive [--ops K]             all programs of K operations (3), all crash images
       umd-sim --museum ...                       known mistakes (with the feature museum)

  --forks P   draw crash images at P moments of every seed (drawn: at 1 to 4 of one seed in seven);
              0: nowhere
  --lockless  every array with redundancy has a lockless bitmap (drawn: one in eight)
  --behind    only seeds with write-mostly members that writes may lag on
  --old       every array has metadata 0.90 (drawn: one in ten)
  --faulty    every array is one of level faulty (drawn: one of 38)
  --bitmap-file   every array with redundancy has its bitmap in a file (drawn: one in eleven)
  --levels    only seeds whose arrays can become others; they do, again and again (drawn: none)
  --halves    mirrors lose power often, while they are rebuilt, wear out or fail (drawn: few do)
  --replaces  members are replaced often, while writes and flushes fail (drawn: few are)
  --cluster   two to five hosts run one array on the same disks (`umd-sim --cluster` alone: how)
  --rests     arrays are suspended and read-only often, while sectors fail (drawn: few are)
  --lies      every seed has disks that lie: rot, lost and misdirected writes, shorn sectors,
              old copies, emulated FUA (drawn: few have)";

/// One seed in this many is run twice, to see that it is determined.
const TWICE_EVERY: u64 = 50;
/// Runs a seed is shrunk in.
const SHRINK_RUNS: u64 = 3000;

#[derive(Debug, Default)]
struct Args {
    seeds: Option<u64>,
    start: u64,
    seed: Option<u64>,
    minutes: Option<u64>,
    show: Option<u64>,
    trace: bool,
    shrink: bool,
    runs: Option<u64>,
    forks: Option<u64>,
    halves: bool,
    replaces: bool,
    rests: bool,
    levels: bool,
    lies: bool,
    old: bool,
    bitmap_file: bool,
    faulty: bool,
    behind: bool,
    lockless: bool,
    nth: bool,
    exhaustive: bool,
    ops: Option<u64>,
    program: Option<Program>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut args = Args::default();
    while let Some(word) = words.next() {
        let mut text = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let mut number = || {
            let value = text()?;
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
            "--forks" => args.forks = Some(number()?),
            "--runs" => args.runs = Some(number()?),
            "--trace" => args.trace = true,
            "--halves" => args.halves = true,
            "--replaces" => args.replaces = true,
            "--rests" => args.rests = true,
            "--levels" => args.levels = true,
            "--lies" => args.lies = true,
            "--old" => args.old = true,
            "--bitmap-file" => args.bitmap_file = true,
            "--faulty" => args.faulty = true,
            "--behind" => args.behind = true,
            "--lockless" => args.lockless = true,
            "--nth" => args.nth = true,
            "--exhaustive" => args.exhaustive = true,
            "--ops" => args.ops = Some(number()?),
            "--shrink" => args.shrink = true,
            "--program" => args.program = Some(Program::parse(&text()?)?),
            other => return Err(format!("unknown option {other}")),
        }
    }
    let seeds = args.seed.is_some() || args.seeds.is_some() || args.minutes.is_some();
    if !seeds && !args.nth && !args.exhaustive {
        return Err("say what to run".into());
    }
    Ok(args)
}

/// The options of a seed, changed as the command line wants it.
fn options_of(seed: u64, args: &Args) -> Options {
    let mut options = Options::draw(seed);
    if args.old && options.minor != OLD {
        options.make_old();
    }
    if args.bitmap_file && options.level > 0 && !options.bitmap_file {
        options.keep_bitmap_in_a_file(&mut Rng::new(seed, Stream::Stored));
    }
    if args.faulty {
        options.make_faulty();
    }
    if args.halves {
        options.halve();
    }
    if args.replaces {
        options.replace_often();
    }
    if args.rests {
        options.rest_often();
    }
    if args.lies {
        options.lie();
    }
    if args.lockless {
        options.use_states();
    }
    if args.levels {
        options.change_levels();
    }
    if let Some(points) = args.forks {
        options.forks.points = points;
        options.forks.images = options.forks.images.max(4);
        options.forks.splits = options.forks.splits.min(points);
    }
    options
}

/// The words that change what a seed means.
fn forced(args: &Args) -> String {
    let words = [
        (args.old, " --old"),
        (args.bitmap_file, " --bitmap-file"),
        (args.faulty, " --faulty"),
        (args.halves, " --halves"),
        (args.replaces, " --replaces"),
        (args.rests, " --rests"),
        (args.lies, " --lies"),
        (args.lockless, " --lockless"),
        (args.levels, " --levels"),
    ];
    let said = words.iter().filter(|(said, _)| *said);
    said.map(|(_, word)| *word).collect()
}

fn report(seed: u64, args: &Args, outcome: &Outcome, tail: usize) {
    let Some(violation) = &outcome.violation else {
        return;
    };
    println!("seed {seed} FAILED");
    println!("  {violation}");
    println!("  options: {:?}", options_of(seed, args));
    let forced = forced(args);
    let skip = outcome.tail.len().saturating_sub(tail);
    for line in outcome.tail.iter().skip(skip) {
        println!("  | {line}");
    }
    println!("  repeat with: cargo xtask sim --seed {seed}{forced} --trace");
    println!("  shrink with: cargo xtask sim --seed {seed}{forced} --shrink");
}

fn verdict(outcome: &Outcome) -> ExitCode {
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    }
}

fn run_one(seed: u64, args: &Args) -> ExitCode {
    let show = if args.trace { Show::Print } else { Show::Tail };
    let outcome = match args.program.clone() {
        Some(program) => run_program(options_of(seed, args), program, &Shipped, show),
        None => run_options(options_of(seed, args), &Shipped, show),
    };
    report(seed, args, &outcome, 60);
    println!(
        "seed {seed}: {:?}, trace {:032x}",
        outcome.counts, outcome.hash
    );
    verdict(&outcome)
}

fn shrink_one(seed: u64, args: &Args) -> ExitCode {
    let options = options_of(seed, args);
    let runs = args.runs.unwrap_or(SHRINK_RUNS) as usize;
    let Some(shrunk) = shrink(&options, &Shipped, runs) else {
        println!("seed {seed} does not fail");
        return ExitCode::SUCCESS;
    };
    println!("{options:?}");
    if !shrunk.faithful {
        println!("*** written down as a program, seed {seed} does not fail");
        return ExitCode::FAILURE;
    }
    for line in story(&options, &shrunk.program, &Shipped) {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} of {} host operations left, {} items, after {} runs",
        shrunk.program.host_operations(),
        shrunk.operations_before,
        shrunk.program.items.len(),
        shrunk.runs
    );
    println!(
        "repeat with: cargo xtask sim --seed {seed}{} --program '{}'",
        forced(args),
        shrunk.program
    );
    ExitCode::FAILURE
}

/// Lets every member I/O of every drill go wrong.
fn run_nth() -> ExitCode {
    let began = Instant::now();
    let (mut runs, mut failed) = (0, 0);
    for one in drills(true) {
        for strike in STRIKES {
            let drilled = drill(&one, strike, &Shipped);
            runs += drilled.runs;
            failed += drilled.misses.len();
            for Miss { ambush, violation } in drilled.misses.iter().take(3) {
                println!(
                    "{}: {strike:?} of I/O {}: {violation}",
                    one.name, ambush.nth
                );
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{runs} runs in {seconds:.1} s, {failed} failed");
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs all small programs and looks at all their crash images.
fn run_exhaustive(args: &Args) -> ExitCode {
    let mut failed = 0;
    for options in shapes() {
        let began = Instant::now();
        let found = search(&options, args.ops.unwrap_or(3) as usize, &Shipped);
        let seconds = began.elapsed().as_secs_f64();
        failed += found.failures.len();
        println!(
            "RAID{} of {}: {} programs, {} moments ({} sampled), {} crash images, {} different, {} \
             failed, {seconds:.1} s",
            options.level,
            options.slots,
            found.programs,
            found.moments,
            found.sampled,
            found.images_met,
            found.images_run,
            found.failures.len()
        );
        for (ops, pace, violation) in found.failures.iter().take(3) {
            println!("  {ops:?} {pace:?}: {violation}");
        }
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run_many(args: &Args) -> ExitCode {
    let began = Instant::now();
    let limit = args
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let count = args.seeds.unwrap_or(u64::MAX);
    let show = args.show.unwrap_or(3);
    let (mut ran, mut failed, mut refused, mut images) = (0, 0, 0, 0);
    let (mut changes, mut moves) = (0, 0);
    for seed in args.start..args.start.saturating_add(count) {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        if args.behind && options_of(seed, args).write_behind == 0 {
            continue;
        }
        if args.lockless && options_of(seed, args).marks == Marks::Bits {
            continue;
        }
        if args.old && options_of(seed, args).minor != OLD {
            continue;
        }
        if args.levels && !options_of(seed, args).has_levels() {
            continue;
        }
        let twice = seed % TWICE_EVERY == 0;
        let outcome = match twice {
            true => run_options_twice(&options_of(seed, args), &Shipped),
            false => run_options(options_of(seed, args), &Shipped, Show::Hash),
        };
        ran += 1;
        refused += outcome.counts.refusals;
        images += outcome.counts.images;
        changes += outcome.counts.changes;
        moves += outcome.counts.moves;
        if let Some(violation) = &outcome.violation {
            failed += 1;
            if failed <= show {
                let again = run_options(options_of(seed, args), &Shipped, Show::Tail);
                report(seed, args, &again, 40);
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
    println!(
        "{ran} seeds and {images} crash images, {failed} failed, {refused} refusals that had to \
         be, {rate:.1} seeds/s"
    );
    if args.levels {
        println!("{changes} changes of level or layout, in {moves} steps");
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(feature = "museum")]
fn museum() -> ExitCode {
    capture_panics();
    exit_code(umd_sim::museum::command(std::env::args().skip(2)))
}

#[cfg(not(feature = "museum"))]
fn museum() -> ExitCode {
    eprintln!("this umd-sim was built without the feature museum; cargo xtask sim --museum has it");
    ExitCode::from(2)
}

/// What a command came to.
fn exit_code(result: Result<bool, String>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn main() -> ExitCode {
    if std::env::args()
        .nth(1)
        .is_some_and(|word| word == "--museum")
    {
        return museum();
    }
    if std::env::args().any(|word| word == "--cluster") {
        capture_panics();
        return exit_code(umd_sim::cluster::command(std::env::args().skip(1)));
    }
    match parse(std::env::args().skip(1)) {
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(args) => {
            capture_panics();
            match args.seed {
                _ if args.nth => run_nth(),
                _ if args.exhaustive => run_exhaustive(&args),
                Some(seed) if args.shrink => shrink_one(seed, &args),
                Some(seed) => run_one(seed, &args),
                None => run_many(&args),
            }
        }
    }
}
