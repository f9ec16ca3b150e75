//! What administrators ask for.

use umd_format::create::{CreateError, NewMember as NewDevice, spare_for};
use umd_format::v1::{DeviceFlags, Features, Fields, ROLES_MAX};
use umd_format::{FaultyLayout, Format, Level, Role, SuperblockV1, Uuid, v090};

use super::engine::Array;
use super::stop::{Rest, Stopping};
use crate::member::{Member, ReadErrors, State};
use crate::value::{
    Command, Control, ControlError, ControlId, ControlReply, Exhibit, MemberId, NewMember, Notice,
    RepairWay, Settings, Slot, SyncAction, SyncLimits, SyncRequest,
};

/// A request whose answer waits for the disks.
#[derive(Debug)]
pub(super) struct Waiting {
    id: ControlId,
    until: Until,
}

#[derive(Debug)]
enum Until {
    /// All faults are recorded: those known then, and those since.
    Faults(u64),
    /// The change with this number is recorded.
    Change(u64),
    /// The change that names this new member is recorded.
    Added(u64, MemberId),
}

type Answer = Result<ControlReply, ControlError>;

impl Array {
    pub(super) fn control(&mut self, id: ControlId, control: Control) {
        // As in md: who wants something changed wants it written.
        if self.read_auto && self.broken.is_none() && control.changes() {
            self.read_write();
        }
        let Some(control) = self.control_on_all(id, control) else {
            return;
        };
        let until = match control {
            Control::Fail(member) => self.control_fail(member),
            Control::Lost(member, why) => self.control_lost(member, &why),
            Control::Remove(member) => self.control_remove(member),
            Control::Add(new) => self.control_add(&new),
            Control::ReAdd(new) => self.control_re_add(&new),
            Control::Replace { member, with } => match self.control_replace(member, with) {
                Ok(()) => return self.answer(id, Ok(ControlReply::Done)),
                Err(error) => Err(error),
            },
            Control::Flags(member, wish) => return self.control_flags(id, member, wish),
            Control::Bitmap(wish) => return self.control_bitmap(id, wish),
            Control::Layout(layout) => {
                let result = self.control_layout(layout);
                return self.answer(id, result.map(|()| ControlReply::Done));
            }
            Control::Level(wish) => return self.control_level(id, wish),
            Control::Legs(wish) => return self.control_legs(id, wish),
            // In a cluster it was taken above.
            Control::Size(_) => Err(ControlError::Invalid(
                "only an array that a cluster runs gets another size in this version".into(),
            )),
            // So was this.
            Control::Rechunk(_) => Err(ControlError::Invalid(
                "only the bitmaps of an array that a cluster runs get another chunk: take this \
                 one away, and add one with --bitmap=internal --bitmap-chunk"
                    .into(),
            )),
            Control::BitmapRoom(new) => {
                let room = self.bitmap_room(new);
                return self.answer(id, room.map(|sectors| ControlReply::Room { sectors }));
            }
            Control::Sync(wish) => match self.control_sync(wish) {
                Ok(()) => return self.answer(id, Ok(ControlReply::Done)),
                Err(error) => Err(error),
            },
            Control::Limits(limits, wish) => match self.control_limits(&limits, wish) {
                Ok(()) => return self.answer(id, Ok(ControlReply::Done)),
                Err(error) => Err(error),
            },
            Control::ReadOnly(true) => return self.begin_quiet(id, Rest::ReadOnly),
            Control::ReadAuto => return self.begin_quiet(id, Rest::ReadAuto),
            Control::ReadOnly(false) => {
                self.read_write();
                return self.answer(id, Ok(ControlReply::Done));
            }
            Control::Clean => {
                let result = self.control_clean();
                return self.answer(id, result.map(|()| ControlReply::Done));
            }
            Control::Settings(settings) => {
                return self.control_settings(id, settings);
            }
            Control::Stop => return self.begin_quiet(id, Rest::Stop),
        };
        match until {
            Ok(until) => self.waiting.push(Waiting { id, until }),
            Err(error) => self.answer(id, Err(error)),
        }
    }

    pub(super) fn answer(&mut self, id: ControlId, result: Answer) {
        self.io.out.push(Command::Answer { id, result });
    }

    /// Answers requests whose change is on the disks.
    pub(super) fn answer_waiting(&mut self) -> bool {
        let mut moved = false;
        for waiting in std::mem::take(&mut self.waiting) {
            let recorded = match waiting.until {
                Until::Faults(_) => !self.metadata.fault_pending() || self.broken.is_some(),
                Until::Change(n) | Until::Added(n, _) => self.metadata.has_recorded(n),
            };
            if !recorded && self.may_write() {
                self.waiting.push(waiting);
                continue;
            }
            moved = true;
            let result = match waiting.until {
                Until::Added(_, member) if !recorded => {
                    self.drop_new(member);
                    Err(ControlError::Io("superblocks cannot be written".into()))
                }
                _ if !recorded => Err(ControlError::Io("superblocks cannot be written".into())),
                Until::Added(_, member) => self.added(member),
                _ => Ok(ControlReply::Done),
            };
            self.answer(waiting.id, result);
        }
        moved
    }

    /// What waits is not going to be recorded from here.
    pub(super) fn refuse_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            let text = "the array was left before this could be recorded on all nodes";
            self.answer(waiting.id, Err(ControlError::Io(text.into())));
        }
    }

    /// What waits for superblocks with these faults and changes is on them, and not every node of a
    /// cluster has read them. What came later is on nothing yet.
    pub(super) fn tell_waiting(&mut self, (fault, change): (u64, u64), error: &ControlError) {
        let written = |waiting: &mut Waiting| match waiting.until {
            Until::Faults(n) => n <= fault,
            Until::Change(n) | Until::Added(n, _) => n <= change,
        };
        for waiting in self.waiting.extract_if(.., written).collect::<Vec<_>>() {
            self.answer(waiting.id, Err(error.clone()));
        }
    }

    /// Answers a request when all that is known now is recorded.
    pub(super) fn wait_for_change(&mut self, id: ControlId) {
        let until = Until::Change(self.metadata.note_change(false));
        self.waiting.push(Waiting { id, until });
    }

    fn until_faults(&self) -> Until {
        Until::Faults(self.metadata.faults())
    }

    fn added(&mut self, id: MemberId) -> Answer {
        let member = self.members.get(id).filter(|m| m.state != State::Faulty);
        if let Some(member) = member {
            return Ok(ControlReply::Added {
                number: member.number(),
            });
        }
        let gone = self.drop_new(id);
        let why = gone
            .and_then(|m| m.fault)
            .unwrap_or_else(|| "it failed".into());
        Err(ControlError::Io(format!(
            "the new member could not be written: {why}"
        )))
    }

    /// A new member that did not make it: taken out and released, once.
    fn drop_new(&mut self, id: MemberId) -> Option<Member> {
        let gone = self.members.remove(id)?;
        self.io.orphan(id);
        self.io.bad.forget(id);
        self.cover.forget(id);
        if gone.is_active() {
            self.publish();
        }
        self.io.out.push(Command::Release(id));
        Some(gone)
    }

    pub(super) fn named(&self, id: MemberId) -> Result<&Member, ControlError> {
        let member = self.members.get(id);
        member.ok_or_else(|| ControlError::NotFound("no such member in this array".into()))
    }

    pub(super) fn writable(&self) -> Result<(), ControlError> {
        match &self.broken {
            Some(why) => Err(ControlError::Busy(why.clone())),
            None if self.read_only => Err(ControlError::Busy("the array is read-only".into())),
            None if self.stopping.is_some() => {
                Err(ControlError::Busy("the array is stopping".into()))
            }
            None => Ok(()),
        }
    }

    /// md's `clean`, written to `array_state`: superblocks say clean before the array has been idle
    /// for long enough.
    fn control_clean(&mut self) -> Result<(), ControlError> {
        if self.stopping.is_none() && self.broken.is_none() {
            self.read_write();
        }
        self.writable()?;
        if !self.metadata.is_clean() && !self.metadata.is_unwritten() {
            let text = "writes are under way; the array is marked clean when they have ended";
            return Err(ControlError::Busy(text.into()));
        }
        self.metadata.want_clean();
        Ok(())
    }

    fn control_settings(&mut self, id: ControlId, settings: Settings) {
        if let Some(delay) = settings.safe_mode_delay {
            self.options.safe_mode_delay = delay;
        }
        if let Some(most) = settings.max_read_errors {
            self.options.max_read_errors = most;
        }
        if let Some(last_too) = settings.fail_last_dev {
            self.options.fail_last_dev = last_too;
        }
        self.notify(Notice::Changed);
        let (lo, hi) = (settings.suspend_lo_sectors, settings.suspend_hi_sectors);
        match lo.or(hi) {
            Some(_) => self.control_suspend(id, lo, hi),
            None => self.answer(id, Ok(ControlReply::Done)),
        }
    }

    fn control_fail(&mut self, id: MemberId) -> Result<Until, ControlError> {
        self.writable()?;
        let name = self.named(id)?.name.clone();
        if !self.can_lose(id) && !self.fails_last() {
            return Err(ControlError::Busy(format!(
                "failing {name} would leave too few members to hold the data; nothing was changed"
            )));
        }
        self.fail_member(id, "set faulty on request");
        Ok(self.until_faults())
    }

    fn control_lost(&mut self, id: MemberId, why: &str) -> Result<Until, ControlError> {
        if self.bitmap.file() == Some(id) {
            self.fail_member(id, why);
            return Ok(self.until_faults());
        }
        if self.give_up_file(id, why) {
            return Ok(self.until_faults());
        }
        let name = self.named(id)?.name.clone();
        if self.can_lose(id) {
            self.fail_member(id, why);
        } else {
            // A deleted file lives on while it is open: what is in it can still be copied out.
            self.break_array(&name, why);
        }
        Ok(self.until_faults())
    }

    fn control_remove(&mut self, id: MemberId) -> Result<Until, ControlError> {
        self.removable(id)?;
        let gone = self.let_go(id);
        if !self.info.format.is_stored() && gone.state == State::Faulty {
            self.left.insert(gone.name, gone.superblock);
        }
        Ok(Until::Change(self.metadata.note_change(false)))
    }

    /// A member that may be removed: one that has no part in the array.
    pub(super) fn removable(&self, id: MemberId) -> Result<&Member, ControlError> {
        self.writable()?;
        let member = self.named(id)?;
        if member.is_active() {
            return Err(ControlError::Busy(format!(
                "{} is part of the array; set it faulty before removing it",
                member.name
            )));
        }
        Ok(member)
    }

    /// A member leaves: nothing of it is waited for any more.
    pub(super) fn let_go(&mut self, id: MemberId) -> Member {
        self.io.orphan(id);
        self.io.bad.forget(id);
        self.cover.forget(id);
        self.sync.unguide(id);
        let gone = self.members.remove(id).expect("it is a member");
        self.io.out.push(Command::Release(id));
        self.sync.unblock();
        self.notify(Notice::Changed);
        gone
    }

    pub(super) fn redundant(&self) -> Result<(), ControlError> {
        if self.geometry.is_redundant() {
            return Ok(());
        }
        let level = self.info.level;
        Err(ControlError::Invalid(format!(
            "{level} has no redundancy: members cannot be added, rebuilt or checked"
        )))
    }

    fn peer(&self) -> &Member {
        let peer = self.members.iter().find(|m| m.state == State::InSync);
        peer.expect("an array that is not broken has an in-sync member")
    }

    fn control_add(&mut self, new: &NewMember) -> Result<Until, ControlError> {
        let prepared = self.redundant().and_then(|()| self.writable());
        let prepared = prepared.and_then(|()| self.spare_superblock(new));
        let superblock = self.keep_or_release(new, prepared)?;
        self.left.remove(&new.name);
        self.take_in(new, superblock, State::Spare, None);
        Ok(Until::Added(self.metadata.note_change(false), new.id))
    }

    /// A refused device is closed again.
    fn keep_or_release<T>(
        &mut self,
        new: &NewMember,
        prepared: Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        if prepared.is_err() {
            self.io.out.push(Command::Release(new.id));
        }
        prepared
    }

    pub(super) fn spare_superblock(&self, new: &NewMember) -> Result<SuperblockV1, ControlError> {
        if new.logical_block_bytes > self.info.logical_block_bytes {
            return Err(ControlError::Invalid(format!(
                "{} has logical blocks of {} bytes, the array offers {}",
                new.name, new.logical_block_bytes, self.info.logical_block_bytes
            )));
        }
        let mut peer = self.peer().superblock.clone();
        let number = self.free_number();
        if number as usize >= ROLES_MAX {
            return Err(ControlError::Invalid(format!(
                "{} has no place in the superblocks: they know {ROLES_MAX} devices",
                new.name
            )));
        }
        for role in peer.fields.roles.iter_mut().skip(number as usize).take(1) {
            *role = Role::Spare;
        }
        let device = NewDevice {
            device_sectors: new.size_sectors,
            device_uuid: Uuid(new.device_uuid),
            flags: new.flags.of(DeviceFlags::default()),
        };
        let made = spare_for(&peer, number, &device);
        let mut made = made.map_err(|error| match error {
            CreateError::Space(space) => ControlError::TooSmall(format!("{}: {space}", new.name)),
            other => ControlError::Invalid(format!("{}: {other}", new.name)),
        })?;
        // It has no data that a reshape would move.
        let fields = &mut made.fields;
        fields.features = fields.features.without(Features::NEW_OFFSET);
        fields.new_offset_sectors = 0;
        if !new.bad_block_log {
            made.drop_bad_block_log();
        }
        Ok(made)
    }

    /// The number of a new member. Where numbers are given anew with each update, it is the one
    /// it will have: behind the slots and everybody who is not in sync.
    fn free_number(&self) -> u32 {
        let slots = u32::from(self.info.raid_disks);
        let others = self.members.iter().filter(|m| m.state != State::InSync);
        let behind = match self.info.format.keeps_members_apart() {
            true => 0,
            false => others.count() as u32,
        };
        self.members.free_number(slots + behind)
    }

    pub(super) fn take_in(
        &mut self,
        new: &NewMember,
        mut superblock: SuperblockV1,
        state: State,
        slot: Option<Slot>,
    ) {
        // It may have been prepared, or have left, when there were more slots or fewer.
        superblock.fields.raid_disks = self.info.raid_disks.into();
        self.sync.unblock();
        let active = !matches!(state, State::Spare | State::Faulty);
        assert_eq!(active, slot.is_some(), "a slot, and data to put in it");
        let device = (new.size_sectors, new.logical_block_bytes);
        self.io.bad.take_in(new.id, &superblock, None, device);
        self.members.push(Member {
            id: new.id,
            name: new.name.clone(),
            state,
            slot,
            replacement: false,
            want_replacement: false,
            meant_for: None,
            size_sectors: new.size_sectors,
            logical_block_bytes: new.logical_block_bytes,
            write_mostly: superblock.fields.flags.contains(DeviceFlags::WRITE_MOSTLY),
            superblock,
            fault: None,
            read_errors: ReadErrors::default(),
            write_errors: ReadErrors::default(),
        });
    }

    fn control_re_add(&mut self, new: &NewMember) -> Result<Until, ControlError> {
        let prepared = self.redundant().and_then(|()| self.writable());
        let prepared = prepared.and_then(|()| self.not_reshaping("no member comes back"));
        let prepared = prepared.and_then(|()| self.returning(new));
        let (superblock, slot) = self.keep_or_release(new, prepared)?;
        self.left.remove(&new.name);
        self.take_in(
            new,
            superblock,
            State::Recovering {
                checkpoint_sectors: 0,
            },
            Some(slot),
        );
        self.cover.set_rebuilt(new.id, 0, 0);
        self.sync.guide(new.id);
        // M57 and U09: see assembly/decide.rs and faults.rs.
        if !self.io.museum.on(Exhibit::M57) && !self.io.museum.on(Exhibit::U09) {
            self.bitmap.want_copy(new.id);
        }
        self.publish();
        Ok(Until::Added(self.metadata.note_change(false), new.id))
    }

    /// A member that only missed what the bitmap knows: superblocks.md section 5.
    pub(super) fn returning(&self, new: &NewMember) -> Result<(SuperblockV1, Slot), ControlError> {
        let no = |why: &str| {
            ControlError::Invalid(format!("--re-add for {} is not possible: {why}", new.name))
        };
        let add = |why: &str| no(&format!("{why}; use --add"));
        let stored = self.info.format.is_stored();
        let superblock = match stored {
            true => new.superblock.as_deref(),
            // What this very array remembers of it.
            false => self.left.get(&new.name),
        };
        let superblock = superblock.ok_or_else(|| match stored {
            true => add("it has no superblock"),
            false => add("it has not left this array since it was started"),
        })?;
        let fields = &superblock.fields;
        if fields.set_uuid.0 != self.info.uuid {
            return Err(add("it belongs to another array"));
        }
        let Role::Active(slot) = fields.own_role() else {
            return Err(add("it had no slot"));
        };
        let slot = Slot(slot);
        if slot.0 >= self.info.raid_disks || self.members.in_slot(slot).is_some() {
            return Err(add("its slot is taken"));
        }
        if !self.lies_as_here(fields) {
            return Err(add("level or layout were changed since it left"));
        }
        if fields.features.contains(Features::BAD_BLOCKS) {
            return Err(no("it has bad blocks; --add it instead"));
        }
        // M51 (1a855a060665): a member that had been half rebuilt was taken back as if it lacked
        // only what the bitmap marks.
        let half = fields.features.contains(Features::RECOVERY_OFFSET);
        if half && !self.io.museum.on(Exhibit::M51) {
            return Err(add("it was not in sync"));
        }
        let writer = self
            .bitmap
            .writer()
            .ok_or_else(|| add("the array has no bitmap"))?;
        // U15: one that had gone on alone was taken back by a bitmap that knows nothing of that.
        // Without superblocks nobody goes on alone: this array is the one that it left.
        let agrees = !stored || self.io.museum.on(Exhibit::U15) || self.agrees_with(superblock);
        if fields.events > self.metadata.events().0 || !agrees {
            return Err(add("it ran without members that are in sync here"));
        }
        if fields.events < writer.events_cleared().0 {
            return Err(add("the bitmap no longer knows what it missed"));
        }
        let full = self.free_number() as usize >= v090::DEVICES_MAX;
        if full && self.info.format == Format::V090 {
            return Err(no("metadata 0.90 has no room for another device"));
        }
        if self.members.iter().any(|m| m.number() == fields.dev_number) {
            return Err(no(
                "its device number is taken; remove the faulty entry first",
            ));
        }
        let fits = fields.data_offset_sectors + self.info.dev_sectors <= new.size_sectors;
        if !fits || fields.data_size_sectors < self.info.dev_sectors {
            return Err(no("it is too small"));
        }
        let mut superblock = superblock.clone();
        superblock.fields.features = superblock.fields.features.with(Features::RECOVERY_BITMAP);
        superblock.fields.flags = new.flags.of(superblock.fields.flags);
        Ok((superblock, slot))
    }

    /// Whether what a returning member holds lies where the array has it now: level and layout may
    /// have been changed since it left.
    fn lies_as_here(&self, fields: &Fields) -> bool {
        let info = &self.info;
        let rows = (fields.level, fields.layout, fields.chunk_sectors)
            == (info.level, info.layout, info.chunk_sectors);
        let disks = info.level == Level::Raid1 || fields.raid_disks == u32::from(info.raid_disks);
        // U62: who had left before a reshape was taken back by the bitmap, with its data where it
        // lay then.
        rows && disks && !fields.features.contains(Features::RESHAPE_ACTIVE)
            || self.io.museum.on(Exhibit::U62)
    }

    /// Whether a returning member knows every in-sync member in the slot it has here. One that
    /// ran on alone called the others faulty: nobody knows what it wrote then.
    fn agrees_with(&self, superblock: &SuperblockV1) -> bool {
        let in_sync = self.members.iter().filter(|m| m.state == State::InSync);
        let mut known = in_sync.map(|m| superblock.fields.role_of(m.number()) == m.role());
        known.all(|same| same)
    }

    /// Level faulty fails as its new layout says, from the next request on: also where it is
    /// read-only, as on kernels, and nothing is written for it.
    fn control_layout(&mut self, layout: FaultyLayout) -> Result<(), ControlError> {
        let level = self.info.level;
        if level != Level::Faulty {
            return Err(ControlError::Invalid(format!(
                "{level} does not fail on purpose"
            )));
        }
        if self.stopping.as_ref().is_some_and(Stopping::is_stop) {
            return Err(ControlError::Busy("the array is stopping".into()));
        }
        self.lane.pretend(layout);
        self.notify(Notice::Changed);
        Ok(())
    }

    /// Limits first, as far as they can be refused; then the action; then they count.
    fn control_limits(
        &mut self,
        limits: &SyncLimits,
        wish: Option<SyncRequest>,
    ) -> Result<(), ControlError> {
        self.redundant()?;
        let reach = self.sync.limited(limits).map_err(ControlError::Invalid)?;
        if let Some(run) = self.sync.running() {
            let (word, cursor) = (run.action().word(), run.cursor());
            if limits.from_sectors.is_some() {
                return Err(ControlError::Busy(format!(
                    "{word} is running: sync_min can be changed when it has ended"
                )));
            }
            if reach.to < cursor {
                return Err(ControlError::Busy(format!(
                    "{word} has come to sector {cursor} already, sync_max cannot lie below it"
                )));
            }
        }
        if let Some(wish) = wish {
            self.control_sync(wish)?;
        }
        self.sync.limit(limits, reach);
        Ok(())
    }

    fn control_sync(&mut self, wish: SyncRequest) -> Result<(), ControlError> {
        // It may have been frozen when it was of another level.
        if !(wish == SyncRequest::Idle && self.sync.is_frozen()) {
            self.redundant()?;
        }
        let (action, way) = match wish {
            SyncRequest::Idle => {
                self.sync.idle();
                self.sync.unblock();
                self.unblock_reshape();
                return Ok(());
            }
            SyncRequest::Frozen => {
                self.sync.freeze();
                return Ok(());
            }
            SyncRequest::Start(action) => (action, RepairWay::Judged),
            SyncRequest::Repair(way) => (SyncAction::Repair, way),
        };
        self.writable()?;
        if let Some(run) = self.sync.running() {
            let word = run.action().word();
            return Err(ControlError::Busy(format!("{word} is running")));
        }
        if !matches!(action, SyncAction::Reshape | SyncAction::Resync) {
            self.not_reshaping("nothing is checked or rebuilt")?;
        }
        self.unblock_reshape();
        self.sync.unblock();
        match action {
            SyncAction::Check | SyncAction::Repair => {
                // What waits to be made to agree is no mismatch.
                if self.bitmap.owes_resync() {
                    self.sync.owe_regions();
                }
                self.sync.request(action, way);
            }
            // These happen when they are owed; asking for them lifts what holds them back.
            SyncAction::Resync | SyncAction::Recover => self.sync.idle(),
            SyncAction::Reshape if self.reshape.is_some() => self.sync.idle(),
            SyncAction::Reshape => {
                let text = "no reshape is under way; umd grow --level or --layout begins one";
                return Err(ControlError::Invalid(text.into()));
            }
        }
        Ok(())
    }
}
