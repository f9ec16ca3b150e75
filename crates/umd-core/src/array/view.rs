//! The array as others see it.

use super::engine::Array;
use super::status::{ArrayState, BitmapStatus, MemberRole, MemberStatus, Status, SyncStatus};
use crate::member::{Member, State};
use umd_format::Level;

impl Array {
    /// Size of the array.
    pub fn array_sectors(&self) -> u64 {
        self.info.array_sectors
    }

    /// Whether the array has stopped: it handles no event any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// A picture of the array as it is now.
    pub fn status(&self) -> Status {
        let info = &self.info;
        Status {
            state: self.state(),
            uuid: info.uuid,
            set_name: info.name.clone(),
            minor: info.minor,
            level: info.level.to_raw(),
            layout: self.shown_layout(),
            chunk_sectors: info.chunk_sectors,
            raid_disks: info.raid_disks,
            array_sectors: info.array_sectors,
            dev_sectors: info.dev_sectors,
            ctime_seconds: info.ctime_seconds,
            utime_seconds: self.metadata.utime_seconds(),
            events: self.metadata.events(),
            degraded: self.epoch.degraded(),
            members: self.members.iter().map(|m| self.member_status(m)).collect(),
            sync: self.sync_status(),
            sync_pending: self.sync.owes_resync() && self.sync.running().is_none(),
            sync_frozen: self.sync.is_frozen(),
            last_sync: self.sync.last(),
            mismatch_sectors: self.sync.mismatch_sectors(),
            mismatches: self.sync.found().to_vec(),
            bitmap: self.bitmap_status(),
            logical_block_bytes: info.logical_block_bytes,
            requests_in_flight: self.lane.requests_in_flight(),
        }
    }

    fn state(&self) -> ArrayState {
        if self.broken.is_some() {
            ArrayState::Broken
        } else if self.read_only {
            ArrayState::ReadOnly
        } else if self.metadata.is_clean() {
            ArrayState::Clean
        } else {
            ArrayState::Active
        }
    }

    /// RAID0 stores a layout only where it matters; -1 where it does not.
    fn shown_layout(&self) -> i32 {
        match (self.info.level, self.info.layout) {
            (Level::Raid0, 0) => -1,
            (_, layout) => layout as i32,
        }
    }

    fn member_status(&self, member: &Member) -> MemberStatus {
        let fields = &member.superblock.fields;
        MemberStatus {
            id: member.id,
            name: member.name.clone(),
            number: member.number(),
            slot: member.slot.filter(|_| member.is_active()),
            role: match member.state {
                State::InSync => MemberRole::InSync,
                State::Recovering { .. } => MemberRole::Recovering {
                    recovered_sectors: self.cover.done_sectors(member.id),
                },
                State::Spare => MemberRole::Spare,
                State::Faulty => MemberRole::Faulty,
            },
            write_mostly: member.write_mostly,
            data_offset_sectors: fields.data_offset_sectors,
            data_size_sectors: fields.data_size_sectors,
            corrected_read_errors: fields.corrected_reads,
            fault: member.fault.clone(),
        }
    }

    fn sync_status(&self) -> Option<SyncStatus> {
        let run = self.sync.running()?;
        let now = self.io.now().mono;
        let (done, total) = (run.frontier(), run.end());
        Some(SyncStatus {
            action: run.action(),
            done_sectors: done,
            total_sectors: total,
            speed_kib_s: run.speed().kib_per_second(now, done),
            finish_seconds: run.speed().finish_seconds(now, done, total),
        })
    }

    fn bitmap_status(&self) -> Option<BitmapStatus> {
        let (regions, writer) = (self.bitmap.regions()?, self.bitmap.writer()?);
        Some(BitmapStatus {
            offset_sectors: writer.offset_sectors(),
            chunk_bytes: regions.region_sectors() * 512,
            bits: regions.count(),
            dirty_bits: regions.dirty(),
            daemon_sleep_seconds: writer.daemon_sleep_seconds(),
        })
    }
}
