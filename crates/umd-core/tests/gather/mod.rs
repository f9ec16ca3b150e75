//! Streams of small writes become whole rows.

use umd_core::array::{Event, Options, Request, RequestOp};
use umd_core::assembly::Wish;
use umd_core::value::RequestId;
use umd_format::Level;

use crate::world::{Lcg, Shape, World, shapes};
use crate::{scribble, verify, whole};

fn started(level: Level, disks: u16) -> World {
    let mut world = World::create(&Shape::parity(level, disks));
    let wish = Wish::default();
    world.start(&wish, Options::default()).expect("started");
    world
}

fn write(world: &World, at: u64, sectors: u64) -> RequestOp {
    RequestOp::Write {
        offset_sectors: at,
        data: world.pool.copy_of(&vec![at as u8; sectors as usize * 512]),
        fua: false,
    }
}

fn reads(world: &World) -> u64 {
    world.disks.values().map(|disk| disk.reads).sum()
}

#[test]
fn eight_writes_in_flight_read_nothing_once_the_stream_is_known() {
    for (level, disks, columns) in [(Level::Raid5, 3, 2), (Level::Raid6, 6, 4)] {
        let mut world = started(level, disks);
        world.write(0, &[1; 16 * 512]).expect("the stream begins");
        let before = reads(&world);
        let pieces: Vec<u64> = (1..3 * columns).map(|n| n * 16).collect();
        let ids: Vec<u64> = pieces
            .iter()
            .map(|at| {
                let op = write(&world, *at, 16);
                world.submit(op)
            })
            .collect();
        for id in ids {
            world.reply(id).expect("written");
        }
        // The rest of the first row, whose beginning had been answered before.
        let first_row = reads(&world) - before;
        assert!(first_row > 0, "{level:?}: that row was not whole");
        assert!(
            first_row <= (columns - 1) * 3,
            "{level:?}: {first_row} reads"
        );
        for at in pieces {
            let read = world.read(at, 16).expect("read");
            assert!(read.iter().all(|byte| *byte == at as u8));
        }
    }
}

#[test]
fn what_comes_together_is_one_row() {
    let mut world = started(Level::Raid5, 4);
    world.write(16, &[1; 32 * 512]).expect("the stream begins");
    let before = reads(&world);
    let ops: Vec<RequestOp> = [48, 64, 80].map(|at| write(&world, at, 16)).into();
    let requests = ops.into_iter().zip(1000..);
    let requests = requests.map(|(op, id)| Request {
        id: RequestId(id),
        op,
    });
    world.event(Event::Requests(requests.collect()));
    for id in 1000..1003 {
        world.reply(id).expect("written");
    }
    assert_eq!(reads(&world), before, "no old data was read");
}

/// One write at a time: nothing else is under way, so nothing waits.
#[test]
fn a_stream_with_one_write_in_flight_does_not_wait_for_itself() {
    let mut world = started(Level::Raid6, 5);
    for n in 0..40 {
        world.write(n * 8, &[n as u8; 8 * 512]).expect("written");
    }
}

#[test]
fn streams_and_everything_else_at_once_leave_what_was_written() {
    for shape in shapes().iter().filter(|s| s.level.is_parity()) {
        let mut world = World::create(shape);
        let wish = Wish::default();
        world.start(&wish, Options::default()).expect("started");
        world.drain();
        let mut copy = whole(&mut world);
        let mut rng = Lcg(u64::from(shape.layout) + 1);
        let sectors = copy.len() as u64 / 512;
        for round in 0..6_u8 {
            let len = 1 + rng.below(u64::from(shape.chunk_sectors) * 2);
            let mut at = rng.below(sectors / 2);
            let mut ids = Vec::new();
            for n in 0..16_u8 {
                let bytes = vec![round << 4 | n; len as usize * 512];
                copy[at as usize * 512..(at + len) as usize * 512].copy_from_slice(&bytes);
                let data = world.pool.copy_of(&bytes);
                ids.push(world.submit(RequestOp::Write {
                    offset_sectors: at,
                    data,
                    fua: n == 7,
                }));
                at += len;
                if at + len > sectors {
                    break;
                }
            }
            for id in ids {
                world.reply(id).expect("written");
            }
            scribble(&mut world, &mut copy, &mut rng, 3);
        }
        verify(&mut world, &copy);
        assert_eq!(world.mismatch(), 0, "{:?} {:#x}", shape.level, shape.layout);
    }
}
