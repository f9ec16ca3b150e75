//! Metadata 0.90, arrays without superblocks, and `assemble --update=`: from the outside, on files.

mod common;

use common::{Home, pattern};
use std::fs;

use umd_format::v090::{SUPERBLOCK_BYTES, swapped};

#[test]
fn an_array_of_version_0_90_lives_through_a_failure() {
    let home = Home::new();
    home.umd("create md3 -l5 -n3 -x1 -e0.90 -z 8M --bitmap=internal --homehost=none a b c d")
        .ok();
    home.umd("wait md3");
    home.nbd("md3")
        .pwrite(65_536, &pattern(1, 1 << 20))
        .expect("writes");
    home.umd("md3 --fail b").ok();
    home.umd("wait md3");
    let detail = home.detail("md3");
    assert_eq!(detail["metadata"], "0.90");
    assert_eq!(
        (&detail["preferred_minor"], &detail["degraded"]),
        (&3.into(), &0.into())
    );
    // The spare has the number of the slot now, the failed one stands behind it.
    let numbers = detail["members"].as_array().expect("members").iter();
    let numbers: Vec<u64> = numbers
        .map(|one| one["number"].as_u64().expect("a number"))
        .collect();
    assert_eq!(numbers, [0, 3, 2, 1]);
    home.umd("md3 --remove b").ok();
    home.umd("stop md3").ok();
    // It runs under its number; the one that failed is left out, and comes back as a spare.
    let said = home.umd("assemble a b c d").ok();
    assert!(said.err.contains("ignoring "), "{}", said.err);
    assert!(
        said.err.contains("md3 has been started with 3 drives."),
        "{}",
        said.err
    );
    let read = home.nbd("md3").pread(65_536, 1 << 20).expect("reads");
    assert!(read == pattern(1, 1 << 20));
    home.umd("md3 --add b").ok();
    let mdstat = home.umd("mdstat").ok().out;
    assert!(
        mdstat.contains("md3 : active raid5 b[3](S) c[2] d[1] a[0]\n"),
        "{mdstat}"
    );
    assert!(
        mdstat.contains("16384 blocks level 5, 512k chunk"),
        "{mdstat}"
    );
    home.umd("stop md3").ok();
}

#[test]
fn limits_of_version_0_90_and_its_other_byte_order() {
    let home = Home::new();
    let names: Vec<String> = (0..28).map(|index| format!("m{index}")).collect();
    let all = names.join(" ");
    let text = home
        .umd(&format!("create md0 -l1 -n28 -e0.90 -z 1M {all}"))
        .fails(2);
    assert_eq!(
        text,
        "umd: 0.90 metadata supports at most 27 devices per array\n"
    );
    assert!(!home.path("m0").exists());
    home.umd("create md0 -l1 -n2 -e0.90 -z 8M a b").ok();
    home.umd("wait md0");
    home.umd("stop md0").ok();
    for name in ["a", "b"] {
        let mut bytes = fs::read(home.path(name)).expect("reads");
        let at = bytes.len() / 65_536 * 65_536 - 65_536;
        let turned = swapped(&bytes[at..at + SUPERBLOCK_BYTES]);
        bytes[at..at + SUPERBLOCK_BYTES].copy_from_slice(&turned);
        fs::write(home.path(name), bytes).expect("writes");
    }
    let before = home.hashes();
    let text = home.umd("assemble md0 a b").fails(1);
    assert!(
        text.contains("other byte order: assemble with --update=byteorder"),
        "{text}"
    );
    let text = home
        .umd("assemble md0 --update=byteorder --dry-run a b")
        .ok()
        .out;
    assert!(
        text.contains("would update byteorder: 4096 bytes at sector "),
        "{text}"
    );
    assert_eq!(home.hashes(), before);
    home.umd("assemble md0 --update=byteorder a b").ok();
    home.umd("stop md0").ok();
    home.umd("assemble md0 a b").ok();
    home.umd("stop md0").ok();
    let text = home.umd("assemble md0 --update=byteorder a b").fails(2);
    assert!(
        text.contains("it has the byte order of this machine"),
        "{text}"
    );
}

#[test]
fn updates_that_make_no_sense_change_no_byte() {
    let home = Home::new();
    home.umd("create r -l5 -n3 -z 8M --bitmap=internal a b c")
        .ok();
    home.umd("create s -l1 -n2 -z 8M d e").ok();
    for name in ["r", "s"] {
        home.umd(&format!("wait {name}"));
        home.umd(&format!("stop {name}")).ok();
    }
    let before = home.hashes();
    for (options, code, text) in [
        (
            "--update=foo a b c",
            2,
            "'--update=foo' is invalid.  Valid --update options are: name",
        ),
        (
            "--update=ppl a b c",
            2,
            "--update=ppl is not available in this version",
        ),
        ("--update=lbs a b c", 2, "--update=lbs needs a size"),
        ("--update=lbs=x a b c", 2, "lbs=x is no size in bytes"),
        ("--update=lbs=1000 a b c", 2, "logical blocks of 1000 bytes"),
        (
            "--update=layout-original a b c",
            2,
            "raid5 has no choice of raid0 layouts",
        ),
        (
            "--update=metadata a b c",
            2,
            "makes 1.0 of 0.90, and this is 1.2",
        ),
        ("--update=uuid --uuid=12 a b c", 2, "Bad uuid: 12"),
        (
            "--update=resync --readonly a b c",
            2,
            "cannot go with --readonly",
        ),
        (
            "--update=resync --scan a b c",
            2,
            "--update is for one array",
        ),
        (
            "--update=name --name=a234567890123456789012345678901234 a b c",
            2,
            "longer than 31",
        ),
        ("--update=resync a b c d", 1, "d to "),
        (
            "--update=resync a b",
            1,
            "not enough to start the array while not clean",
        ),
    ] {
        let said = home.umd(&format!("assemble x {options}")).fails(code);
        assert!(said.contains(text), "{options}: {said}");
        assert_eq!(home.hashes(), before, "{options}");
    }
    let text = home.umd("assemble --update=name a b c").fails(2);
    assert!(text.contains("needs the new name: --name=NAME"), "{text}");
    let dry = home
        .umd("assemble x --update=resync --dry-run a b c")
        .ok()
        .out;
    assert!(
        dry.contains("would update resync: 512 bytes at sector 8 of "),
        "{dry}"
    );
    assert!(dry.contains("would resync from sector 0"), "{dry}");
    assert_eq!(home.hashes(), before);
    home.umd("assemble x --update=name --name=fresh --homehost=nas a b c")
        .ok();
    assert_eq!(home.detail("x")["set_name"], "nas:fresh");
    home.umd("stop x").ok();
}

#[test]
fn an_update_that_reached_one_member_only_is_finished_by_the_same_order() {
    let home = Home::new();
    home.umd("create r -l1 -n3 -z 8M a b c").ok();
    home.umd("wait r");
    home.umd("stop r").ok();
    let text = home.umd("serve r --update=homehost a b c").fails(2);
    assert!(text.contains("unexpected argument '--update"), "{text}");
    // The UUID reached one member only: the same order finishes what was begun.
    let uuid = "00112233:44556677:8899aabb:ccddeeff";
    home.umd(&format!("assemble r --run --update=uuid --uuid={uuid} a"))
        .ok();
    home.umd("stop r").ok();
    home.umd(&format!("assemble r --update=uuid --uuid={uuid} a b c"))
        .ok();
    assert_eq!(home.detail("r")["uuid"], uuid);
    home.umd("stop r").ok();
}

#[test]
fn what_is_built_is_forgotten_when_it_stops() {
    let home = Home::new();
    let data = pattern(3, 4 << 20);
    for name in ["a", "b", "c"] {
        fs::write(home.path(name), &data).expect("writes");
    }
    let before = home.hashes();
    home.umd("--build md8 -l1 -n2 --assume-clean a b").ok();
    let mdstat = home.umd("mdstat").ok().out;
    let line = "md8 : active raid1 b[1] a[0]\n      4096 blocks super non-persistent [2/2] [UU]\n";
    assert!(mdstat.contains(line), "{mdstat}");
    assert!(home.nbd("md8").pread(0, 4 << 20).expect("reads") == data);
    home.umd("stop md8").ok();
    assert_eq!(home.hashes(), before, "nothing was written");
    home.umd("build md8 -l1 -n2 a missing").ok();
    home.nbd("md8")
        .pwrite(0, &pattern(4, 1 << 20))
        .expect("writes");
    home.umd("md8 --add b").ok();
    home.umd("wait md8");
    home.umd("stop md8").ok();
    let read = |name: &str| fs::read(home.path(name)).expect("reads");
    assert!(read("a") == read("b") && read("a")[..1 << 20] == pattern(4, 1 << 20));
    assert!(read("c") == data);
    let text = home.umd("assemble md8 a b").fails(1);
    assert!(text.contains("no md superblock found"), "{text}");
}

#[test]
fn builds_that_make_no_sense_are_refused() {
    let home = Home::new();
    home.umd("create r -l1 -n2 -z 8M a b").ok();
    home.umd("wait r");
    home.umd("stop r").ok();
    fs::write(home.path("c"), vec![1; 3 << 20]).expect("writes");
    fs::write(home.path("d"), vec![1; 5 << 20]).expect("writes");
    fs::write(home.path("e"), vec![1; 6 << 20]).expect("writes");
    let before = home.hashes();
    for (options, code, text) in [
        ("-l5 -n2 a b", 2, "Raid level 5 not permitted with --build."),
        (
            "-l1 -n2 a c",
            1,
            "a has an md superblock: assemble its array, or use --force",
        ),
        ("-l1 -n2 c nix", 1, "No such file or directory"),
        (
            "-l0 -n2 c missing",
            2,
            "raid0 on 2 devices can lack 0, not 1",
        ),
        (
            "-l1 -n2 missing missing",
            2,
            "raid1 on 2 devices can lack 1, not 2",
        ),
        ("-l1 -n2 c c", 2, "is listed more than once"),
        ("-l0 -n3 c d e", 1, "layout"),
    ] {
        let said = home.umd(&format!("build x {options}")).fails(code);
        assert!(said.contains(text), "{options}: {said}");
        assert_eq!(home.hashes(), before, "{options}");
    }
    let dry = home.umd("build x --dry-run -l1 -n2 c missing").ok().out;
    assert!(dry.ends_with("no superblock would be written\n"), "{dry}");
}
