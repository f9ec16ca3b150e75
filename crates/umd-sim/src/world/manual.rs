//! Driving a world by hand: scripts, and whatever plays fixed programs.
//!
//! ```text
//!   script: begin --> condition? --no--> next event, unless it is held back --> step --+
//!                        ^ |yes                                                        |
//!                        | +--> next step of the script                                |
//!                        +-------------------------------------------------------------+
//! ```

use std::collections::BTreeMap;

use umd_core::array::{MemberRole, Status};
use umd_core::value::{ControlId, Instant, IoId, MemberId, RequestId, Span};

use super::admin::{Bits, Request};
use super::host::{Kind, Plan};
use super::phases::Phase;
use super::{EVENTS_MAX, Ev, World};
use crate::disk::{Armed, Cut, Power, SimDisk, Stand, Write};
use crate::monitor::{Rule, Verdict, Violation};
use crate::options::{Ending, Trigger};
use crate::rng::{Rng, Stream, mix};
use crate::script::{IoKind, IoView, Match, Point};

const SECOND: u64 = 1_000_000_000;
/// What is asked for must be answered in this time.
const ANSWER_SECONDS: u64 = 600;
/// Syncing must be over in this time.
const SYNC_SECONDS: u64 = 4 * 3600;
/// Sectors of one read when everything is read.
const READ_SECTORS: u64 = 128;

/// What happens to the member I/O that an ambush waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// It fails; a read finds its sectors unreadable.
    Fail,
    /// It hangs longer than the engine waits.
    Hang,
    /// Its disk vanishes.
    Vanish,
    /// The power goes while it is in flight.
    Crash,
}

/// Something that happens to the n-th member I/O of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambush {
    /// Which, from 1.
    pub nth: u64,
    /// What.
    pub strike: Strike,
}

/// The state of a world that is driven by hand.
#[derive(Debug, Default)]
pub(super) struct Manual {
    /// Whether it is.
    pub(super) on: bool,
    holds: Vec<Match>,
    held: Vec<(usize, IoId)>,
    watch: Option<Match>,
    hits: u64,
    controls: BTreeMap<ControlId, Option<String>>,
    ambush: Option<Ambush>,
    sprung: bool,
    crash_due: bool,
    /// The script is over: an ambush took the array down, or rightly kept it from starting.
    over: bool,
}

impl Manual {
    /// A control request was answered, with this error or none.
    pub(super) fn control_answered(&mut self, id: ControlId, error: Option<String>) {
        if self.on {
            self.controls.insert(id, error);
        }
    }

    fn look(&mut self, io: &IoView, point: Point) {
        let watched = self.watch.as_ref();
        if watched.is_some_and(|watch| watch.point == point && watch.fits(io)) {
            self.hits += 1;
        }
    }
}

fn late<T>(text: String) -> Result<T, Violation> {
    Err(Violation::new(Rule::Liveness, text))
}

impl World<'_> {
    /// From now on steps come from outside. Before the first boot.
    pub(crate) fn drive_by_hand(&mut self) {
        self.manual.on = true;
        self.disks.iter_mut().for_each(SimDisk::make_plain);
    }

    /// Lays an ambush for one member I/O of this run.
    pub(crate) fn lay_ambush(&mut self, ambush: Ambush) {
        // Every crash is another one.
        let seed = self.options.seed ^ mix(ambush.nth);
        self.fault_rng = Rng::new(seed, Stream::Fault(0));
        self.manual.ambush = Some(ambush);
    }

    /// Whether the ambush has struck.
    pub(crate) fn is_sprung(&self) -> bool {
        self.manual.sprung
    }

    /// Whether what follows in the script makes no sense any more.
    pub(crate) fn is_over(&self) -> bool {
        self.manual.over
    }

    /// Whether an array is running.
    pub(crate) fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// The running array as it shows itself.
    pub(crate) fn status(&self) -> Option<&Status> {
        self.live.as_ref().map(|live| &live.status)
    }

    /// The disks.
    pub(crate) fn disks(&self) -> &[SimDisk] {
        &self.disks
    }

    /// Size of the array.
    pub(crate) fn array_sectors(&self) -> u64 {
        self.geometry.array_sectors()
    }

    /// More broke than redundancy covers.
    pub(crate) fn is_beyond(&self) -> bool {
        self.atlas.exceeded()
    }

    /// Assembles these disks (`None`: all that carry the array) and starts the array. `false`: it
    /// was refused, as it may be.
    pub(crate) fn boot_by_hand(&mut self, chosen: Option<&[usize]>) -> Result<bool, Violation> {
        assert!(self.live.is_none(), "an array is running already");
        for disk in 0..self.disks.len() {
            self.absent[disk] = chosen.is_some_and(|chosen| !chosen.contains(&disk));
        }
        self.boot = self.counts.boots as u16;
        let most = usize::from(self.boot) + 1;
        let boots = &mut self.options.boots;
        boots.resize(most, (Ending::Stop, Trigger::Answers(u64::MAX)));
        if !self.start()? {
            self.counts.refusals += 1;
            self.manual.over = true;
            return Ok(false);
        }
        self.counts.boots += 1;
        if let Some(live) = &mut self.live {
            live.phase = Phase::Manual;
        }
        Ok(true)
    }

    /// These disks must be refused.
    pub(crate) fn boot_is_refused(&mut self, chosen: &[usize]) -> Verdict {
        assert!(self.live.is_none(), "an array is running already");
        let first = self.next_member;
        self.next_member += chosen.len() as u32;
        let ids: Vec<(MemberId, usize)> = (first..).map(MemberId).zip(chosen.to_vec()).collect();
        match self.try_start(&ids, false) {
            Ok(_) => {
                let text = format!("disks {chosen:?} were started, and must be refused");
                Err(Violation::new(Rule::Error, text))
            }
            Err(refused) => {
                self.note(format_args!("refused: {}", refused.why));
                Ok(())
            }
        }
    }

    /// One event. `false`: there is none.
    fn advance(&mut self) -> Result<bool, Violation> {
        let Some((due, event)) = self.queue.pop() else {
            return Ok(false);
        };
        self.now = self.now.max(due);
        let live = self.live_mut();
        live.events += 1;
        if live.events > EVENTS_MAX {
            return late(format!("{EVENTS_MAX} events in one boot: {}", self.dump()));
        }
        let mut over = None;
        if let Ev::Io { disk, io } = event {
            let info = self.live().ios.get(&io);
            if let Some(view) = info.map(|info| info.view.clone()) {
                if self.manual.holds.iter().any(|hold| hold.fits(&view)) {
                    self.manual.held.push((disk, io));
                    return Ok(true);
                }
                over = Some(view);
            }
        }
        self.step(event)?;
        if self.live.is_some() {
            // A script says what happens one by one.
            self.tell_all_ends()?;
        }
        if let Some(view) = over {
            self.manual.look(&view, Point::Done);
        }
        self.look_here()?;
        if self.manual.crash_due && self.live.is_some() {
            self.manual.crash_due = false;
            self.manual.over = true;
            self.crash(true);
            self.gone_dark();
        }
        Ok(true)
    }

    /// Runs until `done`, or until no array is running any more.
    fn until(&mut self, seconds: u64, what: &str, done: impl Fn(&World<'_>) -> bool) -> Verdict {
        let limit = self.now + Span(seconds * SECOND);
        while self.live.is_some() && !done(self) {
            let next = self.queue.next_due();
            if next.is_none_or(|next| next > limit) {
                let held = self.manual.held.len();
                return late(format!(
                    "{what}: not within {seconds} s, {held} held back; {}",
                    { self.dump() }
                ));
            }
            self.advance()?;
        }
        Ok(())
    }

    /// Time passes.
    pub(crate) fn sleep(&mut self, ns: u64) -> Verdict {
        let then: Instant = self.now + Span(ns);
        while self.live.is_some() && self.queue.next_due().is_some_and(|due| due <= then) {
            self.advance()?;
        }
        self.now = self.now.max(then);
        Ok(())
    }

    /// Runs until a member I/O that fits has come to its point.
    pub(crate) fn run_until(&mut self, pattern: &Match) -> Verdict {
        self.manual.hits = 0;
        let wanted = pattern.nth;
        if pattern.point == Point::Submitted {
            let live = self.live();
            let flying = live.ios.values().filter(|info| pattern.fits(&info.view));
            self.manual.hits = flying.count() as u64;
        }
        self.manual.watch = Some(pattern.clone());
        let text = format!("{pattern:?}");
        let verdict = self.until(ANSWER_SECONDS, &text, |world| world.manual.hits >= wanted);
        self.manual.watch = None;
        match self.manual.sprung {
            // What the script waits for may never come then.
            true => Ok(()),
            false => verdict,
        }
    }

    /// Holds back what fits from now on.
    pub(crate) fn hold(&mut self, pattern: &Match) {
        self.manual.holds.push(pattern.clone());
    }

    /// Lets go of everything.
    pub(crate) fn release(&mut self) {
        self.manual.holds.clear();
        for (disk, io) in std::mem::take(&mut self.manual.held) {
            self.after(0, Ev::Io { disk, io });
        }
    }

    /// A host asks. Gives the request's number.
    pub(crate) fn host_asks(&mut self, plan: Plan) -> Result<RequestId, Violation> {
        let id = RequestId(self.next_request + 1);
        self.request(None, plan)?;
        Ok(id)
    }

    /// Runs until the request has been answered.
    pub(crate) fn await_request(&mut self, id: RequestId) -> Verdict {
        let pending = move |world: &World<'_>| world.live().pending.contains_key(&id);
        self.until(ANSWER_SECONDS, &format!("{id:?}"), |world| !pending(world))
    }

    /// Runs until all requests have been answered.
    pub(crate) fn await_all(&mut self) -> Verdict {
        self.until(ANSWER_SECONDS, "answers", |world| {
            let live = world.live();
            live.pending.is_empty() && live.admin.is_empty()
        })
    }

    /// Runs until nothing is asked for and no sync is owed.
    pub(crate) fn settle_by_hand(&mut self) -> Verdict {
        self.await_all()?;
        self.until(SYNC_SECONDS, "settling", |world| {
            !world.is_syncing() && world.live().ios.is_empty()
        })
    }

    /// Runs until the array has nothing left to do: clean, bits cleared.
    pub(crate) fn quieten(&mut self) -> Verdict {
        self.settle_by_hand()?;
        self.until(SYNC_SECONDS, "rest", |world| {
            let live = world.live();
            !world.is_syncing() && live.ios.is_empty() && live.timers.is_empty()
        })
    }

    fn member_on(&self, disk: usize) -> Option<MemberId> {
        let mut members = self.live().members.iter();
        members.find(|(_, d)| **d == disk).map(|(id, _)| *id)
    }

    /// A request about the member on a disk.
    pub(crate) fn admin_request(&mut self, admin: crate::script::Admin) -> Option<Request> {
        use crate::script::Admin;
        Some(match admin {
            Admin::Fail(disk) => {
                let member = self.member_on(disk)?;
                self.condemn(disk);
                Request::Fail(member)
            }
            Admin::Remove(disk) => Request::Remove(self.member_on(disk)?),
            Admin::Add(disk) | Admin::ReAdd(disk) => {
                if self.member_on(disk).is_some() {
                    return None;
                }
                if self.disks[disk].power() == Power::Gone {
                    self.disks[disk].cut(Cut::All);
                }
                let back = matches!(admin, Admin::ReAdd(_));
                Request::Add { disk, back }
            }
            Admin::Replace(disk) => Request::Replace(self.member_on(disk)?),
            Admin::Mostly(disk) => self.switch_mostly(self.member_on(disk)?),
            Admin::Fast(disk) => self.switch_fast(self.member_on(disk)?),
            Admin::NoBitmap => Request::Bitmap(Bits::None),
            Admin::Bitmap => Request::Bitmap(Bits::Internal),
            Admin::BitmapFile => Request::Bitmap(Bits::File),
            Admin::Check => Request::Start(umd_core::sync::SyncAction::Check),
            Admin::Repair => Request::Start(umd_core::sync::SyncAction::Repair),
            Admin::Idle => Request::Idle,
            Admin::Freeze => Request::Freeze,
            Admin::ReadOnly => Request::ReadOnly,
            Admin::ReadAuto => Request::ReadAuto,
            Admin::Stop => Request::Stop,
            Admin::ReadWrite => Request::ReadWrite,
            Admin::Limit(number) => Request::Limit(number),
            Admin::Mode(layout) => Request::Mode(layout),
            Admin::Level(number) => Request::Level(number),
        })
    }

    /// Asks, and waits for the answer if that is wanted. Gives the error, if it was one.
    pub(crate) fn ask_by_hand(
        &mut self,
        request: Request,
        wait: bool,
    ) -> Result<Option<String>, Violation> {
        let id = ControlId(self.next_request + 1);
        self.ask(request)?;
        if !wait {
            return Ok(None);
        }
        self.until(ANSWER_SECONDS, &format!("{request:?}"), |world| {
            world.manual.controls.contains_key(&id)
        })?;
        Ok(self.manual.controls.remove(&id).flatten())
    }

    /// Reads everything.
    pub(crate) fn read_everything(&mut self) -> Verdict {
        let end = self.geometry.array_sectors();
        let mut next = 0;
        while next < end && self.live.is_some() {
            let range = next..(next + READ_SECTORS).min(end);
            next = range.end;
            let kind = Kind::Read;
            let zero = false;
            let id = self.host_asks(Plan { kind, zero, range })?;
            self.await_request(id)?;
        }
        Ok(())
    }

    /// Stops the array in good order. What must hold at rest is looked at if it had settled.
    pub(crate) fn stop_by_hand(&mut self) -> Verdict {
        let live = self.live();
        // A flag that is being recorded keeps nothing else from being in order.
        let mut asked = live.admin.values();
        let flags = asked.all(|request| matches!(request, Request::Flags(..)));
        let idle = live.pending.is_empty() && flags;
        let settled = idle && !self.is_syncing();
        self.stop(settled)?;
        self.until(2 * ANSWER_SECONDS, "stopping", |_| false)
    }

    /// The array was stopped: its disks rest.
    pub(super) fn rest_by_hand(&mut self) {
        for disk in &mut self.disks {
            match disk.power() {
                Power::Gone => disk.cut(Cut::All),
                _ => disk.abandon_where(|_| true),
            }
        }
        self.gone_dark();
    }

    fn gone_dark(&mut self) {
        self.live = None;
        self.queue.clear();
        self.manual.held.clear();
        self.manual.holds.clear();
        self.manual.crash_due = false;
    }

    /// The power goes and leaves what `keeps` says.
    pub(crate) fn cut_by_hand(&mut self, keeps: impl Fn(usize, &Write, Stand) -> bool) {
        let running = self.live.is_some();
        if running {
            let _ = self.crash_begins(true);
        }
        let shorn = self.disks.iter().position(SimDisk::shears);
        let place = shorn.and_then(|disk| self.place_of(disk));
        for (n, disk) in self.disks.iter_mut().enumerate() {
            disk.cut_where(|write, stand| keeps(n, write, stand));
        }
        self.oracle.crashed(true);
        if let Some(disk) = shorn {
            let sectors = self.disks[disk].take_shorn();
            self.note_shorn(place, &sectors);
        }
        self.gone_dark();
    }

    /// The process is killed; writes in flight land where `lands` says so.
    pub(crate) fn kill_by_hand(&mut self, lands: impl Fn(usize) -> bool) {
        let lost = match self.live.is_some() {
            true => self.crash_begins(false),
            false => self.atlas.exceeded(),
        };
        for (n, disk) in self.disks.iter_mut().enumerate() {
            disk.abandon_where(|_| lands(n));
        }
        self.oracle.crashed(lost);
        self.gone_dark();
    }

    /// A disk is about to be lost, whatever that does to redundancy.
    pub(crate) fn condemn(&mut self, disk: usize) {
        let slot = self.in_sync().into_iter().find(|(_, d)| *d == disk);
        if let Some((slot, _)) = slot {
            if !self.covers_loss(disk) {
                self.atlas.exceeded = true;
            }
            if self.has_holes() {
                self.give_up(&[slot]);
            }
        }
        self.atlas.doomed.insert(disk);
        self.let_go_of_unlanded();
    }

    /// Sectors of a member's data become unreadable.
    pub(crate) fn damage_by_hand(&mut self, disk: usize, range: std::ops::Range<u64>) {
        let member = self.member_on(disk).expect("a disk of a member");
        let members = &self.live().status.members;
        let member = members.iter().find(|m| m.id == member);
        let member = member.expect("a member of the array");
        let (offset, in_sync) = (
            member.data_offset_sectors,
            member.role == MemberRole::InSync,
        );
        if in_sync {
            self.enter_damage(disk);
        }
        self.disks[disk].damage(offset + range.start, range.end - range.start);
        self.lose_unreadable();
        self.let_go_of_unlanded();
    }

    /// Sectors of a member in sync take no data any more. Beyond redundancy where another one lacks
    /// some of them.
    pub(crate) fn wear_by_hand(&mut self, disk: usize, range: std::ops::Range<u64>) {
        let (slot, _) = self
            .in_sync()
            .into_iter()
            .find(|(_, other)| *other == disk)
            .expect("a member in sync");
        let apart = self.is_apart_from_others(slot, disk, range.clone());
        self.atlas.exceeded |= self.is_spent(disk) || !apart;
        let offset = self.data_offset(slot);
        self.disks[disk].wear(offset + range.start, range.end - range.start);
    }

    /// Enters one more unreadable place in the atlas.
    fn enter_damage(&mut self, disk: usize) {
        self.atlas.exceeded |= self.is_spent(disk) || self.any_damage();
    }

    /// A disk vanishes.
    pub(crate) fn vanish_by_hand(&mut self, disk: usize) {
        self.condemn(disk);
        for (io, due) in self.disks[disk].vanish(self.now) {
            let io = IoId(io);
            self.queue.push(due, Ev::Io { disk, io });
        }
    }

    /// Something is armed on a disk.
    pub(crate) fn arm_by_hand(&mut self, disk: usize, armed: Armed) {
        let harmless = match armed {
            Armed::Hang(span) => span.0 < 10 * SECOND,
            Armed::LostWrite | Armed::Misdirected(_) | Armed::Elsewhere(_) => true,
            _ => self.file == Some(disk),
        };
        if !harmless {
            self.condemn(disk);
        }
        self.disks[disk].arm(armed);
    }

    /// A member I/O is about to be handed to its disk.
    pub(super) fn spring(&mut self, io: &IoView) {
        self.manual.look(io, Point::Submitted);
        self.tempt(io);
        self.before_lie(io);
        let Some(ambush) = self.manual.ambush else {
            return;
        };
        if ambush.nth != self.counts.ios {
            return;
        }
        self.manual.sprung = true;
        self.note(format_args!(
            "{:?} of I/O {}: {io:?}",
            ambush.strike, ambush.nth
        ));
        match (ambush.strike, io.kind) {
            (Strike::Crash, _) => self.manual.crash_due = true,
            (Strike::Vanish, _) => self.vanish_by_hand(io.disk),
            (Strike::Hang, _) => self.arm_by_hand(io.disk, Armed::Hang(Span(90 * SECOND))),
            (Strike::Fail, IoKind::Query) => {}
            (Strike::Fail, IoKind::Flush) => self.arm_by_hand(io.disk, Armed::FlushError),
            (Strike::Fail, IoKind::Read) => {
                if self.in_sync().iter().any(|(_, disk)| *disk == io.disk) {
                    self.enter_damage(io.disk);
                }
                let len = io.range.end - io.range.start;
                self.disks[io.disk].damage(io.range.start, len);
                self.lose_unreadable();
            }
            (Strike::Fail, IoKind::Write) => {
                let metadata = matches!(
                    io.purpose,
                    umd_core::array::Purpose::Super | umd_core::array::Purpose::Bitmap
                );
                let armed = match metadata {
                    true => Armed::MetadataWriteError,
                    false => Armed::WriteError,
                };
                self.arm_by_hand(io.disk, armed);
            }
        }
    }

    /// Nothing breaks any more.
    pub(crate) fn calm(&mut self) {
        self.disks.iter_mut().for_each(SimDisk::disarm);
    }

    /// How many members are in sync.
    pub(crate) fn members_in_sync(&self) -> usize {
        self.in_sync().len()
    }

    /// A line for whoever reads the trace.
    pub(crate) fn remark(&mut self, line: std::fmt::Arguments<'_>) {
        self.note(line);
    }
}
