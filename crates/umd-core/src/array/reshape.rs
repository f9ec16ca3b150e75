//! What a reshape moves: rows, from where they were to where they are going to be.
//!
//! ```text
//!   on a member, forwards (data moves down by the distance; backwards is its mirror image):
//!
//!        new place of            old place of
//!      rows below F   [ window ]   the window   rows beyond
//!   --|--------------|----------|~~~~~~~~~~~~~~|=============
//!                    `-- no longer needed: the old places of rows below F, as superblocks say
//!
//!   lock the window --> read by the old geometry --> write by the new one, part by part
//!     --> flush, superblocks say F' --> rows of the window lie on the new side --> unlock
//! ```
//!
//! The window is no longer than the distance: what it writes on is below the frontier that stands
//! on all members, so a crash finds every row of the window, and beyond, where it was. Rows lie on
//! the new side only when superblocks say so: what a host writes there is found again. The lock
//! keeps hosts out of the window meanwhile, and has waited for what they had under way in it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::engine::Array;
use super::regrade::Regrade;
use super::status::{ReshapeStatus, SyncStatus};
use crate::geometry::{Geometry, Raid456, Shape};
use crate::lane::{Holder, LockId, Shift, fine_middle};
use crate::member::{Access, Effect, Gather, Owner, Round};
use crate::personality::parity::{self, WriteKind, rebuild};
use crate::sync::Speed;
use crate::value::{
    Buf, ControlError, Instant, IoDone, IoError, IoOp, MemberId, Notice, Pool, Purpose, Slice,
    SyncAction, UnitId,
};

/// The longest window: hosts wait while it is moved.
const WINDOW_SECTORS: u64 = 8192;
/// What is read and written at a time.
const PART_SECTORS: u64 = 1024;

/// A reshape that is under way, or waits.
#[derive(Debug)]
pub(super) struct Reshape {
    geometry: Arc<Geometry>,
    layout: u32,
    backwards: bool,
    /// The least that data is moved by on a member.
    distance: u64,
    /// As superblocks have it.
    frontier: u64,
    window: Option<Window>,
    /// What the array becomes when it is over.
    last: Option<Shape>,
    /// Superblocks of all members say where it stands: nothing is moved before.
    declared: Declared,
    /// Why it does not go on.
    stuck: Option<String>,
    speed: Speed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Declared {
    No,
    Noted(u64),
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Locking,
    /// A part is to be begun, or none is left.
    Ready,
    Reading,
    Read,
    Writing,
    Written,
    Recording(u64),
}

#[derive(Debug)]
struct Window {
    start: u64,
    end: u64,
    lock: LockId,
    stage: Stage,
    /// The part: where it begins, and how long it is.
    at: u64,
    len: u64,
    columns: Gather,
    /// By whom it was read.
    epoch: u64,
    /// Writes under way.
    left: usize,
}

impl Reshape {
    pub fn new(
        now: Instant,
        (geometry, layout): (Arc<Geometry>, u32),
        (frontier, backwards): (u64, bool),
        distance: u64,
    ) -> Reshape {
        let mut made = Reshape {
            geometry,
            layout,
            backwards,
            distance,
            frontier,
            window: None,
            last: None,
            declared: Declared::No,
            stuck: None,
            speed: Speed::new(now, 0),
        };
        assert!(
            distance >= made.map().chunk_sectors(),
            "a window holds a row"
        );
        made.speed = Speed::new(now, made.done());
        made
    }

    /// What the array becomes afterwards.
    pub fn then(self, last: Option<Shape>) -> Reshape {
        Reshape { last, ..self }
    }

    fn map(&self) -> &Raid456 {
        match &*self.geometry {
            Geometry::Parity(map) => map,
            _ => unreachable!("only levels with parity are reshaped"),
        }
    }

    pub fn geometry(&self) -> &Arc<Geometry> {
        &self.geometry
    }

    pub fn layout(&self) -> u32 {
        self.layout
    }

    /// Something is being moved.
    pub fn is_moving(&self) -> bool {
        self.window.is_some()
    }

    /// Member sectors of rows that have been moved.
    fn done(&self) -> u64 {
        match self.backwards {
            true => self.map().dev_sectors() - self.frontier,
            false => self.frontier,
        }
    }

    pub fn is_over(&self) -> bool {
        self.done() == self.map().dev_sectors()
    }

    fn shift(&self) -> Shift {
        Shift {
            geometry: self.geometry.clone(),
            frontier_sectors: self.frontier,
            backwards: self.backwards,
        }
    }

    /// What superblocks say of a frontier.
    fn position(&self, frontier: u64) -> u64 {
        frontier * u64::from(self.map().data_disks())
    }

    /// Whether it waits: so many member sectors are to be moved (md's `sync_max`).
    fn is_held(&self, to: u64) -> bool {
        let chunk = self.map().chunk_sectors();
        !self.is_over() && self.window.is_none() && self.done() >= to - to % chunk
    }

    /// The next window: as long as the distance allows.
    fn next(&self, to: u64) -> (u64, u64) {
        let chunk = self.map().chunk_sectors();
        assert!(!self.is_held(to), "nothing is moved behind that");
        let most = self.distance.min(WINDOW_SECTORS.max(chunk));
        let most = most.min(to - to % chunk - self.done());
        let most = most - most % chunk;
        assert!(most > 0 && !self.is_over(), "each window moves a row");
        match self.backwards {
            true => (self.frontier.saturating_sub(most), self.frontier),
            false => (
                self.frontier,
                (self.frontier + most).min(self.map().dev_sectors()),
            ),
        }
    }
}

/// What is written of a part, by slot: pieces that lie one behind the other.
type Columns = Vec<SmallVec<[Slice; 4]>>;

/// The part `at..at + len` by the new geometry. `read`: what was read by the old one, by slot.
fn moved(
    (old, new): (&Raid456, &Raid456),
    (at, len): (u64, u64),
    read: impl IntoIterator<Item = Option<Buf>>,
    (access, pool): (&[Access], &Pool),
) -> Columns {
    let read: Vec<Option<Slice>> = read.into_iter().map(|buf| Some(buf?.freeze())).collect();
    let chunk = old.chunk_sectors();
    let mut columns: Columns = vec![SmallVec::new(); access.len()];
    let mut from = at;
    while from < at + len {
        let to = ((from / chunk + 1) * chunk).min(at + len);
        let bytes = |sector: u64| usize::try_from((sector - at) * 512).expect("a part fits memory");
        let range = bytes(from)..bytes(to);
        let row = old.row(from / chunk);
        let held: SmallVec<[Option<Slice>; 16]> = read
            .iter()
            .map(|one| one.as_ref().map(|one| one.sub(range.clone())))
            .collect();
        let lost = row.data.iter().copied();
        let lost = lost.filter(|slot| held[usize::from(*slot)].is_none());
        let mut lost: SmallVec<[(u16, Buf); 2]> =
            lost.map(|slot| (slot, pool.take(range.len()))).collect();
        if !lost.is_empty() {
            let views: SmallVec<[Option<&[u8]>; 16]> = held
                .iter()
                .map(|one| one.as_ref().map(Slice::as_slice))
                .collect();
            let mut wanted: SmallVec<[(u16, &mut [u8]); 2]> = lost
                .iter_mut()
                .map(|(slot, buf)| (*slot, buf.as_mut_slice()))
                .collect();
            rebuild(&row, &views, &mut wanted);
        }
        let mut held = held;
        for (slot, buf) in lost {
            held[usize::from(slot)] = Some(buf.freeze());
        }
        let data: Vec<Option<Slice>> = row
            .data
            .iter()
            .map(|slot| held[usize::from(*slot)].clone())
            .collect();
        assert!(data.iter().all(Option::is_some), "all data of the row");
        let writes = parity::compute_write(
            WriteKind::Full,
            parity::Band {
                row: &new.row(from / chunk),
                access,
                new: &data,
                old: &mut [],
                len_bytes: range.len(),
                pool,
            },
        );
        for write in writes {
            columns[usize::from(write.slot)].push(write.bytes);
        }
        from = to;
    }
    columns
}

impl Array {
    /// Shows the lane what lies where.
    pub(super) fn show_shift(&mut self) {
        self.io.bad.set_moving(self.reshape.is_some());
        self.lane
            .set_shift(self.reshape.as_ref().map(Reshape::shift));
    }

    /// What is not to be had while everything is being moved.
    pub(super) fn not_reshaping(&self, what: &str) -> Result<(), ControlError> {
        match (&self.reshape, &self.regrade) {
            (None, None) => Ok(()),
            (Some(_), _) => Err(ControlError::Busy(format!(
                "the array is being reshaped: {what} until that is over"
            ))),
            (None, Some(_)) => Err(ControlError::Busy(format!(
                "the level of the array is being changed: {what} until that is over"
            ))),
        }
    }

    /// An administrator did something: what was given up may be tried again.
    pub(super) fn unblock_reshape(&mut self) {
        if let Some(reshape) = &mut self.reshape {
            reshape.stuck = None;
        }
    }

    /// Redundancy agrees before anything is moved, and nothing else is done meanwhile.
    pub(super) fn maintain_sync_of_reshape(&mut self) -> bool {
        let moving = self.reshape.as_ref().is_some_and(Reshape::is_moving);
        let due = self.due_action();
        if moving || due != Some(SyncAction::Resync) || !self.may_begin_run(SyncAction::Resync) {
            return false;
        }
        self.with_sync(|sync, rig| sync.begin(rig, SyncAction::Resync));
        self.run_begun(SyncAction::Resync);
        self.notify(Notice::SyncStarted(SyncAction::Resync));
        true
    }

    /// Whether anything may be moved now.
    fn may_move(&self) -> bool {
        let degraded = self.epoch.degraded() > 0;
        let free = self.may_write() && self.stopping.is_none() && self.rebit.is_none();
        let agrees = self.sync.is_idle() && !self.sync.awaits_resync(degraded);
        free && agrees && !self.sync.is_frozen()
    }

    /// Goes on with a reshape. Returns whether anything changed.
    pub(super) fn maintain_reshape(&mut self) -> bool {
        if self.regrade.is_some() {
            return false;
        }
        let Some(reshape) = &self.reshape else {
            return false;
        };
        let may = self.may_move() && reshape.stuck.is_none();
        let Some(window) = &reshape.window else {
            return may && self.begin_window();
        };
        let broken = self.broken.is_some();
        match window.stage {
            Stage::Reading | Stage::Writing => false,
            Stage::Recording(_) if broken => self.leave_window(),
            Stage::Recording(change) => {
                self.metadata.has_recorded(change) && self.window_recorded()
            }
            _ if !may => self.leave_window(),
            Stage::Locking => false,
            Stage::Ready if window.at == window.end => self.record_window(),
            Stage::Ready => self.read_part(),
            Stage::Read => self.write_part(),
            Stage::Written => self.part_over(),
        }
    }

    fn begin_window(&mut self) -> bool {
        let reshape = self.reshape.as_mut().expect("one is under way");
        match reshape.declared {
            // What a crash left on some members only is on all of them before anything is moved.
            Declared::No => {
                reshape.declared = Declared::Noted(self.metadata.note_change(true));
                return true;
            }
            Declared::Noted(change) if !self.metadata.has_recorded(change) => return false,
            _ => reshape.declared = Declared::Yes,
        }
        if reshape.is_over() {
            self.regrade = Some(Regrade::finish(reshape.last));
            return true;
        }
        let to = self.sync.reach().to;
        if reshape.is_held(to) {
            return false;
        }
        let (start, end) = reshape.next(to);
        let holder = Holder::Unit(UnitId::Reshape);
        let (lock, held) = self.lane.locks.acquire(holder, start, end);
        reshape.window = Some(Window {
            start,
            end,
            lock,
            stage: if held { Stage::Ready } else { Stage::Locking },
            at: start,
            len: 0,
            columns: Gather::default(),
            epoch: 0,
            left: 0,
        });
        true
    }

    /// Hosts have left the window.
    pub(super) fn reshape_locked(&mut self) {
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.as_mut().expect("it asked for its lock");
        assert_eq!(window.stage, Stage::Locking, "a lock is granted once");
        window.stage = Stage::Ready;
    }

    /// Gives the window up: its rows are where they were.
    fn leave_window(&mut self) -> bool {
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.take().expect("there is a window");
        assert!(
            window.left == 0 && window.columns.is_idle(),
            "no I/O is left"
        );
        self.lane.abandon(window.lock, UnitId::Reshape);
        true
    }

    /// Reads the next part from all who hold it.
    fn read_part(&mut self) -> bool {
        let epoch = self.epoch.clone();
        let block = self.members.block_sectors();
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.as_mut().expect("there is a window");
        if window.len == 0 {
            window.len = PART_SECTORS.min(window.end - window.at);
        }
        let end = window.at + window.len;
        let mut slots: SmallVec<[u16; 16]> = SmallVec::new();
        for slot in 0..self.info.raid_disks {
            let access = self.cover.locked_access(epoch.column(slot), window.at, end);
            if access == Access::Usable && !window.columns.unreadable().contains(&slot) {
                slots.push(slot);
            }
        }
        let missing = usize::from(self.info.raid_disks) - slots.len();
        if missing > usize::from(self.geometry.redundancy()) {
            let unreadable = !window.columns.unreadable().is_empty();
            if let Some(half) = fine_middle(window.len, block).filter(|_| unreadable) {
                window.len = half;
                window.columns = Gather::default();
                return true;
            }
            let why = format!("member sectors {}..{end} cannot be read", window.at);
            return self.give_up(why);
        }
        let round = Round {
            epoch: epoch.side(false),
            start_sectors: window.at,
            len_sectors: window.len,
            purpose: Purpose::Reshape,
        };
        window.epoch = epoch.number;
        window.stage = Stage::Reading;
        let owner = |tag| Owner::Sync {
            unit: UnitId::Reshape,
            tag,
        };
        window.columns.begin(&mut self.io, &round, slots, owner);
        true
    }

    /// What cannot be read cannot be moved: an administrator has to look.
    fn give_up(&mut self, why: String) -> bool {
        self.notify(Notice::Message(format!(
            "the reshape stopped: {why} from enough members; it goes on when they can be, after \
             `umd action NAME reshape`"
        )));
        let reshape = self.reshape.as_mut().expect("one is under way");
        reshape.stuck = Some(why);
        self.leave_window()
    }

    /// Writes what was read where it is going to be.
    fn write_part(&mut self) -> bool {
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.as_mut().expect("there is a window");
        if window.epoch != self.epoch.number {
            // Who has failed since may have been read.
            (window.columns, window.stage) = (Gather::default(), Stage::Ready);
            return true;
        }
        if window.columns.has_failed() {
            window.stage = Stage::Ready;
            return true;
        }
        if self.metadata.fault_recorded().is_none() {
            return false;
        }
        let Geometry::Parity(old) = &*self.geometry else {
            unreachable!("only levels with parity are reshaped")
        };
        let epoch = self.epoch.side(true);
        let access = |column: &Option<_>| match column {
            Some(_) => Access::WriteOnly,
            None => Access::Lost,
        };
        let access: SmallVec<[Access; 16]> = epoch.columns.iter().map(access).collect();
        let Geometry::Parity(new) = &*reshape.geometry else {
            unreachable!("only levels with parity are reshaped")
        };
        let part = (window.at, window.len);
        let read = window.columns.take();
        let pool = self.io.pool.clone();
        let columns = moved((old, new), part, read, (&access, &pool));
        for (slot, data) in columns.into_iter().enumerate() {
            let Some(column) = epoch.columns[slot].filter(|_| !data.is_empty()) else {
                continue;
            };
            let op = IoOp::Write {
                offset_sectors: column.data_offset_sectors + window.at,
                data,
                fua: false,
            };
            let owner = Owner::Sync {
                unit: UnitId::Reshape,
                tag: slot as u32,
            };
            self.io.submit(column.member, Purpose::Reshape, op, owner);
            window.left += 1;
        }
        assert!(window.left > 0, "somebody holds the part");
        window.stage = Stage::Writing;
        true
    }

    /// A member I/O of the window ended.
    pub(super) fn reshape_done(
        &mut self,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.as_mut().expect("its I/O belongs to it");
        if window.stage == Stage::Reading {
            if window.columns.done(&mut self.io, tag, member, result) {
                window.stage = Stage::Read;
            }
            return;
        }
        assert_eq!(window.stage, Stage::Writing, "no I/O in another stage");
        assert!(window.left > 0, "a write ended that never began");
        window.left -= 1;
        if let Err(error) = result {
            let why = format!("write failed: {error}");
            self.io.effects.push(Effect::Fail(member, why));
        }
        if window.left == 0 {
            window.stage = Stage::Written;
        }
    }

    fn part_over(&mut self) -> bool {
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.as_mut().expect("there is a window");
        window.at += window.len;
        (window.len, window.columns) = (0, Gather::default());
        window.stage = Stage::Ready;
        true
    }

    /// The window is where it is to be: superblocks are to say so.
    fn record_window(&mut self) -> bool {
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.as_mut().expect("there is a window");
        let frontier = match reshape.backwards {
            true => window.start,
            false => window.end,
        };
        let change = self.metadata.note_change(true);
        window.stage = Stage::Recording(change);
        let position = reshape.position(frontier);
        for member in self.members.iter_mut() {
            member.superblock.fields.reshape_position_sectors = position;
        }
        true
    }

    /// Superblocks say so: from here on its rows lie on the new side.
    fn window_recorded(&mut self) -> bool {
        let now = self.io.now().mono;
        let reshape = self.reshape.as_mut().expect("one is under way");
        let window = reshape.window.take().expect("there is a window");
        reshape.frontier = match reshape.backwards {
            true => window.start,
            false => window.end,
        };
        let done = reshape.done();
        reshape.speed.mark(now, done);
        self.show_shift();
        self.lane.unlock(window.lock);
        true
    }

    /// What must hold between two events.
    pub(super) fn check_reshape(&self) {
        let Some(reshape) = &self.reshape else {
            assert!(self.lane.shift().is_none(), "nothing is being moved");
            return;
        };
        let shift = self.lane.shift().expect("the lane knows of it");
        assert_eq!(shift.frontier_sectors, reshape.frontier, "one frontier");
        let Some(window) = &reshape.window else {
            return;
        };
        assert!(window.start < window.end, "a window moves something");
        let len = window.end - window.start;
        assert!(
            len <= reshape.distance,
            "it writes on no row that is needed"
        );
        let beside = match reshape.backwards {
            true => window.end,
            false => window.start,
        };
        assert_eq!(beside, reshape.frontier, "the window lies at the frontier");
    }

    pub(super) fn reshape_status(&self) -> Option<ReshapeStatus> {
        let reshape = self.reshape.as_ref()?;
        Some(ReshapeStatus {
            new_layout: reshape.layout,
            position_sectors: reshape.position(reshape.frontier),
            backwards: reshape.backwards,
            then_level: reshape.last.map(|shape| shape.level.to_raw()),
            waits: reshape.stuck.clone(),
        })
    }

    /// As it is shown beside sync actions.
    pub(super) fn reshape_sync_status(&self) -> Option<SyncStatus> {
        let Some(reshape) = &self.reshape else {
            let end = self.info.dev_sectors;
            return self.regrade.as_ref().map(|_| SyncStatus {
                action: SyncAction::Reshape,
                done_sectors: end,
                total_sectors: end,
                speed_kib_s: 0,
                finish_seconds: None,
                held: false,
            });
        };
        let goes = self.may_move() && reshape.stuck.is_none() || reshape.is_moving();
        let now = self.io.now().mono;
        let (done, total) = (reshape.done(), reshape.map().dev_sectors());
        goes.then(|| SyncStatus {
            action: SyncAction::Reshape,
            done_sectors: done,
            total_sectors: total,
            speed_kib_s: reshape.speed.kib_per_second(now, done),
            finish_seconds: reshape.speed.finish_seconds(now, done, total),
            held: reshape.is_held(self.sync.reach().to),
        })
    }
}
