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
//!
//! A bitmap in a file is in no superblock, so the file alone must tell whether it counts:
//!
//! ```text
//!   anything --> all of it, stale --> not stale, with the events --> superblocks get those events
//!                                     of the next record
//! ```
//!
//! Before the third step it is not believed, after it no write is missing. A file that fails on
//! the way is let go once superblocks carry more events than it can have got.

use umd_format::Level;
use umd_format::bitmap::{
    self as format, BitmapSuperblock, FILE_BYTES_MAX, REGION_BYTES_MIN, WRITE_BEHIND_MAX,
    file_region_bytes, initial_image,
};
use umd_format::space::{self, BitmapSpace, RegionWish};
use umd_format::v1::{Features, Fields};

use super::engine::Array;
use crate::bitmap::{Bitmap, Place, Regions};
use crate::member::{Member, State};
use crate::value::{
    BitmapFile, BitmapWish, Command, ControlError, ControlId, ControlReply, MAX_SECTOR, MemberId,
    NewBitmap, Notice,
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
            None => self.may_rebit(&wish),
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

    /// What the file of a new bitmap needs, in sectors; or why there can be none now.
    pub(super) fn bitmap_room(&self, new: NewBitmap) -> Result<u64, ControlError> {
        if self.rebit.is_some() {
            return Err(ControlError::Busy(
                "the bitmap is being changed already".into(),
            ));
        }
        self.may_change()?;
        self.may_add(new)?;
        let superblock = self.superblock_of_file(new)?;
        let regions = superblock.regions(superblock.fields.sync_size_sectors);
        Ok(format::on_disk_sectors(regions))
    }

    /// Whether the bitmap can be changed now, whatever into.
    fn may_change(&self) -> Result<(), ControlError> {
        let level = self.info.level;
        if !self.geometry.is_redundant() {
            return Err(ControlError::Invalid(format!(
                "{level} has no redundancy: there is nothing for a bitmap to tell"
            )));
        }
        self.writable()?;
        self.not_reshaping("the bitmap stays as it is")?;
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
        Ok(())
    }

    /// Whether the array can get such a bitmap, wherever it lies.
    fn may_add(&self, new: NewBitmap) -> Result<(), ControlError> {
        if self.bitmap.writer().is_some() {
            return Err(ControlError::Busy("the array has a bitmap already".into()));
        }
        let invalid = |text: String| Err(ControlError::Invalid(text));
        match (new.write_behind, self.info.level) {
            (0, _) => Ok(()),
            (count, _) if count > WRITE_BEHIND_MAX => {
                invalid(format!("write-behind is at most {WRITE_BEHIND_MAX}"))
            }
            (_, Level::Raid1) => Ok(()),
            (_, level) => invalid(format!("write-behind is for raid1, not for {level}")),
        }
    }

    fn may_rebit(&self, wish: &BitmapWish) -> Result<(), ControlError> {
        self.may_change()?;
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
            (BitmapWish::Internal(new), _) => {
                self.may_add(*new)?;
                self.bitmap_space(*new).map(|_| ())
            }
            (BitmapWish::File(file, new), _) => {
                self.may_add(*new)?;
                let superblock = self.superblock_of_file(*new)?;
                let regions = superblock.regions(superblock.fields.sync_size_sectors);
                let needed = format::on_disk_sectors(regions);
                match file.size_sectors >= needed {
                    true => Ok(()),
                    false => Err(ControlError::TooSmall(format!(
                        "the bitmap file {} has {} sectors, and {needed} are needed",
                        file.name, file.size_sectors
                    ))),
                }
            }
        }
    }

    /// The superblock of a bitmap in a file, as it is before anything counts.
    fn superblock_of_file(&self, new: NewBitmap) -> Result<BitmapSuperblock, ControlError> {
        let covered = self.geometry.sync_sectors(self.info.array_sectors);
        let region = new
            .region_bytes
            .unwrap_or_else(|| file_region_bytes(covered));
        let invalid = |text: String| Err(ControlError::Invalid(text));
        if !region.is_power_of_two() || region < REGION_BYTES_MIN {
            return invalid(format!(
                "a bit cannot stand for {region} bytes: it is a power of two from 4K to 2G"
            ));
        }
        let bytes = format::on_disk_bytes(format::regions(covered, region));
        if bytes > FILE_BYTES_MAX {
            return invalid(format!(
                "with {region} bytes for a bit the file would have {bytes} bytes, and \
                 {FILE_BYTES_MAX} is the most: take a larger --bitmap-chunk"
            ));
        }
        Ok(self.new_superblock(covered, region, new))
    }

    /// A new bitmap. Who left before this cannot be told by it what they missed.
    fn new_superblock(&self, covered: u64, region: u32, new: NewBitmap) -> BitmapSuperblock {
        let mut sound = self.members.iter().filter(|m| m.state == State::InSync);
        let sound = sound.next().expect("a writable array has one");
        let mut superblock = BitmapSuperblock::new(sound.superblock.bitmap_uuid(), covered, region);
        superblock.fields.events = self.metadata.events().0;
        superblock.fields.events_cleared = self.metadata.events().0;
        superblock.fields.write_behind = new.write_behind;
        superblock
    }

    /// The place of a new bitmap: free on everybody who has or may get a slot.
    fn bitmap_space(&self, new: NewBitmap) -> Result<BitmapSpace, ControlError> {
        let format = self.info.format;
        if !format.is_stored() {
            return Err(ControlError::Invalid(
                "an array without superblocks has no room for a bitmap on its members: \
                 --bitmap=/path/file keeps one in a file"
                    .into(),
            ));
        }
        let covered = self.geometry.sync_sectors(self.info.array_sectors);
        let working = self.members.iter().filter(|m| m.state != State::Faulty);
        let room = match new.offset_sectors {
            Some(offset) => self.room_at(offset)?,
            None => {
                let room = working.map(|m| space::free_for_bitmap(format, &m.superblock.fields));
                room.min().unwrap_or(0)
            }
        };
        let region = new.region_bytes;
        let region = region.map_or(RegionWish::Default, RegionWish::Bytes);
        let found = space::bitmap_in(format, room, region, covered).map_err(|error| {
            ControlError::TooSmall(format!("there is no place for such a bitmap: {error}"))
        })?;
        let offset_sectors = new.offset_sectors.unwrap_or(found.offset_sectors);
        Ok(BitmapSpace {
            offset_sectors,
            ..found
        })
    }

    /// How much is free from this place on, on everybody who has or may get a slot.
    fn room_at(&self, offset_sectors: i32) -> Result<u64, ControlError> {
        let block_sectors = u64::from(self.info.logical_block_bytes.max(512)) / 512;
        let mut room = u64::MAX;
        let working = self.members.iter().filter(|m| m.state != State::Faulty);
        for member in working {
            let fields = &member.superblock.fields;
            let refused = |why: &str| {
                ControlError::Invalid(format!(
                    "a bitmap at {offset_sectors:+} sectors from the superblock of {} {why}",
                    member.name
                ))
            };
            let free = space::free_at(self.info.format, fields, offset_sectors);
            room = room.min(free.map_err(|why| refused(&why))?);
            let start = fields
                .super_offset_sectors
                .wrapping_add_signed(offset_sectors.into());
            if !start.is_multiple_of(block_sectors) {
                let why = format!("begins within a block of {block_sectors} sectors");
                return Err(refused(&why));
            }
        }
        Ok(room)
    }

    /// Goes on with a change of the bitmap. Returns whether anything changed.
    pub(super) fn maintain_rebit(&mut self) -> bool {
        let Some(rebit) = &self.rebit else {
            return false;
        };
        let Some(change) = rebit.noted else {
            return self.switch_bitmap();
        };
        let recorded = self.metadata.has_recorded(change);
        let on_file = matches!(rebit.wish, BitmapWish::File(..));
        let cannot = || ControlError::Io("superblocks cannot be written".into());
        if on_file && (self.bitmap.is_lost() || !recorded && !self.may_write()) {
            return self.let_go_of_file(cannot());
        }
        match recorded {
            true => self.end_rebit(Ok(())),
            false if !self.may_write() => self.end_rebit(Err(cannot())),
            false => return false,
        }
        true
    }

    /// Changes the bitmap once nothing is under way. Returns whether anything changed.
    fn switch_bitmap(&mut self) -> bool {
        let rebit = self.rebit.as_ref().expect("one is on its way");
        let wish = rebit.wish.clone();
        match self.may_rebit(&wish) {
            Err(error) => {
                self.end_rebit(Err(error));
                return true;
            }
            Ok(()) if !self.is_quiet() => return false,
            Ok(()) => {}
        }
        match wish {
            BitmapWish::None => self.drop_bitmap(),
            BitmapWish::Internal(new) => self.make_bitmap(new),
            BitmapWish::File(file, new) => self.make_file(file, new),
        }
        let noted = Some(self.metadata.note_change(true));
        self.rebit = self.rebit.take().map(|one| Rebit { noted, ..one });
        true
    }

    /// A new file that failed, or that nothing will be recorded of any more: nothing may be left
    /// that could be believed, and none of its I/O. Returns whether anything changed.
    fn let_go_of_file(&mut self, why: ControlError) -> bool {
        if let Some(id) = self.bitmap.file() {
            self.bitmap.lose();
            self.io.orphan(id);
            return true;
        }
        let outrun = !self.metadata.fault_pending() || !self.may_write();
        if !self.bitmap.rests() || !outrun {
            return false;
        }
        let why = match &self.bitmap_fault {
            Some(fault) => ControlError::Io(format!("the bitmap file failed: {fault}")),
            None => why,
        };
        // Whoever offered the file takes it back with the answer.
        self.options.bitmap_file = None;
        self.drop_bitmap();
        self.end_rebit(Err(why));
        true
    }

    /// A file that is to hold a bitmap vanished before anything was written to it.
    pub(super) fn give_up_file(&mut self, id: MemberId, why: &str) -> bool {
        let offered = |rebit: &Rebit| matches!(&rebit.wish, BitmapWish::File(f, _) if f.id == id);
        let waits = self
            .rebit
            .as_ref()
            .is_some_and(|r| r.noted.is_none() && offered(r));
        if waits {
            let text = format!("the bitmap file failed: {why}");
            self.end_rebit(Err(ControlError::Io(text)));
        }
        waits
    }

    /// Nothing is under way that knows the bitmap, or needs the one that is to come.
    pub(super) fn is_quiet(&self) -> bool {
        let lane = self.lane.is_idle() && self.lane.locks.held() == 0;
        lane && self.bitmap.is_quiet() && self.metadata.is_quiet()
    }

    fn end_rebit(&mut self, result: Result<(), ControlError>) {
        let rebit = self.rebit.take().expect("one is on its way");
        self.answer(rebit.id, result.map(|()| ControlReply::Done));
        self.notify(Notice::Changed);
        for (came, request) in std::mem::take(&mut self.parked) {
            self.request_again(came, request);
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

    /// A bitmap with every bit set, at this place. One that is `stale` says so when it is written.
    fn begin_bitmap(&mut self, superblock: BitmapSuperblock, at: Place, stale: bool) {
        let image = initial_image(&superblock);
        let covered = superblock.fields.sync_size_sectors;
        let block = self.info.logical_block_bytes.max(512);
        self.bitmap = Bitmap::load(superblock, at, &image, covered, MAX_SECTOR, stale, block);
        self.bitmap.exhibit(self.io.museum);
        self.bitmap_fault = None;
    }

    fn make_file(&mut self, file: BitmapFile, new: NewBitmap) {
        let superblock = self.superblock_of_file(new).expect("looked at just before");
        self.begin_bitmap(superblock, Place::File(file.id), true);
        self.bitmap.want_file();
        self.options.bitmap_file = Some((file.id, file.name));
    }

    fn make_bitmap(&mut self, new: NewBitmap) {
        let found = self.bitmap_space(new);
        let place_of = found.expect("looked for just before");
        let covered = place_of.covered_sectors;
        let superblock = self.new_superblock(covered, place_of.region_raw, new);
        let regions = superblock.regions(covered);
        self.io.bad.set_bitmap(format::on_disk_sectors(regions));
        self.begin_bitmap(superblock, Place::Members(place_of.offset_sectors), false);
        let mut bearers: Vec<MemberId> = Vec::new();
        for member in self.members.iter_mut() {
            let offset = Some(place_of.offset_sectors);
            place(&mut member.superblock.fields, offset);
            bearers.extend(member.is_active().then_some(member.id));
        }
        bearers.into_iter().for_each(|id| self.bitmap.want_copy(id));
    }
}
