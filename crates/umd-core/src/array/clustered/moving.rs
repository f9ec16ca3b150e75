//! The bitmaps of all nodes get other places, as they get another number of pages.
//!
//! ```text
//!   asked --> (token) all: can it be? --> nobody joins --> all: hold --> Read --> Head --> Body
//!                                                                                           |
//!             answered <-- all others: there, written once <-- own <-- Tail <---------------'
//!
//!   first superblock | as it was                  | moving: all is dirty | as it is now
//!   places           | old                        | none is believed     | new
//! ```
//!
//! New places lie where others lay, so there is no order in which every bitmap could be read at
//! every moment. The superblock of the first one keeps its place, and is one sector: while anything
//! is moved it says so, durable on all members before, and then everything counts as dirty. So a
//! power cut in the middle costs a resync, and nothing else. No bitmap is written by its owner
//! while this goes on (what hosts write in regions that are marked already goes on), and the bits
//! are taken from the members, where every mark is that anybody relies on.
//!
//! Whoever holds its bitmap goes on when it is told, and not by itself. If who moved them has died,
//! another one makes the same way under the token: as the first superblock says, the bitmaps are
//! where they were and are moved, or are there already, or are lost and all is dirty. Dead nodes'
//! slots are read after that. Who joins while nobody is there does it, too; else it is refused.

use std::collections::{BTreeSet, VecDeque};

use smallvec::SmallVec;
use umd_format::bitmap::{self as format, BitmapSuperblock, SUPERBLOCK_BYTES, bit_position};

use super::shared::{HELD, MOVE};
use crate::array::Array;
use crate::cluster::{Answer, Cannot, Desk, MoveStage, NodeSlot, WishId};
use crate::member::{Effect, Io, Owner, State};
use crate::value::{Instant, IoDone, IoError, MemberId, Purpose, Span};

/// What another node has begun is finished here after that time.
const FINISH_AFTER: Span = Span::secs(10);

/// Sectors that are read to know what the first superblock says.
const HEAD_SECTORS: u64 = 8;

/// Bitmaps that move.
#[derive(Debug, Default)]
pub(super) struct Moves {
    hold: Option<Hold>,
    mover: Option<Mover>,
    /// The own one is being written at its new place, and another node waits.
    told: Option<u32>,
    /// First superblocks that are being read for a hold, of now or of before.
    looks: usize,
}

/// No bitmap is written by this node.
#[derive(Debug)]
struct Hold {
    /// What bits are to stand for.
    region_bytes: u32,
    /// Another node waits until it is so.
    asked: bool,
    /// Nothing is under way.
    still: bool,
    /// Somebody is dead who may still write, and might have been moving them.
    guards: bool,
    /// What the first superblock says is looked at: whether it is over already.
    look: Option<Look>,
    again: Instant,
}

#[derive(Debug, Default)]
struct Look {
    tried: SmallVec<[MemberId; 4]>,
    under_way: bool,
}

/// This node moves them.
#[derive(Debug)]
struct Mover {
    region_bytes: u32,
    /// Slots that somebody has, or that wait for a recovery.
    taken: BTreeSet<NodeSlot>,
    tried: SmallVec<[MemberId; 4]>,
    /// Some member says that they are on their way.
    lost: bool,
    /// Some member says that they are at their new places: the beginning of the first.
    there: Option<Vec<u8>>,
    at: At,
    left: usize,
    failed: bool,
    then: VecDeque<Step>,
}

#[derive(Debug)]
enum At {
    /// All of this node comes to rest.
    Still,
    /// What the first superblock says.
    Head,
    /// All of them.
    Bits(Box<BitmapSuperblock>),
    Writing(Step),
    /// The own one, once more.
    Own,
}

/// What is written to all members before the next step.
#[derive(Debug, Clone)]
struct Step {
    /// From the beginning of the first one.
    writes: Vec<(u64, Vec<u8>)>,
    /// If it fails somewhere, this is written instead of all that follows.
    else_: Option<Vec<u8>>,
}

impl Moves {
    pub(super) fn deadline(&self) -> Option<Instant> {
        // What is looked at ends by itself.
        let hold = self.hold.as_ref();
        let waits = hold.filter(|hold| !hold.guards && hold.look.is_none());
        waits.map(|hold| hold.again)
    }

    /// Whether nothing of any bitmap is read or written here.
    pub(super) fn is_still(&self) -> bool {
        self.hold.as_ref().is_some_and(|hold| hold.still)
    }

    /// Whether no bitmap is written here, or is about to be.
    pub(super) fn holds(&self) -> bool {
        self.hold.is_some()
    }
}

impl Array {
    fn moves(&self) -> &Moves {
        &self.shared.as_ref().expect("in a cluster").moves
    }

    fn moves_mut(&mut self) -> &mut Moves {
        &mut self.shared_mut().moves
    }

    /// Whether the bitmaps of all nodes are at rest for another one, or for who moves them.
    pub(super) fn bitmaps_hold(&self) -> bool {
        self.moves().holds()
    }

    /// Whether this node writes the bitmaps of all.
    #[cfg(test)]
    pub(super) fn moves_bitmaps(&self) -> bool {
        let mover = self.moves().mover.as_ref();
        mover.is_some_and(|mover| matches!(mover.at, At::Writing(_)))
    }

    /// Whether this node writes no bitmap, and nothing of that is under way.
    #[cfg(test)]
    pub(super) fn bitmaps_are_still(&self) -> bool {
        self.moves().is_still() && self.bitmap.is_still()
    }

    /// Sectors of the bitmap of a node, for the size that is recorded.
    pub(super) fn each_for(&self, region_bytes: u32) -> u64 {
        format::on_disk_sectors(format::regions(self.covered(), region_bytes))
    }

    /// Sectors that the bitmap of each node can have, whole pages, on all members.
    pub(super) fn room_of_each(&self) -> u64 {
        let nodes = u64::from(self.shared.as_ref().expect("in a cluster").place.nodes);
        let working = self.members.iter().filter(|m| m.state != State::Faulty);
        let room = working.map(|m| {
            let start = m.superblock.fields.bitmap_sector().unwrap_or(u64::MAX);
            m.data_offset_sectors().saturating_sub(start)
        });
        let each = room.min().unwrap_or(0) / nodes;
        each - each % HEAD_SECTORS
    }

    // What others tell.

    pub(super) fn move_told(
        &mut self,
        (bytes, sync_sectors): (u32, u64),
        stage: MoveStage,
    ) -> Option<Answer> {
        let works = self.may_write() && !self.io.is_cut_off();
        if self.shared_mut().is_drained() {
            // It writes nothing any more; the bitmap is moved with those of all.
            return Some(Answer::Done);
        }
        match stage {
            MoveStage::Ask if !works => Some(Answer::Cannot(Cannot::Work)),
            MoveStage::Ask if self.bitmaps_hold() => Some(Answer::Done),
            MoveStage::Ask => Some(self.asked_to_move(bytes, sync_sectors)),
            MoveStage::Hold => {
                self.begin_hold(bytes, true);
                None
            }
            MoveStage::Moved if self.bitmaps_hold() => {
                self.adopt_place(bytes);
                self.moves_mut().told = Some(bytes);
                None
            }
            MoveStage::Moved if self.region_bytes() == bytes => Some(Answer::Done),
            MoveStage::Moved => Some(Answer::Cannot(Cannot::Follow)),
            MoveStage::Back => {
                self.look_whether_over();
                Some(Answer::Done)
            }
        }
    }

    fn asked_to_move(&self, bytes: u32, sync_sectors: u64) -> Answer {
        let recorded = self.recorded_sectors() != self.info.dev_sectors;
        match self.can_stand_for(bytes, sync_sectors) {
            Err(why) => Answer::Cannot(why),
            Ok(()) if self.runs_or_fills() || recorded => Answer::Cannot(Cannot::Busy),
            Ok(()) if !self.have_room_for(sync_sectors) => Answer::Cannot(Cannot::Small),
            Ok(()) => Answer::Done,
        }
    }

    // Holding.

    fn begin_hold(&mut self, region_bytes: u32, asked: bool) {
        self.sync.interrupt();
        let again = self.io.now().mono + FINISH_AFTER;
        let hold = self.moves_mut().hold.get_or_insert(Hold {
            region_bytes,
            asked,
            still: false,
            guards: false,
            look: None,
            again,
        });
        (hold.region_bytes, hold.asked, hold.again) = (region_bytes, asked, again);
        (hold.still, hold.look, hold.guards) = (false, None, false);
    }

    /// Who has just loaded the array writes no bitmap before it is known that nobody moves them: a
    /// dead node might, as long as it is not known to write no more.
    pub(super) fn hold_at_start(&mut self, moving: bool) {
        let bytes = self.region_bytes();
        if moving || self.shared_mut().frozen {
            self.begin_hold(bytes, false);
            let hold = self.moves_mut().hold.as_mut().expect("just begun");
            hold.guards = true;
            self.bitmap.hold(true);
            self.lane.others_mut().bits_held = true;
        }
    }

    pub(super) fn maintain_moves(&mut self) -> bool {
        self.maintain_told_place()
            | self.maintain_hold()
            | self.maintain_hold_look()
            | self.maintain_finish()
            | self.maintain_mover()
    }

    fn maintain_told_place(&mut self) -> bool {
        let Some(bytes) = self.moves().told else {
            return false;
        };
        let answer = match self.bitmap.has_region(bytes) {
            true => Answer::Done,
            false if self.may_write() && !self.io.is_cut_off() => return false,
            false => Answer::Cannot(Cannot::Work),
        };
        self.moves_mut().told = None;
        self.shared_mut().answer(Desk::Inbox, answer);
        self.go_on_with_runs();
        true
    }

    /// All that reads or writes bitmaps comes to its end first.
    fn maintain_hold(&mut self) -> bool {
        let works = self.may_write() && !self.io.is_cut_off();
        let Some(hold) = self.moves().hold.as_ref().filter(|hold| !hold.still) else {
            return false;
        };
        let asked = hold.asked;
        if !works {
            let hold = self.moves_mut().hold.as_mut().expect("just there");
            hold.asked = false;
            if asked {
                self.shared_mut()
                    .answer(Desk::Inbox, Answer::Cannot(Cannot::Work));
            }
            return asked;
        }
        if !self.bitmaps_rest() {
            return false;
        }
        self.bitmap.hold(true);
        self.lane.others_mut().bits_held = true;
        if !self.bitmap.is_still() {
            return false;
        }
        let hold = self.moves_mut().hold.as_mut().expect("just there");
        (hold.still, hold.asked) = (true, false);
        if asked {
            self.shared_mut().answer(Desk::Inbox, Answer::Done);
        }
        true
    }

    /// Whether nobody here reads bitmaps, or writes those of others.
    fn bitmaps_rest(&self) -> bool {
        let shared = self.shared.as_ref().expect("in a cluster");
        let looks = shared.moves.looks > 0 || shared.chunks.is_looking();
        let taken = shared.takeovers.values().all(|one| one.waits());
        let gathers = shared.gathers.is_empty() && shared.spread.is_none();
        taken && gathers && !looks
    }

    /// Was it over, or given up, before anything was moved?
    fn look_whether_over(&mut self) {
        if let Some(hold) = &mut self.moves_mut().hold {
            hold.look = Some(Look::default());
        }
    }

    fn maintain_hold_look(&mut self) -> bool {
        let frozen = self.shared_mut().frozen;
        let works = self.may_write() && !self.io.is_cut_off();
        let now = self.io.now().mono;
        let Some(hold) = &mut self.moves_mut().hold else {
            return false;
        };
        if hold.guards && !frozen && hold.still && hold.look.is_none() {
            (hold.guards, hold.again) = (false, now);
            hold.look = Some(Look::default());
        }
        let Some(look) = hold.look.as_ref().filter(|look| !look.under_way) else {
            return false;
        };
        if !hold.still || !works {
            return false;
        }
        let tried = look.tried.clone();
        let source = self.slot_source(&tried);
        if let Some(source) = source {
            self.read_head(source, HELD);
            self.moves_mut().looks += 1;
        }
        let hold = self.moves_mut().hold.as_mut().expect("just there");
        match source {
            Some(source) => {
                let look = hold.look.as_mut().expect("just there");
                look.tried.push(source);
                look.under_way = true;
            }
            // Somebody has to bring it to its end.
            None => hold.look = None,
        }
        true
    }

    /// What the first superblock of a member says; nothing where they are on their way.
    pub(super) fn hold_looked(&mut self, result: Result<IoDone, IoError>) {
        self.moves_mut().looks -= 1;
        let read = Io::read_result(result).ok().map(|buf| buf.freeze());
        let found = read.and_then(|buf| self.head_in(buf.as_slice()));
        let own = self.region_bytes();
        let Some(hold) = &mut self.moves_mut().hold else {
            return;
        };
        let Some(look) = &mut hold.look else { return };
        look.under_way = false;
        match found.map(|found| found.fields.region_raw) {
            Some(bytes) if bytes == own => self.release_hold(),
            Some(bytes) => (hold.look, hold.region_bytes) = (None, bytes),
            None => {}
        }
    }

    fn release_hold(&mut self) {
        self.moves_mut().hold = None;
        self.bitmap.hold(false);
        self.lane.others_mut().bits_held = false;
        self.go_on_with_runs();
    }

    /// What somebody else has begun is finished here.
    fn maintain_finish(&mut self) -> bool {
        let now = self.io.now().mono;
        let works = self.may_write() && !self.io.is_cut_off();
        let shared = self.shared_mut();
        let may = works && shared.ready && !shared.is_leaving();
        let free = !shared.chunks.is_wanted();
        let Some(hold) = &mut shared.moves.hold else {
            return false;
        };
        if now < hold.again || hold.guards || hold.look.is_some() {
            return false;
        }
        hold.again = now + FINISH_AFTER;
        let bytes = hold.region_bytes;
        if may && free {
            let covered = self.covered();
            self.wish_move(None, bytes, covered, None);
        }
        true
    }

    /// The bitmap of this node lies where it has to with bits of this length.
    fn adopt_place(&mut self, region_bytes: u32) {
        let each = self.each_for(region_bytes);
        let slot = self.shared_mut().place.slot;
        self.shared_mut().place.each_sectors = each;
        let member = self.members.iter().next().expect("an array has members");
        let first = member.superblock.fields.bitmap_offset_sectors();
        let first = first.expect("a clustered array has bitmaps");
        let behind = i32::try_from(u64::from(slot.0) * each).expect("before the data");
        self.bitmap
            .adopt(region_bytes, first + behind, &self.members);
        self.moves_mut().hold = None;
        self.lane.others_mut().bits_held = false;
    }

    // Moving.

    /// It is this node's turn.
    pub(super) fn begin_move(&mut self, id: WishId, taken: BTreeSet<NodeSlot>) -> Option<Answer> {
        if !self.may_write() || self.io.is_cut_off() {
            return Some(Answer::Cannot(Cannot::Work));
        }
        let region_bytes = self.wished_chunk(id);
        self.begin_hold(region_bytes, false);
        self.moves_mut().mover = Some(Mover {
            region_bytes,
            taken,
            tried: SmallVec::new(),
            lost: false,
            there: None,
            at: At::Still,
            left: 0,
            failed: false,
            then: VecDeque::new(),
        });
        None
    }

    /// It is given up.
    pub(super) fn undo_move(&mut self) -> Answer {
        self.look_whether_over();
        Answer::Done
    }

    fn maintain_mover(&mut self) -> bool {
        let works = self.may_write() && !self.io.is_cut_off();
        let Some(mover) = &self.moves().mover else {
            return false;
        };
        if !works {
            return self.end_move(Answer::Cannot(Cannot::Work));
        }
        if mover.left > 0 {
            return false;
        }
        let region_bytes = mover.region_bytes;
        match &mover.at {
            At::Still => {
                let still = self.moves().hold.as_ref().is_some_and(|hold| hold.still);
                still && self.next_head()
            }
            At::Head | At::Bits(..) => unreachable!("something is being read"),
            At::Writing(step) if mover.failed && step.else_.is_some() => {
                let old = step.else_.clone().expect("looked at just before");
                let step = Step {
                    writes: vec![(0, old)],
                    else_: None,
                };
                let mover = self.moves_mut().mover.as_mut().expect("just there");
                mover.then.clear();
                mover.region_bytes = 0;
                self.write_step(step);
                true
            }
            At::Writing(_) => {
                let mover = self.moves_mut().mover.as_mut().expect("just there");
                match mover.then.pop_front() {
                    Some(step) => self.write_step(step),
                    // It was taken back.
                    None if region_bytes == 0 => {
                        return self.end_move(Answer::Cannot(Cannot::Work));
                    }
                    None => self.moved(),
                }
                true
            }
            At::Own if self.bitmap.has_region(region_bytes) => self.end_move(Answer::Done),
            At::Own => false,
        }
    }

    fn end_move(&mut self, answer: Answer) -> bool {
        self.moves_mut().mover = None;
        self.shared_mut().answer(Desk::Turn, answer);
        true
    }

    /// The next member is asked what its first superblock says.
    fn next_head(&mut self) -> bool {
        let mover = self.moves().mover.as_ref().expect("it moves them");
        let (tried, lost) = (mover.tried.clone(), mover.lost);
        match self.slot_source(&tried) {
            Some(source) => {
                self.read_head(source, MOVE);
                let mover = self.moves_mut().mover.as_mut().expect("just there");
                mover.tried.push(source);
                (mover.at, mover.left) = (At::Head, 1);
                true
            }
            None if lost => {
                self.plan_move(None);
                true
            }
            None => match self.moves_mut().mover.as_mut().and_then(|m| m.there.take()) {
                Some(head) => {
                    self.write_step(Step {
                        writes: vec![(0, head)],
                        else_: None,
                    });
                    true
                }
                None => self.end_move(Answer::Cannot(Cannot::Work)),
            },
        }
    }

    fn read_head(&mut self, source: MemberId, tag: u32) {
        let (start, _) = self.slot_sectors(source, NodeSlot(0));
        let owner = Owner::Cluster { tag };
        self.io
            .read(source, start, HEAD_SECTORS, Purpose::Bitmap, owner);
    }

    pub(super) fn move_done(&mut self, member: MemberId, result: Result<IoDone, IoError>) {
        let Some(mover) = &mut self.moves_mut().mover else {
            return; // It was answered when the members were lost.
        };
        mover.left = mover.left.saturating_sub(1);
        match &mover.at {
            At::Writing(_) => {
                if let Err(error) = result {
                    mover.failed = true;
                    let why = format!("bitmap write failed: {error}");
                    self.io.effects.push(Effect::Fail(member, why));
                }
            }
            At::Head => {
                let read = Io::read_result(result).ok().map(|buf| buf.freeze());
                self.head_read(member, read.as_ref().map(|buf| buf.as_slice()));
            }
            At::Bits(head) => {
                let head = (**head).clone();
                match Io::read_result(result) {
                    Ok(buf) => self.plan_move(Some((&head, buf.freeze().as_slice()))),
                    Err(_) => self.moves_mut().mover.as_mut().expect("just there").at = At::Still,
                }
            }
            At::Still | At::Own => {} // What it was for is over.
        }
    }

    /// The superblock of the first bitmap, if it says where the others lie.
    fn head_in(&self, block: &[u8]) -> Option<BitmapSuperblock> {
        let found = self.found_in(block)?;
        let own = self.bitmap.writer()?.superblock_fields();
        let fields = &found.fields;
        let each = format::on_disk_sectors(format::regions(self.covered(), fields.region_raw));
        // It may be for another size, where that was being changed: pages are then the same.
        let ours = fields.nodes == own.nodes && each <= self.room_of_each();
        ours.then_some(found)
    }

    fn head_read(&mut self, member: MemberId, block: Option<&[u8]>) {
        let found = block.and_then(|block| self.head_in(block));
        let lost = block.is_some_and(|block| self.says_moving(block));
        let mover = self.moves_mut().mover.as_mut().expect("it was read for it");
        mover.lost |= lost;
        let Some((head, block)) = found.zip(block) else {
            mover.at = At::Still;
            return;
        };
        if head.fields.region_raw == mover.region_bytes {
            // They are there; if no member says otherwise. One that does may have missed some of
            // what was written before, and would be believed.
            let head = self.head_block(block, &head);
            let mover = self.moves_mut().mover.as_mut().expect("just there");
            (mover.there, mover.at) = (Some(head), At::Still);
            return;
        }
        if mover.there.is_some() {
            // It knows nothing of a move that is over for others.
            (mover.lost, mover.at) = (true, At::Still);
            return;
        }
        let each = self.each_for(head.fields.region_raw);
        let nodes = u64::from(self.shared_mut().place.nodes);
        let (start, _) = self.slot_sectors(member, NodeSlot(0));
        let owner = Owner::Cluster { tag: MOVE };
        self.io
            .read(member, start, each * nodes, Purpose::Bitmap, owner);
        let mover = self.moves_mut().mover.as_mut().expect("just there");
        (mover.at, mover.left) = (At::Bits(Box::new(head)), 1);
    }

    /// The beginning of the first bitmap with this superblock.
    fn head_block(&self, block: &[u8], superblock: &BitmapSuperblock) -> Vec<u8> {
        let bytes = self.info.logical_block_bytes.max(512) as usize;
        let mut made = block[..bytes.min(block.len())].to_vec();
        made[..SUPERBLOCK_BYTES].copy_from_slice(&superblock.encode());
        made
    }

    /// What is written, step by step: what was read, at other places; or, where nothing is known,
    /// bitmaps in which everything is dirty.
    fn plan_move(&mut self, read: Option<(&BitmapSuperblock, &[u8])>) {
        let mover = self.moves().mover.as_ref().expect("it moves them");
        let (bytes, taken) = (mover.region_bytes, mover.taken.clone());
        let place = self.shared_mut().place;
        let each = self.each_for(bytes);
        let was = read.map(|(head, _)| self.each_for(head.fields.region_raw));
        let slots = (0..place.nodes).map(NodeSlot);
        let mut images: Vec<Vec<u8>> = slots
            .map(|slot| {
                let part = read.zip(was).map(|((_, area), was)| {
                    let from = usize::from(slot.0) * (was * 512) as usize;
                    &area[from..from + (was * 512) as usize]
                });
                self.moved_image((bytes, each), part, taken.contains(&slot))
            })
            .collect();
        let tail = self.head_block(&images[0], &self.found_here(&images[0]));
        let mut moving = self.found_here(&images[0]);
        moving.set_moving(true);
        images[0][..SUPERBLOCK_BYTES].copy_from_slice(&moving.encode());
        let old = read.map(|(head, area)| self.head_block(area, head));
        let head = match read {
            Some((_, area)) => self.head_block(area, &moving),
            None => self.head_block(&images[0], &moving),
        };
        let offsets = (0..).step_by(each as usize);
        let steps = [
            Step {
                writes: vec![(0, head)],
                else_: old,
            },
            Step {
                writes: offsets.zip(images).collect(),
                else_: None,
            },
            Step {
                writes: vec![(0, tail)],
                else_: None,
            },
        ];
        let lost = read.is_none();
        let mover = self.moves_mut().mover.as_mut().expect("just there");
        mover.lost = lost;
        mover.then = steps.into();
        let first = mover.then.pop_front().expect("three steps");
        self.write_step(first);
    }

    /// Whether this is the first superblock while they are on their way.
    pub(super) fn says_moving(&self, block: &[u8]) -> bool {
        let uuid = self
            .members
            .iter()
            .next()
            .map(|m| m.superblock.bitmap_uuid());
        let found = format::Unverified::parse(block).ok();
        let found = found.zip(uuid).map(|(one, uuid)| one.verify_node(uuid));
        found.is_some_and(|one| one.is_ok_and(|one| one.is_moving()))
    }

    fn found_here(&self, image: &[u8]) -> BitmapSuperblock {
        self.found_in(image).expect("it was made here")
    }

    /// The bitmap of a slot by another length, as it was at its old place. One that cannot be used
    /// is all dirty; and, where nothing is known, that of whoever there is.
    fn moved_image(&self, (bytes, each): (u32, u64), part: Option<&[u8]>, taken: bool) -> Vec<u8> {
        let covered = self.covered();
        let count = format::regions(covered, bytes);
        let found = part.and_then(|part| self.found_in(part));
        let fits = |one: &BitmapSuperblock| {
            let room = part.map_or(0, |part| part.len() as u64 / 512);
            format::on_disk_sectors(one.regions(covered)) <= room
        };
        let found = found.filter(fits);
        let set = match (&found, part) {
            (Some(found), Some(part)) => carried(found, part, covered, bytes),
            (None, None) if !taken => Vec::new(),
            _ => (0..count).collect(),
        };
        let mut superblock = found.unwrap_or_else(|| {
            let own = self.bitmap.writer().expect("a cluster has bitmaps");
            own.superblock().clone()
        });
        superblock.set_moving(false);
        superblock.fields.region_raw = bytes;
        superblock.fields.sync_size_sectors = covered;
        let mut image = vec![0; (each * 512) as usize];
        image[..SUPERBLOCK_BYTES].copy_from_slice(&superblock.encode());
        for region in set {
            let (byte, mask) = bit_position(region);
            image[byte as usize] |= mask;
        }
        image
    }

    fn write_step(&mut self, step: Step) {
        let active = self.members.iter().filter(|m| m.is_active());
        let ids: SmallVec<[MemberId; 8]> = active.map(|m| m.id).collect();
        let mut left = 0;
        for (behind, image) in &step.writes {
            let image = self.io.pool.copy_of(image);
            for id in &ids {
                let (start, _) = self.slot_sectors(*id, NodeSlot(0));
                let owner = Owner::Cluster { tag: MOVE };
                let at = start + behind;
                self.io
                    .write_durable(*id, at, image.clone(), Purpose::Bitmap, owner);
                left += 1;
            }
        }
        let mover = self.moves_mut().mover.as_mut().expect("it moves them");
        (mover.at, mover.left, mover.failed) = (At::Writing(step), left, false);
    }

    /// All lie at their new places, and members say so.
    fn moved(&mut self) {
        let mover = self.moves_mut().mover.as_mut().expect("it moves them");
        let (bytes, lost) = (mover.region_bytes, mover.lost);
        mover.at = At::Own;
        self.adopt_place(bytes);
        let regions = self.bitmap.regions_mut().expect("a cluster has bitmaps");
        if lost {
            let all: Vec<u64> = (0..regions.count()).collect();
            regions.take_over(&all);
        }
    }
}

/// The regions of another length that a bitmap calls dirty.
fn carried(found: &BitmapSuperblock, area: &[u8], covered: u64, bytes: u32) -> Vec<u64> {
    let all = found.fields.state.contains(format::State::STALE);
    let room = (area.len() - SUPERBLOCK_BYTES) as u64 * 8;
    let set = |region: &u64| {
        let (byte, mask) = bit_position(*region);
        all || area[byte as usize] & mask != 0
    };
    let set: Vec<u64> = (0..found.regions(covered).min(room)).filter(set).collect();
    let (from, to) = (found.fields.region_bytes() / 512, u64::from(bytes) / 512);
    format::carried_over(&set, from, to, format::regions(covered, bytes))
}
