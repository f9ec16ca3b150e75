//! An array that is run as one node of its cluster: what the loop drives instead of the array.
//!
//! ```text
//!   loop --- events, tend ----> ClusterNode -----------> commands --- loop
//!                                |  |  ^
//!                  service <-----'  |  '---- events of the lock service, proofs: they wake it
//!      umd_cluster::Engine          v
//!                             fencing: a thread for each attempt
//! ```
//!
//! All of it goes by the clock of the lock service's engine. Members are read again when the node
//! has joined: others may have written since they were opened.
//!
//! To stop is to leave the cluster first; only then the thread ends, and members are let go. A node
//! whose session has run out leaves nothing to be stopped: its array ends here.

#[cfg(feature = "etcd")]
mod access;
mod connect;
mod fencing;
mod kennel;
mod parting;
mod search;
mod storage;

use std::collections::VecDeque;
use std::sync::Arc;

use umd_cluster::Engine as Service;
use umd_core::array::{
    Array, Clustered, Command, Commands, Control, ControlError, ControlReply, Event, Input, Map,
    Options, Output, Request, RequestError, Setup, Status,
};
use umd_core::assembly::{self, BitmapPlan, MemberFacts, Wish};
use umd_core::cluster::{Cannot, End, Freeze, NodeSlot, ServiceCommand, ServiceEvent, WaitFor};
use umd_core::value::{
    ControlId, Instant, MemberId, NewMember, Notice, Now, Pool, Rungs, SECTOR_BYTES,
};
use umd_format::bitmap::{SUPERBLOCK_BYTES, Unverified};
use umd_format::v1::Features;

pub use connect::{MEMORY, Wanted, check, reachable};

use super::engine::{Ending, Engine, Newcomer, Permit};
use super::open::{self, How, Opened};
use super::sync::mpsc::SyncSender;
use crate::api::ClusterRequest;
use crate::cli::outcome::say;
use crate::doc::{ClusterDoc, NodeDoc};
pub(super) use fencing::Fencing;
pub use kennel::{DEVICE as WATCHDOG, Lease};
use parting::Parting;
pub(super) use search::Search;
pub use storage::Storage;

/// Told once: the array serves, or why it never will.
pub type Report = SyncSender<Result<(), String>>;

/// What a node is made of.
pub struct Parts {
    /// The name of the array.
    pub name: String,
    /// How it is run.
    pub request: ClusterRequest,
    /// How many bitmaps the members have.
    pub capacity: u16,
    /// The members in the order of their identities, once more and without a lock, to be read.
    pub looks: Vec<Opened>,
    /// How members are opened.
    pub how: Arc<How>,
    /// What the planner is told.
    pub wish: Wish,
    /// Where buffers come from.
    pub pool: Pool,
    /// What is shown before the members were read.
    pub before: Status,
    /// Whom to tell.
    pub report: Report,
    /// The watchdog, if it is to end this host when the session is lost.
    pub lease: Option<Lease>,
}

/// A node of a cluster.
pub struct ClusterNode {
    parts: Parts,
    array: Clustered,
    service: Box<dyn Service>,
    fencing: Fencing,
    search: Search,
    inputs: VecDeque<Input>,
    /// Who wants it stopped.
    stopping: Vec<ControlId>,
    /// It was told to leave.
    leaving: bool,
    parting: Parting,
    /// Why the members could not be read.
    unread: Option<String>,
    reported: bool,
}

/// What a member says of itself to the node in this slot.
pub fn facts(id: MemberId, opened: &Opened, slot: NodeSlot) -> MemberFacts {
    let mut facts = open::facts(id, opened, None);
    let Ok(found) = &facts.superblock else {
        return facts;
    };
    if !found.fields.features.contains(Features::CLUSTERED) {
        return facts; // The planner says what it is.
    }
    let uuid = found.bitmap_uuid();
    let read = |sector: u64| {
        let at = sector.checked_mul(SECTOR_BYTES)?;
        opened.file.read_at(at, SUPERBLOCK_BYTES).ok()
    };
    let bitmap = |sector: u64| {
        let bytes = read(sector)?;
        Some(Unverified::parse(&bytes).and_then(|one| one.verify_node(uuid)))
    };
    facts.bitmap = found.fields.bitmap_sector().and_then(|start| {
        let first = bitmap(start)?;
        let Ok(first) = first else {
            return Some(first);
        };
        if first.is_moving() {
            // Nothing lies behind it that could be believed.
            return Some(Ok(first));
        }
        let each = first.area_sectors(first.regions(first.fields.sync_size_sectors));
        bitmap(start.checked_add(each.checked_mul(u64::from(slot.0))?)?)
    });
    facts
}

impl ClusterNode {
    /// A node that has not begun to join.
    pub fn new(parts: Parts, service: Box<dyn Service>, waker: umd_cluster::Waker) -> ClusterNode {
        let fencing = Fencing::new(&parts.request, parts.how.storage.as_ref(), waker.clone());
        let search = Search::new(parts.how.clone(), waker);
        ClusterNode::with(parts, service, fencing, search)
    }

    /// The same, with ways to fence and to find disks.
    pub(super) fn with(
        parts: Parts,
        service: Box<dyn Service>,
        fencing: Fencing,
        search: Search,
    ) -> ClusterNode {
        let setup = umd_core::cluster::Setup::new(parts.capacity);
        ClusterNode {
            array: Clustered::new(setup),
            service,
            fencing,
            search,
            inputs: VecDeque::new(),
            stopping: Vec::new(),
            leaving: false,
            parting: Parting::default(),
            unread: None,
            reported: false,
            parts,
        }
    }

    /// A text that names nodes, with their hosts beside them.
    fn with_hosts(&self, mut text: String) -> String {
        for peer in self.array.node().peers() {
            let about = self.service.about(peer);
            if let Some(host) = about.and_then(|about| about.host) {
                let (node, slot) = (format!("{}: ", peer.slot), peer.slot);
                text = text.replace(&node, &format!("{slot} ({host}): "));
            }
        }
        text
    }

    fn report(&mut self, outcome: Result<(), String>) {
        if !std::mem::replace(&mut self.reported, true) {
            let _ = self.parts.report.send(outcome); // Nobody may be waiting any more.
        }
    }

    fn step(&mut self, now: Now, input: Input, out: &mut Commands) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let mut outputs = Vec::new();
            self.array.handle(now, input, &mut outputs);
            for output in outputs {
                self.carry_out(now, output, out);
            }
        }
    }

    fn carry_out(&mut self, now: Now, output: Output, out: &mut Commands) {
        match output {
            Output::Array(Command::Answer { id, result }) => {
                let result = result.map_err(|error| error.reword(|text| self.with_hosts(text)));
                out.push(Command::Answer { id, result });
            }
            Output::Array(command) => out.push(command),
            Output::Service(ServiceCommand::Leave(how)) if self.parting.is_draining() => {
                self.close(how, now.mono);
            }
            Output::Service(command) => {
                self.parting.note(&command);
                self.service.submit(command);
            }
            Output::Load(slot) => {
                let loaded = self.load(slot);
                self.inputs.push_back(Input::Loaded(loaded));
            }
            Output::Fence(peer) => {
                let about = self.service.about(peer);
                self.fencing.begin(peer, about, now.mono);
            }
            Output::Find(disk) => self.search.begin(disk),
            Output::Ready => {
                // It may have got another size since its members were opened.
                out.push(Command::Notify(Notice::Changed));
                self.report(Ok(()));
            }
            Output::NotJoined(why) => {
                let trouble = self.service.trouble();
                let more = trouble.map_or(String::new(), |text| format!(" ({text})"));
                self.report(Err(format!("{why}{more}")));
            }
            Output::NotLoaded(why) => {
                let text = self.unread.take().unwrap_or_else(|| why.to_string());
                self.report(Err(text));
            }
            Output::Refused(message, blame) => {
                let name = &self.parts.name;
                say(&format!("{name}: {message} was refused: {blame}"));
            }
            Output::Frozen(Some(Freeze::Lost)) => {
                // Nobody has to say so: what waits is answered, and the members are let go.
                if !std::mem::replace(&mut self.leaving, true) {
                    self.inputs.push_back(Input::Stop);
                }
            }
            Output::Frozen(why) => {
                let name = &self.parts.name;
                let text = why.map_or("writes go on".into(), |why| why.to_string());
                say(&format!("{name}: {text}"));
            }
            Output::Over(end) => self.over(end, out),
        }
    }

    /// Registers and reserves on all members, where that is asked for.
    fn reserve(&self) -> Result<(), String> {
        let Some(storage) = &self.parts.how.storage else {
            return Ok(());
        };
        let me = self
            .array
            .node()
            .me()
            .expect("who reads members has joined");
        let members = self.parts.looks.iter().map(|one| one.name.clone());
        storage.take(me, &members.collect::<Vec<_>>())
    }

    fn over(&mut self, end: End, out: &mut Commands) {
        self.parting.end = Some(end);
        if end != End::Lost {
            // A disk may keep whoever lets it go waiting for longer than a watchdog does.
            if let Some(lease) = self.parts.lease.take() {
                lease.left();
            }
            if let Some(storage) = &self.parts.how.storage {
                storage.release();
            }
        }
        self.report(Err("it left the cluster before it served".into()));
        if end == End::Lost {
            let name = &self.parts.name;
            say(&format!(
                "{name}: the session with the lock service has ended, so others go on without this \
                 node: the array was stopped here"
            ));
        }
        for id in std::mem::take(&mut self.stopping) {
            let result = Ok(ControlReply::Done);
            out.push(Command::Answer { id, result });
        }
        out.push(Command::Stopped);
    }

    /// Reads the members, now that nobody changes them unseen.
    fn load(&mut self, slot: NodeSlot) -> Result<Box<Setup>, Cannot> {
        if let Err(why) = self.reserve() {
            self.unread = Some(why);
            return Err(Cannot::Read);
        }
        let numbered = self.parts.looks.iter().enumerate();
        let id = |index: usize| MemberId(u32::try_from(index).expect("few devices"));
        let facts: Vec<MemberFacts> = numbered
            .map(|(index, one)| facts(id(index), one, slot))
            .collect();
        let plan = match assembly::assemble(&facts, &self.parts.wish) {
            Ok(plan) => plan,
            Err(refusal) => {
                self.unread = Some(refusal.to_string());
                return Err(Cannot::Read);
            }
        };
        let (BitmapPlan::Usable { source, superblock } | BitmapPlan::Stale { source, superblock }) =
            &plan.bitmap
        else {
            self.unread = Some(format!("no member has a bitmap of {slot} that can be used"));
            return Err(Cannot::Read);
        };
        let each = superblock.area_sectors(superblock.regions(plan.sync_sectors()));
        let fact = facts.iter().find(|fact| fact.id == *source);
        let found = fact.and_then(|fact| fact.superblock.as_ref().ok());
        let start = found.and_then(|found| found.fields.bitmap_sector());
        let start = start.expect("the planner found a bitmap there");
        let at = (start + each * u64::from(slot.0)) * SECTOR_BYTES;
        let file = &self.parts.looks[source.0 as usize].file;
        let area = usize::try_from(each * SECTOR_BYTES).map_err(|_| Cannot::Read)?;
        let area = file.read_at(at, area).map_err(|error| {
            self.unread = Some(format!("the bitmap of {slot} cannot be read: {error}"));
            Cannot::Read
        })?;
        Ok(Box::new(Setup {
            bitmap_area: Some(area),
            plan,
            facts,
            pool: self.parts.pool.clone(),
            options: Options::default(),
        }))
    }

    fn hear(&mut self, now: Now, event: ServiceEvent, out: &mut Commands) {
        if let ServiceEvent::RecoveryEnded { peer, .. } = &event {
            self.fencing.forget(*peer);
        }
        self.step(now, Input::Service(event), out);
    }

    /// What cannot be asked yet: there is no array.
    fn too_early(&mut self, event: Event, out: &mut Commands) {
        let mut refuse = |request: &Request| {
            let id = request.id;
            let result = Err(RequestError::Io("the array is being started".into()));
            out.push(Command::Complete { id, result });
        };
        match event {
            Event::Request(request) => refuse(&request),
            Event::Requests(requests) => requests.iter().for_each(refuse),
            Event::Control(id, _) => {
                let result = Err(ControlError::Busy("the array is being started".into()));
                out.push(Command::Answer { id, result });
            }
            Event::Done(_) | Event::Ended(_) | Event::Timer(_) => {}
        }
    }

    fn nodes(&self) -> Vec<NodeDoc> {
        let node = self.array.node();
        let waited = node.waits();
        (0..self.parts.capacity)
            .map(|number| {
                let slot = NodeSlot(number);
                let me = node.me().filter(|me| me.slot == slot);
                let peer = node.peers().find(|peer| peer.slot == slot);
                let dead = waited.iter().any(|wait| {
                    matches!(wait.what, WaitFor::Proof(of) | WaitFor::Recovery(of) if of == slot)
                });
                let tried = self.fencing.of(slot).filter(|_| dead);
                let life = me.or(peer).or(tried.as_ref().map(|(peer, _)| *peer));
                let about = life.and_then(|life| self.service.about(life));
                let state = match (me.is_some(), peer.is_some(), dead) {
                    (true, ..) => "this",
                    (_, true, _) => "member",
                    (.., true) => "dead",
                    _ => "free",
                };
                NodeDoc {
                    node: number,
                    host: about.and_then(|about| about.host),
                    state: state.into(),
                    reason: tried.and_then(|(_, why)| why),
                }
            })
            .collect()
    }
}

impl Engine for ClusterNode {
    fn begin(&mut self, now: Now, out: &mut Commands) {
        if let Some(lease) = &mut self.parts.lease {
            lease.watch(self.service.validity());
        }
        self.step(now, Input::Start, out);
    }

    fn handle(&mut self, now: Now, event: Event, out: &mut Commands) {
        match event {
            Event::Control(id, Control::Stop) => {
                self.stopping.push(id);
                if !std::mem::replace(&mut self.leaving, true) {
                    self.step(now, Input::Stop, out);
                }
            }
            event if self.array.array().is_none() => self.too_early(event, out),
            event => self.step(now, Input::Array(event), out),
        }
    }

    fn status(&self) -> Status {
        let array = self.array.array();
        array.map_or_else(|| self.parts.before.clone(), Array::status)
    }

    fn map(&self, cells: u16) -> Map {
        let array = self.array.array();
        array.map_or_else(Map::default, |array| array.map(cells))
    }

    fn rungs(&self) -> Rungs {
        let array = self.array.array();
        array.map_or_else(Rungs::default, |array| *array.rungs())
    }

    fn clock(&self) -> Option<Instant> {
        Some(self.service.now())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.array.next_deadline(), self.parting.deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn tend(&mut self, now: Now, out: &mut Commands) {
        while let Some(event) = self.service.try_event() {
            if !self.hear_parting(&event) {
                self.hear(now, event, out);
            }
        }
        self.tend_parting(now.mono);
        for (peer, answer) in self.fencing.answers() {
            let input = match answer {
                Ok(proof) => Input::Fenced(proof),
                Err(why) => {
                    say(&format!("{}: {why}", self.parts.name));
                    Input::NotFenced(peer)
                }
            };
            self.step(now, input, out);
        }
        if self.array.next_deadline().is_some_and(|at| at <= now.mono) {
            self.step(now, Input::Tick, out);
        }
    }

    fn newcomer(&mut self) -> Option<Newcomer> {
        self.search.next(&self.parts.name)
    }

    fn meet(&mut self, uuid: [u8; 16], new: Option<NewMember>, now: Now, out: &mut Commands) {
        self.step(now, Input::Found(uuid, new), out);
    }

    fn cluster(&self) -> Option<ClusterDoc> {
        let (node, now) = (self.array.node(), self.service.now());
        let waits = node.waits().into_iter();
        Some(ClusterDoc {
            name: self.parts.request.name.clone(),
            engine: self.parts.request.engine.clone(),
            node: node.me().map(|me| me.slot.0),
            nodes: self.nodes(),
            waits: waits.map(|wait| wait.told(now)).collect(),
            frozen: node.frozen().map(ToString::to_string),
            trouble: self.service.trouble(),
            fencing: fencing::ways(&self.parts.request),
        })
    }

    fn let_go(&mut self, name: &str) {
        // Who lost the cluster keeps its keys: it is cut off when others take them away.
        let lost = self.leaving || self.array.node().frozen() == Some(&Freeze::Lost);
        if let (Some(storage), false) = (&self.parts.how.storage, lost) {
            storage.let_go(name);
        }
    }

    fn confirm_dead(&mut self, node: u16, now: Now, out: &mut Commands) -> Result<(), String> {
        let proof = self.fencing.confirm(NodeSlot(node))?;
        self.step(now, Input::Fenced(proof), out);
        Ok(())
    }

    fn rest(&mut self, id: ControlId, now: Now, out: &mut Commands) {
        self.begin_parting(id, now, out);
    }

    fn rests(&self) -> bool {
        self.is_alone()
    }

    fn permit(&self) -> Permit {
        self.permit_of_session()
    }

    fn turned(&mut self, rewritten: bool, _: Now, _: &mut Commands) {
        self.part(rewritten);
    }

    fn ending(&self) -> Ending {
        ClusterNode::ending(self)
    }
}
