//! Moments at which members tell of different arrays: a change is on some of them, and on others
//! not yet.
//!
//! ```text
//!   superblock of   A  --old--|=======new=======   landed
//!                   B  --old----------|===new===   on its way
//!                   C  --old-----|======new=====
//!                             ^  ^    the power goes here, or crash images are drawn here
//! ```
//!
//! An update of superblocks takes a moment, and few of them change what the array is: at random the
//! power hardly ever goes there. What it leaves then has to be one array, and to stay one when
//! hosts write, and when a member is missing that knew better.

use super::World;
use crate::metaview::{Shape, Way};
use crate::options::Trigger;

/// What a superblock says of the whole array.
type Told = (Option<Shape>, Option<Way>);

/// Of 1000 crashes after so many a member stays away, where redundancy covers that.
const AWAY_PERMILLE: u64 = 150;

impl World<'_> {
    fn tells(&self, disk: usize) -> Option<Told> {
        self.with_super(&self.disks[disk], |sb| (sb.shape(), sb.reshape()))
    }

    /// A superblock has landed on a disk. Where members disagree now on what the array is, or how
    /// far a reshape has come, the boot may end, or crash images are drawn.
    pub(super) fn superblock_landed(&mut self, disk: usize) {
        let Some(mine) = self.tells(disk) else {
            return;
        };
        let others = self
            .in_sync()
            .into_iter()
            .filter(|(_, other)| *other != disk);
        let others: Vec<Told> = others.filter_map(|(_, other)| self.tells(other)).collect();
        if others.iter().all(|other| *other == mine) {
            return;
        }
        let of_shape = others.iter().any(|other| other.0 != mine.0);
        let (_, trigger) = self.options.boots[usize::from(self.boot)];
        let split = &mut self.live_mut().split;
        split.moves += 1;
        split.shapes += u64::from(of_shape);
        let due = match trigger {
            Trigger::SplitShape(nth) => of_shape && split.shapes == nth,
            Trigger::SplitMove(nth) => split.moves == nth,
            _ => false,
        };
        if due {
            self.end_after(0);
        }
        if of_shape {
            self.tempt_between_shapes();
        }
    }

    /// Who is here before a crash, and may be missing after it.
    pub(super) fn may_stay_away(&mut self) -> Option<usize> {
        let members = self.in_sync();
        if !self.options.rare.levels || self.manual.on || members.is_empty() {
            return None;
        }
        let drawn = self.fault_rng.permille(AWAY_PERMILLE);
        let (_, disk) = self.fault_rng.pick(&members);
        let covered = drawn && self.covers_loss(disk) && self.doom(disk);
        covered.then_some(disk)
    }

    /// Whether it is missing indeed: not where the crash leaves parity in doubt.
    pub(super) fn stays_away(&mut self, disk: usize) -> bool {
        let sure = self.atlas.holes.is_empty();
        if sure {
            self.note(format_args!("disk {disk} stays away"));
        }
        sure
    }
}

/// How often members were seen to tell of different arrays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Of any kind.
    moves: u64,
    /// Of another level, layout or number of slots.
    shapes: u64,
}
