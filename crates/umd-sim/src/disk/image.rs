//! Sparse content of a disk: 4 KiB pages, shared until written.
//!
//! Every page has a mark that changes with its content and is given to no other content: what was
//! found out about a page holds for as long as it has the same mark.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rng::mix;
use crate::stamp::SECTOR;

/// Sectors of a page.
pub const PAGE_SECTORS: u64 = 8;
const PAGE: usize = 4096;
static ZERO: [u8; PAGE] = [0; PAGE];

/// The mark of pages of zeros.
const ZERO_MARK: u64 = 0;

/// A mark that no page had before. Clones of a disk part ways, so marks are counted for all disks
/// together; nothing depends on their values.
fn fresh_mark() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(ZERO_MARK + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the medium holds. Cloning shares all pages.
#[derive(Debug, Clone)]
pub struct Image {
    pages: Vec<Option<Rc<[u8; PAGE]>>>,
    marks: Vec<u64>,
    sectors: u64,
}

fn place(sector: u64) -> (usize, usize) {
    (
        (sector / PAGE_SECTORS) as usize,
        (sector % PAGE_SECTORS) as usize * SECTOR,
    )
}

impl Image {
    /// A medium of zeros.
    pub fn new(sectors: u64) -> Image {
        let pages = sectors.div_ceil(PAGE_SECTORS) as usize;
        Image {
            pages: vec![None; pages],
            marks: vec![ZERO_MARK; pages],
            sectors,
        }
    }

    /// Its size.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// One sector.
    pub fn sector(&self, sector: u64) -> &[u8] {
        assert!(sector < self.sectors, "sector {sector} lies off the disk");
        let (page, at) = place(sector);
        match &self.pages[page] {
            Some(bytes) => &bytes[at..at + SECTOR],
            None => &ZERO[at..at + SECTOR],
        }
    }

    /// Consecutive sectors from `first` on.
    pub fn read(&self, first: u64, out: &mut [u8]) {
        let end = first + (out.len() / SECTOR) as u64;
        assert!(end <= self.sectors, "sector {end} lies off the disk");
        let (mut page, mut at) = place(first);
        let mut rest = out;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at_mut(rest.len().min(PAGE - at));
            match &self.pages[page] {
                Some(bytes) => piece.copy_from_slice(&bytes[at..at + piece.len()]),
                None => piece.fill(0),
            }
            (page, at, rest) = (page + 1, 0, behind);
        }
    }

    /// The page that holds a sector, `None` for a hole.
    pub fn page(&self, sector: u64) -> Option<&[u8; PAGE]> {
        self.pages[(sector / PAGE_SECTORS) as usize].as_deref()
    }

    /// The mark of the page that holds a sector.
    pub fn mark(&self, sector: u64) -> u64 {
        self.marks[(sector / PAGE_SECTORS) as usize]
    }

    /// Takes the last sector away.
    pub fn shorten(&mut self) {
        self.put(self.sectors - 1, None);
        self.sectors -= 1;
        let pages = self.sectors.div_ceil(PAGE_SECTORS) as usize;
        self.pages.truncate(pages);
        self.marks.truncate(pages);
    }

    /// A hash of the content.
    pub fn digest(&self) -> u64 {
        let mut sum = self.sectors;
        for (number, page) in self.pages.iter().enumerate() {
            let Some(page) = page else { continue };
            sum = mix(sum ^ number as u64);
            for word in page.chunks_exact(8) {
                let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
                sum = (sum ^ word)
                    .wrapping_mul(0x2545_f491_4f6c_dd1d)
                    .rotate_left(29);
            }
        }
        mix(sum)
    }

    /// Replaces one sector; `None` writes zeros. A page of zeros becomes a hole with its last
    /// sector.
    pub fn put(&mut self, sector: u64, content: Option<&[u8]>) {
        assert!(sector < self.sectors, "sector {sector} lies off the disk");
        let (page, at) = place(sector);
        let slot = &mut self.pages[page];
        self.marks[page] = fresh_mark();
        match content {
            Some(content) => {
                let bytes = Rc::make_mut(slot.get_or_insert_with(|| Rc::new(ZERO)));
                bytes[at..at + SECTOR].copy_from_slice(content);
            }
            None => {
                if let Some(bytes) = slot {
                    Rc::make_mut(bytes)[at..at + SECTOR].fill(0);
                    if at + SECTOR == PAGE && **bytes == ZERO {
                        *slot = None;
                    }
                }
                if slot.is_none() {
                    self.marks[page] = ZERO_MARK;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_until_written() {
        let mut a = Image::new(64);
        a.put(9, Some(&[7; SECTOR]));
        let mut b = a.clone();
        b.put(9, Some(&[8; SECTOR]));
        b.put(10, None);
        assert_eq!(a.sector(9), &[7; SECTOR]);
        assert_eq!(b.sector(9), &[8; SECTOR]);
        assert_eq!(a.sector(8), &[0; SECTOR]);
        assert!(a.page(0).is_none() && a.page(15).is_some());
    }

    #[test]
    fn many_sectors_are_read_as_each_of_them() {
        let mut a = Image::new(64);
        for sector in [3, 7, 8, 15, 16, 30] {
            a.put(sector, Some(&[sector as u8; SECTOR]));
        }
        for (first, count) in [(0, 64), (3, 5), (3, 6), (7, 1), (12, 0), (15, 49), (64, 0)] {
            let mut bytes = vec![9; count as usize * SECTOR];
            a.read(first, &mut bytes);
            let each: Vec<&[u8]> = (first..first + count).map(|at| a.sector(at)).collect();
            assert_eq!(bytes, each.concat(), "{first}+{count}");
        }
    }

    #[test]
    fn a_page_written_with_zeros_to_its_end_is_a_hole() {
        let mut a = Image::new(64);
        for sector in 8..24 {
            a.put(sector, Some(&[1; SECTOR]));
        }
        for sector in 9..24 {
            a.put(sector, None);
        }
        assert!(a.page(8).is_some() && a.page(16).is_none());
        assert_eq!(a.sector(8), &[1; SECTOR]);
    }

    #[test]
    fn a_mark_stands_for_one_content() {
        let mut a = Image::new(64);
        assert_eq!(a.mark(8), a.mark(16), "zeros are zeros");
        a.put(9, Some(&[1; SECTOR]));
        let (before, mut b) = (a.mark(8), a.clone());
        a.put(10, Some(&[2; SECTOR]));
        b.put(10, Some(&[3; SECTOR]));
        assert!(a.mark(8) != before && b.mark(8) != before && a.mark(8) != b.mark(8));
        assert_eq!(a.mark(8), a.mark(15));
        (8..16).for_each(|sector| a.put(sector, None));
        assert_eq!(a.mark(8), a.mark(16));
    }

    #[test]
    #[should_panic(expected = "off the disk")]
    fn nothing_lies_behind_the_end() {
        Image::new(10).put(10, None);
    }
}
