//! The bad-block log: what can be read can be written, and is the same again; and a write of it
//! that is cut short between sectors leaves out nothing that was bad before and is after.

use crate::Input;
use umd_format::badblocks::{BadLog, BadRanges, encode, parse};

const SECTOR: usize = 512;

/// Runs it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let shift = input.byte();
    let bytes = input.bytes(8 * SECTOR);
    again(bytes, shift);
    rewritten(bytes, shift, input);
}

fn again(bytes: &[u8], shift: u8) {
    let Ok(ranges) = parse(bytes, shift) else {
        return;
    };
    if shift > 54 {
        assert!(ranges.is_empty(), "no unit is that large");
        return;
    }
    let log = encode(&ranges, shift, 8).expect("it had room before");
    assert_eq!(parse(&log, shift), Ok(ranges.clone()));
    assert_eq!(log[..8 * ranges.len()], bytes[..8 * ranges.len()]);
}

/// Ranges become good and bad, the log is written, and the power goes meanwhile.
fn rewritten(bytes: &[u8], shift: u8, mut input: Input<'_>) {
    let sectors = bytes.len() / SECTOR;
    // Writers of logs leave nothing behind the last entry.
    let mut old_bytes = bytes[..sectors * SECTOR].to_vec();
    let end = old_bytes.chunks(8).position(|entry| entry == [0xff; 8]);
    old_bytes[8 * end.unwrap_or(64 * sectors)..].fill(0xff);
    let Ok(old) = BadLog::parse(4096, shift, &old_bytes) else {
        return;
    };
    let wanted = changed(&old, shift, &mut input);
    let Ok(new) = old.rewritten(&wanted) else {
        return;
    };
    assert_eq!(BadLog::parse(4096, shift, &new.bytes), Ok(new.log.clone()));
    assert!(wanted.is_within(&new.log.ranges()), "nothing is left out");
    let settled = new.log.rewritten(&wanted).expect("it fits now");
    assert_eq!(settled.log, new.log, "and it is not written again");
    let landed = input.byte();
    let mut torn = old_bytes;
    for sector in (0..sectors).filter(|at| landed >> at & 1 == 1) {
        let there = sector * SECTOR..(sector + 1) * SECTOR;
        torn[there.clone()].copy_from_slice(&new.bytes[there]);
    }
    let torn = BadLog::parse(4096, shift, &torn).expect("old entries and new ones");
    let torn = torn.ranges();
    for range in old.ranges().iter() {
        let end = range.start_sectors + range.length_sectors;
        for still in wanted.within(range.start_sectors, end) {
            let end = still.start_sectors + still.length_sectors;
            assert!(torn.covers(still.start_sectors, end), "readable by a tear");
        }
    }
}

/// What is bad after some writes and some trouble.
fn changed(old: &BadLog, shift: u8, input: &mut Input<'_>) -> BadRanges {
    let mut bad = old.ranges();
    let listed = old.listed();
    for _ in 0..input.byte() % 16 {
        let (what, at) = (input.byte(), usize::from(input.byte()));
        let (from, len) = (u64::from(input.byte()), 1 + u64::from(input.byte()));
        let near = listed.get(at).map_or(1 << 20, |one| one.start_sectors);
        // What does not fit the format is beyond any device.
        let start = near.saturating_add(from << shift.min(8));
        let Some(end) = start.checked_add(len).filter(|end| *end < 1 << 53) else {
            continue;
        };
        match what & 1 {
            0 => bad.remove(start, end),
            _ => bad.insert(start, end),
        }
    }
    bad
}
