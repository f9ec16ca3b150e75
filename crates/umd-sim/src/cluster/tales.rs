//! What befalls a cluster in an order of its own: what single acts, each at its own time, do not
//! come to.
//!
//! ```text
//!   at once    one fails a member, and removes it before others have done with the news
//!   back       a member leaves, another one is filled, leaves, and the first comes back
//!   joins      a host leaves, and joins again, and writes, while another one checks
//!   grows      the array grows while another host checks it
//! ```

use umd_core::value::Span;

use super::draw::{MS, Themes, moment};
use super::plan::{Act, Item, Plan};
use crate::rng::{Rng, Stream};

/// A tale: what happens, and how long after the one before, at least and at most.
type Tale = Vec<(u64, u64, Act)>;

impl Plan {
    /// What is told of this seed. Nothing that was drawn before depends on it.
    pub(super) fn tales(&self, themes: &Themes, times: &[u64]) -> Vec<Item> {
        let mut rng = Rng::new(self.seed, Stream::Tales);
        let mut tales = Vec::new();
        if themes.members && rng.permille(200) {
            tales.push(self.at_once(&mut rng));
        }
        if themes.members && rng.permille(200) {
            tales.push(self.back(&mut rng));
        }
        if themes.checks && rng.permille(400) {
            tales.push(self.joins(&mut rng));
        }
        if themes.sizes && rng.permille(400) {
            tales.push(self.grows(&mut rng));
        }
        let mut items = Vec::new();
        for tale in tales {
            let mut at = moment(times, &mut rng);
            for (least, most, act) in tale {
                at = Span(at.0 + rng.range(least, most) * MS);
                items.push(Item { at, act });
            }
        }
        items
    }

    fn two(&self, rng: &mut Rng) -> (usize, usize) {
        let one = rng.index(self.hosts);
        (one, (one + 1 + rng.index(self.hosts - 1)) % self.hosts)
    }

    fn write(&self, host: usize, rng: &mut Rng) -> Act {
        let most = self.array_sectors(self.used_sectors) - 8;
        Act::Write(host, rng.below(most), 8, false)
    }

    fn at_once(&self, rng: &mut Rng) -> Tale {
        let (host, other) = self.two(rng);
        let disk = rng.pick(&self.victims().collect::<Vec<_>>());
        let mut tale = vec![(0, 1, Act::Fail(host, disk))];
        for _ in 0..rng.range(1, 3) {
            tale.push((1, 40, Act::Remove(host, disk)));
        }
        tale.push((1, 10_000, Act::Read(other, 0, 8)));
        tale.push((1, 5_000, Act::ReAdd(other, disk)));
        tale
    }

    fn back(&self, rng: &mut Rng) -> Tale {
        let (host, other) = self.two(rng);
        let disk = rng.pick(&self.victims().collect::<Vec<_>>());
        let new = self.legs + self.spares + rng.index(self.drawer);
        let mut tale = vec![
            (0, 1, Act::Fail(host, disk)),
            (500, 3_000, Act::Remove(host, disk)),
            (1_000, 3_000, Act::Add(host, new)),
            (10_000, 30_000, Act::Flush(host)),
        ];
        for _ in 0..rng.range(2, 6) {
            let who = rng.index(self.hosts);
            tale.push((1, 200, self.write(who, rng)));
        }
        tale.extend([
            (8_000, 30_000, Act::Fail(host, new)),
            (500, 3_000, Act::Remove(host, new)),
            (1_000, 5_000, Act::ReAdd(other, disk)),
        ]);
        tale
    }

    fn joins(&self, rng: &mut Rng) -> Tale {
        let (host, other) = self.two(rng);
        let mut tale = vec![
            (0, 1, Act::Stop(other)),
            (3_000, 6_000, Act::Check(host, rng.coin())),
            (1, 3_000, Act::Start(other)),
        ];
        for _ in 0..rng.range(4, 20) {
            tale.push((1, 400, self.write(other, rng)));
        }
        tale
    }

    fn grows(&self, rng: &mut Rng) -> Tale {
        let (host, other) = self.two(rng);
        let mut tale = vec![(0, 1, Act::Check(host, rng.coin()))];
        for _ in 0..rng.range(1, 4) {
            let sectors = self.used_sectors + rng.range(1, self.room_sectors.max(1));
            tale.push((1, 2_000, Act::Grow(other, sectors)));
        }
        for _ in 0..rng.range(1, 8) {
            let who = rng.index(self.hosts);
            tale.push((1, 1_000, self.write(who, rng)));
        }
        tale
    }
}
