//! An administrator who plays with md's `sync_min`, `sync_max` and speed limits.
//!
//! A number says all that is asked for at once, so that a program can say it again.

use umd_core::array::{Control, SyncLimits, SyncRequest};
use umd_core::sync::SyncAction;
use umd_core::value::MAX_SECTOR;

use super::admin::Request;
use super::{Ev, World};
use crate::monitor::Verdict;
use crate::rng::{Rng, Stream};

/// Times in a boot.
const LIMITS_PER_BOOT: u64 = 40;

/// What `number` asks for, of an array that is walked in `grains` of `grain_sectors`.
pub(super) fn asked(number: u32, grains: u64, grain_sectors: u64) -> Control {
    let mut rng = Rng::new(u64::from(number), Stream::Setup);
    let rng = &mut rng;
    let sector = |rng: &mut Rng| match rng.permille(20) {
        // Nonsense, mostly.
        true => rng.below(grains * grain_sectors * 2),
        false => rng.below(grains + 1) * grain_sectors,
    };
    let speed = |rng: &mut Rng| match rng.weighted(&[5, 1, 2]) {
        0 => None,
        1 => Some(None),
        _ => Some(Some(rng.pick(&[256, 1024, 4096, 65_536]))),
    };
    let from_sectors = rng.permille(300).then(|| sector(rng));
    let to_sectors = match rng.weighted(&[2, 5, 2]) {
        0 => None,
        1 => Some(sector(rng)),
        _ => Some(MAX_SECTOR),
    };
    let limits = SyncLimits {
        from_sectors,
        to_sectors,
        speed_min_kib_s: speed(rng),
        speed_max_kib_s: speed(rng),
    };
    let wish = match rng.weighted(&[6, 2, 1, 1]) {
        0 => None,
        1 => Some(SyncRequest::Start(SyncAction::Check)),
        2 => Some(SyncRequest::Start(SyncAction::Repair)),
        _ => Some(SyncRequest::Idle),
    };
    Control::Limits(limits, wish)
}

/// No limits any more.
pub(super) fn none() -> Control {
    let limits = SyncLimits {
        from_sectors: None,
        to_sectors: Some(MAX_SECTOR),
        speed_min_kib_s: Some(None),
        speed_max_kib_s: Some(None),
    };
    Control::Limits(limits, None)
}

impl World<'_> {
    /// The boot's first change of limits, where they are played with.
    pub(super) fn plan_limits(&mut self) {
        if self.options.limits && self.program.is_none() {
            self.limit_rng = Rng::new(self.options.seed, Stream::Limits(self.boot));
            self.limits_left = LIMITS_PER_BOOT;
            let pause = self.limit_rng.spread(1_000_000);
            self.after(pause, Ev::Limit);
        }
    }

    /// Limits change. Most changes are asked for while something runs.
    pub(super) fn change_limits(&mut self) -> Verdict {
        if !self.live().phase.is_work() || self.limits_left == 0 {
            return Ok(());
        }
        self.limits_left -= 1;
        let base = self.limit_rng.pick(&[1_000_000, 20_000_000, 500_000_000]);
        let pause = self.limit_rng.spread(base);
        self.after(pause, Ev::Limit);
        let request = Request::Limit(self.limit_rng.below(1 << 20) as u32);
        self.record_action(request);
        self.ask(request)
    }

    /// The control request of a number, for this array.
    pub(super) fn limits_of(&self, number: u32) -> Control {
        let grain = match self.options.level {
            1 => 8,
            _ => u64::from(self.options.chunk_sectors),
        };
        asked(number, self.geometry.walk_sectors() / grain, grain)
    }
}
