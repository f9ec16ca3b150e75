//! Where array sectors lie and what redundancy has to say: the simulator's own answer.
//!
//! Written from the layout tables alone (facts: layouts, sections 1 to 4) and not shared with the
//! engine, so that a slip in one of the two is noticed. "Relative" sectors count from a member's
//! data offset.
//!
//! ```text
//!   A --/chunk--> C, o;  C --/k--> row S, index i;  i --table of S--> slot;  S*chunk+o = relative
//! ```

mod moving;

use std::cell::OnceCell;
use std::rc::Rc;

use smallvec::{SmallVec, smallvec};

pub use moving::{Moving, device_ranges, device_sector};

/// The places of a sector.
pub type Places = SmallVec<[Place; 4]>;

/// What follows from a geometry and is asked for again and again: worked out once.
#[derive(Debug, Clone, Default)]
pub struct Known(Rc<Facts>);

#[derive(Debug, Default)]
struct Facts {
    array_sectors: OnceCell<u64>,
    chunks: OnceCell<Chunks>,
}

impl PartialEq for Known {
    fn eq(&self, _: &Known) -> bool {
        true
    }
}

impl Eq for Known {}

/// Where the chunks of a RAID10 lie, and what lies there.
#[derive(Debug)]
struct Chunks {
    /// Slot and row of each copy of each chunk, in order.
    copies: Vec<(u16, u64)>,
    /// By slot and row.
    chunk_at: Vec<Option<u64>>,
    rows: u64,
}

/// The shape of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// -5 (faulty), -1 (linear), 0, 1, 4, 5, 6 or 10.
    pub level: i32,
    /// md's layout number (RAID0: 1 or 2).
    pub layout: i32,
    /// Members.
    pub slots: u16,
    /// Chunk; 0 for RAID1, and for linear where sizes are not rounded.
    pub chunk_sectors: u64,
    /// Used part of each member; RAID0, linear: the room of each member, in slot order.
    pub member_sectors: Vec<u64>,
    /// A reshape on its way.
    pub moving: Option<Moving>,
    /// What follows from all that, once it was asked for: empty in a geometry of a new shape.
    pub known: Known,
}

/// How RAID10 copies.
#[derive(Debug, Clone, Copy)]
struct Copies {
    near: u16,
    far: u16,
    offset: bool,
    set: u16,
}

impl Copies {
    fn all(self) -> u16 {
        self.near * self.far
    }
}

/// One stripe row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Slots of the data chunks, in order of the data.
    pub data: Vec<u16>,
    /// Slot of P.
    pub p: Option<u16>,
    /// Slot of Q.
    pub q: Option<u16>,
    /// Exponent of the generator for each slot's data in Q.
    pub exponent: Vec<u32>,
}

/// A place on a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The slot.
    pub slot: u16,
    /// Sector from the start of its data.
    pub relative_sector: u64,
}

impl Geometry {
    /// Chunks of data in a row.
    pub fn data_slots(&self) -> u64 {
        let n = u64::from(self.slots);
        match self.level {
            1 | -5 => 1,
            4 | 5 => n - 1,
            6 => n - 2,
            _ => n,
        }
    }

    /// Members that may be lost.
    pub fn redundancy(&self) -> u16 {
        match self.level {
            1 => self.slots - 1,
            4 | 5 => 1,
            6 => 2,
            10 => self.copies().all() - 1,
            _ => 0,
        }
    }

    /// Whether everything can be read from these slots.
    pub fn survives(&self, holds: impl Fn(u16) -> bool) -> bool {
        if self.level == 10 {
            let period = (u64::from(self.slots) * self.chunk_sectors).min(self.array_sectors());
            let mut chunks = (0..period).step_by(self.chunk_sectors as usize);
            return chunks.all(|sector| self.places(sector).iter().any(|one| holds(one.slot)));
        }
        let held = (0..self.slots).filter(|slot| holds(*slot)).count();
        held + usize::from(self.redundancy()) >= usize::from(self.slots)
    }

    /// Whether sectors lie on members as they are, more than once.
    pub fn is_mirror(&self) -> bool {
        matches!(self.level, 1 | 10)
    }

    /// What resync and bitmap go through: relative sectors, or those of a RAID10 as a whole.
    pub fn walk_sectors(&self) -> u64 {
        match self.level {
            10 => self.array_sectors(),
            _ => self.member_sectors[0],
        }
    }

    /// The sector of that walk which lies at a place.
    pub fn walk_at(&self, place: Place) -> Option<u64> {
        match self.level {
            10 => self.sector_at(place),
            _ => Some(place.relative_sector),
        }
    }

    /// Where a sector of that walk lies.
    pub fn walk_places(&self, walk: u64) -> Places {
        if self.level == 10 {
            return self.places(walk);
        }
        let at = |slot| Place {
            slot,
            relative_sector: walk,
        };
        (0..self.slots).map(at).collect()
    }

    fn copies(&self) -> Copies {
        let word = self.layout.cast_unsigned();
        let (near, far) = (word as u16 & 0xff, (word >> 8) as u16 & 0xff);
        Copies {
            near,
            far,
            offset: word & 0x10000 != 0,
            set: match word >> 17 {
                0 => self.slots,
                1 => self.slots / far,
                _ => near * far,
            },
        }
    }

    /// Chunks of each member that a RAID10 uses.
    fn used_chunks(&self) -> u64 {
        let copies = self.copies();
        let all = self.array_sectors() / self.chunk_sectors * u64::from(copies.all());
        all.div_ceil(self.slots.into())
    }

    /// Where the far copy of what lies on a slot goes, round its set.
    fn far_slot(&self, slot: u16) -> u16 {
        let Copies { near, set, .. } = self.copies();
        let left_over = self.slots % set;
        let last = (self.slots / set - 1) * set;
        let moved = slot + near;
        match left_over > 0 && moved > last {
            true => last + (moved - last) % (set + left_over),
            false => moved % set + slot / set * set,
        }
    }

    /// Slot and row of every copy of a chunk of a RAID10.
    fn copies_of(&self, chunk: u64, used_chunks: u64) -> impl Iterator<Item = (u16, u64)> + '_ {
        let copies = self.copies();
        let n = u64::from(self.slots);
        let (rows, stride) = match copies.offset {
            true => (u64::from(copies.far), 1),
            false => (1, used_chunks / u64::from(copies.far)),
        };
        let first = chunk * u64::from(copies.near);
        let nears = first..first + u64::from(copies.near);
        nears.flat_map(move |near| {
            let nearest = ((near % n) as u16, near / n * rows);
            let next = move |(slot, row): &(u16, u64)| Some((self.far_slot(*slot), row + stride));
            std::iter::successors(Some(nearest), next).take(usize::from(copies.far))
        })
    }

    fn chunks(&self) -> &Chunks {
        self.known.0.chunks.get_or_init(|| {
            let rows = self.used_chunks();
            let count = self.array_sectors() / self.chunk_sectors;
            let mut copies = Vec::new();
            let mut chunk_at = vec![None; usize::from(self.slots) * rows as usize];
            for chunk in 0..count {
                for (slot, row) in self.copies_of(chunk, rows) {
                    assert!(row < rows, "chunk {chunk} of {self:?} lies inside");
                    let at = &mut chunk_at[usize::from(slot) * rows as usize + row as usize];
                    assert!(at.is_none(), "two chunks of {self:?} in one place");
                    *at = Some(chunk);
                    copies.push((slot, row));
                }
            }
            Chunks {
                copies,
                chunk_at,
                rows,
            }
        })
    }

    /// Every copy of a sector of a RAID10.
    fn copied(&self, sector: u64) -> Places {
        let (chunk, o) = (sector / self.chunk_sectors, sector % self.chunk_sectors);
        let all = usize::from(self.copies().all());
        let copies = &self.chunks().copies[chunk as usize * all..][..all];
        let place = |(slot, row): &(u16, u64)| Place {
            slot: *slot,
            relative_sector: row * self.chunk_sectors + o,
        };
        copies.iter().map(place).collect()
    }

    /// The sector of a RAID10 of which this is a copy.
    fn copied_at(&self, place: Place) -> Option<u64> {
        let chunks = self.chunks();
        let (row, o) = (
            place.relative_sector / self.chunk_sectors,
            place.relative_sector % self.chunk_sectors,
        );
        if row >= chunks.rows {
            return None;
        }
        let chunk = chunks.chunk_at[usize::from(place.slot) * chunks.rows as usize + row as usize];
        chunk.map(|chunk| chunk * self.chunk_sectors + o)
    }

    /// Whether P (and Q) exist.
    pub fn has_parity(&self) -> bool {
        matches!(self.level, 4..=6)
    }

    /// The smallest used part of a member, in whole chunks.
    pub fn used_sectors(&self) -> u64 {
        if self.level == 10 {
            return self.used_chunks() * self.chunk_sectors;
        }
        let least = self.member_sectors.iter().copied().min().unwrap_or(0);
        match self.chunk_sectors {
            0 => least,
            chunk => least / chunk * chunk,
        }
    }

    /// Size of the array.
    pub fn array_sectors(&self) -> u64 {
        let known = &self.known.0.array_sectors;
        *known.get_or_init(|| self.size_of_array())
    }

    fn size_of_array(&self) -> u64 {
        if self.level == -1 {
            return self
                .member_sectors
                .iter()
                .map(|size| self.rounded(*size))
                .sum();
        }
        if self.level == 10 {
            let copies = self.copies();
            let far_part = self.member_sectors[0] / self.chunk_sectors / u64::from(copies.far);
            let chunks = far_part * u64::from(self.slots) / u64::from(copies.near);
            return chunks * self.chunk_sectors;
        }
        if self.level == 0 {
            let whole = |&size: &u64| size / self.chunk_sectors * self.chunk_sectors;
            // md masks with chunk - 1, also where the chunk is no power of two: facts, layouts,
            // section 2, step 4.
            let masked = |&size: &u64| whole(&size) & !(self.chunk_sectors - 1);
            let zones: u64 = self.member_sectors.iter().map(whole).sum();
            return zones.min(self.member_sectors.iter().map(masked).sum());
        }
        self.used_sectors() * self.data_slots()
    }

    /// The slots of a row of a parity array.
    pub fn row(&self, row: u64) -> Row {
        let n = u64::from(self.slots);
        let (p, q) = self.parity_slots(row);
        let data = (0..self.data_slots())
            .map(|index| self.data_slot(row, index, (p, q)) as u16)
            .collect();
        let mut exponent = vec![0; self.slots as usize];
        if let Some(q) = q {
            let ddf = matches!(self.layout_of(row), 8..=10);
            let mut next = 0;
            for step in 1..=n {
                let slot = (q + step) % n;
                if slot != p && slot != q {
                    exponent[slot as usize] = if ddf { slot as u32 } else { next };
                    next += 1;
                }
            }
        }
        Row {
            data,
            p: Some(p as u16),
            q: q.map(|q| q as u16),
            exponent,
        }
    }

    fn parity_slots(&self, row: u64) -> (u64, Option<u64>) {
        let n = u64::from(self.slots);
        let layout = self.layout_of(row);
        if self.level != 6 {
            return (
                self.parity5(if self.level == 4 { 5 } else { layout }, row, n),
                None,
            );
        }
        let left = n - 1 - row % n;
        match layout {
            0 | 2 => (left, Some((left + 1) % n)),
            1 | 3 | 8 => (row % n, Some((row % n + 1) % n)),
            4 => (0, Some(1)),
            5 => (n - 2, Some(n - 1)),
            9 => {
                let p = n - 1 - (row + 1) % n;
                (p, Some((p + 1) % n))
            }
            10 => (left, Some((left + n - 1) % n)),
            16..=20 => (self.parity5(layout - 16, row, n - 1), Some(n - 1)),
            other => panic!("no RAID6 layout {other}"),
        }
    }

    fn parity5(&self, layout: i32, row: u64, n: u64) -> u64 {
        match layout {
            0 | 2 => n - 1 - row % n,
            1 | 3 => row % n,
            4 => 0,
            5 => n - 1,
            other => panic!("no RAID5 layout {other}"),
        }
    }

    fn data_slot(&self, row: u64, index: u64, (p, q): (u64, Option<u64>)) -> u64 {
        let n = u64::from(self.slots);
        let shift = |parity: u64, by: u64| if index >= parity { index + by } else { index };
        match (self.level, self.layout_of(row)) {
            (4, _) | (5, 5) | (6, 5) => index,
            (5, 0 | 1) => shift(p, 1),
            (5, 2 | 3) => (p + 1 + index) % n,
            (5, 4) | (6, 20) => index + 1,
            (6, 4) => index + 2,
            (6, 2 | 3) => (p + 2 + index) % n,
            (6, 10) => (p + 1 + index) % n,
            (6, 16 | 17) => shift(p, 1),
            (6, 18 | 19) => (p + 1 + index) % (n - 1),
            (6, _) if q == Some(0) => index + 1,
            (6, _) => shift(p, 2),
            other => panic!("no parity layout {other:?}"),
        }
    }

    /// Where an array sector lies: every copy for RAID1, one place else.
    pub fn places(&self, sector: u64) -> Places {
        assert!(sector < self.array_sectors(), "sector {sector} is outside");
        match self.level {
            -1 => smallvec![self.linear(sector)],
            10 => self.copied(sector),
            0 => smallvec![self.striped(sector)],
            1 | -5 => (0..self.slots)
                .map(|slot| Place {
                    slot,
                    relative_sector: sector,
                })
                .collect(),
            _ => {
                let (chunk, o) = (sector / self.chunk_sectors, sector % self.chunk_sectors);
                let (row, index) = (chunk / self.data_slots(), chunk % self.data_slots());
                let (p, q) = self.parity_slots(row);
                smallvec![Place {
                    slot: self.data_slot(row, index, (p, q)) as u16,
                    relative_sector: row * self.chunk_sectors + o,
                }]
            }
        }
    }

    /// The array sector that a place holds; `None` for parity. Not for RAID0.
    pub fn sector_at(&self, place: Place) -> Option<u64> {
        match self.level {
            1 => return Some(place.relative_sector),
            10 => return self.copied_at(place),
            _ => {}
        }
        assert!(
            self.has_parity(),
            "only mirrors and parity arrays are mapped back"
        );
        let row = place.relative_sector / self.chunk_sectors;
        let o = place.relative_sector % self.chunk_sectors;
        let index = self
            .row(row)
            .data
            .iter()
            .position(|&slot| slot == place.slot)?;
        Some((row * self.data_slots() + index as u64) * self.chunk_sectors + o)
    }

    /// A size in whole chunks, where there are chunks.
    fn rounded(&self, size: u64) -> u64 {
        match self.chunk_sectors {
            0 => size,
            chunk => size / chunk * chunk,
        }
    }

    fn linear(&self, sector: u64) -> Place {
        let mut relative_sector = sector;
        for (slot, size) in self.member_sectors.iter().enumerate() {
            let size = self.rounded(*size);
            if relative_sector < size {
                return Place {
                    slot: slot as u16,
                    relative_sector,
                };
            }
            relative_sector -= size;
        }
        unreachable!("sector {sector} is inside")
    }

    fn striped(&self, sector: u64) -> Place {
        let chunk = self.chunk_sectors;
        let whole: Vec<u64> = self
            .member_sectors
            .iter()
            .map(|s| s / chunk * chunk)
            .collect();
        let (mut zone_start, mut dev_start) = (0, 0);
        loop {
            let disks: Vec<usize> = (0..whole.len())
                .filter(|&slot| whole[slot] > dev_start)
                .collect();
            let next = disks
                .iter()
                .map(|&slot| whole[slot])
                .min()
                .expect("inside the array");
            let count = disks.len() as u64;
            let zone_end = zone_start + (next - dev_start) * count;
            if sector < zone_end {
                let relative = sector - zone_start;
                let index = if self.layout == 1 { sector } else { relative } / chunk % count;
                let row = relative / (chunk * count);
                return Place {
                    slot: disks[index as usize] as u16,
                    relative_sector: dev_start + row * chunk + sector % chunk,
                };
            }
            (zone_start, dev_start) = (zone_end, next);
        }
    }
}

/// Multiplies eight bytes at once by the generator of GF(2^8) with polynomial 0x11d.
fn double(word: u64) -> u64 {
    let high = (word >> 7) & 0x0101_0101_0101_0101;
    ((word & 0x7f7f_7f7f_7f7f_7f7f) << 1) ^ (high * 0x1d)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .chunks_exact(8)
        .map(|piece| u64::from_le_bytes(piece.try_into().expect("eight bytes")))
}

/// The most that is compared at once: a page.
const WORDS_MAX: usize = 512;

/// Whether P and Q agree with the data. `bytes` gives the content of each slot (`None`: zeros); all
/// of the same length, a page at most.
pub fn parity_agrees<'a>(row: &Row, len: usize, bytes: impl Fn(u16) -> Option<&'a [u8]>) -> bool {
    if (0..row.exponent.len()).all(|slot| bytes(slot as u16).is_none()) {
        return true;
    }
    assert!(len / 8 <= WORDS_MAX, "a page at most");
    let mut sum: SmallVec<[u64; WORDS_MAX]> = SmallVec::new();
    for content in row.data.iter().filter_map(|&slot| bytes(slot)) {
        match sum.is_empty() {
            true => sum.extend(words(content)),
            false => add(&mut sum, content),
        }
    }
    sum.resize(len / 8, 0);
    let sum = &sum[..];
    let agrees = |slot: Option<u16>, wanted: &[u64]| match slot.map(&bytes) {
        None => true,
        Some(None) => wanted.iter().all(|&word| word == 0),
        Some(Some(content)) => is_equal(wanted, content),
    };
    agrees(row.p, sum) && (row.q.is_none() || agrees(row.q, &weighted_sum(row, len, &bytes)))
}

/// What Q has to be: by Horner's rule, from the highest exponent down.
fn weighted_sum<'a>(row: &Row, len: usize, bytes: impl Fn(u16) -> Option<&'a [u8]>) -> Vec<u64> {
    let mut weighted = vec![0u64; len / 8];
    let mut by_exponent: Vec<u16> = row.data.clone();
    by_exponent.sort_by_key(|&slot| std::cmp::Reverse(row.exponent[slot as usize]));
    let mut above = None;
    for slot in by_exponent {
        let exponent = row.exponent[slot as usize];
        multiply(&mut weighted, above.map_or(0, |above| above - exponent));
        above = Some(exponent);
        if let Some(content) = bytes(slot) {
            add(&mut weighted, content);
        }
    }
    multiply(&mut weighted, above.unwrap_or(0));
    weighted
}

/// Multiplies by the generator so many times.
fn multiply(words: &mut [u64], times: u32) {
    for _ in 0..times {
        words.iter_mut().for_each(|word| *word = double(*word));
    }
}

fn add(sum: &mut [u64], content: &[u8]) {
    assert_eq!(sum.len() * 8, content.len(), "columns have one length");
    sum.iter_mut()
        .zip(words(content))
        .for_each(|(sum, word)| *sum ^= word);
}

/// Looks at everything before it decides: that is faster than deciding word by word.
fn is_equal(wanted: &[u64], content: &[u8]) -> bool {
    assert_eq!(wanted.len() * 8, content.len(), "columns have one length");
    let pairs = wanted.iter().zip(words(content));
    pairs.fold(0, |wrong, (wanted, word)| wrong | (wanted ^ word)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(level: i32, layout: i32, slots: u16) -> Geometry {
        Geometry {
            level,
            layout,
            slots,
            chunk_sectors: 8,
            member_sectors: vec![8 * 20; slots as usize],
            moving: None,
            known: Known::default(),
        }
    }

    /// The picture of a row as the tables of the facts show it.
    fn picture(g: &Geometry, row: u64) -> String {
        let r = g.row(row);
        let cell = |slot: u16| match (r.p == Some(slot), r.q == Some(slot)) {
            (true, _) => "P".to_owned(),
            (_, true) => "Q".to_owned(),
            _ => {
                let index = r.data.iter().position(|&s| s == slot).expect("data") as u64;
                (row * g.data_slots() + index).to_string()
            }
        };
        (0..g.slots).map(cell).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn raid5_rows_are_as_tabled() {
        let rows = |layout| {
            let g = geometry(5, layout, 4);
            (0..5).map(|row| picture(&g, row)).collect::<Vec<_>>()
        };
        let ls = ["0 1 2 P", "4 5 P 3", "8 P 6 7", "P 9 10 11", "12 13 14 P"];
        assert_eq!(
            rows(0),
            ["0 1 2 P", "3 4 P 5", "6 P 7 8", "P 9 10 11", "12 13 14 P"]
        );
        assert_eq!(
            rows(1),
            ["P 0 1 2", "3 P 4 5", "6 7 P 8", "9 10 11 P", "P 12 13 14"]
        );
        assert_eq!(rows(2), ls);
        assert_eq!(
            rows(3),
            ["P 0 1 2", "5 P 3 4", "7 8 P 6", "9 10 11 P", "P 12 13 14"]
        );
        assert_eq!(rows(4)[1], "P 3 4 5");
        assert_eq!(rows(5)[1], "3 4 5 P");
    }

    #[test]
    fn raid6_rows_are_as_tabled() {
        let rows = |layout| {
            let g = geometry(6, layout, 5);
            (0..4).map(|row| picture(&g, row)).collect::<Vec<_>>()
        };
        assert_eq!(
            rows(0),
            ["Q 0 1 2 P", "3 4 5 P Q", "6 7 P Q 8", "9 P Q 10 11"]
        );
        assert_eq!(
            rows(1),
            ["P Q 0 1 2", "3 P Q 4 5", "6 7 P Q 8", "9 10 11 P Q"]
        );
        assert_eq!(rows(1), rows(8));
        assert_eq!(
            rows(2),
            ["Q 0 1 2 P", "3 4 5 P Q", "7 8 P Q 6", "11 P Q 9 10"]
        );
        assert_eq!(
            rows(3),
            ["P Q 0 1 2", "5 P Q 3 4", "7 8 P Q 6", "9 10 11 P Q"]
        );
        assert_eq!(
            rows(9),
            ["0 1 2 P Q", "3 4 P Q 5", "6 P Q 7 8", "P Q 9 10 11"]
        );
        assert_eq!(
            rows(10),
            ["0 1 2 Q P", "4 5 Q P 3", "8 Q P 6 7", "Q P 9 10 11"]
        );
        assert_eq!(
            rows(16),
            ["0 1 2 P Q", "3 4 P 5 Q", "6 P 7 8 Q", "P 9 10 11 Q"]
        );
        assert_eq!(
            rows(17),
            ["P 0 1 2 Q", "3 P 4 5 Q", "6 7 P 8 Q", "9 10 11 P Q"]
        );
        assert_eq!(
            rows(18),
            ["0 1 2 P Q", "4 5 P 3 Q", "8 P 6 7 Q", "P 9 10 11 Q"]
        );
        assert_eq!(
            rows(19),
            ["P 0 1 2 Q", "5 P 3 4 Q", "7 8 P 6 Q", "9 10 11 P Q"]
        );
        assert_eq!(rows(20)[1], "P 3 4 5 Q");
    }

    #[test]
    fn parity_bytes_are_as_measured_on_a_real_array() {
        // All data 0x54: P and Q bytes seen on images the kernel wrote.
        let check = |layout, row, q| {
            let g = geometry(6, layout, 5);
            let row = g.row(row);
            let mut members = vec![vec![0x54u8; 512]; 5];
            members[row.p.expect("p") as usize] = vec![0x54; 512];
            members[row.q.expect("q") as usize] = vec![q; 512];
            let ok = parity_agrees(&row, 512, |slot| Some(&members[slot as usize]));
            members[row.data[0] as usize][77] ^= 1;
            assert!(!parity_agrees(&row, 512, |slot| Some(
                &members[slot as usize]
            )));
            ok
        };
        assert!(check(2, 0, 0xb1));
        assert!(check(10, 1, 0xd5));
        assert!(check(10, 2, 0xe7));
        assert!(!check(10, 2, 0xe8));
        assert!(parity_agrees(&geometry(6, 2, 5).row(0), 512, |_| None));
    }

    #[test]
    fn maps_are_one_to_one() {
        let mut shapes = vec![geometry(1, 0, 3), geometry(4, 0, 4)];
        let ten = [
            (0x102, 4),
            (0x102, 3),
            (0x103, 5),
            (0x201, 4),
            (0x201, 3),
            (0x301, 4),
            (0x10201, 4),
            (0x10201, 5),
            (0x202, 4),
            (0x10202, 4),
            (0x40201, 5),
            (0x50201, 5),
        ];
        shapes.extend(ten.map(|(layout, slots)| geometry(10, layout, slots)));
        shapes.extend((0..6).map(|l| geometry(5, l, 4)));
        let six = [0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20];
        shapes.extend(six.map(|l| geometry(6, l, 6)));
        for g in shapes {
            let mut seen = std::collections::BTreeSet::new();
            for sector in 0..g.array_sectors() {
                for place in g.places(sector) {
                    assert!(seen.insert(place), "{g:?} {sector}");
                    assert!(place.relative_sector < g.used_sectors());
                    assert_eq!(g.sector_at(place), Some(sector));
                }
            }
        }
    }

    #[test]
    fn raid10_rows_are_as_tabled() {
        let table = |layout, slots, rows: u64| {
            let g = Geometry {
                member_sectors: vec![8 * rows; usize::from(slots)],
                ..geometry(10, layout, slots)
            };
            let cell = |row: u64, slot| {
                let relative_sector = row * 8;
                let found = g.sector_at(Place {
                    slot,
                    relative_sector,
                });
                found.map_or("-".to_owned(), |sector| (sector / 8).to_string())
            };
            let row = |row| {
                (0..slots)
                    .map(|s| cell(row, s))
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            (0..rows.min(4)).map(row).collect::<Vec<_>>().join(" / ")
        };
        assert_eq!(table(0x102, 4, 2), "0 0 1 1 / 2 2 3 3");
        assert_eq!(table(0x102, 3, 4), "0 0 1 / 1 2 2 / 3 3 4 / 4 5 5");
        assert_eq!(table(0x201, 3, 4), "0 1 2 / 3 4 5 / 2 0 1 / 5 3 4");
        assert_eq!(
            table(0x10201, 4, 4),
            "0 1 2 3 / 3 0 1 2 / 4 5 6 7 / 7 4 5 6"
        );
        assert_eq!(table(0x202, 4, 4), "0 0 1 1 / 2 2 3 3 / 1 1 0 0 / 3 3 2 2");
        let sets = "0 1 2 3 4 / 5 6 7 8 9 / 1 0 4 2 3 / 6 5 9 7 8";
        assert_eq!(table(0x40201, 5, 4), sets);
    }

    #[test]
    fn linear_members_follow_each_other() {
        let g = Geometry {
            member_sectors: vec![40, 24],
            ..geometry(-1, 0, 2)
        };
        let place = |sector| {
            (
                g.places(sector)[0].slot,
                g.places(sector)[0].relative_sector,
            )
        };
        assert_eq!(
            (g.array_sectors(), place(39), place(40), place(63)),
            (64, (0, 39), (1, 0), (1, 23))
        );
    }

    #[test]
    fn raid0_zones_are_as_tabled() {
        let g = |layout| Geometry {
            level: 0,
            layout,
            slots: 4,
            chunk_sectors: 32,
            member_sectors: vec![9872, 5872, 14072, 9872],
            moving: None,
            known: Known::default(),
        };
        assert_eq!(g(1).array_sectors(), 9856 + 5856 + 14048 + 9856);
        let place = |layout, sector| {
            let place = g(layout).places(sector)[0];
            (place.slot, place.relative_sector)
        };
        assert_eq!(place(1, 33), (1, 1));
        assert_eq!(place(1, 23424), (0, 5856));
        assert_eq!(place(2, 23424), (0, 5856));
        assert_eq!(place(2, 23424 + 32), (2, 5856));
        assert_eq!(place(1, 35424), (2, 9856));
    }
}
