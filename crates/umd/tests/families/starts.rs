//! 03*: assembly by every word, in every order, with strangers and stale members.

use super::{Rig, orders};

/// A second array whose members lie about.
fn stranger(rig: &Rig) {
    rig.umd("create other -l1 -n2 -z 1M --homehost=nas x0 x1");
    rig.home.settle("other");
    rig.umd("stop other");
}

fn by_every_word(mut rig: Rig, short: bool) {
    let detail = rig.home.detail("r");
    let uuid = detail["uuid"].as_str().expect("a uuid").to_owned();
    let level = detail["level"].as_str().expect("a level").to_owned();
    rig.stop();
    stranger(&rig);
    let all = rig.names();
    for order in orders(&rig.files) {
        rig.umd(&format!("assemble r {}", order.join(" ")));
        rig.verify(&format!("{level} from {order:?}"));
        rig.stop();
    }
    for line in [
        format!("assemble {all}"),
        format!("assemble r --uuid={uuid} {all} x0 x1"),
        format!("assemble r --name=r {all} x1 x0"),
        format!("assemble r --name=nas:r {all}"),
        format!("assemble --scan x0 {all}"),
    ] {
        rig.umd(&line);
        rig.verify(&line);
        rig.umd("stop --scan");
    }
    let before = rig.home.hashes();
    for line in [
        format!("assemble r {all} x0"),
        format!("assemble r --uuid=00000000:00000000:00000000:00000001 {all}"),
        format!("assemble r --name=q {all}"),
    ] {
        rig.home.umd(&line).fails(1);
        assert_eq!(rig.home.hashes(), before, "{line}");
    }
    // Without each member in turn: only with --run, and not at all where all are needed.
    for lost in 0..rig.files.len() {
        let mut rest = rig.files.clone();
        rest.remove(lost);
        let rest = rest.join(" ");
        let line = format!("assemble r --run --readonly {rest}");
        if short {
            rig.umd(&line);
            rig.verify(&line);
            rig.stop();
        } else {
            rig.home.umd(&line).fails(1);
        }
        assert_eq!(rig.home.hashes(), before, "{line}");
    }
    rig.start();
    rig.write(512, 4, 4096);
    rig.verify("whole again");
}

#[test]
fn m03r0assem() {
    by_every_word(Rig::create(3, "-l0 -n3 -z 2M -c 64K --homehost=nas"), false);
}

#[test]
fn m03r5assem() {
    by_every_word(
        Rig::create(3, "-l5 -n3 -z 2M -c 64K --homehost=nas -e 1.0"),
        true,
    );
}

#[test]
#[allow(non_snake_case)]
fn m03r5assemV1() {
    for metadata in ["1.1", "1.2"] {
        let options = format!("-l5 -n3 -z 2M -c 64K --homehost=nas -e {metadata}");
        by_every_word(Rig::create(3, &options), true);
    }
}

/// Whoever was left behind does not get in, whichever it is and wherever it is named.
#[test]
fn m03r5assem_stale() {
    for stale in 0..3 {
        let mut rig = Rig::create(3, "-l5 -n3 -z 2M -c 64K");
        rig.stop();
        let mut rest = rig.files.clone();
        let left = rest.remove(stale);
        rig.umd(&format!("assemble r --run {}", rest.join(" ")));
        rig.write(0, 50 + stale as u64, 1 << 20);
        rig.stop();
        for order in orders(&rig.files) {
            let ran = rig.umd(&format!("assemble r {}", order.join(" ")));
            assert!(ran.err.contains(&left), "{}", ran.err);
            assert!(ran.err.contains("2 drives (out of 3)"), "{}", ran.err);
            rig.verify(&format!("{order:?} with a stale {left}"));
            rig.stop();
        }
        rig.umd(&format!("assemble r {}", rest.join(" ")));
        rig.r(&format!("--add {left}"));
        rig.home.settle("r");
        rig.agrees("taken back");
        rig.verify("taken back");
    }
}
