//! `umd assemble` and `umd serve`.

use std::collections::BTreeMap;
use std::path::Path;

use umd_export::nbd::Address;

use super::args::{AssembleArgs, Common, ServeArgs, StartArgs};
use super::args_daemon::DoorArgs;
use super::outcome::{Failure, Outcome, print, print_json, say};
use super::reach::{Reach, from_doc};
use super::scan as by_config;
use super::values;
use super::whole_path;
use crate::api::{AssembleRequest, ErrorDoc, StartedDoc};
use crate::daemon::join;
use crate::daemon::open::{self, How, Opened};
use crate::daemon::opening::DoorOptions;
use crate::daemon::passed;
use crate::daemon::process::{self, ServeOptions};
use crate::daemon::start::{self, Planned, Wishes};
use crate::daemon::tls::TlsOptions;
use crate::doc::ArrayDoc;
use crate::member;

use umd_core::assembly::SlotPlan;
use umd_core::value::MemberId;
use umd_disk::{Engine, Mode};

/// Runs `umd assemble`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &AssembleArgs, reach: &Reach, (quiet, verbose): (bool, bool)) -> Outcome {
    let mut request = request(&args.start)?;
    request.no_degraded = args.no_degraded;
    let metadata = args.metadata.as_deref().map(values::metadata).transpose()?;
    request.metadata = metadata.map(|format| format.to_string());
    request.update.clone_from(&args.update);
    request.homehost.clone_from(&args.homehost);
    let joins = join::cluster(&request).map(str::to_owned);
    request.cluster = super::cluster::request(&args.cluster, args.config.as_deref(), joins)?;
    request.nodes = args.nodes.as_deref().map(values::nodes).transpose()?;
    let joins = join::cluster(&request).is_some();
    if request.nodes.is_some() && !joins {
        return Err(Failure::usage("--nodes needs --update=cluster=NAME"));
    }
    if request.cluster.is_some() && (args.scan || request.devices.is_empty() || args.dry_run) {
        return Err(Failure::usage(
            "--cluster-engine starts one array: name its devices, without --scan and --dry-run",
        ));
    }
    if args.scan && args.start.bitmap.is_some() {
        return Err(Failure::usage(
            "--bitmap is for one array: name its devices, without --scan",
        ));
    }
    if args.scan && args.update.is_some() {
        return Err(Failure::usage(
            "--update is for one array: name its devices, without --scan",
        ));
    }
    if joins && request.cluster.is_none() {
        return only_written(args, &request, reach, quiet);
    }
    if request.devices.is_empty() {
        return by_config::run(args, &request, reach, (quiet, verbose));
    }
    if args.scan {
        return scan(args, request, reach, quiet);
    }
    let array = one(args, &request, reach, quiet)?;
    if let (true, Some(array)) = (args.json, &array) {
        print_json(array)?;
    }
    Ok(0)
}

/// Members that join a cluster are only written: its hosts start them, each for itself.
fn only_written(
    args: &AssembleArgs,
    request: &AssembleRequest,
    reach: &Reach,
    quiet: bool,
) -> Outcome {
    if args.json {
        return Err(Failure::usage(
            "--json shows a running array, and one that joins a cluster is only written",
        ));
    }
    if args.dry_run {
        let joining = join::prepare(request, true).map_err(|error| from_doc(&error))?;
        let lines = joining.describe();
        print(
            &lines
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        )?;
        return Ok(0);
    }
    // After a daemon was killed, this array stays as it is.
    reach.revive_without(&request.devices)?;
    let written = join::prepare(request, false).and_then(join::Joining::write);
    let mut lines = written.map_err(|error| from_doc(&error))?;
    let cluster = join::cluster(request).unwrap_or_default();
    lines.push(format!(
        "it is an array of cluster '{cluster}' now, and was not started: start it on each host, as \
         a node (--cluster-engine)"
    ));
    if !quiet {
        lines.iter().for_each(|line| say(line));
    }
    Ok(0)
}

/// Assembles one array; `None` in a dry run.
pub(super) fn one(
    args: &AssembleArgs,
    request: &AssembleRequest,
    reach: &Reach,
    quiet: bool,
) -> Result<Option<ArrayDoc>, Failure> {
    if args.dry_run {
        let lines = dry_run(request).map_err(|error| from_doc(&error))?;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        print(&text)?;
        return Ok(None);
    }
    // After a daemon was killed, this array is started as it is asked for here.
    reach.revive_without(&request.devices)?;
    let started: StartedDoc = reach.post_to_daemon("/v1/assemble", request)?;
    if !quiet {
        started.messages.iter().for_each(|line| say(line));
    }
    Ok(Some(started.array))
}

/// The request behind the options.
fn request(args: &StartArgs) -> Result<AssembleRequest, Failure> {
    let mut targets = args.targets.as_slice();
    let mut name = None;
    if let Some((first, rest)) = targets.split_first()
        && values::is_array_name(first)
    {
        name = Some(values::array_name(first)?);
        targets = rest;
    }
    let devices = targets
        .iter()
        .map(|path| absolute(path))
        .collect::<Result<_, _>>()?;
    Ok(AssembleRequest {
        name,
        uuid: args
            .uuid
            .as_deref()
            .map(values::uuid)
            .transpose()?
            .map(|uuid| uuid.to_string()),
        set_name: args.name.clone(),
        update: None,
        nodes: None,
        homehost: None,
        metadata: None,
        devices,
        force: args.force,
        start_dirty_degraded: args.start_dirty_degraded,
        run: args.run,
        no_degraded: false,
        readonly: args.readonly,
        read_auto: args.read_auto,
        bitmap_file: args
            .bitmap
            .as_deref()
            .map(values::bitmap_file)
            .transpose()?,
        overlay: match &args.overlay {
            Some(dir) => Some(overlay_dir(dir)?),
            None => None,
        },
        io_engine: args.io_engine.clone(),
        faults: args.fault.clone(),
        cluster: None,
    })
}

fn absolute(path: &str) -> Result<String, Failure> {
    let path = values::absolute(path)?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(format!("{} is not a UTF-8 path", path.display())))
}

fn overlay_dir(dir: &Path) -> Result<String, Failure> {
    let text = dir
        .to_str()
        .ok_or_else(|| Failure::usage(format!("{} is not a UTF-8 path", dir.display())))?;
    absolute(text)
}

/// `--scan`: one array for every UUID found on the devices given.
fn scan(args: &AssembleArgs, request: AssembleRequest, reach: &Reach, quiet: bool) -> Outcome {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut order = Vec::new();
    for device in &request.devices {
        let uuid = match uuid_of(device) {
            Ok(Some(uuid)) => uuid,
            Ok(None) => continue,
            Err(text) => {
                say(&text);
                continue;
            }
        };
        if request.uuid.as_ref().is_some_and(|wanted| *wanted != uuid) {
            continue;
        }
        if !groups.contains_key(&uuid) {
            order.push(uuid.clone());
        }
        groups.entry(uuid).or_default().push(device.clone());
    }
    if order.len() > 1 && request.name.is_some() {
        return Err(Failure::usage("several arrays cannot run under one name"));
    }
    let mut arrays = Vec::new();
    let mut code = 0;
    for uuid in &order {
        let one_request = AssembleRequest {
            uuid: Some(uuid.clone()),
            devices: groups.remove(uuid).unwrap_or_default(),
            ..request.clone()
        };
        match one(args, &one_request, reach, quiet) {
            Ok(array) => arrays.extend(array),
            Err(failure) => {
                say(&failure.text);
                code = failure.code;
            }
        }
    }
    if order.is_empty() {
        return Err(Failure::failed(by_config::NO_ARRAYS));
    }
    if args.json && !args.dry_run {
        let schema = crate::api::SCHEMA;
        print_json(&crate::api::ArraysDoc { schema, arrays })?;
    }
    Ok(code)
}

fn uuid_of(device: &str) -> Result<Option<String>, String> {
    let file =
        member::open(Path::new(device), Mode::Examine, Engine::Auto).map_err(open::open_text)?;
    let found =
        open::superblock(&file, None).map_err(|error| format!("cannot read {device}: {error}"))?;
    Ok(found.map(|found| found.set_uuid().to_string()))
}

/// What assembling would do, without doing it: nothing is locked.
fn dry_run(request: &AssembleRequest) -> Result<Vec<String>, ErrorDoc> {
    let wishes = start::wishes(request)?;
    let how = How {
        readonly: true,
        ..How::default()
    };
    let mut opened = Vec::new();
    for device in &request.devices {
        let file = member::open(Path::new(device), Mode::Examine, how.engine)
            .map_err(|error| ErrorDoc::new(open::open_text(error)))?;
        opened.push(Opened {
            name: device.clone(),
            file,
        });
    }
    let (updates, wishes) = start::updated(&opened, request, wishes)?;
    let lines = updates
        .iter()
        .flat_map(|prepared| prepared.describe(&opened))
        .collect();
    let wishes = match updates {
        Some(prepared) => Wishes {
            facts: Some(prepared.into_facts()),
            ..wishes
        },
        None => wishes,
    };
    describe_start(request, &opened, &wishes, lines)
}

/// The lines of a dry run, behind those of what is updated first.
fn describe_start(
    request: &AssembleRequest,
    opened: &[Opened],
    wishes: &Wishes,
    before: Vec<String>,
) -> Result<Vec<String>, ErrorDoc> {
    let Planned {
        plan,
        name,
        messages,
        facts,
    } = start::plan(opened, wishes)?;
    let path = |id: MemberId| opened[id.0 as usize].name.as_str();
    let mut lines = before;
    let updates = !lines.is_empty();
    lines.extend(messages);
    lines.push(format!(
        "would start {name} ({} {}) with {}",
        plan.level,
        plan.uuid,
        plan.drives()
    ));
    for (slot, holder) in plan.slots.iter().enumerate() {
        lines.push(match holder {
            SlotPlan::InSync(id) => format!("slot {slot}: {} in sync", path(*id)),
            SlotPlan::Recovering {
                member,
                from_sectors,
                ..
            } => format!(
                "slot {slot}: {} rebuilt from sector {from_sectors}",
                path(*member)
            ),
            SlotPlan::Stale(id) => format!("slot {slot}: empty, {} is out of date", path(*id)),
            SlotPlan::Missing => format!("slot {slot}: empty"),
        });
    }
    for one in &plan.replacements {
        let (slot, from, new) = (one.slot.0, one.from_sectors, path(one.member));
        lines.push(format!(
            "slot {slot}: {new} replaces the member there, filled from sector {from}"
        ));
    }
    lines.extend(plan.spares.iter().map(|id| format!("spare: {}", path(*id))));
    if plan.is_unclean() && !request.readonly {
        let from = plan.resync_offset_sectors;
        lines.push(format!("would resync from sector {from} of every member"));
    }
    if !plan.forced.is_empty() || plan.marked_clean {
        for fact in &facts {
            if let Ok(superblock) = &fact.superblock {
                let sector = superblock.fields.super_offset_sectors;
                lines.push(format!(
                    "would write a superblock at sector {sector} of {}",
                    fact.name
                ));
            }
        }
    } else if !updates {
        lines.push("nothing would be written before the first change".to_owned());
    }
    if let Some(dir) = &request.overlay {
        lines.push(format!(
            "writes would go to copy-on-write files in {dir} (what they hold is not looked at here)"
        ));
    }
    Ok(lines)
}

/// Runs `umd serve`.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn serve(args: &ServeArgs, common: &Common, reach: &Reach) -> Outcome {
    let request = request(&args.start)?;
    if request.devices.is_empty() {
        return Err(Failure::usage(
            "no devices were named to serve an array from",
        ));
    }
    // Which is the control socket its name says, or its path, which the array's name is in.
    let control = request.name.as_ref();
    let control = control.map(|name| reach.runtime.serve_control(name));
    let passed = passed::take(&control.unwrap_or_default())?;
    let find = |name| match passed.control {
        Some(_) => reach.running_daemon(), // Who asks there waits for us.
        None => reach.find(name),
    };
    if let Some(name) = &request.name
        && find(name)?.is_some_and(|mut client| {
            client
                .get::<ArrayDoc>(&format!("/v1/arrays/{name}"))
                .is_ok()
        })
    {
        return Err(Failure::failed(format!(
            "an array named {name} is running already"
        )));
    }
    let doors = doors(&args.doors)?;
    let options = ServeOptions {
        runtime: reach.runtime.clone(),
        must_register: common.runtime_dir.is_some(),
        doors,
        request,
        quiet: common.quiet,
    };
    let served = process::serve(options, passed);
    served.map_err(|failure| reach.name_holder(failure))
}

/// Doors, as they were asked for.
///
/// # Errors
/// When an address is none.
pub fn doors(args: &DoorArgs) -> Result<DoorOptions, Failure> {
    addresses(&args.nbd)?;
    let tls = args.tls.as_deref().map(|dir| {
        Ok::<_, Failure>(TlsOptions {
            dir: whole_path(dir)?,
            any_client: args.tls_any_client,
        })
    });
    Ok(DoorOptions {
        nbd: args.nbd.clone(),
        tls: tls.transpose()?,
        ..DoorOptions::default()
    })
}

/// Addresses of doors.
///
/// # Errors
/// When one is no address.
pub fn addresses(texts: &[String]) -> Result<Vec<Address>, Failure> {
    let parsed = texts.iter().map(|text| text.parse::<Address>());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(targets: &[&str]) -> StartArgs {
        StartArgs {
            targets: targets.iter().map(|word| (*word).to_owned()).collect(),
            uuid: None,
            name: None,
            force: false,
            start_dirty_degraded: false,
            run: false,
            readonly: false,
            read_auto: false,
            bitmap: None,
            overlay: None,
            io_engine: None,
            fault: Vec::new(),
        }
    }

    #[test]
    fn the_first_word_is_a_name_unless_it_is_a_file() {
        let request = request(&args(&["r5", "/x/a", "/x/b"])).expect("a request");
        assert_eq!(request.name.as_deref(), Some("r5"));
        assert_eq!(request.devices, ["/x/a", "/x/b"]);
        let request = super::request(&args(&["/x/a", "/x/b"])).expect("a request");
        assert_eq!(request.name, None);
        assert_eq!(request.devices.len(), 2);
        let request = super::request(&args(&["/dev/md0", "/x/a"])).expect("a request");
        assert_eq!(request.name.as_deref(), Some("md0"));
    }
}
