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
    for (seed, items) in [(1237, &stale[..]), (117947, &unread)] {
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
