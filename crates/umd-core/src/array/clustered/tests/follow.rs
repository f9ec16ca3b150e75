//! Superblocks that another node has written: what is followed, and what is not.
//!
//! Other programs write superblocks of clusters, too, so these are made by hand here.

use umd_format::v1::{Features, Fields};
use umd_format::{Level, Role, Uuid};

use super::world::{NODES, World};
use crate::cluster::{AckStatus, Cannot, DeviceNumber, DiskPath, Freeze, Message, NewDisk};
use crate::member::State;
use crate::value::{Control, MemberId, Notice, Purpose, Slot, SyncRequest};

const FOLLOW: AckStatus = AckStatus::Cannot(Cannot::Follow);

fn raid1() -> World {
    World::new(3).running(2)
}

/// Near 2 on four disks.
fn raid10() -> World {
    World::made(Level::Raid10, 0x102, 4, 16).running(2)
}

/// Host 0 has changed superblocks, and host 1 hears so. How it answers.
fn told(world: &mut World, change: impl Fn(&mut Fields)) -> AckStatus {
    for disk in 0..world.disks.len() {
        world.rewrite(disk, |fields| {
            fields.events += 1;
            change(fields);
        });
    }
    hear(world)
}

fn hear(world: &mut World) -> AckStatus {
    world.hosts[1].acks.clear();
    world.announce(0, 1, 0);
    until_answered(world, 1)
}

/// Until host 1 has answered so often: what it has to tell itself comes after that.
fn until_answered(world: &mut World, times: usize) -> AckStatus {
    while world.hosts[1].acks.len() < times {
        assert!(world.step(), "no answer");
    }
    assert_eq!(world.hosts[1].acks.len(), times, "one answer each");
    world.hosts[1].acks[times - 1]
}

fn state(world: &World, disk: u32) -> State {
    let member = world.array(1).members.get(MemberId(disk));
    member.expect("it is there").state
}

fn set(world: &mut World, disk: usize, role: Role) -> AckStatus {
    told(world, |fields| fields.set_role(disk as u32, role))
}

#[test]
fn an_array_that_has_become_another_one_is_not_followed() {
    type Change = fn(&mut Fields);
    let with = |more: Features| move |fields: &mut Fields| fields.features.0 |= more.0;
    let reshaped = with(Features::RESHAPE_ACTIVE);
    let journal = with(Features::JOURNAL);
    let replaced = with(Features::REPLACEMENT);
    let refused = |make: fn() -> World, what: &str, change: &dyn Fn(&mut Fields)| {
        let mut world = make();
        let before = world.array(1).status();
        assert_eq!(told(&mut world, change), FOLLOW, "{what}");
        assert_eq!(world.hosts[1].frozen, Some(Freeze::Blind(Cannot::Follow)));
        assert_eq!(world.array(1).status().members, before.members, "{what}");
        let id = world.write(1, 9);
        world.settle();
        assert_eq!(world.replied(1, id), None, "{what}: written all the same");
    };
    let both: [(&str, Change); 5] = [
        ("identity", |fields| fields.set_uuid = Uuid([8; 16])),
        ("members", |fields| fields.raid_disks = 1),
        ("size", |fields| fields.size_sectors -= 16),
        ("bitmap", |fields| fields.bitmap_offset_raw += 8),
        ("cluster", |fields| {
            fields.features = fields.features.without(Features::CLUSTERED);
        }),
    ];
    for (what, change) in both {
        refused(raid1, what, &change);
        refused(raid10, what, &change);
    }
    let shape: [(&str, Change); 3] = [
        ("level", |fields| fields.level = Level::Raid1),
        ("layout", |fields| fields.layout = 0x201),
        ("chunk", |fields| fields.chunk_sectors = 32),
    ];
    for (what, change) in shape {
        refused(raid10, what, &change);
    }
    refused(raid1, "reshape", &reshaped);
    refused(raid1, "journal", &journal);
    refused(raid1, "replacement", &replaced);
    refused(raid1, "a journal", &|fields| {
        fields.set_role(2, Role::Journal)
    });
    // Somebody who is not here has a slot.
    refused(raid1, "stranger", &|fields| {
        fields.set_role(2, Role::Faulty);
        fields.set_role(5, Role::Active(2));
    });
    // Too few are left.
    refused(raid1, "all failed", &|fields| {
        (0..3).for_each(|disk| fields.set_role(disk, Role::Faulty));
    });
    refused(raid10, "both copies failed", &|fields| {
        (2..4).for_each(|disk| fields.set_role(disk, Role::Faulty));
    });
}

#[test]
fn what_was_refused_is_followed_when_it_is_right_again() {
    let mut world = raid1();
    let size = world.superblock(0).fields.size_sectors;
    assert_eq!(told(&mut world, |fields| fields.size_sectors -= 16), FOLLOW);
    let id = world.write(1, 9);
    world.settle();
    let answer = told(&mut world, |fields| fields.size_sectors = size);
    assert_eq!(answer, AckStatus::Done);
    world.settle();
    assert_eq!(world.hosts[1].frozen, None);
    assert_eq!(world.replied(1, id), Some(true));
}

#[test]
fn superblocks_of_long_ago_are_not_followed_and_those_of_now_are() {
    let mut world = raid1();
    let now = world.array(1).status().events.0;
    assert_eq!(told(&mut world, |_| {}), AckStatus::Done);
    assert_eq!(world.array(1).status().events.0, now + 1);
    let older = told(&mut world, |fields| fields.events -= 2);
    assert_eq!(older, FOLLOW);
    assert_eq!(world.array(1).status().events.0, now + 1);
    // The same that it knows: the other one had nothing new to say.
    assert_eq!(told(&mut world, |_| {}), AckStatus::Done);
    assert_eq!(world.array(1).status().events.0, now + 1);
    assert_eq!(world.hosts[1].frozen, None);
}

#[test]
fn the_superblock_that_was_named_has_to_be_there() {
    let mut world = raid1();
    world.hosts[1].blind.insert(0);
    let cannot = AckStatus::Cannot(Cannot::Read);
    assert_eq!(told(&mut world, |_| {}), cannot);
    // Another one that cannot be read is not needed.
    world.hosts[1].blind = [2].into();
    assert_eq!(told(&mut world, |_| {}), AckStatus::Done);
    assert_eq!(state(&world, 2), State::InSync, "it missed nothing");
    // The name of nobody.
    world.hosts[1].acks.clear();
    world.announce(0, 1, 7);
    world.settle();
    assert_eq!(world.hosts[1].acks, [cannot]);
}

#[test]
fn the_one_that_was_named_says_who_failed_not_the_one_with_the_most_events() {
    let mut world = raid1();
    // Disk 2 has failed for the others, which do not write it any more.
    for disk in 0..2 {
        world.rewrite(disk, |fields| {
            fields.events += 1;
            fields.set_role(2, Role::Faulty);
        });
    }
    world.rewrite(2, |fields| {
        fields.events += 5;
        fields.set_role(0, Role::Faulty);
        fields.set_role(1, Role::Faulty);
    });
    assert_eq!(hear(&mut world), AckStatus::Done);
    let states = [0, 1, 2].map(|disk| state(&world, disk));
    assert_eq!(states, [State::InSync, State::InSync, State::Faulty]);
}

#[test]
fn a_member_that_others_left_out_has_failed_here_too() {
    for role in [Role::Faulty, Role::Spare] {
        let mut world = raid1();
        world.held.insert((1, Purpose::Data));
        let id = world.write(1, 4);
        world.settle();
        assert_eq!(set(&mut world, 2, role), AckStatus::Done);
        assert_eq!(state(&world, 2), State::Faulty, "{role:?}");
        let failed = |notice: &Notice| match notice {
            Notice::Failed { member, .. } => *member == MemberId(2),
            _ => false,
        };
        assert!(world.hosts[1].notices.iter().any(failed));
        assert_eq!(world.array(1).status().degraded, 1);
        // What is under way to it is nobody's.
        world.held.clear();
        world.settle();
        assert_eq!(world.replied(1, id), Some(true));
        // It stays out, whatever superblocks say later.
        assert_eq!(set(&mut world, 2, Role::Active(2)), AckStatus::Done);
        assert_eq!(state(&world, 2), State::Faulty);
        let before = world.supers;
        world.pass(30);
        assert_eq!(world.supers, before, "it is recorded already");
    }
}

/// A member of this number keeps the slot it had, for messages; one without had none.
#[test]
fn several_that_failed_at_once_are_all_left_out() {
    let mut world = World::with_spares(Level::Raid1, 0, (3, 1), 0).running(2);
    let answer = told(&mut world, |fields| {
        (1..4).for_each(|disk| fields.set_role(disk, Role::Faulty));
    });
    assert_eq!(answer, AckStatus::Done);
    assert_eq!(world.array(1).status().degraded, 2);
    let slot = |disk| {
        world
            .array(1)
            .members
            .get(MemberId(disk))
            .expect("it is there")
            .slot
    };
    assert_eq!([1, 2, 3].map(slot), [Some(Slot(1)), Some(Slot(2)), None]);
    world.log.clear();
    let id = world.write(1, 6);
    let flights = world.hosts[1].flights.iter();
    let data = flights.filter(|io| io.purpose == Purpose::Data);
    assert!(
        data.clone().all(|io| io.member == MemberId(0)),
        "it goes to one leg"
    );
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    let legs = world.legs(6);
    assert!(legs[0] != legs[1] && legs[0] != legs[2], "{legs:?}");
}

/// Another node is filling a member that was whole: what lies behind is not read here.
#[test]
fn a_member_that_has_to_be_filled_again_is_not_read_where_it_is_not() {
    let mut world = raid1();
    world.deliver(0, 1, new_disk());
    world.settle();
    world.disks[2][(128 + 400) * 512..(128 + 408) * 512].fill(0xee);
    for disk in 0..3 {
        world.rewrite(disk, |fields| fields.events += 1);
    }
    world.rewrite(2, |fields| {
        fields.features = fields.features.with(Features::RECOVERY_OFFSET);
        fields.recovery_offset_raw = 64;
    });
    assert_eq!(hear_last(&mut world), AckStatus::Done);
    let filled = State::Recovering {
        checkpoint_sectors: 64,
    };
    assert_eq!(state(&world, 2), filled);
    assert_eq!(world.array(1).status().degraded, 1);
    // So many at a time that they would be spread over all legs.
    for _ in 0..3 {
        let reads: Vec<u64> = (0..9).map(|_| world.read(1, 50)).collect();
        world.settle();
        for read in reads {
            assert_eq!(world.byte(1, read), 0);
        }
    }
    let id = world.write(1, 60);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    let legs = world.legs(60);
    assert_eq!(legs[2], legs[0], "and written everywhere");
}

/// Another program may put two legs in each other's place.
#[test]
fn members_are_where_superblocks_say() {
    let mut world = raid1();
    let answer = told(&mut world, |fields| {
        fields.set_role(0, Role::Active(1));
        fields.set_role(1, Role::Active(0));
    });
    assert_eq!(answer, AckStatus::Done);
    let slot = |disk| {
        world
            .array(1)
            .members
            .get(MemberId(disk))
            .expect("it is there")
            .slot
    };
    assert_eq!([0, 1].map(slot), [Some(Slot(1)), Some(Slot(0))]);
    assert_eq!(world.array(1).status().degraded, 0);
    let id = world.write(1, 6);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    world.check_data(&[0, 1, 2]);
}

/// Three legs, and a spare.
fn spare() -> World {
    World::with_spares(Level::Raid1, 0, (3, 1), 0).running(2)
}

#[test]
fn a_spare_that_others_took_is_written_here_with_this_node_s_bits_on_it() {
    let mut world = spare();
    assert_eq!(state(&world, 3), State::Spare);
    assert_eq!(told(&mut world, |_| {}), AckStatus::Done);
    assert_eq!(state(&world, 3), State::Spare, "nothing was said of it");
    world.held.insert((1, Purpose::Data));
    let first = world.write(1, 40);
    world.settle();
    world.deliver(0, 1, new_disk());
    world.held.insert((1, Purpose::Bitmap));
    for disk in 0..4 {
        world.rewrite(disk, |fields| {
            fields.events += 1;
            fields.set_role(2, Role::Faulty);
            fields.set_role(3, Role::Active(2));
        });
    }
    world.rewrite(3, |fields| {
        fields.features = fields.features.with(Features::RECOVERY_OFFSET);
        fields.recovery_offset_raw = 0;
    });
    world.settle();
    world.hosts[1].acks.clear();
    world.announce(0, 1, 0);
    world.settle();
    assert_eq!(world.hosts[1].acks, [], "it does not have the bits yet");
    world.held.remove(&(1, Purpose::Bitmap));
    world.settle();
    assert_eq!(world.hosts[1].acks[0], AckStatus::Done);
    assert!(world.bits_on(3, 1).contains(&5), "the write under way");
    let filled = State::Recovering {
        checkpoint_sectors: 0,
    };
    assert_eq!(state(&world, 3), filled);
    world.held.clear();
    world.settle();
    assert_eq!(world.replied(1, first), Some(true));
    let later = world.write(1, 90);
    world.settle();
    assert_eq!(world.replied(1, later), Some(true));
    let legs = world.legs(90);
    assert_eq!((legs[0], legs[1]), (legs[3], legs[3]), "it is written to");
    assert_eq!(world.flying(1, Purpose::Resync), 0);
    let resynced = world.log.contains(&(1, Purpose::Resync));
    assert!(!resynced, "who added it fills it");
    // That it may be filled here is what the start of a resync says.
    world.deliver(0, 1, Message::ResyncingStart);
    world.settle();
    assert_eq!(told(&mut world, |_| {}), AckStatus::Done);
    world.settle();
    let filled = (0..2).any(|host| world.log.contains(&(host, Purpose::Resync)));
    assert!(filled, "by whoever has the turn");
}

fn new_disk() -> Message {
    Message::NewDisk(NewDisk {
        uuid: [9; 16],
        device: DeviceNumber(3),
        size_sectors: 1280,
        path: DiskPath::new("d99").expect("short"),
    })
}

#[test]
fn a_spare_that_others_have_filled_serves() {
    let mut world = spare();
    let status = told(&mut world, |fields| {
        fields.set_role(2, Role::Faulty);
        fields.set_role(3, Role::Active(2));
    });
    assert_eq!(status, AckStatus::Done);
    assert_eq!(state(&world, 3), State::InSync);
    let member = world
        .array(1)
        .members
        .get(MemberId(3))
        .expect("it is there");
    assert_eq!(member.slot, Some(Slot(2)));
    let there = Notice::Activated(MemberId(3));
    assert!(world.hosts[1].notices.contains(&there));
    assert_eq!(world.array(1).status().degraded, 0);
    let id = world.write(1, 8);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    let legs = world.legs(8);
    assert_eq!((legs[0], legs[1]), (legs[3], legs[3]), "it is written to");
}

/// The superblock of a spare says nothing of the last update: somebody has to fill it.
#[test]
fn a_spare_whose_own_superblock_is_old_serves_nobody() {
    let mut world = spare();
    for disk in 0..3 {
        world.rewrite(disk, |fields| {
            fields.events += 1;
            fields.set_role(2, Role::Faulty);
            fields.set_role(3, Role::Active(2));
        });
    }
    world.hosts[1].acks.clear();
    world.deliver(0, 1, new_disk());
    world.announce(0, 1, 0);
    assert_eq!(until_answered(&mut world, 2), AckStatus::Done);
    let filled = State::Recovering {
        checkpoint_sectors: 0,
    };
    assert_eq!(state(&world, 3), filled);
}

/// The answer to the last of several messages.
fn hear_last(world: &mut World) -> AckStatus {
    world.announce(0, 1, 0);
    world.settle();
    *world.hosts[1].acks.last().expect("an answer")
}

#[test]
fn a_spare_that_failed_elsewhere_is_gone_here() {
    let mut world = spare();
    assert_eq!(set(&mut world, 3, Role::Faulty), AckStatus::Done);
    assert_eq!(state(&world, 3), State::Faulty);
    let status = world.array(1).status();
    assert_eq!(status.degraded, 0);
    assert_eq!(world.hosts[1].frozen, None);
}

/// A node that fills a member tells how far it has come; nobody fills again what was filled.
#[test]
fn how_far_another_node_has_filled_a_member_is_known() {
    let mut world = World::new(3).unfilled();
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    world = world.running(2);
    let runner = (0..2).find(|host| world.flying(*host, Purpose::Resync) > 0);
    let (runner, other) = match runner.expect("one fills it") {
        0 => (0, 1),
        _ => (1, 0),
    };
    let at = |from: u64| State::Recovering {
        checkpoint_sectors: from,
    };
    let of = |world: &World| {
        let member = world.array(other).members.get(MemberId(2));
        member.expect("it is there").state
    };
    for from in [64, 256] {
        for disk in 0..3 {
            world.rewrite(disk, |fields| fields.events += 1);
        }
        world.rewrite(2, |fields| fields.recovery_offset_raw = from);
        world.announce(runner, other, 0);
        world.settle();
        assert_eq!(of(&world), at(from));
    }
    // One that cannot be read has lost nothing.
    world.hosts[other].blind.insert(2);
    for disk in 0..3 {
        world.rewrite(disk, |fields| fields.events += 1);
    }
    world.announce(runner, other, 0);
    world.settle();
    assert_eq!(of(&world), at(256));
    world.hosts[other].blind.clear();
    // Who filled it dies: the other one goes on from there.
    let all = world.array(other).status().dev_sectors;
    world.crash(runner);
    world.expel(runner);
    world.settle();
    world.log.clear();
    world.held.clear();
    world.settle();
    assert_eq!(of(&world), State::InSync);
    let written = world.resynced.iter().filter(|one| one.0 == other);
    let first = written.map(|one| one.1).min().expect("it fills the rest");
    assert_eq!(first, 128 + 256, "of {all} sectors");
}

/// Nobody fills it any more: another node has made it a spare again.
#[test]
fn a_member_that_was_being_filled_can_become_a_spare_again() {
    let mut world = World::new(3).unfilled();
    for host in 0..2 {
        world.held.insert((host, Purpose::Resync));
    }
    let mut world = world.running(2);
    if world.flying(1, Purpose::Resync) > 0 {
        return; // Who fills it itself is not told such things.
    }
    // It would step in again at once.
    world.control(1, Control::Sync(SyncRequest::Frozen));
    assert_eq!(set(&mut world, 2, Role::Spare), AckStatus::Done);
    assert_eq!(state(&world, 2), State::Spare);
    let member = world
        .array(1)
        .members
        .get(MemberId(2))
        .expect("it is there");
    assert_eq!(member.slot, None);
    assert_eq!(world.array(1).status().degraded, 1);
    // Behind all windows.
    let last = world.blocks() - 1;
    let before = world.legs(last)[2];
    let id = world.write(1, last);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    assert_eq!(world.legs(last)[2], before, "it is written no more");
}

/// What others have read wrong counts where superblocks are written next.
#[test]
fn errors_that_another_node_has_corrected_stay_counted() {
    let mut world = raid1();
    world.rewrite(1, |fields| fields.corrected_reads = 7);
    assert_eq!(told(&mut world, |_| {}), AckStatus::Done);
    world.hosts[1].cut.insert(2);
    let id = world.write(1, 8);
    world.settle();
    assert_eq!(world.replied(1, id), Some(true));
    assert_eq!(world.superblock(1).fields.corrected_reads, 7);
    assert!((0..NODES).all(|slot| world.bits(slot).len() <= 1));
}

/// The last update reached some members only: the next one makes them even before it says more.
#[test]
fn members_that_a_dying_node_left_one_update_apart_do_not_come_further_apart() {
    let mut world = raid1();
    for disk in 0..2 {
        world.rewrite(disk, |fields| fields.events += 1);
    }
    assert_eq!(hear(&mut world), AckStatus::Done);
    world.held.insert((1, Purpose::Super));
    world.hosts[1].cut.insert(1);
    world.write(1, 8);
    world.settle();
    let mut last = [0; 3];
    while world.flying(1, Purpose::Super) > 0 {
        let flights = &world.hosts[1].flights;
        let of = |io: &&crate::value::MemberIo| io.purpose == Purpose::Super;
        let disk = flights.iter().find(of).expect("under way").member.0;
        world.land_on(1, disk);
        let now = [0, 1, 2].map(|disk| world.superblock(disk).fields.events);
        let (least, most) = (now[0].min(now[2]), now[0].max(now[2]));
        assert!(most - least <= 1, "{now:?}");
        last = now;
    }
    assert_eq!(last[0], last[2]);
}
