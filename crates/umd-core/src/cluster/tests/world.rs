//! A cluster small enough to live through all its lives.
//!
//! ```text
//!   hosts (Node as shipped, a model of its array) -- Engine -- a disk with two legs
//!
//!   disk: superblock (generation, who holds a role, failures), a dirty bit per slot, one region on
//!         two mirrors; writes under way land whenever they like, unless their host was fenced
//! ```
//!
//! What a step may not do is checked where it would do it (`wrong`), and what must be in the end
//! when nothing moves any more in `at_rest`. The letters are those of the study: S for what must
//! never happen, L for what must end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::*;
use super::engine::{Engine, Told};
use crate::value::{Instant, Span};

/// Superblocks, as far as it matters here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Super {
    generation: u8,
    /// Who was given the one free role.
    claim: Option<usize>,
    failures: u8,
    /// The array's size.
    size: u8,
    /// Disks that were added.
    disks: u8,
}

/// A write that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    Super { base: u8, to: Super },
    Data { leg: usize, value: u8 },
    Sync { value: [u8; 3] },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flight {
    host: usize,
    by: Incarnation,
    op: Op,
}

/// Why a host wants superblocks written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// It takes the free role: only one can.
    Claim,
    /// A failure: it holds whoever says so.
    Failure,
    Add,
    Remove,
    ReAdd,
    Grow,
    Bitmap,
    Chunk,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Sync {
    #[default]
    Idle,
    Asked,
    Told,
    Open,
    Copying,
    Ending,
    GivenUp,
}

/// A host, and what it may still do of its own will.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Host {
    pub node: Option<Node>,
    me: Option<Peer>,
    queue: VecDeque<ServiceEvent>,
    tasks: Vec<(Desk, Task)>,
    fences: BTreeSet<Peer>,
    /// What landed while it was paused, and whether it was refused.
    landed: Vec<(Op, bool)>,
    paused: bool,
    crashed: bool,
    late: bool,
    stopping: bool,
    // The array.
    serving: bool,
    frozen: bool,
    draining: bool,
    /// Its members refuse it.
    broken: bool,
    gone: bool,
    view: Super,
    published: u8,
    suspended: BTreeSet<NodeSlot>,
    writing: u8,
    sync: Sync,
    needs_sync: bool,
    held_bits: bool,
    /// Bits came while it was resyncing: that resync does not count.
    again: bool,
    wishes: BTreeMap<WishId, (Want, u8)>,
    // What is left to do.
    pub wants: Vec<Want>,
    pub writes: u8,
    pub stops: u8,
    pub starts: u8,
    /// It clears its bit when its writes are over.
    pub clears: bool,
    /// It cannot do what it is told: see disks, follow sizes, read superblocks.
    pub unable: bool,
}

/// What may go wrong, so many times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    pub crashes: u8,
    pub pauses: u8,
    pub timeouts: u8,
    /// A recovery's copy fails.
    pub failed_copies: u8,
    /// Of this host only.
    pub of: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    rules: Rules,
    pub hosts: Vec<Host>,
    engine: Engine,
    flights: Vec<Flight>,
    disk: Super,
    bits: [bool; 3],
    /// What each host wrote last, in a place of its own, on each leg.
    data: [[u8; 3]; 2],
    fenced: BTreeSet<Incarnation>,
    pub fencing_works: bool,
    pub faults: Faults,
    next_value: u8,
    next_wish: u64,
    pub wrong: Option<&'static str>,
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Start(usize),
    Hear(usize),
    Do(usize, usize),
    Fail(usize, usize),
    Land(usize),
    Fence(usize, Peer),
    Sync(usize),
    Notice(usize),
    TimeOut(usize, usize),
    Late(usize),
    // Of somebody's will.
    Want(usize),
    Write(usize),
    Clear(usize),
    Stop(usize),
    Crash(usize),
    Pause(usize),
    Resume(usize),
    Hasty(usize, usize),
}

impl Step {
    /// Whether it happens by itself, sooner or later.
    pub fn is_due(self) -> bool {
        use Step::*;
        match self {
            Hear(_) | Do(..) | Fail(..) | Land(_) | Fence(..) | Sync(_) | Notice(_)
            | TimeOut(..) | Late(_) => true,
            Start(_) | Want(_) | Write(_) | Clear(_) | Stop(_) | Crash(_) | Pause(_)
            | Resume(_) | Hasty(..) => false,
        }
    }
}

impl World {
    pub fn new(hosts: usize, rules: Rules) -> World {
        let host = Host {
            starts: 1,
            ..Host::default()
        };
        World {
            rules,
            hosts: vec![host; hosts],
            engine: Engine::default(),
            flights: Vec::new(),
            disk: Super::default(),
            bits: [false; 3],
            data: [[0; 3]; 2],
            fenced: BTreeSet::new(),
            fencing_works: true,
            faults: Faults::default(),
            next_value: 1,
            next_wish: 1,
            wrong: None,
        }
    }

    /// All hosts have joined, and serve.
    pub fn running(hosts: usize, rules: Rules) -> World {
        let mut world = World::new(hosts, rules);
        for host in 0..hosts {
            world.boot(host);
        }
        world
    }

    /// A host joins while nothing else happens.
    pub fn boot(&mut self, host: usize) {
        self.step(Step::Start(host));
        self.settle();
        assert!(self.hosts[host].serving, "{self:?}");
    }

    /// Lets happen what happens by itself.
    pub fn settle(&mut self) {
        while let Some(step) = self.steps().into_iter().find(|step| step.is_due()) {
            self.step(step);
        }
    }

    /// All that can happen next.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for index in 0..self.hosts.len() {
            self.steps_of(index, &mut steps);
        }
        steps.extend((0..self.flights.len()).map(Step::Land));
        for (from, to) in self.engine.unanswered() {
            let silent = self.hosts[to].paused || self.hosts[to].crashed;
            if silent && !self.hosts[from].paused && !self.hosts[from].crashed {
                steps.push(Step::TimeOut(from, to));
            } else if self.faults.timeouts > 0 && !silent {
                steps.push(Step::Hasty(from, to));
            }
        }
        steps
    }

    fn steps_of(&self, index: usize, steps: &mut Vec<Step>) {
        let host = &self.hosts[index];
        let member = self.engine.members.contains_key(&index);
        if (host.paused || host.crashed) && member {
            steps.push(Step::Notice(index));
        }
        if host.paused {
            return steps.push(Step::Resume(index));
        }
        let over = host.node.as_ref().is_none_or(|node| node.end().is_some());
        if over && !member && host.starts > 0 {
            steps.push(Step::Start(index));
        }
        let Some(node) = &host.node else {
            return;
        };
        if !host.queue.is_empty() {
            steps.push(Step::Hear(index));
        }
        for (place, (_, task)) in host.tasks.iter().enumerate() {
            if self.can_do(host, task) {
                steps.push(Step::Do(index, place));
            }
            if matches!(task, Task::CopyBits(_)) && self.faults.failed_copies > 0 {
                steps.push(Step::Fail(index, place));
            }
        }
        steps.extend(host.fences.iter().map(|peer| Step::Fence(index, *peer)));
        let idle = host.serving && !host.frozen && !host.draining;
        if idle && host.sync == Sync::Open && host.writing == 0 {
            steps.push(Step::Sync(index));
        }
        let silent = |host: &Host| host.paused || host.crashed;
        let hopeless = self.hosts.iter().any(silent) || !self.fencing_works;
        if node.next_deadline() < Some(Instant(u64::MAX))
            && host.stopping
            && hopeless
            && !host.late
            && node.next_deadline().is_some()
        {
            steps.push(Step::Late(index));
        }
        self.wills_of(index, idle, steps);
    }

    fn wills_of(&self, index: usize, idle: bool, steps: &mut Vec<Step>) {
        let host = &self.hosts[index];
        let ended = host.node.as_ref().is_none_or(|node| node.end().is_some());
        if ended {
            return;
        }
        if !host.wants.is_empty() && !host.stopping {
            steps.push(Step::Want(index));
        }
        let locked = matches!(host.sync, Sync::Copying) || !host.suspended.is_empty();
        if idle && host.writes > 0 && host.writing == 0 && !locked {
            steps.push(Step::Write(index));
        }
        let own = host.me.map(|me| usize::from(me.slot.0));
        let at_rest = host.writing == 0 && host.sync == Sync::Idle && !host.needs_sync;
        if idle && host.clears && at_rest && !host.broken && own.is_some_and(|own| self.bits[own]) {
            steps.push(Step::Clear(index));
        }
        if host.stops > 0 && !host.stopping {
            steps.push(Step::Stop(index));
        }
        if self.faults.of.is_some_and(|only| only != index) {
            return;
        }
        if self.faults.crashes > 0 {
            steps.push(Step::Crash(index));
        }
        if self.faults.pauses > 0 {
            steps.push(Step::Pause(index));
        }
    }

    fn can_do(&self, host: &Host, task: &Task) -> bool {
        if host.gone {
            return false; // Nobody is there to do it.
        }
        match task {
            Task::Suspend { window, .. } => window.is_none() || host.writing == 0,
            Task::Drain => host.writing == 0 && host.sync != Sync::Copying,
            // Under way as a flight.
            Task::Write(_) => false,
            Task::Undo(id) => matches!(host.wishes[id].0, Want::Bitmap | Want::Chunk),
            _ => true,
        }
    }

    /// Lets it happen.
    pub fn step(&mut self, step: Step) {
        match step {
            Step::Start(index) => self.start(index),
            Step::Hear(index) => {
                let event = self.hosts[index].queue.pop_front();
                self.handle(index, Event::Service(event.expect("something to hear")));
                // What only frames a membership is heard with what follows or precedes it.
                while let Some(event) = self.framed(index) {
                    self.handle(index, Event::Service(event));
                }
            }
            Step::Do(index, place) => self.perform(index, place),
            Step::Fail(index, place) => {
                self.faults.failed_copies -= 1;
                let (desk, _) = self.hosts[index].tasks.remove(place);
                let cannot = Answer::Cannot(Cannot::Work);
                self.handle(index, Event::Answer(desk, cannot));
            }
            Step::Land(place) => self.land(place),
            Step::Fence(index, peer) => self.fence(index, peer),
            Step::Sync(index) => self.sync(index),
            Step::Notice(index) => {
                let mut told = Vec::new();
                self.engine.expel(index, &mut told);
                self.tell(told);
            }
            Step::TimeOut(from, to) => self.time_out(from, to),
            Step::Hasty(from, to) => {
                self.faults.timeouts -= 1;
                self.time_out(from, to);
            }
            Step::Late(index) => {
                self.hosts[index].late = true;
                self.handle(index, Event::Tick);
            }
            Step::Want(index) => self.want(index),
            Step::Write(index) => self.write(index),
            Step::Clear(index) => {
                let me = self.hosts[index].me.expect("a member");
                if self.is_fenced(index) {
                    self.hosts[index].broken = true;
                    return;
                }
                self.bits[usize::from(me.slot.0)] = false;
            }
            Step::Stop(index) => {
                self.hosts[index].stops -= 1;
                self.hosts[index].stopping = true;
                self.handle(index, Event::Stop);
            }
            Step::Crash(index) => {
                self.faults.crashes -= 1;
                let old = &self.hosts[index];
                self.hosts[index] = Host {
                    me: old.me,
                    crashed: true,
                    starts: old.starts,
                    ..Host::default()
                };
            }
            Step::Pause(index) => {
                self.faults.pauses -= 1;
                self.hosts[index].paused = true;
            }
            Step::Resume(index) => {
                self.hosts[index].paused = false;
                for (op, refused) in std::mem::take(&mut self.hosts[index].landed) {
                    self.completed(index, op, refused);
                }
            }
        }
        self.look();
    }

    fn framed(&mut self, index: usize) -> Option<ServiceEvent> {
        let queue = &mut self.hosts[index].queue;
        let frames =
            |event: &ServiceEvent| matches!(event, ServiceEvent::Done(..) | ServiceEvent::Down(_));
        queue
            .front()
            .is_some_and(frames)
            .then(|| queue.pop_front())?
    }

    fn time_out(&mut self, from: usize, to: usize) {
        let mut told = Vec::new();
        self.engine.time_out(from, to, &mut told);
        self.tell(told);
    }

    fn tell(&mut self, told: Told) {
        for (to, event) in told {
            if self.hosts[to].node.is_some() {
                self.hosts[to].queue.push_back(event);
            }
        }
    }

    fn start(&mut self, index: usize) {
        let starts = self.hosts[index].starts - 1;
        let old = &self.hosts[index];
        let setup = Setup {
            rules: self.rules,
            ..Setup::new(3)
        };
        self.hosts[index] = Host {
            node: Some(Node::new(setup)),
            starts,
            wants: old.wants.clone(),
            writes: old.writes,
            stops: old.stops,
            clears: old.clears,
            unable: old.unable,
            ..Host::default()
        };
        self.handle(index, Event::Start);
    }

    fn handle(&mut self, index: usize, event: Event) {
        if let Event::Service(ServiceEvent::Joined(session)) = &event {
            self.hosts[index].me = Some(session.me);
        }
        let host = &mut self.hosts[index];
        let now = match host.late {
            true => Instant(0) + Span::secs(3600),
            false => Instant(0),
        };
        let mut out = Vec::new();
        let node = host.node.as_mut().expect("a host that lives");
        node.handle(now, event, &mut out);
        for effect in out {
            self.effect(index, effect);
        }
        // What nobody else can see the duration of takes none.
        let instant = |(_, task): &(Desk, Task)| {
            matches!(
                task,
                Task::Recheck(_)
                    | Task::Apply(_)
                    | Task::Remove(_)
                    | Task::Publish { .. }
                    | Task::FindDisk { .. }
                    | Task::ResizeBitmap { .. }
                    | Task::Rechunk { .. }
                    | Task::Vacant { .. }
                    | Task::Suspend { window: None, .. }
            )
        };
        let host = &self.hosts[index];
        let place = host.tasks.iter().position(instant);
        if let Some(place) = place.filter(|_| !host.gone) {
            self.perform(index, place);
        }
    }

    fn effect(&mut self, index: usize, effect: Effect) {
        let host = &mut self.hosts[index];
        match effect {
            Effect::Service(command) => self.command(index, command),
            Effect::Task(desk, task) => self.begin(index, desk, task),
            Effect::Fence(peer) => {
                host.fences.insert(peer);
            }
            Effect::Ready => {
                host.serving = true;
                if host.needs_sync {
                    self.want_sync(index);
                }
            }
            Effect::NotJoined(_) | Effect::NotLoaded(_) | Effect::Refused(..) => {}
            Effect::ReadFirst(_) => {}
            Effect::Done(id, result) => self.done(index, id, result.is_ok()),
            Effect::Resync(word) => self.word(index, &word),
            Effect::ResyncNeeded => {
                host.needs_sync = true;
                self.want_sync(index);
            }
            Effect::Frozen(why) => host.frozen = why.is_some(),
            Effect::Over(_) => host.gone = true,
        }
    }

    fn command(&mut self, index: usize, command: ServiceCommand) {
        if let ServiceCommand::Leave(how) = command
            && self.engine.members.contains_key(&index)
            && let Some(me) = self.hosts[index].me
        {
            let mine = |flight: &Flight| flight.by == me.incarnation;
            if self.flights.iter().any(mine) {
                self.wrong = Some("left with a write under way");
            }
            if how == Leave::Clean && self.bits[usize::from(me.slot.0)] {
                self.wrong = Some("left clean with a bit set");
            }
        }
        let mut told = Vec::new();
        self.engine.command(index, command, &mut told);
        self.tell(told);
    }

    fn launch(&mut self, host: usize, op: Op) {
        let me = self.hosts[host].me.expect("a member");
        let by = me.incarnation;
        self.flights.push(Flight { host, by, op });
    }

    fn begin(&mut self, index: usize, desk: Desk, task: Task) {
        let host = &mut self.hosts[index];
        let view = host.view;
        let mut to = Super {
            generation: view.generation + 1,
            ..view
        };
        match &task {
            Task::Write(ids) => {
                for id in ids {
                    match host.wishes[id].0 {
                        Want::Claim => to.claim = Some(index),
                        Want::Failure => to.failures |= 1 << index,
                        Want::Add => to.disks += 1,
                        Want::Grow => to.size += 1,
                        Want::ReAdd | Want::Remove | Want::Bitmap | Want::Chunk => {}
                    }
                }
                let base = view.generation;
                host.tasks.push((desk, task));
                self.launch(index, Op::Super { base, to });
            }
            Task::Undo(id) if !matches!(host.wishes[id].0, Want::Bitmap | Want::Chunk) => {
                match host.wishes[id].0 {
                    Want::Grow if host.wishes[id].1 > 0 => to.size -= 1,
                    Want::Add if host.view.disks > 0 && !host.unable => {}
                    _ => {}
                }
                let base = view.generation;
                host.tasks.push((desk, task));
                self.launch(index, Op::Super { base, to });
            }
            Task::Drain => {
                host.draining = true;
                host.tasks.push((desk, task));
            }
            _ => host.tasks.push((desk, task)),
        }
    }

    fn can(&self, index: usize, cannot: Cannot) -> Answer {
        match self.hosts[index].unable {
            true => Answer::Cannot(cannot),
            false => Answer::Done,
        }
    }

    fn perform(&mut self, index: usize, place: usize) {
        let (desk, task) = self.hosts[index].tasks.remove(place);
        let fenced = self.is_fenced(index);
        let me = self.hosts[index].me.expect("a member");
        let own = usize::from(me.slot.0);
        let disk = self.disk;
        let host = &mut self.hosts[index];
        let answer = match task {
            Task::Load {
                windows,
                most_sectors,
            } => {
                host.view = disk;
                let most = most_sectors.map_or(u8::MAX, |most| u8::try_from(most).expect("small"));
                host.published = disk.size.min(most);
                host.suspended = windows.iter().map(|(slot, _)| *slot).collect();
                host.needs_sync = self.bits[own];
                Answer::Loaded {
                    dirty: self.bits[own],
                    sectors: u64::from(host.published),
                }
            }
            Task::Recheck(ids) => {
                let wanted = |id: &WishId| host.wishes.get(id).map(|(want, _)| *want);
                let free = host.view.claim.is_none();
                let holds =
                    |id: &WishId| wanted(id).is_some_and(|want| want != Want::Claim || free);
                Answer::Holds(ids.into_iter().filter(holds).collect())
            }
            Task::Reload { .. } => {
                if host.unable && disk.size > host.view.size {
                    Answer::Cannot(Cannot::Follow)
                } else {
                    host.view = disk;
                    Answer::Done
                }
            }
            Task::Suspend { owner, window } => {
                match window {
                    Some(_) => host.suspended.insert(owner),
                    None => host.suspended.remove(&owner),
                };
                Answer::Done
            }
            Task::FindDisk { .. } => self.can(index, Cannot::SeeDisk),
            Task::ResizeBitmap { .. } | Task::Rechunk { .. } | Task::Move { .. } => {
                self.can(index, Cannot::Follow)
            }
            Task::Publish { .. } => {
                host.published = host.view.size;
                Answer::Done
            }
            Task::Apply(id) => {
                if host.wishes[&id].0 == Want::Grow {
                    host.published = host.view.size;
                }
                Answer::Done
            }
            Task::Remove(_) | Task::Undo(_) | Task::Vacant { .. } => Answer::Done,
            Task::CopyBits(slot) => {
                let theirs = usize::from(slot.0);
                let any = self.bits[theirs] || host.held_bits;
                if fenced {
                    Answer::Cannot(Cannot::Work)
                } else {
                    self.bits[own] |= any;
                    host.needs_sync |= any;
                    host.again |= any && host.sync == Sync::Copying;
                    Answer::Copied { any }
                }
            }
            Task::ClearBits(slot) if !fenced => {
                let theirs = usize::from(slot.0);
                host.held_bits |= self.bits[theirs];
                self.bits[theirs] = false;
                Answer::Done
            }
            Task::ClearBits(_) => Answer::Cannot(Cannot::Work),
            Task::Drain => {
                host.sync = Sync::Idle;
                if !host.needs_sync && !fenced && !host.broken {
                    self.bits[own] = false;
                }
                Answer::Drained {
                    dirty: host.needs_sync,
                }
            }
            Task::Write(_) => panic!("under way as a flight"),
        };
        self.handle(index, Event::Answer(desk, answer));
    }

    fn is_fenced(&self, index: usize) -> bool {
        let me = self.hosts[index].me;
        me.is_some_and(|me| self.fenced.contains(&me.incarnation))
    }

    /// A write reaches the disk, or its host was fenced before.
    fn land(&mut self, place: usize) {
        let flight = self.flights.remove(place);
        let refused = self.fenced.contains(&flight.by);
        if !refused && self.engine.begun.contains(&flight.by) {
            self.wrong = Some("S3: a write of a dead node landed after its recovery had begun");
        }
        let host = &self.hosts[flight.host];
        let alive = host.node.is_some() && host.me.is_some_and(|me| me.incarnation == flight.by);
        match flight.op {
            Op::Super { base, to } => {
                if !refused {
                    if self.disk.generation != base {
                        self.wrong = Some("lost update: what another node wrote was not read");
                    }
                    let before = self.disk.claim;
                    if before.is_some() && before != to.claim {
                        self.wrong = Some("lost update: the role of another node was taken");
                    }
                    self.disk = to;
                }
            }
            Op::Data { leg, value } => {
                let resynced = |other: &Flight| {
                    matches!(other.op, Op::Sync { .. })
                        && other.host != flight.host
                        && !self.fenced.contains(&other.by)
                };
                if !refused {
                    self.data[leg][flight.host] = value;
                    if self.flights.iter().any(resynced) {
                        self.wrong = Some("S1: written where another node resyncs");
                    }
                }
            }
            Op::Sync { value } => {
                if !refused {
                    self.data[1] = value;
                }
            }
        }
        if alive && self.hosts[flight.host].paused {
            self.hosts[flight.host].landed.push((flight.op, refused));
        } else if alive {
            self.completed(flight.host, flight.op, refused);
        }
    }

    /// A host hears of its write.
    fn completed(&mut self, index: usize, op: Op, refused: bool) {
        match op {
            Op::Super { to, .. } => self.written(index, to, refused),
            Op::Data { .. } => {
                self.hosts[index].writing -= 1;
                self.hosts[index].broken |= refused;
            }
            Op::Sync { .. } => self.synced(index, refused),
        }
    }

    fn written(&mut self, index: usize, to: Super, refused: bool) {
        let host = &mut self.hosts[index];
        let find = |(_, task): &(Desk, Task)| matches!(task, Task::Write(_) | Task::Undo(_));
        let Some(place) = host.tasks.iter().position(find) else {
            return;
        };
        let (desk, task) = host.tasks.remove(place);
        let answer = if refused {
            Answer::Cannot(Cannot::Work)
        } else {
            host.view = to;
            if let Task::Write(ids) = &task {
                for id in ids {
                    let wish = host.wishes.get_mut(id);
                    if let Some(wish) = wish {
                        wish.1 = to.generation;
                    }
                }
            }
            Answer::Written(DeviceNumber(0))
        };
        self.handle(index, Event::Answer(desk, answer));
    }

    fn synced(&mut self, index: usize, refused: bool) {
        let host = &mut self.hosts[index];
        let me = host.me.expect("a member");
        host.sync = Sync::Ending;
        let counts = !refused && !std::mem::take(&mut host.again);
        if counts {
            self.bits[usize::from(me.slot.0)] = false;
            self.hosts[index].needs_sync = false;
        }
        let over = ResyncCall::Over { finished: counts };
        self.call(index, over);
    }

    fn call(&mut self, index: usize, call: ResyncCall) {
        let host = &self.hosts[index];
        if host.node.as_ref().is_some_and(Node::is_active) && !host.draining {
            self.handle(index, Event::Resync(call));
        }
    }

    fn want_sync(&mut self, index: usize) {
        if self.hosts[index].sync == Sync::Idle && self.hosts[index].serving {
            self.hosts[index].sync = Sync::Asked;
            self.call(index, ResyncCall::Want);
        }
    }

    fn word(&mut self, index: usize, word: &ResyncWord) {
        let host = &mut self.hosts[index];
        match word {
            ResyncWord::May if host.sync == Sync::Asked => {
                host.sync = Sync::Told;
                let window = Window::new(0, 8).expect("not empty");
                self.call(index, ResyncCall::Window(window));
            }
            ResyncWord::Open(_) if host.sync == Sync::Told => host.sync = Sync::Open,
            ResyncWord::Refused(_) => {
                host.sync = Sync::GivenUp;
                self.call(index, ResyncCall::Over { finished: false });
            }
            ResyncWord::Ended => {
                host.sync = Sync::Idle;
                if host.needs_sync {
                    self.want_sync(index);
                }
            }
            ResyncWord::May | ResyncWord::Open(_) => {}
        }
    }

    fn sync(&mut self, index: usize) {
        let other = |flight: &Flight| {
            matches!(flight.op, Op::Data { .. } | Op::Sync { .. })
                && flight.host != index
                && !self.fenced.contains(&flight.by)
        };
        // What a fenced host begins reaches nothing.
        if !self.is_fenced(index) && self.flights.iter().any(other) {
            self.wrong = Some("S1: resynced where another node writes");
        }
        self.hosts[index].sync = Sync::Copying;
        let value = self.data[0];
        self.launch(index, Op::Sync { value });
    }

    fn fence(&mut self, index: usize, peer: Peer) {
        self.hosts[index].fences.remove(&peer);
        if self.fencing_works {
            self.fenced.insert(peer.incarnation);
            let kind = ProofKind::Storage;
            self.handle(index, Event::Fenced(FenceProof { peer, kind }));
        } else {
            self.handle(index, Event::NotFenced(peer));
        }
    }

    fn want(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let want = host.wants.remove(0);
        let id = WishId(self.next_wish);
        self.next_wish += 1;
        host.wishes.insert(id, (want, 0));
        let device = DeviceNumber(7);
        let disk = NewDisk {
            uuid: [1; 16],
            device,
            size_sectors: 8,
            path: DiskPath::new("/new").expect("short"),
        };
        let wish = match want {
            Want::Claim | Want::Failure => Wish::Update,
            Want::Add => Wish::AddDisk(disk),
            Want::Remove => Wish::RemoveDisk(device),
            Want::ReAdd => Wish::ReAdd(disk),
            Want::Grow => Wish::Resize {
                sectors: 1,
                sync_sectors: 1,
            },
            Want::Bitmap => Wish::BitmapResize {
                sync_sectors: 2,
                old_sync_sectors: 1,
            },
            Want::Chunk => Wish::Rechunk {
                region_bytes: 8192,
                old_region_bytes: 4096,
                sync_sectors: 1,
            },
        };
        self.handle(index, Event::Wish(id, wish));
    }

    fn write(&mut self, index: usize) {
        let me = self.hosts[index].me.expect("a member");
        self.hosts[index].writes -= 1;
        self.hosts[index].writing = 2;
        self.bits[usize::from(me.slot.0)] = true;
        let value = self.next_value;
        self.next_value += 1;
        for leg in 0..2 {
            self.launch(index, Op::Data { leg, value });
        }
    }

    /// A wish was answered: who may still write, and does not know?
    fn done(&mut self, index: usize, id: WishId, ok: bool) {
        let wish = self.hosts[index].wishes.remove(&id);
        let (want, generation) = wish.expect("a wish is answered once");
        let able = |host: &Host| !host.unable;
        if ok {
            for (other, host) in self.hosts.iter().enumerate() {
                let writes = host.serving && !self.is_fenced(other) && !host.gone;
                let alive = host.node.as_ref().is_some_and(|node| node.end().is_none());
                let old = host.view.generation < generation;
                if writes && alive && !host.crashed && old && !host.draining {
                    self.wrong = Some("an update was answered, and a node does not know of it");
                }
            }
        }
        let all = matches!(want, Want::Add | Want::Grow | Want::Bitmap | Want::Chunk);
        let members = self.engine.members.keys();
        if ok && all && !members.into_iter().all(|other| able(&self.hosts[*other])) {
            self.wrong = Some("done on all nodes, though one cannot");
        }
    }

    /// What must hold after any step.
    fn look(&mut self) {
        if self.data[0] != self.data[1] && !self.bits.contains(&true) && self.wrong.is_none() {
            self.wrong = Some("S4: mirrors differ, and no bit says so");
        }
        let resyncing = self.flights.iter();
        let resyncing = resyncing
            .filter(|one| matches!(one.op, Op::Sync { .. }) && !self.fenced.contains(&one.by));
        if resyncing.count() > 1 {
            self.wrong = Some("S5: two resyncs");
        }
        let serves = |host: &&Host| host.serving && !host.gone && host.node.is_some();
        let shown = self.hosts.iter().filter(serves).map(|host| host.published);
        let known = self.hosts.iter().filter(serves).map(|host| host.view.size);
        if shown.max() > known.min() {
            self.wrong = Some("S7: shown larger than a node has its members");
        }
    }

    /// Nothing moves any more: what must be so?
    pub fn at_rest(&self) -> Option<&'static str> {
        let mut serving = false;
        for host in &self.hosts {
            let Some(node) = host.node.as_ref().filter(|_| !host.paused) else {
                continue;
            };
            let unfenced = matches!(node.frozen(), Some(Freeze::Unfenced(_)));
            let excused = unfenced && !self.fencing_works;
            if host.stopping && node.end().is_none() {
                return Some("L2: a stop does not end");
            }
            if !host.wishes.is_empty() && !excused {
                return Some("L1: a wish is never answered");
            }
            if !node.waits().is_empty() && !excused {
                return Some("L1: a node waits for ever");
            }
            if node.is_active() && !host.frozen {
                serving = true;
                if !host.suspended.is_empty() {
                    return Some("L1: writes are kept out of a window for ever");
                }
                if host.view != self.disk {
                    return Some("S6: a node sees another array than there is");
                }
                if host.needs_sync && host.sync != Sync::GivenUp {
                    return Some("L3: a dirty region is not resynced");
                }
            }
            let lost = matches!(node.frozen(), Some(Freeze::Lost));
            if node.is_active() && host.frozen && !excused && !lost && !host.unable {
                return Some("frozen for no reason");
            }
        }
        if !serving {
            return None;
        }
        if !self.engine.dead.is_empty() {
            return Some("L3: nobody takes the slot of a dead node");
        }
        if self.data[0] != self.data[1] {
            return Some("S2: mirrors differ in the end");
        }
        None
    }

    /// For the scenes: something of one region differs, as the bit of a slot says.
    pub fn dirty(&mut self, slot: usize) {
        self.bits[slot] = true;
        self.data[0][slot] = 1;
        self.next_value = 2;
    }
}
