//! Every life of small clusters, and the rules one by one.
//!
//! ```text
//!   World --all steps--> Worlds --not seen before--> ...   until nothing new
//!      at each:  nothing wrong;  where nothing is due:  everything has ended well
//! ```
//!
//! The search is breadth first, so what it finds is as short as it can be.

mod engine;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use world::{Faults, Step, Want, World};

/// What a search found.
enum Found {
    /// All states, nothing wrong.
    Nothing { states: usize, ends: usize },
    /// What was wrong, and how it came to it.
    Wrong { what: &'static str, path: Vec<Step> },
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Lives through everything that can follow.
fn explore(first: World) -> Found {
    let mut seen = BTreeSet::from([fingerprint(&first)]);
    let mut came: Vec<(usize, Step)> = vec![(0, Step::Hear(0))];
    let mut ends = 0;
    let mut waiting = VecDeque::from([(0, first)]);
    while let Some((index, world)) = waiting.pop_front() {
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

/// A small cluster, and what may happen to it.
struct Scene {
    name: &'static str,
    make: fn(Rules) -> World,
}

fn scene(name: &str) -> &'static Scene {
    let found = SCENES.iter().find(|scene| scene.name == name);
    found.expect("a scene of that name")
}

const SCENES: &[Scene] = &[
    Scene {
        name: "two update at once",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Claim, Want::Failure];
            world.hosts[1].wants = vec![Want::Claim, Want::Failure];
            world
        },
    },
    Scene {
        name: "an updater dies",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Claim];
            world.hosts[1].wants = vec![Want::Failure];
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a writer is paused",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].writes = 1;
            world.hosts[1].writes = 1;
            world.hosts[1].wants = vec![Want::Failure];
            world.faults.pauses = 1;
            world
        },
    },
];

#[test]
fn every_life_ends_well() {
    for scene in SCENES {
        let start = std::time::Instant::now();
        match explore((scene.make)(Rules::ALL)) {
            Found::Nothing { states, ends } => {
                println!(
                    "{}: {states} states, {ends} ends, {:?}",
                    scene.name,
                    start.elapsed()
                );
            }
            Found::Wrong { what, path } => panic!("{}: {what}: {path:#?}", scene.name),
        }
    }
}
