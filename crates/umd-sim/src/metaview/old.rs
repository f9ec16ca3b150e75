//! Version 0.90: words of 32 bits, one page of them.
//!
//! ```text
//!   word 0 magic   32 time, state, counts, checksum, events   128 devices, 32 words each   992 own
//! ```
//!
//! Facts: superblocks sections 4 and 11.

use super::{NEVER, sum_of, u32_at};

/// Bytes of a superblock.
pub(super) const BYTES: usize = 4096;
const DEVICES: u32 = 27;
const CHECKSUM_WORD: usize = 38;

const FAULTY: u32 = 1;
const SYNC: u32 = 1 << 2;
const REMOVED: u32 = 1 << 3;
const WRITE_MOSTLY: u32 = 1 << 9;

/// A superblock of version 0.90.
#[derive(Debug, Clone, Copy)]
pub(super) struct Old<'a>(pub(super) &'a [u8]);

impl Old<'_> {
    fn word(self, index: usize) -> u32 {
        u32_at(self.0, 4 * index)
    }

    fn wide(self, index: usize) -> u64 {
        u64::from(self.word(index + 1)) << 32 | u64::from(self.word(index))
    }

    pub(super) fn is_whole(self) -> bool {
        let words = (0..BYTES / 4).map(|index| self.word(index));
        let stored = self.word(CHECKSUM_WORD);
        sum_of(words, stored) == stored
    }

    pub(super) fn events(self) -> u64 {
        self.wide(39)
    }

    pub(super) fn resync_offset(self) -> u64 {
        match self.word(33) & 1 != 0 {
            true => NEVER,
            // A checkpoint counts with the events that it was written with.
            false if self.wide(41) == self.events() => self.word(43).into(),
            false => 0,
        }
    }

    pub(super) fn has_bitmap(self) -> bool {
        self.word(33) & 1 << 8 != 0
    }

    pub(super) fn number(self) -> u32 {
        self.word(992)
    }

    /// The state of a device, and its slot.
    fn device(self, number: u32) -> (u32, u32) {
        if number >= DEVICES {
            return (REMOVED, 0);
        }
        let at = 128 + 32 * number as usize;
        (self.word(at + 4), self.word(at + 3))
    }

    pub(super) fn is_write_mostly(self) -> bool {
        self.device(self.number()).0 & WRITE_MOSTLY != 0
    }

    pub(super) fn role(self, number: u32) -> Option<u16> {
        let (state, slot) = self.device(number);
        let holds = state & SYNC != 0 && state & (FAULTY | REMOVED) == 0;
        holds.then(|| u16::try_from(slot).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::SuperView;
    use super::*;

    #[test]
    fn fields_lie_where_the_kernel_puts_them() {
        let mut words = vec![0u32; BYTES / 4];
        let mut put = |values: &[(usize, u32)]| {
            values.iter().for_each(|(at, value)| words[*at] = *value);
        };
        put(&[(0, 0xa92b_4efc), (2, 90), (33, 256), (39, 7), (40, 1)]);
        // Slot 0 in sync, slot 1 missing, a spare, a faulty one; this is the first.
        put(&[(132, 0x206), (160, 1), (163, 1), (164, 9)]);
        put(&[(192, 2), (195, 2), (224, 3), (227, 3), (228, 1)]);
        put(&[(41, 7), (42, 1), (43, 640)]);
        words[CHECKSUM_WORD] = sum_of(words.iter().copied(), 0);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let view = SuperView::new(&bytes).expect("magic");
        assert!(view.is_whole() && view.is_write_mostly());
        assert_eq!((view.events(), view.number()), ((1 << 32) + 7, 0));
        assert_eq!((view.resync_offset(), view.bitmap_offset()), (640, Some(8)));
        let roles: Vec<_> = (0..5).map(|number| view.role(number)).collect();
        assert_eq!(roles, [Some(0), None, None, None, None]);
        assert_eq!((view.role(27), view.recovery_offset()), (None, None));
        assert_eq!((view.data_offset(), view.data_size(1920)), (0, 1920));
        let mut torn = bytes.clone();
        torn[700] ^= 1;
        assert!(!SuperView::new(&torn).expect("magic").is_whole());
        assert!(
            SuperView::new(&bytes[..512]).is_none(),
            "a page, or nothing"
        );
    }
}
