//! The progress display of long work, on stderr.
//!
//! On a terminal one line is updated in place; elsewhere one line is printed every 20 percent
//! (mdadm's `RebuildNN` habit), so that a log stays short.

use crate::doc::SyncDoc;

use super::mdstat;

/// Percent between two lines when stderr is no terminal.
const LINE_EVERY_PERCENT: u64 = 20;

/// Decides what to print next; the caller prints it.
#[derive(Debug)]
pub struct Progress {
    in_place: bool,
    width: usize,
    next_percent: u64,
    action: String,
}

impl Progress {
    /// A display; `in_place` when stderr is a terminal.
    pub fn new(in_place: bool) -> Progress {
        Progress {
            in_place,
            width: 0,
            next_percent: 0,
            action: String::new(),
        }
    }

    /// What to write to stderr for this state, if anything.
    pub fn update(&mut self, name: &str, sync: &SyncDoc) -> Option<String> {
        // Nobody has to parse this: what was not measured is left out.
        let text = match sync.finish_seconds {
            Some(_) => mdstat::progress(sync),
            None => mdstat::how_far(sync),
        };
        let line = format!("{name}: {text}");
        if self.in_place {
            let pad = self.width.saturating_sub(line.len());
            self.width = line.len();
            return Some(format!("\r{line}{}", " ".repeat(pad)));
        }
        if self.action != sync.action {
            self.action.clone_from(&sync.action);
            self.next_percent = 0;
        }
        let percent = sync.percent as u64;
        if percent < self.next_percent {
            return None;
        }
        self.next_percent = percent - percent % LINE_EVERY_PERCENT + LINE_EVERY_PERCENT;
        Some(format!("{line}\n"))
    }

    /// What to write when the work has ended: the line goes, as it says that the work goes on.
    pub fn end(&mut self) -> Option<String> {
        let width = std::mem::take(&mut self.width);
        (self.in_place && width > 0).then(|| format!("\r{}\r", " ".repeat(width)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(percent: u64) -> SyncDoc {
        SyncDoc {
            action: "recover".into(),
            done_sectors: percent * 2048,
            total_sectors: 204_800,
            percent: percent as f64,
            speed_kib_s: 1000,
            finish_seconds: Some(60),
            held: false,
        }
    }

    #[test]
    fn a_log_gets_one_line_every_20_percent() {
        let mut progress = Progress::new(false);
        let printed: Vec<u64> = (0..=100)
            .filter(|percent| progress.update("r5", &sync(*percent)).is_some())
            .collect();
        assert_eq!(printed, [0, 20, 40, 60, 80, 100]);
        assert_eq!(progress.end(), None);
    }

    #[test]
    fn a_new_action_starts_over() {
        let mut progress = Progress::new(false);
        assert!(progress.update("r5", &sync(90)).is_some());
        let mut check = sync(3);
        check.action = "check".into();
        assert!(progress.update("r5", &check).is_some());
    }

    #[test]
    fn nothing_is_said_about_a_speed_that_was_not_measured() {
        let mut sync = sync(0);
        (sync.speed_kib_s, sync.finish_seconds) = (0, None);
        let line = Progress::new(false).update("r5", &sync);
        assert_eq!(
            line.as_deref(),
            Some("r5: [>....................]  recovery =  0.0% (0/102400)\n")
        );
    }

    #[test]
    fn a_terminal_gets_one_line_in_place() {
        let mut progress = Progress::new(true);
        let first = progress.update("r5", &sync(10)).expect("a line");
        assert!(
            first.starts_with("\rr5: [=>...................]  recovery = "),
            "{first}"
        );
        assert!(!first.contains('\n'));
        let wiped = progress.end().expect("the line goes");
        assert_eq!(wiped.trim_matches('\r'), " ".repeat(first.len() - 1));
        assert_eq!(progress.end(), None);
    }
}
