//! RAID4/5/6: rows of chunks with one or two parity chunks.
//!
//! ```text
//!   left-symmetric RAID5 on 4 slots          row S:  P = k - S mod n
//!     0  1  2  P                                     data i = (P + 1 + i) mod n
//!     4  5  P  3
//!     8  P  6  7                             device sector = S * chunk + offset in chunk
//! ```
//!
//! Q is a sum over g^idx, and the order of idx is part of the format: the md layouts count the
//! data disks from the one behind Q, the DDF layouts use the disk number itself.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;
use umd_format::Level;

/// A RAID4/5/6 map. (layouts.md sections 1, 3, 4)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raid456 {
    layout: u32,
    raid_disks: u16,
    parities: u16,
    raid4: bool,
    chunk_sectors: u64,
    dev_sectors: u64,
    /// The rows until they come again, unless that would be many.
    rows: Arc<[Row]>,
}

/// Up to so many slots rows are looked up; all of them take 100 KiB then.
const SLOTS_LOOKED_UP: u16 = 128;

/// Where an array sector lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Row of chunks.
    pub row: u64,
    /// Data index in the row, `0..data_disks`.
    pub index: u16,
    /// Sector within the chunk.
    pub within_sectors: u64,
}

/// The roles of the slots in one row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Slot of P.
    pub p: u16,
    /// Slot of Q (RAID6).
    pub q: Option<u16>,
    /// Slot of each data index.
    pub data: SmallVec<[u16; 16]>,
    /// Slot of each power of g in Q's sum; `None` where the power belongs to a parity disk (DDF).
    pub order: SmallVec<[Option<u16>; 16]>,
}

impl Row {
    /// The data index of a slot, or `None` for P and Q.
    pub fn index_of(&self, slot: u16) -> Option<usize> {
        self.data.iter().position(|s| *s == slot)
    }

    /// Becomes the same as another one, in the memory it has.
    pub fn set(&mut self, other: &Row) {
        (self.p, self.q) = (other.p, other.q);
        self.data.clear();
        self.data.extend_from_slice(&other.data);
        self.order.clear();
        self.order.extend_from_slice(&other.order);
    }

    /// The power of g of a slot, or `None` for P and Q.
    pub fn power_of(&self, slot: u16) -> Option<usize> {
        self.order.iter().position(|s| *s == Some(slot))
    }
}

impl Raid456 {
    /// The map, or `None` if level, layout, slots or chunk are not md's.
    pub fn new(
        level: Level,
        layout: u32,
        raid_disks: u16,
        chunk_sectors: u64,
        dev_sectors: u64,
    ) -> Option<Raid456> {
        let (parities, known) = match level {
            Level::Raid4 => (1, true),
            Level::Raid5 => (1, layout <= 5),
            Level::Raid6 => (2, matches!(layout, 0..=5 | 8..=10 | 16..=20)),
            _ => return None,
        };
        let possible = raid_disks > parities && u32::from(raid_disks) <= level.max_disks(layout);
        if !known || !possible || chunk_sectors == 0 {
            return None;
        }
        let raid4 = level == Level::Raid4;
        let dev_sectors = dev_sectors - dev_sectors % chunk_sectors;
        assert!(raid_disks > parities, "some column holds data");
        let mut map = Raid456 {
            layout,
            raid_disks,
            parities,
            raid4,
            chunk_sectors,
            dev_sectors,
            rows: Arc::default(),
        };
        if raid_disks <= SLOTS_LOOKED_UP {
            map.rows = (0..map.period()).map(|row| map.made_row(row)).collect();
        }
        Some(map)
    }

    /// After so many rows the slots have the same roles again.
    fn period(&self) -> u64 {
        match (self.parities, self.layout) {
            // Q stands still beside a RAID5 of one slot less.
            (2, 16..=20) => u64::from(self.raid_disks - 1),
            _ => u64::from(self.raid_disks),
        }
    }

    /// Slots.
    pub fn raid_disks(&self) -> u16 {
        self.raid_disks
    }

    /// 1, or 2 for RAID6.
    pub fn parities(&self) -> u16 {
        self.parities
    }

    /// Data chunks per row.
    pub fn data_disks(&self) -> u16 {
        self.raid_disks - self.parities
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
        self.dev_sectors * u64::from(self.data_disks())
    }

    /// Where an array sector lies.
    pub fn locate(&self, sector: u64) -> Place {
        let chunk = sector / self.chunk_sectors;
        let width = u64::from(self.data_disks());
        assert!(width > 0, "rows hold data");
        assert!(sector < self.array_sectors(), "a sector of the array");
        Place {
            row: chunk / width,
            index: (chunk % width) as u16,
            within_sectors: sector % self.chunk_sectors,
        }
    }

    /// The roles of the slots in row `row`.
    pub fn row(&self, row: u64) -> Cow<'_, Row> {
        match self.rows.len() as u64 {
            0 => Cow::Owned(self.made_row(row)),
            period => Cow::Borrowed(&self.rows[(row % period) as usize]),
        }
    }

    fn made_row(&self, row: u64) -> Row {
        let n = self.raid_disks;
        let made = match (self.parities, self.layout) {
            _ if self.raid4 => one_parity(n, n - 1, |i| i),
            (1, layout) => raid5_row(layout, n, row),
            (_, 16..=20) => raid5_plus_q(self.layout - 16, n, row),
            (_, layout) => raid6_row(layout, n, row),
        };
        assert!(made.p < n, "P lies in a slot");
        assert!(made.q.is_none_or(|q| q < n && q != made.p), "Q has its own");
        assert_eq!(made.q.is_some(), self.parities == 2, "RAID6 has Q");
        assert_eq!(made.data.len(), usize::from(self.data_disks()), "all data");
        made
    }
}

fn one_parity(n: u16, p: u16, disk: impl Fn(u16) -> u16) -> Row {
    let data: SmallVec<[u16; 16]> = (0..n - 1).map(disk).collect();
    let order = data.iter().map(|s| Some(*s)).collect();
    Row {
        p,
        q: None,
        data,
        order,
    }
}

/// Row of a RAID5 layout 0..=5 on `n` slots.
fn raid5_row(layout: u32, n: u16, row: u64) -> Row {
    let k = n - 1;
    let turn = (row % u64::from(n)) as u16;
    let p = match layout {
        0 | 2 => k - turn,
        1 | 3 => turn,
        4 => 0,
        _ => k,
    };
    match layout {
        0 | 1 => one_parity(n, p, |i| if i >= p { i + 1 } else { i }),
        2 | 3 => one_parity(n, p, |i| (p + 1 + i) % n),
        4 => one_parity(n, p, |i| i + 1),
        _ => one_parity(n, p, |i| i),
    }
}

/// The `-6` layouts: RAID5 on the first n - 1 slots, Q on the last.
fn raid5_plus_q(layout: u32, n: u16, row: u64) -> Row {
    let inner = raid5_row(layout, n - 1, row);
    let q = n - 1;
    let order = md_order(n, inner.p, q);
    Row {
        p: inner.p,
        q: Some(q),
        data: inner.data,
        order,
    }
}

fn raid6_row(layout: u32, n: u16, row: u64) -> Row {
    let k = n - 2;
    let turn = (row % u64::from(n)) as u16;
    let p = match layout {
        0 | 2 | 10 => n - 1 - turn,
        1 | 3 | 8 => turn,
        9 => n - 1 - ((row + 1) % u64::from(n)) as u16,
        4 => 0,
        _ => k,
    };
    let q = match layout {
        10 => (p + n - 1) % n,
        _ => (p + 1) % n,
    };
    let data = (0..k)
        .map(|i| match layout {
            2 | 3 => (p + 2 + i) % n,
            10 => (p + 1 + i) % n,
            _ if p == n - 1 => i + 1,
            _ if i >= p => i + 2,
            _ => i,
        })
        .collect();
    let order = match layout {
        8..=10 => (0..n).map(|d| (d != p && d != q).then_some(d)).collect(),
        _ => md_order(n, p, q),
    };
    Row {
        p,
        q: Some(q),
        data,
        order,
    }
}

/// md's idx order: from the slot behind Q upwards, wrapping, without P and Q.
fn md_order(n: u16, p: u16, q: u16) -> SmallVec<[Option<u16>; 16]> {
    (1..=n)
        .map(|i| (q + i) % n)
        .filter(|d| *d != p && *d != q)
        .map(Some)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws five rows as the facts do: data numbers, P and Q per slot.
    fn draw(level: Level, layout: u32, n: u16) -> String {
        let map = Raid456::new(level, layout, n, 8, 8 * 40).expect("map");
        let mut rows = Vec::new();
        for s in 0..5u64 {
            let row = map.row(s);
            let mut cells = vec![String::new(); usize::from(n)];
            cells[usize::from(row.p)] = "P".into();
            if let Some(q) = row.q {
                cells[usize::from(q)] = "Q".into();
            }
            for (i, slot) in row.data.iter().enumerate() {
                let number = s * u64::from(map.data_disks()) + i as u64;
                cells[usize::from(*slot)] = number.to_string();
            }
            rows.push(cells.join(" "));
        }
        rows.join(" / ")
    }

    /// Rows that are looked up are those that are made, of every layout there is.
    #[test]
    fn rows_come_again() {
        let five = (0..6).map(|layout| (Level::Raid5, layout));
        let six = (0..21).map(|layout| (Level::Raid6, layout));
        let mut seen = 0;
        for (level, layout) in five.chain(six).chain([(Level::Raid4, 0)]) {
            for n in [3, 4, 5, 7, SLOTS_LOOKED_UP, SLOTS_LOOKED_UP + 1] {
                let Some(map) = Raid456::new(level, layout, n, 8, 8000) else {
                    continue;
                };
                seen += 1;
                assert_eq!(map.rows.is_empty(), n > SLOTS_LOOKED_UP);
                for row in 0..200 {
                    assert_eq!(*map.row(row), map.made_row(row), "{level:?} {layout} {n}");
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }

    /// The tables of layouts.md section 3, seen on real arrays.
    #[test]
    fn raid5_tables() {
        let expected = [
            "0 1 2 P / 3 4 P 5 / 6 P 7 8 / P 9 10 11 / 12 13 14 P",
            "P 0 1 2 / 3 P 4 5 / 6 7 P 8 / 9 10 11 P / P 12 13 14",
            "0 1 2 P / 4 5 P 3 / 8 P 6 7 / P 9 10 11 / 12 13 14 P",
            "P 0 1 2 / 5 P 3 4 / 7 8 P 6 / 9 10 11 P / P 12 13 14",
            "P 0 1 2 / P 3 4 5 / P 6 7 8 / P 9 10 11 / P 12 13 14",
            "0 1 2 P / 3 4 5 P / 6 7 8 P / 9 10 11 P / 12 13 14 P",
        ];
        for (layout, rows) in expected.iter().enumerate() {
            assert_eq!(
                draw(Level::Raid5, layout as u32, 4),
                *rows,
                "layout {layout}"
            );
        }
        assert_eq!(draw(Level::Raid4, 0, 4), expected[5]);
    }

    /// The tables of layouts.md section 4, seen on real arrays.
    #[test]
    fn raid6_tables() {
        let one = "P Q 0 1 2 / 3 P Q 4 5 / 6 7 P Q 8 / 9 10 11 P Q / Q 12 13 14 P";
        let expected = [
            (
                0,
                "Q 0 1 2 P / 3 4 5 P Q / 6 7 P Q 8 / 9 P Q 10 11 / P Q 12 13 14",
            ),
            (1, one),
            (8, one),
            (
                2,
                "Q 0 1 2 P / 3 4 5 P Q / 7 8 P Q 6 / 11 P Q 9 10 / P Q 12 13 14",
            ),
            (
                3,
                "P Q 0 1 2 / 5 P Q 3 4 / 7 8 P Q 6 / 9 10 11 P Q / Q 12 13 14 P",
            ),
            (
                9,
                "0 1 2 P Q / 3 4 P Q 5 / 6 P Q 7 8 / P Q 9 10 11 / Q 12 13 14 P",
            ),
            (
                10,
                "0 1 2 Q P / 4 5 Q P 3 / 8 Q P 6 7 / Q P 9 10 11 / P 12 13 14 Q",
            ),
            (
                16,
                "0 1 2 P Q / 3 4 P 5 Q / 6 P 7 8 Q / P 9 10 11 Q / 12 13 14 P Q",
            ),
            (
                17,
                "P 0 1 2 Q / 3 P 4 5 Q / 6 7 P 8 Q / 9 10 11 P Q / P 12 13 14 Q",
            ),
            (
                18,
                "0 1 2 P Q / 4 5 P 3 Q / 8 P 6 7 Q / P 9 10 11 Q / 12 13 14 P Q",
            ),
            (
                19,
                "P 0 1 2 Q / 5 P 3 4 Q / 7 8 P 6 Q / 9 10 11 P Q / P 12 13 14 Q",
            ),
        ];
        for (layout, rows) in expected {
            assert_eq!(draw(Level::Raid6, layout, 5), rows, "layout {layout}");
        }
        assert!(draw(Level::Raid6, 4, 5).starts_with("P Q 0 1 2 / P Q 3 4 5"));
        assert!(draw(Level::Raid6, 5, 5).starts_with("0 1 2 P Q / 3 4 5 P Q"));
        assert!(draw(Level::Raid6, 20, 5).starts_with("P 0 1 2 Q / P 3 4 5 Q"));
    }

    #[test]
    fn power_orders_of_the_facts() {
        let map = Raid456::new(Level::Raid6, 1, 5, 8, 80).expect("map");
        let row = map.row(1);
        assert_eq!(row.order.as_slice(), [Some(3), Some(4), Some(0)]);
        let ddf = Raid456::new(Level::Raid6, 10, 5, 8, 80).expect("map");
        let row = ddf.row(1);
        assert_eq!(
            row.order.as_slice(),
            [Some(0), Some(1), None, None, Some(4)]
        );
        assert_eq!(row.power_of(4), Some(4));
    }

    #[test]
    fn every_row_uses_every_slot_once() {
        for (level, layouts) in [
            (Level::Raid4, vec![0]),
            (Level::Raid5, (0..=5).collect()),
            (
                Level::Raid6,
                vec![0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20],
            ),
        ] {
            for layout in layouts {
                for n in 4..=9 {
                    let map = Raid456::new(level, layout, n, 8, 800).expect("map");
                    for s in 0..u64::from(n) * 2 {
                        let row = map.row(s);
                        let mut slots: Vec<u16> = row.data.to_vec();
                        slots.push(row.p);
                        slots.extend(row.q);
                        slots.sort_unstable();
                        assert_eq!(slots, (0..n).collect::<Vec<_>>());
                        let mut powers: Vec<u16> = row.order.iter().flatten().copied().collect();
                        let mut data = row.data.to_vec();
                        powers.sort_unstable();
                        data.sort_unstable();
                        assert_eq!(powers, data);
                    }
                }
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Raid456::new(Level::Raid5, 6, 4, 8, 80).is_none());
        assert!(Raid456::new(Level::Raid6, 7, 4, 8, 80).is_none());
        assert!(Raid456::new(Level::Raid6, 2, 2, 8, 80).is_none());
        assert!(Raid456::new(Level::Raid5, 2, 4, 0, 80).is_none());
        assert!(Raid456::new(Level::Raid1, 2, 4, 8, 80).is_none());
    }

    #[test]
    fn sizes_are_whole_chunks() {
        let map = Raid456::new(Level::Raid5, 2, 4, 128, 1000).expect("map");
        assert_eq!((map.dev_sectors(), map.array_sectors()), (896, 2688));
        let place = map.locate(128 * 4 + 5);
        assert_eq!(
            place,
            Place {
                row: 1,
                index: 1,
                within_sectors: 5
            }
        );
    }
}
