//! A node of a cluster from its start to its end, under a scheduler that chooses who runs next:
//! `cargo test -p umd --lib --features shuttle shuttle_`. A schedule that breaks a rule is printed,
//! and `shuttle::replay` runs it again.
//!
//! ```text
//!   starter: launch --> the array's thread: Loop, ClusterNode, an array on members in memory
//!   stoppers, lookers --messages----'   '-- a lock service, fence agents: threads of their own
//! ```
//!
//! All but the lock service and the fence agent is what ships. What the node decides is explored in
//! the core, event by event; here it is the wiring: who ends when, who is still waited for, what
//! comes when nobody is there any more.

#[path = "start_shuttle_service.rs"]
mod service;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use shuttle::{Config, Runner};
use tokio::sync::Notify;
use umd_cluster::fence::{Fencer, NotFenced, Target, Wanted as Waited};
use umd_core::array::{Command, Control};
use umd_core::cluster::{FenceProof, ProofKind};
use umd_core::registry::{ObjectId, Refusal as NameRefusal};
use umd_core::value::Instant;
use umd_disk::MemberFile;
use umd_format::create::{Cluster, NewArray, NewMember, new_clustered};
use umd_format::space::RegionWish;
use umd_format::v1::DeviceFlags;
use umd_format::{Level, Uuid};

use super::*;
use crate::api::ClusterRequest;
use crate::daemon::cluster::{Fencing, Search};
use crate::daemon::registry::ToStop;
use crate::daemon::sync::{Time, step};
use crate::doc::ClusterDoc;
use service::{Cast, End, Faults, Hall, PEER};

/// Schedules of each kind, for each scene.
const SCHEDULES: usize = 2_000;
/// Changes of the order that the second kind makes in each.
const CHANGES: usize = 4;
/// Nothing takes so many steps that comes to an end.
const STEPS_MAX: usize = 100_000;
const STACK: usize = 1 << 20;
const DEVICE_SECTORS: u64 = 20_480;

fn explore(scene: Scene, schedules: usize) {
    println!("{scene:?}"); // Shown when a schedule of it fails.
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let config = || {
        let mut config = Config::new();
        config.stack_size = STACK;
        config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
        config
    };
    let random = RandomScheduler::new(schedules);
    Runner::new(random, config()).run(move || play(scene));
    let few = PctScheduler::new(CHANGES, schedules);
    Runner::new(few, config()).run(move || play(scene));
}

/// What the fence agent does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Agent {
    /// It gives a proof, some time.
    #[default]
    Proves,
    /// It gives none.
    Fails,
    /// It goes on until nobody waits for it.
    Hangs,
    /// It breaks.
    Breaks,
}

/// What is done wrong on purpose: each has to be noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// The array's thread ends before the cluster was left.
    EndsFirst,
    /// Who starts the node takes events in before its thread is there.
    TooEarly,
    /// Nobody takes in what comes.
    Deaf,
    /// It leaves once more.
    LeavesTwice,
    /// Something of it is kept when it ends.
    Outlives,
}

#[derive(Debug, Clone, Copy)]
struct Scene {
    cast: Cast,
    /// The peer speaks.
    speaks: bool,
    /// The peer dies.
    dies: bool,
    /// The session ends.
    lost: bool,
    /// So many stop it.
    stoppers: usize,
    /// Somebody looks at it, and confirms a death.
    looked_at: bool,
    /// Somebody fails a member.
    fails: bool,
    /// Time passes while the array's thread sleeps.
    time: bool,
    agent: Agent,
    mistake: Option<Mistake>,
}

/// Fence agents that began, and that ended.
#[derive(Clone, Default)]
struct Running(Arc<[AtomicUsize; 2]>);

impl Running {
    fn begun(&self) -> usize {
        self.0[0].load(Ordering::SeqCst)
    }

    fn now(&self) -> usize {
        let ended = self.0[1].load(Ordering::SeqCst);
        self.begun() - ended
    }
}

struct Runs(Running);

impl Drop for Runs {
    fn drop(&mut self) {
        self.0.0[1].fetch_add(1, Ordering::SeqCst);
    }
}

struct TestAgent(Agent, Running);

impl Fencer for TestAgent {
    fn fence(&self, target: &Target, wanted: &Waited<'_>) -> Result<FenceProof, NotFenced> {
        self.1.0[0].fetch_add(1, Ordering::SeqCst);
        let _runs = Runs(self.1.clone());
        step();
        match self.0 {
            Agent::Proves => Ok(FenceProof {
                peer: target.peer,
                kind: ProofKind::Command,
            }),
            Agent::Fails => Err(NotFenced("no power".into())),
            Agent::Breaks => std::panic::resume_unwind(Box::new("it breaks on purpose")),
            Agent::Hangs => {
                while wanted() {
                    shuttle::thread::yield_now();
                }
                Err(NotFenced("it was killed".into()))
            }
        }
    }
}

/// The node, with a mistake or none.
struct Actor {
    node: Option<ClusterNode>,
    service: Arc<Hall>,
    mistake: Option<Mistake>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.mistake == Some(Mistake::Outlives) {
            std::mem::forget(self.node.take());
        }
    }
}

impl Actor {
    fn node(&self) -> &ClusterNode {
        self.node.as_ref().expect("until it ends")
    }

    fn node_mut(&mut self) -> &mut ClusterNode {
        self.node.as_mut().expect("until it ends")
    }
}

impl Engine for Actor {
    fn begin(&mut self, now: Now, out: &mut Commands) {
        self.node_mut().begin(now, out);
    }

    fn handle(&mut self, now: Now, event: Event, out: &mut Commands) {
        let stop = matches!(event, Event::Control(_, Control::Stop));
        self.node_mut().handle(now, event, out);
        match self.mistake.filter(|_| stop) {
            Some(Mistake::EndsFirst) => out.push(Command::Stopped),
            Some(Mistake::LeavesTwice) => {
                use umd_cluster::Engine as _;
                let again = umd_core::cluster::Leave::Clean;
                let mut other = std::mem::ManuallyDrop::new(End(Arc::clone(&self.service)));
                other.submit(umd_core::cluster::ServiceCommand::Leave(again));
            }
            _ => {}
        }
    }

    fn status(&self) -> Status {
        self.node().status()
    }

    fn map(&self, cells: u16) -> Map {
        self.node().map(cells)
    }

    fn rungs(&self) -> Rungs {
        self.node().rungs()
    }

    fn clock(&self) -> Option<Instant> {
        self.node().clock()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.node().next_deadline()
    }

    fn tend(&mut self, now: Now, out: &mut Commands) {
        if self.mistake != Some(Mistake::Deaf) {
            self.node_mut().tend(now, out);
        }
    }

    fn cluster(&self) -> Option<ClusterDoc> {
        self.node().cluster()
    }

    fn confirm_dead(&mut self, node: u16, now: Now, out: &mut Commands) -> Result<(), String> {
        self.node_mut().confirm_dead(node, now, out)
    }
}

/// The bytes of a member: its superblock and its bitmaps, each with the place.
type Image = Vec<(u64, Vec<u8>)>;

/// A RAID1 of two that two hosts can run.
fn images() -> &'static [Image] {
    static IMAGES: OnceLock<Vec<Image>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let member = |index: u8| NewMember {
            device_sectors: DEVICE_SECTORS,
            device_uuid: Uuid([index; 16]),
            flags: DeviceFlags::default(),
        };
        let array = NewArray {
            format: Format::V1_2,
            set_uuid: Uuid([7; 16]),
            name: "hall:r1".into(),
            preferred_minor: 0,
            ctime_seconds: 1_700_000_000,
            level: Level::Raid1,
            layout: 0,
            chunk_sectors: 0,
            size_sectors: None,
            data_offset_sectors: None,
            bitmap: Some(RegionWish::Default),
            bad_block_log: false,
            assume_clean: true,
            slots: vec![Some(member(1)), Some(member(2))],
            spares: Vec::new(),
        };
        let (nodes, name) = (2, "hall".into());
        let made = new_clustered(&array, &Cluster { nodes, name }).expect("an array");
        let bitmap = made.bitmap_image().expect("bitmaps");
        let image = |superblock: &SuperblockV1| {
            let fields = &superblock.fields;
            let bitmap_sector = fields.bitmap_sector().expect("a bitmap");
            vec![
                (bitmap_sector, bitmap.clone()),
                (fields.super_offset_sectors, superblock.encode(512)),
            ]
        };
        made.slots.iter().flatten().map(image).collect()
    })
}

fn members() -> Vec<Opened> {
    let member = |image: &Image| {
        let file = MemberFile::in_memory(DEVICE_SECTORS, 512);
        for (sector, bytes) in image {
            file.write_at(sector * SECTOR_BYTES, bytes).expect("writes");
        }
        let name = "memory".into();
        Opened { name, file }
    };
    images().iter().map(member).collect()
}

/// The plan is the same each time.
fn planned() -> &'static Planned {
    static PLANNED: OnceLock<Planned> = OnceLock::new();
    PLANNED.get_or_init(|| {
        let planned = plan(&members(), &clustered());
        planned.unwrap_or_else(|error| panic!("{}", error.error))
    })
}

fn clustered() -> Wishes {
    Wishes {
        wish: Wish {
            clustered: true,
            ..Wish::default()
        },
        ..Wishes::default()
    }
}

/// A stage with an array that is about to start.
struct Stage {
    around: Surroundings,
    hall: Arc<Hall>,
    faults: Faults,
    agents: Running,
    id: ObjectId,
}

fn surroundings() -> Surroundings {
    let events = broadcast::channel(64).0;
    Surroundings {
        registry: Registry::new(events.clone(), Arc::new(Notify::new()), false),
        events,
        start_dirty_degraded: false,
    }
}

/// Everything up to the thread of the array.
fn set(scene: Scene) -> (Stage, LoopParts, Joined) {
    let (around, faults, agents) = (surroundings(), Faults::default(), Running::default());
    let plan = &planned().plan;
    let reservation = around.reserve("r1").unwrap_or_else(|_| panic!("free"));
    let export = export_of("r1", plan, false);
    let ends = Handle::new(export, around.events.clone(), How::default()).expect("descriptors");
    let waker = ends.0.waker();
    let hall = Hall::new(scene.cast, waker.clone(), faults.clone());
    let (report, joined) = mpsc::sync_channel(1);
    let pool = Pool::new();
    let parts = cluster::Parts {
        name: "r1".into(),
        request: ClusterRequest {
            name: "hall".into(),
            engine: cluster::MEMORY.into(),
            node: "alpha".into(),
            ..ClusterRequest::default()
        },
        capacity: 2,
        looks: members(),
        how: Arc::default(),
        wish: clustered().wish,
        pool: pool.clone(),
        before: not_read(plan),
        report,
        lease: None,
    };
    let agent: Box<dyn Fencer> = Box::new(TestAgent(scene.agent, agents.clone()));
    let fencing = Fencing::with(vec![agent], waker.clone());
    let search = Search::new(parts.how.clone(), waker);
    let end = Box::new(End(Arc::clone(&hall)));
    let node = ClusterNode::with(parts, end, fencing, search);
    let mut actor = Actor {
        node: Some(node),
        service: Arc::clone(&hall),
        mistake: scene.mistake,
    };
    if scene.mistake == Some(Mistake::TooEarly) {
        actor.tend(Now::default(), &mut Commands::new());
    }
    let used = used_members(plan);
    let parts = LoopParts {
        name: "r1".into(),
        driven: Driven::Node(Box::new(actor)),
        members: kept(members(), &used).collect(),
        pool,
        ends: (ends.0.clone(), ends.1),
    };
    let id = reservation.fill(plan.uuid, ends.0);
    let id = id.unwrap_or_else(|_| panic!("its name is free"));
    let stage = Stage {
        around,
        hall,
        faults,
        agents,
        id,
    };
    (stage, parts, Some(joined))
}

/// Asks the array to stop, as the household does, and looks around when it has.
fn stop(stage: &Stage) {
    let registry = &stage.around.registry;
    match registry.stop("r1", true) {
        Ok(ToStop::Array(id, handle)) => {
            let answer = shuttle::future::block_on(handle.control(Control::Stop));
            if let Ok(Err(error)) = answer {
                stage.faults.note(format!("the stop was refused: {error}"));
            }
            registry.wait_until_gone(id);
            has_ended(stage);
        }
        Ok(_) => stage.faults.note("something else than an array"),
        // Somebody else stops it, or it has ended by itself.
        Err(refused) if matches!(refused.why, NameRefusal::Stopping | NameRefusal::Unknown) => {}
        Err(refused) => stage.faults.note(format!("{:?}", refused.why)),
    }
}

/// Nothing of an array that has ended is left.
fn has_ended(stage: &Stage) {
    if !stage.hall.is_gone() {
        stage.faults.note("the lock service is held on to");
    }
    if stage.agents.now() > 0 {
        stage.faults.note("a fence agent goes on");
    }
}

/// Looks at it, and says that the peer is dead, until there is nobody to hear it.
fn look(stage: &Stage) {
    let Some(handle) = stage.around.registry.get("r1") else {
        return;
    };
    for _ in 0..2 {
        let Ok(snapshot) = shuttle::future::block_on(handle.look()) else {
            return;
        };
        if let Some(reason) = snapshot.reason {
            stage.faults.note(reason);
        }
        let confirmed = handle.confirm_dead(PEER.slot.0);
        // Refused where nobody waits for it.
        let Ok(_) = shuttle::future::block_on(confirmed) else {
            return;
        };
        step();
    }
}

/// Fails a member; an answer says what has happened.
fn fail(stage: &Stage) {
    let Some(handle) = stage.around.registry.get("r1") else {
        return;
    };
    let mut news = stage.around.events.subscribe();
    let answer = shuttle::future::block_on(handle.control(Control::Fail(MemberId(1))));
    let mut told = std::iter::from_fn(|| news.try_recv().ok());
    let failed = told.any(|event| event.event == "Fail");
    if matches!(answer, Ok(Ok(_))) && !failed {
        stage.faults.note("what was not done is answered as done");
    }
}

fn play(scene: Scene) {
    Time::begin(scene.time);
    let (stage, parts, joined) = set(scene);
    let mut news = stage.around.events.subscribe();
    let stage = Arc::new(stage);
    let mut threads = Vec::new();
    let mut run = |name: &str, work: fn(&Stage)| {
        let stage = Arc::clone(&stage);
        let thread = shuttle::thread::Builder::new().name(name.into());
        let spawned = thread.spawn(move || work(&stage));
        threads.push(spawned.expect("threads"));
    };
    run("service", |stage| stage.hall.serve());
    for (happens, name, work) in [
        (
            scene.speaks,
            "speaks",
            (|stage| stage.hall.speak()) as fn(&Stage),
        ),
        (scene.dies, "dies", |stage| stage.hall.die()),
        (scene.lost, "loses", |stage| stage.hall.lose()),
        (scene.looked_at, "looks", look),
        (scene.fails, "fails", fail),
    ] {
        if happens {
            run(name, work);
        }
    }
    for _ in 0..scene.stoppers {
        run("stops", stop);
    }
    let launched = launch(&stage.around, stage.id, parts, joined);
    if launched.is_err() && stage.around.registry.is_there(stage.id) {
        stage
            .faults
            .note("a start that failed left its name behind");
    }
    stage.around.registry.wait_until_gone(stage.id);
    has_ended(&stage);
    stage.faults.check();
    for thread in threads {
        thread.join().expect("no rule was broken");
    }
    while let Ok(event) = news.try_recv() {
        if event.event == "Frozen" {
            stage.faults.note(event.text);
        }
    }
    let ends_itself = scene.lost || scene.cast.refuses || scene.cast.session_s < 1000;
    if stage.hall.leaves() != 1 && !ends_itself {
        let leaves = stage.hall.leaves();
        stage.faults.note(format!("it has left {leaves} times"));
    }
    assert!(stage.around.registry.names().is_empty(), "a name is left");
    stage.faults.check();
}

const PEERED: Cast = Cast {
    refuses: false,
    peer: true,
    was_dead: false,
    session_s: 10_000,
};

/// Two stop a node whose peer speaks.
const SPOKEN_TO: Scene = Scene {
    cast: PEERED,
    speaks: true,
    dies: false,
    lost: false,
    stoppers: 2,
    looked_at: false,
    fails: false,
    time: false,
    agent: Agent::Proves,
    mistake: None,
};

/// One stops a node whose peer dies while it speaks.
const WIDOWED: Scene = Scene {
    dies: true,
    stoppers: 1,
    ..SPOKEN_TO
};

const AGENTS: [Agent; 4] = [Agent::Proves, Agent::Fails, Agent::Hangs, Agent::Breaks];

#[test]
fn shuttle_a_node_stops_while_its_peer_speaks() {
    explore(SPOKEN_TO, SCHEDULES);
    let looked_at = true;
    explore(
        Scene {
            looked_at,
            ..SPOKEN_TO
        },
        SCHEDULES,
    );
}

#[test]
fn shuttle_a_node_stops_while_it_speaks() {
    let fails = true;
    explore(Scene { fails, ..SPOKEN_TO }, SCHEDULES);
}

#[test]
fn shuttle_a_node_stops_while_it_joins() {
    for refuses in [false, true] {
        let (speaks, peer) = (false, false);
        let cast = Cast {
            refuses,
            peer,
            ..PEERED
        };
        explore(
            Scene {
                cast,
                speaks,
                ..SPOKEN_TO
            },
            SCHEDULES,
        );
    }
}

#[test]
fn shuttle_a_node_is_not_let_in() {
    let (speaks, stoppers) = (false, 0);
    let cast = Cast {
        refuses: true,
        ..PEERED
    };
    explore(
        Scene {
            cast,
            speaks,
            stoppers,
            ..SPOKEN_TO
        },
        SCHEDULES,
    );
}

#[test]
fn shuttle_a_node_stops_while_it_fences() {
    for agent in AGENTS {
        // Without a proof the stop is waited for, but not for ever.
        let time = agent != Agent::Proves;
        explore(
            Scene {
                agent,
                time,
                ..WIDOWED
            },
            SCHEDULES,
        );
        let (was_dead, peer) = (true, false);
        let cast = Cast {
            was_dead,
            peer,
            ..PEERED
        };
        let (dies, speaks) = (false, false);
        explore(
            Scene {
                cast,
                dies,
                speaks,
                agent,
                time,
                ..WIDOWED
            },
            SCHEDULES,
        );
    }
}

#[test]
fn shuttle_a_death_is_confirmed_while_the_node_stops() {
    for agent in [Agent::Fails, Agent::Hangs] {
        let (looked_at, time) = (true, true);
        explore(
            Scene {
                agent,
                looked_at,
                time,
                ..WIDOWED
            },
            SCHEDULES,
        );
    }
}

#[test]
fn shuttle_a_session_is_lost_while_the_node_stops() {
    for stoppers in 0..=2 {
        let lost = true;
        explore(
            Scene {
                lost,
                stoppers,
                ..SPOKEN_TO
            },
            SCHEDULES,
        );
        let agent = Agent::Hangs;
        explore(
            Scene {
                lost,
                stoppers,
                agent,
                time: true,
                ..WIDOWED
            },
            SCHEDULES,
        );
    }
}

#[test]
fn shuttle_a_session_runs_out() {
    let cast = Cast {
        session_s: 10,
        ..PEERED
    };
    for stoppers in 0..=1 {
        let (time, fails) = (true, true);
        explore(
            Scene {
                cast,
                stoppers,
                time,
                fails,
                ..WIDOWED
            },
            SCHEDULES,
        );
    }
}

/// What was recovered by others is not fenced any more, and waits for no confirmation.
fn fencing_forgets(agent: Agent) {
    let running = Running::default();
    let ways: Vec<Box<dyn Fencer>> = vec![Box::new(TestAgent(agent, running.clone()))];
    let mut fencing = Fencing::with(ways, Arc::new(|| ()));
    fencing.begin(PEER, None, Instant(1));
    step();
    fencing.forget(PEER);
    for _ in 0..3 {
        let answers = fencing.answers();
        assert!(answers.is_empty(), "{answers:?}");
        let confirmed = fencing.confirm(PEER.slot);
        assert!(confirmed.is_err(), "it was recovered");
        step();
    }
    drop(fencing);
    assert_eq!(running.now(), 0, "an agent goes on");
}

#[test]
fn shuttle_what_was_recovered_is_not_fenced() {
    for agent in AGENTS {
        shuttle::check_random(move || fencing_forgets(agent), SCHEDULES);
    }
}

fn noticed(mistake: Mistake, scene: Scene) {
    let mistake = Some(mistake);
    explore(Scene { mistake, ..scene }, SCHEDULES);
}

#[test]
#[should_panic(expected = "its thread ends while it is a member")]
fn shuttle_an_end_before_the_cluster_is_left_is_noticed() {
    noticed(Mistake::EndsFirst, SPOKEN_TO);
}

#[test]
#[should_panic(expected = "fetches an event")]
fn shuttle_what_comes_before_the_thread_is_there_is_noticed() {
    noticed(Mistake::TooEarly, SPOKEN_TO);
}

#[test]
#[should_panic(expected = "max_steps")]
fn shuttle_a_node_that_does_not_listen_is_noticed() {
    noticed(Mistake::Deaf, SPOKEN_TO);
}

#[test]
#[should_panic(expected = "it leaves twice")]
fn shuttle_who_leaves_twice_is_noticed() {
    noticed(Mistake::LeavesTwice, SPOKEN_TO);
}

#[test]
#[should_panic(expected = "the lock service is held on to")]
fn shuttle_what_outlives_its_array_is_noticed() {
    noticed(Mistake::Outlives, SPOKEN_TO);
}
