//! An array that several nodes run at the same time, as one of them runs it.
//!
//! ```text
//!   driver --- Input -----> Clustered -----------------------> Output --> driver
//!                            |     ^ wishes, answers, resync calls
//!                            v     |
//!                    Node (cluster/) <---> Array + Shared
//!                 what the others say      superblocks in turns, the bitmap of this node's slot,
//!                                          windows, reload, the slots of the dead, leaving
//! ```
//!
//! Members are changed in `changes.rs` (asked here), `newcomer.rs` (another node adds a disk),
//! `spread.rs` (a spare gets a slot), `replaced.rs` (one gets that of another), `readd.rs` and
//! `missed.rs` (one comes back, what it lacks), `sought.rs` (nobody said where it is), the size in
//! `resize.rs`, what bits stand for in `rechunk.rs`, where they lie in `moving.rs`, the slots in
//! `legs.rs`. The node says when, the array does. Between them are [`Task`]s and their answers
//! only; neither calls the other while it is stepped. An array of one host has no `Shared` and is
//! asked for it in the places named in `shared.rs`.

mod alike;
mod changes;
mod drain;
mod images;
mod legs;
mod missed;
mod moving;
mod newcomer;
mod readd;
mod rechunk;
mod reload;
mod replaced;
mod resize;
mod shared;
mod sought;
mod spread;
mod takeover;
#[cfg(test)]
mod tests;
mod update;
mod windows;

pub(super) use shared::Shared;

use super::{Array, Command, Commands, Event, Setup};
use crate::cluster::{
    Answer, Blame, Cannot, Desk, Effect, End, Event as NodeEvent, FenceProof, Freeze, JoinRefusal,
    Message, NewDisk, Node, NodeSlot, Peer, ServiceCommand, ServiceEvent, Setup as NodeSetup, Task,
    Window,
};
use crate::value::{Control, ControlError, Instant, NewMember, Now, RequestError, Span};

/// What reaches a clustered array.
#[derive(Debug)]
pub enum Input {
    /// Join the cluster.
    Start,
    /// Leave it. Answered with [`Output::Over`].
    Stop,
    /// The answer to [`Output::Load`]: what was read, or why it could not be.
    Loaded(Result<Box<Setup>, Cannot>),
    /// The lock service says.
    Service(ServiceEvent),
    /// For the array: requests of hosts, ends of member I/O, timers, control.
    Array(Event),
    /// Somebody writes no more.
    Fenced(FenceProof),
    /// No proof could be had yet.
    NotFenced(Peer),
    /// The answer to [`Output::Find`] for the disk with this uuid: it is open, and nobody else's,
    /// or is not to be had here. One that comes too late is let go.
    Found([u8; 16], Option<NewMember>),
    /// Time has passed; see [`Clustered::next_deadline`].
    Tick,
}

/// What a clustered array wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// What any array wants.
    Array(Command),
    /// Tell the lock service.
    Service(ServiceCommand),
    /// Read superblocks and the bitmap of this slot now, and plan the array as one of a cluster.
    /// (What was read before is old: others may have written since.)
    Load(NodeSlot),
    /// See to it that this life of a node writes no more.
    Fence(Peer),
    /// Another node adds this disk: open it, lock it as members are, and answer with
    /// [`Input::Found`]. Nothing is written to it, and nothing on it is believed yet.
    Find(NewDisk),
    /// The array serves.
    Ready,
    /// It cannot be started: this node is not let in.
    NotJoined(JoinRefusal),
    /// It cannot be started: its members are not as they have to be.
    NotLoaded(Cannot),
    /// A message was refused by somebody.
    Refused(Message, Blame),
    /// Writes wait, or may go on.
    Frozen(Option<Freeze>),
    /// All is over; what serves messages may be taken down.
    Over(End),
}

/// What came with the task to load.
struct Loading {
    windows: Vec<(NodeSlot, Window)>,
    most_sectors: Option<u64>,
}

/// A disk that is looked for.
#[derive(Debug, Clone, Copy)]
struct Finding {
    disk: NewDisk,
    until: Instant,
    /// It comes back.
    returns: bool,
    /// Another node waits for it; else this one missed the news.
    told: bool,
}

/// A clustered array on one node.
pub struct Clustered {
    node: Node,
    capacity: u16,
    window_sectors: u64,
    array: Option<Box<Array>>,
    loading: Option<Loading>,
    finding: Option<Finding>,
    /// How long a disk is looked for that nobody waits for.
    find_within: Span,
    /// How many have gone.
    departures: u64,
    /// Answers to what was asked of an array that could not be started.
    answers: Vec<NodeEvent>,
    over: bool,
}

impl Clustered {
    /// One that has not begun.
    pub fn new(setup: NodeSetup) -> Clustered {
        Clustered {
            node: Node::new(setup),
            capacity: setup.capacity,
            window_sectors: windows::WINDOW_SECTORS,
            array: None,
            loading: None,
            finding: None,
            find_within: setup.find_disk_within,
            departures: 0,
            answers: Vec::new(),
            over: false,
        }
    }

    /// With windows of so many sectors at first, instead of 32 MiB.
    ///
    /// # Panics
    /// When that is nothing.
    #[must_use]
    pub fn with_windows(mut self, sectors: u64) -> Clustered {
        assert!(sectors > 0, "a window covers something");
        self.window_sectors = sectors;
        self
    }

    /// The node, to be looked at.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The array, once it was loaded, to be looked at.
    pub fn array(&self) -> Option<&Array> {
        self.array.as_deref()
    }

    /// When to come back with [`Input::Tick`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let shared = self.array.as_ref().and_then(|array| array.shared.as_ref());
        let again = shared.and_then(|shared| shared.deadline());
        let find = self.finding.map(|one| one.until);
        let node = self.node.next_deadline();
        node.into_iter().chain(again).chain(find).min()
    }

    /// The one way in and out: takes what happened, appends what has to be done to `out`.
    ///
    /// # Panics
    /// When an invariant of the engine does not hold, or an answer comes that was not asked for.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        if self.over {
            return;
        }
        // Who has passed the end of its session must not begin anything, whatever the event is.
        if self.node.next_deadline().is_some_and(|at| at <= now.mono) {
            self.tell(now, NodeEvent::Tick, out);
        }
        if self.finding.is_some_and(|one| one.until <= now.mono) {
            self.found(now, None, out);
        }
        match input {
            Input::Start => self.tell(now, NodeEvent::Start, out),
            Input::Stop => self.tell(now, NodeEvent::Stop, out),
            Input::Service(event) => self.tell(now, NodeEvent::Service(event), out),
            Input::Fenced(proof) => self.tell(now, NodeEvent::Fenced(proof), out),
            Input::NotFenced(peer) => self.tell(now, NodeEvent::NotFenced(peer), out),
            Input::Found(uuid, new) => match self.finding {
                Some(one) if one.disk.uuid == uuid => self.found(now, new, out),
                _ => out.extend(new.map(|new| Output::Array(Command::Release(new.id)))),
            },
            Input::Loaded(read) => self.loaded(now, read, out),
            Input::Tick => self.array_event(now, None, out),
            Input::Array(event) => match refusal(&event) {
                None => self.array_event(now, Some(event), out),
                Some(answer) => out.push(Output::Array(answer)),
            },
        }
    }

    /// Something for the node; what comes of it is done, and what comes of that.
    fn tell(&mut self, now: Now, event: NodeEvent, out: &mut Vec<Output>) {
        let mut effects = Vec::new();
        let goes =
            |event: &ServiceEvent| matches!(event, ServiceEvent::Down(_) | ServiceEvent::Gone(..));
        let gone = matches!(&event, NodeEvent::Service(event) if goes(event));
        self.departures += u64::from(gone);
        self.node.handle(now.mono, event, &mut effects);
        let over = self.note_who_went();
        for effect in effects {
            self.effect(now, effect, out);
        }
        if over {
            self.look_again(now, out);
        }
        self.pass_on(now, out);
    }

    /// The array knows whose slots may be on their way elsewhere.
    /// Returns whether it may go on with what waited for that.
    fn note_who_went(&mut self) -> bool {
        let unrecovered = self.node.has_unrecovered();
        let Some(array) = &mut self.array else {
            return false;
        };
        let shared = array.shared_mut();
        shared.departures = self.departures;
        std::mem::replace(&mut shared.unrecovered, unrecovered) && !unrecovered
    }

    fn look_again(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(array) = &mut self.array else { return };
        let mut commands = Commands::new();
        array.look_again(now, &mut commands);
        out.extend(commands.into_iter().map(Output::Array));
    }

    fn array_event(&mut self, now: Now, event: Option<Event>, out: &mut Vec<Output>) {
        let Some(array) = &mut self.array else {
            if let Some(Event::Request(request)) = event {
                let result = Err(RequestError::Io("the array is being started".into()));
                let id = request.id;
                out.push(Output::Array(Command::Complete { id, result }));
            }
            return;
        };
        let mut commands = Commands::new();
        match event {
            Some(event) => array.handle(now, event, &mut commands),
            None => array.look_again(now, &mut commands),
        }
        out.extend(commands.into_iter().map(Output::Array));
        self.pass_on(now, out);
    }

    /// What the array has to say to its node.
    fn pass_on(&mut self, now: Now, out: &mut Vec<Output>) {
        loop {
            let shared = self.array.as_mut().and_then(|array| array.shared.as_mut());
            let mut words = shared.map(|shared| shared.take_words()).unwrap_or_default();
            words.append(&mut self.answers);
            if words.is_empty() || self.over {
                return self.seek(now, out);
            }
            for word in words {
                let mut effects = Vec::new();
                self.node.handle(now.mono, word, &mut effects);
                let over = self.note_who_went();
                for effect in effects {
                    self.effect(now, effect, out);
                }
                if over {
                    self.look_again(now, out);
                }
            }
        }
    }

    /// Looks for a disk that superblocks name, where this node has seen it.
    fn seek(&mut self, now: Now, out: &mut Vec<Output>) {
        let shared = self.array.as_mut().and_then(|array| array.shared.as_mut());
        let sought = shared.and_then(|shared| shared.sought.take());
        let free = self.finding.is_none() && !self.over;
        let Some(disk) = sought.filter(|_| free) else {
            return;
        };
        self.finding = Some(Finding {
            disk,
            until: now.mono + self.find_within,
            returns: true,
            told: false,
        });
        out.push(Output::Find(disk));
    }

    /// The search for a disk is over.
    fn found(&mut self, now: Now, new: Option<NewMember>, out: &mut Vec<Output>) {
        let Finding {
            disk,
            returns,
            told,
            ..
        } = self.finding.take().expect("it is looked for");
        let array = self.array.as_mut().expect("it was loaded by then");
        let mut commands = Commands::new();
        if !told {
            if let Some(new) = new {
                array.sought(now, disk, new, &mut commands);
                out.extend(commands.into_iter().map(Output::Array));
            }
            return;
        }
        let answer = array.found(now, (disk, returns), new, &mut commands);
        out.extend(commands.into_iter().map(Output::Array));
        self.tell(now, NodeEvent::Answer(Desk::Inbox, answer), out);
    }

    fn effect(&mut self, now: Now, effect: Effect, out: &mut Vec<Output>) {
        match effect {
            Effect::Service(command) => out.push(Output::Service(command)),
            Effect::Fence(peer) => out.push(Output::Fence(peer)),
            Effect::NotJoined(why) => out.push(Output::NotJoined(why)),
            Effect::NotLoaded(why) => out.push(Output::NotLoaded(why)),
            Effect::Refused(message, blame) => out.push(Output::Refused(message, blame)),
            Effect::Task(
                Desk::Door,
                Task::Load {
                    windows,
                    most_sectors,
                },
            ) => {
                let slot = self.node.me().expect("who loads is a member").slot;
                self.loading = Some(Loading {
                    windows,
                    most_sectors,
                });
                out.push(Output::Load(slot));
            }
            Effect::Task(
                Desk::Inbox,
                Task::FindDisk {
                    disk,
                    until,
                    returns,
                },
            ) if self.array.is_some() => {
                let array = self.array.as_ref();
                if let Some(answer) = array.and_then(|array| array.of_member(&disk)) {
                    let known = NodeEvent::Answer(Desk::Inbox, answer);
                    return self.answers.push(known);
                }
                self.finding = Some(Finding {
                    disk,
                    until,
                    returns,
                    told: true,
                });
                out.push(Output::Find(disk));
            }
            Effect::Over(end) => {
                if let Some(array) = &mut self.array {
                    let mut commands = Commands::new();
                    array.release_all(now, &mut commands);
                    out.extend(commands.into_iter().map(Output::Array));
                }
                self.over = true;
                out.push(Output::Over(end));
            }
            effect => {
                match &effect {
                    Effect::Ready => out.push(Output::Ready),
                    Effect::Frozen(why) => out.push(Output::Frozen(why.clone())),
                    _ => {}
                }
                let Some(array) = &mut self.array else {
                    self.answers.extend(answer_of_none(&effect));
                    return;
                };
                let mut commands = Commands::new();
                array.hear(now, effect, &mut commands);
                out.extend(commands.into_iter().map(Output::Array));
            }
        }
    }

    fn loaded(&mut self, now: Now, read: Result<Box<Setup>, Cannot>, out: &mut Vec<Output>) {
        let loading = self.loading.take().expect("an answer to a load");
        let moving = read.as_ref().is_ok_and(|setup| shared::says_moving(setup));
        let array = read.and_then(|setup| self.start(*setup, &loading));
        let answer = match array {
            Ok(mut array) => {
                // What was said before there was an array still holds.
                array.freeze_writes(self.node.frozen());
                array.read_first(self.node.reads_first());
                array.hold_at_start(moving);
                let dirty = array.bitmap.regions().is_some_and(|one| one.dirty() > 0);
                let sectors = array.info.array_sectors;
                let mut commands = Commands::new();
                array.begin(now, &mut commands);
                out.extend(commands.into_iter().map(Output::Array));
                let shared = array.shared_mut();
                shared.departures = self.departures;
                shared.unrecovered = self.node.has_unrecovered();
                self.array = Some(Box::new(array));
                Answer::Loaded { dirty, sectors }
            }
            Err(why) => Answer::Cannot(why),
        };
        self.tell(now, NodeEvent::Answer(Desk::Door, answer), out);
    }

    fn start(&self, mut setup: Setup, loading: &Loading) -> Result<Array, Cannot> {
        let slot = self.node.me().expect("who loads is a member").slot;
        let place = shared::place_of(&setup, slot, self.capacity)?;
        let sectors = setup.plan.array_sectors;
        // Another size than that of all is one that is being agreed on.
        if loading.most_sectors.is_some_and(|most| most != sectors) {
            return Err(Cannot::Follow);
        }
        // Others write to a member that is not seen here, and would read from it what was not
        // written there from here.
        let absent = shared::absent(&setup);
        if !absent.is_empty() && self.node.peers().next().is_some() {
            return Err(Cannot::SeeDisk);
        }
        // Whoever is there finishes that, and knows better than that all is dirty.
        if shared::says_moving(&setup) && self.node.peers().next().is_some() {
            return Err(Cannot::Busy);
        }
        shared::forget_moving(&mut setup);
        let uneven = resize::is_uneven(&setup);
        setup.options.node = Some(slot.0);
        let seen = sought::seen(&setup);
        let mut array = Array::start(setup);
        if !absent.is_empty() || uneven {
            array.metadata.note_fault();
        }
        array.share(Shared::new(place, self.window_sectors, absent));
        array.shared_mut().seen = seen;
        array.heal_reach();
        for (owner, window) in &loading.windows {
            let window = (window.start_sectors(), window.end_sectors());
            array.lane.others_mut().suspend(owner.0, Some(window));
        }
        Ok(array)
    }
}

/// Where nothing is loaded there is nothing that could be kept from anything.
fn answer_of_none(effect: &Effect) -> Option<NodeEvent> {
    let Effect::Task(desk, task) = effect else {
        return None;
    };
    let answer = match task {
        Task::Suspend { .. } => Answer::Done,
        Task::Drain => Answer::Drained { dirty: false },
        Task::Recheck(_) => Answer::Holds(Vec::new()),
        _ => Answer::Cannot(Cannot::Work),
    };
    Some(NodeEvent::Answer(*desk, answer))
}

/// What cannot be asked of an array that others run as well.
fn refusal(event: &Event) -> Option<Command> {
    let Event::Control(id, control) = event else {
        return None;
    };
    let why = match control {
        Control::Fail(_)
        | Control::Lost(..)
        | Control::Remove(_)
        | Control::Add(_)
        | Control::ReAdd(_)
        | Control::Replace { .. }
        | Control::Sync(_)
        | Control::Limits(..)
        | Control::Legs(_)
        | Control::Rechunk(_)
        | Control::Size(_) => return None,
        Control::Stop => "to stop it here this node has to leave the cluster first",
        _ => "this cannot be changed yet while the array is run by a cluster",
    };
    Some(Command::Answer {
        id: *id,
        result: Err(ControlError::Invalid(why.into())),
    })
}
