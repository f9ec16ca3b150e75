//! Which of the devices are members of the array, before any question of freshness.

use umd_format::badblocks::BadBlocksError;
use umd_format::v1::Features;
use umd_format::{Role, SuperblockV1};

use super::facts::{MemberFacts, Wish};
use super::plan::Reason;
use super::refusal::RefusalKind;

/// A member of the array with a superblock that holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub facts: &'a MemberFacts,
    pub superblock: &'a SuperblockV1,
    /// A slot that it does not know of yet: it got another one with the newest update.
    pub moved: Option<u16>,
}

impl<'a> Candidate<'a> {
    /// The slot it claims for itself, if that is a slot of the array it describes; or the one that
    /// it was given since.
    pub fn slot(&self) -> Option<u16> {
        if self.moved.is_some() {
            return self.moved;
        }
        let fields = &self.superblock.fields;
        match fields.own_role() {
            Role::Active(slot) if u32::from(slot) < fields.raid_disks => Some(slot),
            _ => None,
        }
    }

    /// Whether it is to take over its slot from another member.
    pub fn is_replacement(&self) -> bool {
        let features = self.superblock.fields.features;
        features.contains(Features::REPLACEMENT) && self.slot().is_some()
    }

    pub fn events(&self) -> u64 {
        self.superblock.fields.events
    }

    pub fn number(&self) -> u32 {
        self.superblock.fields.dev_number
    }

    pub fn name(&self) -> &'a str {
        &self.facts.name
    }

    pub fn reason(&self, text: String) -> Reason {
        Reason {
            member: self.facts.id,
            text,
        }
    }
}

/// The members that can be used, and those that can only be asked about the others.
pub(super) struct Selection<'a> {
    /// In the order of their identities.
    pub candidates: Vec<Candidate<'a>>,
    /// Passed over as it cannot be told what they hold. What their superblocks say of the others
    /// counts all the same: without it, members that had failed would look fresh.
    pub witnesses: Vec<Candidate<'a>>,
}

/// Sorts the devices into those that can be used and those passed over.
pub(super) fn select<'a>(
    facts: &'a [MemberFacts],
    wish: &Wish,
    ignored: &mut Vec<Reason>,
) -> Result<Selection<'a>, RefusalKind> {
    let mut sorted: Vec<&MemberFacts> = facts.iter().collect();
    sorted.sort_by_key(|member| member.id);
    assert!(
        sorted.windows(2).all(|pair| pair[0].id != pair[1].id),
        "the driver gives every member its own identity"
    );
    let mut candidates = Vec::with_capacity(sorted.len());
    let mut witnesses = Vec::new();
    for facts in sorted {
        match &facts.superblock {
            Ok(superblock) => {
                let candidate = Candidate {
                    facts,
                    superblock,
                    moved: None,
                };
                if let Some(why) = without_log(&candidate) {
                    unusable(facts, &why, wish, ignored)?;
                    witnesses.push(candidate);
                    continue;
                }
                match other_array(&candidate, wish) {
                    None => candidates.push(candidate),
                    Some(text) => ignored.push(candidate.reason(text)),
                }
            }
            Err(why) => unusable(facts, &why.to_string(), wish, ignored)?,
        }
    }
    let Some(first) = candidates.first() else {
        return Err(RefusalKind::NoMembers);
    };
    for other in &candidates[1..] {
        one_array(first, other)?;
    }
    no_copies(&candidates)?;
    let identity = |one: &Candidate<'_>| {
        let fields = &one.superblock.fields;
        (fields.set_uuid, fields.ctime)
    };
    let array = identity(first);
    witnesses.retain(|one| identity(one) == array);
    Ok(Selection {
        candidates,
        witnesses,
    })
}

/// Why it cannot be told what a member holds: it has bad blocks, and it is not known where.
fn without_log(candidate: &Candidate<'_>) -> Option<String> {
    let features = candidate.superblock.fields.features;
    if !features.contains(Features::BAD_BLOCKS) {
        return None;
    }
    let why = match &candidate.facts.bad_blocks {
        Some(Ok(_)) => return None,
        Some(Err(why)) => why.clone(),
        None => BadBlocksError::Missing,
    };
    Some(format!(
        "{why}; leave it out, or --add it anew to have it rebuilt"
    ))
}

/// A device without a superblock stops an assembly that names it; it is passed over when the
/// user names the array instead, or insists.
fn unusable(
    facts: &MemberFacts,
    why: &str,
    wish: &Wish,
    ignored: &mut Vec<Reason>,
) -> Result<(), RefusalKind> {
    let member = facts.name.clone();
    if wish.filters() || wish.force {
        let text = format!("ignoring {member}: {why}");
        ignored.push(Reason {
            member: facts.id,
            text,
        });
        return Ok(());
    }
    Err(RefusalKind::Unusable {
        member,
        why: why.to_string(),
    })
}

/// Why the member is not of the array the user named; `None` when it is.
fn other_array(candidate: &Candidate<'_>, wish: &Wish) -> Option<String> {
    let fields = &candidate.superblock.fields;
    let name = candidate.name();
    if let Some(wanted) = wish.uuid.filter(|&wanted| wanted != fields.set_uuid) {
        return Some(format!(
            "ignoring {name}: it belongs to {}, not {wanted}",
            fields.set_uuid
        ));
    }
    let wanted = wish.name.as_deref()?;
    let stored = fields.name();
    let short = stored
        .split_once(':')
        .map_or(stored.as_str(), |(_, name)| name);
    let matches = wanted == stored || wanted == short;
    (!matches).then(|| format!("ignoring {name}: its array is named {stored}, not {wanted}"))
}

fn one_array(a: &Candidate<'_>, b: &Candidate<'_>) -> Result<(), RefusalKind> {
    let (a_uuid, b_uuid) = (a.superblock.fields.set_uuid, b.superblock.fields.set_uuid);
    if a_uuid == b_uuid {
        return Ok(());
    }
    let (a, b) = (a.name().to_owned(), b.name().to_owned());
    Err(RefusalKind::DifferentArrays {
        a,
        a_uuid,
        b,
        b_uuid,
    })
}

/// A clone must not be assembled next to its original, not even when it is older: the user has
/// to say which of them is meant.
fn no_copies(candidates: &[Candidate<'_>]) -> Result<(), RefusalKind> {
    for (index, a) in candidates.iter().enumerate() {
        let device_uuid = a.superblock.fields.device_uuid;
        let same = |b: &&Candidate<'_>| b.superblock.fields.device_uuid == device_uuid;
        if let Some(b) = candidates[index + 1..].iter().find(same) {
            let (a, b) = (a.name().to_owned(), b.name().to_owned());
            return Err(RefusalKind::Copies { a, b });
        }
    }
    Ok(())
}
