//! Drawing a plan: first what a seed is about, then when what happens.

use umd_core::value::Span;

use super::plan::{Act, CHUNK_SECTORS, Fencing, Item, Plan};
use crate::disk::Armed;
use crate::rng::{Rng, Stream};

pub(super) const MS: u64 = 1_000_000;
/// How long hosts are at work.
const LAST_MS: u64 = 90_000;

/// What a seed has at all; most seeds leave most of it out.
pub(super) struct Themes {
    deaths: bool,
    pauses: bool,
    isolations: bool,
    cuts: bool,
    faults: bool,
    pub(super) members: bool,
    pub(super) sizes: bool,
    pub(super) checks: bool,
    power: bool,
    leaves: bool,
}

impl Themes {
    fn draw(rng: &mut Rng) -> Themes {
        let mut one = |permille| rng.permille(permille);
        Themes {
            deaths: one(600),
            pauses: one(400),
            isolations: one(300),
            cuts: one(200),
            faults: one(250),
            members: one(350),
            sizes: one(200),
            checks: one(200),
            power: one(150),
            leaves: one(400),
        }
    }
}

impl Plan {
    /// What this seed is.
    pub fn draw(seed: u64) -> Plan {
        let mut rng = Rng::new(seed, Stream::Cluster);
        let themes = Themes::draw(&mut rng);
        let hosts = 2 + rng.weighted(&[5, 4, 2, 1]);
        let ten = rng.permille(250);
        let legs = match ten {
            true => rng.pick(&[3, 4, 4]),
            false => rng.pick(&[2, 2, 3]),
        };
        let room = themes.sizes || rng.permille(100);
        let mut plan = Plan {
            seed,
            hosts,
            capacity: hosts as u16 + rng.pick(&[1, 3, 6]),
            level: if ten { 10 } else { 1 },
            layout: if ten { 0x102 } else { 0 },
            legs,
            spares: usize::from(themes.members && rng.permille(300)),
            drawer: if themes.members { 2 } else { 0 },
            used_sectors: CHUNK_SECTORS * rng.range(32, 128),
            room_sectors: if room {
                CHUNK_SECTORS * rng.range(8, 64)
            } else {
                0
            },
            region_bytes: rng.pick(&[16 << 10, 32 << 10, 64 << 10]),
            window_sectors: rng.pick(&[64, 128, 256, 1024]),
            assume_clean: rng.permille(700),
            fencing: rng.pick(&[Fencing::Storage, Fencing::Power, Fencing::Mixed]),
            unproved_permille: rng.pick(&[0, 0, 200, 600]),
            network_ns: rng.pick(&[2_000_000, 20_000_000, 400_000_000]),
            forgotten_permille: rng.pick(&[0, 20, 150]),
            late_permille: rng.pick(&[0, 300, 900]),
            contested: rng.permille(80),
            plain: false,
            items: Vec::new(),
        };
        // Few can have bitmaps of several pages: with 4096, and large disks.
        let paged = seed % 200 == 7;
        if paged {
            (plan.region_bytes, plan.used_sectors) = (16384, 31_360 * 8);
            (plan.window_sectors, plan.assume_clean) = (1 << 16, true);
            plan.capacity = plan.capacity.min(6);
        }
        let mut items = plan.starts(&mut rng);
        let times = plan.load(&mut rng, &mut items);
        plan.befall(&themes, &times, &mut rng, &mut items);
        plan.administrate(&themes, &times, &mut rng, &mut items);
        items.sort_by_key(|item| item.at);
        if themes.members {
            // Behind all others, which have their numbers in scenes.
            items.extend(plan.replaces(&times, &mut rng));
            items.extend(plan.counts(&times, &mut rng));
        }
        if rng.permille(300) || paged {
            // Behind those, for the same reason.
            items.extend(plan.rechunks(&times, &mut rng));
        }
        if paged {
            items.extend(plan.moves(&times, &mut rng));
        }
        // Behind all others, and of chances of their own.
        items.extend(plan.tales(&themes, &times));
        if paged {
            // All of such disks takes long to be read.
            items.retain(|item| !matches!(item.act, Act::Check(..)));
        }
        plan.items = items;
        plan
    }

    fn starts(&self, rng: &mut Rng) -> Vec<Item> {
        let late = rng.permille(300);
        let start = |host: usize, rng: &mut Rng| {
            let ms = match host {
                0 => 0,
                _ if late => rng.below(LAST_MS / 2),
                _ => rng.below(500),
            };
            item(ms, Act::Start(host))
        };
        (0..self.hosts).map(|host| start(host, rng)).collect()
    }

    /// What hosts write and read, in spurts. When they do.
    fn load(&self, rng: &mut Rng, items: &mut Vec<Item>) -> Vec<u64> {
        let most = self.array_sectors(self.used_sectors + self.room_sectors);
        let mut times = Vec::new();
        for _ in 0..rng.range(3, 12) {
            let begin = (300 + rng.below(LAST_MS)) * MS;
            let hot = rng.permille(500).then(|| rng.below(most));
            let gap = rng.pick(&[MS / 10, MS, 10 * MS, 100 * MS]);
            let mut at = begin;
            for _ in 0..rng.range(4, 40) {
                at += rng.below(gap * 2);
                let act = self.operation(rng, hot, most);
                let at = Span(at);
                items.push(Item { at, act });
                times.push(at.0);
            }
        }
        times
    }

    fn operation(&self, rng: &mut Rng, hot: Option<u64>, most: u64) -> Act {
        let host = rng.index(self.hosts);
        let len = rng.pick(&[1, 8, 8, 8, 16, 40, 128]).min(most);
        let at = match hot {
            Some(hot) if rng.permille(800) => hot + rng.below(64),
            _ => rng.below(most),
        };
        let at = at.min(most - len);
        match rng.below(20) {
            0..=10 => Act::Write(host, at, len, rng.permille(100)),
            11..=15 => Act::Read(host, at, len),
            16 => Act::Zero(host, at, len),
            17 => Act::Trim(host, at, len),
            _ => Act::Flush(host),
        }
    }

    /// What goes wrong, and who comes and goes.
    fn befall(&self, themes: &Themes, times: &[u64], rng: &mut Rng, items: &mut Vec<Item>) {
        let mut some = |on: bool, most: u64, act: &mut dyn FnMut(&mut Rng) -> Act| {
            if on {
                for _ in 0..rng.range(1, most) {
                    let at = moment(times, rng);
                    let act = act(rng);
                    items.push(Item { at, act });
                }
            }
        };
        let victims: Vec<usize> = self.victims().collect();
        let hosts = self.hosts;
        let ms = |rng: &mut Rng, most: u64| Span::millis(rng.range(100, most));
        some(themes.deaths, 3, &mut |rng| Act::Crash(rng.index(hosts)));
        some(themes.pauses, 3, &mut |rng| {
            let most = rng.pick(&[3_000, 20_000, 40_000]);
            Act::Pause(rng.index(hosts), ms(rng, most))
        });
        some(themes.isolations, 3, &mut |rng| {
            let most = rng.pick(&[3_000, 25_000]);
            Act::Isolate(rng.index(hosts), ms(rng, most))
        });
        some(themes.cuts, 2, &mut |rng| {
            let host = rng.permille(700).then(|| rng.index(hosts));
            Act::Cut(host, rng.pick(&victims), ms(rng, 60_000))
        });
        some(themes.faults, 4, &mut |rng| {
            let disk = rng.pick(&victims);
            let used = self.used_sectors;
            match rng.below(6) {
                0 => Act::Arm(disk, Armed::WriteError),
                1 => Act::Arm(disk, Armed::MetadataWriteError),
                2 => Act::Arm(disk, Armed::FlushRefused),
                3 => Act::Arm(disk, Armed::Hang(ms(rng, 6_000))),
                _ => Act::Damage(disk, rng.below(used - 8), rng.range(1, 8)),
            }
        });
        some(themes.power, 2, &mut |_| Act::PowerCut);
        some(themes.leaves, 3, &mut |rng| Act::Stop(rng.index(hosts)));
        let back = themes.deaths || themes.leaves || themes.power || themes.pauses;
        some(back || themes.isolations, 8, &mut |rng| {
            Act::Start(rng.index(hosts))
        });
    }

    /// Members are replaced, by a spare that comes before or after.
    fn replaces(&self, times: &[u64], rng: &mut Rng) -> Vec<Item> {
        let mut items = Vec::new();
        for _ in 0..rng.below(3) {
            let (host, other) = (rng.index(self.hosts), rng.index(self.hosts));
            let disk = rng.index(self.legs);
            let new = self.legs + self.spares + rng.index(self.drawer);
            for act in [Act::Replace(host, disk), Act::Add(other, new)] {
                let at = moment(times, rng);
                items.push(Item { at, act });
            }
        }
        items
    }

    /// Bits stand for more, or for less.
    fn rechunks(&self, times: &[u64], rng: &mut Rng) -> Vec<Item> {
        let most = rng.range(1, 3);
        let item = |_| {
            let act = Act::Rechunk(rng.index(self.hosts), 4096 << rng.below(7));
            let at = moment(times, rng);
            Item { at, act }
        };
        (0..most).map(item).collect()
    }

    /// Bitmaps get two pages, and one again.
    fn moves(&self, times: &[u64], rng: &mut Rng) -> Vec<Item> {
        let item = |bytes| {
            let act = Act::Rechunk(rng.index(self.hosts), bytes);
            let at = moment(times, rng);
            Item { at, act }
        };
        [4096, 16384, 4096].map(item).into()
    }

    /// A RAID1 gets other numbers of slots, and disks for them.
    fn counts(&self, times: &[u64], rng: &mut Rng) -> Vec<Item> {
        let mut items = Vec::new();
        if self.level != 1 || !rng.permille(400) {
            return items;
        }
        for _ in 0..rng.range(1, 4) {
            let slots = rng.range(1, self.legs as u64 + 2) as u16;
            let new = self.legs + self.spares + rng.index(self.drawer);
            let acts = [
                Act::Slots(rng.index(self.hosts), slots),
                Act::Add(rng.index(self.hosts), new),
            ];
            for act in acts {
                let at = moment(times, rng);
                items.push(Item { at, act });
            }
        }
        items
    }

    fn administrate(&self, themes: &Themes, times: &[u64], rng: &mut Rng, items: &mut Vec<Item>) {
        let host = |rng: &mut Rng| rng.index(self.hosts);
        if themes.members {
            for _ in 0..rng.range(1, 3) {
                let disk = rng.pick(&self.victims().collect::<Vec<_>>());
                let mut at = moment(times, rng);
                let new = self.legs + self.spares + rng.index(self.drawer);
                let back = match rng.below(3) {
                    0 => Act::Add(host(rng), new),
                    1 => Act::Add(host(rng), disk),
                    _ => Act::ReAdd(host(rng), disk),
                };
                let acts = [
                    Act::Fail(host(rng), disk),
                    Act::Remove(host(rng), disk),
                    back,
                ];
                for (act, most) in acts.into_iter().zip([6_000, 20_000, 1]) {
                    items.push(Item { at, act });
                    at = Span(at.0 + rng.below(most) * MS);
                }
            }
        }
        if themes.sizes {
            for _ in 0..rng.range(1, 3) {
                let sectors = self.used_sectors + rng.range(1, self.room_sectors.max(1));
                let act = Act::Grow(host(rng), sectors);
                let at = moment(times, rng);
                items.push(Item { at, act });
            }
        }
        if themes.checks {
            for _ in 0..rng.range(1, 2) {
                let act = Act::Check(host(rng), rng.coin());
                let at = moment(times, rng);
                items.push(Item { at, act });
            }
        }
    }
}

/// When something happens: mostly while hosts are at work, with something under way, or shortly
/// after.
pub(super) fn moment(times: &[u64], rng: &mut Rng) -> Span {
    if rng.permille(250) {
        return Span((500 + rng.below(LAST_MS)) * MS);
    }
    let behind = rng.pick(&[MS, 2 * MS, 20 * MS, 10_000 * MS]);
    Span(rng.pick(times) + rng.below(behind))
}

/// Something after so many milliseconds.
pub fn item(ms: u64, act: Act) -> Item {
    Item {
        at: Span::millis(ms),
        act,
    }
}
