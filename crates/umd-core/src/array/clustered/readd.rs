//! A member that has left comes back, and keeps what it holds.
//!
//! ```text
//!   control --> even --> wished --> (token) Recheck --> RE_ADD: all see it --> headers of all
//!                                                                               |      bitmaps
//!     answered <-- all have read it <-- superblocks <-- bitmaps on it <-- slot -+
//!     refused <------------------------------------------- bits were cleared ---'
//! ```
//!
//! It may come back if no node has cleared a bit since it left: the own bitmap tells that of this
//! node only, so those of all slots are asked, also of slots that nobody has. What it has missed is
//! not known before all write to it: see `missed.rs`.

use umd_format::SuperblockV1;
use umd_format::v1::Features;

use super::changes::{Change, What};
use super::missed::HEADERS;
use super::reload::Reload;
use super::spread::Spread;
use crate::array::Array;
use crate::cluster::{Answer, Cannot, Desk, DeviceNumber, DiskPath, NewDisk, Wish, WishId};
use crate::member::State;
use crate::value::{Command, ControlError, ControlId, NewMember, Notice, Slot};

impl Array {
    /// A member that has left is to come back, on all nodes.
    pub(super) fn re_add_on_all(&mut self, control: ControlId, new: NewMember) {
        match self.comes_back(&new) {
            Ok(_) => self.shared_mut().returning.push((control, new)),
            Err(error) => {
                self.io.out.push(Command::Release(new.id));
                self.answer(control, Err(error));
            }
        }
    }

    /// Wishes for those whose time has come. Returns whether it did.
    pub(super) fn maintain_returning(&mut self) -> bool {
        if self.shared_mut().returning.is_empty() {
            return false;
        }
        let over = self.shared_mut().is_leaving() || !self.may_write();
        // What is on its way from slot to slot would be copied to it as it was.
        if self.shared_mut().unrecovered && !over {
            return false;
        }
        // A slot is told of with events of its own.
        if self.metadata.is_uneven() && !over {
            let owes = self.metadata.owes();
            if !owes {
                self.metadata.note_change(false);
            }
            return !owes;
        }
        for (control, new) in std::mem::take(&mut self.shared_mut().returning) {
            match self.comes_back(&new) {
                Ok((superblock, _, path)) if !over => {
                    self.wish_back(control, new, &superblock, path);
                }
                result => {
                    let leaves = || ControlError::Busy("the array is being left here".into());
                    let error = result.err().unwrap_or_else(leaves);
                    self.io.out.push(Command::Release(new.id));
                    self.answer(control, Err(error));
                }
            }
        }
        true
    }

    fn wish_back(
        &mut self,
        control: ControlId,
        new: NewMember,
        superblock: &SuperblockV1,
        path: DiskPath,
    ) {
        let device = DeviceNumber(superblock.fields.dev_number);
        let disk = NewDisk {
            uuid: superblock.fields.device_uuid.0,
            device,
            size_sectors: new.size_sectors,
            path,
        };
        let change = Change::new(control, new.id, device, What::ReAdd(Box::new(new)));
        self.wish_for(change, Wish::ReAdd(disk));
    }

    fn comes_back(&self, new: &NewMember) -> Result<(SuperblockV1, Slot, DiskPath), ControlError> {
        let path = self.sharable(new)?;
        let (superblock, slot) = self.returning(new)?;
        // The bitmaps are younger than that.
        if !superblock.fields.features.contains(Features::CLUSTERED) {
            return Err(ControlError::Invalid(format!(
                "--re-add for {} is not possible: it left before the array was one of a cluster; \
                 use --add",
                new.name
            )));
        }
        if superblock.fields.size_sectors != self.recorded_sectors() {
            return Err(ControlError::Invalid(format!(
                "--re-add for {} is not possible: the array has got another size since it left; \
                 use --add",
                new.name
            )));
        }
        Ok((superblock, slot, path))
    }

    /// Whether it can come back now that this node has its turn.
    pub(super) fn still_comes_back(&self, new: &NewMember) -> bool {
        !self.metadata.is_uneven() && self.comes_back(new).is_ok()
    }

    /// All see it: the bitmaps of all nodes are asked whether they know what it missed.
    pub(super) fn begin_return(&mut self, id: WishId) {
        self.shared_mut().returns = Some(id);
        self.begin_gather(HEADERS);
    }

    pub(super) fn maintain_return(&mut self) -> bool {
        let Some(id) = self.shared_mut().returns else {
            return false;
        };
        // As `maintain_asked` has it.
        let reload = self.shared_mut().reload.as_ref();
        if reload.is_some_and(Reload::has_begun) {
            return false;
        }
        let Some(read) = self.take_gathered(HEADERS) else {
            return false;
        };
        let shared = self.shared_mut();
        shared.returns = None;
        let answer = match self.take_back(id, read.as_deref()) {
            Ok(()) => {
                self.shared_mut().unwritten = Some(id);
                Answer::Done
            }
            Err(why) => {
                if let Some(change) = self.shared_mut().changes.get_mut(&id) {
                    change.refused = why;
                }
                Answer::Cannot(Cannot::Work)
            }
        };
        self.shared_mut().answer(Desk::Turn, answer);
        true
    }

    fn take_back(&mut self, id: WishId, read: Option<&[u8]>) -> Result<(), Option<ControlError>> {
        let Some(change) = self.shared_mut().changes.get(&id) else {
            return Err(None); // The cluster was lost, and whoever asked has been told.
        };
        let What::ReAdd(new) = change.what() else {
            unreachable!("nothing else waits for bitmaps");
        };
        let new = (**new).clone();
        if !self.may_write() || self.metadata.is_uneven() {
            return Err(None);
        }
        let (superblock, slot, _) = self.comes_back(&new).map_err(Some)?;
        let refused = |why: &str| {
            Some(ControlError::Invalid(format!(
                "--re-add for {} is not possible: {why}; use --add",
                new.name
            )))
        };
        let Some(area) = read else {
            return Err(refused("the bitmaps of all nodes cannot be read"));
        };
        if superblock.fields.events < self.bits_kept_since(area) {
            return Err(refused("the bitmaps no longer know what it missed"));
        }
        let state = State::Recovering {
            checkpoint_sectors: 0,
        };
        self.take_in(&new, superblock, state, Some(slot));
        self.cover.set_rebuilt(new.id, 0, 0);
        self.sync.guide(new.id);
        self.bitmap.want_copy(new.id);
        self.publish();
        self.cover_recovering();
        self.metadata.note_change(false);
        let shared = self.shared_mut();
        shared.spread = Some(Spread::new(vec![new.id]));
        let change = shared.changes.get_mut(&id);
        change.expect("a wish of ours").applied = true;
        self.notify(Notice::Changed);
        Ok(())
    }
}
