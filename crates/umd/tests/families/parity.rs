//! 19*: RAID6 knows which member is wrong, and repair does no harm.

use super::{POISON, Rig, pairs, poke};
use std::collections::BTreeSet;

/// Those with which every pair of members is tried.
const LAYOUTS: [&str; 4] = ["ls", "ra", "ddf-zero-restart", "left-asymmetric-6"];
/// The others.
const MORE: [&str; 10] = [
    "la",
    "rs",
    "parity-first",
    "parity-last",
    "ddf-N-restart",
    "ddf-N-continue",
    "right-asymmetric-6",
    "left-symmetric-6",
    "right-symmetric-6",
    "parity-first-6",
];

/// Every layout, with the pairs of members to try.
fn tries() -> impl Iterator<Item = (&'static str, Vec<(usize, usize)>)> {
    let few = MORE.into_iter().enumerate();
    // Two of the ten pairs, and among all of them each pair twice.
    let few = few.map(|(index, layout)| (layout, vec![pairs(5)[index], pairs(5)[9 - index]]));
    LAYOUTS
        .into_iter()
        .map(|layout| (layout, pairs(5)))
        .chain(few)
}

fn raid6(layout: &str) -> (Rig, (u64, usize)) {
    let rig = Rig::create(5, &format!("-l6 -n5 -z 1M -c 64K -p {layout}"));
    let room = rig.room();
    rig.stop();
    (rig, room)
}

/// Members that the last check calls wrong, and whether anything is wrong that nobody is named for.
fn named(rig: &Rig) -> (BTreeSet<usize>, bool) {
    let detail = rig.home.detail("r");
    let (mut wrong, mut anonymous) = (BTreeSet::new(), false);
    for place in detail["mismatches"].as_array().expect("places") {
        let members = place["members"].as_array().expect("members").iter();
        let slots: Vec<u64> = members
            .filter(|one| one["wrong"] == true)
            .map(|one| one["slot"].as_u64().expect("a slot"))
            .collect();
        anonymous |= slots.is_empty();
        wrong.extend(slots.iter().map(|slot| *slot as usize));
    }
    (wrong, anonymous)
}

/// Any one member, anywhere: it is named, and nothing is changed by looking.
#[test]
fn m19raid6check() {
    for layout in LAYOUTS.into_iter().chain(MORE) {
        let (rig, room) = raid6(layout);
        for slot in 0..5 {
            let name = &rig.files[slot];
            let good = super::peek(&rig.home, name, room.0 + 69_632, 4096);
            poke(&rig.home, name, room.0 + 69_632, &POISON);
            let before = rig.columns(room);
            rig.start();
            rig.umd("action r check --wait");
            let found = (BTreeSet::from([slot]), false);
            assert_eq!(named(&rig), found, "{layout}, m{slot}");
            assert_eq!(rig.home.detail("r")["mismatch_cnt"], 8);
            rig.stop();
            assert!(rig.columns(room) == before, "a check writes nothing");
            poke(&rig.home, name, room.0 + 69_632, &good);
        }
    }
}

/// Every pair of members is wrong, each in rows of its own: all of it is mended.
#[test]
fn m19raid6auto_repair() {
    for (layout, pairs) in tries() {
        let (rig, room) = raid6(layout);
        let good = rig.columns(room);
        for (one, other) in pairs {
            for row in 0..16 {
                let name = &rig.files[if row % 2 == 0 { one } else { other }];
                poke(&rig.home, name, room.0 + row * 65_536 + 4096, &POISON);
            }
            rig.start();
            rig.umd("action r repair --wait");
            let found = (BTreeSet::from([one, other]), false);
            assert_eq!(named(&rig), found, "{layout}");
            rig.verify(layout);
            rig.stop();
            assert!(rig.columns(room) == good, "{layout}: m{one}, m{other}");
        }
    }
}

/// Every pair is wrong in the same rows: who knows which two they are has both computed afresh.
#[test]
fn m19raid6repair() {
    for (layout, pairs) in tries() {
        let (rig, room) = raid6(layout);
        let good = rig.columns(room);
        for (one, other) in pairs {
            for name in [&rig.files[one], &rig.files[other]] {
                for row in 0..16 {
                    poke(&rig.home, name, room.0 + row * 65_536, &POISON);
                }
            }
            rig.start();
            let two = format!("m{one} m{other}");
            rig.r(&format!("--fail {two} --remove {two}"));
            rig.verify(layout);
            rig.umd(&format!("zero-superblock {two}"));
            // One after the other, so that each gets the slot it had.
            for index in [one, other] {
                rig.r(&format!("--add m{index}"));
                rig.home.settle("r");
            }
            rig.verify(layout);
            rig.agrees(layout);
            rig.stop();
            assert!(rig.columns(room) == good, "{layout}: m{one}, m{other}");
        }
    }
}

/// What agrees is not touched, and where nobody can be named no data is made up.
#[test]
fn m19repair_does_not_destroy() {
    let cases = [
        ("1", 2, ""),
        ("1", 3, ""),
        ("5", 3, ""),
        ("6", 5, ""),
        ("10", 4, "-p f2"),
    ];
    for (level, count, layout) in cases {
        let rig = Rig::create(count, &format!("-l{level} -n{count} -z 1M -c 64K {layout}"));
        let room = rig.room();
        let good = rig.columns(room);
        for words in ["repair", "repair --repair=parity", "check"] {
            rig.umd(&format!("action r {words} --wait"));
            assert_eq!(rig.home.detail("r")["mismatch_cnt"], 0);
            rig.verify(words);
        }
        rig.stop();
        assert!(
            rig.columns(room) == good,
            "RAID{level}: nothing was written"
        );
    }
    // Two members with data are wrong at once; the third keeps its own (m0 and m4 are parity).
    let (rig, room) = raid6("parity-first-6");
    let good = rig.columns(room);
    for name in ["m0", "m1"] {
        poke(
            &rig.home,
            name,
            room.0 + 4096,
            &super::pattern(name.len() as u64, 4096),
        );
    }
    poke(&rig.home, "m1", room.0 + 4096, &super::pattern(77, 4096));
    rig.start();
    rig.umd("action r repair --wait");
    assert!(rig.home.detail("r")["mismatch_cnt"] != 0);
    assert_eq!(
        named(&rig),
        (BTreeSet::new(), true),
        "it cannot be told who"
    );
    rig.agrees("made equal");
    rig.stop();
    let now = rig.columns(room);
    assert!(now[3] == good[3], "a member that was right is left alone");
}
