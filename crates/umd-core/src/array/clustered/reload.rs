//! Superblocks as another node has written them.
//!
//! ```text
//!   Reload --(own update over)--> read all that work --> judged --> adopted -> Done
//!                                                          |
//!                                                          '--> Cannot(Read | Follow): as before
//! ```
//!
//! The device that was named says who has which role; what each member holds its own superblock
//! says, if it is of the same update. Without a name (somebody died) the newest counts. Failures
//! that are known only here stay known, and are recorded by this node's own update; those that are
//! read here are, too: no write is answered without a member before all others know that it failed.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use umd_format::v1::Features;
use umd_format::{Role, SuperblockV1};

use super::drain::Drain;
use super::legs::may_differ;
use super::newcomer::Candidate;
use super::shared::RELOAD;
use crate::array::Array;
use crate::cluster::{Answer, Cannot, Desk, DeviceNumber};
use crate::member::{Io, Member, Owner, State};
use crate::value::{Command, Events, Exhibit, IoDone, IoError, MemberId, Notice, Purpose, Slot};

/// Superblocks are looked for in so many sectors.
pub(super) const SUPER_SECTORS: u64 = 8;

/// A reload under way.
#[derive(Debug)]
pub(super) struct Reload {
    from: Option<DeviceNumber>,
    use_spares: bool,
    at: At,
    found: BTreeMap<MemberId, SuperblockV1>,
    /// A disk that is new to this node.
    candidate: Option<Candidate>,
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    Waiting,
    Reading(usize),
    /// New members get this node's bitmap first.
    Copying,
}

/// What a member is from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Failed,
    InSync(Slot),
    Filled {
        slot: Slot,
        done_sectors: u64,
        /// Another member serves in its slot until it is full.
        replaces: bool,
    },
    Spare,
}

impl Reload {
    pub(super) fn new(
        from: Option<DeviceNumber>,
        use_spares: bool,
        candidate: Option<Candidate>,
    ) -> Reload {
        Reload {
            from,
            use_spares,
            at: At::Waiting,
            found: BTreeMap::new(),
            candidate,
        }
    }
}

impl Reload {
    /// Whether what superblocks say now counts.
    pub(super) fn has_begun(&self) -> bool {
        self.at != At::Waiting
    }

    /// Whether this disk is the candidate.
    pub(super) fn looks_at(&self, id: MemberId) -> bool {
        self.candidate.as_ref().is_some_and(|one| one.id() == id)
    }
}

impl Array {
    pub(super) fn maintain_reload(&mut self) -> bool {
        let (rests, cut_off) = (self.metadata.rests(), self.io.is_cut_off());
        let shared = self.shared_mut();
        let (writing, unwritten) = (shared.update.is_writing(), shared.unwritten.is_some());
        let copying = self.may_write() && !self.bitmap.has_events(Events(0));
        let Some(reload) = &self.shared_mut().reload else {
            return false;
        };
        match reload.at {
            _ if cut_off => self.reload_over(Err(Cannot::Read)),
            At::Waiting if unwritten => return false,
            At::Waiting | At::Reading(0) if writing || !rests => return false,
            At::Waiting => self.begin_reload(),
            At::Reading(0) => match self.judge() {
                Ok(verdicts) => self.adopt(verdicts),
                Err(why) => {
                    self.seek_strangers();
                    self.reload_over(Err(why));
                }
            },
            At::Reading(_) => return false,
            At::Copying if copying => return false,
            At::Copying => self.reload_over(Ok(())),
        }
        true
    }

    fn reload_over(&mut self, result: Result<(), Cannot>) {
        let shared = self.shared_mut();
        let reload = shared.reload.take();
        let candidate = reload.and_then(|reload| reload.candidate);
        if let Some(candidate) = candidate {
            self.io.out.push(Command::Release(candidate.id()));
        }
        self.shared_mut().answer(
            Desk::Inbox,
            match result {
                Ok(()) => Answer::Done,
                Err(why) => Answer::Cannot(why),
            },
        );
    }

    fn begin_reload(&mut self) {
        let working = self.members.iter().filter(|m| m.state != State::Faulty);
        let places = working.map(|m| (m.id, m.superblock.fields.super_offset_sectors));
        let places: Vec<(MemberId, u64)> = places.collect();
        for (id, sector) in &places {
            let owner = Owner::Cluster { tag: RELOAD };
            self.io
                .read(*id, *sector, SUPER_SECTORS, Purpose::Super, owner);
        }
        let reload = self.shared_mut().reload.as_mut().expect("it is due");
        let candidate = reload.candidate.take();
        reload.at = At::Reading(places.len() + usize::from(candidate.is_some()));
        if let Some(candidate) = candidate {
            self.read_candidate(&candidate);
            let reload = self.shared_mut().reload.as_mut();
            reload.expect("it is due").candidate = Some(candidate);
        }
    }

    pub(super) fn superblock_read(&mut self, member: MemberId, result: Result<IoDone, IoError>) {
        let reload = self.shared_mut().reload.as_mut();
        let candidate =
            reload.and_then(|reload| reload.candidate.take_if(|one| one.id() == member));
        if let Some(mut candidate) = candidate {
            let read = Io::read_result(result).ok().map(|buf| buf.freeze());
            self.candidate_read(&mut candidate, read.as_ref().map(|buf| buf.as_slice()));
            let reload = self.shared_mut().reload.as_mut().expect("just there");
            let At::Reading(left) = &mut reload.at else {
                unreachable!("nothing is read at {:?}", reload.at);
            };
            *left -= 1;
            reload.candidate = Some(candidate);
            return;
        }
        let found = self.members.get(member).and_then(|known| {
            let buf = Io::read_result(result).ok()?;
            let format = known.superblock.format();
            SuperblockV1::load(buf.freeze().as_slice(), format, known.size_sectors).ok()
        });
        let Some(reload) = &mut self.shared_mut().reload else {
            return; // It was answered when the cluster was lost.
        };
        let At::Reading(left) = &mut reload.at else {
            unreachable!("nothing is read at {:?}", reload.at);
        };
        *left -= 1;
        reload.found.extend(found.map(|found| (member, found)));
    }

    /// The superblock that tells of all.
    pub(super) fn reference(&self) -> Option<&SuperblockV1> {
        let shared = self.shared.as_ref().expect("in a cluster");
        let reload = shared.reload.as_ref().expect("superblocks were read");
        match reload.from {
            Some(number) => {
                let named = self.members.iter().find(|m| m.number() == number.0);
                // It may have failed for this node, which has not told so yet. All that was
                // written then says the same.
                if named.is_some_and(|member| member.state == State::Faulty) {
                    let newest = reload.found.values().max_by_key(|one| one.fields.events);
                    return newest.filter(|one| one.fields.events > self.metadata.events().0);
                }
                named.and_then(|member| reload.found.get(&member.id))
            }
            None => {
                let in_sync = |id: &MemberId| {
                    let member = self.members.get(*id);
                    member.is_some_and(|m| m.state == State::InSync)
                };
                // One that has its place here already, and nowhere else, tells of itself only.
                let tells =
                    |one: &SuperblockV1| !one.fields.features.contains(Features::REPLACEMENT);
                let held = reload.found.iter();
                let held = held.filter(|(id, one)| in_sync(id) && tells(one));
                // Who died while it made members even has left some that know of a failure, and
                // others with the same events that do not: as whoever starts the array takes it.
                let active =
                    |one: &SuperblockV1| one.fields.roles.iter().filter(|r| is_active(**r)).count();
                let newest = |one: &&SuperblockV1| (one.fields.events, Reverse(active(one)));
                held.map(|(_, one)| one).max_by_key(newest)
            }
        }
    }

    /// What each member is by the superblocks found, if that can be followed.
    fn judge(&self) -> Result<Vec<(MemberId, Verdict)>, Cannot> {
        let shared = self.shared.as_ref().expect("in a cluster");
        let reload = shared.reload.as_ref().expect("superblocks were read");
        let reference = self.reference().ok_or(Cannot::Read)?;
        let known = self.members.iter().next().ok_or(Cannot::Follow)?;
        if !follows(known, reference) || reference.fields.events < self.metadata.events().0 {
            return Err(Cannot::Follow);
        }
        self.judge_size(reference, reload.from.is_some())?;
        self.judge_legs(reference)?;
        let candidate = reload.candidate.as_ref();
        let told = reload.from.is_some();
        if candidate.is_some_and(|one| told && one.is_another(reference)) {
            return Err(Cannot::SeeDisk);
        }
        let newcomer = candidate.and_then(|one| one.number(reference));
        let verdicts: Result<Vec<_>, Cannot> = self
            .members
            .iter()
            .map(|m| Ok((m.id, self.verdict(m, reference, reload.found.get(&m.id))?)))
            .collect();
        let verdicts = verdicts?;
        let held = |slot: u16| {
            let serves = |(id, verdict): &(MemberId, Verdict)| match verdict {
                Verdict::InSync(at) => at.0 == slot,
                Verdict::Keep => {
                    let member = self.members.get(*id);
                    member.is_some_and(|m| m.state == State::InSync && m.slot == Some(Slot(slot)))
                }
                _ => false,
            };
            verdicts.iter().any(serves)
        };
        let known = |number: u32| {
            let here = self.members.iter().any(|m| m.number() == number);
            here || shared.absent.contains(&number) || newcomer == Some(number)
        };
        let roles = reference.fields.roles.iter().zip(0u32..);
        let mut strangers = roles.filter(|(role, number)| is_active(**role) && !known(*number));
        if !self.geometry.survives(held) || strangers.next().is_some() {
            return Err(Cannot::Follow);
        }
        Ok(verdicts)
    }

    fn verdict(
        &self,
        member: &Member,
        reference: &SuperblockV1,
        own: Option<&SuperblockV1>,
    ) -> Result<Verdict, Cannot> {
        // Only one that serves is ever replaced.
        let serves = |m: &Member, slot: Slot| {
            let role = reference.fields.role_of(m.number());
            m.id != member.id && m.state == State::InSync && role == Role::Active(slot.0)
        };
        let replaces = |slot: Slot| self.members.iter().any(|m| serves(m, slot));
        let verdict = verdict(member, reference, own, replaces)?;
        Ok(match verdict {
            // M70 (db5e653d7c9f): a node that read of a disk's new slot activated it by itself, as
            // one that nothing has to be copied to.
            Verdict::Filled {
                slot,
                replaces: false,
                ..
            } if member.state == State::Spare && self.io.museum.on(Exhibit::M70) => {
                Verdict::InSync(slot)
            }
            verdict => verdict,
        })
    }

    /// A disk that another node added is one of the members, or is let go.
    fn adopt_newcomer(&mut self) -> Option<(MemberId, Verdict)> {
        let reference = self.reference().expect("it was judged").clone();
        let shared = self.shared_mut();
        let reload = shared.reload.as_mut().expect("it was judged");
        let candidate = reload.candidate.take()?;
        let id = candidate.id();
        // Its adder is there, and has not come to writing it.
        let early = reload.from.is_none() && !reload.use_spares;
        if early && candidate.number(&reference).is_none() {
            shared.candidate = Some(candidate);
            return None;
        }
        let superblock = self.admit(candidate, &reference)?;
        let member = self.members.get(id).expect("just taken in");
        let verdict = self.verdict(member, &reference, Some(&superblock));
        // Who comes back says so; the superblock is that of its return, or nothing is known.
        let fields = &superblock.fields;
        let by_bits = fields.events == reference.fields.events
            && fields.features.contains(Features::RECOVERY_BITMAP);
        if by_bits && matches!(verdict, Ok(Verdict::Filled { .. })) {
            self.sync.guide(id);
        }
        let reload = self.shared_mut().reload.as_mut().expect("it was judged");
        reload.found.insert(id, superblock);
        self.notify(Notice::Changed);
        Some((id, verdict.unwrap_or(Verdict::Keep)))
    }

    fn adopt(&mut self, mut verdicts: Vec<(MemberId, Verdict)>) {
        verdicts.extend(self.adopt_newcomer());
        let reference = self.reference().expect("it was judged").clone();
        self.adopt_size(&reference);
        let shared = self.shared_mut();
        let reload = shared.reload.as_mut().expect("it was judged");
        reload.at = At::Copying;
        let found = std::mem::take(&mut reload.found);
        shared.spares_wait = !reload.use_spares;
        self.even_sizes(&found);
        let more = self.adopt_legs(&reference, true);
        let handed_over: Vec<MemberId> = self.handed_over(&verdicts).collect();
        let changed = verdicts
            .iter()
            .filter(|(_, verdict)| *verdict != Verdict::Keep)
            .map(|(id, verdict)| self.apply_verdict(*id, *verdict, handed_over.contains(id)))
            .fold(more, |changed, one| changed | one);
        let changed = self.adopt_legs(&reference, false) | changed;
        self.even_legs(&found);
        for member in self.members.iter_mut() {
            if let Some(one) = found.get(&member.id) {
                member.superblock.fields.events = one.fields.events;
                member.superblock.fields.corrected_reads = one.fields.corrected_reads;
            }
        }
        let most = found.values().map(|one| one.fields.events).max();
        let most = most.unwrap_or(0);
        let in_sync = |id: &MemberId| {
            let member = self.members.get(*id);
            member.is_some_and(|m| m.state == State::InSync)
        };
        // Who has just been found to have failed keeps what it carries.
        let mut held = found.iter().filter(|(id, _)| in_sync(id));
        let even = held.all(|(_, one)| one.fields.events == most);
        self.metadata.adopt(Events(most), even);
        // Who wrote this waits until all have followed, and nobody else hears when that is: what is
        // answered here without that member would be missing where it is still read. And who died
        // may have told some members only, and another node, which does not see those, may be about
        // to record the opposite with the same events. So it is recorded again.
        let failed = |(_, verdict): &(MemberId, Verdict)| *verdict == Verdict::Failed;
        let answers = self
            .shared_mut()
            .drain
            .is_none_or(|drain| drain == Drain::Writes);
        if answers && verdicts.iter().any(failed) {
            self.metadata.note_fault();
        }
        if changed {
            self.publish();
            self.cover_recovering();
        }
        // Its adder has nothing to begin with it.
        let slots = 0..self.info.raid_disks;
        let needed = slots
            .map(Slot)
            .any(|slot| self.members.in_slot(slot).is_none());
        if !needed && !self.members.any_filled(true) {
            self.shared_mut().spares_wait = false;
        }
    }

    /// Members that others have replaced, and who is full now.
    fn handed_over(&self, verdicts: &[(MemberId, Verdict)]) -> impl Iterator<Item = MemberId> {
        let judged = |id: MemberId, as_what: fn(&Verdict) -> bool| {
            let mut verdicts = verdicts.iter();
            verdicts.any(|(other, verdict)| *other == id && as_what(verdict))
        };
        let pairs = self.members.pairs().map(|(old, new)| (old.id, new.id));
        pairs.filter_map(move |(old, new)| {
            let gone = judged(old, |verdict| *verdict == Verdict::Failed);
            let full = judged(new, |verdict| matches!(verdict, Verdict::InSync(_)));
            (gone && full).then_some(old)
        })
    }

    /// Returns whether requests have to see it.
    fn apply_verdict(&mut self, id: MemberId, verdict: Verdict, handed_over: bool) -> bool {
        let member = self.members.get_mut(id).expect("it was judged");
        let before = (member.state, member.slot);
        match verdict {
            Verdict::Keep => return false,
            Verdict::Failed if handed_over => {
                return self.adopt_replaced(id);
            }
            Verdict::Failed => {
                return self.adopt_failure(id);
            }
            Verdict::Spare => {
                (member.state, member.slot) = (State::Spare, None);
                member.replacement = false;
                self.cover.forget(id);
                self.sync.unguide(id);
            }
            Verdict::InSync(slot) => {
                (member.state, member.slot) = (State::InSync, Some(slot));
                member.replacement = false;
                self.cover.forget(id);
            }
            Verdict::Filled {
                slot,
                done_sectors,
                replaces,
            } => {
                member.slot = Some(slot);
                member.replacement = replaces;
                member.state = State::Recovering {
                    checkpoint_sectors: done_sectors,
                };
                if before.0 == State::InSync {
                    self.cover.forget(id);
                }
                // It takes writes as far as it did: a checkpoint says nothing of what lies behind.
                self.cover.raise_rebuilt(id, done_sectors);
            }
        }
        let member = self.members.get(id).expect("it was judged");
        let now = (member.state, member.slot);
        let kind = |state: State| (state == State::InSync, state == State::Spare);
        if !matches!(before.0, State::InSync | State::Recovering { .. }) && member.is_active() {
            self.bitmap.want_copy(id);
        }
        if now.0 == State::InSync && before.0 != State::InSync {
            self.notify(Notice::Activated(id));
        }
        (kind(before.0), before.1) != (kind(now.0), now.1)
    }

    /// Another node has recorded that this member was replaced: who has its place has had every
    /// write that it got.
    fn adopt_replaced(&mut self, id: MemberId) -> bool {
        let member = self.members.get_mut(id).expect("it was judged");
        member.state = State::Faulty;
        member.want_replacement = false;
        member.fault = Some("it was replaced".into());
        let text = format!(
            "{} was replaced by another node of the cluster",
            member.name
        );
        self.io.hand_over(id);
        self.notify(Notice::Message(text));
        true
    }

    /// Another node has recorded that this member failed.
    fn adopt_failure(&mut self, id: MemberId) -> bool {
        let why = "another node of the cluster has failed it";
        let member = self.members.get_mut(id).expect("it was judged");
        let active = member.is_active();
        let slot = member.slot.filter(|_| active && !member.replacement);
        member.state = State::Faulty;
        member.fault = Some(why.into());
        (member.replacement, member.want_replacement) = (false, false);
        if !active {
            (member.slot, member.meant_for) = (None, None);
        }
        if let Some(slot) = slot {
            self.inherit(slot);
        }
        self.cover.forget(id);
        self.io.retire(id);
        self.notify(Notice::Failed {
            member: id,
            why: why.into(),
        });
        active
    }
}

fn is_active(role: Role) -> bool {
    matches!(role, Role::Active(_))
}

/// Whether a superblock describes the array as it is run here.
fn follows(known: &Member, found: &SuperblockV1) -> bool {
    let (a, b) = (&known.superblock.fields, &found.fields);
    let alien = [
        Features::RESHAPE_ACTIVE,
        Features::JOURNAL,
        Features::REPLACEMENT,
    ];
    a.set_uuid == b.set_uuid
        && a.level == b.level
        && a.layout == b.layout
        && a.chunk_sectors == b.chunk_sectors
        && may_differ(&known.superblock, found)
        && a.bitmap_offset_raw == b.bitmap_offset_raw
        && b.features.contains(Features::CLUSTERED)
        && !alien.iter().any(|one| b.features.contains(*one))
}

/// What a member is by the superblock that tells of all, and its own.
fn verdict(
    member: &Member,
    reference: &SuperblockV1,
    own: Option<&SuperblockV1>,
    replaces: impl Fn(Slot) -> bool,
) -> Result<Verdict, Cannot> {
    let role = reference.fields.role_of(member.number());
    if member.state == State::Faulty {
        return Ok(Verdict::Keep);
    }
    let slot = match role {
        Role::Faulty => return Ok(Verdict::Failed),
        Role::Active(slot) => Slot(slot),
        // Who wrote this began without it.
        Role::Spare if member.state == State::InSync => return Ok(Verdict::Failed),
        Role::Spare if member.state == State::Spare => return Ok(Verdict::Keep),
        Role::Spare => return Ok(Verdict::Spare),
        _ => return Err(Cannot::Follow),
    };
    let same_slot = member.slot == Some(slot);
    let filled = |done_sectors| Verdict::Filled {
        slot,
        done_sectors,
        replaces: replaces(slot),
    };
    let current = own.filter(|one| one.fields.events == reference.fields.events);
    let from = current.map(|one| one.fields.recovery_offset_sectors());
    Ok(match (from, member.state) {
        (Some(None), State::InSync) | (None, State::InSync) if same_slot => Verdict::Keep,
        (Some(None), _) => Verdict::InSync(slot),
        (Some(Some(from)), _) => filled(from),
        (None, State::Recovering { checkpoint_sectors }) if same_slot => filled(checkpoint_sectors),
        (None, _) => filled(0),
    })
}
