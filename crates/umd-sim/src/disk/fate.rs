//! Deciding what becomes of each write, for runs in which nothing is left to chance.
//!
//! ```text
//!   in flight ---+--- kept ----> medium (power cut) or cache (kill)
//!   in cache  ---+--- lost ----> as if it had never been submitted
//! ```

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{Flying, Job, SimDisk, Write};
use crate::rng::Rng;

/// Where a write was when its fate was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stand {
    /// Submitted and not over.
    Flying,
    /// Over, and not flushed.
    Cached,
}

impl SimDisk {
    /// Takes chance out of the disk: every operation takes its mean time, nothing shows before it
    /// is over, and reads see what is there when they end.
    pub fn make_plain(&mut self) {
        self.plain = true;
    }

    /// Other chances from here on.
    pub fn reseed(&mut self, rng: Rng) {
        self.rng = rng;
    }

    /// The same disk again, with chances of its own, for a power cut: of what is in flight it has
    /// the writes only.
    pub fn twin(&self, rng: Rng) -> SimDisk {
        let writes = self.flying.iter().filter_map(|(&tag, flying)| {
            let Job::Write { write, applied } = &flying.job else {
                return None;
            };
            let (write, applied) = (write.clone(), applied.clone());
            let job = Job::Write { write, applied };
            let fate = flying.fate;
            Some((tag, Flying { job, fate }))
        });
        SimDisk {
            image: self.image.clone(),
            cache: self.cache.clone(),
            flying: writes.collect(),
            supers: self.supers,
            bad: self.bad.clone(),
            worn: self.worn.clone(),
            forgotten: self.forgotten.clone(),
            armed: Vec::new(),
            power: self.power,
            latency: self.latency,
            rng,
            writes: self.writes,
            completions: self.completions,
            plain: self.plain,
            fua_flushes: self.fua_flushes,
            lies: Vec::new(),
            strays: Vec::new(),
            shears: false,
            shorn: Vec::new(),
            shreds: false,
            block_sectors: self.block_sectors,
        }
    }

    /// Writes that a power cut now may or may not leave, in the order of their submission.
    pub fn undecided(&self) -> Vec<(Rc<Write>, Stand)> {
        let mut all: Vec<(Rc<Write>, Stand)> = self
            .writes_in_flight()
            .map(|write| (write.clone(), Stand::Flying))
            .collect();
        for (_, write) in self.cache.range(0, u64::MAX) {
            if !all.iter().any(|(other, _)| other.number == write.number) {
                all.push((write.clone(), Stand::Cached));
            }
        }
        all.sort_by_key(|(write, _)| write.number);
        all
    }

    /// The power goes, and exactly these writes survive.
    pub fn cut_where(&mut self, keep: impl Fn(&Write, Stand) -> bool) {
        for (write, stand) in self.undecided() {
            if stand != Stand::Flying {
                continue;
            }
            if keep(&write, stand) {
                let all = write.offset_sectors..write.end_sectors();
                self.apply(&write, all);
            } else {
                self.shear(&write, &BTreeSet::new());
            }
        }
        self.bad.extend(&self.shorn);
        let flying: Vec<u64> = self.writes_in_flight().map(|write| write.number).collect();
        self.cache.cut_where(&mut self.image, |write| {
            let stand = match flying.contains(&write.number) {
                true => Stand::Flying,
                false => Stand::Cached,
            };
            keep(write, stand)
        });
        self.rest();
    }

    /// Takes an operation back that one of several users has in flight: a write of it has landed,
    /// or has not, and never will. Nobody is told how it ended.
    pub fn take_back(&mut self, tag: u64) {
        let Some(Flying { job, .. }) = self.flying.remove(&tag) else {
            return;
        };
        self.supers -= usize::from(job.writes_super());
        if let Job::Write { write, applied } = job {
            let landed = self.land(&write);
            self.apply(&write, landed.difference(&applied).copied());
            write.done.set(self.completions);
            self.completions += 1;
        }
    }

    /// The process that used the disk was killed; of its writes in flight exactly these land.
    pub fn abandon_where(&mut self, lands: impl Fn(&Write) -> bool) {
        for (write, stand) in self.undecided() {
            if stand == Stand::Flying && lands(&write) {
                let all = write.offset_sectors..write.end_sectors();
                self.apply(&write, all);
                write.done.set(self.completions);
                self.completions += 1;
            }
        }
        self.rest();
    }
}
