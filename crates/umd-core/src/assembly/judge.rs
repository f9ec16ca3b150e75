//! Who is up to date.
//!
//! ```text
//!                 no slot of its own ------------------------------> spare, or ignored
//!   candidate --> newest events? --yes--> called failed by an equal? --yes--> stale
//!                      |                        | each calls the other: split brain, refused
//!                      no                       no -----------------------------> current
//!                      |
//!                      +--> disowned by a fresher member, two or more updates behind, or calling
//!                           a current member failed? --yes--> stale        no --> current
//! ```

use umd_format::v1::{Features, Fields, Node};
use umd_format::{Level, Role};

use super::refusal::RefusalKind;
use super::reshape::{self, is_one_step};
use super::select::{Candidate, Selection};
use crate::value::{Exhibit, Museum};

/// The verdict on all candidates.
#[derive(Debug, Default)]
pub(super) struct Judgement<'a> {
    /// The member whose word on the array counts; none when no member with a slot is up to date.
    pub reference: Option<Candidate<'a>>,
    /// Where the array is in sync from, by the word of the freshest.
    pub resync_offset_sectors: u64,
    /// Members with a slot and valid data (or data valid up to their recovery offset).
    pub current: Vec<Candidate<'a>>,
    /// Members with a slot whose data is out of date.
    pub stale: Vec<Stale<'a>>,
    /// Members that claim no slot, usable as spares as far as freshness goes.
    pub spares: Vec<Candidate<'a>>,
    /// Members that are of no use, not even by force.
    pub useless: Vec<(Candidate<'a>, String)>,
    /// Sentences about doubtful members that were accepted.
    pub warnings: Vec<String>,
}

/// An out-of-date member.
#[derive(Debug)]
pub(super) struct Stale<'a> {
    pub candidate: Candidate<'a>,
    /// A sentence.
    pub why: String,
}

/// Judges the members of one array.
pub(super) fn judge<'a>(
    selection: &Selection<'a>,
    museum: Museum,
) -> Result<Judgement<'a>, RefusalKind> {
    let candidates = &selection.candidates;
    same_creation(candidates)?;
    let all = [candidates.as_slice(), &selection.witnesses].concat();
    let mut verdict = Judgement::default();
    let mut rest: Vec<Candidate<'a>> = Vec::new();
    for candidate in candidates {
        match candidate.slot() {
            Some(_) => rest.push(*candidate),
            None => without_slot(*candidate, &mut verdict),
        }
    }
    while let Some(newest) = rest.iter().map(Candidate::events).max() {
        let (top, older): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|one| one.events() == newest);
        rest = older;
        if elect(&top, &all, &mut verdict)? {
            break;
        }
    }
    let elected = verdict.current.len();
    for candidate in rest {
        judge_older(candidate, elected, (&all, museum), &mut verdict);
    }
    one_per_slot(&verdict.current)?;
    without_source(&mut verdict);
    Ok(verdict)
}

/// Members that agree on the identity but not on the creation are of two arrays after all: one
/// was made anew with the old identity.
fn same_creation(candidates: &[Candidate<'_>]) -> Result<(), RefusalKind> {
    for pair in candidates.windows(2) {
        if pair[0].superblock.fields.ctime != pair[1].superblock.fields.ctime {
            return Err(contradiction(&pair[0], &pair[1], "creation time"));
        }
    }
    Ok(())
}

fn contradiction(a: &Candidate<'_>, b: &Candidate<'_>, what: &str) -> RefusalKind {
    RefusalKind::Contradiction {
        a: a.name().to_owned(),
        b: b.name().to_owned(),
        what: what.to_owned(),
    }
}

fn without_slot<'a>(candidate: Candidate<'a>, verdict: &mut Judgement<'a>) {
    let name = candidate.name();
    match candidate.superblock.fields.own_role() {
        Role::Faulty => {
            let text = format!("ignoring {name}: it is marked faulty in its own superblock");
            verdict.useless.push((candidate, text));
        }
        Role::Journal => {
            let text = format!("ignoring {name}: journals are not supported yet");
            verdict.useless.push((candidate, text));
        }
        Role::Spare | Role::Active(_) => verdict.spares.push(candidate),
    }
}

/// True when `x` does not give `y` the slot that `y` claims.
fn disowns(x: &Candidate<'_>, y: &Candidate<'_>) -> bool {
    let claimed = y.slot().expect("only members with a slot are judged");
    x.superblock.fields.role_of(y.number()) != Role::Active(claimed)
}

/// A member with more events, with or without a slot, usable or not, that disowns `y`: the
/// freshest such one.
fn fresher_witness<'a>(y: &Candidate<'_>, all: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    all.iter()
        .filter(|x| x.events() > y.events() && disowns(x, y))
        .max_by_key(|x| (x.events(), std::cmp::Reverse(x.facts.id)))
        .copied()
}

/// Judges members with equal, so far newest events, and finds the reference among them. False
/// when a fresher one, which is not among them, disowns them all, so that older members have to
/// be looked at.
fn elect<'a>(
    top: &[Candidate<'a>],
    all: &[Candidate<'a>],
    verdict: &mut Judgement<'a>,
) -> Result<bool, RefusalKind> {
    let accuser_of = |y: &Candidate<'a>| {
        top.iter()
            .find(|x| x.facts.id != y.facts.id && disowns(x, y))
            .copied()
    };
    let split_brain = |a: &Candidate<'_>, b: &Candidate<'_>| RefusalKind::SplitBrain {
        a: a.name().to_owned(),
        b: b.name().to_owned(),
    };
    for (index, a) in top.iter().enumerate() {
        if let Some(b) = top[index + 1..]
            .iter()
            .find(|b| disowns(a, b) && disowns(b, a))
        {
            return Err(split_brain(a, b));
        }
    }
    let mut survivors = Vec::new();
    let mut witnessed = false;
    let mut accused = None;
    for y in top {
        if let Some(x) = fresher_witness(y, all) {
            witnessed = true;
            verdict.stale.push(disowned(*y, &x));
        } else if let Some(x) = accuser_of(y) {
            accused = accused.or(Some((*y, x)));
            verdict.stale.push(disowned(*y, &x));
        } else {
            survivors.push(*y);
        }
    }
    let lowest = survivors
        .iter()
        .min_by_key(|one| (one.is_replacement(), one.slot(), one.facts.id))
        .copied();
    let Some(reference) = lowest else {
        // Each of them is called failed by another one of them, in a ring.
        return match accused {
            Some((y, x)) if !witnessed => Err(split_brain(&y, &x)),
            _ => Ok(false),
        };
    };
    for other in &survivors {
        if let Some(what) = difference(&reference, other) {
            return Err(contradiction(&reference, other, what));
        }
    }
    let resync_offset = |one: &Candidate<'_>| one.superblock.fields.resync_offset_sectors;
    verdict.resync_offset_sectors = survivors
        .iter()
        .map(resync_offset)
        .min()
        .expect("the reference is among them");
    verdict.reference = Some(reference);
    verdict.current = survivors;
    Ok(true)
}

fn disowned<'a>(candidate: Candidate<'a>, witness: &Candidate<'_>) -> Stale<'a> {
    let slot = candidate
        .slot()
        .expect("only members with a slot are judged");
    let fate = match witness.superblock.fields.role_of(candidate.number()) {
        Role::Faulty => "has failed",
        _ => "is no longer a member there",
    };
    let (name, other) = (candidate.name(), witness.name());
    let (mine, newer) = (candidate.events(), witness.events());
    let mut why = format!(
        "ignoring {name} (slot {slot}, events {mine}): {other} (events {newer}) says that it {fate}"
    );
    if witness.slot().is_some() && disowns(&candidate, witness) {
        why.push_str(&format!(
            ", and it says the same of {other}: both went on alone, so it may hold data that \
             {other} lacks"
        ));
    }
    Stale { candidate, why }
}

/// Judges a member with fewer events than the reference, if there is one. `elected` is the
/// number of current members that have the newest events.
fn judge_older<'a>(
    candidate: Candidate<'a>,
    elected: usize,
    (all, museum): (&[Candidate<'a>], Museum),
    verdict: &mut Judgement<'a>,
) {
    let name = candidate.name();
    let Some(reference) = verdict.reference else {
        let why = format!("ignoring {name}: no member knows how recent it is");
        verdict.stale.push(Stale { candidate, why });
        return;
    };
    let (new, old) = (&reference.superblock.fields, &candidate.superblock.fields);
    let next = reference.events() - candidate.events() == 1;
    let one_step = next && is_one_step(new, old);
    let candidate = match one_step {
        true => renamed(candidate, &reference),
        false => candidate,
    };
    if let Some(what) = difference(&reference, &candidate).filter(|_| !one_step) {
        let text = format!(
            "ignoring {name}: its {what} is not that of {}",
            reference.name()
        );
        verdict.useless.push((candidate, text));
        return;
    }
    let (mine, newest) = (candidate.events(), reference.events());
    // M54 (dc1cc22ed58f): a member one update behind was taken without asking whether that update
    // said that it had failed.
    let unasked = newest - mine <= 1 && museum.on(Exhibit::M54);
    let witness = fresher_witness(&candidate, all).filter(|_| !unasked);
    if let Some(witness) = witness {
        verdict.stale.push(disowned(candidate, &witness));
        return;
    }
    if newest - mine > 1 {
        let behind = newest - mine;
        let fresher = reference.name();
        let why =
            format!("ignoring {name}: its events {mine} are {behind} behind those of {fresher}");
        verdict.stale.push(Stale { candidate, why });
        return;
    }
    let newcomers = &verdict.current[..elected];
    if let Some(other) = newcomers
        .iter()
        .find(|other| calls_failed(&candidate, other, museum))
    {
        let why = format!("ignoring {name} as it reports {} as failed", other.name());
        verdict.stale.push(Stale { candidate, why });
        return;
    }
    verdict.warnings.push(format!(
        "{name} is one update behind {} and is accepted, because no fresher member says otherwise",
        reference.name()
    ));
    verdict.current.push(candidate);
}

/// True when the older `x` says that the newer `y` was lost, and not merely that it has not yet
/// joined (a member that is being rebuilt may have joined with the newest update).
fn calls_failed(x: &Candidate<'_>, y: &Candidate<'_>, museum: Museum) -> bool {
    let joined_late = y
        .superblock
        .fields
        .features
        .contains(Features::RECOVERY_OFFSET);
    // U27: with metadata 0.90 whoever had not heard of the end of a rebuild was out of date.
    let is_spare = !museum.on(Exhibit::U27) && knows_as_spare(x, y);
    let role = x.superblock.fields.role_of(y.number());
    let elsewhere = slots_differ(x, y) && matches!(role, Role::Active(_));
    disowns(x, y) && !joined_late && !is_spare && !elsewhere
}

/// Whether the number of slots of a RAID1 was changed between the two: members may have moved to
/// other slots, which hold the same.
fn slots_differ(x: &Candidate<'_>, y: &Candidate<'_>) -> bool {
    let (a, b) = (&x.superblock.fields, &y.superblock.fields);
    a.level == Level::Raid1 && b.level == Level::Raid1 && a.raid_disks != b.raid_disks
}

/// A member that a change of the number of slots has not reached, as the reference knows it.
fn renamed<'a>(candidate: Candidate<'a>, reference: &Candidate<'_>) -> Candidate<'a> {
    let fields = &reference.superblock.fields;
    let slot = match fields.role_of(candidate.number()) {
        Role::Active(slot) if u32::from(slot) < fields.raid_disks => Some(slot),
        _ => None,
    };
    let moved = slot.filter(|_| slots_differ(&candidate, reference));
    Candidate { moved, ..candidate }
}

/// Whether `x` lists `y` among the spares. Version 0.90 does so with members that are being
/// rebuilt, and gives them another number with the update that says that they are whole.
fn knows_as_spare(x: &Candidate<'_>, y: &Candidate<'_>) -> bool {
    let fields = &y.superblock.fields;
    if y.superblock.format().keeps_members_apart() || fields.node == Node::default() {
        return false;
    }
    let listed = &x.superblock.fields.listed;
    let mut same = listed.iter().filter(|one| one.node == fields.node);
    same.any(|one| one.role == Role::Spare)
}

/// What of the array's description differs between two members.
pub(super) fn difference(a: &Candidate<'_>, b: &Candidate<'_>) -> Option<&'static str> {
    let same_version = a.superblock.format() == b.superblock.format();
    let (a, b) = (&a.superblock.fields, &b.superblock.fields);
    let raid0_layout = |one: &Fields| one.features.contains(Features::RAID0_LAYOUT);
    let checks = [
        ("metadata version", same_version),
        ("level", a.level == b.level),
        (
            "layout",
            a.layout == b.layout && raid0_layout(a) == raid0_layout(b),
        ),
        ("chunk size", a.chunk_sectors == b.chunk_sectors),
        ("number of devices", a.raid_disks == b.raid_disks),
        ("size", a.size_sectors == b.size_sectors),
        ("reshape", reshape::is_same(a, b)),
    ];
    checks
        .into_iter()
        .find(|(_, equal)| !equal)
        .map(|(what, _)| what)
}

/// Who is to replace a member that is being rebuilt itself has nothing to be filled from.
fn without_source(verdict: &mut Judgement<'_>) {
    let partly = |one: &Candidate<'_>| {
        let features = one.superblock.fields.features;
        !one.is_replacement() && features.contains(Features::RECOVERY_OFFSET)
    };
    let rebuilt = verdict.current.iter().filter(|one| partly(one));
    let rebuilt: Vec<Candidate<'_>> = rebuilt.copied().collect();
    for old in rebuilt {
        let current = std::mem::take(&mut verdict.current);
        let (useless, kept): (Vec<_>, Vec<_>) = current
            .into_iter()
            .partition(|new| new.is_replacement() && new.slot() == old.slot());
        verdict.current = kept;
        for new in useless {
            let (new_name, old_name) = (new.name(), old.name());
            let text = format!(
                "ignoring {new_name}: it was to replace {old_name}, which is being rebuilt itself"
            );
            verdict.useless.push((new, text));
        }
    }
}

fn one_per_slot(current: &[Candidate<'_>]) -> Result<(), RefusalKind> {
    for (index, a) in current.iter().enumerate() {
        let slot = a.slot().expect("current members have a slot");
        // Who serves and who replaces it share a slot, and nothing else.
        let number = |one: &Candidate<'_>| one.superblock.fields.dev_number;
        let apart =
            |b: &Candidate<'_>| a.is_replacement() != b.is_replacement() && number(a) != number(b);
        let same = |b: &&Candidate<'_>| b.slot() == Some(slot) && !apart(b);
        if let Some(b) = current[index + 1..].iter().find(same) {
            let (a, b) = (a.name().to_owned(), b.name().to_owned());
            return Err(RefusalKind::SameSlot { a, b, slot });
        }
    }
    Ok(())
}
