//! What befalls a cluster: hosts come and go, die, stand still and are cut off; they are fenced;
//! disks fail; administrators ask.

use umd_core::array::Input;
use umd_core::cluster::{End, FenceProof, NewDisk, NodeSlot, Peer, ProofKind};
use umd_core::value::{
    Control, ControlId, Event, FlagWish, Instant, LegsWish, NewMember, SizeWish, Span, SyncAction,
    SyncRequest, Timer,
};

use super::host::{Host, disk_of};
use super::media::{self, superblock};
use super::plan::{Act, Fencing};
use super::world::World;
use crate::disk::{Armed, Cut};
use crate::monitor::Verdict;

/// No machine is up again sooner: by then the service knows that its last life is over.
const BOOT: Span = Span::secs(12);

impl Host {
    /// When a timer of its is due.
    pub(super) fn armed(&self, timer: Timer) -> Instant {
        let running = self.array.as_ref().expect("it runs");
        running.timers[&timer]
    }
}

impl World {
    /// What the plan has for now, if it can be done.
    pub(super) fn act(&mut self, act: Act) -> Verdict {
        self.note(format_args!("# {act:?}"));
        let now = self.now;
        match act {
            Act::Start(host) => return self.start(host),
            Act::Stop(host) => return self.stop(host),
            Act::Crash(host) => self.crash(host),
            Act::Pause(host, time) => {
                if self.hosts[host].array.is_some() {
                    let one = &mut self.hosts[host];
                    one.paused_until = one.paused_until.max(now + time);
                    self.delay_flights(host, false);
                }
            }
            Act::Isolate(host, time) => {
                let one = &mut self.hosts[host];
                one.isolated_until = one.isolated_until.max(now + time);
            }
            Act::Cut(host, disk, time) => {
                for (number, one) in self.hosts.iter_mut().enumerate() {
                    if host.is_none_or(|host| host == number) {
                        one.cut_until[disk] = now + time;
                    }
                }
            }
            Act::Write(..) | Act::Zero(..) | Act::Trim(..) | Act::Read(..) | Act::Flush(_) => {
                return self.ask(act);
            }
            Act::Arm(disk, fault) => {
                if matches!(fault, Armed::Hang(_)) {
                    self.slow_until = Instant(u64::MAX);
                }
                self.disks[disk].arm(fault);
            }
            Act::Damage(disk, at, len) => {
                let data = superblock(&self.disks[disk]);
                if let Some(found) = data {
                    let data = found.fields.data_offset_sectors;
                    self.disks[disk].damage(data + at, len);
                }
            }
            Act::PowerCut => self.cut_power(),
            Act::Fail(..) | Act::Remove(..) | Act::Add(..) | Act::ReAdd(..) | Act::Replace(..) => {
                return self.change_members(act);
            }
            Act::Grow(host, sectors) => {
                return self.control(host, Control::Size(SizeWish::Sectors(sectors)));
            }
            Act::Rechunk(host, bytes) => {
                return self.control(host, Control::Rechunk(bytes));
            }
            Act::Slots(host, raid_disks) => {
                let wish = LegsWish {
                    raid_disks,
                    coming: 0,
                    force: true,
                    only_asked: false,
                };
                return self.control(host, Control::Legs(wish));
            }
            Act::Check(host, repairs) => {
                let request = match repairs {
                    true => SyncRequest::Start(SyncAction::Repair),
                    false => SyncRequest::Start(SyncAction::Check),
                };
                return self.control(host, Control::Sync(request));
            }
        }
        Ok(())
    }

    /// A host leaves.
    pub(super) fn stop(&mut self, host: usize) -> Verdict {
        let paused = self.is_paused(host);
        let running = self.hosts[host].array.as_mut().filter(|_| !paused);
        let told = running.map(|running| std::mem::replace(&mut running.stopping, true));
        match told {
            Some(false) => self.input(host, Input::Stop),
            _ => Ok(()),
        }
    }

    pub(super) fn is_paused(&self, host: usize) -> bool {
        self.hosts[host].paused_until > self.now
    }

    /// The process of a host dies.
    pub(super) fn crash(&mut self, host: usize) {
        if self.hosts[host].array.is_none() {
            return;
        }
        self.delay_flights(host, true);
        self.forget_requests(host);
        let one = &mut self.hosts[host];
        let running = one.array.take();
        self.crashed.extend(running.and_then(|running| running.me));
        one.end = Some(End::Lost);
        one.paused_until = Instant(0);
        self.counts.deaths += 1;
    }

    /// All hosts and disks lose their power.
    fn cut_power(&mut self) {
        for host in 0..self.hosts.len() {
            self.crash(host);
            self.hosts[host].off_until = self.now + BOOT;
        }
        let lives: Vec<Peer> = self.service.peers().collect();
        let flown: Vec<Peer> = self.flights.values().filter_map(|one| one.peer).collect();
        self.fenced.extend(lives);
        self.fenced.extend(flown);
        self.flights.clear();
        self.writes.clear();
        for disk in &mut self.disks {
            let how = self.net.pick(&[
                Cut::None,
                Cut::All,
                Cut::Writes(500),
                Cut::Sectors(500),
                Cut::Prefix,
            ]);
            disk.cut(how);
        }
        self.oracle.crashed(true);
    }

    /// The node of a host is over.
    pub(super) fn over(&mut self, host: usize, end: End) -> Verdict {
        self.judge_over(host)?;
        let one = &mut self.hosts[host];
        let running = one.array.take().expect("it runs");
        one.end = Some(end);
        match running.me {
            Some(me) if end != End::Lost => self.end_writes(me),
            // If it had left before it stood still, nobody will ever fence it.
            me => self.crashed.extend(me),
        }
        Ok(())
    }

    /// A host reads its members to join.
    pub(super) fn load(&mut self, host: usize, slot: NodeSlot) -> Verdict {
        let now = self.now;
        let disks = 0..self.disks.len();
        let seen: Vec<usize> = disks
            .filter(|disk| self.hosts[host].cut_until[*disk] <= now)
            .filter(|disk| superblock(&self.disks[*disk]).is_some())
            .collect();
        let ids: Vec<_> = seen
            .iter()
            .map(|disk| self.hosts[host].open(*disk))
            .collect();
        let opened = ids.iter().zip(&seen);
        let read: Vec<_> = opened.map(|(id, disk)| (*id, &self.disks[*disk])).collect();
        let loaded = media::load(&read, slot, self.make.museum, &self.pool);
        let running = self.hosts[host].array.as_mut().expect("it runs");
        running.opened = seen.into_iter().zip(ids).collect();
        let ok = loaded.is_ok();
        self.input(host, Input::Loaded(loaded))?;
        let Some(running) = self.hosts[host].array.as_mut().filter(|_| ok) else {
            return Ok(());
        };
        let Some(status) = running.status.as_ref() else {
            return Ok(());
        };
        let used = |id| status.members.iter().any(|member| member.id == id);
        running.opened.retain(|_, id| used(*id));
        // A spare that was removed is one again for who is given it.
        self.removed
            .retain(|disk| !running.opened.contains_key(disk));
        self.loaded.extend(running.me);
        Ok(())
    }

    /// A host has tried to fence somebody.
    pub(super) fn fence(&mut self, host: usize, peer: Peer) -> Verdict {
        let fails = !self.healed && self.net.permille(self.plan.unproved_permille);
        if fails && !self.fenced.contains(&peer) {
            return self.input(host, Input::NotFenced(peer));
        }
        let storage = match self.plan.fencing {
            Fencing::Storage => true,
            Fencing::Power => false,
            Fencing::Mixed => self.net.coin(),
        };
        let alive = |one: &Host| one.array.as_ref().is_some_and(|one| one.me == Some(peer));
        let who = self.hosts.iter().position(alive);
        let kind = match who {
            _ if storage => ProofKind::Storage,
            Some(who) => {
                self.crash(who);
                ProofKind::Command
            }
            None => ProofKind::Command,
        };
        self.end_flights(peer);
        self.counts.fences += 1;
        self.note(format_args!("# {} is fenced: {kind:?}", peer.slot));
        self.input(host, Input::Fenced(FenceProof { peer, kind }))
    }

    // Administrators.

    /// An administrator asks something of a host.
    pub(super) fn control(&mut self, host: usize, control: Control) -> Verdict {
        if !self.hosts[host].serves() || self.is_paused(host) {
            return Ok(());
        }
        let id = self.number();
        if let Control::Remove(member) = control {
            self.removing.insert(id, disk_of(member));
        }
        let running = self.hosts[host].array.as_mut().expect("it serves");
        running.controls.insert(id, format!("{control:?}"));
        self.input(host, Input::Array(Event::Control(ControlId(id), control)))
    }

    fn change_members(&mut self, act: Act) -> Verdict {
        let (Act::Fail(host, disk)
        | Act::Remove(host, disk)
        | Act::Add(host, disk)
        | Act::ReAdd(host, disk)
        | Act::Replace(host, disk)) = act
        else {
            unreachable!("a change of members");
        };
        let running = self.hosts[host].array.as_ref();
        let member = running.and_then(|running| running.member(disk));
        match (&act, member) {
            (Act::Fail(..), Some(member)) => self.control(host, Control::Fail(member)),
            (Act::Remove(..), Some(member)) => self.control(host, Control::Remove(member)),
            (Act::Replace(..), Some(member)) => {
                let with = None;
                self.control(host, Control::Replace { member, with })
            }
            (Act::Add(..), None) if self.is_free(disk) && self.hosts[host].serves() => {
                let new = self.offer(host, disk);
                self.control(host, Control::Add(new))
            }
            (Act::ReAdd(..), None) if self.has_left(disk) && self.hosts[host].serves() => {
                let new = self.offer(host, disk);
                self.control(host, Control::ReAdd(new))
            }
            _ => Ok(()),
        }
    }

    /// Whether nobody uses a disk, and nothing is under way to it.
    fn is_free(&self, disk: usize) -> bool {
        let uses = |one: &Host| {
            let running = one.array.as_ref();
            running.is_some_and(|one| one.opened.contains_key(&disk) || !one.ready)
        };
        let flies = self.flights.values().any(|flight| flight.disk == disk);
        !flies && !self.hosts.iter().any(uses)
    }

    fn has_left(&self, disk: usize) -> bool {
        self.is_free(disk) && superblock(&self.disks[disk]).is_some()
    }

    /// A host opens a disk.
    fn offer(&mut self, host: usize, disk: usize) -> NewMember {
        let id = self.hosts[host].open(disk);
        // It may come back before the one who removed it is told so.
        self.removing.retain(|_, removed| *removed != disk);
        self.removed.remove(&disk);
        if let Some(running) = self.hosts[host].array.as_mut() {
            running.opened.insert(disk, id);
        }
        let number = 64 + self.hosts[host].opens as u8 % 64 + 64 * (host as u8 % 2);
        let found = &self.disks[disk];
        NewMember {
            id,
            name: format!("d{disk}"),
            size_sectors: found.sectors(),
            logical_block_bytes: found.block_bytes(),
            device_uuid: media::uuid(number).0,
            flags: FlagWish::default(),
            bad_block_log: false,
            superblock: superblock(found).map(Box::new),
        }
    }

    /// A host has looked for a disk that another one adds.
    pub(super) fn find(&mut self, host: usize, disk: &NewDisk) -> Verdict {
        let number = disk.path.as_str().strip_prefix('d');
        let number = number.and_then(|number| number.parse::<usize>().ok());
        let now = self.now;
        let one = &self.hosts[host];
        let seen = number.filter(|number| {
            let open = one
                .array
                .as_ref()
                .is_some_and(|one| one.opened.contains_key(number));
            !open
                && one
                    .cut_until
                    .get(*number)
                    .is_some_and(|until| *until <= now)
        });
        let found = seen.map(|number| self.offer(host, number));
        self.input(host, Input::Found(disk.uuid, found))
    }

    /// Nothing goes wrong any more, and hosts that do not run start.
    pub(super) fn heal(&mut self) -> Verdict {
        self.healed = true;
        self.slow_until = self.slow_until.min(self.now + Span::secs(60));
        for one in &mut self.hosts {
            one.cut_until.fill(Instant(0));
        }
        for disk in &mut self.disks {
            disk.disarm();
            disk.heal();
        }
        for host in 0..self.hosts.len() {
            self.start(host)?;
        }
        Ok(())
    }

    /// Until when somebody stands still, or is cut off.
    pub(super) fn apart_until(&self) -> Instant {
        let until = |one: &Host| one.paused_until.max(one.isolated_until).max(one.off_until);
        let all = self.hosts.iter().map(until);
        all.max().unwrap_or(Instant(0)) + Span::secs(1)
    }
}
