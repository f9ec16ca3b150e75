//! The register oracle: every array sector is a register, every write has its own number.
//!
//! ```text
//!   version:  issued ----------- completed ----------- overwritten ........ gone
//!             may be read from   must be visible       not readable any     no power cut can
//!             here on            if nothing newer is   more; a power cut    bring it back
//!                                                      brings it back
//! ```
//!
//! * A read that ran from `s` to `e` may return a version that was issued before `e` and not
//!   overwritten before `s`.
//! * A completed write overwrites every version that was complete before it was issued.
//! * With read-commit, a completed read of `r` overwrites every *other* version that was complete
//!   before it began: once read, a value stays (also in a region that is not yet synchronised
//!   after a crash, even if the member it was read from dies). Where there are copies this begins
//!   with the answer to the write: until then one copy may hold it and the next one not.
//! * A flush makes what was overwritten before it was issued gone, by answered writes that is; a
//!   FUA write does so for what it overwrites itself.
//! * A power cut un-overwrites what is not gone; a killed process does not (caches survive).
//!
//! Times are ticks: each call gets its own, so no two things happen at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use crate::registers::Registers;
use crate::rng::mix;
use crate::stamp::{Content, SECTOR, recognise};

/// Not yet.
const OPEN: u64 = u64::MAX;

/// What a version looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The stamp of this write.
    Stamp(u64),
    /// Zeros (never written, or written with zeros or trimmed).
    Zero,
    /// Anything: lost beyond what redundancy can bring back, or never written on old disks.
    Wild,
}

#[derive(Debug, Clone, Copy)]
struct Version {
    look: Look,
    issued: u64,
    completed: u64,
    overwritten: u64,
    /// Since when a flush makes that durable. Later than `overwritten` if a read saw a newer
    /// version before its write was answered.
    replaced: u64,
    /// No power cut can bring it back; kept while a read is in flight that began before it was
    /// overwritten.
    gone: bool,
    /// Nobody may rely on it: trimmed, or the write failed, or the machine went down meanwhile.
    weak: bool,
}

/// A write to the oracle.
#[derive(Debug, Clone)]
pub struct Issue {
    /// Array sectors.
    pub range: Range<u64>,
    /// The look it gives to them.
    pub look: Look,
    /// A trim: old content may stay.
    pub weak: bool,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Done.
    Done,
    /// Done and durable.
    Durable,
    /// It failed: it may have happened, or not, or in part.
    Failed,
    /// It was refused: it has not happened.
    Refused,
}

/// What went wrong with a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongRead {
    /// The array sector.
    pub sector: u64,
    /// What was returned.
    pub found: Content,
    /// What would have been right.
    pub allowed: String,
}

impl fmt::Display for WrongRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WrongRead {
            sector,
            found,
            allowed,
        } = self;
        write!(f, "sector {sector} reads as {found:?}, allowed: {allowed}")
    }
}

/// The registers of one array.
#[derive(Debug, Clone)]
pub struct Oracle {
    sectors: Registers<Version>,
    unwritten: Look,
    copies: bool,
    writes: BTreeMap<u64, (Issue, u64)>,
    flushes: BTreeMap<u64, u64>,
    /// Sectors with a version that is overwritten and not gone, or weak.
    loose: BTreeSet<u64>,
    /// Sectors of which a crash has kept something answered from some members that are believed
    /// (write-behind): no flush settles anything there before all of them hold it.
    lagged: BTreeSet<u64>,
    /// Ticks at which requests in flight began.
    open: BTreeSet<u64>,
    tick: u64,
    reads_checked: u64,
}

fn first(look: Look) -> Version {
    Version {
        look,
        issued: 0,
        completed: 0,
        overwritten: OPEN,
        replaced: OPEN,
        gone: false,
        weak: false,
    }
}

fn shows(look: Look, content: Content, sector: u64) -> bool {
    match (look, content) {
        (Look::Wild, _) => true,
        (Look::Zero, Content::Zero) => true,
        (
            Look::Stamp(wanted),
            Content::Stamp {
                sector: at,
                version,
            },
        ) => wanted == version && at == sector,
        _ => false,
    }
}

impl Oracle {
    /// Registers that nobody wrote to yet and that look like `unwritten`. `copies`: writes land on
    /// several members.
    pub fn new(unwritten: Look, copies: bool) -> Oracle {
        Oracle {
            sectors: Registers::new(),
            unwritten,
            copies,
            writes: BTreeMap::new(),
            flushes: BTreeMap::new(),
            loose: BTreeSet::new(),
            lagged: BTreeSet::new(),
            open: BTreeSet::new(),
            tick: 0,
            reads_checked: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// A request begins. Its tick is to be handed to [`Oracle::read_ended`] when it reads, and to
    /// [`Oracle::ended`] in the end.
    pub fn began(&mut self) -> u64 {
        let now = self.next();
        self.open.insert(now);
        now
    }

    /// A request that began at this tick is over.
    pub fn ended(&mut self, began: u64) {
        self.open.remove(&began);
    }

    fn oldest(&self) -> u64 {
        self.open.first().copied().unwrap_or(OPEN)
    }

    /// Sectors of reads that were checked so far.
    pub fn reads_checked(&self) -> u64 {
        self.reads_checked
    }

    fn versions(&mut self, sector: u64) -> &mut Vec<Version> {
        let unwritten = self.unwritten;
        let versions = self.sectors.get_mut(sector);
        if versions.is_empty() {
            versions.push(first(unwritten));
        }
        versions
    }

    /// A write is handed to the array. `number` names it, also in its stamps.
    pub fn write_issued(&mut self, number: u64, issue: Issue) {
        let issued = self.next();
        for sector in issue.range.clone() {
            self.versions(sector).push(Version {
                look: issue.look,
                issued,
                completed: OPEN,
                overwritten: OPEN,
                replaced: OPEN,
                gone: false,
                weak: issue.weak,
            });
        }
        let old = self.writes.insert(number, (issue, issued));
        assert!(old.is_none(), "write {number} is in flight already");
    }

    /// A write was answered.
    pub fn write_ended(&mut self, number: u64, how: Ended) {
        let now = self.next();
        let oldest = self.oldest();
        let (issue, issued) = self.writes.remove(&number).expect("the write is in flight");
        for sector in issue.range.clone() {
            let versions = self.versions(sector);
            if how == Ended::Refused {
                versions.retain(|v| v.issued != issued);
                continue;
            }
            let own = versions
                .iter_mut()
                .find(|v| v.issued == issued)
                .expect("a version in flight is never gone");
            own.completed = now;
            own.weak |= how == Ended::Failed;
            let weak = own.weak;
            if !weak {
                for v in versions.iter_mut().filter(|v| v.completed < issued) {
                    v.overwritten = v.overwritten.min(now);
                    v.replaced = v.replaced.min(now);
                }
                if how == Ended::Durable {
                    for v in versions.iter_mut().filter(|v| v.completed < issued) {
                        v.gone = true;
                    }
                }
            }
            versions.retain(|v| !v.gone || v.overwritten > oldest);
            if versions.len() > 1 {
                self.loose.insert(sector);
            }
        }
    }

    /// A flush is handed to the array.
    pub fn flush_issued(&mut self, number: u64) {
        let now = self.next();
        let old = self.flushes.insert(number, now);
        assert!(old.is_none(), "flush {number} is in flight already");
    }

    /// A flush was answered. Gives the sectors of which it made something durable.
    pub fn flush_ended(&mut self, number: u64, well: bool) -> Vec<u64> {
        let issued = self.flushes.remove(&number);
        let issued = issued.expect("the flush is in flight");
        if well {
            self.settle(issued)
        } else {
            Vec::new()
        }
    }

    fn settle(&mut self, issued: u64) -> Vec<u64> {
        let loose = std::mem::take(&mut self.loose);
        let mut settled = Vec::new();
        let oldest = self.oldest();
        for sector in loose {
            if self.lagged.contains(&sector) {
                self.loose.insert(sector);
                continue;
            }
            let versions = self.versions(sector);
            for v in versions
                .iter_mut()
                .filter(|v| !v.gone && v.replaced < issued)
            {
                v.gone = true;
                settled.push(sector);
            }
            versions.retain(|v| !v.gone || v.overwritten > oldest);
            let left = versions.len();
            assert!(left > 0, "the newest version is never gone");
            if left > 1 {
                self.loose.insert(sector);
            }
        }
        settled.dedup();
        settled
    }

    /// A read that began at tick `began` returned these pieces for the sectors from `first_sector`
    /// on.
    pub fn read_ended(
        &mut self,
        began: u64,
        first_sector: u64,
        pieces: &[&[u8]],
    ) -> Result<(), WrongRead> {
        let whole = pieces.iter().all(|piece| piece.len() % SECTOR == 0);
        assert!(whole, "whole sectors");
        let now = self.next();
        let sectors = pieces.iter().flat_map(|piece| piece.chunks_exact(SECTOR));
        for (sector, bytes) in (first_sector..).zip(sectors) {
            self.sector_read(now, began, sector, recognise(bytes))?;
        }
        Ok(())
    }

    /// The same of an array that is read-only: members that differ are not made to agree, and the
    /// read decides nothing.
    pub fn read_ended_undecided(
        &mut self,
        began: u64,
        first_sector: u64,
        pieces: &[&[u8]],
    ) -> Result<(), WrongRead> {
        let sectors = pieces.iter().flat_map(|piece| piece.chunks_exact(SECTOR));
        for (sector, bytes) in (first_sector..).zip(sectors) {
            let found = recognise(bytes);
            self.reads_checked += 1;
            if !self.may_read(began, sector, found) {
                return Err(self.wrong(sector, found));
            }
        }
        Ok(())
    }

    fn sector_read(
        &mut self,
        now: u64,
        began: u64,
        sector: u64,
        found: Content,
    ) -> Result<(), WrongRead> {
        self.reads_checked += 1;
        if !self.may_read(began, sector, found) {
            return Err(self.wrong(sector, found));
        }
        // A version that stands alone stays as it is.
        if self.sectors.get(sector).len() < 2 {
            return Ok(());
        }
        let copies = self.copies;
        let fits = |v: &Version| v.overwritten > began && shows(v.look, found, sector);
        let mut versions = self.sectors.get(sector).iter();
        let answered = versions.all(|v| !fits(v) || v.completed != OPEN);
        if copies && !answered {
            return Ok(());
        }
        let versions = self.versions(sector);
        for v in versions.iter_mut().filter(|v| !fits(v)) {
            if v.completed < began {
                v.overwritten = v.overwritten.min(now);
                if answered {
                    v.replaced = v.replaced.min(now);
                }
            }
        }
        self.loose.insert(sector);
        Ok(())
    }

    fn wrong(&mut self, sector: u64, found: Content) -> WrongRead {
        let show = |v: &Version| {
            let time = |t: u64| if t == OPEN { "-".into() } else { t.to_string() };
            format!(
                "{:?}{} {}..{}..{}",
                v.look,
                if v.weak { " weak" } else { "" },
                v.issued,
                time(v.completed),
                time(v.overwritten)
            )
        };
        let versions: Vec<String> = self.versions(sector).iter().map(show).collect();
        WrongRead {
            sector,
            found,
            allowed: versions.join(" | "),
        }
    }

    /// Whether a read that began at tick `began` may find this content now. Decides nothing.
    pub fn may_read(&self, began: u64, sector: u64, found: Content) -> bool {
        match self.sectors.get(sector) {
            [] => shows(self.unwritten, found, sector),
            versions => versions
                .iter()
                .any(|v| v.overwritten > began && shows(v.look, found, sector)),
        }
    }

    /// Whether content on a member is a version that may be read now.
    pub fn is_current(&self, sector: u64, found: Content) -> bool {
        match self.sectors.get(sector) {
            [] => shows(self.unwritten, found, sector),
            versions => versions
                .iter()
                .any(|v| v.overwritten == OPEN && shows(v.look, found, sector)),
        }
    }

    /// Whether a power cut now may leave this content.
    pub fn may_survive(&self, sector: u64, found: Content) -> bool {
        match self.sectors.get(sector) {
            [] => shows(self.unwritten, found, sector),
            versions => versions
                .iter()
                .any(|v| !v.gone && shows(v.look, found, sector)),
        }
    }

    /// The machine went down. `power`: caches are lost. What was in flight may have happened.
    pub fn crashed(&mut self, power: bool) {
        let now = self.next();
        for (_, (issue, issued)) in std::mem::take(&mut self.writes) {
            for sector in issue.range {
                let own = self
                    .versions(sector)
                    .iter_mut()
                    .find(|v| v.issued == issued);
                let own = own.expect("a version in flight is never gone");
                own.completed = now;
                own.weak = true;
                self.loose.insert(sector);
            }
        }
        self.flushes.clear();
        self.open.clear();
        for sector in self.loose.clone() {
            let versions = self.versions(sector);
            versions.retain(|v| !v.gone);
            if power {
                for v in versions.iter_mut() {
                    (v.overwritten, v.replaced) = (OPEN, OPEN);
                }
            }
        }
    }

    /// The array was stopped in good order: what was complete is durable.
    pub fn stopped(&mut self) {
        assert!(
            self.writes.is_empty(),
            "a stopped array has answered every write"
        );
        let now = self.next();
        self.settle(now);
        self.flushes.clear();
    }

    /// Whether this content was answered for, and not by the end of a machine.
    pub fn is_answered(&self, sector: u64, found: Content) -> bool {
        let versions = self.sectors.get(sector).iter();
        let stamped = |v: &&Version| matches!(v.look, Look::Stamp(_)) && !v.weak;
        let mut fitting = versions.filter(stamped);
        fitting.any(|v| v.completed != OPEN && shows(v.look, found, sector))
    }

    /// Something that was answered did not reach all members before a crash.
    pub fn lags(&mut self, sectors: BTreeSet<u64>) {
        self.lagged.extend(sectors);
    }

    /// Sectors of which that is so; none from now on.
    pub fn take_lagged(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.lagged)
    }

    /// The members that held all that was answered are lost, after a crash: what no flush made
    /// durable may come back.
    pub fn unlanded(&mut self, sector: u64) {
        for v in self.versions(sector).iter_mut().filter(|v| !v.gone) {
            (v.overwritten, v.replaced) = (OPEN, OPEN);
        }
    }

    /// Something of this write reached a member. If it had been answered with an error before, as a
    /// device hung, it shows only now, whatever was read meanwhile: but not over what was written
    /// after that answer.
    pub fn landed_late(&mut self, sector: u64, number: u64) {
        if self.sectors.get(sector).is_empty() {
            return;
        }
        let versions = self.versions(sector);
        let own = |v: &&mut Version| v.look == Look::Stamp(number) && v.weak;
        let Some(failed) = versions.iter_mut().find(own).map(|v| v.completed) else {
            return;
        };
        let stands = |v: &Version| !v.weak && v.completed != OPEN && v.issued > failed;
        if !versions.iter().any(stands) {
            for v in versions
                .iter_mut()
                .filter(|v| v.look == Look::Stamp(number))
            {
                (v.overwritten, v.replaced) = (OPEN, OPEN);
            }
            self.loose.insert(sector);
        }
    }

    /// Redundancy could not bring this sector back: anything may be read.
    pub fn lost(&mut self, sector: u64) {
        self.versions(sector).push(first(Look::Wild));
    }

    /// A disk lies about this sector from now on: anything may be read, until it is written again
    /// by a write that was not under way yet.
    pub fn spoiled(&mut self, sector: u64) {
        let now = self.next();
        let lie = Version {
            issued: now,
            completed: now,
            ..first(Look::Wild)
        };
        self.versions(sector).push(lie);
        self.loose.insert(sector);
    }

    /// Whether no write there was ever answered: what members hold there need not be the same. A
    /// trim promises nothing.
    pub fn is_untouched(&self, sector: u64) -> bool {
        let mut versions = self.sectors.get(sector).iter();
        versions.all(|v| v.issued == 0 || v.weak || v.completed == OPEN)
    }

    /// A hash of what may be read now.
    pub fn digest(&self) -> u64 {
        let mut sum = self.lagged.iter().fold(0, |sum, at| mix(sum ^ mix(*at)));
        for (sector, versions) in self.sectors.iter() {
            for v in versions {
                let look = match v.look {
                    Look::Stamp(number) => number + 2,
                    Look::Zero => 0,
                    Look::Wild => 1,
                };
                let state = [v.overwritten == OPEN, v.completed == OPEN, v.gone, v.weak];
                let state = state
                    .iter()
                    .fold(0, |bits, bit| bits << 1 | u64::from(*bit));
                sum = mix(sum ^ mix(sector ^ look.rotate_left(32)) ^ state);
            }
        }
        sum
    }

    /// Sectors that are known to differ from the unwritten look, in order.
    pub fn written(&self) -> impl Iterator<Item = u64> + '_ {
        self.sectors.iter().map(|(sector, _)| sector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::stamp;

    struct Bench {
        oracle: Oracle,
        next: u64,
    }

    impl Bench {
        fn new() -> Bench {
            Bench {
                oracle: Oracle::new(Look::Zero, false),
                next: 0,
            }
        }

        fn issue(&mut self, weak: bool, zero: bool) -> u64 {
            self.next += 1;
            let number = self.next;
            let look = if zero {
                Look::Zero
            } else {
                Look::Stamp(number)
            };
            let range = 5..6;
            self.oracle
                .write_issued(number, Issue { range, look, weak });
            number
        }

        fn write(&mut self, how: Ended) -> u64 {
            let number = self.issue(false, false);
            self.oracle.write_ended(number, how);
            number
        }

        fn flush(&mut self) {
            self.oracle.flush_issued(1);
            self.oracle.flush_ended(1, true);
        }

        fn bytes(version: u64) -> [u8; SECTOR] {
            let mut bytes = [0; SECTOR];
            if version > 0 {
                stamp(&mut bytes, 5, version);
            }
            bytes
        }

        /// Whether a read now may return `version` (0: zeros). Does not change the oracle.
        fn may(&self, version: u64) -> bool {
            let mut copy = self.oracle.clone();
            let began = copy.began();
            copy.read_ended(began, 5, &[&Bench::bytes(version)]).is_ok()
        }

        fn read(&mut self, version: u64) {
            let began = self.oracle.began();
            let read = self.oracle.read_ended(began, 5, &[&Bench::bytes(version)]);
            read.expect("an allowed read");
        }
    }

    #[test]
    fn a_completed_write_is_the_only_one_read() {
        let mut b = Bench::new();
        assert!(b.may(0));
        let one = b.issue(false, false);
        assert!(b.may(0) && b.may(one));
        b.oracle.write_ended(one, Ended::Done);
        assert!(!b.may(0) && b.may(one));
    }

    #[test]
    fn a_read_is_judged_by_its_whole_duration() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        let began = b.oracle.began();
        let two = b.write(Ended::Done);
        let mut copy = b.oracle.clone();
        copy.read_ended(began, 5, &[&Bench::bytes(one)])
            .expect("as it began");
        b.oracle
            .read_ended(began, 5, &[&Bench::bytes(two)])
            .expect("as it ended");
        assert!(!b.may(one));
    }

    #[test]
    fn concurrent_writes_may_land_in_any_order_but_a_read_decides() {
        let mut b = Bench::new();
        let (one, two) = (b.issue(false, false), b.issue(false, false));
        b.oracle.write_ended(two, Ended::Done);
        b.oracle.write_ended(one, Ended::Done);
        assert!(b.may(one) && b.may(two) && !b.may(0));
        b.read(one);
        assert!(b.may(one) && !b.may(two));
    }

    #[test]
    fn what_failed_while_a_device_hung_may_show_late_but_not_over_what_came_after() {
        let mut b = Bench::new();
        let one = b.write(Ended::Failed);
        b.read(0);
        assert!(!b.may(one), "hosts have read what was there before");
        b.oracle.landed_late(5, one);
        assert!(b.may(one));
        b.read(one);
        assert!(!b.may(0));
        let two = b.write(Ended::Done);
        b.oracle.landed_late(5, one);
        assert!(b.may(two) && !b.may(one), "an answered write stands");
    }

    #[test]
    fn garbled_and_misplaced_content_is_wrong() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        let began = b.oracle.began();
        let mut elsewhere = [0; SECTOR];
        stamp(&mut elsewhere, 6, one);
        let wrong = b
            .oracle
            .read_ended(began, 5, &[&elsewhere])
            .expect_err("misplaced");
        assert_eq!(wrong.sector, 5);
        let mut garbled = Bench::bytes(one);
        garbled[400] ^= 1;
        b.oracle
            .read_ended(began, 5, &[&garbled])
            .expect_err("garbled");
    }

    #[test]
    fn a_power_cut_reaches_back_to_the_last_flush() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        b.flush();
        let two = b.write(Ended::Done);
        let three = b.write(Ended::Done);
        let four = b.issue(false, false);
        assert!(!b.may(two));
        b.oracle.crashed(true);
        assert!(!b.may(0));
        assert!([one, two, three, four].iter().all(|&v| b.may(v)));
        b.read(two);
        assert!(b.may(two) && !b.may(one) && !b.may(three) && !b.may(four));
        b.oracle.crashed(true);
        assert!(b.may(one) && b.may(four), "reading makes nothing durable");
        b.read(two);
        b.flush();
        b.oracle.crashed(true);
        assert!(b.may(two) && !b.may(one) && !b.may(four));
    }

    #[test]
    fn a_flush_covers_only_what_was_answered_before() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        b.oracle.flush_issued(1);
        let two = b.write(Ended::Done);
        b.oracle.flush_ended(1, true);
        b.oracle.crashed(true);
        assert!(b.may(one) && b.may(two) && !b.may(0));
    }

    #[test]
    fn a_slow_read_may_return_what_has_been_overwritten_durably_since() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        let began = b.oracle.began();
        b.write(Ended::Durable);
        b.write(Ended::Durable);
        b.flush();
        let mut copy = b.oracle.clone();
        copy.read_ended(began, 5, &[&Bench::bytes(one)])
            .expect("it was current when the read began");
        b.oracle.crashed(true);
        assert!(!b.may(one));
    }

    #[test]
    fn seeing_a_write_before_its_answer_makes_nothing_durable() {
        let mut b = Bench::new();
        let one = b.write(Ended::Durable);
        let two = b.issue(false, false);
        b.read(two);
        assert!(!b.may(one));
        b.flush();
        let mut copy = b.oracle.clone();
        copy.crashed(true);
        let began = copy.began();
        copy.read_ended(began, 5, &[&Bench::bytes(one)])
            .expect("not answered yet");
        b.oracle.write_ended(two, Ended::Done);
        b.flush();
        b.oracle.crashed(true);
        assert!(b.may(two) && !b.may(one));
    }

    /// One copy may hold it already and the next one not.
    #[test]
    fn where_there_are_copies_seeing_a_write_before_its_answer_decides_nothing() {
        let mut b = Bench::new();
        b.oracle.copies = true;
        let one = b.write(Ended::Durable);
        let two = b.issue(false, false);
        b.read(two);
        assert!(b.may(one) && b.may(two));
        b.oracle.write_ended(two, Ended::Done);
        assert!(!b.may(one));
        b.oracle.crashed(true);
        assert!(b.may(one));
        b.read(one);
        assert!(!b.may(two), "after a crash a read decides");
    }

    #[test]
    fn fua_is_durable_and_a_failed_flush_is_nothing() {
        let mut b = Bench::new();
        b.write(Ended::Done);
        b.oracle.flush_issued(1);
        b.oracle.flush_ended(1, false);
        let mut copy = Bench {
            oracle: b.oracle.clone(),
            next: b.next,
        };
        copy.oracle.crashed(true);
        assert!(copy.may(0));
        let two = b.write(Ended::Durable);
        b.oracle.crashed(true);
        assert!(b.may(two) && !b.may(1) && !b.may(0));
    }

    #[test]
    fn a_killed_process_loses_nothing_that_was_answered() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        let two = b.issue(false, false);
        b.oracle.crashed(false);
        assert!(b.may(one) && b.may(two) && !b.may(0));
        b.oracle.crashed(true);
        assert!(b.may(0));
    }

    #[test]
    fn trims_and_failed_writes_leave_the_old_but_refused_ones_nothing() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        let trim = b.issue(true, true);
        b.oracle.write_ended(trim, Ended::Done);
        assert!(b.may(one) && b.may(0));
        b.read(0);
        assert!(!b.may(one));
        let failed = b.write(Ended::Failed);
        assert!(b.may(failed) && b.may(0));
        let refused = b.write(Ended::Refused);
        assert!(!b.may(refused));
    }

    #[test]
    fn a_stop_is_a_flush() {
        let mut b = Bench::new();
        let one = b.write(Ended::Done);
        b.oracle.stopped();
        b.oracle.crashed(true);
        assert!(b.may(one) && !b.may(0));
    }

    #[test]
    fn lost_sectors_may_hold_anything_until_written() {
        let mut b = Bench::new();
        b.write(Ended::Durable);
        b.oracle.lost(5);
        assert!(b.may(77) && b.may(0));
        let two = b.write(Ended::Durable);
        assert!(b.may(two) && !b.may(77));
    }
}
