//! What an array is besides, when it is one of a cluster.
//!
//! | asked | where | for |
//! |---|---|---|
//! | `Array::shared` | `engine.rs` (maintain, completions), `faults.rs` (runs) | all of this room |
//! | `Lane::others` | `lane/others.rs` | windows, freezes, reads |
//! | `Metadata::turns` | `metadata/turns.rs` | superblocks under the token |
//! | `Regions::tell_all` | `bitmap/regions.rs` | bits alone say what may differ |

use std::collections::{BTreeMap, BTreeSet};

use umd_format::Role;

use super::changes::{Asked, Changes};
use super::drain::Drain;
use super::legs::Legs;
use super::missed::{BITS, Gather, HEADERS, Missed};
use super::moving::Moves;
use super::newcomer::Candidate;
use super::rechunk::Chunks;
use super::reload::Reload;
use super::resize::Sizes;
use super::spread::Spread;
use super::takeover::Takeover;
use super::update::Update;
use super::windows::Turn;
use crate::array::{Array, Setup};
use crate::assembly::{BitmapPlan, SlotPlan};
use crate::cluster::{
    Answer, Cannot, Desk, Effect, Event, Failure, Freeze, NewDisk, NodeSlot, Task, Window, WishId,
};
use crate::member::State;
use crate::value::{
    Command, Commands, Control, ControlId, Instant, IoDone, IoError, MAX_SECTOR, MemberId,
    NewMember, Notice, Now,
};

/// Where the bitmaps of all nodes lie on each member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// This node.
    pub slot: NodeSlot,
    /// How many nodes have one.
    pub nodes: u16,
    /// Sectors of each.
    pub each_sectors: u64,
}

/// The place that a setup gives this node, if the array is one of a cluster with such a slot.
pub(super) fn place_of(setup: &Setup, slot: NodeSlot, capacity: u16) -> Result<Place, Cannot> {
    let (BitmapPlan::Usable { superblock, .. } | BitmapPlan::Stale { superblock, .. }) =
        &setup.plan.bitmap
    else {
        return Err(Cannot::Follow);
    };
    let nodes = u16::try_from(superblock.fields.nodes).map_err(|_| Cannot::Follow)?;
    let fits = superblock.is_clustered() && slot.0 < nodes && nodes == capacity;
    if !fits || !setup.plan.geometry.is_mirror() || setup.options.read_only {
        return Err(Cannot::Follow);
    }
    let regions = superblock.regions(setup.plan.sync_sectors());
    let each_sectors = superblock.area_sectors(regions);
    if each_sectors != setup.plan.bitmap.area_sectors() {
        // It was not made for the size that is recorded: that of the next node lies in its way.
        return Err(Cannot::Follow);
    }
    Ok(Place {
        slot,
        nodes,
        each_sectors,
    })
}

/// Whether the bitmaps of all nodes were on their way to other places when everybody stopped.
pub(super) fn says_moving(setup: &Setup) -> bool {
    match &setup.plan.bitmap {
        BitmapPlan::Usable { superblock, .. } | BitmapPlan::Stale { superblock, .. } => {
            superblock.is_moving()
        }
        BitmapPlan::None => false,
    }
}

/// What the first bitmap says of all is nothing that the own one should say.
pub(super) fn forget_moving(setup: &mut Setup) {
    if let BitmapPlan::Stale { superblock, .. } = &mut setup.plan.bitmap
        && superblock.is_moving()
    {
        superblock.set_moving(false);
    }
}

/// Devices that superblocks call active and that are not there, or not up to date.
pub(super) fn absent(setup: &Setup) -> BTreeSet<u32> {
    let used = |slot: &SlotPlan| match slot {
        SlotPlan::InSync(member) | SlotPlan::Recovering { member, .. } => Some(*member),
        SlotPlan::Stale(_) | SlotPlan::Missing => None,
    };
    let mut used: Vec<MemberId> = setup.plan.slots.iter().filter_map(used).collect();
    used.extend(setup.plan.replacements.iter().map(|one| one.member));
    let read = setup
        .facts
        .iter()
        .filter_map(|fact| Some((fact.id, fact.superblock.as_ref().ok()?)));
    let read: Vec<_> = read.filter(|(id, _)| used.contains(id)).collect();
    let newest = read.iter().max_by_key(|(_, one)| one.fields.events);
    let roles = newest.map_or(&[][..], |(_, one)| &one.fields.roles);
    let there = |number: u32| read.iter().any(|(_, one)| one.fields.dev_number == number);
    let active = roles.iter().zip(0u32..);
    let active = active.filter(|(role, _)| matches!(role, Role::Active(_)));
    let numbers = active.map(|(_, number)| number);
    numbers.filter(|number| !there(*number)).collect()
}

/// The part of an array that others take part in.
#[derive(Debug)]
pub(in crate::array) struct Shared {
    pub(super) place: Place,
    /// To the node, in order.
    words: Vec<Event>,
    /// It serves: the node takes part in the resync.
    pub(super) ready: bool,
    pub(super) frozen: bool,
    pub(super) update: Update,
    /// A disk that another node adds.
    pub(super) candidate: Option<Candidate>,
    /// Disks with a superblock of the array, where they were when it was loaded.
    pub(super) seen: Vec<NewDisk>,
    /// One of those is a member by now, and nobody has told this node so.
    pub(super) sought: Option<NewDisk>,
    /// Spares that not all nodes see are looked at again then.
    pub(super) fill_again: BTreeMap<MemberId, Instant>,
    /// Who is to be replaced, and by whom, at the next update.
    pub(super) handing_over: Vec<(MemberId, MemberId)>,
    /// Bitmaps on their way to who got a slot.
    pub(super) spread: Option<Spread>,
    /// Bitmaps of all slots on their way here.
    pub(super) gathers: BTreeMap<u32, Gather>,
    /// Whether it is known what who comes back has missed.
    pub(super) missed: Missed,
    /// How many nodes have gone since this one joined.
    pub(super) departures: u64,
    /// Slots of some of those are not empty yet.
    pub(super) unrecovered: bool,
    /// Members that are to come back, before that is wished for.
    pub(super) returning: Vec<(ControlId, NewMember)>,
    /// The bitmaps are asked about this one.
    pub(super) returns: Option<WishId>,
    /// A change that is to be made or undone here when superblocks are not being read.
    pub(super) asked: Option<Asked>,
    /// One was, and is on no superblock yet.
    pub(super) unwritten: Option<WishId>,
    /// What administrators want changed.
    pub(super) changes: Changes,
    pub(super) sizes: Sizes,
    pub(super) chunks: Chunks,
    pub(super) moves: Moves,
    /// Another number of slots that an administrator wants.
    pub(super) legs: Option<Legs>,
    /// Writes in there have to end before the other node hears so.
    pub(super) suspending: Option<(u64, u64)>,
    pub(super) reload: Option<Reload>,
    /// Devices without which it was started: recorded by its first update.
    pub(super) absent: BTreeSet<u32>,
    /// Slots of dead nodes.
    pub(super) takeovers: BTreeMap<NodeSlot, Takeover>,
    pub(super) turn: Turn,
    /// How much of the walk a window covers at first.
    pub(super) window_sectors: u64,
    /// A new disk waits until its adder has begun to fill it.
    pub(super) spares_wait: bool,
    pub(super) drain: Option<Drain>,
}

/// Whose I/O it is.
pub(super) const RELOAD: u32 = 0;

/// Copies of all bitmaps.
pub(super) const SPREAD: u32 = u32::MAX;

/// The bitmaps of nobody.
pub(super) const VACANT: u32 = u32::MAX - 3;

/// The same, when bits come to stand for something else.
pub(super) const BLANK: u32 = u32::MAX - 4;

/// All bitmaps, to see whether they are alike.
pub(super) const ALIKE: u32 = u32::MAX - 5;

/// Bitmaps on their way to other places.
pub(super) const MOVE: u32 = u32::MAX - 6;

/// Whether they are.
pub(super) const HELD: u32 = u32::MAX - 7;

/// The same for the slot of a dead node.
pub(super) fn tag_of(slot: NodeSlot) -> u32 {
    u32::from(slot.0) + 1
}

impl Shared {
    pub(super) fn new(place: Place, window_sectors: u64, absent: BTreeSet<u32>) -> Shared {
        assert!(place.slot.0 < place.nodes, "a node has its bitmap");
        Shared {
            place,
            words: Vec::new(),
            ready: false,
            frozen: false,
            update: Update::default(),
            candidate: None,
            seen: Vec::new(),
            sought: None,
            fill_again: BTreeMap::new(),
            handing_over: Vec::new(),
            spread: None,
            gathers: BTreeMap::new(),
            missed: Missed::Unknown,
            departures: 0,
            unrecovered: false,
            returning: Vec::new(),
            returns: None,
            asked: None,
            unwritten: None,
            changes: Changes::new(),
            sizes: Sizes::default(),
            chunks: Chunks::default(),
            moves: Moves::default(),
            legs: None,
            suspending: None,
            reload: None,
            absent,
            takeovers: BTreeMap::new(),
            turn: Turn::Idle,
            window_sectors,
            spares_wait: false,
            drain: None,
        }
    }

    pub(super) fn take_words(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.words)
    }

    pub(super) fn say(&mut self, event: Event) {
        self.words.push(event);
    }

    pub(super) fn answer(&mut self, desk: Desk, answer: Answer) {
        self.say(Event::Answer(desk, answer));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let (update, turn) = (self.update.deadline(), self.turn.deadline());
        let fill = self.fill_again.values().copied();
        let size = self.sizes.deadline();
        let chunk = self.chunks.deadline().into_iter();
        let chunk = chunk.chain(self.moves.deadline());
        let all = update.into_iter().chain(turn).chain(fill);
        all.chain(size).chain(chunk).min()
    }

    /// Sectors of the bitmap of each node.
    #[cfg(test)]
    pub(super) fn each_sectors(&self) -> u64 {
        self.place.each_sectors
    }

    /// Whether it is on its way out, or out.
    pub(in crate::array) fn is_leaving(&self) -> bool {
        self.drain.is_some()
    }

    /// Whether nothing of its own is written any more.
    pub(in crate::array) fn is_drained(&self) -> bool {
        self.drain == Some(Drain::Over)
    }
}

impl Array {
    /// From here on others run it, too.
    pub(super) fn share(&mut self, shared: Shared) {
        assert!(self.shared.is_none(), "an array joins once");
        self.lane.share();
        self.sync.share();
        self.metadata.take_turns();
        // Bits alone say what may differ, so superblocks must not say that all agrees: a kernel
        // that runs the array next would believe them. Before anything is written.
        let agreed = |m: &crate::member::Member| m.superblock.fields.resync_offset_sectors != 0;
        if self.members.iter().any(agreed) {
            self.metadata.note_fault();
        }
        self.shared = Some(Box::new(shared));
        self.cover_recovering();
    }

    /// A control that other nodes have to hear of before it is done.
    pub(in crate::array) fn control_on_all(
        &mut self,
        id: ControlId,
        control: Control,
    ) -> Option<Control> {
        match control {
            Control::Remove(member) if self.shared.is_some() => {
                self.remove_on_all(id, member);
                None
            }
            Control::Add(new) if self.shared.is_some() => {
                self.add_on_all(id, new);
                None
            }
            Control::Size(wish) if self.shared.is_some() => {
                self.resize_on_all(id, wish);
                None
            }
            Control::Rechunk(bytes) if self.shared.is_some() => {
                self.rechunk_on_all(id, bytes);
                None
            }
            Control::Legs(wish) if self.shared.is_some() => {
                self.legs_on_all(id, wish);
                None
            }
            Control::ReAdd(new) if self.shared.is_some() => {
                self.re_add_on_all(id, new);
                None
            }
            other => Some(other),
        }
    }

    /// Something that the node said.
    pub(super) fn hear(&mut self, now: Now, effect: Effect, out: &mut Commands) {
        if self.stopped {
            return;
        }
        self.io.begin(now, std::mem::take(out));
        match effect {
            Effect::Task(desk, task) => self.task(desk, task),
            Effect::Done(id, result) => self.wish_over(id, result.as_ref().err()),
            Effect::Resync(word) => self.resync_word(word),
            Effect::ResyncNeeded => self.sync.owe_regions(),
            Effect::Frozen(why) => self.freeze_writes(why.as_ref()),
            Effect::ReadFirst(first) => self.read_first(first),
            Effect::Ready => {
                self.shared_mut().ready = true;
                self.look_later();
            }
            other => unreachable!("{other:?} is not for the array"),
        }
        self.settle();
        *out = self.io.end();
    }

    /// Time has passed.
    pub(super) fn look_again(&mut self, now: Now, out: &mut Commands) {
        if self.stopped {
            return;
        }
        self.io.begin(now, std::mem::take(out));
        self.settle();
        *out = self.io.end();
    }

    pub(super) fn shared_mut(&mut self) -> &mut Shared {
        self.shared.as_mut().expect("in a cluster")
    }

    pub(super) fn read_first(&mut self, first: bool) {
        self.lane.others_mut().read_first = first;
    }

    /// Writes wait, or may go on; a node that lost the cluster does nothing any more.
    pub(super) fn freeze_writes(&mut self, why: Option<&Freeze>) {
        self.lane.others_mut().frozen = why.is_some();
        self.shared_mut().frozen = why.is_some();
        self.confine_sync();
        if let Some(lost @ Freeze::Lost) = why
            && !self.io.is_cut_off()
        {
            let text = lost.to_string();
            self.broken = Some(text.clone());
            self.io.cut_off();
            self.sync.interrupt();
            let others = self.lane.others_mut();
            (others.leaving, others.unrecordable) = (true, true);
            self.lift_suspension();
            self.notify(Notice::Broken(text));
        }
    }

    fn task(&mut self, desk: Desk, task: Task) {
        let answer = match task {
            Task::Load { .. } => unreachable!("it is loaded"),
            Task::Recheck(ids) if self.looks_again(&ids) => None,
            Task::Recheck(ids) => Some(self.recheck(ids)),
            Task::Write(ids) if self.is_size(ids[0]) => self.begin_size(),
            Task::Write(_) => {
                self.shared_mut().update.write_wanted = true;
                None
            }
            Task::Vacant { id, taken } if self.is_move(id) => self.begin_move(id, taken),
            Task::Vacant { id, taken } if self.is_chunk(id) => {
                self.begin_blank(taken);
                None
            }
            Task::Vacant { taken, .. } => {
                self.begin_vacant(taken);
                None
            }
            Task::Reload { from, use_spares } => {
                let candidate = self.shared_mut().candidate.take();
                let reload = Reload::new(from, use_spares, candidate);
                self.shared_mut().reload = Some(reload);
                None
            }
            Task::Suspend { owner, window } => self.suspend_for(owner, window),
            Task::CopyBits(slot) => {
                self.begin_takeover(slot, false);
                None
            }
            Task::ClearBits(slot) => {
                self.begin_takeover(slot, true);
                None
            }
            Task::Drain => {
                self.begin_drain();
                None
            }
            Task::Remove(device) => Some(self.remove_for_other(device)),
            Task::Publish { sectors } => Some(self.publish_size(sectors)),
            Task::ResizeBitmap { sync_sectors } => Some(self.asked_for_size(sync_sectors)),
            Task::FindDisk { .. } => unreachable!("its driver looks for it"),
            Task::Rechunk {
                region_bytes,
                sync_sectors,
                asks,
            } => self.chunk_told(region_bytes, sync_sectors, asks),
            Task::Move {
                region_bytes,
                sync_sectors,
                stage,
            } => self.move_told((region_bytes, sync_sectors), stage),
            Task::Undo(id) if self.is_move(id) => Some(self.undo_move()),
            Task::Apply(id) if self.is_chunk(id) => self.begin_chunk(false),
            Task::Undo(id) if self.is_chunk(id) => self.begin_chunk(true),
            Task::Apply(id) if self.is_size(id) => Some(self.apply_size()),
            Task::Undo(id) if self.is_size(id) => self.undo_size(),
            Task::Apply(id) => {
                self.shared_mut().asked = Some(Asked::Apply(id));
                None
            }
            Task::Undo(id) => {
                self.shared_mut().asked = Some(Asked::Undo(id));
                None
            }
        };
        if let Some(answer) = answer {
            self.shared_mut().answer(desk, answer);
        }
    }

    fn suspend_for(&mut self, owner: NodeSlot, window: Option<Window>) -> Option<Answer> {
        let window = window.map(|one| (one.start_sectors(), one.end_sectors()));
        self.lane.others_mut().suspend(owner.0, window);
        let shared = self.shared_mut();
        shared.spares_wait = false;
        shared.suspending = window;
        window.is_none().then_some(Answer::Done)
    }

    /// A member I/O of this room ended.
    pub(in crate::array) fn cluster_done(
        &mut self,
        tag: u32,
        member: MemberId,
        result: Result<IoDone, IoError>,
    ) {
        match tag {
            RELOAD => self.superblock_read(member, result),
            SPREAD => self.spread_done(member, result),
            HEADERS | BITS => self.gather_done(tag, result),
            VACANT => self.vacant_done(member, result),
            BLANK => self.blank_done(member, result),
            ALIKE => self.look_done(result),
            MOVE => self.move_done(member, result),
            HELD => self.hold_looked(result),
            tag => {
                let slot = NodeSlot(u16::try_from(tag - 1).expect("a slot of the cluster"));
                self.takeover_done(slot, member, result);
            }
        }
    }

    /// Carries on with what others wait for. Returns whether anything changed.
    pub(in crate::array) fn maintain_cluster(&mut self) -> bool {
        if self.shared.is_none() {
            return false;
        }
        let mut moved = self.maintain_suspending();
        moved |= self.maintain_reload();
        moved |= self.maintain_asked();
        moved |= self.maintain_size();
        moved |= self.maintain_chunk();
        moved |= self.maintain_moves();
        moved |= self.maintain_legs();
        moved |= self.maintain_update();
        moved |= self.maintain_takeovers();
        moved |= self.maintain_gathers();
        moved |= self.maintain_returning() | self.maintain_return();
        moved |= self.maintain_turn();
        moved |= self.maintain_drain();
        moved
    }

    fn maintain_suspending(&mut self) -> bool {
        let Some((start, end)) = self.shared_mut().suspending else {
            return false;
        };
        if self.lane.is_writing_within(start, end) && !self.io.is_cut_off() {
            return false;
        }
        let shared = self.shared_mut();
        shared.suspending = None;
        shared.answer(Desk::Inbox, Answer::Done);
        true
    }

    /// Who is being filled takes all writes, whoever fills it: what is filled by another node here
    /// and now is not known.
    pub(in crate::array) fn cover_recovering(&mut self) {
        // A run that goes on knows better; when it ends this is called.
        let fills = self
            .sync
            .running()
            .is_some_and(|run| !run.targets().is_empty());
        if self.shared.is_none() || fills {
            return;
        }
        let end = self.geometry.rebuild_sectors(self.info.array_sectors);
        self.cover.close_all();
        let partly = |m: &&crate::member::Member| matches!(m.state, State::Recovering { .. });
        let ids: Vec<MemberId> = self.members.iter().filter(partly).map(|m| m.id).collect();
        for id in &ids {
            let done = self.cover.done_sectors(*id);
            self.cover.set_rebuilt(*id, done, done.max(end));
        }
        if !ids.is_empty() {
            self.cover.open(0, MAX_SECTOR);
        }
    }

    /// The cluster was left: nothing is done any more.
    pub(super) fn release_all(&mut self, now: Now, out: &mut Commands) {
        self.io.begin(now, std::mem::take(out));
        self.refuse_waiting();
        self.refuse_changes();
        self.refuse_size();
        self.refuse_chunk();
        self.refuse_legs();
        let members: Vec<MemberId> = self.members.iter().map(|m| m.id).collect();
        for member in members {
            self.io.out.push(Command::Release(member));
        }
        self.io.out.push(Command::Stopped);
        self.stopped = true;
        *out = self.io.end();
    }

    /// A wish of this array is over.
    fn wish_over(&mut self, id: WishId, failure: Option<&Failure>) {
        if self.is_size(id) {
            return self.size_over(failure);
        }
        if self.is_chunk(id) {
            return self.chunk_over(failure);
        }
        let unwritten = &mut self.shared_mut().unwritten;
        *unwritten = unwritten.filter(|other| *other != id);
        match self.shared_mut().changes.remove(&id) {
            Some(change) => self.change_over(change, failure),
            None => self.update_over(id, failure),
        }
    }
}
