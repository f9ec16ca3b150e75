//! The array as others see it.

use umd_format::v1::DeviceFlags;

use super::engine::Array;
use super::status::{
    ArrayState, BitmapStatus, LimitsStatus, MemberRole, MemberStatus, Status, SyncStatus,
};
use crate::bitmap::Place;
use crate::member::{Member, State};
use crate::value::{MAX_SECTOR, Rungs};
use umd_format::Level;
use umd_format::badblocks::BadRanges;

impl Array {
    /// Size of the array.
    pub fn array_sectors(&self) -> u64 {
        self.info.array_sectors
    }

    /// Whether the array has stopped: it handles no event any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// How long writes stood on the rungs of the ladder since the array was started.
    pub fn rungs(&self) -> &Rungs {
        &self.lane.rungs
    }

    /// A picture of the array as it is now.
    pub fn status(&self) -> Status {
        self.picture(Vec::new(), String::new())
    }

    /// Brings an older picture up to date, in its own memory: for a caller that looks after each
    /// event.
    pub fn refresh(&self, status: &mut Status) {
        let members = std::mem::take(&mut status.members);
        let set_name = std::mem::take(&mut status.set_name);
        *status = self.picture(members, set_name);
    }

    /// A picture of the array, in memory that held an older one.
    fn picture(&self, mut members: Vec<MemberStatus>, mut set_name: String) -> Status {
        let info = &self.info;
        set_name.clone_from(&info.name);
        members.truncate(self.members.iter().count());
        for (index, member) in self.members.iter().enumerate() {
            match members.get_mut(index) {
                Some(old) => {
                    let (name, fault) = (std::mem::take(&mut old.name), old.fault.take());
                    let bad_blocks = std::mem::take(&mut old.bad_blocks);
                    *old = self.member_status(member, name, fault, bad_blocks);
                }
                None => members.push(self.member_status(member, String::new(), None, Vec::new())),
            }
        }
        Status {
            state: self.state(),
            uuid: info.uuid,
            set_name,
            format: info.format,
            preferred_minor: info.preferred_minor,
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
            members,
            sync: self.sync_status().or_else(|| self.reshape_sync_status()),
            reshape: self.reshape_status(),
            sync_pending: self.sync.awaits_resync(self.epoch.degraded() > 0),
            resync_from_sectors: self.resync_from_sectors(),
            sync_requested: self.sync.requested(),
            sync_frozen: self.sync.is_frozen(),
            sync_limits: self.limits_status(),
            last_sync: self.sync.last(),
            mismatch_sectors: self.sync.mismatch_sectors(),
            mismatches: self.sync.found().clone(),
            bitmap: self.bitmap_status(),
            faulty: self.lane.pretended(),
            logical_block_bytes: info.logical_block_bytes,
            requests_in_flight: self.lane.requests_in_flight() + self.suspension.waiting(),
            safe_mode_delay_ms: self.options.safe_mode_delay.0 / 1_000_000,
            max_read_errors: self.options.max_read_errors,
            fail_last_dev: self.options.fail_last_dev,
            suspended_sectors: self.suspension.bounds(),
            suspended_writes: self.suspension.waiting(),
        }
    }

    /// What superblocks say of a resync that is owed.
    fn resync_from_sectors(&self) -> Option<u64> {
        let recorded = Some(self.sync.checkpoint_sectors());
        recorded.filter(|sectors| self.sync.owes_resync() && *sectors != MAX_SECTOR)
    }

    fn state(&self) -> ArrayState {
        if self.broken.is_some() {
            ArrayState::Broken
        } else if self.read_only && self.read_auto {
            ArrayState::ReadAuto
        } else if self.read_only {
            ArrayState::ReadOnly
        } else if self.metadata.awaits_active() {
            ArrayState::WritePending
        } else if self.metadata.is_clean() {
            ArrayState::Clean
        } else if self.metadata.awaits_clean() {
            ArrayState::ActiveIdle
        } else {
            ArrayState::Active
        }
    }

    /// RAID0 stores a layout only where it matters; -1 where it does not.
    fn shown_layout(&self) -> i32 {
        match (self.info.level, self.info.layout) {
            // What its layout asked for is in the lane now; kernels show -1, too.
            (Level::Raid0, 0) | (Level::Faulty, _) => -1,
            (_, layout) => layout as i32,
        }
    }

    /// A picture of a member, in memory that held another's.
    fn member_status(
        &self,
        member: &Member,
        mut name: String,
        mut fault: Option<String>,
        mut bad_blocks: Vec<(u64, u64)>,
    ) -> MemberStatus {
        let fields = &member.superblock.fields;
        let bad = self.io.bad.of(member.id);
        name.clone_from(&member.name);
        fault.clone_from(&member.fault);
        bad_blocks.clear();
        let ranges = bad.into_iter().flat_map(BadRanges::iter);
        bad_blocks.extend(ranges.map(|range| (range.start_sectors, range.length_sectors)));
        MemberStatus {
            id: member.id,
            name,
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
            replacement: member.replacement,
            want_replacement: member.want_replacement,
            write_mostly: member.write_mostly,
            failfast: fields.flags.contains(DeviceFlags::FAILFAST),
            data_offset_sectors: fields.data_offset_sectors,
            data_size_sectors: fields.data_size_sectors,
            corrected_read_errors: fields.corrected_reads,
            bad_ranges: bad.map_or(0, BadRanges::len),
            bad_sectors: bad.map_or(0, BadRanges::sectors),
            bad_blocks,
            fault,
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
            held: self.sync.is_held(),
        })
    }

    fn limits_status(&self) -> LimitsStatus {
        let reach = self.sync.reach();
        LimitsStatus {
            from_sectors: reach.from,
            to_sectors: (reach.to != MAX_SECTOR).then_some(reach.to),
            speed_min_kib_s: self.sync.pace().min_kib_s,
            speed_max_kib_s: self.sync.pace().max_kib_s,
        }
    }

    fn bitmap_status(&self) -> Option<BitmapStatus> {
        let (regions, writer) = (self.bitmap.regions()?, self.bitmap.writer()?);
        Some(BitmapStatus {
            file: self
                .options
                .bitmap_file
                .as_ref()
                .map(|(_, name)| name.clone()),
            fault: self.bitmap_fault.clone(),
            offset_sectors: match writer.place() {
                Place::Members(offset_sectors) => offset_sectors,
                Place::File(_) | Place::Lost(_) => 0,
            },
            chunk_bytes: regions.region_sectors() * 512,
            bits: regions.count(),
            dirty_bits: regions.dirty(),
            daemon_sleep_seconds: writer.daemon_sleep_seconds(),
            write_behind: self.bitmap.write_behind(),
            behind_writes: self.lane.behind_writes(),
        })
    }
}
