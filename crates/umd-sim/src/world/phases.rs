//! From work to rest: settling, reading back, stopping, and what must hold then.

use umd_core::array::{ArrayState, MemberRole};
use umd_core::value::Instant;

use super::admin::Request;
use super::host::{Kind, Plan};
use super::{Ev, World};
use crate::disk::Power;
use crate::metaview::{BitmapView, SuperView, super_sector};
use crate::monitor::{Rule, Scene, Verdict, Violation};
use crate::options::{Ending, Trigger};

/// What a boot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Hosts work, things break.
    Work {
        /// Hosts have done what they wanted.
        over: bool,
    },
    /// Nothing breaks any more: everything pending must end.
    Settle {
        /// Since when.
        since: Instant,
        /// Polls in a row that found nothing to wait for.
        calm: u8,
    },
    /// The whole array is read.
    ReadBack {
        /// The next sector.
        next: u64,
        /// A member was taken out for it.
        degraded: bool,
    },
    /// The array was asked to stop.
    Stopping {
        /// When.
        since: Instant,
        /// Everything was in order when it was asked.
        settled: bool,
    },
    /// The power is going.
    Ending,
    /// What happens is said from outside.
    Manual,
}

impl Phase {
    pub(super) fn is_work(self) -> bool {
        matches!(self, Phase::Work { .. })
    }

    pub(super) fn is_stopping(self) -> bool {
        matches!(self, Phase::Stopping { .. } | Phase::Ending)
    }
}

const SECOND: u64 = 1_000_000_000;
/// All that is pending must be answered in this time once nothing breaks any more.
const ANSWER_SECONDS: u64 = 600;
/// Syncing must be over in this time.
const SYNC_SECONDS: u64 = 4 * 3600;
/// A stop must be over in this time.
const STOP_SECONDS: u64 = 600;
/// The state of a region that has to be resynced.
const NEED_SYNC: u8 = 3;
/// Sectors of one read when everything is read back.
const READ_SECTORS: u64 = 128;

fn late<T>(text: String) -> Result<T, Violation> {
    Err(Violation::new(Rule::Liveness, text))
}

impl World<'_> {
    fn seconds_since(&self, then: Instant) -> u64 {
        (self.now - then).as_secs()
    }

    pub(super) fn is_last_boot(&self) -> bool {
        usize::from(self.boot) + 1 == self.options.boots.len()
    }

    pub(super) fn poll(&mut self) -> Verdict {
        match self.live().phase {
            Phase::Work { over: false } => {
                if self.is_program_busy() {
                    return Ok(());
                }
                let live = self.live();
                let busy = live.clients.iter().any(|client| client.left > 0)
                    || live
                        .pending
                        .values()
                        .any(|pending| pending.client.is_some());
                if busy { Ok(()) } else { self.work_over() }
            }
            Phase::Work { over: true } | Phase::Ending | Phase::Manual => Ok(()),
            Phase::Settle { since, calm } => self.poll_settle(since, calm),
            Phase::ReadBack { next, degraded } => self.poll_read_back(next, degraded),
            Phase::Stopping { since, .. } => {
                if self.seconds_since(since) >= STOP_SECONDS {
                    return late(format!("stopping takes too long: {}", self.dump()));
                }
                self.after(STOP_SECONDS * SECOND, Ev::Poll);
                Ok(())
            }
        }
    }

    fn work_over(&mut self) -> Verdict {
        self.live_mut().phase = Phase::Work { over: true };
        self.note(format_args!("hosts are done"));
        self.record_over();
        match self.is_tardy() {
            true => self.begin_tardily(),
            false => self.end_work(),
        }
    }

    /// What comes when hosts are done.
    pub(super) fn end_work(&mut self) -> Verdict {
        let (ending, trigger) = self.options.boots[usize::from(self.boot)];
        match (ending, trigger) {
            (Ending::Stop, _) => self.settle(),
            (_, Trigger::Stop(delay)) => {
                self.end_after(delay);
                self.stop(false)
            }
            (_, Trigger::Idle(delay)) => {
                self.end_after(delay);
                Ok(())
            }
            _ => {
                let delay = self.fault_rng.spread(5_000_000);
                self.end_after(delay);
                Ok(())
            }
        }
    }

    /// The boot ends as it was drawn.
    pub(super) fn end_begins(&mut self) -> Verdict {
        let (ending, _) = self.options.boots[usize::from(self.boot)];
        self.record_end();
        match ending {
            Ending::Stop => {}
            Ending::Kill => self.crash(false),
            Ending::PowerCut { window_ns } => {
                if self.live().phase == Phase::Ending {
                    return Ok(());
                }
                self.live_mut().phase = Phase::Ending;
                for disk in 0..self.disks.len() {
                    let delay = self.fault_rng.range(0, window_ns);
                    self.after(delay, Ev::DiskOff(disk));
                }
                let delay = self.fault_rng.range(0, window_ns);
                self.after(delay, Ev::HostOff);
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Verdict {
        self.note(format_args!("settling"));
        for disk in &mut self.disks {
            disk.disarm();
        }
        let since = self.now;
        let live = self.live_mut();
        live.phase = Phase::Settle { since, calm: 0 };
        let (read_only, frozen) = (live.read_only, live.frozen);
        self.after(SECOND, Ev::Poll);
        if read_only {
            self.ask(Request::ReadWrite)?;
        }
        if frozen {
            self.ask(Request::Thaw)?;
        }
        if self.options.limits {
            self.ask(Request::Unlimit)?;
        }
        self.relent()?;
        if !self.is_last_boot() && self.fault_rng.coin() {
            return self.stop(false);
        }
        Ok(())
    }

    /// Whether anything is still to be done by the array itself.
    pub(super) fn is_syncing(&self) -> bool {
        let live = self.live();
        let status = &live.status;
        let role = |wanted: fn(&MemberRole) -> bool| status.members.iter().any(|m| wanted(&m.role));
        let recovering = role(|r| matches!(r, MemberRole::Recovering { .. }));
        let spare_needed = status.degraded > 0 && role(|r| *r == MemberRole::Spare);
        let doubtful = self.geometry.level <= 0 || self.atlas.exceeded();
        !doubtful
            && (status.sync.is_some()
                || status.reshape.is_some()
                || status.sync_pending
                || recovering
                || spare_needed)
    }

    fn poll_settle(&mut self, since: Instant, calm: u8) -> Verdict {
        let waited = self.seconds_since(since);
        let live = self.live();
        let waiting = !live.pending.is_empty() || !live.admin.is_empty();
        if waiting && waited > ANSWER_SECONDS {
            return late(format!("requests are not answered: {}", self.dump()));
        }
        let syncing = self.is_syncing();
        if syncing && waited > SYNC_SECONDS {
            return late(format!("syncing does not end: {}", self.dump()));
        }
        let calm = if waiting || syncing { 0 } else { calm + 1 };
        self.live_mut().phase = Phase::Settle { since, calm };
        if calm < 3 {
            let pause = if waited < 60 { SECOND } else { 10 * SECOND };
            self.after(pause, Ev::Poll);
            return Ok(());
        }
        if self.is_last_boot() || self.fault_rng.coin() {
            self.read_back(false)
        } else {
            self.stop(true)
        }
    }

    fn read_back(&mut self, degraded: bool) -> Verdict {
        self.note(format_args!(
            "reading back{}",
            if degraded { ", degraded" } else { "" }
        ));
        self.live_mut().phase = Phase::ReadBack { next: 0, degraded };
        self.poll_read_back(0, degraded)
    }

    fn poll_read_back(&mut self, next: u64, degraded: bool) -> Verdict {
        if !self.live().pending.is_empty() {
            return Ok(());
        }
        let end = self.geometry.array_sectors();
        if next >= end {
            return self.read_back_over(degraded);
        }
        let range = next..(next + READ_SECTORS).min(end);
        self.live_mut().phase = Phase::ReadBack {
            next: range.end,
            degraded,
        };
        let kind = Kind::Read;
        let plan = Plan {
            kind,
            zero: false,
            range,
        };
        self.request(None, plan)
    }

    fn read_back_over(&mut self, degraded: bool) -> Verdict {
        let wanted = !degraded && self.geometry.level > 0 && !self.atlas.exceeded();
        if wanted && self.is_last_boot() && self.fault_rng.coin() {
            let members = self.in_sync();
            let (slot, disk) = self.fault_rng.pick(&members);
            if self.doom(disk) {
                let live = self.live();
                let member = live.members.iter().find(|(_, d)| **d == disk);
                let member = *member.expect("a disk of a member").0;
                self.note(format_args!("taking out slot {slot}"));
                self.ask(Request::Fail(member))?;
                return self.read_back(true);
            }
        }
        self.stop(!degraded)
    }

    pub(super) fn stop(&mut self, settled: bool) -> Verdict {
        let since = self.now;
        self.live_mut().phase = Phase::Stopping { since, settled };
        self.after(STOP_SECONDS * SECOND, Ev::Poll);
        self.ask(Request::Stop)
    }

    /// The engine says that it has stopped. The boot ends when its commands are carried out.
    pub(super) fn stopped(&mut self) -> Verdict {
        let live = self.live.as_mut().expect("an array is running");
        let scene = Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        };
        live.monitor.note_stopped(scene)?;
        if !(live.pending.is_empty() && live.admin.is_empty()) {
            return late(format!("stopped with requests unanswered: {}", self.dump()));
        }
        self.rouse_the_stopped()
    }

    pub(super) fn boot_over(&mut self) -> Verdict {
        self.note(format_args!("stopped"));
        if self.atlas.exceeded() || self.runs_alone() {
            // Members that are gone may have held answered writes in their caches; and what a leg
            // was given that ran alone is lost with it, however it ended.
            self.oracle.crashed(true);
        } else {
            self.let_go_of_unlanded();
            self.oracle.stopped();
        }
        self.prune_holes();
        let settled = matches!(self.live().phase, Phase::Stopping { settled: true, .. });
        if settled && !self.atlas.exceeded() && self.geometry.level > 0 {
            self.check_media()?;
            self.check_metadata_at_rest()?;
        }
        self.after_stop();
        Ok(())
    }

    /// Redundancy agrees on the media.
    fn check_media(&self) -> Verdict {
        let live = self.live();
        let scene = Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        };
        live.monitor.check_parity_at_rest(scene)
    }

    /// A settled array that was stopped is clean, and so is its bitmap.
    fn check_metadata_at_rest(&self) -> Verdict {
        let live = self.live();
        live.monitor.check_file_at_rest(Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        })?;
        let broken = |text: String| Err(Violation::new(Rule::Clear, text));
        if live.status.state == ArrayState::Broken {
            return broken("stopped as broken".into());
        }
        let whole = self.in_sync().len() == usize::from(self.geometry.slots);
        // A member that missed the last update, and nothing else, is not asked.
        let events = |disk: usize| {
            let at = super_sector(self.options.minor, self.disks[disk].sectors());
            SuperView::on_medium(&self.disks[disk], at).map_or(0, SuperView::events)
        };
        let newest = self.in_sync().iter().map(|(_, disk)| events(*disk)).max();
        let newest = newest.unwrap_or(0);
        for (slot, disk) in self.in_sync() {
            if self.disks[disk].power() != Power::On {
                continue;
            }
            let medium = self.disks[disk].durable();
            let at = super_sector(self.options.minor, medium.sectors());
            let Some(sb) = SuperView::on_medium(&self.disks[disk], at) else {
                return broken(format!("no superblock in slot {slot}"));
            };
            if sb.events() < newest {
                continue;
            }
            if !sb.is_clean() {
                let text = format!("slot {slot} says in sync below {}", sb.resync_offset());
                return broken(format!("stopped at rest, but {text}"));
            }
            let Some(offset) = sb.bitmap_offset() else {
                continue;
            };
            let start = at
                .checked_add_signed(i64::from(offset))
                .expect("on the disk");
            let used = self.geometry.walk_sectors();
            let Some(bitmap) = BitmapView::new(medium.sector(start), used) else {
                return broken(format!("no bitmap in slot {slot}"));
            };
            let set = (0..bitmap.bits).find(|&bit| {
                let place = bitmap.place(bit);
                let sector = medium.sector(start + place.sector);
                // What was written for the first time may still wait for the rest of its region.
                let waits = bitmap.states && sector[place.byte] == NEED_SYNC;
                // What a crash has left on some members only may stay there till it is written.
                let half = self.live().monitor.is_half_set(bit);
                place.is_set(sector) && !waits && !half
            });
            if let (Some(bit), true) = (set, whole)
                && self.must_be_clear(bit)
            {
                return broken(format!(
                    "stopped at rest, but bit {bit} is set in slot {slot}"
                ));
            }
        }
        Ok(())
    }
}
