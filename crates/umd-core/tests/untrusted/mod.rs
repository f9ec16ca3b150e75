//! Sectors that cannot be read where parity may be wrong: what lies beside them can, and stays.

use umd_core::array::{Control, Options, SyncRequest};
use umd_core::assembly::Wish;
use umd_core::value::MemberId;
use umd_format::{Format, Level};

use crate::world::{Lcg, Shape, World, redundancy, shapes};

/// Arrays with parity, made of members full of rubbish: parity fits nowhere.
fn parity_shapes() -> Vec<Shape> {
    let parity = |shape: &Shape| {
        let level = shape.level;
        matches!(level, Level::Raid4 | Level::Raid5 | Level::Raid6)
    };
    shapes().into_iter().filter(parity).collect()
}

fn worlds() -> Vec<(Shape, World)> {
    let mut all = Vec::new();
    for shape in parity_shapes() {
        if shape.format == Format::V1_2 {
            let shape = Shape {
                bitmap: true,
                ..shape
            };
            let mut lockless = World::create_lockless(&shape);
            start(&mut lockless, false);
            all.push((shape, lockless));
        }
        let mut world = World::create(&shape);
        start(&mut world, false);
        // Before the first unit has read anything.
        let frozen = Control::Sync(SyncRequest::Frozen);
        world.control(frozen).expect("frozen");
        world.drain();
        all.push((shape, world));
    }
    all
}

fn start(world: &mut World, read_only: bool) {
    let options = Options {
        read_only,
        ..Options::default()
    };
    world.start(&Wish::default(), options).expect("started");
}

/// What the members hold, as an array that changes nothing reads it.
fn content(world: &World) -> Vec<u8> {
    let mut other = World::over(world.disks.clone());
    start(&mut other, true);
    let sectors = other.array().array_sectors();
    other.read(0, sectors as u32).expect("all can be read")
}

/// A few sectors of the first chunk of a member become unreadable, each on its own. How many.
fn damage(world: &mut World, member: MemberId, chunk: u64, rng: &mut Lcg) -> usize {
    let from = world.superblock(member.0).fields.data_offset_sectors;
    let disk = world.disks.get_mut(&member).expect("a disk");
    for _ in 0..1 + rng.below(3) {
        disk.bad.insert(from + rng.below(chunk));
    }
    disk.bad.len()
}

fn differing(a: &[u8], b: &[u8]) -> usize {
    assert_eq!(a.len(), b.len());
    let pairs = a.chunks(512).zip(b.chunks(512));
    pairs.filter(|(a, b)| a != b).count()
}

/// Sectors of data in the first row.
fn row(shape: &Shape) -> u64 {
    let parities = if redundancy(shape) == 2 { 2 } else { 1 };
    u64::from(shape.chunk_sectors) * u64::from(shape.disks - parities)
}

/// A write beside them computes no more of that member than what cannot be read: when it is lost
/// later, the rest is what it was.
#[test]
fn a_write_beside_them_keeps_what_can_be_read() {
    let mut looked = 0;
    for (n, (shape, mut world)) in worlds().into_iter().enumerate() {
        let mut rng = Lcg(n as u64);
        let chunk = u64::from(shape.chunk_sectors);
        let before = content(&world);
        let member = MemberId(rng.below(u64::from(shape.disks)) as u32);
        let bad = damage(&mut world, member, chunk, &mut rng);
        let mut wanted = before[..row(&shape) as usize * 512].to_vec();
        let new = vec![0x5a; chunk as usize * 512];
        world.write(0, &new).expect("written");
        wanted[..new.len()].copy_from_slice(&new);
        world.control(Control::Fail(member)).expect("failed");
        let read = world.read(0, row(&shape) as u32).expect("the others");
        let differ = differing(&read, &wanted);
        assert!(differ <= bad, "{:?}: {differ} of {bad}", shape.level);
        assert_eq!(&read[..new.len()], &new[..], "what was written");
        looked += 1;
    }
    assert!(looked > 50, "arrays of every kind");
}

/// Nor does a read, which makes the row agree, nor a resync; both leave parity right.
#[test]
fn whoever_makes_the_row_agree_keeps_what_can_be_read() {
    for resyncs in [false, true] {
        for (n, (shape, mut world)) in worlds().into_iter().enumerate() {
            let mut rng = Lcg(100 + n as u64);
            let sectors = row(&shape);
            let wanted = content(&world)[..sectors as usize * 512].to_vec();
            let member = MemberId(rng.below(u64::from(shape.disks)) as u32);
            let bad = damage(&mut world, member, shape.chunk_sectors.into(), &mut rng);
            if resyncs {
                let thaw = Control::Sync(SyncRequest::Idle);
                world.control(thaw).expect("thawed");
                world.pass(20);
            }
            let read = world.read(0, sectors as u32).expect("read");
            let differ = differing(&read, &wanted);
            assert!(differ <= bad, "{:?}: {differ} of {bad}", shape.level);
            assert!(world.disks[&member].bad.len() < bad || resyncs, "mended");
            world.control(Control::Fail(member)).expect("failed");
            assert_eq!(world.read(0, sectors as u32).expect("read"), read, "stays");
        }
    }
}

/// A read-only array changes nothing, and computes nothing it can read.
#[test]
fn a_read_only_array_reads_what_can_be_read() {
    for (n, (shape, mut world)) in worlds().into_iter().enumerate() {
        let mut rng = Lcg(200 + n as u64);
        let wanted = content(&world)[..row(&shape) as usize * 512].to_vec();
        let member = MemberId(rng.below(u64::from(shape.disks)) as u32);
        let bad = damage(&mut world, member, shape.chunk_sectors.into(), &mut rng);
        let mut other = World::over(world.disks.clone());
        start(&mut other, true);
        let read = other.read(0, row(&shape) as u32).expect("read");
        let differ = differing(&read, &wanted);
        assert!(differ <= bad, "{:?}: {differ} of {bad}", shape.level);
        assert_eq!(other.disks[&member].bad.len(), bad, "nothing was written");
    }
}
