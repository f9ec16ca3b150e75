//! The bits of all bitmaps come to stand for another length, on all nodes or on none.
//!
//! ```text
//!   asked --> (token) Recheck --> all: can it be? --> here --> all others --> Vacant --> answered
//!                                    | no               | not all
//!                                    v                  v
//!                            nothing was changed <-- back, here and there
//! ```
//!
//! Each bitmap says in its superblock what its bits stand for, and is read that way by everybody,
//! whatever the own bits stand for: nothing depends on all being alike at any moment. How one is
//! written anew, with what is dirty in it at every step, is in `bitmap/writer.rs`. Here the bitmap
//! of a node keeps its number of pages, so none of them moves, and kernels find them where they
//! were. Where it gets another number they move, and all wait for that: `moving.rs`.
//!
//! For a larger array bits get so long first that the pages do not change when the size does; if
//! there are several, they get as short again afterwards as there is room for.
//!
//! Whoever joins while the bitmaps of nobody are written is not let in: one of them would be its.
//!
//! Who died in the middle leaves some of one length and some of another. So every node looks at
//! all of them when it has served for a while, and after each change that others have told; where
//! they are not alike it has all made alike: the coarser one is that of all.

use std::collections::{BTreeSet, VecDeque};

use smallvec::SmallVec;
use umd_format::bitmap as format;

use super::alike::Look;
use super::changes::not_begun;
use super::shared::BLANK;
use crate::array::Array;
use crate::cluster::{Answer, Cannot, Desk, Event, Failure, NodeSlot, Wish, WishId};
use crate::member::{Effect, Io, Owner, State};
use crate::value::{
    ControlError, ControlId, ControlReply, Instant, IoDone, IoError, MemberId, Notice, Purpose,
};

/// Sectors of a page.
const ONE_PAGE: u64 = 8;

/// The least that a bit may stand for. (Tests have small disks.)
const LEAST_BYTES: u32 = if cfg!(test) {
    512
} else {
    format::REGION_BYTES_MIN
};

/// What bits stand for, where it changes.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    job: Option<Job>,
    /// Another node has told this length, and waits.
    pub(super) told: Option<u32>,
    pub(super) look: Look,
}

#[derive(Debug)]
struct Job {
    id: WishId,
    /// Who waits for it; nobody, if they were found not to be alike.
    control: Option<ControlId>,
    region_bytes: u32,
    old_region_bytes: u32,
    /// So much of each member is to be used then.
    then: Option<u64>,
    /// The array has just got larger, and that is answered however this ends.
    after_size: bool,
    /// They get other places.
    moves: bool,
    at: At,
}

/// The beginning of the bitmap of a slot.
pub(super) type Write = (NodeSlot, Vec<u8>);

#[derive(Debug)]
enum At {
    Wished,
    /// It is this node's turn; bitmaps that were not alike are looked at again.
    Again,
    /// It is this node's turn.
    Held,
    /// The own bitmap is written, with this length.
    Here(u32),
    /// Nothing is under way here.
    Done,
    /// The slots of nobody.
    Read {
        taken: BTreeSet<NodeSlot>,
        tried: SmallVec<[MemberId; 4]>,
        under_way: bool,
    },
    /// They are written, one step after the other.
    Blank {
        left: usize,
        then: VecDeque<Vec<Write>>,
    },
}

impl Chunks {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.look {
            Look::Due(at) => Some(at),
            _ => None,
        }
    }

    /// Whether runs wait.
    pub(super) fn is_changing(&self) -> bool {
        let held = |job: &Job| job.after_size || !matches!(job.at, At::Wished | At::Again);
        self.told.is_some() || self.job.as_ref().is_some_and(held)
    }

    /// Whether all bitmaps are being read.
    pub(super) fn is_looking(&self) -> bool {
        matches!(self.look, Look::At { .. })
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.job.is_some()
    }
}

impl Array {
    pub(super) fn chunks(&self) -> &Chunks {
        &self.shared.as_ref().expect("in a cluster").chunks
    }

    pub(super) fn chunks_mut(&mut self) -> &mut Chunks {
        &mut self.shared_mut().chunks
    }

    /// Whether a wish is about what bits stand for.
    pub(super) fn is_chunk(&self, id: WishId) -> bool {
        let job = self.chunks().job.as_ref();
        job.is_some_and(|job| job.id == id)
    }

    /// Whether a wish is about bitmaps that get other places.
    pub(super) fn is_move(&self, id: WishId) -> bool {
        let job = self.chunks().job.as_ref();
        job.is_some_and(|job| job.id == id && job.moves)
    }

    /// What bits are to stand for by a wish of this node.
    pub(super) fn wished_chunk(&self, id: WishId) -> u32 {
        let job = self.chunks().job.as_ref().filter(|job| job.id == id);
        job.expect("a wish of this node").region_bytes
    }

    pub(super) fn region_bytes(&self) -> u32 {
        let writer = self.bitmap.writer().expect("a cluster has bitmaps");
        writer.superblock_fields().region_raw
    }

    /// What bitmaps are for, with the size as it is recorded.
    pub(super) fn covered(&self) -> u64 {
        let writer = self.bitmap.writer().expect("a cluster has bitmaps");
        writer.superblock_fields().sync_size_sectors
    }

    fn each_sectors(&self) -> u64 {
        let shared = self.shared.as_ref().expect("in a cluster");
        shared.place.each_sectors
    }

    /// Whether bits can stand for so many bytes, and the bitmaps lie where they lie then, in those
    /// for so many sectors as well.
    pub(super) fn can_stand_for(&self, bytes: u32, sync_sectors: u64) -> Result<(), Cannot> {
        if !bytes.is_power_of_two() || bytes < LEAST_BYTES {
            return Err(Cannot::Follow);
        }
        let each = self.each_for(bytes);
        let most = self.covered().max(sync_sectors);
        let same = format::on_disk_sectors(format::regions(most, bytes)) == each;
        match same && each <= self.room_of_each() {
            true => Ok(()),
            false => Err(Cannot::Small),
        }
    }

    /// The same, where they lie now.
    pub(super) fn can_stand_here_for(&self, bytes: u32, sync_sectors: u64) -> Result<(), Cannot> {
        self.can_stand_for(bytes, sync_sectors)?;
        match self.each_for(bytes) == self.each_sectors() {
            true => Ok(()),
            false => Err(Cannot::Small),
        }
    }

    /// The shortest that bits can stand for so that bitmaps for so many sectors lie where they lie
    /// before that, if that is longer than what they stand for now.
    pub(super) fn longer_for(&self, sync_sectors: u64) -> Option<u32> {
        let now = self.region_bytes();
        if self.can_stand_here_for(now, sync_sectors).is_ok() {
            return None;
        }
        let longer = std::iter::successors(now.checked_mul(2), |bytes| bytes.checked_mul(2));
        let mut longer = longer.into_iter();
        longer.find(|bytes| self.can_stand_for(*bytes, sync_sectors).is_ok())
    }

    /// Whether bitmaps with such bits have several pages each.
    pub(super) fn had_pages(&self, bytes: u32) -> bool {
        self.each_for(bytes) > ONE_PAGE
    }

    /// The shortest, from so many bytes on, with which bitmaps for so many sectors have room.
    pub(super) fn shortest_for(&self, bytes: u32, sync_sectors: u64) -> Option<u32> {
        let least = format::least_region_bytes(sync_sectors, self.room_of_each())?;
        Some(least.max(bytes))
    }

    pub(super) fn runs_or_fills(&self) -> bool {
        let partly = |m: &crate::member::Member| matches!(m.state, State::Recovering { .. });
        self.sync.running().is_some() || self.members.iter().any(partly)
    }

    /// An administrator wants bits to stand for another length, on all nodes.
    pub(super) fn rechunk_on_all(&mut self, control: ControlId, bytes: u32) {
        match self.may_rechunk(bytes) {
            Err(error) => self.answer(control, Err(error)),
            Ok(()) if bytes == self.region_bytes() => self.answer(control, Ok(ControlReply::Done)),
            Ok(()) => {
                let sync_sectors = self.covered();
                self.wish_chunk(Some(control), bytes, sync_sectors, None);
            }
        }
    }

    fn may_rechunk(&self, bytes: u32) -> Result<(), ControlError> {
        let busy = |text: &str| Err(ControlError::Busy(text.into()));
        self.writable()?;
        if !bytes.is_power_of_two() || bytes < LEAST_BYTES {
            return Err(ControlError::Invalid(format!(
                "a bit cannot stand for {bytes} bytes: it is a power of two from 4K to 2G"
            )));
        }
        let shared = self.shared.as_ref().expect("in a cluster");
        if !shared.ready {
            return busy("this node is joining its cluster; try again when it serves");
        }
        if shared.chunks.is_wanted() || shared.sizes.is_wanted() || shared.moves.holds() {
            return busy("the bitmaps or the size are being changed already");
        }
        if let Some(run) = self.sync.running() {
            let word = run.action().word();
            return busy(&format!(
                "{word} is running: change the bitmaps when that is over"
            ));
        }
        let partly = |m: &&crate::member::Member| matches!(m.state, State::Recovering { .. });
        if let Some(member) = self.members.iter().find(partly) {
            let name = &member.name;
            return busy(&format!(
                "{name} is being filled: change the bitmaps when that is over"
            ));
        }
        match self.can_stand_for(bytes, self.covered()) {
            Ok(()) => Ok(()),
            Err(_) => {
                let room = self.room_of_each();
                let least = format::least_region_bytes(self.covered(), room);
                let least = least.map_or("nothing fits".into(), |least| {
                    format!("{} KiB is the least", least / 1024)
                });
                Err(ControlError::TooSmall(format!(
                    "there is room before the data for {} pages of 4 KiB for the bitmap of each \
                     node, and bits that stand for {} KiB each take {}: {least}",
                    room / ONE_PAGE,
                    bytes / 1024,
                    self.each_for(bytes) / ONE_PAGE
                )))
            }
        }
    }

    /// Has all change it; after that so much of each member is to be used.
    pub(super) fn wish_chunk(
        &mut self,
        control: Option<ControlId>,
        region_bytes: u32,
        sync_sectors: u64,
        then: Option<u64>,
    ) {
        let old_region_bytes = self.region_bytes();
        if self.each_for(region_bytes) != self.each_sectors() {
            return self.wish_move(control, region_bytes, sync_sectors, then);
        }
        let wish = Wish::Rechunk {
            region_bytes,
            old_region_bytes,
            sync_sectors,
        };
        self.wish_bits(control, (region_bytes, then), wish);
    }

    /// The same, where they get other places; or where somebody has not finished that.
    pub(super) fn wish_move(
        &mut self,
        control: Option<ControlId>,
        region_bytes: u32,
        sync_sectors: u64,
        then: Option<u64>,
    ) {
        let wish = Wish::Move {
            region_bytes,
            sync_sectors,
        };
        self.wish_bits(control, (region_bytes, then), wish);
    }

    fn wish_bits(
        &mut self,
        control: Option<ControlId>,
        (region_bytes, then): (u32, Option<u64>),
        wish: Wish,
    ) {
        let old_region_bytes = self.region_bytes();
        let shared = self.shared_mut();
        let id = shared.update.next_wish();
        shared.chunks.job = Some(Job {
            id,
            control,
            region_bytes,
            old_region_bytes,
            then,
            after_size: false,
            moves: matches!(wish, Wish::Move { .. }),
            at: At::Wished,
        });
        shared.say(Event::Wish(id, wish));
    }

    /// The array has just got larger, with bits that stand for more than they have to: they get
    /// shorter again, before anything is resynced. Its answer follows.
    pub(super) fn shorten_after_size(&mut self, control: ControlId, bytes: u32) {
        let covered = self.covered();
        self.wish_chunk(Some(control), bytes, covered, None);
        let job = self.chunks_mut().job.as_mut();
        job.expect("just wished").after_size = true;
    }

    /// Whether it is still wanted, and can be had here; from then on no run begins.
    pub(super) fn chunk_holds(&mut self) -> bool {
        let job = self.chunks().job.as_ref().expect("it was looked for");
        let (bytes, old) = (job.region_bytes, job.old_region_bytes);
        let (moves, finishes) = (job.moves, job.control.is_none());
        if moves && finishes {
            // Somebody else may have finished it.
            let holds = self.bitmaps_hold() && self.may_write();
            if holds {
                self.chunk_at(At::Held);
            }
            return holds;
        }
        let told = self.chunks().told.is_some() || self.bitmaps_hold();
        let recorded = self.shared_mut().sizes.is_recorded();
        let same = self.region_bytes() == old && !recorded && !told;
        let fits = match moves {
            true => self.can_stand_for(bytes, self.covered()).is_ok(),
            false => self.can_stand_here_for(bytes, self.covered()).is_ok(),
        };
        if !same || !fits || self.runs_or_fills() || !self.may_write() {
            return false;
        }
        self.chunk_at(At::Held);
        true
    }

    fn chunk_at(&mut self, at: At) {
        let job = self.chunks_mut().job.as_mut();
        job.expect("bitmaps are being changed").at = at;
    }

    /// The own bitmap is written, as wished or as it was.
    pub(super) fn begin_chunk(&mut self, back: bool) -> Option<Answer> {
        let job = self.chunks().job.as_ref().expect("it is its turn");
        let bytes = match back {
            true => job.old_region_bytes,
            false => job.region_bytes,
        };
        if let Some(answer) = self.begin_here(bytes) {
            return Some(answer);
        }
        self.chunk_at(At::Here(bytes));
        None
    }

    /// Bits of the own bitmap come to stand for so many bytes. An answer if nothing is to be done.
    fn begin_here(&mut self, bytes: u32) -> Option<Answer> {
        if !self.may_write() || self.io.is_cut_off() {
            return Some(Answer::Cannot(Cannot::Work));
        }
        self.sync.interrupt();
        match self.region_bytes() == bytes {
            true => {
                let active = self.members.iter().filter(|m| m.is_active());
                let ids: Vec<MemberId> = active.map(|m| m.id).collect();
                ids.into_iter().for_each(|id| self.bitmap.want_copy(id));
            }
            false => self.bitmap.want_region(bytes),
        }
        None
    }

    /// What another node asks, or tells.
    pub(super) fn chunk_told(
        &mut self,
        bytes: u32,
        sync_sectors: u64,
        asks: bool,
    ) -> Option<Answer> {
        if let Err(why) = self.can_stand_here_for(bytes, sync_sectors) {
            return Some(Answer::Cannot(why));
        }
        if self.bitmaps_hold() && !self.shared_mut().is_leaving() {
            return Some(Answer::Cannot(Cannot::Busy));
        }
        let longer = self.shared_mut().sizes.is_recorded();
        if asks {
            if !self.may_write() || self.io.is_cut_off() {
                return Some(Answer::Cannot(Cannot::Work));
            }
            return Some(match self.runs_or_fills() || longer {
                true => Answer::Cannot(Cannot::Busy),
                // It is for the size that comes next.
                false if !self.have_room_for(sync_sectors) => Answer::Cannot(Cannot::Small),
                false => Answer::Done,
            });
        }
        // Its bitmap says what it is, and whoever gets its slot makes it like the others.
        if self.shared_mut().is_leaving() {
            return Some(Answer::Done);
        }
        self.look_later();
        if self.region_bytes() == bytes && self.bitmap.has_region(bytes) {
            return Some(Answer::Done);
        }
        let answer = self.begin_here(bytes);
        if answer.is_none() {
            self.chunks_mut().told = Some(bytes);
        }
        answer
    }

    /// Carries on with bitmaps that change. Returns whether anything changed.
    pub(super) fn maintain_chunk(&mut self) -> bool {
        self.maintain_told() | self.go_on_with_chunk() | self.maintain_look()
    }

    fn maintain_told(&mut self) -> bool {
        let Some(bytes) = self.chunks().told else {
            return false;
        };
        let answer = match self.bitmap.has_region(bytes) {
            true => Answer::Done,
            false if self.may_write() && !self.io.is_cut_off() => return false,
            false => Answer::Cannot(Cannot::Work),
        };
        let shared = self.shared_mut();
        shared.chunks.told = None;
        shared.answer(Desk::Inbox, answer);
        self.go_on_with_runs();
        true
    }

    /// A run that was ended for it begins again.
    pub(super) fn go_on_with_runs(&mut self) {
        if self.bitmap.owes_resync() {
            self.sync.owe_regions();
        }
    }

    fn go_on_with_chunk(&mut self) -> bool {
        let works = self.may_write() && !self.io.is_cut_off();
        let Some(job) = &self.chunks().job else {
            return false;
        };
        let answer = match &job.at {
            At::Wished | At::Again | At::Held | At::Done => return false,
            At::Here(bytes) if self.bitmap.has_region(*bytes) => Answer::Done,
            At::Read {
                under_way: false, ..
            } if works => return self.read_blank(),
            At::Blank { left: 0, then } if works && !then.is_empty() => return self.next_blank(),
            At::Blank { left: 0, then } if then.is_empty() => Answer::Done,
            _ if works => return false,
            _ => Answer::Cannot(Cannot::Work),
        };
        self.chunk_at(At::Done);
        self.shared_mut().answer(Desk::Turn, answer);
        true
    }

    /// It is over.
    pub(super) fn chunk_over(&mut self, failure: Option<&Failure>) {
        let job = self.chunks_mut().job.take().expect("a wish of ours");
        let here = self.region_bytes() == job.region_bytes;
        self.go_on_with_runs();
        if failure.is_some() {
            self.look_later();
        }
        let Some(control) = job.control else { return };
        if job.after_size {
            if let Some(failure) = failure {
                let text =
                    format!("bits of the bitmaps stand for more than they have to: {failure}");
                self.notify(Notice::Message(text));
            }
            return self.answer(control, Ok(ControlReply::Done));
        }
        match (failure, job.then) {
            (None, Some(dev_sectors)) => {
                self.resize_after_chunk(control, dev_sectors, job.old_region_bytes);
            }
            (None, None) => self.answer(control, Ok(ControlReply::Done)),
            (Some(failure @ Failure::Nodes(_)), _) if here => {
                let text = format!(
                    "the bitmaps of the nodes that run it have the new chunk, and not all others: \
                     {failure}"
                );
                self.answer(control, Err(ControlError::Io(text)));
            }
            (Some(failure @ Failure::Nodes(_)), _) => {
                let text = format!("every node has to follow, and nothing was changed: {failure}");
                self.answer(control, Err(ControlError::Busy(text)));
            }
            (Some(failure), _) => self.answer(control, Err(not_begun(failure))),
        }
    }

    /// The cluster is left: who still waits is told.
    pub(super) fn refuse_chunk(&mut self) {
        let job = self.chunks_mut().job.take();
        if let Some(control) = job.and_then(|job| job.control) {
            self.answer(control, Err(not_begun(&Failure::Leaving)));
        }
    }

    // The slots of nobody.

    pub(super) fn begin_blank(&mut self, taken: BTreeSet<NodeSlot>) {
        self.chunk_at(At::Read {
            taken,
            tried: SmallVec::new(),
            under_way: false,
        });
    }

    fn read_blank(&mut self) -> bool {
        let place = self.shared_mut().place;
        let job = self.chunks_mut().job.as_mut().expect("it is its turn");
        let At::Read { taken, tried, .. } = &mut job.at else {
            unreachable!("looked at just before");
        };
        let all = (0..place.nodes).all(|slot| taken.contains(&NodeSlot(slot)));
        let (taken, mut tried) = (std::mem::take(taken), std::mem::take(tried));
        let source = self.slot_source(&tried).filter(|_| !all);
        let Some(source) = source else {
            self.blank_at(0, VecDeque::new());
            return true;
        };
        tried.push(source);
        self.read_all(source, BLANK);
        self.chunk_at(At::Read {
            taken,
            tried,
            under_way: true,
        });
        true
    }

    pub(super) fn read_all(&mut self, source: MemberId, tag: u32) {
        let nodes = u64::from(self.shared_mut().place.nodes);
        let (start, each) = self.slot_sectors(source, NodeSlot(0));
        let owner = Owner::Cluster { tag };
        self.io
            .read(source, start, each * nodes, Purpose::Bitmap, owner);
    }

    pub(super) fn blank_done(&mut self, member: MemberId, result: Result<IoDone, IoError>) {
        let Some(job) = self.chunks_mut().job.as_mut() else {
            return; // It was answered when the members were lost.
        };
        match &mut job.at {
            At::Blank { left, .. } => {
                *left -= 1;
                if let Err(error) = result {
                    let why = format!("bitmap write failed: {error}");
                    self.io.effects.push(Effect::Fail(member, why));
                }
            }
            At::Read {
                taken, under_way, ..
            } => {
                *under_way = false;
                let taken = taken.clone();
                if let Ok(buf) = Io::read_result(result) {
                    let area = buf.freeze();
                    // Another one knows that nothing is being moved.
                    if !self.says_moving(area.as_slice()) {
                        self.write_blank(&taken, area.as_slice());
                    }
                }
            }
            _ => {} // The members were lost meanwhile.
        }
    }

    /// The slots of nobody are to be written as the own one is: what is dirty by either, with
    /// their superblocks as they are; then these; then what is dirty by the new one.
    fn write_blank(&mut self, taken: &BTreeSet<NodeSlot>, area: &[u8]) {
        let mut steps = [Vec::new(), Vec::new(), Vec::new()];
        let slots = (0..self.shared_mut().place.nodes).map(NodeSlot);
        for slot in slots.filter(|slot| !taken.contains(slot)) {
            let part = self.part_of(area, slot.0);
            // Whoever gets a slot without a bitmap is told so.
            for (step, image) in steps
                .iter_mut()
                .zip(self.images_of_chunk(&part).into_iter().flatten())
            {
                step.push((slot, image));
            }
        }
        self.blank_at(0, steps.into());
    }

    fn blank_at(&mut self, left: usize, then: VecDeque<Vec<Write>>) {
        self.chunk_at(At::Blank { left, then });
    }

    fn next_blank(&mut self) -> bool {
        let job = self.chunks_mut().job.as_mut().expect("it is its turn");
        let At::Blank { then, .. } = &mut job.at else {
            unreachable!("looked at just before");
        };
        let mut then = std::mem::take(then);
        let step = then.pop_front().expect("looked at just before");
        let written = step
            .iter()
            .map(|(slot, image)| self.write_slot(*slot, image, BLANK));
        let left = written.sum();
        self.blank_at(left, then);
        true
    }

    /// Returns to how many members.
    pub(super) fn write_slot(&mut self, slot: NodeSlot, image: &[u8], tag: u32) -> usize {
        let image = self.io.pool.copy_of(image);
        let active = self.members.iter().filter(|m| m.is_active());
        let ids: SmallVec<[MemberId; 8]> = active.map(|m| m.id).collect();
        for id in &ids {
            let (sector, _) = self.slot_sectors(*id, slot);
            let owner = Owner::Cluster { tag };
            self.io
                .write_durable(*id, sector, image.clone(), Purpose::Bitmap, owner);
        }
        ids.len()
    }

    // Whether all are alike: `alike.rs`.

    /// All members were looked at: the longest that bits stand for, if not all are like the own.
    pub(super) fn looked(&mut self, uneven: Option<u32>) {
        let wanted = uneven.map(|bytes| bytes.max(self.region_bytes()));
        let job = self.chunks().job.as_ref();
        if let Some(job) = job.filter(|job| matches!(job.at, At::Again)) {
            let (id, same) = (job.id, wanted == Some(job.region_bytes));
            let holds = same && self.chunk_holds();
            let held = holds.then_some(id).into_iter().collect();
            return self.shared_mut().answer(Desk::Turn, Answer::Holds(held));
        }
        let Some(bytes) = wanted else {
            return;
        };
        self.look_later();
        let shared = self.shared_mut();
        let free = !shared.chunks.is_wanted() && !shared.sizes.is_wanted();
        if free && !shared.is_leaving() && !shared.moves.holds() {
            let covered = self.covered();
            self.wish_chunk(None, bytes, covered, None);
        }
    }

    /// Whether it is the turn of bitmaps that were not alike: while others had theirs they may have
    /// become so. All are looked at again, and the answer follows.
    pub(super) fn looks_again(&mut self, ids: &[WishId]) -> bool {
        let job = self.chunks_mut().job.as_mut();
        let alike = |job: &&mut Job| job.control.is_none() && !job.moves;
        let Some(job) = job.filter(|job| alike(job) && *ids == [job.id]) else {
            return false;
        };
        job.at = At::Again;
        self.begin_look();
        true
    }
}
