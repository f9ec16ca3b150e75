//! Drawn runs: nodes come, write, read, lose a disk, stop and die in any order, and what lands when
//! is drawn, too.

use umd_format::Level;

use super::world::{Lcg, World};
use crate::array::clustered::Input;
use crate::cluster::{End, Freeze};
use crate::member::State;
use crate::value::{Control, LegsWish, MemberId, Notice, SizeWish};

struct Read {
    host: usize,
    id: u64,
    block: u64,
    may: Vec<u8>,
}

/// What an administrator does in a run, besides failing and adding members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Also {
    Nothing,
    Grows,
    Replaces,
    Rechunks,
    Counts,
}

/// One run. What has to hold at any time is checked by the world. How much came of what an
/// administrator did besides.
fn run(seed: u64, also: Also) -> u64 {
    let mut draw = Lcg(seed);
    let legs = 2 + (seed % 2) as u16;
    let world = match also {
        Also::Grows => World::with_room(Level::Raid1, 0, (legs, 0), 0, 512),
        // Some of it is too large for the bits.
        Also::Rechunks if seed.is_multiple_of(8) => {
            World::with_room(Level::Raid1, 0, (legs, 0), 0, 64 * 31_000)
        }
        Also::Rechunks => World::with_room(Level::Raid1, 0, (legs, 0), 0, 512),
        Also::Nothing | Also::Replaces | Also::Counts => World::new(legs),
    };
    let mut world = world.running(2 + draw.below(2));
    let mut sizes = Lcg(seed ^ 0x517e);
    world.rng = Some(Lcg(seed ^ 0x5eed));
    world.torn = true;
    let mut reads: Vec<Read> = Vec::new();
    let mut losses = usize::from(legs) - 1;
    let (mut deaths, mut stops) = (draw.below(3), draw.below(3));
    for _ in 0..300 + draw.below(300) {
        let host = draw.below(world.hosts.len());
        match draw.below(40) {
            0..=3 => write(&mut world, &mut draw, host),
            4 => {
                if let Some(read) = read(&mut world, &mut draw, host) {
                    reads.push(read);
                }
            }
            5 if losses > 0 && draw.below(8) == 0 => {
                losses -= 1;
                let disk = world.disks.len() as u32 - 1 - losses as u32;
                let all = draw.below(2) == 0;
                for other in 0..world.hosts.len() {
                    if all || other == host {
                        world.hosts[other].cut.insert(disk);
                    }
                }
            }
            6 if deaths > 0 && draw.below(4) == 0 && world.serves(host) => {
                deaths -= 1;
                world.crash(host);
            }
            7 if stops > 0 && draw.below(4) == 0 && world.serves(host) => {
                stops -= 1;
                world.input(host, Input::Stop);
            }
            8 => notice(&mut world),
            11 => change_members(&mut world, &mut draw, host, &mut losses),
            9 => restart(&mut world, host),
            10 => {
                world.now.mono = world.now.mono + crate::value::Span::millis(700);
                world.fire();
            }
            _ => {
                world.step();
            }
        }
        match also {
            Also::Grows if sizes.below(120) == 0 => grow(&mut world, &mut sizes),
            Also::Rechunks if sizes.below(100) == 0 => rechunk(&mut world, &mut sizes),
            Also::Rechunks if sizes.below(300) == 0 => grow(&mut world, &mut sizes),
            Also::Replaces if sizes.below(60) == 0 => replace(&mut world, &mut sizes),
            Also::Counts if sizes.below(60) == 0 => count(&mut world, &mut sizes),
            _ => {}
        }
        world.extend();
        judge(&world, &mut reads);
    }
    end(world, &mut reads, (also, legs))
}

/// An administrator has a member replaced, or brings a spare for that.
fn replace(world: &mut World, draw: &mut Lcg) {
    let host = draw.below(world.hosts.len());
    if !world.serves(host) {
        return;
    }
    let members = &world.array(host).members;
    let spare = members.iter().any(|one| one.state == State::Spare);
    if !spare && world.disks.len() < 5 {
        let new = world.new_disk(0xee);
        return world.add(host, new);
    }
    let member = MemberId(draw.below(world.disks.len()) as u32);
    world.control(host, Control::Replace { member, with: None });
}

/// An administrator has bits stand for another length.
fn rechunk(world: &mut World, draw: &mut Lcg) {
    let host = draw.below(world.hosts.len());
    if world.serves(host) {
        let bytes = 4096 << draw.below(7);
        world.control(host, Control::Rechunk(bytes));
    }
}

/// An administrator wants another number of slots, or brings a spare for one.
fn count(world: &mut World, draw: &mut Lcg) {
    let host = draw.below(world.hosts.len());
    if !world.serves(host) {
        return;
    }
    if world.disks.len() < 5 && draw.below(3) == 0 {
        let new = world.new_disk(0xee);
        return world.add(host, new);
    }
    let wish = LegsWish {
        raid_disks: 1 + draw.below(4) as u16,
        coming: 0,
        force: true,
        only_asked: false,
    };
    world.control(host, Control::Legs(wish));
}

/// An administrator has the array use more of its disks.
fn grow(world: &mut World, draw: &mut Lcg) {
    let host = draw.below(world.hosts.len());
    if !world.serves(host) {
        return;
    }
    let wish = match draw.below(3) {
        0 => SizeWish::Max,
        _ => SizeWish::Sectors(1152 + 8 * draw.below(80) as u64),
    };
    world.control(host, Control::Size(wish));
}

fn write(world: &mut World, draw: &mut Lcg, host: usize) {
    let near = draw.below(3) == 0;
    let block = match near {
        true => draw.below(24) as u64,
        false => draw.below(world.blocks() as usize) as u64,
    };
    if world.serves(host) && !world.is_busy(block) {
        world.write(host, block);
    }
}

/// An administrator sets a disk faulty, takes one out that has failed, or brings another one.
fn change_members(world: &mut World, draw: &mut Lcg, host: usize, losses: &mut usize) {
    if !world.serves(host) {
        return;
    }
    let disk = draw.below(world.disks.len()) as u32;
    let degraded = world.array(host).status().degraded > 0;
    if degraded && draw.below(2) == 0 && world.has_left(host, disk) {
        for host in &mut world.hosts {
            host.cut.remove(&disk);
        }
        world.re_add(host, disk);
    } else if degraded && world.disks.len() < 5 && draw.below(4) == 0 {
        let new = world.new_disk(0xee);
        if draw.below(4) == 0 {
            let other = draw.below(world.hosts.len());
            world.hosts[other].unseen.insert(new);
        }
        world.add(host, new);
    } else if world.is_faulty(host, disk) {
        world.control(host, Control::Remove(MemberId(disk)));
    } else if *losses > 0 && draw.below(4) == 0 {
        *losses -= 1;
        let disk = world.disks.len() as u32 - 1 - *losses as u32;
        world.control(host, Control::Fail(MemberId(disk)));
    }
}

fn read(world: &mut World, draw: &mut Lcg, host: usize) -> Option<Read> {
    let block = draw.below(world.blocks() as usize) as u64;
    if !world.serves(host) || world.is_busy(block) {
        return None;
    }
    let may = world.may(block);
    let id = world.read(host, block);
    Some(Read {
        host,
        id,
        block,
        may,
    })
}

/// What was read is what was there, unless somebody has begun to write it since.
fn judge(world: &World, reads: &mut Vec<Read>) {
    reads.retain(|read| {
        if world.is_busy(read.block) || world.may(read.block) != read.may {
            return false;
        }
        match world.replied(read.host, read.id) {
            Some(true) => {
                let byte = world.byte(read.host, read.id);
                assert!(read.may.contains(&byte), "read {byte} of {:?}", read.may);
                false
            }
            Some(false) => false,
            None => true,
        }
    });
}

fn notice(world: &mut World) {
    for host in 0..world.hosts.len() {
        if world.hosts[host].array.is_none() {
            world.expel(host);
        }
    }
}

/// A host that left comes back, and one that died once it was fenced.
fn restart(world: &mut World, host: usize) {
    let one = &world.hosts[host];
    let left = one.over.is_some_and(|end| end != End::Lost);
    let me = one.me.map(|me| me.incarnation);
    let dead = one.array.is_none() && me.is_some_and(|me| world.fenced.contains(&me));
    if (left || dead) && world.hosts[host].flights.is_empty() {
        world.start(host);
    }
}

/// Everything comes to rest: nobody waits for ever, and mirrors are equal. Whether the array got
/// larger.
fn end(mut world: World, reads: &mut Vec<Read>, (also, legs): (Also, u16)) -> u64 {
    let before = 1152 / super::world::BLOCK;
    notice(&mut world);
    world.settle();
    notice(&mut world);
    if !(0..world.hosts.len()).any(|host| world.serves(host)) {
        let host = world.add_host();
        world.hosts[host].cut = world.lost();
        world.start(host);
        world.settle();
        if !world.hosts[host].ready {
            let why = world.hosts[host].refusals.concat();
            assert!(why.contains("node slots are taken"), "{why}");
            // All that died have their slots, and nobody is left who could take them over.
            return 0;
        }
    }
    world.pass(100);
    all_follow(&world);
    one_size(&mut world);
    judge(&world, reads);
    for host in 0..world.hosts.len() {
        let one = &world.hosts[host];
        if let Some(array) = one.array.as_ref().filter(|_| one.over.is_none()) {
            assert_eq!(array.node().waits(), [], "host {host} waits");
            let (asked, told) = (one.asked, one.answers.len());
            assert_eq!(asked, told, "host {host}: {:?}", one.answers);
        }
    }
    let disks = world.in_sync();
    world.check_data(&disks);
    let degraded = disks.len() < usize::from(slots(&world));
    if disks.len() == world.disks.len() && !degraded {
        for slot in 0..super::world::NODES {
            assert!(world.is_clean(slot), "bits of slot {slot} are left");
        }
    }
    match also {
        Also::Nothing => 0,
        Also::Grows => u64::from(world.blocks() > before),
        Also::Replaces => replaced(&world),
        Also::Rechunks => rechunked(&world),
        Also::Counts => u64::from(slots(&world) != legs),
    }
}

/// Nobody is left that could not follow another one, whoever has died since.
fn all_follow(world: &World) {
    let blind = |host: &usize| matches!(world.hosts[*host].frozen, Some(Freeze::Blind(_)));
    let serving = (0..world.hosts.len()).filter(|host| world.serves(*host));
    let lost: Vec<usize> = serving.filter(blind).collect();
    assert!(lost.is_empty(), "{lost:?} cannot follow");
}

/// Whether bits stand for something else than in the beginning; all of them for the same.
fn rechunked(world: &World) -> u64 {
    let serving = (0..world.hosts.len()).filter(|host| world.serves(*host));
    let of = |host: usize| {
        let regions = world.array(host).bitmap.regions();
        regions.expect("a cluster has bitmaps").region_sectors()
    };
    let found: Vec<u64> = serving.map(of).collect();
    let first = found.first().copied().unwrap_or(64);
    assert!(found.iter().all(|one| *one == first), "{found:?}");
    u64::from(first != 64)
}

/// How many members have been replaced, as hosts tell.
fn replaced(world: &World) -> u64 {
    let told = |notice: &Notice| match notice {
        Notice::Message(text) => text.contains(" has replaced "),
        _ => false,
    };
    let notices = world.hosts.iter().flat_map(|host| &host.notices);
    notices.filter(|notice| told(notice)).count() as u64
}

/// How many slots there are: for all nodes, and by the superblocks.
fn slots(world: &World) -> u16 {
    let newest = world
        .in_sync()
        .into_iter()
        .map(|disk| world.superblock(disk));
    let newest = newest.max_by_key(|one| one.fields.events).expect("disks");
    let slots = newest.fields.raid_disks as u16;
    for host in (0..world.hosts.len()).filter(|host| world.serves(*host)) {
        assert_eq!(world.array(host).status().raid_disks, slots, "host {host}");
    }
    slots
}

/// All show the same, and superblocks say so.
fn one_size(world: &mut World) {
    world.extend();
    let size = world.blocks() * super::world::BLOCK;
    for host in (0..world.hosts.len()).filter(|host| world.serves(*host)) {
        assert_eq!(
            world.array(host).status().array_sectors,
            size,
            "host {host}"
        );
    }
    for disk in world.in_sync() {
        let found = world.superblock(disk).fields.size_sectors;
        assert_eq!(found, size, "disk {disk}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// `CLUSTER_SEEDS` of them, from `CLUSTER_FIRST` on.
#[test]
fn drawn_lives_end_with_equal_mirrors() {
    let (first, seeds) = (number("CLUSTER_FIRST", 0), number("CLUSTER_SEEDS", 150));
    let (mut grown, mut replaced, mut rechunked, mut counted) = (0, 0, 0, 0);
    for seed in first..first + seeds {
        let life = |also| {
            let life = || run(seed, also);
            std::panic::catch_unwind(life).unwrap_or_else(|why| {
                println!("seed {seed}, {also:?}");
                std::panic::resume_unwind(why);
            })
        };
        let kinds = [
            Also::Nothing,
            Also::Grows,
            Also::Replaces,
            Also::Rechunks,
            Also::Counts,
        ];
        let all = kinds.map(life);
        grown += all[1];
        replaced += all[2];
        rechunked += all[3];
        counted += all[4];
    }
    assert!(grown >= seeds / 2, "of {seeds} lives {grown} got larger");
    assert!(
        replaced >= seeds / 4,
        "in {seeds} lives {replaced} were replaced"
    );
    assert!(
        rechunked >= seeds / 3,
        "in {seeds} lives {rechunked} have other bits"
    );
    assert!(
        counted >= seeds / 4,
        "in {seeds} lives {counted} came to another number of slots"
    );
}

/// Lives in which something was lost, or somebody waited for ever.
#[test]
fn lives_that_went_wrong_once_end_well() {
    for seed in [
        10, 314, 819, 2437, 2657, 2719, 7942, 11972, 13051, 18520, 10983,
    ] {
        println!("seed {seed}");
        run(seed, Also::Nothing);
    }
}
