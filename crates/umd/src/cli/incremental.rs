//! `umd incremental`: members arrive, and go, one by one.

use super::args_incremental::IncrementalArgs;
use super::outcome::{Failure, Outcome, print, print_json, say};
use super::reach::Reach;
use super::scan::{config, host};
use super::values;
use crate::api::{DoneDoc, GoneRequest, IncrementalDoc, IncrementalRequest, StartWaitingRequest};
use crate::conf::probe::{self, Candidate};
use crate::conf::{ArrayLine, ArrayName};

/// Runs `umd incremental`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &IncrementalArgs, reach: &Reach, quiet: bool) -> Outcome {
    if args.rebuild_map && args.devices.is_empty() && !args.scan {
        return Ok(0); // Who runs and who waits is known at any time.
    }
    if args.scan {
        return start_waiting(args, reach, quiet);
    }
    let [device] = args.devices.as_slice() else {
        return Err(Failure::failed(match args.devices.is_empty() {
            true => "--incremental requires a device.",
            false => "--incremental can only handle one device.",
        }));
    };
    match args.fail {
        true => gone(device, reach, quiet),
        false => arrived(args, device, reach, quiet),
    }
}

fn start_waiting(args: &IncrementalArgs, reach: &Reach, quiet: bool) -> Outcome {
    if !args.devices.is_empty() {
        return Err(Failure::failed(
            "In --incremental mode, a device cannot be given with --scan.",
        ));
    }
    if !args.run {
        return Err(Failure::failed(
            "--incremental --scan meaningless without --run.",
        ));
    }
    let inactive = |array: &crate::doc::ArrayDoc| array.array_state == "inactive";
    if !reach.all()?.iter().any(inactive) {
        return Ok(0);
    }
    start(reach, None, quiet)?;
    Ok(0)
}

/// Starts the array that waits under this name, or all that wait.
///
/// # Errors
/// When one does not start.
fn start(reach: &Reach, name: Option<String>, quiet: bool) -> Result<(), Failure> {
    let request = StartWaitingRequest { name };
    let done: DoneDoc = reach.post_to_daemon("/v1/incremental/start", &request)?;
    tell(&done.messages, quiet);
    Ok(())
}

fn tell(messages: &[String], quiet: bool) {
    if !quiet {
        messages.iter().for_each(|line| say(line));
    }
}

/// `--run` of an array: starts it, if it waits. Whatever does not wait has been started.
///
/// # Errors
/// When there is no such array, or it does not start.
pub fn run_waiting(reach: &Reach, name: &str, quiet: bool) -> Result<(), Failure> {
    match reach.detail(name)?.array_state.as_str() {
        "inactive" => start(reach, Some(name.to_owned()), quiet),
        _ => Ok(()),
    }
}

/// The device as the daemon is told: what udev calls `sdb` is `/dev/sdb`, also when it is gone.
fn full(device: &str) -> Result<String, Failure> {
    let text = match device.contains('/') || std::path::Path::new(device).exists() {
        true => device.to_owned(),
        false => format!("/dev/{device}"),
    };
    let path = values::absolute(&text)?;
    let name = path.to_str().map(str::to_owned);
    name.ok_or_else(|| Failure::usage(format!("{} is not a UTF-8 path", path.display())))
}

fn gone(device: &str, reach: &Reach, quiet: bool) -> Outcome {
    // A file that is gone may be known by where it was.
    let mut path = full(device)?;
    if reach.holder_of(&path).is_none() {
        let here = values::absolute(device)?;
        path = here.to_str().map_or(path, str::to_owned);
    }
    if reach.holder_of(&path).is_none() {
        return Err(Failure::failed(format!(
            "{device} does not appear to be a component of any array"
        )));
    }
    let request = GoneRequest { device: path };
    let done: DoneDoc = reach.post_to_daemon("/v1/incremental/gone", &request)?;
    tell(&done.messages, quiet);
    Ok(0)
}

fn arrived(args: &IncrementalArgs, device: &str, reach: &Reach, quiet: bool) -> Outcome {
    let path = full(device)?;
    if let Err(error) = std::fs::metadata(&path) {
        let text = crate::daemon::open::os_text(&error);
        return Err(Failure::failed(format!("stat failed for {device}: {text}")));
    }
    let identity = probe::probe(&path).map_err(Failure::failed)?;
    let identity = identity
        .ok_or_else(|| Failure::failed(format!("no recognisable superblock on {device}.")))?;
    let config = config(args.config.as_deref())?;
    let host = host();
    let found = Candidate { path, identity };
    let line = config.line_of(&found, &host);
    let local = config.is_local(&found.identity, &host);
    let name = match line {
        None if !config.allows(found.identity.format, local) => {
            return Err(Failure::failed(format!(
                "{device} is of no array in the config file, and AUTO there does not let it be \
                 assembled by itself"
            )));
        }
        Some(ArrayLine {
            name: ArrayName::Ignored,
            place,
            ..
        }) => {
            return Err(Failure::failed(format!(
                "{device} is of an array that {}:{} says to ignore",
                place.file, place.line
            )));
        }
        Some(ArrayLine {
            name: ArrayName::Named(name),
            ..
        }) => Some(name.clone()),
        Some(_) | None => None,
    };
    let request = IncrementalRequest {
        device: found.path.clone(),
        name,
        run: args.run,
        bad_block_log: config.create.bbl,
    };
    let mut done: IncrementalDoc = reach.post_to_daemon("/v1/incremental", &request)?;
    if args.export {
        done.messages.pop(); // The lines say the same.
    }
    tell(&done.messages, quiet);
    if args.json {
        print_json(&done)?;
    } else if args.export {
        let foreign = match line.is_some() || local {
            true => "no",
            false => "yes",
        };
        let (name, started) = (&done.name, &done.started);
        print(&format!(
            "MD_DEVICE={name}\nMD_DEVNAME={name}\nMD_FOREIGN={foreign}\nMD_STARTED={started}\n"
        ))?;
    }
    Ok(0)
}
