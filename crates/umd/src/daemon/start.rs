//! From members to a running array: open, read, plan, start the thread. Blocking; never on an
//! array's thread.

use std::sync::Arc;

use tokio::sync::broadcast;
use umd_core::array::{Array, ArrayState, Commands, Event, Map, Options, Setup, Status};
use umd_core::assembly::{
    self, BitmapPlan, MemberFacts, Plan, Refusal, RefusalKind, SlotPlan, Wish,
};
use umd_core::cluster::NodeSlot;
use umd_core::value::{MemberId, Now, Pool, Rungs, SECTOR_BYTES};
use umd_disk::Mode;
use umd_export::nbd::ExportInfo;
use umd_format::update::Update;
use umd_format::v1::Features;
use umd_format::{Format, SuperblockV1};

use super::array::Handle;
use super::bitmap_file;
use super::cluster::{self, ClusterNode, Wanted};
use super::engine::{Engine, empty_status};
use super::household::Answer;
use super::join;
use super::launch::{Driven, Joined, LoopParts, launch};
use super::open::{self, How, Opened};
use super::registry::{Registry, Reservation, Taken};
use super::reserved;
use super::room;
use super::sync::mpsc;
use super::update::{self, Prepared};
use crate::api::{AssembleRequest, ErrorDoc, EventDoc};
use crate::cli::values;
use crate::member;
use crate::text::short_name;

impl Engine for Array {
    fn begin(&mut self, now: Now, out: &mut Commands) {
        Array::begin(self, now, out);
    }

    fn handle(&mut self, now: Now, event: Event, out: &mut Commands) {
        Array::handle(self, now, event, out);
    }

    fn status(&self) -> Status {
        Array::status(self)
    }

    fn map(&self, cells: u16) -> Map {
        Array::map(self, cells)
    }

    fn rungs(&self) -> Rungs {
        *Array::rungs(self)
    }
}

/// What a starting array needs of its household.
#[derive(Clone)]
pub struct Surroundings {
    /// Where it is entered.
    pub registry: Registry,
    /// Where its events go.
    pub events: broadcast::Sender<EventDoc>,
    /// Every array with parity may start unclean and degraded.
    pub start_dirty_degraded: bool,
}

impl Surroundings {
    /// Wishes, with what is granted to every array here.
    pub fn granting(&self, mut wishes: Wishes) -> Wishes {
        wishes.wish.start_dirty_degraded |= self.start_dirty_degraded;
        wishes
    }

    /// Takes a name.
    ///
    /// # Errors
    /// When it is in use.
    pub fn reserve(&self, name: &str) -> Answer<Reservation> {
        self.registry.reserve(name).map_err(|taken| ErrorDoc {
            leaving: taken == Taken::Leaving,
            ..ErrorDoc::new(taken.to_string())
        })
    }
}

/// How it is to start.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Name to run under; from the superblock when there is none.
    pub name: Option<String>,
    /// What the planner is told.
    pub wish: Wish,
    /// Only superblocks of this place.
    pub only: Option<Format>,
    /// What members would say if they had superblocks, in the order of the devices; they are read
    /// when this is not given.
    pub facts: Option<Vec<MemberFacts>>,
    /// The file that holds the bitmap.
    pub bitmap_file: Option<String>,
    /// Nothing is written before a host writes.
    pub read_auto: bool,
    /// How members were opened.
    pub how: How,
    /// A cluster has got them just now, and nobody has run them since.
    pub joined: bool,
}

/// A started array.
#[derive(Debug, Clone)]
pub struct Started {
    /// Its name.
    pub name: String,
    /// "3 drives (out of 4)".
    pub drives: String,
    /// What the user should read.
    pub messages: Vec<String>,
}

fn refused(text: impl Into<String>) -> ErrorDoc {
    ErrorDoc::new(text)
}

/// What an assemble request wishes.
///
/// # Errors
/// When a value of it makes no sense.
pub fn wishes(request: &AssembleRequest) -> Answer<Wishes> {
    let usage = |text: String| ErrorDoc {
        exit_code: 2,
        ..ErrorDoc::new(text)
    };
    let uuid = match &request.uuid {
        Some(text) => Some(
            text.parse()
                .map_err(|_| usage(format!("Bad uuid: {text}")))?,
        ),
        None => None,
    };
    let only = match &request.metadata {
        None => None,
        Some(word) => {
            Some(Format::parse(word).ok_or_else(|| usage(format!("no metadata version {word}")))?)
        }
    };
    Ok(Wishes {
        name: request.name.clone(),
        wish: Wish {
            force: request.force,
            start_dirty_degraded: request.start_dirty_degraded,
            run: request.run,
            no_degraded: request.no_degraded,
            readonly: request.readonly,
            uuid,
            name: request.set_name.clone(),
            clustered: request.cluster.is_some(),
            ..Wish::default()
        },
        only,
        facts: None,
        read_auto: request.read_auto,
        bitmap_file: request.bitmap_file.clone(),
        joined: false,
        how: How {
            readonly: request.readonly,
            overlay: request.overlay.as_ref().map(Into::into),
            engine: open::engine(request.io_engine.as_deref()).map_err(usage)?,
            faults: request.faults.clone(),
            cluster: request.cluster.clone(),
            storage: reserving(request),
        },
    })
}

/// The reservations of a node that is to have them.
fn reserving(request: &AssembleRequest) -> Option<Arc<cluster::Storage>> {
    let cluster = request.cluster.as_ref();
    cluster
        .filter(|one| one.reservations)
        .map(|_| Arc::default())
}

/// Opens the devices of a request and starts the array they make.
///
/// # Errors
/// When it is refused; nothing has been written then.
pub fn assemble(around: &Surroundings, request: &AssembleRequest) -> Answer<Started> {
    cluster::check(request)?;
    if join::cluster(request).is_none() {
        return assemble_as(around, request, wishes(request)?);
    }
    if request.cluster.is_none() {
        return Err(ErrorDoc {
            exit_code: 2,
            ..refused("an array that joins a cluster is started as a node of it: say how")
        });
    }
    // The name is free now, and was no reason to leave the members written and not started.
    drop(
        request
            .name
            .as_ref()
            .map(|name| around.reserve(name))
            .transpose()?,
    );
    let joining = join::prepare(request, false)?;
    let joined = joining.is_first();
    let messages = joining.write()?;
    let rest = AssembleRequest {
        update: None,
        nodes: None,
        ..request.clone()
    };
    let wishes = Wishes {
        joined,
        ..wishes(&rest)?
    };
    match assemble_as(around, &rest, wishes) {
        Ok(mut started) => {
            started.messages.splice(0..0, messages);
            Ok(started)
        }
        Err(mut error) => {
            error.messages.splice(0..0, messages);
            Err(error)
        }
    }
}

fn assemble_as(
    around: &Surroundings,
    request: &AssembleRequest,
    wishes: Wishes,
) -> Answer<Started> {
    if request.devices.is_empty() {
        return Err(refused("no devices were given to assemble an array from"));
    }
    if let Some(twice) = open::named_twice(&request.devices) {
        return Err(refused(format!("{twice} is listed more than once")));
    }
    let mut opened = Vec::new();
    let mut messages = Vec::new();
    for device in &request.devices {
        match open::open(device, &wishes.how) {
            Ok(one) => opened.push(one),
            // With a filter the devices are only candidates.
            Err(text) if request.uuid.is_some() || request.set_name.is_some() => {
                messages.push(text);
            }
            Err(text) => return Err(refused(text)),
        }
    }
    let (updates, wishes) = updated(&opened, request, wishes)?;
    if let Some(prepared) = updates {
        messages.push(prepared.write(&opened)?);
    }
    let mut started = start(around, None, opened, &wishes).map_err(|mut error| {
        error.messages.splice(0..0, messages.iter().cloned());
        error
    })?;
    started.messages.splice(0..0, messages);
    if let Some(dir) = &wishes.how.overlay {
        started.messages.push(format!(
            "writes go to copy-on-write files in {}, the members stay as they are",
            dir.display()
        ));
    }
    Ok(started)
}

/// What a request wants changed first, and its wishes for what comes after that.
///
/// # Errors
/// When it cannot be changed on one of the members; nothing has been written then.
pub fn updated(
    opened: &[Opened],
    request: &AssembleRequest,
    wishes: Wishes,
) -> Answer<(Option<Prepared>, Wishes)> {
    let Some(update) = update::of_request(request)? else {
        return Ok((None, wishes));
    };
    let facts = read_facts(opened, wishes.only);
    let before = update::wish_without(&update, &wishes.wish);
    let prepared = update::prepare(&update, opened, facts, &before)?;
    let wishes = Wishes {
        wish: before,
        // What was 0.90 is 1.0 now, and has to be found as that.
        only: wishes
            .only
            .filter(|_| !matches!(update, Update::Metadata { .. })),
        ..wishes
    };
    Ok((Some(prepared), wishes))
}

/// What the members say, and the plan made from it.
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The facts.
    pub facts: Vec<MemberFacts>,
    /// The name it will run under.
    pub name: String,
    /// What the user should read.
    pub messages: Vec<String>,
}

/// Reads the members and plans; identities are the places in `opened`.
///
/// # Errors
/// When the array is refused.
pub fn plan(opened: &[Opened], wishes: &Wishes) -> Answer<Planned> {
    let read = || match wishes.wish.clustered {
        true => cluster_facts(opened),
        false => read_facts(opened, wishes.only),
    };
    let facts: Vec<MemberFacts> = wishes.facts.clone().unwrap_or_else(read);
    if let Some(text) = needs_cluster(&facts, wishes).filter(|_| is_between(&facts, &wishes.wish)) {
        return Err(refused(text));
    }
    if wishes.wish.clustered && is_half(&facts, &wishes.wish) {
        let text = "some of its members are of a clustered array, and others of a plain one: who \
                    made it the one or the other was cut short; finish that (--update=cluster=NAME \
                    or --update=no-cluster=NAME), when no other host runs it";
        return Err(refused(text.to_owned()));
    }
    let plan = assembly::assemble(&facts, &wishes.wish).map_err(|refusal| {
        match needs_cluster(&facts, wishes) {
            Some(text) => refused(text),
            None => refusal_doc(&refusal, wishes.name.as_deref()),
        }
    })?;
    let name = match &wishes.name {
        Some(name) => name.clone(),
        None => {
            let reference = facts.iter().find(|fact| fact.id == plan.reference);
            let superblock = reference.and_then(|fact| fact.superblock.as_ref().ok());
            stored_name(superblock.expect("the planner's reference has a superblock"))?
        }
    };
    let mut messages: Vec<String> = plan.ignored.iter().map(|one| one.text.clone()).collect();
    messages.extend(plan.forced.iter().map(ToString::to_string));
    if plan.marked_clean {
        messages.push(format!("Marking array {name} as 'clean'"));
    }
    messages.extend(plan.warnings.iter().cloned());
    Ok(Planned {
        plan,
        facts,
        name,
        messages,
    })
}

/// Why a clustered array is not started like any other.
fn needs_cluster(facts: &[MemberFacts], wishes: &Wishes) -> Option<String> {
    let shared = |fact: &&MemberFacts| {
        let found = fact.superblock.as_ref();
        found.is_ok_and(|found| found.fields.features.contains(Features::CLUSTERED))
    };
    let fact = facts
        .iter()
        .find(shared)
        .filter(|_| !wishes.wish.clustered)?;
    Some(format!(
        "{} is of a clustered array, which other hosts may be running: start it as a node of its \
         cluster (--cluster-engine), or make it a plain one (--update=no-cluster=NAME); the \
         members are left as they are",
        fact.name
    ))
}

/// Whether some members are of a clustered array, and others, as new, of a plain one: who made it
/// the one or the other was cut short. Of one that left long ago nobody asks that.
fn is_between(facts: &[MemberFacts], wish: &Wish) -> bool {
    newest(facts, wish).iter().any(|one| is_clustered(one))
}

/// The same where they are to start as a clustered one.
fn is_half(facts: &[MemberFacts], wish: &Wish) -> bool {
    let newest = newest(facts, wish);
    let of_one = |one: &&SuperblockV1| newest[0].fields.set_uuid == one.fields.set_uuid;
    let shared = newest.iter().filter(|one| of_one(one) && is_clustered(one));
    let (shared, all) = (
        shared.count(),
        newest.iter().filter(|one| of_one(one)).count(),
    );
    shared > 0 && shared < all
}

fn is_clustered(one: &SuperblockV1) -> bool {
    one.fields.features.contains(Features::CLUSTERED)
}

/// Superblocks that are as new as the newest of their array, or were just before.
fn newest<'a>(facts: &'a [MemberFacts], wish: &Wish) -> Vec<&'a SuperblockV1> {
    let found = facts.iter().flat_map(|fact| &fact.superblock);
    let found = found.filter(|one| wish.uuid.is_none_or(|uuid| uuid == one.fields.set_uuid));
    let found: Vec<&SuperblockV1> = found.collect();
    let is_new = |one: &&SuperblockV1| {
        let same = found.iter().map(|other| &other.fields);
        let same = same.filter(|other| other.set_uuid == one.fields.set_uuid);
        let newest = same.map(|other| other.events).max();
        newest.is_some_and(|newest| one.fields.events + 1 >= newest)
    };
    found.iter().copied().filter(is_new).collect()
}

/// What every node can see before it has joined: the bitmap of the first.
fn cluster_facts(opened: &[Opened]) -> Vec<MemberFacts> {
    let id = |index: usize| MemberId(u32::try_from(index).expect("fewer than 2^32 devices"));
    let numbered = opened.iter().enumerate();
    let facts = numbered.map(|(index, one)| cluster::facts(id(index), one, NodeSlot(0)));
    facts.collect()
}

pub(super) fn read_facts(opened: &[Opened], only: Option<Format>) -> Vec<MemberFacts> {
    let id = |index: usize| MemberId(u32::try_from(index).expect("fewer than 2^32 devices"));
    let numbered = opened.iter().enumerate();
    let facts = numbered.map(|(index, one)| open::facts(id(index), one, only));
    facts.collect()
}

/// The planner's refusal, in mdadm's form: counts follow the array's name.
pub(super) fn refusal_doc(refusal: &Refusal, name: Option<&str>) -> ErrorDoc {
    let counted = matches!(
        refusal.kind,
        RefusalKind::NotEnough { .. }
            | RefusalKind::NotEnoughWhileUnclean { .. }
            | RefusalKind::Incomplete { .. }
    );
    let mut error = match name {
        _ if !counted => refused(refusal.to_string()),
        Some(name) => refused(format!("{name} {refusal}")),
        None => refused(format!("array {refusal}")),
    };
    error.messages = refusal.ignored.iter().map(|one| one.text.clone()).collect();
    error
}

/// The name an array runs under when nobody says.
pub(super) fn stored_name(superblock: &SuperblockV1) -> Answer<String> {
    match superblock.format() {
        Format::V090 => Ok(format!("md{}", superblock.fields.preferred_minor)),
        Format::V1(_) | Format::Bare => running_name(&superblock.fields.name()),
    }
}

/// The name behind a stored one: the stored one without its host; a bare number
/// becomes `mdN`.
fn running_name(set_name: &str) -> Answer<String> {
    let short = short_name(set_name);
    let name = match short.bytes().all(|byte| byte.is_ascii_digit()) && !short.is_empty() {
        true => format!("md{short}"),
        false => short.to_owned(),
    };
    values::array_name(&name).map_err(|_| {
        refused(format!(
            "the array's stored name '{set_name}' cannot be used; give a name before the devices"
        ))
    })
}

/// Plans and starts the array of these members.
///
/// # Errors
/// When it is refused, its name is taken, or the system has no thread for it. Nothing has been
/// written then.
pub fn start(
    around: &Surroundings,
    reservation: Option<Reservation>,
    opened: Vec<Opened>,
    wishes: &Wishes,
) -> Answer<Started> {
    let Planned {
        plan,
        facts,
        name,
        mut messages,
    } = plan(&opened, &around.granting(wishes.clone()))?;
    if !wishes.how.readonly {
        messages.extend(room::warnings(opened.iter().map(|one| &one.file)));
    }
    let reservation = match reservation {
        Some(reservation) => reservation,
        None => around.reserve(&name)?,
    };
    let name = reservation.name().to_owned();
    let (uuid, drives) = (plan.uuid, plan.drives());
    let stored = plan.format.is_stored().then_some(uuid);
    let export = export_of(&name, &plan, wishes.how.readonly);
    let ready = made_ready(opened, (plan, facts), wishes, Pool::new())?;
    let pool = ready.setup.pool.clone();
    let system = |error: std::io::Error| refused(format!("cannot start {name}: {error}"));
    let (handle, inbox) =
        Handle::new(export, around.events.clone(), wishes.how.clone()).map_err(system)?;
    let handle = handle.under(reserved::of(&name, stored, &wishes.how).map_err(refused)?);
    let joining = Joining {
        name: &name,
        wanted: ready.wanted,
        looks: ready.looks,
        wish: around.granting(wishes.clone()).wish,
    };
    let (driven, joined) = joining.driven(ready.setup, &handle)?;
    let parts = LoopParts {
        name: name.clone(),
        driven,
        members: ready.members,
        pool,
        ends: (handle.clone(), inbox),
    };
    let id = reservation
        .fill(uuid, handle)
        .map_err(|taken| refused(taken.to_string()))?;
    launch(around, id, parts, joined)?;
    Ok(Started {
        name,
        drives,
        messages,
    })
}

/// What an array's engine is made of.
struct Ready {
    wanted: Option<Wanted>,
    looks: Vec<Opened>,
    setup: Setup,
    members: Vec<(MemberId, Opened)>,
}

/// All that a plan needs of its members.
fn made_ready(
    opened: Vec<Opened>,
    (mut plan, facts): (Plan, Vec<MemberFacts>),
    wishes: &Wishes,
    pool: Pool,
) -> Answer<Ready> {
    let wanted = wanted(&opened, &plan, &facts, wishes)?;
    let looks = looks(&opened, wishes)?;
    let (bitmap, bitmap_area) = bitmap(&opened, &mut plan, &facts, wishes)?;
    let used = used_members(&plan);
    let setup = Setup {
        plan,
        facts,
        bitmap_area,
        pool,
        options: Options {
            read_only: wishes.how.readonly,
            read_auto: wishes.read_auto,
            bitmap_file: bitmap.as_ref().map(|(id, file)| (*id, file.name.clone())),
            ..Options::default()
        },
    };
    Ok(Ready {
        wanted,
        looks,
        setup,
        members: kept(opened, &used).chain(bitmap).collect(),
    })
}

/// What an array goes on with that is served already.
pub struct Revived {
    /// Its engine.
    pub driven: Driven,
    /// Its members.
    pub members: Vec<(MemberId, Opened)>,
    /// Told when it serves, if that is not at once.
    pub joined: Joined,
}

/// Plans an array that is served already, and whose members have been rewritten: its handle and its
/// buffers stay.
///
/// # Errors
/// When it is refused. Nothing has been written then.
pub fn revive(
    around: &Surroundings,
    (name, handle): (&str, &Handle),
    opened: Vec<Opened>,
    wishes: &Wishes,
    pool: &Pool,
) -> Answer<Revived> {
    let granted = around.granting(wishes.clone());
    let Planned { plan, facts, .. } = plan(&opened, &granted)?;
    let ready = made_ready(opened, (plan, facts), wishes, pool.clone())?;
    handle.run_as(wishes.how.clone());
    let joining = Joining {
        name,
        wanted: ready.wanted,
        looks: ready.looks,
        wish: granted.wish,
    };
    let (driven, joined) = joining.driven(ready.setup, handle)?;
    Ok(Revived {
        driven,
        members: ready.members,
        joined,
    })
}

/// Members that hold a slot or are spares.
fn used_members(plan: &Plan) -> Vec<MemberId> {
    let holders = plan.slots.iter().filter_map(|slot| match slot {
        SlotPlan::InSync(id) | SlotPlan::Recovering { member: id, .. } => Some(*id),
        SlotPlan::Stale(_) | SlotPlan::Missing => None,
    });
    let replacements = plan.replacements.iter().map(|one| one.member);
    let holders = holders.chain(replacements);
    holders.chain(plan.spares.iter().copied()).collect()
}

/// Those that are used, with their identities; the others are closed, and so unlocked, here.
fn kept(opened: Vec<Opened>, used: &[MemberId]) -> impl Iterator<Item = (MemberId, Opened)> {
    let id = |index: usize| MemberId(u32::try_from(index).expect("few devices"));
    let numbered = opened.into_iter().enumerate();
    let numbered = numbered.map(move |(index, one)| (id(index), one));
    numbered.filter(|(id, _)| used.contains(id))
}

/// What the cluster of an array that is run by one asks for.
fn wanted(
    opened: &[Opened],
    plan: &Plan,
    facts: &[MemberFacts],
    wishes: &Wishes,
) -> Answer<Option<Wanted>> {
    let request = wishes.how.cluster.as_ref();
    let wanted = request.map(|one| Wanted::of(one, plan, (opened, facts, wishes.joined)));
    wanted.transpose()
}

/// An array that is about to be driven, as that of this host or as a node of its cluster.
struct Joining<'a> {
    name: &'a str,
    wanted: Option<Wanted>,
    looks: Vec<Opened>,
    wish: Wish,
}

impl Joining<'_> {
    fn driven(self, setup: Setup, handle: &Handle) -> Answer<(Driven, Joined)> {
        let Some(wanted) = self.wanted else {
            return Ok((Driven::Array(Box::new(setup)), None));
        };
        let (report, joined) = mpsc::sync_channel(1);
        let lease = wanted.watchdog()?;
        let service = wanted.connect(handle.waker())?;
        let parts = cluster::Parts {
            name: self.name.to_owned(),
            before: not_read(&setup.plan),
            request: wanted.request,
            capacity: wanted.capacity,
            looks: self.looks,
            how: handle.how(),
            wish: self.wish,
            pool: setup.pool,
            report,
            lease,
        };
        let node = ClusterNode::new(parts, service, handle.waker());
        Ok((Driven::Node(Box::new(node)), Some(joined)))
    }
}

/// The members once more, without a lock: a node reads them after it has joined.
fn looks(opened: &[Opened], wishes: &Wishes) -> Answer<Vec<Opened>> {
    if !wishes.wish.clustered {
        return Ok(Vec::new());
    }
    let look = |one: &Opened| {
        let file = member::open(one.file.path(), Mode::Examine, wishes.how.engine);
        let name = one.name.clone();
        file.map(|file| Opened { name, file })
            .map_err(|error| refused(open::open_text(error)))
    };
    opened.iter().map(look).collect()
}

/// What is shown of an array that has not read its members yet.
fn not_read(plan: &Plan) -> Status {
    Status {
        state: ArrayState::Inactive,
        uuid: plan.uuid.0,
        set_name: plan.name.clone(),
        level: plan.level.to_raw(),
        raid_disks: plan.raid_disks,
        array_sectors: plan.array_sectors,
        ..empty_status()
    }
}

/// A bitmap's file with its identity, and a bitmap's bytes.
type Bitmap = (Option<(MemberId, Opened)>, Option<Vec<u8>>);

/// The bitmap: from the file that was named, or from a member.
fn bitmap(
    opened: &[Opened],
    plan: &mut Plan,
    facts: &[MemberFacts],
    wishes: &Wishes,
) -> Answer<Bitmap> {
    if wishes.wish.clustered {
        return Ok((None, None)); // A node reads that of its slot when it has joined.
    }
    let Some(path) = &wishes.bitmap_file else {
        return Ok((None, bitmap_area(opened, plan, facts)?));
    };
    let id = MemberId(u32::try_from(opened.len()).expect("few devices"));
    let taken = bitmap_file::take(path, id, plan, facts, &wishes.how)?;
    Ok((Some((id, taken.opened)), Some(taken.area)))
}

/// The bitmap as it lies on the member the plan names.
fn bitmap_area(opened: &[Opened], plan: &Plan, facts: &[MemberFacts]) -> Answer<Option<Vec<u8>>> {
    let (source, superblock) = match &plan.bitmap {
        BitmapPlan::None => return Ok(None),
        BitmapPlan::Usable { source, superblock } | BitmapPlan::Stale { source, superblock } => {
            (*source, superblock)
        }
    };
    let fact = facts.iter().find(|fact| fact.id == source);
    let fields = fact.and_then(|fact| fact.superblock.as_ref().ok());
    let sector = fields
        .and_then(|superblock| superblock.fields.bitmap_sector())
        .expect("the planner found a bitmap on this member");
    // The size that the bitmap itself names is not asked: it has no checksum, and what it may say
    // would not fit into memory.
    let sectors = superblock.area_sectors(superblock.regions(plan.sync_sectors()));
    let member = &opened[source.0 as usize];
    // The last page may reach into what lies behind on a full device; bits never do.
    let room = member.file.size_sectors().saturating_sub(sector);
    let bytes = usize::try_from(sectors.min(room) * SECTOR_BYTES)
        .map_err(|_| refused("the bitmap does not fit into memory"))?;
    let area = member.file.read_at(sector * SECTOR_BYTES, bytes);
    area.map(Some).map_err(|error| {
        refused(format!(
            "cannot read the bitmap of {}: {error}",
            member.name
        ))
    })
}

fn export_of(name: &str, plan: &Plan, read_only: bool) -> ExportInfo {
    let chunk_bytes = plan.chunk_sectors.saturating_mul(512);
    ExportInfo {
        name: name.to_owned(),
        description: format!("{} array {}", plan.level, plan.name),
        size_sectors: plan.array_sectors,
        logical_block_bytes: plan.logical_block_bytes.max(512),
        preferred_bytes: chunk_bytes.max(4096),
        read_only,
    }
}

#[cfg(all(test, feature = "shuttle"))]
#[path = "start_shuttle.rs"]
mod shuttled;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_run_under_their_stored_name() {
        assert_eq!(running_name("host:r5").ok().as_deref(), Some("r5"));
        assert_eq!(running_name("host:0").ok().as_deref(), Some("md0"));
        assert_eq!(running_name("plain").ok().as_deref(), Some("plain"));
        for bad in ["", "host:", "a/b", "host:a b"] {
            assert!(running_name(bad).is_err(), "{bad}");
        }
    }
}
