//! The documents: what the control API speaks and `--json` prints. Text is a rendering of these.
//!
//! ```text
//!   Status (core, one array) --ArrayDoc::new--> ArrayDoc --serde--> JSON on the socket and stdout
//!                                                  +-----text-----> detail, mdstat, query
//! ```
//!
//! Rules of the schema: every document carries `schema`; numbers are numbers; bytes, not "9 TiB";
//! keys are never dropped (`null` instead); times are given as ISO 8601 and as seconds since 1970.
//! A new key may appear under the same schema number; a changed meaning needs a new number.

use serde::{Deserialize, Serialize};
use umd_core::array::{
    ArrayState, BitmapStatus, FaultyStatus, MemberRole, MemberStatus, PretendedMode, ReshapeStatus,
    Status, SyncStatus,
};
use umd_core::value::SyncAction;
use umd_core::value::{Mismatch, SECTOR_BYTES, Slot};
use umd_format::{FaultyLayout, Format, Uuid};
use utoipa::ToSchema;

use crate::api::OpenerDoc;
use crate::words;

/// Number of the schema of every document in this module.
pub const SCHEMA: u32 = 1;

/// A point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stamp {
    /// ISO 8601, UTC.
    pub iso: String,
    /// Seconds since 1970.
    pub epoch: u64,
}

impl Stamp {
    /// The stamp for a superblock time. Only the low 40 bits count, as in the superblock.
    pub fn new(seconds: u64) -> Stamp {
        let seconds = seconds & ((1 << 40) - 1);
        let iso = i64::try_from(seconds)
            .ok()
            .and_then(|s| jiff::Timestamp::from_second(s).ok())
            .map_or_else(|| format!("@{seconds}"), |stamp| stamp.to_string());
        Stamp {
            iso,
            epoch: seconds,
        }
    }
}

/// One running array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArrayDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name it runs under.
    pub name: String,
    /// md's word (`inactive`, `readonly`, `read-auto`, `clean`, `active`, `write-pending`,
    /// `active-idle`, `broken`) or `frozen`.
    pub array_state: String,
    /// Why it is frozen or broken.
    pub reason: Option<String>,
    /// Array UUID in md's form.
    pub uuid: String,
    /// Array UUID, 8-4-4-4-12.
    pub uuid_canonical: String,
    /// The name in the superblock, mostly `host:name`.
    pub set_name: String,
    /// `0.90`, `1.0`, `1.1` or `1.2`; `none` without superblocks.
    pub metadata: String,
    /// The number of the md device, where the metadata has one (0.90).
    pub preferred_minor: Option<u32>,
    /// `raid5`.
    pub level: String,
    /// The level as md stores it.
    pub level_number: i32,
    /// Layout word, where the level has one.
    pub layout: Option<String>,
    /// The layout as md stores it.
    pub layout_number: i32,
    /// Chunk, 0 where the level has none.
    pub chunk_bytes: u64,
    /// Slots.
    pub raid_disks: u16,
    /// Size of the array.
    pub array_bytes: u64,
    /// What each member gives; `null` for RAID0.
    pub dev_bytes: Option<u64>,
    /// Slots without an in-sync member.
    pub degraded: u16,
    /// Whether more members are lost than the level tolerates.
    pub failed: bool,
    /// Creation.
    pub creation_time: Stamp,
    /// Last superblock update.
    pub update_time: Stamp,
    /// Metadata generation.
    pub events: u64,
    /// `bitmap`, `resync` or `none`.
    pub consistency_policy: String,
    /// The write-intent bitmap.
    pub bitmap: Option<BitmapDoc>,
    /// Its cluster, where it is run as one of its nodes.
    #[serde(default)]
    pub cluster: Option<ClusterDoc>,
    /// The faults that an array of level faulty pretends.
    #[serde(default)]
    pub faulty: Option<FaultyDoc>,
    /// `idle`, `frozen`, `resync`, `recover`, `check`, `repair`, `reshape`.
    pub sync_action: String,
    /// Progress of the action, while one runs.
    pub sync: Option<SyncDoc>,
    /// The array is being reshaped: `level` and `layout` are those of what has not been moved yet.
    #[serde(default)]
    pub reshape: Option<ReshapeDoc>,
    /// A resync is needed and does not run.
    pub sync_pending: bool,
    /// md's `resync_start`: superblocks say that redundancy is right below this; `null`:
    /// everywhere.
    #[serde(default)]
    pub resync_from_sectors: Option<u64>,
    /// md's `sync_min`: where a check or repair begins, in sectors of the range that is walked.
    pub sync_min_sectors: u64,
    /// md's `sync_max`: where what runs waits; `null` is the end.
    pub sync_max_sectors: Option<u64>,
    /// md's `sync_speed_min`; `null` when none was set.
    pub sync_speed_min_kib_s: Option<u32>,
    /// md's `sync_speed_max`; `null` when none was set.
    pub sync_speed_max_kib_s: Option<u32>,
    /// The last action that ended.
    pub last_sync_action: Option<String>,
    /// Sectors found to differ by the last check or repair.
    pub mismatch_cnt: u64,
    /// Where, up to 256 places.
    pub mismatches: Vec<MismatchDoc>,
    /// Checks and repairs that have ended, the newest last.
    #[serde(default)]
    pub scrubs: Vec<ScrubDoc>,
    /// Logical block size hosts have to use.
    pub logical_block_bytes: u32,
    /// Host requests in flight.
    pub requests_in_flight: u64,
    /// md's `safe_mode_delay`: without writes for so many milliseconds the array is marked clean;
    /// 0: never.
    #[serde(default)]
    pub safe_mode_delay_ms: u64,
    /// md's `max_read_errors`: more in an hour fail a member.
    #[serde(default)]
    pub max_read_errors: u32,
    /// md's `fail_last_dev`: the last working member of a mirror may be failed as well.
    #[serde(default)]
    pub fail_last_dev: bool,
    /// md's `suspend_lo`: writes from this sector of the array on wait ...
    #[serde(default)]
    pub suspend_lo_sectors: u64,
    /// ... up to md's `suspend_hi`.
    #[serde(default)]
    pub suspend_hi_sectors: u64,
    /// Writes that wait for that.
    #[serde(default)]
    pub suspended_writes: u64,
    /// Who has it open.
    #[serde(default)]
    pub openers: Vec<OpenerDoc>,
    /// Where it is served, as `unix:PATH` or `tcp:HOST:PORT`; the export name is `name`.
    pub nbd: Vec<String>,
    /// Where writes go, when the members are left as they are (`--overlay`).
    pub overlay: Option<String>,
    /// The process that runs it.
    pub pid: u32,
    /// Its members, the oldest first.
    pub members: Vec<MemberDoc>,
}

/// A check or repair that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubDoc {
    /// `check` or `repair`.
    pub action: String,
    /// When it began.
    pub started: Stamp,
    /// When it ended.
    pub ended: Stamp,
    /// It came to the end of what it was to walk.
    pub complete: bool,
    /// Sectors found to differ.
    pub mismatch_cnt: u64,
}

/// A place where a check or repair found members to differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MismatchDoc {
    /// First sectors of the array's data that may be wrong; none where only parity is.
    pub array_sectors: Vec<u64>,
    /// The length of each, and of the place on each member.
    pub len_sectors: u64,
    /// Where it lies on the members.
    pub members: Vec<MismatchMemberDoc>,
    /// It was mended.
    pub repaired: bool,
}

/// A member's part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MismatchMemberDoc {
    /// Its path.
    pub path: String,
    /// Its slot.
    pub slot: u16,
    /// First sector of the device.
    pub sector: u64,
    /// It is this one that is wrong. Where no member says so it cannot be told.
    pub wrong: bool,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberDoc {
    /// Identity within the running array.
    pub id: u32,
    /// Its path.
    pub path: String,
    /// md's device number.
    pub number: u32,
    /// Its slot, if it has one.
    pub slot: Option<u16>,
    /// `in_sync`, `recovering`, `spare` or `faulty`; `waiting` while its array is inactive.
    pub state: String,
    /// Valid up to here, while recovering.
    pub recovered_bytes: Option<u64>,
    /// It is being filled to take its slot from the member in it, which serves meanwhile.
    #[serde(default)]
    pub replacement: bool,
    /// It is to be replaced, as soon as there is a spare.
    #[serde(default)]
    pub want_replacement: bool,
    /// Host reads avoid it.
    pub write_mostly: bool,
    /// It is given up at the first trouble, while another mirror is there.
    #[serde(default)]
    pub failfast: bool,
    /// Where array data starts on it.
    pub data_offset_bytes: u64,
    /// Room for array data.
    pub data_size_bytes: u64,
    /// Read errors mended by rewriting.
    pub corrected_read_errors: u32,
    /// Ranges that its bad-block log names.
    #[serde(default)]
    pub bad_ranges: usize,
    /// And the bytes in them.
    #[serde(default)]
    pub bad_bytes: u64,
    /// The ranges themselves, in sectors of the device.
    #[serde(default)]
    pub bad_blocks: Vec<BadBlockDoc>,
    /// Why it is faulty.
    pub fault: Option<String>,
    /// Device number of a block device, 0 for a file.
    pub major: u32,
    /// Device number of a block device, 0 for a file.
    pub minor: u32,
}

/// Sectors that a member's bad-block log names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BadBlockDoc {
    /// The first, from the start of the device.
    pub sector: u64,
    /// How many.
    pub len_sectors: u64,
}

/// A sync action under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SyncDoc {
    /// `resync`, `recover`, `check`, `repair` or `reshape`.
    pub action: String,
    /// Done so far, in sectors of the range that is walked.
    pub done_sectors: u64,
    /// The whole range.
    pub total_sectors: u64,
    /// Percent, with a fraction.
    pub percent: f64,
    /// Current speed.
    pub speed_kib_s: u64,
    /// Estimated rest.
    pub finish_seconds: Option<u64>,
    /// It waits at `sync_max`.
    pub held: bool,
}

/// A reshape that is under way, or waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReshapeDoc {
    /// The layout it leads to.
    pub new_layout: Option<String>,
    /// The same as md stores it.
    pub new_layout_number: i32,
    /// md's `reshape_position`: what lies below it has been moved, or from it on.
    pub position_sectors: u64,
    /// From the end to the start.
    pub backwards: bool,
    /// The level the array gets when it is over, if that is another one.
    pub then_level: Option<String>,
    /// Why it does not go on.
    pub waits: Option<String>,
}

/// The faults that an array of level faulty pretends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FaultyDoc {
    /// Modes that are on.
    pub modes: Vec<FaultyModeDoc>,
    /// Every write fails.
    pub write_all: bool,
    /// Places that are remembered: requests fail there.
    pub places: u64,
}

/// A mode of level faulty that is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FaultyModeDoc {
    /// `read-transient`, `write-persistent` and so on.
    pub mode: String,
    /// Which request is the next to fail: 1 is the next one.
    pub left: u32,
    /// Every how many requests one fails; 0: only that one.
    pub period: u32,
}

/// A write-intent bitmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BitmapDoc {
    /// `internal` or `file`.
    pub kind: String,
    /// The file it is kept in.
    #[serde(default)]
    pub path: Option<String>,
    /// Why that file is not written any more; the bits are in memory only then.
    #[serde(default)]
    pub fault: Option<String>,
    /// Sectors from the superblock.
    pub offset_sectors: i32,
    /// Bytes per bit.
    pub chunk_bytes: u64,
    /// Bits.
    pub bits: u64,
    /// Bits that are set.
    pub dirty_bits: u64,
    /// Seconds between clearing passes.
    pub daemon_sleep_seconds: u32,
    /// How many writes may lag on write-mostly members, at the most; 0: none.
    #[serde(default)]
    pub write_behind: u32,
    /// How many may at this moment.
    #[serde(default)]
    pub behind_writes: u32,
}

/// What only the daemon knows of an array.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The name it runs under.
    pub name: String,
    /// Why it is frozen or broken.
    pub reason: Option<String>,
    /// Addresses it is served at.
    pub nbd: Vec<String>,
    /// The directory of copy-on-write files.
    pub overlay: Option<String>,
    /// Who has it open.
    pub openers: Vec<OpenerDoc>,
    /// Device numbers of members that are block devices, by member identity.
    pub devices: Vec<(u32, (u32, u32))>,
}

/// md's word for a state; `frozen` is ours.
pub fn state_word(state: ArrayState) -> &'static str {
    match state {
        ArrayState::ReadOnly => "readonly",
        ArrayState::ReadAuto => "read-auto",
        ArrayState::Clean => "clean",
        ArrayState::WritePending => "write-pending",
        ArrayState::ActiveIdle => "active-idle",
        ArrayState::Inactive => "inactive",
        ArrayState::Active => "active",
        ArrayState::Broken => "broken",
        ArrayState::Frozen => "frozen",
    }
}

/// md's word for a sync action.
pub fn action_word(action: SyncAction) -> &'static str {
    match action {
        SyncAction::Resync => "resync",
        SyncAction::Recover => "recover",
        SyncAction::Check => "check",
        SyncAction::Repair => "repair",
        SyncAction::Reshape => "reshape",
    }
}

fn reshape_doc(level: i32) -> impl Fn(&ReshapeStatus) -> ReshapeDoc {
    move |reshape| {
        let number = i32::try_from(reshape.new_layout).unwrap_or(-1);
        ReshapeDoc {
            new_layout: words::layout_name(level, number),
            new_layout_number: number,
            position_sectors: reshape.position_sectors,
            backwards: reshape.backwards,
            then_level: reshape.then_level.map(level_word),
            waits: reshape.waits.clone(),
        }
    }
}

fn last_word(action: SyncAction) -> String {
    action_word(action).to_owned()
}

/// How many lost members a level with `raid_disks` slots survives.
pub fn tolerated(level: i32, raid_disks: u16) -> u16 {
    match level {
        1 => raid_disks.saturating_sub(1),
        4 | 5 => 1,
        6 => 2,
        // At the most: which of them are lost counts, and the array itself says whether it is.
        10 => raid_disks.saturating_sub(1),
        _ => 0,
    }
}

/// The cluster that runs an array, as this node of it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterDoc {
    /// Its name.
    pub name: String,
    /// The lock service: `memory` or `etcd`.
    pub engine: String,
    /// This node's number; `null` before it has joined.
    pub node: Option<u16>,
    /// All numbers that nodes can have.
    pub nodes: Vec<NodeDoc>,
    /// What this node waits for, a sentence each.
    pub waits: Vec<String>,
    /// Why writes wait.
    pub frozen: Option<String>,
    /// What keeps the lock service from its work.
    pub trouble: Option<String>,
    /// The ways in which it is made certain that a dead node writes no more, in the order in which
    /// they are tried.
    pub fencing: Vec<String>,
}

/// A node of a cluster: who has one of its bitmaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeDoc {
    /// Its number, from 0: that of its bitmap.
    pub node: u16,
    /// The host that it runs on, or ran on, where that is known.
    pub host: Option<String>,
    /// `this`, `member`, `dead` or `free`.
    pub state: String,
    /// Why there is no proof yet that a dead one writes no more.
    pub reason: Option<String>,
}

impl ArrayDoc {
    /// The document for an array.
    pub fn new(status: &Status, around: &Surroundings) -> ArrayDoc {
        let sync = status.sync.as_ref().map(sync_doc);
        let sync_action = match (&sync, status.sync_frozen) {
            (Some(sync), _) => sync.action.clone(),
            (None, true) => "frozen".to_owned(),
            (None, false) => status.sync_requested.map_or("idle", action_word).to_owned(),
        };
        let failed = status.state == ArrayState::Broken
            || status.degraded > tolerated(status.level, status.raid_disks);
        ArrayDoc {
            schema: SCHEMA,
            name: around.name.clone(),
            array_state: state_word(status.state).to_owned(),
            reason: around.reason.clone(),
            uuid: Uuid(status.uuid).to_string(),
            uuid_canonical: Uuid(status.uuid).canonical(),
            set_name: status.set_name.clone(),
            metadata: status.format.to_string(),
            preferred_minor: (status.format == Format::V090).then_some(status.preferred_minor),
            level: level_word(status.level),
            level_number: status.level,
            layout: words::layout_name(status.level, status.layout),
            layout_number: status.layout,
            chunk_bytes: u64::from(status.chunk_sectors) * SECTOR_BYTES,
            raid_disks: status.raid_disks,
            array_bytes: status.array_sectors * SECTOR_BYTES,
            dev_bytes: (!matches!(status.level, -5 | -1 | 0))
                .then(|| status.dev_sectors * SECTOR_BYTES),
            degraded: status.degraded,
            failed,
            creation_time: Stamp::new(status.ctime_seconds),
            update_time: Stamp::new(status.utime_seconds),
            events: status.events.0,
            consistency_policy: policy_word(status).to_owned(),
            bitmap: status.bitmap.as_ref().map(bitmap_doc),
            cluster: None,
            faulty: status.faulty.as_ref().map(faulty_doc),
            sync_action,
            sync,
            reshape: status.reshape.as_ref().map(reshape_doc(status.level)),
            sync_pending: status.sync_pending,
            resync_from_sectors: status.resync_from_sectors,
            sync_min_sectors: status.sync_limits.from_sectors,
            sync_max_sectors: status.sync_limits.to_sectors,
            sync_speed_min_kib_s: status.sync_limits.speed_min_kib_s,
            sync_speed_max_kib_s: status.sync_limits.speed_max_kib_s,
            last_sync_action: status.last_sync.map(last_word),
            mismatch_cnt: status.mismatch_sectors,
            mismatches: mismatch_docs(status),
            scrubs: Vec::new(), // The household remembers them.
            logical_block_bytes: status.logical_block_bytes,
            requests_in_flight: status.requests_in_flight as u64,
            safe_mode_delay_ms: status.safe_mode_delay_ms,
            max_read_errors: status.max_read_errors,
            fail_last_dev: status.fail_last_dev,
            suspend_lo_sectors: status.suspended_sectors.0,
            suspend_hi_sectors: status.suspended_sectors.1,
            suspended_writes: status.suspended_writes as u64,
            openers: around.openers.clone(),
            nbd: around.nbd.clone(),
            overlay: around.overlay.clone(),
            pid: std::process::id(),
            members: status
                .members
                .iter()
                .map(|m| member_doc(m, around))
                .collect(),
        }
    }

    /// Members in sync.
    pub fn active_devices(&self) -> usize {
        self.members.iter().filter(|m| m.state == "in_sync").count()
    }

    /// Members that are not faulty.
    pub fn working_devices(&self) -> usize {
        self.members.iter().filter(|m| m.state != "faulty").count()
    }

    /// Members that failed.
    pub fn failed_devices(&self) -> usize {
        self.members.iter().filter(|m| m.state == "faulty").count()
    }

    /// Members that are neither in sync nor faulty (those being rebuilt count, as in mdadm).
    pub fn spare_devices(&self) -> usize {
        self.working_devices() - self.active_devices()
    }

    /// Whether a sync action runs, or will as soon as nothing holds it back.
    pub fn is_syncing(&self) -> bool {
        self.sync.is_some()
    }
}

fn sync_doc(sync: &SyncStatus) -> SyncDoc {
    SyncDoc {
        action: action_word(sync.action).to_owned(),
        done_sectors: sync.done_sectors,
        total_sectors: sync.total_sectors,
        percent: percent(sync.done_sectors, sync.total_sectors),
        speed_kib_s: sync.speed_kib_s,
        finish_seconds: sync.finish_seconds,
        held: sync.held,
    }
}

fn percent(done: u64, total: u64) -> f64 {
    if total == 0 {
        return 100.0;
    }
    // Tenths, in whole numbers: the same digits on every machine.
    let tenths = u128::from(done) * 1000 / u128::from(total);
    tenths as f64 / 10.0
}

/// The name of a level, or its number.
pub fn level_word(level: i32) -> String {
    words::level_name(level).map_or_else(|| format!("level {level}"), str::to_owned)
}

fn policy_word(status: &Status) -> &'static str {
    if matches!(status.level, -5 | -1 | 0) {
        "none"
    } else if status.bitmap.is_some() {
        "bitmap"
    } else {
        "resync"
    }
}

fn faulty_doc(faulty: &FaultyStatus) -> FaultyDoc {
    let mode = |one: &PretendedMode| {
        let word = FaultyLayout {
            mode: one.mode,
            period: 0,
        };
        FaultyModeDoc {
            mode: word.to_string(),
            left: one.left,
            period: one.period,
        }
    };
    FaultyDoc {
        modes: faulty.modes.iter().map(mode).collect(),
        write_all: faulty.write_all,
        places: faulty.places as u64,
    }
}

fn mismatch_docs(status: &Status) -> Vec<MismatchDoc> {
    let found = status.mismatches.iter();
    found.map(|one| mismatch_doc(one, status)).collect()
}

fn mismatch_doc(found: &Mismatch, status: &Status) -> MismatchDoc {
    let member = |&(slot, at): &(Slot, u64)| {
        let mut members = status.members.iter();
        let member = members.find(|m| m.slot == Some(slot) && !m.replacement)?;
        Some(MismatchMemberDoc {
            path: member.name.clone(),
            slot: slot.0,
            sector: member.data_offset_sectors + at,
            wrong: found.wrong.contains(&slot),
        })
    };
    MismatchDoc {
        array_sectors: found.array_sectors.clone(),
        len_sectors: found.len_sectors,
        members: found.members.iter().filter_map(member).collect(),
        repaired: found.repaired,
    }
}

fn bitmap_doc(bitmap: &BitmapStatus) -> BitmapDoc {
    BitmapDoc {
        kind: match bitmap.file {
            Some(_) => "file",
            None => "internal",
        }
        .to_owned(),
        path: bitmap.file.clone(),
        fault: bitmap.fault.clone(),
        offset_sectors: bitmap.offset_sectors,
        chunk_bytes: bitmap.chunk_bytes,
        bits: bitmap.bits,
        dirty_bits: bitmap.dirty_bits,
        daemon_sleep_seconds: bitmap.daemon_sleep_seconds,
        write_behind: bitmap.write_behind,
        behind_writes: bitmap.behind_writes,
    }
}

fn bad_block_docs(member: &MemberStatus) -> Vec<BadBlockDoc> {
    let ranges = member.bad_blocks.iter();
    ranges
        .map(|&(sector, len_sectors)| BadBlockDoc {
            sector,
            len_sectors,
        })
        .collect()
}

fn member_doc(member: &MemberStatus, around: &Surroundings) -> MemberDoc {
    let (state, recovered) = match member.role {
        MemberRole::InSync => ("in_sync", None),
        MemberRole::Recovering { recovered_sectors } => ("recovering", Some(recovered_sectors)),
        MemberRole::Spare => ("spare", None),
        MemberRole::Faulty => ("faulty", None),
    };
    let device = around.devices.iter().find(|(id, _)| *id == member.id.0);
    let (major, minor) = device.map_or((0, 0), |(_, numbers)| *numbers);
    MemberDoc {
        id: member.id.0,
        path: member.name.clone(),
        number: member.number,
        slot: member.slot.map(|slot| slot.0),
        state: state.to_owned(),
        recovered_bytes: recovered.map(|sectors| sectors.saturating_mul(SECTOR_BYTES)),
        replacement: member.replacement,
        want_replacement: member.want_replacement,
        write_mostly: member.write_mostly,
        failfast: member.failfast,
        data_offset_bytes: member.data_offset_sectors * SECTOR_BYTES,
        data_size_bytes: member.data_size_sectors * SECTOR_BYTES,
        corrected_read_errors: member.corrected_read_errors,
        bad_ranges: member.bad_ranges,
        bad_bytes: member.bad_sectors * SECTOR_BYTES,
        bad_blocks: bad_block_docs(member),
        fault: member.fault.clone(),
        major,
        minor,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use umd_core::array::LimitsStatus;
    use umd_core::value::{Events, MemberId};

    /// A member for tests: number, slot and role.
    pub(crate) fn member(number: u32, slot: Option<u16>, role: MemberRole) -> MemberStatus {
        MemberStatus {
            id: MemberId(number),
            name: format!("/tmp/{}.img", (b'a' + number as u8) as char),
            number,
            slot: slot.map(Slot),
            role,
            replacement: false,
            want_replacement: false,
            write_mostly: false,
            failfast: false,
            data_offset_sectors: 2048,
            data_size_sectors: 129_024,
            corrected_read_errors: 0,
            bad_ranges: 0,
            bad_sectors: 0,
            bad_blocks: Vec::new(),
            fault: None,
        }
    }

    /// A clean RAID5 on three members, as mdadm would have made it.
    pub(crate) fn raid5() -> Status {
        Status {
            state: ArrayState::Clean,
            uuid: "11112222:33334444:55556666:77778888"
                .parse::<Uuid>()
                .expect("uuid")
                .0,
            set_name: "host:r5".into(),
            format: Format::V1_2,
            preferred_minor: 0,
            level: 5,
            layout: 2,
            chunk_sectors: 1024,
            raid_disks: 3,
            array_sectors: 258_048,
            dev_sectors: 129_024,
            ctime_seconds: 1_577_836_800,
            utime_seconds: 1_577_837_800,
            events: Events(18),
            degraded: 0,
            members: (0..3)
                .map(|n| member(n, Some(n as u16), MemberRole::InSync))
                .collect(),
            sync: None,
            reshape: None,
            sync_pending: false,
            resync_from_sectors: None,
            sync_requested: None,
            sync_frozen: false,
            sync_limits: LimitsStatus::default(),
            last_sync: None,
            mismatch_sectors: 0,
            mismatches: std::sync::Arc::default(),
            bitmap: None,
            faulty: None,
            logical_block_bytes: 512,
            requests_in_flight: 0,
            safe_mode_delay_ms: 210,
            max_read_errors: 20,
            fail_last_dev: false,
            suspended_sectors: (0, 0),
            suspended_writes: 0,
        }
    }

    /// Its document.
    pub(crate) fn doc(status: &Status) -> ArrayDoc {
        let around = Surroundings {
            name: "r5".into(),
            nbd: vec!["unix:/run/umd/nbd.sock".into()],
            ..Surroundings::default()
        };
        ArrayDoc::new(status, &around)
    }

    #[test]
    fn the_document_reads_back_and_keeps_every_key() {
        let mut status = raid5();
        status.sync = Some(SyncStatus {
            action: SyncAction::Check,
            done_sectors: 1000,
            total_sectors: 129_024,
            speed_kib_s: 500,
            finish_seconds: None,
            held: false,
        });
        status.bitmap = Some(BitmapStatus {
            file: None,
            fault: None,
            offset_sectors: 8,
            chunk_bytes: 64 << 20,
            bits: 1,
            dirty_bits: 0,
            daemon_sleep_seconds: 5,
            write_behind: 256,
            behind_writes: 0,
        });
        let made = doc(&status);
        let text = serde_json::to_string(&made).expect("serialises");
        let read: ArrayDoc = serde_json::from_str(&text).expect("reads back");
        assert_eq!(read, made);
        let value: serde_json::Value = serde_json::from_str(&text).expect("json");
        assert_eq!(value["schema"], 1);
        assert_eq!(value["sync"]["finish_seconds"], serde_json::Value::Null);
        assert_eq!(value["reason"], serde_json::Value::Null);
        assert_eq!(value["array_bytes"], 132_120_576);
        assert_eq!(value["creation_time"]["iso"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn failed_means_more_lost_than_tolerated() {
        let mut status = raid5();
        status.degraded = 1;
        assert!(!doc(&status).failed);
        status.degraded = 2;
        assert!(doc(&status).failed);
        assert_eq!(tolerated(1, 3), 2);
        assert_eq!(tolerated(0, 3), 0);
    }
}
