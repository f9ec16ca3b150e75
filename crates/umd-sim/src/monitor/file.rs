//! A bitmap in a file of its own: not on a member, not in the superblocks, and not to be missed.
//!
//! ```text
//!   works:   events of the file >= events of superblocks      its bits count
//!   failed:  events of superblocks > events of the file       it is out of date for ever: all bits
//!                                                             count as set when it is next used
//! ```

use umd_core::value::MemberId;

use super::{MemberView, Monitor, Rule, Scene, Verdict, broken};
use crate::disk::SimDisk;
use crate::metaview::{BitmapView, SuperView};

impl Monitor {
    /// The bitmap lies in a file, on this disk.
    pub fn keep_bits_in(&mut self, file: MemberId, disk: usize, disks: &[SimDisk]) {
        let mut view = MemberView::new(disk, 0, false, disks);
        view.bitmap_sector = Some(0);
        self.members.insert(file, view);
        self.file = Some(file);
    }

    /// The file with this identity holds the bitmap no longer.
    pub fn let_go_of_bits(&mut self, file: MemberId) {
        if self.file == Some(file) {
            self.file = None;
            self.note_released(file);
        }
    }

    /// The highest events that the file may carry after a power cut now.
    fn events_in_file(&self, disk: &SimDisk) -> u64 {
        let events = |bytes: &[u8]| {
            BitmapView::new(bytes, self.geometry.walk_sectors()).map_or(0, |found| found.events)
        };
        let cached = disk.cache().range(0, 1).map(|(_, write)| write);
        let flying = disk.writes_in_flight().filter(|w| w.offset_sectors == 0);
        let coming = cached.chain(flying).filter_map(|write| write.content(0));
        coming
            .map(events)
            .fold(events(disk.durable().sector(0)), u64::max)
    }

    /// Whether the superblock of a member makes the file out of date, whatever a crash leaves.
    pub(super) fn outruns_file(&self, scene: Scene<'_>, view: &MemberView) -> bool {
        let Some(file) = self.file else {
            return false;
        };
        let disk = &scene.disks[self.members[&file].disk];
        let events = Monitor::durable_super(view, scene.disks).map_or(0, SuperView::events);
        events > self.events_in_file(disk)
    }

    /// Whether no member in sync believes the file any more.
    pub(super) fn has_lost_file(&self, scene: Scene<'_>) -> bool {
        self.in_sync(scene.status)
            .all(|(_, _, view)| self.outruns_file(scene, view))
    }

    /// An array that came to rest has no bit set, unless its file has failed.
    pub fn check_file_at_rest(&self, scene: Scene<'_>) -> Verdict {
        let mut in_sync = self.in_sync(scene.status);
        let Some((_, _, view)) = in_sync.next() else {
            return Ok(());
        };
        let known = self
            .bitmap(view, scene.disks)
            .filter(|_| self.file.is_some());
        let whole = in_sync.count() + 1 == usize::from(self.geometry.slots);
        let Some(bitmap) = known.filter(|_| whole && !self.outruns_file(scene, view)) else {
            return Ok(());
        };
        let mut bits = 0..bitmap.shape.bits;
        match bits.find(|bit| bitmap.is_set(scene.disks, *bit)) {
            None => Ok(()),
            Some(bit) => {
                let text = format!("stopped at rest, but bit {bit} is set in the file");
                broken(Rule::Clear, text)
            }
        }
    }
}
