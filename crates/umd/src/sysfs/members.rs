//! The directories `md/dev-MEMBER/`, and the links to them.

use super::{Entries, Node, named, writable};
use crate::doc::{ArrayDoc, MemberDoc};
use crate::text::mdstat::device_word;

const SECTOR_BYTES: u64 = 512;

/// The directories of all members, and a link for each slot that has one.
pub fn of(array: &ArrayDoc) -> Entries {
    let mut entries = Entries::new();
    for member in &array.members {
        let name = directory(array, member);
        let slot = member.slot.map(|slot| format!("rd{slot}"));
        entries.push((name.clone(), Node::Directory(attributes(member))));
        let taken = |link: &String| entries.iter().any(|(known, _)| known == link);
        // The slot of a member that is being replaced is shown by it, not by its replacement.
        let serves = !member.replacement;
        if let Some(link) = slot.filter(|link| serves && !taken(link)) {
            entries.push((link, Node::Link(name)));
        }
    }
    entries
}

/// The name of a member's directory. Members in different directories may have one name: then
/// all but the first have their number behind it.
pub fn directory(array: &ArrayDoc, member: &MemberDoc) -> String {
    let word = device_word(&member.path);
    let mut alike = array
        .members
        .iter()
        .filter(|m| device_word(&m.path) == word);
    match alike.next() {
        Some(first) if first.id != member.id => format!("dev-{word}-{}", member.number),
        _ => format!("dev-{word}"),
    }
}

/// The member of a directory.
pub fn find<'a>(array: &'a ArrayDoc, name: &str) -> Option<&'a MemberDoc> {
    let mut members = array.members.iter();
    members.find(|member| directory(array, member) == name)
}

fn attributes(member: &MemberDoc) -> Entries {
    let lines = member.bad_blocks.iter();
    let bad: String = lines
        .map(|bad| format!("{} {}\n", bad.sector, bad.len_sectors))
        .collect();
    let offset = member.data_offset_bytes / SECTOR_BYTES;
    named([
        ("state", writable(state(member))),
        ("errors", writable(member.corrected_read_errors)),
        ("slot", writable(slot(member))),
        ("offset", writable(offset)),
        ("new_offset", writable(offset)),
        ("size", writable(member.data_size_bytes / 1024)),
        ("recovery_start", writable(recovery_start(member))),
        ("bad_blocks", writable(bad)),
        ("unacknowledged_bad_blocks", writable("")),
        ("ppl_sector", writable(0)),
        ("ppl_size", writable(0)),
        ("block", Node::Link(member.path.clone())),
    ])
}

/// md's words, in its order.
pub fn state(member: &MemberDoc) -> String {
    // A member of an array that does not run counts as what its superblock says.
    let waits = member.state == "waiting" && member.slot.is_some();
    let spare = match member.state.as_str() {
        "spare" | "recovering" => true,
        "waiting" => member.slot.is_none(),
        _ => false,
    };
    let words = [
        (member.state == "faulty", "faulty"),
        (member.state == "in_sync" || waits, "in_sync"),
        (member.write_mostly, "write_mostly"),
        (spare, "spare"),
        (member.want_replacement, "want_replacement"),
        (member.replacement, "replacement"),
        (member.failfast, "failfast"),
    ];
    let set = words.into_iter().filter(|(is, _)| *is);
    set.map(|(_, word)| word).collect::<Vec<_>>().join(",")
}

/// The slot, or md's word for having none.
pub fn slot(member: &MemberDoc) -> String {
    let slot = member.slot;
    slot.map_or("none".to_owned(), |slot| slot.to_string())
}

/// Data is right below this.
pub fn recovery_start(member: &MemberDoc) -> String {
    match member.state.as_str() {
        "in_sync" | "faulty" | "waiting" => "none".to_owned(),
        _ => (member.recovered_bytes.unwrap_or(0) / SECTOR_BYTES).to_string(),
    }
}
