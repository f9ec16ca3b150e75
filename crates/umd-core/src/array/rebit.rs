//! The bitmap of a running array is taken away, or it gets one.
//!
//! ```text
//!   asked --> hosts wait, what is under way --> switched --> recorded --> answered, hosts go on
//!             lands, what lags too
//! ```
//!
//! Nothing is written by hosts between the last moment of the old order and the record of the new
//! one: whichever superblocks a crash leaves, they tell the truth about the data. A new bitmap is
//! on every member with a slot, with every bit set, before the first superblock names it: what lies
//! in caches only may still be lost, so it starts by marking everything, and its bits go as any do.

use umd_format::bitmap::{BitmapSuperblock, initial_image};
use umd_format::space::{self, BitmapSpace, RegionWish};
use umd_format::v1::{Features, Fields};

use super::engine::Array;
use crate::bitmap::{Bitmap, Place, Regions};
use crate::member::{Member, State};
use crate::value::{
    BitmapWish, Command, ControlError, ControlId, ControlReply, MAX_SECTOR, MemberId, Notice,
};

/// A change of the bitmap on its way.
#[derive(Debug)]
pub(super) struct Rebit {
    id: ControlId,
    wish: BitmapWish,
    /// The change that records it, once it was made.
    noted: Option<u64>,
}

/// Where the superblock of a member says that the bitmap is.
fn place(fields: &mut Fields, offset_sectors: Option<i32>) {
    let bit = Features::BITMAP_OFFSET;
    fields.features = match offset_sectors {
        Some(_) => fields.features.with(bit),
        None => fields.features.without(bit),
    };
    fields.bitmap_offset_raw = offset_sectors.unwrap_or(0) as u32;
}

impl Array {
    /// An administrator wants a bitmap, or none.
    pub(super) fn control_bitmap(&mut self, id: ControlId, wish: BitmapWish) {
        let allowed = match &self.rebit {
            Some(_) => Err(ControlError::Busy(
                "the bitmap is being changed already".into(),
            )),
            None => self.may_rebit(wish),
        };
        match allowed {
            Ok(()) => {
                self.rebit = Some(Rebit {
                    id,
                    wish,
                    noted: None,
                });
            }
            Err(error) => self.answer(id, Err(error)),
        }
    }

    fn may_rebit(&self, wish: BitmapWish) -> Result<(), ControlError> {
        let level = self.info.level;
        if !self.geometry.is_redundant() {
            return Err(ControlError::Invalid(format!(
                "{level} has no redundancy: there is nothing for a bitmap to tell"
            )));
        }
        self.writable()?;
        let busy = |what: &str| {
            Err(ControlError::Busy(format!(
                "{what}: the bitmap can be changed when that is over"
            )))
        };
        if let Some(run) = self.sync.running() {
            return busy(&format!("{} is running", run.action().word()));
        }
        if self.sync.owes_resync() {
            return busy("a resync is owed");
        }
        let partly = |m: &&Member| matches!(m.state, State::Recovering { .. });
        if let Some(member) = self.members.iter().find(partly) {
            return busy(&format!("{} is being rebuilt", member.name));
        }
        let states = self.bitmap.regions().is_some_and(Regions::has_states);
        match (wish, self.bitmap.writer()) {
            (BitmapWish::None, None) => {
                Err(ControlError::Invalid("the array has no bitmap".into()))
            }
            // Only superblocks tell that such a file is out of date.
            (BitmapWish::None, Some(_)) if !self.info.format.is_stored() => {
                Err(ControlError::Invalid(
                    "an array without superblocks keeps its bitmap file until it is stopped".into(),
                ))
            }
            // It alone knows what nobody has written, where members need not agree.
            (BitmapWish::None, Some(_)) if states => Err(ControlError::Invalid(
                "a lockless bitmap stays: only it tells what has never been written, where members \
                 may differ"
                    .into(),
            )),
            (BitmapWish::None, Some(_)) => Ok(()),
            (BitmapWish::Internal { .. }, Some(_)) => {
                Err(ControlError::Busy("the array has a bitmap already".into()))
            }
            (BitmapWish::Internal { region_bytes }, None) => {
                self.bitmap_space(region_bytes).map(|_| ())
            }
        }
    }

    /// The place of a new bitmap: free on everybody who has or may get a slot.
    fn bitmap_space(&self, region_bytes: Option<u32>) -> Result<BitmapSpace, ControlError> {
        let format = self.info.format;
        if !format.is_stored() {
            return Err(ControlError::Invalid(
                "an array without superblocks has no room for a bitmap: stop it, and build it \
                 with --bitmap=/path/file"
                    .into(),
            ));
        }
        let covered = self.geometry.sync_sectors(self.info.array_sectors);
        let working = self.members.iter().filter(|m| m.state != State::Faulty);
        let room = working.map(|m| space::free_for_bitmap(format, &m.superblock.fields));
        let room = room.min().unwrap_or(0);
        let region = region_bytes.map_or(RegionWish::Default, RegionWish::Bytes);
        space::bitmap_in(format, room, region, covered).map_err(|error| {
            ControlError::TooSmall(format!("there is no place for such a bitmap: {error}"))
        })
    }

    /// Goes on with a change of the bitmap. Returns whether anything changed.
    pub(super) fn maintain_rebit(&mut self) -> bool {
        let Some(rebit) = &self.rebit else {
            return false;
        };
        let wish = rebit.wish;
        match rebit.noted {
            Some(change) if self.metadata.has_recorded(change) => self.end_rebit(Ok(())),
            Some(_) if !self.may_write() => self.end_rebit(Err(ControlError::Io(
                "superblocks cannot be written".into(),
            ))),
            Some(_) => return false,
            None => match self.may_rebit(wish) {
                Err(error) => self.end_rebit(Err(error)),
                Ok(()) if !self.is_quiet() => return false,
                Ok(()) => {
                    match wish {
                        BitmapWish::None => self.drop_bitmap(),
                        BitmapWish::Internal { region_bytes } => self.make_bitmap(region_bytes),
                    }
                    let noted = Some(self.metadata.note_change(true));
                    self.rebit = self.rebit.take().map(|one| Rebit { noted, ..one });
                }
            },
        }
        true
    }

    /// Nothing is under way that knows the bitmap, or needs the one that is to come.
    fn is_quiet(&self) -> bool {
        let lane = self.lane.is_idle() && self.lane.locks.held() == 0;
        lane && self.bitmap.is_quiet() && self.metadata.is_quiet()
    }

    fn end_rebit(&mut self, result: Result<(), ControlError>) {
        let rebit = self.rebit.take().expect("one is on its way");
        self.answer(rebit.id, result.map(|()| ControlReply::Done));
        self.notify(Notice::Changed);
        for request in std::mem::take(&mut self.parked) {
            self.request(request);
        }
    }

    fn drop_bitmap(&mut self) {
        self.bitmap = Bitmap::none();
        self.io.bad.set_bitmap(0);
        self.bitmap.exhibit(self.io.museum);
        for member in self.members.iter_mut() {
            place(&mut member.superblock.fields, None);
        }
        self.bitmap_fault = None;
        if let Some((id, _)) = self.options.bitmap_file.take() {
            self.io.out.push(Command::Release(id));
        }
    }

    fn make_bitmap(&mut self, region_bytes: Option<u32>) {
        let found = self.bitmap_space(region_bytes);
        let place_of = found.expect("looked for just before");
        let sound = self.members.iter().find(|m| m.state == State::InSync);
        let uuid = sound
            .expect("a writable array has one")
            .superblock
            .bitmap_uuid();
        let covered = place_of.covered_sectors;
        let mut superblock = BitmapSuperblock::new(uuid, covered, place_of.region_raw);
        // Who left before this cannot be told by it what they missed.
        superblock.fields.events = self.metadata.events().0;
        superblock.fields.events_cleared = self.metadata.events().0;
        let image = initial_image(&superblock);
        self.io.bad.set_bitmap((image.len() / 512) as u64);
        let block = self.info.logical_block_bytes.max(512);
        let at = Place::Members(place_of.offset_sectors);
        self.bitmap = Bitmap::load(superblock, at, &image, covered, MAX_SECTOR, false, block);
        self.bitmap.exhibit(self.io.museum);
        let mut bearers: Vec<MemberId> = Vec::new();
        for member in self.members.iter_mut() {
            let offset = Some(place_of.offset_sectors);
            place(&mut member.superblock.fields, offset);
            bearers.extend(member.is_active().then_some(member.id));
        }
        bearers.into_iter().for_each(|id| self.bitmap.want_copy(id));
    }
}
