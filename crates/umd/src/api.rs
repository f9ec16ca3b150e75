//! The control API: HTTP with JSON over a Unix socket, version 1.
//!
//! | request                             | does                                            |
//! | ----------------------------------- | ----------------------------------------------- |
//! | `GET  /v1/version`                  | [`VersionDoc`]; the handshake of every client   |
//! | `GET  /v1/arrays`                   | [`ArraysDoc`]                                   |
//! | `GET  /v1/arrays/NAME`              | [`ArrayDoc`]                                    |
//! | `POST /v1/create`                   | [`CreateRequest`] -> [`StartedDoc`]             |
//! | `POST /v1/assemble`                 | [`AssembleRequest`] -> [`StartedDoc`]           |
//! | `POST /v1/incremental`              | [`IncrementalRequest`] -> [`IncrementalDoc`]    |
//! | `POST /v1/incremental/start`        | [`StartWaitingRequest`] -> [`DoneDoc`]          |
//! | `POST /v1/incremental/gone`         | [`GoneRequest`] -> [`DoneDoc`]                  |
//! | `POST /v1/arrays/NAME/stop`         | [`StopRequest`] -> [`DoneDoc`]                  |
//! | `GET  /v1/arrays/NAME/state`        | [`StateDoc`]                                    |
//! | `POST /v1/arrays/NAME/state`        | [`StateRequest`] -> [`DoneDoc`]                 |
//! | `POST /v1/arrays/NAME/manage`       | [`ManageRequest`] -> [`DoneDoc`]                |
//! | `POST /v1/arrays/NAME/action`       | [`ActionRequest`] -> [`DoneDoc`]                |
//! | `POST /v1/arrays/NAME/bitmap`       | [`BitmapRequest`] -> [`DoneDoc`]                |
//! | `POST /v1/arrays/NAME/layout`       | [`LayoutRequest`] -> [`DoneDoc`]                |
//! | `POST /v1/arrays/NAME/level`        | [`LevelRequest`] -> [`DoneDoc`]                 |
//! | `POST /v1/arrays/NAME/raid-devices` | [`LegsRequest`] -> [`DoneDoc`]                  |
//! | `POST /v1/arrays/NAME/size`         | [`SizeRequest`] -> [`DoneDoc`]                  |
//! | `POST /v1/arrays/NAME/readonly`     | [`ReadonlyRequest`] -> [`DoneDoc`]              |
//! | `POST /v1/arrays/NAME/cluster/confirm-dead` | [`ConfirmDeadRequest`] -> [`DoneDoc`]   |
//! | `GET  /v1/arrays/NAME/reservations` | [`ReservationsDoc`]                             |
//! | `POST /v1/arrays/NAME/reservations` | [`ReservationsRequest`] -> [`DoneDoc`]          |
//! | `POST /v1/arrays/NAME/settings`     | [`SettingsRequest`] -> [`DoneDoc`]              |
//! | `GET  /v1/parameters`                | [`ParametersDoc`]                               |
//! | `POST /v1/parameters`               | [`ParametersRequest`] -> [`ParametersDoc`]      |
//! | `GET  /v1/arrays/NAME/wait`         | `?timeout_ms=N`: [`WaitDoc`] when idle or after |
//! | `GET  /v1/events`                   | [`EventDoc`]s as server-sent events             |
//! | `GET  /v1/arrays/NAME/map`          | `?cells=N`: [`MapDoc`], for pictures            |
//! | `GET  /v1/arrays/NAME/stats`        | [`StatsDoc`], for plots                         |
//! | `POST /v1/web`                      | [`WebRequest`] -> [`WebDoc`]: a door for browsers |
//! | `GET  /v1/mdstat`                   | text                                            |
//! | `GET  /v1/openapi.json`             | this API for machines; also docs/openapi.json   |
//! | `GET  /metrics`                     | text for Prometheus                             |
//!
//! Everything else, and every failure, is answered with an [`ErrorDoc`]. All member paths are
//! absolute: client and daemon need not have the same working directory.

use std::fmt;

use serde::{Deserialize, Serialize};
use umd_export::nbd::Peer;
use utoipa::ToSchema;

use crate::doc::ArrayDoc;
pub use crate::doc::SCHEMA;

/// The version of the API. Client and daemon of different versions do not talk.
pub const API: u32 = 1;

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the program.
    pub version: String,
    /// [`API`].
    pub api: u32,
    /// Process.
    pub pid: u32,
    /// Addresses of the NBD sockets that serve all arrays.
    pub nbd: Vec<String>,
}

/// All arrays, the oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArraysDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The arrays.
    pub arrays: Vec<ArrayDoc>,
}

/// One device of a new array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRequest {
    /// Absolute path.
    pub path: String,
    /// Host reads avoid it.
    pub write_mostly: bool,
    /// It is given up at the first trouble, while another mirror is there.
    #[serde(default)]
    pub failfast: bool,
}

/// A new array. Numbers are md's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateRequest {
    /// Name to run under.
    pub name: String,
    /// Name to store.
    pub set_name: String,
    /// UUID to store; a random one when there is none.
    pub uuid: Option<String>,
    /// Metadata version: `1.2`, `1.1`, `1.0` or `0.90`.
    pub metadata: String,
    /// Level.
    pub level: i32,
    /// Layout.
    pub layout: i32,
    /// Chunk; 0 where the level has none.
    pub chunk_sectors: u32,
    /// Size used of each device.
    pub size_sectors: Option<u64>,
    /// Where data begins.
    pub data_offset_sectors: Option<u64>,
    /// Internal bitmap; `null` leaves it to the size of the array, as mdadm does.
    pub bitmap: Option<bool>,
    /// The bitmap is lockless (version 6): no first resync, and only kernels from 6.18 know it.
    #[serde(default)]
    pub bitmap_lockless: bool,
    /// The file that is to hold the bitmap: an absolute path.
    #[serde(default)]
    pub bitmap_file: Option<String>,
    /// Bytes per bit.
    pub bitmap_chunk_bytes: Option<u32>,
    /// Seconds between sweeps that clear bits; 5 when nothing is said.
    #[serde(default)]
    pub bitmap_delay_seconds: Option<u32>,
    /// How many writes may lag on write-mostly devices, at the most; 0 for none.
    #[serde(default)]
    pub write_behind: u32,
    /// Reserve a bad-block log.
    pub bad_block_log: bool,
    /// No first resync.
    pub assume_clean: bool,
    /// One per slot, `null` for a missing one.
    pub slots: Vec<Option<DeviceRequest>>,
    /// Spares.
    pub spares: Vec<DeviceRequest>,
    /// Paths whose contents may be destroyed.
    pub destroy: Vec<String>,
    /// All of them may.
    pub destroy_all: bool,
    /// Start read-only.
    pub readonly: bool,
    /// How member I/O is done.
    pub io_engine: Option<String>,
}

/// An existing array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AssembleRequest {
    /// Name to run under; from the superblock when there is none.
    pub name: Option<String>,
    /// Only members of the array with this UUID.
    pub uuid: Option<String>,
    /// Only members of the array with this stored name.
    pub set_name: Option<String>,
    /// What to change in the superblocks first; a name or UUID is then the new one.
    pub update: Option<String>,
    /// With `update` `cluster=NAME`: how many hosts can run it at the same time [default: 4]. It is
    /// started as a node then, so `cluster` has to be there, too.
    #[serde(default)]
    pub nodes: Option<u32>,
    /// The host to store, for some updates.
    pub homehost: Option<String>,
    /// Only members with this metadata version.
    pub metadata: Option<String>,
    /// Absolute paths.
    pub devices: Vec<String>,
    /// Accept stale members; start unclean and degraded.
    pub force: bool,
    /// Start unclean and degraded, and trust no stale member for that.
    #[serde(default)]
    pub start_dirty_degraded: bool,
    /// Start although members are missing that were there last time.
    pub run: bool,
    /// Do not start with fewer than last time.
    pub no_degraded: bool,
    /// Start read-only.
    pub readonly: bool,
    /// Start read-only until a host writes.
    #[serde(default)]
    pub read_auto: bool,
    /// The file that holds the bitmap: an absolute path.
    #[serde(default)]
    pub bitmap_file: Option<String>,
    /// Directory for copy-on-write files.
    pub overlay: Option<String>,
    /// How member I/O is done.
    pub io_engine: Option<String>,
    /// Faults to inject, for tests.
    pub faults: Vec<String>,
    /// How an array of a cluster is run here; without, only plain arrays are started.
    #[serde(default)]
    pub cluster: Option<ClusterRequest>,
}

/// How a host runs an array as one node of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterRequest {
    /// The cluster's name: the one in the array's bitmaps.
    pub name: String,
    /// The lock service: `etcd`, or `memory` for an array that only this host runs.
    pub engine: String,
    /// Where etcd is: `http://HOST:PORT` of each of its members, `https://` with `tls_dir`.
    #[serde(default)]
    pub servers: Vec<String>,
    /// A directory with `ca-cert.pem`, and `client-cert.pem` with `client-key.pem` where etcd asks
    /// for them: an absolute path.
    #[serde(default)]
    pub tls_dir: Option<String>,
    /// A file with `USER:PASSWORD` for etcd, which only its owner can read: an absolute path.
    #[serde(default)]
    pub login_file: Option<String>,
    /// The name of this host, as others show it and fence agents know it.
    pub node: String,
    /// A fence agent: an absolute path. An administrator can confirm in any case.
    #[serde(default)]
    pub fence_agent: Option<String>,
    /// Members are reserved, and a dead node's key is taken away on all of them: SCSI
    /// disks, and exports of umd.
    #[serde(default)]
    pub reservations: bool,
    /// A watchdog that resets this host when its session is lost: an absolute path. It is one for
    /// all arrays of a daemon.
    #[serde(default)]
    pub watchdog: Option<String>,
}

/// A node that is dead for certain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfirmDeadRequest {
    /// Its number.
    pub node: u16,
}

/// Who may write to an array that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReservationsDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Only who is registered may write.
    pub reserved: bool,
    /// Keys that are registered, hexadecimal.
    pub registered: Vec<String>,
    /// Keys that were taken away, and never write again.
    pub preempted: Vec<String>,
    /// How many writes were refused since the array was started.
    pub writes_refused: u64,
}

/// What is to be done about who may write. Keys are one to sixteen hexadecimal digits, not zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReservationsRequest {
    /// `register`, `unregister`, `reserve`, `preempt-abort`, or `clear`, which forgets everything.
    pub operation: String,
    /// Whose key it is; not for `clear`.
    #[serde(default)]
    pub key: Option<String>,
    /// The key that `preempt-abort` takes away.
    #[serde(default)]
    pub victim: Option<String>,
}

/// An array that was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StartedDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What to tell the user, in order.
    pub messages: Vec<String>,
    /// The array.
    pub array: ArrayDoc,
}

/// A device that has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncrementalRequest {
    /// Its absolute path.
    pub device: String,
    /// Name to run under; from the superblock when there is none.
    #[serde(default)]
    pub name: Option<String>,
    /// Start its array as soon as it can be started; add the device to one that runs.
    #[serde(default)]
    pub run: bool,
    /// When it is added: `false` leaves out the bad-block log that the others of the array have.
    #[serde(default)]
    pub bad_block_log: Option<bool>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncrementalDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The array it belongs to.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// mdadm's word for whether that runs: `no`, `unsafe`, `yes`, `already`.
    pub started: String,
    /// What to tell the user, in order.
    pub messages: Vec<String>,
}

/// Start arrays that wait for members, without those.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartWaitingRequest {
    /// Which; all when there is none.
    #[serde(default)]
    pub name: Option<String>,
}

/// A device that has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GoneRequest {
    /// Its absolute path.
    pub device: String,
}

/// A hot change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManageRequest {
    /// `fail`, `remove`, `add`, `re-add`, `replace` or `flags`.
    pub operation: String,
    /// The device: an absolute path, or what the user typed.
    pub device: String,
    /// For `replace`: the spare to do it with; without one it is any.
    #[serde(default)]
    pub with: Option<String>,
    /// For `add`, `re-add` and `flags`: whether host reads avoid it; `null` leaves it as it is.
    #[serde(default)]
    pub write_mostly: Option<bool>,
    /// For the same: whether it is given up at the first trouble, while another mirror is there.
    #[serde(default)]
    pub failfast: Option<bool>,
    /// For `add`: it may carry data.
    pub force: bool,
    /// For `add`: `false` leaves out the bad-block log that the others of the array have.
    #[serde(default)]
    pub bad_block_log: Option<bool>,
}

/// A sync action, and what limits sync actions. What is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActionRequest {
    /// md's word: `check`, `repair`, `resync`, `recover`, `idle`, `frozen`; none only changes
    /// limits.
    #[serde(default)]
    pub action: Option<String>,
    /// Repair as md does, without asking who is wrong.
    #[serde(default)]
    pub plain: bool,
    /// `sync_min`, in sectors: check and repair begin here.
    #[serde(default)]
    pub sync_min: Option<u64>,
    /// `sync_max`, in sectors, or `max`: what runs waits here.
    #[serde(default)]
    pub sync_max: Option<Limit>,
    /// `sync_speed_min`, in KiB/s, or `system`.
    #[serde(default)]
    pub sync_speed_min: Option<Limit>,
    /// `sync_speed_max`, in KiB/s, or `system`.
    #[serde(default)]
    pub sync_speed_max: Option<Limit>,
}

/// A limit, or md's word for having none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Limit {
    /// Sectors, or KiB/s.
    Number(u64),
    /// `max`, or `system`.
    Word(String),
}

/// A bitmap for a running array, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BitmapRequest {
    /// A bitmap on the members; otherwise in `file`, or none.
    pub internal: bool,
    /// The bitmaps of the nodes of a cluster. With `cluster`: it becomes an array of that; without:
    /// they have another chunk from then on.
    #[serde(default)]
    pub clustered: bool,
    /// How this host runs it as a node from then on. Without, and with `clustered` false, an array
    /// that a cluster runs becomes a plain one, if no other node is in it.
    #[serde(default)]
    pub cluster: Option<ClusterRequest>,
    /// With `cluster`: how many nodes can run it; 4 when nothing is said.
    #[serde(default)]
    pub nodes: Option<u32>,
    /// A bitmap in this file.
    #[serde(default)]
    pub file: Option<String>,
    /// A file that is there already is written over.
    #[serde(default)]
    pub force: bool,
    /// How many writes may lag on write-mostly members.
    #[serde(default)]
    pub write_behind: u32,
    /// Bytes per bit; as for a new array when nothing is said.
    #[serde(default)]
    pub chunk_bytes: Option<u32>,
    /// With `internal`: where it begins, in sectors from the superblock (before it when negative);
    /// where mdadm puts it when nothing is said.
    #[serde(default)]
    pub offset_sectors: Option<i32>,
}

/// How a running array of level faulty is to fail from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayoutRequest {
    /// mdadm's word, with the period behind it: `write-transient3`, `rp`, `clear`, `flush`.
    pub layout: String,
}

/// What a running array is to become.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LevelRequest {
    /// mdadm's word: `raid5`, `6`; without one the level stays.
    #[serde(default)]
    pub level: Option<String>,
    /// mdadm's word, or `preserve` for the one in which nothing has to be moved.
    #[serde(default)]
    pub layout: Option<String>,
    /// How many devices it is to have then, to be sure.
    #[serde(default)]
    pub raid_devices: Option<u16>,
    /// Devices to be added, by absolute paths.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Also if it has fewer devices then than it needs, and whatever is on those that are added.
    #[serde(default)]
    pub force: bool,
}

/// How many devices a running RAID1 is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LegsRequest {
    /// So many slots.
    pub raid_devices: u16,
    /// Devices to be added, by absolute paths.
    #[serde(default)]
    pub devices: Vec<String>,
    /// Also if some slots stay empty, and whatever is on those that are added.
    #[serde(default)]
    pub force: bool,
}

/// How much of each member a running array is to use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SizeRequest {
    /// So many sectors; without them as much as all members have.
    #[serde(default)]
    pub sectors: Option<u64>,
}

/// Read-only or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadonlyRequest {
    /// Which.
    pub readonly: bool,
}

/// Done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DoneDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The member's device number, where one was given out.
    pub number: Option<u32>,
    /// What to tell the user, in order.
    pub messages: Vec<String>,
}

/// The answer of the long poll.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WaitDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Nothing runs, and nothing is about to.
    pub idle: bool,
    /// The array.
    pub array: ArrayDoc,
}

/// Where dirty regions and bad blocks lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// How much of each part of the bitmap is dirty, percent; `null` without a bitmap.
    pub dirty_percent: Option<Vec<u8>>,
    /// Members with a bad-block log.
    pub members: Vec<MapMemberDoc>,
}

/// What the bad-block log of a member names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapMemberDoc {
    /// Its path.
    pub path: String,
    /// Up to 512 ranges, from the start of the device.
    pub bad: Vec<MapRangeDoc>,
}

/// A range of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MapRangeDoc {
    /// Its start.
    pub offset_bytes: u64,
    /// Its length.
    pub len_bytes: u64,
}

/// What an array has done since it was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatsDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Clients connected.
    pub clients: u64,
    /// Requests that were answered with an error.
    pub failed: u64,
    /// Requests of hosts: `read`, `write`, `trim`, `flush`, `query`.
    pub requests: Vec<CountDoc>,
    /// I/O to members, by what it was for.
    pub member_io: Vec<CountDoc>,
}

/// How many of a kind there were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CountDoc {
    /// Which kind.
    pub kind: String,
    /// How many have ended.
    pub count: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// How long all of them took, together.
    pub seconds: f64,
}

/// A door for browsers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebRequest {
    /// `HOST:PORT` of this machine; port 0 is any that is free.
    pub address: String,
}

/// Where a browser finds the page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WebDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// With the token that lets in.
    pub url: String,
}

/// Who has an array open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenerDoc {
    /// Through which kind of door: `nbd`.
    pub door: String,
    /// The process at the other end, where that is known.
    pub pid: Option<u32>,
    /// What it calls itself.
    pub command: Option<String>,
    /// Its user.
    pub uid: Option<u32>,
    /// Its address, if it came over a network.
    pub address: Option<String>,
}

impl OpenerDoc {
    /// The document for whoever came through a door.
    pub fn of(door: &str, peer: &Peer) -> OpenerDoc {
        let (process, address) = match peer {
            Peer::Process { pid, uid } => (Some((*pid, *uid)), None),
            Peer::Host(address) => (None, Some(address.to_string())),
            Peer::Unknown => (None, None),
        };
        let comm = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
        OpenerDoc {
            door: door.to_owned(),
            pid: process.map(|(pid, _)| pid),
            command: process.and_then(|(pid, _)| Some(comm(pid)?.trim_end().to_owned())),
            uid: process.map(|(_, uid)| uid),
            address,
        }
    }
}

impl fmt::Display for OpenerDoc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.command, self.pid, &self.address) {
            (Some(command), Some(pid), _) => write!(f, "{command} (process {pid})"),
            (None, Some(pid), _) => write!(f, "process {pid}"),
            (_, None, Some(address)) => write!(f, "a client at {address}"),
            (_, None, None) => write!(f, "a client"),
        }
    }
}

/// How to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopRequest {
    /// Also when somebody has it open: the doors are closed first.
    #[serde(default)]
    pub force: bool,
}

/// A state to bring an array into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateRequest {
    /// md's word for it.
    pub state: String,
}

/// How an array is to go about its work; what is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SettingsRequest {
    /// md's `safe_mode_delay`, in milliseconds; 0: superblocks never say clean while it runs.
    #[serde(default)]
    pub safe_mode_delay_ms: Option<u32>,
    /// md's `max_read_errors`.
    #[serde(default)]
    pub max_read_errors: Option<u32>,
    /// md's `fail_last_dev`: the last working member of a mirror may be failed as well.
    #[serde(default)]
    pub fail_last_dev: Option<bool>,
    /// md's `suspend_lo`: writes from this sector of the array on wait ...
    #[serde(default)]
    pub suspend_lo_sectors: Option<u64>,
    /// ... up to md's `suspend_hi`. The answer comes when no write is under way between them.
    #[serde(default)]
    pub suspend_hi_sectors: Option<u64>,
}

/// What holds for all arrays of this process, as md's module parameters do for all of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParametersDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// md's `start_dirty_degraded`: arrays with parity start although they are unclean and lack a
    /// member.
    pub start_dirty_degraded: bool,
}

/// Which of them are to change; what is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParametersRequest {
    /// md's `start_dirty_degraded`.
    #[serde(default)]
    pub start_dirty_degraded: Option<bool>,
}

/// The state of what has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// md's word for it, `clear` for a name that is nothing else.
    pub state: String,
}

/// Something happened to an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The array.
    pub array: String,
    /// mdadm's name for the event where it has one: `Fail`, `SpareActive`, `RebuildStarted`,
    /// `RebuildFinished`, `NewArray`, `DeviceDisappeared`; the kernel's for what becomes of a name,
    /// `ADD`, `CHANGE` (it began to run, or ended it) and `REMOVE`; otherwise `Broken`, `Frozen`,
    /// `Message`, `Changed`.
    pub event: String,
    /// The member, where there is one.
    pub member: Option<String>,
    /// For a human.
    pub text: String,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDoc {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What went wrong, one sentence.
    pub error: String,
    /// What to tell the user before that, in order.
    pub messages: Vec<String>,
    /// The exit code mdadm would end with.
    pub exit_code: u8,
    /// There is no such thing (HTTP status 404; otherwise 400 for exit code 2, and 409).
    pub not_found: bool,
    /// The daemon is about to end and did nothing (HTTP status 503): ask the next one.
    pub leaving: bool,
    /// Who has the array open, where that is the reason.
    #[serde(default)]
    pub openers: Vec<OpenerDoc>,
}

impl ErrorDoc {
    /// A failure with mdadm's generic exit code.
    pub fn new(error: impl Into<String>) -> ErrorDoc {
        ErrorDoc {
            schema: SCHEMA,
            error: error.into(),
            messages: Vec::new(),
            exit_code: 1,
            not_found: false,
            leaving: false,
            openers: Vec::new(),
        }
    }
}

impl DoneDoc {
    /// Nothing to add.
    pub fn plain() -> DoneDoc {
        DoneDoc {
            schema: SCHEMA,
            number: None,
            messages: Vec::new(),
        }
    }
}
