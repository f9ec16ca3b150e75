//! A disk that another node adds, as it is met here.
//!
//! ```text
//!   FindDisk --> Find (driver) --> candidate, answered --> next reload: its superblock is read
//!                  | not there, another size, too late        |  what was announced: a spare
//!                  '--> Cannot(SeeDisk)                       '  else: let go
//! ```
//!
//! A candidate is good for one reload: the refusal of new disks stands again before superblocks are
//! read. One that is not what its adder wrote is another disk under the same path.

use umd_format::{Role, SuperblockV1};

use super::shared::RELOAD;
use crate::array::Array;
use crate::cluster::{Answer, Cannot, NewDisk};
use crate::member::{Member, Owner, State};
use crate::value::{Command, Commands, Events, MemberId, NewMember, Now, Purpose};

/// A disk that was found here, and is no member yet.
#[derive(Debug)]
pub(super) struct Candidate {
    disk: NewDisk,
    new: NewMember,
    /// It was a member, and its superblock has told that it is the one.
    returns: bool,
    /// Those of the array when it was found.
    events: Events,
    /// What was read of it after its adder had written.
    found: Option<Box<SuperblockV1>>,
}

impl Candidate {
    pub(super) fn id(&self) -> MemberId {
        self.new.id
    }

    /// Its superblock is the one that was announced.
    fn is_it(&self, reference: &SuperblockV1) -> bool {
        let same = |found: &SuperblockV1| {
            let fields = &found.fields;
            fields.set_uuid == reference.fields.set_uuid
                && fields.device_uuid.0 == self.disk.uuid
                && fields.dev_number == self.disk.device.0
        };
        let role = reference.fields.role_of(self.disk.device.0);
        // One that came to nothing is no member, although its superblock says so.
        let back = !self.returns || matches!(role, Role::Active(_));
        back && self.found.as_deref().is_some_and(same)
    }

    /// Its adder has written, and not here.
    pub(super) fn is_another(&self, reference: &SuperblockV1) -> bool {
        !self.returns && reference.fields.events > self.events.0 && !self.is_it(reference)
    }

    /// The number that it has, if it is what was announced.
    pub(super) fn number(&self, reference: &SuperblockV1) -> Option<u32> {
        self.is_it(reference).then_some(self.disk.device.0)
    }
}

impl Array {
    /// What is said of a disk that another node wants to use, if it is a member here already: one
    /// that failed here is not, whether the others know that yet or not.
    pub(super) fn of_member(&self, disk: &NewDisk) -> Option<Answer> {
        let uuid = |m: &Member| m.superblock.fields.device_uuid.0;
        let mut members = self.members.iter();
        let same = members.find(|m| m.number() == disk.device.0 && uuid(m) == disk.uuid)?;
        Some(match same.state {
            State::Spare => Answer::Done,
            _ => Answer::Cannot(Cannot::Device),
        })
    }

    /// Whether it is a disk of another node that is being looked at.
    pub(in crate::array) fn is_newcomer(&self, id: MemberId) -> bool {
        let reload = self
            .shared
            .as_ref()
            .and_then(|shared| shared.reload.as_ref());
        reload.is_some_and(|reload| reload.looks_at(id))
    }

    /// Another node's disk was found here, or was not.
    pub(super) fn found(
        &mut self,
        now: Now,
        (disk, returns): (NewDisk, bool),
        found: Option<NewMember>,
        out: &mut Commands,
    ) -> Answer {
        self.io.begin(now, std::mem::take(out));
        let met = self.meet(disk, returns, found);
        self.settle();
        *out = self.io.end();
        match met {
            Ok(()) => Answer::Done,
            Err(why) => Answer::Cannot(why),
        }
    }

    /// Whether the disk that was found is the one that comes back: nothing is written to any other.
    fn is_that(&self, disk: &NewDisk, new: &NewMember) -> bool {
        new.superblock.as_ref().is_some_and(|one| {
            one.fields.set_uuid.0 == self.info.uuid
                && one.fields.device_uuid.0 == disk.uuid
                && one.fields.dev_number == disk.device.0
        })
    }

    fn meet(
        &mut self,
        disk: NewDisk,
        returns: bool,
        found: Option<NewMember>,
    ) -> Result<(), Cannot> {
        let before = self.shared_mut().candidate.take();
        if let Some(before) = before {
            self.io.out.push(Command::Release(before.id()));
        }
        let new = found.ok_or(Cannot::SeeDisk)?;
        let same = self.members.iter().find(|m| m.number() == disk.device.0);
        let same = same.map(|m| (m.id, m.state));
        let why = match same {
            _ if new.size_sectors != disk.size_sectors => Some(Cannot::SeeDisk),
            _ if returns && !self.is_that(&disk, &new) => Some(Cannot::SeeDisk),
            // Its adder does not know it any more.
            Some((id, State::Faulty)) => {
                self.let_go(id);
                None
            }
            Some(_) => Some(Cannot::Device),
            None => None,
        };
        if let Some(why) = why {
            self.io.out.push(Command::Release(new.id));
            return Err(why);
        }
        let events = self.metadata.events();
        self.shared_mut().candidate = Some(Candidate {
            disk,
            new,
            returns,
            events,
            found: None,
        });
        Ok(())
    }

    /// Reads its superblock, where the others of this array have theirs.
    pub(super) fn read_candidate(&mut self, candidate: &Candidate) {
        let peer = self.members.iter().next().expect("an array has members");
        let sector = peer.superblock.fields.super_offset_sectors;
        let owner = Owner::Cluster { tag: RELOAD };
        let len = super::reload::SUPER_SECTORS;
        self.io
            .read(candidate.id(), sector, len, Purpose::Super, owner);
    }

    pub(super) fn candidate_read(&self, candidate: &mut Candidate, bytes: Option<&[u8]>) {
        let peer = self.members.iter().next().expect("an array has members");
        let format = peer.superblock.format();
        let sectors = candidate.new.size_sectors;
        let read = bytes.and_then(|bytes| SuperblockV1::load(bytes, format, sectors).ok());
        candidate.found = read.map(Box::new);
    }

    /// It is a spare of this array, which has this superblock, or nothing of it.
    pub(super) fn admit(
        &mut self,
        candidate: Candidate,
        reference: &SuperblockV1,
    ) -> Option<SuperblockV1> {
        let it_is = candidate.is_it(reference);
        let Candidate { new, found, .. } = candidate;
        match found.filter(|_| it_is) {
            Some(superblock) => {
                self.take_in(&new, (*superblock).clone(), State::Spare, None);
                Some(*superblock)
            }
            None => {
                self.io.out.push(Command::Release(new.id));
                None
            }
        }
    }
}
