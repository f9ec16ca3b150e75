//! Level faulty, from the outside: made, built, started again, shown as mdadm shows it.

mod common;

use common::{Home, pattern};
use std::fs;

#[test]
fn reads_of_an_array_that_is_to_fail_do() {
    let home = Home::new();
    home.umd("create f -l faulty -n1 -p rt3 -z 8M a").ok();
    let mdstat = home.umd("mdstat").ok().out;
    let line = "f : active faulty a[0]\n      8192 blocks super 1.2 ReadTransient=3(3) nfaults=0\n";
    assert!(mdstat.contains(line), "{mdstat}");
    let data = pattern(1, 1 << 20);
    let mut nbd = home.nbd("f");
    nbd.pwrite(0, &data).expect("writes work");
    for _ in 0..2 {
        for _ in 0..2 {
            assert!(nbd.pread(0, 1 << 20).expect("two work") == data);
        }
        let error = nbd.pread(0, 4096).expect_err("the third does not");
        assert!(format!("{error:?}").contains('5'), "EIO: {error:?}");
    }
    let detail = home.detail("f");
    assert_eq!(detail["level"], "faulty");
    assert_eq!(detail["consistency_policy"], "none");
    assert_eq!(detail["faulty"]["modes"][0]["mode"], "read-transient");
    assert_eq!(detail["faulty"]["modes"][0]["period"], 3);
    assert_eq!(detail["members"][0]["state"], "in_sync");
    let shown = home.umd("detail f").ok().out;
    for line in [
        "Raid Level : faulty\n",
        "State : clean \n",
        "Consistency Policy : none\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    // mdadm has no words for these.
    for line in ["Layout", "Chunk Size", "Used Dev Size"] {
        assert!(!shown.contains(line), "{line}: {shown}");
    }
    drop(nbd);
    home.umd("stop f").ok();
    let examined = home.umd("examine a").ok().out;
    assert!(examined.contains("Raid Level : faulty\n"), "{examined}");
    for line in ["Layout", "Chunk Size", "Array Size", "Used Dev Size"] {
        assert!(!examined.contains(line), "{line}: {examined}");
    }
    home.umd("assemble f a").ok();
    assert_eq!(home.detail("f")["faulty"]["modes"][0]["left"], 3);
    home.umd("stop f").ok();
}

#[test]
fn one_that_is_built_leaves_its_device_as_it_is() {
    let home = Home::new();
    let data = pattern(3, 4 << 20);
    fs::write(home.path("a"), &data).expect("writes");
    home.umd("build f -l faulty -n1 -p wa a").ok();
    let mdstat = home.umd("mdstat").ok().out;
    let line = "      4096 blocks super non-persistent WriteAll nfaults=0\n";
    assert!(mdstat.contains(line), "{mdstat}");
    let mut nbd = home.nbd("f");
    nbd.pwrite(0, &pattern(4, 4096))
        .expect_err("no write works");
    assert!(nbd.pread(0, 4 << 20).expect("reads work") == data);
    drop(nbd);
    home.umd("stop f").ok();
    assert!(fs::read(home.path("a")).expect("reads") == data);
    home.umd("build f -l faulty -n1 -p wp2 a").ok();
    let mut nbd = home.nbd("f");
    nbd.pwrite(0, &pattern(4, 4096)).expect("the first works");
    nbd.pwrite(0, &pattern(4, 4096))
        .expect_err("the second does not");
    nbd.pwrite(0, &pattern(4, 4096)).expect_err("nor the place");
    drop(nbd);
    assert_eq!(home.detail("f")["faulty"]["places"], 1);
    home.umd("stop f").ok();
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    let home = Home::new();
    for name in ["a", "b"] {
        fs::write(home.path(name), vec![0; 8 << 20]).expect("writes");
    }
    let before = home.hashes();
    for (line, text) in [
        ("create f -l faulty -n2 a b", "faulty needs 1 device, not 2"),
        ("build f -l faulty -n2 a b", "faulty needs 1 device, not 2"),
        (
            "create f -l faulty -n1 -x1 a b",
            "faulty has no use for spares",
        ),
        ("create f -l faulty -n1 missing", "can lack 0"),
    ] {
        let ran = home.umd(line);
        assert!(ran.code != 0, "{line}");
        assert!(ran.err.contains(text), "{line}: {}", ran.err);
        assert_eq!(home.hashes(), before, "{line}");
    }
}

#[test]
fn its_modes_are_changed_while_it_serves() {
    let home = Home::new();
    home.umd("create f -l faulty -n1 -p rt4 -z 8M a").ok();
    let mut nbd = home.nbd("f");
    nbd.pwrite(0, &pattern(1, 8192)).expect("writes work");
    let before = home.hashes();
    let would = home.umd("grow f --layout=wt3 --dry-run").ok().out;
    assert!(
        would.contains("would set the layout of f to write-transient3"),
        "{would}"
    );
    let line = || {
        let mdstat = home.umd("mdstat").ok().out;
        let line = mdstat.lines().find(|line| line.contains("nfaults"));
        line.expect("a line of its own").trim().to_owned()
    };
    assert_eq!(line(), "8192 blocks super 1.2 ReadTransient=4(4) nfaults=0");
    let ran = home.umd("grow f --layout=wt3").ok();
    assert_eq!(ran.err, "umd: layout for f set to write-transient3\n");
    let two = "8192 blocks super 1.2 WriteTransient=3(3) ReadTransient=4(4) nfaults=0";
    assert_eq!(line(), two);
    // As mdadm is asked: `mdadm --grow /dev/md0 -l faulty -p MODE`.
    let ran = home.umd("--grow f -l faulty -p rp --json").ok();
    let modes = &ran.json()["faulty"]["modes"];
    assert_eq!(modes[2]["mode"], "read-persistent");
    nbd.pread(4096, 4096).expect_err("that is bad now");
    assert_eq!(home.detail("f")["faulty"]["places"], 1);
    home.umd("grow f -p clear").ok();
    assert_eq!(line(), "8192 blocks super 1.2 nfaults=1");
    nbd.pread(4096, 4096).expect_err("and stays so");
    nbd.pread(0, 4096).expect("the rest works");
    home.umd("grow f -p flush").ok();
    let data = nbd.pread(4096, 4096).expect("forgotten");
    assert!(data == pattern(1, 8192)[4096..]);
    home.umd("grow f -p wa").ok();
    assert_eq!(line(), "8192 blocks super 1.2 WriteAll nfaults=0");
    nbd.pwrite(0, &pattern(2, 4096))
        .expect_err("no write works");
    home.umd("grow f -p none").ok();
    assert_eq!(home.hashes(), before, "nothing of this is recorded");
    nbd.pwrite(0, &pattern(2, 4096)).expect("writes work again");
    drop(nbd);
    home.umd("stop f").ok();
    home.umd("assemble f a").ok();
    assert_eq!(line(), "8192 blocks super 1.2 ReadTransient=4(4) nfaults=0");
    home.umd("stop f").ok();
}

#[test]
fn modes_that_there_are_not_are_refused_and_so_are_other_levels() {
    let home = Home::new();
    home.umd("create f -l faulty -n1 -p rt4 -z 8M a").ok();
    home.umd("create m -l1 -n2 -z 8M --assume-clean b c").ok();
    let before = (home.detail("f"), home.hashes());
    for (line, code, text) in [
        (
            "grow f -l faulty -p zz",
            2,
            "umd: layout zz not understood for faulty.\n",
        ),
        ("grow f -l faulty", 2, "how is it to fail from now on?"),
        ("grow f -p rt3 --bitmap=none", 2, "cannot be given together"),
        (
            "grow f -l raid1 -p rt3",
            2,
            "layout rt3 not understood for raid1",
        ),
        ("grow f -p ls", 2, "layout ls not understood for faulty"),
        ("grow m -p ls", 2, "layout ls not understood for raid1"),
        (
            "grow m -l faulty -p rt3",
            1,
            "umd: cannot change the layout of m: raid1 does not fail on purpose\n",
        ),
        (
            "grow m -p rt3 --dry-run",
            1,
            "raid1 does not fail on purpose",
        ),
        (
            "grow x -p rt3",
            1,
            "x does not appear to be an active array",
        ),
    ] {
        let said = home.umd(line).fails(code);
        assert!(said.contains(text), "{line}: {said}");
    }
    assert_eq!((home.detail("f"), home.hashes()), before);
}
