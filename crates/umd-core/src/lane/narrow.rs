//! A write that a member refused: tried again in parts, and what it still refuses is recorded.
//!
//! ```text
//!   write refused --+-- not the medium, no log, being replaced, rebuilt, answered: member fails
//!                   |
//!                   `-> gate --> halves of each part that failed, written again
//!                        ^  |      |
//!                        |  |      +-- all taken: the member holds it
//!                        +--|------+   down to a block
//!                           v
//!              each block that fails: do others in sync hold all of it?
//!                 |                                  |
//!                yes, and the log has room           no: the member fails
//!                 |
//!              bad from now on; a known fault until log and superblocks say so: the gate is shut,
//!              no write is answered
//! ```
//!
//! The job keeps its lock all the time. Nothing is decided outside the gate: there every failure of
//! a member is recorded, and the epoch shows who is left.

use super::ladder::{self, Proofs, Target};
use super::split::fine_middle;
use super::{Lane, Rig, bytes};
use crate::geometry::Geometry;
use crate::member::{Column, Effect, Epoch, Held, Io, Member, Members};
use crate::metadata::Metadata;
use crate::value::{Exhibit, IoDone, IoError, MemberId, Purpose, Slice};
use umd_format::v1::DeviceFlags;

/// Added to the tag of what is written again.
pub(super) const AGAIN: u32 = 1 << 31;

/// A write that is refused in more blocks is none that some bad sectors are to blame for.
const BLOCKS_MAX: usize = 256;

/// What was to be written.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Bytes(Slice, Purpose),
    Zeros { may_unmap: bool },
}

/// A part of a write that a member refused.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub slot: u16,
    pub column: Column,
    pub member_sectors: u64,
    pub len_sectors: u64,
    pub content: Content,
}

impl Part {
    fn halves(&self, at: u64) -> [Part; 2] {
        let piece = |from: u64, to: u64| Part {
            member_sectors: self.member_sectors + from,
            len_sectors: to - from,
            content: match &self.content {
                Content::Bytes(data, what) => {
                    Content::Bytes(data.sub(bytes(from)..bytes(to)), *what)
                }
                zeros @ Content::Zeros { .. } => zeros.clone(),
            },
            ..*self
        };
        [piece(0, at), piece(at, self.len_sectors)]
    }
}

/// The machine: part of a job that writes under a lock.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    /// To be written again.
    queue: Vec<Part>,
    /// What is being written; the place is in its tag.
    flying: Vec<Option<Part>>,
    left: usize,
    /// Blocks that were refused.
    blocks: Vec<Part>,
    /// Who refused something.
    members: Vec<MemberId>,
}

/// What the machine came to.
pub(super) enum Outcome {
    /// Parts are being written again.
    Writing,
    /// Every block is written, recorded, or its member is about to fail.
    Over,
}

impl Narrow {
    /// Takes a part that a member refused, if what it refuses may be recorded there. Otherwise the
    /// member is to fail.
    pub fn takes(&mut self, lane: &Lane, rig: &mut Rig<'_>, part: Part, error: &IoError) -> bool {
        let broken = rig.broken;
        let scribe = Scribe::of(&lane.geometry, rig);
        let takes = !broken && scribe.may_record(part.slot, part.column.member, error);
        if takes {
            self.refused(rig, part);
        }
        takes
    }

    /// Forgets what it did. What it has not done would be lost.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.flying.clear();
        self.left = 0;
        self.blocks.clear();
        self.members.clear();
    }

    /// Whether there is anything to be done.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.left == 0 && self.members.is_empty()
    }

    fn refused(&mut self, rig: &Rig<'_>, part: Part) {
        let member = part.column.member;
        if !self.members.contains(&member) {
            self.members.push(member);
        }
        match fine_middle(part.len_sectors, rig.members.block_sectors()) {
            Some(at) => self.queue.extend(part.halves(at)),
            None => self.blocks.push(part),
        }
    }

    /// At the gate: writes what is to be written again, or decides about what was refused.
    pub fn go_on(
        &mut self,
        lane: &Lane,
        rig: &mut Rig<'_>,
        proofs: &Proofs<'_>,
        (intent_sectors, fua, index): ((u64, u64), bool, u32),
    ) -> Outcome {
        assert_eq!(self.left, 0, "one round at a time");
        let there = |part: &Part| {
            let column = rig.epoch.column(part.slot);
            column.is_some_and(|c| c.in_sync && c.member == part.column.member)
        };
        self.queue.retain(there);
        self.blocks.retain(there);
        if self.queue.len() + self.blocks.len() > BLOCKS_MAX {
            self.give_up(rig, "write failed: media error in too many places");
            return Outcome::Over;
        }
        if self.queue.is_empty() {
            self.decide(lane, rig);
            return Outcome::Over;
        }
        self.flying.clear();
        for part in std::mem::take(&mut self.queue) {
            let tag = AGAIN | u32::try_from(self.flying.len()).expect("few parts");
            let target = Target {
                column: &part.column,
                member_sectors: part.member_sectors,
                intent_sectors,
                fua,
                owner: Lane::owner(index, tag),
            };
            match &part.content {
                Content::Bytes(data, what) => {
                    ladder::write(rig.io, proofs, &target, data.clone(), *what);
                }
                Content::Zeros { may_unmap } => {
                    ladder::write_zeroes(rig.io, proofs, &target, part.len_sectors, *may_unmap);
                }
            }
            self.flying.push(Some(part));
            self.left += 1;
        }
        Outcome::Writing
    }

    /// A part was written again, or not. Whether it was the last one of its round.
    pub fn done(
        &mut self,
        lane: &Lane,
        rig: &mut Rig<'_>,
        tag: u32,
        result: Result<IoDone, IoError>,
    ) -> bool {
        assert!(self.left > 0, "a write ended that never began");
        self.left -= 1;
        let place = &mut self.flying[(tag & !AGAIN) as usize];
        let part = place.take().expect("a part is written once");
        if let Err(error) = result {
            let member = part.column.member;
            if !self.takes(lane, rig, part, &error) {
                let why = format!("write failed: {error}");
                rig.io.effects.push(Effect::Fail(member, why));
                self.queue.retain(|part| part.column.member != member);
                self.blocks.retain(|part| part.column.member != member);
            }
        }
        self.left == 0
    }

    /// What cannot be recorded costs the member.
    pub fn give_up(&mut self, rig: &mut Rig<'_>, why: &str) {
        self.queue.clear();
        self.blocks.clear();
        for member in self.members.drain(..) {
            rig.io.effects.push(Effect::Fail(member, why.to_owned()));
        }
    }

    /// Each block that was refused is recorded, where others hold it and the log has room.
    fn decide(&mut self, lane: &Lane, rig: &mut Rig<'_>) {
        let members = std::mem::take(&mut self.members);
        let mut blocks = std::mem::take(&mut self.blocks);
        // U42: what was refused behind the first block counted as written.
        if rig.io.museum.on(Exhibit::U42) {
            blocks.truncate(1);
        }
        for member in members {
            let mut of_it = blocks.iter().filter(|part| part.column.member == member);
            let mut recorded = 0;
            let mut scribe = Scribe::of(&lane.geometry, rig);
            let lost = of_it.find(|part| {
                let run = (part.member_sectors, part.len_sectors);
                let new = scribe.record(part.slot, run);
                recorded += new.unwrap_or(0);
                new.is_none()
            });
            if lost.is_some() {
                let why = "write failed: media error, and it cannot be recorded as a bad block";
                rig.io.effects.push(Effect::Fail(member, why.into()));
            } else {
                rig.io.effects.push(Effect::Refused(member, recorded));
            }
        }
    }
}

/// Who records what members in sync refuse to write.
pub struct Scribe<'a> {
    /// What lies where.
    pub geometry: &'a Geometry,
    /// The members, as they are.
    pub epoch: &'a Epoch,
    /// The same.
    pub members: &'a Members,
    /// What is recorded counts as a fault until superblocks say so.
    pub metadata: &'a mut Metadata,
    /// Its bad blocks.
    pub io: &'a mut Io,
}

impl<'a> Scribe<'a> {
    fn of(geometry: &'a Geometry, rig: &'a mut Rig<'_>) -> Scribe<'a> {
        Scribe {
            geometry,
            epoch: rig.epoch,
            members: rig.members,
            metadata: rig.metadata,
            io: rig.io,
        }
    }

    fn held(&self) -> Held<'_> {
        Held {
            epoch: self.epoch,
            bad: &self.io.bad,
            except: None,
        }
    }

    /// Whether what this member refused with `error` may be recorded at all.
    pub fn may_record(&self, slot: u16, member: MemberId, error: &IoError) -> bool {
        let column = self.epoch.column(slot);
        let in_sync = column.is_some_and(|c| c.in_sync && c.member == member);
        let flags = |m: &Member| m.superblock.fields.flags;
        let found = self.members.get(member);
        let fast = found.is_some_and(|m| flags(m).contains(DeviceFlags::FAILFAST));
        // A leg that is to fail fast stays where it alone can give something.
        let goes = || self.held().sectors_lost_with(self.geometry, member) == 0;
        *error == IoError::Media
            && self.geometry.is_redundant()
            && in_sync
            && !(fast && self.geometry.is_mirror() && goes())
            && !self.io.is_replaced(member)
            && self.io.bad.has_log(member)
    }

    /// Records that the member in `slot` refuses this run of its data. How many sectors of it are
    /// news; `None` where others do not hold all of it, or where the log has no room.
    pub fn record(&mut self, slot: u16, (start, len): (u64, u64)) -> Option<u64> {
        let column = self.epoch.column(slot).filter(|c| c.in_sync)?;
        let from = column.data_offset_sectors + start;
        let known = self.io.bad.of(column.member);
        if known.is_some_and(|known| known.covers(from, from + len)) {
            return Some(0);
        }
        let held = self.held();
        // U41: whether the array could do without the member was asked, not whether it could do
        // without these sectors of it.
        let held =
            held.without(self.geometry, (slot, start), len) || self.io.museum.on(Exhibit::U41);
        if !held || !self.io.bad.mark(column.member, from, from + len) {
            return None;
        }
        // U40: the write was answered before its log knew.
        if !self.io.museum.on(Exhibit::U40) {
            self.metadata.note_fault();
        }
        Some(len)
    }

    /// A write by which a member was to be mended ended badly: it is recorded, or the member is to
    /// fail. Whether it was recorded.
    pub fn refused(
        &mut self,
        (slot, member): (u16, MemberId),
        run: (u64, u64),
        (what, error): (&str, &IoError),
    ) -> bool {
        let may = self.may_record(slot, member, error);
        match may.then(|| self.record(slot, run)).flatten() {
            Some(new) => self.io.effects.push(Effect::Refused(member, new)),
            None => {
                let why = format!("{what} failed: {error}");
                self.io.effects.push(Effect::Fail(member, why));
                return false;
            }
        }
        true
    }
}

/// Whether what a member refuses to be mended with may be recorded.
pub(super) fn may_record(
    lane: &Lane,
    rig: &mut Rig<'_>,
    (slot, member): (u16, MemberId),
    error: &IoError,
) -> bool {
    Scribe::of(&lane.geometry, rig).may_record(slot, member, error)
}

/// A job's write by which a member was to be mended ended badly: see [`Scribe::refused`].
pub(super) fn mending_refused(
    lane: &Lane,
    rig: &mut Rig<'_>,
    who: (u16, MemberId),
    run: (u64, u64),
    error: &IoError,
) {
    let broken = rig.broken;
    let mut scribe = Scribe::of(&lane.geometry, rig);
    if broken {
        let why = format!("rewrite failed: {error}");
        scribe.io.effects.push(Effect::Fail(who.1, why));
    } else {
        scribe.refused(who, run, ("rewrite", error));
    }
}
