//! `umd manage --replace`: what is said, what is shown, what is refused.

mod common;

use common::{Home, pattern};
use std::fs;

const MIB: u64 = 1 << 20;

fn blank(home: &Home, name: &str) {
    let len = fs::metadata(home.path("a.img")).expect("there").len();
    fs::write(home.path(name), vec![0; len as usize]).expect("writes");
}

#[test]
fn a_member_is_replaced_while_it_serves() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 16M -c 64K a.img b.img c.img")
        .ok();
    home.settle("r5");
    let mut client = home.nbd("r5");
    let data = pattern(7, 8 << 20);
    client.pwrite(0, &data).expect("writes");
    blank(&home, "d.img");
    blank(&home, "e.img");
    home.umd("manage r5 --add e.img d.img").ok();
    home.umd("action r5 --to=8192s").ok();
    let ran = home.umd("manage r5 --replace b.img --with d.img").ok();
    assert_eq!(
        ran.err,
        "umd: Marked b.img (device 1 in r5) for replacement\n\
         umd: Marked d.img in r5 as replacement for device 1\n"
    );
    common::eventually("it is half filled", || {
        home.detail("r5")["sync"]["held"] == true
    });
    let array = home.detail("r5");
    assert_eq!(array["degraded"], 0, "{array}");
    assert_eq!(array["members"][1]["want_replacement"], true, "{array}");
    assert_eq!(array["members"][4]["replacement"], true, "{array}");
    assert_eq!(array["members"][4]["recovered_bytes"], 8192 * 512);
    let mdstat = home.umd("mdstat").ok().out;
    let line = "r5 : active raid5 d.img[4](R) e.img[3](S) c.img[2] b.img[1] a.img[0]";
    assert!(mdstat.contains(line), "{mdstat}");
    let detail = home.umd("detail r5").ok().out;
    let words: Vec<&str> = detail.split_whitespace().collect();
    assert!(words.join(" ").contains("1 spare rebuilding"), "{detail}");
    // What is written now is on both; and another time is one too many.
    let late = pattern(8, MIB as usize);
    client.pwrite(5 * MIB + 512, &late).expect("writes");
    let refusal = home.umd("manage r5 --replace b.img").fails(2);
    assert!(refusal.contains("being replaced by "), "{refusal}");
    // A stop on the way, and on from there.
    client.flush().expect("flushes");
    client.disconnect().expect("leaves");
    home.umd("stop r5").ok();
    home.umd("assemble r5 a.img b.img c.img d.img e.img").ok();
    home.settle("r5");
    let array = home.detail("r5");
    let state = |name: &str| {
        let members = array["members"].as_array().expect("members");
        let ends = |m: &&serde_json::Value| m["path"].as_str().is_some_and(|p| p.ends_with(name));
        let found = members.iter().find(ends).expect("a member");
        found["state"].as_str().expect("a word").to_owned()
    };
    assert_eq!(
        (state("b.img"), state("d.img")),
        ("faulty".into(), "in_sync".into())
    );
    assert_eq!(state("e.img"), "spare");
    // Without the first member what the new one holds is needed.
    home.umd("manage r5 --remove e.img --fail a.img").ok();
    let mut client = home.nbd("r5");
    let mut expected = data;
    expected[5 * MIB as usize + 512..][..late.len()].copy_from_slice(&late);
    assert!(client.pread(0, 8 << 20).expect("reads") == expected);
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a.img b.img")
        .ok();
    let before = home.detail("r1");
    for (line, words) in [
        ("manage r1 --replace x.img", "it is not a member"),
        ("manage r1 --replace b.img --with a.img", "is not a spare"),
        (
            "manage r1 --replace b.img --with x.img",
            "it is not a member",
        ),
        (
            "manage r1 --with a.img",
            "no matching --replace device for --with a.img",
        ),
        ("manage r1 --replace", "name a device behind it"),
    ] {
        let refusal = home.umd(line).fails(2);
        assert!(refusal.contains(words), "{line}: {refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
    }
    assert_eq!(home.detail("r1")["members"], before["members"]);
    let would = home.umd("manage r1 --replace b.img --dry-run").ok().out;
    assert!(would.contains("b.img by a spare in r1"), "{would}");
    assert_eq!(home.detail("r1")["members"], before["members"]);
    home.umd("create r0 -l0 -n2 --size 8M c.img d.img").ok();
    let refusal = home.umd("manage r0 --replace d.img").fails(2);
    assert!(refusal.contains("has no redundancy"), "{refusal}");
    home.umd("create old -l1 -n2 -e 0.90 --size 8M --assume-clean o.img p.img")
        .ok();
    let refusal = home.umd("manage old --replace p.img").fails(2);
    assert!(
        refusal.contains("metadata 0.90 cannot record a replacement"),
        "{refusal}"
    );
    // Without a spare it waits for one.
    let ran = home.umd("manage r1 --replace b.img").ok();
    let waits = "umd: r1 has no spare: the replacement begins when one is added\n";
    assert!(ran.err.ends_with(waits), "{}", ran.err);
    assert_eq!(home.detail("r1")["members"][1]["want_replacement"], true);
}
