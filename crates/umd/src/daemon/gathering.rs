//! Arrays whose members arrive one by one: what `umd incremental` gives, until it is enough.
//!
//! ```text
//!   device --open, lock--> runs already?  --yes--> added, if that was asked for
//!                             | no
//!                             v
//!                      waiting with its like --all that were there last time--> started
//!                             |          +------ enough, and --run -----------> started
//!                             +--stop--> let go   +-- assemble --> merged into that
//! ```
//!
//! Who waits is open and locked: nobody else can take a member meanwhile. The array's name is
//! reserved in the registry, so the daemon stays. Nothing is written before the start.

use std::sync::{Mutex, MutexGuard};

use umd_core::assembly::{self, RefusalKind, Wish};
use umd_core::value::MemberId;
use umd_format::v1::{DeviceFlags, Features, Role};
use umd_format::{SuperblockV1, Uuid};

use super::household::Answer;
use super::open::{self, How, Opened};
use super::registry::{Held, Reservation, Taken};
use super::start::{self, Started, Surroundings, Wishes};
use crate::api::{AssembleRequest, ErrorDoc, IncrementalRequest};
use crate::cli::scan::name_apart;
use crate::conf::probe;
use crate::doc::{ArrayDoc, MemberDoc, SCHEMA, Stamp};
use crate::words;

/// A member that waits.
struct Member {
    opened: Opened,
    superblock: SuperblockV1,
}

/// An array that waits for more members.
struct Waiting {
    uuid: Uuid,
    members: Vec<Member>,
    /// Behind the members: let go when they are.
    held: Held,
}

/// All arrays that wait.
#[derive(Default)]
pub struct Gathering {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever changes something, from the first look to the last.
    turn: Mutex<()>,
}

/// What became of a device.
pub enum Arrived {
    /// Its array runs.
    Running(String),
    /// It waits. Whether those that are here would be enough (`unsafe`), and how many they are.
    Waits {
        /// The array.
        name: String,
        /// The array could be started, without members that were there last time.
        enough: bool,
        /// Members here.
        here: usize,
    },
    /// It was the last one.
    Started(Started),
}

/// Who was let go for an assembly, to be taken back if that fails.
pub struct LetGo {
    /// The name it waited under.
    pub name: String,
    uuid: Uuid,
    paths: Vec<String>,
}

fn taken(taken: Taken) -> ErrorDoc {
    ErrorDoc::new(taken.to_string())
}

fn hold(reservation: Reservation, uuid: Uuid) -> Answer<Held> {
    reservation.hold(uuid).map_err(taken)
}

fn wishes(name: &str, run: bool) -> Wishes {
    Wishes {
        name: Some(name.to_owned()),
        wish: Wish {
            run,
            no_degraded: !run,
            ..Wish::default()
        },
        ..Wishes::default()
    }
}

fn take_member(path: &str) -> Answer<Member> {
    let opened = open::open(path, &How::default()).map_err(ErrorDoc::new)?;
    let found = open::superblock(&opened.file, None)
        .map_err(|error| ErrorDoc::new(format!("cannot read {path}: {error}")))?
        .ok_or_else(|| ErrorDoc::new(format!("no recognisable superblock on {path}.")))?;
    let superblock = found
        .verify(opened.file.size_sectors())
        .map_err(|error| ErrorDoc::new(format!("{path}: {error}")))?;
    Ok(Member { opened, superblock })
}

/// Whether these would start: `Ok(None)` if so, `Ok(Some(enough))` if they have to wait.
fn judge(members: &[Member], wishes: &Wishes) -> Answer<Option<bool>> {
    let id = |index: usize| MemberId(u32::try_from(index).expect("fewer than 2^32 devices"));
    let numbered = members.iter().enumerate();
    let facts: Vec<_> = numbered
        .map(|(index, one)| open::facts(id(index), &one.opened, None))
        .collect();
    match assembly::assemble(&facts, &wishes.wish) {
        Ok(_) => Ok(None),
        Err(refusal) => match refusal.kind {
            RefusalKind::Incomplete { .. } => Ok(Some(true)),
            RefusalKind::NotEnough { .. } | RefusalKind::NotEnoughWhileUnclean { .. } => {
                Ok(Some(false))
            }
            _ => Err(start::refusal_doc(&refusal, wishes.name.as_deref())),
        },
    }
}

impl Gathering {
    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting
            .lock()
            .expect("no thread panics while it holds the table")
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // A panic while somebody had the turn left whole entries, or none.
        self.turn
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }

    fn take(&self, wanted: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let mut table = self.lock();
        let index = table.iter().position(wanted)?;
        Some(table.remove(index))
    }

    /// Takes a device in.
    ///
    /// # Errors
    /// When it is no member, is in use, or contradicts those that wait: then it is let go again,
    /// and they go on waiting.
    pub fn arrive(&self, around: &Surroundings, request: &IncrementalRequest) -> Answer<Arrived> {
        let _turn = self.turn();
        let member = take_member(&request.device)?;
        let fields = &member.superblock.fields;
        let uuid = fields.set_uuid;
        if let Some(name) = around.registry.running(uuid) {
            return Ok(Arrived::Running(name));
        }
        let mut waiting = match self.take(|one| one.uuid == uuid) {
            Some(waiting) => waiting,
            None => Waiting {
                uuid,
                members: Vec::new(),
                held: hold(reserve(around, request, &member.superblock)?, uuid)?,
            },
        };
        waiting.members.push(member);
        let name = waiting.held.name().to_owned();
        match judge(
            &waiting.members,
            &around.granting(wishes(&name, request.run)),
        ) {
            Ok(None) => self
                .start(around, waiting, request.run)
                .map(Arrived::Started),
            Ok(Some(enough)) => {
                let here = waiting.members.len();
                self.lock().push(waiting);
                Ok(Arrived::Waits { name, enough, here })
            }
            Err(error) => {
                waiting.members.pop();
                if !waiting.members.is_empty() {
                    self.lock().push(waiting);
                }
                Err(error)
            }
        }
    }

    /// Starts what waits. If it does not start, it goes on waiting.
    fn start(&self, around: &Surroundings, waiting: Waiting, run: bool) -> Answer<Started> {
        let name = waiting.held.name().to_owned();
        let members = waiting.members.into_iter().map(|one| one.opened);
        let opened: Vec<Opened> = members.collect();
        let paths: Vec<String> = opened.iter().map(|one| one.name.clone()).collect();
        let wishes = wishes(&name, run);
        let uuid = waiting.uuid;
        let reservation = waiting.held.reserve().map_err(taken)?;
        let started = start::start(around, Some(reservation), opened, &wishes);
        if started.is_err() {
            self.wait_again(around, &name, &paths, uuid);
        }
        started
    }

    fn wait_again(&self, around: &Surroundings, name: &str, paths: &[String], uuid: Uuid) {
        let members: Vec<Member> = paths
            .iter()
            .filter_map(|path| take_member(path).ok())
            .collect();
        let reservation = match around.registry.reserve_inactive(name) {
            Err(_) => around.reserve(name),
            Ok(own) => Ok(own),
        };
        let Ok(held) = reservation.and_then(|one| hold(one, uuid)) else {
            return;
        };
        // Without a member the name goes with this.
        if !members.is_empty() {
            self.lock().push(Waiting {
                uuid,
                members,
                held,
            });
        }
    }

    /// Starts the array of this name, or all that wait, with the members that are here.
    pub fn start_waiting(
        &self,
        around: &Surroundings,
        name: Option<&str>,
    ) -> Vec<(String, Answer<Started>)> {
        let _turn = self.turn();
        let mut done = Vec::new();
        let names: Vec<String> = self.names();
        for one in names
            .into_iter()
            .filter(|one| name.is_none_or(|name| name == one))
        {
            if let Some(waiting) = self.take(|waiting| waiting.held.name() == one) {
                let started = self.start(around, waiting, true);
                done.push((one, started));
            }
        }
        done
    }

    fn names(&self) -> Vec<String> {
        let table = self.lock();
        let names = table.iter().map(|one| one.held.name().to_owned());
        names.collect()
    }

    /// Lets the members of an array go that waits under this name; tells whether one does.
    pub fn stop(&self, name: &str) -> bool {
        let _turn = self.turn();
        self.take(|one| one.held.name() == name).is_some()
    }

    /// Lets all go.
    pub fn stop_all(&self) {
        let _turn = self.turn();
        self.lock().clear();
    }

    /// Lets one device go; the name of the array that waited with it.
    pub fn leave(&self, device: &str) -> Option<String> {
        let _turn = self.turn();
        let real = |path: &str| std::fs::canonicalize(path).ok();
        let wanted = real(device);
        let mut table = self.lock();
        let is_it = |one: &Member| {
            let name = &one.opened.name;
            name == device || wanted.is_some() && real(name) == wanted
        };
        let index = table.iter().position(|one| one.members.iter().any(is_it))?;
        let name = table[index].held.name().to_owned();
        table[index].members.retain(|one| !is_it(one));
        if table[index].members.is_empty() {
            table.remove(index);
        }
        Some(name)
    }

    /// Members that wait for the array of a request become part of the request. They are let go
    /// here; the request locks them again.
    pub fn merge(&self, request: &mut AssembleRequest) -> Option<LetGo> {
        if self.lock().is_empty() {
            return None;
        }
        let _turn = self.turn();
        let asked = request.uuid.as_ref().and_then(|uuid| uuid.parse().ok());
        let known = request.devices.iter().filter_map(|device| {
            let found = probe::probe(device).ok()??;
            Some(found.uuid)
        });
        // A new UUID (`--update=uuid`) is not who is asked for.
        let asked = asked.filter(|_| request.update.is_none());
        let uuids: Vec<Uuid> = match asked {
            Some(uuid) => vec![uuid],
            None => known.collect(),
        };
        let waiting = self.take(|one| uuids.contains(&one.uuid))?;
        let uuid = waiting.uuid;
        let name = waiting.held.name().to_owned();
        let members = waiting.members.into_iter().map(|one| one.opened.name);
        let paths: Vec<String> = members.collect();
        for path in &paths {
            let mut all = request.devices.clone();
            all.push(path.clone());
            if open::named_twice(&all).is_none() {
                request.devices = all;
            }
        }
        request.name.get_or_insert_with(|| name.clone());
        Some(LetGo { name, uuid, paths })
    }

    /// The assembly has failed: its members wait again.
    pub fn take_back(&self, around: &Surroundings, gone: &LetGo) {
        let _turn = self.turn();
        self.wait_again(around, &gone.name, &gone.paths, gone.uuid);
    }

    /// Takes in members that are not to run, or not all there: under this name, or the stored one.
    /// `incomplete`: only if they are fewer than last time. The name.
    ///
    /// # Errors
    /// When they are not the members of one array, or are in use.
    pub fn hold(
        &self,
        around: &Surroundings,
        name: Option<&str>,
        paths: &[String],
        incomplete: bool,
    ) -> Answer<Option<String>> {
        let _turn = self.turn();
        let members = paths.iter().map(|path| take_member(path));
        let members: Vec<Member> = members.collect::<Answer<_>>()?;
        let first = members.first();
        let first = first.ok_or_else(|| ErrorDoc::new("no devices were given"))?;
        let uuid = first.superblock.fields.set_uuid;
        let name = match name {
            Some(name) => name.to_owned(),
            None => start::stored_name(&first.superblock)?,
        };
        let judged = judge(&members, &around.granting(wishes(&name, false)))?;
        if incomplete && judged != Some(true) {
            return Ok(None);
        }
        let held = hold(around.reserve(&name)?, uuid)?;
        self.lock().push(Waiting {
            uuid,
            members,
            held,
        });
        Ok(Some(name))
    }

    /// Documents for all that wait.
    pub fn docs(&self) -> Vec<ArrayDoc> {
        self.lock().iter().map(Waiting::doc).collect()
    }
}

/// The name for a new one: what an `ARRAY` line says, else the stored one, else the UUID.
fn reserve(
    around: &Surroundings,
    request: &IncrementalRequest,
    superblock: &SuperblockV1,
) -> Answer<Reservation> {
    if let Some(name) = &request.name {
        return around.reserve(name);
    }
    let stored = start::stored_name(superblock)?;
    match around.reserve(&stored) {
        Ok(reservation) => Ok(reservation),
        Err(error) if error.leaving => Err(error),
        Err(_) => {
            let uuid = superblock.fields.set_uuid;
            let other = name_apart(&stored, uuid, |_| true);
            around.reserve(&other.expect("it is taken"))
        }
    }
}

impl Waiting {
    fn doc(&self) -> ArrayDoc {
        let newest = self
            .members
            .iter()
            .max_by_key(|one| one.superblock.fields.events);
        let newest = newest.expect("one that waits has a member");
        let fields = &newest.superblock.fields;
        let format = newest.superblock.format();
        let level = fields.level.to_raw();
        let members: Vec<MemberDoc> = self.members.iter().enumerate().map(member_doc).collect();
        let room = members.iter().map(|member| member.data_size_bytes).sum();
        let old = format == umd_format::Format::V090;
        let disks = u16::try_from(fields.raid_disks).unwrap_or(u16::MAX);
        ArrayDoc {
            schema: SCHEMA,
            name: self.held.name().to_owned(),
            array_state: "inactive".to_owned(),
            reason: Some("it waits for more members".to_owned()),
            uuid: self.uuid.to_string(),
            uuid_canonical: self.uuid.canonical(),
            set_name: fields.name(),
            metadata: format.to_string(),
            preferred_minor: old.then_some(fields.preferred_minor),
            level: words::level_name(level).unwrap_or("unknown").to_owned(),
            level_number: level,
            layout: words::layout_name(level, fields.layout as i32),
            layout_number: fields.layout as i32,
            chunk_bytes: u64::from(fields.chunk_sectors) * 512,
            raid_disks: disks,
            array_bytes: room,
            dev_bytes: None,
            degraded: disks,
            failed: false,
            creation_time: Stamp::new(fields.ctime.seconds()),
            update_time: Stamp::new(fields.utime.seconds()),
            events: fields.events,
            consistency_policy: "unknown".to_owned(),
            bitmap: None,
            cluster: None,
            faulty: None,
            sync_action: "idle".to_owned(),
            sync: None,
            reshape: None,
            sync_pending: false,
            resync_from_sectors: None,
            sync_min_sectors: 0,
            sync_max_sectors: None,
            sync_speed_min_kib_s: None,
            sync_speed_max_kib_s: None,
            last_sync_action: None,
            mismatch_cnt: 0,
            mismatches: Vec::new(),
            scrubs: Vec::new(),
            logical_block_bytes: 512,
            requests_in_flight: 0,
            safe_mode_delay_ms: 0,
            max_read_errors: 0,
            fail_last_dev: false,
            suspend_lo_sectors: 0,
            suspend_hi_sectors: 0,
            suspended_writes: 0,
            openers: self.held.openers(),
            nbd: Vec::new(),
            overlay: None,
            pid: std::process::id(),
            members,
        }
    }
}

fn member_doc((index, one): (usize, &Member)) -> MemberDoc {
    let fields = &one.superblock.fields;
    let file = &one.opened.file;
    let stat = file
        .is_block()
        .then(|| rustix::fs::stat(file.path()).ok())
        .flatten();
    let device = stat.map_or(0, |stat| stat.st_rdev);
    MemberDoc {
        id: u32::try_from(index).unwrap_or(u32::MAX),
        path: one.opened.name.clone(),
        number: fields.dev_number,
        slot: match fields.own_role() {
            Role::Active(slot) => Some(slot),
            Role::Spare | Role::Faulty | Role::Journal => None,
        },
        state: "waiting".to_owned(),
        recovered_bytes: None,
        replacement: fields.features.contains(Features::REPLACEMENT),
        want_replacement: false,
        write_mostly: fields.flags.contains(DeviceFlags::WRITE_MOSTLY),
        failfast: fields.flags.contains(DeviceFlags::FAILFAST),
        data_offset_bytes: fields.data_offset_sectors.saturating_mul(512),
        data_size_bytes: fields.data_size_sectors.saturating_mul(512),
        corrected_read_errors: 0,
        bad_ranges: 0,
        bad_bytes: 0,
        bad_blocks: Vec::new(),
        fault: None,
        major: rustix::fs::major(device),
        minor: rustix::fs::minor(device),
    }
}
