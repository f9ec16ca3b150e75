//! The administrator.

use umd_core::array::{
    BitmapFile, BitmapWish, Control, ControlError, ControlReply, Event, FlagWish, MemberRole,
    MemberStatus, NewBitmap, NewMember, SyncRequest,
};
use umd_core::sync::SyncAction;
use umd_core::value::{ControlId, MemberId, Slot};

use super::{Ev, World};
use crate::disk::{Cut, Power};
use crate::metaview::{OLD, SuperView, super_sector};
use crate::monitor::{MemberView, Rule, Verdict, Violation};
use crate::options::{Action, draw_mode};
use crate::shipped::superblock_on;

/// What bitmap an array is to have from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    None,
    Internal,
    /// In the file that belongs to the array.
    File,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Fail(MemberId),
    Remove(MemberId),
    Add { disk: usize, back: bool },
    Added { member: MemberId },
    Replace(MemberId),
    Flags(MemberId, FlagWish),
    Bitmap(Bits),
    FileOffered { member: MemberId },
    Start(SyncAction),
    Idle,
    Freeze,
    Thaw,
    ReadOnly,
    ReadAuto,
    ReadWrite,
    Limit(u32),
    Unlimit,
    Mode(u32),
    Level(u32),
    Stop,
}

impl World<'_> {
    /// The administrator does one thing.
    pub(super) fn administrate(&mut self) -> Verdict {
        let actions: Vec<Action> = self.options.actions.iter().copied().collect();
        if !self.live().phase.is_work() || self.live().actions_left == 0 || actions.is_empty() {
            return Ok(());
        }
        self.live_mut().actions_left -= 1;
        let action = self.admin_rng.pick(&actions);
        let base = self.admin_rng.pick(&[1_000_000, 50_000_000, 2_000_000_000]);
        let pause = self.admin_rng.spread(base);
        self.after(pause, Ev::Admin);
        match self.choose(action) {
            Some(request) => {
                self.record_action(request);
                self.ask(request)
            }
            None => Ok(()),
        }
    }

    fn choose(&mut self, action: Action) -> Option<Request> {
        match action {
            Action::Fail => {
                let recovering = |role| matches!(role, MemberRole::Recovering { .. });
                let half = self
                    .admin_rng
                    .coin()
                    .then(|| self.any_member(recovering))
                    .flatten();
                let member = half.or_else(|| self.any_member(|role| role != MemberRole::Faulty))?;
                let disk = self.live().members[&member];
                self.doom(disk).then_some(Request::Fail(member))
            }
            Action::Remove => {
                let idle = |role| matches!(role, MemberRole::Faulty | MemberRole::Spare);
                Some(Request::Remove(self.any_member(idle)?))
            }
            Action::Add => {
                let disk = self.free_disk(false)?;
                Some(Request::Add { disk, back: false })
            }
            Action::ReAdd => {
                let disk = self.free_disk(true)?;
                let back = Request::Add { disk, back: true };
                Some(self.make_room(disk, back).unwrap_or(back))
            }
            Action::Replace => self.choose_replacement(),
            Action::Mostly => {
                let works = |role| role != MemberRole::Faulty;
                let member = self.any_member(works)?;
                Some(self.switch_mostly(member))
            }
            Action::Bitmap => Some(Request::Bitmap(match self.live().status.bitmap {
                Some(_) => Bits::None,
                None if self.file.is_some() => Bits::File,
                None => Bits::Internal,
            })),
            Action::Check => Some(Request::Start(SyncAction::Check)),
            Action::Repair => Some(Request::Start(SyncAction::Repair)),
            Action::Idle => Some(Request::Idle),
            Action::Freeze => Some(Request::Freeze),
            Action::ReadOnly => Some(Request::ReadOnly),
            Action::Mode => Some(Request::Mode(draw_mode(&mut self.admin_rng))),
            Action::Level => self.choose_level(),
        }
    }

    fn status_of(&self, member: MemberId) -> Option<&MemberStatus> {
        self.live().status.members.iter().find(|m| m.id == member)
    }

    /// The member becomes write-mostly, or an ordinary one.
    pub(super) fn switch_mostly(&self, member: MemberId) -> Request {
        let mostly = self.status_of(member).is_some_and(|m| m.write_mostly);
        let wish = FlagWish {
            write_mostly: Some(!mostly),
            failfast: None,
        };
        Request::Flags(member, wish)
    }

    /// The member is to fail fast, or no longer.
    pub(super) fn switch_fast(&self, member: MemberId) -> Request {
        let fast = self.status_of(member).is_some_and(|m| m.failfast);
        let wish = FlagWish {
            write_mostly: None,
            failfast: Some(!fast),
        };
        Request::Flags(member, wish)
    }

    /// A member that works is replaced by a spare; without one a disk is put in first.
    fn choose_replacement(&mut self) -> Option<Request> {
        let worn = |(_, disk): &(u16, usize)| !self.disks[*disk].worn().is_empty();
        if self.in_sync().iter().any(worn) {
            return None; // Who refuses a write while it is replaced fails, with all it holds.
        }
        let spare = self.any_member(|role| role == MemberRole::Spare);
        let waits = self.live().status.members.iter();
        let waits = waits.filter(|m| m.want_replacement).count() > 0;
        if spare.is_none() && (waits || self.admin_rng.coin()) {
            let disk = self.free_disk(false)?;
            return Some(Request::Add { disk, back: false });
        }
        let member = self.any_member(|role| role == MemberRole::InSync)?;
        Some(Request::Replace(member))
    }

    /// A member that is being rebuilt is set faulty, taken out, and put back half rebuilt.
    pub(super) fn change_ones_mind(&mut self) {
        let likes = self.options.actions.contains(&Action::ReAdd);
        if !likes || !self.admin_rng.permille(300) {
            return;
        }
        let recovering = |role| matches!(role, MemberRole::Recovering { .. });
        let Some(member) = self.any_member(recovering) else {
            return;
        };
        let disk = self.live().members[&member];
        let back = Request::Add { disk, back: true };
        let mut pause = 0;
        for request in [Request::Fail(member), Request::Remove(member), back] {
            pause += self.admin_rng.spread(10_000_000);
            self.after(pause, Ev::Undo(request));
        }
    }

    /// Whoever puts a disk back may have to take another one out of its slot first.
    fn make_room(&mut self, disk: usize, back: Request) -> Option<Request> {
        let role = |sb: SuperView<'_>| sb.role(sb.number());
        let slot = self.with_super(&self.disks[disk], role).flatten()?;
        let held = |m: &MemberStatus| m.role == MemberRole::InSync && m.slot == Some(Slot(slot));
        let other = self.live().status.members.iter().find(|m| held(m))?.id;
        let held_by = *self.live().members.get(&other)?;
        if !self.admin_rng.coin() || !self.doom(held_by) {
            return None;
        }
        let pause = self.admin_rng.spread(50_000_000);
        self.after(pause, Ev::Undo(back));
        Some(Request::Fail(other))
    }

    /// The administrator takes something back, or goes on with it.
    pub(super) fn undo(&mut self, request: Request) -> Verdict {
        let over = !self.live().phase.is_work();
        match request {
            Request::Fail(_) | Request::Remove(_) | Request::Add { .. } | Request::Level(_)
                if over =>
            {
                Ok(())
            }
            Request::Level(number) if !self.may_become(number) => Ok(()),
            Request::Fail(member) if !self.may_fail(member) => Ok(()),
            Request::Add { disk, .. } if !self.is_free(disk) => Ok(()),
            request => {
                self.record_action(request);
                self.ask(request)
            }
        }
    }

    fn may_fail(&mut self, member: MemberId) -> bool {
        let disk = self.live().members.get(&member).copied();
        disk.is_some_and(|disk| self.doom(disk))
    }

    fn is_free(&self, disk: usize) -> bool {
        let live = self.live();
        let used = live.members.values().any(|used| *used == disk);
        !used
            && self.file != Some(disk)
            && !live.ios.values().any(|info| info.is_on(disk))
            && !self.absent[disk]
    }

    fn any_member(&mut self, wanted: impl Fn(MemberRole) -> bool) -> Option<MemberId> {
        let live = self.live.as_ref().expect("an array is running");
        let fits: Vec<MemberId> = live
            .status
            .members
            .iter()
            .filter(|m| wanted(m.role) && live.members.contains_key(&m.id))
            .map(|m| m.id)
            .collect();
        (!fits.is_empty()).then(|| self.admin_rng.pick(&fits))
    }

    /// A disk that is no member and can be one. A vanished one is plugged in again.
    fn free_disk(&mut self, carries: bool) -> Option<usize> {
        let fits: Vec<usize> = (0..self.disks.len())
            .filter(|&disk| self.is_free(disk) && (!carries || self.carries[disk]))
            .collect();
        if fits.is_empty() {
            return None;
        }
        let disk = self.admin_rng.pick(&fits);
        if self.disks[disk].power() == Power::Gone {
            self.disks[disk].cut(Cut::Sectors(500));
        }
        Some(disk)
    }

    /// Hands a control request to the engine.
    pub(super) fn ask(&mut self, request: Request) -> Verdict {
        let control = match request {
            Request::Fail(member) => Control::Fail(member),
            Request::Remove(member) => Control::Remove(member),
            Request::Add { disk, back } => return self.ask_to_add(disk, back),
            Request::Replace(member) => Control::Replace { member, with: None },
            Request::Flags(member, wish) => Control::Flags(member, wish),
            Request::Bitmap(Bits::None) => Control::Bitmap(BitmapWish::None),
            Request::Bitmap(Bits::Internal) => {
                let new = NewBitmap {
                    region_bytes: Some(4096),
                    write_behind: self.options.write_behind,
                    offset_sectors: None,
                };
                Control::Bitmap(BitmapWish::Internal(new))
            }
            Request::Bitmap(Bits::File) => return self.offer_file(),
            Request::Start(action) => Control::Sync(SyncRequest::Start(action)),
            Request::Idle | Request::Thaw => Control::Sync(SyncRequest::Idle),
            Request::Freeze => Control::Sync(SyncRequest::Frozen),
            Request::ReadOnly | Request::ReadAuto => self.begin_rest(request),
            Request::ReadWrite => {
                self.live_mut().monitor.note_resting(false);
                Control::ReadOnly(false)
            }
            Request::Limit(number) => self.limits_of(number),
            Request::Unlimit => super::limits::none(),
            Request::Mode(layout) => self.change_mode(layout),
            Request::Level(number) => Control::Level(super::levels::wish_of(number)),
            Request::Stop => Control::Stop,
            Request::Added { .. } | Request::FileOffered { .. } => {
                unreachable!("an answer, never a question")
            }
        };
        self.deliver_control(request, control)
    }

    fn deliver_control(&mut self, request: Request, control: Control) -> Verdict {
        self.next_request += 1;
        let id = ControlId(self.next_request);
        self.live_mut().admin.insert(id, request);
        if control.changes() {
            self.wake();
        }
        self.deliver(Event::Control(id, control))
    }

    /// The file is to hold the bitmap from now on. Whoever runs the core opens it once nobody uses
    /// it any more, not even an I/O that was given up.
    fn offer_file(&mut self) -> Verdict {
        let Some(disk) = self.file.filter(|_| self.file_id.is_none()) else {
            return Ok(());
        };
        if self.absent[disk] || self.live().ios.values().any(|info| info.is_on(disk)) {
            return Ok(());
        }
        if self.disks[disk].power() == Power::Gone {
            self.disks[disk].cut(Cut::Sectors(500));
        }
        let id = MemberId(self.next_member);
        self.next_member += 1;
        self.file_id = Some(id);
        self.tell_file();
        let file = BitmapFile {
            id,
            name: "bits".into(),
            size_sectors: self.disks[disk].sectors(),
        };
        let region = self.options.bitmap_bytes.expect("a file has a bitmap");
        let new = NewBitmap {
            region_bytes: Some(region),
            write_behind: self.options.write_behind,
            offset_sectors: None,
        };
        let wish = Control::Bitmap(BitmapWish::File(file, new));
        self.deliver_control(Request::FileOffered { member: id }, wish)
    }

    /// The engine does not use the file any more.
    pub(super) fn file_let_go(&mut self, member: MemberId) {
        if self.file_id == Some(member) {
            self.file_id = None;
            self.live_mut().monitor.let_go_of_bits(member);
        }
    }

    fn ask_to_add(&mut self, disk: usize, back: bool) -> Verdict {
        let member = MemberId(self.next_member);
        self.next_member += 1;
        let size_sectors = self.disks[disk].sectors();
        let sector = super_sector(self.options.minor, size_sectors);
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.setup_rng.next_u64().to_le_bytes());
        uuid[8..].copy_from_slice(&self.setup_rng.next_u64().to_le_bytes());
        let superblock = superblock_on(&self.disks[disk], self.options.minor).ok();
        let superblock = superblock.filter(|_| self.carries[disk]);
        let new = NewMember {
            id: member,
            name: format!("disk{disk}"),
            size_sectors,
            logical_block_bytes: self.disks[disk].block_bytes(),
            device_uuid: uuid,
            flags: FlagWish::default(),
            bad_block_log: true,
            superblock: superblock.map(Box::new),
        };
        let view = MemberView::new(disk, sector, back, &self.disks);
        let live = self.live_mut();
        live.members.insert(member, disk);
        live.monitor.add_member(member, view);
        let control = if back {
            Control::ReAdd(new)
        } else {
            Control::Add(new)
        };
        self.deliver_control(Request::Added { member }, control)
    }

    pub(super) fn admin_answered(
        &mut self,
        id: ControlId,
        result: Result<ControlReply, ControlError>,
    ) -> Verdict {
        let Some(request) = self.live_mut().admin.remove(&id) else {
            let text = format!("control {id:?} was answered and is not pending");
            return Err(Violation::new(Rule::Lifetime, text));
        };
        let error = result.as_ref().err().map(ToString::to_string);
        self.manual.control_answered(id, error);
        match (request, result) {
            (Request::Added { member }, Err(_)) => {
                let live = self.live_mut();
                live.members.remove(&member);
                live.monitor.note_released(member);
            }
            (Request::FileOffered { member }, Err(_)) => self.file_let_go(member),
            (Request::Fail(member), Err(_)) => {
                let disk = self.live().members.get(&member).copied();
                // What is under way on it may be what hangs: then a fault has doomed it.
                let sound = |disk: &usize| {
                    let disk = &self.disks[*disk];
                    !disk.is_armed() && disk.in_flight() == 0
                };
                if let Some(disk) = disk.filter(sound) {
                    self.atlas.forget(disk);
                }
            }
            (Request::ReadOnly | Request::ReadAuto, answer) => {
                self.rests(request, answer.is_ok())?;
            }
            (Request::ReadWrite, Ok(_)) => self.goes_on(),
            (Request::Stop, Err(ControlError::Busy(_))) => {
                self.after(10_000_000, Ev::Undo(Request::Stop));
            }
            (Request::Level(number), Ok(_)) if self.options.minor == OLD => {
                let text = format!("with metadata 0.90 it became {number:#x}");
                return Err(Violation::new(Rule::Reshape, text));
            }
            (Request::Level(number), Err(ControlError::Busy(_))) => {
                self.ask_again_to_become(number);
            }
            (Request::Freeze, Ok(_)) => {
                self.live_mut().frozen = true;
                let pause = self.admin_rng.spread(2_000_000_000);
                self.undo_after(pause, Request::Thaw);
            }
            (Request::Thaw | Request::Idle, Ok(_)) => self.live_mut().frozen = false,
            // It has become a raid0, which has nothing to sync. What it becomes next is frozen.
            (Request::Thaw, Err(_)) if self.is_bare() && self.live().phase.is_work() => {
                self.undo_after(1_000_000_000, Request::Thaw);
            }
            (Request::Thaw | Request::Unlimit, Err(_)) if self.is_bare() => {}
            (
                Request::Stop
                | Request::ReadWrite
                | Request::Thaw
                | Request::Unlimit
                | Request::Mode(_),
                Err(error),
            ) => {
                let text = format!("{request:?} was refused: {error}");
                return Err(Violation::new(Rule::Error, text));
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes something back later; a script does that itself.
    pub(super) fn undo_after(&mut self, pause: u64, request: Request) {
        if !self.manual.on {
            self.after(pause, Ev::Undo(request));
        }
    }
}
