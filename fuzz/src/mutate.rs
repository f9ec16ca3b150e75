//! Changed inputs, for the runner that has no libFuzzer to guide it: what it draws depends on its
//! seed only, so that a run is the same everywhere.

/// Values that break careless arithmetic.
const EDGES: [u64; 8] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 62,
    u64::MAX,
];

/// A source of changes.
#[derive(Debug, Clone)]
pub struct Mutator(u64);

impl Mutator {
    /// Draws from this seed.
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed)
    }

    /// The next number (splitmix64).
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    /// `input` with one to four changes; parts of `other` may be in it.
    pub fn change(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..1 + self.below(4) {
            self.once(&mut bytes, other);
        }
        bytes
    }

    fn once(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        if bytes.is_empty() {
            bytes.extend(other);
            bytes.push(self.draw() as u8);
        }
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.draw() as u8,
            2 => self.number(&mut bytes[at..]),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..(at + 1 + self.below(16)).min(bytes.len()))),
            5 => {
                let again = bytes[at..(at + 1 + self.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let from = self.below(other.len().max(1)).min(other.len());
                let to = other.len().min(from + 1 + self.below(512));
                let end = bytes.len().min(at + (to - from));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }

    /// Puts a number with an edge in it over the bytes, in either order.
    fn number(&mut self, bytes: &mut [u8]) {
        let value = EDGES[self.below(EDGES.len())].wrapping_add(self.draw() % 3);
        let width = [2, 4, 8][self.below(3)].min(bytes.len());
        let wide = value.to_le_bytes();
        bytes[..width].copy_from_slice(&wide[..width]);
        if self.below(2) == 0 {
            bytes[..width].reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_all_there_is_and_every_input_can_be_changed() {
        for input in [&b""[..], b"a", b"two inputs are there"] {
            let made = |seed| {
                let mut mutator = Mutator::new(seed);
                let one = |_| mutator.change(input, b"other bytes");
                (0..200).map(one).collect::<Vec<_>>()
            };
            assert_eq!(made(1), made(1));
            assert_ne!(made(1), made(2));
            let same = made(1).iter().filter(|bytes| *bytes == input).count();
            assert!(same < 40, "{same} of 200 are as they were");
        }
    }
}
