//! Clusters in virtual time: seeds that have to be quiet, and what the judges say of who is not.

use umd_core::value::Span;

use super::*;
use crate::disk::Armed;

fn quiet(seed: u64) -> Counts {
    let outcome = run(Plan::draw(seed), Make::default(), Show::Tail);
    if let Some(violation) = outcome.violation {
        panic!(
            "seed {seed}: {violation}\n{}\nrepeat with: cargo xtask sim --cluster --seed {seed} \
             --trace",
            outcome.tail.join("\n")
        );
    }
    outcome.counts
}

#[test]
fn sixty_seeds() {
    let mut sum = Counts::default();
    for seed in 0..60 {
        let counts = quiet(seed);
        sum.answers += counts.answers;
        sum.reads_checked += counts.reads_checked;
        sum.deaths += counts.deaths;
        sum.takeovers += counts.takeovers;
        sum.changes += counts.changes;
        sum.syncs += counts.syncs;
    }
    // A run that does nothing finds nothing.
    assert!(
        sum.answers > 4_000 && sum.reads_checked > 100_000,
        "{sum:?}"
    );
    assert!(sum.deaths > 50 && sum.takeovers > 60, "{sum:?}");
    assert!(sum.changes > 30 && sum.syncs > 60, "{sum:?}");
}

#[test]
fn a_seed_is_all_there_is() {
    for seed in 100..104 {
        let outcome = run_twice(&Plan::draw(seed), Make::default());
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}

/// What is left of seeds that something of umd was wrong in.
#[test]
fn seeds_that_went_wrong_once() {
    let stale = [
        0, 53, 55, 56, 84, 85, 86, 93, 94, 95, 127, 134, 135, 137, 151, 152, 166, 169, 172, 177,
        178, 179, 181,
    ];
    let unread = [0, 1, 2, 43, 48, 109, 110, 111];
    let untold = [0, 1, 2, 31, 61, 90, 91, 108, 119];
    for (seed, items) in [(1237, &stale[..]), (117947, &unread), (52185, &untold)] {
        let plan = Plan::draw(seed).only(items);
        let outcome = run(plan, Make::default(), Show::Tail);
        assert_eq!(outcome.violation, None, "seed {seed}: {:#?}", outcome.tail);
    }
}

/// Two hosts on a mirror, without chance.
fn plain(items: Vec<Item>) -> Plan {
    Plan::plain(2, items)
}

#[test]
fn what_a_paused_host_has_sent_lands_late_unless_it_was_fenced() {
    let items = vec![
        item(0, Act::Start(0)),
        item(500, Act::Start(1)),
        item(2_000, Act::Write(0, 8, 8, false)),
        item(3_000, Act::Write(0, 8, 8, false)),
        // While its data is on the way: bits take one write, data the next.
        Item {
            at: Span(3_000_700_000),
            act: Act::Pause(0, Span::secs(40)),
        },
        item(20_000, Act::Write(1, 8, 8, false)),
        item(50_000, Act::Read(1, 8, 8)),
    ];
    let mut plan = plain(items);
    plan.late_permille = 1000;
    let outcome = run(plan, Make::default(), Show::Tail);
    assert_eq!(outcome.violation, None, "{}", outcome.tail.join("\n"));
    let counts = outcome.counts;
    assert_eq!((counts.deaths, counts.fences > 0), (1, true), "{counts:?}");
    assert_eq!(counts.takeovers, 1);
}

#[test]
fn a_cut_of_the_power_leaves_what_was_flushed() {
    let items = vec![
        item(0, Act::Start(0)),
        item(500, Act::Start(1)),
        item(2_000, Act::Write(0, 0, 64, false)),
        item(2_000, Act::Write(1, 128, 64, false)),
        item(2_100, Act::Flush(0)),
        item(2_200, Act::Write(1, 300, 8, true)),
        item(2_300, Act::Write(0, 64, 64, false)),
        item(2_400, Act::PowerCut),
        item(3_000, Act::Start(0)),
    ];
    let outcome = run(plain(items), Make::default(), Show::Tail);
    assert_eq!(outcome.violation, None, "{}", outcome.tail.join("\n"));
    assert!(outcome.counts.takeovers >= 2, "{:?}", outcome.counts);
}

/// Disks that lie are noticed: judges that see nothing would not.
#[test]
fn a_lost_write_is_noticed() {
    let items = vec![
        item(0, Act::Start(0)),
        item(500, Act::Start(1)),
        item(2_000, Act::Arm(1, Armed::LostWrite)),
        item(2_001, Act::Write(0, 8, 8, false)),
    ];
    let outcome = run(plain(items), Make::default(), Show::Hash);
    let rule = outcome.violation.map(|violation| violation.rule);
    assert!(
        matches!(rule, Some(Rule::Content | Rule::Parity)),
        "{rule:?}"
    );
}

#[test]
fn a_failure_is_shrunk_to_what_it_needs() {
    let mut items = vec![item(0, Act::Start(0)), item(500, Act::Start(1))];
    for block in 0..20 {
        items.push(item(
            1_000 + 10 * block,
            Act::Write(1, 100 + block * 8, 8, false),
        ));
    }
    items.push(item(2_000, Act::Arm(1, Armed::LostWrite)));
    items.push(item(2_001, Act::Write(0, 8, 8, false)));
    let shrunk = shrink(&plain(items), Make::default(), 200).expect("it fails");
    assert_eq!(shrunk.kept, [0, 22, 23], "{:?}", shrunk.plan.items);
}

// Judges that say something of what they see: each is shown a history that was made up.

use umd_core::array::{MemberIo, Purpose};
use umd_core::cluster::{Leave, NodeSlot, ServiceCommand};
use umd_core::value::{Instant, IoId, IoOp, MemberId, Slice};

use super::media::bitmaps;
use crate::monitor::Verdict;

/// Two hosts that serve, and have done nothing yet.
fn serving() -> World {
    let items = vec![item(0, Act::Start(0)), item(100, Act::Start(1))];
    let mut world = World::new(plain(items), Make::default(), Trace::of(Show::Hash));
    let served = world.run_until(Instant(3_000_000_000));
    assert_eq!(served, Ok(()));
    assert!(world.hosts.iter().all(host::Host::serves));
    world
}

fn member(world: &World, host: usize, disk: usize) -> MemberId {
    let running = world.hosts[host].array.as_ref().expect("it runs");
    running.opened[&disk]
}

/// A write of zeros to a disk.
fn write(world: &World, host: usize, (disk, sector): (usize, u64), purpose: Purpose) -> MemberIo {
    let zeros: Slice = world.pool.copy_of(&[0; 4096]);
    MemberIo {
        io: IoId(77),
        member: member(world, host, disk),
        purpose,
        op: IoOp::Write {
            offset_sectors: sector,
            data: [zeros].into_iter().collect(),
            fua: true,
        },
    }
}

fn judged(world: &World, host: usize, io: &MemberIo) -> Option<Rule> {
    let walk = world.walk_of(host, io);
    rule_of(world.judge_io(host, io, &walk))
}

fn rule_of(verdict: Verdict) -> Option<Rule> {
    verdict.err().map(|broken| broken.rule)
}

fn running(world: &mut World, host: usize) -> &mut host::Running {
    world.hosts[host].array.as_mut().expect("it runs")
}

const DATA: u64 = 512;

#[test]
fn a_write_without_a_session_is_noticed() {
    let mut world = serving();
    let io = write(&world, 0, (0, 8), Purpose::Super);
    running(&mut world, 0).token = true;
    assert_eq!(judged(&world, 0, &io), None);
    running(&mut world, 0).line.valid_until = world.now;
    assert_eq!(judged(&world, 0, &io), Some(Rule::Fenced));
}

#[test]
fn a_slot_that_is_taken_from_who_may_write_is_noticed() {
    // Without the rule nobody waits for the proof.
    let items = vec![
        item(0, Act::Start(0)),
        item(500, Act::Start(1)),
        item(3_000, Act::Write(0, 8, 8, false)),
        item(3_001, Act::Crash(0)),
    ];
    let mut plan = plain(items);
    plan.unproved_permille = 1000;
    let outcome = run(plan.clone(), Make::default(), Show::Tail);
    assert_eq!(outcome.violation, None, "{}", outcome.tail.join("\n"));
    let mut world = World::new(plan, Make::default(), Trace::of(Show::Hash));
    let dead = world.run_until(Instant(20_000_000_000));
    assert_eq!(dead, Ok(()));
    // The proof was one of nothing.
    let peer = world.service.dead(NodeSlot(0)).expect("it has died");
    assert!(!world.fenced.contains(&peer));
    let proof = umd_core::cluster::FenceProof {
        peer,
        kind: umd_core::cluster::ProofKind::Command,
    };
    let taken = world
        .input(1, umd_core::array::Input::Fenced(proof))
        .and_then(|()| world.run_until(Instant(40_000_000_000)));
    assert_eq!(rule_of(taken), Some(Rule::Fenced));
}

#[test]
fn data_without_a_bit_is_noticed() {
    let world = serving();
    let status = world.hosts[0]
        .array
        .as_ref()
        .and_then(|one| one.status.as_ref());
    let data = status.expect("it serves").members[0].data_offset_sectors;
    let io = write(&world, 0, (0, data + DATA), Purpose::Data);
    assert_eq!(judged(&world, 0, &io), Some(Rule::Intent));
}

#[test]
fn who_writes_what_is_another_ones_is_noticed() {
    let mut world = serving();
    let io = write(&world, 0, (0, 8), Purpose::Super);
    running(&mut world, 0).token = false;
    assert_eq!(judged(&world, 0, &io), Some(Rule::Turn));
    let (at, each) = bitmaps(&world.disks[0]).expect("they are there");
    let slots = world
        .hosts
        .iter()
        .map(|one| one.array.as_ref().and_then(|one| one.me));
    let slots: Vec<u64> = slots
        .map(|me| me.expect("a member").slot.0.into())
        .collect();
    let own = write(&world, 0, (0, at + each * slots[0]), Purpose::Bitmap);
    assert_eq!(judged(&world, 0, &own), None);
    let other = write(&world, 0, (0, at + each * slots[1]), Purpose::Bitmap);
    assert_eq!(judged(&world, 0, &other), Some(Rule::Turn));
}

#[test]
fn a_size_that_not_all_have_is_noticed() {
    let grown = |world: &mut World, by: i64| {
        let status = running(world, 0).status.as_mut().expect("it serves");
        status.array_sectors = status.array_sectors.wrapping_add_signed(by);
        status.dev_sectors = status.dev_sectors.wrapping_add_signed(by);
        rule_of(world.judge_size(0))
    };
    assert_eq!(grown(&mut serving(), 0), None);
    assert_eq!(grown(&mut serving(), 16), Some(Rule::Size));
    assert_eq!(grown(&mut serving(), -16), Some(Rule::Size));
}

#[test]
fn a_disk_that_was_let_go_is_noticed() {
    let mut world = serving();
    let io = write(&world, 0, (1, 8), Purpose::Super);
    running(&mut world, 0).token = true;
    assert_eq!(judged(&world, 0, &io), None);
    world.removed.insert(1);
    assert_eq!(judged(&world, 0, &io), Some(Rule::Lifetime));
    world.removed.clear();
    running(&mut world, 0).opened.remove(&1);
    assert_eq!(judged(&world, 0, &io), Some(Rule::Lifetime));
}

#[test]
fn who_leaves_something_under_way_or_bits_is_noticed() {
    let items = vec![
        item(0, Act::Start(0)),
        item(2_000, Act::Write(0, 8, 8, false)),
    ];
    let mut world = World::new(plain(items), Make::default(), Trace::of(Show::Hash));
    let leaves = |world: &World| {
        let leave = ServiceCommand::Leave(Leave::Clean);
        rule_of(world.judge_leaving(0, &leave))
    };
    let mut seen = Vec::new();
    for step in 0..200 {
        let at = Instant(2_000_000_000 + step * 50_000);
        assert_eq!(world.run_until(at), Ok(()));
        seen.push(leaves(&world));
    }
    assert!(seen.contains(&Some(Rule::Lifetime)), "{seen:?}");
    assert_eq!(seen.last(), Some(&Some(Rule::Clear)));
}

#[test]
fn who_is_expelled_for_nothing_is_noticed() {
    let mut world = serving();
    let me = running(&mut world, 1).me.expect("a member");
    let expelled = |world: &World| {
        let expel = ServiceCommand::Expel(me);
        rule_of(world.judge_expelling(0, &expel))
    };
    assert_eq!(expelled(&world), Some(Rule::Liveness));
    world.hosts[1].isolated_until = world.now;
    assert_eq!(expelled(&world), None);
}

/// What one bitmap says of when its first bit went is what keeps out who left before that.
#[test]
fn bits_that_go_unsaid_are_noticed() {
    let items = vec![
        item(0, Act::Start(0)),
        item(100, Act::Start(1)),
        item(2_000, Act::Fail(0, 1)),
        item(3_000, Act::Remove(0, 1)),
        item(4_000, Act::Write(0, 8, 8, false)),
    ];
    let mut world = World::new(plain(items), Make::default(), Trace::of(Show::Hash));
    assert_eq!(world.run_until(Instant(8_000_000_000)), Ok(()));
    let (at, each) = bitmaps(&world.disks[0]).expect("they are there");
    let me = running(&mut world, 0).me.expect("a member");
    let start = at + each * u64::from(me.slot.0);
    let io = write(&world, 0, (0, start), Purpose::Bitmap);
    assert_eq!(judged(&world, 0, &io), Some(Rule::Clear));
}

#[test]
fn who_says_too_early_that_it_has_read_is_noticed() {
    use umd_core::cluster::{AckStatus, DeliveryId, DeviceNumber};
    let mut world = serving();
    let says = |world: &World| {
        let ack = ServiceCommand::Ack(DeliveryId(9), AckStatus::Done);
        rule_of(world.judge_reading(1, &ack))
    };
    running(&mut world, 1)
        .told
        .insert(DeliveryId(9), DeviceNumber(0));
    assert_eq!(says(&world), None);
    let status = running(&mut world, 1).status.as_mut().expect("it serves");
    status.events.0 -= 1;
    assert_eq!(says(&world), Some(Rule::Size));
}
