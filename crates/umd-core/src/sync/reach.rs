//! From where to where sync actions go: md's `sync_min` and `sync_max`.
//!
//! ```text
//!   0 ...... from ============> to ........ end
//!            check and repair   whatever runs waits here until it is raised
//!            begin here
//! ```

use super::run::{Ended, Outcome};
use crate::value::{MAX_SECTOR, SyncAction, SyncLimits};

/// The two ends, in sectors of the range that is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Check and repair begin here.
    pub from: u64,
    /// Whatever runs waits here. `MAX_SECTOR`: nowhere.
    pub to: u64,
}

impl Reach {
    /// All of it.
    pub const ALL: Reach = Reach {
        from: 0,
        to: MAX_SECTOR,
    };

    /// With what an administrator changed.
    ///
    /// # Errors
    /// One sentence, when it makes no sense: `grain` is what both have to be a multiple of, `end`
    /// the end of the longest walk.
    pub fn with(self, wish: &SyncLimits, grain: u64, end: u64) -> Result<Reach, String> {
        assert!(grain > 0, "sectors are counted in something");
        let reach = Reach {
            from: wish.from_sectors.unwrap_or(self.from),
            to: wish.to_sectors.unwrap_or(self.to),
        };
        let given = [
            ("sync_min", wish.from_sectors),
            ("sync_max", wish.to_sectors.filter(|to| *to != MAX_SECTOR)),
        ];
        for (name, sectors) in given {
            let Some(sectors) = sectors else { continue };
            if sectors > end {
                return Err(format!(
                    "{name} {sectors} lies behind the end, which is sector {end}"
                ));
            }
            if !sectors.is_multiple_of(grain) && sectors != end {
                return Err(format!(
                    "{name} {sectors} is no multiple of {grain} sectors, which is what this array \
                     is synced by"
                ));
            }
        }
        if reach.from > reach.to {
            let Reach { from, to } = reach;
            return Err(format!("sync_min {from} lies behind sync_max {to}"));
        }
        Ok(reach)
    }

    /// md's after-effects: what is over needs no limits any more, and a check or repair that was
    /// cut short goes on where it was.
    pub fn after(&mut self, ended: &Ended, grain: u64) {
        let asked = matches!(ended.action, SyncAction::Check | SyncAction::Repair);
        match ended.outcome {
            Outcome::Complete => {
                self.to = MAX_SECTOR;
                self.from = if asked { 0 } else { self.from };
            }
            _ if asked => self.from = ended.reached - ended.reached % grain,
            _ => {}
        }
        assert!(self.from <= self.to, "nothing runs past where it waits");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(from: Option<u64>, to: Option<u64>) -> SyncLimits {
        SyncLimits {
            from_sectors: from,
            to_sectors: to,
            ..SyncLimits::default()
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let with = |from, to| Reach::ALL.with(&wish(from, to), 16, 1000);
        assert_eq!(with(Some(32), Some(64)), Ok(Reach { from: 32, to: 64 }));
        assert_eq!(with(Some(64), Some(64)), Ok(Reach { from: 64, to: 64 }));
        assert!(with(Some(64), Some(48)).is_err());
        assert!(with(Some(8), None).is_err());
        assert!(with(None, Some(24)).is_err());
        assert!(with(Some(1008), None).is_err());
        assert!(with(None, Some(1008)).is_err());
        assert_eq!(with(None, Some(1000)), Ok(Reach { from: 0, to: 1000 }));
        let some = Reach { from: 32, to: 64 };
        assert!(some.with(&wish(None, Some(16)), 16, 1000).is_err());
        assert!(some.with(&wish(Some(80), None), 16, 1000).is_err());
        let all = some.with(&wish(Some(0), Some(MAX_SECTOR)), 16, 1000);
        assert_eq!(all, Ok(Reach::ALL));
    }

    #[test]
    fn what_ends_leaves_md_s_traces() {
        let ended = |action, outcome| Ended {
            action,
            outcome,
            targets: Vec::new(),
            replaces: false,
            reached: 45,
        };
        let after = |action, outcome| {
            let mut reach = Reach { from: 16, to: 64 };
            reach.after(&ended(action, outcome), 16);
            reach
        };
        let check = SyncAction::Check;
        assert_eq!(after(check, Outcome::Complete), Reach::ALL);
        let cut = after(check, Outcome::Interrupted);
        assert_eq!(cut, Reach { from: 32, to: 64 });
        let resync = after(SyncAction::Resync, Outcome::Interrupted);
        assert_eq!(resync, Reach { from: 16, to: 64 });
        let resync = after(SyncAction::Resync, Outcome::Complete);
        assert_eq!(resync.to, MAX_SECTOR);
    }
}
