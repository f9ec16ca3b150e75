//! `umd create`.

use std::io::{IsTerminal, Write};

use umd_format::Format;
use umd_format::create::Cluster;

use super::args::CreateArgs;
use super::flags::Flags;
use super::outcome::{Failure, Outcome, print, print_json, say};
use super::reach::{Reach, from_doc};
use super::values::{self, BitmapWord};
use crate::api::{CreateRequest, DeviceRequest, StartedDoc};
use crate::conf::Config;
use crate::daemon::create::{OCCUPIED, prepare_for};
use crate::text::Context;
use crate::words;

/// Runs the command. `device_flags` tells for each target which flags it is to have.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &CreateArgs, device_flags: &[Flags], reach: &Reach, quiet: bool) -> Outcome {
    let config = super::scan::config(args.config.as_deref())?;
    let cluster = cluster(args, &config)?;
    let mut request = request(args, device_flags, &config)?;
    if args.dry_run {
        let prepared = prepare_for(&request, cluster.as_ref(), true);
        print(&lines(
            &prepared.map_err(|error| from_doc(&error))?.describe(),
        ))?;
        return Ok(0);
    }
    if args.metadata.is_none() && config.create.metadata.is_none() && !quiet {
        say("Defaulting to version 1.2 metadata");
    }
    if let Some(cluster) = cluster {
        return written(args, &mut request, &cluster, quiet);
    }
    let started: StartedDoc = match reach.post_to_daemon("/v1/create", &request) {
        Err(failure) if failure.text.ends_with(OCCUPIED) => {
            ask(&failure)?;
            request.destroy_all = true;
            reach.post_to_daemon("/v1/create", &request)?
        }
        other => other?,
    };
    if !quiet {
        started.messages.iter().for_each(|line| say(line));
    }
    if args.json {
        print_json(&started.array)?;
    }
    Ok(0)
}

/// An array of a cluster is only written here: its hosts start it, each for itself.
fn written(
    args: &CreateArgs,
    request: &mut CreateRequest,
    cluster: &Cluster,
    quiet: bool,
) -> Outcome {
    if args.json {
        return Err(Failure::usage(
            "--json shows a running array, and a clustered one is only written by create",
        ));
    }
    let prepare = |request: &CreateRequest| {
        let prepared = prepare_for(request, Some(cluster), false);
        prepared.map_err(|error| from_doc(&error))
    };
    let prepared = match prepare(request) {
        Err(failure) if failure.text.ends_with(OCCUPIED) => {
            ask(&failure)?;
            request.destroy_all = true;
            prepare(request)?
        }
        other => other?,
    };
    let devices = prepared.write().map_err(|error| from_doc(&error))?.len();
    if !quiet {
        let Cluster { nodes, name } = cluster;
        say(&format!(
            "array {} was written to {devices} devices, for {nodes} nodes of cluster '{name}', \
             and not started",
            request.name
        ));
    }
    Ok(0)
}

/// The cluster that is to run the array, where its bitmap is one of a cluster.
fn cluster(args: &CreateArgs, config: &Config) -> Result<Option<Cluster>, Failure> {
    let word = args.bitmap.as_deref().map(values::bitmap).transpose()?;
    if word != Some(BitmapWord::Clustered) {
        let given = [
            ("--nodes", args.nodes.is_some()),
            ("--home-cluster", args.home_cluster.is_some()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(Failure::usage(format!("{option} needs --bitmap=clustered"))),
            None => Ok(None),
        };
    }
    let name = args.home_cluster.as_ref().or(config.homecluster.as_ref());
    let Some(name) = name else {
        return Err(Failure::usage(
            "--bitmap=clustered needs the name of the cluster: --home-cluster=NAME, or \
             HOMECLUSTER in mdadm.conf",
        ));
    };
    if args.readonly {
        return Err(Failure::usage(
            "--readonly is for an array that is started, and a clustered one is only written by \
             create",
        ));
    }
    let nodes = args.nodes.as_deref().map(values::nodes).transpose()?;
    Ok(Some(Cluster {
        nodes: nodes.unwrap_or(NODES_DEFAULT),
        name: name.clone(),
    }))
}

/// mdadm's number of nodes.
const NODES_DEFAULT: u32 = 4;

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// On a terminal mdadm's question is asked; elsewhere the refusal stands.
fn ask(failure: &Failure) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(failure.clone());
    }
    let text = failure.text.trim_end_matches(OCCUPIED);
    say(text.trim_end());
    let mut err = std::io::stderr();
    let _ = err
        .write_all(b"Continue creating array [y/N]? ")
        .and_then(|()| err.flush());
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    if read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes" | "YES" | "Yes") {
        return Ok(());
    }
    Err(Failure::failed("create aborted."))
}

/// The request behind the options, and behind `CREATE` and `HOMEHOST` where they leave it open.
///
/// # Errors
/// When they make no sense, in mdadm's words where it has them.
pub fn request(
    args: &CreateArgs,
    device_flags: &[Flags],
    config: &Config,
) -> Result<CreateRequest, Failure> {
    let Some((name, devices)) = args.targets.split_first() else {
        return Err(Failure::usage("an md device must be given in this mode"));
    };
    let name = values::array_name(name)?;
    let (level, slots, spares) = shape(args, devices, device_flags)?;
    let metadata = args.metadata.as_deref().map(values::metadata).transpose()?;
    let metadata = metadata.or(config.create.metadata).unwrap_or(Format::V1_2);
    let bitmap = bitmap(args, level, metadata)?;
    // What only bits have.
    let bits = matches!(bitmap, Some(BitmapWord::Internal | BitmapWord::File(_)));
    let clustered = bitmap == Some(BitmapWord::Clustered);
    let host = Context::system().host;
    let homehost = args.homehost.as_deref().or(config.stored_home());
    let stored = args.name.as_deref().unwrap_or(&name);
    Ok(CreateRequest {
        set_name: values::set_name(stored, homehost, &host),
        name,
        uuid: args
            .uuid
            .as_deref()
            .map(values::uuid)
            .transpose()?
            .map(|uuid| uuid.to_string()),
        metadata: metadata.to_string(),
        level,
        layout: values::layout(level, args.layout.as_deref())?,
        chunk_sectors: chunk(args, level)?,
        size_sectors: match &args.size {
            Some(text) => values::size_sectors(text)?,
            None => None,
        },
        data_offset_sectors: args
            .data_offset
            .as_deref()
            .map(values::data_offset_sectors)
            .transpose()?,
        bitmap: bitmap
            .as_ref()
            .map(|word| !matches!(word, BitmapWord::None | BitmapWord::File(_))),
        bitmap_lockless: bitmap == Some(BitmapWord::Lockless),
        bitmap_file: match &bitmap {
            Some(BitmapWord::File(path)) => Some(path.clone()),
            _ => None,
        },
        bitmap_chunk_bytes: args
            .bitmap_chunk
            .as_deref()
            .map(values::bitmap_chunk_bytes)
            .transpose()?,
        bitmap_delay_seconds: delay(args, bits || clustered)?,
        write_behind: write_behind(args, level, bits)?,
        bad_block_log: log_wanted(args, config, clustered)?,
        assume_clean: args.assume_clean,
        slots,
        spares,
        destroy: args
            .destroy
            .iter()
            .map(|path| absolute(path))
            .collect::<Result<_, _>>()?,
        destroy_all: args.force || args.run,
        readonly: args.readonly,
        io_engine: args.io_engine.clone(),
    })
}

/// Level, slots and spares of a new array.
type Shape = (i32, Vec<Option<DeviceRequest>>, Vec<DeviceRequest>);

fn shape(args: &CreateArgs, devices: &[String], device_flags: &[Flags]) -> Result<Shape, Failure> {
    let level = match &args.level {
        Some(word) => values::level(word)?,
        None => {
            return Err(Failure::failed(
                "a RAID level is needed to create an array.",
            ));
        }
    };
    let active = match &args.raid_devices {
        Some(text) => usize::from(values::raid_devices(text)?),
        None => return Err(Failure::failed("no raid-devices specified.")),
    };
    let spares = match &args.spare_devices {
        Some(text) => usize::from(values::spare_devices(text)?),
        None => 0,
    };
    if active == 1 && level != -5 && !args.force {
        return Err(unusual());
    }
    check_count(devices.len(), active, spares)?;
    let taken: Vec<Option<DeviceRequest>> = devices
        .iter()
        .enumerate()
        .map(|(index, word)| {
            device(
                word,
                device_flags.get(index + 1).copied().unwrap_or_default(),
            )
        })
        .collect::<Result<_, Failure>>()?;
    let (slots, rest) = taken.split_at(active);
    let spares: Vec<DeviceRequest> = rest.iter().flatten().cloned().collect();
    if spares.len() != rest.len() {
        return Err(Failure::usage("a spare cannot be missing"));
    }
    Ok((level, slots.to_vec(), spares))
}

/// mdadm's doubt about arrays of one device.
pub fn unusual() -> Failure {
    Failure::usage(
        "'1' is an unusual number of drives for an array, so it is probably\n     \
         a mistake.  If you really mean it you will need to specify --force before\n     \
         setting the number of drives.",
    )
}

fn check_count(devices: usize, active: usize, spares: usize) -> Result<(), Failure> {
    if devices < active + spares {
        return Err(Failure::failed(
            "You haven't given enough devices (real or missing) to create this array",
        ));
    }
    if devices > active + spares {
        return Err(Failure::failed(format!(
            "You have listed more devices ({devices}) than are in the array({})!",
            active + spares
        )));
    }
    Ok(())
}

fn absolute(path: &str) -> Result<String, Failure> {
    let path = values::absolute(path)?;
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Failure::usage(format!(
            "{} is not a UTF-8 path",
            path.display()
        ))),
    }
}

/// A device as it was named; `None` for `missing`.
///
/// # Errors
/// When it is no path.
pub fn device(word: &str, flags: Flags) -> Result<Option<DeviceRequest>, Failure> {
    if word == "missing" {
        return Ok(None);
    }
    Ok(Some(DeviceRequest {
        path: absolute(word)?,
        write_mostly: flags.write_mostly == Some(true),
        failfast: flags.failfast == Some(true),
    }))
}

fn chunk(args: &CreateArgs, level: i32) -> Result<u32, Failure> {
    let given = args
        .chunk
        .as_deref()
        .map(values::chunk_sectors)
        .transpose()?;
    if level == 1 {
        if given.is_some() {
            say("chunk size ignored for this level");
        }
        return Ok(0);
    }
    if level == -5 && given.is_some() {
        return Err(Failure::usage(
            "specifying chunk size is forbidden for this level",
        ));
    }
    let default = match level {
        -5 | -1 => 0,
        _ => values::CHUNK_SECTORS_DEFAULT,
    };
    Ok(given.unwrap_or(default))
}

/// What `--bitmap` and `--consistency-policy` ask for together; the size of the array decides when
/// it is `None`.
fn bitmap(args: &CreateArgs, level: i32, metadata: Format) -> Result<Option<BitmapWord>, Failure> {
    let word = args.bitmap.as_deref().map(values::bitmap).transpose()?;
    let lockless = word == Some(BitmapWord::Lockless);
    if lockless && metadata != Format::V1_2 {
        return Err(Failure::usage(format!(
            "a lockless bitmap needs metadata version 1.2, not {metadata}"
        )));
    }
    let bitmap = word.as_ref().map(|word| *word != BitmapWord::None);
    let policy = args
        .consistency_policy
        .as_deref()
        .map(values::consistency_policy)
        .transpose()?;
    let wanted = match (bitmap, policy) {
        (Some(bitmap), Some(policy)) if bitmap != policy => {
            return Err(Failure::usage(
                "--bitmap is not compatible with this consistency policy",
            ));
        }
        (bitmap, policy) => bitmap.or(policy),
    };
    if wanted == Some(true) && matches!(level, -5 | -1 | 0) {
        let name = words::level_name(level).unwrap_or("this level");
        return Err(Failure::usage(format!(
            "bitmaps not meaningful with level {name}"
        )));
    }
    if args.bitmap_chunk.is_some() && (wanted != Some(true) || lockless) {
        return Err(Failure::usage("--bitmap-chunk needs --bitmap=internal"));
    }
    let of_policy = match wanted {
        Some(true) => BitmapWord::Internal,
        _ => BitmapWord::None,
    };
    Ok(word.or(wanted.map(|_| of_policy)))
}

/// How often bits are cleared. The number lies in the bitmap.
fn delay(args: &CreateArgs, bitmap: bool) -> Result<Option<u32>, Failure> {
    let delay = args.delay.as_deref().map(values::bitmap_delay_seconds);
    let delay = delay.transpose()?;
    match delay {
        Some(_) if !bitmap => Err(Failure::usage("--delay needs --bitmap=internal")),
        delay => Ok(delay),
    }
}

/// How many writes may lag. The number lies in the bitmap, and only mirrors have legs that may.
fn write_behind(args: &CreateArgs, level: i32, bitmap: bool) -> Result<u32, Failure> {
    let Some(text) = &args.write_behind else {
        return Ok(0);
    };
    let count = values::write_behind(text)?;
    if level != 1 {
        let name = words::level_name(level).unwrap_or("this level");
        return Err(Failure::usage(format!(
            "--write-behind is for raid1, not for {name}"
        )));
    }
    if !bitmap {
        return Err(Failure::usage("--write-behind needs --bitmap=internal"));
    }
    Ok(count)
}

/// A cluster has no bad-block log; one that is asked for by name is refused with the array.
fn log_wanted(args: &CreateArgs, config: &Config, clustered: bool) -> Result<bool, Failure> {
    let said = bad_block_log(args)?;
    Ok(match clustered {
        true => said.unwrap_or(false),
        false => said.or(config.create.bbl).unwrap_or(true),
    })
}

fn bad_block_log(args: &CreateArgs) -> Result<Option<bool>, Failure> {
    match args.bbl.as_deref() {
        None => Ok(None),
        Some("yes") => Ok(Some(true)),
        Some("no") => Ok(Some(false)),
        Some(other) => Err(Failure::usage(format!("--bbl is yes or no, not {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<CreateRequest, Failure> {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
        let Command::Create(args) = cli.command else {
            panic!("create expected");
        };
        request(&args, &[], &Config::default())
    }

    fn refusal(line: &str) -> String {
        let failure = parse(line).expect_err("refused");
        format!("{}: {}", failure.code, failure.text)
    }

    #[test]
    fn options_become_a_request() {
        let request = parse(
            "umd create r5 -l 5 -n 3 -x1 -c 64 -e 1.1 --size=1G --homehost=none --bitmap internal \
             --bitmap-chunk 1M /x/a /x/b missing /x/d",
        )
        .expect("a request");
        assert_eq!(
            (request.level, request.layout, request.chunk_sectors),
            (5, 2, 128)
        );
        assert_eq!(request.metadata, "1.1");
        assert_eq!(request.size_sectors, Some(2 << 20));
        assert_eq!(request.set_name, "r5");
        assert_eq!(request.slots.len(), 3);
        assert!(request.slots[2].is_none());
        assert_eq!(request.spares[0].path, "/x/d");
        assert_eq!(
            (request.bitmap, request.bitmap_chunk_bytes),
            (Some(true), Some(1 << 20))
        );
        assert!(!request.destroy_all && !request.bitmap_lockless);
    }

    #[test]
    fn lockless_bitmaps_are_made_where_they_can_be() {
        let request = parse("umd create r -l 1 -n 2 --bitmap lockless a b").expect("a request");
        assert_eq!(
            (request.bitmap, request.bitmap_lockless),
            (Some(true), true)
        );
        for (line, why) in [
            (
                "-e 1.0",
                "a lockless bitmap needs metadata version 1.2, not 1.0",
            ),
            (
                "--bitmap-chunk 1M",
                "--bitmap-chunk needs --bitmap=internal",
            ),
            ("--delay 5", "--delay needs --bitmap=internal"),
            (
                "--consistency-policy resync",
                "--bitmap is not compatible with this consistency policy",
            ),
        ] {
            let line = format!("umd create r -l 1 -n 2 --bitmap lockless {line} a b");
            assert_eq!(refusal(&line), format!("2: {why}"));
        }
        assert_eq!(
            refusal("umd create r -l 0 -n 2 --bitmap lockless a b"),
            "2: bitmaps not meaningful with level raid0"
        );
    }

    #[test]
    fn write_behind_has_a_default_and_takes_no_device() {
        let count = |line: &str| parse(line).expect("a request").write_behind;
        let rest = "-l1 -n2 -b internal a -W b";
        assert_eq!(count(&format!("umd create r1 --write-behind {rest}")), 256);
        assert_eq!(count(&format!("umd create r1 --write-behind=7 {rest}")), 7);
        assert_eq!(count(&format!("umd create r1 {rest}")), 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused_as_mdadm_does() {
        assert_eq!(
            refusal("umd create"),
            "2: an md device must be given in this mode"
        );
        assert_eq!(
            refusal("umd create x -l 5"),
            "1: no raid-devices specified."
        );
        assert_eq!(
            refusal("umd create x -l 5 -n 3 a"),
            "1: You haven't given enough devices (real or missing) to create this array"
        );
        assert_eq!(
            refusal("umd create x -l 5 -n 2 a b c d e"),
            "1: You have listed more devices (5) than are in the array(2)!"
        );
        assert_eq!(
            refusal("umd create x -l 0 -n 2 -b internal a b"),
            "2: bitmaps not meaningful with level raid0"
        );
    }
}
