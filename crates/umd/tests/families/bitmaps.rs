//! 05*: what a bitmap saves. Who was away gets what it missed and nothing else: every region of
//! it was written over behind umd's back, and afterwards it is counted where that is still so.

use super::{POISON, Rig, peek, poke};
use crate::common::eventually;

pub const REGION: u64 = 64 << 10;

/// Writes over a block of every region of a member that nobody uses now.
pub fn poison(rig: &Rig, name: &str, (offset, bytes): (u64, usize)) {
    for region in 0..bytes as u64 / REGION {
        poke(&rig.home, name, offset + region * REGION + 8192, &POISON);
    }
}

/// The regions that were written since.
pub fn healed(rig: &Rig, name: &str, (offset, bytes): (u64, usize)) -> Vec<u64> {
    let held = |region: &u64| peek(&rig.home, name, offset + region * REGION + 8192, 4096);
    let regions = 0..bytes as u64 / REGION;
    regions.filter(|region| held(region) != POISON).collect()
}

pub fn dirty(rig: &Rig) -> u64 {
    let detail = rig.home.detail("r");
    detail["bitmap"]["dirty_bits"].as_u64().expect("a bitmap")
}

/// A clean array, no bit set, and the room on its members.
fn clean(count: usize, level: &str, metadata: &str) -> (Rig, (u64, usize)) {
    let options = "-z 4M -c 64K --bitmap=internal --bitmap-chunk=64K";
    let rig = Rig::create(
        count,
        &format!("-l{level} -n{count} -e {metadata} {options}"),
    );
    let room = rig.room();
    rig.stop();
    rig.start();
    assert_eq!(dirty(&rig), 0, "a clean stop clears every bit");
    (rig, room)
}

fn comes_back(count: usize, level: &str, metadata: &str, lost: &[usize]) {
    let (mut rig, room) = clean(count, level, metadata);
    for index in lost {
        rig.r(&format!("--fail m{index} --remove m{index}"));
    }
    for (seed, at) in [(1, 0), (2, 1 << 20), (3, (4 << 20) - 65_536)] {
        rig.write(at, 60 + seed, 65_536);
    }
    let missed = dirty(&rig);
    assert!(
        (3..=6).contains(&missed),
        "{missed} regions for three writes"
    );
    for index in lost {
        poison(&rig, &format!("m{index}"), room);
    }
    // Backwards: who failed last knows that the others were gone, and is taken first.
    for index in lost.iter().rev() {
        rig.r(&format!("--re-add m{index}"));
    }
    rig.home.settle("r");
    assert_eq!(rig.home.detail("r")["degraded"], 0);
    for index in lost {
        let copied = healed(&rig, &format!("m{index}"), room);
        let count = copied.len() as u64;
        assert_eq!(count, missed, "RAID{level}: m{index} got {copied:?}");
    }
    if lost.len() == 1 && level == "1" {
        let rest = rig
            .files
            .iter()
            .filter(|name| **name != format!("m{}", lost[0]));
        for name in rest.cloned().collect::<Vec<_>>() {
            // What was copied is right: with the others gone it alone answers there.
            rig.r(&format!("--fail {name}"));
        }
        let mut client = rig.home.nbd("r");
        let read = client.pread(1 << 20, 65_536).expect("reads");
        assert!(
            read == rig.data[1 << 20..][..65_536],
            "what was copied is right"
        );
    }
}

#[test]
fn m05r1_re_add() {
    for metadata in ["0.90", "1.0", "1.1", "1.2"] {
        comes_back(2, "1", metadata, &[1]);
    }
    comes_back(3, "1", "1.2", &[0, 2]);
}

#[test]
fn m05r5_re_add() {
    for lost in 0..3 {
        comes_back(3, "5", "1.2", &[lost]);
    }
    comes_back(4, "6", "1.2", &[1, 3]);
}

/// A member that is not what the bitmap knows about is not taken back by it.
#[test]
fn m05r1_re_add_too_old() {
    let (mut rig, room) = clean(3, "1", "1.2");
    rig.r("--fail m1 --remove m1");
    rig.write(0, 5, 65_536);
    rig.stop();
    rig.umd("assemble r m0 m2");
    rig.umd("zero-superblock m1");
    let text = rig.home.umd("r --re-add m1").fails(1);
    assert!(text.contains("m1"), "{text}");
    poison(&rig, "m1", room);
    rig.r("--add m1");
    rig.home.settle("r");
    let regions = room.1 as u64 / REGION;
    assert_eq!(healed(&rig, "m1", room).len() as u64, regions, "all of it");
    rig.agrees("rebuilt from the start");
}

pub fn kill_daemon(rig: &Rig) {
    let pid = rig.home.daemon_pid().expect("a daemon");
    kill(rig, pid);
}

fn kill(rig: &Rig, pid: u32) {
    let pid = i32::try_from(pid).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("signals");
    eventually("the daemon is dead", || rig.home.daemon_pid().is_none());
}

/// Writes and kills the daemon before it has marked the array clean. On a busy machine it may be
/// too late for that; then it is started and tried again.
pub fn crash(rig: &mut Rig, start: &dyn Fn(&Rig), write: &dyn Fn(&mut Rig)) {
    for _ in 0..50 {
        let pid = rig.home.daemon_pid().expect("a daemon");
        write(rig);
        kill(rig, pid);
        let found = rig.umd("examine --json m0").json();
        if found["devices"][0]["superblock"]["state"] != "clean" {
            return;
        }
        start(rig);
    }
    panic!("the array was clean each time it was killed");
}

/// After a crash only regions that were being written are resynced.
fn crashes(count: usize, level: &str) {
    let (mut rig, room) = clean(count, level, "1.2");
    let write = |rig: &mut Rig| {
        rig.write(1 << 20, 70, 65_536);
        rig.write(2 << 20, 71, 4096);
    };
    write(&mut rig);
    let marked = dirty(&rig);
    assert!((2..=4).contains(&marked), "{marked} regions for two writes");
    crash(&mut rig, &Rig::start, &write);
    // A block of every region is wrong on one member. A resync that comes by mends it.
    for index in 0..room.1 as u64 / REGION {
        let name = match level {
            "1" => "m1",
            _ => &rig.files[index as usize % rig.files.len()],
        };
        poke(&rig.home, name, room.0 + index * REGION + 8192, &POISON);
    }
    rig.umd(&format!("assemble r {}", rig.names()));
    rig.home.settle("r");
    rig.umd("action r check --wait");
    let places = rig.home.detail("r")["mismatches"].as_array().map(Vec::len);
    let left = room.1 as u64 / REGION - marked;
    assert_eq!(
        places,
        Some(left as usize),
        "RAID{level}: all others are as they were"
    );
}

#[test]
fn m05r1_internalbitmap() {
    crashes(2, "1");
}

#[test]
fn m05r5_internalbitmap() {
    crashes(3, "5");
}

/// Bits go by themselves when nothing is written.
#[test]
fn m05r1_internalbitmap_idle() {
    let (mut rig, _) = clean(2, "1", "1.2");
    rig.write(0, 5, 4096);
    assert_eq!(dirty(&rig), 1);
    eventually("the bit is cleared", || dirty(&rig) == 0);
}

/// One that was made while the array ran tells what was missed, and nothing else is copied.
#[test]
fn m05r1_add_internalbitmap() {
    for metadata in ["0.90", "1.0", "1.1", "1.2"] {
        let options = format!("-l1 -n2 -e {metadata} -z 4M --bitmap=none");
        let mut rig = Rig::create(2, &options);
        let room = rig.room();
        rig.write(1 << 20, 5, 65_536);
        rig.umd("grow r --bitmap=internal --bitmap-chunk=64K");
        rig.write(2 << 20, 6, 65_536);
        rig.stop();
        rig.start();
        assert_eq!(dirty(&rig), 0, "a clean stop clears every bit");
        rig.r("--fail m1 --remove m1");
        rig.write(3 << 20, 7, 65_536);
        let missed = dirty(&rig);
        poison(&rig, "m1", room);
        rig.r("--re-add m1");
        rig.home.settle("r");
        assert_eq!(healed(&rig, "m1", room).len() as u64, missed);
        rig.r("--fail m0");
        let mut client = rig.home.nbd("r");
        let read = client.pread(3 << 20, 65_536).expect("reads");
        assert!(read == rig.data[3 << 20..][..65_536], "{metadata}");
    }
}

/// Without its bitmap the array is what it was, and a member that was away is rebuilt.
#[test]
fn m05r1_remove_internalbitmap() {
    let (rig, _) = clean(2, "1", "1.2");
    rig.stop();
    rig.umd("assemble r --update=no-bitmap m0 m1");
    assert!(rig.home.detail("r")["bitmap"].is_null());
    rig.verify("without a bitmap");
    rig.stop();
    rig.start();
    assert!(
        rig.home.detail("r")["bitmap"].is_null(),
        "it does not come back"
    );
    rig.r("--fail m1 --remove m1");
    let text = rig.home.umd("r --re-add m1").fails(1);
    assert!(text.contains("m1"), "{text}");
    rig.r("--add m1");
    rig.home.settle("r");
    rig.agrees("rebuilt");
}
