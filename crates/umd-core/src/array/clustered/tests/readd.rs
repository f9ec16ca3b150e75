//! A member that has left comes back: what any node has written since is copied to it, and no more.

use umd_format::{Level, Role};

use super::world::{BLOCK, Lcg, NODES, World};
use crate::array::clustered::Input;
use crate::cluster::{AckStatus, Cannot, End, Freeze};
use crate::member::State;
use crate::value::{Control, MemberId, Purpose};

fn out(world: &mut World, host: usize, disk: u32) {
    world.control(host, Control::Fail(MemberId(disk)));
    world.settle();
    world.control(host, Control::Remove(MemberId(disk)));
    world.settle();
    let member = |host: usize| world.array(host).members.get(MemberId(disk)).is_some();
    let live: Vec<usize> = (0..world.hosts.len())
        .filter(|h| world.serves(*h))
        .collect();
    assert!(!live.into_iter().any(member), "somebody has it still");
}

fn state(world: &World, host: usize, disk: u32) -> Option<State> {
    let member = world.array(host).members.get(MemberId(disk));
    member.map(|member| member.state)
}

fn last(world: &World, host: usize) -> &str {
    world.hosts[host].answers.last().expect("an answer")
}

/// The first sectors on members of what resyncs have written since.
fn copied(world: &mut World) -> Vec<u64> {
    let resynced = std::mem::take(&mut world.resynced);
    let mut sectors: Vec<u64> = resynced.into_iter().map(|(_, sector)| sector).collect();
    sectors.sort_unstable();
    sectors.dedup();
    sectors
}

/// Sectors of the region of a block.
fn region(world: &World, block: u64) -> std::ops::Range<u64> {
    let regions = world.array(0).bitmap.regions().expect("a bitmap");
    let each = regions.region_sectors();
    let first = block * BLOCK / each * each;
    128 + first..128 + first + each
}

fn wrote(world: &mut World, host: usize, block: u64) {
    let id = world.write(host, block);
    world.settle();
    assert_eq!(world.replied(host, id), Some(true));
}

#[test]
fn what_any_node_has_written_is_copied_and_no_more() {
    let mut world = World::new(3).running(3);
    let far = world.blocks() - 1;
    wrote(&mut world, 0, 60);
    world.pass(60);
    out(&mut world, 0, 2);
    for (host, block) in [(0, 3), (1, 40), (2, far)] {
        wrote(&mut world, host, block);
    }
    world.pass(60);
    copied(&mut world);
    world.re_add(1, 2);
    world.settle();
    assert!(last(&world, 1).contains("Ok(Added"), "{}", last(&world, 1));
    world.pass(5);
    for host in 0..3 {
        assert_eq!(state(&world, host, 2), Some(State::InSync), "host {host}");
    }
    let places = copied(&mut world);
    let regions = [3, 40, far].map(|block| region(&world, block));
    assert!(places.len() >= 3, "{places:?}");
    for place in places {
        let one = regions.iter().any(|region| region.contains(&place));
        assert!(one, "{place} is in none of {regions:?}");
    }
    world.check_data(&[0, 1, 2]);
    world.pass(60);
    assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
}

/// Who wrote has left or died since, and others have its bits, or nobody has.
#[test]
fn bits_of_who_has_gone_count() {
    for (dies, comes) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = World::new(2).running(3);
        out(&mut world, 0, 1);
        wrote(&mut world, 2, 50);
        match dies {
            true => {
                world.crash(2);
                world.expel(2);
            }
            false => world.input(2, Input::Stop),
        }
        world.pass(60);
        if comes {
            world.boot(2);
        }
        wrote(&mut world, 1, 3);
        world.re_add(0, 1);
        world.settle();
        assert!(last(&world, 0).contains("Ok(Added"), "{}", last(&world, 0));
        world.pass(60);
        assert_eq!(state(&world, 0, 1), Some(State::InSync));
        world.check_data(&[0, 1]);
    }
}

/// All have stopped in between: the bits are in slots, and the first to come has one of them.
#[test]
fn bits_outlive_all_nodes() {
    let mut world = World::new(2).running(3);
    out(&mut world, 0, 1);
    for (host, block) in [(0, 3), (1, 40), (2, 70)] {
        wrote(&mut world, host, block);
    }
    for host in [0, 1, 2] {
        world.input(host, Input::Stop);
        world.settle();
    }
    world.boot(1);
    world.pass(60);
    world.re_add(1, 1);
    world.settle();
    assert!(last(&world, 1).contains("Ok(Added"), "{}", last(&world, 1));
    world.pass(60);
    assert_eq!(state(&world, 1, 1), Some(State::InSync));
    world.check_data(&[0, 1]);
}

/// Another disk had its slot meanwhile, and bits were cleared: by another node than who is asked.
#[test]
fn who_left_before_bits_were_cleared_does_not_come_back() {
    let mut world = World::new(2).running(2);
    out(&mut world, 0, 1);
    let new = world.new_disk(0xee);
    world.add(0, new);
    world.settle();
    world.pass(60);
    assert_eq!(state(&world, 0, new), Some(State::InSync));
    // Node 1 alone has written, and cleared what it wrote.
    wrote(&mut world, 1, 40);
    world.pass(60);
    assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
    out(&mut world, 0, new);
    // It knows the member in sync by its number and slot, as whoever left in good order does.
    let before = world.disks[1].clone();
    let said = |world: &mut World, host: usize, disk: u32| {
        world.re_add(host, disk);
        world.settle();
        last(world, host).to_owned()
    };
    let text = said(&mut world, 0, 1);
    assert!(text.contains("no longer know"), "{text}");
    assert!(text.contains("use --add"), "{text}");
    assert!(world.disks[1] == before, "a byte was changed");
    assert!(world.hosts[0].released.contains(&1));
    assert!(world.hosts[1].released.contains(&1));
    assert!(world.hosts.iter().all(|host| host.frozen.is_none()));
    // Who left after that does.
    let text = said(&mut world, 1, new);
    assert!(text.contains("Ok(Added"), "{text}");
    world.pass(60);
    world.check_data(&[0, new as usize]);
}

#[test]
fn what_cannot_come_back_is_refused_before_anybody_is_told() {
    let mut world = World::new(2).running(2);
    let mut other = world.offer(0, 1);
    other.superblock.as_mut().expect("one").fields.set_uuid.0[0] ^= 1;
    out(&mut world, 0, 1);
    let blank = world.new_disk(1);
    let (disks, acks) = (world.disks.clone(), world.hosts[1].acks.len());
    world.re_add(0, blank);
    let known = world.offer(0, 1);
    let changed = |change: &dyn Fn(&mut umd_format::SuperblockV1)| {
        let mut one = known.clone();
        change(one.superblock.as_mut().expect("one"));
        one
    };
    let ahead = changed(&|one| one.fields.events += 99);
    let half = changed(&|one| {
        let with = one.fields.features;
        one.fields.features = with.with(umd_format::v1::Features::RECOVERY_OFFSET);
    });
    let plain = changed(&|one| {
        let with = one.fields.features;
        one.fields.features = with.without(umd_format::v1::Features::CLUSTERED);
    });
    let first = changed(&|one| one.fields.set_role(1, Role::Active(0)));
    let smaller = changed(&|one| one.fields.size_sectors -= 128);
    for one in [other, ahead, half, plain, first, smaller] {
        world.hosts[0].released.remove(&1);
        world.control(0, Control::ReAdd(one));
    }
    world.settle();
    let said = &world.hosts[0].answers[2..];
    let words = [
        "no superblock",
        "another array",
        "ran without",
        "not in sync",
        "before the array",
        "slot is taken",
        "another size",
    ];
    assert_eq!(said.len(), words.len(), "{said:?}");
    for (said, words) in said.iter().zip(words) {
        assert!(said.contains(words) && said.contains("use --add"), "{said}");
    }
    assert!(world.disks == disks && world.hosts[1].acks.len() == acks);
}

/// A node does not see it, or has another disk under its path: that one is named, and nobody has
/// written anything.
#[test]
fn who_cannot_follow_is_named_and_nothing_is_written() {
    for mixed_up in [false, true] {
        let mut world = World::new(2).running(3);
        let other = world.new_disk(0xdd);
        out(&mut world, 0, 1);
        wrote(&mut world, 1, 5);
        match mixed_up {
            true => _ = world.hosts[2].mixed_up.insert(1, other),
            false => _ = world.hosts[2].unseen.insert(1),
        }
        let disks = world.disks.clone();
        world.re_add(0, 1);
        world.settle();
        let said = last(&world, 0).to_owned();
        assert!(said.contains("node 2: it does not see the disk"), "{said}");
        assert!(said.contains("nothing was written"), "{said}");
        assert!(world.disks == disks, "a byte was changed");
        for host in 0..3 {
            assert_eq!(state(&world, host, 1), None);
            assert_eq!(world.hosts[host].frozen, None);
        }
        assert!(world.hosts[1].released.contains(&1));
        world.hosts[2].unseen.clear();
        world.hosts[2].mixed_up.clear();
        world.re_add(0, 1);
        world.settle();
        world.pass(5);
        assert_eq!(state(&world, 2, 1), Some(State::InSync));
        world.check_data(&[0, 1]);
    }
}

/// A node cannot read superblocks when it is told: the slot is taken back, on all.
#[test]
fn who_cannot_read_what_was_written_has_it_taken_back() {
    let mut world = World::new(2).running(3);
    out(&mut world, 0, 1);
    world.hosts[2].blind = [0, 1].into();
    world.re_add(0, 1);
    world.settle();
    world.pass(1);
    let said = last(&world, 0).to_owned();
    assert!(said.contains("node 2: it cannot read"), "{said}");
    world.hosts[2].blind.clear();
    world.pass(60);
    for host in 0..3 {
        assert_eq!(world.hosts[host].frozen, None);
        assert!(!matches!(
            state(&world, host, 1),
            Some(State::Recovering { .. })
        ));
    }
    assert_eq!(world.hosts[0].answers.len(), 3);
    let ids = [(0, 1), (1, 2), (2, 3)].map(|(host, block)| (host, world.write(host, block)));
    world.settle();
    for (host, id) in ids {
        assert_eq!(world.replied(host, id), Some(true));
    }
    let disks = world.in_sync();
    world.check_data(&disks);
}

/// All write all the time, one brings the member back, and some die or stop on the way.
#[test]
fn all_write_while_it_comes_back() {
    for seed in 0..60 {
        let mut world = match seed % 3 {
            0 => World::made(Level::Raid10, 0x102, 4, 16),
            _ => World::new(2 + (seed % 2) as u16),
        };
        let end = world.disks.len() as u32 - 1;
        let disk = if seed % 5 < 2 { 0 } else { end };
        world = world.running(3);
        let mut draw = Lcg(seed ^ 0x99);
        let mut ids = Vec::new();
        let mut write = |world: &mut World, draw: &mut Lcg| {
            let block = draw.below(world.blocks() as usize) as u64;
            let host = draw.below(3);
            if world.serves(host) && !world.is_busy(block) {
                ids.push((host, world.write(host, block)));
            }
        };
        for _ in 0..10 {
            write(&mut world, &mut draw);
        }
        world.settle();
        world.pass(60);
        out(&mut world, 0, disk);
        world.rng = Some(Lcg(seed));
        let goes = 20 + draw.below(60);
        for round in 0..200 {
            if round == 20 {
                world.re_add(seed as usize % 3, disk);
            }
            if round == goes && seed % 4 != 0 {
                let host = draw.below(3);
                match seed % 4 {
                    1 => world.input(host, Input::Stop),
                    _ => {
                        world.crash(host);
                        world.expel(host);
                    }
                }
            }
            if draw.below(3) == 0 {
                write(&mut world, &mut draw);
            }
            for _ in 0..draw.below(6) {
                world.step();
            }
        }
        world.settle();
        world.pass(60);
        let live = (0..3).find(|host| world.serves(*host)).expect("one");
        if state(&world, live, disk).is_none() {
            world.re_add(live, disk);
            world.settle();
            world.pass(60);
        }
        if state(&world, live, disk) != Some(State::InSync) {
            let said = last(&world, live);
            assert!(said.contains("not in sync"), "seed {seed}: {said}");
            continue;
        }
        if seed % 3 == 0 {
            let size = world.array(live).status().dev_sectors as usize * 512;
            let data = |disk: usize| &world.disks[disk][128 * 512..128 * 512 + size];
            assert!(data(0) == data(1) && data(2) == data(3), "seed {seed}");
        } else {
            let all: Vec<usize> = (0..=end as usize).collect();
            world.check_data(&all);
        }
        world.pass(60);
        let clean = (0..NODES).all(|slot| world.is_clean(slot));
        assert!(clean, "seed {seed}: bits are left");
    }
}

/// Who fills it dies before each of its steps: another one goes on, with the bits of all.
#[test]
fn whoever_fills_it_dies_another_goes_on() {
    let mut filled = 0;
    for steps in (0..160).step_by(2) {
        let mut world = World::new(2).running(3);
        out(&mut world, 0, 1);
        for (host, block) in [(0, 3), (1, 40), (2, 77)] {
            wrote(&mut world, host, block);
        }
        world.re_add(0, 1);
        (0..steps).for_each(|_| _ = world.step());
        let filling = matches!(state(&world, 1, 1), Some(State::Recovering { .. }));
        filled += usize::from(filling);
        world.crash(0);
        world.expel(0);
        world.settle();
        world.pass(60);
        if state(&world, 1, 1).is_none() {
            world.re_add(1, 1);
            world.settle();
            world.pass(60);
        }
        assert_eq!(state(&world, 1, 1), Some(State::InSync), "after {steps}");
        assert_eq!(state(&world, 2, 1), Some(State::InSync), "after {steps}");
        world.check_data(&[0, 1]);
        let array = world.hosts[1].array.as_ref().expect("it lives");
        assert_eq!(array.node().waits(), []);
    }
    assert!(filled > 10, "{filled}: the steps lie elsewhere");
}

/// Who loses its cluster in the middle of it ends, and another host can do the same.
#[test]
fn who_loses_its_cluster_while_somebody_comes_back_ends() {
    let mut amid = 0;
    for steps in 0..120 {
        let mut world = World::new(2).running(2);
        out(&mut world, 0, 1);
        wrote(&mut world, 1, 40);
        world.re_add(0, 1);
        let answered = world.hosts[0].answers.len();
        (0..steps).for_each(|_| _ = world.step());
        amid += usize::from(world.hosts[0].answers.len() == answered);
        world.expel(0);
        world.settle();
        world.input(0, Input::Stop);
        world.settle();
        world.pass(60);
        assert_eq!(world.hosts[0].over, Some(End::Lost), "after {steps}");
        if state(&world, 1, 1).is_none() {
            world.re_add(1, 1);
            world.settle();
            world.pass(60);
        }
        assert_eq!(state(&world, 1, 1), Some(State::InSync), "after {steps}");
        world.check_data(&[0, 1]);
    }
    assert!(amid > 10, "{amid}: the steps lie elsewhere");
}

/// Its bits move from one slot to another while somebody reads them all, one part after the other:
/// the part that gets them is read before, and the part that has had them after that. The node dies
/// before who fills has begun to read, or then. Who comes back is the mirror that is read first.
#[test]
fn bits_that_move_while_they_are_read_are_not_missed() {
    for early in [false, true] {
        let mut world = World::new(2).running(4);
        world.torn = true;
        out(&mut world, 0, 0);
        wrote(&mut world, 3, 77);
        world.re_add(0, 0);
        while world.array(0).sync.running().is_none() {
            assert!(world.step());
        }
        let moves = [(1, Purpose::Bitmap), (2, Purpose::Bitmap)];
        if early {
            world.held.extend(moves);
            world.crash(3);
            world.expel(3);
            world.hosts[0].paused = true;
            world.settle();
            world.hosts[0].paused = false;
        }
        while world.half_read() == 0 && world.step() {}
        if !early {
            assert_eq!(world.half_read(), 1);
            world.crash(3);
            world.expel(3);
        }
        world.hosts[0].paused = true;
        world.held.clear();
        world.settle();
        assert!(world.bits(3).is_empty(), "they have not moved");
        world.hosts[0].paused = false;
        world.settle();
        world.pass(60);
        assert_eq!(state(&world, 1, 0), Some(State::InSync), "early: {early}");
        world.check_data(&[0, 1]);
    }
}

/// The bitmaps of all cannot be read again: all of it is filled.
#[test]
fn who_comes_back_without_bitmaps_is_filled_from_its_start() {
    let mut world = World::new(3).running(2);
    out(&mut world, 0, 2);
    wrote(&mut world, 1, 77);
    world.re_add(0, 2);
    while !matches!(state(&world, 0, 2), Some(State::Recovering { .. })) {
        assert!(world.step());
    }
    while world.array(0).sync.running().is_none() {
        assert!(world.step());
    }
    copied(&mut world);
    for host in &mut world.hosts {
        host.mute = [0, 1].into();
    }
    world.settle();
    world.pass(5);
    assert_eq!(state(&world, 0, 2), Some(State::InSync));
    world.check_data(&[0, 1, 2]);
    let size = world.array(0).status().dev_sectors;
    let places = copied(&mut world);
    assert_eq!(places.first(), Some(&128));
    assert!(
        places.last().expect("some") + 256 >= 128 + size,
        "{places:?}"
    );
}

/// A host that joins when it has been asked whether all see it is told of it by superblocks only;
/// then its bringer dies, and those that have taken it in go on with it.
#[test]
fn who_joins_meanwhile_finds_it_where_it_was() {
    let mut missed = 0;
    for (before, after) in (0..14).flat_map(|before| (4..70).map(move |after| (before, after))) {
        let mut world = World::new(2).running(2);
        let late = world.add_host();
        out(&mut world, 0, 1);
        wrote(&mut world, 1, 40);
        world.re_add(0, 1);
        world.rng = Some(Lcg(before * 100 + after));
        (0..before).for_each(|_| _ = world.step());
        world.start(late);
        (0..after).for_each(|_| _ = world.step());
        world.crash(0);
        world.expel(0);
        world.settle();
        world.pass(60);
        let acks = &world.hosts[late].acks;
        let blind = acks.contains(&AckStatus::Cannot(Cannot::Follow));
        if !world.serves(late) {
            continue; // It was not let in.
        }
        let at = format!("it comes after {before}, the other one dies {after} later");
        for host in [1, late] {
            assert_eq!(world.hosts[host].frozen, None, "host {host}: {at}");
            assert_eq!(state(&world, host, 1), state(&world, 1, 1), "{at}");
        }
        missed += usize::from(blind && state(&world, 1, 1) == Some(State::InSync));
        wrote(&mut world, late, 3);
        wrote(&mut world, 1, 60);
        world.check_data(&world.in_sync());
    }
    assert!(missed > 10, "{missed}: the steps lie elsewhere");
}

/// What lies there by then is another disk: it is let go, and this node follows nobody.
#[test]
fn who_joins_meanwhile_takes_no_other_disk_for_it() {
    let mut missed = 0;
    for draw in 0..400 {
        let mut world = World::new(2).running(2);
        let late = world.add_host();
        out(&mut world, 0, 1);
        let other = world.new_disk(7);
        world.re_add(0, 1);
        world.rng = Some(Lcg(draw));
        (0..5).for_each(|_| _ = world.step());
        world.start(late);
        (0..4 + draw % 66).for_each(|_| _ = world.step());
        world.hosts[late].mixed_up.insert(1, other);
        world.crash(0);
        world.expel(0);
        world.settle();
        if world.hosts[late].frozen != Some(Freeze::Blind(Cannot::Follow)) {
            continue;
        }
        missed += 1;
        world.pass(60);
        let frozen = &world.hosts[late].frozen;
        assert_eq!(frozen, &Some(Freeze::Blind(Cannot::Follow)));
        assert_eq!(state(&world, late, 1), None);
        assert_eq!(state(&world, late, other), None);
        assert!(!world.hosts[late].opened.contains(&other), "it is kept");
        world.hosts[late].mixed_up.clear();
        world.pass(60);
        assert_eq!(world.hosts[late].frozen, None);
        assert_eq!(state(&world, late, 1), Some(State::InSync));
    }
    assert!(missed > 0, "the steps lie elsewhere");
}
