//! Members that an administrator changes while other nodes run the array as well.
//!
//! ```text
//!   control --> wished --> (token) Recheck --> all are told --> Apply --> Write --> all have
//!      ^                      |                    |                                 read it
//!      |                      | not needed         | somebody cannot                  |
//!      '------- answered <----'--------------------'----------------------------------'
//! ```
//!
//! What a control was answered with holds on every node that may still write: it has read the
//! superblocks that say so, or it was fenced, or the answer names it.

use std::collections::BTreeMap;

use crate::array::Array;
use crate::cluster::{Answer, Cannot, DeviceNumber, Event, Failure, Wish, WishId};
use crate::member::State;
use crate::value::{Command, ControlError, ControlId, ControlReply, MemberId, Notice};

/// A change that was wished, and who waits for it.
#[derive(Debug)]
pub(super) struct Change {
    control: ControlId,
    member: MemberId,
    device: DeviceNumber,
    /// It was done here.
    applied: bool,
}

/// The changes that are not over.
pub(super) type Changes = BTreeMap<WishId, Change>;

impl Array {
    /// A faulty or spare member is to go, on all nodes.
    pub(super) fn remove_on_all(&mut self, control: ControlId, member: MemberId) {
        let device = match self.removable(member) {
            Ok(device) => device,
            Err(error) => return self.answer(control, Err(error)),
        };
        let change = Change {
            control,
            member,
            device,
            applied: false,
        };
        let shared = self.shared_mut();
        let id = shared.update.next_wish();
        shared.changes.insert(id, change);
        shared.say(Event::Wish(id, Wish::RemoveDisk(device)));
    }

    fn removable(&self, id: MemberId) -> Result<DeviceNumber, ControlError> {
        self.writable()?;
        let member = self.named(id)?;
        if member.is_active() {
            return Err(ControlError::Busy(format!(
                "{} is part of the array; set it faulty before removing it",
                member.name
            )));
        }
        Ok(DeviceNumber(member.number()))
    }

    /// Whether what was wished has not become pointless while others had their turn.
    pub(super) fn still_holds(&self, change: &Change) -> bool {
        let same = |device: DeviceNumber| device == change.device;
        self.removable(change.member).is_ok_and(same)
    }

    /// Everybody has been told.
    pub(super) fn apply_change(&mut self, id: WishId) -> Answer {
        let changes = &self.shared_mut().changes;
        let member = changes.get(&id).expect("a wish of ours").member;
        if !self.may_write() || self.named(member).is_err() {
            return Answer::Cannot(Cannot::Work);
        }
        self.let_go(member);
        let change = self.shared_mut().changes.get_mut(&id);
        change.expect("a wish of ours").applied = true;
        self.metadata.note_change(false);
        Answer::Done
    }

    /// A member leaves: nothing of it is waited for any more.
    pub(super) fn let_go(&mut self, id: MemberId) {
        self.io.orphan(id);
        self.io.bad.forget(id);
        self.cover.forget(id);
        self.members.remove(id);
        self.io.out.push(Command::Release(id));
        self.sync.unblock();
        self.notify(Notice::Changed);
    }

    pub(super) fn change_over(&mut self, change: &Change, failure: Option<&Failure>) {
        let result = match failure {
            None => {
                self.metadata.confirm();
                Ok(ControlReply::Done)
            }
            Some(Failure::Moot) => Err(ControlError::Busy(
                "another node has changed the array meanwhile; nothing was changed here".into(),
            )),
            Some(Failure::Nodes(_)) if change.applied => Err(not_followed(failure)),
            Some(Failure::Nodes(_)) => {
                let why = failure.map(ToString::to_string).unwrap_or_default();
                Err(ControlError::Busy(format!(
                    "not every node can do without it, so it stays: {why}"
                )))
            }
            Some(Failure::Leaving) => Err(ControlError::Io(
                "the array was left before this could be recorded on all nodes".into(),
            )),
        };
        self.answer(change.control, result);
    }

    /// The cluster is left: who still waits is told.
    pub(super) fn refuse_changes(&mut self) {
        for (_, change) in std::mem::take(&mut self.shared_mut().changes) {
            self.change_over(&change, Some(&Failure::Leaving));
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
