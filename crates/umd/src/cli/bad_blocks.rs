//! `umd examine-badblocks`: what the bad-block log of a member names.
//!
//! ```text
//!   Bad-blocks on b.img:
//!                   4096 for 8 sectors       absolute device sectors, as mdadm prints them
//! ```

use std::path::Path;

use umd_disk::{Engine, Mode};
use umd_format::badblocks::BadRange;

use super::args::ExamineBadblocksArgs;
use super::outcome::{FAILED, Failure, Outcome, print, say};
use crate::daemon::open::{self, Superblock};
use crate::member;

/// Runs `umd examine-badblocks`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &ExamineBadblocksArgs) -> Outcome {
    if args.devices.is_empty() {
        return Err(Failure::usage("No devices to examine"));
    }
    let mut code = 0;
    for name in &args.devices {
        match look(name) {
            Ok(text) => print(&text)?,
            Err(why) => {
                say(&why);
                code = FAILED;
            }
        }
    }
    Ok(code)
}

fn look(name: &str) -> Result<String, String> {
    let file = member::open(Path::new(name), Mode::Examine, Engine::Sync)
        .map_err(|error| format!("cannot open {name}: {error}"))?;
    let found = open::superblock(&file, None);
    let found = found.map_err(|error| format!("cannot read {name}: {error}"))?;
    let superblock = match found {
        Some(Superblock::V1(found)) => found,
        Some(Superblock::V090(_)) => {
            return Err(format!("{name}: metadata 0.90 has no bad-block log"));
        }
        None => return Err(format!("No md superblock detected on {name}.")),
    };
    let superblock = superblock.verify(file.size_sectors());
    let superblock = superblock.map_err(|error| format!("{name}: {error}"))?;
    let fields = &superblock.fields;
    if fields.bblog_sector().is_none() {
        return Ok(format!("No bad-blocks list configured on {name}\n"));
    }
    match open::bad_blocks(&file, fields) {
        None => Ok(format!("Bad-blocks list is empty in {name}\n")),
        Some(Err(why)) => Err(format!("{name}: {why}")),
        Some(Ok(log)) => Ok(text(name, &log.listed())),
    }
}

fn text(name: &str, ranges: &[BadRange]) -> String {
    let lines = ranges.iter().map(|range| {
        let (start, len) = (range.start_sectors, range.length_sectors);
        format!("{start:20} for {len} sectors\n")
    });
    format!("Bad-blocks on {name}:\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_listed_as_they_lie_in_the_log() {
        let ranges = [(10_512, 8), (10_000, 512)].map(|(start_sectors, length_sectors)| BadRange {
            start_sectors,
            length_sectors,
        });
        let expected = "Bad-blocks on b.img:\n               10512 for 8 sectors\n               \
                        10000 for 512 sectors\n";
        assert_eq!(text("b.img", &ranges), expected);
    }
}
