//! What the media say: whether redundancy agrees, and whether anything is still on its way.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use smallvec::SmallVec;
use umd_core::array::Purpose;
use umd_core::value::MemberId;

use crate::disk::{PAGE_SECTORS, SimDisk, Write};
use crate::layout::{Geometry, Moving, Place, Row, device_ranges, device_sector, parity_agrees};
use crate::metaview::{BitmapView, LogView, Mark};
use crate::oracle::Oracle;
use crate::stamp::SECTOR;

/// A member in a slot.
#[derive(Clone, Copy)]
pub struct Column<'a> {
    /// Who.
    pub member: MemberId,
    /// Its disk.
    pub disk: &'a SimDisk,
    /// Where its data starts.
    pub data_offset: u64,
    /// What has been moved of it lies elsewhere.
    pub moving: Option<Moving>,
    /// Its content counts below this relative sector.
    pub valid_below: u64,
    /// Its bad-block log, if something is in it.
    pub log: Option<LogView>,
}

impl Column<'_> {
    /// The device sector of a relative one.
    fn at(&self, relative: u64) -> u64 {
        device_sector(self.moving, self.data_offset, relative)
    }

    /// Whether its bad-block log names any of these relative sectors: what lies there says nothing.
    fn is_bad(&self, relative: u64, len: u64) -> bool {
        let from = self.at(relative);
        self.log
            .is_some_and(|log| log.names(self.disk, from..from + len))
    }
}

/// Which members a comparison is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Those in sync agree among each other. What is on its way counts as a disagreement only if
    /// it makes one.
    InSync,
    /// This member agrees with those in sync; places where anything is on its way are left out.
    Rebuilt(MemberId),
}

/// The mark of a column that was not asked.
const NOT_ASKED: u64 = u64::MAX - 1;

/// Marks by slot.
type Marks = SmallVec<[u64; 6]>;

/// Pages that were found to agree, by the marks that the pages of all slots had then. The
/// same media are compared again and again: before each member's superblock says that all is in
/// sync, and when bits are cleared.
#[derive(Debug, Clone, Default)]
pub struct Agreed {
    /// By page and slot.
    marks: RefCell<Vec<u64>>,
}

impl Agreed {
    /// Whether this page agreed when its columns had these marks.
    fn knows(&self, page: usize, marks: &[u64]) -> bool {
        let known = self.marks.borrow();
        let at = page * marks.len();
        known.get(at..at + marks.len()) == Some(marks)
    }

    fn learn(&self, page: usize, marks: &[u64]) {
        let mut known = self.marks.borrow_mut();
        let at = page * marks.len();
        if known.len() < at + marks.len() {
            // No page ever gets this mark.
            known.resize(at + marks.len(), u64::MAX);
        }
        known[at..at + marks.len()].copy_from_slice(marks);
    }
}

/// What states of regions say about agreement, as whoever reads any of the bitmaps will see it.
/// A region that nobody has written may differ; so may, in one that is marked, what nobody has
/// written.
pub struct Excuses<'a> {
    /// Their bitmaps: disk, first sector, shape.
    pub bitmaps: SmallVec<[(&'a SimDisk, u64, BitmapView); 4]>,
    /// Who knows what was written.
    pub oracle: &'a Oracle,
}

impl Excuses<'_> {
    /// What is excused in the region of a sector of the walk: all, what was not written, nothing.
    fn mark(&self, walk: u64) -> Mark {
        let mark = |(disk, start, bitmap): &(&SimDisk, u64, BitmapView)| {
            let region = (walk / bitmap.chunk_sectors).min(bitmap.bits.saturating_sub(1));
            let place = bitmap.place(region);
            place.mark(disk.durable().sector(start + place.sector)[place.byte])
        };
        let marks = self.bitmaps.iter().map(mark);
        let strictest = marks.max_by_key(|mark| match mark {
            Mark::Unwritten => 0,
            Mark::Set => 1,
            Mark::Agrees => 2,
        });
        strictest.unwrap_or(Mark::Agrees)
    }
}

/// The media of an array.
pub struct Media<'a> {
    geometry: &'a Geometry,
    columns: Vec<Option<Column<'a>>>,
    agreed: &'a Agreed,
    excused: &'a BTreeSet<u64>,
    excuses: Option<Excuses<'a>>,
}

/// Whether a write on its way may make redundancy disagree: host data and parity. Metadata is
/// judged elsewhere. What a resync, a rebuild or a repair writes makes redundancy agree: where it
/// has to be durable, the comparison of the media tells.
fn matters(write: &Write) -> bool {
    matches!(write.purpose, Purpose::Data | Purpose::Parity)
}

impl<'a> Media<'a> {
    /// The media of these members, by slot. `excused`: relative pages about which a disk lies.
    pub fn new(
        geometry: &'a Geometry,
        columns: Vec<Option<Column<'a>>>,
        agreed: &'a Agreed,
        excused: &'a BTreeSet<u64>,
    ) -> Media<'a> {
        Media {
            geometry,
            columns,
            agreed,
            excused,
            excuses: None,
        }
    }

    /// Members may differ where states of regions say so.
    pub fn with_excuses(mut self, excuses: Option<Excuses<'a>>) -> Media<'a> {
        self.excuses = excuses;
        self
    }

    /// The same media, as if everything lay by this geometry.
    pub fn as_if(mut self, geometry: &'a Geometry, agreed: &'a Agreed) -> Media<'a> {
        for column in self.columns.iter_mut().flatten() {
            column.moving = geometry.moving;
        }
        (self.geometry, self.agreed) = (geometry, agreed);
        self
    }

    /// Whether what lies together at a sector of the walk may differ.
    fn may_differ(&self, walk: u64) -> bool {
        let Some(excuses) = &self.excuses else {
            return false;
        };
        let untouched = |sector: u64| excuses.oracle.is_untouched(sector);
        let damaged = |(column, relative): &(&Column<'a>, u64)| {
            let at = column.at(*relative);
            let mut cached = column.disk.cache().range(at, at + 1);
            let mut flying = column.disk.writes_in_flight();
            let mended = |write: &Write| matches!(write.purpose, Purpose::Rewrite);
            column.disk.damaged().contains(&at)
                || cached.any(|(_, write)| mended(write))
                || flying.any(|write| {
                    mended(write) && write.offset_sectors <= at && at < write.end_sectors()
                })
        };
        match excuses.mark(walk) {
            Mark::Unwritten => true,
            Mark::Agrees => false,
            // What could not be read is what the others make of it.
            Mark::Set if self.holders(walk).iter().any(damaged) => true,
            Mark::Set if self.geometry.has_parity() => {
                let mut slots = 0..self.geometry.slots;
                slots.all(|slot| {
                    let relative_sector = walk;
                    let place = Place {
                        slot,
                        relative_sector,
                    };
                    self.geometry.sector_at(place).is_none_or(untouched)
                })
            }
            Mark::Set => untouched(walk),
        }
    }

    /// Whether a part agrees, leaving out what may differ.
    fn agrees_but(&self, at: u64, len: u64, needs: Needs) -> bool {
        if self.agrees(at, len, needs) {
            return true;
        }
        let mut sectors = at..at + len;
        self.excuses.is_some()
            && sectors.all(|walk| self.may_differ(walk) || self.agrees(walk, 1, needs))
    }

    fn present(&self) -> impl Iterator<Item = &Column<'a>> {
        self.columns.iter().flatten()
    }

    /// Whether anything that was written to the range (of the walk) is in flight or volatile.
    pub fn unsettled(&self, range: Range<u64>) -> Option<String> {
        if self.geometry.level == 10 {
            let stretches = self.copies_of(range);
            return stretches.iter().find_map(|(slot, range)| {
                let column = self.columns[usize::from(*slot)].as_ref()?;
                Media::unsettled_on(column, range.clone())
            });
        }
        self.present()
            .find_map(|column| Media::unsettled_on(column, range.clone()))
    }

    /// Where a part of a RAID10 lies: relative sectors by slot, in pieces of whole pages.
    fn copies_of(&self, range: Range<u64>) -> Vec<(u16, Range<u64>)> {
        let end = range.end.min(self.geometry.array_sectors());
        let mut found = Vec::new();
        let mut at = range.start;
        while at < end {
            let len = (PAGE_SECTORS - at % PAGE_SECTORS).min(end - at);
            let places = self.geometry.places(at);
            let pieces = places
                .iter()
                .map(|one| (one.slot, one.relative_sector..one.relative_sector + len));
            found.extend(pieces);
            at += len;
        }
        found
    }

    fn unsettled_on(column: &Column<'a>, range: Range<u64>) -> Option<String> {
        let range = range.start..range.end.min(column.valid_below);
        let pieces = device_ranges(column.moving, column.data_offset, range);
        let mut pieces = pieces.into_iter();
        pieces.find_map(|piece| Media::unsettled_between(column, piece))
    }

    fn unsettled_between(column: &Column<'a>, Range { start, end }: Range<u64>) -> Option<String> {
        let show = |write: &Write, how: &str| {
            format!(
                "{:?} of {}..{} on {:?} is {how}",
                write.purpose,
                write.offset_sectors - column.data_offset,
                write.end_sectors() - column.data_offset,
                column.member
            )
        };
        let flying = column.disk.writes_in_flight().find(|write| {
            matters(write) && write.offset_sectors < end && start < write.end_sectors()
        });
        if let Some(write) = flying {
            return Some(show(write, "in flight"));
        }
        let mut cached = column.disk.cache().range(start, end.max(start));
        if let Some((_, write)) = cached.find(|(_, write)| matters(write)) {
            return Some(show(write, "not durable"));
        }
        None
    }

    /// The members that hold a sector of the walk, and where.
    fn holders(&self, walk: u64) -> SmallVec<[(&Column<'a>, u64); 4]> {
        if self.geometry.level != 10 {
            return self.present().map(|column| (column, walk)).collect();
        }
        let places = self.geometry.walk_places(walk);
        let held = |place: &Place| {
            let column = self.columns[usize::from(place.slot)].as_ref()?;
            Some((column, place.relative_sector))
        };
        places.iter().filter_map(held).collect()
    }

    /// Whether host data for these sectors of the walk is in flight or volatile.
    fn is_busy(&self, walk: u64, len: u64) -> bool {
        self.holders(walk).into_iter().any(|(column, relative)| {
            let start = column.at(relative);
            let end = start + len;
            let of_the_host = |write: &Write| {
                matches!(
                    write.purpose,
                    Purpose::Data | Purpose::Parity | Purpose::Rewrite
                )
            };
            let mut cached = column.disk.cache().range(start, end);
            let mut flying = column.disk.writes_in_flight();
            cached.any(|(_, write)| of_the_host(write))
                || flying.any(|write| {
                    of_the_host(write) && write.offset_sectors < end && start < write.end_sectors()
                })
        })
    }

    fn page(column: &Column<'a>, relative: u64, len: u64) -> Option<&'a [u8]> {
        let page = column.disk.durable().page(column.at(relative))?;
        let at = (relative % PAGE_SECTORS) as usize * SECTOR;
        Some(&page[at..at + len as usize * SECTOR])
    }

    /// The first place in the range (relative sectors of a member being rebuilt) where it disagrees
    /// with others.
    pub fn rebuild_disagreement(&self, range: Range<u64>, member: MemberId) -> Option<String> {
        let needs = Needs::Rebuilt(member);
        if self.geometry.level != 10 {
            return self.disagreement(range, needs);
        }
        let mut columns = self.columns.iter();
        let slot = columns.position(|one| one.is_some_and(|one| one.member == member))? as u16;
        let pages = range.start..range.end.min(self.geometry.used_sectors());
        let mut pages = pages.step_by(PAGE_SECTORS as usize);
        pages.find_map(|relative_sector| {
            let place = Place {
                slot,
                relative_sector,
            };
            let walk = self.geometry.walk_at(place)?;
            // A page, or what is left of it.
            let end = (relative_sector / PAGE_SECTORS + 1) * PAGE_SECTORS;
            let len = end.min(range.end) - relative_sector;
            self.disagreement(walk..walk + len, needs)
        })
    }

    /// The first place in the range (sectors of the walk) where redundancy disagrees on the media.
    /// Members that are missing are not asked.
    pub fn disagreement(&self, range: Range<u64>, needs: Needs) -> Option<String> {
        let end = range.end.min(match self.geometry.level {
            1 | 10 => self.geometry.walk_sectors(),
            _ => self.geometry.used_sectors(),
        });
        let mut at = range.start;
        while at < end {
            let len = (PAGE_SECTORS - at % PAGE_SECTORS).min(end - at);
            let skip = self.excused.contains(&(at / PAGE_SECTORS))
                || needs != Needs::InSync && self.is_busy(at, len)
                || self
                    .holders(at)
                    .iter()
                    .any(|(one, at)| one.is_bad(*at, len));
            if !skip && !self.agrees_but(at, len, needs) {
                return Some(format!("members disagree at sectors {at}..{}", at + len));
            }
            at += len;
        }
        None
    }

    fn agrees(&self, at: u64, len: u64, needs: Needs) -> bool {
        match self.geometry.level {
            -1 | 0 => true,
            1 | 10 => self.mirrors_agree(at, len, needs),
            _ => self.parity_agrees(at, len, needs),
        }
    }

    fn mirrors_agree(&self, at: u64, len: u64, needs: Needs) -> bool {
        if self.geometry.level != 1 || len != PAGE_SECTORS || needs != Needs::InSync {
            return self.holders_agree(at, len, needs);
        }
        let asked = |one: &&Column<'_>| one.valid_below >= at + len;
        let mark = |one: &Column<'_>| one.disk.durable().mark(one.at(at));
        let columns = self.columns.iter();
        let marks = columns.map(|one| one.as_ref().filter(asked).map_or(NOT_ASKED, mark));
        let marks: Marks = marks.collect();
        let page = (at / PAGE_SECTORS) as usize;
        let known = self.agreed.knows(page, &marks);
        let agrees = known || self.holders_agree(at, len, needs);
        if agrees && !known {
            self.agreed.learn(page, &marks);
        }
        agrees
    }

    fn holders_agree(&self, at: u64, len: u64, needs: Needs) -> bool {
        static ZERO: [u8; 4096] = [0; 4096];
        let content = |(column, relative): &(&Column<'a>, u64)| {
            Media::page(column, *relative, len).unwrap_or(&ZERO[..len as usize * SECTOR])
        };
        let valid = |(column, relative): &&(&Column<'a>, u64)| column.valid_below >= relative + len;
        let holders = self.holders(at);
        match needs {
            Needs::InSync => {
                let mut contents = holders.iter().filter(valid).map(content);
                match contents.next() {
                    None => true,
                    Some(first) => contents.all(|other| other == first),
                }
            }
            Needs::Rebuilt(member) => {
                let Some(own) = holders.iter().find(|(column, _)| column.member == member) else {
                    return true;
                };
                let mut sources = holders
                    .iter()
                    .filter(|(column, _)| column.member != member && column.valid_below == u64::MAX)
                    .peekable();
                sources.peek().is_none() || sources.any(|other| content(other) == content(own))
            }
        }
    }

    fn parity_agrees(&self, at: u64, len: u64, needs: Needs) -> bool {
        let all_valid = self.columns.iter().all(|column| match (column, needs) {
            (None, _) => false,
            (Some(column), Needs::Rebuilt(member)) if column.member == member => true,
            (Some(column), _) => column.valid_below >= at + len,
        });
        if !all_valid {
            return true;
        }
        let column = |slot: usize| self.columns[slot].as_ref().expect("all are valid");
        let slots = 0..self.columns.len();
        let mark = |one: &Column<'_>| one.disk.durable().mark(one.at(at));
        let marks: Marks = slots.map(|slot| mark(column(slot))).collect();
        let page = (at / PAGE_SECTORS) as usize;
        // A piece of a page is compared each time: that is rare.
        let whole = len == PAGE_SECTORS;
        if whole && self.agreed.knows(page, &marks) {
            return true;
        }
        let row: Row = self.geometry.row(at / self.geometry.chunk_sectors);
        let agrees = parity_agrees(&row, len as usize * SECTOR, |slot| {
            Media::page(column(usize::from(slot)), at, len)
        });
        if agrees && whole {
            self.agreed.learn(page, &marks);
        }
        agrees
    }
}
