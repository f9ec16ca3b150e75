//! What the media say: whether redundancy agrees, and whether anything is still on its way.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use umd_core::array::Purpose;
use umd_core::value::MemberId;

use crate::disk::{PAGE_SECTORS, SimDisk, Write};
use crate::layout::{Geometry, Row, parity_agrees};
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
    /// Its content counts below this relative sector.
    pub valid_below: u64,
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

/// Pages whose parity was found to agree, by the marks that the pages of all slots had then. The
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

/// The media of an array.
pub struct Media<'a> {
    geometry: &'a Geometry,
    columns: Vec<Option<Column<'a>>>,
    agreed: &'a Agreed,
    excused: &'a BTreeSet<u64>,
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
        }
    }

    fn present(&self) -> impl Iterator<Item = &Column<'a>> {
        self.columns.iter().flatten()
    }

    /// Whether anything that was written to the range (relative sectors) is in flight or volatile.
    pub fn unsettled(&self, range: Range<u64>) -> Option<String> {
        for column in self.present() {
            let start = column.data_offset + range.start;
            let end = column.data_offset + range.end.min(column.valid_below);
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
        }
        None
    }

    /// Whether host data for these relative sectors is in flight or volatile.
    fn is_busy(&self, relative: u64, len: u64) -> bool {
        self.present().any(|column| {
            let (start, end) = (
                column.data_offset + relative,
                column.data_offset + relative + len,
            );
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
        let page = column.disk.durable().page(column.data_offset + relative)?;
        let at = (relative % PAGE_SECTORS) as usize * SECTOR;
        Some(&page[at..at + len as usize * SECTOR])
    }

    /// The first place in the range (relative sectors) where redundancy disagrees on the media.
    /// Members that are missing are not asked.
    pub fn disagreement(&self, range: Range<u64>, needs: Needs) -> Option<String> {
        let end = range.end.min(match self.geometry.level {
            1 => self.geometry.member_sectors[0],
            _ => self.geometry.used_sectors(),
        });
        let mut at = range.start;
        while at < end {
            let len = (PAGE_SECTORS - at % PAGE_SECTORS).min(end - at);
            let skip = self.excused.contains(&(at / PAGE_SECTORS))
                || needs != Needs::InSync && self.is_busy(at, len);
            if !skip && !self.agrees(at, len, needs) {
                return Some(format!("members disagree at sectors {at}..{}", at + len));
            }
            at += len;
        }
        None
    }

    fn agrees(&self, at: u64, len: u64, needs: Needs) -> bool {
        match self.geometry.level {
            0 => true,
            1 => self.mirrors_agree(at, len, needs),
            _ => self.parity_agrees(at, len, needs),
        }
    }

    fn mirrors_agree(&self, at: u64, len: u64, needs: Needs) -> bool {
        static ZERO: [u8; 4096] = [0; 4096];
        let content = |column: &Column<'a>| {
            Media::page(column, at, len).unwrap_or(&ZERO[..len as usize * SECTOR])
        };
        let valid = |column: &&Column<'a>| column.valid_below >= at + len;
        match needs {
            Needs::InSync => {
                let mut contents = self.present().filter(valid).map(content);
                match contents.next() {
                    None => true,
                    Some(first) => contents.all(|other| other == first),
                }
            }
            Needs::Rebuilt(member) => {
                let Some(own) = self.present().find(|column| column.member == member) else {
                    return true;
                };
                let mut sources = self
                    .present()
                    .filter(|column| column.member != member && column.valid_below == u64::MAX)
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
        let mark = |one: &Column<'_>| one.disk.durable().mark(one.data_offset + at);
        let marks: Vec<u64> = slots.map(|slot| mark(column(slot))).collect();
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
