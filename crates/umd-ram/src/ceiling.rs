//! What cannot be left out: the copies and the parity of a load, written by hand.
//!
//! ```text
//!   raw        one copy of each request, to or from a random place of a large memory
//!   ceiling    the bytes of each request to all members that hold them, parity in its place
//! ```
//!
//! There is no request, no lock, no bitmap, no answer, and no second buffer: parity changes where
//! it lies. An engine that is as fast as this does nothing else.

use umd_format::Level;

const CHUNK: usize = 64 << 10;

/// Members, and what is written to them.
pub struct Bare {
    level: Level,
    members: Vec<Vec<u8>>,
    source: Vec<u8>,
    seed: u64,
    position: usize,
}

impl Bare {
    /// Members of so many bytes, which is a multiple of a chunk.
    ///
    /// # Panics
    /// When members do not consist of chunks.
    pub fn new(level: Level, disks: u16, member_bytes: usize) -> Bare {
        assert_eq!(member_bytes % CHUNK, 0, "members of chunks");
        Bare {
            level,
            members: (0..disks)
                .map(|n| vec![n as u8 + 1; member_bytes])
                .collect(),
            source: vec![0xa5; 1 << 20],
            seed: 1,
            position: 0,
        }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005);
        self.seed = self.seed.wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % below
    }

    /// Raw: copies of `block` bytes into the first member.
    pub fn raw_writes(&mut self, block: usize, random: bool, requests: u64) {
        for _ in 0..requests {
            let at = self.place(block, random);
            self.members[0][at..at + block].copy_from_slice(&self.source[..block]);
        }
    }

    /// Raw: copies of `block` bytes into the first member, past the caches.
    pub fn raw_writes_past_cache(&mut self, block: usize, requests: u64) {
        for _ in 0..requests {
            let at = self.place(block, false);
            let to = &mut self.members[0][at..at + block];
            umd_parity::copy_past_cache(to, &self.source[..block]);
        }
    }

    /// Raw: copies of `block` bytes out of the first member.
    pub fn raw_reads(&mut self, block: usize, random: bool, requests: u64) {
        for _ in 0..requests {
            let at = self.place(block, random);
            self.source[..block].copy_from_slice(&self.members[0][at..at + block]);
        }
    }

    fn place(&mut self, block: usize, random: bool) -> usize {
        let places = self.members[0].len() / block;
        if random {
            return self.draw(places) * block;
        }
        self.position = (self.position + 1) % places;
        self.position * block
    }

    /// Writes of 4 KiB at random places.
    pub fn small_writes(&mut self, requests: u64) {
        const BLOCK: usize = 4096;
        let disks = self.members.len();
        for _ in 0..requests {
            let at = self.draw(self.members[0].len() / BLOCK) * BLOCK;
            let first = self.draw(disks);
            let new = &self.source[..BLOCK];
            // The slots from `first` on, going round: data, P, Q, other data.
            let (low, high) = self.members.split_at_mut(first);
            let round = high.iter_mut().chain(low);
            let mut columns = round.map(|member| &mut member[at..at + BLOCK]);
            let mut four: [&mut [u8]; 4] = [(); 4].map(|()| columns.next().unwrap_or_default());
            let columns = &mut four[..disks.min(4)];
            match (self.level, columns) {
                (Level::Raid1 | Level::Raid10, [a, b, ..]) => {
                    a.copy_from_slice(new);
                    b.copy_from_slice(new);
                }
                (Level::Raid5, [data, p, other]) => {
                    umd_parity::xor_many(p, &[new, other]);
                    data.copy_from_slice(new);
                }
                (Level::Raid5, [data, p, ..]) => {
                    umd_parity::pq_delta(Some(p), None, 0, data, new);
                    data.copy_from_slice(new);
                }
                (Level::Raid6, [data, p, q, ..]) => {
                    umd_parity::pq_delta(Some(p), Some(q), 1, data, new);
                    data.copy_from_slice(new);
                }
                (_, [data, ..]) => data.copy_from_slice(new),
                (_, []) => unreachable!("an array has members"),
            }
        }
    }

    /// Writes of 1 MiB one behind the other, whole rows of 64 KiB chunks.
    pub fn large_writes(&mut self, requests: u64) {
        let disks = self.members.len();
        let data_disks = match self.level {
            Level::Raid1 => 1,
            Level::Raid5 => disks - 1,
            Level::Raid6 => disks - 2,
            _ => disks,
        };
        let rows = self.source.len() / (CHUNK * data_disks);
        for _ in 0..requests {
            for row in 0..rows {
                let at = self.place(CHUNK, false);
                let from = row * CHUNK * data_disks;
                let data: Vec<&[u8]> = self.source[from..].chunks(CHUNK).take(data_disks).collect();
                let mut columns: Vec<&mut [u8]> = Vec::with_capacity(disks);
                let all = self.members.iter_mut();
                columns.extend(all.map(|member| &mut member[at..at + CHUNK]));
                let (to, parity) = columns.split_at_mut(data_disks);
                for (to, from) in to.iter_mut().zip(&data) {
                    umd_parity::copy_past_cache(to, from);
                }
                match (self.level, parity) {
                    (Level::Raid1, others) => {
                        let others = others.iter_mut();
                        others.for_each(|to| umd_parity::copy_past_cache(to, data[0]));
                    }
                    (Level::Raid5, [p]) => umd_parity::xor_many(p, &data),
                    (Level::Raid6, [p, q]) => {
                        let data: Vec<Option<&[u8]>> = data.iter().copied().map(Some).collect();
                        umd_parity::pq(p, q, &data);
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ceiling that leaves out what has to be done would be none.
    #[test]
    fn parity_is_right_where_whole_rows_were_written() {
        for (level, disks) in [(Level::Raid5, 3), (Level::Raid6, 6), (Level::Raid1, 2)] {
            let mut bare = Bare::new(level, disks, 64 * CHUNK);
            bare.source = (0..1 << 20).map(|n: u32| (n * 7 % 251) as u8).collect();
            bare.large_writes(1);
            let at = CHUNK;
            let column = |n: usize| &bare.members[n][at..at + CHUNK];
            match level {
                Level::Raid1 => assert_eq!(column(0), column(1)),
                Level::Raid5 => {
                    let mut p = vec![0; CHUNK];
                    umd_parity::p_only(&mut p, &[Some(column(0)), Some(column(1))]);
                    assert_eq!(p, column(2));
                }
                _ => {
                    let (mut p, mut q) = (vec![0; CHUNK], vec![0; CHUNK]);
                    let data: Vec<_> = (0..4).map(|n| Some(column(n))).collect();
                    umd_parity::pq(&mut p, &mut q, &data);
                    assert_eq!((&p[..], &q[..]), (column(4), column(5)));
                }
            }
        }
    }
}
