//! What members refused to write, and what their logs may say of it.
//!
//! ```text
//!   a member in sync, with a log, refuses sectors of a write
//!      |
//!      +-- takes them later: nothing is left of it
//!      +-- gives them when it is asked later, where they were written anew as they could not be
//!      |   read: nor here
//!      +-- its log names them, durably          \
//!      +-- the member has failed                 } before a write of them is answered,
//!                                                  but for one that lags on that member
//!
//!   a log gets no sector that its member has not refused, or that others do not hold
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use umd_core::array::{IoOp, MemberIo, Purpose, Status};
use umd_core::value::{IoId, MemberId};

use super::{MemberView, Monitor, Rule, Scene, Verdict, broken};
use crate::disk::SimDisk;
use crate::layout::Place;
use crate::metaview::{SuperView, is_logged_bad, is_stored_bad};

/// By member: sectors of the device that it took no more.
#[derive(Debug, Clone, Default)]
pub(super) struct Refused {
    any: Sectors,
    /// Those that a host's write had for it, which is under way as long as this is not settled.
    hosts: Sectors,
    /// Those that were only to be written anew, as they could not be read, with what lay there; and
    /// the last I/O of all that was on its way when they were refused.
    anew: BTreeMap<MemberId, BTreeMap<u64, IoId>>,
}

type Sectors = BTreeMap<MemberId, BTreeSet<u64>>;

fn has(sectors: &Sectors, member: MemberId, sector: u64) -> bool {
    let sectors = sectors.get(&member);
    sectors.is_some_and(|sectors| sectors.contains(&sector))
}

impl Refused {
    fn holds(&self, member: MemberId, sector: u64) -> bool {
        has(&self.any, member, sector)
    }

    /// Whether a host's write there has been refused, and not been written since.
    pub fn is_of_a_host(&self, member: MemberId, sector: u64) -> bool {
        has(&self.hosts, member, sector)
    }
}

/// Sectors that a log of these bytes names.
fn named(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let entries = bytes.chunks_exact(8).map(|entry| {
        let entry: [u8; 8] = entry.try_into().expect("eight bytes");
        u64::from_le_bytes(entry)
    });
    let entries = entries.take_while(|entry| *entry != u64::MAX);
    entries.flat_map(|entry| entry >> 10..(entry >> 10) + (entry & 0x3ff))
}

impl Monitor {
    /// A member ended a write of data with a media error. Whether that is the trouble of these
    /// sectors only: it is in sync, and has a log to name them.
    pub fn note_refused(
        &mut self,
        status: &Status,
        disks: &[SimDisk],
        (member, range, purpose): (MemberId, &Range<u64>, Purpose),
    ) -> bool {
        let Some((_, _, view)) = self.in_sync(status).find(|(id, ..)| *id == member) else {
            return false;
        };
        let there = disks[view.disk].visible(view.super_sector);
        let log = there.and_then(SuperView::new).map(SuperView::bad_block_log);
        if log.is_none_or(|(offset, ..)| offset == 0) || !self.is_redundant() {
            return false;
        }
        let anew = self.refused.anew.entry(member).or_default();
        match purpose {
            Purpose::Rewrite => {
                let known = self.refused.any.get(&member);
                let fresh = |at: &u64| known.is_none_or(|known| !known.contains(at));
                let last = self.last_io;
                anew.extend(range.clone().filter(fresh).map(|at| (at, last)));
            }
            _ => anew.retain(|at, _| !range.contains(at)),
        }
        let all = match purpose {
            Purpose::Data => [&mut self.refused.any, &mut self.refused.hosts]
                .into_iter()
                .collect(),
            _ => vec![&mut self.refused.any],
        };
        for sectors in all {
            sectors.entry(member).or_default().extend(range.clone());
        }
        true
    }

    /// Whether any member refused what it has not taken since.
    pub fn has_refusals(&self) -> bool {
        self.refused.any.values().any(|sectors| !sectors.is_empty())
    }

    /// A member gave what it was asked for by this I/O. Of what it has refused since it was asked
    /// that says nothing.
    pub fn note_given(&mut self, io: IoId, member: MemberId, range: &Range<u64>) {
        let Some(anew) = self.refused.anew.get_mut(&member) else {
            return;
        };
        let given = anew.range(range.clone());
        let given = given.filter(|(_, last)| **last < io);
        let given: Vec<u64> = given.map(|(at, _)| *at).collect();
        anew.retain(|at, _| !given.contains(at));
        if let Some(any) = self.refused.any.get_mut(&member) {
            any.retain(|at| !given.contains(at));
        }
    }

    /// A member took a write of data.
    pub fn note_taken(&mut self, member: MemberId, range: &Range<u64>) {
        let refused = &mut self.refused;
        for sectors in [&mut refused.any, &mut refused.hosts] {
            if let Some(sectors) = sectors.get_mut(&member) {
                sectors.retain(|at| !range.contains(at));
            }
        }
        if let Some(anew) = refused.anew.get_mut(&member) {
            anew.retain(|at, _| !range.contains(at));
        }
    }

    /// Who lies in one row with a sector of a member, or has a copy of it.
    fn fellows<'a>(
        &'a self,
        scene: Scene<'a>,
        slot: u16,
        relative_sector: u64,
    ) -> Vec<(MemberId, &'a MemberView, u64)> {
        let place = Place {
            slot,
            relative_sector,
        };
        let Some(walk) = self.geometry.walk_at(place) else {
            return Vec::new();
        };
        let places = self.geometry.walk_places(walk);
        let at = |slot: u16| places.iter().find(|place| place.slot == slot);
        let columns = self.in_sync(scene.status);
        let columns = columns.filter_map(|(id, slot, view)| {
            let place = at(slot)?;
            let at = self
                .geometry
                .on_device(view.data_offset, place.relative_sector);
            Some((id, view, at))
        });
        columns.collect()
    }

    /// The log of a member is written.
    pub(super) fn check_log(
        &self,
        scene: Scene<'_>,
        view: &MemberView,
        io: &MemberIo,
        what: &dyn fmt::Display,
    ) -> Verdict {
        let IoOp::Write { data, .. } = &io.op else {
            return Ok(());
        };
        let whole = Monitor::durable_super(view, scene.disks);
        let whole = whole.is_some_and(|sb| sb.recovery_offset().is_none());
        let slot = self.in_sync(scene.status).find(|(id, ..)| *id == io.member);
        let Some((_, slot, _)) = slot.filter(|_| whole) else {
            return Ok(());
        };
        let bytes: Vec<u8> = data
            .iter()
            .flat_map(|part| part.as_slice().to_vec())
            .collect();
        let disk = &scene.disks[view.disk];
        for at in named(&bytes) {
            if is_logged_bad(disk, view.super_sector, at, at + 1) {
                continue;
            }
            if !self.refused.holds(io.member, at) {
                let text = format!("{what}: names sector {at}, which was not refused");
                return broken(Rule::Refused, text);
            }
            let relative = self.geometry.relative_of(view.data_offset, at);
            let Some(relative) = relative.filter(|_| self.failed.is_empty()) else {
                continue;
            };
            let fellows = self.fellows(scene, slot, relative);
            let holds = |(id, other, there): &&(MemberId, &MemberView, u64)| {
                let disk = &scene.disks[other.disk];
                *id != io.member
                    && !self.refused.holds(*id, *there)
                    && !is_logged_bad(disk, other.super_sector, *there, *there + 1)
            };
            let held = fellows.iter().filter(holds).count();
            let needed = match self.geometry.is_mirror() {
                true => 1,
                false => usize::from(self.geometry.slots - self.geometry.redundancy()),
            };
            if held < needed {
                let text = format!("{what}: names sector {at}, which only {held} others hold");
                return broken(Rule::Refused, text);
            }
        }
        Ok(())
    }

    /// A write of these array sectors is answered well: who refused one of them says so.
    pub fn check_refused(&self, scene: Scene<'_>, request: u64, sectors: &[u64]) -> Verdict {
        if !self.has_refusals() {
            return Ok(());
        }
        let what = format_args!("answer to r{request}");
        let places = sectors.iter().flat_map(|sector| {
            let places = self.geometry.places(*sector);
            places.into_iter().map(|place| (*sector, place))
        });
        for (sector, place) in places {
            for (id, view, at) in self.fellows(scene, place.slot, place.relative_sector) {
                let silent = !is_stored_bad(&scene.disks[view.disk], view.super_sector, at);
                if silent && self.refused.holds(id, at) {
                    // It is being written there, and is not waited for.
                    if self.may_lag(scene, view, (sector, at), &what)? {
                        continue;
                    }
                    let text = format!("{what}: {id:?} refused sector {at}, and its log is silent");
                    return broken(Rule::Refused, text);
                }
            }
        }
        Ok(())
    }

    /// A write of these array sectors is answered well: each of them can be had, from where it
    /// lies or from others, counted sector by sector. Where another request writes beside (`alone`
    /// has those where none does), what is refused and in no log is that one's: it tries again.
    pub fn check_given_back(
        &self,
        scene: Scene<'_>,
        request: u64,
        (sectors, alone): (&[u64], &[u64]),
    ) -> Verdict {
        for &sector in sectors {
            let is_alone = alone.binary_search(&sector).is_ok();
            let places = self.geometry.places(sector);
            let first = places.first().expect("a sector lies somewhere");
            let fellows = self.fellows(scene, first.slot, first.relative_sector);
            let good = |(id, view, at): &(MemberId, &MemberView, u64)| {
                let disk = &scene.disks[view.disk];
                let logged = is_logged_bad(disk, view.super_sector, *at, at + 1);
                let refused = is_alone && self.refused.holds(*id, *at);
                !logged && !refused
            };
            let slots: BTreeSet<u16> = places.iter().map(|place| place.slot).collect();
            let own = self
                .in_sync(scene.status)
                .filter(|(_, slot, _)| slots.contains(slot));
            let own: BTreeSet<MemberId> = own.map(|(id, ..)| id).collect();
            let held = fellows.iter().filter(|one| good(one));
            let held: Vec<MemberId> = held.map(|(id, ..)| *id).collect();
            let needed = match self.geometry.is_mirror() {
                true => 1,
                false => usize::from(self.geometry.slots - self.geometry.redundancy()),
            };
            if held.len() < needed && !held.iter().any(|id| own.contains(id)) {
                let text = format!("answer to r{request}: only {held:?} hold sector {sector}");
                return broken(Rule::Refused, text);
            }
        }
        Ok(())
    }
}
