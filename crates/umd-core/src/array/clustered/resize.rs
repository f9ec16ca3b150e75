//! The array gets larger, on all nodes or on none.
//!
//! ```text
//!   asked --> (token) Recheck --> all: can it be? --> Mark --> Write --> all adopt --> Vacant
//!     ^                               | no                       | not all               |
//!     |                               v                          v                       v
//!     '---- answered <---------- nothing was changed <-- old superblocks       shown: here, by all
//!
//!   superblocks:   old ---------- new (recorded, not shown) ---------- new (shown)
//! ```
//!
//! What is added is marked in the bitmap of the node that grows, on all members, before the first
//! superblock names the size: whatever a crash leaves, bits tell where members differ. A size that
//! is recorded is adopted by who reads it: bitmaps and superblocks are for it from then on, and
//! hosts see it when all have it. If the node that grew dies in between, another one finishes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;
use umd_format::SuperblockV1;

use super::changes::not_begun;
use super::rechunk::Write;
use super::shared::VACANT;
use crate::array::{Array, Setup};
use crate::assembly::SlotPlan;
use crate::cluster::{Answer, Cannot, Desk, DeviceNumber, Event, Failure, NodeSlot, Wish, WishId};
use crate::geometry::{Geometry, Raid10};
use crate::member::{Effect, Io, Member, Owner, State};
use crate::value::{
    ControlError, ControlId, ControlReply, Events, Exhibit, Instant, IoDone, IoError, MemberId,
    Notice, Purpose, SizeWish, Span,
};

/// What another node has begun is finished here after that time.
const FINISH_AFTER: Span = Span::secs(10);

/// The size of the array, where it changes.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// What superblocks say of each member, and hosts are not shown yet.
    recorded: Option<u64>,
    /// What members were said to have before: a smaller disk elsewhere is none that has more.
    before: BTreeMap<MemberId, u64>,
    /// When to finish what another node has begun.
    again: Option<Instant>,
    /// What was said last of a size that is recorded and not shown.
    told: Option<String>,
    job: Option<Job>,
}

#[derive(Debug)]
struct Job {
    id: WishId,
    /// Who waits for it; nobody, if another node has begun it.
    control: Option<ControlId>,
    dev_sectors: u64,
    /// Bits that were made longer for it are to stand for so many bytes after that.
    shorter: Option<u32>,
    at: At,
}

#[derive(Debug)]
enum At {
    Wished,
    /// It is this node's turn.
    Held,
    /// What is added becomes dirty on all members.
    Marking(u64),
    /// Superblocks are written, or were.
    Recorded,
    /// The slots of nobody.
    Reading {
        taken: BTreeSet<NodeSlot>,
        tried: SmallVec<[MemberId; 4]>,
        under_way: bool,
    },
    Writing {
        left: usize,
        then: VecDeque<Vec<Write>>,
    },
    Shown,
    /// The old size is being recorded again.
    Undoing,
}

/// An array of another size.
struct Sized {
    geometry: Geometry,
    array_sectors: u64,
    sync_sectors: u64,
}

impl Sizes {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Whether runs wait: they would end where the array does not.
    pub(super) fn is_changing(&self) -> bool {
        let held = |job: &Job| !matches!(job.at, At::Wished);
        self.recorded.is_some() || self.job.as_ref().is_some_and(held)
    }

    /// Whether what was done here is recorded in its own turn.
    pub(super) fn is_applied(&self) -> bool {
        let held = |job: &Job| !matches!(job.at, At::Wished | At::Held);
        self.job.as_ref().is_some_and(held)
    }

    /// Whether another size is wanted, or on its way.
    pub(super) fn is_wanted(&self) -> bool {
        self.recorded.is_some() || self.job.is_some()
    }

    /// Whether superblocks say a size that hosts are not shown.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    fn is_job(&self, id: WishId) -> bool {
        self.job.as_ref().is_some_and(|job| job.id == id)
    }
}

/// The most that a member can give.
fn room_of(member: &Member) -> u64 {
    let whole = member.size_sectors;
    whole.saturating_sub(member.data_offset_sectors())
}

/// Whether members that are used do not say the same of the size: a crash has left them so, and
/// what is written behind the smaller one would be lost with those that say the larger.
pub(super) fn is_uneven(setup: &Setup) -> bool {
    let used = |slot: &SlotPlan| match slot {
        SlotPlan::InSync(member) | SlotPlan::Recovering { member, .. } => Some(*member),
        SlotPlan::Stale(_) | SlotPlan::Missing => None,
    };
    let used: Vec<MemberId> = setup.plan.slots.iter().filter_map(used).collect();
    let facts = setup.facts.iter().filter(|fact| used.contains(&fact.id));
    let mut read = facts.filter_map(|fact| fact.superblock.as_ref().ok());
    read.any(|one| one.fields.size_sectors != setup.plan.dev_sectors)
}

impl Array {
    fn sizes(&self) -> &Sizes {
        &self.shared.as_ref().expect("in a cluster").sizes
    }

    fn sizes_mut(&mut self) -> &mut Sizes {
        &mut self.shared_mut().sizes
    }

    /// Whether a wish is about the size.
    pub(super) fn is_size(&self, id: WishId) -> bool {
        self.sizes().is_job(id)
    }

    /// What superblocks say that each member gives.
    pub(super) fn recorded_sectors(&self) -> u64 {
        self.sizes().recorded.unwrap_or(self.info.dev_sectors)
    }

    fn sized(&self, dev_sectors: u64) -> Option<Sized> {
        let (geometry, array_sectors) = match &*self.geometry {
            Geometry::Mirrored { legs } => (Geometry::Mirrored { legs: *legs }, dev_sectors),
            Geometry::Copied(map) => {
                let (disks, chunk) = (map.raid_disks(), map.chunk_sectors());
                let map = Raid10::new(self.info.layout, disks, chunk, dev_sectors).ok()?;
                let array_sectors = map.array_sectors();
                (Geometry::Copied(map), array_sectors)
            }
            _ => return None,
        };
        Some(Sized {
            sync_sectors: geometry.sync_sectors(array_sectors),
            geometry,
            array_sectors,
        })
    }

    /// What each member gives to an array with bitmaps for so many sectors.
    fn dev_sectors_for(&self, sync_sectors: u64) -> Option<u64> {
        let dev_sectors = match &*self.geometry {
            Geometry::Copied(map) => {
                let (chunk, wide) = (map.chunk_sectors(), u64::from(map.raid_disks()));
                let copies = sync_sectors / chunk * u64::from(map.copies_of_each());
                copies.div_ceil(wide) * chunk
            }
            _ => sync_sectors,
        };
        let sized = self.sized(dev_sectors)?;
        (sized.sync_sectors == sync_sectors).then_some(dev_sectors)
    }

    /// Whether this node can have the array with so much of each member.
    fn can_have(&self, dev_sectors: u64) -> Result<(), Cannot> {
        let sized = self.sized(dev_sectors).ok_or(Cannot::Follow)?;
        if dev_sectors < self.info.dev_sectors {
            return Err(Cannot::Follow);
        }
        let place = self.shared.as_ref().expect("in a cluster").place;
        let writer = self.bitmap.writer().ok_or(Cannot::Follow)?;
        let region = writer.superblock_fields().region_bytes() / 512;
        let each = umd_format::bitmap::on_disk_sectors(sized.sync_sectors.div_ceil(region));
        match self.have_room(dev_sectors) && each == place.each_sectors {
            true => Ok(()),
            false => Err(Cannot::Small),
        }
    }

    /// Whether all members can give so much.
    fn have_room(&self, dev_sectors: u64) -> bool {
        let mut working = self.members.iter().filter(|m| m.state != State::Faulty);
        working.all(|member| room_of(member) >= dev_sectors)
    }

    /// Whether members can give what bitmaps are to have room for.
    pub(super) fn have_room_for(&self, sync_sectors: u64) -> bool {
        let dev_sectors = self.dev_sectors_for(sync_sectors);
        dev_sectors.is_some_and(|dev_sectors| self.have_room(dev_sectors))
    }

    /// What a size may be a multiple of.
    fn grain_sectors(&self) -> u64 {
        match &*self.geometry {
            Geometry::Copied(map) => map.chunk_sectors(),
            _ => (u64::from(self.info.logical_block_bytes) / 512).max(2),
        }
    }

    /// An administrator wants another size, on all nodes.
    pub(super) fn resize_on_all(&mut self, control: ControlId, wish: SizeWish) {
        let dev_sectors = match self.wanted_sectors(wish) {
            Ok(same) if same == self.info.dev_sectors => {
                return self.answer(control, Ok(ControlReply::Done));
            }
            Ok(dev_sectors) => dev_sectors,
            Err(error) => return self.answer(control, Err(error)),
        };
        let sized = self.sized(dev_sectors).expect("looked at before");
        match self.longer_for(sized.sync_sectors) {
            Some(bytes) => {
                let (sync_sectors, then) = (sized.sync_sectors, Some(dev_sectors));
                self.wish_chunk(Some(control), bytes, sync_sectors, then);
            }
            None => self.wish_size(Some(control), dev_sectors, None),
        }
    }

    /// The bitmaps have room for it now. Before, their bits stood for so many bytes: if they had
    /// several pages each, they get as many again as they need, and have room for.
    pub(super) fn resize_after_chunk(&mut self, control: ControlId, dev_sectors: u64, bytes: u32) {
        let free = !self.sizes().is_wanted();
        let sync_sectors = self
            .sized(dev_sectors)
            .map_or(0, |sized| sized.sync_sectors);
        let shorter = self.shortest_for(bytes, sync_sectors);
        let shorter = shorter.filter(|one| *one < self.region_bytes() && self.had_pages(bytes));
        match self.can_have(dev_sectors).is_ok() && free && dev_sectors > self.info.dev_sectors {
            true => self.wish_size(Some(control), dev_sectors, shorter),
            false => {
                let text = "the bitmaps have room for it now, but the array was changed meanwhile";
                self.answer(control, Err(ControlError::Busy(text.into())));
            }
        }
    }

    fn wish_size(&mut self, control: Option<ControlId>, dev_sectors: u64, shorter: Option<u32>) {
        let sized = self.sized(dev_sectors).expect("looked at before");
        let shared = self.shared_mut();
        let id = shared.update.next_wish();
        shared.sizes.job = Some(Job {
            id,
            control,
            dev_sectors,
            shorter,
            at: At::Wished,
        });
        let wish = Wish::Resize {
            sectors: sized.array_sectors,
            sync_sectors: sized.sync_sectors,
        };
        shared.say(Event::Wish(id, wish));
    }

    fn wanted_sectors(&self, wish: SizeWish) -> Result<u64, ControlError> {
        let busy = |text: &str| Err(ControlError::Busy(text.into()));
        self.writable()?;
        let shared = self.shared.as_ref().expect("in a cluster");
        if !shared.ready {
            return busy("this node is joining its cluster; try again when it serves");
        }
        if shared.sizes.is_wanted() {
            return busy("the size is being changed already");
        }
        if shared.chunks.is_wanted() {
            return busy("the bitmaps are being changed; try again when that is over");
        }
        if let Some(run) = self.sync.running() {
            let word = run.action().word();
            return busy(&format!("{word} is running: grow it when that is over"));
        }
        let partly = |m: &&Member| matches!(m.state, State::Recovering { .. });
        if let Some(member) = self.members.iter().find(partly) {
            let why = format!("{} is being filled: grow it when that is over", member.name);
            return busy(&why);
        }
        let working = || self.members.iter().filter(|m| m.state != State::Faulty);
        let least = working().min_by_key(|m| room_of(m));
        let (name, room) = least.map_or(("", 0), |m| (&m.name, room_of(m)));
        let wanted = match wish {
            SizeWish::Max => room,
            SizeWish::Sectors(sectors) => sectors,
        };
        if wanted > room {
            return Err(ControlError::TooSmall(format!(
                "{name} has room for {} KiB of data, and {} KiB are wanted",
                room / 2,
                wanted / 2
            )));
        }
        let wanted = wanted - wanted % self.grain_sectors();
        if wanted < self.info.dev_sectors {
            return match wish {
                SizeWish::Max => Ok(self.info.dev_sectors),
                SizeWish::Sectors(_) => Err(ControlError::Invalid(format!(
                    "an array of a cluster does not get smaller: it uses {} KiB of each member",
                    self.info.dev_sectors / 2
                ))),
            };
        }
        let longer = |sized: Sized| self.longer_for(sized.sync_sectors);
        let longer = self.sized(wanted).and_then(longer);
        match self.can_have(wanted) {
            Ok(()) => Ok(wanted),
            Err(_) if longer.is_some() => Ok(wanted),
            Err(_) => Err(ControlError::TooSmall(format!(
                "the bitmaps of the nodes have no room for {} KiB of each member: before the data \
                 are {} pages of 4 KiB for each, and the longest bits do not fit there",
                wanted / 2,
                self.room_of_each() / 8
            ))),
        }
    }

    /// What another node asks before it writes anything.
    pub(super) fn asked_for_size(&self, sync_sectors: u64) -> Answer {
        let Some(dev_sectors) = self.dev_sectors_for(sync_sectors) else {
            return Answer::Cannot(Cannot::Follow);
        };
        let partly = |m: &Member| matches!(m.state, State::Recovering { .. });
        // M68 (a8da01f79c89): the array was grown whether another node resynced it or not.
        let busy = self.sync.running().is_some() || self.members.iter().any(partly);
        let busy = busy && !self.io.museum.on(Exhibit::M68);
        match self.can_have(dev_sectors) {
            Err(why) => Answer::Cannot(why),
            Ok(()) if dev_sectors > self.recorded_sectors() && busy => Answer::Cannot(Cannot::Busy),
            Ok(()) => Answer::Done,
        }
    }

    /// Whether a new size is still wanted, and can be had here; from then on no run begins.
    pub(super) fn size_holds(&mut self, id: WishId) -> bool {
        let Some(job) = self.sizes().job.as_ref().filter(|job| job.id == id) else {
            return false;
        };
        let dev_sectors = job.dev_sectors;
        let goes_on = match (job.control, self.sizes().recorded) {
            (Some(_), None) => self.sync.running().is_none(),
            (None, Some(recorded)) => recorded == dev_sectors,
            _ => false,
        };
        let other = dev_sectors > self.info.dev_sectors;
        let turns = self.shared_mut().chunks.is_changing();
        if !goes_on || turns || !other || self.can_have(dev_sectors).is_err() {
            return false;
        }
        if self.sizes().recorded.is_none() && self.waits_for_even() {
            return false;
        }
        self.size_at(At::Held);
        true
    }

    fn size_at(&mut self, at: At) {
        let job = self.sizes_mut().job.as_mut();
        job.expect("a size is being changed").at = at;
    }

    /// What is added is marked; then superblocks are written.
    pub(super) fn begin_size(&mut self) -> Option<Answer> {
        let job = self.sizes().job.as_ref().expect("it is its turn");
        let sized = self.sized(job.dev_sectors).expect("looked at before");
        if !self.may_write() {
            return Some(Answer::Cannot(Cannot::Work));
        }
        let before = self.geometry.sync_sectors(self.info.array_sectors);
        if self.sizes().recorded.is_none() {
            self.bitmap.reach(sized.sync_sectors, &self.members);
        }
        let regions = self.bitmap.regions_mut().expect("a cluster has bitmaps");
        let first = before / regions.region_sectors();
        let added: Vec<u64> = (first..regions.count()).collect();
        let batch = regions.take_over(&added);
        self.size_at(At::Marking(batch));
        None
    }

    /// Superblocks are to say this of each member from here on.
    fn record_size(&mut self, dev_sectors: u64) {
        let shown = dev_sectors == self.info.dev_sectors;
        let now = self.io.now().mono;
        let mut before = std::mem::take(&mut self.sizes_mut().before);
        for member in self.members.iter_mut() {
            let room = room_of(member);
            let fields = &mut member.superblock.fields;
            fields.size_sectors = dev_sectors;
            if shown {
                let had = before.remove(&member.id);
                fields.data_size_sectors = had.unwrap_or(fields.data_size_sectors);
            } else if fields.data_size_sectors < dev_sectors {
                before.insert(member.id, fields.data_size_sectors);
                fields.data_size_sectors = room;
            }
        }
        let sizes = self.sizes_mut();
        sizes.before = before;
        sizes.recorded = (!shown).then_some(dev_sectors);
        sizes.again = (!shown).then_some(now + FINISH_AFTER);
        sizes.told = sizes.told.take().filter(|_| !shown);
    }

    /// Carries on with another size. Returns whether anything changed.
    pub(super) fn maintain_size(&mut self) -> bool {
        self.finish_size() | self.go_on_with_size()
    }

    fn go_on_with_size(&mut self) -> bool {
        // Two sizes must not stand on members with the same events.
        let may_write = self.may_write();
        let may_record = may_write && !self.metadata.is_uneven();
        let Some(job) = &self.sizes().job else {
            return false;
        };
        let dev_sectors = job.dev_sectors;
        let answer = match &job.at {
            At::Marking(_) if !may_record => Answer::Cannot(Cannot::Work),
            At::Reading { .. } if !may_write => Answer::Cannot(Cannot::Work),
            At::Writing { left, .. } if *left > 0 && !self.io.is_cut_off() => return false,
            At::Writing { then, .. } if may_write && !then.is_empty() => {
                return self.next_vacant();
            }
            At::Writing { .. } => Answer::Done,
            At::Reading {
                under_way: false, ..
            } => return self.read_vacant(),
            At::Marking(batch) => {
                let regions = self.bitmap.regions().expect("a cluster has bitmaps");
                if !regions.is_written(*batch) || !self.bitmap.has_events(Events(0)) {
                    return false;
                }
                self.record_size(dev_sectors);
                self.metadata.note_change(false);
                self.size_at(At::Recorded);
                self.shared_mut().update.write_wanted = true;
                return true;
            }
            _ => return false,
        };
        self.size_at(At::Recorded);
        self.shared_mut().answer(Desk::Turn, answer);
        true
    }

    /// What another node has begun and did not finish is finished here.
    fn finish_size(&mut self) -> bool {
        let now = self.io.now().mono;
        let (may_write, leaving) = (self.may_write(), self.shared_mut().is_leaving());
        let ready = self.shared_mut().ready && !leaving && may_write;
        let sizes = self.sizes_mut();
        let due = sizes.again.is_some_and(|again| now >= again);
        if !due {
            return false;
        }
        sizes.again = Some(now + FINISH_AFTER);
        let never_said = sizes.told.is_none();
        match (sizes.recorded, &sizes.job) {
            (Some(recorded), None) if ready => self.wish_size(None, recorded, None),
            (None, _) => sizes.again = None,
            _ => {}
        }
        if never_said {
            self.tell_of_recorded(None);
        }
        true
    }

    /// Whoever looks after this host hears of a size that members have and hosts do not, and why
    /// that is so; once, whatever is tried in between.
    fn tell_of_recorded(&mut self, failure: Option<&Failure>) {
        let Some(recorded) = self.sizes().recorded else {
            return;
        };
        let why = failure.map_or(String::new(), |failure| format!(": {failure}"));
        let text = format!(
            "{} KiB of each member are recorded as used, and {} KiB are shown until every node has \
             followed{why}",
            recorded / 2,
            self.info.dev_sectors / 2
        );
        if self.sizes().told.as_ref() != Some(&text) {
            self.sizes_mut().told = Some(text.clone());
            self.notify(Notice::Message(text));
        }
    }

    /// Not all can have it. What was written is written again as it was, before bits go.
    pub(super) fn undo_size(&mut self) -> Option<Answer> {
        let job = self.sizes().job.as_ref().expect("it is its turn");
        if job.control.is_none() && !matches!(job.at, At::Held) {
            // Hosts elsewhere may be shown it already: it is tried again. Who says no when it is
            // asked has never adopted it, and then nobody shows it.
            return Some(Answer::Cannot(Cannot::Work));
        }
        if self.sizes().recorded.is_none() {
            let good = self.members.iter().find(|m| m.state == State::InSync);
            return Some(match good {
                Some(good) => Answer::Written(DeviceNumber(good.number())),
                None => Answer::Cannot(Cannot::Work),
            });
        }
        self.record_size(self.info.dev_sectors);
        self.metadata.note_change(false);
        self.size_at(At::Undoing);
        self.shared_mut().update.write_wanted = true;
        None
    }

    /// Everybody has it: hosts see it.
    pub(super) fn show_size(&mut self) -> Answer {
        let Some(dev_sectors) = self.sizes().recorded else {
            return Answer::Cannot(Cannot::Follow);
        };
        let sized = self.sized(dev_sectors).expect("looked at before");
        self.info.dev_sectors = dev_sectors;
        self.info.array_sectors = sized.array_sectors;
        let geometry = Arc::new(sized.geometry);
        self.geometry = geometry.clone();
        self.lane.extend(geometry.clone());
        self.sync.extend(geometry, sized.array_sectors);
        let sizes = self.sizes_mut();
        (sizes.recorded, sizes.again, sizes.told) = (None, None, None);
        sizes.before.clear();
        self.publish();
        self.cover_recovering();
        Answer::Done
    }

    /// The same, as this node has wished it.
    pub(super) fn apply_size(&mut self) -> Answer {
        self.size_at(At::Shown);
        self.show_size()
    }

    /// Another node has told all to show it.
    pub(super) fn publish_size(&mut self, sectors: u64) -> Answer {
        if sectors == self.info.array_sectors {
            return Answer::Done;
        }
        let sized = self.sizes().recorded.and_then(|dev| self.sized(dev));
        match sized {
            Some(sized) if sized.array_sectors == sectors => self.show_size(),
            _ => Answer::Cannot(Cannot::Follow),
        }
    }

    pub(super) fn size_over(&mut self, failure: Option<&Failure>) {
        let job = self.sizes_mut().job.take().expect("a wish of ours");
        self.answer_for(&job);
        if failure.is_none() {
            self.metadata.confirm();
            if let Some((control, bytes)) = job.control.zip(job.shorter) {
                // Before a resync of what was added begins.
                self.shorten_after_size(control, bytes);
                return self.forget_reach();
            }
        }
        self.forget_reach();
        let shown = job.dev_sectors == self.info.dev_sectors;
        if failure.is_some() {
            self.tell_of_recorded(failure);
        }
        let result = match failure {
            None => Ok(ControlReply::Done),
            Some(failure @ Failure::Nodes(_)) if self.sizes().recorded.is_some() => {
                Err(ControlError::Io(format!(
                    "it is recorded on the members, and shown as soon as every node has followed: \
                     {failure}"
                )))
            }
            Some(failure @ Failure::Nodes(_)) if shown => Err(ControlError::Io(format!(
                "it has the new size here, but not every node shows it yet: {failure}"
            ))),
            Some(failure @ Failure::Nodes(_)) => Err(ControlError::Busy(format!(
                "every node has to follow, and the size was not changed: {failure}"
            ))),
            Some(failure) => Err(not_begun(failure)),
        };
        if let Some(control) = job.control {
            self.answer(control, result);
        }
    }

    /// Regions behind what superblocks say are nobody's.
    fn forget_reach(&mut self) {
        let sized = self.sized(self.recorded_sectors());
        let sync_sectors = sized.expect("it is recorded").sync_sectors;
        let writer = self.bitmap.writer().expect("a cluster has bitmaps");
        let other = writer.superblock_fields().sync_size_sectors != sync_sectors;
        // Who leaves has said that nothing of it is under way: whoever gets its slot heals that.
        let leaves = self.shared.as_ref().is_some_and(|one| one.is_leaving());
        if other && self.may_write() && !leaves {
            self.bitmap.reach(sync_sectors, &self.members);
        }
        if self.bitmap.owes_resync() && !self.sizes().is_changing() {
            self.sync.owe_regions();
        }
    }

    /// The bitmap as it was read may be that of a node of before: from here on it says what it is
    /// for.
    pub(super) fn heal_reach(&mut self) {
        self.forget_reach();
    }

    /// The cluster is left: who still waits is told.
    pub(super) fn refuse_size(&mut self) {
        let Some(job) = self.sizes_mut().job.take() else {
            return;
        };
        self.answer_for(&job);
        if let Some(control) = job.control {
            self.answer(control, Err(not_begun(&Failure::Leaving)));
        }
    }

    /// A task that nobody goes on with.
    fn answer_for(&mut self, job: &Job) {
        let (marks, reads) = (
            matches!(job.at, At::Marking(_)),
            matches!(job.at, At::Reading { .. } | At::Writing { .. }),
        );
        if marks || reads {
            let answer = Answer::Cannot(Cannot::Work);
            self.shared_mut().answer(Desk::Turn, answer);
        }
    }

    // What others have written.

    /// Whether the size that a superblock says can be followed. Who has `named` it wants to know; a
    /// size that somebody left behind and that cannot be had here is taken back.
    pub(super) fn judge_size(&self, found: &SuperblockV1, named: bool) -> Result<(), Cannot> {
        let dev_sectors = found.fields.size_sectors;
        if dev_sectors == self.recorded_sectors() || !named {
            return Ok(());
        }
        self.can_have(dev_sectors)
    }

    /// Superblocks say this size, and it was judged. Returns whether bitmaps have to follow.
    pub(super) fn adopt_size(&mut self, found: &SuperblockV1) {
        let dev_sectors = found.fields.size_sectors;
        // While this node writes one, what it reads is its own, or was there before.
        if dev_sectors == self.recorded_sectors() || self.sizes().is_applied() {
            return;
        }
        // M68: and who resynced did not take the new size when it was told of it.
        if self.sync.running().is_some() && self.io.museum.on(Exhibit::M68) {
            return;
        }
        if self.can_have(dev_sectors).is_err() {
            // Nobody is shown it: who cannot have it has never said that it could.
            self.metadata.note_change(false);
            return;
        }
        let sized = self.sized(dev_sectors).expect("it can be had");
        self.sync.interrupt();
        self.record_size(dev_sectors);
        self.bitmap.reach(sized.sync_sectors, &self.members);
        self.notify(Notice::Changed);
    }

    /// What is written behind the smaller of two sizes would be lost with whoever says the larger:
    /// before anything is, all say the same.
    pub(super) fn even_sizes(&mut self, found: &BTreeMap<MemberId, SuperblockV1>) {
        let recorded = self.recorded_sectors();
        let other = |(id, one): (&MemberId, &SuperblockV1)| {
            let member = self.members.get(*id);
            let in_sync = member.is_some_and(|m| m.state == State::InSync);
            in_sync && one.fields.size_sectors != recorded
        };
        if !self.sizes().is_applied() && found.iter().any(other) {
            self.metadata.note_fault();
        }
    }

    // The slots of nobody.

    /// Their bitmaps are to say what they are for, too: who joins next, and kernels, look there.
    pub(super) fn begin_vacant(&mut self, taken: BTreeSet<NodeSlot>) {
        let job = self.sizes().job.as_ref().expect("it is its turn");
        if job.control.is_none() {
            // Some may show it already, and then others may join: what is in nobody's slot now is
            // somebody's in a moment, who sees to it.
            let job = self.sizes_mut().job.as_mut().expect("just there");
            job.at = At::Recorded;
            return self.shared_mut().answer(Desk::Turn, Answer::Done);
        }
        self.size_at(At::Reading {
            taken,
            tried: SmallVec::new(),
            under_way: false,
        });
    }

    fn read_vacant(&mut self) -> bool {
        let nodes = self.shared_mut().place.nodes;
        let job = self.sizes_mut().job.as_mut().expect("it is its turn");
        let At::Reading { taken, tried, .. } = &mut job.at else {
            unreachable!("looked at just before");
        };
        let all = (0..nodes).all(|slot| taken.contains(&NodeSlot(slot)));
        let (taken, mut tried) = (std::mem::take(taken), std::mem::take(tried));
        let source = self.slot_source(&tried).filter(|_| !all);
        let Some(source) = source else {
            // A member that does not give them fails when others are written to it.
            self.write_vacant(VecDeque::new());
            return true;
        };
        tried.push(source);
        let (start, each) = self.slot_sectors(source, NodeSlot(0));
        let owner = Owner::Cluster { tag: VACANT };
        let len = each * u64::from(nodes);
        self.io.read(source, start, len, Purpose::Bitmap, owner);
        self.size_at(At::Reading {
            taken,
            tried,
            under_way: true,
        });
        true
    }

    pub(super) fn vacant_done(&mut self, member: MemberId, result: Result<IoDone, IoError>) {
        let Some(job) = self.sizes_mut().job.as_mut() else {
            return; // It was answered when the members were lost.
        };
        match &mut job.at {
            At::Writing { left, .. } => {
                *left -= 1;
                if let Err(error) = result {
                    let why = format!("bitmap write failed: {error}");
                    self.io.effects.push(Effect::Fail(member, why));
                }
            }
            At::Reading {
                taken, under_way, ..
            } => {
                *under_way = false;
                let taken = taken.clone();
                if let Ok(buf) = Io::read_result(result) {
                    let steps = self.vacant_steps(&taken, buf.freeze().as_slice());
                    self.write_vacant(steps);
                }
            }
            _ => {} // The members were lost meanwhile.
        }
    }

    fn write_vacant(&mut self, then: VecDeque<Vec<Write>>) {
        self.size_at(At::Writing { left: 0, then });
    }

    fn next_vacant(&mut self) -> bool {
        let job = self.sizes_mut().job.as_mut().expect("it is its turn");
        let At::Writing { then, .. } = &mut job.at else {
            unreachable!("looked at just before");
        };
        let mut then = std::mem::take(then);
        let step = then.pop_front().expect("looked at just before");
        let written = step
            .iter()
            .map(|(slot, image)| self.write_slot(*slot, image, VACANT));
        let left = written.sum();
        self.size_at(At::Writing { left, then });
        true
    }
}
