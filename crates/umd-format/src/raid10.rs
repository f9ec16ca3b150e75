//! RAID10's layout word.
//!
//! ```text
//!   bits 0-7   8-15   16       17              18
//!        near  far    offset   far sets (old)  far sets
//! ```

/// What the layout word of an array says. (layouts.md section 5)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raid10Layout {
    /// Copies side by side.
    pub near: u16,
    /// Copies of those further down.
    pub far: u16,
    /// Those lie in the next rows, instead of in the next part of the member.
    pub offset: bool,
    /// Slots of a far set: far copies of what lies on them stay on them.
    pub set_slots: u16,
    /// Slots.
    pub raid_disks: u16,
}

impl Raid10Layout {
    /// What a layout word says for so many slots; `None` when it is not one of md's.
    pub fn parse(layout: u32, raid_disks: u16) -> Option<Raid10Layout> {
        let near = (layout & 0xff) as u16;
        let far = (layout >> 8 & 0xff) as u16;
        let copies = u32::from(near) * u32::from(far);
        if copies == 0 || copies > u32::from(raid_disks) {
            return None;
        }
        let set_slots = match layout >> 17 {
            0 => raid_disks,
            1 => raid_disks / far,
            2 => near * far,
            _ => return None,
        };
        Some(Raid10Layout {
            near,
            far,
            offset: layout >> 16 & 1 == 1,
            set_slots,
            raid_disks,
        })
    }

    /// Copies of everything.
    pub fn copies(&self) -> u16 {
        self.near * self.far
    }

    /// Size of an array of such chunks with members of this size. md divides in this order.
    ///
    /// # Panics
    /// When the chunk size is 0.
    pub fn array_sectors(&self, chunk_sectors: u64, dev_sectors: u64) -> u64 {
        let far_chunks = dev_sectors / chunk_sectors / u64::from(self.far);
        let chunks = u128::from(far_chunks) * u128::from(self.raid_disks) / u128::from(self.near);
        let sectors = chunks * u128::from(chunk_sectors);
        u64::try_from(sectors).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_md() {
        let near = Raid10Layout::parse(0x102, 4).expect("a layout");
        assert_eq!((near.near, near.far, near.set_slots), (2, 1, 4));
        assert_eq!(near.array_sectors(8, 83), 160);
        let far = Raid10Layout::parse(0x50302, 7).expect("a layout");
        assert_eq!((far.near, far.far, far.offset), (2, 3, true));
        assert_eq!((far.set_slots, far.copies()), (6, 6));
        assert_eq!(
            Raid10Layout::parse(0x20301, 7).expect("a layout").set_slots,
            2
        );
        let odd = Raid10Layout::parse(0x102, 3).expect("a layout");
        assert_eq!(odd.array_sectors(8, 96), 18 * 8);
        for (layout, disks) in [
            (0, 4),
            (2, 4),
            (0x100, 4),
            (0x105, 4),
            (0x80102, 4),
            (0x60201, 4),
        ] {
            assert_eq!(Raid10Layout::parse(layout, disks), None, "{layout:#x}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_size_stays_too_long() {
        let wide = Raid10Layout::parse(0x101, 256).expect("a layout");
        assert_eq!(wide.array_sectors(8, u64::MAX), u64::MAX);
    }
}
