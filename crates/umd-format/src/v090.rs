//! The v0.90 superblock: 1024 words of 32 bits in the byte order of the machine that wrote them.
//!
//! ```text
//!   word    0  magic, version, array uuid, ctime, level, size (KiB), devices, md minor
//!          13  the rest of the uuid
//!          32  utime, state, counts, checksum, events, events of the checkpoint, checkpoint
//!          64  layout, chunk (bytes)
//!         128  27 descriptors of 32 words: number, major, minor, slot, state
//!         992  this member's own descriptor
//! ```
//!
//! Both byte orders are shown; only little-endian ones are assembled, as the kernel takes its own
//! order only. What the version has no word for, [`SuperblockV090::verify`] derives:
//!
//! | in memory | derived from |
//! | --- | --- |
//! | data offset, data size | 0; everything before the superblock |
//! | device number | the descriptor's number: the slot of a member in sync, else behind the slots |
//! | member's identity | device numbers, descriptor number and the array's uuid |
//! | checkpoint of a rebuild | none: a member that is being rebuilt is listed as a spare |
//! | bad blocks, name | none |
//!
//! Facts: superblocks.md sections 4 and 11.

use crate::bytes::put;
use crate::place::Format;
use crate::sha1::sha1;
use crate::v1::{
    DATA_SECTORS_MIN, DeviceFlags, Features, Fields, Listed, Node, ParseError, Role, UnixTime,
};
use crate::{Level, MD_MAGIC, SECTOR_BYTES, SECTOR_MAX, SuperblockV1, Uuid};

/// Bytes of a v0.90 superblock.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// The most devices there can be.
pub const DEVICES_MAX: usize = 27;

const WORDS: usize = SUPERBLOCK_BYTES / 4;
const CHECKSUM_WORD: usize = 38;
const THIS_DISK_WORD: usize = 992;
const DISKS_WORD: usize = 128;
const DISK_WORDS: usize = 32;
/// Where the internal bitmap lies: behind the superblock, and nowhere else.
pub const BITMAP_OFFSET_SECTORS: i32 = 8;
/// Room for it: the rest of the 64 KiB that are kept for metadata.
pub const BITMAP_ROOM_SECTORS: u64 = 120;
/// The most that is used of a member of an array with redundancy: its size is a word of KiB.
pub const SIZE_SECTORS_MAX: u64 = 2 * u32::MAX as u64;

/// Bits of the state word.
mod state {
    pub const CLEAN: u32 = 1;
    pub const BITMAP: u32 = 1 << 8;
}

/// Bits of a descriptor's state.
mod disk {
    pub const FAULTY: u32 = 1;
    pub const ACTIVE: u32 = 1 << 1;
    pub const SYNC: u32 = 1 << 2;
    pub const REMOVED: u32 = 1 << 3;
    pub const WRITE_MOSTLY: u32 = 1 << 9;
    pub const FAILFAST: u32 = 1 << 10;
}

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
    /// Its value when the checkpoint was written.
    pub checkpoint_events: u64,
    /// How far a resync got, in sectors.
    pub checkpoint: u32,
    /// The layout number.
    pub layout: u32,
    /// Chunk size.
    pub chunk_bytes: u32,
    /// The checksum stored.
    pub stored_checksum: u32,
    /// The checksum it should have.
    pub computed_checksum: u32,
    /// The device table, all 27 entries.
    pub disks: Vec<Descriptor>,
    /// This member's own entry.
    pub this_disk: Descriptor,
    raw: Vec<u8>,
}

impl Descriptor {
    fn role(&self) -> Role {
        let slot = u16::try_from(self.raid_disk);
        match (self.state, slot) {
            (state, _) if state & disk::REMOVED != 0 => Role::Spare,
            (state, _) if state & disk::FAULTY != 0 => Role::Faulty,
            (state, Ok(slot)) if state & disk::SYNC != 0 && slot < DEVICES_MAX as u16 => {
                Role::Active(slot)
            }
            _ => Role::Spare,
        }
    }

    fn node(&self) -> Node {
        Node {
            major: self.major,
            minor: self.minor,
        }
    }

    fn flags(&self) -> DeviceFlags {
        let bits = [
            (disk::WRITE_MOSTLY, DeviceFlags::WRITE_MOSTLY),
            (disk::FAILFAST, DeviceFlags::FAILFAST),
        ];
        let set = bits.iter().filter(|(bit, _)| self.state & bit != 0);
        DeviceFlags(set.fold(0, |flags, (_, flag)| flags | flag.0))
    }

    /// Whether anybody is described: entries of nobody are empty, or say "removed".
    fn is_somebody(&self) -> bool {
        let blank = self.number == 0 && self.state == 0 && self.node() == Node::default();
        self.state & disk::REMOVED == 0 && !blank
    }
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
        let mut found = Self::from_words(word, byte_order);
        found.raw = bytes[..SUPERBLOCK_BYTES].to_vec();
        Ok(found)
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
            checkpoint_events: wide(41),
            checkpoint: word(43),
            layout: word(64),
            chunk_bytes: word(65),
            stored_checksum: word(CHECKSUM_WORD),
            computed_checksum: checksum((0..WORDS).map(&word), word(CHECKSUM_WORD)),
            disks: (0..DEVICES_MAX)
                .map(|index| descriptor(DISKS_WORD + DISK_WORDS * index))
                .collect(),
            this_disk: descriptor(THIS_DISK_WORD),
            raw: Vec::new(),
        }
    }

    /// Whether the kernel would take the checksum. It compares sums folded to 16 bits, because
    /// some very old machines stored them that way.
    pub fn checksum_matches(&self) -> bool {
        fold(self.stored_checksum) == fold(self.computed_checksum)
    }
}

impl SuperblockV090 {
    /// Checks everything that can be checked without other members, for a device of
    /// `device_sectors`, and brings it into the form that arrays are run from.
    ///
    /// The checksum has to be exact. (The kernel folds both sums to 16 bits first, for values that
    /// machines of the last century stored; that lets one torn write in 65,535 pass.)
    ///
    /// # Errors
    /// Any kind of `ParseError` but those of `parse`.
    pub fn verify(self, device_sectors: u64) -> Result<SuperblockV1, ParseError> {
        let (stored, computed) = (self.stored_checksum, self.computed_checksum);
        if stored != computed {
            return Err(ParseError::BadChecksum { stored, computed });
        }
        if self.byte_order == ByteOrder::Big {
            return Err(ParseError::ByteSwapped);
        }
        let impossible = |text: String| Err(ParseError::Impossible(text));
        let number = self.this_disk.number;
        if number as usize >= DEVICES_MAX {
            return impossible(format!("its device number is {number}"));
        }
        if !self.disks[number as usize].is_somebody() {
            return impossible(format!("its own entry, {number}, is empty"));
        }
        if self.raid_disks as usize > DEVICES_MAX {
            return impossible(format!("{} devices, of {DEVICES_MAX}", self.raid_disks));
        }
        if !self.chunk_bytes.is_multiple_of(SECTOR_BYTES as u32) {
            return impossible(format!("a chunk of {} bytes", self.chunk_bytes));
        }
        let place = Format::V090.superblock_sector(device_sectors);
        let Some(super_sector) = place.filter(|sector| *sector >= DATA_SECTORS_MIN) else {
            return impossible(format!(
                "a device of {device_sectors} sectors cannot hold it"
            ));
        };
        let fields = self.fields(super_sector);
        SuperblockV1::from_parts(Format::V090, self.raw, fields, device_sectors)
    }

    fn features(&self) -> Features {
        let mut features = Features::default();
        if self.state & state::BITMAP != 0 {
            features = features.with(Features::BITMAP_OFFSET);
        }
        if self.minor == 91 {
            features = features.with(Features::RESHAPE_ACTIVE);
        }
        if self.level == Level::Raid0 && matches!(self.layout, 1 | 2) {
            features = features.with(Features::RAID0_LAYOUT);
        }
        features
    }

    /// Where the array is in sync from: a checkpoint counts with the events it was written with.
    fn resync_offset(&self) -> u64 {
        if self.state & state::CLEAN != 0 {
            SECTOR_MAX
        } else if self.checkpoint_events == self.events {
            self.checkpoint.into()
        } else {
            0
        }
    }

    fn listed(&self) -> Vec<Listed> {
        let entries = self.disks.iter().enumerate();
        let somebody = entries.filter(|(_, entry)| entry.is_somebody());
        somebody
            .map(|(index, entry)| Listed {
                number: index as u32,
                node: entry.node(),
                role: entry.role(),
                flags: entry.flags(),
            })
            .collect()
    }

    /// What it says, in the form that arrays are run from; none of it has been checked.
    pub fn shown(&self, device_sectors: u64) -> Fields {
        self.fields(Format::V090.superblock_sector(device_sectors).unwrap_or(0))
    }

    fn fields(&self, super_sector: u64) -> Fields {
        let own = self.disks.get(self.this_disk.number as usize);
        let own = *own.unwrap_or(&self.this_disk);
        let shared = self.level.has_size();
        let features = self.features();
        let bitmap = features.contains(Features::BITMAP_OFFSET);
        let sectors = |bytes: u32| bytes / SECTOR_BYTES as u32;
        Fields {
            features,
            set_uuid: self.uuid,
            set_name: [0; 32],
            ctime: UnixTime::from_seconds(self.ctime_seconds.into()),
            level: self.level,
            layout: self.layout,
            size_sectors: u64::from(self.size_kib) * 2 * u64::from(shared),
            chunk_sectors: match self.level {
                Level::Raid1 => 0,
                _ => sectors(self.chunk_bytes),
            },
            raid_disks: self.raid_disks,
            bitmap_offset_raw: if bitmap {
                BITMAP_OFFSET_SECTORS as u32
            } else {
                0
            },
            new_level: Level::Raid0,
            reshape_position_sectors: 0,
            delta_disks: 0,
            new_layout: 0,
            new_chunk_sectors: 0,
            new_offset_sectors: 0,
            data_offset_sectors: 0,
            data_size_sectors: super_sector,
            super_offset_sectors: super_sector,
            recovery_offset_raw: 0,
            dev_number: self.this_disk.number,
            corrected_reads: 0,
            device_uuid: identity(self.uuid, self.this_disk.number, own.node()),
            flags: own.flags(),
            bblog_shift: 0,
            bblog_size_sectors: 0,
            bblog_offset_sectors: 0,
            utime: UnixTime::from_seconds(self.utime_seconds.into()),
            events: self.events,
            resync_offset_sectors: self.resync_offset(),
            logical_block_bytes: 0,
            roles: self.disks.iter().map(Descriptor::role).collect(),
            listed: self.listed(),
            node: own.node(),
            preferred_minor: self.md_minor,
        }
    }
}

/// Who a member is, as far as version 0.90 can tell. Two members of one array differ in number; a
/// copy of one does not.
fn identity(array: Uuid, number: u32, node: Node) -> Uuid {
    let mut bytes = [0; 16];
    for (index, word) in [node.major, node.minor, number].into_iter().enumerate() {
        put(&mut bytes, 4 * index, &word.to_be_bytes());
    }
    put(&mut bytes, 12, &array.0[..4]);
    Uuid(bytes)
}

/// The identity with the host's mark in its second half, as mdadm makes it: version 0.90 has no
/// name that could begin with the host's.
#[must_use]
pub fn with_host(array: Uuid, host: &str) -> Uuid {
    let digest = sha1(host.as_bytes());
    let mut bytes = array.0;
    for (place, byte) in [11, 10, 9, 8, 15, 14, 13, 12].into_iter().zip(digest) {
        bytes[place] = byte;
    }
    Uuid(bytes)
}

/// What stands for the device of a new member: files have no device numbers of their own.
pub fn node_of(device_uuid: Uuid) -> Node {
    let [a, b, c, ..] = device_uuid.0;
    Node {
        major: 0,
        minor: u32::from_be_bytes([0, a & 0xf, b, c]),
    }
}

/// The bytes to write for `fields`: patched into `raw`, what was found (or nothing).
///
/// # Panics
/// When there are more devices than the table has entries, or the own one is not listed.
pub(crate) fn encode(raw: &[u8], fields: &Fields) -> Vec<u8> {
    let mut image = raw.to_vec();
    image.resize(SUPERBLOCK_BYTES, 0);
    let listed = || {
        fields
            .listed
            .iter()
            .filter(|one| (one.number as usize) < DEVICES_MAX)
    };
    let active = listed().filter(|one| matches!(one.role, Role::Active(_)));
    let active = active.count() as u32;
    let count = |role: Role| listed().filter(|one| one.role == role).count() as u32;
    let spares = count(Role::Spare);
    let mut word = |index: usize, value: u32| put(&mut image, 4 * index, &value.to_le_bytes());
    let wide = |value: u64| [value as u32, (value >> 32) as u32];
    head(&mut word, fields);
    word(9, listed().count() as u32);
    word(34, active);
    word(35, active + spares);
    word(36, fields.raid_disks.saturating_sub(active));
    word(37, spares);
    for at in [39, 41] {
        let [low, high] = wide(fields.events);
        word(at, low);
        word(at + 1, high);
    }
    // Lower is safe where the word is too small.
    word(43, fields.resync_offset_sectors.min(u32::MAX.into()) as u32);
    for index in 0..DISK_WORDS * DEVICES_MAX {
        word(DISKS_WORD + index, 0);
    }
    for slot in 0..fields.raid_disks as usize {
        let missing = [slot as u32, 0, 0, slot as u32, disk::FAULTY | disk::REMOVED];
        descriptor(&mut word, DISKS_WORD + DISK_WORDS * slot, missing);
    }
    for one in listed() {
        let entry = DISKS_WORD + DISK_WORDS * one.number as usize;
        descriptor(&mut word, entry, words_of(one));
        if one.number == fields.dev_number {
            descriptor(&mut word, THIS_DISK_WORD, words_of(one));
        }
    }
    assert!(
        listed().any(|one| one.number == fields.dev_number),
        "a member lists itself"
    );
    let words = (0..WORDS).map(|index| crate::bytes::u32_at(&image, 4 * index));
    let sum = checksum(words, stored_checksum(&image));
    put(&mut image, 4 * CHECKSUM_WORD, &sum.to_le_bytes());
    image
}

/// The words that say what the array is.
fn head(word: &mut impl FnMut(usize, u32), fields: &Fields) {
    let reshaping = fields.features.contains(Features::RESHAPE_ACTIVE);
    assert!(!reshaping, "no reshape is stored in version 0.90 here");
    word(0, MD_MAGIC);
    word(1, 0);
    word(2, 90);
    for (at, bytes) in [5, 13, 14, 15].into_iter().zip(fields.set_uuid.0.chunks(4)) {
        word(at, u32::from_be_bytes(crate::bytes::array_at(bytes, 0)));
    }
    word(6, fields.ctime.seconds() as u32);
    word(7, fields.level.to_raw() as u32);
    if fields.level.has_size() {
        assert!(fields.size_sectors <= SIZE_SECTORS_MAX, "a size of 32 bits");
        word(8, (fields.size_sectors / 2) as u32);
    }
    word(10, fields.raid_disks);
    word(11, fields.preferred_minor);
    word(32, fields.utime.seconds() as u32);
    let bitmap = fields.features.contains(Features::BITMAP_OFFSET);
    let clean = u32::from(fields.is_clean()) * state::CLEAN;
    word(33, clean | (u32::from(bitmap) * state::BITMAP));
    word(64, fields.layout);
    if fields.level != Level::Raid1 {
        word(65, fields.chunk_sectors * SECTOR_BYTES as u32);
    }
}

fn words_of(one: &Listed) -> [u32; 5] {
    let (slot, state) = match one.role {
        Role::Active(slot) => (slot.into(), disk::ACTIVE | disk::SYNC),
        Role::Faulty => (one.number, disk::FAULTY),
        Role::Spare | Role::Journal => (one.number, 0),
    };
    let mut state = state;
    for (bit, flag) in [
        (disk::WRITE_MOSTLY, DeviceFlags::WRITE_MOSTLY),
        (disk::FAILFAST, DeviceFlags::FAILFAST),
    ] {
        state |= bit * u32::from(one.flags.contains(flag));
    }
    let Node { major, minor } = one.node;
    [one.number, major, minor, slot, state]
}

fn descriptor(word: &mut impl FnMut(usize, u32), at: usize, values: [u32; 5]) {
    for (index, value) in values.into_iter().enumerate() {
        word(at + index, value);
    }
}

/// The same superblock in the other byte order (mdadm `--update=byteorder`).
///
/// # Panics
/// When there are fewer than 4096 bytes.
pub fn swapped(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() >= SUPERBLOCK_BYTES, "a whole superblock");
    let mut words: Vec<[u8; 4]> = bytes[..SUPERBLOCK_BYTES]
        .chunks_exact(4)
        .map(|word| [word[3], word[2], word[1], word[0]])
        .collect();
    // Numbers of two words stand in the order of the machine, too.
    for low in [39, 41] {
        words.swap(low, low + 1);
    }
    words.concat()
}

pub(crate) fn stored_checksum(bytes: &[u8]) -> u32 {
    crate::bytes::u32_at(bytes, 4 * CHECKSUM_WORD)
}

/// Each group of four bytes turned round: an array's uuid as its bitmap has it.
pub(crate) fn word_order(uuid: Uuid) -> Uuid {
    let mut bytes = uuid.0;
    for word in bytes.chunks_exact_mut(4) {
        word.reverse();
    }
    Uuid(bytes)
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
            (Level::Raid1, 2, DEVICES_MAX)
        );
        assert_eq!((little.this_disk.number, little.disks[1].state), (1, 6));
        assert!(little.checksum_matches() && big.checksum_matches());
        let same_order = SuperblockV090 {
            byte_order: ByteOrder::Little,
            raw: little.raw.clone(),
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
