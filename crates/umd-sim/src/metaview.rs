//! Reads superblocks and bitmaps off simulated media: the monitor's own eyes.
//!
//! Only the few fields the order rules speak about, straight from their byte offsets (facts:
//! superblocks sections 2, 4 and 11, bitmap sections 1, 4, 10), independent of the engine's parser.

mod moved;
mod old;

use std::ops::Range;

use crate::disk::SimDisk;
use crate::stamp::SECTOR;
pub use moved::{Shape, Way};
use old::Old;

/// Stands for version 0.90 where the minor of version 1 would stand.
pub const OLD: u8 = 90;

/// "Clean" and "never".
pub const NEVER: u64 = u64::MAX;
const MAGIC: u32 = 0xa92b_4efc;
const BITMAP_MAGIC: u32 = 0x6d74_6962;
const VERSION_LOCKLESS: u32 = 6;
/// Where bits begin.
const BITS_AT: u64 = 256;
/// Where states begin.
const STATES_AT: u64 = 1024;
const FEATURE_BITMAP: u32 = 1;
const FEATURE_RECOVERY: u32 = 2;
const FEATURE_BAD_BLOCKS: u32 = 8;
const FEATURE_RECOVERY_BITMAP: u32 = 0x80;
const ROLE_SPECIAL: u16 = 0xff00;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A superblock: the first sector of version 1, or the page of version 0.90.
#[derive(Debug, Clone, Copy)]
pub struct SuperView<'a> {
    bytes: &'a [u8],
    old: bool,
}

impl<'a> SuperView<'a> {
    /// A view, if the bytes carry the magic number.
    pub fn new(bytes: &'a [u8]) -> Option<SuperView<'a>> {
        assert!(bytes.len() >= SECTOR, "at least a sector");
        let old = u32_at(bytes, 4) == 0;
        let whole = !old || bytes.len() >= old::BYTES;
        (u32_at(bytes, 0) == MAGIC && whole).then_some(SuperView { bytes, old })
    }

    /// What lies on the medium of a disk.
    pub fn on_medium(disk: &'a SimDisk, super_sector: u64) -> Option<SuperView<'a>> {
        SuperView::new(disk.durable().page(super_sector)?)
    }

    fn old(self) -> Option<Old<'a>> {
        self.old.then_some(Old(self.bytes))
    }

    /// Whether it is as somebody wrote it: a torn one is none for whoever reads it.
    pub fn is_whole(self) -> bool {
        if let Some(old) = self.old() {
            return old.is_whole();
        }
        let end = 256 + 2 * u32_at(self.bytes, 220) as usize;
        let Some(bytes) = self.bytes.get(..end) else {
            return false;
        };
        let words = bytes.chunks(4).map(|word| match word {
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            [a, b] => u32::from_le_bytes([*a, *b, 0, 0]),
            _ => unreachable!("an even number of bytes"),
        });
        sum_of(words, u32_at(bytes, 216)) == u32_at(bytes, 216)
    }

    /// Metadata generation.
    pub fn events(self) -> u64 {
        if let Some(old) = self.old() {
            return old.events();
        }
        u64_at(self.bytes, 200)
    }

    /// Redundancy agrees below this; [`NEVER`]: clean.
    pub fn resync_offset(self) -> u64 {
        if let Some(old) = self.old() {
            return old.resync_offset();
        }
        u64_at(self.bytes, 208)
    }

    /// Whether the superblock says that all redundancy agrees.
    pub fn is_clean(self) -> bool {
        self.resync_offset() == NEVER
    }

    /// Whether hosts avoid to read from this member.
    pub fn is_write_mostly(self) -> bool {
        if let Some(old) = self.old() {
            return old.is_write_mostly();
        }
        self.bytes[184] & 1 != 0
    }

    /// How far this member is rebuilt; `None`: it is in sync. Version 0.90 does not say: who is
    /// not in sync is a spare.
    pub fn recovery_offset(self) -> Option<u64> {
        if let Some(old) = self.old() {
            return old.role(old.number()).is_none().then_some(0);
        }
        (u32_at(self.bytes, 8) & FEATURE_RECOVERY != 0).then(|| u64_at(self.bytes, 152))
    }

    /// Whether its rebuilding is guided by the bitmap.
    pub fn recovery_by_bitmap(self) -> bool {
        !self.old && u32_at(self.bytes, 8) & FEATURE_RECOVERY_BITMAP != 0
    }

    /// Where the bitmap lies, in sectors from the superblock.
    pub fn bitmap_offset(self) -> Option<i32> {
        if let Some(old) = self.old() {
            return old.has_bitmap().then_some(8);
        }
        (u32_at(self.bytes, 8) & FEATURE_BITMAP != 0).then(|| u32_at(self.bytes, 96).cast_signed())
    }

    /// Where the bad-block log lies, in sectors from the superblock, and its length; and whether
    /// there is something in it.
    pub fn bad_block_log(self) -> (i32, u64, bool) {
        if self.old {
            return (0, 0, false);
        }
        let used = u32_at(self.bytes, 8) & FEATURE_BAD_BLOCKS != 0;
        let offset = u32_at(self.bytes, 188).cast_signed();
        (offset, u64::from(u16_at(self.bytes, 186)), used)
    }

    /// This member's device number.
    pub fn number(self) -> u32 {
        if let Some(old) = self.old() {
            return old.number();
        }
        u32_at(self.bytes, 160)
    }

    /// Where array data starts.
    pub fn data_offset(self) -> u64 {
        if self.old {
            return 0;
        }
        u64_at(self.bytes, 128)
    }

    /// Room for array data, where the superblock lies at this sector.
    pub fn data_size(self, super_sector: u64) -> u64 {
        if self.old {
            return super_sector;
        }
        u64_at(self.bytes, 136)
    }

    /// The slot of a device number; `None`: spare, faulty, journal or unused.
    pub fn role(self, number: u32) -> Option<u16> {
        if let Some(old) = self.old() {
            return old.role(number);
        }
        let number = number as usize;
        let known =
            number < u32_at(self.bytes, 220) as usize && 258 + 2 * number <= self.bytes.len();
        let role = known.then(|| u16_at(self.bytes, 256 + 2 * number))?;
        (role < ROLE_SPECIAL).then_some(role)
    }
}

/// The checksum of both versions: words added up, the carry folded in.
fn sum_of(words: impl Iterator<Item = u32>, stored: u32) -> u32 {
    let sum = words.map(u64::from).sum::<u64>() - u64::from(stored);
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// A bad-block log that something is in.
#[derive(Debug, Clone, Copy)]
pub struct LogView {
    /// Its first sector.
    pub sector: u64,
    /// How many sectors it has.
    pub sectors: u64,
}

impl LogView {
    /// The log that a superblock at this sector speaks of, if it says that something is in it.
    pub fn of(superblock: SuperView<'_>, super_at: u64) -> Option<LogView> {
        let (offset, sectors, used) = superblock.bad_block_log();
        let sector = super_at.saturating_add_signed(i64::from(offset));
        used.then_some(LogView { sector, sectors })
    }

    /// The log of a disk, as a reader sees it.
    pub fn on(disk: &SimDisk, super_at: u64) -> Option<LogView> {
        LogView::of(SuperView::new(disk.visible(super_at)?)?, super_at)
    }

    /// Whether it names a sector of the range, as a reader of this disk sees it.
    pub fn names(self, disk: &SimDisk, range: Range<u64>) -> bool {
        self.names_by(|sector| disk.visible(sector), range)
    }

    fn names_by<'a>(self, read: impl Fn(u64) -> Option<&'a [u8]>, range: Range<u64>) -> bool {
        let sectors = (self.sector..self.sector + self.sectors).filter_map(read);
        let entries = sectors.flat_map(|one| one.chunks_exact(8).map(|entry| u64_at(entry, 0)));
        let mut entries = entries.take_while(|entry| *entry != u64::MAX);
        entries
            .any(|entry| entry >> 10 < range.end && range.start < (entry >> 10) + (entry & 0x3ff))
    }
}

/// Whether the bad-block log of a disk names a sector of `from..to`, as a reader sees it.
pub fn is_logged_bad(disk: &SimDisk, super_at: u64, from: u64, to: u64) -> bool {
    LogView::on(disk, super_at).is_some_and(|log| log.names(disk, from..to))
}

/// Whether it names a sector on the medium, as whoever comes after a power cut may see it.
pub fn is_stored_bad(disk: &SimDisk, super_at: u64, sector: u64) -> bool {
    let durable = |at| Some(disk.durable().sector(at));
    let superblock = SuperView::new(disk.durable().sector(super_at));
    let log = superblock.and_then(|superblock| LogView::of(superblock, super_at));
    log.is_some_and(|log| log.names_by(durable, sector..sector + 1))
}

/// Where the superblock of a device lies, in sectors.
pub fn super_sector(minor: u8, device_sectors: u64) -> u64 {
    match minor {
        0 => (device_sectors - 16) & !7,
        1 => 0,
        2 => 8,
        OLD => (device_sectors & !127) - 128,
        other => panic!("no metadata 1.{other}"),
    }
}

/// The shape of a bitmap, from its superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapView {
    /// Sectors per bit.
    pub chunk_sectors: u64,
    /// Bits.
    pub bits: u64,
    /// How many writes may lag on write-mostly members.
    pub write_behind: u32,
    /// Version 6: a byte of state for each region instead of a bit.
    pub states: bool,
    /// The metadata generation it is of.
    pub events: u64,
}

/// What is kept of one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nobody has written it, ever: members may differ.
    Unwritten,
    /// Members agree.
    Agrees,
    /// Members may differ, and a crash or a start has it resynced.
    Set,
}

impl Mark {
    /// What a byte of state says; one that is none of them counts as one that needs a resync.
    fn of_state(byte: u8) -> Mark {
        match byte {
            0 | 5 | 6 => Mark::Unwritten,
            1 | 7 => Mark::Agrees,
            _ => Mark::Set,
        }
    }
}

/// Where one bit, or one state, is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitPlace {
    /// Sector from the start of the bitmap.
    pub sector: u64,
    /// Byte in that sector.
    pub byte: usize,
    /// Mask in that byte; `None`: all of it is a state.
    pub mask: Option<u8>,
}

impl BitPlace {
    /// What a byte found at this place says.
    pub fn mark(self, byte: u8) -> Mark {
        match self.mask {
            None => Mark::of_state(byte),
            Some(mask) if byte & mask != 0 => Mark::Set,
            Some(_) => Mark::Agrees,
        }
    }

    /// Whether a write is allowed there after it found this sector of the bitmap.
    pub fn is_set(self, sector: &[u8]) -> bool {
        self.mark(sector[self.byte]) == Mark::Set
    }
}

impl BitmapView {
    /// A view, if the sector carries a bitmap superblock. `used_sectors` is the part of a member
    /// that the array uses.
    pub fn new(sector: &[u8], used_sectors: u64) -> Option<BitmapView> {
        if u32_at(sector, 0) != BITMAP_MAGIC {
            return None;
        }
        let states = u32_at(sector, 4) == VERSION_LOCKLESS;
        let chunk_sectors = match states {
            true => u64::from(u32_at(sector, 52)),
            false => u64::from(u32_at(sector, 52)) / SECTOR as u64,
        };
        Some(BitmapView {
            chunk_sectors,
            bits: used_sectors.div_ceil(chunk_sectors.max(1)),
            write_behind: u32_at(sector, 60),
            states,
            events: u64_at(sector, 24),
        })
    }

    /// The place of a bit.
    pub fn place(self, bit: u64) -> BitPlace {
        let (byte, mask) = match self.states {
            true => (STATES_AT + bit, None),
            false => (BITS_AT + bit / 8, Some(1 << (bit % 8))),
        };
        BitPlace {
            sector: byte / SECTOR as u64,
            byte: (byte % SECTOR as u64) as usize,
            mask,
        }
    }

    /// The bits kept in a sector of the bitmap.
    pub fn bits_in(self, sector: u64) -> std::ops::Range<u64> {
        let (first, per_byte) = match self.states {
            true => (STATES_AT, 1),
            false => (BITS_AT, 8),
        };
        let at = |byte: u64| (byte.saturating_sub(first) * per_byte).min(self.bits);
        at(sector * SECTOR as u64)..at((sector + 1) * SECTOR as u64)
    }

    /// Sectors of the whole bitmap.
    pub fn len_sectors(self) -> u64 {
        let bytes = match self.states {
            true => STATES_AT + self.bits,
            false => BITS_AT + self.bits.div_ceil(8),
        };
        bytes.div_ceil(SECTOR as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblock_fields_lie_where_the_kernel_puts_them() {
        let mut bytes = [0; SECTOR];
        assert!(SuperView::new(&bytes).is_none());
        bytes[0..4].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9]);
        bytes[4] = 1;
        bytes[8] = 0x83;
        bytes[96..100].copy_from_slice(&(-16i32).to_le_bytes());
        bytes[152..160].copy_from_slice(&4096u64.to_le_bytes());
        bytes[160] = 2;
        bytes[200] = 14;
        bytes[208..216].fill(0xff);
        bytes[220] = 128;
        bytes[256..].fill(0xff);
        bytes[256..262].copy_from_slice(&[0, 0, 0xfe, 0xff, 1, 0]);
        let view = SuperView::new(&bytes).expect("magic");
        assert_eq!(
            (view.events(), view.number(), view.is_clean()),
            (14, 2, true)
        );
        assert_eq!(
            (view.bitmap_offset(), view.recovery_offset()),
            (Some(-16), Some(4096))
        );
        assert!(view.recovery_by_bitmap());
        let roles: Vec<_> = (0..5).map(|n| view.role(n)).collect();
        assert_eq!(roles, [Some(0), None, Some(1), None, None]);
        assert_eq!((view.role(127), view.role(128)), (None, None));
    }

    #[test]
    fn bits_lie_where_the_kernel_puts_them() {
        let mut bytes = [0; SECTOR];
        assert!(BitmapView::new(&bytes, 8192).is_none());
        bytes[0..4].copy_from_slice(b"bitm");
        bytes[52..56].copy_from_slice(&4096u32.to_le_bytes());
        let view = BitmapView::new(&bytes, 8 * 5000).expect("magic");
        assert_eq!((view.chunk_sectors, view.bits), (8, 5000));
        let place = view.place(2048);
        assert_eq!((place.sector, place.byte, place.mask), (1, 0, Some(1)));
        assert_eq!((view.bits_in(0), view.bits_in(1)), (0..2048, 2048..5000));
        assert_eq!(view.len_sectors(), 2);
        for bit in 0..5000 {
            assert!(view.bits_in(view.place(bit).sector).contains(&bit));
        }
    }

    /// Kernel 7.2 writes them so (`umd-format/tests/data`).
    #[test]
    fn states_lie_where_the_kernel_puts_them() {
        let mut bytes = [0; SECTOR];
        bytes[0..4].copy_from_slice(b"bitm");
        bytes[4] = 6;
        bytes[52..56].copy_from_slice(&8u32.to_le_bytes());
        let view = BitmapView::new(&bytes, 8 * 600).expect("magic");
        assert_eq!((view.chunk_sectors, view.bits), (8, 600));
        let place = view.place(513);
        assert_eq!((place.sector, place.byte), (3, 1));
        let bits = [1, 2, 3, 4].map(|sector| view.bits_in(sector));
        assert_eq!(bits, [0..0, 0..512, 512..600, 600..600]);
        assert_eq!(view.len_sectors(), 4);
        let marks: Vec<Mark> = (0..=8).map(|byte| place.mark(byte)).collect();
        use Mark::*;
        let wanted = [
            Unwritten, Agrees, Set, Set, Set, Unwritten, Unwritten, Agrees, Set,
        ];
        assert_eq!(marks, wanted);
    }

    #[test]
    fn superblocks_are_found_by_minor() {
        assert_eq!(super_sector(0, 2048), 2032);
        assert_eq!(super_sector(0, 2055), 2032);
        assert_eq!((super_sector(1, 2048), super_sector(2, 2048)), (0, 8));
        assert_eq!(
            (super_sector(OLD, 2048), super_sector(OLD, 2047)),
            (1920, 1792)
        );
    }
}
