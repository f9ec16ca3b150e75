//! Bits come to stand for another length, on all nodes or on none, whoever fails or dies meanwhile.

use umd_format::Level;

use super::world::{Lcg, NODES, World};
use crate::array::clustered::Input;
use crate::value::{Control, Purpose, SizeWish};

const BEFORE: u32 = 32 << 10;
const AFTER: u32 = 128 << 10;
const DONE: &str = "Ok(Done)";

fn change(world: &mut World, host: usize, bytes: u32) {
    world.control(host, Control::Rechunk(bytes));
}

fn answers(world: &World, host: usize) -> Vec<&str> {
    let answers = world.hosts[host].answers.iter();
    answers.map(String::as_str).collect()
}

/// What the bits of all nodes stand for.
fn chunks(world: &World, disk: usize) -> Vec<u32> {
    let all = world.bitmaps(disk).into_iter();
    all.map(|one| one.fields.region_raw).collect()
}

/// All are of one mind after a while, and mirrors are equal. What bits stand for.
fn check(world: &mut World) -> u32 {
    world.settle();
    world.pass(60);
    let found = chunks(world, 0);
    for disk in 0..2 {
        assert_eq!(
            chunks(world, disk),
            [found[0]; NODES as usize],
            "disk {disk}"
        );
    }
    let serving: Vec<usize> = (0..world.hosts.len())
        .filter(|h| world.serves(*h))
        .collect();
    for host in &serving {
        assert_eq!(world.hosts[*host].frozen, None, "host {host}");
        let regions = world.array(*host).bitmap.regions().expect("a bitmap");
        assert_eq!(regions.region_sectors() * 512, u64::from(found[0]));
        let id = world.write(*host, 3 + *host as u64);
        world.settle();
        assert_eq!(world.replied(*host, id), Some(true));
    }
    world.pass(60);
    world.check_data(&[0, 1]);
    for slot in 0..NODES {
        assert!(world.bits(slot).is_empty(), "bits of slot {slot} are left");
    }
    found[0]
}

#[test]
fn all_nodes_change_while_they_write() {
    let mut world = World::new(2).running(3);
    let writes: Vec<u64> = (0..3)
        .map(|host| world.write(host, 7 * host as u64))
        .collect();
    change(&mut world, 1, AFTER);
    world.settle();
    assert_eq!(answers(&world, 1), [DONE]);
    for (host, id) in writes.into_iter().enumerate() {
        assert_eq!(world.replied(host, id), Some(true));
    }
    assert_eq!(chunks(&world, 0), [AFTER; NODES as usize]);
    assert!(
        !world.bits(0).is_empty(),
        "what was written is still marked"
    );
    assert_eq!(check(&mut world), AFTER);
    change(&mut world, 0, BEFORE);
    assert_eq!(check(&mut world), BEFORE);
    let disks = world.disks.clone();
    change(&mut world, 2, BEFORE);
    world.settle();
    assert_eq!(answers(&world, 2), [DONE]);
    assert!(world.disks == disks, "it has it already");
}

#[test]
fn what_cannot_be_is_refused_with_the_reason_and_nothing_is_written() {
    let mut world = World::with_room(Level::Raid1, 0, (2, 0), 0, 8 * 31_000).running(2);
    world.control(0, Control::Size(SizeWish::Max));
    world.settle();
    world.pass(60);
    let disks = world.disks.clone();
    for (bytes, why) in [
        (3 << 12, "a power of two from 4K to 2G"),
        (256, "a power of two from 4K to 2G"),
        (1024, "2 pages of 4 KiB for the bitmap of each node"),
        (1024, "1 KiB each take 4: 4 KiB is the least"),
    ] {
        change(&mut world, 0, bytes);
        world.settle();
        let said = answers(&world, 0);
        assert!(said.last().expect("one").contains(why), "{said:?}");
    }
    assert!(world.disks == disks, "a byte was changed");
    change(&mut world, 1, 8192);
    world.settle();
    assert_eq!(answers(&world, 1), [DONE]);
}

#[test]
fn who_resyncs_or_fills_is_named() {
    let mut world = World::new(2).running(2);
    let id = world.write(1, 3);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    world.crash(1);
    world.expel(1);
    world.held.insert((0, Purpose::Resync));
    world.settle();
    world.pass(5);
    assert!(world.array(0).sync.running().is_some(), "it resyncs");
    change(&mut world, 0, AFTER);
    world.settle();
    assert!(answers(&world, 0)[0].contains("resync is running"));
    let host = world.add_host();
    world.boot(host);
    let disks = world.disks.clone();
    change(&mut world, host, AFTER);
    world.settle();
    let said = answers(&world, host);
    assert!(said[0].contains("node 0: it resyncs"), "{said:?}");
    assert!(said[0].contains("nothing was changed"), "{said:?}");
    assert!(world.disks == disks, "a byte was changed");
    world.held.clear();
    assert_eq!(check(&mut world), BEFORE);
}

/// Whoever dies at whatever step, what bits stand for is the same for all in the end, and nothing
/// that was dirty is forgotten.
#[test]
fn who_dies_meanwhile_leaves_bitmaps_that_all_can_read() {
    let mut seen = [0, 0];
    for seed in 0..4 {
        for steps in (0..90).map(|step| step * (seed as usize + 1)) {
            for (dies, (from, to)) in [
                (0, (BEFORE, AFTER)),
                (1, (BEFORE, 4096)),
                (2, (BEFORE, AFTER)),
            ] {
                let mut world = World::new(2).running(3);
                world.torn = true;
                world.rng = (seed > 0).then_some(Lcg(seed));
                for host in 0..3 {
                    world.write(host, 11 * host as u64 + seed);
                }
                change(&mut world, 0, to);
                (0..steps).for_each(|_| _ = world.step());
                world.crash(dies);
                world.settle();
                world.expel(dies);
                let bytes = check(&mut world);
                assert!(bytes == from || bytes == to, "{bytes}");
                seen[usize::from(bytes == to)] += 1;
            }
        }
    }
    assert!(seen[0] > 20 && seen[1] > 20, "both were seen: {seen:?}");
}

/// Nobody is left: whoever comes next reads each bitmap as what it is, and makes all alike.
#[test]
fn all_die_meanwhile() {
    let mut uneven = 0;
    for seed in 0..4 {
        for steps in (0..90).map(|step| step * (seed as usize + 1)) {
            for to in [AFTER, 4096] {
                let mut world = World::new(2).running(2);
                world.rng = (seed > 0).then_some(Lcg(seed));
                for host in 0..2 {
                    world.write(host, 11 * host as u64 + seed);
                }
                change(&mut world, 0, to);
                (0..steps).for_each(|_| _ = world.step());
                for host in 0..2 {
                    world.crash(host);
                }
                for host in 0..2 {
                    world.expel(host);
                }
                // Of what was under way some lands.
                (0..steps % 3).for_each(|_| _ = world.step());
                let found = chunks(&world, 0);
                uneven += usize::from(found.iter().any(|one| *one != found[0]));
                let host = world.add_host();
                world.boot(host);
                check(&mut world);
            }
        }
    }
    assert!(uneven > 20, "{uneven} were left uneven");
}

#[test]
fn one_leaves_or_joins_meanwhile() {
    for seed in 0..3 {
        for steps in (0..80).map(|step| step * (seed as usize + 1)) {
            for leaves in 0..3 {
                let mut world = World::new(2).running(3);
                world.rng = (seed > 0).then_some(Lcg(seed));
                world.write(1, 40);
                change(&mut world, 0, AFTER);
                (0..steps).for_each(|_| _ = world.step());
                match leaves {
                    2 => {
                        let host = world.add_host();
                        world.start(host);
                    }
                    host => world.input(host, Input::Stop),
                }
                world.settle();
                check(&mut world);
                if leaves == 2 && !world.hosts[3].ready {
                    // It was not let in, and comes again.
                    world.start(3);
                    check(&mut world);
                    assert!(world.serves(3));
                }
                let answers = answers(&world, 0);
                assert_eq!(answers.len(), 1, "{answers:?}");
            }
        }
    }
}

/// A member that cannot be written fails, as always; a host that writes nothing any more is named.
#[test]
fn bitmaps_that_cannot_be_written_fail_their_member() {
    let mut world = World::new(2).running(2);
    world.hosts[1].stiff.insert(1);
    change(&mut world, 0, AFTER);
    world.settle();
    world.pass(30);
    assert_eq!(answers(&world, 0), [DONE]);
    assert!(world.is_faulty(0, 1), "the member failed");
    assert_eq!(chunks(&world, 0), [AFTER; NODES as usize]);
}

/// Bitmaps without room for a size get a longer chunk first.
#[test]
fn a_size_for_which_bits_are_too_short_makes_them_longer() {
    let mut world = World::with_room(Level::Raid1, 0, (2, 0), 0, 64 * 31_000).running(2);
    world.control(0, Control::Size(SizeWish::Max));
    world.settle();
    assert_eq!(answers(&world, 0), [DONE]);
    assert_eq!(chunks(&world, 1), [65536; NODES as usize]);
    world.extend();
    assert_eq!(world.array(1).status().array_sectors, 1152 + 64 * 31_000);
    assert_eq!(check(&mut world), 65536);
    change(&mut world, 1, BEFORE / 4);
    world.settle();
    assert!(answers(&world, 1)[0].contains("16 KiB is the least"));
}

/// The size cannot be had by all: no bitmap is changed for it.
#[test]
fn a_size_that_somebody_cannot_have_changes_no_bitmap() {
    let mut world = World::with_room(Level::Raid1, 0, (2, 0), 0, 64 * 31_000);
    for _ in 0..2 {
        world.add_host();
    }
    let short = (world.disks[1].len() / 512) as u64 - 8;
    world.hosts[1].short.insert(1, short);
    (0..2).for_each(|host| world.boot(host));
    let disks = world.disks.clone();
    world.control(0, Control::Size(SizeWish::Max));
    world.settle();
    let said = answers(&world, 0);
    assert!(
        said[0].contains("node 1: its members or bitmaps are too small"),
        "{said:?}"
    );
    assert!(said[0].contains("nothing was changed"), "{said:?}");
    assert!(world.disks == disks, "a byte was changed");
}

/// Bitmaps are looked at ten seconds after a change was told. While it is under way they differ;
/// who saw that does not take it back when it has its turn.
#[test]
fn what_was_answered_is_not_taken_back_by_who_looked_too_early() {
    let mut world = World::new(2).running(3);
    world.held.insert((2, Purpose::Bitmap));
    change(&mut world, 0, BEFORE / 4);
    world.settle();
    world.pass(15);
    assert!(answers(&world, 0).is_empty(), "one host writes still");
    world.held.clear();
    world.settle();
    world.pass(1);
    assert_eq!(answers(&world, 0), [DONE]);
    assert_eq!(check(&mut world), BEFORE / 4);
}

/// What stands behind the last bit of a bitmap is none, by shorter pieces either.
#[test]
fn nothing_becomes_dirty_out_of_nothing() {
    let mut world = World::new(2).running(1);
    let regions = world.array(0).bitmap.regions().expect("a bitmap").count();
    let superblock = world.superblock(0);
    let start = superblock.fields.bitmap_sector().expect("bitmaps") as usize * 512;
    let bits = start + 2 * 4096 + 256;
    let bits = bits..bits + 4096 - 256;
    for disk in &mut world.disks {
        for region in regions..8 * bits.len() as u64 {
            disk[bits.start + (region / 8) as usize] |= 1 << (region % 8);
        }
    }
    change(&mut world, 0, BEFORE / 4);
    world.settle();
    assert_eq!(answers(&world, 0), [DONE]);
    for disk in &world.disks {
        let dirty = disk[bits.clone()].iter().filter(|byte| **byte != 0);
        assert_eq!(dirty.count(), 0, "bytes with dirty regions");
    }
    assert_eq!(check(&mut world), BEFORE / 4);
}
