//! Bitmaps of several pages get other places, on all nodes or on none, whoever fails or dies.

use super::world::{Lcg, NODES, PAGED_SECTORS, World};
use crate::array::clustered::Input;
use crate::value::{Control, SizeWish};

/// Three pages each, two, and one.
const THREE: u32 = 512;
const TWO: u32 = 1024;
const ONE: u32 = 2048;
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
    world.pass(90);
    let found = chunks(world, 0);
    for disk in 0..2 {
        assert_eq!(
            chunks(world, disk),
            [found[0]; NODES as usize],
            "disk {disk}"
        );
        let stale = |one: &umd_format::bitmap::BitmapSuperblock| one.is_stale(0);
        assert!(!world.bitmaps(disk).iter().any(stale), "disk {disk}");
    }
    let serving: Vec<usize> = (0..world.hosts.len())
        .filter(|h| world.serves(*h))
        .collect();
    for host in &serving {
        assert_eq!(world.hosts[*host].frozen, None, "host {host}");
        assert!(!world.array(*host).bitmaps_hold(), "host {host} waits");
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

/// Up and down, by one page and by two, while all write.
#[test]
fn all_nodes_move_while_they_write() {
    let mut world = World::paged(THREE).running(3);
    for (host, to) in [(1, ONE), (0, TWO), (2, THREE), (2, ONE), (1, THREE)] {
        let writes: Vec<u64> = (0..3)
            .map(|host| world.write(host, 7 * host as u64))
            .collect();
        change(&mut world, host, to);
        world.settle();
        assert_eq!(answers(&world, host).last(), Some(&DONE));
        for (host, id) in writes.into_iter().enumerate() {
            assert_eq!(world.replied(host, id), Some(true));
        }
        assert_eq!(chunks(&world, 0), [to; NODES as usize]);
        assert!(!world.bits(0).is_empty(), "it is still marked");
        assert_eq!(check(&mut world), to);
    }
    let resynced = world.resynced.len();
    assert_eq!(resynced, 0, "nothing was resynced");
}

/// Whoever dies at whatever step, all lie at one kind of places in the end, and nothing that was
/// dirty is forgotten.
#[test]
fn who_dies_meanwhile_leaves_no_bitmap_behind() {
    let mut seen = [0, 0];
    for seed in 0..2 {
        for steps in (0..60).step_by(2).map(|step| step * (seed as usize + 1)) {
            for (dies, (from, to)) in [
                (0, (THREE, ONE)),
                (0, (ONE, THREE)),
                (1, (THREE, TWO)),
                (2, (TWO, THREE)),
            ] {
                let mut world = World::paged(from).running(3);
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

/// Nobody is left: whoever comes next finds them, or takes everything as dirty.
#[test]
fn all_die_meanwhile() {
    let mut moving = 0;
    for seed in 0..2 {
        for steps in (0..60).step_by(2).map(|step| step * (seed as usize + 1)) {
            for (from, to) in [(THREE, ONE), (ONE, THREE), (TWO, THREE)] {
                let mut world = World::paged(from).running(2);
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
                moving += usize::from(world.says_moving(0));
                let host = world.add_host();
                world.boot(host);
                check(&mut world);
            }
        }
    }
    assert!(moving > 10, "{moving} were left on their way");
}

#[test]
fn one_leaves_or_joins_meanwhile() {
    for seed in 0..2 {
        for steps in (0..70).map(|step| step * (seed as usize + 1)) {
            for leaves in 0..3 {
                let mut world = World::paged(TWO).running(3);
                world.rng = (seed > 0).then_some(Lcg(seed));
                world.write(1, 40);
                change(&mut world, 0, THREE);
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

/// A member that cannot be written fails, as always.
#[test]
fn bitmaps_that_cannot_be_written_fail_their_member() {
    for host in 0..2 {
        let mut world = World::paged(TWO).running(2);
        world.hosts[host].stiff.insert(1);
        change(&mut world, 0, THREE);
        world.settle();
        world.pass(60);
        assert!(world.is_faulty(0, 1), "the member failed");
        let found = chunks(&world, 0);
        assert_eq!(found, [found[0]; NODES as usize]);
        // Nothing had moved when it was found.
        assert_eq!(found[0], [TWO, THREE][host]);
        let said = answers(&world, 0);
        assert_eq!(said[0] == DONE, host == 1, "{said:?}");
        let id = world.write(0, 9);
        world.settle();
        assert_eq!(world.replied(0, id), Some(true));
    }
}

#[test]
fn what_has_no_room_is_refused_with_what_there_is() {
    let mut world = World::paged(TWO).running(2);
    let disks = world.disks.clone();
    change(&mut world, 0, 256);
    world.settle();
    let said = answers(&world, 0);
    assert!(said[0].contains("a power of two"), "{said:?}");
    assert!(world.disks == disks, "a byte was changed");
}

/// The bits get longer, the array larger, and the bits as short again as there is room for.
#[test]
fn a_size_that_changes_the_pages_is_had_in_three_steps() {
    for (from, then) in [(THREE, THREE), (TWO, TWO), (ONE, ONE)] {
        let mut world = World::paged(from).running(2);
        let id = world.write(1, 5);
        world.control(0, Control::Size(SizeWish::Max));
        world.settle();
        assert_eq!(world.replied(1, id), Some(true));
        assert_eq!(answers(&world, 0), [DONE]);
        world.extend();
        let shown = world.array(1).status().array_sectors;
        assert!(shown > PAGED_SECTORS + 8000, "{shown}");
        assert_eq!(check(&mut world), then);
    }
}
