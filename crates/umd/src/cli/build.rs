//! `umd build`: an array without superblocks, described anew each time it is started.

use super::args::BuildArgs;
use super::create::device;
use super::flags::Flags;
use super::outcome::{Failure, Outcome, print, print_json, say};
use super::reach::{Reach, from_doc};
use super::values;
use crate::api::{CreateRequest, DeviceRequest, StartedDoc};
use crate::daemon::create::prepare;
use crate::words;

/// mdadm's chunk and rounding when none is given, smaller than that of new arrays.
const CHUNK_SECTORS_DEFAULT: u32 = 128;

/// Runs the command. `device_flags` tells for each target which flags it is to have.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &BuildArgs, device_flags: &[Flags], reach: &Reach, quiet: bool) -> Outcome {
    let request = request(args, device_flags)?;
    if args.dry_run {
        let prepared = prepare(&request, true).map_err(|error| from_doc(&error))?;
        let lines = prepared.describe();
        print(
            &lines
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        )?;
        return Ok(0);
    }
    let started: StartedDoc = reach.post_to_daemon("/v1/create", &request)?;
    if !quiet {
        started.messages.iter().for_each(|line| say(line));
    }
    if args.json {
        print_json(&started.array)?;
    }
    Ok(0)
}

/// The request behind the options.
///
/// # Errors
/// When they make no sense, in mdadm's words where it has them.
pub fn request(args: &BuildArgs, device_flags: &[Flags]) -> Result<CreateRequest, Failure> {
    let Some((name, devices)) = args.targets.split_first() else {
        return Err(Failure::usage("an md device must be given in this mode"));
    };
    let name = values::array_name(name)?;
    let level = level(args)?;
    let chunk = args
        .chunk
        .as_deref()
        .map(values::chunk_sectors)
        .transpose()?;
    let layout = match (level, &args.layout) {
        // What the superblock of a raid0 would say is not guessed: it matters only where members
        // differ in size, and then the array is refused until it is said.
        (0, None) => 0,
        (_, word) => values::layout(level, word.as_deref())?,
    };
    Ok(CreateRequest {
        set_name: name.clone(),
        name,
        uuid: None,
        metadata: "none".to_owned(),
        level,
        layout,
        chunk_sectors: match level {
            1 | -5 if chunk.is_some() => {
                return Err(Failure::usage(
                    "specifying chunk size is forbidden for this level",
                ));
            }
            1 | -5 => 0,
            _ => chunk.unwrap_or(CHUNK_SECTORS_DEFAULT),
        },
        size_sectors: match &args.size {
            Some(text) => values::size_sectors(text)?,
            None => None,
        },
        data_offset_sectors: None,
        bitmap: Some(false),
        bitmap_lockless: false,
        bitmap_file: bitmap_file(args, level)?,
        bitmap_chunk_bytes: args
            .bitmap_chunk
            .as_deref()
            .map(values::bitmap_chunk_bytes)
            .transpose()?,
        bitmap_delay_seconds: None,
        write_behind: 0,
        bad_block_log: false,
        assume_clean: args.assume_clean,
        slots: slots(args, level, devices, device_flags)?,
        spares: Vec::new(),
        destroy: Vec::new(),
        destroy_all: args.force,
        readonly: args.readonly,
        io_engine: args.io_engine.clone(),
    })
}

fn bitmap_file(args: &BuildArgs, level: i32) -> Result<Option<String>, Failure> {
    let Some(word) = &args.bitmap else {
        return match args.bitmap_chunk {
            Some(_) => Err(Failure::usage("--bitmap-chunk needs --bitmap=FILE")),
            None => Ok(None),
        };
    };
    if matches!(level, -5 | -1 | 0) {
        let name = words::level_name(level).unwrap_or("this level");
        return Err(Failure::usage(format!(
            "bitmaps not meaningful with level {name}"
        )));
    }
    values::bitmap_file(word).map(Some)
}

fn level(args: &BuildArgs) -> Result<i32, Failure> {
    let Some(word) = &args.level else {
        return Err(Failure::failed("a RAID level is needed to Build an array."));
    };
    let level = values::level(word)?;
    if matches!(level, -5 | -1 | 0 | 1 | 10) {
        return Ok(level);
    }
    Err(Failure::usage(format!(
        "Raid level {} not permitted with --build.",
        words::level_name(level).map_or(word.as_str(), |name| name.trim_start_matches("raid"))
    )))
}

fn slots(
    args: &BuildArgs,
    level: i32,
    devices: &[String],
    device_flags: &[Flags],
) -> Result<Vec<Option<DeviceRequest>>, Failure> {
    let active = match &args.raid_devices {
        Some(text) => usize::from(values::raid_devices(text)?),
        None => return Err(Failure::failed("no raid-devices specified.")),
    };
    if active == 1 && level != -5 && !args.force {
        return Err(super::create::unusual());
    }
    if active != devices.len() {
        return Err(Failure::failed(format!(
            "requested {active} devices in array but listed {}",
            devices.len()
        )));
    }
    let behind = |index: usize| device_flags.get(index + 1).copied().unwrap_or_default();
    let words = devices.iter().enumerate();
    words
        .map(|(index, word)| device(word, behind(index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<CreateRequest, Failure> {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
        let Command::Build(args) = cli.command else {
            panic!("{line} is no build");
        };
        request(&args, &[])
    }

    #[test]
    fn mdadms_defaults() {
        let mirror = parse("umd build md8 -l1 -n2 /x/a missing").expect("a request");
        assert_eq!(mirror.metadata, "none");
        assert_eq!((mirror.chunk_sectors, mirror.bitmap), (0, Some(false)));
        assert!(mirror.slots[0].is_some() && mirror.slots[1].is_none());
        let stripes = parse("umd build md8 -l0 -n2 /x/a /x/b").expect("a request");
        assert_eq!((stripes.chunk_sectors, stripes.layout), (128, 0));
        let linear = parse("umd build md8 -l linear -n2 --rounding=8 /x/a /x/b");
        assert_eq!(linear.expect("a request").chunk_sectors, 16);
        let ten = parse("umd build md8 -l10 -n2 /x/a /x/b").expect("a request");
        assert_eq!(ten.layout, 0x102);
    }

    #[test]
    fn mdadms_refusals() {
        for (line, code, text) in [
            (
                "md8 -n2 /x/a /x/b",
                1,
                "a RAID level is needed to Build an array.",
            ),
            ("md8 -l1 /x/a /x/b", 1, "no raid-devices specified."),
            (
                "md8 -l5 -n2 /x/a /x/b",
                2,
                "Raid level 5 not permitted with --build.",
            ),
            (
                "md8 -l1 -n3 /x/a /x/b",
                1,
                "requested 3 devices in array but listed 2",
            ),
            (
                "md8 -l1 -n2 -c64 /x/a /x/b",
                2,
                "specifying chunk size is forbidden for this level",
            ),
        ] {
            let failure = parse(&format!("umd build {line}")).expect_err(line);
            assert_eq!((failure.code, failure.text.as_str()), (code, text));
        }
        let failure = parse("umd build md8 -l1 -n1 /x/a").expect_err("one is unusual");
        assert_eq!(failure.code, 2);
    }
}
