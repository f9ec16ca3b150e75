//! `umd grow`: what a running array is made with is changed: its level and layout, its bitmap, and
//! how level faulty fails, how many devices a RAID1 has, and how much of them it uses.

use umd_core::geometry::{Shape, convert};
use umd_format::update::join::NODES_DEFAULT;
use umd_format::{FaultyLayout, Level};

use super::args::GrowArgs;
use super::outcome::{Failure, Outcome, print, print_json, say};
use super::reach::Reach;
use super::values::{self, BitmapWord};
use crate::api::{BitmapRequest, DoneDoc, LayoutRequest, LegsRequest, LevelRequest, SizeRequest};
use crate::daemon::legs::no_change;
use crate::daemon::level::wish;
use crate::daemon::rebit::company;
use crate::doc::ArrayDoc;
use crate::words;

/// What is to change.
enum Change {
    Bitmap(BitmapRequest),
    Layout(FaultyLayout),
    Level(LevelRequest),
    Legs(LegsRequest),
    Size(SizeRequest),
}

/// Runs the command.
///
/// # Errors
/// With the exit code and sentence for the user.
pub fn run(args: &GrowArgs, reach: &Reach, quiet: bool) -> Outcome {
    let name = match &args.targets[..] {
        [] => {
            return Err(Failure::usage("an md device must be given in this mode"));
        }
        [name] => values::array_name(name)?,
        [name, ..] if args.add => values::array_name(name)?,
        [_, other, ..] => {
            return Err(Failure::usage(format!(
                "{other}: devices are put in with umd manage --add, or for a new level, or for \
                 --raid-devices, with umd grow --add"
            )));
        }
    };
    let change = change(args)?;
    if args.dry_run {
        let array = reach.detail(&name)?;
        for line in planned(&array, &change)? {
            print(&format!("{line}\n"))?;
        }
        return Ok(0);
    }
    let done: DoneDoc = match &change {
        Change::Bitmap(request) => reach.post(&name, "bitmap", request)?,
        Change::Layout(layout) => {
            let layout = layout.to_string();
            reach.post(&name, "layout", &LayoutRequest { layout })?
        }
        Change::Level(request) => reach.post(&name, "level", request)?,
        Change::Legs(request) => reach.post(&name, "raid-devices", request)?,
        Change::Size(request) => reach.post(&name, "size", request)?,
    };
    if !quiet {
        done.messages.iter().for_each(|line| say(line));
    }
    if args.json {
        print_json(&reach.detail(&name)?)?;
    }
    Ok(0)
}

fn change(args: &GrowArgs) -> Result<Change, Failure> {
    let faulty = match &args.level {
        Some(word) => words::level_number(word) == Some(-5),
        None => false,
    };
    // What no mode is called may be a layout of another level.
    let mode = args.layout.as_deref().map(FaultyLayout::from_word);
    let level = args.level.is_some() && !faulty;
    let later = [
        ("--chunk", args.chunk.is_some()),
        ("--consistency-policy", args.consistency_policy.is_some()),
    ];
    if let Some((option, _)) = later.iter().find(|(_, given)| *given) {
        return Err(Failure::usage(format!(
            "grow {option} (reshape) is not available in this version"
        )));
    }
    let word = args.bitmap.as_deref().map(values::bitmap).transpose()?;
    about_clusters(args, word == Some(BitmapWord::Clustered))?;
    if let Some(size) = &args.size {
        return size_request(args, size).map(Change::Size);
    }
    if level || mode == Some(None) && !faulty {
        return level_request(args).map(Change::Level);
    }
    if let Some(count) = &args.raid_devices {
        return legs_request(args, count).map(Change::Legs);
    }
    if args.add {
        return Err(Failure::usage(
            "devices are put in with umd manage --add, or with --add for a new level or for \
             --raid-devices",
        ));
    }
    match mode {
        None if faulty => Err(Failure::usage(
            "how is it to fail from now on? --layout=rt100, --layout=clear",
        )),
        None => bitmap(args).map(Change::Bitmap),
        Some(_) if about_bitmaps(args) => Err(Failure::usage(
            "--layout and --bitmap cannot be given together: level faulty has no bitmap",
        )),
        Some(mode) => {
            let word = args.layout.as_deref().unwrap_or_default();
            let text = || Failure::usage(format!("layout {word} not understood for faulty."));
            mode.map(Change::Layout).ok_or_else(text)
        }
    }
}

fn size_request(args: &GrowArgs, size: &str) -> Result<SizeRequest, Failure> {
    let other = args.level.is_some() || args.layout.is_some() || args.raid_devices.is_some();
    let other = other || args.add;
    if other || about_bitmaps(args) {
        return Err(Failure::usage(
            "--size, --raid-devices, --level, --layout and --bitmap are changed one after the \
             other",
        ));
    }
    let sectors = values::size_sectors(size)?;
    Ok(SizeRequest { sectors })
}

fn level_request(args: &GrowArgs) -> Result<LevelRequest, Failure> {
    let bitmap = [&args.bitmap, &args.bitmap_chunk, &args.write_behind];
    if bitmap.iter().any(|option| option.is_some()) {
        return Err(Failure::usage(
            "--level, --layout and --bitmap are changed one after the other",
        ));
    }
    if let Some(word) = &args.level {
        values::level(word)?;
    }
    let count = args.raid_devices.as_deref().map(values::raid_devices);
    Ok(LevelRequest {
        level: args.level.clone(),
        layout: args.layout.clone(),
        raid_devices: count.transpose()?,
        devices: coming(args)?,
        force: args.force,
    })
}

/// Devices that are put in, by absolute paths.
fn coming(args: &GrowArgs) -> Result<Vec<String>, Failure> {
    let devices = args.targets.iter().skip(1);
    let devices = devices.map(|one| Ok(values::absolute(one)?.display().to_string()));
    devices.collect()
}

fn legs_request(args: &GrowArgs, count: &str) -> Result<LegsRequest, Failure> {
    let bitmap = [&args.bitmap, &args.bitmap_chunk, &args.write_behind];
    let other = args.level.is_some() || args.layout.is_some();
    if other || bitmap.iter().any(|option| option.is_some()) {
        return Err(Failure::usage(
            "--raid-devices, --layout and --bitmap are changed one after the other",
        ));
    }
    let raid_devices = values::raid_devices(count)?;
    if raid_devices == 1 && !args.force {
        return Err(super::create::unusual());
    }
    let devices = coming(args)?;
    if args.add && devices.is_empty() {
        return Err(Failure::usage(
            "--add needs the devices that are to be added",
        ));
    }
    Ok(LegsRequest {
        raid_devices,
        devices,
        force: args.force,
    })
}

/// Whether anything was said that only a bitmap has.
fn about_bitmaps(args: &GrowArgs) -> bool {
    let given = [&args.bitmap, &args.bitmap_chunk, &args.write_behind];
    args.force || given.iter().any(|option| option.is_some())
}

/// What is said of a cluster is for an array that joins one.
fn about_clusters(args: &GrowArgs, clustered: bool) -> Result<(), Failure> {
    let given = [
        ("--nodes", args.nodes.is_some()),
        ("--home-cluster", args.cluster.home_cluster.is_some()),
        ("--cluster-engine", args.cluster.cluster_engine.is_some()),
        ("--cluster-server", !args.cluster.cluster_server.is_empty()),
        ("--cluster-node", args.cluster.cluster_node.is_some()),
        ("--cluster-tls", args.cluster.cluster_tls.is_some()),
        ("--cluster-login", args.cluster.cluster_login.is_some()),
        ("--cluster-fence", args.cluster.cluster_fence.is_some()),
        ("--cluster-reservations", args.cluster.cluster_reservations),
        (
            "--cluster-watchdog",
            args.cluster.cluster_watchdog.is_some(),
        ),
    ];
    match given.iter().find(|(_, given)| *given && !clustered) {
        Some((option, _)) => Err(Failure::usage(format!("{option} needs --bitmap=clustered"))),
        None => Ok(()),
    }
}

/// A plain array becomes one of a cluster.
fn joining(args: &GrowArgs) -> Result<BitmapRequest, Failure> {
    let nodes = args.nodes.as_deref().map(values::nodes).transpose()?;
    let cluster = super::cluster::request(&args.cluster, None, None)?;
    let cluster = cluster.ok_or_else(|| {
        Failure::usage(
            "an array that runs is a node of its cluster at once: say how, with \
             --cluster-engine=etcd --cluster-server=URL, or --cluster-engine=memory where no other \
             host runs it",
        )
    })?;
    let other = [
        ("--bitmap-chunk", args.bitmap_chunk.is_some()),
        ("--write-behind", args.write_behind.is_some()),
        ("--force", args.force),
    ];
    if let Some((option, _)) = other.iter().find(|(_, given)| *given) {
        return Err(Failure::usage(format!(
            "{option} does not go with --bitmap=clustered and --cluster-engine"
        )));
    }
    Ok(BitmapRequest {
        clustered: true,
        cluster: Some(cluster),
        nodes,
        ..BitmapRequest::default()
    })
}

/// Another chunk for the bitmaps of a cluster's nodes.
fn chunk(args: &GrowArgs, chunk: &str) -> Result<BitmapRequest, Failure> {
    let other = [
        ("--write-behind", args.write_behind.is_some()),
        ("--force", args.force),
    ];
    if let Some((option, _)) = other.iter().find(|(_, given)| *given) {
        return Err(Failure::usage(format!(
            "{option} needs --bitmap=internal or --bitmap=/path/file"
        )));
    }
    Ok(BitmapRequest {
        clustered: true,
        chunk_bytes: Some(values::bitmap_chunk_bytes(chunk)?),
        ..BitmapRequest::default()
    })
}

fn bitmap(args: &GrowArgs) -> Result<BitmapRequest, Failure> {
    let word = args.bitmap.as_deref().map(values::bitmap).transpose()?;
    let joins = args.nodes.is_some() || args.cluster.cluster_engine.is_some();
    if let (None | Some(BitmapWord::Clustered), Some(size), false) =
        (&word, &args.bitmap_chunk, joins)
    {
        return chunk(args, size);
    }
    let Some(word) = word else {
        return Err(Failure::usage(
            "nothing to change: --bitmap=internal, --bitmap=/path/file or --bitmap=none?",
        ));
    };
    let (internal, file) = match word {
        BitmapWord::Internal => (true, None),
        BitmapWord::None => (false, None),
        BitmapWord::File(path) => (false, Some(path)),
        BitmapWord::Clustered => return joining(args),
        BitmapWord::Lockless => {
            return Err(Failure::usage(
                "a running array gets no lockless bitmap: it tells from the first day what was \
                 written; an internal one can be added",
            ));
        }
    };
    let chunk = args.bitmap_chunk.as_deref();
    let behind = args.write_behind.as_deref();
    if !internal && file.is_none() {
        let given = [
            ("--bitmap-chunk", chunk.is_some()),
            ("--write-behind", behind.is_some()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Failure::usage(format!(
                "{option} needs --bitmap=internal or --bitmap=/path/file"
            )));
        }
    }
    if args.force && file.is_none() {
        return Err(Failure::usage(
            "--force is for --bitmap=/path/file: it writes over a file that is there",
        ));
    }
    Ok(BitmapRequest {
        internal,
        file,
        force: args.force,
        write_behind: behind.map_or(Ok(0), values::write_behind)?,
        chunk_bytes: chunk.map(values::bitmap_chunk_bytes).transpose()?,
        ..BitmapRequest::default()
    })
}

fn planned(array: &ArrayDoc, change: &Change) -> Result<Vec<String>, Failure> {
    let name = &array.name;
    match change {
        Change::Bitmap(request) if request.cluster.is_some() => planned_join(array, request),
        Change::Bitmap(request) if request.clustered => planned_chunk(array, request),
        Change::Bitmap(request) if array.cluster.is_some() => planned_leave(array, request),
        Change::Bitmap(request) => Ok(planned_bitmap(array, request)),
        Change::Layout(layout) if array.faulty.is_some() => Ok(vec![format!(
            "would set the layout of {name} to {layout}, and write nothing: its superblock keeps \
             the one it was made with"
        )]),
        Change::Layout(_) => Err(Failure::failed(format!(
            "cannot change the layout of {name}: {} does not fail on purpose",
            array.level
        ))),
        Change::Level(request) => planned_level(array, request),
        Change::Legs(request) => planned_legs(array, request),
        Change::Size(request) => planned_size(array, request),
    }
}

fn planned_join(array: &ArrayDoc, request: &BitmapRequest) -> Result<Vec<String>, Failure> {
    let (name, wanted) = (&array.name, request.cluster.as_ref());
    let cluster = wanted.map_or("", |one| one.name.as_str());
    if let Some(already) = &array.cluster {
        let text = format!("{name} is an array of cluster '{}' already", already.name);
        return Err(Failure::failed(text));
    }
    let nodes = request.nodes.unwrap_or(NODES_DEFAULT);
    let mut lines = vec![format!(
        "would make {name} an array of cluster '{cluster}', which {nodes} nodes can run"
    )];
    lines.extend(rewritten(array, "bitmaps of all nodes"));
    Ok(lines)
}

fn planned_leave(array: &ArrayDoc, request: &BitmapRequest) -> Result<Vec<String>, Failure> {
    let name = &array.name;
    let of = array.cluster.as_ref().map_or("", |one| one.name.as_str());
    if let Some(why) = company(array) {
        let text = format!("{name} cannot leave cluster '{of}': {why}");
        return Err(Failure::failed(text));
    }
    let mut lines = vec![format!("would make {name} a plain array of this host")];
    lines.extend(rewritten(array, "bits of all nodes into one bitmap"));
    if !request.internal {
        lines.push(format!("would remove the bitmap of {name}"));
    }
    Ok(lines)
}

/// What is written to each member that works.
fn rewritten(array: &ArrayDoc, bitmaps: &str) -> Vec<String> {
    let working = array.members.iter().filter(|m| m.state != "faulty");
    let lines = working.map(|member| {
        format!(
            "would write the {bitmaps}, and the version {} superblock, of {}",
            array.metadata, member.path
        )
    });
    lines.collect()
}

fn planned_chunk(array: &ArrayDoc, request: &BitmapRequest) -> Result<Vec<String>, Failure> {
    let name = &array.name;
    if array.cluster.is_none() {
        return Err(Failure::failed(format!(
            "cannot change the bitmap of {name}: only the bitmaps of an array that a cluster runs \
             get another chunk; take this one away, and add one with --bitmap=internal \
             --bitmap-chunk"
        )));
    }
    let kib = request.chunk_bytes.unwrap_or(0) / 1024;
    Ok(vec![
        format!(
            "would let each bit of the bitmaps of {name} stand for {kib} KiB, if all its hosts can"
        ),
        "would write the bitmaps of all nodes on all members".to_owned(),
    ])
}

fn planned_legs(array: &ArrayDoc, request: &LegsRequest) -> Result<Vec<String>, Failure> {
    let (name, now, then) = (&array.name, array.raid_disks, request.raid_devices);
    let no = |why: String| Failure::failed(format!("cannot set raid_disks for {name}: {why}"));
    if array.level_number != 1 {
        let level = &array.level;
        return Err(no(format!("{level} keeps its number of devices")));
    }
    let with_slot = array.members.iter().filter(|m| m.slot.is_some());
    let (working, spares) = (with_slot.count(), array.members.iter());
    let spares = spares.filter(|m| m.state == "spare").count();
    if working > usize::from(then) {
        return Err(no(format!("{working} members work")));
    }
    let (there, more) = (spares + request.devices.len(), then.saturating_sub(now));
    if there < usize::from(more) && !request.force {
        let text = format!("{more} more needed to avoid a degraded array, and there are {there}");
        return Err(no(text));
    }
    let adds = request.devices.iter();
    let mut lines: Vec<String> = adds
        .map(|device| format!("would add {device} to {name}"))
        .collect();
    if now == then {
        lines.push(no_change(name));
        return Ok(lines);
    }
    lines.push(format!("would set raid_disks for {name} to {then}"));
    let working = array.members.iter().filter(|m| m.state != "faulty");
    lines.extend(working.map(|member| {
        let (version, path) = (&array.metadata, &member.path);
        format!("would write the version {version} superblock of {path}")
    }));
    Ok(lines)
}

fn planned_size(array: &ArrayDoc, request: &SizeRequest) -> Result<Vec<String>, Failure> {
    let name = &array.name;
    if array.cluster.is_none() {
        return Err(Failure::failed(format!(
            "cannot change the size of {name}: only an array that a cluster runs gets another size \
             in this version"
        )));
    }
    let size = request.sectors.map_or_else(
        || "as much of each member as all of them have".to_owned(),
        |sectors| format!("{} KiB of each member", sectors / 2),
    );
    Ok(vec![
        format!("would use {size} for {name}, if all its hosts can"),
        "would write the superblocks of all members, and the bitmaps of all nodes".to_owned(),
    ])
}

fn planned_level(array: &ArrayDoc, request: &LevelRequest) -> Result<Vec<String>, Failure> {
    let name = &array.name;
    let wish = wish(request, array.level_number).map_err(Failure::usage)?;
    let from = Shape {
        level: Level::from_raw(array.level_number),
        layout: u32::try_from(array.layout_number).unwrap_or(0),
        raid_disks: array.raid_disks,
    };
    let made = convert(from, wish.level, wish.layout).map_err(|why| {
        Failure::failed(format!(
            "cannot change the level or layout of {name}: {why}"
        ))
    })?;
    let word = |level: Level, layout: u32| {
        let number = layout as i32;
        let known = words::layout_name(level.to_raw(), number);
        known.unwrap_or_else(|| format!("layout {layout}"))
    };
    let takes = |shape: Shape| {
        let (level, disks) = (shape.level, shape.raid_disks);
        format!("would make {name} a {level} of {disks} devices; all data stays where it is")
    };
    let mut lines = Vec::new();
    lines.extend(made.first.map(takes));
    if let Some(layout) = made.reshape {
        let level = made.first.map_or(from.level, |shape| shape.level);
        let old = made.first.map_or(from.layout, |shape| shape.layout);
        let (old, new) = (word(level, old), word(level, layout));
        lines.push(format!(
            "would reshape {name} from {old} to {new}: all data is moved on every member"
        ));
    }
    lines.extend(made.last.map(takes));
    let adds = request.devices.iter();
    lines.extend(adds.map(|device| format!("would add {device} to {name}")));
    Ok(lines)
}

fn planned_bitmap(array: &ArrayDoc, request: &BitmapRequest) -> Vec<String> {
    let name = &array.name;
    let mut lines = vec![match (request.internal, &request.file) {
        (true, _) => format!("would add a bitmap to {name}"),
        (false, Some(path)) => format!("would add a bitmap to {name}, and write it to {path}"),
        (false, None) => format!("would remove the bitmap of {name}"),
    }];
    let working = array.members.iter().filter(|m| m.state != "faulty");
    for member in working {
        if request.internal && member.slot.is_some() {
            lines.push(format!("would write a bitmap to {}", member.path));
        }
        lines.push(format!(
            "would write the version {} superblock of {}",
            array.metadata, member.path
        ));
    }
    lines
}
