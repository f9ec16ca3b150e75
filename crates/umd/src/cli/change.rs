//! The commands that change running arrays: `manage`, `action`, `wait`, `stop`; and
//! `zero-superblock`.

use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::ArgMatches;
use umd_core::value::SECTOR_BYTES;
use umd_disk::{Engine, Holder, Mode, OpenError};
use umd_format::place::{Format, SUPERBLOCK_READ_SECTORS, probe_order};
use umd_format::v1::Unverified;
use umd_format::v090::SuperblockV090;

use super::args::{ActionArgs, ManageArgs, StopArgs, WaitArgs, ZeroArgs};
use super::flags::{Flags, Marks};
use super::outcome::{FAILED, Failure, Outcome, USAGE, print, print_json, say};
use super::reach::{Reach, no_such_array};
use super::values;
use crate::api::{
    ActionRequest, ArraysDoc, DoneDoc, ManageRequest, ReadonlyRequest, SCHEMA, StopRequest, WaitDoc,
};
use crate::client::quote;
use crate::daemon::household::find_in;
use crate::daemon::open;
use crate::doc::{ArrayDoc, MemberDoc};
use crate::member;
use crate::text::detail::mismatch;
use crate::text::progress::Progress;
use crate::words::flag_words;

/// How often the progress line moves.
const LOOK_EVERY_MS: u64 = 500;

/// One step of `manage`, in the order of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// `fail`, `remove`, `add`, `re-add`, `replace` or `flags`.
    pub operation: &'static str,
    /// The device as the user named it.
    pub device: String,
    /// Of `replace`: the spare to do it with.
    pub with: Option<String>,
    /// The flags that stand before it.
    pub flags: Flags,
}

/// What `manage` is to do: the array, and the steps in the order of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// The array: the first word that is no option, as in mdadm. `--add r5 c.img` names one too.
    pub array: Option<String>,
    /// The steps.
    pub steps: Vec<Step>,
    /// The first device that stands behind no operation, and behind no flag.
    pub idle: Option<String>,
    /// The first operation without a device, as an option.
    pub empty: Option<&'static str>,
    /// The first spare behind `--with` that has nobody to replace.
    pub unpaired: Option<String>,
    /// `--readwrite` stands before no device: it is for the array.
    pub readwrite: bool,
}

impl Steps {
    /// The spare is for the first member to be replaced that has none yet.
    fn replace_with(&mut self, spare: &str) {
        let mut steps = self.steps.iter_mut();
        let first = steps.find(|step| step.operation == "replace" && step.with.is_none());
        match first {
            Some(step) => step.with = Some(spare.to_owned()),
            None => self.unpaired = self.unpaired.take().or_else(|| Some(spare.to_owned())),
        }
    }
}

/// Reads `manage`'s words in the order of the command line, which clap keeps only as indices.
pub fn steps(matches: &ArgMatches) -> Steps {
    let marks = Marks::of(matches);
    let mut words = Vec::new();
    for (id, operation) in [
        ("targets", None),
        ("fail", Some("fail")),
        ("remove", Some("remove")),
        ("add", Some("add")),
        ("re_add", Some("re-add")),
        ("replace", Some("replace")),
        ("with", Some("with")),
    ] {
        let values = matches.get_many::<String>(id).into_iter().flatten();
        let indices = matches.indices_of(id).into_iter().flatten();
        words.extend(indices.zip(values).map(|(at, word)| (at, operation, word)));
    }
    words.sort_by_key(|(index, ..)| *index);
    let mut found = Steps::default();
    let (mut current, mut fresh) = (None, None);
    let mut last = 0;
    for (index, operation, word) in words {
        if operation.is_some() {
            // An operation, and the one before it has got no device.
            found.empty = found
                .empty
                .or(fresh.take().filter(|_| operation != current));
            current = operation;
        }
        if word.is_empty() {
            fresh = operation; // Its devices may stand behind other options.
        } else if found.array.is_none() {
            found.array = Some(word.clone());
            fresh = operation;
        } else if current == Some("with") {
            fresh = None;
            found.replace_with(word);
        } else if let Some(operation) = current {
            fresh = None;
            found.steps.push(Step {
                operation,
                device: word.clone(),
                with: None,
                flags: marks.at(index),
            });
            last = index;
        } else if marks.at(index) != Flags::default() {
            found.steps.push(Step {
                operation: "flags",
                device: word.clone(),
                with: None,
                flags: marks.at(index),
            });
            last = index;
        } else {
            found.idle = found.idle.or_else(|| Some(word.clone()));
        }
    }
    found.empty = found.empty.or(fresh);
    found.readwrite = marks.last("readwrite").is_some_and(|at| at > last);
    found
}

/// The device as the daemon is told: an absolute path, or mdadm's words for several.
fn device_word(device: &str) -> Result<String, Failure> {
    if matches!(device, "failed" | "faulty" | "detached" | "missing") {
        return Ok(device.to_owned());
    }
    Ok(values::absolute(device)?.display().to_string())
}

/// Runs `umd manage`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn manage(args: &ManageArgs, steps: &Steps, reach: &Reach, quiet: bool) -> Outcome {
    let Some(name) = &steps.array else {
        return Err(Failure::usage("an md device must be given in this mode"));
    };
    if let Some(first) = &steps.idle {
        return Err(Failure::usage(format!(
            "{first}: say what to do with it, such as --add"
        )));
    }
    let name = values::array_name(name)?;
    if let Some(operation) = steps.empty {
        return Err(Failure::usage(format!(
            "--{operation}: name a device behind it"
        )));
    }
    if let Some(spare) = &steps.unpaired {
        return Err(Failure::usage(format!(
            "no matching --replace device for --with {spare}"
        )));
    }
    let (readwrite, steps) = (steps.readwrite, &steps.steps);
    let switches = [args.readonly, readwrite, args.run];
    let switches = switches.iter().filter(|on| **on).count();
    if switches > 1 {
        return Err(Failure::usage(
            "only one of --readonly, --readwrite and --run can be given",
        ));
    }
    if steps.is_empty() && switches == 0 {
        return Err(Failure::usage(format!(
            "nothing to do for {name}: --fail, --remove, --add?"
        )));
    }
    if args.dry_run {
        let array = reach.detail(&name)?;
        for line in planned(&array, steps, args.readonly, readwrite)? {
            print(&format!("{line}\n"))?;
        }
        return Ok(0);
    }
    let log = log_of_new(args, steps)?;
    let mut changed = false;
    for step in steps {
        match one_step(&name, step, (args.force, log), reach) {
            Ok(done) => {
                changed |= !done.messages.is_empty();
                let lines = done.messages.iter().filter(|_| !quiet);
                lines.for_each(|line| say(line));
            }
            // As in mdadm, the steps behind a failed one are not done.
            Err(failure) if args.test && !changed => return Err(failure.with_code(USAGE)),
            Err(failure) => return Err(failure),
        }
    }
    if args.readonly || readwrite {
        let request = ReadonlyRequest {
            readonly: args.readonly,
        };
        let _: DoneDoc = reach.post(&name, "readonly", &request)?;
        changed = true;
    }
    if args.run {
        super::incremental::run_waiting(reach, &name, quiet)?;
    }
    if args.json {
        print_json(&reach.detail(&name)?)?;
    }
    Ok(if args.test && !changed { USAGE } else { 0 })
}

/// Whether new members get a bad-block log. As with mdadm, only who adds a device asks that.
fn log_of_new(args: &ManageArgs, steps: &[Step]) -> Result<Option<bool>, Failure> {
    match steps.iter().any(|step| step.operation == "add") {
        true => Ok(super::scan::config(args.config.as_deref())?.create.bbl),
        false => Ok(None),
    }
}

fn one_step(
    name: &str,
    step: &Step,
    (force, bad_block_log): (bool, Option<bool>),
    reach: &Reach,
) -> Result<DoneDoc, Failure> {
    if step.device == "detached" {
        return remove_detached(name, reach);
    }
    let request = ManageRequest {
        operation: step.operation.to_owned(),
        device: device_word(&step.device)?,
        with: step.with.as_deref().map(device_word).transpose()?,
        write_mostly: step.flags.write_mostly,
        failfast: step.flags.failfast,
        force,
        bad_block_log,
    };
    // Messages name devices as the user did.
    let as_named = |text: &str| {
        let text = text.replace(&request.device, &step.device);
        match (&request.with, &step.with) {
            (Some(path), Some(named)) => text.replace(path, named),
            _ => text,
        }
    };
    match reach.post::<_, DoneDoc>(name, "manage", &request) {
        Ok(mut done) => {
            done.messages
                .iter_mut()
                .for_each(|line| *line = as_named(line));
            Ok(done)
        }
        Err(failure) => Err(Failure {
            text: as_named(&failure.text),
            ..failure
        }),
    }
}

/// Whether a member's file, device or server is gone.
fn is_detached(path: &str) -> bool {
    match member::is_elsewhere(path) {
        true => member::open(Path::new(path), Mode::Examine, Engine::Sync).is_err(),
        false => !Path::new(path).exists(),
    }
}

/// `--remove detached`: faulty members whose file or device is gone.
fn remove_detached(name: &str, reach: &Reach) -> Result<DoneDoc, Failure> {
    let mut done = DoneDoc::plain();
    let array = reach.detail(name)?;
    let gone = array
        .members
        .iter()
        .filter(|member| is_detached(&member.path));
    for member in gone {
        let request = ManageRequest {
            operation: "remove".to_owned(),
            device: member.path.clone(),
            with: None,
            write_mostly: None,
            failfast: None,
            force: false,
            bad_block_log: None,
        };
        let one: DoneDoc = reach.post(name, "manage", &request)?;
        done.messages.extend(one.messages);
    }
    Ok(done)
}

/// What the steps would do, and which superblocks they would write.
fn planned(
    array: &ArrayDoc,
    steps: &[Step],
    readonly: bool,
    readwrite: bool,
) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for step in steps {
        let device = device_word(&step.device)?;
        let member = find_in(array, &device);
        let name = &array.name;
        lines.push(match (step.operation, member) {
            ("fail", Some(member)) => format!("would set {} faulty in {name}", member.path),
            ("remove", Some(member)) => format!("would hot remove {} from {name}", member.path),
            ("remove", None) if matches!(device.as_str(), "failed" | "faulty" | "detached") => {
                format!("would hot remove all {device} members from {name}")
            }
            ("replace", Some(member)) => match &step.with {
                Some(with) => format!("would replace {} by {with} in {name}", member.path),
                None => format!("would replace {} by a spare in {name}", member.path),
            },
            ("flags", Some(member)) => {
                let words = flag_words(step.flags.write_mostly, step.flags.failfast);
                format!("would set {} {words} in {name}", member.path)
            }
            ("fail" | "remove" | "replace" | "flags", None) => {
                return Err(Failure::failed(format!(
                    "{device} is not a member of {name}"
                )));
            }
            (_, Some(member)) => {
                return Err(Failure::failed(format!(
                    "{} is a member of {name}",
                    member.path
                )));
            }
            (operation, None) => format!("would {operation} {device} to {name}"),
        });
    }
    if readonly || readwrite {
        let word = if readonly { "read-only" } else { "read-write" };
        lines.push(format!("would make {} {word}", array.name));
    }
    let survivors = array
        .members
        .iter()
        .filter(|member| member.state != "faulty");
    lines.extend(survivors.map(|member| {
        format!(
            "would write the version {} superblock of {}",
            array.metadata, member.path
        )
    }));
    Ok(lines)
}

/// Places that differ, after a check.
const PLACES_SHOWN: usize = 16;

/// Runs `umd action`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn action(args: &ActionArgs, reach: &Reach) -> Outcome {
    let name = values::array_name(&args.array)?;
    let words = [
        "check", "repair", "resync", "recover", "reshape", "idle", "frozen",
    ];
    if let Some(action) = &args.action
        && !words.contains(&action.as_str())
    {
        let list = words.join(", ");
        return Err(Failure::usage(format!(
            "{action} is no sync action; there are {list}"
        )));
    }
    let request = action_request(args)?;
    let changes = request != ActionRequest::default();
    if changes {
        let _: DoneDoc = reach.post(&name, "action", &request)?;
    }
    if args.wait && changes {
        wait_for(&name, reach, true)?;
    }
    let array = reach.detail(&name)?;
    if args.json {
        print_json(&array)?;
    } else if !changes {
        print(&format!("{}\n", array.sync_action))?;
    } else if args.wait {
        let count = array.mismatch_cnt;
        match waiting(&array) {
            Some(text) => say(&format!("{text}, mismatch_cnt {count}")),
            None => say(&format!(
                "{name}: {} done, mismatch_cnt {count}",
                last_action(&array)
            )),
        }
        for place in array.mismatches.iter().take(PLACES_SHOWN) {
            say(&format!("{name}: {}", mismatch(place)));
        }
        if array.mismatches.len() > PLACES_SHOWN {
            say(&format!(
                "{name}: and more; umd detail --json {name} has them"
            ));
        }
    }
    Ok(0)
}

/// What the daemon is asked for. Nothing, when only the current action is to be printed.
fn action_request(args: &ActionArgs) -> Result<ActionRequest, Failure> {
    let walks = args.action.as_deref();
    if args.from.is_some() && !matches!(walks, None | Some("check" | "repair")) {
        return Err(Failure::usage(
            "--from is where check and repair begin; what is owed begins where it was",
        ));
    }
    let limit = |name, word: &Option<String>| {
        let word = word.as_deref();
        word.map(|word| values::speed_limit(name, word)).transpose()
    };
    Ok(ActionRequest {
        action: args.action.clone(),
        plain: believes_data(args)?,
        sync_min: args.from.as_deref().map(values::sync_min).transpose()?,
        sync_max: args.to.as_deref().map(values::sync_max).transpose()?,
        sync_speed_min: limit("--speed-min", &args.speed_min)?,
        sync_speed_max: limit("--speed-max", &args.speed_max)?,
    })
}

/// Where an action waits, if it does.
fn waiting(array: &ArrayDoc) -> Option<String> {
    let sync = array.sync.as_ref().filter(|sync| sync.held)?;
    let (name, action, at) = (&array.name, &sync.action, sync.done_sectors);
    Some(format!(
        "{name}: {action} waits at sector {at} (sync_max) until umd action {name} --to=max"
    ))
}

/// Whether a repair is to be md's.
fn believes_data(args: &ActionArgs) -> Result<bool, Failure> {
    let repairs = args.action.as_deref() == Some("repair");
    match args.repair.as_deref() {
        Some(_) if !repairs => Err(Failure::usage("--repair goes with the action repair")),
        None | Some("others") => Ok(false),
        Some("parity") => Ok(true),
        Some(other) => Err(Failure::usage(format!(
            "--repair is others or parity, not {other}"
        ))),
    }
}

fn last_action(array: &ArrayDoc) -> &str {
    array.last_sync_action.as_deref().unwrap_or("nothing")
}

/// Waits for one array, with its progress on stderr. Returns whether there was anything to wait
/// for, and the array at the end.
fn wait_for(name: &str, reach: &Reach, show: bool) -> Result<(bool, ArrayDoc), Failure> {
    let mut client = reach.require(name)?;
    let path = format!("/v1/arrays/{}/wait?timeout_ms={LOOK_EVERY_MS}", quote(name));
    let stderr = std::io::stderr();
    let mut progress = Progress::new(stderr.is_terminal());
    let first: WaitDoc = client.get(&path.replace(&LOOK_EVERY_MS.to_string(), "0"))?;
    let waited = !first.idle;
    let mut seen = first;
    while !seen.idle {
        if let Some(sync) = seen.array.sync.as_ref().filter(|_| show)
            && let Some(text) = progress.update(name, sync)
        {
            let _ = stderr.lock().write_all(text.as_bytes());
        }
        seen = client.get(&path)?;
    }
    if let Some(text) = progress.end() {
        let _ = stderr.lock().write_all(text.as_bytes());
    }
    Ok((waited, seen.array))
}

/// How what was waited for has ended.
fn ended(array: &ArrayDoc) -> String {
    let name = &array.name;
    if let Some(text) = waiting(array) {
        return text;
    }
    let action = match last_action(array) {
        "recover" => "recovery",
        other => other,
    };
    match (&array.reason, array.degraded) {
        (Some(reason), _) => format!("{name}: {reason}"),
        (None, 0) => format!("{name}: {action} done"),
        (None, missing) => format!(
            "{name}: {action} ended, {missing} of {} slots without a member in sync",
            array.raid_disks
        ),
    }
}

/// Runs `umd wait`: 0 when there was something to wait for at every array, 1 when there was
/// nothing, 2 when something is no array.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn wait(args: &WaitArgs, reach: &Reach, quiet: bool) -> Outcome {
    let names: Vec<String> = if args.scan && args.arrays.is_empty() {
        reach.all()?.into_iter().map(|array| array.name).collect()
    } else {
        args.arrays.clone()
    };
    if names.is_empty() && !args.scan {
        return Err(Failure::usage("No devices given."));
    }
    let mut code = 0;
    let mut arrays = Vec::new();
    for title in &names {
        let found = values::array_name(title).and_then(|name| wait_for(&name, reach, !quiet));
        match found {
            Ok((waited, array)) => {
                if waited && !quiet {
                    say(&ended(&array));
                }
                arrays.push(array);
                // With --scan there is no array in particular to have waited for.
                code = code.max(u8::from(!waited && !args.scan));
            }
            Err(failure) => {
                say(&failure.text);
                code = USAGE;
            }
        }
    }
    if args.json {
        print_json(&ArraysDoc {
            schema: SCHEMA,
            arrays,
        })?;
    }
    Ok(code)
}

/// Runs `umd stop`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn stop(args: &StopArgs, reach: &Reach, quiet: bool) -> Outcome {
    if args.arrays.is_empty() && !args.scan {
        return Err(Failure::usage("No devices given."));
    }
    let names: Vec<String> = if args.arrays.is_empty() {
        let mut names: Vec<String> = reach.all()?.into_iter().map(|array| array.name).collect();
        names.reverse(); // The newest first: it may stand on an older one.
        names
    } else {
        args.arrays.clone()
    };
    let mut code = 0;
    let mut stopped = Vec::new();
    for title in &names {
        let outcome = values::array_name(title).and_then(|name| {
            if args.dry_run {
                return stop_lines(&reach.detail(&name)?)
                    .iter()
                    .try_for_each(|l| print(l));
            }
            let request = StopRequest { force: args.force };
            let done: DoneDoc = reach.post(&name, "stop", &request)?;
            if !quiet {
                done.messages.iter().for_each(|line| say(line));
            }
            stopped.push(name);
            Ok(())
        });
        if let Err(failure) = outcome {
            let unknown = failure == no_such_array(title) && Path::new(title).exists();
            say(&match unknown {
                true => format!("{title} does not appear to be an md device"),
                false => failure.text,
            });
            code = failure.code;
        }
    }
    if args.json {
        print_json(&serde_json::json!({ "schema": SCHEMA, "stopped": stopped }))?;
    }
    Ok(code)
}

fn stop_lines(array: &ArrayDoc) -> Vec<String> {
    let mut lines = vec![format!("would stop {}\n", array.name)];
    let active = ["active", "active-idle", "write-pending"].contains(&array.array_state.as_str());
    let written = active || array.sync.is_some();
    let members = array
        .members
        .iter()
        .filter(|m| written && m.state != "faulty");
    lines.extend(members.map(|member| {
        format!(
            "would write the version {} superblock of {}\n",
            array.metadata, member.path
        )
    }));
    lines
}

/// Runs `umd zero-superblock`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn zero(args: &ZeroArgs, reach: &Reach, quiet: bool) -> Outcome {
    if args.devices.is_empty() {
        return Err(Failure::usage("No devices given."));
    }
    let only = args.metadata.as_deref().map(values::metadata).transpose()?;
    let mut code = 0;
    for device in &args.devices {
        match zero_one(device, only, args, quiet) {
            Ok(()) => {}
            Err(why) => {
                let text = match why {
                    NotZeroed::InUse(holder) => match reach.holder_of(device) {
                        Some((array, member)) => in_use(device, &array, &member),
                        None => format!("{device}: {holder} - not zeroing"),
                    },
                    NotZeroed::Other(text) => text,
                };
                say(&text);
                code = FAILED;
            }
        }
    }
    Ok(code)
}

/// Why a superblock was not erased.
enum NotZeroed {
    /// Somebody uses the device.
    InUse(Holder),
    /// Something else, for the user.
    Other(String),
}

impl From<String> for NotZeroed {
    fn from(text: String) -> NotZeroed {
        NotZeroed::Other(text)
    }
}

/// What to say, and to do, when a running array of ours has the device.
fn in_use(device: &str, array: &ArrayDoc, member: &MemberDoc) -> String {
    let name = &array.name;
    let fail = match member.state.as_str() {
        "faulty" | "spare" => String::new(),
        _ => format!(" --fail {device}"),
    };
    format!(
        "{device} is a member of the running array {name} - not zeroing: first stop the array \
         (umd stop {name}) or take it out (umd manage {name}{fail} --remove {device})"
    )
}

fn zero_one(
    device: &str,
    only: Option<Format>,
    args: &ZeroArgs,
    quiet: bool,
) -> Result<(), NotZeroed> {
    // In a dry run too: what is refused then should be refused now.
    let file =
        member::open(Path::new(device), Mode::ReadWrite, Engine::Sync).map_err(
            |error| match error {
                OpenError::InUse { holder, .. } => NotZeroed::InUse(holder),
                OpenError::Io { source, .. } => NotZeroed::Other(format!(
                    "Couldn't open {device} for write - not zeroing: {}",
                    open::os_text(&source)
                )),
                other => NotZeroed::Other(format!("{other} - not zeroing")),
            },
        )?;
    let mut found = false;
    for (format, sector) in probe_order(file.size_sectors()) {
        if only.is_some_and(|only| only != format) {
            continue;
        }
        let sectors = SUPERBLOCK_READ_SECTORS.min(file.size_sectors() - sector);
        let length = (sectors * SECTOR_BYTES) as usize;
        let unreadable = |error| format!("cannot read {device}: {error}");
        let bytes = file
            .read_at(sector * SECTOR_BYTES, length)
            .map_err(unreadable)?;
        let good = match format {
            Format::V1(minor) => Unverified::parse(&bytes, minor)
                .map(|one| one.stored_checksum() == one.computed_checksum()),
            Format::Bare => continue,
            Format::V090 => SuperblockV090::parse(&bytes)
                .map(|one| one.checksum_matches())
                .map_err(|_| umd_format::ParseError::NoMagic { found: 0 }),
        };
        match good {
            Ok(good) if good || args.force => {}
            Ok(_) => {
                return Err(NotZeroed::Other(format!(
                    "{device} has a damaged superblock at sector {sector}; --force erases it too"
                )));
            }
            Err(_) => continue,
        }
        found = true;
        if args.dry_run {
            let line =
                format!("would write zeros at sector {sector} of {device} ({sectors} sectors)\n");
            print(&line).map_err(|failure| failure.text)?;
            continue;
        }
        let zeros = vec![0; length];
        file.write_at(sector * SECTOR_BYTES, &zeros)
            .and_then(|()| file.sync())
            .map_err(|error| format!("could not zero superblock on {device}: {error}"))?;
    }
    if !found && !quiet {
        say(&format!("Unrecognised md component device - {device}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::CommandFactory;

    fn parse(line: &str) -> Steps {
        let matches = Cli::command()
            .try_get_matches_from(line.split_whitespace())
            .expect("parses");
        steps(matches.subcommand_matches("manage").expect("manage"))
    }

    /// The steps of a line about r5 in which every word has its place.
    fn read(line: &str) -> Vec<String> {
        let found = parse(line);
        assert_eq!(found.array.as_deref(), Some("r5"), "{line}");
        assert_eq!((&found.idle, found.empty), (&None, None), "{line}");
        let word = |step: &Step| {
            let mark = if step.flags.write_mostly == Some(true) {
                "*"
            } else {
                ""
            };
            format!("{} {}{mark}", step.operation, step.device)
        };
        found.steps.iter().map(word).collect()
    }

    #[test]
    fn steps_keep_the_order_of_the_command_line() {
        assert_eq!(
            read("umd manage r5 --fail b --remove b --add c"),
            ["fail b", "remove b", "add c"]
        );
        assert_eq!(
            read("umd manage r5 -a x -f y z -r y -a w"),
            ["add x", "fail y", "fail z", "remove y", "add w"]
        );
        assert_eq!(
            read("umd manage r5 --add x --write-mostly --add y --re-add q"),
            ["add x", "add y*", "re-add q*"]
        );
    }

    #[test]
    fn other_options_may_stand_between_an_operation_and_its_devices() {
        for line in [
            "umd manage r5 --add --dry-run x",
            "umd manage r5 --add --force x",
            "umd manage r5 -a --force --dry-run x",
            "umd manage --add r5 x",
            "umd manage --dry-run --add r5 --force x",
            "umd manage --force r5 --add=x",
        ] {
            assert_eq!(read(line), ["add x"], "{line}");
        }
        assert_eq!(
            read("umd manage r5 --add --write-mostly x --force y --fail --test z"),
            ["add x*", "add y*", "fail z*"]
        );
        assert_eq!(
            read("umd manage r5 --remove --quiet failed --add -v x -- -y"),
            ["remove failed", "add x", "add -y"]
        );
    }

    #[test]
    fn flags_are_for_the_devices_behind_them() {
        let found = |line: &str| -> Vec<String> {
            let steps = parse(line).steps.into_iter();
            let word = |step: Step| {
                let words = flag_words(step.flags.write_mostly, step.flags.failfast);
                format!("{} {}: {words}", step.operation, step.device)
            };
            steps.map(word).collect()
        };
        let line = "umd manage r1 --write-mostly b --failfast c --readwrite d --nofailfast --add e";
        let all = [
            "flags b: write-mostly",
            "flags c: write-mostly, failfast",
            "flags d: readwrite, failfast",
            "add e: readwrite, nofailfast",
        ];
        assert_eq!(found(line), all);
        assert_eq!(parse("umd manage r1 x -W y").idle.as_deref(), Some("x"));
        let array = |line: &str| parse(line).readwrite;
        assert!(array("umd manage r1 --readwrite") && array("umd manage -w r1"));
        assert!(array("umd manage r1 --add x --readwrite"));
        assert!(!array("umd manage r1 --readwrite x") && !array("umd manage r1 -W x"));
        assert!(!array("umd manage r1 --readwrite --add x"));
    }

    #[test]
    fn operations_without_devices_and_devices_without_operation_are_seen() {
        assert_eq!(parse("umd manage r5 --add").empty, Some("add"));
        assert_eq!(parse("umd manage --add r5").empty, Some("add"));
        assert_eq!(parse("umd manage r5 --fail --add x").empty, Some("fail"));
        assert_eq!(
            parse("umd manage r5 --add x --remove").empty,
            Some("remove")
        );
        assert_eq!(parse("umd manage r5 x --add").idle.as_deref(), Some("x"));
        assert_eq!(parse("umd manage --force").array, None);
    }

    #[test]
    fn spares_are_paired_with_the_members_they_replace() {
        let pairs = |line: &str| -> Vec<(String, Option<String>)> {
            let steps = parse(line).steps.into_iter();
            steps.map(|step| (step.device, step.with)).collect()
        };
        let pair = |old: &str, new: Option<&str>| (old.to_owned(), new.map(str::to_owned));
        let line = "umd manage r5 --replace a b --with x y";
        assert_eq!(pairs(line), [pair("a", Some("x")), pair("b", Some("y"))]);
        let line = "umd manage r5 --replace a b --with x";
        assert_eq!(pairs(line), [pair("a", Some("x")), pair("b", None)]);
        assert_eq!(parse(line).steps[1].operation, "replace");
        let unpaired = |line: &str| parse(line).unpaired;
        assert_eq!(unpaired(line), None);
        let line = "umd manage r5 --with x --replace a";
        assert_eq!(unpaired(line).as_deref(), Some("x"));
        let line = "umd manage r5 --replace a --with x y";
        assert_eq!(unpaired(line).as_deref(), Some("y"));
        assert_eq!(
            parse("umd manage r5 --replace a --with").empty,
            Some("with")
        );
    }
}
