use umd_core::value::Pool;

use super::*;
use crate::rng::Stream;

const LATENCY: Latency = Latency {
    read_ns: 1000,
    write_ns: 1000,
    flush_ns: 1000,
    spike_permille: 0,
    spike_factor: 1,
};

struct Bench {
    disk: SimDisk,
    tag: u64,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let disk = SimDisk::new(256, LATENCY, Rng::new(seed, Stream::Disk(0)));
        Bench { disk, tag: 0 }
    }

    fn start(&mut self, op: IoOp) -> u64 {
        self.tag += 1;
        self.disk.submit(Instant(0), self.tag, Purpose::Data, op);
        self.tag
    }

    fn write_op(offset_sectors: u64, len: usize, value: u8, fua: bool) -> IoOp {
        let piece = Pool::new().copy_of(&vec![value; len * SECTOR]);
        // Half in one piece, half in another where it can be cut.
        let half = len / 2 * SECTOR;
        let (head, tail) = (piece.sub(0..half), piece.sub(half..piece.len()));
        let data = [head, tail].into_iter().filter(|p| !p.is_empty()).collect();
        IoOp::Write {
            offset_sectors,
            data,
            fua,
        }
    }

    fn write(&mut self, offset: u64, len: usize, value: u8, fua: bool) {
        let tag = self.start(Bench::write_op(offset, len, value, fua));
        self.disk.finish(tag).expect("in flight").expect("well");
    }

    fn flush(&mut self) {
        let tag = self.start(IoOp::Flush);
        self.disk.finish(tag).expect("in flight").expect("well");
    }

    fn read(&mut self, offset_sectors: u64, len: usize) -> Result<Vec<u8>, IoError> {
        let buf = Pool::new().take(len * SECTOR);
        let tag = self.start(IoOp::Read {
            offset_sectors,
            buf,
        });
        match self.disk.finish(tag).expect("in flight")? {
            IoDone::Read(buf) => Ok(buf.as_slice().to_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn at(&self, sector: u64) -> u8 {
        self.disk.durable().sector(sector)[0]
    }
}

#[test]
fn a_completed_write_is_volatile_until_flushed() {
    let mut bench = Bench::new(1);
    bench.write(8, 8, 1, false);
    assert_eq!(bench.read(8, 8).expect("read"), vec![1; 8 * SECTOR]);
    assert_eq!(bench.at(8), 0);
    bench.disk.cut(Cut::None);
    assert_eq!(bench.read(8, 1).expect("read")[0], 0);
    bench.write(8, 8, 2, false);
    bench.flush();
    assert_eq!(bench.at(15), 2);
    bench.disk.cut(Cut::None);
    assert_eq!(bench.read(8, 8).expect("read"), vec![2; 8 * SECTOR]);
}

#[test]
fn fua_is_durable_alone_and_never_overtaken_by_older_writes() {
    for seed in 0..50 {
        let mut bench = Bench::new(seed);
        bench.write(8, 1, 1, false);
        bench.write(9, 1, 1, false);
        bench.write(8, 1, 2, true);
        assert_eq!((bench.at(8), bench.at(9)), (2, 0));
        bench.disk.cut(Cut::Sectors(500));
        assert_eq!(bench.at(8), 2);
    }
}

#[test]
fn a_flush_covers_what_was_complete_when_it_was_issued() {
    let mut bench = Bench::new(3);
    bench.write(0, 1, 1, false);
    let flying = bench.start(Bench::write_op(1, 1, 1, false));
    let flush = bench.start(IoOp::Flush);
    bench.disk.finish(flying).expect("in flight").expect("well");
    bench.write(0, 1, 2, false);
    bench.disk.finish(flush).expect("in flight").expect("well");
    assert_eq!((bench.at(0), bench.at(1)), (1, 0));
    assert_eq!(bench.read(0, 1).expect("read")[0], 2);
}

#[test]
fn power_cuts_keep_any_version_but_tear_and_lose_too() {
    let (mut seen, mut torn) = (BTreeSet::new(), false);
    for seed in 0..200 {
        let mut bench = Bench::new(seed);
        for value in 1..=3 {
            bench.write(16, 4, value, false);
        }
        bench.start(Bench::write_op(16, 4, 4, false));
        bench.disk.cut(Cut::Sectors(400));
        let values: Vec<u8> = (16..20).map(|s| bench.at(s)).collect();
        torn |= values.windows(2).any(|pair| pair[0] != pair[1]);
        seen.extend(values);
        assert_eq!(bench.disk.in_flight(), 0);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), vec![0, 1, 2, 3, 4]);
    assert!(torn);
}

#[test]
fn whole_writes_and_prefixes_survive_as_asked() {
    let mut counts = [0; 2];
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        bench.write(0, 4, 1, false);
        bench.write(4, 4, 1, false);
        bench.disk.cut(if seed % 2 == 0 {
            Cut::Writes(500)
        } else {
            Cut::Prefix
        });
        let values: Vec<u8> = (0..8).map(|s| bench.at(s)).collect();
        assert!(values[..4].iter().all(|v| *v == values[0]), "{values:?}");
        assert!(values[4..].iter().all(|v| *v == values[4]), "{values:?}");
        if seed % 2 == 1 {
            assert!(values[0] >= values[4], "not a prefix: {values:?}");
        }
        counts[usize::from(values[4])] += 1;
    }
    assert!(counts[1] > 5 && counts[0] > 40, "{counts:?}");
}

#[test]
fn a_failed_flush_forgets() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut bench = Bench::new(seed);
        bench.write(8, 1, 1, false);
        bench.disk.arm(Armed::FlushError);
        let tag = bench.start(IoOp::Flush);
        bench
            .disk
            .finish(tag)
            .expect("in flight")
            .expect_err("fails");
        lost += u32::from(bench.read(8, 1).expect("read")[0] == 0);
        bench.flush();
        assert!(bench.disk.cache().is_empty());
    }
    assert!(lost > 8, "{lost}");
}

#[test]
fn a_write_error_strikes_once_and_leaves_anything() {
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let mut bench = Bench::new(seed);
        bench.disk.arm(Armed::WriteError);
        let tag = bench.start(Bench::write_op(8, 2, 1, true));
        let error = bench.disk.finish(tag).expect("in flight");
        assert_eq!(error.expect_err("armed"), IoError::Media);
        seen.insert(
            bench
                .read(8, 2)
                .expect("read")
                .iter()
                .step_by(SECTOR)
                .copied()
                .sum::<u8>(),
        );
        bench.write(8, 2, 2, false);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), vec![0, 1, 2]);
}

#[test]
fn damaged_sectors_are_cured_by_writing() {
    let mut bench = Bench::new(1);
    bench.disk.damage(10, 4);
    assert_eq!(bench.read(8, 8), Err(IoError::Media));
    assert!(bench.read(8, 2).is_ok());
    bench.write(10, 4, 1, false);
    assert!(bench.read(8, 8).is_ok());
}

#[test]
fn a_gone_disk_fails_everything_and_a_silent_one_nothing() {
    let mut bench = Bench::new(1);
    let tag = bench.start(Bench::write_op(8, 2, 1, false));
    assert_eq!(bench.disk.vanish(Instant(5)).len(), 1);
    let end = bench.disk.finish(tag).expect("ends");
    assert_eq!(end.expect_err("gone"), IoError::Gone);
    assert_eq!(bench.read(0, 1), Err(IoError::Gone));

    let mut bench = Bench::new(1);
    bench.disk.silence();
    bench.tag += 1;
    let due = bench
        .disk
        .submit(Instant(0), bench.tag, Purpose::Data, IoOp::Flush);
    assert_eq!((due, bench.disk.finish(bench.tag).is_none()), (None, true));
}

#[test]
fn a_killed_process_leaves_its_writes_to_the_cache() {
    let mut landed = [0; 2];
    for seed in 0..60 {
        let mut bench = Bench::new(seed);
        bench.write(0, 1, 1, false);
        bench.start(Bench::write_op(1, 1, 1, false));
        bench.disk.abandon();
        assert_eq!(bench.read(0, 1).expect("read")[0], 1);
        landed[usize::from(bench.read(1, 1).expect("read")[0])] += 1;
        bench.disk.cut(Cut::None);
        assert_eq!(bench.at(0), 0);
    }
    assert!(landed[0] > 1 && landed[1] > 30, "{landed:?}");
}

#[test]
fn reads_overlapping_a_write_see_either_side() {
    let mut seen = BTreeSet::new();
    for seed in 0..80 {
        let mut bench = Bench::new(seed);
        let write = bench.start(Bench::write_op(0, 1, 1, false));
        seen.insert(bench.read(0, 1).expect("read")[0]);
        bench.disk.finish(write).expect("in flight").expect("well");
        assert_eq!(bench.read(0, 1).expect("read")[0], 1);
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn holes_are_reported_by_pages() {
    let mut bench = Bench::new(1);
    bench.write(16, 1, 1, true);
    bench.write(24, 8, 0, false);
    let tag = bench.start(IoOp::Allocation {
        offset_sectors: 4,
        len_sectors: 44,
    });
    let Ok(IoDone::Extents(extents)) = bench.disk.finish(tag).expect("in flight") else {
        panic!("no extents");
    };
    let runs: Vec<_> = extents.iter().map(|e| (e.len_sectors, e.data)).collect();
    assert_eq!(runs, vec![(12, false), (16, true), (16, false)]);
}

#[test]
#[should_panic(expected = "leaves the disk")]
fn a_write_past_the_end_is_a_bug() {
    Bench::new(1).start(Bench::write_op(255, 2, 1, false));
}

#[test]
fn emulated_fua_takes_everything_that_was_done_along() {
    for emulated in [false, true] {
        let mut bench = Bench::new(3);
        if emulated {
            bench.disk.emulate_fua();
        }
        bench.write(8, 8, 1, false);
        bench.write(64, 1, 2, true);
        bench.disk.cut(Cut::None);
        assert_eq!(bench.read(64, 1).expect("readable")[0], 2);
        let kept = bench.read(8, 1).expect("readable")[0];
        assert_eq!(kept, u8::from(emulated));
    }
}

#[test]
fn a_lost_write_is_reported_done_and_changes_nothing() {
    let mut bench = Bench::new(4);
    bench.write(8, 8, 1, false);
    bench.disk.arm(Armed::LostWrite);
    bench.write(8, 8, 2, true);
    assert_eq!(bench.read(8, 8).expect("readable"), vec![1; 8 * SECTOR]);
    assert_eq!(bench.disk.take_lies().first(), Some(&(8..16)));
    bench.write(8, 8, 3, false);
    assert_eq!(bench.read(8, 8).expect("readable"), vec![3; 8 * SECTOR]);
    assert!(bench.disk.take_lies().is_empty());
}

#[test]
fn a_misdirected_write_lands_behind_its_place() {
    let mut bench = Bench::new(5);
    bench.write(8, 32, 1, false);
    bench.disk.arm(Armed::Misdirected(24));
    bench.write(8, 8, 2, false);
    assert_eq!(bench.read(8, 24).expect("readable"), vec![1; 24 * SECTOR]);
    assert_eq!(bench.read(32, 8).expect("readable"), vec![2; 8 * SECTOR]);
    assert_eq!(bench.disk.take_lies(), [8..16, 32..40]);
}

#[test]
fn a_disk_that_lost_its_last_sector_keeps_the_rest() {
    let mut bench = Bench::new(6);
    bench.write(240, 16, 7, true);
    bench.disk.cut(Cut::All);
    bench.disk.shorten();
    assert_eq!(bench.disk.sectors(), 255);
    assert_eq!(bench.read(240, 15).expect("readable"), vec![7; 15 * SECTOR]);
    assert!(bench.read(240, 16).is_err());
}

#[test]
fn metadata_is_torn_in_the_middle_of_a_sector_and_only_when_told() {
    for shreds in [false, true] {
        let mut torn = 0;
        for seed in 0..50 {
            let mut bench = Bench::new(seed);
            bench.write(8, 8, 1, true);
            let op = Bench::write_op(8, 8, 2, true);
            bench.disk.submit(Instant(0), 99, Purpose::Super, op);
            if shreds {
                bench.disk.shred_next_cut();
            }
            bench.disk.cut(Cut::Writes(500));
            let held = bench.read(8, 8).expect("readable");
            let new = held.iter().take_while(|byte| **byte == 2).count();
            let old = &held[new..];
            assert!(old.iter().all(|byte| *byte == 1), "first new, then old");
            assert_eq!(new % 8, 0, "words are not torn");
            torn += u32::from(new % SECTOR != 0);
        }
        assert_eq!(torn > 30, shreds, "{torn} were torn within a sector");
    }
}
