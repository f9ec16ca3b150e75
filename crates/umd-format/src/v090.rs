//! The v0.90 superblock, for reading only: enough to show it and to say clearly what it is.
//!
//! 1024 words of 32 bits in the byte order of the machine that wrote them, so both orders are
//! tried. Facts: superblocks.md sections 4 and 11.

use crate::{Level, MD_MAGIC, Uuid};

/// Bytes of a v0.90 superblock.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// The most devices there can be.
pub const DEVICES_MAX: usize = 27;

const WORDS: usize = SUPERBLOCK_BYTES / 4;
const CHECKSUM_WORD: usize = 38;
const THIS_DISK_WORD: usize = 992;

/// Byte order of the machine that wrote the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteOrder {
    /// x86, ARM and nearly all others.
    Little,
    /// Old PowerPC, MIPS, SPARC; each word is swapped.
    Big,
}

/// Why bytes are no v0.90 superblock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum V090Error {
    /// Fewer than 4096 bytes.
    #[error("a version 0.90 superblock has 4096 bytes, {have_bytes} are there")]
    Truncated {
        /// Bytes given.
        have_bytes: usize,
    },
    /// The magic is there in neither byte order.
    #[error("no md superblock found (expected magic a92b4efc, got {found:08x})")]
    NoMagic {
        /// The word that is there, read little-endian.
        found: u32,
    },
    /// The magic is right but not the version.
    #[error("superblock version {major}.{minor} is not 0.90 or 0.91")]
    BadVersion {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
}

/// One entry of the device table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Place in the table.
    pub number: u32,
    /// Device number, as it was.
    pub major: u32,
    /// Device number, as it was.
    pub minor: u32,
    /// The slot.
    pub raid_disk: u32,
    /// Bit 0 faulty, 1 active, 2 sync, 3 removed, 9 write-mostly, 10 failfast.
    pub state: u32,
}

/// A v0.90 superblock as found; `checksum_matches` tells whether it was damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuperblockV090 {
    /// Byte order it was written in.
    pub byte_order: ByteOrder,
    /// 90, or 91 while a reshape is under way.
    pub minor: u32,
    /// The array's identity, as mdadm prints it.
    pub uuid: Uuid,
    /// Creation, seconds since 1970.
    pub ctime_seconds: u32,
    /// Last update, seconds since 1970.
    pub utime_seconds: u32,
    /// The level.
    pub level: Level,
    /// Used size of each member, KiB.
    pub size_kib: u32,
    /// Devices at the moment, spares included.
    pub nr_disks: u32,
    /// Number of slots.
    pub raid_disks: u32,
    /// The number of the md device.
    pub md_minor: u32,
    /// Bit 0 clean, 1 errors, 8 bitmap present.
    pub state: u32,
    /// Counts of active, working, failed and spare devices.
    pub device_counts: [u32; 4],
    /// Update counter.
    pub events: u64,
    /// The layout number.
    pub layout: u32,
    /// Chunk size.
    pub chunk_bytes: u32,
    /// The checksum stored.
    pub stored_checksum: u32,
    /// The checksum it should have.
    pub computed_checksum: u32,
    /// The device table, `nr_disks` entries at most 27.
    pub disks: Vec<Descriptor>,
    /// This member's own entry.
    pub this_disk: Descriptor,
}

impl SuperblockV090 {
    /// Reads a superblock from the 4096 bytes at its place.
    ///
    /// # Errors
    /// When there is none; a wrong checksum is no error here.
    pub fn parse(bytes: &[u8]) -> Result<SuperblockV090, V090Error> {
        if bytes.len() < SUPERBLOCK_BYTES {
            return Err(V090Error::Truncated {
                have_bytes: bytes.len(),
            });
        }
        let first = crate::bytes::u32_at(bytes, 0);
        let byte_order = match first {
            MD_MAGIC => ByteOrder::Little,
            swapped if swapped == MD_MAGIC.swap_bytes() => ByteOrder::Big,
            found => return Err(V090Error::NoMagic { found }),
        };
        let word = |index: usize| {
            let word = crate::bytes::u32_at(bytes, 4 * index);
            if byte_order == ByteOrder::Big {
                word.swap_bytes()
            } else {
                word
            }
        };
        let (major, minor) = (word(1), word(2));
        if major != 0 || !matches!(minor, 90 | 91) {
            return Err(V090Error::BadVersion { major, minor });
        }
        Ok(Self::from_words(word, byte_order))
    }

    fn from_words(word: impl Fn(usize) -> u32, byte_order: ByteOrder) -> SuperblockV090 {
        let wide = |index: usize| {
            let (low, high) = match byte_order {
                ByteOrder::Little => (word(index), word(index + 1)),
                ByteOrder::Big => (word(index + 1), word(index)),
            };
            u64::from(high) << 32 | u64::from(low)
        };
        let descriptor = |index: usize| Descriptor {
            number: word(index),
            major: word(index + 1),
            minor: word(index + 2),
            raid_disk: word(index + 3),
            state: word(index + 4),
        };
        let listed = (word(9) as usize).min(DEVICES_MAX);
        SuperblockV090 {
            byte_order,
            minor: word(2),
            uuid: uuid_of([word(5), word(13), word(14), word(15)]),
            ctime_seconds: word(6),
            utime_seconds: word(32),
            level: Level::from_raw(word(7) as i32),
            size_kib: word(8),
            nr_disks: word(9),
            raid_disks: word(10),
            md_minor: word(11),
            state: word(33),
            device_counts: [word(34), word(35), word(36), word(37)],
            events: wide(39),
            layout: word(64),
            chunk_bytes: word(65),
            stored_checksum: word(CHECKSUM_WORD),
            computed_checksum: checksum((0..WORDS).map(&word), word(CHECKSUM_WORD)),
            disks: (0..listed)
                .map(|index| descriptor(128 + 32 * index))
                .collect(),
            this_disk: descriptor(THIS_DISK_WORD),
        }
    }

    /// Whether the kernel would take the checksum. It compares sums folded to 16 bits, because
    /// some very old machines stored them that way.
    pub fn checksum_matches(&self) -> bool {
        fold(self.stored_checksum) == fold(self.computed_checksum)
    }
}

/// The four words, printed as numbers of eight digits.
fn uuid_of(words: [u32; 4]) -> Uuid {
    let mut bytes = [0; 16];
    for (index, word) in words.into_iter().enumerate() {
        crate::bytes::put(&mut bytes, 4 * index, &word.to_be_bytes());
    }
    Uuid(bytes)
}

fn checksum(words: impl Iterator<Item = u32>, stored: u32) -> u32 {
    let sum = words.map(u64::from).sum::<u64>() - u64::from(stored);
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

fn fold(sum: u32) -> u32 {
    let once = (sum & 0xffff) + (sum >> 16);
    (once & 0xffff) + (once >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A two-member raid1 in the byte order given.
    fn sample(order: ByteOrder) -> Vec<u8> {
        let mut words = vec![0u32; WORDS];
        for (index, value) in [
            (0, MD_MAGIC),
            (2, 90),
            (5, 0x1111_2222),
            (13, 0x3333_4444),
            (14, 0x5555_6666),
            (15, 0x7777_8888),
            (6, 1_577_836_800),
            (7, 1),
            (8, 65_472),
            (9, 2),
            (10, 2),
            (33, 1),
            (128, 0),
            (132, 6),
            (160, 1),
            (163, 1),
            (164, 6),
            (992, 1),
            (995, 1),
            (996, 6),
        ] {
            words[index] = value;
        }
        let events = if order == ByteOrder::Little {
            [18, 1]
        } else {
            [1, 18]
        };
        words[39..41].copy_from_slice(&events);
        words[CHECKSUM_WORD] = checksum(words.iter().copied(), 0);
        let to_bytes = |word: u32| match order {
            ByteOrder::Little => word.to_le_bytes(),
            ByteOrder::Big => word.to_be_bytes(),
        };
        words.into_iter().flat_map(to_bytes).collect()
    }

    #[test]
    fn both_byte_orders_say_the_same() {
        let little = SuperblockV090::parse(&sample(ByteOrder::Little)).unwrap();
        let big = SuperblockV090::parse(&sample(ByteOrder::Big)).unwrap();
        assert_eq!(little.events, (1 << 32) + 18);
        assert_eq!(
            little.uuid.to_string(),
            "11112222:33334444:55556666:77778888"
        );
        assert_eq!(
            (little.level, little.raid_disks, little.disks.len()),
            (Level::Raid1, 2, 2)
        );
        assert_eq!((little.this_disk.number, little.disks[1].state), (1, 6));
        assert!(little.checksum_matches() && big.checksum_matches());
        let same_order = SuperblockV090 {
            byte_order: ByteOrder::Little,
            ..big
        };
        // The sum of the words does not depend on their order.
        assert_eq!(same_order, little);
    }

    #[test]
    fn the_carry_is_folded_in_once() {
        // superblocks.md section 4: a sum of 0x4_6c9e7d5d is stored as 0x6c9e7d61.
        let words = [0xffff_ffff_u32; 4].into_iter().chain([0x6c9e_7d61]);
        assert_eq!(checksum(words, 0), 0x6c9e_7d61);
    }

    #[test]
    fn damage_other_versions_and_short_input_are_told_apart() {
        let good = sample(ByteOrder::Little);
        let mut damaged = good.clone();
        damaged[600] ^= 1;
        assert!(!SuperblockV090::parse(&damaged).unwrap().checksum_matches());
        let mut other = good.clone();
        other[4] = 1;
        let error = SuperblockV090::parse(&other).unwrap_err();
        assert_eq!(
            error,
            V090Error::BadVersion {
                major: 1,
                minor: 90
            }
        );
        let error = SuperblockV090::parse(&good[..4095]).unwrap_err();
        assert_eq!(error, V090Error::Truncated { have_bytes: 4095 });
        assert!(matches!(
            SuperblockV090::parse(&[0; 4096]),
            Err(V090Error::NoMagic { found: 0 })
        ));
    }
}
