//! Every short life of a bitmap of two regions, against a model that knows only what is promised.
//!
//! ```text
//!   model, by region:   writers    who joined and is not over yet
//!                       durable    its bit has been on every member since it was last set
//!                       quiet      passes without a write since the last one
//! ```
//!
//! What is promised: a write gets its intent only when the bits of all its regions are on every
//! member; a bit that is needed is never cleared; a bit is cleared only after two passes without a
//! write, none of them since its members were flushed for it. And what keeps it from growing for
//! ever: when nobody writes, everything is cleared after two passes.

use super::regions::{Intent, Regions, Ticket};
use crate::value::MAX_SECTOR;
use umd_format::Uuid;
use umd_format::bitmap::{BitmapSuperblock, on_disk_bytes};

const REGIONS: usize = 2;
/// Sectors of a region.
const SECTORS: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A write of these regions begins.
    Join(usize, usize),
    /// The oldest ticket asks for its intent.
    Redeem,
    /// The oldest intent is over.
    Retire,
    /// The oldest ticket is given up.
    Abandon,
    /// A batch is taken to be written.
    Close,
    /// It is on every member.
    Written,
    /// The timer fires.
    Age,
    /// A pass of clearing begins: members are flushed for these regions.
    Ripe,
    /// It ends: the bits go.
    Clear,
}

const STEPS: [Step; 11] = [
    Step::Join(0, 0),
    Step::Join(1, 1),
    Step::Join(0, 1),
    Step::Redeem,
    Step::Retire,
    Step::Abandon,
    Step::Close,
    Step::Written,
    Step::Age,
    Step::Ripe,
    Step::Clear,
];

#[derive(Debug, Default, Clone, Copy)]
struct Region {
    set: bool,
    writers: u32,
    /// On every member.
    durable: bool,
    /// In the batch that is being written.
    travelling: bool,
    /// Passes of the timer without a write.
    quiet: u32,
    /// Chosen for clearing, and not written since.
    chosen: bool,
}

struct Bench {
    regions: Regions,
    model: [Region; REGIONS],
    tickets: Vec<(Ticket, usize, usize)>,
    intents: Vec<(Intent, usize, usize)>,
    batch: Option<u64>,
    pass: Option<Vec<u64>>,
}

impl Bench {
    fn new() -> Bench {
        let sectors = REGIONS as u64 * SECTORS;
        let superblock = BitmapSuperblock::new(Uuid([1; 16]), sectors, 4096);
        let image = vec![0u8; on_disk_bytes(REGIONS as u64) as usize];
        Bench {
            regions: Regions::load(&superblock, &image, sectors, MAX_SECTOR, false),
            model: [Region::default(); REGIONS],
            tickets: Vec::new(),
            intents: Vec::new(),
            batch: None,
            pass: None,
        }
    }

    /// Takes a step; `false` when it makes no sense here.
    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Join(first, last) => self.join(first, last),
            Step::Redeem => return self.redeem(),
            Step::Retire | Step::Abandon => return self.end(step),
            Step::Close => return self.close(),
            Step::Written => return self.written(),
            Step::Age => self.age(),
            Step::Ripe => return self.ripe(),
            Step::Clear => return self.clear(),
        }
        true
    }

    fn join(&mut self, first: usize, last: usize) {
        let start = first as u64 * SECTORS;
        let ticket = self
            .regions
            .join(start, (last - first) as u64 * SECTORS + 1);
        for region in &mut self.model[first..=last] {
            region.writers += 1;
            (region.quiet, region.chosen) = (0, false);
            region.set = true;
        }
        self.tickets.push((ticket, first, last));
    }

    fn redeem(&mut self) -> bool {
        if self.tickets.is_empty() {
            return false;
        }
        let (ticket, first, last) = self.tickets.remove(0);
        let all_durable = self.model[first..=last].iter().all(|region| region.durable);
        match self.regions.redeem(ticket) {
            Ok(intent) => {
                assert!(all_durable, "an intent before the bits are on every member");
                intent.assert_covers(first as u64 * SECTORS, 1);
                self.intents.push((intent, first, last));
            }
            Err(ticket) => {
                assert!(
                    !all_durable,
                    "an intent refused although the bits are there"
                );
                self.tickets.insert(0, (ticket, first, last));
            }
        }
        true
    }

    fn end(&mut self, step: Step) -> bool {
        let (first, last) = if step == Step::Retire && !self.intents.is_empty() {
            let (intent, first, last) = self.intents.remove(0);
            self.regions.retire(intent);
            (first, last)
        } else if step == Step::Abandon && !self.tickets.is_empty() {
            let (ticket, first, last) = self.tickets.remove(0);
            self.regions.abandon(ticket);
            (first, last)
        } else {
            return false;
        };
        for region in &mut self.model[first..=last] {
            region.writers -= 1;
        }
        true
    }

    fn close(&mut self) -> bool {
        if self.batch.is_some() {
            return false;
        }
        let Some((batch, pages)) = self.regions.close_batch() else {
            let waiting = self.tickets.iter().any(|(_, first, last)| {
                let mut regions = self.model[*first..=*last].iter();
                regions.any(|region| !region.durable)
            });
            assert!(!waiting, "somebody waits, and there is nothing to write");
            return false;
        };
        assert_eq!(pages, [0], "both bits lie on the first page");
        self.batch = Some(batch);
        for region in self.model.iter_mut().filter(|region| region.set) {
            region.travelling = true;
        }
        true
    }

    fn written(&mut self) -> bool {
        let Some(batch) = self.batch.take() else {
            return false;
        };
        self.regions.batch_written(batch);
        for region in self.model.iter_mut().filter(|region| region.travelling) {
            (region.durable, region.travelling) = (true, false);
        }
        true
    }

    fn age(&mut self) {
        self.regions.age();
        for region in &mut self.model {
            if region.set && region.durable && region.writers == 0 {
                region.quiet += 1;
            }
        }
    }

    fn ripe(&mut self) -> bool {
        if self.pass.is_some() {
            return false;
        }
        let chosen = self.regions.ripe();
        for (index, region) in self.model.iter_mut().enumerate() {
            let idle = region.set && region.durable && region.writers == 0;
            let expected = idle && region.quiet >= 1;
            assert_eq!(chosen.contains(&(index as u64)), expected, "region {index}");
            region.chosen = expected;
        }
        self.pass = Some(chosen);
        true
    }

    fn clear(&mut self) -> bool {
        let Some(pass) = self.pass.take() else {
            return false;
        };
        let dirty = self.regions.dirty();
        self.regions.clear(&pass);
        for (index, region) in self.model.iter_mut().enumerate() {
            let gone = region.set && !self.regions.is_dirty(index as u64 * SECTORS);
            assert_eq!(gone, region.chosen && region.writers == 0, "region {index}");
            if gone {
                *region = Region::default();
            }
        }
        assert!(self.regions.dirty() <= dirty);
        true
    }

    fn check(&self) {
        self.regions.check();
        let set = self.model.iter().filter(|region| region.set).count();
        assert_eq!(self.regions.dirty(), set as u64);
        for (index, region) in self.model.iter().enumerate() {
            assert_eq!(self.regions.is_dirty(index as u64 * SECTORS), region.set);
            assert!(region.writers == 0 || region.set, "a writer without a bit");
        }
    }

    /// When everything is over, everything is cleared.
    fn finish(mut self) {
        self.written();
        while self.end(Step::Abandon) || self.end(Step::Retire) {}
        self.clear();
        for _ in 0..2 {
            self.age();
            self.close();
            self.written();
        }
        self.age();
        self.ripe();
        self.clear();
        assert_eq!(self.regions.dirty(), 0, "something stays dirty for ever");
        self.check();
    }
}

/// Lives through the path, then through every longer one; counts the lives that make sense.
fn grow(path: &mut Vec<Step>, length_max: usize) -> u32 {
    let mut bench = Bench::new();
    for step in path.iter() {
        if !bench.take(*step) {
            return 0;
        }
    }
    bench.check();
    bench.finish();
    let mut lives = 1;
    let longer = if path.len() < length_max {
        &STEPS[..]
    } else {
        &[]
    };
    for step in longer {
        path.push(*step);
        lives += grow(path, length_max);
        path.pop();
    }
    lives
}

/// Both regions are marked everywhere, written, over, and quiet for one pass.
const QUIET: [Step; 6] = [
    Step::Join(0, 1),
    Step::Close,
    Step::Written,
    Step::Redeem,
    Step::Retire,
    Step::Age,
];

/// All lives of so many steps, from a clean bitmap and from one that is about to be cleared.
fn all_lives(steps: usize) -> u32 {
    let young = grow(&mut Vec::new(), steps);
    young + grow(&mut QUIET.to_vec(), QUIET.len() + steps)
}

#[test]
fn every_life_of_five_steps_keeps_its_promises() {
    let lives = all_lives(5);
    assert!(lives > 20_000, "{lives}");
}

#[test]
#[ignore = "takes about a minute"]
fn every_life_of_six_steps_keeps_its_promises() {
    let lives = all_lives(6);
    assert!(lives > 100_000, "{lives}");
}
