//! The thread of one array. See `array` for the drawing.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::event::epoll;
use tokio::sync::oneshot;
use umd_core::array::{
    BitmapFile, BitmapWish, Command, Commands, Control, ControlError, Event, NewMember, Notice,
    Request, RequestError, Timer,
};
use umd_core::value::{ControlId, FlagWish, Instant, MemberId, Now, Pool, Rungs};
use umd_disk::{Backend, MemberFile};

use super::array::{BitmapOffer, ControlAnswer, Handle, Inbox, Message, Offer, Snapshot};
use super::doors::Doors;
use super::engine::{Contained, Engine, Newcomer};
use super::meter::Meter;
use super::notices;
use super::open::Opened;
use super::polling::Polling;
use super::sync;
use crate::words;
use exchange::UnderWay;

#[path = "exchange.rs"]
pub mod exchange;

const MARK_WAKE: u64 = 0;
const MARK_MEMBERS: u64 = 1;
/// Poller events taken per turn.
const EVENTS_PER_TURN: usize = 128;
/// How often completions are reaped in one turn before the poller is asked again.
const REAPS_PER_TURN: usize = 64;
/// How often members are looked at for having vanished or shrunk.
const MEMBER_CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long an array that has stopped waits for member I/O that does not end.
const LAST_IO_PATIENCE: Duration = Duration::from_secs(5);
/// After this long without a request, free memory goes back to the system.
const IDLE_TRIM_AFTER: Duration = Duration::from_secs(10);

/// What a member is to the loop.
pub struct Attached {
    /// Its path.
    pub name: String,
    /// Which I/O engine it runs on.
    pub engine_name: &'static str,
    /// Device number, if it is a block device.
    pub device: Option<(u32, u32)>,
    /// Which file it is, whatever it is called.
    identity: Option<Identity>,
    gone: bool,
}

/// Which device a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    /// A block device by its number, or a file by its filesystem and inode.
    Here(u64, u64),
    /// An export by its address.
    Elsewhere(PathBuf),
}

fn identity(file: &MemberFile) -> Option<Identity> {
    let path = file.path();
    if path.to_str().is_some_and(crate::member::is_elsewhere) {
        return Some(Identity::Elsewhere(path.to_owned()));
    }
    let stat = rustix::fs::stat(path).ok()?;
    Some(match file.is_block() {
        true => Identity::Here(stat.st_rdev, 0),
        false => Identity::Here(stat.st_dev, stat.st_ino),
    })
}

/// A device that was opened, as it is offered to an array.
fn offered(id: MemberId, name: &str, file: &MemberFile) -> NewMember {
    NewMember {
        id,
        name: name.to_owned(),
        size_sectors: file.size_sectors(),
        logical_block_bytes: file.logical_block_bytes(),
        device_uuid: words::random_uuid().0,
        flags: FlagWish::default(),
        bad_block_log: false,
        superblock: None,
    }
}

impl Attached {
    /// The loop's notes about an opened member.
    pub fn of(file: &MemberFile, name: &str) -> Attached {
        let device = if file.is_block() {
            rustix::fs::stat(file.path()).ok().map(|stat| {
                let device = stat.st_rdev;
                (rustix::fs::major(device), rustix::fs::minor(device))
            })
        } else {
            None
        };
        Attached {
            name: name.to_owned(),
            engine_name: file.engine_name(),
            identity: identity(file),
            device,
            gone: false,
        }
    }
}

/// Everything the thread owns.
pub struct Loop<E: ?Sized, B> {
    name: String,
    handle: Handle,
    engine: Contained<E>,
    backend: B,
    inbox: Inbox,
    epoll: OwnedFd,
    polling: Polling,
    doors: Doors,
    pool: Pool,
    timers: BTreeMap<Timer, Instant>,
    members: BTreeMap<MemberId, Attached>,
    /// Which file was last a member under a name.
    left: BTreeMap<String, Identity>,
    /// Files that were members, until their last I/O has ended.
    closing: BTreeMap<MemberId, Identity>,
    /// Control requests in flight; those the loop made itself have no sender.
    controls: BTreeMap<ControlId, Option<oneshot::Sender<ControlAnswer>>>,
    /// Devices offered and not yet decided on, by the request that offered them.
    offers: BTreeMap<ControlId, MemberId>,
    /// Requests and member I/O under way, and how long earlier ones took.
    meter: Meter,
    commands: Commands,
    requests: Vec<Request>,
    next_member: u32,
    next_control: u64,
    started: std::time::Instant,
    next_check: std::time::Instant,
    last_request: std::time::Instant,
    trimmed: bool,
    broken: Option<String>,
    stopped: bool,
    /// Another engine is to go on.
    under_way: Option<UnderWay>,
    /// What was said meanwhile.
    deferred: Vec<Message>,
    /// What earlier engines have counted.
    rungs: Rungs,
}

impl<E: Engine + ?Sized, B: Backend> Loop<E, B> {
    /// A loop around an engine that has not begun; `members` have been attached to `backend`
    /// already.
    ///
    /// # Errors
    /// When the system has no descriptor for it.
    pub fn new(
        name: &str,
        engine: Box<E>,
        backend: B,
        members: BTreeMap<MemberId, Attached>,
        pool: Pool,
        (handle, inbox): (Handle, Inbox),
    ) -> std::io::Result<Loop<E, B>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN;
        epoll::add(
            &epoll,
            &*inbox.wake,
            epoll::EventData::new_u64(MARK_WAKE),
            flags,
        )?;
        let mark = epoll::EventData::new_u64(MARK_MEMBERS);
        epoll::add(&epoll, backend.event_fd(), mark, flags)?;
        let now = std::time::Instant::now();
        let table = handle.reserved().map(|one| one.table());
        let next_member = members.keys().map(|id| id.0 + 1).max().unwrap_or(0);
        Ok(Loop {
            name: name.to_owned(),
            handle,
            engine: Contained::new(engine),
            backend,
            inbox,
            epoll,
            polling: Polling::here(),
            doors: Doors::new(pool.clone()).under(table),
            pool,
            timers: BTreeMap::new(),
            members,
            left: BTreeMap::new(),
            closing: BTreeMap::new(),
            controls: BTreeMap::new(),
            offers: BTreeMap::new(),
            meter: Meter::default(),
            commands: Commands::new(),
            requests: Vec::new(),
            next_member,
            next_control: 0,
            started: now,
            next_check: now + MEMBER_CHECK_EVERY,
            last_request: now,
            trimmed: true,
            broken: None,
            stopped: false,
            under_way: None,
            deferred: Vec::new(),
            rungs: Rungs::default(),
        })
    }

    fn now(&self) -> Now {
        let nanos = || u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Now {
            mono: self.engine.clock().unwrap_or_else(|| Instant(nanos())),
            wall_seconds: wall.map_or(0, |since| since.as_secs()),
        }
    }

    /// Runs until the array has stopped, or rests for another engine to go on.
    ///
    /// # Errors
    /// When the poller fails, which no array survives.
    pub fn run(mut self) -> std::io::Result<Option<Box<Loop<dyn Engine, B>>>> {
        let now = self.now();
        let frozen = self.engine.frozen().is_some();
        if !frozen && !self.engine.begin(now, &mut self.commands) {
            self.freeze();
        }
        self.carry_out();
        while !self.stopped {
            let quiet = self.work_until_quiet();
            self.doors.tend(&self.epoll);
            let moved = self.turn_on();
            if self.stopped {
                break;
            }
            self.wait(quiet && !moved)?;
        }
        if let Some(rested) = self.rested() {
            return Ok(Some(Box::new(self.resting(rested))));
        }
        self.farewell();
        self.handle.over();
        Ok(None)
    }

    /// Requests, commands and completions, until nothing is left to do without waiting. Returns
    /// `false` when that took too long and it is the poller's turn again.
    fn work_until_quiet(&mut self) -> bool {
        for _ in 0..REAPS_PER_TURN {
            self.serve_requests();
            // Also hands over what the commands above submitted.
            let ready = self.backend.kick();
            if ready {
                self.reap();
            }
            self.doors.send(&mut self.requests);
            let served = self.requests.is_empty() || self.is_held();
            if !ready && served && self.commands.is_empty() {
                return true;
            }
        }
        false
    }

    fn serve_requests(&mut self) {
        if self.requests.is_empty() || self.is_held() {
            return;
        }
        self.last_request = std::time::Instant::now();
        self.trimmed = false;
        let now = self.now();
        let requests = std::mem::take(&mut self.requests);
        match self.engine.frozen() {
            Some(reason) => requests.iter().for_each(|request| {
                let error = RequestError::Io(format!("the array is frozen: {reason}"));
                self.doors.complete(request.id, Err(error));
            }),
            None => {
                let at = self.started.elapsed();
                let begun = requests.iter();
                begun.for_each(|request| self.meter.begin(at, request.id, &request.op));
                self.feed(now, Event::Requests(requests));
            }
        }
        self.carry_out();
    }

    fn reap(&mut self) {
        let mut completions = Vec::new();
        self.backend.reap(&mut completions);
        let (now, at) = (self.now(), self.started.elapsed());
        for completion in &completions {
            self.meter.end_io(at, completion.io);
        }
        if !completions.is_empty() {
            self.feed(now, Event::Ended(completions));
        }
        self.carry_out();
    }

    /// One event into the engine; freezes the array when the engine breaks over it.
    fn feed(&mut self, now: Now, event: Event) {
        if self.engine.frozen().is_some() {
            return;
        }
        if !self.engine.handle(now, event, &mut self.commands) {
            self.freeze();
        }
    }

    /// The engine broke: nothing reaches the members any more, everybody who waits is told.
    fn freeze(&mut self) {
        let reason = self.engine.frozen().unwrap_or_default().to_owned();
        // Writes the engine asked for before it broke may depend on what it can no longer do.
        self.commands.clear();
        self.timers.clear();
        for id in self.meter.take_outstanding() {
            let error = RequestError::Io(format!("the array is frozen: {reason}"));
            self.doors.complete(id, Err(error));
        }
        for (_, sender) in std::mem::take(&mut self.controls) {
            if let Some(sender) = sender {
                let _ = sender.send(Err(self.frozen_error()));
            }
        }
        for (_, member) in std::mem::take(&mut self.offers) {
            self.release(member);
        }
        self.notify(Notice::Frozen(reason.clone()));
        self.turn_frozen(&reason);
    }

    fn frozen_error(&self) -> ControlError {
        let reason = self.engine.frozen().unwrap_or_default();
        ControlError::Busy(format!(
            "{} is frozen because an invariant of the engine broke ({reason}); it can only be \
             stopped",
            self.name
        ))
    }

    /// Carries out the engine's commands, in order.
    fn carry_out(&mut self) {
        if self.commands.is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut self.commands);
        let now = self.started.elapsed();
        for command in commands.drain(..) {
            match command {
                Command::Io(io) => {
                    self.meter.begin_io(now, &io);
                    self.backend.submit(io);
                }
                Command::Complete { id, result } => {
                    self.meter.end(now, id, result.is_ok());
                    self.doors.complete(id, result);
                }
                Command::Arm(timer, at) => {
                    self.timers.insert(timer, at);
                }
                Command::Answer { id, result } => self.answer(id, result),
                Command::Notify(notice) => self.notify(notice),
                Command::Release(member) => self.release(member),
                Command::Stopped => self.stopped = true,
            }
        }
        // Keeps the memory of the list; nothing above adds to it.
        if self.commands.is_empty() {
            self.commands = commands;
        }
    }

    fn answer(&mut self, id: ControlId, result: ControlAnswer) {
        if let Some(member) = self.offers.remove(&id)
            && result.is_err()
        {
            self.release(member);
        }
        if self.turn_answered(id, &result) {
            return;
        }
        if let Some(Some(sender)) = self.controls.remove(&id) {
            let _ = sender.send(result); // Whoever asked may have gone away.
        }
    }

    fn release(&mut self, member: MemberId) {
        let Some(gone) = self.members.remove(&member) else {
            return;
        };
        let gone = match &mut self.under_way {
            // It is not let go: another engine goes on with it.
            Some(under_way) => return under_way.released(member, gone),
            None => gone,
        };
        // What was opened twice is a member still.
        let same = |one: &Attached| one.identity.is_some() && one.identity == gone.identity;
        let mut others = self.members.values();
        let again = others.any(|one| one.name == gone.name || same(one));
        if !again {
            self.engine.let_go(&gone.name);
        }
        if let Some(file) = gone.identity {
            self.closing.insert(member, file.clone());
            // What an export holds may be another one's by now, under the same name.
            if matches!(file, Identity::Here(..)) {
                self.left.insert(gone.name, file);
            }
        }
        if !self.backend.is_closed(member) {
            self.backend.close(member);
        }
    }

    fn notify(&mut self, notice: Notice) {
        if let Notice::Broken(why) = &notice {
            self.broken = Some(why.clone());
        }
        if notice == Notice::Changed && self.engine.frozen().is_none() {
            // Before anybody hears that the array has another size.
            self.handle.set_size(self.engine.status().array_sectors);
        }
        let path = |id: MemberId| self.members.get(&id).map(|member| member.name.clone());
        if let Some(event) = notices::event(&self.name, &notice, path) {
            if let Some(line) = notices::log_line(&event) {
                crate::cli::outcome::say(&line);
            }
            let _ = self.handle.events.send(event); // Nobody may be listening.
        }
    }

    /// Sleeps until something happens, then takes it in.
    fn wait(&mut self, quiet: bool) -> std::io::Result<()> {
        let timeout = if quiet {
            self.sleep_time()
        } else {
            Duration::ZERO
        };
        let empty = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(MARK_WAKE),
        };
        let mut events = [empty; EVENTS_PER_TURN];
        let epoll = &self.epoll;
        let look = |most| sync::sleep(epoll, &mut events, most);
        let count = self.polling.wait(timeout, look)?;
        let mut completions_wait = false;
        self.doors.read_more(&mut self.requests);
        for event in &events[..count] {
            match event.data.u64() {
                MARK_WAKE => self.read_messages(),
                MARK_MEMBERS => completions_wait = true,
                mark => self.doors.ready(mark, event.flags, &mut self.requests),
            }
        }
        if completions_wait {
            self.reap();
        }
        self.fire_timers();
        self.tend();
        self.house_keeping();
        Ok(())
    }

    fn sleep_time(&self) -> Duration {
        let unserved = !self.requests.is_empty() && !self.is_held();
        if self.doors.has_more() || unserved || !self.commands.is_empty() {
            return Duration::ZERO;
        }
        let now = self.now().mono;
        let until_check = self
            .next_check
            .saturating_duration_since(std::time::Instant::now());
        let deadline = self.engine.next_deadline();
        let timers = self
            .timers
            .values()
            .chain(deadline.as_ref())
            .map(|at| Duration::from_nanos((*at - now).0));
        timers.chain([until_check]).min().unwrap_or(until_check)
    }

    fn fire_timers(&mut self) {
        let now = self.now();
        let due: Vec<Timer> = self
            .timers
            .iter()
            .filter(|(_, at)| **at <= now.mono)
            .map(|(timer, _)| *timer)
            .collect();
        for timer in due {
            self.timers.remove(&timer);
            self.feed(now, Event::Timer(timer));
        }
        self.carry_out();
    }

    /// What the engine hears from others than us.
    fn tend(&mut self) {
        let now = self.now();
        if !self.engine.tend(now, &mut self.commands) {
            self.freeze();
        }
        while let Some(newcomer) = self.engine.newcomer() {
            self.meet(newcomer);
        }
        self.carry_out();
    }

    fn read_messages(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.inbox.wake, &mut count); // Somebody read it already.
        while let Ok(message) = self.inbox.receiver.try_recv() {
            match self.under_way.is_some() && exchange::waits(&message) {
                true => self.deferred.push(message),
                false => self.message(message),
            }
        }
        self.carry_out();
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Connection(socket, transmission) => {
                let admitted =
                    self.doors
                        .admit(&self.epoll, socket, *transmission, &mut self.requests);
                if let Err(error) = admitted {
                    let text = format!("{}: a client was turned away: {error}", self.name);
                    crate::cli::outcome::say(&text);
                }
            }
            Message::Control(control, sender) => self.control(control, Some(sender)),
            Message::Add(offer, sender) => self.offer(*offer, sender),
            Message::Bitmap(offer, sender) => self.offer_bitmap(*offer, sender),
            Message::Evict => self.doors.stop(),
            Message::Look(sender) => {
                let _ = sender.send(self.snapshot());
            }
            Message::ConfirmDead(node, sender) => {
                let told = (node, self.now());
                match self.engine.confirm_dead(told, &mut self.commands) {
                    // Nobody may be waiting for the answer any more.
                    Some(answer) => drop(sender.send(answer)),
                    None => self.freeze(),
                }
            }
            Message::Map(cells, sender) => {
                let _ = sender.send(self.engine.map(cells));
            }
            Message::Turn(turn) => self.begin_turn(*turn),
        }
    }

    fn control(&mut self, control: Control, sender: Option<oneshot::Sender<ControlAnswer>>) {
        if self.engine.frozen().is_some() {
            let stop = matches!(control, Control::Stop);
            if let Some(sender) = sender {
                let answer = match stop {
                    true => Ok(umd_core::array::ControlReply::Done),
                    false => Err(self.frozen_error()),
                };
                let _ = sender.send(answer);
            }
            self.stopped |= stop;
            return;
        }
        let id = self.new_control(sender);
        self.feed(self.now(), Event::Control(id, control));
    }

    fn new_control(&mut self, sender: Option<oneshot::Sender<ControlAnswer>>) -> ControlId {
        let id = ControlId(self.next_control);
        self.next_control += 1;
        self.controls.insert(id, sender);
        id
    }

    fn offer(&mut self, offer: Offer, sender: oneshot::Sender<ControlAnswer>) {
        if self.engine.frozen().is_some() {
            let _ = sender.send(Err(self.frozen_error()));
            return;
        }
        // Without a superblock only this tells who it is.
        let same =
            || identity(&offer.file).is_some_and(|file| self.left.get(&offer.name) == Some(&file));
        if offer.re_add && offer.superblock.is_none() && !same() {
            let text = format!(
                "--re-add for {} is not possible: it is no file that has left this array since it \
                 was started; use --add",
                offer.name
            );
            let _ = sender.send(Err(ControlError::Invalid(text)));
            return;
        }
        if let Some(why) = self.is_here(&offer.file) {
            let _ = sender.send(Err(ControlError::Busy(format!("{} {why}", offer.name))));
            return;
        }
        let member = self.new_member();
        let new = NewMember {
            flags: offer.flags,
            bad_block_log: offer.bad_block_log,
            superblock: offer.superblock,
            ..offered(member, &offer.name, &offer.file)
        };
        let control = match offer.re_add {
            true => Control::ReAdd(new),
            false => Control::Add(new),
        };
        self.attach(member, offer.file, &offer.name, control, sender);
    }

    /// Whether a file is a member, or I/O to it from when it was one is still under way. Where
    /// members are shared with other hosts, locks do not tell.
    fn is_here(&mut self, file: &MemberFile) -> Option<&'static str> {
        let (backend, closing) = (&self.backend, &mut self.closing);
        closing.retain(|id, _| !backend.is_closed(*id));
        let file = identity(file)?;
        if self.closing.values().any(|one| *one == file) {
            return Some("was a member, and I/O of that time has not ended yet");
        }
        let mut members = self.members.values();
        let member = members.any(|member| member.identity.as_ref() == Some(&file));
        member.then_some("is a member already")
    }

    /// A disk that another node adds to the array.
    fn meet(&mut self, newcomer: Newcomer) {
        let Newcomer {
            uuid,
            opened,
            superblock,
        } = newcomer;
        let opened = opened.filter(|one| match self.is_here(&one.file) {
            Some(why) => {
                let text = format!(
                    "{}: {}, which another node adds, {why}",
                    self.name, one.name
                );
                crate::cli::outcome::say(&text);
                false
            }
            None => true,
        });
        let new = opened.map(|Opened { name, file }| {
            let member = self.new_member();
            let new = NewMember {
                superblock,
                ..offered(member, &name, &file)
            };
            self.members.insert(member, Attached::of(&file, &name));
            self.backend.attach(member, file);
            new
        });
        let now = self.now();
        if !self.engine.meet(now, (uuid, new), &mut self.commands) {
            self.freeze();
        }
    }

    fn offer_bitmap(&mut self, offer: BitmapOffer, sender: oneshot::Sender<ControlAnswer>) {
        if self.engine.frozen().is_some() {
            let _ = sender.send(Err(self.frozen_error()));
            return;
        }
        let id = self.new_member();
        let file = BitmapFile {
            id,
            name: offer.name.clone(),
            size_sectors: offer.file.size_sectors(),
        };
        let control = Control::Bitmap(BitmapWish::File(file, offer.new));
        self.attach(id, offer.file, &offer.name, control, sender);
    }

    fn new_member(&mut self) -> MemberId {
        let member = MemberId(self.next_member);
        self.next_member += 1;
        member
    }

    /// Takes a file into the loop and asks the engine to use it.
    fn attach(
        &mut self,
        member: MemberId,
        file: MemberFile,
        name: &str,
        control: Control,
        sender: oneshot::Sender<ControlAnswer>,
    ) {
        self.members.insert(member, Attached::of(&file, name));
        self.backend.attach(member, file);
        let id = self.new_control(Some(sender));
        self.offers.insert(id, member);
        self.feed(self.now(), Event::Control(id, control));
    }

    fn snapshot(&self) -> Snapshot {
        let reason = self.engine.frozen().map(str::to_owned);
        Snapshot {
            status: self.engine.status(),
            reason: reason.or_else(|| self.broken.clone()),
            engines: self
                .members
                .iter()
                .map(|(id, member)| (*id, member.engine_name))
                .collect(),
            devices: self
                .members
                .iter()
                .filter_map(|(id, member)| Some((id.0, member.device?)))
                .collect(),
            counted: Box::new(self.meter.counted(self.all_rungs())),
            clients: self.doors.len(),
            cluster: self.engine.cluster(),
        }
    }

    /// Looks for members that vanished or shrank, and gives back memory nobody uses.
    fn house_keeping(&mut self) {
        let now = std::time::Instant::now();
        if now < self.next_check {
            return;
        }
        self.next_check = now + MEMBER_CHECK_EVERY;
        if !self.trimmed && now.duration_since(self.last_request) > IDLE_TRIM_AFTER {
            self.pool.trim();
            self.trimmed = true;
        }
        if self.engine.frozen().is_some() || self.under_way.is_some() {
            return;
        }
        let lost: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| !member.gone)
            .filter(|(id, _)| self.backend.check_member(**id).is_err())
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            let mut why = "its file vanished or shrank";
            if let Some(member) = self.members.get_mut(&id) {
                member.gone = true;
                if crate::member::is_elsewhere(&member.name) {
                    why = "the connection to its server is lost";
                }
                let text = format!("{}: {}: {why}", self.name, member.name);
                crate::cli::outcome::say(&text);
            }
            self.control(Control::Lost(id, why.to_owned()), None);
        }
        self.carry_out();
    }

    /// Last answers to clients, and the members closed once their last I/O has ended.
    fn farewell(&mut self) {
        self.doors.stop();
        self.doors.send(&mut self.requests);
        self.doors.tend(&self.epoll);
        let members: Vec<MemberId> = (0..self.next_member).map(MemberId).collect();
        for id in &members {
            if !self.backend.is_closed(*id) {
                self.backend.close(*id);
            }
        }
        self.wait_for_last_io(&members);
        for (_, sender) in std::mem::take(&mut self.controls) {
            if let Some(sender) = sender {
                let _ = sender.send(Ok(umd_core::array::ControlReply::Done));
            }
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
