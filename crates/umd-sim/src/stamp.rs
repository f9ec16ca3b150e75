//! What simulated hosts write: every sector says where it belongs and which write made it.
//!
//! ```text
//!   word 0   array sector ^ key          all 64 words depend on (sector, version) without being
//!   word 1   version ^ key               linear in them: the xor of valid sectors is not valid, so
//!   word 2.. chained multiply-mix        a wrong reconstruction never passes for content
//!   word 63  the end of the chain
//! ```

use crate::rng::mix;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
const KEY: u64 = 0x756d_645f_7369_6d21;

/// What a sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeros.
    Zero,
    /// A whole stamp.
    Stamp {
        /// The array sector it was written to.
        sector: u64,
        /// The write that made it.
        version: u64,
    },
    /// Anything else, by its hash.
    Other(u64),
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let at = index * 8;
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn chain(sector: u64, version: u64) -> impl FnMut(u64) -> u64 {
    let mut at = mix(sector ^ mix(version));
    move |index| {
        at = (at ^ index)
            .wrapping_mul(0xd6e8_feb8_6659_fd93)
            .rotate_left(29);
        at
    }
}

/// Fills one sector.
pub fn stamp(out: &mut [u8], sector: u64, version: u64) {
    assert_eq!(out.len(), SECTOR, "a stamp fills one sector");
    out[0..8].copy_from_slice(&(sector ^ KEY).to_le_bytes());
    out[8..16].copy_from_slice(&(version ^ KEY).to_le_bytes());
    let mut next = chain(sector, version);
    for index in 2..64u64 {
        let at = index as usize * 8;
        out[at..at + 8].copy_from_slice(&next(index).to_le_bytes());
    }
}

/// Fills consecutive sectors from `sector` on.
pub fn stamp_all(out: &mut [u8], sector: u64, version: u64) {
    for (index, piece) in out.chunks_exact_mut(SECTOR).enumerate() {
        stamp(piece, sector + index as u64, version);
    }
}

/// Recognises a sector.
pub fn recognise(bytes: &[u8]) -> Content {
    assert_eq!(bytes.len(), SECTOR, "sectors are recognised one by one");
    let (sector, version) = (word(bytes, 0) ^ KEY, word(bytes, 1) ^ KEY);
    let mut next = chain(sector, version);
    if (2..64u64).all(|index| next(index) == word(bytes, index as usize)) {
        return Content::Stamp { sector, version };
    }
    if bytes.iter().all(|&b| b == 0) {
        return Content::Zero;
    }
    Content::Other((0..64).fold(0, |hash, index| mix(hash ^ word(bytes, index))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(sector: u64, version: u64) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        stamp(&mut bytes, sector, version);
        bytes
    }

    #[test]
    fn a_stamp_is_recognised_and_every_changed_byte_is_noticed() {
        let good = stamped(77, 5);
        let (sector, version) = (77, 5);
        assert_eq!(recognise(&good), Content::Stamp { sector, version });
        for at in 0..SECTOR {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(matches!(recognise(&bad), Content::Other(_)), "byte {at}");
        }
        assert_eq!(recognise(&[0; SECTOR]), Content::Zero);
    }

    #[test]
    fn sums_and_mixtures_of_stamps_are_not_stamps() {
        let (a, b, c) = (stamped(1, 1), stamped(2, 2), stamped(3, 3));
        let mut sum = a;
        for at in 0..SECTOR {
            sum[at] ^= b[at] ^ c[at];
        }
        assert!(matches!(recognise(&sum), Content::Other(_)));
        let mut half = a;
        half[256..].copy_from_slice(&stamped(1, 2)[256..]);
        assert!(matches!(recognise(&half), Content::Other(_)));
    }
}
