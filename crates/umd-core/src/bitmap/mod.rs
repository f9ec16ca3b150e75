//! The write-intent bitmap: which regions may differ between members after a crash.
//!
//! ```text
//!   write --join--> Ticket --(its batch is on every member)--> Intent --> member data writes
//!                                                                |
//!   bit cleared <-- members flushed <-- idle for two passes <-- retire
//! ```
//!
//! A bit reaches the disks before the data it covers: member data writes are built from an
//! [`Intent`], and only this room makes one. It is cleared lazily, and only when every member is
//! in sync and holds the data durably. `marks` is how marks are stored: as bits, or as the states
//! of a lockless bitmap. Facts: bitmap.md sections 4-7 and 10.

#[cfg(test)]
mod exhaustive;
mod marks;
mod regions;
mod writer;

pub use regions::{Intent, Regions, Ticket};
pub use writer::{Place, Writer};

use umd_format::bitmap::BitmapSuperblock;

use crate::member::{Io, Members};
use crate::value::{Events, Exhibit, IoDone, IoError, MemberId, Museum, Span, Timer};

/// What the array tells the bitmap when it lets it work.
#[derive(Debug, Clone, Copy)]
pub struct Leave {
    /// The array is writable.
    pub may_write: bool,
    /// Every slot is in sync, all faults are recorded, the array is writable: bits may go.
    pub may_clear: bool,
    /// Some slot has no member in sync.
    pub degraded: bool,
    /// The events that superblocks on disk carry.
    pub events: Events,
}

/// The bitmap of a running array; also the place where arrays without one get their intents.
#[derive(Debug)]
pub struct Bitmap {
    kept: Option<Kept>,
    museum: Museum,
}

#[derive(Debug)]
struct Kept {
    regions: Regions,
    writer: Writer,
    daemon_armed: bool,
}

impl Bitmap {
    /// An array without a bitmap: every intent is granted at once.
    pub fn none() -> Bitmap {
        Bitmap {
            kept: None,
            museum: Museum::NONE,
        }
    }

    /// The bitmap read from a member, or from its file.
    ///
    /// `image` is the area as read, superblock included. Bits of regions that end above
    /// `resync_from_sectors` need a resync (`MAX_SECTOR`: none). A `stale` bitmap counts as all
    /// set, and is written out that way before anything else.
    pub fn load(
        superblock: BitmapSuperblock,
        place: Place,
        image: &[u8],
        dev_sectors: u64,
        resync_from_sectors: u64,
        stale: bool,
        block_bytes: u32,
    ) -> Bitmap {
        assert!(dev_sectors > 0, "a bitmap of something");
        let from = resync_from_sectors;
        let regions = Regions::load(&superblock, image, dev_sectors, from, stale);
        let writer = Writer::new(superblock, place, block_bytes, stale, &regions);
        Bitmap {
            kept: Some(Kept {
                regions,
                writer,
                daemon_armed: false,
            }),
            museum: Museum::NONE,
        }
    }

    /// See [`Museum`].
    pub fn exhibit(&mut self, museum: Museum) {
        self.museum = museum;
        if let Some(kept) = &mut self.kept {
            kept.regions.exhibit(museum);
        }
    }

    /// Whether regions need a resync that superblocks know nothing of.
    pub fn owes_resync(&self) -> bool {
        self.regions()
            .is_some_and(|regions| regions.tell_all() && regions.needs_any())
    }

    /// The regions, if there is a bitmap.
    pub fn regions(&self) -> Option<&Regions> {
        self.kept.as_ref().map(|k| &k.regions)
    }

    /// The regions, to be changed by the sync machine.
    pub fn regions_mut(&mut self) -> Option<&mut Regions> {
        self.kept.as_mut().map(|k| &mut k.regions)
    }

    /// The writer, for status.
    pub fn writer(&self) -> Option<&Writer> {
        self.kept.as_ref().map(|k| &k.writer)
    }

    /// How many writes may lag on write-mostly members, at the most; 0 without a bitmap.
    pub fn write_behind(&self) -> u32 {
        self.kept.as_ref().map_or(0, |k| k.writer.write_behind())
    }

    /// A write of these sectors (member data sectors) is about to be made: its regions are marked,
    /// in memory, and counted.
    pub fn join(&mut self, start_sectors: u64, len_sectors: u64) -> Ticket {
        match &mut self.kept {
            // M08 (46669e8616c6): the call that marks the bitmap stood in a branch that only
            // arrays with write-mostly members took. Here no write marks anything.
            Some(_) if self.museum.on(Exhibit::M08) => Ticket::free(),
            Some(kept) => kept.regions.join(start_sectors, len_sectors),
            None => Ticket::free(),
        }
    }

    /// The proof that the regions of a ticket are marked on disk, or the ticket back.
    pub fn redeem(&mut self, ticket: Ticket) -> Result<Intent, Ticket> {
        match &self.kept {
            Some(kept) => kept.regions.redeem(ticket),
            None => Ok(ticket.grant_free()),
        }
    }

    /// The write is over.
    pub fn retire(&mut self, intent: Intent) {
        if let Some(kept) = &mut self.kept {
            kept.regions.retire(intent);
        }
    }

    /// The write was given up before it began.
    pub fn abandon(&mut self, ticket: Ticket) {
        if let Some(kept) = &mut self.kept {
            kept.regions.abandon(ticket);
        }
    }

    /// Asks for the bitmap superblock to carry `events` on every member.
    pub fn want_events(&mut self, events: Events) {
        if let Some(kept) = &mut self.kept {
            kept.writer.want_events(events);
        }
    }

    /// Whether the superblock carries `events` everywhere and no member waits for its first copy.
    pub fn has_events(&self, events: Events) -> bool {
        self.kept
            .as_ref()
            .is_none_or(|k| k.writer.has_events(events))
    }

    /// Asks for a complete copy on a member that is about to join.
    pub fn want_copy(&mut self, member: MemberId) {
        if let Some(kept) = &mut self.kept {
            kept.writer.want_copy(member);
        }
    }

    /// From here on it is for so many sectors: what is added is clean, what goes is forgotten. All
    /// of it is written to all members.
    ///
    /// # Panics
    /// When somebody writes in what goes.
    pub fn reach(&mut self, sectors: u64, members: &Members) {
        let kept = self.kept.as_mut().expect("a bitmap that is to reach there");
        let superblock = kept.writer.reach(sectors);
        kept.regions.reach(superblock, sectors);
        for member in members.iter().filter(|m| m.is_active()) {
            kept.writer.want_copy(member.id);
        }
    }

    /// Asks for bits that stand for so many bytes each, on all members; what hosts write goes on.
    /// What is dirty stays dirty, and counts as not synced by a run that is under way.
    pub fn want_region(&mut self, bytes: u32) {
        let kept = self.kept.as_mut().expect("a bitmap that is to change");
        kept.writer.want_region(bytes);
    }

    /// Whether bits stand for so many bytes each, on all members.
    pub fn has_region(&self, bytes: u32) -> bool {
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.writer.has_region(bytes))
    }

    /// Begins nothing any more, or goes on. What is under way ends.
    pub fn hold(&mut self, held: bool) {
        let kept = self.kept.as_mut().expect("a bitmap that is to wait");
        kept.writer.hold(held);
    }

    /// Whether it is held, and nothing of it is under way.
    pub fn is_still(&self) -> bool {
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.writer.is_still())
    }

    /// It is held, and others have written it: from now on its bits stand for so many bytes, and it
    /// lies this far from superblocks. It goes on, and is written once as it is here.
    ///
    /// # Panics
    /// When something of it is under way.
    pub fn adopt(&mut self, region_bytes: u32, offset_sectors: i32, members: &Members) {
        let kept = self.kept.as_mut().expect("a bitmap that is to change");
        let to = (region_bytes, offset_sectors);
        kept.writer.adopt(members, &mut kept.regions, to);
    }

    /// Asks for all of its new file to be written.
    pub fn want_file(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.writer.want_file();
        }
    }

    /// Whether its file failed.
    pub fn is_lost(&self) -> bool {
        self.kept.as_ref().is_some_and(|k| k.writer.is_lost())
    }

    /// Whether none of its I/O is under way.
    pub fn rests(&self) -> bool {
        self.kept.as_ref().is_none_or(|k| k.writer.rests())
    }

    /// Whether all that has to be written was, in all its steps. Bits may still be cleared.
    pub fn is_settled(&self) -> bool {
        let settled = |k: &Kept| k.writer.is_idle() && !k.writer.has_to_write(&k.regions);
        self.rests() && self.kept.as_ref().is_none_or(settled)
    }

    /// Asks for everything idle to be cleared now (array stop).
    pub fn want_final_clear(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.regions.mark_all_idle();
            kept.writer.want_clear();
        }
    }

    /// Whether no bitmap I/O is under way or wanted.
    pub fn is_quiet(&self) -> bool {
        self.kept
            .as_ref()
            .is_none_or(|k| k.writer.is_idle() && !k.writer.has_work(&k.regions))
    }

    /// What must hold between two events, in all regions.
    pub fn check(&self) {
        if let Some(kept) = &self.kept {
            kept.regions.check();
            kept.writer.check();
        }
    }

    /// The same, where anything changed since the last time.
    pub fn check_changed(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.regions.check_changed();
            kept.writer.check();
        }
    }

    /// The file that holds it, while it works; no member has this identity.
    pub fn file(&self) -> Option<MemberId> {
        match self.kept.as_ref()?.writer.place() {
            Place::File(id) => Some(id),
            Place::Members(_) | Place::Lost(_) => None,
        }
    }

    /// Its file failed. Bits go on being counted in memory; none is cleared any more.
    pub fn lose(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.writer.lose();
        }
    }

    /// A bitmap I/O ended.
    pub fn done(&mut self, io: &mut Io, member: MemberId, result: Result<IoDone, IoError>) {
        let kept = self.kept.as_mut().expect("bitmap I/O only with a bitmap");
        kept.writer.done(io, member, result);
    }

    /// The timer fired: regions that stayed idle since the last pass may be cleared.
    pub fn daemon(&mut self, leave: Leave) {
        let Some(kept) = &mut self.kept else { return };
        let leave = kept.leave(leave);
        kept.daemon_armed = false;
        if leave.may_clear && kept.regions.age() {
            kept.writer.want_clear();
        }
    }

    /// Carries on with what is wanted. Returns whether anything changed.
    pub fn advance(&mut self, io: &mut Io, members: &Members, leave: Leave) -> bool {
        let Some(kept) = &mut self.kept else {
            return false;
        };
        kept.regions.set_degraded(leave.degraded);
        let leave = kept.leave(leave);
        let changed = kept.writer.advance(io, members, &mut kept.regions, leave);
        if !kept.daemon_armed && leave.may_clear && kept.regions.dirty() > 0 {
            kept.daemon_armed = true;
            let at = io.now().mono + kept.daemon_sleep();
            io.out
                .push(crate::value::Command::Arm(Timer::BitmapDaemon, at));
        }
        changed
    }
}

impl Kept {
    /// A bit that cannot be cleared on disk is not cleared in memory.
    fn leave(&self, leave: Leave) -> Leave {
        Leave {
            may_clear: leave.may_clear && !self.writer.is_lost(),
            ..leave
        }
    }

    fn daemon_sleep(&self) -> Span {
        Span::secs(u64::from(self.writer.daemon_sleep_seconds()))
    }
}
