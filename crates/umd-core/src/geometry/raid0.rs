//! RAID0: zones of members of unequal size.
//!
//! ```text
//!   member 0 |----zone 0----|
//!   member 1 |----zone 0----|--zone 1--|
//!   member 2 |----zone 0----|--zone 1--|-zone 2-|
//!            0              dev_start of zone 1 ...
//! ```
//!
//! In a later zone the two known layouts begin at different members: the original one counts chunks
//! from the start of the array, the alternate one from the start of the zone. Which of them wrote
//! an array cannot be seen from its data, so it is never guessed.

use umd_format::v1::Raid0Layout;

use crate::value::{Exhibit, Museum};

/// Why a RAID0 map cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Raid0Error {
    /// The chunk size is 0, or a member has no room for one chunk.
    #[error("a RAID0 member holds less than one chunk")]
    Empty,
    /// Layout needed and not stored.
    #[error(
        "members differ in size and the superblock does not say which of the two RAID0 layouts \
         was used; guessing would corrupt data (kernel parameter raid0.default_layout)"
    )]
    LayoutUnknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Zone {
    start_sectors: u64,
    end_sectors: u64,
    dev_start_sectors: u64,
    /// Slots of the zone, in role order.
    slots: Vec<u16>,
}

/// A RAID0 map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raid0 {
    chunk_sectors: u64,
    alternate: bool,
    members: u16,
    zones: Vec<Zone>,
    array_sectors: u64,
    museum: Museum,
}

impl Raid0 {
    /// The map of members with these data sizes, in slot order.
    ///
    /// `layout` may be `None` only where it makes no difference: one zone, or a second zone of a
    /// single member. (layouts.md section 2)
    pub fn new(
        sizes_sectors: &[u64],
        chunk_sectors: u64,
        layout: Option<Raid0Layout>,
    ) -> Result<Raid0, Raid0Error> {
        if chunk_sectors == 0 || sizes_sectors.iter().any(|s| *s < chunk_sectors) {
            return Err(Raid0Error::Empty);
        }
        let rounded: Vec<u64> = sizes_sectors
            .iter()
            .map(|s| s - s % chunk_sectors)
            .collect();
        let zones = zones_of(&rounded);
        if layout.is_none() && zones.len() > 1 && zones[1].slots.len() > 1 {
            return Err(Raid0Error::LayoutUnknown);
        }
        // md masks with chunk - 1 even when the chunk is no power of two; the array's size on
        // disk follows from that, so it is done the same way here.
        let masked: u64 = rounded.iter().map(|s| s & !(chunk_sectors - 1)).sum();
        let end = zones.last().map_or(0, |z| z.end_sectors);
        assert_eq!(end, rounded.iter().sum::<u64>(), "zones hold every chunk");
        assert!(masked <= end, "the mask only makes members shorter");
        Ok(Raid0 {
            chunk_sectors,
            alternate: layout == Some(Raid0Layout::Alternate),
            members: u16::try_from(sizes_sectors.len()).expect("slots fit 16 bits"),
            zones,
            array_sectors: masked.min(end),
            museum: Museum::NONE,
        })
    }

    /// See [`Museum`].
    pub(crate) fn exhibit(mut self, museum: Museum) -> Raid0 {
        self.museum = museum;
        self
    }

    pub(super) fn other_layout(&self) -> Raid0 {
        Raid0 {
            alternate: !self.alternate,
            ..self.clone()
        }
    }

    /// Size of the array.
    pub fn array_sectors(&self) -> u64 {
        self.array_sectors
    }

    /// Members.
    pub fn members(&self) -> u16 {
        self.members
    }

    /// The chunk size.
    pub fn chunk_sectors(&self) -> u64 {
        self.chunk_sectors
    }

    /// `(slot, device sector, sectors that follow on the same chunk)` of an array sector.
    /// Panics when `sector` lies outside the array.
    pub fn locate(&self, sector: u64) -> (u16, u64, u64) {
        assert!(sector < self.array_sectors, "sector outside the array");
        let zone = self
            .zones
            .iter()
            .find(|z| sector < z.end_sectors)
            .expect("zones cover the array");
        let chunk = self.chunk_sectors;
        let width = zone.slots.len() as u64;
        let relative = sector - zone.start_sectors;
        let row = relative / (chunk * width);
        // M03 (47d68979cc96): the division by a chunk that is no power of two left its quotient in
        // the sector, which was used on.
        let divided = !chunk.is_power_of_two() && self.museum.on(Exhibit::M03);
        let within = if divided { sector / chunk } else { sector } % chunk;
        // M01 (c84a1372df92): kernels from 3.14 on placed every array as the alternate layout does.
        let alternate = self.alternate || self.museum.on(Exhibit::M01);
        let counted_from = if alternate { relative } else { sector };
        let index = (counted_from / chunk) % width;
        // Zones end where chunks do.
        let left = chunk - within;
        assert!(left > 0 && left <= chunk, "a run lies in its chunk");
        let zone_rows = (zone.end_sectors - zone.start_sectors) / (chunk * width);
        assert!(row < zone_rows, "a row of its zone");
        (
            zone.slots[index as usize],
            zone.dev_start_sectors + row * chunk + within,
            left,
        )
    }
}

fn zones_of(rounded: &[u64]) -> Vec<Zone> {
    let mut zones = Vec::new();
    let (mut array_start, mut dev_start) = (0, 0);
    loop {
        let slots: Vec<u16> = (0..rounded.len())
            .filter(|i| rounded[*i] > dev_start)
            .map(|i| u16::try_from(i).expect("slots fit 16 bits"))
            .collect();
        let Some(next) = slots.iter().map(|s| rounded[usize::from(*s)]).min() else {
            break;
        };
        assert!(
            next > dev_start,
            "each zone goes on where the last one ended"
        );
        let len = (next - dev_start) * slots.len() as u64;
        zones.push(Zone {
            start_sectors: array_start,
            end_sectors: array_start + len,
            dev_start_sectors: dev_start,
            slots,
        });
        array_start += len;
        dev_start = next;
    }
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel-checked example of layouts.md section 2.
    #[test]
    fn zones_of_the_facts() {
        let sizes = [9856, 5856, 14048, 9856];
        let map = Raid0::new(&sizes, 32, Some(Raid0Layout::Original)).expect("map");
        assert_eq!(map.array_sectors(), 39616);
        assert_eq!(map.zones.len(), 3);
        assert_eq!(map.zones[1].slots, [0, 2, 3]);
        assert_eq!(map.locate(23424), (0, 5856, 32));
        let other = Raid0::new(&sizes, 32, Some(Raid0Layout::Alternate)).expect("map");
        assert_eq!(other.locate(23424), (0, 5856, 32));
        assert_eq!(map.locate(39615), (2, 14047, 1));
        assert_eq!(Raid0::new(&sizes, 32, None), Err(Raid0Error::LayoutUnknown));
    }

    #[test]
    fn layouts_differ_where_a_zone_starts_unaligned() {
        // Zone 0 is 2 chunks on 2 members, zone 1 starts at chunk 4 with 2 of 3 members.
        let sizes = [64, 128, 128];
        let a = Raid0::new(&sizes, 32, Some(Raid0Layout::Original)).expect("map");
        let b = Raid0::new(&sizes, 32, Some(Raid0Layout::Alternate)).expect("map");
        assert_eq!(a.zones[1].start_sectors, 192);
        assert_eq!((a.locate(192).0, b.locate(192).0), (1, 1));
        let sizes = [32, 96, 96];
        let a = Raid0::new(&sizes, 32, Some(Raid0Layout::Original)).expect("map");
        let b = Raid0::new(&sizes, 32, Some(Raid0Layout::Alternate)).expect("map");
        assert_eq!((a.locate(96).0, b.locate(96).0), (2, 1));
    }

    #[test]
    fn quirk_of_non_power_of_two_chunks() {
        let map = Raid0::new(&[9872, 5872, 14072, 9872], 24, Some(Raid0Layout::Original));
        assert_eq!(map.expect("map").array_sectors(), 39632);
    }

    #[test]
    fn every_sector_has_its_own_place() {
        for layout in [Raid0Layout::Original, Raid0Layout::Alternate] {
            for chunk in [8u64, 24] {
                let sizes = [chunk * 5, chunk * 3 + 7, chunk * 9, chunk * 5 + 1];
                let map = Raid0::new(&sizes, chunk, Some(layout)).expect("map");
                let mut seen = std::collections::BTreeSet::new();
                for sector in 0..map.array_sectors() {
                    let (slot, dev, left) = map.locate(sector);
                    assert!(left >= 1 && dev < sizes[usize::from(slot)]);
                    assert!(seen.insert((slot, dev)), "two sectors in one place");
                }
            }
        }
    }

    #[test]
    fn a_member_without_a_chunk_is_refused() {
        assert_eq!(Raid0::new(&[8, 64], 32, None), Err(Raid0Error::Empty));
        assert_eq!(Raid0::new(&[8, 64], 0, None), Err(Raid0Error::Empty));
    }
}
