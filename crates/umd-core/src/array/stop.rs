//! Coming to rest: for stop, and for read-only.
//!
//! ```text
//!   Drain -> Bits -> Clean -> Flush -> at rest
//!   host requests end, sync ends at a checkpoint; idle bits are cleared; superblocks say clean
//! ```

use super::engine::Array;
use super::reshape::Reshape;
use crate::value::{Command, ControlError, ControlId, ControlReply, Exhibit, MemberId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Drain,
    Bits,
    Clean,
    /// RAID0, broken arrays and those that waited for a first write have no clean superblock to
    /// write, but caches to flush.
    Flush,
}

/// What an array comes to rest for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// To be over.
    Stop,
    /// To be read-only.
    ReadOnly,
    /// To be read-only until the first write.
    ReadAuto,
}

/// An array on its way to rest.
#[derive(Debug)]
pub(super) struct Stopping {
    id: ControlId,
    /// What for.
    rest: Rest,
    stage: Stage,
}

impl Stopping {
    pub(super) fn is_stop(&self) -> bool {
        self.rest == Rest::Stop
    }

    /// What was begun still comes to its end.
    pub(super) fn is_draining(&self) -> bool {
        self.stage == Stage::Drain
    }
}

impl Array {
    pub(super) fn begin_quiet(&mut self, id: ControlId, rest: Rest) {
        if let Some(other) = &self.stopping {
            let what = if other.is_stop() {
                "stopping"
            } else {
                "becoming read-only"
            };
            let error = ControlError::Busy(format!("the array is already {what}"));
            return self.answer(id, Err(error));
        }
        if rest != Rest::Stop && self.read_only {
            self.read_auto = rest == Rest::ReadAuto;
            return self.answer(id, Ok(ControlReply::Done));
        }
        if rest == Rest::Stop {
            self.lift_suspension();
        }
        self.sync.interrupt();
        self.stopping = Some(Stopping {
            id,
            rest,
            stage: Stage::Drain,
        });
    }

    pub(super) fn maintain_stop(&mut self) -> bool {
        let Some(stopping) = &self.stopping else {
            return false;
        };
        if self.regrade.is_some() {
            return false;
        }
        match stopping.stage {
            Stage::Drain => {
                let moves = self.reshape.as_ref().is_some_and(Reshape::is_moving);
                if !self.lane.is_idle() || self.sync_is_awaited() || moves {
                    return false;
                }
                // Bits may go only when nothing is left to be recorded.
                if self.may_write() && !self.metadata.is_quiet() {
                    return false;
                }
                if self.may_write() {
                    self.bitmap.want_final_clear();
                }
                self.set_stage(Stage::Bits);
            }
            Stage::Bits => {
                if self.may_write() && !self.bitmap.is_quiet() {
                    return false;
                }
                if self.may_write() {
                    self.metadata.want_clean();
                }
                self.set_stage(Stage::Clean);
            }
            Stage::Clean => {
                let rest = self.metadata.is_clean() && self.metadata.is_quiet();
                if self.may_write() && !(rest && self.bitmap.is_quiet()) {
                    return false;
                }
                if !self.metadata.may_flush() {
                    return false;
                }
                if self.leaves_in_caches() {
                    self.metadata.flush_at_rest(&mut self.io, &self.members);
                }
                self.set_stage(Stage::Flush);
            }
            Stage::Flush => {
                if !self.metadata.may_flush() {
                    return false;
                }
                self.at_rest();
            }
        }
        true
    }

    /// Whether no clean superblock was written, so that nothing has flushed what hosts wrote last.
    fn leaves_in_caches(&self) -> bool {
        if self.inherits {
            // U65: who was started and stopped without a write trusted who was killed before.
            return !self.io.museum.on(Exhibit::U65);
        }
        let unflushed = self.geometry.redundancy() == 0 || self.broken.is_some();
        // U16: an array without a clean superblock to write stopped with data in caches.
        unflushed && !self.read_only && !self.io.museum.on(Exhibit::U16)
    }

    /// Whether a sync has to come to its end first.
    fn sync_is_awaited(&self) -> bool {
        // U46: a sync action was told to end and not waited for: what it had read it wrote later.
        let stops = self.stopping.as_ref().is_some_and(Stopping::is_stop);
        let careless = self.io.museum.on(Exhibit::U46) && !stops;
        self.sync.running().is_some() && !careless
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(stopping) = &mut self.stopping {
            assert!(stopping.stage < stage, "the way to rest goes one way");
            stopping.stage = stage;
        }
    }

    fn at_rest(&mut self) {
        let stopping = self
            .stopping
            .take()
            .expect("only called on the way to rest");
        let syncs = self.sync.running().is_some() && !self.io.museum.on(Exhibit::U46);
        assert!(!syncs, "at rest with a sync under way");
        if !stopping.is_stop() {
            self.read_only = true;
            self.read_auto = stopping.rest == Rest::ReadAuto;
            return self.answer(stopping.id, Ok(ControlReply::Done));
        }
        assert!(self.lane.is_idle(), "stopped with a host waiting");
        let flying = self.may_write() && self.io.in_flight() > 0;
        assert!(!flying, "stopped with I/O under way");
        let members: Vec<MemberId> = self.members.iter().map(|m| m.id).collect();
        for member in members {
            self.io.out.push(Command::Release(member));
        }
        self.answer(stopping.id, Ok(ControlReply::Done));
        self.io.out.push(Command::Stopped);
        self.stopped = true;
    }
}
