//! Bitmaps of more than one sector: bits of small ones lie in the sector of their superblock, and
//! travel with it.

use super::Options;

/// Disks of this size have more regions of 4 KiB than bits in the first sector of a bitmap.
pub(super) const LONG_SECTORS: u64 = 18_432 + 320;

impl Options {
    /// A resync of thousands of regions at each boot takes more time than twenty other seeds, and
    /// finds nothing that one of a smaller array does not find.
    pub(super) fn begin_in_sync(&mut self) {
        if self.workload.hot_sectors == 0 {
            self.workload.hot_sectors = 256;
        }
        if self.missing == 0 {
            (self.old_disks, self.assume_clean) = (false, true);
        }
    }
}
