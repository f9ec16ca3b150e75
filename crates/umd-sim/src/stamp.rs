//! What simulated hosts write: every sector says where it belongs and which write made it.
//!
//! ```text
//!   word 0       array sector ^ key     all words depend on (sector, version), and not linearly:
//!   word 1       version ^ key          the xor of valid sectors is not valid, so a wrong
//!   word 2..63   mix of both            reconstruction never passes for content
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

/// Words of a sector.
const WORDS: usize = SECTOR / 8;

fn word(bytes: &[u8], index: usize) -> u64 {
    let at = index * 8;
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let whole = bytes.chunks_exact(8);
    whole.map(|piece| u64::from_le_bytes(piece.try_into().expect("eight bytes")))
}

/// What makes the words of a stamp differ from each other.
const SALTS: [u64; WORDS] = {
    let mut salts = [0; WORDS];
    let mut index = 0;
    while index < WORDS {
        salts[index] = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        index += 1;
    }
    salts
};

/// A word of a stamp; words do not wait for each other. What cannot be guessed is the base: two
/// cheap steps make of it words that no xor of stamps makes of theirs.
fn filling(base: u64, salt: u64) -> u64 {
    (base ^ salt).wrapping_add(base.rotate_left(32))
}

fn base(sector: u64, version: u64) -> u64 {
    mix(sector ^ mix(version))
}

/// Fills one sector.
pub fn stamp(out: &mut [u8], sector: u64, version: u64) {
    assert_eq!(out.len(), SECTOR, "a stamp fills one sector");
    let base = base(sector, version);
    for (piece, salt) in out.chunks_exact_mut(8).zip(SALTS) {
        piece.copy_from_slice(&filling(base, salt).to_le_bytes());
    }
    out[0..8].copy_from_slice(&(sector ^ KEY).to_le_bytes());
    out[8..16].copy_from_slice(&(version ^ KEY).to_le_bytes());
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
    let base = base(sector, version);
    if filling(base, SALTS[2]) == word(bytes, 2) {
        let pairs = words(&bytes[16..]).zip(&SALTS[2..]);
        let wrong = pairs.fold(0, |wrong, (word, salt)| {
            wrong | (filling(base, *salt) ^ word)
        });
        if wrong == 0 {
            return Content::Stamp { sector, version };
        }
    }
    if words(bytes).fold(0, |all, word| all | word) == 0 {
        return Content::Zero;
    }
    Content::Other(digest(bytes))
}

/// A hash of a sector, in lanes that do not wait for each other.
fn digest(bytes: &[u8]) -> u64 {
    let mut lanes = [1u64, 2, 3, 4];
    for row in bytes.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(words(row)) {
            *lane = (*lane ^ word)
                .wrapping_mul(0x2545_f491_4f6c_dd1d)
                .rotate_left(29);
        }
    }
    lanes.into_iter().fold(0, |sum, lane| mix(sum ^ lane))
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
