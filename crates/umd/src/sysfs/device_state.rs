//! Words written to `dev-MEMBER/state`.

use super::change::{Answer, Change};
use super::{Errno, members};
use crate::api::ManageRequest;
use crate::doc::{ArrayDoc, MemberDoc};

/// What a word asks for.
pub fn change(array: &ArrayDoc, member: &MemberDoc, word: &str) -> Answer {
    let one = |request| Ok(Change::Manage(vec![request]));
    let flag = |write_mostly, failfast| {
        one(ManageRequest {
            write_mostly,
            failfast,
            ..request(member, "flags")
        })
    };
    match word {
        "faulty" if member.state == "faulty" => Ok(Change::Nothing),
        "faulty" => one(request(member, "fail")),
        "remove" if member.slot.is_some() => Err(Errno::BUSY),
        "remove" => one(request(member, "remove")),
        "re-add" if member.state != "faulty" || member.slot.is_some() => Err(Errno::BUSY),
        // Without a bitmap nobody knows what it missed.
        "re-add" if array.bitmap.is_none() => Err(Errno::BUSY),
        "re-add" => Ok(Change::Manage(vec![
            request(member, "remove"),
            request(member, "re-add"),
        ])),
        "writemostly" => flag(Some(true), None),
        "-writemostly" => flag(Some(false), None),
        "failfast" => flag(None, Some(true)),
        "-failfast" => flag(None, Some(false)),
        "want_replacement" if member.want_replacement => Ok(Change::Nothing),
        "want_replacement" if member.slot.is_none() || member.replacement => Err(Errno::INVAL),
        "want_replacement" => one(request(member, "replace")),
        "-want_replacement" if !member.want_replacement => Ok(Change::Nothing),
        "-want_replacement" | "replacement" | "-replacement" | "blocked" => Err(Errno::BUSY),
        // No member is ever blocked, and none has refused a write and is still there.
        "-blocked" | "-write_error" => Ok(Change::Nothing),
        "write_error" => Err(Errno::BUSY),
        "insync" if member.slot.is_some() => Err(Errno::INVAL),
        "insync" | "-insync" => Err(Errno::BUSY),
        _ => Err(Errno::INVAL),
    }
}

fn request(member: &MemberDoc, operation: &str) -> ManageRequest {
    ManageRequest {
        operation: operation.to_owned(),
        device: member.path.clone(),
        with: None,
        write_mostly: None,
        failfast: None,
        force: false,
        bad_block_log: None,
    }
}

/// What is written to another attribute of a member.
pub fn attribute(array: &ArrayDoc, member: &MemberDoc, name: &str, text: &str) -> Answer {
    let number = text.parse::<u64>().ok();
    let settled = |current: u64| match number {
        None => Err(Errno::INVAL),
        Some(number) if number == current => Ok(Change::Nothing),
        Some(_) => Err(Errno::BUSY),
    };
    match name {
        "state" => change(array, member, text),
        "errors" => settled(member.corrected_read_errors.into()),
        "slot" => slot(array, member, text),
        "offset" | "new_offset" => settled(member.data_offset_bytes / 512),
        "size" => settled(member.data_size_bytes / 1024),
        "recovery_start" if text == members::recovery_start(member) => Ok(Change::Nothing),
        "recovery_start" if text == "none" => Err(Errno::BUSY),
        "recovery_start" => number.map_or(Err(Errno::INVAL), |_| Err(Errno::BUSY)),
        "ppl_sector" | "ppl_size" => settled(0),
        "bad_blocks" | "unacknowledged_bad_blocks" => bad_block(text),
        _ => Err(Errno::ACCESS),
    }
}

/// What a log names is found out by reading and writing; nobody can add to it.
fn bad_block(text: &str) -> Answer {
    let mut words = text.split(' ').map(str::parse::<u64>);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(_)), Some(Ok(1..)), None) => Err(Errno::BUSY),
        _ => Err(Errno::INVAL),
    }
}

fn slot(array: &ArrayDoc, member: &MemberDoc, text: &str) -> Answer {
    match (text, text.parse::<u16>()) {
        ("none", _) if member.slot.is_none() => Err(Errno::EXIST),
        ("none", _) => Err(Errno::BUSY),
        (_, Err(_)) => Err(Errno::INVAL),
        (_, Ok(slot)) if slot >= array.raid_disks => Err(Errno::NOSPC),
        (_, Ok(slot)) if member.slot == Some(slot) => Ok(Change::Nothing),
        // A spare takes a slot by itself, where one is empty.
        (_, Ok(_)) => Err(Errno::BUSY),
    }
}
