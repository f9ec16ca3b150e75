//! Ends of member I/O that come together: one event for all of them, as if they had come one by
//! one.

use std::collections::BTreeMap;

use umd_core::array::{
    Command, Completion, Event, IoDone, IoError, MemberIo, Options, Purpose, Request, RequestOp,
};
use umd_core::assembly::Wish;
use umd_core::value::{IoId, MemberId, RequestId};
use umd_format::Level;

use crate::world::{Lcg, Shape, World, shapes};

/// Carries out commands in rounds: what ends in a round is told together, at its end.
struct Rounds {
    world: World,
    /// Of a round, the last I/O is told first.
    backwards: bool,
    /// Who refuses data from now on.
    broken: Option<MemberId>,
    /// What happened, in order: a write that went on to a member, and answers.
    log: Vec<String>,
    answers: BTreeMap<u64, bool>,
}

impl Rounds {
    fn new(shape: &Shape) -> Rounds {
        let mut world = World::create(shape);
        let started = world.start(&Wish::default(), Options::default());
        started.expect("it starts");
        Rounds {
            world,
            backwards: false,
            broken: None,
            log: Vec::new(),
            answers: BTreeMap::new(),
        }
    }

    fn carry_out(&mut self, io: MemberIo) -> Completion {
        let data = matches!(io.purpose, Purpose::Data | Purpose::Parity);
        if data && self.broken == Some(io.member) {
            let result = Err(IoError::Gone);
            return Completion { io: io.io, result };
        }
        self.log
            .push(format!("{:?} of {:?}", io.purpose, io.member));
        self.world.carry_out(io)
    }

    /// Until nothing is left to be done.
    fn run(&mut self) {
        loop {
            let mut ended = Vec::new();
            for command in self.world.take_commands() {
                match command {
                    Command::Io(io) => ended.push(self.carry_out(io)),
                    Command::Complete { id, result } => {
                        self.log.push(format!("answer to {}", id.0));
                        self.answers.insert(id.0, result.is_ok());
                    }
                    _ => {}
                }
            }
            if ended.is_empty() {
                return;
            }
            if self.backwards {
                ended.reverse();
            }
            self.world.event(Event::Ended(ended));
        }
    }

    fn write(&mut self, id: u64, offset_sectors: u64, bytes: &[u8]) -> Request {
        let data = self.world.pool.copy_of(bytes);
        let op = RequestOp::Write {
            offset_sectors,
            data,
            fua: false,
        };
        let id = RequestId(id);
        Request { id, op }
    }
}

/// On every level, with ends told in either order, arrays hold what was written, and their members
/// agree.
#[test]
fn what_ends_together_is_all_heard_of() {
    for (number, shape) in shapes().into_iter().chain(shapes()).enumerate() {
        let backwards = number >= shapes().len();
        let mut rounds = Rounds::new(&shape);
        rounds.backwards = backwards;
        rounds.run();
        let sectors = rounds.world.array().array_sectors();
        let mut copy = vec![0; sectors as usize * 512];
        let mut draw = Lcg(u64::from(shape.layout) + 11);
        let all = rounds.write(1, 0, &copy);
        rounds.world.event(Event::Requests(vec![all]));
        rounds.run();
        for turn in 0..20 {
            let some = (0..12).map(|n| {
                let len = 1 + draw.below(24);
                let at = draw.below(sectors - len);
                let bytes = vec![draw.below(256) as u8; len as usize * 512];
                // Two writes of one sector at a time may land in either order.
                let range = at as usize * 512..(at + len) as usize * 512;
                (100 + turn * 12 + n, at, range, bytes)
            });
            let mut apart: Vec<(u64, u64, std::ops::Range<usize>, Vec<u8>)> = Vec::new();
            for one in some {
                let alone = |other: &(u64, u64, std::ops::Range<usize>, Vec<u8>)| {
                    one.2.end <= other.2.start || other.2.end <= one.2.start
                };
                if apart.iter().all(alone) {
                    apart.push(one);
                }
            }
            let mut requests = Vec::new();
            for (id, at, range, bytes) in apart {
                copy[range].copy_from_slice(&bytes);
                requests.push(rounds.write(id, at, &bytes));
            }
            rounds.world.event(Event::Requests(requests));
            rounds.run();
        }
        assert!(rounds.answers.len() > 100, "every write was answered");
        assert!(rounds.answers.values().all(|ok| *ok), "and none failed");
        let name = format!("{:?} layout {}", shape.level, shape.layout);
        super::verify(&mut rounds.world, &copy);
        if shape.level.is_redundant() {
            assert_eq!(rounds.world.mismatch(), 0, "{name}");
        }
    }
}

/// Of what ends together some says that a member is gone. Nobody is answered, also not who heard of
/// nothing but success, before that stands on the others.
#[test]
fn a_failure_among_them_is_recorded_before_anybody_is_answered() {
    for backwards in [false, true] {
        let mut rounds = Rounds::new(&Shape {
            bitmap: false,
            ..Shape::mirror(2)
        });
        rounds.backwards = backwards;
        rounds.run();
        // The array is active: from here on writes go to members at once.
        let first = rounds.write(1, 0, &[1; 512]);
        rounds.world.event(Event::Requests(vec![first]));
        rounds.run();
        rounds.log.clear();
        rounds.broken = Some(MemberId(1));
        let some = [(2, 8), (3, 16)].map(|(id, at)| rounds.write(id, at, &[id as u8; 512]));
        rounds.world.event(Event::Requests(some.into()));
        rounds.run();
        let place = |what: &str| rounds.log.iter().position(|line| line == what);
        let recorded =
            place("Super of m0").unwrap_or_else(|| panic!("not recorded: {:?}", rounds.log));
        for id in [2, 3] {
            let answer = place(&format!("answer to {id}")).expect("it is answered");
            assert!(recorded < answer, "{:?}", rounds.log);
            assert!(rounds.answers[&id], "the other leg holds it");
        }
        assert_eq!(rounds.world.array().status().degraded, 1);
    }
}

/// What failed is heard of first: a band whose old data came in together with it does not write
/// before the failure is recorded.
#[test]
fn nobody_goes_on_who_does_not_know_of_a_failure_that_came_along() {
    let mut rounds = Rounds::new(&Shape {
        bitmap: false,
        ..Shape::parity(Level::Raid5, 4)
    });
    rounds.run();
    let first = rounds.write(1, 0, &[1; 512]);
    rounds.world.event(Event::Requests(vec![first]));
    rounds.run();
    let ios = |rounds: &mut Rounds| {
        let commands = rounds.world.take_commands();
        let ios = commands.into_iter().filter_map(|command| match command {
            Command::Io(io) => Some(io),
            _ => None,
        });
        ios.collect::<Vec<MemberIo>>()
    };
    // One band is being written, another one reads.
    let one = rounds.write(2, 8, &[2; 512]);
    rounds.world.event(Event::Requests(vec![one]));
    let reads = ios(&mut rounds);
    let read: Vec<Completion> = reads.into_iter().map(|io| rounds.carry_out(io)).collect();
    rounds.world.event(Event::Ended(read));
    let writes = ios(&mut rounds);
    let other = rounds.write(3, 1000, &[3; 512]);
    rounds.world.event(Event::Requests(vec![other]));
    let reads = ios(&mut rounds);
    assert!(reads.iter().all(|io| io.purpose == Purpose::Preread) && !reads.is_empty());
    assert!(writes.iter().any(|io| io.purpose == Purpose::Data));
    rounds.broken = Some(writes[0].member);
    let ended = reads.into_iter().chain(writes);
    let ended: Vec<Completion> = ended.map(|io| rounds.carry_out(io)).collect();
    assert!(ended.last().is_some_and(|done| done.result.is_ok()));
    rounds.world.event(Event::Ended(ended));
    let next = ios(&mut rounds);
    let wrong = next
        .iter()
        .find(|io| matches!(io.purpose, Purpose::Data | Purpose::Parity));
    assert!(wrong.is_none(), "{wrong:?}");
    let ended: Vec<Completion> = next.into_iter().map(|io| rounds.carry_out(io)).collect();
    rounds.world.event(Event::Ended(ended));
    rounds.run();
    assert!(rounds.answers[&2] && rounds.answers[&3]);
}

/// Ends of what was given up, and of what never was, are dropped among others.
#[test]
fn what_is_unknown_among_them_is_dropped() {
    let mut rounds = Rounds::new(&Shape {
        level: Level::Raid1,
        ..Shape::mirror(2)
    });
    rounds.run();
    let write = rounds.write(1, 0, &[1; 512]);
    rounds.world.event(Event::Requests(vec![write]));
    rounds.run();
    let write = rounds.write(2, 8, &[2; 512]);
    rounds.world.event(Event::Requests(vec![write]));
    let commands = rounds.world.take_commands();
    let ios = commands.into_iter().filter_map(|command| match command {
        Command::Io(io) => Some(io),
        _ => None,
    });
    let mut ended: Vec<Completion> = ios.map(|io| rounds.carry_out(io)).collect();
    assert!(!ended.is_empty());
    let unknown = Completion {
        io: IoId(u64::MAX),
        result: Ok(IoDone::Done),
    };
    let again = ended.iter().map(|done| Completion {
        io: done.io,
        result: Ok(IoDone::Done),
    });
    let again: Vec<Completion> = again.collect();
    ended.insert(0, unknown);
    ended.extend(again);
    rounds.world.event(Event::Ended(ended));
    rounds.run();
    assert_eq!(rounds.answers.get(&2), Some(&true));
}
