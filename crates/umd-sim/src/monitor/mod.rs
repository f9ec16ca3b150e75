//! The ghost monitor: md's order rules, checked at the moment an I/O is submitted.
//!
//! ```text
//!   engine --Command::Io-------> check_io ------> SimDisk::submit
//!          --Command::Complete-> check_answer --> host
//!   SimDisk --Completion-------> note_error ----> engine
//! ```
//!
//! The monitor reads superblocks and bitmaps off the simulated media with its own eyes
//! ([`crate::metaview`]), knows by the purpose of an I/O what it may be preceded by, and says which
//! rule was broken long before a wrong byte is read. The rules are numbered as in the research
//! notes; what each one means stands at [`Rule`].

mod file;
mod half_set;
mod lag;
mod media;
mod metadata;
mod mirror;
mod moved;
mod order;
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use umd_core::array::{ArrayState, IoError, IoOp, MemberIo, MemberRole, Purpose, Status};
use umd_core::value::{IoId, MemberId};

pub use media::Media;

use crate::disk::SimDisk;
use crate::layout::Geometry;
use crate::metaview::{BitmapView, SuperView};
use crate::oracle::Oracle;
use crate::stamp::SECTOR;

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// G1: data or parity goes to a region only when its bit is durable on every member that could
    /// be asked for the bitmap, and every superblock says that writes are in flight.
    Intent,
    /// G2: a bit is cleared, or the array called clean, only when all members hold the same,
    /// durably.
    Clear,
    /// G3: a write is answered only when members that will be read from hold it. On a write-mostly
    /// member it may lag, where the bitmap allows so, and no more of them than that.
    Ack,
    /// G4: between the moment a failure is known and the moment it is recorded durably on every
    /// survivor, no data goes to survivors and nothing is answered.
    Quarantine,
    /// G5: data is read only from where it is valid, and not where something that was answered
    /// lags; where legs of a mirror differ, from one of them, and that one is kept.
    Source,
    /// G6: two writes to overlapping sectors of one member are never in flight together.
    Overlap,
    /// G7: the metadata generation only grows, and members in sync carry the highest.
    Events,
    /// G8: a checkpoint never claims what is not durable.
    Checkpoint,
    /// G11: at rest, mirrors are equal and parity agrees, on media.
    Parity,
    /// G12: a flush, or a FUA write, is answered when it is durable wherever it will be read.
    Flush,
    /// G13: no I/O after a member was released or the array stopped.
    Lifetime,
    /// G9: while everything is moved, nothing lands on what any superblock still needs where it
    /// was; rows are believed to be moved when they are, durably, and hosts find and leave them
    /// where all superblocks say.
    Reshape,
    /// What a member in sync refused to write stands in its log before that is answered, and
    /// nothing else does: others hold it.
    Refused,
    /// Nothing is written to a member while the array is suspended, or waits for its first write:
    /// no data, no superblock, no bit.
    Rest,
    /// Every purpose keeps to its part of a member.
    Extent,
    /// A read returned what it must not (the register oracle).
    Content,
    /// An error was reported although redundancy was there.
    Error,
    /// At level faulty, a request failed that nobody asked to fail, or one that was to fail did
    /// not.
    Pretence,
    /// S1, S5: no write of a node lands where another one resyncs, and one node resyncs at a time.
    Window,
    /// S3: nobody takes a dead node's slot before it is certain that it writes no more; whose
    /// session has ended begins no write.
    Fenced,
    /// Superblocks are written under the token, the bitmap of a slot by its owner or who takes it.
    Turn,
    /// S6, S7: a size is shown when all superblocks and all bitmaps have it, and in the end nodes
    /// are of one mind.
    Size,
    /// Something that must happen does not.
    Liveness,
    /// The engine panicked or reported a broken invariant of its own.
    Panic,
    /// Two runs of one seed differ.
    Determinism,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub text: String,
}

impl Violation {
    /// A violation of `rule`.
    pub fn new(rule: Rule, text: impl Into<String>) -> Violation {
        Violation {
            rule,
            text: text.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// Whether a rule holds.
pub type Verdict = Result<(), Violation>;

fn broken<T>(rule: Rule, text: String) -> Result<T, Violation> {
    Err(Violation::new(rule, text))
}

/// What the monitor knows about a member of the running array.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// Index of its disk.
    pub disk: usize,
    /// Where its superblock lies.
    pub super_sector: u64,
    /// md's device number; known once it carries a superblock of this array.
    pub number: Option<u32>,
    /// Where array data starts.
    pub data_offset: u64,
    /// Sectors that array data may use.
    pub data_len: u64,
    /// Where its bitmap lies.
    pub bitmap_sector: Option<u64>,
    events: u64,
    released: bool,
}

impl MemberView {
    /// A member on `disk`; `carries` tells whether its superblock belongs to the array already.
    pub fn new(disk: usize, super_sector: u64, carries: bool, disks: &[SimDisk]) -> MemberView {
        let mut view = MemberView {
            disk,
            super_sector,
            number: None,
            data_offset: 0,
            data_len: 0,
            bitmap_sector: None,
            events: 0,
            released: false,
        };
        let page = disks[disk].visible_page(super_sector);
        let found = SuperView::new(&page).filter(|sb| carries && sb.is_whole());
        if let Some(sb) = found {
            view.learn(sb);
        }
        view
    }

    fn learn(&mut self, sb: SuperView<'_>) {
        self.number = Some(sb.number());
        self.data_offset = sb.data_offset();
        self.data_len = sb.data_size(self.super_sector);
        self.bitmap_sector = sb
            .bitmap_offset()
            .map(|offset| self.super_sector.checked_add_signed(i64::from(offset)))
            .map(|sector| sector.expect("a bitmap lies on its device"));
        self.events = self.events.max(sb.events());
    }

    fn data(&self) -> Range<u64> {
        self.data_offset..self.data_offset + self.data_len
    }
}

/// A bitmap on a medium.
#[derive(Debug, Clone, Copy)]
struct Bits {
    disk: usize,
    sector: u64,
    shape: BitmapView,
}

impl Bits {
    /// Whether a bit is set, durably.
    fn is_set(&self, disks: &[SimDisk], bit: u64) -> bool {
        let place = self.shape.place(bit);
        let medium = disks[self.disk].durable();
        place.is_set(medium.sector(self.sector + place.sector))
    }
}

/// What the monitor looks at.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The disks.
    pub disks: &'a [SimDisk],
    /// The array as it shows itself after the event that made the commands.
    pub status: &'a Status,
    /// The registers.
    pub oracle: &'a Oracle,
}

/// The monitor of one boot.
#[derive(Debug)]
pub struct Monitor {
    geometry: Geometry,
    members: BTreeMap<MemberId, MemberView>,
    /// Members whose failure the engine knows and superblocks may not.
    failed: BTreeMap<MemberId, String>,
    /// Members whose failure every survivor had recorded once.
    recorded: BTreeSet<MemberId>,
    /// Members that have been seen to be faulty; and those of them that the commands at hand may
    /// still read: the engine decided on their failure behind those, in the same event.
    fell: BTreeSet<MemberId>,
    falling: BTreeSet<MemberId>,
    /// Completion counts of all disks when a host flush or FUA write was handed over.
    marks: BTreeMap<u64, Vec<u64>>,
    /// Sectors of the walk in which the legs of a mirror differ, with the leg that hosts have read.
    legs: BTreeMap<u64, MemberId>,
    /// Parity that was compared before.
    agreed: media::Agreed,
    /// The file that holds the bitmap; it is among the members here.
    file: Option<MemberId>,
    stopped: bool,
    checks: u64,
    /// The I/O that was submitted last.
    last_io: IoId,
    /// Bits that a crash has left set on some members only, and that nobody has set since.
    half_set: BTreeSet<u64>,
    /// Relative pages about which a disk lies: whether members agree there is not judged.
    excused: BTreeSet<u64>,
    /// What members refused to write.
    refused: refused::Refused,
    /// Nothing is to be written now.
    resting: bool,
    /// Level and layout may change.
    follows: bool,
}

/// Names an I/O in messages.
struct What<'a>(&'a MemberIo);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let io = self.0;
        write!(f, "{:?} {:?} to {:?}", io.io, io.purpose, io.member)
    }
}

fn slot_of(scene: Scene<'_>, member: MemberId) -> Option<u16> {
    let mut members = scene.status.members.iter();
    let slot = members.find(|m| m.id == member)?.slot;
    slot.map(|slot| slot.0)
}

/// The device sectors an operation touches, and whether it writes.
fn touched(op: &IoOp) -> Option<(Range<u64>, bool)> {
    match op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => Some((
            *offset_sectors..offset_sectors + (buf.len() / SECTOR) as u64,
            false,
        )),
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => {
            let bytes: usize = data.iter().map(|piece| piece.len()).sum();
            Some((
                *offset_sectors..offset_sectors + (bytes / SECTOR) as u64,
                true,
            ))
        }
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            ..
        } => Some((*offset_sectors..offset_sectors + len_sectors, true)),
        IoOp::Allocation {
            offset_sectors,
            len_sectors,
        } => Some((*offset_sectors..offset_sectors + len_sectors, false)),
        IoOp::Flush => None,
    }
}

impl Monitor {
    /// The monitor of an array that starts with these members.
    pub fn new(geometry: Geometry, members: BTreeMap<MemberId, MemberView>) -> Monitor {
        Monitor {
            geometry,
            members,
            failed: BTreeMap::new(),
            recorded: BTreeSet::new(),
            fell: BTreeSet::new(),
            falling: BTreeSet::new(),
            marks: BTreeMap::new(),
            legs: BTreeMap::new(),
            agreed: media::Agreed::default(),
            file: None,
            stopped: false,
            checks: 0,
            last_io: IoId(0),
            half_set: BTreeSet::new(),
            excused: BTreeSet::new(),
            refused: refused::Refused::default(),
            resting: false,
            follows: false,
        }
    }

    /// Level and layout may change: who runs the array says so with `follow`.
    pub fn expect_changes(&mut self) {
        self.follows = true;
    }

    /// The array rests from now on, or goes on.
    pub fn note_resting(&mut self, resting: bool) {
        self.resting = resting;
    }

    /// A disk lies about these relative pages.
    pub fn excuse(&mut self, pages: BTreeSet<u64>) {
        self.excused = pages;
    }

    /// A device was handed to the running array.
    pub fn add_member(&mut self, id: MemberId, view: MemberView) {
        self.members.insert(id, view);
    }

    /// Rules that were looked at.
    pub fn checks(&self) -> u64 {
        self.checks
    }

    fn is_redundant(&self) -> bool {
        self.geometry.level > 0
    }

    /// Members with this property, with what the monitor knows about them.
    fn having<'a>(
        &'a self,
        status: &'a Status,
        wanted: impl Fn(MemberRole) -> bool + 'a,
    ) -> impl Iterator<Item = (MemberId, u16, &'a MemberView)> + 'a {
        status.members.iter().filter_map(move |m| {
            let view = self.members.get(&m.id)?;
            let slot = m.slot?;
            wanted(m.role).then_some((m.id, slot.0, view))
        })
    }

    fn in_sync<'a>(
        &'a self,
        status: &'a Status,
    ) -> impl Iterator<Item = (MemberId, u16, &'a MemberView)> + 'a {
        self.having(status, |role| role == MemberRole::InSync)
    }

    fn active<'a>(
        &'a self,
        status: &'a Status,
    ) -> impl Iterator<Item = (MemberId, u16, &'a MemberView)> + 'a {
        self.having(status, |role| {
            matches!(role, MemberRole::InSync | MemberRole::Recovering { .. })
        })
    }

    fn durable_super<'a>(view: &MemberView, disks: &'a [SimDisk]) -> Option<SuperView<'a>> {
        SuperView::on_medium(&disks[view.disk], view.super_sector)
    }

    /// The bitmap that a member is asked for, and where it lies: on that member, or in a file.
    fn bitmap(&self, view: &MemberView, disks: &[SimDisk]) -> Option<Bits> {
        let view = self.file.map_or(view, |file| &self.members[&file]);
        let (disk, sector) = (view.disk, view.bitmap_sector?);
        let bytes = disks[disk].durable().sector(sector);
        let shape = BitmapView::new(bytes, self.geometry.walk_sectors())?;
        Some(Bits {
            disk,
            sector,
            shape,
        })
    }

    fn count(&mut self, io: IoId) {
        self.checks += 1;
        assert!(self.last_io < io, "I/Os are numbered in their order");
        self.last_io = io;
    }

    /// The engine submits an I/O.
    pub fn check_io(&mut self, scene: Scene<'_>, io: &MemberIo) -> Verdict {
        self.count(io.io);
        let what = What(io);
        let Some(view) = self.members.get(&io.member) else {
            return broken(Rule::Lifetime, format!("{what}: no such member"));
        };
        if self.stopped || view.released {
            let when = if self.stopped {
                "the array stopped"
            } else {
                "it was released"
            };
            return broken(Rule::Lifetime, format!("{what} after {when}"));
        }
        let Some((range, writes)) = touched(&io.op) else {
            return Ok(());
        };
        if writes && self.resting {
            return broken(Rule::Rest, format!("{what} at sectors {range:?}"));
        }
        if io.purpose == Purpose::Super && writes {
            self.super_written(scene, io, &what)?;
        }
        let view = &self
            .members
            .get(&io.member)
            .expect("looked at above")
            .clone();
        self.check_extent(scene, view, io, &range, &what)?;
        if writes {
            self.check_overlap(scene, view, &range, &what)?;
        }
        match (io.purpose, writes) {
            (Purpose::Data | Purpose::Parity, true) => {
                self.check_quarantine(scene, &what)?;
                self.check_shape(scene, view, &range, &what)?;
                let slot = slot_of(scene, io.member).unwrap_or(0);
                self.check_intent(scene, view, slot, &range, &what)
            }
            (Purpose::Data | Purpose::Preread | Purpose::Resync, false) => {
                self.check_source(scene, view, io, &range, &what)?;
                self.check_landed(scene, view, &range, &what)?;
                match io.purpose {
                    Purpose::Data => self.check_leg(scene, view, io, &range, &what),
                    _ => Ok(()),
                }
            }
            (Purpose::Reshape, false) => {
                self.check_source(scene, view, io, &range, &what)?;
                self.check_moved_from(view, &range, &what)
            }
            (Purpose::Reshape, true) => {
                self.check_quarantine(scene, &what)?;
                self.check_moved_to(scene, view, io, &range, &what)
            }
            (Purpose::Resync | Purpose::Scrub, true) => {
                self.check_kept(scene, view, io, &range, &what)
            }
            (Purpose::BadBlocks, true) => self.check_log(scene, view, io, &what),
            (Purpose::Bitmap, true) => {
                self.check_bitmap_write(scene, io, &range, &what)?;
                self.learn_bits(scene, io);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A completion with an error is about to be handed to the engine.
    pub fn note_error(&mut self, status: &Status, member: MemberId, writes: bool, error: &IoError) {
        let serious = writes || *error == IoError::Gone;
        let active = self.active(status).any(|(id, _, _)| id == member);
        if serious && active && self.is_redundant() {
            self.failed.insert(member, format!("{error}"));
        }
    }

    /// Said among the commands: those that follow know that it has failed.
    pub fn note_said(&mut self, member: MemberId) {
        self.falling.remove(&member);
    }

    /// The engine has handled an event: failures it decided on by itself are known now.
    pub fn note_status(&mut self, status: &Status) {
        if !self.is_redundant() {
            return;
        }
        let faulty = status.members.iter();
        let faulty = faulty.filter(|m| m.role == MemberRole::Faulty);
        self.falling = faulty
            .map(|m| m.id)
            .filter(|id| self.fell.insert(*id))
            .collect();
        for m in &status.members {
            let known = self
                .members
                .get(&m.id)
                .is_some_and(|view| view.number.is_some());
            if m.role == MemberRole::Faulty && known && !self.recorded.contains(&m.id) {
                self.failed
                    .entry(m.id)
                    .or_insert_with(|| "declared faulty".into());
            }
        }
        // The last copy of anything stays whatever its member does.
        if self.geometry.is_mirror() && !self.failed.is_empty() {
            let in_sync: Vec<_> = self
                .in_sync(status)
                .map(|(id, slot, _)| (id, slot))
                .collect();
            let without = |gone: u16, slot: u16| {
                let mut others = in_sync.iter().map(|(_, other)| *other);
                slot != gone && others.any(|other| other == slot)
            };
            for (id, gone) in &in_sync {
                if !self.geometry.survives(|slot| without(*gone, slot)) {
                    self.failed.remove(id);
                }
            }
        }
    }

    /// Whether the member failed, and superblocks may not say so yet.
    pub fn is_unrecorded(&self, member: MemberId) -> bool {
        self.failed.contains_key(&member)
    }

    /// The engine gives a member up.
    pub fn note_released(&mut self, member: MemberId) {
        if let Some(view) = self.members.get_mut(&member) {
            view.released = true;
        }
    }

    /// The engine says that it has stopped.
    pub fn note_stopped(&mut self, scene: Scene<'_>) -> Verdict {
        self.stopped = true;
        for (id, view) in &self.members {
            let faulty = scene
                .status
                .members
                .iter()
                .any(|m| m.id == *id && m.role == MemberRole::Faulty);
            let left = scene.disks[view.disk].in_flight();
            let broken_array = scene.status.state == ArrayState::Broken;
            if self.file == Some(*id) && (broken_array || self.has_lost_file(scene)) {
                continue;
            }
            if left > 0 && !faulty && !view.released {
                let given_up = scene
                    .status
                    .bitmap
                    .as_ref()
                    .is_some_and(|b| b.fault.is_some());
                if self.file == Some(*id) && given_up {
                    let text = "stopped, and the bitmap's file that failed may yet count: what is \
                                in flight to it can land, and superblocks do not outrun it";
                    return broken(Rule::Intent, text.to_owned());
                }
                let text = format!("stopped with {left} I/O in flight to {id:?}");
                return broken(Rule::Lifetime, text);
            }
        }
        Ok(())
    }

    /// The engine has stopped: no command may follow.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }
}

#[cfg(test)]
mod tests;
