//! The fault atlas: what may break now so that redundancy still covers everything.
//!
//! In nine seeds of ten nothing breaks beyond what the level tolerates, and then every error and
//! every lost byte is a bug. Beyond it, errors are legal; wrong data reported as good never is.

use std::collections::BTreeSet;
use std::ops::Range;

use umd_core::array::{MemberRole, MemberStatus, Purpose};
use umd_core::value::{MemberId, RequestId, Span};

use super::{Ev, World};
use crate::disk::{Armed, PAGE_SECTORS, Power};
use crate::layout::{Place, parity_agrees};
use crate::metaview::{SuperView, is_logged_bad, is_stored_bad, super_sector};
use crate::monitor::{Rule, Scene, Verdict, Violation};
use crate::options::{Fault, Trigger};
use crate::program::Broken;
use crate::rng::mix;
use crate::stamp::SECTOR;

static ZERO: [u8; SECTOR] = [0; SECTOR];

/// What is broken, or will be.
#[derive(Debug, Clone, Default)]
pub(super) struct Atlas {
    /// Disks whose loss is under way and that the engine may not have noticed.
    pub(super) doomed: BTreeSet<usize>,
    /// Relative pages (of parity arrays) in which a crash may have left parity that does not agree
    /// with data.
    pub(super) holes: BTreeSet<u64>,
    /// More broke than redundancy covers.
    pub(super) exceeded: bool,
    /// Relative pages about which a disk lies, or lied.
    pub(super) spoiled: BTreeSet<u64>,
    /// Lies in flight.
    pub(super) lies: u64,
}

impl Atlas {
    /// Whether more broke than redundancy covers.
    pub(super) fn exceeded(&self) -> bool {
        self.exceeded
    }

    /// A hash of all it knows that outlives a boot.
    pub(super) fn digest(&self) -> u64 {
        let flags = u64::from(self.exceeded);
        let flags = self
            .spoiled
            .iter()
            .fold(flags, |sum, page| mix(sum ^ !page));
        self.holes.iter().fold(flags, |sum, page| mix(sum ^ page))
    }

    /// The disk is no member any more.
    pub(super) fn forget(&mut self, disk: usize) {
        self.doomed.remove(&disk);
    }

    /// A new boot: nothing is under way.
    pub(super) fn rebooted(&mut self) {
        self.doomed.clear();
        self.lies = 0;
    }
}

impl World<'_> {
    /// Disks of members in sync, with their slots.
    pub(super) fn in_sync(&self) -> Vec<(u16, usize)> {
        let Some(live) = &self.live else {
            return Vec::new();
        };
        live.status
            .members
            .iter()
            .filter(|m| m.role == MemberRole::InSync)
            .filter_map(|m| Some((m.slot?.0, *live.members.get(&m.id)?)))
            .collect()
    }

    /// Members in sync that nothing is under way against.
    pub(super) fn sound(&self) -> usize {
        let sound = |(_, disk): &(u16, usize)| {
            !self.atlas.doomed.contains(disk) && self.disks[*disk].power() == Power::On
        };
        self.in_sync().iter().filter(|slot| sound(slot)).count()
    }

    pub(super) fn needed(&self) -> usize {
        let redundancy = self.geometry.redundancy().min(self.redundancy_to_be());
        usize::from(self.geometry.slots - redundancy)
    }

    /// Whether redundancy does not cover a sector that this disk, too, cannot read.
    pub(super) fn is_spent(&self, disk: usize) -> bool {
        match self.geometry.level {
            10 => !self.survives_without(disk),
            _ => self.sound() <= self.needed(),
        }
    }

    /// Whether a RAID10 has a copy of everything without this disk and those that are unsound.
    fn survives_without(&self, disk: usize) -> bool {
        let in_sync = self.in_sync();
        let sound = |d: usize| {
            d != disk && !self.atlas.doomed.contains(&d) && self.disks[d].power() == Power::On
        };
        let holds = |slot: u16| in_sync.iter().any(|(s, d)| *s == slot && sound(*d));
        self.geometry.survives(holds)
    }

    /// Whether there is something that this disk cannot give.
    fn is_damaged(&self, disk: usize) -> bool {
        let there = &self.disks[disk];
        !there.damaged().is_empty() || !there.worn().is_empty() || self.has_log(disk)
    }

    /// Whether its superblock, as a reader or the next boot sees it, names bad blocks.
    fn has_log(&self, disk: usize) -> bool {
        if self.options.logged.is_none() || self.file == Some(disk) {
            return false;
        }
        let there = &self.disks[disk];
        let at = super_sector(self.options.minor, there.sectors());
        let named = |sector: &[u8]| SuperView::new(sector).is_some_and(|s| s.bad_block_log().2);
        named(there.durable().sector(at)) || there.visible(at).is_some_and(named)
    }

    pub(super) fn any_damage(&self) -> bool {
        self.in_sync()
            .iter()
            .any(|(_, disk)| self.is_damaged(*disk))
    }

    /// Whether redundancy covers the loss of this disk now.
    pub(super) fn covers_loss(&mut self, disk: usize) -> bool {
        if !self.in_sync().iter().any(|(_, d)| *d == disk) {
            return true;
        }
        if !self.is_recorded() {
            return false;
        }
        let lost = self.disks[disk].power() != Power::On;
        let already = lost || self.atlas.doomed.contains(&disk);
        // What it cannot read any more is lost with it, and not twice.
        let damage = |(_, d): &(u16, usize)| *d != disk && self.is_damaged(*d);
        let elsewhere = self.in_sync().iter().any(damage);
        if self.geometry.level == 10 {
            return self.survives_without(disk) && !elsewhere;
        }
        self.sound() - usize::from(!already) >= self.needed() && !elsewhere
    }

    /// Whether the disk may be lost, by the rules of this seed. Remembers it if so.
    pub(super) fn doom(&mut self, disk: usize) -> bool {
        if !self.in_sync().iter().any(|(_, d)| *d == disk) {
            // It may be in sync when the fault strikes; instead of another, if it replaces one.
            if let Some(replaced) = self.replaced_by(disk) {
                if self.has_holes() || !self.covers_loss(replaced) {
                    return false;
                }
                self.atlas.doomed.insert(replaced);
            }
            self.atlas.doomed.insert(disk);
            self.let_go_of_unlanded();
            return true;
        }
        if self.has_holes() {
            // The write hole: what this disk held could not be computed. md has no answer to it
            // without a log, and neither faults nor administrators of this world ask.
            return false;
        }
        if !self.covers_loss(disk) {
            if !self.options.beyond {
                return false;
            }
            self.atlas.exceeded = true;
        }
        self.atlas.doomed.insert(disk);
        self.let_go_of_unlanded();
        true
    }

    /// The disk of the member that this one is to replace.
    fn replaced_by(&self, disk: usize) -> Option<usize> {
        let live = self.live();
        let is_it = |m: &&MemberStatus| m.replacement && live.members.get(&m.id) == Some(&disk);
        let slot = live.status.members.iter().find(is_it)?.slot?;
        let in_sync = self.in_sync();
        let held = in_sync.iter().find(|(held, _)| *held == slot.0);
        held.map(|(_, disk)| *disk)
    }

    /// Something breaks.
    pub(super) fn strike(&mut self) -> Verdict {
        if !self.live().phase.is_work() {
            return Ok(());
        }
        let kinds: Vec<Fault> = self.options.faults.iter().copied().collect();
        if kinds.is_empty() || self.live().faults_left == 0 {
            return Ok(());
        }
        self.live_mut().faults_left -= 1;
        let kind = self.fault_rng.pick(&kinds);
        let disks = self.targets();
        if !disks.is_empty() {
            let disk = self.fault_rng.pick(&disks);
            let struck = self.strike_disk(kind, disk);
            if let Some(Broken::Damaged { at, len, .. }) = struck
                && self.fault_rng.permille(300)
                && self.may_break(Fault::WriteError, disk)
            {
                // Nor can what is unreadable be written again.
                self.strike_with(Broken::Armed(disk, Armed::WriteErrorAt(at, len)));
            }
        }
        let pause = self
            .fault_rng
            .spread(self.options.workload.think_ns.max(1_000_000) * 5);
        self.after(pause, Ev::Fault);
        Ok(())
    }

    /// Whether a member is being rebuilt.
    pub(super) fn is_rebuilding(&self) -> bool {
        let recovering = |m: &MemberStatus| matches!(m.role, MemberRole::Recovering { .. });
        self.live().status.members.iter().any(recovering)
    }

    /// Members that may be struck. What may be lost for good is lost most instructively while
    /// somebody else is being rebuilt from it.
    fn targets(&mut self) -> Vec<usize> {
        if self.options.beyond && self.is_rebuilding() && self.fault_rng.coin() {
            return self.in_sync().into_iter().map(|(_, disk)| disk).collect();
        }
        let file = self.file.filter(|_| self.file_id.is_some());
        self.live().members.values().copied().chain(file).collect()
    }

    /// The next operation of a disk takes so long.
    pub(super) fn hang_next(&mut self, disk: usize, span: Span) {
        let broken = Broken::Armed(disk, Armed::Hang(span));
        self.record_fault(broken);
        self.break_it(broken);
        self.note(format_args!("disk {disk} takes {} ms", span.0 / 1_000_000));
    }

    pub(super) fn strike_disk(&mut self, kind: Fault, disk: usize) -> Option<Broken> {
        let broken = self.choose_fault(kind, disk)?;
        self.strike_with(broken);
        Some(broken)
    }

    fn strike_with(&mut self, broken: Broken) {
        self.record_fault(broken);
        self.break_it(broken);
        self.counts.faults += 1;
        let (kind, disk) = broken.kind();
        self.note(format_args!("fault {kind:?} on disk {disk}"));
        self.trigger_by_fault();
    }

    /// Faults, administrators and the end of a boot like to come while a sync runs.
    pub(super) fn sync_started(&mut self) {
        if self.program.is_some() {
            // They come when the program says so.
            return;
        }
        if !self.options.faults.is_empty() && self.fault_rng.permille(300) {
            let delay = self.fault_rng.spread(1_000_000);
            self.after(delay, Ev::Fault);
        }
        if !self.options.actions.is_empty() && self.admin_rng.permille(300) {
            let delay = self.admin_rng.spread(1_000_000);
            self.after(delay, Ev::Admin);
        }
        if self.options.limits {
            let delay = self.limit_rng.spread(2_000_000);
            self.after(delay, Ev::Limit);
        }
        self.change_ones_mind();
        if self.live().phase.is_work() && self.fault_rng.permille(100) {
            let delay = self.fault_rng.spread(5_000_000);
            self.end_after(delay);
        }
    }

    /// The fault in all its details, if it may strike.
    fn choose_fault(&mut self, kind: Fault, disk: usize) -> Option<Broken> {
        if !self.may_break(kind, disk) {
            return None;
        }
        Some(match kind {
            Fault::Latent | Fault::Worn => self.choose_damage(kind, disk)?,
            Fault::Hiccup => {
                let span = Span(self.fault_rng.spread(500_000_000));
                Broken::Armed(disk, Armed::Hang(span))
            }
            Fault::WriteError => Broken::Armed(disk, Armed::WriteError),
            Fault::MetadataError => Broken::Armed(disk, Armed::MetadataWriteError),
            Fault::FlushError => Broken::Armed(disk, Armed::FlushError),
            Fault::Hang => {
                let span = Span(self.fault_rng.range(60, 200) * 1_000_000_000);
                Broken::Armed(disk, Armed::Hang(span))
            }
            Fault::Gone => Broken::Gone(disk),
            Fault::Rot => self.choose_rot(disk)?,
            Fault::LostWrite => Broken::Armed(disk, Armed::LostWrite),
            Fault::Misdirected => {
                let shift = self.fault_rng.pick(&[0, 1, 8, 24]);
                let others: Vec<usize> = self.in_sync().iter().map(|(_, d)| *d).collect();
                match self.fault_rng.pick(&others) {
                    other if shift == 0 && other != disk => {
                        Broken::Armed(disk, Armed::Elsewhere(other))
                    }
                    _ => Broken::Armed(disk, Armed::Misdirected(shift.max(1))),
                }
            }
        })
    }

    /// Whether a fault of this kind may strike the disk, by the rules of this seed. Enters it in
    /// the atlas if so.
    pub(super) fn may_break(&mut self, kind: Fault, disk: usize) -> bool {
        if self.disks[disk].power() != Power::On || self.disks[disk].is_armed() {
            return false;
        }
        let of_a_file = matches!(kind, Fault::MetadataError | Fault::Gone | Fault::Hang);
        match kind {
            Fault::Hiccup => true,
            // The array goes on without it.
            _ if self.file == Some(disk) => of_a_file,
            Fault::Latent => self.may_damage(disk),
            Fault::Worn => self.may_wear(disk),
            Fault::Rot | Fault::LostWrite | Fault::Misdirected => self.may_corrupt(),
            _ => self.doom(disk),
        }
    }

    /// The fault strikes.
    pub(super) fn break_it(&mut self, broken: Broken) {
        match broken {
            Broken::Armed(disk, armed) => self.disks[disk].arm(armed),
            Broken::Damaged { disk, at, len } => {
                self.disks[disk].damage(at, len);
                self.lose_unreadable();
                self.let_go_of_unlanded();
            }
            Broken::Worn { disk, at, len } => self.disks[disk].wear(at, len),
            Broken::Rotten { disk, at, len } => self.rot(disk, at, len),
            Broken::Gone(disk) => {
                let ends = self.disks[disk].vanish(self.now);
                for (io, due) in ends {
                    let io = umd_core::value::IoId(io);
                    self.queue.push(due, Ev::Io { disk, io });
                }
            }
        }
    }

    /// Whether what a rebuild has made whole is recorded; if not, it is not whole after a crash.
    pub(super) fn is_recorded(&self) -> bool {
        let live = self.live();
        live.monitor.is_recorded(Scene {
            disks: &self.disks,
            status: &live.status,
            oracle: &self.oracle,
        })
    }

    /// Whether sectors of a member's data may become unreadable.
    fn may_damage(&mut self, disk: usize) -> bool {
        if !self.in_sync().iter().any(|(_, d)| *d == disk) {
            return false;
        }
        // What a rebuild has just made whole, and nobody has recorded, is not whole after a crash.
        let covered = self.is_recorded() && !self.is_spent(disk) && !self.any_damage();
        let lied = self.atlas.lies > 0 || !self.atlas.spoiled.is_empty();
        if !(covered || self.options.beyond) || lied {
            return false;
        }
        self.atlas.exceeded |= !covered;
        true
    }

    /// Sectors of a member's data.
    fn choose_damage(&mut self, kind: Fault, disk: usize) -> Option<Broken> {
        let (slot, _) = self.in_sync().into_iter().find(|(_, d)| *d == disk)?;
        let live = self.live();
        let member = live
            .status
            .members
            .iter()
            .find(|m| m.role == MemberRole::InSync && m.slot.is_some_and(|s| s.0 == slot));
        let offset = member.expect("a member in sync").data_offset_sectors;
        let used = self.geometry.member_sectors[usize::from(slot)];
        let rng = &mut self.fault_rng;
        let len = rng.pick(&[1, 8, 8, 64, 256]).min(used);
        // Where hosts are busy, or anywhere: what nobody reads is found by a scrub alone.
        let load = &self.options.workload;
        let at_the_start = self.geometry.level == 1 && !load.disjoint && !self.options.rare.late;
        let busy = match load.hot_sectors {
            hot if hot > 0 && at_the_start && rng.coin() => hot.clamp(len, used),
            _ => used,
        };
        let relative = rng.below(busy - len + 1);
        let at = self.geometry.on_device(offset, relative);
        if kind == Fault::Latent {
            return Some(Broken::Damaged { disk, at, len });
        }
        let block = self.options.workload.block_sectors;
        let at = at - at % block;
        let len = len.min(64).next_multiple_of(block);
        let relative = self.geometry.relative_of(offset, at)?;
        let covered = self.is_apart_from_others(slot, disk, relative..relative + len);
        (covered || self.atlas.exceeded).then_some(Broken::Worn { disk, at, len })
    }

    /// Whether no other member lacks any of these sectors, or what lies in a row with them: counted
    /// by range, each of them is lost on one member at the most.
    pub(super) fn is_apart_from_others(
        &self,
        slot: u16,
        disk: usize,
        relative: Range<u64>,
    ) -> bool {
        let lacks = |other: usize, at: u64| {
            self.disks[other].worn().contains(&at) || self.is_unreadable(other, at)
        };
        relative.into_iter().all(|relative_sector| {
            let place = Place {
                slot,
                relative_sector,
            };
            let Some(walk) = self.geometry.walk_at(place) else {
                return true;
            };
            let places = self.geometry.walk_places(walk);
            self.in_sync().iter().all(|(held, other)| {
                let mut there = places.iter().filter(|place| place.slot == *held);
                *other == disk
                    || !there.any(|p| lacks(*other, self.device_at(*held, p.relative_sector)))
            })
        })
    }

    /// Whether sectors of a member's data may take no writes any more. What it still takes, and
    /// what the others hold, has to be enough for all of it.
    fn may_wear(&mut self, disk: usize) -> bool {
        let in_sync = self.in_sync();
        if !in_sync.iter().any(|(_, d)| *d == disk) || in_sync.len() < self.geometry.slots.into() {
            return false;
        }
        let sound =
            |d: usize| !self.atlas.doomed.contains(&d) && self.disks[d].power() == Power::On;
        let lied = self.atlas.lies > 0 || !self.atlas.spoiled.is_empty();
        let all = in_sync.iter().all(|(_, d)| sound(*d));
        // Who fails fast fails for one sector, and leaves the others what they refused.
        let mut members = self.live().status.members.iter();
        let fast = members.clone().any(|m| m.failfast);
        // So does who is being replaced: nothing is recorded for two.
        let replaced = members.any(|m| m.replacement || m.want_replacement);
        // And so does a leg that lags: what it refuses was answered before.
        let mut others = in_sync.iter().filter(|(_, d)| *d != disk);
        let worn = others.any(|(_, d)| !self.disks[*d].worn().is_empty());
        let lags = self.options.write_behind > 0 && worn;
        all && !fast && !replaced && !lags && !lied && self.is_recorded() && !self.has_holes()
    }

    /// Pages of the walk that hold these array sectors.
    pub(super) fn pages_of(&self, sectors: Range<u64>) -> BTreeSet<u64> {
        let places = sectors.flat_map(|sector| self.geometry.places(sector));
        let walked = places.filter_map(|place| self.geometry.walk_at(place));
        walked.map(|walk| walk / PAGE_SECTORS).collect()
    }

    /// The members that would be believed after a crash, some of which are none any more: their
    /// disks, slots, and where their data begins.
    fn believed(&self) -> Vec<(MemberId, usize, u16, u64)> {
        let live = self.live();
        let members = live.status.members.iter().filter_map(|m| {
            let slot = m.slot.map_or(0, |slot| slot.0);
            Some((m.id, *live.members.get(&m.id)?, slot, m.data_offset_sectors))
        });
        let by_its_superblock = |&(id, disk): &(MemberId, usize)| {
            let at = super_sector(self.options.minor, self.disks[disk].sectors());
            let superblock = SuperView::on_medium(&self.disks[disk], at)?;
            let slot = superblock.role(superblock.number())?;
            Some((id, disk, slot, superblock.data_offset()))
        };
        let released = live.released.iter().filter_map(by_its_superblock);
        members.chain(released).collect()
    }

    /// Pages of the walk with host writes unanswered, in flight, or volatile on any member.
    pub(super) fn pages_at_risk(&self, power: bool) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        let Some(live) = &self.live else {
            return pages;
        };
        for pending in live.pending.values().filter(|pending| pending.writes()) {
            pages.extend(self.pages_of(pending.range.clone()));
        }
        for (id, disk, slot, offset) in self.believed() {
            let mut add = |from: u64, end: u64| {
                // What lay where nothing lies any more is in no doubt.
                let Some(first) = self.geometry.relative_of(offset, from) else {
                    return;
                };
                let (from, end) = (first, first + (end - from));
                let touched = from / PAGE_SECTORS..end.div_ceil(PAGE_SECTORS);
                let place = |page| Place {
                    slot,
                    relative_sector: page * PAGE_SECTORS,
                };
                let walked = touched.filter_map(|page| self.geometry.walk_at(place(page)));
                pages.extend(walked.map(|walk| walk / PAGE_SECTORS));
            };
            let of_the_host = |purpose| matches!(purpose, Purpose::Data | Purpose::Parity);
            for write in self.disks[disk].writes_in_flight() {
                if of_the_host(write.purpose) {
                    add(write.offset_sectors, write.end_sectors());
                }
            }
            for &sector in self.forgotten_by(id, disk) {
                add(sector, sector + 1);
            }
            if power {
                for (sector, write) in self.disks[disk].cache().range(0, u64::MAX) {
                    if of_the_host(write.purpose) {
                        add(sector, sector + 1);
                    }
                }
            }
        }
        pages
    }

    /// What a failed flush lost of a member that will be believed after a crash: nobody has
    /// recorded its failure.
    fn forgotten_by(&self, member: MemberId, disk: usize) -> &BTreeSet<u64> {
        static NOTHING: BTreeSet<u64> = BTreeSet::new();
        let live = self.live();
        let mut members = live.status.members.iter();
        let failed = members.any(|m| m.id == member && m.role == MemberRole::Faulty);
        // Given up is no more than failed: a crash may come before anybody has recorded it.
        let released = live.released.iter().any(|(id, _)| *id == member);
        match (failed || released) && !live.monitor.is_unrecorded(member) {
            true => &NOTHING,
            false => self.disks[disk].forgotten(),
        }
    }

    /// Whether a crash now brings back a member that lost what it had answered for.
    pub(super) fn forgets(&self) -> bool {
        let mut members = self.live.iter().flat_map(|live| {
            let members = live.members.iter().map(|(id, disk)| (*id, *disk));
            members.chain(live.released.iter().copied())
        });
        members.any(|(id, disk)| !self.forgotten_by(id, disk).is_empty())
    }

    /// These pages are in doubt.
    pub(super) fn open_holes(&mut self, pages: BTreeSet<u64>) {
        let lost = self.unreadable_in(&pages);
        self.open_holes_in_image(pages, lost);
    }

    /// A crash left these pages in doubt, and these array sectors can be read nowhere.
    pub(super) fn open_holes_in_image(&mut self, pages: BTreeSet<u64>, lost: Vec<u64>) {
        if !self.geometry.has_parity() {
            return;
        }
        lost.into_iter().for_each(|at| self.oracle.lost(at));
        self.atlas.holes.extend(pages);
    }

    /// The write hole, as small as it can be: what cannot be read in pages whose parity is in
    /// doubt is what parity says. What lies beside it is not lost.
    pub(super) fn lose_unreadable(&mut self) {
        let lost = self.unreadable_in(&self.atlas.holes);
        lost.into_iter().for_each(|at| self.oracle.lost(at));
    }

    /// Array sectors in these pages that their members cannot read.
    pub(super) fn unreadable_in(&self, pages: &BTreeSet<u64>) -> Vec<u64> {
        let mut found = Vec::new();
        if !self.geometry.has_parity() || pages.is_empty() {
            return found;
        }
        for (_, disk, slot, offset) in self.believed() {
            if !self.is_damaged(disk) {
                continue;
            }
            let sectors = pages.iter().flat_map(|page| {
                let first = page * PAGE_SECTORS;
                first..(first + PAGE_SECTORS).min(self.geometry.used_sectors())
            });
            let device = |at: &u64| self.geometry.on_device(offset, *at);
            let unreadable = sectors.filter(|at| self.is_unreadable(disk, device(at)));
            let place = |relative_sector| Place {
                slot,
                relative_sector,
            };
            found.extend(unreadable.filter_map(|at| self.geometry.sector_at(place(at))));
        }
        found
    }

    /// Whether this disk cannot read a sector, or may not because its log names it.
    fn is_unreadable(&self, disk: usize, sector: u64) -> bool {
        let there = &self.disks[disk];
        let at = super_sector(self.options.minor, there.sectors());
        let block = self.options.workload.block_sectors;
        let first = sector - sector % block;
        there.damaged().range(first..first + block).next().is_some()
            || self.options.logged.is_some()
                && (is_logged_bad(there, at, sector, sector + 1)
                    || is_stored_bad(there, at, sector))
    }

    /// Forgets pages whose parity agrees with their data, on the media.
    pub(super) fn prune_holes(&mut self) {
        let in_sync = self.in_sync();
        // A raid0 that was a level with parity may, after a crash, be one again.
        let bare = self.geometry.level == 0;
        if bare || in_sync.len() < usize::from(self.geometry.slots) {
            return;
        }
        self.prune_spoiled(&in_sync);
        let holes = std::mem::take(&mut self.atlas.holes);
        let stays = |page: &u64| {
            self.atlas.spoiled.contains(page)
                || self.is_volatile(*page, &in_sync)
                || !self.page_agrees(*page, &in_sync)
        };
        self.atlas.holes = holes.into_iter().filter(stays).collect();
    }

    pub(super) fn is_volatile(&self, page: u64, in_sync: &[(u16, usize)]) -> bool {
        self.page_on(page, in_sync)
            .into_iter()
            .any(|(disk, first)| {
                let mut cached = self.disks[disk].cache().range(first, first + PAGE_SECTORS);
                cached.next().is_some()
            })
    }

    /// The disks that hold a page of the walk, and the device sectors at which it begins.
    pub(super) fn page_on(&self, page: u64, in_sync: &[(u16, usize)]) -> Vec<(usize, u64)> {
        let places = self.geometry.walk_places(page * PAGE_SECTORS);
        let held = |(slot, disk): &(u16, usize)| {
            let place = places.iter().find(|place| place.slot == *slot)?;
            Some((*disk, self.device_at(*slot, place.relative_sector)))
        };
        in_sync.iter().filter_map(held).collect()
    }

    /// Whether parity is in doubt in any row, as reads find it now.
    pub(super) fn has_holes(&mut self) -> bool {
        self.prune_holes();
        let in_sync = self.in_sync();
        let whole = in_sync.len() == usize::from(self.geometry.slots);
        let in_doubt = |page: &u64| {
            !whole || self.atlas.spoiled.contains(page) || !self.page_agrees(*page, &in_sync)
        };
        let bare = self.geometry.level == 0;
        self.atlas.lies > 0 || !bare && self.atlas.holes.iter().any(in_doubt)
    }

    pub(super) fn page_agrees(&self, page: u64, in_sync: &[(u16, usize)]) -> bool {
        let first = page * PAGE_SECTORS;
        let end = (first + PAGE_SECTORS).min(self.geometry.used_sectors());
        (first..end).all(|relative| self.row_agrees(relative, in_sync))
    }

    fn row_agrees(&self, relative: u64, in_sync: &[(u16, usize)]) -> bool {
        let row = self.geometry.row(relative / self.geometry.chunk_sectors);
        parity_agrees(&row, SECTOR, |slot| {
            let (_, disk) = in_sync
                .iter()
                .find(|(s, _)| *s == slot)
                .expect("all are in sync");
            let at = self.device_at(slot, relative);
            Some(self.disks[*disk].visible(at).unwrap_or(&ZERO))
        })
    }

    /// Whether parity fits the rows of a write that was just answered, as reads find them. Asked
    /// where it is not certain: where a crash left parity in doubt, or something cannot be read.
    pub(super) fn check_rows(&self, id: RequestId, sectors: &[u64]) -> Verdict {
        let doubtful = !self.atlas.holes.is_empty() || self.any_damage();
        let lied = self.atlas.lies > 0 || !self.atlas.spoiled.is_empty();
        let in_sync = self.in_sync();
        let whole = in_sync.len() == usize::from(self.geometry.slots);
        if !self.geometry.has_parity() || !doubtful || lied || !whole {
            return Ok(());
        }
        for &sector in sectors {
            let places = self.geometry.places(sector);
            let relative = places.first().map(|place| place.relative_sector);
            let relative = relative.expect("a sector lies somewhere");
            if !self.is_left_out(relative, &in_sync) && !self.row_agrees(relative, &in_sync) {
                let text = format!("{id:?} wrote sector {sector}, and parity does not fit its row");
                return Err(Violation::new(Rule::Parity, text));
            }
        }
        Ok(())
    }

    /// Whether a row says nothing: a member cannot read it, or something is on its way to it.
    fn is_left_out(&self, relative: u64, in_sync: &[(u16, usize)]) -> bool {
        in_sync.iter().any(|(slot, disk)| {
            let at = self.device_at(*slot, relative);
            let mut flying = self.disks[*disk].writes_in_flight();
            self.is_unreadable(*disk, at)
                || flying.any(|write| write.offset_sectors <= at && at < write.end_sectors())
        })
    }

    /// The device sector of a relative one, of the member in sync in a slot.
    pub(super) fn device_at(&self, slot: u16, relative: u64) -> u64 {
        self.geometry.on_device(self.data_offset(slot), relative)
    }

    pub(super) fn data_offset(&self, slot: u16) -> u64 {
        let mut members = self.live().status.members.iter();
        let member =
            members.find(|m| m.role == MemberRole::InSync && m.slot.is_some_and(|s| s.0 == slot));
        member.expect("a member in sync").data_offset_sectors
    }

    /// The array was started although parity is in doubt and these slots are missing: what they
    /// held in doubtful rows is lost.
    pub(super) fn give_up(&mut self, missing: &[u16]) {
        let holes = std::mem::take(&mut self.atlas.holes);
        for page in &holes {
            let first = page * PAGE_SECTORS;
            for relative_sector in first..(first + PAGE_SECTORS).min(self.geometry.used_sectors()) {
                for &slot in missing {
                    let place = Place {
                        slot,
                        relative_sector,
                    };
                    if let Some(sector) = self.geometry.sector_at(place) {
                        self.oracle.lost(sector);
                    }
                }
            }
        }
        if self.geometry.level == 6 {
            self.atlas.holes = holes;
        }
    }

    fn trigger_by_fault(&mut self) {
        let (_, trigger) = self.options.boots[usize::from(self.boot)];
        if let Trigger::Fault(delay) = trigger {
            self.end_after(delay);
        }
    }
}
