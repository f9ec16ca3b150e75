//! `assemble --update=cluster=NAME`: the members of a plain array become those of a clustered one.
//! Blocking; never on an array's thread.
//!
//! ```text
//!   members --locked for this process alone--> changes in memory --planned--> all written, let go
//!                                                    | no
//!                                                    '--> refused, not a byte
//! ```
//!
//! What is written, and in which order: [`umd_format::update::join`]. Who starts it then is the
//! first of its cluster, if that is done at once.

use std::path::Path;

use umd_core::assembly::{self, MemberFacts, Wish};
use umd_core::value::{MemberId, SECTOR_BYTES};
use umd_disk::Mode;
use umd_format::SuperblockV1;
use umd_format::update::join::{Before, Joined, Member, Refused, join};

use super::household::Answer;
use super::open::{self, How, Opened};
use super::start::{self, refusal_doc};
use super::update::{Planned, Prepared};
use crate::api::{AssembleRequest, ErrorDoc};
use crate::member as members;

/// The word in front of the cluster's name.
const WORD: &str = "cluster=";

fn usage(text: impl Into<String>) -> ErrorDoc {
    ErrorDoc {
        exit_code: 2,
        ..ErrorDoc::new(text)
    }
}

/// The cluster that the members of a request are to join.
pub fn cluster(request: &AssembleRequest) -> Option<&str> {
    request.update.as_deref()?.strip_prefix(WORD)
}

/// What is to be written, and what there is to say of it.
#[derive(Debug)]
pub struct Joining {
    opened: Vec<Opened>,
    prepared: Prepared,
    messages: Vec<String>,
}

/// Computes it. In a dry run nothing is locked.
///
/// # Errors
/// When the array cannot be one of that cluster, or could not start as one.
pub fn prepare(request: &AssembleRequest, dry_run: bool) -> Answer<Joining> {
    let name = cluster(request).expect("the caller looked");
    check(request)?;
    let wishes = start::wishes(request)?;
    let how = How {
        cluster: None, // No other node has them open yet.
        ..wishes.how
    };
    let opened = request.devices.iter().map(|device| match dry_run {
        true => look(device, &how),
        false => open::open(device, &how),
    });
    let opened: Vec<Opened> = opened.collect::<Result<_, _>>().map_err(ErrorDoc::new)?;
    let (prepared, messages) = of(
        &opened,
        &wishes.wish,
        (request.name.as_deref(), name, request.nodes),
    )?;
    Ok(Joining {
        opened,
        prepared,
        messages,
    })
}

/// What makes these members, all of one array that does not run, those of a cluster, and what there
/// is to say of it: `array` is what the array is called, `cluster` the cluster of so many `nodes`.
///
/// # Errors
/// When the array cannot be one of that cluster, or could not start as one.
pub fn of(
    opened: &[Opened],
    wish: &Wish,
    (array, cluster, nodes): (Option<&str>, &str, Option<u32>),
) -> Answer<(Prepared, Vec<String>)> {
    let wish = Wish {
        clustered: true,
        ..wish.clone()
    };
    let mut facts = facts_of(opened, &wish)?;
    let joined = {
        let found: Vec<&SuperblockV1> = superblocks(&facts).collect();
        let members = opened.iter().zip(found);
        let members: Vec<Member<'_>> = members.map(|(one, found)| member(one, found)).collect();
        join(&members, cluster, nodes).map_err(|why| refused(&why, opened))?
    };
    for (fact, change) in facts.iter_mut().zip(&joined.changes) {
        fact.superblock = Ok(change.superblock.clone());
        fact.bitmap = change.bitmap.clone().map(Ok);
    }
    let planned = assembly::assemble(&facts, &wish);
    planned.map_err(|refusal| {
        let mut error = refusal_doc(&refusal, array);
        error.error.push_str(" - nothing was changed");
        error
    })?;
    let messages = messages(&joined);
    Ok((prepared(joined, facts), messages))
}

fn check(request: &AssembleRequest) -> Answer<()> {
    let others = [
        ("--readonly", request.readonly || request.read_auto),
        ("--overlay", request.overlay.is_some()),
        ("--force", request.force),
        ("a bitmap in a file", request.bitmap_file.is_some()),
    ];
    if let Some((what, _)) = others.iter().find(|(_, asked)| *asked) {
        return Err(usage(format!(
            "--update=cluster=NAME does not go with {what}"
        )));
    }
    if request.devices.is_empty() {
        return Err(usage("--update=cluster=NAME needs the devices named"));
    }
    match open::named_twice(&request.devices) {
        Some(twice) => Err(ErrorDoc::new(format!("{twice} is listed more than once"))),
        None => Ok(()),
    }
}

fn look(device: &str, how: &How) -> Result<Opened, String> {
    let file = members::open(Path::new(device), Mode::Examine, how.engine);
    let name = device.to_owned();
    file.map(|file| Opened { name, file })
        .map_err(open::open_text)
}

/// What all members say: they are of one array, the one that is meant.
fn facts_of(opened: &[Opened], wish: &Wish) -> Answer<Vec<MemberFacts>> {
    let mut facts: Vec<MemberFacts> = Vec::new();
    for (one, number) in opened.iter().zip(0..) {
        let fact = open::facts(MemberId(number), one, None);
        let unfit = |why: &dyn std::fmt::Display| {
            ErrorDoc::new(format!("{}: {why}; nothing was changed", one.name))
        };
        let found = fact.superblock.as_ref().map_err(|why| unfit(why))?;
        let first = superblocks(&facts).next();
        let wanted = wish.uuid.or(first.map(|first| first.fields.set_uuid));
        let uuid = found.fields.set_uuid;
        if wanted.is_some_and(|wanted| wanted != uuid) {
            return Err(unfit(&format!("it belongs to array {uuid}")));
        }
        facts.push(fact);
    }
    Ok(facts)
}

fn superblocks(facts: &[MemberFacts]) -> impl Iterator<Item = &SuperblockV1> {
    let found = facts.iter().map(|fact| fact.superblock.as_ref());
    found.filter_map(Result::ok)
}

fn member<'a>(one: &Opened, found: &'a SuperblockV1) -> Member<'a> {
    let start = found.fields.bitmap_sector();
    let read = |sectors: u64| {
        let bytes = usize::try_from(sectors.checked_mul(SECTOR_BYTES)?).ok()?;
        one.file
            .read_at(start?.checked_mul(SECTOR_BYTES)?, bytes)
            .ok()
    };
    Member {
        found,
        before: Before::of(found, read),
        block_bytes: match one.file.is_block() {
            true => one.file.logical_block_bytes() as usize,
            false => SECTOR_BYTES as usize,
        },
    }
}

fn refused(why: &Refused, opened: &[Opened]) -> ErrorDoc {
    let member = why.member.map(|index| format!("{}: ", opened[index].name));
    let member = member.unwrap_or_default();
    usage(format!("{member}{why}; nothing was changed"))
}

fn messages(joined: &Joined) -> Vec<String> {
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let larger = joined.smaller_bytes.map(|before| {
        let (before, then) = (kib(before), kib(joined.region_bytes));
        format!(
            "each bit of its bitmaps stands for {then} KiB, and no longer for {before}: those of \
             {} nodes do not fit otherwise",
            joined.cluster.nodes
        )
    });
    larger.into_iter().collect()
}

fn prepared(joined: Joined, facts: Vec<MemberFacts>) -> Prepared {
    let changes = joined.changes.into_iter().enumerate();
    let changes = changes.filter(|(_, change)| !change.writes.is_empty());
    let planned = changes.map(|(device, change)| Planned {
        device,
        writes: change.writes,
    });
    let word = format!(
        "the cluster ('{}', {} nodes)",
        joined.cluster.name, joined.cluster.nodes
    );
    Prepared::new(word, planned.collect(), facts)
}

impl Joining {
    /// Whether each member is to be changed: then nobody can have run it as one of a cluster yet.
    pub fn is_first(&self) -> bool {
        self.prepared.changed() == self.opened.len()
    }

    /// What would be written, a line each.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = self.messages.clone();
        lines.extend(self.prepared.describe(&self.opened));
        lines
    }

    /// Writes everything; returns lines for the user. The members are let go.
    ///
    /// # Errors
    /// When a member does not take it: the sentence says which were written.
    pub fn write(mut self) -> Answer<Vec<String>> {
        let written = self.prepared.write(&self.opened)?;
        self.messages.push(written);
        Ok(self.messages)
    }
}
