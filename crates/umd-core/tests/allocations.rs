//! How often the engine asks for memory while it serves: a figure of performance that no busy
//! machine blurs. Members and doors are outside of what is counted.

mod world;

use std::collections::VecDeque;

use allocation_counter::measure;
use umd_core::array::{Command, Event, Request, RequestOp};
use umd_core::value::RequestId;
use umd_format::Level;
use world::{Lcg, Shape, World};

/// Requests before the counting begins, and while it goes on.
const WARM: u64 = 600;
const COUNTED: u64 = 1000;

#[derive(Clone, Copy, Debug)]
enum Load {
    Read,
    Write,
}

/// Allocations of `COUNTED` requests of 4 KiB at random places, eight at a time.
fn allocations(shape: &Shape, load: Load) -> u64 {
    let mut world = World::running(shape);
    let sectors = world.array().array_sectors();
    let data = world.pool.copy_of(&[0xa5; 4096]);
    let (mut draw, mut counted, mut next) = (Lcg(7), 0, 1_000_000_u64);
    let mut queue: VecDeque<Command> = world.take_commands();
    let mut out = Vec::with_capacity(256);
    let mut open = 0;
    while next < 1_000_000 + WARM + COUNTED || open > 0 {
        let counts = next >= 1_000_000 + WARM;
        let event = match queue.pop_front() {
            Some(Command::Io(io)) => Some(Event::Done(world.carry_out(io))),
            Some(Command::Complete { result, .. }) => {
                result.expect("served");
                open -= 1;
                None
            }
            Some(_) => None,
            None => {
                let offset_sectors = draw.below(sectors / 8) * 8;
                let op = match load {
                    Load::Read => RequestOp::Read {
                        offset_sectors,
                        len_sectors: 8,
                    },
                    Load::Write => RequestOp::Write {
                        offset_sectors,
                        data: data.clone(),
                        fua: false,
                    },
                };
                next += 1;
                open += 1;
                let id = RequestId(next);
                Some(Event::Request(Request { id, op }))
            }
        };
        if let Some(event) = event {
            let now = world.now;
            let array = world.array();
            let info = measure(|| array.handle(now, event, &mut out));
            counted += if counts { info.count_total } else { 0 };
            queue.extend(out.drain(..));
        }
    }
    counted
}

/// How many requests may pass for each allocation: lists that last still grow, once in a while.
const REQUESTS_EACH: u64 = 50;

/// Lists of a request (its pieces, its jobs, what was read for it) lie in the request itself, and
/// buffers are used again: nothing is asked for once the array has warmed up.
#[test]
fn serving_asks_for_no_memory() {
    for (name, level, layout, disks) in [
        ("raid0", Level::Raid0, 0, 3),
        ("raid1", Level::Raid1, 0, 2),
        ("raid10", Level::Raid10, 0x102, 4),
        ("raid5", Level::Raid5, 2, 4),
        ("raid6", Level::Raid6, 2, 5),
    ] {
        let shape = Shape {
            layout,
            bitmap: level.is_redundant(),
            chunk_sectors: if level == Level::Raid1 { 0 } else { 16 },
            ..Shape::parity(level, disks)
        };
        for load in [Load::Read, Load::Write] {
            let count = allocations(&shape, load);
            eprintln!("{name} {load:?}: {count} allocations for {COUNTED} requests");
            let most = COUNTED / REQUESTS_EACH;
            assert!(count <= most, "{name} {load:?}: {count} for {COUNTED}");
        }
    }
}
