//! Linear: members one behind the other.
//!
//! ```text
//!   array    |-- member 0 --|---- member 1 ----|- member 2 -|
//!            0              end 0              end 1        end 2
//! ```

/// A linear map. (layouts.md section 1)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Where each slot's part of the array ends.
    ends_sectors: Vec<u64>,
}

impl Linear {
    /// The map of members with these data sizes, in slot order, each rounded down to whole chunks
    /// ("rounding"; 0: not rounded). `None` when a member holds nothing, or the sum is no size.
    pub fn new(sizes_sectors: &[u64], chunk_sectors: u64) -> Option<Linear> {
        let mut end = 0u64;
        let mut ends_sectors = Vec::with_capacity(sizes_sectors.len());
        for size in sizes_sectors {
            let used = size - size.checked_rem(chunk_sectors).unwrap_or(0);
            if used == 0 {
                return None;
            }
            end = end.checked_add(used)?;
            ends_sectors.push(end);
        }
        (!ends_sectors.is_empty()).then_some(Linear { ends_sectors })
    }

    /// Size of the array.
    pub fn array_sectors(&self) -> u64 {
        *self.ends_sectors.last().expect("there is a member")
    }

    /// Members.
    pub fn members(&self) -> u16 {
        u16::try_from(self.ends_sectors.len()).expect("slots fit 16 bits")
    }

    /// `(slot, device sector, sectors that follow on the same member)` of an array sector.
    /// Panics when `sector` lies outside the array.
    pub fn locate(&self, sector: u64) -> (u16, u64, u64) {
        let slot = self.ends_sectors.partition_point(|end| *end <= sector);
        let end = *self
            .ends_sectors
            .get(slot)
            .expect("sector outside the array");
        let start = match slot {
            0 => 0,
            _ => self.ends_sectors[slot - 1],
        };
        (slot as u16, sector - start, end - sector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_follow_each_other() {
        let map = Linear::new(&[100, 64, 130], 64).expect("map");
        assert_eq!(map.array_sectors(), 64 + 64 + 128);
        assert_eq!(map.members(), 3);
        assert_eq!(map.locate(0), (0, 0, 64));
        assert_eq!(map.locate(63), (0, 63, 1));
        assert_eq!(map.locate(64), (1, 0, 64));
        assert_eq!(map.locate(255), (2, 127, 1));
        assert_eq!(
            Linear::new(&[100, 64, 130], 0)
                .expect("map")
                .array_sectors(),
            294
        );
    }

    #[test]
    fn nothing_is_no_member() {
        assert_eq!(Linear::new(&[], 0), None);
        assert_eq!(Linear::new(&[100, 63], 64), None);
        assert_eq!(Linear::new(&[u64::MAX, 1], 0), None);
    }

    #[test]
    #[should_panic(expected = "sector outside the array")]
    fn there_is_no_sector_behind_the_last() {
        Linear::new(&[8, 8], 0).expect("map").locate(16);
    }
}
