//! What members cannot give: ranges their bad-block logs name. A rebuild that nobody can give a
//! sector to, and a write that a member refuses (lane/narrow.rs), add to it.
//!
//! ```text
//!   disk      what the log says              kept until a write over it is durable
//!   flushed   what was bad at the last flush    |
//!   now       what is bad                    a write that succeeds takes from it at once
//!
//!   the next log = now and flushed           so no cut of power makes readable what was not
//! ```
//!
//! Whoever reads a range that is bad now hears of a media error, and the device is not asked. This
//! is the only place that decides so. Facts: superblocks.md section 10.

use std::collections::BTreeMap;

use umd_format::SuperblockV1;
use umd_format::badblocks::{BadLog, BadRanges};

use crate::value::{Exhibit, IoDone, IoError, IoOp, MemberId, Museum, Purpose};

/// What is known of one member.
#[derive(Debug)]
struct Marked {
    now: BadRanges,
    flushed: BadRanges,
    /// As it stands on the member; `None` if it has none that can be written.
    log: Option<BadLog>,
    /// What is being written.
    next: Option<BadLog>,
}

/// The bad blocks of all members.
#[derive(Debug, Default)]
pub struct BadBlocks {
    members: BTreeMap<MemberId, Marked>,
    /// Members whose rewritten sectors were known to be bad: no news, so no read errors.
    forgiven: Vec<MemberId>,
    /// Changes so far; those there were at the last flush; those the logs on the members know.
    changes: u64,
    flushed: u64,
    recorded: u64,
    /// Changes that somebody was told of.
    told: u64,
    bitmap_sectors: u64,
    /// Data is being moved: nothing more is recorded as bad.
    moving: bool,
    museum: Museum,
}

/// A log to be written.
#[derive(Debug)]
pub struct LogWrite {
    /// To whom.
    pub member: MemberId,
    /// Where.
    pub sector: u64,
    /// What, or why it cannot be.
    pub bytes: Result<Vec<u8>, String>,
}

impl BadBlocks {
    /// See [`Museum`].
    pub fn exhibit(&mut self, museum: Museum) {
        self.museum = museum;
    }

    /// How long the bitmap on each member is: no log is written into it.
    pub fn set_bitmap(&mut self, sectors: u64) {
        self.bitmap_sectors = sectors;
    }

    /// A member, with the log that was read from it, if its superblock says that there is something
    /// in it.
    pub fn take_in(
        &mut self,
        member: MemberId,
        superblock: &SuperblockV1,
        read: Option<BadLog>,
        (device_sectors, block_bytes): (u64, u32),
    ) {
        let Some(log) = read.or_else(|| BadLog::empty(&superblock.fields)) else {
            return;
        };
        let now = log.ranges();
        let block = u64::from(block_bytes / 512).max(1);
        let whole = log.sector.is_multiple_of(block)
            && log.sectors().is_multiple_of(block)
            && superblock.has_bad_block_room(device_sectors, self.bitmap_sectors);
        let marked = Marked {
            flushed: now.clone(),
            now,
            log: whole.then_some(log),
            next: None,
        };
        assert!(
            self.members.insert(member, marked).is_none(),
            "taken in once"
        );
    }

    /// The member has failed: nothing is written to it any more. What it cannot give stays so, for
    /// whoever still reads it.
    pub fn retire(&mut self, member: MemberId) {
        if let Some(marked) = self.members.get_mut(&member) {
            (marked.log, marked.next) = (None, None);
        }
    }

    /// The member is gone.
    pub fn forget(&mut self, member: MemberId) {
        self.members.remove(&member);
    }

    /// The ranges of a member that cannot be read.
    pub fn of(&self, member: MemberId) -> Option<&BadRanges> {
        self.members.get(&member).map(|marked| &marked.now)
    }

    /// Whether a sector of `start..end` of the device cannot be read.
    pub fn hides(&self, member: MemberId, start: u64, end: u64) -> bool {
        let Some(bad) = self.of(member) else {
            return false;
        };
        // M17 (36a5c03f2327): only where a read began was looked at, and it went on into what
        // was known to be bad.
        let end = match self.museum.on(Exhibit::M17) {
            true => start + 1,
            false => end,
        };
        bad.overlaps(start, end)
    }

    /// Whether an I/O asks for what cannot be read.
    pub fn hides_from(&self, member: MemberId, op: &IoOp) -> bool {
        let (start, len) = match op {
            IoOp::Read {
                offset_sectors,
                buf,
            } => (*offset_sectors, (buf.len() / 512) as u64),
            IoOp::Allocation {
                offset_sectors,
                len_sectors,
            } => (*offset_sectors, *len_sectors),
            _ => return false,
        };
        self.hides(member, start, start + len)
    }

    /// A write of `start..end` ended. What it wrote can be read. Returns how it ended for its
    /// owner: a sector that is known to be bad may stay so when it is only rewritten.
    pub fn written(
        &mut self,
        member: MemberId,
        (start, end): (u64, u64),
        purpose: Purpose,
        result: Result<IoDone, IoError>,
    ) -> Result<IoDone, IoError> {
        let Some(marked) = self.members.get_mut(&member) else {
            return result;
        };
        if !marked.now.overlaps(start, end) {
            return result;
        }
        let rewrite = purpose == Purpose::Rewrite;
        match result {
            Ok(done) => {
                marked.now.remove(start, end);
                self.changes += u64::from(marked.log.is_some());
                if rewrite {
                    self.forgiven.push(member);
                }
                Ok(done)
            }
            // All of it was bad before, and is.
            Err(error) if error != IoError::Gone && rewrite && marked.now.covers(start, end) => {
                self.forgiven.push(member);
                Ok(IoDone::Done)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether what was just rewritten on this member had been known to be bad.
    pub fn take_forgiven(&mut self, member: MemberId) -> bool {
        let at = self.forgiven.iter().position(|one| *one == member);
        at.map(|at| self.forgiven.swap_remove(at)).is_some()
    }

    /// Whether this member has a log that can be written.
    pub fn has_log(&self, member: MemberId) -> bool {
        let marked = self.members.get(&member);
        !self.moving && marked.is_some_and(|marked| marked.log.is_some())
    }

    /// How long the bitmap on each member is.
    pub fn bitmap_sectors(&self) -> u64 {
        self.bitmap_sectors
    }

    /// While data is being moved no log takes more: who refuses a write fails.
    pub fn set_moving(&mut self, moving: bool) {
        self.moving = moving;
    }

    /// Whether anything is bad on any member.
    pub fn is_any(&self) -> bool {
        self.members.values().any(|marked| !marked.now.is_empty())
    }

    /// `start..end` of this member cannot be filled. `false` if it has no room to record it.
    pub fn mark(&mut self, member: MemberId, start: u64, end: u64) -> bool {
        let Some(marked) = self.members.get_mut(&member) else {
            return false;
        };
        let Some(log) = &marked.log else {
            return false;
        };
        let mut wanted = marked.now.clone();
        wanted.insert_all(&marked.flushed);
        wanted.insert(start, end);
        if log.rewritten(&wanted).is_err() {
            // M63 (linux-raid 2025-02): a range that had no room in the list was lost, and nobody
            // was told.
            return self.museum.on(Exhibit::M63);
        }
        marked.now.insert(start, end);
        self.changes += 1;
        true
    }

    /// Whether logs have to be written, asked once for each change.
    pub fn take_news(&mut self) -> bool {
        let news = self.told < self.changes;
        self.told = self.changes;
        news
    }

    /// Whether the logs on the members do not know yet of all that changed.
    pub fn is_owed(&self) -> bool {
        self.recorded < self.changes
    }

    /// All members are being flushed: what was written before is durable when they are.
    pub fn flush_begun(&mut self) {
        self.flushed = self.changes;
        for marked in self.members.values_mut() {
            marked.flushed = marked.now.clone();
        }
    }

    /// The logs that do not say what they have to. None: all of them do.
    pub fn begin_logs(&mut self) -> Vec<LogWrite> {
        let mut writes = Vec::new();
        for (member, marked) in &mut self.members {
            assert!(marked.next.is_none(), "one write of a log at a time");
            let Some(log) = &marked.log else {
                continue;
            };
            let mut wanted = marked.now.clone();
            wanted.insert_all(&marked.flushed);
            if log.ranges() == wanted {
                continue;
            }
            let bytes = match log.rewritten(&wanted) {
                Ok(new) if new.log == *log => continue,
                Ok(new) => {
                    marked.next = Some(new.log);
                    Ok(new.bytes)
                }
                Err(error) => Err(error.to_string()),
            };
            let (member, sector) = (*member, log.sector);
            writes.push(LogWrite {
                member,
                sector,
                bytes,
            });
        }
        if writes.is_empty() {
            self.recorded = self.flushed;
        }
        writes
    }

    /// The log of this member was written.
    pub fn log_written(&mut self, member: MemberId) {
        if let Some(marked) = self.members.get_mut(&member) {
            // It may have failed meanwhile.
            marked.log = marked.next.take();
        }
    }

    /// It was not: it still says what it said, or nothing at all.
    pub fn log_failed(&mut self, member: MemberId) {
        if let Some(marked) = self.members.get_mut(&member) {
            marked.next = None;
        }
    }

    /// Whether the log on a member says anything; `None` if none was read, or can be written.
    pub fn is_logged(&self, member: MemberId) -> Option<bool> {
        let log = self.members.get(&member)?.log.as_ref()?;
        Some(!log.ranges().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use umd_format::create::{NewArray, NewMember, new_array};
    use umd_format::v1::DeviceFlags;
    use umd_format::{Format, Level, Uuid};

    use super::*;

    const DEVICE: (u64, u32) = (8192, 512);
    const MEMBER: MemberId = MemberId(3);

    /// A member with an empty log.
    fn superblock() -> SuperblockV1 {
        let device = |n: u8| NewMember {
            device_sectors: DEVICE.0,
            device_uuid: Uuid([n; 16]),
            flags: DeviceFlags(0),
        };
        let made = new_array(&NewArray {
            format: Format::V1_2,
            preferred_minor: 0,
            set_uuid: Uuid([7; 16]),
            name: "host:test".into(),
            ctime_seconds: 1_700_000_000,
            level: Level::Raid1,
            layout: 0,
            chunk_sectors: 0,
            size_sectors: None,
            data_offset_sectors: Some(2048),
            bitmap: None,
            bad_block_log: true,
            assume_clean: true,
            slots: vec![Some(device(1)), Some(device(2))],
            spares: Vec::new(),
        });
        made.expect("made").slots[0].clone().expect("a member")
    }

    /// What was written over a bad range may still be lost with a cache: a log that forgot it
    /// before the flush would make readable what was there before.
    #[test]
    fn a_log_forgets_a_range_when_what_was_written_there_is_durable() {
        let mut bad = BadBlocks::default();
        bad.take_in(MEMBER, &superblock(), None, DEVICE);
        assert!(bad.mark(MEMBER, 3000, 3008));
        bad.flush_begun();
        assert_eq!(bad.begin_logs().len(), 1, "the range is recorded");
        bad.log_written(MEMBER);
        let done = bad.written(MEMBER, (3000, 3008), Purpose::Data, Ok(IoDone::Done));
        assert!(done.is_ok() && !bad.hides(MEMBER, 3000, 3008));
        assert!(bad.begin_logs().is_empty(), "not before a flush");
        assert_eq!(bad.is_logged(MEMBER), Some(true));
        bad.flush_begun();
        assert_eq!(bad.begin_logs().len(), 1, "behind it");
        bad.log_written(MEMBER);
        assert_eq!(bad.is_logged(MEMBER), Some(false));
    }

    #[test]
    fn a_log_that_could_not_be_written_is_written_again() {
        let mut bad = BadBlocks::default();
        bad.take_in(MEMBER, &superblock(), None, DEVICE);
        assert!(bad.mark(MEMBER, 3000, 3008));
        bad.flush_begun();
        let first = bad.begin_logs();
        bad.log_failed(MEMBER);
        assert_eq!(bad.is_logged(MEMBER), Some(false));
        assert!(bad.is_owed());
        let again = bad.begin_logs();
        assert_eq!((first.len(), again.len()), (1, 1));
        assert_eq!(first[0].bytes, again[0].bytes);
    }

    /// Mending what everybody knows to be bad must not cost the member. Anything else does: a lost
    /// write of new data, or of a sector that was good.
    #[test]
    fn only_a_rewrite_of_what_was_bad_may_fail() {
        let mut bad = BadBlocks::default();
        bad.take_in(MEMBER, &superblock(), None, DEVICE);
        assert!(bad.mark(MEMBER, 3000, 3008));
        let mut write = |range, purpose, error: IoError| {
            let done = bad.written(MEMBER, range, purpose, Err(error));
            (done.is_ok(), bad.take_forgiven(MEMBER))
        };
        let (inside, across) = ((3002, 3008), (2999, 3003));
        assert_eq!(
            write(inside, Purpose::Rewrite, IoError::Media),
            (true, true)
        );
        assert_eq!(
            write(across, Purpose::Rewrite, IoError::Media),
            (false, false)
        );
        assert_eq!(write(inside, Purpose::Data, IoError::Media), (false, false));
        assert_eq!(
            write(inside, Purpose::Rewrite, IoError::Gone),
            (false, false)
        );
        assert!(bad.hides(MEMBER, 3000, 3001), "it is as bad as before");
    }
}
