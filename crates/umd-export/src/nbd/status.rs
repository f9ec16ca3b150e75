//! Allocation, from the engine's extents to the descriptors of a BLOCK_STATUS reply.
//!
//! Descriptors have to be whole blocks. Where an extent ends inside a block, the block is data if
//! any part of it is: "data" is always a safe answer, "hole" is not.
//!
//! ```text
//!   extents       |--data--|------hole------|--data--|
//!   blocks        |      |      |      |      |      |
//!   descriptors   |----data-----|-hole-|----data-----|
//! ```

use umd_core::array::Extent;
use umd_core::value::SECTOR_BYTES;

use super::proto::{STATE_HOLE, STATE_ZERO};

/// Longest list sent; the client asks again for the rest.
const DESCRIPTORS_MAX: usize = 4096;

/// Length in bytes, and status flags.
pub(super) type Descriptor = (u32, u32);

/// The descriptors for the range of `len` bytes (whole blocks) that `extents` begins to describe.
/// Never empty, never longer than the range. `one`: the first only.
pub(super) fn descriptors(
    extents: &[Extent],
    len: u32,
    block_bytes: u32,
    one: bool,
) -> Vec<Descriptor> {
    let (len, block) = (u64::from(len), u64::from(block_bytes));
    let limit = if one { 1 } else { DESCRIPTORS_MAX };
    let mut runs: Vec<(u64, bool)> = Vec::new(); // where it ends, data
    let mut at = 0;
    let mut sofar = 0; // end of the last run
    for extent in extents {
        if at >= len {
            break;
        }
        at = at
            .saturating_add(extent.len_sectors.saturating_mul(SECTOR_BYTES))
            .min(len);
        let end = match extent.data {
            true => at.next_multiple_of(block),
            false => at - at % block,
        };
        if end <= sofar {
            continue; // Within a block that is data already.
        }
        sofar = end;
        let full = runs.len() == limit;
        match runs.last_mut() {
            Some((last, data)) if *data == extent.data => *last = end,
            _ if full => break,
            _ => runs.push((end, extent.data)),
        }
    }
    if runs.is_empty() {
        runs.push((block.min(len), true)); // Less than a block is known.
    }
    let mut start = 0;
    let descriptor = |(end, data)| {
        let length = u32::try_from(end - start).expect("within a 32-bit request");
        start = end;
        (length, if data { 0 } else { STATE_HOLE | STATE_ZERO })
    };
    runs.into_iter().map(descriptor).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLE: u32 = STATE_HOLE | STATE_ZERO;

    fn extent(len_sectors: u64, data: bool) -> Extent {
        Extent { len_sectors, data }
    }

    #[test]
    fn neighbours_of_one_kind_are_one() {
        let extents = [extent(8, true), extent(8, true), extent(16, false)];
        assert_eq!(
            descriptors(&extents, 1 << 20, 512, false),
            [(8192, 0), (8192, HOLE)]
        );
        assert_eq!(descriptors(&extents, 1 << 20, 512, true), [(8192, 0)]);
    }

    #[test]
    fn what_is_beyond_the_request_is_cut_off() {
        let extents = [extent(u64::MAX, false)];
        assert_eq!(descriptors(&extents, 4096, 512, false), [(4096, HOLE)]);
    }

    #[test]
    fn a_block_with_any_data_is_data() {
        let extents = [extent(9, true), extent(16, false), extent(7, true)];
        let expected = [(8192, 0), (4096, HOLE), (4096, 0)];
        assert_eq!(descriptors(&extents, 16384, 4096, false), expected);
        assert_eq!(
            descriptors(&[extent(7, false)], 16384, 4096, false),
            [(4096, 0)]
        );
        let late = [extent(7, false), extent(1, true), extent(8, false)];
        assert_eq!(
            descriptors(&late, 8192, 4096, false),
            [(4096, 0), (4096, HOLE)]
        );
    }

    proptest! {
        /// Checked sector by sector against the definition.
        #[test]
        fn holes_are_holes_and_lengths_are_blocks(
            runs in prop::collection::vec((1u64..40, any::<bool>()), 1..20),
            blocks in 1u32..40,
            wide in any::<bool>(),
            one in any::<bool>(),
        ) {
            let block = if wide { 4096 } else { 512 };
            let len = blocks * block;
            let extents: Vec<_> = runs.iter().map(|&(n, data)| extent(n, data)).collect();
            let sectors: Vec<bool> = runs
                .iter()
                .flat_map(|&(n, data)| std::iter::repeat_n(data, n as usize))
                .collect();
            let told = descriptors(&extents, len, block, one);
            prop_assert!(!told.is_empty() && (!one || told.len() == 1));
            let mut at = 0u64;
            for &(length, flags) in &told {
                prop_assert!(length > 0 && length % block == 0);
                let first = (at / 512) as usize;
                at += u64::from(length);
                if flags != 0 {
                    let run = &sectors[first..(at / 512) as usize];
                    prop_assert!(run.iter().all(|data| !data));
                }
            }
            prop_assert!(at <= u64::from(len));
            prop_assert!(told.windows(2).all(|pair| pair[0].1 != pair[1].1));
            if !one && block == 512 {
                let known = (sectors.len() as u64 * 512).min(u64::from(len));
                prop_assert_eq!(at, known);
            }
        }
    }
}
