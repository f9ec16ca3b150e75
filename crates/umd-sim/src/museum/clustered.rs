//! Mistakes of clusters: how each is made, and how it is looked for.
//!
//! ```text
//!   exhibit --> Make: a rule of nodes that is off (umd_core::cluster::Rule)
//!           --> Plan::draw(seed), run with it and without it
//! ```

use umd_core::cluster::{Rule, Rules};
use umd_core::value::{Exhibit, Museum, Span};

use super::search::Found;
use crate::cluster::{Act, Make, Plan, item, run, shrink};
use crate::disk::Armed;
use crate::monitor::Violation;
use crate::run::Show;

/// How a cluster makes this mistake; `None`: it is none of a cluster.
pub fn make(exhibit: Exhibit) -> Option<Make> {
    use Exhibit::*;
    let rule = match exhibit {
        M65 => Rule::D1,
        M66 => Rule::D5,
        M67 => Rule::D3,
        M69 => Rule::LoadFirst,
        M72 => Rule::Follow,
        M73 => Rule::D6,
        M68 | M70 | M71 => {
            return Some(Make {
                rules: Rules::ALL,
                museum: Museum::showing(exhibit),
            });
        }
        M74 => Rule::CopyFirst,
        U66 => Rule::Quiesce,
        U67 => Rule::ZeroIsNotNone,
        U68 => Rule::ValueFirst,
        _ => return None,
    };
    Some(Make {
        rules: Rules::without(rule),
        museum: Museum::NONE,
    })
}

/// The scene of a mistake of clusters, and what it is in a sentence. Some are what was left of a
/// drawn run when nothing could be left out any more.
pub(super) fn scene(exhibit: Exhibit) -> Option<(Plan, &'static str)> {
    use Exhibit::*;
    let drawn = |seed: u64, items: &[usize]| Plan::draw(seed).only(items);
    Some(match exhibit {
        M65 => (
            drawn(1046, &[0, 1, 18, 32, 33, 97, 117, 118]),
            "two hosts; one checks while the other fails a member, and both die, one by one",
        ),
        M66 => (
            drawn(1, &[1, 6, 7]),
            "a host writes, a member fails the write, and the host leaves",
        ),
        M67 => (
            drawn(566, &[1, 4, 115, 116, 142, 156, 187]),
            "three hosts; one dies, and while another one checks, a spare comes and a member fails",
        ),
        M68 => (
            drawn(164, &[0, 1, 2, 3, 12, 74]),
            "four hosts, of which one dies at once; another one grows the array while its bits are \
             being resynced",
        ),
        M69 => (
            drawn(578, &[0, 14, 35, 47]),
            "one host resyncs, two join, and one of them writes",
        ),
        M70 => (
            drawn(19, &[0, 23, 60, 62, 111]),
            "two hosts; one adds a spare, the other one fails a member, and both read",
        ),
        M71 => (
            drawn(14, &[121, 122, 159, 162, 185]),
            "a host fails a member, a spare takes its place, and a second host, in another slot, \
             writes",
        ),
        M72 => (
            told_late(),
            "one host fails a member, and removes it at once",
        ),
        M73 => (
            drawn(24, &[1, 2, 4, 5, 22, 23, 24]),
            "a member is removed and comes back through one host, and another one does not see it",
        ),
        M74 => (
            drawn(11, &[0, 1, 2, 3, 4, 70, 89]),
            "two hosts write, and one of them dies with a write under way",
        ),
        U66 => (
            checks_beside_a_write(),
            "one host repairs while a write of another one hangs on a member",
        ),
        U67 => (
            drawn(188, &[1, 2, 8, 10, 12, 15]),
            "two hosts write, and one of them fails a member",
        ),
        U68 => (
            drawn(119, &[0, 1, 23]),
            "two hosts; one writes, and a third one joins when both are to be left alone",
        ),
        _ => return None,
    })
}

fn told_late() -> Plan {
    let items = vec![
        item(0, Act::Start(0)),
        item(500, Act::Start(1)),
        item(4_000, Act::Fail(0, 1)),
        item(4_100, Act::Remove(0, 1)),
    ];
    Plan::plain(2, items)
}

fn checks_beside_a_write() -> Plan {
    let items = vec![
        item(0, Act::Start(0)),
        item(500, Act::Start(1)),
        item(3_000, Act::Write(1, 8, 8, false)),
        item(3_100, Act::Arm(1, Armed::Hang(Span::secs(4)))),
        item(3_101, Act::Write(1, 8, 8, false)),
        item(3_200, Act::Check(0, true)),
    ];
    Plan::plain(2, items)
}

/// What is left of a seed that notices a mistake.
pub(super) fn shrunk(seed: u64, make: Make, most: usize) -> String {
    let Some(shrunk) = shrink(&Plan::draw(seed), make, most) else {
        return format!("seed {seed} does not fail again");
    };
    let items: Vec<String> = shrunk.plan.items.iter().map(ToString::to_string).collect();
    let (rule, kept) = (shrunk.violation.rule, shrunk.kept);
    format!(
        "seed {seed}, {rule:?}, items {kept:?}:\n{}",
        items.join("\n")
    )
}

/// What a plan breaks without and with a mistake.
pub(super) fn both(plan: &Plan, make: Make, show: Show) -> [Option<Violation>; 2] {
    let off = run(plan.clone(), Make::default(), Show::Hash).violation;
    [off, run(plan.clone(), make, show).violation]
}

/// Runs up to `most` seeds of clusters from `start` on until one notices the mistake.
pub(super) fn search(make: Make, start: u64, most: u64) -> Option<Found> {
    (start..start.saturating_add(most)).find_map(|seed| {
        let plan = Plan::draw(seed);
        let violation = run(plan.clone(), make, Show::Hash).violation?;
        let innocent = run(plan, Make::default(), Show::Hash).violation.is_none();
        innocent.then_some(Found {
            seeds: seed - start + 1,
            seed,
            violation,
        })
    })
}
