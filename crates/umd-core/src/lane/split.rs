//! Cuts host ranges into the pieces that members see. Pure.

use smallvec::SmallVec;

use crate::geometry::{Geometry, Raid456};

/// The most that one job covers, so that locks stay short and memory small.
pub const JOB_SECTORS_MAX: u64 = 2048;

/// A run of array sectors on one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Piece {
    /// First array sector.
    pub array_sectors: u64,
    /// The slot.
    pub slot: u16,
    /// First data sector on it; of a mirror the array sector, which is where it is locked.
    pub member_sectors: u64,
    /// Length.
    pub len_sectors: u64,
}

/// The pieces of a range; most ranges have few.
pub type Pieces = SmallVec<[Piece; 4]>;

/// Ranges with unreadable sectors are tried again in parts, down to this size.
pub const PART_SECTORS: u64 = 8;

/// Where to cut a range in two, at a multiple of `PART_SECTORS` from its start; `None` if it is
/// too short.
pub fn middle(len_sectors: u64) -> Option<u64> {
    let half = (len_sectors / 2).next_multiple_of(PART_SECTORS);
    (half > 0 && half < len_sectors).then_some(half)
}

/// The same where nothing that can be read may be taken for lost: down to a block of the members.
pub fn fine_middle(len_sectors: u64, block_sectors: u64) -> Option<u64> {
    assert!(block_sectors > 0, "a block holds something");
    let half = (len_sectors / 2).next_multiple_of(block_sectors);
    let fine = (half > 0 && half < len_sectors).then_some(half);
    let coarse = middle(len_sectors).filter(|at| at.is_multiple_of(block_sectors));
    coarse.or(fine)
}

impl Piece {
    /// The piece in two.
    pub fn halves(&self, at: u64) -> [Piece; 2] {
        let first = Piece {
            len_sectors: at,
            ..*self
        };
        let second = Piece {
            array_sectors: self.array_sectors + at,
            member_sectors: self.member_sectors + at,
            len_sectors: self.len_sectors - at,
            ..*self
        };
        assert!(second.len_sectors > 0, "both halves hold something");
        [first, second]
    }
}

/// The pieces of a range, in array order. A RAID1 has one piece (slot 0) per `JOB_SECTORS_MAX`, a
/// RAID10 one (slot 0) per chunk.
pub fn pieces(geometry: &Geometry, start: u64, len: u64) -> Pieces {
    pieces_from(geometry, start, start + len, JOB_SECTORS_MAX).collect()
}

/// The piece that is all of a range, as of most small ones.
pub fn only_piece(geometry: &Geometry, start: u64, len: u64) -> Option<Piece> {
    let first = pieces_from(geometry, start, start + len, JOB_SECTORS_MAX).next();
    first.filter(|piece| piece.len_sectors == len)
}

/// The pieces of a range, one after the other, none longer than `most`.
pub fn pieces_from(
    geometry: &Geometry,
    start: u64,
    end: u64,
    most: u64,
) -> impl Iterator<Item = Piece> {
    assert!(most > 0, "each piece goes on");
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (slot, member_sectors, run) = match geometry {
            Geometry::Linear(map) => map.locate(at),
            Geometry::Striped(map) => map.locate(at),
            Geometry::Mirrored { .. } => (0, at, u64::MAX),
            Geometry::Copied(map) => (0, at, map.chunk_sectors() - at % map.chunk_sectors()),
            Geometry::Parity(map) => {
                let place = map.locate(at);
                let slot = map.row(place.row).data[usize::from(place.index)];
                let sector = place.row * map.chunk_sectors() + place.within_sectors;
                (slot, sector, map.chunk_sectors() - place.within_sectors)
            }
        };
        let piece = Piece {
            array_sectors: at,
            slot,
            member_sectors,
            len_sectors: run.min(end - at).min(most),
        };
        assert!(piece.len_sectors > 0, "each piece goes on");
        at += piece.len_sectors;
        Some(piece)
    })
}

/// The same sectors of every column of one row, some of them touched by a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BandRange {
    /// The row.
    pub row: u64,
    /// First sector within the chunk.
    pub from_sectors: u64,
    /// Length.
    pub len_sectors: u64,
    /// The touched data indices, each with the array sector its part starts at.
    pub touched: SmallVec<[(u16, u64); 8]>,
}

/// The bands of a write; most writes have one.
pub type BandRanges = SmallVec<[BandRange; 1]>;

/// The bands of a write to a parity array.
pub fn bands(map: &Raid456, start: u64, len: u64) -> BandRanges {
    let row_sectors = map.chunk_sectors() * u64::from(map.data_disks());
    let (mut at, end) = (start, start + len);
    let mut out = BandRanges::new();
    while at < end {
        let row = at / row_sectors;
        let row_end = ((row + 1) * row_sectors).min(end);
        row_bands(
            map,
            row,
            at - row * row_sectors,
            row_end - row * row_sectors,
            &mut out,
        );
        at = row_end;
    }
    let touched = |band: &BandRange| band.len_sectors * band.touched.len() as u64;
    let sum: u64 = out.iter().map(touched).sum();
    assert_eq!(sum, len, "every sector is in one band");
    out
}

/// Bands of `from..to`, which are data sectors within row `row`.
fn row_bands(map: &Raid456, row: u64, from: u64, to: u64, out: &mut BandRanges) {
    let chunk = map.chunk_sectors();
    let base = row * chunk * u64::from(map.data_disks());
    let (first, last) = (from / chunk, (to - 1) / chunk);
    assert!(
        from < to && last < map.data_disks().into(),
        "a part of the row"
    );
    let head = from % chunk;
    let tail = (to - 1) % chunk + 1;
    let mut cuts: SmallVec<[u64; 4]> = match first == last {
        true => SmallVec::from_slice(&[head, tail]),
        false => SmallVec::from_slice(&[0, head, tail, chunk]),
    };
    cuts.sort_unstable();
    cuts.dedup();
    for cut in cuts.windows(2) {
        let mut lo = cut[0];
        while lo < cut[1] {
            let hi = cut[1].min(lo + JOB_SECTORS_MAX);
            let touched: SmallVec<[(u16, u64); 8]> = (first..=last)
                .filter(|i| (*i != first || lo >= head) && (*i != last || hi <= tail))
                .map(|i| (i as u16, base + i * chunk + lo))
                .collect();
            if !touched.is_empty() {
                out.push(BandRange {
                    row,
                    from_sectors: lo,
                    len_sectors: hi - lo,
                    touched,
                });
            }
            lo = hi;
        }
    }
}

/// Member data sectors that a write touches, data and parity: `(start, len)`.
pub fn member_span(geometry: &Geometry, start: u64, len: u64) -> (u64, u64) {
    let Geometry::Parity(map) = geometry else {
        return (start, len);
    };
    let chunk = map.chunk_sectors();
    let (a, b) = (map.locate(start), map.locate(start + len - 1));
    if a.row == b.row && a.index == b.index {
        return (a.row * chunk + a.within_sectors, len);
    }
    (a.row * chunk, (b.row - a.row + 1) * chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use umd_format::Level;

    fn map(chunk: u64) -> Raid456 {
        Raid456::new(Level::Raid5, 2, 4, chunk, chunk * 50).expect("map")
    }

    /// Every touched sector is in exactly one band, at its right place, and nothing else is.
    #[test]
    fn bands_cover_a_write_exactly() {
        for chunk in [3, 8, 5000] {
            let map = map(chunk);
            let row = chunk * 3;
            let lens = [
                1,
                2,
                chunk - 1,
                chunk,
                chunk + 1,
                row - 1,
                row,
                row + 1,
                3 * row + 2,
            ];
            for start in [
                0,
                1,
                chunk - 1,
                chunk,
                chunk + 1,
                2 * chunk,
                row - 1,
                row,
                row + 5,
            ] {
                for len in lens {
                    let mut seen = std::collections::BTreeMap::new();
                    for band in bands(&map, start, len) {
                        assert!(band.len_sectors <= JOB_SECTORS_MAX && band.len_sectors > 0);
                        for (index, at) in &band.touched {
                            for i in 0..band.len_sectors {
                                let place = map.locate(at + i);
                                assert_eq!(place.row, band.row);
                                assert_eq!(place.index, *index);
                                assert_eq!(place.within_sectors, band.from_sectors + i);
                                *seen.entry(at + i).or_insert(0) += 1;
                            }
                        }
                    }
                    let all: Vec<u64> = (start..start + len).collect();
                    assert!(seen.values().all(|n| *n == 1), "a sector in two bands");
                    assert_eq!(
                        seen.into_keys().collect::<Vec<_>>(),
                        all,
                        "{chunk} {start} {len}"
                    );
                }
            }
        }
    }

    #[test]
    fn pieces_cover_a_range_in_order() {
        let geometry = Geometry::Parity(map(8));
        let all = pieces(&geometry, 5, 40);
        assert_eq!(all[0].len_sectors, 3);
        assert_eq!(only_piece(&geometry, 5, 40), None);
        assert_eq!(
            only_piece(&geometry, 5, 4),
            None,
            "it ends in the next chunk"
        );
        assert_eq!(only_piece(&geometry, 5, 3), Some(all[0]));
        assert_eq!(all.iter().map(|p| p.len_sectors).sum::<u64>(), 40);
        assert!(
            all.windows(2)
                .all(|w| w[0].array_sectors + w[0].len_sectors == w[1].array_sectors)
        );
    }

    #[test]
    fn halves_end_at_parts() {
        assert_eq!(
            [middle(1), middle(8), middle(9), middle(17), middle(2048)],
            [None, None, Some(8), Some(8), Some(1024)]
        );
        assert_eq!(
            [1, 2, 3, 8, 9, 24].map(|len| fine_middle(len, 1)),
            [None, Some(1), Some(1), Some(4), Some(8), Some(16)]
        );
        assert_eq!(
            [8, 16, 24, 64].map(|len| fine_middle(len, 8)),
            [None, Some(8), Some(16), Some(32)]
        );
        assert_eq!(
            [16, 32, 48].map(|len| fine_middle(len, 16)),
            [None, Some(16), Some(32)]
        );
    }

    #[test]
    fn spans_cover_data_and_parity() {
        let geometry = Geometry::Parity(map(8));
        assert_eq!(member_span(&geometry, 26, 3), (10, 3));
        assert_eq!(member_span(&geometry, 26, 40), (8, 16));
    }
}
