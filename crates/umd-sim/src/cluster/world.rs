//! The world of a cluster: hosts, the disks they share, the lock service, and time.
//!
//! ```text
//!   items of the plan ----.      .--> Host: Clustered --Output--> disks, line, oracle
//!   ends of member I/O ---+-> step                |
//!   timers, words, fences-'      '<-- Queue <-----'        judge looks at each I/O (judge.rs)
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use umd_core::array::{Clustered, Input, Output};
use umd_core::cluster::{
    Freeze, Message, Peer, Right, Rules, ServiceCommand, ServiceEvent, Setup as NodeSetup,
};
use umd_core::value::{
    Command, Completion, Event, Instant, IoDone, IoError, IoOp, MemberIo, Museum, Pool, Purpose,
    Span,
};

use super::host::{At, Host, Running, disk_of};
use super::line::KEEP_EVERY;
use super::media;
use super::plan::Plan;
use super::service::Service;
use crate::disk::SimDisk;
use crate::engine::now_at;
use crate::monitor::{Rule, Verdict, Violation};
use crate::oracle::{Look, Oracle};
use crate::queue::Queue;
use crate::rng::{Rng, Stream};
use crate::trace::Trace;

/// More events in one run than this: something spins.
const EVENTS_MAX: u64 = 400_000;

/// What a host has sent to a disk lands after that time at the latest.
const LATEST: Span = Span::secs(60);

/// What the hosts are made of: the shipped rules, or all but one, or a known mistake.
#[derive(Debug, Clone, Copy, Default)]
pub struct Make {
    /// The rules of nodes.
    pub rules: Rules,
    /// A mistake of arrays.
    pub museum: Museum,
}

/// What happened, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that were handled.
    pub events: u64,
    /// Requests that were answered.
    pub answers: u64,
    /// Sectors of reads that were checked.
    pub reads_checked: u64,
    /// Processes that died, or lost their session.
    pub deaths: u64,
    /// Lives that were fenced.
    pub fences: u64,
    /// Slots of dead nodes that were taken.
    pub takeovers: u64,
    /// Writes of dead or paused hosts that landed late.
    pub late: u64,
    /// Changes of members or the size that were done.
    pub changes: u64,
    /// Resyncs, recoveries, checks that ended.
    pub syncs: u64,
    /// Runs that ended because all slots belong to the dead.
    pub refusals: u64,
}

#[derive(Debug)]
pub(super) enum Ev {
    Item(usize),
    Io(u64),
    Host(usize, u64, At),
}

/// A member I/O that a disk has.
#[derive(Debug)]
pub(super) struct Flight {
    pub host: usize,
    pub life: u64,
    pub peer: Option<Peer>,
    pub io: umd_core::value::IoId,
    pub disk: usize,
    pub purpose: Purpose,
    pub writes: bool,
    /// Sectors of the walk.
    pub walk: Vec<Range<u64>>,
    /// It does not land before.
    late_until: Instant,
}

/// A write that was asked for and is not over.
#[derive(Debug)]
pub(super) struct Written {
    pub range: Range<u64>,
    pub host: usize,
    pub life: u64,
    pub peer: Option<Peer>,
}

/// The world.
pub struct World {
    pub(super) plan: Plan,
    pub(super) make: Make,
    pub(super) now: Instant,
    pub(super) queue: Queue<Ev>,
    pub(super) disks: Vec<SimDisk>,
    pub(super) hosts: Vec<Host>,
    pub(super) service: Service,
    pub(super) flights: BTreeMap<u64, Flight>,
    next: u64,
    inputs: VecDeque<(usize, u64, Input)>,
    pub(super) oracle: Oracle,
    pub(super) writes: BTreeMap<u64, Written>,
    /// Lives that ended without a word.
    pub(super) crashed: Vec<Peer>,
    /// Sectors that several hosts wrote at the same time.
    pub(super) contested: BTreeSet<u64>,
    pub(super) fenced: BTreeSet<Peer>,
    /// Lives that have loaded the array.
    pub(super) loaded: BTreeSet<Peer>,
    pub(super) pool: Pool,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
    pub(super) net: Rng,
    /// Nothing goes wrong any more.
    pub(super) healed: bool,
    /// Disks may be slow until then.
    pub(super) slow_until: Instant,
    /// Disks that are to be none of the array any more, by who was asked.
    pub(super) removing: BTreeMap<u64, usize>,
    /// Disks that an administrator was told are none of it.
    pub(super) removed: BTreeSet<usize>,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(plan: Plan, make: Make, trace: Trace) -> World {
        let disks = media::make_disks(&plan);
        let mut queue = Queue::new(Rng::new(plan.seed, Stream::Schedule));
        for (index, item) in plan.items.iter().enumerate() {
            queue.push(Instant(1) + item.at, Ev::Item(index));
        }
        World {
            hosts: (0..plan.hosts).map(|_| Host::new(disks.len())).collect(),
            net: Rng::new(plan.seed, Stream::Network),
            plan,
            make,
            now: Instant(1),
            queue,
            disks,
            service: Service::default(),
            flights: BTreeMap::new(),
            next: 1,
            inputs: VecDeque::new(),
            oracle: Oracle::new(Look::Zero, true),
            writes: BTreeMap::new(),
            crashed: Vec::new(),
            contested: BTreeSet::new(),
            fenced: BTreeSet::new(),
            loaded: BTreeSet::new(),
            pool: Pool::new(),
            trace,
            counts: Counts::default(),
            healed: false,
            slow_until: Instant(0),
            removing: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        Counts {
            reads_checked: self.oracle.reads_checked(),
            ..self.counts
        }
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// All of it: the items of the plan, then everybody is well, and all has to come to rest.
    pub fn run(&mut self) -> Verdict {
        let times = self.plan.items.iter().map(|item| item.at);
        let last = times.max().unwrap_or(Span(0));
        self.run_until(Instant(1) + last + Span::secs(2))?;
        self.end()
    }

    /// Lets everything happen until then.
    pub(super) fn run_until(&mut self, end: Instant) -> Verdict {
        while self.queue.next_due().is_some_and(|due| due <= end) {
            let (due, event) = self.queue.pop().expect("just seen");
            self.now = self.now.max(due);
            self.counts.events += 1;
            if self.counts.events > EVENTS_MAX {
                let text = format!("{EVENTS_MAX} events: {:?}", self.hosts);
                return Err(Violation::new(Rule::Liveness, text));
            }
            self.step(event)?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn note(&mut self, line: std::fmt::Arguments<'_>) {
        if self.trace.wants_text() {
            let ns = self.now.0;
            let (ms, rest) = (ns / 1_000_000, ns % 1_000_000);
            self.trace.note(format_args!("{ms:>7}.{rest:06}ms {line}"));
        }
    }

    pub(super) fn later(&mut self, ns: u64, event: Ev) {
        self.queue.push(self.now + Span(ns), event);
    }

    /// Something happens to the process that a host now runs.
    pub(super) fn soon(&mut self, host: usize, ns: u64, at: At) {
        let life = self.hosts[host].life;
        self.later(ns, Ev::Host(host, life, at));
    }

    fn network(&mut self) -> u64 {
        let most = self.plan.network_ns;
        self.net.range(most / 20, most)
    }

    fn step(&mut self, event: Ev) -> Verdict {
        let word = match &event {
            Ev::Item(index) => 1 ^ (*index as u64) << 8,
            Ev::Io(tag) => 2 ^ tag << 8,
            Ev::Host(host, life, _) => 3 ^ (*host as u64) << 8 ^ life << 16,
        };
        self.trace.word(word ^ self.now.0.rotate_left(32));
        match event {
            Ev::Item(index) => {
                let act = self.plan.items[index].act.clone();
                self.act(act)
            }
            Ev::Io(tag) => self.io_ended(tag),
            Ev::Host(host, life, at) => {
                let one = &self.hosts[host];
                if one.life != life || one.array.is_none() {
                    return Ok(());
                }
                if one.paused_until > self.now {
                    let until = one.paused_until;
                    self.queue.push(until, Ev::Host(host, life, at));
                    return Ok(());
                }
                self.happens(host, at)
            }
        }
    }

    fn happens(&mut self, host: usize, at: At) -> Verdict {
        let running = self.hosts[host].array.as_mut().expect("it runs");
        match at {
            At::Done(done) => {
                if running.ios.remove(&done.io).is_none() {
                    return Ok(());
                }
                self.input(host, Input::Array(Event::Done(done)))
            }
            At::Timer(timer, armed) => {
                if running.timers.get(&timer) != Some(&armed) {
                    return Ok(());
                }
                running.timers.remove(&timer);
                self.input(host, Input::Array(Event::Timer(timer)))
            }
            At::Tick => {
                running.tick = None;
                let mut events = Vec::new();
                running.line.tick(self.now, &mut events);
                self.hear(host, events)?;
                let now = self.now;
                let running = self.hosts[host].array.as_ref();
                let due = running.and_then(|one| one.clustered.next_deadline());
                if due.is_some_and(|at| at <= now) {
                    return self.input(host, Input::Tick);
                }
                self.look_after(host);
                Ok(())
            }
            At::Say => self.say(host),
            At::Hear => self.listen(host),
            At::Keep => self.keep(host),
            At::Load(slot) => self.load(host, slot),
            At::Fence(peer) => self.fence(host, peer),
            At::Find(disk) => self.find(host, &disk),
        }
    }

    // A process and its node.

    /// A host that does not run joins.
    pub(super) fn start(&mut self, host: usize) -> Verdict {
        if self.hosts[host].array.is_some() || self.hosts[host].off_until > self.now {
            return Ok(());
        }
        let mut setup = NodeSetup::new(self.plan.capacity);
        setup.rules = self.make.rules;
        let clustered = Clustered::new(setup).with_windows(self.plan.window_sectors);
        let one = &mut self.hosts[host];
        one.life += 1;
        one.end = None;
        one.paused_until = Instant(0);
        one.array = Some(Running::new(clustered, format!("h{host}")));
        let life = one.life;
        self.note(format_args!("# h{host} starts, life {life}"));
        self.input(host, Input::Start)?;
        self.soon(host, KEEP_EVERY.0, At::Keep);
        Ok(())
    }

    /// Hands something to a host's node, and does what comes of it.
    pub(super) fn input(&mut self, host: usize, input: Input) -> Verdict {
        let life = self.hosts[host].life;
        self.inputs.push_back((host, life, input));
        if self.inputs.len() > 1 {
            return Ok(()); // Whoever handles the first takes this one, too.
        }
        while let Some((host, life, _)) = self.inputs.front() {
            let (host, life) = (*host, *life);
            let now = now_at(self.now);
            let one = &mut self.hosts[host];
            let Some(running) = one.array.as_mut().filter(|_| one.life == life) else {
                self.inputs.pop_front();
                continue;
            };
            let (_, _, input) = self.inputs.front_mut().expect("just seen");
            let input = std::mem::replace(input, Input::Tick);
            if self.trace.wants_text() {
                let ms = self.now.0 / 1_000_000;
                let text = format!("{input:?}");
                let text: String = text.chars().take(300).collect();
                self.trace.note(format_args!("{ms:>7}ms > h{host} {text}"));
            }
            let mut out = Vec::new();
            running.clustered.handle(now, input, &mut out);
            if let Some(array) = running.clustered.array() {
                array.check_invariants();
                if !out.is_empty() || running.status.is_none() {
                    match &mut running.status {
                        Some(status) => array.refresh(status),
                        empty => *empty = Some(array.status()),
                    }
                }
            }
            if !out.is_empty() {
                self.judge_size(host)?;
            }
            for output in out {
                self.output(host, life, output)?;
            }
            self.inputs.pop_front();
            self.look_after(host);
        }
        Ok(())
    }

    /// Sees to it that a host is called when something of it is due.
    fn look_after(&mut self, host: usize) {
        let Some(running) = self.hosts[host].array.as_mut() else {
            return;
        };
        let next = [
            running.clustered.next_deadline(),
            running.line.next_deadline(),
        ];
        if let Some(at) = next.into_iter().flatten().min() {
            let at = at.max(self.now);
            if at < Instant(u64::MAX) && running.tick.is_none_or(|tick| at < tick) {
                running.tick = Some(at);
                let life = self.hosts[host].life;
                self.queue.push(at, Ev::Host(host, life, At::Tick));
            }
        }
        let running = self.hosts[host].array.as_mut().expect("it runs");
        if running.line.has_words() && !running.says {
            running.says = true;
            let ns = self.network();
            self.soon(host, ns, At::Say);
        }
    }

    fn output(&mut self, host: usize, life: u64, output: Output) -> Verdict {
        if self.hosts[host].life != life || self.hosts[host].array.is_none() {
            return Ok(());
        }
        if self.trace.wants_text() {
            let text: String = format!("{output:?}").chars().take(300).collect();
            self.note(format_args!("< h{host} {text}"));
        }
        let running = self.hosts[host].array.as_mut().expect("it runs");
        match output {
            Output::Array(command) => return self.command(host, command),
            Output::Service(command) => return self.service_command(host, &command),
            Output::Load(slot) => {
                let ns = self.network();
                self.soon(host, ns, At::Load(slot));
            }
            Output::Fence(peer) => {
                let ns = self.net.range(100_000_000, 3_000_000_000);
                self.soon(host, ns, At::Fence(peer));
            }
            Output::Find(disk) => {
                let ns = self.network();
                self.soon(host, ns, At::Find(disk));
            }
            Output::Ready => running.ready = true,
            Output::NotJoined(_) | Output::NotLoaded(_) | Output::Refused(..) => {}
            Output::Frozen(Some(Freeze::Lost)) => {
                running.lost = true;
                if !std::mem::replace(&mut running.stopping, true) {
                    return self.input(host, Input::Stop);
                }
            }
            Output::Frozen(_) => {}
            Output::Over(end) => return self.over(host, end),
        }
        Ok(())
    }

    fn command(&mut self, host: usize, command: Command) -> Verdict {
        let running = self.hosts[host].array.as_mut().expect("it runs");
        match command {
            Command::Io(io) => return self.submit(host, io),
            Command::Complete { id, result } => return self.completed(host, id, result),
            Command::Arm(timer, at) => {
                running.timers.insert(timer, at);
                let (life, at) = (self.hosts[host].life, at.max(self.now));
                let armed = At::Timer(timer, self.hosts[host].armed(timer));
                self.queue.push(at, Ev::Host(host, life, armed));
            }
            Command::Answer { id, result } => {
                running.controls.remove(&id.0);
                let removed = self.removing.remove(&id.0);
                self.removed.extend(removed.filter(|_| result.is_ok()));
                self.counts.changes += u64::from(result.is_ok());
            }
            Command::Notify(umd_core::value::Notice::SyncEnded { .. }) => self.counts.syncs += 1,
            Command::Notify(umd_core::value::Notice::Frozen(why)) => {
                return Err(Violation::new(Rule::Panic, format!("h{host}: {why}")));
            }
            Command::Notify(_) | Command::Stopped => {}
            Command::Release(member) => {
                running.opened.retain(|_, open| *open != member);
            }
        }
        Ok(())
    }

    // The lock service.

    fn service_command(&mut self, host: usize, command: &ServiceCommand) -> Verdict {
        self.judge_leaving(host, command)?;
        self.judge_expelling(host, command)?;
        self.judge_reading(host, command)?;
        let now = self.now;
        let running = self.hosts[host].array.as_mut().expect("it runs");
        match command {
            ServiceCommand::Release(Right::Token, _) => running.token = false,
            ServiceCommand::Release(Right::Resync, _) => running.resync = false,
            ServiceCommand::Ack(id, _) => drop(running.told.remove(id)),
            _ => {}
        }
        let mut events = Vec::new();
        running.line.submit(command, now, &mut events);
        self.hear(host, events)
    }

    /// Events of the service for a node, in order.
    fn hear(&mut self, host: usize, events: Vec<ServiceEvent>) -> Verdict {
        for event in events {
            let Some(running) = self.hosts[host].array.as_mut() else {
                return Ok(());
            };
            match &event {
                ServiceEvent::Joined(session) => running.me = Some(session.me),
                ServiceEvent::Granted(Right::Token, _) => running.token = true,
                ServiceEvent::Granted(Right::Resync, _) => running.resync = true,
                ServiceEvent::Lost => {
                    running.lost = true;
                    (running.token, running.resync) = (false, false);
                    self.counts.deaths += 1;
                }
                ServiceEvent::RecoveryGranted(_) => self.counts.takeovers += 1,
                ServiceEvent::Deliver(id, _, Message::MetadataUpdated { good }) => {
                    running.told.insert(*id, *good);
                }
                _ => {}
            }
            self.input(host, Input::Service(event))?;
        }
        Ok(())
    }

    /// Whether a host reaches the service; if not, this happens when it does.
    fn reaches(&mut self, host: usize, at: At) -> bool {
        let until = self.hosts[host].isolated_until;
        if until > self.now {
            let life = self.hosts[host].life;
            self.queue.push(until, Ev::Host(host, life, at));
        }
        until <= self.now
    }

    fn say(&mut self, host: usize) -> Verdict {
        if !self.reaches(host, At::Say) {
            return Ok(());
        }
        let forgets = self.net.permille(self.plan.forgotten_permille);
        let now = self.now;
        let running = self.hosts[host].array.as_mut().expect("it runs");
        running.says = false;
        let mut events = Vec::new();
        let before = self.service.len();
        running
            .line
            .write(&mut self.service, now, forgets, &mut events);
        if self.service.len() > before {
            for other in 0..self.hosts.len() {
                self.let_hear(other);
            }
        }
        self.judge_taking()?;
        self.hear(host, events)?;
        self.look_after(host);
        Ok(())
    }

    fn let_hear(&mut self, host: usize) {
        let runs = self.hosts[host].array.as_mut();
        if let Some(running) = runs.filter(|one| one.line.mark.is_some() && !one.hears) {
            running.hears = true;
            let ns = self.network();
            self.soon(host, ns, At::Hear);
        }
    }

    fn listen(&mut self, host: usize) -> Verdict {
        if !self.reaches(host, At::Hear) {
            return Ok(());
        }
        let most = self.net.pick(&[1, 1, 3, 100]);
        let now = self.now;
        let running = self.hosts[host].array.as_mut().expect("it runs");
        running.hears = false;
        let mut events = Vec::new();
        let more = running.line.read(&mut self.service, now, most, &mut events);
        self.hear(host, events)?;
        if more {
            self.let_hear(host);
        }
        self.look_after(host);
        Ok(())
    }

    fn keep(&mut self, host: usize) -> Verdict {
        self.soon(host, KEEP_EVERY.0, At::Keep);
        if self.hosts[host].isolated_until > self.now {
            return Ok(());
        }
        let now = self.now;
        let running = self.hosts[host].array.as_mut().expect("it runs");
        let mut events = Vec::new();
        running.line.keep(&mut self.service, now, &mut events);
        self.hear(host, events)?;
        self.look_after(host);
        Ok(())
    }

    // Members.

    fn submit(&mut self, host: usize, io: MemberIo) -> Verdict {
        let walk = self.walk_of(host, &io);
        self.judge_io(host, &io, &walk)?;
        let disk = disk_of(io.member);
        let writes = writes(&io.op);
        let tag = self.number();
        let one = &mut self.hosts[host];
        let cut = one.cut_until[disk] > self.now;
        let life = one.life;
        let running = one.array.as_mut().expect("it runs");
        let peer = running.me;
        let refused = cut || peer.is_some_and(|peer| self.fenced.contains(&peer));
        running.ios.insert(io.io, tag);
        if refused {
            let result = Err(IoError::Gone);
            let done = Completion { io: io.io, result };
            self.soon(host, 50_000, At::Done(done));
            return Ok(());
        }
        let due = self.disks[disk].submit(self.now, tag, io.purpose, io.op);
        let flight = Flight {
            host,
            life,
            peer,
            io: io.io,
            disk,
            purpose: io.purpose,
            writes,
            walk,
            late_until: Instant(0),
        };
        self.flights.insert(tag, flight);
        let due = due.expect("no disk is silent");
        self.queue.push(due, Ev::Io(tag));
        Ok(())
    }

    fn io_ended(&mut self, tag: u64) -> Verdict {
        let Some(flight) = self.flights.get(&tag) else {
            return Ok(()); // It was taken back.
        };
        if flight.late_until > self.now {
            let until = flight.late_until;
            self.queue.push(until, Ev::Io(tag));
            return Ok(());
        }
        let late = flight.late_until > Instant(0);
        let flight = self.flights.remove(&tag).expect("just seen");
        self.counts.late += u64::from(late && flight.writes);
        let result = self.disks[flight.disk].finish(tag);
        let result = result.expect("it is under way");
        self.tell_done(&flight, result);
        Ok(())
    }

    fn tell_done(&mut self, flight: &Flight, result: Result<IoDone, IoError>) {
        let one = &self.hosts[flight.host];
        let cut = one.cut_until[flight.disk] > self.now;
        let result = match cut {
            true => Err(IoError::Gone),
            false => result,
        };
        let done = Completion {
            io: flight.io,
            result,
        };
        let event = Ev::Host(flight.host, flight.life, At::Done(done));
        self.queue.push(self.now, event);
    }

    /// What a host has sent to the disks lands later, or was never sent.
    pub(super) fn delay_flights(&mut self, host: usize, dies: bool) {
        let life = self.hosts[host].life;
        let mine = self.flights.iter();
        let mine = mine.filter(|(_, one)| one.host == host && one.life == life);
        let tags: Vec<u64> = mine.map(|(tag, _)| *tag).collect();
        // Who comes to life again gives up what it has waited for too long.
        let most = match dies {
            true => LATEST,
            false => (self.hosts[host].paused_until - self.now).min(LATEST),
        };
        for tag in tags {
            let late = self.net.permille(self.plan.late_permille);
            let until = self.now + Span(self.net.below(most.0.max(1)));
            let lost = dies && self.net.permille(300);
            let flight = self.flights.get_mut(&tag).expect("just seen");
            if dies && (lost || !flight.writes) {
                self.take_back(tag);
            } else if late {
                flight.late_until = until;
            }
        }
    }

    fn take_back(&mut self, tag: u64) {
        let flight = self.flights.remove(&tag).expect("it is under way");
        self.disks[flight.disk].take_back(tag);
    }

    /// From here on nothing of a life lands. Whoever still believes in it is told so by the disks.
    pub(super) fn end_flights(&mut self, peer: Peer) {
        self.fenced.insert(peer);
        let tags = self.flights.iter();
        let tags = tags.filter(|(_, flight)| flight.peer == Some(peer));
        for tag in tags.map(|(tag, _)| *tag).collect::<Vec<u64>>() {
            self.disks[self.flights[&tag].disk].take_back(tag);
            let flight = self.flights.remove(&tag).expect("just seen");
            self.tell_done(&flight, Err(IoError::Gone));
        }
        self.end_writes(peer);
    }
}

/// Whether an operation changes a disk.
pub(super) fn writes(op: &IoOp) -> bool {
    matches!(op, IoOp::Write { .. } | IoOp::WriteZeroes { .. })
}

/// The sectors of a disk that an operation is about.
pub(super) fn range_of(op: &IoOp) -> Range<u64> {
    match op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => *offset_sectors..offset_sectors + buf.len() as u64 / 512,
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => *offset_sectors..offset_sectors + umd_core::value::slices_len(data) as u64 / 512,
        IoOp::WriteZeroes {
            offset_sectors,
            len_sectors,
            ..
        } => *offset_sectors..offset_sectors + len_sectors,
        IoOp::Flush | IoOp::Allocation { .. } => 0..0,
    }
}
