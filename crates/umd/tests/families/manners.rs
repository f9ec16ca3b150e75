//! 06*: names, and members that are read only when there is no other way.

use super::{POISON, Rig, poke};

#[test]
fn m06name() {
    let rig = Rig::create(2, "-l1 -n2 -z 1M --name=photos --homehost=nas");
    assert_eq!(rig.home.detail("r")["set_name"], "nas:photos");
    rig.stop();
    rig.umd("assemble r --name=photos m0 m1");
    rig.verify("by its short name");
    rig.stop();
    rig.umd("assemble r --name=nas:photos m0 m1");
    rig.stop();
    for wrong in ["pictures", "other:photos", "r"] {
        let line = format!("assemble r --name={wrong} m0 m1");
        rig.home.umd(&line).fails(1);
    }
    rig.umd("assemble m0 m1");
    assert_eq!(rig.home.detail("photos")["set_name"], "nas:photos");
}

#[test]
fn m06wrmostly() {
    let home = super::Home::new();
    home.umd("create r -l1 -n3 -z 2M m0 --write-mostly m1 m2")
        .ok();
    home.settle("r");
    let mut rig = Rig {
        home,
        files: vec!["m0".into(), "m1".into(), "m2".into()],
        data: Vec::new(),
    };
    rig.fill(9);
    let detail = rig.home.detail("r");
    let members = detail["members"].as_array().expect("members");
    let mostly: Vec<bool> = members
        .iter()
        .map(|one| one["write_mostly"] == true)
        .collect();
    assert_eq!(mostly, [false, true, true]);
    assert!(rig.umd("mdstat").out.contains("m2[2](W) m1[1](W) m0[0]"));
    let (offset, bytes) = rig.room();
    rig.stop();
    // Nobody who reads them gets what was written.
    for at in (0..bytes as u64).step_by(POISON.len()) {
        poke(&rig.home, "m1", offset + at, &POISON);
        poke(&rig.home, "m2", offset + at, &POISON);
    }
    rig.start();
    for _ in 0..3 {
        rig.verify("they are not read");
    }
    rig.write(8192, 6, 4096);
    rig.r("--fail m0");
    let mut client = rig.home.nbd("r");
    let read = client.pread(0, 16_384).expect("reads");
    assert!(
        read[..8192].iter().all(|byte| *byte == 0x5a),
        "there is no other way"
    );
    assert!(
        read[8192..12_288] == rig.data[8192..12_288],
        "they are written"
    );
}
