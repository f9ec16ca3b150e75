//! What is changed on running arrays besides who their members are: what is said, shown, refused.

mod common;

use common::Home;

fn refused(home: &Home, lines: &[(&str, i32, &str)]) {
    for (line, code, words) in lines {
        let refusal = home.umd(line).fails(*code);
        assert!(refusal.contains(words), "{line}: {refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
    }
}

#[test]
fn flags_of_members_are_switched_while_they_serve() {
    let home = Home::new();
    let line = "create r1 -l1 -n3 --size 8M --assume-clean --bitmap=internal --write-behind=8";
    home.umd(&format!(
        "{line} a.img --failfast b.img --write-mostly c.img"
    ))
    .ok();
    let flags = |home: &Home| -> Vec<(bool, bool)> {
        let array = home.detail("r1");
        let members = array["members"].as_array().expect("members").clone();
        let one = |m: &serde_json::Value| (m["write_mostly"] == true, m["failfast"] == true);
        members.iter().map(one).collect()
    };
    assert_eq!(flags(&home), [(false, false), (false, true), (true, true)]);
    let detail = home.umd("detail r1").ok().out;
    assert!(detail.contains("active sync failfast   /"), "{detail}");
    assert!(
        detail.contains("active sync writemostly failfast   /"),
        "{detail}"
    );
    let ran = home
        .umd("r1 --write-mostly a.img --nofailfast --readwrite b.img c.img")
        .ok();
    assert_eq!(
        ran.err,
        "umd: set a.img write-mostly in r1\numd: set b.img readwrite, nofailfast in r1\n\
         umd: set c.img readwrite, nofailfast in r1\n"
    );
    let switched = [(true, false), (false, false), (false, false)];
    assert_eq!(flags(&home), switched);
    let examined = home.umd("examine a.img").ok().out;
    assert!(examined.contains("Flags : write-mostly\n"), "{examined}");
    assert!(!home.umd("examine c.img").ok().out.contains("Flags :"));
    assert!(home.umd("mdstat").ok().out.contains("a.img[0](W)"));
    home.umd("stop r1").ok();
    home.umd("assemble r1 a.img b.img c.img").ok();
    assert_eq!(flags(&home), switched);
    // Who is taken back has the flags it had, but for those that are named.
    home.umd("r1 --fail a.img --remove a.img --re-add --failfast a.img")
        .ok();
    home.settle("r1");
    assert_eq!(flags(&home), [(false, false), (false, false), (true, true)]);
}

#[test]
fn flags_that_make_no_sense_are_refused_in_a_sentence() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a.img b.img")
        .ok();
    let before = home.detail("r1")["members"].clone();
    refused(
        &home,
        &[
            (
                "r1 --write-mostly x.img",
                1,
                "write-mostly: it is not a member",
            ),
            ("r1 --failfast", 2, "nothing to do for r1"),
            (
                "manage r1 b.img --failfast",
                2,
                "b.img: say what to do with it, such as --add",
            ),
        ],
    );
    let would = home.umd("r1 --failfast b.img --dry-run").ok().out;
    assert!(
        would.contains("b.img failfast in r1\n") && would.contains("superblock of"),
        "{would}"
    );
    assert_eq!(home.detail("r1")["members"], before);
    home.umd("r1 --readonly").ok();
    refused(
        &home,
        &[("r1 --failfast b.img", 1, "the array is read-only")],
    );
    home.umd("r1 --readwrite").ok();
    assert_eq!(home.detail("r1")["array_state"], "clean");
    home.umd("r1 --fail b.img").ok();
    refused(&home, &[("r1 --failfast b.img", 1, "b.img is faulty")]);
    // Where members are no copies of each other it is said that flags are of no use.
    home.umd("create r5 -l5 -n3 --size 8M c.img d.img e.img")
        .ok();
    let ran = home.umd("r5 --failfast c.img").ok();
    assert!(
        ran.err
            .ends_with("r5 is a raid5: its members are treated alike, flags or not\n"),
        "{}",
        ran.err
    );
}

#[test]
fn a_bitmap_is_removed_and_added_while_the_array_serves() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 16M -c 64K --bitmap=internal a.img b.img c.img")
        .ok();
    home.settle("r5");
    let mut client = home.nbd("r5");
    let data = common::pattern(3, 4 << 20);
    client.pwrite(0, &data).expect("writes");
    let would = home.umd("grow r5 --bitmap=none --dry-run").ok().out;
    assert!(would.contains("would remove the bitmap of r5\n"), "{would}");
    let ran = home.umd("--grow r5 --bitmap=none").ok();
    assert_eq!(ran.err, "umd: removed the bitmap of r5\n");
    assert!(home.detail("r5")["bitmap"].is_null());
    let examined = home.umd("examine b.img").ok().out;
    assert!(examined.contains("Feature Map : 0x0\n"), "{examined}");
    client.pwrite(1 << 20, &data).expect("writes on");
    refused(
        &home,
        &[(
            "grow r5 --bitmap=none",
            1,
            "cannot remove the bitmap of r5: the array has no bitmap",
        )],
    );
    let ran = home
        .umd("grow r5 --bitmap=internal --bitmap-chunk=64K")
        .ok();
    assert_eq!(ran.err, "umd: added a bitmap to r5\n");
    assert_eq!(home.detail("r5")["bitmap"]["kind"], "internal");
    let shown = home.umd("examine --bitmap c.img").ok().out;
    assert!(shown.contains("Chunksize : 64 KB"), "{shown}");
    refused(
        &home,
        &[(
            "grow r5 --bitmap=internal",
            1,
            "cannot add a bitmap to r5: the array has a bitmap already",
        )],
    );
    client.pwrite(2 << 20, &data).expect("writes on");
    client.disconnect().expect("leaves");
    home.umd("stop r5").ok();
    home.umd("assemble r5 a.img b.img c.img").ok();
    assert_eq!(home.detail("r5")["bitmap"]["kind"], "internal");
    let mut client = home.nbd("r5");
    assert!(client.pread(2 << 20, 4 << 20).expect("reads") == data);
    // It tells what a member missed.
    home.umd("r5 --fail b.img --remove b.img --re-add b.img")
        .ok();
    home.settle("r5");
    home.umd("action r5 check --wait").ok();
    assert_eq!(home.detail("r5")["mismatch_cnt"], 0);
    // Nothing for it to tell.
    home.umd("create r0 -l0 -n2 --size 8M d.img e.img").ok();
    refused(
        &home,
        &[("grow r0 --bitmap=internal", 1, "has no redundancy")],
    );
}

#[test]
fn a_bitmap_file_is_let_go_and_an_internal_one_takes_its_place() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean --bitmap=./bits a.img b.img")
        .ok();
    home.umd("grow r1 --bitmap=none").ok();
    home.umd("grow r1 --bitmap=internal").ok();
    assert_eq!(home.detail("r1")["bitmap"]["kind"], "internal");
    home.umd("stop r1").ok();
    let refusal = home.umd("assemble r1 --bitmap=./bits a.img b.img").fails(1);
    assert!(refusal.contains("bitmap"), "{refusal}");
    home.umd("assemble r1 a.img b.img").ok();
}
