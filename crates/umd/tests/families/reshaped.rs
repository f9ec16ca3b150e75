//! 05r6tor0: a RAID6 becomes a RAID5 and then a RAID0, and all the way back, with its data.

use super::{MIB, Rig};
use crate::common::eventually;
use rustix::process::{Pid, Signal, kill_process};

/// What the array is: level, layout, devices, how many are missing.
#[track_caller]
fn is(rig: &Rig, level: &str, layout: Option<&str>, disks: u64) {
    let detail = rig.home.detail("r");
    assert_eq!(detail["level"], level, "{detail}");
    if let Some(layout) = layout {
        assert_eq!(detail["layout"], layout, "{detail}");
    }
    assert_eq!(detail["raid_disks"], disks, "{detail}");
    assert_eq!(detail["degraded"], 0, "{detail}");
    assert!(detail["reshape"].is_null(), "{detail}");
}

/// Waits until nothing is moved or rebuilt any more, and the array is of this level and whole.
#[track_caller]
fn becomes(rig: &Rig, level: &str) {
    eventually(level, || {
        let detail = rig.home.detail("r");
        detail["level"] == level && detail["degraded"] == 0 && detail["sync_action"] == "idle"
    });
}

fn paths(rig: &Rig, names: &[&str]) -> String {
    let paths = names.iter().map(|name| rig.home.path(name));
    let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    paths.join(" ")
}

/// Slots, by file name.
fn members(rig: &Rig, state: &str) -> Vec<String> {
    let detail = rig.home.detail("r");
    let list = detail["members"].as_array().expect("members").clone();
    let of_state = list.iter().filter(|member| member["state"] == state);
    let name = |member: &serde_json::Value| {
        let path = member["path"].as_str().expect("a path").to_owned();
        path.rsplit('/').next().expect("a name").to_owned()
    };
    of_state.map(name).collect()
}

#[test]
fn m05r6tor0() {
    let rig = Rig::create(5, "-l6 -n5 -c32 -e 1.2 -z 6M --bitmap=none");
    is(&rig, "raid6", Some("left-symmetric"), 5);
    let said = rig.umd("grow r --level=5").err;
    assert!(
        said.contains("reshaped from left-symmetric to left-symmetric-6"),
        "{said}"
    );
    rig.verify("on its way to raid5");
    becomes(&rig, "raid5");
    is(&rig, "raid5", Some("left-symmetric"), 4);
    assert_eq!(members(&rig, "spare"), ["m4"], "a spare is left");
    rig.verify("as raid5");
    rig.agrees("as raid5");

    rig.umd("grow r --level=0");
    becomes(&rig, "raid0");
    is(&rig, "raid0", None, 3);
    rig.verify("as raid0");
    let there = members(&rig, "in_sync");
    assert_eq!(there, ["m0", "m1", "m2"], "no use for the others");
    rig.stop();
    let all = rig.names();
    rig.umd(&format!("assemble r {all}"));
    is(&rig, "raid0", None, 3);
    rig.verify("as raid0, started again");

    let new = paths(&rig, &["m3", "m4"]);
    let said = rig
        .umd(&format!("grow r --level=5 --force --add {new}"))
        .err;
    assert!(said.contains("level of r changed to raid5"), "{said}");
    rig.verify("on its way back to raid5");
    becomes(&rig, "raid5");
    is(&rig, "raid5", Some("left-symmetric"), 4);
    rig.verify("as raid5 again");
    rig.agrees("as raid5 again");

    rig.umd("grow r --level=6");
    becomes(&rig, "raid6");
    is(&rig, "raid6", Some("left-symmetric"), 5);
    rig.verify("as raid6 again");
    rig.agrees("as raid6 again");
    rig.stop();
    rig.start();
    is(&rig, "raid6", Some("left-symmetric"), 5);
    rig.verify("in the end");
}

/// The daemon dies in the middle, again and again: what is started next goes on.
#[test]
fn m05r6tor0_killed() {
    let mut rig = Rig::create(5, "-l6 -n5 -c32 -z 24M --bitmap=none");
    rig.umd("grow r --layout=left-symmetric-6");
    let mut kills = 0;
    for round in 0..6 {
        let detail = rig.home.detail("r");
        if detail["reshape"].is_null() {
            break;
        }
        rig.write(round * 7 * MIB, 100 + round, 3 << 20);
        let pid = rig.home.daemon_pid().expect("it runs") as i32;
        let pid = Pid::from_raw(pid).expect("a process");
        kill_process(pid, Signal::KILL).expect("killed");
        eventually("its end", || rig.home.daemon_pid().is_none());
        kills += 1;
        rig.start();
        rig.verify("in the middle");
    }
    assert!(kills > 0, "it was killed on the way");
    rig.home.settle("r");
    becomes(&rig, "raid6");
    is(&rig, "raid6", Some("left-symmetric-6"), 5);
    rig.verify("at the end");
    rig.agrees("at the end");
}

/// What the words say: plans that change nothing, refusals that change nothing, and progress.
#[test]
fn levels_are_planned_and_refused() {
    let rig = Rig::create(4, "-l5 -n4 -c32 -z 2M --bitmap=internal");
    rig.stop();
    std::fs::write(rig.home.path("small"), [0; 4096]).expect("a file");
    std::fs::write(rig.home.path("close"), vec![0; 2 << 20]).expect("a file");
    std::fs::write(rig.home.path("good"), vec![0; 16 << 20]).expect("a file");
    let mut used = vec![0; 16 << 20];
    used[1080..1082].copy_from_slice(&[0x53, 0xef]);
    std::fs::write(rig.home.path("used"), &used).expect("a file");
    let before = rig.home.hashes();
    rig.start();
    let planned = rig.umd("grow r --level=0 --dry-run").out;
    assert_eq!(
        planned,
        "would reshape r from left-symmetric to parity-last: all data is moved on every member\n\
         would make r a raid0 of 3 devices; all data stays where it is\n"
    );
    for (names, sentence) in [
        (&["nowhere"][..], "No such file"),
        (&["small"], "not large enough"),
        (&["close"], "not large enough"), // For the data alone it is.
        (&["used"], "appears to contain"),
        (&["m1"], "is in use by array r"),
        (&["good", "good"], "in use"),
        (&["good", "nowhere"], "No such file"),
    ] {
        let devices = paths(&rig, names);
        let said = rig.home.umd(&format!("grow r --level=6 --add {devices}"));
        let said = said.fails(1);
        assert!(said.contains(sentence), "{names:?}: {said}");
    }
    for (line, code, sentence) in [
        (
            "grow r --level=0",
            1,
            "raid0 has no bitmap: remove it first",
        ),
        ("grow r --level=6", 1, "add 1 with --add"),
        ("grow r --level=5", 1, "the array is raid5 already"),
        ("grow r --level=1", 1, "raid5 cannot become raid1"),
        ("grow r --level=6 -n 7", 2, "it has 5 here"),
        ("grow r --layout=left-symmetric", 1, "that layout already"),
        ("grow r --layout=bogus", 2, "not understood"),
        ("grow r --size=max", 1, "only an array that a cluster runs"),
    ] {
        let said = rig.home.umd(line).fails(code);
        assert!(said.contains(sentence), "{line}: {said}");
    }
    rig.stop();
    assert!(rig.home.hashes() == before, "nothing was written");
}
