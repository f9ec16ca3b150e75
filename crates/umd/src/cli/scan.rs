//! Assembling by the configuration file: `umd assemble --scan`, `umd assemble NAME`.
//!
//! ```text
//!   DEVICE --> candidates --fit an ARRAY line--> started under the line's name
//!                  |
//!                  +------- fit none, AUTO allows it --> started under the stored name,
//!                                                        or the UUID where that is taken
//! ```
//!
//! No array is named by a counter: a number that depends on who came first is what makes mdadm's
//! md127 a riddle.

use std::collections::BTreeSet;

use umd_format::Uuid;

use super::args::AssembleArgs;
use super::assemble::one;
use super::outcome::{Failure, Outcome, USAGE, print_json, say};
use super::reach::Reach;
use super::values;
use crate::api::{ArraysDoc, AssembleRequest, SCHEMA};
use crate::conf::files::{self, Loaded};
use crate::conf::probe::{self, Candidate};
use crate::conf::{ArrayLine, ArrayName, Config};
use crate::doc::ArrayDoc;
use crate::text::short_name;

/// mdadm's sentence for nothing to do.
pub const NO_ARRAYS: &str = "No arrays found in config file or automatically";

/// Reads the configuration and says what in it makes no sense.
///
/// # Errors
/// When a file cannot be read.
pub fn config(named: Option<&str>) -> Result<Config, Failure> {
    let Loaded { config, problems } = files::load(named).map_err(Failure::failed)?;
    for problem in &problems {
        say(&problem.to_string());
    }
    Ok(config)
}

/// The arrays that run; those that wait for members do not.
fn active(reach: &Reach) -> Result<Vec<ArrayDoc>, Failure> {
    let mut arrays = reach.all()?;
    arrays.retain(|array| array.array_state != "inactive");
    Ok(arrays)
}

/// This machine's name.
pub fn host() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

/// What one run has found and done.
struct Run<'a> {
    args: &'a AssembleArgs,
    reach: &'a Reach,
    quiet: bool,
    verbose: bool,
    running: Vec<ArrayDoc>,
    arrays: Vec<ArrayDoc>,
    found: bool,
    code: u8,
}

impl Run<'_> {
    /// Starts one array, unless it runs already.
    fn start(&mut self, uuid: Uuid, request: &AssembleRequest) {
        self.found = true;
        let text = uuid.to_string();
        if let Some(array) = self.running.iter().find(|array| array.uuid == text) {
            if self.verbose {
                say(&format!("{} is running already", array.name));
            }
            return;
        }
        match one(self.args, request, self.reach, self.quiet) {
            Ok(array) => self.arrays.extend(array),
            Err(failure) => {
                say(&failure.text);
                self.code = self.code.max(failure.code);
            }
        }
    }
}

/// Assembles what the configuration says: the array of that name, or all.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(
    args: &AssembleArgs,
    base: &AssembleRequest,
    reach: &Reach,
    (quiet, verbose): (bool, bool),
) -> Outcome {
    let config = config(args.config.as_deref())?;
    let told = base.uuid.is_some() || base.set_name.is_some();
    let named = match &base.name {
        Some(_) if told => None,
        Some(name) => Some(config.named(name).ok_or_else(|| not_identified(name))?),
        None => None,
    };
    let paths = config.candidates();
    if paths.is_empty() {
        say("No devices listed in conf file were found.");
    }
    let known = probe::candidates(paths);
    let mut run = Run {
        args,
        reach,
        quiet,
        verbose,
        running: active(reach)?,
        arrays: Vec::new(),
        found: false,
        code: 0,
    };
    let home = config.home(&host());
    let own = told.then(|| line_of_request(base)).transpose()?;
    let lines: Vec<&ArrayLine> = match (&own, named) {
        (Some(line), _) | (None, Some(line)) => vec![line],
        (None, None) => config.arrays.iter().collect(),
    };
    let mut settled = BTreeSet::new();
    for line in lines {
        by_line(
            &mut run,
            line,
            base,
            (&known, home.as_deref()),
            &mut settled,
        );
    }
    if base.name.is_none() && !told {
        automatically(&mut run, &config, base, &known, &settled);
    }
    if !run.found && run.code == 0 {
        return Err(Failure::failed(NO_ARRAYS));
    }
    if args.json && !args.dry_run {
        print_json(&ArraysDoc {
            schema: SCHEMA,
            arrays: run.arrays,
        })?;
    }
    Ok(run.code)
}

/// What options say of the array, as a line would.
fn line_of_request(base: &AssembleRequest) -> Result<ArrayLine, Failure> {
    let uuid = base.uuid.as_deref().map(values::uuid).transpose()?;
    let mut line = ArrayLine::at("options", 0);
    line.name = base
        .name
        .clone()
        .map_or(ArrayName::Stored, ArrayName::Named);
    line.uuid = uuid;
    line.set_name.clone_from(&base.set_name);
    Ok(line)
}

/// What mdadm says of a name that no `ARRAY` line has.
pub fn not_identified(name: &str) -> Failure {
    Failure::failed(format!(
        "{name} not identified in config file: name its devices, or give it an ARRAY line (if \
         {name} is a device, write ./{name})"
    ))
}

/// Assembles the array of one line. Arrays that a line speaks of are left alone afterwards.
fn by_line(
    run: &mut Run<'_>,
    line: &ArrayLine,
    base: &AssembleRequest,
    (known, home): (&[Candidate], Option<&str>),
    settled: &mut BTreeSet<String>,
) {
    let members = match probe::members_of(line, known, home) {
        Ok(members) => members,
        Err(text) => {
            say(&text);
            run.code = run.code.max(1);
            return;
        }
    };
    let Some((uuid, devices)) = members else {
        if line.name != ArrayName::Ignored {
            let what = match (&line.name, line.uuid, &line.set_name) {
                (ArrayName::Named(name), _, _) => name.clone(),
                (_, Some(uuid), _) => uuid.to_string(),
                (_, None, name) => name.clone().unwrap_or_default(),
            };
            say(&format!("no devices found for {what}"));
            run.code = run.code.max(USAGE); // mdadm's code for it.
        }
        return;
    };
    if !settled.insert(uuid.to_string()) || line.name == ArrayName::Ignored {
        return;
    }
    let name = match &line.name {
        ArrayName::Named(name) => Some(name.clone()),
        ArrayName::Stored | ArrayName::Ignored => None,
    };
    let bitmap = line.bitmap.clone().filter(|path| path.starts_with('/'));
    let request = AssembleRequest {
        name,
        uuid: Some(uuid.to_string()),
        devices,
        bitmap_file: base.bitmap_file.clone().or(bitmap),
        ..base.clone()
    };
    run.start(uuid, &request);
}

/// Assembles what no line speaks of, as far as `AUTO` allows it.
fn automatically(
    run: &mut Run<'_>,
    config: &Config,
    base: &AssembleRequest,
    known: &[Candidate],
    settled: &BTreeSet<String>,
) {
    let host = host();
    let mut groups: Vec<(Uuid, Vec<&Candidate>)> = Vec::new();
    for one in known {
        let uuid = one.identity.uuid;
        let local = config.is_local(&one.identity, &host);
        if settled.contains(&uuid.to_string()) || !config.allows(one.identity.format, local) {
            continue;
        }
        match groups.iter_mut().find(|(other, _)| *other == uuid) {
            Some((_, group)) => group.push(one),
            None => groups.push((uuid, vec![one])),
        }
    }
    for (uuid, group) in groups {
        let taken = |name: &str| {
            let running = run.running.iter().chain(&run.arrays);
            config.named(name).is_some() || running.into_iter().any(|array| array.name == name)
        };
        let request = AssembleRequest {
            name: name_apart(&group[0].identity.set_name, uuid, taken),
            uuid: Some(uuid.to_string()),
            devices: group.iter().map(|one| one.path.clone()).collect(),
            ..base.clone()
        };
        run.start(uuid, &request);
    }
}

/// `None` to run under the stored name; the UUID as a name when that is taken.
pub fn name_apart(set_name: &str, uuid: Uuid, taken: impl Fn(&str) -> bool) -> Option<String> {
    let short = short_name(set_name);
    let numbered = format!("md{short}");
    let name = match short.bytes().all(|byte| byte.is_ascii_digit()) {
        true => &numbered,
        false => short,
    };
    taken(name).then(|| uuid.to_string().replace(':', ""))
}
