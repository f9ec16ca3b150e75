//! Every crash image of a moment: all subsets of the writes that are not durable.
//!
//! ```text
//!   moment --> per disk: its undecided writes, each subset cut and hashed     disk 0: 2 of them
//!          --> all combinations, unless one like it was looked at before      disk 1: 4
//!          --> each: assembled, settled, read back, stopped, compared         together: 8 images
//! ```
//!
//! Two images are alike when the media, what the oracle allows and what the fault atlas knows are:
//! then the same happens on both.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::World;
use crate::disk::SimDisk;
use crate::monitor::{Verdict, Violation};
use crate::rng::{Rng, Stream, mix};

/// More undecided writes than this: not all subsets are looked at.
const ALL_UPTO: usize = 12;
/// How many are, then.
const SAMPLES: usize = 256;

/// What was looked at so far.
#[derive(Debug, Default)]
pub struct Looked {
    moments: BTreeSet<u128>,
    images: BTreeSet<u128>,
    /// Moments.
    pub moments_met: u64,
    /// Images, also those that were met before.
    pub images_met: u64,
    /// Moments with too many undecided writes for all subsets.
    pub sampled: u64,
}

impl Looked {
    /// Images that were assembled and read.
    pub fn images_run(&self) -> u64 {
        self.images.len() as u64
    }
}

/// One fate of one disk.
struct Cut {
    disk: SimDisk,
    hash: u64,
}

fn both(one: u64, two: u64) -> u128 {
    let high = mix(one ^ two.rotate_left(31) ^ 0x0123_4567_89ab_cdef);
    (u128::from(high) << 64) | u128::from(mix(one).wrapping_add(two))
}

/// All subsets of what is undecided on a disk.
fn cuts(disk: &SimDisk) -> Vec<Cut> {
    let numbers: Vec<u64> = disk.undecided().iter().map(|(w, _)| w.number).collect();
    assert!(
        numbers.len() < 20,
        "{} undecided writes on one disk",
        numbers.len()
    );
    let mut cuts: Vec<Cut> = Vec::new();
    for subset in 0u32..1 << numbers.len() {
        let mut twin = disk.twin(Rng::new(0, Stream::Setup));
        twin.cut_where(|write, _| {
            let at = numbers.iter().position(|number| *number == write.number);
            subset >> at.expect("it is undecided") & 1 == 1
        });
        let hash = twin.durable().digest();
        if cuts.iter().all(|cut| cut.hash != hash) {
            cuts.push(Cut { disk: twin, hash });
        }
    }
    cuts
}

impl World<'_> {
    /// From now on every crash image of every moment is looked at.
    pub(crate) fn look_everywhere(&mut self, looked: Rc<RefCell<Looked>>) {
        self.looked = Some(looked);
    }

    /// Looks at every crash image of this moment.
    pub(super) fn look_here(&mut self) -> Verdict {
        let Some(looked) = self.looked.clone() else {
            return Ok(());
        };
        if self.live.is_none() {
            return Ok(());
        }
        let before = self.atlas.clone();
        self.prune_holes();
        let atlas = std::mem::replace(&mut self.atlas, before);
        let pages = self.pages_at_risk(true);
        let unreadable = self.unreadable_in(&pages);
        let mut base = self.twin(Rng::new(self.options.seed, Stream::Fork(0)), atlas);
        base.open_holes_in_image(pages, unreadable);
        base.oracle.crashed(true);
        let known = base.oracle.digest() ^ mix(base.atlas.digest());
        let cuts: Vec<Vec<Cut>> = self.disks.iter().map(cuts).collect();
        let hashes = cuts.iter().flatten().map(|cut| cut.hash);
        let all = hashes.fold(known, |sum, hash| mix(sum ^ hash));
        let undecided: usize = self.disks.iter().map(|disk| disk.undecided().len()).sum();
        {
            let mut looked = looked.borrow_mut();
            looked.moments_met += 1;
            looked.sampled += u64::from(undecided > ALL_UPTO);
            if !looked.moments.insert(both(all, undecided as u64)) {
                return Ok(());
            }
        }
        let total: usize = cuts.iter().map(Vec::len).product();
        let mut rng = Rng::new(all, Stream::Fork(0));
        let count = if undecided > ALL_UPTO {
            SAMPLES.min(total)
        } else {
            total
        };
        for n in 0..count {
            let number = if count < total { rng.index(total) } else { n };
            let mut rest = number;
            let chosen: Vec<&Cut> = cuts
                .iter()
                .map(|cuts| {
                    let cut = &cuts[rest % cuts.len()];
                    rest /= cuts.len();
                    cut
                })
                .collect();
            self.look_at(&base, &chosen, known, &looked)?;
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        base: &World<'_>,
        chosen: &[&Cut],
        known: u64,
        looked: &RefCell<Looked>,
    ) -> Verdict {
        let hash = chosen.iter().fold(known, |sum, cut| mix(sum ^ cut.hash));
        {
            let mut looked = looked.borrow_mut();
            looked.images_met += 1;
            if !looked.images.insert(both(hash, known)) {
                return Ok(());
            }
        }
        self.counts.images += 1;
        let mut world = base.twin(Rng::new(hash, Stream::Fork(1)), base.atlas.clone());
        let disks = chosen
            .iter()
            .map(|cut| cut.disk.twin(Rng::new(hash, Stream::Fork(2))));
        world.disks = disks.collect();
        let verdict = world.live_on();
        verdict.map_err(|Violation { rule, text }| {
            self.trace.adopt(&world.trace);
            let text = format!("a crash image: {text}");
            Violation { rule, text }
        })
    }
}
