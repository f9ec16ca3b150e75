//! Flags of members are switched while they serve.
//!
//! ```text
//!   asked --> write-mostly: no write begins to lag, --> switched, --> recorded --> answered,
//!             what lags lands                           reads know                 writes may lag
//! ```
//!
//! After a crash the superblocks tell which legs of a mirror may have missed what was answered, and
//! that is not changed before these are resynced. So nothing lags on a leg that they call an
//! ordinary one, and nothing is vouched for by one that they still call write-mostly: between the
//! wish and its record every write is an ordinary one.

use super::engine::Array;
use crate::member::State;
use crate::value::{ControlError, ControlId, ControlReply, FlagWish, MemberId};

use umd_format::v1::DeviceFlags;

/// A wish on its way.
#[derive(Debug)]
pub(super) struct Switching {
    id: ControlId,
    member: MemberId,
    wish: FlagWish,
    /// The change that records it, once it was made.
    noted: Option<u64>,
}

impl Array {
    /// An administrator wants a member's flags switched.
    pub(super) fn control_flags(&mut self, id: ControlId, member: MemberId, wish: FlagWish) {
        self.switching.push(Switching {
            id,
            member,
            wish,
            noted: None,
        });
    }

    fn may_switch(&self, member: MemberId, wish: FlagWish) -> Result<(), ControlError> {
        self.writable()?;
        let member = self.named(member)?;
        let busy = |why: &str| Err(ControlError::Busy(format!("{} {why}", member.name)));
        if member.state == State::Faulty {
            return busy("is faulty: its flags cannot be recorded on it");
        }
        let flags = member.superblock.fields.flags;
        let changed = wish.of(flags).contains(DeviceFlags::WRITE_MOSTLY) != member.write_mostly;
        if changed && self.may_have_missed() {
            return busy(
                "cannot be switched while a resync is owed: who is write-mostly tells which copy \
                 may have missed writes; wait for its end",
            );
        }
        Ok(())
    }

    /// Whether write-mostly legs may lack what was answered before a crash: the resync copies from
    /// the others.
    fn may_have_missed(&self) -> bool {
        self.bitmap.write_behind() > 0 && self.sync.owes_resync()
    }

    /// Goes on with flags that are to be switched. Returns whether anything changed.
    pub(super) fn maintain_flags(&mut self) -> bool {
        let lands = |one: &Switching| one.wish.write_mostly.is_some();
        let holds = self.switching.iter().any(lands) || self.replaces_write_mostly();
        self.lane.hold_back(holds);
        let mut moved = false;
        for mut one in std::mem::take(&mut self.switching) {
            let result = match one.noted {
                Some(change) if self.metadata.has_recorded(change) => Ok(()),
                Some(_) if !self.may_write() => {
                    Err(ControlError::Io("superblocks cannot be written".into()))
                }
                Some(_) => {
                    self.switching.push(one);
                    continue;
                }
                None => self.may_switch(one.member, one.wish),
            };
            let (made, over) = (one.noted.is_some(), result.is_err());
            if !made && !over {
                if !lands(&one) || self.lane.behind_writes() == 0 {
                    one.noted = Some(self.switch(one.member, one.wish));
                    moved = true;
                }
                self.switching.push(one);
                continue;
            }
            moved = true;
            self.answer(one.id, result.map(|()| ControlReply::Done));
        }
        moved
    }

    fn switch(&mut self, id: MemberId, wish: FlagWish) -> u64 {
        let member = self.members.get_mut(id).expect("looked at just before");
        let flags = wish.of(member.superblock.fields.flags);
        member.superblock.fields.flags = flags;
        let mostly = flags.contains(DeviceFlags::WRITE_MOSTLY);
        let changes = std::mem::replace(&mut member.write_mostly, mostly) != mostly;
        if changes && member.is_active() {
            assert_eq!(self.lane.behind_writes(), 0, "what lags has landed");
            self.publish();
        }
        self.metadata.note_change(false)
    }
}
