//! 01*: members fail, in every combination the level allows.

use super::{MIB, Rig, orders, pairs};

/// Takes these out, has the array work without them, and puts them back from nothing.
fn lose_and_rebuild(rig: &mut Rig, lost: &[usize], seed: u64, when: &str) {
    for index in lost {
        rig.r(&format!("--fail m{index} --remove m{index}"));
    }
    let degraded = rig.home.detail("r")["degraded"].as_u64();
    assert_eq!(degraded, Some(lost.len() as u64), "{when}");
    rig.verify(when);
    let at = (seed * 37) % 16 * 65_536 + 512;
    rig.write(at, seed, 90_112);
    rig.verify(when);
    for index in lost {
        rig.umd(&format!("zero-superblock m{index}"));
        rig.r(&format!("--add m{index}"));
    }
    rig.home.settle("r");
    assert_eq!(rig.home.detail("r")["degraded"], 0, "{when}");
    rig.verify(when);
}

/// Any order of failing, down to the last one; that one stays.
#[test]
fn m01r1fail() {
    let mut rig = Rig::create(3, "-l1 -n3 -z 2M");
    for (round, order) in orders(&rig.files.clone()).iter().enumerate() {
        for name in &order[..2] {
            rig.r(&format!("--fail {name}"));
            rig.write(round as u64 * 4096, round as u64, 8192);
            rig.verify(name);
        }
        let last = &order[2];
        let text = rig.home.umd(&format!("r --fail {last}")).fails(1);
        assert!(text.contains(last), "{text}");
        rig.verify("on the last one");
        rig.r(&format!("--remove failed --add {} {}", order[0], order[1]));
        rig.home.settle("r");
        rig.agrees("after the rebuild");
    }
}

#[test]
fn m01r1fail_with_spares() {
    let mut rig = Rig::create(4, "-l1 -n2 -x2 -z 2M");
    for (round, name) in ["m0", "m1", "m2"].iter().enumerate() {
        rig.r(&format!("--fail {name}"));
        rig.write(0, round as u64 + 5, 65_536);
        rig.home.settle("r");
        let degraded = u64::from(round == 2);
        assert_eq!(rig.home.detail("r")["degraded"], degraded, "{name}");
        rig.verify(name);
    }
    rig.r("--remove failed");
    rig.stop();
    rig.umd("assemble r --run m3");
    rig.verify("the second spare alone");
}

#[test]
fn m01r5fail() {
    let mut rig = Rig::create(4, "-l5 -n4 -z 2M -c 64K");
    for index in 0..4 {
        lose_and_rebuild(&mut rig, &[index], 20 + index as u64, &format!("m{index}"));
        rig.agrees("rebuilt");
    }
}

/// A member fails before the first parity is there, and the one that is being rebuilt fails.
#[test]
fn m01r5fail_early() {
    for lost in 0..3 {
        let mut rig = Rig::create(4, "-l5 -n3 -x1 -z 2M -c 64K");
        rig.umd("action r frozen");
        rig.r(&format!("--fail m{lost}"));
        rig.write(MIB, 3, 200_704);
        rig.verify("frozen");
        rig.umd("action r idle");
        rig.r("--fail m3"); // Perhaps rebuilt, perhaps not.
        rig.home.settle("r");
        assert_eq!(rig.home.detail("r")["degraded"], 1);
        rig.verify("the spare failed");
        rig.r("--remove failed");
        rig.umd("zero-superblock m3");
        rig.r("--add m3");
        rig.home.settle("r");
        assert_eq!(rig.home.detail("r")["degraded"], 0);
        rig.agrees("the spare works");
        rig.verify("the spare works");
    }
}

/// One more than parity can replace is refused, and what is there stays.
#[test]
fn m01r5fail_two() {
    let rig = Rig::create(4, "-l5 -n4 -z 2M -c 64K");
    rig.r("--fail m1");
    for other in ["m0", "m2", "m3"] {
        rig.home.umd(&format!("r --fail {other}")).fails(1);
    }
    rig.verify("without m1");
    assert_eq!(rig.home.detail("r")["degraded"], 1);
}

#[test]
fn m01r5integ() {
    for layout in ["ls", "la", "rs", "ra", "parity-first", "parity-last"] {
        let mut rig = Rig::create(4, &format!("-l5 -n4 -z 2M -c 64K -p {layout}"));
        for index in 0..4 {
            let when = format!("{layout} without m{index}");
            lose_and_rebuild(&mut rig, &[index], 30 + index as u64, &when);
        }
        rig.agrees(layout);
    }
}

#[test]
fn m01raid6integ() {
    for layout in [
        "ls",
        "la",
        "rs",
        "ra",
        "ddf-N-continue",
        "right-asymmetric-6",
    ] {
        let mut rig = Rig::create(5, &format!("-l6 -n5 -z 2M -c 64K -p {layout}"));
        for (one, other) in pairs(5) {
            let when = format!("{layout} without m{one} and m{other}");
            let seed = 40 + (one * 5 + other) as u64;
            lose_and_rebuild(&mut rig, &[one, other], seed, &when);
        }
        rig.agrees(layout);
    }
}

/// A mirror that was made short gets its second member, and a third as a spare.
#[test]
fn m02r1add() {
    let mut rig = Rig::create(1, "-l1 -n2 -z 2M missing" /* m0 is in slot 1 */);
    assert_eq!(rig.home.detail("r")["degraded"], 1);
    let bytes = std::fs::metadata(rig.home.path("m0")).expect("there").len();
    for name in ["m1", "m2"] {
        std::fs::write(rig.home.path(name), vec![0x77; bytes as usize]).expect("writes");
        rig.r(&format!("--add {name}"));
        rig.home.settle("r");
    }
    rig.write(4096, 6, 8192);
    let room = rig.room();
    let mdstat = rig.umd("mdstat").out;
    assert!(mdstat.contains(" m2[3](S) m1[2] m0[1]\n"), "{mdstat}");
    rig.stop();
    rig.files = vec!["m0".into(), "m1".into()];
    let columns = rig.columns(room);
    assert!(columns[0] == rig.data && columns[1] == rig.data);
}
