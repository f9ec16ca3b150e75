//! Every life of small clusters, and the rules one by one.
//!
//! ```text
//!   World --all steps--> Worlds --not seen before--> ...   until nothing new
//!      at each:  nothing wrong;  where nothing is due:  everything has ended well
//! ```
//!
//! The search is breadth first, so what it finds is as short as it can be.

pub(crate) mod engine;
mod lives;
mod parting;
mod scenes;
mod single;
mod turns;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use scenes::{LONGER, SCENES, Scene};
use world::{Step, World};

/// What a search found.
enum Found {
    /// All states, nothing wrong.
    Nothing { states: usize, ends: usize },
    /// What was wrong, and how it came to it.
    Wrong { what: &'static str, path: Vec<Step> },
}

/// More states than any scene has.
const STATES_MAX: usize = 120_000;

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Lives through everything that can follow.
fn explore(first: World, most: usize) -> Found {
    let mut seen = BTreeSet::from([fingerprint(&first)]);
    let mut came: Vec<(usize, Step)> = vec![(0, Step::Hear(0))];
    let mut ends = 0;
    let mut waiting = VecDeque::from([(0, first)]);
    while let Some((index, world)) = waiting.pop_front() {
        if seen.len() > most {
            let path = path(&came, index);
            return Found::Wrong {
                what: "too many states",
                path,
            };
        }
        let steps = world.steps();
        let mut wrong = world.wrong;
        if !steps.iter().any(|step| step.is_due()) {
            ends += 1;
            wrong = wrong.or(world.at_rest());
        }
        if let Some(what) = wrong {
            if std::env::var_os("UMD_TELL").is_some() {
                println!("{world:#?}");
            }
            let path = path(&came, index);
            return Found::Wrong { what, path };
        }
        for step in steps {
            let mut next = world.clone();
            next.step(step);
            if seen.insert(fingerprint(&next)) {
                came.push((index, step));
                waiting.push_back((came.len() - 1, next));
            }
        }
    }
    Found::Nothing {
        states: seen.len(),
        ends,
    }
}

fn path(came: &[(usize, Step)], mut index: usize) -> Vec<Step> {
    let mut path = Vec::new();
    while index > 0 {
        path.push(came[index].1);
        index = came[index].0;
    }
    path.reverse();
    path
}

fn scene(name: &str) -> &'static Scene {
    let found = SCENES.iter().find(|scene| scene.name == name);
    found.expect("a scene of that name")
}

fn live(scene: &Scene, most: usize) -> bool {
    let start = std::time::Instant::now();
    match explore((scene.make)(Rules::ALL), most) {
        Found::Nothing { states, ends } => {
            println!(
                "{:>8} states {ends:>5} ends  {} {:?}",
                states,
                scene.name,
                start.elapsed()
            );
            true
        }
        Found::Wrong { what, path } => {
            println!("{}: {what}: {path:?}", scene.name);
            false
        }
    }
}

/// What `lives` does, of longer lives and more faults: `cargo test -p umd-core cluster -- --ignored
/// --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn longer_lives_end_well() {
    let only = std::env::var("UMD_SCENE").unwrap_or_default();
    let scenes = LONGER.iter().filter(|scene| scene.name.contains(&only));
    let bad = scenes.filter(|scene| !live(scene, 6_000_000)).count();
    assert_eq!(bad, 0);
}

/// What breaks without a rule, and where.
const NEEDED: &[(Rule, &str, &str)] = &[
    (Rule::D1, "two update at once", "L1"),
    (Rule::D2, "a resync, and its node leaves", "L"),
    (Rule::D3, "a resync while both update", "L1"),
    (Rule::D4, "both have something else to say", "L1"),
    (Rule::D5, "a resync, and its node leaves", "L"),
    (Rule::D6, "one cannot follow", "L1"),
    (Rule::D7, "both resize their bitmaps", "L1"),
    (Rule::D8, "one joins while others update", "L1"),
    (Rule::Recheck, "two update at once", "lost update"),
    (Rule::Refresh, "an updater dies", "lost update"),
    (
        Rule::CopyFirst,
        "a writer dies, and who takes its slot",
        "S4",
    ),
    (Rule::Proof, "a writer is paused", "S3"),
    (Rule::Quiesce, "a resync while others write", "S1"),
    (Rule::ZeroIsNotNone, "a resync while others write", "S1"),
    (
        Rule::AwaitFence,
        "a writer is paused",
        "an update was answered",
    ),
    (Rule::LoadFirst, "a resync while others write", "S1"),
    (Rule::Follow, "two update at once", "an update was answered"),
    (Rule::ShownSize, "a size grows while one joins", "S7"),
    (Rule::ValueFirst, "a resync while others write", "S1"),
];

#[test]
fn each_rule_is_needed() {
    let mut useless = 0;
    for (rule, name, expected) in NEEDED {
        match explore((scene(name).make)(Rules::without(*rule)), STATES_MAX) {
            Found::Wrong { what, path } if what.starts_with(expected) => {
                println!(
                    "without {rule:?}: {what}, after {} steps of: {name}",
                    path.len()
                );
            }
            Found::Wrong { what, path } => {
                println!("without {rule:?}: {what}, but expected {expected}: {path:?}");
                useless += 1;
            }
            Found::Nothing { states, .. } => {
                println!("without {rule:?}: nothing in {states} states of: {name}");
                useless += 1;
            }
        }
    }
    assert_eq!(useless, 0);
}
