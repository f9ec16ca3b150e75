//! The volatile cache of a disk: which writes have reached it and not yet the medium.
//!
//! ```text
//!   medium (Image)  <--flush, FUA--  versions of each sector, oldest first  <--apply--  write
//!
//!   sector 8:  [w3] [w5] [w9]     a read sees w9; a power cut keeps the medium's content, w3, w5
//!   sector 9:       [w5]          or w9: any subset survives, but never an older version over a
//!                                 newer one
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use smallvec::SmallVec;
use umd_core::array::Purpose;

use super::image::Image;
use crate::rng::Rng;
use crate::stamp::SECTOR;

/// A write on its way to the medium.
#[derive(Debug)]
pub struct Write {
    /// Order of submission.
    pub number: u64,
    /// First sector.
    pub offset_sectors: u64,
    /// Length.
    pub len_sectors: u64,
    /// Bytes; `None` writes zeros.
    pub data: Option<Bytes>,
    /// What the engine writes it for.
    pub purpose: Purpose,
    /// Durable on completion.
    pub fua: bool,
    /// The disk's completion count when it was reported done, or failed; `u64::MAX` until then.
    pub done: Cell<u64>,
}

thread_local! {
    /// Memory of writes that are gone. Large pieces would else go to the system and come back, for
    /// every write of every seed.
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The most pieces that are kept.
const FREE_MAX: usize = 256;

/// The bytes of a write, in memory that is used again.
#[derive(Debug)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// These pieces, one behind the other.
    pub fn of<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Bytes {
        let mut bytes = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
        bytes.clear();
        pieces.for_each(|piece| bytes.extend_from_slice(piece));
        Bytes(bytes)
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl Clone for Bytes {
    fn clone(&self) -> Bytes {
        Bytes::of(std::iter::once(self.as_slice()))
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        FREE.with_borrow_mut(|free| {
            if free.len() < FREE_MAX {
                free.push(bytes);
            }
        });
    }
}

impl Write {
    /// Content of one of its sectors; `None` for zeros.
    pub fn content(&self, sector: u64) -> Option<&[u8]> {
        let at = (sector - self.offset_sectors) as usize * SECTOR;
        self.data
            .as_ref()
            .map(|data| &data.as_slice()[at..at + SECTOR])
    }

    /// First sector behind it.
    pub fn end_sectors(&self) -> u64 {
        self.offset_sectors + self.len_sectors
    }
}

/// What survives of a cache when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nothing that was not flushed.
    None,
    /// Everything, torn writes in flight excepted.
    All,
    /// Each write with this chance (of 1000).
    Writes(u64),
    /// Each sector of each write with this chance (of 1000).
    Sectors(u64),
    /// The writes submitted before a random one.
    Prefix,
}

/// The cache.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    sectors: BTreeMap<u64, Versions>,
}

/// Of one sector, the oldest first.
type Versions = SmallVec<[Rc<Write>; 2]>;

/// More versions of one sector than this are not kept: the oldest goes to the medium by itself, as
/// it may at any time.
const VERSIONS_MAX: usize = 12;

impl Cache {
    /// Lets a sector of a write reach the cache.
    pub fn apply(&mut self, image: &mut Image, write: &Rc<Write>, sector: u64) {
        let versions = self.sectors.entry(sector).or_default();
        versions.push(write.clone());
        if versions.len() > VERSIONS_MAX {
            let oldest = versions.remove(0);
            image.put(sector, oldest.content(sector));
        }
    }

    /// What a read of the sector gives: the newest version in the cache, if any.
    pub fn newest(&self, sector: u64) -> Option<&Rc<Write>> {
        self.sectors
            .get(&sector)
            .and_then(|versions| versions.last())
    }

    /// The newest version of each sector of a range that has one, in order.
    pub fn newest_in(&self, from: u64, end: u64) -> impl Iterator<Item = (u64, &Rc<Write>)> {
        let sectors = self.sectors.range(from..end.max(from));
        sectors.filter_map(|(&sector, versions)| Some((sector, versions.last()?)))
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    /// Cached versions of the sectors of a range.
    pub fn range(&self, from: u64, end: u64) -> impl Iterator<Item = (u64, &Rc<Write>)> {
        self.sectors
            .range(from..end.max(from))
            .flat_map(|(&sector, versions)| versions.iter().map(move |w| (sector, w)))
    }

    /// Makes the versions of `sector` up to the last that satisfies `upto` durable.
    fn settle(
        versions: &mut Versions,
        image: &mut Image,
        sector: u64,
        upto: impl Fn(&Write) -> bool,
    ) {
        if let Some(last) = versions.iter().rposition(|write| upto(write)) {
            image.put(sector, versions[last].content(sector));
            versions.drain(..=last);
        }
    }

    /// A flush: everything that was done before `mark` completions is durable.
    pub fn flush(&mut self, image: &mut Image, mark: u64) {
        self.sectors.retain(|&sector, versions| {
            Cache::settle(versions, image, sector, |write| write.done.get() < mark);
            !versions.is_empty()
        });
    }

    /// A flush that failed: of what was done before `mark` completions nobody knows what reached
    /// the medium; the cache has forgotten it. Gives the sectors that lost something.
    pub fn flush_failed(&mut self, image: &mut Image, mark: u64, rng: &mut Rng) -> Vec<u64> {
        let lost_permille = rng.pick(&[1000, 500, 100]);
        let mut forgotten = Vec::new();
        let mut fate = BTreeMap::new();
        self.sectors.retain(|&sector, versions| {
            let mut kept = Versions::new();
            for write in versions.drain(..) {
                let old = write.done.get() < mark;
                let lost = old
                    && *fate
                        .entry(write.number)
                        .or_insert_with(|| rng.permille(lost_permille));
                if lost {
                    forgotten.push(sector);
                } else {
                    kept.push(write);
                }
            }
            *versions = kept;
            Cache::settle(versions, image, sector, |write| write.done.get() < mark);
            !versions.is_empty()
        });
        forgotten
    }

    /// A FUA write is complete: its sectors are durable.
    pub fn force(&mut self, image: &mut Image, write: &Write) {
        for sector in write.offset_sectors..write.end_sectors() {
            if let Some(versions) = self.sectors.get_mut(&sector) {
                let number = write.number;
                Cache::settle(versions, image, sector, |other| other.number == number);
                if versions.is_empty() {
                    self.sectors.remove(&sector);
                }
            }
        }
    }

    /// The power goes: what survives is on the medium, the cache is empty.
    pub fn cut(&mut self, image: &mut Image, how: Cut, rng: &mut Rng) {
        let mut numbers: Vec<u64> = self.sectors.values().flatten().map(|w| w.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let limit = match (how, numbers.len()) {
            (Cut::Prefix, len) if len > 0 => numbers[rng.index(len)],
            _ => 0,
        };
        let mut fate = BTreeMap::new();
        for (sector, versions) in std::mem::take(&mut self.sectors) {
            let mut survivor = None;
            for write in &versions {
                let keep = match how {
                    Cut::None => false,
                    Cut::All => true,
                    Cut::Prefix => write.number < limit,
                    Cut::Sectors(permille) if write.purpose != Purpose::Super => {
                        rng.permille(permille)
                    }
                    Cut::Sectors(permille) | Cut::Writes(permille) => *fate
                        .entry(write.number)
                        .or_insert_with(|| rng.permille(permille)),
                };
                if keep {
                    survivor = Some(write);
                }
            }
            if let Some(write) = survivor {
                image.put(sector, write.content(sector));
            }
        }
    }

    /// The power goes: of each sector the newest version that is kept is on the medium, the cache
    /// is empty.
    pub fn cut_where(&mut self, image: &mut Image, keep: impl Fn(&Write) -> bool) {
        for (sector, versions) in std::mem::take(&mut self.sectors) {
            if let Some(write) = versions.iter().rev().find(|write| keep(write)) {
                image.put(sector, write.content(sector));
            }
        }
    }
}
