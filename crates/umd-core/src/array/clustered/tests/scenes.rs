//! Scripted cases.

use umd_format::Level;
use umd_format::v1::Features;

use super::world::{Lcg, NODES, World};
use crate::array::clustered::Input;
use crate::cluster::{End, Freeze};
use crate::value::{Control, ControlError, Instant, MemberId, Purpose, Span, SyncRequest};

/// The region of a block: 32 KiB.
const REGION_BLOCKS: u64 = 8;

#[test]
fn two_nodes_write_everywhere_at_the_same_time() {
    let raid10 = World::made(Level::Raid10, 0x102, 4, 16);
    for mut world in [World::new(2), World::new(3), raid10] {
        let raid1 = world.disks.len() < 4;
        world = world.running(2);
        let mut ids = Vec::new();
        for block in 0..world.blocks() {
            let host = (block % 2) as usize;
            ids.push((host, world.write(host, block), block));
        }
        world.settle();
        for (host, id, _) in &ids {
            assert_eq!(world.replied(*host, *id), Some(true));
        }
        // Each node has marked what it wrote in its own slot, on all disks.
        for disk in 0..world.disks.len() {
            assert!(!world.bits_on(disk, 0).is_empty() && !world.bits_on(disk, 1).is_empty());
            assert!(world.bits_on(disk, 2).is_empty());
        }
        if raid1 {
            let all: Vec<usize> = (0..world.disks.len()).collect();
            world.check_data(&all);
        }
        for (_, _, block) in &ids {
            let read = world.read(0, *block);
            world.settle();
            assert!(world.may_hold(*block, world.byte(0, read)));
        }
        world.pass(60);
        assert!(
            world.bits(0).is_empty() && world.bits(1).is_empty(),
            "idle bits go"
        );
        // That all agrees is not what superblocks of a cluster say: a node may die any time.
        assert_eq!(world.superblock(0).fields.resync_offset_sectors, 0);
    }
}

#[test]
fn a_failure_is_known_to_all_before_a_write_is_answered() {
    let mut world = World::new(2).running(2);
    world.hosts[0].cut.insert(1);
    world.held.insert((1, Purpose::Super));
    let id = world.write(0, 3);
    world.settle();
    // It is on the disks, and the other node does not know it yet.
    let failed = world.superblock(0).fields.role_of(1);
    assert_eq!(failed, umd_format::Role::Faulty);
    assert!(!world.is_faulty(1, 1));
    assert_eq!(world.replied(0, id), None, "answered too early");
    let other = world.write(0, 90);
    world.settle();
    assert_eq!(
        world.flying(0, Purpose::Data),
        0,
        "nothing is written meanwhile"
    );
    world.held.clear();
    world.settle();
    assert!(world.is_faulty(1, 1));
    assert_eq!(world.replied(0, id), Some(true));
    assert_eq!(world.replied(0, other), Some(true));
    // It was recorded by one update, of the node that saw it.
    let events = world.superblock(0).fields.events;
    let third = world.write(1, 4);
    world.settle();
    assert_eq!(world.replied(1, third), Some(true));
    assert_eq!(world.superblock(0).fields.events, events);
    assert_ne!(
        world.legs(4)[0],
        world.legs(4)[1],
        "who failed is not written"
    );
    let read = world.read(1, 3);
    world.settle();
    assert!(world.may_hold(3, world.byte(1, read)));
}

#[test]
fn both_nodes_see_a_failure() {
    let mut world = World::new(3).running(2);
    world.hosts[0].cut.insert(2);
    world.hosts[1].cut.insert(2);
    let ids = [world.write(0, 1), world.write(1, 2)];
    world.settle();
    assert_eq!(world.replied(0, ids[0]), Some(true));
    assert_eq!(world.replied(1, ids[1]), Some(true));
    assert_eq!(world.in_sync(), [0, 1]);
    world.check_data(&[0, 1]);
}

#[test]
fn who_cannot_read_superblocks_changes_nothing_and_writes_nothing() {
    let mut world = World::new(3).running(2);
    world.hosts[1].blind.insert(0);
    world.hosts[0].cut.insert(2);
    let id = world.write(0, 3);
    world.settle();
    assert!(!world.is_faulty(1, 2), "nothing was adopted");
    assert!(matches!(world.hosts[1].frozen, Some(Freeze::Blind(_))));
    let other = world.write(1, 50);
    world.settle();
    assert_eq!(
        (world.replied(0, id), world.replied(1, other)),
        (None, None)
    );
    assert!(
        !world.hosts[0].refusals.is_empty(),
        "who cannot follow is named"
    );
    world.hosts[1].blind.clear();
    world.pass(15);
    assert!(world.is_faulty(1, 2));
    assert_eq!(world.replied(0, id), Some(true));
    assert_eq!(world.replied(1, other), Some(true));
    world.check_data(&[0, 1]);
}

#[test]
fn who_does_not_see_a_member_that_others_write_to_is_not_let_in() {
    let mut world = World::new(3).running(1);
    let host = world.add_host();
    world.hosts[host].cut.insert(2);
    let before = world.disks.clone();
    world.start(host);
    world.settle();
    assert!(!world.hosts[host].ready);
    assert!(world.hosts[host].over.is_some());
    assert_eq!(world.hosts[host].refusals, ["it does not see the disk"]);
    assert_eq!(world.disks, before, "nothing was written");
    // Alone it may begin without, and that is recorded before it writes anything else.
    world.input(0, Input::Stop);
    world.settle();
    world.held.insert((host, Purpose::Super));
    world.start(host);
    world.settle();
    let id = world.write(host, 3);
    world.settle();
    assert_eq!(
        (world.replied(host, id), world.flying(host, Purpose::Data)),
        (None, 0)
    );
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(host, id), Some(true));
    assert_eq!(world.in_sync(), [0, 1]);
}

/// Node 2 of three died while it wrote these blocks: they are on the first disk only.
fn died_writing(blocks: &[u64]) -> World {
    let mut world = World::new(2).running(3);
    world.held.insert((2, Purpose::Data));
    for block in blocks {
        world.write(2, *block);
    }
    world.settle();
    world.land_on(2, 0);
    world.crash(2);
    for block in blocks {
        let legs = world.legs(*block);
        assert_ne!(legs[0], legs[1]);
    }
    world
}

/// Which of the first two nodes resyncs.
fn resyncing(world: &World) -> usize {
    let runs: Vec<usize> = (0..2)
        .filter(|host| world.flying(*host, Purpose::Resync) > 0)
        .collect();
    assert_eq!(runs.len(), 1, "one node resyncs");
    runs[0]
}

#[test]
fn the_slot_of_a_dead_node_is_taken_and_just_its_regions_are_resynced() {
    let (first, last) = (1, 100);
    let mut world = died_writing(&[first, last]);
    assert_eq!(world.bits(2).len(), 2);
    world.log.clear();
    world.expel(2);
    world.settle();
    assert!(world.bits(2).is_empty(), "its slot was cleared");
    world.check_data(&[0, 1]);
    let reads = world
        .log
        .iter()
        .filter(|(_, what)| *what == Purpose::Resync);
    // Two regions: each read from both legs, and written to one.
    assert_eq!(reads.count(), 2 * 3, "just its regions");
    world.pass(60);
    assert!(world.bits(0).is_empty() && world.bits(1).is_empty());
    world.boot(2);
    assert!(world.hosts[2].ready);
}

#[test]
fn bits_of_a_dead_node_are_this_node_s_on_all_disks_before_they_are_cleared() {
    for seed in 0..60 {
        let mut world = died_writing(&[1, 100]);
        world.rng = Some(Lcg(seed));
        for host in 0..2 {
            world.held.insert((host, Purpose::Resync));
        }
        let dirty = world.bits(2);
        world.expel(2);
        // At every step they are somewhere.
        while world.step() {
            let on = |disk: usize, slot: u16| {
                let bits = world.bits_on(disk, slot);
                dirty.iter().all(|one| bits.contains(one))
            };
            let kept = |slot: u16| (0..2).all(|disk| on(disk, slot));
            assert!((0..NODES).any(kept), "a moment in which they are nobody's");
        }
        assert!(world.bits(2).is_empty());
        // Who took them dies as well, before it has resynced them.
        let taker = resyncing(&world);
        world.held.clear();
        world.crash(taker);
        world.expel(taker);
        world.settle();
        world.check_data(&[0, 1]);
        world.pass(60);
        assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
    }
}

/// As long as nobody has resynced what a dead node was writing, all nodes read the same mirror, and
/// nobody makes members agree on the way.
#[test]
fn mirrors_that_may_differ_are_read_alike_by_all() {
    let mut world = died_writing(&[1]);
    for host in 0..2 {
        world.control(host, Control::Sync(SyncRequest::Frozen));
    }
    world.expel(2);
    world.settle();
    for host in 0..2 {
        // So many at a time that they would be spread over mirrors.
        let reads: Vec<u64> = (0..6).map(|_| world.read(host, 1)).collect();
        world.settle();
        for read in reads {
            assert_eq!(world.byte(host, read), world.legs(1)[0]);
        }
    }
    let resynced = world.log.iter().any(|(_, what)| *what == Purpose::Resync);
    assert!(!resynced, "nobody has announced a window");
    // A resync that ends before its end says so.
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
        world.control(host, Control::Sync(SyncRequest::Idle));
    }
    world.settle();
    let runner = resyncing(&world);
    world.control(runner, Control::Sync(SyncRequest::Frozen));
    world.held.clear();
    world.settle();
    for host in 0..2 {
        let array = world.hosts[host].array.as_ref().expect("it lives");
        assert!(array.node().reads_first(), "host {host}");
    }
    world.control(runner, Control::Sync(SyncRequest::Idle));
    world.settle();
    world.check_data(&[0, 1]);
    let array = world.hosts[1 - runner].array.as_ref().expect("it lives");
    assert!(!array.node().reads_first());
}

#[test]
fn a_resync_waits_for_a_proof_too() {
    let far: Vec<u64> = (0..12).map(|n| n * REGION_BLOCKS).collect();
    let mut world = died_writing(&far);
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    world.expel(2);
    world.settle();
    let runner = resyncing(&world);
    world.fencing = false;
    world.crash(1 - runner);
    world.expel(1 - runner);
    while world.hosts[runner].frozen.is_none() {
        assert!(world.step(), "it hears of the death");
    }
    world.log.clear();
    world.held.clear();
    world.settle();
    let begun = world
        .log
        .iter()
        .filter(|(_, what)| *what == Purpose::Resync);
    // What had been read before is written, and nothing else is begun.
    assert!(begun.count() <= 8, "a resync that goes on without a proof");
    assert_ne!(world.legs(far[11])[0], world.legs(far[11])[1]);
    world.fencing = true;
    world.settle();
    world.check_data(&[0, 1]);
}

/// Whoever fills a member, all nodes write to it, also where it is filled already.
#[test]
fn a_member_that_one_node_fills_is_written_by_all() {
    for seed in 0..60 {
        let mut world = World::new(3).unfilled().running(2);
        world.rng = Some(Lcg(seed));
        let mut draw = Lcg(seed ^ 77);
        let mut ids = Vec::new();
        for _ in 0..200 {
            let block = draw.below(world.blocks() as usize) as u64;
            if !world.is_busy(block) && draw.below(3) == 0 {
                let host = draw.below(2);
                ids.push((host, world.write(host, block)));
            }
            for _ in 0..draw.below(6) {
                world.step();
            }
        }
        world.settle();
        for (host, id) in ids {
            assert_eq!(world.replied(host, id), Some(true));
        }
        world.check_data(&[0, 1, 2]);
        // It counts on all nodes, and superblocks say so.
        let features = world.superblock(2).fields.features;
        assert!(!features.contains(Features::RECOVERY_OFFSET));
        for host in 0..2 {
            let status = world.array(host).status();
            assert_eq!(status.degraded, 0, "node {host}");
        }
        world.pass(60);
        assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
    }
}

#[test]
fn a_rebuild_moves_on_when_its_node_dies() {
    let mut world = World::new(3).unfilled();
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    world = world.running(2);
    let runner = resyncing(&world);
    let other = 1 - runner;
    // Some of it is filled before.
    world.held.remove(&(runner, Purpose::Resync));
    for _ in 0..30 {
        world.step();
    }
    world.crash(runner);
    world.expel(runner);
    let ids: Vec<u64> = (0..world.blocks())
        .map(|block| world.write(other, block))
        .collect();
    world.held.clear();
    world.settle();
    assert!(ids.iter().all(|id| world.replied(other, *id) == Some(true)));
    world.check_data(&[0, 1, 2]);
    assert_eq!(world.array(other).status().degraded, 0);
}

/// A leg that cannot be read is not written under a lock that other nodes do not know of.
#[test]
fn a_read_error_is_not_mended_behind_the_others() {
    let mut world = World::new(2).running(2);
    let id = world.write(1, 5);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    world.hosts[0].worn.insert(0);
    let read = world.read(0, 5);
    world.settle();
    assert!(world.may_hold(5, world.byte(0, read)));
    assert!(world.log.iter().all(|(_, what)| *what != Purpose::Rewrite));
    let corrected = |world: &World| world.array(0).status().members[0].corrected_read_errors;
    assert_eq!(corrected(&world), 1, "it counts");
    for _ in 0..30 {
        // What fails within a second counts once.
        world.read(0, 5);
        world.pass(2);
    }
    assert!(
        world.is_faulty(0, 0) && world.is_faulty(1, 0),
        "it is dying"
    );
}

#[test]
fn in_a_window_the_others_do_not_write() {
    let (first, second) = (1, 33);
    let mut world = died_writing(&[first, second]);
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    world.expel(2);
    world.settle();
    let runner = resyncing(&world);
    let other = 1 - runner;
    let (inside, behind) = (world.write(other, first + 1), world.write(other, 120));
    let read = world.read(other, first);
    world.settle();
    assert_eq!(
        world.replied(other, inside),
        None,
        "a write in the window waits"
    );
    assert_eq!(
        world.replied(other, behind),
        Some(true),
        "one behind it does not"
    );
    // Mirrors differ there until then: everybody reads the same one.
    assert_eq!(world.byte(other, read), world.legs(first)[0]);
    // Somebody who joins meanwhile is told of the window.
    world.boot(2);
    let late = world.write(2, first + 2);
    world.settle();
    assert_eq!(
        world.replied(2, late),
        None,
        "the window was shown to who joins"
    );
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(other, inside), Some(true));
    assert_eq!(world.replied(2, late), Some(true));
    world.check_data(&[0, 1]);
}

#[test]
fn a_window_opens_when_writes_in_it_have_ended() {
    let mut world = died_writing(&[1]);
    for host in 0..2 {
        world.held.insert((host, Purpose::Data));
    }
    let ids = [world.write(0, 2), world.write(1, 3)];
    world.settle();
    world.expel(2);
    world.settle();
    for host in 0..2 {
        assert_eq!(
            world.flying(host, Purpose::Resync),
            0,
            "a write is under way there"
        );
    }
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(0, ids[0]), Some(true));
    assert_eq!(world.replied(1, ids[1]), Some(true));
    world.check_data(&[0, 1]);
}

/// The write that a window waits for must not wait for the token that the window's sender has.
#[test]
fn a_window_does_not_wait_for_a_write_that_waits_for_its_superblocks() {
    let mut world = World::new(3).running(3);
    world.held.insert((2, Purpose::Data));
    world.write(2, 1);
    world.settle();
    world.land_on(2, 0);
    world.crash(2);
    for host in 0..2 {
        world.held.insert((host, Purpose::Data));
    }
    let ids = [world.write(0, 2), world.write(1, 3)];
    world.settle();
    world.expel(2);
    world.settle();
    // Windows are out. Both writes meet a failure before they end.
    for host in 0..2 {
        world.hosts[host].cut.insert(2);
    }
    world.held.clear();
    world.settle();
    for (host, id) in ids.into_iter().enumerate() {
        assert_eq!(world.replied(host, id), Some(true), "it hangs");
    }
    world.check_data(&[0, 1]);
}

#[test]
fn without_a_proof_nothing_is_written() {
    let mut world = died_writing(&[1]);
    world.fencing = false;
    world.expel(2);
    world.settle();
    let id = world.write(0, 50);
    let read = world.read(0, 50);
    world.settle();
    assert!(matches!(world.hosts[0].frozen, Some(Freeze::Unfenced(_))));
    assert_eq!(world.replied(0, id), None);
    assert_eq!(world.flying(0, Purpose::Data), 0);
    assert_eq!(world.replied(0, read), Some(true));
    assert!(!world.bits(2).is_empty(), "its slot is not touched");
    world.fencing = true;
    world.settle();
    assert_eq!(world.replied(0, id), Some(true));
    world.check_data(&[0, 1]);
}

#[test]
fn after_its_session_a_node_does_nothing() {
    let mut world = World::new(2).running(1);
    let host = world.add_host();
    world.hosts[host].lease = Some(world.now.mono + Span::secs(20));
    world.boot(host);
    world.held.insert((host, Purpose::Data));
    let under_way = world.write(host, 5);
    world.settle();
    world.now.mono = world.now.mono + Span::secs(21);
    let before = world.log.len();
    let (write, read) = (world.write(host, 6), world.read(host, 5));
    world.settle();
    assert_eq!(world.replied(host, write), Some(false));
    assert_eq!(world.replied(host, read), Some(false));
    assert_eq!(world.hosts[host].frozen, Some(Freeze::Lost));
    world.held.clear();
    world.settle();
    assert_eq!(
        world.replied(host, under_way),
        Some(false),
        "nobody knows how it went"
    );
    world.fire();
    world.settle();
    let own = world.log[before..].iter().filter(|(by, _)| *by == host);
    assert_eq!(own.count(), 0, "submitted after its time");
    world.expel(host);
    world.input(host, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[host].over, Some(End::Lost));
    assert!(world.hosts[host].stopped);
    world.check_data(&[0, 1]);
    assert!(world.bits(1).is_empty(), "its slot was taken");
}

#[test]
fn a_node_that_leaves_answers_until_it_is_over() {
    let mut world = World::new(2).running(2);
    world.hosts[0].cut.insert(1);
    world.held.insert((1, Purpose::Super));
    let id = world.write(0, 3);
    world.settle();
    // Node 1 reads superblocks for node 0, and is to stop.
    assert!(world.flying(1, Purpose::Super) > 0);
    world.input(1, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[1].over, None, "somebody waits for its answer");
    assert_eq!(world.replied(0, id), None);
    world.held.clear();
    world.settle();
    assert_eq!(world.hosts[1].over, Some(End::Left));
    assert!(world.hosts[1].stopped);
    assert_eq!(world.replied(0, id), Some(true));
    let before = world.log.len();
    world.input(
        1,
        Input::Array(crate::value::Event::Timer(
            crate::value::Timer::BitmapDaemon,
        )),
    );
    assert_eq!(world.log.len(), before, "nothing comes after the end");
}

#[test]
fn who_leaves_clean_has_no_bits_and_who_has_hands_them_over() {
    let mut world = World::new(2).running(2);
    let id = world.write(1, 7);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    assert!(!world.bits(1).is_empty());
    world.input(1, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[1].over, Some(End::Left));
    assert!(world.bits(1).is_empty());
    let resynced = world.log.iter().any(|(_, what)| *what == Purpose::Resync);
    assert!(!resynced, "it left clean: nothing is left to do for others");
    // With a member missing bits stay, and somebody has to keep them.
    world.boot(1);
    world.hosts[1].cut.insert(1);
    let id = world.write(1, 60);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    world.input(1, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[1].over, Some(End::Left));
    assert!(world.bits(1).is_empty() && world.bits(0).contains(&(60 / REGION_BLOCKS)));
}

#[test]
fn what_waits_for_others_does_not_keep_a_node_from_leaving() {
    let mut world = died_writing(&[1]);
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    world.expel(2);
    world.settle();
    let runner = resyncing(&world);
    let other = 1 - runner;
    let id = world.write(other, 2);
    world.settle();
    assert_eq!(world.replied(other, id), None);
    world.input(other, Input::Stop);
    world.settle();
    assert_eq!(world.hosts[other].over, Some(End::Left));
    assert_eq!(world.replied(other, id), Some(false), "it was not written");
    world.held.clear();
    world.settle();
    world.check_data(&[0, 1]);
}

#[test]
fn a_resync_moves_on_when_its_node_leaves() {
    let mut world = died_writing(&[1, 100]);
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    world.expel(2);
    world.settle();
    let runner = resyncing(&world);
    world.input(runner, Input::Stop);
    world.held.clear();
    world.settle();
    assert_eq!(world.hosts[runner].over, Some(End::Left));
    world.check_data(&[0, 1]);
    world.pass(60);
    assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
}

#[test]
fn all_die_and_the_first_who_comes_back_resyncs_what_each_was_writing() {
    let mut world = World::new(2).running(2);
    for host in 0..2 {
        world.held.insert((host, Purpose::Data));
    }
    world.write(0, 9);
    world.write(1, 77);
    world.settle();
    world.land_on(0, 1);
    world.land_on(1, 0);
    for host in 0..2 {
        world.crash(host);
    }
    for host in 0..2 {
        world.expel(host);
    }
    world.held.clear();
    let host = world.add_host();
    world.boot(host);
    world.pass(60);
    world.check_data(&[0, 1]);
    assert!((0..NODES).all(|slot| world.bits(slot).is_empty()));
}

#[test]
fn a_check_is_run_under_windows_too() {
    let mut world = World::new(2).running(2);
    world.disks[1][(128 + 40 * 8) * 512] ^= 1;
    let check = SyncRequest::Start(crate::value::SyncAction::Check);
    world.control(0, Control::Sync(check));
    world.settle();
    world.pass(5);
    let status = world.array(0).status();
    assert_eq!(status.sync, None);
    assert!(status.mismatch_sectors > 0, "it was found");
    let resynced = world.log.iter().filter(|(_, what)| *what == Purpose::Scrub);
    assert!(resynced.count() > 2);
}

#[test]
fn what_changes_an_array_for_all_is_refused() {
    let mut world = World::new(3).running(1);
    world.control(0, Control::ReadOnly(true));
    world.control(0, Control::Stop);
    let invalid = |text: &str| text.starts_with("Err(Invalid");
    assert!(world.hosts[0].answers.iter().all(|one| invalid(one)));
    let never = ControlError::Invalid(String::new());
    assert!(format!("{never:?}").starts_with("Invalid"));
    world.control(0, Control::Fail(MemberId(1)));
    world.settle();
    assert_eq!(
        world.hosts[0].answers.last().map(String::as_str),
        Some("Ok(Done)")
    );
    assert_eq!(world.in_sync(), [0, 2]);
    assert!(world.now.mono > Instant(0));
}
