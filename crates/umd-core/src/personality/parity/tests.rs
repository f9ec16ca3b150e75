use super::*;
use crate::geometry::Raid456;
use umd_format::Level;

const LEN: usize = 96;

fn levels() -> Vec<Raid456> {
    let mut all = Vec::new();
    for layout in 0..=5 {
        all.push(Raid456::new(Level::Raid5, layout, 4, 8, 800).expect("map"));
    }
    for layout in [0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20] {
        all.push(Raid456::new(Level::Raid6, layout, 6, 8, 800).expect("map"));
    }
    all.push(Raid456::new(Level::Raid5, 2, 2, 8, 800).expect("map"));
    all
}

/// A consistent row: bytes by slot.
fn consistent(map: &Raid456, row: &Row, seed: u8) -> Vec<Vec<u8>> {
    let mut slots = vec![vec![0u8; LEN]; usize::from(map.raid_disks())];
    for (i, slot) in row.data.iter().enumerate() {
        for (j, byte) in slots[usize::from(*slot)].iter_mut().enumerate() {
            *byte = seed.wrapping_mul(31).wrapping_add((i * 7 + j * 13) as u8);
        }
    }
    refresh_parity(row, &mut slots);
    slots
}

fn refresh_parity(row: &Row, slots: &mut [Vec<u8>]) {
    let (mut p, mut q) = (vec![0; LEN], vec![0; LEN]);
    let data = slots.to_vec();
    parity_of(
        row,
        |s| data[usize::from(s)].as_slice(),
        Some(&mut p),
        row.q.is_some().then_some(&mut q[..]),
    );
    slots[usize::from(row.p)] = p;
    if let Some(slot) = row.q {
        slots[usize::from(slot)] = q;
    }
}

/// All ways to lose up to `max` of `n` slots.
fn losses(n: u16, max: u16) -> Vec<Vec<u16>> {
    let mut all = vec![vec![]];
    for a in 0..n {
        all.push(vec![a]);
        for b in a + 1..n {
            if max > 1 {
                all.push(vec![a, b]);
            }
        }
    }
    all
}

/// Writes a band by the plan and returns what is on the slots afterwards.
fn write(
    row: &Row,
    slots: &[Vec<u8>],
    access: &[Access],
    touched: &[bool],
    trusted: bool,
) -> Vec<Vec<u8>> {
    let pool = Pool::new();
    let plan = plan_write(row, access, |index| touched[index], trusted).expect("within redundancy");
    let mut after = slots.to_vec();
    let new: Vec<Option<Slice>> = touched
        .iter()
        .enumerate()
        .map(|(i, t)| t.then(|| pool.copy_of(&[0xa0 + i as u8; LEN])))
        .collect();
    let mut old: Vec<Option<Buf>> = slots.iter().map(|_| None).collect();
    for slot in &plan.reads {
        assert_eq!(
            access[usize::from(*slot)],
            Access::Usable,
            "read what must not be read"
        );
        let mut buf = pool.take(LEN);
        buf.as_mut_slice()
            .copy_from_slice(&slots[usize::from(*slot)]);
        old[usize::from(*slot)] = Some(buf);
    }
    let band = Band {
        row,
        access,
        new: &new,
        old: &mut old,
        len_bytes: LEN,
        pool: &pool,
    };
    for write in compute_write(plan.kind, band) {
        assert_ne!(
            access[usize::from(write.slot)],
            Access::Lost,
            "wrote to a lost slot"
        );
        after[usize::from(write.slot)] = write.bytes.as_slice().to_vec();
    }
    after
}

/// After any write with any tolerable loss, the lost columns come back with the right content.
#[test]
fn every_write_with_every_loss_stays_recoverable() {
    for map in levels() {
        for s in 0..u64::from(map.raid_disks()) {
            let row = map.row(s);
            for lost in losses(map.raid_disks(), map.parities()) {
                for mask in 1..1u32 << map.data_disks() {
                    one_case(&map, &row, &lost, mask);
                }
            }
        }
    }
}

fn one_case(map: &Raid456, row: &Row, lost: &[u16], mask: u32) {
    let slots = consistent(map, row, 3);
    let touched: Vec<bool> = (0..row.data.len()).map(|i| mask >> i & 1 == 1).collect();
    let mut access = vec![Access::Usable; slots.len()];
    let mut before = slots.clone();
    for slot in lost {
        access[usize::from(*slot)] = Access::Lost;
        before[usize::from(*slot)] = vec![0xee; LEN];
    }
    let mut expected = slots;
    for (i, slot) in row.data.iter().enumerate() {
        if touched[i] {
            expected[usize::from(*slot)] = vec![0xa0 + i as u8; LEN];
        }
    }
    refresh_parity(row, &mut expected);
    for trusted in [true, false] {
        let after = write(row, &before, &access, &touched, trusted);
        let column: Vec<Option<&[u8]>> = (0..after.len())
            .map(|s| (!lost.contains(&(s as u16))).then(|| after[s].as_slice()))
            .collect();
        let mut outs: Vec<(u16, Vec<u8>)> = lost.iter().map(|s| (*s, vec![0; LEN])).collect();
        let mut wanted: Vec<(u16, &mut [u8])> = outs
            .iter_mut()
            .map(|(s, v)| (*s, v.as_mut_slice()))
            .collect();
        rebuild(row, &column, &mut wanted);
        for (slot, bytes) in outs {
            assert_eq!(
                bytes,
                expected[usize::from(slot)],
                "slot {slot} {row:?} {mask:b}"
            );
        }
        for slot in (0..after.len()).filter(|s| !lost.contains(&(*s as u16))) {
            assert_eq!(after[slot], expected[slot], "slot {slot} {row:?} {mask:b}");
        }
    }
}

/// A column under rebuild takes writes and is never read; afterwards it is right where written.
#[test]
fn write_only_columns_are_written_and_not_read() {
    for map in levels() {
        let row = map.row(1);
        for slot in 0..map.raid_disks() {
            let slots = consistent(&map, &row, 9);
            let mut access = vec![Access::Usable; slots.len()];
            access[usize::from(slot)] = Access::WriteOnly;
            let mut stale = slots.clone();
            stale[usize::from(slot)] = vec![0xcc; LEN];
            for i in 0..row.data.len() {
                let touched: Vec<bool> = (0..row.data.len()).map(|j| i == j).collect();
                let after = write(&row, &stale, &access, &touched, true);
                let mut expected = slots.clone();
                expected[usize::from(row.data[i])] = vec![0xa0 + i as u8; LEN];
                refresh_parity(&row, &mut expected);
                let rewritten = row.data[i] == slot || row.index_of(slot).is_none();
                if rewritten {
                    assert_eq!(after[usize::from(slot)], expected[usize::from(slot)]);
                }
            }
        }
    }
}

#[test]
fn reads_of_every_lost_column_are_planned() {
    for map in levels() {
        let row = map.row(2);
        for lost in losses(map.raid_disks(), map.parities()) {
            let slots = consistent(&map, &row, 5);
            let mut access = vec![Access::Usable; slots.len()];
            lost.iter()
                .for_each(|s| access[usize::from(*s)] = Access::Lost);
            for wanted in lost.iter().filter(|s| row.index_of(**s).is_some()) {
                let reads = plan_reconstruct(&row, &access, *wanted).expect("recoverable");
                assert!(reads.iter().all(|s| !lost.contains(s)));
                let column: Vec<Option<&[u8]>> = (0..slots.len())
                    .map(|s| reads.contains(&(s as u16)).then(|| slots[s].as_slice()))
                    .collect();
                let mut out = vec![0; LEN];
                rebuild(&row, &column, &mut [(*wanted, &mut out)]);
                assert_eq!(out, slots[usize::from(*wanted)]);
            }
        }
    }
}

#[test]
fn too_many_losses_have_no_plan() {
    let map = Raid456::new(Level::Raid5, 2, 4, 8, 800).expect("map");
    let row = map.row(0);
    let mut access = vec![Access::Usable; 4];
    access[0] = Access::Lost;
    access[1] = Access::Lost;
    assert_eq!(plan_write(&row, &access, |index| index == 0, true), None);
    assert_eq!(plan_reconstruct(&row, &access, 0), None);
}

#[test]
fn the_cheaper_way_is_taken() {
    let map = Raid456::new(Level::Raid5, 5, 6, 8, 800).expect("map");
    let row = map.row(0);
    let access = vec![Access::Usable; 6];
    let plan = |touched: [bool; 5], trusted| {
        plan_write(&row, &access, |index| touched[index], trusted).expect("plan")
    };
    assert_eq!(
        plan([true, false, false, false, false], true).kind,
        WriteKind::ReadModify
    );
    assert_eq!(
        plan([true, false, false, false, false], true)
            .reads
            .as_slice(),
        [0, 5]
    );
    assert_eq!(
        plan([true, false, false, false, false], false).kind,
        WriteKind::Reconstruct
    );
    assert_eq!(
        plan([true, true, true, false, false], true)
            .reads
            .as_slice(),
        [3, 4]
    );
    assert_eq!(plan([true; 5], true).kind, WriteKind::Full);
}
