//! Superblocks: who may call the array active, what has been recorded, and the one writer.
//!
//! ```text
//!   want (active | fault | change | clean)
//!     |
//!     v
//!   Idle -> Flush -> BitmapEvents -> Logs -> InSync -> Rest -> Idle
//!           (only    (bitmap super-  (bad    (members  (rebuilding
//!            where    blocks first)   blocks) in sync)  and spare)
//!            needed)
//! ```
//!
//! Members in sync are written before all others: the newest events always stand on a member whose
//! data is whole. Events only ever rise. Facts: superblocks.md section 5; design.md section 4.

mod encode;
mod turns;

use umd_format::SuperblockV1;
use umd_format::v1::Features;

use turns::Turns;

use crate::bitmap::Bitmap;
use crate::member::{Effect, Io, Members, Owner, State};
use crate::value::{
    Events, Exhibit, Instant, IoDone, IoError, IoOp, MemberId, Museum, Purpose, Slice,
};

/// Proof that superblocks on every member say "active", and a count that keeps them so.
#[derive(Debug)]
pub struct Active(());

/// Proof that, at this moment, every known fault is recorded on the surviving superblocks.
#[derive(Debug)]
pub struct FaultRecorded(());

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    /// Members are flushed, and no update follows.
    Settle,
    Flush,
    BitmapEvents,
    Logs,
    InSync,
    Rest,
}

/// What an update makes durable.
#[derive(Debug, Clone, Copy, Default)]
struct Content {
    clean: bool,
    /// Only brings members to the events that the newest one carries; records nothing new.
    evens: bool,
    fault: u64,
    change: u64,
}

/// What the array knows that superblocks have to say.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Everything below this is known to agree (`MAX_SECTOR`: everything).
    pub resync_offset_sectors: u64,
    /// Superblocks may be written (not read-only, not broken).
    pub may_write: bool,
}

/// The superblock writer of an array.
#[derive(Debug)]
pub struct Metadata {
    events: Events,
    utime_seconds: u64,
    /// RAID0 has no redundancy to agree: it is never marked active.
    tracks_activity: bool,
    clean: bool,
    wants_active: bool,
    wants_clean: bool,
    writers: u64,
    last_write: Instant,
    fault: u64,
    fault_recorded: u64,
    /// The bitmap's file was lost: it carries these events at the most, and superblocks have to
    /// carry more.
    outrun: Option<Events>,
    /// What superblocks are known to carry.
    recorded: Events,
    change: u64,
    change_recorded: u64,
    flush_for_change: bool,
    /// Members carry different events: the last update of an earlier run was cut short.
    uneven: bool,
    /// What was read at the start may stand in caches only, and writes wait until it does not.
    unsettled: bool,
    /// The disks still say unclean, and the first update leaves it so.
    declared_clean: bool,
    /// In a cluster: whether this node may write, and what the others have yet to follow.
    turns: Option<Turns>,
    stage: Stage,
    content: Content,
    left: usize,
    rest: Vec<(MemberId, u64, Slice)>,
    museum: Museum,
    /// U03: what `Facts` said when the update began.
    #[cfg(feature = "museum")]
    old_offset_sectors: u64,
}

impl Metadata {
    /// The writer of an array at `events`, described by `superblock`. It starts out as clean: the
    /// first write is preceded by an update, which also records who is missing by then.
    pub fn new(superblock: &SuperblockV1, events: Events, tracks_activity: bool) -> Metadata {
        Metadata {
            events,
            utime_seconds: superblock.fields.utime.seconds(),
            tracks_activity,
            clean: true,
            wants_active: false,
            wants_clean: false,
            writers: 0,
            last_write: Instant(0),
            fault: 0,
            fault_recorded: 0,
            outrun: None,
            recorded: events,
            change: 0,
            change_recorded: 0,
            // Where a process was killed while it wrote superblocks, what was read may stand in a
            // cache only: a later power cut would bring back what was there before.
            flush_for_change: tracks_activity,
            uneven: false,
            unsettled: false,
            declared_clean: false,
            turns: None,
            stage: Stage::Idle,
            content: Content::default(),
            left: 0,
            rest: Vec::new(),
            museum: Museum::NONE,
            #[cfg(feature = "museum")]
            old_offset_sectors: 0,
        }
    }

    /// See [`Museum`].
    pub fn exhibit(&mut self, museum: Museum) {
        self.museum = museum;
    }

    /// Members that all hold the array's data carry different events. They are made even before
    /// the next update: two updates cut short in a row would otherwise leave members two apart,
    /// which looks as if they had missed writes. Also before an update that records a fault: what
    /// failed may be the member that carried the newest events.
    pub fn note_uneven(&mut self) {
        // U05: members stayed one update apart; the next update that was cut short made it two.
        self.uneven = !self.museum.on(Exhibit::U05);
    }

    /// Whether they are still to be made even.
    pub fn is_uneven(&self) -> bool {
        self.uneven
    }

    /// Nobody writes superblocks before the first write. What they say may have been written by a
    /// process that was killed, and stand in caches: the first write waits until all members were
    /// flushed. Else a power cut after it would bring back what was there before.
    pub fn note_unsettled(&mut self) {
        assert!(
            !self.tracks_activity,
            "an update comes before the first write"
        );
        self.unsettled = true;
    }

    /// An unclean array was declared clean by force. Superblocks say so only after every one of
    /// them says how little of a rebuild still counts: a power cut in between would otherwise
    /// leave a clean array with a rebuild made from parity that nobody vouches for.
    pub fn note_declared_clean(&mut self) {
        self.uneven = true;
        self.declared_clean = true;
    }

    /// The array has become one with redundancy, or without: then it is never marked active.
    ///
    /// # Panics
    /// While a write or an update is under way.
    pub fn track_activity(&mut self, tracks: bool) {
        assert!(self.is_quiet() && self.writers == 0, "nothing is under way");
        // The first update of another level records it, and comes before any write.
        (self.tracks_activity, self.unsettled) = (tracks, false);
        if !tracks {
            (self.clean, self.wants_active, self.wants_clean) = (true, false, false);
        }
    }

    /// The events that superblocks carry, or are about to.
    pub fn events(&self) -> Events {
        self.events
    }

    /// When superblocks were last written, seconds since 1970.
    pub fn utime_seconds(&self) -> u64 {
        self.utime_seconds
    }

    /// Whether superblocks say "clean".
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// Whether a write waits until superblocks say "active".
    pub fn awaits_active(&self) -> bool {
        self.wants_active && self.clean
    }

    /// Whether superblocks are about to say "clean", for want of writes.
    pub fn awaits_clean(&self) -> bool {
        self.wants_clean && !self.clean && self.writers == 0
    }

    /// Whether no write is under way, and none waits.
    pub fn is_unwritten(&self) -> bool {
        self.writers == 0 && !self.wants_active
    }

    /// Whether a member failed since what is on the disks was written.
    pub fn fault_pending(&self) -> bool {
        // U26: the update under way, whose events the file may have been told, was enough.
        let few = self.museum.on(Exhibit::U26);
        let outrun = few || self.outrun.is_none_or(|most| self.recorded > most);
        self.fault != self.fault_recorded || !outrun
    }

    /// How many faults were noted.
    pub fn faults(&self) -> u64 {
        self.fault
    }

    /// Whether something has to be recorded.
    pub fn owes(&self) -> bool {
        self.fault_pending() || self.change != self.change_recorded
    }

    /// Whether everything known is on the disks and no update is under way.
    pub fn is_quiet(&self) -> bool {
        self.stage == Stage::Idle
            && self.left == 0
            && !self.owes()
            && !(self.wants_active && self.clean)
    }

    /// The proof that all known faults are recorded.
    pub fn fault_recorded(&self) -> Option<FaultRecorded> {
        // U08: survivors were written while their superblocks did not know of a failure.
        let recorded = !self.fault_pending() || self.museum.on(Exhibit::U08);
        recorded.then_some(FaultRecorded(()))
    }

    /// A write wants to begin: the proof that superblocks say "active", or a note to make them.
    pub fn admit(&mut self) -> Option<Active> {
        let leaving = self.stage != Stage::Idle && self.content.clean && !self.clean;
        if self.unsettled || self.tracks_activity && (self.clean || leaving) {
            self.wants_active = true;
            return None;
        }
        assert!(!self.tracks_activity || !self.clean, "a write while clean");
        self.writers += 1;
        self.wants_clean = false;
        Some(Active(()))
    }

    /// The write is over.
    pub fn retire(&mut self, active: Active, now: Instant) {
        let Active(()) = active;
        assert!(self.writers > 0, "more writes retired than admitted");
        self.writers -= 1;
        assert!(
            !self.clean || !self.tracks_activity,
            "clean while a write was under way"
        );
        assert!(now >= self.last_write, "time runs backwards");
        self.last_write = now;
    }

    /// Whether the array could be marked clean: active, and no write for a while.
    pub fn idle_since(&self) -> Option<Instant> {
        let idle = self.tracks_activity
            && !self.clean
            && self.writers == 0
            && !self.wants_active
            // U17: the timer was armed for an instant that was over, again and again, while the
            // superblocks were on their way.
            && (!self.wants_clean || self.museum.on(Exhibit::U17));
        idle.then_some(self.last_write)
    }

    /// Mark the array clean if no write comes in between.
    pub fn want_clean(&mut self) {
        self.wants_clean = true;
    }

    /// A member failed: until this is recorded nothing is acknowledged.
    pub fn note_fault(&mut self) {
        self.fault += 1;
    }

    /// The bitmap's file failed: it counts as a fault until superblocks carry more events than any
    /// write to the file that may still land. The update under way may have told them to the file.
    pub fn note_lost_bitmap(&mut self) {
        self.outrun = Some(self.events);
        self.note_fault();
    }

    /// Something about members changed. `flush` if superblocks will call data valid that members
    /// may still hold in a cache. Returns a number to wait for.
    pub fn note_change(&mut self, flush: bool) -> u64 {
        self.change += 1;
        self.flush_for_change |= flush;
        self.change
    }

    /// Whether the change with this number is on the disks.
    pub fn has_recorded(&self, change: u64) -> bool {
        assert!(change <= self.change, "a change that nobody noted");
        self.change_recorded >= change
    }

    /// What must hold between two events.
    pub fn check(&self) {
        assert!(self.fault_recorded <= self.fault, "a fault that nobody met");
        assert!(
            self.change_recorded <= self.change,
            "a change that nobody made"
        );
        let rests = self.stage == Stage::Idle;
        assert!(!rests || self.rest.is_empty(), "superblocks left behind");
        let quiet = self.clean && self.tracks_activity;
        assert!(!quiet || self.writers == 0, "clean with a write under way");
    }

    /// A superblock write or a flush ended.
    pub fn done(&mut self, io: &mut Io, member: MemberId, result: Result<IoDone, IoError>) {
        assert!(self.left > 0, "a superblock I/O that nobody started");
        self.left -= 1;
        // M12 (bd8688a199b8): a bad-block log that could not be written was taken for written.
        if self.stage == Stage::Logs && (result.is_ok() || io.museum.on(Exhibit::M12)) {
            return io.bad.log_written(member);
        }
        if self.stage == Stage::Logs {
            io.bad.log_failed(member);
        }
        if let Err(error) = result {
            // Stage Idle: the flush of an array that comes to rest.
            io.effects.push(match self.stage {
                Stage::Flush | Stage::Settle | Stage::Idle => {
                    Effect::FlushFailed(member, format!("flush failed: {error}"))
                }
                Stage::Logs => {
                    Effect::Fail(member, format!("bad-block log cannot be written: {error}"))
                }
                _ => Effect::Fail(member, format!("superblock write failed: {error}")),
            });
        }
    }

    /// Carries on with what is wanted. Returns whether anything changed.
    pub fn advance(
        &mut self,
        io: &mut Io,
        members: &mut Members,
        bitmap: &mut Bitmap,
        facts: Facts,
    ) -> bool {
        if self.left > 0 {
            return false;
        }
        match self.stage {
            Stage::Idle => {
                #[cfg(feature = "museum")]
                {
                    self.old_offset_sectors = facts.resync_offset_sectors;
                }
                let goes_on = facts.may_write || io.museum.on(Exhibit::M55);
                return goes_on && self.begin(io, members);
            }
            Stage::Settle => {
                self.settled();
                self.stage = Stage::Idle;
            }
            Stage::Flush => {
                bitmap.want_events(self.events);
                self.stage = Stage::BitmapEvents;
            }
            Stage::BitmapEvents if !facts.may_write && !io.museum.on(Exhibit::M55) => {
                self.stage = Stage::Idle;
            }
            Stage::BitmapEvents => {
                if !bitmap.has_events(self.events) {
                    return false;
                }
                if self.flush_for_change {
                    self.flush(io, members);
                    self.stage = Stage::Flush;
                    return true;
                }
                self.stage = Stage::Logs;
            }
            Stage::Logs if !facts.may_write && !io.museum.on(Exhibit::M55) => {
                self.stage = Stage::Idle;
            }
            Stage::Logs => self.advance_logs(io, members, facts),
            // The array broke meanwhile: members not in sync must not carry the newest events.
            // M55 (6a5cb53aaa4e): after both members with data had dropped out, the spare that was
            // being rebuilt kept counting, and made them look stale.
            Stage::InSync if !facts.may_write && !io.museum.on(Exhibit::M55) => {
                self.rest.clear();
                self.stage = Stage::Idle;
            }
            Stage::InSync => {
                for (member, sector, bytes) in std::mem::take(&mut self.rest) {
                    if members
                        .get(member)
                        .is_some_and(|m| m.state != State::Faulty)
                    {
                        self.put(io, member, sector, bytes);
                    }
                }
                self.stage = Stage::Rest;
            }
            Stage::Rest => self.finish(),
        }
        true
    }

    /// Logs first, again if more has become bad meanwhile: what superblocks say of a member counts
    /// on its log. Then the superblocks of members in sync.
    fn advance_logs(&mut self, io: &mut Io, members: &mut Members, facts: Facts) {
        if self.write_logs(io, members) {
            return;
        }
        if self.flush_for_change {
            self.flush(io, members);
            self.stage = Stage::Flush;
        } else {
            self.write_in_sync(io, members, facts);
            self.stage = Stage::InSync;
        }
    }

    /// Starts an update if one is wanted.
    fn begin(&mut self, io: &mut Io, members: &Members) -> bool {
        let go_active = self.wants_active && self.clean;
        let go_clean = self.wants_clean
            && !self.clean
            && self.writers == 0
            && !self.wants_active
            && self.tracks_activity;
        let owed = match &self.turns {
            None => self.owes(),
            Some(turns) => turns.may_begin(),
        };
        if !go_active && !go_clean && !owed {
            self.wants_clean &= !self.clean;
            return false;
        }
        if self.unsettled && !owed {
            self.flush(io, members);
            self.stage = Stage::Settle;
            return true;
        }
        if std::mem::take(&mut self.uneven) {
            self.content = Content {
                clean: self.clean && !std::mem::take(&mut self.declared_clean),
                evens: true,
                ..Content::default()
            };
            self.stage = Stage::Flush;
            return true;
        }
        let clean = !(go_active && self.tracks_activity) && (self.clean || go_clean);
        assert!(
            !go_clean || self.writers == 0,
            "clean with writes in flight"
        );
        assert!(!(go_active && go_clean), "both ways at once");
        self.content = Content {
            clean,
            ..Content::default()
        };
        assert_eq!(self.stage, Stage::Idle, "one update at a time");
        self.events = self.events.next();
        if go_clean || self.flush_for_change {
            self.flush(io, members);
        }
        self.stage = Stage::Flush;
        true
    }

    /// Whether no update is under way. One that an array gives up when it breaks is not over
    /// before its stage is: how a flush ended would be taken for the end of something else.
    pub fn may_flush(&self) -> bool {
        self.left == 0 && self.stage == Stage::Idle
    }

    /// Flushes all members of an array that is about to rest without an update that would do it.
    ///
    /// Panics while an update is under way.
    pub fn flush_at_rest(&mut self, io: &mut Io, members: &Members) {
        assert!(self.may_flush(), "an update flushes by itself");
        self.flush(io, members);
    }

    fn flush(&mut self, io: &mut Io, members: &Members) {
        self.flush_for_change = false;
        io.bad.flush_begun();
        for member in members.iter().filter(|m| m.is_active()) {
            io.submit(member.id, Purpose::Flush, IoOp::Flush, Owner::Metadata);
            self.left += 1;
        }
    }

    /// Writes the bad-block logs that have to change. Whether there are any.
    fn write_logs(&mut self, io: &mut Io, members: &Members) -> bool {
        assert_eq!(self.left, 0, "logs are written after the flush");
        let logs = io.bad.begin_logs();
        let any = !logs.is_empty();
        for log in logs {
            let works = members.get(log.member).filter(|m| m.state != State::Faulty);
            assert!(works.is_some(), "nothing is kept of members that failed");
            match log.bytes {
                Ok(bytes) => {
                    let bytes = io.pool.copy_of(&bytes);
                    let (member, sector) = (log.member, log.sector);
                    io.write_durable(member, sector, bytes, Purpose::BadBlocks, Owner::Metadata);
                    self.left += 1;
                }
                Err(why) => io.effects.push(Effect::Fail(log.member, why)),
            }
        }
        any
    }

    /// Encodes all superblocks as of now, and writes those of members in sync.
    fn write_in_sync(&mut self, io: &mut Io, members: &mut Members, facts: Facts) {
        assert_eq!(
            self.left, 0,
            "superblocks are written after what they say is there"
        );
        self.utime_seconds = io.now().wall_seconds;
        self.content.fault = self.fault;
        self.content.change = self.change;
        // A log counts from the moment its superblock says so. Until then nobody claims more than
        // before: after a crash in between, a member that refused something would be called equal.
        if self.show_logs(io, members) {
            self.content.clean = false;
            self.content.change = self.change_recorded;
        }
        // While writes may be in flight nothing is known to agree; in a cluster bits alone tell.
        let agrees = self.content.clean || !self.tracks_activity;
        let agrees = agrees && self.turns.is_none();
        // U03: an update that began before a resync ended recorded the offset of its beginning,
        // and counted the end as recorded.
        #[cfg(feature = "museum")]
        let facts = Facts {
            resync_offset_sectors: match self.museum.on(Exhibit::U03) {
                true => self.old_offset_sectors,
                false => facts.resync_offset_sectors,
            },
            ..facts
        };
        let resync_offset_sectors = if agrees {
            facts.resync_offset_sectors
        } else {
            0
        };
        let head = encode::Head {
            clustered: self.turns.is_some(),
            events: self.events,
            utime_seconds: self.utime_seconds,
            resync_offset_sectors,
        };
        assert!(self.rest.is_empty(), "the last update is over");
        for part in encode::encode_all(&io.pool, members, head) {
            if part.in_sync {
                self.put(io, part.member, part.sector, part.bytes);
            } else {
                self.rest.push((part.member, part.sector, part.bytes));
            }
        }
    }

    /// Superblocks say which logs count. Whether that of a member in sync begins to.
    fn show_logs(&self, io: &Io, members: &mut Members) -> bool {
        let mut begins = false;
        for member in members.iter_mut() {
            let features = &mut member.superblock.fields.features;
            let before = features.contains(Features::BAD_BLOCKS);
            *features = match io.bad.is_logged(member.id) {
                Some(true) => features.with(Features::BAD_BLOCKS),
                Some(false) => features.without(Features::BAD_BLOCKS),
                None => *features,
            };
            let now = features.contains(Features::BAD_BLOCKS);
            begins |= now && !before && member.state == State::InSync;
        }
        // U44: it claimed what it would have claimed without.
        begins && self.tracks_activity && !self.museum.on(Exhibit::U44)
    }

    fn put(&mut self, io: &mut Io, member: MemberId, sector: u64, bytes: Slice) {
        io.write_durable(member, sector, bytes, Purpose::Super, Owner::Metadata);
        self.left += 1;
    }

    /// All members hold durably what they say.
    fn settled(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            self.wants_active = false;
        }
    }

    fn finish(&mut self) {
        assert_eq!(self.left, 0, "an update ends when all of it is written");
        assert!(self.rest.is_empty(), "an update ends with its last member");
        self.stage = Stage::Idle;
        if self.content.evens {
            return;
        }
        self.settled();
        self.recorded = self.events;
        assert!(
            self.content.fault >= self.fault_recorded,
            "a fault is forgotten"
        );
        assert!(
            self.content.fault <= self.fault,
            "a fault is recorded before it is known"
        );
        assert!(
            self.content.change >= self.change_recorded,
            "a change is forgotten"
        );
        assert!(
            self.content.change <= self.change,
            "a change is recorded before it is known"
        );
        let recorded = (self.content.fault, self.content.change);
        if let Some(turns) = &mut self.turns {
            return turns.written(recorded);
        }
        (self.fault_recorded, self.change_recorded) = recorded;
        if self.tracks_activity {
            self.clean = self.content.clean;
            assert!(
                !self.clean || self.writers == 0,
                "clean with a write under way"
            );
        }
        if self.clean {
            self.wants_clean = false;
        } else {
            self.wants_active = false;
        }
    }
}
