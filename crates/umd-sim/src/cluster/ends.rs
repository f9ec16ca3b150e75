//! The end of a run: nothing goes wrong any more, and all has to come to rest and agree.
//!
//! ```text
//!   heal --> nobody waits, nothing is resynced (L1..L3) --> every host reads everything
//!        --> mirrors alike, sector by sector (S2) --> all leave (L2) --> power cut --> still alike
//! ```

use umd_core::array::{MemberRole, MemberStatus};
use umd_core::cluster::{End, NodeSlot};
use umd_core::value::Span;

use super::host::disk_of;
use super::judge::geometry;
use super::plan::Act;
use super::world::World;
use crate::disk::Cut;
use crate::layout::Geometry;
use crate::monitor::{Rule, Verdict, Violation};
use crate::stamp::recognise;

/// Everything that waits has been served after that time.
const PATIENCE: Span = Span::secs(900);
/// How often it is looked.
const LOOK_EVERY: Span = Span::secs(5);
/// Bits of regions that nobody writes are gone after that.
const IDLE: Span = Span::secs(40);
/// Sectors of one read.
const READ_SECTORS: u64 = 128;

/// A disk in sync: its slot, its number, where data begins.
type Leg = (u16, usize, u64);

impl World {
    /// Brings a run to its end.
    pub(super) fn end(&mut self) -> Verdict {
        self.run_until(self.apart_until())?;
        self.note(format_args!("# all is well from here on"));
        self.heal()?;
        self.come_to_rest()?;
        let serving: Vec<usize> = self.serving();
        if serving.is_empty() {
            return self.judge_nobody();
        }
        self.one_mind(&serving)?;
        if !self.contested.is_empty() {
            self.act(Act::Check(serving[0], true))?;
            self.come_to_rest()?;
        }
        self.read_all(&serving)?;
        self.run_until(self.now + IDLE)?;
        self.come_to_rest()?;
        let (shape, disks) = self.shape(serving[0]);
        self.compare(&shape, &disks, false)?;
        self.all_leave(&serving)?;
        self.cut_and_compare(&shape, &disks)
    }

    fn serving(&self) -> Vec<usize> {
        let hosts = 0..self.hosts.len();
        hosts.filter(|host| self.hosts[*host].serves()).collect()
    }

    /// What keeps a host from being at rest.
    fn unrest(&self, host: usize) -> Option<String> {
        let one = &self.hosts[host];
        let running = one.array.as_ref()?;
        let node = running.clustered.node();
        let status = running.status.as_ref();
        let syncs = status.is_some_and(|status| status.sync.is_some() || status.sync_pending);
        let waits = !node.waits().is_empty() || node.frozen().is_some();
        let asked = !running.requests.is_empty() || !running.controls.is_empty();
        let moves = !running.ready || !running.ios.is_empty();
        (syncs || waits || asked || moves).then(|| format!("h{host}: {running:?}"))
    }

    fn come_to_rest(&mut self) -> Verdict {
        let end = self.now + PATIENCE;
        let mut calm = 0;
        while calm < 2 {
            self.run_until(self.now + LOOK_EVERY)?;
            let mut hosts = 0..self.hosts.len();
            let unrest = hosts.find_map(|host| self.unrest(host));
            calm = if unrest.is_none() { calm + 1 } else { 0 };
            if let Some(text) = unrest.filter(|_| self.now > end) {
                return Err(Violation::new(Rule::Liveness, text));
            }
            // Who was refused, or lost its session before all was well, tries once more.
            for host in 0..self.hosts.len() {
                let none = self.serving().is_empty();
                if none && self.hosts[host].array.is_none() && calm > 0 && self.now < end {
                    self.start(host)?;
                    calm = 0;
                    break;
                }
            }
            if self.now > end {
                break;
            }
        }
        Ok(())
    }

    /// Nobody serves: all slots are those of the dead, and nobody is left who could take one.
    fn judge_nobody(&mut self) -> Verdict {
        let all = (0..self.plan.capacity).map(NodeSlot);
        let dead = all
            .filter(|slot| self.service.dead(*slot).is_some())
            .count();
        if dead == usize::from(self.plan.capacity) {
            self.counts.refusals += 1;
            return Ok(());
        }
        let text = format!("nobody serves: {:?}", self.hosts);
        Err(Violation::new(Rule::Liveness, text))
    }

    /// S6: all that serve show the same array, and the bitmaps of all nodes are for it. (A spare
    /// that was removed is one again for who joins and is given it.)
    fn one_mind(&self, serving: &[usize]) -> Verdict {
        let view = |host: usize| {
            let running = self.hosts[host].array.as_ref()?;
            let status = running.status.as_ref()?;
            let mut members: Vec<_> = status
                .members
                .iter()
                .map(|one| (disk_of(one.id), one.number, one.slot, one.role))
                .filter(|one| !matches!(one.3, MemberRole::Faulty | MemberRole::Spare))
                .collect();
            members.sort_by_key(|one| one.0);
            Some((status.array_sectors, status.events, members))
        };
        let first = view(serving[0]);
        for host in serving {
            let other = view(*host);
            if other != first {
                let text = format!("h{} sees {first:?}, h{host} {other:?}", serving[0]);
                return Err(Violation::new(Rule::Size, text));
            }
        }
        self.judge_bitmaps(serving[0])
    }

    fn read_all(&mut self, serving: &[usize]) -> Verdict {
        for host in serving {
            let running = self.hosts[*host].array.as_ref();
            let sectors = running.map_or(0, |running| running.shown_sectors);
            let mut at = 0;
            while at < sectors {
                let len = READ_SECTORS.min(sectors - at);
                self.act(Act::Read(*host, at, len))?;
                at += len;
            }
            self.run_until(self.now + Span::secs(1))?;
        }
        self.come_to_rest()
    }

    /// The shape of the array, and the disks in sync with their slots and where data begins.
    fn shape(&self, host: usize) -> (Geometry, Vec<Leg>) {
        let running = self.hosts[host].array.as_ref().expect("it serves");
        let status = running.status.as_ref().expect("it serves");
        let members = status.members.iter();
        let members = members.filter(|one| one.role == MemberRole::InSync);
        let leg =
            |one: &MemberStatus| Some((one.slot?.0, disk_of(one.id), one.data_offset_sectors));
        (geometry(status), members.filter_map(leg).collect())
    }

    /// S2: every sector is the same on all mirrors, and one that may be read.
    fn compare(&self, geometry: &Geometry, disks: &[Leg], durable: bool) -> Verdict {
        for sector in 0..geometry.array_sectors() {
            let mut first: Option<(usize, &[u8])> = None;
            for place in geometry.places(sector) {
                let found = disks.iter().find(|(slot, ..)| *slot == place.slot);
                let Some((_, disk, data)) = found else {
                    continue;
                };
                let at = data + place.relative_sector;
                let bytes = match durable {
                    true => self.disks[*disk].durable().sector(at),
                    false => self.disks[*disk].visible(at).unwrap_or(&[0; 512]),
                };
                let found = recognise(bytes);
                if !self.oracle.is_current(sector, found) {
                    let text = format!("sector {sector} on d{disk} is {found:?}");
                    return Err(Violation::new(Rule::Content, text));
                }
                match first {
                    Some((other, same)) if same != bytes => {
                        let text = format!(
                            "sector {sector} is {:?} on d{other} and {found:?} on d{disk}",
                            recognise(same)
                        );
                        return Err(Violation::new(Rule::Parity, text));
                    }
                    _ => first = Some((*disk, bytes)),
                }
            }
        }
        Ok(())
    }

    fn all_leave(&mut self, serving: &[usize]) -> Verdict {
        for host in serving {
            self.stop(*host)?;
            let apart = self.net.range(1_000_000, 5_000_000_000);
            self.run_until(self.now + Span(apart))?;
        }
        self.run_until(self.now + Span::secs(120))?;
        for host in serving {
            let one = &self.hosts[*host];
            if one.array.is_some() || one.end != Some(End::Left) {
                let text = format!("h{host} was stopped, and has not left: {one:?}");
                return Err(Violation::new(Rule::Liveness, text));
            }
        }
        Ok(())
    }

    /// Who has left in order has left everything on the media.
    fn cut_and_compare(&mut self, geometry: &Geometry, disks: &[Leg]) -> Verdict {
        // Who died when it had said that it leaves is waited for by nobody.
        for peer in std::mem::take(&mut self.crashed) {
            self.end_writes(peer);
        }
        self.oracle.stopped();
        self.oracle.crashed(true);
        for (_, disk, _) in disks {
            self.disks[*disk].cut(Cut::None);
        }
        self.compare(geometry, disks, true)?;
        // On a member that was filled while a dead node's bits were on their way there may be old
        // ones: whoever believes that member resyncs them once.
        for slot in 0..self.plan.capacity {
            let bits = disks.iter().map(|(_, disk, _)| self.bits(*disk, slot));
            let least = bits.min_by_key(Vec::len).unwrap_or_default();
            if !least.is_empty() && self.service.dead(NodeSlot(slot)).is_none() {
                let text = format!("bits {least:?} of node {slot} are left on all disks");
                return Err(Violation::new(Rule::Clear, text));
            }
        }
        Ok(())
    }
}
