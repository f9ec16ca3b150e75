//! What must never happen, looked at when an I/O is submitted, a size is shown, a node leaves.
//!
//! | | |
//! |---|---|
//! | S1, S5 | no write of a host lands where another one resyncs; who resyncs has the right to |
//! | S3 | a dead node's slot is taken when nothing of it lands any more; no session, no write |
//! | S4 | the bit is durable in the own slot, on all members in sync, before data |
//! | S7 | a size is shown when superblocks and the bitmaps of all slots have it |
//! | | superblocks under the token; a slot's bitmap by its owner, or who takes it |

use std::ops::Range;

use umd_core::array::{MemberIo, MemberRole, Purpose, Status};
use umd_core::cluster::{AckStatus, Leave, NodeSlot, Peer, ServiceCommand};

use umd_core::value::{Instant, IoOp, MemberId, Span, slices_len};
use umd_format::Role;

use super::host::{Host, disk_of};
use super::media::{bitmaps, first_bitmap, superblock};
use super::plan::{Act, CHUNK_SECTORS, Item};
use super::world::{World, range_of, writes};
use crate::layout::{Geometry, Known, Place};
use crate::metaview::BitmapView;
use crate::monitor::{Rule, Verdict, Violation};

/// So long after it stood still, or was cut off, nobody has to be in time.
const LONG: Span = Span::secs(60);

fn broken(rule: Rule, text: String) -> Verdict {
    Err(Violation::new(rule, text))
}

/// The shape of an array as a host has it.
pub(super) fn geometry(status: &Status) -> Geometry {
    Geometry {
        level: status.level,
        layout: status.layout,
        slots: status.raid_disks,
        chunk_sectors: u64::from(status.chunk_sectors),
        member_sectors: vec![status.dev_sectors; usize::from(status.raid_disks)],
        moving: None,
        known: Known::default(),
    }
}

/// What a bitmap says that it is for: sectors of the walk.
fn walk_in(header: &[u8]) -> u64 {
    let bytes = header[40..48].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}

/// The bit of a region in the bitmap of a slot, where it lies on a disk: sector, byte, mask.
fn place_of_bit(view: BitmapView, start: u64, region: u64) -> (u64, usize, u8) {
    let place = view.place(region);
    (
        start + place.sector,
        place.byte,
        place.mask.expect("a bitmap of bits"),
    )
}

impl World {
    /// Where of the walk of a resync an I/O is.
    pub(super) fn walk_of(&self, host: usize, io: &MemberIo) -> Vec<Range<u64>> {
        let running = self.hosts[host].array.as_ref();
        let Some(status) = running.and_then(|one| one.status.as_ref()) else {
            return Vec::new();
        };
        let moves = [
            Purpose::Data,
            Purpose::Resync,
            Purpose::Scrub,
            Purpose::Rewrite,
        ];
        let member = status.members.iter().find(|one| one.id == io.member);
        let Some(member) = member.filter(|_| moves.contains(&io.purpose)) else {
            return Vec::new();
        };
        let range = range_of(&io.op);
        let data = member.data_offset_sectors;
        if range.start < data {
            return Vec::new();
        }
        let range = range.start - data..range.end - data;
        let (Some(slot), 10) = (member.slot, status.level) else {
            return vec![range];
        };
        let geometry = geometry(status);
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let next = ((at / CHUNK_SECTORS + 1) * CHUNK_SECTORS).min(range.end);
            let place = Place {
                slot: slot.0,
                relative_sector: at,
            };
            let walk = geometry.walk_at(place);
            pieces.extend(walk.map(|walk| walk..walk + (next - at)));
            at = next;
        }
        pieces
    }

    /// Whether a member has a slot for a host that is one of the cluster. (A spare that was removed
    /// may be one again for who joins.)
    fn works_with(&self, host: usize, member: MemberId) -> bool {
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let me = running.me;
        let lives = me.is_some_and(|me| self.service.peers().any(|one| one == me));
        let members = running.status.iter().flat_map(|status| &status.members);
        let mut same = members.filter(|one| one.id == member);
        lives && same.any(|one| !matches!(one.role, MemberRole::Faulty | MemberRole::Spare))
    }

    pub(super) fn judge_io(&self, host: usize, io: &MemberIo, walk: &[Range<u64>]) -> Verdict {
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let who = |what: &str| format!("h{host} {what}: {:?} of {:?}", io.purpose, io.member);
        if !running.opened.values().any(|open| *open == io.member) {
            return broken(Rule::Lifetime, who("has let it go"));
        }
        if self.removed.contains(&disk_of(io.member)) && self.works_with(host, io.member) {
            return broken(Rule::Lifetime, who("uses what was removed"));
        }
        if !writes(&io.op) {
            return match io.purpose {
                Purpose::Resync | Purpose::Scrub => self.judge_window(host, io, walk),
                _ => Ok(()),
            };
        }
        if self.now >= running.line.valid_until || running.me.is_none() {
            return broken(Rule::Fenced, who("writes without a session"));
        }
        match io.purpose {
            Purpose::Super if !running.token => {
                broken(Rule::Turn, who("writes superblocks out of turn"))
            }
            Purpose::Bitmap => self.judge_slot(host, io),
            Purpose::Data => {
                self.judge_window(host, io, walk)?;
                self.judge_intent(host, io, walk)
            }
            Purpose::Resync | Purpose::Scrub => self.judge_window(host, io, walk),
            _ => Ok(()),
        }
    }

    /// Superblocks and bitmaps on the disks give the place of all bitmaps.
    fn place_of_bitmaps(&self) -> Option<(u64, u64)> {
        self.disks.iter().find_map(bitmaps)
    }

    fn judge_slot(&self, host: usize, io: &MemberIo) -> Verdict {
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let (Some(me), Some((at, each))) = (running.me, self.place_of_bitmaps()) else {
            return Ok(());
        };
        let slot = NodeSlot(((range_of(&io.op).start - at) / each) as u16);
        let takes = running
            .line
            .mark
            .is_some_and(|mark| self.service.takes(mark, slot));
        let lost = !self.service.peers().any(|peer| peer == me);
        // Who gets a slot gets all bitmaps, before superblocks say so.
        let members = running.status.iter().flat_map(|status| &status.members);
        let found = members.clone().find(|member| member.id == io.member);
        let new = found.is_none_or(|member| member.role != MemberRole::InSync);
        let token = running.token && (new || self.is_vacant(slot));
        // Who moves the bitmaps of all says so in the first one, before and after.
        let mut firsts = self.disks.iter().filter_map(first_bitmap);
        let moves = running.token && (slot.0 == 0 || firsts.any(|first| first.is_moving()));
        if slot == me.slot && !lost && !moves {
            return self.judge_since(host, io, at + each * u64::from(slot.0));
        }
        if slot == me.slot || takes || lost || token || moves {
            return Ok(());
        }
        broken(
            Rule::Turn,
            format!("h{host}, {}, writes the bitmap of {slot}", me.slot),
        )
    }

    /// Before the first bit of a bitmap goes it says since when: by that one who has left, and may
    /// lack what it told of, is known not to come back by bits. `start`: where it begins.
    fn judge_since(&self, host: usize, io: &MemberIo, start: u64) -> Verdict {
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let status = running.status.as_ref();
        // Bits that come to stand for something else go, and are there all the same.
        let turns = |item: &Item| matches!(item.act, Act::Rechunk(..) | Act::Grow(..));
        let turned = self.plan.items.iter().any(turns);
        let Some(status) = status.filter(|_| !turned && self.drops_bits(host, io, start)) else {
            return Ok(());
        };
        let header = self.disks[disk_of(io.member)].durable().sector(start);
        let since = u64::from_le_bytes(header[32..40].try_into().expect("eight bytes"));
        for (number, one) in self.disks.iter().enumerate() {
            let known = status.members.iter().any(|one| disk_of(one.id) == number);
            let Some(found) = superblock(one).filter(|_| !known) else {
                continue;
            };
            let had = matches!(found.fields.own_role(), Role::Active(_));
            let events = found.fields.events;
            if had && events >= since {
                let text = format!(
                    "h{host} clears bits that d{number} lacks, which left at event {events}; its \
                     bitmap says that they are all there since {since}"
                );
                return broken(Rule::Clear, text);
            }
        }
        Ok(())
    }

    /// Whether a write of a bitmap takes bits away that all members in sync have. (Where one was
    /// filled there may be old ones.)
    fn drops_bits(&self, host: usize, io: &MemberIo, start: u64) -> bool {
        let IoOp::Write {
            offset_sectors,
            data,
            ..
        } = &io.op
        else {
            return false;
        };
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let members = running.status.iter().flat_map(|status| &status.members);
        let in_sync = members.filter(|member| member.role == MemberRole::InSync);
        let disks: Vec<usize> = in_sync.map(|member| disk_of(member.id)).collect();
        let new = data.iter().flat_map(|piece| piece.as_slice());
        let mut sectors = (*offset_sectors..).zip(0..slices_len(data) / 512);
        let mut new = new.copied();
        sectors.any(|(sector, _)| {
            let olds = disks
                .iter()
                .map(|disk| self.disks[*disk].durable().sector(sector));
            let olds: Vec<&[u8]> = olds.collect();
            let first = if sector == start { 256 } else { 0 };
            let bytes: Vec<u8> = new.by_ref().take(512).collect();
            let all = |at: usize| olds.iter().fold(0xff, |all, old| all & old[at]);
            !olds.is_empty() && (first..512).any(|at| all(at) & !bytes[at] != 0)
        })
    }

    /// Whether nobody who has loaded the array has this slot, or died with it.
    fn is_vacant(&self, slot: NodeSlot) -> bool {
        let dead = self.service.dead(slot).into_iter();
        let mut owners = self
            .service
            .peers()
            .chain(dead)
            .filter(|peer| peer.slot == slot);
        !owners.any(|peer| self.loaded.contains(&peer))
    }

    /// Whether a host counts on a disk.
    fn counts_on(&self, host: usize, disk: usize) -> bool {
        let running = self.hosts[host].array.as_ref();
        let status = running.and_then(|one| one.status.as_ref());
        status.is_none_or(|status| {
            let found = status.members.iter().find(|one| disk_of(one.id) == disk);
            found.is_some_and(|one| one.role != MemberRole::Faulty)
        })
    }

    /// S1, S5.
    fn judge_window(&self, host: usize, io: &MemberIo, walk: &[Range<u64>]) -> Verdict {
        let syncs = |purpose| matches!(purpose, Purpose::Resync | Purpose::Scrub);
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let lost = running
            .me
            .is_none_or(|me| !self.service.peers().any(|peer| peer == me));
        if syncs(io.purpose) && !running.resync && !lost {
            let text = format!("h{host} resyncs, and it is not its turn");
            return broken(Rule::Window, text);
        }
        let crosses = |other: &Range<u64>| {
            walk.iter()
                .any(|one| one.start < other.end && other.start < one.end)
        };
        let life = self.hosts[host].life;
        for (tag, other) in &self.flights {
            let mine = other.host == host && other.life == life;
            let meets = match syncs(io.purpose) {
                true => other.purpose == Purpose::Data && other.writes,
                false => syncs(other.purpose),
            };
            if mine || !meets || !other.walk.iter().any(crosses) {
                continue;
            }
            // What hangs on a disk that has failed is waited for by nobody, and read by nobody.
            let counts = self.counts_on(host, other.disk) && self.counts_on(other.host, other.disk);
            if counts && !lost {
                let text = format!(
                    "h{host} {:?} at {walk:?} meets {:?} of h{} at {:?} (I/O {tag})",
                    io.purpose, other.purpose, other.host, other.walk
                );
                return broken(Rule::Window, text);
            }
        }
        Ok(())
    }

    /// S4.
    fn judge_intent(&self, host: usize, io: &MemberIo, walk: &[Range<u64>]) -> Verdict {
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let (Some(status), Some(me)) = (&running.status, running.me) else {
            return Ok(());
        };
        for member in &status.members {
            let disk = disk_of(member.id);
            if member.role != MemberRole::InSync {
                continue;
            }
            let medium = self.disks[disk].durable();
            let Some((at, each)) = bitmaps(&self.disks[disk]) else {
                continue;
            };
            let start = at + each * u64::from(me.slot.0);
            let view = BitmapView::new(medium.sector(start), status.dev_sectors);
            let view = view.expect("bitmaps keep their superblocks");
            for piece in walk {
                let regions =
                    piece.start / view.chunk_sectors..=(piece.end - 1) / view.chunk_sectors;
                for region in regions {
                    let (sector, byte, mask) = place_of_bit(view, start, region);
                    if medium.sector(sector)[byte] & mask == 0 {
                        let text = format!(
                            "h{host}, {}, writes {:?} at {piece:?}: no bit of region {region} on \
                             d{disk}",
                            me.slot, io.op
                        );
                        return broken(Rule::Intent, text.chars().take(300).collect());
                    }
                }
            }
        }
        Ok(())
    }

    /// S3: who takes a slot does it when nothing of its owner lands any more.
    pub(super) fn judge_taking(&mut self) -> Verdict {
        for peer in self.service.take_taken() {
            if !self.fenced.contains(&peer) && !self.service.has_left(peer) {
                let text = format!("{} is taken over, and nobody has fenced it", peer.slot);
                return broken(Rule::Fenced, text);
            }
        }
        Ok(())
    }

    /// S7.
    pub(super) fn judge_size(&mut self, host: usize) -> Verdict {
        let Some(running) = self.hosts[host].array.as_ref() else {
            return Ok(());
        };
        let Some(status) = &running.status else {
            return Ok(());
        };
        let (shown, before) = (status.array_sectors, running.shown_sectors);
        if shown == before {
            return Ok(());
        }
        if shown < before {
            return broken(Rule::Size, format!("h{host} shows {shown} after {before}"));
        }
        // Who joins after all have died may find bitmaps of before: who takes one says anew what
        // it is for before anything else is written there.
        if before > 0 && !running.line.is_over() {
            self.judge_bitmaps(host)?;
        }
        // One that stands still may have been fenced meanwhile, and not know it.
        let lives: Vec<Peer> = self.service.peers().collect();
        let lives = |me: Option<Peer>| me.is_some_and(|me| lives.contains(&me));
        let others = self.hosts.iter().enumerate().filter(|(other, one)| {
            let me = one.array.as_ref().and_then(|running| running.me);
            *other != host && one.serves() && lives(me)
        });
        let most = others
            .filter_map(|(_, one)| Some(one.array.as_ref()?.shown_sectors))
            .max();
        // While somebody updates something that may be the size, and all have followed.
        let updates = self
            .hosts
            .iter()
            .filter_map(|one| one.array.as_ref())
            .any(|one| one.token);
        if before == 0 && !updates && most.is_some_and(|most| shown > most) {
            let text = format!("h{host} joins and shows {shown}, where others show {most:?}");
            return broken(Rule::Size, text);
        }
        let running = self.hosts[host].array.as_mut().expect("just seen");
        running.shown_sectors = shown;
        Ok(())
    }

    /// What superblocks and the bitmaps of these slots say, on all disks that are in sync for all.
    fn judge_sizes(&self, host: usize, of: impl Fn(NodeSlot) -> bool) -> Verdict {
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let Some(status) = &running.status else {
            return Ok(());
        };
        let shown = status.array_sectors;
        for member in &status.members {
            let disk = disk_of(member.id);
            let mut hosts = 0..self.hosts.len();
            let counts = hosts.all(|host| self.counts_on(host, disk));
            let found = superblock(&self.disks[disk]);
            let Some(found) = found.filter(|_| counts && member.role == MemberRole::InSync) else {
                continue;
            };
            let recorded = found.fields.size_sectors;
            if recorded < status.dev_sectors {
                let text = format!("h{host} shows {shown}, and d{disk} says {recorded} of each");
                return broken(Rule::Size, text);
            }
            for (slot, size) in self.sizes_of_bitmaps(disk) {
                if size < status.dev_sectors && of(slot) {
                    let text = format!(
                        "h{host} shows {shown}, and the bitmap of {slot} on d{disk} is for {size}"
                    );
                    return broken(Rule::Size, text);
                }
            }
        }
        Ok(())
    }

    /// In the end the bitmaps of all nodes are for the size that is shown.
    pub(super) fn judge_bitmaps(&self, host: usize) -> Verdict {
        let taken = |slot| !self.is_vacant(slot) && self.service.dead(slot).is_none();
        self.judge_sizes(host, taken)
    }

    /// What the bitmaps of all nodes on a disk say that they are for.
    fn sizes_of_bitmaps(&self, disk: usize) -> Vec<(NodeSlot, u64)> {
        let Some((at, each)) = bitmaps(&self.disks[disk]) else {
            return Vec::new();
        };
        let nodes = 0..self.plan.capacity;
        let size = |node: u16| {
            let header = self.disks[disk].visible(at + each * u64::from(node))?;
            Some((NodeSlot(node), walk_in(header)))
        };
        nodes.filter_map(size).collect()
    }

    /// The regions that the bitmap of a slot calls dirty, as a disk would give them.
    pub(super) fn bits(&self, disk: usize, slot: u16) -> Vec<u64> {
        let Some((at, each)) = bitmaps(&self.disks[disk]) else {
            return Vec::new();
        };
        let start = at + each * u64::from(slot);
        let found = &self.disks[disk];
        let view = found
            .visible(start)
            .and_then(|header| BitmapView::new(header, walk_in(header)));
        let Some(view) = view else {
            return Vec::new();
        };
        let set = |region: &u64| {
            let (sector, byte, mask) = place_of_bit(view, start, *region);
            found
                .visible(sector)
                .is_some_and(|bytes| bytes[byte] & mask != 0)
        };
        (0..view.bits).filter(set).collect()
    }

    /// Who leaves leaves nothing under way, and a clean slot if it says so.
    pub(super) fn judge_leaving(&self, host: usize, command: &ServiceCommand) -> Verdict {
        let ServiceCommand::Leave(how) = command else {
            return Ok(());
        };
        let life = self.hosts[host].life;
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let (Some(me), false) = (running.me, running.line.is_over()) else {
            return Ok(());
        };
        let mine = self.flights.values();
        let mut mine = mine.filter(|one| one.host == host && one.life == life && one.writes);
        let left = mine.find(|one| self.counts_on(host, one.disk));
        if let Some(left) = left {
            return broken(Rule::Lifetime, format!("h{host} leaves behind {left:?}"));
        }
        if *how == Leave::Clean {
            let members = running.status.iter().flat_map(|status| &status.members);
            for member in members.filter(|member| member.role == MemberRole::InSync) {
                let disk = disk_of(member.id);
                let bits = self.bits(disk, me.slot.0);
                if !bits.is_empty() {
                    let text = format!("h{host} leaves clean, with bits {bits:?} on d{disk}");
                    return broken(Rule::Clear, text);
                }
            }
        }
        Ok(())
    }

    /// L1: who has nothing to wait for but itself answers in time. A node that waits for another
    /// one before it answers is expelled sooner or later, which ends the wait, and hides it.
    pub(super) fn judge_expelling(&self, host: usize, command: &ServiceCommand) -> Verdict {
        let ServiceCommand::Expel(peer) = command else {
            return Ok(());
        };
        let running = |one: &Host| one.array.as_ref().is_some_and(|one| one.me == Some(*peer));
        let Some(other) = self.hosts.iter().position(running) else {
            return Ok(()); // It has died.
        };
        let slow = self.now < self.slow_until;
        let apart = [host, other].into_iter().any(|host| {
            let one = &self.hosts[host];
            let last = one.paused_until.max(one.isolated_until);
            last > Instant(0) && self.now < last + LONG
        });
        let found = self.hosts[other].array.as_ref().expect("it runs");
        let lives = self.service.peers().any(|one| one == *peer);
        if slow || apart || !lives || !found.ready || found.lost {
            return Ok(());
        }
        let text = format!("h{host} expels h{other}, which was there all the time: {found:?}");
        broken(Rule::Liveness, text)
    }

    /// S6: who acknowledges that superblocks were written has read them: the sender answers hosts,
    /// and removes disks, as if it had. Who is leaving uses none of them any more.
    pub(super) fn judge_reading(&self, host: usize, command: &ServiceCommand) -> Verdict {
        let ServiceCommand::Ack(id, AckStatus::Done) = command else {
            return Ok(());
        };
        let running = self.hosts[host].array.as_ref().expect("it runs");
        let (Some(good), Some(status)) = (running.told.get(id), &running.status) else {
            return Ok(());
        };
        let found = self.disks.iter().filter_map(superblock);
        let mut named = found.filter(|one| one.fields.dev_number == good.0);
        let written = named.next().map_or(0, |one| one.fields.events);
        if running.stopping || named.next().is_some() || status.events.0 >= written {
            return Ok(());
        }
        let text = format!(
            "h{host} says that it has read superblocks with {written} events, and is at {}",
            status.events.0
        );
        broken(Rule::Size, text)
    }

    /// Who is over has answered everybody.
    pub(super) fn judge_over(&self, host: usize) -> Verdict {
        let running = self.hosts[host].array.as_ref().expect("it runs");
        if running.requests.is_empty() && running.controls.is_empty() {
            return Ok(());
        }
        let text = format!(
            "h{host} is over and has not answered {:?} {:?}",
            running.requests, running.controls
        );
        broken(Rule::Liveness, text)
    }
}
