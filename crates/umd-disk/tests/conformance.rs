//! The same suite over every engine.

mod common;

use std::fs::OpenOptions;
use std::time::Duration;

use common::{Dice, Kind, MEMBER, Rig, SIZE_BYTES, SIZE_SECTORS, pattern, write_op};
use umd_core::array::{Extent, IoDone, IoError, IoOp};
use umd_core::value::{IoId, MemberId, Slice};
use umd_disk::{Backend, Engine, MemberFile, Mode};

macro_rules! suite {
    ($($engine:ident = $kind:ident),* $(,)?) => {$(
        mod $engine {
            suite!(@tests $kind: reads_back, many_pieces, more_pieces_than_one_call_takes,
                pieces_at_odd_addresses, single_sectors, fua_and_flush, zeroes_read_back,
                zeroes_in_one_large_range, allocation_is_told, sixty_four_deep_against_a_model,
                thirty_two_mib_at_once, closes_with_io_in_flight, refuses_what_leaves_the_member,
                nothing_to_do_is_quiet, a_shrunk_file_is_gone, a_vanished_file_is_gone,
                deeper_than_any_queue, data_outlives_closing, dropped_with_io_in_flight,
                a_closed_member_is_held_by_nobody);
        }
    )*};
    (@tests $kind:ident: $($name:ident),*) => {$(
        #[test]
        fn $name() {
            if let Some(rig) = crate::common::Rig::new(crate::common::Kind::$kind) {
                super::$name(rig);
            }
        }
    )*};
}

suite! {
    ring = Ring,
    ring_tmpfs = RingTmpfs,
    auto_disk = AutoDisk,
    auto_tmpfs = AutoTmpfs,
    sync_disk = SyncDisk,
    threads = Threads,
    memory = Memory,
    memory_of_file = MemoryOfFile,
    overlay = Overlay,
    fault_cache = FaultCache,
}

fn reads_back(mut rig: Rig) {
    assert_eq!(rig.read(100, 9), vec![0; 9 * 512], "a fresh file is zeros");
    for (sector, len) in [(0, 8), (64, 128), (1000, 2048), (SIZE_SECTORS - 8, 8)] {
        let bytes = pattern(sector, len * 512);
        rig.write(sector, &bytes);
        assert_eq!(rig.read(sector, len as u64), bytes, "at {sector}");
    }
    assert_eq!(rig.read(64, 8), pattern(64, 4096));
    assert_eq!(rig.leftovers(), 0);
}

fn many_pieces(mut rig: Rig) {
    for count in [2, 3, 5, 40] {
        let pieces: Vec<Slice> = (0..count)
            .map(|i| rig.pool.copy_of(&pattern(i, (1 + i as usize % 3) * 512)))
            .collect();
        let whole: Vec<u8> = pieces.iter().flat_map(|p| p.as_slice().to_vec()).collect();
        rig.write_pieces(8 * count, pieces, false);
        assert_eq!(rig.read(8 * count, whole.len() as u64 / 512), whole);
    }
}

fn more_pieces_than_one_call_takes(mut rig: Rig) {
    let bytes = pattern(7, 2500 * 512);
    let buf = rig.pool.copy_of(&bytes);
    let pieces = (0..2500).map(|i| buf.sub(i * 512..(i + 1) * 512)).collect();
    rig.write_pieces(11, pieces, false);
    assert_eq!(rig.read(11, 2500), bytes);
    assert_eq!(rig.read(10, 1), vec![0; 512]);
    assert_eq!(rig.read(2511, 1), vec![0; 512]);
}

fn pieces_at_odd_addresses(mut rig: Rig) {
    let buf = rig.pool.copy_of(&pattern(1, 3 << 20));
    let odd = |start: usize, len: usize| buf.sub(start..start + len);
    rig.write_pieces(0, vec![odd(3, 512)], false);
    assert_eq!(rig.read(0, 1), odd(3, 512).as_slice());
    let mixed = vec![odd(512, 4096), odd(1, 1024), odd(4096, 512), odd(513, 512)];
    let whole: Vec<u8> = mixed.iter().flat_map(|p| p.as_slice().to_vec()).collect();
    rig.write_pieces(100, mixed, true);
    assert_eq!(rig.read(100, whole.len() as u64 / 512), whole);
    // Longer than what is copied at a time.
    rig.write_pieces(1000, vec![odd(77, 5 << 19)], false);
    assert_eq!(rig.read(1000, 5 << 10), odd(77, 5 << 19).as_slice());
}

fn single_sectors(mut rig: Rig) {
    for sector in (0..24).chain([SIZE_SECTORS - 1]) {
        rig.write(sector, &pattern(sector, 512));
    }
    for sector in (0..24).chain([SIZE_SECTORS - 1]) {
        assert_eq!(rig.read(sector, 1), pattern(sector, 512), "sector {sector}");
    }
    // Alone in the middle of a block.
    rig.write(1003, &pattern(5, 512));
    let mut block = vec![0; 8 * 512];
    block[3 * 512..4 * 512].copy_from_slice(&pattern(5, 512));
    assert_eq!(rig.read(1000, 8), block);
}

fn fua_and_flush(mut rig: Rig) {
    let piece = rig.pool.copy_of(&pattern(1, 8192));
    rig.write_pieces(16, vec![piece.sub(0..512), piece.sub(512..8192)], true);
    if rig.kind != Kind::Overlay && rig.kind != Kind::Memory && rig.kind != Kind::MemoryOfFile {
        assert_eq!(rig.file_bytes(16 * 512, 8192), pattern(1, 8192));
    }
    rig.write(200, &pattern(2, 4096));
    rig.flush();
    assert_eq!(rig.read(200, 8), pattern(2, 4096));
    if rig.kind.is_file() || rig.kind == Kind::FaultCache {
        assert_eq!(rig.file_bytes(200 * 512, 4096), pattern(2, 4096));
    } else if rig.kind != Kind::Memory {
        assert_eq!(rig.file_bytes(200 * 512, 4096), vec![0; 4096], "untouched");
    }
}

fn zeroes_read_back(mut rig: Rig) {
    let bytes = pattern(9, 64 * 512);
    for (round, (may_unmap, fua)) in [(true, false), (false, false), (true, true), (false, true)]
        .into_iter()
        .enumerate()
    {
        let base = 1024 * (1 + round as u64);
        for (start, len) in [(8, 16), (3, 1), (5, 30), (0, 64)] {
            rig.write(base, &bytes);
            let result = rig.run(IoOp::WriteZeroes {
                offset_sectors: base + start,
                len_sectors: len,
                may_unmap,
                fua,
            });
            assert!(matches!(result, Ok(IoDone::Done)), "{result:?}");
            let mut expected = bytes.clone();
            expected[start as usize * 512..(start + len) as usize * 512].fill(0);
            assert_eq!(
                rig.read(base, 64),
                expected,
                "{start}+{len} {may_unmap} {fua}"
            );
        }
    }
}

fn zeroes_in_one_large_range(mut rig: Rig) {
    rig.write(0, &pattern(1, 1 << 20));
    rig.write(SIZE_SECTORS - 8, &pattern(2, 4096));
    for may_unmap in [false, true] {
        let result = rig.run(IoOp::WriteZeroes {
            offset_sectors: 8,
            len_sectors: SIZE_SECTORS - 16,
            may_unmap,
            fua: false,
        });
        assert!(matches!(result, Ok(IoDone::Done)), "{result:?}");
    }
    assert_eq!(rig.read(0, 8), pattern(1, 4096));
    assert_eq!(rig.read(8, 2040), vec![0; 2040 * 512]);
    assert_eq!(rig.read(SIZE_SECTORS - 8, 8), pattern(2, 4096));
}

fn allocated(rig: &mut Rig, sector: u64, len: u64) -> Vec<Extent> {
    let result = rig.run(IoOp::Allocation {
        offset_sectors: sector,
        len_sectors: len,
    });
    match result {
        Ok(IoDone::Extents(extents)) => extents,
        other => panic!("{other:?}"),
    }
}

fn allocation_is_told(mut rig: Rig) {
    const MIB: u64 = 2048;
    rig.write(4 * MIB, &pattern(1, 1 << 20));
    rig.flush();
    let extents = allocated(&mut rig, MIB, 10 * MIB);
    let total: u64 = extents.iter().map(|e| e.len_sectors).sum();
    assert!(total <= 10 * MIB && extents.iter().all(|e| e.len_sectors > 0));
    if rig.kind == Kind::MemoryOfFile {
        // A chunk that was not copied yet counts as data.
        assert!(extents.iter().all(|e| e.data));
        return;
    }
    assert_eq!(total, 10 * MIB);
    assert_eq!(extents.first().map(|e| e.data), Some(false), "{extents:?}");
    let (mut at, mut data) = (MIB, 0);
    for extent in &extents {
        let end = at + extent.len_sectors;
        if extent.data {
            data += extent.len_sectors;
        } else {
            assert!(
                end <= 4 * MIB || at >= 5 * MIB,
                "data in a hole: {extents:?}"
            );
        }
        at = end;
    }
    assert!((MIB..2 * MIB).contains(&data), "{extents:?}");
    let inside = allocated(&mut rig, 4 * MIB + 3, 5);
    let expected = Extent {
        len_sectors: 5,
        data: true,
    };
    assert_eq!(inside, [expected]);
}

/// Writes, reads, zeroes and flushes at random, 64 in flight, no two that overlap; each read is
/// compared with a model of what was there.
fn sixty_four_deep_against_a_model(mut rig: Rig) {
    const BLOCKS: u64 = 64;
    const BLOCK_SECTORS: u64 = 40;
    let mut model = vec![vec![0u8; BLOCK_SECTORS as usize * 512]; BLOCKS as usize];
    let mut dice = Dice(0x5eed);
    for round in 0..12 {
        let mut ios: Vec<(IoId, u64, u64, u64, u64)> = Vec::new();
        for block in 0..BLOCKS {
            let start = dice.below(BLOCK_SECTORS);
            let len = 1 + dice.below(BLOCK_SECTORS - start);
            let sector = block * BLOCK_SECTORS + start;
            let action = dice.below(8);
            let bytes = (start * 512) as usize..((start + len) * 512) as usize;
            let op = match action {
                0..=2 => rig.read_op(sector, len),
                3 => {
                    model[block as usize][bytes].fill(0);
                    IoOp::WriteZeroes {
                        offset_sectors: sector,
                        len_sectors: len,
                        may_unmap: dice.below(2) == 0,
                        fua: dice.below(4) == 0,
                    }
                }
                4 => IoOp::Flush,
                _ => {
                    let new = pattern(round * BLOCKS + block, bytes.len());
                    model[block as usize][bytes].copy_from_slice(&new);
                    let piece = rig.pool.copy_of(&new);
                    let cut = dice.below(len) as usize * 512;
                    let mut pieces = vec![piece.sub(0..cut), piece.sub(cut..new.len())];
                    pieces.retain(|p| !p.is_empty());
                    write_op(sector, pieces, dice.below(8) == 0)
                }
            };
            ios.push((rig.submit(op), action, block, start, len));
        }
        assert_eq!(rig.mux.in_flight(MEMBER), 64);
        let ids: Vec<IoId> = ios.iter().map(|io| io.0).collect();
        rig.settle(&ids);
        assert_eq!(rig.mux.in_flight(MEMBER), 0);
        for (io, action, block, start, len) in ios {
            let bytes = (start * 512) as usize..((start + len) * 512) as usize;
            match (action, rig.result(io)) {
                (0..=2, Ok(IoDone::Read(buf))) => {
                    assert_eq!(buf.as_slice(), &model[block as usize][bytes]);
                }
                (3.., Ok(IoDone::Done)) => {}
                (_, other) => panic!("{other:?}"),
            }
        }
    }
    for (block, expected) in model.iter().enumerate() {
        assert_eq!(
            &rig.read(block as u64 * BLOCK_SECTORS, BLOCK_SECTORS),
            expected
        );
    }
    assert_eq!(rig.leftovers(), 0);
}

fn thirty_two_mib_at_once(mut rig: Rig) {
    let bytes = pattern(32, 32 << 20);
    rig.write(9, &bytes);
    assert!(rig.read(9, 65536) == bytes, "32 MiB come back");
    assert_eq!(rig.read(8, 1), vec![0; 512]);
    assert_eq!(rig.read(9 + 65536, 1), vec![0; 512]);
}

fn deeper_than_any_queue(mut rig: Rig) {
    let ios: Vec<IoId> = (0..600)
        .map(|i| {
            let piece = rig.pool.copy_of(&pattern(i, 1024));
            rig.submit(write_op(i * 2, vec![piece], false))
        })
        .collect();
    rig.settle(&ios);
    for io in ios {
        assert!(matches!(rig.result(io), Ok(IoDone::Done)));
    }
    for i in 0..600 {
        assert_eq!(rig.read(i * 2, 2), pattern(i, 1024));
    }
}

fn closes_with_io_in_flight(mut rig: Rig) {
    let ios: Vec<IoId> = (0..64)
        .map(|i| {
            let piece = rig.pool.copy_of(&pattern(i, 65536));
            rig.submit(write_op(i * 128, vec![piece], false))
        })
        .collect();
    let _ = rig.mux.kick();
    rig.mux.close(MEMBER);
    assert!(!rig.mux.is_closed(MEMBER), "its I/O is not over");
    let late = rig.submit(IoOp::Flush);
    rig.settle(&[late]);
    assert!(matches!(rig.result(late), Err(IoError::Gone)));
    rig.settle(&ios);
    for io in ios {
        assert!(matches!(rig.result(io), Ok(IoDone::Done)));
    }
    assert!(rig.mux.is_closed(MEMBER));
    if rig.kind != Kind::Memory {
        MemberFile::open(&rig.path, Mode::ReadWrite, Engine::Auto).expect("the lock is free");
    }
    if rig.kind.is_file() || rig.kind == Kind::FaultCache {
        assert_eq!(rig.file_bytes(63 * 65536, 65536), pattern(63, 65536));
    }
}

/// What it lies on can be unmounted at once.
fn a_closed_member_is_held_by_nobody(mut rig: Rig) {
    for n in 0..50 {
        let ios: Vec<IoId> = (0..8)
            .map(|i| {
                rig.submit(write_op(
                    i * 8,
                    vec![rig.pool.copy_of(&pattern(n, 4096))],
                    false,
                ))
            })
            .collect();
        rig.settle(&ios);
        rig.mux.close(MEMBER);
        assert!(rig.mux.is_closed(MEMBER));
        let fds = std::fs::read_dir("/proc/self/fd").expect("our own descriptors");
        let ours =
            |fd: std::io::Result<std::fs::DirEntry>| std::fs::read_link(fd.ok()?.path()).ok();
        let held = fds.filter_map(ours).filter(|path| *path == rig.path);
        assert_eq!(held.count(), 0, "round {n}");
        if rig.kind == Kind::Memory {
            return;
        }
        rig.reopen();
    }
}

fn dropped_with_io_in_flight(mut rig: Rig) {
    rig.write(0, &pattern(99, 64 * 65536));
    let mut reads = Vec::new();
    for i in 0..64 {
        let piece = rig.pool.copy_of(&pattern(i, 65536));
        rig.submit(write_op(i * 128, vec![piece], false));
        let op = rig.read_op(i * 128, 128);
        reads.push(rig.submit(op));
    }
    let _ = rig.mux.kick();
    rig.mux = umd_disk::Mux::new().expect("backend");
    // What the kernel still writes to is not given to others.
    let quiet: Vec<Slice> = (0..64)
        .map(|_| rig.pool.take_zeroed(65536).freeze())
        .collect();
    if rig.kind == Kind::Memory {
        return;
    }
    let wait = Duration::from_secs(30);
    let engine = Engine::Auto;
    let file = MemberFile::open_waiting(&rig.path, Mode::ReadWrite, engine, wait);
    let file = file.expect("the lock is free when the I/O has ended");
    let zeros = vec![0; 65536];
    assert!(quiet.iter().all(|slice| slice.as_slice() == zeros));
    if rig.kind.is_file() {
        let old = pattern(99, 64 * 65536);
        for i in 0..64 {
            let found = file.read_at(i * 65536, 65536).expect("read");
            let new = pattern(i, 65536);
            let range = i as usize * 65536..(i as usize + 1) * 65536;
            assert!(found == new || found == old[range], "block {i}");
        }
    }
}

fn data_outlives_closing(mut rig: Rig) {
    rig.write(50, &pattern(1, 2048));
    rig.mux.close(MEMBER);
    if rig.kind == Kind::Memory {
        return;
    }
    rig.reopen();
    let expected = match rig.kind {
        Kind::MemoryOfFile => vec![0; 2048],
        // Not flushed: an overlay may forget it when its process ends, but not its zeros.
        Kind::Overlay => rig.read(50, 4),
        _ => pattern(1, 2048),
    };
    assert_eq!(rig.read(50, 4), expected);
    rig.write(50, &pattern(2, 2048));
    rig.flush();
    rig.mux.close(MEMBER);
    rig.reopen();
    let expected = match rig.kind {
        Kind::MemoryOfFile => vec![0; 2048],
        _ => pattern(2, 2048),
    };
    assert_eq!(rig.read(50, 4), expected);
}

fn refuses_what_leaves_the_member(mut rig: Rig) {
    let ops = |rig: &Rig, sector: u64| {
        let piece = rig.pool.copy_of(&[1; 1024]);
        [
            rig.read_op(sector, 2),
            write_op(sector, vec![piece], false),
            IoOp::WriteZeroes {
                offset_sectors: sector,
                len_sectors: 2,
                may_unmap: true,
                fua: false,
            },
            IoOp::Allocation {
                offset_sectors: sector,
                len_sectors: 2,
            },
        ]
    };
    for sector in [SIZE_SECTORS - 1, SIZE_SECTORS, u64::MAX - 1] {
        for op in ops(&rig, sector) {
            let result = rig.run(op);
            assert!(matches!(result, Err(IoError::Other(_))), "{result:?}");
        }
    }
    for op in ops(&rig, SIZE_SECTORS - 2) {
        rig.run(op).expect("the last sectors are inside");
    }
    if rig.kind != Kind::Memory {
        let len = std::fs::metadata(&rig.path).expect("file").len();
        assert_eq!(len, SIZE_BYTES, "it never grows");
    }
    for op in ops(&rig, 0) {
        let io = rig.submit_to(MemberId(77), op);
        rig.settle(&[io]);
        assert!(matches!(rig.result(io), Err(IoError::Gone)));
    }
}

fn nothing_to_do_is_quiet(mut rig: Rig) {
    rig.write(0, &pattern(1, 4096));
    let mut out = Vec::new();
    for _ in 0..3 {
        assert!(!rig.mux.kick());
        rig.mux.reap(&mut out);
        assert!(out.is_empty());
    }
    assert_eq!(rig.mux.check_member(MEMBER), Ok(()));
    assert_eq!(rig.mux.check_member(MemberId(0)), Err(IoError::Gone));
    assert_eq!(rig.mux.in_flight(MemberId(0)), 0);
    rig.mux.close(MemberId(0));
}

fn a_shrunk_file_is_gone(mut rig: Rig) {
    if !rig.kind.is_file() {
        return;
    }
    rig.write(0, &pattern(1, 65536));
    let file = OpenOptions::new()
        .write(true)
        .open(&rig.path)
        .expect("file");
    // Not even a whole sector is left of the last block.
    file.set_len(32768 + 100).expect("truncate");
    assert_eq!(rig.mux.check_member(MEMBER), Err(IoError::Gone));
    assert_eq!(rig.read(0, 64), pattern(1, 65536)[..32768]);
    for (sector, len) in [(60, 16), (64, 1), (100, 8), (SIZE_SECTORS - 1, 1)] {
        let op = rig.read_op(sector, len);
        let result = rig.run(op);
        assert!(matches!(result, Err(IoError::Gone)), "{sector}: {result:?}");
    }
    let result = rig.run(IoOp::Flush);
    assert!(matches!(result, Err(IoError::Gone)), "{result:?}");
    let result = rig.run(IoOp::Allocation {
        offset_sectors: 0,
        len_sectors: 100,
    });
    assert!(matches!(result, Err(IoError::Gone)), "{result:?}");
}

fn a_vanished_file_is_gone(mut rig: Rig) {
    if rig.kind == Kind::Memory {
        return;
    }
    let away = rig.path.with_extension("away");
    assert_eq!(rig.mux.check_member(MEMBER), Ok(()));
    std::fs::rename(&rig.path, &away).expect("rename");
    assert_eq!(rig.mux.check_member(MEMBER), Err(IoError::Gone), "renamed");
    common::make_file(&rig.path, SIZE_BYTES);
    assert_eq!(rig.mux.check_member(MEMBER), Err(IoError::Gone), "replaced");
    std::fs::rename(&away, &rig.path).expect("rename");
    assert_eq!(rig.mux.check_member(MEMBER), Ok(()), "back again");
    std::fs::remove_file(&rig.path).expect("remove");
    assert_eq!(rig.mux.check_member(MEMBER), Err(IoError::Gone), "deleted");
    if rig.kind.is_file() {
        let result = rig.run(IoOp::Flush);
        assert!(matches!(result, Err(IoError::Gone)), "{result:?}");
    }
}
