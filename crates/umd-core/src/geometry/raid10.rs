//! RAID10: every chunk in several copies, near each other, far away, or in the next rows.
//!
//! ```text
//!   near 2 on 4        near 2 on 3      far 2 on 4               offset 2 on 4
//!     0  0  1  1         0  0  1          0  1  2  3               0  1  2  3
//!     2  2  3  3         1  2  2          4  5  6  7               3  0  1  2
//!     4  4  5  5         3  3  4          ... half way down:       4  5  6  7
//!                                         3  0  1  2               7  4  5  6
//! ```
//!
//! Near copies are counted on from slot to slot and row to row. Each of them is copied `far` times:
//! a stride further down, and `near` slots on, wrapping round within its far set.
//!
//! Some layouts that md starts map two chunks to one place, or two copies of a chunk to one slot.
//! They have no map here.

use smallvec::SmallVec;
use umd_format::{Level, Raid10Layout};

use crate::value::{MAX_SECTOR, SECTOR_BYTES};

/// Why a RAID10 map cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Raid10Error {
    /// Not one of md's layouts, or not for so many slots.
    #[error("layout {layout:#x} is not one of RAID10's for {raid_disks} devices")]
    Unknown {
        /// The layout word.
        layout: u32,
        /// Slots.
        raid_disks: u16,
    },
    /// Two chunks of the array share a place.
    #[error(
        "layout {layout:#x} on {raid_disks} devices puts two chunks in one place; kernels that \
         run such an array lose data"
    )]
    Overlapping {
        /// The layout word.
        layout: u32,
        /// Slots.
        raid_disks: u16,
    },
    /// Two copies of a chunk lie on one slot.
    #[error(
        "layout {layout:#x} on {raid_disks} devices puts two copies of a chunk on one device, \
         which is no redundancy"
    )]
    Together {
        /// The layout word.
        layout: u32,
        /// Slots.
        raid_disks: u16,
    },
    /// The chunk size is no power of two of at least 4 KiB.
    #[error("RAID10 needs a chunk size that is a power of two of at least 4K")]
    Chunk,
    /// 2^64 bytes or more.
    #[error("a RAID10 of 2^64 bytes or more")]
    TooLarge,
    /// A member holds less than a chunk of each far copy.
    #[error("a RAID10 member holds less than one chunk")]
    Empty,
}

/// A copy of a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Copy {
    /// The slot.
    pub slot: u16,
    /// Data sector on it.
    pub member_sectors: u64,
}

/// A RAID10 map. (layouts.md section 5)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raid10 {
    near: u16,
    far: u16,
    offset: bool,
    raid_disks: u16,
    chunk_sectors: u64,
    /// Rows between two far copies.
    stride_rows: u64,
    dev_sectors: u64,
    array_sectors: u64,
    /// By far copy and slot of the first copy: the slot.
    slots: Vec<Vec<u16>>,
    /// By far copy and slot: the slot of the first copy.
    firsts: Vec<Vec<u16>>,
    /// Sets of slots that hold the same chunks, each once.
    groups: Vec<SmallVec<[u16; 4]>>,
}

/// The slot of the next far copy of what lies on `slot`. The last set takes in what is left over.
fn next_slot(layout: &Raid10Layout, slot: u16) -> u16 {
    let (disks, set) = (layout.raid_disks, layout.set_slots);
    let rest = disks % set;
    let last_start = (disks / set - 1) * set;
    let on = slot + layout.near;
    if rest != 0 && on > last_start {
        last_start + (on - last_start) % (set + rest)
    } else {
        on % set + slot / set * set
    }
}

/// By far copy: the slot of each first copy's slot.
fn slots_of(layout: &Raid10Layout) -> Vec<Vec<u16>> {
    let mut slots = vec![(0..layout.raid_disks).collect::<Vec<u16>>()];
    for copy in 1..usize::from(layout.far) {
        let before = slots[copy - 1].iter();
        slots.push(before.map(|slot| next_slot(layout, *slot)).collect());
    }
    slots
}

/// The other way round; `None` if two slots go to one.
fn inverse(slots: &[u16]) -> Option<Vec<u16>> {
    let mut firsts = vec![None; slots.len()];
    for (first, slot) in slots.iter().enumerate() {
        let place = &mut firsts[usize::from(*slot)];
        if place.replace(first as u16).is_some() {
            return None;
        }
    }
    firsts.into_iter().collect()
}

impl Raid10 {
    /// The map of members of `dev_sectors` each.
    pub fn new(
        layout: u32,
        raid_disks: u16,
        chunk_sectors: u64,
        dev_sectors: u64,
    ) -> Result<Raid10, Raid10Error> {
        let unknown = Raid10Error::Unknown { layout, raid_disks };
        let shape = Raid10Layout::parse(layout, raid_disks).ok_or(unknown.clone())?;
        if u32::from(raid_disks) > Level::Raid10.max_disks(layout) {
            return Err(unknown);
        }
        if chunk_sectors < 8 || !chunk_sectors.is_power_of_two() {
            return Err(Raid10Error::Chunk);
        }
        let (near, far) = (u64::from(shape.near), u64::from(shape.far));
        let n = u64::from(raid_disks);
        let array_sectors = shape.array_sectors(chunk_sectors, dev_sectors);
        if array_sectors == 0 {
            return Err(Raid10Error::Empty);
        }
        if array_sectors > MAX_SECTOR / SECTOR_BYTES {
            return Err(Raid10Error::TooLarge);
        }
        let chunks = array_sectors / chunk_sectors;
        let rows = (chunks * near * far).div_ceil(n);
        let overlapping = Raid10Error::Overlapping { layout, raid_disks };
        // Offset copies lie right behind their row, where near copies that wrap round go, too.
        if shape.offset && n % near != 0 {
            return Err(overlapping);
        }
        let slots = slots_of(&shape);
        let firsts = slots
            .iter()
            .map(|slots| inverse(slots))
            .collect::<Option<Vec<_>>>();
        let mut map = Raid10 {
            near: shape.near,
            far: shape.far,
            offset: shape.offset,
            raid_disks,
            chunk_sectors,
            stride_rows: if shape.offset { 1 } else { rows / far },
            dev_sectors: rows * chunk_sectors,
            array_sectors,
            slots,
            firsts: firsts.ok_or(overlapping)?,
            groups: Vec::new(),
        };
        map.groups = map.find_groups();
        let copies = usize::from(shape.copies());
        if map.groups.iter().any(|group| group.len() < copies) {
            return Err(Raid10Error::Together { layout, raid_disks });
        }
        assert!(map.dev_sectors <= dev_sectors, "copies fit their members");
        Ok(map)
    }

    /// For exhibit M27: as if every far copy lay on the slot of the first one.
    pub(crate) fn meeting(mut self) -> Raid10 {
        for copies in [&mut self.slots, &mut self.firsts] {
            let first = copies[0].clone();
            copies.iter_mut().for_each(|slots| slots.clone_from(&first));
        }
        self
    }

    /// Which slots hold a chunk repeats after as many chunks as there are slots.
    fn find_groups(&self) -> Vec<SmallVec<[u16; 4]>> {
        let chunks = 0..u64::from(self.raid_disks).min(self.array_sectors / self.chunk_sectors);
        let group = |chunk: u64| {
            let copies = self.copies(chunk * self.chunk_sectors);
            let mut slots: SmallVec<[u16; 4]> = copies.iter().map(|copy| copy.slot).collect();
            slots.sort_unstable();
            slots.dedup();
            slots
        };
        let mut groups: Vec<SmallVec<[u16; 4]>> = chunks.map(group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Slots.
    pub fn raid_disks(&self) -> u16 {
        self.raid_disks
    }

    /// Copies of everything.
    pub fn copies_of_each(&self) -> u16 {
        self.near * self.far
    }

    /// The chunk size.
    pub fn chunk_sectors(&self) -> u64 {
        self.chunk_sectors
    }

    /// Used sectors of each member: whole chunks.
    pub fn dev_sectors(&self) -> u64 {
        self.dev_sectors
    }

    /// Size of the array.
    pub fn array_sectors(&self) -> u64 {
        self.array_sectors
    }

    /// Sets of slots that hold the same chunks. The array can be read while each has a member in
    /// sync.
    pub fn groups(&self) -> &[SmallVec<[u16; 4]>] {
        &self.groups
    }

    /// Where the copies of an array sector lie, md's first one first.
    /// Panics when `sector` lies outside the array.
    pub fn copies(&self, sector: u64) -> SmallVec<[Copy; 4]> {
        assert!(sector < self.array_sectors, "sector outside the array");
        let (chunk, within) = (sector / self.chunk_sectors, sector % self.chunk_sectors);
        let mut copies = SmallVec::new();
        for near in 0..u64::from(self.near) {
            let place = chunk * u64::from(self.near) + near;
            let (row, first) = self.row_and_slot(place);
            for (far, slots) in self.slots.iter().enumerate() {
                let row = row + far as u64 * self.stride_rows;
                copies.push(Copy {
                    slot: slots[first],
                    member_sectors: row * self.chunk_sectors + within,
                });
            }
        }
        copies
    }

    /// The row and slot of a near copy, of all near copies in order.
    fn row_and_slot(&self, place: u64) -> (u64, usize) {
        let n = u64::from(self.raid_disks);
        let row = place / n;
        let rows = if self.offset { u64::from(self.far) } else { 1 };
        (row * rows, (place % n) as usize)
    }

    /// The array sector of which this is a copy; `None` where a member holds nothing.
    pub fn array_sector(&self, slot: u16, member_sectors: u64) -> Option<u64> {
        let (row, within) = (
            member_sectors / self.chunk_sectors,
            member_sectors % self.chunk_sectors,
        );
        let (far, row) = match self.offset {
            true => (row % u64::from(self.far), row / u64::from(self.far)),
            false => (row / self.stride_rows, row % self.stride_rows),
        };
        let first = *self.firsts.get(far as usize)?.get(usize::from(slot))?;
        let place = row * u64::from(self.raid_disks) + u64::from(first);
        let sector = place / u64::from(self.near) * self.chunk_sectors + within;
        (sector < self.array_sectors).then_some(sector)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const CHUNK: u64 = 8;

    fn map(layout: u32, raid_disks: u16, rows: u64) -> Raid10 {
        Raid10::new(layout, raid_disks, CHUNK, rows * CHUNK + 3).expect("map")
    }

    /// The first rows of every member, as numbers of array chunks.
    fn table(map: &Raid10, rows: u64) -> String {
        let row = |row: u64| {
            let chunk = |slot: u16| match map.array_sector(slot, row * CHUNK) {
                Some(sector) => (sector / CHUNK).to_string(),
                None => "-".into(),
            };
            let chunks: Vec<String> = (0..map.raid_disks()).map(chunk).collect();
            chunks.join(" ")
        };
        let rows: Vec<String> = (0..rows).map(row).collect();
        rows.join(" / ")
    }

    /// The tables of layouts.md section 5.
    #[test]
    fn tables_of_the_facts() {
        let shown = |layout, disks, rows, first| table(&map(layout, disks, rows), first);
        assert_eq!(shown(0x102, 4, 4, 2), "0 0 1 1 / 2 2 3 3");
        assert_eq!(shown(0x102, 3, 4, 3), "0 0 1 / 1 2 2 / 3 3 4");
        assert_eq!(shown(0x103, 4, 3, 3), "0 0 0 1 / 1 1 2 2 / 2 3 3 3");
        let far = "0 1 2 3 / 4 5 6 7 / 8 9 10 11 / 3 0 1 2 / 7 4 5 6 / 11 8 9 10";
        assert_eq!(shown(0x201, 4, 6, 6), far);
        assert_eq!(shown(0x201, 3, 4, 4), "0 1 2 / 3 4 5 / 2 0 1 / 5 3 4");
        assert_eq!(shown(0x301, 4, 3, 3), "0 1 2 3 / 3 0 1 2 / 2 3 0 1");
        assert_eq!(
            shown(0x10201, 4, 4, 4),
            "0 1 2 3 / 3 0 1 2 / 4 5 6 7 / 7 4 5 6"
        );
        assert_eq!(shown(0x10201, 3, 4, 4), "0 1 2 / 2 0 1 / 3 4 5 / 5 3 4");
        let offset3 = "0 1 2 3 / 3 0 1 2 / 2 3 0 1 / 4 5 6 7";
        assert_eq!(shown(0x10301, 4, 6, 4), offset3);
        assert_eq!(
            shown(0x202, 4, 4, 4),
            "0 0 1 1 / 2 2 3 3 / 1 1 0 0 / 3 3 2 2"
        );
        assert_eq!(
            shown(0x10202, 4, 4, 4),
            "0 0 1 1 / 1 1 0 0 / 2 2 3 3 / 3 3 2 2"
        );
        let sets = "0 1 2 3 / 4 5 6 7 / 1 0 3 2 / 5 4 7 6";
        assert_eq!(shown(0x40201, 4, 4, 4), sets);
        let sets = "0 1 2 3 4 / 5 6 7 8 9 / 1 0 4 2 3 / 6 5 9 7 8";
        assert_eq!(shown(0x40201, 5, 4, 4), sets);
        let sets = "0 1 2 3 4 / 1 0 4 2 3 / 5 6 7 8 9 / 6 5 9 7 8";
        assert_eq!(shown(0x50201, 5, 4, 4), sets);
    }

    #[test]
    fn sizes_are_those_of_md() {
        let three = map(0x102, 3, 12);
        assert_eq!(three.array_sectors(), 18 * CHUNK);
        assert_eq!(three.dev_sectors(), 12 * CHUNK);
        let odd = map(0x201, 3, 5);
        assert_eq!(
            (odd.array_sectors(), odd.dev_sectors()),
            (6 * CHUNK, 4 * CHUNK)
        );
        let near = map(0x102, 3, 1);
        assert_eq!((near.array_sectors(), near.dev_sectors()), (CHUNK, CHUNK));
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        let why = |layout, disks, chunk, size| {
            Raid10::new(layout, disks, chunk, size).expect_err("refused")
        };
        for layout in [0, 0x100, 0x002, 0x105, 0x303, 0x80102, 0x60201, 0x100102] {
            let layout: u32 = layout;
            assert!(
                matches!(why(layout, 4, 8, 800), Raid10Error::Unknown { .. }),
                "{layout:#x}"
            );
        }
        assert_eq!(why(0x102, 4, 24, 800), Raid10Error::Chunk);
        assert_eq!(why(0x102, 4, 4, 800), Raid10Error::Chunk);
        assert_eq!(why(0x201, 4, 8, 15), Raid10Error::Empty);
    }

    /// All shapes with up to 4 copies of each kind on up to 13 members.
    fn shapes() -> impl Iterator<Item = (u32, u16)> {
        let words = (1..=4u32).flat_map(|near| (1..=4u32).map(move |far| near | far << 8));
        let words = words.flat_map(|word| (0..8).map(move |flags| word | flags << 16));
        words.flat_map(|word| (1..=13u16).map(move |disks| (word, disks)))
    }

    /// Every copy of every chunk has a place of its own, on a slot of its own, and is found there;
    /// where that cannot be, there is no map. Said by a walk of md's formula on its own.
    #[test]
    fn maps_are_refused_exactly_where_places_are_shared() {
        let mut refused = BTreeMap::new();
        for (layout, disks) in shapes() {
            for rows in [12, 13, 25] {
                let Ok(map) = Raid10::new(layout, disks, CHUNK, rows * CHUNK) else {
                    let why = Raid10::new(layout, disks, CHUNK, rows * CHUNK).unwrap_err();
                    refused.insert((layout, disks), why);
                    continue;
                };
                let mut seen = BTreeSet::new();
                for chunk in 0..map.array_sectors() / CHUNK {
                    let copies = map.copies(chunk * CHUNK + 5);
                    let slots: BTreeSet<u16> = copies.iter().map(|copy| copy.slot).collect();
                    assert_eq!(slots.len(), copies.len(), "{layout:#x} on {disks}");
                    assert_eq!(copies.len(), usize::from(map.copies_of_each()));
                    for copy in copies {
                        assert!(seen.insert(copy), "{layout:#x} on {disks}: {copy:?}");
                        assert!(copy.member_sectors < map.dev_sectors());
                        let found = map.array_sector(copy.slot, copy.member_sectors);
                        assert_eq!(found, Some(chunk * CHUNK + 5), "{layout:#x} on {disks}");
                    }
                    let group = map.groups().iter().filter(|g| slots.iter().eq(g.iter()));
                    assert_eq!(group.count(), 1);
                }
            }
        }
        let is = |layout, disks: &[u16], wanted: fn(&Raid10Error) -> bool| {
            for disks in disks {
                assert!(
                    refused.get(&(layout, *disks)).is_some_and(wanted),
                    "{layout:#x} on {disks}"
                );
            }
        };
        let overlap: fn(&Raid10Error) -> bool =
            |why| matches!(why, Raid10Error::Overlapping { .. });
        let together: fn(&Raid10Error) -> bool = |why| matches!(why, Raid10Error::Together { .. });
        is(0x10202, &[5, 7, 9, 11, 13], overlap);
        is(0x50202, &[5, 7, 9, 10, 11, 13], overlap);
        is(0x40202, &[9, 10, 11, 13], overlap);
        is(0x40302, &[13], overlap);
        is(0x40203, &[13], overlap);
        is(0x20201, &[2, 3], together);
        is(0x20301, &[3, 4, 5, 6, 7, 8], together);
        // Some of these share places besides.
        is(0x20202, &[4, 5, 6, 7], |_| true);
        for (layout, disks) in refused.keys() {
            let (near, far) = (layout & 0xff, layout >> 8 & 0xff);
            let plain = layout >> 16 == 0 && near * far <= u32::from(*disks);
            assert!(!plain, "{layout:#x} on {disks} is a map");
            let fixed = layout >> 16 == 4 && near == 1 && far <= u32::from(*disks);
            assert!(!fixed, "{layout:#x} on {disks} is a map");
        }
    }
}
