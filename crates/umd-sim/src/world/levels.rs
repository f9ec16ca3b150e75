//! Levels and layouts that change while hosts are at work.
//!
//! ```text
//!   administrator --number--> LevelWish --> engine --status--> the geometry in force here
//! ```
//!
//! Hosts see one array all the time: their registers are array sectors. Where those lie follows
//! from what the engine says it is doing, and the monitor holds that against the superblocks.

use umd_core::array::{LayoutWish, LevelWish};
use umd_core::sync::SyncAction;
use umd_format::Level;

use super::World;
use super::admin::Request;
use crate::layout::{Geometry, Known, Moving};
use crate::monitor::{Rule, Scene, Verdict, Violation};

/// In a number: the layout is not said.
const DEFAULT: u32 = 255;
/// In a number: what needs no reshape.
const PRESERVE: u32 = 254;

/// A change as a number: level, layout, and whether it may leave members missing.
pub(crate) fn number_of(level: u32, layout: Option<u32>, force: bool) -> u32 {
    level | layout.unwrap_or(DEFAULT) << 8 | u32::from(force) << 16
}

fn level_of(number: u32) -> i32 {
    (number & 0xff).cast_signed()
}

/// The change that a number means.
pub(super) fn wish_of(number: u32) -> LevelWish {
    LevelWish {
        level: Level::from_raw(level_of(number)),
        layout: match number >> 8 & 0xff {
            DEFAULT => LayoutWish::Default,
            PRESERVE => LayoutWish::Preserve,
            layout => LayoutWish::Number(layout),
        },
        coming: 0,
        force: number >> 16 & 1 == 1,
    }
}

/// Members that an array of this level may lose.
fn redundancy_of(level: i32) -> u16 {
    match level {
        4 | 5 => 1,
        6 => 2,
        _ => 0,
    }
}

impl World<'_> {
    /// What the array is to become, if its members allow that.
    pub(super) fn choose_level(&mut self) -> Option<Request> {
        let own = self.live().status.level;
        let rng = &mut self.admin_rng;
        let level: u32 = match own {
            0 => rng.pick(&[4, 5, 5]),
            4 => rng.pick(&[0, 5, 5]),
            5 => rng.pick(&[5, 5, 5, 6, 6, 0, 4]),
            6 => rng.pick(&[6, 6, 5, 5]),
            _ => return None,
        };
        let number = match level {
            6 => rng.pick(&[0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20]),
            _ => rng.pick(&[0, 1, 2, 3, 4, 5]),
        };
        let layout = match rng.weighted(&[4, 1, 1]) {
            _ if level.cast_signed() == own => Some(number),
            0 => None,
            1 => Some(PRESERVE),
            _ => Some(number),
        };
        let force = rng.permille(600);
        let number = number_of(level, layout, force);
        self.may_become(number).then_some(Request::Level(number))
    }

    /// What could not be done now is asked for again.
    pub(super) fn ask_again_to_become(&mut self, number: u32) {
        if self.live().phase.is_work() && self.live().actions_left > 0 && self.program.is_none() {
            self.live_mut().actions_left -= 1;
            let base = self
                .admin_rng
                .pick(&[10_000_000, 1_000_000_000, 20_000_000_000]);
            let pause = self.admin_rng.spread(base);
            self.undo_after(pause, Request::Level(number));
        }
    }

    /// Whether redundancy covers all that is broken, or may be, when the array has become this one.
    pub(super) fn may_become(&self, number: u32) -> bool {
        let left = redundancy_of(level_of(number));
        if left >= self.geometry.redundancy() || self.atlas.exceeded() {
            return true;
        }
        let slots = usize::from(self.geometry.slots);
        self.sound() + usize::from(left) >= slots
            && self.atlas.doomed.is_empty()
            && self.is_recorded()
            && !self.any_damage()
    }

    /// Members that may be lost once all changes are over that are on their way.
    pub(super) fn redundancy_to_be(&self) -> u16 {
        let Some(live) = self.live.as_ref().filter(|_| self.options.rare.levels) else {
            return u16::MAX;
        };
        let asked = live.admin.values().filter_map(|request| match request {
            Request::Level(number) => Some(level_of(*number)),
            _ => None,
        });
        let least = asked.chain(live.aim).map(redundancy_of).min();
        least.unwrap_or(u16::MAX)
    }

    /// Whether a level with redundancy has become one without.
    pub(super) fn is_bare(&self) -> bool {
        self.options.rare.levels && self.geometry.level == 0
    }

    /// What rows are, by what the engine says.
    fn geometry_in_force(&self) -> Geometry {
        let status = &self.live().status;
        let (old, slots) = (&self.geometry, usize::from(status.raid_disks));
        let bare = (old.level == 0) != (status.level == 0);
        let member_sectors = match () {
            () if bare => vec![old.used_sectors(); slots],
            () if slots != old.member_sectors.len() => vec![old.member_sectors[0]; slots],
            () => old.member_sectors.clone(),
        };
        let mut new = Geometry {
            level: status.level,
            layout: status.layout,
            slots: status.raid_disks,
            chunk_sectors: old.chunk_sectors,
            member_sectors,
            moving: None,
            known: Known::default(),
        };
        new.moving = status.reshape.as_ref().map(|reshape| Moving {
            layout: reshape.new_layout.cast_signed(),
            frontier: reshape.position_sectors / new.data_slots(),
            backwards: reshape.backwards,
            by: self.moves_by(),
        });
        new
    }

    /// By how much data is moved, as superblocks say.
    fn moves_by(&self) -> i64 {
        let said = self.in_sync().into_iter().find_map(|(_, disk)| {
            let way = self.with_super(&self.disks[disk], |sb| sb.reshape());
            way.flatten().map(|way| way.by).filter(|by| *by != 0)
        });
        said.unwrap_or(0)
    }

    fn count_change(&mut self, old: &Geometry) {
        let new = &self.geometry;
        let other = (old.level, old.layout) != (new.level, new.layout);
        self.counts.changes += u64::from(other);
        self.counts.moves += u64::from(old.moving != new.moving && new.moving.is_some());
    }

    /// The array has been started, as whatever superblocks say it is.
    pub(super) fn begin_to_follow(&mut self) -> Verdict {
        if self.live().status.level == 0 {
            // It has no use for a bitmap.
            self.file_id = None;
        }
        if self.options.rare.levels {
            self.live_mut().monitor.expect_changes();
        }
        self.follow_shape()
    }

    /// The array may have become another one, or a reshape may have come further.
    pub(super) fn follow_shape(&mut self) -> Verdict {
        if !self.options.rare.levels {
            return Ok(());
        }
        let status = &self.live().status;
        let aim = match (&status.reshape, &status.sync) {
            (Some(reshape), _) => reshape.then_level,
            // Between the end of a reshape and a takeover.
            (None, Some(sync)) if sync.action == SyncAction::Reshape => self.live().aim,
            _ => None,
        };
        self.live_mut().aim = aim;
        let new = self.geometry_in_force();
        if new.array_sectors() != self.geometry.array_sectors() {
            let text = format!("the array has another size: {new:?}, {:?}", self.geometry);
            return Err(Violation::new(Rule::Reshape, text));
        }
        let live = self.live.as_mut().expect("an array is running");
        if new != self.geometry || live.events == 0 {
            let scene = Scene {
                disks: &self.disks,
                status: &live.status,
                oracle: &self.oracle,
            };
            live.monitor.follow(scene, new.clone())?;
            let old = std::mem::replace(&mut self.geometry, new);
            self.count_change(&old);
        }
        Ok(())
    }
}
