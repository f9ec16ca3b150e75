//! 00*: what each level is for.

use super::{Home, MIB, Rig, peek};
use std::fs;

fn image(home: &Home, name: &str, bytes: u64) {
    let file = fs::File::create(home.path(name)).expect("made");
    file.set_len(bytes).expect("grows");
}

/// Members of the sizes given, in MiB of data; the data offset is 1 MiB.
fn uneven(level: &str, sizes: &[u64]) -> Rig {
    let home = Home::new();
    let files: Vec<String> = (0..sizes.len()).map(|index| format!("m{index}")).collect();
    for (name, size) in files.iter().zip(sizes) {
        image(&home, name, (size + 1) * MIB);
    }
    let count = sizes.len();
    home.umd(&format!(
        "create r -l{level} -n{count} -c 64K --data-offset=1M {}",
        files.join(" ")
    ))
    .ok();
    let mut rig = Rig {
        home,
        files,
        data: Vec::new(),
    };
    rig.fill(3);
    rig
}

#[test]
fn m00linear() {
    let rig = uneven("linear", &[3, 5, 2]);
    assert_eq!(rig.data.len() as u64, 10 * MIB);
    rig.verify("running");
    rig.stop();
    let mut joined = peek(&rig.home, "m0", MIB, 3 << 20);
    joined.extend(peek(&rig.home, "m1", MIB, 5 << 20));
    joined.extend(peek(&rig.home, "m2", MIB, 2 << 20));
    assert!(joined == rig.data, "one member after the other");
    rig.start();
    rig.verify("started again");
}

#[test]
fn m00raid0() {
    for metadata in ["0.90", "1.0", "1.1", "1.2"] {
        let rig = Rig::create(3, &format!("-l0 -n3 -z 2M -c 64K -e {metadata}"));
        assert_eq!(rig.data.len() as u64, 6 * MIB, "{metadata}");
        let offset = rig.home.detail("r")["members"][0]["data_offset_bytes"].as_u64();
        rig.stop();
        let columns = rig.columns((offset.expect("a place"), 2 << 20));
        for (index, chunk) in rig.data.chunks(64 << 10).enumerate() {
            let at = index / 3 * (64 << 10);
            let held = &columns[index % 3][at..at + (64 << 10)];
            assert!(held == chunk, "{metadata}: chunk {index}");
        }
        rig.start();
        rig.verify(metadata);
    }
}

/// Members that differ: behind the shorter ones, only the longer ones are striped.
#[test]
fn m00raid0_of_three_zones() {
    let rig = uneven("0", &[2, 3, 5]);
    assert_eq!(rig.data.len() as u64, 10 * MIB);
    rig.stop();
    rig.start();
    rig.verify("started again");
    rig.stop();
    let tail = &rig.data[(2 * 3 + 2) << 20..];
    let held = peek(&rig.home, "m2", MIB + 3 * MIB, 2 << 20);
    assert!(held == tail, "the last zone is on the longest member alone");
}

#[test]
fn m00raid1() {
    for (count, spares) in [(2, 0), (3, 0), (2, 1)] {
        let all = count + spares;
        let rig = Rig::create(all, &format!("-l1 -n{count} -x{spares} -z 2M"));
        let room = rig.room();
        rig.verify("running");
        rig.stop();
        let columns = rig.columns(room);
        for (index, column) in columns.iter().enumerate().take(count) {
            assert!(*column == rig.data, "mirror {index} of {count}");
        }
        for spare in &columns[count..] {
            assert!(spare.iter().all(|byte| *byte == 0), "a spare holds nothing");
        }
        rig.start();
        rig.verify("started again");
    }
}

/// The members of a RAID4 or RAID5 cancel each other out, whatever the layout.
fn cancels(rig: &Rig, room: (u64, usize), when: &str) {
    let mut sum = vec![0; room.1];
    for column in rig.columns(room) {
        sum.iter_mut()
            .zip(&column)
            .for_each(|(sum, byte)| *sum ^= byte);
    }
    assert!(sum.iter().all(|byte| *byte == 0), "{when}: parity is wrong");
}

#[test]
fn m00raid4() {
    let rig = Rig::create(4, "-l4 -n4 -z 2M -c 64K");
    let room = rig.room();
    rig.verify("running");
    rig.stop();
    cancels(&rig, room, "raid4");
    let columns = rig.columns(room);
    for (index, chunk) in rig.data.chunks(64 << 10).enumerate() {
        let at = index / 3 * (64 << 10);
        assert!(columns[index % 3][at..at + (64 << 10)] == *chunk, "{index}");
    }
    rig.start();
    rig.agrees("raid4");
}

#[test]
fn m00raid5() {
    let mut seen = Vec::new();
    for layout in ["ls", "la", "rs", "ra", "parity-first", "parity-last"] {
        let mut rig = Rig::create(4, &format!("-l5 -n4 -z 2M -c 64K -p {layout}"));
        rig.write(65_536 + 512, 9, 100_352); // Parts of two rows.
        let room = rig.room();
        rig.stop();
        cancels(&rig, room, layout);
        let columns = rig.columns(room);
        assert!(!seen.contains(&columns), "{layout} is like another one");
        seen.push(columns);
        rig.start();
        rig.verify(layout);
    }
}

#[test]
fn m00raid6() {
    for layout in [
        "ls",
        "la",
        "rs",
        "ra",
        "ddf-zero-restart",
        "left-symmetric-6",
    ] {
        let mut rig = Rig::create(5, &format!("-l6 -n5 -z 2M -c 64K -p {layout}"));
        rig.write(65_536 + 512, 9, 100_352);
        rig.verify(layout);
        rig.agrees(layout);
        rig.stop();
        rig.start();
        rig.verify(layout);
    }
}

/// Every byte is on as many members as there are copies.
#[test]
fn m00raid10() {
    for (count, layout, copies) in [
        (4, "n2", 2),
        (5, "n2", 2),
        (4, "f2", 2),
        (4, "o2", 2),
        (5, "n3", 3),
        (4, "o3", 3),
    ] {
        let rig = Rig::create(count, &format!("-l10 -n{count} -z 2M -c 64K -p {layout}"));
        let room = rig.room();
        rig.verify(layout);
        rig.agrees(layout);
        rig.stop();
        let columns = rig.columns(room);
        for (index, chunk) in rig.data.chunks_exact(64 << 10).enumerate() {
            let holds = |column: &&Vec<u8>| column.chunks(64 << 10).any(|held| held == chunk);
            let held = columns.iter().filter(holds).count();
            assert_eq!(held, copies, "{layout} on {count}: chunk {index}");
        }
        rig.start();
        rig.verify(layout);
    }
}

#[test]
fn m00readonly() {
    for (level, count) in [(0, 2), (1, 2), (4, 3), (5, 3), (6, 4), (10, 4)] {
        let mut rig = Rig::create(count, &format!("-l{level} -n{count} -z 2M -c 64K"));
        rig.umd("--readonly r");
        assert_eq!(rig.home.detail("r")["array_state"], "readonly");
        let before = rig.home.hashes();
        let mut client = rig.home.nbd("r");
        client.pwrite(0, &[1; 4096]).expect_err("read-only");
        client.disconnect().expect("leaves");
        rig.verify("read-only");
        assert_eq!(rig.home.hashes(), before, "raid{level}");
        rig.umd("--readwrite r");
        rig.write(4096, 8, 4096);
        rig.stop();
        let before = rig.home.hashes();
        rig.umd(&format!("assemble --readonly r {}", rig.names()));
        rig.verify("started read-only");
        rig.stop();
        assert_eq!(
            rig.home.hashes(),
            before,
            "raid{level}: nothing was written"
        );
    }
}

#[test]
fn m00names() {
    let home = Home::new();
    for (name, homehost, stored) in [
        ("media", "nas", "nas:media"),
        ("7", "nas", "nas:7"),
        ("home.old-2", "none", "home.old-2"),
        ("any", "any", "any"),
    ] {
        home.umd(&format!(
            "create {name} -l1 -n2 -z 1M --homehost={homehost} a{name} b{name}"
        ))
        .ok();
        assert_eq!(home.detail(name)["set_name"], stored);
        home.umd(&format!("stop {name}")).ok();
        // The name it was given last is what it runs under, without being asked.
        home.umd(&format!("assemble a{name} b{name}")).ok();
        let runs = if name == "7" { "md7" } else { name };
        assert_eq!(home.detail(runs)["set_name"], stored);
        home.umd(&format!("stop {runs}")).ok();
    }
    for name in ["a/b", "..", ".hidden", "a:b", "a[0]", &"x".repeat(33)] {
        home.umd(&format!("create {name} -l1 -n2 -z 1M x y"))
            .fails(2);
        assert!(!home.path("x").exists(), "{name}: no file was made");
    }
}
