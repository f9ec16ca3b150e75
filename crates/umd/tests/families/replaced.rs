//! 01replace: members are replaced while they serve. 05r1-failfast: given up at the first trouble.

use super::{MIB, POISON, Rig, poke};
use crate::common::eventually;
use std::fs;
use std::process::Child;

/// State and flags of a member by its file.
fn member(rig: &Rig, name: &str) -> serde_json::Value {
    let detail = rig.home.detail("r");
    let mut members = detail["members"].as_array().expect("members").iter();
    let ends = |m: &&serde_json::Value| {
        let path = m["path"].as_str().expect("a path");
        path.rsplit('/').next() == Some(name)
    };
    members.find(ends).expect("a member").clone()
}

fn state(rig: &Rig, name: &str) -> String {
    let member = member(rig, name);
    member["state"].as_str().expect("a word").to_owned()
}

/// A disk of the same size with other bytes on it.
fn spare(rig: &Rig, name: &str) {
    let bytes = fs::metadata(rig.home.path("m0")).expect("there").len();
    fs::write(rig.home.path(name), vec![0x77; bytes as usize]).expect("writes");
    rig.r(&format!("--add {name}"));
}

/// Replaces one and stops half-way.
fn half_replaced(rig: &Rig, old: &str, new: &str) {
    rig.umd("action r --to=1024s");
    rig.r(&format!("--replace {old} --with {new}"));
    eventually("it is half filled", || {
        rig.home.detail("r")["sync"]["held"] == true
    });
    assert_eq!(member(rig, old)["want_replacement"], true);
    assert_eq!(member(rig, new)["replacement"], true);
}

/// Every member in turn, hosts writing on both sides of where the copy has come.
fn replaces(count: usize, options: &str) {
    let mut rig = Rig::create(count, &format!("{options} -n{count} -z 2M"));
    let room = rig.room();
    for index in 0..count {
        let (old, new) = (format!("m{index}"), format!("s{index}"));
        spare(&rig, &new);
        half_replaced(&rig, &old, &new);
        rig.write(4096, 80 + index as u64, 8192);
        rig.write(MIB + 512, 90 + index as u64, 90_112);
        assert_eq!(rig.home.detail("r")["degraded"], 0, "{options}: {old}");
        rig.umd("action r --to=max");
        rig.home.settle("r");
        assert_eq!(rig.home.detail("r")["degraded"], 0, "{options}: {old}");
        assert_eq!(
            (state(&rig, &old), state(&rig, &new)),
            ("faulty".into(), "in_sync".into()),
            "{options}"
        );
        rig.r(&format!("--remove {old}"));
        // Who was replaced is not read any more.
        for at in (0..room.1 as u64).step_by(4096) {
            poke(&rig.home, &old, room.0 + at, &POISON);
        }
        rig.files[index] = new;
        rig.verify(&format!("{options} without {old}"));
    }
    rig.agrees(options);
    rig.stop();
    rig.start();
    rig.verify(options);
}

#[test]
fn m01replace() {
    for options in ["-l1", "-l10 -p n2 -c 64K", "-l10 -p f2 -c 64K"] {
        replaces(if options == "-l1" { 2 } else { 4 }, options);
    }
    replaces(3, "-l5 -c 64K");
    replaces(4, "-l6 -c 64K");
    replaces(3, "-l4 -c 64K");
}

/// Who is being replaced fails half-way: the rest comes from the others. Who is to replace it
/// fails: nothing is lost, and the old one serves on.
#[test]
fn m01replace_fails_half_way() {
    for (count, options) in [(2, "-l1"), (3, "-l5 -c 64K"), (4, "-l10 -c 64K")] {
        let mut rig = Rig::create(count, &format!("{options} -n{count} -z 2M"));
        spare(&rig, "s0");
        half_replaced(&rig, "m0", "s0");
        rig.r("--fail s0");
        rig.write(4096, 70, 8192);
        assert_eq!(rig.home.detail("r")["degraded"], 0, "{options}");
        assert_eq!(state(&rig, "m0"), "in_sync", "{options}");
        rig.verify("the new one failed");
        rig.r("--remove s0");
        rig.umd("zero-superblock s0");
        rig.umd("action r --to=max");
        spare(&rig, "s1");
        rig.home.settle("r");
        // It may still want to be replaced; then it was by s1.
        if state(&rig, "m0") == "in_sync" {
            half_replaced(&rig, "m0", "s1");
            rig.r("--fail m0");
            rig.umd("action r --to=max");
            rig.home.settle("r");
        }
        assert_eq!(state(&rig, "s1"), "in_sync", "{options}");
        assert_eq!(rig.home.detail("r")["degraded"], 0, "{options}");
        rig.r("--remove m0");
        rig.files[0] = "s1".into();
        rig.verify("the old one failed");
        rig.agrees(options);
    }
}

/// A leg that is to fail fast is given up where another one is mended; the last one never is.
#[test]
fn m05r1_failfast() {
    let files = vec!["m0".to_owned(), "m1".to_owned()];
    let home = super::Home::new();
    home.umd("create r -l1 -n2 -z 2M --failfast m0 m1").ok();
    home.settle("r");
    let mut rig = Rig {
        home,
        files,
        data: Vec::new(),
    };
    rig.fill(1);
    let flagged = |rig: &Rig| {
        [
            &member(rig, "m0")["failfast"],
            &member(rig, "m1")["failfast"],
        ]
        .map(|flag| *flag == true)
    };
    assert_eq!(flagged(&rig), [true, true]);
    let (offset, _) = rig.room();
    // Reads go to the first, as long as it can be read.
    rig.r("--write-mostly m1");
    rig.stop();
    let bad = |name: &str, at: u64| format!("--fault {name}:bad={}+8", offset / 512 + at);
    let serving = serve(&rig, &format!("{} m0 m1", bad("m0", 64)));
    assert_eq!(flagged(&rig), [true, true], "kept over a stop");
    rig.verify("a read error on the first");
    eventually("it is given up", || state(&rig, "m0") == "faulty");
    // The last one is kept, whatever it says.
    end(&rig, serving);
    let serving = serve(&rig, &format!("--run {} m1", bad("m1", 64)));
    let mut client = rig.home.nbd("r");
    assert!(client.pread(64 * 512, 4096).is_err(), "nobody has it");
    let read = client.pread(128 * 512, 4096).expect("reads on");
    assert!(read == rig.data[128 * 512..][..4096]);
    drop(client);
    assert_eq!(state(&rig, "m1"), "in_sync");
    end(&rig, serving);
    // Without the flag the same error is mended.
    rig.umd("assemble r --run m1");
    rig.r("--add m0");
    rig.home.settle("r");
    rig.r("--nofailfast m0 m1");
    rig.stop();
    let serving = serve(&rig, &format!("{} m0 m1", bad("m0", 64)));
    assert_eq!(flagged(&rig), [false, false], "kept over a stop");
    rig.verify("a read error that is mended");
    assert_eq!(state(&rig, "m0"), "in_sync");
    rig.agrees("mended");
    end(&rig, serving);
}

/// Runs it in a daemon of its own, which is ended with the array.
fn serve(rig: &Rig, words: &str) -> Child {
    let serving = rig.home.spawn(&format!("serve r {words}"));
    eventually("it is served", || rig.home.umd("detail r").code == 0);
    serving
}

fn end(rig: &Rig, mut serving: Child) {
    rig.stop();
    serving.wait().expect("ends");
}
