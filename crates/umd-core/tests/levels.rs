//! Arrays become others: of another level at once, of another layout bit by bit, under load, with
//! failing members, and with the power cut between any two member I/Os.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use umd_core::array::Options;
use umd_core::array::{
    ArrayState, Command, Completion, Control, ControlError, Event, IoOp, LayoutWish, LevelWish,
    MemberIo, MemberRole, Purpose, Request, RequestOp, SyncLimits, SyncRequest,
};
use umd_core::assembly::{BitmapPlan, Wish};
use umd_core::sync::SyncAction;
use umd_core::value::{ControlId, MemberId, RequestId};
use umd_format::v1::{Features, Fields};
use umd_format::{Format, Level};
use world::{Lcg, Shape, World};

fn shape(level: Level, layout: u32, disks: u16) -> Shape {
    Shape {
        level,
        layout,
        disks,
        chunk_sectors: 16,
        bitmap: false,
        format: Format::V1_2,
        assume_clean: false,
    }
}

fn to(level: Level) -> LevelWish {
    LevelWish {
        level,
        layout: LayoutWish::Default,
        coming: 0,
        force: true,
    }
}

fn with(level: Level, layout: u32) -> LevelWish {
    LevelWish {
        layout: LayoutWish::Number(layout),
        ..to(level)
    }
}

/// An array with something in every sector.
fn filled(shape: &Shape) -> (World, Vec<u8>) {
    let mut world = World::running(shape);
    let data = fill(&mut world);
    (world, data)
}

fn fill(world: &mut World) -> Vec<u8> {
    let sectors = world.array().array_sectors();
    let mut rng = Lcg(sectors);
    let data: Vec<u8> = (0..sectors * 512).map(|_| rng.below(256) as u8).collect();
    for at in (0..sectors).step_by(1000) {
        let end = sectors.min(at + 1000);
        let part = &data[at as usize * 512..end as usize * 512];
        world.write(at, part).expect("written");
    }
    world.pass(1);
    data
}

fn all(world: &mut World) -> Vec<u8> {
    let sectors = world.array().array_sectors();
    world.read(0, sectors as u32).expect("read")
}

fn what(world: &mut World) -> (i32, i32, u16) {
    let status = world.array().status();
    (status.level, status.layout, status.raid_disks)
}

fn again(world: &mut World) {
    world.kill();
    world.begin();
    world.pass(1);
}

/// Every change, from and to: what the array is afterwards, and how many members are missing.
#[test]
fn data_stays_whatever_the_array_becomes() {
    let table = [
        (shape(Level::Raid6, 2, 5), to(Level::Raid5), (5, 2, 4), 0),
        (shape(Level::Raid6, 1, 5), to(Level::Raid5), (5, 1, 4), 0),
        (shape(Level::Raid6, 10, 6), to(Level::Raid5), (5, 2, 5), 0),
        (shape(Level::Raid6, 18, 5), to(Level::Raid5), (5, 2, 4), 0),
        (
            shape(Level::Raid6, 2, 5),
            with(Level::Raid6, 10),
            (6, 10, 5),
            0,
        ),
        (
            shape(Level::Raid6, 18, 5),
            with(Level::Raid6, 0),
            (6, 0, 5),
            0,
        ),
        (shape(Level::Raid5, 2, 4), to(Level::Raid6), (6, 2, 5), 1),
        (shape(Level::Raid5, 5, 4), to(Level::Raid6), (6, 5, 5), 1),
        (shape(Level::Raid5, 2, 4), to(Level::Raid0), (0, 2, 3), 0),
        (shape(Level::Raid5, 2, 4), to(Level::Raid4), (4, 0, 4), 0),
        (
            shape(Level::Raid5, 2, 4),
            with(Level::Raid5, 4),
            (5, 4, 4),
            0,
        ),
        (
            shape(Level::Raid5, 2, 2),
            with(Level::Raid5, 3),
            (5, 3, 2),
            0,
        ),
        (shape(Level::Raid4, 0, 4), to(Level::Raid0), (0, 2, 3), 0),
        (shape(Level::Raid4, 0, 4), to(Level::Raid5), (5, 2, 4), 0),
        (shape(Level::Raid0, 2, 3), to(Level::Raid4), (4, 0, 4), 1),
        (shape(Level::Raid0, 2, 3), to(Level::Raid5), (5, 2, 4), 1),
        (
            shape(Level::Raid0, 2, 3),
            with(Level::Raid5, 5),
            (5, 5, 4),
            1,
        ),
    ];
    for (from, wish, result, missing) in table {
        for format in [Format::V1_2, Format::V1_1, Format::V1_0] {
            for bitmap in [false, true] {
                let bare = [from.level, wish.level].contains(&Level::Raid0);
                // Version 1.0 has room nowhere in this world, but for what is no move.
                let (level, layout) = (from.level, from.layout);
                let stays = matches!(
                    (level, layout, wish.level),
                    (Level::Raid6, 18, Level::Raid5)
                        | (Level::Raid5, 5, Level::Raid6)
                        | (Level::Raid4, _, Level::Raid0)
                        | (Level::Raid0, _, Level::Raid4)
                );
                let stays = stays || wish.layout == LayoutWish::Number(5) && level == Level::Raid0;
                if bare && bitmap || format == Format::V1_0 && !stays {
                    continue;
                }
                let from = Shape {
                    format,
                    bitmap,
                    ..shape(level, layout, from.disks)
                };
                let (mut world, data) = filled(&from);
                let name = format!("{level} {layout} -> {result:?} {format} {bitmap}");
                world.control(Control::Level(wish)).expect(&name);
                assert_eq!(what(&mut world), result, "{name}");
                assert!(world.array().status().reshape.is_none(), "{name}");
                assert_eq!(world.array().status().degraded, missing, "{name}");
                assert!(all(&mut world) == data, "{name}");
                if world.array().status().level != 0 && missing == 0 {
                    assert_eq!(world.mismatch(), 0, "{name}");
                }
                again(&mut world);
                assert_eq!(what(&mut world), result, "{name}: started again");
                assert!(all(&mut world) == data, "{name}: started again");
            }
        }
    }
}

/// The scenario of mdadm's 05r6tor0, in one engine: down to raid0 and up again.
#[test]
fn down_to_raid0_and_up_to_raid6_again() {
    let (mut world, data) = filled(&shape(Level::Raid6, 2, 5));
    world
        .control(Control::Level(to(Level::Raid5)))
        .expect("raid5");
    let status = world.array().status();
    let spares = status
        .members
        .iter()
        .filter(|m| m.role == MemberRole::Spare);
    assert_eq!(spares.count(), 1, "a raid5 of four and a spare");
    assert!(all(&mut world) == data);
    world
        .control(Control::Level(to(Level::Raid0)))
        .expect("raid0");
    assert_eq!(what(&mut world), (0, 2, 3));
    assert!(all(&mut world) == data);
    assert_eq!(world.array().status().members.len(), 3, "no use for others");
    again(&mut world);
    world
        .control(Control::Level(to(Level::Raid5)))
        .expect("raid5");
    for id in [0, 1, 2] {
        // A raid0 took what was used of them; what lies behind is theirs again.
        let fields = world.superblock(id).fields;
        let sectors = world.disks[&MemberId(id)].bytes.len() as u64 / 512;
        let room = sectors - fields.data_offset_sectors;
        assert_eq!(fields.data_size_sectors, room, "member {id}");
        assert!(room > fields.size_sectors, "there is something behind");
    }
    world.add(20).expect("added");
    world.pass(1);
    assert_eq!(
        (what(&mut world), world.array().status().degraded),
        ((5, 2, 4), 0)
    );
    assert!(all(&mut world) == data);
    assert_eq!(world.mismatch(), 0);
    again(&mut world);
    world.add(21).expect("added");
    let wish = LevelWish {
        force: false,
        ..to(Level::Raid6)
    };
    world.control(Control::Level(wish)).expect("raid6");
    world.pass(1);
    assert_eq!(
        (what(&mut world), world.array().status().degraded),
        ((6, 2, 5), 0)
    );
    assert!(all(&mut world) == data);
    assert_eq!(world.mismatch(), 0);
    world.stop();
    world.begin();
    assert!(all(&mut world) == data);
}

/// The power goes at every member I/O on the way; the next start goes on, and nothing is lost.
#[test]
fn a_power_cut_at_any_moment_loses_nothing() {
    let table = [
        (shape(Level::Raid6, 2, 4), to(Level::Raid5), (5, 2)),
        (shape(Level::Raid5, 2, 3), to(Level::Raid0), (0, 2)),
        (shape(Level::Raid5, 2, 3), with(Level::Raid5, 3), (5, 3)),
        (shape(Level::Raid0, 2, 2), to(Level::Raid5), (5, 2)),
        (shape(Level::Raid5, 2, 3), to(Level::Raid6), (6, 2)),
    ];
    for (from, wish, (level, layout)) in table {
        let (mut world, data) = filled(&from);
        world.stop();
        let disks = world.disks.clone();
        let mut cut = 0;
        loop {
            let mut world = World::over(disks.clone());
            world.begin();
            world.pass(1);
            world.power_for = Some(cut);
            let id = world.ask(Control::Level(wish));
            let dark = world.dark;
            let answered = world.asked(id);
            world.kill();
            let name = format!("{} -> {level} cut at {cut}", from.level);
            world.begin();
            world.pass(2);
            assert!(world.array().status().reshape.is_none(), "{name}: it ends");
            assert!(all(&mut world) == data, "{name}");
            assert!(answered.is_none_or(|one| one.is_ok()), "{name}");
            // What it was to become was known to the program that died: it is asked for again.
            let (now, ..) = what(&mut world);
            if (now, world.array().status().layout) != (level, layout) {
                let rest = match (now == level, wish.level) {
                    (true, level) => with(level, layout as u32),
                    (false, _) => wish,
                };
                world.control(Control::Level(rest)).expect(&name);
            }
            world.pass(1);
            let seen = what(&mut world);
            assert_eq!((seen.0, seen.1), (level, layout), "{name}");
            assert!(all(&mut world) == data, "{name}: asked again");
            if level != 0 && world.array().status().degraded == 0 {
                assert_eq!(world.mismatch(), 0, "{name}");
            }
            if !dark {
                break;
            }
            cut += 1;
        }
        assert!(cut > 20, "{cut} boundaries");
    }
}

/// A driver that carries out what is to be done in any order, with hosts at work.
struct Storm {
    world: World,
    /// What each sector holds, by its answer: tags of whole sectors.
    model: Vec<u8>,
    rng: Lcg,
    flying: Vec<Command>,
    /// Requests under way: identity, range, and what was written.
    open: Vec<(u64, u64, u64, Option<u8>)>,
    next: u64,
    fails: Option<u32>,
    /// By member: what lay under each write that no flush has followed, and where.
    volatile: BTreeMap<MemberId, Vec<(u64, Vec<u8>)>>,
}

/// Where the old places of rows begin that are still needed on this member, or end (backwards), by
/// the least that any superblock says.
fn needed(world: &World, member: MemberId) -> Option<(bool, u64)> {
    let ids = world.disks.keys().filter(|id| !world.disks[id].gone);
    let all: Vec<_> = ids.map(|id| world.superblock(id.0).fields).collect();
    let own = world.superblock(member.0).fields;
    let active = |fields: &&Fields| fields.features.contains(Features::RESHAPE_ACTIVE);
    let first = all.iter().find(active)?;
    let disks = first.raid_disks as u64;
    let width = disks - if first.level == Level::Raid6 { 2 } else { 1 };
    let backwards = first.features.contains(Features::RESHAPE_BACKWARDS);
    let positions = all
        .iter()
        .filter(active)
        .map(|one| one.reshape_position_sectors / width);
    let frontier = match backwards {
        true => positions.max(),
        false => positions.min(),
    };
    Some((backwards, own.data_offset_sectors + frontier?))
}

impl Storm {
    /// G9: what is moved never lands on what is needed where it was, whatever a crash leaves.
    fn check_moved(&self, io: &MemberIo) {
        let IoOp::Write {
            offset_sectors,
            data,
            ..
        } = &io.op
        else {
            return;
        };
        let len: u64 = data.iter().map(|part| part.len() as u64 / 512).sum();
        if io.purpose != Purpose::Reshape || self.world.disks[&io.member].gone {
            return;
        }
        let (backwards, at) = needed(&self.world, io.member).expect("superblocks say so first");
        let apart = match backwards {
            true => *offset_sectors >= at,
            false => offset_sectors + len <= at,
        };
        assert!(
            apart,
            "moved onto what is needed: {offset_sectors}+{len}, {at}"
        );
    }

    /// Carries out a member I/O, and remembers what a power cut may take back.
    fn perform(&mut self, io: MemberIo) -> Completion {
        self.check_moved(&io);
        let member = io.member;
        let (place, keeps) = match &io.op {
            IoOp::Write {
                offset_sectors,
                data,
                fua,
            } => {
                let len = data.iter().map(|part| part.len()).sum::<usize>();
                (Some((*offset_sectors, len)), *fua)
            }
            IoOp::WriteZeroes {
                offset_sectors,
                len_sectors,
                fua,
                ..
            } => (Some((*offset_sectors, *len_sectors as usize * 512)), *fua),
            _ => (None, false),
        };
        let flushes = matches!(io.op, IoOp::Flush);
        let log = self.volatile.entry(member).or_default();
        if let Some((at, len)) = place {
            let from = at as usize * 512;
            let old = self.world.disks[&member].bytes[from..from + len].to_vec();
            match keeps {
                // It is on the medium: what was under it before cannot come back.
                true => {
                    let range = at..at + len as u64 / 512;
                    log.retain(|(sector, _)| !range.contains(sector));
                }
                false => log.extend(
                    old.chunks(512)
                        .enumerate()
                        .map(|(n, old)| (at + n as u64, old.to_vec())),
                ),
            }
        }
        if flushes {
            log.clear();
        }
        self.world.carry_out(io)
    }

    /// The power goes: of what was not flushed each disk keeps what it likes, sector by sector.
    fn lose(&mut self) {
        for (member, log) in std::mem::take(&mut self.volatile) {
            let disk = self.world.disks.get_mut(&member).expect("a disk");
            let mut kept = BTreeSet::new();
            for (sector, old) in log.into_iter().rev() {
                if kept.contains(&sector) || self.rng.below(2) == 0 {
                    kept.insert(sector);
                    continue;
                }
                let at = sector as usize * 512;
                disk.bytes[at..at + 512].copy_from_slice(&old);
            }
        }
    }

    fn new(world: World, model: Vec<u8>, seed: u64) -> Storm {
        Storm {
            world,
            model,
            rng: Lcg(seed),
            flying: Vec::new(),
            open: Vec::new(),
            next: 1 << 32,
            fails: None,
            volatile: BTreeMap::new(),
        }
    }

    fn host(&mut self) {
        let sectors = self.model.len() as u64;
        let len = 1 + self.rng.below(60);
        let at = self.rng.below(sectors - len);
        let free = |(_, from, to, _): &(u64, u64, u64, Option<u8>)| at + len <= *from || at >= *to;
        if !self.open.iter().all(free) {
            return;
        }
        let write = self.rng.below(2) == 0;
        let tag = write.then(|| self.rng.below(255) as u8 + 1);
        let op = match tag {
            Some(_) if self.rng.below(8) == 0 => {
                let len_sectors = len;
                self.open.push((self.next, at, at + len, Some(0)));
                let op = RequestOp::WriteZeroes {
                    offset_sectors: at,
                    len_sectors,
                    fua: true,
                    may_unmap: true,
                };
                return self.request(op);
            }
            Some(tag) => RequestOp::Write {
                offset_sectors: at,
                data: self.world.pool.copy_of(&vec![tag; len as usize * 512]),
                fua: true,
            },
            None => RequestOp::Read {
                offset_sectors: at,
                len_sectors: len as u32,
            },
        };
        self.open.push((self.next, at, at + len, tag));
        self.request(op);
    }

    fn request(&mut self, op: RequestOp) {
        let id = RequestId(self.next);
        self.next += 1;
        self.world.event(Event::Request(Request { id, op }));
    }

    /// Takes what the engine wants, in order, and ends one I/O in any order.
    fn step(&mut self) -> bool {
        for command in self.world.take_commands() {
            match command {
                Command::Io(_) => self.flying.push(command),
                Command::Complete { id, result } => self.completed(id.0, result),
                Command::Arm(timer, at) => {
                    self.world.timers.insert(timer, at);
                }
                _ => {}
            }
        }
        if self.flying.is_empty() {
            return false;
        }
        let index = self.rng.below(self.flying.len() as u64) as usize;
        let Command::Io(io) = self.flying.swap_remove(index) else {
            unreachable!("only I/O flies")
        };
        let done = self.perform(io);
        self.world.event(Event::Done(done));
        true
    }

    fn completed(
        &mut self,
        id: u64,
        result: Result<umd_core::array::Reply, umd_core::array::RequestError>,
    ) {
        let index = self.open.iter().position(|(open, ..)| *open == id);
        let (_, from, to, tag) = self.open.swap_remove(index.expect("it was asked"));
        let reply = result.expect("no request fails here");
        let (from, to) = (from as usize, to as usize);
        match (tag, reply) {
            (Some(tag), _) => self.model[from..to].fill(tag),
            (None, umd_core::array::Reply::Data(pieces)) => {
                let bytes: Vec<u8> = pieces.iter().flat_map(|p| p.as_slice().to_vec()).collect();
                for (index, sector) in bytes.chunks(512).enumerate() {
                    let wanted = self.model[from + index];
                    assert!(
                        sector.iter().all(|b| *b == wanted),
                        "sector {} holds {} and not {wanted}",
                        from + index,
                        sector[0]
                    );
                }
            }
            (None, other) => panic!("not a read: {other:?}"),
        }
    }

    /// Some steps, hosts at work; the member that is to fail fails on the way.
    fn rage(&mut self, steps: u64) {
        let fail_at = self.rng.below(steps.max(1));
        for step in 0..steps {
            if self.open.len() < 4 && self.rng.below(3) == 0 {
                self.host();
            }
            if step == fail_at
                && let Some(id) = self.fails.take()
            {
                self.world
                    .disks
                    .get_mut(&MemberId(id))
                    .expect("a disk")
                    .gone = true;
            }
            self.step();
        }
    }

    fn settle(&mut self) {
        while self.step() {}
        assert!(self.open.is_empty(), "every request ends");
    }
}

fn tagged(shape: &Shape) -> (World, Vec<u8>) {
    let mut world = World::running(shape);
    let sectors = world.array().array_sectors();
    let model: Vec<u8> = (0..sectors).map(|s| (s % 251) as u8).collect();
    let bytes: Vec<u8> = model.iter().flat_map(|tag| [*tag; 512]).collect();
    for at in (0..sectors).step_by(1000) {
        let end = sectors.min(at + 1000);
        let part = &bytes[at as usize * 512..end as usize * 512];
        world.write(at, part).expect("written");
    }
    world.pass(1);
    (world, model)
}

/// Runs of the storm.
const SEEDS: u64 = 200;

/// Hosts read and write while everything is moved, I/O ends in any order, and in some runs a member
/// dies or the process is killed on the way.
#[test]
fn hosts_see_their_data_while_it_is_moved() {
    let table = [
        (shape(Level::Raid6, 2, 5), to(Level::Raid5)),
        (shape(Level::Raid5, 2, 4), with(Level::Raid5, 5)),
        (shape(Level::Raid6, 2, 5), with(Level::Raid6, 9)),
        (shape(Level::Raid5, 2, 4), to(Level::Raid6)),
        (shape(Level::Raid0, 2, 3), to(Level::Raid5)),
    ];
    let mut killed = 0;
    for seed in 0..SEEDS {
        let (from, wish) = &table[seed as usize % table.len()];
        let (mut world, model) = tagged(from);
        let redundant = from.level != Level::Raid0;
        let id = world.take_commands().len() as u64;
        assert_eq!(id, 0, "nothing was left to be done");
        let mut storm = Storm::new(world, model, seed * 7 + 1);
        if redundant && seed % 3 == 0 {
            storm.fails = Some(storm.rng.below(from.disks.into()) as u32);
        }
        let control = Event::Control(umd_core::value::ControlId(9), Control::Level(*wish));
        storm.world.event(control);
        let steps = 100 + storm.rng.below(700);
        storm.rage(steps);
        if seed % 2 == 0 && storm.world.array().status().reshape.is_some() {
            killed += 1;
            let written: Vec<_> = storm
                .open
                .iter()
                .filter(|one| one.3.is_some())
                .cloned()
                .collect();
            // Nothing of theirs is certain; they are written again before they are read.
            storm.flying.clear();
            storm.open.clear();
            storm.world.kill();
            if seed % 4 == 0 {
                storm.lose();
            }
            storm.volatile.clear();
            let refused = storm.world.start(&Default::default(), Default::default());
            if refused.is_err() {
                // Unclean, and a member short: as with any parity, only by force.
                let wish = umd_core::assembly::Wish {
                    force: true,
                    ..Default::default()
                };
                storm
                    .world
                    .start(&wish, Default::default())
                    .expect("by force");
                continue;
            }
            for (_, from, to, tag) in written {
                let tag = tag.expect("a write");
                let data = vec![tag; (to - from) as usize * 512];
                let data = storm.world.pool.copy_of(&data);
                storm.open.push((storm.next, from, to, Some(tag)));
                let offset_sectors = from;
                let fua = true;
                storm.request(RequestOp::Write {
                    offset_sectors,
                    data,
                    fua,
                });
                while storm.open.iter().any(|one| one.0 == storm.next - 1) {
                    assert!(storm.step(), "it ends");
                }
            }
            storm.rage(400);
        }
        storm.settle();
        storm.world.pass(2);
        assert!(
            storm.world.array().status().reshape.is_none(),
            "seed {seed}: it ends"
        );
        let bytes = all(&mut storm.world);
        for (sector, tag) in storm.model.iter().enumerate() {
            let at = sector * 512;
            assert!(
                bytes[at..at + 512].iter().all(|b| b == tag),
                "seed {seed}: sector {sector}"
            );
        }
        if storm.world.array().status().degraded == 0 && storm.world.array().status().level != 0 {
            assert_eq!(storm.world.mismatch(), 0, "seed {seed}");
        }
    }
    assert!(killed > 20, "{killed} were killed in the middle");
}

/// Carries out what is to be done, and asks for a stop when so many member I/Os are over. Whether
/// it came to that.
fn stopped_after(world: &mut World, wish: LevelWish, ios: u64) -> bool {
    world.event(Event::Control(ControlId(1_000_001), Control::Level(wish)));
    let (mut done, mut asked, mut answered) = (0, false, false);
    let mut queue = world.take_commands();
    while let Some(command) = queue.pop_front() {
        match command {
            Command::Io(io) => {
                if done == ios && !asked {
                    asked = true;
                    world.event(Event::Control(ControlId(1_000_002), Control::Stop));
                }
                let over = world.carry_out(io);
                done += 1;
                world.event(Event::Done(over));
            }
            Command::Answer {
                id: ControlId(1_000_002),
                result,
            } => {
                assert!(result.is_ok() && world.array().is_stopped(), "{result:?}");
                answered = true;
            }
            _ => {}
        }
        queue.extend(world.take_commands());
    }
    assert_eq!(
        asked, answered,
        "after {ios}: it stops, and nothing is left to be done"
    );
    asked
}

/// A stop between any two member I/Os of a change ends it where it is, in order: superblocks say
/// how far it came, the array is clean, and the next start goes on.
#[test]
fn a_stop_at_any_moment_ends_and_is_gone_on_from() {
    for (from, wish) in [
        (shape(Level::Raid6, 2, 4), to(Level::Raid5)),
        (shape(Level::Raid5, 2, 3), with(Level::Raid5, 5)),
    ] {
        let (mut world, data) = filled(&from);
        world.stop();
        let disks = world.disks.clone();
        let mut midway = 0;
        for ios in 0.. {
            let mut world = World::over(disks.clone());
            world.begin();
            world.pass(1);
            if !stopped_after(&mut world, wish, ios) {
                assert!(ios > 20, "{ios} boundaries");
                break;
            }
            world.kill();
            let moves = world.plan().expect("a plan").reshape.is_some();
            midway += u32::from(moves);
            for id in 0..from.disks {
                let fields = world.superblock(u32::from(id)).fields;
                assert!(
                    fields.is_clean(),
                    "after {ios}: member {id} was left unclean"
                );
                let says = fields.features.contains(Features::RESHAPE_ACTIVE);
                assert_eq!(says, moves, "after {ios}: all say the same");
            }
            world.begin();
            assert!(all(&mut world) == data, "after {ios}: on both sides");
            world.pass(2);
            assert!(world.array().status().reshape.is_none(), "after {ios}");
            assert!(all(&mut world) == data, "after {ios}");
            assert_eq!(world.mismatch(), 0, "after {ios}");
        }
        assert!(midway > 10, "{midway} stops were on the way");
    }
}

/// Stopped and frozen on the way it stands still where it is, and goes on from there (M43).
#[test]
fn it_goes_on_from_where_it_stood() {
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    world.holds = Some(Purpose::Reshape);
    let id = world.ask(Control::Level(with(Level::Raid5, 5)));
    assert!(
        matches!(world.asked(id), Some(Ok(_))),
        "answered when recorded"
    );
    for _ in 0..9 {
        world.release_once();
    }
    world.ask(Control::Sync(SyncRequest::Frozen));
    world.release_back();
    let reshape = world.array().status().reshape.expect("under way");
    let at = reshape.position_sectors;
    assert!(at > 0 && at < world.array().array_sectors(), "{at}");
    assert_eq!(world.superblock(0).fields.reshape_position_sectors, at);
    let features = world.superblock(0).fields.features;
    assert!(features.contains(Features::RESHAPE_ACTIVE.with(Features::NEW_OFFSET)));
    assert!(world.superblock(0).fields.new_offset_sectors < 0);
    assert!(all(&mut world) == data, "both sides");
    for (control, word) in [
        (Control::Level(to(Level::Raid0)), "being reshaped"),
        (
            Control::Sync(SyncRequest::Start(SyncAction::Check)),
            "being reshaped",
        ),
        (
            Control::Replace {
                member: MemberId(1),
                with: None,
            },
            "being reshaped",
        ),
    ] {
        let refused = world.control(control).expect_err("refused");
        assert!(refused.to_string().contains(word), "{refused}");
    }
    world.stop();
    world.begin();
    assert_eq!(
        world
            .plan()
            .expect("a plan")
            .reshape
            .map(|one| one.frontier_sectors),
        Some(at / 3)
    );
    world.pass(1);
    assert_eq!(world.array().status().last_sync, Some(SyncAction::Reshape));
    assert!(world.array().status().reshape.is_none());
    assert!(all(&mut world) == data);
    assert_eq!(world.mismatch(), 0);
}

/// The superblock of a member says something else.
fn edit(world: &mut World, id: u32, change: &dyn Fn(&mut Fields)) {
    let mut superblock = world.superblock(id);
    change(&mut superblock.fields);
    let at = superblock.fields.super_offset_sectors as usize * 512;
    let bytes = superblock.encode(512);
    let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
    disk.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
}

/// A change of the layout that has just begun when the process is killed.
fn just_begun(shape: &Shape) -> World {
    let (mut world, _) = filled(shape);
    world.holds = Some(Purpose::Reshape);
    world.ask(Control::Level(with(Level::Raid5, 5)));
    world.kill();
    world.holds = None;
    world.kept_back.clear();
    world
}

/// Superblocks that say that data is moved onto the bitmap are not believed, and those that say
/// that it ends right behind it are.
#[test]
fn a_reshape_over_a_bitmap_is_refused() {
    let mut world = just_begun(&Shape {
        bitmap: true,
        ..shape(Level::Raid5, 2, 4)
    });
    for id in 0..4 {
        // Their logs would lie behind the bitmap.
        edit(&mut world, id, &|f| {
            f.features = f.features.without(Features::BAD_BLOCKS);
            (f.bblog_offset_sectors, f.bblog_size_sectors) = (0, 0);
        });
    }
    let plan = world.plan().expect("a plan");
    assert!(plan.reshape.is_some());
    let fields = world.superblock(0).fields.clone();
    let bitmap = fields.bitmap_sector().expect("it has one");
    let BitmapPlan::Usable { superblock, .. } = &plan.bitmap else {
        panic!("it serves")
    };
    let regions = superblock.regions(superblock.fields.sync_size_sectors);
    let behind = bitmap + superblock.area_sectors(regions);
    for (to, fits) in [(behind, true), (behind - 1, false), (bitmap, false)] {
        let by = to as i64 - fields.data_offset_sectors as i64;
        for id in 0..4 {
            edit(&mut world, id, &|f| f.new_offset_sectors = by as i32);
        }
        let before = world.disks.clone();
        match world.plan() {
            Ok(plan) => {
                assert!(fits, "data would lie at {to}");
                let reshape = plan.reshape.expect("it goes on");
                assert_eq!(reshape.distance_sectors, by.unsigned_abs());
            }
            Err(why) => {
                assert!(!fits, "{why}");
                let what = "a reshape that is under way and moves this member where it cannot";
                assert!(why.starts_with(what), "{why}");
                let started = world.start(&Wish::default(), Options::default());
                assert_eq!(started, Err(why));
            }
        }
        let same = before
            .iter()
            .all(|(id, disk)| world.disks[id].bytes == disk.bytes);
        assert!(same, "not a byte");
    }
}

/// Superblocks that no crash can leave together are believed no more than others: members that say
/// different things of a reshape, and one that says that it was moved out of its device.
#[test]
fn superblocks_that_contradict_each_other_are_not_mixed() {
    let mut world = just_begun(&shape(Level::Raid5, 2, 4));
    let whole = world.disks.clone();
    assert!(world.plan().expect("a plan").reshape.is_some());
    let all = Features::RESHAPE_ACTIVE.with(Features::NEW_OFFSET);
    for (what, older, change) in [
        (
            "position",
            0,
            (&|f: &mut Fields| f.reshape_position_sectors = 48) as &dyn Fn(&mut Fields),
        ),
        ("unknown", 0, &|f: &mut Fields| {
            f.features = f.features.without(all)
        }),
        ("room", 0, &|f: &mut Fields| f.new_offset_sectors = -4096),
        ("too little", 0, &|f: &mut Fields| f.new_offset_sectors = -8),
        ("up", 0, &|f: &mut Fields| f.new_offset_sectors = 96),
        ("no offset", 0, &|f: &mut Fields| {
            f.features = f.features.without(Features::NEW_OFFSET)
        }),
        ("elsewhere", 1, &|f: &mut Fields| f.new_layout = 3),
    ] {
        world.disks = whole.clone();
        edit(&mut world, 1, &|fields| {
            change(fields);
            fields.events -= older;
        });
        let plan = world.plan();
        let used = plan.as_ref().map(|plan| plan.degraded());
        let begun = what == "no offset";
        assert!(plan.is_err() || begun || used == Ok(1), "{what}: {plan:?}");
        if begun {
            // It has not heard where it goes: nothing of it was moved.
            assert_eq!(used, Ok(0), "{what}");
        }
    }
    // One update behind, and not yet told: it is taken.
    world.disks = whole.clone();
    edit(&mut world, 1, &|fields| {
        fields.features = fields.features.without(all);
        fields.events -= 1;
    });
    assert_eq!(world.plan().expect("a plan").degraded(), 0);
    // The others have finished, and this one says that it was moved out of its device.
    world.disks = whole;
    for id in [0, 2, 3] {
        edit(&mut world, id, &|fields| {
            let by = i64::from(fields.new_offset_sectors);
            fields.forget_reshape(by);
            fields.layout = 5;
        });
    }
    edit(&mut world, 1, &|fields| {
        fields.reshape_position_sectors = 3 * (fields.size_sectors - fields.size_sectors % 16);
        fields.events -= 1;
    });
    assert_eq!(
        world.plan().expect("a plan").degraded(),
        0,
        "it is finished as well"
    );
    edit(&mut world, 1, &|fields| fields.new_offset_sectors = -4096);
    assert_eq!(world.plan().map(|plan| plan.degraded()), Ok(1));
}

/// How far a reshape may go (md's `sync_max`).
fn wait(to: u64) -> Control {
    let limits = SyncLimits {
        to_sectors: Some(to),
        ..SyncLimits::default()
    };
    Control::Limits(limits, None)
}

/// A change of the layout has begun; what it does is held back behind its first window.
fn moves_its_second_window(world: &mut World) {
    world.holds = Some(Purpose::Reshape);
    world.ask(Control::Level(with(Level::Raid5, 5)));
    while world
        .array()
        .status()
        .reshape
        .expect("moves")
        .position_sectors
        == 0
    {
        world.release_once();
    }
}

/// It waits at `sync_max`, whichever way it goes, and goes on when that is raised.
#[test]
fn it_waits_where_it_is_told_to() {
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    for (layout, backwards) in [(5, false), (2, true)] {
        world.control(wait(480)).expect("a limit");
        world
            .control(Control::Level(with(Level::Raid5, layout)))
            .expect("begun");
        let status = world.array().status();
        let reshape = status.reshape.expect("under way");
        let size = world.array().array_sectors();
        let at = if backwards { size - 480 * 3 } else { 480 * 3 };
        assert_eq!(
            (reshape.position_sectors, reshape.backwards),
            (at, backwards)
        );
        let sync = status.sync.expect("it is shown");
        assert_eq!(
            (sync.action.word(), sync.done_sectors, sync.held),
            ("reshape", 480, true)
        );
        assert!(all(&mut world) == data);
        again(&mut world);
        assert!(
            world.array().status().reshape.is_none(),
            "limits are not kept"
        );
        assert!(all(&mut world) == data);
        assert_eq!(world.mismatch(), 0);
    }
}

/// What is held back: where it begins, and how long it is, the same on all members. `true`: writes.
fn held_back(world: &World) -> (bool, u64, u64) {
    let extent = |io: &MemberIo| match &io.op {
        IoOp::Read {
            offset_sectors,
            buf,
        } => (false, *offset_sectors, buf.len() as u64 / 512),
        IoOp::Write {
            offset_sectors,
            data,
            ..
        } => {
            let bytes: usize = data.iter().map(|piece| piece.len()).sum();
            (true, *offset_sectors, bytes as u64 / 512)
        }
        other => panic!("{other:?}"),
    };
    let mut extents: Vec<_> = world.kept_back.iter().map(extent).collect();
    assert_eq!(extents.len(), world.disks.len(), "all members");
    extents.dedup();
    assert_eq!(extents.len(), 1, "{extents:?}");
    extents[0]
}

/// Windows are as long as the room for them, and no longer than hosts may wait; what they move is
/// read and written in parts. How far and how fast it goes is shown.
#[test]
fn long_windows_are_moved_in_parts() {
    let mut world = World::create_roomy(&shape(Level::Raid5, 2, 3), 24 << 20, 20_000);
    world.begin();
    world.pass(1);
    let data = fill(&mut world);
    for (layout, backwards) in [(5, false), (2, false), (0, true)] {
        let fields = world.superblock(0).fields.clone();
        let (used, start) = (fields.size_sectors, fields.data_offset_sectors);
        let log = fields.bblog_sector().expect("it has one");
        let room = match backwards {
            false => start - log - u64::from(fields.bblog_size_sectors),
            true => fields.data_size_sectors - used,
        };
        let distance = (room - room % 16).min(16_384);
        let by = if backwards { 1 } else { -1 } * distance as i64;
        world.holds = Some(Purpose::Reshape);
        let id = world.ask(Control::Level(with(Level::Raid5, layout)));
        let fields = world.superblock(0).fields.clone();
        assert_eq!(i64::from(fields.new_offset_sectors), by);
        let mut done = 0;
        while done < used {
            let len = distance.min(8192).min(used - done);
            let from = if backwards { used - done - len } else { done };
            for at in (from..from + len).step_by(1024) {
                let part = 1024.min(from + len - at);
                assert_eq!(held_back(&world), (false, start + at, part));
                world.release_once();
                let to = (start + at).checked_add_signed(by).expect("room");
                assert_eq!(held_back(&world), (true, to, part));
                world.release_once();
            }
            done += len;
            if done == 8192 {
                world.pass(4);
                world.read(0, 1).expect("read");
                let sync = world.array().status().sync.expect("it is shown");
                let shown = (sync.done_sectors, sync.total_sectors, sync.speed_kib_s);
                assert_eq!(shown, (8192, used, 1024));
                assert_eq!(sync.finish_seconds, Some((used - 8192) / 2 / 1024));
            }
            if done < used {
                let end = if backwards { used - done } else { done };
                let reshape = world.array().status().reshape.expect("under way");
                assert_eq!(reshape.position_sectors, end * 2);
                let said = world.superblock(0).fields.reshape_position_sectors;
                assert_eq!(said, end * 2);
            }
        }
        assert!(world.kept_back.is_empty(), "nothing more is moved");
        assert!(world.asked(id).expect("answered").is_ok());
        world.holds = None;
        assert_eq!(world.array().status().layout, layout as i32);
        assert!(all(&mut world) == data);
        assert_eq!(world.mismatch(), 0);
    }
}

/// The second change goes where the first one left room: up and down in turns.
#[test]
fn room_is_used_on_both_sides_and_its_want_is_told() {
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    let start = world.superblock(0).fields.data_offset_sectors;
    let mut seen = vec![start];
    for layout in [5, 2, 0, 3] {
        world
            .control(Control::Level(with(Level::Raid5, layout)))
            .expect("moved");
        seen.push(world.superblock(0).fields.data_offset_sectors);
        assert!(all(&mut world) == data);
    }
    assert!(seen[1] < start && seen[2] > seen[1], "{seen:?}");
    let (mut world, _) = filled(&Shape {
        format: Format::V1_0,
        ..shape(Level::Raid5, 2, 4)
    });
    let before: Vec<_> = world.disks.values().map(|d| d.bytes.clone()).collect();
    let refused = world
        .control(Control::Level(with(Level::Raid5, 5)))
        .expect_err("no room");
    assert!(matches!(refused, ControlError::TooSmall(_)), "{refused}");
    assert!(refused.to_string().contains("d0 has no room"), "{refused}");
    let after: Vec<_> = world.disks.values().map(|d| d.bytes.clone()).collect();
    assert!(before == after, "not a byte");
}

/// Spares have nothing to move. They begin where the others begin, as far as they did before and
/// have the room: whoever steps in then can be moved the next time.
#[test]
fn spares_go_along_with_what_is_moved() {
    let begins = |world: &World, id| world.superblock(id).fields.data_offset_sectors;
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    world.add(7).expect("a spare");
    let change = |world: &mut World, layout| {
        let wish = Control::Level(with(Level::Raid5, layout));
        world.control(wish).expect("moved");
        assert!(all(world) == data);
    };
    assert_eq!(begins(&world, 7), begins(&world, 0));
    for layout in [5, 2, 0] {
        let before = begins(&world, 0);
        change(&mut world, layout);
        assert_ne!(begins(&world, 0), before, "layout {layout}");
        assert_eq!(begins(&world, 7), begins(&world, 0), "layout {layout}");
    }
    // Down the last time, so it goes up; and this one has nothing behind its data.
    world.control(Control::Stop).expect("stopped");
    edit(&mut world, 7, &|fields| {
        fields.data_size_sectors = fields.size_sectors
    });
    again(&mut world);
    let before = begins(&world, 7);
    change(&mut world, 3);
    assert!(begins(&world, 0) > before);
    assert_eq!(begins(&world, 7), before, "it has no room");
    // It begins elsewhere now, and stays there, though there is room on the way down.
    change(&mut world, 2);
    assert_eq!(begins(&world, 7), before);
}

#[test]
fn what_cannot_be_now_is_refused() {
    let (mut world, _) = filled(&shape(Level::Raid5, 2, 4));
    let wish = LevelWish {
        force: false,
        ..to(Level::Raid6)
    };
    let refused = world
        .control(Control::Level(wish))
        .expect_err("one is missing");
    assert!(
        refused.to_string().contains("add 1 with --add"),
        "{refused}"
    );
    let coming = LevelWish { coming: 1, ..wish };
    world
        .control(Control::Level(coming))
        .expect("one is coming");
    let (mut world, data) = filled(&Shape {
        bitmap: true,
        ..shape(Level::Raid5, 5, 4)
    });
    let refused = world
        .control(Control::Level(to(Level::Raid0)))
        .expect_err("a bitmap");
    assert!(refused.to_string().contains("bitmap"), "{refused}");
    world.control(Control::Fail(MemberId(1))).expect("failed");
    world
        .control(Control::Bitmap(umd_core::array::BitmapWish::None))
        .expect("none");
    let refused = world
        .control(Control::Level(to(Level::Raid0)))
        .expect_err("degraded");
    assert!(refused.to_string().contains("rebuilt"), "{refused}");
    assert!(all(&mut world) == data);
    let (mut world, _) = filled(&Shape {
        format: Format::V090,
        ..shape(Level::Raid5, 5, 4)
    });
    let refused = world
        .control(Control::Level(to(Level::Raid6)))
        .expect_err("0.90");
    assert!(refused.to_string().contains("0.90"), "{refused}");
}

/// What left before everything was moved lies where it lay then, and no bitmap tells of that.
#[test]
fn who_left_before_a_change_is_not_taken_back() {
    for change in [None, Some(with(Level::Raid5, 5)), Some(to(Level::Raid6))] {
        let (mut world, data) = filled(&Shape {
            bitmap: true,
            ..shape(Level::Raid5, 2, 4)
        });
        let left = MemberId(1);
        world.control(Control::Fail(left)).expect("failed");
        world.control(Control::Remove(left)).expect("removed");
        if let Some(wish) = change {
            world.control(Control::Level(wish)).expect("changed");
            world.pass(1);
            assert!(world.array().status().reshape.is_none(), "it is over");
        }
        let superblock = world.superblock(left.0);
        let disk = world.disks.remove(&left).expect("a disk");
        world.disks.insert(MemberId(9), disk);
        let back = world.new_member(9, Some(superblock));
        let answer = world.control(Control::ReAdd(back));
        match change {
            None => assert!(answer.is_ok(), "{answer:?}"),
            Some(_) => {
                let why = answer.expect_err("refused").to_string();
                assert!(why.contains("use --add"), "{why}");
            }
        }
        world.pass(2);
        assert!(all(&mut world) == data);
    }
}

/// A raid0 that a crash left half made is whole on all its members before anything is written:
/// parity that nobody keeps must not pass for parity when one of them is missing.
#[test]
fn a_raid0_is_one_on_all_members_before_it_is_written() {
    let (mut world, _) = filled(&shape(Level::Raid5, 5, 3));
    world.stop();
    let disks = world.disks.clone();
    let mut mixed = 0;
    for cut in 0.. {
        let mut world = World::over(disks.clone());
        world.begin();
        world.pass(1);
        world.power_for = Some(cut);
        world.ask(Control::Level(to(Level::Raid0)));
        let dark = world.dark;
        world.kill();
        let level = |world: &World, id: u32| world.superblock(id).fields.level;
        let here = [level(&world, 0), level(&world, 1)];
        mixed += u32::from(here[0] != here[1]);
        world.begin();
        world.write(0, &[7; 512]).expect("written");
        let (now, ..) = what(&mut world);
        for id in [0, 1] {
            let says = level(&world, id).to_raw();
            assert_eq!(says, now, "cut at {cut}: member {id}");
        }
        if !dark {
            break;
        }
    }
    assert!(mixed > 0, "some cuts left two descriptions");
}

/// Who reads that it is a raid0 may read that from caches. The first write waits until all members
/// were flushed, and no other does.
#[test]
fn the_first_write_of_a_raid0_waits_until_all_say_durably_what_it_is() {
    let (mut world, data) = filled(&shape(Level::Raid5, 5, 3));
    let wish = Control::Level(to(Level::Raid0));
    world.control(wish).expect("a raid0");
    world.kill();
    world.begin();
    world.holds = Some(Purpose::Flush);
    let bytes = |world: &World| {
        world
            .disks
            .values()
            .map(|disk| disk.bytes.clone())
            .collect()
    };
    let before: Vec<Vec<u8>> = bytes(&world);
    assert!(all(&mut world) == data, "reads do not wait");
    assert!(world.kept_back.is_empty(), "and ask for nothing");
    let id = world.ask_to_write(0, &[7; 512]);
    let mut flushed: Vec<MemberId> = world.kept_back.iter().map(|io| io.member).collect();
    flushed.sort();
    assert_eq!(flushed, [MemberId(0), MemberId(1)]);
    assert!(before == bytes(&world), "nothing is written");
    assert_eq!(world.array().status().state, ArrayState::WritePending);
    world.release_back();
    assert!(world.reply(id).is_ok());
    world.holds = Some(Purpose::Flush);
    world.write(8, &[8; 512]).expect("written at once");
    assert!(world.kept_back.is_empty());
    world.release_back();
    let [was, is] = [before, bytes(&world)].map(|all| all[0][4096..8192].to_vec());
    assert!(was == is, "its superblocks are what they were");
    world.stop();
}

#[test]
fn a_mirror_by_parity_becomes_no_raid0_of_one() {
    let (mut world, data) = filled(&shape(Level::Raid5, 5, 2));
    let wish = Control::Level(to(Level::Raid0));
    let refused = world.control(wish).expect_err("refused");
    assert!(refused.to_string().contains("one device"), "{refused}");
    assert!(all(&mut world) == data);
}

/// A level is changed when nothing is under way, and not before.
#[test]
fn a_change_waits_for_what_is_under_way() {
    for (from, wish, level) in [
        (shape(Level::Raid5, 5, 3), to(Level::Raid0), 0),
        (shape(Level::Raid5, 5, 3), to(Level::Raid4), 4),
        (shape(Level::Raid4, 0, 3), to(Level::Raid5), 5),
    ] {
        let (mut world, mut data) = filled(&from);
        world.holds = Some(Purpose::Data);
        let write = world.ask_to_write(0, &[7; 512]);
        data[..512].fill(7);
        let id = world.ask(Control::Level(wish));
        assert!(world.asked(id).is_none() && !world.is_answered(write));
        assert_eq!(what(&mut world).0, from.level.to_raw(), "not yet");
        assert_eq!(world.superblock(0).fields.level, from.level, "not yet");
        world.release_back();
        assert!(world.reply(write).is_ok());
        assert!(world.asked(id).expect("answered").is_ok());
        assert_eq!(what(&mut world).0, level);
        assert!(all(&mut world) == data);
    }
}

/// A raid5 whose parity is on its last member; all have room behind their data.
fn with_room_behind() -> (World, Vec<u8>) {
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 3));
    let wish = Control::Level(with(Level::Raid5, 5));
    world.control(wish).expect("moved down");
    let fields = world.superblock(0).fields;
    assert!(fields.data_size_sectors > fields.size_sectors);
    (world, data)
}

/// Who fails while a change waits is missed by what it would have become: it ends where it began.
#[test]
fn a_change_ends_when_somebody_fails_before_its_first_step() {
    let (mut world, data) = with_room_behind();
    world.holds = Some(Purpose::Data);
    let write = world.ask_to_write(0, &data[..512]);
    let id = world.ask(Control::Level(to(Level::Raid0)));
    world.ask(Control::Fail(MemberId(1)));
    world.release_back();
    assert!(world.reply(write).is_ok());
    let refused = world.asked(id).expect("answered").expect_err("refused");
    assert!(refused.to_string().contains("rebuilt first"), "{refused}");
    assert_eq!(what(&mut world), (5, 5, 3));
    let fields = world.superblock(0).fields;
    assert!(
        fields.data_size_sectors > fields.size_sectors,
        "it gives what it gave"
    );
    assert!(all(&mut world) == data);
    // Nobody is left who could be told.
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    world.holds = Some(Purpose::Data);
    let write = world.ask_to_write(0, &data[..48 * 512]);
    let id = world.ask(Control::Level(to(Level::Raid6)));
    for gone in [1, 2] {
        world.disks.get_mut(&MemberId(gone)).expect("a disk").gone = true;
    }
    world.release_back();
    world.reply(write).expect_err("the array is broken");
    let refused = world.asked(id).expect("answered").expect_err("refused");
    assert!(matches!(refused, ControlError::Io(_)), "{refused}");
    assert_eq!(what(&mut world).0, 5);
}

/// Only a raid0 asks that its members give equally much.
#[test]
fn members_that_give_more_than_others_do_not_keep_parity_from_another_level() {
    let (mut world, data) = with_room_behind();
    world.control(Control::Stop).expect("stopped");
    edit(&mut world, 1, &|fields| fields.data_size_sectors -= 16);
    again(&mut world);
    let wish = Control::Level(to(Level::Raid4));
    world.control(wish).expect("a raid4");
    assert_eq!(what(&mut world), (4, 0, 3));
    assert!(all(&mut world) == data);
}

#[test]
fn raid4_and_raid0_have_no_other_layout() {
    for from in [shape(Level::Raid5, 5, 3), shape(Level::Raid5, 2, 3)] {
        let (mut world, data) = filled(&from);
        for level in [Level::Raid4, Level::Raid0] {
            let wish = Control::Level(with(level, 5));
            let refused = world.control(wish).expect_err("refused");
            assert!(refused.to_string().contains("layout 5"), "{refused}");
        }
        assert_eq!(what(&mut world), (5, from.layout as i32, 3));
        assert!(all(&mut world) == data);
    }
}

/// Frozen in the middle of a window it gives that up, and hosts have it.
#[test]
fn a_window_is_left_when_nothing_is_to_be_moved() {
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    moves_its_second_window(&mut world);
    let (writes, from, _) = held_back(&world);
    assert!(!writes, "the next window is being read");
    let at = world
        .array()
        .status()
        .reshape
        .expect("moves")
        .position_sectors;
    let write = world.ask_to_write(at, &data[at as usize * 512..][..512]);
    assert!(
        !world.is_answered(write),
        "it waits for the window at {from}"
    );
    world.ask(Control::Sync(SyncRequest::Frozen));
    world.release_back();
    let status = world.array().status();
    assert_eq!(status.reshape.expect("waits").position_sectors, at);
    assert_eq!(status.sync, None, "nothing goes on");
    assert!(world.reply(write).is_ok());
    world
        .control(Control::Sync(SyncRequest::Idle))
        .expect("thawed");
    assert!(world.array().status().reshape.is_none(), "it is over");
    assert!(all(&mut world) == data);
}

/// What waits is what has come as far as it may: not what still moves its last window.
#[test]
fn a_window_that_is_behind_its_limit_is_ended() {
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    moves_its_second_window(&mut world);
    world.ask(wait(16));
    let sync = world.array().status().sync.expect("it is shown");
    assert!(!sync.held && sync.done_sectors >= 16, "{sync:?}");
    world.release_back();
    let after = world.array().status().sync.expect("it is shown");
    assert!(
        after.held && after.done_sectors > sync.done_sectors,
        "{after:?}"
    );
    world.control(wait(u64::MAX)).expect("no limit");
    assert!(world.array().status().reshape.is_none(), "it is over");
    assert!(all(&mut world) == data);
}

/// A window begins when the host that writes there is done.
#[test]
fn a_window_waits_for_the_host_that_writes_there() {
    let (mut world, mut data) = filled(&shape(Level::Raid5, 2, 4));
    world.control(wait(0)).expect("a limit");
    let wish = Control::Level(with(Level::Raid5, 5));
    world.control(wish).expect("begun");
    world.holds = Some(Purpose::Data);
    let write = world.ask_to_write(0, &[9; 512]);
    data[..512].fill(9);
    world.ask(wait(u64::MAX));
    let reshape = world.array().status().reshape.expect("waits");
    assert_eq!(reshape.position_sectors, 0);
    world.release_back();
    assert!(world.reply(write).is_ok());
    assert!(world.array().status().reshape.is_none(), "it is over");
    assert!(all(&mut world) == data);
    assert_eq!(world.mismatch(), 0);
}

/// What too few members can read stays where it is, and so does all behind it, until somebody has
/// looked.
#[test]
fn what_cannot_be_read_is_not_moved() {
    let (mut world, data) = filled(&shape(Level::Raid5, 2, 4));
    let start = world.superblock(0).fields.data_offset_sectors;
    let row = start + 10 * 16;
    for id in [0, 2] {
        let disk = world.disks.get_mut(&MemberId(id)).expect("a disk");
        disk.bad.insert(row + 3);
    }
    let wish = Control::Level(with(Level::Raid5, 5));
    world.control(wish).expect("begun");
    let status = world.array().status();
    let reshape = status.reshape.expect("it waits");
    let why = reshape.waits.expect("for somebody");
    assert!(why.contains(&format!("{}", 10 * 16 + 3)), "{why}");
    assert!(reshape.position_sectors <= 10 * 16 * 3);
    assert_eq!(status.sync, None, "nothing goes on");
    let told = |world: &World| {
        let said = world.notices.iter();
        let said = said.filter(|n| format!("{n:?}").contains("the reshape stopped"));
        said.count()
    };
    assert_eq!(told(&world), 1, "said once");
    world.pass(10);
    assert_eq!(told(&world), 1, "and not tried again by itself");
    let last = world.array().array_sectors() - 8;
    world.read(last, 8).expect("hosts go on");
    for disk in world.disks.values_mut() {
        disk.bad.clear();
    }
    let again = SyncRequest::Start(SyncAction::Reshape);
    world.control(Control::Sync(again)).expect("looked at");
    assert!(world.array().status().reshape.is_none(), "it is over");
    assert!(all(&mut world) == data);
    assert_eq!(world.mismatch(), 0);
}

/// Who is frozen stays so, whatever it becomes, and is thawed as what it is.
#[test]
fn a_raid0_that_was_frozen_before_is_thawed() {
    let (mut world, data) = filled(&shape(Level::Raid5, 5, 3));
    let sync = |wish| Control::Sync(wish);
    world.control(sync(SyncRequest::Frozen)).expect("frozen");
    let wish = Control::Level(to(Level::Raid0));
    world.control(wish).expect("a raid0");
    world.control(sync(SyncRequest::Idle)).expect("thawed");
    let refused = world.control(sync(SyncRequest::Idle));
    refused.expect_err("a raid0 has nothing to sync");
    let wish = Control::Level(to(Level::Raid4));
    world.control(wish).expect("a raid4");
    world.add(9).expect("added");
    world.pass(1);
    assert_eq!(world.array().status().degraded, 0, "it is rebuilt");
    assert!(all(&mut world) == data);
}
