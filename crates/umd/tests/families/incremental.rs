//! 03assem-incr: members that arrive one by one, before and after others are assembled.
//!
//! For each level, every set of members is handed over in each of two ways: assembled at once and
//! the rest arriving, and arriving and the rest assembled. Whatever the order, the array runs as
//! soon as all are here, holds its data, and nothing was written before that.

use super::{Rig, orders};
use crate::common::eventually;

/// How many members an array of the level needs to be started.
fn needed(level: &str, count: usize) -> usize {
    match level {
        "1" => 1,
        "4" | "5" => count - 1,
        "6" => count - 2,
        _ => count,
    }
}

/// The array's own word for how it is.
fn state(rig: &Rig) -> Option<String> {
    let document = rig.home.umd("detail --scan --json").ok().json();
    let arrays = document["arrays"].as_array().expect("arrays").clone();
    let found = arrays.iter().find(|array| array["name"] == "r");
    found.map(|array| array["array_state"].as_str().expect("a state").to_owned())
}

fn started(export: &str) -> &str {
    let line = export
        .lines()
        .find_map(|line| line.strip_prefix("MD_STARTED="));
    line.expect("MD_STARTED is said")
}

/// Hands one member over; what MD_STARTED says.
#[track_caller]
fn arrive(rig: &Rig, member: &str, options: &str) -> String {
    let ran = rig.umd(&format!("incremental -c none --export {options} {member}"));
    assert!(
        ran.out
            .starts_with("MD_DEVICE=r\nMD_DEVNAME=r\nMD_FOREIGN="),
        "{}",
        ran.out
    );
    started(&ran.out).to_owned()
}

fn split(rig: &Rig, set: usize) -> (Vec<String>, Vec<String>) {
    let numbered = rig.files.iter().cloned().enumerate();
    let (chosen, rest): (Vec<_>, Vec<_>) = numbered.partition(|(index, _)| set >> index & 1 == 1);
    let names = |pairs: Vec<(usize, String)>| pairs.into_iter().map(|(_, name)| name).collect();
    (names(chosen), names(rest))
}

/// All arrive, in this order.
fn arrive_all(rig: &Rig, level: &str, order: &[String]) {
    let before = rig.home.hashes();
    let count = rig.files.len();
    for (index, member) in order.iter().enumerate() {
        let here = index + 1;
        let expected = match here {
            here if here == count => "yes",
            here if here >= needed(level, count) => "unsafe",
            _ => "no",
        };
        if here < count {
            assert_eq!(
                arrive(rig, member, ""),
                expected,
                "raid{level}, {order:?}, {member}"
            );
            assert_eq!(state(rig).as_deref(), Some("inactive"));
            assert_eq!(
                rig.home.hashes(),
                before,
                "nothing is written before the start"
            );
        } else {
            assert_eq!(arrive(rig, member, ""), "yes", "raid{level}, {order:?}");
        }
    }
    rig.verify(&format!("raid{level} of {order:?}, one by one"));
    rig.stop();
}

/// Some are assembled, and the rest arrives.
fn assembled_then_arriving(rig: &Rig, level: &str, set: usize) {
    let (first, rest) = split(rig, set);
    let enough = first.len() >= needed(level, rig.files.len());
    let line = format!("assemble r --run {}", first.join(" "));
    if !enough {
        // Refused, and nobody is held: the rest and those go on from there.
        rig.home.umd(&line).fails(1);
        assert_eq!(state(rig), None);
        let mut all = rest;
        all.extend(first);
        arrive_all(rig, level, &all);
        return;
    }
    rig.umd(&line);
    for member in &rest {
        let refused = rig
            .home
            .umd(&format!("incremental -c none {member}"))
            .fails(2);
        assert!(
            refused.contains("to active array (without --run) r"),
            "{refused}"
        );
        assert_eq!(arrive(rig, member, "--run"), "already");
    }
    rig.home.settle("r");
    eventually("the rest is in sync", || {
        rig.home.detail("r")["degraded"] == 0
    });
    rig.verify(&format!(
        "raid{level}: {first:?} assembled, {rest:?} arrived"
    ));
    rig.stop();
}

/// Some arrive, and the rest is assembled: those that wait are merged in.
fn arriving_then_assembled(rig: &Rig, level: &str, set: usize) {
    let (first, rest) = split(rig, set);
    for member in &first {
        arrive(rig, member, "");
    }
    let ran = rig.umd(&format!("assemble r {}", rest.join(" ")));
    assert!(
        ran.err.contains("Merging with already-assembled r"),
        "{}",
        ran.err
    );
    let whole = format!("started with {} drives", rig.files.len());
    assert!(ran.err.contains(&whole), "{}", ran.err);
    rig.verify(&format!(
        "raid{level}: {first:?} arrived, {rest:?} assembled"
    ));
    rig.stop();
}

fn every_set(level: &str, count: usize, options: &str) {
    let rig = Rig::create(
        count,
        &format!("-l{level} -n{count} -z 1M {options} --homehost=nas"),
    );
    rig.stop();
    for order in orders(&rig.files).iter().step_by(count) {
        arrive_all(&rig, level, order);
    }
    for set in 1..(1 << count) - 1 {
        assembled_then_arriving(&rig, level, set);
        arriving_then_assembled(&rig, level, set);
    }
}

#[test]
#[allow(non_snake_case)]
fn m03assem_incr_raid0() {
    every_set("0", 3, "-c 64K");
}

#[test]
#[allow(non_snake_case)]
fn m03assem_incr_linear() {
    every_set("linear", 3, "");
}

#[test]
#[allow(non_snake_case)]
fn m03assem_incr_raid1() {
    every_set("1", 3, "--bitmap=internal");
}

#[test]
#[allow(non_snake_case)]
fn m03assem_incr_raid4() {
    every_set("4", 3, "-c 64K -e 1.0");
}

#[test]
#[allow(non_snake_case)]
fn m03assem_incr_raid5() {
    every_set("5", 4, "-c 64K");
}

#[test]
#[allow(non_snake_case)]
fn m03assem_incr_raid6() {
    every_set("6", 4, "-c 64K -e 1.1");
}

/// With --run it starts as soon as it can; members that wait are nobody else's; one that has gone
/// is taken out, waiting or not.
#[test]
fn waiting_members_are_locked_and_can_leave() {
    let rig = Rig::create(3, "-l5 -n3 -z 1M -c 64K --homehost=nas");
    rig.stop();
    assert_eq!(arrive(&rig, "m0", ""), "no");
    let again = rig.home.umd("incremental -c none m0").fails(1);
    assert!(again.contains("is in use by array r"), "{again}");
    let stolen = rig.home.umd("zero-superblock m0").fails(1);
    assert!(
        stolen.contains("m0 is a member of the running array r"),
        "{stolen}"
    );
    let mdstat = rig.umd("mdstat").out;
    assert!(mdstat.contains("r : inactive m0[0](S)\n      "), "{mdstat}");
    let brief = rig.umd("detail --scan").out;
    assert!(
        brief.starts_with("INACTIVE-ARRAY /dev/md/r metadata=1.2 name=nas:r UUID="),
        "{brief}"
    );
    let shown = rig.umd("detail r").out;
    assert!(shown.contains("             State : inactive\n"), "{shown}");
    assert!(
        shown.contains("active device 0 (array not running)   "),
        "{shown}"
    );
    rig.home.umd("detail --test r").fails_quietly(2);
    // It leaves, and with it the array.
    rig.umd("incremental --fail m0");
    assert_eq!(state(&rig), None);
    let nobody = rig.home.umd("incremental --fail m0").fails(1);
    assert!(
        nobody.contains("m0 does not appear to be a component of any array"),
        "{nobody}"
    );
    // Two of three, then --run --scan.
    assert_eq!(arrive(&rig, "m2", ""), "no");
    assert_eq!(arrive(&rig, "m0", ""), "unsafe");
    let refused = rig.home.umd("action r check").fails(1);
    assert!(
        refused.contains("r does not run, it waits for members"),
        "{refused}"
    );
    let ran = rig.r("--run");
    assert!(ran.err.contains("started array r"), "{}", ran.err);
    rig.stop();
    arrive(&rig, "m2", "");
    arrive(&rig, "m0", "");
    let ran = rig.umd("-IRs");
    assert!(ran.err.contains("started array r"), "{}", ran.err);
    rig.verify("two of three");
    let refused = rig.home.umd("incremental --fail m2").fails(1);
    assert!(
        refused.contains("set device faulty failed for m2"),
        "{refused}"
    );
    assert_eq!(arrive(&rig, "m1", "--run"), "already");
    rig.home.settle("r");
    let ran = rig.umd("incremental --fail m2 --quiet");
    assert_eq!(ran.err, "");
    assert_eq!(rig.home.detail("r")["degraded"], 1);
    rig.verify("without m2");
}

/// The configuration file names arrays, and says which are not to be assembled by themselves.
#[test]
fn the_config_file_has_its_say() {
    let rig = Rig::create(2, "-l1 -n2 -z 1M --homehost=nas");
    let uuid = rig.home.detail("r")["uuid"]
        .as_str()
        .expect("uuid")
        .to_owned();
    rig.stop();
    let conf = |text: String| std::fs::write(rig.home.path("conf"), text).expect("writes");
    conf(format!("ARRAY data uuid={uuid}\n"));
    let ran = rig.umd("-I -c conf --export m0");
    assert_eq!(
        ran.out,
        "MD_DEVICE=data\nMD_DEVNAME=data\nMD_FOREIGN=no\nMD_STARTED=unsafe\n"
    );
    let ran = rig.umd("-I -c conf m1");
    assert!(
        ran.err
            .contains("m1 attached to data, which has been started."),
        "{}",
        ran.err
    );
    rig.umd("stop data");
    conf(format!("ARRAY <ignore> uuid={uuid}\n"));
    let refused = rig.home.umd("-I -c conf m0").fails(1);
    assert!(refused.contains("conf:1 says to ignore"), "{refused}");
    conf("AUTO -all\n".into());
    rig.home.umd("-I -c conf m0").fails(1);
    conf("HOMEHOST nas\n".into());
    let ran = rig.umd("-I -R -c conf --export m0");
    assert_eq!(
        ran.out,
        "MD_DEVICE=r\nMD_DEVNAME=r\nMD_FOREIGN=no\nMD_STARTED=yes\n"
    );
}

/// Members of version 0.90 say less: no name, no offset, and where they are depends on their size.
#[test]
fn m03assem_incr_v0() {
    for (level, count) in [("1", 2), ("5", 3), ("6", 4), ("10", 4)] {
        let chunk = if level == "1" { "" } else { "-c 64K" };
        let options = format!("-l{level} -n{count} -z 2M -e 0.90 {chunk}");
        let rig = Rig::create(count, &options);
        // Such an array has a number and no name.
        let uuid = rig.home.detail("r")["uuid"].clone();
        let line = format!("ARRAY r uuid={}\n", uuid.as_str().expect("text"));
        std::fs::write(rig.home.path("run/conf"), line).expect("writes");
        rig.stop();
        let arrive = |member: &str, options: &str| {
            let line = format!("incremental -c run/conf --export {options} {member}");
            let ran = rig.umd(&line);
            let start = "MD_DEVICE=r\nMD_DEVNAME=r\nMD_FOREIGN=";
            assert!(ran.out.starts_with(start), "{}", ran.out);
            started(&ran.out).to_owned()
        };
        for order in orders(&rig.files).iter().step_by(count - 1) {
            let before = rig.home.hashes();
            for (index, member) in order.iter().enumerate() {
                let here = index + 1;
                let said = arrive(member, "");
                match here {
                    _ if here == count => assert_eq!(said, "yes", "raid{level} {order:?}"),
                    _ if here >= needed(level, count) && level != "10" => {
                        assert_eq!(said, "unsafe", "raid{level} {order:?}");
                    }
                    _ => assert!(said != "yes", "raid{level} {order:?}"),
                }
                if here < count {
                    assert_eq!(state(&rig).as_deref(), Some("inactive"));
                    assert_eq!(rig.home.hashes(), before, "nothing is written before that");
                }
            }
            rig.verify("one by one");
            rig.stop();
        }
        // The last is missing: started without it, and it comes back later.
        let (last, first) = rig.files.split_last().expect("members");
        for member in first {
            arrive(member, "--run");
        }
        // A RAID6 may have started before the third of four came.
        rig.home.settle("r");
        eventually("what is there", || rig.home.detail("r")["degraded"] == 1);
        rig.verify("without the last");
        arrive(last, "--run");
        rig.home.settle("r");
        eventually("the rebuild", || rig.home.detail("r")["degraded"] == 0);
        rig.verify("with the last again");
        rig.agrees("after the rebuild");
        rig.stop();
    }
}
