//! Coming to rest, from wherever the array is; and read-auto, which is rest until the first write.
//!
//! A driver of its own keeps member I/O back and lets it end in any order: a stop is asked for at
//! every point of a run, with members that hang or do not, and must come to its end.

mod world;

use umd_core::array::{
    Array, ArrayState, Command, Control, ControlError, ControlReply, Event, MemberIo, Options,
    Purpose, Request, RequestError, RequestOp, Settings, Timer,
};
use umd_core::assembly::Wish;
use umd_core::value::{ControlId, Instant, MemberId, RequestId, Span};
use umd_format::Level;
use world::{DISK_BYTES, Lcg, Shape, World};

const STOP: ControlId = ControlId(1 << 40);

/// Steps of a run before and after which a stop is asked for.
const POINTS: usize = 90;

struct Driver {
    world: World,
    flying: Vec<MemberIo>,
    answered: Vec<(RequestId, bool)>,
    stop: Option<Result<ControlReply, ControlError>>,
    stopped: bool,
    released: usize,
    hung: Option<MemberId>,
    choice: Lcg,
}

impl Driver {
    fn new(mut world: World, hung: Option<MemberId>, seed: u64) -> Driver {
        world.begin();
        let mut driver = Driver {
            world,
            flying: Vec::new(),
            answered: Vec::new(),
            stop: None,
            stopped: false,
            released: 0,
            hung,
            choice: Lcg(seed),
        };
        driver.take_in();
        driver
    }

    fn event(&mut self, event: Event) {
        self.world.event(event);
        self.take_in();
    }

    fn take_in(&mut self) {
        for command in self.world.take_commands() {
            assert!(!self.stopped, "a command behind the last one: {command:?}");
            match command {
                Command::Io(io) => self.flying.push(io),
                Command::Complete { id, result } => {
                    assert!(self.answered.iter().all(|(other, _)| *other != id));
                    self.answered.push((id, result.is_ok()));
                }
                Command::Arm(timer, at) => drop(self.world.timers.insert(timer, at)),
                Command::Answer { id: STOP, result } => {
                    assert!(self.stop.is_none(), "answered twice");
                    self.stop = Some(result);
                }
                Command::Release(_) => self.released += 1,
                Command::Stopped => self.stopped = true,
                Command::Answer { .. } | Command::Notify(_) => {}
            }
        }
    }

    /// One I/O ends, whichever; or, when none can, the next timer falls due. Whether there was
    /// anything.
    fn step(&mut self) -> bool {
        let can: Vec<usize> = (0..self.flying.len())
            .filter(|at| Some(self.flying[*at].member) != self.hung)
            .collect();
        if !can.is_empty() {
            let at = can[self.choice.below(can.len() as u64) as usize];
            let io = self.flying.swap_remove(at);
            let done = self.world.carry_out(io);
            self.event(Event::Done(done));
            return true;
        }
        let next = self.world.timers.iter().min_by_key(|(_, at)| **at);
        let Some((timer, at)) = next.map(|(timer, at)| (*timer, *at)) else {
            return false;
        };
        self.world.timers.remove(&timer);
        self.world.now.mono = Instant(self.world.now.mono.0.max(at.0));
        self.event(Event::Timer(timer));
        true
    }

    fn write(&mut self, number: u64) {
        let data = self.world.pool.copy_of(&[number as u8; 4096]);
        let offset_sectors = self.choice.below(60) * 8;
        let op = RequestOp::Write {
            offset_sectors,
            data,
            fua: number.is_multiple_of(5),
        };
        let id = RequestId(number);
        self.event(Event::Request(Request { id, op }));
    }

    fn array(&mut self) -> &mut Array {
        self.world.array()
    }
}

/// What is left to be done when it has stopped.
#[derive(PartialEq, Eq)]
enum End {
    /// Nothing: it was whole, and is.
    Whole,
    /// A resync or a member.
    Owing,
}

/// Runs for `before` steps, with writes and a failure on the way, and stops.
fn stops(mut driver: Driver, before: usize, fails: bool, end: End) {
    let mut asked = 0;
    for step in 0..before {
        if step % 4 == 0 {
            asked += 1;
            driver.write(asked);
        }
        if fails && step == before / 2 {
            driver.event(Event::Control(ControlId(1), Control::Fail(MemberId(1))));
        }
        if !driver.step() {
            break;
        }
    }
    driver.event(Event::Control(STOP, Control::Stop));
    // What comes now is refused, whatever becomes of it.
    if !driver.stopped {
        asked += 1;
        driver.write(asked);
    }
    let mut steps = 0;
    while !driver.stopped {
        assert!(driver.step(), "nothing is left that could end the stop");
        steps += 1;
        assert!(steps < 100_000, "the stop does not end");
    }
    assert_eq!(driver.stop, Some(Ok(ControlReply::Done)));
    assert_eq!(
        driver.answered.len() as u64,
        asked,
        "everybody was answered"
    );
    assert!(driver.array().is_stopped() && driver.released > 0);
    // Only I/O to a member that was given up is still under way, and it ends without a word; so do
    // timers, requests and questions.
    for io in std::mem::take(&mut driver.flying) {
        assert!(Some(io.member) == driver.hung, "left behind: {io:?}");
        let done = driver.world.carry_out(io);
        driver.event(Event::Done(done));
    }
    for timer in [Timer::SafeMode, Timer::BitmapDaemon, Timer::Sync] {
        driver.event(Event::Timer(timer));
    }
    driver.write(1 << 20);
    driver.event(Event::Control(STOP, Control::Stop));
    // What owes a resync and lacks a member as well would have to be forced.
    if end == End::Whole {
        let mut world = driver.world;
        world.timers.clear();
        world.begin();
        let status = world.array().status();
        assert_eq!(status.state, ArrayState::Clean, "stopped cleanly");
        let bits = status.bitmap.map_or(0, |bitmap| bitmap.dirty_bits);
        assert_eq!((bits, status.sync_pending), (0, false), "nothing is owed");
    }
}

fn shapes() -> Vec<Shape> {
    let mut all = Vec::new();
    for assume_clean in [false, true] {
        for shape in [
            Shape::mirror(3),
            Shape::parity(Level::Raid5, 4),
            Shape::parity(Level::Raid6, 5),
            Shape {
                bitmap: false,
                ..Shape::parity(Level::Raid5, 3)
            },
            Shape {
                level: Level::Raid10,
                layout: 0x102,
                chunk_sectors: 16,
                ..Shape::mirror(4)
            },
        ] {
            all.push(Shape {
                assume_clean,
                ..shape
            });
        }
    }
    all
}

#[test]
fn a_stop_ends_whatever_is_under_way() {
    for shape in shapes() {
        for before in (0..POINTS).step_by(2) {
            for fails in [false, true] {
                let world = World::create(&shape);
                let end = match shape.assume_clean && !fails {
                    true => End::Whole,
                    false => End::Owing,
                };
                stops(Driver::new(world, None, before as u64), before, fails, end);
            }
        }
    }
}

/// A member that answers nothing is given up in time, and the stop goes on without it.
#[test]
fn a_stop_ends_although_a_member_hangs() {
    for shape in shapes() {
        for before in (0..POINTS).step_by(7) {
            let world = World::create(&shape);
            let hung = Some(MemberId(before as u32 % u32::from(shape.disks)));
            stops(
                Driver::new(world, hung, before as u64),
                before,
                false,
                End::Owing,
            );
        }
    }
}

#[test]
fn a_stop_waits_for_writes_that_lag() {
    for before in 0..POINTS {
        let world = World::create_with(&Shape::mirror(2), DISK_BYTES, 2, 8);
        let driver = Driver::new(world, None, before as u64);
        stops(driver, before, false, End::Whole);
    }
}

#[test]
fn a_stop_ends_over_a_lockless_bitmap() {
    for before in 0..POINTS {
        let world = World::create_lockless(&Shape::mirror(2));
        let driver = Driver::new(world, None, before as u64);
        stops(driver, before, false, End::Owing);
    }
}

/// What dm-raid does: suspended (nothing is written), gone on, and stopped in the end.
#[test]
fn an_embedder_suspends_and_goes_on() {
    for shape in shapes() {
        let mut world = World::create(&shape);
        world.begin();
        world.write(0, &[1; 4096]).expect("writes");
        for round in 2..5u8 {
            world.control(Control::ReadOnly(true)).expect("suspended");
            world.take_commands();
            let before: Vec<Vec<u8>> = world.disks.values().map(|d| d.bytes.clone()).collect();
            world.pass(120);
            assert_eq!(world.write(0, &[9; 4096]), Err(RequestError::ReadOnly));
            assert_eq!(world.read(0, 8).expect("reads"), vec![round - 1; 4096]);
            let after: Vec<Vec<u8>> = world.disks.values().map(|d| d.bytes.clone()).collect();
            assert!(before == after, "something was written while suspended");
            world.control(Control::ReadOnly(false)).expect("goes on");
            world.write(0, &[round; 4096]).expect("writes");
        }
        world.stop();
    }
}

fn read_auto(shape: &Shape) -> World {
    let mut world = World::create(shape);
    let options = Options {
        read_auto: true,
        ..Options::default()
    };
    world.start(&Wish::default(), options).expect("starts");
    world
}

fn writes(world: &World) -> u64 {
    world
        .disks
        .values()
        .map(|disk| disk.writes + disk.zeroings)
        .sum()
}

#[test]
fn read_auto_lasts_until_the_first_write() {
    for shape in shapes() {
        let mut world = read_auto(&shape);
        world.pass(60);
        world.read(0, 8).expect("reads");
        assert_eq!(world.array().status().state, ArrayState::ReadAuto);
        // A request that could not be carried out changes nothing.
        let beyond = world.array().array_sectors();
        world.write(beyond, &[1; 4096]).expect_err("beyond the end");
        assert_eq!(world.array().status().state, ArrayState::ReadAuto);
        assert_eq!(world.array().status().sync_pending, !shape.assume_clean);
        assert_eq!(writes(&world), 0, "nothing is written before");
        world.write(8, &[7; 4096]).expect("the first write");
        assert_eq!(world.read(8, 8).expect("reads"), vec![7; 4096]);
        // What is owed is done now.
        world.pass(60);
        let status = world.array().status();
        assert_eq!(
            (status.state, status.sync_pending),
            (ArrayState::Clean, false)
        );
        // Where it is only said that they are clean, they are not.
        assert!(shape.assume_clean || world.mismatch() == 0);
        world.control(Control::ReadAuto).expect("and back");
        assert_eq!(world.array().status().state, ArrayState::ReadAuto);
        let before = writes(&world);
        world.pass(60);
        assert_eq!(writes(&world), before);
        world.control(Control::ReadOnly(true)).expect("for good");
        assert_eq!(world.array().status().state, ArrayState::ReadOnly);
        world.write(8, &[8; 4096]).expect_err("it is read-only");
        world.stop();
    }
}

/// Whoever ran the array before may have been killed with answered writes in caches; who fails to
/// flush them cannot be recorded as failed.
#[test]
fn a_flush_reaches_members_that_nothing_is_written_to() {
    for shape in shapes() {
        let mut world = read_auto(&shape);
        let flush = world.submit(RequestOp::Flush);
        assert!(world.reply(flush).is_ok());
        assert!(world.disks.values().all(|disk| disk.flushes == 1));
        let first = world.disks.values_mut().next().expect("a member");
        first.gone = true;
        let flush = world.submit(RequestOp::Flush);
        assert!(matches!(world.reply(flush), Err(RequestError::Io(_))));
        // Nor is the next one answered as if all that was written before were safe.
        let flush = world.submit(RequestOp::Flush);
        assert!(matches!(world.reply(flush), Err(RequestError::Io(_))));
        assert_eq!(world.array().status().state, ArrayState::ReadAuto);
        assert_eq!(writes(&world), 0, "nothing is written before");
        world.write(8, &[7; 4096]).expect("the first write");
        let flush = world.submit(RequestOp::Flush);
        assert!(world.reply(flush).is_ok(), "it is recorded who failed");
    }
}

#[test]
fn who_changes_something_wants_it_written() {
    let mut world = read_auto(&Shape::mirror(2));
    world
        .control(Control::Settings(Settings::default()))
        .expect("no change");
    assert_eq!(world.array().status().state, ArrayState::ReadAuto);
    world.control(Control::Fail(MemberId(1))).expect("fails");
    assert_ne!(world.array().status().state, ArrayState::ReadAuto);
    assert_eq!(world.array().status().degraded, 1);
}

#[test]
fn an_array_is_called_clean_when_it_is_told_to_or_never() {
    let mut world = World::running(&Shape::mirror(2));
    let delay = |safe_mode_delay| Settings {
        safe_mode_delay: Some(safe_mode_delay),
        ..Settings::default()
    };
    let set = Control::Settings(delay(Span(0)));
    world.write(0, &[1; 4096]).expect("writes");
    world.control(set).expect("set");
    world.pass(600);
    assert_eq!(world.array().status().state, ArrayState::Active);
    world.control(Control::Clean).expect("it is idle");
    world.pass(1);
    assert_eq!(world.array().status().state, ArrayState::Clean);
    // A write that waits for its superblocks is one under way.
    world.holds = Some(Purpose::Super);
    let data = world.pool.copy_of(&[2; 4096]);
    let write = world.submit(RequestOp::Write {
        offset_sectors: 0,
        data,
        fua: false,
    });
    assert!(!world.is_answered(write));
    assert_eq!(world.array().status().state, ArrayState::WritePending);
    world.release_back();
    assert!(world.is_answered(write));
    world.held = Some(MemberId(0));
    let data = world.pool.copy_of(&[3; 4096]);
    let write = world.submit(RequestOp::Write {
        offset_sectors: 0,
        data,
        fua: false,
    });
    assert!(!world.is_answered(write));
    let refused = world.control(Control::Clean);
    assert!(matches!(refused, Err(ControlError::Busy(_))), "{refused:?}");
    world.release(false);
    world
        .control(Control::Settings(delay(Span::secs(5))))
        .expect("set");
    world.pass(4);
    assert_eq!(world.array().status().state, ArrayState::Active);
    world.pass(2);
    assert_eq!(world.array().status().state, ArrayState::Clean);
}
