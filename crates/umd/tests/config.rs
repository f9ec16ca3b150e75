//! Arrays by a configuration file: `assemble --scan`, `assemble NAME`, `examine --scan`.

mod common;

use common::Home;
use std::fs;

/// Two arrays of three and two members, stopped; their UUIDs.
fn two(home: &Home) -> (String, String) {
    home.umd("create r5 -l5 -n3 -z 2M --homehost=nas --assume-clean a.img b.img c.img")
        .ok();
    home.umd("create m1 -l1 -n2 -x1 -z 2M --homehost=nas --assume-clean d.img e.img f.img")
        .ok();
    let uuid = |name: &str| home.detail(name)["uuid"].as_str().expect("uuid").to_owned();
    let uuids = (uuid("r5"), uuid("m1"));
    home.umd("stop --scan").ok();
    uuids
}

fn conf(home: &Home, text: &str) {
    let dir = home.path("").display().to_string();
    let dir = dir.trim_end_matches('/');
    fs::write(home.path("conf"), text.replace("DIR", dir)).expect("writes");
}

fn running(home: &Home) -> Vec<String> {
    let document = home.umd("detail --scan --json").ok().json();
    let arrays = document["arrays"].as_array().expect("arrays").clone();
    let names = arrays
        .iter()
        .map(|one| one["name"].as_str().expect("a name"));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn what_detail_scan_prints_is_assembled_again() {
    let home = Home::new();
    two(&home);
    let all = "a.img b.img c.img d.img e.img f.img";
    home.umd(&format!("assemble --scan {all}")).ok();
    let lines = home.umd("detail --scan").ok().out;
    home.umd("stop --scan").ok();
    conf(&home, &format!("DEVICE DIR/*.img\nAUTO -all\n{lines}"));
    let ran = home.umd("assemble --scan --config conf").ok();
    assert!(
        ran.err.contains("r5 has been started with 3 drives."),
        "{}",
        ran.err
    );
    assert!(
        ran.err
            .contains("m1 has been started with 2 drives and 1 spare."),
        "{}",
        ran.err
    );
    assert_eq!(running(&home), ["m1", "r5"]);
    // Again: they run already, and nothing is said or done.
    let again = home.umd("-As -c conf").ok();
    assert_eq!(again.err, "");
    home.umd("stop --scan").ok();
    // What examine says is as good.
    let lines = home.umd("examine --scan -c conf").ok().out;
    conf(&home, &format!("DEVICE DIR/*.img\nAUTO -all\n{lines}"));
    home.umd("assemble --scan --config conf").ok();
    assert_eq!(running(&home), ["m1", "r5"]);
}

#[test]
fn a_line_names_its_array_and_auto_decides_about_the_rest() {
    let home = Home::new();
    let (r5, m1) = two(&home);
    conf(
        &home,
        &format!("DEVICE DIR/*.img\nHOMEHOST nas\nARRAY data uuid={r5}\n"),
    );
    home.umd("assemble --scan -c conf").ok();
    assert_eq!(running(&home), ["data", "m1"]);
    home.umd("stop --scan").ok();
    conf(
        &home,
        &format!("DEVICE DIR/*.img\nHOMEHOST nas\nAUTO homehost -all\nARRAY <ignore> uuid={r5}\n"),
    );
    home.umd("assemble --scan -c conf").ok();
    assert_eq!(running(&home), ["m1"]);
    home.umd("stop --scan").ok();
    conf(
        &home,
        "DEVICE DIR/*.img\nHOMEHOST elsewhere\nAUTO homehost -all\n",
    );
    let error = home.umd("assemble --scan -c conf").fails(1);
    assert_eq!(
        error,
        "umd: No arrays found in config file or automatically\n"
    );
    // One by its name: the others are left alone.
    conf(
        &home,
        &format!(
            "DEVICE DIR/*.img\nARRAY /dev/md/x uuid={m1}\nARRAY y name=r5 level=5\nHOMEHOST nas\n"
        ),
    );
    home.umd("assemble /dev/md/x -c conf").ok();
    assert_eq!(running(&home), ["x"]);
    home.umd("assemble y -c conf").ok();
    assert_eq!(running(&home), ["x", "y"]);
    let error = home.umd("assemble z -c conf").fails(1);
    assert!(
        error.starts_with("umd: z not identified in config file"),
        "{error}"
    );
    home.umd("stop --scan").ok();
    home.umd(&format!("assemble q --uuid={r5} -c conf")).ok();
    assert_eq!(running(&home), ["q"]);
}

#[test]
fn a_taken_name_gives_way_to_the_uuid_and_never_to_a_counter() {
    let home = Home::new();
    let (_, m1) = two(&home);
    home.umd("create other -N elsewhere:r5 -l1 -n2 -z 1M --assume-clean x.img y.img")
        .ok();
    let other = home.detail("other")["uuid"]
        .as_str()
        .expect("uuid")
        .to_owned();
    home.umd("stop --scan").ok();
    conf(
        &home,
        &format!("DEVICE DIR/*.img\nHOMEHOST nas\nARRAY <ignore> uuid={m1}\nARRAY r5 name=r5\n"),
    );
    home.umd("assemble --scan -c conf").ok();
    let mut expected = vec!["r5".to_owned(), other.replace(':', "")];
    expected.sort();
    assert_eq!(running(&home), expected);
}

#[test]
fn mistakes_are_named_with_their_place_and_the_rest_counts() {
    let home = Home::new();
    let (r5, _) = two(&home);
    let before = home.hashes();
    conf(
        &home,
        &format!(
            "BOGUS\nDEVICE DIR/*.img\nAUTO -all\nARRAY r5 uuid={r5} zork=1\n\
             ARRAY none uuid=00000001:00000002:00000003:00000004\n"
        ),
    );
    let error = home.umd("assemble --scan -c conf --dry-run").fails(2);
    for line in [
        "umd: conf:1: Unknown keyword BOGUS",
        "umd: conf:4: unrecognised word on ARRAY line: zork=1",
        "umd: no devices found for none",
    ] {
        assert!(error.lines().any(|one| one == line), "{error}");
    }
    let mut after = home.hashes();
    after.remove("conf");
    assert_eq!(after, before);
    let error = home.umd("assemble --scan -c conf").fails(2);
    assert!(
        error.contains("r5 has been started with 3 drives."),
        "{error}"
    );
    let error = home.umd("assemble --scan -c nowhere").fails(1);
    assert_eq!(
        error,
        "umd: cannot read nowhere: No such file or directory\n"
    );
    // Two arrays fit one line: neither is started.
    conf(
        &home,
        "DEVICE DIR/*.img\nARRAY x metadata=1.2 devices=DIR/c.img,DIR/d.img\n",
    );
    home.umd("stop --scan").ok();
    let error = home.umd("assemble x -c conf").fails(1);
    assert!(error.contains("this ARRAY line fits the arrays"), "{error}");
    assert_eq!(running(&home), Vec::<String>::new());
}

#[test]
fn a_directory_of_files_is_read_in_order() {
    let home = Home::new();
    two(&home);
    fs::create_dir(home.path("d")).expect("makes");
    let dir = home.path("");
    let first = format!("DEVICE {}*.img\nAUTO -all\n", dir.display());
    fs::write(home.path("d/10.conf"), first).expect("writes");
    fs::write(home.path("d/20.conf"), "HOMEHOST nas\nARRAY r name=m1\n").expect("writes");
    fs::write(home.path("d/30.txt"), "BOGUS\n").expect("writes");
    let ran = home.umd("assemble --scan -c d").ok();
    assert!(!ran.err.contains("BOGUS"), "{}", ran.err);
    assert_eq!(running(&home), ["r"]);
}

/// Version, stored name, and whether there is room for bad blocks.
fn examined(home: &Home, image: &str) -> (String, String, bool) {
    let document = home.umd(&format!("examine --json {image}")).ok().json();
    let device = &document["devices"][0]["superblock"];
    let text = |key: &str| device[key].as_str().expect("text").to_owned();
    let log = &device["bad_block_log_offset_sectors"];
    (text("metadata"), text("set_name"), !log.is_null())
}

#[test]
fn create_and_homehost_say_what_new_arrays_get() {
    let home = Home::new();
    let line = "owner=root group=disk mode=0660 auto=yes symlinks=no names=yes";
    let lines = format!("CREATE {line} metadata=1.0 bbl=no\nHOMEHOST nas\nHOMECLUSTER rack\n");
    conf(&home, &lines);
    let make = "create r1 -l1 -n2 -z 2M --assume-clean a.img b.img";
    let plan = home
        .umd(&format!("{make} --dry-run --config conf"))
        .ok()
        .out;
    assert!(plan.contains("1.0"), "{plan}");
    let ran = home.umd(&format!("{make} --config conf")).ok();
    assert!(!ran.err.contains("Defaulting"), "{}", ran.err);
    assert!(
        !ran.err.contains("conf:"),
        "nothing to complain of: {}",
        ran.err
    );
    let as_said = ("1.0".to_owned(), "nas:r1".to_owned(), false);
    assert_eq!(examined(&home, "a.img"), as_said);
    // Who says otherwise is right.
    let other = "create r2 -l1 -n2 -z 2M -e 1.1 --bbl yes --homehost=x --assume-clean c.img d.img";
    home.umd(&format!("{other} --config conf")).ok();
    let asked_for = ("1.1".to_owned(), "x:r2".to_owned(), true);
    assert_eq!(examined(&home, "c.img"), asked_for);
    // Nonsense is named and left out; no file is read twice.
    conf(
        &home,
        "CREATE metadata=7 colour=red\nHOMEHOST <ignore> shelf\n",
    );
    let ran = home
        .umd("create r3 -l1 -n2 -z 2M --assume-clean e.img f.img --config conf")
        .ok();
    for said in [
        "conf:1: metadata format 7 unknown, ignoring",
        "conf:1: unrecognised word on CREATE line: colour=red",
        "Defaulting to version 1.2 metadata",
    ] {
        assert!(ran.err.contains(said), "{}", ran.err);
    }
    let found = examined(&home, "e.img");
    assert_eq!(found, ("1.2".to_owned(), "shelf:r3".to_owned(), true));
    let failed = home
        .umd("create r4 -l1 -n2 -z 2M g.img h.img --config nowhere")
        .fails(1);
    assert!(failed.contains("cannot read nowhere"), "{failed}");
    assert!(!home.path("g.img").exists(), "nothing was made");
}

#[test]
fn create_says_whether_new_members_get_a_bad_block_log() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 -z 2M --assume-clean a.img b.img")
        .ok();
    conf(&home, "CREATE bbl=no\n");
    for name in ["c.img", "d.img", "e.img"] {
        let file = fs::File::create(home.path(name)).expect("made");
        file.set_len(8 << 20).expect("sized");
    }
    home.umd("manage r1 --add c.img --config conf").ok();
    home.umd("manage r1 --add d.img").ok();
    assert!(!examined(&home, "c.img").2, "CREATE bbl=no");
    assert!(examined(&home, "d.img").2 && examined(&home, "a.img").2);
    // One without a log takes the place of one that has it, and is as good.
    home.umd("manage r1 --fail a.img --remove a.img").ok();
    home.settle("r1");
    assert!(!examined(&home, "c.img").2);
    home.umd("manage r1 --fail b.img").ok();
    let mut client = home.nbd("r1");
    client.pwrite(0, &[9; 4096]).expect("writes");
    client.flush().expect("flushes");
}
