//! Small clusters, and what may happen to them.
//!
//! ```text
//!   SCENES   in every run of the tests     LONGER   the same with more hosts, writes and faults
//! ```

use super::super::Rules;
use super::world::{Want, World};

/// A small cluster, and what may happen to it.
pub struct Scene {
    pub name: &'static str,
    pub make: fn(Rules) -> World,
}

pub const SCENES: &[Scene] = &[
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
        name: "three update at once",
        make: |rules| {
            let mut world = World::running(3, rules);
            for host in &mut world.hosts {
                host.wants = vec![Want::Claim];
            }
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
        name: "one of three updaters dies",
        make: |rules| {
            let mut world = World::running(3, rules);
            world.hosts[0].wants = vec![Want::Claim];
            world.hosts[1].wants = vec![Want::Failure];
            world.faults.of = Some(0);
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a writer dies",
        make: |rules| {
            let mut world = World::running(3, rules);
            world.hosts[0].writes = 1;
            world.faults.of = Some(0);
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a writer dies, and who takes its slot",
        make: |rules| {
            let mut world = World::running(3, rules);
            world.hosts[0].writes = 1;
            world.hosts[1].clears = true;
            world.faults.crashes = 2;
            world
        },
    },
    Scene {
        name: "a writer is paused",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].writes = 1;
            world.hosts[0].clears = true;
            world.hosts[1].wants = vec![Want::Failure];
            world.faults.pauses = 1;
            world
        },
    },
    Scene {
        name: "a resync while others write",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.dirty(0);
            world.hosts[0].writes = 1;
            world.hosts[1].writes = 1;
            world.hosts[1].clears = true;
            world
        },
    },
    Scene {
        name: "a resync, and its node dies",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.dirty(0);
            world.hosts[1].writes = 1;
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a resync, and its node is paused",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.dirty(0);
            world.hosts[1].writes = 1;
            world.faults.pauses = 1;
            world.faults.of = Some(0);
            world
        },
    },
    Scene {
        name: "a resync, and its node leaves",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.dirty(0);
            world.hosts[0].stops = 1;
            world.hosts[1].wants = vec![Want::Failure];
            world
        },
    },
    Scene {
        name: "one joins while others update",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.hosts[0].wants = vec![Want::Claim];
            world.hosts[1].wants = vec![Want::Claim];
            world
        },
    },
    Scene {
        name: "one joins while others update, and leaves",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.hosts[0].wants = vec![Want::Claim];
            world.hosts[1].wants = vec![Want::Claim];
            world.hosts[1].stops = 1;
            world
        },
    },
    Scene {
        name: "a resync while both update",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.dirty(0);
            world.hosts[0].wants = vec![Want::Failure];
            world.hosts[1].wants = vec![Want::Failure];
            world
        },
    },
    Scene {
        name: "all leave",
        make: |rules| {
            let mut world = World::running(2, rules);
            for host in &mut world.hosts {
                host.wants = vec![Want::Failure];
                host.writes = 1;
                host.stops = 1;
            }
            world
        },
    },
    Scene {
        name: "one leaves while another is paused",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Failure];
            world.hosts[0].stops = 1;
            world.hosts[1].writes = 1;
            world.faults.pauses = 1;
            world.faults.of = Some(1);
            world
        },
    },
    Scene {
        name: "a message is timed out though its receiver lives",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Claim];
            world.hosts[1].writes = 1;
            world.faults.timeouts = 1;
            world
        },
    },
    Scene {
        name: "no proof is to be had",
        make: |rules| {
            let mut world = World::running(3, rules);
            world.hosts[0].wants = vec![Want::Failure];
            world.hosts[0].stops = 1;
            world.hosts[1].writes = 1;
            world.faults.of = Some(1);
            world.faults.crashes = 1;
            world.fencing_works = false;
            world
        },
    },
    Scene {
        name: "one dies and comes back",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].writes = 1;
            world.hosts[0].starts = 1;
            world.faults.of = Some(0);
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a copy fails",
        make: |rules| {
            let mut world = World::running(3, rules);
            world.hosts[0].writes = 1;
            world.faults.crashes = 1;
            world.faults.failed_copies = 1;
            world
        },
    },
    Scene {
        name: "both have something else to say",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Remove, Want::ReAdd];
            world.hosts[1].wants = vec![Want::Remove, Want::Claim];
            world
        },
    },
    Scene {
        name: "both resize their bitmaps",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Bitmap];
            world.hosts[1].wants = vec![Want::Bitmap];
            world
        },
    },
    Scene {
        name: "one cannot follow",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Add, Want::Grow, Want::Bitmap, Want::Chunk];
            world.hosts[1].wants = vec![Want::Failure];
            world.hosts[1].unable = true;
            world
        },
    },
    Scene {
        name: "both change what bits stand for, and one dies",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Chunk];
            world.hosts[1].wants = vec![Want::Chunk];
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a size grows and a node dies",
        make: |rules| {
            let mut world = World::running(2, rules);
            world.hosts[0].wants = vec![Want::Add, Want::Grow];
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a size grows while one joins",
        make: |rules| {
            let mut world = World::new(3, rules);
            world.boot(0);
            world.boot(1);
            world.hosts[0].wants = vec![Want::Grow];
            world
        },
    },
    Scene {
        name: "a size cannot grow while one joins",
        make: |rules| {
            let mut world = World::new(3, rules);
            world.boot(0);
            world.boot(1);
            world.hosts[0].wants = vec![Want::Grow];
            world.hosts[1].unable = true;
            world
        },
    },
];

/// More of it.
pub const LONGER: &[Scene] = &[
    Scene {
        name: "any of three dies while two write and update",
        make: |rules| {
            let mut world = World::running(3, rules);
            world.hosts[0].wants = vec![Want::Claim];
            world.hosts[1].wants = vec![Want::Failure];
            world.hosts[0].writes = 1;
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "any of two is paused while both write",
        make: |rules| {
            let mut world = World::running(2, rules);
            for host in &mut world.hosts {
                host.writes = 1;
                host.clears = true;
            }
            world.hosts[1].wants = vec![Want::Failure];
            world.faults.pauses = 1;
            world
        },
    },
    Scene {
        name: "a message is timed out though its receiver lives, among three",
        make: |rules| {
            let mut world = World::running(3, rules);
            world.hosts[0].wants = vec![Want::Claim];
            world.hosts[1].writes = 1;
            world.faults.timeouts = 1;
            world
        },
    },
    Scene {
        name: "a resync among three, and its node dies",
        make: |rules| {
            let mut world = World::new(3, rules);
            world.dirty(0);
            world.faults.of = Some(0);
            world.faults.crashes = 1;
            world
        },
    },
    Scene {
        name: "a resync, its node leaves, and the other one writes",
        make: |rules| {
            let mut world = World::new(2, rules);
            world.dirty(0);
            world.hosts[0].stops = 1;
            world.hosts[1].wants = vec![Want::Failure];
            world.hosts[1].writes = 1;
            world.hosts[1].clears = true;
            world
        },
    },
    Scene {
        name: "a node dies and comes back while the other writes and updates",
        make: |rules| {
            let mut world = World::running(2, rules);
            for host in &mut world.hosts {
                host.writes = 1;
                host.starts = 1;
            }
            world.hosts[1].wants = vec![Want::Failure];
            world.faults.crashes = 1;
            world
        },
    },
];
