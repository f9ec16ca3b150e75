//! 05*grow*: bitmaps that come, and go, while the array runs; on the members and in a file.

use super::bitmaps::{REGION, crash, dirty, healed, poison};
use super::{Rig, poke};
use crate::common::eventually;
use std::fs;

const INTERNAL: &str = "internal";
const FILE: &str = "./bits";

/// Starts it, with its bitmap.
fn start(rig: &Rig, word: &str, names: &str) {
    match word {
        INTERNAL => rig.umd(&format!("assemble r {names}")),
        file => rig.umd(&format!("assemble r --bitmap={file} {names}")),
    };
    assert!(!rig.home.detail("r")["bitmap"].is_null(), "by {word}");
}

/// An array that got its bitmap after it was full. Every bit is set then.
fn grown(count: usize, options: &str, word: &str) -> (Rig, (u64, usize)) {
    let rig = Rig::create(count, &format!("{options} -n{count} -z 4M --bitmap=none"));
    let room = rig.room();
    let text = rig
        .umd(&format!("grow r --bitmap={word} --bitmap-chunk=64K"))
        .err;
    assert!(text.contains("added a bitmap to r"), "{text}");
    (rig, room)
}

/// Regions in all.
fn regions(rig: &Rig) -> u64 {
    let detail = rig.home.detail("r");
    detail["bitmap"]["bits"].as_u64().expect("a bitmap")
}

/// What is written from the moment it is there is in it: before any bit had time to go, after a
/// stop, while a member is away, and when the daemon dies.
fn saves(count: usize, options: &str, word: &str) {
    let what = format!("{options} {word}");
    let (mut rig, room) = grown(count, options, word);
    assert_eq!(dirty(&rig), regions(&rig), "{what}: it begins with all");
    rig.write(1 << 20, 5, 65_536);
    rig.stop();
    start(&rig, word, &rig.names());
    assert_eq!(dirty(&rig), 0, "{what}: a clean stop clears every bit");
    rig.r("--fail m1 --remove m1");
    rig.write(3 << 20, 7, 65_536);
    poison(&rig, "m1", room);
    rig.r("--re-add m1");
    rig.home.settle("r");
    assert_eq!(rig.home.detail("r")["degraded"], 0, "{what}");
    let copied = healed(&rig, "m1", room).len() as u64;
    assert!((1..=4).contains(&copied), "{what}: {copied} regions");
    // All of m1 is made right again, for what follows.
    rig.umd("action r repair --wait");
    rig.stop();
    poke_all(&rig, room);
    start(&rig, word, &rig.names());
    let names = rig.names();
    let again = |rig: &Rig| start(rig, word, &names);
    crash(&mut rig, &again, &|rig| rig.write(2 << 20, 71, 4096));
    start(&rig, word, &names);
    rig.home.settle("r");
    rig.umd("action r check --wait");
    let places = rig.home.detail("r")["mismatches"].as_array().map(Vec::len);
    let left = room.1 / REGION as usize;
    assert!(
        places.is_some_and(|places| (left - 2..left).contains(&places)),
        "{what}: {places:?} of {left} are as they were"
    );
}

/// A block of every region is wrong on one member, another one than `poison` takes. A resync that
/// comes by mends it.
fn poke_all(rig: &Rig, room: (u64, usize)) {
    for index in 0..room.1 as u64 / REGION {
        poke(
            &rig.home,
            "m1",
            room.0 + index * REGION + 20_480,
            &[0xc3; 4096],
        );
    }
}

#[test]
fn m05r1_grow_internal() {
    saves(2, "-l1", INTERNAL);
}

#[test]
fn m05r1_grow_external() {
    saves(2, "-l1", FILE);
}

#[test]
fn m05r5_grow_internal() {
    saves(3, "-l5 -c 64K", INTERNAL);
}

#[test]
fn m05r5_grow_external() {
    saves(3, "-l5 -c 64K", FILE);
}

#[test]
fn m05r6_grow_internal() {
    saves(4, "-l6 -c 64K", INTERNAL);
}

#[test]
fn m05r6_grow_external() {
    saves(4, "-l6 -c 64K", FILE);
}

/// The daemon dies before a single bit had time to go: everything is resynced, by the new bitmap.
#[test]
fn m05r1_grow_crash() {
    for word in [INTERNAL, FILE] {
        let (mut rig, room) = grown(2, "-l1", word);
        let names = rig.names();
        let again = |rig: &Rig| {
            start(rig, word, &names);
            rig.umd("grow r --bitmap=none");
            let force = if word == FILE { " --force" } else { "" };
            let grow = format!("grow r --bitmap={word} --bitmap-chunk=64K{force}");
            rig.umd(&grow);
        };
        crash(&mut rig, &again, &|rig| rig.write(0, 9, 4096));
        poison(&rig, "m1", room);
        start(&rig, word, &names);
        rig.home.settle("r");
        let all = room.1 as u64 / REGION;
        assert_eq!(healed(&rig, "m1", room).len() as u64, all, "{word}");
        rig.agrees(word);
        rig.verify(word);
    }
}

/// Taken away while the array runs it is of no use any more: nobody is taken back by it, and a
/// file that is named again has to be filled again.
#[test]
fn m05r1_remove_bitmap() {
    for word in [INTERNAL, FILE] {
        let (mut rig, room) = grown(2, "-l1", word);
        let names = rig.names();
        rig.stop();
        start(&rig, word, &names);
        rig.umd("grow r --bitmap=none");
        assert!(rig.home.detail("r")["bitmap"].is_null(), "{word}");
        rig.write(0, 5, 65_536);
        rig.r("--fail m1 --remove m1");
        let text = rig.home.umd("r --re-add m1").fails(1);
        assert!(text.contains("no bitmap"), "{text}");
        poison(&rig, "m1", room);
        rig.r("--add m1");
        rig.home.settle("r");
        let all = room.1 as u64 / REGION;
        assert_eq!(healed(&rig, "m1", room).len() as u64, all, "{word}");
        rig.verify(word);
        let plain = |rig: &Rig| drop(rig.umd(&format!("assemble r {names}")));
        crash(&mut rig, &plain, &|rig| rig.write(1 << 20, 6, 4096));
        poison(&rig, "m1", room);
        match word {
            INTERNAL => plain(&rig),
            file => start(&rig, file, &names),
        }
        rig.home.settle("r");
        assert_eq!(healed(&rig, "m1", room).len() as u64, all, "{word}");
        rig.agrees(word);
    }
}

/// Whatever is wrong with the file: a sentence, and no byte of anything is changed.
#[test]
fn m05r1_grow_external_refused() {
    let rig = Rig::create(2, "-l1 -n2 -z 1M --bitmap=none");
    rig.umd("create other -l1 -n2 -z 1M --bitmap=./obits x y");
    rig.umd("create stripes -l0 -n2 -z 1M s t");
    rig.umd("create inner -l1 -n2 -z 1M --assume-clean --bitmap=internal i j");
    rig.home.settle("other");
    rig.umd("stop other");
    fs::create_dir(rig.home.path("dir")).expect("makes");
    fs::write(rig.home.path("precious"), "bytes").expect("writes");
    for name in ["r", "inner"] {
        eventually("superblocks say clean", || {
            rig.home.detail(name)["array_state"] == "clean"
        });
    }
    let before = rig.home.hashes();
    for (words, code, text) in [
        ("r --bitmap=bits", 2, "./FILE"),
        ("r --bitmap=./dir", 1, "is a directory"),
        ("r --bitmap=./no/bits", 1, "No such file or directory"),
        ("r --bitmap=/dev/null", 1, "not a regular file"),
        ("r --bitmap=/dev/null --force", 1, "not a regular file"),
        ("r --bitmap=./precious", 1, "exists already: name another"),
        ("r --bitmap=./obits", 1, "with the bitmap of array"),
        ("r --bitmap=./m0 --force", 1, "m0 is in use by array r"),
        ("r --bitmap=./bits --bitmap-chunk=5K", 2, "power of two"),
        ("r --bitmap=./bits --write-behind=16384", 2, "and 16383"),
        ("r --bitmap=none --write-behind", 2, "--write-behind needs"),
        ("r --bitmap=internal --force", 2, "--force is for"),
        ("stripes --bitmap=./bits", 1, "has no redundancy"),
        ("inner --bitmap=./bits", 1, "has a bitmap already"),
        ("inner --bitmap=./obits --force", 1, "has a bitmap already"),
        ("gone --bitmap=./bits", 1, "not appear to be an active"),
    ] {
        let said = rig.home.umd(&format!("grow {words}")).fails(code);
        assert!(said.contains(text), "{words}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(rig.home.hashes(), before, "{words}");
    }
    let would = rig.umd("grow r --bitmap=./bits --dry-run").out;
    assert!(would.contains("and write it to /"), "{would}");
    assert_eq!(rig.home.hashes(), before, "--dry-run");
    rig.r("--readonly");
    let said = rig.home.umd("grow r --bitmap=./bits").fails(1);
    assert!(said.contains("read-only"), "{said}");
    assert!(!rig.home.path("bits").exists(), "nothing is left");
    rig.r("--readwrite");
    // Told to, it writes over what is there.
    rig.umd("grow r --bitmap=./obits --force");
    let said = rig.umd("grow r --bitmap=none").err;
    assert!(said.contains("obits is of no use any more"), "{said}");
    rig.verify("after all that");
}

/// Write-behind comes with a new bitmap, and the file remembers it.
#[test]
fn m05r1_grow_write_behind() {
    for (word, mostly) in [(INTERNAL, "-W"), (FILE, "-W"), (FILE, "")] {
        let home = super::Home::new();
        home.umd(&format!(
            "create r -l1 -n2 -z 1M --bitmap=none m0 {mostly} m1"
        ))
        .ok();
        home.settle("r");
        let said = home
            .umd(&format!("grow r --bitmap={word} --write-behind=9"))
            .ok();
        let warned = said.err.contains("no member of r is write-mostly");
        assert_eq!(warned, mostly.is_empty(), "{}", said.err);
        assert_eq!(home.detail("r")["bitmap"]["write_behind"], 9);
        home.umd("stop r").ok();
        let again = if word == FILE { "--bitmap=./bits" } else { "" };
        home.umd(&format!("assemble r {again} m0 m1")).ok();
        assert_eq!(home.detail("r")["bitmap"]["write_behind"], 9, "{word}");
    }
}
