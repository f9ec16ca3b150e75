//! What the control API does: the operations on arrays, each answering with a document.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};
use umd_core::array::{
    Control, ControlError, ControlReply, FlagWish, MemberRole, Status, SyncLimits, SyncRequest,
};
use umd_core::registry::Phase;
use umd_core::value::{MAX_SECTOR, MemberId, RepairWay, SyncAction};
use umd_format::FaultyLayout;

use super::array::{Handle, Offer, Snapshot, Stopped};
use super::create;
use super::gathering::Gathering;
use super::memory::Memory;
use super::open::{self, How};
use super::registry::Registry;
use super::scrubs::Scrubs;
use super::start;
use crate::api::{
    ActionRequest, ArraysDoc, AssembleRequest, CreateRequest, DoneDoc, ErrorDoc, EventDoc,
    LayoutRequest, Limit, ManageRequest, SCHEMA, StartedDoc, WaitDoc,
};
use crate::doc::{ArrayDoc, MemberDoc};
use crate::member;
use crate::words::flag_words;

/// Events kept for listeners that are slow to read.
const EVENTS_KEPT: usize = 256;
/// How long an array whose spare could fill a slot counts as busy although nothing runs yet.
const GRACE: Duration = Duration::from_secs(2);
/// How often the long poll looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// All arrays of this process.
pub struct Household {
    /// The arrays.
    pub registry: Registry,
    /// Those whose members are not all here yet.
    pub gathering: Gathering,
    /// Checks and repairs that have ended.
    pub scrubs: Scrubs,
    /// Where they are served.
    pub nbd: Mutex<Vec<String>>,
    /// What happens to them.
    pub events: broadcast::Sender<EventDoc>,
    /// Told whenever an array has ended.
    pub ended: std::sync::Arc<Notify>,
    /// md's module parameter of that name.
    pub start_dirty_degraded: std::sync::atomic::AtomicBool,
    /// Where what runs is written down.
    pub memory: std::sync::OnceLock<Memory>,
}

/// The answer to an operation.
pub type Answer<T> = Result<T, ErrorDoc>;

pub(super) fn no_such_array(name: &str) -> ErrorDoc {
    ErrorDoc {
        not_found: true,
        ..ErrorDoc::new(format!("{name} does not appear to be an active array"))
    }
}

pub(super) fn stopped(name: &str) -> impl Fn(Stopped) -> ErrorDoc + '_ {
    move |_| ErrorDoc::new(format!("{name} has stopped"))
}

pub(super) fn refused(what: &str, error: &ControlError) -> ErrorDoc {
    ErrorDoc::new(format!("{what}: {error}"))
}

impl Default for Household {
    fn default() -> Household {
        Household::new(false)
    }
}

impl Household {
    /// An empty one. With `create_on_open` a name that a client opens is there from then on.
    pub fn new(create_on_open: bool) -> Household {
        let events = broadcast::channel(EVENTS_KEPT).0;
        let ended = std::sync::Arc::new(Notify::new());
        Household {
            registry: Registry::new(events.clone(), ended.clone(), create_on_open),
            gathering: Gathering::default(),
            scrubs: Scrubs::system(),
            nbd: Mutex::new(Vec::new()),
            events,
            ended,
            start_dirty_degraded: false.into(),
            memory: std::sync::OnceLock::new(),
        }
    }

    /// Where all arrays are served.
    pub fn addresses(&self) -> Vec<String> {
        self.nbd
            .lock()
            .expect("nobody panics while holding the list")
            .clone()
    }

    pub(super) fn handle(&self, name: &str) -> Answer<Handle> {
        let waits = || self.gathering.docs().iter().any(|array| array.name == name);
        self.registry.get(name).ok_or_else(|| match waits() {
            true => ErrorDoc::new(format!(
                "{name} does not run, it waits for members: start it without them (umd {name} \
                 --run) or let them go (umd stop {name})"
            )),
            false => no_such_array(name),
        })
    }

    pub(super) async fn look(&self, name: &str, handle: &Handle) -> Answer<(Snapshot, ArrayDoc)> {
        let snapshot = handle.look().await.map_err(stopped(name))?;
        let openers = self.registry.openers(name);
        let mut doc = snapshot.doc(name, &self.addresses(), openers, &handle.how());
        doc.scrubs = self.scrubs.of(&doc.uuid_canonical);
        Ok((snapshot, doc))
    }

    /// One array.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn detail(&self, name: &str) -> Answer<ArrayDoc> {
        let mut waiting = self.gathering.docs().into_iter();
        if let Some(array) = waiting.find(|array| array.name == name) {
            return Ok(array);
        }
        let handle = self.handle(name)?;
        Ok(self.look(name, &handle).await?.1)
    }

    /// All arrays, oldest first.
    pub async fn list(&self) -> ArraysDoc {
        let mut arrays = Vec::new();
        for name in self.registry.names() {
            // What is only a name is no array, and one that is just ending is none any more.
            arrays.extend(self.detail(&name).await.ok());
        }
        ArraysDoc {
            schema: SCHEMA,
            arrays,
        }
    }

    pub(super) fn surroundings(&self) -> start::Surroundings {
        start::Surroundings {
            registry: self.registry.clone(),
            events: self.events.clone(),
            start_dirty_degraded: self.parameters().start_dirty_degraded,
        }
    }

    /// Makes a new array and starts it.
    ///
    /// # Errors
    /// When it is refused; see `create` for what has been written then.
    pub async fn create(&self, request: CreateRequest) -> Answer<StartedDoc> {
        let around = self.surroundings();
        let word = match request.metadata.as_str() {
            "none" => "built and started",
            _ => "started",
        };
        let made = blocking(move || {
            let reservation = around.reserve(&request.name)?;
            let prepared = create::prepare(&request, false)?;
            let facts = prepared.bare_facts();
            let bitmap = prepared.make_bitmap_file(&request)?;
            let opened = prepared.write()?;
            let engine = request.io_engine.as_deref();
            let wish = start::Wishes {
                name: Some(request.name.clone()),
                wish: umd_core::assembly::Wish {
                    readonly: request.readonly,
                    ..Default::default()
                },
                how: How {
                    readonly: request.readonly,
                    engine: open::engine(engine).map_err(ErrorDoc::new)?,
                    ..How::default()
                },
                facts,
                bitmap_file: request.bitmap_file.clone(),
                ..start::Wishes::default()
            };
            let started = start::start(&around, Some(reservation), opened, &wish)?;
            if let Some(made) = bitmap {
                made.keep();
            }
            Ok(started)
        });
        let started = match made.await {
            Ok(started) => started,
            Err(error) => return Err(self.explain(error).await),
        };
        let mut done = self.started(&started.name, started.messages).await?;
        done.messages
            .push(format!("array {} {word}.", started.name));
        Ok(done)
    }

    /// Starts an existing array.
    ///
    /// # Errors
    /// When it is refused; nothing has been written then.
    pub async fn assemble(
        self: &std::sync::Arc<Self>,
        mut request: AssembleRequest,
    ) -> Answer<StartedDoc> {
        let own = self.clone();
        let assembled = move || {
            let (around, gone) = (own.surroundings(), own.gathering.merge(&mut request));
            let mut started = start::assemble(&around, &request);
            match (&gone, &mut started) {
                (Some(gone), Ok(started)) => {
                    let text = format!("Merging with already-assembled {}", gone.name);
                    started.messages.insert(0, text);
                }
                (Some(gone), Err(_)) => own.gathering.take_back(&around, gone),
                (None, _) => {}
            }
            own.hold_back(&around, &request, started)
        };
        let started = match blocking(assembled).await {
            Ok(started) => started,
            Err(error) => return Err(self.explain(error).await),
        };
        let mut done = self.started(&started.name, started.messages).await?;
        let text = format!("{} has been started with {}.", started.name, started.drives);
        done.messages.push(text);
        Ok(done)
    }

    /// With too few members for `--no-degraded` the array stays inactive, as with mdadm: what is
    /// there waits for more. What was asked for besides would be forgotten: it is not kept then.
    fn hold_back(
        &self,
        around: &start::Surroundings,
        request: &AssembleRequest,
        started: Answer<start::Started>,
    ) -> Answer<start::Started> {
        let plain = AssembleRequest {
            name: request.name.clone(),
            uuid: request.uuid.clone(),
            set_name: request.set_name.clone(),
            devices: request.devices.clone(),
            no_degraded: true,
            ..AssembleRequest::default()
        };
        let is_held = |name: &String| self.registry.phase(name) == Some(Phase::Inactive);
        if *request != plain || request.name.as_ref().is_some_and(is_held) {
            return started;
        }
        started.map_err(|mut error| {
            let (name, devices) = (request.name.as_deref(), &request.devices);
            if let Ok(Some(name)) = self.gathering.hold(around, name, devices, true) {
                error.messages.push(format!(
                    "{name} is there and does not run: umd manage {name} --run starts it with what \
                     it has, umd stop {name} lets its members go"
                ));
            }
            error
        })
    }

    /// A device that this very process uses belongs to one of our arrays: say to which.
    pub(super) async fn explain(&self, mut error: ErrorDoc) -> ErrorDoc {
        let Some((path, _)) = error.error.split_once(": in use by this very process") else {
            return error;
        };
        for array in self.list().await.arrays {
            let bitmap = array.bitmap.as_ref().and_then(|one| one.path.as_deref());
            if bitmap == Some(path) {
                error.error = format!("{path} is in use by array {}, as its bitmap", array.name);
                break;
            }
            if let Some(member) = find_in(&array, path) {
                error.error = format!("{} is in use by array {}", member.path, array.name);
                break;
            }
        }
        error
    }

    pub(super) async fn started(&self, name: &str, messages: Vec<String>) -> Answer<StartedDoc> {
        Ok(StartedDoc {
            schema: SCHEMA,
            messages,
            array: self.detail(name).await?,
        })
    }

    /// One hot change.
    ///
    /// # Errors
    /// When the array refuses it.
    pub async fn manage(&self, name: &str, request: ManageRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        match request.operation.as_str() {
            "fail" => self.fail(name, &handle, &request.device).await,
            "remove" => self.remove(name, &handle, &request.device).await,
            "replace" => self.replace(name, &handle, &request).await,
            "flags" => self.flags(name, &handle, &request).await,
            "add" | "re-add" => self.add(name, &handle, &request).await,
            other => Err(ErrorDoc::new(format!(
                "{other} is no operation on an array"
            ))),
        }
    }

    async fn fail(&self, name: &str, handle: &Handle, device: &str) -> Answer<DoneDoc> {
        let (snapshot, _) = self.look(name, handle).await?;
        let member = find_member(&snapshot.status, device).map_err(|text| {
            ErrorDoc::new(format!("set device faulty failed for {device}: {text}"))
        })?;
        let answer = handle
            .control(Control::Fail(member))
            .await
            .map_err(stopped(name))?;
        answer
            .map_err(|error| refused(&format!("set device faulty failed for {device}"), &error))?;
        Ok(DoneDoc {
            messages: vec![format!("set {device} faulty in {name}")],
            ..DoneDoc::plain()
        })
    }

    async fn replace(
        &self,
        name: &str,
        handle: &Handle,
        request: &ManageRequest,
    ) -> Answer<DoneDoc> {
        let (snapshot, _) = self.look(name, handle).await?;
        let status = &snapshot.status;
        let device = &request.device;
        let nobody = |text: String| ErrorDoc {
            exit_code: 2,
            ..ErrorDoc::new(text)
        };
        let member = find_member(status, device)
            .map_err(|text| nobody(format!("cannot replace {device}: {text}")))?;
        let with = request.with.as_ref().map(|with| {
            find_member(status, with)
                .map_err(|text| nobody(format!("cannot replace {device} by {with}: {text}")))
        });
        let with = with.transpose()?;
        let answer = handle
            .control(Control::Replace { member, with })
            .await
            .map_err(stopped(name))?;
        answer.map_err(|error| nobody(format!("cannot replace {device}: {error}")))?;
        let slot = status.members.iter().find(|m| m.id == member);
        let slot = slot.and_then(|m| m.slot).map_or(0, |slot| slot.0);
        let mut done = DoneDoc {
            messages: vec![format!(
                "Marked {device} (device {slot} in {name}) for replacement"
            )],
            ..DoneDoc::plain()
        };
        if let Some(with) = &request.with {
            done.messages.push(format!(
                "Marked {with} in {name} as replacement for device {slot}"
            ));
        } else if !status.members.iter().any(|m| m.role == MemberRole::Spare) {
            done.messages.push(format!(
                "{name} has no spare: the replacement begins when one is added"
            ));
        }
        Ok(done)
    }

    async fn flags(&self, name: &str, handle: &Handle, request: &ManageRequest) -> Answer<DoneDoc> {
        let (device, wish) = (&request.device, flag_wish(request));
        let words = flag_words(request.write_mostly, request.failfast);
        if words.is_empty() {
            return Err(nonsense(format!("no flag of {device} was named")));
        }
        let (snapshot, array) = self.look(name, handle).await?;
        let failed = |text: String| ErrorDoc::new(format!("cannot set {device} {words}: {text}"));
        let member = find_member(&snapshot.status, device).map_err(failed)?;
        let control = Control::Flags(member, wish);
        let answer = handle.control(control).await.map_err(stopped(name))?;
        answer.map_err(|error| failed(error.to_string()))?;
        let mut done = DoneDoc::plain();
        done.messages
            .push(format!("set {device} {words} in {name}"));
        if !matches!(array.level_number, 1 | 10) {
            let level = &array.level;
            let text = format!("{name} is a {level}: its members are treated alike, flags or not");
            done.messages.push(text);
        }
        Ok(done)
    }

    async fn remove(&self, name: &str, handle: &Handle, device: &str) -> Answer<DoneDoc> {
        let (snapshot, _) = self.look(name, handle).await?;
        let mut done = DoneDoc::plain();
        let wanted: Vec<(MemberId, String)> = match device {
            "failed" | "faulty" => {
                let members = snapshot.status.members.iter();
                let faulty = members.filter(|member| member.role == MemberRole::Faulty);
                faulty
                    .map(|member| (member.id, member.name.clone()))
                    .collect()
            }
            _ => {
                let member = find_member(&snapshot.status, device).map_err(|text| {
                    ErrorDoc::new(format!("hot remove failed for {device}: {text}"))
                })?;
                vec![(member, device.to_owned())]
            }
        };
        for (member, device) in wanted {
            let answer = handle
                .control(Control::Remove(member))
                .await
                .map_err(stopped(name))?;
            answer.map_err(|error| refused(&format!("hot remove failed for {device}"), &error))?;
            done.messages
                .push(format!("hot removed {device} from {name}"));
        }
        Ok(done)
    }

    async fn add(&self, name: &str, handle: &Handle, request: &ManageRequest) -> Answer<DoneDoc> {
        let (snapshot, _) = self.look(name, handle).await?;
        let (device, re_add) = (request.device.clone(), request.operation == "re-add");
        let copy = request.clone();
        let uuid = snapshot.status.uuid;
        let how = handle.how();
        // Nothing on such a device says whose it was: the array remembers who left.
        let by_name = re_add && !snapshot.status.format.is_stored();
        let offer = match blocking(move || match by_name {
            true => former(&copy, &how),
            false => open_offer(&copy, uuid, &how),
        })
        .await
        {
            Ok(offer) => offer,
            Err(error) => return Err(self.explain(error).await),
        };
        // As in mdadm, a device that was here before and missed little is re-added.
        let came_back = offer.superblock.is_some() || by_name;
        if re_add && !came_back {
            let text = format!("--re-add for {device} to {name} is not possible");
            return Err(ErrorDoc::new(text));
        }
        let answer = handle.add(offer).await.map_err(stopped(name))?;
        let (answer, verb) = match answer {
            Err(_) if came_back && !re_add => {
                let copy = request.clone();
                let how = handle.how();
                let mut offer = blocking(move || open_offer(&copy, uuid, &how)).await?;
                offer.re_add = false;
                (handle.add(offer).await.map_err(stopped(name))?, "added")
            }
            other => (other, if came_back { "re-added" } else { "added" }),
        };
        match answer {
            Ok(reply) => Ok(DoneDoc {
                number: match reply {
                    ControlReply::Added { number } => Some(number),
                    ControlReply::Done | ControlReply::Room { .. } => None,
                },
                messages: vec![format!("{verb} {device}")],
                ..DoneDoc::plain()
            }),
            // The engine's sentence says which device, and why.
            Err(error) if re_add => Err(ErrorDoc::new(error.to_string())),
            Err(ControlError::TooSmall(text)) => Err(ErrorDoc::new(format!(
                "{device} not large enough to join array: {text}"
            ))),
            Err(error) => Err(refused(
                &format!("add new device failed for {device}"),
                &error,
            )),
        }
    }

    /// A running array of level faulty fails in one more way, or in none.
    ///
    /// # Errors
    /// When there is no such way, or the array is of another level.
    pub async fn layout(&self, name: &str, request: &LayoutRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let Some(layout) = FaultyLayout::from_word(&request.layout) else {
            let text = format!("layout {} not understood for faulty.", request.layout);
            return Err(nonsense(text));
        };
        let answer = handle.control(Control::Layout(layout)).await;
        let answer = answer.map_err(stopped(name))?;
        answer.map_err(|error| refused(&format!("cannot change the layout of {name}"), &error))?;
        Ok(DoneDoc {
            messages: vec![format!("layout for {name} set to {layout}")],
            ..DoneDoc::plain()
        })
    }

    /// Starts or stops a sync action.
    ///
    /// # Errors
    /// When there is no such action, or the array refuses.
    pub async fn action(&self, name: &str, request: &ActionRequest) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        let wanted = match request.action.as_deref() {
            None => None,
            Some(word) => Some(sync_request(word, request.plain)?),
        };
        let limits = sync_limits(request)?;
        let control = match (wanted, limits) {
            (None, None) => return Err(nonsense("neither an action nor a limit was named".into())),
            (Some(wanted), None) => Control::Sync(wanted),
            (wanted, Some(limits)) => Control::Limits(limits, wanted),
        };
        let answer = handle.control(control).await.map_err(stopped(name))?;
        let what = match &request.action {
            Some(action) => format!("cannot start {action} on {name}"),
            None => format!("cannot set limits for syncing {name}"),
        };
        answer.map_err(|error| match error {
            // A value that makes no sense is the caller's mistake, whatever the array does.
            ControlError::Invalid(_) if limits.is_some() => ErrorDoc {
                exit_code: 2,
                ..refused(&what, &error)
            },
            error => refused(&what, &error),
        })?;
        Ok(DoneDoc::plain())
    }

    /// Switches between read-only and read-write.
    ///
    /// # Errors
    /// When the array refuses.
    pub async fn readonly(&self, name: &str, readonly: bool) -> Answer<DoneDoc> {
        let handle = self.handle(name)?;
        if !readonly && handle.how().readonly {
            return Err(ErrorDoc::new(format!(
                "failed to set writable for {name}: it was started read-only, and its members are \
                 open for reading; stop it and assemble it again"
            )));
        }
        let control = Control::ReadOnly(readonly);
        let answer = handle.control(control).await.map_err(stopped(name))?;
        let word = if readonly { "readonly" } else { "writable" };
        answer.map_err(|error| refused(&format!("failed to set {word} for {name}"), &error))?;
        handle.set_read_only(readonly);
        Ok(DoneDoc::plain())
    }

    /// Waits until the array has nothing to do, at most `timeout`.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn wait(&self, name: &str, timeout: Duration) -> Answer<WaitDoc> {
        let start = Instant::now();
        loop {
            let array = self.detail(name).await?;
            let busy = is_busy(&array, start.elapsed() < GRACE);
            if !busy || start.elapsed() >= timeout {
                return Ok(WaitDoc {
                    schema: SCHEMA,
                    idle: !busy,
                    array,
                });
            }
            let left = timeout.saturating_sub(start.elapsed());
            tokio::time::sleep(LOOK_EVERY.min(left)).await;
        }
    }
}

fn sync_request(word: &str, plain: bool) -> Answer<SyncRequest> {
    Ok(match word {
        "idle" => SyncRequest::Idle,
        "frozen" => SyncRequest::Frozen,
        "check" => SyncRequest::Start(SyncAction::Check),
        "repair" if plain => SyncRequest::Repair(RepairWay::Plain),
        "repair" => SyncRequest::Repair(RepairWay::Judged),
        "resync" => SyncRequest::Start(SyncAction::Resync),
        "recover" => SyncRequest::Start(SyncAction::Recover),
        "reshape" => SyncRequest::Start(SyncAction::Reshape),
        other => return Err(ErrorDoc::new(format!("{other} is no sync action"))),
    })
}

pub(super) fn nonsense(text: String) -> ErrorDoc {
    ErrorDoc {
        exit_code: 2,
        ..ErrorDoc::new(text)
    }
}

/// The limits that a request names; `None` when it names none.
fn sync_limits(request: &ActionRequest) -> Answer<Option<SyncLimits>> {
    let to_sectors = match &request.sync_max {
        None => None,
        Some(Limit::Number(sectors)) => Some(*sectors),
        Some(Limit::Word(word)) if word == "max" => Some(MAX_SECTOR),
        Some(Limit::Word(word)) => {
            let text = format!("sync_max is a number of sectors or max, not {word}");
            return Err(nonsense(text));
        }
    };
    let speed = |name: &str, limit: &Option<Limit>| match limit {
        None => Ok(None),
        Some(Limit::Word(word)) if word == "system" => Ok(Some(None)),
        Some(Limit::Number(kib)) if u32::try_from(*kib).is_ok() => {
            Ok(Some(u32::try_from(*kib).ok()))
        }
        Some(Limit::Number(kib)) => Err(nonsense(format!("{name} {kib} is too much"))),
        Some(Limit::Word(word)) => Err(nonsense(format!(
            "{name} is a number of KiB per second or system, not {word}"
        ))),
    };
    let limits = SyncLimits {
        from_sectors: request.sync_min,
        to_sectors,
        speed_min_kib_s: speed("sync_speed_min", &request.sync_speed_min)?,
        speed_max_kib_s: speed("sync_speed_max", &request.sync_speed_max)?,
    };
    Ok((limits != SyncLimits::default()).then_some(limits))
}

/// Whether a sync action runs, or is about to: a member waits to be rebuilt and nothing forbids
/// it. Within the grace a spare that could fill an empty slot counts as well. What waits at
/// `sync_max` waits for an administrator, who should not wait for it.
pub fn is_busy(array: &ArrayDoc, grace: bool) -> bool {
    if let Some(sync) = &array.sync {
        return !sync.held;
    }
    let held = matches!(
        array.array_state.as_str(),
        "readonly" | "read-auto" | "broken" | "frozen"
    );
    if held || array.sync_action == "frozen" || array.failed {
        return false;
    }
    let waiting = array
        .members
        .iter()
        .any(|member| member.state == "recovering");
    let could = array.degraded > 0 && array.members.iter().any(|member| member.state == "spare");
    // A resync that is owed, or a check that was asked for, begins once superblocks are written.
    let soon = array.sync_pending || matches!(array.sync_action.as_str(), "check" | "repair");
    waiting || grace && (could || soon)
}

/// Runs something that may wait for disks beside the control thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(error) => Err(ErrorDoc::new(format!("an invariant did not hold: {error}"))),
    }
}

/// The member a user means: by path, or by the last part of it when that is unique.
///
/// # Errors
/// When none or several fit.
pub fn find_member(status: &Status, device: &str) -> Result<MemberId, String> {
    let real = std::fs::canonicalize(device).ok();
    let exact = status.members.iter().find(|member| {
        let name = std::path::Path::new(&member.name);
        member.name == device
            || real.as_deref().is_some_and(|real| {
                real == name || std::fs::canonicalize(name).is_ok_and(|name| name == real)
            })
    });
    if let Some(member) = exact {
        return Ok(member.id);
    }
    let last = member::last_part;
    let mut alike = status
        .members
        .iter()
        .filter(|member| last(&member.name) == last(device));
    match (alike.next(), alike.next()) {
        (Some(member), None) => Ok(member.id),
        (None, _) => Err("it is not a member".into()),
        (Some(_), Some(_)) => Err("several members have that name; give the whole path".into()),
    }
}

/// The member a user means in a document: by path, or by the file it leads to.
pub fn find_in<'a>(array: &'a ArrayDoc, device: &str) -> Option<&'a MemberDoc> {
    let real = std::fs::canonicalize(device).ok();
    array.members.iter().find(|member| {
        let same = || real.is_some() && std::fs::canonicalize(&member.path).ok() == real;
        member.path == device || same()
    })
}

/// The flags that a request wants for its device.
fn flag_wish(request: &ManageRequest) -> FlagWish {
    FlagWish {
        write_mostly: request.write_mostly,
        failfast: request.failfast,
    }
}

/// Opens a device that comes back to an array without superblocks.
fn former(request: &ManageRequest, how: &How) -> Answer<Offer> {
    let opened = open::open(&request.device, how).map_err(ErrorDoc::new)?;
    Ok(Offer {
        name: opened.name,
        re_add: true,
        superblock: None,
        flags: flag_wish(request),
        bad_block_log: request.bad_block_log != Some(false),
        file: opened.file,
    })
}

/// Opens a device for `add`, makes sure that nothing of value is on it, and keeps others from it.
fn open_offer(request: &ManageRequest, array: [u8; 16], how: &How) -> Answer<Offer> {
    let offer = open_candidate(request, array, how)?;
    if let Some(storage) = &how.storage {
        storage.take_in(&request.device).map_err(ErrorDoc::new)?;
    }
    Ok(offer)
}

/// Opens a device that may be added, and makes sure that nothing of value is on it.
pub(super) fn open_candidate(request: &ManageRequest, array: [u8; 16], how: &How) -> Answer<Offer> {
    let opened = open::open(&request.device, how).map_err(ErrorDoc::new)?;
    let unreadable = |error: umd_core::value::IoError| {
        ErrorDoc::new(format!("cannot read {}: {error}", request.device))
    };
    let mut own = None;
    let mut other = None;
    if let Some(found) = open::superblock(&opened.file, None).map_err(unreadable)? {
        let uuid = found.set_uuid();
        match found.verify(opened.file.size_sectors()) {
            Ok(superblock) if superblock.fields.set_uuid.0 == array => own = Some(superblock),
            _ => other = Some(uuid),
        }
    }
    if own.is_none() && !request.force {
        let found = open::signatures(&opened.file).map_err(unreadable)?;
        if let Some(one) = found.first() {
            let of = other.map_or(String::new(), |uuid| format!(" of array {uuid}"));
            return Err(ErrorDoc::new(format!(
                "{} appears to contain {}{of}: take another device, or add it with --force, which \
                 destroys that",
                request.device, one.kind
            )));
        }
    }
    Ok(Offer {
        name: request.device.clone(),
        re_add: own.is_some(),
        superblock: own.map(Box::new),
        flags: flag_wish(request),
        bad_block_log: request.bad_block_log != Some(false),
        file: opened.file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::tests::{doc, member, raid5};

    #[test]
    fn members_are_found_by_path_or_unique_name() {
        let mut status = raid5();
        assert_eq!(find_member(&status, "/tmp/b.img"), Ok(MemberId(1)));
        assert_eq!(find_member(&status, "b.img"), Ok(MemberId(1)));
        assert_eq!(find_member(&status, "/elsewhere/c.img"), Ok(MemberId(2)));
        assert!(find_member(&status, "x.img").is_err());
        status.members[2].name = "/other/b.img".into();
        assert_eq!(find_member(&status, "/other/b.img"), Ok(MemberId(2)));
        assert!(
            find_member(&status, "b.img")
                .expect_err("two")
                .contains("several")
        );
    }

    #[test]
    fn busy_means_running_or_about_to() {
        let mut status = raid5();
        assert!(!is_busy(&doc(&status), true));
        status.degraded = 1;
        status.members[2] = member(3, None, MemberRole::Spare);
        assert!(is_busy(&doc(&status), true));
        assert!(!is_busy(&doc(&status), false));
        let recovering = MemberRole::Recovering {
            recovered_sectors: 0,
        };
        status.members[2] = member(3, Some(2), recovering);
        assert!(is_busy(&doc(&status), false));
        status.sync_frozen = true;
        assert!(!is_busy(&doc(&status), true));
    }
}
