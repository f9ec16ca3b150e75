//! Arrays from creation to stop, and what happens to members that are not what they should be.

mod common;

use common::{Home, eventually, inode, pattern};
use std::fs;
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;

fn open(home: &Home, name: &str) -> fs::File {
    let path = home.path(name);
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("opens")
}

/// Every level: make, write, stop, start, compare.
#[test]
fn every_level_keeps_what_was_written() {
    let home = Home::new();
    for (index, (level, count, extra)) in [
        ("0", 3, ""),
        ("1", 2, "--bitmap internal"),
        ("4", 3, ""),
        ("5", 3, "-e 1.0 --bitmap internal -p ra"),
        ("6", 4, "-e 1.1 -c 4K"),
        ("10", 4, "--bitmap lockless"),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("r{level}");
        let files: Vec<String> = (0..*count).map(|n| format!("{name}-{n}.img")).collect();
        let files = files.join(" ");
        home.umd(&format!(
            "create {name} -l{level} -n{count} --size 12M {extra} {files}"
        ))
        .ok();
        let mut client = home.nbd(&name);
        let data = pattern(index as u64, 3 << 20);
        client.pwrite(MIB + 512, &data).expect("writes");
        client.flush().expect("flushes");
        client.disconnect().expect("leaves");
        home.umd(&format!("stop {name}")).ok();
        home.umd(&format!("assemble {files}")).ok();
        let mut client = home.nbd(&name);
        assert_eq!(
            client.pread(MIB + 512, 3 << 20).expect("reads"),
            data,
            "{name}"
        );
        client.disconnect().expect("leaves");
        home.umd(&format!("stop {name}")).ok();
    }
}

#[test]
fn a_failed_member_is_replaced_and_rebuilt() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 16M -c 64K a.img b.img c.img")
        .ok();
    home.settle("r5");
    let mut client = home.nbd("r5");
    let data = pattern(7, 8 << 20);
    client.pwrite(0, &data).expect("writes");
    home.umd("create other -l1 -n2 --size 16M --assume-clean new.img x.img")
        .ok();
    home.umd("stop other").ok();
    fs::write(
        home.path("d.img"),
        vec![0; fs::metadata(home.path("a.img")).expect("there").len() as usize],
    )
    .expect("writes");

    let ran = home.umd("r5 --fail b.img --remove b.img --add d.img").ok();
    assert_eq!(
        ran.err,
        "umd: set b.img faulty in r5\numd: hot removed b.img from r5\numd: added d.img\n"
    );
    home.settle("r5");
    let array = home.detail("r5");
    assert_eq!(array["degraded"], 0);
    assert_eq!(array["members"][2]["slot"], 1, "{array}");
    assert_eq!(client.pread(0, 8 << 20).expect("reads"), data);
    // The other two are enough to read what the new one holds: its rebuilt data is used.
    home.umd("manage r5 --fail a.img").ok();
    assert_eq!(client.pread(0, 8 << 20).expect("reads"), data);
    assert_eq!(home.umd("detail --test r5").code, 1);
    let refusal = home.umd("manage r5 --fail c.img").fails(1);
    assert!(
        refusal.contains("set device faulty failed for c.img"),
        "{refusal}"
    );
    // A stranger with a superblock is not taken in unasked.
    let refusal = home.umd("manage r5 --add new.img").fails(1);
    assert!(
        refusal.contains("new.img appears to contain an md superblock of array "),
        "{refusal}"
    );
    let text = home.umd("manage r5 --add --dry-run new.img").ok().out;
    assert!(text.contains("new.img to r5"), "{text}");
    assert_eq!(
        home.umd("r5 --remove a.img --add --force new.img")
            .ok()
            .code,
        0
    );
    home.settle("r5");
    assert_eq!(home.detail("r5")["degraded"], 0);
    client.disconnect().expect("leaves");
    home.umd("stop r5").ok();
    home.umd("assemble r5 new.img c.img d.img").ok();
    assert_eq!(home.nbd("r5").pread(0, 8 << 20).expect("reads"), data);
}

#[test]
fn a_vanished_and_a_shrunken_member_are_noticed() {
    let home = Home::new();
    home.umd("create r6 -l6 -n4 --size 8M --assume-clean a b c d")
        .ok();
    fs::remove_file(home.path("b")).expect("removes");
    eventually("the vanished member is failed", || {
        home.detail("r6")["degraded"] == 1
    });
    open(&home, "d").set_len(MIB).expect("shrinks");
    eventually("the shrunken member is failed", || {
        home.detail("r6")["degraded"] == 2
    });
    assert_eq!(home.umd("mdstat").ok().out.matches("(F)").count(), 2);
    home.umd("manage r6 --remove failed").ok();
    assert_eq!(
        home.detail("r6")["members"].as_array().map(Vec::len),
        Some(2)
    );
}

#[test]
fn check_counts_what_repair_mends() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a.img b.img")
        .ok();
    assert_eq!(home.umd("action r1").ok().out, "idle\n");
    home.umd("stop r1").ok();
    let offset = 4 * MIB;
    open(&home, "b.img")
        .write_all_at(&[1; 4096], offset)
        .expect("writes");
    home.umd("assemble r1 a.img b.img").ok();
    home.umd("action r1 check --wait").ok();
    assert_eq!(home.detail("r1")["mismatch_cnt"], 128);
    home.umd("action r1 repair --wait").ok();
    home.umd("action r1 check --wait").ok();
    assert_eq!(home.detail("r1")["mismatch_cnt"], 0);
}

#[test]
fn devices_in_use_are_refused_naming_the_array() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a.img b.img")
        .ok();
    let taken = home.path("a.img");
    let sentence = format!("umd: {} is in use by array r1\n", taken.display());
    assert_eq!(home.umd("assemble again a.img b.img").fails(1), sentence);
    let refusal = home
        .umd("create x -l1 -n2 --force a.img b.img -e 1.2")
        .fails(1);
    assert!(refusal.ends_with(&sentence), "{refusal}");
    for line in ["zero-superblock a.img", "zero-superblock --dry-run a.img"] {
        assert_eq!(
            home.umd(line).fails(1),
            "umd: a.img is a member of the running array r1 - not zeroing: first stop the array \
             (umd stop r1) or take it out (umd manage r1 --fail a.img --remove a.img)\n"
        );
    }
    // Another process of the household is told which array it is, too.
    assert_eq!(home.umd("serve again a.img b.img").fails(1), sentence);
    let refusal = home.umd("create r1 -l1 -n2 --size 8M c.img d.img").fails(1);
    assert!(
        refusal.contains("an array named r1 is running already"),
        "{refusal}"
    );
    assert!(
        !home.path("c.img").exists(),
        "a refused array leaves no files"
    );
}

/// Members that are not what they should be: one clear sentence, exit code 1, not a byte changed.
#[test]
fn bad_members_are_refused_and_left_alone() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 8M --assume-clean a b c")
        .ok();
    home.umd("create o5 -l5 -n3 --size 8M --assume-clean oa ob oc")
        .ok();
    home.umd("stop r5 o5").ok();
    let copy = |from: &str, to: &str| {
        fs::copy(home.path(from), home.path(to)).expect("copies");
    };
    copy("b", "twin");
    copy("b", "short");
    open(&home, "short").set_len(5 * MIB).expect("shrinks");
    copy("b", "badsum");
    open(&home, "badsum")
        .write_all_at(&[0xff], 4096 + 36)
        .expect("writes");
    fs::write(home.path("foreign"), pattern(1, 4 << 20)).expect("writes");
    copy("b", "newer");
    // Unknown feature bit, with the checksum made right.
    let mut bytes = [0; 512];
    let file = open(&home, "newer");
    file.read_exact_at(&mut bytes, 4096).expect("reads");
    bytes[10] |= 0x80;
    bytes[216..220].fill(0);
    let sum: u64 = bytes
        .chunks(4)
        .map(|w| u64::from(u32::from_le_bytes([w[0], w[1], w[2], w[3]])))
        .sum();
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    bytes[216..220].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&bytes, 4096).expect("writes");

    let before = home.hashes();
    for (line, words) in [
        ("assemble r5 a short c", "too small"),
        ("assemble r5 a foreign c", "no md superblock"),
        ("assemble r5 a badsum c", "checksum"),
        ("assemble r5 a newer c", "unknown features"),
        ("assemble r5 a b twin c", "copies of the same member"),
        ("assemble r5 a ob c", "belongs to array"),
        (
            "assemble r5 a",
            "assembled from 1 drive - not enough to start the array",
        ),
        ("assemble r5 a gone c", "cannot open"),
        (
            "assemble r5 a b c --uuid 00000000:00000000:00000000:00000000",
            "no member",
        ),
    ] {
        let ran = home.umd(line);
        assert_eq!(ran.code, 1, "umd {line}: {}", ran.err);
        let last = ran.err.lines().last().expect("a sentence");
        assert!(
            last.starts_with("umd: ") && last.contains(words),
            "umd {line}: {}",
            ran.err
        );
        assert_eq!(home.hashes(), before, "umd {line}");
    }
    home.umd("assemble r5 a b c").ok();
}

#[test]
fn overlays_and_readonly_leave_members_untouched() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 8M --assume-clean a b c")
        .ok();
    home.umd("stop r5").ok();
    let twice = home.umd("assemble r5 a b ./a").fails(1);
    assert!(twice.ends_with("/a is listed more than once\n"), "{twice}");
    let before = home.hashes();
    let text = home
        .umd("assemble r5 --dry-run --overlay over a b c")
        .ok()
        .out;
    assert!(text.contains("writes would go to copy-on-write files in "));
    assert!(!home.path("over").exists(), "a dry run makes nothing");
    let said = home.umd("assemble r5 --overlay over a b c").ok().err;
    let place = home.path("over").display().to_string();
    assert_eq!(
        said.lines().next(),
        Some(&*format!(
            "umd: writes go to copy-on-write files in {place}, the members stay as they are"
        ))
    );
    assert_eq!(home.detail("r5")["overlay"], *place);
    let mut client = home.nbd("r5");
    client.pwrite(0, &pattern(3, 1 << 20)).expect("writes");
    client.flush().expect("flushes");
    client.disconnect().expect("leaves");
    home.umd("stop r5").ok();
    assert_eq!(home.hashes(), before, "writes went to the overlay");
    home.umd("assemble r5 --overlay over a b c").ok();
    assert_eq!(
        home.nbd("r5").pread(0, 1 << 20).expect("reads"),
        pattern(3, 1 << 20)
    );
    home.umd("stop r5").ok();

    home.umd("assemble r5 --readonly a b c").ok();
    assert!(
        home.umd("mdstat")
            .ok()
            .out
            .contains("r5 : active (read-only) raid5 ")
    );
    assert!(home.nbd("r5").pwrite(0, &[0; 512]).is_err());
    let refusal = home.umd("manage r5 --readwrite").fails(1);
    assert!(refusal.contains("started read-only"), "{refusal}");
    home.umd("stop r5").ok();
    assert_eq!(home.hashes(), before);
}

#[test]
fn readonly_and_back() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    home.umd("--readonly r1").ok();
    assert_eq!(home.detail("r1")["array_state"], "readonly");
    assert!(home.nbd("r1").pwrite(0, &[0; 512]).is_err());
    home.umd("r1 --readwrite").ok();
    home.nbd("r1").pwrite(0, &[0; 512]).expect("writes");
}

#[test]
fn create_refuses_what_carries_data_unless_told() {
    let home = Home::new();
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    home.umd("stop r1").ok();
    fs::write(home.path("c"), vec![0; 8 << 20]).expect("writes");
    let before = home.hashes();
    let refusal = home.umd("create r5 -l5 -n3 a b c").fails(1);
    assert!(refusal.contains("umd: "), "{refusal}");
    assert!(
        refusal.contains("a appears to be part of a raid array:"),
        "{refusal}"
    );
    assert!(
        refusal.contains("level=raid1 devices=2 ctime="),
        "{refusal}"
    );
    assert!(refusal.contains("create aborted"), "{refusal}");
    home.umd("create r5 -l5 -n3 a b c --destroy a").fails(1);
    assert_eq!(home.hashes(), before);
    home.umd("create r5 -l5 -n3 a b c --destroy a --destroy b --assume-clean")
        .ok();
    home.umd("stop r5").ok();
    home.umd("zero-superblock a b c").ok();
    home.umd("examine a").fails(1);
}

#[test]
fn spares_wait_and_step_in() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 -x1 --size 8M --assume-clean a b c s")
        .ok();
    assert!(home.umd("mdstat").ok().out.contains(" s[3](S) "));
    home.umd("manage r5 --fail a").ok();
    home.settle("r5");
    let array = home.detail("r5");
    assert_eq!(array["degraded"], 0, "{array}");
    home.umd("stop r5").ok();
    let started = home.umd("assemble r5 b c s").ok();
    assert_eq!(started.err, "umd: r5 has been started with 3 drives.\n");
}

#[test]
fn degraded_arrays_start_and_say_so() {
    let home = Home::new();
    home.umd("create r5 -l5 -n3 --size 8M a missing c").ok();
    assert_eq!(home.detail("r5")["degraded"], 1);
    home.umd("stop r5").ok();
    let started = home.umd("assemble r5 a c").ok();
    assert_eq!(
        started.err,
        "umd: r5 has been started with 2 drives (out of 3).\n"
    );
    home.umd("stop r5").ok();
    home.umd("assemble r5 --no-degraded a c").ok(); // Nothing is missing that was there before.
}

#[test]
fn assemble_scan_starts_every_array_on_the_devices() {
    let home = Home::new();
    home.umd("create one -l1 -n2 --size 8M --assume-clean a b")
        .ok();
    home.umd("create two -l1 -n2 --size 8M --assume-clean c d")
        .ok();
    home.umd("stop --scan").ok();
    fs::write(home.path("empty"), vec![0; 1 << 20]).expect("writes");
    let ran = home.umd("assemble --scan a c b d empty").ok();
    assert_eq!(
        ran.err,
        "umd: one has been started with 2 drives.\numd: two has been started with 2 drives.\n"
    );
    let brief = home.umd("detail --scan").ok().out;
    assert_eq!(brief.lines().count(), 2, "{brief}");
    assert!(
        brief.starts_with("ARRAY /dev/md/one metadata=1.2 name="),
        "{brief}"
    );
}

#[test]
fn members_are_plain_files_of_the_right_size() {
    let home = Home::new();
    fs::write(home.path("there"), vec![0; 9 << 20]).expect("writes");
    let before = inode(&home.path("there"));
    home.umd("create r1 -l1 -n2 --size 8M --assume-clean there new")
        .ok();
    assert_eq!(
        inode(&home.path("there")),
        before,
        "an existing file is used as it is"
    );
    assert_eq!(home.detail("r1")["dev_bytes"], 8 << 20);
}
