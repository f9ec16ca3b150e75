//! The array gets larger, on all nodes or on none, whoever fails or dies meanwhile.

use umd_format::Level;

use super::world::{Lcg, NODES, World};
use crate::array::clustered::Input;
use crate::value::{Control, MemberId, Notice, Purpose, SizeWish};

/// What each member gives before, and has.
const BEFORE: u64 = 1152;
const ROOM: u64 = 1152 + 480;

fn world() -> World {
    let mut world = World::with_room(Level::Raid1, 0, (2, 0), 0, 480);
    for disk in 0..2 {
        // The disks have got larger since.
        world.rewrite(disk, |fields| fields.data_size_sectors = BEFORE);
    }
    world
}

fn grow(world: &mut World, host: usize) {
    world.control(host, Control::Size(SizeWish::Max));
}

fn answers(world: &World, host: usize) -> Vec<&str> {
    let answers = world.hosts[host].answers.iter();
    answers.map(String::as_str).collect()
}

const DONE: &str = "Ok(Done)";

/// The size by the superblock of a disk, with what the disk is said to have for it.
fn recorded(world: &World, disk: usize) -> (u64, u64) {
    let fields = world.superblock(disk).fields;
    (fields.size_sectors, fields.data_size_sectors)
}

/// What the bitmaps of all nodes say that they are for.
fn reach(world: &World, disk: usize) -> Vec<u64> {
    let all = world.bitmaps(disk).into_iter();
    all.map(|one| one.fields.sync_size_sectors).collect()
}

fn shown(world: &World) -> Vec<u64> {
    let serving = (0..world.hosts.len()).filter(|host| world.serves(*host));
    let size = |host| world.array(host).status().array_sectors;
    serving.map(size).collect()
}

/// All that serve are of one mind, what superblocks say is what they show, and no two disks differ
/// in it when nothing is left to be done.
fn check(world: &mut World, disks: &[usize]) -> u64 {
    world.settle();
    world.pass(60);
    world.extend();
    let shown = shown(world);
    let size = shown[0];
    assert!(size == BEFORE || size == ROOM, "{size}");
    assert!(shown.iter().all(|one| *one == size), "{shown:?}");
    for disk in disks {
        let (sectors, data) = recorded(world, *disk);
        assert_eq!(sectors, size, "disk {disk}");
        assert!(data >= sectors);
    }
    let serving: Vec<usize> = (0..world.hosts.len())
        .filter(|h| world.serves(*h))
        .collect();
    let last = world.blocks() - 1;
    for host in &serving {
        assert_eq!(world.hosts[*host].frozen, None, "host {host}");
        let id = world.write(*host, last - *host as u64);
        world.settle();
        assert_eq!(world.replied(*host, id), Some(true));
    }
    world.pass(60);
    world.check_data(disks);
    for slot in 0..NODES {
        assert!(world.bits(slot).is_empty(), "bits of slot {slot} are left");
    }
    size
}

#[test]
fn all_nodes_get_larger_and_what_is_added_is_resynced() {
    let mut world = world().running(3);
    let before = world.superblock(0).fields.events;
    assert_ne!(
        world.disks[0][world.disks[0].len() - 1],
        *world.disks[1].last().expect("bytes")
    );
    world.held.insert((2, Purpose::Super));
    grow(&mut world, 0);
    world.settle();
    assert!(answers(&world, 0).is_empty(), "not all have followed");
    assert_eq!(shown(&world), [BEFORE; 3], "and nobody shows it");
    assert_eq!(recorded(&world, 1).0, ROOM);
    world.held.clear();
    world.settle();
    assert_eq!(answers(&world, 0), [DONE]);
    assert_eq!(shown(&world), [ROOM; 3]);
    for disk in 0..2 {
        assert_eq!(recorded(&world, disk), (ROOM, ROOM));
        assert_eq!(reach(&world, disk), [ROOM; NODES as usize], "disk {disk}");
    }
    assert!(world.superblock(0).fields.events > before);
    assert_eq!(check(&mut world, &[0, 1]), ROOM);
    let added = world.resynced.iter().filter(|(_, at)| *at >= 128 + BEFORE);
    assert!(added.count() > 0, "what is added was resynced");
}

/// What is owed is not left to the next sweep of the bitmap, which may be far.
#[test]
fn what_is_added_is_resynced_as_soon_as_it_is_shown() {
    let first = 128 + BEFORE;
    let behind = |world: &World| world.resynced.iter().any(|(_, at)| *at >= first);
    let mut grown = world().running(2);
    grow(&mut grown, 0);
    grown.settle();
    assert_eq!(answers(&grown, 0), [DONE]);
    assert!(behind(&grown), "no time has passed, and it was resynced");
}

/// The last region reaches into what was to be added, so it was marked.
#[test]
fn what_was_marked_for_a_size_that_is_taken_back_is_resynced() {
    let mut world = world().running(2);
    world.control(0, Control::Size(SizeWish::Sectors(BEFORE + 48)));
    world.settle();
    world.pass(60);
    assert_eq!(shown(&world), [BEFORE + 48; 2]);
    world.hosts[1].blind = [0, 1].into();
    grow(&mut world, 0);
    for size in [ROOM, BEFORE + 48] {
        while recorded(&world, 1).0 != size {
            assert!(world.step(), "{size} is recorded");
        }
    }
    world.hosts[1].blind.clear();
    world.log.clear();
    world.settle();
    assert!(answers(&world, 0)[1].contains("the size was not changed"));
    let read = world.log.contains(&(0, Purpose::Resync));
    assert!(read, "no time has passed, and it is resynced");
    world.pass(60);
    assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
    assert_eq!(shown(&world), [BEFORE + 48; 2]);
}

#[test]
fn a_size_may_be_named_and_named_again() {
    let mut world = world().running(2);
    let wish = |kib: u64| Control::Size(SizeWish::Sectors(2 * kib));
    world.control(1, wish(600));
    world.settle();
    world.control(0, wish(600));
    world.settle();
    world.pass(30);
    assert_eq!(
        (answers(&world, 0), answers(&world, 1)),
        (vec![DONE], vec![DONE])
    );
    assert_eq!(shown(&world), [1200; 2]);
    let disks = world.disks.clone();
    world.control(0, wish(599));
    world.control(0, wish(900));
    world.settle();
    let said = answers(&world, 0);
    assert!(said[1].contains("does not get smaller"), "{said:?}");
    assert!(said[2].contains("d0 has room for 816 KiB"), "{said:?}");
    assert!(world.disks == disks, "a byte was changed");
    grow(&mut world, 0);
    assert_eq!(check(&mut world, &[0, 1]), ROOM);
}

#[test]
fn who_has_too_small_a_member_is_named_and_nothing_is_changed() {
    let mut world = world();
    for _ in 0..3 {
        world.add_host();
    }
    world.hosts[2].short.insert(1, 1280 + 479);
    (0..3).for_each(|host| world.boot(host));
    let disks = world.disks.clone();
    grow(&mut world, 0);
    world.settle();
    let said = answers(&world, 0);
    assert!(
        said[0].contains("node 2: its members or bitmaps are too small"),
        "{said:?}"
    );
    assert!(!said[0].contains("node 1"), "{said:?}");
    assert!(world.disks == disks, "a byte was changed");
    assert_eq!(shown(&world), [BEFORE; 3]);
    // It says so itself, and which.
    grow(&mut world, 2);
    world.settle();
    world.control(2, Control::Size(SizeWish::Sectors(ROOM)));
    assert!(
        answers(&world, 2)[1].contains("d1 has room for"),
        "{:?}",
        answers(&world, 2)
    );
    assert_eq!(shown(&world), [ROOM - 2; 3], "as much as all have");
}

/// Its members cannot be read when all adopt the size: it is taken back.
#[test]
fn who_cannot_read_superblocks_is_named_and_the_old_size_stays() {
    let mut world = world().running(3);
    world.hosts[1].blind = [0, 1].into();
    grow(&mut world, 0);
    world.settle();
    let said = answers(&world, 0);
    assert!(said[0].contains("node 1: it cannot read"), "{said:?}");
    assert_eq!(shown(&world), [BEFORE; 3]);
    assert_eq!(recorded(&world, 0).0, BEFORE);
    world.hosts[1].blind.clear();
    world.pass(15);
    assert_eq!(check(&mut world, &[0, 1]), BEFORE);
    assert_eq!(reach(&world, 0)[..3], [BEFORE; 3]);
    grow(&mut world, 1);
    assert_eq!(check(&mut world, &[0, 1]), ROOM);
}

/// Whoever dies, those that are left have the new size, or the old one, and can have the new one.
#[test]
fn who_dies_while_it_grows_leaves_one_size_to_all() {
    let mut sizes = [0, 0];
    for seed in 0..4 {
        for steps in (0..130).map(|step| step * (seed as usize + 1)) {
            for dies in 0..2 {
                let mut world = world().running(3);
                world.rng = (seed > 0).then_some(Lcg(seed));
                grow(&mut world, 0);
                (0..steps).for_each(|_| _ = world.step());
                world.crash(dies);
                world.settle();
                world.expel(dies);
                let size = check(&mut world, &[0, 1]);
                sizes[usize::from(size == ROOM)] += 1;
                grow(&mut world, 2);
                assert_eq!(check(&mut world, &[0, 1]), ROOM, "{seed} {steps} {dies}");
            }
        }
    }
    assert!(sizes[0] > 20 && sizes[1] > 20, "both were seen: {sizes:?}");
}

/// Who grew it is dead, and somebody cannot follow: whoever has the size recorded says so, once
/// for each reason, until all show it.
#[test]
fn a_size_that_nobody_is_shown_is_told_on_every_host_that_has_it() {
    let mut world = world().running(4);
    world.hosts[1].blind = [0, 1].into();
    grow(&mut world, 0);
    while recorded(&world, 1).0 != ROOM {
        assert!(world.step(), "it is recorded");
    }
    world.crash(0);
    world.settle();
    world.expel(0);
    world.pass(40);
    assert_eq!(shown(&world), [BEFORE; 3]);
    let said = |world: &World, host: usize| {
        let messages = world.hosts[host]
            .notices
            .iter()
            .filter_map(|one| match one {
                Notice::Message(text) if text.contains("are recorded as used") => {
                    Some(text.clone())
                }
                _ => None,
            });
        messages.collect::<Vec<String>>()
    };
    for host in [2, 3] {
        let said = said(&world, host);
        assert!(said[0].contains("816 KiB of each member"), "{said:?}");
        assert!(said[0].ends_with("576 KiB are shown until every node has followed"));
        assert!(said.len() <= 2, "{said:?}");
    }
    let named = [said(&world, 2), said(&world, 3)].concat();
    assert!(
        named.iter().any(|one| one.contains("node 1: ")),
        "{named:?}"
    );
    world.hosts[1].blind.clear();
    world.pass(15);
    assert_eq!(check(&mut world, &[0, 1]), ROOM);
    assert!(said(&world, 2).len() <= 2, "it was told before");
}

/// Nobody is left: whoever comes next finds one size, and bits where members differ.
#[test]
fn all_die_while_it_grows() {
    for seed in 0..4 {
        for steps in (0..110).map(|step| step * (seed as usize + 1)) {
            let mut world = world().running(2);
            world.rng = (seed > 0).then_some(Lcg(seed));
            grow(&mut world, 0);
            (0..steps).for_each(|_| _ = world.step());
            world.crash(0);
            world.crash(1);
            world.expel(0);
            world.expel(1);
            // Of what was under way some lands.
            (0..steps % 3).for_each(|_| _ = world.step());
            let host = world.add_host();
            world.start(host);
            check(&mut world, &[0, 1]);
            grow(&mut world, host);
            assert_eq!(check(&mut world, &[0, 1]), ROOM, "{seed} {steps}");
        }
    }
}

/// One dies, another finishes, and dies as well.
#[test]
fn one_after_the_other_dies_while_it_grows() {
    for first in (0..70).step_by(3) {
        for second in (0..90).step_by(4) {
            let mut world = world().running(3);
            grow(&mut world, 0);
            (0..first).for_each(|_| _ = world.step());
            world.crash(0);
            world.expel(0);
            if first % 2 == 0 {
                world.settle();
                world.pass(9);
            }
            world.now.mono = world.now.mono + crate::value::Span::secs(2);
            world.fire();
            (0..second).for_each(|_| _ = world.step());
            world.crash(1);
            world.expel(1);
            check(&mut world, &[0, 1]);
            let host = world.add_host();
            world.start(host);
            check(&mut world, &[0, 1]);
        }
    }
}

#[test]
fn who_leaves_while_it_grows_leaves_one_size_to_all() {
    for steps in 0..110 {
        for leaves in 0..2 {
            let mut world = world().running(3);
            grow(&mut world, 0);
            (0..steps).for_each(|_| _ = world.step());
            world.input(leaves, Input::Stop);
            check(&mut world, &[0, 1]);
            assert_eq!(answers(&world, 0).len(), 1, "told after {steps}");
            grow(&mut world, 2);
            assert_eq!(check(&mut world, &[0, 1]), ROOM, "after {steps}");
        }
    }
}

/// Who joins meanwhile has one of the two sizes, and that of all, or is sent away.
#[test]
fn who_joins_while_it_grows_has_the_size_of_all() {
    let (mut early, mut refused) = (0, 0);
    for seed in 0..5 {
        for steps in 0..140 {
            let mut world = world().running(2);
            world.rng = (seed > 0).then_some(Lcg(seed));
            grow(&mut world, 0);
            (0..steps).for_each(|_| _ = world.step());
            let host = world.add_host();
            world.hosts[host].short = match seed {
                4 => [(0, 1280)].into(),
                _ => Default::default(),
            };
            world.start(host);
            world.settle();
            let joined = world.serves(host);
            early += usize::from(joined && steps > 10);
            refused += usize::from(!joined);
            let size = check(&mut world, &[0, 1]);
            let said = answers(&world, 0)[0] == DONE;
            assert_eq!(
                said,
                size == ROOM,
                "{seed} {steps}: {:?}",
                answers(&world, 0)
            );
            if seed < 4 && !joined {
                world.start(host);
                assert_eq!(check(&mut world, &[0, 1]), ROOM);
            }
        }
    }
    assert!(early > 20 && refused > 20, "{early} {refused}");
}

#[test]
fn two_nodes_grow_it_at_once() {
    for seed in 0..20 {
        let mut world = world().running(3);
        world.rng = Some(Lcg(seed));
        grow(&mut world, 0);
        (0..seed).for_each(|_| _ = world.step());
        grow(&mut world, 1);
        assert_eq!(check(&mut world, &[0, 1]), ROOM);
        let said = [answers(&world, 0)[0], answers(&world, 1)[0]];
        assert!(said.contains(&DONE), "{said:?}");
        let moot =
            |one: &&str| *one == DONE || one.contains("another node") || one.contains("already");
        assert!(said.iter().all(moot), "{said:?}");
    }
}

#[test]
fn all_write_while_it_grows() {
    for seed in 0..40 {
        let mut world = world().running(3);
        world.rng = Some(Lcg(seed));
        let mut draw = Lcg(seed ^ 77);
        let mut ids = Vec::new();
        for round in 0..250 {
            if round == 20 {
                grow(&mut world, seed as usize % 3);
            }
            if round == 120 && seed % 2 == 0 {
                let host = seed as usize % 3;
                world.crash(host);
                world.expel(host);
            }
            world.extend();
            let block = draw.below(world.blocks() as usize) as u64;
            let host = draw.below(3);
            if world.serves(host) && !world.is_busy(block) && draw.below(3) == 0 {
                ids.push((host, world.write(host, block)));
            }
            for _ in 0..draw.below(6) {
                world.step();
            }
        }
        check(&mut world, &[0, 1]);
        for (host, id) in ids {
            assert!(
                world.replied(host, id) == Some(true) || !world.serves(host),
                "seed {seed}"
            );
        }
    }
}

/// Near copies, two of each chunk on three members.
#[test]
fn a_raid10_grows_by_whole_chunks() {
    let mut world = World::with_room(Level::Raid10, 0x102, (3, 0), 16, 487).running(2);
    world.control(1, Control::Size(SizeWish::Max));
    world.settle();
    assert_eq!(answers(&world, 1), [DONE]);
    // 1632 of 1639 sectors: 102 chunks on each of three, half of them copies.
    assert_eq!(shown(&world), [102 * 3 / 2 * 16; 2]);
    for disk in 0..3 {
        assert_eq!(recorded(&world, disk).0, 1632);
        assert_eq!(reach(&world, disk), [2448; NODES as usize]);
    }
    world.extend();
    let ids = [world.write(0, 305), world.write(1, 300)];
    world.pass(60);
    assert_eq!(world.replied(0, ids[0]), Some(true));
    assert_eq!(world.replied(1, ids[1]), Some(true));
    for slot in 0..NODES {
        assert!(world.bits(slot).is_empty(), "bits of slot {slot} are left");
    }
    // The last chunk is on the last two, side by side.
    let at = (128 + 1631) * 512;
    assert_eq!(world.disks[1][at], world.disks[2][at]);
}

#[test]
fn a_spare_has_to_have_room_as_well_and_so_has_a_new_disk() {
    let mut world = World::with_room(Level::Raid1, 0, (2, 1), 0, 480);
    world.add_host();
    world.hosts[0].short.insert(2, 1280 + 80);
    world.boot(0);
    grow(&mut world, 0);
    world.settle();
    assert_eq!(shown(&world), [BEFORE + 80], "as much as all have");
    world.control(0, Control::Remove(MemberId(2)));
    world.settle();
    world.pass(30);
    grow(&mut world, 0);
    assert_eq!(check(&mut world, &[0, 1]), ROOM);
    let small = world.new_disk(0xee);
    world.disks[small as usize].truncate(1280 * 512);
    world.add(0, small);
    world.settle();
    let said = answers(&world, 0);
    assert!(said.last().expect("one").contains("TooSmall"), "{said:?}");
}
