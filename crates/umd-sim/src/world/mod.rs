//! The world: one array, its disks, hosts and administrator, in virtual time.
//!
//! ```text
//!            clients   administrator   faults
//!               |            |           |
//!   queue --> events --> Engine::handle --> commands --> disks, oracle, monitor
//!     ^                                        |
//!     +------- completions, timers ------------+
//!
//!   boot:  assemble -> work -> (settle -> read back -> stop | power cut | kill) -> next boot
//! ```

mod admin;
mod alone;
mod atlas;
mod boot;
mod commands;
mod ends;
mod exact;
mod exhaust;
mod fork;
mod host;
mod lag;
mod late;
mod levels;
mod limits;
mod manual;
mod phases;
mod pretend;
mod rest;
mod silent;
mod split;
mod tardy;
mod whole;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use umd_core::array::{Commands, Event, IoError, Purpose, Status, Timer};
use umd_core::value::{ControlId, Instant, IoId, MemberId, Pool, RequestId, Span};

use crate::disk::SimDisk;
use crate::engine::{Engine, Maker, now_at};
use crate::layout::Geometry;
use crate::metaview::{is_logged_bad, super_sector};
use crate::monitor::{Monitor, Rule, Verdict, Violation};
use crate::options::Options;
use crate::oracle::Oracle;
use crate::program::Program;
use crate::queue::Queue;
use crate::rng::{Rng, Stream, mix};
use crate::script::IoView;
use crate::stamp::{Content, recognise};
use crate::trace::Trace;

use admin::Request as AdminRequest;
use atlas::Atlas;
use ends::Ends;
use exact::Record;
pub use exhaust::Looked;
use fork::ForkPlan;
use host::{Client, Pending};
pub(crate) use host::{Kind, Plan};
#[cfg(feature = "museum")]
pub(crate) use levels::number_of as level_number;
use manual::Manual;
pub use manual::{Ambush, Strike};
use phases::Phase;
use pretend::Pretence;
use split::Split;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ev {
    /// A disk ends an operation.
    Io { disk: usize, io: IoId },
    /// A timer of the engine; void if it was armed again since.
    Timer { timer: Timer, armed: u64 },
    /// A client may go on.
    Client(u16),
    /// Something breaks.
    Fault,
    /// The administrator does something.
    Admin,
    /// Limits of sync actions change.
    Limit,
    /// Whoever runs the array suspends or stops it.
    Embedder,
    /// A source that takes long over a write may vanish.
    Late,
    /// The array is stopped while a flag is being recorded.
    Halt,
    /// The administrator takes something back.
    Undo(AdminRequest),
    /// An item of the program is due.
    Item(usize),
    /// Look whether the phase is over.
    Poll,
    /// The boot ends as it was drawn.
    End,
    /// A disk's power goes.
    DiskOff(usize),
    /// The host's power goes.
    HostOff,
}

/// A submitted member I/O.
#[derive(Debug, Clone)]
struct IoInfo {
    view: IoView,
    member: MemberId,
    writes: bool,
    query: bool,
}

/// A running array.
struct Live {
    engine: Box<dyn Engine>,
    status: Status,
    monitor: Monitor,
    members: BTreeMap<MemberId, usize>,
    /// Failed and given up before a superblock said so.
    released: Vec<(MemberId, usize)>,
    ios: BTreeMap<IoId, IoInfo>,
    timers: BTreeMap<Timer, u64>,
    armed: u64,
    clients: Vec<Client>,
    pending: BTreeMap<RequestId, Pending>,
    admin: BTreeMap<ControlId, AdminRequest>,
    /// Nothing is written: it was suspended, or is being suspended, or waits for its first write.
    read_only: bool,
    /// It takes the first write that comes.
    dormant: bool,
    frozen: bool,
    faults_left: u64,
    actions_left: u64,
    answers: u64,
    phase: Phase,
    events: u64,
    /// Superblocks sent to members.
    supers: u64,
    /// A write that its disk takes long over.
    lingering: Option<late::Lingering>,
    /// Everybody was in sync from the start, and still is.
    whole: bool,
    /// The level that a reshape leads to, if that is another one.
    aim: Option<i32>,
    split: Split,
    ends: Ends,
}

/// Counts of a run, for whoever wants to know whether anything happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Boots.
    pub boots: u64,
    /// Events handed to the engine.
    pub events: u64,
    /// Member I/O.
    pub ios: u64,
    /// Answers to hosts.
    pub answers: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Power cuts and kills.
    pub crashes: u64,
    /// Moments at which crash images were drawn.
    pub forks: u64,
    /// Crash images that were looked at. Nothing else here counts what happens on them.
    pub images: u64,
    /// Assemblies that were refused, as they may be.
    pub refusals: u64,
    /// Sectors of reads that were checked.
    pub reads_checked: u64,
    /// How often the array became one of another level or layout.
    pub changes: u64,
    /// How often a reshape had come further.
    pub moves: u64,
}

/// The world.
pub struct World<'a> {
    options: Options,
    maker: &'a dyn Maker,
    now: Instant,
    queue: Queue<Ev>,
    disks: Vec<SimDisk>,
    /// Whether a disk carries a superblock of the array.
    carries: Vec<bool>,
    /// Whether a disk stays away.
    absent: Vec<bool>,
    /// The disk that the file with the bitmap lies on, and its identity while the array uses it.
    file: Option<usize>,
    file_id: Option<MemberId>,
    geometry: Geometry,
    pool: Pool,
    oracle: Oracle,
    atlas: Atlas,
    trace: Trace,
    counts: Counts,
    live: Option<Live>,
    /// What an array of level faulty has been asked for.
    pretence: Option<Pretence>,
    /// Memory for the commands of the next event.
    spare_commands: Commands,
    boot: u16,
    next_member: u32,
    next_request: u64,
    fault_rng: Rng,
    admin_rng: Rng,
    limit_rng: Rng,
    embedder_rng: Rng,
    limits_left: u64,
    setup_rng: Rng,
    manual: Manual,
    record: Record,
    program: Option<Rc<Program>>,
    forks: ForkPlan,
    looked: Option<Rc<RefCell<Looked>>>,
    clones: Vec<silent::Clone>,
    /// Who runs without the others, or did.
    alone: Option<alone::Alone>,
    /// Nobody failed in the last boot, and nothing happened to a disk since.
    was_whole: bool,
}

/// More events in one boot than this: something spins.
const EVENTS_MAX: u64 = 200_000;

impl World<'_> {
    fn live(&self) -> &Live {
        self.live.as_ref().expect("an array is running")
    }

    fn live_mut(&mut self) -> &mut Live {
        self.live.as_mut().expect("an array is running")
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

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    fn after(&mut self, ns: u64, event: Ev) {
        self.queue.push(self.now + Span(ns), event);
    }

    /// Runs all boots.
    pub fn run(&mut self) -> Verdict {
        for index in 0..self.options.boots.len() {
            self.boot = index as u16;
            if self.is_skipped() {
                continue;
            }
            self.fault_rng = Rng::new(self.options.seed, Stream::Fault(self.boot));
            self.admin_rng = Rng::new(self.options.seed, Stream::Control(self.boot));
            if !self.start()? {
                self.counts.refusals += 1;
                return Ok(());
            }
            self.counts.boots += 1;
            self.run_boot()?;
        }
        Ok(())
    }

    fn run_boot(&mut self) -> Verdict {
        while self.live.is_some() {
            let Some((due, event)) = self.queue.pop() else {
                return Err(Violation::new(
                    Rule::Liveness,
                    format!("nothing can happen any more: {}", self.dump()),
                ));
            };
            self.now = self.now.max(due);
            self.fork_if_due()?;
            let live = self.live_mut();
            live.events += 1;
            if live.events > EVENTS_MAX {
                let text = format!("{EVENTS_MAX} events in one boot: {}", self.dump());
                return Err(Violation::new(Rule::Liveness, text));
            }
            self.step(event)?;
        }
        Ok(())
    }

    fn step(&mut self, event: Ev) -> Verdict {
        match event {
            Ev::Io { disk, io } => self.io_ended(disk, io),
            Ev::Timer { timer, armed } => {
                if self.live().timers.get(&timer) != Some(&armed) {
                    return Ok(());
                }
                self.live_mut().timers.remove(&timer);
                self.deliver(Event::Timer(timer))
            }
            Ev::Client(client) => self.client_acts(client),
            Ev::Fault => self.strike(),
            Ev::Admin => self.administrate(),
            Ev::Limit => self.change_limits(),
            Ev::Embedder => self.embed(),
            Ev::Late => self.comes_late(),
            Ev::Halt => self.halt(),
            Ev::Undo(request) => self.undo(request),
            Ev::Item(index) => self.item_is_due(index),
            Ev::Poll => self.poll(),
            Ev::End => self.end_begins(),
            Ev::DiskOff(disk) => {
                self.disks[disk].silence();
                Ok(())
            }
            Ev::HostOff => {
                self.crash(true);
                Ok(())
            }
        }
    }

    fn io_ended(&mut self, disk: usize, io: IoId) -> Verdict {
        let Some(result) = self.disks[disk].finish(io.0) else {
            return self.tell_ends();
        };
        self.after_lie(disk);
        let info = self
            .live_mut()
            .ios
            .remove(&io)
            .expect("an I/O that was submitted");
        let host_write = info.writes && info.view.purpose == Purpose::Data;
        if host_write && result.is_ok() && self.atlas.exceeded() {
            // What hung may have been answered with an error long ago.
            for at in info.view.range.clone() {
                let found = self.disks[disk].visible(at).map(recognise);
                if let Some(Content::Stamp { sector, version }) = found {
                    self.oracle.landed_late(sector, version);
                }
            }
        }
        // What is known to be bad, and could not be rewritten, is as bad as before.
        let range = &info.view.range;
        let there = &self.disks[disk];
        let known = info.view.purpose == Purpose::Rewrite && result.is_err() && {
            let at = super_sector(self.options.minor, there.sectors());
            range.clone().all(|s| is_logged_bad(there, at, s, s + 1))
        };
        let metadata = [Purpose::Super, Purpose::Bitmap, Purpose::BadBlocks];
        let data = info.writes && !metadata.contains(&info.view.purpose);
        let live = self.live.as_mut().expect("an array is running");
        if data && result.is_ok() {
            live.monitor.note_taken(info.member, range);
        }
        if !info.writes && !info.query && result.is_ok() {
            live.monitor.note_given(io, info.member, range);
        }
        let refused = data && matches!(result, Err(IoError::Media)) && {
            let which = (info.member, range, info.view.purpose);
            live.monitor.note_refused(&live.status, &self.disks, which)
        };
        if let (Err(error), false) = (&result, info.query || known || refused) {
            live.monitor
                .note_error(&live.status, info.member, info.writes, error);
        }
        if self.options.rare.levels && info.writes && info.view.purpose == Purpose::Super {
            self.superblock_landed(disk);
        }
        let done = umd_core::array::Completion { io, result };
        let read_ns = self.options.latency_of(disk).read_ns;
        let now = self.now;
        self.live_mut().ends.add(now, read_ns, done);
        self.tell_ends()
    }

    /// Hands an event to the engine and does what it wants.
    fn deliver(&mut self, event: Event) -> Verdict {
        self.counts.events += 1;
        self.trace_event(&event);
        let now = now_at(self.now);
        let mut commands = std::mem::take(&mut self.spare_commands);
        let live = self.live.as_mut().expect("an array is running");
        live.engine.handle(now, event, &mut commands);
        if !commands.is_empty() {
            live.engine.refresh(&mut live.status);
            live.monitor.note_status(&live.status);
            live.whole &= live.status.degraded == 0;
            self.follow_shape()?;
        }
        self.carry_out(&mut commands)?;
        self.spare_commands = commands;
        Ok(())
    }

    fn trace_event(&mut self, event: &Event) {
        let word = match event {
            Event::Request(request) => 1 ^ (request.id.0 << 8),
            Event::Requests(requests) => 5 ^ ((requests.len() as u64) << 8),
            Event::Done(done) => 2 ^ (done.io.0 << 8) ^ (u64::from(done.result.is_err()) << 7),
            Event::Ended(all) => all.iter().fold(6, |word, done| {
                mix(word ^ (done.io.0 << 8) ^ (u64::from(done.result.is_err()) << 7))
            }),
            Event::Timer(timer) => 3 ^ ((*timer as u64) << 8),
            Event::Control(id, _) => 4 ^ (id.0 << 8),
        };
        self.trace.word(word ^ self.now.0.rotate_left(32));
        if self.trace.wants_text() {
            let now = self.show_time();
            self.trace
                .note(format_args!("{now} > {}", commands::show_event(event)));
        }
    }

    fn show_time(&self) -> String {
        let ns = self.now.0;
        format!("{:>6}.{:06}ms", ns / 1_000_000, ns % 1_000_000)
    }

    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        if self.trace.wants_text() {
            let now = self.show_time();
            self.trace.note(format_args!("{now} # {line}"));
        }
    }

    /// What a reader of a failure wants to know about the state of things.
    fn dump(&self) -> String {
        let Some(live) = &self.live else {
            return "no array is running".into();
        };
        let pending: Vec<String> = live
            .pending
            .iter()
            .take(8)
            .map(|(id, pending)| format!("{id:?} {pending:?}"))
            .collect();
        let admin: Vec<String> = live.admin.values().map(|a| format!("{a:?}")).collect();
        let members: Vec<String> = live
            .status
            .members
            .iter()
            .map(|m| format!("{:?}@{:?}:{:?}", m.id, m.slot, m.role))
            .collect();
        format!(
            "phase {:?}, state {:?}, sync {:?} (pending {}), members {members:?}, {} member I/O in \
             flight, requests {pending:?}, control {admin:?}",
            live.phase,
            live.status.state,
            live.status.sync,
            live.status.sync_pending,
            live.ios.len(),
        )
    }
}

#[cfg(test)]
mod stored_tests;
#[cfg(test)]
mod tests;
