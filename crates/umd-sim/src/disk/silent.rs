//! Disks that lie, tear worse than they should, or do more than they are asked for.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use umd_core::array::Purpose;

use super::{Armed, Fate, Flying, SimDisk, Write, is_metadata};
use crate::stamp::SECTOR;

/// What is never torn, in bytes.
const WORD: u64 = 8;

impl SimDisk {
    /// A FUA write is a write and a flush of everything.
    pub fn emulate_fua(&mut self) {
        self.fua_flushes = true;
    }

    /// The content of sectors on the medium changes by itself.
    pub fn rot(&mut self, range: Range<u64>) {
        for sector in range {
            let mut bytes = [0; SECTOR];
            bytes.copy_from_slice(self.image.sector(sector));
            bytes[self.rng.index(SECTOR)] ^= 1 << self.rng.below(8);
            self.image.put(sector, Some(&bytes));
        }
    }

    /// Whether the next write of data will be lost or go astray.
    pub fn will_lie(&self) -> bool {
        self.armed.iter().any(|fault| {
            matches!(
                fault,
                Armed::LostWrite | Armed::Misdirected(_) | Armed::Elsewhere(_)
            )
        })
    }

    /// How far the next write of data will go astray.
    pub fn shift_of_lie(&self) -> u64 {
        let shift = |fault: &Armed| match fault {
            Armed::Misdirected(shift) => Some(*shift),
            _ => None,
        };
        self.armed.iter().find_map(shift).unwrap_or(0)
    }

    /// Which other disk the next write of data will land on.
    pub fn target_of_lie(&self) -> Option<usize> {
        self.armed.iter().find_map(|fault| match fault {
            Armed::Elsewhere(disk) => Some(*disk),
            _ => None,
        })
    }

    /// Whether a write in flight will turn out to be a lie.
    pub fn is_lying(&self) -> bool {
        let lie = |flying: &Flying| matches!(flying.fate, Fate::Astray(_) | Fate::Elsewhere(_));
        self.flying.values().any(lie)
    }

    /// Device sectors that hold what nobody wrote there, of operations that have ended.
    pub fn take_lies(&mut self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.lies)
    }

    /// The end of a write that is reported done: it lands elsewhere, or (0) nowhere.
    pub(super) fn go_astray(&mut self, write: &Write, shift: u64) {
        let range = write.offset_sectors..write.end_sectors();
        self.lies.push(range.clone());
        if shift == 0 {
            return;
        }
        let victims = range.start + shift..range.end + shift;
        let astray = Rc::new(Write {
            number: write.number,
            offset_sectors: victims.start,
            len_sectors: write.len_sectors,
            data: write.data.clone(),
            // Nobody waits for it to be durable.
            purpose: Purpose::Resync,
            fua: false,
            done: write.done.clone(),
        });
        self.apply(&astray, victims.clone());
        self.lies.push(victims);
    }

    /// The end of a write that is reported done: it lands on another disk.
    pub(super) fn throw(&mut self, disk: usize, write: &Rc<Write>) {
        self.lies.push(write.offset_sectors..write.end_sectors());
        self.strays.push((disk, write.clone()));
    }

    /// Writes that are to land on other disks.
    pub fn take_strays(&mut self) -> Vec<(usize, Rc<Write>)> {
        std::mem::take(&mut self.strays)
    }

    /// A write of another disk lands here.
    pub fn catch(&mut self, write: &Write) {
        self.writes += 1;
        let stray = Rc::new(Write {
            number: self.writes,
            offset_sectors: write.offset_sectors,
            len_sectors: write.len_sectors,
            data: write.data.clone(),
            // Nobody waits for it to be durable.
            purpose: Purpose::Resync,
            fua: false,
            done: Cell::new(self.completions),
        });
        self.completions += 1;
        self.apply(&stray, write.offset_sectors..write.end_sectors());
    }

    /// When the power goes, each torn write of data makes one of its sectors unreadable.
    pub fn shear_next_cut(&mut self) {
        self.shears = true;
    }

    /// Whether it will.
    pub fn shears(&self) -> bool {
        self.shears
    }

    /// The sectors that this has made unreadable.
    pub fn take_shorn(&mut self) -> Vec<u64> {
        self.shears = false;
        std::mem::take(&mut self.shorn)
    }

    /// A write in flight was torn by a power cut.
    pub(super) fn shear(&mut self, write: &Write, landed: &BTreeSet<u64>) {
        if !self.shears || is_metadata(write.purpose) || landed.len() as u64 == write.len_sectors {
            return;
        }
        let sector = write.offset_sectors + self.rng.below(write.len_sectors);
        self.shorn.push(sector);
    }

    /// When the power goes, metadata that is being written is torn anywhere.
    pub fn shred_next_cut(&mut self) {
        self.shreds = true;
    }

    /// A write of metadata was torn by a power cut, in the middle of a sector or not: its first
    /// words are new, the others are what they were.
    pub(super) fn shred(&mut self, write: &Write) {
        let words = write.len_sectors * SECTOR as u64 / WORD;
        let most = self.rng.pick(&[words, words.min(SECTOR as u64 / WORD)]);
        let new = (self.rng.range(1, most - 1) * WORD) as usize;
        for sector in write.offset_sectors..write.end_sectors() {
            let at = (sector - write.offset_sectors) as usize * SECTOR;
            let len = new.saturating_sub(at).min(SECTOR);
            let mut bytes = [0; SECTOR];
            bytes.copy_from_slice(self.image.sector(sector));
            let content = write.content(sector).expect("metadata is written as bytes");
            bytes[..len].copy_from_slice(&content[..len]);
            self.image.put(sector, Some(&bytes));
        }
    }

    /// The disk becomes one sector shorter.
    pub fn shorten(&mut self) {
        assert!(
            self.flying.is_empty() && self.cache.is_empty(),
            "a disk in use"
        );
        self.image.shorten();
        let end = self.sectors();
        self.bad.retain(|sector| *sector < end);
    }
}
