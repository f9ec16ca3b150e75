//! What is written to the bitmap area, one thing at a time.
//!
//! ```text
//!          +--> Copy (whole area: joining member, new file)
//!          +--> Header (superblock with new events) ----+
//!   Idle --+--> Batch (pages of a closed batch) --------+--> Idle
//!          +--> ClearFlush -> ClearHeader -> Clearing --+
//! ```
//!
//! While bitmaps of a cluster move nothing is begun, until it is known where this one lies then.
//!
//! One at a time, because two writes of one page in flight together could land in either order.

use std::collections::BTreeSet;

use smallvec::{SmallVec, smallvec};
use umd_format::bitmap::{BitmapSuperblock, SUPERBLOCK_BYTES, State};

use super::Leave;
use super::regions::{PAGE_BYTES, Regions};
use crate::member::{Effect, Io, Member, Members, Owner};
use crate::value::{Events, Exhibit, IoDone, IoError, IoOp, MemberId, Museum, Purpose};

/// Where the bitmap lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On every member with a slot, this far from its superblock.
    Members(i32),
    /// In a file of its own, from the beginning; it has no slot and no superblock.
    File(MemberId),
    /// In a file that failed: the bits are in memory only, and none is cleared any more.
    Lost(MemberId),
}

#[derive(Debug)]
enum Stage {
    Idle,
    Copy,
    Header(Events),
    Batch(u64),
    ClearFlush(Vec<u64>),
    ClearHeader(Vec<u64>),
    Clearing,
    /// The superblock before all else: members may not say the same length.
    Front,
    /// What is dirty by either length.
    Either(Vec<u8>),
    /// The superblock says the new one.
    Turn,
}

/// The writer of one bitmap.
#[derive(Debug)]
pub struct Writer {
    superblock: BitmapSuperblock,
    place: Place,
    block_bytes: usize,
    stage: Stage,
    left: usize,
    copies: BTreeSet<MemberId>,
    wanted_events: Events,
    written_events: Events,
    clear_wanted: bool,
    stale: bool,
    /// How many bytes a bit is to stand for.
    wanted_region: Option<u32>,
    /// Its superblock is written before any of its pages.
    front: bool,
    /// Nothing is begun.
    held: bool,
}

impl Writer {
    /// A writer for an area at this place.
    pub fn new(
        superblock: BitmapSuperblock,
        place: Place,
        block_bytes: u32,
        stale: bool,
        regions: &Regions,
    ) -> Writer {
        assert!(
            block_bytes.is_power_of_two() && block_bytes >= 512,
            "a logical block"
        );
        assert!(regions.count() > 0, "a bitmap covers something");
        let is_clustered = superblock.is_clustered();
        let mut superblock = superblock;
        let fields = &mut superblock.fields;
        let events = Events(fields.events);
        if stale {
            // Until every mark was written, whoever reads the bitmap must not trust it.
            fields.state = fields.state.with(State::STALE);
        }
        if regions.has_states() {
            // Kernels do not keep count of when they cleared what.
            fields.events_cleared = fields.events_cleared.max(events.0);
        }
        Writer {
            superblock,
            place,
            block_bytes: block_bytes as usize,
            stage: Stage::Idle,
            left: 0,
            copies: BTreeSet::new(),
            wanted_events: events,
            written_events: events,
            clear_wanted: false,
            stale,
            wanted_region: None,
            // Who died while lengths changed has left bits that count by either, and superblocks
            // that may differ.
            front: is_clustered && regions.dirty() > 0,
            held: false,
        }
    }

    /// Where the area is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The file failed. Nothing is written any more, and what waits for the bitmap goes on: from
    /// here on superblocks carry more events than the file, which makes it out of date.
    pub(super) fn lose(&mut self) {
        if let Place::File(id) = self.place {
            self.place = Place::Lost(id);
            self.copies.clear();
        }
    }

    fn is_file(&self) -> bool {
        matches!(self.place, Place::File(_))
    }

    /// Whether the file failed: then nothing can be cleared.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.place, Place::Lost(_))
    }

    /// Since these events bits may be missing: a member that left earlier cannot be told by them
    /// what it missed.
    pub fn events_cleared(&self) -> Events {
        Events(self.superblock.fields.events_cleared)
    }

    /// Its superblock.
    pub fn superblock(&self) -> &BitmapSuperblock {
        &self.superblock
    }

    /// What its superblock says.
    pub fn superblock_fields(&self) -> &umd_format::bitmap::Fields {
        &self.superblock.fields
    }

    /// See `Bitmap::reach`.
    pub(super) fn reach(&mut self, sectors: u64) -> &BitmapSuperblock {
        self.superblock.fields.sync_size_sectors = sectors;
        &self.superblock
    }

    /// See `Bitmap::want_region`.
    pub(super) fn want_region(&mut self, bytes: u32) {
        self.wanted_region = Some(bytes);
    }

    /// See `Bitmap::hold`.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// See `Bitmap::is_still`.
    pub(super) fn is_still(&self) -> bool {
        self.held && self.is_idle() && self.left == 0
    }

    /// See `Bitmap::adopt`.
    pub(super) fn adopt(&mut self, members: &Members, regions: &mut Regions, to: (u32, i32)) {
        assert!(self.is_still(), "nobody writes where another one did");
        assert!(matches!(self.place, Place::Members(_)), "one of a cluster");
        (self.held, self.wanted_region) = (false, None);
        // Whoever wrote it there has set all bits of one that was not to be believed.
        self.no_longer_stale();
        self.superblock.fields.region_raw = to.0;
        self.place = Place::Members(to.1);
        let sectors = self.superblock.fields.sync_size_sectors;
        drop(regions.rechunk(&self.superblock, sectors));
        self.copies.extend(Self::bearers(members).map(|m| m.id));
    }

    /// See `Bitmap::has_region`.
    pub(super) fn has_region(&self, bytes: u32) -> bool {
        let turning = matches!(self.stage, Stage::Either(_) | Stage::Turn | Stage::Copy);
        let turning = turning || self.held;
        let wanted = self.wanted_region.is_some() || !self.copies.is_empty();
        self.superblock.fields.region_raw == bytes && !wanted && !turning
    }

    /// Seconds between clearing passes.
    pub fn daemon_sleep_seconds(&self) -> u32 {
        self.superblock.fields.daemon_sleep_s
    }

    /// See `Bitmap::write_behind`.
    pub(super) fn write_behind(&self) -> u32 {
        self.superblock.fields.write_behind
    }

    /// See `Bitmap::want_events`.
    pub(super) fn want_events(&mut self, events: Events) {
        self.wanted_events = self.wanted_events.max(events);
    }

    /// See `Bitmap::has_events`.
    pub(super) fn has_events(&self, events: Events) -> bool {
        let copying = matches!(self.stage, Stage::Copy) || !self.copies.is_empty();
        self.written_events >= events && !copying
    }

    /// See `Bitmap::want_copy`.
    pub(super) fn want_copy(&mut self, member: MemberId) {
        if matches!(self.place, Place::Members(_)) {
            self.copies.insert(member);
        }
    }

    /// Writes all of the file. Until that is over it says that it is stale.
    pub(super) fn want_file(&mut self) {
        assert!(self.stale, "a file that is not whole is not believed");
        if let Place::File(id) = self.place {
            self.copies.insert(id);
        }
    }

    /// Whether none of its I/O is under way.
    pub(super) fn rests(&self) -> bool {
        self.left == 0
    }

    /// Clears what is ripe when the writer comes to it.
    pub(super) fn want_clear(&mut self) {
        self.clear_wanted = true;
    }

    /// What must hold between two events.
    pub(super) fn check(&self) {
        assert!(self.left == 0 || !self.is_idle(), "I/O without a reason");
        let known = |id: &MemberId| match self.place {
            Place::Members(_) => true,
            Place::File(file) => file == *id,
            Place::Lost(_) => false,
        };
        assert!(self.copies.iter().all(known), "copies go where it lies");
        let carried = self.superblock.fields.events;
        assert!(carried >= self.written_events.0, "events only rise");
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether something waits to be written.
    pub(super) fn has_work(&self, regions: &Regions) -> bool {
        self.has_to_write(regions) || self.clear_wanted
    }

    /// The same without bits that may be cleared.
    pub(super) fn has_to_write(&self, regions: &Regions) -> bool {
        let events = self.wanted_events > self.written_events;
        let wanted = !self.copies.is_empty() || self.wanted_region.is_some();
        wanted || events || regions.has_open_batch()
    }

    /// A bitmap I/O ended. A member that cannot hold its bitmap is failed; the others go on.
    pub(super) fn done(&mut self, io: &mut Io, member: MemberId, result: Result<IoDone, IoError>) {
        assert!(self.left > 0, "a bitmap I/O that nobody started");
        self.left -= 1;
        if let Err(error) = result {
            io.effects.push(match self.stage {
                Stage::ClearFlush(_) => {
                    Effect::FlushFailed(member, format!("flush failed: {error}"))
                }
                _ => Effect::Fail(member, format!("bitmap write failed: {error}")),
            });
        }
    }

    /// Moves on when the current step is over. Returns whether anything changed.
    pub(super) fn advance(
        &mut self,
        io: &mut Io,
        members: &Members,
        regions: &mut Regions,
        leave: Leave,
    ) -> bool {
        let turning = matches!(self.stage, Stage::Either(_) | Stage::Turn);
        if self.left > 0 || turning && !leave.may_write {
            return false;
        }
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => return self.begin(io, members, regions, leave),
            Stage::Copy if self.is_file() => self.no_longer_stale(),
            Stage::Copy | Stage::Clearing => {}
            Stage::Front => self.front = false,
            Stage::Either(area) => self.turn(io, members, area),
            Stage::Turn => {
                let all = Self::bearers(members).map(|m| m.id).collect();
                self.write_copies(io, members, regions, &all);
                self.stage = Stage::Copy;
            }
            Stage::Header(events) => {
                assert!(events > self.written_events, "events only rise");
                self.written_events = events;
            }
            Stage::Batch(batch) => {
                regions.batch_written(batch);
                self.no_longer_stale();
            }
            Stage::ClearFlush(ripe) => self.clear_header(io, members, regions, leave, ripe),
            Stage::ClearHeader(ripe) => self.clear_pages(io, members, regions, leave, &ripe),
        }
        true
    }

    /// Once a stale bitmap was written with every bit set it tells the truth again, but not what
    /// members missed before: superblocks.md section 5.
    fn no_longer_stale(&mut self) {
        if std::mem::take(&mut self.stale) {
            let fields = &mut self.superblock.fields;
            fields.state = fields.state.without(State::STALE);
            fields.events_cleared = fields.events_cleared.max(self.written_events.0);
        }
    }

    fn begin(
        &mut self,
        io: &mut Io,
        members: &Members,
        regions: &mut Regions,
        leave: Leave,
    ) -> bool {
        if !leave.may_write || self.held {
            return false;
        }
        assert_eq!(self.left, 0, "one thing at a time");
        if self.front && self.has_work(regions) {
            self.write_header(io, members, regions);
            self.stage = Stage::Front;
        } else if let Some(bytes) = self.wanted_region.take() {
            self.write_either(io, members, regions, bytes);
        } else if !self.copies.is_empty() {
            let copies = std::mem::take(&mut self.copies);
            self.write_copies(io, members, regions, &copies);
            self.stage = Stage::Copy;
        } else if self.wanted_events > self.written_events {
            self.superblock.fields.events = self.wanted_events.0;
            self.write_header(io, members, regions);
            self.stage = Stage::Header(self.wanted_events);
        } else if let Some((batch, pages)) = regions.close_batch() {
            self.write_pages(io, members, regions, &pages);
            self.stage = Stage::Batch(batch);
        } else if self.clear_wanted {
            if self.must_wait(io.museum, leave) {
                return false;
            }
            self.clear_wanted = false;
            let ripe = if leave.may_clear {
                regions.ripe()
            } else {
                Vec::new()
            };
            if !ripe.is_empty() {
                // U06: bits went while members still held the data in their caches.
                if !io.museum.on(Exhibit::U06) {
                    self.flush(io, members);
                }
                self.stage = Stage::ClearFlush(ripe);
            }
        } else {
            return false;
        }
        true
    }

    /// Bits come to stand for so many bytes: what is dirty by either length is written.
    fn write_either(&mut self, io: &mut Io, members: &Members, regions: &mut Regions, bytes: u32) {
        regions.put_superblock(&self.superblock.encode());
        self.superblock.fields.region_raw = bytes;
        let sectors = self.superblock.fields.sync_size_sectors;
        let area = regions.rechunk(&self.superblock, sectors);
        self.write_area(io, members, &area);
        self.stage = Stage::Either(area);
    }

    /// It is on all members: superblocks may say the new length.
    fn turn(&mut self, io: &mut Io, members: &Members, mut area: Vec<u8>) {
        area[..SUPERBLOCK_BYTES].copy_from_slice(&self.superblock.encode());
        self.write_area(io, members, &area[..self.block_bytes]);
        self.stage = Stage::Turn;
    }

    /// The beginning of the area as given, on all members.
    fn write_area(&mut self, io: &mut Io, members: &Members, area: &[u8]) {
        for (id, start) in self.areas(members) {
            for (part, sector) in area
                .chunks(PAGE_BYTES)
                .zip((start..).step_by(PAGE_BYTES / 512))
            {
                let bytes = io.pool.copy_of(part);
                io.write_durable(id, sector, bytes, Purpose::Bitmap, Owner::Bitmap);
                self.left += 1;
            }
        }
    }

    /// Whether a pass of clearing is only put off: superblocks are being written, and it goes on
    /// after that. (Given up, an array that was stopped in good order would keep its bits.)
    fn must_wait(&self, museum: Museum, leave: Leave) -> bool {
        // U28: it was given up.
        let waits = !museum.on(Exhibit::U28);
        waits && leave.may_write && !leave.may_clear && !leave.degraded && !self.is_lost()
    }

    /// All members are flushed. Before the first bit goes, the area says since when bits may be
    /// missing.
    fn clear_header(
        &mut self,
        io: &mut Io,
        members: &Members,
        regions: &mut Regions,
        leave: Leave,
        ripe: Vec<u64>,
    ) {
        if !leave.may_clear {
            self.clear_wanted |= self.must_wait(io.museum, leave);
            return;
        }
        // M56 (a0da84f35b25): events_cleared did not follow the clearing of bits. In the direction
        // that loses data: bits go and it stays.
        let tells = !io.museum.on(Exhibit::M56);
        if tells && self.superblock.fields.events_cleared < leave.events.0 {
            self.superblock.fields.events_cleared = leave.events.0;
            self.write_header(io, members, regions);
        }
        self.stage = Stage::ClearHeader(ripe);
    }

    fn clear_pages(
        &mut self,
        io: &mut Io,
        members: &Members,
        regions: &mut Regions,
        leave: Leave,
        ripe: &[u64],
    ) {
        if !leave.may_clear {
            self.clear_wanted |= self.must_wait(io.museum, leave);
            return;
        }
        assert!(!ripe.is_empty(), "a pass has regions to clear");
        let pages = regions.clear(ripe);
        self.write_pages(io, members, regions, &pages);
        self.stage = Stage::Clearing;
    }

    /// The members that carry the bitmap: all with a slot.
    fn bearers(members: &Members) -> impl Iterator<Item = &Member> {
        members.iter().filter(|m| m.is_active())
    }

    /// Where the areas begin.
    fn areas(&self, members: &Members) -> SmallVec<[(MemberId, u64); 8]> {
        match self.place {
            Place::Members(offset_sectors) => Self::bearers(members)
                .map(|member| (member.id, area_sector(member, offset_sectors)))
                .collect(),
            Place::File(id) => smallvec![(id, 0)],
            Place::Lost(_) => SmallVec::new(),
        }
    }

    fn write_part(
        &mut self,
        io: &mut Io,
        members: &Members,
        regions: &Regions,
        page: usize,
        len: usize,
    ) {
        assert!(len > 0 && len <= PAGE_BYTES, "a part of a page");
        let mut bytes = io.pool.copy_of(&regions.page(page)[..len]);
        if io.museum.on(Exhibit::M59) {
            // M59 (ab99a87542f1): the last write of the bitmap was rounded up to the device's
            // optimal size, and carried whatever lay behind the page.
            bytes = io
                .pool
                .copy_of(&[regions.page(page), &[0xa5; PAGE_BYTES]].concat());
        }
        for (id, start) in self.areas(members) {
            let sector = start + (page * PAGE_BYTES / 512) as u64;
            io.write_durable(id, sector, bytes.clone(), Purpose::Bitmap, Owner::Bitmap);
            self.left += 1;
        }
    }

    fn write_header(&mut self, io: &mut Io, members: &Members, regions: &mut Regions) {
        // M71 (linux-raid, 2025-03-02): the end of a node's bitmap was counted from where that of
        // the first node begins, so that no other node ever wrote the superblock of its own.
        if io.museum.on(Exhibit::M71) && self.is_of_a_later_slot(members) {
            return;
        }
        regions.put_superblock(&self.superblock.encode());
        let len = self.block_bytes.min(self.page_len(regions, 0));
        self.write_part(io, members, regions, 0, len);
    }

    fn is_of_a_later_slot(&self, members: &Members) -> bool {
        let first = |m: &Member| m.superblock.fields.bitmap_sector();
        let begin = |(id, start): &(MemberId, u64)| {
            let member = members.get(*id).expect("it carries the bitmap");
            first(member).is_some_and(|first| first != *start)
        };
        self.areas(members).iter().any(begin)
    }

    fn write_pages(&mut self, io: &mut Io, members: &Members, regions: &Regions, pages: &[usize]) {
        for page in pages {
            let len = self.page_len(regions, *page);
            self.write_part(io, members, regions, *page, len);
        }
    }

    /// Length of a page on disk: the last one ends with the area, rounded to logical blocks.
    fn page_len(&self, regions: &Regions, page: usize) -> usize {
        let area = regions.area_bytes().next_multiple_of(self.block_bytes);
        assert!(page * PAGE_BYTES < area, "a page of the area");
        PAGE_BYTES.min(area - page * PAGE_BYTES)
    }

    fn write_copies(
        &mut self,
        io: &mut Io,
        members: &Members,
        regions: &mut Regions,
        copies: &BTreeSet<MemberId>,
    ) {
        regions.put_superblock(&self.superblock.encode());
        let pages = regions.area_bytes().div_ceil(PAGE_BYTES);
        for (id, start) in self.areas(members) {
            if !copies.contains(&id) {
                continue;
            }
            for page in 0..pages {
                let len = self.page_len(regions, page);
                let bytes = io.pool.copy_of(&regions.page(page)[..len]);
                let sector = start + (page * PAGE_BYTES / 512) as u64;
                io.write_durable(id, sector, bytes, Purpose::Bitmap, Owner::Bitmap);
                self.left += 1;
            }
        }
    }

    fn flush(&mut self, io: &mut Io, members: &Members) {
        for member in Self::bearers(members) {
            io.submit(member.id, Purpose::Flush, IoOp::Flush, Owner::Bitmap);
            self.left += 1;
        }
    }
}

fn area_sector(member: &Member, offset_sectors: i32) -> u64 {
    let start = member.superblock.fields.super_offset_sectors;
    start
        .checked_add_signed(i64::from(offset_sectors))
        .expect("verified when the superblock was read")
}
