//! One unit: a range of all members, looked at and mended under its lock.
//!
//! ```text
//!   Lock -> Read -> compare / compute -> Write -> Done
//!            ^  |                  |
//!            +--+ a read failed    +-> Done (nothing to write)
//! ```

use std::sync::Arc;

use smallvec::SmallVec;

use super::SyncRig;
use crate::geometry::{Geometry, Raid456, Row};
use crate::lane::{Holder, LockId, NOWHERE};
use crate::member::{Access, Effect, Gather, Owner, Round};
use crate::personality::parity::{parity_of, rebuild};
use crate::value::{Buf, Exhibit, IoDone, IoError, IoOp, MemberId, Purpose, Slice, SyncAction};

/// Bytes that are compared, and counted, as one: md counts RAID1 differences by 64 KiB.
const MIRROR_BLOCK_BYTES: usize = 64 * 1024;
/// Ranges with unreadable sectors are looked at in parts of this size.
const PART_SECTORS: u64 = 8;
/// And parity by 4 KiB rows.
const PARITY_BLOCK_BYTES: usize = 4096;

/// Proof that a unit holds the lock of the range it writes. Sync writes are made of it only.
#[derive(Debug)]
pub struct SyncWindow {
    start: u64,
    end: u64,
    lock: LockId,
}

/// How a unit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnitEnd {
    Done {
        mismatch_sectors: u64,
    },
    Abandoned,
    /// A part of the range cannot be read somewhere: look at it in smaller parts.
    Split,
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Locking,
    Reading,
    Writing,
}

/// A write that a unit decided on.
#[derive(Debug)]
struct Mend {
    slot: u16,
    /// Member data sector.
    sector: u64,
    bytes: Slice,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Unit {
    action: SyncAction,
    geometry: Arc<Geometry>,
    start: u64,
    end: u64,
    targets: Vec<MemberId>,
    window: Option<SyncWindow>,
    lock: Option<LockId>,
    stage: Stage,
    columns: Gather,
    /// Writes under way.
    left: usize,
    /// One of them failed.
    failed: bool,
    mismatch_sectors: u64,
}

impl Unit {
    pub fn new(
        action: SyncAction,
        geometry: Arc<Geometry>,
        (start, end): (u64, u64),
        targets: Vec<MemberId>,
    ) -> Unit {
        Unit {
            action,
            geometry,
            start,
            end,
            targets,
            window: None,
            lock: None,
            stage: Stage::Locking,
            columns: Gather::default(),
            left: 0,
            failed: false,
            mismatch_sectors: 0,
        }
    }

    pub fn range(&self) -> (u64, u64) {
        (self.start, self.end)
    }

    pub fn lock(&mut self, rig: &mut SyncRig<'_>, index: u32) -> Option<UnitEnd> {
        let holder = Holder::Unit(index);
        let at = if self.waits(rig) { 0 } else { NOWHERE };
        let (lock, held) = rig
            .lane
            .locks
            .acquire(holder, at + self.start, at + self.end);
        self.lock = Some(lock);
        if held { self.locked(rig, index) } else { None }
    }

    /// Whether the unit waits for writes in its range: it always does.
    fn waits(&self, rig: &SyncRig<'_>) -> bool {
        // M14 (2f73d3c55d09): a resync did not wait for writes that were on their way, and put old
        // data over theirs. M53 (133d4527eab8): a rebuild began while writes that did not know the
        // new member were on their way.
        let overtakes = match self.action {
            SyncAction::Recover => Exhibit::M53,
            _ => Exhibit::M14,
        };
        !rig.io.museum.on(overtakes)
    }

    pub fn unlock(self, rig: &mut SyncRig<'_>) {
        let idle = self.left == 0 && self.columns.is_idle();
        assert!(idle, "a lock goes back after the last I/O");
        rig.lane.unlock(self.lock.expect("locked at the start"));
    }

    pub fn locked(&mut self, rig: &mut SyncRig<'_>, index: u32) -> Option<UnitEnd> {
        let lock = self.lock.expect("just granted");
        assert_eq!(self.stage, Stage::Locking, "a lock is granted once");
        self.window = Some(SyncWindow {
            start: self.start,
            end: self.end,
            lock,
        });
        self.read(rig, index)
    }

    fn is_target(&self, rig: &SyncRig<'_>, slot: u16) -> bool {
        rig.epoch
            .column(slot)
            .is_some_and(|c| self.targets.contains(&c.member))
    }

    /// Reads every column that holds valid data here and may be needed.
    fn read(&mut self, rig: &mut SyncRig<'_>, index: u32) -> Option<UnitEnd> {
        let slots = self.geometry.raid_disks();
        let mut readable: SmallVec<[u16; 16]> = (0..slots)
            .filter(|slot| !self.columns.unreadable().contains(slot) && !self.is_target(rig, *slot))
            .filter(|slot| {
                let column = rig.epoch.column(*slot);
                rig.cover.locked_access(column, self.start, self.end) == Access::Usable
            })
            .collect();
        let mirrored = matches!(*self.geometry, Geometry::Mirrored { .. });
        let missing = usize::from(slots) - readable.len();
        if readable.is_empty() && rig.io.museum.on(Exhibit::M19) {
            // M19 (b7c178d9e57c): a check that could not read any member went on to compare.
            return self.write(rig, index);
        }
        if readable.is_empty() || (!mirrored && missing > usize::from(self.geometry.redundancy())) {
            return Some(self.unreadable_range(rig));
        }
        // The source is the leg that host reads see: one in sync, the first of them.
        readable.sort_by_key(|slot| !rig.epoch.column(*slot).is_some_and(|c| c.in_sync));
        if rig.io.museum.on(Exhibit::U18) {
            // U18: the source was another leg than the one hosts had read.
            readable.reverse();
        }
        if mirrored && self.action == SyncAction::Recover {
            readable.truncate(1);
        }
        self.stage = Stage::Reading;
        let round = Round {
            epoch: rig.epoch,
            start_sectors: self.start,
            len_sectors: self.end - self.start,
            purpose: self.purpose(),
        };
        let owner = |tag| Owner::Sync { unit: index, tag };
        self.columns.begin(rig.io, &round, readable, owner);
        None
    }

    fn purpose(&self) -> Purpose {
        match self.action {
            SyncAction::Resync | SyncAction::Recover => Purpose::Resync,
            SyncAction::Check | SyncAction::Repair => Purpose::Scrub,
        }
    }

    /// Nobody can invent data, and what was not looked at is not called in sync. Check and repair
    /// have nothing to compare, and go on.
    fn unreadable_range(&self, rig: &SyncRig<'_>) -> UnitEnd {
        // M25 (linux-raid 2023-06-02): what could not be read was given up, and the rebuild was
        // over all the same.
        let given_up = rig.io.museum.on(Exhibit::M25);
        match self.action {
            SyncAction::Recover if given_up => UnitEnd::Done {
                mismatch_sectors: 0,
            },
            SyncAction::Resync | SyncAction::Recover => UnitEnd::Failed(format!(
                "member sectors {}..{} cannot be read from enough members",
                self.start, self.end
            )),
            _ => UnitEnd::Done {
                mismatch_sectors: 0,
            },
        }
    }

    pub fn done(
        &mut self,
        rig: &mut SyncRig<'_>,
        index: u32,
        tag: u32,
        (member, result): (MemberId, Result<IoDone, IoError>),
        stopping: bool,
    ) -> Option<UnitEnd> {
        if self.stage == Stage::Reading {
            if !self.columns.done(rig.io, tag, member, result) {
                return None;
            }
            let long = self.end - self.start > PART_SECTORS;
            return match self.columns.has_failed() {
                _ if stopping || rig.metadata.fault_pending() => Some(UnitEnd::Abandoned),
                true if long => Some(UnitEnd::Split),
                true => self.read(rig, index),
                false => self.write(rig, index),
            };
        }
        assert_eq!(self.stage, Stage::Writing, "no I/O before the lock");
        assert!(self.left > 0, "a write ended that never began");
        self.left -= 1;
        self.write_done(rig, tag, member, result);
        match self.left {
            0 if self.failed => Some(UnitEnd::Abandoned),
            0 => Some(self.over()),
            _ => None,
        }
    }

    fn write_done(
        &mut self,
        rig: &mut SyncRig<'_>,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        let unreadable = self.columns.unreadable();
        if let Err(error) = result {
            let why = format!("write failed: {error}");
            rig.io.effects.push(Effect::Fail(member, why));
            self.failed = true;
        } else if unreadable.iter().any(|slot| u32::from(*slot) == tag) {
            rig.io.effects.push(Effect::Corrected(member));
        }
    }

    fn over(&self) -> UnitEnd {
        UnitEnd::Done {
            mismatch_sectors: self.mismatch_sectors,
        }
    }

    /// Everything is read: compares, computes, and writes what has to be written.
    fn write(&mut self, rig: &mut SyncRig<'_>, index: u32) -> Option<UnitEnd> {
        let mends = match &*self.geometry.clone() {
            Geometry::Mirrored { .. } => self.mirror_mends(rig),
            Geometry::Parity(map) => self.parity_mends(rig, map),
            Geometry::Striped(_) => unreachable!("nothing to sync without redundancy"),
        };
        let _ = self.columns.take();
        self.stage = Stage::Writing;
        for mend in mends {
            let Some(column) = rig.epoch.column(mend.slot) else {
                continue;
            };
            let window = self.window.as_ref().expect("locked");
            let end = mend.sector + (mend.bytes.len() / 512) as u64;
            assert!(
                window.start <= mend.sector && end <= window.end,
                "a sync write outside its window ({:?})",
                window.lock
            );
            let rewrite = self.columns.unreadable().contains(&mend.slot);
            assert!(rewrite || self.may_write(), "a check changes nothing");
            let purpose = if rewrite {
                Purpose::Rewrite
            } else {
                self.purpose()
            };
            let offset_sectors = column.data_offset_sectors + mend.sector;
            let data = SmallVec::from_iter([mend.bytes]);
            let owner = Owner::Sync {
                unit: index,
                tag: u32::from(mend.slot),
            };
            let op = IoOp::Write {
                offset_sectors,
                data,
                fua: false,
            };
            rig.io.submit(column.member, purpose, op, owner);
            self.left += 1;
        }
        (self.left == 0).then(|| self.over())
    }

    fn may_write(&self) -> bool {
        self.action != SyncAction::Check
    }

    /// Slots to be filled wholly: those being rebuilt, and those that could not be read.
    fn wholly(&self, rig: &SyncRig<'_>) -> SmallVec<[u16; 4]> {
        let slots = 0..self.geometry.raid_disks();
        let mut all: SmallVec<[u16; 4]> = slots.filter(|s| self.is_target(rig, *s)).collect();
        let unreadable = self.columns.unreadable().iter().copied();
        all.extend(unreadable.filter(|s| rig.epoch.column(*s).is_some_and(|c| c.in_sync)));
        all
    }

    fn mirror_mends(&mut self, rig: &SyncRig<'_>) -> Vec<Mend> {
        let read = self.columns.take();
        let mut bufs: Vec<(u16, Slice)> = read
            .into_iter()
            .enumerate()
            .filter_map(|(slot, buf)| Some((slot as u16, buf?.freeze())))
            .collect();
        let in_sync = |slot: u16| rig.epoch.column(slot).is_some_and(|c| c.in_sync);
        let mut first = bufs
            .iter()
            .position(|(slot, _)| in_sync(*slot))
            .unwrap_or(0);
        if rig.io.museum.on(Exhibit::U18) {
            first = bufs.len() - 1;
        }
        let (_, source) = bufs.remove(first);
        let mut mends = Vec::new();
        for slot in self.wholly(rig) {
            mends.push(Mend {
                slot,
                sector: self.start,
                bytes: source.clone(),
            });
        }
        let mut at = 0;
        while at < source.len() {
            let to = (at + MIRROR_BLOCK_BYTES).min(source.len());
            let good = source.sub(at..to);
            let differs = |leg: &Slice| leg.as_slice()[at..to] != *good.as_slice();
            let wrong: Vec<u16> = bufs
                .iter()
                .filter(|(_, leg)| differs(leg))
                .map(|(slot, _)| *slot)
                .collect();
            if !wrong.is_empty() {
                self.mismatch_sectors += (to - at) as u64 / 512;
            }
            for slot in wrong.into_iter().filter(|_| self.may_write()) {
                mends.push(Mend {
                    slot,
                    sector: self.start + at as u64 / 512,
                    bytes: good.clone(),
                });
            }
            at = to;
        }
        mends
    }

    fn parity_mends(&mut self, rig: &SyncRig<'_>, map: &Raid456) -> Vec<Mend> {
        let mut mends = Vec::new();
        let wholly = self.wholly(rig);
        let mut at = self.start;
        while at < self.end {
            let row = at / map.chunk_sectors();
            let to = ((row + 1) * map.chunk_sectors()).min(self.end);
            self.row_mends(rig, &map.row(row), (at, to), &wholly, &mut mends);
            at = to;
        }
        mends
    }

    /// One row: fills columns that are missing, then compares P and Q with the data.
    fn row_mends(
        &mut self,
        rig: &SyncRig<'_>,
        row: &Row,
        (from, to): (u64, u64),
        wholly: &[u16],
        mends: &mut Vec<Mend>,
    ) {
        let lo = (from - self.start) as usize * 512;
        let hi = (to - self.start) as usize * 512;
        let mut column: Vec<Option<&[u8]>> = self
            .columns
            .columns()
            .iter()
            .map(|b| b.as_ref().map(|b| &b.as_slice()[lo..hi]))
            .collect();
        let lost: SmallVec<[u16; 2]> = (0..column.len() as u16)
            .filter(|slot| column[usize::from(*slot)].is_none())
            .collect();
        let mut filled: SmallVec<[(u16, Buf); 2]> = lost
            .iter()
            .map(|slot| (*slot, rig.io.pool.take(hi - lo)))
            .collect();
        // M31 (4f4fd7c5798b): with one member of a RAID6 lost, its buffer was written before
        // anything had been computed into it.
        let unfilled = row.q.is_some() && lost.len() == 1 && rig.io.museum.on(Exhibit::M31);
        if !filled.is_empty() && !unfilled {
            let mut wanted: SmallVec<[(u16, &mut [u8]); 2]> = filled
                .iter_mut()
                .map(|(slot, buf)| (*slot, buf.as_mut_slice()))
                .collect();
            rebuild(row, &column, &mut wanted);
        }
        let filled: SmallVec<[(u16, Slice); 2]> = filled
            .into_iter()
            .map(|(slot, buf)| (slot, buf.freeze()))
            .collect();
        for (slot, bytes) in &filled {
            column[usize::from(*slot)] = Some(bytes.as_slice());
            if wholly.contains(slot) {
                mends.push(Mend {
                    slot: *slot,
                    sector: from,
                    bytes: bytes.clone(),
                });
            }
        }
        if self.action == SyncAction::Recover || lost.len() >= parities(row) {
            return;
        }
        let fresh = fresh_parity(rig, row, &column, hi - lo);
        let wrong = wrong_blocks(&column, &fresh, hi - lo);
        self.mismatch_sectors += wrong.iter().map(|(a, b)| (b - a) as u64 / 512).sum::<u64>();
        for (slot, bytes) in fresh
            .iter()
            .filter(|_| self.may_write() && !wrong.is_empty())
        {
            for (a, b) in &wrong {
                if !lost.contains(slot) {
                    let bytes = bytes.sub(*a..*b);
                    mends.push(Mend {
                        slot: *slot,
                        sector: from + *a as u64 / 512,
                        bytes,
                    });
                }
            }
        }
    }
}

fn parities(row: &Row) -> usize {
    1 + usize::from(row.q.is_some())
}

/// P and Q as they should be.
fn fresh_parity(
    rig: &SyncRig<'_>,
    row: &Row,
    column: &[Option<&[u8]>],
    len: usize,
) -> SmallVec<[(u16, Slice); 2]> {
    let mut p = rig.io.pool.take(len);
    let mut q = row.q.map(|_| rig.io.pool.take(len));
    let data = |slot: u16| column[usize::from(slot)].expect("all columns are there");
    parity_of(
        row,
        data,
        Some(p.as_mut_slice()),
        q.as_mut().map(Buf::as_mut_slice),
    );
    let q = row.q.zip(q.map(Buf::freeze));
    [(row.p, p.freeze())].into_iter().chain(q).collect()
}

/// The blocks in which a parity differs from what it should be, as byte ranges.
fn wrong_blocks(
    column: &[Option<&[u8]>],
    fresh: &[(u16, Slice)],
    len: usize,
) -> SmallVec<[(usize, usize); 4]> {
    let mut wrong: SmallVec<[(usize, usize); 4]> = SmallVec::new();
    let differs = |a: usize, b: usize| {
        fresh.iter().any(|(slot, should)| {
            let is = column[usize::from(*slot)].expect("all columns are there");
            is[a..b] != should.as_slice()[a..b]
        })
    };
    let mut at = 0;
    while at < len {
        let to = (at + PARITY_BLOCK_BYTES).min(len);
        if differs(at, to) {
            match wrong.last_mut() {
                Some(last) if last.1 == at => last.1 = to,
                _ => wrong.push((at, to)),
            }
        }
        at = to;
    }
    wrong
}
