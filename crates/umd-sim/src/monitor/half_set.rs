//! Bits that a crash has left set on some members only.
//!
//! ```text
//!   power cut while a bit was being set, or cleared:   m0: 0   m1: 1   m2: 1
//!   it has allowed no write; the array reads m0, knows nothing of it, and writes 0 one day
//! ```
//!
//! As long as all three are there, the rule about clearing sees that m0 lacks the bit. When m0 is
//! lost meanwhile, it must be remembered.

use umd_core::array::MemberIo;

use super::{Monitor, Scene, touched};
use crate::metaview::Mark;
use crate::stamp::SECTOR;

impl Monitor {
    /// The array has been assembled and nothing was written yet.
    pub fn note_half_set(&mut self, scene: Scene<'_>) {
        let bitmaps: Vec<_> = self
            .in_sync(scene.status)
            .filter_map(|(_, _, view)| self.bitmap(view, scene.disks))
            .collect();
        let Some(first) = bitmaps.first() else {
            return;
        };
        let half = |bit: &u64| {
            let set = bitmaps.iter().filter(|one| one.is_set(scene.disks, *bit));
            (1..bitmaps.len()).contains(&set.count())
        };
        self.half_set = (0..first.shape.bits).filter(half).collect();
    }

    /// Whether a crash has left this bit on some members only, and nobody has set it since.
    pub fn is_half_set(&self, bit: u64) -> bool {
        self.half_set.contains(&bit)
    }

    /// A piece of a bitmap is about to be written: what is set in it counts from now on.
    pub(super) fn learn_bits(&mut self, scene: Scene<'_>, io: &MemberIo) {
        if self.half_set.is_empty() {
            return;
        }
        let view = &self.members[&io.member];
        let (Some(bitmap), Some((range, true))) = (self.bitmap(view, scene.disks), touched(&io.op))
        else {
            return;
        };
        let Some(bytes) = super::metadata::bytes_of(&io.op) else {
            return;
        };
        self.half_set.retain(|&bit| {
            let place = bitmap.shape.place(bit);
            let sector = bitmap.sector + place.sector;
            if !range.contains(&sector) {
                return true;
            }
            let at = (sector - range.start) as usize * SECTOR + place.byte;
            place.mark(bytes[at]) != Mark::Set
        });
    }
}
