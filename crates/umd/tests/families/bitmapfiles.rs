//! 05*bitmapfile: the bitmap lies in a file of its own.

use super::bitmaps::{REGION, crash, dirty, healed, kill_daemon, poison};
use super::{POISON, Rig, pattern, peek, poke};
use std::fs;

const OPTIONS: &str = "-z 4M -c 64K --bitmap=./bits --bitmap-chunk=64K";

/// Starts it with its file.
fn start(rig: &Rig) -> super::common::Ran {
    rig.umd(&format!("assemble r --bitmap=./bits {}", rig.names()))
}

/// A clean array without a bit, and the room on its members.
fn clean(count: usize, level: &str) -> (Rig, (u64, usize)) {
    let rig = Rig::create(count, &format!("-l{level} -n{count} {OPTIONS}"));
    let room = rig.room();
    rig.stop();
    start(&rig);
    assert_eq!(dirty(&rig), 0, "a clean stop clears every bit");
    (rig, room)
}

fn fields(rig: &Rig) -> umd_format::bitmap::Fields {
    let bytes = fs::read(rig.home.path("bits")).expect("reads");
    let found = umd_format::bitmap::Unverified::parse(&bytes).expect("a bitmap");
    found.fields().clone()
}

/// Bits that are set in the file.
fn set_bits(rig: &Rig, (_, bytes): (u64, usize)) -> Vec<u64> {
    let file = fs::read(rig.home.path("bits")).expect("reads");
    let set = |bit: &u64| file[256 + *bit as usize / 8] >> (bit % 8) & 1 == 1;
    (0..bytes as u64 / REGION).filter(set).collect()
}

/// Who was away gets what the file marks, after a crash only that is resynced.
fn saves(count: usize, level: &str) {
    let (mut rig, room) = clean(count, level);
    let mdstat = rig.umd("mdstat").out;
    let file = format!(", file: {}\n", rig.home.path("bits").display());
    assert!(mdstat.contains(&file), "{mdstat}");
    let bitmap = rig.home.detail("r")["bitmap"].clone();
    assert_eq!(
        (&bitmap["kind"], &bitmap["fault"]),
        (&"file".into(), &().into())
    );
    rig.r("--fail m1 --remove m1");
    rig.write(0, 61, 65_536);
    rig.write(2 << 20, 62, 65_536);
    let missed = set_bits(&rig, room);
    assert_eq!(missed.len() as u64, dirty(&rig), "on disk as in memory");
    assert!((2..=4).contains(&missed.len()), "{missed:?}");
    poison(&rig, "m1", room);
    // The file remembers over a stop.
    rig.stop();
    let rest: Vec<&str> = rig
        .files
        .iter()
        .map(String::as_str)
        .filter(|name| *name != "m1")
        .collect();
    rig.umd(&format!("assemble r --bitmap=./bits {}", rest.join(" ")));
    rig.r("--re-add m1");
    rig.home.settle("r");
    assert_eq!(rig.home.detail("r")["degraded"], 0);
    assert_eq!(healed(&rig, "m1", room), missed, "RAID{level}");
    crashes(rig, level, room, missed.len());
}

fn crashes(mut rig: Rig, level: &str, room: (u64, usize), missed: usize) {
    rig.stop();
    for region in 0..room.1 as u64 / REGION {
        poke(&rig.home, "m1", room.0 + region * REGION + 8192, &POISON);
    }
    start(&rig);
    let again = |rig: &Rig| drop(start(rig));
    crash(&mut rig, &again, &|rig| rig.write(1 << 20, 70, 8192));
    let marked = set_bits(&rig, room);
    assert_eq!(marked.len(), 1, "RAID{level}, {missed} before");
    start(&rig);
    rig.home.settle("r");
    rig.umd("action r check --wait");
    let places = rig.home.detail("r")["mismatches"].as_array().map(Vec::len);
    let left = room.1 / REGION as usize - marked.len();
    assert_eq!(places, Some(left), "RAID{level}: one region was resynced");
}

#[test]
fn m05r1_bitmapfile() {
    saves(2, "1");
}

#[test]
fn m05r1_n3_bitmapfile() {
    saves(3, "1");
}

#[test]
fn m05r5_bitmapfile() {
    saves(3, "5");
}

#[test]
fn m05r6_bitmapfile() {
    saves(4, "6");
}

/// What is made, and where superblocks do not say a word of it.
#[test]
fn m05_bitmapfile_made() {
    let rig = Rig::create(4, "-l10 -n4 -p n2 -z 4M -c 64K --bitmap=./bits");
    let said = fields(&rig);
    assert_eq!(
        (said.version, said.region_raw),
        (4, 4096),
        "mdadm's default for files"
    );
    assert_eq!(
        said.sync_size_sectors,
        (8 << 20) / 512,
        "a RAID10 as a whole"
    );
    rig.stop();
    let examined = rig.umd("examine --json m0").json();
    let features = &examined["devices"][0]["superblock"]["feature_map"];
    assert!(features.as_u64().unwrap_or(0) & 1 == 0, "{examined}");
    // Assembled without its file, it has no bitmap. The file is out of date when it comes back.
    rig.start();
    assert!(rig.home.detail("r")["bitmap"].is_null());
    rig.verify("without its bitmap");
    rig.home.nbd("r").pwrite(0, &[0; 0]).ok();
    rig.stop();
    start(&rig);
    rig.verify("with its bitmap");
}

/// A file that missed a crash is not believed: everything is resynced.
#[test]
fn m05_bitmapfile_out_of_date() {
    let (mut rig, room) = clean(2, "1");
    rig.stop();
    rig.start();
    crash(&mut rig, &Rig::start, &|rig| rig.write(0, 5, 4096));
    for region in 0..room.1 as u64 / REGION {
        poke(&rig.home, "m1", room.0 + region * REGION + 8192, &POISON);
    }
    start(&rig);
    rig.home.settle("r");
    let regions = room.1 as u64 / REGION;
    assert_eq!(healed(&rig, "m1", room).len() as u64, regions, "all of it");
    rig.agrees("resynced");
    assert_eq!(fields(&rig).state.0, 0, "it is believed from here on");
}

#[test]
fn m05_bitmapfile_refused() {
    let (rig, _) = clean(2, "1");
    // In use: by another array, and as a member.
    let text = rig
        .home
        .umd("create q -l1 -n2 -z 1M --force --bitmap=./bits x y")
        .fails(1);
    assert!(
        text.contains("bits is in use by array r, as its bitmap"),
        "{text}"
    );
    let text = rig
        .home
        .umd("create q -l1 -n2 -z 1M --bitmap=./bits x y")
        .fails(1);
    assert!(text.contains("exists already"), "{text}");
    let text = rig
        .home
        .umd("create q -l1 -n2 -z 1M --force --bitmap=./m0 x y")
        .fails(1);
    assert!(text.contains("m0 is in use by array r"), "{text}");
    assert!(!rig.home.path("x").exists(), "no file was made");
    rig.stop();
    rig.umd("create other -l1 -n2 -z 1M --bitmap=./obits x y");
    rig.home.settle("other");
    rig.umd("create inner -l1 -n2 -z 1M --bitmap=internal i j");
    rig.home.settle("inner");
    rig.umd("create stripes -l0 -n2 -z 1M s t");
    rig.umd("stop --scan");
    fs::write(rig.home.path("rubbish"), pattern(3, 300)).expect("writes");
    fs::write(rig.home.path("empty"), "").expect("writes");
    let good = fs::read(rig.home.path("bits")).expect("reads");
    fs::write(rig.home.path("short"), &good[..260]).expect("writes");
    for version in [5_u8, 6, 7] {
        let mut bytes = good.clone();
        bytes[4] = version;
        fs::write(rig.home.path(&format!("v{version}")), bytes).expect("writes");
    }
    let before = rig.home.hashes();
    for (line, code, text) in [
        ("assemble r --bitmap=./obits m0 m1", 1, "belongs to array"),
        (
            "assemble r --bitmap=./rubbish m0 m1",
            1,
            "no bitmap superblock",
        ),
        ("assemble r --bitmap=./empty m0 m1", 1, "cut short"),
        (
            "assemble r --bitmap=./short m0 m1",
            1,
            "too short: 260 bytes, and 264 are needed",
        ),
        ("assemble r --bitmap=./v5 m0 m1", 1, "clustered (version 5)"),
        ("assemble r --bitmap=./v6 m0 m1", 1, "lockless (version 6)"),
        ("assemble r --bitmap=./v7 m0 m1", 1, "version 7 is unknown"),
        ("assemble r --bitmap=./gone m0 m1", 1, "cannot open"),
        ("assemble r --bitmap=/dev/null m0 m1", 1, "/dev/null"),
        ("assemble r --bitmap=./m1 m0 m1", 1, "m1: in use"),
        (
            "assemble r --bitmap=./bits --overlay over m0 m1",
            1,
            "--overlay",
        ),
        ("assemble r --bitmap=bits m0 m1", 2, "must have a '/' in it"),
        ("assemble --scan --bitmap=./bits m0 m1", 2, "without --scan"),
        (
            "assemble inner --bitmap=./bits i j",
            1,
            "has a bitmap on its members",
        ),
        (
            "assemble stripes --bitmap=./bits s t",
            1,
            "not meaningful with raid0",
        ),
        (
            "create q -l0 -n2 -z 1M --bitmap=./new p q",
            2,
            "not meaningful with level raid0",
        ),
        (
            "build q -l1 -n2 --bitmap-chunk=64K x y",
            2,
            "needs --bitmap=FILE",
        ),
    ] {
        let said = rig.home.umd(line).fails(code);
        assert!(said.contains(text), "{line}: {said}");
        assert_eq!(rig.home.hashes(), before, "{line}");
    }
    // Version 3 is what little-endian machines wrote; its bits are the same.
    let mut bytes = good.clone();
    bytes[4] = 3;
    fs::write(rig.home.path("bits"), bytes).expect("writes");
    start(&rig);
    assert_eq!(dirty(&rig), 0);
    rig.verify("by a bitmap of version 3");
}

/// Read-only, not a byte of the file changes either.
#[test]
fn m05_bitmapfile_readonly() {
    let (rig, _) = clean(2, "1");
    rig.stop();
    fs::OpenOptions::new()
        .write(true)
        .open(rig.home.path("bits"))
        .expect("opens")
        .set_len(264)
        .expect("as mdadm makes it");
    let before = rig.home.hashes();
    rig.umd("assemble r --readonly --bitmap=./bits m0 m1");
    rig.verify("read-only");
    rig.stop();
    assert_eq!(rig.home.hashes(), before);
}

/// The file goes while the array works: the array goes on, and nothing of the file is believed
/// afterwards, even if all of it is back.
#[test]
fn m05_bitmapfile_lost() {
    let (mut rig, room) = clean(2, "1");
    let kept = fs::read(rig.home.path("bits")).expect("reads");
    fs::remove_file(rig.home.path("bits")).expect("removes");
    crate::common::eventually("the loss is noticed", || {
        rig.home.detail("r")["bitmap"]["fault"].is_string()
    });
    let detail = rig.umd("detail r").out;
    assert!(detail.contains("Bitmap Failed : "), "{detail}");
    rig.write(0, 5, 65_536);
    rig.write(1 << 20, 6, 65_536);
    rig.verify("without its bitmap");
    assert_eq!(rig.home.detail("r")["degraded"], 0);
    assert!(dirty(&rig) >= 2, "bits are kept in memory");
    crash(&mut rig, &Rig::start, &|rig| rig.write(3 << 20, 7, 4096));
    fs::write(rig.home.path("bits"), kept).expect("comes back");
    for region in 0..room.1 as u64 / REGION {
        poke(&rig.home, "m1", room.0 + region * REGION + 8192, &POISON);
    }
    start(&rig);
    rig.home.settle("r");
    let regions = room.1 as u64 / REGION;
    assert_eq!(healed(&rig, "m1", room).len() as u64, regions, "all of it");
    rig.verify("resynced");
}

/// An array without superblocks goes on with the file that is there.
#[test]
fn m05r1_build_with_bitmapfile() {
    let home = super::Home::new();
    for name in ["m0", "m1"] {
        fs::write(home.path(name), pattern(9, 4 << 20)).expect("writes");
    }
    let options = "-l1 -n2 --bitmap=./bits --bitmap-chunk=64K";
    home.umd(&format!("build r {options} --assume-clean m0 m1"))
        .ok();
    let files = vec!["m0".to_owned(), "m1".to_owned()];
    let mut rig = Rig {
        home,
        files,
        data: pattern(9, 4 << 20),
    };
    rig.verify("built");
    rig.write(1 << 20, 4, 4096);
    kill_daemon(&rig);
    let before = peek(&rig.home, "m0", 0, 4 << 20);
    // All was dirty when it was made; a clean stop makes it tell the truth.
    rig.umd(&format!("build r {options} m0 m1"));
    rig.home.settle("r");
    rig.stop();
    assert!(set_bits(&rig, (0, 4 << 20)).is_empty());
    rig.umd(&format!("build r {options} m0 m1"));
    rig.write(2 << 20, 4, 4096);
    kill_daemon(&rig);
    poison(&rig, "m1", (0, 4 << 20));
    rig.umd(&format!("build r {options} m0 m1"));
    rig.home.settle("r");
    assert_eq!(
        healed(&rig, "m1", (0, 4 << 20)),
        [32],
        "only what was being written"
    );
    assert!(peek(&rig.home, "m0", 0, 1 << 20) == before[..1 << 20]);
}

/// 05r1-re-add-nosuper: who left is known by nothing but its file; it gets what it missed.
#[test]
fn m05r1_re_add_nosuper() {
    let home = super::Home::new();
    for name in ["m0", "m1", "m2", "strange"] {
        fs::write(home.path(name), pattern(9, 4 << 20)).expect("writes");
    }
    home.umd("build r -l1 -n3 --bitmap=./bits --bitmap-chunk=64K --assume-clean m0 m1 m2")
        .ok();
    crate::common::eventually("the first bits are gone", || {
        home.detail("r")["bitmap"]["dirty_bits"] == 0
    });
    let files = ["m0", "m1", "m2"].map(str::to_owned).to_vec();
    let mut rig = Rig {
        home,
        files,
        data: pattern(9, 4 << 20),
    };
    let room = (0, 4 << 20);
    let no = |rig: &Rig, name: &str, words: &str| {
        let before = rig.home.hashes();
        let text = rig.home.umd(&format!("r --re-add {name}")).fails(1);
        assert!(text.contains(words), "{text}");
        assert_eq!(rig.home.hashes()[name], before[name]);
    };
    no(&rig, "m1", "in use");
    rig.r("--fail m1 --remove m1");
    rig.write(1 << 20, 61, 65_536);
    rig.write(3 << 20, 62, 4096);
    let missed = set_bits(&rig, room);
    assert_eq!(missed, [16, 48]);
    no(&rig, "strange", "no file that has left this array");
    // Another file under its name is not who left.
    fs::rename(rig.home.path("m1"), rig.home.path("kept")).expect("renames");
    fs::rename(rig.home.path("strange"), rig.home.path("m1")).expect("renames");
    no(&rig, "m1", "no file that has left this array");
    fs::rename(rig.home.path("kept"), rig.home.path("m1")).expect("renames");
    poison(&rig, "m1", room);
    rig.r("--re-add m1");
    rig.home.settle("r");
    assert_eq!(rig.home.detail("r")["degraded"], 0);
    assert_eq!(healed(&rig, "m1", room), missed);
    // What was not copied is as it was left, poison and all; what was is right.
    for (at, bytes) in [(1 << 20, 65_536), (3 << 20, 4096)] {
        assert!(peek(&rig.home, "m1", at as u64, bytes) == rig.data[at..at + bytes]);
    }
    // Once another one took its place the bitmap knows no more what it missed.
    rig.r("--fail m2 --remove m2");
    rig.write(2 << 20, 63, 4096);
    fs::write(rig.home.path("m3"), pattern(8, 4 << 20)).expect("writes");
    rig.r("--add m3");
    rig.home.settle("r");
    no(&rig, "m2", "its slot is taken");
    crate::common::eventually("the bits are gone", || dirty(&rig) == 0);
    rig.r("--fail m3 --remove m3");
    no(&rig, "m2", "the bitmap no longer knows");
    rig.r("--re-add m3");
    rig.home.settle("r");
    assert_eq!(rig.home.detail("r")["degraded"], 0);
    // Nor is one taken back that was not whole when it left.
    rig.r("--fail m1 --remove m1");
    fs::write(rig.home.path("m4"), pattern(7, 4 << 20)).expect("writes");
    rig.umd("action r --to=64s");
    rig.r("--add m4");
    rig.r("--fail m4 --remove m4");
    no(&rig, "m4", "it was not in sync");
    rig.umd("action r --to=max");
    rig.r("--re-add m1");
    rig.home.settle("r");
    // Another run of it knows nobody.
    rig.r("--fail m3 --remove m3");
    rig.stop();
    rig.umd("build r -l1 -n3 --bitmap=./bits m0 m1 missing");
    no(&rig, "m3", "no file that has left this array");
}
