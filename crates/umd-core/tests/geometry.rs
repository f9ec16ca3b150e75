//! The maps from array sectors to members, for any shape: every array sector has a place of its
//! own, parity has the rest, and nothing overflows at the largest sizes.
//!
//! ```text
//!   small arrays:  every sector is looked up       ->  each member sector is used exactly once
//!   huge arrays:   edges and samples are looked up ->  and found again by an inverse map
//! ```

use std::collections::BTreeSet;

use proptest::prelude::*;
use umd_core::geometry::{Geometry, Linear, Raid0, Raid10, Raid456};
use umd_format::Level;
use umd_format::v1::Raid0Layout;

/// Arrays have fewer sectors than this: byte offsets fit 64 bits.
const SECTORS_END: u64 = 1 << 55;

const LAYOUTS: [Raid0Layout; 2] = [Raid0Layout::Original, Raid0Layout::Alternate];

/// This many cases; failures are shown, not kept in a file.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

/// Every level with parity and every layout that md has for it.
fn parity_layouts() -> Vec<(Level, u32)> {
    let raid4 = [(Level::Raid4, 0)];
    let raid5 = (0..=5).map(|layout| (Level::Raid5, layout));
    let raid6 = (0..=5).chain(8..=10).chain(16..=20);
    let raid6 = raid6.map(|layout| (Level::Raid6, layout));
    raid4.into_iter().chain(raid5).chain(raid6).collect()
}

fn raid0_layout() -> impl Strategy<Value = Raid0Layout> {
    prop::sample::select(LAYOUTS.to_vec())
}

/// The array sector at a member sector of RAID0, worked out from the sizes alone: zone by zone,
/// the chunks of a row go to the members that are long enough.
fn raid0_inverse(
    sizes: &[u64],
    chunk: u64,
    layout: Raid0Layout,
    slot: usize,
    sector: u64,
) -> Option<u64> {
    let chunks: Vec<u64> = sizes.iter().map(|size| size / chunk).collect();
    let row = sector / chunk;
    let mut heights: Vec<u64> = chunks.clone();
    heights.sort_unstable();
    heights.dedup();
    let (mut low, mut before) = (0, 0u64);
    for height in heights {
        let users: Vec<usize> = (0..sizes.len()).filter(|i| chunks[*i] > low).collect();
        let width = users.len() as u64;
        if row < height {
            let index = users.iter().position(|user| *user == slot)? as u64;
            let turn = match layout {
                Raid0Layout::Original => before % width,
                Raid0Layout::Alternate => 0,
            };
            let place = (index + width - turn) % width;
            return Some((before + (row - low) * width + place) * chunk + sector % chunk);
        }
        before += (height - low) * width;
        low = height;
    }
    None
}

/// Sectors at which a mistake would show: the ends, and `picks` in between.
fn probes(end: u64, chunk: u64, picks: &[u64]) -> Vec<u64> {
    let near = [
        0,
        1,
        chunk - 1,
        chunk,
        chunk + 1,
        end - 1,
        end - 2,
        end - chunk,
    ];
    let picked = picks.iter().map(|pick| pick % end);
    let all = near.into_iter().chain(picked);
    all.filter(|sector| *sector < end).collect()
}

proptest! {
    #![proptest_config(cases(400))]

    /// Any chunk size, members of any size.
    #[test]
    fn raid0_sectors_have_places_of_their_own(
        chunk in 1u64..40,
        chunks in prop::collection::vec((1u64..12, 0u64..40), 1..6),
        layout in raid0_layout(),
    ) {
        let sizes: Vec<u64> = chunks.iter().map(|(n, rest)| n * chunk + rest % chunk).collect();
        let map = Raid0::new(&sizes, chunk, Some(layout)).expect("a map");
        let mut seen = BTreeSet::new();
        let mut run: Option<(u16, u64, u64)> = None;
        for sector in 0..map.array_sectors() {
            let (slot, at, left) = map.locate(sector);
            prop_assert!(at < sizes[usize::from(slot)], "behind the end of a member");
            prop_assert!(seen.insert((slot, at)), "two sectors in one place");
            if let Some((slot_before, at_before, left_before)) = run.filter(|run| run.2 > 1) {
                prop_assert_eq!((slot, at), (slot_before, at_before + 1), "a run that ends early");
                prop_assert!(left >= left_before - 1);
            }
            prop_assert_eq!(
                raid0_inverse(&sizes, chunk, layout, usize::from(slot), at),
                Some(sector)
            );
            run = Some((slot, at, left));
        }
        // md's rule for the size loses a little of chunks that are no power of two.
        let whole: u64 = sizes.iter().map(|size| size / chunk * chunk).sum();
        prop_assert!(seen.len() as u64 <= whole);
        prop_assert!(!chunk.is_power_of_two() || seen.len() as u64 == whole);
    }

    #[test]
    fn raid0_holds_at_the_largest_sizes(
        chunk in prop_oneof![1u64..1 << 20, Just(u64::from(u32::MAX)), Just(1 << 31)],
        sizes in prop::collection::vec(any::<u64>(), 1..40),
        picks in prop::collection::vec(any::<u64>(), 24),
        layout in raid0_layout(),
    ) {
        let most = SECTORS_END / sizes.len() as u64 - 1;
        let sizes: Vec<u64> = sizes.iter().map(|size| (size % most).max(chunk)).collect();
        let map = Raid0::new(&sizes, chunk, Some(layout)).expect("a map");
        for sector in probes(map.array_sectors(), chunk, &picks) {
            let (slot, at, left) = map.locate(sector);
            prop_assert!(left >= 1 && left <= chunk);
            prop_assert!(at + (left - 1).min(map.array_sectors() - 1 - sector)
                < sizes[usize::from(slot)]);
            prop_assert_eq!(
                raid0_inverse(&sizes, chunk, layout, usize::from(slot), at),
                Some(sector)
            );
        }
    }

    /// Data, P and Q together use every sector of every member once.
    #[test]
    fn parity_levels_use_every_member_sector_once(
        (level, layout) in prop::sample::select(parity_layouts()),
        disks in 4u16..12,
        chunk_shift in 3u32..6,
        rows in 1u64..30,
        rest in 0u64..8,
    ) {
        let chunk = 1u64 << chunk_shift;
        let map = Raid456::new(level, layout, disks, chunk, rows * chunk + rest).expect("a map");
        prop_assert_eq!(map.dev_sectors(), rows * chunk);
        let mut seen = BTreeSet::new();
        for sector in 0..map.array_sectors() {
            let place = map.locate(sector);
            prop_assert!(place.row < rows && place.within_sectors < chunk);
            let slot = map.row(place.row).data[usize::from(place.index)];
            let at = place.row * chunk + place.within_sectors;
            prop_assert!(seen.insert((slot, at)), "two sectors in one place");
        }
        for number in 0..rows {
            let row = map.row(number);
            prop_assert_eq!(row.q.is_some(), level == Level::Raid6);
            prop_assert!(row.q != Some(row.p), "P and Q on one member");
            for parity in [Some(row.p), row.q].into_iter().flatten() {
                for within in 0..chunk {
                    prop_assert!(seen.insert((parity, number * chunk + within)));
                }
            }
        }
        prop_assert_eq!(seen.len() as u64, u64::from(disks) * rows * chunk);
        prop_assert!(seen.iter().all(|(slot, at)| *slot < disks && *at < rows * chunk));
    }

    /// Every number of members that is accepted, and the longest members the superblock can name.
    #[test]
    fn parity_levels_hold_at_the_largest_sizes(
        (level, layout) in prop::sample::select(parity_layouts()),
        disks in 3u16..300,
        chunk_shift in 3u32..32,
        dev_sectors in any::<u64>(),
        picks in prop::collection::vec(any::<u64>(), 24),
    ) {
        let chunk = 1u64 << chunk_shift;
        let most = SECTORS_END / u64::from(disks);
        let dev_sectors = (dev_sectors % most).max(chunk);
        let accepted = Raid456::new(level, layout, disks, chunk, dev_sectors);
        prop_assume!(accepted.is_some());
        let map = accepted.expect("just checked");
        let data_disks = u64::from(map.data_disks());
        for sector in probes(map.array_sectors(), chunk, &picks) {
            let place = map.locate(sector);
            let back = (place.row * data_disks + u64::from(place.index)) * chunk;
            prop_assert_eq!(back + place.within_sectors, sector);
            prop_assert!(place.row * chunk + place.within_sectors < map.dev_sectors());
            check_row(&map, place.row)?;
        }
        // Rows behind any member, up to where sectors of 512 bytes still have a number.
        for pick in picks {
            check_row(&map, pick >> 1)?;
        }
    }

    /// Over as many rows as slots, every slot of a rotating layout has P once.
    #[test]
    fn parity_rotates_evenly(
        layout in prop::sample::select(vec![0u32, 1, 2, 3]),
        level in prop::sample::select(vec![Level::Raid5, Level::Raid6]),
        disks in 4u16..40,
        first in any::<u64>(),
    ) {
        let map = Raid456::new(level, layout, disks, 8, 80).expect("a map");
        let first = first >> 8;
        let slots: BTreeSet<u16> = (0..u64::from(disks)).map(|i| map.row(first + i).p).collect();
        prop_assert_eq!(slots.len(), usize::from(disks));
    }
}

/// A row names every slot once, and Q tells all its columns apart.
fn check_row(map: &Raid456, number: u64) -> Result<(), TestCaseError> {
    let row = map.row(number);
    let parities = [Some(row.p), row.q];
    let named = row
        .data
        .iter()
        .copied()
        .chain(parities.into_iter().flatten());
    let slots: BTreeSet<u16> = named.collect();
    prop_assert_eq!(slots.len(), usize::from(map.raid_disks()));
    prop_assert_eq!(slots.last(), Some(&(map.raid_disks() - 1)));
    prop_assert!(
        row.order.len() <= umd_parity::gf::COLUMNS_MAX,
        "two columns with one weight"
    );
    for slot in &row.data {
        let power = row.power_of(*slot);
        prop_assert!(power.is_some_and(|power| row.order[power] == Some(*slot)));
        prop_assert_eq!(
            row.index_of(*slot).map(|index| row.data[index]),
            Some(*slot)
        );
    }
    prop_assert_eq!(row.power_of(row.p), None);
    Ok(())
}

/// A width that is accepted can be computed with: the sums of Q have 255 weights.
#[test]
fn the_widest_arrays_can_be_computed() {
    for (level, layout) in parity_layouts() {
        let fits = |disks: &u16| Raid456::new(level, layout, *disks, 8, 80).is_some();
        let widest = (1..2000).filter(fits).max().expect("some width");
        let expected = match (level, layout) {
            (Level::Raid6, 8..=10) => 255,
            (Level::Raid6, _) => 257,
            _ => 256,
        };
        assert_eq!(widest, expected, "{level} layout {layout}");
        let map = Raid456::new(level, layout, widest, 8, 80).expect("a map");
        for number in 0..u64::from(widest) {
            check_row(&map, number).expect("a good row");
        }
    }
}

/// Which pairs a RAID10 can lose is a question of where they lie: one that is started without both
/// copies gives wrong data, and one that is refused although it has them all is lost for nothing.
#[test]
fn a_raid10_lives_while_each_chunk_has_a_copy() {
    let near = Geometry::Copied(Raid10::new(0x102, 4, 16, 1600).expect("a map"));
    let far = Geometry::Copied(Raid10::new(0x201, 4, 16, 1600).expect("a map"));
    for first in 0..4u16 {
        for second in first + 1..4 {
            let left = |slot: u16| slot != first && slot != second;
            let mirrored = second == first + 1 && first % 2 == 0;
            assert_eq!(near.survives(left), !mirrored, "near {first} {second}");
            let neighbours = second - first != 2;
            assert_eq!(far.survives(left), !neighbours, "far {first} {second}");
        }
    }
    assert!(!near.survives(|_| false));
}

/// `redundancy` is what every choice of members may be lost by, and no more than that.
#[test]
fn a_raid10_can_lose_one_copy_fewer_than_it_has() {
    for (layout, disks) in [(0x102, 4), (0x103, 5), (0x201, 4), (0x202, 6), (0x10301, 4)] {
        let map = Raid10::new(layout, disks, 8, 8 * 60).expect("a map");
        let copied = Geometry::Copied(map);
        let most = u32::from(copied.redundancy());
        let survives = |lost: u32| copied.survives(|slot| lost >> slot & 1 == 0);
        let lost = |count: u32| (0..1u32 << disks).filter(move |l| l.count_ones() == count);
        assert!(lost(most).all(survives), "{layout:#x} of {disks}");
        assert!(!lost(most + 1).all(survives), "{layout:#x} of {disks}");
    }
}

/// A rebuild asks which array sector lies at a place of the member. What lies behind the last one
/// is nobody's.
#[test]
fn a_place_of_a_raid10_that_holds_nothing_says_so() {
    for (layout, disks) in [(0x102, 3), (0x102, 5), (0x103, 4), (0x201, 3), (0x10201, 3)] {
        for chunks in 4..12 {
            let map = Raid10::new(layout, disks, 8, 8 * chunks).expect("a map");
            let size = map.array_sectors();
            let mut places = BTreeSet::new();
            for sector in (0..size).step_by(8) {
                for copy in map.copies(sector) {
                    places.insert((copy.slot, copy.member_sectors));
                    let back = map.array_sector(copy.slot, copy.member_sectors);
                    assert_eq!(back, Some(sector), "{layout:#x}");
                }
            }
            for slot in 0..disks {
                for at in (0..map.dev_sectors()).step_by(8) {
                    let held = map.array_sector(slot, at).is_some();
                    assert_eq!(held, places.contains(&(slot, at)), "{layout:#x} {at}");
                }
            }
        }
    }
}

/// A rebuild walks what lies on one member, a resync what can differ between them.
#[test]
fn a_rebuild_and_a_resync_walk_what_is_theirs() {
    let rows = Raid456::new(Level::Raid5, 2, 4, 8, 800).expect("a map");
    let copies = Raid10::new(0x102, 4, 8, 800).expect("a map");
    let single = Linear::new(&[80, 80], 8).expect("a map");
    for (geometry, array, sync, rebuild) in [
        (Geometry::Mirrored { legs: 2 }, 800, 800, 800),
        (Geometry::Parity(rows), 2400, 800, 800),
        (Geometry::Copied(copies), 1600, 1600, 800),
        (Geometry::Linear(single), 160, 0, 0),
    ] {
        assert_eq!(geometry.sync_sectors(array), sync, "{geometry:?}");
        assert_eq!(geometry.rebuild_sectors(array), rebuild, "{geometry:?}");
    }
}
