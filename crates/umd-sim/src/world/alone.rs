//! A leg of a mirror that ran without the others, and they without it: two arrays of one name.
//!
//! ```text
//!   boot 0      a b c   in good order
//!   boot 1      a       writes, and nothing that is promised to last; the power goes, or it stops
//!   boot 2, 3     b c   a lies beside them: it can be added, not taken back by their bitmap
//! ```
//!
//! Whoever starts the others decides that what the lonely one was given is lost. So nobody is told
//! there that anything is durable.

use super::World;
use super::host::{Kind, Plan};
use crate::metaview::SuperView;
use crate::options::Marks;
use crate::rng::{Rng, Stream};

/// The boot in which one disk is alone.
const BOOT: u16 = 1;

/// Who ran without the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alone {
    disk: usize,
    /// It does so now.
    runs: bool,
}

/// What a superblock says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Says {
    events: u64,
    number: u32,
    clean: bool,
}

impl World<'_> {
    /// The second boot is that of one leg, if all are equal before it; then the others go on.
    pub(super) fn part_ways(&mut self) {
        if let Some(alone) = &mut self.alone {
            alone.runs = false;
        }
        // Nothing of it was recorded, or it was made a member again: what it knows later counts.
        let is_over = |alone: &Alone| !self.is_apart(alone.disk);
        if self.alone.as_ref().is_some_and(is_over) {
            self.alone = None;
        }
        let plain = self.options.marks == Marks::Bits && self.file.is_none();
        if !self.options.rare.alone || self.boot != BOOT || !plain {
            return;
        }
        let mut rng = Rng::new(self.options.seed, Stream::Alone(BOOT));
        let Some(legs) = self.equal_legs() else {
            return;
        };
        let disk = rng.pick(&legs);
        for (other, absent) in self.absent.iter_mut().enumerate() {
            *absent = other != disk;
        }
        self.alone = Some(Alone { disk, runs: true });
    }

    /// The disks of all slots, if nobody is missing, all can be read and they know the same.
    fn equal_legs(&self) -> Option<Vec<usize>> {
        let says = |disk: usize| {
            let look = |sb: SuperView<'_>| {
                let whole = sb.recovery_offset().is_none() && sb.role(sb.number()).is_some();
                whole.then(|| Says {
                    events: sb.events(),
                    number: sb.number(),
                    clean: sb.is_clean(),
                })
            };
            let there = &self.disks[disk];
            let sound = there.damaged().is_empty() && there.worn().is_empty();
            let there = self.carries[disk] && !self.absent[disk] && sound;
            let known = there.then(|| self.with_super(&self.disks[disk], look));
            Some((disk, known.flatten().flatten()?))
        };
        let legs: Vec<(usize, Says)> = (0..self.disks.len()).filter_map(says).collect();
        let (_, first) = legs.first()?;
        let equal = legs
            .iter()
            .all(|(_, said)| said.events == first.events && said.clean);
        let all = legs.len() == usize::from(self.geometry.slots);
        (equal && all).then(|| legs.iter().map(|(disk, _)| *disk).collect())
    }

    /// Whether a disk ran alone and has not been made a member of the others again: its superblock
    /// knows nobody but itself.
    pub(super) fn is_apart(&self, disk: usize) -> bool {
        let one = |alone: &Alone| alone.disk == disk && !alone.runs;
        if !self.alone.as_ref().is_some_and(one) {
            return false;
        }
        let knows = |sb: SuperView<'_>| {
            let numbers = 0..self.disks.len() as u32 * 4;
            numbers.filter(|number| sb.role(*number).is_some()).count()
        };
        let known = self.with_super(&self.disks[disk], knows);
        known.is_none_or(|known| known <= 1)
    }

    /// One leg runs without the others.
    pub(super) fn runs_alone(&self) -> bool {
        self.alone.as_ref().is_some_and(|alone| alone.runs)
    }

    /// What a host asks of the lonely one is not said to be durable.
    pub(super) fn as_it_will_be_lost(&self, plan: Plan) -> Plan {
        if !self.runs_alone() {
            return plan;
        }
        let kind = match plan.kind {
            Kind::Write { .. } => Kind::Write { fua: false },
            Kind::Trim { .. } => Kind::Trim { fua: false },
            Kind::Flush => Kind::Read,
            kind => kind,
        };
        Plan { kind, ..plan }
    }
}
