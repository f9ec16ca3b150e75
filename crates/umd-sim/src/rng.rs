//! Seeded randomness in independent streams.
//!
//! ```text
//!   seed --splitmix64(seed, stream)--> xoshiro256** state, one generator per purpose
//! ```
//!
//! Streams are independent so that a change in one part of a run (one more host operation, say)
//! does not reshuffle every other part (disk latencies, power cuts).

/// What a stream of random numbers is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The options of the run.
    Options,
    /// What one client does in one boot.
    Client(u16, u16),
    /// Which of several events due at the same instant comes first.
    Schedule,
    /// Latencies and torn sectors of one disk.
    Disk(u16),
    /// Which faults strike and when.
    Fault(u16),
    /// Administrator's actions.
    Control(u16),
    /// Identities and initial content.
    Setup,
    /// Crash images.
    Fork(u16),
    /// Which disk shears its writes at the end of a boot.
    Shorn(u16),
    /// Limits of sync actions.
    Limits(u16),
    /// Whether writes lag on write-mostly members.
    Behind,
    /// How the array is stored, where that was thought of later.
    Stored,
    /// Which disk tears its metadata at the end of a boot.
    Shred(u16),
    /// Whether a member has bad blocks.
    Logged,
    /// Whether the bitmap is lockless.
    Lockless,
    /// Whether and which member runs alone for a while.
    Alone(u16),
    /// Whether the power goes while superblocks are written.
    Supers,
    /// Whether a log is full.
    Full,
    /// Whether the array is one of level faulty.
    Faulty,
    /// How long the source of a rebuild takes over a write, if it does.
    Late(u16),
    /// Whether and how long a superblock takes when the array is stopped.
    Tardy(u16),
    /// Whether members take no data somewhere.
    Worn,
    /// Whether the array waits for its first write when it is started.
    Dormant(u16),
    /// Whether a crash finds a rebuild half way.
    Halfway,
    /// When whoever runs the array suspends it, goes on or stops, beside what goes on.
    Embedder(u16),
    /// Which levels and layouts an array is to have.
    Levels,
    /// Which ends of member I/O come together.
    Ends(u16),
    /// What a run of a cluster is about.
    Cluster,
    /// What takes how long in a run of a cluster.
    Network,
    /// What befalls a cluster in an order of its own.
    Tales,
}

impl Stream {
    fn salt(self) -> u64 {
        let (kind, a, b) = match self {
            Stream::Options => (1, 0, 0),
            Stream::Client(boot, n) => (2, boot, n),
            Stream::Schedule => (3, 0, 0),
            Stream::Disk(n) => (4, n, 0),
            Stream::Fault(boot) => (5, boot, 0),
            Stream::Control(boot) => (6, boot, 0),
            Stream::Setup => (7, 0, 0),
            Stream::Fork(n) => (8, n, 0),
            Stream::Shorn(boot) => (9, boot, 0),
            Stream::Limits(boot) => (10, boot, 0),
            Stream::Behind => (11, 0, 0),
            Stream::Logged => (12, 0, 0),
            Stream::Stored => (13, 0, 0),
            Stream::Shred(boot) => (14, boot, 0),
            Stream::Lockless => (15, 0, 0),
            Stream::Alone(boot) => (17, boot, 0),
            Stream::Supers => (18, 0, 0),
            Stream::Full => (19, 0, 0),
            Stream::Faulty => (16, 0, 0),
            Stream::Late(boot) => (40, boot, 0),
            Stream::Tardy(boot) => (41, boot, 0),
            Stream::Dormant(boot) => (42, boot, 0),
            Stream::Embedder(boot) => (43, boot, 0),
            Stream::Halfway => (44, 0, 0),
            Stream::Worn => (60, 0, 0),
            Stream::Levels => (61, 0, 0),
            Stream::Ends(boot) => (62, boot, 0),
            Stream::Cluster => (63, 0, 0),
            Stream::Network => (64, 0, 0),
            Stream::Tales => (65, 0, 0),
        };
        (kind << 32) | (u64::from(a) << 16) | u64::from(b)
    }
}

/// One step of splitmix64: a bijective scrambling of 64 bits.
pub fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// xoshiro256**.
#[derive(Debug, Clone)]
pub struct Rng {
    state: [u64; 4],
    draws: u64,
}

impl Rng {
    /// The generator of one stream of one seed.
    pub fn new(seed: u64, stream: Stream) -> Rng {
        let mut at = mix(seed).wrapping_add(mix(stream.salt() ^ 0x5151_5151_5151_5151));
        let mut state = [0; 4];
        for word in &mut state {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            *word = mix(at);
        }
        Rng { state, draws: 0 }
    }

    /// A generator whose seed is drawn from another one.
    pub fn from_draw(other: &mut Rng) -> Rng {
        Rng::new(other.next_u64(), Stream::Setup)
    }

    /// How often it has been drawn from.
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// Draws and throws away until it has been drawn from so often.
    pub fn advance_to(&mut self, draws: u64) {
        while self.draws < draws {
            self.next_u64();
        }
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.draws += 1;
        let s = &mut self.state;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number below `n`. Panics when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "nothing lies below 0");
        u64::try_from((u128::from(self.next_u64()) * u128::from(n)) >> 64)
            .expect("the high half of a 128-bit product")
    }

    /// A number in `low..=high`. Panics when `low > high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range");
        match (high - low).checked_add(1) {
            Some(n) => low + self.below(n),
            None => self.next_u64(),
        }
    }

    /// True in `permille` of 1000 cases.
    pub fn permille(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// A fair coin.
    pub fn coin(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// One of `items`. Panics when there is none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// An index below `len`. Panics when `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// An index, drawn in proportion to its weight. Panics when all weights are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
        let mut at = self.below(total);
        for (index, &weight) in weights.iter().enumerate() {
            if at < u64::from(weight) {
                return index;
            }
            at -= u64::from(weight);
        }
        unreachable!("the draw is below the sum of the weights")
    }

    /// A random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    /// A number of nanoseconds around `mean_ns`: half of the draws lie well below, a few far above.
    pub fn spread(&mut self, mean_ns: u64) -> u64 {
        let shape = self.below(100);
        let scaled = |percent: u64| mean_ns.saturating_mul(percent) / 100;
        match shape {
            0..50 => self.range(scaled(20), scaled(80)),
            50..90 => self.range(scaled(80), scaled(160)),
            _ => self.range(scaled(160), scaled(500)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_streams_are_equal_and_others_differ() {
        let draw = |seed, stream| {
            let mut rng = Rng::new(seed, stream);
            (0..8).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, Stream::Schedule), draw(7, Stream::Schedule));
        assert_ne!(draw(7, Stream::Schedule), draw(8, Stream::Schedule));
        assert_ne!(draw(7, Stream::Disk(0)), draw(7, Stream::Disk(1)));
        assert_ne!(draw(7, Stream::Client(0, 1)), draw(7, Stream::Client(1, 0)));
    }

    #[test]
    fn draws_cover_their_range_and_stay_in_it() {
        let mut rng = Rng::new(1, Stream::Options);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[rng.below(10) as usize] += 1;
            assert!((5..=9).contains(&rng.range(5, 9)));
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert_eq!(rng.range(3, 3), 3);
        let hits = (0..10_000).filter(|_| rng.permille(100)).count();
        assert!((800..1200).contains(&hits), "{hits}");
    }

    #[test]
    fn weights_are_kept() {
        let mut rng = Rng::new(2, Stream::Options);
        let mut seen = [0u32; 3];
        for _ in 0..9000 {
            seen[rng.weighted(&[1, 0, 2])] += 1;
        }
        assert_eq!(seen[1], 0);
        assert!((2700..3300).contains(&seen[0]), "{seen:?}");
    }

    #[test]
    fn a_shuffle_loses_nothing() {
        let mut rng = Rng::new(3, Stream::Options);
        let mut items: Vec<u32> = (0..50).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
