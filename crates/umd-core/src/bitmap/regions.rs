//! The bits in memory: who is writing where, and what is durable.
//!
//! | bit in memory | in `pending` | meaning |
//! |---|---|---|
//! | 0 | - | clean |
//! | 1 | yes | marked, waits for its batch |
//! | 1 | no | marked on every member |
//!
//! The batch of a region is taken after its bit is set in memory, and compared with the last batch
//! *written*: a write that joins late can wait for a batch too many, never for one too few.

mod reach;
mod rechunk;

use std::collections::{BTreeMap, BTreeSet};

use umd_format::bitmap::{BitmapSuperblock, RegionState, SUPERBLOCK_BYTES};

use self::rechunk::Era;
use super::marks::Marks;
use crate::value::{Exhibit, MAX_SECTOR, Museum};

/// Bytes of the area that are written as one unit at most.
pub const PAGE_BYTES: usize = 4096;

const IDLE: u8 = 1;
const NEEDED: u8 = 2;
/// Chosen by the pass of clearing that is under way, and not written since.
const RIPE: u8 = 4;
/// The resync that is under way has begun here, and nothing was written for the first time since.
const SYNCING: u8 = 8;
/// What only marked regions carry.
const MARKED: u8 = IDLE | RIPE;

/// Regions marked and counted, not yet known to be durable.
#[derive(Debug)]
pub struct Ticket {
    span: Option<(u64, u64)>,
    batch: u64,
    /// Of which length its regions are.
    era: usize,
}

/// Proof that these regions are marked on every member, and a count that keeps them marked.
#[derive(Debug)]
pub struct Intent {
    span: Option<(u64, u64)>,
    region_sectors: u64,
    era: usize,
}

impl Intent {
    /// Panics when the intent does not cover these member data sectors.
    pub fn assert_covers(&self, start_sectors: u64, len_sectors: u64) {
        let Some((first, last)) = self.span else {
            return;
        };
        let end = (last + 1) * self.region_sectors;
        let inside = first * self.region_sectors <= start_sectors;
        assert!(
            inside && start_sectors + len_sectors <= end,
            "a write outside its intent"
        );
    }
}

impl Ticket {
    /// A ticket that needs nothing.
    pub(super) fn free() -> Ticket {
        Ticket {
            span: None,
            batch: 0,
            era: 0,
        }
    }

    /// The intent of an array that keeps no bitmap.
    pub(super) fn grant_free(self) -> Intent {
        assert!(
            self.span.is_none(),
            "a counted ticket is redeemed by its bitmap"
        );
        Intent {
            span: None,
            region_sectors: 0,
            era: 0,
        }
    }
}

/// Bytes of bits that are checked together.
const BLOCK: usize = 16;
/// Regions of a block.
const BLOCK_REGIONS: usize = 8 * BLOCK;

/// What the checks have seen: a look at all regions after each event is too dear for long bitmaps.
#[derive(Debug)]
struct Watch {
    /// Blocks that changed since they were checked, each once.
    changed: Vec<usize>,
    /// For each block whether it is in `changed`.
    is_changed: Vec<bool>,
    /// For each block how many of its bits were set when it was checked.
    marked: Vec<u64>,
    /// The sum of those.
    dirty: u64,
    /// The last batch written when the waiting regions were checked.
    written_batch: u64,
}

impl Watch {
    /// A watch that has seen nothing.
    fn new(regions: usize) -> Watch {
        let blocks = regions.div_ceil(BLOCK_REGIONS);
        Watch {
            changed: (0..blocks).collect(),
            is_changed: vec![true; blocks],
            marked: vec![0; blocks],
            dirty: 0,
            written_batch: 0,
        }
    }

    /// Something about this region changes.
    fn touch(&mut self, region: u64) {
        let block = region as usize / BLOCK_REGIONS;
        if !std::mem::replace(&mut self.is_changed[block], true) {
            self.changed.push(block);
        }
    }

    /// A block was checked, and has so many bits set.
    fn checked(&mut self, block: usize, marked: u64) {
        let before = std::mem::replace(&mut self.marked[block], marked);
        self.dirty = self.dirty + marked - before;
        self.is_changed[block] = false;
    }
}

/// The regions of one bitmap.
#[derive(Debug)]
pub struct Regions {
    count: u64,
    region_sectors: u64,
    /// The lengths that regions have had, up to that of now.
    eras: Vec<Era>,
    marks: Marks,
    writers: Vec<u32>,
    flags: Vec<u8>,
    dirty: u64,
    pending: BTreeMap<u64, u64>,
    open_batch: u64,
    open_pages: BTreeSet<usize>,
    /// Somebody waits for the open batch.
    demanded: bool,
    written_batch: u64,
    /// Regions below this were found not to need a resync any more.
    swept: u64,
    /// Marks alone say who needs a resync, whatever superblocks say: states do, and the bits of a
    /// node of a cluster.
    tell_all: bool,
    /// Every page was written to every member, or is about to be.
    whole: bool,
    /// Regions that need a resync.
    needed: u64,
    /// A slot has no member in sync: what is written now somebody will have to be told.
    degraded: bool,
    watch: Watch,
    museum: Museum,
}

impl Regions {
    /// From the area as read from a member; see `Bitmap::load`.
    pub fn load(
        superblock: &BitmapSuperblock,
        image: &[u8],
        dev_sectors: u64,
        resync_from_sectors: u64,
        stale: bool,
    ) -> Regions {
        let region_sectors = superblock.fields.region_bytes() / 512;
        assert!(region_sectors > 0, "verified by the format");
        let count = dev_sectors.div_ceil(region_sectors);
        let slots = usize::try_from(count).expect("bitmaps fit memory");
        let mut regions = Regions {
            count,
            region_sectors,
            eras: vec![Era::new(region_sectors, count)],
            marks: Marks::load(superblock, image, count, stale),
            writers: vec![0; slots],
            flags: vec![0; slots],
            dirty: 0,
            pending: BTreeMap::new(),
            open_batch: 1,
            open_pages: BTreeSet::new(),
            demanded: false,
            written_batch: 0,
            swept: 0,
            tell_all: superblock.is_lockless() || superblock.is_clustered(),
            whole: false,
            needed: 0,
            degraded: false,
            watch: Watch::new(slots),
            museum: Museum::NONE,
        };
        // The area was read from one member; after a crash the others may lack some of its bits.
        // So nothing that was read counts as durable until it was written once, to all.
        for region in 0..count {
            if regions.bit(region) {
                regions.dirty += 1;
                regions.pending.insert(region, regions.open_batch);
                regions.open_pages.insert(regions.marks.page_of(region));
                let owed = regions.end_sectors(region) > resync_from_sectors;
                if owed || regions.tell_all {
                    regions.need(region);
                }
            }
        }
        if stale {
            regions.set_all(resync_from_sectors);
        }
        regions
    }

    /// Marks everything, for a bitmap that missed writes. What was never written stays so.
    fn set_all(&mut self, resync_from_sectors: u64) {
        if self.marks.has_states() {
            return;
        }
        for region in 0..self.count {
            self.mark(region);
            self.watch.touch(region);
            let owed =
                resync_from_sectors != MAX_SECTOR && self.end_sectors(region) > resync_from_sectors;
            if owed || self.tell_all {
                self.need(region);
            }
        }
        assert_eq!(self.dirty, self.count, "every region is marked");
    }

    /// A region needs a resync.
    fn need(&mut self, region: u64) {
        let flags = &mut self.flags[region as usize];
        self.needed += u64::from(*flags & NEEDED == 0);
        *flags |= NEEDED;
    }

    /// A region needs no resync any more.
    fn synced(&mut self, region: u64) {
        self.watch.touch(region);
        let flags = &mut self.flags[region as usize];
        self.needed -= u64::from(*flags & NEEDED != 0);
        *flags &= !(NEEDED | SYNCING);
        if self.marks.state(region) == RegionState::NeedSync {
            self.marks.put(region, RegionState::Dirty);
        }
    }

    /// Whether some slot has no member in sync.
    pub(super) fn set_degraded(&mut self, degraded: bool) {
        self.degraded = degraded;
    }

    /// Whether regions have states: then they alone say who needs a resync.
    pub fn has_states(&self) -> bool {
        self.marks.has_states()
    }

    /// Whether marks alone say who needs a resync.
    pub fn tell_all(&self) -> bool {
        self.tell_all
    }

    /// Whether some region needs a resync.
    pub fn needs_any(&self) -> bool {
        self.needed > 0
    }

    /// Whether nobody has ever written the region of a sector, so that its members may differ.
    pub fn is_unwritten(&self, sector: u64) -> bool {
        self.marks.state(sector / self.region_sectors) == RegionState::Unwritten
    }

    pub(super) fn exhibit(&mut self, museum: Museum) {
        self.museum = museum;
        if museum.on(Exhibit::U07) {
            // The bits of the member that was read were taken to be on all the others too.
            self.pending.clear();
            self.open_pages.clear();
        }
    }

    fn end_sectors(&self, region: u64) -> u64 {
        (region + 1) * self.region_sectors
    }

    fn bit(&self, region: u64) -> bool {
        self.marks.is_marked(region)
    }

    /// Number of regions.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Regions that are marked.
    pub fn dirty(&self) -> u64 {
        self.dirty
    }

    /// How many regions are marked from `start` up to `end`.
    pub fn dirty_between(&self, start: u64, end: u64) -> u64 {
        (start..end).filter(|region| self.bit(*region)).count() as u64
    }

    /// Member data sectors per region.
    pub fn region_sectors(&self) -> u64 {
        self.region_sectors
    }

    /// Length of the area on disk, whole sectors.
    pub(super) fn area_bytes(&self) -> usize {
        self.marks.area_bytes()
    }

    /// One page of the area.
    pub(super) fn page(&self, page: usize) -> &[u8] {
        self.marks.page(page)
    }

    /// The image with the superblock's bytes put in front.
    pub(super) fn put_superblock(&mut self, bytes: &[u8; SUPERBLOCK_BYTES]) {
        self.marks.image[..SUPERBLOCK_BYTES].copy_from_slice(bytes);
    }

    /// Sets the bit in memory; if it was clear it joins the open batch.
    fn mark(&mut self, region: u64) {
        assert!(region < self.count, "a region of the bitmap");
        let before = self.marks.state(region);
        if before.is_marked() {
            return;
        }
        let old = self.flags[region as usize];
        assert_eq!(old, 0, "a clean region carries no flags");
        self.watch.touch(region);
        // Around what is written for the first time members still differ. Kernels let those of a
        // mirror be; here a clean region is one in which members agree.
        //
        // U20: the first write to a region was like any other: all of the region counted as clean
        // when it had been idle, and parity that nobody had ever computed was modified.
        let first = before == RegionState::Unwritten && !self.museum.on(Exhibit::U20);
        let state = match first || self.degraded {
            true => RegionState::NeedSync,
            false => RegionState::Dirty,
        };
        if first {
            self.need(region);
        }
        self.marks.put(region, state);
        self.dirty += 1;
        self.pending.insert(region, self.open_batch);
        self.open_pages.insert(self.marks.page_of(region));
    }

    /// Marks and counts the regions of a write; see `Bitmap::join`.
    pub(super) fn join(&mut self, start_sectors: u64, len_sectors: u64) -> Ticket {
        assert!(len_sectors > 0, "a write covers something");
        let first = start_sectors / self.region_sectors;
        let last = (start_sectors + len_sectors - 1) / self.region_sectors;
        assert!(last < self.count, "a write lies inside the bitmap");
        let mut batch = 0;
        for region in first..=last {
            let marked = self.bit(region);
            self.mark(region);
            // M29 (d0852df543e5): a write that joined a region whose bit was being set went on
            // at once; the mark that it had to wait for was put on another list.
            let overtakes = marked && self.museum.on(Exhibit::M29);
            if let Some(seq) = self.pending.get(&region).filter(|_| !overtakes) {
                batch = batch.max(self.stamp(*seq));
                self.demanded |= *seq == self.open_batch;
            }
            self.watch.touch(region);
            let writers = &mut self.writers[region as usize];
            *writers = writers.saturating_add(1);
            self.flags[region as usize] &= !(IDLE | RIPE);
        }
        Ticket {
            span: Some((first, last)),
            batch,
            era: self.era(),
        }
    }

    fn era(&self) -> usize {
        self.eras.len() - 1
    }

    /// The batch that a write has to wait for whose region is in batch `seq`.
    fn stamp(&self, seq: u64) -> u64 {
        // M28 (7c785b7a18dc): the number of the batch was taken before the bit was set. A batch
        // that was on its way by then did not carry the bit.
        let on_its_way = self.open_batch - 1 > self.written_batch;
        if on_its_way && seq == self.open_batch && self.museum.on(Exhibit::M28) {
            return seq - 1;
        }
        seq
    }

    /// The intent of a ticket whose batch was written.
    pub(super) fn redeem(&self, ticket: Ticket) -> Result<Intent, Ticket> {
        if ticket.batch > self.written_batch {
            return Err(ticket);
        }
        // The regions of an earlier length are others by now.
        if let Some((first, last)) = ticket.span.filter(|_| ticket.era == self.era()) {
            for region in first..=last {
                assert!(
                    self.writers[region as usize] > 0,
                    "a counted region lost its count"
                );
                let shown = self.museum.on(Exhibit::M28) || self.museum.on(Exhibit::M29);
                assert!(
                    shown || !self.pending.contains_key(&region),
                    "granted before it was durable"
                );
            }
        }
        Ok(Intent {
            span: ticket.span,
            region_sectors: self.eras[ticket.era].region_sectors,
            era: ticket.era,
        })
    }

    /// The write is over.
    pub(super) fn retire(&mut self, intent: Intent) {
        self.uncount(intent.span, intent.era);
    }

    /// The write never began.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        self.uncount(ticket.span, ticket.era);
    }

    fn uncount(&mut self, span: Option<(u64, u64)>, era: usize) {
        let Some((first, last)) = span else { return };
        if era != self.era() {
            return self.uncount_of((first, last), era);
        }
        assert!(last < self.count, "a span of this bitmap");
        for region in first..=last {
            self.leave_region(region, 1);
            self.watch.touch(region);
        }
    }

    /// So many less write in a region. Where they cannot be counted any more they never end.
    fn leave_region(&mut self, region: u64, count: u32) {
        let writers = &mut self.writers[region as usize];
        assert!(
            *writers >= count,
            "a region was retired more often than joined"
        );
        if *writers < u32::MAX {
            *writers -= count;
        }
    }

    /// Closes the open batch: its number and the pages to write, if there are any.
    pub(super) fn close_batch(&mut self) -> Option<(u64, Vec<usize>)> {
        if !self.has_open_batch() {
            return None;
        }
        self.demanded = false;
        let pages: Vec<usize> = std::mem::take(&mut self.open_pages).into_iter().collect();
        assert!(!pages.is_empty(), "a batch has something to write");
        let batch = self.open_batch;
        assert!(batch > self.written_batch, "the open batch is not written");
        self.open_batch += 1;
        Some((batch, pages))
    }

    /// Whether somebody waits for a batch to be written.
    pub(super) fn has_open_batch(&self) -> bool {
        self.demanded && !self.open_pages.is_empty()
    }

    /// Marks these regions as those of a node that died: members may differ there. A resync that is
    /// under way does not count for them. Returns the batch that makes it durable.
    pub fn take_over(&mut self, regions: &[u64]) -> u64 {
        assert!(self.tell_all, "bits of a cluster");
        let mut batch = self.written_batch;
        for region in regions {
            self.mark(*region);
            self.watch.touch(*region);
            self.flags[*region as usize] &= !(IDLE | RIPE | SYNCING);
            self.need(*region);
            batch = batch.max(self.pending.get(region).copied().unwrap_or(0));
        }
        self.demand();
        batch
    }

    /// Marks what others have marked: somebody misses it. Nothing is in doubt there for that.
    pub fn mark_also(&mut self, regions: &[u64]) {
        assert!(self.tell_all, "bits of a cluster");
        for region in regions {
            self.mark(*region);
            self.watch.touch(*region);
            self.flags[*region as usize] &= !(IDLE | RIPE);
        }
    }

    /// Whether a batch is on every member.
    pub fn is_written(&self, batch: u64) -> bool {
        self.written_batch >= batch
    }

    /// Has everything that is marked in memory written to every member.
    pub fn demand(&mut self) {
        self.demanded = true;
    }

    /// A batch is on every member.
    pub(super) fn batch_written(&mut self, batch: u64) {
        assert!(batch > self.written_batch, "batches are written in order");
        assert!(batch < self.open_batch, "a batch is closed, then written");
        self.written_batch = batch;
        self.pending.retain(|_, seq| *seq > batch);
    }

    fn idle(&self, region: u64) -> bool {
        self.bit(region)
            && self.writers[region as usize] == 0
            && self.flags[region as usize] & NEEDED == 0
    }

    fn clearable(&self, region: u64) -> bool {
        self.idle(region) && !self.pending.contains_key(&region)
    }

    /// One pass of aging; returns whether some region was idle for the second time.
    pub(super) fn age(&mut self) -> bool {
        self.demanded |= !self.open_pages.is_empty();
        let idle: Vec<u64> = self.marks.marked().filter(|r| self.clearable(*r)).collect();
        let mut ripe = false;
        for region in idle {
            let flags = &mut self.flags[region as usize];
            ripe |= *flags & IDLE != 0;
            *flags |= IDLE;
            self.watch.touch(region);
        }
        ripe
    }

    /// Counts every region without a writer as idle for long enough. Members whose last bits an
    /// earlier run failed to clear, or to set, get the same bitmap as all others.
    pub(super) fn mark_all_idle(&mut self) {
        // In a cluster a member may have come with old bits of a slot that nobody had then.
        let shared = self.tell_all && !self.has_states();
        let own = self.written_batch > 0 || shared;
        if own && !std::mem::replace(&mut self.whole, true) {
            self.open_pages
                .extend(0..self.area_bytes().div_ceil(PAGE_BYTES));
        }
        self.demanded |= !self.open_pages.is_empty();
        let idle: Vec<u64> = self.marks.marked().filter(|r| self.idle(*r)).collect();
        for region in idle {
            self.flags[region as usize] |= IDLE;
            self.watch.touch(region);
        }
    }

    /// Begins a pass of clearing: the regions that have been idle since the last pass. A write
    /// that comes in later takes its region out of the pass, also when it ends before the pass
    /// does.
    pub(super) fn ripe(&mut self) -> Vec<u64> {
        let ripe = |r: &u64| self.flags[*r as usize] & IDLE != 0 && self.clearable(*r);
        let regions: Vec<u64> = self.marks.marked().filter(ripe).collect();
        for region in &regions {
            self.flags[*region as usize] |= RIPE;
            self.watch.touch(*region);
        }
        regions
    }

    /// Clears those of `regions` that are still idle; returns the pages to write.
    pub(super) fn clear(&mut self, regions: &[u64]) -> Vec<usize> {
        let mut pages = BTreeSet::new();
        for region in regions {
            // U01: what was written and retired since the flush of this pass was cleared with it.
            let ripe = self.flags[*region as usize] & RIPE != 0 || self.museum.on(Exhibit::U01);
            if !ripe || !self.clearable(*region) {
                continue;
            }
            assert_eq!(self.writers[*region as usize], 0, "a bit is needed");
            assert!(self.dirty > 0, "a marked region was counted");
            self.marks.put(*region, RegionState::Clean);
            self.flags[*region as usize] = 0;
            self.watch.touch(*region);
            self.dirty -= 1;
            pages.insert(self.marks.page_of(*region));
        }
        pages.into_iter().collect()
    }

    /// Whether the region of a sector has to be resynced.
    pub fn needs_resync(&self, sector: u64) -> bool {
        self.flags[(sector / self.region_sectors) as usize] & NEEDED != 0
    }

    /// Whether members may differ in the region of a sector.
    pub fn in_doubt(&self, sector: u64) -> bool {
        self.needs_resync(sector) || self.is_unwritten(sector)
    }

    /// Whether the region of a sector is marked.
    pub fn is_dirty(&self, sector: u64) -> bool {
        self.bit(sector / self.region_sectors)
    }

    /// First sector behind the region of a sector.
    pub fn region_end_sectors(&self, sector: u64) -> u64 {
        self.end_sectors(sector / self.region_sectors)
    }

    /// A resync begins: what it passes will no longer need one.
    pub fn resync_begins(&mut self) {
        self.swept = 0;
        self.demand();
        for region in 0..self.count {
            self.flags[region as usize] &= !SYNCING;
            self.watch.touch(region);
        }
    }

    /// The resync begins with what lies at `sector`. A region that is first written later, behind
    /// its back, stays one that needs a resync.
    pub fn resync_at(&mut self, sector: u64) {
        let region = sector / self.region_sectors;
        let at_start = sector == region * self.region_sectors;
        if at_start && self.flags[region as usize] & NEEDED != 0 {
            self.flags[region as usize] |= SYNCING;
            self.watch.touch(region);
        }
    }

    /// Whether a resync that passed a region has done what was asked for.
    fn was_resynced(&self, region: u64) -> bool {
        // U21: the end of a resync counted for regions as well that were first written after it
        // had passed over them.
        let all = !self.tell_all || self.museum.on(Exhibit::U21);
        all || self.flags[region as usize] & SYNCING != 0
    }

    /// Everything below `sector` was resynced: whole regions there no longer need it.
    pub fn resynced_below(&mut self, sector: u64) {
        let whole = (sector / self.region_sectors).min(self.count);
        for region in self.swept..whole {
            if self.was_resynced(region) {
                self.synced(region);
            }
        }
        self.swept = self.swept.max(whole);
        assert!(self.swept <= self.count, "a resync ends with the bitmap");
    }

    /// Every region was resynced.
    pub fn resynced(&mut self) {
        for region in 0..self.count {
            if self.was_resynced(region) {
                self.synced(region);
            }
        }
    }

    /// Checks the regions of a block, and counts those that are marked.
    fn check_block(&self, block: usize) -> u64 {
        let first = block * BLOCK_REGIONS;
        let end = (first + BLOCK_REGIONS).min(self.writers.len());
        let (writers, flags) = (&self.writers[first..end], &self.flags[first..end]);
        // Nearly all blocks are at rest: whatever their bits say is right, and they are only
        // counted.
        let writing = writers.iter().fold(0, |all, count| all | count);
        let flagged = flags.iter().fold(0, |all, flag| all | flag);
        let resting = writing == 0 && flagged & MARKED == 0;
        if resting && writers.len() == BLOCK_REGIONS {
            return self.marks.count_marked(first..end);
        }
        let mut dirty = 0;
        for (region, (writers, flags)) in writers.iter().zip(flags).enumerate() {
            let marked = self.bit((first + region) as u64);
            let (idle, ripe) = (flags & IDLE != 0, flags & RIPE != 0);
            dirty += u64::from(marked);
            assert!(*writers == 0 || marked, "a writer in a clean region");
            assert!(flags & MARKED == 0 || marked, "a flag in a clean region");
            assert!(!ripe || idle, "chosen while not idle");
            assert!(!idle || *writers == 0, "idle with a writer");
        }
        dirty
    }

    /// Checks what waits in these regions.
    fn check_pending(&self, regions: std::ops::Range<u64>) {
        for (region, batch) in self.pending.range(regions) {
            assert!(self.bit(*region), "a clean region waits for its batch");
            assert!(
                *batch > self.written_batch,
                "a region waits for a written batch"
            );
            assert!(
                *batch <= self.open_batch,
                "a region waits for a batch to come"
            );
        }
    }

    fn check_sums(&self, dirty: u64) {
        assert_eq!(self.dirty, dirty, "dirty count");
        assert!(
            self.written_batch < self.open_batch,
            "the open batch is written"
        );
    }

    /// The counters and the bits agree, in all regions.
    pub fn check(&self) {
        let mut dirty = 0;
        for (block, marked) in self.watch.marked.iter().enumerate() {
            let found = self.check_block(block);
            let seen = self.watch.is_changed[block] || found == *marked;
            assert!(seen, "dirty count: a block changed, and nobody has seen it");
            dirty += found;
        }
        self.check_pending(0..u64::MAX);
        self.check_sums(dirty);
    }

    /// The counters and the bits agree, where anything changed since the last time.
    pub fn check_changed(&mut self) {
        let mut changed = std::mem::take(&mut self.watch.changed);
        let written = std::mem::replace(&mut self.watch.written_batch, self.written_batch);
        for block in changed.drain(..) {
            let dirty = self.check_block(block);
            self.watch.checked(block, dirty);
            let first = (block * BLOCK_REGIONS) as u64;
            self.check_pending(first..first + BLOCK_REGIONS as u64);
        }
        // Nobody is asked to build this list again.
        self.watch.changed = changed;
        if written != self.written_batch {
            self.check_pending(0..u64::MAX);
        }
        self.check_sums(self.watch.dirty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_format::Uuid;
    use umd_format::bitmap::{bit_position, on_disk_bytes};

    /// Regions of 8 sectors.
    fn regions(count: u64, set: &[u64]) -> Regions {
        let superblock = BitmapSuperblock::new(Uuid([1; 16]), count * 8, 4096);
        let mut image = vec![0u8; on_disk_bytes(count) as usize];
        for region in set {
            let (byte, mask) = bit_position(*region);
            image[byte as usize] |= mask;
        }
        Regions::load(&superblock, &image, count * 8, MAX_SECTOR, false)
    }

    #[test]
    fn a_late_joiner_waits_for_the_next_batch() {
        let mut r = regions(16, &[]);
        let early = r.join(0, 1);
        let (batch, pages) = r.close_batch().expect("a batch");
        assert_eq!(pages, [0]);
        let late = r.join(8, 1);
        r.batch_written(batch);
        let early = r.redeem(early).expect("its batch is written");
        let late = r.redeem(late).expect_err("its batch is not");
        let (next, _) = r.close_batch().expect("another batch");
        r.batch_written(next);
        r.retire(r.redeem(late).expect("now it is"));
        r.retire(early);
        r.check();
    }

    #[test]
    fn bits_as_read_are_not_durable_before_they_were_written() {
        let mut r = regions(16, &[3]);
        assert!(!r.has_open_batch(), "nothing is written unasked");
        let ticket = r.join(24, 1);
        let ticket = r
            .redeem(ticket)
            .expect_err("other members may lack the bit");
        let (batch, _) = r.close_batch().expect("a batch");
        r.batch_written(batch);
        r.retire(r.redeem(ticket).expect("durable"));
    }

    #[test]
    fn only_regions_idle_twice_are_cleared() {
        let mut r = regions(16, &[]);
        let a = r.join(0, 8);
        let b = r.join(8, 8);
        let (batch, _) = r.close_batch().expect("a batch");
        r.batch_written(batch);
        let (a, b) = (r.redeem(a).expect("durable"), r.redeem(b).expect("durable"));
        r.retire(a);
        assert!(!r.age());
        assert!(r.age());
        assert_eq!(r.ripe(), [0]);
        let again = r.join(0, 1);
        assert_eq!(r.ripe(), [] as [u64; 0], "a joined region is young again");
        r.abandon(again);
        assert_eq!(r.clear(&[0]), [] as [usize; 0], "not idle for long enough");
        r.mark_all_idle();
        let none: [usize; 0] = [];
        assert_eq!(
            r.clear(&[0]),
            none,
            "idle again, but it was not flushed since"
        );
        assert_eq!(r.ripe(), [0]);
        assert_eq!(r.clear(&[0, 1]), [0], "region 1 has a writer");
        assert_eq!(r.dirty(), 1);
        r.retire(b);
        r.check();
    }

    #[test]
    fn what_needs_a_resync_is_never_cleared() {
        let superblock = BitmapSuperblock::new(Uuid([1; 16]), 64, 4096);
        let image = vec![0xff; on_disk_bytes(8) as usize];
        let mut r = Regions::load(&superblock, &image, 64, 0, false);
        r.mark_all_idle();
        assert_eq!(r.ripe(), [] as [u64; 0]);
        r.resync_begins();
        r.resynced_below(20);
        assert!(!r.needs_resync(0) && !r.needs_resync(15) && r.needs_resync(16));
        assert!(r.needs_any());
        r.resynced();
        assert!(!r.needs_resync(63) && !r.needs_any());
    }

    #[test]
    #[should_panic(expected = "more often than joined")]
    fn a_region_is_retired_once() {
        let mut r = regions(4, &[]);
        let ticket = r.join(0, 1);
        let other = Ticket {
            span: ticket.span,
            batch: 0,
            era: 0,
        };
        r.abandon(ticket);
        r.abandon(other);
    }

    #[test]
    fn what_does_not_fit_is_noticed_in_every_block() {
        let count = 3 * 8 * BLOCK as u64 + 5;
        type Break = fn(&mut Regions, usize);
        let wrong: [(&str, Break); 5] = [
            ("a writer in a clean region", |r, at| r.writers[at] = 1),
            ("a flag in a clean region", |r, at| r.flags[at] = IDLE),
            ("dirty count", |r, at| {
                r.marks.image[SUPERBLOCK_BYTES + at / 8] ^= 1 << (at % 8)
            }),
            ("chosen while not idle", |r, at| {
                r.mark(at as u64);
                r.flags[at] = RIPE;
            }),
            ("idle with a writer", |r, at| {
                let _ = r.join(at as u64 * r.region_sectors, 1);
                r.flags[at] = IDLE;
            }),
        ];
        for (why, break_it) in wrong {
            for at in [0, 1, count / 2, count - 6, count - 1] {
                let broken = || {
                    let mut r = regions(count, &[]);
                    r.check();
                    r.check_changed();
                    break_it(&mut r, at as usize);
                    r
                };
                let unseen = complaint(|| broken().check());
                assert!(unseen.contains(why), "{unseen} at {at}");
                let touched = || {
                    let mut r = broken();
                    r.watch.touch(at);
                    r.check_changed();
                };
                assert_eq!(complaint(touched), why, "at {at}");
            }
        }
    }

    /// What a check panics with, without the numbers.
    fn complaint(check: impl FnOnce()) -> String {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        let panic = panic.expect_err("a check that fails");
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let text = text.expect("a panic with a text");
        let first = text.lines().next().expect("a sentence");
        let plain = first.strip_prefix("assertion `left == right` failed: ");
        plain.unwrap_or(first).to_owned()
    }

    #[test]
    fn a_change_that_is_not_watched_is_noticed() {
        let count = 3 * BLOCK_REGIONS as u64;
        let mut r = regions(count, &[]);
        r.check_changed();
        let ticket = r.join(200 * r.region_sectors, 1);
        r.check();
        r.check_changed();
        r.marks.image[SUPERBLOCK_BYTES + 300 / 8] ^= 1 << (300 % 8);
        r.dirty += 1;
        let why = "dirty count: a block changed, and nobody has seen it";
        assert_eq!(complaint(|| r.check()), why);
        assert_eq!(complaint(|| r.check_changed()), "dirty count");
        r.abandon(ticket);
    }

    #[test]
    fn whatever_happens_to_a_region_is_watched() {
        type Step = fn(&mut Regions);
        let all: [(&str, Step); 8] = [
            ("join", |r| {
                let _counted = r.join(0, 1);
            }),
            ("abandon", |r| {
                let ticket = Ticket {
                    span: Some((0, 0)),
                    batch: 0,
                    era: 0,
                };
                r.abandon(ticket);
            }),
            ("age", |r| assert!(!r.age())),
            ("ripe", |r| assert_eq!(r.ripe(), [0])),
            ("clear", |r| assert_eq!(r.clear(&[0]), [0])),
            ("set all", |r| r.set_all(0)),
            ("resynced below", |r| r.resynced_below(8)),
            ("resynced", Regions::resynced),
        ];
        let mut r = regions(4, &[]);
        for (what, step) in all {
            r.check_changed();
            assert_eq!(r.watch.changed, [] as [usize; 0]);
            step(&mut r);
            assert_eq!(r.watch.changed, [0], "{what}");
            r.demand();
            if let Some((batch, _)) = r.close_batch() {
                r.batch_written(batch);
            }
        }
        r.check_changed();
        r.mark_all_idle();
        assert_eq!(r.watch.changed, [0], "mark all idle");
    }

    /// What a resync clears has to be what was known to all members: marks that one of them alone
    /// had are written to the others first.
    #[test]
    fn a_resync_has_all_marks_written_first() {
        let mut r = regions(16, &[3, 9]);
        assert!(!r.has_open_batch());
        r.resync_begins();
        let (batch, pages) = r.close_batch().expect("a batch");
        assert_eq!(pages, [0]);
        r.batch_written(batch);
        assert!(!r.has_open_batch());
        r.check();
    }

    /// A bitmap that missed writes says so of every region; of a clean array none needs a resync,
    /// of another those that reach behind where it agrees.
    #[test]
    fn a_stale_bitmap_is_marked_as_a_whole() {
        let superblock = BitmapSuperblock::new(Uuid([1; 16]), 64, 4096);
        let image = vec![0; on_disk_bytes(8) as usize];
        for (agreed, needed) in [(MAX_SECTOR, 0), (0, 8), (63, 1), (16, 6), (15, 7), (64, 0)] {
            let r = Regions::load(&superblock, &image, 64, agreed, true);
            assert_eq!((r.dirty(), r.needed), (8, needed), "{agreed}");
            assert_eq!(r.needs_any(), needed > 0);
        }
    }

    /// Before a stop clears what is idle, all of the bitmap is written once: a member may have kept
    /// bits of an earlier run. Where nothing was marked in this run nothing is written.
    #[test]
    fn a_stop_writes_the_whole_bitmap_once() {
        let count = 3 * 8 * PAGE_BYTES as u64;
        let mut r = regions(count, &[]);
        r.mark_all_idle();
        assert!(!r.has_open_batch(), "nothing was marked");
        let ticket = r.join(0, 1);
        let (batch, pages) = r.close_batch().expect("a batch");
        assert_eq!(pages, [0]);
        r.batch_written(batch);
        r.abandon(ticket);
        r.mark_all_idle();
        let (batch, pages) = r.close_batch().expect("a batch");
        assert_eq!(pages, [0, 1, 2, 3], "a superblock, and three pages of bits");
        r.batch_written(batch);
        r.mark_all_idle();
        assert!(!r.has_open_batch(), "once");
        assert_eq!(r.ripe(), [0]);
    }

    /// Nobody clears what was not idle for a while, or is not known to all members.
    #[test]
    fn only_what_is_idle_and_durable_is_ripe() {
        let mut r = regions(16, &[]);
        let ticket = r.join(0, 1);
        r.abandon(ticket);
        assert_eq!(r.ripe(), [] as [u64; 0], "neither");
        r.mark_all_idle();
        assert_eq!(r.ripe(), [] as [u64; 0], "its batch is not written");
        let (batch, _) = r.close_batch().expect("a batch");
        r.batch_written(batch);
        assert_eq!(r.ripe(), [0]);
        let other = r.join(8, 1);
        r.abandon(other);
        let (batch, _) = r.close_batch().expect("a batch");
        r.batch_written(batch);
        assert_eq!(r.ripe(), [0], "the other one was never idle");
    }

    /// The last batch is written, and with it the checks look at everything that waited for it.
    #[test]
    fn who_waits_for_a_written_batch_is_noticed_wherever_it_lies() {
        let mut r = regions(4 * BLOCK_REGIONS as u64, &[]);
        let far = 3 * BLOCK_REGIONS as u64;
        let ticket = r.join(far * r.region_sectors, 1);
        r.check_changed();
        let (batch, _) = r.close_batch().expect("a batch");
        r.batch_written(batch);
        r.check_changed();
        r.pending.insert(far, batch);
        r.check_changed();
        r.watch.touch(far);
        let why = "a region waits for a written batch";
        assert_eq!(complaint(|| r.check_changed()), why);
        assert_eq!(complaint(|| r.check()), why);
        r.abandon(ticket);
    }
}
