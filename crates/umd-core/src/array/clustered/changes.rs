//! Members that an administrator changes while other nodes run the array as well.
//!
//! ```text
//!   control --> wished --> (token) Recheck --> all are told --> Apply --> Write --> all have
//!      ^                      |                    |                                 read it
//!      |                      | not needed         | somebody cannot                  | not all
//!      '------- answered <----'--------------------'------- withdrawn (a new disk) <--'
//! ```
//!
//! What a control was answered with holds on every node that may still write: it has read the
//! superblocks that say so, or it was fenced, or the answer names it.

use std::collections::BTreeMap;

use umd_format::SuperblockV1;

use super::reload::Reload;
use crate::array::Array;
use crate::cluster::{Answer, Cannot, Desk, DeviceNumber, DiskPath, Event, Failure, NewDisk, Wish};
use crate::cluster::{Blame, WishId};
use crate::member::{Member, State};
use crate::value::{
    Command, ControlError, ControlId, ControlReply, MemberId, NewMember, Notice, Span,
};

/// A spare that a node does not see is offered again after that time.
const FILL_AGAIN_AFTER: Span = Span::secs(60);

/// A change that was wished, and who waits for it.
#[derive(Debug)]
pub(super) struct Change {
    /// Nobody: the array itself.
    control: Option<ControlId>,
    member: MemberId,
    device: DeviceNumber,
    what: What,
    /// It was done here.
    pub(super) applied: bool,
    /// Why this node itself could not.
    pub(super) refused: Option<ControlError>,
}

/// What the turn of this node has come to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Apply(WishId),
    Undo(WishId),
}

#[derive(Debug)]
pub(super) enum What {
    Remove,
    /// A new disk, with the superblock that it gets.
    Add(Box<(NewMember, SuperblockV1)>),
    /// A disk that has left, as it was opened.
    ReAdd(Box<NewMember>),
    /// A spare gets a slot, where all have it.
    Fill,
    /// A new disk that not all nodes have taken: it is removed, and this is why.
    Withdraw(ControlError),
}

impl Change {
    /// What somebody asked for, and is not done.
    pub(super) fn new(
        control: ControlId,
        member: MemberId,
        device: DeviceNumber,
        what: What,
    ) -> Change {
        Change {
            control: Some(control),
            member,
            device,
            what,
            applied: false,
            refused: None,
        }
    }

    /// What it is.
    pub(super) fn what(&self) -> &What {
        &self.what
    }

    /// Whether others have to find a disk for it.
    pub(super) fn is_new_disk(&self) -> bool {
        matches!(self.what, What::Add(_) | What::ReAdd(_) | What::Fill)
    }

    /// Whom it is about.
    pub(super) fn member(&self) -> MemberId {
        self.member
    }

    /// Whether it was done here.
    pub(super) fn is_applied(&self) -> bool {
        self.applied
    }

    /// Whether a spare gets a slot.
    pub(super) fn is_fill(&self) -> bool {
        matches!(self.what, What::Fill)
    }
}

/// The changes that are not over.
pub(super) type Changes = BTreeMap<WishId, Change>;

impl Array {
    pub(super) fn wish_for(&mut self, change: Change, wish: Wish) {
        let shared = self.shared_mut();
        let id = shared.update.next_wish();
        shared.changes.insert(id, change);
        shared.say(Event::Wish(id, wish));
    }

    /// A faulty or spare member is to go, on all nodes.
    pub(super) fn remove_on_all(&mut self, control: ControlId, member: MemberId) {
        let device = match self.removable(member) {
            Ok(member) => DeviceNumber(member.number()),
            Err(error) => return self.answer(control, Err(error)),
        };
        let change = Change::new(control, member, device, What::Remove);
        self.wish_for(change, Wish::RemoveDisk(device));
    }

    /// A new disk is to be a member, on all nodes.
    pub(super) fn add_on_all(&mut self, control: ControlId, mut new: NewMember) {
        // Clusters have no bad-block logs.
        new.bad_block_log = false;
        let (superblock, path) = match self.addable(&new) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.io.out.push(Command::Release(new.id));
                return self.answer(control, Err(error));
            }
        };
        let device = DeviceNumber(superblock.fields.dev_number);
        let disk = NewDisk {
            uuid: superblock.fields.device_uuid.0,
            device,
            size_sectors: new.size_sectors,
            path,
        };
        let (id, what) = (new.id, What::Add(Box::new((new, superblock))));
        let change = Change::new(control, id, device, what);
        self.wish_for(change, Wish::AddDisk(disk));
    }

    /// A spare is to get a slot: who does not have it has to find it first.
    pub(super) fn fill_on_all(&mut self, id: MemberId) {
        let spare = self.members.get(id).expect("a spare");
        let Some(path) = DiskPath::new(&spare.name) else {
            return self.fill_later(id, "its path is too long to be told");
        };
        let device = DeviceNumber(spare.number());
        let disk = NewDisk {
            uuid: spare.superblock.fields.device_uuid.0,
            device,
            size_sectors: spare.size_sectors,
            path,
        };
        let change = Change {
            control: None,
            member: id,
            device,
            what: What::Fill,
            applied: false,
            refused: None,
        };
        self.wish_for(change, Wish::FillSlot(disk));
    }

    fn fill_later(&mut self, id: MemberId, why: &str) {
        let Some(spare) = self.members.get(id) else {
            return;
        };
        let text = format!(
            "the spare {} cannot step in on all nodes: {why}",
            spare.name
        );
        let again = self.io.now().mono + FILL_AGAIN_AFTER;
        self.shared_mut().fill_again.insert(id, again);
        self.notify(Notice::Message(text));
    }

    fn addable(&self, new: &NewMember) -> Result<(SuperblockV1, DiskPath), ControlError> {
        let path = self.sharable(new)?;
        Ok((self.spare_superblock(new)?, path))
    }

    /// Where the others find a disk that all can have.
    pub(super) fn sharable(&self, new: &NewMember) -> Result<DiskPath, ControlError> {
        self.redundant()?;
        self.writable()?;
        let path = DiskPath::new(&new.name).ok_or_else(|| {
            ControlError::Invalid(format!(
                "the path {} has more than {} bytes, the most that nodes tell each other",
                new.name,
                DiskPath::MOST
            ))
        })?;
        if new.flags.write_mostly == Some(true) {
            return Err(ControlError::Invalid(format!(
                "{} cannot be write-mostly: a clustered array has no such members",
                new.name
            )));
        }
        if !self.shared.as_ref().is_some_and(|shared| shared.ready) {
            let text = "this node is joining its cluster; try again when it serves";
            return Err(ControlError::Busy(text.into()));
        }
        Ok(path)
    }

    /// Whether what was wished has not become pointless while others had their turn.
    pub(super) fn still_holds(&self, change: &Change) -> bool {
        match &change.what {
            What::Add(add) => {
                let same_size = add.1.fields.size_sectors == self.recorded_sectors();
                let taken = |number| self.members.iter().any(|m| m.number() == number);
                self.writable().is_ok() && !taken(change.device.0) && same_size
            }
            What::ReAdd(new) => self.still_comes_back(new),
            What::Fill => {
                let fill = self.next_fill();
                fill.is_some_and(|fill| fill.spare == change.member)
            }
            What::Remove | What::Withdraw(_) => {
                let same = |member: &Member| member.number() == change.device.0;
                self.removable(change.member).is_ok_and(same)
            }
        }
    }

    /// Makes or undoes a change, between two readings of superblocks: one that began before would
    /// find nothing of it there, and adopt that.
    pub(super) fn maintain_asked(&mut self) -> bool {
        let shared = self.shared_mut();
        let reads = shared.reload.as_ref().is_some_and(Reload::has_begun);
        let Some(asked) = shared.asked.take_if(|_| !reads) else {
            return false;
        };
        let (id, answer) = match asked {
            Asked::Apply(id) => (id, self.apply_change(id)),
            Asked::Undo(id) => (id, self.undo_change(id)),
        };
        if let Some(answer) = answer {
            if answer == Answer::Done {
                self.shared_mut().unwritten = Some(id);
            }
            self.shared_mut().answer(Desk::Turn, answer);
        }
        true
    }

    /// Everybody has been told.
    pub(super) fn apply_change(&mut self, id: WishId) -> Option<Answer> {
        let shared = self.shared.as_ref().expect("in a cluster");
        let Some(change) = shared.changes.get(&id) else {
            // The cluster was lost since it was asked for, and whoever asked has been told.
            return Some(Answer::Cannot(Cannot::Work));
        };
        let member = change.member;
        let new = match &change.what {
            What::Add(add) => Some((**add).clone()),
            What::Remove | What::Withdraw(_) | What::ReAdd(_) | What::Fill => None,
        };
        let fills = change.is_fill();
        let returns = matches!(change.what, What::ReAdd(_));
        if !self.may_write() || !self.still_holds(change) {
            return Some(Answer::Cannot(Cannot::Work));
        }
        if returns {
            self.begin_return(id);
            return None;
        }
        if fills && !self.fill_under_token(member) {
            return Some(Answer::Cannot(Cannot::Device));
        }
        let change = self.shared_mut().changes.get_mut(&id);
        change.expect("a wish of ours").applied = true;
        if fills {
            return Some(Answer::Done);
        }
        match new {
            Some((new, superblock)) => {
                self.take_in(&new, superblock, State::Spare, None);
                self.notify(Notice::Changed);
            }
            None => drop(self.let_go(member)),
        }
        self.metadata.note_change(false);
        Some(Answer::Done)
    }

    /// A node has not seen the disk: what others may have of it they drop when they read
    /// superblocks again, where it was never written. A slot that was given is taken back: the
    /// answer comes when that is written.
    pub(super) fn undo_change(&mut self, id: WishId) -> Option<Answer> {
        let Some(change) = self.shared_mut().changes.get_mut(&id) else {
            return Some(Answer::Cannot(Cannot::Work));
        };
        let fills = matches!(change.what, What::Fill | What::ReAdd(_));
        let member = change.member;
        let applied = std::mem::take(&mut change.applied);
        if applied && fills {
            self.take_slot_back(member);
            self.shared_mut().update.write_wanted = true;
            self.shared_mut().unwritten = Some(id);
            return None;
        }
        if applied {
            self.let_go(member);
            return Some(Answer::Cannot(Cannot::Work));
        }
        let good = self.members.iter().find(|m| m.state == State::InSync);
        Some(match good {
            Some(good) => Answer::Written(DeviceNumber(good.number())),
            None => Answer::Cannot(Cannot::Work),
        })
    }

    pub(super) fn change_over(&mut self, change: Change, failure: Option<&Failure>) {
        if failure.is_none() {
            self.metadata.confirm();
        }
        let result = match (&change.what, failure) {
            (What::Fill, failure) => {
                if let Some(failure @ Failure::Nodes(_)) = failure {
                    self.fill_later(change.member, &failure.to_string());
                }
                return;
            }
            (What::Add(_), Some(Failure::Nodes(blames))) if change.applied => {
                let error = not_taken(blames);
                return self.withdraw(&change, error);
            }
            (What::Add(add), Some(failure)) => {
                if !change.applied && self.members.get(change.member).is_none() {
                    self.io.out.push(Command::Release(add.0.id));
                }
                Err(match failure {
                    Failure::Nodes(blames) => not_seen(blames),
                    other => not_begun(other),
                })
            }
            (What::ReAdd(new), Some(failure)) => {
                let error = match (&change.refused, failure) {
                    (Some(error), _) => error.clone(),
                    (None, Failure::Nodes(blames)) => not_seen(blames),
                    (None, other) => not_begun(other),
                };
                match (self.members.get(new.id), failure) {
                    // It is there as a spare, and some have not taken it.
                    (Some(_), Failure::Nodes(blames)) => {
                        let error = not_taken(blames);
                        return self.withdraw(&change, error);
                    }
                    (Some(_), _) => {}
                    (None, _) => self.io.out.push(Command::Release(new.id)),
                }
                Err(error)
            }
            (What::Add(_) | What::ReAdd(_), None) => Ok(ControlReply::Added {
                number: change.device.0,
            }),
            (What::Withdraw(error), failure) => {
                let stays = self.members.get(change.member);
                if failure.is_some() && stays.is_some_and(|m| !m.is_active()) {
                    self.let_go(change.member);
                    self.metadata.note_change(false);
                }
                Err(error.clone())
            }
            (What::Remove, None) => Ok(ControlReply::Done),
            (What::Remove, failure @ Some(Failure::Nodes(_))) if change.applied => {
                Err(not_followed(failure))
            }
            (What::Remove, Some(Failure::Nodes(blames))) => Err(ControlError::Busy(format!(
                "not every node can do without it, so it stays: {}",
                Failure::Nodes(blames.clone())
            ))),
            (What::Remove, Some(failure)) => Err(not_begun(failure)),
        };
        let control = change.control.expect("somebody asked for it");
        self.answer(control, result);
    }

    /// A disk that not all nodes have taken is nobody's.
    fn withdraw(&mut self, change: &Change, error: ControlError) {
        let Change { member, device, .. } = *change;
        let control = change.control.expect("somebody asked for it");
        let change = Change::new(control, member, device, What::Withdraw(error));
        self.wish_for(change, Wish::RemoveDisk(device));
    }

    /// The cluster is left: who still waits is told.
    pub(super) fn refuse_changes(&mut self) {
        for (control, new) in std::mem::take(&mut self.shared_mut().returning) {
            self.io.out.push(Command::Release(new.id));
            self.answer(control, Err(not_begun(&Failure::Leaving)));
        }
        for (_, change) in std::mem::take(&mut self.shared_mut().changes) {
            let new = matches!(change.what, What::Add(_) | What::ReAdd(_));
            if new && self.members.get(change.member).is_none() {
                self.io.out.push(Command::Release(change.member));
            }
            if let Some(control) = change.control {
                self.answer(control, Err(not_begun(&Failure::Leaving)));
            }
        }
    }

    /// Another node takes a device out of the array.
    pub(super) fn remove_for_other(&mut self, device: DeviceNumber) -> Answer {
        let found = self.members.iter().find(|m| m.number() == device.0);
        let Some((id, state)) = found.map(|m| (m.id, m.state)) else {
            return Answer::Done;
        };
        if !matches!(state, State::Faulty | State::Spare) || self.members.iter().count() < 2 {
            return Answer::Cannot(Cannot::Device);
        }
        self.let_go(id);
        Answer::Done
    }
}

/// It is on the members, and a node does not know it.
pub(super) fn not_followed(failure: Option<&Failure>) -> ControlError {
    let why = failure.map(ToString::to_string).unwrap_or_default();
    ControlError::Io(format!(
        "it is done here and recorded on the members, but not every node has followed: {why}; they \
         are told again until they have"
    ))
}

pub(super) fn not_begun(failure: &Failure) -> ControlError {
    match failure {
        Failure::Leaving => {
            ControlError::Io("the array was left before this could be recorded on all nodes".into())
        }
        other => ControlError::Busy(format!("{other}; nothing was changed here, try again")),
    }
}

fn not_seen(blames: &[Blame]) -> ControlError {
    let why = Failure::Nodes(blames.to_vec());
    ControlError::Busy(format!(
        "every node has to see it under the same path, and nothing was written to it: {why}"
    ))
}

fn not_taken(blames: &[Blame]) -> ControlError {
    let why = Failure::Nodes(blames.to_vec());
    ControlError::Busy(format!(
        "every node has to see it under the same path, and it was taken out again: {why}"
    ))
}
