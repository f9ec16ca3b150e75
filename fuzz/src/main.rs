//! The runner for whoever has no libFuzzer: seeds, changed at random. It is not guided by what the
//! code does, so it finds less; what libFuzzer has found can be replayed with it.
//!
//! ```text
//!   umd-fuzz run [--seconds N] [--target T]    each target, or one, for so long (60)
//!   umd-fuzz replay TARGET FILE                one input; a panic tells what is wrong
//!   umd-fuzz seeds FOLDER                      the first corpus, a folder for each target
//! ```
#![forbid(unsafe_code)]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use umd_fuzz::mutate::Mutator;
use umd_fuzz::seeds;
use umd_fuzz::targets::{ALL, Target};

const USAGE: &str =
    "usage: umd-fuzz run [--seconds N] [--target T] | replay TARGET FILE | seeds FOLDER";
/// Inputs that were made of each other are kept as starting points, so many for a target.
const KEPT_MAX: usize = 512;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["run"] => run("60", None),
        ["run", "--seconds", n] => run(n, None),
        ["run", "--target", t] => run("60", Some(t)),
        ["run", "--seconds", n, "--target", t] => run(n, Some(t)),
        ["replay", target, file] => replay(target, Path::new(file)),
        ["seeds", folder] => write_seeds(Path::new(folder)),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("umd-fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn named(name: &str) -> Result<Target, String> {
    let found = ALL.into_iter().find(|(one, _)| *one == name);
    let names: Vec<&str> = ALL.iter().map(|(one, _)| *one).collect();
    found.ok_or_else(|| format!("no target {name}; there are {}", names.join(", ")))
}

fn replay(target: &str, file: &Path) -> Result<(), String> {
    let (_, run) = named(target)?;
    let input = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    run(&input);
    println!("{target}: nothing wrong with {}", file.display());
    Ok(())
}

fn write_seeds(folder: &Path) -> Result<(), String> {
    for (path, bytes) in seeds::corpus() {
        let path = folder.join(path);
        let parent = path.parent().expect("a folder for each target");
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, bytes));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn run(seconds: &str, only: Option<&str>) -> Result<(), String> {
    let seconds: u64 = seconds.parse().map_err(|_| USAGE.to_owned())?;
    let targets = match only {
        Some(name) => vec![named(name)?],
        None => ALL.to_vec(),
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = since.map_or(1, |since| since.as_nanos() as u64);
    let mut broken = Vec::new();
    for target in targets {
        if !search(target, Duration::from_secs(seconds), seed) {
            broken.push(target.0);
        }
    }
    match broken[..] {
        [] => Ok(()),
        _ => Err(format!("targets that broke: {}", broken.join(", "))),
    }
}

/// Runs a target on changed inputs; `false` when one broke it, which is kept in a file.
fn search((name, run): Target, time: Duration, seed: u64) -> bool {
    let mut mutator = Mutator::new(seed);
    let corpus = seeds::corpus();
    let own = corpus.iter().filter(|(path, _)| path.starts_with(name));
    let mut inputs: Vec<Vec<u8>> = own.map(|(_, bytes)| bytes.clone()).collect();
    let (began, mut count) = (Instant::now(), 0_usize);
    while began.elapsed() < time {
        let other = &inputs[(count / 7) % inputs.len()];
        let input = mutator.change(&inputs[count % inputs.len()], other);
        count += 1;
        if catch_unwind(|| run(&input)).is_err() {
            let folder = format!("artifacts/{name}");
            let file = format!("{folder}/{seed:016x}-{count}");
            match fs::create_dir_all(&folder).and_then(|()| fs::write(&file, &input)) {
                Ok(()) => eprintln!("{name}: kept as {file} (umd-fuzz replay {name} {file})"),
                Err(error) => eprintln!("{name}: {error}; the input was {input:02x?}"),
            }
            return false;
        }
        if count.is_multiple_of(61) && inputs.len() < KEPT_MAX {
            inputs.push(input);
        }
    }
    println!("{name}: {count} inputs, nothing wrong");
    true
}
