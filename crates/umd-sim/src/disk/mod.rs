//! A simulated disk.
//!
//! ```text
//!   submit --> in flight --finish--> cache (volatile) --flush / FUA--> image (durable)
//!                 |                     |
//!      torn by a power cut     any order-preserving subset survives a power cut
//! ```
//!
//! A write may become visible, whole or in part, at any time between its submission and its
//! completion; a read takes its sample at its submission or at its completion. Faults are armed by
//! the world and strike the next operation they fit.

mod cache;
mod fate;
mod image;
mod silent;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use umd_core::array::{Extent, IoDone, IoError, IoOp, Purpose};
use umd_core::value::{Buf, Instant, Slice, Span, slices_len};

pub use cache::{Bytes, Cache, Cut, Write};
pub use fate::Stand;
pub use image::{Image, PAGE_SECTORS};

use crate::rng::Rng;
use crate::stamp::SECTOR;

/// How long operations take. Means; single operations spread around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// A read.
    pub read_ns: u64,
    /// A write into the cache, or through it with FUA.
    pub write_ns: u64,
    /// A flush.
    pub flush_ns: u64,
    /// One operation of 1000 takes this many times longer.
    pub spike_permille: u64,
    /// How many times.
    pub spike_factor: u64,
}

/// What can be armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Armed {
    /// The next write fails; the medium keeps old, new or torn content.
    WriteError,
    /// The next write that touches these sectors fails in the same way: first one, and how many.
    WriteErrorAt(u64, u64),
    /// The next write to metadata (superblock or bitmap) fails.
    MetadataWriteError,
    /// The next flush fails and the cache forgets what it held.
    FlushError,
    /// The next flush fails, and the cache keeps what it holds.
    FlushRefused,
    /// The next operation takes this long.
    Hang(Span),
    /// The next write of data is reported done and never lands.
    LostWrite,
    /// The next write of data lands so many sectors behind its place.
    Misdirected(u64),
    /// The next write of data lands on the disk with this number, in the same place.
    Elsewhere(usize),
}

/// Whether the disk answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Yes.
    On,
    /// Everything fails with [`IoError::Gone`].
    Gone,
    /// Nothing ever ends: its power went before the host's.
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Well,
    Media,
    Gone,
    FlushLost,
    FlushRefused,
    /// Reported done; lands so far behind its place, or (0) nowhere.
    Astray(u64),
    /// Reported done; lands on another disk.
    Elsewhere(usize),
}

#[derive(Debug)]
enum Job {
    Read {
        offset_sectors: u64,
        buf: Buf,
        sampled: bool,
    },
    Write {
        write: Rc<Write>,
        applied: BTreeSet<u64>,
    },
    Flush {
        mark: u64,
    },
    Allocation {
        offset_sectors: u64,
        len_sectors: u64,
    },
}

impl Job {
    fn writes_super(&self) -> bool {
        matches!(self, Job::Write { write, .. } if write.purpose == Purpose::Super)
    }
}

#[derive(Debug)]
struct Flying {
    job: Job,
    fate: Fate,
}

/// A disk in order answers within this time: a longer wait is a fault and has to be armed.
const SLOWEST_NS: u64 = 8_000_000_000;

/// A disk.
#[derive(Debug)]
pub struct SimDisk {
    image: Image,
    cache: Cache,
    flying: BTreeMap<u64, Flying>,
    /// Superblock writes among them.
    supers: usize,
    bad: BTreeSet<u64>,
    /// Sectors that take no data.
    worn: BTreeSet<u64>,
    /// What failed flushes lost since the disk was last at rest.
    forgotten: BTreeSet<u64>,
    armed: Vec<Armed>,
    power: Power,
    latency: Latency,
    rng: Rng,
    writes: u64,
    completions: u64,
    plain: bool,
    fua_flushes: bool,
    lies: Vec<std::ops::Range<u64>>,
    strays: Vec<(usize, Rc<Write>)>,
    shears: bool,
    shorn: Vec<u64>,
    shreds: bool,
    block_sectors: u64,
}

fn is_metadata(purpose: Purpose) -> bool {
    matches!(
        purpose,
        Purpose::Super | Purpose::Bitmap | Purpose::BadBlocks
    )
}

/// What an operation reads or writes: first sector, and how many.
fn extent_of(op: &IoOp) -> Option<(u64, u64)> {
    match op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => Some((*offset_sectors, buf.len() as u64 / 512)),
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => Some((*offset_sectors, slices_len(data) as u64 / 512)),
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            ..
        } => Some((*offset_sectors, *len_sectors)),
        IoOp::Flush | IoOp::Allocation { .. } => None,
    }
}

fn touches(op: &IoOp, range: Range<u64>) -> bool {
    extent_of(op).is_some_and(|(start, len)| start < range.end && range.start < start + len)
}

impl SimDisk {
    /// A disk of zeros.
    pub fn new(sectors: u64, latency: Latency, rng: Rng) -> SimDisk {
        SimDisk {
            image: Image::new(sectors),
            cache: Cache::default(),
            flying: BTreeMap::new(),
            supers: 0,
            bad: BTreeSet::new(),
            worn: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            armed: Vec::new(),
            power: Power::On,
            latency,
            rng,
            writes: 0,
            completions: 0,
            plain: false,
            fua_flushes: false,
            lies: Vec::new(),
            strays: Vec::new(),
            shears: false,
            shorn: Vec::new(),
            shreds: false,
            block_sectors: 1,
        }
    }

    /// A disk that knows whole logical blocks of this length only.
    pub fn use_blocks(&mut self, sectors: u64) {
        assert!(matches!(sectors, 1 | 8), "512 or 4096 bytes");
        self.block_sectors = sectors;
    }

    /// Its logical block.
    pub fn block_bytes(&self) -> u32 {
        self.block_sectors as u32 * 512
    }

    fn assert_whole_blocks(&self, op: &IoOp) {
        let Some((start, len)) = extent_of(op) else {
            return;
        };
        let whole = (start | len).is_multiple_of(self.block_sectors);
        assert!(whole, "{start}+{len} on a disk of 4 KiB blocks");
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.image.sectors()
    }

    /// The medium.
    pub fn durable(&self) -> &Image {
        &self.image
    }

    /// The medium, to be prepared before a run.
    pub fn medium_mut(&mut self) -> &mut Image {
        assert!(
            self.flying.is_empty() && self.cache.is_empty(),
            "a disk in use is not edited"
        );
        &mut self.image
    }

    /// The volatile cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Completions so far. A write whose [`Write::done`] is below this was complete by now.
    pub fn completions(&self) -> u64 {
        self.completions
    }

    /// What a read of one sector would give now.
    pub fn visible(&self, sector: u64) -> Option<&[u8]> {
        match self.cache.newest(sector) {
            Some(write) => write.content(sector),
            None => Some(self.image.sector(sector)),
        }
    }

    /// What a read of eight sectors would give now.
    pub fn visible_page(&self, sector: u64) -> [u8; PAGE_SECTORS as usize * SECTOR] {
        let mut bytes = [0; PAGE_SECTORS as usize * SECTOR];
        self.fill(sector, &mut bytes);
        bytes
    }

    /// Arms a fault.
    pub fn arm(&mut self, fault: Armed) {
        self.armed.push(fault);
    }

    /// Disarms everything that has not struck.
    pub fn disarm(&mut self) {
        self.armed.clear();
    }

    /// Whether a fault waits.
    pub fn is_armed(&self) -> bool {
        !self.armed.is_empty()
    }

    /// Makes a range unreadable until it is written again.
    pub fn damage(&mut self, offset_sectors: u64, len_sectors: u64) {
        let end = (offset_sectors + len_sectors).min(self.sectors());
        self.bad.extend(offset_sectors..end);
    }

    /// From here on a range takes no data: it keeps what is there.
    pub fn wear(&mut self, offset_sectors: u64, len_sectors: u64) {
        let end = (offset_sectors + len_sectors).min(self.sectors());
        self.worn.extend(offset_sectors..end);
    }

    /// Sectors that take no data.
    pub fn worn(&self) -> &BTreeSet<u64> {
        &self.worn
    }

    /// Unreadable sectors.
    pub fn damaged(&self) -> &BTreeSet<u64> {
        &self.bad
    }

    /// Cures every unreadable sector (liveness phase: faults are over).
    pub fn heal(&mut self) {
        self.bad.clear();
        self.worn.clear();
    }

    /// Sectors of which failed flushes lost something since the disk was last at rest.
    pub fn forgotten(&self) -> &BTreeSet<u64> {
        &self.forgotten
    }

    /// Whether it answers.
    pub fn power(&self) -> Power {
        self.power
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Writes in flight.
    pub fn writes_in_flight(&self) -> impl Iterator<Item = &Rc<Write>> {
        self.flying.values().filter_map(|f| match &f.job {
            Job::Write { write, .. } => Some(write),
            _ => None,
        })
    }

    /// Superblock writes in flight.
    pub fn supers_in_flight(&self) -> usize {
        self.supers
    }

    /// The disk falls silent: nothing ends any more.
    pub fn silence(&mut self) {
        self.power = Power::Silent;
    }

    /// The disk vanishes. Operations in flight end with an error; tells which and when.
    pub fn vanish(&mut self, now: Instant) -> Vec<(u64, Instant)> {
        self.power = Power::Gone;
        self.armed.clear();
        let mut ends = Vec::new();
        for (&tag, flying) in &mut self.flying {
            flying.fate = Fate::Gone;
            ends.push((tag, now + Span(self.rng.spread(200_000))));
        }
        ends
    }

    fn duration(&mut self, op: &IoOp) -> u64 {
        let mean = match op {
            IoOp::Read { .. } | IoOp::Allocation { .. } => self.latency.read_ns,
            IoOp::Write { .. } | IoOp::WriteZeroes { .. } => self.latency.write_ns,
            IoOp::Flush => self.latency.flush_ns,
        };
        if self.plain {
            return mean.max(10);
        }
        let spike = self.rng.permille(self.latency.spike_permille);
        let factor = if spike { self.latency.spike_factor } else { 1 };
        let length = self.rng.spread(mean.max(10)).saturating_mul(factor);
        length.min(SLOWEST_NS)
    }

    /// Takes the armed fault that strikes this operation, if one does.
    fn strike(&mut self, op: &IoOp, purpose: Purpose) -> Option<Armed> {
        let writes = matches!(op, IoOp::Write { .. } | IoOp::WriteZeroes { .. });
        let fits = |fault: &Armed| match fault {
            Armed::WriteError => writes && !is_metadata(purpose),
            Armed::WriteErrorAt(at, len) => writes && touches(op, *at..at + len),
            Armed::MetadataWriteError => writes && is_metadata(purpose),
            Armed::FlushError | Armed::FlushRefused => matches!(op, IoOp::Flush),
            Armed::Hang(_) => true,
            Armed::LostWrite | Armed::Misdirected(_) | Armed::Elsewhere(_) => {
                writes && matches!(purpose, Purpose::Data | Purpose::Parity)
            }
        };
        let at = self.armed.iter().position(fits)?;
        Some(self.armed.remove(at))
    }

    /// Starts an operation. Tells when it ends: the caller then calls [`SimDisk::finish`]. `None`:
    /// it never does.
    pub fn submit(
        &mut self,
        now: Instant,
        tag: u64,
        purpose: Purpose,
        op: IoOp,
    ) -> Option<Instant> {
        self.assert_whole_blocks(&op);
        let mut length = self.duration(&op);
        let fate = match (self.power, self.strike(&op, purpose)) {
            (Power::Gone, _) => {
                length = self.rng.spread(20_000);
                Fate::Gone
            }
            (_, Some(Armed::WriteError | Armed::WriteErrorAt(..) | Armed::MetadataWriteError)) => {
                Fate::Media
            }
            (_, Some(Armed::FlushError)) => Fate::FlushLost,
            (_, Some(Armed::FlushRefused)) => Fate::FlushRefused,
            (_, Some(Armed::LostWrite)) => Fate::Astray(0),
            (_, Some(Armed::Misdirected(shift))) => Fate::Astray(shift),
            (_, Some(Armed::Elsewhere(disk))) => Fate::Elsewhere(disk),
            (_, Some(Armed::Hang(span))) => {
                length = span.0;
                Fate::Well
            }
            (_, None) => Fate::Well,
        };
        let job = self.job(op, purpose, fate);
        self.supers += usize::from(job.writes_super());
        let old = self.flying.insert(tag, Flying { job, fate });
        assert!(old.is_none(), "I/O {tag} was submitted twice");
        (self.power != Power::Silent).then(|| now + Span(length))
    }

    fn job(&mut self, op: IoOp, purpose: Purpose, fate: Fate) -> Job {
        match op {
            IoOp::Read {
                offset_sectors,
                mut buf,
            } => {
                let sampled = !self.plain && self.rng.coin() && fate == Fate::Well;
                if sampled {
                    self.fill(offset_sectors, buf.as_mut_slice());
                }
                Job::Read {
                    offset_sectors,
                    buf,
                    sampled,
                }
            }
            IoOp::Write {
                offset_sectors,
                data,
                fua,
            } => {
                let len = slices_len(&data);
                let whole = len > 0 && len.is_multiple_of(SECTOR);
                assert!(whole, "a write of {len} bytes");
                let bytes = Bytes::of(data.iter().map(Slice::as_slice));
                let len_sectors = (len / SECTOR) as u64;
                let write = self.new_write(offset_sectors, len_sectors, Some(bytes), purpose, fua);
                self.start_write(write, fate)
            }
            IoOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                fua,
                may_unmap: _,
            } => {
                let write = self.new_write(offset_sectors, len_sectors, None, purpose, fua);
                self.start_write(write, fate)
            }
            IoOp::Flush => Job::Flush {
                mark: self.completions,
            },
            IoOp::Allocation {
                offset_sectors,
                len_sectors,
            } => Job::Allocation {
                offset_sectors,
                len_sectors,
            },
        }
    }

    fn new_write(
        &mut self,
        offset_sectors: u64,
        len_sectors: u64,
        data: Option<Bytes>,
        purpose: Purpose,
        fua: bool,
    ) -> Rc<Write> {
        assert!(
            offset_sectors + len_sectors <= self.sectors(),
            "a write of {len_sectors} sectors at {offset_sectors} leaves the disk"
        );
        self.writes += 1;
        Rc::new(Write {
            number: self.writes,
            offset_sectors,
            len_sectors,
            data,
            purpose,
            fua,
            done: Cell::new(u64::MAX),
        })
    }

    /// Part of a write, or all of it, may show before it is over.
    fn start_write(&mut self, write: Rc<Write>, fate: Fate) -> Job {
        let mut applied = BTreeSet::new();
        let lies = matches!(fate, Fate::Astray(_) | Fate::Elsewhere(_));
        if self.power == Power::On && !self.plain && !lies {
            match self.rng.below(8) {
                0 => applied = (write.offset_sectors..write.end_sectors()).collect(),
                1 => applied = self.land(&write),
                _ => {}
            }
            self.apply(&write, applied.iter().copied());
        }
        Job::Write { write, applied }
    }

    /// What has landed of a write at any moment: a random part. A superblock of a page lands as a
    /// whole: physical sectors have 4 KiB, and metadata 0.90 lives on such disks only.
    fn land(&mut self, write: &Write) -> BTreeSet<u64> {
        if write.purpose != Purpose::Super || write.len_sectors == 1 {
            return self.tear(write);
        }
        match self.rng.coin() {
            true => (write.offset_sectors..write.end_sectors()).collect(),
            false => BTreeSet::new(),
        }
    }

    /// A random part of a write: a prefix, or any sectors.
    fn tear(&mut self, write: &Write) -> BTreeSet<u64> {
        let all = write.offset_sectors..write.end_sectors();
        if self.rng.coin() {
            let end = self.rng.range(all.start, all.end);
            return (all.start..end).collect();
        }
        let permille = self.rng.pick(&[100, 500, 900]);
        all.filter(|_| self.rng.permille(permille)).collect()
    }

    fn apply(&mut self, write: &Rc<Write>, sectors: impl IntoIterator<Item = u64>) {
        for sector in sectors {
            self.cache.apply(&mut self.image, write, sector);
            if !self.bad.is_empty() {
                self.bad.remove(&sector);
            }
        }
    }

    fn fill(&self, offset_sectors: u64, bytes: &mut [u8]) {
        let end = offset_sectors + (bytes.len() / SECTOR) as u64;
        let place = |sector: u64| (sector - offset_sectors) as usize * SECTOR;
        let mut next = offset_sectors;
        for (sector, write) in self.cache.newest_in(offset_sectors, end) {
            self.image
                .read(next, &mut bytes[place(next)..place(sector)]);
            let piece = &mut bytes[place(sector)..place(sector + 1)];
            match write.content(sector) {
                Some(content) => piece.copy_from_slice(content),
                None => piece.fill(0),
            }
            next = sector + 1;
        }
        self.image.read(next, &mut bytes[place(next)..place(end)]);
    }

    /// Ends an operation. `None` when it is not in flight any more.
    pub fn finish(&mut self, tag: u64) -> Option<Result<IoDone, IoError>> {
        if self.power == Power::Silent {
            return None;
        }
        let Flying { job, fate } = self.flying.remove(&tag)?;
        self.supers -= usize::from(job.writes_super());
        Some(match job {
            Job::Read {
                offset_sectors,
                buf,
                sampled,
            } => self.finish_read(offset_sectors, buf, sampled, fate),
            Job::Write { write, applied } => self.finish_write(&write, &applied, fate),
            Job::Flush { mark } => self.finish_flush(mark, fate),
            Job::Allocation {
                offset_sectors,
                len_sectors,
            } => match fate {
                Fate::Gone => Err(IoError::Gone),
                _ => Ok(IoDone::Extents(self.extents(offset_sectors, len_sectors))),
            },
        })
    }

    fn finish_read(
        &mut self,
        offset_sectors: u64,
        mut buf: Buf,
        sampled: bool,
        fate: Fate,
    ) -> Result<IoDone, IoError> {
        let end = offset_sectors + (buf.len() / SECTOR) as u64;
        if fate == Fate::Gone {
            return Err(IoError::Gone);
        }
        if end > self.sectors() {
            return Err(IoError::Other("read past the end".into()));
        }
        if self.bad.range(offset_sectors..end).next().is_some() {
            return Err(IoError::Media);
        }
        if !sampled {
            self.fill(offset_sectors, buf.as_mut_slice());
        }
        Ok(IoDone::Read(buf))
    }

    fn finish_write(
        &mut self,
        write: &Rc<Write>,
        applied: &BTreeSet<u64>,
        fate: Fate,
    ) -> Result<IoDone, IoError> {
        if let Fate::Astray(_) | Fate::Elsewhere(_) = fate {
            write.done.set(self.completions);
            self.completions += 1;
            match fate {
                Fate::Elsewhere(disk) => self.throw(disk, write),
                Fate::Astray(shift) => self.go_astray(write, shift),
                _ => unreachable!("looked at above"),
            }
            return Ok(IoDone::Done);
        }
        let all = write.offset_sectors..write.end_sectors();
        let data = !is_metadata(write.purpose);
        let refuses = data && self.worn.range(all.clone()).next().is_some();
        let fate = match fate {
            Fate::Well if refuses => Fate::Media,
            fate => fate,
        };
        let part = match fate {
            Fate::Well => None,
            _ => match self.rng.below(3) {
                0 => Some(BTreeSet::new()),
                1 => None,
                _ => Some(self.tear(write)),
            },
        };
        let worn = std::mem::take(&mut self.worn);
        let takes = |sector: &u64| !data || !worn.contains(sector);
        let lands = |sector: &u64| part.as_ref().is_none_or(|part| part.contains(sector));
        let rest = all.filter(|s| !applied.contains(s) && lands(s) && takes(s));
        self.apply(write, rest);
        self.worn = worn;
        // What a failed write has left in the cache goes the way of everything there.
        write.done.set(self.completions);
        self.completions += 1;
        match fate {
            Fate::Gone => Err(IoError::Gone),
            Fate::Media => Err(IoError::Media),
            _ => {
                if write.fua && self.fua_flushes {
                    self.cache.flush(&mut self.image, self.completions);
                }
                if write.fua {
                    self.cache.force(&mut self.image, write);
                }
                Ok(IoDone::Done)
            }
        }
    }

    fn finish_flush(&mut self, mark: u64, fate: Fate) -> Result<IoDone, IoError> {
        match fate {
            Fate::Gone => return Err(IoError::Gone),
            Fate::FlushRefused => return Err(IoError::Other("flush failed".into())),
            Fate::FlushLost | Fate::Media => {
                let lost = self
                    .cache
                    .flush_failed(&mut self.image, mark, &mut self.rng);
                self.forgotten.extend(lost);
                return Err(IoError::Other("flush failed".into()));
            }
            _ => self.cache.flush(&mut self.image, mark),
        }
        Ok(IoDone::Done)
    }

    fn extents(&self, offset_sectors: u64, len_sectors: u64) -> Vec<Extent> {
        let end = (offset_sectors + len_sectors).min(self.sectors());
        let mut extents: Vec<Extent> = Vec::new();
        let mut at = offset_sectors;
        while at < end {
            let next = ((at / PAGE_SECTORS + 1) * PAGE_SECTORS).min(end);
            let cached = self.cache.range(at, next).next().is_some();
            let data = cached || self.image.page(at).is_some();
            match extents.last_mut() {
                Some(last) if last.data == data => last.len_sectors += next - at,
                _ => extents.push(Extent {
                    len_sectors: next - at,
                    data,
                }),
            }
            at = next;
        }
        extents
    }

    /// The power goes: writes in flight are torn, a subset of the cache survives. The disk is on
    /// again, and quiet, afterwards.
    pub fn cut(&mut self, how: Cut) {
        let mut shreds = Vec::new();
        for (write, applied) in self.take_writes() {
            if self.shreds && is_metadata(write.purpose) {
                shreds.push(write);
                continue;
            }
            let landed = match how {
                Cut::None => BTreeSet::new(),
                _ => self.land(&write),
            };
            self.shear(&write, &landed);
            self.apply(&write, landed.difference(&applied).copied());
        }
        self.bad.extend(&self.shorn);
        self.cache.cut(&mut self.image, how, &mut self.rng);
        shreds.iter().for_each(|write| self.shred(write));
        self.shreds = false;
        self.rest();
    }

    /// The process that used the disk was killed: its writes in flight land, or not, in any order;
    /// the cache is kept.
    pub fn abandon(&mut self) {
        for (write, applied) in self.take_writes() {
            let landed = match self.rng.below(10) {
                0 => BTreeSet::new(),
                1 => self.land(&write),
                _ => (write.offset_sectors..write.end_sectors()).collect(),
            };
            self.apply(&write, landed.difference(&applied).copied());
            write.done.set(self.completions);
            self.completions += 1;
        }
        self.rest();
    }

    fn take_writes(&mut self) -> Vec<(Rc<Write>, BTreeSet<u64>)> {
        self.supers = 0;
        let mut writes: Vec<_> = std::mem::take(&mut self.flying)
            .into_values()
            .filter_map(|flying| match flying.job {
                Job::Write { write, applied } => Some((write, applied)),
                _ => None,
            })
            .collect();
        self.rng.shuffle(&mut writes);
        writes
    }

    fn rest(&mut self) {
        self.flying.clear();
        self.supers = 0;
        self.armed.clear();
        self.forgotten.clear();
        self.power = Power::On;
    }
}

#[cfg(test)]
mod tests;
