//! Situations that chance brings about too seldom, and that seeds ask for.
//!
//! ```text
//!   alone   one leg of a mirror runs without the others            world/alone.rs
//!   late    a source vanishes as its rebuild ends, with a write    world/late.rs
//!   tardy   a stop meets superblocks that take long                world/tardy.rs
//!   dormant    it is started read-auto                             world/rest.rs
//!   embedded   it is suspended and stopped beside what goes on     world/rest.rs
//!   levels     it becomes one of another level or layout           world/levels.rs
//! ```

use crate::options::Options;
use crate::rng::{Rng, Stream};

/// Of 1000 arrays with a bitmap so many are stopped while something is being recorded.
const TARDY_PERMILLE: u64 = 60;
/// Of 1000 arrays so many wait for their first write at half of their starts.
const DORMANT_PERMILLE: u64 = 120;
/// Of 1000 arrays so many belong to somebody who suspends and stops them whenever he likes.
const EMBEDDED_PERMILLE: u64 = 120;
/// Rebuilds of such disks take several steps.
const LATE_SECTORS: u64 = 64 + 4096;

/// Which of them a seed has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rare {
    /// In its second boot one leg of a mirror runs without the others, and they without it then.
    pub alone: bool,
    /// The source of a rebuild takes long over a write, and vanishes when the rebuild is over.
    pub late: bool,
    /// Boots end with a flag that is switched, and a stop while that is being recorded.
    pub tardy: bool,
    /// It waits for its first write when it is started, at half of its starts; in a script at
    /// each.
    pub dormant: bool,
    /// It is suspended and stopped while hosts and sync actions are at work.
    pub embedded: bool,
    /// The last member of a new array has been rebuilt so far, on blank disks; 0: it is in sync.
    pub begun_sectors: u64,
    /// Its level and layout change while it runs.
    pub levels: bool,
}

impl Options {
    /// From streams of their own: other seeds mean what they meant.
    pub(crate) fn draw_rare(&mut self, seed: u64) {
        self.draw_late(&mut Rng::new(seed, Stream::Late(u16::MAX)));
        let bits = self.level > 0 && self.bitmap_bytes.is_some();
        self.rare.tardy = bits && Rng::new(seed, Stream::Tardy(u16::MAX)).permille(TARDY_PERMILLE);
        self.rare.dormant = Rng::new(seed, Stream::Dormant(u16::MAX)).permille(DORMANT_PERMILLE);
        self.rare.embedded = Rng::new(seed, Stream::Embedder(u16::MAX)).permille(EMBEDDED_PERMILLE);
    }

    /// One mirror in five that has a spare begins with a rebuild, beside writes to what is copied
    /// first.
    fn draw_late(&mut self, rng: &mut Rng) {
        let plain = !self.rare.alone && self.logged.is_none() && self.missing == 0;
        let more = self.spares + self.drawer;
        let fits = matches!(self.level, 1 | 10) && plain && more > 0 && !self.assume_clean;
        if !fits || !rng.permille(200) {
            return;
        }
        (self.missing, self.spares, self.drawer) = (1, 1, more - 1);
        for sectors in &mut self.disk_sectors {
            *sectors = (*sectors).max(LATE_SECTORS);
        }
        if self.workload.hot_sectors == 0 {
            self.workload.hot_sectors = 64;
        }
        self.rare.late = true;
    }
}
