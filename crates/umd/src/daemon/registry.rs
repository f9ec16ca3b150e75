//! The arrays by name, oldest first: what the control API and the doors share.
//!
//! ```text
//!   doors, control API --> Registry --event--> umd_core::registry::Names --Effects--+
//!                             ^  bodies: what each object is (nothing, members, array)
//!                             +------------- carried out here, under one lock ------+
//!                                            who waits is woken: threads, doors, tasks
//! ```
//!
//! Who may open what, who waits for whom and when a name is free again is decided by the core's
//! machine; here are the handles that its numbers stand for. Whatever claims something of a name is
//! a value that gives it back when it is dropped: a reservation, a question, an admission.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};
use umd_core::registry::{
    Answered, Effect, Names, ObjectId, Onto, Phase, Refusal, Started, Stop, Ticket, Word,
};
use umd_export::nbd::{
    Deciding, Demand, Denied, ExportInfo, Exports, Opening, Peer, ReservationState,
};
use umd_format::Uuid;

use super::admission::Visit;
use super::array::{Handle, Message};
use super::demands;
use super::lobby::Lobby;
use super::sync::{Condvar, Mutex, MutexGuard};
use crate::api::{EventDoc, OpenerDoc, SCHEMA};
use crate::cli::values;

/// How long a new array waits for the old one of its name to be gone.
const DELETION_PATIENCE: Duration = Duration::from_secs(30);
/// Events kept where nobody has said.
const EVENTS_KEPT: usize = 4;

/// What an object is.
enum Content {
    /// A name.
    Nothing,
    /// Members that do not run.
    Members(Uuid),
    Array {
        uuid: Uuid,
        handle: Handle,
    },
}

struct Body {
    name: String,
    content: Content,
}

struct Inner {
    names: Names,
    /// In the order in which they were made.
    bodies: BTreeMap<ObjectId, Body>,
    /// Answers that nobody has fetched yet.
    answers: BTreeMap<Ticket, Result<ObjectId, Refusal>>,
    openers: BTreeMap<Ticket, Peer>,
    /// What wakes the doors, where clients may wait.
    doors: Vec<Arc<OwnedFd>>,
    lobby: Option<Lobby>,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    events: broadcast::Sender<EventDoc>,
    ended: Arc<Notify>,
}

/// All arrays. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

/// A name that is taken while its array is being started. Dropping it frees the name, or leaves
/// what was there before.
pub struct Reservation {
    registry: Registry,
    name: String,
    id: ObjectId,
    ticket: Option<Ticket>,
}

/// The name of members that do not run. Dropping it lets the name go: they are closed by then.
pub struct Held {
    registry: Registry,
    name: String,
    /// `None` once the name was taken again.
    id: Option<ObjectId>,
}

/// Why an array cannot run under a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// The name is in use.
    #[error("an array named {0} is running already; choose another name")]
    Name(String),
    /// The name is in use, by members that do not run.
    #[error(
        "an array named {0} is there already and does not run: start it with umd manage {0} --run, \
         or let its members go with umd stop {0}"
    )]
    Inactive(String),
    /// The array is.
    #[error("the array {uuid} is running already, as {name}")]
    Array {
        /// Which.
        uuid: Uuid,
        /// Under which name.
        name: String,
    },
    /// There is no inactive array of this name.
    #[error("{0} is not an array that waits to be started")]
    NotThere(String),
    /// The old one does not come to its end.
    #[error("the array {0} is still being stopped; try again when it is gone")]
    Stopping(String),
    /// This process is about to end; another one will have to take the array.
    #[error("the daemon is leaving")]
    Leaving,
}

/// What a stop has to go on with.
pub enum ToStop {
    /// Nothing: the name was let go.
    Nothing(ObjectId),
    /// A running array: its thread is to be asked.
    Array(ObjectId, Handle),
    /// Members: whoever holds them is to let them go.
    Members(ObjectId),
}

/// Why nothing is stopped.
#[derive(Debug)]
pub struct NotStopped {
    /// Why.
    pub why: Refusal,
    /// Who has it open.
    pub openers: Vec<OpenerDoc>,
}

/// A control request to something under a name: it stays until this is dropped.
pub struct Asked {
    registry: Registry,
    ticket: Ticket,
    answered: Answered,
}

impl Default for Registry {
    fn default() -> Registry {
        let events = broadcast::channel(EVENTS_KEPT).0;
        Registry::new(events, Arc::new(Notify::new()), false)
    }
}

impl Registry {
    /// None yet. What becomes of names is told to `events`, and `ended` whenever one is gone.
    pub fn new(
        events: broadcast::Sender<EventDoc>,
        ended: Arc<Notify>,
        create_on_open: bool,
    ) -> Registry {
        let inner = Inner {
            names: Names::new(create_on_open),
            bodies: BTreeMap::new(),
            answers: BTreeMap::new(),
            openers: BTreeMap::new(),
            doors: Vec::new(),
            lobby: None,
        };
        Registry(Arc::new(Shared {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            events,
            ended,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let locked = self.0.inner.lock();
        locked.expect("no thread panics while it holds the registry")
    }

    /// Something happens to the names, and what comes of it is carried out.
    fn event<T>(&self, happen: impl FnOnce(&mut Names, &mut Vec<Effect>) -> T) -> T {
        self.event_in(&mut self.lock(), happen)
    }

    fn event_in<T>(
        &self,
        inner: &mut Inner,
        happen: impl FnOnce(&mut Names, &mut Vec<Effect>) -> T,
    ) -> T {
        let mut out = Vec::new();
        let result = happen(&mut inner.names, &mut out);
        let mut todo = VecDeque::from(out);
        while let Some(effect) = todo.pop_front() {
            match effect {
                Effect::Announce(word, id, name) => self.announce(inner, word, id, &name),
                Effect::Granted(ticket, id) => drop(inner.answers.insert(ticket, Ok(id))),
                Effect::Refused(ticket, why) => drop(inner.answers.insert(ticket, Err(why))),
                Effect::Evict(id) => inner.evict(id),
                Effect::Delete(id) => {
                    inner.bodies.remove(&id);
                    let mut more = Vec::new();
                    inner.names.deleted(id, &mut more);
                    todo.extend(more);
                }
            }
        }
        self.0.changed.notify_all();
        inner.ring_doors();
        result
    }

    fn announce(&self, inner: &mut Inner, word: Word, id: ObjectId, name: &str) {
        let event = match word {
            Word::Add => {
                let content = Content::Nothing;
                let name = name.to_owned();
                inner.bodies.insert(id, Body { name, content });
                "ADD"
            }
            Word::Change => "CHANGE",
            Word::Remove => {
                self.0.ended.notify_waiters();
                "REMOVE"
            }
        };
        let _ = self.0.events.send(EventDoc {
            schema: SCHEMA,
            array: name.to_owned(),
            event: event.to_owned(),
            member: None,
            text: String::new(),
        }); // Nobody may be listening.
    }

    /// Takes a name for an array that is about to be started. Waits for the old one of that name,
    /// if it is on its way out: not for a thread that must not block.
    ///
    /// # Errors
    /// When it is taken.
    pub fn reserve(&self, name: &str) -> Result<Reservation, Taken> {
        self.claim(name, Onto::Nothing)
    }

    /// Takes an inactive array that is about to be run.
    ///
    /// # Errors
    /// When there is none of this name, or somebody else does something with it.
    pub fn reserve_inactive(&self, name: &str) -> Result<Reservation, Taken> {
        self.claim(name, Onto::Members)
    }

    fn claim(&self, name: &str, onto: Onto) -> Result<Reservation, Taken> {
        let until = Instant::now() + DELETION_PATIENCE;
        let mut inner = self.lock();
        let ticket = self.event_in(&mut inner, |names, out| names.start(name, onto, out));
        loop {
            if let Some(answer) = inner.answers.remove(&ticket) {
                let id = answer.map_err(|why| inner.taken(name, why))?;
                return Ok(Reservation {
                    registry: self.clone(),
                    name: name.to_owned(),
                    id,
                    ticket: Some(ticket),
                });
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let given_up = Answered::Otherwise;
                self.event_in(&mut inner, |names, out| {
                    names.start_failed(ticket, given_up, out);
                });
                return Err(Taken::Stopping(name.to_owned()));
            }
            let waited = self.0.changed.wait_timeout(inner, left);
            inner = waited
                .expect("no thread panics while it holds the registry")
                .0;
        }
    }

    /// The handle of a running array.
    pub fn get(&self, name: &str) -> Option<Handle> {
        let inner = self.lock();
        let (id, _) = inner.names.find(name)?;
        match &inner.bodies.get(&id)?.content {
            Content::Array { handle, .. } => Some(handle.clone()),
            Content::Nothing | Content::Members(_) => None,
        }
    }

    /// The name under which the array with this UUID runs.
    pub fn running(&self, wanted: Uuid) -> Option<String> {
        let inner = self.lock();
        let is_it =
            |body: &&Body| matches!(body.content, Content::Array { uuid, .. } if uuid == wanted);
        inner
            .bodies
            .values()
            .find(is_it)
            .map(|body| body.name.clone())
    }

    /// All running arrays, oldest first.
    pub fn all(&self) -> Vec<(String, Handle)> {
        let inner = self.lock();
        let running = inner
            .bodies
            .values()
            .filter_map(|body| match &body.content {
                Content::Array { handle, .. } => Some((body.name.clone(), handle.clone())),
                Content::Nothing | Content::Members(_) => None,
            });
        running.collect()
    }

    /// The names of all arrays, running or not, oldest first; and of what somebody has opened.
    pub fn names(&self) -> Vec<String> {
        let inner = self.lock();
        inner
            .bodies
            .values()
            .map(|body| body.name.clone())
            .collect()
    }

    /// Whether there is something of this name, and whether it is empty.
    pub fn phase(&self, name: &str) -> Option<Phase> {
        self.lock().names.find(name).map(|(_, phase)| phase)
    }

    /// Whether an object is still there.
    pub fn is_there(&self, id: ObjectId) -> bool {
        self.lock().names.name_of(id).is_some()
    }

    /// Whether nothing runs and nothing is being started.
    pub fn is_empty(&self) -> bool {
        self.lock().names.is_empty()
    }

    /// No more arrays from here on, and nobody waits for one. Those that run or are being started
    /// are not touched.
    pub fn close(&self) {
        self.event(Names::shut_down);
    }

    /// Closes, but only if nothing runs and nothing is being started; tells whether it did.
    pub fn close_if_empty(&self) -> bool {
        let mut inner = self.lock();
        if inner.names.is_idle() {
            inner.names.close_for_new();
        }
        inner.names.is_closed()
    }

    /// A control request to what has this name begins.
    pub fn ask(&self, name: &str) -> Option<Asked> {
        let asked = self.event(|names, _| names.control(name));
        asked.map(|(ticket, _)| Asked {
            registry: self.clone(),
            ticket,
            answered: Answered::Otherwise,
        })
    }

    /// Begins to stop what has this name.
    ///
    /// # Errors
    /// When there is nothing to stop, or somebody has it open and `force` is not given.
    pub fn stop(&self, name: &str, force: bool) -> Result<ToStop, NotStopped> {
        let mut inner = self.lock();
        let stop = self.event_in(&mut inner, |names, out| names.stop(name, force, out));
        let id = match stop {
            Ok(Stop::LetGo(id)) => return Ok(ToStop::Nothing(id)),
            Ok(Stop::Rest(id)) => id,
            Err(why) => {
                let openers = match (why, inner.names.find(name)) {
                    (Refusal::Open, Some((id, _))) => inner.openers_of(id),
                    _ => Vec::new(),
                };
                return Err(NotStopped { why, openers });
            }
        };
        let body = inner.bodies.get(&id).expect("what has a name has a body");
        Ok(match &body.content {
            Content::Array { handle, .. } => ToStop::Array(id, handle.clone()),
            Content::Members(_) | Content::Nothing => ToStop::Members(id),
        })
    }

    /// What was to be stopped refused.
    pub fn stop_refused(&self, id: ObjectId) {
        self.event(|names, out| names.stop_refused(id, out));
    }

    /// An array has ended, and everything it had is closed.
    pub fn ended(&self, id: ObjectId) {
        let mut inner = self.lock();
        let body = inner.bodies.get_mut(&id).expect("what ends was there");
        body.content = Content::Nothing;
        self.event_in(&mut inner, |names, out| names.stopped(id, out));
    }

    /// Waits until an object that ends by itself is gone, but not for ever: not for a thread that
    /// must not block.
    pub fn wait_until_gone(&self, id: ObjectId) {
        let until = Instant::now() + DELETION_PATIENCE;
        let mut inner = self.lock();
        while inner.names.name_of(id).is_some() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.changed.wait_timeout(inner, left);
            inner = waited
                .expect("no thread panics while it holds the registry")
                .0;
        }
    }

    /// Who has something open.
    pub fn openers(&self, name: &str) -> Vec<OpenerDoc> {
        let inner = self.lock();
        let found = inner.names.find(name);
        found.map_or_else(Vec::new, |(id, _)| inner.openers_of(id))
    }

    /// A door wants to be woken whenever something happens to names: clients wait there.
    pub fn wake(&self, door: Arc<OwnedFd>) {
        self.lock().doors.push(door);
    }

    /// Somebody who waits at a door may have an answer.
    pub(super) fn ring_doors(&self) {
        self.lock().ring_doors();
    }

    /// A door closes.
    pub fn forget(&self, door: &Arc<OwnedFd>) {
        self.lock().doors.retain(|other| !Arc::ptr_eq(other, door));
    }

    /// What to do with a client of an object that is no array; made when it is needed first.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn lobby(&self) -> std::io::Result<Lobby> {
        let mut inner = self.lock();
        if let Some(lobby) = &inner.lobby {
            return Ok(lobby.clone());
        }
        let lobby = Lobby::open()?;
        inner.lobby = Some(lobby.clone());
        Ok(lobby)
    }

    /// Whoever opened something closes it, or does not want it any more.
    pub(super) fn close_visit(&self, ticket: Ticket) {
        let mut inner = self.lock();
        inner.answers.remove(&ticket);
        inner.openers.remove(&ticket);
        self.event_in(&mut inner, |names, out| names.close(ticket, out));
    }

    /// The answer to an open, once: the object, what is to be shown of it, and its array.
    pub(super) fn visit(
        &self,
        ticket: Ticket,
    ) -> Option<Option<(ObjectId, ExportInfo, Option<Handle>)>> {
        let mut inner = self.lock();
        let answer = inner.answers.remove(&ticket)?;
        let found = answer.ok().and_then(|id| {
            let name = inner.names.name_of(id)?;
            // It may have ended by itself since it was granted.
            let (_, phase) = inner.names.find(name)?;
            let body = inner.bodies.get(&id)?;
            match &body.content {
                Content::Array { handle, .. } => Some((id, handle.export(), Some(handle.clone()))),
                _ if phase == Phase::Cleared => None,
                _ => Some((id, nothing_to_show(&body.name), None)),
            }
        });
        Some(found)
    }
}

/// What clients see of an object that is no array: a device of size 0, as with md.
fn nothing_to_show(name: &str) -> ExportInfo {
    ExportInfo {
        name: name.to_owned(),
        description: "an inactive array".to_owned(),
        size_sectors: 0,
        logical_block_bytes: 512,
        preferred_bytes: 4096,
        read_only: true,
    }
}

impl Inner {
    fn ring_doors(&self) {
        for door in &self.doors {
            // A counter at its limit wakes as well.
            let _ = rustix::io::write(&**door, &1u64.to_ne_bytes());
        }
    }

    fn taken(&self, name: &str, why: Refusal) -> Taken {
        let name = name.to_owned();
        let phase = self.names.find(&name).map(|(_, phase)| phase);
        match why {
            Refusal::Leaving => Taken::Leaving,
            Refusal::Unknown => Taken::NotThere(name),
            Refusal::Stopping => Taken::Stopping(name),
            _ if phase == Some(Phase::Inactive) => Taken::Inactive(name),
            _ => Taken::Name(name),
        }
    }

    fn evict(&self, id: ObjectId) {
        let body = self.bodies.get(&id);
        if let Some(Content::Array { handle, .. }) = body.map(|body| &body.content) {
            let _ = handle.send(Message::Evict); // One that has ended has shown all out.
        }
        if let Some(lobby) = &self.lobby {
            lobby.evict(id);
        }
    }

    fn openers_of(&self, id: ObjectId) -> Vec<OpenerDoc> {
        let openers = self.names.openers(id);
        let peers = openers.map(|ticket| self.openers.get(&ticket).copied().unwrap_or_default());
        peers.map(|peer| OpenerDoc::of("nbd", &peer)).collect()
    }
}

impl Reservation {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts the running array in place of the reservation.
    ///
    /// # Errors
    /// When the same array runs already, under another name.
    pub fn fill(self, uuid: Uuid, handle: Handle) -> Result<ObjectId, Taken> {
        self.put(uuid, Content::Array { uuid, handle }, Started::Running)
    }

    /// Leaves the name to members that do not run, until they are let go or do.
    ///
    /// # Errors
    /// When the same array runs already, under another name.
    pub fn hold(self, uuid: Uuid) -> Result<Held, Taken> {
        let (registry, name) = (self.registry.clone(), self.name.clone());
        let id = self.put(uuid, Content::Members(uuid), Started::Inactive)?;
        Ok(Held {
            registry,
            name,
            id: Some(id),
        })
    }

    fn put(mut self, uuid: Uuid, content: Content, with: Started) -> Result<ObjectId, Taken> {
        let registry = self.registry.clone();
        let mut inner = registry.lock();
        let twin = inner.bodies.iter().find_map(|(id, body)| {
            let same = match &body.content {
                Content::Array { uuid: other, .. } => *other == uuid,
                Content::Members(other) => *other == uuid,
                Content::Nothing => false,
            };
            (same && *id != self.id).then(|| body.name.clone())
        });
        if let Some(name) = twin {
            drop(inner);
            return Err(Taken::Array { uuid, name });
        }
        let ticket = self.ticket.take().expect("put once");
        let body = inner.bodies.get_mut(&self.id);
        let body = body.expect("a reservation holds its place");
        let old = std::mem::replace(&mut body.content, content);
        registry.event_in(&mut inner, |names, out| names.started(ticket, with, out));
        drop(inner);
        drop(old);
        Ok(self.id)
    }
}

impl Held {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who has it open.
    pub fn openers(&self) -> Vec<OpenerDoc> {
        self.registry.openers(&self.name)
    }

    /// Takes the name again, to run the members or to hold others.
    ///
    /// # Errors
    /// When it is being stopped: it is let go.
    pub fn reserve(mut self) -> Result<Reservation, Taken> {
        let reservation = self.registry.claim(&self.name, Onto::Members)?;
        self.id = None;
        Ok(reservation)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let phase = self.registry.phase(&self.name);
        let there = matches!(phase, Some(Phase::Inactive | Phase::Stopping));
        let id = self
            .id
            .take()
            .filter(|id| there && self.registry.is_there(*id));
        if let Some(id) = id {
            self.registry.ended(id);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let answered = Answered::Otherwise;
            self.registry
                .event(|names, out| names.start_failed(ticket, answered, out));
        }
    }
}

impl Asked {
    /// It was refused as invalid: nothing has been asked for.
    pub fn was_invalid(mut self) {
        self.answered = Answered::Invalid;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let (ticket, answered) = (self.ticket, self.answered);
        self.registry
            .event(|names, out| names.answered(ticket, answered, out));
    }
}

impl Exports for Registry {
    fn list(&self) -> Vec<ExportInfo> {
        self.all()
            .into_iter()
            .map(|(_, handle)| handle.export())
            .collect()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        if values::array_name(name).is_err() {
            return None;
        }
        let mut inner = self.lock();
        let (id, phase) = self.event_in(&mut inner, |names, out| names.probe(name, out))?;
        match (&inner.bodies.get(&id)?.content, phase) {
            (Content::Array { handle, .. }, _) => Some(handle.export()),
            (_, Phase::Empty | Phase::Inactive) => Some(nothing_to_show(name)),
            _ => None,
        }
    }

    fn canonical(&self, name: &str) -> Option<String> {
        let known = self.lock().names.find(name).is_some();
        match known {
            true => Some(name.to_owned()),
            false => self.find(name).map(|export| export.name),
        }
    }

    fn open(&self, name: &str, who: &Peer) -> Opening {
        if values::array_name(name).is_err() {
            return Opening::Refused;
        }
        let mut inner = self.lock();
        let ticket = self.event_in(&mut inner, |names, out| names.open(name, out));
        inner.openers.insert(ticket, *who);
        drop(inner);
        Visit::new(self.clone(), ticket).opening()
    }

    fn reservations(&self, name: &str) -> Option<ReservationState> {
        Some(self.get(name)?.reserved()?.state())
    }

    fn demand(&self, name: &str, demand: Demand, _: &Peer) -> Result<Box<dyn Deciding>, Denied> {
        demands::begin(self, name, demand)
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;

#[cfg(all(test, feature = "shuttle"))]
#[path = "registry_shuttle.rs"]
mod shuttled;
