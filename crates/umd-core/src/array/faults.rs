//! Members fail, spares step in.

use umd_format::Role;
use umd_format::v1::{DeviceFlags, Features};

use super::engine::Array;
use crate::geometry::Geometry;
use crate::member::{Epoch, Held, Member, State};
use crate::sync::{Ended, Outcome, SyncAction};
use crate::value::{Events, Exhibit, MemberId, Notice, Slot, Span};

/// How long a leg that is to fail fast may take.
const FAILFAST_TIMEOUT: Span = Span::secs(5);

impl Array {
    /// Shows the members as they are now to everything that is planned from here on.
    pub(super) fn publish(&mut self) {
        self.epoch = Epoch::of(self.epoch.number + 1, &self.members, self.info.raid_disks);
        self.pair_up();
        self.notify(Notice::Changed);
    }

    /// Whether the array lives on without this member.
    pub(super) fn can_lose(&self, member: MemberId) -> bool {
        let Some(member) = self.members.get(member) else {
            return true;
        };
        if member.state != State::InSync {
            return true;
        }
        let lost = member.slot;
        self.geometry.survives(|slot| {
            let there = self.epoch.column(slot).is_some_and(|column| column.in_sync);
            there && lost != Some(Slot(slot))
        })
    }

    /// Whether the last leg of a mirror fails like any other (md's `fail_last_dev`), instead of
    /// being read on.
    pub(super) fn fails_last(&self) -> bool {
        self.options.fail_last_dev && self.geometry.is_mirror()
    }

    /// A member cannot be trusted any more. If the array cannot live without it, writes end here;
    /// nothing is recorded then, so that what is on the members stays assemblable.
    pub(super) fn fail_member(&mut self, id: MemberId, why: &str) {
        if self.bitmap.file() == Some(id) {
            return self.lose_bitmap(id, why);
        }
        let can_lose = self.can_lose(id);
        let lost = self.tell_what_is_lost_with(id);
        let Some(member) = self
            .members
            .get_mut(id)
            .filter(|m| m.state != State::Faulty)
        else {
            return;
        };
        if !can_lose {
            let name = member.name.clone();
            self.break_array(&name, why);
            // Where a write ended half-way parity no longer fits the data, so nothing may be
            // computed with this member any more. A mirror or stripe is only as bad as itself.
            // U11: reads went on being computed with it, from rows that were half written.
            let computed = matches!(*self.geometry, Geometry::Parity(_));
            if computed && !self.io.museum.on(Exhibit::U11) || self.fails_last() {
                self.distrust(id, why);
            }
            return;
        }
        let spare = member.state == State::Spare;
        assert!(member.fault.is_none(), "a member fails once");
        if !self.info.format.is_stored() {
            let events = self.metadata.events();
            note_leaving(member, events);
        }
        member.state = State::Faulty;
        member.fault = Some(why.to_string());
        let served = !std::mem::take(&mut member.replacement);
        member.want_replacement = false;
        let slot = member.slot.filter(|_| !spare && served);
        if spare {
            (member.slot, member.meant_for) = (None, None);
        }
        if let Some(slot) = slot {
            self.inherit(slot);
        }
        self.cover.forget(id);
        self.io.retire(id);
        self.notify(Notice::Failed {
            member: id,
            why: why.to_string(),
        });
        if let Some(lost) = lost {
            self.notify(lost);
        }
        self.metadata.note_fault();
        if !spare {
            self.publish();
        }
    }

    /// The bitmap's file cannot be written. The array goes on without: superblocks get more events
    /// than the file before anything else is written, so that its bits are never believed again.
    fn lose_bitmap(&mut self, id: MemberId, why: &str) {
        self.bitmap.lose();
        self.io.orphan(id);
        self.metadata.note_lost_bitmap();
        let name = match &self.options.bitmap_file {
            Some((_, name)) => name.clone(),
            None => String::new(),
        };
        self.bitmap_fault = Some(why.to_string());
        self.notify(Notice::Message(format!(
            "the bitmap file {name} failed ({why}): the array goes on without it, and after a \
             crash all of it is resynced"
        )));
        self.notify(Notice::Changed);
    }

    /// A member could not read something; it was computed and written again.
    pub(super) fn read_error(&mut self, id: MemberId) {
        let (now, most) = (self.io.now().mono, self.options.max_read_errors);
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        let count = &mut member.superblock.fields.corrected_reads;
        *count = count.saturating_add(1);
        let too_many = member.read_errors.note(now, most);
        let can_lose = self.can_do_without(id);
        if self.is_failfast(id) && can_lose {
            self.fail_member(id, "a read error, and the member is to fail fast");
        } else if too_many && can_lose {
            self.fail_member(id, &format!("more than {most} read errors in an hour"));
        }
    }

    /// A member refused a write; its log is about to name `sectors` of it. A disk that goes on
    /// like this is dying, and is failed while others hold everything.
    pub(super) fn write_error(&mut self, id: MemberId, sectors: u64) {
        let (now, most) = (self.io.now().mono, self.options.max_read_errors);
        let Some(member) = self.members.get_mut(id).filter(|m| m.is_active()) else {
            return;
        };
        let name = member.name.clone();
        let too_many = member.write_errors.note(now, most);
        if sectors > 0 {
            let text = format!(
                "member {name} refused to write {sectors} sectors: they are recorded as bad blocks \
                 and the other members hold them; if it happens again, replace {name}"
            );
            self.notify(Notice::BadBlocks {
                member: id,
                sectors,
                text,
            });
            self.notify(Notice::Changed);
        }
        if too_many && self.can_do_without(id) {
            let why = format!("it refused writes more than {most} times in an hour");
            self.fail_member(id, &why);
        }
    }

    fn held(&self) -> Held<'_> {
        Held {
            epoch: &self.epoch,
            bad: &self.io.bad,
            except: None,
        }
    }

    /// Whether the array lives on without this member, and nothing is lost with it that another
    /// one has refused to write: what is asked where nobody has to be failed.
    fn can_do_without(&self, id: MemberId) -> bool {
        self.can_lose(id) && self.held().sectors_lost_with(&self.geometry, id) == 0
    }

    /// What nobody can give any more once this member is lost.
    fn tell_what_is_lost_with(&self, id: MemberId) -> Option<Notice> {
        let sectors = self.held().sectors_lost_with(&self.geometry, id);
        (sectors > 0).then(|| {
            Notice::Message(format!(
                "{sectors} sectors that another member could not write were on this one alone: \
                 reads of them fail until they are written again (see umd examine-badblocks)"
            ))
        })
    }

    /// Whether this leg of a mirror is given up at the first trouble, while there is another one.
    /// Elsewhere the flag means nothing, as in md.
    fn is_failfast(&self, id: MemberId) -> bool {
        let member = self.members.get(id).filter(|m| m.state == State::InSync);
        let flagged = |m: &Member| m.superblock.fields.flags.contains(DeviceFlags::FAILFAST);
        self.geometry.is_mirror() && member.is_some_and(flagged)
    }

    /// Members that have not answered for too long: legs that are to fail fast after a few seconds.
    pub(super) fn late_members(&self) -> Vec<MemberId> {
        let mut late = self.io.overdue(self.options.io_timeout);
        let fast = self.options.io_timeout.min(FAILFAST_TIMEOUT);
        let fast = self.io.overdue(fast).into_iter();
        late.extend(fast.filter(|id| self.is_failfast(*id) && self.can_do_without(*id)));
        late.sort_unstable();
        late.dedup();
        late
    }

    /// Two looks in a row found it late.
    pub(super) fn give_up_late(&mut self, id: MemberId) {
        let limit = self.options.io_timeout;
        let hangs = self.io.overdue(limit).contains(&id);
        // The other leg may have been given up a moment ago.
        if !hangs && !self.can_do_without(id) {
            return;
        }
        let limit = if hangs {
            limit
        } else {
            limit.min(FAILFAST_TIMEOUT)
        };
        let seconds = limit.as_secs();
        self.fail_member(id, &format!("no answer for {seconds} s"));
        self.io.orphan(id);
    }

    /// The array broke over this member, and what it holds may be old: better no answer than a
    /// wrong one. Only this run of the array knows; nothing is recorded.
    pub(super) fn distrust(&mut self, id: MemberId, why: &str) {
        let Some(member) = self.members.get_mut(id).filter(|m| m.is_active()) else {
            return;
        };
        member.state = State::Faulty;
        member.fault = Some(why.to_string());
        self.cover.forget(id);
        self.io.retire(id);
        self.publish();
    }

    pub(super) fn break_array(&mut self, name: &str, why: &str) {
        if self.broken.is_some() {
            return;
        }
        let text = format!(
            "member {name} failed ({why}) and the array cannot do without it: writes are refused"
        );
        self.broken = Some(text.clone());
        self.sync.interrupt();
        self.notify(Notice::Broken(text));
    }

    /// Starts, continues and ends sync actions.
    pub(super) fn maintain_sync(&mut self) -> bool {
        let now = self.io.now().mono;
        if self.sync.running().is_some() {
            let (mut moved, ended) = self.with_sync(|sync, rig| sync.advance(rig));
            moved |= self.ask_window();
            // What has just been done counts, too.
            if self.sync.checkpoint_due(now) {
                self.with_sync(|sync, rig| sync.checkpoint(rig));
                moved = true;
            }
            if let Some(ended) = ended {
                self.sync_ended(&ended);
                self.run_over();
            }
            if let Some((action, at)) = self.sync.newly_held() {
                let word = action.word();
                let text = format!("{word} waits at sector {at} (sync_max) until that is raised");
                self.notify(Notice::Message(text));
            }
            return moved;
        }
        let leaving = self.shared.as_ref().is_some_and(|one| one.is_leaving());
        if !self.may_write() || self.stopping.is_some() || !self.metadata.is_quiet() || leaving {
            return false;
        }
        let changes = self.rebit.is_some() || self.regrade.is_some();
        if !self.geometry.is_redundant() || self.waits_for_landing() || changes {
            return false;
        }
        if self.reshape.is_some() {
            // M44: see `control_replace`.
            let wanted = self.members.iter().any(|m| m.want_replacement);
            let mistaken = wanted && self.io.museum.on(Exhibit::M44);
            return mistaken && self.activate_spares() || self.maintain_sync_of_reshape();
        }
        // In a cluster it is decided under the token who gets a slot.
        if self.shared.is_none() && self.activate_spares() {
            return true;
        }
        let Some(action) = self.due_action() else {
            return false;
        };
        if !self.may_begin_run(action) {
            return false;
        }
        self.with_sync(|sync, rig| sync.begin(rig, action));
        self.run_begun(action);
        self.notify(Notice::SyncStarted(action));
        true
    }

    /// What is to be run next. In a cluster regions that a dead node left do not wait for a missing
    /// member: until they agree all nodes read one mirror only.
    pub(super) fn due_action(&self) -> Option<SyncAction> {
        let degraded = self.epoch.degraded() > 0 && self.shared.is_none();
        let action = self.sync.choose(&self.members, degraded)?;
        // Who is full, and cannot have its place yet, is not filled again.
        let waits = self.shared.is_some() && action == SyncAction::Recover && self.all_are_full();
        (!waits).then_some(action)
    }

    /// Gives spares to empty slots, and to members that are to be replaced. Each gets its copy of
    /// the bitmap before superblocks name it.
    fn activate_spares(&mut self) -> bool {
        // M62 (062f5b2ae12a): a disk added to a frozen array was called in sync with nothing on it.
        let unfilled = self.sync.is_frozen() && self.io.museum.on(Exhibit::M62);
        // M60 (4b10a3bc67c1): a rebuild pushed the resync aside.
        let resync_first = self.sync.owes_resync() && !self.io.museum.on(Exhibit::M60);
        let idle = (!self.sync.is_frozen() || unfilled) && !self.sync.is_blocked();
        if !idle || resync_first {
            return false;
        }
        let mut moved = self.epoch.degraded() > 0 && self.fill_slots(unfilled);
        moved |= !self.sync.is_frozen() && self.begin_replacements();
        if moved {
            self.publish();
            self.metadata.note_change(false);
        }
        moved
    }

    fn fill_slots(&mut self, unfilled: bool) -> bool {
        let mut moved = false;
        for slot in 0..self.info.raid_disks {
            if self.members.in_slot(Slot(slot)).is_some() && !self.displaces(slot) {
                continue;
            }
            let Some(id) = self.spare_for(Slot(slot), |_| true) else {
                continue;
            };
            self.give_slot(id, Slot(slot));
            if unfilled && let Some(member) = self.members.get_mut(id) {
                member.state = State::InSync;
            }
            moved = true;
        }
        moved
    }

    /// Of those that may: the spare that was named for this slot, else the first that was named for
    /// none.
    pub(super) fn spare_for(&self, slot: Slot, may: impl Fn(MemberId) -> bool) -> Option<MemberId> {
        let room = self.info.dev_sectors;
        let fits = |m: &&Member| {
            let spare = m.state == State::Spare && may(m.id);
            spare && m.superblock.fields.data_size_sectors >= room
        };
        let meant = |wanted: Option<Slot>| {
            let mut spares = self.members.iter().filter(fits);
            spares.find(|m| m.meant_for == wanted)
        };
        let spare = meant(Some(slot)).or_else(|| meant(None));
        spare.map(|m| m.id)
    }

    /// A spare gets a slot, and nothing of what belongs there yet.
    pub(super) fn give_slot(&mut self, id: MemberId, slot: Slot) {
        let spare = self.members.get_mut(id).expect("just found");
        assert!(spare.slot.is_none(), "a spare has no slot yet");
        (spare.slot, spare.meant_for) = (Some(slot), None);
        spare.state = State::Recovering {
            checkpoint_sectors: 0,
        };
        self.cover.set_rebuilt(id, 0, 0);
        self.sync.unguide(id);
        // U09: a new member kept the bits it had, or none, until the next batch.
        if !self.io.museum.on(Exhibit::U09) {
            self.bitmap.want_copy(id);
        }
    }

    /// M22 (7fcc7c8acf0f): a spare of a RAID10 took the slot of a member that worked. Once, here:
    /// that member is out then.
    fn displaces(&mut self, slot: u16) -> bool {
        let mistaken = matches!(*self.geometry, Geometry::Copied(_))
            && self.io.museum.on(Exhibit::M22)
            && self.members.iter().any(|m| m.state == State::Spare);
        let held = |m: &&mut Member| m.slot == Some(Slot(slot)) && m.state == State::InSync;
        let Some(member) = self.members.iter_mut().find(held).filter(|_| mistaken) else {
            return false;
        };
        member.state = State::Faulty;
        member.fault = Some("its slot was taken".into());
        let id = member.id;
        self.cover.forget(id);
        self.io.retire(id);
        true
    }

    fn sync_ended(&mut self, ended: &Ended) {
        if ended.action == SyncAction::Recover && ended.outcome == Outcome::Complete {
            self.promote(&ended.targets);
        }
        if let Outcome::Failed(why) = &ended.outcome {
            let text = format!("{} stopped: {why}", ended.action.word());
            self.notify(Notice::Message(text));
        }
        self.notify(Notice::SyncEnded {
            action: ended.action,
            complete: ended.outcome == Outcome::Complete,
            mismatch_sectors: self.sync.mismatch_sectors(),
        });
    }

    /// The members hold everything now. They are flushed before superblocks say so.
    fn promote(&mut self, targets: &[MemberId]) {
        for id in targets {
            let member = self.members.get_mut(*id);
            let filled = |m: &&mut Member| matches!(m.state, State::Recovering { .. });
            // Who replaces another waits until that is on the disks: see `finish_replacements`.
            let Some(member) = member.filter(filled).filter(|m| !m.replacement) else {
                continue;
            };
            member.state = State::InSync;
            self.notify(Notice::Activated(*id));
        }
        self.publish();
        // U14: superblocks called it in sync before its cache had been flushed.
        let flush = !self.io.museum.on(Exhibit::U14);
        self.metadata.note_change(flush);
    }
}

/// What the superblock of a member would say that fails now, had the array any: its slot, the
/// events up to which it missed nothing, and whether it was whole.
fn note_leaving(member: &mut Member, events: Events) {
    let role = match member.slot {
        Some(Slot(slot)) => Role::Active(slot),
        None => Role::Spare,
    };
    let half = Features::RECOVERY_OFFSET;
    let fields = &mut member.superblock.fields;
    fields.set_role(fields.dev_number, role);
    fields.events = events.0;
    fields.features = match member.state {
        State::InSync => fields.features.without(half),
        _ => fields.features.with(half),
    };
}
